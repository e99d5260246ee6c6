/*
 * xmmu native engine: operations for the module, and its refusals
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the batch: what is in it, who it is carried out by, and what is believed of the
 * module after that.  An operation that is refused leaves its entry noticed, so that it
 * is tried again; what the entry said before is taken away in any case.
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/resource.h>
#include "native_parts.h"

/* ---- Refusals ---------------------------------------------------------------- */

G_GNUC_PRINTF(2, 3)
void xmmu_mirror_refuse(XmmuMirror *mirror, const char *format, ...)
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
        xmmu_mirror_refuse(mirror, "guest memory cannot be pinned: the limit of locked "
                           "memory, %" PRIu64 " KiB (ulimit -l, RLIMIT_MEMLOCK), is too "
                           "low, or the host has no memory",
                           (uint64_t)limit.rlim_cur >> 10);
    } else {
        xmmu_mirror_refuse(mirror, "guest memory at 0x%" PRIx64 " cannot be pinned: %s",
                           hpa, g_strerror(err));
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

/* ---- The batch --------------------------------------------------------------- */

static Told *told_of(const Step *step, const struct xmmu_entry *entry)
{
    return &step->table->told[entry->index];
}

static bool may_write(Told told)
{
    return (told & TOLD_KIND) == TOLD_LEAF &&
           (told & (uint64_t)XMMU_ACCESS_WRITE << TOLD_ACCESS_SHIFT);
}

/* The leaf that the entry was had D. */
static void tell_d(XmmuMirror *mirror, const Step *step, const struct xmmu_entry *entry,
                   Told old)
{
    const XmmuMirrorOps *ops = mirror->ops;

    if (entry->op != XMMU_OP_ACCESS) {
        xmmu_mirror_tell_written(mirror, step->table, old);
    } else if (may_write(old) && !may_write(step->told) && ops && ops->written_before) {
        ops->written_before(mirror->opaque, old & TOLD_ADDRESS,
                            xmmu_mirror_leaf_size(step->table));
    }
}

/* The module has carried out an operation. */
static void step_done(XmmuMirror *mirror, const Step *step,
                      const struct xmmu_entry *entry)
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
        xmmu_mirror_destroy_table(t);
        return;
    case XMMU_OP_HARVEST:
        return;
    }
    told = told_of(step, entry);
    if ((*told & TOLD_KIND) == TOLD_LEAF && (entry->was & XMMU_ACCESS_DIRTY)) {
        tell_d(mirror, step, entry, *told);
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
    target = entry->op == XMMU_OP_LINK ? xmmu_mirror_table(mirror, entry->target) : NULL;
    return target && target->state == TABLE_UNKNOWN;
}

static void say_refused(XmmuMirror *mirror, const Step *step,
                        const struct xmmu_entry *entry, int err)
{
    switch (entry->op) {
    case XMMU_OP_NEW:
        xmmu_mirror_refuse(mirror, "the xmmu module makes no table: %s", g_strerror(err));
        break;
    case XMMU_OP_LEAF:
        if (err == EFAULT || err == ENOMEM) {
            note_no_pin(mirror, step->told & TOLD_ADDRESS, err);
            break;
        }
        /* fall through */
    default:
        xmmu_mirror_refuse(mirror, "the xmmu module refuses operation %u on an entry: %s",
                           entry->op, g_strerror(err));
    }
}

/* It stays, and D with it, until the module clears it after all; who looks at the log of
 * writes before that must not miss a page. */
static void cannot_clear(XmmuMirror *mirror, const XmmuMirrorTable *t, Told told)
{
    if (may_write(told)) {
        xmmu_mirror_tell_written(mirror, t, told);
    }
    __atomic_store_n(&mirror->broken, true, __ATOMIC_SEQ_CST);
}

/*
 * The module has refused an operation.  What the entry said before must not stay:
 * then the operation is changed to one that clears it.  Returns whether to go on with
 * it.
 */
static bool step_refused(XmmuMirror *mirror, Step *step, struct xmmu_entry *entry,
                         int err)
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
    xmmu_mirror_notice(t, entry->index);
    if (entry->op == XMMU_OP_CLEAR) {
        cannot_clear(mirror, t, *told_of(step, entry));
        return false;
    }
    entry->op = XMMU_OP_CLEAR;
    entry->target = entry->access = 0;
    entry->page = 0;
    step->told = 0;
    return *told_of(step, entry);
}

/* One ioctl; returns how many operations were done, and in *@err why not all. */
unsigned xmmu_mirror_update(XmmuMirror *mirror, struct xmmu_entry *entries,
                            unsigned count, int *err)
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
    done = xmmu_mirror_update(mirror, &batch->entry[at], tried, &err);
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
void xmmu_mirror_execute(XmmuMirror *mirror)
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
    batch->number++;
}

struct xmmu_entry *xmmu_mirror_add_step(XmmuMirror *mirror, XmmuMirrorTable *t, Told told)
{
    Batch *batch = mirror->batch;
    struct xmmu_entry *entry;

    if (batch->count == XMMU_UPDATE_MAX) {
        xmmu_mirror_execute(mirror);
    }
    t->in_batch = batch->number;
    batch->step[batch->count] = (Step) { t, told };
    entry = &batch->entry[batch->count++];
    *entry = (struct xmmu_entry) { .table = t->id };
    return entry;
}
