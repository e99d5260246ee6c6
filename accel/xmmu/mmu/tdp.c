/*
 * xmmu: TDP tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the trees that translate guest physical addresses when the hardware does
 * the guest's own paging, and the faults that build them.  There is one tree per
 * address space, for all vCPUs: a TDP table depends on no register.
 *
 * A fault holds mmu_lock for reading and installs entries by compare and swap:
 * several vCPUs may build the same tree at once, and whoever loses frees what he
 * built.  A fault that meets an entry on which somebody works waits for him; one
 * that gets into a table that has left the tree ends, and is taken again.
 */
#include "dirty.h"
#include "flush.h"
#include "nx_huge.h"
#include "reclaim.h"
#include "shadow.h"
#include "tdp.h"
#include "tdp_split.h"

/* Times that tables are given up for one fault: others may take what was freed. */
#define NOMEM_RETRIES 16

/* ---- Roots -------------------------------------------------------------------- */

/* A reference, unless the last one has gone. */
static bool try_ref(XmmuTable *root)
{
    uint32_t refs = __atomic_load_n(&root->root_refs, __ATOMIC_RELAXED);

    while (refs) {
        if (__atomic_compare_exchange_n(&root->root_refs, &refs, refs + 1, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
            return true;
        }
    }
    return false;
}

XmmuTable *xmmu_tdp_root_find(XmmuHold *hold, unsigned as_id)
{
    XmmuTable *root = __atomic_load_n(&hold->vm->tdp_root[as_id], __ATOMIC_ACQUIRE);

    xmmu_assert_held(hold);
    return root && try_ref(root) ? root : NULL;
}

/* The VM's reference keeps it until it is invalidated. */
static void install_root(XmmuHold *hold, unsigned as_id, XmmuPageRole role)
{
    XmmuTable *root = xmmu_table_new_tdp_root(hold, role), *expected = NULL;

    if (!root) {
        return;
    }
    root->root_refs = 1;
    if (!__atomic_compare_exchange_n(&hold->vm->tdp_root[as_id], &expected, root,
                                     false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        xmmu_table_discard(hold, root);
        return;
    }
    XMMU_HOLD_COUNT(hold, roots_new, 1);
}

XmmuTable *xmmu_tdp_root_get(XmmuHold *hold, unsigned as_id, XmmuPageRole role)
{
    XmmuTable *root = xmmu_tdp_root_find(hold, as_id);

    if (!root) {
        install_root(hold, as_id, role);
        root = xmmu_tdp_root_find(hold, as_id);
    }
    g_assert(!root || root->role.word == role.word);
    return root;
}

void xmmu_tdp_root_put(XmmuHold *hold, XmmuTable *root)
{
    xmmu_assert_held(hold);
    g_assert(root->role.tdp && !root->ptep);
    if (__atomic_sub_fetch(&root->root_refs, 1, __ATOMIC_ACQ_REL) == 0) {
        g_assert(xmmu_table_unlinked(root));
        xmmu_table_retire(hold, root);
    }
}

bool xmmu_tdp_table_live(const XmmuTable *table)
{
    /* In this order: a table that is in a tree keeps its root. */
    return !xmmu_table_unlinked(table) && !xmmu_table_unlinked(table->root);
}

/* The root to walk for @vcpu; an invalid one is exchanged.  NULL: no memory. */
static XmmuTable *current_root(XmmuHold *hold, XmmuVcpu *vcpu)
{
    XmmuCachedRoot *cached = &vcpu->mmu->root;
    XmmuTable *root = cached->table;

    if (root && !xmmu_table_unlinked(root)) {
        return root;
    }
    __atomic_store_n(&cached->table,
                     xmmu_tdp_root_get(hold, xmmu_role_as(cached->role), cached->role),
                     __ATOMIC_RELEASE);
    if (root) {
        xmmu_tdp_root_put(hold, root);
    }
    return cached->table;
}

/* ---- Faults ------------------------------------------------------------------- */

/* What to put at the end of a path: RAM by the slot, or cached MMIO. */
typedef struct TdpLeaf {
    const XmmuRegion *slot;     /* NULL: MMIO */
    gfn_t gfn;
    int max_level;
    bool write;
    bool protect;               /* a table that we shadow for L2: no W */
    bool clean;                 /* its first write is to be logged: no W before */
    bool split;                 /* larger leaves in the way are to be split: */
    int nx_level;               /* a fetch; up to this level only that forbids them */
} TdpLeaf;

XmmuSpte xmmu_tdp_leaf(XmmuVm *vm, const XmmuRegion *slot, gfn_t gfn, int level,
                       bool dirty)
{
    XmmuLeaf ram = {
        .hpa = xmmu_slot_hpa(slot, gfn & ~(xmmu_level_pages(level) - 1)),
        .level = level,
        .access = xmmu_nx_leaf_access(vm, level, XMMU_ACC_ALL),
        .host_ro = slot->flags & XMMU_REGION_READONLY,
        .dirty = dirty,
    };

    return xmmu_spte_leaf(vm->format, &ram);
}

static XmmuSpte encode(XmmuVm *vm, const TdpLeaf *leaf, const XmmuTable *table)
{
    XmmuSpte ram;

    if (!leaf->slot) {
        return xmmu_spte_mmio(vm->format, xmmu_slots_generation(vm,
                              xmmu_role_as(table->role)), XMMU_ACC_ALL);
    }
    ram = xmmu_tdp_leaf(vm, leaf->slot, leaf->gfn, table->role.level, leaf->write);
    return leaf->protect || leaf->clean ? xmmu_spte_write_protected(vm->format, ram) : ram;
}

/* Link a new table at @index of @table, which holds @old; NULL: no memory, or
 * somebody was faster, then *@raced. */
static XmmuTable *add_table(XmmuHold *hold, XmmuTable *table, unsigned index,
                            XmmuSpte old, bool *raced)
{
    XmmuTable *child = xmmu_table_new_child(hold, table, index);

    if (!child) {
        return NULL;
    }
    xmmu_reclaim_note(child);
    if (xmmu_tdp_set(hold, table, index, old,
                     xmmu_spte_table(hold->vm->format, xmmu_table_hpa(child), false))) {
        xmmu_reclaim_made_one(hold->vm);
        return child;
    }
    xmmu_table_discard(hold, child);
    *raced = true;
    return NULL;
}

/*
 * Another fault was first, or the entry only needs to be looked at again, or it lost
 * W while its page was tracked and may have it back.
 */
static XmmuPfResult already_there(XmmuHold *hold, XmmuTable *table, unsigned index,
                                  XmmuSpte old, const TdpLeaf *leaf)
{
    const XmmuHostFormat *format = hold->vm->format;
    XmmuSpte new = { old.raw | format->write | format->dirty };

    if (!leaf->write || xmmu_spte_writable(format, old)) {
        return XMMU_PF_SPURIOUS;
    }
    if (leaf->protect) {
        return XMMU_PF_RETRY;           /* protected just now */
    }
    if (old.raw & XMMU_SPTE_HOST_RO) {
        /* Of a slot that has been replaced.  Who did that is on his way here. */
        xmmu_tdp_set(hold, table, index, old, (XmmuSpte) { 0 });
        return XMMU_PF_RETRY;
    }
    return xmmu_tdp_set(hold, table, index, old, new) ? XMMU_PF_FIXED : XMMU_PF_RETRY;
}

/*
 * Build the path and put the leaf at the highest level that allows it: where
 * small pages were mapped before, their tables stay.
 */
static XmmuPfResult map(XmmuHold *hold, XmmuTable *table, const TdpLeaf *leaf)
{
    const XmmuHostFormat *format = hold->vm->format;
    bool fixed = false;

    for (;;) {
        int level = table->role.level;
        unsigned index = xmmu_level_index(leaf->gfn, level);
        bool nx = level <= leaf->nx_level, raced = false;
        XmmuSpte old;

        xmmu_reclaim_note(table);
        if (!xmmu_tdp_read(table, index, &old)) {
            return XMMU_PF_RETRY;       /* the table has left the tree */
        }
        if (!xmmu_spte_present(format, old)) {
            if (level <= leaf->max_level) {
                return xmmu_tdp_set(hold, table, index, old,
                                    encode(hold->vm, leaf, table)) ? XMMU_PF_FIXED
                                                                   : XMMU_PF_RETRY;
            }
            table = add_table(hold, table, index, old, &raced);
            if (!table) {
                return raced ? XMMU_PF_RETRY : XMMU_PF_NOMEM;
            }
            if (nx) {
                xmmu_nx_track(table);
            }
        } else if (!xmmu_spte_is_leaf(format, old, level)) {
            table = xmmu_table_at(xmmu_spte_hpa(old));
        } else if (!leaf->split || level == XMMU_LEVEL_4K) {
            return fixed ? XMMU_PF_FIXED
                         : already_there(hold, table, index, old, leaf);
        } else if (xmmu_tdp_split(hold, table, index, old, nx) == XMMU_SPLIT_NOMEM) {
            return XMMU_PF_NOMEM;
        } else {
            fixed = true;
        }
    }
}

int xmmu_tdp_max_level(XmmuVm *vm, const XmmuRegion *slot, unsigned as_id, gfn_t gfn)
{
    (void)as_id;
    if (!vm->config.huge_pages ||
        xmmu_track_splits(vm, xmmu_slot_hpa(slot, gfn) >> XMMU_PAGE_SHIFT)) {
        return XMMU_LEVEL_4K;
    }
    /* Where in a GiB there are tracked tables is not known. */
    return xmmu_slot_max_level(vm, slot, gfn,
                               vm->tracked ? XMMU_LEVEL_2M : XMMU_LEVEL_1G);
}

static TdpLeaf leaf_for(XmmuVm *vm, unsigned as_id, const XmmuFault *fault)
{
    gfn_t gfn = fault->tdp_gpa >> XMMU_PAGE_SHIFT;

    return (TdpLeaf) {
        .slot = xmmu_slot_find(vm, as_id, gfn),
        .gfn = gfn,
        .max_level = XMMU_LEVEL_4K,
        .write = fault->access.want == XMMU_PROT_WRITE,
    };
}

static hfn_t leaf_hfn(const TdpLeaf *leaf)
{
    return xmmu_slot_hpa(leaf->slot, leaf->gfn) >> XMMU_PAGE_SHIFT;
}

/* Is @leaf a guest table that has a shadow, which only exists for L2? */
static bool is_tracked(XmmuVm *vm, const TdpLeaf *leaf)
{
    return xmmu_track_first(vm, leaf_hfn(leaf)).table;
}

/* A fetch, where only small pages may be executed. */
static void fetch_small(XmmuHold *hold, TdpLeaf *leaf)
{
    if (leaf->max_level > XMMU_LEVEL_4K) {
        XMMU_HOLD_COUNT(hold, nx_faults, 1);
        leaf->nx_level = leaf->max_level;
        leaf->max_level = XMMU_LEVEL_4K;
    }
    leaf->split = true;
}

/* Not an outcome for others: to be done under the write side. */
#define TRACKED XMMU_PF_GUEST

static XmmuPfResult fault_locked(XmmuHold *hold, XmmuTable *root, XmmuFault *fault)
{
    XmmuVm *vm = hold->vm;
    unsigned as_id = xmmu_role_as(root->role);
    TdpLeaf leaf = leaf_for(vm, as_id, fault);

    fault->gpa = fault->tdp_gpa;
    fault->prot = XMMU_PROT_RWX;
    if (!leaf.slot) {
        fault->mmio = true;
        return map(hold, root, &leaf) == XMMU_PF_NOMEM ? XMMU_PF_NOMEM
                                                       : XMMU_PF_EMULATE;
    }
    if (leaf.write && (leaf.slot->flags & XMMU_REGION_READONLY)) {
        fault->mmio = true;
        return XMMU_PF_EMULATE;
    }
    leaf.max_level = xmmu_tdp_max_level(vm, leaf.slot, as_id, leaf.gfn);
    leaf.protect = is_tracked(vm, &leaf);
    if (leaf.write && leaf.protect) {
        return TRACKED;
    }
    if (leaf.write && xmmu_dirty_ring_full(hold->vcpu, leaf.slot)) {
        XMMU_HOLD_COUNT(hold, dirty_ring_full, 1);
        return XMMU_PF_RING_FULL;
    }
    leaf.clean = !leaf.write && xmmu_dirty_keep_clean(vm, leaf.slot, leaf_hfn(&leaf));
    if (xmmu_nx_wants_small(vm, fault->access.want)) {
        fetch_small(hold, &leaf);
    }
    return map(hold, root, &leaf);
}

/*
 * The guest writes to a table that we shadow for L2.  Write tracking changes shadow
 * tables, so this is under the write side; what it decides is good until the lock is
 * released.
 */
static XmmuPfResult tracked_write(XmmuVcpu *vcpu, XmmuFault *fault)
{
    XmmuVm *vm = vcpu->vm;
    XmmuTable *root = current_root(&vm->writer, vcpu);
    TdpLeaf leaf = leaf_for(vm, xmmu_vcpu_as(vcpu), fault);
    hfn_t hfn;

    xmmu_assert_write_locked(vm);
    vm->writer.on_behalf_of = vcpu;
    if (!root) {
        return XMMU_PF_NOMEM;
    }
    if (!leaf.slot || (leaf.slot->flags & XMMU_REGION_READONLY)) {
        return XMMU_PF_RETRY;
    }
    if (xmmu_dirty_ring_full(vcpu, leaf.slot)) {
        XMMU_HOLD_COUNT(&vm->writer, dirty_ring_full, 1);
        return XMMU_PF_RING_FULL;
    }
    hfn = leaf_hfn(&leaf);
    if (xmmu_track_write(vm, vcpu, fault->tdp_gpa, hfn, fault->size)) {
        fault->gpa = fault->tdp_gpa;
        fault->prot = XMMU_PROT_RWX;
        fault->mmio = false;
        xmmu_dirty_by_hand(&vm->writer, hfn);
        return XMMU_PF_EMULATE;
    }
    return map(&vm->writer, root, &leaf);
}

/* Beyond what the tree can translate there is no RAM. */
static bool beyond_tree(XmmuPageRole root, gpa_t gpa)
{
    return gpa >> XMMU_PAGE_SHIFT >= xmmu_level_pages(root.level + 1);
}

static XmmuPfResult fault_once(XmmuVcpu *vcpu, XmmuFault *fault)
{
    XmmuPfResult result;
    XmmuTable *root;
    XmmuHold hold;

    xmmu_read_lock(&hold, vcpu->vm, vcpu, XMMU_REASON_GUEST);
    root = current_root(&hold, vcpu);
    result = root ? fault_locked(&hold, root, fault) : XMMU_PF_NOMEM;
    xmmu_read_unlock(&hold);
    if (result == TRACKED) {
        xmmu_write_lock(vcpu->vm, XMMU_REASON_GUEST);
        result = tracked_write(vcpu, fault);
        xmmu_write_unlock(vcpu->vm);
    }
    return result;
}

XmmuPfResult xmmu_tdp_fault(XmmuVcpu *vcpu, XmmuFault *fault)
{
    XmmuPfResult result;

    if (beyond_tree(vcpu->mmu->root.role, fault->tdp_gpa)) {
        fault->gpa = fault->tdp_gpa;
        fault->prot = XMMU_PROT_RWX;
        fault->mmio = true;
        return xmmu_count_fault(vcpu, XMMU_PF_EMULATE);
    }
    if (xmmu_apf_fault(vcpu, fault, fault->tdp_gpa)) {
        return xmmu_count_fault(vcpu, XMMU_PF_ASYNC);
    }
    result = fault_once(vcpu, fault);
    for (int i = 0; i < NOMEM_RETRIES && result == XMMU_PF_NOMEM; i++) {
        xmmu_reclaim_for_tdp_fault(vcpu);
        result = fault_once(vcpu, fault);
    }
    return xmmu_count_fault(vcpu, result);
}
