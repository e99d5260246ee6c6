/*
 * xmmu: the CPU features that guests are offered
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the list of CPUID bits that -accel xmmu offers beyond TCG's, and what of all
 * these remains when the guest runs in hardware.  Called by a hook where QEMU asks the
 * accelerator what it supports; -cpu max and +FEATURE get the bits from there.  A bit
 * may be here only when everything behind it works.
 *
 * In engine native a guest is offered what both the host's CPU and TCG have: any
 * instruction may have to be executed by either, and a guest may be migrated between
 * the engines.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "target/i386/cpu-internal.h"
#include "target/i386/tcg/tcg-cpu.h"
#include "accel/xmmu/engine/native.h"
#include "target/i386/xmmu/hooks.h"
#include "target/i386/xmmu/xmmu-cpu.h"

typedef struct FeatureBits {
    FeatureWord word;
    uint64_t bits;
} FeatureBits;

static uint64_t find_bits(const FeatureBits *list, size_t count, FeatureWord word)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i++) {
        bits |= list[i].word == word ? list[i].bits : 0;
    }
    return bits;
}
#define FIND_BITS(list, word) find_bits(list, ARRAY_SIZE(list), word)

static const FeatureBits beyond_tcg[] = {
    { FEAT_1_ECX, CPUID_EXT_PCID },
    { FEAT_7_0_EBX, CPUID_7_0_EBX_INVPCID },
    { FEAT_7_1_EAX, CPUID_7_1_EAX_LAM },
};

/* ---- In hardware ------------------------------------------------------------------ */

/* What the host's CPU need not have: devices of QEMU's, MSRs that always exit, and
 * names for groups of CPUs. */
static const FeatureBits emulated[] = {
    { FEAT_1_EDX, CPUID_APIC | CPUID_MTRR | CPUID_MCE | CPUID_MCA | CPUID_ACPI |
                  CPUID_SS | CPUID_HT },
    { FEAT_1_ECX, CPUID_EXT_HYPERVISOR | CPUID_EXT_X2APIC | CPUID_EXT_MONITOR },
    { FEAT_8000_0001_EDX, CPUID_EXT2_AMD_ALIASES },
    { FEAT_8000_0001_ECX, CPUID_EXT3_CMP_LEG },
    { FEAT_6_EAX, CPUID_6_EAX_ARAT },
};

/* Guests of the guest, and registers that the module does not exchange. */
static const FeatureBits never[] = {
    { FEAT_1_ECX, CPUID_EXT_VMX },
    { FEAT_8000_0001_ECX, CPUID_EXT3_SVM },
    { FEAT_SVM, UINT64_MAX },
    { FEAT_7_0_EBX, CPUID_7_0_EBX_MPX },
    { FEAT_7_0_ECX, CPUID_7_0_ECX_PKS },
};

/* Shadow tables are not read with the guest's CR3. */
static const FeatureBits needs_tdp[] = {
    { FEAT_7_1_EAX, CPUID_7_1_EAX_LAM },
};

static uint64_t host_bits(FeatureWord word)
{
    const FeatureWordInfo *info = &feature_word_info[word];
    uint32_t highest, reg[4], unused;

    host_cpuid(info->cpuid.eax & 0x80000000, 0, &highest, &unused, &unused, &unused);
    if (info->cpuid.eax > highest) {
        return 0;
    }
    /* In QEMU's order of registers: EAX, ECX, EDX, EBX. */
    host_cpuid(info->cpuid.eax, info->cpuid.ecx, &reg[R_EAX], &reg[R_EBX],
               &reg[R_ECX], &reg[R_EDX]);
    return reg[info->cpuid.reg];
}

/* PKRU has to be where TCG's XSAVE, too, looks for it. */
static bool pkru_is_in_place(void)
{
    uint32_t size, offset, c, d;

    if (!(xmmu_native.device->caps.xcr0 & XSTATE_PKRU_MASK)) {
        return false;
    }
    host_cpuid(0xd, XSTATE_PKRU_BIT, &size, &offset, &c, &d);
    return offset == offsetof(X86XSaveArea, pkru_state);
}

/* What the module, and a kernel below it, do not let a guest use. */
static uint64_t withheld(FeatureWord word)
{
    const struct xmmu_caps *caps = &xmmu_native.device->caps;

    switch (word) {
    case FEAT_1_ECX:
        return caps->xcr0 ? 0 : CPUID_EXT_XSAVE | CPUID_EXT_AVX | CPUID_EXT_F16C |
                                CPUID_EXT_FMA;
    case FEAT_7_0_EBX:
        return caps->xcr0 ? 0 : CPUID_7_0_EBX_AVX2;
    case FEAT_7_0_ECX:
        return (pkru_is_in_place() ? 0 : CPUID_7_0_ECX_PKU) |
               (caps->max_level == 5 ? 0 : CPUID_7_0_ECX_LA57);
    case FEAT_XSAVE_XCR0_LO:
        return ~(uint64_t)(uint32_t)caps->xcr0;
    default:
        return 0;
    }
}

static uint64_t in_hardware(FeatureWord word, uint64_t bits)
{
    if (feature_word_info[word].type == CPUID_FEATURE_WORD) {
        bits &= host_bits(word) | FIND_BITS(emulated, word);
    }
    bits &= ~FIND_BITS(never, word) & ~withheld(word);
    return xmmu_state.config.tdp ? bits : bits & ~FIND_BITS(needs_tdp, word);
}

uint64_t xmmu_do_offer_features(FeatureWord word, uint64_t tcg)
{
    uint64_t bits = tcg | FIND_BITS(beyond_tcg, word);

    return xmmu_native_enabled() ? in_hardware(word, bits) : bits;
}

/* A CPU model that has SVM shall not warn of what the user has not asked for. */
void xmmu_native_cpu_defaults(X86CPU *cpu)
{
    static PropValue defaults[] = {
        { "svm", "off" },
        { NULL, NULL },
    };

    if (xmmu_native_enabled() && X86_CPU_GET_CLASS(cpu)->model) {
        x86_cpu_apply_props(cpu, defaults);
    }
}
