/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the test programs of /dev/xmmu share: TAP, the calls, and a small guest in real
 * mode with memory and tables. Each program is one process image, so all of it is static.
 */
#ifndef XMMU_TEST_H
#define XMMU_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/xmmu.h>

#define UNUSED		__attribute__((unused))
#define PAGE		4096UL
#define RWX		(XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC)
#define RX		(XMMU_ACCESS_READ | XMMU_ACCESS_EXEC)

/* ---- TAP ------------------------------------------------------------ */

static int tests, failures;

static UNUSED bool ok(bool good, const char *format, ...)
{
	va_list args;

	printf("%sok %d - ", good ? "" : "not ", ++tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	failures += !good;
	return good;
}

/* @got and @want are errnos; 0 is success. */
static UNUSED bool is(int got, int want, const char *what)
{
	bool good = ok(got == want, "%s", what);

	if (!good)
		printf("# got %s, not %s\n", got ? strerror(got) : "success",
		       want ? strerror(want) : "success");
	return good;
}

static UNUSED int finish(void)
{
	printf("1..%d\n", tests);
	return failures ? 1 : 0;
}

static UNUSED void die(const char *what)
{
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- Calls: 0 or an errno ------------------------------------------------ */

static struct xmmu_caps caps;

static UNUSED int open_device(void)
{
	int fd = open("/dev/xmmu", O_RDWR | O_CLOEXEC);

	caps.size = sizeof(caps);
	if (fd < 0 || ioctl(fd, XMMU_GET_CAPS, &caps))
		die("/dev/xmmu");
	return fd;
}

static UNUSED int result(int ret)
{
	return ret < 0 ? errno : 0;
}

static UNUSED int set_region(int vm, uint32_t id, uint32_t flags, const void *addr,
			     uint64_t pages)
{
	struct xmmu_region region = { id, flags, (uintptr_t)addr, pages };

	return result(ioctl(vm, XMMU_SET_REGION, &region));
}

static UNUSED int update(int vm, struct xmmu_entry *entries, uint32_t count, uint32_t *done)
{
	struct xmmu_update update = { .entries = (uintptr_t)entries, .count = count };
	int ret = result(ioctl(vm, XMMU_UPDATE, &update));

	if (done)
		*done = update.done;
	return ret;
}

static UNUSED int entry_op(int vm, struct xmmu_entry entry)
{
	return update(vm, &entry, 1, NULL);
}

static UNUSED int table_new(int vm, uint32_t table, uint32_t format, int level)
{
	return entry_op(vm, (struct xmmu_entry) {
		.op = XMMU_OP_NEW, .table = table, .access = format, .index = level });
}

static UNUSED int table_free(int vm, uint32_t table)
{
	return entry_op(vm, (struct xmmu_entry) { .op = XMMU_OP_FREE, .table = table });
}

static UNUSED int set_link(int vm, uint32_t table, int index, uint32_t target)
{
	return entry_op(vm, (struct xmmu_entry) {
		.op = XMMU_OP_LINK, .table = table, .index = index, .target = target });
}

static UNUSED int set_leaf(int vm, uint32_t table, int index, uint32_t region,
			   uint64_t page, uint32_t access)
{
	return entry_op(vm, (struct xmmu_entry) {
		.op = XMMU_OP_LEAF, .table = table, .index = index, .target = region,
		.page = page, .access = access });
}

static UNUSED int clear(int vm, uint32_t table, int index)
{
	return entry_op(vm, (struct xmmu_entry) {
		.op = XMMU_OP_CLEAR, .table = table, .index = index });
}

static UNUSED int set_access(int vm, uint32_t table, int index, uint32_t access)
{
	return entry_op(vm, (struct xmmu_entry) {
		.op = XMMU_OP_ACCESS, .table = table, .index = index, .access = access });
}

/* Bits of enum xmmu_access, or -errno. */
static UNUSED int harvest(int vm, uint32_t table, int index, uint32_t bits)
{
	struct xmmu_entry entry = {
		.op = XMMU_OP_HARVEST, .table = table, .index = index, .access = bits };
	int ret = update(vm, &entry, 1, NULL);

	return ret ? -ret : (int)entry.was;
}

/* ---- A guest in real mode ------------------------------------------------ */

#define REGION		1
#define MEM_PAGES	512

/* Tables 1..levels, table N of level N, each linked from the one above by entry 0. */
struct guest {
	int vm, levels;
	uint32_t format;
	uint8_t *mem;		/* at guest physical 0 on */
};

struct cpu {
	int fd;
	struct xmmu_run *run;
};

static UNUSED uint32_t second_dimension(void)
{
	return caps.formats & (1 << XMMU_FORMAT_EPT) ? XMMU_FORMAT_EPT : XMMU_FORMAT_NPT;
}

static UNUSED struct guest new_guest(int device)
{
	struct guest g = { .format = second_dimension(), .levels = caps.max_level };

	g.vm = ioctl(device, XMMU_CREATE_VM, 0);
	g.mem = mmap(NULL, MEM_PAGES * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g.vm < 0 || g.mem == MAP_FAILED || set_region(g.vm, REGION, 0, g.mem, MEM_PAGES))
		die("a VM");
	for (int level = 1; level <= g.levels; level++) {
		if (table_new(g.vm, level, g.format, level) ||
		    (level > 1 && set_link(g.vm, level, 0, level - 1)))
			die("tables");
	}
	return g;
}

static UNUSED void free_guest(struct guest *g)
{
	close(g->vm);
	munmap(g->mem, MEM_PAGES * PAGE);
}

static UNUSED struct cpu new_cpu(const struct guest *g, int index)
{
	struct cpu cpu = { .fd = ioctl(g->vm, XMMU_CREATE_VCPU, index) };

	cpu.run = mmap(NULL, caps.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu.fd, 0);
	if (cpu.fd < 0 || cpu.run == MAP_FAILED)
		die("a vCPU");
	return cpu;
}

static UNUSED void free_cpu(struct cpu *cpu)
{
	munmap(cpu->run, caps.run_size);
	close(cpu->fd);
}

/* As after a reset, but CS:RIP is 0:@rip. */
static UNUSED void real_mode(const struct guest *g, struct xmmu_run *run, uint64_t rip)
{
	memset(run, 0, sizeof(*run));
	run->gprs.rip = rip;
	run->gprs.rflags = 2;
	for (int i = 0; i < XMMU_SEGMENT_COUNT; i++) {
		run->segments.seg[i].limit = 0xffff;
		run->segments.seg[i].attributes = 0x93;
	}
	run->segments.seg[XMMU_CS].attributes = 0x9b;
	run->segments.seg[XMMU_LDT].attributes = 0x82;
	run->segments.seg[XMMU_TR].attributes = 0x8b;
	run->segments.gdt.limit = run->segments.idt.limit = 0xffff;
	run->crs.cr0 = run->crs.hw_cr0 = 0x30;
	run->crs.xcr0 = 1;
	run->drs.dr6 = 0xffff0ff0;
	run->drs.dr7 = 0x400;
	run->msrs.pat = 0x0007040600070406ull;
	run->controls.root = g->levels;
	run->wanted = XMMU_GROUP_GPRS;
	run->commit = XMMU_GROUP_ALL & ~XMMU_GROUP_XSAVE;
}

/* What XMMU_RUN does when nobody has sent a signal. */
static UNUSED int run_cpu(struct cpu *cpu)
{
	int ret;

	do
		ret = result(ioctl(cpu->fd, XMMU_RUN, 0));
	while (ret == EINTR && !cpu->run->immediate_exit);
	return ret;
}

/* ---- The machine -------------------------------------------------------------- */

/* The number after @key in @file; -1 when it is not there. */
static UNUSED long number_in(const char *file, const char *key)
{
	char line[256];
	long value = -1;
	FILE *f = fopen(file, "r");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			value = atol(line + strlen(key));
	if (f)
		fclose(f);
	return value;
}

/* Pages that anybody in the machine has pinned for long. */
static UNUSED long pins(void)
{
	int fd = open("/proc/sys/vm/stat_refresh", O_WRONLY);

	/* Each CPU keeps some of the count to itself until somebody asks. */
	if (fd < 0 || write(fd, "1", 1) < 0)
		die("stat_refresh");
	close(fd);
	return number_in("/proc/vmstat", "nr_foll_pin_acquired ") -
	       number_in("/proc/vmstat", "nr_foll_pin_released ");
}

static UNUSED long pinned_kb(void)
{
	return number_in("/proc/self/status", "VmPin:");
}

#endif /* XMMU_TEST_H */
