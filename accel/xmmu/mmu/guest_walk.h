/*
 * xmmu: the walk of guest tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One walker for both users: the MMU (shadow paging), which reads guest tables
 * through the slots, and the hardware model (TDP), which reads them through TDP.
 */
#ifndef XMMU_MMU_GUEST_WALK_H
#define XMMU_MMU_GUEST_WALK_H

#include "role.h"
#include "walk_cache.h"

/* Where a guest table page is for the walker. */
typedef struct XmmuTablePage {
    uint8_t *host;              /* NULL: not RAM, entries are read from the bus */
    gpa_t bus;                  /* where there, if so */
    bool writable;              /* A and D may be set */
} XmmuTablePage;

/*
 * Finds the page with the entry at @gpa.  @write asks for a page whose A and D
 * bits can be set.  False: it cannot be had (out of memory); the walk ends in
 * XMMU_WALK_ABORTED.
 */
typedef bool XmmuTableMapFn(XmmuVcpu *vcpu, gpa_t gpa, bool write,
                            XmmuTablePage *page);

typedef enum XmmuWalkStatus {
    XMMU_WALK_OK,
    XMMU_WALK_FAULT,            /* exception is valid */
    XMMU_WALK_RACED,            /* the guest changed an entry meanwhile */
    XMMU_WALK_ABORTED,          /* the map function refused */
} XmmuWalkStatus;

typedef struct XmmuGuestWalk {
    /* Path, indexed by level from the root to .level.  Without paging: unused;
     * with a walk cache, levels above where the walk began are unused too. */
    XmmuGpte gpte[XMMU_MAX_LEVEL + 1];      /* as in memory after A/D updates */
    gfn_t table_gfn[XMMU_MAX_LEVEL + 1];    /* of the table with that entry */
    /* Access granted by the levels above the table at that level. */
    uint8_t table_access[XMMU_MAX_LEVEL + 1];
    bool uncached;              /* a table of the path is not RAM */
    uint8_t level;              /* of the leaf; 0 without paging */
    uint8_t page_shift;         /* size of the guest page */
    /* XMMU_ACC_* of the whole path; after a fault, of the path to there: nothing
     * if an entry is not present. */
    uint8_t access;
    uint8_t pkey;
    bool dirty;                 /* the leaf's D bit is set */
    gpa_t gpa;                  /* of the byte accessed, A20 applied */
    XmmuException exception;
} XmmuGuestWalk;

/*
 * Walk for @access under the registers of @mmu.  Sets A bits, and D for a write, when
 * the access is allowed.  @cache may be NULL.  Lock-free; needs an RCU read section.
 */
XmmuWalkStatus xmmu_guest_walk(XmmuMmu *mmu, const XmmuAccess *access,
                               XmmuTableMapFn *map, XmmuWalkCache *cache,
                               XmmuGuestWalk *walk);

/* What the guest allows at the end of @walk, for the privilege of @access: a set
 * of XMMU_PROT_*.  A write needs D: it is only included when D is set. */
uint8_t xmmu_guest_prot(const XmmuMmu *mmu, const XmmuAccess *access,
                        const XmmuGuestWalk *walk);

/* Follow present entries only; nothing is checked or set. */
bool xmmu_guest_walk_debug(XmmuMmu *mmu, gva_t gva, XmmuTableMapFn *map,
                           gpa_t *gpa);

/* Page @gpa through the slots. */
bool xmmu_map_through_slots(XmmuVcpu *vcpu, gpa_t gpa, bool write,
                            XmmuTablePage *page);

/* The rights that one guest entry adds to its path. */
uint8_t xmmu_gpte_access(XmmuGpte gpte);
uint8_t xmmu_epte_access(XmmuGpte epte);

/* Frame of the page that a leaf @gpte at @level maps, the low bits of @gva not
 * included. */
gpa_t xmmu_gpte_frame(const XmmuMasks *masks, XmmuGpte gpte, int level);

#endif /* XMMU_MMU_GUEST_WALK_H */
