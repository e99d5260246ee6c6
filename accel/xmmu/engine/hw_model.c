/*
 * xmmu soft engine: a model of the hardware's address translation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what a CPU would do with the tables: walking them, checking rights, setting
 * A and D, and exiting to the MMU when a walk does not end in an allowed leaf.
 * It reads entries as a CPU does, without locks; RCU keeps table pages readable.
 * The only entries it ever writes are A and D bits.
 *
 * Runs in the vCPU's thread.
 */
#include <glib.h>
#include "hw_model.h"
#include "linear.h"
#include "../mmu/check.h"
#include "../mmu/flush.h"
#include "../mmu/nested.h"

/* A vCPU makes progress after two or three exits.  This many for one access means
 * that the MMU and the model disagree; better to stop the VM than to spin. */
#define MAX_EXITS 10000

/* How one walk of our tables ended. */
typedef struct Hit {
    XmmuSpte *sptep;            /* the last entry read */
    XmmuSpte spte;
    int level;                  /* that the entry belongs to */
    bool present;
} Hit;

/* Follow the entries for @frame (address >> 12) from @root to a leaf or a hole. */
static Hit walk_tables(XmmuVcpu *vcpu, XmmuTable *root, uint64_t frame)
{
    const XmmuHostFormat *format = vcpu->vm->format;
    Hit hit = { .level = root->role.level };
    XmmuSpte *entries = root->spt;

    xmmu_count(&vcpu->stats.walks);
    for (;; hit.level--) {
        hit.sptep = &entries[xmmu_level_index(frame, hit.level)];
        xmmu_check_read(vcpu, hit.sptep);
        hit.spte = xmmu_spte_read(hit.sptep);
        hit.present = xmmu_spte_present(format, hit.spte);
        if (!hit.present || xmmu_spte_is_leaf(format, hit.spte, hit.level)) {
            return hit;
        }
        entries = (XmmuSpte *)(uintptr_t)xmmu_spte_hpa(hit.spte);
    }
}

static hpa_t leaf_hpa(const Hit *hit, uint64_t address)
{
    uint64_t size = xmmu_level_pages(hit->level) << XMMU_PAGE_SHIFT;

    return xmmu_spte_hpa(hit->spte) | (address & (size - 1) & XMMU_PAGE_MASK);
}

static bool is_current_mmio(XmmuVcpu *vcpu, const Hit *hit)
{
    return xmmu_spte_is_mmio(vcpu->vm->format, hit->spte) &&
           xmmu_spte_mmio_generation(hit->spte) ==
           xmmu_slots_generation(vcpu->vm, xmmu_vcpu_as(vcpu));
}

/* ---- TDP: guest physical to host --------------------------------------------- */

typedef struct TdpResult {
    XmmuHwOutcome outcome;      /* any but EXCEPTION; NESTED_EXIT: vcpu->exit, ASYNC:
                                   vcpu->async */
    gpa_t gpa;                  /* L1's, of the byte */
    hpa_t hpa;                  /* of the page */
    uint8_t prot;
    /* RAM; perhaps not dirty yet, or tracked, or L1 has to be asked, so not in prot. */
    bool writable;
    bool mmio;
} TdpResult;

/* Beside XMMU_PROT_* in the nested TLB. */
#define CACHED_WRITABLE (1 << 3)

/* Checks rights and sets D.  False: an exit, or the entry changed. */
static bool tdp_leaf_allows(const XmmuHostFormat *format, Hit *hit, uint8_t access,
                            uint8_t want)
{
    if (want == XMMU_PROT_EXEC) {
        return access & XMMU_ACC_EXEC;
    }
    if (want == XMMU_PROT_READ) {
        return access & XMMU_ACC_USER;
    }
    if (!(access & XMMU_ACC_WRITE)) {
        return false;
    }
    if (!(hit->spte.raw & format->dirty)) {
        if (!xmmu_spte_set_bits(hit->sptep, hit->spte, format->dirty)) {
            return false;
        }
        hit->spte.raw |= format->dirty;
    }
    return true;
}

/* A page that is not dirty may not be cached as writable. */
static uint8_t tdp_leaf_prot(const XmmuHostFormat *format, const Hit *hit,
                             uint8_t access)
{
    uint8_t prot = access & XMMU_ACC_USER ? XMMU_PROT_READ : 0;

    if ((access & XMMU_ACC_WRITE) && (hit->spte.raw & format->dirty)) {
        prot |= XMMU_PROT_WRITE;
    }
    if (access & XMMU_ACC_EXEC) {
        prot |= XMMU_PROT_EXEC;
    }
    return prot;
}

/* Where the guest thinks that the leaf is.  The entry is read again afterwards:
 * if it is the same, the guest's entry that was remembered beside it was its own. */
static bool leaf_gpa(XmmuVcpu *vcpu, const Hit *hit, uint64_t address, gpa_t *gpa)
{
    gfn_t gfn = xmmu_table_leaf_gfn(xmmu_table_of(hit->sptep),
                                    xmmu_spte_index(hit->sptep));
    uint64_t size = xmmu_level_pages(hit->level) << XMMU_PAGE_SHIFT;

    *gpa = ((gfn << XMMU_PAGE_SHIFT) | (address & (size - 1))) &
           vcpu->mmu->masks.gpa_mask;
    return xmmu_spte_read(hit->sptep).raw == hit->spte.raw;
}

static bool is_nested(const XmmuVcpu *vcpu)
{
    return vcpu->mmu != &vcpu->root_mmu;
}

/* What L1's tables allow at a cached MMIO entry. */
static uint8_t nested_mmio_prot(const XmmuVcpu *vcpu, XmmuSpte spte)
{
    uint8_t prot = 0;

    for (uint8_t want = XMMU_PROT_READ; want <= XMMU_PROT_EXEC; want <<= 1) {
        if (xmmu_perm_allows(vcpu->mmu->masks.guest_perm, want, true, false,
                             xmmu_spte_mmio_access(spte))) {
            prot |= want;
        }
    }
    return prot;
}

static bool tdp_mmio(XmmuVcpu *vcpu, const Hit *hit, gpa_t gpa, uint8_t want,
                     TdpResult *result)
{
    *result = (TdpResult) {
        .outcome = XMMU_HW_DIRECT, .gpa = gpa, .prot = XMMU_PROT_RWX, .mmio = true,
    };
    if (is_nested(vcpu)) {
        result->prot = nested_mmio_prot(vcpu, hit->spte);
        if (!(result->prot & want) || !leaf_gpa(vcpu, hit, gpa, &result->gpa)) {
            return false;
        }
    }
    xmmu_count(&vcpu->stats.mmio_cached);
    return true;
}

static bool tdp_hit(XmmuVcpu *vcpu, gpa_t gpa, uint8_t want, TdpResult *result)
{
    const XmmuHostFormat *format = vcpu->vm->format;
    Hit hit = walk_tables(vcpu, vcpu->mmu->root.table, gpa >> XMMU_PAGE_SHIFT);
    uint8_t access;

    if (is_current_mmio(vcpu, &hit)) {
        return tdp_mmio(vcpu, &hit, gpa, want, result);
    }
    access = xmmu_spte_access(format, hit.spte);
    if (!hit.present || !tdp_leaf_allows(format, &hit, access, want)) {
        return false;
    }
    *result = (TdpResult) {
        .outcome = XMMU_HW_OK,
        .gpa = gpa,
        .hpa = leaf_hpa(&hit, gpa),
        .prot = tdp_leaf_prot(format, &hit, access),
        .writable = !(hit.spte.raw & XMMU_SPTE_HOST_RO),
    };
    if (is_nested(vcpu) && !leaf_gpa(vcpu, &hit, gpa, &result->gpa)) {
        return false;
    }
    xmmu_check_nested_filled(vcpu, gpa, hit.level, hit.sptep);
    xmmu_nested_tlb_insert(&vcpu->nested_tlb, gpa, vcpu->mmu->role.smm, hit.level,
                           result->hpa,
                           result->prot | (result->writable ? CACHED_WRITABLE : 0));
    return true;
}

/* What the vCPU remembers; a write to a page that is not dirty must walk. */
static inline bool tdp_cached(XmmuVcpu *vcpu, gpa_t gpa, uint8_t want,
                              TdpResult *result)
{
    uint64_t page = xmmu_nested_tlb_find(&vcpu->nested_tlb, gpa, vcpu->mmu->role.smm);

    if (!(page & want)) {
        return false;
    }
    xmmu_check_nested_hit(vcpu, gpa, vcpu->mmu->role.smm);
    result->outcome = XMMU_HW_OK;
    result->gpa = gpa;                  /* not of L2: nobody asks */
    result->hpa = page & XMMU_PAGE_MASK;
    result->prot = page & XMMU_PROT_RWX;
    result->writable = page & CACHED_WRITABLE;
    result->mmio = false;
    return true;
}

/* Zapped roots of shadow tables are not for use; the fault gets another. */
static bool root_is_good(XmmuVcpu *vcpu)
{
    XmmuTable *root = __atomic_load_n(&vcpu->mmu->root.table, __ATOMIC_ACQUIRE);

    return root && !xmmu_table_stale(root);
}

static void tdp_walk(XmmuVcpu *vcpu, gpa_t gpa, uint8_t want, bool table,
                     unsigned size, TdpResult *result)
{
    XmmuFault fault = {
        .access.want = want,
        .access.restartable = vcpu->restartable,
        .tdp_gpa = gpa,
        .table = table,
        .size = size,
    };

    for (unsigned exits = 0; exits < MAX_EXITS; exits++) {
        if (root_is_good(vcpu) &&
            gpa >> XMMU_PAGE_SHIFT <
            xmmu_level_pages(vcpu->mmu->root.role.level + 1) &&
            tdp_hit(vcpu, gpa, want, result)) {
            return;
        }
        switch (is_nested(vcpu) ? xmmu_nested_fault(vcpu, &fault)
                                : xmmu_tdp_fault(vcpu, &fault)) {
        case XMMU_PF_EMULATE:
            *result = (TdpResult) {
                .outcome = XMMU_HW_DIRECT, .gpa = fault.gpa, .prot = fault.prot,
                .mmio = fault.mmio,
            };
            return;
        case XMMU_PF_REFLECT:
            result->outcome = XMMU_HW_NESTED_EXIT;
            vcpu->exit = fault.exit;
            return;
        case XMMU_PF_NOMEM:
            result->outcome = XMMU_HW_NOMEM;
            return;
        case XMMU_PF_ASYNC:
            result->outcome = XMMU_HW_ASYNC;
            vcpu->async = fault.async;
            return;
        case XMMU_PF_RING_FULL:
            result->outcome = XMMU_HW_RING_FULL;
            return;
        default:
            break;
        }
    }
    result->outcome = XMMU_HW_NOMEM;
}

/* An access of the CPU to a page, or, if @table, to an entry of the guest's tables. */
static inline void tdp_translate(XmmuVcpu *vcpu, gpa_t gpa, uint8_t want, bool table,
                                 unsigned size, TdpResult *result)
{
    /* The nested TLB does not know where L1 has a page; for a table nobody asks. */
    if ((!table && is_nested(vcpu)) || !tdp_cached(vcpu, gpa, want, result)) {
        tdp_walk(vcpu, gpa, want, table, size, result);
    }
}

/* The cached ways through the guest's tables went through TDP too. */
static void validate_caches(XmmuVcpu *vcpu)
{
    if (!xmmu_nested_tlb_validate(&vcpu->nested_tlb, &vcpu->vm->rights_lost)) {
        xmmu_walk_cache_flush(&vcpu->walk_cache);
    }
}

/*
 * To L1's tables every access to a table of L2 is a write: AMD APM vol. 2, 15.25.6;
 * Intel SDM vol. 3, 29.3.3.2, if EPT has A and D flags.
 */
static bool tables_count_as_written(const XmmuVcpu *vcpu)
{
    return vcpu->mmu->role.npt || vcpu->mmu->role.ept_ad;
}

/* The first dimension's accesses to guest tables are translated by the second. */
static bool map_through_tdp(XmmuVcpu *vcpu, gpa_t gpa, bool write,
                            XmmuTablePage *page)
{
    uint8_t want = write || tables_count_as_written(vcpu) ? XMMU_PROT_WRITE
                                                          : XMMU_PROT_READ;
    TdpResult tdp;

    tdp_translate(vcpu, gpa, want, true, 8, &tdp);
    if (tdp.outcome > XMMU_HW_DIRECT) {
        vcpu->aborted = tdp.outcome;
        return false;
    }
    if (tdp.outcome == XMMU_HW_DIRECT && !tdp.mmio) {
        /* A tracked table, of which the MMU knows now that it will be written. */
        return xmmu_map_through_slots(vcpu, tdp.gpa, write, page);
    }
    page->bus = tdp.gpa & XMMU_PAGE_MASK;
    page->host = tdp.outcome == XMMU_HW_OK ? (uint8_t *)(uintptr_t)tdp.hpa : NULL;
    page->writable = page->host && tdp.writable;
    return true;
}

/* The second dimension gave no page; what goes with @outcome is in @vcpu. */
static void no_page(const XmmuVcpu *vcpu, XmmuHwOutcome outcome, XmmuHwResult *result)
{
    result->outcome = outcome;
    if (outcome == XMMU_HW_NESTED_EXIT) {
        result->exit = vcpu->exit;
    } else if (outcome == XMMU_HW_ASYNC) {
        result->async = vcpu->async;
    }
}

static void translate_tdp(XmmuVcpu *vcpu, const XmmuAccess *access, unsigned size,
                          XmmuHwResult *result)
{
    XMMU_UNINITIALIZED XmmuGuestWalk walk;
    TdpResult tdp;
    XmmuWalkStatus status;

    do {
        status = xmmu_guest_walk(vcpu->walk_mmu, access, map_through_tdp,
                                 &vcpu->walk_cache, &walk);
    } while (status == XMMU_WALK_RACED);
    if (status == XMMU_WALK_FAULT) {
        xmmu_count(&vcpu->stats.faults_guest);
        result->outcome = XMMU_HW_EXCEPTION;
        result->exception = walk.exception;
        return;
    }
    if (status == XMMU_WALK_ABORTED) {
        no_page(vcpu, vcpu->aborted, result);
        return;
    }
    tdp_translate(vcpu, walk.gpa, access->want, false, size, &tdp);
    if (tdp.outcome > XMMU_HW_DIRECT) {
        no_page(vcpu, tdp.outcome, result);
        return;
    }
    result->outcome = tdp.outcome;
    result->gpa = tdp.gpa;
    result->mmio = tdp.mmio;
    result->page_shift = walk.page_shift;
    result->hpa = tdp.hpa | (walk.gpa & ~XMMU_PAGE_MASK);
    result->prot = tdp.prot & xmmu_guest_prot(vcpu->walk_mmu, access, &walk);
}

/* ---- Shadow: guest virtual to host --------------------------------------------- */

static bool shadow_allows(XmmuVcpu *vcpu, const XmmuAccess *access, uint8_t want,
                          uint8_t page_access, uint8_t pkey)
{
    const XmmuMmu *mmu = vcpu->walk_mmu;

    return xmmu_perm_allows(mmu->masks.shadow_perm, want, access->user,
                            access->smap_off, page_access) &&
           !xmmu_pkey_denies(&mmu->masks, &mmu->regs, want, access->user,
                             page_access, pkey);
}

static uint8_t shadow_prot(XmmuVcpu *vcpu, const XmmuAccess *access, XmmuSpte spte,
                           uint8_t page_access)
{
    uint8_t prot = 0;

    for (uint8_t want = XMMU_PROT_READ; want <= XMMU_PROT_EXEC; want <<= 1) {
        if (shadow_allows(vcpu, access, want, page_access, xmmu_spte_pkey(spte))) {
            prot |= want;
        }
    }
    if (!(spte.raw & vcpu->vm->format->dirty)) {
        prot &= ~XMMU_PROT_WRITE;
    }
    return prot;
}

static uint8_t guest_page_shift(const Hit *hit)
{
    const XmmuTable *table = xmmu_table_of(hit->sptep);
    XmmuPageRole role = table->role;

    if (role.direct) {
        return MAX(__atomic_load_n(&table->guest_shift, __ATOMIC_RELAXED),
                   XMMU_PAGE_SHIFT);
    }
    if (role.gpte4 && role.level == XMMU_LEVEL_2M) {
        return 22;
    }
    return XMMU_PAGE_SHIFT + 9 * (role.level - 1);
}

/* A cached MMIO entry says which page and rights the guest gave; keys it does not
 * say. */
static bool shadow_mmio(XmmuVcpu *vcpu, const XmmuAccess *access, const Hit *hit,
                        XmmuHwResult *result)
{
    uint8_t page_access = xmmu_spte_mmio_access(hit->spte);

    if (vcpu->walk_mmu->role.pke || vcpu->walk_mmu->role.pks ||
        !shadow_allows(vcpu, access, access->want, page_access, 0) ||
        !leaf_gpa(vcpu, hit, access->gva, &result->gpa)) {
        return false;
    }
    xmmu_count(&vcpu->stats.mmio_cached);
    result->outcome = XMMU_HW_DIRECT;
    result->mmio = true;
    result->page_shift = guest_page_shift(hit);
    result->prot = 0;
    for (uint8_t want = XMMU_PROT_READ; want <= XMMU_PROT_EXEC; want <<= 1) {
        if (shadow_allows(vcpu, access, want, page_access, 0)) {
            result->prot |= want;
        }
    }
    return true;
}

static bool shadow_hit(XmmuVcpu *vcpu, const XmmuAccess *access,
                       XmmuHwResult *result)
{
    const XmmuHostFormat *format = vcpu->vm->format;
    Hit hit = walk_tables(vcpu, vcpu->mmu->root.table, access->gva >> XMMU_PAGE_SHIFT);
    uint8_t page_access;

    if (is_current_mmio(vcpu, &hit)) {
        return shadow_mmio(vcpu, access, &hit, result);
    }
    if (!hit.present) {
        return false;
    }
    page_access = xmmu_spte_access(format, hit.spte);
    if (!shadow_allows(vcpu, access, access->want, page_access,
                       xmmu_spte_pkey(hit.spte)) ||
        !leaf_gpa(vcpu, &hit, access->gva, &result->gpa)) {
        return false;
    }
    if (access->want == XMMU_PROT_WRITE && !(hit.spte.raw & format->dirty)) {
        if (!xmmu_spte_set_bits(hit.sptep, hit.spte, format->dirty)) {
            return false;
        }
        hit.spte.raw |= format->dirty;
    }
    result->outcome = XMMU_HW_OK;
    result->hpa = leaf_hpa(&hit, access->gva) | (access->gva & ~XMMU_PAGE_MASK);
    result->prot = shadow_prot(vcpu, access, hit.spte, page_access);
    result->page_shift = guest_page_shift(&hit);
    return true;
}

/* Our tables do not allow it; true: the outcome is known.  Apart from the walk, which
 * most often needs none of this. */
static bool shadow_exit(XmmuVcpu *vcpu, const XmmuAccess *access, unsigned size,
                        XmmuHwResult *result)
{
    XmmuFault fault = { .access = *access, .size = size };

    switch (xmmu_shadow_fault(vcpu, &fault)) {
    case XMMU_PF_GUEST:
        result->outcome = XMMU_HW_EXCEPTION;
        result->exception = fault.exception;
        return true;
    case XMMU_PF_EMULATE:
        result->outcome = XMMU_HW_DIRECT;
        result->gpa = fault.gpa;
        result->prot = fault.prot;
        result->mmio = fault.mmio;
        result->page_shift = fault.page_shift;
        return true;
    case XMMU_PF_NOMEM:
        result->outcome = XMMU_HW_NOMEM;
        return true;
    case XMMU_PF_ASYNC:
        result->outcome = XMMU_HW_ASYNC;
        result->async = fault.async;
        return true;
    case XMMU_PF_RING_FULL:
        result->outcome = XMMU_HW_RING_FULL;
        return true;
    default:
        return false;
    }
}

static void translate_shadow(XmmuVcpu *vcpu, const XmmuAccess *access, unsigned size,
                             XmmuHwResult *result)
{
    for (unsigned exits = 0; exits < MAX_EXITS; exits++) {
        XmmuTable *root = __atomic_load_n(&vcpu->mmu->root.table, __ATOMIC_ACQUIRE);

        if ((root && !xmmu_table_stale(root) && shadow_hit(vcpu, access, result)) ||
            shadow_exit(vcpu, access, size, result)) {
            return;
        }
    }
    result->outcome = XMMU_HW_NOMEM;
}

/* ---- The engine's door ------------------------------------------------------------ */

static void enter(XmmuVcpu *vcpu)
{
    vcpu->vm->services->rcu_read_lock();
    xmmu_check_walk_begin(vcpu);
}

static void leave(XmmuVcpu *vcpu)
{
    xmmu_check_walk_end(vcpu);
    vcpu->vm->services->rcu_read_unlock();
}

void xmmu_hw_translate(XmmuVcpu *vcpu, const XmmuAccess *access, unsigned size,
                       XmmuHwResult *result)
{
    XmmuAccess linear = *access;

    linear.gva = xmmu_linear_address(vcpu, access);
    *result = (XmmuHwResult) { .page_shift = XMMU_PAGE_SHIFT };
    if (!xmmu_linear_canonical(vcpu, linear.gva)) {
        result->outcome = XMMU_HW_EXCEPTION;
        result->exception.vector = XMMU_EXC_GP;
        return;
    }
    enter(vcpu);
    xmmu_flush_note_use(vcpu);
    if (vcpu->vm->config.tdp) {
        vcpu->restartable = access->restartable;
        validate_caches(vcpu);
        translate_tdp(vcpu, &linear, size, result);
    } else {
        translate_shadow(vcpu, &linear, size, result);
    }
    result->prot &= xmmu_linear_prot(vcpu, access);
    if (result->outcome == XMMU_HW_OK) {
        xmmu_check_translated(vcpu, &linear, result->hpa, result->prot,
                              result->page_shift);
    }
    leave(vcpu);
}

static void translate_gpa_by_slots(XmmuVcpu *vcpu, gpa_t gpa, uint8_t want,
                                   XmmuHwResult *result)
{
    const XmmuRegion *slot = xmmu_slot_find(vcpu->vm, xmmu_vcpu_as(vcpu),
                                            gpa >> XMMU_PAGE_SHIFT);
    bool readonly = slot && (slot->flags & XMMU_REGION_READONLY);

    result->prot = readonly ? XMMU_PROT_READ | XMMU_PROT_EXEC : XMMU_PROT_RWX;
    if (!slot || !(result->prot & want)) {
        result->outcome = XMMU_HW_DIRECT;
        result->mmio = true;
        result->prot = XMMU_PROT_RWX;
        return;
    }
    result->outcome = XMMU_HW_OK;
    result->hpa = xmmu_slot_hpa(slot, gpa >> XMMU_PAGE_SHIFT) |
                  (gpa & ~XMMU_PAGE_MASK);
}

void xmmu_hw_translate_gpa(XmmuVcpu *vcpu, gpa_t gpa, uint8_t want, unsigned size,
                           XmmuHwResult *result)
{
    TdpResult tdp = { .outcome = XMMU_HW_NOMEM };

    gpa &= vcpu->walk_mmu->masks.gpa_mask;
    *result = (XmmuHwResult) { .gpa = gpa, .page_shift = XMMU_PAGE_SHIFT };
    enter(vcpu);
    if (vcpu->vm->config.tdp && !is_nested(vcpu)) {
        validate_caches(vcpu);
        vcpu->restartable = false;
        tdp_translate(vcpu, gpa, want, false, size, &tdp);
        result->outcome = tdp.outcome;
        result->hpa = tdp.hpa | (gpa & ~XMMU_PAGE_MASK);
        result->prot = tdp.prot;
        result->mmio = tdp.mmio;
    } else {
        translate_gpa_by_slots(vcpu, gpa, want, result);
    }
    leave(vcpu);
}

/* L1's tables as they are, without a trace. */
static bool map_for_debugger(XmmuVcpu *vcpu, gpa_t gpa, bool write,
                             XmmuTablePage *page)
{
    return xmmu_guest_walk_debug(&vcpu->guest_mmu, gpa, xmmu_map_through_slots, &gpa) &&
           xmmu_map_through_slots(vcpu, gpa, write, page);
}

bool xmmu_hw_translate_debug(XmmuVcpu *vcpu, gva_t gva, gpa_t *gpa)
{
    const XmmuServices *services = vcpu->vm->services;
    bool found;

    if (!vcpu->walk_mmu->role.lma) {
        gva &= 0xffffffff;
    }
    services->rcu_read_lock();
    if (is_nested(vcpu)) {
        found = xmmu_guest_walk_debug(vcpu->walk_mmu, gva, map_for_debugger, gpa) &&
                xmmu_guest_walk_debug(&vcpu->guest_mmu, *gpa, xmmu_map_through_slots,
                                      gpa);
    } else {
        found = xmmu_guest_walk_debug(vcpu->walk_mmu, gva, xmmu_map_through_slots, gpa);
    }
    services->rcu_read_unlock();
    return found;
}
