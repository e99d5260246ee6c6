// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random calls of /dev/xmmu from several threads: on several VMs, whose files come and
 * go under each other's calls, with memory that is unmapped, protected and given back
 * meanwhile, and vCPUs with random state on random memory.
 *
 * What must not happen is seen by the kernel (the runner looks at its log) and here: a
 * page that stays pinned, a call that does not come back, a kernel address in what user
 * space can read.
 *
 * usage: fuzz_uapi [CALLS [SEED [THREADS]]]		[1000000 calls, 4 threads]
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include "xmmu_test.h"

#define VMS		3
#define VCPUS		3
#define TABLES		24
#define MAX_THREADS	16
#define BATCH		16

/* Any thread may replace any of these at any time; a file that is closed while another
 * thread is about to use it is the point. */
static struct vm {
	volatile int fd;
	struct vcpu {
		volatile int fd;
		struct xmmu_run *volatile run;
	} vcpu[VCPUS];
} vms[VMS];

/* Two that replace the same at the same time would lose a file, which we count. */
static pthread_mutex_t replacing = PTHREAD_MUTEX_INITIALIZER;
static int device;
static uint8_t *memory;		/* MEM_PAGES, never moved */
static volatile unsigned long calls, succeeded, exits, leaks;
static unsigned long limit, seed;
static volatile unsigned long alive[MAX_THREADS];
static pthread_t thread[MAX_THREADS];
static volatile bool done;
static int threads = 4;

struct random {
	uint64_t state;
};

/* xorshift64* */
static uint64_t next(struct random *r)
{
	r->state ^= r->state >> 12;
	r->state ^= r->state << 25;
	r->state ^= r->state >> 27;
	return r->state * 0x2545f4914f6cdd1dull;
}

static unsigned int below(struct random *r, unsigned int n)
{
	return next(r) % n;
}

static bool rarely(struct random *r, unsigned int one_in)
{
	return !below(r, one_in);
}

/* Never what could be taken for an address of the kernel's. */
static uint64_t odd_value(struct random *r)
{
	static const uint64_t odd[] = {
		0, 1, 7, 511, 512, 0xfff, 0x1000, 0x7fffffff, 0x80000000, 0xffffffff,
		0x7ffffffff000, 0x7fffffffffffffff, ~0ull, ~0ull - 511,
	};

	return rarely(r, 3) ? next(r) >> (17 + below(r, 47)) : odd[below(r, sizeof(odd) / 8)];
}

/* ---- Calls ------------------------------------------------------------------- */

static void call(int fd, unsigned long cmd, uintptr_t arg)
{
	calls++;
	succeeded += ioctl(fd, cmd, arg) >= 0;
}

static void new_vm(struct vm *vm)
{
	int fd = ioctl(device, XMMU_CREATE_VM, 0), old = vm->fd;

	calls++;
	vm->fd = fd;
	close(old);
	set_region(fd, REGION, 0, memory, MEM_PAGES);
}

static void new_vcpu(struct random *r, struct vm *vm, struct vcpu *vcpu)
{
	int fd = ioctl(vm->fd, XMMU_CREATE_VCPU, below(r, 8)), old = vcpu->fd;
	void *run;

	calls++;
	if (fd < 0)
		return;
	/* The mapping stays; the vCPU behind it goes when another thread unmaps it. */
	run = mmap(NULL, caps.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	vcpu->fd = fd;
	if (run != MAP_FAILED) {
		/* In place, so that nobody can meet a hole. */
		if (!vcpu->run)
			vcpu->run = run;
		else if (mremap(run, caps.run_size, caps.run_size,
				MREMAP_MAYMOVE | MREMAP_FIXED, vcpu->run) == MAP_FAILED)
			munmap(run, caps.run_size);
	}
	close(old);
}

static void fuzz_region(struct random *r, struct vm *vm)
{
	struct xmmu_region region = {
		.id = rarely(r, 8) ? odd_value(r) : below(r, 4),
		.flags = below(r, rarely(r, 8) ? 8 : 2),
		.addr = rarely(r, 8) ? odd_value(r) : (uintptr_t)memory + below(r, 64) * PAGE,
		.pages = rarely(r, 8) ? odd_value(r) : below(r, 300),
	};

	call(vm->fd, XMMU_SET_REGION, (uintptr_t)&region);
}

static struct xmmu_entry fuzz_entry(struct random *r)
{
	struct xmmu_entry e = {
		.op = below(r, 7), .table = below(r, TABLES), .index = below(r, 6),
		.target = below(r, TABLES), .access = next(r) & 0x7f, .page = below(r, MEM_PAGES),
	};

	if (e.op == XMMU_OP_NEW) {
		e.access = below(r, 5) ? second_dimension() : below(r, 6);
		e.target = e.page = 0;
	} else if (e.op == XMMU_OP_LEAF) {
		e.target = rarely(r, 4) ? e.target : REGION;
		e.access = rarely(r, 3) ? e.access : RWX;
		e.page &= rarely(r, 4) ? ~511ull : ~0ull;
	} else if (e.op == XMMU_OP_LINK) {
		e.access = e.page = 0;
	}
	if (rarely(r, 16))
		((uint8_t *)&e)[below(r, sizeof(e))] = next(r);
	if (rarely(r, 32))
		e.page = odd_value(r);
	return e;
}

static void fuzz_update(struct random *r, struct vm *vm)
{
	struct xmmu_entry entries[BATCH];
	struct xmmu_update u = { .entries = (uintptr_t)entries, .count = 1 + below(r, BATCH) };

	for (unsigned int i = 0; i < u.count; i++)
		entries[i] = fuzz_entry(r);
	if (rarely(r, 64))
		u.entries = odd_value(r);
	if (rarely(r, 64))
		u.count = odd_value(r);
	call(vm->fd, XMMU_UPDATE, (uintptr_t)&u);
}

/* A tree that works, so that guests run at all. */
static void good_tree(struct random *r, struct vm *vm)
{
	struct xmmu_entry entries[64];
	int n = 0;

	for (unsigned int level = 1; level <= caps.max_level; level++) {
		table_new(vm->fd, level, second_dimension(), level);
		if (level > 1)
			set_link(vm->fd, level, 0, level - 1);
	}
	for (int i = 0; i < 64; i++)
		entries[n++] = (struct xmmu_entry) {
			.op = XMMU_OP_LEAF, .table = 1, .index = below(r, 256),
			.target = REGION, .page = below(r, MEM_PAGES), .access = RWX };
	update(vm->fd, entries, n, NULL);
	calls += 2 * caps.max_level;
}

static void fuzz_state(struct random *r, struct xmmu_run *run)
{
	struct guest like = { .levels = caps.max_level };
	unsigned int changes = below(r, 12);

	if (!rarely(r, 4))
		real_mode(&like, run, below(r, 65536));
	for (unsigned int i = 0; i < changes; i++)
		((uint64_t *)run)[below(r, sizeof(*run) / 8)] = odd_value(r);
	if (rarely(r, 8))
		for (unsigned int i = 0; i < 8; i++)
			((uint64_t *)((char *)run + XMMU_RUN_XSAVE_OFFSET))
				[below(r, caps.xsave_size / 8)] = odd_value(r);
	run->wanted = rarely(r, 2) ? XMMU_GROUP_ALL : next(r);
	run->commit = rarely(r, 4) ? next(r) & 0x1ff : XMMU_GROUP_ALL;
	run->immediate_exit = rarely(r, 16);
	if (!rarely(r, 16))
		run->controls.root = rarely(r, 4) ? below(r, TABLES) : caps.max_level;
}

/* Guests compute any value; these few fields are never theirs. */
static void look_for_addresses(const struct xmmu_run *run)
{
	const uint64_t *word = (const void *)run;

	for (unsigned int i = 0; i < sizeof(*run) / 8; i++)
		if (word[i] > 0xffff800000000000 && word[i] < 0xfffffffe00000000) {
			printf("# at %u: %llx\n", i * 8, (unsigned long long)word[i]);
			leaks++;
		}
}

static void fuzz_run(struct random *r, struct vm *vm)
{
	struct vcpu *vcpu = &vm->vcpu[below(r, VCPUS)];
	struct xmmu_run *run = vcpu->run;

	if (!run)
		return;
	if (!rarely(r, 3))
		fuzz_state(r, run);
	calls++;
	if (ioctl(vcpu->fd, XMMU_RUN, 0))
		return;
	succeeded++;
	exits++;
	if (rarely(r, 8))
		look_for_addresses(run);
}

/* ---- Around them -------------------------------------------------------------- */

static void fuzz_memory(struct random *r)
{
	uint8_t *page = memory + below(r, MEM_PAGES) * PAGE;
	size_t size = (1 + below(r, 8)) * PAGE;

	if (page + size > memory + MEM_PAGES * PAGE)
		size = PAGE;
	switch (below(r, 5)) {
	case 0:
		mmap(page, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		break;
	case 1:
		mprotect(page, size, PROT_READ);
		break;
	case 2:
		madvise(page, size, MADV_DONTNEED);
		break;
	default:
		mprotect(page, size, PROT_READ | PROT_WRITE);
		break;
	}
}

static void fuzz_child(struct random *r)
{
	pid_t pid = fork();

	if (!pid) {
		for (int i = 0; i < 4; i++) {
			fuzz_update(r, &vms[below(r, VMS)]);
			ioctl(vms[below(r, VMS)].vcpu[0].fd, XMMU_RUN, 0);
		}
		_exit(0);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static void one_step(struct random *r)
{
	struct vm *vm = &vms[below(r, VMS)];

	switch (below(r, 100)) {
	case 0 ... 2:
		pthread_mutex_lock(&replacing);
		if (rarely(r, 60))
			new_vm(vm);
		else
			new_vcpu(r, vm, &vm->vcpu[below(r, VCPUS)]);
		pthread_mutex_unlock(&replacing);
		break;
	case 3 ... 5:
		good_tree(r, vm);
		break;
	case 6 ... 9:
		fuzz_region(r, vm);
		break;
	case 10 ... 13:
		fuzz_memory(r);
		break;
	case 14:
		if (rarely(r, 200))
			fuzz_child(r);
		break;
	case 15:
		call(rarely(r, 2) ? device : vm->fd, odd_value(r), odd_value(r));
		break;
	case 16 ... 27:
		fuzz_run(r, vm);
		break;
	default:
		fuzz_update(r, vm);
	}
}

static void *fuzz(void *opaque)
{
	intptr_t index = (intptr_t)opaque;
	struct random r = { 0x9e3779b97f4a7c15ull * (seed + 1) + index * 0x1234567 + 1 };

	for (unsigned long i = 0; i < 16; i++)
		next(&r);
	while (!done && calls < limit) {
		one_step(&r);
		alive[index]++;
	}
	return NULL;
}

static void nothing(int signal)
{
	(void)signal;
}

/* Guests that do not exit are ended by signals. False: a thread is stuck in a call. */
static bool prod(void)
{
	unsigned long seen[MAX_THREADS] = { 0 };
	unsigned long said = 0;
	int quiet[MAX_THREADS] = { 0 };

	while (calls < limit) {
		nanosleep(&(struct timespec) { 0, 2000000 }, NULL);
		if (calls / 20000 != said) {
			said = calls / 20000;
			printf("# %lu calls\n", calls);
		}
		for (int i = 0; i < threads; i++) {
			pthread_kill(thread[i], SIGUSR1);
			quiet[i] = alive[i] == seen[i] ? quiet[i] + 1 : 0;
			seen[i] = alive[i];
			if (quiet[i] > 30000)
				return false;
		}
	}
	return true;
}

int main(int argc, char **argv)
{
	struct random r;
	long before;
	bool came_back;

	seed = argc > 2 ? strtoul(argv[2], NULL, 0) : (unsigned long)time(NULL);
	r.state = seed * 2 + 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	limit = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000000;
	threads = argc > 3 ? atoi(argv[3]) : threads;
	printf("# seed %lu\n", seed);
	sigaction(SIGUSR1, &(struct sigaction) { .sa_handler = nothing }, NULL);
	device = open_device();
	before = pins();
	memory = mmap(NULL, MEM_PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned int i = 0; i < MEM_PAGES * PAGE / 8; i++)
		((uint64_t *)memory)[i] = next(&r);
	for (int i = 0; i < VMS; i++) {
		vms[i].fd = -1;
		for (int c = 0; c < VCPUS; c++)
			vms[i].vcpu[c].fd = -1;
		new_vm(&vms[i]);
	}
	for (intptr_t i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, fuzz, (void *)i);
	came_back = prod();
	done = true;
	if (!ok(came_back, "every call came back"))
		return finish();
	for (int i = 0; i < threads; i++) {
		pthread_kill(thread[i], SIGUSR1);
		pthread_join(thread[i], NULL);
	}
	ok(calls >= limit, "%lu calls, %lu of them successful, %lu exits of guests", calls,
	   succeeded, exits);
	ok(succeeded > calls / 50 && exits > calls / 1000, "enough of which did something");
	ok(!leaks, "no kernel address in a vCPU's state");
	for (int i = 0; i < VMS; i++) {
		for (int c = 0; c < VCPUS; c++) {
			if (vms[i].vcpu[c].run)
				munmap(vms[i].vcpu[c].run, caps.run_size);
			close(vms[i].vcpu[c].fd);
		}
		close(vms[i].fd);
	}
	ok(pins() == before, "nothing is pinned when all is closed");
	ok(pinned_kb() == 0, "nothing is charged");
	return finish();
}
