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

/* The guest flushed: bring the current root up to date. */
void xmmu_roots_sync(XmmuMmu *mmu, bool flushed);

/* Forget all. */
void xmmu_roots_drop(XmmuMmu *mmu);

#endif /* XMMU_MMU_ROOTS_H */
