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
#include "native_parts.h"

/* ---- Noticing ---------------------------------------------------------------- */

void xmmu_mirror_changed(XmmuTable *table, unsigned index)
{
    XmmuMirrorTable *t = __atomic_load_n(&table->mirror, __ATOMIC_ACQUIRE);

    xmmu_mirror_notice(t, index);
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

/* ---- Submitting -------------------------------------------------------------- */

static void look_at_changed(XmmuMirror *mirror, XmmuMirrorTable *t)
{
    for (unsigned word = 0; word < XMMU_ENTRIES / 64; word++) {
        uint64_t bits = __atomic_exchange_n(&t->changed[word], 0, __ATOMIC_SEQ_CST);

        for (; bits; bits &= bits - 1) {
            xmmu_mirror_bring_up_to_date(mirror, t, word * 64 + __builtin_ctzll(bits));
        }
    }
}

/* A table that is in the set of changed ones. */
static void visit(void *opaque, uint32_t id)
{
    XmmuMirror *mirror = opaque;
    XmmuMirrorTable *t = xmmu_mirror_table(mirror, id);

    if (!t) {
        return;
    }
    /* Announced a moment ago, and changed since: what the batch makes true is not in
     * .told yet, and an entry that is empty again would seem never to have been told. */
    if (t->in_batch == mirror->batch->number) {
        xmmu_mirror_execute(mirror);
    }
    if (t->table) {
        if (t->state != TABLE_UNKNOWN) {
            look_at_changed(mirror, t);
        }
    } else if (t->state == TABLE_UNKNOWN) {
        xmmu_mirror_destroy_table(t);
    } else {
        xmmu_mirror_look_at_all(mirror, t);
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
        xmmu_mirror_add_step(mirror, g_ptr_array_index(list, i), 0)->op = XMMU_OP_FREE;
    }
    xmmu_mirror_execute(mirror);
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
            xmmu_mirror_look_at_all(mirror, t);
        }
    }
}

/* Under the lock and in an RCU read section. */
void xmmu_mirror_begin(XmmuMirror *mirror)
{
    pthread_mutex_lock(&mirror->lock);
    mirror->services->rcu_read_lock();
    __atomic_store_n(&mirror->telling, true, __ATOMIC_SEQ_CST);
    mirror->drops = 0;
    mirror->refused = false;
    g_clear_pointer(&mirror->error, g_free);
}

void xmmu_mirror_end(XmmuMirror *mirror)
{
    __atomic_store_n(&mirror->telling, false, __ATOMIC_SEQ_CST);
    mirror->services->rcu_read_unlock();
    pthread_mutex_unlock(&mirror->lock);
}

void xmmu_mirror_tell_all(XmmuMirror *mirror)
{
    __atomic_store_n(&mirror->broken, false, __ATOMIC_SEQ_CST);
    xmmu_id_set_take(&mirror->changed, visit, mirror);
    xmmu_mirror_execute(mirror);
    free_gone(mirror);
}

/* The set first: who tells says so before he empties it. */
bool xmmu_mirror_settled(const XmmuMirror *mirror)
{
    return xmmu_id_set_empty(&mirror->changed) &&
           !__atomic_load_n(&mirror->telling, __ATOMIC_SEQ_CST);
}

bool xmmu_mirror_submit(XmmuMirror *mirror)
{
    bool good;

    if (xmmu_mirror_settled(mirror)) {
        return true;
    }
    xmmu_mirror_begin(mirror);
    xmmu_mirror_tell_all(mirror);
    good = !mirror->refused;
    xmmu_mirror_end(mirror);
    return good;
}

bool xmmu_mirror_flush(XmmuMirror *mirror)
{
    bool good;

    xmmu_mirror_begin(mirror);
    empty_given_up_roots(mirror);
    xmmu_mirror_tell_all(mirror);
    good = !mirror->refused;
    xmmu_mirror_end(mirror);
    return good;
}

bool xmmu_mirror_broken(const XmmuMirror *mirror)
{
    return __atomic_load_n(&mirror->broken, __ATOMIC_SEQ_CST);
}

/* ---- What the hardware wrote ------------------------------------------------- */

void xmmu_mirror_tell_written(XmmuMirror *mirror, const XmmuMirrorTable *t, Told old)
{
    if (mirror->ops && mirror->ops->written) {
        mirror->ops->written(mirror->opaque, old & TOLD_ADDRESS,
                             xmmu_mirror_leaf_size(t));
    }
}

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
        entry = xmmu_mirror_add_step(mirror, t, 0);
        entry->op = XMMU_OP_HARVEST;
        entry->index = index;
        entry->access = XMMU_ACCESS_DIRTY;
    }
    steps = batch->count;
    batch->count = 0;
    done = steps ? xmmu_mirror_update(mirror, batch->entry, steps, &err) : 0;
    for (unsigned i = 0; i < steps; i++) {
        const XmmuMirrorTable *t = batch->step[i].table;
        Told told = t->told[batch->entry[i].index];

        asked[i]->dirty = i >= done || (batch->entry[i].was & XMMU_ACCESS_DIRTY);
        /* The entry may map another page by now: say it by the page too. */
        if (asked[i]->dirty) {
            xmmu_mirror_tell_written(mirror, t, told);
        }
    }
}

void xmmu_mirror_harvest(XmmuMirror *mirror, XmmuHarvest *list, size_t count)
{
    xmmu_mirror_begin(mirror);
    xmmu_mirror_tell_all(mirror);
    for (size_t i = 0; i < count; i += XMMU_UPDATE_MAX) {
        harvest_some(mirror, &list[i], MIN(count - i, XMMU_UPDATE_MAX));
    }
    xmmu_mirror_end(mirror);
}

/* ---- Guest memory ------------------------------------------------------------ */

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

    xmmu_mirror_begin(mirror);
    empty_given_up_roots(mirror);
    xmmu_mirror_tell_all(mirror);
    good = remove_block(mirror, hpa, error);
    xmmu_mirror_end(mirror);
    return good;
}

int xmmu_mirror_max_level(XmmuMirror *mirror, hpa_t hpa, int level)
{
    if (level > XMMU_LEVEL_2M && !(mirror->device->caps.features & XMMU_FEATURE_1G)) {
        level = XMMU_LEVEL_2M;
    }
    return xmmu_ram_max_level(&mirror->ram, hpa, level);
}

/* ---- Life -------------------------------------------------------------------- */

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
    mirror->batch->number = 1;
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
    out->table_bytes = (mirror->tables->len - mirror->free_ids->len) *
                       sizeof(XmmuMirrorTable);
    pthread_mutex_unlock(&mirror->lock);
}
