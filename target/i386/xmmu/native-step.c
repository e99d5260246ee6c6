/*
 * xmmu native engine: what TCG executes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the turns that TCG gets in the life of a vCPU that runs in hardware: one
 * instruction whose access or effect the hardware cannot make, one delivery of an
 * event, or a whole stretch in a mode that the hardware cannot or may not run.  The
 * soft engine's hardware model translates meanwhile, by the core's tables.
 *
 * Two things of TCG's must not be older than the turn: its TLB, as the guest changes
 * its tables in hardware; it is empty between turns.  And translated code, as nobody
 * sees what the hardware writes: for single instructions the bytes are compared with
 * those that were there when they were last translated; before a stretch all
 * translations are dropped.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "cpu.h"
#include "accel/tcg/internal-common.h"
#include "accel/tcg/tcg-accel-ops.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "exec/ram_addr.h"
#include "exec/tb-flush.h"
#include "exec/translation-block.h"
#include "system/cpus.h"
#include "tcg/helper-tcg.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/native.h"

/* ---- Translated code that is too old ------------------------------------------------ */

#define INSTRUCTION_MAX 15
#define CODE_SEEN 4096

/* The bytes at an address in RAM when an instruction there was last translated. */
typedef struct CodeSeen {
    ram_addr_t addr;
    uint8_t size;               /* 0: nothing is known */
    uint8_t bytes[INSTRUCTION_MAX];
} CodeSeen;

static CodeSeen code_seen[CODE_SEEN];
static QemuSpin code_seen_lock;

static CodeSeen *code_seen_at(ram_addr_t addr)
{
    return &code_seen[(addr ^ (addr >> 12)) % CODE_SEEN];
}

/*
 * All vCPUs share what is known, so that bytes which changed and changed back are not
 * taken for the same by one of them while another has translated what was between.
 */
static void check_code_at(const uint8_t *host, unsigned size)
{
    CodeSeen *seen;
    ram_addr_t addr;

    RCU_READ_LOCK_GUARD();
    addr = qemu_ram_addr_from_host((void *)host);
    if (addr == RAM_ADDR_INVALID) {
        return;
    }
    seen = code_seen_at(addr);
    qemu_spin_lock(&code_seen_lock);
    if (seen->addr != addr || seen->size != size || memcmp(seen->bytes, host, size)) {
        tb_invalidate_phys_range(addr, addr + size - 1);
        seen->addr = addr;
        seen->size = size;
        memcpy(seen->bytes, host, size);
    }
    qemu_spin_unlock(&code_seen_lock);
}

/* The page at @addr, or NULL: not there, or no RAM. */
static const uint8_t *code_page(CPUState *cs, vaddr addr)
{
    void *host = NULL;
    int flags = probe_access_flags(cpu_env(cs), addr, 0, MMU_INST_FETCH,
                                   cpu_mmu_index(cs, true), true, &host, 0);

    return flags & (TLB_INVALID_MASK | TLB_MMIO) ? NULL : host;
}

static void check_bytes(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);
    bool wide = env->hflags & HF_CS64_MASK;
    vaddr pc = wide ? env->eip : (uint32_t)(env->eip + env->segs[R_CS].base);
    unsigned here = MIN(INSTRUCTION_MAX, TARGET_PAGE_SIZE - (pc & ~TARGET_PAGE_MASK));
    const uint8_t *host = code_page(cs, pc);

    if (host) {
        check_code_at(host, here);
    }
    if (here == INSTRUCTION_MAX) {
        return;
    }
    pc += here;
    host = code_page(cs, wide ? pc : (uint32_t)pc);
    if (host) {
        check_code_at(host, INSTRUCTION_MAX - here);
    }
}

/* Filling TCG's TLB reads the memory map, which cpu_exec() has an RCU read section for. */
static void check_code(CPUState *cs)
{
    RCU_READ_LOCK_GUARD();
    /* Left like this only when there is no memory for a table: the VM stops. */
    if (!sigsetjmp(cs->jmp_env, 0)) {
        check_bytes(cs);
    }
}

/* ---- A turn ------------------------------------------------------------------------------ */

void xmmu_native_begin_turn(CPUState *cs, uint32_t groups)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    xmmu_native_change(cs, groups);
    /* Before anything is translated: who flushes sees it, or we see his tables. */
    qatomic_set(&n->emulating, true);
    smp_mb();
}

/* What a single instruction has put there; a stretch may have filled it all. */
static void empty_tlb(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    if (n->filled_count > XMMU_NATIVE_FILLED) {
        tlb_flush(cs);
    } else {
        for (unsigned i = 0; i < n->filled_count; i++) {
            tlb_flush_page_by_mmuidx(cs, n->filled[i].addr, 1 << n->filled[i].mmu_idx);
        }
    }
    n->filled_count = 0;
}

void xmmu_native_end_turn(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    empty_tlb(cs);
    qatomic_set(&n->emulating, false);
    if (!xmmu_state.config.tdp) {
        xmmu_vcpu_flushed(cs->accel->vcpu);
    }
}

bool xmmu_native_note_fill(CPUState *cs, vaddr addr, int mmu_idx)
{
    XmmuNativeVcpu *n = cs->accel->native;

    if (!n) {
        return false;
    }
    if (n->filled_count < XMMU_NATIVE_FILLED) {
        n->filled[n->filled_count] = (XmmuNativeFill) {
            addr & TARGET_PAGE_MASK, mmu_idx,
        };
    }
    n->filled_count = MIN(n->filled_count + 1, XMMU_NATIVE_FILLED + 1);
    return !n->in_stretch;
}

/* ---- Registers that most instructions leave alone -------------------------------------- */

/*
 * FPU and vector registers are many and seldom needed. Where they are still in the
 * module, TCG executes with CR0.TS set in its flags: an instruction that needs them
 * raises #NM before it does anything, and is executed again when they are here.
 * Protection keys are looked at without asking.
 */
static void hide_fpu(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);

    n->fpu_hidden = !(n->loaded & XMMU_GROUP_XSAVE) && !(env->cr[4] & CR4_PKE_MASK) &&
                    !(env->hflags & HF_TS_MASK);
    n->fpu_wanted = false;
    if (n->fpu_hidden) {
        env->hflags |= HF_TS_MASK;
    } else if (!(env->hflags & HF_TS_MASK)) {
        xmmu_native_change(cs, XMMU_GROUP_XSAVE);
    }
}

/* True: the instruction needs them, and is to be executed again. */
static bool show_fpu(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);

    if (!n->fpu_hidden) {
        return false;
    }
    n->fpu_hidden = false;
    if (!(env->cr[0] & CR0_TS_MASK)) {
        env->hflags &= ~HF_TS_MASK;
    }
    if (n->fpu_wanted) {
        xmmu_native_change(cs, XMMU_GROUP_XSAVE);
    }
    return n->fpu_wanted;
}

void xmmu_do_interrupt(CPUState *cs)
{
    XmmuNativeVcpu *n = cs->accel->native;

    if (n && n->fpu_hidden && cs->exception_index == EXCP07_PREX &&
        !(cpu_env(cs)->cr[0] & CR0_TS_MASK)) {
        n->fpu_wanted = true;
        cpu_env(cs)->old_exception = -1;
        return;
    }
    xmmu_parent_tcg_ops->do_interrupt(cs);
}

/* ---- Single instructions ------------------------------------------------------------------- */

/* A result of cpu_exec() for the loop around the hardware. */
static int after_exec(CPUState *cs, int ret)
{
    switch (ret) {
    case EXCP_INTERRUPT:
        return 0;
    case EXCP_ATOMIC:
        /* A kick has left a note there, which single instructions do not look at, and
         * which would keep this one from being executed; n->kicked has it, too. */
        qatomic_set_mb(&cs->neg.icount_decr.u16.high, 0);
        cpu_exec_step_atomic(cs);
        return 0;
    default:
        return ret;
    }
}

/* The delivery of an event has hit a watchpoint: #DB is raised by the next cpu_exec(). */
static bool trap_waits(CPUState *cs)
{
    return qatomic_read(&cs->interrupt_request) & CPU_INTERRUPT_DEBUG;
}

/*
 * Leaves cpu_exec() after what was asked for: it looks at exit_request behind each
 * translation block and each exception.  A kick sets it too; that one is seen in the
 * shared page.
 */
static int exec_once(CPUState *cs)
{
    int ret;

    do {
        qatomic_set(&cs->exit_request, true);
        ret = after_exec(cs, tcg_cpu_exec(cs));
    } while (!ret && trap_waits(cs));
    return ret;
}

static int step_once(CPUState *cs)
{
    int ret;

    check_code(cs);
    cs->cflags_next_tb = curr_cflags(cs) | CF_NOIRQ | CF_NO_GOTO_TB |
                         CF_NO_GOTO_PTR | 1;
    ret = exec_once(cs);
    cs->cflags_next_tb = -1;
    return ret;
}

int xmmu_native_step(CPUState *cs)
{
    int ret;

    xmmu_native_begin_turn(cs, XMMU_NATIVE_STEP_GROUPS);
    trace_xmmu_native_step(cs->cpu_index, cpu_env(cs)->eip);
    xmmu_native_vcpu(cs)->stepped = true;
    xmmu_native_vcpu(cs)->steps++;
    hide_fpu(cs);
    ret = step_once(cs);
    if (show_fpu(cs)) {
        ret = step_once(cs);
    }
    xmmu_native_end_turn(cs);
    return ret;
}

/* An interrupt pushes no error code, whatever its vector; an exception of that vector
 * may. Under the BQL, as in cpu_exec(): by that a watchpoint which is hit knows that no
 * instruction is to be begun again. */
static void deliver_interrupt(CPUState *cs, unsigned vector)
{
    RCU_READ_LOCK_GUARD();
    cpu_exec_start(cs);
    bql_lock();
    if (!sigsetjmp(cs->jmp_env, 0)) {
        do_interrupt_x86_hardirq(cpu_env(cs), vector, 1);
    }
    bql_unlock();
    cpu_exec_end(cs);
}

int xmmu_native_deliver(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);
    struct xmmu_event event;
    int ret;

    xmmu_native_retry_pending(cs);
    if (n->pending.type == XMMU_EVENT_NONE) {
        return xmmu_native_step(cs);
    }
    n->deliveries++;
    event = n->pending;
    n->pending = (struct xmmu_event) { 0 };
    xmmu_native_begin_turn(cs, XMMU_NATIVE_STEP_GROUPS | XMMU_GROUP_XSAVE);
    if (event.type == XMMU_EVENT_EXCEPTION) {
        cs->exception_index = event.vector;
        env->error_code = event.error;
        env->exception_is_int = 0;
        env->exception_next_eip = env->eip;
    } else {
        if (event.type == XMMU_EVENT_NMI) {
            env->hflags2 |= HF2_NMI_MASK;
        }
        deliver_interrupt(cs, event.vector);
    }
    /* An exception, that one or one met by the delivery, and then out. */
    ret = cs->exception_index >= 0 || trap_waits(cs) ? exec_once(cs) : 0;
    xmmu_native_end_turn(cs);
    return ret;
}

/* ---- Stretches ------------------------------------------------------------------------------ */

static bool debugger_watches(CPUState *cs)
{
    CPUBreakpoint *bp;
    CPUWatchpoint *wp;

    if (cs->singlestep_enabled) {
        return true;
    }
    QTAILQ_FOREACH(bp, &cs->breakpoints, entry) {
        if (bp->flags & BP_GDB) {
            return true;
        }
    }
    QTAILQ_FOREACH(wp, &cs->watchpoints, entry) {
        if (wp->flags & BP_GDB) {
            return true;
        }
    }
    return false;
}

/*
 * Real mode, where the hardware needs protected mode.  To change sides means to translate
 * all code again; who does that many times without paging (a boot loader that calls the
 * BIOS for each sector) is better off in TCG on both of them.
 */
#define SIDES_MAX 64

static bool hardware_lacks_mode(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    if (env->cr[0] & CR0_PG_MASK) {
        return false;
    }
    if (xmmu_state.config.tdp) {
        return !xmmu_native_has(XMMU_FEATURE_REALMODE);
    }
    return !(env->cr[0] & CR0_PE_MASK) || xmmu_native_vcpu(cs)->sides > SIDES_MAX;
}

/* The hardware has run without paging, and TCG is to go on. */
static void note_side(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    if (n->ran_unpaged) {
        n->ran_unpaged = false;
        n->sides++;
    }
}

/* Shadow tables have it masked; the hardware that walks the guest's own masks nothing. */
static bool hardware_lacks_a20(CPUX86State *env)
{
    return xmmu_state.config.tdp && !(x86_get_a20_mask(env) & (1 << 20));
}

bool xmmu_native_must_emulate(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    return (env->hflags & HF_SMM_MASK) ||
           (qatomic_read(&cs->interrupt_request) &
            (CPU_INTERRUPT_SMI | CPU_INTERRUPT_MCE)) ||
           cs->exception_index >= 0 ||
           xmmu_native_vcpu(cs)->odd_mode || hardware_lacks_mode(cs) ||
           hardware_lacks_a20(env) || debugger_watches(cs);
}

/* Instructions that are tried one by one before the hardware is asked again. */
#define ODD_STEPS 64

static int odd_steps(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    int ret = 0;

    n->odd_mode = false;
    for (int i = 0; i < ODD_STEPS && !ret && !qatomic_read(&n->kicked); i++) {
        ret = n->pending.type == XMMU_EVENT_NONE ? xmmu_native_step(cs)
                                                 : xmmu_native_deliver(cs);
    }
    return ret;
}

/* A vCPU has executed in hardware since all translations were last dropped. */
static bool hardware_ran;

void xmmu_native_note_run(void)
{
    if (!qatomic_read(&hardware_ran)) {
        qatomic_set(&hardware_ran, true);
    }
}

static void drop_translations(CPUState *cs)
{
    if (qatomic_xchg(&hardware_ran, false)) {
        start_exclusive();
        tb_flush(cs);
        end_exclusive();
    }
}

int xmmu_native_stretch(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    int ret = 0;

    if (n->pending.type != XMMU_EVENT_NONE) {
        return xmmu_native_deliver(cs);
    }
    if (n->odd_mode) {
        return odd_steps(cs);
    }
    xmmu_native_begin_turn(cs, XMMU_GROUP_ALL);
    trace_xmmu_native_stretch(cs->cpu_index, cpu_env(cs)->eip);
    drop_translations(cs);
    note_side(cs);
    n->stretches++;
    n->in_stretch = true;
    do {
        n->mode_changed = false;
        ret = after_exec(cs, tcg_cpu_exec(cs));
    } while (!ret && n->mode_changed && xmmu_native_must_emulate(cs));
    n->in_stretch = false;
    if (!ret && trap_waits(cs)) {
        ret = exec_once(cs);
    }
    xmmu_native_end_turn(cs);
    return ret;
}

void xmmu_native_note_mode(CPUState *cs)
{
    XmmuNativeVcpu *n = cs->accel ? cs->accel->native : NULL;

    if (n && n->in_stretch && qemu_cpu_is_self(cs)) {
        n->mode_changed = true;
        cpu_exit(cs);
    }
}
