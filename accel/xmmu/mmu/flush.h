/*
 * xmmu: flushes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The flush clock.  See flush.c for the two ways in which a flush is paid.
 */
#ifndef XMMU_MMU_FLUSH_H
#define XMMU_MMU_FLUSH_H

#include "vm.h"

/*
 * A right was taken out of an entry, after the entry was changed: whoever cached it
 * has something stale.  Called by the writer of entries (table.c), and by who knows
 * of stale translations whose entries went earlier.
 */
void xmmu_flush_owe(XmmuHold *hold);

/* @table is out of use: it is freed when what is owed now has been paid, and a
 * grace period has gone by. */
void xmmu_flush_doom(XmmuHold *hold, XmmuTable *table);

/* Order the flush if one is owed, then let go of the doomed tables.  Called before
 * mmu_lock is released (lock.c). */
void xmmu_flush_pay(XmmuHold *hold);

/* Now, as a new tick of the clock (never 0). */
uint64_t xmmu_flush_tick(XmmuVm *vm);

/* @vcpu has nothing cached at this moment. */
void xmmu_flush_done(XmmuVcpu *vcpu);

/* @vcpu is about to read an entry and may cache what it finds. */
static inline void xmmu_flush_note_use(XmmuVcpu *vcpu)
{
    if (!__atomic_load_n(&vcpu->cached, __ATOMIC_RELAXED)) {
        /* Before the entry is read: either we see the entry protected, or who
         * protects it sees us. */
        __atomic_store_n(&vcpu->cached, true, __ATOMIC_SEQ_CST);
    }
}

/* Ask the vCPUs that have not flushed since @tick to do so. */
void xmmu_flush_nudge(XmmuVm *vm, uint64_t tick);

/* Has every vCPU flushed at or after @tick?  mmu_lock. */
bool xmmu_flush_all_since(XmmuVm *vm, uint64_t tick);

#endif /* XMMU_MMU_FLUSH_H */
