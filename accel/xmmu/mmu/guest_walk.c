/*
 * xmmu: the walk of guest tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the architecture's rules: which entries are read, which bits are
 * reserved, what an access may do, which error code a fault has, when A and D
 * are set.  Intel SDM vol. 3, 4.3 to 4.8; AMD APM vol. 2, 5.2 to 5.6.  Tables that
 * L1 made for L2 are walked by the same code: AMD APM vol. 2, 15.25 (as legacy tables
 * that a user accesses), Intel SDM vol. 3, 29.3.
 *
 * A and D are set only after the whole walk succeeded.  The manuals let a CPU
 * set A bits of upper levels even when the access faults later; not doing so is
 * the simpler of the two legal behaviours.
 *
 * Called by the vCPU's thread without locks.  The guest's other vCPUs may change
 * the tables at any time: an entry is read once, and A/D updates compare.
 */
#include <string.h>
#include "guest_walk.h"
#include "vm.h"

/* Where the entry of one level was found. */
typedef struct EntryRef {
    gpa_t gpa;
    gpa_t bus;                  /* the same, as the bus sees it */
    uint8_t *host;              /* NULL: read from the bus */
    bool writable;
} EntryRef;

typedef struct Walker {
    XmmuMmu *mmu;
    const XmmuMasks *masks;
    const XmmuAccess *access;
    XmmuTableMapFn *map;
    XmmuWalkCache *cache;       /* NULL: every level is read */
    XmmuGuestWalk *walk;
    int top;                    /* level that the walk began at */
    gpa_t table;                /* the table there */
    EntryRef entry[XMMU_MAX_LEVEL + 1];
} Walker;

void xmmu_walk_cache_flush(XmmuWalkCache *cache)
{
    if (++cache->epoch == 0) {          /* an entry that old might still be there */
        memset(cache, 0, sizeof(*cache));
        cache->epoch = 1;
    }
}

bool xmmu_map_through_slots(XmmuVcpu *vcpu, gpa_t gpa, bool write,
                            XmmuTablePage *page)
{
    gfn_t gfn = gpa >> XMMU_PAGE_SHIFT;
    const XmmuRegion *slot = xmmu_slot_find(vcpu->vm, xmmu_vcpu_as(vcpu), gfn);

    (void)write;        /* a slot is writable or not, whoever asks */
    page->bus = gpa & XMMU_PAGE_MASK;
    if (!slot) {
        page->host = NULL;
        page->writable = false;
        return true;
    }
    page->host = (uint8_t *)(uintptr_t)xmmu_slot_hpa(slot, gfn);
    page->writable = !(slot->flags & XMMU_REGION_READONLY);
    return true;
}

static uint32_t pfec(const Walker *w, uint32_t cause)
{
    const XmmuAccess *access = w->access;

    if (access->want == XMMU_PROT_WRITE) {
        cause |= XMMU_PFEC_W;
    }
    if (access->user) {
        cause |= XMMU_PFEC_U;
    }
    if (access->want == XMMU_PROT_EXEC && w->masks->fetch_in_pfec) {
        cause |= XMMU_PFEC_I;
    }
    return cause;
}

static XmmuWalkStatus fault(Walker *w, uint32_t cause)
{
    w->walk->exception = (XmmuException) {
        .vector = XMMU_EXC_PF,
        .error_code = pfec(w, cause),
        .cr2 = w->access->gva,
    };
    return XMMU_WALK_FAULT;
}

static uint64_t read_entry(const Walker *w, const EntryRef *ref)
{
    unsigned size = w->masks->guest->entry_size;

    if (!ref->host) {
        XmmuVm *vm = w->mmu->vcpu->vm;

        return vm->services->read_bus(vm->opaque, w->mmu->regs.smm, ref->bus, size);
    }
    return xmmu_gpte_load(ref->host, size);
}

static bool load_entry(Walker *w, int level, gpa_t table)
{
    const XmmuGuestFormat *format = w->masks->guest;
    EntryRef *ref = &w->entry[level];
    XmmuTablePage page;
    unsigned index = xmmu_guest_index(format, level, w->access->gva);

    ref->gpa = (table + index * format->entry_size) & w->masks->gpa_mask;
    if (!w->map(w->mmu->vcpu, ref->gpa, false, &page)) {
        return false;
    }
    ref->bus = page.bus + (ref->gpa & ~XMMU_PAGE_MASK);
    ref->host = page.host ? page.host + (ref->gpa & ~XMMU_PAGE_MASK) : NULL;
    ref->writable = page.host && page.writable;
    w->walk->uncached |= !page.host;
    w->walk->table_gfn[level] = ref->gpa >> XMMU_PAGE_SHIFT;
    w->walk->gpte[level].raw = read_entry(w, ref);
    return true;
}

/* PDPTEs are registers in PAE paging: Intel SDM vol. 3, 4.4.1. */
static bool entry_is_register(const Walker *w, int level)
{
    return w->masks->pdpte_registers && level == XMMU_PAE_ROOT_LEVEL;
}

/* A PDPTE of PAE paging, wherever it is: it has neither rights nor A. */
static bool entry_is_pdpte(const Walker *w, int level)
{
    return (w->masks->pdpte_registers || w->masks->pdpte_memory) &&
           level == XMMU_PAE_ROOT_LEVEL;
}

static bool is_leaf(const XmmuMasks *masks, XmmuGpte gpte, int level)
{
    return level == 1 ||
           ((gpte.raw & XMMU_GPTE_PS) && (masks->large_levels >> level & 1));
}

uint8_t xmmu_gpte_access(XmmuGpte gpte)
{
    uint8_t access = XMMU_ACC_EXEC;

    if (gpte.raw & XMMU_GPTE_W) {
        access |= XMMU_ACC_WRITE;
    }
    if (gpte.raw & XMMU_GPTE_U) {
        access |= XMMU_ACC_USER;
    }
    if (gpte.raw & XMMU_GPTE_NX) {
        access &= ~XMMU_ACC_EXEC;       /* reserved, and refused, without NXE */
    }
    return access;
}

uint8_t xmmu_epte_access(XmmuGpte epte)
{
    return (epte.raw & XMMU_EPTE_R ? XMMU_ACC_USER : 0) |
           (epte.raw & XMMU_EPTE_W ? XMMU_ACC_WRITE : 0) |
           (epte.raw & XMMU_EPTE_X ? XMMU_ACC_EXEC : 0);
}

gpa_t xmmu_gpte_frame(const XmmuMasks *masks, XmmuGpte gpte, int level)
{
    gpa_t frame = gpte.raw & masks->addr_mask;

    if (level > 1) {
        frame &= ~(((gpa_t)1 << xmmu_guest_shift(masks->guest, level)) - 1);
    }
    if (masks->guest == &xmmu_guest_32bit && level == 2) {
        frame |= (gpte.raw & 0x1fe000) << 19;   /* PSE-36: bits 39:32 */
    }
    return frame;
}

static void finish_path(Walker *w, int level)
{
    XmmuGuestWalk *walk = w->walk;
    XmmuGpte leaf = walk->gpte[level];
    unsigned shift = xmmu_guest_shift(w->masks->guest, level);
    gpa_t offset = w->access->gva & (((gva_t)1 << shift) - 1);

    walk->level = level;
    walk->page_shift = shift;
    walk->dirty = !w->masks->dirty || (leaf.raw & w->masks->dirty);
    walk->pkey = w->masks->has_pkey ? leaf.raw >> XMMU_GPTE_PK_SHIFT & 15 : 0;
    walk->gpa = (xmmu_gpte_frame(w->masks, leaf, level) + offset) &
                w->masks->gpa_mask;
}

static void begin_at_root(Walker *w)
{
    w->top = w->masks->guest->levels;
    w->table = w->mmu->regs.cr3 & w->masks->root_mask;
    w->walk->access = XMMU_ACC_ALL;
}

/* What one table at @level maps. */
static uint64_t region_of(const Walker *w, int level)
{
    return w->access->gva >> xmmu_guest_shift(w->masks->guest, level + 1);
}

/* As far down as the cache knows the way. */
static bool begin_in_cache(Walker *w)
{
    if (!w->cache) {
        return false;
    }
    for (int level = 1; level <= XMMU_WALK_CACHE_LEVELS; level++) {
        const XmmuWalkCacheEntry *entry =
            xmmu_walk_cache_find(w->cache, level, region_of(w, level));

        if (entry) {
            w->top = level;
            w->table = entry->table;
            w->walk->access = entry->access;
            return true;
        }
    }
    return false;
}

/* Only of a path that was good to its end, so that its A bits are set. */
static void remember(const Walker *w)
{
    const XmmuGuestWalk *walk = w->walk;
    int highest = MIN(w->top - 1, XMMU_WALK_CACHE_LEVELS);

    if (!w->cache || walk->uncached) {
        return;
    }
    for (int level = walk->level; level <= highest; level++) {
        xmmu_walk_cache_insert(w->cache, level, region_of(w, level),
                               walk->table_gfn[level] << XMMU_PAGE_SHIFT,
                               walk->table_access[level]);
    }
}

static uint8_t entry_access(const Walker *w, int level)
{
    XmmuGpte gpte = w->walk->gpte[level];

    if (w->mmu->role.ept) {
        return xmmu_epte_access(gpte);
    }
    return entry_is_pdpte(w, level) ? XMMU_ACC_ALL : xmmu_gpte_access(gpte);
}

/* Follow the path to its leaf, checking presence and reserved bits. */
static XmmuWalkStatus follow(Walker *w)
{
    XmmuGuestWalk *walk = w->walk;
    const XmmuRegs *regs = &w->mmu->regs;
    gpa_t table = w->table;

    for (int level = w->top;; level--) {
        XmmuGpte *gpte = &walk->gpte[level];
        bool leaf;

        walk->table_access[level] = walk->access;
        if (entry_is_register(w, level)) {
            gpte->raw = regs->pdpte[w->access->gva >> 30 & 3];
            walk->table_gfn[level] = XMMU_NO_GFN;
        } else if (!load_entry(w, level, table)) {
            return XMMU_WALK_ABORTED;
        }
        if (!(gpte->raw & w->masks->present)) {
            walk->access = 0;
            return fault(w, 0);
        }
        leaf = is_leaf(w->masks, *gpte, level);
        if ((gpte->raw & w->masks->rsvd[level][leaf && level > 1]) ||
            (w->masks->bad_low >> (gpte->raw & 63) & 1)) {
            return fault(w, XMMU_PFEC_RSVD | XMMU_PFEC_P);
        }
        walk->access &= entry_access(w, level);
        if (leaf) {
            finish_path(w, level);
            return XMMU_WALK_OK;
        }
        table = gpte->raw & w->masks->addr_mask;
    }
}

static bool compare_and_set(const Walker *w, const EntryRef *ref, uint64_t old,
                            uint64_t new)
{
    if (w->masks->guest->entry_size == 4) {
        uint32_t expected = old;

        return __atomic_compare_exchange_n((uint32_t *)ref->host, &expected,
                                           (uint32_t)new, false,
                                           __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    return __atomic_compare_exchange_n((uint64_t *)ref->host, &old, new, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* Set A or D in one entry.  A table in ROM or MMIO keeps its bits. */
static XmmuWalkStatus mark_entry(Walker *w, int level, uint64_t bits)
{
    const XmmuServices *services = w->mmu->vcpu->vm->services;
    EntryRef *ref = &w->entry[level];
    XmmuGpte *gpte = &w->walk->gpte[level];
    XmmuTablePage page;

    if (!(bits & ~gpte->raw) || !ref->writable) {
        return XMMU_WALK_OK;
    }
    if (!w->map(w->mmu->vcpu, ref->gpa, true, &page)) {
        return XMMU_WALK_ABORTED;
    }
    if (!page.host || !page.writable ||
        page.host != ref->host - (ref->gpa & ~XMMU_PAGE_MASK) ||
        !compare_and_set(w, ref, gpte->raw, gpte->raw | bits)) {
        return XMMU_WALK_RACED;
    }
    gpte->raw |= bits;
    if (services->guest_written) {
        services->guest_written(w->mmu->vcpu->vm->opaque, (uintptr_t)ref->host,
                                w->masks->guest->entry_size);
    }
    return XMMU_WALK_OK;
}

static XmmuWalkStatus mark_path(Walker *w)
{
    XmmuGuestWalk *walk = w->walk;

    for (int level = w->top; level >= walk->level; level--) {
        uint64_t bits = w->masks->accessed;
        XmmuWalkStatus status;

        if (entry_is_pdpte(w, level)) {
            continue;
        }
        if (level == walk->level && w->access->want == XMMU_PROT_WRITE) {
            bits |= w->masks->dirty;
        }
        status = mark_entry(w, level, bits);
        if (status != XMMU_WALK_OK) {
            return status;
        }
    }
    walk->dirty = w->access->want == XMMU_PROT_WRITE || walk->dirty;
    return XMMU_WALK_OK;
}

static bool pkey_denies(const Walker *w, uint8_t want)
{
    return xmmu_pkey_denies(w->masks, &w->mmu->regs, want, w->access->user,
                            w->walk->access, w->walk->pkey);
}

static void walk_without_paging(const XmmuMmu *mmu, const XmmuAccess *access,
                                XmmuGuestWalk *walk)
{
    walk->access = XMMU_ACC_ALL;
    walk->page_shift = XMMU_PAGE_SHIFT;
    walk->dirty = true;
    walk->gpa = access->gva & mmu->masks.gpa_mask;
}

/* From where the walker begins to the end. */
static XmmuWalkStatus walk_to_end(Walker *w)
{
    const XmmuAccess *access = w->access;
    XmmuWalkStatus status;
    uint32_t denied = 0;

    w->walk->uncached = false;
    status = follow(w);
    if (status != XMMU_WALK_OK) {
        return status;
    }
    if (!xmmu_perm_allows(w->masks->guest_perm, access->want, access->user,
                          access->smap_off, w->walk->access)) {
        denied |= XMMU_PFEC_P;
    }
    if (pkey_denies(w, access->want)) {
        denied |= XMMU_PFEC_P | XMMU_PFEC_PK;
    }
    return denied ? fault(w, denied) : mark_path(w);
}

XmmuWalkStatus xmmu_guest_walk(XmmuMmu *mmu, const XmmuAccess *access,
                               XmmuTableMapFn *map, XmmuWalkCache *cache,
                               XmmuGuestWalk *walk)
{
    XMMU_UNINITIALIZED Walker w;
    XmmuWalkStatus status;

    w.mmu = mmu;
    w.masks = &mmu->masks;
    w.access = access;
    w.map = map;
    w.cache = cache;
    w.walk = walk;
    xmmu_count(&mmu->vcpu->stats.guest_walks);
    walk->level = 0;
    walk->pkey = 0;
    if (!mmu->role.pg) {
        walk->uncached = false;
        walk_without_paging(mmu, access, walk);
        return XMMU_WALK_OK;
    }
    if (begin_in_cache(&w)) {
        status = walk_to_end(&w);
        if (status == XMMU_WALK_OK) {
            remember(&w);
            return status;
        }
    }
    begin_at_root(&w);
    status = walk_to_end(&w);
    if (status == XMMU_WALK_OK) {
        remember(&w);
    }
    return status;
}

uint8_t xmmu_guest_prot(const XmmuMmu *mmu, const XmmuAccess *access,
                        const XmmuGuestWalk *walk)
{
    uint8_t prot = 0;

    for (uint8_t want = XMMU_PROT_READ; want <= XMMU_PROT_EXEC; want <<= 1) {
        if (xmmu_perm_allows(mmu->masks.guest_perm, want, access->user,
                             access->smap_off, walk->access) &&
            !xmmu_pkey_denies(&mmu->masks, &mmu->regs, want, access->user,
                              walk->access, walk->pkey)) {
            prot |= want;
        }
    }
    if (!walk->dirty) {
        prot &= ~XMMU_PROT_WRITE;
    }
    return prot;
}

bool xmmu_guest_walk_debug(XmmuMmu *mmu, gva_t gva, XmmuTableMapFn *map,
                           gpa_t *gpa)
{
    XmmuAccess access = { .gva = gva, .want = XMMU_PROT_READ };
    XmmuGuestWalk walk = { .level = 0 };
    Walker w = {
        .mmu = mmu,
        .masks = &mmu->masks,
        .access = &access,
        .map = map,
        .walk = &walk,
    };

    if (!mmu->role.pg) {
        walk_without_paging(mmu, &access, &walk);
        *gpa = walk.gpa;
        return true;
    }
    begin_at_root(&w);
    if (follow(&w) != XMMU_WALK_OK) {
        return false;
    }
    *gpa = walk.gpa;
    return true;
}
