/*
 * xmmu: faults of shadow paging
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the fault that builds shadow tables: the guest's tables are walked, mmu_lock
 * is taken, what was walked is read again, and the path is built, child by child.
 * Called by the vCPU's thread, in an RCU read section that keeps tables readable
 * that are zapped on the way.
 */
#include "dirty.h"
#include "flush.h"
#include "reclaim.h"
#include "roots.h"
#include "shadow.h"

/* Entries of obsolete tables that one fault takes down, so that what the guest's own
 * writes made obsolete does not pile up. */
#define OBSOLETE_PER_FAULT 64

/* Times that tables are given up for one fault when the host has no memory. */
#define NOMEM_RETRIES 4

typedef struct ShadowFault {
    XmmuVcpu *vcpu;
    XmmuMmu *mmu;               /* whose tables are built */
    XmmuFault *fault;
    const XmmuGuestWalk *walk;
    const XmmuRegion *slot;     /* NULL: MMIO */
    uint8_t access;             /* XMMU_ACC_* of the leaf to be */
} ShadowFault;

static bool is_write(const ShadowFault *f)
{
    return f->fault->access.want == XMMU_PROT_WRITE;
}

/* The guest's entry at @level of the walk as it is now; false: not in RAM. */
static bool read_again(const ShadowFault *f, int level, uint64_t *value)
{
    const XmmuGuestFormat *format = f->mmu->masks.guest;
    unsigned offset = xmmu_guest_index(format, level, f->fault->access.gva) *
                      format->entry_size;
    XmmuTablePage page;

    xmmu_map_through_slots(f->vcpu, f->walk->table_gfn[level] << XMMU_PAGE_SHIFT,
                           false, &page);
    if (!page.host) {
        return false;
    }
    *value = xmmu_gpte_load(page.host + offset, format->entry_size);
    return true;
}

/* Have the guest's entries stayed as they were walked? */
static bool walk_is_current(const ShadowFault *f)
{
    const XmmuGuestWalk *walk = f->walk;

    if (!walk->level) {
        return true;
    }
    for (int level = f->mmu->masks.guest->levels; level >= walk->level; level--) {
        uint64_t now;

        if (walk->table_gfn[level] == XMMU_NO_GFN) {
            continue;                   /* a PDPTE register */
        }
        if (!read_again(f, level, &now) || now != walk->gpte[level].raw) {
            return false;
        }
    }
    return true;
}

/*
 * CR0.WP=0 and a supervisor write to a read-only user page: hardware runs with
 * WP=1, so the entry becomes a writable supervisor page, not executable if SMEP
 * would have forbidden it.  SMAP and protection keys could not be checked on such
 * an entry; then nothing is kept and the write is done once.
 */
static bool write_without_wp(ShadowFault *f)
{
    XmmuVcpuRole role = f->mmu->role;

    if (!is_write(f) || (f->access & XMMU_ACC_WRITE)) {
        return true;
    }
    if (role.smap || role.pke || role.pks) {
        return false;
    }
    f->access |= XMMU_ACC_WRITE;
    if (f->access & XMMU_ACC_USER) {
        f->access &= ~XMMU_ACC_USER;
        f->access &= role.smep ? ~XMMU_ACC_EXEC : XMMU_ACC_ALL;
    }
    return true;
}

/* L1's EPT may forbid reading; of our formats only EPT can say that. */
static bool can_encode(const ShadowFault *f)
{
    return !f->mmu->role.ept || (f->access & XMMU_ACC_USER) ||
           f->vcpu->vm->format->user;
}

/* What is executable is small where huge pages must not be, see nx_huge.h. */
static int leaf_level(const ShadowFault *f)
{
    XmmuVm *vm = f->vcpu->vm;
    gfn_t gfn = f->walk->gpa >> XMMU_PAGE_SHIFT;
    bool linear = f->walk->level == 0 || f->walk->page_shift >= 21;

    if (!f->slot || !linear || !vm->config.huge_pages ||
        (vm->config.nx_huge_pages && (f->access & XMMU_ACC_EXEC)) ||
        f->mmu->role.a20_masked ||
        xmmu_track_splits(vm, xmmu_slot_hpa(f->slot, gfn) >> XMMU_PAGE_SHIFT)) {
        return XMMU_LEVEL_4K;
    }
    return xmmu_slot_max_level(vm, f->slot, gfn, XMMU_LEVEL_2M);
}

/* Key of the table that the guest's entry at @parent's level asks for. */
static void child_key(const ShadowFault *f, const XmmuTable *parent, unsigned index,
                      gfn_t *gfn, XmmuPageRole *role)
{
    const XmmuGuestWalk *walk = f->walk;
    int level = parent->role.level - 1;

    /* 32-bit paging has two levels; the PAE root above stands for CR3. */
    if (walk->level && level >= walk->level) {
        *gfn = walk->table_gfn[level];
        *role = xmmu_child_role_indirect(parent->role, index,
                                         walk->table_access[level]);
        return;
    }
    /* Linear before A20 is masked: that bit is below the base of any table. */
    *gfn = (walk->gpa >> XMMU_PAGE_SHIFT) & ~(xmmu_level_pages(level + 1) - 1);
    *role = xmmu_child_role_direct(parent->role, f->access, walk->pkey);
}

/*
 * Remember the guest's entry that ours at @index is (to be) made from.
 *
 * Two of our entries share the copy of a 4-byte directory entry.  If the other one
 * was made from something else (the guest's change has not been synchronised yet),
 * the next comparison would not see it any more: it goes now.  The entry at @index
 * must not be seen beside another frame than its own, see leaf_gpa() in the hardware
 * model.
 */
static void remember_gpte(ShadowFault *f, XmmuTable *table, unsigned index)
{
    unsigned first = xmmu_first_of_gpte(table->role, index);
    XmmuGpte old, now = f->walk->gpte[table->role.level];
    uint64_t flags = XMMU_GPTE_A | XMMU_GPTE_D;

    if (!table->guest_copy) {
        return;
    }
    old = xmmu_table_gpte(table, index);
    if ((old.raw & ~now.raw) || ((old.raw ^ now.raw) & ~flags)) {
        bool moved = (old.raw ^ now.raw) & XMMU_GPTE_ADDR_MASK;

        for (unsigned i = first; i < first + xmmu_entries_per_gpte(table->role); i++) {
            if (i != index || moved) {
                xmmu_spte_set(table, i, (XmmuSpte) { 0 });
            }
        }
    }
    xmmu_table_set_gpte(table, index, now);
}

static XmmuTable *link_child(ShadowFault *f, XmmuTable *table, unsigned index,
                             gfn_t gfn, XmmuPageRole role)
{
    XmmuVm *vm = table->vm;
    XmmuTable *child = xmmu_shadow_get(f->vcpu, gfn, role);

    if (!child || table->unlinked) {
        return NULL;
    }
    g_assert(child->gfn == gfn && child->role.word == role.word &&
             child->role.level + 1 == table->role.level);
    if (role.direct && f->walk->page_shift > child->guest_shift) {
        /* Before another vCPU can come this way. */
        __atomic_store_n(&child->guest_shift, f->walk->page_shift, __ATOMIC_RELAXED);
    }
    remember_gpte(f, table, index);
    xmmu_spte_set(table, index, xmmu_spte_table(vm->format, xmmu_table_hpa(child),
                                                table->role.pae_root));
    return child;
}

/* The next table on the way to the leaf; NULL: no memory, or @table was lost. */
static XmmuTable *descend(ShadowFault *f, XmmuTable *table)
{
    const XmmuHostFormat *format = table->vm->format;
    unsigned index = xmmu_level_index(f->fault->access.gva >> XMMU_PAGE_SHIFT,
                                      table->role.level);
    XmmuSpte spte = xmmu_spte_read(&table->spt[index]);
    XmmuTable *child;
    XmmuPageRole role;
    gfn_t gfn;

    child_key(f, table, index, &gfn, &role);
    if (xmmu_spte_present(format, spte) &&
        !xmmu_spte_is_leaf(format, spte, table->role.level)) {
        child = xmmu_table_at(xmmu_spte_hpa(spte));
        if (child->gfn == gfn && child->role.word == role.word) {
            child->flood = 0;
            remember_gpte(f, table, index);
            return child;
        }
        xmmu_count(&f->vcpu->stats.role_conflicts);
    }
    if (spte.raw) {
        xmmu_spte_set(table, index, (XmmuSpte) { 0 });
    }
    return link_child(f, table, index, gfn, role);
}

static hfn_t page_hfn(const ShadowFault *f)
{
    return xmmu_slot_hpa(f->slot, f->walk->gpa >> XMMU_PAGE_SHIFT) >> XMMU_PAGE_SHIFT;
}

static XmmuPfResult by_hand(ShadowFault *f, bool mmio)
{
    if (!mmio && is_write(f)) {
        xmmu_dirty_by_hand(&f->vcpu->vm->writer, page_hfn(f));
    }
    f->fault->gpa = f->walk->gpa;
    f->fault->mmio = mmio;
    f->fault->page_shift = MAX(f->walk->page_shift, XMMU_PAGE_SHIFT);
    f->fault->prot = xmmu_guest_prot(f->mmu, &f->fault->access, f->walk);
    return XMMU_PF_EMULATE;
}

static bool is_readonly(const ShadowFault *f)
{
    return f->slot && (f->slot->flags & XMMU_REGION_READONLY);
}

/* No entry could say what this access may do.  If it writes to a guest table, that
 * must be noticed all the same. */
static XmmuPfResult untranslated(ShadowFault *f)
{
    if (f->slot && is_write(f) && !is_readonly(f)) {
        xmmu_track_write(f->vcpu->vm, f->vcpu, f->walk->gpa, page_hfn(f),
                         f->fault->size);
    }
    return by_hand(f, !f->slot);
}

static XmmuSpte leaf_entry(const ShadowFault *f, const XmmuTable *table)
{
    XmmuVm *vm = f->vcpu->vm;
    gfn_t gfn = f->walk->gpa >> XMMU_PAGE_SHIFT;
    XmmuLeaf leaf = {
        .level = table->role.level,
        .access = f->access,
        .pkey = f->walk->pkey,
        .dirty = is_write(f),
    };

    if (!f->slot) {
        return xmmu_spte_mmio(vm->format, xmmu_slots_generation(vm,
                              xmmu_role_as(table->role)), f->access);
    }
    leaf.hpa = xmmu_slot_hpa(f->slot, gfn & ~(xmmu_level_pages(leaf.level) - 1));
    leaf.host_ro = f->slot->flags & XMMU_REGION_READONLY;
    return xmmu_spte_leaf(vm->format, &leaf);
}

/* Everything above the leaf is there; the path may be gone again after the
 * question about tracking, if the page is a table of the path itself. */
static XmmuPfResult install_leaf(ShadowFault *f, XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    unsigned index = xmmu_level_index(f->fault->access.gva >> XMMU_PAGE_SHIFT,
                                      table->role.level);
    hfn_t hfn = f->slot ? page_hfn(f) : 0;
    XmmuSpte old, new;

    if (f->slot && is_write(f) &&
        xmmu_track_write(vm, f->vcpu, f->walk->gpa, hfn, f->fault->size)) {
        return by_hand(f, false);
    }
    if (table->unlinked) {
        /* The path went with the table that is written, and would go again. */
        return by_hand(f, false);
    }
    if (f->slot && !is_write(f) && (xmmu_track_protected(vm, hfn) ||
                                    xmmu_dirty_keep_clean(vm, f->slot, hfn))) {
        f->access &= ~XMMU_ACC_WRITE;
    }
    new = leaf_entry(f, table);
    remember_gpte(f, table, index);
    old = xmmu_spte_read(&table->spt[index]);
    if (old.raw == new.raw) {
        return f->slot ? XMMU_PF_SPURIOUS : by_hand(f, true);
    }
    xmmu_spte_set(table, index, new);
    return f->slot ? XMMU_PF_FIXED : by_hand(f, true);
}

static XmmuPfResult build(ShadowFault *f)
{
    XmmuTable *table = xmmu_roots_load(f->mmu);

    /* The level is asked for anew at each step: a table of the path itself may have
     * come to be tracked, and lie in the large page that is to be mapped. */
    while (table && table->role.level > leaf_level(f)) {
        XmmuTable *next;

        xmmu_reclaim_touch(table);
        next = descend(f, table);

        if (next && next->unlinked) {
            return XMMU_PF_RETRY;
        }
        if (!next && table->unlinked) {
            return XMMU_PF_RETRY;
        }
        table = next;
    }
    if (!table) {
        return XMMU_PF_NOMEM;
    }
    xmmu_reclaim_touch(table);
    return install_leaf(f, table);
}

static XmmuPfResult fault_locked(ShadowFault *f)
{
    XmmuVm *vm = f->vcpu->vm;
    gfn_t gfn = f->walk->gpa >> XMMU_PAGE_SHIFT;
    unsigned as_id = xmmu_vcpu_as(f->vcpu);

    vm->writer.on_behalf_of = f->vcpu;
    f->slot = xmmu_slot_find(vm, as_id, gfn);
    if (is_write(f) && xmmu_dirty_ring_full(f->vcpu, f->slot)) {
        xmmu_count(&f->vcpu->stats.dirty_ring_full);
        return XMMU_PF_RING_FULL;
    }
    if (f->walk->uncached) {
        return untranslated(f);
    }
    if (!walk_is_current(f)) {
        return XMMU_PF_RETRY;
    }
    if (is_write(f) && is_readonly(f)) {
        return by_hand(f, true);
    }
    f->access = f->walk->access;
    if (!f->walk->dirty) {
        f->access &= ~XMMU_ACC_WRITE;
    }
    if (!write_without_wp(f) || !can_encode(f)) {
        return untranslated(f);
    }
    xmmu_reclaim_begin(vm);
    xmmu_shadow_finish_some(vm, OBSOLETE_PER_FAULT);
    if (!xmmu_reserve_fill(vm)) {
        return XMMU_PF_NOMEM;
    }
    return build(f);
}

static XmmuPfResult walk_and_build(XmmuVcpu *vcpu, XmmuFault *fault)
{
    XmmuGuestWalk walk = { .level = 0 };
    ShadowFault f = { .vcpu = vcpu, .mmu = vcpu->mmu, .fault = fault, .walk = &walk };
    XmmuPfResult result;

    switch (xmmu_guest_walk(f.mmu, &fault->access, xmmu_map_through_slots, NULL,
                            &walk)) {
    case XMMU_WALK_OK:
        break;
    case XMMU_WALK_FAULT:
        fault->exception = walk.exception;
        fault->path_access = walk.access;
        return XMMU_PF_GUEST;
    case XMMU_WALK_RACED:
        return XMMU_PF_RETRY;
    case XMMU_WALK_ABORTED:
        return XMMU_PF_NOMEM;
    }
    if (xmmu_apf_fault(vcpu, fault, walk.gpa)) {
        return XMMU_PF_ASYNC;
    }
    xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
    result = fault_locked(&f);
    xmmu_write_unlock(vcpu->vm);
    return result;
}

/* The host refused memory; perhaps it has some when we need less. */
static void let_go(XmmuVm *vm)
{
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    xmmu_reclaim_begin(vm);
    xmmu_reclaim_some(vm);
    xmmu_write_unlock(vm);
}

XmmuPfResult xmmu_shadow_build(XmmuVcpu *vcpu, XmmuFault *fault)
{
    XmmuPfResult result = walk_and_build(vcpu, fault);

    for (int i = 0; i < NOMEM_RETRIES && result == XMMU_PF_NOMEM; i++) {
        let_go(vcpu->vm);
        result = walk_and_build(vcpu, fault);
    }
    return result;
}

/*
 * What the walk reads of the guest's tables may be old when the entry that is made of
 * it goes in.  Until this vCPU flushes again no table counts as compared for good, so
 * that the difference is found; where hardware walks, nobody has said so yet.
 */
XmmuPfResult xmmu_shadow_fault(XmmuVcpu *vcpu, XmmuFault *fault)
{
    xmmu_flush_note_use(vcpu);
    return xmmu_count_fault(vcpu, xmmu_shadow_build(vcpu, fault));
}
