/*
 * xmmu native engine: guest memory as the module knows it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Which runs of host addresses (RAM blocks) are regions of the module, and which 2 MiB
 * of them cannot be mapped by one leaf.  Readers are in an RCU read section; who adds
 * or removes holds the mirror's lock.
 */
#ifndef XMMU_ENGINE_NATIVE_RAM_H
#define XMMU_ENGINE_NATIVE_RAM_H

#include <linux/xmmu.h>
#include "../mmu/mmu.h"

/* One RAM block; constant but for .not_huge. */
typedef struct XmmuRamBlock {
    hpa_t hpa;
    uint64_t size, page_size;
    uint32_t id;                /* of the region */
    bool readonly;
    uint64_t *not_huge;         /* atomic; a bit for each 2 MiB of host addresses */
    XmmuRcuHead rcu;
} XmmuRamBlock;

typedef struct XmmuRamMap XmmuRamMap;

typedef struct XmmuRam {
    const XmmuServices *services;
    XmmuRamMap *map;            /* RCU; sorted */
    uint32_t max_regions;
    uint64_t *ids;              /* a bit for each that is in use */
} XmmuRam;

/* False: no memory. */
bool xmmu_ram_init(XmmuRam *ram, const XmmuServices *services, uint32_t max_regions);
void xmmu_ram_cleanup(XmmuRam *ram);

/* The block that @hpa is in, or NULL. */
XmmuRamBlock *xmmu_ram_find(const XmmuRam *ram, hpa_t hpa);
/* A new block with an id that is free, not in the map yet; NULL: *@error. */
XmmuRamBlock *xmmu_ram_new_block(XmmuRam *ram, hpa_t hpa, uint64_t size, char **error);
/* Free one that is not in the map. */
void xmmu_ram_free_block(XmmuRam *ram, XmmuRamBlock *block);
/* Put a block into the map, or take it out and free it after a grace period.  False:
 * no memory. */
bool xmmu_ram_insert(XmmuRam *ram, XmmuRamBlock *block);
bool xmmu_ram_remove(XmmuRam *ram, XmmuRamBlock *block);

/* The largest level, at most @level, for a leaf that maps @hpa. */
int xmmu_ram_max_level(const XmmuRam *ram, hpa_t hpa, int level);
/* A leaf at @level over @hpa was refused: never again one that large. */
void xmmu_ram_refused(XmmuRamBlock *block, hpa_t hpa, int level);

#endif /* XMMU_ENGINE_NATIVE_RAM_H */
