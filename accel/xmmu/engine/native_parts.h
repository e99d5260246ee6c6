/*
 * xmmu native engine: the mirror as its parts see it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Private to native_mirror.c, native_tables.c, native_batch.c and native_roots.c.
 * Everything here is called with the mirror's lock held and in an RCU read section,
 * but for xmmu_mirror_notice().
 */
#ifndef XMMU_ENGINE_NATIVE_PARTS_H
#define XMMU_ENGINE_NATIVE_PARTS_H

#include "../mmu/vm.h"
#include "id_set.h"
#include "native_mirror.h"
#include "native_ram.h"

#define HUGE_DROPS 64           /* large leaves that one submit can find impossible */

/* What the module was told of an entry: one word, so that comparing is one. */
typedef uint64_t Told;

enum {
    TOLD_LEAF = 1,              /* host address in 12..51, XMMU_ACCESS_* | TOLD_ACCESS */
    TOLD_LINK = 2,              /* the table's number << 12 */
    TOLD_KIND = 3,
    TOLD_ACCESS_SHIFT = 2,      /* READ, WRITE, EXEC, USER */
    TOLD_PKEY_SHIFT = 52,
};
#define TOLD_ACCESS_MASK ((uint64_t)15 << TOLD_ACCESS_SHIFT)
#define TOLD_ADDRESS XMMU_HOST_ADDR_MASK

typedef enum TableState {
    TABLE_UNKNOWN,              /* to the module */
    TABLE_ANNOUNCED,            /* XMMU_OP_NEW is in the batch */
    TABLE_KNOWN,
} TableState;

/* What stands for a table of the core; the mirror's lock. */
typedef struct XmmuMirrorTable {
    XmmuMirror *mirror;
    XmmuTable *table;           /* NULL: gone, or never was (an empty root) */
    uint32_t id;
    uint8_t format, level;
    TableState state;
    bool is_root;               /* in .roots; atomic, as the next */
    bool given_up;              /* a root that the core does not walk any more: empty */
    bool listed;                /* in .gone */
    uint64_t in_batch;          /* the last batch that has operations on it */
    uint64_t changed[XMMU_ENTRIES / 64];        /* atomic; since it was looked at */
    Told told[XMMU_ENTRIES];
} XmmuMirrorTable;

/* An operation of the batch: whose, and what it makes true. */
typedef struct Step {
    XmmuMirrorTable *table;
    Told told;
} Step;

typedef struct Batch {
    struct xmmu_entry entry[XMMU_UPDATE_MAX];
    Step step[XMMU_UPDATE_MAX];
    unsigned count;
    uint64_t number;            /* of batches before this one, plus one */
} Batch;

typedef struct HugeDrop {
    XmmuTable *table;
    unsigned index;
} HugeDrop;

/* What a vCPU was told to run by; its thread. */
typedef struct VcpuRoot {
    bool set;
    bool settled;               /* the module has seen it */
    uint32_t id;
} VcpuRoot;

struct XmmuMirror {
    XmmuDevice *device;
    const XmmuServices *services;
    const XmmuMirrorOps *ops;
    void *opaque;
    int fd;

    XmmuIdSet changed;          /* tables with something to be told; no lock */
    bool telling;               /* atomic; somebody is at it */
    bool broken;                /* atomic; entries could not be taken away */
    uint64_t roots_moved;       /* atomic; counts moves of vCPUs between roots */
    VcpuRoot *vcpu_root;        /* by vCPU */

    pthread_mutex_t lock;       /* all below; innermost */
    Batch *batch;
    GPtrArray *tables;          /* XmmuMirrorTable by number, or NULL */
    GArray *free_ids;
    GPtrArray *roots;           /* those with .is_root */
    GPtrArray *gone;            /* to be freed in the module, as soon as it can be */
    uint64_t gone_tried;        /* .roots_moved when .gone was tried last */
    XmmuMirrorTable *empty[XMMU_FORMAT_COUNT][XMMU_MAX_LEVEL + 1];
    HugeDrop drop[HUGE_DROPS];
    unsigned drops;
    bool refused;               /* something, in this submit */
    char *error;                /* the first that was */
    XmmuRam ram;
    XmmuMirrorStats stats;
};

/* ---- native_mirror.c --------------------------------------------------------- */

/* The entry is not what it was, or the module refused it.  Any thread, no lock. */
static inline void xmmu_mirror_notice(XmmuMirrorTable *t, unsigned index)
{
    xmmu_bit_add(&t->changed[index / 64], index);
    xmmu_id_set_add(&t->mirror->changed, t->id);
}

/* Take the lock, to tell the module; and back. */
void xmmu_mirror_begin(XmmuMirror *mirror);
void xmmu_mirror_end(XmmuMirror *mirror);
/* Nothing is to be told, and nobody is telling anything. */
bool xmmu_mirror_settled(const XmmuMirror *mirror);
/* Tell what has changed so far, and free what has gone. */
void xmmu_mirror_tell_all(XmmuMirror *mirror);
/* Bytes that a leaf of @t maps. */
static inline uint64_t xmmu_mirror_leaf_size(const XmmuMirrorTable *t)
{
    return xmmu_level_pages(t->level) << XMMU_PAGE_SHIFT;
}

/* A leaf of @t that meant @old has gone, or lost D: the hardware had set it. */
void xmmu_mirror_tell_written(XmmuMirror *mirror, const XmmuMirrorTable *t, Told old);

/* ---- native_tables.c --------------------------------------------------------- */

/* NULL: the number is not in use. */
XmmuMirrorTable *xmmu_mirror_table(const XmmuMirror *mirror, uint32_t id);
/* A table that the module does not know yet; NULL: no memory, or no number. */
XmmuMirrorTable *xmmu_mirror_new_table(XmmuMirror *mirror, uint8_t format, uint8_t level);
void xmmu_mirror_destroy_table(XmmuMirrorTable *t);
uint8_t xmmu_mirror_format(const XmmuHostFormat *host, XmmuPageRole role);
/* Put into the batch what makes the entry say what the core's says now. */
void xmmu_mirror_bring_up_to_date(XmmuMirror *mirror, XmmuMirrorTable *t, unsigned index);
/* The same for all entries that the module knows of. */
void xmmu_mirror_look_at_all(XmmuMirror *mirror, XmmuMirrorTable *t);
/* Into the batch: a table that the module does not know, with all that is in it. */
void xmmu_mirror_announce_new(XmmuMirror *mirror, XmmuMirrorTable *t);
/* The counterpart of @table, which the module knows when the batch has been carried
 * out; NULL: refused. */
XmmuMirrorTable *xmmu_mirror_announce(XmmuMirror *mirror, XmmuTable *table);

/* ---- native_batch.c ---------------------------------------------------------- */

/* The first of these is what a vCPU that cannot go on is told. */
G_GNUC_PRINTF(2, 3)
void xmmu_mirror_refuse(XmmuMirror *mirror, const char *format, ...);
/* Room for an operation on @t, by which the entry comes to say @told. */
struct xmmu_entry *xmmu_mirror_add_step(XmmuMirror *mirror, XmmuMirrorTable *t,
                                        Told told);
/* Let the module carry out the batch, all of it that it accepts. */
void xmmu_mirror_execute(XmmuMirror *mirror);
/* One ioctl; returns how many operations were done, and in *@err why not all. */
unsigned xmmu_mirror_update(XmmuMirror *mirror, struct xmmu_entry *entries,
                            unsigned count, int *err);

#endif /* XMMU_ENGINE_NATIVE_PARTS_H */
