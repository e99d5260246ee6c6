// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: turning virtualisation on and off
 *
 * Owns the choice between SVM and VMX, made once, and the state of all CPUs: it is
 * on while a VM exists, so that another hypervisor can have the CPUs at other
 * times.  CPUs that come are turned on, CPUs that go are turned off, and over a
 * suspend all of them are.
 */
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include "compat.h"
#include "xmmu.h"

const struct xmmu_hw *xmmu_hw;

static DEFINE_MUTEX(hardware_lock);
static unsigned int users;		/* hardware_lock */
static enum cpuhp_state hotplug_state;	/* hardware_lock; valid while users */
static u32 features;			/* const after load */
static DEFINE_PER_CPU(bool, is_on);

u32 xmmu_hw_features(void)
{
	return features;
}

/* ---- One CPU ------------------------------------------------------------ */

static int cpu_on(void)
{
	int ret;

	if (__this_cpu_read(is_on))
		return 0;
	if (xmmu_hw->cpu_busy())
		return -EBUSY;
	ret = xmmu_hw->cpu_on();
	if (!ret)
		__this_cpu_write(is_on, true);
	return ret;
}

static void cpu_off(void)
{
	if (!__this_cpu_read(is_on))
		return;
	xmmu_hw->cpu_off();
	__this_cpu_write(is_on, false);
}

/* In the thread of the CPU that comes or goes, before or after it runs tasks. */
static int cpu_comes(unsigned int cpu)
{
	unsigned long flags;
	int ret;

	local_irq_save(flags);
	ret = cpu_on();
	local_irq_restore(flags);
	if (ret)
		pr_err_ratelimited("xmmu: %s cannot be turned on on CPU %u (%d)\n",
				   xmmu_hw->name, cpu, ret);
	return ret;
}

static int cpu_goes(unsigned int cpu)
{
	unsigned long flags;

	local_irq_save(flags);
	cpu_off();
	local_irq_restore(flags);
	return 0;
}

bool xmmu_cpu_is_on(void)
{
	return __this_cpu_read(is_on);
}

/*
 * A task can be on a CPU that goes for a moment after cpu_goes(), before the
 * scheduler moves it.  On a machine that goes down there is no other CPU to move to.
 */
void xmmu_cpu_get(void)
{
	preempt_disable();
	while (!xmmu_cpu_is_on()) {
		preempt_enable();
		schedule_timeout_uninterruptible(1);
		preempt_disable();
	}
}

void xmmu_cpu_put(void)
{
	preempt_enable();
}

/* ---- Suspend: only the boot CPU is left, its interrupts are off --------- */

static int suspend(SYSCORE_DATA)
{
	if (users)
		cpu_off();
	return 0;
}

static void resume(SYSCORE_DATA)
{
	if (users)
		WARN_ON(cpu_on());
}

static void off_here(void *unused)
{
	cpu_off();
}

/*
 * Going down, or to another kernel: no CPU may be left in a state in which it does
 * not take INIT (VMX) or keeps interrupts back (SVM).
 */
static void shutdown(SYSCORE_DATA)
{
	on_each_cpu(off_here, NULL, true);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
static const struct syscore_ops syscore_ops = {
	.suspend = suspend,
	.resume = resume,
	.shutdown = shutdown,
};

static struct syscore syscore_hooks = { .ops = &syscore_ops };
#else
static struct syscore_ops syscore_hooks = {
	.suspend = suspend,
	.resume = resume,
	.shutdown = shutdown,
};
#endif

/* ---- All CPUs ----------------------------------------------------------- */

static int turn_on(void)
{
	int ret = xmmu_hw->setup();

	if (ret)
		return ret;
	/* Runs cpu_comes() on all CPUs, and undoes it when one of them fails. */
	ret = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "virt/xmmu:online", cpu_comes,
				cpu_goes);
	if (ret < 0) {
		xmmu_hw->teardown();
		return ret;
	}
	hotplug_state = ret;
	register_syscore(&syscore_hooks);
	return 0;
}

static void turn_off(void)
{
	unregister_syscore(&syscore_hooks);
	cpuhp_remove_state(hotplug_state);
	xmmu_hw->teardown();
}

int xmmu_hardware_get(void)
{
	int ret = 0;

	mutex_lock(&hardware_lock);
	if (!users)
		ret = turn_on();
	if (!ret)
		users++;
	mutex_unlock(&hardware_lock);
	return ret;
}

void xmmu_hardware_put(void)
{
	mutex_lock(&hardware_lock);
	if (!--users)
		turn_off();
	mutex_unlock(&hardware_lock);
}

/* ---- Load --------------------------------------------------------------- */

static void ask_busy(void *busy)
{
	if (xmmu_hw->cpu_busy())
		WRITE_ONCE(*(bool *)busy, true);
}

int xmmu_hardware_init(void)
{
	static const struct xmmu_hw *const all[] = {
		&xmmu_svm,
#if XMMU_HAS_VMX
		&xmmu_vmx,
#endif
	};
	struct xmmu_caps caps = { };
	bool busy = false;
	int ret = -ENODEV;

	for (int i = 0; i < ARRAY_SIZE(all) && ret == -ENODEV; i++) {
		xmmu_hw = all[i];
		ret = xmmu_hw->probe();
	}
	if (ret == -ENODEV)
		pr_err("xmmu: this CPU has %s\n", XMMU_HAS_VMX ?
		       "neither SVM nor VMX" : "no SVM, and VMX takes a kernel before 6.18");
	else if (ret == -EPERM)
		pr_err("xmmu: %s is turned off by the firmware\n", xmmu_hw->name);
	else if (ret == -EOPNOTSUPP)
		pr_err("xmmu: this CPU's %s lacks what xmmu needs\n", xmmu_hw->name);
	if (ret)
		return ret;
	on_each_cpu(ask_busy, &busy, true);
	if (busy) {
		pr_err("xmmu: another hypervisor (KVM?) uses %s: stop its guests or unload it first\n",
		       xmmu_hw->name);
		return -EBUSY;
	}
	xmmu_hw->get_caps(&caps);
	features = caps.features;
	return 0;
}
