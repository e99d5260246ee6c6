/*
 * xmmu: the accelerator
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the QOM type `xmmu-accel`: its properties, the choice of the engine and
 * the life of the XmmuVm.  A subclass of TCG's accelerator, so that everything
 * that TCG can be told (thread=, tb-size=, ...) goes for xmmu too.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/host-utils.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qobject/qdict.h"
#include "exec/address-spaces.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "system/cpu-timers.h"
#include "system/replay.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "accel/xmmu/xmmu-accel.h"
#include "accel/xmmu/engine/engine.h"
#include "accel/xmmu/engine/native.h"

#define DEFAULT_PREV_ROOTS 3
#define DEFAULT_NX_RATIO 60
#define DEFAULT_DIRTY_RING_SIZE 4096
#define MAX_DIRTY_RING_SIZE 65536

XmmuState xmmu_state;
bool xmmu_allowed;

/* ---- Properties -------------------------------------------------------- */

static int get_engine(Object *obj, Error **errp)
{
    return xmmu_state.engine;
}

static void set_engine(Object *obj, int value, Error **errp)
{
    xmmu_state.engine = value;
}

static bool get_tdp(Object *obj, Error **errp)
{
    return xmmu_state.config.tdp;
}

static void set_tdp(Object *obj, bool value, Error **errp)
{
    xmmu_state.config.tdp = value;
}

static int get_pt_format(Object *obj, Error **errp)
{
    return xmmu_state.config.tdp_format == XMMU_TDP_EPT ? XMMU_PT_FORMAT_EPT
                                                        : XMMU_PT_FORMAT_NPT;
}

static void set_pt_format(Object *obj, int value, Error **errp)
{
    xmmu_state.config.tdp_format = value == XMMU_PT_FORMAT_EPT ? XMMU_TDP_EPT
                                                               : XMMU_TDP_NPT;
}

static void get_prev_roots(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    uint32_t value = xmmu_state.config.prev_roots;

    visit_type_uint32(v, name, &value, errp);
}

static void set_prev_roots(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    uint32_t value;

    if (!visit_type_uint32(v, name, &value, errp)) {
        return;
    }
    if (value > XMMU_PREV_ROOTS_MAX) {
        error_setg(errp, "Parameter '%s' expects a value between 0 and %d",
                   name, XMMU_PREV_ROOTS_MAX);
        return;
    }
    xmmu_state.config.prev_roots = value;
}

static bool get_huge_pages(Object *obj, Error **errp)
{
    return xmmu_state.config.huge_pages;
}

static void set_huge_pages(Object *obj, bool value, Error **errp)
{
    xmmu_state.config.huge_pages = value;
}

static void get_table_memory(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    uint64_t value = xmmu_state.config.table_memory;

    visit_type_size(v, name, &value, errp);
}

static void set_table_memory(Object *obj, Visitor *v, const char *name,
                             void *opaque, Error **errp)
{
    visit_type_size(v, name, &xmmu_state.config.table_memory, errp);
}

static int get_nx_huge_pages(Object *obj, Error **errp)
{
    return xmmu_state.nx_huge_pages;
}

static void set_nx_huge_pages(Object *obj, int value, Error **errp)
{
    xmmu_state.nx_huge_pages = value;
}

/* The core's strategies by the names that users know. */
static const XmmuNxStrategy nx_strategies[] = {
    [XMMU_NX_RECOVERY_RANGE] = XMMU_NX_RANGE,
    [XMMU_NX_RECOVERY_PRECISE] = XMMU_NX_PRECISE,
    [XMMU_NX_RECOVERY_PROMOTE] = XMMU_NX_PROMOTE,
};
QEMU_BUILD_BUG_ON(ARRAY_SIZE(nx_strategies) != XMMU_NX_RECOVERY__MAX);

static int get_nx_recovery(Object *obj, Error **errp)
{
    int i = 0;

    while (nx_strategies[i] != xmmu_state.config.nx_strategy) {
        i++;
    }
    return i;
}

static void set_nx_recovery(Object *obj, int value, Error **errp)
{
    xmmu_state.config.nx_strategy = nx_strategies[value];
}

static void add_nx_properties(ObjectClass *oc)
{
    object_class_property_add_enum(oc, "nx-huge-pages", "XmmuNxHugePages",
                                   &XmmuNxHugePages_lookup,
                                   get_nx_huge_pages, set_nx_huge_pages);
    object_class_property_set_description(oc, "nx-huge-pages",
        "Make pages above 4 KiB not executable: off, auto (where the CPU that "
        "executes the guest needs it) or force");

    object_class_property_add_uint32_ptr(oc, "nx-huge-pages-recovery-ratio",
                                         &xmmu_state.config.nx_ratio,
                                         OBJ_PROP_FLAG_READWRITE);
    object_class_property_set_description(oc, "nx-huge-pages-recovery-ratio",
        "In each period, make 1/N of the pages that fetches split huge again; "
        "0: none");

    object_class_property_add_uint32_ptr(oc, "nx-huge-pages-recovery-period-ms",
                                         &xmmu_state.config.nx_period_ms,
                                         OBJ_PROP_FLAG_READWRITE);
    object_class_property_set_description(oc, "nx-huge-pages-recovery-period-ms",
        "Milliseconds of a period; 0: an hour divided by the ratio");

    object_class_property_add_enum(oc, "nx-huge-pages-recovery", "XmmuNxRecovery",
                                   &XmmuNxRecovery_lookup,
                                   get_nx_recovery, set_nx_recovery);
    object_class_property_set_description(oc, "nx-huge-pages-recovery",
        "How a page becomes huge again: promote (in place), precise or range "
        "(unmapped, for the next access)");
}

static bool get_verify(Object *obj, Error **errp)
{
    return xmmu_state.verify;
}

static void set_verify(Object *obj, bool value, Error **errp)
{
    xmmu_state.verify = value;
}

static bool get_async_pf(Object *obj, Error **errp)
{
    return xmmu_state.async_pf;
}

static void set_async_pf(Object *obj, bool value, Error **errp)
{
    xmmu_state.async_pf = value;
}

/* The core's ways by the names that users know. */
static const XmmuDirtyLog dirty_logs[] = {
    [XMMU_DIRTY_LOGGING_WP] = XMMU_DIRTY_WP,
    [XMMU_DIRTY_LOGGING_DBIT] = XMMU_DIRTY_DBIT,
    [XMMU_DIRTY_LOGGING_RING] = XMMU_DIRTY_RING,
};
QEMU_BUILD_BUG_ON(ARRAY_SIZE(dirty_logs) != XMMU_DIRTY_LOGGING__MAX);

static int get_dirty_log(Object *obj, Error **errp)
{
    int i = 0;

    while (dirty_logs[i] != xmmu_state.config.dirty_log) {
        i++;
    }
    return i;
}

static void set_dirty_log(Object *obj, int value, Error **errp)
{
    xmmu_state.config.dirty_log = dirty_logs[value];
}

static void get_dirty_ring_size(Object *obj, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    uint32_t value = xmmu_state.config.dirty_ring_size;

    visit_type_uint32(v, name, &value, errp);
}

static void set_dirty_ring_size(Object *obj, Visitor *v, const char *name,
                                void *opaque, Error **errp)
{
    uint32_t value;

    if (!visit_type_uint32(v, name, &value, errp)) {
        return;
    }
    if (value && (!is_power_of_2(value) || value < XMMU_DIRTY_RING_MIN ||
                  value > MAX_DIRTY_RING_SIZE)) {
        error_setg(errp, "Parameter '%s' expects 0 or a power of two between %d and %d",
                   name, XMMU_DIRTY_RING_MIN, MAX_DIRTY_RING_SIZE);
        return;
    }
    xmmu_state.config.dirty_ring_size = value;
}

static void add_dirty_properties(ObjectClass *oc)
{
    object_class_property_add_enum(oc, "dirty-log", "XmmuDirtyLogging",
                                   &XmmuDirtyLogging_lookup,
                                   get_dirty_log, set_dirty_log);
    object_class_property_set_description(oc, "dirty-log",
        "How writes of vCPUs are logged for migration and displays: wp (write "
        "protection), dbit (dirty bits of page tables) or ring (a ring for each vCPU)");

    object_class_property_add(oc, "dirty-ring-size", "uint32",
                              get_dirty_ring_size, set_dirty_ring_size, NULL, NULL);
    object_class_property_set_description(oc, "dirty-ring-size",
        "Entries of each vCPU's ring for dirty-log=ring, a power of two; "
        "0: " stringify(DEFAULT_DIRTY_RING_SIZE));
}

static void add_properties(ObjectClass *oc)
{
    object_class_property_add_enum(oc, "engine", "XmmuEngine",
                                   &XmmuEngine_lookup, get_engine, set_engine);
    object_class_property_set_description(oc, "engine",
        "What executes the guest: auto, soft (TCG and a model of the hardware) "
        "or native (VMX or SVM through " XMMU_DEVICE_PATH ")");

    object_class_property_add_bool(oc, "tdp", get_tdp, set_tdp);
    object_class_property_set_description(oc, "tdp",
        "Two-dimensional paging; off: shadow paging");

    object_class_property_add_enum(oc, "pt-format", "XmmuPtFormat",
                                   &XmmuPtFormat_lookup,
                                   get_pt_format, set_pt_format);
    object_class_property_set_description(oc, "pt-format",
        "Encoding of the tables for two-dimensional paging in engine soft: "
        "npt (AMD) or ept (Intel)");

    object_class_property_add(oc, "prev-roots", "uint32",
                              get_prev_roots, set_prev_roots, NULL, NULL);
    object_class_property_set_description(oc, "prev-roots",
        "Root tables that each vCPU keeps beside the current one, "
        "0 to " stringify(XMMU_PREV_ROOTS_MAX));

    object_class_property_add_bool(oc, "huge-pages",
                                   get_huge_pages, set_huge_pages);
    object_class_property_set_description(oc, "huge-pages",
        "Map guest memory in pages of 2 MiB and 1 GiB where possible");

    object_class_property_add(oc, "table-memory", "size",
                              get_table_memory, set_table_memory, NULL, NULL);
    object_class_property_set_description(oc, "table-memory",
        "Host memory that page tables may take; 0: a fiftieth of the guest's memory, "
        "at least 128 MiB");

    add_nx_properties(oc);
    add_dirty_properties(oc);

    object_class_property_add_bool(oc, "verify", get_verify, set_verify);
    object_class_property_set_description(oc, "verify",
        "Compare each translation with QEMU's own page walker and stop at the "
        "first difference");

    object_class_property_add_bool(oc, "async-pf", get_async_pf, set_async_pf);
    object_class_property_set_description(oc, "async-pf",
        "Let the guest go on while a page of its memory is missing (postcopy, swap); "
        "it sees KVM's CPUID leaves then");

    /* The parent's, which comes without a description. */
    object_class_property_set_description(object_class_get_parent(oc), "thread",
        "multi: a thread for each vCPU, single: one for all");
}

static void xmmu_accel_instance_init(Object *obj)
{
    xmmu_state = (XmmuState) {
        .engine = XMMU_ENGINE_AUTO,
        .nx_huge_pages = XMMU_NX_HUGE_PAGES_AUTO,
        .config = {
            .tdp = true,
            .tdp_format = XMMU_TDP_NPT,
            .tdp_levels = 4,
            .huge_pages = true,
            .prev_roots = DEFAULT_PREV_ROOTS,
            .nx_strategy = XMMU_NX_PROMOTE,
            .nx_ratio = DEFAULT_NX_RATIO,
        },
    };
}

/* ---- Start ------------------------------------------------------------- */

/* What engine=native cannot be combined with; NULL: nothing of it was asked for. */
static const char *native_conflict(void)
{
    if (icount_enabled()) {
        return "-icount counts what TCG executes";
    }
    if (!qemu_tcg_mttcg_enabled()) {
        return "thread=single is for engine=soft";
    }
    if (xmmu_state.verify) {
        return "verify=on compares translations of engine=soft";
    }
    return NULL;
}

static bool open_native(char **error)
{
    const char *conflict = native_conflict();

    if (conflict) {
        *error = g_strdup(conflict);
        return false;
    }
    return xmmu_native_open(&xmmu_state, error);
}

static bool choose_engine(void)
{
    g_autofree char *error = NULL;

    if (xmmu_state.engine == XMMU_ENGINE_SOFT) {
        return true;
    }
    if (open_native(&error)) {
        if (xmmu_state.engine == XMMU_ENGINE_AUTO) {
            info_report("xmmu: engine native");
        }
        xmmu_state.engine = XMMU_ENGINE_NATIVE;
        return true;
    }
    if (xmmu_state.engine == XMMU_ENGINE_NATIVE) {
        error_report("engine=native is not available: %s", error);
        return false;
    }
    info_report("xmmu: engine soft (%s)", error);
    xmmu_state.engine = XMMU_ENGINE_SOFT;
    return true;
}

static bool start_native(void)
{
    g_autofree char *error = NULL;

    if (xmmu_native_enabled() && !xmmu_native_start(&error)) {
        error_report("xmmu: %s", error);
        return false;
    }
    return true;
}

static void forget_vcpu_state(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        xmmu_cpu_state_replaced(cpu);
    }
}

/*
 * Guest memory can be written by those whom no write tracking sees; of the tables,
 * only shadow tables depend on its contents.  At a reset it is the ROM loader, which may come
 * after this: the first vCPU that goes on does the work.
 */
static void system_reset(void *opaque)
{
    qatomic_set(&xmmu_state.zap_due, !xmmu_state.config.tdp);
    forget_vcpu_state();
}

/*
 * While the VM was stopped it is loadvm or a debugger.  Here and not later, because
 * the flush that zapping orders would end the one instruction of a debugger's
 * single step before it began.
 */
static void run_state_changed(void *opaque, bool running, RunState state)
{
    xmmu_apf_run_state(running);
    if (!running) {
        return;
    }
    if (!xmmu_state.config.tdp) {
        xmmu_vm_zap_all(xmmu_state.vm);
    }
    forget_vcpu_state();
}

/* Enough for every vCPU to go on, and a default that fits the guest. */
static bool settle_table_memory(MachineState *ms)
{
    uint64_t *size = &xmmu_state.config.table_memory;
    uint64_t least = xmmu_table_memory_floor(ms->smp.max_cpus);

    if (*size == 0) {
        *size = MAX(ms->maxram_size / 50, XMMU_TABLE_MEMORY_DEFAULT);
        *size = MAX(*size, least);
    }
    if (*size < least) {
        error_report("xmmu: table-memory=%" PRIu64 " is too small: %u vCPUs need at "
                     "least %" PRIu64 " bytes", *size, ms->smp.max_cpus, least);
        return false;
    }
    return true;
}

static const XmmuServices *services(void)
{
    static XmmuServices soft;

    if (xmmu_native_enabled()) {
        return xmmu_native_services();
    }
    soft = xmmu_soft_services;
    soft.dirty_missed = xmmu_state.verify ? xmmu_log_missed : NULL;
    return &soft;
}

/* Rings have a size, nothing else has. */
static bool settle_dirty_ring(void)
{
    XmmuConfig *config = &xmmu_state.config;
    uint32_t *size = &config->dirty_ring_size;

    if (config->dirty_log != XMMU_DIRTY_RING) {
        if (*size) {
            error_report("xmmu: dirty-ring-size is for dirty-log=ring");
        }
        return !*size;
    }
    *size = *size ?: DEFAULT_DIRTY_RING_SIZE;
    return true;
}

/* When a page comes is the host's affair and would have to be in the record. */
static bool check_replay(void)
{
    if (xmmu_state.async_pf && replay_mode != REPLAY_MODE_NONE) {
        error_report("xmmu: async-pf=on cannot be recorded or replayed: it is not in "
                     "the record when a missing page comes");
        return false;
    }
    return true;
}

static int xmmu_init_machine(MachineState *ms)
{
    XmmuAccelClass *xc = XMMU_ACCEL_CLASS(object_get_class(OBJECT(current_accel())));
    int ret = xc->parent_init_machine(ms);

    if (ret < 0) {
        return ret;
    }
    if (!check_replay() || !choose_engine() || !settle_table_memory(ms) ||
        !settle_dirty_ring()) {
        return -EINVAL;
    }
    /* auto asks for a host CPU with the problem; the hardware model has no iTLB. */
    xmmu_state.config.nx_huge_pages =
        xmmu_state.nx_huge_pages == XMMU_NX_HUGE_PAGES_FORCE ||
        (xmmu_native_enabled() && xmmu_native_has(XMMU_FEATURE_SMALL_EXEC));
    xmmu_state.vm = xmmu_vm_new(&xmmu_state.config, services(), &xmmu_state);
    if (!xmmu_state.vm) {
        error_report("xmmu: no host memory");
        return -ENOMEM;
    }
    /* Also with async-pf=off: a guest may come that waits for pages elsewhere. */
    xmmu_vm_enable_apf(xmmu_state.vm, &xmmu_apf_services);
    if (!start_native()) {
        return -EINVAL;
    }
    if (!xmmu_native_enabled()) {
        xmmu_log_init(ms->smp.max_cpus);
    }
    xmmu_limit_init();
    xmmu_memory_listen(&xmmu_state.memory[XMMU_AS_NORMAL], xmmu_state.vm,
                       XMMU_AS_NORMAL, &address_space_memory, "xmmu");
    xmmu_nx_recovery_start(xmmu_state.vm);
    qemu_register_reset(system_reset, NULL);
    qemu_add_vm_change_state_handler(run_state_changed, NULL);
    return 0;
}

static void xmmu_cpu_common_unrealize(CPUState *cpu)
{
    XmmuAccelClass *xc = XMMU_ACCEL_CLASS(object_get_class(OBJECT(current_accel())));

    xmmu_cpu_unrealize(cpu);
    xc->parent_cpu_unrealize(cpu);
}

/* ---- What can be seen --------------------------------------------------- */

QObject *xmmu_stats_to_qobject(const XmmuStats *stats)
{
    QDict *dict = qdict_new();

    for (size_t i = 0; i < xmmu_stat_count; i++) {
        const XmmuStatDesc *desc = &xmmu_stat_descs[i];
        const uint64_t *value = (const void *)((const char *)stats + desc->offset);

        g_autofree char *name = g_strdelimit(g_strdup(desc->name), "_", '-');

        qdict_put_int(dict, name, *value);
    }
    return QOBJECT(dict);
}

static XmmuStatus *xmmu_query(void)
{
    XmmuStatus *status = g_new0(XmmuStatus, 1);
    XmmuVcpuStatusList **tail = &status->vcpus;
    XmmuStats stats;
    CPUState *cpu;

    status->engine = xmmu_state.engine;
    status->tdp = xmmu_state.config.tdp;
    status->pt_format = get_pt_format(NULL, NULL);
    status->verify = xmmu_state.verify;
    status->async_pf = xmmu_state.async_pf;
    status->dirty_log = get_dirty_log(NULL, NULL);
    status->dirty_ring_size = xmmu_state.config.dirty_ring_size;
    status->huge_pages = xmmu_state.config.huge_pages;
    status->prev_roots = xmmu_state.config.prev_roots;
    status->nx_huge_pages = xmmu_state.config.nx_huge_pages;
    status->nx_huge_pages_recovery = get_nx_recovery(NULL, NULL);
    status->nx_huge_pages_recovery_ratio = xmmu_state.config.nx_ratio;
    status->nx_huge_pages_recovery_period_ms =
        xmmu_nx_period_ms(&xmmu_state.config);
    xmmu_vm_stats(xmmu_state.vm, &stats);
    status->stats = xmmu_stats_to_qobject(&stats);
    CPU_FOREACH(cpu) {
        QAPI_LIST_APPEND(tail, xmmu_cpu_query(cpu));
    }
    status->native = xmmu_native_query();
    return status;
}

/* ---- Types -------------------------------------------------------------- */

static void xmmu_accel_class_init(ObjectClass *oc, void *data)
{
    AccelClass *ac = ACCEL_CLASS(oc);
    XmmuAccelClass *xc = XMMU_ACCEL_CLASS(oc);

    xc->parent_init_machine = ac->init_machine;
    xc->parent_cpu_unrealize = ac->cpu_common_unrealize;
    xc->query = xmmu_query;

    ac->name = "xmmu";
    ac->init_machine = xmmu_init_machine;
    ac->cpu_common_unrealize = xmmu_cpu_common_unrealize;
    ac->allowed = &xmmu_allowed;
    add_properties(oc);
}

static const TypeInfo xmmu_accel_type = {
    .name = TYPE_XMMU_ACCEL,
    .parent = ACCEL_CLASS_NAME("tcg"),
    .instance_init = xmmu_accel_instance_init,
    .class_size = sizeof(XmmuAccelClass),
    .class_init = xmmu_accel_class_init,
};
module_obj(TYPE_XMMU_ACCEL);

static void xmmu_accel_register_types(void)
{
    type_register_static(&xmmu_accel_type);
}
type_init(xmmu_accel_register_types);
