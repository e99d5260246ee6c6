/*
 * xmmu: roots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Which table a vCPU starts from, and the small cache of those it used before.
 */
#ifndef XMMU_MMU_ROOTS_H
#define XMMU_MMU_ROOTS_H

#include "vm.h"

/* Registers or role changed: make the root they ask for the current one. */
void xmmu_roots_select(XmmuMmu *mmu);

/* The current root's table, loaded if need be.  mmu_lock for writing (shadow).
 * NULL when out of memory.  CR3 must point to RAM. */
XmmuTable *xmmu_roots_load(XmmuMmu *mmu);

/* The vCPU loaded PDPTEs: drop what was made from others. */
void xmmu_roots_set_pdptes(XmmuMmu *mmu);

#define XMMU_ALL_PCIDS (-1)

/* The PCID that @regs select; 0 when the guest does not use PCIDs. */
uint16_t xmmu_regs_pcid(const XmmuRegs *regs);

/*
 * The guest flushed the translations of @gva (NULL: all) for @pcid, or for
 * XMMU_ALL_PCIDS: note it at every root that this concerns, the current one too.
 */
void xmmu_roots_owe(XmmuMmu *mmu, int pcid, const gva_t *gva);
/* The same for all translations by the roots at @pgd: INVEPT. */
void xmmu_roots_owe_pgd(XmmuMmu *mmu, uint64_t pgd);

/* Bring the current root up to date for what it owes. */
void xmmu_roots_pay(XmmuMmu *mmu);

/* The current root first, then the cached ones; without their .owed.  From any
 * thread, with mmu_lock held so that no table is freed. */
size_t xmmu_roots_snapshot(const XmmuMmu *mmu, XmmuCachedRoot *out, size_t max);

/* Forget all. */
void xmmu_roots_drop(XmmuMmu *mmu);

#endif /* XMMU_MMU_ROOTS_H */
