/*
 * xmmu tests: what the parts of the fake device ask of each other
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Not for tests.
 */
#ifndef XMMU_FAKE_KERNEL_PARTS_H
#define XMMU_FAKE_KERNEL_PARTS_H

#include <stdbool.h>
#include <stdint.h>

struct file;
struct task_struct;

void fake_kernel_reset(void);
/* Is the page with that number pinned by anybody, and where is it in user space? */
bool fake_is_pinned(unsigned long pfn);
uintptr_t fake_user_page(unsigned long pfn);
/* Does an interrupt wait for the CPU that this thread is? */
bool fake_interrupt_pending(void);
struct file *fake_file(int fd);
bool fake_is_loaded(void);
unsigned fake_open_files(void);
struct task_struct *fake_current(void);

#endif /* XMMU_FAKE_KERNEL_PARTS_H */
