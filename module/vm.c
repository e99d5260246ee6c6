// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: virtual machines
 *
 * Owns the life of a VM, its ioctls, and the flush of all its vCPUs.  A VM lives
 * until its file and those of its vCPUs are closed, in any order; its tables and its
 * pins go earlier when the address space that they are of does, so that nobody keeps
 * memory pinned by holding the files of a process that is gone.
 */
#include <linux/anon_inodes.h>
#include <linux/cpumask.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include "xmmu.h"

/* ---- Flush -------------------------------------------------------------- */

static void nothing(void *unused)
{
}

/*
 * A vCPU says that it is in the guest before it looks at the generation
 * (vcpu.c), and we raise the generation before we look who is in the guest:
 * who is not seen here will see the new generation and flush.  The interrupt
 * makes the others leave the guest; once it is served they have.
 */
void xmmu_vm_flush(struct xmmu_vm *vm)
{
	cpumask_var_t cpus;

	lockdep_assert_held(&vm->lock);
	atomic64_inc(&vm->generation);
	/* Pairs with announce(): first the generation, then who is in the guest. */
	smp_mb__after_atomic();
	/* No memory: interrupt everybody, it costs only time. */
	if (!zalloc_cpumask_var(&cpus, GFP_KERNEL)) {
		smp_call_function(nothing, NULL, true);
		return;
	}
	for (u32 i = 0; i < XMMU_MAX_VCPUS; i++) {
		struct xmmu_vcpu *vcpu = vm->vcpu[i];

		/* Pairs with announce(): the CPU is the one that it says so for. */
		if (vcpu && smp_load_acquire(&vcpu->in_guest))
			cpumask_set_cpu(READ_ONCE(vcpu->cpu), cpus);
	}
	on_each_cpu_mask(cpus, nothing, NULL, true);
	free_cpumask_var(cpus);
}

/* ---- ioctls ------------------------------------------------------------- */

static int set_region(struct xmmu_vm *vm, void __user *arg)
{
	struct xmmu_region region;
	int ret;

	if (copy_from_user(&region, arg, sizeof(region)))
		return -EFAULT;
	if (mutex_lock_killable(&vm->lock))
		return -EINTR;
	ret = xmmu_region_set(vm, &region);
	mutex_unlock(&vm->lock);
	return ret;
}

static int do_update(struct xmmu_vm *vm, struct xmmu_update *update)
{
	struct xmmu_entry __user *from = u64_to_user_ptr(update->entries);
	struct xmmu_entry *entries;
	int ret;

	entries = vmemdup_user(from, array_size(update->count, sizeof(*entries)));
	if (IS_ERR(entries))
		return PTR_ERR(entries);
	ret = mutex_lock_killable(&vm->lock);
	if (!ret) {
		ret = xmmu_table_update(vm, entries, update->count, &update->done);
		mutex_unlock(&vm->lock);
	}
	/* What was done stays done; only the news of it can be lost. */
	if (copy_to_user(from, entries, array_size(update->done, sizeof(*entries))))
		ret = -EFAULT;
	kvfree(entries);
	return ret;
}

static int leave_guest(struct xmmu_vm *vm)
{
	if (mutex_lock_killable(&vm->lock))
		return -EINTR;
	xmmu_vm_flush(vm);
	mutex_unlock(&vm->lock);
	return 0;
}

static int update(struct xmmu_vm *vm, struct xmmu_update __user *arg)
{
	struct xmmu_update update;
	int ret;

	if (copy_from_user(&update, arg, sizeof(update)))
		return -EFAULT;
	if (update.count > XMMU_UPDATE_MAX)
		return -E2BIG;
	update.done = 0;
	ret = update.count ? do_update(vm, &update) : leave_guest(vm);
	if (put_user(update.done, &arg->done))
		return -EFAULT;
	return ret;
}

static long vm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct xmmu_vm *vm = file->private_data;

	if (current->mm != vm->mm)
		return -EIO;
	switch (cmd) {
	case XMMU_SET_REGION:
		return set_region(vm, (void __user *)arg);
	case XMMU_UPDATE:
		return update(vm, (void __user *)arg);
	case XMMU_CREATE_VCPU:
		return xmmu_vcpu_create(vm, arg);
	default:
		return -ENOTTY;
	}
}

/* ---- Life --------------------------------------------------------------- */

/*
 * The address space goes: all its threads are gone, so no vCPU runs, and none will
 * (vcpu_ioctl()).  Called twice when the last file is closed at the same time.
 */
static void mm_gone(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct xmmu_vm *vm = container_of(notifier, struct xmmu_vm, notifier);

	mutex_lock(&vm->lock);
	for (u32 i = 0; i < XMMU_MAX_VCPUS; i++)
		if (vm->vcpu[i])
			vm->vcpu[i]->root = NULL;
	xmmu_tables_free(vm);
	xmmu_regions_free(vm);
	mutex_unlock(&vm->lock);
}

static const struct mmu_notifier_ops notifier_ops = {
	.release = mm_gone,
};

static void vm_free(struct kref *ref)
{
	struct xmmu_vm *vm = container_of(ref, struct xmmu_vm, ref);

	/* Calls mm_gone(), or waits for it. */
	mmu_notifier_unregister(&vm->notifier, vm->mm);
	xmmu_hardware_put();
	kfree(vm);
}

void xmmu_vm_get(struct xmmu_vm *vm)
{
	kref_get(&vm->ref);
}

void xmmu_vm_put(struct xmmu_vm *vm)
{
	kref_put(&vm->ref, vm_free);
}

static int vm_release(struct inode *inode, struct file *file)
{
	xmmu_vm_put(file->private_data);
	return 0;
}

static const struct file_operations vm_fops = {
	.owner = THIS_MODULE,
	.release = vm_release,
	.unlocked_ioctl = vm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct xmmu_vm *vm_alloc(void)
{
	static atomic64_t last_number;
	struct xmmu_vm *vm = kzalloc(sizeof(*vm), GFP_KERNEL_ACCOUNT);
	int ret;

	if (!vm)
		return ERR_PTR(-ENOMEM);
	vm->number = atomic64_inc_return(&last_number);
	kref_init(&vm->ref);
	mutex_init(&vm->lock);
	xa_init(&vm->regions);
	xa_init(&vm->tables);
	vm->mm = current->mm;
	vm->notifier.ops = &notifier_ops;
	ret = mmu_notifier_register(&vm->notifier, vm->mm);
	if (ret) {
		kfree(vm);
		/* It gives up for a signal, which is to be served and no failure. */
		return ERR_PTR(ret == -EINTR ? -ERESTARTNOINTR : ret);
	}
	return vm;
}

int xmmu_vm_create(void)
{
	struct xmmu_vm *vm;
	int ret;

	ret = xmmu_hardware_get();
	if (ret)
		return ret;
	vm = vm_alloc();
	if (IS_ERR(vm)) {
		xmmu_hardware_put();
		return PTR_ERR(vm);
	}
	ret = anon_inode_getfd("xmmu-vm", &vm_fops, vm, O_RDWR | O_CLOEXEC);
	if (ret < 0)
		xmmu_vm_put(vm);
	return ret;
}
