/*
 * xmmu: a way through a TDP tree
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Visits the entries of a tree for a range of gfns, an entry before what is below
 * it, while others change the tree.  Typical use:
 *
 *     XmmuTdpIter iter;
 *
 *     xmmu_tdp_iter_begin(&iter, &hold, root, start, end, XMMU_LEVEL_4K);
 *     while (xmmu_tdp_iter_next(&iter)) {
 *         if (xmmu_tdp_iter_yield(&iter)) {
 *             continue;
 *         }
 *         ... look at iter.old, iter.level, iter.gfn; perhaps
 *         if (!xmmu_tdp_iter_set(&iter, new)) {
 *             ... somebody was faster; iter.old is the new value; decide again
 *         }
 *     }
 */
#ifndef XMMU_MMU_TDP_ITER_H
#define XMMU_MMU_TDP_ITER_H

#include "vm.h"

typedef struct XmmuTdpIter {
    /* Where it stands, after xmmu_tdp_iter_next() returned true. */
    XmmuTable *table;
    unsigned index;             /* in table */
    int level;                  /* of the entry, which is the table's */
    gfn_t gfn;                  /* first that the entry stands for; may be below the
                                   range's start */
    XmmuSpte old;               /* the entry's value when it was last read; never
                                   frozen */

    /* Private. */
    XmmuHold *hold;
    XmmuTable *root;
    gfn_t position;             /* nothing from here on has been done with */
    gfn_t end;
    gfn_t yielded_at;           /* position of the last yield */
    int min_level;
    bool has_yielded;
    bool at_root;               /* the next step begins at the root */
    XmmuTable *path[XMMU_MAX_LEVEL + 1];    /* by level, from the root down */
} XmmuTdpIter;

/*
 * Before the first entry for [start, end), going down to @min_level at the lowest.
 * @hold: the caller's holding of mmu_lock, either side.  @root: he has a reference
 * to it, or the write side.
 */
void xmmu_tdp_iter_begin(XmmuTdpIter *iter, XmmuHold *hold, XmmuTable *root,
                         gfn_t start, gfn_t end, int min_level);

/*
 * The next entry; false: none left.  Goes down if the entry points to a table *now*,
 * so the caller may have changed it.  Waits while somebody else has the entry
 * frozen.  When the table in which it stood has left the tree, goes on from the
 * root at the first gfn that was not done; then upper entries are seen again.
 */
bool xmmu_tdp_iter_next(XmmuTdpIter *iter);

/*
 * Change the entry where the iterator stands from .old to @value, by
 * xmmu_tdp_set().  True: .old is @value now.  False: somebody else changed it, .old
 * is what it is now.  (If it is frozen, or its table is gone, then .old is empty
 * and the iterator will come back to this place.)
 */
bool xmmu_tdp_iter_set(XmmuTdpIter *iter, XmmuSpte value);

/* The next step is again to the entry where the iterator stands: from the root, so
 * that it sees what became of it. */
void xmmu_tdp_iter_restart(XmmuTdpIter *iter);

/* Stand on the entry that points to the table where the iterator stands, and on to
 * its next neighbour with the next step if it is no table any more.  False: that is
 * the root. */
bool xmmu_tdp_iter_step_up(XmmuTdpIter *iter);

/*
 * If somebody waits for mmu_lock: let him have it (paying what is owed), and go on
 * at the entry where the iterator stands, which must not have been handled yet.
 * True: it did; the caller takes the next step, and must look first whether the root
 * has become invalid meanwhile, if he cares.  Read side only, else false.  Does not
 * happen twice at one place, so there always is progress.
 */
bool xmmu_tdp_iter_yield(XmmuTdpIter *iter);

#endif /* XMMU_MMU_TDP_ITER_H */
