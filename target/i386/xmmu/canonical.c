/*
 * xmmu: linear addresses that registers are loaded with
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the rule that an address put into a segment base, a descriptor table
 * register or an entry point must be canonical, and #GP where it is not.  TCG
 * stores what it is given.  Called by hooks in TCG's instructions.
 *
 * Such addresses are judged by the width that the CPU model has, not by the
 * paging mode: with LA57, 57 bits even while 4-level paging is in use (Intel SDM
 * vol. 1, 3.3.7.1), and linear-address masking changes nothing.  The mode counts
 * when an address is used; that is the hardware model's (engine/linear.h).
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "tcg/helper-tcg.h"
#include "accel/xmmu/trace.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/xmmu-cpu.h"

bool xmmu_is_canonical(CPUX86State *env, uint64_t address)
{
    bool la57 = env->features[FEAT_7_0_ECX] & CPUID_7_0_ECX_LA57;
    int64_t high = (int64_t)address >> (la57 ? 56 : 47);

    return high == 0 || high == -1;
}

static void check(CPUX86State *env, uint64_t address, int error_code,
                  uintptr_t ra)
{
    if (!xmmu_is_canonical(env, address)) {
        trace_xmmu_refuse(env_cpu(env)->cpu_index, "address not canonical");
        raise_exception_err_ra(env, EXCP0D_GPF, error_code, ra);
    }
}

/* LGDT and LIDT in 64-bit code, WRFSBASE, WRGSBASE. */
void helper_xmmu_check_canonical(CPUX86State *env, target_ulong address)
{
    check(env, address, 0, GETPC());
}

/* The upper half of a 16-byte system descriptor is @e3. */
void xmmu_do_check_descriptor(CPUX86State *env, int selector, uint32_t e1,
                              uint32_t e2, uint32_t e3, uintptr_t ra)
{
    uint32_t low = (e1 >> 16) | (e2 & 0xff) << 16 | (e2 & 0xff000000);

    check(env, (uint64_t)e3 << 32 | low, selector & 0xfffc, ra);
}

/*
 * AMD's processors use SYSENTER in legacy mode only, where the upper halves of
 * its registers do not matter (AMD APM vol. 2, 6.1.2).
 */
static bool holds_address(CPUX86State *env, uint32_t msr)
{
    switch (msr) {
    case MSR_FSBASE:
    case MSR_GSBASE:
    case MSR_KERNELGSBASE:
    case MSR_LSTAR:
    case MSR_CSTAR:
        return env->features[FEAT_8000_0001_EDX] & CPUID_EXT2_LM;
    case MSR_IA32_SYSENTER_ESP:
    case MSR_IA32_SYSENTER_EIP:
        return !IS_AMD_CPU(env);
    default:
        return false;
    }
}

void xmmu_do_check_wrmsr(CPUX86State *env, uint32_t msr, uint64_t value,
                         uintptr_t ra)
{
    if (holds_address(env, msr)) {
        check(env, value, 0, ra);
    }
}
