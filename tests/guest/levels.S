/*
 * xmmu guests: change CR4.LA57 from 64-bit mode
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * LA57 may only change outside IA-32e mode (Intel SDM vol. 3, 4.1.2), so the way
 * goes 64-bit -> compatibility -> protected without paging -> back.
 */
#include "lib.h"

        .text
        .code64
        /* void set_paging_levels(ulong root, ulong la57_bit) */
        .global set_paging_levels
set_paging_levels:
        /* Registers keep only their low halves outside 64-bit mode. */
        push %rbx
        push %rbp
        push %r12
        push %r13
        push %r14
        push %r15
        push $SEL_CODE32
        push $1f
        lretq
        .code32
1:      mov %cr0, %eax
        mov %eax, %ebx
        and $~CR0_PG, %eax
        mov %eax, %cr0
        mov %edi, %cr3
        mov %cr4, %eax
        and $~CR4_LA57, %eax
        or %esi, %eax
        mov %eax, %cr4
        mov %ebx, %cr0
        ljmp $SEL_CODE, $2f
        .code64
2:      mov %esp, %esp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbp
        pop %rbx
        ret

        .section .note.GNU-stack, "", @progbits
