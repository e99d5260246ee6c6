// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: tables
 *
 * Owns the table pages of a VM and every change of an entry.  User space says what
 * an entry shall mean; what the hardware reads is made here, from pages that are
 * pinned for this VM and from tables that belong to it.
 *
 * What cannot happen, and why:
 *   - a table that the guest can write: table pages are the kernel's own, and an
 *     entry maps only pages of user space;
 *   - a cycle: an entry points to a table one level below its own;
 *   - use after free: what an entry meant before is let go after all vCPUs have
 *     flushed (struct batch), a table only when nothing points to it.
 *
 * The hardware sets A and D at any time; every change of an entry is an exchange,
 * and what it found is told to user space.
 */
#include <linux/gfp.h>
#include <linux/nospec.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <asm/io.h>
#include "xmmu.h"

/* What a batch took out of use, to be let go after the flush. */
struct batch {
	struct xmmu_vm *vm;
	bool flush;
	u32 count;
	struct gone {
		struct xmmu_table *table;	/* freed; else a leaf: */
		u32 region;
		u64 page, pages;
	} *gone;
};

/* ---- Life of a table ---------------------------------------------------- */

static void table_destroy(struct xmmu_table *table)
{
	free_page((unsigned long)table->spt);
	kfree(table->meaning);
	kfree(table);
}

static struct xmmu_table *table_alloc(u32 id, u8 format, u8 level)
{
	struct xmmu_table *table = kzalloc(sizeof(*table), GFP_KERNEL_ACCOUNT);
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO;

	if (!table)
		return NULL;
	/* CR3 has 32 bits in PAE paging. */
	if (format == XMMU_FORMAT_PAE)
		gfp |= GFP_DMA32;
	table->id = id;
	table->format = format;
	table->level = level;
	table->spt = (u64 *)__get_free_page(gfp);
	table->meaning = kcalloc(XMMU_ENTRIES, sizeof(*table->meaning),
				 GFP_KERNEL_ACCOUNT);
	if (!table->spt || !table->meaning) {
		table_destroy(table);
		return NULL;
	}
	return table;
}

static int op_new(struct batch *batch, struct xmmu_entry *entry)
{
	struct xmmu_vm *vm = batch->vm;
	struct xmmu_table *table;
	int ret;

	if (entry->table >= XMMU_MAX_TABLES || entry->access >= XMMU_FORMAT_COUNT ||
	    entry->index > 5 || entry->target || entry->page ||
	    !xmmu_format_entries(entry->access, entry->index))
		return -EINVAL;
	if (xa_load(&vm->tables, entry->table))
		return -EEXIST;
	table = table_alloc(entry->table, entry->access, entry->index);
	if (!table)
		return -ENOMEM;
	ret = xa_err(xa_store(&vm->tables, table->id, table, GFP_KERNEL_ACCOUNT));
	if (ret)
		table_destroy(table);
	return ret;
}

static int op_free(struct batch *batch, struct xmmu_entry *entry)
{
	struct xmmu_table *table = xa_load(&batch->vm->tables, entry->table);

	if (!table)
		return -ENOENT;
	if (table->present || table->users)
		return -EBUSY;
	xa_erase(&batch->vm->tables, table->id);
	/* A link to it may have been cleared in this batch and still be cached. */
	batch->gone[batch->count++] = (struct gone) { .table = table };
	return 0;
}

/* ---- Entries ------------------------------------------------------------ */

/* The entry was cleared or replaced: remember what it meant. */
static void let_go(struct batch *batch, const struct xmmu_table *table,
		   const struct xmmu_meaning *old)
{
	batch->flush = true;
	if (old->kind == XMMU_MEANS_TABLE) {
		struct xmmu_table *child = xa_load(&batch->vm->tables, old->target);

		child->users--;
		return;
	}
	batch->gone[batch->count++] = (struct gone) {
		.region = old->target,
		.page = old->page,
		.pages = xmmu_level_pages(table->level),
	};
}

/* The one writer: make the entry say @value, which means @new. */
static void replace(struct batch *batch, struct xmmu_table *table,
		    struct xmmu_entry *entry, struct xmmu_meaning new, u64 value)
{
	struct xmmu_meaning *meaning = &table->meaning[entry->index];
	struct xmmu_meaning old = *meaning;
	u64 was = xchg(&table->spt[entry->index], value);

	*meaning = new;
	table->present += !!new.kind - !!old.kind;
	entry->was = 0;
	if (old.kind) {
		entry->was = xmmu_decode_access(table->format, was);
		let_go(batch, table, &old);
	}
}

static int op_leaf(struct batch *batch, struct xmmu_table *table,
		   struct xmmu_entry *entry)
{
	struct xmmu_meaning new = { .kind = XMMU_MEANS_MEMORY };
	u64 pages = xmmu_level_pages(table->level), value, pa;
	int ret;

	if (!xmmu_encode_leaf(table->format, table->level, entry->access, 0, &value))
		return -EINVAL;
	ret = xmmu_region_map(batch->vm, entry->target, entry->page, pages,
			      entry->access & XMMU_ACCESS_WRITE, &pa);
	if (ret)
		return ret;
	/* They are in range now, so that they fit. */
	new.target = entry->target;
	new.page = entry->page;
	xmmu_encode_leaf(table->format, table->level, entry->access, pa, &value);
	replace(batch, table, entry, new, value);
	return 0;
}

static int op_link(struct batch *batch, struct xmmu_table *table,
		   struct xmmu_entry *entry)
{
	struct xmmu_table *child = xa_load(&batch->vm->tables, entry->target);
	struct xmmu_meaning new = { .kind = XMMU_MEANS_TABLE };
	u8 format = table->format == XMMU_FORMAT_PAE ? XMMU_FORMAT_LONG : table->format;

	if (!child)
		return -ENOENT;
	if (child->format != format || child->level != table->level - 1 ||
	    entry->access || entry->page)
		return -EINVAL;
	new.target = child->id;
	child->users++;
	replace(batch, table, entry, new,
		xmmu_encode_link(table->format, __pa(child->spt)));
	return 0;
}

static int op_clear(struct batch *batch, struct xmmu_table *table,
		    struct xmmu_entry *entry)
{
	replace(batch, table, entry, (struct xmmu_meaning) { }, 0);
	return 0;
}

/* Less than before, for somebody; another protection key counts as less. */
static bool loses(u32 was, u32 is)
{
	u32 keys = 15U << XMMU_ACCESS_PKEY_SHIFT;

	return (was & ~is & ~keys & ~XMMU_ENTRY_AD) || ((was ^ is) & keys);
}

static int op_access(struct batch *batch, struct xmmu_table *table,
		     struct xmmu_entry *entry)
{
	const struct xmmu_meaning *meaning = &table->meaning[entry->index];
	u64 *spte = &table->spt[entry->index], old = READ_ONCE(*spte), rights, pa;
	u64 ad = xmmu_encode_ad(table->format, XMMU_ENTRY_AD);
	const struct xmmu_memory *memory;

	if (meaning->kind != XMMU_MEANS_MEMORY)
		return -ENOENT;
	memory = xa_load(&batch->vm->regions, meaning->target);
	pa = PFN_PHYS(memory->frame[meaning->page].pfn);
	if (((entry->access & XMMU_ACCESS_WRITE) && (memory->flags & XMMU_REGION_RO)) ||
	    !xmmu_encode_leaf(table->format, table->level, entry->access & ~XMMU_ENTRY_AD,
			      pa, &rights))
		return -EINVAL;
	while (!try_cmpxchg64(spte, &old, rights | (old & ad)))
		;
	entry->was = xmmu_decode_access(table->format, old);
	batch->flush |= loses(entry->was, entry->access);
	return 0;
}

static int op_harvest(struct batch *batch, struct xmmu_table *table,
		      struct xmmu_entry *entry)
{
	u64 *spte = &table->spt[entry->index], old = READ_ONCE(*spte);
	u64 bits = xmmu_encode_ad(table->format, entry->access);

	if (table->meaning[entry->index].kind != XMMU_MEANS_MEMORY)
		return -ENOENT;
	if (entry->access & ~XMMU_ENTRY_AD)
		return -EINVAL;
	while (!try_cmpxchg64(spte, &old, old & ~bits))
		;
	entry->was = xmmu_decode_access(table->format, old);
	batch->flush |= old & bits;
	return 0;
}

static int (*const entry_op[])(struct batch *, struct xmmu_table *,
			       struct xmmu_entry *) = {
	[XMMU_OP_LEAF] = op_leaf,
	[XMMU_OP_LINK] = op_link,
	[XMMU_OP_CLEAR] = op_clear,
	[XMMU_OP_ACCESS] = op_access,
	[XMMU_OP_HARVEST] = op_harvest,
};

static int one(struct batch *batch, struct xmmu_entry *entry)
{
	struct xmmu_table *table;
	u32 entries;
	u16 op;

	if (entry->zero || entry->op >= ARRAY_SIZE(entry_op))
		return -EINVAL;
	if (entry->op == XMMU_OP_NEW)
		return op_new(batch, entry);
	if (entry->op == XMMU_OP_FREE)
		return op_free(batch, entry);
	table = xa_load(&batch->vm->tables, entry->table);
	if (!table)
		return -ENOENT;
	entries = xmmu_format_entries(table->format, table->level);
	if (entry->index >= entries)
		return -EINVAL;
	entry->index = array_index_nospec(entry->index, entries);
	op = array_index_nospec(entry->op, ARRAY_SIZE(entry_op));
	return entry_op[op](batch, table, entry);
}

static void settle(struct batch *batch)
{
	if (batch->flush)
		xmmu_vm_flush(batch->vm);
	for (u32 i = 0; i < batch->count; i++) {
		struct gone *gone = &batch->gone[i];

		if (gone->table)
			table_destroy(gone->table);
		else
			xmmu_region_unmap(batch->vm, gone->region, gone->page,
					  gone->pages);
	}
}

int xmmu_table_update(struct xmmu_vm *vm, struct xmmu_entry *entries, u32 count,
		      u32 *done)
{
	struct batch batch = { .vm = vm };
	int ret = 0;

	lockdep_assert_held(&vm->lock);
	*done = 0;
	batch.gone = kvmalloc_array(count, sizeof(*batch.gone), GFP_KERNEL_ACCOUNT);
	if (!batch.gone)
		return -ENOMEM;
	while (*done < count) {
		ret = one(&batch, &entries[*done]);
		if (ret)
			break;
		++*done;
		cond_resched();
		if (fatal_signal_pending(current))
			break;
	}
	settle(&batch);
	kvfree(batch.gone);
	return !ret && *done < count ? -EINTR : ret;
}

/* ---- Roots and the end -------------------------------------------------- */

struct xmmu_table *xmmu_table_get_root(struct xmmu_vm *vm, u32 id)
{
	struct xmmu_table *table = xa_load(&vm->tables, id);

	lockdep_assert_held(&vm->lock);
	if (!table || !xmmu_hw->root_ok(table))
		return NULL;
	table->users++;
	return table;
}

void xmmu_table_put_root(struct xmmu_table *table)
{
	table->users--;
}

/* No vCPU can run any more: nothing has these tables loaded. */
void xmmu_tables_free(struct xmmu_vm *vm)
{
	struct xmmu_table *table;
	unsigned long id;

	xa_for_each(&vm->tables, id, table) {
		for (int i = 0; i < XMMU_ENTRIES; i++) {
			const struct xmmu_meaning *meaning = &table->meaning[i];

			if (meaning->kind == XMMU_MEANS_MEMORY)
				xmmu_region_unmap(vm, meaning->target, meaning->page,
						  xmmu_level_pages(table->level));
		}
		table_destroy(table);
		cond_resched();
	}
	xa_destroy(&vm->tables);
}
