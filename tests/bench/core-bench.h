/*
 * xmmu: benchmarks of the core: what an item is
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * An item is one mechanism, timed alone.  Each core-bench-*.c offers a list of them;
 * core-bench.c runs and reports.  What an item does is checked by the core's own
 * counters (CoreItem.counts), so that a time is never that of something else.
 */
#ifndef XMMU_BENCH_CORE_BENCH_H
#define XMMU_BENCH_CORE_BENCH_H

#include "../unit/fixture.h"

#define BENCH_PROCESSES 8
#define BENCH_THREADS   2

typedef struct CoreItem CoreItem;

/* One item's world, for one round. */
typedef struct Bench {
    const CoreItem *item;
    Fixture *fx;
    XmmuRegs regs[BENCH_PROCESSES];
    gva_t gva;                  /* first address of what the item works on */
    uint64_t stride;            /* from one to the next */
    unsigned count;             /* of them; operations wrap around */
    gpa_t *entries;             /* their guest entries, or NULL */
    GArray *keep, *without;     /* XmmuRegion: the whole map, and with holes */
    void *own;                  /* the item's; freed with g_free() */
} Bench;

struct CoreItem {
    const char *name;           /* group/mechanism/variant */
    const char *what;
    unsigned operations;        /* in one batch; for threads, of each */
    unsigned batches;           /* in one round */
    void (*open)(Bench *b);
    void (*prepare)(Bench *b);  /* before each batch, not timed; may be NULL */
    void (*run)(Bench *b, unsigned thread, unsigned operations);
    void (*close)(Bench *b);    /* may be NULL */
    /* Events for each operation that must have happened: "faults_fixed=1 tables=0". */
    const char *counts;
    bool tdp;
    int arg;                    /* the item's own; often a paging mode or a level */
    unsigned threads;           /* 0: the main thread; else that many vCPUs */
};

typedef struct CoreItems {
    const CoreItem *items;
    size_t count;
} CoreItems;

extern const CoreItems core_bench_tdp, core_bench_shadow, core_bench_vcpu,
                       core_bench_zap, core_bench_nx, core_bench_threads;

/* ---- core-bench-guest.c: what items are made of -------------------------- */

/* A VM of @ram bytes, for the item's kind of paging. */
void bench_vm(Bench *b, uint64_t ram, bool huge_pages);
/* The same with more to choose. */
void bench_vm_config(Bench *b, uint64_t ram, XmmuConfig config);
/* Guest tables for @process that map bench pages (b->gva, stride, count) at @gpa. */
void bench_map_process(Bench *b, unsigned process, unsigned mode, gpa_t gpa);
/* Guest memory at @gpa, from @backing of the VM's; in gfn order.  A hole is in
 * b->without only. */
void bench_region(Bench *b, gpa_t gpa, uint64_t size, gpa_t backing);
void bench_region_with_hole(Bench *b, gpa_t gpa, uint64_t size, gpa_t backing,
                            uint64_t hole_at, uint64_t hole_size);
/* The map without its holes. */
void bench_set_map(Bench *b);
/* Take what is in the holes away and give it back: its entries are gone, and the
 * tables stay that map something beside it. */
void bench_punch_holes(Bench *b);

static inline gva_t bench_gva(const Bench *b, unsigned i)
{
    return b->gva + i % b->count * b->stride;
}

/* ---- core-bench-malloc.c ---------------------------------------------------- */

/* Allocations from the C library's heap by this thread so far. */
uint64_t bench_allocations(void);

#endif
