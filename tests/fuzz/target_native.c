/*
 * xmmu fuzz: the target fuzz-mmu-native
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The fuzzing engine's entry for the mirror of the core's tables in the module.
 */
#include "native_run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_native(data, size);
}
