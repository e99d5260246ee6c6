/*
 * xmmu fuzz: the target fuzz-mmu-module
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The fuzzing engine's entry for system calls to the module's common part.
 */
#include "native_run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_module(data, size);
}
