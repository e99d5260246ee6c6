/*
 * xmmu fuzz: changes of the VM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the changes of the memory map, the log of writes, and what happens rarely:
 * everything zapped, a vCPU reset, a vCPU created again.
 */
#include "fuzz.h"

void fz_set_memory(Fuzz *f, unsigned as_id)
{
    for (unsigned i = 0; i < f->world.region_count[as_id]; i++) {
        uint32_t *flags = &f->world.regions[as_id][i].flags;

        *flags &= ~XMMU_REGION_LOG_DIRTY;
        *flags |= f->logging[as_id] ? XMMU_REGION_LOG_DIRTY : 0;
    }
    xmmu_vm_set_memory(f->vm, as_id, f->world.regions[as_id],
                       f->world.region_count[as_id]);
}

void fz_op_slots(Fuzz *f)
{
    unsigned as_id = source_below(f->s, XMMU_AS_COUNT);
    unsigned layout = f->world.layout[as_id] ^ (1 << source_below(f->s, 4));

    fz_finish_pending(f);
    fz_trace(f, "layout of address space %u: %#x", as_id, layout);
    world_set_layout(&f->world, as_id, layout);
    fz_set_memory(f, as_id);
    /* The engine's own reaction to a change of topology: what the bus answered is
     * forgotten.  The rest is the core's to flush. */
    for (unsigned i = 0; i < f->all_cpus; i++) {
        fz_tlb_drop_holes(&f->cpus[i]);
    }
}

/* What is told has not to be remembered: the core compares it with what was stored. */
static void told(void *opaque, hpa_t hpa, const uint64_t *bits)
{
    (void)opaque;
    (void)hpa;
    (void)bits;
}

/* Its ring is full.  Nobody looks at the pages yet. */
void fz_spill(Fuzz *f, Cpu *cpu)
{
    fz_trace(f, "vCPU %u spills its ring", cpu->index);
    xmmu_vcpu_dirty_spill(cpu->vcpu, told, f);
}

static void reap(Fuzz *f)
{
    /* Whoever looks at the pages waits for what is under way. */
    fz_finish_pending(f);
    fz_trace(f, "the rings are emptied");
    xmmu_vm_dirty_reap(f->vm, told, f);
}

void fz_op_log(Fuzz *f)
{
    const uint64_t everything = (uint64_t)1 << 50;
    unsigned pick = source_below(f->s, 8), as_id = pick & 1;

    fz_finish_pending(f);
    if (pick < 2) {
        f->logging[as_id] = !f->logging[as_id];
        fz_trace(f, "address space %u: writes are%s logged", as_id,
                 f->logging[as_id] ? "" : " not");
        fz_set_memory(f, as_id);
    } else if (f->config.dirty_log == XMMU_DIRTY_RING) {
        reap(f);
    } else {
        fz_trace(f, "the log is asked%s", pick < 4 ? ", but not cleared" : "");
        xmmu_vm_dirty_sync(f->vm, 0, everything, told, f);
        if (pick >= 4) {
            xmmu_vm_dirty_clear(f->vm, 0, everything);
        }
    }
}

void fz_op_rare(Fuzz *f, Cpu *cpu)
{
    switch (source_below(f->s, 8)) {
    case 0:
        fz_trace(f, "zap all");
        xmmu_vm_zap_all(f->vm);
        for (unsigned i = 0; i < f->cpu_count; i++) {
            fz_forget_all(f, &f->cpus[i]);
        }
        break;
    case 1:
        fz_trace(f, "vCPU %u reset", cpu->index);
        xmmu_vcpu_reset(cpu->vcpu);
        fz_take_regs(f, cpu, &cpu->regs);
        fz_forget_all(f, cpu);
        break;
    case 2:
        fz_trace(f, "vCPU %u re-created", cpu->index);
        xmmu_vcpu_free(cpu->vcpu);
        cpu->vcpu = xmmu_vcpu_new(f->vm, cpu->index, &f->caps);
        fz_take_regs(f, cpu, &cpu->regs);
        fz_forget_all(f, cpu);
        break;
    case 3:
    case 4:
        fz_op_look(f, cpu);
        break;
    default:
        fz_op_debug(f, cpu);
        break;
    }
}
