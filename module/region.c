// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: guest memory
 *
 * Owns the regions of a VM and the pinning of their pages.  A page is pinned by
 * the first entry that maps it and let go by the last, so that what is pinned is
 * what the guest can reach, and the charge against RLIMIT_MEMLOCK is just that.
 *
 * The pins are long-term ones.  An MMU notifier would let the kernel take a page
 * back while an entry maps it, but then every entry of every table of the VM that
 * maps the page would have to be found here, where no reverse map is kept; and
 * user space would have to learn that its tables have changed.  User space knows
 * when it gives memory away (balloon, discard) and clears the entries first.
 *
 * All of it under vm->lock.
 */
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <asm/io.h>
#include "xmmu.h"

static bool region_ok(const struct xmmu_region *region)
{
	u64 size = region->pages << PAGE_SHIFT;

	return region->id < XMMU_MAX_REGIONS && !(region->flags & ~XMMU_REGION_RO) &&
	       PAGE_ALIGNED(region->addr) && region->pages <= (TASK_SIZE_MAX >> PAGE_SHIFT) &&
	       access_ok((void __user *)(unsigned long)region->addr, size);
}

static int region_new(struct xmmu_vm *vm, const struct xmmu_region *region)
{
	struct xmmu_memory *memory;
	int ret;

	if (xa_load(&vm->regions, region->id))
		return -EEXIST;
	memory = kzalloc(sizeof(*memory), GFP_KERNEL_ACCOUNT);
	if (!memory)
		return -ENOMEM;
	memory->flags = region->flags;
	memory->addr = region->addr;
	memory->pages = region->pages;
	memory->frame = __vmalloc(array_size(region->pages, sizeof(*memory->frame)),
				  GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	ret = memory->frame ? 0 : -ENOMEM;
	if (!ret)
		ret = xa_err(xa_store(&vm->regions, region->id, memory,
				      GFP_KERNEL_ACCOUNT));
	if (ret) {
		vfree(memory->frame);
		kfree(memory);
	}
	return ret;
}

static int region_forget(struct xmmu_vm *vm, u32 id)
{
	struct xmmu_memory *memory = xa_load(&vm->regions, id);

	if (!memory)
		return -ENOENT;
	if (memory->mapped)
		return -EBUSY;
	xa_erase(&vm->regions, id);
	vfree(memory->frame);
	kfree(memory);
	return 0;
}

int xmmu_region_set(struct xmmu_vm *vm, const struct xmmu_region *region)
{
	lockdep_assert_held(&vm->lock);
	if (!region_ok(region))
		return -EINVAL;
	return region->pages ? region_new(vm, region) : region_forget(vm, region->id);
}

/* ---- Pins ----------------------------------------------------------------------- */

static void unpin(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page)
{
	struct xmmu_frame *frame = &memory->frame[page];

	unpin_user_pages_dirty_lock(&frame->page, 1, frame->dirty);
	*frame = (struct xmmu_frame) { };
	memory->mapped--;
	account_locked_vm(vm->mm, 1, false);
}

static int pin(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page)
{
	struct xmmu_frame *frame = &memory->frame[page];
	unsigned int flags = FOLL_LONGTERM;
	int ret;

	/* Also for reading, so that the page stays the one that user space sees when
	 * it writes: a private mapping's page is copied now and not later. */
	if (!(memory->flags & XMMU_REGION_RO))
		flags |= FOLL_WRITE;
	ret = account_locked_vm(vm->mm, 1, true);
	if (ret)
		return ret;
	ret = pin_user_pages_fast(memory->addr + (page << PAGE_SHIFT), 1, flags,
				  &frame->page);
	if (ret != 1) {
		frame->page = NULL;
		account_locked_vm(vm->mm, 1, false);
		return ret < 0 ? ret : -EFAULT;
	}
	memory->mapped++;
	return 0;
}

static void uncount(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page,
		    u64 count, bool dirty)
{
	for (u64 i = page; i < page + count; i++) {
		memory->frame[i].dirty |= dirty;
		if (!--memory->frame[i].count)
			unpin(vm, memory, i);
	}
}

static int count_up(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page, u64 count)
{
	for (u64 i = page; i < page + count; i++) {
		struct xmmu_frame *frame = &memory->frame[i];
		int ret = frame->count ? 0 : pin(vm, memory, i);

		if (!ret && frame->count == U32_MAX)
			ret = -EOVERFLOW;
		if (ret) {
			uncount(vm, memory, page, i - page, false);
			return ret;
		}
		frame->count++;
	}
	return 0;
}

static bool contiguous(const struct xmmu_memory *memory, u64 page, u64 count)
{
	unsigned long first = page_to_pfn(memory->frame[page].page);

	if (first & (count - 1))
		return false;
	for (u64 i = 1; i < count; i++)
		if (page_to_pfn(memory->frame[page + i].page) != first + i)
			return false;
	return true;
}

int xmmu_region_map(struct xmmu_vm *vm, u32 id, u64 page, u64 count, bool write,
		    u64 *pa)
{
	struct xmmu_memory *memory = xa_load(&vm->regions, id);
	int ret;

	lockdep_assert_held(&vm->lock);
	if (!memory)
		return -ENOENT;
	if (page >= memory->pages || count > memory->pages - page ||
	    (write && (memory->flags & XMMU_REGION_RO)))
		return -EINVAL;
	ret = count_up(vm, memory, page, count);
	if (ret)
		return ret;
	if (!contiguous(memory, page, count)) {
		uncount(vm, memory, page, count, false);
		return -EINVAL;
	}
	*pa = page_to_phys(memory->frame[page].page);
	return 0;
}

void xmmu_region_unmap(struct xmmu_vm *vm, u32 id, u64 page, u64 count, bool dirty)
{
	uncount(vm, xa_load(&vm->regions, id), page, count, dirty);
}

/* The tables are gone, and with them the last entries. */
void xmmu_regions_free(struct xmmu_vm *vm)
{
	struct xmmu_memory *memory;
	unsigned long id;

	xa_for_each(&vm->regions, id, memory) {
		WARN_ON_ONCE(memory->mapped);
		vfree(memory->frame);
		kfree(memory);
	}
	xa_destroy(&vm->regions);
}
