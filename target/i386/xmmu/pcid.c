/*
 * xmmu: PCID and INVPCID
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns two CPU features that TCG lacks: which feature bits xmmu adds, MOV to CR3
 * with PCIDs, and the INVPCID instruction.  Called by hooks in QEMU's CPU model and
 * in TCG's decoder, and by cr.c.
 *
 * TCG's TLB has no PCIDs: it holds translations of the current one only, and is
 * emptied whenever CR3 is loaded.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/cputlb.h"
#include "exec/helper-proto.h"
#include "exec/log.h"
#include "tcg/helper-tcg.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/xmmu-cpu.h"

/* AMD APM vol. 2, 15.9 and appendix B and C: TCG's description of the VMCB does not
 * know this intercept. */
#define SVM_EXIT_INVPCID        0xa2
#define VMCB_INTERCEPTS_5       0x14
#define INTERCEPT_INVPCID       (1u << 2)

/* Without paging there is nothing to flush, and TCG does not.  For a guest of the
 * guest with nested paging no table of ours depends on its PCIDs. */
static bool load_flushes(CPUX86State *env)
{
    return (env->cr[0] & CR0_PG_MASK) && !(env->hflags2 & HF2_NPT_MASK);
}

/* What is pending from before must not be taken for this load's. */
void xmmu_pcid_loading(CPUX86State *env)
{
    if (load_flushes(env)) {
        xmmu_take_over(env_cpu(env));
    }
}

void xmmu_pcid_loaded(CPUX86State *env, uint64_t operand)
{
    AccelCPUState *accel = env_cpu(env)->accel;

    if (!load_flushes(env)) {
        return;
    }
    accel->pending &= ~XMMU_PENDING_FLUSH;
    accel->pending |= operand & XMMU_CR3_NO_FLUSH ? XMMU_PENDING_KEEP
                                                  : XMMU_PENDING_PCID;
}

/* ---- INVPCID ------------------------------------------------------------------- */

static void check_invpcid_intercept(CPUX86State *env, uint64_t type,
                                    target_ulong address, uintptr_t ra)
{
    CPUState *cs = env_cpu(env);

    if (!(env->hflags & HF_GUEST_MASK) ||
        !(x86_ldl_phys(cs, env->vm_vmcb + VMCB_INTERCEPTS_5) & INTERCEPT_INVPCID)) {
        return;
    }
    x86_stq_phys(cs, env->vm_vmcb + offsetof(struct vmcb, control.exit_info_2),
                 type);
    cpu_vmexit(env, SVM_EXIT_INVPCID, address, ra);
}

static void check_operands(CPUX86State *env, uint64_t type,
                           const uint64_t descriptor[2], uintptr_t ra)
{
    bool la57 = env->features[FEAT_7_0_ECX] & CPUID_7_0_ECX_LA57;
    XmmuRegs regs;
    const char *why;

    xmmu_read_regs(env, &regs);
    why = xmmu_check_invpcid(&regs, la57 ? 57 : 48, type, descriptor);
    if (why) {
        trace_xmmu_refuse(env_cpu(env)->cpu_index, why);
        qemu_log_mask(LOG_GUEST_ERROR, "xmmu: #GP(0): %s\n", why);
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    }
}

/* What TCG has cached, see above.  Returns whether its TLB is empty now. */
static bool flush_tcg(CPUX86State *env, XmmuInvpcid type, uint16_t pcid, vaddr gva)
{
    uint16_t current = env->cr[4] & CR4_PCIDE_MASK
                       ? env->cr[3] & XMMU_CR3_PCID_MASK : 0;

    if (type <= XMMU_INVPCID_PCID && pcid != current) {
        return false;
    }
    /* A page may be cached at the addresses of pointers with metadata, too. */
    if (type == XMMU_INVPCID_ADDRESS && !xmmu_lam_active(env)) {
        tlb_flush_page(env_cpu(env), gva);
        return false;
    }
    tlb_flush(env_cpu(env));
    return true;
}

/*
 * INVPCID; @address is that of the descriptor, with the segment's base.  TCG's
 * decoder checks nothing but the encoding.
 */
void helper_xmmu_invpcid(CPUX86State *env, target_ulong type, target_ulong address)
{
    CPUState *cs = env_cpu(env);
    uintptr_t ra = GETPC();
    uint64_t descriptor[2];
    target_ulong upper = address + 8;
    bool emptied;

    if (!xmmu_enabled() ||
        !(env->features[FEAT_7_0_EBX] & CPUID_7_0_EBX_INVPCID)) {
        raise_exception_ra(env, EXCP06_ILLOP, ra);
    }
    if (env->hflags & HF_CPL_MASK) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
    }
    check_invpcid_intercept(env, type, address, ra);
    if (!(env->hflags & HF_CS64_MASK)) {
        upper = (uint32_t)upper;
    }
    descriptor[0] = cpu_ldq_data_ra(env, address, ra);
    descriptor[1] = cpu_ldq_data_ra(env, upper, ra);
    check_operands(env, type, descriptor, ra);

    emptied = flush_tcg(env, type, descriptor[0], descriptor[1]);
    /* TCG's TLB is all that holds these translations. */
    if (xmmu_parent_translates(env)) {
        return;
    }
    xmmu_take_over(cs);
    if (emptied) {
        xmmu_vcpu_flushed(cs->accel->vcpu);
    }
    xmmu_vcpu_invpcid(cs->accel->vcpu, type, descriptor[0], descriptor[1]);
}
