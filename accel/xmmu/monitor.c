/*
 * xmmu: QMP x-query-xmmu and HMP `info xmmu`
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Common code: built once for all targets, so it finds the accelerator through
 * its class and says so where there is none.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-xmmu.h"
#include "qobject/qdict.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "accel/xmmu/xmmu-accel.h"

XmmuStatus *qmp_x_query_xmmu(Error **errp)
{
    Object *accel = OBJECT(current_accel());

    if (!object_dynamic_cast(accel, TYPE_XMMU_ACCEL)) {
        error_setg(errp, "The accelerator in use is not xmmu");
        return NULL;
    }
    return XMMU_ACCEL_CLASS(object_get_class(accel))->query();
}

static int compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void print_stats(Monitor *mon, const char *indent, QObject *stats)
{
    QDict *dict = qobject_to(QDict, stats);
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (const QDictEntry *e = qdict_first(dict); e; e = qdict_next(dict, e)) {
        g_ptr_array_add(names, (void *)qdict_entry_key(e));
    }
    g_ptr_array_sort(names, compare_names);
    for (unsigned i = 0; i < names->len; i++) {
        const char *name = names->pdata[i];
        int64_t value = qdict_get_int(dict, name);

        if (value) {
            monitor_printf(mon, "%s%-16s %" PRId64 "\n", indent, name, value);
        }
    }
}

static void print_vcpu(Monitor *mon, const XmmuVcpuStatus *vcpu)
{
    const char *kind = "current root";

    monitor_printf(mon, "CPU %" PRId64 ": %s\n", vcpu->cpu_index, vcpu->role);
    for (XmmuRootStatusList *r = vcpu->roots; r; r = r->next) {
        if (r->value->valid) {
            monitor_printf(mon, "  %s: pgd 0x%" PRIx64 ", PCID %u, %s\n", kind,
                           r->value->pgd, r->value->pcid, r->value->role_text);
        }
        kind = "cached root ";
    }
    if (vcpu->verified) {
        monitor_printf(mon, "  verified: %" PRIu64 ", %" PRIu64 " of them stale\n",
                       vcpu->verified, vcpu->verified_stale);
    }
    print_stats(mon, "  ", vcpu->stats);
    if (vcpu->native) {
        monitor_printf(mon, "  exits and turns of TCG:\n");
        print_stats(mon, "    ", vcpu->native);
    }
}

static void hmp_info_xmmu(Monitor *mon, const QDict *qdict)
{
    Error *err = NULL;
    g_autoptr(XmmuStatus) status = qmp_x_query_xmmu(&err);

    if (hmp_handle_error(mon, err)) {
        return;
    }
    monitor_printf(mon,
                   "engine %s, %s%s, huge pages %s%s, %u previous roots%s\n",
                   XmmuEngine_str(status->engine),
                   status->tdp ? "two-dimensional paging in format "
                               : "shadow paging",
                   status->tdp ? XmmuPtFormat_str(status->pt_format) : "",
                   status->huge_pages ? "on" : "off",
                   status->nx_huge_pages ? " but not executable" : "",
                   status->prev_roots,
                   status->verify ? ", verified" : "");
    if (status->native) {
        monitor_printf(mon, "module: %s, %u levels, %" PRIu64 " tables; "
                       "%" PRIu64 " updates with %" PRIu64 " entries\n",
                       status->native->vendor, status->native->max_level,
                       status->native->tables, status->native->updates,
                       status->native->entries);
    }
    print_stats(mon, "", status->stats);
    for (XmmuVcpuStatusList *v = status->vcpus; v; v = v->next) {
        print_vcpu(mon, v->value);
    }
}

static void xmmu_register_hmp(void)
{
    monitor_register_hmp("xmmu", true, hmp_info_xmmu);
}
type_init(xmmu_register_hmp);
