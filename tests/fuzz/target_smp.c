/*
 * xmmu fuzz: the target fuzz-mmu-smp
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The fuzzing engine's entry for two vCPUs whose operations interleave.  The reference
 * allows a stale translation until the flush that forbids it.
 */
#include "fuzz_mmu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_input(data, size, FUZZ_SMP);
}
