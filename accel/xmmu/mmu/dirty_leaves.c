/*
 * xmmu: which frames the guest writes: the leaves of a chunk
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the way from frames of the log to all the leaves that map them: TDP leaves by the
 * slots and guest frames, shadow leaves by the reverse maps, which are by host frame as
 * the log is.  Write protection and harvest use it, with slots_lock held.
 */
#include "dirty_priv.h"
#include "shadow.h"

/* Runs of frames of @slot. */
static void visit_slot(XmmuDirtyVisit *visit, XmmuHold *hold, unsigned as_id,
                       const XmmuRegion *slot)
{
    hfn_t base = slot->hpa >> XMMU_PAGE_SHIFT, first = visit->chunk->hfn;
    hfn_t end = MIN(first + XMMU_ENTRIES, base + slot->npages);

    for (hfn_t pos = MAX(first, base); pos < end; pos++) {
        hfn_t start = pos;

        while (pos < end && xmmu_dirty_has_bit(visit->bits, pos - first)) {
            pos++;
        }
        if (pos > start) {
            visit->tdp(visit, hold, as_id, slot->gfn + (start - base), pos - start);
        }
    }
}

static void leave(XmmuDirtyVisit *visit)
{
    if (visit->leave) {
        visit->leave(visit);
    }
}

/* The slots stay as they are: slots_lock. */
static void visit_tdp(XmmuDirtyVisit *visit)
{
    XmmuVm *vm = visit->vm;
    XmmuHold hold;

    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_SLICE);
    for (unsigned as_id = 0; as_id < XMMU_AS_COUNT; as_id++) {
        const XmmuSlots *slots = vm->slots[as_id];

        for (size_t i = 0; i < slots->count; i++) {
            visit_slot(visit, &hold, as_id, &slots->regions[i]);
        }
    }
    leave(visit);
    xmmu_read_unlock(&hold);
}

static void visit_shadow(XmmuDirtyVisit *visit)
{
    XmmuVm *vm = visit->vm;
    XmmuChunk *chunk;

    xmmu_write_lock(vm, XMMU_REASON_SLICE);
    chunk = xmmu_chunk_find(vm, visit->chunk->hfn);
    if (chunk) {
        xmmu_ptr_list_each(&chunk->rmap_2m, visit->shadow, visit);
        for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
            if (xmmu_dirty_has_bit(visit->bits, i)) {
                xmmu_ptr_list_each(&chunk->rmap[i], visit->shadow, visit);
            }
        }
    }
    leave(visit);
    xmmu_write_unlock(vm);
}

void xmmu_dirty_visit(XmmuDirtyVisit *visit)
{
    if (visit->vm->config.tdp) {
        visit_tdp(visit);
    }
    /* L2's, if tdp=on. */
    visit_shadow(visit);
}

void xmmu_dirty_without(XmmuVm *vm, XmmuSpte *sptep, uint64_t bit)
{
    XmmuSpte spte = xmmu_spte_read(sptep);

    if (xmmu_spte_present(vm->format, spte) && (spte.raw & bit)) {
        xmmu_spte_set(xmmu_table_of(sptep), xmmu_spte_index(sptep),
                      (XmmuSpte) { spte.raw & ~bit });
    }
}
