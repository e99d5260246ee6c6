/*
 * xmmu: the accelerator as the rest of the QEMU glue sees it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Declares the accelerator's types and the one XmmuState of a process: QEMU
 * has one machine and one accelerator.  Free of target types, so that common
 * code (the monitor) can include it.
 */
#ifndef ACCEL_XMMU_ACCEL_H
#define ACCEL_XMMU_ACCEL_H

#include "qemu/accel.h"
#include "exec/memory.h"
#include "qapi/qapi-types-xmmu.h"
#include "enabled.h"
#include "mmu/async_pf.h"
#include "mmu/mmu.h"

#define TYPE_XMMU_ACCEL ACCEL_CLASS_NAME("xmmu")

typedef struct XmmuAccelClass XmmuAccelClass;
DECLARE_CLASS_CHECKERS(XmmuAccelClass, XMMU_ACCEL, TYPE_XMMU_ACCEL)

struct XmmuAccelClass {
    AccelClass parent_class;

    /* The TCG accelerator's own, which ours call first. */
    int (*parent_init_machine)(MachineState *ms);
    void (*parent_cpu_unrealize)(CPUState *cpu);

    XmmuStatus *(*query)(void);
};

/* Turns one address space's sections into regions of the core (memory.c). */
typedef struct XmmuMemory {
    MemoryListener listener;
    AddressSpace *as;           /* NULL until it is listened to */
    XmmuVm *vm;
    unsigned as_id;
    bool touched;               /* a section was reported since begin() */
    GArray *next;               /* of XmmuRegion: being collected */
    GArray *current;            /* what the core has */
} XmmuMemory;

typedef struct XmmuState {
    XmmuEngine engine;          /* what was asked for; after init, what runs */
    XmmuNxHugePages nx_huge_pages;      /* what was asked for */
    bool verify;
    bool async_pf;
    XmmuConfig config;
    XmmuVm *vm;
    XmmuMemory memory[XMMU_AS_COUNT];
    /* The ROM loader changed guest memory: the first vCPU to go on zaps. */
    bool zap_due;
} XmmuState;

/*
 * Not embedded in the accelerator object: the parent's instance structure,
 * TCGState, is private to tcg-all.c.
 */
extern XmmuState xmmu_state;

/* memory.c */
void xmmu_memory_listen(XmmuMemory *memory, XmmuVm *vm, unsigned as_id,
                        AddressSpace *as, const char *name);

/* dirty-log.c: from the core's log of writes into QEMU's.  Any thread. */
void xmmu_log_sync(XmmuVm *vm, hpa_t hpa, uint64_t npages);
void xmmu_log_clear(XmmuVm *vm, hpa_t hpa, uint64_t npages);
/* For dirty-log=ring: empties all rings; on the vCPU's thread when its own is full. */
void xmmu_log_reap(XmmuVm *vm);
void xmmu_log_spill(CPUState *cpu);
/* XmmuServices.dirty_dropped of every engine. */
void xmmu_log_dropped(void *opaque, hpa_t hpa, const uint64_t *bits);
/* XmmuServices.dirty_missed in engine soft with verify=on. */
void xmmu_log_missed(void *opaque, hpa_t hpa);
/* Engine soft, before vCPUs run: TCG's own record of writes is ours to take. */
void xmmu_log_init(unsigned max_cpus);
/* Engine soft: a flush of all vCPUs is ordered, and @cpu has obeyed. */
uint32_t xmmu_log_flush_ordered(void);
void xmmu_log_flush_obeyed(CPUState *cpu, uint32_t flush);

/* dirty-limit.c: before vCPUs run; after a reap, with the BQL; on the vCPU's thread. */
void xmmu_limit_init(void);
void xmmu_limit_count(void);
void xmmu_limit_ring_was_full(CPUState *cpu);

/* nx-recovery.c: from now on @vm's pages become huge again at their time. */
void xmmu_nx_recovery_start(XmmuVm *vm);

/*
 * residency.c: may an access to guest memory have to wait for a device or another
 * machine, now and here; does one to these (at most 512) pages; and getting one, which
 * need not be mapped any more.  Any thread.
 */
bool xmmu_pages_may_be_missing(void);
bool xmmu_is_resident(hpa_t hpa, uint64_t npages);
void xmmu_fetch_page(hpa_t hpa);

/* target/i386/xmmu */
/* What asynchronous page faults need; and for them, when the VM starts or stops. */
extern const XmmuApfServices xmmu_apf_services;
void xmmu_apf_run_state(bool running);
void xmmu_cpu_reset(CPUState *cs);
/* TCG's TLB of @cs was emptied for the MMU core: tell it. */
void xmmu_cpu_flushed(CPUState *cs);
void xmmu_cpu_unrealize(CPUState *cs);
/* The core's vCPU; NULL: not made yet, or gone. */
XmmuVcpu *xmmu_cpu_core(CPUState *cs);
/* Registers or memory changed behind the guest's back; the vCPU is stopped. */
void xmmu_cpu_state_replaced(CPUState *cs);
XmmuVcpuStatus *xmmu_cpu_query(CPUState *cs);

/* By whose translations @cs writes to memory at this moment; on its thread. */
typedef enum XmmuWriter {
    XMMU_WRITER_GUEST,          /* ours */
    XMMU_WRITER_TCG,            /* its own walker's: L2 that we do not shadow */
    XMMU_WRITER_NOBODY,         /* verify=on looks at the guest's tables */
} XmmuWriter;

XmmuWriter xmmu_cpu_writer(CPUState *cs);

/* xmmu-all.c: the values in @stats by name. */
QObject *xmmu_stats_to_qobject(const XmmuStats *stats);

#endif /* ACCEL_XMMU_ACCEL_H */
