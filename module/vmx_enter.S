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
#include <asm/nospec-branch.h>
#include "enter.S"

#define HOST_RSP 0x6c14

/*
 * int xmmu_vmx_run(u64 gpr[16], bool launched)
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

	test	%esi, %esi
	mov	0 * 8(%rdi), %rax
	LOAD_GUEST_GPRS

	jz	1f
	vmresume
	jmp	2f
1:	vmlaunch
	/* Not entered; or VMX was turned off behind our back. */
2:	mov	$1, %eax
	pop	%rdi
	jmp	3f

	/* HOST_RIP.  All flags are clear, RSP is what it was. */
SYM_INNER_LABEL(xmmu_vmx_exit, SYM_L_GLOBAL)
	push	%rax
	mov	8(%rsp), %rax
	SAVE_GUEST_GPRS
	pop	%rcx
	mov	%rcx, 0 * 8(%rax)
	pop	%rdi

	/* The guest has filled the return stack buffer; returns must not use it. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT

	/* Nothing of the guest's stays where speculation could pick it up. */
	xor	%eax, %eax
3:	CLEAR_SCRATCH_GPRS

	POP_CALLEE_SAVED
	RET
SYM_FUNC_END(xmmu_vmx_run)
