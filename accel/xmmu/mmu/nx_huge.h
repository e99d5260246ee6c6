/*
 * xmmu: huge pages that may not be executed
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Some CPUs can be brought to a halt by a fetch from a page whose size changes at
 * that moment (Intel's erratum of "iTLB multihit", CVE-2018-12207).  The way round
 * it is that no huge leaf is ever executable: the first fetch splits it, and from
 * time to time what was split becomes huge again.
 *
 * This file has the policy, and the list of "possible NX huge pages": the tables
 * that stand where a huge leaf could, only because something was fetched there.
 * How a leaf is split and a table promoted is in tdp_split.h.
 *
 * Ownership: a table is put on the list by who linked it and taken off by the
 * writer when it unlinks it (table.c), so each table on the list is one that its
 * parent still points to, or one whose unlinking is not finished.  The list holds no
 * reference; who looks at a table must have entered his RCU section before he took
 * it from the list.
 *
 * Locks: the list's own lock is the innermost; nothing is called under it.
 */
#ifndef XMMU_MMU_NX_HUGE_H
#define XMMU_MMU_NX_HUGE_H

#include "vm.h"

void xmmu_nx_init(XmmuVm *vm);
void xmmu_nx_cleanup(XmmuVm *vm);

/* Rights of a leaf at @level for a mapping that should have @access. */
static inline uint8_t xmmu_nx_leaf_access(const XmmuVm *vm, int level, uint8_t access)
{
    return vm->config.nx_huge_pages && level > XMMU_LEVEL_4K
           ? access & ~XMMU_ACC_EXEC : access;
}

/* Must an access that wants @want end in a leaf of 4 KiB? */
static inline bool xmmu_nx_wants_small(const XmmuVm *vm, uint8_t want)
{
    return vm->config.nx_huge_pages && want == XMMU_PROT_EXEC;
}

/*
 * @table was linked where a huge leaf was possible but for the fetch.  Any thread, with
 * mmu_lock for reading or writing; when the table has been unlinked since, nothing
 * happens.
 */
void xmmu_nx_track(XmmuTable *table);

/*
 * @table lost its place in the tree: it never is on the list again.  Called by the
 * writer, before the table is given to RCU.
 */
void xmmu_nx_untrack(XmmuTable *table);

#endif /* XMMU_MMU_NX_HUGE_H */
