/*
 * xmmu fuzz: the target fuzz-mmu-single
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The fuzzing engine's entry for one vCPU: every paging mode, register, write to a
 * table, flush and access, against the reference.
 */
#include "fuzz_mmu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_input(data, size, FUZZ_SINGLE);
}
