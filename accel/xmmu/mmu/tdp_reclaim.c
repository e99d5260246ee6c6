/*
 * xmmu: making room among TDP tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the choice of the TDP tables that go when there is no room for a new one.  TDP
 * faults run side by side, so there is no list that they could all reorder.  Instead
 * there are epochs: a new one begins with every EPOCH_TABLES tables that are made, a
 * fault notes the current one in the tables that it passes (which is a store only the
 * first time in an epoch), and the tables with the oldest epoch go first.  A table has
 * passed on its note to all above it, so an upper table goes only if nothing below it
 * was used later.
 *
 * What the vCPUs have cached of an entry that goes maps the same page as before, so no
 * flush is owed for it.
 */
#include "mem.h"
#include "reclaim.h"
#include "tdp.h"
#include "tdp_iter.h"

/* Tables that make an epoch. */
#define EPOCH_TABLES 16
/* Tables (with all below them) that are cut off in one go, so that not every fault
 * has to look for some. */
#define BATCH 32

void xmmu_reclaim_made_one(XmmuVm *vm)
{
    if (__atomic_add_fetch(&vm->lru_made, 1, __ATOMIC_RELAXED) % EPOCH_TABLES == 0) {
        __atomic_fetch_add(&vm->lru_epoch, 1, __ATOMIC_RELAXED);
    }
}

/* The table that the iterator's entry points to, or NULL. */
static XmmuTable *table_below(const XmmuTdpIter *iter)
{
    const XmmuHostFormat *format = iter->hold->vm->format;

    if (!xmmu_spte_present(format, iter->old) ||
        xmmu_spte_is_leaf(format, iter->old, iter->level)) {
        return NULL;
    }
    return xmmu_table_at(xmmu_spte_hpa(iter->old));
}

static uint64_t epoch_of(const XmmuTable *table)
{
    return __atomic_load_n(&table->used_by, __ATOMIC_RELAXED);
}

static uint64_t oldest_epoch(XmmuHold *hold, XmmuTable *root)
{
    uint64_t oldest = UINT64_MAX;
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, 0, XMMU_NO_GFN, XMMU_LEVEL_2M);
    while (xmmu_tdp_iter_next(&iter)) {
        XmmuTable *table = table_below(&iter);

        if (table) {
            oldest = MIN(oldest, epoch_of(table));
        }
    }
    return oldest;
}

/* Cut off at most @limit tables last used in @epoch; returns how many. */
static unsigned cut_epoch(XmmuHold *hold, XmmuTable *root, uint64_t epoch,
                          unsigned limit)
{
    unsigned count = 0;
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, 0, XMMU_NO_GFN, XMMU_LEVEL_2M);
    while (count < limit && xmmu_tdp_iter_next(&iter)) {
        XmmuTable *table = table_below(&iter);

        if (table && epoch_of(table) <= epoch &&
            xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 })) {
            count++;
        }
    }
    return count;
}

/* One batch of the oldest; false: there is no table. */
static bool cut_oldest(XmmuHold *hold)
{
    XmmuTable *roots[XMMU_AS_COUNT];
    uint64_t oldest = UINT64_MAX;
    unsigned count = 0;

    for (unsigned i = 0; i < XMMU_AS_COUNT; i++) {
        roots[i] = xmmu_tdp_root_find(hold, i);
        if (roots[i]) {
            oldest = MIN(oldest, oldest_epoch(hold, roots[i]));
        }
    }
    for (unsigned i = 0; i < XMMU_AS_COUNT; i++) {
        if (roots[i]) {
            count += cut_epoch(hold, roots[i], oldest, BATCH - count);
            xmmu_tdp_root_put(hold, roots[i]);
        }
    }
    xmmu_count_shared(&hold->vm->stats.reclaimed_tables, count);
    return count;
}

bool xmmu_reclaim_tdp(XmmuHold *hold, size_t size)
{
    xmmu_assert_held(hold);
    xmmu_count_shared(&hold->vm->stats.reclaims, 1);
    do {
        if (!cut_oldest(hold)) {
            return false;
        }
    } while (!xmmu_mem_has_room(hold->vm, size));
    return true;
}

/* Shadow tables of nested guests may have taken all. */
static void take_from_shadow(XmmuVm *vm, size_t size)
{
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    xmmu_reclaim_begin(vm);
    if (!xmmu_reclaim_for(vm, size)) {
        xmmu_reclaim_some(vm);
    }
    xmmu_write_unlock(vm);
}

void xmmu_reclaim_for_tdp_fault(XmmuVcpu *vcpu)
{
    XmmuVm *vm = vcpu->vm;
    size_t size = XMMU_MAX_LEVEL * xmmu_table_bytes((XmmuPageRole) { .direct = 1 });
    XmmuHold hold;
    bool done;

    xmmu_read_lock(&hold, vm, vcpu, XMMU_REASON_GUEST);
    done = xmmu_reclaim_tdp(&hold, size);
    xmmu_read_unlock(&hold);
    if (!done) {
        take_from_shadow(vm, size);
    }
}
