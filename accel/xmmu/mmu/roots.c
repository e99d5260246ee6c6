/*
 * xmmu: roots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the choice of a vCPU's root.  A root is known by (pgd, page role): the
 * base that CR3 holds and what the table is.  When one of them changes, the
 * current root moves to the front of prev[] and a matching one is taken out of
 * it, so that going back and forth costs nothing.  The key is computed in one
 * place, wanted_key(), for storing and for looking up.
 *
 * Direct roots (TDP, and shadow paging while the guest does not page) stand for
 * no CR3; their pgd is 0.  PAE and 32-bit roots hold four PDPTEs and belong to
 * one cached root of one vCPU, because PDPTEs are registers of that vCPU.
 *
 * Called by the vCPU's thread.
 */
#include "flush.h"
#include "roots.h"
#include "shadow.h"
#include "tdp.h"

static uint64_t pgd_of(const XmmuMmu *mmu, XmmuPageRole role)
{
    if (role.direct) {
        return 0;
    }
    if (role.pae_root && !role.gpte4) {
        return mmu->regs.cr3 & 0xffffffe0 & mmu->masks.gpa_mask;
    }
    return mmu->regs.cr3 & mmu->masks.addr_mask & mmu->masks.gpa_mask;
}

static XmmuCachedRoot wanted_key(const XmmuMmu *mmu)
{
    XmmuPageRole role = xmmu_root_role(&mmu->vcpu->vm->config, mmu->role);

    return (XmmuCachedRoot) { .pgd = pgd_of(mmu, role), .role = role };
}

static bool same_key(const XmmuCachedRoot *a, const XmmuCachedRoot *b)
{
    return a->pgd == b->pgd && a->role.word == b->role.word;
}

/* TDP roots belong to the VM. */
static void put_root(XmmuCachedRoot *root)
{
    if (root->table && !root->role.tdp) {
        xmmu_shadow_put_root(root->table);
    }
    *root = (XmmuCachedRoot) { 0 };
}

/* Take the root for @key out of the cache, leaving a hole.  A zapped root is
 * of no use. */
static bool take_cached(XmmuMmu *mmu, const XmmuCachedRoot *key,
                        XmmuCachedRoot *found, unsigned *hole)
{
    for (unsigned i = 0; i < mmu->vcpu->vm->config.prev_roots; i++) {
        XmmuCachedRoot *prev = &mmu->prev[i];

        if (!prev->table) {
            *hole = MIN(*hole, i);
        }
        if (!prev->table || !same_key(prev, key)) {
            continue;
        }
        *hole = i;
        if (xmmu_table_stale(prev->table)) {
            put_root(prev);
            return false;
        }
        *found = *prev;
        *prev = (XmmuCachedRoot) { 0 };
        return true;
    }
    return false;
}

/* Put the current root in front of the others, moving them up to @hole. */
static void remember_current(XmmuMmu *mmu, unsigned hole)
{
    unsigned count = mmu->vcpu->vm->config.prev_roots;

    if (!mmu->root.table) {
        return;
    }
    if (!count || xmmu_table_stale(mmu->root.table)) {
        put_root(&mmu->root);
        return;
    }
    hole = MIN(hole, count - 1);
    put_root(&mmu->prev[hole]);
    for (unsigned i = hole; i > 0; i--) {
        mmu->prev[i] = mmu->prev[i - 1];
    }
    mmu->prev[0] = mmu->root;
}

static void switch_to(XmmuMmu *mmu, const XmmuCachedRoot *key)
{
    XmmuVcpu *vcpu = mmu->vcpu;
    XmmuCachedRoot found = *key;
    unsigned hole = XMMU_PREV_ROOTS_MAX;

    if (take_cached(mmu, key, &found, &hole)) {
        xmmu_count(&vcpu->stats.root_hits);
    } else {
        xmmu_count(&vcpu->stats.root_misses);
    }
    remember_current(mmu, hole);
    mmu->root = found;
    if (key->role.tdp) {
        mmu->root.table = xmmu_tdp_root(vcpu->vm, xmmu_role_as(key->role),
                                         key->role);
    } else if (found.table && xmmu_needs_sync(found.table)) {
        /* While it was away, flushes did not reach it. */
        xmmu_sync_root(vcpu, found.table, false);
    }
}

void xmmu_roots_select(XmmuMmu *mmu)
{
    XmmuVm *vm = mmu->vcpu->vm;
    XmmuCachedRoot key = wanted_key(mmu);

    if (same_key(&mmu->root, &key) && (mmu->root.table || !key.role.tdp)) {
        return;
    }
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    switch_to(mmu, &key);
    xmmu_write_unlock(vm);
}

static XmmuTable *new_root(XmmuMmu *mmu)
{
    XmmuVcpu *vcpu = mmu->vcpu;
    XmmuPageRole role = mmu->root.role;
    gfn_t gfn = mmu->root.pgd >> XMMU_PAGE_SHIFT;
    XmmuTable *table = role.pae_root ? xmmu_shadow_new_pae_root(vcpu->vm, gfn, role)
                                     : xmmu_shadow_get(vcpu, gfn, role);

    if (table) {
        table->root_refs++;
        xmmu_count_shared(&vcpu->vm->stats.roots_new, 1);
    }
    return table;
}

XmmuTable *xmmu_roots_load(XmmuMmu *mmu)
{
    XmmuTable *table = mmu->root.table;

    xmmu_assert_write_locked(mmu->vcpu->vm);
    if (table && xmmu_table_stale(table)) {
        xmmu_shadow_put_root(table);
        table = NULL;
    }
    if (!table) {
        table = new_root(mmu);
        __atomic_store_n(&mmu->root.table, table, __ATOMIC_RELEASE);
    }
    return table;
}

void xmmu_roots_set_pdptes(XmmuMmu *mmu)
{
    XmmuVm *vm = mmu->vcpu->vm;
    XmmuTable *table = mmu->root.table;

    if (!table || !table->guest_copy || !table->role.pae_root ||
        xmmu_table_stale(table)) {
        return;
    }
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    for (unsigned i = 0; i < 4; i++) {
        XmmuGpte now = { mmu->regs.pdpte[i] };

        if (xmmu_table_gpte(table, i).raw != now.raw) {
            xmmu_spte_set(table, i, (XmmuSpte) { 0 });
            xmmu_table_set_gpte(table, i, now);
        }
    }
    xmmu_write_unlock(vm);
}

void xmmu_roots_sync(XmmuMmu *mmu, bool flushed)
{
    XmmuVcpu *vcpu = mmu->vcpu;
    XmmuTable *table = mmu->root.table;

    if (!table || !xmmu_needs_sync(table)) {
        return;
    }
    xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
    if (!xmmu_table_stale(table)) {
        xmmu_sync_root(vcpu, table, flushed);
    }
    xmmu_write_unlock(vcpu->vm);
}

void xmmu_roots_drop(XmmuMmu *mmu)
{
    XmmuVm *vm = mmu->vcpu->vm;

    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    put_root(&mmu->root);
    for (unsigned i = 0; i < G_N_ELEMENTS(mmu->prev); i++) {
        put_root(&mmu->prev[i]);
    }
    xmmu_write_unlock(vm);
}
