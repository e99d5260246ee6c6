/*
 * xmmu tests: which control-register states exist and how one gets there
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A model of the legality of writes to CR0, CR3, CR4 and EFER, independent of
 * accel/xmmu/mmu/cr_rules.c: it says which *states* may exist (a write that
 * would make another one is refused) and names the few changes that are refused
 * although both states may exist.  Intel SDM vol. 3, 2.5, 4.1.2, 9.8.5.  Needs
 * nothing but fixed-width integers, so that the bare-metal guests use it too.
 */
#ifndef XMMU_CR_MODEL_H
#define XMMU_CR_MODEL_H

#include <stdbool.h>
#include <stdint.h>

typedef enum CrmReg { CRM_CR0, CRM_CR3, CRM_CR4, CRM_EFER } CrmReg;

typedef struct CrmState {
    uint64_t cr0, cr3, cr4, efer;
    bool cs_l;                  /* the code segment's L bit */
} CrmState;

/* What the CPU model has. */
typedef struct CrmCpu {
    uint64_t cr4_bits, efer_bits;
    unsigned maxphyaddr;
    bool lam;                   /* linear-address masking */
} CrmCpu;

#define CRM_PE      0x1ull
#define CRM_NW      0x20000000ull
#define CRM_CD      0x40000000ull
#define CRM_PG      0x80000000ull
#define CRM_PAE     0x20ull
#define CRM_LA57    0x1000ull
#define CRM_PCIDE   0x20000ull
#define CRM_LAM_SUP 0x10000000ull
#define CRM_CR3_LAM 0x6000000000000000ull
#define CRM_LME     0x100ull
#define CRM_LMA     0x400ull

/* a implies b */
static inline bool crm_implies(bool a, bool b)
{
    return !a || b;
}

/* May a CPU be in this state at all? */
static inline bool crm_state_exists(const CrmCpu *cpu, const CrmState *s)
{
    bool lma = s->efer & CRM_LMA;
    uint64_t cr3 = s->cr3 & ~(cpu->lam ? CRM_CR3_LAM : 0);

    return crm_implies(s->cr0 & CRM_PG, s->cr0 & CRM_PE)
           && crm_implies(s->cr0 & CRM_NW, s->cr0 & CRM_CD)
           && !(s->cr0 >> 32)
           && lma == ((s->efer & CRM_LME) && (s->cr0 & CRM_PG))
           && crm_implies(lma, s->cr4 & CRM_PAE)
           && crm_implies(s->cr4 & CRM_PCIDE, lma)
           && !(s->cr4 & ~cpu->cr4_bits)
           && !(s->efer & ~(cpu->efer_bits | CRM_LMA))
           && crm_implies(lma, !(cr3 >> cpu->maxphyaddr));
}

/* Changes that are refused although both states exist. */
static inline bool crm_change_refused(const CrmState *from, const CrmState *to)
{
    bool was_long = from->efer & CRM_LMA;
    bool is_long = to->efer & CRM_LMA;

    /* Long mode is entered and left from a segment without L only. */
    if (was_long != is_long && from->cs_l) {
        return true;
    }
    if ((from->cr0 & CRM_PG) && ((from->efer ^ to->efer) & CRM_LME)) {
        return true;
    }
    if (was_long && ((from->cr4 ^ to->cr4) & CRM_LA57)) {
        return true;
    }
    return (~from->cr4 & to->cr4 & CRM_PCIDE) && (from->cr3 & 0xfff);
}

/*
 * A write of @value to @reg by an instruction whose operand has 64 bits in
 * long mode's 64-bit code and 32 elsewhere.  True: legal, and *@s is the new
 * state.  False: #GP(0), *@s is unchanged.
 */
static inline bool crm_write(const CrmCpu *cpu, CrmState *s, CrmReg reg,
                             uint64_t value)
{
    CrmState to = *s;

    switch (reg) {
    case CRM_CR0:
        to.cr0 = value | 0x10;                          /* ET is always 1 */
        to.efer &= ~CRM_LMA;
        to.efer |= (value & CRM_PG) && (to.efer & CRM_LME) ? CRM_LMA : 0;
        break;
    case CRM_CR3:
        /* Bit 63 is not stored. */
        to.cr3 = s->cr4 & CRM_PCIDE ? value & ~(1ull << 63) : value;
        break;
    case CRM_CR4:
        to.cr4 = value;
        break;
    case CRM_EFER:
        to.efer = (value & ~CRM_LMA) | (s->efer & CRM_LMA);
        break;
    }
    if (!crm_state_exists(cpu, &to) || crm_change_refused(s, &to)) {
        return false;
    }
    *s = to;
    return true;
}

#endif /* XMMU_CR_MODEL_H */
