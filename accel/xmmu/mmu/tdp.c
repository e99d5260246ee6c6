/*
 * xmmu: TDP tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the trees that translate guest physical addresses when the hardware does
 * the guest's own paging.  There is one tree per address space, for all vCPUs: a
 * TDP table depends on no register.
 *
 * A fault holds mmu_lock for reading and installs entries by compare and swap:
 * several vCPUs may build the same tree at once, and whoever loses frees what he
 * built.  Entries are removed with the lock held for writing.
 */
#include "flush.h"
#include "tdp.h"

static XmmuTable *install_root(XmmuVm *vm, unsigned as_id, XmmuPageRole role)
{
    XmmuTable *root = xmmu_table_new(vm, 0, role), *expected = NULL;

    if (!root) {
        return NULL;
    }
    if (!__atomic_compare_exchange_n(&vm->tdp_root[as_id], &expected, root, false,
                                     __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        xmmu_table_free(root);
        return expected;
    }
    xmmu_count_shared(&vm->stats.roots_new, 1);
    return root;
}

XmmuTable *xmmu_tdp_root(XmmuVm *vm, unsigned as_id, XmmuPageRole role)
{
    XmmuTable *root = __atomic_load_n(&vm->tdp_root[as_id], __ATOMIC_ACQUIRE);

    if (!root) {
        root = install_root(vm, as_id, role);
    }
    g_assert(!root || root->role.word == role.word);
    return root;
}

/* The table below @index of @table, built when absent.  NULL: no memory, or a
 * leaf is there. */
static XmmuTable *descend(XmmuTable *table, unsigned index)
{
    const XmmuHostFormat *format = table->vm->format;
    XmmuPageRole role = table->role;
    XmmuSpte old = xmmu_spte_read(&table->spt[index]);
    XmmuTable *child;

    if (xmmu_spte_present(format, old)) {
        return xmmu_spte_is_leaf(format, old, role.level)
               ? NULL : xmmu_table_at(xmmu_spte_hpa(old));
    }
    role.level--;
    child = xmmu_table_new(table->vm, table->gfn +
                           index * xmmu_level_pages(table->role.level), role);
    if (!child) {
        return NULL;
    }
    if (xmmu_spte_cmpxchg(table, index, old,
                          xmmu_spte_table(format, xmmu_table_hpa(child), false))) {
        return child;
    }
    xmmu_table_free(child);
    return descend(table, index);
}

/* Another fault was first, or the entry only needs to be looked at again. */
static XmmuPfResult already_there(const XmmuHostFormat *format, XmmuSpte spte,
                                  int level, const XmmuFault *fault)
{
    uint8_t access = xmmu_spte_access(format, spte);

    if (!xmmu_spte_is_leaf(format, spte, level)) {
        return XMMU_PF_RETRY;           /* a table, meanwhile: map() goes down */
    }
    if (fault->access.want == XMMU_PROT_WRITE && !(access & XMMU_ACC_WRITE)) {
        return XMMU_PF_EMULATE;         /* read-only memory */
    }
    return XMMU_PF_SPURIOUS;
}

static XmmuPfResult install(XmmuTable *table, unsigned index, XmmuSpte spte,
                            const XmmuFault *fault)
{
    const XmmuHostFormat *format = table->vm->format;
    XmmuSpte old = xmmu_spte_read(&table->spt[index]);

    if (xmmu_spte_present(format, old)) {
        return already_there(format, old, table->role.level, fault);
    }
    return xmmu_spte_cmpxchg(table, index, old, spte) ? XMMU_PF_FIXED
                                                      : XMMU_PF_RETRY;
}

/* What to put at the end of a path: RAM by the slot, or cached MMIO. */
typedef struct TdpLeaf {
    const XmmuRegion *slot;     /* NULL: MMIO */
    gfn_t gfn;
    int max_level;
    bool write;
} TdpLeaf;

static XmmuSpte encode(XmmuVm *vm, const TdpLeaf *leaf, const XmmuTable *table)
{
    int level = table->role.level;
    XmmuLeaf ram = {
        .level = level,
        .access = XMMU_ACC_ALL,
        .dirty = leaf->write,
    };

    if (!leaf->slot) {
        return xmmu_spte_mmio(vm->format, xmmu_slots_generation(vm,
                              xmmu_role_as(table->role)), XMMU_ACC_ALL);
    }
    ram.hpa = xmmu_slot_hpa(leaf->slot, leaf->gfn & ~(xmmu_level_pages(level) - 1));
    ram.host_ro = leaf->slot->flags & XMMU_REGION_READONLY;
    return xmmu_spte_leaf(vm->format, &ram);
}

static bool is_table(XmmuTable *table, unsigned index)
{
    const XmmuHostFormat *format = table->vm->format;
    XmmuSpte spte = xmmu_spte_read(&table->spt[index]);

    return xmmu_spte_present(format, spte) &&
           !xmmu_spte_is_leaf(format, spte, table->role.level);
}

/* Build the path and put the leaf at the highest level that allows it: where
 * small pages were mapped before, their tables stay. */
static XmmuPfResult map(XmmuVm *vm, XmmuTable *table, const TdpLeaf *leaf,
                        const XmmuFault *fault)
{
    for (;;) {
        unsigned index = xmmu_level_index(leaf->gfn, table->role.level);
        XmmuTable *child;

        if (table->role.level <= leaf->max_level && !is_table(table, index)) {
            return install(table, index, encode(vm, leaf, table), fault);
        }
        child = descend(table, index);
        if (!child) {
            XmmuSpte here = xmmu_spte_read(&table->spt[index]);

            return xmmu_spte_present(vm->format, here)
                   ? already_there(vm->format, here, table->role.level, fault)
                   : XMMU_PF_NOMEM;
        }
        table = child;
    }
}

static XmmuPfResult fault_locked(XmmuVcpu *vcpu, XmmuTable *root, XmmuFault *fault)
{
    XmmuVm *vm = vcpu->vm;
    gfn_t gfn = fault->tdp_gpa >> XMMU_PAGE_SHIFT;
    bool write = fault->access.want == XMMU_PROT_WRITE;
    unsigned as_id = xmmu_role_as(root->role);
    TdpLeaf leaf = {
        .slot = xmmu_slot_find(vm, as_id, gfn),
        .gfn = gfn,
        .max_level = XMMU_LEVEL_4K,
        .write = write,
    };

    fault->gpa = fault->tdp_gpa;
    fault->prot = XMMU_PROT_RWX;
    if (!leaf.slot) {
        fault->mmio = true;
        return map(vm, root, &leaf, fault) == XMMU_PF_NOMEM ? XMMU_PF_NOMEM
                                                            : XMMU_PF_EMULATE;
    }
    if (write && (leaf.slot->flags & XMMU_REGION_READONLY)) {
        fault->mmio = true;
        return XMMU_PF_EMULATE;
    }
    if (vm->config.huge_pages) {
        leaf.max_level = xmmu_slot_max_level(leaf.slot, gfn, XMMU_LEVEL_1G);
    }
    return map(vm, root, &leaf, fault);
}

/* Beyond what the tree can translate there is no RAM. */
static bool beyond_tree(const XmmuTable *root, gpa_t gpa)
{
    return gpa >> XMMU_PAGE_SHIFT >= xmmu_level_pages(root->role.level + 1);
}

XmmuPfResult xmmu_tdp_fault(XmmuVcpu *vcpu, XmmuFault *fault)
{
    XmmuVm *vm = vcpu->vm;
    XmmuPageRole role = vcpu->mmu->root.role;
    XmmuPfResult result;

    if (!vcpu->mmu->root.table) {
        vcpu->mmu->root.table = xmmu_tdp_root(vm, xmmu_role_as(role), role);
    }
    if (!vcpu->mmu->root.table) {
        return xmmu_count_fault(vcpu, XMMU_PF_NOMEM);
    }
    if (beyond_tree(vcpu->mmu->root.table, fault->tdp_gpa)) {
        fault->gpa = fault->tdp_gpa;
        fault->prot = XMMU_PROT_RWX;
        fault->mmio = true;
        return xmmu_count_fault(vcpu, XMMU_PF_EMULATE);
    }
    xmmu_read_lock(vm);
    result = fault_locked(vcpu, vcpu->mmu->root.table, fault);
    xmmu_read_unlock(vm);
    return xmmu_count_fault(vcpu, result);
}

/* ---- Removing ----------------------------------------------------------- */

void xmmu_tdp_free_subtree(XmmuTable *table)
{
    for (unsigned i = 0; i < XMMU_ENTRIES && table->present; i++) {
        xmmu_spte_set(table, i, (XmmuSpte) { 0 });
    }
    xmmu_table_free(table);
}

static void zap_range(XmmuTable *table, gfn_t start, gfn_t end)
{
    const XmmuHostFormat *format = table->vm->format;
    int level = table->role.level;
    uint64_t span = xmmu_level_pages(level);

    for (unsigned i = 0; i < XMMU_ENTRIES && table->present; i++) {
        gfn_t first = table->gfn + i * span;
        XmmuSpte spte = xmmu_spte_read(&table->spt[i]);

        if (first >= end || first + span <= start ||
            !xmmu_spte_present(format, spte)) {
            continue;
        }
        if (xmmu_spte_is_leaf(format, spte, level) ||
            (first >= start && first + span <= end)) {
            xmmu_spte_set(table, i, (XmmuSpte) { 0 });
        } else {
            zap_range(xmmu_table_at(xmmu_spte_hpa(spte)), start, end);
        }
    }
}

void xmmu_tdp_zap_gfns(XmmuVm *vm, unsigned as_id, gfn_t gfn, uint64_t npages)
{
    xmmu_assert_write_locked(vm);
    if (vm->tdp_root[as_id]) {
        zap_range(vm->tdp_root[as_id], gfn, gfn + npages);
    }
}

void xmmu_tdp_zap_all(XmmuVm *vm)
{
    xmmu_assert_write_locked(vm);
    for (unsigned i = 0; i < XMMU_AS_COUNT; i++) {
        if (vm->tdp_root[i]) {
            zap_range(vm->tdp_root[i], 0, XMMU_NO_GFN);
        }
    }
}
