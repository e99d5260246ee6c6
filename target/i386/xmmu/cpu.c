/*
 * xmmu: x86 vCPUs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the accelerator's CPU class, the life of a vCPU's XmmuVcpu, and the
 * taking over of the guest's registers by the core.  Registers are taken over
 * lazily: whatever changes them sets a bit in AccelCPUState.pending.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/rcu.h"
#include "cpu.h"
#include "accel/accel-cpu-target.h"
#include "exec/cputlb.h"
#include "hw/core/sysemu-cpu-ops.h"
#include "accel/xmmu/trace.h"
#include "accel/xmmu/engine/native.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/xmmu-cpu.h"

const TCGCPUOps *xmmu_parent_tcg_ops;

/* ---- Registers ------------------------------------------------------------ */

void xmmu_read_regs(CPUX86State *env, XmmuRegs *regs)
{
    AccelCPUState *accel = env_cpu(env)->accel;

    *regs = (XmmuRegs) {
        .cr0 = env->cr[0],
        .cr3 = env->cr[3],
        .cr4 = env->cr[4],
        .efer = env->efer,
        .pkru = env->pkru,
        .pkrs = env->pkrs,
        .smm = env->hflags & HF_SMM_MASK,
        .a20_masked = !(x86_get_a20_mask(env) & (1 << 20)),
    };
    memcpy(regs->pdpte, accel->pdpte, sizeof(regs->pdpte));
}

/* Forgets what the core read from guest memory that was then replaced. */
static void zap_if_due(void)
{
    if (qatomic_read(&xmmu_state.zap_due) &&
        qatomic_xchg(&xmmu_state.zap_due, false)) {
        xmmu_vm_zap_all(xmmu_state.vm);
    }
}

void xmmu_take_over_slow(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);
    AccelCPUState *accel = cs->accel;
    uint8_t pending = accel->pending;

    trace_xmmu_take_over(cs->cpu_index, env->cr[0], env->cr[3], env->cr[4],
                         env->efer, pending);
    accel->pending = 0;
    /* Synchronising zaps tables, and goes on reading them. */
    RCU_READ_LOCK_GUARD();
    zap_if_due();
    if (pending & XMMU_PENDING_RESET) {
        xmmu_vcpu_reset(accel->vcpu);
    }
    if ((pending & XMMU_PENDING_PDPTE) && !(env->hflags2 & HF2_NPT_MASK) &&
        xmmu_is_pae_paging(env->cr[0], env->cr[4], env->efer)) {
        xmmu_read_pdptes(env, env->cr[3], accel->pdpte);
    }
    accel->a20_mask = env->a20_mask;
    xmmu_read_regs(env, &accel->regs);
    if ((pending & (XMMU_PENDING_PCID | XMMU_PENDING_KEEP)) &&
        !(pending & XMMU_PENDING_FLUSH)) {
        xmmu_vcpu_flushed(accel->vcpu);
        xmmu_vcpu_load_cr3(accel->vcpu, &accel->regs,
                           pending & XMMU_PENDING_KEEP);
        return;
    }
    if (env->hflags2 & HF2_NPT_MASK) {
        xmmu_take_over_l2(cs, &accel->regs, pending);
    } else {
        xmmu_vcpu_leave_nested(accel->vcpu, &accel->regs);
    }
    if (pending & XMMU_PENDING_FLUSH) {
        xmmu_vcpu_flush_guest(accel->vcpu);
    }
}

void xmmu_cpu_state_replaced(CPUState *cs)
{
    if (cs->accel) {
        tlb_flush(cs);
        cs->accel->pending |= XMMU_PENDING_REGS | XMMU_PENDING_FLUSH;
    }
}

/*
 * The PDPTE registers travel in a subsection that QEMU has for them: memory may have
 * other values by now (Intel SDM vol. 3, 4.4.1).
 */
void xmmu_note_save(CPUX86State *env)
{
    AccelCPUState *accel = env_cpu(env)->accel;

    env->pdptrs_valid = accel && !(accel->pending & XMMU_PENDING_PDPTE) &&
                        !(env->hflags2 & HF2_NPT_MASK) &&
                        xmmu_is_pae_paging(env->cr[0], env->cr[4], env->efer);
    if (env->pdptrs_valid) {
        memcpy(env->pdptrs, accel->pdpte, sizeof(env->pdptrs));
    }
}

/* A stream without them comes from TCG, which reads memory. */
static void load_pdptes(CPUX86State *env)
{
    AccelCPUState *accel = env_cpu(env)->accel;

    if (env->pdptrs_valid) {
        memcpy(accel->pdpte, env->pdptrs, sizeof(accel->pdpte));
        accel->pending &= ~XMMU_PENDING_PDPTE;
    } else {
        accel->pending |= XMMU_PENDING_PDPTE;
    }
}

void xmmu_note_loadvm(CPUX86State *env)
{
    CPUState *cs = env_cpu(env);

    /* Shadow tables go when the VM runs again (xmmu-all.c). */
    xmmu_cpu_state_replaced(cs);
    load_pdptes(env);
    xmmu_native_tsc_loaded(cs);
    cs->accel->pending |= XMMU_PENDING_RESET;
    cs->accel->apf_loaded = true;
}

/* ---- Life of a vCPU --------------------------------------------------------- */

static void get_caps(X86CPU *cpu, XmmuCpuCaps *caps)
{
    CPUX86State *env = &cpu->env;

    *caps = (XmmuCpuCaps) {
        .maxphyaddr = MIN(cpu->phys_bits, 52),
        .page1g = env->features[FEAT_8000_0001_EDX] & CPUID_EXT2_PDPE1GB,
        .pse36 = env->features[FEAT_1_EDX] & CPUID_PSE36,
        .amd_pml4e_bit8 = IS_AMD_CPU(env),
        .lam = env->features[FEAT_7_1_EAX] & CPUID_7_1_EAX_LAM,
    };
}

/* Also INIT.  The first one ends realization: only then are the features final. */
void xmmu_cpu_reset(CPUState *cs)
{
    AccelCPUState *accel = cs->accel;

    if (!accel->vcpu) {
        get_caps(X86_CPU(cs), &accel->caps);
        accel->vcpu = xmmu_vcpu_new(xmmu_state.vm, cs->cpu_index, &accel->caps);
        if (!accel->vcpu) {
            error_report("xmmu: no host memory for a vCPU");
            exit(EXIT_FAILURE);
        }
    }
    memset(accel->pdpte, 0, sizeof(accel->pdpte));
    accel->pending |= XMMU_PENDING_REGS | XMMU_PENDING_RESET;
    accel->apf_halted = false;
    accel->apf_loaded = false;
    xmmu_native_vcpu_replaced(cs);
}

XmmuWriter xmmu_cpu_writer(CPUState *cs)
{
    if (cs->accel->asks_parent) {
        return XMMU_WRITER_NOBODY;
    }
    return xmmu_parent_translates(cpu_env(cs)) ? XMMU_WRITER_TCG : XMMU_WRITER_GUEST;
}

XmmuVcpu *xmmu_cpu_core(CPUState *cs)
{
    return cs->accel ? cs->accel->vcpu : NULL;
}

void xmmu_cpu_flushed(CPUState *cs)
{
    if (cs->accel && cs->accel->vcpu) {
        xmmu_vcpu_flushed(cs->accel->vcpu);
    }
}

/* SMRAM is seen by all vCPUs alike: the first one's address space stands for all. */
static void listen_to_smm(CPUState *cs)
{
    if (!xmmu_state.memory[XMMU_AS_SMM].as) {
        xmmu_memory_listen(&xmmu_state.memory[XMMU_AS_SMM], xmmu_state.vm,
                           XMMU_AS_SMM, cpu_get_address_space(cs, X86ASIdx_SMM),
                           "xmmu-smm");
    }
}

static bool (*parent_realize)(CPUState *cs, Error **errp);

static bool xmmu_cpu_realize(CPUState *cs, Error **errp)
{
    if (!parent_realize(cs, errp) || !xmmu_native_tsc_realize(cs, errp)) {
        return false;
    }
    cs->accel = g_new0(AccelCPUState, 1);
    xmmu_apf_realize(X86_CPU(cs));
    listen_to_smm(cs);
    return true;
}

void xmmu_cpu_unrealize(CPUState *cs)
{
    if (cs->accel->vcpu) {
        xmmu_vcpu_free(cs->accel->vcpu);
    }
    g_free(cs->accel);
    cs->accel = NULL;
}

/* ---- Class ------------------------------------------------------------------ */

static void (*parent_cpu_class_init)(CPUClass *cc);
static void (*parent_init_accel_cpu)(AccelCPUClass *acc, CPUClass *cc);

/* All x86 CPU classes share TCG's operations, so one copy serves them all. */
static void xmmu_init_accel_cpu(AccelCPUClass *acc, CPUClass *cc)
{
    static TCGCPUOps ops;
    static SysemuCPUOps sysemu_ops;

    parent_init_accel_cpu(acc, cc);
    xmmu_parent_tcg_ops = cc->tcg_ops;
    ops = *cc->tcg_ops;
    ops.tlb_fill = xmmu_tlb_fill;
    ops.do_interrupt = xmmu_do_interrupt;
    ops.cpu_exec_halt = xmmu_cpu_exec_halt;
    cc->tcg_ops = &ops;

    sysemu_ops = *cc->sysemu_ops;
    sysemu_ops.get_phys_page_attrs_debug = xmmu_get_phys_page_attrs_debug;
    cc->sysemu_ops = &sysemu_ops;
}

static void xmmu_cpu_class_init(CPUClass *cc)
{
    parent_cpu_class_init(cc);
    parent_init_accel_cpu = cc->init_accel_cpu;
    cc->init_accel_cpu = xmmu_init_accel_cpu;
}

static void (*parent_instance_init)(CPUState *cs);

static void xmmu_cpu_instance_init(CPUState *cs)
{
    parent_instance_init(cs);
    xmmu_native_cpu_defaults(X86_CPU(cs));
}

static void xmmu_accel_cpu_class_init(ObjectClass *oc, void *data)
{
    AccelCPUClass *acc = ACCEL_CPU_CLASS(oc);

    parent_cpu_class_init = acc->cpu_class_init;
    acc->cpu_class_init = xmmu_cpu_class_init;
    parent_instance_init = acc->cpu_instance_init;
    acc->cpu_instance_init = xmmu_cpu_instance_init;
    parent_realize = acc->cpu_target_realize;
    acc->cpu_target_realize = xmmu_cpu_realize;
}

static const TypeInfo xmmu_accel_cpu_type = {
    .name = ACCEL_CPU_NAME("xmmu"),
    .parent = ACCEL_CPU_NAME("tcg"),
    .class_init = xmmu_accel_cpu_class_init,
    .abstract = true,
};

static void xmmu_accel_cpu_register_types(void)
{
    type_register_static(&xmmu_accel_cpu_type);
}
type_init(xmmu_accel_cpu_register_types);
