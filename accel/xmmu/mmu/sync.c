/*
 * xmmu: synchronising shadow tables with guest tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the unsync state.  A table is unsync when the guest's table may have
 * changed without our notice: because level-1 tables are left writable after
 * their first write, or because a vCPU may still have a writable translation
 * from before the page was protected.  The architecture allows stale translations
 * until the guest flushes (Intel SDM vol. 3, 4.10.4), so that is when unsync tables
 * are compared with memory: all below the root at a CR3 load, the path to an
 * address at INVLPG.
 *
 * A table becomes sync when its page is protected and every vCPU has flushed
 * since (flush.c); until then it is compared at every flush.
 *
 * unsync_bitmap leads from the roots to the unsync tables.  The callers hold
 * mmu_lock for writing.
 */
#include <string.h>
#include "check.h"
#include "flush.h"
#include "shadow.h"

/* Comparisons of one table before the vCPUs that did not flush are asked to: each
 * costs about as much as a TLB miss, a nudge about as much as a dozen. */
#define PATIENCE 16

/* ---- The way from the roots ---------------------------------------------- */

static void tell_parent(void *ptr, void *opaque)
{
    XmmuSpte *sptep = ptr;

    (void)opaque;
    xmmu_unsync_link(xmmu_table_of(sptep), xmmu_spte_index(sptep));
}

static void tell_parents(XmmuTable *table)
{
    xmmu_ptr_list_each(&table->parents, tell_parent, NULL);
}

void xmmu_unsync_link(XmmuTable *table, unsigned index)
{
    uint64_t *word = &table->unsync_bitmap[index / 64];
    uint64_t bit = (uint64_t)1 << (index % 64);
    bool known = xmmu_needs_sync(table);

    if (*word & bit) {
        return;
    }
    *word |= bit;
    __atomic_store_n(&table->unsync_children, table->unsync_children + 1,
                     __ATOMIC_RELEASE);
    if (!known) {
        tell_parents(table);
    }
}

void xmmu_unsync_unlink(XmmuTable *table, unsigned index)
{
    uint64_t *word = &table->unsync_bitmap[index / 64];
    uint64_t bit = (uint64_t)1 << (index % 64);

    if (*word & bit) {
        *word &= ~bit;
        __atomic_store_n(&table->unsync_children, table->unsync_children - 1,
                         __ATOMIC_RELEASE);
    }
}

void xmmu_mark_unsync(XmmuIndirect shadow)
{
    XmmuTable *table = shadow.table;
    bool known = xmmu_needs_sync(table);

    xmmu_assert_write_locked(table->vm);
    xmmu_check_unsynced(table);
    __atomic_store_n(&table->unsync, true, __ATOMIC_RELEASE);
    if (!known) {
        tell_parents(table);
    }
}

/* ---- Comparing ------------------------------------------------------------- */

/* Bits of a guest leaf that change rights but not what it maps. */
#define RIGHTS (XMMU_GPTE_W | XMMU_GPTE_U | XMMU_GPTE_A | XMMU_GPTE_D | 0xe00)

static bool only_rights_changed(const XmmuTable *table, XmmuGpte old, XmmuGpte new)
{
    uint64_t rights = RIGHTS;

    /* EPT entries have other bits; and pages of NPT that are not a user's have no
     * entry at all.  L1 changes such tables rarely. */
    if (table->role.guest_mode) {
        return false;
    }
    /* Where these bits are reserved, setting one must lead to a fault. */
    if (table->role.nxe) {
        rights |= XMMU_GPTE_NX;
    }
    if (table->role.lma) {
        rights |= 15ull << XMMU_GPTE_PK_SHIFT;
    }
    return !((old.raw ^ new.raw) & ~rights) && (new.raw & XMMU_GPTE_A);
}

static XmmuSpte with_rights_of(XmmuTable *table, XmmuSpte spte, XmmuGpte gpte)
{
    XmmuVm *vm = table->vm;
    hpa_t hpa = xmmu_spte_hpa(spte);
    XmmuLeaf leaf = {
        .hpa = hpa,
        .level = table->role.level,
        .access = table->role.access & xmmu_gpte_access(gpte),
        .pkey = gpte.raw >> XMMU_GPTE_PK_SHIFT & 15,
        .host_ro = spte.raw & XMMU_SPTE_HOST_RO,
        .dirty = spte.raw & vm->format->dirty,
    };

    /* Never more than there was: gaining a right is for a fault to decide. */
    if (!(gpte.raw & XMMU_GPTE_D) || !xmmu_spte_writable(vm->format, spte)) {
        leaf.access &= ~XMMU_ACC_WRITE;
    }
    return xmmu_spte_leaf(vm->format, &leaf);
}

static void sync_entry(XmmuTable *table, unsigned index, XmmuGpte old, XmmuGpte new)
{
    const XmmuHostFormat *format = table->vm->format;
    XmmuSpte spte = xmmu_spte_read(&table->spt[index]);

    if (!spte.raw) {
        return;
    }
    if (xmmu_spte_present(format, spte) &&
        xmmu_spte_is_leaf(format, spte, table->role.level) &&
        only_rights_changed(table, old, new)) {
        xmmu_spte_set(table, index, with_rights_of(table, spte, new));
    } else {
        xmmu_spte_set(table, index, (XmmuSpte) { 0 });
    }
}

static const uint8_t *guest_entries(const XmmuTable *table)
{
    return (const uint8_t *)(uintptr_t)(table->hfn << XMMU_PAGE_SHIFT) +
           xmmu_guest_copy_offset(table->role);
}

static XmmuGpte guest_entry(const XmmuTable *table, unsigned index)
{
    unsigned size = table->role.gpte4 ? 4 : 8;

    index /= xmmu_entries_per_gpte(table->role);
    return (XmmuGpte) { xmmu_gpte_load(guest_entries(table) + index * size, size) };
}

static bool compare_entry(XmmuTable *table, unsigned index)
{
    XmmuGpte old = xmmu_table_gpte(table, index);
    XmmuGpte new = guest_entry(table, index);
    unsigned first = xmmu_first_of_gpte(table->role, index);

    if (old.raw == new.raw) {
        return false;
    }
    for (unsigned i = 0; i < xmmu_entries_per_gpte(table->role); i++) {
        sync_entry(table, first + i, old, new);
    }
    xmmu_table_set_gpte(table, index, new);
    return true;
}

static bool unchanged(const XmmuTable *table)
{
    const uint64_t *now = (const uint64_t *)guest_entries(table);
    const uint64_t *then = table->guest_copy;
    size_t words = xmmu_guest_copy_size(table->role) / sizeof(*now);
    uint64_t differ = 0;

    for (size_t i = 0; i < words; i++) {
        differ |= __atomic_load_n(&now[i], __ATOMIC_RELAXED) ^ then[i];
    }
    return !differ;
}

static void sync_table(XmmuVcpu *vcpu, XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    bool settled;

    xmmu_assert_write_locked(vm);
    g_assert(!table->role.direct && !table->unlinked);
    xmmu_count(&vcpu->stats.syncs);
    if (!table->protected_at) {
        xmmu_write_protect(vm, table->hfn);
        table->protected_at = xmmu_flush_tick(vm);
    }
    /* Asked before comparing: a vCPU may store through its old translation and flush
     * while we compare, and what it stored may be what we just passed. */
    settled = xmmu_flush_all_since(vm, table->protected_at);
    if (!unchanged(table)) {
        for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
            if (compare_entry(table, i)) {
                xmmu_count(&vcpu->stats.syncs_changed);
            }
        }
    }
    if (settled) {
        xmmu_check_synced(table);
        __atomic_store_n(&table->unsync, false, __ATOMIC_RELEASE);
        table->waited = 0;
    } else if (++table->waited == PATIENCE) {
        table->waited = 0;
        xmmu_flush_nudge(vm, table->protected_at);
    }
}

static XmmuTable *child_at(XmmuTable *table, unsigned index)
{
    const XmmuHostFormat *format = table->vm->format;
    XmmuSpte spte = xmmu_spte_read(&table->spt[index]);

    if (!xmmu_spte_present(format, spte) ||
        xmmu_spte_is_leaf(format, spte, table->role.level)) {
        return NULL;
    }
    return xmmu_table_at(xmmu_spte_hpa(spte));
}

/* Which tables to synchronise. */
typedef struct Sync {
    XmmuVcpu *vcpu;
    int last_level;             /* this and those above */
    uint64_t since;             /* only what was built later than that */
} Sync;

/*
 * Synchronise @table and what is below it.  What is reached by a way that was built
 * later than @s->since was not there for the vCPU before, whatever its age: @all.
 */
static void sync_tree(const Sync *s, XmmuTable *table, bool all)
{
    all = all || table->linked_at > s->since;
    if (table->unsync && (all || table->filled_at > s->since)) {
        sync_table(s->vcpu, table);
    }
    if (table->role.level <= s->last_level) {
        return;
    }
    for (unsigned w = 0; w < G_N_ELEMENTS(table->unsync_bitmap); w++) {
        uint64_t todo = table->unsync_bitmap[w];

        while (todo) {
            unsigned index = w * 64 + __builtin_ctzll(todo);
            XmmuTable *child = child_at(table, index);

            todo &= todo - 1;
            if (child) {
                sync_tree(s, child, all);
            }
            if (!child || !xmmu_needs_sync(child)) {
                xmmu_unsync_unlink(table, index);
            }
        }
    }
}

void xmmu_sync_root(XmmuVcpu *vcpu, XmmuTable *root)
{
    Sync s = { .vcpu = vcpu, .last_level = XMMU_LEVEL_4K };

    sync_tree(&s, root, true);
}

/*
 * The processor may use a translation of a PCID until the guest flushes it, but only
 * one that it could have cached while that PCID was the current one (Intel SDM vol. 3,
 * 4.10.2.2).  What a fault in another root or of another vCPU has put into a table
 * that both share is no such thing.
 */
void xmmu_sync_since(XmmuVcpu *vcpu, XmmuTable *root, uint64_t since)
{
    Sync s = { .vcpu = vcpu, .last_level = XMMU_LEVEL_4K, .since = since };

    sync_tree(&s, root, false);
}

/*
 * INVLPG drops the paging-structure caches as a whole (Intel SDM vol. 3,
 * 4.10.4.1), so all upper tables are compared; of the level-1 tables only the
 * entry for the address.
 */
void xmmu_sync_gva(XmmuVcpu *vcpu, XmmuTable *root, gva_t gva)
{
    Sync s = { .vcpu = vcpu, .last_level = XMMU_LEVEL_2M };
    XmmuTable *table = root;

    sync_tree(&s, root, true);
    while (table && table->role.level > 1) {
        table = child_at(table, xmmu_level_index(gva >> XMMU_PAGE_SHIFT,
                                                 table->role.level));
    }
    if (table && table->unsync && compare_entry(table,
            xmmu_level_index(gva >> XMMU_PAGE_SHIFT, XMMU_LEVEL_4K))) {
        xmmu_count(&vcpu->stats.syncs_changed);
    }
}
