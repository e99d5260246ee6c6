/*
 * xmmu: the core's log of writes and QEMU's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns how what vCPUs wrote gets from the core's log (mmu/dirty.c) into QEMU's dirty
 * bitmaps, where migration and display devices look for it.  memory.c calls it from the
 * memory listeners, with the BQL or, for clearing, without; a vCPU calls it when its
 * ring is full.  What devices and QEMU itself write is in QEMU's bitmaps anyway.
 */
#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "accel/xmmu/trace.h"
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
    unsigned i = 0;

    RCU_READ_LOCK_GUARD();
    while (i < XMMU_ENTRIES) {
        unsigned start = i;

        while (i < XMMU_ENTRIES && extract64(bits[i / 64], i % 64, 1)) {
            i++;
        }
        if (i > start) {
            mark_pages(hpa + start * XMMU_PAGE_SIZE, i - start);
            *count += i - start;
        } else {
            i++;
        }
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

void xmmu_log_sync(XmmuVm *vm, hpa_t hpa, uint64_t npages)
{
    uint64_t count = 0;

    xmmu_vm_dirty_sync(vm, hpa, npages, log_pages, &count);
    if (!clears_later()) {
        xmmu_vm_dirty_clear(vm, hpa, npages);
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
    count_for_dirty_rate(count);
    trace_xmmu_log_reap(count);
}
