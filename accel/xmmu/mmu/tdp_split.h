/*
 * xmmu: splitting and merging TDP leaves in place
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A huge leaf and a table of smaller leaves that says the same may be exchanged for
 * each other in one step: one compare and swap of the parent's entry.  No walk sees a
 * hole between the two.
 *
 * Nothing here needs mmu_lock for writing.  The functions that take a holding run
 * under either side; those that take a VM take the lock themselves, yield, and pay
 * what they owe before they return.
 */
#ifndef XMMU_MMU_TDP_SPLIT_H
#define XMMU_MMU_TDP_SPLIT_H

#include "vm.h"

typedef enum XmmuSplit {
    XMMU_SPLIT_DONE,
    XMMU_SPLIT_CHANGED,         /* the entry is not that leaf any more: look again */
    XMMU_SPLIT_NOMEM,
} XmmuSplit;

/*
 * Replace the huge leaf @old at @index of @table by a table of leaves one level
 * below that map the same with the same rights, A and D.  Only execution is gained:
 * when huge pages must not be executable, leaves of 4 KiB are.
 * @nx_fetch: an instruction fetch is why; the table goes on the list of nx_huge.h.
 */
XmmuSplit xmmu_tdp_split(XmmuHold *hold, XmmuTable *table, unsigned index,
                         XmmuSpte old, bool nx_fetch);

/*
 * Take @table out of its place: exchange the parent's entry from exactly the link to
 * this table for @value.  False, and nothing is changed, when the entry is anything
 * else, whatever became of parent and tree.  The holding must have begun before the
 * table was found, in the tree or on a list of linked tables: then both tables are
 * readable.
 */
bool xmmu_tdp_unlink(XmmuHold *hold, XmmuTable *table, XmmuSpte value);

/*
 * The reverse of a split: put a huge leaf in the place of @table.  All present entries must be
 * leaves just as a fault would install them now, D and A aside, which the huge leaf
 * gets when any of them had it; a part that was not mapped yet is mapped by it.
 * Refused where a huge leaf is not possible (slot, dirty logging, a write-protected
 * frame), and when the table has lost its place or its root is invalidated.
 */
bool xmmu_tdp_promote(XmmuHold *hold, XmmuTable *table);

/* Its last step: @huge, which maps what @table does or may, into the place.  A part that
 * became dirty since the caller looked makes dirty what maps it now. */
bool xmmu_tdp_put_leaf(XmmuHold *hold, XmmuTable *table, XmmuSpte huge);

/*
 * Split every leaf above @level (1 or 2) that maps a gfn of the range, before somebody
 * needs small ones.  When this returns, none is left that was there when it was
 * called.  False: memory ran out, and what could not be split was zapped.
 */
bool xmmu_tdp_split_range(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages,
                          int level);

/* Promote every table that lies in the range and can be, from the bottom up; returns
 * how many were. */
uint64_t xmmu_tdp_promote_range(XmmuVm *vm, unsigned as_id, gfn_t gfn,
                                uint64_t npages);

#endif /* XMMU_MMU_TDP_SPLIT_H */
