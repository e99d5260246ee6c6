// SPDX-License-Identifier: GPL-2.0-only
/*
 * A process that runs vCPUs and updates their tables is killed at any moment, is hit by
 * signals, loses the CPU under it, or sleeps with the machine. Afterwards no page is
 * pinned; that the module can be unloaded then is looked at by the runner of these tests.
 *
 * usage: killed kill [ROUNDS [SEED]]     SIGKILL at random moments [200]
 *        killed signals [ROUNDS]         timers against vCPUs that run [300]
 *        killed hotplug [ROUNDS]         CPUs go and come under vCPUs that run [20]
 *        killed suspend [ROUNDS]         the machine is suspended to RAM meanwhile [3];
 *                                        /dev/cpu/0/msr must be there, and SVM
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include "xmmu_test.h"

#define VCPUS 3

struct shared {
	volatile uint64_t runs[VCPUS], interrupted[VCPUS], updates;
};

static struct shared *shared;
static struct guest g;

static void nap(long us)
{
	nanosleep(&(struct timespec) { us / 1000000, us % 1000000 * 1000 }, NULL);
}

/* again: incw (0x2000); out %al, $0x80; jmp again */
static const uint8_t code[] = { 0xff, 0x06, 0x00, 0x20, 0xe6, 0x80, 0xeb, 0xf8 };

/* One for each vCPU's thread, if there are any; armed by set_pace(). */
static timer_t timers[VCPUS];
static bool with_timers;

static void make_timer(int index)
{
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = index % 2 ? SIGUSR1 : SIGRTMIN,
		._sigev_un._tid = gettid(),
	};

	if (timer_create(CLOCK_MONOTONIC, &event, &timers[index]))
		die("timer_create");
}

/* Answers its exits, for ever. */
static void *run_forever(void *opaque)
{
	int index = (intptr_t)opaque;
	struct cpu cpu = new_cpu(&g, index);
	struct xmmu_exit *e = &cpu.run->exit;

	if (with_timers)
		make_timer(index);
	real_mode(&g, cpu.run, 0x1000);
	for (;;) {
		int error = result(ioctl(cpu.fd, XMMU_RUN, 0));

		if (error == EINTR) {
			shared->interrupted[index]++;
		} else if (error) {
			printf("# vCPU %d: %s\n", index, strerror(error));
			exit(1);
		} else if (e->reason == XMMU_EXIT_IO) {
			cpu.run->gprs.rip += e->length;
			cpu.run->commit = XMMU_GROUP_GPRS;
			shared->runs[index]++;
		} else if (e->reason != XMMU_EXIT_MEMORY) {
			printf("# vCPU %d: exit %u, %llx\n", index, e->reason,
			       (unsigned long long)e->hardware);
			exit(1);
		}
	}
}

/* A few hundred pages come and go; the guest's own sometimes. */
static void update_forever(unsigned int seed)
{
	struct xmmu_entry entries[64];

	for (;;) {
		for (int i = 0; i < 64; i++) {
			unsigned int page = rand_r(&seed) % MEM_PAGES;

			entries[i] = (struct xmmu_entry) {
				.op = page > 2 && rand_r(&seed) % 2 ? XMMU_OP_CLEAR : XMMU_OP_LEAF,
				.table = 1, .index = page, .target = REGION, .page = page,
				.access = RWX };
		}
		update(g.vm, entries, 64, NULL);
		shared->updates++;
	}
}

static void start(unsigned int seed, bool updates)
{
	pthread_t thread;

	g = new_guest(open_device());
	memcpy(g.mem + 0x1000, code, sizeof(code));
	set_leaf(g.vm, 1, 1, REGION, 1, RX);
	set_leaf(g.vm, 1, 2, REGION, 2, RWX);
	for (intptr_t i = 0; i < VCPUS; i++)
		pthread_create(&thread, NULL, run_forever, (void *)i);
	if (updates)
		update_forever(seed);
}

static pid_t start_child(unsigned int seed, bool updates)
{
	pid_t pid;

	fflush(stdout);
	memset(shared, 0, sizeof(*shared));
	pid = fork();
	if (!pid) {
		start(seed, updates);
		for (;;)
			pause();
	}
	return pid;
}

static bool all_ran(const struct shared *since)
{
	for (int i = 0; i < VCPUS; i++)
		if (shared->runs[i] == since->runs[i])
			return false;
	return true;
}

/* Until every vCPU has run since; false: not within a minute. */
static bool wait_for_all(void)
{
	struct shared since = *shared;

	for (int i = 0; i < 60000 && !all_ran(&since); i++)
		nap(1000);
	return all_ran(&since);
}

static void end_child(pid_t pid, int signal)
{
	int status;

	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != signal)
		ok(false, "the child ended with status %x", status);
}

static void killed(int rounds, unsigned int seed)
{
	long before = pins();
	int ran = 0, left = 0;

	printf("# seed %u\n", seed);
	for (int i = 0; i < rounds; i++) {
		pid_t pid = start_child(rand_r(&seed), true);

		/* Half of them are killed while they start. */
		if (i % 2)
			while (!shared->updates || !shared->runs[0])
				nap(1000);
		nap(rand_r(&seed) % 40000);
		ran += shared->updates && shared->runs[0];
		end_child(pid, SIGKILL);
		left += pins() != before;
	}
	ok(!left, "killed %d times: nothing stays pinned", rounds);
	ok(ran >= rounds / 2, "%d of them were running and updating", ran);
}

static volatile uint64_t hits;

static void hit(int signal)
{
	(void)signal;
	hits++;
}

static void set_pace(long us)
{
	const struct itimerspec often = { { us / 1000000, us % 1000000 * 1000 },
					  { us / 1000000, us % 1000000 * 1000 } };

	for (int i = 0; i < VCPUS; i++)
		if (timer_settime(timers[i], 0, &often, NULL))
			die("timer_settime");
}

#define FASTEST_US 5
#define PATIENCE 500		/* signals */

/*
 * Until every vCPU has run since; returns the pace at which they did. Where the signals'
 * handlers take all of a slow machine, there are only half as many.
 */
static long go_on(long us)
{
	struct shared since = *shared;
	uint64_t before = hits;

	while (!all_ran(&since)) {
		nap(100);
		if (hits - before > PATIENCE) {
			before = hits;
			set_pace(us *= 2);
		}
	}
	return us;
}

static bool all_interrupted(void)
{
	bool all = true;

	for (int i = 0; i < VCPUS; i++)
		all &= shared->interrupted[i] > 0;
	return all;
}

/* As many signals as the vCPUs can bear, and never fewer for long; until each vCPU has been
 * interrupted in the module, too. */
static void storm(int rounds)
{
	const struct sigaction action = { .sa_handler = hit, .sa_flags = SA_RESTART };
	long us = FASTEST_US, slowest = FASTEST_US;

	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGRTMIN, &action, NULL);
	with_timers = true;
	start(0, false);
	ok(wait_for_all(), "all vCPUs run before the storm");
	set_pace(us);
	for (int i = 0; i < rounds || hits < 10 * PATIENCE || !all_interrupted(); i++) {
		us = go_on(us);
		slowest = us > slowest ? us : slowest;
		if (us > FASTEST_US)
			set_pace(us /= 2);
	}
	ok(true, "all vCPUs went on, and were interrupted, %d times under %llu signals", rounds,
	   (unsigned long long)hits);
	printf("# one in %d to %ld us for each\n", FASTEST_US, slowest);
}

static bool write_file(const char *path, const char *text)
{
	ssize_t length = strlen(text);
	int fd = open(path, O_WRONLY);
	bool good = fd >= 0 && write(fd, text, length) == length;

	if (fd >= 0)
		close(fd);
	return good;
}

static bool cpu_online(int cpu, bool on)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	return write_file(path, on ? "1" : "0");
}

static void hotplug(int rounds)
{
	long before = pins();
	int cpus = sysconf(_SC_NPROCESSORS_ONLN), dead = 0;
	pid_t pid;

	if (cpus < 2 || !cpu_online(1, false)) {
		printf("1..0 # SKIP there is no CPU that could go\n");
		exit(77);
	}
	/* One comes while VMs exist, too: the first is made while it is away. */
	pid = start_child(1, true);
	dead += !wait_for_all();
	for (int i = 0; i < rounds; i++) {
		for (int cpu = 1; cpu < cpus; cpu++)
			if (!cpu_online(cpu, true))
				ok(false, "CPU %d comes", cpu);
		dead += !wait_for_all();
		for (int cpu = 1; cpu < cpus; cpu++)
			if (!cpu_online(cpu, false))
				ok(false, "CPU %d goes", cpu);
		dead += !wait_for_all();
	}
	end_child(pid, SIGKILL);
	for (int cpu = 1; cpu < cpus; cpu++)
		cpu_online(cpu, true);
	ok(!dead, "all vCPUs go on while CPUs go and come, %d times", rounds);
	ok(pins() == before, "nothing stays pinned");
}

#define MSR_VM_HSAVE_PA 0xc0010117

/* Where CPU 0 puts the host's state while a guest runs; 0: where it does by itself. */
static uint64_t host_save_area(void)
{
	int fd = open("/dev/cpu/0/msr", O_RDONLY);
	uint64_t address = 0;

	if (fd < 0 || pread(fd, &address, sizeof(address), MSR_VM_HSAVE_PA) != sizeof(address))
		die("/dev/cpu/0/msr");
	close(fd);
	return address;
}

/*
 * A CPU that wakes has nothing of what was set in it. What the kernel sets again by itself
 * is EFER.SVME of the first one; then VMRUN works, and writes where it must not.
 */
static void suspend(int rounds)
{
	long before = pins();
	int slept = 0, dead = 0, lost = 0;
	pid_t pid = start_child(1, true);
	uint64_t area;

	dead += !wait_for_all();
	area = host_save_area();
	for (int i = 0; i < rounds; i++) {
		if (!write_file("/sys/class/rtc/rtc0/wakealarm", "+2"))
			die("no alarm would wake the machine");
		slept += write_file("/sys/power/state", "mem");
		dead += !wait_for_all();
		lost += host_save_area() != area;
	}
	end_child(pid, SIGKILL);
	ok(slept == rounds, "the machine slept %d times of %d", slept, rounds);
	ok(!dead, "all vCPUs go on when it wakes");
	ok(area && !lost, "CPU 0 saves the host's state where it did");
	ok(pins() == before, "nothing stays pinned");
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int number = argc > 2 ? atoi(argv[2]) : 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	close(open_device());
	if (!(caps.features & XMMU_FEATURE_REALMODE)) {
		printf("1..0 # SKIP the guest here takes real mode and a second dimension\n");
		return 77;
	}
	if (!strcmp(what, "kill"))
		killed(number ? number : 200, argc > 3 ? atoi(argv[3]) : time(NULL));
	else if (!strcmp(what, "signals"))
		storm(number ? number : 300);
	else if (!strcmp(what, "hotplug"))
		hotplug(number ? number : 20);
	else if (!strcmp(what, "suspend"))
		suspend(number ? number : 3);
	else
		return 2;
	return finish();
}
