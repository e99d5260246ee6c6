/*
 * xmmu: CPU features that TCG lacks and xmmu has
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the list of CPUID bits that -accel xmmu offers beyond TCG's.  Called by a
 * hook where QEMU asks the accelerator what it supports; -cpu max and +FEATURE
 * get the bits from there.  A bit may be here only when everything behind it works.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "target/i386/xmmu/hooks.h"

typedef struct OfferedFeature {
    FeatureWord word;
    uint64_t bits;
} OfferedFeature;

static const OfferedFeature offered[] = {
    { FEAT_1_ECX, CPUID_EXT_PCID },
    { FEAT_7_0_EBX, CPUID_7_0_EBX_INVPCID },
    { FEAT_7_1_EAX, CPUID_7_1_EAX_LAM },
};

uint64_t xmmu_do_more_features(FeatureWord word)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < ARRAY_SIZE(offered); i++) {
        bits |= offered[i].word == word ? offered[i].bits : 0;
    }
    return bits;
}
