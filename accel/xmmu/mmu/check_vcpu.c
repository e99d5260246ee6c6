/*
 * xmmu: the checker: what vCPUs do and hold
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the model of what every vCPU may still have cached: the translations that the
 * hardware model gave away and the vCPU has not flushed since, and what its nested
 * TLB was filled with.  It notices a walk into a page that is gone, a translation that
 * is used after a flush that forbids it, and a write protection that is believed in
 * while a vCPU can still write.
 *
 * Called through check.h; compiled to nothing without XMMU_CHECK.
 */
#ifdef XMMU_CHECK
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "check_model.h"

#define PRINT_MAX 16

static uint8_t mode_of(const XmmuAccess *access)
{
    return access->user << 1 | access->smap_off;
}

static guint held_hash(gconstpointer p)
{
    const Held *held = p;
    uint64_t h = held->page * 0x9e3779b97f4a7c15ull + held->mode;

    /* Not a sum or difference of both: many guests map linearly. */
    h = (h ^ h >> 29 ^ held->hpa) * 0xbf58476d1ce4e5b9ull;
    return h >> 32;
}

static gboolean held_equal(gconstpointer a, gconstpointer b)
{
    const Held *x = a, *y = b;

    return x->page == y->page && x->hpa == y->hpa && x->mode == y->mode;
}

static void print_held(const Held *held)
{
    fprintf(stderr, "    gva page %#" PRIx64 " -> hpa %#" PRIx64 " prot %u %s%s, page shift "
            "%u, made at %" PRIu64 " through", held->page << XMMU_PAGE_SHIFT, held->hpa,
            held->prot, held->mode & 2 ? "user" : "supervisor",
            held->mode & 1 ? " AC" : "", held->page_shift, held->made);
    for (unsigned i = 0; i < held->steps; i++) {
        fprintf(stderr, " %#" PRIx64, held->path[i]);
    }
    fputc('\n', stderr);
}

void xmmu_check_print_vcpu(const XmmuCheckVcpu *cv)
{
    GHashTableIter iter;
    gpointer held;
    unsigned n = 0;

    fprintf(stderr, "  vCPU %u: flushed at %" PRIu64 ", %s at %" PRIu64 ", may have %u "
            "translations cached\n", cv->vcpu->index, cv->accepted,
            cv->walking ? "walking since" : "last walk began", cv->start,
            g_hash_table_size(cv->held));
    g_hash_table_iter_init(&iter, cv->held);
    while (n++ < PRINT_MAX && g_hash_table_iter_next(&iter, &held, NULL)) {
        print_held(held);
    }
}

/* ---- Walks ------------------------------------------------------------------- */

void xmmu_check_walk_begin(XmmuVcpu *vcpu)
{
    XmmuCheck *check = vcpu->vm->check;

    xmmu_check_lock(check);
    vcpu->check->walking = true;
    vcpu->check->start = check->seq;
    vcpu->check->steps = 0;
    vcpu->check->level = 0;
    xmmu_check_release(check);
}

void xmmu_check_walk_end(XmmuVcpu *vcpu)
{
    xmmu_check_lock(vcpu->vm->check);
    vcpu->check->walking = false;
    xmmu_check_release(vcpu->vm->check);
}

/* A page that was released before the walk began cannot be reached. */
void xmmu_check_read(XmmuVcpu *vcpu, const XmmuSpte *sptep)
{
    XmmuVm *vm = vcpu->vm;
    XmmuCheckVcpu *cv = vcpu->check;
    CheckPage *page;

    xmmu_check_lock(vm->check);
    page = xmmu_check_page(vm->check, sptep);
    if (!page || page->state == PAGE_FREE) {
        xmmu_check_stop(vm, page, "vCPU %u walks into a freed table page", vcpu->index);
    }
    if (page->state == PAGE_RELEASED && page->released <= cv->start) {
        xmmu_check_stop(vm, page, "vCPU %u walks into a table page that was released",
                        vcpu->index);
    }
    xmmu_check_identity(vm, page);
    xmmu_check_entry(vm, page, xmmu_spte_index(sptep));
    if (page->table->role.level >= cv->level) {
        cv->steps = 0;
    }
    cv->level = page->table->role.level;
    cv->path[cv->steps++] = (uintptr_t)sptep;
    xmmu_check_release(vm->check);
}

/* ---- The nested TLB -------------------------------------------------------------- */

static HeldNested *nested_slot(XmmuVcpu *vcpu, gpa_t gpa, unsigned shift)
{
    return &vcpu->check->nested[xmmu_nested_tlb_slot(&vcpu->nested_tlb, gpa, shift) -
                                vcpu->nested_tlb.entry];
}

void xmmu_check_nested_filled(XmmuVcpu *vcpu, gpa_t gpa, int level, const XmmuSpte *sptep)
{
    XmmuCheck *check = vcpu->vm->check;

    xmmu_check_lock(check);
    *nested_slot(vcpu, gpa, level == XMMU_LEVEL_4K ? XMMU_PAGE_SHIFT : 21) = (HeldNested) {
        .sptep = (uintptr_t)sptep, .made = check->seq,
    };
    xmmu_check_release(check);
}

/* Since its page was looked at, the entry has lost nothing that was told of before
 * this walk began. */
void xmmu_check_nested_hit(XmmuVcpu *vcpu, gpa_t gpa, bool smm)
{
    XmmuVm *vm = vcpu->vm;
    bool large = xmmu_nested_tlb_slot(&vcpu->nested_tlb, gpa, 21)->tag ==
                 xmmu_nested_tlb_tag(gpa, 21, smm);
    const HeldNested *held = nested_slot(vcpu, gpa, large ? 21 : XMMU_PAGE_SHIFT);
    const XmmuSpte *sptep = (const XmmuSpte *)(uintptr_t)held->sptep;
    CheckPage *page;
    uint64_t lost;

    xmmu_check_lock(vm->check);
    page = xmmu_check_page(vm->check, sptep);
    lost = page ? page->lost[xmmu_spte_index(sptep)] : 0;
    /* What was made from the entry's new value before the loss was told of is good. */
    if (lost > held->made && page->changed[xmmu_spte_index(sptep)] > held->made &&
        lost <= vcpu->check->start) {
        xmmu_check_stop(vm, page, "vCPU %u uses gpa %#" PRIx64 " from its nested TLB, whose "
                        "entry lost a right at %" PRIu64, vcpu->index, gpa, lost);
    }
    xmmu_check_release(vm->check);
}

/* ---- Translations that were given away --------------------------------------------- */

static bool believed_protected(const XmmuCheck *check, hpa_t hpa)
{
    return g_hash_table_contains(check->synced,
                                 (gpointer)(uintptr_t)(hpa >> XMMU_PAGE_SHIFT));
}

void xmmu_check_translated(XmmuVcpu *vcpu, const XmmuAccess *access, hpa_t hpa,
                           uint8_t prot, uint8_t page_shift)
{
    XmmuVm *vm = vcpu->vm;
    XmmuCheckVcpu *cv = vcpu->check;
    Held key = {
        .page = access->gva >> XMMU_PAGE_SHIFT, .hpa = hpa & XMMU_PAGE_MASK,
        .mode = mode_of(access), .prot = prot, .page_shift = page_shift,
    };
    Held *held;

    xmmu_check_lock(vm->check);
    key.made = vm->check->seq;
    key.steps = cv->steps;
    memcpy(key.path, cv->path, sizeof(key.path));
    held = g_hash_table_lookup(cv->held, &key);
    if (held) {
        /* Both may be there still. */
        held->prot |= prot;
        held->page_shift = MIN(held->page_shift, page_shift);
    } else {
        held = g_memdup2(&key, sizeof(key));
        g_hash_table_add(cv->held, held);
    }
    if ((prot & XMMU_PROT_WRITE) && believed_protected(vm->check, hpa)) {
        print_held(&key);
        xmmu_check_stop(vm, NULL, "vCPU %u may write to hpa %#" PRIx64 ", a guest table "
                        "whose shadow counts as sync", vcpu->index, key.hpa);
    }
    xmmu_check_release(vm->check);
}

void xmmu_check_used(XmmuVcpu *vcpu, const XmmuAccess *access, hpa_t hpa, uint8_t prot)
{
    Held key = {
        .page = access->gva >> XMMU_PAGE_SHIFT, .hpa = hpa & XMMU_PAGE_MASK,
        .mode = mode_of(access), .prot = prot,
    };
    const Held *held;

    xmmu_check_lock(vcpu->vm->check);
    held = g_hash_table_lookup(vcpu->check->held, &key);
    if (!held || (prot & ~held->prot)) {
        print_held(&key);
        xmmu_check_stop(vcpu->vm, NULL, "vCPU %u uses a translation that it has flushed or "
                        "never got", vcpu->index);
    }
    xmmu_check_release(vcpu->vm->check);
}

void xmmu_check_flushed(XmmuVcpu *vcpu)
{
    XmmuCheck *check = vcpu->vm->check;

    xmmu_check_lock(check);
    g_hash_table_remove_all(vcpu->check->held);
    vcpu->check->accepted = check->seq;
    xmmu_check_release(check);
}

static gboolean covered(gpointer key, gpointer value, gpointer opaque)
{
    const Held *held = key;

    (void)value;
    return !((held->page << XMMU_PAGE_SHIFT ^ *(const gva_t *)opaque) >> held->page_shift);
}

void xmmu_check_invlpg(XmmuVcpu *vcpu, gva_t gva)
{
    xmmu_check_lock(vcpu->vm->check);
    g_hash_table_foreach_remove(vcpu->check->held, covered, &gva);
    xmmu_check_release(vcpu->vm->check);
}

/* ---- Write protection ------------------------------------------------------------------ */

static void stop_if_writable(XmmuVm *vm, const XmmuTable *table, const XmmuCheckVcpu *cv)
{
    GHashTableIter iter;
    gpointer p;

    g_hash_table_iter_init(&iter, cv->held);
    while (g_hash_table_iter_next(&iter, &p, NULL)) {
        const Held *held = p;

        if ((held->prot & XMMU_PROT_WRITE) &&
            held->hpa >> XMMU_PAGE_SHIFT == table->hfn) {
            print_held(held);
            xmmu_check_stop(vm, xmmu_check_page(vm->check, table->spt), "a shadow table "
                            "counts as sync, but vCPU %u may still write to the guest's",
                            cv->vcpu->index);
        }
    }
}

static void count_synced(XmmuCheck *check, hfn_t hfn, int n)
{
    gpointer key = (gpointer)(uintptr_t)hfn;
    int count = GPOINTER_TO_INT(g_hash_table_lookup(check->synced, key)) + n;

    if (count > 0) {
        g_hash_table_insert(check->synced, key, GINT_TO_POINTER(count));
    } else {
        g_hash_table_remove(check->synced, key);
    }
}

void xmmu_check_synced(XmmuTable *table)
{
    XmmuVm *vm = table->vm;
    XmmuCheck *check = vm->check;

    if (!table->unsync || xmmu_table_stale(table)) {
        return;
    }
    xmmu_check_lock(check);
    for (guint i = 0; i < check->vcpus->len; i++) {
        stop_if_writable(vm, table, g_ptr_array_index(check->vcpus, i));
    }
    count_synced(check, table->hfn, 1);
    xmmu_check_release(check);
}

void xmmu_check_unsynced(XmmuTable *table)
{
    if (table->unsync || table->role.direct || table->role.pae_root ||
        xmmu_table_stale(table)) {
        return;
    }
    xmmu_check_lock(table->vm->check);
    count_synced(table->vm->check, table->hfn, -1);
    xmmu_check_release(table->vm->check);
}

/* ---- Life ---------------------------------------------------------------------------------- */

void xmmu_check_vcpu_new(XmmuVcpu *vcpu)
{
    XmmuCheck *check = vcpu->vm->check;
    XmmuCheckVcpu *cv = g_new0(XmmuCheckVcpu, 1);

    cv->vcpu = vcpu;
    cv->held = g_hash_table_new_full(held_hash, held_equal, g_free, NULL);
    vcpu->check = cv;
    xmmu_check_lock(check);
    cv->accepted = check->seq;
    g_ptr_array_add(check->vcpus, cv);
    xmmu_check_release(check);
}

void xmmu_check_vcpu_free(XmmuVcpu *vcpu)
{
    XmmuCheckVcpu *cv = vcpu->check;

    xmmu_check_lock(vcpu->vm->check);
    g_ptr_array_remove_fast(vcpu->vm->check->vcpus, cv);
    xmmu_check_release(vcpu->vm->check);
    g_hash_table_destroy(cv->held);
    g_free(cv);
}

#else
typedef int XmmuCheckVcpuIsOff; /* ISO C wants a declaration */
#endif /* XMMU_CHECK */
