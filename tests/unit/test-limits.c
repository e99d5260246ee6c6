/*
 * xmmu: unit test of the limit of table memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest that needs many times the tables that the limit allows sees the same
 * memory as one without a limit, and the gauge never exceeds the limit.  What was used
 * last stays, what was not used goes first.  All with the smallest limit there is.
 */
#include <pthread.h>

#include "accel/xmmu/mmu/reclaim.h"
#include "accel/xmmu/mmu/shadow.h"
#include "fixture.h"

#define RAM     MIB(32)

typedef struct LimitCase {
    const char *name;
    bool tdp;
    XmmuTdpFormat format;
    unsigned mode;
} LimitCase;

static Fixture *new_vm(const LimitCase *c, unsigned vcpus)
{
    XmmuConfig config = c->tdp ? fixture_config() : fixture_shadow_config();

    config.tdp_format = c->format;
    config.huge_pages = false;
    config.table_memory = xmmu_table_memory_floor(vcpus);
    return fixture_new(&config, RAM);
}

static void expect_within_limit(Fixture *fx)
{
    g_assert_cmpuint(fixture_stats(fx).table_bytes, <=, fx->config.table_memory);
}

/* ---- Far over the limit --------------------------------------------------------- */

/* Pages so far apart that each has tables of its own, in the guest's and in ours. */
#define FAR_PAGES 96

static gva_t far_gva(const LimitCase *c, unsigned i)
{
    return c->mode >= MODE_4L ? i * GIB(1) : i * MIB(16);
}

static void far_pages(Fixture *fx, const LimitCase *c, unsigned cpu)
{
    for (unsigned i = 0; i < FAR_PAGES; i++) {
        XmmuHwResult r = fixture_access(fx, cpu, far_gva(c, i), XMMU_PROT_WRITE);

        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
        g_assert_cmphex(r.gpa, ==, MIB(16) + i * 0x1000);
        expect_within_limit(fx);
    }
}

static void check_far(gconstpointer data)
{
    const LimitCase *c = data;
    Fixture *fx = new_vm(c, 2);
    XmmuRegs regs = fixture_regs(c->mode, fixture_page(fx));

    for (unsigned i = 0; i < FAR_PAGES; i++) {
        fixture_map(fx, &regs, far_gva(c, i), (MIB(16) + i * 0x1000) | PTE_PWU, 1);
    }
    fixture_add_cpu(fx, 1);
    fixture_load(fx, 0, regs);
    fixture_load(fx, 1, regs);
    for (unsigned round = 0; round < 3; round++) {
        far_pages(fx, c, round & 1);
        rcu_service_drain();
    }
    g_assert_cmpuint(fixture_stats(fx).reclaims, >, 0);
    g_assert_cmpuint(fixture_stats(fx).reclaimed_tables, >, 0);
    fixture_free(fx);
}

/* TDP: the same over guest physical memory, without paging: slots far apart, and
 * MMIO between them, which takes tables too. */
static void check_sparse_memory(gconstpointer data)
{
    const LimitCase *c = data;
    Fixture *fx = new_vm(c, 1);
    XmmuRegion regions[512];

    for (unsigned i = 0; i < G_N_ELEMENTS(regions); i++) {
        regions[i] = (XmmuRegion) {
            .gfn = i * (GIB(1) >> 12), .npages = 1, .hpa = (uintptr_t)fx->ram + i * 0x1000,
        };
    }
    g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions,
                                     G_N_ELEMENTS(regions)));
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(regions); i++) {
            XmmuHwResult r;

            xmmu_hw_translate_gpa(fx->vcpu, i * GIB(1), XMMU_PROT_WRITE, 8, &r);
            g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
            g_assert_cmphex(r.hpa, ==, (uintptr_t)fx->ram + i * 0x1000);
            xmmu_hw_translate_gpa(fx->vcpu, i * GIB(1) + MIB(500), XMMU_PROT_READ, 8, &r);
            g_assert_true(r.outcome == XMMU_HW_DIRECT && r.mmio);
            expect_within_limit(fx);
        }
        rcu_service_drain();
    }
    g_assert_cmpuint(fixture_stats(fx).reclaimed_tables, >, G_N_ELEMENTS(regions));
    fixture_free(fx);
}

/* Two vCPUs that take the tables from each other, each in its own order. */
#define FAR_SLOTS 256

typedef struct Walker {
    Fixture *fx;
    unsigned cpu, stride;
} Walker;

static void *walk_slots(void *opaque)
{
    const Walker *w = opaque;

    for (unsigned i = 0; i < 4 * FAR_SLOTS; i++) {
        unsigned n = i * w->stride % FAR_SLOTS;
        XmmuHwResult r;

        xmmu_hw_translate_gpa(w->fx->cpus[w->cpu], n * GIB(1), XMMU_PROT_WRITE, 8, &r);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
        g_assert_cmphex(r.hpa, ==, (uintptr_t)w->fx->ram + n * 0x1000);
        expect_within_limit(w->fx);
    }
    return NULL;
}

static void test_two_threads(void)
{
    const LimitCase c = { "", true, XMMU_TDP_NPT, MODE_NONE };
    Fixture *fx = new_vm(&c, 2);
    Walker walkers[2] = { { fx, 0, 1 }, { fx, 1, 37 } };
    pthread_t thread;
    XmmuRegion regions[FAR_SLOTS];

    fixture_add_cpu(fx, 1);
    for (unsigned i = 0; i < FAR_SLOTS; i++) {
        regions[i] = (XmmuRegion) {
            .gfn = i * (GIB(1) >> 12), .npages = 1, .hpa = (uintptr_t)fx->ram + i * 0x1000,
        };
    }
    g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, FAR_SLOTS));
    g_assert_cmpint(pthread_create(&thread, NULL, walk_slots, &walkers[1]), ==, 0);
    walk_slots(&walkers[0]);
    pthread_join(thread, NULL);
    g_assert_cmpuint(fixture_stats(fx).reclaimed_tables, >, FAR_SLOTS);
    fixture_free(fx);
}

/* ---- Who goes -------------------------------------------------------------------- */

/* After each new page the first one is used again, with a fault, and so stays. */
static bool is_mapped(Fixture *fx, gva_t gva)
{
    XmmuStats before = fixture_stats(fx);

    g_assert_cmpint(fixture_access(fx, 0, gva, XMMU_PROT_WRITE).outcome, ==, XMMU_HW_OK);
    return fixture_stats(fx).faults == before.faults;
}

static void test_lru_shadow(void)
{
    const LimitCase c = { "", false, XMMU_TDP_NPT, MODE_4L };
    Fixture *fx = new_vm(&c, 1);
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    unsigned mapped = 0;

    /* Of the hot table a new page is used each time; of the others one, once. */
    for (unsigned i = 0; i < FAR_PAGES; i++) {
        fixture_map(fx, &regs, far_gva(&c, i + 1), (MIB(16) + i * 0x1000) | PTE_PWU, 1);
        fixture_map(fx, &regs, i * 0x1000, (MIB(18) + i * 0x1000) | PTE_PWU, 1);
    }
    fixture_load(fx, 0, regs);
    for (unsigned i = 0; i < FAR_PAGES; i++) {
        fixture_expect_ok(fx, far_gva(&c, i + 1), XMMU_PROT_WRITE, MIB(16) + i * 0x1000);
        fixture_expect_ok(fx, i * 0x1000, XMMU_PROT_WRITE, MIB(18) + i * 0x1000);
    }
    g_assert_cmpuint(fixture_stats(fx).reclaimed_tables, >, FAR_PAGES / 2);
    /* The hot table has not gone once. */
    for (unsigned i = 0; i < FAR_PAGES; i++) {
        g_assert_true(is_mapped(fx, i * 0x1000));
    }
    /* Of the others the last ones are there, and none that is older than one that is
     * not; asked from the newest, for the question makes tables. */
    while (mapped < FAR_PAGES && is_mapped(fx, far_gva(&c, FAR_PAGES - mapped))) {
        mapped++;
    }
    g_assert_cmpuint(mapped, >=, 2);
    g_assert_cmpuint(mapped, <, FAR_PAGES / 2);
    fixture_free(fx);
}

/* The order itself: tables go from the end of the list, and using one moves it to the
 * front. */
static void test_lru_order(void)
{
    const LimitCase c = { "", false, XMMU_TDP_NPT, MODE_4L };
    Fixture *fx = new_vm(&c, 1);
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    XmmuTable *tail;

    for (unsigned i = 0; i < 4; i++) {
        fixture_map(fx, &regs, far_gva(&c, i), (MIB(16) + i * 0x1000) | PTE_PWU, 1);
    }
    fixture_map(fx, &regs, 0x1000, MIB(17) | PTE_PWU, 1);
    fixture_load(fx, 0, regs);
    for (unsigned i = 0; i < 4; i++) {
        fixture_expect_ok(fx, far_gva(&c, i), XMMU_PROT_WRITE, MIB(16) + i * 0x1000);
    }
    tail = fx->vm->shadow_tables.tail->data;
    g_assert_cmphex(tail->gfn << 12, ==, fixture_entry(fx, &regs, 0, 2) & XMMU_PAGE_MASK);
    fixture_expect_ok(fx, 0x1000, XMMU_PROT_WRITE, MIB(17));
    g_assert_true(fx->vm->shadow_tables.tail->data != tail);
    g_assert_cmphex(((XmmuTable *)fx->vm->shadow_tables.head->data)->gfn << 12, ==,
                    fixture_entry(fx, &regs, 0, 1) & XMMU_PAGE_MASK);
    fixture_free(fx);
}

/* A root that was loaded since is spared once, although no fault has used it. */
static void test_root_load_spares(void)
{
    const LimitCase c = { "", false, XMMU_TDP_NPT, MODE_4L };
    Fixture *fx = new_vm(&c, 1);
    XmmuRegs a = fixture_regs(MODE_4L, fixture_page(fx));
    XmmuRegs b = fixture_regs(MODE_4L, fixture_page(fx));
    XmmuTable *root;
    XmmuStats before;

    fixture_map(fx, &a, 0, MIB(16) | PTE_PWU, 1);
    fixture_map(fx, &b, 0, MIB(17) | PTE_PWU, 1);
    fixture_load(fx, 0, a);
    fixture_expect_ok(fx, 0, XMMU_PROT_WRITE, MIB(16));
    root = fx->vcpu->mmu->root.table;
    fixture_load(fx, 0, b);
    fixture_expect_ok(fx, 0, XMMU_PROT_WRITE, MIB(17));
    fixture_load(fx, 0, a);
    g_assert_true(root->referenced);
    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    xmmu_reclaim_begin(fx->vm);
    before = fx->vm->stats;
    while (fx->vm->stats.reclaimed_tables < before.reclaimed_tables + 5) {
        g_assert_false(xmmu_table_stale(root));
        g_assert_true(xmmu_reclaim_for(fx->vm, fx->config.table_memory -
                                               fx->vm->stats.table_bytes + 1));
    }
    xmmu_write_unlock(fx->vm);
    fixture_free(fx);
}

/* TDP: a table that faults keep using stays, others go in the order of their epochs. */
static void test_lru_tdp(void)
{
    const LimitCase c = { "", true, XMMU_TDP_NPT, MODE_NONE };
    Fixture *fx = new_vm(&c, 1);
    XmmuRegion regions[256];
    XmmuHwResult r;

    /* The first has a frame for each access that keeps it in use. */
    for (unsigned i = 0; i < G_N_ELEMENTS(regions); i++) {
        regions[i] = (XmmuRegion) {
            .gfn = i * (MIB(2) >> 12), .npages = 256, .hpa = (uintptr_t)fx->ram,
        };
    }
    g_assert_true(xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions,
                                     G_N_ELEMENTS(regions)));
    for (unsigned i = 1; i < G_N_ELEMENTS(regions); i++) {
        XmmuStats before;

        xmmu_hw_translate_gpa(fx->vcpu, i * MIB(2), XMMU_PROT_WRITE, 8, &r);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
        before = fixture_stats(fx);
        xmmu_hw_translate_gpa(fx->vcpu, i * 0x1000, XMMU_PROT_WRITE, 8, &r);
        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
        if (i > 1) {
            /* Its table was there. */
            g_assert_cmpuint(fixture_stats(fx).tables, ==, before.tables);
        }
        expect_within_limit(fx);
    }
    g_assert_cmpuint(fixture_stats(fx).reclaimed_tables, >, 100);
    fixture_free(fx);
}

/* ---- The floor --------------------------------------------------------------------- */

static void test_floor(void)
{
    g_assert_cmpuint(xmmu_table_memory_floor(1), >, 0);
    for (unsigned n = 1; n < 256; n++) {
        /* Each further vCPU needs a path of its own. */
        g_assert_cmpuint(xmmu_table_memory_floor(n + 1) - xmmu_table_memory_floor(n), >,
                         XMMU_MAX_LEVEL * 2 * XMMU_PAGE_SIZE);
    }
}

int main(int argc, char **argv)
{
    static const LimitCase cases[] = {
        { "npt", true, XMMU_TDP_NPT, MODE_NONE },
        { "ept", true, XMMU_TDP_EPT, MODE_NONE },
        { "shadow 32-bit", false, XMMU_TDP_NPT, MODE_32 },
        { "shadow pae", false, XMMU_TDP_NPT, MODE_PAE },
        { "shadow 4-level", false, XMMU_TDP_NPT, MODE_4L },
        { "shadow 5-level", false, XMMU_TDP_NPT, MODE_5L },
    };

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        bool tdp = cases[i].tdp;
        char *path = g_strdup_printf("/limits/%s/%s", tdp ? "sparse memory" : "far",
                                     cases[i].name);

        g_test_add_data_func(path, &cases[i], tdp ? check_sparse_memory : check_far);
        g_free(path);
    }
    g_test_add_func("/limits/lru/shadow", test_lru_shadow);
    g_test_add_func("/limits/lru/order", test_lru_order);
    g_test_add_func("/limits/lru/root load", test_root_load_spares);
    g_test_add_func("/limits/lru/tdp", test_lru_tdp);
    g_test_add_func("/limits/two threads", test_two_threads);
    g_test_add_func("/limits/floor", test_floor);
    return g_test_run();
}
