/*
 * xmmu: which frames the guest writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the log of writes, its three ways to learn of them, and what of the log has been
 * reported.
 *
 *   write protection   a leaf of a logged frame has W only while the frame's bit is set
 *                      (in .dirty or .reported).  The writer of entries sets it when a
 *                      leaf gains W; clearing takes W away again.
 *   D bits             leaves keep W; a harvest clears D in them, and the writer of
 *                      entries sets the frame's bit whenever a leaf loses D, be it by
 *                      the harvest or because the leaf goes.
 *   rings              write protection; what becomes dirty is put into the ring of the
 *                      vCPU as well, so that a harvest looks at nothing else.
 *
 * Order.  A leaf changes first, then the bit is set, both within one holding of
 * mmu_lock.  Who reads the log takes the write side once before, so that he sees the
 * bits of all leaves that were there when he began.  Whenever a bit is taken, a flush
 * of all vCPUs is ordered before he is told: also for a leaf that went earlier some
 * vCPU may still have a translation that writes.
 */
#include <stdlib.h>
#include <string.h>
#include "dirty.h"
#include "flush.h"
#include "mem.h"
#include "shadow.h"
#include "tdp.h"
#include "tdp_iter.h"

#define CHUNK_MASK ((hfn_t)XMMU_ENTRIES - 1)

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static bool protects(const XmmuVm *vm)
{
    return vm->config.dirty_log != XMMU_DIRTY_DBIT;
}

/* ---- Finding chunks ------------------------------------------------------ */

/* Index of the first chunk that ends after @hfn, or count. */
static size_t chunk_after(const XmmuDirtyMap *map, hfn_t hfn)
{
    size_t low = 0, high = map->count;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (map->chunk[mid]->hfn + XMMU_ENTRIES <= hfn) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static XmmuDirtyChunk *find(const XmmuDirtyMap *map, hfn_t hfn)
{
    size_t i = map ? chunk_after(map, hfn) : 0;

    return map && i < map->count && map->chunk[i]->hfn <= hfn ? map->chunk[i] : NULL;
}

/* The bits of word @i of @chunk that stand for frames of [start, end). */
static uint64_t range_mask(const XmmuDirtyChunk *chunk, unsigned i, hfn_t start,
                           hfn_t end)
{
    hfn_t first = chunk->hfn + i * 64;
    uint64_t mask = UINT64_MAX;

    if (end <= first || start >= first + 64) {
        return 0;
    }
    if (start > first) {
        mask &= UINT64_MAX << (start - first);
    }
    if (end < first + 64) {
        mask &= UINT64_MAX >> (first + 64 - end);
    }
    return mask;
}

/* ---- Setting bits -------------------------------------------------------- */

/* Room for what one fault may put there between the question and the deed. */
#define RING_RESERVE 4

static uint32_t ring_used(const XmmuDirtyRing *ring)
{
    return __atomic_load_n(&ring->tail, __ATOMIC_RELAXED) -
           __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
}

/* By the vCPU's thread.  No room: the bit alone says it, and all bits are looked at. */
static void ring_put(XmmuVm *vm, XmmuVcpu *vcpu, hfn_t hfn)
{
    XmmuDirtyRing *ring = vcpu ? &vcpu->dirty_ring : NULL;

    if (!ring || !ring->entry || ring_used(ring) == vm->config.dirty_ring_size) {
        __atomic_store_n(&vm->dirty_unringed, true, __ATOMIC_SEQ_CST);
        return;
    }
    ring->entry[ring->tail % vm->config.dirty_ring_size] = hfn;
    __atomic_store_n(&ring->tail, ring->tail + 1, __ATOMIC_RELEASE);
}

static void mark_word(XmmuVm *vm, XmmuVcpu *vcpu, XmmuDirtyChunk *chunk, unsigned i,
                      uint64_t mask)
{
    uint64_t set = mask & load(&chunk->logged[i]) &
                   ~(load(&chunk->dirty[i]) | load(&chunk->reported[i]));

    if (!set) {
        return;
    }
    set &= ~__atomic_fetch_or(&chunk->dirty[i], set, __ATOMIC_SEQ_CST);
    if (set && vcpu) {
        __atomic_store_n(&vcpu->stats.dirty_pages, vcpu->stats.dirty_pages +
                         __builtin_popcountll(set), __ATOMIC_RELAXED);
    } else if (set) {
        xmmu_count_shared(&vm->stats.dirty_pages, __builtin_popcountll(set));
    }
    for (; set && vm->config.dirty_log == XMMU_DIRTY_RING; set &= set - 1) {
        ring_put(vm, vcpu, chunk->hfn + i * 64 + __builtin_ctzll(set));
    }
}

static void mark_in(XmmuVm *vm, XmmuVcpu *vcpu, const XmmuDirtyMap *map, hfn_t hfn,
                    hfn_t end)
{
    for (size_t c = chunk_after(map, hfn);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        XmmuDirtyChunk *chunk = map->chunk[c];

        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            uint64_t mask = range_mask(chunk, i, hfn, end);

            if (mask) {
                mark_word(vm, vcpu, chunk, i, mask);
            }
        }
    }
}

/* Who holds the write side is not in an RCU read section yet. */
static void mark(XmmuVm *vm, XmmuVcpu *vcpu, hfn_t hfn, uint64_t npages)
{
    const XmmuDirtyMap *map;

    vm->services->rcu_read_lock();
    map = __atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE);
    if (map) {
        mark_in(vm, vcpu, map, hfn, hfn + npages);
    }
    vm->services->rcu_read_unlock();
}

void xmmu_vm_dirty_mark(XmmuVm *vm, hpa_t hpa, uint64_t npages)
{
    mark(vm, NULL, hpa >> XMMU_PAGE_SHIFT, npages);
}

/* For whose ring: the holding's vCPU, or the one for which the write side was taken. */
static XmmuVcpu *vcpu_of(XmmuHold *hold)
{
    return hold->vcpu ? hold->vcpu : hold->on_behalf_of;
}

void xmmu_dirty_by_hand(XmmuHold *hold, hfn_t hfn)
{
    xmmu_assert_held(hold);
    mark(hold->vm, vcpu_of(hold), hfn, 1);
}

/* Does @spte map pages with @bit (W or D)? */
static bool leaf_has(const XmmuHostFormat *format, XmmuSpte spte, int level,
                     uint64_t bit)
{
    return xmmu_spte_present(format, spte) && xmmu_spte_is_leaf(format, spte, level) &&
           (spte.raw & bit);
}

static bool same_pages(const XmmuHostFormat *format, XmmuSpte a, XmmuSpte b)
{
    return !((a.raw ^ b.raw) & (XMMU_HOST_ADDR_MASK | format->large));
}

void xmmu_dirty_note(XmmuHold *hold, const XmmuTable *table, XmmuSpte old, XmmuSpte new)
{
    const XmmuHostFormat *format = hold->vm->format;
    int level = table->role.level;
    bool protect = protects(hold->vm);
    uint64_t bit = protect ? format->write : format->dirty;
    /* A leaf that gains W, or one that loses D. */
    XmmuSpte from = protect ? old : new, to = protect ? new : old;

    if (leaf_has(format, to, level, bit) &&
        !(leaf_has(format, from, level, bit) && same_pages(format, from, to))) {
        mark(hold->vm, vcpu_of(hold), xmmu_spte_hpa(to) >> XMMU_PAGE_SHIFT,
             xmmu_level_pages(level));
    }
}

/* ---- The oracle --------------------------------------------------------------- */

bool xmmu_vm_dirty_seen(XmmuVm *vm, hpa_t hpa, bool seen)
{
    hfn_t hfn = hpa >> XMMU_PAGE_SHIFT;
    unsigned i = (hfn & CHUNK_MASK) / 64;
    uint64_t bit = (uint64_t)1 << (hfn & 63);
    XmmuDirtyChunk *chunk;
    bool logs;

    vm->services->rcu_read_lock();
    chunk = find(__atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE), hfn);
    logs = chunk && (load(&chunk->logged[i]) & bit);
    if (logs && seen) {
        __atomic_fetch_or(&chunk->seen[i], bit, __ATOMIC_SEQ_CST);
    } else if (logs) {
        __atomic_fetch_and(&chunk->seen[i], ~bit, __ATOMIC_SEQ_CST);
    }
    vm->services->rcu_read_unlock();
    return logs;
}

bool xmmu_vm_dirty_logs(XmmuVm *vm, hpa_t hpa)
{
    hfn_t hfn = hpa >> XMMU_PAGE_SHIFT;
    XmmuDirtyChunk *chunk;
    bool logs;

    vm->services->rcu_read_lock();
    chunk = find(__atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE), hfn);
    logs = chunk && (load(&chunk->logged[(hfn & CHUNK_MASK) / 64]) >> (hfn & 63) & 1);
    vm->services->rcu_read_unlock();
    return logs;
}

/* Move what was seen in [start, end) to .judged, before the log is looked at. */
static void hear_oracle(XmmuVm *vm, hfn_t start, hfn_t end)
{
    XmmuDirtyMap *map = vm->dirty_map;

    if (!vm->services->dirty_missed) {
        return;
    }
    for (size_t c = chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        XmmuDirtyChunk *chunk = map->chunk[c];

        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            uint64_t mask = range_mask(chunk, i, start, end);

            chunk->judged[i] = mask & __atomic_fetch_and(&chunk->seen[i], ~mask,
                                                         __ATOMIC_SEQ_CST);
        }
    }
}

/* Everything that it saw is in the log, as it is now. */
static void ask_oracle(XmmuVm *vm, XmmuDirtyChunk *chunk)
{
    if (!vm->services->dirty_missed) {
        return;
    }
    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        uint64_t missed = chunk->judged[i] & load(&chunk->logged[i]) &
                          ~(load(&chunk->dirty[i]) | load(&chunk->reported[i]));

        chunk->judged[i] = 0;
        for (; missed; missed &= missed - 1) {
            hfn_t hfn = chunk->hfn + i * 64 + __builtin_ctzll(missed);

            vm->services->dirty_missed(vm->opaque, hfn << XMMU_PAGE_SHIFT);
        }
    }
}

/*
 * vCPUs may have written by what they were ordered to forget just now: that belongs to
 * what was told of these pages.
 */
static void forget_seen(XmmuVm *vm)
{
    XmmuDirtyMap *map = vm->dirty_map;

    for (size_t c = 0; c < map->count; c++) {
        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            uint64_t *forget = &map->chunk[c]->forget[i];

            if (*forget) {
                __atomic_fetch_and(&map->chunk[c]->seen[i], ~*forget, __ATOMIC_SEQ_CST);
                *forget = 0;
            }
        }
    }
}

/* ---- Questions of faults --------------------------------------------------- */

bool xmmu_dirty_keep_clean(XmmuVm *vm, const XmmuRegion *slot, hfn_t hfn)
{
    XmmuDirtyChunk *chunk;
    unsigned i = (hfn & CHUNK_MASK) / 64;

    if (!(slot->flags & XMMU_REGION_LOG_DIRTY) || !protects(vm)) {
        return false;
    }
    chunk = find(__atomic_load_n(&vm->dirty_map, __ATOMIC_ACQUIRE), hfn);
    return chunk && !((load(&chunk->dirty[i]) | load(&chunk->reported[i])) >>
                      (hfn & 63) & 1);
}

bool xmmu_dirty_ring_full(const XmmuVcpu *vcpu, const XmmuRegion *slot)
{
    const XmmuConfig *config = &vcpu->vm->config;

    return config->dirty_log == XMMU_DIRTY_RING && slot &&
           (slot->flags & XMMU_REGION_LOG_DIRTY) && vcpu->dirty_ring.entry &&
           ring_used(&vcpu->dirty_ring) + RING_RESERVE > config->dirty_ring_size;
}

/* ---- Which leaves map a frame ------------------------------------------------ */

/* What is done to the leaves of the frames of @chunk that have their bit in @bits. */
typedef struct Visit {
    XmmuVm *vm;
    const XmmuDirtyChunk *chunk;
    const uint64_t *bits;
    void (*tdp)(XmmuHold *hold, unsigned as_id, gfn_t gfn, uint64_t npages);
    void (*shadow)(void *sptep, void *vm);
} Visit;

static bool has_bit(const uint64_t *bits, unsigned i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

/* Runs of frames of @slot. */
static void visit_slot(const Visit *visit, XmmuHold *hold, unsigned as_id,
                       const XmmuRegion *slot)
{
    hfn_t base = slot->hpa >> XMMU_PAGE_SHIFT, first = visit->chunk->hfn;
    hfn_t end = MIN(first + XMMU_ENTRIES, base + slot->npages);

    for (hfn_t pos = MAX(first, base); pos < end; pos++) {
        hfn_t start = pos;

        while (pos < end && has_bit(visit->bits, pos - first)) {
            pos++;
        }
        if (pos > start) {
            visit->tdp(hold, as_id, slot->gfn + (start - base), pos - start);
        }
    }
}

/* The slots stay as they are: slots_lock. */
static void visit_tdp(const Visit *visit)
{
    XmmuVm *vm = visit->vm;
    XmmuHold hold;

    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_SLICE);
    for (unsigned as_id = 0; as_id < XMMU_AS_COUNT; as_id++) {
        const XmmuSlots *slots = vm->slots[as_id];

        for (size_t i = 0; i < slots->count; i++) {
            visit_slot(visit, &hold, as_id, &slots->regions[i]);
        }
    }
    xmmu_read_unlock(&hold);
}

static void visit_shadow(const Visit *visit)
{
    XmmuVm *vm = visit->vm;
    XmmuChunk *chunk;

    xmmu_write_lock(vm, XMMU_REASON_SLICE);
    chunk = xmmu_chunk_find(vm, visit->chunk->hfn);
    if (chunk) {
        xmmu_ptr_list_each(&chunk->rmap_2m, visit->shadow, vm);
        for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
            if (has_bit(visit->bits, i)) {
                xmmu_ptr_list_each(&chunk->rmap[i], visit->shadow, vm);
            }
        }
    }
    xmmu_write_unlock(vm);
}

static void visit_leaves(const Visit *visit)
{
    if (visit->vm->config.tdp) {
        visit_tdp(visit);
    }
    /* L2's, if tdp=on. */
    visit_shadow(visit);
}

/* ---- Write protection ---------------------------------------------------------- */

static void protect_tdp(XmmuHold *hold, unsigned as_id, gfn_t gfn, uint64_t npages)
{
    xmmu_tdp_write_protect_range(hold, as_id, gfn, npages);
}

static void without(XmmuVm *vm, XmmuSpte *sptep, uint64_t bit)
{
    XmmuSpte spte = xmmu_spte_read(sptep);

    if (xmmu_spte_present(vm->format, spte) && (spte.raw & bit)) {
        xmmu_spte_set(xmmu_table_of(sptep), xmmu_spte_index(sptep),
                      (XmmuSpte) { spte.raw & ~bit });
    }
}

/* A leaf of 2 MiB stays one; the fault of the next write puts a table there. */
static void protect_shadow(void *sptep, void *opaque)
{
    XmmuVm *vm = opaque;

    without(vm, sptep, vm->format->write);
}

/* What is reported of [start, end) may be written only through a fault again. */
static bool rearm_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end)
{
    uint64_t bits[XMMU_DIRTY_WORDS];
    Visit visit = { vm, chunk, bits, protect_tdp, protect_shadow };
    uint64_t count = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = load(&chunk->reported[i]) & range_mask(chunk, i, start, end);
        count += __builtin_popcountll(bits[i]);
        /* Before the leaves are looked at: who makes one writable from now on sets
         * the bit of .dirty, also if we pass before he does. */
        if (bits[i]) {
            __atomic_fetch_and(&chunk->reported[i], ~bits[i], __ATOMIC_SEQ_CST);
            chunk->forget[i] |= bits[i];
        }
    }
    if (count) {
        visit_leaves(&visit);
        xmmu_count_shared(&vm->stats.dirty_cleared, count);
    }
    return count;
}

/* ---- D bits ---------------------------------------------------------------------- */

/* Hardware that has a copy of our tables: what it has set in its leaves there. */
typedef struct Copies {
    size_t count;
    XmmuHarvest entry[XMMU_ENTRIES];
} Copies;

static void fetch_copies(XmmuHold *hold, Copies *copies)
{
    const XmmuHostFormat *format = hold->vm->format;

    if (!copies->count) {
        return;
    }
    hold->vm->services->harvest(hold->vm->opaque, copies->entry, copies->count);
    for (size_t i = 0; i < copies->count; i++) {
        const XmmuSpte *sptep = copies->entry[i].sptep;
        XmmuSpte spte = xmmu_spte_read(sptep);

        /* If it is another leaf by now, its removal brought D along. */
        if (copies->entry[i].dirty && xmmu_spte_present(format, spte)) {
            mark(hold->vm, NULL, xmmu_spte_hpa(spte) >> XMMU_PAGE_SHIFT,
                 xmmu_level_pages(xmmu_table_of(sptep)->role.level));
        }
    }
    copies->count = 0;
}

static void note_copy(XmmuHold *hold, Copies *copies, const XmmuSpte *sptep,
                      XmmuSpte spte)
{
    if (hold->vm->services->harvest && xmmu_spte_writable(hold->vm->format, spte)) {
        copies->entry[copies->count++] = (XmmuHarvest) { .sptep = sptep };
        if (copies->count == G_N_ELEMENTS(copies->entry)) {
            fetch_copies(hold, copies);
        }
    }
}

/* At most 512 frames, so nobody has to wait long for the lock. */
static void harvest_tdp(XmmuHold *hold, unsigned as_id, gfn_t gfn, uint64_t npages)
{
    const XmmuHostFormat *format = hold->vm->format;
    XmmuTable *root = xmmu_tdp_root_find(hold, as_id);
    XMMU_UNINITIALIZED Copies copies;
    XmmuTdpIter iter;

    if (!root) {
        return;
    }
    copies.count = 0;
    xmmu_tdp_iter_begin(&iter, hold, root, gfn, gfn + npages, XMMU_LEVEL_4K);
    while (xmmu_tdp_iter_next(&iter)) {
        if (!xmmu_spte_present(format, iter.old) ||
            !xmmu_spte_is_leaf(format, iter.old, iter.level)) {
            continue;
        }
        note_copy(hold, &copies, &iter.table->spt[iter.index], iter.old);
        while (leaf_has(format, iter.old, iter.level, format->dirty) &&
               !xmmu_tdp_iter_set(&iter,
                                  (XmmuSpte) { iter.old.raw & ~format->dirty })) {
            /* Somebody else changed it; look at what it is now. */
        }
    }
    fetch_copies(hold, &copies);
    xmmu_tdp_root_put(hold, root);
}

static void harvest_shadow(void *ptr, void *opaque)
{
    XmmuVm *vm = opaque;
    XmmuSpte *sptep = ptr;
    XMMU_UNINITIALIZED Copies copies;

    copies.count = 0;
    note_copy(&vm->writer, &copies, sptep, xmmu_spte_read(sptep));
    without(vm, sptep, vm->format->dirty);
    fetch_copies(&vm->writer, &copies);
}

/* Bring the D bits of the leaves into .dirty. */
static void harvest_chunk(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end)
{
    uint64_t bits[XMMU_DIRTY_WORDS], any = 0;
    Visit visit = { vm, chunk, bits, harvest_tdp, harvest_shadow };

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = load(&chunk->logged[i]) & range_mask(chunk, i, start, end);
        any |= bits[i];
    }
    if (any) {
        visit_leaves(&visit);
    }
}

/* ---- What the outside asks for ------------------------------------------------- */

/* Everything that is under way has set its bits when this returns. */
static void settle(XmmuVm *vm)
{
    xmmu_write_lock(vm, XMMU_REASON_GUEST);
    xmmu_write_unlock(vm);
}

static void flush_everyone(XmmuVm *vm)
{
    xmmu_write_lock(vm, XMMU_REASON_HOST);
    xmmu_flush_owe(&vm->writer);
    xmmu_write_unlock(vm);
    forget_seen(vm);
}

/* Take the bits of [start, end) out of .dirty into @bits. */
static bool take(XmmuVm *vm, XmmuDirtyChunk *chunk, hfn_t start, hfn_t end,
                 uint64_t *bits)
{
    uint64_t any = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        bits[i] = load(&chunk->dirty[i]) & load(&chunk->logged[i]) &
                  range_mask(chunk, i, start, end);
        if (!bits[i]) {
            continue;
        }
        any = 1;
        if (protects(vm)) {
            /* In this order: a writable leaf's bit is in one of the two. */
            __atomic_fetch_or(&chunk->reported[i], bits[i], __ATOMIC_SEQ_CST);
        } else {
            chunk->forget[i] |= bits[i];
        }
        __atomic_fetch_and(&chunk->dirty[i], ~bits[i], __ATOMIC_SEQ_CST);
    }
    return any;
}

static void count_reported(XmmuVm *vm, const uint64_t *bits)
{
    int64_t count = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        count += __builtin_popcountll(bits[i]);
    }
    xmmu_count_shared(&vm->stats.dirty_reported, count);
}

/* slots_lock. */
static bool sync_range(XmmuVm *vm, hfn_t start, hfn_t end, XmmuDirtyFn *fn, void *opaque)
{
    XmmuDirtyMap *map = vm->dirty_map;
    uint64_t bits[XMMU_DIRTY_WORDS];
    bool any = false;

    for (size_t c = chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        XmmuDirtyChunk *chunk = map->chunk[c];

        if (!protects(vm)) {
            harvest_chunk(vm, chunk, start, end);
        }
        ask_oracle(vm, chunk);
        if (take(vm, chunk, start, end, bits)) {
            any = true;
            count_reported(vm, bits);
            fn(opaque, chunk->hfn << XMMU_PAGE_SHIFT, bits);
        }
    }
    return any;
}

void xmmu_vm_dirty_sync(XmmuVm *vm, hpa_t hpa, uint64_t npages, XmmuDirtyFn *fn,
                        void *opaque)
{
    hfn_t start = hpa >> XMMU_PAGE_SHIFT;

    pthread_mutex_lock(&vm->slots_lock);
    if (vm->dirty_map) {
        hear_oracle(vm, start, start + npages);
        settle(vm);
        if (!protects(vm) && vm->services->harvest) {
            /* Hardware that has a copy tells of leaves that went when it learns that. */
            flush_everyone(vm);
        }
        /* With write protection nothing was taken away yet. */
        if (sync_range(vm, start, start + npages, fn, opaque) && !protects(vm)) {
            flush_everyone(vm);
        }
    }
    pthread_mutex_unlock(&vm->slots_lock);
}

/* slots_lock. */
static bool rearm_range(XmmuVm *vm, hfn_t start, hfn_t end)
{
    XmmuDirtyMap *map = vm->dirty_map;
    bool any = false;

    for (size_t c = chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        any |= rearm_chunk(vm, map->chunk[c], start, end);
    }
    return any;
}

void xmmu_vm_dirty_clear(XmmuVm *vm, hpa_t hpa, uint64_t npages)
{
    hfn_t start = hpa >> XMMU_PAGE_SHIFT;

    pthread_mutex_lock(&vm->slots_lock);
    if (vm->dirty_map && protects(vm) && rearm_range(vm, start, start + npages)) {
        flush_everyone(vm);
    }
    pthread_mutex_unlock(&vm->slots_lock);
}

/* ---- Rings ---------------------------------------------------------------------- */

/* One frame that a ring names; its bit says whether it still is to be reported. */
static bool reap_frame(XmmuVm *vm, hfn_t hfn, XmmuDirtyFn *fn, void *opaque)
{
    XmmuDirtyChunk *chunk = find(vm->dirty_map, hfn);
    uint64_t bits[XMMU_DIRTY_WORDS];

    if (!chunk || !take(vm, chunk, hfn, hfn + 1, bits)) {
        return false;
    }
    count_reported(vm, bits);
    fn(opaque, chunk->hfn << XMMU_PAGE_SHIFT, bits);
    return rearm_chunk(vm, chunk, hfn, hfn + 1);
}

/* The vCPU may go on filling it meanwhile: only what is there now. */
static bool reap_ring(XmmuVm *vm, XmmuDirtyRing *ring, XmmuDirtyFn *fn, void *opaque)
{
    uint32_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    bool any = false;

    for (; ring->head != tail; __atomic_store_n(&ring->head, ring->head + 1,
                                                __ATOMIC_RELEASE)) {
        any |= reap_frame(vm, ring->entry[ring->head % vm->config.dirty_ring_size], fn,
                          opaque);
    }
    return any;
}

/* slots_lock, so no vCPU comes or goes. */
static bool reap_all(XmmuVm *vm, XmmuDirtyFn *fn, void *opaque)
{
    bool all = __atomic_exchange_n(&vm->dirty_unringed, false, __ATOMIC_SEQ_CST);
    bool any = false;

    for (XmmuVcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        any |= reap_ring(vm, &vcpu->dirty_ring, fn, opaque);
    }
    if (all && vm->dirty_map->count) {
        hfn_t start = vm->dirty_map->chunk[0]->hfn;
        hfn_t end = vm->dirty_map->chunk[vm->dirty_map->count - 1]->hfn + XMMU_ENTRIES;

        any |= sync_range(vm, start, end, fn, opaque) && rearm_range(vm, start, end);
    }
    return any;
}

void xmmu_vm_dirty_reap(XmmuVm *vm, XmmuDirtyFn *fn, void *opaque)
{
    pthread_mutex_lock(&vm->slots_lock);
    if (vm->dirty_map && vm->config.dirty_log == XMMU_DIRTY_RING) {
        hear_oracle(vm, 0, XMMU_NO_GFN);
        settle(vm);
        for (size_t c = 0; c < vm->dirty_map->count; c++) {
            ask_oracle(vm, vm->dirty_map->chunk[c]);
        }
        if (reap_all(vm, fn, opaque)) {
            flush_everyone(vm);
        }
    }
    pthread_mutex_unlock(&vm->slots_lock);
}

/* ---- What is logged ---------------------------------------------------------------- */

static int compare_frames(const void *a, const void *b)
{
    hfn_t x = *(const hfn_t *)a, y = *(const hfn_t *)b;

    return x < y ? -1 : x > y;
}

/* For each region that is to be logged, when those of @as_id are @slots. */
static void each_logged(XmmuVm *vm, unsigned as_id, const XmmuSlots *slots,
                        void (*fn)(hfn_t start, hfn_t end, void *opaque), void *opaque)
{
    for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
        const XmmuSlots *s = as == as_id ? slots : vm->slots[as];

        for (size_t i = 0; i < s->count; i++) {
            hfn_t start = s->regions[i].hpa >> XMMU_PAGE_SHIFT;

            if (s->regions[i].flags & XMMU_REGION_LOG_DIRTY) {
                fn(start, start + s->regions[i].npages, opaque);
            }
        }
    }
}

/* First frames of chunks. */
typedef struct Frames {
    size_t count;
    hfn_t *hfn;                 /* NULL: only count */
} Frames;

static void add_chunks(hfn_t start, hfn_t end, void *opaque)
{
    Frames *frames = opaque;

    for (hfn_t hfn = start & ~CHUNK_MASK; hfn < end; hfn += XMMU_ENTRIES) {
        if (frames->hfn) {
            frames->hfn[frames->count] = hfn;
        }
        frames->count++;
    }
}

static void collect(XmmuVm *vm, unsigned as_id, const XmmuSlots *slots, Frames *frames)
{
    XmmuDirtyMap *old = vm->dirty_map;

    frames->count = 0;
    each_logged(vm, as_id, slots, add_chunks, frames);
    for (size_t c = 0; old && c < old->count; c++) {
        add_chunks(old->chunk[c]->hfn, old->chunk[c]->hfn + 1, frames);
    }
}

static void sort_unique(Frames *frames)
{
    size_t n = 0;

    qsort(frames->hfn, frames->count, sizeof(*frames->hfn), compare_frames);
    for (size_t i = 0; i < frames->count; i++) {
        if (!n || frames->hfn[n - 1] != frames->hfn[i]) {
            frames->hfn[n++] = frames->hfn[i];
        }
    }
    frames->count = n;
}

static XmmuDirtyMap *new_map(XmmuVm *vm, size_t count)
{
    return xmmu_try_new0(vm->services, vm->opaque,
                         sizeof(XmmuDirtyMap) + count * sizeof(XmmuDirtyChunk *));
}

static void discard_new(XmmuVm *vm, XmmuDirtyMap *map)
{
    for (size_t c = 0; c < map->count; c++) {
        if (find(vm->dirty_map, map->chunk[c]->hfn) != map->chunk[c]) {
            g_free(map->chunk[c]);
        }
    }
    g_free(map);
}

static XmmuDirtyChunk *new_chunk(XmmuVm *vm, hfn_t hfn)
{
    XmmuDirtyChunk *chunk = xmmu_try_new0(vm->services, vm->opaque, sizeof(*chunk));

    if (chunk) {
        chunk->hfn = hfn;
    }
    return chunk;
}

static XmmuDirtyMap *build_map(XmmuVm *vm, const Frames *frames)
{
    XmmuDirtyMap *map = new_map(vm, frames->count);

    for (size_t i = 0; map && i < frames->count; i++) {
        XmmuDirtyChunk *chunk = find(vm->dirty_map, frames->hfn[i]);

        if (!chunk) {
            chunk = new_chunk(vm, frames->hfn[i]);
        }
        if (!chunk) {
            discard_new(vm, map);
            return NULL;
        }
        memset(chunk->wanted, 0, sizeof(chunk->wanted));
        map->chunk[map->count++] = chunk;
    }
    return map;
}

static void want(hfn_t start, hfn_t end, void *opaque)
{
    XmmuDirtyMap *map = opaque;

    for (size_t c = chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            map->chunk[c]->wanted[i] |= range_mask(map->chunk[c], i, start, end);
        }
    }
}

bool xmmu_dirty_prepare(XmmuVm *vm, unsigned as_id, const XmmuSlots *slots,
                        XmmuDirtyChange *change)
{
    Frames frames = { 0 };

    *change = (XmmuDirtyChange) { NULL, false };
    collect(vm, as_id, slots, &frames);
    if (!frames.count) {
        return true;
    }
    frames.hfn = xmmu_try_new0(vm->services, vm->opaque,
                               frames.count * sizeof(*frames.hfn));
    if (!frames.hfn) {
        return false;
    }
    collect(vm, as_id, slots, &frames);
    sort_unique(&frames);
    change->map = build_map(vm, &frames);
    g_free(frames.hfn);
    if (change->map) {
        each_logged(vm, as_id, slots, want, change->map);
    }
    return change->map;
}

static void map_reclaim(XmmuRcuHead *head)
{
    g_free((char *)head - offsetof(XmmuDirtyMap, rcu));
}

static void chunk_reclaim(XmmuRcuHead *head)
{
    g_free((char *)head - offsetof(XmmuDirtyChunk, rcu));
}

/* slots_lock, and mmu_lock for writing when frames come to be logged. */
static void publish(XmmuVm *vm, XmmuDirtyMap *map)
{
    XmmuDirtyMap *old = vm->dirty_map;

    __atomic_store_n(&vm->dirty_map, map, __ATOMIC_RELEASE);
    if (old) {
        vm->services->rcu_call(&old->rcu, map_reclaim);
    }
}

/*
 * Whoever starts to look at the log takes it that everything may have been written, so
 * nothing has to be protected now.  A ring cannot say that; there nothing is dirty, and
 * xmmu_dirty_finish() takes W away.
 */
static void begin_word(XmmuVm *vm, XmmuDirtyChunk *chunk, unsigned i, uint64_t fresh)
{
    bool ring = vm->config.dirty_log == XMMU_DIRTY_RING;
    uint64_t *all = ring ? &chunk->reported[i] : &chunk->dirty[i];
    uint64_t *none = ring ? &chunk->dirty[i] : &chunk->reported[i];

    __atomic_fetch_and(none, ~fresh, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(all, fresh, __ATOMIC_SEQ_CST);
    __atomic_fetch_or(&chunk->logged[i], fresh, __ATOMIC_SEQ_CST);
}

void xmmu_dirty_begin(XmmuVm *vm, XmmuDirtyChange *change)
{
    XmmuDirtyMap *map = change->map;

    xmmu_assert_write_locked(vm);
    for (size_t c = 0; map && c < map->count; c++) {
        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            uint64_t fresh = map->chunk[c]->wanted[i] & ~map->chunk[c]->logged[i];

            if (fresh) {
                begin_word(vm, map->chunk[c], i, fresh);
                change->fresh = true;
            }
        }
    }
    if (map) {
        publish(vm, map);
    }
}

/* Of @chunk, what is not wanted any more.  False: nothing is left. */
static bool drop(XmmuVm *vm, XmmuDirtyChunk *chunk)
{
    uint64_t bits[XMMU_DIRTY_WORDS], any = 0, left = 0;

    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        uint64_t gone = chunk->logged[i] & ~chunk->wanted[i];

        __atomic_fetch_and(&chunk->logged[i], ~gone, __ATOMIC_SEQ_CST);
        bits[i] = __atomic_fetch_and(&chunk->dirty[i], ~gone, __ATOMIC_SEQ_CST) & gone;
        __atomic_fetch_and(&chunk->reported[i], ~gone, __ATOMIC_SEQ_CST);
        any |= bits[i];
        left |= chunk->logged[i];
    }
    if (any && vm->services->dirty_dropped) {
        vm->services->dirty_dropped(vm->opaque, chunk->hfn << XMMU_PAGE_SHIFT, bits);
    }
    return left;
}

/* The chunks of @old in which something still is logged; NULL: none, or no memory, then
 * those that are empty stay. */
static XmmuDirtyMap *shrink(XmmuVm *vm, XmmuDirtyMap *old, size_t left)
{
    XmmuDirtyMap *map = left && left < old->count ? new_map(vm, left) : NULL;

    for (size_t c = 0; map && c < old->count; c++) {
        uint64_t any = 0;

        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            any |= old->chunk[c]->logged[i];
        }
        if (any) {
            map->chunk[map->count++] = old->chunk[c];
        }
    }
    return map;
}

static void free_dropped(XmmuVm *vm, XmmuDirtyMap *old, const XmmuDirtyMap *map)
{
    for (size_t c = 0; c < old->count; c++) {
        if (find(map, old->chunk[c]->hfn) != old->chunk[c]) {
            vm->services->rcu_call(&old->chunk[c]->rcu, chunk_reclaim);
        }
    }
}

void xmmu_dirty_finish(XmmuVm *vm, const XmmuDirtyChange *change)
{
    XmmuDirtyMap *old = change->map, *map;
    size_t left = 0;

    if (!old) {
        return;
    }
    if (change->fresh && vm->config.dirty_log == XMMU_DIRTY_RING &&
        rearm_range(vm, 0, XMMU_NO_GFN)) {
        flush_everyone(vm);
    }
    for (size_t c = 0; c < old->count; c++) {
        left += drop(vm, old->chunk[c]);
    }
    map = shrink(vm, old, left);
    if (map || !left) {
        free_dropped(vm, old, map);
        publish(vm, map);
    }
}

void xmmu_dirty_cleanup(XmmuVm *vm)
{
    XmmuDirtyMap *map = vm->dirty_map;

    for (size_t c = 0; map && c < map->count; c++) {
        g_free(map->chunk[c]);
    }
    g_free(map);
}
