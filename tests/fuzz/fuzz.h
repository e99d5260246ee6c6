/*
 * xmmu fuzz: a run from inside
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A run is a VM with one or two vCPUs, guest tables that alias each other, and
 * random operations.  The vCPUs are driven as the soft engine drives them: results
 * that may be cached are kept in a software TLB until the core orders a flush or the
 * guest flushes, guest writes go through a translation for writing, and an access
 * that may not be cached is done by hand.  Every translation is compared with the
 * reference (ref_mmu.h).
 *
 * Shared by the files of a run only; see fuzz_mmu.h for the outside.
 */
#ifndef XMMU_FUZZ_H
#define XMMU_FUZZ_H

#include <glib.h>

#include "../../accel/xmmu/engine/hw_model.h"
#include "fuzz_mmu.h"

#define TLB_SIZE        64
#define INVLPG_LOG      32
#define RECENT          16
#define MAX_EXTRA       200
#define FUZZ_PCIDS      4
#define MAX_CPUS        3       /* the writer included */
#define HOT             32

#define GIB             ((uint64_t)1 << 30)

typedef struct TlbEntry {
    bool valid;
    uint64_t page;              /* gva >> 12 */
    uint8_t page_shift, prot;
    bool mmio;
    bool by_hole;               /* a table on the way is in a hole */
    gpa_t gpa;                  /* of the page */
    hpa_t hpa;
} TlbEntry;

enum { TLB_USER, TLB_KERNEL, TLB_KERNEL_AC, TLB_MODES };

typedef struct Cpu {
    XmmuVcpu *vcpu;
    unsigned index;
    XmmuRegs regs;
    unsigned pcid;              /* the current one */
    Spans current[FUZZ_PCIDS];  /* when each was that, since its last flush */
    unsigned invlpg_count;
    struct {
        gva_t gva;
        uint64_t when;
        unsigned pcid;
        bool globals;           /* and global translations of all PCIDs */
    } invlpg[INVLPG_LOG];
    gva_t recent[RECENT];
    unsigned slot;              /* of recent[] that was last used */
    XmmuAccess good;            /* the last one that was allowed */
    bool dropped;               /* the TLB was dropped for the core: tell it */
    bool nudged;                /* the core asks to drop it */
    TlbEntry tlb[TLB_MODES][TLB_SIZE];
} Cpu;

/* A store that was translated and has not happened yet: its vCPU is in the middle
 * of an instruction while others go on. */
typedef struct Pending {
    Cpu *cpu;                   /* NULL: none */
    XmmuHwResult result;
    uint64_t data[8];
    unsigned size, ops_left;
} Pending;

/* An entry that a walk has met. */
typedef struct HotEntry {
    gpa_t gpa;
    uint8_t as_id, size;        /* 0: none */
} HotEntry;

typedef struct Fuzz {
    World world;
    Pending pending;
    Source *s;
    const FuzzLimits *limits;
    FuzzCount *count;
    uint64_t seed;
    unsigned op;
    XmmuConfig config;
    XmmuCpuCaps caps;
    XmmuVm *vm;
    Cpu cpus[MAX_CPUS];
    unsigned cpu_count;         /* without the writer */
    unsigned all_cpus;          /* with it, if there is one */
    RefStep extra[MAX_EXTRA];
    bool by_hole;               /* of the last translation */
    bool restless;              /* roles change all the time */
    bool calm;                  /* few changes, so that TLBs live long */
    bool switching;             /* few tables and PCIDs, often changed without a flush */
    unsigned hot_percent;       /* of table writes: to entries that walks have met */
    unsigned hot_next;
    HotEntry hot[HOT];
    unsigned writer_flushes;    /* percent of the writer's writes */
    unsigned flush_percent;     /* how often a table write is followed by a flush */
    bool logging[XMMU_AS_COUNT];        /* writes to all regions */
} Fuzz;

/* A verdict in the making: judge.c. */
typedef struct View {
    Fuzz *f;
    Cpu *cpu;
    const XmmuAccess *access;
    const XmmuHwResult *got;
    const Spans *spans;         /* values that were not there then are out */
    bool lost;                  /* values are missing: anything may be right */
    RefResult now;              /* by the values in memory */
    bool have_now, matched, alternatives;
    /* Entries of paths that may be cached: their flags may be set too. */
    unsigned extras;            /* in Fuzz.extra[] */
} View;

/* ---- report.c ---- */
void fz_trace(const Fuzz *f, const char *format, ...) G_GNUC_PRINTF(2, 3);
void fz_print_result(const char *who, const RefResult *r);
void fz_print_got(const XmmuHwResult *got);
void fz_print_setting(const Fuzz *f, const Cpu *cpu);
void fz_differ(View *v, const char *what) G_GNUC_NORETURN;

/* ---- services.c ---- */
extern const XmmuServices fz_services;

/* ---- tlb.c ---- */
void fz_tlb_drop(Cpu *cpu);
/* What INVLPG of @gva covers. */
void fz_tlb_drop_gva(Cpu *cpu, gva_t gva);
/* What the bus answered, or a table in a hole. */
void fz_tlb_drop_holes(Cpu *cpu);
bool fz_tlb_lookup(Cpu *cpu, const XmmuAccess *a, XmmuHwResult *r);
void fz_tlb_fill(Cpu *cpu, const XmmuAccess *a, const XmmuHwResult *r, bool by_hole);

/* ---- judge.c ---- */
unsigned fz_as(const Cpu *cpu);
unsigned fz_levels(const Cpu *cpu);
RefMmu fz_ref_of(const Fuzz *f, const Cpu *cpu, View *view);
RefAccess fz_ref_access(const XmmuAccess *a);
void fz_check_result(Fuzz *f, Cpu *cpu, const XmmuAccess *access,
                     const XmmuHwResult *got, bool from_tlb);

/* ---- access.c ---- */
/* Translate, compare, keep.  True when the access may be done. */
bool fz_translate(Fuzz *f, Cpu *cpu, const XmmuAccess *a, unsigned size,
                  XmmuHwResult *r);
gva_t fz_random_page(Fuzz *f, unsigned levels);
gva_t fz_random_gva(Fuzz *f, Cpu *cpu, unsigned size);
void fz_op_access(Fuzz *f, Cpu *cpu);
/* A store through the vCPU's own mappings. */
void fz_op_store(Fuzz *f, Cpu *cpu);
void fz_op_write_table(Fuzz *f);

/* ---- store.c ---- */
/* A store that was translated; true when memory changed. */
bool fz_store(Fuzz *f, const Cpu *cpu, const XmmuHwResult *r, const void *data,
              unsigned size);
/* Store now, or let the others run first.  True when memory changed. */
bool fz_store_soon(Fuzz *f, Cpu *cpu, const XmmuHwResult *r, const void *data,
                   unsigned size);
void fz_finish_pending(Fuzz *f);
/* @cpu is about to do something else. */
void fz_finish_of(Fuzz *f, const Cpu *cpu);
/* A write without paging: by the writer, or by a vCPU that turns paging off for it. */
void fz_write_physical(Fuzz *f, unsigned as_id, gpa_t gpa, const void *data,
                       unsigned size);

/* ---- flush.c ---- */
void fz_flush(Fuzz *f, Cpu *cpu);
void fz_invlpg(Fuzz *f, Cpu *cpu, gva_t gva);
/* The guest flushed @gva in @pcid now; with @globals, global translations of it too. */
void fz_note_invlpg(Fuzz *f, Cpu *cpu, unsigned pcid, gva_t gva, bool globals);
/* What a careful guest does after it changed a table. */
void fz_flush_after_write(Fuzz *f);

/* ---- pcid.c ---- */
/* 0 without PCIDs. */
unsigned fz_pcid(const XmmuRegs *regs);
/* @cpu may hold nothing of @pcid any more. */
void fz_forget_pcid(Fuzz *f, Cpu *cpu, unsigned pcid);
void fz_forget_all(Fuzz *f, Cpu *cpu);
/* Registers have changed, the PCID too perhaps. */
void fz_note_pcid(Fuzz *f, Cpu *cpu);
/* @regs differ from the vCPU's in CR3 and the PDPTEs only. */
void fz_mov_cr3(Fuzz *f, Cpu *cpu, const XmmuRegs *regs);
void fz_op_invpcid(Fuzz *f, Cpu *cpu);

/* ---- regs.c ---- */
void fz_take_regs(Fuzz *f, Cpu *cpu, const XmmuRegs *regs);
void fz_op_cr3(Fuzz *f, Cpu *cpu);
void fz_op_mode(Fuzz *f, Cpu *cpu);
/* Bits that may change without a change of mode. */
void fz_op_flip(Fuzz *f, Cpu *cpu);
void fz_op_keys(Fuzz *f, Cpu *cpu);
void fz_op_smm(Fuzz *f, Cpu *cpu);
void fz_op_a20(Fuzz *f, Cpu *cpu);

/* ---- vm.c ---- */
void fz_set_memory(Fuzz *f, unsigned as_id);
void fz_op_slots(Fuzz *f);
/* Log writes or not any more, or ask the log: what was stored must be in it. */
void fz_op_log(Fuzz *f);
/* Empty the rings. */
void fz_spill(Fuzz *f, Cpu *cpu);
void fz_op_rare(Fuzz *f, Cpu *cpu);

/* ---- look.c ---- */
void fz_op_gpa(Fuzz *f, Cpu *cpu);
void fz_op_debug(Fuzz *f, Cpu *cpu);
void fz_op_look(Fuzz *f, Cpu *cpu);

#endif
