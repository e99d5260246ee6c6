/*
 * xmmu fuzz: the core's surroundings
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what the core asks of a run: RCU, the bus, flushes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "fuzz.h"

static void service_flush_all(void *opaque)
{
    Fuzz *f = opaque;

    fz_trace(f, "  core: flush all");
    for (unsigned i = 0; i < f->all_cpus; i++) {
        fz_tlb_drop(&f->cpus[i]);
        f->cpus[i].dropped = true;
    }
}

static void service_flush_vcpu(void *opaque, unsigned index)
{
    Fuzz *f = opaque;

    fz_trace(f, "  core: asks vCPU %u to flush", index);
    f->cpus[index].nudged = true;
}

static uint64_t service_read_bus(void *opaque, unsigned as_id, gpa_t gpa,
                                 unsigned size)
{
    Fuzz *f = opaque;
    bool writable;

    if (world_host(&f->world, as_id, gpa, &writable)) {
        fprintf(stderr, "the core reads gpa %#" PRIx64 " from the bus, but RAM is there\n",
                gpa);
        abort();
    }
    return world_bus(&f->world, as_id, gpa, size);
}

static void service_dirty_missed(void *opaque, hpa_t hpa)
{
    Fuzz *f = opaque;

    fprintf(stderr, "\nDIFFERENCE: the log of writes does not have pool page %d (gpa %#" PRIx64 "), way %d\n",
            world_pool_index(&f->world, (const uint8_t *)(uintptr_t)hpa),
            f->world.pool[world_pool_index(&f->world, (const uint8_t *)(uintptr_t)hpa)].gpa,
            f->config.dirty_log);
    fz_print_setting(f, &f->cpus[0]);
    abort();
}

const XmmuServices fz_services = {
    .rcu_read_lock = world_rcu_lock,
    .rcu_read_unlock = world_rcu_unlock,
    .rcu_call = world_rcu_call,
    .read_bus = service_read_bus,
    .flush_all = service_flush_all,
    .flush_vcpu = service_flush_vcpu,
    .dirty_missed = service_dirty_missed,
};
