/*
 * xmmu: x86 vCPUs in hardware, for target/i386/xmmu/native*.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A group of registers (enum xmmu_group) is in one of three places: in the module only,
 * in env as well (.loaded), or in env only, as env was changed (.changed, which is part
 * of .loaded).  Before the guest runs what was changed is committed; after it has run
 * nothing is loaded but what came with the exit.
 *
 * All of it belongs to the vCPU's thread, but for .run->immediate_exit.
 */
#ifndef TARGET_I386_XMMU_NATIVE_H
#define TARGET_I386_XMMU_NATIVE_H

#include "target/i386/xmmu/xmmu-cpu.h"
#include "accel/xmmu/engine/native.h"

/* What a single instruction may read or change; more, FPU and vector registers. */
#define XMMU_NATIVE_STEP_GROUPS (XMMU_GROUP_GPRS | XMMU_GROUP_SEGMENTS | \
                                 XMMU_GROUP_CRS | XMMU_GROUP_DRS | \
                                 XMMU_GROUP_MSRS | XMMU_GROUP_EVENTS)

/* What it takes to look at the code. */
#define XMMU_NATIVE_CODE_GROUPS (XMMU_GROUP_SEGMENTS | XMMU_GROUP_CRS)

/* Of TCG's TLB: what one instruction filled.  More than this many: all of it. */
#define XMMU_NATIVE_FILLED 8

#define XMMU_NATIVE_REASONS (XMMU_EXIT_UNKNOWN + 1)

typedef struct XmmuNativeFill {
    vaddr addr;
    int mmu_idx;
} XmmuNativeFill;

struct XmmuNativeVcpu {
    XmmuDeviceVcpu device;
    XmmuWriteLog log;           /* if xmmu_native.logs_writes */
    struct xmmu_run *run;       /* device.run */
    uint32_t loaded;            /* enum xmmu_group: env has these */
    uint32_t changed;           /* and the module does not */
    uint32_t fresh;             /* the shared page has these as they are */
    struct xmmu_exit exit;      /* of the last run */
    struct xmmu_event pending;  /* the exit cut off its delivery; to be injected */
    uint32_t root, want;        /* of xmmu_controls, for the next run */
    uint64_t tsc_offset, tsc_ratio;     /* as the module has them */
    bool kicked;                /* atomic: the signal came */
    bool emulating;             /* atomic: TCG is executing */
    bool in_stretch;            /* it executes until the mode changes */
    bool mode_changed;          /* it did */
    bool stepped;               /* since the last run: the next exit may be for one, too */
    bool decoded;               /* the same of an instruction that was decoded */
    bool fpu_hidden;            /* TCG executes without FPU and vector registers, */
    bool fpu_wanted;            /* and has met an instruction that needs them */
    XmmuNativeFill filled[XMMU_NATIVE_FILLED];
    unsigned filled_count;
    bool odd_mode;              /* the module cannot run this mode */
    bool ran_unpaged;           /* in hardware, since the last stretch */
    unsigned sides;             /* changed since the last reset, without paging */
    uint64_t exits[XMMU_NATIVE_REASONS];        /* by enum xmmu_exit_reason */
    uint64_t steps, deliveries, stretches;      /* turns of TCG */
    gpa_t spurious_gpa;         /* of faults that found nothing to do, */
    unsigned spurious;          /* and how many there were one after the other */
};
typedef struct XmmuNativeVcpu XmmuNativeVcpu;

static inline XmmuNativeVcpu *xmmu_native_vcpu(CPUState *cs)
{
    return cs->accel->native;
}

/* ---- native.c -------------------------------------------------------------------- */

/*
 * For qtests, whose vCPUs do not execute: the module takes what a run would begin with,
 * tables and all registers, and gives the registers back.  NULL: it did; else what it
 * said.  Nothing is done in a mode that hardware does not run.
 */
const char *xmmu_native_rehearse(CPUState *cs);

/* ---- native-regs.c ---------------------------------------------------------- */

/* Makes sure that env has the groups. */
void xmmu_native_load(CPUState *cs, uint32_t groups);
/* The same, and that the module gets them back. */
static inline void xmmu_native_change(CPUState *cs, uint32_t groups)
{
    xmmu_native_load(cs, groups);
    xmmu_native_vcpu(cs)->changed |= groups;
}

/* After an exit: takes what came with it. */
void xmmu_native_take(CPUState *cs);
/* Before a run: gives the module what was changed. */
void xmmu_native_give(CPUState *cs);

/* ---- native-tsc.c --------------------------------------------------------------- */

/* What a run shall have: struct xmmu_controls. */
uint64_t xmmu_native_tsc_offset(void);
uint64_t xmmu_native_tsc_ratio(void);

/* ---- native-step.c -------------------------------------------------------------- */

/*
 * One instruction, by TCG, whatever it does: also an exception that it raises.  Events
 * that wait may be delivered.  Returns 0 or EXCP_*.
 */
int xmmu_native_step(CPUState *cs);
/* Deliver .pending by TCG, in place of an instruction. */
int xmmu_native_deliver(CPUState *cs);
/*
 * Around what TCG or one of its helpers does: env gets the groups, and they are taken to
 * be changed; nothing of TCG's TLB survives.
 */
void xmmu_native_begin_turn(CPUState *cs, uint32_t groups);
void xmmu_native_end_turn(CPUState *cs);
/* Must TCG execute, because the hardware cannot, or because it may not? */
bool xmmu_native_must_emulate(CPUState *cs);
/* TCG executes until xmmu_native_must_emulate() is false or somebody wants the thread. */
int xmmu_native_stretch(CPUState *cs);
/* Before and after each run: what it writes, TCG does not see. */
void xmmu_native_note_run(void);

/* ---- native-direct.c ---------------------------------------------------------------- */

/*
 * The instruction that exited, done without TCG.  False: nothing has happened, and it is
 * TCG's.  HLT only comes to its end.
 */
bool xmmu_native_cpuid(CPUState *cs);
bool xmmu_native_hlt(CPUState *cs);
bool xmmu_native_io(CPUState *cs);
bool xmmu_native_cr(CPUState *cs);
bool xmmu_native_invlpg(CPUState *cs);
/* The core says of @fault, which ended the last run, that it is an access to a device. */
bool xmmu_native_mmio(CPUState *cs, const XmmuFault *fault);

/* ---- native-events.c -------------------------------------------------------------- */

/* INIT, SIPI and what ends HLT.  With the BQL.  True: the vCPU sleeps. */
bool xmmu_native_wake(CPUState *cs);
/* Choose what is injected by the next run, and which windows it waits for. */
void xmmu_native_choose_event(CPUState *cs);
/* The event that a run could not deliver is delivered by the next one. */
void xmmu_native_retry_pending(CPUState *cs);
/* An exception of the guest's; the double fault rules apply.  Returns 0 or EXCP_*. */
int xmmu_native_raise(CPUState *cs, unsigned vector, bool has_error, uint32_t error);

/* ---- native-exits.c ----------------------------------------------------------------- */

/* Returns 0 when the guest can go on, else EXCP_*. */
int xmmu_native_handle(CPUState *cs);
/* The VM stops with an internal error. */
int xmmu_native_fail(CPUState *cs, const char *why);

#endif /* TARGET_I386_XMMU_NATIVE_H */
