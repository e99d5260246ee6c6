// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: the device
 *
 * Owns /dev/xmmu and the loading of the module.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <asm/tsc.h>
#include "xmmu.h"

static int get_caps(struct xmmu_caps __user *arg)
{
	struct xmmu_caps caps = {
		.version = XMMU_API_VERSION,
		.max_vcpus = XMMU_MAX_VCPUS,
		.max_regions = XMMU_MAX_REGIONS,
		.max_tables = XMMU_MAX_TABLES,
		.tsc_khz = tsc_khz,
	};
	u32 size;

	if (get_user(size, &arg->size))
		return -EFAULT;
	xmmu_hw->get_caps(&caps);
	xmmu_vcpu_get_caps(&caps);
	caps.size = min_t(u32, size, sizeof(caps));
	return copy_to_user(arg, &caps, caps.size) ? -EFAULT : 0;
}

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case XMMU_GET_CAPS:
		return get_caps((void __user *)arg);
	case XMMU_CREATE_VM:
		return arg ? -EINVAL : xmmu_vm_create();
	default:
		return -ENOTTY;
	}
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = device_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "xmmu",
	.fops = &device_fops,
	.mode = 0660,
};

static int __init xmmu_init(void)
{
	int ret = xmmu_hardware_init();

	if (ret)
		return ret;
	xmmu_vcpu_init();
	ret = misc_register(&device);
	if (!ret)
		pr_info("xmmu: ready (%s)\n", xmmu_hw->name);
	return ret;
}

static void __exit xmmu_exit(void)
{
	misc_deregister(&device);
}

module_init(xmmu_init);
module_exit(xmmu_exit);
MODULE_DESCRIPTION("Runs vCPUs whose MMU is kept in user space");
MODULE_LICENSE("GPL");
