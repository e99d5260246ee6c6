// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: VMX
 *
 * What a vCPU's state and its exits are on Intel's hardware (Intel SDM vol. 3,
 * chapters 25 to 29).  The mirror of svm.c: the same functions in the same order.
 *
 * User space chooses what the guest's registers say; the controls that keep the
 * host safe are set here and cannot be taken away.
 *
 * A VMCS is loaded on one CPU at a time.  vmx_load() makes it the current one of
 * the CPU that it is called on; everything that reads or writes the VMCS does so
 * between that and the end of a stretch without preemption.
 */
#include <linux/gfp.h>
#include <linux/idr.h>
#include <linux/list.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <asm/cpufeature.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/io.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/perf_event.h>
#include <asm/ptrace.h>
#include <asm/tlbflush.h>
#include <asm/trapnr.h>
#include <asm/tsc.h>
#include <asm/vmx.h>
#include "compat.h"
#include "xmmu.h"

/* What an exit left behind, read while the VMCS was current. */
struct vmx_exit {
	u32 reason, length, intr_info, intr_error, vectoring, vectoring_error;
	u64 qualification, gpa, gva;
	bool failed;			/* the VMCS was not entered */
	u32 error;			/* why */
};

struct vmx_vcpu {
	void *vmcs;
	struct list_head loaded;	/* in vmx_cpu.loaded of loaded_on */
	int loaded_on;			/* CPU, or -1 */
	bool launched;
	int host_cpu;			/* whose addresses the host fields hold, or -1 */
	u16 vpid;
	bool ept;			/* the VMCS is set up for a root of that format */
	bool refused;			/* what put_crs() was given cannot be run */
	bool logs;			/* page-modification logging is on */
	struct xmmu_event injected;	/* at this entry */
	struct vmx_exit exit;
};

/* ---- Host: probe, set-up, each CPU --------------------------------------- */

struct vmx_cpu {
	void *vmxon;
	void *current_vmcs;
	struct list_head loaded;	/* this CPU, interrupts off */
};

static DEFINE_PER_CPU(struct vmx_cpu, vmx_cpu);
static DEFINE_IDA(vpids);

/* What this CPU can do; const after probe. */
static struct {
	u32 revision;
	u32 pin, cpu, secondary, exit, entry;	/* controls that we use */
	u64 ept_vpid;
	u64 cr0_must, cr0_may, cr4_must, cr4_may;
	bool ept, unrestricted;
} vmx;
static void *msr_bitmap;	/* const after set-up */

/* The host's interrupts end a stay in the guest, where the CPU does as the manual says. */
static unsigned int max_stay_us;
module_param(max_stay_us, uint, 0444);
MODULE_PARM_DESC(max_stay_us,
		 "Microseconds after which a guest is left at the latest, by the VMX-preemption timer (0: no limit)");

#define PIN_NEEDED (PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING | \
		    PIN_BASED_VIRTUAL_NMIS)
/* What is turned on and off; CR3 and INVLPG exit with shadow tables. */
#define WINDOW_EXITS (CPU_BASED_INTR_WINDOW_EXITING | CPU_BASED_NMI_WINDOW_EXITING)
#define SHADOW_EXITS (CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING | \
		      CPU_BASED_INVLPG_EXITING)
#define CPU_NEEDED (CPU_BASED_HLT_EXITING | CPU_BASED_MWAIT_EXITING | \
		    CPU_BASED_MONITOR_EXITING | CPU_BASED_RDPMC_EXITING | \
		    CPU_BASED_CR8_LOAD_EXITING | CPU_BASED_CR8_STORE_EXITING | \
		    CPU_BASED_MOV_DR_EXITING | CPU_BASED_UNCOND_IO_EXITING | \
		    CPU_BASED_USE_MSR_BITMAPS | CPU_BASED_USE_TSC_OFFSETTING | \
		    CPU_BASED_ACTIVATE_SECONDARY_CONTROLS | WINDOW_EXITS | SHADOW_EXITS)
#define SECONDARY_USED (SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_UNRESTRICTED_GUEST | \
			SECONDARY_EXEC_ENABLE_VPID | SECONDARY_EXEC_ENABLE_RDTSCP | \
			SECONDARY_EXEC_ENABLE_INVPCID | SECONDARY_EXEC_TSC_SCALING | \
			SECONDARY_EXEC_ENCLS_EXITING | SECONDARY_EXEC_ENABLE_PML)
#define EXIT_NEEDED (VM_EXIT_HOST_ADDR_SPACE_SIZE | VM_EXIT_LOAD_IA32_EFER | \
		     VM_EXIT_SAVE_DEBUG_CONTROLS)
#define ENTRY_NEEDED (VM_ENTRY_LOAD_IA32_EFER | VM_ENTRY_LOAD_DEBUG_CONTROLS)

/*
 * @needed, @used as far as the MSR lets it, and what it demands: SDM vol. 3, A.3.
 * The true MSRs have the numbers of the others plus 12, but the secondary's.
 */
static bool choose(u32 *control, u32 msr, u32 needed, u32 used)
{
	u32 must, may;
	u64 basic;

	rdmsrl(MSR_IA32_VMX_BASIC, basic);
	if (msr != MSR_IA32_VMX_PROCBASED_CTLS2 && (basic & BIT_ULL(55)))
		msr += MSR_IA32_VMX_TRUE_PINBASED_CTLS - MSR_IA32_VMX_PINBASED_CTLS;
	rdmsr(msr, must, may);
	if (needed & ~may)
		pr_err("xmmu: VMX controls 0x%x: bits 0x%x are missing\n", msr,
		       needed & ~may);
	*control = ((needed | used) & may) | must;
	return !(needed & ~may);
}

static bool read_controls(void)
{
	u32 timer = max_stay_us ? PIN_BASED_VMX_PREEMPTION_TIMER : 0;

	return choose(&vmx.pin, MSR_IA32_VMX_PINBASED_CTLS, PIN_NEEDED | timer, 0) &&
	       choose(&vmx.cpu, MSR_IA32_VMX_PROCBASED_CTLS, CPU_NEEDED, 0) &&
	       choose(&vmx.secondary, MSR_IA32_VMX_PROCBASED_CTLS2,
		      SECONDARY_EXEC_WBINVD_EXITING, SECONDARY_USED) &&
	       choose(&vmx.exit, MSR_IA32_VMX_EXIT_CTLS, EXIT_NEEDED, 0) &&
	       choose(&vmx.entry, MSR_IA32_VMX_ENTRY_CTLS, ENTRY_NEEDED, 0) &&
	       /* Interrupts that the exit acknowledged would have to be called by hand. */
	       !(vmx.exit & VM_EXIT_ACK_INTR_ON_EXIT);
}

/* IA32_VMX_EPT_VPID_CAP: SDM vol. 3, A.10. */
#define EPT_CAP_EXECONLY	BIT_ULL(0)
#define EPT_CAP_5LEVEL		BIT_ULL(7)
#define EPT_CAP_1G		BIT_ULL(17)
#define EPT_CAP_AD		BIT_ULL(21)
/* Four levels, write-back tables, 2 MiB leaves, INVEPT of one context. */
#define EPT_NEEDED (BIT_ULL(6) | BIT_ULL(14) | BIT_ULL(16) | BIT_ULL(20) | BIT_ULL(25))
/* INVVPID of one context. */
#define VPID_NEEDED (BIT_ULL(32) | BIT_ULL(41))

static void read_ept_caps(void)
{
	if (vmx.secondary & (SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_ENABLE_VPID))
		rdmsrl(MSR_IA32_VMX_EPT_VPID_CAP, vmx.ept_vpid);
	if (~vmx.ept_vpid & VPID_NEEDED)
		vmx.secondary &= ~SECONDARY_EXEC_ENABLE_VPID;
	if (~vmx.ept_vpid & EPT_NEEDED)
		vmx.secondary &= ~(SECONDARY_EXEC_ENABLE_EPT |
				   SECONDARY_EXEC_UNRESTRICTED_GUEST);
	vmx.ept = vmx.secondary & SECONDARY_EXEC_ENABLE_EPT;
	if (!vmx.ept || !(vmx.ept_vpid & EPT_CAP_AD))
		vmx.secondary &= ~SECONDARY_EXEC_ENABLE_PML;
	vmx.unrestricted = vmx.secondary & SECONDARY_EXEC_UNRESTRICTED_GUEST;
}

static int vmx_probe(void)
{
	u64 feature, basic;

	if (!boot_cpu_has(X86_FEATURE_VMX))
		return -ENODEV;
#ifdef X86_FEATURE_FRED
	/* serve_host() hands an NMI over through the IDT. */
	if (cpu_feature_enabled(X86_FEATURE_FRED))
		return -EOPNOTSUPP;
#endif
	rdmsrl(MSR_IA32_FEAT_CTL, feature);
	if (!(feature & FEAT_CTL_LOCKED) || !(feature & FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX))
		return -EPERM;
	if (!read_controls())
		return -EOPNOTSUPP;
	read_ept_caps();
	/* SDM vol. 3, A.1, A.7 and A.8. */
	rdmsrl(MSR_IA32_VMX_BASIC, basic);
	vmx.revision = basic;
	rdmsrl(MSR_IA32_VMX_CR0_FIXED0, vmx.cr0_must);
	rdmsrl(MSR_IA32_VMX_CR0_FIXED1, vmx.cr0_may);
	rdmsrl(MSR_IA32_VMX_CR4_FIXED0, vmx.cr4_must);
	rdmsrl(MSR_IA32_VMX_CR4_FIXED1, vmx.cr4_may);
	return 0;
}

/* MSRs that the guest has to itself: the VMCS exchanges them, or vmx_enter() does. */
static const u32 free_msrs[] = {
	MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_STAR, MSR_LSTAR, MSR_CSTAR,
	MSR_SYSCALL_MASK, MSR_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_ESP,
	MSR_IA32_SYSENTER_EIP,
};

static void vmx_teardown(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct vmx_cpu *c = per_cpu_ptr(&vmx_cpu, cpu);

		free_page((unsigned long)c->vmxon);
		c->vmxon = NULL;
	}
	free_page((unsigned long)msr_bitmap);
	msr_bitmap = NULL;
}

static int vmx_setup(void)
{
	int cpu;

	msr_bitmap = (void *)__get_free_page(GFP_KERNEL);
	if (!msr_bitmap)
		return -ENOMEM;
	memset(msr_bitmap, 0xff, PAGE_SIZE);
	/* A bit for reading, 2 KiB further one for writing: SDM vol. 3, 25.6.9. */
	for (int i = 0; i < ARRAY_SIZE(free_msrs); i++) {
		u32 bit = (free_msrs[i] >> 31 ? 0x2000 : 0) + (free_msrs[i] & 0x1fff);

		clear_bit(bit, msr_bitmap);
		clear_bit(bit + 0x4000, msr_bitmap);
	}
	for_each_possible_cpu(cpu) {
		struct vmx_cpu *c = per_cpu_ptr(&vmx_cpu, cpu);

		INIT_LIST_HEAD(&c->loaded);
		c->vmxon = (void *)get_zeroed_page(GFP_KERNEL);
		if (!c->vmxon) {
			vmx_teardown();
			return -ENOMEM;
		}
		*(u32 *)c->vmxon = vmx.revision;
	}
	return 0;
}

static bool vmx_cpu_busy(void)
{
	return __read_cr4() & X86_CR4_VMXE;
}

/*
 * A VMX instruction says by CF or ZF that it failed.  It faults where VMX is off: a
 * reboot does that behind our back.
 */
#define VMX_INSN(insn, operand...) ({ \
	bool failed_ = true; \
	asm volatile("1: " insn "; setna %0\n2:\n" _ASM_EXTABLE(1b, 2b) \
		     : "+qm" (failed_) : operand : "cc", "memory"); \
	failed_; })

static int vmx_cpu_on(void)
{
	u64 pa = __pa(this_cpu_ptr(&vmx_cpu)->vmxon);

	cr4_set_bits_irqsoff(X86_CR4_VMXE);
	/* Processor Trace cannot run under VMX on every CPU. */
	intel_pt_handle_vmx(1);
	if (!VMX_INSN("vmxon %1", "m" (pa)))
		return 0;
	intel_pt_handle_vmx(0);
	cr4_clear_bits_irqsoff(X86_CR4_VMXE);
	return -EIO;
}

static void vmcs_unload(struct vmx_vcpu *v)
{
	u64 pa = __pa(v->vmcs);

	VMX_INSN("vmclear %1", "m" (pa));
	list_del(&v->loaded);
	WRITE_ONCE(v->loaded_on, -1);
	v->launched = false;
	if (this_cpu_read(vmx_cpu.current_vmcs) == v->vmcs)
		this_cpu_write(vmx_cpu.current_vmcs, NULL);
}

static void vmx_cpu_off(void)
{
	struct vmx_vcpu *v, *next;

	list_for_each_entry_safe(v, next, this_cpu_ptr(&vmx_cpu.loaded), loaded)
		vmcs_unload(v);
	VMX_INSN("vmxoff");
	intel_pt_handle_vmx(0);
	cr4_clear_bits_irqsoff(X86_CR4_VMXE);
}

static u32 ept_levels(void)
{
	return vmx.ept_vpid & EPT_CAP_5LEVEL ? 5 : 4;
}

static void vmx_get_caps(struct xmmu_caps *caps)
{
	caps->vendor = XMMU_VENDOR_VMX;
	caps->formats = BIT(XMMU_FORMAT_LONG) | BIT(XMMU_FORMAT_PAE);
	caps->features = XMMU_FEATURE_NEXT_RIP;
	caps->max_level = vmx.ept ? ept_levels() : 4;
	if (vmx.ept) {
		caps->formats |= BIT(XMMU_FORMAT_EPT);
		caps->features |= vmx.ept_vpid & EPT_CAP_EXECONLY ? XMMU_FEATURE_EXECONLY : 0;
		caps->features |= vmx.ept_vpid & EPT_CAP_1G ? XMMU_FEATURE_1G : 0;
		caps->features |= vmx.ept_vpid & EPT_CAP_AD ? XMMU_FEATURE_AD : 0;
	}
	if (boot_cpu_has_bug(X86_BUG_ITLB_MULTIHIT))
		caps->features |= XMMU_FEATURE_SMALL_EXEC;
	if (vmx.unrestricted)
		caps->features |= XMMU_FEATURE_REALMODE;
	if (vmx.secondary & SECONDARY_EXEC_TSC_SCALING)
		caps->features |= XMMU_FEATURE_TSC_SCALE;
	if (vmx.secondary & SECONDARY_EXEC_ENABLE_PML)
		caps->features |= XMMU_FEATURE_WRITE_LOG;
}

static bool vmx_root_ok(const struct xmmu_table *table)
{
	switch (table->format) {
	case XMMU_FORMAT_EPT:
		return vmx.ept && table->level >= 4 && table->level <= ept_levels();
	case XMMU_FORMAT_LONG:
		return table->level == 4 ||
		       (table->level == 5 && boot_cpu_has(X86_FEATURE_LA57));
	case XMMU_FORMAT_PAE:
		return table->level == 3;
	default:
		return false;
	}
}

/* ---- The VMCS ------------------------------------------------------------ */

static u64 vmread(unsigned long field)
{
	unsigned long value = 0;

	asm volatile("1: vmread %1, %0\n2:\n" _ASM_EXTABLE(1b, 2b)
		     : "+rm" (value) : "r" (field) : "cc");
	return value;
}

static void vmwrite(unsigned long field, unsigned long value)
{
	VMX_INSN("vmwrite %1, %2", "rm" (value), "r" (field));
}

static void unload_here(void *v)
{
	struct vmx_vcpu *vcpu = v;

	/* The CPU may have been turned off meanwhile, and has unloaded it then. */
	if (vcpu->loaded_on == smp_processor_id())
		vmcs_unload(vcpu);
}

/* Preemption is off, interrupts are on. */
static void vmx_load(struct xmmu_vcpu *vcpu)
{
	struct vmx_vcpu *v = vcpu->hw;
	int cpu = smp_processor_id(), old = READ_ONCE(v->loaded_on);
	u64 pa = __pa(v->vmcs);

	if (old >= 0 && old != cpu)
		smp_call_function_single(old, unload_here, v, true);
	local_irq_disable();
	if (v->loaded_on != cpu) {
		list_add(&v->loaded, this_cpu_ptr(&vmx_cpu.loaded));
		WRITE_ONCE(v->loaded_on, cpu);
	}
	if (this_cpu_read(vmx_cpu.current_vmcs) != v->vmcs) {
		WARN_ON_ONCE(VMX_INSN("vmptrld %1", "m" (pa)));
		this_cpu_write(vmx_cpu.current_vmcs, v->vmcs);
	}
	local_irq_enable();
}

/* ---- A vCPU -------------------------------------------------------------- */

struct constant {
	u32 field;
	u64 value;
};

/* What is the same at every entry: SDM vol. 3, 27.2. */
static const struct constant constants[] = {
	{ PAGE_FAULT_ERROR_CODE_MASK, 0 }, { PAGE_FAULT_ERROR_CODE_MATCH, 0 },
	{ CR3_TARGET_COUNT, 0 }, { VM_EXIT_MSR_STORE_COUNT, 0 },
	{ VM_EXIT_MSR_LOAD_COUNT, 0 }, { VM_ENTRY_MSR_LOAD_COUNT, 0 },
	{ GUEST_IA32_DEBUGCTL, 0 }, { GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE },
	{ GUEST_PENDING_DBG_EXCEPTIONS, 0 }, { GUEST_INTERRUPTIBILITY_INFO, 0 },
	{ VMCS_LINK_POINTER, ~0ULL },
	{ CR0_GUEST_HOST_MASK, ~0ULL }, { CR4_GUEST_HOST_MASK, ~0ULL },
	{ HOST_CS_SELECTOR, __KERNEL_CS }, { HOST_SS_SELECTOR, __KERNEL_DS },
	{ HOST_DS_SELECTOR, 0 }, { HOST_ES_SELECTOR, 0 }, { HOST_FS_SELECTOR, 0 },
	{ HOST_GS_SELECTOR, 0 }, { HOST_TR_SELECTOR, GDT_ENTRY_TSS * 8 },
};

/* The timer counts every 2^n-th tick of the TSC: SDM vol. 3, A.6. */
#define MISC_TIMER_RATE		31

/* A stay in the guest, in steps of the VMX-preemption timer: SDM vol. 3, 26.5.1. */
static u32 stay_ticks(void)
{
	u64 misc, ticks = (u64)max_stay_us * tsc_khz / 1000;

	rdmsrl(MSR_IA32_VMX_MISC, misc);
	return clamp_t(u64, ticks >> (misc & MISC_TIMER_RATE), 1, U32_MAX);
}

static void init_vmcs(struct vmx_vcpu *v)
{
	for (int i = 0; i < ARRAY_SIZE(constants); i++)
		vmwrite(constants[i].field, constants[i].value);
	vmwrite(PIN_BASED_VM_EXEC_CONTROL, vmx.pin);
	/* No exit saves what is left of it, so each entry starts with all of it. */
	if (vmx.pin & PIN_BASED_VMX_PREEMPTION_TIMER)
		vmwrite(VMX_PREEMPTION_TIMER_VALUE, stay_ticks());
	vmwrite(VM_EXIT_CONTROLS, vmx.exit);
	vmwrite(MSR_BITMAP, __pa(msr_bitmap));
	vmwrite(HOST_RIP, (unsigned long)xmmu_vmx_exit);
	if (vmx.secondary & SECONDARY_EXEC_ENABLE_VPID)
		vmwrite(VIRTUAL_PROCESSOR_ID, v->vpid);
	if (vmx.secondary & SECONDARY_EXEC_ENCLS_EXITING)
		vmwrite(ENCLS_EXITING_BITMAP, ~0UL);
}

static int vmx_vcpu_new(struct xmmu_vcpu *vcpu)
{
	struct vmx_vcpu *v = kzalloc(sizeof(*v), GFP_KERNEL_ACCOUNT);
	u64 pa;
	int vpid;

	if (!v)
		return -ENOMEM;
	vcpu->hw = v;
	v->loaded_on = v->host_cpu = -1;
	v->vmcs = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	vpid = ida_alloc_range(&vpids, 1, 0xffff, GFP_KERNEL_ACCOUNT);
	v->vpid = max(vpid, 0);
	if (!v->vmcs || vpid < 0)
		return -ENOMEM;
	*(u32 *)v->vmcs = vmx.revision;
	xmmu_cpu_get();
	pa = __pa(v->vmcs);
	VMX_INSN("vmclear %1", "m" (pa));
	vmx_load(vcpu);
	init_vmcs(v);
	xmmu_cpu_put();
	return 0;
}

static void vmx_vcpu_free(struct xmmu_vcpu *vcpu)
{
	struct vmx_vcpu *v = vcpu->hw;
	int cpu = READ_ONCE(v->loaded_on);

	if (cpu >= 0)
		smp_call_function_single(cpu, unload_here, v, true);
	if (v->vpid)
		ida_free(&vpids, v->vpid);
	free_page((unsigned long)v->vmcs);
	kfree(v);
}

/* SDM vol. 3, table 25-2. */
#define AR_ACCESSED	BIT(0)
#define AR_DPL_SHIFT	5
#define AR_DPL		(3 << AR_DPL_SHIFT)
#define AR_PRESENT	BIT(7)
#define AR_UNUSABLE	BIT(16)

/* ---- User space's state to the hardware's -------------------------------- */

/*
 * What the checks of an entry want to see in a segment's hidden part, and what an
 * emulator need not keep there: SDM vol. 3, 27.3.1.2.
 */
static u32 segment_rights(const struct xmmu_segments *s, int number)
{
	u32 attributes = s->seg[number].attributes;
	u32 rights = (attributes & 0xff) | (attributes & 0xf00) << 4;
	bool usable = (rights & AR_PRESENT) && !(attributes & XMMU_SEGMENT_UNUSABLE);

	switch (number) {
	case XMMU_TR:		/* always there, and busy */
		return (rights & ~0x1fU) | AR_PRESENT | ((rights & 13) == 1 ? 3 : 11);
	case XMMU_LDT:
		break;
	case XMMU_SS:		/* its DPL is the CPL, usable or not */
		rights = (rights & ~AR_DPL) | (s->cpl & 3) << AR_DPL_SHIFT;
		fallthrough;
	default:
		rights |= AR_ACCESSED;
	}
	return usable ? rights : (rights & AR_DPL) | AR_UNUSABLE;
}

/* Fields that hold what user space says. */
static const struct {
	u16 field;
	u16 offset;		/* in struct xmmu_run, of 8 bytes */
	u32 group;
} plain_fields[] = {
#define PLAIN(field, member, group) { field, offsetof(struct xmmu_run, member), group }
	PLAIN(GUEST_RIP, gprs.rip, XMMU_GROUP_GPRS),
	PLAIN(GUEST_RSP, gprs.gpr[4], XMMU_GROUP_GPRS),
	PLAIN(GUEST_RFLAGS, gprs.rflags, XMMU_GROUP_GPRS),
	PLAIN(GUEST_GDTR_BASE, segments.gdt.base, XMMU_GROUP_SEGMENTS),
	PLAIN(GUEST_IDTR_BASE, segments.idt.base, XMMU_GROUP_SEGMENTS),
	PLAIN(GUEST_DR7, drs.dr7, XMMU_GROUP_DRS),
	PLAIN(GUEST_SYSENTER_CS, msrs.sysenter_cs, XMMU_GROUP_MSRS),
	PLAIN(GUEST_SYSENTER_ESP, msrs.sysenter_esp, XMMU_GROUP_MSRS),
	PLAIN(GUEST_SYSENTER_EIP, msrs.sysenter_eip, XMMU_GROUP_MSRS),
};

static u64 *plain_member(struct xmmu_run *state, int i)
{
	return (void *)state + plain_fields[i].offset;
}

/* The fields of a segment are as far apart as the segments' numbers. */
static void put_segments(const struct xmmu_segments *s)
{
	for (int i = 0; i < XMMU_SEGMENT_COUNT; i++) {
		vmwrite(GUEST_ES_SELECTOR + 2 * i, s->seg[i].selector);
		vmwrite(GUEST_ES_BASE + 2 * i, s->seg[i].base);
		vmwrite(GUEST_ES_LIMIT + 2 * i, s->seg[i].limit);
		vmwrite(GUEST_ES_AR_BYTES + 2 * i, segment_rights(s, i));
	}
	vmwrite(GUEST_GDTR_LIMIT, (u16)s->gdt.limit);
	vmwrite(GUEST_IDTR_LIMIT, (u16)s->idt.limit);
}

struct vmx_crs {
	u64 cr0, cr3, cr4, efer;
};

/*
 * Without EPT the guest's accesses go where CR3 points, so paging is on and in the
 * mode of our tables, and CR3 is theirs.
 */
static void shadow_mode(struct vmx_crs *crs, const struct xmmu_table *root)
{
	crs->cr3 = __pa(root->spt);
	crs->cr0 |= X86_CR0_PG | X86_CR0_PE | X86_CR0_WP;
	crs->cr4 |= X86_CR4_PAE;
	crs->cr4 &= ~(X86_CR4_LA57 | X86_CR4_PCIDE);
	crs->efer &= ~(u64)(EFER_LME | EFER_LMA);
	crs->efer |= EFER_NX;
	if (root->format == XMMU_FORMAT_LONG) {
		crs->efer |= EFER_LME | EFER_LMA;
		crs->cr4 |= root->level == 5 ? X86_CR4_LA57 : 0;
	}
}

/*
 * Can it be run?  Only an unrestricted guest without protection or paging of its own;
 * shadow tables bring the paging.
 */
static bool crs_ok(const struct xmmu_crs *crs, bool ept)
{
	u64 needed = vmx.unrestricted && ept ? 0 :
		     ept ? X86_CR0_PE | X86_CR0_PG : X86_CR0_PE;

	return !(needed & ~crs->hw_cr0) && !(crs->hw_cr4 & ~vmx.cr4_may);
}

static void fix_crs(struct vmx_crs *crs)
{
	/* PE and PG are as they shall be: crs_ok(), shadow_mode(). */
	crs->cr0 |= vmx.cr0_must & ~(u64)(X86_CR0_PE | X86_CR0_PG);
	crs->cr0 &= vmx.cr0_may;
	/* A machine check without it would shut the host down. */
	crs->cr4 |= vmx.cr4_must | (__read_cr4() & X86_CR4_MCE);
}

static u64 eptp(const struct xmmu_table *root)
{
	return __pa(root->spt) | 6 | (root->level - 1) << 3 |
	       (vmx.ept_vpid & EPT_CAP_AD ? BIT_ULL(6) : 0);
}

/* Page-modification logging: SDM vol. 3, 29.3.6. */
static bool choose_log(struct xmmu_vcpu *vcpu, bool ept)
{
	struct vmx_vcpu *v = vcpu->hw;
	bool on = ept && (vcpu->state.controls.want & XMMU_WANT_WRITE_LOG);

	if (on && !v->logs) {
		vmwrite(PML_ADDRESS, __pa(vcpu->log));
		vmwrite(GUEST_PML_INDEX, XMMU_LOG_ENTRIES - 1);
	}
	v->logs = on;
	return on;
}

/* @ept: the root is of that format. */
static void put_secondary(struct xmmu_vcpu *vcpu, bool ept)
{
	u32 secondary = vmx.secondary;

	if (!ept)
		secondary &= ~(SECONDARY_EXEC_ENABLE_EPT |
			       SECONDARY_EXEC_UNRESTRICTED_GUEST);
	if (!vcpu->state.controls.tsc_ratio)
		secondary &= ~SECONDARY_EXEC_TSC_SCALING;
	if (!choose_log(vcpu, ept))
		secondary &= ~SECONDARY_EXEC_ENABLE_PML;
	vmwrite(SECONDARY_VM_EXEC_CONTROL, secondary);
	if (ept)
		vmwrite(EPT_POINTER, eptp(vcpu->root));
}

static void put_crs(struct xmmu_vcpu *vcpu, bool ept)
{
	const struct xmmu_crs *from = &vcpu->state.crs;
	struct vmx_crs crs = {
		.cr0 = from->hw_cr0, .cr3 = from->cr3,
		.cr4 = from->hw_cr4, .efer = from->hw_efer,
	};
	struct vmx_vcpu *v = vcpu->hw;
	bool long_mode;

	v->ept = ept;
	v->refused = !crs_ok(from, ept);
	if (!ept)
		shadow_mode(&crs, vcpu->root);
	fix_crs(&crs);
	long_mode = crs.efer & EFER_LMA;
	vmwrite(GUEST_CR0, crs.cr0);
	vmwrite(GUEST_CR3, crs.cr3);
	vmwrite(GUEST_CR4, crs.cr4);
	vmwrite(GUEST_IA32_EFER, crs.efer);
	vmwrite(CR0_READ_SHADOW, from->cr0);
	vmwrite(CR4_READ_SHADOW, from->cr4);
	vmwrite(VM_ENTRY_CONTROLS, vmx.entry | (long_mode ? VM_ENTRY_IA32E_MODE : 0));
	if (ept && (crs.cr0 & X86_CR0_PG) && (crs.cr4 & X86_CR4_PAE) && !long_mode)
		for (int i = 0; i < 4; i++)
			vmwrite(GUEST_PDPTR0 + 2 * i, from->pdpte[i]);
}

/* A machine check is the host's. */
#define ALWAYS_EXCEPTIONS (BIT(X86_TRAP_DB) | BIT(X86_TRAP_AC) | BIT(X86_TRAP_MC))

static void put_controls(struct xmmu_vcpu *vcpu, bool ept)
{
	const struct xmmu_controls *c = &vcpu->state.controls;
	u32 off = ept && !(c->want & XMMU_WANT_CR_EXITS) ? SHADOW_EXITS : 0;

	off |= c->want & XMMU_WANT_IRQ_WINDOW ? 0 : CPU_BASED_INTR_WINDOW_EXITING;
	off |= c->want & XMMU_WANT_NMI_WINDOW ? 0 : CPU_BASED_NMI_WINDOW_EXITING;
	vmwrite(CPU_BASED_VM_EXEC_CONTROL, vmx.cpu & ~off);
	vmwrite(EXCEPTION_BITMAP, c->exceptions | ALWAYS_EXCEPTIONS);
	vmwrite(TSC_OFFSET, c->tsc_offset);
	if (c->tsc_ratio && (vmx.secondary & SECONDARY_EXEC_TSC_SCALING))
		/* Ours has 32 bits of fraction, the field 48. */
		vmwrite(TSC_MULTIPLIER, c->tsc_ratio << 16);
}

#define GUEST_INTR_STATE_SHADOW (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)

static void put_events(const struct xmmu_events *events)
{
	u64 flags = vmread(GUEST_RFLAGS) & (X86_EFLAGS_IF | X86_EFLAGS_TF);
	/* That of STI needs IF (SDM vol. 3, 27.3.1.5), and holds no trap back. */
	u32 shadow = flags == X86_EFLAGS_IF ? GUEST_INTR_STATE_STI
					     : GUEST_INTR_STATE_MOV_SS;

	vmwrite(GUEST_INTERRUPTIBILITY_INFO, (events->shadow ? shadow : 0) |
		(events->nmi_blocked ? GUEST_INTR_STATE_NMI : 0));
}

/*
 * User space has executed instructions: the shadow of the one before is over, and
 * no trap of it is pending, but that of RFLAGS.TF in a new shadow, which an entry
 * insists on (SDM vol. 3, 27.3.1.5).
 */
static void renew_shadow(u32 which, const struct xmmu_events *events)
{
	u32 state;

	if (which & XMMU_GROUP_EVENTS)
		put_events(events);
	state = vmread(GUEST_INTERRUPTIBILITY_INFO);
	if (!(which & XMMU_GROUP_EVENTS) && (state & GUEST_INTR_STATE_SHADOW)) {
		state &= ~GUEST_INTR_STATE_SHADOW;
		vmwrite(GUEST_INTERRUPTIBILITY_INFO, state);
	}
	vmwrite(GUEST_PENDING_DBG_EXCEPTIONS,
		(state & GUEST_INTR_STATE_SHADOW) &&
		(vmread(GUEST_RFLAGS) & X86_EFLAGS_TF) ? DR_STEP : 0);
}

/*
 * CR0, CR4 and EFER change only by exits, so user space knows them; so do CR2 and
 * CR8, which vmx_enter() exchanges.  CR3 is the guest's own under EPT.
 */
static void get_crs(struct xmmu_vcpu *vcpu)
{
	struct xmmu_crs *crs = &vcpu->state.crs;

	if (!((struct vmx_vcpu *)vcpu->hw)->ept)
		return;
	crs->cr3 = vmread(GUEST_CR3);
	for (int i = 0; i < 4; i++)
		crs->pdpte[i] = vmread(GUEST_PDPTR0 + 2 * i);
}

/* The kind of root decides about both groups. */
static void put_mode(struct xmmu_vcpu *vcpu, u32 which)
{
	bool ept = vcpu->root->format == XMMU_FORMAT_EPT;

	put_secondary(vcpu, ept);
	put_controls(vcpu, ept);
	if (!(which & XMMU_GROUP_CRS))
		get_crs(vcpu);
	put_crs(vcpu, ept);
}

static void vmx_commit(struct xmmu_vcpu *vcpu, u32 which)
{
	struct xmmu_run *state = &vcpu->state;
	u64 rip;

	xmmu_cpu_get();
	vmx_load(vcpu);
	rip = vmread(GUEST_RIP);
	for (int i = 0; i < ARRAY_SIZE(plain_fields); i++)
		if (which & plain_fields[i].group)
			vmwrite(plain_fields[i].field, *plain_member(state, i));
	if (rip != vmread(GUEST_RIP) || (which & XMMU_GROUP_EVENTS))
		renew_shadow(which, &state->events);
	if (which & XMMU_GROUP_SEGMENTS)
		put_segments(&state->segments);
	if (vcpu->root && (which & (XMMU_GROUP_CRS | XMMU_GROUP_CONTROLS)))
		put_mode(vcpu, which);
	xmmu_cpu_put();
}

/* ---- And back ------------------------------------------------------------ */

static void get_segments(struct xmmu_segments *s)
{
	for (int i = 0; i < XMMU_SEGMENT_COUNT; i++) {
		u32 rights = vmread(GUEST_ES_AR_BYTES + 2 * i);

		s->seg[i].selector = vmread(GUEST_ES_SELECTOR + 2 * i);
		s->seg[i].base = vmread(GUEST_ES_BASE + 2 * i);
		s->seg[i].limit = vmread(GUEST_ES_LIMIT + 2 * i);
		s->seg[i].attributes = (rights & 0xff) | (rights >> 4 & 0xf00) |
			(rights & AR_UNUSABLE ? XMMU_SEGMENT_UNUSABLE : 0);
	}
	s->gdt.limit = vmread(GUEST_GDTR_LIMIT);
	s->idt.limit = vmread(GUEST_IDTR_LIMIT);
	s->cpl = s->seg[XMMU_SS].attributes >> AR_DPL_SHIFT & 3;
}

static void get_events(struct xmmu_events *events)
{
	u32 info = vmread(GUEST_INTERRUPTIBILITY_INFO);

	events->shadow = !!(info & GUEST_INTR_STATE_SHADOW);
	events->nmi_blocked = !!(info & GUEST_INTR_STATE_NMI);
}

static void get_plain(struct xmmu_run *state, u32 which)
{
	for (int i = 0; i < ARRAY_SIZE(plain_fields); i++)
		if (which & plain_fields[i].group)
			*plain_member(state, i) = vmread(plain_fields[i].field);
}

/* The general registers are there since note_exit(). */
static void vmx_fetch(struct xmmu_vcpu *vcpu, u32 which)
{
	xmmu_cpu_get();
	vmx_load(vcpu);
	get_plain(&vcpu->state, which & ~XMMU_GROUP_GPRS);
	if (which & XMMU_GROUP_SEGMENTS)
		get_segments(&vcpu->state.segments);
	if (which & XMMU_GROUP_CRS)
		get_crs(vcpu);
	if (which & XMMU_GROUP_EVENTS)
		get_events(&vcpu->state.events);
	xmmu_cpu_put();
}

/* ---- The guest runs ------------------------------------------------------ */

struct invalidation {
	u64 what, address;
};

#define INV_ONE_CONTEXT 1

/* Combined mappings are tagged with both, SDM vol. 3, 29.4.1. */
static void flush(struct xmmu_vcpu *vcpu, bool moved)
{
	struct vmx_vcpu *v = vcpu->hw;
	struct invalidation by_vpid = { .what = v->vpid };
	bool tables = vcpu->flush || moved;

	if (tables && v->ept) {
		struct invalidation by_ept = { .what = eptp(vcpu->root) };

		WARN_ON_ONCE(VMX_INSN("invept %1, %2", "m" (by_ept),
				      "r" ((u64)INV_ONE_CONTEXT)));
	}
	/* Without VPIDs every entry and exit flushes. */
	if ((tables || vcpu->flush_guest) && (vmx.secondary & SECONDARY_EXEC_ENABLE_VPID))
		WARN_ON_ONCE(VMX_INSN("invvpid %1, %2", "m" (by_vpid),
				      "r" ((u64)INV_ONE_CONTEXT)));
	vcpu->flush = vcpu->flush_guest = false;
}

static u32 encode_event(const struct xmmu_event *event)
{
	static const u32 type[] = {
		[XMMU_EVENT_INTERRUPT] = INTR_TYPE_EXT_INTR,
		[XMMU_EVENT_NMI] = INTR_TYPE_NMI_INTR,
		[XMMU_EVENT_EXCEPTION] = INTR_TYPE_HARD_EXCEPTION,
	};

	if (event->type == XMMU_EVENT_NONE || event->type >= ARRAY_SIZE(type))
		return 0;
	/* There are no error codes in real mode. */
	return INTR_INFO_VALID_MASK | type[event->type] | event->vector |
	       (event->has_error && (vmread(GUEST_CR0) & X86_CR0_PE) ?
		INTR_INFO_DELIVER_CODE_MASK : 0);
}

static void set_nmi_blocking(bool on)
{
	u32 state = vmread(GUEST_INTERRUPTIBILITY_INFO);

	vmwrite(GUEST_INTERRUPTIBILITY_INFO, on ? state | GUEST_INTR_STATE_NMI
						: state & ~GUEST_INTR_STATE_NMI);
}

static void inject(struct xmmu_vcpu *vcpu)
{
	struct xmmu_event *event = &vcpu->state.events.inject;
	struct vmx_vcpu *v = vcpu->hw;

	vmwrite(VM_ENTRY_INTR_INFO_FIELD, encode_event(event));
	vmwrite(VM_ENTRY_EXCEPTION_ERROR_CODE, event->error);
	/* The entry blocks the next one; it does not take one that is blocked. */
	if (event->type == XMMU_EVENT_NMI)
		set_nmi_blocking(false);
	v->injected = *event;
	*event = (struct xmmu_event) { };
}

/* What is the same for all tasks of a CPU. */
static void save_host_cpu(int cpu)
{
	static const struct { u32 field, msr; } msrs[] = {
		{ HOST_GS_BASE, MSR_GS_BASE }, { HOST_IA32_EFER, MSR_EFER },
		{ HOST_IA32_SYSENTER_CS, MSR_IA32_SYSENTER_CS },
		{ HOST_IA32_SYSENTER_ESP, MSR_IA32_SYSENTER_ESP },
		{ HOST_IA32_SYSENTER_EIP, MSR_IA32_SYSENTER_EIP },
	};
	struct desc_ptr idt;
	u64 value;

	store_idt(&idt);
	vmwrite(HOST_IDTR_BASE, idt.address);
	vmwrite(HOST_GDTR_BASE, (unsigned long)get_cpu_gdt_ro(cpu));
	vmwrite(HOST_TR_BASE, (unsigned long)&get_cpu_entry_area(cpu)->tss.x86_tss);
	vmwrite(HOST_CR0, read_cr0());
	for (int i = 0; i < ARRAY_SIZE(msrs); i++) {
		rdmsrl(msrs[i].msr, value);
		vmwrite(msrs[i].field, value);
	}
}

/* SDM vol. 3, 27.2.2: the host as it is now, on this CPU, in this task. */
static void save_host(struct vmx_vcpu *v)
{
	int cpu = smp_processor_id();
	u64 value;

	if (v->host_cpu != cpu)
		save_host_cpu(cpu);
	v->host_cpu = cpu;
	vmwrite(HOST_CR3, __read_cr3());
	vmwrite(HOST_CR4, __read_cr4());
	rdmsrl(MSR_FS_BASE, value);
	vmwrite(HOST_FS_BASE, value);
}

/* MSRs that the VMCS does not hold. */
struct swapped {
	u32 msr;
	size_t guest;		/* in struct xmmu_msrs */
};

static const struct swapped swapped[] = {
	{ MSR_STAR, offsetof(struct xmmu_msrs, star) },
	{ MSR_LSTAR, offsetof(struct xmmu_msrs, lstar) },
	{ MSR_CSTAR, offsetof(struct xmmu_msrs, cstar) },
	{ MSR_SYSCALL_MASK, offsetof(struct xmmu_msrs, sfmask) },
	{ MSR_KERNEL_GS_BASE, offsetof(struct xmmu_msrs, kernel_gs_base) },
	{ MSR_TSC_AUX, offsetof(struct xmmu_msrs, tsc_aux) },
};

/*
 * Give each MSR the guest's value, or take it and give back the host's.  In place of
 * a value that the CPU refuses the guest has 0, not what the host had there.
 */
static void swap_msrs(struct xmmu_vcpu *vcpu, u64 host[], bool in)
{
	for (int i = 0; i < ARRAY_SIZE(swapped); i++) {
		u64 *guest = (void *)&vcpu->state.msrs + swapped[i].guest;

		if (swapped[i].msr == MSR_TSC_AUX && !boot_cpu_has(X86_FEATURE_RDTSCP))
			continue;
		rdmsrl(swapped[i].msr, *(in ? &host[i] : guest));
		if (wrmsrl_safe(swapped[i].msr, *(in ? guest : &host[i])))
			wrmsrl(swapped[i].msr, 0);
	}
}

/* What an exit leaves otherwise than it found it. */
struct host_segments {
	u16 ds, es, fs, gs, ldt;
	u64 debugctl;
};

static void save_host_segments(struct host_segments *host)
{
	savesegment(ds, host->ds);
	savesegment(es, host->es);
	savesegment(fs, host->fs);
	savesegment(gs, host->gs);
	store_ldt(host->ldt);
	rdmsrl(MSR_IA32_DEBUGCTLMSR, host->debugctl);
}

static void restore_host_segments(const struct host_segments *host)
{
	u64 base;

	if (host->ds | host->es) {
		loadsegment(ds, host->ds);
		loadsegment(es, host->es);
	}
	/* Loading FS or GS sets its base from the table; the base is the task's. */
	if (host->fs) {
		rdmsrl(MSR_FS_BASE, base);
		loadsegment(fs, host->fs);
		wrmsrl(MSR_FS_BASE, base);
	}
	if (host->gs) {
		rdmsrl(MSR_KERNEL_GS_BASE, base);
		load_gs_index(host->gs);
		wrmsrl(MSR_KERNEL_GS_BASE, base);
	}
	if (host->ldt)
		asm volatile("lldt %0" :: "m" (host->ldt));
	/* The limits of GDTR and TR are now the largest, or the smallest. */
	load_fixmap_gdt(smp_processor_id());
	invalidate_tss_limit();
	if (host->debugctl)
		wrmsrl(MSR_IA32_DEBUGCTLMSR, host->debugctl);
}

static bool is_event(const struct vmx_exit *exit, u32 type, u8 vector)
{
	return (u16)exit->reason == EXIT_REASON_EXCEPTION_NMI &&
	       (exit->intr_info & INTR_INFO_INTR_TYPE_MASK) == type &&
	       (exit->intr_info & INTR_INFO_VECTOR_MASK) == vector;
}

/*
 * An IRET that faulted has ended the blocking of NMIs too early, and is executed again:
 * SDM vol. 3, 28.2.3.
 */
#define NMI_UNBLOCKED BIT(12)

static void block_nmis_again(const struct vmx_exit *exit)
{
	u16 reason = exit->reason;
	u64 info = reason == EXIT_REASON_EPT_VIOLATION || reason == EXIT_REASON_PML_FULL
		   ? exit->qualification :
		   reason == EXIT_REASON_EXCEPTION_NMI ? exit->intr_info : 0;

	if ((info & NMI_UNBLOCKED) && !(exit->vectoring & VECTORING_INFO_VALID_MASK) &&
	    !is_event(exit, INTR_TYPE_HARD_EXCEPTION, X86_TRAP_DF))
		set_nmi_blocking(true);
}

static void note_exit(struct xmmu_vcpu *vcpu)
{
	struct vmx_exit *exit = &((struct vmx_vcpu *)vcpu->hw)->exit;

	exit->reason = vmread(VM_EXIT_REASON);
	exit->length = vmread(VM_EXIT_INSTRUCTION_LEN);
	exit->intr_info = vmread(VM_EXIT_INTR_INFO);
	exit->intr_error = vmread(VM_EXIT_INTR_ERROR_CODE);
	exit->vectoring = vmread(IDT_VECTORING_INFO_FIELD);
	exit->vectoring_error = vmread(IDT_VECTORING_ERROR_CODE);
	exit->qualification = vmread(EXIT_QUALIFICATION);
	exit->gva = vmread(GUEST_LINEAR_ADDRESS);
	if (vmx.ept)
		exit->gpa = vmread(GUEST_PHYSICAL_ADDRESS);
	get_plain(&vcpu->state, XMMU_GROUP_GPRS);
	block_nmis_again(exit);
	if ((u16)exit->reason == EXIT_REASON_PML_FULL)
		vmwrite(GUEST_PML_INDEX, XMMU_LOG_ENTRIES - 1);
}

/* An NMI or a machine check is handled on the CPU that met it; interrupts wait. */
static void serve_host(const struct vmx_exit *exit)
{
	if (is_event(exit, INTR_TYPE_NMI_INTR, X86_TRAP_NMI)) {
		asm volatile("int $2");
	} else if (is_event(exit, INTR_TYPE_HARD_EXCEPTION, X86_TRAP_MC) ||
		   (u16)exit->reason == EXIT_REASON_MCE_DURING_VMENTRY) {
		struct pt_regs regs = { .cs = 3, .flags = X86_EFLAGS_IF };

		do_machine_check(&regs);
	}
}

/*
 * L1TF: under EPT the guest writes entries that are not present, and reads by speculation
 * what the first-level cache has at that address; with shadow tables it cannot.
 */
static void clear_cache(bool ept)
{
	if (ept && boot_cpu_has_bug(X86_BUG_L1TF) && boot_cpu_has(X86_FEATURE_FLUSH_L1D))
		wrmsrl(MSR_IA32_FLUSH_CMD, L1D_FLUSH);
}

/* What passed through the buffers, on CPUs from which it could be read later. */
static bool must_clear_buffers(void)
{
#ifdef X86_BUG_RFDS
	if (boot_cpu_has_bug(X86_BUG_RFDS))
		return true;
#endif
	return boot_cpu_has_bug(X86_BUG_MDS) || boot_cpu_has_bug(X86_BUG_TAA) ||
	       boot_cpu_has_bug(X86_BUG_MMIO_STALE_DATA);
}

/* DR6 is user space's: MOV DR and #DB exit without touching it. */
static void vmx_enter(struct xmmu_vcpu *vcpu)
{
	struct vmx_vcpu *v = vcpu->hw;
	u64 host_msrs[ARRAY_SIZE(swapped)];
	struct host_segments segments;

	inject(vcpu);
	v->exit = (struct vmx_exit) { .failed = v->refused };
	if (v->refused)
		return;
	flush(vcpu, v->host_cpu != smp_processor_id());
	save_host(v);
	save_host_segments(&segments);
	swap_msrs(vcpu, host_msrs, true);
	write_cr2(vcpu->state.crs.cr2);
	clear_cache(v->ept);

	v->exit.failed = xmmu_vmx_run(vcpu->state.gprs.gpr, v->launched,
				      must_clear_buffers());

	vcpu->state.crs.cr2 = native_read_cr2();
	swap_msrs(vcpu, host_msrs, false);
	if (v->exit.failed) {
		v->exit.error = vmread(VM_INSTRUCTION_ERROR);
		return;
	}
	restore_host_segments(&segments);
	note_exit(vcpu);
	/* An entry that failed on the guest's state has not launched the VMCS. */
	if (!(v->exit.reason & VMX_EXIT_REASONS_FAILED_VMENTRY))
		v->launched = true;
	serve_host(&v->exit);
}

/* ---- Exits --------------------------------------------------------------- */

static void decode_pending(struct xmmu_vcpu *vcpu)
{
	const struct vmx_exit *from = &((struct vmx_vcpu *)vcpu->hw)->exit;
	struct xmmu_event *event = &vcpu->state.events.pending;

	*event = (struct xmmu_event) { };
	if (!(from->vectoring & VECTORING_INFO_VALID_MASK))
		return;
	event->vector = from->vectoring & VECTORING_INFO_VECTOR_MASK;
	event->has_error = !!(from->vectoring & VECTORING_INFO_DELIVER_CODE_MASK);
	event->error = from->vectoring_error;
	switch (from->vectoring & VECTORING_INFO_TYPE_MASK) {
	case INTR_TYPE_EXT_INTR:
		event->type = XMMU_EVENT_INTERRUPT;
		break;
	case INTR_TYPE_NMI_INTR:
		event->type = XMMU_EVENT_NMI;
		break;
	case INTR_TYPE_HARD_EXCEPTION:
		event->type = XMMU_EVENT_EXCEPTION;
		break;
	default:		/* INT n, INT1, INT3, INTO: RIP is at the instruction */
		event->type = XMMU_EVENT_SOFT;
	}
}

/* SDM vol. 3, table 28-7. */
#define EPT_QUAL_WRITE		BIT(1)
#define EPT_QUAL_FETCH		BIT(2)
#define EPT_QUAL_GVA_VALID	BIT(7)
#define EPT_QUAL_FINAL		BIT(8)

static void explain_ept(struct xmmu_exit *exit, const struct vmx_exit *from)
{
	u64 qual = from->qualification;

	exit->memory.gpa = from->gpa;
	if ((u16)from->reason == EXIT_REASON_EPT_MISCONFIG) {
		exit->memory.reserved_bit = true;
		return;
	}
	exit->memory.access = qual & EPT_QUAL_FETCH ? XMMU_ACCESS_EXEC :
			      qual & EPT_QUAL_WRITE ? XMMU_ACCESS_WRITE :
			      XMMU_ACCESS_READ;
	/* Bits 3 to 5, in the order of ours. */
	exit->memory.granted = qual >> 3 & 7;
	exit->memory.gva = from->gva;
	exit->memory.gva_valid = !!(qual & EPT_QUAL_GVA_VALID);
	exit->memory.table = exit->memory.gva_valid && !(qual & EPT_QUAL_FINAL);
}

static bool explain_exception(struct xmmu_vcpu *vcpu)
{
	const struct vmx_exit *from = &((struct vmx_vcpu *)vcpu->hw)->exit;
	struct xmmu_exit *exit = &vcpu->state.exit;
	u32 type = from->intr_info & INTR_INFO_INTR_TYPE_MASK;

	if (type == INTR_TYPE_NMI_INTR)
		return false;		/* served by vmx_enter() */
	exit->reason = XMMU_EXIT_EXCEPTION;
	if (type != INTR_TYPE_HARD_EXCEPTION)
		exit->length = from->length;
	if (type == INTR_TYPE_PRIV_SW_EXCEPTION) {
		/* INT1, which has not been executed: its trap comes behind it. */
		exit->reason = XMMU_EXIT_INSTRUCTION;
		return true;
	}
	exit->exception.vector = from->intr_info & INTR_INFO_VECTOR_MASK;
	exit->exception.has_error = !!(from->intr_info & INTR_INFO_DELIVER_CODE_MASK);
	exit->exception.error = from->intr_error;
	switch (exit->exception.vector) {
	case X86_TRAP_MC:
		return false;
	case X86_TRAP_PF:
		exit->exception.address = from->qualification;
		break;
	case X86_TRAP_DB:
		exit->exception.dr6 = from->qualification | DR6_RESERVED;
		break;
	}
	return true;
}

/* SDM vol. 3, table 28-5. */
static void explain_io(struct xmmu_exit *exit, const struct vmx_exit *from)
{
	u64 qual = from->qualification;

	exit->io.port = qual >> 16;
	exit->io.size = (qual & 7) + 1;
	exit->io.in = !!(qual & BIT(3));
	exit->io.string = !!(qual & BIT(4));
	exit->io.rep = !!(qual & BIT(5));
}

/* SDM vol. 3, table 28-3: 0 MOV to, 1 MOV from, 2 CLTS, 3 LMSW. */
static void explain_cr(struct xmmu_exit *exit, const struct vmx_exit *from,
		       const struct xmmu_vcpu *vcpu)
{
	u32 type = from->qualification >> 4 & 3;

	exit->reg.number = from->qualification & 15;
	exit->reg.write = type != 1;
	exit->reg.decoded = type < 2;
	exit->reg.gpr = from->qualification >> 8 & 15;
	exit->reg.value = vcpu->state.gprs.gpr[exit->reg.gpr];
}

static void explain_dr(struct xmmu_exit *exit, const struct vmx_exit *from,
		       const struct xmmu_vcpu *vcpu)
{
	exit->reg.number = from->qualification & 7;
	exit->reg.write = !(from->qualification & BIT(4));
	exit->reg.decoded = true;
	exit->reg.gpr = from->qualification >> 8 & 15;
	exit->reg.value = vcpu->state.gprs.gpr[exit->reg.gpr];
}

static void explain_msr(struct xmmu_exit *exit, const struct vmx_exit *from,
			const struct xmmu_vcpu *vcpu)
{
	const u64 *gpr = vcpu->state.gprs.gpr;

	exit->reg.number = gpr[1];
	exit->reg.write = (u16)from->reason == EXIT_REASON_MSR_WRITE;
	exit->reg.value = (u32)gpr[0] | gpr[2] << 32;
}

/*
 * What is no instruction has no length.  Of what is not listed here, with the controls
 * that we use, all are instructions.
 */
static void explain_reason(struct xmmu_exit *exit, const struct vmx_exit *from)
{
	static const u8 reason[] = {
		[EXIT_REASON_TRIPLE_FAULT] = XMMU_EXIT_SHUTDOWN,
		[EXIT_REASON_INIT_SIGNAL] = XMMU_EXIT_UNKNOWN,
		[EXIT_REASON_SIPI_SIGNAL] = XMMU_EXIT_UNKNOWN,
		[5] = XMMU_EXIT_UNKNOWN, [6] = XMMU_EXIT_UNKNOWN,	/* SMI */
		[EXIT_REASON_INTERRUPT_WINDOW] = XMMU_EXIT_IRQ_WINDOW,
		[EXIT_REASON_NMI_WINDOW] = XMMU_EXIT_NMI_WINDOW,
		[EXIT_REASON_TASK_SWITCH] = XMMU_EXIT_TASK_SWITCH,
		[EXIT_REASON_CPUID] = XMMU_EXIT_CPUID,
		[EXIT_REASON_HLT] = XMMU_EXIT_HLT,
		[EXIT_REASON_INVLPG] = XMMU_EXIT_INVLPG,
		[EXIT_REASON_CR_ACCESS] = XMMU_EXIT_CR,
		[EXIT_REASON_DR_ACCESS] = XMMU_EXIT_DR,
		[EXIT_REASON_IO_INSTRUCTION] = XMMU_EXIT_IO,
		[EXIT_REASON_MSR_READ] = XMMU_EXIT_MSR,
		[EXIT_REASON_MSR_WRITE] = XMMU_EXIT_MSR,
		[EXIT_REASON_EPT_VIOLATION] = XMMU_EXIT_MEMORY,
		[EXIT_REASON_EPT_MISCONFIG] = XMMU_EXIT_MEMORY,
		[EXIT_REASON_PML_FULL] = XMMU_EXIT_LOG_FULL,
	};
	u16 code = from->reason;

	exit->hardware = from->reason;
	exit->reason = code < ARRAY_SIZE(reason) && reason[code] ? reason[code]
								  : XMMU_EXIT_INSTRUCTION;
	if (code > EXIT_REASON_NMI_WINDOW && exit->reason != XMMU_EXIT_MEMORY &&
	    exit->reason != XMMU_EXIT_LOG_FULL)
		exit->length = from->length;
}

/* The entry was refused, by us or by the CPU. */
static bool cannot_run(struct xmmu_vcpu *vcpu)
{
	const struct vmx_vcpu *v = vcpu->hw;
	struct xmmu_exit *exit = &vcpu->state.exit;

	vcpu->state.events.pending = v->injected;
	exit->reason = XMMU_EXIT_INVALID;
	exit->hardware = v->exit.failed ? v->exit.error : v->exit.reason;
	/* A machine check in its course, which vmx_enter() has served: try again. */
	return v->exit.failed || (u16)v->exit.reason != EXIT_REASON_MCE_DURING_VMENTRY;
}

static bool vmx_explain(struct xmmu_vcpu *vcpu)
{
	struct vmx_vcpu *v = vcpu->hw;
	const struct vmx_exit *from = &v->exit;
	struct xmmu_exit *exit = &vcpu->state.exit;

	if (from->failed || (from->reason & VMX_EXIT_REASONS_FAILED_VMENTRY))
		return cannot_run(vcpu);
	decode_pending(vcpu);
	explain_reason(exit, from);
	switch ((u16)from->reason) {
	case EXIT_REASON_EXTERNAL_INTERRUPT:
		return false;		/* served by the host */
	case EXIT_REASON_PREEMPTION_TIMER:
		return false;		/* max_stay_us */
	case EXIT_REASON_EXCEPTION_NMI:
		return explain_exception(vcpu);
	case EXIT_REASON_EPT_VIOLATION:
	case EXIT_REASON_EPT_MISCONFIG:
		explain_ept(exit, from);
		break;
	case EXIT_REASON_CR_ACCESS:
		explain_cr(exit, from, vcpu);
		break;
	case EXIT_REASON_DR_ACCESS:
		explain_dr(exit, from, vcpu);
		break;
	case EXIT_REASON_IO_INSTRUCTION:
		explain_io(exit, from);
		break;
	case EXIT_REASON_MSR_READ:
	case EXIT_REASON_MSR_WRITE:
		explain_msr(exit, from, vcpu);
		break;
	case EXIT_REASON_INVLPG:
		exit->reg.decoded = true;
		exit->reg.value = from->qualification;
		break;
	}
	return true;
}

const struct xmmu_hw xmmu_vmx = {
	.name = "VMX",
	.probe = vmx_probe,
	.setup = vmx_setup,
	.teardown = vmx_teardown,
	.cpu_busy = vmx_cpu_busy,
	.cpu_on = vmx_cpu_on,
	.cpu_off = vmx_cpu_off,
	.get_caps = vmx_get_caps,
	.root_ok = vmx_root_ok,
	.vcpu_new = vmx_vcpu_new,
	.vcpu_free = vmx_vcpu_free,
	.commit = vmx_commit,
	.fetch = vmx_fetch,
	.prepare = vmx_load,
	.enter = vmx_enter,
	.explain = vmx_explain,
};
