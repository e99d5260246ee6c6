/*
 * xmmu: paging-structure caches
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what a vCPU of the hardware model remembers of the upper levels of the
 * guest's tables, as CPUs do (Intel SDM vol. 3, 4.10.3): where the level-1 or
 * level-2 table for an address is, and what the path to it grants.  A walk then
 * reads one or two entries instead of four or five.
 *
 * Such caches are dropped as a whole by whatever flushes translations, INVLPG of
 * any address included (4.10.4.1).  The guest knows these rules; what it must not
 * see is an exception from a stale path, so a walk that began in the cache and
 * did not end well is repeated from the top (guest_walk.c).
 *
 * Only the vCPU's thread uses it.
 */
#ifndef XMMU_MMU_WALK_CACHE_H
#define XMMU_MMU_WALK_CACHE_H

#include "types.h"

#define XMMU_WALK_CACHE_LEVELS 2
#define XMMU_WALK_CACHE_SIZE   64

typedef struct XmmuWalkCacheEntry {
    uint64_t region;            /* address >> what one table at this level maps */
    gpa_t table;
    uint32_t epoch;
    uint8_t access;             /* XMMU_ACC_* of the levels above the table */
} XmmuWalkCacheEntry;

typedef struct XmmuWalkCache {
    uint32_t epoch;             /* of entries that are good; never 0 once used */
    XmmuWalkCacheEntry entry[XMMU_WALK_CACHE_LEVELS][XMMU_WALK_CACHE_SIZE];
} XmmuWalkCache;

/* Drop everything. */
void xmmu_walk_cache_flush(XmmuWalkCache *cache);

static inline XmmuWalkCacheEntry *xmmu_walk_cache_slot(XmmuWalkCache *cache,
                                                       int level, uint64_t region)
{
    return &cache->entry[level - 1][region % XMMU_WALK_CACHE_SIZE];
}

/* The table at @level for @region, or NULL. */
static inline const XmmuWalkCacheEntry *
xmmu_walk_cache_find(XmmuWalkCache *cache, int level, uint64_t region)
{
    XmmuWalkCacheEntry *entry = xmmu_walk_cache_slot(cache, level, region);

    return entry->epoch == cache->epoch && entry->region == region ? entry : NULL;
}

static inline void xmmu_walk_cache_insert(XmmuWalkCache *cache, int level,
                                          uint64_t region, gpa_t table,
                                          uint8_t access)
{
    *xmmu_walk_cache_slot(cache, level, region) = (XmmuWalkCacheEntry) {
        .region = region,
        .table = table,
        .epoch = cache->epoch,
        .access = access,
    };
}

#endif /* XMMU_MMU_WALK_CACHE_H */
