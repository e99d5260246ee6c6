/*
 * xmmu fuzz: the guest's physical world
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See world.h.
 */
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "world.h"

#define KIB(n)  ((uint64_t)(n) << 10)
#define MIB(n)  ((uint64_t)(n) << 20)
#define GIB(n)  ((uint64_t)(n) << 30)

/*
 * Backing store, all at addresses aligned like the guest's, so that large
 * pages are possible.  Only the pool is ever written.
 */
static uint8_t *low;        /* gpa 0 .. 16 MiB */
static uint8_t *giga;       /* gpa 1 GiB .. 2 GiB */
static uint8_t *high;       /* gpa 4 GiB .. 4 GiB + 4 MiB */
static uint8_t *other;      /* memory that REMAP and SMM put elsewhere */
static WordHistory (*all_history)[512];

#define LOW_SIZE    MIB(16)
#define GIGA_SIZE   GIB(1)
#define HIGH_SIZE   MIB(4)
#define OTHER_SIZE  MIB(2)

#define HOLE_START  KIB(640)    /* SMRAM in SMM */
#define ROM_START   KIB(768)
#define ROM_END     KIB(832)
#define REMAP_START KIB(96)
#define REMAP_END   KIB(128)
#define ALIAS       GIB(3)
#define GAP_START   (MIB(2) + KIB(16))
#define GAP_END     (MIB(2) + KIB(32))

/* ---- Decisions ---------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    /* splitmix64, from its published description. */
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

bool source_dry(const Source *s)
{
    return s->data && s->data >= s->end;
}

uint64_t source_bits(Source *s, unsigned bits)
{
    uint64_t v = 0;

    if (s->data) {
        for (unsigned i = 0; i < bits && s->data < s->end; i += 8) {
            v |= (uint64_t)*s->data++ << i;
        }
    } else {
        v = next_random(&s->state);
        for (unsigned i = 0; i < bits && s->record; i += 8) {
            putc(v >> i & 0xff, s->record);
        }
    }
    return bits == 64 ? v : v & (((uint64_t)1 << bits) - 1);
}

unsigned source_below(Source *s, unsigned n)
{
    return source_bits(s, n <= 16 ? 8 : 16) % n;
}

bool source_percent(Source *s, unsigned percent)
{
    return source_below(s, 100) < percent;
}

/* ---- Layout ------------------------------------------------------------- */

static uint8_t *reserve(uint64_t size, uint64_t align)
{
    uint8_t *p = mmap(NULL, size + align, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        perror("mmap of guest memory");
        exit(1);
    }
    return (uint8_t *)(((uintptr_t)p + align - 1) & ~(uintptr_t)(align - 1));
}

void world_init_process(void)
{
    if (low) {
        return;
    }
    low = reserve(LOW_SIZE, MIB(2));
    giga = reserve(GIGA_SIZE, GIB(1));
    high = reserve(HIGH_SIZE, MIB(2));
    other = reserve(OTHER_SIZE, MIB(2));
    all_history = calloc(POOL_PAGES, sizeof(*all_history));
    if (!all_history) {
        perror("calloc");
        exit(1);
    }
}

static void add_region(World *w, unsigned as_id, uint64_t start, uint64_t end,
                       uint8_t *mem, uint32_t flags)
{
    XmmuRegion *r = &w->regions[as_id][w->region_count[as_id]++];

    r->gfn = start >> XMMU_PAGE_SHIFT;
    r->npages = (end - start) >> XMMU_PAGE_SHIFT;
    r->hpa = (uintptr_t)mem;
    r->flags = flags;
}

void world_set_layout(World *w, unsigned as_id, unsigned layout)
{
    uint64_t ram2;

    w->layout[as_id] = layout;
    w->region_count[as_id] = 0;
    add_region(w, as_id, 0, REMAP_START, low, 0);
    add_region(w, as_id, REMAP_START, REMAP_END,
               layout & LAYOUT_REMAP ? other : low + REMAP_START, 0);
    add_region(w, as_id, REMAP_END, HOLE_START, low + REMAP_END, 0);
    if (as_id == XMMU_AS_SMM) {
        add_region(w, as_id, HOLE_START, ROM_START, other + MIB(1), 0);
    }
    add_region(w, as_id, ROM_START, ROM_END, low + ROM_START,
               layout & LAYOUT_ROM_RAM ? 0 : XMMU_REGION_READONLY);
    ram2 = ROM_END;
    if (layout & LAYOUT_GAP) {
        add_region(w, as_id, ram2, GAP_START, low + ram2, 0);
        ram2 = GAP_END;
    }
    add_region(w, as_id, ram2, LOW_SIZE, low + ram2, 0);
    if (!(layout & LAYOUT_NO_1G)) {
        add_region(w, as_id, GIB(1), GIB(2), giga, 0);
    }
    /* The first pages once more: one table, two guest frames. */
    add_region(w, as_id, ALIAS, ALIAS + REMAP_START, low, 0);
    add_region(w, as_id, GIB(4), GIB(4) + HIGH_SIZE, high, 0);
}

uint8_t *world_host(const World *w, unsigned as_id, gpa_t gpa, bool *writable)
{
    gfn_t gfn = gpa >> XMMU_PAGE_SHIFT;

    for (size_t i = 0; i < w->region_count[as_id]; i++) {
        const XmmuRegion *r = &w->regions[as_id][i];

        if (gfn - r->gfn < r->npages) {
            *writable = !(r->flags & XMMU_REGION_READONLY);
            return (uint8_t *)(uintptr_t)r->hpa + (gpa - (r->gfn << XMMU_PAGE_SHIFT));
        }
    }
    return NULL;
}

/* ---- Contents ----------------------------------------------------------- */

static const uint16_t fill_indices[] = { 0, 1, 2, 3, 5, 8, 0x100, 0x1ff };
#define FILL_COUNT (sizeof(fill_indices) / sizeof(fill_indices[0]))

unsigned world_index(Source *s)
{
    return fill_indices[source_below(s, FILL_COUNT)];
}

/*
 * In a tidy world the pages take turns: roots of four levels, tables of level 3, 2, 1,
 * and data, which are the roots of five levels.  So most tables of level 1 are nothing
 * else, and may be out of sync.
 */
#define TURNS 5

unsigned world_root(const World *w, Source *s, unsigned levels, unsigned n)
{
    unsigned page = source_below(s, n);

    return !w->tidy ? page : page * TURNS + (levels == 5 ? TURNS - 1 : 0);
}

static unsigned next_page(const World *w, Source *s, int page)
{
    if (!w->tidy || page < 0) {
        return source_below(s, POOL_PAGES);
    }
    return source_below(s, POOL_PAGES / TURNS) * TURNS + (page + 1) % TURNS;
}

/* A frame for an entry in @page (or -1); @large: aligned for a large page. */
static uint64_t entry_frame(const World *w, Source *s, bool large, int page)
{
    static const uint64_t aligned[] = {
        0, MIB(2), MIB(4), MIB(8), GIB(1), GIB(1) + MIB(2), GIB(2), GIB(4),
    };
    unsigned pick = source_below(s, 100);

    if (large) {
        return aligned[source_below(s, sizeof(aligned) / sizeof(aligned[0]))];
    }
    if (pick < 3) {
        return ALIAS + (source_bits(s, 8) % (REMAP_START >> XMMU_PAGE_SHIFT) <<
                        XMMU_PAGE_SHIFT);
    }
    if (pick < 92) {
        return w->pool[next_page(w, s, page)].gpa;
    }
    if (pick < 95) {
        return MIB(1) + KIB(64) + (source_bits(s, 8) << XMMU_PAGE_SHIFT);
    }
    if (pick < 97) {
        return HOLE_START + (source_bits(s, 4) << XMMU_PAGE_SHIFT);
    }
    if (pick < 99) {
        return GIB(1) + (source_bits(s, 8) << XMMU_PAGE_SHIFT);
    }
    return source_bits(s, 40) & XMMU_PAGE_MASK;
}

static uint64_t entry_in(const World *w, Source *s, int page)
{
    bool large = source_percent(s, w->large_percent);
    uint64_t e = entry_frame(w, s, large, page);
    unsigned bits = source_bits(s, 32);

    if (w->tidy && page % TURNS != TURNS - 2) {
        bits |= bits << 1 & 0x78000fff;         /* fewer faults above the leaves */
    }
    e |= (bits & 31) ? 1 : 0;                   /* P: 31/32 */
    e |= (bits >> 5 & w->few_readonly) ? 2 : 0; /* R/W: 7/8 or 1/2 */
    e |= (bits >> 8 & 7) ? 4 : 0;               /* U/S: 7/8 */
    e |= (bits >> 11 & 1) << 5;                 /* A */
    e |= (bits >> 12 & 1) << 6;                 /* D */
    e |= (bits >> 13 & 7) ? 0 : 1 << 8;         /* G: 1/8 */
    e |= (bits >> 16 & 7) ? 0 : 0x18;           /* PCD, PWT: 1/8 */
    if (large) {
        e |= 0x80;
        e |= (bits >> 16 & 7) ? 0 : 0x1000;     /* PAT */
    }
    e |= (bits >> 19 & 15) ? 0 : (uint64_t)1 << 63;     /* XD: 1/16 */
    if (!(bits >> 23 & w->few_keys)) {
        e |= (uint64_t)source_bits(s, 4) << 59;         /* a key: 1/16 or 1/2 */
    }
    if (!(bits >> 27 & 31)) {
        e ^= (uint64_t)1 << source_below(s, 64);        /* any bit: 1/32 */
    }
    return e;
}

uint64_t world_entry(const World *w, Source *s)
{
    return entry_in(w, s, -1);
}

uint64_t world_changed_entry(const World *w, Source *s, const uint8_t *mem)
{
    static const uint8_t flags[] = { 0, 1, 2, 5, 6, 6, 8, 59, 63 };
    uint64_t e = world_expected(w, (const uint8_t *)((uintptr_t)mem & ~7ull), 8);

    if (source_percent(s, 50)) {
        return entry_in(w, s, world_pool_index(w, mem));
    }
    e ^= (uint64_t)1 << flags[source_below(s, sizeof(flags))];
    if (source_percent(s, 30)) {
        e ^= (uint64_t)1 << flags[source_below(s, sizeof(flags))];
    }
    return e;
}

static void fill_page(World *w, unsigned page, Source *s)
{
    uint64_t *words = (uint64_t *)w->pool[page].mem;

    memset(words, 0, XMMU_PAGE_SIZE);
    for (unsigned i = 0; i < FILL_COUNT; i++) {
        words[fill_indices[i]] = entry_in(w, s, page);
    }
    memcpy(w->copy[page], words, XMMU_PAGE_SIZE);
}

static void place(World *w, unsigned *n, gpa_t gpa, uint8_t *mem, unsigned pages)
{
    for (unsigned i = 0; i < pages; i++, (*n)++) {
        w->pool[*n].gpa = gpa + i * XMMU_PAGE_SIZE;
        w->pool[*n].mem = mem + i * XMMU_PAGE_SIZE;
    }
}

void world_start(World *w, uint64_t seed, bool holes_alive)
{
    static uint64_t worlds;
    Source s = { .state = seed };
    unsigned n = 0;

    w->id = ++worlds;
    w->now = 1;
    w->history = all_history;
    w->holes_alive = holes_alive;
    w->hole_seed = seed;
    w->large_percent = source_percent(&s, 25) ? 30 : w->tidy ? 2 : 8;
    w->few_readonly = source_percent(&s, 25) ? 1 : 7;
    w->few_keys = source_percent(&s, 25) ? 1 : 15;
    place(w, &n, 0, low, 28);
    place(w, &n, REMAP_START + KIB(16), low + REMAP_START + KIB(16), 4);
    place(w, &n, REMAP_START + KIB(16), other + KIB(16), 4);
    place(w, &n, HOLE_START, other + MIB(1), 4);        /* SMRAM */
    place(w, &n, ROM_START, low + ROM_START, 4);
    place(w, &n, MIB(1), low + MIB(1), 12);             /* A20 twins of 0.. */
    place(w, &n, MIB(2), low + MIB(2), 10);
    place(w, &n, MIB(4) + KIB(64), low + MIB(4) + KIB(64), 6);
    place(w, &n, GIB(1), giga, 4);
    place(w, &n, GIB(4), high, 4);
    if (n != POOL_PAGES) {
        abort();
    }
    for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
        world_set_layout(w, as, 0);
    }
    for (unsigned page = 0; page < POOL_PAGES; page++) {
        fill_page(w, page, &s);
    }
}

int world_pool_index(const World *w, const uint8_t *mem)
{
    for (int i = 0; i < POOL_PAGES; i++) {
        if ((uintptr_t)mem - (uintptr_t)w->pool[i].mem < XMMU_PAGE_SIZE) {
            return i;
        }
    }
    return -1;
}

gpa_t world_alias(gpa_t gpa)
{
    return gpa < REMAP_START ? ALIAS + gpa : gpa;
}

uint64_t world_bus(const World *w, unsigned as_id, gpa_t gpa, unsigned size)
{
    Source s = { .state = w->hole_seed ^ (gpa & ~(gpa_t)7) };
    uint64_t value = ~(uint64_t)0;

    (void)as_id;
    if (w->holes_alive && source_bits(&s, 1)) {
        value = world_entry(w, &s);
    }
    if (size == 4) {
        return (uint32_t)(value >> (gpa & 4 ? 32 : 0));
    }
    return value;
}

/* ---- History ------------------------------------------------------------ */

static WordHistory *word_history(World *w, unsigned page, unsigned word)
{
    WordHistory *h = &w->history[page][word];

    if (h->world != w->id) {
        memset(h, 0, sizeof(*h));
        h->world = w->id;
    }
    return h;
}

static void note_old(World *w, unsigned page, unsigned word, uint64_t value)
{
    WordHistory *h = word_history(w, page, word);

    if (h->n == WORD_HISTORY) {
        h->lost_until = h->old[0].until;
        memmove(&h->old[0], &h->old[1], sizeof(h->old[0]) * (WORD_HISTORY - 1));
        h->n--;
    }
    h->old[h->n].value = value;
    h->old[h->n].since = h->since;
    h->old[h->n].until = w->now;
    h->since = w->now;
    h->n++;
}

void world_store(World *w, uint8_t *mem, const void *data, unsigned size)
{
    int page = world_pool_index(w, mem);
    unsigned first = ((uintptr_t)mem & ~XMMU_PAGE_MASK) / 8;
    unsigned last = (((uintptr_t)mem + size - 1) & ~XMMU_PAGE_MASK) / 8;
    uint64_t *words = (uint64_t *)w->pool[page].mem;

    w->now++;
    memcpy(mem, data, size);
    for (unsigned i = first; i <= last; i++) {
        if (words[i] != w->copy[page][i]) {
            note_old(w, page, i, w->copy[page][i]);
            w->copy[page][i] = words[i];
        }
    }
}

static uint64_t part(uint64_t word, uintptr_t mem, unsigned size)
{
    return size == 8 ? word : (uint32_t)(word >> (mem & 4 ? 32 : 0));
}

uint64_t world_expected(const World *w, const uint8_t *mem, unsigned size)
{
    int page = world_pool_index(w, mem);
    unsigned word = ((uintptr_t)mem & ~XMMU_PAGE_MASK) / 8;

    return part(w->copy[page][word], (uintptr_t)mem, size);
}

void world_expect_set(World *w, uint8_t *mem, unsigned size, uint64_t bits)
{
    int page = world_pool_index(w, mem);
    unsigned word = ((uintptr_t)mem & ~XMMU_PAGE_MASK) / 8;

    if (size == 4 && ((uintptr_t)mem & 4) && bits) {
        /*
         * In an 8-byte entry these are address bits.  A table that is used in both
         * formats at once is changed by the processor itself then, which shadow
         * paging need not notice: nothing is known about that entry any more.
         */
        bits <<= 32;
        if (bits & ~w->copy[page][word]) {
            word_history(w, page, word)->lost_until = UINT64_MAX;
        }
    }
    w->copy[page][word] |= bits;
}

void world_absorb_flags(World *w)
{
    const uint64_t flags = 0x60 | (uint64_t)0x60 << 32;

    for (int page = 0; page < POOL_PAGES; page++) {
        const uint64_t *words = (const uint64_t *)w->pool[page].mem;

        for (unsigned i = 0; i < 512; i++) {
            w->copy[page][i] |= words[i] & flags & ~w->copy[page][i];
        }
    }
}

const uint8_t *world_differs(const World *w)
{
    for (int page = 0; page < POOL_PAGES; page++) {
        const uint64_t *words = (const uint64_t *)w->pool[page].mem;

        if (!memcmp(words, w->copy[page], XMMU_PAGE_SIZE)) {
            continue;
        }
        for (unsigned i = 0; i < 512; i++) {
            if (words[i] != w->copy[page][i]) {
                return (const uint8_t *)&words[i];
            }
        }
    }
    return NULL;
}

static bool already_there(const RefValue *out, unsigned n, uint64_t value,
                          uint64_t until)
{
    for (unsigned i = 0; i < n; i++) {
        /* A value that is still there, or lasted longer, says more. */
        if (out[i].value == value && (!out[i].until || out[i].until >= until)) {
            return true;
        }
    }
    return false;
}

/* Until when could a value be loaded that was there in [since, until)?  0: never. */
static uint64_t last_load(const Spans *spans, uint64_t since, uint64_t until)
{
    for (unsigned i = spans->n; i-- > 0; ) {
        if (since < spans->span[i].to && until > spans->span[i].from) {
            return MIN(until, spans->span[i].to);
        }
    }
    return 0;
}

unsigned world_values(World *w, unsigned as_id, gpa_t gpa, unsigned size,
                      const Spans *spans, RefValue *out, bool *lost)
{
    bool writable;
    uint8_t *mem = world_host(w, as_id, gpa, &writable);
    int page = mem ? world_pool_index(w, mem) : -1;
    unsigned word = ((uintptr_t)mem & ~XMMU_PAGE_MASK) / 8;
    unsigned n = 1;
    WordHistory *h;

    out[0].until = 0;
    if (!mem) {
        out[0].value = world_bus(w, as_id, gpa, size);
        return 1;
    }
    if (page < 0) {
        /* Never written: reading it for real would allocate it. */
        out[0].value = 0;
        return 1;
    }
    out[0].value = part(w->copy[page][word], (uintptr_t)mem, size);
    h = word_history(w, page, word);
    if (spans->n && h->lost_until > spans->span[0].from) {
        *lost = true;
    }
    for (unsigned i = h->n; i-- > 0; ) {
        uint64_t value = part(h->old[i].value, (uintptr_t)mem, size);
        uint64_t until = last_load(spans, h->old[i].since, h->old[i].until);

        if (until && !already_there(out, n, value, until)) {
            out[n].value = value;
            out[n].until = until;
            n++;
        }
    }
    return n;
}

/* ---- RCU ---------------------------------------------------------------- */

typedef struct RcuNode RcuNode;
struct RcuNode {
    RcuNode *next;
    void (*fn)(XmmuRcuHead *head);
};
_Static_assert(sizeof(RcuNode) <= sizeof(XmmuRcuHead), "fits the head");

static RcuNode *rcu_waiting, **rcu_tail = &rcu_waiting;
static unsigned rcu_depth;

void world_rcu_lock(void)
{
    rcu_depth++;
}

void world_rcu_unlock(void)
{
    if (!rcu_depth) {
        fprintf(stderr, "RCU: unlock without lock\n");
        abort();
    }
    rcu_depth--;
}

unsigned world_rcu_depth(void)
{
    return rcu_depth;
}

void world_rcu_call(XmmuRcuHead *head, void (*fn)(XmmuRcuHead *head))
{
    RcuNode *node = (RcuNode *)head;

    node->fn = fn;
    node->next = NULL;
    *rcu_tail = node;
    rcu_tail = &node->next;
}

void world_rcu_run(void)
{
    while (rcu_waiting) {
        RcuNode *node = rcu_waiting;

        rcu_waiting = node->next;
        if (!rcu_waiting) {
            rcu_tail = &rcu_waiting;
        }
        node->fn((XmmuRcuHead *)node);
    }
}
