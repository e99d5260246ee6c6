/*
 * xmmu: asynchronous page faults, the guest's side
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what a guest sees of them, which is KVM's paravirtual interface, so that guests
 * use it unchanged: the CPUID leaves, three MSRs, the shared area, "page not present"
 * as #PF with a token in CR2, "page ready" as an interrupt.  And the artificial halt of
 * a vCPU whose guest cannot be told.  When a page is missing, and what becomes of it,
 * is the core's (accel/xmmu/mmu/async_pf.c).
 *
 * The rules: Linux Documentation/virt/kvm/x86/msr.rst and cpuid.rst.  KVM's two settings
 * are in CPUX86State and migrate with it, whatever the accelerator.
 *
 * On the vCPU's thread, but for apf_arrived().
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "exec/exec-all.h"
#include "hw/i386/apic.h"
#include "hw/i386/apic_internal.h"
#include "hw/i386/apic-msidef.h"
#include "hw/pci/msi.h"
#include "migration/misc.h"
#include "standard-headers/asm-x86/kvm_para.h"
#include "system/runstate.h"
#include "tcg/helper-tcg.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/native.h"

#define OFFERED (CPUID_KVM_ASYNCPF | CPUID_KVM_ASYNCPF_INT)

/* MSR_KVM_ASYNC_PF_EN. */
#define EN_AREA         (~(uint64_t)0x3f)
#define EN_RESERVED     0x30
#define EN_BOTH         (KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT)

/* The shared area: two words of 32 bits. */
#define AREA_FLAGS      0
#define AREA_TOKEN      4
#define AREA_SIZE       64

/* ---- What is offered ----------------------------------------------------------- */

/* The user may have turned a bit off with the CPU, or hidden KVM. */
void xmmu_apf_realize(X86CPU *cpu)
{
    CPUX86State *env = &cpu->env;

    if (xmmu_state.async_pf && cpu->expose_kvm) {
        env->features[FEAT_KVM] |= OFFERED & ~env->user_features[FEAT_KVM];
    }
}

bool xmmu_do_cpuid(CPUX86State *env, uint32_t index, uint32_t regs[4])
{
    uint32_t features = env->features[FEAT_KVM];

    if (!features || (index != KVM_CPUID_SIGNATURE && index != KVM_CPUID_FEATURES)) {
        return false;
    }
    memset(regs, 0, 4 * sizeof(regs[0]));
    if (index == KVM_CPUID_FEATURES) {
        regs[0] = features;
        return true;
    }
    regs[0] = KVM_CPUID_FEATURES;
    memcpy(&regs[1], "KVMKVMKVM\0\0\0", 12);
    return true;
}

static bool has(CPUX86State *env, uint32_t feature)
{
    return env->features[FEAT_KVM] & feature;
}

/* The guest wants events, and by interrupt, which is the only way there is. */
static bool is_enabled(CPUX86State *env)
{
    return (env->async_pf_en_msr & EN_BOTH) == EN_BOTH;
}

static hwaddr area(CPUX86State *env)
{
    return env->async_pf_en_msr & EN_AREA;
}

/* ---- MSRs --------------------------------------------------------------------------- */

static G_NORETURN void refuse(CPUX86State *env, const char *why, uintptr_t ra)
{
    trace_xmmu_refuse(env_cpu(env)->cpu_index, why);
    raise_exception_err_ra(env, EXCP0D_GPF, 0, ra);
}

static bool is_ram(CPUX86State *env, hwaddr address)
{
    hwaddr xlat, length = AREA_SIZE;
    MemoryRegion *mr;

    RCU_READ_LOCK_GUARD();
    mr = address_space_translate(&address_space_memory, address, &xlat, &length, true,
                                 MEMTXATTRS_UNSPECIFIED);
    return memory_region_is_ram(mr) && !mr->readonly && length == AREA_SIZE;
}

static const char *check_enable(CPUX86State *env, uint64_t value)
{
    if (value & EN_RESERVED) {
        return "ASYNC_PF_EN: reserved bit";
    }
    if (value & KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT) {
        return "ASYNC_PF_EN: #VMEXIT is not offered";
    }
    if ((value & KVM_ASYNC_PF_DELIVERY_AS_INT) && !has(env, CPUID_KVM_ASYNCPF_INT)) {
        return "ASYNC_PF_EN: interrupts are not offered";
    }
    if (value && !env_archcpu(env)->apic_state) {
        return "ASYNC_PF_EN: no local APIC";
    }
    if ((value & EN_BOTH) == EN_BOTH && !is_ram(env, value & EN_AREA)) {
        return "ASYNC_PF_EN: no RAM there";
    }
    return NULL;
}

/* Whoever waits from before cannot know which tokens are still good: all are told. */
static void enable(CPUX86State *env, uint64_t value)
{
    XmmuVcpu *vcpu = env_cpu(env)->accel->vcpu;

    env->async_pf_en_msr = value;
    if (!is_enabled(env)) {
        xmmu_apf_clear(vcpu);
        return;
    }
    xmmu_take_over(env_cpu(env));
    xmmu_apf_wake_all(vcpu);
    xmmu_apf_complete(vcpu);
}

/* Which feature an MSR of ours comes with; 0: not ours. */
static uint32_t feature_of(uint32_t msr)
{
    switch (msr) {
    case MSR_KVM_ASYNC_PF_EN:
        return CPUID_KVM_ASYNCPF;
    case MSR_KVM_ASYNC_PF_INT:
    case MSR_KVM_ASYNC_PF_ACK:
        return CPUID_KVM_ASYNCPF_INT;
    default:
        return 0;
    }
}

/* With async-pf=off the MSRs are unknown ones, to which TCG has its own answer. */
static bool is_ours(CPUX86State *env, uint32_t msr, uintptr_t ra)
{
    uint32_t feature = feature_of(msr);

    if (likely(!feature) || !xmmu_state.async_pf) {
        return false;
    }
    if (!has(env, feature)) {
        refuse(env, "MSR of asynchronous page faults: not offered", ra);
    }
    return true;
}

void xmmu_do_apf_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value, uintptr_t ra)
{
    const char *why;

    if (!is_ours(env, msr, ra)) {
        return;
    }
    switch (msr) {
    case MSR_KVM_ASYNC_PF_EN:
        why = check_enable(env, value);
        if (why) {
            refuse(env, why, ra);
        }
        enable(env, value);
        break;
    case MSR_KVM_ASYNC_PF_INT:
        if ((value >> 8) ||
            !env_archcpu(env)->apic_state) {
            refuse(env, "ASYNC_PF_INT: reserved bit, or no local APIC", ra);
        }
        env->async_pf_int_msr = value;
        break;
    default:
        if (value & 1) {
            xmmu_take_over(env_cpu(env));
            xmmu_apf_complete(env_cpu(env)->accel->vcpu);
        }
    }
}

void xmmu_do_rdmsr(CPUX86State *env, uint32_t msr, uint64_t *value, uintptr_t ra)
{
    if (!is_ours(env, msr, ra)) {
        return;
    }
    *value = msr == MSR_KVM_ASYNC_PF_EN ? env->async_pf_en_msr
           : msr == MSR_KVM_ASYNC_PF_INT ? env->async_pf_int_msr : 0;
}

/* ---- A page is missing -------------------------------------------------------------- */

/* Would an interrupt come through now?  Of L2 it may be L1's decision. */
static bool interrupts_allowed(CPUX86State *env)
{
    if (!(env->hflags2 & HF2_GIF_MASK)) {
        return false;
    }
    if (env->hflags2 & HF2_VINTR_MASK) {
        return env->hflags2 & HF2_HIF_MASK;
    }
    return (env->eflags & IF_MASK) && !(env->hflags & HF_INHIBIT_IRQ_MASK);
}

/*
 * L2's #PF handler knows nothing of L1's tokens, nor SMM's of the operating system's;
 * without paging there may be none at all.
 */
static bool may_tell(CPUX86State *env)
{
    bool kernel = (env->hflags & HF_CPL_MASK) == 0;

    return is_enabled(env) && (env->cr[0] & CR0_PG_MASK) &&
           !(env->hflags & (HF_GUEST_MASK | HF_SMM_MASK)) &&
           (!kernel || (env->async_pf_en_msr & KVM_ASYNC_PF_SEND_ALWAYS));
}

static XmmuApfCan apf_can(void *opaque, unsigned index)
{
    CPUX86State *env = cpu_env(current_cpu);

    /* Engine native also asks which pages are missing to wait for them in time. */
    if (!xmmu_state.async_pf || !interrupts_allowed(env)) {
        return XMMU_APF_NOTHING;
    }
    if (current_cpu->accel->native) {
        xmmu_native_load(current_cpu, XMMU_GROUP_SEGMENTS);     /* CPL */
    }
    return may_tell(env) ? XMMU_APF_EVENT : XMMU_APF_HALT;
}

static bool write_area(CPUX86State *env, unsigned offset, uint32_t value)
{
    MemTxResult result;

    address_space_stl_le(&address_space_memory, area(env) + offset, value,
                         MEMTXATTRS_UNSPECIFIED, &result);
    return result == MEMTX_OK;
}

/*
 * The access is given up, and made again when the vCPU goes on.  True: the guest is to
 * be told, by #PF with error code 0; the token is in CR2.  False: the vCPU halts.
 */
bool xmmu_apf_tells(CPUState *cs, const XmmuAsync *async)
{
    CPUX86State *env = cpu_env(cs);

    if (async->event && write_area(env, AREA_FLAGS, KVM_PV_REASON_PAGE_NOT_PRESENT)) {
        trace_xmmu_apf_not_present(cs->cpu_index, async->token);
        env->cr[2] = async->token;
        return true;
    }
    trace_xmmu_apf_halt(cs->cpu_index);
    cs->accel->apf_halted = true;
    cs->halted = 1;
    return false;
}

/* In TCG. */
G_NORETURN void xmmu_apf_leave(CPUState *cs, const XmmuAsync *async, uintptr_t ra)
{
    if (xmmu_apf_tells(cs, async)) {
        raise_exception_err_ra(cpu_env(cs), EXCP0E_PAGE, 0, ra);
    }
    cs->exception_index = EXCP_HLT;
    cpu_loop_exit_restore(cs, ra);
}

/* An interrupt ends our halt as it ends HLT, but no instruction has been completed. */
bool xmmu_cpu_exec_halt(CPUState *cs)
{
    X86CPU *cpu = X86_CPU(cs);

    if (!cs->accel->apf_halted) {
        return xmmu_parent_tcg_ops->cpu_exec_halt(cs);
    }
    if (cs->interrupt_request & CPU_INTERRUPT_POLL) {
        bql_lock();
        apic_poll_irq(cpu->apic_state);
        cpu_reset_interrupt(cs, CPU_INTERRUPT_POLL);
        bql_unlock();
    }
    if (!cpu_has_work(cs)) {
        return false;
    }
    cs->accel->apf_halted = false;
    return true;
}

/* Of a vCPU that is stopped, or by itself.  What it saves is not a halt. */
static void end_halt(CPUState *cs)
{
    if (cs->accel->apf_halted) {
        cs->accel->apf_halted = false;
        cs->halted = 0;
    }
}

/* ---- The page has come ------------------------------------------------------------------ */

static bool apic_is_on(const APICCommonState *apic)
{
    return (apic->apicbase & MSR_IA32_APICBASE_ENABLE) &&
           (apic->spurious_vec & APIC_SV_ENABLE);
}

static bool apf_ready_slot_free(void *opaque, unsigned index)
{
    CPUX86State *env = cpu_env(current_cpu);

    if (!is_enabled(env)) {
        return true;
    }
    return env_archcpu(env)->apic_state &&
           apic_is_on(APIC_COMMON(env_archcpu(env)->apic_state)) &&
           address_space_ldl_le(&address_space_memory, area(env) + AREA_TOKEN,
                                MEMTXATTRS_UNSPECIFIED, NULL) == 0;
}

static void interrupt(CPUX86State *env, uint8_t vector)
{
    APICCommonState *apic = APIC_COMMON(env_archcpu(env)->apic_state);
    uint64_t id = apic->apicbase & MSR_IA32_APICBASE_EXTD ? apic->initial_apic_id
                                                          : apic->id;
    MSIMessage message = {
        .address = APIC_DEFAULT_ADDRESS | (id & 0xff) << MSI_ADDR_DEST_ID_SHIFT |
                   (id & ~(uint64_t)0xff) << 32,
        .data = vector,
    };

    BQL_LOCK_GUARD();
    APIC_COMMON_GET_CLASS(apic)->send_msi(&message);
}

static void apf_ready(void *opaque, unsigned index, uint32_t token)
{
    CPUX86State *env = cpu_env(current_cpu);

    if (is_enabled(env) && write_area(env, AREA_TOKEN, token)) {
        trace_xmmu_apf_ready(current_cpu->cpu_index, token);
        interrupt(env, env->async_pf_int_msr);
    }
}

/* While the VM is stopped nothing of the guest may change; see xmmu_apf_run_state(). */
static void complete(CPUState *cs, run_on_cpu_data data)
{
    AccelCPUState *accel = cs->accel;

    if (!accel || !accel->vcpu || !runstate_is_running()) {
        return;
    }
    xmmu_take_over(cs);
    if (accel->apf_loaded) {
        accel->apf_loaded = false;
        if (is_enabled(cpu_env(cs))) {
            xmmu_apf_wake_all(accel->vcpu);
        }
    }
    if (xmmu_apf_complete(accel->vcpu)) {
        end_halt(cs);
    }
}

static void apf_arrived(void *opaque, unsigned index)
{
    CPUState *cs;

    rcu_register_thread();
    WITH_RCU_READ_LOCK_GUARD() {
        cs = qemu_get_cpu(index);
        if (cs && cs->halt_cond) {
            async_run_on_cpu(cs, complete, RUN_ON_CPU_NULL);
        }
    }
    rcu_unregister_thread();
}

/* ---- The machine ---------------------------------------------------------------------------- */

/* Entries of engine native pin their pages, and older kernels refuse to pin what
 * userfaultfd has to bring: see docs/devel/xmmu-async-pf.rst. */
static bool watches(void)
{
    return xmmu_state.async_pf ? xmmu_pages_may_be_missing()
                               : xmmu_native_enabled() && migration_in_incoming_postcopy();
}

void xmmu_apf_run_state(bool running)
{
    CPUState *cs;

    if (running) {
        xmmu_vm_apf_watch(xmmu_state.vm, watches());
    }
    CPU_FOREACH(cs) {
        if (!running) {
            end_halt(cs);
        } else if (xmmu_state.async_pf || cs->accel->apf_loaded) {
            async_run_on_cpu(cs, complete, RUN_ON_CPU_NULL);
        }
    }
}

static bool apf_resident(void *opaque, hpa_t hpa, uint64_t npages)
{
    return xmmu_is_resident(hpa, npages);
}

static void apf_fetch(void *opaque, hpa_t hpa)
{
    xmmu_fetch_page(hpa);
}

const XmmuApfServices xmmu_apf_services = {
    .resident = apf_resident,
    .fetch = apf_fetch,
    .arrived = apf_arrived,
    .can = apf_can,
    .ready_slot_free = apf_ready_slot_free,
    .ready = apf_ready,
};
