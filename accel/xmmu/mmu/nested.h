/*
 * xmmu: nested guests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Inside the core; what the glue calls is in mmu.h.
 */
#ifndef XMMU_MMU_NESTED_H
#define XMMU_MMU_NESTED_H

#include "vm.h"

/* L2's registers changed while it runs under L1's nested paging. */
void xmmu_nested_set_regs(XmmuVcpu *vcpu, const XmmuRegs *l2);

/*
 * The tables of guest_mmu did not allow access.want at @fault->tdp_gpa, a physical
 * address of L2.  For the hardware model.
 */
XmmuPfResult xmmu_nested_fault(XmmuVcpu *vcpu, XmmuFault *fault);

#endif /* XMMU_MMU_NESTED_H */
