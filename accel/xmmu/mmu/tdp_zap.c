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
#include "nx_huge.h"
#include "tdp.h"
#include "tdp_iter.h"

/* Did what was there, or a leaf below it, have D when it went? */
static bool was_dirty(const XmmuHostFormat *format, XmmuSpte old, int level)
{
    if (!xmmu_spte_present(format, old)) {
        return false;
    }
    return xmmu_spte_is_leaf(format, old, level)
           ? old.raw & format->dirty : xmmu_table_at(xmmu_spte_hpa(old))->died_dirty;
}

bool xmmu_tdp_detach(XmmuHold *hold, XmmuTable *table)
{
    const XmmuHostFormat *format = hold->vm->format;
    bool dirty = false;

    xmmu_assert_held(hold);
    if (xmmu_table_unlinked(table)) {
        return false;
    }
    xmmu_nx_untrack(table);
    /* Before the first entry is frozen: who meets that must not wait for it. */
    __atomic_store_n(&table->unlinked, true, __ATOMIC_RELEASE);
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        dirty |= was_dirty(format, xmmu_tdp_kill(hold, table, i), table->role.level);
    }
    table->died_dirty = dirty;
    xmmu_table_retire(hold, table);
    return dirty;
}

static bool is_leaf(const XmmuTdpIter *iter)
{
    const XmmuHostFormat *format = iter->hold->vm->format;

    return xmmu_spte_present(format, iter->old) &&
           xmmu_spte_is_leaf(format, iter->old, iter->level);
}

/* Does the entry where @iter stands go in a pass at @level? */
static bool goes(const XmmuTdpIter *iter, gfn_t start, gfn_t end, int level)
{
    return iter->old.raw &&
           (is_leaf(iter) || (iter->level == level && iter->gfn >= start &&
                              iter->gfn + xmmu_level_pages(level) <= end));
}

/*
 * One pass over [start, end): what lies in it wholly and hangs at @level goes, and
 * leaves that touch it.  Cached MMIO goes with its table only: it is of no use since
 * the generation has moved on.
 */
static void zap_pass(XmmuHold *hold, XmmuTable *root, gfn_t start, gfn_t end, int level)
{
    int lowest = level == XMMU_LEVEL_2M ? XMMU_LEVEL_4K : level;
    bool valid = !xmmu_table_unlinked(root);
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, start, end, lowest);
    while (xmmu_tdp_iter_next(&iter)) {
        if (xmmu_tdp_iter_yield(&iter)) {
            if (valid && xmmu_table_unlinked(root)) {
                return;         /* who invalidated it takes it apart */
            }
            continue;
        }
        while (goes(&iter, start, end, level) &&
               !xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 })) {
            /* Somebody was faster; look at what it is now. */
        }
    }
}

/* From the lowest tables up, so that no step takes long: a table that is cut off has
 * no tables below it. */
static void zap_range(XmmuHold *hold, XmmuTable *root, gfn_t start, gfn_t end)
{
    for (int level = XMMU_LEVEL_2M; level <= root->role.level; level++) {
        zap_pass(hold, root, start, end, level);
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

/* Nobody installs anything in an invalid tree: faults look at the root under the
 * lock.  What vCPUs had of it was flushed when it was invalidated. */
static void take_apart(XmmuVm *vm, XmmuTable *root)
{
    XmmuHold hold;

    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_SLICE);
    zap_range(&hold, root, 0, XMMU_NO_GFN);
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

/* A leaf of one page loses the right to write, a larger one goes: the next fault
 * makes small ones. */
static XmmuSpte protected(const XmmuTdpIter *iter)
{
    return iter->level > XMMU_LEVEL_4K
           ? (XmmuSpte) { 0 }
           : xmmu_spte_write_protected(iter->hold->vm->format, iter->old);
}

static bool write_protect(XmmuHold *hold, XmmuTable *root, gfn_t start, gfn_t end)
{
    const XmmuHostFormat *format = hold->vm->format;
    bool changed = false;
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, start, end, XMMU_LEVEL_4K);
    while (xmmu_tdp_iter_next(&iter)) {
        if (xmmu_tdp_iter_yield(&iter)) {
            continue;
        }
        while (is_leaf(&iter) && xmmu_spte_writable(format, iter.old)) {
            changed |= xmmu_tdp_iter_set(&iter, protected(&iter));
        }
    }
    return changed;
}

bool xmmu_tdp_write_protect_gfn(XmmuVm *vm, unsigned as_id, gfn_t gfn)
{
    XmmuTable *root = vm->tdp_root[as_id];

    xmmu_assert_write_locked(vm);
    return root && write_protect(&vm->writer, root, gfn, gfn + 1);
}

bool xmmu_tdp_write_protect_range(XmmuHold *hold, unsigned as_id, gfn_t gfn,
                                  uint64_t npages)
{
    XmmuTable *root = xmmu_tdp_root_find(hold, as_id);
    bool changed = false;

    if (root) {
        changed = write_protect(hold, root, gfn, gfn + npages);
        xmmu_tdp_root_put(hold, root);
    }
    return changed;
}
