/*
 * xmmu: asynchronous page faults
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What an engine and the glue call, and what they give.  A fault whose page is not in
 * the host's memory does not block the vCPU: a helper thread fetches the page, and
 * meanwhile the guest is told "page not present" or the vCPU halts.  Without
 * xmmu_vm_enable_apf(), or while nothing is watched, faults are as ever.
 *
 * Functions with an XmmuVcpu are the vCPU thread's.  See docs/devel/xmmu-async-pf.rst.
 */
#ifndef XMMU_MMU_ASYNC_PF_H
#define XMMU_MMU_ASYNC_PF_H

#include "mmu.h"

/* Faults of one vCPU that may be under way; one more waits by itself. */
#define XMMU_APF_MAX 64

/* The token that stands for every page the guest still waits for. */
#define XMMU_APF_ALL_TOKENS UINT32_MAX

/* What a vCPU can do instead of waiting in its access. */
typedef enum XmmuApfCan {
    XMMU_APF_NOTHING,           /* interrupts are blocked: it has to wait */
    XMMU_APF_HALT,              /* be as if halted until the page or an interrupt comes */
    XMMU_APF_EVENT,             /* be told "page not present" */
} XmmuApfCan;

/* @opaque is the VM's; @index the vCPU's.  No lock of the core is held unless said. */
typedef struct XmmuApfServices {
    /*
     * Would accesses to these pages of the host go on without waiting for a device or
     * for another machine?  Any doubt is a yes.  mmu_lock may be held; must not wait.
     */
    bool (*resident)(void *opaque, hpa_t hpa, uint64_t npages);
    /* For as long as it takes: get the page of @hpa.  It may have been unmapped in the
     * meantime, and must not fault then.  On a helper thread; with
     * XmmuServices.pins_pages also on that of a vCPU which cannot do but wait. */
    void (*fetch)(void *opaque, hpa_t hpa);
    /* On a helper thread: a page has come; the vCPU's thread shall call
     * xmmu_apf_complete() soon.  The vCPU may be gone. */
    void (*arrived)(void *opaque, unsigned index);
    /* The rest on the vCPU's thread. */
    XmmuApfCan (*can)(void *opaque, unsigned index);
    /* Has the guest seen the last "page ready", so that it may have another? */
    bool (*ready_slot_free)(void *opaque, unsigned index);
    void (*ready)(void *opaque, unsigned index, uint32_t token);
} XmmuApfServices;

/* Before any vCPU runs; @services must outlive the VM. */
void xmmu_vm_enable_apf(XmmuVm *vm, const XmmuApfServices *services);
/* Whether pages may be missing now: if not, nobody asks.  From any thread. */
void xmmu_vm_apf_watch(XmmuVm *vm, bool watch);

/*
 * Take in the pages that have come: prefault them where they were missed, tell the
 * guest.  The registers have been taken over.  True if there was one: then a vCPU that
 * halted for want of a page goes on.  To be repeated when the guest has acknowledged
 * a "page ready".
 */
bool xmmu_apf_complete(XmmuVcpu *vcpu);

/*
 * Forget what is under way; the guest is not told of it.  When the guest turned its
 * events off; the core itself does so at a reset and when CR0.PG is cleared.
 */
void xmmu_apf_clear(XmmuVcpu *vcpu);

/*
 * The guest may be waiting for pages of which this VM knows nothing (it was migrated, or
 * has just turned its events on): tell it XMMU_APF_ALL_TOKENS when it can take it.
 */
void xmmu_apf_wake_all(XmmuVcpu *vcpu);

#endif /* XMMU_MMU_ASYNC_PF_H */
