/*
 * xmmu: huge pages that may not be executed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the list of possible NX huge pages and their recovery: how many of them are
 * looked at in a period, and the three ways to make room for a huge page again,
 * behind XmmuNxOps.  See nx_huge.h for the ownership of what is on the list, and
 * docs/devel/xmmu-nx-huge-pages.rst for why promotion is the default.
 */
#include "flush.h"
#include "nx_huge.h"
#include "tdp.h"
#include "tdp_iter.h"
#include "tdp_split.h"

/* ---- The list --------------------------------------------------------- */

void xmmu_nx_init(XmmuVm *vm)
{
    pthread_mutex_init(&vm->nx.lock, NULL);
    g_queue_init(&vm->nx.tables);
}

void xmmu_nx_cleanup(XmmuVm *vm)
{
    g_assert(g_queue_is_empty(&vm->nx.tables));
    pthread_mutex_destroy(&vm->nx.lock);
}

void xmmu_nx_track(XmmuTable *table)
{
    XmmuNxList *nx = &table->vm->nx;

    pthread_mutex_lock(&nx->lock);
    if (table->nx_state == XMMU_NX_STATE_NONE) {
        table->nx_state = XMMU_NX_STATE_LISTED;
        table->nx_link.data = table;
        g_queue_push_tail_link(&nx->tables, &table->nx_link);
        xmmu_count_shared(&table->vm->stats.nx_lpage_splits, 1);
    }
    pthread_mutex_unlock(&nx->lock);
}

/* Take it off the list if it is there; the lock is held. */
static void take_off(XmmuTable *table, XmmuNxState state)
{
    if (table->nx_state == XMMU_NX_STATE_LISTED) {
        g_queue_unlink(&table->vm->nx.tables, &table->nx_link);
        xmmu_count_shared(&table->vm->stats.nx_lpage_splits, -1);
    }
    table->nx_state = state;
}

void xmmu_nx_untrack(XmmuTable *table)
{
    XmmuVm *vm = table->vm;

    if (!vm->config.nx_huge_pages) {
        return;
    }
    pthread_mutex_lock(&vm->nx.lock);
    take_off(table, XMMU_NX_STATE_GONE);
    pthread_mutex_unlock(&vm->nx.lock);
}

/* Its huge page is not possible any more, for a reason that lasts. */
static void forget(XmmuTable *table)
{
    pthread_mutex_lock(&table->vm->nx.lock);
    if (table->nx_state == XMMU_NX_STATE_LISTED) {
        take_off(table, XMMU_NX_STATE_NONE);
    }
    pthread_mutex_unlock(&table->vm->nx.lock);
}

/* The oldest table, which becomes the youngest: if it cannot be recovered now, the
 * others have their turn first.  RCU read section. */
static XmmuTable *take_oldest(XmmuVm *vm)
{
    GList *link;

    pthread_mutex_lock(&vm->nx.lock);
    link = g_queue_pop_head_link(&vm->nx.tables);
    if (link) {
        g_queue_push_tail_link(&vm->nx.tables, link);
    }
    pthread_mutex_unlock(&vm->nx.lock);
    return link ? link->data : NULL;
}

static uint64_t list_length(XmmuVm *vm)
{
    uint64_t length;

    pthread_mutex_lock(&vm->nx.lock);
    length = vm->nx.tables.length;
    pthread_mutex_unlock(&vm->nx.lock);
    return length;
}

/* ---- Recovery --------------------------------------------------------- */

/*
 * How the place of @table becomes free for a huge page.  The caller holds mmu_lock
 * for reading and took @table from the list within this holding; no strategy yields.
 * True: the table is out of the tree.
 */
typedef struct XmmuNxOps {
    bool (*recover)(XmmuHold *hold, XmmuTable *table);
} XmmuNxOps;

/* Empty every entry between the root and where the table should be, if it is there. */
static void zap_from_root(XmmuHold *hold, XmmuTable *root, const XmmuTable *table)
{
    int level = table->role.level + 1;
    XmmuTdpIter iter;

    xmmu_tdp_iter_begin(&iter, hold, root, table->gfn,
                        table->gfn + xmmu_level_pages(level), level);
    while (xmmu_tdp_iter_next(&iter)) {
        while (iter.level == level && iter.old.raw &&
               !xmmu_tdp_iter_set(&iter, (XmmuSpte) { 0 })) {
            /* Somebody was faster; look at what it is now. */
        }
    }
}

static bool recover_range(XmmuHold *hold, XmmuTable *table)
{
    XmmuTable *root = xmmu_tdp_root_find(hold, xmmu_role_as(table->role));

    if (root) {
        zap_from_root(hold, root, table);
        xmmu_tdp_root_put(hold, root);
    }
    return xmmu_table_unlinked(table);
}

/*
 * The parent's entry is changed only from "points to this table", so it does not
 * matter whether the parent is in a tree, under an invalidated root or being
 * dismantled, nor what others have put there; and it is readable, because the table
 * was on the list when this holding had begun, and a parent outlives its children's
 * unlinking.
 */
static bool recover_precise(XmmuHold *hold, XmmuTable *table)
{
    return xmmu_tdp_unlink(hold, table, (XmmuSpte) { 0 });
}

static const XmmuNxOps strategies[] = {
    [XMMU_NX_PROMOTE] = { xmmu_tdp_promote },
    [XMMU_NX_PRECISE] = { recover_precise },
    [XMMU_NX_RANGE] = { recover_range },
};

/* While writes are logged, pages stay small whether or not something is executed. */
static bool is_logged(XmmuVm *vm, const XmmuTable *table)
{
    const XmmuRegion *slot = xmmu_slot_find(vm, xmmu_role_as(table->role), table->gfn);

    return slot && (slot->flags & XMMU_REGION_LOG_DIRTY);
}

static bool recover_oldest(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;
    XmmuTable *table = take_oldest(vm);

    if (!table) {
        return false;
    }
    if (is_logged(vm, table)) {
        forget(table);
        return false;
    }
    return strategies[vm->config.nx_strategy].recover(hold, table);
}

uint64_t xmmu_vm_nx_recover(XmmuVm *vm, uint64_t count)
{
    uint64_t recovered = 0;
    XmmuHold hold;

    /* Each table has one chance in a call. */
    count = MIN(count, list_length(vm));
    if (!count) {
        return 0;
    }
    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_HOST);
    for (uint64_t i = 0; i < count; i++) {
        recovered += recover_oldest(&hold);
        if (xmmu_lock_contended(vm)) {
            xmmu_hold_yield(&hold);
        }
    }
    xmmu_read_unlock(&hold);
    xmmu_count_shared(&vm->stats.nx_recovered, recovered);
    return recovered;
}

uint64_t xmmu_vm_nx_recover_due(XmmuVm *vm)
{
    uint32_t ratio = vm->config.nx_ratio;
    uint64_t length = list_length(vm);

    return ratio ? xmmu_vm_nx_recover(vm, (length + ratio - 1) / ratio) : 0;
}

uint32_t xmmu_nx_period_ms(const XmmuConfig *config)
{
    /* Not below a second, however large the ratio. */
    const uint32_t hour = 3600;

    if (!config->nx_huge_pages || !config->tdp || !config->nx_ratio) {
        return 0;
    }
    return config->nx_period_ms ? config->nx_period_ms
                                : hour * 1000 / MIN(config->nx_ratio, hour);
}
