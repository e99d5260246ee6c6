/*
 * xmmu: memory slots and frames
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the map from guest frames to host frames and the per-frame bookkeeping of
 * shadow paging.  The new map is published, then what it changed is zapped in slices
 * that do not hold the lock for long, then everyone flushes, and only then is the
 * change complete.  Faults look slots up again under the lock before they install
 * anything, so no entry outlives its slot.
 */
#include <string.h>
#include "check.h"
#include "dirty.h"
#include "flush.h"
#include "mem.h"
#include "shadow.h"
#include "slots.h"
#include "tdp.h"
#include "tdp_split.h"
#include "vm.h"

static XmmuSlots *current_slots(XmmuVm *vm, unsigned as_id)
{
    return __atomic_load_n(&vm->slots[as_id], __ATOMIC_ACQUIRE);
}

/* First region that ends after @gfn, or count. */
static size_t region_after(const XmmuSlots *slots, gfn_t gfn)
{
    size_t low = 0, high = slots->count;

    while (low < high) {
        size_t mid = (low + high) / 2;
        const XmmuRegion *region = &slots->regions[mid];

        if (region->gfn + region->npages <= gfn) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

const XmmuRegion *xmmu_slot_find(XmmuVm *vm, unsigned as_id, gfn_t gfn)
{
    const XmmuSlots *slots = current_slots(vm, as_id);
    size_t i = region_after(slots, gfn);

    if (i == slots->count || slots->regions[i].gfn > gfn) {
        return NULL;
    }
    return &slots->regions[i];
}

uint32_t xmmu_slots_generation(XmmuVm *vm, unsigned as_id)
{
    return current_slots(vm, as_id)->generation;
}

static bool fits_level(const XmmuRegion *slot, gfn_t gfn, int level)
{
    uint64_t pages = xmmu_level_pages(level);
    gfn_t base = gfn & ~(pages - 1);

    return base >= slot->gfn && base + pages <= slot->gfn + slot->npages &&
           !(xmmu_slot_hpa(slot, base) & ((pages << XMMU_PAGE_SHIFT) - 1));
}

int xmmu_slot_max_level(XmmuVm *vm, const XmmuRegion *slot, gfn_t gfn, int limit)
{
    int level = XMMU_LEVEL_4K;

    if (slot->flags & XMMU_REGION_LOG_DIRTY) {
        return level;
    }
    while (level < limit && fits_level(slot, gfn, level + 1)) {
        level++;
    }
    if (level > XMMU_LEVEL_4K && vm->services->max_level) {
        level = vm->services->max_level(vm->opaque, xmmu_slot_hpa(slot, gfn), level);
    }
    return xmmu_apf_max_level(vm, xmmu_slot_hpa(slot, gfn), level);
}

void xmmu_slots_each_gfn(XmmuVm *vm, hfn_t hfn,
                         void (*fn)(XmmuVm *vm, unsigned as_id, gfn_t gfn))
{
    for (unsigned as_id = 0; as_id < XMMU_AS_COUNT; as_id++) {
        const XmmuSlots *slots = vm->slots[as_id];

        for (size_t i = 0; i < slots->count; i++) {
            const XmmuRegion *region = &slots->regions[i];
            hfn_t first = region->hpa >> XMMU_PAGE_SHIFT;

            if (hfn >= first && hfn - first < region->npages) {
                fn(vm, as_id, region->gfn + (hfn - first));
            }
        }
    }
}

static XmmuChunk **chunk_bucket(XmmuVm *vm, hfn_t hfn)
{
    uint64_t hash = (hfn / XMMU_ENTRIES) * 0x9e3779b97f4a7c15ull >> 32;

    return &vm->chunks[hash % XMMU_CHUNK_BUCKETS];
}

XmmuChunk *xmmu_chunk_peek(XmmuVm *vm, hfn_t hfn)
{
    XmmuChunk *chunk = *chunk_bucket(vm, hfn);

    while (chunk && chunk->hfn / XMMU_ENTRIES != hfn / XMMU_ENTRIES) {
        chunk = chunk->next;
    }
    return chunk;
}

XmmuChunk *xmmu_chunk_find(XmmuVm *vm, hfn_t hfn)
{
    xmmu_assert_write_locked(vm);
    return xmmu_chunk_peek(vm, hfn);
}

XmmuChunk *xmmu_chunk_get(XmmuVm *vm, hfn_t hfn)
{
    XmmuChunk *chunk = xmmu_chunk_find(vm, hfn);

    if (!chunk) {
        XmmuChunk **bucket = chunk_bucket(vm, hfn);

        chunk = xmmu_reserve_chunk(vm);
        chunk->hfn = hfn & ~(hfn_t)(XMMU_ENTRIES - 1);
        chunk->next = *bucket;
        *bucket = chunk;
    }
    chunk->users++;
    return chunk;
}

void xmmu_chunk_put(XmmuVm *vm, XmmuChunk *chunk)
{
    XmmuChunk **p = chunk_bucket(vm, chunk->hfn);

    g_assert(chunk->users > 0);
    if (--chunk->users) {
        return;
    }
    while (*p != chunk) {
        p = &(*p)->next;
    }
    *p = chunk->next;
    xmmu_reserve_put_chunk(vm, chunk);
}

/* ---- Changing the map -------------------------------------------------- */

/* @gfn is in @old, a region that is not in the map any more. */
static void zap_gfns(XmmuVm *vm, unsigned as_id, const XmmuRegion *old, gfn_t gfn,
                     uint64_t npages)
{
    xmmu_tdp_zap_gfns(vm, as_id, gfn, npages);
    xmmu_shadow_zap_frames(vm, xmmu_slot_hpa(old, gfn) >> XMMU_PAGE_SHIFT, npages);
}

/* Logging changes the size of pages, but takes nothing away. */
static bool same_backing(const XmmuRegion *a, const XmmuRegion *b, gfn_t gfn)
{
    return !((a->flags ^ b->flags) & ~XMMU_REGION_LOG_DIRTY) &&
           xmmu_slot_hpa(a, gfn) == xmmu_slot_hpa(b, gfn);
}

/*
 * Pages of @region's range are to be small from now on, or may be large again.  Shadow
 * tables are not exchanged in place: the next access builds what there should be.
 * True: something was zapped.
 */
static bool resize_gfns(XmmuVm *vm, unsigned as_id, const XmmuRegion *region, gfn_t gfn,
                        uint64_t npages)
{
    if (region->flags & XMMU_REGION_LOG_DIRTY) {
        xmmu_tdp_split_range(vm, as_id, gfn, npages, XMMU_LEVEL_4K);
        return xmmu_shadow_zap_large(vm, xmmu_slot_hpa(region, gfn) >> XMMU_PAGE_SHIFT,
                                     npages);
    }
    if (!vm->config.huge_pages) {
        return false;
    }
    xmmu_tdp_promote_range(vm, as_id, gfn, npages);
    return xmmu_shadow_zap_linear(vm, as_id, gfn, npages);
}

/* Zap the parts of @old that @new does not back by the same frames.  True: there are
 * such. */
static bool zap_changed(XmmuVm *vm, unsigned as_id, const XmmuRegion *old,
                        const XmmuSlots *new)
{
    gfn_t end = old->gfn + old->npages;
    bool changed = false;

    for (gfn_t pos = old->gfn, next; pos < end; pos = next) {
        size_t i = region_after(new, pos);
        const XmmuRegion *region = i < new->count ? &new->regions[i] : NULL;

        if (!region || region->gfn > pos) {
            next = region ? MIN(end, region->gfn) : end;
            zap_gfns(vm, as_id, old, pos, next - pos);
            changed = true;
            continue;
        }
        next = MIN(end, region->gfn + region->npages);
        if (!same_backing(old, region, pos)) {
            zap_gfns(vm, as_id, old, pos, next - pos);
            changed = true;
        } else if ((old->flags ^ region->flags) & XMMU_REGION_LOG_DIRTY) {
            changed |= resize_gfns(vm, as_id, region, pos, next - pos);
        }
    }
    return changed;
}

/* Whatever was zapped: an entry may have gone before for a reason of the guest's, or
 * to make room, while a vCPU still has cached what it said. */
static void flush_everyone(XmmuVm *vm)
{
    xmmu_write_lock(vm, XMMU_REASON_HOST);
    xmmu_flush_owe(&vm->writer);
    xmmu_write_unlock(vm);
}

static void slots_reclaim(XmmuRcuHead *head)
{
    g_free((char *)head - offsetof(XmmuSlots, rcu));
}

static XmmuSlots *slots_new(XmmuVm *vm, const XmmuRegion *regions, size_t count,
                            uint32_t generation)
{
    XmmuSlots *slots = xmmu_try_new0(vm->services, vm->opaque,
                                     sizeof(*slots) + count * sizeof(*regions));

    if (!slots) {
        return NULL;
    }
    slots->generation = generation;
    slots->count = count;
    if (count) {
        memcpy(slots->regions, regions, count * sizeof(*regions));
    }
    return slots;
}

/* slots_lock. */
static bool replace_slots(XmmuVm *vm, unsigned as_id, const XmmuRegion *regions,
                          size_t count)
{
    XmmuSlots *old = vm->slots[as_id];
    XmmuSlots *new = slots_new(vm, regions, count, old->generation + 1);
    XmmuDirtyChange dirty;
    bool changed = false;

    if (!new || !xmmu_dirty_prepare(vm, as_id, new, &dirty)) {
        g_free(new);
        return false;
    }
    xmmu_write_lock(vm, XMMU_REASON_SLICE);
    xmmu_dirty_begin(vm, &dirty);
    __atomic_store_n(&vm->slots[as_id], new, __ATOMIC_RELEASE);
    xmmu_write_unlock(vm);
    for (size_t i = 0; i < old->count; i++) {
        changed |= zap_changed(vm, as_id, &old->regions[i], new);
    }
    if (changed) {
        flush_everyone(vm);
    }
    xmmu_dirty_finish(vm, &dirty);
    xmmu_check_map_changed(vm);
    vm->services->rcu_call(&old->rcu, slots_reclaim);
    return true;
}

bool xmmu_vm_set_memory(XmmuVm *vm, unsigned as_id, const XmmuRegion *regions,
                        size_t count)
{
    bool done;

    pthread_mutex_lock(&vm->slots_lock);
    done = replace_slots(vm, as_id, regions, count);
    pthread_mutex_unlock(&vm->slots_lock);
    return done;
}

bool xmmu_slots_init(XmmuVm *vm)
{
    bool done = true;

    pthread_mutex_init(&vm->slots_lock, NULL);
    for (unsigned i = 0; i < XMMU_AS_COUNT; i++) {
        vm->slots[i] = slots_new(vm, NULL, 0, 1);
        done &= vm->slots[i] != NULL;
    }
    return done;
}

void xmmu_slots_cleanup(XmmuVm *vm)
{
    pthread_mutex_destroy(&vm->slots_lock);
    for (unsigned i = 0; i < XMMU_AS_COUNT; i++) {
        g_free(vm->slots[i]);
    }
}
