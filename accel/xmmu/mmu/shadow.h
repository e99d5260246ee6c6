/*
 * xmmu: shadow paging
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See shadow.c (the tables), shadow_fault.c (what builds them), shadow_zap.c (what
 * takes them down), track.c (reverse maps and guest writes) and sync.c (comparing
 * with guest tables).  All need mmu_lock for writing.
 */
#ifndef XMMU_MMU_SHADOW_H
#define XMMU_MMU_SHADOW_H

#include "vm.h"

/* ---- shadow.c: the tables -------------------------------------------- */

/*
 * The table with exactly this key, linked into the hash; created when absent.
 * NULL when out of memory.  A guest table must be in RAM (a slot).
 */
XmmuTable *xmmu_shadow_get(XmmuVcpu *vcpu, gfn_t gfn, XmmuPageRole role);

/* Take @table out of use: its entries go, nobody finds it any more.  Freed when
 * no root holds it. */
void xmmu_shadow_zap(XmmuTable *table);

/* A root was dropped by a vCPU's root cache. */
void xmmu_shadow_put_root(XmmuTable *table);

/* The writer's notices: @sptep started or stopped to point to @child. */
void xmmu_shadow_linked(XmmuTable *child, XmmuSpte *sptep);
void xmmu_shadow_unlinked(XmmuTable *child, XmmuSpte *sptep);

/* Zap everything that maps or shadows [gfn, gfn + npages) of address space @as_id. */
void xmmu_shadow_zap_gfns(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages);
void xmmu_shadow_zap_all(XmmuVm *vm);

/* ---- track.c: who maps a frame, who shadows it -------------------------- */

void xmmu_rmap_add(XmmuVm *vm, XmmuSpte *sptep, XmmuSpte spte, int level);
void xmmu_rmap_remove(XmmuVm *vm, XmmuSpte *sptep, XmmuSpte spte, int level);

/* Remove the write permission from every entry that maps @hfn. */
void xmmu_write_protect(XmmuVm *vm, hfn_t hfn);

/* Hash bucket of tables that belong to @frame: hfn if indirect, else gfn. */
XmmuTable **xmmu_shadow_bucket(XmmuVm *vm, uint64_t frame);

/* An indirect table came into use or went: its guest table is (not) tracked. */
void xmmu_track_add(XmmuTable *table);
void xmmu_track_remove(XmmuTable *table);

/* Is there a shadowed guest table in the 2 MiB of host frames around @hfn?  Then
 * it must be mapped by 4 KiB leaves. */
bool xmmu_track_splits(XmmuVm *vm, hfn_t hfn);

/*
 * The guest is about to write @size bytes at @gpa, which is @hfn.  True: the
 * write must be done by hand and the page stay protected; false: the page
 * may be mapped writable (level-1 tables there became unsync).
 */
bool xmmu_track_write(XmmuVm *vm, XmmuVcpu *vcpu, gpa_t gpa, hfn_t hfn,
                      unsigned size);

/* Is any indirect table of @hfn protected, so that it must be mapped read-only? */
bool xmmu_track_protected(XmmuVm *vm, hfn_t hfn);

/* ---- sync.c: unsync tables --------------------------------------------- */

/* The guest may have changed its table behind our back. */
void xmmu_mark_unsync(XmmuTable *table);

/* Bring every unsync table below @root up to date.  @flushed: the calling vCPU
 * has nothing cached (it may be NULL: nothing is known). */
void xmmu_sync_root(XmmuVcpu *vcpu, XmmuTable *root, bool flushed);

/* INVLPG: bring the path to @gva up to date, and every upper table. */
void xmmu_sync_gva(XmmuVcpu *vcpu, XmmuTable *root, gva_t gva);

/* Anything unsync at @table or below?  May be asked without the lock. */
static inline bool xmmu_needs_sync(const XmmuTable *table)
{
    return __atomic_load_n(&table->unsync, __ATOMIC_ACQUIRE) ||
           __atomic_load_n(&table->unsync_children, __ATOMIC_ACQUIRE);
}

/* @table's child at @index needs synchronising: note it, up to the roots. */
void xmmu_unsync_link(XmmuTable *table, unsigned index);
/* It does not any more, or it is gone. */
void xmmu_unsync_unlink(XmmuTable *table, unsigned index);

#endif /* XMMU_MMU_SHADOW_H */
