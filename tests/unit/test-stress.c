/*
 * xmmu: unit test of everything at once
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Threads that are vCPUs translate, read and write memory, switch address spaces and
 * flush, while threads of the host replace memory, make it read-only, put holes into
 * it, log writes, split and promote pages, recover NX huge pages, forget all tables
 * and look at counters.  Meant for ThreadSanitizer,
 * AddressSanitizer and the checker's build; every thread's work is bounded by
 * operations.
 *
 * What is right is known from memory itself.  Each page of guest memory can be backed
 * by one of two host frames.  A frame that backs a page holds that page's number; one
 * that does not, and that no vCPU may use any more, is poisoned.  The history of the
 * memory map says, for each number of changes, what backed which page; a translation
 * must be as it was at some time between the instruction's start and its end.
 *
 * See docs/devel/xmmu-testing.rst for how to add an operation.
 */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "../../accel/xmmu/mmu/tdp_split.h"

#define CPUS        3
#define OPERATIONS  15000       /* of each vCPU, at least */
#define CHANGES     1500        /* of the memory map, at most */
#define FEW_CHANGES 150         /* vCPUs go on until there were that many */
#define PROCESSES   3

#define LOW         MIB(8)      /* guest tables are here; never changes */
#define REGIONS     12u
#define REGION      MIB(2)
#define DATA_END    (LOW + REGIONS * REGION)
#define OTHER       MIB(40)     /* where the second frame of each page is: + this */
#define RAM         MIB(80)
#define HOLE        KIB(64)     /* at the start of a region */
#define WINDOW      0x40000000ull       /* gva of gpa 0, with paging */
#define POISON      0xdead0000dead0000ull

/* What backs a region. */
typedef enum Backing {
    FIRST,
    SECOND,
    NOTHING,
    FIRST_READONLY,
    FIRST_WITH_HOLE,
    FIRST_LOGGED,               /* its pages are split, before the first write */
    BACKINGS,
} Backing;

typedef struct Mode {
    const char *name;
    bool tdp, huge;
    XmmuTdpFormat format;
    unsigned paging;            /* MODE_* of the guest */
    bool few_tables;
    bool nx_huge_pages;
    XmmuNxStrategy nx;
} Mode;

typedef struct World {
    Fixture *fx;
    const Mode *mode;
    XmmuRegs process[PROCESSES];
    /* Odd while the map changes; then twice the number of changes.  What the map was
     * after change i, and will be after it, is in history[i]. */
    gint epoch;
    uint8_t history[CHANGES + 2][REGIONS];
    gint obeyed[CPUS];          /* flushes that a vCPU knows of; G_MAXINT: ended */
    gint running;               /* vCPUs */
    gint accesses, direct;
} World;

/* ---- What must be ------------------------------------------------------------ */

static bool is_backed(Backing backing, gpa_t gpa)
{
    return backing != NOTHING &&
           (backing != FIRST_WITH_HOLE || (gpa - LOW) % REGION >= HOLE);
}

static uint64_t frame_offset(Backing backing, gpa_t gpa)
{
    return backing == SECOND ? gpa + OTHER : gpa;
}

static uint64_t *frame_word(const World *w, uint64_t offset)
{
    return (uint64_t *)(w->fx->ram + (offset & XMMU_PAGE_MASK));
}

static unsigned region_of(gpa_t gpa)
{
    return (gpa - LOW) / REGION;
}

/* Does @r agree with the map after change @i? */
static bool agrees(const World *w, const XmmuHwResult *r, bool write, unsigned i)
{
    Backing backing = w->history[i][region_of(r->gpa)];

    if (r->outcome == XMMU_HW_DIRECT) {
        return !is_backed(backing, r->gpa) || (write && backing == FIRST_READONLY);
    }
    return is_backed(backing, r->gpa) &&
           r->hpa == (uintptr_t)w->fx->ram + frame_offset(backing, r->gpa) &&
           !(backing == FIRST_READONLY && (write || (r->prot & XMMU_PROT_WRITE)));
}

/* @first and @last: the epochs at the instruction's start and end. */
static void check_result(World *w, const XmmuHwResult *r, bool write, gint first,
                         gint last)
{
    for (gint i = first / 2; i <= (last + 1) / 2; i++) {
        if (agrees(w, r, write, i)) {
            return;
        }
    }
    g_error("gpa %" G_GINT64_MODIFIER "x, %s: outcome %d, offset %" G_GINT64_MODIFIER
            "x, prot %x: not so at any time between changes %d and %d", r->gpa,
            write ? "write" : "read", r->outcome,
            r->hpa - (uintptr_t)w->fx->ram, r->prot, first, last);
}

/* ---- vCPUs -------------------------------------------------------------------- */

typedef struct TlbEntry {
    XmmuHwResult result;        /* of the page */
    gva_t page;                 /* 0: empty */
} TlbEntry;

typedef struct Thread {
    World *world;
    unsigned index;
    uint64_t random;
    TlbEntry tlb[32];
    GThread *handle;
} Thread;

static uint64_t next(Thread *t)
{
    return fixture_random(&t->random);
}

static void tlb_drop(Thread *t)
{
    memset(t->tlb, 0, sizeof(t->tlb));
}

/* Before each instruction: obey a flush that was ordered. */
static void between_instructions(Thread *t)
{
    World *w = t->world;
    Fixture *fx = w->fx;
    gint ordered = g_atomic_int_get(&fx->flushes);

    if (ordered != w->obeyed[t->index] || g_atomic_int_get(&fx->nudged[t->index])) {
        g_atomic_int_set(&fx->nudged[t->index], 0);
        tlb_drop(t);
        xmmu_vcpu_flushed(fx->cpus[t->index]);
        g_atomic_int_set(&w->obeyed[t->index], ordered);
    }
}

/* By the TLB, or by a translation that goes there. */
static XmmuHwResult translate(Thread *t, gva_t gva, uint8_t want)
{
    TlbEntry *e = &t->tlb[(gva >> XMMU_PAGE_SHIFT) % G_N_ELEMENTS(t->tlb)];
    XmmuHwResult r;

    if (e->page == (gva & XMMU_PAGE_MASK) && (e->result.prot & want)) {
        r = e->result;
        r.gpa |= gva & ~XMMU_PAGE_MASK;
        r.hpa |= gva & ~XMMU_PAGE_MASK;
        return r;
    }
    r = fixture_access(t->world->fx, t->index, gva, want);
    if (r.outcome == XMMU_HW_OK) {
        *e = (TlbEntry) { r, gva & XMMU_PAGE_MASK };
        e->result.gpa &= XMMU_PAGE_MASK;
        e->result.hpa &= XMMU_PAGE_MASK;
    }
    return r;
}

/* The frame's first word is the page's number; the others are the guest's. */
static void touch(Thread *t, const XmmuHwResult *r, bool write)
{
    uint64_t *page = (uint64_t *)(uintptr_t)(r->hpa & XMMU_PAGE_MASK);
    unsigned mine = 1 + t->index * 8 + next(t) % 8;

    g_assert_cmphex(__atomic_load_n(&page[0], __ATOMIC_ACQUIRE), ==,
                    r->gpa >> XMMU_PAGE_SHIFT);
    if (write) {
        __atomic_store_n(&page[mine], next(t), __ATOMIC_RELEASE);
    }
}

static void access_page(Thread *t, gpa_t gpa, uint8_t want)
{
    World *w = t->world;
    gva_t gva = w->mode->paging == MODE_NONE ? gpa : gpa + WINDOW;
    gint first = g_atomic_int_get(&w->epoch);
    XmmuHwResult r;

    between_instructions(t);
    r = translate(t, gva, want);
    g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
    g_assert_cmphex(r.gpa, ==, gpa);
    if (r.outcome == XMMU_HW_OK) {
        touch(t, &r, want == XMMU_PROT_WRITE);
    }
    check_result(w, &r, want == XMMU_PROT_WRITE, first, g_atomic_int_get(&w->epoch));
    g_atomic_int_inc(r.outcome == XMMU_HW_OK ? &w->accesses : &w->direct);
}

static gpa_t some_gpa(Thread *t)
{
    gpa_t region = LOW + next(t) % REGIONS * REGION;
    /* Some pages are used often, so that others meet there. */
    uint64_t page = next(t) % (next(t) & 1 ? 4 : REGION >> XMMU_PAGE_SHIFT);

    return region + page * XMMU_PAGE_SIZE + next(t) % 500 * 8;
}

static void op_access(Thread *t)
{
    static const uint8_t wants[] = { XMMU_PROT_READ, XMMU_PROT_WRITE, XMMU_PROT_EXEC };

    access_page(t, some_gpa(t), wants[next(t) % 3]);
}

/* A run of neighbours: tables fill up. */
static void op_sweep(Thread *t)
{
    gpa_t gpa = some_gpa(t) & XMMU_PAGE_MASK;

    for (unsigned i = 0; i < 24 && gpa < DATA_END; i++, gpa += XMMU_PAGE_SIZE) {
        access_page(t, gpa, i & 1 ? XMMU_PROT_WRITE : XMMU_PROT_READ);
    }
}

static void op_switch(Thread *t)
{
    World *w = t->world;

    between_instructions(t);
    tlb_drop(t);
    fixture_load(w->fx, t->index, w->process[next(t) % PROCESSES]);
}

static void op_invlpg(Thread *t)
{
    gva_t gva = some_gpa(t) + (t->world->mode->paging ? WINDOW : 0);
    TlbEntry *e = &t->tlb[(gva >> XMMU_PAGE_SHIFT) % G_N_ELEMENTS(t->tlb)];

    between_instructions(t);
    e->page = 0;
    xmmu_vcpu_invlpg(t->world->fx->cpus[t->index], gva);
}

static void op_roots(Thread *t)
{
    XmmuRootInfo info[4];

    between_instructions(t);
    g_assert_cmpuint(xmmu_vcpu_roots(t->world->fx->cpus[t->index], info, 4), >=, 1);
}

typedef struct CpuOperation {
    void (*run)(Thread *t);
    unsigned weight;
} CpuOperation;

static const CpuOperation cpu_operations[] = {
    { op_access, 40 }, { op_sweep, 6 }, { op_switch, 2 }, { op_invlpg, 2 },
    { op_roots, 1 },
};

static void run_one(Thread *t)
{
    unsigned sum = 0, pick;

    for (size_t i = 0; i < G_N_ELEMENTS(cpu_operations); i++) {
        sum += cpu_operations[i].weight;
    }
    pick = next(t) % sum;
    for (size_t i = 0; ; i++) {
        if (pick < cpu_operations[i].weight) {
            cpu_operations[i].run(t);
            return;
        }
        pick -= cpu_operations[i].weight;
    }
}

static gpointer cpu_thread(gpointer opaque)
{
    Thread *t = opaque;

    for (unsigned i = 0;
         i < OPERATIONS || g_atomic_int_get(&t->world->epoch) / 2 < FEW_CHANGES; i++) {
        run_one(t);
    }
    /* It runs no instruction any more, so it has nothing cached. */
    g_atomic_int_set(&t->world->obeyed[t->index], G_MAXINT);
    g_atomic_int_add(&t->world->running, -1);
    return NULL;
}

/* ---- The host changes the memory map ---------------------------------------------- */

static void add_region(GArray *list, const World *w, gpa_t gpa, uint64_t size,
                       Backing backing)
{
    XmmuRegion region = {
        .gfn = gpa >> XMMU_PAGE_SHIFT, .npages = size >> XMMU_PAGE_SHIFT,
        .hpa = (uintptr_t)w->fx->ram + frame_offset(backing, gpa),
        .flags = backing == FIRST_READONLY ? XMMU_REGION_READONLY
                 : backing == FIRST_LOGGED ? XMMU_REGION_LOG_DIRTY : 0,
    };

    g_array_append_val(list, region);
}

static void publish(World *w, const uint8_t *map)
{
    GArray *list = g_array_new(false, false, sizeof(XmmuRegion));

    add_region(list, w, 0, LOW, FIRST);
    for (unsigned i = 0; i < REGIONS; i++) {
        gpa_t gpa = LOW + i * REGION;

        if (map[i] == FIRST_WITH_HOLE) {
            add_region(list, w, gpa + HOLE, REGION - HOLE, FIRST);
        } else if (map[i] != NOTHING) {
            add_region(list, w, gpa, REGION, map[i]);
        }
    }
    for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
        xmmu_vm_set_memory(w->fx->vm, as, (const XmmuRegion *)list->data, list->len);
    }
    g_array_free(list, true);
}

/* The frames that @backing uses of a region hold their pages' numbers. */
static void stamp(World *w, unsigned region, Backing backing)
{
    for (uint64_t i = 0; i < REGION; i += XMMU_PAGE_SIZE) {
        gpa_t gpa = LOW + region * REGION + i;

        if (is_backed(backing, gpa)) {
            __atomic_store_n(frame_word(w, frame_offset(backing, gpa)),
                             gpa >> XMMU_PAGE_SHIFT, __ATOMIC_RELEASE);
        }
    }
}

/* Frames that @was used and @is does not belong to somebody else now. */
static void poison(World *w, unsigned region, Backing was, Backing is)
{
    for (uint64_t i = 0; i < REGION; i += XMMU_PAGE_SIZE) {
        gpa_t gpa = LOW + region * REGION + i;

        if (is_backed(was, gpa) &&
            !(is_backed(is, gpa) && frame_offset(is, gpa) == frame_offset(was, gpa))) {
            __atomic_store_n(frame_word(w, frame_offset(was, gpa)), POISON,
                             __ATOMIC_RELEASE);
        }
    }
}

/* Until every vCPU has obeyed what was ordered so far. */
static void wait_for_vcpus(World *w)
{
    gint ordered = g_atomic_int_get(&w->fx->flushes);

    for (unsigned i = 0; i < CPUS; i++) {
        while (g_atomic_int_get(&w->obeyed[i]) < ordered) {
            g_usleep(50);
        }
    }
}

/* Other frames than before: the old ones are somebody else's when all have obeyed. */
static void change_map(Thread *t, unsigned change)
{
    World *w = t->world;
    uint8_t *map = w->history[change];
    unsigned region = next(t) % REGIONS;
    Backing was = map[region], is = next(t) % BACKINGS;

    map[region] = is;
    memcpy(w->history[change + 1], map, REGIONS);
    stamp(w, region, is);
    g_atomic_int_inc(&w->epoch);
    publish(w, map);
    g_atomic_int_inc(&w->epoch);
    if (next(t) % 4 == 0) {
        wait_for_vcpus(w);
        poison(w, region, was, is);
    }
}

static gpointer map_thread(gpointer opaque)
{
    Thread *t = opaque;
    World *w = t->world;

    for (unsigned i = 1; i <= CHANGES && g_atomic_int_get(&w->running); i++) {
        change_map(t, i);
        g_usleep(next(t) % 200);
    }
    return NULL;
}

/* ---- The host does other things ------------------------------------------------------- */

static void host_zap_all(Thread *t)
{
    xmmu_vm_zap_all(t->world->fx->vm);
}

static void host_stats(Thread *t)
{
    XmmuStats stats = fixture_stats(t->world->fx);

    /* Gauges are sums of what several threads count; read meanwhile, they are about
     * right, and never so wrong as a count that went below zero. */
    g_assert_cmpuint(stats.tables, <, 1u << 20);
}

static void host_drain(Thread *t)
{
    (void)t;
    rcu_service_drain();
}

/* Some of the lists, or all. */
static void host_recover(Thread *t)
{
    XmmuVm *vm = t->world->fx->vm;

    if (next(t) & 1) {
        xmmu_vm_nx_recover(vm, 1 + next(t) % 8);
    } else {
        xmmu_vm_nx_recover_due(vm);
    }
}

static void host_split(Thread *t)
{
    gpa_t gpa = LOW + next(t) % REGIONS * REGION;

    /* Memory may run out; then they were zapped. */
    xmmu_tdp_split_range(t->world->fx->vm, XMMU_AS_NORMAL, gpa >> XMMU_PAGE_SHIFT,
                         (1 + next(t) % 3) * (REGION >> XMMU_PAGE_SHIFT),
                         XMMU_LEVEL_4K);
}

static void host_promote(Thread *t)
{
    xmmu_tdp_promote_range(t->world->fx->vm, XMMU_AS_NORMAL, LOW >> XMMU_PAGE_SHIFT,
                           (DATA_END - LOW) >> XMMU_PAGE_SHIFT);
}

typedef struct HostOperation {
    void (*run)(Thread *t);
    bool tdp_only;
} HostOperation;

static const HostOperation host_operations[] = {
    { host_zap_all, false }, { host_stats, false }, { host_drain, false },
    { host_recover, true }, { host_split, true }, { host_promote, true },
};

static gpointer host_thread(gpointer opaque)
{
    Thread *t = opaque;

    while (g_atomic_int_get(&t->world->running)) {
        const HostOperation *op =
            &host_operations[next(t) % G_N_ELEMENTS(host_operations)];

        if (t->world->mode->tdp || !op->tdp_only) {
            op->run(t);
        }
        g_usleep(next(t) % 500);
    }
    return NULL;
}

/* ---- A run ------------------------------------------------------------------------------ */

static void make_processes(World *w)
{
    Fixture *fx = w->fx;

    for (unsigned i = 0; i < PROCESSES; i++) {
        XmmuRegs *regs = &w->process[i];

        *regs = fixture_regs(w->mode->paging, w->mode->paging ? fixture_page(fx) : 0);
        for (gpa_t gpa = LOW; w->mode->paging && gpa < DATA_END; gpa += XMMU_PAGE_SIZE) {
            fixture_map(fx, regs, WINDOW + gpa, gpa | PTE_P | PTE_W, 1);
        }
    }
}

static World *world_new(const Mode *mode)
{
    World *w = g_new0(World, 1);
    XmmuConfig config = mode->tdp ? fixture_config() : fixture_shadow_config();

    config.tdp_format = mode->format;
    config.huge_pages = mode->huge;
    config.nx_huge_pages = mode->nx_huge_pages;
    config.nx_strategy = mode->nx;
    config.nx_ratio = 2;
    if (mode->few_tables) {
        config.table_memory = xmmu_table_memory_floor(CPUS);
    }
    w->mode = mode;
    w->running = CPUS;
    w->fx = fixture_new(&config, RAM);
    make_processes(w);
    for (unsigned i = 0; i < REGIONS; i++) {
        stamp(w, i, FIRST);
    }
    publish(w, w->history[0]);
    for (unsigned i = 0; i < CPUS; i++) {
        if (i) {
            fixture_add_cpu(w->fx, i);
        }
        fixture_load(w->fx, i, w->process[i % PROCESSES]);
        w->obeyed[i] = w->fx->flushes;
    }
    return w;
}

static void world_free(World *w)
{
    fixture_free(w->fx);
    g_free(w);
}

/* What the host did must have met something. */
static void check_operations(World *w)
{
    XmmuStats stats = fixture_stats(w->fx);

    g_test_message("%" G_GUINT64_FORMAT " splits, %" G_GUINT64_FORMAT " promotions, %"
                   G_GUINT64_FORMAT " recovered", stats.splits, stats.promotions,
                   stats.nx_recovered);
    g_assert_cmpuint(stats.zaps, >, 0);
    if (w->mode->tdp && w->mode->huge) {
        g_assert_cmpuint(stats.splits, >, 0);
    }
}

static void stress(gconstpointer data)
{
    World *w = world_new(data);
    Thread thread[CPUS + 2];
    GThreadFunc run[CPUS + 2] = { [CPUS] = map_thread, [CPUS + 1] = host_thread };

    for (unsigned i = 0; i < G_N_ELEMENTS(thread); i++) {
        thread[i] = (Thread) {
            .world = w, .index = i, .random = 0x9e3779b97f4a7c15 + i * 77,
        };
        thread[i].handle = g_thread_new(NULL, i < CPUS ? cpu_thread : run[i], &thread[i]);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(thread); i++) {
        g_thread_join(thread[i].handle);
    }
    g_test_message("%d accesses to memory, %d elsewhere, %d changes of the map",
                   w->accesses, w->direct, w->epoch / 2);
    g_assert_cmpint(w->accesses, >, OPERATIONS);
    g_assert_cmpint(w->epoch / 2, >=, FEW_CHANGES);
    g_assert_cmpint(w->direct, >, 0);
    check_operations(w);
    world_free(w);
}

static const Mode modes[] = {
    { "npt", true, true, XMMU_TDP_NPT, MODE_NONE },
    { "npt, small pages", true, false, XMMU_TDP_NPT, MODE_NONE },
    { "npt with few tables", true, false, XMMU_TDP_NPT, MODE_PAE, .few_tables = true },
    { "npt, NX recovery by promotion", true, true, XMMU_TDP_NPT, MODE_NONE,
      .nx_huge_pages = true, .nx = XMMU_NX_PROMOTE },
    { "npt, NX recovery by precise zap", true, true, XMMU_TDP_NPT, MODE_NONE,
      .nx_huge_pages = true, .nx = XMMU_NX_PRECISE },
    { "ept, NX recovery by range zap, the guest pages", true, true, XMMU_TDP_EPT,
      MODE_4L, .nx_huge_pages = true, .nx = XMMU_NX_RANGE },
    { "shadow", false, true, XMMU_TDP_NPT, MODE_4L },
    { "shadow, no paging", false, true, XMMU_TDP_NPT, MODE_NONE },
    { "shadow, 32-bit", false, false, XMMU_TDP_NPT, MODE_32 },
    { "shadow with few tables", false, true, XMMU_TDP_NPT, MODE_4L, .few_tables = true },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        char *path = g_strdup_printf("/stress/%s", modes[i].name);

        g_test_add_data_func(path, &modes[i], stress);
        g_free(path);
    }
    return g_test_run();
}
