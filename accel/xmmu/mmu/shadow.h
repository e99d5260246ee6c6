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

/* A root of four PDPTEs, for one cached root of one vCPU.  NULL: out of memory. */
XmmuTable *xmmu_shadow_new_pae_root(XmmuVm *vm, gfn_t gfn, XmmuPageRole role);

/* Take @table out of use: its entries go, nobody finds it any more.  Freed when
 * no root holds it. */
void xmmu_shadow_zap(XmmuTable *table);

/*
 * The same in two steps, each of which handles at most *@budget entries, counts them
 * down, and returns false when there is more to do.  First: nothing leads to @table
 * any more, it is obsolete.  Then: its entries go.
 */
bool xmmu_shadow_retire(XmmuTable *table, unsigned *budget);
bool xmmu_shadow_dismantle(XmmuTable *table, unsigned *budget);

/*
 * Walk the guest's tables for @fault->access by the rules of @vcpu's current MMU, and
 * build what leads to the page.  Takes mmu_lock; counts nothing.
 */
XmmuPfResult xmmu_shadow_build(XmmuVcpu *vcpu, XmmuFault *fault);

/* A root was dropped by a vCPU's root cache. */
void xmmu_shadow_put_root(XmmuTable *table);

/* The writer's notices: @sptep started or stopped to point to @child. */
void xmmu_shadow_linked(XmmuTable *child, XmmuSpte *sptep);
void xmmu_shadow_unlinked(XmmuTable *child, XmmuSpte *sptep);

/* ---- shadow_zap.c: taking them down -------------------------------------- */

/* Entries that are handled in one hold of mmu_lock. */
#define XMMU_ZAP_SLICE 512

/* Every table of now becomes stale at once; mmu_lock for writing. */
void xmmu_shadow_new_generation(XmmuVm *vm);
/* Take down what is obsolete, @budget entries at most; mmu_lock for writing. */
void xmmu_shadow_finish_some(XmmuVm *vm, unsigned budget);
/* Take down all that is obsolete, in slices; takes mmu_lock itself, for @reason: SLICE
 * if the flush is still to come, GUEST if it was ordered. */
void xmmu_shadow_finish(XmmuVm *vm, XmmuReason reason);
/* Zap everything that maps or shadows the host frames [hfn, hfn + npages), in slices;
 * takes mmu_lock itself. */
void xmmu_shadow_zap_frames(XmmuVm *vm, hfn_t hfn, uint64_t npages);
/* Zap the leaves of 2 MiB that map any of the frames, for small ones; and take down the
 * tables that stand in the place of such leaves for guest frames of the range.  True:
 * there were some.  Slices, as above. */
bool xmmu_shadow_zap_large(XmmuVm *vm, hfn_t hfn, uint64_t npages);
bool xmmu_shadow_zap_linear(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages);

/* An entry of a shadow table is removed: keeps the counter of the longest hold. */
static inline void xmmu_count_held_zap(XmmuVm *vm)
{
    if (++vm->held_zaps > vm->stats.zap_hold_max) {
        __atomic_store_n(&vm->stats.zap_hold_max, vm->held_zaps, __ATOMIC_RELAXED);
    }
}

/* ---- track.c: who maps a frame, who shadows it -------------------------- */

void xmmu_rmap_add(XmmuVm *vm, XmmuSpte *sptep, XmmuSpte spte, int level);
void xmmu_rmap_remove(XmmuVm *vm, XmmuSpte *sptep, XmmuSpte spte, int level);

/* Remove the write permission from every entry that maps @hfn. */
void xmmu_write_protect(XmmuVm *vm, hfn_t hfn);

/* An entry that maps @hfn at @level, or NULL. */
XmmuSpte *xmmu_rmap_first(XmmuVm *vm, hfn_t hfn, int level);

/* Bucket in a hash of tables, by the frame they belong to. */
static inline XmmuTable **xmmu_shadow_bucket(XmmuTable **hash, uint64_t frame)
{
    return &hash[(frame * 0x9e3779b97f4a7c15ull >> 32) % XMMU_HASH_SIZE];
}

/* An indirect table came into use or went: its guest table is (not) tracked. */
void xmmu_track_add(XmmuIndirect shadow);
void xmmu_track_remove(XmmuIndirect shadow);

/* The tables in use that shadow the guest table in @hfn, one after the other. */
XmmuIndirect xmmu_track_first(XmmuVm *vm, hfn_t hfn);
XmmuIndirect xmmu_track_next(XmmuIndirect shadow);

/* Is there a shadowed guest table in the 2 MiB of host frames around @hfn?  Then
 * it must be mapped by 4 KiB leaves.  Either side of mmu_lock, as the next two. */
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
void xmmu_mark_unsync(XmmuIndirect shadow);

/* Bring every unsync table below @root up to date. */
void xmmu_sync_root(XmmuVcpu *vcpu, XmmuTable *root);

/*
 * @root comes back without a flush.  The vCPU may go on with what was valid until
 * @since (fill clock), but not with what others have built since then.
 */
void xmmu_sync_since(XmmuVcpu *vcpu, XmmuTable *root, uint64_t since);

/* The writer's notice: an entry was put into shadow table @table. */
static inline void xmmu_note_filled(XmmuTable *table)
{
    uint64_t now = table->vm->fill_clock + 1;

    __atomic_store_n(&table->vm->fill_clock, now, __ATOMIC_RELEASE);
    table->filled_at = now;
}

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
