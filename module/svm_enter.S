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

#ifdef X86_FEATURE_CLEAR_CPU_BUF_VM
#define VERW_FEATURE	X86_FEATURE_CLEAR_CPU_BUF_VM
#else
#define VERW_FEATURE	X86_FEATURE_CLEAR_CPU_BUF
#endif

	.section .rodata
verw_selector:
	.word	__KERNEL_DS
	.text

/*
 * void xmmu_svm_run(u64 gpr[16], u64 guest_vmcb_pa, u64 host_vmcb_pa)
 *
 * Interrupts are off.  With GIF clear, RFLAGS.IF may be set: a physical interrupt
 * then ends the guest's run, and is served after the caller turns interrupts on.
 */
SYM_FUNC_START(xmmu_svm_run)
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdx
	push	%rsi
	push	%rdi

	clgi
	mov	%rdx, %rax
	vmsave	%rax
	mov	%rsi, %rax
	vmload	%rax

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

	/* Where the CPU takes it to empty its buffers of the host's data. */
	ALTERNATIVE "jmp .Lno_verw", "", VERW_FEATURE
	verw	verw_selector(%rip)
.Lno_verw:
	sti
	vmrun	%rax
	cli

	/* RAX and RSP are the host's again. */
	pop	%rax
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

	pop	%rax
	vmsave	%rax
	pop	%rax
	vmload	%rax

	/*
	 * What the guest has taught the branch predictors must not lead the returns
	 * from here on: the return stack buffer is filled, branches are untrained.
	 */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT
	ALTERNATIVE "jmp .Lno_ibpb", "", X86_FEATURE_IBPB_ON_VMEXIT
	mov	$MSR_IA32_PRED_CMD, %ecx
	mov	$PRED_CMD_IBPB, %eax
	xor	%edx, %edx
	wrmsr
.Lno_ibpb:
	CALL_UNTRAIN_RET

	/* Nothing of the guest's stays where speculation could pick it up. */
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	stgi

	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	RET
SYM_FUNC_END(xmmu_svm_run)
