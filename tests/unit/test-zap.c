/*
 * xmmu: unit test of accel/xmmu/mmu/shadow_zap.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shadow tables that go: nobody uses them from that moment on, and however many there
 * are, no hold of mmu_lock takes down more than a slice of them.  Counted, not timed.
 */
#include "accel/xmmu/mmu/shadow.h"
#include "fixture.h"

#define RAM     MIB(32)
#define BASE    0x40000000ull
#define PAGES   4096u           /* eight slices and more */

/* A guest that maps PAGES small pages from BASE on, to those from 8 MiB on. */
static Fixture *new_vm(unsigned mode, XmmuRegs *regs)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, RAM);

    *regs = fixture_regs(mode, fixture_page(fx));
    for (unsigned i = 0; i < PAGES; i++) {
        fixture_map(fx, regs, BASE + i * 0x1000, (MIB(8) + i * 0x1000) | PTE_PWU, 1);
    }
    fixture_load(fx, 0, *regs);
    return fx;
}

static void touch(Fixture *fx, unsigned pages)
{
    for (unsigned i = 0; i < pages; i++) {
        fixture_expect_ok(fx, BASE + i * 0x1000, XMMU_PROT_WRITE, MIB(8) + i * 0x1000);
    }
}

static void new_generation(Fixture *fx)
{
    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    xmmu_shadow_new_generation(fx->vm);
    xmmu_write_unlock(fx->vm);
}

static void expect_slices(XmmuStats before, XmmuStats after, uint64_t least)
{
    g_assert_cmpuint(after.zaps - before.zaps, >=, least);
    g_assert_cmpuint(after.zap_hold_max, >, 0);
    g_assert_cmpuint(after.zap_hold_max, <=, XMMU_ZAP_SLICE);
}

static void check_zap_all(gconstpointer data)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(GPOINTER_TO_UINT(data), &regs);
    XmmuStats before, after;
    int flushes;

    touch(fx, PAGES);
    before = fixture_stats(fx);
    flushes = fx->flushes;
    xmmu_vm_zap_all(fx->vm);
    after = fixture_stats(fx);
    g_assert_cmpint(fx->flushes, ==, flushes + 1);
    g_assert_cmpuint(after.pages_4k, ==, 0);
    expect_slices(before, after, PAGES);
    touch(fx, 16);
    fixture_free(fx);
}

/* All RAM moves to other frames: all mappings go, and all tables. */
static void check_slot_change(gconstpointer data)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(GPOINTER_TO_UINT(data), &regs);
    XmmuStats before;
    int flushes;

    touch(fx, PAGES);
    before = fixture_stats(fx);
    flushes = fx->flushes;
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, NULL, 0);
    g_assert_cmpint(fx->flushes, ==, flushes + 1);
    expect_slices(before, fixture_stats(fx), PAGES);
    g_assert_cmpuint(fixture_stats(fx).pages_4k, ==, 0);
    g_assert_null(fx->vm->obsolete.head);
    fixture_free(fx);
}

/* A frame that half the guest's entries map. */
static void test_shared_frame(void)
{
    XmmuRegion hole[2] = {
        { .gfn = 0, .npages = MIB(8) >> 12 },
        { .gfn = (MIB(8) >> 12) + 1, .npages = ((RAM - MIB(8)) >> 12) - 1 },
    };
    XmmuRegs regs;
    Fixture *fx = new_vm(MODE_4L, &regs);
    XmmuStats before, after;

    for (unsigned i = 0; i < PAGES; i += 2) {
        fixture_map(fx, &regs, BASE + i * 0x1000, MIB(8) | PTE_PWU, 1);
    }
    fixture_load(fx, 0, regs);
    for (unsigned i = 0; i < PAGES; i++) {
        fixture_expect_ok(fx, BASE + i * 0x1000, XMMU_PROT_READ,
                          MIB(8) + (i & 1 ? i * 0x1000 : 0));
    }
    before = fixture_stats(fx);
    for (unsigned i = 0; i < G_N_ELEMENTS(hole); i++) {
        hole[i].hpa = (uintptr_t)fx->ram + (hole[i].gfn << 12);
    }
    xmmu_vm_set_memory(fx->vm, XMMU_AS_NORMAL, hole, G_N_ELEMENTS(hole));
    after = fixture_stats(fx);
    expect_slices(before, after, PAGES / 2);
    g_assert_cmpuint(before.pages_4k - after.pages_4k, ==, PAGES / 2);
    fixture_free(fx);
}

/* From the new generation on, what the old tables say counts for nothing, although
 * they are all still there. */
static void check_stale(gconstpointer data)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(GPOINTER_TO_UINT(data), &regs);
    XmmuStats before;
    hpa_t root;

    touch(fx, 16);
    root = fixture_root(fx, 0);
    before = fixture_stats(fx);
    new_generation(fx);
    g_assert_cmpuint(fixture_stats(fx).tables, ==, before.tables);
    /* Behind the back of write tracking, as loadvm does. */
    fixture_map(fx, &regs, BASE, MIB(7) | PTE_PWU, 1);
    fixture_expect_ok(fx, BASE, XMMU_PROT_WRITE, MIB(7));
    g_assert_cmphex(fixture_root(fx, 0), !=, root);
    fixture_free(fx);
}

/* A cached root of an older generation is no hit. */
static void test_stale_prev_root(void)
{
    XmmuRegs a, b;
    Fixture *fx = new_vm(MODE_4L, &a);
    XmmuStats before;

    b = fixture_regs(MODE_4L, fixture_page(fx));
    fixture_map(fx, &b, BASE, MIB(9) | PTE_PWU, 1);
    touch(fx, 1);
    fixture_load(fx, 0, b);
    fixture_expect_ok(fx, BASE, XMMU_PROT_WRITE, MIB(9));
    fixture_load(fx, 0, a);
    touch(fx, 1);
    new_generation(fx);
    before = fixture_stats(fx);
    fixture_load(fx, 0, b);
    g_assert_cmpuint(fixture_stats(fx).root_hits, ==, before.root_hits);
    fixture_expect_ok(fx, BASE, XMMU_PROT_WRITE, MIB(9));
    fixture_free(fx);
}

/* Stale tables shadow nothing: a write to their guest table is not their business. */
static void test_stale_not_tracked(void)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(MODE_4L, &regs);
    hfn_t hfn;

    touch(fx, 1);
    hfn = ((uintptr_t)fx->ram + (fixture_entry(fx, &regs, BASE, 1) & XMMU_PAGE_MASK))
          >> XMMU_PAGE_SHIFT;
    xmmu_write_lock(fx->vm, XMMU_REASON_GUEST);
    g_assert_nonnull(xmmu_track_first(fx->vm, hfn).table);
    xmmu_shadow_new_generation(fx->vm);
    g_assert_null(xmmu_track_first(fx->vm, hfn).table);
    g_assert_false(xmmu_track_protected(fx->vm, hfn));
    xmmu_write_unlock(fx->vm);
    fixture_free(fx);
}

/* Nobody may be left to finish: faults do it, a bounded piece each. */
static void test_faults_finish(void)
{
    XmmuRegs regs;
    Fixture *fx = new_vm(MODE_4L, &regs);
    XmmuStats before;
    unsigned faults = 0;

    touch(fx, 1024);
    new_generation(fx);
    while (fx->vm->obsolete.head) {
        before = fixture_stats(fx);
        touch(fx, ++faults);
        g_assert_cmpuint(fixture_stats(fx).zaps - before.zaps, <=, 64);
        g_assert_cmpuint(faults, <, 1024);
    }
    g_assert_cmpuint(faults, >=, 1024 / 64);
    touch(fx, 1024);
    fixture_free(fx);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    fixture_add_modes("/zap/all", check_zap_all);
    fixture_add_modes("/zap/slot change", check_slot_change);
    fixture_add_modes("/zap/stale", check_stale);
    g_test_add_func("/zap/shared frame", test_shared_frame);
    g_test_add_func("/zap/stale previous root", test_stale_prev_root);
    g_test_add_func("/zap/stale tables are not tracked", test_stale_not_tracked);
    g_test_add_func("/zap/faults finish", test_faults_finish);
    return g_test_run();
}
