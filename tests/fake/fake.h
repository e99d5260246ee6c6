/*
 * xmmu tests: a device that is the kernel module's own code
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The common part of the module, compiled for user space (kernel.h), behind the
 * system calls that the native engine makes, with a CPU that walks the module's tables
 * in their real encodings (fake_hw.c).  So tests and fuzzers run the module's checks,
 * and under sanitizers.  One device for the process.
 */
#ifndef XMMU_FAKE_H
#define XMMU_FAKE_H

#include <stdbool.h>
#include <stdint.h>
#include "../../accel/xmmu/engine/native_device.h"

extern const XmmuDeviceOps fake_device_ops;

/* What a test can change; all 0 after fake_reset(). */
typedef struct FakeControl {
    unsigned fail_ioctl;        /* that many ioctls from now, one fails unseen by the
                                   module */
    int fail_errno;             /* with this */
    uint64_t memlock;           /* bytes that may be pinned; 0: no limit */
    uintptr_t bad_from, bad_to; /* user memory that is not there */
    bool other_mm;              /* ioctls come from another process */
    bool scattered;             /* no 2 MiB of user memory are contiguous */
    bool signal;                /* vCPUs stop with EINTR */
    /* When the module asks for registers (@groups): they may be others by now. */
    void (*fetch)(struct xmmu_run *state, void *xsave, uint32_t groups);
    void (*in_ioctl)(void *opaque);     /* called once, by the next ioctl */
    void *opaque;
} FakeControl;

extern FakeControl fake;

/* Load the module: a CPU of @vendor whose second dimension has @format (NPT or EPT).
 * Everything that was open has been closed. */
void fake_reset(uint32_t vendor, uint32_t features);
/* The same, and the module finds XSAVE with these components on, each where the CPU of
 * this machine has it; it must have them. */
void fake_reset_xsave(uint32_t vendor, uint32_t features, uint64_t xcr0);
/* The @n-th allocation of the kernel's from now on fails, and all after it; 0: none. */
void fake_fail_alloc(unsigned n);
/* Is @fd one of the device's? */
bool fake_has_file(int fd);
/* Pages that are pinned, and that are charged for it. */
uint64_t fake_pinned_pages(void);
uint64_t fake_charged_pages(void);
/* The process's end, as the module is told of it. */
void fake_mm_exit(void);

/* ---- The tables, as the hardware sees them ----------------------------------- */

typedef struct FakeEntry {
    uint32_t access;            /* enum xmmu_access; 0: not present */
    bool is_leaf;
    uintptr_t address;          /* leaf: of user memory */
    uint32_t table;             /* link: its id */
} FakeEntry;

/* Entry @index of table @id of the VM @vm, read from the page that hardware reads.
 * False: there is no such table.  No other thread uses the VM. */
bool fake_entry(int vm, uint32_t id, unsigned index, FakeEntry *entry);
/* Pages that a leaf of table @id maps. */
uint64_t fake_pages(int vm, uint32_t id);
/* Table ids in use: the first from @id on, or UINT32_MAX. */
uint32_t fake_next_table(int vm, uint32_t id);
/* What the hardware does: set D in a leaf. */
void fake_set_dirty(int vm, uint32_t id, unsigned index);

/* How often the vCPU @vcpu was told to forget what the guest's own tables said, which this
 * CPU has none of. */
unsigned fake_guest_flushes(int vcpu);

/* ---- The guest --------------------------------------------------------------- */

/*
 * What a vCPU runs is in its GPRs.  It makes gpr[COUNT] accesses, of the kind gpr[WANT]
 * (enum xmmu_access: READ, WRITE, EXEC, and USER in shadow paging), the n-th in a page
 * that a random series selects out of gpr[PAGES] from address gpr[BASE] on.  A write
 * adds 1 to the first 8 bytes there.  Then it halts.
 */
enum { FAKE_COUNT, FAKE_WANT, FAKE_BASE, FAKE_PAGES, FAKE_SEED, FAKE_ADDRESS };

#endif /* XMMU_FAKE_H */
