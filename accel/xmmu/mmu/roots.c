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

static uint64_t pgd_of(const XmmuVcpu *vcpu, XmmuPageRole role)
{
    if (role.direct) {
        return 0;
    }
    if (role.pae_root && !role.gpte4) {
        return vcpu->regs.cr3 & 0xffffffe0 & vcpu->masks.gpa_mask;
    }
    return vcpu->regs.cr3 & vcpu->masks.addr_mask & vcpu->masks.gpa_mask;
}

static XmmuCachedRoot wanted_key(const XmmuVcpu *vcpu)
{
    XmmuPageRole role = xmmu_root_role(&vcpu->vm->config, vcpu->role);

    return (XmmuCachedRoot) { .pgd = pgd_of(vcpu, role), .role = role };
}

static bool same_key(const XmmuCachedRoot *a, const XmmuCachedRoot *b)
{
    return a->pgd == b->pgd && a->role.word == b->role.word;
}

/* TDP roots belong to the VM. */
static void put_root(XmmuVcpu *vcpu, XmmuCachedRoot *root)
{
    if (root->table && !vcpu->vm->config.tdp) {
        xmmu_shadow_put_root(root->table);
    }
    *root = (XmmuCachedRoot) { 0 };
}

/* Take the root for @key out of the cache, leaving a hole.  A zapped root is
 * of no use. */
static bool take_cached(XmmuVcpu *vcpu, const XmmuCachedRoot *key,
                        XmmuCachedRoot *found, unsigned *hole)
{
    for (unsigned i = 0; i < vcpu->vm->config.prev_roots; i++) {
        XmmuCachedRoot *prev = &vcpu->prev[i];

        if (!prev->table) {
            *hole = MIN(*hole, i);
        }
        if (!prev->table || !same_key(prev, key)) {
            continue;
        }
        *hole = i;
        if (prev->table->unlinked) {
            put_root(vcpu, prev);
            return false;
        }
        *found = *prev;
        *prev = (XmmuCachedRoot) { 0 };
        return true;
    }
    return false;
}

/* Put the current root in front of the others, moving them up to @hole. */
static void remember_current(XmmuVcpu *vcpu, unsigned hole)
{
    unsigned count = vcpu->vm->config.prev_roots;

    if (!vcpu->root.table) {
        return;
    }
    if (!count || vcpu->root.table->unlinked) {
        put_root(vcpu, &vcpu->root);
        return;
    }
    hole = MIN(hole, count - 1);
    put_root(vcpu, &vcpu->prev[hole]);
    for (unsigned i = hole; i > 0; i--) {
        vcpu->prev[i] = vcpu->prev[i - 1];
    }
    vcpu->prev[0] = vcpu->root;
}

static void switch_to(XmmuVcpu *vcpu, const XmmuCachedRoot *key)
{
    XmmuCachedRoot found = *key;
    unsigned hole = XMMU_PREV_ROOTS_MAX;

    if (take_cached(vcpu, key, &found, &hole)) {
        xmmu_count(&vcpu->stats.root_hits);
    } else {
        xmmu_count(&vcpu->stats.root_misses);
    }
    remember_current(vcpu, hole);
    vcpu->root = found;
    if (vcpu->vm->config.tdp) {
        vcpu->root.table = xmmu_tdp_root(vcpu->vm, xmmu_role_as(key->role),
                                         key->role);
    } else if (found.table && xmmu_needs_sync(found.table)) {
        /* While it was away, flushes did not reach it. */
        xmmu_sync_root(vcpu, found.table, false);
    }
}

void xmmu_roots_select(XmmuVcpu *vcpu)
{
    XmmuCachedRoot key = wanted_key(vcpu);

    if (same_key(&vcpu->root, &key) && (vcpu->root.table || !vcpu->vm->config.tdp)) {
        return;
    }
    xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
    switch_to(vcpu, &key);
    xmmu_write_unlock(vcpu->vm);
}

static XmmuTable *new_root(XmmuVcpu *vcpu)
{
    XmmuPageRole role = vcpu->root.role;
    gfn_t gfn = vcpu->root.pgd >> XMMU_PAGE_SHIFT;
    XmmuTable *table = role.pae_root ? xmmu_table_new(vcpu->vm, gfn, role)
                                     : xmmu_shadow_get(vcpu, gfn, role);

    if (table) {
        table->root_refs++;
        xmmu_count_shared(&vcpu->vm->stats.roots_new, 1);
    }
    return table;
}

XmmuTable *xmmu_roots_load(XmmuVcpu *vcpu)
{
    XmmuTable *table = vcpu->root.table;

    xmmu_assert_write_locked(vcpu->vm);
    if (table && table->unlinked) {
        xmmu_shadow_put_root(table);
        table = NULL;
    }
    if (!table) {
        table = new_root(vcpu);
        __atomic_store_n(&vcpu->root.table, table, __ATOMIC_RELEASE);
    }
    return table;
}

void xmmu_roots_set_pdptes(XmmuVcpu *vcpu)
{
    XmmuTable *table = vcpu->root.table;

    if (!table || !table->guest_copy || !table->role.pae_root || table->unlinked) {
        return;
    }
    xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
    for (unsigned i = 0; i < 4; i++) {
        XmmuGpte now = { vcpu->regs.pdpte[i] };

        if (xmmu_table_gpte(table, i).raw != now.raw) {
            xmmu_spte_set(table, i, (XmmuSpte) { 0 });
            xmmu_table_set_gpte(table, i, now);
        }
    }
    xmmu_write_unlock(vcpu->vm);
}

void xmmu_roots_sync(XmmuVcpu *vcpu, bool flushed)
{
    XmmuTable *table = vcpu->root.table;

    if (vcpu->vm->config.tdp || !table || !xmmu_needs_sync(table)) {
        return;
    }
    xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
    if (!table->unlinked) {
        xmmu_sync_root(vcpu, table, flushed);
    }
    xmmu_write_unlock(vcpu->vm);
}

void xmmu_roots_drop(XmmuVcpu *vcpu)
{
    xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
    put_root(vcpu, &vcpu->root);
    for (unsigned i = 0; i < G_N_ELEMENTS(vcpu->prev); i++) {
        put_root(vcpu, &vcpu->prev[i]);
    }
    xmmu_write_unlock(vcpu->vm);
}
