/*
 * xmmu: the core's log of writes and QEMU's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns how what vCPUs wrote gets from the core's log (mmu/dirty_sync.c) into QEMU's dirty
 * bitmaps, where migration and display devices look for it.  memory.c calls it from the
 * memory listeners, with the BQL or, for clearing, without; a vCPU spills its ring here
 * when that is full.  What devices and QEMU itself write is in QEMU's bitmaps anyway.
 *
 * TCG has a record of its own of what vCPUs write.  Where we log it is kept out of the
 * bitmaps, so that ours is the one that counts; with verify=on the core compares the two
 * and we end the process if ours has missed a page.
 */
#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "exec/cputlb.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "accel/xmmu/trace.h"
#include "accel/xmmu/written.h"
#include "accel/xmmu/xmmu-accel.h"

/*
 * Not DIRTY_MEMORY_CODE: that there is no translated code in a page is for TCG to say,
 * which sees to the code when it writes; hardware's writes are compared with it.
 */
static uint8_t clients(void)
{
    return global_dirty_tracking ? DIRTY_CLIENTS_NOCODE : 1 << DIRTY_MEMORY_VGA;
}

/* Pages that are contiguous in the host may belong to several blocks. */
static void mark_pages(hpa_t hpa, uint64_t npages)
{
    while (npages) {
        ram_addr_t offset;
        RAMBlock *block = qemu_ram_block_from_host((void *)(uintptr_t)hpa, false,
                                                   &offset);
        uint64_t n = 1;

        if (block) {
            n = MIN(npages, (block->max_length - offset) >> XMMU_PAGE_SHIFT);
            cpu_physical_memory_set_dirty_range(block->offset + offset,
                                                n << XMMU_PAGE_SHIFT, clients());
        }
        npages -= n;
        hpa += n << XMMU_PAGE_SHIFT;
    }
}

/* The first at @i or later that is one (@flip: 0) or zero (UINT64_MAX); 512: none. */
static unsigned next_bit(const uint64_t *bits, unsigned i, uint64_t flip)
{
    while (i < XMMU_ENTRIES) {
        uint64_t rest = (bits[i / 64] ^ flip) >> (i % 64);

        if (rest) {
            return i + ctz64(rest);
        }
        i = ROUND_DOWN(i, 64) + 64;
    }
    return XMMU_ENTRIES;
}

static void count_for_dirty_rate(uint64_t npages)
{
    if (global_dirty_tracking & GLOBAL_DIRTY_DIRTY_RATE) {
        total_dirty_pages += npages;
    }
}

/* An XmmuDirtyFn; @opaque: to count them in. */
static void log_pages(void *opaque, hpa_t hpa, const uint64_t *bits)
{
    uint64_t *count = opaque;
    unsigned i = next_bit(bits, 0, 0);

    RCU_READ_LOCK_GUARD();
    while (i < XMMU_ENTRIES) {
        unsigned start = i;

        i = next_bit(bits, start, UINT64_MAX);
        mark_pages(hpa + start * XMMU_PAGE_SIZE, i - start);
        *count += i - start;
        i = next_bit(bits, i, 0);
    }
}

void xmmu_log_dropped(void *opaque, hpa_t hpa, const uint64_t *bits)
{
    uint64_t count = 0;

    log_pages(&count, hpa, bits);
    trace_xmmu_log_dropped(hpa, count);
}

/*
 * Where a flush is over when it was ordered (engine native) pages may be cleared when
 * their turn comes.  A vCPU of TCG goes on until the end of its translation block; QEMU
 * waits for that between log_sync and its first look at the pages (log_global_after_sync),
 * and at no other time, so there the pages are cleared here.
 */
static bool clears_later(void)
{
    return xmmu_state.engine == XMMU_ENGINE_NATIVE;
}

/* ---- TCG's record --------------------------------------------------------------- */

/*
 * Flushes that were ordered, and for each vCPU the last that it has obeyed.  What it
 * writes in between may go by a translation that it has been ordered to forget; the
 * page was told before, and nobody looks at it until the vCPU has flushed.
 */
static uint32_t flushes_ordered;
static uint32_t *flushes_obeyed;

uint32_t xmmu_log_flush_ordered(void)
{
    return qatomic_inc_fetch(&flushes_ordered);
}

void xmmu_log_flush_obeyed(CPUState *cpu, uint32_t flush)
{
    if (flushes_obeyed) {
        qatomic_set(&flushes_obeyed[cpu->cpu_index], flush);
    }
}

static bool has_to_flush(CPUState *cpu)
{
    return qatomic_read(&flushes_obeyed[cpu->cpu_index]) !=
           qatomic_read(&flushes_ordered);
}

/*
 * In this order: the core forgets what was seen until it has ordered a flush.  What need
 * not be seen is not told in the first place, or a sync that comes before it is taken
 * back would count it.
 */
static bool record(CPUState *cpu, hpa_t hpa)
{
    bool logs;

    if (has_to_flush(cpu)) {
        return xmmu_vm_dirty_logs(xmmu_state.vm, hpa);
    }
    logs = xmmu_vm_dirty_seen(xmmu_state.vm, hpa, true);
    if (logs && has_to_flush(cpu)) {
        xmmu_vm_dirty_seen(xmmu_state.vm, hpa, false);
    }
    return logs;
}

static bool ram_written(CPUState *cpu, ram_addr_t addr)
{
    hpa_t hpa;

    switch (xmmu_cpu_writer(cpu)) {
    case XMMU_WRITER_TCG:
        return false;
    case XMMU_WRITER_NOBODY:
        return true;
    case XMMU_WRITER_GUEST:
        break;
    }
    WITH_RCU_READ_LOCK_GUARD() {
        hpa = (uintptr_t)qemu_map_ram_ptr(NULL, addr & TARGET_PAGE_MASK);
    }
    return xmmu_state.verify ? record(cpu, hpa)
                             : xmmu_vm_dirty_logs(xmmu_state.vm, hpa);
}

void xmmu_log_missed(void *opaque, hpa_t hpa)
{
    ram_addr_t offset = 0;
    RAMBlock *block = qemu_ram_block_from_host((void *)(uintptr_t)hpa, false, &offset);

    fprintf(stderr, "xmmu: verify: a vCPU wrote to page 0x" RAM_ADDR_FMT " of %s, and the "
            "log of writes does not say so\n", offset, block ? block->idstr : "nothing");
    fflush(stderr);
    exit(EXIT_FAILURE);
}

void xmmu_log_init(unsigned max_cpus)
{
    if (xmmu_state.verify) {
        flushes_obeyed = g_new0(uint32_t, max_cpus);
    }
    xmmu_ram_written = ram_written;
}

/* The TLBs' marks must be there for TCG to see the next write to each page. */
static void see_again(hpa_t hpa, uint64_t npages)
{
    ram_addr_t addr;

    RCU_READ_LOCK_GUARD();
    addr = qemu_ram_addr_from_host((void *)(uintptr_t)hpa);
    if (xmmu_state.verify && addr != RAM_ADDR_INVALID) {
        tlb_reset_dirty_range_all(addr, npages << XMMU_PAGE_SHIFT);
    }
}

/* ---- The listeners' questions ------------------------------------------------------ */

void xmmu_log_sync(XmmuVm *vm, hpa_t hpa, uint64_t npages)
{
    uint64_t count = 0;

    xmmu_vm_dirty_sync(vm, hpa, npages, log_pages, &count);
    if (!clears_later()) {
        xmmu_vm_dirty_clear(vm, hpa, npages);
        see_again(hpa, npages);
    }
    count_for_dirty_rate(count);
    trace_xmmu_log_sync(hpa, npages, count);
}

void xmmu_log_clear(XmmuVm *vm, hpa_t hpa, uint64_t npages)
{
    if (clears_later()) {
        xmmu_vm_dirty_clear(vm, hpa, npages);
        trace_xmmu_log_clear(hpa, npages);
    }
}

void xmmu_log_reap(XmmuVm *vm)
{
    uint64_t count = 0;

    xmmu_vm_dirty_reap(vm, log_pages, &count);
    xmmu_limit_count();
    count_for_dirty_rate(count);
    trace_xmmu_log_reap(count);
}

/* The reap that follows tells these pages again, and counts them for the rate. */
void xmmu_log_spill(CPUState *cpu)
{
    uint64_t count = 0;

    xmmu_vcpu_dirty_spill(xmmu_cpu_core(cpu), log_pages, &count);
    xmmu_limit_ring_was_full(cpu);
    trace_xmmu_log_spill(count);
}
