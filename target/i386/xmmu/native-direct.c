/*
 * xmmu native engine: instructions done without TCG
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the instructions that exit so often that a turn of TCG for each would be dear:
 * CPUID, HLT, IN, OUT, MOV from and to control registers, INVLPG, and plain moves from
 * and to devices.  Where the CPU does not say what the instruction is, its bytes are
 * read through the hardware model and decoded (decode.h).
 *
 * Whoever has a doubt returns false, before anything has happened; then TCG does it.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "exec/cpu-common.h"
#include "exec/memory.h"
#include "hw/i386/apic.h"
#include "accel/xmmu/engine/decode.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/native.h"

/* ---- The instruction -------------------------------------------------------------- */

/* What else happens at an instruction's end is left to TCG: traps, and the end of the
 * 32-bit address space. */
static bool is_simple(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);

    return xmmu_native_vcpu(cs)->pending.type == XMMU_EVENT_NONE &&
           !(env->eflags & TF_MASK) &&
           !(env->eip <= UINT32_MAX && env->eip > UINT32_MAX - XMMU_INSN_MAX);
}

/*
 * The bytes from RIP on, no further than to the end of the page.  What the hardware model
 * translates for that is not kept, so the vCPU has flushed again.
 */
static unsigned read_code(CPUState *cs, uint8_t code[XMMU_INSN_MAX])
{
    CPUX86State *env = cpu_env(cs);
    bool wide = env->hflags & HF_CS64_MASK;
    XmmuAccess access = {
        .gva = wide ? env->eip : (uint32_t)(env->eip + env->segs[R_CS].base),
        .want = XMMU_PROT_EXEC,
        .user = (env->hflags & HF_CPL_MASK) == 3,
    };
    unsigned count = MIN(XMMU_INSN_MAX, TARGET_PAGE_SIZE -
                                        (access.gva & ~TARGET_PAGE_MASK));
    XmmuHwResult result;

    RCU_READ_LOCK_GUARD();
    xmmu_take_over(cs);
    xmmu_hw_translate(cs->accel->vcpu, &access, 1, &result);
    if (result.outcome == XMMU_HW_OK) {
        memcpy(code, (const void *)(uintptr_t)result.hpa, count);
    }
    if (!xmmu_state.config.tdp) {
        xmmu_vcpu_flushed(cs->accel->vcpu);
    }
    return result.outcome == XMMU_HW_OK ? count : 0;
}

/* 16-bit code is left to TCG. */
static bool decode(CPUState *cs, XmmuInsn *insn)
{
    CPUX86State *env = cpu_env(cs);
    uint8_t code[XMMU_INSN_MAX];
    unsigned count;

    xmmu_native_vcpu(cs)->decoded = true;
    xmmu_native_load(cs, XMMU_NATIVE_CODE_GROUPS);
    if (!(env->hflags & (HF_CS64_MASK | HF_CS32_MASK))) {
        return false;
    }
    count = read_code(cs, code);
    return xmmu_insn_decode(code, count, env->hflags & HF_CS64_MASK, insn);
}

static bool is_privileged(CPUState *cs)
{
    xmmu_native_load(cs, XMMU_GROUP_SEGMENTS);
    return !(cpu_env(cs)->hflags & HF_CPL_MASK);
}

/* The linear address of the memory operand. */
static uint64_t operand_address(CPUX86State *env, const XmmuInsn *insn)
{
    uint64_t offset = xmmu_insn_offset(insn, env->regs, env->eip);

    if (!(env->hflags & HF_CS64_MASK)) {
        return (uint32_t)(env->segs[insn->segment].base + offset);
    }
    return insn->segment >= R_FS ? env->segs[insn->segment].base + offset : offset;
}

static void finish_instruction(CPUState *cs, unsigned length)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);

    env->eip += length;
    env->eflags &= ~RF_MASK;
    n->changed |= XMMU_GROUP_GPRS;
    if (env->hflags & HF_INHIBIT_IRQ_MASK) {
        env->hflags &= ~HF_INHIBIT_IRQ_MASK;
        n->changed |= XMMU_GROUP_EVENTS;
    }
}

static uint64_t bus_read(CPUState *cs, AddressSpace *as, hwaddr addr, unsigned size)
{
    MemTxAttrs attrs = cpu_get_mem_attrs(cpu_env(cs));

    switch (size) {
    case 1:
        return address_space_ldub(as, addr, attrs, NULL);
    case 2:
        return address_space_lduw(as, addr, attrs, NULL);
    case 4:
        return address_space_ldl(as, addr, attrs, NULL);
    default:
        return address_space_ldq(as, addr, attrs, NULL);
    }
}

static void bus_write(CPUState *cs, AddressSpace *as, hwaddr addr, unsigned size,
                      uint64_t value)
{
    MemTxAttrs attrs = cpu_get_mem_attrs(cpu_env(cs));

    switch (size) {
    case 1:
        address_space_stb(as, addr, value, attrs, NULL);
        break;
    case 2:
        address_space_stw(as, addr, value, attrs, NULL);
        break;
    case 4:
        address_space_stl(as, addr, value, attrs, NULL);
        break;
    default:
        address_space_stq(as, addr, value, attrs, NULL);
        break;
    }
}

/* ---- CPUID, HLT ---------------------------------------------------------------------- */

/* How long it is; 0: not known.  Where the CPU does not say that, the length that came
 * with the exit is that without prefixes. */
static unsigned length_of(CPUState *cs, XmmuInsnKind kind)
{
    XmmuInsn insn;

    if (!is_simple(cs)) {
        return 0;
    }
    if (xmmu_native_has(XMMU_FEATURE_NEXT_RIP)) {
        return xmmu_native_vcpu(cs)->exit.length;
    }
    return decode(cs, &insn) && insn.kind == kind ? insn.length : 0;
}

bool xmmu_native_cpuid(CPUState *cs)
{
    CPUX86State *env = cpu_env(cs);
    unsigned length = length_of(cs, XMMU_INSN_CPUID);
    uint32_t a, b, c, d;

    if (!length) {
        return false;
    }
    cpu_x86_cpuid(env, env->regs[R_EAX], env->regs[R_ECX], &a, &b, &c, &d);
    env->regs[R_EAX] = a;
    env->regs[R_EBX] = b;
    env->regs[R_ECX] = c;
    env->regs[R_EDX] = d;
    finish_instruction(cs, length);
    return true;
}

bool xmmu_native_hlt(CPUState *cs)
{
    unsigned length = length_of(cs, XMMU_INSN_HLT);

    if (!length) {
        return false;
    }
    finish_instruction(cs, length);
    cs->halted = 1;
    return true;
}

/* ---- Ports ---------------------------------------------------------------------------- */

/* The hardware has checked IOPL and the TSS's bitmap. */
bool xmmu_native_io(CPUState *cs)
{
    XmmuNativeVcpu *n = xmmu_native_vcpu(cs);
    CPUX86State *env = cpu_env(cs);
    uint16_t port = n->exit.io.port;
    unsigned size = n->exit.io.size;
    uint64_t value;

    if (n->exit.io.string || !n->exit.length || !is_simple(cs) ||
        port + size > 0x10000) {
        return false;
    }
    /* First, so that a device that looks at the vCPU (a reset, savevm) sees it behind
     * the instruction. */
    finish_instruction(cs, n->exit.length);
    if (n->exit.io.in) {
        value = bus_read(cs, &address_space_io, port, size);
        /* 32 bits clear what is above. */
        env->regs[R_EAX] = size < 4 ? deposit64(env->regs[R_EAX], 0, 8 * size, value)
                                    : value;
    } else {
        bus_write(cs, &address_space_io, port, size, env->regs[R_EAX]);
    }
    return true;
}

/* ---- Control registers, INVLPG --------------------------------------------------------- */

/* What the CPU said of the instruction, or what its bytes say. */
static bool get_cr_access(CPUState *cs, XmmuInsn *insn)
{
    const struct xmmu_exit *exit = &xmmu_native_vcpu(cs)->exit;

    if (!exit->reg.decoded || !exit->length) {
        return decode(cs, insn) && (insn->kind == XMMU_INSN_READ_CR ||
                                    insn->kind == XMMU_INSN_WRITE_CR);
    }
    *insn = (XmmuInsn) {
        .kind = exit->reg.write ? XMMU_INSN_WRITE_CR : XMMU_INSN_READ_CR,
        .length = exit->length,
        .reg = exit->reg.gpr,
        .cr = exit->reg.number,
    };
    return true;
}

static void read_cr(CPUState *cs, const XmmuInsn *insn)
{
    CPUX86State *env = cpu_env(cs);
    uint64_t value;

    xmmu_native_load(cs, XMMU_GROUP_CRS);
    value = env->cr[insn->cr];
    env->regs[insn->reg] = env->hflags & HF_CS64_MASK ? value : (uint32_t)value;
}

static bool write_cr3(CPUState *cs, const XmmuInsn *insn)
{
    CPUX86State *env = cpu_env(cs);

    xmmu_native_change(cs, XMMU_GROUP_CRS);
    return xmmu_load_cr3_directly(env, env->regs[insn->reg]);
}

bool xmmu_native_cr(CPUState *cs)
{
    XmmuInsn insn;

    if (!is_simple(cs) || !is_privileged(cs) || !get_cr_access(cs, &insn)) {
        return false;
    }
    if (insn.kind == XMMU_INSN_READ_CR) {
        if (insn.cr == 1 || insn.cr > 4) {
            return false;
        }
        read_cr(cs, &insn);
    } else if (insn.cr != 3 || !write_cr3(cs, &insn)) {
        return false;
    }
    finish_instruction(cs, insn.length);
    return true;
}

bool xmmu_native_invlpg(CPUState *cs)
{
    const struct xmmu_exit *exit = &xmmu_native_vcpu(cs)->exit;
    CPUX86State *env = cpu_env(cs);
    uint64_t address = exit->reg.value;
    unsigned length = exit->length;
    XmmuInsn insn;

    if (!is_simple(cs) || !is_privileged(cs)) {
        return false;
    }
    if (!exit->reg.decoded || !length) {
        if (!decode(cs, &insn) || insn.kind != XMMU_INSN_INVLPG) {
            return false;
        }
        address = operand_address(env, &insn);
        length = insn.length;
    }
    xmmu_do_invlpg(env, address);
    finish_instruction(cs, length);
    return true;
}

/* ---- Devices -------------------------------------------------------------------------------- */

/* Devices of memory: what the vCPU sees, SMRAM too. */
static AddressSpace *memory_of(CPUState *cs)
{
    return cpu_addressspace(cs, cpu_get_mem_attrs(cpu_env(cs)));
}

/* Is that the access which stopped the hardware?  Its linear address is known only with
 * tdp=off; else there is at least its place in the page. */
static bool is_access(CPUX86State *env, const XmmuInsn *insn, const XmmuFault *fault)
{
    uint64_t linear = operand_address(env, insn);
    XmmuInsnKind kind = fault->access.want == XMMU_PROT_WRITE ? XMMU_INSN_STORE
                                                              : XMMU_INSN_LOAD;

    if (fault->access.want == XMMU_PROT_EXEC || insn->kind != kind ||
        (fault->gpa & ~TARGET_PAGE_MASK) + insn->size > TARGET_PAGE_SIZE) {
        return false;
    }
    return xmmu_state.config.tdp ? !((linear ^ fault->gpa) & ~TARGET_PAGE_MASK)
                                 : linear == fault->access.gva;
}

static void load_from_device(CPUState *cs, const XmmuInsn *insn, hwaddr addr)
{
    CPUX86State *env = cpu_env(cs);
    uint64_t value;

    finish_instruction(cs, insn->length);
    value = bus_read(cs, memory_of(cs), addr, insn->size);
    env->regs[insn->reg] = xmmu_insn_loaded(insn, env->regs[insn->reg], value);
}

/* A write to the APIC may change the TPR, which is CR8. */
static void store_to_device(CPUState *cs, const XmmuInsn *insn, hwaddr addr)
{
    CPUX86State *env = cpu_env(cs);
    DeviceState *apic = env_archcpu(env)->apic_state;
    uint64_t value = xmmu_insn_stored(insn, env->regs);
    uint8_t tpr = cpu_get_apic_tpr(apic);

    finish_instruction(cs, insn->length);
    bus_write(cs, memory_of(cs), addr, insn->size, value);
    if (cpu_get_apic_tpr(apic) != tpr) {
        xmmu_native_change(cs, XMMU_GROUP_CRS);
    }
}

/* No translated code makes the access; who asks which one it was (the APIC) looks there. */
static void forget_translated_code(CPUState *cs)
{
    cs->mem_io_pc = 0;
}

bool xmmu_native_mmio(CPUState *cs, const XmmuFault *fault)
{
    CPUX86State *env = cpu_env(cs);
    XmmuInsn insn;

    /* Data breakpoints are TCG's, too. */
    if (fault->table || !is_simple(cs) || (env->dr[7] & DR7_GLOBAL_BP_MASK) ||
        (env->dr[7] & DR7_LOCAL_BP_MASK) || !decode(cs, &insn) ||
        !is_access(env, &insn, fault)) {
        return false;
    }
    forget_translated_code(cs);
    if (insn.kind == XMMU_INSN_STORE) {
        store_to_device(cs, &insn, fault->gpa);
    } else {
        load_from_device(cs, &insn, fault->gpa);
    }
    return true;
}
