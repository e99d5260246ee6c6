/*
 * xmmu: TLB misses of x86 vCPUs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The hot path: an access that misses TCG's TLB is translated by the hardware
 * model, and ends in an entry of that TLB or in an exception of the guest.
 *
 * Physical accesses of the CPU itself are the parent class's, and those guests of a
 * guest that nested.c leaves to it.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "qemu/main-loop.h"
#include "tcg/helper-tcg.h"
#include "accel/xmmu/engine/engine.h"
#include "accel/xmmu/engine/linear.h"
#include "target/i386/xmmu/xmmu-cpu.h"

QEMU_BUILD_BUG_ON((1 << MMU_DATA_LOAD) != XMMU_PROT_READ);
QEMU_BUILD_BUG_ON((1 << MMU_DATA_STORE) != XMMU_PROT_WRITE);
QEMU_BUILD_BUG_ON((1 << MMU_INST_FETCH) != XMMU_PROT_EXEC);
QEMU_BUILD_BUG_ON(EXCP0E_PAGE != XMMU_EXC_PF);
QEMU_BUILD_BUG_ON(EXCP0D_GPF != XMMU_EXC_GP);

/*
 * AMD APM vol. 2, 15.12.15: an intercepted #PF leaves CR2 alone and reports the
 * address in EXITINFO2.  A #GP has no address.
 */
static G_NORETURN void deliver(CPUX86State *env, const XmmuException *exception,
                               uintptr_t ra)
{
    vaddr cr2 = exception->vector == XMMU_EXC_PF ? exception->cr2 : env->cr[2];

    if (env->intercept_exceptions & (1 << exception->vector)) {
        x86_stq_phys(env_cpu(env), env->vm_vmcb +
                     offsetof(struct vmcb, control.exit_info_2), cr2);
    } else {
        env->cr[2] = cr2;
    }
    raise_exception_err_ra(env, exception->vector, exception->error_code, ra);
}

void xmmu_translate(CPUState *cs, const XmmuAccess *access, int size,
                    XmmuHwResult *result)
{
    xmmu_hw_translate(cs->accel->vcpu, access, size, result);
    while (result->outcome == XMMU_HW_RING_FULL) {
        xmmu_log_spill(cs);
        xmmu_hw_translate(cs->accel->vcpu, access, size, result);
    }
}

bool xmmu_tlb_fill(CPUState *cs, vaddr addr, int size,
                   MMUAccessType access_type, int mmu_idx, bool probe,
                   uintptr_t ra)
{
    CPUX86State *env = cpu_env(cs);
    XmmuHwResult result;
    XmmuAccess access;
    bool single = xmmu_native_note_fill(cs, addr, mmu_idx);

    if (unlikely(mmu_idx >= MMU_PHYS_IDX || xmmu_parent_translates(env))) {
        return xmmu_parent_tcg_ops->tlb_fill(cs, addr, size, access_type,
                                             mmu_idx, probe, ra);
    }

    xmmu_take_over(cs);
    access = (XmmuAccess) {
        .gva = is_mmu_index_32(mmu_idx) ? (uint32_t)addr : addr,
        .want = 1 << access_type,
        .user = is_mmu_index_user(mmu_idx),
        .smap_off = !is_mmu_index_smap(mmu_idx),
        /* Without a return address data is accessed for an exception or interrupt that
         * is being delivered, and would be lost. */
        .restartable = !probe && (ra || access_type == MMU_INST_FETCH),
    };
    xmmu_translate(cs, &access, size, &result);

    if (unlikely(xmmu_state.verify) && result.outcome != XMMU_HW_ASYNC) {
        XmmuFill fill = {
            cs, addr, size, access_type, mmu_idx, access,
            xmmu_linear_address(cs->accel->vcpu, &access),
        };

        xmmu_verify(&fill, &result);
    }

    switch (result.outcome) {
    case XMMU_HW_OK:
    case XMMU_HW_DIRECT:
        /* Its pages are flushed one by one, which for a large one would be all. */
        if (single) {
            result.page_shift = TARGET_PAGE_BITS;
        }
        xmmu_soft_install(cs, addr, cpu_get_mem_attrs(env), mmu_idx, &result);
        return true;
    case XMMU_HW_RING_FULL:
        g_assert_not_reached();
    case XMMU_HW_NOMEM:
        xmmu_soft_out_of_memory(cs, ra);
    case XMMU_HW_NESTED_EXIT:
        if (probe) {
            env->error_code = result.exit.info;
            return false;
        }
        xmmu_deliver_exit(env, &result.exit, ra);
    case XMMU_HW_ASYNC:
        xmmu_apf_leave(cs, &result.async, ra);
    case XMMU_HW_EXCEPTION:
        break;
    }
    if (probe) {
        env->error_code = result.exception.error_code;
        return false;
    }
    deliver(env, &result.exception, ra);
}

/*
 * For the debugger and the monitor.  A vCPU's MMU belongs to its thread: from
 * elsewhere, and while the vCPU may run, TCG's walker answers, which only reads
 * guest memory.
 */
hwaddr xmmu_get_phys_page_attrs_debug(CPUState *cs, vaddr addr,
                                      MemTxAttrs *attrs)
{
    CPUX86State *env = cpu_env(cs);
    gpa_t gpa;

    if (xmmu_parent_translates(env) || !cs->accel->vcpu ||
        !(qemu_cpu_is_self(cs) || cpu_is_stopped(cs))) {
        return x86_cpu_get_phys_page_attrs_debug(cs, addr, attrs);
    }
    *attrs = cpu_get_mem_attrs(env);
    xmmu_take_over(cs);
    if (!(env->hflags & HF_LMA_MASK)) {
        addr = (uint32_t)addr;
    }
    if (!xmmu_hw_translate_debug(cs->accel->vcpu, addr, &gpa)) {
        return -1;
    }
    return gpa & TARGET_PAGE_MASK;
}
