/*
 * xmmu: splitting and merging TDP leaves in place
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the exchange of a huge leaf for a table of smaller ones and back, one by one
 * and for ranges.  The exchange itself is the writer's (table.c): a compare and swap
 * from exactly what was looked at, so whatever came between is seen and looked at
 * again.  Everything before it (the new table, the comparison of 512 entries) is
 * preparation that may turn out to be in vain.
 */
#include "flush.h"
#include "nx_huge.h"
#include "tdp.h"
#include "tdp_iter.h"
#include "tdp_split.h"

/* ---- Splitting -------------------------------------------------------- */

/* Entries of @child, which nobody else sees yet, as parts of @huge. */
static void fill(XmmuHold *hold, XmmuTable *child, XmmuSpte huge)
{
    const XmmuHostFormat *format = hold->vm->format;
    int level = child->role.level;
    bool exec = hold->vm->config.nx_huge_pages && level == XMMU_LEVEL_4K;

    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        XmmuSpte part = xmmu_spte_part(format, huge, level + 1, i);

        xmmu_tdp_init(hold, child, i, exec ? xmmu_spte_executable(format, part) : part);
    }
}

XmmuSplit xmmu_tdp_split(XmmuHold *hold, XmmuTable *table, unsigned index,
                         XmmuSpte old, bool nx_fetch)
{
    XmmuTable *child = xmmu_table_new_child(hold, table, index);

    if (!child) {
        return XMMU_SPLIT_NOMEM;
    }
    fill(hold, child, old);
    if (!xmmu_tdp_set(hold, table, index, old,
                      xmmu_spte_table(hold->vm->format, xmmu_table_hpa(child), false))) {
        /* Be it that the hardware has set D: that must get into the parts. */
        xmmu_table_discard(hold, child);
        return XMMU_SPLIT_CHANGED;
    }
    XMMU_HOLD_COUNT(hold, splits, 1);
    if (nx_fetch) {
        xmmu_nx_track(child);
    }
    return XMMU_SPLIT_DONE;
}

/* ---- Promotion -------------------------------------------------------- */

/*
 * Is @now what a fault would install as @part, but for A and D?  It may lack W: writes
 * to it were logged, or it was a guest table with a shadow, and it is neither any more
 * when a large leaf is possible.
 */
static bool same_leaf(const XmmuHostFormat *format, XmmuSpte now, XmmuSpte part)
{
    uint64_t differ = (now.raw ^ part.raw) & ~(format->accessed | format->dirty);

    return !(differ & ~(part.raw & format->write));
}

/*
 * Can what is mapped below @table be one leaf, made from @slot?  Gives it in @huge,
 * with A and D if any part has them.
 */
static bool merge(XmmuTable *table, const XmmuRegion *slot, XmmuSpte *huge)
{
    const XmmuHostFormat *format = table->vm->format;
    int level = table->role.level;
    uint64_t size = xmmu_level_pages(level) << XMMU_PAGE_SHIFT;
    XmmuSpte part = xmmu_tdp_leaf(table->vm, slot, table->gfn, level, false);
    uint64_t seen = 0;

    for (unsigned i = 0; i < XMMU_ENTRIES; i++, part.raw += size) {
        XmmuSpte now = xmmu_spte_read(&table->spt[i]);

        if (xmmu_spte_is_frozen(now)) {
            return false;
        }
        if (!xmmu_spte_present(format, now)) {
            continue;
        }
        if (!xmmu_spte_is_leaf(format, now, level) || !same_leaf(format, now, part)) {
            return false;
        }
        seen |= now.raw;
    }
    *huge = xmmu_tdp_leaf(table->vm, slot, table->gfn, level + 1, false);
    if (seen) {
        huge->raw &= ~format->accessed;
    }
    huge->raw |= seen & (format->accessed | format->dirty);
    return true;
}

/*
 * A walk that was already below the table may have set D in a part after merge()
 * looked at it.  Whatever maps these frames now gets it; where nothing does, there is
 * nothing to remember it in, as with any leaf that is zapped.
 */
static void carry_dirty(XmmuTable *table, unsigned index)
{
    const XmmuHostFormat *format = table->vm->format;
    int level = table->role.level;
    XmmuSpte now;

    do {
        now = xmmu_spte_read(&table->spt[index]);
        if (!xmmu_spte_present(format, now)) {
            return;
        }
        if (!xmmu_spte_is_leaf(format, now, level)) {
            XmmuTable *child = xmmu_table_at(xmmu_spte_hpa(now));

            for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
                carry_dirty(child, i);
            }
            return;
        }
    } while (!xmmu_spte_set_bits(&table->spt[index], now, format->dirty));
}

bool xmmu_tdp_unlink(XmmuHold *hold, XmmuTable *table, XmmuSpte value)
{
    XmmuSpte link = xmmu_spte_table(hold->vm->format, xmmu_table_hpa(table), false);

    xmmu_assert_held(hold);
    return xmmu_tdp_set(hold, xmmu_table_of(table->ptep), xmmu_spte_index(table->ptep),
                        link, value);
}

/* May a huge leaf be in the place of @table, and which? */
static bool huge_leaf_for(XmmuTable *table, XmmuSpte *huge)
{
    XmmuVm *vm = table->vm;
    unsigned as_id = xmmu_role_as(table->role);
    const XmmuRegion *slot = xmmu_slot_find(vm, as_id, table->gfn);

    return slot && table->ptep && !xmmu_table_unlinked(table->root) &&
           xmmu_tdp_max_level(vm, slot, as_id, table->gfn) > table->role.level &&
           merge(table, slot, huge);
}

bool xmmu_tdp_put_leaf(XmmuHold *hold, XmmuTable *table, XmmuSpte huge)
{
    XmmuSpte *ptep = table->ptep;

    if (!xmmu_tdp_unlink(hold, table, huge)) {
        return false;
    }
    if (table->died_dirty && !(huge.raw & hold->vm->format->dirty)) {
        carry_dirty(xmmu_table_of(ptep), xmmu_spte_index(ptep));
    }
    return true;
}

bool xmmu_tdp_promote(XmmuHold *hold, XmmuTable *table)
{
    XmmuSpte huge;

    xmmu_assert_held(hold);
    if (!huge_leaf_for(table, &huge) || !xmmu_tdp_put_leaf(hold, table, huge)) {
        return false;
    }
    XMMU_HOLD_COUNT(hold, promotions, 1);
    return true;
}

/* ---- Ranges ----------------------------------------------------------- */

static void split_entry(XmmuTdpIter *iter, bool *good)
{
    switch (xmmu_tdp_split(iter->hold, iter->table, iter->index, iter->old, false)) {
    case XMMU_SPLIT_DONE:
        return;
    case XMMU_SPLIT_CHANGED:
        xmmu_tdp_iter_restart(iter);
        return;
    case XMMU_SPLIT_NOMEM:
        *good = false;
        if (!xmmu_tdp_iter_set(iter, (XmmuSpte) { 0 })) {
            xmmu_tdp_iter_restart(iter);
        }
    }
}

static bool split_tree(XmmuHold *hold, XmmuTable *root, gfn_t start, gfn_t end,
                       int level)
{
    const XmmuHostFormat *format = hold->vm->format;
    bool good = true;
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, start, end, level + 1);
    while (xmmu_tdp_iter_next(&iter) && !xmmu_table_unlinked(root)) {
        if (!xmmu_tdp_iter_yield(&iter) && xmmu_spte_present(format, iter.old) &&
            xmmu_spte_is_leaf(format, iter.old, iter.level)) {
            split_entry(&iter, &good);
        }
    }
    return good;
}

/* Tables one level below @level that lie in the range wholly. */
static uint64_t promote_tree(XmmuHold *hold, XmmuTable *root, gfn_t start, gfn_t end,
                             int level)
{
    const XmmuHostFormat *format = hold->vm->format;
    uint64_t pages = xmmu_level_pages(level), promoted = 0;
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, start, end, level);
    while (xmmu_tdp_iter_next(&iter) && !xmmu_table_unlinked(root)) {
        if (!xmmu_tdp_iter_yield(&iter) && iter.level == level &&
            iter.gfn >= start && iter.gfn + pages <= end &&
            xmmu_spte_present(format, iter.old) &&
            !xmmu_spte_is_leaf(format, iter.old, level)) {
            promoted += xmmu_tdp_promote(hold,
                                         xmmu_table_at(xmmu_spte_hpa(iter.old)));
        }
    }
    return promoted;
}

static gfn_t range_end(gfn_t gfn, uint64_t npages)
{
    return npages < XMMU_NO_GFN - gfn ? gfn + npages : XMMU_NO_GFN;
}

bool xmmu_tdp_split_range(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages,
                          int level)
{
    bool good = true;
    XmmuTable *root;
    XmmuHold hold;

    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_HOST);
    root = xmmu_tdp_root_find(&hold, as_id);
    if (root) {
        good = split_tree(&hold, root, gfn, range_end(gfn, npages), level);
        xmmu_tdp_root_put(&hold, root);
    }
    xmmu_read_unlock(&hold);
    return good;
}

uint64_t xmmu_tdp_promote_range(XmmuVm *vm, unsigned as_id, gfn_t gfn,
                                uint64_t npages)
{
    uint64_t promoted = 0;
    XmmuTable *root;
    XmmuHold hold;

    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_HOST);
    root = xmmu_tdp_root_find(&hold, as_id);
    if (root) {
        for (int level = XMMU_LEVEL_2M; level <= XMMU_LEVEL_1G; level++) {
            promoted += promote_tree(&hold, root, gfn, range_end(gfn, npages), level);
        }
        xmmu_tdp_root_put(&hold, root);
    }
    xmmu_read_unlock(&hold);
    return promoted;
}
