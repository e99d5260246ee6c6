/*
 * xmmu native engine: tables of the module, and what their entries shall say
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns which tables of the core have one in the module, their numbers, and the
 * translation of an entry of the core's into one word (Told), which is compared with
 * what the module was last told.
 */
#include <inttypes.h>
#include <string.h>
#include "native_parts.h"

/* ---- Tables and their numbers ------------------------------------------------ */

XmmuMirrorTable *xmmu_mirror_table(const XmmuMirror *mirror, uint32_t id)
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

XmmuMirrorTable *xmmu_mirror_new_table(XmmuMirror *mirror, uint8_t format, uint8_t level)
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

void xmmu_mirror_destroy_table(XmmuMirrorTable *t)
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
uint8_t xmmu_mirror_format(const XmmuHostFormat *host, XmmuPageRole role)
{
    if (host == &xmmu_host_ept) {
        return XMMU_FORMAT_EPT;
    }
    if (host == &xmmu_host_npt) {
        return XMMU_FORMAT_NPT;
    }
    return role.pae_root ? XMMU_FORMAT_PAE : XMMU_FORMAT_LONG;
}

/* ---- What an entry shall say ------------------------------------------------- */

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
    child = xmmu_mirror_announce(mirror, xmmu_table_at(xmmu_spte_hpa(spte)));
    if (!child) {
        xmmu_mirror_notice(t, index);
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
        xmmu_mirror_refuse(mirror, "guest memory at 0x%" PRIx64 " is not known to the "
                           "xmmu module", hpa);
        xmmu_mirror_notice(t, index);
        if (t->told[index]) {
            entry = xmmu_mirror_add_step(mirror, t, 0);
            entry->op = XMMU_OP_CLEAR;
            entry->index = index;
        }
        return;
    }
    entry = xmmu_mirror_add_step(mirror, t, now);
    entry->op = XMMU_OP_LEAF;
    entry->index = index;
    entry->target = block->id;
    entry->page = (hpa - block->hpa) >> XMMU_PAGE_SHIFT;
    /* The hardware would set A with the first access, and nobody asks for it. */
    entry->access = access_told(now) | XMMU_ACCESS_ACCESSED |
                    (dirty ? XMMU_ACCESS_DIRTY : 0);
}

/* Put into the batch what makes the entry say what the core's says. */
void xmmu_mirror_bring_up_to_date(XmmuMirror *mirror, XmmuMirrorTable *t, unsigned index)
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
    entry = xmmu_mirror_add_step(mirror, t, now);
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
void xmmu_mirror_announce_new(XmmuMirror *mirror, XmmuMirrorTable *t)
{
    struct xmmu_entry *entry = xmmu_mirror_add_step(mirror, t, 0);

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
            xmmu_mirror_bring_up_to_date(mirror, t, i);
        }
    }
}

/*
 * The counterpart of @table, which an RCU read section keeps.  From the moment that
 * .mirror is set every change is noticed; what was there before is read after that.
 */
XmmuMirrorTable *xmmu_mirror_announce(XmmuMirror *mirror, XmmuTable *table)
{
    XmmuMirrorTable *t = table->mirror;

    if (!t) {
        t = xmmu_mirror_new_table(mirror,
                                  xmmu_mirror_format(table->vm->format, table->role),
                                  table->role.level);
        if (!t) {
            xmmu_mirror_refuse(mirror, "no memory, or no number, for another table");
            return NULL;
        }
        t->table = table;
        __atomic_store_n(&table->mirror, t, __ATOMIC_SEQ_CST);
    }
    if (t->state == TABLE_UNKNOWN) {
        xmmu_mirror_announce_new(mirror, t);
    }
    return t->state == TABLE_UNKNOWN ? NULL : t;
}

void xmmu_mirror_look_at_all(XmmuMirror *mirror, XmmuMirrorTable *t)
{
    for (unsigned i = 0; t->state != TABLE_UNKNOWN && i < entries_of(t); i++) {
        if (t->told[i]) {
            xmmu_mirror_bring_up_to_date(mirror, t, i);
        }
    }
}
