/*
 * xmmu guest "modes": the interpreter of register writes, and real mode
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * 32-bit code that runs unchanged in compatibility mode and in protected mode
 * with and without paging, so that a list of writes can lead through all of
 * these.  Its exceptions go through the 64-bit IDT in long mode and through a
 * small 32-bit IDT elsewhere.
 */
#include "lib.h"

/* struct Step in modes.c */
#define STEP_OP         0
#define STEP_LO         4
#define STEP_HI         8
#define STEP_VECTOR     12
#define STEP_ERROR      16
#define STEP_CR0        20
#define STEP_CR3        24
#define STEP_CR4        28
#define STEP_EFER       32
#define STEP_DATA       36
#define STEP_SIZE       40

/* What C code needs again when this is over. */
        .macro save_c
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        sidt idt64
        mov %rsp, saved_sp
        mov %cr3, %rax
        mov %rax, saved_cr3
        .endm

/* struct Cpu in lib.h */
#define CPU_FIXUP       cpus
#define CPU_VECTOR      cpus + 8
#define CPU_ERROR       cpus + 12

#define REAL_CODE       0x7000          /* where the real-mode code is copied */

        .text
        .code64
        /* void run_steps(struct Step *steps, ulong cr3, u32 *clear) */
        .global run_steps
run_steps:
        save_c
        mov %edx, clear_at
        mov %rsi, %cr3
        mov %rdi, %rsi
        push $SEL_CODE32
        push $next_step
        lretq

        .code32
next_step:
        mov $MSR_EFER, %ecx
        rdmsr
        test $EFER_LMA, %eax
        jz 1f
        lidt idt64
        jmp 2f
1:      lidt idt32_desc
2:      mov %cr0, %eax
        test $CR0_PG, %eax
        jnz 3f
        /* Accessed bits of other formats are reserved in a PDPTE. */
        mov clear_at, %eax
        andl $~0x20, (%eax)
3:      movl $step_done, CPU_FIXUP
        movl $-1, CPU_VECTOR
        movl $0, CPU_ERROR
        mov STEP_LO(%esi), %eax
        mov STEP_HI(%esi), %edx
        mov STEP_OP(%esi), %ebx
        jmp *step_table(, %ebx, 4)

step_cr0:
        mov %eax, %cr0
        jmp step_done
step_cr3:
        mov %eax, %cr3
        jmp step_done
step_cr4:
        mov %eax, %cr4
        jmp step_done
step_efer:
        wrmsr
        jmp step_done
step_read:
        mov (%eax), %eax
        mov %eax, STEP_DATA(%esi)
        jmp step_done
step_segment:
        mov %eax, far_selector
        ljmp *far_target
step_done:
        movl $0, CPU_FIXUP
        mov CPU_VECTOR, %eax
        mov %eax, STEP_VECTOR(%esi)
        mov CPU_ERROR, %eax
        mov %eax, STEP_ERROR(%esi)
        mov %cr0, %eax
        mov %eax, STEP_CR0(%esi)
        mov %cr3, %eax
        mov %eax, STEP_CR3(%esi)
        mov %cr4, %eax
        mov %eax, STEP_CR4(%esi)
        mov $MSR_EFER, %ecx
        rdmsr
        mov %eax, STEP_EFER(%esi)
        add $STEP_SIZE, %esi
        jmp next_step

step_end:
        movl $0, CPU_FIXUP
        mov saved_cr3, %eax
        mov %eax, %cr3
        ljmp $SEL_CODE, $4f
        .code64
4:      mov saved_sp, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret

        /* #GP and #PF outside long mode: note them and go on at the fixup. */
        .code32
exc32_gp:
        movl $13, CPU_VECTOR
        jmp 5f
exc32_pf:
        movl $14, CPU_VECTOR
5:      popl CPU_ERROR
        mov CPU_FIXUP, %eax
        mov %eax, (%esp)
        iret

        /*
         * void real_mode(void): 64-bit -> compatibility -> protected -> real
         * mode and back.  What was seen is left in real_results.
         */
        .code64
        .global real_mode
real_mode:
        save_c
        mov $real_start, %esi
        mov $REAL_CODE, %edi
        mov $real_end - real_start, %ecx
        rep movsb
        push $SEL_CODE32
        push $6f
        lretq
        .code32
6:      mov %cr0, %eax
        and $~CR0_PG, %eax
        mov %eax, %cr0
        mov $MSR_EFER, %ecx
        rdmsr
        and $~EFER_LME, %eax
        wrmsr
        mov %cr4, %eax
        and $~CR4_PAE, %eax
        mov %eax, %cr4
        lidt real_idt
        mov $SEL_DATA16, %eax
        mov %eax, %ds
        mov %eax, %ss
        ljmp $SEL_CODE16, $REAL_CODE

        .code16
real_start:
        mov %cr0, %eax
        and $~CR0_PE, %al
        mov %eax, %cr0
        ljmp $0, $REAL_CODE + (7f - real_start)
7:      xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $REAL_CODE, %sp
        movw $REAL_CODE + (real_gp - real_start), 13 * 4
        movw $0, 13 * 4 + 2
        mov $REAL_CODE + (real_data - real_start), %bx

        cmpb $0, 2(%bx)
        jne 9f
        /* PG without PE; BP says where to go on after #GP. */
        mov %cr0, %eax
        mov %eax, %esi
        or $CR0_PG, %eax
        mov $REAL_CODE + (8f - real_start), %bp
        mov %eax, %cr0
        incb (%bx)                      /* not reached */
8:      mov %esi, %eax
        or $CR0_NW, %eax
        and $~CR0_CD, %eax
        mov $REAL_CODE + (9f - real_start), %bp
        mov %eax, %cr0
        incb (%bx)                      /* not reached */
9:      mov %cr0, %eax
        mov %eax, 4(%bx)

        /* The gate of A20 by port 92: FFFF:0510 is 0x100500 or 0x500. */
        mov $0xffff, %ax
        mov %ax, %ds
        in $0x92, %al
        mov %al, %cl
        or $2, %al
        and $~1, %al
        out %al, $0x92
        mov 0x510, %edx
        and $~3, %al
        out %al, $0x92
        mov 0x510, %edi
        mov %cl, %al
        or $2, %al
        and $~1, %al
        out %al, $0x92
        xor %ax, %ax
        mov %ax, %ds
        mov %edx, 8(%bx)
        mov %edi, 12(%bx)

        mov %cr0, %eax
        or $CR0_PE, %al
        mov %eax, %cr0
        ljmpl $SEL_CODE32, $real_back
real_gp:
        incb 1(%bx)
        mov %sp, %di
        mov %bp, %ss:(%di)
        iret
        .align 4
real_data:
        .skip 2
        .global real_legal_only
real_legal_only:
        .skip 14
real_end:

        .code32
real_back:
        mov $SEL_DATA, %eax
        mov %eax, %ss
        mov $SEL_USER_DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov saved_sp, %esp
        mov $REAL_CODE + (real_data - real_start), %esi
        mov $real_results, %edi
        mov $4, %ecx
        rep movsl
        mov saved_cr3, %eax
        mov %eax, %cr3
        long_mode_on
        lidt idt64
        ljmp $SEL_CODE, $4b

        .data
        .align 8
step_table:
        .long step_end, step_cr0, step_cr3, step_cr4, step_efer, step_read
        .long step_segment
far_target:
        .long step_done
far_selector:
        .long 0
        .align 8
idt32:
        .fill 13, 8, 0
        .word 0, SEL_CODE32, 0x8e00, 0  /* filled by modes_setup */
        .word 0, SEL_CODE32, 0x8e00, 0
        .fill 5, 8, 0
idt32_desc:
        .word 20 * 8 - 1
        .long idt32
real_idt:
        .word 1023
        .long 0
        .global idt32_gates, exc32_handlers
idt32_gates:
        .quad idt32 + 13 * 8
exc32_handlers:
        .quad exc32_gp, exc32_pf

        .bss
        .align 8
idt64:          .skip 16
saved_sp:       .skip 8
saved_cr3:      .skip 8
clear_at:       .skip 8
        .global real_results
real_results:   .skip 16

        .section .note.GNU-stack, "", @progbits
