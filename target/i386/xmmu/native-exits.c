/*
 * xmmu native engine: why the hardware stopped
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what is done about each exit (enum xmmu_exit_reason).  Faults in our tables are
 * the core's; instructions that exit often are native-direct.c's; all others are one
 * instruction of TCG each.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "cpu.h"
#include "system/runstate.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/native.h"

/* So many faults in a row at one place that find nothing to do mean that the module
 * and the core disagree; better to stop the VM than to spin. */
#define MAX_SPURIOUS 1000

int xmmu_native_fail(CPUState *cs, const char *why)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    error_report("xmmu: CPU %d stopped: %s (exit %u, hardware 0x%" PRIx64 ")",
                 cs->cpu_index, why, n->exit.reason, (uint64_t)n->exit.hardware);
    bql_lock();
    vm_stop(RUN_STATE_INTERNAL_ERROR);
    bql_unlock();
    return EXCP_INTERRUPT;
}

/* ---- Faults in our tables ------------------------------------------------------------ */

static int emulate(CPUState *cs)
{
    return xmmu_native_vcpu(cs)->pending.type == XMMU_EVENT_NONE
           ? xmmu_native_step(cs) : xmmu_native_deliver(cs);
}

static int check_progress(CPUState *cs, XmmuPfResult result, gpa_t address)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    if (result != XMMU_PF_SPURIOUS || address != n->spurious_gpa) {
        n->spurious = 0;
        n->spurious_gpa = address;
    } else if (++n->spurious > MAX_SPURIOUS) {
        n->spurious = 0;
        return xmmu_native_fail(cs, "a fault that nothing ends");
    }
    return 0;
}

/* An event whose delivery was cut off would be lost if its access were given up. */
static bool is_restartable(CPUState *cs)
{
    return xmmu_native_vcpu(cs)->pending.type == XMMU_EVENT_NONE;
}

/* Its page is on its way.  RIP stays: the access is made again. */
static int give_up_access(CPUState *cs, const XmmuAsync *async)
{
    xmmu_native_change(cs, XMMU_GROUP_CRS);     /* CR2 gets the token */
    return xmmu_apf_tells(cs, async) ? xmmu_native_raise(cs, EXCP0E_PAGE, true, 0)
                                     : EXCP_HLT;
}

static int after_fault(CPUState *cs, XmmuPfResult result, const XmmuFault *fault,
                       uint64_t address)
{
    const XmmuException *e = &fault->exception;

    trace_xmmu_native_fault(cs->cpu_index, address, fault->access.want, result,
                            xmmu_native_vcpu(cs)->pending.type);
    switch (result) {
    case XMMU_PF_EMULATE:
        return fault->mmio && xmmu_native_mmio(cs, fault) ? 0 : emulate(cs);
    case XMMU_PF_NOMEM:
        return xmmu_native_fail(cs, "no host memory for page tables");
    case XMMU_PF_GUEST:
        if (e->vector == XMMU_EXC_PF) {
            xmmu_native_change(cs, XMMU_GROUP_CRS);
            cpu_env(cs)->cr[2] = e->cr2;
        }
        return xmmu_native_raise(cs, e->vector, true, e->error_code);
    case XMMU_PF_RING_FULL:
        xmmu_log_spill(cs);
        xmmu_native_retry_pending(cs);
        return 0;
    case XMMU_PF_REFLECT:
        return xmmu_native_fail(cs, "a nested guest");
    case XMMU_PF_ASYNC:
        return give_up_access(cs, &fault->async);
    default:
        xmmu_native_retry_pending(cs);
        return check_progress(cs, result, address);
    }
}

static uint8_t wanted_access(uint32_t access)
{
    return access & XMMU_ACCESS_EXEC ? XMMU_PROT_EXEC :
           access & XMMU_ACCESS_WRITE ? XMMU_PROT_WRITE : XMMU_PROT_READ;
}

/*
 * A fault zaps tables, and goes on reading them; and it looks at the memory map without
 * a lock.  The grace period must not end meanwhile.
 */
static XmmuPfResult fault_in_core(CPUState *cs, XmmuFault *fault)
{
    RCU_READ_LOCK_GUARD();
    xmmu_take_over(cs);
    return xmmu_state.config.tdp ? xmmu_tdp_fault(cs->accel->vcpu, fault)
                                 : xmmu_shadow_fault(cs->accel->vcpu, fault);
}

/* Two-dimensional paging: the second dimension stopped an access. */
static int handle_memory(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    XmmuFault fault = {
        .access.want = wanted_access(n->exit.memory.access),
        .access.restartable = is_restartable(cs),
        .tdp_gpa = n->exit.memory.gpa,
        .table = n->exit.memory.table,
    };

    /* With A20 masked the hardware does not run: native-step.c. */
    return after_fault(cs, fault_in_core(cs, &fault), &fault, fault.tdp_gpa);
}

/* Shadow paging: #PF is ours first. */
static int handle_page_fault(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);
    uint32_t error = n->exit.exception.error;
    XmmuFault fault = {
        .access = {
            .gva = n->exit.exception.address,
            .want = error & XMMU_PFEC_I ? XMMU_PROT_EXEC :
                    error & XMMU_PFEC_W ? XMMU_PROT_WRITE : XMMU_PROT_READ,
            .user = error & XMMU_PFEC_U,
            .restartable = is_restartable(cs),
        },
    };

    /* An access of the CPU itself (a descriptor table) at CPL 3 is not excused by AC. */
    fault.access.smap_off = !fault.access.user && (env->eflags & AC_MASK) &&
                            n->run->segments.cpl != 3;
    return after_fault(cs, fault_in_core(cs, &fault), &fault, fault.access.gva);
}

static int handle_exception(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);
    unsigned vector = n->exit.exception.vector;

    if (vector == EXCP0E_PAGE && !xmmu_state.config.tdp) {
        return handle_page_fault(cs);
    }
    if (vector == EXCP01_DB) {
        /* Whoever delivers #DB clears GD: Intel SDM vol. 3, 17.2.4. */
        env->dr[6] = n->exit.exception.dr6;
        env->dr[7] &= ~(target_ulong)DR7_GD;
        n->changed |= XMMU_GROUP_DRS;
    }
    return xmmu_native_raise(cs, vector, n->exit.exception.has_error,
                             n->exit.exception.error);
}

/* ---- All ---------------------------------------------------------------------------------- */

static int handle_shutdown(void)
{
    qemu_log_mask(CPU_LOG_RESET, "Triple fault\n");
    qemu_system_reset_request(SHUTDOWN_CAUSE_GUEST_RESET);
    return EXCP_INTERRUPT;
}

static int handle_invalid(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    trace_xmmu_native_invalid(cs->cpu_index, n->exit.hardware);
    n->odd_mode = true;
    return 0;
}

static int handle_log_full(CPUState *cs)
{
    xmmu_write_log_renew(&xmmu_native.logs, &xmmu_native_vcpu(cs)->log);
    xmmu_native_retry_pending(cs);
    return 0;
}

int xmmu_native_handle(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    trace_xmmu_native_exit(cs->cpu_index, n->exit.reason, n->exit.hardware,
                           cpu_env(cs)->eip);
    switch (n->exit.reason) {
    case XMMU_EXIT_MEMORY:
        return handle_memory(cs);
    case XMMU_EXIT_EXCEPTION:
        return handle_exception(cs);
    case XMMU_EXIT_CPUID:
        return xmmu_native_cpuid(cs) ? 0 : emulate(cs);
    case XMMU_EXIT_IO:
        return xmmu_native_io(cs) ? 0 : emulate(cs);
    case XMMU_EXIT_HLT:
        return xmmu_native_hlt(cs) ? EXCP_HLT : emulate(cs);
    case XMMU_EXIT_CR:
        return xmmu_native_cr(cs) ? 0 : emulate(cs);
    case XMMU_EXIT_INVLPG:
        return xmmu_native_invlpg(cs) ? 0 : emulate(cs);
    case XMMU_EXIT_IRQ_WINDOW:
    case XMMU_EXIT_NMI_WINDOW:
        return 0;
    case XMMU_EXIT_DR:
    case XMMU_EXIT_MSR:
    case XMMU_EXIT_INSTRUCTION:
    case XMMU_EXIT_TASK_SWITCH:
        return emulate(cs);
    case XMMU_EXIT_SHUTDOWN:
        return handle_shutdown();
    case XMMU_EXIT_LOG_FULL:
        return handle_log_full(cs);
    case XMMU_EXIT_INVALID:
        return handle_invalid(cs);
    default:
        return xmmu_native_fail(cs, "an exit that nobody knows");
    }
}
