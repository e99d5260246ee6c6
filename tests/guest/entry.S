/*
 * xmmu guests: the way in, exceptions, and the way to user mode and back
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Built once as 32-bit and once as 64-bit code.  A multiboot loader enters at
 * "start" in 32-bit protected mode without paging.
 */
#include "lib.h"

#define MB_MAGIC 0x1badb002
#define MB_FLAGS 0

        .section .multiboot, "ax"
        .align 4
        .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)

        .text
        .code32
        .global start
start:
        cli
        cld
        mov %ebx, multiboot_info
        mov $boot_stack_top, %esp
#ifndef __x86_64__
        call boot_main
#else
        /* PML4 -> PDPT -> four page directories of 2 MiB pages. */
        mov $boot_pdpt + 3, %eax
        mov %eax, boot_pml4
        mov $boot_pd + 3, %eax
        mov $4, %ecx
        mov $boot_pdpt, %edi
1:      mov %eax, (%edi)
        add $8, %edi
        add $4096, %eax
        loop 1b
        mov $0x83, %eax
        mov $2048, %ecx
        mov $boot_pd, %edi
2:      mov %eax, (%edi)
        add $8, %edi
        add $0x200000, %eax
        loop 2b

        lgdt boot_gdt_desc
        call enter_long
        .code64
        call boot_main

        /* Protected mode without paging -> 64-bit mode; the return address has
         * 32 bits on the way in. */
        .code32
        .global enter_long
enter_long:
        mov $boot_pml4, %eax
        mov %eax, %cr3
        long_mode_on
        pop %edi
        ljmp $SEL_CODE, $3f
        .code64
3:      mov $SEL_DATA, %eax
        mov %eax, %ss
        mov $SEL_USER_DATA, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %edi, %edi
        jmp *%rdi
#endif

/* ---- Exceptions ---- */

#ifdef __x86_64__
        .code64
#define WORD .quad
#define HAS_ERROR(v) ((v) == 8 || ((v) >= 10 && (v) <= 14) || (v) == 17)
        .macro SAVE
        push %rax
        push %rcx
        push %rdx
        push %rbx
        push %rbp
        push %rsi
        push %rdi
        push %r8
        push %r9
        push %r10
        push %r11
        push %r12
        push %r13
        push %r14
        push %r15
        .endm
        .macro RESTORE
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %r11
        pop %r10
        pop %r9
        pop %r8
        pop %rdi
        pop %rsi
        pop %rbp
        pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        .endm
#else
#define WORD .long
#endif

        .set vec, 0
        .rept 64
        .align 16
        .if vec == 0
        .global exc_stubs
exc_stubs:
        .endif
        .if !(vec == 8 || (vec >= 10 && vec <= 14) || vec == 17)
        push $0
        .endif
        push $vec
        jmp exc_common
        .set vec, vec + 1
        .endr

exc_common:
        cld
#ifdef __x86_64__
        SAVE
        mov %rsp, %rdi
        mov %rsp, %rbx
        and $-16, %rsp
        call exc_handler
        mov %rbx, %rsp
        RESTORE
        add $16, %rsp
        iretq
#else
        pusha
        mov %esp, %eax
        push %eax
        call exc_handler
        add $4, %esp
        popa
        add $8, %esp
        iret
#endif

/* ---- User mode ---- */

#ifdef __x86_64__
        /* void user_run(ulong code, ulong address, ulong *value) */
        .global user_run
user_run:
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        push %rdx
        mov %rsp, user_saved_sp
        mov %rsp, tss0 + 4              /* RSP0: Intel SDM vol. 3, 8.7 */
        mov (%rdx), %rcx
        mov %rsi, %rax
        push $SEL_USER_DATA
        push $0
        push user_flags
        push $SEL_USER_CODE
        push %rdi
        iretq

        /* void user_leave(ulong value): back to user_run()'s caller */
        .global user_leave
user_leave:
        mov user_saved_sp, %rsp
        pop %rdx
        mov %rdi, (%rdx)
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret
#else
        .global user_run
user_run:
        push %ebx
        push %ebp
        push %esi
        push %edi
        mov %esp, user_saved_sp
        mov %esp, tss0 + 4              /* ESP0 */
        mov 28(%esp), %edx
        mov (%edx), %ecx
        mov 24(%esp), %eax
        mov 20(%esp), %ebx
        push $SEL_USER_DATA
        push $0
        push user_flags
        push $SEL_USER_CODE
        push %ebx
        iret

        .global user_leave
user_leave:
        mov 4(%esp), %eax
        mov user_saved_sp, %esp
        mov 28(%esp), %edx
        mov %eax, (%edx)
        pop %edi
        pop %esi
        pop %ebp
        pop %ebx
        ret
#endif

/* What probe_user() runs: address in AX, value in CX. */
        .section .usertext, "ax"
        .global user_read, user_write, user_exec
user_read:
#ifdef __x86_64__
        mov (%rax), %ecx
#else
        mov (%eax), %ecx
#endif
        int $VEC_USER_EXIT
user_write:
#ifdef __x86_64__
        mov %ecx, (%rax)
#else
        mov %ecx, (%eax)
#endif
        int $VEC_USER_EXIT
user_exec:
#ifdef __x86_64__
        jmp *%rax
#else
        jmp *%eax
#endif

        .data
        .align 16
        .global user_flags
user_flags:                     /* EFLAGS: nothing but the fixed bit */
        .quad 2
        .align 16
        .global gdt
gdt:    .quad 0
#ifdef __x86_64__
        .quad 0x00af9b000000ffff        /* 64-bit code */
#else
        .quad 0x00cf9b000000ffff        /* 32-bit code */
#endif
        .quad 0x00cf93000000ffff        /* data */
        .quad 0x00cf9b000000ffff        /* 32-bit code */
#ifdef __x86_64__
        .quad 0x00affb000000ffff        /* user code */
#else
        .quad 0x00cffb000000ffff
#endif
        .quad 0x00cff3000000ffff        /* user data */
        .quad 0x00009b000000ffff        /* 16-bit code at 0 */
        .quad 0x000093000000ffff        /* 16-bit data at 0 */
        .fill 2 * MAX_CPUS, 8, 0        /* task states */
        .global gdt_end
gdt_end:
boot_gdt_desc:
        .word gdt_end - gdt - 1
        .long gdt

        .bss
        .align 4096
#ifdef __x86_64__
        .global boot_pml4
boot_pml4:      .skip 4096
boot_pdpt:      .skip 4096
boot_pd:        .skip 4 * 4096
#endif
        .skip STACK_SIZE
        .global boot_stack_top
boot_stack_top:
        .global multiboot_info, user_saved_sp, tss0
multiboot_info: .skip 8
user_saved_sp:  .skip 8
        .align 16
tss0:           .skip MAX_CPUS * 128

        .section .note.GNU-stack, "", @progbits
