/*
 * xmmu: what QEMU's own x86 files call
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each function is called from one hook (qemu/hooks/) and does nothing unless
 * xmmu is the accelerator.  They run on the vCPU's thread, or on another one
 * while the vCPU is stopped (reset, loadvm, debugger).
 *
 * Register changes pass through inconsistent states (VMRUN, RSM, loadvm), so
 * a change is only noted here; tlb.c takes the registers over before it
 * translates.
 */
#ifndef TARGET_I386_XMMU_HOOKS_H
#define TARGET_I386_XMMU_HOOKS_H

#include "cpu.h"
#include "accel/xmmu/enabled.h"
#include "system/tcg.h"

#if defined(CONFIG_USER_ONLY) || !defined(CONFIG_TCG)

/* For the files that are built without system emulation or TCG too. */
static inline void xmmu_cr0_changing(CPUX86State *env, uint32_t cr0) { }
static inline void xmmu_cr3_changing(CPUX86State *env, target_ulong cr3) { }
static inline void xmmu_cr4_changing(CPUX86State *env, uint32_t cr4) { }
static inline void xmmu_efer_changing(CPUX86State *env, uint64_t efer) { }
static inline void xmmu_a20_changed(CPUX86State *env) { }
static inline void xmmu_saving(CPUX86State *env) { }
static inline int xmmu_pre_load(void *cpu) { return 0; }
static inline void xmmu_loaded(CPUX86State *env) { }
static inline uint64_t xmmu_offered_features(FeatureWord word, uint64_t tcg)
{
    return tcg;
}
static inline bool xmmu_cpuid(CPUX86State *env, uint32_t index, uint32_t *eax,
                              uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    return false;
}
static inline bool xmmu_checks_canonical(void) { return false; }
static inline void xmmu_check_descriptor(CPUX86State *env, int selector,
                                         uint32_t e1, uint32_t e2, uint32_t e3,
                                         uintptr_t ra) { }

#else

void xmmu_note_cr0(CPUX86State *env, uint32_t cr0);
void xmmu_note_cr3(CPUX86State *env);
void xmmu_note_cr4(CPUX86State *env, uint32_t cr4);
void xmmu_note_efer(CPUX86State *env, uint64_t efer);
void xmmu_note_smm(CPUX86State *env);
void xmmu_note_a20(CPUX86State *env);
void xmmu_note_vmrun(CPUX86State *env);
void xmmu_note_save(CPUX86State *env);
void xmmu_note_loadvm(CPUX86State *env);
void xmmu_do_invlpg(CPUX86State *env, vaddr addr);
void xmmu_do_write_cr(CPUX86State *env, int reg, uint64_t value, uintptr_t ra);
void xmmu_do_check_efer(CPUX86State *env, uint64_t efer, uintptr_t ra);
uint64_t xmmu_do_offer_features(FeatureWord word, uint64_t tcg);
void xmmu_do_check_descriptor(CPUX86State *env, int selector, uint32_t e1,
                              uint32_t e2, uint32_t e3, uintptr_t ra);
void xmmu_do_check_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value,
                         uintptr_t ra);
void xmmu_do_apf_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value, uintptr_t ra);
void xmmu_do_rdmsr(CPUX86State *env, uint32_t msr, uint64_t *value, uintptr_t ra);
bool xmmu_do_cpuid(CPUX86State *env, uint32_t index, uint32_t regs[4]);

/* The register still has its old value. */
static inline void xmmu_cr0_changing(CPUX86State *env, uint32_t cr0)
{
    if (xmmu_enabled()) {
        xmmu_note_cr0(env, cr0);
    }
}

static inline void xmmu_cr3_changing(CPUX86State *env, target_ulong cr3)
{
    if (xmmu_enabled()) {
        xmmu_note_cr3(env);
    }
}

static inline void xmmu_cr4_changing(CPUX86State *env, uint32_t cr4)
{
    if (xmmu_enabled()) {
        xmmu_note_cr4(env, cr4);
    }
}

static inline void xmmu_efer_changing(CPUX86State *env, uint64_t efer)
{
    if (xmmu_enabled()) {
        xmmu_note_efer(env, efer);
    }
}

/* SMM was entered or left. */
static inline void xmmu_a20_changed(CPUX86State *env)
{
    if (xmmu_enabled()) {
        xmmu_note_a20(env);
    }
}

static inline void xmmu_smm_changed(CPUX86State *env)
{
    if (xmmu_enabled()) {
        xmmu_note_smm(env);
    }
}

/* VMRUN with nested paging, before L2's registers are loaded. */
static inline void xmmu_vmrun(CPUX86State *env)
{
    if (xmmu_enabled()) {
        xmmu_note_vmrun(env);
    }
}

/*
 * The CPU state is about to be written.  TCG has no PDPTE registers: what a stream
 * brought it of them is out of date.
 */
static inline void xmmu_saving(CPUX86State *env)
{
    if (xmmu_enabled()) {
        xmmu_note_save(env);
    } else if (tcg_enabled()) {
        env->pdptrs_valid = false;
    }
}

/* The CPU state is about to be read, maybe from a stream without PDPTEs. */
static inline int xmmu_pre_load(void *cpu)
{
    X86CPU *x86 = cpu;

    if (xmmu_enabled()) {
        x86->env.pdptrs_valid = false;
    }
    return 0;
}

/* The whole CPU state was replaced. */
static inline void xmmu_loaded(CPUX86State *env)
{
    if (xmmu_enabled()) {
        xmmu_note_loadvm(env);
    }
}

static inline void xmmu_invlpg(CPUX86State *env, vaddr addr)
{
    if (xmmu_enabled()) {
        xmmu_do_invlpg(env, addr);
    }
}

/*
 * MOV to CR@reg (and LMSW) in full, intercepts first; raises #GP for what the
 * manuals forbid.  False: not ours, TCG shall do it.
 */
static inline bool xmmu_write_cr(CPUX86State *env, int reg, uint64_t value,
                                 uintptr_t ra)
{
    if (!xmmu_enabled() || (reg != 0 && reg != 3 && reg != 4)) {
        return false;
    }
    xmmu_do_write_cr(env, reg, value, ra);
    return true;
}

/* WRMSR of EFER: raises #GP for what the manuals forbid. */
static inline void xmmu_check_wrmsr_efer(CPUX86State *env, uint64_t efer,
                                         uintptr_t ra)
{
    if (xmmu_enabled()) {
        xmmu_do_check_efer(env, efer, ra);
    }
}

/* Bits of a CPUID word that xmmu offers; @tcg is what TCG does. */
static inline uint64_t xmmu_offered_features(FeatureWord word, uint64_t tcg)
{
    return xmmu_enabled() ? xmmu_do_offer_features(word, tcg) : tcg;
}

/* Translated code shall call helper_xmmu_check_canonical(). */
static inline bool xmmu_checks_canonical(void)
{
    return xmmu_enabled();
}

/* LLDT and LTR in long mode: raises #GP for a base that is not canonical. */
static inline void xmmu_check_descriptor(CPUX86State *env, int selector,
                                         uint32_t e1, uint32_t e2, uint32_t e3,
                                         uintptr_t ra)
{
    if (xmmu_enabled()) {
        xmmu_do_check_descriptor(env, selector, e1, e2, e3, ra);
    }
}

/* WRMSR of any register: raises #GP for an address that is not canonical.  Those of
 * asynchronous page faults are written. */
static inline void xmmu_check_wrmsr(CPUX86State *env, uint32_t msr,
                                    uint64_t value, uintptr_t ra)
{
    if (xmmu_enabled()) {
        xmmu_do_check_wrmsr(env, msr, value, ra);
        xmmu_do_apf_wrmsr(env, msr, value, ra);
    }
}

/* RDMSR of any register: @value is TCG's answer, or ours then. */
static inline void xmmu_rdmsr(CPUX86State *env, uint32_t msr, uint64_t *value,
                              uintptr_t ra)
{
    if (xmmu_enabled()) {
        xmmu_do_rdmsr(env, msr, value, ra);
    }
}

/* A leaf of CPUID that is xmmu's to answer. */
static inline bool xmmu_cpuid(CPUX86State *env, uint32_t index, uint32_t *eax,
                              uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    uint32_t regs[4];

    if (!xmmu_enabled() || !xmmu_do_cpuid(env, index, regs)) {
        return false;
    }
    *eax = regs[0];
    *ebx = regs[1];
    *ecx = regs[2];
    *edx = regs[3];
    return true;
}

#endif /* CONFIG_USER_ONLY || !CONFIG_TCG */
#endif /* TARGET_I386_XMMU_HOOKS_H */
