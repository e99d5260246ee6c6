/*
 * xmmu: which writes to control registers are legal
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the rules by which MOV to CR0, CR3 and CR4, WRMSR of EFER and the load
 * of the PAE PDPTEs raise #GP(0) instead of changing anything.  Pure functions:
 * they look at the old registers and at the value to be written, never at
 * memory, and change nothing.  Called by the engine before it commits a write,
 * and by tests.
 *
 * Where Intel and AMD differ, the comment at the rule says what was chosen.
 */
#include <glib.h>

#include "mmu.h"

/* Only looked at here: CET is not offered, so CR4.CET is normally reserved. */
#define CR4_CET             (1u << 23)

/* PDPTE bits 2:1 and 8:5 (Intel SDM vol. 3, table 4-8). */
#define PDPTE_PRESENT       1u
#define PDPTE_LOW_RESERVED  0x1e6u

/* Bits @maxphyaddr .. 63. */
static uint64_t bits_above(unsigned maxphyaddr)
{
    g_assert(maxphyaddr >= 32 && maxphyaddr <= 52);
    return ~(uint64_t)0 << maxphyaddr;
}

/*
 * PG 0->1.  With LME set this activates IA-32e mode, for which Intel SDM
 * vol. 3, 9.8.5 and AMD APM vol. 2, 14.6.1 name the consistency checks.
 */
static const char *check_paging_on(const XmmuCrRules *rules,
                                   const XmmuRegs *old)
{
    if (!(old->efer & XMMU_EFER_LME)) {
        return NULL;
    }
    if (!(old->cr4 & XMMU_CR4_PAE)) {
        return "CR0.PG set with EFER.LME=1 and CR4.PAE=0";
    }
    if (rules->cs_l) {
        return "CR0.PG set with EFER.LME=1 from a code segment with CS.L=1";
    }
    if (rules->tr_tss16) {
        return "CR0.PG set with EFER.LME=1 and a 16-bit TSS in TR";
    }
    return NULL;
}

/* PG 1->0: Intel SDM vol. 2, MOV to control registers; vol. 3, 4.10.1. */
static const char *check_paging_off(const XmmuCrRules *rules,
                                    const XmmuRegs *old)
{
    if ((old->efer & XMMU_EFER_LMA) && rules->cs_l) {
        return "CR0.PG cleared in 64-bit mode";
    }
    if (old->cr4 & XMMU_CR4_PCIDE) {
        return "CR0.PG cleared with CR4.PCIDE=1";
    }
    return NULL;
}

/*
 * Intel SDM vol. 3, 2.5; AMD APM vol. 2, 3.1.1.  Reserved bits of the low half
 * are ignored by both vendors' processors, so there is no rule for them.
 */
const char *xmmu_check_cr0(const XmmuCrRules *rules, const XmmuRegs *old,
                           uint64_t cr0)
{
    uint64_t flipped = old->cr0 ^ cr0;

    if (cr0 >> 32) {
        return "CR0[63:32] not zero";
    }
    if ((cr0 & XMMU_CR0_PG) && !(cr0 & XMMU_CR0_PE)) {
        return "CR0.PG=1 with CR0.PE=0";
    }
    if ((cr0 & XMMU_CR0_NW) && !(cr0 & XMMU_CR0_CD)) {
        return "CR0.NW=1 with CR0.CD=0";
    }
    if (!(cr0 & XMMU_CR0_WP) && (old->cr4 & CR4_CET)) {
        return "CR0.WP=0 with CR4.CET=1";
    }
    if (flipped & XMMU_CR0_PG) {
        return cr0 & XMMU_CR0_PG ? check_paging_on(rules, old)
                                 : check_paging_off(rules, old);
    }
    return NULL;
}

/*
 * Intel SDM vol. 3, 4.10.4.1; AMD APM vol. 2, 5.3.2.  Outside IA-32e mode the
 * operand has 32 bits and nothing in it can be wrong.  Bit 63 of the operand
 * asks to keep the PCID's translations and exists only with CR4.PCIDE.  The low
 * bits are ignored without PCIDE, and with it every value is a PCID.  Bits 62:61
 * exist with linear-address masking.
 */
const char *xmmu_check_cr3(const XmmuCrRules *rules, const XmmuRegs *old,
                           uint64_t cr3)
{
    if (!(old->efer & XMMU_EFER_LMA)) {
        return NULL;
    }
    if (old->cr4 & XMMU_CR4_PCIDE) {
        cr3 &= ~XMMU_CR3_NO_FLUSH;
    }
    if (rules->lam) {
        cr3 &= ~(XMMU_CR3_LAM_U48 | XMMU_CR3_LAM_U57);
    }
    return cr3 & bits_above(rules->maxphyaddr)
           ? "CR3 has bits above MAXPHYADDR" : NULL;
}

/* CR4.PCIDE 0->1: Intel SDM vol. 3, 4.10.1. */
static const char *check_pcide_on(const XmmuRegs *old)
{
    if (!(old->efer & XMMU_EFER_LMA)) {
        return "CR4.PCIDE set outside IA-32e mode";
    }
    if (old->cr3 & XMMU_CR3_PCID_MASK) {
        return "CR4.PCIDE set with CR3[11:0] not zero";
    }
    return NULL;
}

/* Intel SDM vol. 3, 2.5 and 4.1.2; AMD APM vol. 2, 3.1.3. */
const char *xmmu_check_cr4(const XmmuCrRules *rules, const XmmuRegs *old,
                           uint64_t cr4)
{
    uint64_t flipped = old->cr4 ^ cr4;

    if (cr4 & rules->cr4_reserved) {
        return "CR4 has bits that this CPU does not have";
    }
    if (old->efer & XMMU_EFER_LMA) {
        if (!(cr4 & XMMU_CR4_PAE)) {
            return "CR4.PAE cleared in IA-32e mode";
        }
        if (flipped & XMMU_CR4_LA57) {
            return "CR4.LA57 changed in IA-32e mode";
        }
    }
    if ((cr4 & CR4_CET) && !(old->cr0 & XMMU_CR0_WP)) {
        return "CR4.CET=1 with CR0.WP=0";
    }
    if (flipped & cr4 & XMMU_CR4_PCIDE) {
        return check_pcide_on(old);
    }
    return NULL;
}

/*
 * Intel SDM vol. 3, 4.1.2 and table 2-1 (IA32_EFER); AMD APM vol. 2, 3.1.7.
 * LMA only reports; a write of either value is accepted and does nothing, as on
 * Intel's processors (the caller keeps the old LMA).
 */
const char *xmmu_check_efer(const XmmuCrRules *rules, const XmmuRegs *old,
                            uint64_t efer)
{
    uint64_t flipped = old->efer ^ efer;

    if (efer & rules->efer_reserved & ~(uint64_t)XMMU_EFER_LMA) {
        return "EFER has bits that this CPU does not have";
    }
    if ((efer & XMMU_EFER_LME) && !rules->long_mode) {
        return "EFER.LME set on a CPU without long mode";
    }
    if ((flipped & XMMU_EFER_LME) && (old->cr0 & XMMU_CR0_PG)) {
        return "EFER.LME changed with CR0.PG=1";
    }
    return NULL;
}

/*
 * Intel SDM vol. 2, INVPCID; AMD APM vol. 3, INVPCID.  As for other addresses that
 * are not accessed, the width that the CPU has counts, not that of the paging mode.
 */
const char *xmmu_check_invpcid(const XmmuRegs *regs, unsigned linear_bits,
                               uint64_t type, const uint64_t descriptor[2])
{
    int64_t high = (int64_t)descriptor[1] >> (linear_bits - 1);

    if (type > XMMU_INVPCID_NON_GLOBAL) {
        return "INVPCID of an unknown type";
    }
    if (descriptor[0] & ~(uint64_t)XMMU_CR3_PCID_MASK) {
        return "INVPCID with reserved bits in its descriptor";
    }
    if (type <= XMMU_INVPCID_PCID && descriptor[0] &&
        !(regs->cr4 & XMMU_CR4_PCIDE)) {
        return "INVPCID of a PCID with CR4.PCIDE=0";
    }
    if (type == XMMU_INVPCID_ADDRESS && high != 0 && high != -1) {
        return "INVPCID of an address that is not canonical";
    }
    return NULL;
}

/*
 * Intel SDM vol. 3, 4.4.1: MOV to CR3, and the writes to CR0 and CR4 that load
 * the PDPTEs, refuse a present PDPTE with a reserved bit.  AMD's processors
 * read the PDPTEs during the walk and answer with #PF instead; the guests we
 * care for work with either, and Intel's is the stricter one.
 */
const char *xmmu_check_pdptes(const XmmuCpuCaps *caps, const uint64_t pdpte[4])
{
    uint64_t reserved = bits_above(caps->maxphyaddr) | PDPTE_LOW_RESERVED;

    for (int i = 0; i < 4; i++) {
        if ((pdpte[i] & PDPTE_PRESENT) && (pdpte[i] & reserved)) {
            return "present PDPTE with a reserved bit";
        }
    }
    return NULL;
}
