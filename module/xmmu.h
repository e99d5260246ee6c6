/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * xmmu: what the files of the module share
 *
 * The objects and who protects them:
 *
 *   struct xmmu_vm      one for each open VM; lives until its last vCPU is closed
 *   struct xmmu_region  guest memory that entries may map; vm->lock
 *   struct xmmu_table   a table page and what its entries mean; vm->lock
 *   struct xmmu_vcpu    vcpu->lock, held over XMMU_RUN
 *
 * Lock order: vcpu->lock, vm->lock.
 */
#ifndef XMMU_H
#define XMMU_H

#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/xarray.h>
#include "include/uapi/linux/xmmu.h"

#define XMMU_MAX_VCPUS		256
#define XMMU_MAX_REGIONS	1024
#define XMMU_MAX_TABLES		(1U << 22)
#define XMMU_MAX_PAGES		(1ULL << 40)	/* of a region */
#define XMMU_MAX_COUNT		((1U << 24) - 1)	/* entries that map a page */
#define XMMU_ENTRIES		512

struct xmmu_vm;
struct xmmu_vcpu;
struct xmmu_table;

/* ---- hardware.c: the two kinds of hardware ------------------------------ */

/* One const instance for each vendor, in svm.c and vmx.c; chosen at load. */
struct xmmu_hw {
	const char *name;

	/* Does this CPU have it, and did the firmware leave it on?  0 or -errno. */
	int (*probe)(void);
	/* Memory for all CPUs; before the first cpu_on and after the last cpu_off. */
	int (*setup)(void);
	void (*teardown)(void);
	/* On the CPU itself, interrupts off. */
	bool (*cpu_busy)(void);		/* somebody else uses it */
	int (*cpu_on)(void);
	void (*cpu_off)(void);
	void (*get_caps)(struct xmmu_caps *caps);
	/* Can a vCPU translate by the tree that begins at @table? */
	bool (*root_ok)(const struct xmmu_table *table);

	int (*vcpu_new)(struct xmmu_vcpu *vcpu);
	void (*vcpu_free)(struct xmmu_vcpu *vcpu);
	/* Take over the groups @which of vcpu->state. */
	void (*commit)(struct xmmu_vcpu *vcpu, u32 which);
	/* Write the groups @which to vcpu->state. */
	void (*fetch)(struct xmmu_vcpu *vcpu, u32 which);
	/* Before enter: preemption is off, interrupts are on. */
	void (*prepare)(struct xmmu_vcpu *vcpu);
	/*
	 * Run the guest once.  Preemption and interrupts are off; on return the
	 * interrupt or NMI that ended the run has not been served yet.
	 */
	void (*enter)(struct xmmu_vcpu *vcpu);
	/*
	 * Say in vcpu->state.exit why the run ended; preemption is on.  False: the
	 * guest can go on.
	 */
	bool (*explain)(struct xmmu_vcpu *vcpu);
};

/* svm_enter.S: run with the guest's registers. */
void xmmu_svm_run(u64 gpr[16], u64 guest_vmcb_pa, u64 host_vmcb_pa);

/* vmx_enter.S: the same, and where the exit comes to. */
int xmmu_vmx_run(u64 gpr[16], bool launched, bool clear_buffers);
void xmmu_vmx_exit(void);

extern const struct xmmu_hw xmmu_svm, xmmu_vmx;
extern const struct xmmu_hw *xmmu_hw;	/* the one of this machine */

/* enum xmmu_feature */
u32 xmmu_hw_features(void);
int xmmu_hardware_init(void);
/* The first user turns virtualisation on, on all CPUs; the last one off. */
int xmmu_hardware_get(void);
void xmmu_hardware_put(void);
/*
 * Stay on this CPU, or go to another one, where virtualisation is on: no preemption
 * until xmmu_cpu_put().  Only a reboot turns it off meanwhile, by an interrupt.
 */
void xmmu_cpu_get(void);
void xmmu_cpu_put(void);
bool xmmu_cpu_is_on(void);	/* interrupts are off */

/* ---- entry.c: what entries look like ------------------------------------ */

#define XMMU_ENTRY_AD	(XMMU_ACCESS_ACCESSED | XMMU_ACCESS_DIRTY)

/* Pages of 4 KiB that a leaf at @level maps. */
static inline u64 xmmu_level_pages(u8 level)
{
	return 1ULL << (9 * (level - 1));
}

/* Can tables of @format have @level, and how many entries has such a table? */
u32 xmmu_format_entries(u8 format, u8 level);
/* False: the format has no such leaf, or not these rights. */
bool xmmu_encode_leaf(u8 format, u8 level, u32 access, u64 pa, u64 *entry);
u64 xmmu_encode_link(u8 format, u64 pa);
/* enum xmmu_access of a present entry. */
u32 xmmu_decode_access(u8 format, u64 entry);
/* The bits of @format that say enum xmmu_access @ad (ACCESSED and DIRTY). */
u64 xmmu_encode_ad(u8 format, u32 ad);

/* ---- region.c: guest memory --------------------------------------------- */

struct xmmu_frame {
	u64 pfn : 40;		/* while it is pinned */
	u64 count : 24;		/* entries that map it; pinned while not 0 */
};

/* A region of the guest's memory; vm->lock. */
struct xmmu_memory {
	u32 flags;		/* enum xmmu_region_flag */
	unsigned long addr;
	u64 pages;
	u64 mapped;		/* frames with a count */
	struct xmmu_frame *frame;	/* [pages] */
};

int xmmu_region_set(struct xmmu_vm *vm, const struct xmmu_region *region);
void xmmu_regions_free(struct xmmu_vm *vm);
/*
 * Count one more entry that maps @count pages from @page on, pinning those that it
 * is the first for.  @pa: where they are, contiguous and aligned to @count.
 * -ENOENT, -EINVAL, -EFAULT, -ENOMEM, and nothing is counted.
 */
int xmmu_region_map(struct xmmu_vm *vm, u32 id, u64 page, u64 count, bool write,
		    u64 *pa);
/* One less. */
void xmmu_region_unmap(struct xmmu_vm *vm, u32 id, u64 page, u64 count);

/* ---- table.c: tables ---------------------------------------------------- */

enum xmmu_kind {
	XMMU_MEANS_NOTHING,
	XMMU_MEANS_MEMORY,
	XMMU_MEANS_TABLE,
};

/* What an entry of ours stands for, beside what the hardware reads. */
struct xmmu_meaning {
	u64 page : 40;		/* below XMMU_MAX_PAGES */
	u64 target : 22;	/* a region, or a table: below XMMU_MAX_TABLES */
	u64 kind : 2;		/* enum xmmu_kind */
};

struct xmmu_table {
	u32 id;
	u8 format;		/* enum xmmu_format */
	u8 level;
	u32 present;		/* entries that are */
	u32 users;		/* entries that point to it, and vCPUs with it as root */
	u64 *spt;		/* the page that the hardware reads */
	struct xmmu_meaning *meaning;	/* [XMMU_ENTRIES] */
};

/* Carry out a batch; see XMMU_UPDATE.  vm->lock. */
int xmmu_table_update(struct xmmu_vm *vm, struct xmmu_entry *entries, u32 count,
		      u32 *done);
void xmmu_tables_free(struct xmmu_vm *vm);
/*
 * Table @id, to be the root of a vCPU; NULL when there is none or its format and
 * level are not those of a root.  vm->lock.
 */
struct xmmu_table *xmmu_table_get_root(struct xmmu_vm *vm, u32 id);
void xmmu_table_put_root(struct xmmu_table *table);

/* ---- vm.c --------------------------------------------------------------- */

struct xmmu_vm {
	struct kref ref;	/* the file and each vCPU */
	struct mm_struct *mm;	/* kept by the notifier's registration */
	struct mmu_notifier notifier;
	struct mutex lock;
	struct xarray regions;
	struct xarray tables;
	u64 number;		/* no other VM has had it */
	struct xmmu_vcpu *vcpu[XMMU_MAX_VCPUS];
	/*
	 * Counts what was taken away.  A vCPU that has not flushed since enters only
	 * after it did.
	 */
	atomic64_t generation;
};

int xmmu_vm_create(void);
void xmmu_vm_get(struct xmmu_vm *vm);
void xmmu_vm_put(struct xmmu_vm *vm);
/* Something was taken away: when this returns no vCPU uses it.  vm->lock. */
void xmmu_vm_flush(struct xmmu_vm *vm);

/* ---- vcpu.c ------------------------------------------------------------- */

struct xmmu_vcpu {
	struct xmmu_vm *vm;
	u32 index;
	struct mutex lock;

	struct xmmu_run *run;	/* shared with user space: read each field once */
	void *log;		/* the page of it that hardware logs writes to, or NULL */
	struct xmmu_run state;	/* ours */
	struct xmmu_run next;	/* a commit, until it has been checked */
	struct xmmu_table *root;	/* changes under vm->lock too */
	void *xsave;		/* the guest's, in a buffer that only we write */
	u64 host_xcr0;
	u32 host_pkru;
	unsigned long host_dr[4], host_dr7;

	int cpu;		/* that it ran on last, or -1 */
	bool in_guest;		/* set before the generation is looked at */
	u64 flushed_at;		/* generation */
	bool flush;		/* at the next entry; until that has happened */
	bool flush_guest;	/* the same, of what the guest's own tables said */
	void *hw;		/* of svm.c or vmx.c */
};

void xmmu_vcpu_init(void);
int xmmu_vcpu_create(struct xmmu_vm *vm, unsigned long index);
void xmmu_vcpu_get_caps(struct xmmu_caps *caps);

#endif /* XMMU_H */
