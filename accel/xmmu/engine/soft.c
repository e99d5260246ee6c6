/*
 * xmmu soft engine: TCG executes, the hardware model translates
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what the core asks of its surroundings when the guest runs in TCG (RCU,
 * the bus, flushes), and how a translation of the hardware model becomes an
 * entry of TCG's TLB.  What depends on the guest's architecture is in
 * target/i386/xmmu/.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/address-spaces.h"
#include "exec/cpu-all.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/memory.h"
#include "exec/page-protection.h"
#include "exec/ram_addr.h"
#include "system/runstate.h"
#include "accel/xmmu/trace.h"
#include "accel/xmmu/xmmu-accel.h"
#include "accel/xmmu/engine/engine.h"

/* ---- Services ----------------------------------------------------------- */

QEMU_BUILD_BUG_ON(sizeof(struct rcu_head) != sizeof(XmmuRcuHead));
QEMU_BUILD_BUG_ON(__alignof__(struct rcu_head) != __alignof__(XmmuRcuHead));

static void service_rcu_read_lock(void)
{
    rcu_read_lock();
}

static void service_rcu_read_unlock(void)
{
    rcu_read_unlock();
}

/* The core's callback takes a pointer to the same two words. */
static void service_rcu_call(XmmuRcuHead *head, void (*fn)(XmmuRcuHead *head))
{
    call_rcu1((struct rcu_head *)head, (RCUCBFunc *)fn);
}

static uint64_t service_read_bus(void *opaque, unsigned as_id, gpa_t gpa,
                                 unsigned size)
{
    XmmuState *state = opaque;
    AddressSpace *as = state->memory[as_id].as;
    MemTxAttrs attrs = { .secure = as_id == XMMU_AS_SMM };

    return size == 4 ? address_space_ldl_le(as, gpa, attrs, NULL)
                     : address_space_ldq_le(as, gpa, attrs, NULL);
}

static void flush_work(CPUState *cpu, run_on_cpu_data data)
{
    tlb_flush(cpu);
    xmmu_cpu_flushed(cpu);
}

static void flush_ordered_work(CPUState *cpu, run_on_cpu_data data)
{
    flush_work(cpu, data);
    xmmu_log_flush_obeyed(cpu, data.host_int);
}

static void service_flush_vcpu(void *opaque, unsigned index)
{
    CPUState *cpu;

    RCU_READ_LOCK_GUARD();
    cpu = qemu_get_cpu(index);
    if (cpu && cpu->halt_cond) {
        async_run_on_cpu(cpu, flush_work, RUN_ON_CPU_NULL);
    }
}

/*
 * The calling vCPU's TLB is not flushed on the spot either: an access that
 * crosses a page still holds pointers into the TLB for its first page while
 * its second one is translated.  The work ends the current translation block
 * and is done before the next one.
 */
static void service_flush_all(void *opaque)
{
    CPUState *cpu;
    run_on_cpu_data flush = RUN_ON_CPU_HOST_INT(xmmu_log_flush_ordered());

    trace_xmmu_flush_all();
    RCU_READ_LOCK_GUARD();
    CPU_FOREACH(cpu) {
        /* Without it the vCPU is being realized and holds nothing yet. */
        if (cpu->halt_cond) {
            async_run_on_cpu(cpu, flush_ordered_work, flush);
        }
    }
}

/*
 * Guest tables may hold translated code too (a guest may do anything), and a
 * page whose code is known to TCG is one whose writes it wants to see.
 */
static void service_guest_written(void *opaque, hpa_t hpa, unsigned size)
{
    ram_addr_t addr;

    RCU_READ_LOCK_GUARD();
    addr = qemu_ram_addr_from_host((void *)(uintptr_t)hpa);
    if (addr == RAM_ADDR_INVALID || !cpu_physical_memory_is_clean(addr)) {
        return;
    }
    if (!cpu_physical_memory_get_dirty_flag(addr, DIRTY_MEMORY_CODE)) {
        tb_invalidate_phys_range(addr, addr + size - 1);
    }
    cpu_physical_memory_set_dirty_range(addr, size, DIRTY_CLIENTS_NOCODE);
}

const XmmuServices xmmu_soft_services = {
    .rcu_read_lock = service_rcu_read_lock,
    .rcu_read_unlock = service_rcu_read_unlock,
    .rcu_call = service_rcu_call,
    .read_bus = service_read_bus,
    .flush_all = service_flush_all,
    .flush_vcpu = service_flush_vcpu,
    .guest_written = service_guest_written,
    .dirty_dropped = xmmu_log_dropped,
};

/* ---- TCG's TLB ----------------------------------------------------------- */

QEMU_BUILD_BUG_ON(PAGE_READ != XMMU_PROT_READ);
QEMU_BUILD_BUG_ON(PAGE_WRITE != XMMU_PROT_WRITE);
QEMU_BUILD_BUG_ON(PAGE_EXEC != XMMU_PROT_EXEC);

/*
 * By guest physical address, so that QEMU's own dispatch finds RAM, ROM or a
 * device behind it, and dirty tracking and code protection work as ever.
 *
 * A page size below TARGET_PAGE_BITS makes an entry for one access only: a
 * write that the core tracks must come back here each time.  MMIO may stay:
 * when the memory map changes, QEMU flushes its TLBs.
 */
void xmmu_soft_install(CPUState *cs, vaddr addr, MemTxAttrs attrs, int mmu_idx,
                       const XmmuHwResult *result)
{
    bool once = result->outcome == XMMU_HW_DIRECT && !result->mmio;
    CPUTLBEntryFull full = {
        .phys_addr = result->gpa & XMMU_PAGE_MASK,
        .attrs = attrs,
        .prot = result->prot,
        .lg_page_size = once ? 0 : result->page_shift,
    };

    tlb_set_page_full(cs, mmu_idx, addr & XMMU_PAGE_MASK, &full);
}

void xmmu_soft_out_of_memory(CPUState *cs, uintptr_t ra)
{
    bool locked = bql_locked();

    error_report_once("xmmu: no host memory for page tables; VM stopped");
    if (!locked) {
        bql_lock();
    }
    vm_stop(RUN_STATE_INTERNAL_ERROR);
    if (!locked) {
        bql_unlock();
    }
    cpu_loop_exit_restore(cs, ra);
}
