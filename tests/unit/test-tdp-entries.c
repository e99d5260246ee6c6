/*
 * xmmu: unit test of the writer of TDP entries and of the iterator
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Any change of an entry to any other, and what must follow from it: counts, owed
 * flushes, tables that are dismantled and freed; frozen entries; every step of the
 * iterator, also when the table where it stands goes away.
 */
#include "accel/xmmu/mmu/flush.h"
#include "accel/xmmu/mmu/tdp.h"
#include "accel/xmmu/mmu/tdp_iter.h"
#include "fixture.h"

#define L1 XMMU_LEVEL_4K
#define L2 XMMU_LEVEL_2M

/* A holding of the read side and the tree of the normal address space. */
typedef struct World {
    Fixture *fx;
    XmmuVm *vm;
    XmmuHold hold;
    XmmuTable *root;
    const XmmuHostFormat *format;
} World;

static World *world_new(bool huge)
{
    XmmuConfig config = fixture_config();
    World *w = g_new0(World, 1);

    config.huge_pages = huge;
    w->fx = fixture_new(&config, MIB(64));
    w->vm = w->fx->vm;
    w->format = w->vm->format;
    return w;
}

static void world_free(World *w)
{
    fixture_free(w->fx);
    g_free(w);
}

static void lock(World *w, XmmuReason reason)
{
    xmmu_read_lock(&w->hold, w->vm, NULL, reason);
    w->root = xmmu_tdp_root_find(&w->hold, XMMU_AS_NORMAL);
    g_assert_nonnull(w->root);
}

static void unlock(World *w)
{
    xmmu_tdp_root_put(&w->hold, w->root);
    xmmu_read_unlock(&w->hold);
}

static void touch(World *w, gpa_t gpa)
{
    fixture_expect_ok(w->fx, gpa, XMMU_PROT_READ, gpa);
}

/* Stand on the entry for @gfn at @level. */
static XmmuTdpIter find(World *w, gfn_t gfn, int level)
{
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, &w->hold, w->root, gfn, gfn + 1, level);
    while (xmmu_tdp_iter_next(&iter)) {
        if (iter.level == level) {
            return iter;
        }
    }
    g_assert_not_reached();
}

static XmmuSpte leaf(World *w, gpa_t gpa, int level, uint8_t access)
{
    XmmuLeaf l = { .hpa = (uintptr_t)w->fx->ram + gpa, .level = level, .access = access };

    return xmmu_spte_leaf(w->format, &l);
}

static void expect_leaves(World *w, uint64_t small, uint64_t large)
{
    XmmuStats s = fixture_stats(w->fx);

    g_assert_cmpuint(s.pages_4k, ==, small);
    g_assert_cmpuint(s.pages_2m, ==, large);
}

/* ---- Rights and flushes ------------------------------------------------------- */

/* Change the small leaf of page 0 from @from to @to; was a flush owed? */
static bool owes(uint8_t from, uint8_t to, gpa_t other)
{
    World *w = world_new(false);
    uint64_t lost;
    XmmuTdpIter iter;
    bool owed;

    touch(w, 0);
    lock(w, XMMU_REASON_GUEST);
    iter = find(w, 0, L1);
    g_assert_true(xmmu_tdp_iter_set(&iter, leaf(w, 0, L1, from)));
    unlock(w);
    lock(w, XMMU_REASON_GUEST);
    iter = find(w, 0, L1);
    lost = w->vm->rights_lost;
    g_assert_true(xmmu_tdp_iter_set(&iter, to ? leaf(w, other, L1, to)
                                              : (XmmuSpte) { 0 }));
    owed = w->hold.flush_owed;
    g_assert_cmpint(owed, ==, w->vm->rights_lost != lost);
    unlock(w);
    expect_leaves(w, !!to, 0);
    world_free(w);
    return owed;
}

static void test_rights(void)
{
    enum { R = XMMU_ACC_USER, W = XMMU_ACC_WRITE | R, X = XMMU_ACC_EXEC | R, A = W | X };

    g_assert_false(owes(R, W, 0));
    g_assert_false(owes(R, A, 0));
    g_assert_false(owes(A, A, 0));
    g_assert_true(owes(A, W, 0));
    g_assert_true(owes(A, X, 0));
    g_assert_true(owes(W, X, 0));
    g_assert_true(owes(R, 0, 0));
    /* Another page. */
    g_assert_true(owes(R, A, 0x5000));
}

/* Who pays: HOST at the release, a slice and the guest not. */
static void test_payment(void)
{
    static const XmmuReason reasons[] = {
        XMMU_REASON_HOST, XMMU_REASON_GUEST, XMMU_REASON_SLICE,
    };
    World *w = world_new(false);

    for (size_t i = 0; i < G_N_ELEMENTS(reasons); i++) {
        int before = w->fx->flushes;
        XmmuTdpIter iter;

        touch(w, 0x3000);
        lock(w, reasons[i]);
        iter = find(w, 3, L1);
        g_assert_true(xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 }));
        g_assert_cmpint(w->fx->flushes, ==, before);
        unlock(w);
        g_assert_cmpint(w->fx->flushes, ==, before + (reasons[i] == XMMU_REASON_HOST));
        /* Nothing changed: nothing is owed. */
        lock(w, reasons[i]);
        unlock(w);
        g_assert_cmpint(w->fx->flushes, ==, before + (reasons[i] == XMMU_REASON_HOST));
    }
    world_free(w);
}

/* What slices owe is paid by the holding that closes the batch, once, and the tables
 * that they removed are there until then. */
static void test_batch(void)
{
    World *w = world_new(false);
    XmmuTable *tables[2];
    XmmuSpte *spt[2];

    for (unsigned i = 0; i < 2; i++) {
        XmmuTdpIter iter;

        touch(w, i * MIB(2));
        lock(w, XMMU_REASON_SLICE);
        iter = find(w, i * MIB(2) >> 12, L2);
        tables[i] = xmmu_table_at(xmmu_spte_hpa(iter.old));
        spt[i] = tables[i]->spt;
        g_assert_true(xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 }));
        unlock(w);
    }
    rcu_service_drain();
    g_assert_cmpint(w->fx->flushes, ==, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_true(xmmu_table_of(spt[i]) == tables[i]);
    }
    /* Not the guest's debt. */
    lock(w, XMMU_REASON_GUEST);
    unlock(w);
    g_assert_cmpint(w->fx->flushes, ==, 0);
    lock(w, XMMU_REASON_HOST);
    unlock(w);
    g_assert_cmpint(w->fx->flushes, ==, 1);
    rcu_service_drain();
    for (unsigned i = 0; i < 2; i++) {
        g_assert_null(xmmu_table_of(spt[i]));
    }
    lock(w, XMMU_REASON_HOST);
    unlock(w);
    g_assert_cmpint(w->fx->flushes, ==, 1);
    world_free(w);
}

/* ---- Leaf and table ------------------------------------------------------------- */

/* A table with all that the large leaf at @gpa had, but for entry @hole. */
static XmmuTable *small_pages(World *w, const XmmuTdpIter *iter, gpa_t gpa, unsigned hole)
{
    XmmuTable *table = xmmu_table_new_child(&w->hold, iter->table, iter->index);

    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        if (i != hole) {
            xmmu_tdp_init(&w->hold, table, i, leaf(w, gpa + i * XMMU_PAGE_SIZE, L1,
                                                   XMMU_ACC_ALL));
        }
    }
    return table;
}

static XmmuSpte link_to(World *w, const XmmuTable *table)
{
    return xmmu_spte_table(w->format, xmmu_table_hpa(table), false);
}

static void test_split(void)
{
    for (unsigned hole = XMMU_ENTRIES - 1; hole <= XMMU_ENTRIES; hole++) {
        World *w = world_new(true);
        bool all = hole == XMMU_ENTRIES;
        XmmuTdpIter iter;
        XmmuTable *table;

        touch(w, MIB(4));
        expect_leaves(w, 0, 1);
        lock(w, XMMU_REASON_GUEST);
        iter = find(w, MIB(4) >> 12, L2);
        table = small_pages(w, &iter, MIB(4), hole);
        g_assert_true(table->ptep == &iter.table->spt[iter.index]);
        g_assert_true(table->root == w->root);
        g_assert_true(xmmu_tdp_iter_set(&iter, link_to(w, table)));
        g_assert_cmpint(w->hold.flush_owed, ==, !all);
        unlock(w);
        expect_leaves(w, all ? 512 : 511, 0);
        fixture_expect_ok(w->fx, MIB(4) + 0x5008, XMMU_PROT_WRITE, MIB(4) + 0x5008);
        world_free(w);
    }
}

/* A table that lost the race is no loss. */
static void test_discard(void)
{
    World *w = world_new(true);
    XmmuStats before;
    XmmuTdpIter iter;
    XmmuTable *table;

    touch(w, MIB(4));
    before = fixture_stats(w->fx);
    lock(w, XMMU_REASON_GUEST);
    iter = find(w, MIB(4) >> 12, L2);
    table = small_pages(w, &iter, MIB(4), XMMU_ENTRIES);
    g_assert_false(xmmu_tdp_set(&w->hold, iter.table, iter.index, (XmmuSpte) { 0 },
                                link_to(w, table)));
    g_assert_false(w->hold.flush_owed);
    xmmu_table_discard(&w->hold, table);
    unlock(w);
    expect_leaves(w, 0, 1);
    g_assert_cmpuint(fixture_stats(w->fx).tables, ==, before.tables);
    g_assert_cmpuint(fixture_stats(w->fx).table_bytes, ==, before.table_bytes);
    world_free(w);
}

/* The table at @iter's entry leaves the tree. */
static void expect_dismantled(World *w, const XmmuTable *table)
{
    g_assert_true(xmmu_table_unlinked(table));
    g_assert_false(xmmu_tdp_table_live(table));
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        g_assert_cmphex(table->spt[i].raw, ==, XMMU_SPTE_FROZEN);
        /* Nobody can install anything, and nobody waits for ever. */
        XmmuSpte now;

        g_assert_false(xmmu_tdp_read(table, i, &now));
        g_assert_false(xmmu_tdp_set(&w->hold, (XmmuTable *)table, i, (XmmuSpte) { 0 },
                                    leaf(w, 0, L1, XMMU_ACC_ALL)));
    }
}

/* Small pages become a large one; a late dirty bit is not lost. */
static void test_promote(void)
{
    for (int dirty = 0; dirty < 2; dirty++) {
        World *w = world_new(false);
        XmmuStats before;
        XmmuTdpIter iter;
        XmmuTable *table;
        XmmuSpte old;

        for (gpa_t gpa = MIB(2); gpa < MIB(4); gpa += XMMU_PAGE_SIZE) {
            touch(w, gpa);
        }
        if (dirty) {
            fixture_expect_ok(w->fx, MIB(2) + 0x9000, XMMU_PROT_WRITE, MIB(2) + 0x9000);
        }
        before = fixture_stats(w->fx);
        lock(w, XMMU_REASON_HOST);
        iter = find(w, MIB(2) >> 12, L2);
        old = iter.old;
        table = xmmu_table_at(xmmu_spte_hpa(old));
        g_assert_true(xmmu_tdp_table_live(table));
        g_assert_true(xmmu_tdp_freeze(&w->hold, iter.table, iter.index, old));
        g_assert_false(xmmu_tdp_freeze(&w->hold, iter.table, iter.index, old));
        g_assert_false(xmmu_tdp_set(&w->hold, iter.table, iter.index, old,
                                    (XmmuSpte) { 0 }));
        g_assert_cmpint(xmmu_tdp_detach(&w->hold, table), ==, dirty);
        g_assert_false(xmmu_tdp_detach(&w->hold, table));
        xmmu_tdp_unfreeze(&w->hold, iter.table, iter.index, old,
                          leaf(w, MIB(2), L2, XMMU_ACC_ALL));
        expect_dismantled(w, table);
        g_assert_true(w->hold.flush_owed);
        g_assert_true(w->hold.doomed == table);
        unlock(w);
        expect_leaves(w, 0, 1);
        g_assert_cmpuint(fixture_stats(w->fx).tables, ==, before.tables - 1);
        /* Paid, and freed once no reader can be in it. */
        g_assert_null(w->hold.doomed);
        g_assert_true(xmmu_table_of(table->spt) == table);
        rcu_service_drain();
        world_free(w);
    }
}

/* The removal of a table counts what was below it, at any depth, once. */
static void test_subtree(void)
{
    World *w = world_new(false);
    XmmuStats before, after;
    XmmuTdpIter iter;

    for (gpa_t gpa = 0; gpa < MIB(8); gpa += KIB(64)) {
        touch(w, gpa);
    }
    fixture_access(w->fx, 0, 0xfee00000, XMMU_PROT_READ);    /* cached MMIO */
    before = fixture_stats(w->fx);
    lock(w, XMMU_REASON_HOST);
    iter = find(w, 0, 4);
    g_assert_true(xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 }));
    unlock(w);
    expect_leaves(w, 0, 0);
    after = fixture_stats(w->fx);
    g_assert_cmpuint(after.tables, ==, 1 + (before.tables - 1) - 8);
    g_assert_cmpuint(after.zaps - before.zaps, ==, 128 + 8);
    g_assert_cmpuint(after.flushes - before.flushes, ==, 1);
    world_free(w);
}

/* ---- Frozen entries --------------------------------------------------------------- */

typedef struct Faulting {
    Fixture *fx;
    gint done;
} Faulting;

static gpointer fault_once(gpointer opaque)
{
    Faulting *f = opaque;
    XmmuHwResult r = fixture_access(f->fx, 1, 0x7000, XMMU_PROT_READ);

    g_atomic_int_set(&f->done, 1);
    g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    g_assert_cmphex(r.hpa, ==, (uintptr_t)f->fx->ram + 0x7000);
    return NULL;
}

/* A fault that meets a frozen entry waits for what its owner makes of it. */
static void test_fault_waits(void)
{
    World *w = world_new(false);
    Faulting f = { .fx = w->fx };
    XmmuSpte value = leaf(w, 0x7000, L1, XMMU_ACC_ALL);
    GThread *thread;
    XmmuTdpIter iter;

    fixture_add_cpu(w->fx, 1);
    touch(w, 0x6000);
    lock(w, XMMU_REASON_GUEST);
    iter = find(w, 7, L1);
    g_assert_true(xmmu_tdp_freeze(&w->hold, iter.table, iter.index, iter.old));
    thread = g_thread_new("fault", fault_once, &f);
    while (!__atomic_load_n(&w->fx->cpus[1]->lock_slot.readers, __ATOMIC_RELAXED)) {
        g_thread_yield();       /* until it is inside its fault */
    }
    for (int i = 0; i < 100; i++) {
        g_thread_yield();
        g_assert_cmpint(g_atomic_int_get(&f.done), ==, 0);
    }
    xmmu_tdp_unfreeze(&w->hold, iter.table, iter.index, iter.old, value);
    unlock(w);
    g_thread_join(thread);
    g_assert_cmpuint(fixture_stats(w->fx).faults_spurious, ==, 1);
    expect_leaves(w, 2, 0);
    world_free(w);
}

/* ---- The iterator ------------------------------------------------------------------ */

typedef struct Visit {
    int level;
    gfn_t gfn;
} Visit;

static void expect_next(XmmuTdpIter *iter, Visit visit)
{
    g_assert_true(xmmu_tdp_iter_next(iter));
    g_assert_cmpint(iter->level, ==, visit.level);
    g_assert_cmphex(iter->gfn, ==, visit.gfn);
    g_assert_true(iter->table->role.level == visit.level &&
                  iter->index == xmmu_level_index(visit.gfn, visit.level));
}

static void test_order(void)
{
    World *w = world_new(false);
    XmmuTdpIter iter;

    touch(w, MIB(2) + 0x1000);
    touch(w, MIB(6));
    lock(w, XMMU_REASON_GUEST);
    /* From the last page of the first table to the third of the fourth. */
    xmmu_tdp_iter_begin(&iter, &w->hold, w->root, 0x3ff, 0x602, L1);
    expect_next(&iter, (Visit) { 4, 0 });
    expect_next(&iter, (Visit) { 3, 0 });
    expect_next(&iter, (Visit) { 2, 0x200 });
    expect_next(&iter, (Visit) { 1, 0x3ff });
    expect_next(&iter, (Visit) { 2, 0x400 });
    expect_next(&iter, (Visit) { 2, 0x600 });
    expect_next(&iter, (Visit) { 1, 0x600 });
    expect_next(&iter, (Visit) { 1, 0x601 });
    g_assert_false(xmmu_tdp_iter_next(&iter));
    g_assert_false(xmmu_tdp_iter_next(&iter));
    /* No deeper than asked; to the end of the tree. */
    xmmu_tdp_iter_begin(&iter, &w->hold, w->root, 0x3ff, XMMU_NO_GFN, L2);
    expect_next(&iter, (Visit) { 4, 0 });
    expect_next(&iter, (Visit) { 3, 0 });
    for (gfn_t gfn = 0x200; gfn < 0x40000; gfn += 0x200) {
        expect_next(&iter, (Visit) { 2, gfn });
    }
    for (gfn_t gfn = 0x40000; gfn < 1ull << 27; gfn += 0x40000) {
        expect_next(&iter, (Visit) { 3, gfn });
    }
    for (gfn_t gfn = 1ull << 27; gfn < 1ull << 36; gfn += 1ull << 27) {
        expect_next(&iter, (Visit) { 4, gfn });
    }
    g_assert_false(xmmu_tdp_iter_next(&iter));
    unlock(w);
    world_free(w);
}

static void test_steps(void)
{
    World *w = world_new(false);
    XmmuTdpIter iter;

    touch(w, MIB(2));
    lock(w, XMMU_REASON_GUEST);
    xmmu_tdp_iter_begin(&iter, &w->hold, w->root, 0x200, 0x600, L1);
    expect_next(&iter, (Visit) { 4, 0 });
    g_assert_false(xmmu_tdp_iter_step_up(&iter));
    expect_next(&iter, (Visit) { 3, 0 });
    expect_next(&iter, (Visit) { 2, 0x200 });
    expect_next(&iter, (Visit) { 1, 0x200 });
    expect_next(&iter, (Visit) { 1, 0x201 });
    xmmu_tdp_iter_restart(&iter);
    expect_next(&iter, (Visit) { 4, 0 });
    expect_next(&iter, (Visit) { 3, 0 });
    expect_next(&iter, (Visit) { 2, 0x200 });
    expect_next(&iter, (Visit) { 1, 0x201 });
    /* Up to the link, which goes; the iterator does not go down again. */
    g_assert_true(xmmu_tdp_iter_step_up(&iter));
    g_assert_cmpint(iter.level, ==, 2);
    g_assert_cmphex(iter.gfn, ==, 0x200);
    g_assert_true(xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 }));
    expect_next(&iter, (Visit) { 2, 0x400 });
    unlock(w);
    world_free(w);
}

/* The table where the iterator stands goes, and it is asked to change an entry there
 * or not: it goes on where it was, from the root. */
static void test_table_goes(void)
{
    for (int change = 0; change < 2; change++) {
        World *w = world_new(false);
        XmmuTdpIter iter, other;

        touch(w, MIB(2));
        touch(w, MIB(2) + 0x9000);
        lock(w, XMMU_REASON_GUEST);
        xmmu_tdp_iter_begin(&iter, &w->hold, w->root, 0x208, 0x600, L1);
        for (int i = 0; i < 4; i++) {
            g_assert_true(xmmu_tdp_iter_next(&iter));
        }
        g_assert_cmphex(iter.gfn, ==, 0x208);
        other = find(w, 0x200, L2);
        g_assert_true(xmmu_tdp_iter_set(&other, (XmmuSpte) { 0 }));
        if (change) {
            /* It cannot change what is gone, and says so. */
            g_assert_false(xmmu_tdp_iter_set(&iter, leaf(w, MIB(2) + 0x8000, L1,
                                                         XMMU_ACC_ALL)));
            g_assert_cmphex(iter.old.raw, ==, 0);
        }
        expect_next(&iter, (Visit) { 4, 0 });
        expect_next(&iter, (Visit) { 3, 0 });
        expect_next(&iter, (Visit) { 2, 0x200 });
        expect_next(&iter, (Visit) { 2, 0x400 });
        g_assert_false(xmmu_tdp_iter_next(&iter));
        unlock(w);
        expect_leaves(w, 0, 0);
        world_free(w);
    }
}

static gpointer write_lock_once(gpointer opaque)
{
    World *w = opaque;

    xmmu_write_lock(w->vm, XMMU_REASON_GUEST);
    g_atomic_int_inc(&w->fx->bus_reads);        /* any counter will do */
    xmmu_write_unlock(w->vm);
    return NULL;
}

/* The lock goes to who waits for it, and the iterator goes on where it was. */
static void test_yield(void)
{
    World *w = world_new(false);
    GThread *thread;
    XmmuTdpIter iter;

    touch(w, 0x1000);
    lock(w, XMMU_REASON_HOST);
    xmmu_tdp_iter_begin(&iter, &w->hold, w->root, 1, 4, L1);
    for (int i = 0; i < 4; i++) {
        g_assert_true(xmmu_tdp_iter_next(&iter));
        g_assert_false(xmmu_tdp_iter_yield(&iter));
    }
    g_assert_cmphex(iter.gfn, ==, 1);
    g_assert_true(xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 }));
    expect_next(&iter, (Visit) { 1, 2 });
    thread = g_thread_new("writer", write_lock_once, w);
    while (!xmmu_lock_contended(w->vm)) {
        g_thread_yield();
    }
    g_assert_cmpint(w->fx->flushes, ==, 0);
    g_assert_cmpint(g_atomic_int_get(&w->fx->bus_reads), ==, 0);
    g_assert_true(xmmu_tdp_iter_yield(&iter));
    /* It was the writer's turn, and what was owed has been paid before. */
    g_assert_cmpint(g_atomic_int_get(&w->fx->bus_reads), ==, 1);
    g_assert_cmpint(w->fx->flushes, ==, 1);
    g_assert_false(w->hold.flush_owed);
    expect_next(&iter, (Visit) { 4, 0 });
    expect_next(&iter, (Visit) { 3, 0 });
    expect_next(&iter, (Visit) { 2, 0 });
    expect_next(&iter, (Visit) { 1, 2 });
    expect_next(&iter, (Visit) { 1, 3 });
    g_assert_false(xmmu_tdp_iter_next(&iter));
    g_thread_join(thread);
    unlock(w);
    world_free(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tdp-entries/rights", test_rights);
    g_test_add_func("/tdp-entries/payment", test_payment);
    g_test_add_func("/tdp-entries/batch", test_batch);
    g_test_add_func("/tdp-entries/split", test_split);
    g_test_add_func("/tdp-entries/discard", test_discard);
    g_test_add_func("/tdp-entries/promote", test_promote);
    g_test_add_func("/tdp-entries/subtree", test_subtree);
    g_test_add_func("/tdp-entries/fault waits", test_fault_waits);
    g_test_add_func("/tdp-iter/order", test_order);
    g_test_add_func("/tdp-iter/steps", test_steps);
    g_test_add_func("/tdp-iter/table goes", test_table_goes);
    g_test_add_func("/tdp-iter/yield", test_yield);
    return g_test_run();
}
