/*
 * xmmu: an x86 vCPU, for the files of target/i386/xmmu/
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef TARGET_I386_XMMU_CPU_H
#define TARGET_I386_XMMU_CPU_H

#include "cpu.h"
#include "accel/tcg/cpu-ops.h"
#include "accel/xmmu/xmmu-accel.h"
#include "accel/xmmu/engine/hw_model.h"

/* What happened since the registers were last taken over. */
enum {
    XMMU_PENDING_REGS  = 1 << 0,
    /*
     * The guest flushed its translations, and TCG its TLB: the core relies on
     * this vCPU holding none from before the take-over.
     */
    XMMU_PENDING_FLUSH = 1 << 1,
    XMMU_PENDING_PDPTE = 1 << 2,    /* PDPTEs are to be read from memory */
    XMMU_PENDING_RESET = 1 << 3,
    /* MOV to CR3: TCG's TLB is empty, but the guest has flushed one PCID, or (bit 63)
     * nothing. */
    XMMU_PENDING_PCID  = 1 << 4,
    XMMU_PENDING_KEEP  = 1 << 5,
    XMMU_PENDING_VMRUN = 1 << 6,    /* with nested paging: L1 may have asked to flush */
};

/* CPUState.accel of a vCPU of xmmu. */
struct AccelCPUState {
    XmmuVcpu *vcpu;             /* NULL until the vCPU's first reset */
    XmmuCpuCaps caps;
    XmmuRegs regs;              /* as the core has them */
    int32_t a20_mask;           /* regs.a20_masked was made of this */
    uint64_t pdpte[4];          /* the vCPU's PDPTE registers */
    uint8_t pending;            /* XMMU_PENDING_* */
    bool apf_halted;            /* CPUState.halted is ours: for want of a page */
    bool apf_loaded;            /* the state came from elsewhere, where pages may have
                                   been on their way */
    struct XmmuNativeVcpu *native;      /* its place in the module; NULL: engine soft */
    bool asks_parent;           /* the parent's walker is asked, to compare */
    uint64_t verified;          /* translations compared (verify=on) */
    uint64_t verified_stale;    /* of these, not yet flushed by the guest */
};

/* ---- cpu.c --------------------------------------------------------------- */

/* TCG's own operations for x86. */
extern const TCGCPUOps *xmmu_parent_tcg_ops;

/* The registers as @env has them; PDPTEs as the vCPU latched them. */
void xmmu_read_regs(CPUX86State *env, XmmuRegs *regs);

void xmmu_take_over_slow(CPUState *cs);

/*
 * Makes the core's view of the registers that of the vCPU.  On the vCPU's
 * thread, or while it is stopped.
 *
 * What has no hook is compared: WRPKRU and XRSTOR change PKRU, WRMSR changes
 * PKRS (TCG flushes its TLB for these), and the keyboard controller A20.
 */
static inline void xmmu_take_over(CPUState *cs)
{
    AccelCPUState *accel = cs->accel;
    CPUX86State *env = cpu_env(cs);

    if (unlikely(accel->pending || env->pkru != accel->regs.pkru ||
                 env->pkrs != accel->regs.pkrs ||
                 env->a20_mask != accel->a20_mask)) {
        xmmu_take_over_slow(cs);
    }
}

/* ---- features.c ----------------------------------------------------------- */

/* Properties of CPU models that engine native changes. */
void xmmu_native_cpu_defaults(X86CPU *cpu);

/* ---- native-step.c -------------------------------------------------------- */

/* What the hardware can run may have changed: a stretch of TCG shall look. */
void xmmu_native_note_mode(CPUState *cs);
/* TCG's TLB is about to get an entry.  True: for a single instruction. */
bool xmmu_native_note_fill(CPUState *cs, vaddr addr, int mmu_idx);
/* TCGCPUOps.do_interrupt: delivers exceptions. */
void xmmu_do_interrupt(CPUState *cs);

/* ---- canonical.c ---------------------------------------------------------- */

/* Canonical for a CPU of this width, whatever the paging mode. */
bool xmmu_is_canonical(CPUX86State *env, uint64_t address);

/* TCG's TLB may hold entries of pointers with metadata, at addresses of their own. */
static inline bool xmmu_lam_active(CPUX86State *env)
{
    return (env->features[FEAT_7_1_EAX] & CPUID_7_1_EAX_LAM) &&
           ((env->cr[3] & (XMMU_CR3_LAM_U48 | XMMU_CR3_LAM_U57)) ||
            (env->cr[4] & CR4_LAM_SUP_MASK));
}

/* ---- cr.c ----------------------------------------------------------------- */

/* MOV to CR3 where TCG has nothing cached.  False: it raises an exception, or loads
 * PDPTE registers, and nothing is done. */
bool xmmu_load_cr3_directly(CPUX86State *env, uint64_t value);

/* Reads the four PDPTEs that @cr3 names. */
void xmmu_read_pdptes(CPUX86State *env, uint64_t cr3, uint64_t pdpte[4]);

/* PAE paging outside long mode: the only mode that uses PDPTE registers. */
static inline bool xmmu_is_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & XMMU_CR0_PG) && (cr4 & XMMU_CR4_PAE) &&
           !(efer & XMMU_EFER_LMA);
}

/* ---- pcid.c ---------------------------------------------------------------- */

/* MOV to CR3 is about to be committed, */
void xmmu_pcid_loading(CPUX86State *env);
/* and was; @operand has bit 63 as the guest gave it. */
void xmmu_pcid_loaded(CPUX86State *env, uint64_t operand);

/* ---- nested.c -------------------------------------------------------------- */

/* L2 runs, and the parent class's walker has to translate for it. */
bool xmmu_parent_translates(CPUX86State *env);

/* L2 runs under L1's nested paging, with these registers. */
void xmmu_take_over_l2(CPUState *cs, const XmmuRegs *regs, uint8_t pending);

/* Leaves L2: L1's tables do not allow its access. */
G_NORETURN void xmmu_deliver_exit(CPUX86State *env, const XmmuNestedExit *exit,
                                  uintptr_t ra);

/* ---- async_pf.c ------------------------------------------------------------ */

void xmmu_apf_realize(X86CPU *cpu);
/* An access is given up, as its page is on its way.  True: #PF with error code 0 is to be
 * delivered (CR2 is set); false: the vCPU is halted, until the page or an interrupt comes. */
bool xmmu_apf_tells(CPUState *cs, const XmmuAsync *async);
/* The same in TCG, which goes on with one or the other. */
G_NORETURN void xmmu_apf_leave(CPUState *cs, const XmmuAsync *async, uintptr_t ra);
bool xmmu_cpu_exec_halt(CPUState *cs);

/* ---- tlb.c ---------------------------------------------------------------- */

bool xmmu_tlb_fill(CPUState *cs, vaddr addr, int size,
                   MMUAccessType access_type, int mmu_idx, bool probe,
                   uintptr_t ra);
hwaddr xmmu_get_phys_page_attrs_debug(CPUState *cs, vaddr addr,
                                      MemTxAttrs *attrs);

/* xmmu_hw_translate(); a vCPU whose ring of written pages is full empties all of them.
 * Never ends in XMMU_HW_RING_FULL. */
void xmmu_translate(CPUState *cs, const XmmuAccess *access, int size,
                    XmmuHwResult *result);

/* ---- verify.c ------------------------------------------------------------- */

/* One translation as TCG asked for it. */
typedef struct XmmuFill {
    CPUState *cs;
    vaddr addr;
    int size;
    MMUAccessType access_type;
    int mmu_idx;
    XmmuAccess access;
    gva_t linear;               /* what .access uses: no metadata */
} XmmuFill;

/*
 * Compare @result with the parent's walker.  A stale translation, which the
 * guest has not flushed yet, is replaced by a fresh one; any other difference
 * is reported and ends the process.
 */
void xmmu_verify(const XmmuFill *fill, XmmuHwResult *result);

#endif /* TARGET_I386_XMMU_CPU_H */
