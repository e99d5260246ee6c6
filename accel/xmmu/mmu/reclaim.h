/*
 * xmmu: the limit of table memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Who has to go when tables have taken all the memory that they may take.  See
 * reclaim.c (shadow tables, the limit) and tdp_reclaim.c.
 */
#ifndef XMMU_MMU_RECLAIM_H
#define XMMU_MMU_RECLAIM_H

#include "table.h"
#include "vm.h"

/* ---- reclaim.c; mmu_lock for writing --------------------------------------- */

/* A fault begins: tables that it uses from now on are not taken from it. */
void xmmu_reclaim_begin(XmmuVm *vm);
/* The current fault uses @table, a shadow table. */
void xmmu_reclaim_touch(XmmuTable *table);

/* Make room for @size bytes; false if nothing is left that could go. */
bool xmmu_reclaim_for(XmmuVm *vm, size_t size);
/* The host has no memory: let go of what was used least recently. */
void xmmu_reclaim_some(XmmuVm *vm);

/* ---- tdp_reclaim.c --------------------------------------------------------- */

/* A TDP fault passes through @table. */
static inline void xmmu_reclaim_note(XmmuTable *table)
{
    uint64_t now = __atomic_load_n(&table->vm->lru_epoch, __ATOMIC_RELAXED);

    if (__atomic_load_n(&table->used_by, __ATOMIC_RELAXED) != now) {
        __atomic_store_n(&table->used_by, now, __ATOMIC_RELAXED);
    }
}
/* A TDP table was added to a tree. */
void xmmu_reclaim_made_one(XmmuVm *vm);

/* Cut off TDP tables that were used least recently, at least until there is room for
 * @size bytes; false if none is left.  mmu_lock, either side. */
bool xmmu_reclaim_tdp(XmmuHold *hold, size_t size);
/* A TDP fault of @vcpu found no memory: make some, if anything is left that could go.
 * Takes mmu_lock. */
void xmmu_reclaim_for_tdp_fault(XmmuVcpu *vcpu);

#endif /* XMMU_MMU_RECLAIM_H */
