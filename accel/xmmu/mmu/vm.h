/*
 * xmmu: the VM and the vCPU as the core's files see them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Private to accel/xmmu/mmu/ and to the hardware model.  Who may touch which
 * field is said at the field.
 */
#ifndef XMMU_MMU_VM_H
#define XMMU_MMU_VM_H

#include <glib.h>
#include <pthread.h>
#include "../engine/nested_tlb.h"
#include "async_fetch.h"
#include "async_pf.h"
#include "check.h"
#include "guest_walk.h"
#include "lock.h"
#include "mmu.h"
#include "reserve.h"
#include "role.h"
#include "rw_lock.h"
#include "slots.h"
#include "table.h"

#define XMMU_HASH_SIZE 4096
#define XMMU_CHUNK_BUCKETS 16384

/* Guest flushes that a cached root has yet to be brought up to date for. */
#define XMMU_OWED_MAX 4

typedef struct XmmuOwed {
    uint64_t left_at;           /* fill clock when it stopped to be the current root */
    bool all;                   /* every translation was flushed */
    uint8_t count;              /* of gva[]: these were */
    gva_t gva[XMMU_OWED_MAX];
} XmmuOwed;

/*
 * The first four members may be read by others (roots.c, xmmu_roots_snapshot()), the
 * last is the owner's.
 */
typedef struct XmmuCachedRoot {
    uint64_t pgd;               /* CR3 base; 0 for direct roots */
    XmmuPageRole role;
    /* Of CR3; 0 without CR4.PCIDE and for direct roots.  In guest_mmu the ASID. */
    uint16_t pcid;
    XmmuTable *table;           /* NULL: not loaded */
    XmmuOwed owed;
} XmmuCachedRoot;

/*
 * One way to translate: registers, what follows from them, and the tables made
 * from them.  Owned by the vCPU's thread.
 */
struct XmmuMmu {
    XmmuVcpu *vcpu;
    XmmuRegs regs;
    XmmuVcpuRole role;
    XmmuMasks masks;
    uint16_t asid;              /* guest_mmu under NPT; else 0 */
    XmmuCachedRoot root;        /* current */
    XmmuCachedRoot prev[XMMU_PREV_ROOTS_MAX];
    uint32_t roots_seq;         /* atomic; odd while the roots are being moved */
};

/* Tables in the place of a possible huge page, oldest first: see nx_huge.h. */
typedef struct XmmuNxList {
    pthread_mutex_t lock;       /* the innermost */
    GQueue tables;
} XmmuNxList;

typedef struct XmmuApfWork XmmuApfWork;

/* See async_pf.c. */
typedef struct XmmuApfVm {
    const XmmuApfServices *services;    /* const before vCPUs run; NULL: off */
    bool watch;                 /* atomic; pages may be missing */
    XmmuFetchPool pool;         /* has its own lock */
} XmmuApfVm;

/* Owned by the vCPU's thread. */
typedef struct XmmuApfQueue {
    XmmuApfWork *works;         /* under way, and come but not told yet */
    unsigned count;
    uint32_t next_id;
    bool wake_all;
    bool prefaulting;           /* the access is nobody's */
} XmmuApfQueue;

typedef struct XmmuDirtyMap XmmuDirtyMap;

/* Frames that became dirty by what the vCPU did: filled by its thread, emptied under
 * XmmuVm.slots_lock. */
typedef struct XmmuDirtyRing {
    hfn_t *entry;               /* XmmuConfig.dirty_ring_size; NULL: no rings */
    uint32_t head, tail;        /* atomic; ever growing */
} XmmuDirtyRing;

struct XmmuVm {
    XmmuConfig config;          /* const after creation */
    const XmmuServices *services;
    void *opaque;
    const XmmuHostFormat *format;
    XmmuDirtyMap *dirty_map;    /* RCU; NULL: nothing is logged.  slots_lock, and the write
                                   side when frames come to be logged */
    bool dirty_unringed;        /* atomic; bits were set that are in no ring */

    XmmuRwLock mmu_lock;        /* lock.c */
    bool write_locked;          /* atomic; for assertions */
    XmmuHold writer;            /* write lock: its holder */
    /* What slices owe, until the holding that closes the batch; atomic, see flush.c. */
    bool batch_owed;
    XmmuTable *batch_doomed;

    pthread_mutex_t slots_lock; /* one change of the map at a time, or look at
                                   the log of writes; before mmu_lock */
    XmmuSlots *slots[XMMU_AS_COUNT];    /* RCU; replaced under the write lock */
    XmmuChunk *chunks[XMMU_CHUNK_BUCKETS];  /* by frame; write lock */

    XmmuArena *arena;           /* has its own lock */

    /* Shadow tables; all under the write lock. */
    XmmuTable *indirect_hash[XMMU_HASH_SIZE];   /* by the guest table's host frame */
    XmmuTable *direct_hash[XMMU_HASH_SIZE];     /* by gfn */
    unsigned tracked;           /* indirect tables, of any generation; read under
                                   either side */
    GQueue shadow_tables;       /* of this generation, last used first */
    GQueue obsolete;            /* nobody finds them any more; taken down in slices */
    uint64_t generation;        /* read without the lock: tables of others are stale */
    uint64_t fault_serial;      /* of the fault that holds the lock, see reclaim.c */
    uint64_t lru_epoch;         /* atomic; of TDP tables, see tdp_reclaim.c */
    uint64_t lru_made;          /* atomic; TDP tables made so far */
    XmmuReserve reserve;
    unsigned held_zaps;         /* entries removed since the lock was taken */

    /* The valid root of each tree, or NULL, with a reference.  Set atomically under
     * either side, invalidated and cleared under the write side. */
    XmmuTable *tdp_root[XMMU_AS_COUNT];
    XmmuNxList nx;
    XmmuApfVm apf;

    uint64_t flush_clock;       /* atomic; see flush.c */
    uint64_t hardware_flushed_at;       /* atomic; flush clock: of every vCPU */
    uint64_t fill_clock;        /* entries put into shadow tables; changed under the
                                   write lock, atomic */
    uint64_t rights_lost;       /* atomic; see nested_tlb.h */
    XmmuRcuHead rcu;            /* for the VM's own end */
    XmmuVcpu *vcpus;            /* changed under the write lock, read
                                   under either */
    XmmuStats stats;            /* events outside vCPUs and gauges; atomic */
#ifdef XMMU_CHECK
    XmmuCheck *check;           /* has its own lock */
#endif
};

struct XmmuVcpu {
    XmmuVm *vm;
    XmmuVcpu *next;             /* in XmmuVm.vcpus */
    unsigned index;
    XmmuCpuCaps caps;

    /* Owned by the vCPU's thread. */
    XmmuMmu root_mmu;           /* the guest itself (L1) */
    XmmuMmu guest_mmu;          /* what L2's physical addresses go through: L1's
                                   NPT or EPT, shadowed */
    XmmuMmu nested_mmu;         /* how L2's own tables are walked; has no root */
    XmmuMmu *mmu;               /* whose root the hardware walks */
    XmmuMmu *walk_mmu;          /* whose rules linear addresses are walked by */

    XmmuNestedTlb nested_tlb;   /* the hardware model's, as are the next five */
    bool restartable;           /* of the access that is translated */
    uint8_t aborted;            /* XmmuHwOutcome that a walk of the guest's tables met */
    XmmuNestedExit exit;        /* and what goes with it */
    XmmuAsync async;
    XmmuWalkCache walk_cache;

    uint64_t flushed_at;        /* atomic; flush clock of the last full flush */
    bool cached;                /* atomic; translated anything since then */
    bool nudged;                /* write lock; asked to flush and not done yet */
    XmmuStats stats;            /* written by the vCPU's thread only */
    XmmuApfQueue apf;
    XmmuArenaReserve reserve;   /* of pages for tables; the vCPU's thread */
    XmmuDirtyRing dirty_ring;
    XmmuRwSlot lock_slot;       /* of mmu_lock; its padding keeps off what follows */
#ifdef XMMU_CHECK
    XmmuCheckVcpu *check;       /* under the lock of XmmuVm.check */
#endif
};

/* Take over registers whose vCPU role is @role; masks follow when it changed. */
void xmmu_mmu_take_regs(XmmuMmu *mmu, const XmmuRegs *regs, XmmuVcpuRole role);

/* The address space that @vcpu's physical addresses are in. */
static inline unsigned xmmu_vcpu_as(const XmmuVcpu *vcpu)
{
    return vcpu->mmu->regs.smm ? XMMU_AS_SMM : XMMU_AS_NORMAL;
}

static inline void xmmu_assert_write_locked(const XmmuVm *vm)
{
    g_assert(__atomic_load_n(&vm->write_locked, __ATOMIC_RELAXED));
}

/*
 * May @table not be used any more?  A shadow table that was taken out of use, or one
 * that an older generation of the VM left behind.  May be asked without the lock by
 * who holds a reference (a root) and an RCU read section.
 */
static inline bool xmmu_table_stale(const XmmuTable *table)
{
    return __atomic_load_n(&table->unlinked, __ATOMIC_ACQUIRE) ||
           (!table->role.tdp && table->generation !=
            __atomic_load_n(&table->vm->generation, __ATOMIC_ACQUIRE));
}

/* Counters.  A vCPU's are its own; the VM's are shared. */
static inline void xmmu_count(uint64_t *counter)
{
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + 1,
                     __ATOMIC_RELAXED);
}

void xmmu_stats_add(XmmuStats *sum, const XmmuStats *more);

/* Counts one fault and how it ended; returns @result. */
XmmuPfResult xmmu_count_fault(XmmuVcpu *vcpu, XmmuPfResult result);

static inline void xmmu_count_shared(uint64_t *counter, int64_t n)
{
    __atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Count what a holder of mmu_lock does: @field is an offset in XmmuStats.  A vCPU
 * counts in its own, so that vCPUs do not share a cache line for it. */
static inline void xmmu_hold_count(XmmuHold *hold, size_t field, int64_t n)
{
    if (hold->vcpu) {
        uint64_t *counter = (uint64_t *)((char *)&hold->vcpu->stats + field);

        __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + n,
                         __ATOMIC_RELAXED);
    } else {
        xmmu_count_shared((uint64_t *)((char *)&hold->vm->stats + field), n);
    }
}
#define XMMU_HOLD_COUNT(hold, field, n) \
    xmmu_hold_count(hold, offsetof(XmmuStats, field), n)

/* ---- async_pf.c ---- */

/* Waits for the helper threads. */
void xmmu_apf_cleanup(XmmuVm *vm);

static inline bool xmmu_apf_watches(const XmmuVm *vm)
{
    return __atomic_load_n(&vm->apf.watch, __ATOMIC_RELAXED);
}

/*
 * Is @gpa's page missing, and shall the vCPU leave it to others?  Then the outcome is
 * XMMU_PF_ASYNC and @fault->async says what it does.  Without mmu_lock.
 */
bool xmmu_apf_fault_slow(XmmuVcpu *vcpu, XmmuFault *fault, gpa_t gpa);

static inline bool xmmu_apf_fault(XmmuVcpu *vcpu, XmmuFault *fault, gpa_t gpa)
{
    return xmmu_apf_watches(vcpu->vm) && xmmu_apf_fault_slow(vcpu, fault, gpa);
}

/* The largest leaf at @hpa, where @level would fit: not over pages that are missing,
 * for nobody asks about what is mapped. */
int xmmu_apf_max_level_slow(XmmuVm *vm, hpa_t hpa);

static inline int xmmu_apf_max_level(XmmuVm *vm, hpa_t hpa, int level)
{
    return level > XMMU_LEVEL_4K && xmmu_apf_watches(vm) ? xmmu_apf_max_level_slow(vm, hpa)
                                                         : level;
}

#endif /* XMMU_MMU_VM_H */
