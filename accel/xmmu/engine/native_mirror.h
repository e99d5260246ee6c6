/*
 * xmmu native engine: the module's tables as a mirror of the core's
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The core's tables are the truth; the hardware walks tables of the kernel module.
 * This keeps the second equal to the first: it is told which entries have changed,
 * and *submits* what they say now in one ioctl.  Free of QEMU.
 *
 * Who may call what is said at each function.  Lock order: mmu_lock, then the
 * mirror's own.  See docs/devel/xmmu-native.rst.
 */
#ifndef XMMU_ENGINE_NATIVE_MIRROR_H
#define XMMU_ENGINE_NATIVE_MIRROR_H

#include "../mmu/mmu.h"
#include "native_device.h"

typedef struct XmmuMirror XmmuMirror;

/* ---- Life -------------------------------------------------------------------- */

/* What the mirror tells its surroundings; may be NULL. */
typedef struct XmmuMirrorOps {
    /*
     * The guest wrote to [hpa, hpa + size) through an entry that is gone now: the
     * hardware had set D in it.  Any thread, any lock; it must not wait.
     */
    void (*written)(void *opaque, hpa_t hpa, uint64_t size);
    /* The same, but the entry is there still, with D and without the right to write: no
     * harvest asks for it.  NULL: nobody harvests. */
    void (*written_before)(void *opaque, hpa_t hpa, uint64_t size);
} XmmuMirrorOps;

/*
 * Makes a VM of the module.  @services: of the core, for RCU; both it and @ops outlive
 * the mirror, as @device does.  NULL: *@error.
 *
 * The core's services have to call xmmu_mirror_changed(), xmmu_mirror_gone(),
 * xmmu_mirror_max_level(), xmmu_mirror_harvest(), and in flush_all xmmu_mirror_flush().
 */
XmmuMirror *xmmu_mirror_new(XmmuDevice *device, const XmmuServices *services,
                            const XmmuMirrorOps *ops, void *opaque, char **error);
/* The core's VM is gone and a grace period is over; the vCPUs' files are closed. */
void xmmu_mirror_free(XmmuMirror *mirror);

/* The VM's file descriptor, to make vCPUs with. */
int xmmu_mirror_fd(const XmmuMirror *mirror);

/* ---- Guest memory ------------------------------------------------------------ */

/*
 * Entries may map [hpa, hpa + size) from now on: a RAM block, before the core gets it
 * as a slot.  @page_size: the host's for that block (a huge page of hugetlbfs, else
 * 4 KiB).  False: *@error.  Any thread, no lock.
 */
bool xmmu_mirror_add_ram(XmmuMirror *mirror, hpa_t hpa, uint64_t size,
                         uint64_t page_size, bool readonly, char **error);
/*
 * No slot has any of it any more (xmmu_vm_set_memory() has returned).  Submits first.
 * False: *@error, and the module still has it.
 */
bool xmmu_mirror_remove_ram(XmmuMirror *mirror, hpa_t hpa, char **error);

/* ---- Told by the core (XmmuServices) ----------------------------------------- */

void xmmu_mirror_changed(XmmuTable *table, unsigned index);
void xmmu_mirror_gone(XmmuTable *table);
int xmmu_mirror_max_level(XmmuMirror *mirror, hpa_t hpa, int level);

/* ---- Submitting -------------------------------------------------------------- */

/*
 * For the core's flush_all, and for whoever takes something from vCPUs otherwise: when
 * this returns true no vCPU translates in hardware by what an entry said before and
 * does not say now, nor by a root that the core has given up.  Any thread, mmu_lock or
 * not.  What another thread is submitting at the moment is waited for.
 *
 * False: something was not accepted.  What entries allowed no longer is gone all the
 * same, unless xmmu_mirror_broken(); the rest is tried again by the next call, and the
 * vCPU that needs it gets the message by xmmu_mirror_enter().
 */
bool xmmu_mirror_flush(XmmuMirror *mirror);

/*
 * The same, but for roots that the core has given up: that what they said before is
 * gone is for who gave them up to see to, by xmmu_mirror_flush().  Where nothing is to
 * be told, two loads.
 */
bool xmmu_mirror_submit(XmmuMirror *mirror);

/* The module refused even to take entries away.  Kick all vCPUs: xmmu_mirror_enter()
 * lets none go on until it has succeeded. */
bool xmmu_mirror_broken(const XmmuMirror *mirror);

typedef enum XmmuMirrorResult {
    XMMU_MIRROR_OK,             /* run the vCPU with *@root */
    XMMU_MIRROR_FAILED,         /* *@error: stop the VM.  It may be tried again later */
} XmmuMirrorResult;

/*
 * Before each XMMU_RUN, on the vCPU's thread, without mmu_lock: submits what is there
 * to be submitted, and gives the id for xmmu_controls.root.  Where the vCPU has no good
 * root (none loaded yet, or given up) that is a table without entries, so that the
 * first access exits and the core's fault loads one.
 */
XmmuMirrorResult xmmu_mirror_enter(XmmuMirror *mirror, XmmuVcpu *vcpu, uint32_t *root,
                                   char **error);
/* @vcpu will not use a root any more (its file is closed, or its next run has
 * committed another one, as xmmu_mirror_enter() takes for granted). */
void xmmu_mirror_forget_vcpu(XmmuMirror *mirror, unsigned index);

/* ---- What the hardware wrote ------------------------------------------------- */

/* XmmuServices.harvest.  If the module does not answer, everything was dirty. */
void xmmu_mirror_harvest(XmmuMirror *mirror, XmmuHarvest *list, size_t count);

/* ---- What can be seen -------------------------------------------------------- */

typedef struct XmmuMirrorStats {
    uint64_t updates;           /* XMMU_UPDATE calls */
    uint64_t entries;           /* operations in them */
    uint64_t tables;            /* now in the module */
    uint64_t table_bytes;       /* that stand for the core's tables, here */
    uint64_t refused;           /* operations that failed */
    uint64_t not_huge;          /* large leaves whose host memory was not contiguous */
} XmmuMirrorStats;

void xmmu_mirror_stats(XmmuMirror *mirror, XmmuMirrorStats *out);

#endif /* XMMU_ENGINE_NATIVE_MIRROR_H */
