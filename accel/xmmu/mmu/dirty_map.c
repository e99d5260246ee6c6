/*
 * xmmu: which frames the guest writes: what is logged
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the array of chunks, which has the frames of all regions with
 * XMMU_REGION_LOG_DIRTY, and its changes.  Only slots.c calls it, with slots_lock held:
 * prepare (all memory that is needed), begin (before the new regions are seen), finish
 * (when the old ones are gone).
 */
#include <stdlib.h>
#include <string.h>
#include "dirty_priv.h"
#include "mem.h"

/* ---- Finding chunks ------------------------------------------------------- */

size_t xmmu_dirty_chunk_after(const XmmuDirtyMap *map, hfn_t hfn)
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

XmmuDirtyChunk *xmmu_dirty_find(const XmmuDirtyMap *map, hfn_t hfn)
{
    size_t i = map ? xmmu_dirty_chunk_after(map, hfn) : 0;

    return map && i < map->count && map->chunk[i]->hfn <= hfn ? map->chunk[i] : NULL;
}

/* ---- Which there are to be ------------------------------------------------- */

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

    for (hfn_t hfn = start & ~((hfn_t)XMMU_ENTRIES - 1); hfn < end; hfn += XMMU_ENTRIES) {
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
        if (xmmu_dirty_find(vm->dirty_map, map->chunk[c]->hfn) != map->chunk[c]) {
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
        XmmuDirtyChunk *chunk = xmmu_dirty_find(vm->dirty_map, frames->hfn[i]);

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

    for (size_t c = xmmu_dirty_chunk_after(map, start);
         c < map->count && map->chunk[c]->hfn < end; c++) {
        for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
            map->chunk[c]->wanted[i] |= xmmu_dirty_range_mask(map->chunk[c], i, start, end);
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

/* ---- The change ------------------------------------------------------------- */

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
    /* Hardware's leaves may have D since long. */
    __atomic_fetch_or(&chunk->hinted[i], fresh, __ATOMIC_SEQ_CST);
}

/*
 * What was spilled is told again by a reap only.  Before anything else is done with it,
 * it is what it has been, written and not told.
 */
static void unspill(XmmuVm *vm, XmmuDirtyChunk *chunk)
{
    for (unsigned i = 0; i < XMMU_DIRTY_WORDS; i++) {
        uint64_t spilled = xmmu_dirty_load(&chunk->reported[i]);

        if (spilled) {
            __atomic_fetch_or(&chunk->dirty[i], spilled, __ATOMIC_SEQ_CST);
            __atomic_fetch_and(&chunk->reported[i], ~spilled, __ATOMIC_SEQ_CST);
            __atomic_store_n(&vm->dirty_unringed, true, __ATOMIC_SEQ_CST);
        }
    }
}

void xmmu_dirty_begin(XmmuVm *vm, XmmuDirtyChange *change)
{
    XmmuDirtyMap *map = change->map;

    xmmu_assert_write_locked(vm);
    for (size_t c = 0; map && c < map->count; c++) {
        if (vm->config.dirty_log == XMMU_DIRTY_RING) {
            unspill(vm, map->chunk[c]);
        }
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
        if (xmmu_dirty_find(map, old->chunk[c]->hfn) != old->chunk[c]) {
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
        xmmu_dirty_protect_range(vm, 0, XMMU_NO_GFN)) {
        xmmu_dirty_flush(vm);
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
