/*
 * xmmu: benchmarks of the core: counting allocations
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the program's malloc() and its kin: they count, for each thread, and go on to
 * the C library's own (glibc offers these names for that purpose).  A sanitizer's
 * build has that sanitizer's malloc() and counts nothing.
 */
#include <errno.h>
#include <stdlib.h>

#include "core-bench.h"

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static _Thread_local uint64_t allocations;

uint64_t bench_allocations(void)
{
    return allocations;
}

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    allocations++;
    return __libc_realloc(p, size);
}

int posix_memalign(void **p, size_t alignment, size_t size)
{
    allocations++;
    *p = __libc_memalign(alignment, size);
    return *p ? 0 : ENOMEM;
}

#endif
