/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * xmmu: the interface of /dev/xmmu
 *
 * The module runs virtual CPUs on VMX or SVM and keeps the tables that they
 * translate by.  Policy is user space's: it decides what every entry of a table
 * says; the module checks that the entry can do no harm to anybody else.
 *
 * Three kinds of file descriptors:
 *
 *   /dev/xmmu   XMMU_GET_CAPS, XMMU_CREATE_VM
 *   a VM        XMMU_SET_REGION, XMMU_UPDATE, XMMU_CREATE_VCPU
 *   a vCPU      XMMU_RUN, and mmap() of struct xmmu_run
 *
 * A VM belongs to the address space (mm) that created it: ioctls from any other,
 * a child after fork() for instance, fail with EIO.
 *
 * Every structure has fixed-width fields, the same layout for 32-bit and 64-bit
 * callers, and members called "zero" that must be 0.  No address of the host's
 * physical memory crosses this interface in either direction.
 */
#ifndef _UAPI_LINUX_XMMU_H
#define _UAPI_LINUX_XMMU_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define XMMU_API_VERSION	1

/* ---- What the module and the CPU can do --------------------------------- */

enum xmmu_vendor {
	XMMU_VENDOR_SVM = 1,
	XMMU_VENDOR_VMX = 2,
};

/* What the entries of a table look like; all tables of a tree are of one format. */
enum xmmu_format {
	XMMU_FORMAT_NPT,	/* second dimension: AMD APM vol. 2, 15.25 */
	XMMU_FORMAT_EPT,	/* second dimension: Intel SDM vol. 3, 29.3 */
	XMMU_FORMAT_LONG,	/* shadow tables: 4-level and 5-level paging */
	/* Only the root of PAE paging: level 3, 4 entries, over tables of FORMAT_LONG. */
	XMMU_FORMAT_PAE,
	XMMU_FORMAT_COUNT
};

enum xmmu_feature {
	XMMU_FEATURE_1G		= 1 << 0,	/* 1 GiB leaves */
	XMMU_FEATURE_AD		= 1 << 1,	/* A and D in NPT or EPT entries */
	XMMU_FEATURE_EXECONLY	= 1 << 2,	/* EPT leaves that cannot be read */
	XMMU_FEATURE_REALMODE	= 1 << 3,	/* CR0.PE=0 and PG=0 can be run */
	XMMU_FEATURE_TSC_SCALE	= 1 << 4,	/* xmmu_controls.tsc_ratio */
	/*
	 * xmmu_exit.length is known; else it is that of the instruction without
	 * prefixes (CPUID, HLT, RDMSR, WRMSR, IN, OUT), or 0.
	 */
	XMMU_FEATURE_NEXT_RIP	= 1 << 5,
	XMMU_FEATURE_WRITE_LOG	= 1 << 6,	/* XMMU_WANT_WRITE_LOG */
	/*
	 * Leaves above level 1 cannot have XMMU_ACCESS_EXEC: a guest could bring about
	 * that two TLB entries of different size match, which stops this CPU.
	 */
	XMMU_FEATURE_SMALL_EXEC	= 1 << 7,
};

/*
 * XMMU_GET_CAPS.  in: size; out: the first min(size, what there is) bytes.
 *
 * XMMU_CREATE_VM, with no argument: a file descriptor.  EBUSY: another hypervisor has
 * VMX or SVM; EIO: it cannot be turned on.
 * XMMU_CREATE_VCPU: a file descriptor; the argument is a number below max_vcpus.
 * EEXIST: there is one of this number, whose file is open.
 * Both: EINVAL: the argument; ENOMEM; EMFILE, ENFILE: no file descriptor is left.
 */
struct xmmu_caps {
	__u32 size;
	__u32 version;		/* XMMU_API_VERSION */
	__u32 vendor;		/* enum xmmu_vendor */
	__u32 formats;		/* bit n: roots of enum xmmu_format n can be run */
	__u32 features;		/* enum xmmu_feature */
	__u32 max_level;	/* of a root: 4 or 5 */
	__u32 max_vcpus;
	__u32 max_regions;
	__u32 max_tables;
	__u32 run_size;		/* bytes to mmap() from a vCPU */
	__u32 xsave_size;	/* bytes of xmmu_run.xsave that hold state */
	__u32 tsc_khz;
	__u64 xcr0;		/* bits that a guest may set */
	__u32 log_offset;	/* of the log of writes in what is mapped; 0: there is none */
	__u32 zero;
};

/* ---- Guest memory ------------------------------------------------------- */

enum xmmu_region_flag {
	XMMU_REGION_RO	= 1 << 0,	/* no entry may allow writing */
};

/*
 * XMMU_SET_REGION: entries may map pages of [addr, addr + pages * 4096) of the
 * caller's address space, as (id, page).  A page is pinned while an entry maps
 * it, and counts against RLIMIT_MEMLOCK (VmPin in /proc/PID/status).  pages = 0
 * forgets the region: EBUSY while an entry maps a page of it, ENOENT when there is
 * none.
 *
 * What is pinned stays the guest's while an entry maps it, also when user space
 * unmaps it or maps something else there, and new entries for (id, page) map the same;
 * only the first entry after there was none maps what is there then.
 *
 * EINVAL: id, flags, alignment or range; EEXIST: the id is in use; ENOMEM.
 */
struct xmmu_region {
	__u32 id;
	__u32 flags;		/* enum xmmu_region_flag */
	__u64 addr;
	__u64 pages;
};

/* ---- Tables ------------------------------------------------------------- */

enum xmmu_op {
	/*
	 * Make table @table (an id of the caller's choice, not in use) of format
	 * @access and level @index.  EEXIST, EINVAL, ENOMEM.
	 */
	XMMU_OP_NEW,
	/*
	 * Free table @table.  It must be empty, and no entry may point to it and
	 * no vCPU use it as its root: EBUSY.
	 */
	XMMU_OP_FREE,
	/*
	 * Entry @index of @table maps @page (and the ones behind it) of region
	 * @target.  ENOENT: there is no such region; EFAULT: the page cannot be pinned;
	 * ENOMEM: RLIMIT_MEMLOCK; EOVERFLOW: 2^24 entries map it already;
	 * EINVAL: a large leaf whose pages are not contiguous and aligned in the
	 * host, or rights that the region or the format does not have.
	 */
	XMMU_OP_LEAF,
	/*
	 * Entry @index of @table points to table @target, of the same format (of
	 * FORMAT_LONG in FORMAT_PAE) and one level less: EINVAL.
	 */
	XMMU_OP_LINK,
	/* Entry @index of @table is not present. */
	XMMU_OP_CLEAR,
	/*
	 * Give the rights @access to the leaf at @index of @table, which stays, and
	 * so do its ACCESSED and DIRTY.  ENOENT: no leaf; EINVAL as for OP_LEAF.
	 */
	XMMU_OP_ACCESS,
	/*
	 * Read and then clear the bits @access (ACCESSED, DIRTY) of the leaf.
	 * ENOENT: no leaf.
	 */
	XMMU_OP_HARVEST,
};

enum xmmu_access {
	XMMU_ACCESS_READ	= 1 << 0,	/* always, but in EPT */
	XMMU_ACCESS_WRITE	= 1 << 1,
	XMMU_ACCESS_EXEC	= 1 << 2,
	XMMU_ACCESS_USER	= 1 << 3,	/* LONG and PAE; implied in NPT, EPT */
	XMMU_ACCESS_GLOBAL	= 1 << 4,	/* LONG and PAE leaves */
	XMMU_ACCESS_ACCESSED	= 1 << 5,
	XMMU_ACCESS_DIRTY	= 1 << 6,
	XMMU_ACCESS_PKEY_SHIFT	= 8,		/* LONG leaves: 4 bits */
};

struct xmmu_entry {
	__u16 op;		/* enum xmmu_op */
	__u16 index;		/* 0..511; PAE roots 0..3; OP_NEW: the level */
	__u32 table;
	__u32 target;		/* a region or a table */
	__u32 access;		/* enum xmmu_access; OP_NEW: enum xmmu_format */
	__u64 page;
	__u32 was;		/* out: enum xmmu_access of what the entry said before */
	__u32 zero;
};

/*
 * XMMU_UPDATE: carry out @count operations in their order.  When one fails the
 * rest is not done; @done says how many were, and the error is that of the next.
 * When this returns no vCPU translates any more by what an entry said before
 * and does not say now; pages and tables that went out of use are let go after
 * that.  With @count = 0 it only waits until every vCPU that is in the guest has left
 * it once: what the hardware wrote for it can be read then.
 *
 * Any operation: ENOENT: no such table; EINVAL: the operation, the index, "zero".
 * The call: E2BIG: more than XMMU_UPDATE_MAX; ENOMEM; EFAULT: @entries cannot be read,
 * or not be written (then @done and what was done are still true); EINTR: the caller
 * is being killed.
 */
#define XMMU_UPDATE_MAX		4096

struct xmmu_update {
	__u64 entries;		/* address of struct xmmu_entry[count] */
	__u32 count;
	__u32 done;
};

/* ---- A vCPU's state ----------------------------------------------------- */

/* Groups of registers, as bits of xmmu_run.wanted, .valid and .commit. */
enum xmmu_group {
	XMMU_GROUP_GPRS		= 1 << 0,
	XMMU_GROUP_SEGMENTS	= 1 << 1,
	XMMU_GROUP_CRS		= 1 << 2,
	XMMU_GROUP_DRS		= 1 << 3,
	XMMU_GROUP_MSRS		= 1 << 4,
	XMMU_GROUP_EVENTS	= 1 << 5,
	XMMU_GROUP_CONTROLS	= 1 << 6,
	XMMU_GROUP_XSAVE	= 1 << 7,
	XMMU_GROUP_ALL		= (1 << 8) - 1
};

struct xmmu_gprs {
	__u64 gpr[16];		/* in the order of their encoding: RAX RCX RDX RBX ... */
	__u64 rip;
	__u64 rflags;
};

struct xmmu_segment {
	__u64 base;
	__u32 limit;		/* bytes - 1 */
	__u16 selector;
	__u16 attributes;	/* descriptor bits 40..47, then 52..55; UNUSABLE */
};

#define XMMU_SEGMENT_UNUSABLE	(1 << 12)

/* In the order of their encoding. */
enum {
	XMMU_ES, XMMU_CS, XMMU_SS, XMMU_DS, XMMU_FS, XMMU_GS, XMMU_LDT, XMMU_TR,
	XMMU_SEGMENT_COUNT
};

struct xmmu_segments {
	struct xmmu_segment seg[XMMU_SEGMENT_COUNT];
	struct xmmu_segment gdt, idt;	/* base and limit only */
	__u32 cpl;
	__u32 zero;
};

/*
 * What the guest shall see, and what the CPU shall work with.  With shadow
 * tables the latter always has paging on: the module sets in it what the format
 * of the root needs, so that the CPU uses no other tables than ours.  It also sets
 * CR4.MCE and clears CR0.CD and NW.  CR4 and EFER bits that no guest may have (CET,
 * PKS, SVME, ...) are refused.
 */
struct xmmu_crs {
	__u64 cr0, cr3, cr4, efer;	/* the guest's */
	__u64 cr2, cr8, xcr0;
	__u64 hw_cr0, hw_cr4, hw_efer;	/* the CPU's */
	__u64 pdpte[4];		/* PAE paging under EPT */
};

struct xmmu_drs {
	__u64 dr[4];
	__u64 dr6, dr7;
};

struct xmmu_msrs {
	__u64 star, lstar, cstar, sfmask, kernel_gs_base;
	__u64 sysenter_cs, sysenter_esp, sysenter_eip;
	__u64 pat;		/* kept for user space; memory is write-back */
	__u64 tsc_aux;
};

enum xmmu_event_type {
	XMMU_EVENT_NONE,
	XMMU_EVENT_INTERRUPT,
	XMMU_EVENT_NMI,
	XMMU_EVENT_EXCEPTION,
	/*
	 * In .pending only: INT n, INT3 or INTO.  RIP is at the instruction, which
	 * makes the interrupt again when the guest goes on.
	 */
	XMMU_EVENT_SOFT,
};

struct xmmu_event {
	__u8 type;		/* enum xmmu_event_type */
	__u8 vector;
	__u8 has_error;
	__u8 zero;
	__u32 error;
};

struct xmmu_events {
	/* At the next entry; none afterwards.  After EINTR it may still be here. */
	struct xmmu_event inject;
	struct xmmu_event pending;	/* out: was being delivered when the exit came */
	__u8 shadow;		/* in the shadow of STI or MOV SS */
	__u8 nmi_blocked;
	__u8 zero[6];
};

enum xmmu_want {
	XMMU_WANT_IRQ_WINDOW	= 1 << 0,	/* exit when an interrupt can be taken */
	/*
	 * Exit when NMIs are not blocked any more.  Only VMX can: on SVM the IRET that
	 * ends the blocking is an XMMU_EXIT_INSTRUCTION.
	 */
	XMMU_WANT_NMI_WINDOW	= 1 << 1,
	XMMU_WANT_CR_EXITS	= 1 << 2,	/* exit on any access to CR3, and INVLPG */
	/*
	 * Log the pages that get DIRTY by this vCPU, with a root of FORMAT_EPT: their
	 * addresses in the guest go to the XMMU_LOG_ENTRIES words of the log, from the
	 * last one down.  When there is no word left: XMMU_EXIT_LOG_FULL, and the next
	 * run begins at the last one again, as it does when this was off.
	 * User space may write what it likes to the log.
	 */
	XMMU_WANT_WRITE_LOG	= 1 << 3,
	XMMU_WANT_ALL		= (1 << 4) - 1
};

struct xmmu_controls {
	__u32 root;		/* the table that the vCPU shall translate by */
	__u32 want;		/* enum xmmu_want */
	__u32 exceptions;	/* bit n: exit on exception n; #DB, #AC, #MC always do */
	__u32 zero;
	__u64 tsc_offset;
	__u64 tsc_ratio;	/* 8.32 fixed point; 0 is 1.0 */
};

/* ---- Why the vCPU stopped ----------------------------------------------- */

enum xmmu_exit_reason {
	/* EINTR: a signal, immediate_exit, or the kernel had work for this thread. */
	XMMU_EXIT_NONE,
	XMMU_EXIT_MEMORY,	/* .memory: the second dimension did not allow it */
	XMMU_EXIT_EXCEPTION,	/* .exception */
	XMMU_EXIT_IO,		/* .io */
	XMMU_EXIT_CR,		/* .reg: access to CR .number */
	XMMU_EXIT_DR,		/* .reg */
	XMMU_EXIT_MSR,		/* .reg: RDMSR or WRMSR of .number */
	XMMU_EXIT_CPUID,
	XMMU_EXIT_HLT,
	XMMU_EXIT_INVLPG,	/* .reg.value: the address, if .reg.decoded */
	XMMU_EXIT_IRQ_WINDOW,
	XMMU_EXIT_NMI_WINDOW,
	XMMU_EXIT_INSTRUCTION,	/* any other that the module does not let run */
	XMMU_EXIT_TASK_SWITCH,
	XMMU_EXIT_SHUTDOWN,	/* triple fault */
	XMMU_EXIT_LOG_FULL,	/* XMMU_WANT_WRITE_LOG */
	XMMU_EXIT_INVALID,	/* the state cannot be run; .hardware says more */
	XMMU_EXIT_UNKNOWN,	/* .hardware */
};

struct xmmu_exit {
	__u32 reason;		/* enum xmmu_exit_reason */
	__u32 length;		/* of the instruction; 0 when not known */
	__u64 hardware;		/* EXITCODE or the VMX exit reason, for people */
	union {
		struct {
			__u64 gpa;
			__u64 gva;	/* VMX only */
			__u32 access;	/* READ, WRITE or EXEC: what was tried */
			__u32 granted;	/* enum xmmu_access of the entry that stopped it */
			__u8 table;	/* while the guest's own tables were walked */
			__u8 gva_valid;
			__u8 reserved_bit;
			__u8 zero[5];
		} memory;
		struct {
			__u8 vector;
			__u8 has_error;
			__u8 zero[2];
			__u32 error;
			__u64 address;	/* #PF: the linear address */
			__u64 dr6;	/* #DB */
		} exception;
		struct {
			__u16 port;
			__u8 size;	/* bytes */
			__u8 in;
			__u8 string;
			__u8 rep;
			__u8 zero[2];
		} io;
		struct {
			__u32 number;
			__u8 write;
			__u8 decoded;	/* .gpr and .value are valid; MSR: always */
			__u8 gpr;
			__u8 zero;
			__u64 value;	/* what is written; of a read, the old value of .gpr */
		} reg;
		__u64 pad[6];
	};
};

/*
 * The page that a vCPU and user space share: mmap() of run_size bytes at offset 0 with
 * MAP_SHARED, else EINVAL.  User space writes it between calls of XMMU_RUN; what it
 * writes during a call is read at some time or not.
 *
 * The groups in @commit are taken over before the guest runs, and @commit becomes 0.
 * When one of them is refused none is, and @commit stays: EINVAL; ENOENT: no table
 * controls.root, or not of a format and level that this machine can have as a root
 * (and on every call until there is one).  EBUSY: another thread runs this vCPU.
 * EINVAL also: XMMU_RUN has no argument.
 *
 * CRS that differ (in more than CR2, CR8 and XCR0) from those last committed or fetched
 * make the CPU forget what it knows by the guest's own tables; so does any commit of both
 * CRS and CONTROLS, for when user space has executed INVLPG or the like in its place.
 *
 * After an exit, and after EINTR, the groups in @valid hold the vCPU's state: those in
 * @wanted always, any other perhaps.
 */
struct xmmu_run {
	__u32 wanted;
	__u32 commit;
	__u32 valid;
	__u32 immediate_exit;	/* nonzero: return before the guest runs */

	struct xmmu_exit exit;
	struct xmmu_controls controls;
	struct xmmu_events events;
	struct xmmu_gprs gprs;
	struct xmmu_crs crs;
	struct xmmu_segments segments;
	struct xmmu_drs drs;
	struct xmmu_msrs msrs;
};

/* Where the XSAVE image (standard format) begins in the mapping. */
#define XMMU_RUN_XSAVE_OFFSET	4096

/* Words of the log of writes at xmmu_caps.log_offset. */
#define XMMU_LOG_ENTRIES	512

#define XMMU_IOCTL		0xb7

/* Without the structure's size, which may grow. */
#define XMMU_GET_CAPS		_IOC(_IOC_READ | _IOC_WRITE, XMMU_IOCTL, 0x00, 0)
#define XMMU_CREATE_VM		_IO(XMMU_IOCTL, 0x01)
#define XMMU_SET_REGION		_IOW(XMMU_IOCTL, 0x10, struct xmmu_region)
#define XMMU_UPDATE		_IOWR(XMMU_IOCTL, 0x11, struct xmmu_update)
#define XMMU_CREATE_VCPU	_IO(XMMU_IOCTL, 0x12)
#define XMMU_RUN		_IO(XMMU_IOCTL, 0x20)

#endif /* _UAPI_LINUX_XMMU_H */
