/*
 * xmmu: unit test of removing from TDP trees
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Ranges, whole trees through invalidated roots, write protection; what a vCPU sees
 * between the steps; that the lock is given away in the middle; that the flush
 * comes after the last entry has gone and before the call returns.
 */
#include "accel/xmmu/mmu/tdp.h"
#include "accel/xmmu/mmu/vm.h"
#include "fixture.h"

static Fixture *new_vm(bool huge, uint64_t ram)
{
    XmmuConfig config = fixture_config();

    config.huge_pages = huge;
    return fixture_new(&config, ram);
}

static void touch(Fixture *fx, gpa_t start, gpa_t end, uint64_t step)
{
    for (gpa_t gpa = start; gpa < end; gpa += step) {
        fixture_expect_ok(fx, gpa, XMMU_PROT_READ, gpa);
    }
}

/* RAM from 0 to @start and from @end on; MMIO between them. */
static void set_hole(Fixture *fx, gpa_t start, gpa_t end)
{
    XmmuRegion regions[] = {
        { .gfn = 0, .npages = start >> 12, .hpa = (uintptr_t)fx->ram },
        { .gfn = end >> 12, .npages = (fx->ram_size - end) >> 12,
          .hpa = (uintptr_t)fx->ram + end },
    };

    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, start ? regions : regions + 1,
                       start ? 2 : 1);
}

static uint64_t entry(Fixture *fx, gpa_t gpa, int level)
{
    return fixture_raw(fx, fixture_root(fx, 0), 4, gpa >> 12, level);
}

/* ---- Ranges --------------------------------------------------------------------- */

static void test_range(void)
{
    Fixture *fx = new_vm(false, MIB(16));
    XmmuStats before, after;

    touch(fx, 0, MIB(8), KIB(64));
    before = fixture_stats(fx);
    g_assert_cmpuint(before.tables, ==, 3 + 4);
    /* From the middle of a table over a whole one to the middle of another. */
    set_hole(fx, MIB(3), MIB(6) + KIB(128));
    after = fixture_stats(fx);
    g_assert_cmpuint(before.pages_4k - after.pages_4k, ==, 16 + 32 + 2);
    g_assert_cmpuint(after.tables, ==, before.tables - 1);
    g_assert_cmpuint(after.flushes, ==, before.flushes + 1);
    g_assert_cmphex(entry(fx, MIB(3) - KIB(64), 1), !=, 0);
    g_assert_cmphex(entry(fx, MIB(3), 1), ==, 0);
    g_assert_cmphex(entry(fx, MIB(4), 2), ==, 0);
    g_assert_cmphex(entry(fx, MIB(6) + KIB(64), 1), ==, 0);
    g_assert_cmphex(entry(fx, MIB(6) + KIB(128), 1), !=, 0);
    g_assert_true(fixture_access(fx, 0, MIB(3), XMMU_PROT_READ).mmio);
    fixture_expect_ok(fx, MIB(2), XMMU_PROT_WRITE, MIB(2));
    fixture_free(fx);
}

/* A large leaf goes if any of it does; tables go at every level. */
static void test_range_large(void)
{
    Fixture *fx = new_vm(true, GIB(4));
    XmmuStats stats;

    touch(fx, 0, MIB(4), MIB(2));                       /* 1 GiB leaf */
    g_assert_cmpuint(fixture_stats(fx).pages_1g, ==, 1);
    set_hole(fx, MIB(2), MIB(2) + KIB(4));
    g_assert_cmpuint(fixture_stats(fx).pages_1g, ==, 0);
    touch(fx, MIB(4), MIB(8), MIB(2));
    touch(fx, KIB(4), KIB(8), KIB(4));
    stats = fixture_stats(fx);
    g_assert_cmpuint(stats.pages_2m, ==, 3);
    g_assert_cmpuint(stats.pages_4k, ==, 0);
    g_assert_cmpuint(stats.tables, ==, 3);              /* 4, 3, one of level 2 */
    set_hole(fx, 0, 0);
    set_hole(fx, 0, GIB(2));
    stats = fixture_stats(fx);
    g_assert_cmpuint(stats.pages_2m, ==, 0);
    g_assert_cmpuint(stats.tables, ==, 2);
    g_assert_cmphex(entry(fx, 0, 3), ==, 0);
    fixture_free(fx);
}

/* Services that look at things when they are called. */
static struct {
    XmmuServices services;
    const XmmuServices *real;
    Fixture *fx;
    gpa_t gone;                 /* that no entry may map when the flush is ordered */
    unsigned flushes;
    void (*at_lock)(Fixture *fx);   /* once, before mmu_lock is taken for reading */
} spy;

static void spy_flush_all(void *opaque)
{
    spy.flushes++;
    g_assert_cmphex(fixture_raw(spy.fx, xmmu_table_hpa(spy.fx->vcpu->mmu->root.table), 4,
                                spy.gone >> 12, 1), ==, 0);
    spy.real->flush_all(opaque);
}

static void spy_rcu_lock(void)
{
    void (*fn)(Fixture *fx) = spy.at_lock;

    spy.real->rcu_read_lock();
    spy.at_lock = NULL;
    if (fn) {
        fn(spy.fx);
    }
}

static void spy_on(Fixture *fx)
{
    spy.fx = fx;
    spy.real = fx->vm->services;
    spy.services = *spy.real;
    spy.services.flush_all = spy_flush_all;
    spy.services.rcu_read_lock = spy_rcu_lock;
    spy.at_lock = NULL;
    spy.flushes = 0;
    fx->vm->services = &spy.services;
}

static void spy_off(Fixture *fx)
{
    fx->vm->services = spy.real;
}

/* The flush is ordered when the entries have gone, and before the call returns. */
static void test_flush_last(void)
{
    Fixture *fx = new_vm(false, MIB(16));

    touch(fx, 0, MIB(4), KIB(4));
    spy.gone = MIB(3);
    spy_on(fx);
    set_hole(fx, MIB(3), MIB(4));
    g_assert_cmpuint(spy.flushes, ==, 1);
    spy_off(fx);
    fixture_free(fx);
}

static void write_to_former_rom(Fixture *fx)
{
    fixture_expect_ok(fx, MIB(2) + 0x3008, XMMU_PROT_WRITE, MIB(2) + 0x3008);
}

/* New slots are published, the old entries not yet removed: a fault goes by the
 * slots. */
static void test_between_publish_and_zap(void)
{
    for (int huge = 0; huge < 2; huge++) {
        Fixture *fx = new_vm(huge, MIB(16));
        XmmuRegion ram = { .npages = MIB(16) >> 12, .hpa = (uintptr_t)fx->ram };
        XmmuRegion regions[] = {
            { .gfn = 0, .npages = 512, .hpa = (uintptr_t)fx->ram },
            { .gfn = 512, .npages = 512, .hpa = (uintptr_t)fx->ram + MIB(2),
              .flags = XMMU_REGION_READONLY },
        };

        xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, regions, 2);
        touch(fx, MIB(2), MIB(4), KIB(4));
        g_assert_cmpint(fixture_access(fx, 0, MIB(2) + 0x3008, XMMU_PROT_WRITE).outcome,
                        ==, XMMU_HW_DIRECT);
        spy.gone = MIB(8);
        spy_on(fx);
        spy.at_lock = write_to_former_rom;
        xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &ram, 1);
        g_assert_null(spy.at_lock);
        spy_off(fx);
        write_to_former_rom(fx);
        fixture_free(fx);
    }
}

/* ---- Yielding -------------------------------------------------------------------- */

typedef struct Watcher {
    Fixture *fx;
    gint stop, halfway;
} Watcher;

/* Who waits for the write side gets it while a zap is under way. */
static gpointer watch(gpointer opaque)
{
    Watcher *watcher = opaque;
    XmmuVm *vm = watcher->fx->vm;
    XmmuTable *root;

    while (!g_atomic_int_get(&watcher->stop)) {
        xmmu_write_lock(vm, XMMU_REASON_GUEST);
        root = watcher->fx->vcpu->mmu->root.table;
        /* The first page has gone, the last has not. */
        if (!fixture_raw(watcher->fx, xmmu_table_hpa(root), 4, 0, 1) &&
            fixture_raw(watcher->fx, xmmu_table_hpa(root), 4, MIB(62) >> 12, 1)) {
            g_atomic_int_set(&watcher->halfway, 1);
        }
        xmmu_write_unlock(vm);
    }
    return NULL;
}

static void test_yields(void)
{
    Fixture *fx = new_vm(false, MIB(64));
    Watcher watcher = { .fx = fx };
    GThread *thread;

    for (int round = 0; !watcher.halfway; round++) {
        /* Whole tables, of which each is one step. */
        XmmuRegion none = { .gfn = MIB(64) >> 12, .npages = 1, .hpa = (uintptr_t)fx->ram };
        XmmuRegion ram = { .npages = MIB(64) >> 12, .hpa = (uintptr_t)fx->ram };

        g_assert_cmpint(round, <, 1000);
        xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &ram, 1);
        touch(fx, 0, MIB(64), MIB(2));
        watcher.stop = 0;
        thread = g_thread_new("watcher", watch, &watcher);
        xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, &none, 1);
        g_atomic_int_set(&watcher.stop, 1);
        g_thread_join(thread);
        g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 0);
    }
    fixture_free(fx);
}

/* ---- Invalidated roots ------------------------------------------------------------ */

static XmmuTable *root_of(Fixture *fx, unsigned cpu)
{
    return fx->cpus[cpu]->mmu->root.table;
}

static XmmuTable *table_below(XmmuTable *table, unsigned index)
{
    return xmmu_table_at(xmmu_spte_hpa(xmmu_spte_read(&table->spt[index])));
}

static void test_invalidated(void)
{
    Fixture *fx = new_vm(false, MIB(16));
    XmmuTable *old, *child;
    XmmuSpte *spt;
    XmmuStats before, after;
    XmmuRootInfo info;

    fixture_add_cpu(fx, 1);
    touch(fx, 0, MIB(4), KIB(64));
    g_assert_cmpint(fixture_access(fx, 1, 0, XMMU_PROT_READ).outcome, ==, XMMU_HW_OK);
    old = root_of(fx, 0);
    g_assert_true(old == root_of(fx, 1));
    child = table_below(old, 0);
    spt = old->spt;
    g_assert_true(xmmu_tdp_table_live(old) && xmmu_tdp_table_live(child));
    before = fixture_stats(fx);

    rcu_service_lock();         /* the tables stay readable */
    xmmu_vm_zap_all(fx->vm);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.flushes, ==, before.flushes + 1);
    g_assert_cmpuint(after.pages_4k, ==, 0);
    g_assert_cmpuint(after.tables, ==, 1);          /* the root that vCPUs hold */
    g_assert_false(xmmu_tdp_table_live(old) || xmmu_tdp_table_live(child));
    g_assert_true(xmmu_table_unlinked(child) && child->root == old);
    rcu_service_unlock();
    g_assert_cmpuint(xmmu_vcpu_roots(fx->cpus[0], &info, 1), ==, 1);
    g_assert_false(info.valid);

    /* Each goes to the new root at its next fault. */
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_WRITE, 0x5000);
    g_assert_true(root_of(fx, 0) != old && root_of(fx, 1) == old);
    rcu_service_drain();
    g_assert_true(xmmu_table_of(spt) == old);       /* the second vCPU has it */
    g_assert_cmpint(fixture_access(fx, 1, 0x5000, XMMU_PROT_WRITE).outcome, ==,
                    XMMU_HW_OK);
    g_assert_true(root_of(fx, 1) == root_of(fx, 0));
    g_assert_cmpuint(fixture_stats(fx).roots_new, ==, before.roots_new + 1);
    g_assert_cmpuint(fixture_stats(fx).tables, ==, 4);
    fixture_free(fx);
}

/* A root that waits in the cache, of another address space, is noticed as well. */
static void test_invalidated_in_cache(void)
{
    Fixture *fx = new_vm(false, MIB(16));
    XmmuRegs regs = fixture_regs(MODE_NONE, 0);
    XmmuTable *normal, *smm;

    fixture_expect_ok(fx, 0x5000, XMMU_PROT_READ, 0x5000);
    normal = root_of(fx, 0);
    regs.smm = true;
    xmmu_vcpu_set_regs(fx->vcpu, &regs);
    fixture_expect_ok(fx, 0x5000, XMMU_PROT_READ, 0x5000);
    smm = root_of(fx, 0);
    g_assert_true(smm != normal);
    xmmu_vm_zap_all(fx->vm);
    for (int round = 0; round < 2; round++) {
        regs.smm = !regs.smm;
        xmmu_vcpu_set_regs(fx->vcpu, &regs);
        fixture_expect_ok(fx, 0x6000, XMMU_PROT_READ, 0x6000);
        g_assert_true(xmmu_tdp_table_live(root_of(fx, 0)));
    }
    g_assert_cmpuint(fixture_stats(fx).tables, ==, 8);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 2);
    fixture_free(fx);
}

/* ---- Write protection ----------------------------------------------------------------- */

static void test_write_protect(void)
{
    for (int huge = 0; huge < 2; huge++) {
        Fixture *fx = new_vm(huge, MIB(16));
        uint64_t lost;
        bool changed;

        for (gpa_t gpa = MIB(2); gpa < MIB(2) + KIB(16); gpa += KIB(4)) {
            fixture_expect_ok(fx, gpa, XMMU_PROT_WRITE, gpa);
        }
        lost = fx->vm->rights_lost;
        xmmu_write_lock(fx->vm, XMMU_REASON_HOST);
        changed = xmmu_tdp_write_protect_gfn(fx->vm, XMMU_AS_NORMAL, (MIB(2) >> 12) + 1);
        g_assert_true(changed && fx->vm->writer.flush_owed);
        changed = xmmu_tdp_write_protect_gfn(fx->vm, XMMU_AS_NORMAL, (MIB(2) >> 12) + 1);
        g_assert_false(changed);
        g_assert_false(xmmu_tdp_write_protect_gfn(fx->vm, XMMU_AS_SMM, 0));
        xmmu_write_unlock(fx->vm);
        g_assert_cmpuint(fx->vm->rights_lost, >, lost);
        if (huge) {
            g_assert_cmphex(entry(fx, MIB(2), 2), ==, 0);
        } else {
            g_assert_cmphex(entry(fx, MIB(2), 1) & PTE_W, !=, 0);
            g_assert_cmphex(entry(fx, MIB(2) + KIB(4), 1) & (PTE_P | PTE_W), ==, PTE_P);
            g_assert_cmphex(entry(fx, MIB(2) + KIB(8), 1) & PTE_W, !=, 0);
        }
        /* Nobody tracks it: the next write gets the right back. */
        fixture_expect_ok(fx, MIB(2) + KIB(4), XMMU_PROT_READ, MIB(2) + KIB(4));
        fixture_expect_ok(fx, MIB(2) + KIB(4), XMMU_PROT_WRITE, MIB(2) + KIB(4));
        fixture_free(fx);
    }
}

static void test_write_protect_range(void)
{
    Fixture *fx = new_vm(false, MIB(16));
    XmmuHold hold;

    for (gpa_t gpa = 0; gpa < MIB(4); gpa += KIB(4)) {
        fixture_expect_ok(fx, gpa, XMMU_PROT_WRITE, gpa);
    }
    xmmu_read_lock(&hold, fx->vm, NULL, XMMU_REASON_HOST);
    g_assert_true(xmmu_tdp_write_protect_range(&hold, XMMU_AS_NORMAL, 5, 1000));
    g_assert_true(hold.flush_owed);
    xmmu_read_unlock(&hold);
    g_assert_cmpint(fx->flushes, ==, 1);
    for (gfn_t gfn = 0; gfn < 1024; gfn++) {
        uint64_t now = entry(fx, gfn << 12, 1);

        g_assert_cmpint(!(now & PTE_W), ==, gfn >= 5 && gfn < 1005);
        g_assert_cmphex(now & (PTE_P | PTE_D), ==, PTE_P | PTE_D);
    }
    xmmu_read_lock(&hold, fx->vm, NULL, XMMU_REASON_HOST);
    g_assert_false(xmmu_tdp_write_protect_range(&hold, XMMU_AS_NORMAL, 5, 1000));
    g_assert_false(hold.flush_owed);
    xmmu_read_unlock(&hold);
    fixture_free(fx);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tdp-zap/range", test_range);
    g_test_add_func("/tdp-zap/range of large pages", test_range_large);
    g_test_add_func("/tdp-zap/flush last", test_flush_last);
    g_test_add_func("/tdp-zap/between publish and zap", test_between_publish_and_zap);
    g_test_add_func("/tdp-zap/yields", test_yields);
    g_test_add_func("/tdp-zap/invalidated roots", test_invalidated);
    g_test_add_func("/tdp-zap/invalidated in the cache", test_invalidated_in_cache);
    g_test_add_func("/tdp-zap/write protect", test_write_protect);
    g_test_add_func("/tdp-zap/write protect a range", test_write_protect_range);
    return g_test_run();
}
