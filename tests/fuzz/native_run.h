/*
 * xmmu fuzz: the native engine's mirror
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For the targets and the run from a generator.
 */
#ifndef XMMU_FUZZ_NATIVE_RUN_H
#define XMMU_FUZZ_NATIVE_RUN_H

#include <stddef.h>
#include <stdint.h>

/* One run: the bytes say what the VM is like, and what happens.  0. */
int fuzz_native(const uint8_t *data, size_t size);
/* One run of system calls without the core: hostile ones too.  0. */
int fuzz_module(const uint8_t *data, size_t size);

#endif /* XMMU_FUZZ_NATIVE_RUN_H */
