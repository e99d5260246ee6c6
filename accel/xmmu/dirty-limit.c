/*
 * xmmu: dirty limit and the dirty rate of vCPUs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what QEMU's dirty limit (system/dirtylimit.c) needs of rings: how many pages each
 * vCPU made dirty, which makes its rate, and that a vCPU sleeps for a while whenever its
 * ring was full, which is how the limit holds it back.  dirty-log.c calls it.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "hw/core/cpu.h"
#include "system/dirtylimit.h"
#include "accel/xmmu/dirty-ring.h"
#include "accel/xmmu/xmmu-accel.h"

void xmmu_limit_init(void)
{
    xmmu_dirty_ring_entries = xmmu_state.config.dirty_ring_size;
}

/* With the BQL, so no vCPU goes. */
void xmmu_limit_count(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        XmmuVcpu *vcpu = xmmu_cpu_core(cpu);
        XmmuStats stats;

        if (vcpu) {
            xmmu_vcpu_stats(vcpu, &stats);
            cpu->dirty_pages = stats.dirty_pages;
        }
    }
}

static void hold_back(CPUState *cpu, run_on_cpu_data data)
{
    bql_unlock();
    dirtylimit_vcpu_execute(cpu);
    bql_lock();
}

/* Not here, where the vCPU is in the middle of an access and an RCU read section. */
void xmmu_limit_ring_was_full(CPUState *cpu)
{
    if (cpu->throttle_us_per_full) {
        async_run_on_cpu(cpu, hold_back, RUN_ON_CPU_NULL);
    }
}
