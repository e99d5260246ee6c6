/*
 * xmmu: the state of a vCPU's MMU for x-query-xmmu
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Collected on the vCPU's own thread, to which its MMU belongs.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "accel/xmmu/engine/native.h"
#include "target/i386/xmmu/xmmu-cpu.h"

static XmmuRootStatus *root_status(const XmmuRootInfo *root)
{
    XmmuRootStatus *status = g_new0(XmmuRootStatus, 1);

    status->valid = root->valid;
    status->pgd = root->pgd;
    status->pcid = root->pcid;
    status->role = root->page_role;
    status->role_text = root->valid ? xmmu_page_role_text(root->page_role)
                                    : g_strdup("");
    return status;
}

static void collect(CPUState *cs, run_on_cpu_data data)
{
    XmmuVcpuStatus *status = data.host_ptr;
    XmmuVcpu *vcpu = cs->accel->vcpu;
    XmmuRootStatusList **tail = &status->roots;
    XmmuRootInfo roots[XMMU_PREV_ROOTS_MAX + 1];
    XmmuStats stats;
    size_t count;

    xmmu_native_vcpu_load(cs);
    xmmu_take_over(cs);
    status->cpu_index = cs->cpu_index;
    status->role = xmmu_vcpu_role_text(vcpu);
    status->role_word = xmmu_vcpu_role_word(vcpu);
    count = xmmu_vcpu_roots(vcpu, roots, ARRAY_SIZE(roots));
    for (size_t i = 0; i < count; i++) {
        QAPI_LIST_APPEND(tail, root_status(&roots[i]));
    }
    status->verified = cs->accel->verified;
    status->verified_stale = cs->accel->verified_stale;
    xmmu_vcpu_stats(vcpu, &stats);
    status->stats = xmmu_stats_to_qobject(&stats);
    status->native = xmmu_native_vcpu_query(cs);
}

XmmuVcpuStatus *xmmu_cpu_query(CPUState *cs)
{
    XmmuVcpuStatus *status = g_new0(XmmuVcpuStatus, 1);

    run_on_cpu(cs, collect, RUN_ON_CPU_HOST_PTR(status));
    return status;
}
