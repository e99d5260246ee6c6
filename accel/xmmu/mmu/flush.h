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

/* A right was taken out of an entry; called by the writer (table.c) only. */
void xmmu_flush_owe(XmmuVm *vm);

/* Now, as a new tick of the clock (never 0). */
uint64_t xmmu_flush_tick(XmmuVm *vm);

/* @vcpu has nothing cached at this moment. */
void xmmu_flush_done(XmmuVcpu *vcpu);

/* Has every vCPU flushed at or after @tick?  @self counts as flushed now when
 * not NULL.  mmu_lock. */
bool xmmu_flush_all_since(XmmuVm *vm, uint64_t tick, const XmmuVcpu *self);

#endif /* XMMU_MMU_FLUSH_H */
