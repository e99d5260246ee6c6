// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every way to break the contract of /dev/xmmu that we could think of: each must be
 * refused with its error, or be harmless. What "harmless" means is looked at from the
 * outside: the guest's and the host's memory, the pins, and that the kernel says nothing
 * (which the runner of these tests looks at).
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include "xmmu_test.h"

static int device;
static struct guest g;

static void nap(int ms)
{
	nanosleep(&(struct timespec) { ms / 1000, ms % 1000 * 1000000L }, NULL);
}

/* ---- Regions ------------------------------------------------------------- */

static void regions(void)
{
	is(set_region(g.vm, REGION, 0, g.mem, 1), EEXIST, "a region's id twice");
	is(set_region(g.vm, 2, 2, g.mem, 1), EINVAL, "an unknown flag");
	is(set_region(g.vm, 2, 0, g.mem + 1, 1), EINVAL, "an address within a page");
	is(set_region(g.vm, caps.max_regions, 0, g.mem, 1), EINVAL, "an id that is too large");
	is(set_region(g.vm, ~0u, 0, g.mem, 1), EINVAL, "the largest id");
	is(set_region(g.vm, 2, 0, (void *)0xffff888000000000, 1), EINVAL,
	   "a region of the kernel's memory");
	is(set_region(g.vm, 2, 0, g.mem, 1ull << 52), EINVAL, "a size that wraps");
	is(set_region(g.vm, 2, 0, (void *)0x7ffffffff000, 2), EINVAL,
	   "a region that ends in the hole");
	is(set_region(g.vm, 2, 0, g.mem, ~0ull), EINVAL, "the largest size");
	is(set_region(g.vm, 2, 0, 0, 0x7fffffff), ENOMEM,
	   "a region whose book-keeping is larger than the machine");
	is(set_region(g.vm, 2, 0, 0, 0), ENOENT, "forgetting what there is not");
	is(result(ioctl(g.vm, XMMU_SET_REGION, 8)), EFAULT, "a structure nowhere");
}

/* ---- Tables ---------------------------------------------------------------- */

static void tables(void)
{
	is(table_new(g.vm, 1, g.format, 1), EEXIST, "a table's id twice");
	is(table_new(g.vm, 50, XMMU_FORMAT_COUNT, 1), EINVAL, "an unknown format");
	is(table_new(g.vm, 50, ~0u, 1), EINVAL, "the largest format");
	is(table_new(g.vm, 50, g.format, 0), EINVAL, "level 0");
	is(table_new(g.vm, 50, g.format, 6), EINVAL, "level 6");
	is(table_new(g.vm, 50, g.format, 257), EINVAL, "a level that is 1 in eight bits");
	is(table_new(g.vm, 50, XMMU_FORMAT_PAE, 2), EINVAL, "a PAE table of level 2");
	is(table_new(g.vm, caps.max_tables, g.format, 1), EINVAL, "an id that is too large");
	is(table_free(g.vm, 50), ENOENT, "freeing no table");
	is(table_free(g.vm, 2), EBUSY, "freeing a table with an entry");
	is(table_free(g.vm, 1), EBUSY, "freeing a table that is pointed to");
	is(clear(g.vm, 1, 512), EINVAL, "entry 512");
	is(clear(g.vm, 1, 65535), EINVAL, "entry 65535");
	is(clear(g.vm, 50, 0), ENOENT, "an entry of no table");
	is(entry_op(g.vm, (struct xmmu_entry) { .op = 99, .table = 1 }), EINVAL, "no operation");
	is(entry_op(g.vm, (struct xmmu_entry) { .op = XMMU_OP_CLEAR, .table = 1, .zero = 1 }),
	   EINVAL, "a nonzero zero");
}

static void links(void)
{
	uint32_t other = g.format == XMMU_FORMAT_EPT ? XMMU_FORMAT_NPT : XMMU_FORMAT_EPT;

	table_new(g.vm, 50, g.format, 2);
	table_new(g.vm, 51, other, 1);
	table_new(g.vm, 52, XMMU_FORMAT_PAE, 3);
	table_new(g.vm, 53, XMMU_FORMAT_LONG, 2);
	is(set_link(g.vm, 50, 0, 50), EINVAL, "a table that points to itself");
	is(set_link(g.vm, 50, 0, 3), EINVAL, "a table that points up");
	is(set_link(g.vm, 50, 0, 2), EINVAL, "a table that points to one of its level");
	is(set_link(g.vm, 3, 1, 1), EINVAL, "a table that points two levels down");
	is(set_link(g.vm, 1, 1, 1), EINVAL, "a table below the last level");
	is(set_link(g.vm, 50, 0, 51), EINVAL, "a table of another format");
	is(set_link(g.vm, 52, 0, 50), EINVAL, "a PAE root over the second dimension");
	is(set_link(g.vm, 52, 4, 53), EINVAL, "entry 4 of a PAE root");
	is(set_link(g.vm, 52, 3, 53), 0, "a PAE root over a long table");
	is(set_leaf(g.vm, 52, 0, REGION, 0, XMMU_ACCESS_READ), EINVAL, "a leaf in a PAE root");
	is(set_link(g.vm, 50, 0, 99), ENOENT, "a link to no table");
	is(set_link(g.vm, 50, 0, ~0u), ENOENT, "a link to the largest id");
	is(entry_op(g.vm, (struct xmmu_entry) { .op = XMMU_OP_LINK, .table = 50, .target = 1,
						 .access = 1 }), EINVAL, "a link with rights");
	clear(g.vm, 52, 3);
	for (int id = 50; id < 54; id++)
		is(table_free(g.vm, id), 0, "and they can be freed");
}

static void leaves(void)
{
	void *none = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t top = g.levels;

	is(set_leaf(g.vm, 1, 0, 7, 0, RWX), ENOENT, "a leaf of no region");
	is(set_leaf(g.vm, 1, 0, ~0u, 0, RWX), ENOENT, "a leaf of the largest id");
	is(set_leaf(g.vm, 1, 0, REGION, MEM_PAGES, RWX), EINVAL, "the page after the last");
	is(set_leaf(g.vm, 1, 0, REGION, ~0ull, RWX), EINVAL, "the largest page");
	is(set_leaf(g.vm, 1, 0, REGION, 1ull << 52, RWX), EINVAL, "a page that wraps");
	is(set_leaf(g.vm, 2, 1, REGION, 1, RWX), EINVAL, "a large page that ends outside");
	is(set_leaf(g.vm, 2, 1, REGION, ~0ull - 511, RWX), EINVAL, "a large page that wraps");
	is(set_leaf(g.vm, 3, 1, REGION, 0, RWX), EINVAL, "1 GiB of 2 MiB");
	is(set_leaf(g.vm, top, 1, REGION, 0, RWX), EINVAL, "a leaf in a table of level 4");
	is(set_leaf(g.vm, 1, 0, REGION, 0, RWX | 1 << 12), EINVAL, "a right that does not exist");
	is(set_leaf(g.vm, 1, 0, REGION, 0, RWX | XMMU_ACCESS_GLOBAL), EINVAL,
	   "a global page of the second dimension");
	is(set_leaf(g.vm, 1, 0, REGION, 0, 0), EINVAL, "no rights");
	is(set_leaf(g.vm, 1, 0, REGION, 0, XMMU_ACCESS_WRITE), EINVAL, "only writing");
	is(set_region(g.vm, 2, XMMU_REGION_RO, g.mem, 4), 0, "a region for reading");
	is(set_leaf(g.vm, 1, 9, 2, 0, RWX), EINVAL, "writing in it");
	is(set_leaf(g.vm, 1, 9, 2, 0, RX), 0, "reading in it");
	is(set_access(g.vm, 1, 9, RWX), EINVAL, "writing in it later");
	is(set_region(g.vm, 2, 0, 0, 0), EBUSY, "forgetting a region with a leaf");
	is(clear(g.vm, 1, 9), 0, "clearing the leaf");
	is(clear(g.vm, 1, 9), 0, "clearing nothing");
	is(set_region(g.vm, 2, 0, 0, 0), 0, "forgetting the region");
	is(set_access(g.vm, 1, 9, RX), ENOENT, "rights of no leaf");
	is(set_access(g.vm, 2, 0, RX), ENOENT, "rights of a link");
	is(harvest(g.vm, 1, 9, XMMU_ACCESS_DIRTY), -ENOENT, "D of no leaf");
	set_region(g.vm, 2, 0, none, 2);
	is(set_leaf(g.vm, 1, 9, 2, 0, RWX), EFAULT, "memory that may not be touched");
	munmap(none, 2 * PAGE);
	is(set_leaf(g.vm, 1, 9, 2, 0, RWX), EFAULT, "memory that is not there");
	set_region(g.vm, 2, 0, 0, 0);
}

static void batches(void)
{
	struct xmmu_entry *entries = calloc(XMMU_UPDATE_MAX + 1, sizeof(*entries));
	uint32_t done = 77;

	for (int i = 0; i <= XMMU_UPDATE_MAX; i++)
		entries[i] = (struct xmmu_entry) { .op = XMMU_OP_CLEAR, .table = 1, .index = i % 512 };
	is(update(g.vm, entries, XMMU_UPDATE_MAX + 1, NULL), E2BIG, "a batch too large");
	is(update(g.vm, entries, ~0u, NULL), E2BIG, "a batch whose size wraps");
	is(update(g.vm, entries, XMMU_UPDATE_MAX, &done), 0, "the largest batch");
	ok(done == XMMU_UPDATE_MAX, "all of it is done");
	entries[100].table = 50;
	is(update(g.vm, entries, 200, &done), ENOENT, "a batch with an error in it");
	ok(done == 100, "which is where it says");
	is(update(g.vm, (void *)8, 1, NULL), EFAULT, "a batch nowhere");
	is(update(g.vm, (void *)0xffffffff81000000, 1, NULL), EFAULT, "a batch in the kernel");
	is(update(g.vm, NULL, 0, NULL), 0, "an empty batch");
	free(entries);
	entries = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*entries = (struct xmmu_entry) { .op = XMMU_OP_CLEAR, .table = 1 };
	mprotect(entries, PAGE, PROT_READ);
	is(update(g.vm, entries, 1, NULL), EFAULT, "a batch that cannot be written");
	munmap(entries, PAGE);
}

/* ---- The state of a vCPU ------------------------------------------------------ */

/* mov $0x2000, %bx; again: incw (%bx); jmp again */
static const uint8_t counting[] = { 0xbb, 0x00, 0x20, 0xff, 0x07, 0xeb, 0xfc };
static const uint8_t halting[] = { 0xb0, 'X', 0xa2, 0x00, 0x20, 0xf4 };

static void refuse(struct cpu *cpu, int error, const char *what)
{
	int ret = result(ioctl(cpu->fd, XMMU_RUN, 0));
	bool kept = cpu->run->commit;

	ok(ret == error && kept, "%s is refused (%s)", what, strerror(ret));
	real_mode(&g, cpu->run, 0x1000);
}

static void states(void)
{
	struct cpu cpu = new_cpu(&g, 0);
	struct xmmu_run *run = cpu.run;

	is(result(ioctl(g.vm, XMMU_CREATE_VCPU, 0)), EEXIST, "a vCPU's number twice");
	is(result(ioctl(g.vm, XMMU_CREATE_VCPU, caps.max_vcpus)), EINVAL, "a number too large");
	is(result(ioctl(g.vm, XMMU_CREATE_VCPU, ~0ul)), EINVAL, "the largest number");
	is(result(ioctl(cpu.fd, XMMU_RUN, 0)), ENOENT, "running without a root");
	is(result(ioctl(cpu.fd, XMMU_RUN, 1)), EINVAL, "running with an argument");
	is(result(ioctl(cpu.fd, XMMU_UPDATE, 0)), ENOTTY, "a VM's call on a vCPU");
	is(result(ioctl(g.vm, XMMU_RUN, 0)), ENOTTY, "a vCPU's call on a VM");
	real_mode(&g, run, 0x1000);
	run->controls.root = 99;
	refuse(&cpu, ENOENT, "a root that is no table");
	run->controls.root = 1;
	refuse(&cpu, ENOENT, "a root of level 1");
	run->commit = XMMU_GROUP_ALL + 1;
	refuse(&cpu, EINVAL, "a group that does not exist");
	run->crs.xcr0 = 0;
	refuse(&cpu, EINVAL, "XCR0 without x87");
	run->crs.xcr0 = 1ull << 62 | 1;
	refuse(&cpu, EINVAL, "XCR0 with what there is not");
	run->crs.hw_cr4 = 1 << 13;
	refuse(&cpu, EINVAL, "CR4.VMXE");
	run->crs.hw_cr4 = 1 << 23;
	refuse(&cpu, EINVAL, "CR4.CET");
	run->crs.hw_efer = 1 << 12;
	refuse(&cpu, EINVAL, "EFER.SVME");
	run->controls.want = 1u << 31;
	refuse(&cpu, EINVAL, "an unknown wish");
	run->controls.tsc_ratio = ~0ull;
	refuse(&cpu, EINVAL, "a TSC ratio that no CPU has");
	run->controls.zero = 1;
	refuse(&cpu, EINVAL, "a nonzero zero");
	run->events.inject.zero = 1;
	refuse(&cpu, EINVAL, "an event's nonzero zero");
	run->events.inject.type = XMMU_EVENT_SOFT;
	refuse(&cpu, EINVAL, "a software interrupt");
	run->events.inject = (struct xmmu_event) { .type = XMMU_EVENT_EXCEPTION, .vector = 2 };
	refuse(&cpu, EINVAL, "an exception that is the NMI");
	run->events.inject = (struct xmmu_event) { .type = XMMU_EVENT_EXCEPTION, .vector = 32 };
	refuse(&cpu, EINVAL, "exception 32");
	memcpy(g.mem + 0x1000, halting, sizeof(halting));
	set_leaf(g.vm, 1, 1, REGION, 1, RX);
	set_leaf(g.vm, 1, 2, REGION, 2, RWX);
	is(run_cpu(&cpu), 0, "after all that the vCPU runs");
	ok(run->exit.reason == XMMU_EXIT_HLT && g.mem[0x2000] == 'X', "and its guest does");
	is(table_free(g.vm, g.levels), EBUSY, "freeing a root in use");
	free_cpu(&cpu);
}

/* Nothing of the host's in what user space can read. */
static void no_addresses(void)
{
	struct cpu cpu = new_cpu(&g, 0);
	const uint64_t *word = (void *)cpu.run;
	int found = 0;

	real_mode(&g, cpu.run, 0x1000);
	cpu.run->wanted = XMMU_GROUP_ALL;
	run_cpu(&cpu);
	for (unsigned int i = 0; i < caps.run_size / 8; i++)
		if (word[i] >= 0xffff800000000000) {
			printf("# at %u: %llx\n", i * 8, (unsigned long long)word[i]);
			found++;
		}
	ok(!found, "no kernel address in the state of a vCPU");
	free_cpu(&cpu);
}

/* ---- A vCPU that runs while things change -------------------------------------- */

struct runner {
	pthread_t thread;
	struct cpu cpu;
	volatile bool stop;
	unsigned long faults, strange;
};

static void nothing(int signal)
{
	(void)signal;
}

static void *keep_running(void *opaque)
{
	struct runner *r = opaque;

	while (!r->stop) {
		int ret = result(ioctl(r->cpu.fd, XMMU_RUN, 0));

		if (ret)
			r->strange += ret != EINTR;
		else if (r->cpu.run->exit.reason == XMMU_EXIT_MEMORY)
			r->faults++;
		else
			r->strange++;
	}
	return NULL;
}

static void start(struct runner *r, int index)
{
	*r = (struct runner) { .cpu = new_cpu(&g, index) };
	real_mode(&g, r->cpu.run, 0x1000);
	pthread_create(&r->thread, NULL, keep_running, r);
}

static void stop(struct runner *r)
{
	r->stop = true;
	r->cpu.run->immediate_exit = 1;
	pthread_kill(r->thread, SIGUSR1);
	pthread_join(r->thread, NULL);
	free_cpu(&r->cpu);
}

static volatile uint16_t *counter(void)
{
	return (volatile uint16_t *)(g.mem + 0x2000);
}

/* Does it change within a while? */
static bool counts(void)
{
	uint16_t before = *counter();

	for (int i = 0; i < 2000; i++) {
		if (*counter() != before)
			return true;
		nap(1);
	}
	return false;
}

static bool stands_still(void)
{
	*counter() = 0x5a5a;
	for (int i = 0; i < 3; i++) {
		sched_yield();
		nap(1);
	}
	return *counter() == 0x5a5a;
}

static void updates_against_runs(int rounds)
{
	struct runner r[2];
	int bad = 0, dead = 0;

	memcpy(g.mem + 0x1000, counting, sizeof(counting));
	start(&r[0], 0);
	start(&r[1], 1);
	for (int i = 0; i < rounds; i++) {
		dead += !counts();
		clear(g.vm, 1, 2);
		bad += !stands_still();
		set_leaf(g.vm, 1, 2, REGION, 2, RX);
		bad += !stands_still();
		set_access(g.vm, 1, 2, RWX);
		dead += !counts();
		set_access(g.vm, 1, 2, RX);
		bad += !stands_still();
		/* Another page in its place, without a moment in between. */
		set_leaf(g.vm, 1, 2, REGION, 3, RWX);
		bad += !stands_still();
		set_leaf(g.vm, 1, 2, REGION, 2, RWX);
		dead += !counts();
		/* A new tree in place of the old one, which is freed at once. */
		set_link(g.vm, g.levels, 0, 1000);
		clear(g.vm, g.levels, 0);
		bad += !stands_still();
		clear(g.vm, g.levels - 1, 0);
		bad += table_free(g.vm, g.levels - 1) != 0;
		table_new(g.vm, g.levels - 1, g.format, g.levels - 1);
		set_link(g.vm, g.levels - 1, 0, g.levels - 2);
		set_link(g.vm, g.levels, 0, g.levels - 1);
	}
	ok(!bad, "%d times: what was taken away is not written any more", rounds);
	ok(!dead, "and what was given back is");
	ok(r[0].faults && r[1].faults, "both vCPUs met it");
	stop(&r[0]);
	stop(&r[1]);
	ok(!r[0].strange && !r[1].strange, "and nothing else");
}

static void one_runs(void)
{
	struct runner r;

	start(&r, 0);
	counts();
	is(result(ioctl(r.cpu.fd, XMMU_RUN, 0)), EBUSY, "a vCPU that another thread runs");
	stop(&r);
	ok(true, "immediate_exit ends a run");
}

static void dirty_bits(void)
{
	struct runner r;
	int was;

	if (!(caps.features & XMMU_FEATURE_AD)) {
		ok(true, "A and D # SKIP the CPU sets none");
		return;
	}
	is(harvest(g.vm, 1, 2, XMMU_ACCESS_WRITE), -EINVAL, "harvesting a right");
	start(&r, 0);
	for (int i = 0; i < 20; i++) {
		counts();
		was = harvest(g.vm, 1, 2, XMMU_ACCESS_DIRTY);
		if (!(was & XMMU_ACCESS_DIRTY))
			break;
	}
	stop(&r);
	ok(was & XMMU_ACCESS_DIRTY, "D comes back after each harvest");
	was = harvest(g.vm, 1, 2, XMMU_ACCESS_DIRTY | XMMU_ACCESS_ACCESSED);
	was = harvest(g.vm, 1, 2, XMMU_ACCESS_DIRTY | XMMU_ACCESS_ACCESSED);
	ok(!(was & (XMMU_ACCESS_DIRTY | XMMU_ACCESS_ACCESSED)), "and not without the guest");
}

/* ---- Memory that changes under the guest ---------------------------------------- */

static void remapped(void)
{
	struct runner r;
	long before = pinned_kb();

	start(&r, 0);
	ok(counts(), "a guest that writes its memory");
	munmap(g.mem + 0x2000, PAGE);
	nap(5);
	ok(pinned_kb() == before, "an unmapped page stays pinned");
	mmap(g.mem + 0x2000, PAGE, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	ok(stands_still(), "what is mapped there later is not the guest's");
	set_leaf(g.vm, 1, 2, REGION, 2, RWX);
	ok(stands_still(), "nor while there is no moment without an entry");
	clear(g.vm, 1, 2);
	set_leaf(g.vm, 1, 2, REGION, 2, RWX);
	ok(counts(), "but afterwards it is");
	madvise(g.mem + 0x2000, PAGE, MADV_DONTNEED);
	ok(stands_still(), "the same for memory that was given back");
	clear(g.vm, 1, 2);
	set_leaf(g.vm, 1, 2, REGION, 2, RWX);
	ok(counts(), "and taken again");
	mprotect(g.mem + 0x2000, PAGE, PROT_READ);
	is(set_leaf(g.vm, 1, 3, REGION, 2, RX), 0, "a page that is pinned is not asked for again");
	clear(g.vm, 1, 3);
	clear(g.vm, 1, 2);
	is(set_leaf(g.vm, 1, 2, REGION, 2, RWX), EFAULT, "write-protected memory");
	mprotect(g.mem + 0x2000, PAGE, PROT_READ | PROT_WRITE);
	is(set_leaf(g.vm, 1, 2, REGION, 2, RWX), 0, "is refused as long as it is");
	stop(&r);
}

static void own_pages(void)
{
	struct cpu cpu = new_cpu(&g, 5);

	is(set_region(g.vm, 3, 0, cpu.run, caps.run_size / PAGE), 0, "a vCPU's page as a region");
	is(set_leaf(g.vm, 1, 20, 3, 0, RWX), EFAULT, "which no guest gets");
	is(set_leaf(g.vm, 1, 20, 3, 1, RWX), EFAULT, "nor its XSAVE image");
	set_region(g.vm, 3, 0, 0, 0);
	free_cpu(&cpu);
}

static void limits(void)
{
	struct rlimit limit = { 16 * PAGE, 16 * PAGE };
	int mapped = 0, ret = 0;
	struct guest h;

	/* Only this child gives its rights up. */
	if (setrlimit(RLIMIT_MEMLOCK, &limit) || setuid(65534))
		die("setuid");
	h = new_guest(device);
	while (mapped < 100 && !(ret = set_leaf(h.vm, 1, mapped, REGION, mapped, RWX)))
		mapped++;
	ok(mapped == 16 && ret == ENOMEM, "RLIMIT_MEMLOCK of 16 pages ends at %d", mapped);
	ok(pinned_kb() == 64, "VmPin says 64 kB");
	is(set_leaf(h.vm, 1, 200, REGION, 3, RWX), 0, "a page that is pinned counts once");
	clear(h.vm, 1, 0);
	is(set_leaf(h.vm, 1, 30, REGION, 30, RWX), 0, "what is let go can be used again");
	is(set_leaf(h.vm, 2, 1, REGION, 0, RWX), ENOMEM, "a large page that is too much");
	ok(pinned_kb() == 64, "leave nothing behind");
}

/* ---- Processes ---------------------------------------------------------------------- */

/* What @what prints in a child counts here. */
static void in_child(void (*what)(void))
{
	int pipes[2], counts_[2], status;
	pid_t pid;

	fflush(stdout);
	if (pipe(pipes))
		die("pipe");
	pid = fork();
	if (!pid) {
		what();
		fflush(stdout);
		counts_[0] = tests;
		counts_[1] = failures;
		if (write(pipes[1], counts_, sizeof(counts_)) < 0)
			_exit(1);
		_exit(0);
	}
	close(pipes[1]);
	if (read(pipes[0], counts_, sizeof(counts_)) == sizeof(counts_)) {
		tests = counts_[0];
		failures = counts_[1];
	} else {
		ok(false, "the child got to its end");
	}
	close(pipes[0]);
	waitpid(pid, &status, 0);
}

static struct cpu inherited;

static void as_child(void)
{
	struct xmmu_entry entry = { .op = XMMU_OP_CLEAR, .table = 1 };

	is(update(g.vm, &entry, 1, NULL), EIO, "a child updates its parent's tables");
	is(set_region(g.vm, 9, 0, g.mem, 1), EIO, "a child adds memory");
	is(result(ioctl(g.vm, XMMU_CREATE_VCPU, 8)), EIO, "a child makes a vCPU");
	is(result(ioctl(inherited.fd, XMMU_RUN, 0)), EIO, "a child runs its parent's vCPU");
	*counter() = 0x1111;
}

static void forks(void)
{
	struct runner r;

	inherited = new_cpu(&g, 3);
	set_leaf(g.vm, 1, 2, REGION, 2, RWX);
	start(&r, 0);
	counts();
	in_child(as_child);
	ok(counts(), "the parent's guest goes on in the parent's memory");
	stop(&r);
	*counter() = 0x2222;
	in_child(as_child);
	ok(*counter() == 0x2222, "a child writes its own copy");
	free_cpu(&inherited);
}

static void send_fd(int socket, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	if (sendmsg(socket, &msg, 0) < 0)
		die("sendmsg");
}

static int receive_fd(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
			      .msg_controllen = sizeof(control) };
	int fd = -1;

	if (recvmsg(socket, &msg, 0) > 0 && CMSG_FIRSTHDR(&msg))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(int));
	return fd;
}

static int sockets[2];

/* Makes a VM with 100 pages, gives its files away and is gone. */
static void giver(void)
{
	struct guest h = new_guest(device);
	struct cpu cpu = new_cpu(&h, 0);

	for (int i = 0; i < 100; i++)
		set_leaf(h.vm, 1, i, REGION, i, RWX);
	memcpy(h.mem + 0x1000, halting, sizeof(halting));
	real_mode(&h, cpu.run, 0x1000);
	run_cpu(&cpu);
	send_fd(sockets[1], h.vm);
	send_fd(sockets[1], cpu.fd);
}

static void passed_on(void)
{
	long before = pins();
	int vm, cpu;
	void *run;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		die("socketpair");
	in_child(giver);
	vm = receive_fd(sockets[0]);
	cpu = receive_fd(sockets[0]);
	ok(vm >= 0 && cpu >= 0, "the files of a VM whose process is gone");
	nap(50);
	ok(pins() == before, "pin nothing any more");
	is(table_new(vm, 70, g.format, 1), EIO, "and cannot be used");
	is(result(ioctl(cpu, XMMU_RUN, 0)), EIO, "nor can the vCPU be run");
	run = mmap(NULL, caps.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
	ok(run != MAP_FAILED, "its page can still be looked at");
	close(vm);
	close(cpu);
	memset(run, 0xff, caps.run_size);
	munmap(run, caps.run_size);
	close(sockets[0]);
	close(sockets[1]);
}

/* ---- Closing --------------------------------------------------------------------------- */

static void close_in_order(unsigned int order)
{
	struct guest h = new_guest(device);
	struct cpu cpu[2] = { new_cpu(&h, 0), new_cpu(&h, 1) };
	int fds[] = { h.vm, cpu[0].fd, cpu[1].fd, -1 };

	memcpy(h.mem + 0x1000, halting, sizeof(halting));
	set_leaf(h.vm, 1, 1, REGION, 1, RX);
	set_leaf(h.vm, 1, 2, REGION, 2, RWX);
	for (int i = 0; i < 2; i++) {
		real_mode(&h, cpu[i].run, 0x1000);
		run_cpu(&cpu[i]);
	}
	for (int left = 4; left; left--) {
		int pick = order % left;

		order /= left;
		if (fds[pick] >= 0)
			close(fds[pick]);
		else
			munmap(h.mem, MEM_PAGES * PAGE);
		for (int i = pick; i < left - 1; i++)
			fds[i] = fds[i + 1];
	}
	cpu[0].run->wanted = cpu[1].run->wanted = ~0u;
	munmap(cpu[0].run, caps.run_size);
	munmap(cpu[1].run, caps.run_size);
}

static void closing(void)
{
	long before = pins();

	for (unsigned int order = 0; order < 24; order++)
		close_in_order(order);
	ok(pins() == before, "files closed and memory unmapped in all 24 orders");
}

int main(void)
{
	long before;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGUSR1, &(struct sigaction) { .sa_handler = nothing }, NULL);
	device = open_device();
	if (!(caps.features & XMMU_FEATURE_REALMODE)) {
		printf("1..0 # SKIP the guests here take real mode and a second dimension\n");
		return 77;
	}
	before = pins();
	in_child(limits);
	ok(pins() == before, "nothing is pinned by what is gone");
	g = new_guest(device);
	is(result(ioctl(device, XMMU_CREATE_VM, 1)), EINVAL, "a VM with an argument");
	is(result(ioctl(device, 0xdead, 0)), ENOTTY, "a call that there is not");
	regions();
	tables();
	links();
	leaves();
	batches();
	states();
	no_addresses();
	updates_against_runs(50);
	one_runs();
	dirty_bits();
	remapped();
	own_pages();
	forks();
	passed_on();
	closing();
	free_guest(&g);
	ok(pins() == before, "nothing is pinned at the end");
	ok(pinned_kb() == 0, "nothing is charged at the end");
	return finish();
}
