/*
 * xmmu native engine: the guest runs on the CPU's VMX or SVM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the accelerator, the vCPU operations and target/i386/xmmu/ know of it.  See
 * docs/devel/xmmu-native.rst.
 */
#ifndef ACCEL_XMMU_ENGINE_NATIVE_H
#define ACCEL_XMMU_ENGINE_NATIVE_H

#include "hw/core/cpu.h"
#include "system/accel-ops.h"
#include "accel/xmmu/xmmu-accel.h"
#include "native_log.h"
#include "native_mirror.h"

/* The engine of this process; .device is NULL with engine soft. */
typedef struct XmmuNative {
    XmmuDevice *device;
    XmmuMirror *mirror;
    bool logs_writes;           /* the hardware does, if the core asks for D bits */
    XmmuWriteLogs logs;         /* then */
} XmmuNative;

extern XmmuNative xmmu_native;

static inline bool xmmu_native_enabled(void)
{
    return xmmu_native.device;
}

/* ---- native.c -------------------------------------------------------------- */

/* Opens the device and looks whether it can do what @state asks for.  False: *@error
 * (for g_free()), and nothing is open. */
bool xmmu_native_open(XmmuState *state, char **error);

/* What the core is given; its opaque is an XmmuState.  Valid after xmmu_native_open(). */
const XmmuServices *xmmu_native_services(void);

/* After the core's VM was made, before guest memory is told of. */
bool xmmu_native_start(char **error);

/* Replaces TCG's way to run vCPUs. */
void xmmu_native_ops_init(AccelOpsClass *ops);

/* The hardware of all vCPUs drops what the core's tables do not say any more, and the
 * core is told.  Any thread, any lock. */
void xmmu_native_flush(void);

/* The same, but for what was reached from roots that the core has given up.  Costs
 * nothing where nothing has changed. */
void xmmu_native_submit(void);

/* What x-query-xmmu says; NULL with engine soft. */
XmmuNativeStatus *xmmu_native_query(void);

/* The module's features, enum xmmu_feature. */
static inline bool xmmu_native_has(uint32_t feature)
{
    return xmmu_native.device->caps.features & feature;
}

/* ---- target/i386/xmmu ---------------------------------------------------------- */

/* On the vCPU's thread, with the BQL: its life in the module. */
void xmmu_native_vcpu_start(CPUState *cs);
void xmmu_native_vcpu_end(CPUState *cs);

/* Runs the guest until somebody wants the thread; returns EXCP_*.  With the BQL. */
int xmmu_native_vcpu_exec(CPUState *cs);

/* A signal handler's: the hardware shall not go on. */
void xmmu_native_vcpu_stop(CPUState *cs);

/* Makes env what the vCPU is, and what is done to env what the vCPU becomes. */
void xmmu_native_vcpu_load(CPUState *cs);

/* env was replaced (reset, loadvm): it is what counts. */
void xmmu_native_vcpu_replaced(CPUState *cs);

/* A vCPU's TSC frequency, given or not: when it is realized, and when it came in a stream.
 * Nothing with engine soft. */
bool xmmu_native_tsc_realize(CPUState *cs, Error **errp);
void xmmu_native_tsc_loaded(CPUState *cs);

/* The vCPU is executing in TCG, so that its TLB there has to be emptied, too. */
bool xmmu_native_vcpu_emulating(CPUState *cs);

/* Counters of @cs by name; NULL with engine soft.  On its thread. */
QObject *xmmu_native_vcpu_query(CPUState *cs);

#endif /* ACCEL_XMMU_ENGINE_NATIVE_H */
