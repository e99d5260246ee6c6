/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * xmmu: into a VMX guest and back
 *
 * Intel SDM vol. 3, chapters 27 and 28.  The VMCS exchanges RSP, RIP, RFLAGS, the
 * control registers and the segments; the other registers are ours to exchange.
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/segment.h>
#include "enter.S"

#define HOST_RSP 0x6c14

	VERW_SELECTOR

/*
 * int xmmu_vmx_run(u64 gpr[16], bool launched, bool clear_buffers)
 *
 * Interrupts are off; the VMCS is current.  Returns 0 after an exit, 1 when the
 * VMCS could not be entered (VMfail).
 */
/* objtool cannot know how the CPU gets from VMLAUNCH to xmmu_vmx_exit. */
STACK_FRAME_NON_STANDARD xmmu_vmx_run

SYM_FUNC_START(xmmu_vmx_run)
	PUSH_CALLEE_SAVED
	push	%rdi

	mov	$HOST_RSP, %eax
	vmwrite	%rsp, %rax

	/* ZF and CF say it until then: MOV changes neither, BT and VERW one each. */
	test	%dl, %dl
	bt	$0, %esi
	mov	0 * 8(%rdi), %rax
	LOAD_GUEST_GPRS

	/* The last that is done with data of the host's is done. */
	jz	4f
	verw	verw_selector(%rip)
4:	jnc	1f
	vmresume
	jmp	2f
1:	vmlaunch
	/* Not entered; or VMX was turned off behind our back. */
2:	mov	$1, %eax
	pop	%rdi
	jmp	3f

	/* HOST_RIP.  All flags are clear, RSP is what it was. */
SYM_INNER_LABEL(xmmu_vmx_exit, SYM_L_GLOBAL)
	ANNOTATE_NOENDBR		/* an exit is no branch */
	push	%rax
	mov	8(%rsp), %rax
	SAVE_GUEST_GPRS
	pop	%rcx
	mov	%rcx, 0 * 8(%rax)
	pop	%rdi

	/*
	 * What the guest has taught the branch predictors must not lead the branches from
	 * here on.  IBRS of CPUs where it is not for good counts from when it is written.
	 */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_ALWAYS
	ALTERNATIVE "jmp .Lno_ibrs", "", X86_FEATURE_KERNEL_IBRS
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	rdmsr
	wrmsr
.Lno_ibrs:
#ifdef X86_FEATURE_CLEAR_BHB_LOOP_ON_VMEXIT
	CLEAR_BRANCH_HISTORY_VMEXIT
#endif

	/* Nothing of the guest's stays where speculation could pick it up. */
	xor	%eax, %eax
3:	CLEAR_SCRATCH_GPRS

	POP_CALLEE_SAVED
	RET
SYM_FUNC_END(xmmu_vmx_run)
