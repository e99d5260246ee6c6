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
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdi

	mov	$HOST_RSP, %eax
	vmwrite	%rsp, %rax

	test	%esi, %esi
	mov	0 * 8(%rdi), %rax
	mov	1 * 8(%rdi), %rcx
	mov	2 * 8(%rdi), %rdx
	mov	3 * 8(%rdi), %rbx
	mov	5 * 8(%rdi), %rbp
	mov	6 * 8(%rdi), %rsi
	mov	8 * 8(%rdi), %r8
	mov	9 * 8(%rdi), %r9
	mov	10 * 8(%rdi), %r10
	mov	11 * 8(%rdi), %r11
	mov	12 * 8(%rdi), %r12
	mov	13 * 8(%rdi), %r13
	mov	14 * 8(%rdi), %r14
	mov	15 * 8(%rdi), %r15
	mov	7 * 8(%rdi), %rdi

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
	mov	%rcx, 1 * 8(%rax)
	mov	%rdx, 2 * 8(%rax)
	mov	%rbx, 3 * 8(%rax)
	mov	%rbp, 5 * 8(%rax)
	mov	%rsi, 6 * 8(%rax)
	mov	%rdi, 7 * 8(%rax)
	mov	%r8, 8 * 8(%rax)
	mov	%r9, 9 * 8(%rax)
	mov	%r10, 10 * 8(%rax)
	mov	%r11, 11 * 8(%rax)
	mov	%r12, 12 * 8(%rax)
	mov	%r13, 13 * 8(%rax)
	mov	%r14, 14 * 8(%rax)
	mov	%r15, 15 * 8(%rax)
	pop	%rcx
	mov	%rcx, 0 * 8(%rax)
	pop	%rdi

	/* The guest has filled the return stack buffer; returns must not use it. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT

	/* Nothing of the guest's stays where speculation could pick it up. */
	xor	%eax, %eax
3:	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d

	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	RET
SYM_FUNC_END(xmmu_vmx_run)
