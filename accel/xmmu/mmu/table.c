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
#include "flush.h"
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

static int64_t table_bytes(const XmmuTable *table)
{
    return XMMU_PAGE_SIZE + sizeof(*table) + xmmu_guest_copy_size(table->role);
}

static void count_table(XmmuTable *table, int n)
{
    xmmu_count_shared(&table->vm->stats.tables, n);
    xmmu_count_shared(&table->vm->stats.table_bytes, n * table_bytes(table));
}

XmmuTable *xmmu_table_new(XmmuVm *vm, gfn_t gfn, XmmuPageRole role)
{
    size_t copy_size = xmmu_guest_copy_size(role);
    XmmuTable *table = g_try_new0(XmmuTable, 1);

    if (!table) {
        return NULL;
    }
    table->spt = xmmu_arena_alloc(vm->arena, table);
    table->guest_copy = copy_size ? g_try_malloc0(copy_size) : NULL;
    if (!table->spt || (copy_size && !table->guest_copy)) {
        if (table->spt) {
            xmmu_arena_release(vm->arena, table->spt);
        }
        g_free(table->guest_copy);
        g_free(table);
        return NULL;
    }
    table->vm = vm;
    table->gfn = gfn;
    table->role = role;
    table->link.data = table;
    count_table(table, 1);
    return table;
}

static void table_reclaim(XmmuRcuHead *head)
{
    XmmuTable *table = (XmmuTable *)((char *)head - offsetof(XmmuTable, rcu));

    xmmu_arena_release(table->vm->arena, table->spt);
    g_free(table->guest_copy);
    g_free(table);
}

void xmmu_table_free(XmmuTable *table)
{
    g_assert(table->present == 0 && xmmu_ptr_list_empty(&table->parents) &&
             table->root_refs == 0);
    count_table(table, -1);
    table->vm->services->rcu_call(&table->rcu, table_reclaim);
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

static uint64_t *leaf_gauge(XmmuVm *vm, int level)
{
    switch (level) {
    case XMMU_LEVEL_4K:
        return &vm->stats.pages_4k;
    case XMMU_LEVEL_2M:
        return &vm->stats.pages_2m;
    default:
        return &vm->stats.pages_1g;
    }
}

static void entry_added(XmmuTable *table, XmmuSpte *sptep, XmmuSpte spte)
{
    XmmuVm *vm = table->vm;
    int level = table->role.level;

    __atomic_fetch_add(&table->present, 1, __ATOMIC_RELAXED);
    if (xmmu_spte_is_leaf(vm->format, spte, level)) {
        xmmu_count_shared(leaf_gauge(vm, level), 1);
        if (!table->role.tdp) {
            xmmu_rmap_add(vm, sptep, spte, level);
        }
    } else if (!table->role.tdp) {
        xmmu_shadow_linked(xmmu_table_at(xmmu_spte_hpa(spte)), sptep);
    }
}

static void entry_removed(XmmuTable *table, XmmuSpte *sptep, XmmuSpte spte)
{
    XmmuVm *vm = table->vm;
    int level = table->role.level;

    __atomic_fetch_sub(&table->present, 1, __ATOMIC_RELAXED);
    xmmu_count_shared(&vm->stats.zaps, 1);
    xmmu_flush_owe(vm);
    if (xmmu_spte_is_leaf(vm->format, spte, level)) {
        xmmu_count_shared(leaf_gauge(vm, level), -1);
        if (!table->role.tdp) {
            xmmu_rmap_remove(vm, sptep, spte, level);
        }
    } else if (table->role.tdp) {
        xmmu_tdp_free_subtree(xmmu_table_at(xmmu_spte_hpa(spte)));
    } else {
        xmmu_shadow_unlinked(xmmu_table_at(xmmu_spte_hpa(spte)), sptep);
    }
}

static bool same_target(const XmmuHostFormat *format, XmmuSpte a, XmmuSpte b)
{
    return xmmu_spte_hpa(a) == xmmu_spte_hpa(b) &&
           (a.raw & format->large) == (b.raw & format->large);
}

static void entry_changed(XmmuTable *table, XmmuSpte *sptep, XmmuSpte old,
                          XmmuSpte new)
{
    const XmmuHostFormat *format = table->vm->format;
    bool was = xmmu_spte_present(format, old);
    bool is = xmmu_spte_present(format, new);

    if (new.raw && !table->role.tdp) {
        xmmu_note_filled(table);
    }
    if (was && is && same_target(format, old, new)) {
        if (xmmu_spte_access(format, old) & ~xmmu_spte_access(format, new)) {
            xmmu_flush_owe(table->vm);
        }
        return;
    }
    if (was) {
        entry_removed(table, sptep, old);
    }
    if (is) {
        entry_added(table, sptep, new);
    }
}

void xmmu_spte_set(XmmuTable *table, unsigned index, XmmuSpte value)
{
    XmmuSpte *sptep = &table->spt[index];
    XmmuSpte old;

    xmmu_assert_write_locked(table->vm);
    old.raw = __atomic_exchange_n(&sptep->raw, value.raw, __ATOMIC_SEQ_CST);
    if (old.raw != value.raw) {
        entry_changed(table, sptep, old, value);
    }
}

bool xmmu_spte_cmpxchg(XmmuTable *table, unsigned index, XmmuSpte old,
                       XmmuSpte value)
{
    XmmuSpte *sptep = &table->spt[index];

    /* Removing is for writers: it frees what readers may be building on. */
    g_assert(!xmmu_spte_present(table->vm->format, old));
    if (!__atomic_compare_exchange_n(&sptep->raw, &old.raw, value.raw, false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        return false;
    }
    entry_changed(table, sptep, old, value);
    return true;
}

bool xmmu_spte_set_bits(XmmuSpte *sptep, XmmuSpte old, uint64_t bits)
{
    return __atomic_compare_exchange_n(&sptep->raw, &old.raw, old.raw | bits, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}
