/*
 * xmmu: removing from TDP trees
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns how entries, tables and whole trees go while vCPUs use them.  Everything is
 * done under the read side of mmu_lock, so faults elsewhere in the tree go on, and
 * in steps between which the lock is given to who waits for it.
 *
 * A table that is cut off is frozen entry by entry: a fault that is still in it
 * finds no place to install anything, and begins again at the root.
 */
#include "flush.h"
#include "tdp.h"
#include "tdp_iter.h"

bool xmmu_tdp_detach(XmmuHold *hold, XmmuTable *table)
{
    const XmmuHostFormat *format = hold->vm->format;
    bool dirty = false;

    xmmu_assert_held(hold);
    if (xmmu_table_unlinked(table)) {
        return false;
    }
    /* Before the first entry is frozen: who meets that must not wait for it. */
    __atomic_store_n(&table->unlinked, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        XmmuSpte old = xmmu_tdp_kill(hold, table, i);

        dirty |= xmmu_spte_present(format, old) &&
                 xmmu_spte_is_leaf(format, old, table->role.level) &&
                 (old.raw & format->dirty);
    }
    xmmu_table_retire(hold, table);
    return dirty;
}

/* Empty the entry where @iter stands, if it still holds anything. */
static void remove_entry(XmmuTdpIter *iter)
{
    while (iter->old.raw && !xmmu_tdp_iter_set(iter, (XmmuSpte) { 0 })) {
        /* Somebody was faster; look at what it is now. */
    }
}

static bool is_leaf(const XmmuTdpIter *iter)
{
    const XmmuHostFormat *format = iter->hold->vm->format;

    return xmmu_spte_present(format, iter->old) &&
           xmmu_spte_is_leaf(format, iter->old, iter->level);
}

/*
 * Cached MMIO goes with its table only: it is of no use since the generation has
 * moved on.  Of the tables inside the range only the lowest are cut off here, so that
 * one step never is long; those above stay, for they will be needed again.
 */
static bool goes_with(const XmmuTdpIter *iter, gfn_t start, gfn_t end)
{
    return is_leaf(iter) ||
           (iter->level == XMMU_LEVEL_2M && iter->gfn >= start &&
            iter->gfn + xmmu_level_pages(iter->level) <= end);
}

/* Nothing is left to do in a tree that was invalidated meanwhile. */
static void zap_range(XmmuHold *hold, XmmuTable *root, gfn_t start, gfn_t end)
{
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, start, end, XMMU_LEVEL_4K);
    while (xmmu_tdp_iter_next(&iter)) {
        if (xmmu_tdp_iter_yield(&iter)) {
            if (xmmu_table_unlinked(root)) {
                return;
            }
        } else if (goes_with(&iter, start, end)) {
            remove_entry(&iter);
        }
    }
}

void xmmu_tdp_zap_gfns(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages)
{
    XmmuTable *root;
    XmmuHold hold;

    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_SLICE);
    root = xmmu_tdp_root_find(&hold, as_id);
    if (root) {
        zap_range(&hold, root, gfn, gfn + npages);
        xmmu_tdp_root_put(&hold, root);
    }
    xmmu_read_unlock(&hold);
}

/* ---- Invalidated roots ------------------------------------------------------ */

void xmmu_tdp_invalidate_roots(XmmuVm *vm, XmmuTable *old[XMMU_AS_COUNT])
{
    xmmu_assert_write_locked(vm);
    for (unsigned i = 0; i < XMMU_AS_COUNT; i++) {
        old[i] = vm->tdp_root[i];
        if (old[i]) {
            __atomic_store_n(&old[i]->unlinked, true, __ATOMIC_RELEASE);
            __atomic_store_n(&vm->tdp_root[i], NULL, __ATOMIC_RELEASE);
        }
    }
}

/* All entries at @level, and leaves above it. */
static void remove_level(XmmuHold *hold, XmmuTable *root, int level)
{
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, 0, XMMU_NO_GFN, level);
    while (xmmu_tdp_iter_next(&iter)) {
        if (!xmmu_tdp_iter_yield(&iter) && (iter.level == level || is_leaf(&iter))) {
            remove_entry(&iter);
        }
    }
}

/*
 * Nobody installs anything in an invalid tree: faults look at the root under the
 * lock.  From the lowest tables up, so that no step takes long.
 */
static void take_apart(XmmuVm *vm, XmmuTable *root)
{
    XmmuHold hold;

    /* What vCPUs had of it was flushed when it was invalidated. */
    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_SLICE);
    for (int level = XMMU_LEVEL_2M; level <= root->role.level; level++) {
        remove_level(&hold, root, level);
    }
    xmmu_tdp_root_put(&hold, root);
    xmmu_read_unlock(&hold);
}

void xmmu_tdp_finish_roots(XmmuVm *vm, XmmuTable *old[XMMU_AS_COUNT])
{
    for (unsigned i = 0; i < XMMU_AS_COUNT; i++) {
        if (old[i]) {
            take_apart(vm, old[i]);
        }
    }
}

/* ---- Write protection ---------------------------------------------------------- */

bool xmmu_tdp_write_protect_gfn(XmmuVm *vm, unsigned as_id, gfn_t gfn)
{
    XmmuTable *root = vm->tdp_root[as_id];
    bool changed = false;
    XmmuTdpIter iter;

    xmmu_assert_write_locked(vm);
    if (!root) {
        return false;
    }
    xmmu_tdp_iter_begin(&iter, &vm->writer, root, gfn, gfn + 1, XMMU_LEVEL_4K);
    while (xmmu_tdp_iter_next(&iter)) {
        if (!is_leaf(&iter)) {
            continue;
        }
        if (iter.level > XMMU_LEVEL_4K) {
            remove_entry(&iter);
            changed = true;
        }
        while (is_leaf(&iter) && xmmu_spte_writable(vm->format, iter.old)) {
            changed |= xmmu_tdp_iter_set(&iter,
                           xmmu_spte_write_protected(vm->format, iter.old));
        }
    }
    return changed;
}
