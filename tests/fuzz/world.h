/*
 * xmmu fuzz: the guest's physical world
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the guest memory that the fuzzer plays with: where RAM, ROM and holes
 * are, the pages whose contents matter ("pool" pages, which serve as page
 * tables of every level and as data), what each of their words held and until
 * when, and a single-threaded RCU.  Time is a counter of writes and flushes.
 *
 * The world keeps its own copy of the pool: what the core writes into guest
 * memory (accessed and dirty flags) is compared with it.
 */
#ifndef XMMU_FUZZ_WORLD_H
#define XMMU_FUZZ_WORLD_H

#include <stdio.h>

#include "../../accel/xmmu/mmu/mmu.h"
#include "ref_mmu.h"

/* Where decisions come from: a fuzzer's bytes, or a generator. */
typedef struct Source {
    const uint8_t *data, *end;  /* when data != NULL */
    uint64_t state;
    FILE *record;               /* of a generator: the bytes that would say the same */
} Source;

bool source_dry(const Source *s);
uint64_t source_bits(Source *s, unsigned bits);
/* 0 .. n-1 */
unsigned source_below(Source *s, unsigned n);
bool source_percent(Source *s, unsigned percent);

/* Parts of the memory layout that come and go. */
enum {
    LAYOUT_REMAP    = 1 << 0,   /* some pages of RAM lie elsewhere */
    LAYOUT_ROM_RAM  = 1 << 1,   /* the ROM is writable */
    LAYOUT_GAP      = 1 << 2,   /* a hole in the second 2 MiB of RAM */
    LAYOUT_NO_1G    = 1 << 3,   /* the page-sized gigabyte is gone */
    LAYOUT_ALL      = 15,
};

#define POOL_PAGES      80
#define WORD_HISTORY    8
#define MAX_SPANS       12

typedef struct PoolPage {
    gpa_t gpa;                  /* where it usually is */
    uint8_t *mem;
} PoolPage;

typedef struct WordHistory {
    uint64_t world;             /* valid for this world only */
    uint64_t lost_until;        /* values that no longer fit lasted until this */
    uint64_t since;             /* when the value of now was stored */
    unsigned n;
    struct {
        uint64_t value, since, until;
    } old[WORD_HISTORY];
} WordHistory;

/* When a vCPU may have loaded what it uses: [from, to), oldest first. */
typedef struct Spans {
    unsigned n;
    struct {
        uint64_t from, to;
    } span[MAX_SPANS];
} Spans;

typedef struct World {
    uint64_t id, now;
    unsigned layout[XMMU_AS_COUNT];
    XmmuRegion regions[XMMU_AS_COUNT][16];
    size_t region_count[XMMU_AS_COUNT];
    PoolPage pool[POOL_PAGES];
    uint64_t copy[POOL_PAGES][512];
    WordHistory (*history)[512];
    bool holes_alive;           /* reads of holes give entries, not all ones */
    uint64_t hole_seed;
    unsigned large_percent;     /* of entries that are large pages */
    bool tidy;                  /* a page is a table of one level only; by the caller */
    unsigned few_readonly;      /* mask: one entry in few_readonly + 1 has R/W = 0 */
    unsigned few_keys;          /* mask: one entry in few_keys + 1 has a key */
} World;

/* The memory is allocated once per process and re-used. */
void world_init_process(void);
/* @seed fills the pool; @alive: see World.holes_alive. */
void world_start(World *w, uint64_t seed, bool holes_alive);
void world_set_layout(World *w, unsigned as_id, unsigned layout);

/* NULL when no RAM or ROM is there. */
uint8_t *world_host(const World *w, unsigned as_id, gpa_t gpa, bool *writable);
/* Which pool page @mem lies in, or -1. */
int world_pool_index(const World *w, const uint8_t *mem);
/* Another address of the same memory, if there is one. */
gpa_t world_alias(gpa_t gpa);
uint64_t world_bus(const World *w, unsigned as_id, gpa_t gpa, unsigned size);

/* Store through @mem (in the pool, inside one page), noting what was there. */
void world_store(World *w, uint8_t *mem, const void *data, unsigned size);
/* Values of a table entry, for the reference: that of now, and those that were there
 * at some time in @spans. */
unsigned world_values(World *w, unsigned as_id, gpa_t gpa, unsigned size,
                      const Spans *spans, RefValue *out, bool *lost);
/* The core is expected to have set @bits in the entry at @mem. */
void world_expect_set(World *w, uint8_t *mem, unsigned size, uint64_t bits);
/* The core may have set accessed and dirty flags anywhere. */
void world_absorb_flags(World *w);
uint64_t world_expected(const World *w, const uint8_t *mem, unsigned size);
/* First pool word that is not as expected, or NULL. */
const uint8_t *world_differs(const World *w);

/* A page to be the root of @levels, one of @n. */
unsigned world_root(const World *w, Source *s, unsigned levels, unsigned n);
/* A plausible table entry of 8 bytes. */
uint64_t world_entry(const World *w, Source *s);
/* The same, or what is at @mem with other flags: rights, A, D, G, key. */
uint64_t world_changed_entry(const World *w, Source *s, const uint8_t *mem);
/* Indices that tables are filled at, so that walks meet. */
unsigned world_index(Source *s);

/* Single-threaded RCU. */
void world_rcu_lock(void);
void world_rcu_unlock(void);
void world_rcu_call(XmmuRcuHead *head, void (*fn)(XmmuRcuHead *head));
unsigned world_rcu_depth(void);
/* Run what waits; nobody is in a read section. */
void world_rcu_run(void);

#endif
