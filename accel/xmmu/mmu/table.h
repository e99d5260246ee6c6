/*
 * xmmu: table pages and the one writer of entries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A table page is 512 entries that an engine's hardware walks, plus a header for
 * us.  All entries change through xmmu_spte_set() or xmmu_spte_cmpxchg() (and the
 * hardware's own setting of A and D), which keep reverse maps, parent links,
 * counts and owed flushes.  Pages are freed after an RCU grace period.
 */
#ifndef XMMU_MMU_TABLE_H
#define XMMU_MMU_TABLE_H

#include <glib.h>
#include "arena.h"
#include "mmu.h"
#include "ptr_list.h"
#include "role.h"
#include "spte.h"

typedef struct XmmuTable XmmuTable;

struct XmmuTable {
    XmmuSpte *spt;              /* XMMU_ENTRIES entries, page aligned */
    XmmuPageRole role;
    gfn_t gfn;                  /* direct: first gfn mapped; else the guest table's */
    hfn_t hfn;                  /* indirect: host frame of the guest table */
    uint16_t present;           /* present entries */
    uint8_t guest_shift;        /* direct below a large guest page: its size */
    bool unlinked;              /* out of the hash: no new links, roots are stale */
    bool dead;                  /* and empty; only roots hold it */
    uint64_t generation;        /* of the VM, when it was made */

    /* Indirect tables, and the PDPTEs of a PAE root: the guest's entries as our
     * entries were made from them. */
    void *guest_copy;

    XmmuPtrList parents;        /* XmmuSpte * that point here */
    uint32_t root_refs;         /* cached roots that hold this table */
    XmmuTable *hash_next;
    XmmuTable *todo;            /* tables listed before they are handled */
    GList link;                 /* in XmmuVm.shadow_tables or .obsolete */

    /* Synchronisation with the guest table, see sync.c. */
    bool unsync;
    uint8_t flood;              /* tracked writes since last used */
    uint64_t protected_at;      /* flush clock; 0: may be writable */
    uint64_t filled_at;         /* fill clock when an entry was last put in */
    uint64_t linked_at;         /* fill clock when it was last linked */
    uint8_t waited;             /* comparisons since, waiting for others to flush */
    uint16_t unsync_children;
    uint64_t unsync_bitmap[XMMU_ENTRIES / 64];

    XmmuVm *vm;
    XmmuRcuHead rcu;
};

/* Bytes of guest entries that an indirect table of @role covers. */
size_t xmmu_guest_copy_size(XmmuPageRole role);
/* Where in the guest's table page these bytes start. */
size_t xmmu_guest_copy_offset(XmmuPageRole role);
/*
 * Entries of ours that one guest entry makes.  A 4-byte directory entry covers 4 MiB,
 * so two of our neighbours share it.
 */
static inline unsigned xmmu_entries_per_gpte(XmmuPageRole role)
{
    return role.gpte4 && role.level == XMMU_LEVEL_2M ? 2 : 1;
}
/* The first of our entries that share a guest entry with the one at @index. */
static inline unsigned xmmu_first_of_gpte(XmmuPageRole role, unsigned index)
{
    return index - index % xmmu_entries_per_gpte(role);
}
/* The copy of the guest entry that ours at @index is made from. */
XmmuGpte xmmu_table_gpte(const XmmuTable *table, unsigned index);
void xmmu_table_set_gpte(XmmuTable *table, unsigned index, XmmuGpte gpte);

/*
 * A table that shadows a guest table.  Guest writes can concern no other: write
 * detection takes this type, and a direct table cannot be made one.
 */
typedef struct XmmuIndirect {
    XmmuTable *table;           /* NULL: none */
} XmmuIndirect;

static inline XmmuIndirect xmmu_indirect(XmmuTable *table)
{
    g_assert(!table || !(table->role.direct || table->role.pae_root));
    return (XmmuIndirect) { table };
}

/* A new, empty, unlinked table; NULL when host memory ran out. */
XmmuTable *xmmu_table_new(XmmuVm *vm, gfn_t gfn, XmmuPageRole role);
/* Free after a grace period.  No entry of it may be present, nothing links to it. */
void xmmu_table_free(XmmuTable *table);
/* The table that contains @sptep, and the entry's index. */
XmmuTable *xmmu_table_of(const XmmuSpte *sptep);
static inline XmmuTable *xmmu_table_at(hpa_t hpa)
{
    return xmmu_table_of((const XmmuSpte *)(uintptr_t)hpa);
}
static inline unsigned xmmu_spte_index(const XmmuSpte *sptep)
{
    return ((uintptr_t)sptep & ~XMMU_PAGE_MASK) / sizeof(*sptep);
}
static inline hpa_t xmmu_table_hpa(const XmmuTable *table)
{
    return (uintptr_t)table->spt;
}

/* First gfn that the leaf at @index maps. */
gfn_t xmmu_table_leaf_gfn(const XmmuTable *table, unsigned index);

static inline XmmuSpte xmmu_spte_read(const XmmuSpte *sptep)
{
    return (XmmuSpte) { __atomic_load_n(&sptep->raw, __ATOMIC_ACQUIRE) };
}

/*
 * Change an entry.  mmu_lock for writing.  Hardware may set A and D until the
 * moment of change; they are not lost on a leaf that stays the same page.
 */
void xmmu_spte_set(XmmuTable *table, unsigned index, XmmuSpte value);
/*
 * Change an entry of a TDP table if it still is @old.  mmu_lock for reading or
 * writing.  False: it changed, look again.
 */
bool xmmu_spte_cmpxchg(XmmuTable *table, unsigned index, XmmuSpte old,
                       XmmuSpte value);

/* What the hardware does: set A or D in a present entry; false if it changed. */
bool xmmu_spte_set_bits(XmmuSpte *sptep, XmmuSpte old, uint64_t bits);

#endif /* XMMU_MMU_TABLE_H */
