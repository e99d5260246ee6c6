/*
 * xmmu native engine: the guest's TSC
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns how fast the TSC of a guest in hardware runs, and what the hardware adds to the
 * host's.  What the guest reads is QEMU's timers' ticks (host-ticks.h), by RDTSC in
 * hardware and in TCG alike: they stop when the VM does and travel with it.
 *
 * Its speed is that of -cpu ...,tsc-frequency=, or of the stream that the VM came in, or
 * the host's.  One that is not the host's needs hardware that scales.
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/error-report.h"
#include "qemu/seqlock.h"
#include "qapi/error.h"
#include "system/cpu-timers.h"
#include "system/cpu-timers-internal.h"
#include "accel/xmmu/host-ticks.h"
#include "target/i386/xmmu/native.h"

/* Speeds that differ by less count as equal: measured, not set, by most hosts. */
#define TOLERANCE_PPM 250

/* What struct xmmu_controls can say. */
#define RATIO_MAX ((1ULL << 40) - 1)

/* *@ratio: of host-ticks.h.  False: this machine cannot, and *@ratio is the host's. */
static bool find_ratio(int64_t khz, uint64_t *ratio)
{
    int64_t host = xmmu_native.device->caps.tsc_khz;
    uint64_t wanted;

    *ratio = 0;
    if (khz <= 0 || khz > UINT32_MAX) {
        return false;
    }
    if (llabs(khz - host) <= host * TOLERANCE_PPM / 1000000) {
        return true;
    }
    wanted = ((uint64_t)khz << XMMU_TICKS_FRACTION_BITS) / host;
    if (!xmmu_native_has(XMMU_FEATURE_TSC_SCALE) || !wanted || wanted > RATIO_MAX) {
        return false;
    }
    *ratio = wanted;
    return true;
}

static char *mismatch(int64_t khz)
{
    return g_strdup_printf("TSC frequency mismatch between VM (%" PRId64 " kHz) and host "
                           "(%" PRIu32 " kHz), and TSC scaling %s", khz,
                           xmmu_native.device->caps.tsc_khz,
                           xmmu_native_has(XMMU_FEATURE_TSC_SCALE)
                           ? "does not reach that far" : "unavailable");
}

static bool same_as_first(int64_t khz, Error **errp)
{
    if (khz != cpu_env(first_cpu)->tsc_khz) {
        error_setg(errp, "all CPUs must have the same tsc-frequency");
        return false;
    }
    return true;
}

bool xmmu_native_tsc_realize(CPUState *cs, Error **errp)
{
    CPUX86State *env = cpu_env(cs);
    uint64_t ratio;

    if (!xmmu_native_enabled()) {
        return true;
    }
    if (!env->tsc_khz) {
        env->tsc_khz = first_cpu ? cpu_env(first_cpu)->tsc_khz
                                 : xmmu_native.device->caps.tsc_khz;
    }
    if (first_cpu) {
        /* The ticks are the same timers'. */
        return same_as_first(env->tsc_khz, errp);
    }
    if (!find_ratio(env->tsc_khz, &ratio)) {
        g_autofree char *why = mismatch(env->tsc_khz);

        error_setg(errp, "%s", why);
        return false;
    }
    xmmu_ticks_ratio = ratio;
    return true;
}

/* As with KVM the guest runs on if it must, with a TSC of another speed. */
void xmmu_native_tsc_loaded(CPUState *cs)
{
    int64_t khz = cpu_env(cs)->tsc_khz;
    uint64_t ratio;

    if (!xmmu_native_enabled() || cs != first_cpu) {
        return;
    }
    if (!find_ratio(khz, &ratio)) {
        g_autofree char *why = mismatch(khz);

        warn_report("xmmu: %s", why);
    }
    xmmu_ticks_ratio = ratio;
}

uint64_t xmmu_native_tsc_ratio(void)
{
    return xmmu_ticks_ratio;
}

uint64_t xmmu_native_tsc_offset(void)
{
    uint64_t offset;
    unsigned start;

    do {
        start = seqlock_read_begin(&timers_state.vm_clock_seqlock);
        offset = timers_state.cpu_ticks_offset;
    } while (seqlock_read_retry(&timers_state.vm_clock_seqlock, start));
    return offset;
}
