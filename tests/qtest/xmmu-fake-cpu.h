/*
 * xmmu: what a qtest and the fake of /dev/xmmu share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * tests/fake/preload.c is that fake: with it in LD_PRELOAD a QEMU runs engine=native
 * on the module's own code and a CPU that executes nothing.  Its registers are in a file
 * that the qtest maps, too.
 */
#ifndef XMMU_FAKE_CPU_H
#define XMMU_FAKE_CPU_H

#include <linux/xmmu.h>

/* The environment of QEMU: `svm` or `vmx`; the file. */
#define FAKE_CPU_ENV    "XMMU_FAKE_CPU"
#define FAKE_FILE_ENV   "XMMU_FAKE_FILE"

/* Enough for all that the module's mapping of a vCPU has. */
#define FAKE_RUN_SIZE   0x10000

/* Behind the mapping of vCPU 0, which is at the file's start. */
typedef struct FakeCpu {
    __u32 groups;               /* enum xmmu_group: the CPU changes these registers, */
    __u32 fetches;              /* whenever the module asks it for them; how often it did */
    struct xmmu_run state;      /* to these */
    __u8 xsave[0x4000];
    __u64 xcr0;                 /* what the module offers */
} FakeCpu;

typedef struct FakeFile {
    union {
        struct xmmu_run run;
        __u8 mapping[FAKE_RUN_SIZE];    /* XMMU_RUN_XSAVE_OFFSET: the XSAVE image */
    };
    FakeCpu cpu;
} FakeFile;

#endif /* XMMU_FAKE_CPU_H */
