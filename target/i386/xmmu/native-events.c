/*
 * xmmu native engine: interrupts and exceptions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns which event the next run injects, what wakes a vCPU from HLT, and what becomes
 * of an event whose delivery an exit cut off.  The interrupt controllers are QEMU's
 * own.
 *
 * At most one event goes into a run.  One that was cut off comes first; then NMI, then
 * interrupts.  What cannot go in yet opens a window: the hardware exits when it can.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "cpu.h"
#include "hw/i386/apic.h"
#include "system/runstate.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/native.h"

/* ---- Injecting ------------------------------------------------------------------ */

static void inject(CPUState *cs, struct xmmu_event event)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    trace_xmmu_native_inject(cs->cpu_index, event.type, event.vector, event.error);
    n->run->events.inject = event;
    n->changed |= XMMU_GROUP_EVENTS;
}

static bool in_shadow(CPUX86State *env)
{
    return env->hflags & HF_INHIBIT_IRQ_MASK;
}

static bool can_take_interrupt(CPUX86State *env)
{
    return (env->eflags & IF_MASK) && !in_shadow(env);
}

static bool choose_nmi(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    if (!(cs->interrupt_request & CPU_INTERRUPT_NMI)) {
        return false;
    }
    if ((env->hflags2 & HF2_NMI_MASK) || in_shadow(env)) {
        xmmu_native_vcpu(cs)->want |= XMMU_WANT_NMI_WINDOW;
        return false;
    }
    cs->interrupt_request &= ~CPU_INTERRUPT_NMI;
    env->hflags2 |= HF2_NMI_MASK;
    inject(cs, (struct xmmu_event) { .type = XMMU_EVENT_NMI, .vector = EXCP02_NMI });
    return true;
}

/* With the BQL: the interrupt controllers are asked. */
static void choose_interrupt(CPUState *cs, bool taken)
{
    CPUX86State *env = cpu_env(cs);

    if (!(cs->interrupt_request & CPU_INTERRUPT_HARD)) {
        return;
    }
    if (!taken && can_take_interrupt(env)) {
        int vector;

        cs->interrupt_request &= ~CPU_INTERRUPT_HARD;
        vector = cpu_get_pic_interrupt(env);
        if (vector >= 0) {
            inject(cs, (struct xmmu_event) {
                .type = XMMU_EVENT_INTERRUPT, .vector = vector,
            });
        }
    }
    if (cs->interrupt_request & CPU_INTERRUPT_HARD) {
        xmmu_native_vcpu(cs)->want |= XMMU_WANT_IRQ_WINDOW;
    }
}

void xmmu_native_choose_event(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    bool taken = n->pending.type != XMMU_EVENT_NONE;

    n->want &= ~(XMMU_WANT_IRQ_WINDOW | XMMU_WANT_NMI_WINDOW);
    if (taken) {
        inject(cs, n->pending);
        n->pending = (struct xmmu_event) { 0 };
    }
    if (!(qatomic_read(&cs->interrupt_request) &
          (CPU_INTERRUPT_HARD | CPU_INTERRUPT_NMI))) {
        return;
    }
    bql_lock();
    if (taken && (cs->interrupt_request & CPU_INTERRUPT_NMI)) {
        n->want |= XMMU_WANT_NMI_WINDOW;
    }
    taken = taken || choose_nmi(cs);
    choose_interrupt(cs, taken);
    bql_unlock();
}

/* ---- What was cut off -------------------------------------------------------------- */

/*
 * An instruction that raises an event (INT n, INT3, INTO) is executed again, as RIP
 * still points to it.
 */
static bool is_instruction(const struct xmmu_event *event)
{
    return event->type == XMMU_EVENT_SOFT ||
           (event->type == XMMU_EVENT_EXCEPTION &&
            (event->vector == EXCP03_INT3 || event->vector == EXCP04_INTO));
}

void xmmu_native_retry_pending(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    if (is_instruction(&n->pending)) {
        n->pending = (struct xmmu_event) { 0 };
    }
}

/* Intel SDM vol. 3, table 6-5. */
static bool is_contributory(unsigned vector)
{
    return vector == EXCP00_DIVZ || (vector >= EXCP0A_TSS && vector <= EXCP0D_GPF);
}

static bool makes_double_fault(unsigned first, unsigned second)
{
    return (is_contributory(first) && is_contributory(second)) ||
           (first == EXCP0E_PAGE &&
            (second == EXCP0E_PAGE || is_contributory(second)));
}

int xmmu_native_raise(CPUState *cs, unsigned vector, bool has_error, uint32_t error)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    struct xmmu_event first = n->pending;

    if (first.type == XMMU_EVENT_EXCEPTION && first.vector == EXCP08_DBLE) {
        qemu_system_reset_request(SHUTDOWN_CAUSE_GUEST_RESET);
        return EXCP_INTERRUPT;
    }
    n->pending = (struct xmmu_event) {
        .type = XMMU_EVENT_EXCEPTION, .vector = vector, .has_error = has_error,
        .error = error,
    };
    if (first.type == XMMU_EVENT_EXCEPTION &&
        makes_double_fault(first.vector, vector)) {
        n->pending.vector = EXCP08_DBLE;
        n->pending.has_error = true;
        n->pending.error = 0;
    }
    return 0;
}

/* ---- Waking up ---------------------------------------------------------------------- */

static void poll_apic(CPUState *cs)
{
    if (cs->interrupt_request & CPU_INTERRUPT_POLL) {
        cs->interrupt_request &= ~CPU_INTERRUPT_POLL;
        apic_poll_irq(env_archcpu(cpu_env(cs))->apic_state);
    }
}

/* INIT and SIPI replace registers. */
static void init_and_sipi(CPUState *cs)
{
    X86CPU *cpu = X86_CPU(cs);

    if ((cs->interrupt_request & CPU_INTERRUPT_INIT) &&
        !(cpu_env(cs)->hflags & HF_SMM_MASK)) {
        xmmu_native_vcpu_load(cs);
        do_cpu_init(cpu);
    }
    if (cs->interrupt_request & CPU_INTERRUPT_SIPI) {
        xmmu_native_vcpu_load(cs);
        cpu_reset_interrupt(cs, CPU_INTERRUPT_SIPI);
        do_cpu_sipi(cpu);
    }
}

/* HLT is over: its trap comes before what ended it (Intel SDM vol. 3, 6.9).  Waiting for
 * a page was no instruction. */
static void end_halt(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    cs->halted = 0;
    xmmu_native_load(cs, XMMU_GROUP_GPRS);
    if (!cs->accel->apf_halted && (env->eflags & TF_MASK)) {
        xmmu_native_change(cs, XMMU_GROUP_DRS);
        env->dr[6] |= DR6_BS;
        xmmu_native_raise(cs, EXCP01_DB, false, 0);
    }
    cs->accel->apf_halted = false;
}

bool xmmu_native_wake(CPUState *cs)
{
    poll_apic(cs);
    init_and_sipi(cs);
    /* An event that goes in ends HLT, and so does one that TCG delivers. */
    if (cs->halted && cpu_has_work(cs)) {
        end_halt(cs);
    }
    return cs->halted;
}
