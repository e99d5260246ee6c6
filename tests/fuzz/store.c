/*
 * xmmu fuzz: stores
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the stores to guest memory: at once, or later, when others have run between
 * the translation and the store; and those to a physical address.
 */
#include <inttypes.h>
#include <string.h>
#include "fuzz.h"

bool fz_store(Fuzz *f, const Cpu *cpu, const XmmuHwResult *r, const void *data,
              unsigned size)
{
    bool writable = false;
    uint8_t *mem = world_host(&f->world, fz_as(cpu), r->gpa, &writable);

    if (!mem || !writable || world_pool_index(&f->world, mem) < 0) {
        return false;
    }
    f->count->writes++;
    fz_trace(f, "  store %u bytes at gpa %#" PRIx64 ": %#" PRIx64, size, r->gpa,
             size == 4 ? *(const uint32_t *)data
             : size == 8 ? *(const uint64_t *)data : 0);
    world_store(&f->world, mem, data, size);
    if (r->outcome == XMMU_HW_OK) {
        /* Not @mem: what the vCPU has cached may map another frame by now. */
        xmmu_vm_dirty_seen(f->vm, r->hpa & XMMU_PAGE_MASK, true);
    }
    return true;
}

void fz_finish_pending(Fuzz *f)
{
    Cpu *cpu = f->pending.cpu;

    f->pending.cpu = NULL;
    if (cpu) {
        fz_trace(f, "vCPU %u finishes its store", cpu->index);
        fz_store(f, cpu, &f->pending.result, f->pending.data, f->pending.size);
    }
}

void fz_finish_of(Fuzz *f, const Cpu *cpu)
{
    if (f->pending.cpu == cpu) {
        fz_finish_pending(f);
    }
}

bool fz_store_soon(Fuzz *f, Cpu *cpu, const XmmuHwResult *r, const void *data,
                   unsigned size)
{
    if (f->pending.cpu || !(f->limits->features & FUZZ_RACES) ||
        !source_percent(f->s, 15)) {
        return fz_store(f, cpu, r, data, size);
    }
    fz_trace(f, "  (the store comes later)");
    f->pending = (Pending) {
        .cpu = cpu, .result = *r, .size = size, .ops_left = 1 + source_below(f->s, 5),
    };
    memcpy(f->pending.data, data, size);
    return false;
}

/* The writer is a vCPU that never pages. */
static void write_by_writer(Fuzz *f, const XmmuAccess *a, bool smm, const void *data,
                            unsigned size)
{
    Cpu *writer = &f->cpus[f->cpu_count];
    XmmuHwResult r;

    fz_finish_of(f, writer);
    if (writer->regs.smm != smm) {
        writer->regs.smm = smm;
        xmmu_vcpu_set_regs(writer->vcpu, &writer->regs);
        fz_tlb_drop(writer);
    }
    if (fz_translate(f, writer, a, size, &r)) {
        fz_store_soon(f, writer, &r, data, size);
    }
    /* Tables count as synchronised only when every vCPU has flushed. */
    if (source_percent(f->s, f->writer_flushes)) {
        fz_flush(f, writer);
    }
}

/* Changes of CR0.PG flush (Intel SDM vol. 3, 4.10.4.1). */
static void write_unpaged(Fuzz *f, Cpu *cpu, const XmmuAccess *a, bool smm,
                          const void *data, unsigned size)
{
    XmmuRegs paged = cpu->regs, unpaged = { .cr0 = XMMU_CR0_PE, .smm = smm };
    XmmuHwResult r;

    fz_take_regs(f, cpu, &unpaged);
    fz_flush(f, cpu);
    if (fz_translate(f, cpu, a, size, &r)) {
        fz_store(f, cpu, &r, data, size);
    }
    fz_take_regs(f, cpu, &paged);
    fz_flush(f, cpu);
}

void fz_write_physical(Fuzz *f, unsigned as_id, gpa_t gpa, const void *data,
                       unsigned size)
{
    XmmuAccess a = { .gva = gpa, .want = XMMU_PROT_WRITE };
    bool smm = as_id == XMMU_AS_SMM;

    if (gpa >= 4 * GIB) {
        return;
    }
    if (f->all_cpus > f->cpu_count) {
        write_by_writer(f, &a, smm, data, size);
    } else {
        write_unpaged(f, &f->cpus[source_below(f->s, f->cpu_count)], &a, smm, data,
                      size);
    }
}
