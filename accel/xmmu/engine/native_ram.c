/*
 * xmmu native engine: guest memory as the module knows it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the map of RAM blocks: an immutable sorted array behind an RCU pointer, so that
 * faults look up a page without a lock.
 *
 * A leaf larger than 4 KiB needs host memory that is contiguous.  Whether it is, is
 * only known when the pages are pinned.  2 MiB are tried, as transparent huge pages
 * make them likely; 1 GiB only where the block's own pages are that large.  What was
 * refused is remembered: pinned pages do not become a huge page later.
 */
#include <glib.h>
#include <inttypes.h>
#include "native_ram.h"

#define HUGE_SHIFT 21

struct XmmuRamMap {
    XmmuRcuHead rcu;
    size_t count;
    XmmuRamBlock *block[];
};

bool xmmu_ram_init(XmmuRam *ram, const XmmuServices *services, uint32_t max_regions)
{
    ram->services = services;
    ram->max_regions = max_regions;
    ram->map = g_try_malloc0(sizeof(*ram->map));
    ram->ids = g_try_new0(uint64_t, (max_regions + 63) / 64);
    if (!ram->map || !ram->ids) {
        g_free(ram->map);
        g_free(ram->ids);
        return false;
    }
    return true;
}

static void destroy_block(XmmuRamBlock *block)
{
    g_free(block->not_huge);
    g_free(block);
}

void xmmu_ram_cleanup(XmmuRam *ram)
{
    for (size_t i = 0; i < ram->map->count; i++) {
        destroy_block(ram->map->block[i]);
    }
    g_free(ram->map);
    g_free(ram->ids);
}

/* ---- Finding ----------------------------------------------------------------- */

/* Index of the first block that ends behind @hpa. */
static size_t position(const XmmuRamMap *map, hpa_t hpa)
{
    size_t low = 0, high = map->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const XmmuRamBlock *block = map->block[middle];

        if (block->hpa + block->size <= hpa) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

XmmuRamBlock *xmmu_ram_find(const XmmuRam *ram, hpa_t hpa)
{
    const XmmuRamMap *map = __atomic_load_n(&ram->map, __ATOMIC_ACQUIRE);
    size_t i = position(map, hpa);

    return i < map->count && map->block[i]->hpa <= hpa ? map->block[i] : NULL;
}

/* ---- Changing ---------------------------------------------------------------- */

static void free_map(XmmuRcuHead *head)
{
    g_free((char *)head - offsetof(XmmuRamMap, rcu));
}

static void free_block(XmmuRcuHead *head)
{
    destroy_block((XmmuRamBlock *)((char *)head - offsetof(XmmuRamBlock, rcu)));
}

static void publish(XmmuRam *ram, XmmuRamMap *map)
{
    XmmuRamMap *old = ram->map;

    __atomic_store_n(&ram->map, map, __ATOMIC_RELEASE);
    ram->services->rcu_call(&old->rcu, free_map);
}

static XmmuRamMap *new_map(size_t count)
{
    XmmuRamMap *map = g_try_malloc0(sizeof(*map) + count * sizeof(map->block[0]));

    if (map) {
        map->count = count;
    }
    return map;
}

/* -1: all are in use. */
static int64_t take_id(XmmuRam *ram)
{
    for (uint32_t id = 0; id < ram->max_regions; id++) {
        uint64_t *word = &ram->ids[id / 64];
        uint64_t bit = (uint64_t)1 << (id % 64);

        if (!(*word & bit)) {
            *word |= bit;
            return id;
        }
    }
    return -1;
}

static bool overlaps(const XmmuRamMap *map, hpa_t hpa, uint64_t size)
{
    size_t i = position(map, hpa);

    return i < map->count && map->block[i]->hpa < hpa + size;
}

XmmuRamBlock *xmmu_ram_new_block(XmmuRam *ram, hpa_t hpa, uint64_t size, char **error)
{
    XmmuRamBlock *block;
    int64_t id;

    if (!size || ((hpa | size) & ~XMMU_PAGE_MASK) || hpa + size < hpa ||
        overlaps(ram->map, hpa, size)) {
        *error = g_strdup_printf("guest memory at 0x%" PRIx64 ", 0x%" PRIx64 " bytes, "
                                 "overlaps other memory or is not made of pages",
                                 hpa, size);
        return NULL;
    }
    block = g_try_new0(XmmuRamBlock, 1);
    if (block) {
        block->not_huge = g_try_new0(uint64_t, (size >> HUGE_SHIFT) / 64 + 1);
    }
    if (!block || !block->not_huge) {
        g_free(block);
        *error = g_strdup("no memory to describe guest memory");
        return NULL;
    }
    id = take_id(ram);
    if (id < 0) {
        destroy_block(block);
        *error = g_strdup_printf("guest memory is in more than %u parts",
                                 ram->max_regions);
        return NULL;
    }
    block->hpa = hpa;
    block->size = size;
    block->id = id;
    return block;
}

static void put_id(XmmuRam *ram, const XmmuRamBlock *block)
{
    ram->ids[block->id / 64] &= ~((uint64_t)1 << (block->id % 64));
}

void xmmu_ram_free_block(XmmuRam *ram, XmmuRamBlock *block)
{
    put_id(ram, block);
    destroy_block(block);
}

bool xmmu_ram_insert(XmmuRam *ram, XmmuRamBlock *block)
{
    XmmuRamMap *old = ram->map, *map = new_map(old->count + 1);
    size_t at = position(old, block->hpa);

    if (!map) {
        return false;
    }
    for (size_t i = 0; i < map->count; i++) {
        map->block[i] = i < at ? old->block[i] : i == at ? block : old->block[i - 1];
    }
    publish(ram, map);
    return true;
}

bool xmmu_ram_remove(XmmuRam *ram, XmmuRamBlock *block)
{
    XmmuRamMap *old = ram->map, *map = new_map(old->count - 1);
    size_t at = position(old, block->hpa);

    if (!map) {
        return false;
    }
    for (size_t i = 0; i < map->count; i++) {
        map->block[i] = old->block[i < at ? i : i + 1];
    }
    publish(ram, map);
    put_id(ram, block);
    ram->services->rcu_call(&block->rcu, free_block);
    return true;
}

/* ---- Huge pages -------------------------------------------------------------- */

/* Which 2 MiB of host addresses, counted from the block's first. */
static uint64_t huge_index(const XmmuRamBlock *block, hpa_t hpa)
{
    return (hpa >> HUGE_SHIFT) - (block->hpa >> HUGE_SHIFT);
}

/* Addresses that are not aligned in the block may touch one more than it has. */
static bool is_not_huge(const XmmuRamBlock *block, hpa_t hpa)
{
    uint64_t n = huge_index(block, hpa);

    if (n > block->size >> HUGE_SHIFT) {
        return true;
    }
    return __atomic_load_n(&block->not_huge[n / 64], __ATOMIC_RELAXED) >> (n % 64) & 1;
}

int xmmu_ram_max_level(const XmmuRam *ram, hpa_t hpa, int level)
{
    const XmmuRamBlock *block = xmmu_ram_find(ram, hpa);

    if (!block) {
        return XMMU_LEVEL_4K;
    }
    if (level > XMMU_LEVEL_2M &&
        block->page_size < xmmu_level_pages(XMMU_LEVEL_1G) << XMMU_PAGE_SHIFT) {
        level = XMMU_LEVEL_2M;
    }
    return level > XMMU_LEVEL_4K && is_not_huge(block, hpa) ? XMMU_LEVEL_4K : level;
}

void xmmu_ram_refused(XmmuRamBlock *block, hpa_t hpa, int level)
{
    uint64_t first = huge_index(block, hpa), count = xmmu_level_pages(level) / 512;

    for (uint64_t n = first; n < first + count && n <= block->size >> HUGE_SHIFT; n++) {
        __atomic_fetch_or(&block->not_huge[n / 64], (uint64_t)1 << (n % 64),
                          __ATOMIC_RELAXED);
    }
}
