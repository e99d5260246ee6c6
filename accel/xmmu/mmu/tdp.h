/*
 * xmmu: TDP tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tables that translate guest physical addresses, one tree per address space,
 * shared by all vCPUs.  Everything here works under mmu_lock's read side: entries
 * change by compare and exchange (table.h), and what somebody works on is frozen.
 */
#ifndef XMMU_MMU_TDP_H
#define XMMU_MMU_TDP_H

#include "vm.h"

/* ---- tdp.c: roots and faults --------------------------------------------- */

/*
 * The tree of @as_id, built when there is none, with a reference for the caller.
 * NULL when out of memory.  mmu_lock, either side.
 */
XmmuTable *xmmu_tdp_root_get(XmmuHold *hold, unsigned as_id, XmmuPageRole role);
/* The same, but NULL when there is none. */
XmmuTable *xmmu_tdp_root_find(XmmuHold *hold, unsigned as_id);
/* Give a reference back.  mmu_lock, either side. */
void xmmu_tdp_root_put(XmmuHold *hold, XmmuTable *root);

/*
 * Does @table hang in a tree that vCPUs walk, that is: has it not been removed, and
 * is its root valid?  The caller is in a holding of mmu_lock, and @table was in a
 * tree at some time since that began.  The answer about the root is good until the
 * lock is released; the table may be removed any moment (its entries are frozen then).
 */
bool xmmu_tdp_table_live(const XmmuTable *table);

/* The largest level at which @gfn of @slot may be mapped now. */
int xmmu_tdp_max_level(XmmuVm *vm, const XmmuRegion *slot, unsigned as_id, gfn_t gfn);

/* What a fault on @gfn of @slot installs at @level, at or below that one. */
XmmuSpte xmmu_tdp_leaf(XmmuVm *vm, const XmmuRegion *slot, gfn_t gfn, int level,
                       bool dirty);

/* ---- tdp_zap.c: removing --------------------------------------------------- */

/*
 * Remove every leaf that maps a gfn of the range, and page tables that lie in it
 * wholly.  A slice of a larger change (XMMU_REASON_SLICE): the caller orders the
 * flush afterwards.  Slots that shall not be seen any more were replaced before,
 * under the write lock.  Called without mmu_lock: takes the read side and yields.
 */
void xmmu_tdp_zap_gfns(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages);

/*
 * Forget all translations.  First, under the write lock, the roots are declared
 * invalid: no vCPU walks them after the flush that the caller owes, and the next
 * fault of each gets a new one.  Then, without mmu_lock, the trees are taken apart
 * while the vCPUs go on; what is left when the second function returns are the pages
 * of roots that vCPUs still have.
 */
void xmmu_tdp_invalidate_roots(XmmuVm *vm, XmmuTable *old[XMMU_AS_COUNT]);
void xmmu_tdp_finish_roots(XmmuVm *vm, XmmuTable *old[XMMU_AS_COUNT]);

/*
 * Make sure that no vCPU can write to @gfn but through a fault: a 4 KiB leaf loses
 * the right to write, a larger one goes as a whole.  True: something changed, and
 * a flush is owed.  mmu_lock for writing.
 */
bool xmmu_tdp_write_protect_gfn(XmmuVm *vm, unsigned as_id, gfn_t gfn);
/*
 * The same for a range, under either side; with the read side it yields.  Whoever
 * may make a leaf writable again in between decides that under the lock: the caller
 * has let them know before.
 */
bool xmmu_tdp_write_protect_range(XmmuHold *hold, unsigned as_id, gfn_t gfn,
                                  uint64_t npages);

/*
 * @table has lost its place in the tree: freeze all below it for good, free it with
 * its tables when @hold's flush has been paid.  The writer of entries (table.c) calls
 * this; who has the place frozen may do it first, to learn whether any leaf was
 * dirty, which is the result (false when it had been done before).
 */
bool xmmu_tdp_detach(XmmuHold *hold, XmmuTable *table);

#endif /* XMMU_MMU_TDP_H */
