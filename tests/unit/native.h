/*
 * xmmu unit tests: a VM whose hardware walks the module's tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A Fixture with a mirror before the fake device (tests/fake/), vCPUs that run there,
 * and the comparison of the module's tables with the core's.
 */
#ifndef XMMU_UNIT_NATIVE_H
#define XMMU_UNIT_NATIVE_H

#include "../../accel/xmmu/engine/native_log.h"
#include "fake.h"
#include "fixture.h"

typedef struct Native {
    Fixture *fx;
    XmmuDevice *device;
    XmmuMirror *mirror;
    XmmuServices services;
    XmmuDeviceVcpu cpus[FIXTURE_CPUS];
    bool made[FIXTURE_CPUS];
    bool logs_writes;
    XmmuWriteLogs logs;         /* then */
    XmmuWriteLog log[FIXTURE_CPUS];
    XmmuDirtyFn *spilled;       /* takes what a full ring named */
    void *spilled_opaque;
    uint64_t written;           /* bytes told by XmmuMirrorOps.written; atomic */
} Native;

/* @config decides the format, and with it the vendor. */
Native *native_new(const XmmuConfig *config, uint64_t ram_size);
/* The same when the device was reset, and fake changed, already. */
Native *native_new_on(const XmmuConfig *config, uint64_t ram_size);
/* For a fixture that was made otherwise. */
Native *native_for(Fixture *fx);
void native_add_cpu(Native *n, unsigned index);
/* XmmuServices.hint_dirty, for those who replace it. */
bool native_hint_dirty(void *opaque);
/* Checks that nothing is pinned or open any more. */
void native_free(Native *n);
uint32_t native_vendor(const XmmuConfig *config);

/* What a vCPU shall do: see fake.h. */
typedef struct NativeWork {
    uint64_t count, want, base, pages, seed;
} NativeWork;

typedef enum NativeEnd {
    NATIVE_DONE,                /* all accesses were made */
    NATIVE_EMULATE,             /* one of them is to be done by hand */
    NATIVE_GUEST,               /* one is the guest's own fault */
    NATIVE_FAILED,              /* the mirror cannot let it run; see @error */
    NATIVE_NOMEM,
} NativeEnd;

/* @error: may be NULL, then it must not fail. */
NativeEnd native_run(Native *n, unsigned cpu, const NativeWork *work, char **error);
/* One access; must be made. */
void native_access(Native *n, unsigned cpu, uint64_t address, uint32_t want);

/*
 * Submit, then compare: from each vCPU's root on, every entry of the module's tables
 * says what the core's says; what is pinned is what entries map.  No other thread is at
 * it.
 */
void native_check(Native *n);

#endif
