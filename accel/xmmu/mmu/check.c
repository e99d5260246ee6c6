/*
 * xmmu: the checker: table pages, their entries and counts
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the model's pages: which live, what they are, what their entries were set to.
 * It notices a page that changes what it is, an entry that changed without the
 * writer, a child that is not what its parent's entry asks for, counts that are
 * wrong, and pages that are taken out of use or into it at the wrong time.
 *
 * Called through check.h; compiled to nothing without XMMU_CHECK.
 */
#ifdef XMMU_CHECK
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "check_model.h"

/* ---- Reports ------------------------------------------------------------ */

static void print_page(const CheckPage *page)
{
    static const char *const states[] = { "in use", "released", "free" };
    const XmmuTable *table = page->table;
    char *role = xmmu_page_role_text(page->role);

    fprintf(stderr, "  page %#" PRIx64 " (%s): made for gfn %#" PRIx64 " as %s (%#x); "
            "%u entries present by the model\n", page->hpa, states[page->state],
            page->gfn, role, page->role, page->present);
    g_free(role);
    if (page->state != PAGE_FREE) {
        fprintf(stderr, "  the core says: gfn %#" PRIx64 " hfn %#" PRIx64 " role %#x, "
                "%u present, %s%s, %u roots hold it\n", table->gfn, table->hfn,
                table->role.word, table->present, table->unsync ? "unsync" : "sync",
                table->unlinked ? " unlinked" : "", table->root_refs);
    }
    if (page->state == PAGE_RELEASED) {
        fprintf(stderr, "  released at %" PRIu64 "\n", page->released);
    }
}

void xmmu_check_stop(XmmuVm *vm, const CheckPage *page, const char *what, ...)
{
    va_list ap;

    fflush(stdout);
    fprintf(stderr, "\nXMMU_CHECK: ");
    va_start(ap, what);
    vfprintf(stderr, what, ap);
    va_end(ap);
    fprintf(stderr, "\n  now %" PRIu64 ", last loss in a slice at %" PRIu64
            ", last order to flush at %" PRIu64 "\n", vm->check->seq,
            vm->check->slice_lost, vm->check->ordered);
    if (page) {
        print_page(page);
    }
    for (guint i = 0; i < vm->check->vcpus->len; i++) {
        xmmu_check_print_vcpu(g_ptr_array_index(vm->check->vcpus, i));
    }
    abort();
}

/* ---- Pages ---------------------------------------------------------------- */

CheckPage *xmmu_check_page(XmmuCheck *check, const void *sptep)
{
    uintptr_t hpa = (uintptr_t)sptep & XMMU_PAGE_MASK;

    return g_hash_table_lookup(check->pages, (gpointer)hpa);
}

/* The page of @table, which must be in use. */
static CheckPage *live_page(XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    CheckPage *page = xmmu_check_page(vm->check, table->spt);

    if (!page || page->state != PAGE_LIVE || page->table != table) {
        xmmu_check_stop(vm, page, "a table that is not in use is changed");
    }
    xmmu_check_identity(vm, page);
    return page;
}

void xmmu_check_identity(XmmuVm *vm, const CheckPage *page)
{
    if (page->table->role.word != page->role || page->table->gfn != page->gfn) {
        xmmu_check_stop(vm, page, "the role or frame of a table was edited");
    }
}

static uint64_t without_flags(const XmmuVm *vm, uint64_t raw)
{
    XmmuSpte spte = { raw };

    return xmmu_spte_present(vm->format, spte)
           ? raw & ~(vm->format->accessed | vm->format->dirty) : raw;
}

void xmmu_check_entry(XmmuVm *vm, const CheckPage *page, unsigned index)
{
    const XmmuSpte *entries = (const XmmuSpte *)(uintptr_t)page->hpa;
    uint64_t now = xmmu_spte_read(&entries[index]).raw;

    if (without_flags(vm, now) != without_flags(vm, page->entry[index])) {
        xmmu_check_stop(vm, page, "entry %u changed outside the writer: is %#" PRIx64
                        ", was set to %#" PRIx64, index, now, page->entry[index]);
    }
}

static void count_entry(XmmuVm *vm, CheckPage *page, XmmuSpte spte, int n)
{
    int level = page->table->role.level;

    if (!xmmu_spte_present(vm->format, spte)) {
        return;
    }
    page->present += n;
    if (xmmu_spte_is_leaf(vm->format, spte, level)) {
        vm->check->leaves[level] += n;
    }
}

void xmmu_check_table_new(XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    XmmuCheck *check = vm->check;
    CheckPage *page;

    xmmu_check_lock(check);
    page = xmmu_check_page(check, table->spt);
    if (!page) {
        page = g_new(CheckPage, 1);
        page->state = PAGE_FREE;
        g_hash_table_insert(check->pages, table->spt, page);
    } else if (page->state != PAGE_FREE) {
        xmmu_check_stop(vm, page, "a table page is used again before its grace period");
    }
    *page = (CheckPage) {
        .state = PAGE_LIVE, .hpa = xmmu_table_hpa(table), .table = table,
        .role = table->role.word, .gfn = table->gfn,
    };
    check->live++;
    xmmu_check_release(check);
}

void xmmu_check_table_released(XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    XmmuCheck *check = vm->check;
    CheckPage *page;

    xmmu_check_lock(check);
    page = live_page(table);
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        xmmu_check_entry(vm, page, i);
    }
    if (page->present || table->present) {
        xmmu_check_stop(vm, page, "a table is released with entries present");
    }
    page->state = PAGE_RELEASED;
    page->released = ++check->seq;
    check->live--;
    xmmu_check_release(check);
}

void xmmu_check_table_discarded(XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    CheckPage *page;

    xmmu_check_lock(vm->check);
    page = live_page(table);
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        xmmu_check_entry(vm, page, i);
        count_entry(vm, page, (XmmuSpte) { page->entry[i] }, -1);
    }
    page->state = PAGE_FREE;
    vm->check->live--;
    xmmu_check_release(vm->check);
}

void xmmu_check_table_reclaimed(XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    XmmuCheck *check = vm->check;
    CheckPage *page;

    xmmu_check_lock(check);
    page = xmmu_check_page(check, table->spt);
    if (!page || page->state != PAGE_RELEASED || page->table != table) {
        xmmu_check_stop(vm, page, "a table is freed that was not released");
    }
    for (guint i = 0; i < check->vcpus->len; i++) {
        XmmuCheckVcpu *cv = g_ptr_array_index(check->vcpus, i);

        if (cv->walking && cv->start < page->released) {
            xmmu_check_stop(vm, page, "a table page is freed while vCPU %u may still "
                            "walk it", cv->vcpu->index);
        }
    }
    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        xmmu_check_entry(vm, page, i);
    }
    page->state = PAGE_FREE;
    xmmu_check_release(check);
}

/* ---- What a parent's entry asks for ------------------------------------------ */

/* Two's third of the key: which frame the child at @index must be about. */
static gfn_t wanted_gfn(const XmmuTable *parent, unsigned index, const XmmuTable *child)
{
    XmmuGpte gpte;
    gfn_t gfn;

    if (parent->role.direct) {
        return parent->gfn + index * xmmu_level_pages(parent->role.level);
    }
    if (parent->role.pae_root && parent->role.gpte4) {
        return parent->gfn;             /* stands for CR3 */
    }
    gpte = xmmu_table_gpte(parent, index);
    if (child->role.direct) {
        /* Linear before A20 is masked: that bit is below the base of any table. */
        return xmmu_table_leaf_gfn(parent, index);
    }
    gfn = (gpte.raw & (parent->role.gpte4 ? 0xfffff000 : XMMU_GPTE_ADDR_MASK)) >>
          XMMU_PAGE_SHIFT;
    return parent->role.a20_masked ? gfn & ~(gfn_t)0x100 : gfn;
}

static bool wanted_role(const XmmuTable *parent, const XmmuTable *child)
{
    XmmuPageRole want = parent->role;

    want.level--;
    if (parent->role.tdp) {
        return want.word == child->role.word;
    }
    if (child->role.direct) {
        /* Without CR0.WP a write makes a writable page of a read-only one. */
        uint8_t may = want.access | (want.wp ? 0 : XMMU_ACC_WRITE);

        return want.level == child->role.level && !child->role.tdp &&
               !(child->role.access & ~may) &&
               want.smm == child->role.smm && want.guest_mode == child->role.guest_mode &&
               want.wp == child->role.wp && want.a20_masked == child->role.a20_masked &&
               (!parent->role.direct || want.pkey == child->role.pkey);
    }
    /* What the path grants only shrinks on the way down. */
    if (child->role.access & ~parent->role.access) {
        return false;
    }
    want.pae_root = 0;
    want.access = child->role.access;
    want.quadrant = child->role.quadrant;
    return want.word == child->role.word;
}

static void check_child(XmmuVm *vm, XmmuTable *table, unsigned index, XmmuSpte new)
{
    CheckPage *page = xmmu_check_page(vm->check,
                                      (const void *)(uintptr_t)xmmu_spte_hpa(new));
    gfn_t gfn;

    if (!page || page->state != PAGE_LIVE) {
        xmmu_check_stop(vm, page, "entry %u of the table for gfn %#" PRIx64 " is made to "
                        "point to a page that is no table in use", index, table->gfn);
    }
    xmmu_check_identity(vm, page);
    gfn = wanted_gfn(table, index, page->table);
    if (page->gfn != gfn || !wanted_role(table, page->table)) {
        xmmu_check_stop(vm, page, "a child is linked that entry %u of the table for gfn %#"
                        PRIx64 " role %#x does not ask for (it wants gfn %#" PRIx64 ")",
                        index, table->gfn, table->role.word, gfn);
    }
}

/* ---- The writer ---------------------------------------------------------------- */

void xmmu_check_write_begin(XmmuTable *table)
{
    xmmu_check_lock(table->vm->check);
}

static void touch(XmmuCheck *check, CheckPage *page)
{
    if (!page->touched) {
        page->touched = true;
        g_ptr_array_add(check->touched, page);
    }
}

/* A leaf became a table: does that map the same with the same rights? */
static bool split_in_place(XmmuVm *vm, XmmuSpte old, XmmuSpte new, int level)
{
    const CheckPage *page = xmmu_check_page(vm->check,
                                            (const void *)(uintptr_t)xmmu_spte_hpa(new));
    uint64_t span = xmmu_level_pages(level - 1) << XMMU_PAGE_SHIFT;

    for (unsigned i = 0; i < XMMU_ENTRIES; i++) {
        XmmuSpte spte = { page->entry[i] };

        if (!xmmu_spte_present(vm->format, spte) ||
            !xmmu_spte_is_leaf(vm->format, spte, level - 1) ||
            xmmu_spte_hpa(spte) != xmmu_spte_hpa(old) + i * span ||
            (xmmu_spte_access(vm->format, old) & ~xmmu_spte_access(vm->format, spte))) {
            return false;
        }
    }
    return true;
}

static bool loses_right(XmmuVm *vm, const XmmuTable *table, XmmuSpte old, XmmuSpte new)
{
    const XmmuHostFormat *format = vm->format;
    int level = table->role.level;
    bool was_leaf = xmmu_spte_is_leaf(format, old, level);

    if (!xmmu_spte_present(format, old)) {
        return false;
    }
    if (!xmmu_spte_present(format, new)) {
        return true;
    }
    if (was_leaf && !xmmu_spte_is_leaf(format, new, level)) {
        return !split_in_place(vm, old, new, level);
    }
    return xmmu_spte_hpa(old) != xmmu_spte_hpa(new) ||
           (old.raw & format->large) != (new.raw & format->large) ||
           (xmmu_spte_access(format, old) & ~xmmu_spte_access(format, new));
}

/*
 * Did this thread's last change take a right away?  It is judged here, where no other
 * change is being made; a moment later others may have split what is in a new table.
 */
static __thread bool change_loses;

void xmmu_check_write_end(XmmuTable *table, unsigned index, XmmuSpte old, XmmuSpte new,
                          bool changed)
{
    XmmuVm *vm = table->vm;
    CheckPage *page;

    /* An attempt at a table that has just left the tree is harmless. */
    if (changed) {
        page = live_page(table);
        if (without_flags(vm, old.raw) != without_flags(vm, page->entry[index])) {
            xmmu_check_stop(vm, page, "entry %u changed outside the writer: was %#" PRIx64
                            ", was set to %#" PRIx64, index, old.raw, page->entry[index]);
        }
        count_entry(vm, page, old, -1);
        count_entry(vm, page, new, 1);
        page->entry[index] = new.raw;
        change_loses = loses_right(vm, table, old, new);
        if (change_loses) {
            page->changed[index] = ++vm->check->seq;
        }
        touch(vm->check, page);
        if (xmmu_spte_present(vm->format, new) &&
            !xmmu_spte_is_leaf(vm->format, new, table->role.level)) {
            check_child(vm, table, index, new);
        }
    }
    xmmu_check_release(vm->check);
}

/* What the tables of an old generation or of an invalid tree said was flushed when
 * they were given up. */
static bool given_up(const XmmuTable *table)
{
    return table->role.tdp ? xmmu_table_unlinked(table->root)
                           : table->generation != table->vm->generation;
}

void xmmu_check_accounted(XmmuHold *hold, XmmuTable *table, unsigned index)
{
    XmmuCheck *check = table->vm->check;
    CheckPage *page;

    xmmu_check_lock(check);
    page = xmmu_check_page(check, table->spt);
    if (change_loses) {
        page->lost[index] = ++check->seq;
        if (hold->reason == XMMU_REASON_HOST && !given_up(table)) {
            hold->check_lost = check->seq;
        } else if (hold->reason == XMMU_REASON_SLICE && !given_up(table)) {
            check->slice_lost = check->seq;
        }
    }
    xmmu_check_release(check);
}

/* ---- Counts ---------------------------------------------------------------------- */

static void check_gauge(XmmuVm *vm, int level, uint64_t gauge)
{
    if (gauge != vm->check->leaves[level]) {
        xmmu_check_stop(vm, NULL, "%" PRIu64 " leaves at level %d, but the gauge says %"
                        PRIu64, vm->check->leaves[level], level, gauge);
    }
}

static uint64_t gauge_sum(XmmuVm *vm, size_t field)
{
    uint64_t sum = *(const uint64_t *)((const char *)&vm->stats + field);

    for (XmmuVcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        sum += *(const uint64_t *)((const char *)&vcpu->stats + field);
    }
    return sum;
}

/* Under the write lock: nobody else is changing anything. */
static void check_counts(XmmuVm *vm)
{
    XmmuCheck *check = vm->check;

    for (guint i = 0; i < check->touched->len; i++) {
        CheckPage *page = g_ptr_array_index(check->touched, i);

        page->touched = false;
        if (page->state == PAGE_LIVE && !page->table->role.tdp &&
            page->present != page->table->present) {
            xmmu_check_stop(vm, page, "a table counts %u entries present, but %u are",
                            page->table->present, page->present);
        }
    }
    g_ptr_array_set_size(check->touched, 0);
    check_gauge(vm, XMMU_LEVEL_4K, gauge_sum(vm, offsetof(XmmuStats, pages_4k)));
    check_gauge(vm, XMMU_LEVEL_2M, gauge_sum(vm, offsetof(XmmuStats, pages_2m)));
    check_gauge(vm, XMMU_LEVEL_1G, gauge_sum(vm, offsetof(XmmuStats, pages_1g)));
}

/* ---- Roots ------------------------------------------------------------------------ */

static void check_root(const XmmuCheckVcpu *cv, const XmmuTable *root)
{
    XmmuVm *vm = cv->vcpu->vm;
    CheckPage *page = root ? xmmu_check_page(vm->check, root->spt) : NULL;

    if (root && (!page || page->state != PAGE_LIVE || page->table != root)) {
        xmmu_check_stop(vm, page, "a root of vCPU %u is no table in use", cv->vcpu->index);
    }
}

static void check_roots(const XmmuCheckVcpu *cv, const XmmuMmu *mmu)
{
    check_root(cv, mmu->root.table);
    for (unsigned i = 0; i < XMMU_PREV_ROOTS_MAX; i++) {
        check_root(cv, mmu->prev[i].table);
    }
}

/* ---- Flushes that are owed ---------------------------------------------------------- */

void xmmu_check_ordered(XmmuVm *vm)
{
    xmmu_check_lock(vm->check);
    vm->check->ordered = vm->check->seq;
    xmmu_check_release(vm->check);
}

static bool anybody_caches(const XmmuCheck *check)
{
    for (guint i = 0; i < check->vcpus->len; i++) {
        const XmmuCheckVcpu *cv = g_ptr_array_index(check->vcpus, i);

        if (cv->walking || g_hash_table_size(cv->held)) {
            return true;
        }
    }
    return false;
}

static void stop_if_owed(XmmuVm *vm, uint64_t lost, const char *what)
{
    XmmuCheck *check = vm->check;

    if (lost > check->ordered && anybody_caches(check)) {
        xmmu_check_stop(vm, NULL, "%s, but a flush of all vCPUs is owed since %" PRIu64,
                        what, lost);
    }
}

static void check_all_roots(XmmuCheck *check)
{
    for (guint i = 0; i < check->vcpus->len; i++) {
        const XmmuCheckVcpu *cv = g_ptr_array_index(check->vcpus, i);

        check_roots(cv, &cv->vcpu->root_mmu);
        check_roots(cv, &cv->vcpu->guest_mmu);
    }
}

void xmmu_check_invalidated(XmmuHold *hold)
{
    xmmu_check_lock(hold->vm->check);
    hold->check_lost = ++hold->vm->check->seq;
    /* Nor does anybody believe in them. */
    g_hash_table_remove_all(hold->vm->check->synced);
    xmmu_check_release(hold->vm->check);
}

void xmmu_check_paid(XmmuHold *hold)
{
    XmmuVm *vm = hold->vm;

    xmmu_check_lock(vm->check);
    if (hold->side == XMMU_WRITE_SIDE) {
        check_counts(vm);
        check_all_roots(vm->check);
    }
    stop_if_owed(vm, hold->check_lost, "mmu_lock is released");
    xmmu_check_release(vm->check);
}

void xmmu_check_map_changed(XmmuVm *vm)
{
    xmmu_check_lock(vm->check);
    stop_if_owed(vm, vm->check->slice_lost, "the memory map has changed");
    xmmu_check_release(vm->check);
}

/* ---- VMs --------------------------------------------------------------------------------- */

void xmmu_check_vm_new(XmmuVm *vm)
{
    XmmuCheck *check = g_new0(XmmuCheck, 1);

    pthread_mutex_init(&check->lock, NULL);
    check->seq = 1;
    check->pages = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    check->touched = g_ptr_array_new();
    check->synced = g_hash_table_new(NULL, NULL);
    check->vcpus = g_ptr_array_new();
    vm->check = check;
}

void xmmu_check_vm_free(XmmuVm *vm)
{
    XmmuCheck *check = vm->check;

    if (check->live || g_hash_table_size(check->synced)) {
        xmmu_check_stop(vm, NULL, "%u tables are left when the VM goes, %u frames are "
                        "tracked", check->live, g_hash_table_size(check->synced));
    }
    g_hash_table_destroy(check->pages);
    g_hash_table_destroy(check->synced);
    g_ptr_array_free(check->touched, true);
    g_ptr_array_free(check->vcpus, true);
    pthread_mutex_destroy(&check->lock);
    g_free(check);
    vm->check = NULL;
}

#else
typedef int XmmuCheckIsOff;     /* ISO C wants a declaration */
#endif /* XMMU_CHECK */
