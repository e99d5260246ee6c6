/*
 * xmmu: which frames the guest writes: D bits
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the harvest of D bits: in our leaves, and through the service "harvest" in those
 * of hardware that has a copy of our tables.  A sync calls it, with slots_lock held.
 */
#include "dirty_priv.h"
#include "shadow.h"
#include "tdp.h"
#include "tdp_iter.h"

/* Hardware that has a copy of our tables: what it has set in its leaves there. */
typedef struct Copies {
    size_t count;
    XmmuHarvest entry[XMMU_ENTRIES];
} Copies;

static void fetch_copies(XmmuHold *hold, Copies *copies)
{
    const XmmuHostFormat *format = hold->vm->format;

    if (!copies->count) {
        return;
    }
    hold->vm->services->harvest(hold->vm->opaque, copies->entry, copies->count);
    for (size_t i = 0; i < copies->count; i++) {
        const XmmuSpte *sptep = copies->entry[i].sptep;
        XmmuSpte spte = xmmu_spte_read(sptep);

        /* If it is another leaf by now, its removal brought D along. */
        if (copies->entry[i].dirty && xmmu_spte_present(format, spte)) {
            xmmu_dirty_mark(hold->vm, NULL, xmmu_spte_hpa(spte) >> XMMU_PAGE_SHIFT,
                            xmmu_level_pages(xmmu_table_of(sptep)->role.level));
        }
    }
    copies->count = 0;
}

static void note_copy(XmmuHold *hold, Copies *copies, const XmmuSpte *sptep,
                      XmmuSpte spte)
{
    if (hold->vm->services->harvest && xmmu_spte_writable(hold->vm->format, spte)) {
        copies->entry[copies->count++] = (XmmuHarvest) { .sptep = sptep };
        if (copies->count == G_N_ELEMENTS(copies->entry)) {
            fetch_copies(hold, copies);
        }
    }
}

/* At most 512 frames, so nobody has to wait long for the lock. */
static void harvest_tdp(XmmuHold *hold, unsigned as_id, gfn_t gfn, uint64_t npages)
{
    const XmmuHostFormat *format = hold->vm->format;
    XmmuTable *root = xmmu_tdp_root_find(hold, as_id);
    XMMU_UNINITIALIZED Copies copies;
    XmmuTdpIter iter;

    if (!root) {
        return;
    }
    copies.count = 0;
    xmmu_tdp_iter_begin(&iter, hold, root, gfn, gfn + npages, XMMU_LEVEL_4K);
    while (xmmu_tdp_iter_next(&iter)) {
        if (!xmmu_spte_present(format, iter.old) ||
            !xmmu_spte_is_leaf(format, iter.old, iter.level)) {
            continue;
        }
        note_copy(hold, &copies, &iter.table->spt[iter.index], iter.old);
        while (xmmu_dirty_leaf_has(format, iter.old, iter.level, format->dirty) &&
               !xmmu_tdp_iter_set(&iter,
                                  (XmmuSpte) { iter.old.raw & ~format->dirty })) {
            /* Somebody else changed it; look at what it is now. */
        }
    }
    fetch_copies(hold, &copies);
    xmmu_tdp_root_put(hold, root);
}

static void harvest_shadow(void *ptr, void *opaque)
{
    XmmuVm *vm = opaque;
    XmmuSpte *sptep = ptr;
    XMMU_UNINITIALIZED Copies copies;

    copies.count = 0;
    note_copy(&vm->writer, &copies, sptep, xmmu_spte_read(sptep));
    xmmu_dirty_without(vm, sptep, vm->format->dirty);
    fetch_copies(&vm->writer, &copies);
}

void xmmu_dirty_harvest_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end)
{
    uint64_t bits[XMMU_DIRTY_WORDS], any = 0;
    XmmuDirtyVisit visit = { vm, chunk, bits, harvest_tdp, harvest_shadow };

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = xmmu_dirty_load(&chunk->logged[i]) &
                  xmmu_dirty_range_mask(chunk, i, start, end);
        any |= bits[i];
    }
    if (any) {
        xmmu_dirty_visit(&visit);
    }
}
