/*
 * xmmu tests: a naive reference of x86 address translation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * See ref_mmu.h.  The order of the checks is the manuals': every entry is
 * first looked at for presence, then for reserved bits, on the way down; access
 * rights are judged once, at the end, over the whole path (SDM 4.6, 4.7).  Real
 * processors may set accessed flags on the way to a fault; here a faulting
 * access sets none, and a caller that compares must allow both.
 */
#include "ref_mmu.h"

#define BIT(n)          ((uint64_t)1 << (n))
#define BITS(hi, lo)    ((~(uint64_t)0 >> (63 - (hi))) & (~(uint64_t)0 << (lo)))

#define CR0_WP          BIT(16)
#define CR0_PG          BIT(31)
#define CR4_PSE         BIT(4)
#define CR4_PAE         BIT(5)
#define CR4_LA57        BIT(12)
#define CR4_SMEP        BIT(20)
#define CR4_SMAP        BIT(21)
#define CR4_PKE         BIT(22)
#define CR4_PKS         BIT(24)
#define EFER_LMA        BIT(10)
#define EFER_NXE        BIT(11)

#define E_P             BIT(0)
#define E_RW            BIT(1)
#define E_US            BIT(2)
#define E_A             BIT(5)
#define E_D             BIT(6)
#define E_PS            BIT(7)
#define E_XD            BIT(63)

#define EC_P            1u
#define EC_W            2u
#define EC_U            4u
#define EC_RSVD         8u
#define EC_I            16u
#define EC_PK           32u

/* A walk on its way down. */
typedef struct Walk {
    const RefMmu *mmu;
    const RefAccess *access;
    RefVisitFn *visit;
    void *opaque;
    unsigned levels;
} Walk;

/* Rights gathered from the entries above. */
typedef struct Rights {
    bool writable, user, xd;
} Rights;

unsigned ref_paging_levels(const RefRegs *r)
{
    if (!(r->cr0 & CR0_PG)) {
        return 0;
    }
    if (!(r->cr4 & CR4_PAE)) {
        return 2;
    }
    if (!(r->efer & EFER_LMA)) {
        return 3;
    }
    return r->cr4 & CR4_LA57 ? 5 : 4;
}

/* SDM table 4-8: P=1 with bits 2:1, 8:5 or 63:MAXPHYADDR set. */
bool ref_pdptes_bad(const RefCaps *caps, const uint64_t pdpte[4])
{
    uint64_t reserved = BITS(2, 1) | BITS(8, 5) | BITS(63, caps->maxphyaddr);

    for (int i = 0; i < 4; i++) {
        if ((pdpte[i] & E_P) && (pdpte[i] & reserved)) {
            return true;
        }
    }
    return false;
}

static uint64_t a20(const RefMmu *mmu, uint64_t phys)
{
    return mmu->regs.a20_masked ? phys & ~BIT(20) : phys;
}

/* ---- 4.7: the error code ---------------------------------------------- */

static uint32_t access_code(const Walk *w)
{
    const RefRegs *r = &w->mmu->regs;
    uint32_t code = 0;

    if (w->access->kind == REF_WRITE) {
        code |= EC_W;
    }
    if (w->access->user) {
        code |= EC_U;
    }
    if (w->access->kind == REF_FETCH &&
        ((r->cr4 & CR4_SMEP) || ((r->cr4 & CR4_PAE) && (r->efer & EFER_NXE)))) {
        code |= EC_I;
    }
    return code;
}

static bool end_fault(const Walk *w, RefResult *res, uint32_t code)
{
    res->fault = true;
    res->error_code = code | access_code(w);
    for (unsigned i = 0; i < res->steps; i++) {
        res->step[i].set = 0;
    }
    return w->visit(w->opaque, res);
}

/* ---- 4.6: access rights ----------------------------------------------- */

/* 4.6.2: true when the protection key denies an access of this kind. */
static bool key_denies(const Walk *w, const Rights *rights, unsigned key,
                       unsigned kind)
{
    const RefRegs *r = &w->mmu->regs;
    uint32_t rights_reg;
    bool ad, wd;

    if (w->levels < 4 || kind == REF_FETCH) {
        return false;
    }
    if (rights->user) {
        if (!(r->cr4 & CR4_PKE)) {
            return false;
        }
        rights_reg = r->pkru;
    } else {
        if (!(r->cr4 & CR4_PKS)) {
            return false;
        }
        rights_reg = r->pkrs;
    }
    ad = (rights_reg >> (2 * key)) & 1;
    wd = (rights_reg >> (2 * key + 1)) & 1;
    if (ad) {
        return true;
    }
    if (kind == REF_WRITE && wd) {
        /* A supervisor-mode access minds WD only when CR0.WP = 1. */
        return w->access->user || (r->cr0 & CR0_WP);
    }
    return false;
}

/* 4.6.1, without protection keys. */
static bool rights_allow(const Walk *w, const Rights *rights, unsigned kind)
{
    const RefRegs *r = &w->mmu->regs;

    if (w->access->user) {
        if (!rights->user) {
            return false;
        }
        if (kind == REF_WRITE) {
            return rights->writable;
        }
        if (kind == REF_FETCH) {
            return !rights->xd;
        }
        return true;
    }
    if (kind == REF_FETCH) {
        if (rights->user && (r->cr4 & CR4_SMEP)) {
            return false;
        }
        return !rights->xd;
    }
    if (rights->user && (r->cr4 & CR4_SMAP) && !w->access->ac) {
        return false;
    }
    if (kind == REF_WRITE && (r->cr0 & CR0_WP)) {
        return rights->writable;
    }
    return true;
}

/* A page was reached: judge the rights and report. */
static bool end_page(const Walk *w, RefResult *res, const Rights *rights,
                     uint64_t base, unsigned shift)
{
    static const unsigned kinds[3] = { REF_READ, REF_WRITE, REF_FETCH };
    unsigned kind = w->access->kind;
    RefStep *leaf = &res->step[res->steps - 1];
    unsigned key = (leaf->value >> 59) & 15;

    res->phys = a20(w->mmu, base | (w->access->linear & (BIT(shift) - 1)));
    res->page_shift = shift;
    res->allowed = 0;
    for (int i = 0; i < 3; i++) {
        if (rights_allow(w, rights, kinds[i]) &&
            !key_denies(w, rights, key, kinds[i])) {
            res->allowed |= kinds[i];
        }
    }
    if (!(res->allowed & kind)) {
        return end_fault(w, res, EC_P | (key_denies(w, rights, key, kind) ? EC_PK : 0));
    }
    for (unsigned i = 0; i < res->steps; i++) {
        res->step[i].set = E_A;
    }
    if (kind == REF_WRITE) {
        leaf->set |= E_D;
    }
    res->dirty = (leaf->value | leaf->set) & E_D;
    return w->visit(w->opaque, res);
}

/* ---- 4.3: 32-bit paging ------------------------------------------------ */

static uint64_t reserved_4m(const RefCaps *caps)
{
    unsigned m = caps->maxphyaddr < 40 ? caps->maxphyaddr : 40;

    if (!caps->pse36) {
        m = 32;
    }
    return BITS(21, m - 19);
}

static bool is_4m(const Walk *w, uint64_t pde)
{
    return (w->mmu->regs.cr4 & CR4_PSE) && (pde & E_PS);
}

static uint64_t base_4m(uint64_t pde)
{
    return (pde & BITS(31, 22)) | ((pde & BITS(20, 13)) << 19);
}

/* ---- 4.4, 4.5: 8-byte entries ------------------------------------------ */

static uint64_t reserved_64(const Walk *w, unsigned level, uint64_t entry)
{
    const RefCaps *caps = &w->mmu->caps;
    uint64_t reserved = caps->maxphyaddr < 52 ? BITS(51, caps->maxphyaddr) : 0;
    bool ps = entry & E_PS;

    if (!(w->mmu->regs.efer & EFER_NXE)) {
        reserved |= E_XD;
    }
    if (w->levels == 3) {
        reserved |= BITS(62, 52);
    }
    switch (level) {
    case 5:
    case 4:
        reserved |= E_PS;
        if (caps->amd) {
            reserved |= BIT(8);
        }
        break;
    case 3:
        if (ps) {
            reserved |= caps->page1g ? BITS(29, 13) : E_PS;
        }
        break;
    case 2:
        if (ps) {
            reserved |= BITS(20, 13);
        }
        break;
    }
    return reserved;
}

/* ---- The way down ------------------------------------------------------ */

static bool walk_level(const Walk *w, unsigned level, uint64_t table,
                       Rights rights, const RefResult *above);

/* One value of the entry whose address and size are in the last step. */
static bool walk_entry(const Walk *w, unsigned level, Rights rights,
                       const RefValue *v, RefResult *res)
{
    bool wide = w->levels != 2;
    uint64_t e = v->value;
    bool large;

    res->step[res->steps - 1].value = e;
    res->step[res->steps - 1].until = v->until;
    if (v->until && (!res->oldest || v->until < res->oldest)) {
        res->oldest = v->until;
    }

    if (!(e & E_P)) {
        return end_fault(w, res, 0);
    }
    if (wide) {
        large = (level == 2 || level == 3) && (e & E_PS);
        if (e & reserved_64(w, level, e)) {
            return end_fault(w, res, EC_P | EC_RSVD);
        }
    } else {
        large = level == 2 && is_4m(w, e);
        if (large && (e & reserved_4m(&w->mmu->caps))) {
            return end_fault(w, res, EC_P | EC_RSVD);
        }
    }
    rights.writable &= !!(e & E_RW);
    rights.user &= !!(e & E_US);
    rights.xd |= wide && (e & E_XD);

    if (large && !wide) {
        return end_page(w, res, &rights, base_4m(e), 22);
    }
    if (large) {
        unsigned shift = level == 2 ? 21 : 30;
        return end_page(w, res, &rights, e & BITS(51, shift), shift);
    }
    if (level == 1) {
        return end_page(w, res, &rights, e & (wide ? BITS(51, 12) : BITS(31, 12)), 12);
    }
    return walk_level(w, level - 1, e & (wide ? BITS(51, 12) : BITS(31, 12)),
                      rights, res);
}

static bool walk_level(const Walk *w, unsigned level, uint64_t table,
                       Rights rights, const RefResult *above)
{
    bool wide = w->levels != 2;
    unsigned bits = wide ? 9 : 10;
    unsigned size = wide ? 8 : 4;
    unsigned index = (w->access->linear >> (12 + bits * (level - 1))) & (BIT(bits) - 1);
    uint64_t addr = a20(w->mmu, table + (uint64_t)index * size);
    RefValue values[REF_MAX_VALUES];
    unsigned n = w->mmu->read(w->mmu->opaque, addr, size, values);

    for (unsigned i = 0; i < n; i++) {
        RefResult res = *above;
        RefStep *step = &res.step[res.steps++];

        step->addr = addr;
        step->size = size;
        step->set = 0;
        if (walk_entry(w, level, rights, &values[i], &res)) {
            return true;
        }
    }
    return false;
}

static bool walk_none(const Walk *w, RefResult *res)
{
    res->phys = a20(w->mmu, w->access->linear & BITS(31, 0));
    res->allowed = REF_READ | REF_WRITE | REF_FETCH;
    res->page_shift = 32;
    res->dirty = true;
    return w->visit(w->opaque, res);
}

static bool walk_pae(const Walk *w, Rights rights, RefResult *res)
{
    uint64_t pdpte = w->mmu->regs.pdpte[(w->access->linear >> 30) & 3];

    if (!(pdpte & E_P)) {
        return end_fault(w, res, 0);
    }
    return walk_level(w, 2, pdpte & BITS(51, 12), rights, res);
}

bool ref_translate_all(const RefMmu *mmu, const RefAccess *access,
                       RefVisitFn *visit, void *opaque)
{
    Walk w = {
        .mmu = mmu, .access = access, .visit = visit, .opaque = opaque,
        .levels = ref_paging_levels(&mmu->regs),
    };
    Rights all = { .writable = true, .user = true, .xd = false };
    RefResult res = { 0 };

    switch (w.levels) {
    case 0:
        return walk_none(&w, &res);
    case 2:
        return walk_level(&w, 2, mmu->regs.cr3 & BITS(31, 12), all, &res);
    case 3:
        return walk_pae(&w, all, &res);
    default:
        return walk_level(&w, w.levels, mmu->regs.cr3 & BITS(51, 12), all, &res);
    }
}

static bool take_first(void *opaque, const RefResult *result)
{
    *(RefResult *)opaque = *result;
    return true;
}

void ref_translate(const RefMmu *mmu, const RefAccess *access, RefResult *result)
{
    /* The first path that is reported is the one of current values. */
    ref_translate_all(mmu, access, take_first, result);
}
