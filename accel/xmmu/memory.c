/*
 * xmmu: guest memory from QEMU's address spaces
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the memory listeners.  Each collects the RAM-backed sections of one
 * address space during a memory transaction and hands the core the whole
 * sorted list at its end, when something changed.  What is not in the list is
 * MMIO or a hole for the core, and QEMU's own dispatch decides about it.
 *
 * Whether writes to a section are logged is a property of its memory region; a change
 * of it is a transaction too.  What the core has logged is asked for section by section.
 *
 * All callbacks run in the thread that commits the transaction, with the BQL.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "exec/memory.h"
#include "exec/ram_addr.h"
#include "exec/target_page.h"
#include "accel/xmmu/trace.h"
#include "accel/xmmu/xmmu-accel.h"

static XmmuMemory *to_memory(MemoryListener *listener)
{
    return container_of(listener, XmmuMemory, listener);
}

static void memory_begin(MemoryListener *listener)
{
    XmmuMemory *memory = to_memory(listener);

    g_array_set_size(memory->next, 0);
    memory->touched = false;
}

/* Device memory that only looks like RAM must see each access as it is. */
static bool section_is_mapped(const MemoryRegionSection *section)
{
    MemoryRegion *mr = section->mr;

    if (memory_region_is_ram(mr)) {
        return !memory_region_is_ram_device(mr);
    }
    return memory_region_is_romd(mr);
}

static bool region_continues(const XmmuRegion *last, const XmmuRegion *region)
{
    return last->gfn + last->npages == region->gfn &&
           last->hpa + last->npages * XMMU_PAGE_SIZE == region->hpa &&
           last->flags == region->flags;
}

static void append_region(GArray *regions, const XmmuRegion *region)
{
    if (regions->len) {
        XmmuRegion *last = &g_array_index(regions, XmmuRegion, regions->len - 1);

        if (region_continues(last, region)) {
            last->npages += region->npages;
            return;
        }
    }
    g_array_append_vals(regions, region, 1);
}

/* The whole pages of a section; pages that it shares with others stay MMIO.  False:
 * there are none. */
static bool section_region(const MemoryRegionSection *section, XmmuRegion *region)
{
    hwaddr start = section->offset_within_address_space;
    hwaddr first = ROUND_UP(start, XMMU_PAGE_SIZE);
    hwaddr end, offset;

    if (!section_is_mapped(section)) {
        return false;
    }
    end = ROUND_DOWN(start + int128_get64(section->size), XMMU_PAGE_SIZE);
    offset = section->offset_within_region + (first - start);
    if (end <= first || offset % XMMU_PAGE_SIZE) {
        return false;
    }
    *region = (XmmuRegion) {
        .gfn = first >> XMMU_PAGE_SHIFT,
        .npages = (end - first) >> XMMU_PAGE_SHIFT,
        .hpa = (uintptr_t)memory_region_get_ram_ptr(section->mr) + offset,
    };
    return true;
}

/* TCG's own interest in code, which all RAM has, is none of ours. */
static bool section_is_logged(const MemoryRegionSection *section)
{
    return memory_region_get_dirty_log_mask(section->mr) & DIRTY_CLIENTS_NOCODE;
}

static void memory_collect(MemoryListener *listener,
                           MemoryRegionSection *section)
{
    XmmuMemory *memory = to_memory(listener);
    XmmuRegion region;

    memory->touched = true;
    if (!section_region(section, &region)) {
        return;
    }
    if (section->readonly || section->mr->rom_device) {
        region.flags |= XMMU_REGION_READONLY;
    }
    if (section_is_logged(section)) {
        region.flags |= XMMU_REGION_LOG_DIRTY;
    }
    append_region(memory->next, &region);
}

static void memory_del(MemoryListener *listener, MemoryRegionSection *section)
{
    to_memory(listener)->touched = true;
}

static bool same_regions(const GArray *a, const GArray *b)
{
    if (a->len != b->len) {
        return false;
    }
    for (unsigned i = 0; i < a->len; i++) {
        const XmmuRegion *x = &g_array_index(a, XmmuRegion, i);
        const XmmuRegion *y = &g_array_index(b, XmmuRegion, i);

        if (x->gfn != y->gfn || x->npages != y->npages || x->hpa != y->hpa ||
            x->flags != y->flags) {
            return false;
        }
    }
    return true;
}

/*
 * commit() comes for each transaction, also when this address space did not
 * change; then no section was reported and there is nothing to do.
 */
static void memory_commit(MemoryListener *listener)
{
    XmmuMemory *memory = to_memory(listener);
    GArray *old = memory->current;

    if (!memory->touched || same_regions(memory->next, old)) {
        return;
    }
    trace_xmmu_memory(memory->as_id, memory->next->len);
    if (!xmmu_vm_set_memory(memory->vm, memory->as_id,
                            (const XmmuRegion *)memory->next->data,
                            memory->next->len)) {
        /* What is mapped may be about to be unmapped: there is no going on. */
        error_report("xmmu: no host memory for the map of guest memory");
        exit(EXIT_FAILURE);
    }
    memory->current = memory->next;
    memory->next = old;
}

static void memory_log_sync(MemoryListener *listener, MemoryRegionSection *section)
{
    XmmuRegion region;

    if (section_region(section, &region)) {
        xmmu_log_sync(to_memory(listener)->vm, region.hpa, region.npages);
    }
}

static void memory_log_clear(MemoryListener *listener, MemoryRegionSection *section)
{
    XmmuRegion region;

    if (section_region(section, &region)) {
        xmmu_log_clear(to_memory(listener)->vm, region.hpa, region.npages);
    }
}

static void memory_log_sync_global(MemoryListener *listener, bool last_stage)
{
    xmmu_log_reap(to_memory(listener)->vm);
}

static void listen_to_logs(MemoryListener *listener, const XmmuConfig *config)
{
    if (config->dirty_log == XMMU_DIRTY_RING) {
        listener->log_sync_global = memory_log_sync_global;
    } else {
        listener->log_sync = memory_log_sync;
        listener->log_clear = memory_log_clear;
    }
}

void xmmu_memory_listen(XmmuMemory *memory, XmmuVm *vm, unsigned as_id,
                        AddressSpace *as, const char *name)
{
    memory->vm = vm;
    memory->as_id = as_id;
    memory->as = as;
    memory->next = g_array_new(false, false, sizeof(XmmuRegion));
    memory->current = g_array_new(false, false, sizeof(XmmuRegion));
    memory->listener = (MemoryListener) {
        .name = name,
        .begin = memory_begin,
        .region_add = memory_collect,
        .region_nop = memory_collect,
        .region_del = memory_del,
        .commit = memory_commit,
        .priority = MEMORY_LISTENER_PRIORITY_ACCEL,
    };
    listen_to_logs(&memory->listener, xmmu_vm_config(vm));
    memory_listener_register(&memory->listener, as);
}
