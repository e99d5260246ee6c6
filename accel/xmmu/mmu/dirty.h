/*
 * xmmu: which frames the guest writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The log of writes to frames that lie in regions with XMMU_REGION_LOG_DIRTY.  It is
 * kept by *host* frame, so that a write is seen by whichever alias of the frame it is
 * made (SMM, A20, two gfns, L2's addresses).  The writer of entries (table.c) tells it
 * of each change, faults ask it what a leaf may be; both hold mmu_lock on either side.
 * What reads the log is in mmu.h.  See docs/devel/xmmu-dirty.rst for why nothing is
 * missed.
 */
#ifndef XMMU_MMU_DIRTY_H
#define XMMU_MMU_DIRTY_H

#include "lock.h"
#include "spte.h"
#include "vm.h"

#define XMMU_DIRTY_WORDS (XMMU_ENTRIES / 64)

/* 512 host frames, of which some are logged. */
typedef struct XmmuDirtyChunk XmmuDirtyChunk;
struct XmmuDirtyChunk {
    hfn_t hfn;                  /* of the first; a multiple of 512 */
    XmmuRcuHead rcu;
    /* Bits by frame.  slots_lock, but read and .dirty set by anybody: atomic. */
    uint64_t logged[XMMU_DIRTY_WORDS];
    uint64_t dirty[XMMU_DIRTY_WORDS];       /* written, and not reported yet */
    /* Write protection: reported, and may be written again without a fault. */
    uint64_t reported[XMMU_DIRTY_WORDS];
    uint64_t seen[XMMU_DIRTY_WORDS];        /* by the oracle, since it was asked; atomic */
    uint64_t judged[XMMU_DIRTY_WORDS];      /* what it has seen, while it is asked */
    uint64_t forget[XMMU_DIRTY_WORDS];      /* taken out of the log; the flush is owed */
    uint64_t wanted[XMMU_DIRTY_WORDS];      /* .logged as it is to become */
    /* Hardware's log named them, so its leaves may have D.  Atomic. */
    uint64_t hinted[XMMU_DIRTY_WORDS];
};

/* Sorted by frame.  The array never changes, another one takes its place. */
struct XmmuDirtyMap {
    XmmuRcuHead rcu;
    size_t count;
    XmmuDirtyChunk *chunk[];
};

/* An entry of a table in use changed, see table.c.  @old and @new: not frozen. */
void xmmu_dirty_note(XmmuHold *hold, const XmmuTable *table, XmmuSpte old,
                     XmmuSpte new);

static inline void xmmu_dirty_entry_changed(XmmuHold *hold, const XmmuTable *table,
                                            XmmuSpte old, XmmuSpte new)
{
    if (G_UNLIKELY(__atomic_load_n(&hold->vm->dirty_map, __ATOMIC_ACQUIRE))) {
        xmmu_dirty_note(hold, table, old, new);
    }
}

/* The guest writes to @hfn by hand, without a leaf that says so. */
void xmmu_dirty_by_hand(XmmuHold *hold, hfn_t hfn);

/* The log: is @hfn's next write to be noticed? */
bool xmmu_dirty_is_clean(XmmuVm *vm, hfn_t hfn);
/* The rings: is there no room for what a fault that writes may put there? */
bool xmmu_dirty_no_room(const XmmuVcpu *vcpu);

/* Must a leaf that is not made for a write be made without W?  Faults ask this each time,
 * so what nobody logs costs one look at the slot's flags. */
static inline bool xmmu_dirty_keep_clean(XmmuVm *vm, const XmmuRegion *slot, hfn_t hfn)
{
    return G_UNLIKELY(slot->flags & XMMU_REGION_LOG_DIRTY) &&
           xmmu_dirty_is_clean(vm, hfn);
}

/* Must a fault that writes wait until the vCPU's ring was emptied? */
static inline bool xmmu_dirty_ring_full(const XmmuVcpu *vcpu, const XmmuRegion *slot)
{
    return slot && G_UNLIKELY(slot->flags & XMMU_REGION_LOG_DIRTY) &&
           xmmu_dirty_no_room(vcpu);
}

/* ---- The map changes: slots.c, with slots_lock held ----------------------- */

typedef struct XmmuDirtyChange {
    XmmuDirtyMap *map;          /* with all that was and is to be logged; NULL: none */
    bool fresh;                 /* some frames are logged from now on */
} XmmuDirtyChange;

/* The regions of @as_id are to be @slots: prepare.  False: no memory. */
bool xmmu_dirty_prepare(XmmuVm *vm, unsigned as_id, const XmmuSlots *slots,
                        XmmuDirtyChange *change);
/* mmu_lock for writing, before anybody sees the new regions: log what is new. */
void xmmu_dirty_begin(XmmuVm *vm, XmmuDirtyChange *change);
/* What was mapped by the old regions only is gone: forget what is not logged any more,
 * telling XmmuServices.dirty_dropped what was written there. */
void xmmu_dirty_finish(XmmuVm *vm, const XmmuDirtyChange *change);

/* The VM goes. */
void xmmu_dirty_cleanup(XmmuVm *vm);

#endif /* XMMU_MMU_DIRTY_H */
