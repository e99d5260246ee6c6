/*
 * xmmu: unit test of huge pages that several threads split, merge and recover
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * vCPUs read, write and fetch while others recover by each strategy, split and
 * promote ranges, take memory away and zap everything.  Each translation is right
 * at every time; afterwards the gauges are what is in the tables, nothing huge is
 * executable, and, when nothing was zapped, every page that was written is dirty: a
 * D that the hardware sets while a table is exchanged must not get lost.  Run under
 * ThreadSanitizer.
 */
#include <inttypes.h>

#include "accel/xmmu/mmu/tdp_split.h"
#include "fixture.h"

#define VCPUS       3
#define RAM         GIB(1)
#define WINDOW      MIB(16)             /* what vCPUs access: 8 huge pages */
#define PAGES       (WINDOW >> 12)
#define ROUNDS      400                 /* of each thread that changes things */
#define FRAME_MASK  0x0007fffffffff000ull

typedef struct MtCase {
    XmmuTdpFormat format;
    XmmuNxStrategy strategy;
    bool zaps;
} MtCase;

typedef struct World {
    const MtCase *c;
    Fixture *fx;
    gint running;               /* threads that change things */
    gint written[PAGES];        /* bool */
} World;

typedef struct Vcpu {
    World *world;
    unsigned index;
    uint64_t random;
} Vcpu;

/* ---- vCPUs ------------------------------------------------------------------ */

static void access_page(Vcpu *v, unsigned page, unsigned want)
{
    World *w = v->world;
    gpa_t gpa = (gpa_t)page << 12;
    XmmuHwResult r = fixture_access(w->fx, v->index, gpa, want);

    if (r.outcome == XMMU_HW_DIRECT) {
        g_assert_true(w->c->zaps);      /* the gap, see change_memory() */
        return;
    }
    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    g_assert_cmphex(r.hpa, ==, (uintptr_t)w->fx->ram + gpa);
    g_assert_true(r.prot & want);
    if (want == XMMU_PROT_WRITE) {
        g_atomic_int_set(&w->written[page], 1);
    }
}

static gpointer run_vcpu(gpointer opaque)
{
    Vcpu *v = opaque;

    for (unsigned i = 0; g_atomic_int_get(&v->world->running); i++) {
        uint64_t random = fixture_random(&v->random);
        /* Few pages that are fetched from, many that are not. */
        unsigned page = (random >> 8) % PAGES, want = 1u << (random % 2);

        if (random >> 32 & 3) {
            access_page(v, page, want);
        } else {
            access_page(v, page & ~63u, XMMU_PROT_EXEC);
        }
        if (i % 64 == 0) {
            g_thread_yield();
        }
    }
    return NULL;
}

/* ---- Those who change things under them --------------------------------------- */

static gpointer run_recovery(gpointer opaque)
{
    World *w = opaque;

    for (unsigned i = 0; i < ROUNDS; i++) {
        xmmu_vm_nx_recover(w->fx->vm, i % 4 + 1);
        rcu_service_drain();
        g_usleep(50);
    }
    g_atomic_int_add(&w->running, -1);
    return NULL;
}

static gpointer run_ranges(gpointer opaque)
{
    uint64_t random = 0x2545f4914f6cdd1d;
    World *w = opaque;

    for (unsigned i = 0; i < ROUNDS; i++) {
        gfn_t gfn = (fixture_random(&random) >> 8) % PAGES;

        if (fixture_random(&random) & 1) {
            xmmu_tdp_split_range(w->fx->vm, XMMU_AS_NORMAL, gfn, 1024,
                                 1 + (random >> 9 & 1));
        } else {
            xmmu_tdp_promote_range(w->fx->vm, XMMU_AS_NORMAL, gfn & ~511u,
                                   random & 16 ? 2048 : RAM >> 12);
        }
        g_usleep(50);
    }
    g_atomic_int_add(&w->running, -1);
    return NULL;
}

static void change_memory(World *w, bool gap)
{
    Fixture *fx = w->fx;
    XmmuRegion regions[2] = {
        { .gfn = 0, .npages = (gap ? MIB(4) : RAM) >> 12, .hpa = (uintptr_t)fx->ram },
        { .gfn = (MIB(4) + KIB(64)) >> 12, .npages = (RAM - MIB(4) - KIB(64)) >> 12,
          .hpa = (uintptr_t)fx->ram + MIB(4) + KIB(64) },
    };

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, gap ? 2 : 1);
}

static gpointer run_zaps(gpointer opaque)
{
    World *w = opaque;

    for (unsigned i = 0; w->c->zaps && i < ROUNDS / 8; i++) {
        change_memory(w, !(i & 1));
        if (i % 4 == 3) {
            xmmu_vm_zap_all(w->fx->vm);
        }
        g_usleep(300);
    }
    g_atomic_int_add(&w->running, -1);
    return NULL;
}

/* ---- Afterwards ------------------------------------------------------------------ */

typedef struct Counts {
    uint64_t leaves[XMMU_MAX_LEVEL + 1];
    uint64_t tables;
} Counts;

static void count_tables(const World *w, hpa_t at, int level, Counts *counts)
{
    const uint64_t *entries = (const uint64_t *)(uintptr_t)at;
    bool ept = w->c->format == XMMU_TDP_EPT;

    counts->tables++;
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        uint64_t raw = entries[i];
        bool leaf = level == 1 || raw >> 7 & 1;

        /* Cached MMIO is W and X without R, or P with a reserved bit. */
        if (!(raw & 1) || (!ept && raw >> 51 & 1)) {
            continue;
        }
        if (!leaf) {
            count_tables(w, raw & FRAME_MASK, level - 1, counts);
            continue;
        }
        counts->leaves[level]++;
        if (level > 1) {
            g_assert_false(ept ? raw >> 2 & 1 : !(raw >> 63));
        }
    }
}

static void check_gauges(const World *w)
{
    XmmuStats stats = fixture_stats(w->fx);
    Counts counts = { 0 };

    count_tables(w, fixture_root(w->fx, 0), 4, &counts);
    g_assert_cmpuint(stats.pages_4k, ==, counts.leaves[1]);
    g_assert_cmpuint(stats.pages_2m, ==, counts.leaves[2]);
    g_assert_cmpuint(stats.pages_1g, ==, counts.leaves[3]);
    g_assert_cmpuint(stats.tables, ==, counts.tables);
    g_assert_cmpuint(stats.nx_lpage_splits, <, counts.tables);
}

static uint64_t leaf_of(const World *w, uint64_t frame)
{
    hpa_t root = fixture_root(w->fx, 0);

    for (int level = 3; level > 0; level--) {
        uint64_t raw = fixture_raw(w->fx, root, 4, frame, level);

        if (level == 1 || !(raw & 1) || raw >> 7 & 1) {
            return raw;
        }
    }
    return 0;
}

static void check_dirty(const World *w)
{
    uint64_t dirty = w->c->format == XMMU_TDP_EPT ? 0x200 : 0x40;

    for (unsigned page = 0; page < PAGES; page++) {
        if (w->written[page]) {
            g_assert_cmphex(leaf_of(w, page) & dirty, ==, dirty);
        }
    }
}

static void check(gconstpointer data)
{
    World w = { .c = data, .running = 3 };
    XmmuConfig config = fixture_config();
    GThread *handles[VCPUS + 3];
    Vcpu vcpus[VCPUS];
    XmmuStats stats;

    config.tdp_format = w.c->format;
    config.nx_huge_pages = true;
    config.nx_strategy = w.c->strategy;
    w.fx = fixture_new(&config, RAM);
    for (unsigned i = 0; i < VCPUS; i++) {
        vcpus[i] = (Vcpu) { &w, i, 0x9e3779b97f4a7c15 + i };
        if (i) {
            fixture_add_cpu(w.fx, i);
        }
        handles[i] = g_thread_new("vcpu", run_vcpu, &vcpus[i]);
    }
    handles[VCPUS] = g_thread_new("recovery", run_recovery, &w);
    handles[VCPUS + 1] = g_thread_new("ranges", run_ranges, &w);
    handles[VCPUS + 2] = g_thread_new("zaps", run_zaps, &w);
    for (unsigned i = 0; i < G_N_ELEMENTS(handles); i++) {
        g_thread_join(handles[i]);
    }
    change_memory(&w, false);
    rcu_service_drain();
    fixture_access(w.fx, 0, 0, XMMU_PROT_EXEC);
    check_gauges(&w);
    if (!w.c->zaps) {
        check_dirty(&w);
    }
    stats = fixture_stats(w.fx);
    g_test_message("%" PRIu64 " splits, %" PRIu64 " promotions, %" PRIu64 " recovered",
                   stats.splits, stats.promotions, stats.nx_recovered);
    g_assert_cmpuint(stats.splits, >, 0);
    g_assert_cmpuint(stats.promotions, >, 0);
    g_assert_cmpuint(stats.nx_recovered, >, 0);
    fixture_free(w.fx);
}

static const struct {
    const char *name;
    MtCase c;
} cases[] = {
    { "npt promote", { XMMU_TDP_NPT, XMMU_NX_PROMOTE, true } },
    { "npt precise", { XMMU_TDP_NPT, XMMU_NX_PRECISE, true } },
    { "npt range", { XMMU_TDP_NPT, XMMU_NX_RANGE, true } },
    { "ept promote", { XMMU_TDP_EPT, XMMU_NX_PROMOTE, true } },
    /* Promotion and splitting alone: D stays. */
    { "npt dirty", { XMMU_TDP_NPT, XMMU_NX_PROMOTE, false } },
    { "ept dirty", { XMMU_TDP_EPT, XMMU_NX_PROMOTE, false } },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *path = g_strdup_printf("/nx-mt/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i].c, check);
        g_free(path);
    }
    return g_test_run();
}
