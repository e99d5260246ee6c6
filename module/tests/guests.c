// SPDX-License-Identifier: GPL-2.0-only
/*
 * Small guests on /dev/xmmu: every mode of the CPU, every kind of event and exit
 *
 * The same program for VMX and SVM, with the second dimension and with shadow tables.
 * A guest's memory is 2 MiB at 0, mapped one to one: by the tables of the second
 * dimension, or by shadow tables.  Prints a line for each test; exits with 0 when all
 * are good.  An argument selects the tests whose names contain it.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <linux/xmmu.h>

#define PAGES		512
#define SIZE		(PAGES * 4096UL)
#define CODE		0x1000
#define IDT		0x4000
#define GDT		0x5000
#define TSS		0x6000
#define STACK		0x9000		/* its end */
#define DATA		0xa000
#define PML4		0x10000
#define PDPT		0x11000
#define PD		0x12000
#define OTHER_PML4	0x13000		/* a copy */

enum mode { REAL, PROTECTED, PAE, LONG };
static const char *const mode_name[] = { "real", "protected", "pae", "long" };

struct guest {
	enum mode mode;
	bool tdp;
	int vm, cpu;
	uint8_t *mem;
	struct xmmu_run *run;
};

static int dev;
static struct xmmu_caps caps;
static jmp_buf out;

#define CHECK(condition, ...) do { \
	if (!(condition)) { \
		printf("# line %d: %s:", __LINE__, #condition); \
		printf(" " __VA_ARGS__); \
		printf("\n"); \
		longjmp(out, 1); \
	} } while (0)

/* ---- The guests' programs --------------------------------------------------------------- */

#define PROGRAM(name, bits, text) \
	extern const char name[], name##_end[]; \
	asm(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n" \
	    #name "_end:\n.code64\n.popsection\n")

/* In every mode: what it writes to memory, CPUID, OUT, IN, HLT. */
PROGRAM(basic16, 16, "movb $0x5a, 0xa000; mov $1, %eax; cpuid; out %al, $0xe9;"
	"in $0x71, %ax; mov %ax, 0xa002; hlt");
PROGRAM(basic32, 32, "movb $0x5a, 0xa000; mov $1, %eax; cpuid; out %al, $0xe9;"
	"in $0x71, %eax; mov %ax, 0xa002; hlt");
PROGRAM(basic64, 64, "movb $0x5a, 0xa000; mov $1, %eax; cpuid; out %al, $0xe9;"
	"in $0x71, %eax; mov %ax, 0xa002; hlt");
PROGRAM(spin, 64, "nop; 1: jmp 1b");
PROGRAM(just_hlt, 64, "hlt");
PROGRAM(windows, 64, "cli; nop; nop; sti; nop; nop; 1: jmp 1b");
/* A handler at +0x100 that tells the error code, one at +0x180 without. */
PROGRAM(handlers, 64, "1: hlt; jmp 1b; .org handlers + 0x100; pop %rax; out %eax, $0x10;"
	"iretq; .org handlers + 0x180; out %eax, $0x11; iretq");
PROGRAM(registers, 64, "mov %dr0, %rax; mov %rbx, %dr7; mov %cr0, %rcx; mov %rsp, %cr8;"
	"mov %rdx, %cr4; clts; hlt");
PROGRAM(shadow_registers, 64, "mov %cr3, %rsi; mov %r9, %cr3; invlpg 0xa000; hlt");
PROGRAM(msrs, 64, "rdmsr; wrmsr; hlt");
PROGRAM(breakpoints, 64, "nop; nop; movq $1, 0xa008; nop; nop; hlt");
PROGRAM(tsc, 64, "rdtsc; hlt");
PROGRAM(touch, 64, "mov 0xb000, %rax; mov %rax, 0xc000; hlt; mov %rax, 0xb000; hlt");
PROGRAM(vector, 64, "movups %xmm1, 0xa000; movups 0xa010, %xmm2; fld1; hlt");
PROGRAM(strings, 64, "rep insb; outsl; out %ax, %dx; hlt");
PROGRAM(hypercalls, 64, "vmcall; vmmcall; wbinvd; monitor; hlt");
PROGRAM(swap_gs, 64, "swapgs; mov $0xc0000082, %ecx; rdmsr; wrgsbase %rbx; hlt");
PROGRAM(new_cr3, 64, "mov %rax, %cr3; hlt; hlt");
PROGRAM(bad_opcode, 64, "ud2; hlt");
PROGRAM(sti_hlt, 64, "sti; cpuid; hlt");
PROGRAM(int3, 64, "int3; hlt");

/* ---- Making a guest ------------------------------------------------------------------------- */

static void update(struct guest *g, struct xmmu_entry *entries, uint32_t count)
{
	struct xmmu_update u = { .entries = (uintptr_t)entries, .count = count };

	CHECK(!ioctl(g->vm, XMMU_UPDATE, &u), "%u done, %s", u.done, strerror(errno));
}

static struct xmmu_entry leaf(uint64_t page, uint32_t access)
{
	return (struct xmmu_entry) { .op = XMMU_OP_LEAF, .table = 1, .index = page,
				     .target = 1, .page = page, .access = access };
}

static uint32_t rwx(const struct guest *g)
{
	return XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC |
	       (g->tdp ? 0 : XMMU_ACCESS_USER);
}

/* Tables 1, 2, ... by level; all pages mapped. */
static uint32_t make_tables(struct guest *g)
{
	uint32_t top = g->tdp ? (caps.vendor == XMMU_VENDOR_SVM ? caps.max_level : 4) :
		       g->mode == LONG ? 4 : 3;
	uint32_t format = !g->tdp ? XMMU_FORMAT_LONG : caps.vendor == XMMU_VENDOR_SVM ?
			  XMMU_FORMAT_NPT : XMMU_FORMAT_EPT;
	struct xmmu_entry e[PAGES];

	for (uint32_t level = 1; level <= top; level++) {
		bool pae_root = !g->tdp && level == top && g->mode != LONG;

		e[0] = (struct xmmu_entry) { .op = XMMU_OP_NEW, .table = level, .index = level,
					     .access = pae_root ? XMMU_FORMAT_PAE : format };
		e[1] = (struct xmmu_entry) { .op = XMMU_OP_LINK, .table = level,
					     .target = level - 1 };
		update(g, e, level > 1 ? 2 : 1);
	}
	for (uint32_t i = 0; i < PAGES; i++)
		e[i] = leaf(i, rwx(g));
	update(g, e, PAGES);
	return top;
}

static void segment(struct guest *g, int which, uint16_t selector, uint16_t attributes,
		    uint32_t limit)
{
	g->run->segments.seg[which] = (struct xmmu_segment) {
		.selector = selector, .attributes = attributes, .limit = limit,
	};
}

static void make_segments(struct guest *g)
{
	static const uint16_t code[] = { 0x09b, 0xc9b, 0xc9b, 0xa9b };
	static const uint64_t gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	bool flat = g->mode != REAL;
	uint32_t limit = flat ? ~0U : 0xffff;

	for (int i = XMMU_ES; i <= XMMU_GS; i++)
		segment(g, i, flat ? 16 : 0, flat ? 0xc93 : 0x093, limit);
	segment(g, XMMU_CS, flat ? 8 : 0, code[g->mode], limit);
	segment(g, XMMU_LDT, 0, XMMU_SEGMENT_UNUSABLE, 0);
	segment(g, XMMU_TR, flat ? 24 : 0, 0x08b, 0xffff);
	g->run->segments.seg[XMMU_TR].base = TSS;
	g->run->segments.gdt = (struct xmmu_segment) { .base = GDT, .limit = 0xff };
	g->run->segments.idt = (struct xmmu_segment) { .base = IDT, .limit = 0xfff };
	memcpy(g->mem + GDT, gdt, sizeof(gdt));
}

static void make_crs(struct guest *g)
{
	struct xmmu_crs *crs = &g->run->crs;
	uint64_t *pml4 = (void *)(g->mem + PML4), *pdpt = (void *)(g->mem + PDPT);

	*crs = (struct xmmu_crs) { .cr0 = 0x30, .xcr0 = 1, .cr3 = PML4 };
	*(uint64_t *)(g->mem + PD) = 0xe3;
	pml4[0] = PDPT | 0x23;
	pdpt[0] = PD | (g->mode == PAE ? 1 : 0x23);
	memcpy(g->mem + OTHER_PML4, pml4, 4096);
	if (g->mode >= PROTECTED)
		crs->cr0 |= 1;
	if (g->mode >= PAE) {
		crs->cr0 |= 0x80000000;
		crs->cr4 = 0x620;
	}
	if (g->mode == PAE) {
		crs->cr3 = PDPT;
		crs->pdpte[0] = pdpt[0];
	}
	if (g->mode == LONG)
		crs->efer = 0xd01;
	crs->hw_cr0 = crs->cr0;
	crs->hw_cr4 = crs->cr4;
	crs->hw_efer = crs->efer;
}

static void guest_end(struct guest *g)
{
	if (!g->mem)
		return;
	munmap(g->run, caps.run_size);
	close(g->cpu);
	close(g->vm);
	munmap(g->mem, SIZE);
	g->mem = NULL;
}

static struct guest the_guest;

static struct guest *guest_new(enum mode mode, bool tdp)
{
	struct guest *g = &the_guest;
	struct xmmu_region region = { .id = 1, .pages = PAGES };
	struct xmmu_run *run;

	*g = (struct guest) { .mode = mode, .tdp = tdp };
	g->vm = ioctl(dev, XMMU_CREATE_VM, 0);
	CHECK(g->vm >= 0, "%s", strerror(errno));
	g->mem = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	region.addr = (uintptr_t)g->mem;
	CHECK(!ioctl(g->vm, XMMU_SET_REGION, &region), "%s", strerror(errno));
	g->cpu = ioctl(g->vm, XMMU_CREATE_VCPU, 0);
	CHECK(g->cpu >= 0, "%s", strerror(errno));
	run = mmap(0, caps.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g->cpu, 0);
	CHECK(run != MAP_FAILED, "%s", strerror(errno));
	g->run = run;
	run->controls.root = make_tables(g);
	/* Nothing shall be translated by the guest's tables. */
	if (!tdp)
		run->controls.exceptions = 1 << 14;
	run->gprs.rip = CODE;
	run->gprs.rflags = 2;
	run->gprs.gpr[4] = STACK;
	make_segments(g);
	make_crs(g);
	run->drs.dr6 = 0xffff0ff0;
	run->drs.dr7 = 0x400;
	run->msrs.pat = 0x0007040600070406;
	run->wanted = XMMU_GROUP_ALL;
	run->commit = XMMU_GROUP_ALL & ~XMMU_GROUP_XSAVE;
	return g;
}

static void load(struct guest *g, const char *from, const char *end)
{
	memcpy(g->mem + CODE, from, end - from);
}
#define LOAD(g, name) load(g, name, name##_end)

static void gate(struct guest *g, int vector, uint64_t handler)
{
	uint64_t *gates = (void *)(g->mem + IDT);

	gates[2 * vector] = (handler & 0xffff) | 8 << 16 | 0x8e00ULL << 32;
	gates[2 * vector + 1] = 0;
}

/* ---- Running it --------------------------------------------------------------------------- */

static struct xmmu_exit *run(struct guest *g)
{
	int ret;

	do
		ret = ioctl(g->cpu, XMMU_RUN, 0);
	while (ret && errno == EINTR && !g->run->immediate_exit);
	CHECK(!ret, "%s", strerror(errno));
	return &g->run->exit;
}

static const char *said(const struct xmmu_exit *exit)
{
	static char text[200];

	snprintf(text, sizeof(text), "exit %u hardware %llx length %u at %llx, "
		 "%llx %llx %llx", exit->reason, exit->hardware, exit->length,
		 the_guest.run->gprs.rip, exit->pad[0], exit->pad[1], exit->pad[2]);
	return text;
}

static struct xmmu_exit *run_until(struct guest *g, uint32_t reason)
{
	struct xmmu_exit *exit = run(g);

	CHECK(exit->reason == reason, "%u wanted, %s", reason, said(exit));
	return exit;
}

static void skip(struct guest *g, uint32_t length)
{
	CHECK(!g->run->exit.length || g->run->exit.length == length, "%s",
	      said(&g->run->exit));
	g->run->gprs.rip += length;
	g->run->commit |= XMMU_GROUP_GPRS;
}

static void at(struct guest *g, uint64_t offset)
{
	CHECK(g->run->gprs.rip == CODE + offset, "at %llx, not %llx", g->run->gprs.rip,
	      (unsigned long long)(CODE + offset));
}

static void want(struct guest *g, uint32_t what)
{
	g->run->controls.want = what;
	g->run->commit |= XMMU_GROUP_CONTROLS;
}

static void inject(struct guest *g, int type, int vector, bool has_error, uint32_t error)
{
	g->run->events.inject = (struct xmmu_event) {
		.type = type, .vector = vector, .has_error = has_error, .error = error,
	};
	g->run->commit |= XMMU_GROUP_EVENTS;
}

/* ---- Tests ------------------------------------------------------------------------------------ */

static void basic(enum mode mode, bool tdp)
{
	struct guest *g = guest_new(mode, tdp);
	struct xmmu_exit *exit;

	mode == REAL ? LOAD(g, basic16) : mode == LONG ? LOAD(g, basic64) : LOAD(g, basic32);
	/* Shadow tables take protection, a second dimension paging or the feature. */
	if (tdp ? mode <= PROTECTED && !(caps.features & XMMU_FEATURE_REALMODE)
		: mode == REAL) {
		run_until(g, XMMU_EXIT_INVALID);
		return;
	}
	run_until(g, XMMU_EXIT_CPUID);
	CHECK(g->mem[DATA] == 0x5a);
	CHECK(g->run->gprs.gpr[0] == 1);
	g->run->gprs.gpr[0] = 0x11223344;
	skip(g, 2);
	exit = run_until(g, XMMU_EXIT_IO);
	CHECK(exit->io.port == 0xe9 && exit->io.size == 1 && !exit->io.in, "%s", said(exit));
	CHECK(!exit->io.string && !exit->io.rep, "%s", said(exit));
	CHECK(g->run->gprs.gpr[0] == 0x11223344);
	skip(g, 2);
	exit = run_until(g, XMMU_EXIT_IO);
	CHECK(exit->io.port == 0x71 && exit->io.in && exit->io.size == (mode == REAL ? 2 : 4),
	      "%s", said(exit));
	g->run->gprs.gpr[0] = 0xbeef;
	skip(g, 2);
	run_until(g, XMMU_EXIT_HLT);
	CHECK(*(uint16_t *)(g->mem + DATA + 2) == 0xbeef);
}

static void test_basic(bool tdp)
{
	for (enum mode mode = REAL; mode <= LONG; mode++) {
		printf("# %s\n", mode_name[mode]);
		basic(mode, tdp);
		guest_end(&the_guest);
	}
}

/* The instruction behind STI is in its shadow. */
static void test_irq_window(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, windows);
	want(g, XMMU_WANT_IRQ_WINDOW);
	run_until(g, XMMU_EXIT_IRQ_WINDOW);
	at(g, 5);
	CHECK(!g->run->events.shadow);
	CHECK(g->run->gprs.rflags & 0x200);
	memcpy(g->mem + 0x2000, handlers, handlers_end - handlers);
	gate(g, 0x20, 0x2180);
	want(g, 0);
	inject(g, XMMU_EVENT_INTERRUPT, 0x20, false, 0);
	run_until(g, XMMU_EXIT_IO);
	CHECK(g->run->exit.io.port == 0x11);
	CHECK(!(g->run->gprs.rflags & 0x200));
	CHECK(g->run->events.pending.type == XMMU_EVENT_NONE);
	CHECK(g->run->events.inject.type == XMMU_EVENT_NONE);
	CHECK(*(uint64_t *)(g->mem + g->run->gprs.gpr[4]) == CODE + 5);
	skip(g, 2);
	want(g, XMMU_WANT_IRQ_WINDOW);
	run_until(g, XMMU_EXIT_IRQ_WINDOW);
	CHECK(g->run->gprs.rip == CODE + 5 || g->run->gprs.rip == CODE + 6, "%llx",
	      g->run->gprs.rip);
}

/* An instruction that user space executes ends the shadow. */
static void test_shadow_ends(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, sti_hlt);
	run_until(g, XMMU_EXIT_CPUID);
	CHECK(g->run->events.shadow);
	skip(g, 2);
	want(g, XMMU_WANT_IRQ_WINDOW);
	run_until(g, XMMU_EXIT_IRQ_WINDOW);
	at(g, 3);
	/* And one that user space brings is kept, with IF and TF set or not. */
	for (int flags = 0; flags < 4; flags++) {
		LOAD(g, sti_hlt);
		g->run->gprs.rip = CODE + 1;
		g->run->gprs.rflags = 2 | (flags & 1 ? 0x200 : 0) | (flags & 2 ? 0x100 : 0);
		g->run->events.shadow = 1;
		g->run->commit |= XMMU_GROUP_GPRS | XMMU_GROUP_EVENTS;
		run_until(g, XMMU_EXIT_CPUID);
		CHECK(g->run->events.shadow, "flags %d", flags);
		at(g, 1);
	}
}

static void test_exceptions(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, handlers);
	gate(g, 13, CODE + 0x100);
	gate(g, 6, CODE + 0x180);
	run_until(g, XMMU_EXIT_HLT);
	skip(g, 1);
	inject(g, XMMU_EVENT_EXCEPTION, 13, true, 0x1230);
	run_until(g, XMMU_EXIT_IO);
	CHECK(g->run->exit.io.port == 0x10 && g->run->gprs.gpr[0] == 0x1230);
	skip(g, 2);
	run_until(g, XMMU_EXIT_HLT);
	skip(g, 1);
	inject(g, XMMU_EVENT_EXCEPTION, 6, false, 0);
	run_until(g, XMMU_EXIT_IO);
	CHECK(g->run->exit.io.port == 0x11);
	skip(g, 2);
	run_until(g, XMMU_EXIT_HLT);
}

/* Exceptions of the guest itself, handled by it and by user space. */
static void test_own_exceptions(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, bad_opcode);
	memcpy(g->mem + 0x2000, handlers, handlers_end - handlers);
	gate(g, 6, 0x2180);
	run_until(g, XMMU_EXIT_IO);
	CHECK(g->run->exit.io.port == 0x11);
	g->run->gprs.rip = CODE;
	g->run->controls.exceptions |= 1 << 6;
	g->run->commit = XMMU_GROUP_GPRS | XMMU_GROUP_CONTROLS;
	run_until(g, XMMU_EXIT_EXCEPTION);
	CHECK(g->run->exit.exception.vector == 6 && !g->run->exit.exception.has_error);
	at(g, 0);
	/* QEMU's SVM takes INT3 for INT n. */
	if (caps.vendor == XMMU_VENDOR_SVM)
		return;
	LOAD(g, int3);
	g->run->controls.exceptions |= 1 << 3;
	g->run->commit = XMMU_GROUP_CONTROLS;
	run_until(g, XMMU_EXIT_EXCEPTION);
	CHECK(g->run->exit.exception.vector == 3);
	at(g, 0);
}

/* What the guest's handler leaves by IRET, as SVM needs it. */
static void emulate_iret(struct guest *g)
{
	uint64_t *frame = (void *)(g->mem + g->run->gprs.gpr[4]);

	CHECK(g->run->exit.reason == XMMU_EXIT_INSTRUCTION, "%s", said(&g->run->exit));
	g->run->gprs.rip = frame[0];
	g->run->gprs.rflags = frame[2];
	g->run->gprs.gpr[4] = frame[3];
	g->run->events.nmi_blocked = 0;
	g->run->commit |= XMMU_GROUP_GPRS | XMMU_GROUP_EVENTS;
}

static void test_nmi(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, handlers);
	gate(g, 2, CODE + 0x180);
	run_until(g, XMMU_EXIT_HLT);
	skip(g, 1);
	inject(g, XMMU_EVENT_NMI, 2, false, 0);
	run_until(g, XMMU_EXIT_IO);
	CHECK(g->run->exit.io.port == 0x11 && g->run->events.nmi_blocked);
	skip(g, 2);
	want(g, XMMU_WANT_NMI_WINDOW);
	run(g);
	if (g->run->exit.reason == XMMU_EXIT_INSTRUCTION) {
		emulate_iret(g);
		want(g, 0);
		run_until(g, XMMU_EXIT_HLT);
	} else {
		CHECK(g->run->exit.reason == XMMU_EXIT_NMI_WINDOW, "%s", said(&g->run->exit));
		at(g, 1);
	}
	CHECK(!g->run->events.nmi_blocked);
}

/* An interrupt whose delivery the tables stop is told, and can be given again. */
static void test_delivery_cut_off(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	struct xmmu_entry e = { .op = XMMU_OP_CLEAR, .table = 1, .index = IDT >> 12 };
	struct xmmu_event *pending = &g->run->events.pending;

	LOAD(g, handlers);
	gate(g, 0x20, CODE + 0x180);
	run_until(g, XMMU_EXIT_HLT);
	update(g, &e, 1);
	skip(g, 1);
	g->run->gprs.rflags |= 0x200;
	inject(g, XMMU_EVENT_INTERRUPT, 0x20, false, 0);
	if (tdp) {
		run_until(g, XMMU_EXIT_MEMORY);
		CHECK(g->run->exit.memory.gpa >> 12 == IDT >> 12, "%s", said(&g->run->exit));
		CHECK(!g->run->exit.memory.table);
	} else {
		run_until(g, XMMU_EXIT_EXCEPTION);
		CHECK(g->run->exit.exception.vector == 14);
		CHECK(g->run->exit.exception.address >> 12 == IDT >> 12, "%s",
		      said(&g->run->exit));
	}
	CHECK(pending->type == XMMU_EVENT_INTERRUPT && pending->vector == 0x20);
	e = leaf(IDT >> 12, rwx(g));
	update(g, &e, 1);
	inject(g, XMMU_EVENT_INTERRUPT, 0x20, false, 0);
	run_until(g, XMMU_EXIT_IO);
	CHECK(g->run->exit.io.port == 0x11 && pending->type == XMMU_EVENT_NONE);
}

static void register_exit(struct guest *g, uint32_t reason, uint32_t number, bool write,
			  int gpr, uint32_t length)
{
	struct xmmu_exit *exit = run_until(g, reason);

	CHECK(exit->reg.number == number && exit->reg.write == write, "%s", said(exit));
	CHECK(!exit->reg.decoded || exit->reg.gpr == gpr, "%s", said(exit));
	skip(g, length);
}

static void test_registers(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, registers);
	g->run->gprs.gpr[2] = 0x6a0;
	g->run->crs.cr0 |= 8;
	g->run->crs.hw_cr0 |= 8;
	register_exit(g, XMMU_EXIT_DR, 0, false, 0, 3);
	register_exit(g, XMMU_EXIT_DR, 7, true, 3, 3);
	/* A read of what the guest shall see is no exit, but in SVM with shadow tables:
	 * QEMU takes all reads for ones of CR0, and CR3 is not the guest's. */
	if (!tdp && caps.vendor == XMMU_VENDOR_SVM) {
		register_exit(g, XMMU_EXIT_CR, 0, false, 1, 3);
		g->run->gprs.gpr[1] = g->run->crs.cr0;
	}
	register_exit(g, XMMU_EXIT_CR, 8, true, 4, 4);
	CHECK(g->run->gprs.gpr[1] == g->run->crs.cr0, "%llx", g->run->gprs.gpr[1]);
	if (g->run->exit.reg.decoded && caps.vendor == XMMU_VENDOR_VMX)
		CHECK(g->run->exit.reg.value == STACK, "%s", said(&g->run->exit));
	register_exit(g, XMMU_EXIT_CR, 4, true, 2, 3);
	run_until(g, XMMU_EXIT_CR);
	CHECK(g->run->exit.reg.number == 0 && !g->run->exit.reg.decoded);
	skip(g, 2);
	run_until(g, XMMU_EXIT_HLT);
}

static void test_shadow_registers(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, shadow_registers);
	if (tdp)
		want(g, XMMU_WANT_CR_EXITS);
	/* QEMU's SVM takes reads of any register for ones of CR0. */
	if (caps.vendor == XMMU_VENDOR_SVM)
		g->run->gprs.rip += 3;
	else
		register_exit(g, XMMU_EXIT_CR, 3, false, 6, 3);
	register_exit(g, XMMU_EXIT_CR, 3, true, 9, 4);
	run_until(g, XMMU_EXIT_INVLPG);
	if (g->run->exit.reg.decoded)
		CHECK(g->run->exit.reg.value == 0xa000, "%s", said(&g->run->exit));
	skip(g, 8);
	run_until(g, XMMU_EXIT_HLT);
}

static void test_msrs(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, msrs);
	g->run->gprs.gpr[1] = 0x10;
	register_exit(g, XMMU_EXIT_MSR, 0x10, false, 0, 2);
	g->run->gprs.gpr[0] = 0x55667788;
	g->run->gprs.gpr[2] = 0x11223344;
	register_exit(g, XMMU_EXIT_MSR, 0x10, true, 0, 2);
	CHECK(g->run->exit.reg.value == 0x1122334455667788, "%s", said(&g->run->exit));
	run_until(g, XMMU_EXIT_HLT);
	/* LSTAR is the guest's own. */
	g->run->gprs.rip = CODE + 2;
	g->run->gprs.gpr[1] = 0xc0000082;
	g->run->gprs.gpr[2] = 0x12;
	g->run->commit = XMMU_GROUP_GPRS;
	run_until(g, XMMU_EXIT_HLT);
	CHECK(g->run->msrs.lstar == 0x1255667788, "%llx", g->run->msrs.lstar);
}

/* Nothing of the host's where the guest's value is none that a CPU takes. */
static void test_refused_msr(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, msrs);
	g->run->msrs.lstar = 0x1234567812345678;
	g->run->gprs.gpr[1] = 0xc0000082;
	if (ioctl(g->cpu, XMMU_RUN, 0)) {
		CHECK(errno == EINVAL, "%s", strerror(errno));
		return;
	}
	CHECK(g->run->gprs.gpr[2] >> 31 == 0 || g->run->gprs.gpr[2] == 0x12345678,
	      "%llx", g->run->gprs.gpr[2]);
}

static bool has_fsgsbase(void)
{
	unsigned int a, b = 0, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_FSGSBASE);
}

static void test_swapgs(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, swap_gs);
	g->run->crs.cr4 = g->run->crs.hw_cr4 |= 0x10000;	/* FSGSBASE */
	g->run->msrs.kernel_gs_base = 0x7700;
	g->run->msrs.lstar = 0xffffffff81234567;
	g->run->segments.seg[XMMU_GS].base = 0x8800;
	g->run->gprs.gpr[3] = 0x9900;
	if (!has_fsgsbase()) {
		run_until(g, XMMU_EXIT_INVALID);
		return;
	}
	run_until(g, XMMU_EXIT_HLT);
	CHECK(g->run->gprs.gpr[0] == 0x81234567 && g->run->gprs.gpr[2] == 0xffffffff);
	CHECK(g->run->msrs.kernel_gs_base == 0x8800, "%llx", g->run->msrs.kernel_gs_base);
	CHECK(g->run->segments.seg[XMMU_GS].base == 0x9900);
}

static void test_breakpoints(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	struct xmmu_exit *exit;

	LOAD(g, breakpoints);
	g->run->drs.dr[0] = CODE + 1;
	g->run->drs.dr[1] = DATA + 8;
	g->run->drs.dr7 = 0x400 | 2 | 8 | 0x900000;	/* 0: fetch; 1: write of 8 */
	exit = run_until(g, XMMU_EXIT_EXCEPTION);
	CHECK(exit->exception.vector == 1 && (exit->exception.dr6 & 15) == 1, "%s", said(exit));
	at(g, 1);
	g->run->gprs.rflags |= 0x10000;
	g->run->commit = XMMU_GROUP_GPRS;
	exit = run_until(g, XMMU_EXIT_EXCEPTION);
	CHECK(exit->exception.vector == 1 && (exit->exception.dr6 & 15) == 2, "%s", said(exit));
	at(g, 14);
	g->run->gprs.rflags |= 0x100;
	g->run->drs.dr7 = 0x400;
	g->run->drs.dr6 = 0xffff0ff0;
	g->run->commit = XMMU_GROUP_GPRS | XMMU_GROUP_DRS;
	exit = run_until(g, XMMU_EXIT_EXCEPTION);
	CHECK(exit->exception.vector == 1 && (exit->exception.dr6 & 0x400f) == 0x4000, "%s",
	      said(exit));
	at(g, 15);
}

static void test_tsc(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	uint64_t before, after, seen;

	LOAD(g, tsc);
	before = __builtin_ia32_rdtsc();
	g->run->controls.tsc_offset = -before;
	run_until(g, XMMU_EXIT_HLT);
	after = __builtin_ia32_rdtsc();
	seen = (uint32_t)g->run->gprs.gpr[0] | g->run->gprs.gpr[2] << 32;
	CHECK(seen && seen < after - before, "%llx of %llx", (unsigned long long)seen,
	      (unsigned long long)(after - before));
}

static uint32_t harvest(struct guest *g, uint32_t page)
{
	struct xmmu_entry e = {
		.op = XMMU_OP_HARVEST, .table = 1, .index = page,
		.access = XMMU_ACCESS_ACCESSED | XMMU_ACCESS_DIRTY,
	};

	update(g, &e, 1);
	return e.was & (XMMU_ACCESS_ACCESSED | XMMU_ACCESS_DIRTY);
}

static void test_harvest(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	if (tdp && !(caps.features & XMMU_FEATURE_AD))
		return;
	LOAD(g, touch);
	CHECK(!harvest(g, 0xb) && !harvest(g, 0xc));
	run_until(g, XMMU_EXIT_HLT);
	CHECK(harvest(g, 0xb) == XMMU_ACCESS_ACCESSED);
	CHECK(harvest(g, 0xc) == (XMMU_ACCESS_ACCESSED | XMMU_ACCESS_DIRTY));
	CHECK(!harvest(g, 0xb) && !harvest(g, 0xc) && !harvest(g, 0xd));
	skip(g, 1);
	run_until(g, XMMU_EXIT_HLT);
	CHECK(harvest(g, 0xb) == (XMMU_ACCESS_ACCESSED | XMMU_ACCESS_DIRTY));
	CHECK(!harvest(g, 0xc));
}

static int in_log(const uint64_t *log, uint64_t word)
{
	int count = 0;

	for (int i = 0; i < XMMU_LOG_ENTRIES; i++)
		count += log[i] == word;
	return count;
}

/* From the same place again, with the page that it writes clean. */
static struct xmmu_exit *write_again(struct guest *g)
{
	CHECK(harvest(g, 0xc) & XMMU_ACCESS_DIRTY);
	g->run->gprs.rip = CODE;
	g->run->commit |= XMMU_GROUP_GPRS;
	return run(g);
}

/* Pages that become dirty are in the log, from its end down; then it is full. */
static void test_write_log(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	uint64_t *log = (void *)((char *)g->run + caps.log_offset);
	int runs = 0;

	want(g, XMMU_WANT_WRITE_LOG);
	if (!(caps.features & XMMU_FEATURE_WRITE_LOG)) {
		CHECK(ioctl(g->cpu, XMMU_RUN, 0) && errno == EINVAL);
		return;
	}
	memset(log, 0xff, 4096);
	LOAD(g, touch);
	run_until(g, XMMU_EXIT_HLT);
	CHECK(in_log(log, 0xc000) == tdp && !in_log(log, 0xb000));
	CHECK((log[XMMU_LOG_ENTRIES - 1] == -1ULL) == !tdp && log[0] == -1ULL);
	if (!tdp)
		return;
	while (write_again(g)->reason == XMMU_EXIT_HLT && runs < XMMU_LOG_ENTRIES)
		runs++;
	CHECK(g->run->exit.reason == XMMU_EXIT_LOG_FULL && !in_log(log, -1), "%s",
	      said(&g->run->exit));
	memset(log, 0xff, 4096);
	run_until(g, XMMU_EXIT_HLT);
	CHECK(log[XMMU_LOG_ENTRIES - 1] == 0xc000 &&
	      in_log(log, -1) == XMMU_LOG_ENTRIES - 1);
}

static void faults_at(struct guest *g, uint64_t address, uint32_t access, uint32_t granted)
{
	struct xmmu_exit *exit = run_until(g, g->tdp ? XMMU_EXIT_MEMORY : XMMU_EXIT_EXCEPTION);

	if (g->tdp) {
		CHECK(exit->memory.gpa == address && exit->memory.access == access, "%s",
		      said(exit));
		CHECK(!exit->memory.reserved_bit && !exit->memory.table, "%s", said(exit));
		CHECK(caps.vendor != XMMU_VENDOR_VMX ||
		      (exit->memory.gva_valid && exit->memory.gva == address), "%s",
		      said(exit));
		CHECK(!exit->memory.granted == !granted, "%s", said(exit));
	} else {
		uint32_t error = (granted ? 1 : 0) | (access == XMMU_ACCESS_WRITE ? 2 : 0) |
				 (access == XMMU_ACCESS_EXEC ? 16 : 0);

		CHECK(exit->exception.vector == 14 && exit->exception.address == address &&
		      exit->exception.error == error && exit->exception.has_error, "%s",
		      said(exit));
	}
}

/* What an entry loses is gone at once, what it gains is there. */
static void test_rights(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	struct xmmu_entry e = { .op = XMMU_OP_CLEAR, .table = 1, .index = 0xb };

	LOAD(g, touch);
	run_until(g, XMMU_EXIT_HLT);
	update(g, &e, 1);
	g->run->gprs.rip = CODE;
	g->run->commit = XMMU_GROUP_GPRS;
	faults_at(g, 0xb000, XMMU_ACCESS_READ, 0);
	e = leaf(0xb, rwx(g) & ~XMMU_ACCESS_WRITE);
	update(g, &e, 1);
	e = (struct xmmu_entry) { .op = XMMU_OP_ACCESS, .table = 1, .index = 0xc,
				  .access = rwx(g) & ~XMMU_ACCESS_WRITE };
	update(g, &e, 1);
	faults_at(g, 0xc000, XMMU_ACCESS_WRITE, XMMU_ACCESS_READ);
	e.access |= XMMU_ACCESS_WRITE;
	update(g, &e, 1);
	run_until(g, XMMU_EXIT_HLT);
	e.index = CODE >> 12;
	e.access = rwx(g) & ~XMMU_ACCESS_EXEC;
	update(g, &e, 1);
	skip(g, 1);
	faults_at(g, g->run->gprs.rip, XMMU_ACCESS_EXEC, XMMU_ACCESS_READ);
}

/* A fault of the walk of the guest's own tables says so. */
static void test_table_fault(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	struct xmmu_entry e = { .op = XMMU_OP_CLEAR, .table = 1, .index = PDPT >> 12 };
	struct xmmu_exit *exit;

	if (!tdp)
		return;
	update(g, &e, 1);
	LOAD(g, just_hlt);
	exit = run_until(g, XMMU_EXIT_MEMORY);
	CHECK(exit->memory.gpa == PDPT && exit->memory.table, "%s", said(exit));
}

static void test_fpu(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	uint8_t *image = (uint8_t *)g->run + XMMU_RUN_XSAVE_OFFSET;

	LOAD(g, vector);
	run_until(g, XMMU_EXIT_HLT);
	memset(image + 160 + 16, 0xa7, 16);		/* XMM1 */
	memset(g->mem + DATA + 16, 0xb8, 16);
	if (caps.xcr0)
		image[512] |= 3;
	g->run->gprs.rip = CODE;
	g->run->commit = XMMU_GROUP_GPRS | XMMU_GROUP_XSAVE;
	run_until(g, XMMU_EXIT_HLT);
	for (int i = 0; i < 16; i++) {
		CHECK(g->mem[DATA + i] == 0xa7, "%d: %02x", i, g->mem[DATA + i]);
		CHECK(image[160 + 32 + i] == 0xb8, "%d: %02x", i, image[160 + 32 + i]);
	}
	/* FLD1 twice. */
	CHECK(!memcmp(image + 32, "\0\0\0\0\0\0\0\x80\xff\x3f", 10));
	CHECK(!memcmp(image + 48, "\0\0\0\0\0\0\0\x80\xff\x3f", 10));
}

static void test_strings(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	struct xmmu_exit *exit;

	LOAD(g, strings);
	g->run->gprs.gpr[1] = 5;
	g->run->gprs.gpr[2] = 0x1f7;
	g->run->gprs.gpr[6] = g->run->gprs.gpr[7] = DATA;
	exit = run_until(g, XMMU_EXIT_IO);
	CHECK(exit->io.string && exit->io.rep && exit->io.in && exit->io.size == 1 &&
	      exit->io.port == 0x1f7, "%s", said(exit));
	skip(g, 2);
	exit = run_until(g, XMMU_EXIT_IO);
	CHECK(exit->io.string && !exit->io.rep && !exit->io.in && exit->io.size == 4, "%s",
	      said(exit));
	skip(g, 1);
	exit = run_until(g, XMMU_EXIT_IO);
	CHECK(!exit->io.string && exit->io.size == 2, "%s", said(exit));
	skip(g, 2);
	run_until(g, XMMU_EXIT_HLT);
}

static void test_instructions(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	static const uint8_t length[] = { 3, 3, 2, 3 };

	LOAD(g, hypercalls);
	for (unsigned int i = 0; i < sizeof(length); i++) {
		/* The other vendor's hypercall is an invalid opcode. */
		g->run->controls.exceptions |= 1 << 6;
		g->run->commit |= XMMU_GROUP_CONTROLS;
		run(g);
		CHECK(g->run->exit.reason == XMMU_EXIT_INSTRUCTION ||
		      (g->run->exit.reason == XMMU_EXIT_EXCEPTION && i < 2), "%s",
		      said(&g->run->exit));
		skip(g, length[i]);
	}
	run_until(g, XMMU_EXIT_HLT);
}

/* A commit of the controls leaves the CR3 that the guest has loaded. */
static void test_cr3_kept(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	if (!tdp)
		return;
	LOAD(g, new_cr3);
	g->run->gprs.gpr[0] = OTHER_PML4;
	run_until(g, XMMU_EXIT_HLT);
	CHECK(g->run->crs.cr3 == OTHER_PML4);
	g->run->gprs.rip = CODE;
	g->run->gprs.gpr[0] = PML4;
	g->run->commit = XMMU_GROUP_GPRS;
	g->run->wanted = XMMU_GROUP_GPRS;
	run_until(g, XMMU_EXIT_HLT);
	skip(g, 1);
	want(g, XMMU_WANT_NMI_WINDOW);
	want(g, 0);
	g->run->wanted = XMMU_GROUP_ALL;
	run_until(g, XMMU_EXIT_HLT);
	CHECK(g->run->crs.cr3 == PML4, "%llx", g->run->crs.cr3);
}

/* New control registers: nothing that was translated by the old ones is left. */
static void test_cr_flush(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	uint64_t *pd = (void *)(g->mem + PD);

	if (!tdp)
		return;
	LOAD(g, touch);
	pd[1] = 0xe3;			/* 2 MiB on: the same memory */
	run_until(g, XMMU_EXIT_HLT);
	CHECK(g->run->gprs.gpr[0] == 0);
	pd[0] = 0;			/* as a guest would, with MOV CR3 behind it */
	g->run->gprs.rip = CODE + 0x200000;
	g->run->commit = XMMU_GROUP_GPRS | XMMU_GROUP_CRS;
	g->run->controls.exceptions = 1 << 14;
	g->run->commit |= XMMU_GROUP_CONTROLS;
	run_until(g, XMMU_EXIT_EXCEPTION);
	CHECK(g->run->exit.exception.vector == 14 &&
	      g->run->exit.exception.address == 0xb000, "%s", said(&g->run->exit));
}

static void test_segments(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);
	struct xmmu_segments *s = &g->run->segments, before;

	LOAD(g, just_hlt);
	segment(g, XMMU_FS, 0x2b, 0xcf3, ~0U);
	s->seg[XMMU_FS].base = 0x12345678;
	s->seg[XMMU_GS].base = 0xffffffff80001234;
	segment(g, XMMU_ES, 0, XMMU_SEGMENT_UNUSABLE, 0);
	segment(g, XMMU_SS, 0, XMMU_SEGMENT_UNUSABLE, 0);
	/* As an emulator has them: not accessed, not busy. */
	segment(g, XMMU_DS, 16, 0xc92, ~0U);
	segment(g, XMMU_TR, 24, 0x089, 0x67);
	segment(g, XMMU_LDT, 40, 0x082, 0xff);
	before = *s;
	run_until(g, XMMU_EXIT_HLT);
	CHECK(s->cpl == 0);
	for (int i = 0; i < XMMU_SEGMENT_COUNT; i++) {
		bool usable = !(before.seg[i].attributes & XMMU_SEGMENT_UNUSABLE);

		CHECK(s->seg[i].selector == before.seg[i].selector, "%d", i);
		CHECK(s->seg[i].base == before.seg[i].base || !usable, "%d", i);
		CHECK(s->seg[i].limit == before.seg[i].limit || !usable, "%d", i);
		CHECK(!(s->seg[i].attributes & XMMU_SEGMENT_UNUSABLE) == usable, "%d: %x", i,
		      s->seg[i].attributes);
		CHECK(!usable || (s->seg[i].attributes & 0xf6c) ==
		      (before.seg[i].attributes & 0xf6c), "%d: %x", i,
		      s->seg[i].attributes);
	}
	CHECK(s->gdt.base == GDT && s->gdt.limit == 0xff && s->idt.base == IDT);
	/* Ring 3: HLT is refused there. */
	segment(g, XMMU_CS, 0x0b, 0xafb, ~0U);
	segment(g, XMMU_SS, 0x13, 0xcf3, ~0U);
	s->cpl = 3;
	((uint64_t *)(g->mem + PML4))[0] |= 4;
	((uint64_t *)(g->mem + PDPT))[0] |= 4;
	((uint64_t *)(g->mem + PD))[0] |= 4;
	g->run->controls.exceptions |= 1 << 13;
	g->run->commit = XMMU_GROUP_SEGMENTS | XMMU_GROUP_CRS | XMMU_GROUP_CONTROLS;
	run_until(g, XMMU_EXIT_EXCEPTION);
	CHECK(g->run->exit.exception.vector == 13 && s->cpl == 3, "%s", said(&g->run->exit));
}

static void test_shutdown(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, bad_opcode);
	g->run->segments.idt.limit = 0;
	run_until(g, XMMU_EXIT_SHUTDOWN);
}

static void test_invalid(bool tdp)
{
	struct guest *g = guest_new(LONG, tdp);

	LOAD(g, just_hlt);
	g->run->gprs.rflags = 0x20002;		/* VM86 in long mode */
	inject(g, XMMU_EVENT_EXCEPTION, 6, false, 0);
	run(g);
	/* QEMU's SVM does not mind, and meets an IDT without gates. */
	CHECK(g->run->exit.reason == XMMU_EXIT_INVALID ||
	      (g->run->exit.reason == XMMU_EXIT_SHUTDOWN && caps.vendor == XMMU_VENDOR_SVM),
	      "%s", said(&g->run->exit));
	/* And runs again when it can. */
	g->run->gprs.rflags = 2;
	g->run->gprs.rip = CODE;
	g->run->commit = XMMU_GROUP_ALL & ~XMMU_GROUP_XSAVE;
	memset(&g->run->events, 0, sizeof(g->run->events));
	run_until(g, XMMU_EXIT_HLT);
}

static void on_alarm(int number)
{
	(void)number;
}

/* Whatever the guest's IF is: in bochs by the help of the module's max_stay_us. */
static void signalled(bool tdp, uint64_t interrupts)
{
	struct guest *g = guest_new(LONG, tdp);
	struct sigaction action = { .sa_handler = on_alarm };

	LOAD(g, spin);
	g->run->gprs.rflags |= interrupts;
	g->run->immediate_exit = 1;
	CHECK(ioctl(g->cpu, XMMU_RUN, 0) && errno == EINTR);
	CHECK(g->run->exit.reason == XMMU_EXIT_NONE);
	g->run->immediate_exit = 0;
	sigaction(SIGALRM, &action, NULL);
	ualarm(20000, 0);
	CHECK(ioctl(g->cpu, XMMU_RUN, 0) && errno == EINTR);
	CHECK(g->run->exit.reason == XMMU_EXIT_NONE);
	CHECK(g->run->gprs.rip - CODE <= 1, "%llx", g->run->gprs.rip);
}

static void test_signal(bool tdp)
{
	signalled(tdp, 0x200);
}

static void test_signal_masked(bool tdp)
{
	signalled(tdp, 0);
}

static const struct {
	const char *name;
	void (*run)(bool tdp);
} tests[] = {
	{ "modes", test_basic },
	{ "irq-window", test_irq_window },
	{ "shadow-ends", test_shadow_ends },
	{ "exceptions", test_exceptions },
	{ "own-exceptions", test_own_exceptions },
	{ "nmi", test_nmi },
	{ "delivery-cut-off", test_delivery_cut_off },
	{ "registers", test_registers },
	{ "cr3-and-invlpg", test_shadow_registers },
	{ "msrs", test_msrs },
	{ "refused-msr", test_refused_msr },
	{ "swapgs", test_swapgs },
	{ "breakpoints", test_breakpoints },
	{ "tsc", test_tsc },
	{ "harvest", test_harvest },
	{ "write-log", test_write_log },
	{ "rights", test_rights },
	{ "table-fault", test_table_fault },
	{ "fpu", test_fpu },
	{ "strings", test_strings },
	{ "instructions", test_instructions },
	{ "cr3-kept", test_cr3_kept },
	{ "cr-flush", test_cr_flush },
	{ "segments", test_segments },
	{ "shutdown", test_shutdown },
	{ "invalid", test_invalid },
	{ "signal", test_signal },
	{ "signal-masked", test_signal_masked },
};

int main(int argc, char **argv)
{
	volatile int bad = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	dev = open("/dev/xmmu", O_RDWR);
	caps.size = sizeof(caps);
	if (dev < 0 || ioctl(dev, XMMU_GET_CAPS, &caps)) {
		perror("/dev/xmmu");
		return 1;
	}
	for (unsigned int i = 0; i < 2 * sizeof(tests) / sizeof(*tests); i++) {
		bool tdp = i & 1, good;
		const char *name = tests[i / 2].name;

		if (tdp && !(caps.formats & (1 << XMMU_FORMAT_NPT | 1 << XMMU_FORMAT_EPT)))
			continue;
		if (argc > 1 && !strstr(name, argv[1]))
			continue;
		good = !setjmp(out);
		if (good)
			tests[i / 2].run(tdp);
		bad += !good;
		printf("%s %s %s\n", good ? "good" : "BAD", name, tdp ? "tdp" : "shadow");
		guest_end(&the_guest);
	}
	return bad != 0;
}
