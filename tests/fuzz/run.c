/*
 * xmmu fuzz: a run
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the life of a VM that is fuzzed: its choice of configuration and CPU model,
 * its operations one after another, and the look at what is left at the end.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fuzz.h"

/* What the engine does between instructions. */
static void obey_flushes(Fuzz *f)
{
    if (f->pending.cpu && f->pending.ops_left-- == 0) {
        fz_finish_pending(f);
    }
    for (unsigned i = 0; i < f->all_cpus; i++) {
        Cpu *cpu = &f->cpus[i];

        if (cpu == f->pending.cpu) {
            continue;
        }
        if (cpu->nudged && source_percent(f->s, 20)) {
            fz_tlb_drop(cpu);
            cpu->nudged = false;
            cpu->dropped = true;
        }
        if (cpu->dropped) {
            cpu->dropped = false;
            fz_tlb_drop(cpu);
            fz_trace(f, "vCPU %u tells that it dropped its TLB", i);
            xmmu_vcpu_flushed(cpu->vcpu);
        }
    }
}

/* What changes the vCPU role but flushes nothing. */
static void op_role(Fuzz *f, Cpu *cpu)
{
    unsigned allowed = f->limits->features, pick = source_below(f->s, 10);

    if (pick == 0 && (allowed & FUZZ_SMM)) {
        fz_op_smm(f, cpu);
    } else if (pick == 1 && (allowed & FUZZ_A20)) {
        fz_op_a20(f, cpu);
    } else if (allowed & FUZZ_REGS) {
        fz_op_flip(f, cpu);
    }
}

/* Without a writer, a write to a physical address costs two flushes: not always. */
static void write_somewhere(Fuzz *f, Cpu *cpu)
{
    if (f->all_cpus > f->cpu_count || source_percent(f->s, 30)) {
        fz_op_write_table(f);
    } else {
        fz_op_store(f, cpu);
    }
}

/* As one_op(), without what flushes everything. */
static void one_op_switching(Fuzz *f, Cpu *cpu)
{
    unsigned pick = source_below(f->s, 1000);

    if (pick < 500) {
        fz_op_access(f, cpu);
    } else if (pick < 700) {
        write_somewhere(f, cpu);
    } else if (pick < 900) {
        fz_op_cr3(f, cpu);
    } else if (pick < 940) {
        fz_op_invpcid(f, cpu);
    } else if (pick < 980) {
        fz_invlpg(f, cpu, cpu->recent[source_below(f->s, 4)]);
    } else {
        op_role(f, cpu);
    }
}

static void one_op(Fuzz *f)
{
    Source *s = f->s;
    unsigned allowed = f->limits->features;
    Cpu *cpu = &f->cpus[f->cpu_count > 1 ? source_below(s, f->cpu_count) : 0];
    unsigned pick = source_below(s, 1000);

    fz_finish_of(f, cpu);
    if (f->switching && pick % 32) {
        one_op_switching(f, cpu);
    } else if (f->restless && pick % 16 == 0) {
        op_role(f, cpu);
    } else if (pick < 700 || (f->calm && pick < 935 && pick % 5)) {
        fz_op_access(f, cpu);
    } else if (pick < 830) {
        write_somewhere(f, cpu);
    } else if (pick < 840 && (allowed & FUZZ_PCID)) {
        fz_op_invpcid(f, cpu);
    } else if (pick < 890) {
        fz_invlpg(f, cpu, cpu->recent[source_below(s, RECENT)]);
    } else if (pick < 940) {
        fz_op_cr3(f, cpu);
    } else if (pick < 944 && (allowed & FUZZ_LOG)) {
        fz_op_log(f);
    } else if (pick < 954) {
        fz_op_gpa(f, cpu);
    } else if (pick < 964) {
        fz_op_keys(f, cpu);
    } else if (pick < 974 && (allowed & FUZZ_REGS)) {
        fz_op_mode(f, cpu);
    } else if (pick < 992) {
        op_role(f, cpu);
    } else if (pick < 995 && (allowed & FUZZ_SLOTS)) {
        fz_op_slots(f);
    } else if (pick >= 995 && (allowed & FUZZ_RARE)) {
        fz_op_rare(f, cpu);
    }
}

static void random_config(Fuzz *f)
{
    static const uint8_t prev_roots[] = { 0, 1, 3, XMMU_PREV_ROOTS_MAX };
    static const uint8_t addr_bits[] = { 32, 36, 40, 46, 48, 52 };
    Source *s = f->s;
    unsigned kind, allowed = f->limits->features;

    do {
        kind = 1 << (source_bits(s, 2) % 3);
    } while (!(f->limits->paging & kind) && !source_dry(s));
    f->config = (XmmuConfig) {
        .tdp = kind != FUZZ_SHADOW,
        .tdp_format = kind == FUZZ_EPT ? XMMU_TDP_EPT : XMMU_TDP_NPT,
        .tdp_levels = source_percent(s, 50) ? 4 : 5,
        .huge_pages = (allowed & FUZZ_LARGE) && source_percent(s, 70),
        .prev_roots = prev_roots[source_below(s, 4)],
        .table_memory = (allowed & FUZZ_LIMIT) && source_percent(s, 25)
                        ? xmmu_table_memory_floor(2) + 8192 * source_below(s, 64) : 0,
    };
    f->caps = (XmmuCpuCaps) {
        .maxphyaddr = addr_bits[source_below(s, sizeof(addr_bits))],
        .page1g = source_percent(s, 60), .pse36 = source_percent(s, 60),
        .amd_pml4e_bit8 = source_percent(s, 30),
    };
    if ((allowed & FUZZ_LOG) && source_percent(s, 60)) {
        f->config.dirty_log = source_below(s, 3);
        f->config.dirty_ring_size = f->config.dirty_log == XMMU_DIRTY_RING ? XMMU_DIRTY_RING_MIN : 0;
        f->logging[XMMU_AS_NORMAL] = source_percent(s, 70);
        f->logging[XMMU_AS_SMM] = source_percent(s, 50);
    }
    if (f->config.tdp_levels == 4 && f->caps.maxphyaddr > 48) {
        f->caps.maxphyaddr = 48;
    }
    f->cpu_count = f->limits->target == FUZZ_SMP ? 2 : 1;
    f->all_cpus = f->cpu_count;
    if (f->limits->target == FUZZ_SMP && source_percent(s, 75)) {
        f->all_cpus++;
    }
    f->writer_flushes = source_percent(s, 20) ? 0 : 30;
    f->restless = source_percent(s, 25);
    f->calm = source_percent(s, 50);
    f->flush_percent = allowed & FUZZ_LAX ? source_below(s, 3) * 50 : 100;
    f->hot_percent = source_below(s, 5) * 20;
    f->switching = (allowed & FUZZ_PCID) && (allowed & FUZZ_LAX) &&
                   (f->limits->modes & (1 << 4 | 1 << 5)) && source_percent(s, 25);
    if (f->switching) {
        f->flush_percent = source_below(s, 2) * 20;
        f->hot_percent = 60 + source_below(s, 3) * 20;
        f->writer_flushes = source_below(s, 3) * 50;
        f->restless = false;
        f->world.tidy = source_percent(s, 75);
    }
}

static void start_cpus(Fuzz *f)
{
    for (unsigned i = 0; i < f->all_cpus; i++) {
        Cpu *cpu = &f->cpus[i];
        XmmuRegs regs = { .cr0 = XMMU_CR0_PE };

        cpu->index = i;
        cpu->vcpu = xmmu_vcpu_new(f->vm, i, &f->caps);
        fz_forget_all(f, cpu);
        fz_take_regs(f, cpu, &regs);
    }
    /* Off into the first mode that is allowed. */
    for (unsigned i = 0; i < f->cpu_count; i++) {
        for (int tries = 0; tries < 50 && !fz_levels(&f->cpus[i]); tries++) {
            fz_op_mode(f, &f->cpus[i]);
        }
    }
}

static void check_memory(Fuzz *f)
{
    const uint8_t *mem = world_differs(&f->world);

    if (mem) {
        int page = world_pool_index(&f->world, mem);

        fprintf(stderr, "\nDIFFERENCE: guest memory of pool page %d (gpa %#" PRIx64
                ") offset %#x is %#" PRIx64 ", expected %#" PRIx64 "\n", page,
                f->world.pool[page].gpa, (unsigned)((uintptr_t)mem & 0xfff),
                *(const uint64_t *)mem, world_expected(&f->world, mem, 8));
        fz_print_setting(f, &f->cpus[0]);
        abort();
    }
}

static void finish(Fuzz *f)
{
    XmmuStats stats;

    fz_finish_pending(f);
    check_memory(f);
    for (unsigned i = 0; i < f->all_cpus; i++) {
        xmmu_vcpu_free(f->cpus[i].vcpu);
    }
    xmmu_vm_zap_all(f->vm);
    world_rcu_run();
    xmmu_vm_stats(f->vm, &stats);
    /* TDP keeps its roots, which are empty now. */
    if (stats.tables > (f->config.tdp ? XMMU_AS_COUNT : 0) ||
        stats.pages_4k || stats.pages_2m || stats.pages_1g) {
        fprintf(stderr, "\nDIFFERENCE: after zap all: %" PRIu64 " tables, %" PRIu64 " + %"
                PRIu64 " + %" PRIu64 " pages left\n", stats.tables, stats.pages_4k,
                stats.pages_2m, stats.pages_1g);
        fz_print_setting(f, &f->cpus[0]);
        abort();
    }
    xmmu_vm_free(f->vm);
    world_rcu_run();
}

void fuzz_run(Source *source, uint64_t seed, unsigned ops, const FuzzLimits *limits,
              FuzzCount *count)
{
    static Fuzz fuzz;
    Fuzz *f = &fuzz;

    memset(f, 0, sizeof(*f));
    f->s = source;
    f->limits = limits;
    f->count = count;
    f->seed = seed;
    world_init_process();
    random_config(f);
    world_start(&f->world, seed, limits->features & FUZZ_HOLES);
    f->vm = xmmu_vm_new(&f->config, &fz_services, f);
    for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
        fz_set_memory(f, as);
    }
    start_cpus(f);
    for (f->op = 0; f->op < ops && !source_dry(source); f->op++) {
        obey_flushes(f);
        one_op(f);
        world_rcu_run();
        if (f->op % 512 == 511 || limits->trace) {
            check_memory(f);
        }
    }
    count->ops += f->op;
    finish(f);
}

int fuzz_input(const uint8_t *data, size_t size, FuzzTarget target)
{
    FuzzLimits limits = {
        .target = target, .features = FUZZ_EVERYTHING, .paging = FUZZ_ALL_PAGING,
        .modes = FUZZ_ALL_MODES, .trace = getenv("XMMU_FUZZ_TRACE") != NULL,
    };
    FuzzCount count = { 0 };
    Source source = { .data = data, .end = data + size };
    uint64_t seed = source_bits(&source, 16);

    if (size > 8) {
        fuzz_run(&source, seed, 100000, &limits, &count);
    }
    return 0;
}
