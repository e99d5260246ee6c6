/*
 * xmmu: how vCPUs run
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A vCPU of xmmu runs as one of TCG does, or in hardware (engine/native.c); the
 * subclass adds what a reset means for the MMU.
 */
#include "qemu/osdep.h"
#include "system/accel-ops.h"
#include "accel/xmmu/xmmu-accel.h"
#include "accel/xmmu/engine/native.h"

static void (*parent_ops_init)(AccelOpsClass *ops);
static void (*parent_reset_hold)(CPUState *cpu);

static void xmmu_reset_hold(CPUState *cpu)
{
    parent_reset_hold(cpu);
    xmmu_cpu_reset(cpu);
}

static void xmmu_ops_init(AccelOpsClass *ops)
{
    parent_ops_init(ops);
    parent_reset_hold = ops->cpu_reset_hold;
    ops->cpu_reset_hold = xmmu_reset_hold;
    if (xmmu_native_enabled()) {
        xmmu_native_ops_init(ops);
    }
}

static void xmmu_ops_class_init(ObjectClass *oc, void *data)
{
    AccelOpsClass *ops = ACCEL_OPS_CLASS(oc);

    parent_ops_init = ops->ops_init;
    ops->ops_init = xmmu_ops_init;
}

static const TypeInfo xmmu_ops_type = {
    .name = ACCEL_OPS_NAME("xmmu"),
    .parent = ACCEL_OPS_NAME("tcg"),
    .class_init = xmmu_ops_class_init,
    .abstract = true,
};

static void xmmu_ops_register_types(void)
{
    type_register_static(&xmmu_ops_type);
}
type_init(xmmu_ops_register_types);
