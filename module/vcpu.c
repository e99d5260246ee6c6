// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: virtual CPUs
 *
 * Owns the life of a vCPU, the page that it shares with user space, and the loop
 * around the guest: signals, preemption, FPU state, and the moment at which a vCPU
 * says that it is in the guest.  What registers mean to the hardware is svm.c's
 * and vmx.c's.
 *
 * User space can write the shared page at any time.  What the module acts on is
 * vcpu->state, copied once; nothing is read from the page twice.
 */
#include <linux/anon_inodes.h>
#include <linux/fs.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <asm/debugreg.h>
#include <asm/fpu/api.h>
#include <asm/fpu/xcr.h>
#include <asm/fpu/types.h>
#include <asm/nospec-branch.h>
#include <asm/trapnr.h>
#include <asm/io.h>
#include "compat.h"
#include "xmmu.h"

/* x87, SSE, AVX, AVX-512 and PKRU; what takes permission first (AMX) is left out. */
#define XCR0_OFFERED	0x2e7ULL
#define XCR0_AVX512	0xe0ULL
/*
 * What a guest can have on in CR4 and EFER.  Not what has MSRs that are not exchanged
 * (CET, PKS), and PKE only where PKRU is exchanged.
 */
#define CR4_OFFERED	(X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | \
			 X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE | \
			 X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | \
			 X86_CR4_UMIP | X86_CR4_LA57 | X86_CR4_FSGSBASE | \
			 X86_CR4_PCIDE | X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP)
#define EFER_OFFERED	((u64)(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | EFER_FFXSR))
/* 8.32 fixed point, the least that the CPUs' multipliers have in common. */
#define TSC_RATIO_MAX	(BIT_ULL(40) - 1)
#define FXSAVE_SIZE	512		/* Intel SDM vol. 1, 13.4.1 */
#define XSAVE_MXCSR	24
#define MXCSR_VALID	0xffffu

/* ---- FPU state ---------------------------------------------------------- */

/* Const after load. */
static u64 xcr0_offered;	/* 0: a CPU, or a kernel, without XSAVE; FXSAVE's image */
static u64 host_xss;
static u64 cr4_offered;
static u32 xsave_size;
static u32 run_size;		/* bytes of the mapping */
static u32 log_offset;		/* in it; 0: no hardware logs writes */

void xmmu_vcpu_init(void)
{
	BUILD_BUG_ON(sizeof(struct xmmu_run) > XMMU_RUN_XSAVE_OFFSET);
	BUILD_BUG_ON(sizeof(struct xmmu_entry) != 32);
	BUILD_BUG_ON(sizeof(struct xmmu_exit) != 64);
	xsave_size = FXSAVE_SIZE;
	if (boot_cpu_has(X86_FEATURE_XSAVE)) {
		xcr0_offered = xgetbv(XCR_XFEATURE_ENABLED_MASK) & XCR0_OFFERED;
		/* 0D:0 EBX: the area for what XCR0 now enables; it covers the subset. */
		xsave_size = cpuid_ebx(0xd);
	}
	cr4_offered = CR4_OFFERED |
		      (boot_cpu_has(X86_FEATURE_OSPKE) ? X86_CR4_PKE : 0);
	if (boot_cpu_has(X86_FEATURE_XSAVES))
		rdmsrl(MSR_IA32_XSS, host_xss);
	run_size = XMMU_RUN_XSAVE_OFFSET + PAGE_ALIGN(xsave_size);
	log_offset = xmmu_hw_features() & XMMU_FEATURE_WRITE_LOG ? run_size : 0;
	run_size += log_offset ? PAGE_SIZE : 0;
}

void xmmu_vcpu_get_caps(struct xmmu_caps *caps)
{
	caps->xcr0 = xcr0_offered;
	caps->xsave_size = xsave_size;
	caps->run_size = run_size;
	caps->log_offset = log_offset;
}

/* What XSETBV would accept: Intel SDM vol. 1, 13.3. */
static bool xcr0_ok(u64 xcr0)
{
	u64 avx512 = xcr0 & XCR0_AVX512;

	if (!xcr0_offered)
		return xcr0 == 1;
	return (xcr0 & 1) && !(xcr0 & ~xcr0_offered) &&
	       (!(xcr0 & 4) || (xcr0 & 2)) &&
	       (!avx512 || (avx512 == XCR0_AVX512 && (xcr0 & 4)));
}

/* Take an image from user space; what XRSTOR would refuse is cleared. */
static void take_xsave(struct xmmu_vcpu *vcpu)
{
	u64 *header = vcpu->xsave + FXSAVE_SIZE;

	memcpy(vcpu->xsave, (void *)vcpu->run + XMMU_RUN_XSAVE_OFFSET, xsave_size);
	*(u32 *)(vcpu->xsave + XSAVE_MXCSR) &= MXCSR_VALID;
	if (xcr0_offered) {
		memset(&header[1], 0, 56);
		header[0] &= xcr0_offered;
	}
}

static void save_fpu(void *area)
{
	u64 mask = xcr0_offered;

	if (mask)
		asm volatile("xsave64 (%0)" :: "r" (area), "a" ((u32)mask),
			     "d" ((u32)(mask >> 32)) : "memory");
	else
		asm volatile("fxsave64 (%0)" :: "r" (area) : "memory");
}

/* False: there is something in it that the CPU does not take. */
static bool try_load_fpu(void *area)
{
	u64 mask = xcr0_offered;
	int failed = 1;

	if (mask)
		asm volatile("1: xrstor64 (%1)\n xor %0, %0\n2:\n" _ASM_EXTABLE(1b, 2b)
			     : "+r" (failed) : "r" (area), "a" ((u32)mask),
			       "d" ((u32)(mask >> 32)) : "memory");
	else
		asm volatile("1: fxrstor64 (%1)\n xor %0, %0\n2:\n" _ASM_EXTABLE(1b, 2b)
			     : "+r" (failed) : "r" (area) : "memory");
	return !failed;
}

/* The registers hold what some task left there, so they must be loaded. */
static void load_fpu(void *area)
{
	/* XRSTOR and FXRSTOR leave the last x87 instruction's address in some CPUs. */
	if (boot_cpu_has_bug(X86_BUG_FXSAVE_LEAK))
		asm volatile("fninit");
	if (try_load_fpu(area))
		return;
	memset(area, 0, xsave_size);
	*(u16 *)area = 0x37f;		/* FCW at reset */
	*(u32 *)(area + XSAVE_MXCSR) = MXCSR_DEFAULT;
	try_load_fpu(area);
}

/* The guest's XCR0 in place of the host's, or back. */
static void swap_xcr0(u64 from, u64 to)
{
	if (xcr0_offered && from != to)
		xsetbv(XCR_XFEATURE_ENABLED_MASK, to);
}

static void load_guest_fpu(struct xmmu_vcpu *vcpu)
{
	if (cpu_feature_enabled(X86_FEATURE_OSPKE))
		vcpu->host_pkru = rdpkru();
	if (xcr0_offered)
		vcpu->host_xcr0 = xgetbv(XCR_XFEATURE_ENABLED_MASK);
	load_fpu(vcpu->xsave);
	swap_xcr0(vcpu->host_xcr0, vcpu->state.crs.xcr0);
	/* No XSAVES of the guest's shall find the host's supervisor state. */
	if (host_xss)
		wrmsrl(MSR_IA32_XSS, 0);
}

static void save_guest_fpu(struct xmmu_vcpu *vcpu)
{
	if (host_xss)
		wrmsrl(MSR_IA32_XSS, host_xss);
	swap_xcr0(vcpu->state.crs.xcr0, vcpu->host_xcr0);
	save_fpu(vcpu->xsave);
	if (cpu_feature_enabled(X86_FEATURE_OSPKE))
		wrpkru(vcpu->host_pkru);
}

/* ---- Debug registers ---------------------------------------------------- */

static bool breakpoints_on(u64 dr7)
{
	return dr7 & (DR_GLOBAL_ENABLE_MASK | DR_LOCAL_ENABLE_MASK);
}

static void set_breakpoints(const unsigned long *dr)
{
	set_debugreg(dr[0], 0);
	set_debugreg(dr[1], 1);
	set_debugreg(dr[2], 2);
	set_debugreg(dr[3], 3);
}

/* The hardware exchanges DR7 and, at an exit, leaves all breakpoints off. */
static void load_guest_drs(struct xmmu_vcpu *vcpu)
{
	const u64 *dr = vcpu->state.drs.dr;

	get_debugreg(vcpu->host_dr7, 7);
	if (breakpoints_on(vcpu->host_dr7)) {
		get_debugreg(vcpu->host_dr[0], 0);
		get_debugreg(vcpu->host_dr[1], 1);
		get_debugreg(vcpu->host_dr[2], 2);
		get_debugreg(vcpu->host_dr[3], 3);
	}
	if (breakpoints_on(vcpu->state.drs.dr7)) {
		set_debugreg(0UL, 7);
		set_breakpoints((const unsigned long []) { dr[0], dr[1], dr[2], dr[3] });
	}
}

static void restore_host_drs(struct xmmu_vcpu *vcpu)
{
	if (!breakpoints_on(vcpu->host_dr7))
		return;
	set_breakpoints(vcpu->host_dr);
	set_debugreg(vcpu->host_dr7, 7);
}

/*
 * What one VM has taught the branch predictors another one shall not meet.  Not of
 * the address spaces that a switch of tasks might take care of: one can have two VMs.
 */
static void forget_other_vm(const struct xmmu_vcpu *vcpu)
{
	static DEFINE_PER_CPU(u64, last_vm);

	if (this_cpu_read(last_vm) == vcpu->vm->number)
		return;
	this_cpu_write(last_vm, vcpu->vm->number);
	if (boot_cpu_has(X86_FEATURE_IBPB))
		wrmsrl(MSR_IA32_PRED_CMD, PRED_CMD_IBPB);
}

/* Nor shall it lead user space of the host; the kernel sees to that on the way there. */
static void user_must_forget(void)
{
#ifdef X86_FEATURE_IBPB_EXIT_TO_USER
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
#endif
}

/* ---- Running ------------------------------------------------------------ */

/*
 * From here on who takes something away interrupts this CPU (xmmu_vm_flush());
 * what was taken before is seen in the generation.  An entry that is then given up
 * leaves vcpu->flush to the next one.
 */
static void announce(struct xmmu_vcpu *vcpu)
{
	int cpu = smp_processor_id();
	u64 generation;

	if (vcpu->cpu != cpu) {
		WRITE_ONCE(vcpu->cpu, cpu);
		vcpu->flush = true;
	}
	/* Pairs with xmmu_vm_flush(): first the CPU, then that we are in the guest. */
	smp_store_release(&vcpu->in_guest, true);
	/* Pairs with xmmu_vm_flush(): only then the generation. */
	smp_mb();
	generation = atomic64_read(&vcpu->vm->generation);
	if (vcpu->flushed_at != generation) {
		vcpu->flushed_at = generation;
		vcpu->flush = true;
	}
}

/* TIF_NOTIFY_RESUME: work that the kernel does on the way to user space. */
static bool should_stop(const struct xmmu_vcpu *vcpu)
{
	return signal_pending(current) || test_thread_flag(TIF_NOTIFY_RESUME) ||
	       READ_ONCE(vcpu->run->immediate_exit);
}

/* False: the guest did not run. */
static bool run_once(struct xmmu_vcpu *vcpu)
{
	bool ran = false;

	xmmu_cpu_get();
	kernel_fpu_begin();
	xmmu_hw->prepare(vcpu);
	local_irq_disable();
	announce(vcpu);
	if (xmmu_cpu_is_on() && !need_resched() && !should_stop(vcpu)) {
		forget_other_vm(vcpu);
		load_guest_fpu(vcpu);
		load_guest_drs(vcpu);
		xmmu_hw->enter(vcpu);
		restore_host_drs(vcpu);
		save_guest_fpu(vcpu);
		user_must_forget();
		ran = true;
	}
	/* Pairs with xmmu_vm_flush(): the guest touches nothing any more. */
	smp_store_release(&vcpu->in_guest, false);
	/* The interrupt that ended the run is served here. */
	local_irq_enable();
	kernel_fpu_end();
	xmmu_cpu_put();
	return ran;
}

/*
 * An event that an exit cut off goes in again when user space need not know.  The
 * guest is still at the instruction that made a software interrupt: that goes again
 * by itself.
 */
static void retry_event(struct xmmu_events *events)
{
	if (events->pending.type != XMMU_EVENT_NONE &&
	    events->pending.type != XMMU_EVENT_SOFT)
		events->inject = events->pending;
}

static int run_loop(struct xmmu_vcpu *vcpu)
{
	struct xmmu_run *state = &vcpu->state;

	for (;;) {
		if (should_stop(vcpu)) {
			state->exit = (struct xmmu_exit) { .reason = XMMU_EXIT_NONE };
			return -EINTR;
		}
		cond_resched();
		if (!run_once(vcpu))
			continue;
		state->exit = (struct xmmu_exit) { };
		if (xmmu_hw->explain(vcpu))
			return 0;
		retry_event(&state->events);
	}
}

/* ---- The shared page ---------------------------------------------------- */

struct group {
	size_t offset, size;	/* in struct xmmu_run */
};

#define GROUP(field) { offsetof(struct xmmu_run, field), \
		       sizeof_field(struct xmmu_run, field) }

/* In the order of the bits of enum xmmu_group. */
static const struct group groups[] = {
	GROUP(gprs), GROUP(segments), GROUP(crs), GROUP(drs), GROUP(msrs),
	GROUP(events), GROUP(controls),
};

static void copy_groups(void *to, const void *from, unsigned long which)
{
	unsigned long i;

	for_each_set_bit(i, &which, ARRAY_SIZE(groups))
		memcpy(to + groups[i].offset, from + groups[i].offset, groups[i].size);
}

/* What the hardware's half can rely on, whatever user space wrote. */
static int check_events(const struct xmmu_events *events)
{
	const struct xmmu_event *event = &events->inject;

	if (event->type > XMMU_EVENT_EXCEPTION || event->zero ||
	    memchr_inv(events->zero, 0, sizeof(events->zero)))
		return -EINVAL;
	if (event->type == XMMU_EVENT_EXCEPTION &&
	    (event->vector > 31 || event->vector == X86_TRAP_NMI))
		return -EINVAL;
	return 0;
}

static int check_controls(const struct xmmu_controls *controls)
{
	u64 ratio = controls->tsc_ratio;

	if (controls->want & ~XMMU_WANT_ALL || controls->zero || ratio > TSC_RATIO_MAX ||
	    (controls->want & XMMU_WANT_WRITE_LOG && !log_offset) ||
	    (ratio && !(xmmu_hw_features() & XMMU_FEATURE_TSC_SCALE)))
		return -EINVAL;
	return 0;
}

/* Bits that the CPU does not have make the run fail, and hurt nobody. */
static int check_crs(const struct xmmu_crs *crs)
{
	if (!xcr0_ok(crs->xcr0) || (crs->hw_cr4 & ~cr4_offered) ||
	    (crs->hw_efer & ~EFER_OFFERED))
		return -EINVAL;
	return 0;
}

static int check(const struct xmmu_run *next, u32 which)
{
	int ret = 0;

	if (which & ~XMMU_GROUP_ALL ||
	    (which & XMMU_GROUP_SEGMENTS && next->segments.zero))
		return -EINVAL;
	if (which & XMMU_GROUP_CRS)
		ret = check_crs(&next->crs);
	if (!ret && which & XMMU_GROUP_EVENTS)
		ret = check_events(&next->events);
	if (!ret && which & XMMU_GROUP_CONTROLS)
		ret = check_controls(&next->controls);
	return ret;
}

static int take_root(struct xmmu_vcpu *vcpu, u32 id)
{
	struct xmmu_vm *vm = vcpu->vm;
	struct xmmu_table *root;

	if (vcpu->root && vcpu->root->id == id)
		return 0;
	if (mutex_lock_killable(&vm->lock))
		return -EINTR;
	root = xmmu_table_get_root(vm, id);
	if (root) {
		if (vcpu->root)
			xmmu_table_put_root(vcpu->root);
		vcpu->root = root;
		vcpu->flush = true;
	}
	mutex_unlock(&vm->lock);
	return root ? 0 : -ENOENT;
}

/*
 * Does the vCPU's TLB have what @next makes untrue?  CR2 and CR8 say nothing of that, and
 * shadow tables are ours: only the rules by which they are read are in the registers.
 */
static bool outdates(const struct xmmu_vcpu *vcpu, const struct xmmu_run *next, u32 which)
{
	const struct xmmu_crs *new = &next->crs, *old = &vcpu->state.crs;
	u8 format = vcpu->root->format;

	if (!(which & XMMU_GROUP_CRS))
		return false;
	if (memcmp(&new->hw_cr0, &old->hw_cr0, sizeof(*new) - offsetof(struct xmmu_crs, hw_cr0)))
		return true;
	if (format != XMMU_FORMAT_NPT && format != XMMU_FORMAT_EPT)
		return false;
	return (which & XMMU_GROUP_CONTROLS) ||
	       memcmp(new, old, offsetof(struct xmmu_crs, cr2));
}

/* All of it or nothing. */
static int commit(struct xmmu_vcpu *vcpu)
{
	struct xmmu_run *next = &vcpu->next;
	u32 which = READ_ONCE(vcpu->run->commit);
	int ret;

	copy_groups(next, vcpu->run, which & XMMU_GROUP_ALL);
	/* From here on ours is looked at, not the page again. */
	barrier();
	ret = check(next, which);
	if (!ret && (which & XMMU_GROUP_CONTROLS))
		ret = take_root(vcpu, next->controls.root);
	else if (!ret && !vcpu->root)
		ret = -ENOENT;
	if (ret)
		return ret;
	vcpu->flush_guest |= outdates(vcpu, next, which);
	copy_groups(&vcpu->state, next, which);
	if (which & XMMU_GROUP_XSAVE)
		take_xsave(vcpu);
	xmmu_hw->commit(vcpu, which);
	WRITE_ONCE(vcpu->run->commit, 0);
	return 0;
}

static void publish(struct xmmu_vcpu *vcpu)
{
	struct xmmu_run *run = vcpu->run;
	u32 which = READ_ONCE(run->wanted) & XMMU_GROUP_ALL;

	xmmu_hw->fetch(vcpu, which);
	copy_groups(run, &vcpu->state, which);
	if (which & XMMU_GROUP_XSAVE)
		memcpy((void *)run + XMMU_RUN_XSAVE_OFFSET, vcpu->xsave, xsave_size);
	run->exit = vcpu->state.exit;
	WRITE_ONCE(run->valid, which);
}

static int vcpu_run(struct xmmu_vcpu *vcpu)
{
	int ret;

	if (!mutex_trylock(&vcpu->lock))
		return -EBUSY;
	ret = commit(vcpu);
	if (!ret) {
		ret = run_loop(vcpu);
		publish(vcpu);
	}
	mutex_unlock(&vcpu->lock);
	return ret;
}

/* ---- Files -------------------------------------------------------------- */

static long vcpu_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct xmmu_vcpu *vcpu = file->private_data;

	if (current->mm != vcpu->vm->mm)
		return -EIO;
	if (cmd != XMMU_RUN)
		return -ENOTTY;
	return arg ? -EINVAL : vcpu_run(vcpu);
}

/*
 * As page frames without a struct page, so that the page cannot be pinned and
 * mapped into a guest.
 */
static int vcpu_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct xmmu_vcpu *vcpu = file->private_data;

	if (vma->vm_pgoff || vma->vm_end - vma->vm_start != run_size ||
	    !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	return remap_pfn_range(vma, vma->vm_start, virt_to_phys(vcpu->run) >> PAGE_SHIFT,
			       run_size, vma->vm_page_prot);
}

static void vcpu_free(struct xmmu_vcpu *vcpu)
{
	struct xmmu_vm *vm = vcpu->vm;

	mutex_lock(&vm->lock);
	if (vm->vcpu[vcpu->index] == vcpu)
		vm->vcpu[vcpu->index] = NULL;
	if (vcpu->root)
		xmmu_table_put_root(vcpu->root);
	mutex_unlock(&vm->lock);
	if (vcpu->hw)
		xmmu_hw->vcpu_free(vcpu);
	if (vcpu->run)
		free_pages_exact(vcpu->run, run_size);
	kfree(vcpu->xsave);
	kfree(vcpu);
}

static int vcpu_release(struct inode *inode, struct file *file)
{
	struct xmmu_vcpu *vcpu = file->private_data;
	struct xmmu_vm *vm = vcpu->vm;

	vcpu_free(vcpu);
	xmmu_vm_put(vm);
	return 0;
}

static const struct file_operations vcpu_fops = {
	.owner = THIS_MODULE,
	.release = vcpu_release,
	.unlocked_ioctl = vcpu_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = vcpu_mmap,
	.llseek = noop_llseek,
};

static struct xmmu_vcpu *vcpu_alloc(struct xmmu_vm *vm, u32 index)
{
	struct xmmu_vcpu *vcpu = kzalloc(sizeof(*vcpu), GFP_KERNEL_ACCOUNT);

	if (!vcpu)
		return NULL;
	vcpu->vm = vm;
	vcpu->index = index;
	vcpu->cpu = -1;
	vcpu->state.crs.xcr0 = 1;
	mutex_init(&vcpu->lock);
	vcpu->run = alloc_pages_exact(run_size, GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	/* kmalloc aligns a power of two to itself, and XSAVE needs 64. */
	vcpu->xsave = kzalloc(roundup_pow_of_two(xsave_size), GFP_KERNEL_ACCOUNT);
	if (vcpu->run && log_offset)
		vcpu->log = (void *)vcpu->run + log_offset;
	if (!vcpu->run || !vcpu->xsave || xmmu_hw->vcpu_new(vcpu)) {
		vcpu_free(vcpu);
		return NULL;
	}
	return vcpu;
}

int xmmu_vcpu_create(struct xmmu_vm *vm, unsigned long index)
{
	struct xmmu_vcpu *vcpu;
	bool taken;
	int fd;

	if (index >= XMMU_MAX_VCPUS)
		return -EINVAL;
	vcpu = vcpu_alloc(vm, index);
	if (!vcpu)
		return -ENOMEM;
	mutex_lock(&vm->lock);
	taken = vm->vcpu[index];
	if (!taken)
		vm->vcpu[index] = vcpu;
	mutex_unlock(&vm->lock);
	if (taken) {
		vcpu_free(vcpu);
		return -EEXIST;
	}
	xmmu_vm_get(vm);
	fd = anon_inode_getfd("xmmu-vcpu", &vcpu_fops, vcpu, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		vcpu_free(vcpu);
		xmmu_vm_put(vm);
	}
	return fd;
}
