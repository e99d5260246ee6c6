/*
 * xmmu: writes to the registers that decide translation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns MOV to CR0, CR3 and CR4, LMSW and the checks of WRMSR EFER: which of them
 * raise #GP, when the PDPTE registers are loaded, and which ones flush the
 * guest's translations.  The rules themselves are the core's (cr_rules.c).
 *
 * Check, then commit: nothing changes before all that can raise an exception
 * has been looked at.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "exec/log.h"
#include "tcg/helper-tcg.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/xmmu-cpu.h"

/* ---- Notes for the next take-over ------------------------------------------ */

static void note(CPUX86State *env, uint8_t what)
{
    AccelCPUState *accel = env_cpu(env)->accel;

    /* During realization there is none yet. */
    if (accel) {
        accel->pending |= XMMU_PENDING_REGS | what;
    }
}

/* Intel SDM vol. 3, 4.10.4.1; the PDPTEs: 4.4.1. */
void xmmu_note_cr0(CPUX86State *env, uint32_t cr0)
{
    uint32_t flipped = env->cr[0] ^ cr0;
    uint8_t what = 0;

    if (flipped & (CR0_PG_MASK | CR0_WP_MASK | CR0_PE_MASK)) {
        what |= XMMU_PENDING_FLUSH;
    }
    if (flipped & (CR0_PG_MASK | CR0_CD_MASK | CR0_NW_MASK)) {
        what |= XMMU_PENDING_PDPTE;
    }
    note(env, what);
    xmmu_native_note_mode(env_cpu(env));
}

void xmmu_note_cr3(CPUX86State *env)
{
    /* Without paging there is nothing to flush, and TCG does not. */
    note(env, XMMU_PENDING_PDPTE |
         (env->cr[0] & CR0_PG_MASK ? XMMU_PENDING_FLUSH : 0));
}

void xmmu_note_cr4(CPUX86State *env, uint32_t cr4)
{
    uint32_t flipped = env->cr[4] ^ cr4;
    uint8_t what = 0;

    if (flipped & (CR4_PGE_MASK | CR4_PAE_MASK | CR4_PSE_MASK |
                   CR4_SMEP_MASK | CR4_SMAP_MASK | CR4_LA57_MASK)) {
        what |= XMMU_PENDING_FLUSH;
    }
    if (flipped & (CR4_PGE_MASK | CR4_PAE_MASK | CR4_PSE_MASK |
                   CR4_SMEP_MASK)) {
        what |= XMMU_PENDING_PDPTE;
    }
    /* Clearing PCIDE flushes all PCIDs; setting it flushes nothing. */
    if (flipped & ~cr4 & CR4_PCIDE_MASK) {
        tlb_flush(env_cpu(env));
        what |= XMMU_PENDING_FLUSH;
    }
    /* TCG's TLB holds permissions with the keys in them, and pointers with the
     * metadata in them; TCG forgets these. */
    if (flipped & (CR4_PKE_MASK | CR4_PKS_MASK | CR4_LAM_SUP_MASK)) {
        tlb_flush(env_cpu(env));
    }
    note(env, what);
}

void xmmu_note_efer(CPUX86State *env, uint64_t efer)
{
    /* Neither does TCG flush for NXE, which decides about execution. */
    if ((env->efer ^ efer) & MSR_EFER_NXE) {
        tlb_flush(env_cpu(env));
        note(env, XMMU_PENDING_FLUSH);
    }
    note(env, (env->efer ^ efer) & MSR_EFER_LMA ? XMMU_PENDING_PDPTE : 0);
}

/*
 * TCG flushes for the changes of CR0 that come with SMM, but an SMI in real
 * mode changes none of these bits while it changes the address space.
 */
void xmmu_note_smm(CPUX86State *env)
{
    tlb_flush(env_cpu(env));
    note(env, XMMU_PENDING_FLUSH);
    xmmu_native_note_mode(env_cpu(env));
}

/* QEMU flushes TCG's TLBs; that A20 is masked is a part of the role. */
void xmmu_note_a20(CPUX86State *env)
{
    xmmu_native_note_mode(env_cpu(env));
}

void xmmu_do_invlpg(CPUX86State *env, vaddr addr)
{
    CPUState *cs = env_cpu(env);

    /* TCG drops the entry of this address, but not those of pointers to it. */
    if (xmmu_lam_active(env)) {
        tlb_flush(cs);
    }
    /* TCG's TLB is all that holds these translations. */
    if (xmmu_parent_translates(env)) {
        return;
    }
    xmmu_take_over(cs);
    xmmu_vcpu_invlpg(cs->accel->vcpu, addr);
}

/* ---- Rules ------------------------------------------------------------------- */

/* A bit of CR4 that exists only with a feature: Intel SDM vol. 3, 2.5. */
typedef struct Cr4Feature {
    uint64_t bits;
    FeatureWord word;
    uint64_t feature;           /* any of these offers the bits */
} Cr4Feature;

static const Cr4Feature cr4_features[] = {
    { CR4_VME_MASK | CR4_PVI_MASK, FEAT_1_EDX, CPUID_VME },
    { CR4_TSD_MASK, FEAT_1_EDX, CPUID_TSC },
    { CR4_DE_MASK, FEAT_1_EDX, CPUID_DE },
    { CR4_PSE_MASK, FEAT_1_EDX, CPUID_PSE },
    { CR4_PAE_MASK, FEAT_1_EDX, CPUID_PAE },
    { CR4_MCE_MASK, FEAT_1_EDX, CPUID_MCE },
    { CR4_PGE_MASK, FEAT_1_EDX, CPUID_PGE },
    { CR4_OSFXSR_MASK, FEAT_1_EDX, CPUID_FXSR },
    { CR4_OSXMMEXCPT_MASK, FEAT_1_EDX, CPUID_SSE },
    { CR4_UMIP_MASK, FEAT_7_0_ECX, CPUID_7_0_ECX_UMIP },
    { CR4_LA57_MASK, FEAT_7_0_ECX, CPUID_7_0_ECX_LA57 },
    { CR4_VMXE_MASK, FEAT_1_ECX, CPUID_EXT_VMX },
    { CR4_SMXE_MASK, FEAT_1_ECX, CPUID_EXT_SMX },
    { CR4_FSGSBASE_MASK, FEAT_7_0_EBX, CPUID_7_0_EBX_FSGSBASE },
    { CR4_PCIDE_MASK, FEAT_1_ECX, CPUID_EXT_PCID },
    { CR4_OSXSAVE_MASK, FEAT_1_ECX, CPUID_EXT_XSAVE },
    { CR4_SMEP_MASK, FEAT_7_0_EBX, CPUID_7_0_EBX_SMEP },
    { CR4_SMAP_MASK, FEAT_7_0_EBX, CPUID_7_0_EBX_SMAP },
    { CR4_PKE_MASK, FEAT_7_0_ECX, CPUID_7_0_ECX_PKU },
    { CR4_PKS_MASK, FEAT_7_0_ECX, CPUID_7_0_ECX_PKS },
    { CR4_LAM_SUP_MASK, FEAT_7_1_EAX, CPUID_7_1_EAX_LAM },
    { CR4_FRED_MASK, FEAT_7_1_EAX, CPUID_7_1_EAX_FRED },
};

static uint64_t cr4_reserved(CPUX86State *env)
{
    uint64_t allowed = CR4_PCE_MASK;

    for (size_t i = 0; i < ARRAY_SIZE(cr4_features); i++) {
        const Cr4Feature *f = &cr4_features[i];

        if (env->features[f->word] & f->feature) {
            allowed |= f->bits;
        }
    }
    return ~allowed;
}

/* AMD APM vol. 2, 3.1.7. */
static uint64_t efer_reserved(CPUX86State *env)
{
    uint64_t edx = env->features[FEAT_8000_0001_EDX];
    uint64_t allowed = 0;

    if (edx & CPUID_EXT2_SYSCALL) {
        allowed |= MSR_EFER_SCE;
    }
    if (edx & CPUID_EXT2_LM) {
        allowed |= MSR_EFER_LME | MSR_EFER_LMA;
    }
    if (edx & CPUID_EXT2_NX) {
        allowed |= MSR_EFER_NXE;
    }
    if (edx & CPUID_EXT2_FFXSR) {
        allowed |= MSR_EFER_FFXSR;
    }
    if (env->features[FEAT_8000_0001_ECX] & CPUID_EXT3_SVM) {
        allowed |= MSR_EFER_SVME;
    }
    return ~allowed;
}

static void get_rules(CPUX86State *env, XmmuCrRules *rules)
{
    unsigned tr_type = (env->tr.flags >> DESC_TYPE_SHIFT) & 15;

    *rules = (XmmuCrRules) {
        .cr4_reserved = cr4_reserved(env),
        .efer_reserved = efer_reserved(env),
        .maxphyaddr = env_cpu(env)->accel->caps.maxphyaddr,
        .long_mode = env->features[FEAT_8000_0001_EDX] & CPUID_EXT2_LM,
        .lam = env_cpu(env)->accel->caps.lam,
        /* Of the descriptor: also where long mode is not active. */
        .cs_l = env->segs[R_CS].flags & DESC_L_MASK,
        /* Available or busy 16-bit TSS. */
        .tr_tss16 = tr_type == 1 || tr_type == 3,
    };
}

static void refuse(CPUX86State *env, const char *why, uintptr_t ra)
{
    if (why) {
        trace_xmmu_refuse(env_cpu(env)->cpu_index, why);
        qemu_log_mask(LOG_GUEST_ERROR, "xmmu: #GP(0): %s\n", why);
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    }
}

void xmmu_do_check_efer(CPUX86State *env, uint64_t efer, uintptr_t ra)
{
    XmmuCrRules rules;
    XmmuRegs old;

    get_rules(env, &rules);
    xmmu_read_regs(env, &old);
    refuse(env, xmmu_check_efer(&rules, &old, efer), ra);
}

static const char *check_write(CPUX86State *env, const XmmuRegs *old, int reg,
                               uint64_t value)
{
    XmmuCrRules rules;

    get_rules(env, &rules);
    switch (reg) {
    case 0:
        return xmmu_check_cr0(&rules, old, value);
    case 3:
        return xmmu_check_cr3(&rules, old, value);
    default:
        return xmmu_check_cr4(&rules, old, value);
    }
}

/* ---- PDPTEs ------------------------------------------------------------------- */

/*
 * With verify=on, TCG's walker on any vCPU may have set the accessed bit, which is
 * reserved here; with a single vCPU verify.c puts the PDPTE back.
 */
static uint64_t ignored_pdpte_bits(void)
{
    return xmmu_state.verify && CPU_NEXT(first_cpu) ? PG_ACCESSED_MASK : 0;
}

void xmmu_read_pdptes(CPUX86State *env, uint64_t cr3, uint64_t pdpte[4])
{
    hwaddr base = (cr3 & 0xffffffe0u) & x86_get_a20_mask(env);

    for (int i = 0; i < 4; i++) {
        pdpte[i] = x86_ldq_phys(env_cpu(env), base + 8 * i) &
                   ~ignored_pdpte_bits();
    }
}

/*
 * Whether this write loads the PDPTE registers (Intel SDM vol. 3, 4.4.1).  With
 * EFER.LME, setting CR0.PG activates long mode instead.  Under nested paging the
 * PDPTEs are read during the walk (AMD APM vol. 2, 15.25.10).
 */
static bool loads_pdptes(CPUX86State *env, const XmmuRegs *old, int reg,
                         uint64_t value)
{
    if (env->hflags2 & HF2_NPT_MASK) {
        return false;
    }
    switch (reg) {
    case 0:
        return ((old->cr0 ^ value) & (CR0_PG_MASK | CR0_CD_MASK | CR0_NW_MASK)) &&
               xmmu_is_pae_paging(value, old->cr4, old->efer) &&
               !(old->efer & MSR_EFER_LME);
    case 3:
        return xmmu_is_pae_paging(old->cr0, old->cr4, old->efer);
    default:
        return ((old->cr4 ^ value) & (CR4_PAE_MASK | CR4_PGE_MASK |
                                      CR4_PSE_MASK | CR4_SMEP_MASK)) &&
               xmmu_is_pae_paging(old->cr0, value, old->efer);
    }
}

/* ---- The instructions ----------------------------------------------------------- */

/*
 * Intercepts come before exceptions that depend on the operand's value: AMD APM
 * vol. 2, 15.9.  All but this one were checked by generated code.
 */
static void check_selective_intercept(CPUX86State *env, int reg, uint64_t value,
                                      uintptr_t ra)
{
    if (reg == 0 &&
        ((env->cr[0] ^ value) & ~(uint64_t)(CR0_TS_MASK | CR0_MP_MASK)) &&
        cpu_svm_has_intercept(env, SVM_EXIT_CR0_SEL_WRITE)) {
        cpu_vmexit(env, SVM_EXIT_CR0_SEL_WRITE, 0, ra);
    }
}

static void commit(CPUX86State *env, int reg, uint64_t value)
{
    switch (reg) {
    case 0:
        cpu_x86_update_cr0(env, value);
        break;
    case 3:
        xmmu_pcid_loading(env);
        cpu_x86_update_cr3(env, value & ~XMMU_CR3_NO_FLUSH);
        xmmu_pcid_loaded(env, value);
        break;
    default:
        cpu_x86_update_cr4(env, value);
        break;
    }
}

/* For a vCPU in hardware: no guest of a guest, and TCG's TLB is empty. */
bool xmmu_load_cr3_directly(CPUX86State *env, uint64_t value)
{
    XmmuRegs old;

    if (!(env->hflags & HF_CS64_MASK)) {
        value = (uint32_t)value;
    }
    xmmu_read_regs(env, &old);
    if (check_write(env, &old, 3, value) || loads_pdptes(env, &old, 3, value)) {
        return false;
    }
    xmmu_pcid_loading(env);
    env->cr[3] = value & ~XMMU_CR3_NO_FLUSH;
    xmmu_note_cr3(env);
    xmmu_pcid_loaded(env, value);
    return true;
}

void xmmu_do_write_cr(CPUX86State *env, int reg, uint64_t value, uintptr_t ra)
{
    AccelCPUState *accel = env_cpu(env)->accel;
    uint64_t pdpte[4];
    XmmuRegs old;
    bool load;

    /* Outside 64-bit code the operand has 32 bits. */
    if (!(env->hflags & HF_CS64_MASK)) {
        value = (uint32_t)value;
    }
    check_selective_intercept(env, reg, value, ra);
    xmmu_read_regs(env, &old);
    refuse(env, check_write(env, &old, reg, value), ra);
    load = loads_pdptes(env, &old, reg, value);
    if (load) {
        xmmu_read_pdptes(env, reg == 3 ? value : old.cr3, pdpte);
        refuse(env, xmmu_check_pdptes(&accel->caps, pdpte), ra);
    }

    commit(env, reg, value);
    if (load) {
        memcpy(accel->pdpte, pdpte, sizeof(pdpte));
        accel->pending &= ~XMMU_PENDING_PDPTE;
    }
}
