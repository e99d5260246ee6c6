/*
 * xmmu: whether guest memory is in the host's memory
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the answer to "would an access to this page wait?" and the fetching of a page on
 * a helper thread, both for asynchronous page faults.  The kernel knows what is mapped
 * (mincore); what it means that a page is not depends on the memory:
 *
 *   postcopy        not there yet: the page comes from another machine;
 *   anonymous       swapped out, or never used: only the former waits (pagemap);
 *   a file, shared  not in the page cache: to be read, unless it is a hole.
 *
 * docs/devel/xmmu-async-pf.rst says what each costs.
 */
#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include <sys/mman.h>
#ifdef CONFIG_LINUX
#include <sys/uio.h>
#include <sys/vfs.h>
#endif
#include "exec/cpu-common.h"
#include "exec/ramblock.h"
#include "exec/ramlist.h"
#include "migration/misc.h"
#include "accel/xmmu/xmmu-accel.h"

/* Pages that one question may be about: a huge page. */
#define MAX_PAGES 512

#ifdef CONFIG_LINUX

/* Linux Documentation/filesystems/proc.rst: bits of an entry of pagemap. */
#define PAGEMAP_SWAPPED (1ull << 62)

static int pagemap_fd(void)
{
    static int fd = -2;
    int now = qatomic_read(&fd);

    if (now == -2) {
        now = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (qatomic_cmpxchg(&fd, -2, now) != -2) {
            close(now);
            now = qatomic_read(&fd);
        }
    }
    return now;
}

/* Pages of the host from @start on. */
typedef struct PageRun {
    uintptr_t start;
    size_t count;
    unsigned char here[MAX_PAGES];      /* bit 0: mapped or in the page cache */
} PageRun;

/* Where the kernel does not say, nothing is swapped: then the vCPU waits by itself. */
static bool any_is_swapped(const PageRun *run)
{
    uint64_t entries[MAX_PAGES];
    off_t offset = run->start / qemu_real_host_page_size() * sizeof(entries[0]);
    ssize_t size = pread(pagemap_fd(), entries, run->count * sizeof(entries[0]), offset);

    for (ssize_t i = 0; i < size / (ssize_t)sizeof(entries[0]); i++) {
        if (!(run->here[i] & 1) && (entries[i] & PAGEMAP_SWAPPED)) {
            return true;
        }
    }
    return false;
}

/* A hole is filled with zeroes, at once; the kernel says where the next data is. */
static bool any_is_in_file(const PageRun *run, int fd, off_t offset)
{
    off_t page = qemu_real_host_page_size(), data = -1;

    for (size_t i = 0; i < run->count; i++, offset += page) {
        if (run->here[i] & 1) {
            continue;
        }
        if (data < offset) {
            data = lseek(fd, offset, SEEK_DATA);
        }
        if (data < 0) {
            return false;
        }
        if (data < offset + page) {
            return true;
        }
    }
    return false;
}

/* Of the pages that are not here, which may be so for good. */
static bool any_comes_late(const PageRun *run)
{
    ram_addr_t offset;
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();
    block = qemu_ram_block_from_host((void *)run->start, false, &offset);
    if (!block) {
        return false;
    }
    return any_is_swapped(run) ||
           (block->fd >= 0 && any_is_in_file(run, block->fd, block->fd_offset + offset));
}

/* The whole pages of the host that hold the range. */
static void host_range(hpa_t hpa, uint64_t npages, uintptr_t *start, size_t *length)
{
    uintptr_t page = qemu_real_host_page_size();

    *start = ROUND_DOWN((uintptr_t)hpa, page);
    *length = ROUND_UP((uintptr_t)hpa + npages * XMMU_PAGE_SIZE, page) - *start;
}

bool xmmu_is_resident(hpa_t hpa, uint64_t npages)
{
    PageRun run;
    size_t length;

    assert(npages <= MAX_PAGES);
    host_range(hpa, npages, &run.start, &length);
    run.count = length / qemu_real_host_page_size();
    if (mincore((void *)run.start, length, run.here) < 0) {
        return true;
    }
    for (size_t i = 0; i < run.count; i++) {
        if (!(run.here[i] & 1)) {
            return !migration_in_incoming_postcopy() && !any_comes_late(&run);
        }
    }
    return true;
}

/*
 * Without a fault if the memory has gone meanwhile.  Kernels before 5.14 do not have
 * the first; the second reads one byte as a debugger would.
 */
void xmmu_fetch_page(hpa_t hpa)
{
    uintptr_t start;
    size_t length;
    char byte;
    struct iovec to = { &byte, 1 }, from = { (void *)(uintptr_t)hpa, 1 };

    host_range(hpa, 1, &start, &length);
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
    if (madvise((void *)start, length, MADV_POPULATE_READ) < 0 && errno == EINVAL) {
        process_vm_readv(getpid(), &to, 1, &from, 1, 0);
    }
}

static bool swap_exists(void)
{
    g_autofree char *text = NULL;

    /* One line of headings, then one for each. */
    return g_file_get_contents("/proc/swaps", &text, NULL, NULL) &&
           strchr(text, '\n') && strchr(text, '\n')[1];
}

#define TMPFS 0x01021994
#define HUGETLBFS 0x958458f6

/* Backed by a file that is read from a device. */
static bool is_on_device(RAMBlock *block)
{
    struct statfs fs;

    return block->fd >= 0 && fstatfs(block->fd, &fs) == 0 &&
           fs.f_type != TMPFS && fs.f_type != HUGETLBFS;
}

bool xmmu_pages_may_be_missing(void)
{
    RAMBlock *block;

    if (migration_in_incoming_postcopy() || swap_exists()) {
        return true;
    }
    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH(block) {
        if (is_on_device(block)) {
            return true;
        }
    }
    return false;
}

#else

/* Other hosts are not asked. */
bool xmmu_is_resident(hpa_t hpa, uint64_t npages)
{
    return true;
}

void xmmu_fetch_page(hpa_t hpa)
{
}

bool xmmu_pages_may_be_missing(void)
{
    return false;
}

#endif
