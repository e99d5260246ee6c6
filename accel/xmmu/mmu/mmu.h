/*
 * xmmu: the MMU core's interface
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The one header that an engine, the QEMU glue and the tests include.  The
 * core keeps, for one VM, the tables that translate its guest's addresses:
 * TDP tables (NPT or EPT encoding) or shadow tables.  It knows nothing of
 * QEMU; everything it needs from its surroundings is in XmmuServices.
 *
 * Threads: every function that takes an XmmuVcpu is called by the thread that
 * runs that vCPU (or while it is stopped).  Functions that take an XmmuVm may
 * be called by any thread.  None may be called inside an RCU callback.  The
 * core's own lock, mmu_lock, is never held when a service is called, except
 * where XmmuServices says so.
 */
#ifndef XMMU_MMU_H
#define XMMU_MMU_H

#include "types.h"

typedef struct XmmuVm XmmuVm;
typedef struct XmmuVcpu XmmuVcpu;
typedef struct XmmuTable XmmuTable;

/* ---- Services the core is given ------------------------------------- */

/* Room for the RCU implementation's two-pointer callback head. */
typedef struct XmmuRcuHead {
    void *opaque[2];
} XmmuRcuHead;

/* A leaf of ours, and whether the hardware's copy of it had D. */
typedef struct XmmuHarvest {
    const XmmuSpte *sptep;
    bool dirty;                 /* out */
} XmmuHarvest;

typedef struct XmmuServices {
    /* Read-side sections; they nest. */
    void (*rcu_read_lock)(void);
    void (*rcu_read_unlock)(void);
    /* Run @fn after a grace period, in the order of the calls.  May be called with
     * mmu_lock held. */
    void (*rcu_call)(XmmuRcuHead *head, void (*fn)(XmmuRcuHead *head));
    /*
     * Read @size (4 or 8) bytes of guest physical memory that no slot covers
     * (a guest page table in MMIO or in a hole), as the bus answers it.
     */
    uint64_t (*read_bus)(void *opaque, unsigned as_id, gpa_t gpa, unsigned size);
    /*
     * Make every vCPU drop what it cached of translations before it executes
     * its next guest instruction.  Called with mmu_lock held, on either side; must
     * not wait for a vCPU.  May be NULL when nothing caches translations.
     */
    void (*flush_all)(void *opaque);
    /*
     * Ask one vCPU, by its index, to drop what it cached when it is convenient and
     * to call xmmu_vcpu_flushed() then.  Nothing but speed depends on it.  Called
     * with mmu_lock held for writing; must not wait.  May be NULL.
     */
    void (*flush_vcpu)(void *opaque, unsigned index);
    /*
     * Asked before the core allocates @size bytes; false: the allocation fails.  For
     * tests, or an embedder with a budget.  Any thread, any lock.  May be NULL.
     */
    bool (*may_allocate)(void *opaque, size_t size);
    /*
     * The CPU set A or D bits in a guest table at host address @hpa: tell who
     * keeps track of changed guest memory (migration).  May be NULL.
     */
    void (*guest_written)(void *opaque, hpa_t hpa, unsigned size);
    /* See xmmu_vm_hardware_tick(). */
    bool hardware_caches;
    /* An entry pins its page.  Then it must not be made while the page is missing: the
     * pin would wait for it, with everybody else's entries behind it, or fail. */
    bool pins_pages;

    /*
     * For an engine whose hardware walks other tables than ours, which it keeps equal
     * to ours (native_mirror.h).  NULL where the hardware walks ours.
     *
     * The entry at @index of @table, which has a XmmuTable.mirror, is not what it was.
     * Called after each change, also with mmu_lock held, by many threads at once; must
     * not wait.
     */
    void (*entry_changed)(XmmuTable *table, unsigned index);
    /* The memory of @table, which has a mirror, is about to be used again.  Called in
     * an RCU callback. */
    void (*table_gone)(XmmuTable *table);
    /*
     * The largest level, at most @level, at which a leaf can map the page at @hpa in
     * the hardware.  Called with mmu_lock held, on either side.
     */
    int (*max_level)(void *opaque, hpa_t hpa, int level);
    /*
     * Clear D in the hardware's copies of leaves and say which had it.  What has no copy
     * had not.  When this returns no vCPU has D cached, so the next write sets it.
     * Called with mmu_lock held, on either side.
     */
    void (*harvest)(void *opaque, XmmuHarvest *list, size_t count);
    /*
     * Hardware that logs which pages get D in its copies: tell all of them so far by
     * xmmu_vm_dirty_hint() and return true.  Then .harvest is asked only for those, and
     * for leaves that have D here.  False: some write since the log began may not be
     * there, ask for all.  Called with no mmu_lock held.  May be NULL.
     */
    bool (*hint_dirty)(void *opaque);
    /*
     * Frames were written (bits as for XmmuDirtyFn) whose writes are logged no longer,
     * as their region has gone.  Called by xmmu_vm_set_memory().  May be NULL.
     */
    void (*dirty_dropped)(void *opaque, hpa_t hpa, const uint64_t *bits);
    /* The log has missed a write to the page at @hpa, see xmmu_vm_dirty_seen(), which
     * who leaves this NULL does not call. */
    void (*dirty_missed)(void *opaque, hpa_t hpa);
} XmmuServices;

/* ---- VM -------------------------------------------------------------- */

typedef enum XmmuTdpFormat {
    XMMU_TDP_NPT,               /* AMD APM vol. 2, 15.25 */
    XMMU_TDP_EPT,               /* Intel SDM vol. 3, 29.3 */
} XmmuTdpFormat;

#define XMMU_PREV_ROOTS_MAX 16

/* How what a fetch split becomes a huge page again, see nx_huge.c. */
typedef enum XmmuNxStrategy {
    XMMU_NX_PROMOTE,            /* put a huge leaf in the table's place */
    XMMU_NX_PRECISE,            /* zap the one entry that points to the table */
    XMMU_NX_RANGE,              /* zap what the table maps, from the root */
} XmmuNxStrategy;

/* How writes to memory are logged, see dirty_mark.c. */
typedef enum XmmuDirtyLog {
    XMMU_DIRTY_WP,              /* write protection */
    XMMU_DIRTY_DBIT,            /* D bits */
    XMMU_DIRTY_RING,            /* write protection, and a ring for each vCPU */
} XmmuDirtyLog;

typedef struct XmmuConfig {
    bool tdp;                   /* two-dimensional paging, else shadow paging */
    XmmuTdpFormat tdp_format;
    uint8_t tdp_levels;         /* 4 or 5 */
    bool huge_pages;            /* map 2 MiB and 1 GiB where possible */
    unsigned prev_roots;        /* cached roots beside the current one, 0..MAX */
    uint64_t table_memory;      /* bytes that tables may take, 0 = default; at least
                                   xmmu_table_memory_floor() */
    bool nx_huge_pages;         /* TDP: only leaves of 4 KiB are executable */
    XmmuNxStrategy nx_strategy;
    uint32_t nx_ratio;          /* recover 1/ratio of the list in a period, 0 = none */
    uint32_t nx_period_ms;      /* 0: such that all have been recovered in an hour */
    XmmuDirtyLog dirty_log;
    uint32_t dirty_ring_size;   /* RING: entries for each vCPU, a power of two */
} XmmuConfig;

#define XMMU_DIRTY_RING_MIN 8
#define XMMU_TABLE_MEMORY_DEFAULT ((uint64_t)128 << 20)

/* The least XmmuConfig.table_memory with which @vcpus vCPUs can always go on. */
uint64_t xmmu_table_memory_floor(unsigned vcpus);

/* @services and @opaque must outlive the VM.  NULL: out of memory. */
XmmuVm *xmmu_vm_new(const XmmuConfig *config, const XmmuServices *services,
                    void *opaque);
/* All vCPUs must be gone. */
void xmmu_vm_free(XmmuVm *vm);
const XmmuConfig *xmmu_vm_config(const XmmuVm *vm);

/* ---- Guest memory ---------------------------------------------------- */

#define XMMU_AS_NORMAL  0
#define XMMU_AS_SMM     1
#define XMMU_AS_COUNT   2

enum {
    XMMU_REGION_READONLY = 1 << 0,      /* writes leave the fast path: ROM */
    XMMU_REGION_LOG_DIRTY = 1 << 1,     /* log writes; leaves of 4 KiB only, at once */
};

/* A run of guest frames with host memory behind it. */
typedef struct XmmuRegion {
    gfn_t gfn;
    uint64_t npages;
    hpa_t hpa;                  /* page aligned; in soft, a host virtual address */
    uint32_t flags;             /* XMMU_REGION_* */
} XmmuRegion;

/*
 * Replace the memory of address space @as_id.  @regions are sorted by gfn and
 * do not overlap.  What changed is zapped and flushed before this returns; the
 * MMIO generation moves on.  Takes mmu_lock for writing, and releases it in between.
 * False: out of memory, and the old memory is still there.
 */
bool xmmu_vm_set_memory(XmmuVm *vm, unsigned as_id, const XmmuRegion *regions,
                        size_t count);

/* Forget every translation (loadvm, a debugger that rewrote guest tables). */
void xmmu_vm_zap_all(XmmuVm *vm);

/* ---- Which memory the guest writes ------------------------------------ */

/*
 * The log of writes to regions with XMMU_REGION_LOG_DIRTY, by host frame.  When a frame
 * comes to be logged it counts as written (with rings: as not written).  What others
 * than vCPUs write, and what XmmuServices.guest_written tells, is not in it.
 *
 * The functions may be called by any thread; not from within a service.
 */

/* Bit i of bits[] (512 of them) stands for the page at @hpa + i * 4 KiB. */
typedef void XmmuDirtyFn(void *opaque, hpa_t hpa, const uint64_t *bits);

/*
 * Tell @fn all pages of [hpa, hpa + npages) that were written since they were told last.
 *
 * With write protection, a page that was told is not told again before it was cleared:
 * clear first, then look at the page.  With D bits there is nothing to clear.
 */
void xmmu_vm_dirty_sync(XmmuVm *vm, hpa_t hpa, uint64_t npages, XmmuDirtyFn *fn,
                        void *opaque);

/*
 * From the time when the flush that this orders has been obeyed, the next write to each
 * page of the range that was told is logged again.  (When writes must not be made by
 * what a vCPU has cached, the flush has to be over before the page is looked at.)
 */
void xmmu_vm_dirty_clear(XmmuVm *vm, hpa_t hpa, uint64_t npages);

/* RING: empty all rings, tell @fn what was in them or spilled, and clear that. */
void xmmu_vm_dirty_reap(XmmuVm *vm, XmmuDirtyFn *fn, void *opaque);

/*
 * RING, after XMMU_PF_RING_FULL, on the vCPU's thread: tell @fn what is in its ring, so
 * that there is room.  These pages may be written without being told until the next
 * xmmu_vm_dirty_reap(), which tells them again: what @fn learns here is no licence to
 * look at the pages before that.
 */
void xmmu_vcpu_dirty_spill(XmmuVcpu *vcpu, XmmuDirtyFn *fn, void *opaque);

/* Whoever knows of writes that our tables do not say (D in the hardware's copy of a leaf
 * that is changed): log them.  Any lock may be held. */
void xmmu_vm_dirty_mark(XmmuVm *vm, hpa_t hpa, uint64_t npages);

/* Hardware has set D in its copy of the leaf for @gfn.  Any lock may be held. */
void xmmu_vm_dirty_hint(XmmuVm *vm, gfn_t gfn);
/* Are writes to anything logged? */
bool xmmu_vm_dirty_logs_any(XmmuVm *vm);

/*
 * An oracle: whoever executes the guest tells that a vCPU writes to the page at @hpa.
 * xmmu_vm_dirty_sync() and _reap() tell XmmuServices.dirty_missed if such a page is not
 * in the log.  The write must have been translated before.  @seen false: take it back,
 * the vCPU wrote by something that it has been ordered to forget.  Returns whether
 * writes to the page are logged.  Any lock may be held.
 */
bool xmmu_vm_dirty_seen(XmmuVm *vm, hpa_t hpa, bool seen);
/* Are they? */
bool xmmu_vm_dirty_logs(XmmuVm *vm, hpa_t hpa);

/* ---- Huge pages ------------------------------------------------------ */

/*
 * What the QEMU glue (or a test) calls from time to time, from any thread and with
 * no lock held.  Each looks at the oldest tables that stand where a huge page could
 * if nothing had been fetched there, by the strategy in the configuration, and
 * returns how many of them are gone.
 */
uint64_t xmmu_vm_nx_recover(XmmuVm *vm, uint64_t count);
/* As many as are due in one period: 1/nx_ratio of them, rounded up. */
uint64_t xmmu_vm_nx_recover_due(XmmuVm *vm);
/* Milliseconds of a period; 0: nothing is ever to be recovered. */
uint32_t xmmu_nx_period_ms(const XmmuConfig *config);

/* ---- vCPU ------------------------------------------------------------ */

/* What the CPU model offers; constant over a vCPU's life. */
typedef struct XmmuCpuCaps {
    uint8_t maxphyaddr;         /* bits, 32..52 */
    bool page1g;                /* CPUID 8000_0001 EDX[26] */
    bool pse36;                 /* CPUID 1 EDX[17] */
    bool amd_pml4e_bit8;        /* bit 8 of PML4E/PML5E must be zero (AMD) */
    bool ept_execonly;          /* IA32_VMX_EPT_VPID_CAP[0] */
    bool ept_1g;                /* IA32_VMX_EPT_VPID_CAP[17] */
    bool lam;                   /* CPUID 7.1 EAX[26] */
} XmmuCpuCaps;

/* Registers that decide translation.  Reserved combinations are the caller's
 * to refuse first (xmmu_check_*()). */
typedef struct XmmuRegs {
    uint64_t cr0, cr3, cr4, efer;       /* EFER.LMA as the CPU shows it */
    uint32_t pkru, pkrs;
    bool smm;                   /* selects XMMU_AS_SMM */
    bool a20_masked;            /* A20 gate closed: gpa bit 20 reads as 0 */
    uint64_t pdpte[4];          /* used only in PAE paging (legacy, PAE=1) */
} XmmuRegs;

/* NULL: out of memory. */
XmmuVcpu *xmmu_vcpu_new(XmmuVm *vm, unsigned index, const XmmuCpuCaps *caps);
void xmmu_vcpu_free(XmmuVcpu *vcpu);

/*
 * Take over the registers; computes the vCPU role and, when it changed, the
 * derived masks, and selects a root (from the cache if one fits).  Does nothing
 * when nothing that matters changed.  Does not imply a guest TLB flush.
 */
void xmmu_vcpu_set_regs(XmmuVcpu *vcpu, const XmmuRegs *regs);

/*
 * MOV to CR3: take over the registers like xmmu_vcpu_set_regs().  The guest flushes
 * the PCID that it selects, or with @keep (bit 63 of the operand) nothing.  If the
 * engine emptied its TLB for it, xmmu_vcpu_flushed() comes first.
 */
void xmmu_vcpu_load_cr3(XmmuVcpu *vcpu, const XmmuRegs *regs, bool keep);

/*
 * The guest flushed all its translations, of all PCIDs, and the engine has emptied
 * the vCPU's TLB (CR4.PGE flip, CR0.PG, ...; without PCIDs, MOV to CR3 as well).
 * Registers must have been taken over before.
 */
void xmmu_vcpu_flush_guest(XmmuVcpu *vcpu);

/* The engine dropped all translations that it cached for @vcpu, whoever wanted it
 * (flush_all, flush_vcpu): write protection can be relied on sooner. */
void xmmu_vcpu_flushed(XmmuVcpu *vcpu);

/*
 * For an engine whose hardware caches translations on its own.  In such a VM
 * (XmmuServices.hardware_caches) a vCPU counts as flushed only when its hardware has
 * dropped them too.  Take a tick, make the hardware of every vCPU drop what the
 * tables do not say any more, and then tell the core that this was done; any thread,
 * any lock.  The tick comes first: what lost a right after it may still be cached.
 */
uint64_t xmmu_vm_hardware_tick(XmmuVm *vm);
void xmmu_vm_hardware_flushed(XmmuVm *vm, uint64_t tick);

/* INVLPG: the guest flushed the translation of @gva. */
void xmmu_vcpu_invlpg(XmmuVcpu *vcpu, gva_t gva);

/* INVPCID, with operands that xmmu_check_invpcid() has accepted.  @pcid counts for
 * the first two types, @gva for the first. */
typedef enum XmmuInvpcid {
    XMMU_INVPCID_ADDRESS,       /* one address of one PCID */
    XMMU_INVPCID_PCID,          /* one PCID */
    XMMU_INVPCID_ALL,           /* everything, global translations too */
    XMMU_INVPCID_NON_GLOBAL,    /* everything but global translations */
} XmmuInvpcid;

void xmmu_vcpu_invpcid(XmmuVcpu *vcpu, XmmuInvpcid type, uint16_t pcid, gva_t gva);

/* INIT/RESET: forget roots and registers. */
void xmmu_vcpu_reset(XmmuVcpu *vcpu);

/* ---- Nested guests ---------------------------------------------------- */

/* How L1 translates the physical addresses of its guest, L2. */
typedef struct XmmuNestedTdp {
    XmmuTdpFormat format;
    uint64_t root;              /* nested CR3, or the EPTP (4 or 5 levels) */
    uint64_t cr0, cr4, efer;    /* NPT: L1's own, which say how its tables look */
    uint16_t asid;              /* NPT */
} XmmuNestedTdp;

/*
 * L2 runs from now on, with registers @l2; from then on xmmu_vcpu_set_regs() and the
 * guest's flushes are L2's.  May be repeated, when something of @tdp changed.  Does
 * not imply a flush.  False, and nothing happens: tdp=off, or L1 does not translate
 * with four or five levels; then the engine has to walk L1's tables by itself.
 */
bool xmmu_vcpu_enter_nested(XmmuVcpu *vcpu, const XmmuNestedTdp *tdp,
                            const XmmuRegs *l2);
/* L1 runs again.  The same as xmmu_vcpu_set_regs() if L2 did not. */
void xmmu_vcpu_leave_nested(XmmuVcpu *vcpu, const XmmuRegs *l1);
bool xmmu_vcpu_is_nested(const XmmuVcpu *vcpu);

/*
 * L1 flushed what L2's physical addresses translate to: VMRUN with TLB_CONTROL (of
 * one ASID, or all), INVEPT (of one EPTP, or NULL: all).  At any time.  INVLPGA and
 * INVVPID concern linear addresses of L2: the engine drops these, no table of ours
 * has them.
 */
#define XMMU_ALL_ASIDS (-1)
void xmmu_vcpu_flush_asid(XmmuVcpu *vcpu, int asid);
void xmmu_vcpu_invept(XmmuVcpu *vcpu, const uint64_t *eptp);

/* What L1 is told of an access of L2 that L1's tables do not allow. */
typedef enum XmmuNestedReason {
    XMMU_NESTED_NPF,
    XMMU_NESTED_EPT_VIOLATION,
    XMMU_NESTED_EPT_MISCONFIG,
} XmmuNestedReason;

typedef struct XmmuNestedExit {
    XmmuNestedReason reason;
    uint64_t info;              /* EXITINFO1; exit qualification */
    gpa_t gpa;                  /* L2's: EXITINFO2; guest-physical address */
} XmmuNestedExit;

/* ---- Register rules (pure functions) --------------------------------- */

/* Why a write must raise #GP(0); NULL means it is legal.  The strings are
 * for people (traces, qtest). */
typedef struct XmmuCrRules {
    uint64_t cr4_reserved;      /* bits this CPU model does not have */
    uint64_t efer_reserved;
    uint8_t maxphyaddr;
    bool long_mode;             /* the CPU has it */
    bool lam;                   /* the CPU has it: CR3[62:61] */
    bool cs_l;                  /* CS.L of the code segment that executes */
    bool tr_tss16;              /* TR holds a 16-bit TSS */
} XmmuCrRules;

const char *xmmu_check_cr0(const XmmuCrRules *rules, const XmmuRegs *old, uint64_t cr0);
const char *xmmu_check_cr3(const XmmuCrRules *rules, const XmmuRegs *old, uint64_t cr3);
const char *xmmu_check_cr4(const XmmuCrRules *rules, const XmmuRegs *old, uint64_t cr4);
const char *xmmu_check_efer(const XmmuCrRules *rules, const XmmuRegs *old, uint64_t efer);
/* INVPCID with CPL 0: its register operand and its descriptor in memory.
 * @linear_bits: width of linear addresses that the CPU model has. */
const char *xmmu_check_invpcid(const XmmuRegs *regs, unsigned linear_bits,
                               uint64_t type, const uint64_t descriptor[2]);
/* Reserved bits in PDPTEs about to be loaded (Intel SDM vol. 3, 4.4.1). */
const char *xmmu_check_pdptes(const XmmuCpuCaps *caps, const uint64_t pdpte[4]);

/* ---- Faults ----------------------------------------------------------- */

/* One access, as the CPU's execution unit asks for it. */
typedef struct XmmuAccess {
    gva_t gva;
    uint8_t want;               /* exactly one XMMU_PROT_* */
    bool user;                  /* CPL 3 and not an implicit supervisor access */
    bool smap_off;              /* explicit supervisor access with EFLAGS.AC=1 */
    bool restartable;           /* may be given up, and made again when its page has
                                   come (async_pf.h) */
} XmmuAccess;

/* The guest exception that a translation ended in. */
typedef struct XmmuException {
    uint8_t vector;             /* XMMU_EXC_* */
    uint32_t error_code;
    gva_t cr2;                  /* for #PF */
} XmmuException;

typedef enum XmmuPfResult {
    XMMU_PF_RETRY,              /* something changed under us: walk again */
    XMMU_PF_FIXED,              /* an entry was installed: walk again */
    XMMU_PF_SPURIOUS,           /* the entry was already right: walk again */
    XMMU_PF_EMULATE,            /* no mapping may be kept: do this access at
                                   XmmuFault.gpa by hand, once */
    XMMU_PF_GUEST,              /* deliver XmmuFault.exception */
    XMMU_PF_REFLECT,            /* leave L2, tell L1 XmmuFault.exit */
    XMMU_PF_NOMEM,              /* no memory for a table even after reclaim */
    XMMU_PF_ASYNC,              /* the page is on its way: XmmuFault.async */
    XMMU_PF_RING_FULL,          /* xmmu_vcpu_dirty_spill(), then the access again */
} XmmuPfResult;

/* What a vCPU does instead of waiting for a page, see async_pf.h. */
typedef struct XmmuAsync {
    bool event;                 /* #PF "page not present" with this token; else halt */
    uint32_t token;
} XmmuAsync;

typedef struct XmmuFault {
    /* in */
    XmmuAccess access;          /* shadow: the guest access */
    gpa_t tdp_gpa;              /* TDP: what missed */
    bool table;                 /* TDP: that is an entry of the guest's tables */
    unsigned size;              /* bytes of the access, 1..64; 0 unknown */
    /* out */
    XmmuException exception;    /* GUEST */
    union {
        XmmuNestedExit exit;    /* REFLECT */
        XmmuAsync async;        /* ASYNC */
    };
    uint8_t path_access;        /* GUEST: XMMU_ACC_* of the path that was walked */
    gpa_t gpa;                  /* EMULATE */
    uint8_t page_shift;         /* EMULATE: size of the guest's page (shadow) */
    uint8_t prot;               /* EMULATE: what the guest's tables allow */
    bool mmio;                  /* EMULATE: no slot there (or read-only) */
} XmmuFault;

/* Shadow paging: our tables did not allow @fault->access. */
XmmuPfResult xmmu_shadow_fault(XmmuVcpu *vcpu, XmmuFault *fault);
/* TDP: our tables did not allow access.want at @fault->tdp_gpa. */
XmmuPfResult xmmu_tdp_fault(XmmuVcpu *vcpu, XmmuFault *fault);

/* ---- What can be seen -------------------------------------------------- */

/* name, description.  All are events since start, except the last group. */
#define XMMU_STATS(X) \
    X(faults,          "faults that reached the MMU") \
    X(faults_fixed,    "faults that installed an entry") \
    X(faults_spurious, "faults that found the entry already right") \
    X(faults_guest,    "faults delivered to the guest") \
    X(faults_emulate,  "accesses done by hand (MMIO, ROM writes, tracked writes)") \
    X(mmio_cached,     "MMIO accesses answered by a cached MMIO entry") \
    X(walks,           "walks of our tables by the hardware model") \
    X(guest_walks,     "walks of guest tables") \
    X(cr3_loads,       "guest loads of CR3 and other full guest flushes") \
    X(invlpg,          "guest INVLPG") \
    X(invpcid,         "guest INVPCID") \
    X(role_changes,    "re-initialisations: the vCPU role changed") \
    X(role_skips,      "re-initialisations skipped: same vCPU role") \
    X(nested_entries,  "times a nested guest with nested paging was entered") \
    X(nested_faults,   "faults of nested guests in the tables that shadow L1's") \
    X(nested_reflected, "faults of nested guests that L1 was told of") \
    X(root_hits,       "root switches answered by the root cache") \
    X(root_misses,     "root switches that had to load a root") \
    X(flushes_avoided, "root switches after which no table had to be compared") \
    X(roots_new,       "root tables allocated") \
    X(syncs,           "shadow pages compared with their guest table") \
    X(syncs_changed,   "guest entries found changed by such a comparison") \
    X(unsyncs,         "shadow pages that became unsync by a guest write") \
    X(tracked_writes,  "guest writes to write-tracked upper tables") \
    X(floods,          "shadow pages zapped because of write flooding") \
    X(misaligned,      "shadow pages zapped because of misaligned writes") \
    X(role_conflicts,  "children unlinked because their key did not match") \
    X(flushes,         "flushes of all vCPUs ordered by the MMU") \
    X(zaps,            "present entries removed by the MMU") \
    X(reclaims,        "times that tables had to go to make room for others") \
    X(reclaimed_tables, "tables that went because of that") \
    X(splits,          "huge leaves split in place") \
    X(promotions,      "tables replaced in place by a huge leaf") \
    X(nx_faults,       "fetches that had to split a huge page or could not get one") \
    X(nx_recovered,    "tables recovered of those that fetches had split") \
    X(async_pf_sent,   "missing pages that the guest was told of") \
    X(async_pf_ready,  "times that the guest was told that pages have come") \
    X(async_pf_halted, "times that a vCPU halted for a missing page") \
    X(async_pf_waited, "missing pages that a vCPU had to wait for in its access") \
    X(async_pf_prefaulted, "pages mapped when they came") \
    X(async_pf_dropped, "missing pages that were forgotten before they came") \
    X(dirty_pages,     "pages found written while writes were logged") \
    X(dirty_reported,  "pages that the log of writes was asked for and told") \
    X(dirty_cleared,   "pages write-protected again for the log") \
    X(dirty_ring_full, "faults that had to spill their ring first")

#define XMMU_GAUGES(X) \
    X(tables,          "table pages now in use") \
    X(table_bytes,     "bytes in tables and their bookkeeping") \
    X(pages_4k,        "leaf entries of 4 KiB") \
    X(pages_2m,        "leaf entries of 2 MiB") \
    X(pages_1g,        "leaf entries of 1 GiB") \
    X(nx_lpage_splits, "tables in the place of a huge page because of a fetch") \
    X(zap_hold_max,    "most entries of shadow tables removed in one hold of mmu_lock")

typedef struct XmmuStats {
#define XMMU_FIELD(name, text) uint64_t name;
    XMMU_STATS(XMMU_FIELD)
    XMMU_GAUGES(XMMU_FIELD)
#undef XMMU_FIELD
} XmmuStats;

typedef struct XmmuStatDesc {
    const char *name;           /* of the field */
    const char *text;
    size_t offset;              /* in XmmuStats */
    bool gauge;
} XmmuStatDesc;

extern const XmmuStatDesc xmmu_stat_descs[];
extern const size_t xmmu_stat_count;

/* Sum over vCPUs and VM.  Values are read without stopping anyone. */
void xmmu_vm_stats(XmmuVm *vm, XmmuStats *out);
void xmmu_vcpu_stats(XmmuVcpu *vcpu, XmmuStats *out);

/* A root as the outside sees it. */
typedef struct XmmuRootInfo {
    bool valid;
    uint64_t pgd;               /* CR3 base it stands for; 0 for direct roots */
    uint16_t pcid;              /* 0 when the guest does not use PCIDs */
    uint32_t page_role;         /* XmmuPageRole.word */
    hpa_t hpa;
} XmmuRootInfo;

uint64_t xmmu_vcpu_role_word(const XmmuVcpu *vcpu);
/* "4-level 64-bit wp nx smep" and the like; free with g_free(). */
char *xmmu_vcpu_role_text(const XmmuVcpu *vcpu);
char *xmmu_page_role_text(uint32_t page_role);
/* The current root first, then the cached ones; returns how many were written. */
size_t xmmu_vcpu_roots(XmmuVcpu *vcpu, XmmuRootInfo *out, size_t max);

#endif /* XMMU_MMU_H */
