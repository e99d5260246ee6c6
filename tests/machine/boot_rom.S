/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The whole firmware of the VMX machine: start a Linux kernel that bochs has put
 * into memory already
 *
 * From the reset vector to 64-bit mode with the first 4 GiB mapped one to one, and
 * to the kernel's 64-bit entry point with RSI at the boot parameters (Linux,
 * Documentation/x86/boot.rst, "64-bit Boot Protocol").  No BIOS, no disk, no
 * decompression: in an interpreter these take minutes.
 */
#define IMAGE		0x100000	/* where bochs puts the image */
#define IMAGE_PAGES	IMAGE		/* its first word: pages of 4 KiB */
#define BOOT_PARAMS	0x101000
#define PML4		0x110000
#define PDPT		0x111000
#define PD		0x112000	/* four of them */
#define KERNEL		0x1000000
#define ROM		0xf0000

	.code16
	.globl _start
_start:
	cli
	mov	$0x02, %al	/* A20 */
	out	%al, $0x92
	lgdtl	%cs:(gdt_pointer - _start)
	mov	%cr0, %eax
	or	$1, %eax
	mov	%eax, %cr0
	ljmpl	$0x10, $(ROM + protected - _start)

	.code32
protected:
	mov	$0x18, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	/*
	 * bochs gives memory its place in blocks, in the order of the first access,
	 * but has read the image in one piece: the order must be that of addresses.
	 */
	mov	IMAGE_PAGES, %ecx
	mov	$IMAGE, %edi
1:	mov	(%edi), %al
	add	$0x1000, %edi
	loop	1b

	/* PML4, PDPT */
	mov	$PML4, %edi
	xor	%eax, %eax
	mov	$(0x2000 / 4), %ecx
	rep stosl
	movl	$(PDPT + 3), PML4
	mov	$PDPT, %edi
	mov	$(PD + 3), %eax
	mov	$4, %ecx
1:	mov	%eax, (%edi)
	add	$8, %edi
	add	$0x1000, %eax
	loop	1b
	/* 2048 pages of 2 MiB */
	mov	$PD, %edi
	mov	$0x83, %eax
	mov	$2048, %ecx
1:	mov	%eax, (%edi)
	movl	$0, 4(%edi)
	add	$8, %edi
	add	$0x200000, %eax
	loop	1b
	mov	$0x20, %eax	/* PAE */
	mov	%eax, %cr4
	mov	$PML4, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx
	rdmsr
	or	$0x100, %eax	/* LME */
	wrmsr
	mov	%cr0, %eax
	or	$0x80000000, %eax
	mov	%eax, %cr0
	ljmpl	$0x20, $(ROM + long_mode - _start)

	.code64
long_mode:
	mov	$BOOT_PARAMS, %esi
	mov	$KERNEL, %eax
	jmp	*%rax

	.balign 8
gdt:	.quad	0, 0
	.quad	0x00cf9b000000ffff	/* 0x10: 32-bit code */
	.quad	0x00cf93000000ffff	/* 0x18: data */
	.quad	0x00af9b000000ffff	/* 0x20: 64-bit code */
gdt_pointer:
	.word	. - gdt - 1
	.long	ROM + gdt - _start

	.org	0xfff0
	.code16
	ljmp	$0xf000, $0
	.org	0xffff
	.byte	0
