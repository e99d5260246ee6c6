/*
 * xmmu: roots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the choice of a vCPU's root.  A root is known by (pgd, PCID, page role): the
 * base that CR3 holds, the guest's name for the address space, and what the table
 * is.  When one of them changes, the current root moves to the front of prev[] and
 * a matching one is taken out of it, so that going back and forth costs nothing.
 * The key is computed in one place, wanted_key(), for storing and for looking up.
 *
 * Stale roots: a guest's flush reaches the tables of the current root.  What it
 * means for roots that are away is noted at them (XmmuOwed) and done when they
 * come back, before they are used.  A root that is dropped owes nothing: when its
 * table is used again, shadow.c brings it up to date.
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

uint16_t xmmu_regs_pcid(const XmmuRegs *regs)
{
    bool pcide = (regs->efer & XMMU_EFER_LMA) && (regs->cr4 & XMMU_CR4_PCIDE);

    return pcide ? regs->cr3 & XMMU_CR3_PCID_MASK : 0;
}

static XmmuCachedRoot wanted_key(const XmmuMmu *mmu)
{
    XmmuPageRole role = xmmu_root_role(&mmu->vcpu->vm->config, mmu->role);

    return (XmmuCachedRoot) {
        .pgd = pgd_of(mmu, role),
        .role = role,
        .pcid = role.direct ? 0 : role.guest_mode ? mmu->asid
              : xmmu_regs_pcid(&mmu->regs),
    };
}

static bool same_key(const XmmuCachedRoot *a, const XmmuCachedRoot *b)
{
    return a->pgd == b->pgd && a->role.word == b->role.word && a->pcid == b->pcid;
}

/* Zapped while it was held: of no use any more. */
static bool is_dead(const XmmuCachedRoot *root)
{
    return root->table && xmmu_table_stale(root->table);
}

/* ---- The roots as others see them -------------------------------------------- */

/*
 * The owner moves its roots without a lock; what others may look at is stored
 * atomically between these two, and they look again when the number has changed.
 */
static void begin_move(XmmuMmu *mmu)
{
    __atomic_store_n(&mmu->roots_seq, mmu->roots_seq + 1, __ATOMIC_RELAXED);
}

static void end_move(XmmuMmu *mmu)
{
    __atomic_store_n(&mmu->roots_seq, mmu->roots_seq + 1, __ATOMIC_RELEASE);
}

/* Each store is a release, so that whoever sees it sees the odd number as well. */
static void store_root(XmmuCachedRoot *to, const XmmuCachedRoot *from)
{
    __atomic_store_n(&to->pgd, from->pgd, __ATOMIC_RELEASE);
    __atomic_store_n(&to->role.word, from->role.word, __ATOMIC_RELEASE);
    __atomic_store_n(&to->pcid, from->pcid, __ATOMIC_RELEASE);
    __atomic_store_n(&to->table, from->table, __ATOMIC_RELEASE);
    to->owed = from->owed;
}

static void load_root(XmmuCachedRoot *to, const XmmuCachedRoot *from)
{
    to->pgd = __atomic_load_n(&from->pgd, __ATOMIC_ACQUIRE);
    to->role.word = __atomic_load_n(&from->role.word, __ATOMIC_ACQUIRE);
    to->pcid = __atomic_load_n(&from->pcid, __ATOMIC_ACQUIRE);
    to->table = __atomic_load_n(&from->table, __ATOMIC_ACQUIRE);
}

size_t xmmu_roots_snapshot(const XmmuMmu *mmu, XmmuCachedRoot *out, size_t max)
{
    unsigned prev = mmu->vcpu->vm->config.prev_roots;
    uint32_t seq;
    size_t count;

    do {
        seq = __atomic_load_n(&mmu->roots_seq, __ATOMIC_ACQUIRE);
        count = 0;
        for (unsigned i = 0; i <= prev && count < max; i++) {
            load_root(&out[count], i ? &mmu->prev[i - 1] : &mmu->root);
            count += !i || out[count].table;
        }
    } while ((seq & 1) || seq != __atomic_load_n(&mmu->roots_seq, __ATOMIC_RELAXED));
    return count;
}

/* mmu_lock for writing. */
static void put_root(XmmuMmu *mmu, XmmuCachedRoot *root)
{
    XmmuTable *table = root->table;

    begin_move(mmu);
    store_root(root, &(XmmuCachedRoot) { 0 });
    end_move(mmu);
    if (table && table->role.tdp) {
        xmmu_tdp_root_put(&table->vm->writer, table);
    } else if (table) {
        xmmu_shadow_put_root(table);
    }
}

/* ---- Flushes ------------------------------------------------------------------- */

static bool may_be_stale(const XmmuCachedRoot *root)
{
    return root->table && !root->role.tdp && xmmu_needs_sync(root->table);
}

/*
 * Also where every table is up to date now: nothing is cached for the PCID after this,
 * so of what changes until the root comes back the old must not be seen.
 */
static void owe(XmmuCachedRoot *root, const gva_t *gva)
{
    XmmuOwed *owed = &root->owed;

    if (!root->table || root->role.tdp || owed->all) {
        return;
    }
    if (gva && owed->count < XMMU_OWED_MAX) {
        owed->gva[owed->count++] = *gva;
    } else {
        owed->all = true;
    }
}

void xmmu_roots_owe(XmmuMmu *mmu, int pcid, const gva_t *gva)
{
    if (pcid == XMMU_ALL_PCIDS || pcid == mmu->root.pcid) {
        owe(&mmu->root, gva);
    }
    for (unsigned i = 0; i < mmu->vcpu->vm->config.prev_roots; i++) {
        if (pcid == XMMU_ALL_PCIDS || pcid == mmu->prev[i].pcid) {
            owe(&mmu->prev[i], gva);
        }
    }
}

void xmmu_roots_owe_pgd(XmmuMmu *mmu, uint64_t pgd)
{
    if (mmu->root.pgd == pgd) {
        owe(&mmu->root, NULL);
    }
    for (unsigned i = 0; i < mmu->vcpu->vm->config.prev_roots; i++) {
        if (mmu->prev[i].pgd == pgd) {
            owe(&mmu->prev[i], NULL);
        }
    }
}

static void sync_owed(XmmuVcpu *vcpu, XmmuTable *table, const XmmuOwed *owed,
                      uint64_t since)
{
    if (owed->all) {
        xmmu_sync_root(vcpu, table);
        return;
    }
    xmmu_sync_since(vcpu, table, since);
    for (unsigned i = 0; i < owed->count; i++) {
        xmmu_sync_gva(vcpu, table, owed->gva[i]);
    }
}

/*
 * Bring the current root up to date for the flushes that it owes and for what was
 * built after @since.  Returns whether a table was compared.
 */
static bool pay(XmmuMmu *mmu, uint64_t since)
{
    XmmuVcpu *vcpu = mmu->vcpu;
    XmmuOwed *owed = &mmu->root.owed;
    uint64_t syncs = vcpu->stats.syncs;
    bool compared = false;

    if (may_be_stale(&mmu->root)) {
        xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
        if (!is_dead(&mmu->root)) {
            sync_owed(vcpu, mmu->root.table, owed, since);
        }
        xmmu_write_unlock(vcpu->vm);
        compared = owed->count || vcpu->stats.syncs != syncs;
    }
    owed->all = false;
    owed->count = 0;
    return compared;
}

void xmmu_roots_pay(XmmuMmu *mmu)
{
    if (mmu->root.owed.all || mmu->root.owed.count) {
        pay(mmu, UINT64_MAX);
    }
}

/* ---- Switching ------------------------------------------------------------------ */

/* What is to be done with prev[] for a switch. */
typedef struct Switch {
    unsigned hit;               /* index in prev[], or the number of these */
    unsigned hole;              /* the same of an empty one */
    bool put;                   /* a root has to go first */
} Switch;

static Switch plan(const XmmuMmu *mmu, const XmmuCachedRoot *key)
{
    unsigned count = mmu->vcpu->vm->config.prev_roots;
    Switch s = { .hit = count, .hole = count, .put = is_dead(&mmu->root) };

    for (unsigned i = 0; i < count; i++) {
        const XmmuCachedRoot *prev = &mmu->prev[i];

        if (is_dead(prev)) {
            s.put = true;
        } else if (!prev->table) {
            s.hole = MIN(s.hole, i);
        } else if (same_key(prev, key)) {
            s.hit = i;
        }
    }
    if (s.hit < count) {
        s.hole = s.hit;
    }
    s.put = s.put || (mmu->root.table && s.hole == count);
    return s;
}

/* The dead go, and if that is not enough the oldest one. */
static Switch make_room(XmmuMmu *mmu, const XmmuCachedRoot *key)
{
    unsigned count = mmu->vcpu->vm->config.prev_roots;
    Switch s;

    xmmu_assert_write_locked(mmu->vcpu->vm);
    for (unsigned i = 0; i < count; i++) {
        if (is_dead(&mmu->prev[i])) {
            put_root(mmu, &mmu->prev[i]);
        }
    }
    if (is_dead(&mmu->root)) {
        put_root(mmu, &mmu->root);
    }
    s = plan(mmu, key);
    if (s.put) {
        put_root(mmu, count ? &mmu->prev[count - 1] : &mmu->root);
        s = plan(mmu, key);
    }
    return s;
}

/*
 * The current root goes to the front of the others, which move up to the hole.  No
 * root is dropped here, so nothing needs a lock.
 */
static void rotate(XmmuMmu *mmu, const XmmuCachedRoot *key, const Switch *s)
{
    bool hit = s->hit < mmu->vcpu->vm->config.prev_roots;
    XmmuCachedRoot next = hit ? mmu->prev[s->hit] : *key;

    begin_move(mmu);
    if (mmu->root.table) {
        for (unsigned i = s->hole; i > 0; i--) {
            store_root(&mmu->prev[i], &mmu->prev[i - 1]);
        }
        mmu->root.owed.left_at = __atomic_load_n(&mmu->vcpu->vm->fill_clock,
                                                 __ATOMIC_ACQUIRE);
        store_root(&mmu->prev[0], &mmu->root);
    } else if (hit) {
        store_root(&mmu->prev[s->hit], &(XmmuCachedRoot) { 0 });
    }
    store_root(&mmu->root, &next);
    end_move(mmu);
}

static void load_tdp(XmmuMmu *mmu)
{
    XmmuVm *vm = mmu->vcpu->vm;
    XmmuPageRole role = mmu->root.role;
    XmmuTable *table;
    XmmuHold hold;

    xmmu_read_lock(&hold, vm, mmu->vcpu, XMMU_REASON_GUEST);
    table = xmmu_tdp_root_get(&hold, xmmu_role_as(role), role);
    __atomic_store_n(&mmu->root.table, table, __ATOMIC_RELEASE);
    xmmu_read_unlock(&hold);
}

/* For reclaim.c, which has no other way to see that a root is in use. */
static void note_use(XmmuTable *table)
{
    if (!__atomic_load_n(&table->referenced, __ATOMIC_RELAXED)) {
        __atomic_store_n(&table->referenced, true, __ATOMIC_RELAXED);
    }
}

static void switch_to(XmmuMmu *mmu, const XmmuCachedRoot *key)
{
    XmmuStats *stats = &mmu->vcpu->stats;
    Switch s = plan(mmu, key);

    if (s.put) {
        xmmu_write_lock(mmu->vcpu->vm, XMMU_REASON_GUEST);
        s = make_room(mmu, key);
        xmmu_write_unlock(mmu->vcpu->vm);
    }
    rotate(mmu, key, &s);
    if (s.hit == mmu->vcpu->vm->config.prev_roots) {
        xmmu_count(&stats->root_misses);
        return;
    }
    xmmu_count(&stats->root_hits);
    note_use(mmu->root.table);
    if (!pay(mmu, mmu->root.owed.left_at)) {
        xmmu_count(&stats->flushes_avoided);
    }
}

void xmmu_roots_select(XmmuMmu *mmu)
{
    XmmuCachedRoot key = wanted_key(mmu);

    if (!same_key(&mmu->root, &key)) {
        switch_to(mmu, &key);
    }
    if (key.role.tdp && !mmu->root.table) {
        load_tdp(mmu);
    }
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

/* The copy is changed by this vCPU only. */
static bool same_pdptes(const XmmuMmu *mmu, const XmmuTable *table)
{
    for (unsigned i = 0; i < 4; i++) {
        if (xmmu_table_gpte(table, i).raw != mmu->regs.pdpte[i]) {
            return false;
        }
    }
    return true;
}

void xmmu_roots_set_pdptes(XmmuMmu *mmu)
{
    XmmuVm *vm = mmu->vcpu->vm;
    XmmuTable *table = mmu->root.table;

    if (!table || !table->guest_copy || !table->role.pae_root ||
        is_dead(&mmu->root) || same_pdptes(mmu, table)) {
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

void xmmu_roots_drop(XmmuMmu *mmu)
{
    XmmuVm *vm = mmu->vcpu->vm;

    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    put_root(mmu, &mmu->root);
    for (unsigned i = 0; i < G_N_ELEMENTS(mmu->prev); i++) {
        put_root(mmu, &mmu->prev[i]);
    }
    xmmu_write_unlock(vm);
}
