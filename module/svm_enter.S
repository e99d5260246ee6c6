/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * xmmu: into an SVM guest and back
 *
 * AMD APM vol. 2, 15.5 and 15.17.  VMRUN exchanges RAX, RSP, RIP, RFLAGS and the
 * control registers; VMLOAD and VMSAVE the rest of the segment state and the MSRs
 * of system calls; the other registers are ours to exchange.
 */
#include <linux/linkage.h>
#include <asm/alternative.h>
#include <asm/asm.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/segment.h>
#include "enter.S"

#ifdef X86_FEATURE_CLEAR_CPU_BUF_VM
#define VERW_FEATURE	X86_FEATURE_CLEAR_CPU_BUF_VM
#else		/* a kernel that does not know of it: costs little */
#define VERW_FEATURE	X86_FEATURE_ALWAYS
#endif

	VERW_SELECTOR

/*
 * void xmmu_svm_run(u64 gpr[16], u64 guest_vmcb_pa, u64 host_vmcb_pa)
 *
 * Interrupts are off.  With GIF clear, RFLAGS.IF may be set: a physical interrupt
 * then ends the guest's run, and is served after the caller turns interrupts on.
 */
SYM_FUNC_START(xmmu_svm_run)
	PUSH_CALLEE_SAVED
	push	%rdx
	push	%rsi
	push	%rdi

	clgi
	mov	%rdx, %rax
	vmsave	%rax
	mov	%rsi, %rax
	vmload	%rax

	LOAD_GUEST_GPRS

	/* Where the CPU takes it to empty its buffers of the host's data. */
	ALTERNATIVE "jmp .Lno_verw", "", VERW_FEATURE
	verw	verw_selector(%rip)
.Lno_verw:
	sti
	vmrun	%rax
	cli

	/* RAX and RSP are the host's again. */
	pop	%rax
	SAVE_GUEST_GPRS

	pop	%rax
	vmsave	%rax
	pop	%rax
	vmload	%rax

	/*
	 * What the guest has taught the branch predictors must not lead the returns
	 * from here on: the return stack buffer is filled, branches are untrained.
	 */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_ALWAYS
	ALTERNATIVE "jmp .Lno_ibpb", "", X86_FEATURE_IBPB_ON_VMEXIT
	mov	$MSR_IA32_PRED_CMD, %ecx
	mov	$PRED_CMD_IBPB, %eax
	xor	%edx, %edx
	wrmsr
.Lno_ibpb:
	CALL_UNTRAIN_RET

	/* Nothing of the guest's stays where speculation could pick it up. */
	CLEAR_SCRATCH_GPRS
	stgi

	POP_CALLEE_SAVED
	RET
SYM_FUNC_END(xmmu_svm_run)
