/*
 * xmmu soft engine: its place between TCG, the hardware model and the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef ACCEL_XMMU_ENGINE_H
#define ACCEL_XMMU_ENGINE_H

#include "exec/memattrs.h"
#include "hw/core/cpu.h"
#include "hw_model.h"

/* What the core is given when TCG executes; its opaque is an XmmuState. */
extern const XmmuServices xmmu_soft_services;

/*
 * Put a translation (outcome OK or DIRECT) into @cs's TLB.  @addr is what the
 * guest accesses; on the vCPU's thread.
 */
void xmmu_soft_install(CPUState *cs, vaddr addr, MemTxAttrs attrs, int mmu_idx,
                       const XmmuHwResult *result);

/* No memory for a table: stops the VM and leaves the vCPU's execution loop. */
G_NORETURN void xmmu_soft_out_of_memory(CPUState *cs, uintptr_t ra);

#endif /* ACCEL_XMMU_ENGINE_H */
