/*
 * xmmu: when pages become huge again
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the timer that lets the core recover, period by period, the huge pages that
 * fetches have split.  It is the host's time, as it is the host's memory and TLB
 * that small pages cost; the guest cannot see it.  The callback runs in the main
 * loop; the core yields to vCPUs by itself.
 */
#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "system/runstate.h"
#include "accel/xmmu/trace.h"
#include "accel/xmmu/xmmu-accel.h"

static QEMUTimer *timer;

static void arm(XmmuVm *vm)
{
    timer_mod(timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                     xmmu_nx_period_ms(xmmu_vm_config(vm)));
}

/* A stopped VM has no vCPU for whom a huge page would be of use. */
static void period_over(void *opaque)
{
    XmmuVm *vm = opaque;

    if (runstate_is_running()) {
        trace_xmmu_nx_recover(xmmu_vm_nx_recover_due(vm));
    }
    arm(vm);
}

void xmmu_nx_recovery_start(XmmuVm *vm)
{
    if (!xmmu_nx_period_ms(xmmu_vm_config(vm))) {
        return;
    }
    timer = timer_new_ms(QEMU_CLOCK_REALTIME, period_over, vm);
    arm(vm);
}
