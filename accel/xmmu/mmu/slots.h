/*
 * xmmu: memory slots and frames
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A slot says which host frames are behind a run of guest frames.  The slots of
 * an address space are an immutable sorted array behind an RCU pointer: readers
 * are in an RCU section, the writer holds mmu_lock for writing.
 *
 * A chunk is the bookkeeping of 2 MiB of *host* frames for shadow paging:
 * which entries map a frame, and how many shadowed guest tables live there.  It is
 * keyed by host frame so that aliases (SMM, A20, two gfns of one RAM page) are
 * seen by write tracking.
 */
#ifndef XMMU_MMU_SLOTS_H
#define XMMU_MMU_SLOTS_H

#include "mmu.h"
#include "ptr_list.h"

typedef struct XmmuSlots {
    XmmuRcuHead rcu;
    uint32_t generation;
    size_t count;
    XmmuRegion regions[];
} XmmuSlots;

typedef struct XmmuChunk XmmuChunk;
struct XmmuChunk {
    XmmuChunk *next;                    /* in its bucket, or in stock */
    hfn_t hfn;                          /* first frame, 2 MiB aligned */
    unsigned users;                     /* pointers and tables that it knows of */
    unsigned tracked;                   /* indirect tables whose guest table is here */
    XmmuPtrList rmap_2m;                /* XmmuSpte * of 2 MiB leaves */
    XmmuPtrList rmap[XMMU_ENTRIES];     /* XmmuSpte * of 4 KiB leaves, by frame */
};

/* The slot that holds @gfn, or NULL.  RCU read section or mmu_lock. */
const XmmuRegion *xmmu_slot_find(XmmuVm *vm, unsigned as_id, gfn_t gfn);

static inline hpa_t xmmu_slot_hpa(const XmmuRegion *slot, gfn_t gfn)
{
    return slot->hpa + ((gfn - slot->gfn) << XMMU_PAGE_SHIFT);
}

uint32_t xmmu_slots_generation(XmmuVm *vm, unsigned as_id);

/*
 * The largest level at which @gfn can be mapped with one leaf: the whole guest
 * range lies in the slot, whose writes are not logged, the host frames are aligned
 * alike, and the engine's hardware can map them (XmmuServices.max_level).
 */
int xmmu_slot_max_level(XmmuVm *vm, const XmmuRegion *slot, gfn_t gfn, int limit);

/* The chunk of @hfn, or NULL.  mmu_lock for writing, as for the next two. */
XmmuChunk *xmmu_chunk_find(XmmuVm *vm, hfn_t hfn);
/* For each guest frame that is @hfn: there may be several.  mmu_lock for writing. */
void xmmu_slots_each_gfn(XmmuVm *vm, hfn_t hfn,
                         void (*fn)(XmmuVm *vm, unsigned as_id, gfn_t gfn));

/* The same, under either side of mmu_lock; the lists in it are not for readers. */
XmmuChunk *xmmu_chunk_peek(XmmuVm *vm, hfn_t hfn);
/* The same with one user more; when absent, one is taken from stock (reserve.h). */
XmmuChunk *xmmu_chunk_get(XmmuVm *vm, hfn_t hfn);
/* One user less; the last one's chunk goes back. */
void xmmu_chunk_put(XmmuVm *vm, XmmuChunk *chunk);

/* False: out of memory. */
bool xmmu_slots_init(XmmuVm *vm);
void xmmu_slots_cleanup(XmmuVm *vm);

#endif /* XMMU_MMU_SLOTS_H */
