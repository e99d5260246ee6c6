/*
 * xmmu: reverse maps and write tracking
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the answer to "who maps this frame" and "which of our tables shadow it",
 * and what happens when the guest writes to a table that we shadow.  Only
 * indirect tables are here, and the type says so: a direct table shadows nothing, is
 * not in the hash that is searched, and cannot be made an XmmuIndirect.
 *
 * Frames are host frames, so that a guest table is found whichever alias of its
 * page is written.  The callers hold mmu_lock for writing.
 */
#include "flush.h"
#include "shadow.h"
#include "tdp.h"

/* Tracked writes to one table without a use in between that make it likely not
 * to be a page table any more. */
#define FLOOD_LIMIT 3

static XmmuPtrList *rmap_of(XmmuChunk *chunk, hfn_t hfn, int level)
{
    g_assert(level <= XMMU_LEVEL_2M);
    return level == XMMU_LEVEL_4K ? &chunk->rmap[hfn & (XMMU_ENTRIES - 1)]
                                  : &chunk->rmap_2m;
}

void xmmu_rmap_add(XmmuVm *vm, XmmuSpte *sptep, XmmuSpte spte, int level)
{
    hfn_t hfn = xmmu_spte_hpa(spte) >> XMMU_PAGE_SHIFT;

    xmmu_ptr_list_add(rmap_of(xmmu_chunk_get(vm, hfn), hfn, level), sptep,
                      &vm->reserve.nodes);
}

void xmmu_rmap_remove(XmmuVm *vm, XmmuSpte *sptep, XmmuSpte spte, int level)
{
    hfn_t hfn = xmmu_spte_hpa(spte) >> XMMU_PAGE_SHIFT;
    XmmuChunk *chunk = xmmu_chunk_find(vm, hfn);

    g_assert(chunk);
    xmmu_count_held_zap(vm);
    xmmu_ptr_list_remove(rmap_of(chunk, hfn, level), sptep, &vm->reserve.nodes);
    xmmu_chunk_put(vm, chunk);
}

XmmuSpte *xmmu_rmap_first(XmmuVm *vm, hfn_t hfn, int level)
{
    XmmuChunk *chunk = xmmu_chunk_find(vm, hfn);
    const XmmuPtrList *list = chunk ? rmap_of(chunk, hfn, level) : NULL;

    return list && !xmmu_ptr_list_empty(list)
           ? xmmu_ptr_list_first(list) : NULL;
}

static void write_protect_entry(void *ptr, void *opaque)
{
    const XmmuVm *vm = opaque;
    XmmuSpte *sptep = ptr;
    XmmuSpte spte = xmmu_spte_read(sptep);

    if (xmmu_spte_writable(vm->format, spte)) {
        xmmu_spte_set(xmmu_table_of(sptep), xmmu_spte_index(sptep),
                      xmmu_spte_write_protected(vm->format, spte));
    }
}

static void write_protect_gfn(XmmuVm *vm, unsigned as_id, gfn_t gfn)
{
    xmmu_tdp_write_protect_gfn(vm, as_id, gfn);
}

/*
 * The entries keep their target, so the lists do not change on the way.  TDP trees
 * have no reverse maps: there the frame is known by its gfns.
 */
void xmmu_write_protect(XmmuVm *vm, hfn_t hfn)
{
    XmmuChunk *chunk = xmmu_chunk_find(vm, hfn);

    if (chunk) {
        xmmu_ptr_list_each(rmap_of(chunk, hfn, XMMU_LEVEL_4K), write_protect_entry, vm);
        xmmu_ptr_list_each(rmap_of(chunk, hfn, XMMU_LEVEL_2M), write_protect_entry, vm);
    }
    if (vm->config.tdp) {
        xmmu_slots_each_gfn(vm, hfn, write_protect_gfn);
    }
}

void xmmu_track_add(XmmuIndirect shadow)
{
    xmmu_chunk_get(shadow.table->vm, shadow.table->hfn)->tracked++;
    shadow.table->vm->tracked++;
}

void xmmu_track_remove(XmmuIndirect shadow)
{
    XmmuChunk *chunk = xmmu_chunk_find(shadow.table->vm, shadow.table->hfn);

    g_assert(chunk && chunk->tracked > 0);
    chunk->tracked--;
    shadow.table->vm->tracked--;
    xmmu_chunk_put(shadow.table->vm, chunk);
}

bool xmmu_track_splits(XmmuVm *vm, hfn_t hfn)
{
    XmmuChunk *chunk = vm->tracked ? xmmu_chunk_peek(vm, hfn) : NULL;

    return chunk && chunk->tracked > 0;
}

/* The first at or after @table in its bucket. */
static XmmuIndirect tracked_from(XmmuTable *table, hfn_t hfn)
{
    while (table && (table->hfn != hfn || xmmu_table_stale(table))) {
        table = table->hash_next;
    }
    return xmmu_indirect(table);
}

XmmuIndirect xmmu_track_first(XmmuVm *vm, hfn_t hfn)
{
    return tracked_from(xmmu_track_splits(vm, hfn)
                        ? *xmmu_shadow_bucket(vm->indirect_hash, hfn) : NULL, hfn);
}

XmmuIndirect xmmu_track_next(XmmuIndirect shadow)
{
    return tracked_from(shadow.table->hash_next, shadow.table->hfn);
}

bool xmmu_track_protected(XmmuVm *vm, hfn_t hfn)
{
    for (XmmuIndirect s = xmmu_track_first(vm, hfn); s.table; s = xmmu_track_next(s)) {
        if (s.table->protected_at) {
            return true;
        }
    }
    return false;
}

/* ---- Guest writes --------------------------------------------------------- */

/* Page tables are written one whole entry, or half of an 8-byte one, at a time. */
static bool misaligned(XmmuIndirect shadow, unsigned offset, unsigned size)
{
    unsigned entry_size = shadow.table->role.gpte4 ? 4 : 8;

    return size < 4 || ((offset ^ (offset + size - 1)) & ~(entry_size - 1));
}

/* A 4-byte guest table has several shadows; does the write concern this one? */
static bool covers(XmmuIndirect shadow, unsigned offset, unsigned size)
{
    size_t start = xmmu_guest_copy_offset(shadow.table->role);

    return offset < start + xmmu_guest_copy_size(shadow.table->role) &&
           start < offset + size;
}

/* Remove the entries made from the guest entry at @offset of the guest's page. */
static void zap_written(XmmuIndirect shadow, unsigned offset)
{
    XmmuTable *table = shadow.table;
    size_t start = xmmu_guest_copy_offset(table->role);
    unsigned per_entry = xmmu_entries_per_gpte(table->role);
    unsigned first = (offset - start) / (table->role.gpte4 ? 4 : 8) * per_entry;

    for (unsigned i = first; i < first + per_entry; i++) {
        xmmu_spte_set(table, i, (XmmuSpte) { 0 });
    }
}

/*
 * A write to an upper table.  What it changes is dropped now, before the store
 * happens; should another vCPU rebuild the entry from the old value before the
 * store lands, the next synchronisation finds the difference: the table is unsync
 * until every vCPU has flushed.
 *
 * A table that does not look like one any more is zapped.  This write is done by
 * hand all the same: the access may need the very table for its own translation,
 * and would build it again before it can write.
 */
static void write_upper(XmmuIndirect shadow, XmmuVcpu *vcpu, unsigned offset,
                        unsigned size)
{
    XmmuTable *table = shadow.table;

    if (!covers(shadow, offset, size)) {
        return;
    }
    xmmu_count(&vcpu->stats.tracked_writes);
    if (misaligned(shadow, offset, size)) {
        xmmu_count(&vcpu->stats.misaligned);
        xmmu_shadow_zap(table);
        return;
    }
    if (++table->flood >= FLOOD_LIMIT) {
        xmmu_count(&vcpu->stats.floods);
        xmmu_shadow_zap(table);
        return;
    }
    zap_written(shadow, offset);
    xmmu_mark_unsync(shadow);
    table->protected_at = xmmu_flush_tick(table->vm);
}

static bool unused(const XmmuTable *table)
{
    return xmmu_ptr_list_empty(&table->parents) && !table->root_refs;
}

/* A write to a page table proper: let the guest write as it likes and compare
 * when it flushes.  A table that nothing uses is not worth comparing. */
static void write_leaf_table(XmmuIndirect shadow, XmmuVcpu *vcpu)
{
    XmmuTable *table = shadow.table;

    if (unused(table)) {
        xmmu_shadow_zap(table);
        return;
    }
    if (!table->unsync) {
        xmmu_count(&vcpu->stats.unsyncs);
    }
    xmmu_mark_unsync(shadow);
    table->protected_at = 0;
}

/* A page that is an upper table too stays protected as a whole. */
static void protect_leaf_tables(XmmuVm *vm, hfn_t hfn)
{
    for (XmmuIndirect s = xmmu_track_first(vm, hfn); s.table; s = xmmu_track_next(s)) {
        if (!s.table->protected_at) {
            s.table->protected_at = xmmu_flush_tick(vm);
        }
    }
}

/* The tables of @hfn now.  Handling one may zap others, so they are listed first;
 * a zapped one says so, and RCU keeps it readable. */
static XmmuTable *list_tracked(XmmuVm *vm, hfn_t hfn)
{
    XmmuTable *list = NULL;

    for (XmmuIndirect s = xmmu_track_first(vm, hfn); s.table; s = xmmu_track_next(s)) {
        s.table->todo = list;
        list = s.table;
    }
    return list;
}

bool xmmu_track_write(XmmuVm *vm, XmmuVcpu *vcpu, gpa_t gpa, hfn_t hfn,
                      unsigned size)
{
    unsigned offset = gpa & ~XMMU_PAGE_MASK;
    bool by_hand = false;

    xmmu_assert_write_locked(vm);
    for (XmmuTable *table = list_tracked(vm, hfn); table; table = table->todo) {
        if (table->unlinked) {
            continue;
        }
        if (table->role.level == 1) {
            write_leaf_table(xmmu_indirect(table), vcpu);
        } else {
            write_upper(xmmu_indirect(table), vcpu, offset, size ? size : 8);
            by_hand = true;
        }
    }
    if (by_hand) {
        protect_leaf_tables(vm, hfn);
    }
    return by_hand;
}
