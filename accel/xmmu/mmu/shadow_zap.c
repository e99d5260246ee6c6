/*
 * xmmu: taking shadow tables down
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns how shadow tables go when guest memory changes or everything must go, without
 * a stall: the vCPUs stop using them at once, but the entries are removed in slices,
 * with mmu_lock released in between.
 *
 * Everything goes: the VM's generation moves on.  No lookup finds a table of an older
 * generation and no vCPU walks a root of one (xmmu_table_stale()), so vCPUs build new
 * tables while the old ones are taken down.
 *
 * Some frames go: their mappings and the tables that shadow guest tables in them are
 * found by host frame.  The caller has published the new memory map before, so that
 * nothing new comes up in frames that were passed, and flushes afterwards.
 */
#include "flush.h"
#include "shadow.h"

static void queue_append(GQueue *to, GQueue *from)
{
    if (!from->head) {
        return;
    }
    if (to->tail) {
        to->tail->next = from->head;
        from->head->prev = to->tail;
    } else {
        to->head = from->head;
    }
    to->tail = from->tail;
    to->length += from->length;
    g_queue_init(from);
}

void xmmu_shadow_new_generation(XmmuVm *vm)
{
    xmmu_assert_write_locked(vm);
    queue_append(&vm->obsolete, &vm->shadow_tables);
    __atomic_store_n(&vm->generation, vm->generation + 1, __ATOMIC_RELEASE);
}

/* Each table costs something even if it is empty. */
void xmmu_shadow_finish_some(XmmuVm *vm, unsigned budget)
{
    xmmu_assert_write_locked(vm);
    while (vm->obsolete.head && budget) {
        if (!xmmu_shadow_dismantle(vm->obsolete.head->data, &budget)) {
            return;
        }
        budget -= MIN(budget, 1);
    }
}

void xmmu_shadow_finish(XmmuVm *vm, XmmuReason reason)
{
    bool more = true;

    while (more) {
        xmmu_write_lock(vm, reason);
        xmmu_shadow_finish_some(vm, XMMU_ZAP_SLICE);
        more = vm->obsolete.head;
        xmmu_write_unlock(vm);
    }
}

/* ---- Frames ---------------------------------------------------------------- */

static bool zap_mappings(XmmuVm *vm, hfn_t hfn, int level, unsigned *budget)
{
    XmmuSpte *sptep;

    while ((sptep = xmmu_rmap_first(vm, hfn, level))) {
        if (!*budget) {
            return false;
        }
        xmmu_spte_set(xmmu_table_of(sptep), xmmu_spte_index(sptep),
                      (XmmuSpte) { 0 });
        --*budget;
    }
    return true;
}

static bool zap_shadows(XmmuVm *vm, hfn_t hfn, unsigned *budget)
{
    XmmuIndirect shadow;

    while ((shadow = xmmu_track_first(vm, hfn)).table) {
        if (!xmmu_shadow_retire(shadow.table, budget)) {
            return false;
        }
    }
    return true;
}

/* Returns the first frame that is not done. */
static hfn_t zap_some_frames(XmmuVm *vm, hfn_t hfn, hfn_t end, unsigned budget)
{
    while (hfn < end && budget) {
        budget--;
        if (!xmmu_chunk_find(vm, hfn)) {
            hfn = MIN(end, (hfn | (XMMU_ENTRIES - 1)) + 1);
            continue;
        }
        if (!zap_mappings(vm, hfn, XMMU_LEVEL_2M, &budget) ||
            !zap_mappings(vm, hfn, XMMU_LEVEL_4K, &budget) ||
            !zap_shadows(vm, hfn, &budget)) {
            break;
        }
        hfn++;
    }
    return hfn;
}

void xmmu_shadow_zap_frames(XmmuVm *vm, hfn_t hfn, uint64_t npages)
{
    hfn_t end = hfn + npages;

    while (hfn < end) {
        xmmu_write_lock(vm, XMMU_REASON_SLICE);
        hfn = zap_some_frames(vm, hfn, end, XMMU_ZAP_SLICE);
        xmmu_write_unlock(vm);
    }
    xmmu_shadow_finish(vm, XMMU_REASON_SLICE);
}

/* ---- Sizes of pages -------------------------------------------------------- */

bool xmmu_shadow_zap_large(XmmuVm *vm, hfn_t hfn, uint64_t npages)
{
    bool any = false;

    for (hfn_t at = hfn & ~(hfn_t)(XMMU_ENTRIES - 1); at < hfn + npages;
         at += XMMU_ENTRIES) {
        bool done;

        do {
            unsigned budget = XMMU_ZAP_SLICE;

            xmmu_write_lock(vm, XMMU_REASON_SLICE);
            done = zap_mappings(vm, at, XMMU_LEVEL_2M, &budget);
            any |= budget < XMMU_ZAP_SLICE;
            xmmu_write_unlock(vm);
        } while (!done);
    }
    return any;
}

/* A direct table at level 1 that maps guest frames from @gfn on. */
static XmmuTable *first_linear(XmmuVm *vm, unsigned as_id, gfn_t gfn)
{
    XmmuTable *table = *xmmu_shadow_bucket(vm->direct_hash, gfn);

    while (table && (table->gfn != gfn || table->role.level != XMMU_LEVEL_4K ||
                     xmmu_role_as(table->role) != as_id || xmmu_table_stale(table))) {
        table = table->hash_next;
    }
    return table;
}

bool xmmu_shadow_zap_linear(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages)
{
    bool any = false;

    for (gfn_t at = gfn & ~(gfn_t)(XMMU_ENTRIES - 1); at < gfn + npages;
         at += XMMU_ENTRIES) {
        XmmuTable *table;

        do {
            unsigned budget = XMMU_ZAP_SLICE;

            xmmu_write_lock(vm, XMMU_REASON_SLICE);
            table = first_linear(vm, as_id, at);
            if (table) {
                xmmu_shadow_retire(table, &budget);
                any = true;
            }
            xmmu_write_unlock(vm);
        } while (table);
    }
    xmmu_shadow_finish(vm, XMMU_REASON_SLICE);
    return any;
}
