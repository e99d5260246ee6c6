/*
 * xmmu guest "smp": where the other CPUs start
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A start-up IPI enters at AP_START in real mode; from there to 64-bit mode with
 * the boot CPU's first tables.
 */
#include "lib.h"

#define AP_START        0x8000

        .text
        .code16
        .global ap_blob, ap_blob_end
ap_blob:
        cli
        xor %ax, %ax
        mov %ax, %ds
        lgdtl AP_START + (ap_gdt_desc - ap_blob)
        mov %cr0, %eax
        or $CR0_PE, %al
        mov %eax, %cr0
        ljmpl $SEL_CODE32, $ap_start32
        .align 4
ap_gdt_desc:
        .word SEL_TSS - 1
        .long gdt
ap_blob_end:

        .code32
ap_start32:
        mov $SEL_DATA, %eax
        mov %eax, %ss
        mov %eax, %ds
        mov %eax, %es
        mov ap_stack, %esp
        mov %cr0, %eax
        and $~(CR0_CD | CR0_NW), %eax
        mov %eax, %cr0
        call enter_long
        .code64
        call ap_main

        .section .note.GNU-stack, "", @progbits
