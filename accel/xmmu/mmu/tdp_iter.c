/*
 * xmmu: a way through a TDP tree
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the steps of the iterator: down, to the side, up, and from the root again.
 * The path down to where it stands is kept in tables, not in entries: a table of
 * the path may have been removed meanwhile, but the holding of mmu_lock is an RCU
 * read section, so it is readable and says that it is gone.
 */
#include "tdp_iter.h"

static uint64_t span(const XmmuTdpIter *iter)
{
    return xmmu_level_pages(iter->level);
}

void xmmu_tdp_iter_begin(XmmuTdpIter *iter, XmmuHold *hold, XmmuTable *root,
                         gfn_t start, gfn_t end, int min_level)
{
    gfn_t limit = xmmu_level_pages(root->role.level + 1);

    xmmu_assert_held(hold);
    g_assert(root->role.tdp && !root->ptep);
    *iter = (XmmuTdpIter) {
        .hold = hold,
        .root = root,
        .position = start,
        .end = MIN(end, limit),
        .min_level = min_level,
        .at_root = true,
    };
}

void xmmu_tdp_iter_restart(XmmuTdpIter *iter)
{
    iter->at_root = true;
}

/* Stand on the entry for the position in the path's table at @level.  False: that
 * table has left the tree. */
static bool stand_on(XmmuTdpIter *iter, int level)
{
    iter->level = level;
    iter->table = iter->path[level];
    iter->index = xmmu_level_index(iter->position, level);
    iter->gfn = iter->position & ~(span(iter) - 1);
    iter->old = (XmmuSpte) { 0 };
    return xmmu_tdp_read(iter->table, iter->index, &iter->old);
}

/* The child that the entry points to now, if the iterator goes there. */
static XmmuTable *child(XmmuTdpIter *iter)
{
    const XmmuHostFormat *format = iter->hold->vm->format;
    XmmuSpte spte = xmmu_spte_read(&iter->table->spt[iter->index]);

    if (iter->level <= iter->min_level || !xmmu_spte_present(format, spte) ||
        xmmu_spte_is_leaf(format, spte, iter->level)) {
        return NULL;
    }
    return xmmu_table_at(xmmu_spte_hpa(spte));
}

/* Beyond the entry.  False: beyond the range, or of the table at that level. */
static bool step_aside(XmmuTdpIter *iter)
{
    iter->position = iter->gfn + span(iter);
    while (iter->position < iter->end &&
           xmmu_level_index(iter->position, iter->level) == 0) {
        /* The first of another table, which hangs next to one of the path's. */
        iter->level++;
    }
    return iter->position < iter->end;
}

/* One step, without regard to tables that have gone. */
static bool step(XmmuTdpIter *iter, bool *gone)
{
    XmmuTable *below;

    if (iter->at_root) {
        iter->at_root = false;
        iter->path[iter->root->role.level] = iter->root;
        iter->level = iter->root->role.level;
    } else {
        below = child(iter);
        if (below) {
            iter->path[--iter->level] = below;
        } else if (!step_aside(iter)) {
            return false;
        }
    }
    *gone = !stand_on(iter, iter->level);
    return true;
}

bool xmmu_tdp_iter_next(XmmuTdpIter *iter)
{
    bool gone = false;

    xmmu_assert_held(iter->hold);
    if (iter->position >= iter->end) {
        return false;
    }
    do {
        if (gone) {
            iter->at_root = true;
        }
        if (!step(iter, &gone)) {
            return false;
        }
    } while (gone);
    return true;
}

bool xmmu_tdp_iter_set(XmmuTdpIter *iter, XmmuSpte value)
{
    if (xmmu_tdp_set(iter->hold, iter->table, iter->index, iter->old, value)) {
        iter->old = value;
        return true;
    }
    iter->old = xmmu_spte_read(&iter->table->spt[iter->index]);
    if (xmmu_spte_is_frozen(iter->old)) {
        iter->old = (XmmuSpte) { 0 };
        iter->at_root = true;
    }
    return false;
}

bool xmmu_tdp_iter_step_up(XmmuTdpIter *iter)
{
    if (iter->level == iter->root->role.level) {
        return false;
    }
    if (!stand_on(iter, iter->level + 1)) {
        iter->at_root = true;
    }
    return true;
}

bool xmmu_tdp_iter_yield(XmmuTdpIter *iter)
{
    if (iter->hold->side != XMMU_READ_SIDE ||
        (iter->has_yielded && iter->position == iter->yielded_at) ||
        !xmmu_lock_contended(iter->hold->vm)) {
        return false;
    }
    iter->has_yielded = true;
    iter->yielded_at = iter->position;
    iter->at_root = true;
    xmmu_hold_yield(iter->hold);
    return true;
}
