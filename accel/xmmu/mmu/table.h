/*
 * xmmu: table pages and the one writer of entries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A table page is 512 entries that an engine's hardware walks, plus a header for
 * us.  Shadow entries change through xmmu_spte_set(), entries of TDP trees through
 * xmmu_tdp_set() and its kin (and all by the hardware's own setting of A and D).
 * These keep reverse maps, parent links, counts and owed flushes.  Pages are freed
 * when what was owed has been paid, after an RCU grace period.
 */
#ifndef XMMU_MMU_TABLE_H
#define XMMU_MMU_TABLE_H

#include <glib.h>
#include "arena.h"
#include "lock.h"
#include "mmu.h"
#include "ptr_list.h"
#include "role.h"
#include "spte.h"

/* Has the table to do with XmmuVm.nx? */
typedef enum XmmuNxState {
    XMMU_NX_STATE_NONE,
    XMMU_NX_STATE_LISTED,
    XMMU_NX_STATE_GONE,         /* unlinked: not ever again */
} XmmuNxState;

struct XmmuTable {
    XmmuSpte *spt;              /* XMMU_ENTRIES entries, page aligned */
    XmmuPageRole role;
    gfn_t gfn;                  /* direct: first gfn mapped; else the guest table's */
    hfn_t hfn;                  /* indirect: host frame of the guest table */
    uint16_t present;           /* present entries; not counted in TDP trees, where
                                   many threads install entries at once */
    uint8_t guest_shift;        /* direct below a large guest page: its size */
    bool unlinked;              /* atomic.  Shadow: out of the hash, no new links.
                                   TDP: an invalidated root, or a table that has
                                   lost its place.  Never cleared */
    bool dead;                  /* and empty; only roots hold it */
    bool referenced;            /* atomic: its root was loaded since it was looked at */
    uint64_t generation;        /* of the VM, when it was made */
    uint64_t used_by;           /* the last fault through it: XmmuVm.fault_serial; in
                                   TDP trees, atomic: XmmuVm.lru_epoch */

    /* Indirect tables, and the PDPTEs of a PAE root: the guest's entries as our
     * entries were made from them. */
    void *guest_copy;

    XmmuPtrList parents;        /* XmmuSpte * that point here */
    uint32_t root_refs;         /* who holds this as a root; atomic for TDP */

    /* TDP trees: set before the table is linked, never changed.  They say where the
     * table hung, also after it was removed; see xmmu_tdp_table_live(). */
    XmmuSpte *ptep;             /* the entry that points here; NULL: a root */
    XmmuTable *root;            /* of the tree; itself for a root */
    bool died_dirty;            /* some leaf below was dirty when it lost its place */
    XmmuNxState nx_state;       /* of the next; XmmuVm.nx has the lock */
    GList nx_link;              /* in XmmuVm.nx, see nx_huge.h */

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

    void *mirror;               /* atomic; what stands for it in tables of the kernel,
                                   see XmmuServices.entry_changed; NULL: nothing */
    XmmuVm *vm;
    XmmuTable *doomed_next;     /* in XmmuHold.doomed */
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

/* Bytes that a table of @role takes. */
size_t xmmu_table_bytes(XmmuPageRole role);
/* A new, empty, unlinked table; NULL when host memory ran out or would exceed the
 * limit. */
XmmuTable *xmmu_table_new(XmmuVm *vm, gfn_t gfn, XmmuPageRole role);
/* The same, for the root of a TDP tree, and for the place at @index of @parent in
 * one. */
XmmuTable *xmmu_table_new_tdp_root(XmmuHold *hold, XmmuPageRole role);
XmmuTable *xmmu_table_new_child(XmmuHold *hold, XmmuTable *parent, unsigned index);
/* A table that never was linked: free it at once, whatever entries it has. */
void xmmu_table_discard(XmmuHold *hold, XmmuTable *table);
/* Out of use: free it when the flush is paid and a grace period has gone by.
 * Nothing links to it and no entry of it is present.  mmu_lock for writing. */
void xmmu_table_free(XmmuTable *table);
/* @table is out of use, although a root may still hold it: not counted any more. */
void xmmu_table_uncount(XmmuHold *hold, XmmuTable *table);
/* The same for a table of a TDP tree, under either side. */
void xmmu_table_retire(XmmuHold *hold, XmmuTable *table);
/* The last step of both: what was owed has been paid. */
void xmmu_table_free_later(XmmuTable *table);
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

/* See the field. */
static inline bool xmmu_table_unlinked(const XmmuTable *table)
{
    return __atomic_load_n(&table->unlinked, __ATOMIC_ACQUIRE);
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
 * Entries of TDP trees.  Either side of mmu_lock; many threads may do this at once.
 *
 * xmmu_tdp_set() changes an entry that still is @old into @new, whatever the two
 * are; false: it is something else meanwhile (the hardware's A and D count), look
 * again.  @old is not frozen.
 *
 * When a table loses its place, all entries below it are frozen for good, so that
 * nobody can install anything in a table that nobody walks any more, and the tables
 * are freed when @hold's flush was paid.  When a leaf is replaced by a table that
 * maps the same pages with the same rights, nothing is owed.
 */
bool xmmu_tdp_set(XmmuHold *hold, XmmuTable *table, unsigned index, XmmuSpte old,
                  XmmuSpte new);
/*
 * Read an entry as it is when nobody works on it: waits while it is frozen, which
 * never is long.  False: it is frozen for good, @table has left the tree.
 */
bool xmmu_tdp_read(const XmmuTable *table, unsigned index, XmmuSpte *spte);
/*
 * For a change of several steps: keep others away from an entry that still is @old
 * (false: it is not).  They wait for the owner, so he must not yield, must not take
 * another lock that they may hold, and may freeze further entries only below this
 * one.  The hardware sees nothing present there meanwhile: what @old allowed is owed
 * a flush from then on.  Ends with xmmu_tdp_unfreeze(), which accounts for the change
 * from @old to @new.
 */
bool xmmu_tdp_freeze(XmmuHold *hold, XmmuTable *table, unsigned index, XmmuSpte old);
void xmmu_tdp_unfreeze(XmmuHold *hold, XmmuTable *table, unsigned index,
                       XmmuSpte old, XmmuSpte new);
/*
 * For a table that has lost its place: freeze an entry for good and account for
 * what it was.  Returns that; waits for another owner first.
 */
XmmuSpte xmmu_tdp_kill(XmmuHold *hold, XmmuTable *table, unsigned index);
/* Fill an entry of a new table that is not linked yet (not owed to anybody, not
 * seen by anybody).  The entry is empty; @value is a leaf. */
void xmmu_tdp_init(XmmuHold *hold, XmmuTable *table, unsigned index, XmmuSpte value);

/*
 * The hardware cannot map the leaf at @index, which is larger than 4 KiB: remove it.
 * The next fault asks XmmuServices.max_level.  Takes mmu_lock for writing; the caller's
 * RCU read section keeps @table.  Nothing happens if it is not such a leaf any more.
 */
void xmmu_table_drop_large(XmmuTable *table, unsigned index);

/* What the hardware does: set A or D in a present entry; false if it changed. */
bool xmmu_spte_set_bits(XmmuSpte *sptep, XmmuSpte old, uint64_t bits);

#endif /* XMMU_MMU_TABLE_H */
