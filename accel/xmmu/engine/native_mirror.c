/*
 * xmmu native engine: the module's tables as a mirror of the core's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns which tables of the core have one in the module (XmmuMirrorTable), what the
 * module was last told of each entry, and the one place that tells it: submit().
 *
 * Noticing and telling are apart.  Noticing (the writer of entries, any thread, with
 * mmu_lock held) sets a bit for the entry and puts the table's number into a set.
 * Telling reads what such an entry says *now*, compares with what the module was told,
 * and makes one batch of the differences; so racing changes may come in any order and
 * as often as they like.  A table gets its counterpart when an entry that points to it
 * is told: XMMU_OP_NEW, then its entries, then the link.  It loses it when the core
 * gives the table back, after all that pointed to it has been told.
 *
 * Who finds nothing to be told still has to wait for who is telling: "submitted"
 * means that the module has answered.  Hence .telling, set before the set is emptied.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
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

/* ---- Noticing -------------------------------------------------------------------- */

static void notice(XmmuMirrorTable *t, unsigned index)
{
    xmmu_bit_add(&t->changed[index / 64], index);
    xmmu_id_set_add(&t->mirror->changed, t->id);
}

void xmmu_mirror_changed(XmmuTable *table, unsigned index)
{
    XmmuMirrorTable *t = __atomic_load_n(&table->mirror, __ATOMIC_ACQUIRE);

    notice(t, index);
}

/* Under the lock, so that who is telling can look at tables that are not gone. */
void xmmu_mirror_gone(XmmuTable *table)
{
    XmmuMirrorTable *t = __atomic_load_n(&table->mirror, __ATOMIC_ACQUIRE);
    XmmuMirror *mirror = t->mirror;

    pthread_mutex_lock(&mirror->lock);
    t->table = NULL;
    xmmu_id_set_add(&mirror->changed, t->id);
    pthread_mutex_unlock(&mirror->lock);
}

/* ---- Tables and their numbers -------------------------------------------------------- */

static XmmuMirrorTable *table_by_id(const XmmuMirror *mirror, uint32_t id)
{
    return id < mirror->tables->len ? g_ptr_array_index(mirror->tables, id) : NULL;
}

static bool take_id(XmmuMirror *mirror, uint32_t *id)
{
    guint spare = mirror->free_ids->len;

    if (spare) {
        *id = g_array_index(mirror->free_ids, uint32_t, spare - 1);
        g_array_set_size(mirror->free_ids, spare - 1);
        return true;
    }
    *id = mirror->tables->len;
    if (*id >= MIN(mirror->device->caps.max_tables, XMMU_ID_MAX)) {
        return false;
    }
    g_ptr_array_add(mirror->tables, NULL);
    return true;
}

static XmmuMirrorTable *new_table(XmmuMirror *mirror, uint8_t format, uint8_t level)
{
    XmmuMirrorTable *t = g_try_new0(XmmuMirrorTable, 1);

    if (!t || !take_id(mirror, &t->id)) {
        g_free(t);
        return NULL;
    }
    t->mirror = mirror;
    t->format = format;
    t->level = level;
    g_ptr_array_index(mirror->tables, t->id) = t;
    return t;
}

static void destroy_table(XmmuMirrorTable *t)
{
    XmmuMirror *mirror = t->mirror;

    g_ptr_array_index(mirror->tables, t->id) = NULL;
    g_array_append_val(mirror->free_ids, t->id);
    if (t->is_root) {
        g_ptr_array_remove_fast(mirror->roots, t);
    }
    g_free(t);
}

static unsigned entries_of(const XmmuMirrorTable *t)
{
    return t->format == XMMU_FORMAT_PAE ? 4 : XMMU_ENTRIES;
}

/* A PAE root has four entries; below it are tables as in long mode. */
static uint8_t format_for(const XmmuHostFormat *host, XmmuPageRole role)
{
    if (host == &xmmu_host_ept) {
        return XMMU_FORMAT_EPT;
    }
    if (host == &xmmu_host_npt) {
        return XMMU_FORMAT_NPT;
    }
    return role.pae_root ? XMMU_FORMAT_PAE : XMMU_FORMAT_LONG;
}

/* ---- Refusals ------------------------------------------------------------------------ */

G_GNUC_PRINTF(2, 3)
static void note_refusal(XmmuMirror *mirror, const char *format, ...)
{
    va_list args;

    mirror->refused = true;
    mirror->stats.refused++;
    if (!mirror->error) {
        va_start(args, format);
        mirror->error = g_strdup_vprintf(format, args);
        va_end(args);
    }
}

static void note_no_pin(XmmuMirror *mirror, hpa_t hpa, int err)
{
    struct rlimit limit = { .rlim_cur = RLIM_INFINITY };

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (err == ENOMEM && limit.rlim_cur != RLIM_INFINITY) {
        note_refusal(mirror, "guest memory cannot be pinned: the limit of locked memory, "
                     "%" PRIu64 " KiB (ulimit -l, RLIMIT_MEMLOCK), is too low, or the "
                     "host has no memory", (uint64_t)limit.rlim_cur >> 10);
    } else {
        note_refusal(mirror, "guest memory at 0x%" PRIx64 " cannot be pinned: %s", hpa,
                     g_strerror(err));
    }
}

/* A leaf was refused: is it only that it is too large? */
static bool too_large(const XmmuMirrorTable *t, int err)
{
    return t->level > XMMU_LEVEL_4K && err == EINVAL;
}

static void note_too_large(XmmuMirror *mirror, XmmuMirrorTable *t, unsigned index,
                           Told told)
{
    XmmuRamBlock *block = xmmu_ram_find(&mirror->ram, told & TOLD_ADDRESS);

    mirror->stats.not_huge++;
    if (block) {
        xmmu_ram_refused(block, told & TOLD_ADDRESS, t->level);
    }
    if (t->table && mirror->drops < HUGE_DROPS) {
        mirror->drop[mirror->drops++] = (HugeDrop) { t->table, index };
    }
}

/* ---- The batch -------------------------------------------------------------------------- */

static Told *told_of(const Step *step, const struct xmmu_entry *entry)
{
    return &step->table->told[entry->index];
}

static uint64_t leaf_size(const XmmuMirrorTable *t)
{
    return xmmu_level_pages(t->level) << XMMU_PAGE_SHIFT;
}

/* A leaf has gone that the hardware had set D in. */
static void tell_written(XmmuMirror *mirror, const XmmuMirrorTable *t, Told old)
{
    if (mirror->ops && mirror->ops->written) {
        mirror->ops->written(mirror->opaque, old & TOLD_ADDRESS, leaf_size(t));
    }
}

/* The module has carried out an operation. */
static void step_done(XmmuMirror *mirror, const Step *step, const struct xmmu_entry *entry)
{
    XmmuMirrorTable *t = step->table;
    Told *told;

    switch (entry->op) {
    case XMMU_OP_NEW:
        t->state = TABLE_KNOWN;
        mirror->stats.tables++;
        return;
    case XMMU_OP_FREE:
        mirror->stats.tables--;
        destroy_table(t);
        return;
    case XMMU_OP_HARVEST:
        return;
    }
    told = told_of(step, entry);
    if ((*told & TOLD_KIND) == TOLD_LEAF && entry->op != XMMU_OP_ACCESS &&
        (entry->was & XMMU_ACCESS_DIRTY)) {
        tell_written(mirror, t, *told);
    }
    *told = step->told;
}

/* Can the operation not succeed, because the table that it needs was refused? */
static bool is_moot(const XmmuMirror *mirror, const Step *step,
                    const struct xmmu_entry *entry)
{
    const XmmuMirrorTable *target;

    if (entry->op == XMMU_OP_NEW) {
        return false;
    }
    if (step->table->state == TABLE_UNKNOWN) {
        return true;
    }
    target = entry->op == XMMU_OP_LINK ? table_by_id(mirror, entry->target) : NULL;
    return target && target->state == TABLE_UNKNOWN;
}

static void say_refused(XmmuMirror *mirror, const Step *step,
                        const struct xmmu_entry *entry, int err)
{
    switch (entry->op) {
    case XMMU_OP_NEW:
        note_refusal(mirror, "the xmmu module makes no table: %s", g_strerror(err));
        break;
    case XMMU_OP_LEAF:
        if (err == EFAULT || err == ENOMEM) {
            note_no_pin(mirror, step->told & TOLD_ADDRESS, err);
            break;
        }
        /* fall through */
    default:
        note_refusal(mirror, "the xmmu module refuses operation %u on an entry: %s",
                     entry->op, g_strerror(err));
    }
}

/*
 * The module has refused an operation.  What the entry said before must not stay:
 * then the operation is changed to one that clears it.  Returns whether to go on with
 * it.
 */
static bool step_refused(XmmuMirror *mirror, Step *step, struct xmmu_entry *entry, int err)
{
    XmmuMirrorTable *t = step->table;

    switch (entry->op) {
    case XMMU_OP_NEW:
        t->state = TABLE_UNKNOWN;
        say_refused(mirror, step, entry, err);
        return false;
    case XMMU_OP_FREE:
        /* A vCPU has it as its root until it runs the next time. */
        g_ptr_array_add(mirror->gone, t);
        return false;
    case XMMU_OP_HARVEST:
        return false;
    }
    if (t->state != TABLE_KNOWN) {
        return false;           /* all of it is told when the table is announced again */
    }
    if (entry->op == XMMU_OP_LEAF && too_large(t, err)) {
        note_too_large(mirror, t, entry->index, step->told);
    } else {
        say_refused(mirror, step, entry, err);
    }
    notice(t, entry->index);
    if (entry->op == XMMU_OP_CLEAR) {
        __atomic_store_n(&mirror->broken, true, __ATOMIC_SEQ_CST);
        return false;
    }
    entry->op = XMMU_OP_CLEAR;
    entry->target = entry->access = 0;
    entry->page = 0;
    step->told = 0;
    return *told_of(step, entry);
}

/* One ioctl; returns how many operations were done, and in *@err why not all. */
static unsigned update(XmmuMirror *mirror, struct xmmu_entry *entries, unsigned count,
                       int *err)
{
    struct xmmu_update update = {
        .entries = (uintptr_t)entries,
        .count = count,
    };

    mirror->stats.updates++;
    mirror->stats.entries += count;
    if (!mirror->device->ops->ioctl(mirror->fd, XMMU_UPDATE, (uintptr_t)&update)) {
        *err = 0;
        return count;
    }
    *err = errno;
    return MIN(update.done, count);
}

/* One call, of at most @limit operations from @at on; returns where to go on.  *@limit:
 * for the next call. */
static unsigned execute_some(XmmuMirror *mirror, unsigned at, unsigned *limit)
{
    Batch *batch = mirror->batch;
    unsigned tried = MIN(*limit, batch->count - at), done;
    int err;

    *limit = XMMU_UPDATE_MAX;
    done = update(mirror, &batch->entry[at], tried, &err);
    for (unsigned i = at; i < at + done; i++) {
        step_done(mirror, &batch->step[i], &batch->entry[i]);
    }
    at += done;
    if (!err || done == tried) {
        return at;
    }
    if (!done && tried > 1) {
        *limit = 1;
        return at;
    }
    return at + !step_refused(mirror, &batch->step[at], &batch->entry[at], err);
}

/*
 * Let the module carry out the batch, all of it that it accepts.  When it refuses
 * everything at once (it has no memory for the list itself) the next operation is
 * tried alone, so that it is known which one it was.
 */
static void execute(XmmuMirror *mirror)
{
    Batch *batch = mirror->batch;
    unsigned at = 0, limit = XMMU_UPDATE_MAX;

    while (at < batch->count) {
        Step *step = &batch->step[at];
        struct xmmu_entry *entry = &batch->entry[at];

        if (is_moot(mirror, step, entry)) {
            at += !step_refused(mirror, step, entry, ENOENT);
        } else {
            at = execute_some(mirror, at, &limit);
        }
    }
    batch->count = 0;
}

static struct xmmu_entry *add_step(XmmuMirror *mirror, XmmuMirrorTable *t, Told told)
{
    Batch *batch = mirror->batch;
    struct xmmu_entry *entry;

    if (batch->count == XMMU_UPDATE_MAX) {
        execute(mirror);
    }
    batch->step[batch->count] = (Step) { t, told };
    entry = &batch->entry[batch->count++];
    *entry = (struct xmmu_entry) { .table = t->id };
    return entry;
}

/* ---- What an entry shall say --------------------------------------------------------------- */

static XmmuMirrorTable *announce(XmmuMirror *mirror, XmmuTable *table);

static uint32_t access_of(const XmmuHostFormat *format, XmmuSpte spte)
{
    uint8_t access = xmmu_spte_access(format, spte);
    bool ept = format == &xmmu_host_ept;
    uint32_t result = 0;

    /* In EPT what USER stands for is "readable", see types.h. */
    if (!ept || (access & XMMU_ACC_USER)) {
        result |= XMMU_ACCESS_READ;
    }
    if (access & XMMU_ACC_WRITE) {
        result |= XMMU_ACCESS_WRITE;
    }
    if (access & XMMU_ACC_EXEC) {
        result |= XMMU_ACCESS_EXEC;
    }
    if (format == &xmmu_host_legacy && (access & XMMU_ACC_USER)) {
        result |= XMMU_ACCESS_USER;
    }
    return result;
}

static Told told_leaf(const XmmuHostFormat *format, XmmuSpte spte)
{
    uint64_t pkey = format == &xmmu_host_legacy ? xmmu_spte_pkey(spte) : 0;

    return TOLD_LEAF | (uint64_t)access_of(format, spte) << TOLD_ACCESS_SHIFT |
           xmmu_spte_hpa(spte) | pkey << TOLD_PKEY_SHIFT;
}

static uint32_t access_told(Told told)
{
    return (told & TOLD_ACCESS_MASK) >> TOLD_ACCESS_SHIFT |
           (told >> TOLD_PKEY_SHIFT & 15) << XMMU_ACCESS_PKEY_SHIFT;
}

/* Nobody walks from it any more: an invalidated root, or an old generation's. */
static bool is_given_up(const XmmuMirrorTable *t)
{
    return t->given_up || !t->table;
}

/*
 * What the module shall be told of the entry, as it is now; a table that it points to
 * is announced first.  *@dirty: the core has D in it, so the hardware need not set it.
 */
static Told wanted(XmmuMirror *mirror, XmmuMirrorTable *t, unsigned index, bool *dirty)
{
    const XmmuHostFormat *format;
    XmmuMirrorTable *child;
    XmmuSpte spte;

    *dirty = false;
    if (is_given_up(t)) {
        return 0;
    }
    format = t->table->vm->format;
    spte = (XmmuSpte) { __atomic_load_n(&t->table->spt[index].raw, __ATOMIC_SEQ_CST) };
    if (!xmmu_spte_present(format, spte)) {
        return 0;
    }
    if (xmmu_spte_is_leaf(format, spte, t->table->role.level)) {
        *dirty = spte.raw & format->dirty;
        return told_leaf(format, spte);
    }
    child = announce(mirror, xmmu_table_at(xmmu_spte_hpa(spte)));
    if (!child) {
        notice(t, index);
        return 0;
    }
    return TOLD_LINK | (uint64_t)child->id << XMMU_PAGE_SHIFT;
}

static bool only_rights_differ(Told a, Told b)
{
    return (a & TOLD_KIND) == TOLD_LEAF && (b & TOLD_KIND) == TOLD_LEAF &&
           !((a ^ b) & TOLD_ADDRESS);
}

static void add_leaf(XmmuMirror *mirror, XmmuMirrorTable *t, unsigned index, Told now,
                     bool dirty)
{
    hpa_t hpa = now & TOLD_ADDRESS;
    const XmmuRamBlock *block = xmmu_ram_find(&mirror->ram, hpa);
    struct xmmu_entry *entry;

    if (!block) {
        /* Whoever made it a slot has not said that it is memory. */
        note_refusal(mirror, "guest memory at 0x%" PRIx64 " is not known to the xmmu "
                     "module", hpa);
        notice(t, index);
        if (t->told[index]) {
            entry = add_step(mirror, t, 0);
            entry->op = XMMU_OP_CLEAR;
            entry->index = index;
        }
        return;
    }
    entry = add_step(mirror, t, now);
    entry->op = XMMU_OP_LEAF;
    entry->index = index;
    entry->target = block->id;
    entry->page = (hpa - block->hpa) >> XMMU_PAGE_SHIFT;
    /* The hardware would set A with the first access, and nobody asks for it. */
    entry->access = access_told(now) | XMMU_ACCESS_ACCESSED |
                    (dirty ? XMMU_ACCESS_DIRTY : 0);
}

/* Put into the batch what makes the entry say what the core's says. */
static void bring_up_to_date(XmmuMirror *mirror, XmmuMirrorTable *t, unsigned index)
{
    bool dirty;
    Told now = wanted(mirror, t, index, &dirty), old = t->told[index];
    struct xmmu_entry *entry;

    /* Announcing a child may have sent the batch, and this table been refused. */
    if (now == old || t->state == TABLE_UNKNOWN) {
        return;
    }
    if ((now & TOLD_KIND) == TOLD_LEAF && !only_rights_differ(old, now)) {
        add_leaf(mirror, t, index, now, dirty);
        return;
    }
    entry = add_step(mirror, t, now);
    entry->index = index;
    if (!now) {
        entry->op = XMMU_OP_CLEAR;
    } else if ((now & TOLD_KIND) == TOLD_LINK) {
        entry->op = XMMU_OP_LINK;
        entry->target = now >> XMMU_PAGE_SHIFT;
    } else {
        entry->op = XMMU_OP_ACCESS;
        entry->access = access_told(now);
    }
}

/* Into the batch: a table that the module does not know, with all that is in it. */
static void announce_new(XmmuMirror *mirror, XmmuMirrorTable *t)
{
    struct xmmu_entry *entry = add_step(mirror, t, 0);

    entry->op = XMMU_OP_NEW;
    entry->index = t->level;
    entry->access = t->format;
    t->state = TABLE_ANNOUNCED;
    memset(t->told, 0, sizeof(t->told));
    for (unsigned i = 0; i < XMMU_ENTRIES / 64; i++) {
        __atomic_store_n(&t->changed[i], 0, __ATOMIC_SEQ_CST);
    }
    for (unsigned i = 0; t->table && i < entries_of(t); i++) {
        if (__atomic_load_n(&t->table->spt[i].raw, __ATOMIC_SEQ_CST)) {
            bring_up_to_date(mirror, t, i);
        }
    }
}

/*
 * The counterpart of @table, which an RCU read section keeps.  From the moment that
 * .mirror is set every change is noticed; what was there before is read after that.
 */
static XmmuMirrorTable *announce(XmmuMirror *mirror, XmmuTable *table)
{
    XmmuMirrorTable *t = table->mirror;

    if (!t) {
        t = new_table(mirror, format_for(table->vm->format, table->role),
                      table->role.level);
        if (!t) {
            note_refusal(mirror, "no memory, or no number, for another table");
            return NULL;
        }
        t->table = table;
        __atomic_store_n(&table->mirror, t, __ATOMIC_SEQ_CST);
    }
    if (t->state == TABLE_UNKNOWN) {
        announce_new(mirror, t);
    }
    return t->state == TABLE_UNKNOWN ? NULL : t;
}

/* ---- Submitting ------------------------------------------------------------------------------ */

static void clear_all(XmmuMirror *mirror, XmmuMirrorTable *t)
{
    for (unsigned i = 0; t->state != TABLE_UNKNOWN && i < entries_of(t); i++) {
        if (t->told[i]) {
            bring_up_to_date(mirror, t, i);
        }
    }
}

static void look_at_changed(XmmuMirror *mirror, XmmuMirrorTable *t)
{
    for (unsigned word = 0; word < XMMU_ENTRIES / 64; word++) {
        uint64_t bits = __atomic_exchange_n(&t->changed[word], 0, __ATOMIC_SEQ_CST);

        for (; bits; bits &= bits - 1) {
            bring_up_to_date(mirror, t, word * 64 + __builtin_ctzll(bits));
        }
    }
}

/* A table that is in the set of changed ones. */
static void visit(void *opaque, uint32_t id)
{
    XmmuMirror *mirror = opaque;
    XmmuMirrorTable *t = table_by_id(mirror, id);

    if (!t) {
        return;
    }
    if (t->table) {
        if (t->state != TABLE_UNKNOWN) {
            look_at_changed(mirror, t);
        }
    } else if (t->state == TABLE_UNKNOWN) {
        destroy_table(t);
    } else {
        clear_all(mirror, t);
        if (!t->listed) {
            t->listed = true;
            g_ptr_array_add(mirror->gone, t);
        }
        mirror->gone_tried = UINT64_MAX;
    }
}

/* Tables that the core has given back.  One that a vCPU has as its root cannot be freed
 * until that runs by another; so again when some vCPU has moved. */
static void free_gone(XmmuMirror *mirror)
{
    uint64_t moved = __atomic_load_n(&mirror->roots_moved, __ATOMIC_ACQUIRE);
    GPtrArray *list = mirror->gone;

    if (!list->len || mirror->gone_tried == moved) {
        return;
    }
    mirror->gone_tried = moved;
    mirror->gone = g_ptr_array_new();
    for (guint i = 0; i < list->len; i++) {
        add_step(mirror, g_ptr_array_index(list, i), 0)->op = XMMU_OP_FREE;
    }
    execute(mirror);
    g_ptr_array_free(list, true);
}

/* Take the way out of roots that the core has given up since they were last looked at:
 * what is below them is taken apart at leisure, and without a flush. */
static void empty_given_up_roots(XmmuMirror *mirror)
{
    for (guint i = 0; i < mirror->roots->len; i++) {
        XmmuMirrorTable *t = g_ptr_array_index(mirror->roots, i);

        if (t->table && !t->given_up && xmmu_table_stale(t->table)) {
            t->given_up = true;
            clear_all(mirror, t);
        }
    }
}

/* Under the lock and in an RCU read section. */
static void begin_telling(XmmuMirror *mirror)
{
    pthread_mutex_lock(&mirror->lock);
    mirror->services->rcu_read_lock();
    __atomic_store_n(&mirror->telling, true, __ATOMIC_SEQ_CST);
    mirror->drops = 0;
    mirror->refused = false;
    g_clear_pointer(&mirror->error, g_free);
}

static void end_telling(XmmuMirror *mirror)
{
    __atomic_store_n(&mirror->telling, false, __ATOMIC_SEQ_CST);
    mirror->services->rcu_read_unlock();
    pthread_mutex_unlock(&mirror->lock);
}

static void tell_all(XmmuMirror *mirror)
{
    __atomic_store_n(&mirror->broken, false, __ATOMIC_SEQ_CST);
    xmmu_id_set_take(&mirror->changed, visit, mirror);
    execute(mirror);
    free_gone(mirror);
}

bool xmmu_mirror_flush(XmmuMirror *mirror)
{
    bool good;

    begin_telling(mirror);
    empty_given_up_roots(mirror);
    tell_all(mirror);
    good = !mirror->refused;
    end_telling(mirror);
    return good;
}

bool xmmu_mirror_broken(const XmmuMirror *mirror)
{
    return __atomic_load_n(&mirror->broken, __ATOMIC_SEQ_CST);
}

/* ---- Roots ------------------------------------------------------------------------------------ */

static XmmuTable *good_root(XmmuVcpu *vcpu)
{
    XmmuTable *root = __atomic_load_n(&vcpu->mmu->root.table, __ATOMIC_ACQUIRE);

    return root && !xmmu_table_stale(root) ? root : NULL;
}

/* A table without entries, for a vCPU without a good root. */
static XmmuMirrorTable *empty_root(XmmuMirror *mirror, XmmuVcpu *vcpu)
{
    XmmuPageRole role = vcpu->mmu->root.role;
    uint8_t format = format_for(vcpu->vm->format, role);
    XmmuMirrorTable **t;

    if (role.level < 1 || role.level > XMMU_MAX_LEVEL) {
        note_refusal(mirror, "vCPU %u has no registers", vcpu->index);
        return NULL;
    }
    t = &mirror->empty[format][role.level];
    if (!*t) {
        *t = new_table(mirror, format, role.level);
    }
    if (*t && (*t)->state == TABLE_UNKNOWN) {
        announce_new(mirror, *t);
    }
    if (!*t) {
        note_refusal(mirror, "no memory, or no number, for another table");
    }
    return *t;
}

/* Under the lock.  Whoever gives a root up from here on finds it in .roots. */
static XmmuMirrorTable *take_root(XmmuMirror *mirror, XmmuVcpu *vcpu)
{
    XmmuTable *table = good_root(vcpu);
    XmmuMirrorTable *t = table ? announce(mirror, table) : empty_root(mirror, vcpu);

    execute(mirror);
    if (!t || t->state != TABLE_KNOWN) {
        return NULL;
    }
    if (table && !t->is_root) {
        g_ptr_array_add(mirror->roots, t);
        __atomic_store_n(&t->is_root, true, __ATOMIC_RELEASE);
    }
    if (table && xmmu_table_stale(table)) {
        return take_root(mirror, vcpu);         /* that will be an empty one */
    }
    return t;
}

/*
 * The run before this one has committed the root of then, so the one before that is
 * not in use by this vCPU any more; and that of then neither if this is the second
 * time with the present one.
 */
static void note_root(XmmuMirror *mirror, unsigned index, uint32_t id)
{
    VcpuRoot *v = &mirror->vcpu_root[index];
    bool moved = !v->set || v->id != id;

    if (moved || !v->settled) {
        __atomic_fetch_add(&mirror->roots_moved, 1, __ATOMIC_RELEASE);
    }
    *v = (VcpuRoot) { .set = true, .settled = !moved, .id = id };
}

/* Is there nothing to tell, and the vCPU's root known?  The set first: who tells says so
 * before he empties it. */
static bool nothing_to_tell(const XmmuMirror *mirror, XmmuVcpu *vcpu, uint32_t *root)
{
    XmmuTable *table = good_root(vcpu);
    XmmuMirrorTable *t = table ? __atomic_load_n(&table->mirror, __ATOMIC_ACQUIRE) : NULL;

    if (!t || !__atomic_load_n(&t->is_root, __ATOMIC_ACQUIRE)) {
        return false;
    }
    *root = t->id;
    return xmmu_id_set_empty(&mirror->changed) &&
           !__atomic_load_n(&mirror->telling, __ATOMIC_SEQ_CST);
}

/* Large leaves that the hardware cannot map go; the next fault makes small ones. */
static void drop_large(const HugeDrop *drop, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        xmmu_table_drop_large(drop[i].table, drop[i].index);
    }
}

/* Tell all; false: again. */
static bool enter_once(XmmuMirror *mirror, XmmuVcpu *vcpu, XmmuMirrorTable **root,
                       char **error)
{
    HugeDrop drop[HUGE_DROPS];
    unsigned drops;

    mirror->services->rcu_read_lock();          /* keeps what is in drop[] */
    begin_telling(mirror);
    tell_all(mirror);
    *root = take_root(mirror, vcpu);
    if (mirror->refused) {
        *root = NULL;
    }
    *error = *root ? NULL : g_steal_pointer(&mirror->error);
    drops = mirror->drops;
    memcpy(drop, mirror->drop, drops * sizeof(drop[0]));
    end_telling(mirror);
    drop_large(drop, drops);
    mirror->services->rcu_read_unlock();
    return !drops;
}

XmmuMirrorResult xmmu_mirror_enter(XmmuMirror *mirror, XmmuVcpu *vcpu, uint32_t *root,
                                   char **error)
{
    XmmuMirrorTable *t;

    g_assert(vcpu->index < mirror->device->caps.max_vcpus);
    if (!nothing_to_tell(mirror, vcpu, root)) {
        while (!enter_once(mirror, vcpu, &t, error)) {
            g_free(*error);
        }
        if (!t) {
            return XMMU_MIRROR_FAILED;
        }
        *root = t->id;
    }
    note_root(mirror, vcpu->index, *root);
    return XMMU_MIRROR_OK;
}

void xmmu_mirror_forget_vcpu(XmmuMirror *mirror, unsigned index)
{
    mirror->vcpu_root[index] = (VcpuRoot) { 0 };
    __atomic_fetch_add(&mirror->roots_moved, 1, __ATOMIC_RELEASE);
}

/* ---- What the hardware wrote ------------------------------------------------------------------- */

/* One chunk of at most XMMU_UPDATE_MAX; the batch is empty. */
static void harvest_some(XmmuMirror *mirror, XmmuHarvest *list, size_t count)
{
    XmmuHarvest *asked[XMMU_UPDATE_MAX];
    Batch *batch = mirror->batch;
    unsigned done, steps;
    int err;

    for (size_t i = 0; i < count; i++) {
        XmmuTable *table = xmmu_table_of(list[i].sptep);
        unsigned index = xmmu_spte_index(list[i].sptep);
        XmmuMirrorTable *t = table->mirror;
        struct xmmu_entry *entry;

        list[i].dirty = false;
        if (!t || t->state != TABLE_KNOWN || (t->told[index] & TOLD_KIND) != TOLD_LEAF) {
            continue;
        }
        asked[batch->count] = &list[i];
        entry = add_step(mirror, t, 0);
        entry->op = XMMU_OP_HARVEST;
        entry->index = index;
        entry->access = XMMU_ACCESS_DIRTY;
    }
    steps = batch->count;
    batch->count = 0;
    done = steps ? update(mirror, batch->entry, steps, &err) : 0;
    for (unsigned i = 0; i < steps; i++) {
        const XmmuMirrorTable *t = batch->step[i].table;
        Told told = t->told[batch->entry[i].index];

        asked[i]->dirty = i >= done || (batch->entry[i].was & XMMU_ACCESS_DIRTY);
        /* The entry may map another page by now: say it by the page too. */
        if (asked[i]->dirty) {
            tell_written(mirror, t, told);
        }
    }
}

void xmmu_mirror_harvest(XmmuMirror *mirror, XmmuHarvest *list, size_t count)
{
    begin_telling(mirror);
    tell_all(mirror);
    for (size_t i = 0; i < count; i += XMMU_UPDATE_MAX) {
        harvest_some(mirror, &list[i], MIN(count - i, XMMU_UPDATE_MAX));
    }
    end_telling(mirror);
}

/* ---- Guest memory -------------------------------------------------------------------------------- */

static bool set_region(XmmuMirror *mirror, const XmmuRamBlock *block, uint64_t pages)
{
    struct xmmu_region region = {
        .id = block->id,
        .flags = pages && block->readonly ? XMMU_REGION_RO : 0,
        .addr = pages ? block->hpa : 0,
        .pages = pages,
    };

    return !mirror->device->ops->ioctl(mirror->fd, XMMU_SET_REGION, (uintptr_t)&region);
}

static bool add_block(XmmuMirror *mirror, XmmuRamBlock *block, char **error)
{
    if (!set_region(mirror, block, block->size >> XMMU_PAGE_SHIFT)) {
        *error = g_strdup_printf("the xmmu module does not take guest memory at 0x%"
                                 PRIx64 ", 0x%" PRIx64 " bytes: %s", block->hpa,
                                 block->size, g_strerror(errno));
        return false;
    }
    if (!xmmu_ram_insert(&mirror->ram, block)) {
        set_region(mirror, block, 0);
        *error = g_strdup("no memory to describe guest memory");
        return false;
    }
    return true;
}

bool xmmu_mirror_add_ram(XmmuMirror *mirror, hpa_t hpa, uint64_t size,
                         uint64_t page_size, bool readonly, char **error)
{
    XmmuRamBlock *block;
    bool good = false;

    pthread_mutex_lock(&mirror->lock);
    block = xmmu_ram_new_block(&mirror->ram, hpa, size, error);
    if (block) {
        block->page_size = page_size;
        block->readonly = readonly;
        good = add_block(mirror, block, error);
        if (!good) {
            xmmu_ram_free_block(&mirror->ram, block);
        }
    }
    pthread_mutex_unlock(&mirror->lock);
    return good;
}

/* Under the lock. */
static bool remove_block(XmmuMirror *mirror, hpa_t hpa, char **error)
{
    XmmuRamBlock *block = xmmu_ram_find(&mirror->ram, hpa);

    if (!block || block->hpa != hpa) {
        *error = g_strdup_printf("no guest memory begins at 0x%" PRIx64, hpa);
        return false;
    }
    if (!set_region(mirror, block, 0)) {
        *error = g_strdup_printf("the xmmu module keeps guest memory at 0x%" PRIx64
                                 ": %s", hpa, g_strerror(errno));
        return false;
    }
    if (!xmmu_ram_remove(&mirror->ram, block)) {
        set_region(mirror, block, block->size >> XMMU_PAGE_SHIFT);
        *error = g_strdup("no memory to describe guest memory");
        return false;
    }
    return true;
}

bool xmmu_mirror_remove_ram(XmmuMirror *mirror, hpa_t hpa, char **error)
{
    bool good;

    begin_telling(mirror);
    empty_given_up_roots(mirror);
    tell_all(mirror);
    good = remove_block(mirror, hpa, error);
    end_telling(mirror);
    return good;
}

int xmmu_mirror_max_level(XmmuMirror *mirror, hpa_t hpa, int level)
{
    if (level > XMMU_LEVEL_2M && !(mirror->device->caps.features & XMMU_FEATURE_1G)) {
        level = XMMU_LEVEL_2M;
    }
    return xmmu_ram_max_level(&mirror->ram, hpa, level);
}

/* ---- Life ------------------------------------------------------------------------------------------ */

static void release(XmmuMirror *mirror)
{
    g_free(mirror->batch);
    g_free(mirror->vcpu_root);
    pthread_mutex_destroy(&mirror->lock);
    g_free(mirror);
}

/* What takes memory that may be short; NULL: none. */
static XmmuMirror *allocate(const XmmuDevice *device, const XmmuServices *services)
{
    XmmuMirror *mirror = g_try_new0(XmmuMirror, 1);

    if (!mirror) {
        return NULL;
    }
    pthread_mutex_init(&mirror->lock, NULL);
    mirror->batch = g_try_new0(Batch, 1);
    mirror->vcpu_root = g_try_new0(VcpuRoot, device->caps.max_vcpus);
    if (!mirror->batch || !mirror->vcpu_root ||
        !xmmu_id_set_init(&mirror->changed)) {
        release(mirror);
        return NULL;
    }
    if (!xmmu_ram_init(&mirror->ram, services, device->caps.max_regions)) {
        xmmu_id_set_cleanup(&mirror->changed);
        release(mirror);
        return NULL;
    }
    return mirror;
}

XmmuMirror *xmmu_mirror_new(XmmuDevice *device, const XmmuServices *services,
                            const XmmuMirrorOps *ops, void *opaque, char **error)
{
    XmmuMirror *mirror = allocate(device, services);

    if (!mirror) {
        *error = g_strdup("no memory for the native engine");
        return NULL;
    }
    mirror->device = device;
    mirror->services = services;
    mirror->ops = ops;
    mirror->opaque = opaque;
    mirror->tables = g_ptr_array_new();
    mirror->roots = g_ptr_array_new();
    mirror->gone = g_ptr_array_new();
    mirror->free_ids = g_array_new(false, false, sizeof(uint32_t));
    mirror->fd = xmmu_device_new_vm(device, error);
    if (mirror->fd < 0) {
        xmmu_mirror_free(mirror);
        return NULL;
    }
    return mirror;
}

void xmmu_mirror_free(XmmuMirror *mirror)
{
    if (mirror->fd >= 0) {
        mirror->device->ops->close(mirror->fd);
    }
    for (guint i = 0; i < mirror->tables->len; i++) {
        g_free(g_ptr_array_index(mirror->tables, i));
    }
    g_ptr_array_free(mirror->tables, true);
    g_ptr_array_free(mirror->roots, true);
    g_ptr_array_free(mirror->gone, true);
    g_array_free(mirror->free_ids, true);
    g_free(mirror->error);
    xmmu_ram_cleanup(&mirror->ram);
    xmmu_id_set_cleanup(&mirror->changed);
    release(mirror);
}

int xmmu_mirror_fd(const XmmuMirror *mirror)
{
    return mirror->fd;
}

void xmmu_mirror_stats(XmmuMirror *mirror, XmmuMirrorStats *out)
{
    pthread_mutex_lock(&mirror->lock);
    *out = mirror->stats;
    pthread_mutex_unlock(&mirror->lock);
}
