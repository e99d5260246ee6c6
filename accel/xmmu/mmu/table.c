/*
 * xmmu: table pages and the one writer of entries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the life of a table page and every change of an entry.  A change is seen
 * as (old, new) in one place, entry_changed(), which keeps what depends on it:
 * counts, reverse maps, parent links, owed flushes.  A table that loses its last
 * use is freed after a grace period, because hardware models walk without locks.
 */
#include <string.h>
#include "check.h"
#include "dirty.h"
#include "flush.h"
#include "mem.h"
#include "shadow.h"
#include "table.h"
#include "tdp.h"
#include "vm.h"

/* ---- The guest's entries, as remembered ----------------------------- */

size_t xmmu_guest_copy_size(XmmuPageRole role)
{
    if (role.direct) {
        return 0;
    }
    if (role.pae_root) {
        return role.gpte4 ? 0 : 4 * sizeof(uint64_t);
    }
    if (!role.gpte4) {
        return XMMU_PAGE_SIZE;
    }
    /* Half of a page table, a quarter of a page directory (see role.c). */
    return role.level == 1 ? XMMU_PAGE_SIZE / 2 : XMMU_PAGE_SIZE / 4;
}

size_t xmmu_guest_copy_offset(XmmuPageRole role)
{
    return role.gpte4 ? role.quadrant * xmmu_guest_copy_size(role) : 0;
}

XmmuGpte xmmu_table_gpte(const XmmuTable *table, unsigned index)
{
    unsigned i = index / xmmu_entries_per_gpte(table->role);

    if (table->role.gpte4) {
        const uint32_t *copy = table->guest_copy;

        return (XmmuGpte) { __atomic_load_n(&copy[i], __ATOMIC_ACQUIRE) };
    }
    return (XmmuGpte) {
        __atomic_load_n((const uint64_t *)table->guest_copy + i, __ATOMIC_ACQUIRE)
    };
}

void xmmu_table_set_gpte(XmmuTable *table, unsigned index, XmmuGpte gpte)
{
    unsigned i = index / xmmu_entries_per_gpte(table->role);

    xmmu_assert_write_locked(table->vm);
    if (!table->guest_copy) {
        return;
    }
    if (table->role.gpte4) {
        __atomic_store_n((uint32_t *)table->guest_copy + i, gpte.raw,
                         __ATOMIC_RELAXED);
    } else {
        __atomic_store_n((uint64_t *)table->guest_copy + i, gpte.raw,
                         __ATOMIC_RELAXED);
    }
}

/* ---- Life of a table ------------------------------------------------- */

size_t xmmu_table_bytes(XmmuPageRole role)
{
    return XMMU_PAGE_SIZE + sizeof(XmmuTable) + xmmu_guest_copy_size(role);
}

void xmmu_table_uncount(XmmuHold *hold, XmmuTable *table)
{
    if (!table->dead) {
        table->dead = true;
        XMMU_HOLD_COUNT(hold, tables, -1);
        xmmu_mem_uncharge(table->vm, xmmu_table_bytes(table->role));
    }
}

static void release(XmmuVm *vm, XmmuTable *table)
{
    if (table->spt) {
        xmmu_arena_release(vm->arena, table->spt);
    }
    g_free(table->guest_copy);
    g_free(table);
}

/* All that the host has to give; NULL: it had not all of it. */
static XmmuTable *allocate(XmmuHold *hold, size_t copy_size)
{
    XmmuVm *vm = hold->vm;
    XmmuArenaReserve *reserve = hold->vcpu ? &hold->vcpu->reserve : NULL;
    XmmuTable *table = xmmu_try_new0(vm->services, vm->opaque, sizeof(*table));

    if (!table) {
        return NULL;
    }
    table->spt = xmmu_arena_alloc(vm->arena, reserve, table);
    if (table->spt && copy_size) {
        table->guest_copy = xmmu_try_new0(vm->services, vm->opaque, copy_size);
    }
    if (!table->spt || (copy_size && !table->guest_copy)) {
        release(vm, table);
        return NULL;
    }
    return table;
}

static XmmuTable *new_table(XmmuHold *hold, gfn_t gfn, XmmuPageRole role)
{
    XmmuVm *vm = hold->vm;
    XmmuTable *table;

    if (!xmmu_mem_charge(vm, xmmu_table_bytes(role))) {
        return NULL;
    }
    table = allocate(hold, xmmu_guest_copy_size(role));
    if (!table) {
        xmmu_mem_uncharge(vm, xmmu_table_bytes(role));
        return NULL;
    }
    table->vm = vm;
    table->gfn = gfn;
    table->role = role;
    table->link.data = table;
    XMMU_HOLD_COUNT(hold, tables, 1);
    xmmu_check_table_new(table);
    return table;
}

XmmuTable *xmmu_table_new(XmmuVm *vm, gfn_t gfn, XmmuPageRole role)
{
    return new_table(&vm->writer, gfn, role);
}

XmmuTable *xmmu_table_new_tdp_root(XmmuHold *hold, XmmuPageRole role)
{
    XmmuTable *table = new_table(hold, 0, role);

    g_assert(role.tdp);
    if (table) {
        table->root = table;
    }
    return table;
}

XmmuTable *xmmu_table_new_child(XmmuHold *hold, XmmuTable *parent, unsigned index)
{
    XmmuPageRole role = parent->role;
    gfn_t gfn = parent->gfn + index * xmmu_level_pages(role.level);
    XmmuTable *table;

    g_assert(role.tdp && role.level > XMMU_LEVEL_4K);
    role.level--;
    table = new_table(hold, gfn, role);
    if (table) {
        table->ptep = &parent->spt[index];
        table->root = parent->root;
    }
    return table;
}

static void table_reclaim(XmmuRcuHead *head)
{
    XmmuTable *table = (XmmuTable *)((char *)head - offsetof(XmmuTable, rcu));

    xmmu_check_table_reclaimed(table);
    if (__atomic_load_n(&table->mirror, __ATOMIC_ACQUIRE)) {
        table->vm->services->table_gone(table);
    }
    release(table->vm, table);
}

void xmmu_table_free_later(XmmuTable *table)
{
    table->vm->services->rcu_call(&table->rcu, table_reclaim);
}

void xmmu_table_retire(XmmuHold *hold, XmmuTable *table)
{
    g_assert(table->present == 0 && xmmu_ptr_list_empty(&table->parents) &&
             table->root_refs == 0);
    xmmu_table_uncount(hold, table);
    xmmu_check_table_released(table);
    xmmu_flush_doom(hold, table);
}

void xmmu_table_free(XmmuTable *table)
{
    xmmu_assert_write_locked(table->vm);
    xmmu_table_retire(&table->vm->writer, table);
}

XmmuTable *xmmu_table_of(const XmmuSpte *sptep)
{
    return xmmu_arena_owner(sptep);
}

gfn_t xmmu_table_leaf_gfn(const XmmuTable *table, unsigned index)
{
    uint64_t pages = xmmu_level_pages(table->role.level);
    XmmuGpte gpte;
    gpa_t frame;

    if (table->role.direct) {
        return table->gfn + index * pages;
    }
    gpte = xmmu_table_gpte(table, index);
    if (!table->role.gpte4) {
        return (gpte.raw & XMMU_GPTE_ADDR_MASK) >> XMMU_PAGE_SHIFT & ~(pages - 1);
    }
    frame = gpte.raw & 0xfffff000;
    if (table->role.level == 2) {
        /* Two of our 2 MiB entries for one of 4 MiB, with PSE-36. */
        frame = (gpte.raw & 0xffc00000) | (gpte.raw & 0x1fe000) << 19 |
                (index & 1) << 21;
    }
    return frame >> XMMU_PAGE_SHIFT;
}

/* ---- The one writer --------------------------------------------------- */

static void count_leaf(XmmuHold *hold, int level, int n)
{
    switch (level) {
    case XMMU_LEVEL_4K:
        XMMU_HOLD_COUNT(hold, pages_4k, n);
        break;
    case XMMU_LEVEL_2M:
        XMMU_HOLD_COUNT(hold, pages_2m, n);
        break;
    default:
        XMMU_HOLD_COUNT(hold, pages_1g, n);
        break;
    }
}

/* Shadow tables only. */
static void shadow_entry_added(XmmuTable *table, XmmuSpte *sptep, XmmuSpte spte,
                               bool leaf)
{
    table->present++;
    if (leaf) {
        xmmu_rmap_add(table->vm, sptep, spte, table->role.level);
    } else {
        xmmu_shadow_linked(xmmu_table_at(xmmu_spte_hpa(spte)), sptep);
    }
}

static void shadow_entry_removed(XmmuTable *table, XmmuSpte *sptep, XmmuSpte spte,
                                 bool leaf)
{
    table->present--;
    if (leaf) {
        xmmu_rmap_remove(table->vm, sptep, spte, table->role.level);
    } else {
        xmmu_shadow_unlinked(xmmu_table_at(xmmu_spte_hpa(spte)), sptep);
    }
}

static void entry_added(XmmuHold *hold, XmmuTable *table, XmmuSpte *sptep,
                        XmmuSpte spte)
{
    bool leaf = xmmu_spte_is_leaf(hold->vm->format, spte, table->role.level);

    if (leaf) {
        count_leaf(hold, table->role.level, 1);
    }
    if (!table->role.tdp) {
        shadow_entry_added(table, sptep, spte, leaf);
    }
}

static void entry_removed(XmmuHold *hold, XmmuTable *table, XmmuSpte *sptep,
                          XmmuSpte spte)
{
    bool leaf = xmmu_spte_is_leaf(hold->vm->format, spte, table->role.level);

    if (leaf) {
        count_leaf(hold, table->role.level, -1);
    }
    if (!table->role.tdp) {
        shadow_entry_removed(table, sptep, spte, leaf);
    } else if (!leaf) {
        xmmu_tdp_detach(hold, xmmu_table_at(xmmu_spte_hpa(spte)));
    }
}

static bool same_target(const XmmuHostFormat *format, XmmuSpte a, XmmuSpte b)
{
    return xmmu_spte_hpa(a) == xmmu_spte_hpa(b) &&
           (a.raw & format->large) == (b.raw & format->large);
}

/* Does @table map all that @leaf, which stood in its place, did? */
static bool maps_all_of(const XmmuHostFormat *format, const XmmuTable *table,
                        XmmuSpte leaf)
{
    uint64_t span = xmmu_level_pages(table->role.level) << XMMU_PAGE_SHIFT;
    uint8_t access = xmmu_spte_access(format, leaf);

    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        XmmuSpte spte = xmmu_spte_read(&table->spt[i]);

        if (!xmmu_spte_present(format, spte) ||
            !xmmu_spte_is_leaf(format, spte, table->role.level) ||
            xmmu_spte_hpa(spte) != xmmu_spte_hpa(leaf) + i * span ||
            (access & ~xmmu_spte_access(format, spte))) {
            return false;
        }
    }
    return true;
}

/* May somebody have cached what @old allowed and @new does not? */
static bool loses_rights(const XmmuTable *table, XmmuSpte old, XmmuSpte new)
{
    const XmmuHostFormat *format = table->vm->format;
    int level = table->role.level;

    if (!xmmu_spte_present(format, new)) {
        return true;
    }
    if (same_target(format, old, new)) {
        /* Who has cached that the page is dirty does not set D again. */
        return (xmmu_spte_access(format, old) & ~xmmu_spte_access(format, new)) ||
               (xmmu_spte_is_leaf(format, old, level) &&
                (old.raw & ~new.raw & format->dirty));
    }
    return !xmmu_spte_is_leaf(format, old, level) ||
           xmmu_spte_is_leaf(format, new, level) ||
           !maps_all_of(format, xmmu_table_at(xmmu_spte_hpa(new)), old);
}

/* Nobody walks a tree whose root is invalid, or a shadow table of an older generation:
 * what they allowed was flushed when they were declared so. */
static bool given_up(const XmmuTable *table)
{
    return table->role.tdp ? xmmu_table_unlinked(table->root)
                           : table->generation != table->vm->generation;
}

static void tell_of_loss(XmmuHold *hold, XmmuTable *table, unsigned index,
                         XmmuSpte old, XmmuSpte new)
{
    if (xmmu_spte_present(hold->vm->format, old) && !given_up(table) &&
        loses_rights(table, old, new)) {
        xmmu_flush_owe(hold);
    }
    xmmu_check_accounted(hold, table, index);
}

/* All that depends on what is in an entry, but for flushes. */
static void keep_accounts(XmmuHold *hold, XmmuTable *table, unsigned index,
                          XmmuSpte old, XmmuSpte new)
{
    const XmmuHostFormat *format = hold->vm->format;
    XmmuSpte *sptep = &table->spt[index];
    bool was = xmmu_spte_present(format, old);
    bool is = xmmu_spte_present(format, new);

    if (new.raw && !table->role.tdp) {
        xmmu_note_filled(table);
    }
    if (was && is && same_target(format, old, new)) {
        return;
    }
    if (was) {
        entry_removed(hold, table, sptep, old);
    }
    if (is) {
        entry_added(hold, table, sptep, new);
    } else if (was) {
        XMMU_HOLD_COUNT(hold, zaps, 1);
    }
}

/*
 * Who keeps a copy of the tables is told.  He sets .mirror, then reads the entries; we
 * write the entry, then look at .mirror.  All of that is sequentially consistent, so
 * either he reads what we wrote or we see that he is to be told.
 */
static inline void tell_mirror(XmmuTable *table, unsigned index)
{
    if (__atomic_load_n(&table->mirror, __ATOMIC_SEQ_CST)) {
        table->vm->services->entry_changed(table, index);
    }
}

static void entry_changed(XmmuHold *hold, XmmuTable *table, unsigned index,
                          XmmuSpte old, XmmuSpte new)
{
    tell_mirror(table, index);
    /* In this order: tables below are taken apart when nobody gets there any more. */
    tell_of_loss(hold, table, index, old, new);
    keep_accounts(hold, table, index, old, new);
    xmmu_dirty_entry_changed(hold, table, old, new);
}

void xmmu_spte_set(XmmuTable *table, unsigned index, XmmuSpte value)
{
    XmmuSpte *sptep = &table->spt[index];
    XmmuSpte old;

    xmmu_assert_write_locked(table->vm);
    g_assert(!table->role.tdp);
    xmmu_check_write_begin(table);
    old.raw = __atomic_exchange_n(&sptep->raw, value.raw, __ATOMIC_SEQ_CST);
    xmmu_check_write_end(table, index, old, value, true);
    if (old.raw != value.raw) {
        entry_changed(&table->vm->writer, table, index, old, value);
    }
}

/* ---- Entries of TDP trees, which many threads change at once --------------- */

static bool exchange(XmmuTable *table, unsigned index, XmmuSpte old, XmmuSpte new)
{
    bool done;

    g_assert(table->role.tdp && !xmmu_spte_is_frozen(old));
    xmmu_check_write_begin(table);
    done = __atomic_compare_exchange_n(&table->spt[index].raw, &old.raw, new.raw,
                                       false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    xmmu_check_write_end(table, index, old, new, done);
    return done;
}

bool xmmu_tdp_set(XmmuHold *hold, XmmuTable *table, unsigned index, XmmuSpte old,
                  XmmuSpte new)
{
    xmmu_assert_held(hold);
    if (!exchange(table, index, old, new)) {
        return false;
    }
    if (old.raw != new.raw) {
        entry_changed(hold, table, index, old, new);
    }
    return true;
}

bool xmmu_tdp_read(const XmmuTable *table, unsigned index, XmmuSpte *spte)
{
    for (;;) {
        *spte = xmmu_spte_read(&table->spt[index]);
        if (!xmmu_spte_is_frozen(*spte)) {
            return true;
        }
        /* An invalid root is unlinked too, but its entries are not frozen for good. */
        if (table->ptep && xmmu_table_unlinked(table)) {
            return false;
        }
        g_thread_yield();
    }
}

bool xmmu_tdp_freeze(XmmuHold *hold, XmmuTable *table, unsigned index, XmmuSpte old)
{
    XmmuSpte frozen = { XMMU_SPTE_FROZEN };

    xmmu_assert_held(hold);
    if (!exchange(table, index, old, frozen)) {
        return false;
    }
    tell_mirror(table, index);
    tell_of_loss(hold, table, index, old, frozen);
    return true;
}

void xmmu_tdp_unfreeze(XmmuHold *hold, XmmuTable *table, unsigned index,
                       XmmuSpte old, XmmuSpte new)
{
    XmmuSpte *sptep = &table->spt[index];
    XmmuSpte frozen = { XMMU_SPTE_FROZEN };

    xmmu_assert_held(hold);
    g_assert(xmmu_spte_is_frozen(xmmu_spte_read(sptep)) && !xmmu_spte_is_frozen(new));
    xmmu_check_write_begin(table);
    __atomic_store_n(&sptep->raw, new.raw, __ATOMIC_SEQ_CST);
    xmmu_check_write_end(table, index, frozen, new, true);
    tell_mirror(table, index);
    if (old.raw != new.raw) {
        keep_accounts(hold, table, index, old, new);
        xmmu_dirty_entry_changed(hold, table, old, new);
    }
}

XmmuSpte xmmu_tdp_kill(XmmuHold *hold, XmmuTable *table, unsigned index)
{
    XmmuSpte *sptep = &table->spt[index];
    XmmuSpte old;

    xmmu_assert_held(hold);
    g_assert(table->role.tdp && xmmu_table_unlinked(table));
    for (;;) {
        xmmu_check_write_begin(table);
        old.raw = __atomic_exchange_n(&sptep->raw, XMMU_SPTE_FROZEN, __ATOMIC_SEQ_CST);
        xmmu_check_write_end(table, index, old, (XmmuSpte) { XMMU_SPTE_FROZEN }, true);
        if (!xmmu_spte_is_frozen(old)) {
            break;
        }
        g_thread_yield();               /* its owner is about to write it */
    }
    tell_mirror(table, index);
    /* The flush that its link's removal owes covers this entry. */
    if (xmmu_spte_present(hold->vm->format, old)) {
        xmmu_check_accounted(hold, table, index);
        entry_removed(hold, table, sptep, old);
        XMMU_HOLD_COUNT(hold, zaps, 1);
        xmmu_dirty_entry_changed(hold, table, old, (XmmuSpte) { 0 });
    }
    return old;
}

void xmmu_tdp_init(XmmuHold *hold, XmmuTable *table, unsigned index, XmmuSpte value)
{
    XmmuSpte *sptep = &table->spt[index];

    g_assert(table->role.tdp && !sptep->raw &&
             xmmu_spte_is_leaf(hold->vm->format, value, table->role.level));
    xmmu_check_write_begin(table);
    __atomic_store_n(&sptep->raw, value.raw, __ATOMIC_RELAXED);
    xmmu_check_write_end(table, index, (XmmuSpte) { 0 }, value, true);
    entry_added(hold, table, sptep, value);
}

void xmmu_table_discard(XmmuHold *hold, XmmuTable *table)
{
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        if (xmmu_spte_present(hold->vm->format, xmmu_spte_read(&table->spt[i]))) {
            count_leaf(hold, table->role.level, -1);
        }
    }
    xmmu_table_uncount(hold, table);
    xmmu_check_table_discarded(table);
    release(hold->vm, table);
}

void xmmu_table_drop_large(XmmuTable *table, unsigned index)
{
    XmmuVm *vm = table->vm;
    XmmuSpte old;

    if (table->role.level == XMMU_LEVEL_4K) {
        return;
    }
    xmmu_write_lock(vm, XMMU_REASON_HOST);
    old = xmmu_spte_read(&table->spt[index]);
    if (xmmu_spte_present(vm->format, old) &&
        xmmu_spte_is_leaf(vm->format, old, table->role.level)) {
        if (table->role.tdp) {
            /* Fails if the hardware sets A or D now; then it is tried again. */
            xmmu_tdp_set(&vm->writer, table, index, old, (XmmuSpte) { 0 });
        } else {
            xmmu_spte_set(table, index, (XmmuSpte) { 0 });
        }
    }
    xmmu_write_unlock(vm);
}

bool xmmu_spte_set_bits(XmmuSpte *sptep, XmmuSpte old, uint64_t bits)
{
    return __atomic_compare_exchange_n(&sptep->raw, &old.raw, old.raw | bits, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
