/*
 * xmmu: guests of the guest, with SVM's nested paging
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what the core is told when L1 runs L2 with nested paging (HF2_NPT_MASK), and
 * the #NPF that L1 gets.  VMRUN and #VMEXIT themselves are TCG's: they change the
 * registers, and the next take-over enters or leaves L2.
 *
 * The parent class's walker still does what the core does not shadow: L1 outside
 * long mode, and tdp=off, where our hardware has no second dimension to offer.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "tcg/helper-tcg.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/xmmu-cpu.h"

/* AMD APM vol. 2, appendix B: TLB_CONTROL. */
enum {
    TLB_CONTROL_NOTHING = 0,
    TLB_CONTROL_ALL = 1,
};

bool xmmu_parent_translates(CPUX86State *env)
{
    return (env->hflags2 & HF2_NPT_MASK) &&
           !(xmmu_state.config.tdp && (env->nested_pg_mode & PG_MODE_LMA));
}

/* VMRUN with nested paging: registers are L1's for a moment more. */
void xmmu_note_vmrun(CPUX86State *env)
{
    env_cpu(env)->accel->pending |= XMMU_PENDING_REGS | XMMU_PENDING_VMRUN;
}

static uint64_t read_vmcb(CPUX86State *env, hwaddr vmcb, size_t offset)
{
    return x86_ldq_phys(env_cpu(env), vmcb + offset);
}

/*
 * The mode of L1's tables is what TCG noted at VMRUN.  It left SMEP out, which
 * decides whether a #NPF is reported as a fetch; that is in the host save area,
 * where L1 may change it, to no harm but its own.
 */
static void describe(CPUX86State *env, XmmuNestedTdp *tdp)
{
    uint32_t mode = env->nested_pg_mode;
    uint64_t cr4 = read_vmcb(env, env->vm_hsave, offsetof(struct vmcb, save.cr4));

    *tdp = (XmmuNestedTdp) {
        .format = XMMU_TDP_NPT,
        .root = env->nested_cr3,
        .cr0 = CR0_PG_MASK | CR0_PE_MASK | CR0_WP_MASK,
        .cr4 = CR4_PAE_MASK | (mode & PG_MODE_LA57 ? CR4_LA57_MASK : 0) |
               (cr4 & CR4_SMEP_MASK),
        .efer = MSR_EFER_LME | MSR_EFER_LMA | (mode & PG_MODE_NXE ? MSR_EFER_NXE : 0),
        .asid = x86_ldl_phys(env_cpu(env), env->vm_vmcb +
                             offsetof(struct vmcb, control.asid)),
    };
}

/* What L1 flushes with this VMRUN; a new ASID is another root for the core. */
static void flush_as_asked(CPUX86State *env, const XmmuNestedTdp *tdp)
{
    XmmuVcpu *vcpu = env_cpu(env)->accel->vcpu;
    uint8_t control = x86_ldub_phys(env_cpu(env), env->vm_vmcb +
                                    offsetof(struct vmcb, control.tlb_ctl));

    if (control != TLB_CONTROL_NOTHING) {
        xmmu_vcpu_flush_asid(vcpu, control == TLB_CONTROL_ALL ? XMMU_ALL_ASIDS
                                                              : tdp->asid);
    }
}

void xmmu_take_over_l2(CPUState *cs, const XmmuRegs *regs, uint8_t pending)
{
    CPUX86State *env = cpu_env(cs);
    XmmuNestedTdp tdp;

    describe(env, &tdp);
    if (pending & XMMU_PENDING_FLUSH) {
        xmmu_vcpu_flushed(cs->accel->vcpu);     /* first: it makes the next cheaper */
    }
    if (pending & XMMU_PENDING_VMRUN) {
        flush_as_asked(env, &tdp);
    }
    xmmu_vcpu_enter_nested(cs->accel->vcpu, &tdp, regs);
}

G_NORETURN void xmmu_deliver_exit(CPUX86State *env, const XmmuNestedExit *exit,
                                  uintptr_t ra)
{
    x86_stq_phys(env_cpu(env), env->vm_vmcb +
                 offsetof(struct vmcb, control.exit_info_2), exit->gpa);
    cpu_vmexit(env, SVM_EXIT_NPF, exit->info, ra);
}
