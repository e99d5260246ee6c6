/*
 * xmmu: TDP tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tables that translate guest physical addresses, one tree per address space,
 * shared by all vCPUs.  Faults run under mmu_lock for reading.
 */
#ifndef XMMU_MMU_TDP_H
#define XMMU_MMU_TDP_H

#include "vm.h"

/* The tree of @as_id; created on first use.  NULL when out of memory. */
XmmuTable *xmmu_tdp_root(XmmuVm *vm, unsigned as_id, XmmuPageRole role);

/* Remove every leaf that maps a gfn of the range, and tables that lie in it
 * wholly.  mmu_lock for writing. */
void xmmu_tdp_zap_gfns(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages);
void xmmu_tdp_zap_all(XmmuVm *vm);

/* A table lost its place in the tree: free it with all below it.  Called by the
 * writer (table.c). */
void xmmu_tdp_free_subtree(XmmuTable *table);

#endif /* XMMU_MMU_TDP_H */
