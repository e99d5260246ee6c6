/*
 * xmmu: the checker's model
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Shared by check.c and check_vcpu.c only.  Everything is under XmmuCheck.lock, which
 * is taken last and held for a few instructions.
 *
 * Time is a counter, seq: it moves when a page is released and when an entry has lost
 * a right (after all that depends on it was told).  What carries an older time was
 * made before.
 */
#ifndef XMMU_MMU_CHECK_MODEL_H
#define XMMU_MMU_CHECK_MODEL_H

#include <pthread.h>
#include "check.h"
#include "vm.h"

typedef enum PageState { PAGE_LIVE, PAGE_RELEASED, PAGE_FREE } PageState;

/* A table page.  Identity and entries as the core said they are. */
typedef struct CheckPage {
    PageState state;
    hpa_t hpa;
    XmmuTable *table;
    uint32_t role;
    gfn_t gfn;
    uint64_t released;          /* seq */
    unsigned present;
    bool touched;               /* in XmmuCheck.touched */
    uint64_t entry[XMMU_ENTRIES];
    uint64_t lost[XMMU_ENTRIES];        /* seq when it was told that it lost a right */
    uint64_t changed[XMMU_ENTRIES];     /* seq when it lost it */
} CheckPage;

struct XmmuCheck {
    pthread_mutex_t lock;       /* not GMutex: ThreadSanitizer does not see those */
    uint64_t seq;
    uint64_t slice_lost;        /* seq of the last loss in a slice of a larger change */
    uint64_t ordered;           /* seq of the last order to flush */
    GHashTable *pages;          /* hpa -> CheckPage */
    GPtrArray *touched;         /* pages written since the last look at their counts */
    GHashTable *synced;         /* hfn -> number of tables that believe in protection */
    GPtrArray *vcpus;           /* XmmuCheckVcpu */
    uint64_t leaves[XMMU_MAX_LEVEL + 1];
    unsigned live;
};

/* What a vCPU may have cached of the guest's address space. */
typedef struct Held {
    uint64_t page;              /* gva >> 12 */
    hpa_t hpa;
    uint8_t mode;               /* user, smap_off */
    uint8_t prot, page_shift;
    uint64_t made;              /* seq */
    unsigned steps;
    hpa_t path[XMMU_MAX_LEVEL]; /* of the entries that led there */
} Held;

/* Where an entry of the nested TLB came from. */
typedef struct HeldNested {
    hpa_t sptep;
    uint64_t made;
} HeldNested;

struct XmmuCheckVcpu {
    XmmuVcpu *vcpu;
    bool walking;
    uint64_t start;             /* seq when the walk began */
    uint64_t accepted;          /* seq of the last flush */
    GHashTable *held;           /* Held -> itself */
    HeldNested nested[XMMU_NESTED_TLB_SIZE];
    unsigned steps;             /* of the walk under way */
    int level;                  /* of its last step */
    hpa_t path[XMMU_MAX_LEVEL];
};

/* Print @what, the page and every vCPU, and abort.  @page may be NULL. */
void xmmu_check_stop(XmmuVm *vm, const CheckPage *page, const char *what, ...)
    G_GNUC_PRINTF(3, 4) G_GNUC_NORETURN;
void xmmu_check_print_vcpu(const XmmuCheckVcpu *cv);

/* NULL: never a table page. */
CheckPage *xmmu_check_page(XmmuCheck *check, const void *sptep);
/* The entry at @sptep is what the writer left there, A and D aside. */
void xmmu_check_entry(XmmuVm *vm, const CheckPage *page, unsigned index);
void xmmu_check_identity(XmmuVm *vm, const CheckPage *page);

static inline void xmmu_check_lock(XmmuCheck *check)
{
    pthread_mutex_lock(&check->lock);
}

static inline void xmmu_check_release(XmmuCheck *check)
{
    pthread_mutex_unlock(&check->lock);
}

#endif /* XMMU_MMU_CHECK_MODEL_H */
