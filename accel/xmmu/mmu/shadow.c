/*
 * xmmu: shadow tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the shadow tables' hash and life; shadow_fault.c builds them, shadow_zap.c
 * takes them down.  An indirect table shadows one guest table (or a part of it) in
 * one role; a direct table maps frames linearly where the guest has one large page
 * and we need small ones, or where the guest does not page at all.
 *
 * A table is what its key (gfn, page role) says.  A child is followed only if its
 * whole key is the one that the guest's entry asks for; otherwise it is unlinked
 * first.  Mistaking one role for another is how shadow MMUs have handed out pages
 * they did not own.
 *
 * Everything here needs mmu_lock for writing, and the RCU read section of the
 * caller keeps tables readable that are zapped on the way.
 */
#include "check.h"
#include "flush.h"
#include "reclaim.h"
#include "shadow.h"

/* ---- Finding and making ---------------------------------------------------- */

static uint64_t frame_of(const XmmuTable *table)
{
    return table->role.direct ? table->gfn : table->hfn;
}

static XmmuTable **bucket(XmmuVm *vm, XmmuPageRole role, uint64_t frame)
{
    return xmmu_shadow_bucket(role.direct ? vm->direct_hash : vm->indirect_hash,
                              frame);
}

/* By its whole key; tables of older generations are not found. */
static XmmuTable *find(XmmuVm *vm, uint64_t frame, gfn_t gfn, XmmuPageRole role)
{
    XmmuTable *table = *bucket(vm, role, frame);

    while (table && (table->gfn != gfn || table->role.word != role.word ||
                     frame_of(table) != frame || xmmu_table_stale(table))) {
        table = table->hash_next;
    }
    return table;
}

static void copy_guest_entries(XmmuTable *table)
{
    size_t size = xmmu_guest_copy_size(table->role);
    const uint64_t *from = (const uint64_t *)(uintptr_t)
        ((table->hfn << XMMU_PAGE_SHIFT) + xmmu_guest_copy_offset(table->role));
    uint64_t *to = table->guest_copy;

    for (size_t i = 0; i < size / sizeof(*to); i++) {
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    }
}

/* Protect the guest's table before it is read.  Somebody may still have it
 * writable in a TLB, so the table is born unsync. */
static void begin_tracking(XmmuTable *table)
{
    xmmu_track_add(xmmu_indirect(table));
    xmmu_write_protect(table->vm, table->hfn);
    table->protected_at = xmmu_flush_tick(table->vm);
    table->unsync = true;
    copy_guest_entries(table);
}

static void hash_insert(XmmuTable *table)
{
    XmmuTable **first = bucket(table->vm, table->role, frame_of(table));

    table->hash_next = *first;
    *first = table;
}

static void hash_remove(XmmuTable *table)
{
    XmmuTable **p = bucket(table->vm, table->role, frame_of(table));

    while (*p != table) {
        p = &(*p)->hash_next;
    }
    *p = table->hash_next;
}

/* A table comes into use. */
static void enlist(XmmuTable *table)
{
    table->generation = table->vm->generation;
    g_queue_push_head_link(&table->vm->shadow_tables, &table->link);
}

static XmmuTable *new_table(XmmuVm *vm, gfn_t gfn, XmmuPageRole role)
{
    return xmmu_reclaim_for(vm, xmmu_table_bytes(role)) ? xmmu_table_new(vm, gfn, role)
                                                         : NULL;
}

XmmuTable *xmmu_shadow_new_pae_root(XmmuVm *vm, gfn_t gfn, XmmuPageRole role)
{
    XmmuTable *table = new_table(vm, gfn, role);

    xmmu_assert_write_locked(vm);
    g_assert(role.pae_root);
    if (table) {
        enlist(table);
    }
    return table;
}

XmmuTable *xmmu_shadow_get(XmmuVcpu *vcpu, gfn_t gfn, XmmuPageRole role)
{
    XmmuVm *vm = vcpu->vm;
    uint64_t frame = gfn;
    XmmuTable *table;

    xmmu_assert_write_locked(vm);
    if (!role.direct) {
        const XmmuRegion *slot = xmmu_slot_find(vm, xmmu_role_as(role), gfn);

        g_assert(slot);
        frame = xmmu_slot_hpa(slot, gfn) >> XMMU_PAGE_SHIFT;
    }
    table = find(vm, frame, gfn, role);
    if (table) {
        /* A new way to it must see the guest's table as it is now. */
        if (xmmu_needs_sync(table)) {
            xmmu_sync_root(vcpu, table);
        }
        return table;
    }
    table = new_table(vm, gfn, role);
    if (!table) {
        return NULL;
    }
    if (!role.direct) {
        table->hfn = frame;
        begin_tracking(table);
    }
    hash_insert(table);
    enlist(table);
    return table;
}

/* ---- Links and the end ------------------------------------------------------ */

void xmmu_shadow_linked(XmmuTable *child, XmmuSpte *sptep)
{
    xmmu_ptr_list_add(&child->parents, sptep, &child->vm->reserve.nodes);
    child->linked_at = child->vm->fill_clock;
    if (xmmu_needs_sync(child)) {
        xmmu_unsync_link(xmmu_table_of(sptep), xmmu_spte_index(sptep));
    }
}

/* A table without parents may be linked again soon (the guest switches between
 * processes); one that is empty, or would have to be compared first, is not worth
 * keeping. */
static bool worth_keeping(const XmmuTable *table)
{
    return table->present && !table->unsync;
}

/* Nobody finds @table any more. */
static void make_obsolete(XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    bool older = table->generation != vm->generation;

    g_assert(!table->unlinked);
    xmmu_check_unsynced(table);
    if (!table->role.pae_root) {
        hash_remove(table);
        if (!table->role.direct) {
            xmmu_track_remove(xmmu_indirect(table));
        }
    }
    g_queue_unlink(older ? &vm->obsolete : &vm->shadow_tables, &table->link);
    __atomic_store_n(&table->unlinked, true, __ATOMIC_RELEASE);
    g_queue_push_head_link(&vm->obsolete, &table->link);
}

void xmmu_shadow_unlinked(XmmuTable *child, XmmuSpte *sptep)
{
    unsigned nothing = 0;

    xmmu_count_held_zap(child->vm);
    xmmu_ptr_list_remove(&child->parents, sptep, &child->vm->reserve.nodes);
    xmmu_unsync_unlink(xmmu_table_of(sptep), xmmu_spte_index(sptep));
    if (xmmu_ptr_list_empty(&child->parents) && !child->root_refs &&
        !xmmu_table_stale(child) && !worth_keeping(child)) {
        xmmu_shadow_retire(child, &nothing);
    }
}

static void clear(XmmuTable *table, unsigned index, unsigned *budget)
{
    xmmu_spte_set(table, index, (XmmuSpte) { 0 });
    --*budget;
}

bool xmmu_shadow_retire(XmmuTable *table, unsigned *budget)
{
    xmmu_assert_write_locked(table->vm);
    while (!xmmu_ptr_list_empty(&table->parents)) {
        XmmuSpte *sptep = xmmu_ptr_list_first(&table->parents);

        if (!*budget) {
            return false;
        }
        clear(xmmu_table_of(sptep), xmmu_spte_index(sptep), budget);
    }
    /* Losing the last parent may have made it so. */
    if (!table->unlinked) {
        make_obsolete(table);
    }
    return true;
}

/* Entries that are not present (cached MMIO) owe nothing to anybody. */
static bool clear_entries(XmmuTable *table, unsigned *budget)
{
    const XmmuHostFormat *format = table->vm->format;

    for (unsigned i = 0; i < XMMU_ENTRIES && table->present; i++) {
        if (xmmu_spte_present(format, xmmu_spte_read(&table->spt[i]))) {
            if (!*budget) {
                return false;
            }
            clear(table, i, budget);
        }
    }
    return true;
}

bool xmmu_shadow_dismantle(XmmuTable *table, unsigned *budget)
{
    if (!xmmu_shadow_retire(table, budget) || !clear_entries(table, budget)) {
        return false;
    }
    g_queue_unlink(&table->vm->obsolete, &table->link);
    xmmu_table_uncount(&table->vm->writer, table);
    __atomic_store_n(&table->unsync, false, __ATOMIC_RELEASE);
    if (!table->root_refs) {
        xmmu_table_free(table);
    }
    return true;
}

void xmmu_shadow_zap(XmmuTable *table)
{
    unsigned all = UINT_MAX;

    xmmu_shadow_dismantle(table, &all);
}

void xmmu_shadow_put_root(XmmuTable *table)
{
    xmmu_assert_write_locked(table->vm);
    g_assert(table->root_refs > 0);
    if (--table->root_refs) {
        return;
    }
    if (table->dead) {
        xmmu_table_free(table);
    } else if (table->role.pae_root) {
        xmmu_shadow_zap(table);
    }
}
