/*
 * xmmu: which frames the guest writes: D bits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the harvest of D bits: in our leaves, and through the service "harvest" in those
 * of hardware that has a copy of our tables.  A sync calls it, with slots_lock held.
 *
 * Where hardware logs which pages got D (page-modification logging) its leaves are
 * asked only for frames that the log has named since the last time.  A frame that comes
 * to be logged counts as named, for D may have been set there long before.
 */
#include "dirty_priv.h"
#include "shadow.h"
#include "tdp.h"
#include "tdp_iter.h"

/* Of one chunk; with the hardware's leaves that are still to be asked for D. */
typedef struct Harvest {
    XmmuDirtyVisit visit;
    const uint64_t *hinted;     /* frames whose leaves there may have it; NULL: all */
    size_t count;
    XmmuHarvest copy[XMMU_ENTRIES];
} Harvest;

static Harvest *harvest_of(XmmuDirtyVisit *visit)
{
    return (Harvest *)((char *)visit - offsetof(Harvest, visit));
}

static void ask_copies(XmmuDirtyVisit *visit)
{
    Harvest *harvest = harvest_of(visit);
    XmmuVm *vm = visit->vm;

    if (!harvest->count) {
        return;
    }
    vm->services->harvest(vm->opaque, harvest->copy, harvest->count);
    for (size_t i = 0; i < harvest->count; i++) {
        const XmmuSpte *sptep = harvest->copy[i].sptep;
        XmmuSpte spte = xmmu_spte_read(sptep);

        /* If it is another leaf by now, its removal brought D along. */
        if (harvest->copy[i].dirty && xmmu_spte_present(vm->format, spte)) {
            xmmu_dirty_mark(vm, NULL, xmmu_spte_hpa(spte) >> XMMU_PAGE_SHIFT,
                            xmmu_level_pages(xmmu_table_of(sptep)->role.level));
        }
    }
    harvest->count = 0;
}

/* What has D here was told to the hardware with D, which it then does not set. */
static bool copy_may_have_d(const Harvest *harvest, XmmuSpte spte, int level)
{
    hfn_t frame = (xmmu_spte_hpa(spte) >> XMMU_PAGE_SHIFT) - harvest->visit.chunk->hfn;

    return !harvest->hinted || level > XMMU_LEVEL_4K ||
           (spte.raw & harvest->visit.vm->format->dirty) ||
           xmmu_dirty_has_bit(harvest->hinted, frame);
}

static void note_copy(Harvest *harvest, const XmmuSpte *sptep, XmmuSpte spte)
{
    XmmuVm *vm = harvest->visit.vm;

    if (vm->services->harvest && xmmu_spte_writable(vm->format, spte) &&
        copy_may_have_d(harvest, spte, xmmu_table_of(sptep)->role.level)) {
        harvest->copy[harvest->count++] = (XmmuHarvest) { .sptep = sptep };
        if (harvest->count == G_N_ELEMENTS(harvest->copy)) {
            ask_copies(&harvest->visit);
        }
    }
}

/* At most 512 frames, so nobody has to wait long for the lock. */
static void harvest_tdp(XmmuDirtyVisit *visit, XmmuHold *hold, unsigned as_id, gfn_t gfn,
                        uint64_t npages)
{
    const XmmuHostFormat *format = hold->vm->format;
    XmmuTable *root = xmmu_tdp_root_find(hold, as_id);
    XmmuTdpIter iter;

    if (!root) {
        return;
    }
    xmmu_tdp_iter_begin(&iter, hold, root, gfn, gfn + npages, XMMU_LEVEL_4K);
    while (xmmu_tdp_iter_next(&iter)) {
        if (!xmmu_spte_present(format, iter.old) ||
            !xmmu_spte_is_leaf(format, iter.old, iter.level)) {
            continue;
        }
        note_copy(harvest_of(visit), &iter.table->spt[iter.index], iter.old);
        while (xmmu_dirty_leaf_has(format, iter.old, iter.level, format->dirty) &&
               !xmmu_tdp_iter_set(&iter,
                                  (XmmuSpte) { iter.old.raw & ~format->dirty })) {
            /* Somebody else changed it; look at what it is now. */
        }
    }
    xmmu_tdp_root_put(hold, root);
}

static void harvest_shadow(void *ptr, void *opaque)
{
    XmmuDirtyVisit *visit = opaque;
    XmmuSpte *sptep = ptr;

    note_copy(harvest_of(visit), sptep, xmmu_spte_read(sptep));
    xmmu_dirty_without(visit->vm, sptep, visit->vm->format->dirty);
}

/* @hints: the hardware's log of writes is to be believed. */
static void harvest_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end,
                          bool hints)
{
    uint64_t bits[XMMU_DIRTY_WORDS], hinted[XMMU_DIRTY_WORDS], any = 0;
    XMMU_UNINITIALIZED Harvest harvest;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = xmmu_dirty_load(&chunk->logged[i]) &
                  xmmu_dirty_range_mask(chunk, i, start, end);
        hinted[i] = hints ? bits[i] & __atomic_fetch_and(&chunk->hinted[i], ~bits[i],
                                                         __ATOMIC_SEQ_CST) : 0;
        any |= bits[i];
    }
    if (any) {
        harvest.visit = (XmmuDirtyVisit) {
            .vm = vm, .chunk = chunk, .bits = bits,
            .tdp = harvest_tdp, .shadow = harvest_shadow, .leave = ask_copies,
        };
        harvest.hinted = hints ? hinted : NULL;
        harvest.count = 0;
        xmmu_dirty_visit(&harvest.visit);
    }
}

void xmmu_dirty_harvest(XmmuVm *vm, hfn_t start, hfn_t end)
{
    const XmmuServices *services = vm->services;
    XmmuDirtyMap *map = vm->dirty_map;
    bool hints = services->harvest && services->hint_dirty &&
                 services->hint_dirty(vm->opaque);

    for (size_t c = xmmu_dirty_chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        harvest_chunk(vm, map->chunk[c], start, end, hints);
    }
    if (services->harvest) {
        /* Hardware that has a copy tells of leaves that went when it learns that. */
        xmmu_dirty_flush(vm);
    }
}
