// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: SVM
 *
 * What a vCPU's state and its exits are on AMD's hardware (AMD APM vol. 2, chapter
 * 15).  The mirror of vmx.c: the same functions in the same order.
 *
 * User space chooses what the guest's registers say; the intercepts that keep the
 * host safe are set here and cannot be taken away.
 */
#include <linux/gfp.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/sched/task_stack.h>
#include <asm/cpufeature.h>
#include <asm/mce.h>
#include <asm/svm.h>
#include <asm/trapnr.h>
#include <asm/debugreg.h>
#include "compat.h"
#include "xmmu.h"

#define VM_CR_SVMDIS	BIT(4)	/* AMD APM vol. 2, 15.30.1 */
#define MSRPM_PAGES	2
#define IOPM_PAGES	3
#define NP_ENABLE	BIT_ULL(0)
/* A quadword; its name in struct vmcb_control_area changes: AMD APM vol. 2, B.1. */
#define VMCB_NESTED_CTL	0x90
/* The exit code -1, of 64 bits in some kernels and of 32 in others. */
#define EXIT_REFUSED	((u32)-1)
/* 8.32 fixed point: AMD APM vol. 2, 15.30.5. */
#define TSC_RATIO_ONE	BIT_ULL(32)
/* Write-back, whatever the guest's entries choose: all that it can reach is memory. */
#define PAT_ALL_WB	0x0606060606060606ULL
#define TLB_CTL_KEEP	0
#define TLB_CTL_FLUSH_ALL	1

struct svm_vcpu {
	struct vmcb *vmcb;
	struct vmcb_save_area committed;	/* of *vmcb */
	u64 asid_generation;
	bool nmi_blocked;	/* until an IRET, which exits */
	bool impossible;	/* what the guest's registers ask for */
};

/* ---- Host: probe, set-up, each CPU -------------------------------------- */

struct svm_cpu {
	void *hsave;		/* VM_HSAVE_PA */
	struct vmcb *host;	/* for VMSAVE and VMLOAD of the host's state */
	u64 asid_generation;	/* starts at 1 */
	u64 tsc_aux;
	u32 next_asid;
};

static DEFINE_PER_CPU(struct svm_cpu, svm_cpu);
static u32 svm_asids;		/* const after probe */
static void *msrpm, *iopm;	/* const after set-up */

static int svm_probe(void)
{
	u64 vm_cr;

	if (!boot_cpu_has(X86_FEATURE_SVM))
		return -ENODEV;
	rdmsrl(MSR_VM_CR, vm_cr);
	if (vm_cr & VM_CR_SVMDIS)
		return -EPERM;
	svm_asids = cpuid_ebx(SVM_CPUID_FUNC);
	/* Erratum 383: a guest can make a machine check of two sizes of one page. */
	return svm_asids > 1 && !boot_cpu_has_bug(X86_BUG_AMD_TLB_MMATCH) &&
	       !host_has_snp() ? 0 : -EOPNOTSUPP;
}

/* MSRs that the guest has to itself, because VMLOAD and VMSAVE exchange them. */
static const u32 free_msrs[] = {
	MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_STAR, MSR_LSTAR, MSR_CSTAR,
	MSR_SYSCALL_MASK, MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP,
	MSR_IA32_SYSENTER_EIP,
};

/* Two bits for each MSR, in three ranges: AMD APM vol. 2, 15.11. */
static unsigned int msrpm_bit(u32 msr)
{
	if (msr >= 0xc0010000)
		return (0x1000 + (msr & 0x1fff) / 4) * 8 + msr % 4 * 2;
	if (msr >= 0xc0000000)
		return (0x800 + (msr & 0x1fff) / 4) * 8 + msr % 4 * 2;
	return (msr & 0x1fff) * 2;
}

static void free_cpus(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct svm_cpu *c = per_cpu_ptr(&svm_cpu, cpu);

		free_page((unsigned long)c->hsave);
		free_page((unsigned long)c->host);
		*c = (struct svm_cpu) { };
	}
}

static int alloc_cpus(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct svm_cpu *c = per_cpu_ptr(&svm_cpu, cpu);

		c->hsave = (void *)get_zeroed_page(GFP_KERNEL);
		c->host = (void *)get_zeroed_page(GFP_KERNEL);
		if (!c->hsave || !c->host)
			return -ENOMEM;
	}
	return 0;
}

static void svm_teardown(void)
{
	free_cpus();
	if (msrpm)
		free_pages_exact(msrpm, MSRPM_PAGES * PAGE_SIZE);
	if (iopm)
		free_pages_exact(iopm, IOPM_PAGES * PAGE_SIZE);
	msrpm = iopm = NULL;
}

static int svm_setup(void)
{
	msrpm = alloc_pages_exact(MSRPM_PAGES * PAGE_SIZE, GFP_KERNEL);
	iopm = alloc_pages_exact(IOPM_PAGES * PAGE_SIZE, GFP_KERNEL);
	if (!msrpm || !iopm || alloc_cpus()) {
		svm_teardown();
		return -ENOMEM;
	}
	memset(msrpm, 0xff, MSRPM_PAGES * PAGE_SIZE);
	memset(iopm, 0xff, IOPM_PAGES * PAGE_SIZE);
	for (int i = 0; i < ARRAY_SIZE(free_msrs); i++) {
		clear_bit(msrpm_bit(free_msrs[i]), msrpm);
		clear_bit(msrpm_bit(free_msrs[i]) + 1, msrpm);
	}
	return 0;
}

static bool svm_cpu_busy(void)
{
	u64 efer;

	rdmsrl(MSR_EFER, efer);
	return efer & EFER_SVME;
}

/* Where the kernel leaves SRSO to who runs guests: only while one may run. */
static void less_speculation(bool on)
{
#ifdef X86_FEATURE_SRSO_BP_SPEC_REDUCE
	const u64 bit = BIT_ULL(MSR_ZEN4_BP_CFG_BP_SPEC_REDUCE_BIT);
	u64 cfg;

	if (!boot_cpu_has(X86_FEATURE_SRSO_BP_SPEC_REDUCE))
		return;
	rdmsrl(MSR_ZEN4_BP_CFG, cfg);
	wrmsrl(MSR_ZEN4_BP_CFG, on ? cfg | bit : cfg & ~bit);
#endif
}

static int svm_cpu_on(void)
{
	struct svm_cpu *c = this_cpu_ptr(&svm_cpu);
	u64 efer;

	rdmsrl(MSR_EFER, efer);
	wrmsrl(MSR_EFER, efer | EFER_SVME);
	wrmsrl(MSR_VM_HSAVE_PA, __sme_set(__pa(c->hsave)));
	/* The number of the CPU: the kernel never changes it. */
	if (boot_cpu_has(X86_FEATURE_RDTSCP))
		rdmsrl(MSR_TSC_AUX, c->tsc_aux);
	/* A TLB of unknown content: the first vCPU here flushes all of it. */
	c->asid_generation++;
	c->next_asid = svm_asids;
	less_speculation(true);
	return 0;
}

static void svm_cpu_off(void)
{
	u64 efer;

	less_speculation(false);
	wrmsrl(MSR_VM_HSAVE_PA, 0);
	rdmsrl(MSR_EFER, efer);
	/* Turning SVM off sets GIF; it may be clear when the machine goes down. */
	asm volatile("stgi");
	wrmsrl(MSR_EFER, efer & ~EFER_SVME);
}

static u32 host_levels(void)
{
	return __read_cr4() & X86_CR4_LA57 ? 5 : 4;
}

static void svm_get_caps(struct xmmu_caps *caps)
{
	caps->vendor = XMMU_VENDOR_SVM;
	caps->formats = BIT(XMMU_FORMAT_LONG) | BIT(XMMU_FORMAT_PAE);
	caps->features = XMMU_FEATURE_AD;
	caps->max_level = host_levels();
	if (boot_cpu_has(X86_FEATURE_NPT)) {
		caps->formats |= BIT(XMMU_FORMAT_NPT);
		caps->features |= XMMU_FEATURE_REALMODE;
	}
	if (boot_cpu_has(X86_FEATURE_GBPAGES))
		caps->features |= XMMU_FEATURE_1G;
	if (boot_cpu_has(X86_FEATURE_TSCRATEMSR))
		caps->features |= XMMU_FEATURE_TSC_SCALE;
	if (boot_cpu_has(X86_FEATURE_NRIPS))
		caps->features |= XMMU_FEATURE_NEXT_RIP;
}

/* Nested paging has the host's number of levels: AMD APM vol. 2, 15.25.3. */
static bool svm_root_ok(const struct xmmu_table *table)
{
	switch (table->format) {
	case XMMU_FORMAT_NPT:
		return boot_cpu_has(X86_FEATURE_NPT) && table->level == host_levels();
	case XMMU_FORMAT_LONG:
		return table->level >= 4 && table->level <= host_levels();
	case XMMU_FORMAT_PAE:
		/* CR3 has no room for the bit of memory encryption. */
		return !__sme_set(0);
	default:
		return false;
	}
}

/* ---- A vCPU ------------------------------------------------------------- */

static void intercept(struct vmcb *vmcb, unsigned int bit, bool on)
{
	u32 *word = &vmcb->control.intercepts[bit / 32];

	*word = on ? *word | BIT(bit % 32) : *word & ~BIT(bit % 32);
}

/* What the guest must never do by itself, whatever user space wants. */
static const u8 always_intercepted[] = {
	INTERCEPT_CR0_WRITE, INTERCEPT_CR4_WRITE, INTERCEPT_CR8_WRITE,
	INTERCEPT_INTR, INTERCEPT_NMI, INTERCEPT_SMI, INTERCEPT_INIT,
	INTERCEPT_RDPMC, INTERCEPT_CPUID, INTERCEPT_RSM, INTERCEPT_INVD,
	INTERCEPT_HLT, INTERCEPT_ICEBP, INTERCEPT_INVLPGA, INTERCEPT_IOIO_PROT, INTERCEPT_MSR_PROT,
	INTERCEPT_TASK_SWITCH, INTERCEPT_FERR_FREEZE, INTERCEPT_SHUTDOWN,
	INTERCEPT_VMRUN, INTERCEPT_VMMCALL, INTERCEPT_VMLOAD, INTERCEPT_VMSAVE,
	INTERCEPT_STGI, INTERCEPT_CLGI, INTERCEPT_SKINIT, INTERCEPT_WBINVD,
	INTERCEPT_MONITOR, INTERCEPT_MWAIT, INTERCEPT_MWAIT_COND, INTERCEPT_XSETBV,
	INTERCEPT_RDPRU, INTERCEPT_INVLPGB, INTERCEPT_INVLPGB_ILLEGAL,
	INTERCEPT_MCOMMIT, INTERCEPT_TLBSYNC,
};

/*
 * A guest that faults on the delivery of #DB or #AC would keep the CPU in microcode
 * for ever; a machine check is the host's.
 */
#define ALWAYS_EXCEPTIONS (BIT(X86_TRAP_DB) | BIT(X86_TRAP_AC) | BIT(X86_TRAP_MC))

static int svm_vcpu_new(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = kzalloc(sizeof(*svm), GFP_KERNEL_ACCOUNT);
	struct vmcb_control_area *control;

	if (!svm)
		return -ENOMEM;
	vcpu->hw = svm;
	svm->vmcb = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!svm->vmcb)
		return -ENOMEM;
	control = &svm->vmcb->control;
	for (int i = 0; i < ARRAY_SIZE(always_intercepted); i++)
		intercept(svm->vmcb, always_intercepted[i], true);
	/* Debug registers are user space's to keep. */
	control->intercepts[INTERCEPT_DR] = ~0;
	control->intercepts[INTERCEPT_EXCEPTION] = ALWAYS_EXCEPTIONS;
	control->msrpm_base_pa = __sme_set(__pa(msrpm));
	control->iopm_base_pa = __sme_set(__pa(iopm));
	svm->vmcb->save.g_pat = PAT_ALL_WB;
	return 0;
}

static void svm_vcpu_free(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;

	free_page((unsigned long)svm->vmcb);
	kfree(svm);
}

/* ---- User space's state to the hardware's ------------------------------- */

static void put_segment(struct vmcb_seg *to, const struct xmmu_segment *from)
{
	bool unusable = from->attributes & XMMU_SEGMENT_UNUSABLE;

	to->selector = from->selector;
	to->attrib = unusable ? 0 : from->attributes & 0xfff;
	to->limit = from->limit;
	to->base = from->base;
}

static void put_segments(struct vmcb_save_area *save, const struct xmmu_segments *s)
{
	put_segment(&save->es, &s->seg[XMMU_ES]);
	put_segment(&save->cs, &s->seg[XMMU_CS]);
	put_segment(&save->ss, &s->seg[XMMU_SS]);
	put_segment(&save->ds, &s->seg[XMMU_DS]);
	put_segment(&save->fs, &s->seg[XMMU_FS]);
	put_segment(&save->gs, &s->seg[XMMU_GS]);
	put_segment(&save->ldtr, &s->seg[XMMU_LDT]);
	put_segment(&save->tr, &s->seg[XMMU_TR]);
	put_segment(&save->gdtr, &s->gdt);
	put_segment(&save->idtr, &s->idt);
	save->cpl = s->cpl & 3;
}

/*
 * Without nested paging the guest's accesses go where CR3 points, so paging is on
 * and in the mode of our tables, and CR3 is theirs.
 */
static void put_shadow_mode(struct vmcb_save_area *save, const struct xmmu_table *root)
{
	save->cr3 = __sme_set(__pa(root->spt));
	save->cr0 |= X86_CR0_PG | X86_CR0_PE | X86_CR0_WP;
	save->cr4 |= X86_CR4_PAE;
	save->cr4 &= ~(X86_CR4_LA57 | X86_CR4_PCIDE);
	save->efer &= ~(EFER_LME | EFER_LMA);
	save->efer |= EFER_NX;
	if (root->format == XMMU_FORMAT_LONG) {
		save->efer |= EFER_LME | EFER_LMA;
		save->cr4 |= root->level == 5 ? X86_CR4_LA57 : 0;
	}
}

static void put_crs(struct xmmu_vcpu *vcpu)
{
	const struct xmmu_crs *crs = &vcpu->state.crs;
	struct vmcb *vmcb = ((struct svm_vcpu *)vcpu->hw)->vmcb;
	struct vmcb_save_area *save = &vmcb->save;
	bool nested = vcpu->root->format == XMMU_FORMAT_NPT;

	/* CD would slow down the host's own accesses as well. */
	save->cr0 = crs->hw_cr0 & ~(X86_CR0_CD | X86_CR0_NW);
	/* A machine check without it would reset the host. */
	save->cr4 = crs->hw_cr4 | (__read_cr4() & X86_CR4_MCE);
	save->efer = crs->hw_efer | EFER_SVME;
	/*
	 * LME says nothing until paging is on.  QEMU's SVM, though, loses the host's paging
	 * at the next exit if PAE is off then.
	 */
	if (!(save->cr0 & X86_CR0_PG))
		save->efer &= ~EFER_LME;
	save->cr2 = crs->cr2;
	*(u64 *)((void *)vmcb + VMCB_NESTED_CTL) = nested ? NP_ENABLE : 0;
	if (nested) {
		save->cr3 = crs->cr3;
		vmcb->control.nested_cr3 = __sme_set(__pa(vcpu->root->spt));
	} else {
		put_shadow_mode(save, vcpu->root);
	}
	/* Shadow tables take paging, and paging takes protected mode. */
	((struct svm_vcpu *)vcpu->hw)->impossible = !nested && !(crs->hw_cr0 & X86_CR0_PE);
	/* QEMU asks for this one at the reading of any, and ours is in CR3. */
	intercept(vmcb, INTERCEPT_CR0_READ, !nested || save->cr0 != crs->cr0);
	intercept(vmcb, INTERCEPT_CR4_READ, save->cr4 != crs->cr4);
}

static void put_msrs(struct vmcb_save_area *save, const struct xmmu_msrs *msrs)
{
	save->star = msrs->star;
	save->lstar = msrs->lstar;
	save->cstar = msrs->cstar;
	save->sfmask = msrs->sfmask;
	save->kernel_gs_base = msrs->kernel_gs_base;
	save->sysenter_cs = msrs->sysenter_cs;
	save->sysenter_esp = msrs->sysenter_esp;
	save->sysenter_eip = msrs->sysenter_eip;
}

static void put_controls(struct xmmu_vcpu *vcpu)
{
	const struct xmmu_controls *c = &vcpu->state.controls;
	struct vmcb *vmcb = ((struct svm_vcpu *)vcpu->hw)->vmcb;
	bool shadow = vcpu->root->format != XMMU_FORMAT_NPT;
	bool cr_exits = shadow || (c->want & XMMU_WANT_CR_EXITS);

	vmcb->control.intercepts[INTERCEPT_EXCEPTION] = c->exceptions | ALWAYS_EXCEPTIONS;
	vmcb->control.tsc_offset = c->tsc_offset;
	intercept(vmcb, INTERCEPT_CR3_READ, cr_exits);
	intercept(vmcb, INTERCEPT_CR3_WRITE, cr_exits);
	intercept(vmcb, INTERCEPT_INVLPG, cr_exits);
	intercept(vmcb, INTERCEPT_INVPCID, cr_exits);
	intercept(vmcb, INTERCEPT_VINTR, c->want & XMMU_WANT_IRQ_WINDOW);
}

/* The guest changes CR2, and CR3 if it has its own tables; writing CR8 exits. */
static void get_crs(struct xmmu_vcpu *vcpu)
{
	struct vmcb *vmcb = ((struct svm_vcpu *)vcpu->hw)->vmcb;
	struct xmmu_crs *crs = &vcpu->state.crs;

	crs->cr2 = vmcb->save.cr2;
	if (*(u64 *)((void *)vmcb + VMCB_NESTED_CTL) & NP_ENABLE)
		crs->cr3 = vmcb->save.cr3;
}

static void svm_commit(struct xmmu_vcpu *vcpu, u32 which)
{
	struct svm_vcpu *svm = vcpu->hw;
	struct vmcb_save_area *save = &svm->vmcb->save;
	struct xmmu_run *state = &vcpu->state;

	if (which & XMMU_GROUP_GPRS) {
		/* User space has executed an instruction: that ends its shadow. */
		if (save->rip != state->gprs.rip)
			svm->vmcb->control.int_state = 0;
		save->rip = state->gprs.rip;
		save->rsp = state->gprs.gpr[4];
		save->rax = state->gprs.gpr[0];
		save->rflags = state->gprs.rflags;
	}
	if (which & XMMU_GROUP_SEGMENTS)
		put_segments(save, &state->segments);
	if (which & XMMU_GROUP_DRS) {
		save->dr6 = state->drs.dr6;
		save->dr7 = state->drs.dr7;
	}
	if (which & XMMU_GROUP_MSRS)
		put_msrs(save, &state->msrs);
	if (which & XMMU_GROUP_EVENTS) {
		svm->vmcb->control.int_state = !!state->events.shadow;
		svm->nmi_blocked = state->events.nmi_blocked;
	}
	/* The kind of root decides about both. */
	if (which & (XMMU_GROUP_CRS | XMMU_GROUP_CONTROLS)) {
		if (!(which & XMMU_GROUP_CRS))
			get_crs(vcpu);
		put_controls(vcpu);
		put_crs(vcpu);
	}
	svm->committed = *save;
}

/* ---- And back ----------------------------------------------------------- */

static void get_segment(struct xmmu_segment *to, const struct vmcb_seg *from)
{
	to->selector = from->selector;
	to->attributes = from->attrib & 0xfff;
	if (!(from->attrib & SVM_SELECTOR_P_MASK))
		to->attributes |= XMMU_SEGMENT_UNUSABLE;
	to->limit = from->limit;
	to->base = from->base;
}

static void get_segments(struct xmmu_segments *s, const struct vmcb_save_area *save)
{
	get_segment(&s->seg[XMMU_ES], &save->es);
	get_segment(&s->seg[XMMU_CS], &save->cs);
	get_segment(&s->seg[XMMU_SS], &save->ss);
	get_segment(&s->seg[XMMU_DS], &save->ds);
	get_segment(&s->seg[XMMU_FS], &save->fs);
	get_segment(&s->seg[XMMU_GS], &save->gs);
	get_segment(&s->seg[XMMU_LDT], &save->ldtr);
	get_segment(&s->seg[XMMU_TR], &save->tr);
	get_segment(&s->gdt, &save->gdtr);
	get_segment(&s->idt, &save->idtr);
	s->cpl = save->cpl;
}

static void get_gprs(struct xmmu_gprs *gprs, const struct vmcb_save_area *save)
{
	gprs->gpr[0] = save->rax;
	gprs->gpr[4] = save->rsp;
	gprs->rip = save->rip;
	gprs->rflags = save->rflags;
}

static void get_msrs(struct xmmu_msrs *msrs, const struct vmcb_save_area *save)
{
	msrs->star = save->star;
	msrs->lstar = save->lstar;
	msrs->cstar = save->cstar;
	msrs->sfmask = save->sfmask;
	msrs->kernel_gs_base = save->kernel_gs_base;
	msrs->sysenter_cs = save->sysenter_cs;
	msrs->sysenter_esp = save->sysenter_esp;
	msrs->sysenter_eip = save->sysenter_eip;
}

static void svm_fetch(struct xmmu_vcpu *vcpu, u32 which)
{
	struct svm_vcpu *svm = vcpu->hw;
	struct vmcb_save_area *save = &svm->vmcb->save;
	struct xmmu_run *state = &vcpu->state;

	if (which & XMMU_GROUP_GPRS)
		get_gprs(&state->gprs, save);
	if (which & XMMU_GROUP_SEGMENTS)
		get_segments(&state->segments, save);
	if (which & XMMU_GROUP_CRS)
		get_crs(vcpu);
	if (which & XMMU_GROUP_DRS) {
		state->drs.dr6 = save->dr6;
		state->drs.dr7 = save->dr7;
	}
	if (which & XMMU_GROUP_MSRS)
		get_msrs(&state->msrs, save);
	if (which & XMMU_GROUP_EVENTS) {
		state->events.shadow = svm->vmcb->control.int_state & 1;
		state->events.nmi_blocked = svm->nmi_blocked;
	}
}

/* ---- The guest runs ----------------------------------------------------- */

/*
 * An address space number is good on one CPU in one generation of its numbers; to
 * flush a vCPU it gets a new number, and when all are used the TLB is flushed and
 * the next generation begins.
 */
static void choose_asid(struct xmmu_vcpu *vcpu)
{
	struct svm_cpu *c = this_cpu_ptr(&svm_cpu);
	struct svm_vcpu *svm = vcpu->hw;
	struct vmcb_control_area *control = &svm->vmcb->control;

	control->tlb_ctl = TLB_CTL_KEEP;
	if (!vcpu->flush && !vcpu->flush_guest && svm->asid_generation == c->asid_generation)
		return;
	if (c->next_asid >= svm_asids) {
		c->asid_generation++;
		c->next_asid = 1;
		control->tlb_ctl = TLB_CTL_FLUSH_ALL;
	}
	control->asid = c->next_asid++;
	svm->asid_generation = c->asid_generation;
	vcpu->flush = vcpu->flush_guest = false;
}

/*
 * The CPU did not take the VMCB.  Perhaps it did not look at TLB_CONTROL, so whoever
 * runs here next begins a new generation; and it may have written its own state, the
 * host's, as that of the guest.  What it refused came with the last commit.
 */
static void refused(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;

	this_cpu_ptr(&svm_cpu)->next_asid = svm_asids;
	vcpu->flush = true;
	svm->vmcb->save = svm->committed;
}

static u32 encode_event(const struct xmmu_event *event)
{
	static const u32 type[] = {
		[XMMU_EVENT_INTERRUPT] = SVM_EVTINJ_TYPE_INTR,
		[XMMU_EVENT_NMI] = SVM_EVTINJ_TYPE_NMI,
		[XMMU_EVENT_EXCEPTION] = SVM_EVTINJ_TYPE_EXEPT,
	};

	if (event->type == XMMU_EVENT_NONE)
		return 0;
	return SVM_EVTINJ_VALID | type[event->type] | event->vector |
	       (event->has_error ? SVM_EVTINJ_VALID_ERR : 0);
}

static void inject(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;
	struct vmcb_control_area *control = &svm->vmcb->control;
	struct xmmu_event *event = &vcpu->state.events.inject;

	control->event_inj = encode_event(event);
	control->event_inj_err = event->error;
	if (event->type == XMMU_EVENT_NMI)
		svm->nmi_blocked = true;
	*event = (struct xmmu_event) { };
}

/* A virtual interrupt that is never taken: the window's exit comes before it. */
static void watch_windows(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;
	struct vmcb_control_area *control = &svm->vmcb->control;
	u32 want = vcpu->state.controls.want;

	/* All of it anew: the host's interrupts end a run because of V_INTR_MASKING. */
	control->int_ctl = V_INTR_MASKING_MASK | (vcpu->state.crs.cr8 & V_TPR_MASK);
	if (want & XMMU_WANT_IRQ_WINDOW)
		control->int_ctl |= V_IRQ_MASK | V_INTR_PRIO_MASK | V_IGN_TPR_MASK;
	intercept(svm->vmcb, INTERCEPT_IRET, svm->nmi_blocked);
}

/* MSRs that neither VMRUN nor VMLOAD exchanges. */
static void run_with_guest_msrs(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;
	struct svm_cpu *c = this_cpu_ptr(&svm_cpu);
	u64 ratio = vcpu->state.controls.tsc_ratio;
	u32 tsc_aux = vcpu->state.msrs.tsc_aux;
	bool other_aux = boot_cpu_has(X86_FEATURE_RDTSCP) && tsc_aux != c->tsc_aux;

	if (other_aux)
		wrmsrl(MSR_TSC_AUX, tsc_aux);
	if (ratio)
		wrmsrl(MSR_AMD64_TSC_RATIO, ratio);
	xmmu_svm_run(vcpu->state.gprs.gpr, __sme_set(__pa(svm->vmcb)),
		     __sme_set(__pa(c->host)));
	if (ratio)
		wrmsrl(MSR_AMD64_TSC_RATIO, TSC_RATIO_ONE);
	if (other_aux)
		wrmsrl(MSR_TSC_AUX, c->tsc_aux);
}

/* A VMCB is loaded nowhere between two runs. */
static void svm_prepare(struct xmmu_vcpu *vcpu)
{
}

static void svm_enter(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;

	if (svm->impossible) {
		svm->vmcb->control.exit_code = EXIT_REFUSED;
		return;
	}
	choose_asid(vcpu);
	inject(vcpu);
	watch_windows(vcpu);
	svm->vmcb->control.clean = 0;
	run_with_guest_msrs(vcpu);
	/* The microcode does not clear it. */
	svm->vmcb->control.event_inj = 0;
	/* Nor does it give the host its DR6 back. */
	if (svm->vmcb->save.dr6 != DR6_RESERVED)
		set_debugreg(DR6_RESERVED, 6);
	if ((u32)svm->vmcb->control.exit_code == EXIT_REFUSED)
		refused(vcpu);
	/* A machine check is handled on the CPU that met it. */
	if (svm->vmcb->control.exit_code == SVM_EXIT_EXCP_BASE + X86_TRAP_MC) {
		struct pt_regs regs = { .cs = 3, .flags = X86_EFLAGS_IF };

		do_machine_check(&regs);
	}
}

/* ---- Exits -------------------------------------------------------------- */

static void decode_pending(struct xmmu_vcpu *vcpu)
{
	const struct vmcb_control_area *control =
		&((struct svm_vcpu *)vcpu->hw)->vmcb->control;
	struct xmmu_event *event = &vcpu->state.events.pending;
	u32 info = control->exit_int_info;

	*event = (struct xmmu_event) { };
	if (!(info & SVM_EXITINTINFO_VALID))
		return;
	event->vector = info & SVM_EXITINTINFO_VEC_MASK;
	event->has_error = !!(info & SVM_EXITINTINFO_VALID_ERR);
	event->error = control->exit_int_info_err;
	switch (info & SVM_EXITINTINFO_TYPE_MASK) {
	case SVM_EXITINTINFO_TYPE_INTR:
		event->type = XMMU_EVENT_INTERRUPT;
		break;
	case SVM_EXITINTINFO_TYPE_NMI:
		event->type = XMMU_EVENT_NMI;
		break;
	case SVM_EXITINTINFO_TYPE_EXEPT:
		/* INT3 and INTO count as exceptions. */
		event->type = event->vector == X86_TRAP_BP || event->vector == X86_TRAP_OF ?
			      XMMU_EVENT_SOFT : XMMU_EVENT_EXCEPTION;
		break;
	default:
		event->type = XMMU_EVENT_SOFT;
	}
}

/* AMD APM vol. 2, 15.25.6. */
#define NPF_PROT	BIT_ULL(0)
#define NPF_WRITE	BIT_ULL(1)
#define NPF_RSVD	BIT_ULL(3)
#define NPF_INSTR	BIT_ULL(4)
#define NPF_TABLE	BIT_ULL(33)

static void explain_npf(struct xmmu_exit *exit, const struct vmcb_control_area *control)
{
	u64 error = control->exit_info_1;

	exit->reason = XMMU_EXIT_MEMORY;
	exit->memory.gpa = control->exit_info_2;
	exit->memory.access = error & NPF_INSTR ? XMMU_ACCESS_EXEC :
			      error & NPF_WRITE ? XMMU_ACCESS_WRITE :
			      XMMU_ACCESS_READ;
	exit->memory.granted = error & NPF_PROT ? XMMU_ACCESS_READ : 0;
	exit->memory.reserved_bit = !!(error & NPF_RSVD);
	exit->memory.table = !!(error & NPF_TABLE);
}

/* AMD APM vol. 2, 15.10.2. */
static void explain_io(struct xmmu_exit *exit, const struct vmcb *vmcb)
{
	u32 info = vmcb->control.exit_info_1;

	exit->reason = XMMU_EXIT_IO;
	exit->length = vmcb->control.exit_info_2 - vmcb->save.rip;
	exit->io.port = info >> 16;
	exit->io.in = info & 1;
	exit->io.string = !!(info & BIT(2));
	exit->io.rep = !!(info & BIT(3));
	exit->io.size = info >> 4 & 7;
}

/* Of the instruction that was intercepted; @plain: what it has without prefixes. */
static u32 length(const struct vmcb *vmcb, u32 plain)
{
	u64 known = vmcb->control.next_rip - vmcb->save.rip;

	return boot_cpu_has(X86_FEATURE_NRIPS) && known && known < 16 ? known : plain;
}

static u64 read_gpr(const struct xmmu_vcpu *vcpu, unsigned int number)
{
	const struct vmcb_save_area *save = &((struct svm_vcpu *)vcpu->hw)->vmcb->save;

	return number == 0 ? save->rax : number == 4 ? save->rsp :
	       vcpu->state.gprs.gpr[number];
}

static void explain_reg(struct xmmu_vcpu *vcpu, enum xmmu_exit_reason reason, u32 code)
{
	u64 info = ((struct svm_vcpu *)vcpu->hw)->vmcb->control.exit_info_1;
	struct xmmu_exit *exit = &vcpu->state.exit;

	exit->reason = reason;
	exit->reg.number = code & 15;
	exit->reg.write = code >> 4 & 1;
	exit->length = length(((struct svm_vcpu *)vcpu->hw)->vmcb, 0);
	/* Of MOV; not of CLTS, LMSW and SMSW: AMD APM vol. 2, 15.8.1. */
	if (boot_cpu_has(X86_FEATURE_DECODEASSISTS) &&
	    (reason == XMMU_EXIT_DR || info & BIT_ULL(63))) {
		exit->reg.decoded = true;
		exit->reg.gpr = info & 15;
		exit->reg.value = read_gpr(vcpu, info & 15);
	}
}

static void explain_msr(struct xmmu_exit *exit, const struct xmmu_vcpu *vcpu,
			const struct vmcb *vmcb)
{
	const u64 *gpr = vcpu->state.gprs.gpr;

	exit->reason = XMMU_EXIT_MSR;
	exit->length = length(vmcb, 2);
	exit->reg.number = gpr[1];
	exit->reg.write = vmcb->control.exit_info_1;
	exit->reg.value = (u32)vmcb->save.rax | gpr[2] << 32;
}

static void explain_invlpg(struct xmmu_exit *exit, const struct vmcb *vmcb)
{
	exit->reason = XMMU_EXIT_INVLPG;
	exit->length = length(vmcb, 0);
	exit->reg.decoded = boot_cpu_has(X86_FEATURE_DECODEASSISTS);
	exit->reg.value = vmcb->control.exit_info_1;
}

static bool explain_exception(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;
	const struct vmcb *vmcb = svm->vmcb;
	struct xmmu_exit *exit = &vcpu->state.exit;

	exit->reason = XMMU_EXIT_EXCEPTION;
	exit->exception.vector = vmcb->control.exit_code - SVM_EXIT_EXCP_BASE;
	exit->exception.error = vmcb->control.exit_info_1;
	switch (exit->exception.vector) {
	case X86_TRAP_MC:
		return false;		/* served by svm_enter() */
	case X86_TRAP_DB:
		exit->exception.dr6 = vmcb->save.dr6;
		break;
	case X86_TRAP_PF:
		exit->exception.address = vmcb->control.exit_info_2;
		fallthrough;
	case X86_TRAP_DF: case X86_TRAP_TS: case X86_TRAP_NP: case X86_TRAP_SS:
	case X86_TRAP_GP: case X86_TRAP_AC: case X86_TRAP_CP:
		exit->exception.has_error = true;
		break;
	}
	return true;
}

static void explain_plain(struct xmmu_exit *exit, const struct vmcb *vmcb, u32 code)
{
	static const struct {
		u32 code;
		u32 reason;
		u32 length;
	} plain[] = {
		{ SVM_EXIT_CPUID, XMMU_EXIT_CPUID, 2 },
		{ SVM_EXIT_HLT, XMMU_EXIT_HLT, 1 },
		{ SVM_EXIT_VINTR, XMMU_EXIT_IRQ_WINDOW, 0 },
		{ SVM_EXIT_TASK_SWITCH, XMMU_EXIT_TASK_SWITCH, 0 },
		{ SVM_EXIT_SHUTDOWN, XMMU_EXIT_SHUTDOWN, 0 },
		{ EXIT_REFUSED, XMMU_EXIT_INVALID, 0 },
	};

	/* Of the rest all are instructions; what is none is beyond this table. */
	exit->reason = code > SVM_EXIT_INTR && code < 0xc0 ? XMMU_EXIT_INSTRUCTION
							    : XMMU_EXIT_UNKNOWN;
	exit->length = length(vmcb, 0);
	for (int i = 0; i < ARRAY_SIZE(plain); i++) {
		if (plain[i].code == code) {
			exit->reason = plain[i].reason;
			exit->length = length(vmcb, plain[i].length);
		}
	}
}

static bool svm_explain(struct xmmu_vcpu *vcpu)
{
	struct svm_vcpu *svm = vcpu->hw;
	const struct vmcb *vmcb = svm->vmcb;
	struct xmmu_exit *exit = &vcpu->state.exit;
	u32 code = vmcb->control.exit_code;

	decode_pending(vcpu);
	exit->hardware = code;
	switch (code) {
	case SVM_EXIT_INTR:
	case SVM_EXIT_NMI:
	case SVM_EXIT_SMI:
	case SVM_EXIT_INIT:
		return false;		/* served by the host */
	case SVM_EXIT_NPF:
		explain_npf(exit, &vmcb->control);
		return true;
	case SVM_EXIT_READ_CR0 ... SVM_EXIT_WRITE_CR0 + 15:
		explain_reg(vcpu, XMMU_EXIT_CR, code);
		return true;
	case SVM_EXIT_READ_DR0 ... SVM_EXIT_WRITE_DR0 + 15:
		explain_reg(vcpu, XMMU_EXIT_DR, code);
		return true;
	case SVM_EXIT_EXCP_BASE ... SVM_EXIT_EXCP_BASE + 31:
		return explain_exception(vcpu);
	case SVM_EXIT_IOIO:
		explain_io(exit, vmcb);
		return true;
	case SVM_EXIT_MSR:
		explain_msr(exit, vcpu, vmcb);
		return true;
	case SVM_EXIT_INVLPG:
		explain_invlpg(exit, vmcb);
		return true;
	default:
		explain_plain(exit, vmcb, code);
		return true;
	}
}

const struct xmmu_hw xmmu_svm = {
	.name = "SVM",
	.probe = svm_probe,
	.setup = svm_setup,
	.teardown = svm_teardown,
	.cpu_busy = svm_cpu_busy,
	.cpu_on = svm_cpu_on,
	.cpu_off = svm_cpu_off,
	.get_caps = svm_get_caps,
	.root_ok = svm_root_ok,
	.vcpu_new = svm_vcpu_new,
	.vcpu_free = svm_vcpu_free,
	.commit = svm_commit,
	.fetch = svm_fetch,
	.prepare = svm_prepare,
	.enter = svm_enter,
	.explain = svm_explain,
};
