/*
 * xmmu native engine: the life of an x86 vCPU in hardware
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the loop around XMMU_RUN, and how env and the module change places as the home
 * of the vCPU's registers.  See docs/devel/xmmu-native.rst.
 *
 * The thread may be wanted at any time, by qemu_cpu_kick().  A kick first notes what is
 * wanted (a request, stop, work, exit_request), then sends a signal, whose handler
 * sets .kicked and run->immediate_exit.  The module looks at that with interrupts off
 * right before the guest; so between here and the guest there is no gap.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "cpu.h"
#include "qobject/qdict.h"
#include "target/i386/xmmu/native.h"

/* ---- Life ------------------------------------------------------------------------ */

void xmmu_native_vcpu_start(CPUState *cs)
{
    XmmuNativeVcpu *n = g_new0(XmmuNativeVcpu, 1);
    char *error;

    if (!xmmu_device_new_vcpu(xmmu_native.device, xmmu_mirror_fd(xmmu_native.mirror),
                              cs->cpu_index, &n->device, &error)) {
        error_report("xmmu: %s", error);
        exit(EXIT_FAILURE);
    }
    n->run = n->device.run;
    n->loaded = XMMU_GROUP_ALL;
    n->changed = XMMU_GROUP_ALL;
    if (xmmu_native.logs_writes) {
        xmmu_write_log_add(&xmmu_native.logs, &n->log, &n->device);
    }
    cs->accel->native = n;
}

void xmmu_native_vcpu_end(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    cs->accel->native = NULL;
    if (xmmu_native.logs_writes) {
        xmmu_write_log_remove(&xmmu_native.logs, &n->log);
    }
    xmmu_device_close_vcpu(&n->device);
    xmmu_mirror_forget_vcpu(xmmu_native.mirror, cs->cpu_index);
    g_free(n);
}

void xmmu_native_vcpu_stop(CPUState *cs)
{
    XmmuNativeVcpu *n = cs->accel ? cs->accel->native : NULL;

    if (n) {
        qatomic_set(&n->kicked, true);
        qatomic_set(&n->run->immediate_exit, 1);
    }
}

bool xmmu_native_vcpu_emulating(CPUState *cs)
{
    XmmuNativeVcpu *n = cs->accel ? qatomic_read(&cs->accel->native) : NULL;

    smp_mb();
    return n && qatomic_read(&n->emulating);
}

/* ---- env and the module -------------------------------------------------------------- */

void xmmu_native_vcpu_load(CPUState *cs)
{
    if (cs->accel && cs->accel->native) {
        xmmu_native_change(cs, XMMU_GROUP_ALL);
    }
}

void xmmu_native_vcpu_replaced(CPUState *cs)
{
    XmmuNativeVcpu *n = cs->accel ? cs->accel->native : NULL;

    if (n) {
        n->loaded = XMMU_GROUP_ALL;
        n->changed = XMMU_GROUP_ALL;
        n->pending = (struct xmmu_event) { 0 };
        n->run->events.inject = (struct xmmu_event) { 0 };
        n->odd_mode = false;
        n->ran_unpaged = false;
        n->sides = 0;
    }
}

/* ---- Running --------------------------------------------------------------------------- */

/* The tables as the core has them now; the root to begin at. */
static int prepare_tables(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    char *error;

    if (!xmmu_state.config.tdp) {
        /* Hardware has nothing old any more, TCG nothing at all, and no fault of this
         * vCPU is on its way with what it has read of the guest's tables. */
        xmmu_native_submit();
        xmmu_vcpu_flushed(cs->accel->vcpu);
    }
    xmmu_take_over(cs);
    if (xmmu_mirror_enter(xmmu_native.mirror, cs->accel->vcpu, &n->root,
                          &error) != XMMU_MIRROR_OK) {
        int ret = xmmu_native_fail(cs, error);

        g_free(error);
        return ret;
    }
    return 0;
}

/* What went in and did not arrive, or was cut off. */
static void take_pending(XmmuNativeVcpu *n, bool interrupted)
{
    n->pending = interrupted ? n->run->events.inject : n->run->events.pending;
    n->run->events.inject = (struct xmmu_event) { 0 };
    if (n->pending.type != XMMU_EVENT_NONE) {
        /* Now it is ours: the module shall not inject it as well. */
        n->changed |= XMMU_GROUP_EVENTS;
    }
}

/* While the core logs writes the hardware does, too. */
static void choose_log(XmmuNativeVcpu *n)
{
    bool on = xmmu_native.logs_writes &&
              xmmu_write_log_enter(&xmmu_native.logs, &n->log);

    n->want = on ? n->want | XMMU_WANT_WRITE_LOG : n->want & ~XMMU_WANT_WRITE_LOG;
}

static int run_hardware(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    int ret = prepare_tables(cs);

    if (ret) {
        return ret;
    }
    xmmu_native_choose_event(cs);
    choose_log(n);
    xmmu_native_give(cs);
    n->ran_unpaged |= !(cpu_env(cs)->cr[0] & CR0_PG_MASK);
    xmmu_native_note_run();
    ret = xmmu_device_run(&n->device);
    xmmu_native_note_run();
    xmmu_write_log_leave(&n->log);
    if (ret && ret != -EINTR) {
        n->exit = (struct xmmu_exit) { 0 };
        xmmu_native_vcpu_replaced(cs);
        return xmmu_native_fail(cs, strerror(-ret));
    }
    xmmu_native_take(cs);
    take_pending(n, ret);
    n->exit = n->run->exit;
    n->exits[MIN(n->exit.reason, XMMU_EXIT_UNKNOWN)]++;
    return ret ? EXCP_INTERRUPT : xmmu_native_handle(cs);
}

static int run_once(CPUState *cs)
{
    return xmmu_native_must_emulate(cs) ? xmmu_native_stretch(cs) : run_hardware(cs);
}

/* From now on a kick is news.  False: one came before. */
static bool listen_for_kicks(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    qatomic_set(&n->kicked, false);
    qatomic_set(&n->run->immediate_exit, 0);
    smp_mb();
    return !qatomic_read(&cs->exit_request);
}

/* An event that waits for the next run is no part of what is saved or migrated. */
static int settle(CPUState *cs)
{
    return xmmu_native_vcpu(cs)->pending.type == XMMU_EVENT_NONE
           ? 0 : xmmu_native_deliver(cs);
}

int xmmu_native_vcpu_exec(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    int ret = 0;

    if (!listen_for_kicks(cs)) {
        return EXCP_INTERRUPT;
    }
    if (xmmu_native_wake(cs)) {
        return EXCP_HALTED;
    }
    bql_unlock();
    while (!ret && !qatomic_read(&n->kicked)) {
        ret = run_once(cs);
    }
    if (!ret || ret == EXCP_INTERRUPT) {
        ret = settle(cs);
    }
    bql_lock();
    return ret ? ret : EXCP_INTERRUPT;
}

const char *xmmu_native_rehearse(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    int ret;

    if (xmmu_native_must_emulate(cs)) {
        return NULL;
    }
    xmmu_native_change(cs, XMMU_GROUP_ALL);
    if (prepare_tables(cs)) {
        return "no tables to begin with";
    }
    xmmu_native_give(cs);
    qatomic_set(&n->run->immediate_exit, 1);
    ret = xmmu_device_run(&n->device);
    if (ret != -EINTR) {
        xmmu_native_vcpu_replaced(cs);
        return ret ? strerror(-ret) : "the module did not stop at once";
    }
    xmmu_native_take(cs);
    xmmu_native_change(cs, XMMU_GROUP_ALL);
    return NULL;
}

/* ---- What can be seen --------------------------------------------------------------------- */

static const char *const reason_names[] = {
    [XMMU_EXIT_NONE] = "interrupted",
    [XMMU_EXIT_MEMORY] = "memory",
    [XMMU_EXIT_EXCEPTION] = "exception",
    [XMMU_EXIT_IO] = "io",
    [XMMU_EXIT_CR] = "cr",
    [XMMU_EXIT_DR] = "dr",
    [XMMU_EXIT_MSR] = "msr",
    [XMMU_EXIT_CPUID] = "cpuid",
    [XMMU_EXIT_HLT] = "hlt",
    [XMMU_EXIT_INVLPG] = "invlpg",
    [XMMU_EXIT_IRQ_WINDOW] = "irq-window",
    [XMMU_EXIT_NMI_WINDOW] = "nmi-window",
    [XMMU_EXIT_INSTRUCTION] = "instruction",
    [XMMU_EXIT_TASK_SWITCH] = "task-switch",
    [XMMU_EXIT_SHUTDOWN] = "shutdown",
    [XMMU_EXIT_LOG_FULL] = "log-full",
    [XMMU_EXIT_INVALID] = "invalid",
    [XMMU_EXIT_UNKNOWN] = "unknown",
};
QEMU_BUILD_BUG_ON(ARRAY_SIZE(reason_names) != XMMU_NATIVE_REASONS);

QObject *xmmu_native_vcpu_query(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    QDict *dict;

    if (!n) {
        return NULL;
    }
    dict = qdict_new();
    for (int i = 0; i < XMMU_NATIVE_REASONS; i++) {
        qdict_put_int(dict, reason_names[i], n->exits[i]);
    }
    qdict_put_int(dict, "steps", n->steps);
    qdict_put_int(dict, "deliveries", n->deliveries);
    qdict_put_int(dict, "stretches", n->stretches);
    qdict_put_int(dict, "logged-pages", qatomic_read(&n->log.pages));
    return QOBJECT(dict);
}
