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
 * when it gives memory away (balloon, discard) and clears the entries first.  Only
 * the end of the address space is listened to (vm.c): no pin outlives it.
 *
 * All of it under vm->lock.
 */
#include <linux/capability.h>
#include <linux/mm.h>
#include <linux/nospec.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <asm/io.h>
#include "xmmu.h"

/* Pages that are pinned at a time. */
#define CHUNK		64U

static bool region_ok(const struct xmmu_region *region)
{
	u64 pages = region->pages;

	return region->id < XMMU_MAX_REGIONS && !(region->flags & ~XMMU_REGION_RO) &&
	       PAGE_ALIGNED(region->addr) && pages <= XMMU_MAX_PAGES &&
	       pages <= TASK_SIZE_MAX >> PAGE_SHIFT &&
	       access_ok((void __user *)(unsigned long)region->addr, pages << PAGE_SHIFT);
}

static void region_free(struct xmmu_memory *memory)
{
	vfree(memory->frame);
	kfree(memory);
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
	/* How much it is was user space's choice: no warning when it is too much. */
	memory->frame = __vmalloc(array_size(region->pages, sizeof(*memory->frame)),
				  GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN |
				  __GFP_RETRY_MAYFAIL);
	ret = memory->frame ? 0 : -ENOMEM;
	if (!ret)
		ret = xa_err(xa_store(&vm->regions, region->id, memory,
				      GFP_KERNEL_ACCOUNT));
	if (ret)
		region_free(memory);
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
	region_free(memory);
	return 0;
}

int xmmu_region_set(struct xmmu_vm *vm, const struct xmmu_region *region)
{
	lockdep_assert_held(&vm->lock);
	if (!region_ok(region))
		return -EINVAL;
	return region->pages ? region_new(vm, region) : region_forget(vm, region->id);
}

/* ---- Pins --------------------------------------------------------------- */

/* The count that long-term pins of other drivers are in too (VmPin). */
static int charge(struct xmmu_vm *vm, u32 pages)
{
	u64 limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;

	if (atomic64_add_return(pages, &vm->mm->pinned_vm) <= limit ||
	    capable(CAP_IPC_LOCK))
		return 0;
	atomic64_sub(pages, &vm->mm->pinned_vm);
	return -ENOMEM;
}

static void unpin(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page)
{
	struct page *p = pfn_to_page(memory->frame[page].pfn);

	/*
	 * It was pinned for writing, so user space's own entry has made it dirty, and
	 * what the guest wrote since may be newer than a copy in swap.
	 */
	unpin_user_pages_dirty_lock(&p, 1, !(memory->flags & XMMU_REGION_RO));
	memory->mapped--;
	atomic64_dec(&vm->mm->pinned_vm);
}

/* Pin @count <= CHUNK pages; their entries are not counted yet. */
static int pin(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page, u32 count)
{
	unsigned int flags = FOLL_LONGTERM;
	struct page *pages[CHUNK];
	int ret, got;

	/*
	 * Also for reading, so that the page stays the one that user space sees when
	 * it writes: a private mapping's page is copied now and not later.
	 */
	if (!(memory->flags & XMMU_REGION_RO))
		flags |= FOLL_WRITE;
	ret = charge(vm, count);
	if (ret)
		return ret;
	got = pin_user_pages_fast(memory->addr + (page << PAGE_SHIFT), count, flags, pages);
	if (got != count) {
		if (got > 0)
			unpin_user_pages(pages, got);
		atomic64_sub(count, &vm->mm->pinned_vm);
		return got == -ENOMEM ? got : fatal_signal_pending(current) ? -EINTR : -EFAULT;
	}
	for (u32 i = 0; i < count; i++)
		memory->frame[page + i].pfn = page_to_pfn(pages[i]);
	memory->mapped += count;
	return 0;
}

static void uncount(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page, u64 count)
{
	for (u64 i = page; i < page + count; i++) {
		if (!--memory->frame[i].count)
			unpin(vm, memory, i);
		if (!(i % XMMU_ENTRIES))
			cond_resched();
	}
}

/*
 * Count one more entry for up to @count pages, as far as they are all pinned or all
 * not.  How many they were, or -errno.
 */
static int count_some(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page, u64 count)
{
	struct xmmu_frame *frame = &memory->frame[page];
	bool fresh = !frame->count;
	u32 n = 0;
	int ret;

	while (n < count && n < CHUNK && !frame[n].count == fresh) {
		if (frame[n].count == XMMU_MAX_COUNT)
			return -EOVERFLOW;
		n++;
	}
	if (fresh) {
		ret = pin(vm, memory, page, n);
		if (ret)
			return ret;
	}
	for (u32 i = 0; i < n; i++)
		frame[i].count++;
	return n;
}

/* Are the first @count pages of a leaf of @size where they have to be? */
static bool contiguous(const struct xmmu_frame *frame, u64 from, u64 count, u64 size)
{
	if (frame->pfn & (size - 1))
		return false;
	for (u64 i = from; i < count; i++)
		if (frame[i].pfn != frame->pfn + i)
			return false;
	return true;
}

static int count_up(struct xmmu_vm *vm, struct xmmu_memory *memory, u64 page, u64 count)
{
	u64 done = 0;
	int ret = 0;

	while (done < count && ret >= 0) {
		ret = count_some(vm, memory, page + done, count - done);
		if (ret > 0) {
			u64 from = done;

			done += ret;
			if (!contiguous(&memory->frame[page], from, done, count))
				ret = -EINVAL;
			else if (fatal_signal_pending(current))
				ret = -EINTR;
		}
		cond_resched();
	}
	if (ret < 0)
		uncount(vm, memory, page, done);
	return min(ret, 0);
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
	page = array_index_nospec(page, memory->pages);
	ret = count_up(vm, memory, page, count);
	if (!ret)
		*pa = PFN_PHYS(memory->frame[page].pfn);
	return ret;
}

void xmmu_region_unmap(struct xmmu_vm *vm, u32 id, u64 page, u64 count)
{
	uncount(vm, xa_load(&vm->regions, id), page, count);
}

/* The tables are gone, and with them the last entries. */
void xmmu_regions_free(struct xmmu_vm *vm)
{
	struct xmmu_memory *memory;
	unsigned long id;

	xa_for_each(&vm->regions, id, memory) {
		WARN_ON_ONCE(memory->mapped);
		region_free(memory);
	}
	xa_destroy(&vm->regions);
}
