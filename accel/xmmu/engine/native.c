/*
 * xmmu native engine: its place between QEMU, the core and the module
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the device, the mirror of the core's tables, what the core asks of its
 * surroundings when the guest runs in hardware, and the vCPUs' threads.  What depends
 * on the guest's architecture is in target/i386/xmmu/.  See
 * docs/devel/xmmu-native.rst.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/guest-random.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/cputlb.h"
#include "exec/gdbstub.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "system/cpu-timers.h"
#include "system/cpus.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "tcg/startup.h"
#include "accel/tcg/tcg-accel-ops.h"
#include "accel/xmmu/trace.h"
#include "accel/xmmu/engine/engine.h"
#include "accel/xmmu/engine/native.h"

XmmuNative xmmu_native;

static XmmuServices services;

/* ---- Flushes --------------------------------------------------------------------- */

/* @tell: xmmu_mirror_flush() or xmmu_mirror_submit(). */
static void flush_by(bool (*tell)(XmmuMirror *mirror))
{
    uint64_t tick = xmmu_vm_hardware_tick(xmmu_state.vm);

    if (tell(xmmu_native.mirror)) {
        xmmu_vm_hardware_flushed(xmmu_state.vm, tick);
    } else if (xmmu_mirror_broken(xmmu_native.mirror)) {
        CPUState *cpu;

        RCU_READ_LOCK_GUARD();
        CPU_FOREACH(cpu) {
            qemu_cpu_kick(cpu);
        }
    }
}

void xmmu_native_flush(void)
{
    flush_by(xmmu_mirror_flush);
}

void xmmu_native_submit(void)
{
    flush_by(xmmu_mirror_submit);
}

/* A vCPU whose turn of TCG is over has an empty TLB there. */
static void flush_emulating(CPUState *cpu, run_on_cpu_data data)
{
    tlb_flush(cpu);
    xmmu_cpu_flushed(cpu);
}

static void flush_tcg(CPUState *cpu)
{
    if (cpu->halt_cond && xmmu_native_vcpu_emulating(cpu)) {
        async_run_on_cpu(cpu, flush_emulating, RUN_ON_CPU_NULL);
    }
}

static void service_flush_all(void *opaque)
{
    CPUState *cpu;

    trace_xmmu_flush_all();
    xmmu_native_flush();
    RCU_READ_LOCK_GUARD();
    CPU_FOREACH(cpu) {
        flush_tcg(cpu);
    }
}

static void service_flush_vcpu(void *opaque, unsigned index)
{
    CPUState *cpu;

    xmmu_native_flush();
    RCU_READ_LOCK_GUARD();
    cpu = qemu_get_cpu(index);
    if (cpu) {
        flush_tcg(cpu);
    }
}

static int service_max_level(void *opaque, hpa_t hpa, int level)
{
    return xmmu_mirror_max_level(xmmu_native.mirror, hpa, level);
}

static void service_harvest(void *opaque, XmmuHarvest *list, size_t count)
{
    xmmu_mirror_harvest(xmmu_native.mirror, list, count);
}

static bool service_hint_dirty(void *opaque)
{
    return xmmu_write_logs_hint(&xmmu_native.logs);
}

/* The hardware had D in an entry that is gone, or is not asked for it. */
static void entry_was_dirty(void *opaque, hpa_t hpa, uint64_t size)
{
    XmmuState *state = opaque;

    xmmu_vm_dirty_mark(state->vm, hpa, size >> XMMU_PAGE_SHIFT);
}

const XmmuServices *xmmu_native_services(void)
{
    services = xmmu_soft_services;
    services.flush_all = service_flush_all;
    services.flush_vcpu = service_flush_vcpu;
    services.hardware_caches = true;
    services.pins_pages = true;
    services.entry_changed = xmmu_mirror_changed;
    services.table_gone = xmmu_mirror_gone;
    services.max_level = service_max_level;
    services.harvest = service_harvest;
    xmmu_native.logs_writes = xmmu_write_logs_useful(xmmu_native.device,
                                                     &xmmu_state.config);
    services.hint_dirty = xmmu_native.logs_writes ? service_hint_dirty : NULL;
    return &services;
}

/* ---- Guest memory --------------------------------------------------------------------- */

static void ram_added(RAMBlockNotifier *notifier, void *host, size_t size,
                      size_t max_size)
{
    RAMBlock *block;
    ram_addr_t offset;
    uint64_t page_size;
    bool readonly;
    char *error;

    RCU_READ_LOCK_GUARD();
    block = qemu_ram_block_from_host(host, false, &offset);
    page_size = block ? qemu_ram_pagesize(block) : qemu_real_host_page_size();
    readonly = block && (block->flags & RAM_READONLY);
    if (!xmmu_mirror_add_ram(xmmu_native.mirror, (uintptr_t)host, max_size, page_size,
                             readonly, &error)) {
        /* Without it the guest's first access there would be the end. */
        error_report("xmmu: %s", error);
        exit(EXIT_FAILURE);
    }
}

static void ram_removed(RAMBlockNotifier *notifier, void *host, size_t size,
                        size_t max_size)
{
    char *error;

    if (!xmmu_mirror_remove_ram(xmmu_native.mirror, (uintptr_t)host, &error)) {
        warn_report("xmmu: %s", error);
        g_free(error);
    }
}

/* Blocks are told of with all that they may become: .max_size. */
static RAMBlockNotifier ram_notifier = {
    .ram_block_added = ram_added,
    .ram_block_removed = ram_removed,
};

/* ---- Start ------------------------------------------------------------------------------- */

/* NULL: the module and the CPU can do what @config and @nx ask for. */
static const char *missing(const struct xmmu_caps *caps, const XmmuConfig *config,
                           XmmuNxHugePages nx)
{
    uint32_t tdp = 1 << XMMU_FORMAT_NPT | 1 << XMMU_FORMAT_EPT;
    uint32_t shadow = 1 << XMMU_FORMAT_LONG | 1 << XMMU_FORMAT_PAE;

    if (config->tdp && !(caps->formats & tdp)) {
        return "the CPU has no two-dimensional paging (tdp=off works without)";
    }
    if (!config->tdp && (caps->formats & shadow) != shadow) {
        return "the module cannot run shadow tables (tdp=on works without)";
    }
    if (config->tdp && config->dirty_log == XMMU_DIRTY_DBIT &&
        !(caps->features & XMMU_FEATURE_AD)) {
        return "the CPU sets no dirty bits in EPT (dirty-log=wp works without)";
    }
    if (nx == XMMU_NX_HUGE_PAGES_OFF && (caps->features & XMMU_FEATURE_SMALL_EXEC)) {
        return "on this CPU large pages must not be executable (nx-huge-pages=auto works)";
    }
    return NULL;
}

/* Two-dimensional tables are as this CPU has them, whatever pt-format says. */
static void follow_hardware(XmmuConfig *config, const struct xmmu_caps *caps)
{
    config->tdp_format = caps->formats & (1 << XMMU_FORMAT_EPT) ? XMMU_TDP_EPT
                                                                 : XMMU_TDP_NPT;
    /* Nested paging has the host's levels: AMD APM vol. 2, 15.25.3. */
    config->tdp_levels = config->tdp_format == XMMU_TDP_NPT ? caps->max_level : 4;
}

bool xmmu_native_open(XmmuState *state, char **error)
{
    XmmuDevice *device = xmmu_device_open(&xmmu_device_host, XMMU_DEVICE_PATH, error);
    const char *why;

    if (!device) {
        return false;
    }
    why = missing(&device->caps, &state->config, state->nx_huge_pages);
    if (why) {
        *error = g_strdup(why);
        xmmu_device_close(device);
        return false;
    }
    follow_hardware(&state->config, &device->caps);
    xmmu_native.device = device;
    return true;
}

bool xmmu_native_start(char **error)
{
    static XmmuMirrorOps ops = { .written = entry_was_dirty };

    if (xmmu_state.config.dirty_log == XMMU_DIRTY_DBIT) {
        ops.written_before = entry_was_dirty;
    }
    xmmu_native.mirror = xmmu_mirror_new(xmmu_native.device, &services, &ops,
                                         &xmmu_state, error);
    if (!xmmu_native.mirror) {
        return false;
    }
    if (xmmu_native.logs_writes) {
        xmmu_write_logs_init(&xmmu_native.logs, xmmu_state.vm, xmmu_native.device,
                             xmmu_mirror_fd(xmmu_native.mirror));
    }
    ram_block_notifier_add(&ram_notifier);
    /* A page that is pinned would stay, and the guest would get another one. */
    if (ram_block_discard_disable(true)) {
        *error = g_strdup("memory that is given back while the guest runs cannot be "
                          "used with engine=native");
        return false;
    }
    return true;
}

XmmuNativeStatus *xmmu_native_query(void)
{
    XmmuNativeStatus *status;
    const struct xmmu_caps *caps;
    XmmuMirrorStats stats;

    if (!xmmu_native_enabled()) {
        return NULL;
    }
    caps = &xmmu_native.device->caps;
    xmmu_mirror_stats(xmmu_native.mirror, &stats);
    status = g_new0(XmmuNativeStatus, 1);
    status->vendor = g_strdup(caps->vendor == XMMU_VENDOR_VMX ? "vmx" : "svm");
    status->features = caps->features;
    status->max_level = caps->max_level;
    status->tsc_khz = caps->tsc_khz;
    status->updates = stats.updates;
    status->entries = stats.entries;
    status->tables = stats.tables;
    status->table_bytes = stats.table_bytes;
    return status;
}

/* ---- vCPU threads ---------------------------------------------------------------------------- */

static void on_kick(int signal)
{
    if (current_cpu) {
        xmmu_native_vcpu_stop(current_cpu);
    }
}

/* The signal interrupts XMMU_RUN; elsewhere it only leaves its note. */
static void accept_kicks(void)
{
    struct sigaction action = { .sa_handler = on_kick };
    sigset_t set;

    sigaction(SIG_IPI, &action, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIG_IPI);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void run(CPUState *cpu)
{
    switch (xmmu_native_vcpu_exec(cpu)) {
    case EXCP_DEBUG:
        cpu_handle_guest_debug(cpu);
        break;
    default:
        break;
    }
}

static void *vcpu_thread(void *arg)
{
    CPUState *cpu = arg;

    rcu_register_thread();
    tcg_register_thread();
    bql_lock();
    qemu_thread_get_self(cpu->thread);
    cpu->thread_id = qemu_get_thread_id();
    cpu->neg.can_do_io = true;
    current_cpu = cpu;
    xmmu_native_vcpu_start(cpu);
    accept_kicks();
    cpu_thread_signal_created(cpu);
    qemu_guest_random_seed_thread_part2(cpu->random_seed);

    do {
        if (cpu_can_run(cpu)) {
            run(cpu);
        }
        /* Before the requests are looked at: one that comes later sets it again. */
        qatomic_set_mb(&cpu->exit_request, false);
        qemu_wait_io_event(cpu);
    } while (!cpu->unplug || cpu_can_run(cpu));

    xmmu_native_vcpu_end(cpu);
    cpu_thread_signal_destroyed(cpu);
    bql_unlock();
    rcu_unregister_thread();
    return NULL;
}

static void create_vcpu_thread(CPUState *cpu)
{
    char name[VCPU_THREAD_NAME_SIZE];

    /* Other vCPUs run in hardware meanwhile: TCG must use the host's atomics. */
    tcg_cpu_init_cflags(cpu, true);
    snprintf(name, sizeof(name), "CPU %d/xmmu", cpu->cpu_index);
    qemu_thread_create(cpu->thread, name, vcpu_thread, cpu, QEMU_THREAD_JOINABLE);
}

/* A thread that is being made looks at exit_request before it does anything. */
static void kick_vcpu_thread(CPUState *cpu)
{
    cpu_exit(cpu);
    if (cpu->created) {
        cpus_kick_thread(cpu);
    }
}

/* ---- env, for those who are not the vCPU's thread ------------------------------------------------ */

static void do_load(CPUState *cpu, run_on_cpu_data data)
{
    xmmu_native_vcpu_load(cpu);
}

static void synchronize_state(CPUState *cpu)
{
    if (cpu->created) {
        run_on_cpu(cpu, do_load, RUN_ON_CPU_NULL);
    }
}

void xmmu_native_ops_init(AccelOpsClass *ops)
{
    ops->create_vcpu_thread = create_vcpu_thread;
    ops->kick_vcpu_thread = kick_vcpu_thread;
    ops->handle_interrupt = tcg_handle_interrupt;
    ops->synchronize_state = synchronize_state;
    ops->synchronize_pre_loadvm = synchronize_state;
}
