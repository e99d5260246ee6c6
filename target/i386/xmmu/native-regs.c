/*
 * xmmu native engine: registers between env and the module
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the conversion of each group (enum xmmu_group) in both directions, and when
 * it is done: what nobody looks at stays in the module.  See native.h for where a
 * group is.
 *
 * CR0, CR4, EFER, XCR0 and the debug registers change by exits only, which are done
 * in env; they are always loaded.
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/units.h"
#include "cpu.h"
#include "hw/i386/apic.h"
#include "target/i386/xmmu/native.h"

/* QEMU's order of registers is that of their encoding. */
QEMU_BUILD_BUG_ON(R_EAX != 0 || R_ECX != 1 || R_ESP != 4 || R_EDI != 7);
QEMU_BUILD_BUG_ON((int)R_ES != XMMU_ES || (int)R_CS != XMMU_CS ||
                  (int)R_GS != XMMU_GS);

/* The groups that come with every exit. */
#define ALWAYS_WANTED (XMMU_GROUP_GPRS | XMMU_GROUP_EVENTS)
/* The groups that only env has. */
#define ALWAYS_LOADED (XMMU_GROUP_DRS | XMMU_GROUP_CONTROLS)

/* ---- General registers, segments ------------------------------------------------ */

/*
 * TCG keeps the arithmetic flags and DF apart, and whoever asks for all of RFLAGS
 * outside of its loop, as the delivery of an interrupt does, gets both ored.
 */
static void get_flags(CPUX86State *env, uint64_t rflags)
{
    env->eflags = rflags;
    CC_SRC = rflags & (CC_O | CC_S | CC_Z | CC_A | CC_P | CC_C);
    CC_OP = CC_OP_EFLAGS;
    env->df = rflags & DF_MASK ? -1 : 1;
}

static void get_gprs(CPUX86State *env, const struct xmmu_gprs *gprs)
{
    for (int i = 0; i < CPU_NB_REGS; i++) {
        env->regs[i] = gprs->gpr[i];
    }
    env->eip = gprs->rip;
    get_flags(env, gprs->rflags);
}

static void put_gprs(struct xmmu_gprs *gprs, const CPUX86State *env)
{
    for (int i = 0; i < CPU_NB_REGS; i++) {
        gprs->gpr[i] = env->regs[i];
    }
    gprs->rip = env->eip;
    gprs->rflags = env->eflags | 2;
}

/* Descriptor bits 40..47 and 52..55: of its upper half, 8..15 and 20..23. */
static uint16_t attributes_of(uint32_t flags)
{
    uint16_t attributes = ((flags >> 8) & 0xff) | ((flags >> 12) & 0xf00);

    return flags & DESC_P_MASK ? attributes : attributes | XMMU_SEGMENT_UNUSABLE;
}

static uint32_t flags_of(uint16_t attributes)
{
    uint32_t flags = (attributes & 0xff) << 8 | (attributes & 0xf00) << 12;

    return attributes & XMMU_SEGMENT_UNUSABLE ? flags & ~DESC_P_MASK : flags;
}

static void get_segment(SegmentCache *to, const struct xmmu_segment *from)
{
    to->selector = from->selector;
    to->base = from->base;
    to->limit = from->limit;
    to->flags = flags_of(from->attributes);
}

static void put_segment(struct xmmu_segment *to, const SegmentCache *from)
{
    to->selector = from->selector;
    to->base = from->base;
    to->limit = from->limit;
    to->attributes = attributes_of(from->flags);
}

static void get_segments(CPUX86State *env, const struct xmmu_segments *s)
{
    for (int i = R_ES; i <= R_GS; i++) {
        get_segment(&env->segs[i], &s->seg[i]);
    }
    get_segment(&env->ldt, &s->seg[XMMU_LDT]);
    get_segment(&env->tr, &s->seg[XMMU_TR]);
    env->gdt.base = s->gdt.base;
    env->gdt.limit = s->gdt.limit;
    env->idt.base = s->idt.base;
    env->idt.limit = s->idt.limit;
    /* An unusable SS has the CPL too; x86_update_hflags() takes it from there. */
    env->segs[R_SS].flags &= ~DESC_DPL_MASK;
    env->segs[R_SS].flags |= (s->cpl & 3) << DESC_DPL_SHIFT;
}

static void put_segments(struct xmmu_segments *s, const CPUX86State *env)
{
    for (int i = R_ES; i <= R_GS; i++) {
        put_segment(&s->seg[i], &env->segs[i]);
    }
    put_segment(&s->seg[XMMU_LDT], &env->ldt);
    put_segment(&s->seg[XMMU_TR], &env->tr);
    s->gdt.base = env->gdt.base;
    s->gdt.limit = env->gdt.limit;
    s->idt.base = env->idt.base;
    s->idt.limit = env->idt.limit;
    s->cpl = env->hflags & HF_CPL_MASK;
}

/* ---- Control registers --------------------------------------------------------------- */

/*
 * Under two-dimensional paging the guest loads CR3 by itself: the core's view of it,
 * and what the hardware model remembers of walks, is of an older time.
 */
static void note_guest_cr3(CPUState *cs, const struct xmmu_crs *crs)
{
    CPUX86State *env = cpu_env(cs);
    AccelCPUState *accel = cs->accel;

    env->cr[3] = crs->cr3;
    accel->pending |= XMMU_PENDING_REGS | XMMU_PENDING_FLUSH;
    if (!xmmu_is_pae_paging(env->cr[0], env->cr[4], env->efer)) {
        return;
    }
    if (xmmu_native.device->caps.vendor == XMMU_VENDOR_VMX) {
        memcpy(accel->pdpte, crs->pdpte, sizeof(accel->pdpte));
    } else {
        /* Nested paging has no PDPTE registers: AMD APM vol. 2, 15.25.10. */
        accel->pending |= XMMU_PENDING_PDPTE;
    }
}

static void get_crs(CPUState *cs, const struct xmmu_crs *crs)
{
    cpu_env(cs)->cr[2] = crs->cr2;
    if (xmmu_state.config.tdp) {
        note_guest_cr3(cs, crs);
    }
}

/* Caching is the host's affair. */
#define HW_CR0_IGNORED (CR0_CD_MASK | CR0_NW_MASK)
/* What would make the CPU read our shadow tables in another way. */
#define HW_CR4_SHADOW_OFF (CR4_PCIDE_MASK | CR4_LA57_MASK | CR4_PGE_MASK | \
                           CR4_LAM_SUP_MASK)
/* Without paging all pages are a supervisor's and a user's. */
#define HW_CR4_PAGING (CR4_SMEP_MASK | CR4_SMAP_MASK | CR4_PKE_MASK | CR4_PKS_MASK)

/* The module adds what the format of the root needs: struct xmmu_crs. */
static void put_hardware_crs(struct xmmu_crs *crs)
{
    crs->hw_cr0 = (crs->cr0 & ~(uint64_t)HW_CR0_IGNORED) | CR0_ET_MASK;
    crs->hw_cr4 = crs->cr4;
    crs->hw_efer = crs->efer;
    /*
     * Until paging is on, which takes an exit, LME says nothing; and an SVM by TCG
     * that has it with PAE off loses the host's CR0 at the next exit.
     */
    if (!(crs->efer & MSR_EFER_LMA)) {
        crs->hw_efer &= ~(uint64_t)MSR_EFER_LME;
    }
    if (xmmu_state.config.tdp) {
        return;
    }
    crs->hw_cr0 |= CR0_PE_MASK | CR0_PG_MASK | CR0_WP_MASK;
    crs->hw_cr4 &= ~(uint64_t)HW_CR4_SHADOW_OFF;
    crs->hw_cr4 |= CR4_PAE_MASK;
    if (!(crs->cr0 & CR0_PG_MASK)) {
        crs->hw_cr4 &= ~(uint64_t)HW_CR4_PAGING;
    }
    crs->hw_efer |= MSR_EFER_NXE;
}

static void put_crs(struct xmmu_crs *crs, CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    *crs = (struct xmmu_crs) {
        .cr0 = env->cr[0],
        .cr2 = env->cr[2],
        .cr3 = env->cr[3],
        .cr4 = env->cr[4],
        .efer = env->efer,
        .cr8 = cpu_get_apic_tpr(env_archcpu(env)->apic_state),
        .xcr0 = env->xcr0,
    };
    memcpy(crs->pdpte, cs->accel->pdpte, sizeof(crs->pdpte));
    put_hardware_crs(crs);
}

/* ---- Debug registers, MSRs ------------------------------------------------------------- */

static void put_drs(struct xmmu_drs *drs, const CPUX86State *env)
{
    for (int i = 0; i < 4; i++) {
        drs->dr[i] = env->dr[i];
    }
    drs->dr6 = env->dr[6];
    drs->dr7 = env->dr[7];
}

static void get_msrs(CPUX86State *env, const struct xmmu_msrs *msrs)
{
    env->star = msrs->star;
    env->lstar = msrs->lstar;
    env->cstar = msrs->cstar;
    env->fmask = msrs->sfmask;
    env->kernelgsbase = msrs->kernel_gs_base;
    env->sysenter_cs = msrs->sysenter_cs;
    env->sysenter_esp = msrs->sysenter_esp;
    env->sysenter_eip = msrs->sysenter_eip;
    env->pat = msrs->pat;
    env->tsc_aux = msrs->tsc_aux;
}

static void put_msrs(struct xmmu_msrs *msrs, const CPUX86State *env)
{
    msrs->star = env->star;
    msrs->lstar = env->lstar;
    msrs->cstar = env->cstar;
    msrs->sfmask = env->fmask;
    msrs->kernel_gs_base = env->kernelgsbase;
    msrs->sysenter_cs = env->sysenter_cs;
    msrs->sysenter_esp = env->sysenter_esp;
    msrs->sysenter_eip = env->sysenter_eip;
    msrs->pat = env->pat;
    msrs->tsc_aux = env->tsc_aux;
}

/* ---- Events --------------------------------------------------------------------------------- */

static void get_events(CPUX86State *env, const struct xmmu_events *events)
{
    env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    env->hflags |= events->shadow ? HF_INHIBIT_IRQ_MASK : 0;
    env->hflags2 &= ~HF2_NMI_MASK;
    env->hflags2 |= events->nmi_blocked ? HF2_NMI_MASK : 0;
}

/* .inject is native-events.c's. */
static void put_events(struct xmmu_events *events, const CPUX86State *env)
{
    events->pending = (struct xmmu_event) { 0 };
    events->shadow = !!(env->hflags & HF_INHIBIT_IRQ_MASK);
    events->nmi_blocked = !!(env->hflags2 & HF2_NMI_MASK);
}

/* ---- FPU and vector registers ------------------------------------------------------------------ */

/* Room for everything that QEMU knows; x86_cpu_xsave_all_areas() fills it all. */
#define XSAVE_BUFFER (16 * KiB)
#define XSAVE_LEGACY 512
#define XSAVE_HEADER 64

/* Where the host's CPU has a component (standard format), 0: nowhere. */
static uint32_t host_offset(unsigned component, uint32_t *size)
{
    uint32_t offset, c, d;

    if (!(xmmu_native.device->caps.xcr0 & (1ull << component))) {
        return 0;
    }
    host_cpuid(0xd, component, size, &offset, &c, &d);
    return offset;
}

typedef struct Component {
    uint32_t qemu, host, size;
} Component;

/* Of those that both know; ends with size 0. */
static const Component *components(void)
{
    static Component list[XSAVE_STATE_AREA_COUNT + 1];
    static gsize done;

    if (g_once_init_enter(&done)) {
        unsigned n = 0;

        for (unsigned i = 2; i < XSAVE_STATE_AREA_COUNT; i++) {
            uint32_t size = 0, host = host_offset(i, &size);

            if (host && x86_ext_save_areas[i].offset) {
                list[n++] = (Component) {
                    x86_ext_save_areas[i].offset, host,
                    MIN(size, x86_ext_save_areas[i].size),
                };
            }
        }
        g_once_init_leave(&done, 1);
    }
    return list;
}

/*
 * The image begins with ST(0), QEMU's registers and its functions for images with R0:
 * Intel SDM vol. 1, 8.1.2 and table 10-2.
 */
static void turn_stack(uint8_t *to, const uint8_t *from, unsigned by)
{
    const size_t at = offsetof(X86LegacyXSaveArea, fpregs);

    for (unsigned i = 0; i < 8; i++) {
        memcpy(to + at + i * sizeof(FPReg), from + at + (i + by) % 8 * sizeof(FPReg),
               sizeof(FPReg));
    }
}

/* Where ST(0) is: bits 11 to 13 of the status word. */
static unsigned stack_top(const uint8_t *image)
{
    return lduw_le_p(image + offsetof(X86LegacyXSaveArea, fsw)) >> 11 & 7;
}

/* Every component holds its state: what was never used is saved as it is initially. */
static void get_xsave(CPUX86State *env, const uint8_t *image)
{
    g_autofree uint8_t *buffer = g_malloc0(XSAVE_BUFFER);

    memcpy(buffer, image, XSAVE_LEGACY);
    turn_stack(buffer, image, 8 - stack_top(image));
    for (const Component *c = components(); c->size; c++) {
        memcpy(buffer + c->qemu, image + c->host, c->size);
    }
    stq_le_p(buffer + XSAVE_LEGACY, XSTATE_FP_MASK | XSTATE_SSE_MASK |
             xmmu_native.device->caps.xcr0);
    x86_cpu_xrstor_all_areas(env_archcpu(env), buffer, XSAVE_BUFFER);
    update_fp_status(env);
    update_mxcsr_status(env);
}

static void put_xsave(uint8_t *image, CPUX86State *env)
{
    g_autofree uint8_t *buffer = g_malloc0(XSAVE_BUFFER);
    const XmmuDevice *device = xmmu_native.device;

    x86_cpu_xsave_all_areas(env_archcpu(env), buffer, XSAVE_BUFFER);
    memset(image, 0, device->caps.xsave_size);
    memcpy(image, buffer, XSAVE_LEGACY);
    turn_stack(image, buffer, stack_top(buffer));
    for (const Component *c = components(); c->size; c++) {
        memcpy(image + c->host, buffer + c->qemu, c->size);
    }
    if (device->caps.xcr0) {
        stq_le_p(image + XSAVE_LEGACY, device->caps.xcr0);
    }
}

/* ---- All groups ------------------------------------------------------------------------------------ */

/* @groups are valid in the page that we share with the module. */
static void get_groups(CPUState *cs, uint32_t groups)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);
    const struct xmmu_run *run = n->run;

    if (groups & XMMU_GROUP_GPRS) {
        get_gprs(env, &run->gprs);
    }
    if (groups & XMMU_GROUP_SEGMENTS) {
        get_segments(env, &run->segments);
    }
    if (groups & XMMU_GROUP_CRS) {
        get_crs(cs, &run->crs);
    }
    if (groups & XMMU_GROUP_MSRS) {
        get_msrs(env, &run->msrs);
    }
    if (groups & XMMU_GROUP_EVENTS) {
        get_events(env, &run->events);
    }
    if (groups & XMMU_GROUP_XSAVE) {
        get_xsave(env, xmmu_device_xsave(&n->device));
    }
    n->loaded |= groups;
}

/*
 * A run that ends before the guest does anything: the registers come with it.  A kick
 * that came meanwhile is not lost.
 */
static void fetch(XmmuNativeVcpu *n, uint32_t groups)
{
    int ret;

    n->run->wanted = groups;
    n->run->commit = 0;
    qatomic_set(&n->run->immediate_exit, 1);
    ret = xmmu_device_run(&n->device);
    /* Nothing that happens to it can make it run: the module says EINTR. */
    g_assert(ret == -EINTR);
    qatomic_set(&n->run->immediate_exit, 0);
    smp_mb();
    if (qatomic_read(&n->kicked)) {
        qatomic_set(&n->run->immediate_exit, 1);
    }
}

void xmmu_native_load(CPUState *cs, uint32_t groups)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    uint32_t missing = groups & ~n->loaded;

    if (!missing) {
        return;
    }
    if (missing & ~n->fresh) {
        fetch(n, missing & ~n->fresh);
        n->fresh |= missing;
    }
    get_groups(cs, missing);
    x86_update_hflags(cpu_env(cs));
}

void xmmu_native_take(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    n->fresh = n->run->valid;
    n->loaded = ALWAYS_LOADED;
    get_groups(cs, ALWAYS_WANTED);
}

static void put_controls(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);

    n->run->controls = (struct xmmu_controls) {
        .root = n->root,
        .want = n->want,
        .exceptions = xmmu_state.config.tdp ? 0 : 1 << EXCP0E_PAGE,
        .tsc_offset = n->tsc_offset,
        .tsc_ratio = n->tsc_ratio,
    };
}

/* Only what differs from what the module has. */
static void check_controls(XmmuNativeVcpu *n)
{
    const struct xmmu_controls *c = &n->run->controls;
    uint64_t offset = xmmu_native_tsc_offset(), ratio = xmmu_native_tsc_ratio();

    if (n->root != c->root || n->want != c->want || offset != n->tsc_offset ||
        ratio != n->tsc_ratio) {
        n->tsc_offset = offset;
        n->tsc_ratio = ratio;
        n->changed |= XMMU_GROUP_CONTROLS;
    }
}

void xmmu_native_give(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);
    struct xmmu_run *run = n->run;

    check_controls(n);
    if (n->changed & XMMU_GROUP_GPRS) {
        put_gprs(&run->gprs, env);
    }
    if (n->changed & XMMU_GROUP_SEGMENTS) {
        put_segments(&run->segments, env);
    }
    if (n->changed & XMMU_GROUP_CRS) {
        put_crs(&run->crs, cs);
    }
    if (n->changed & XMMU_GROUP_DRS) {
        put_drs(&run->drs, env);
    }
    if (n->changed & XMMU_GROUP_MSRS) {
        put_msrs(&run->msrs, env);
    }
    if (n->changed & XMMU_GROUP_EVENTS) {
        put_events(&run->events, env);
    }
    if (n->changed & XMMU_GROUP_CONTROLS) {
        put_controls(cs);
    }
    if (n->changed & XMMU_GROUP_XSAVE) {
        put_xsave(xmmu_device_xsave(&n->device), env);
    }
    run->commit = n->changed;
    /* Exits come in series: to take a little more with each costs less than to ask. */
    run->wanted = ALWAYS_WANTED |
                  (n->stepped ? XMMU_NATIVE_STEP_GROUPS : 0) |
                  (n->decoded ? XMMU_NATIVE_CODE_GROUPS : 0) |
                  (xmmu_state.config.tdp ? 0 : XMMU_GROUP_SEGMENTS);
    n->changed = 0;
    n->stepped = false;
    n->decoded = false;
}
