/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * xmmu: what the kernel calls otherwise in some versions
 *
 * The module is written for 6.1; what has another name or another home since is
 * given the old one here, and only here.
 */
#ifndef XMMU_COMPAT_H
#define XMMU_COMPAT_H

#include <linux/cc_platform.h>
#include <linux/syscore_ops.h>
#include <linux/version.h>
#include <asm/msr.h>
#include <asm/processor.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
#include <asm/cpuid/api.h>
#define rdmsrl		rdmsrq
#define wrmsrl		wrmsrq
#define rdmsrl_safe	rdmsrq_safe
#define wrmsrl_safe	wrmsrq_safe
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
#define SYSCORE_DATA		void *unused
#else
#define SYSCORE_DATA		void
#define register_syscore	register_syscore_ops
#define unregister_syscore	unregister_syscore_ops
#endif

/* Pages in use by VMRUN can then make the host's own accesses beside them fault. */
static inline bool host_has_snp(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	return cc_platform_has(CC_ATTR_HOST_SEV_SNP);
#else
	return false;
#endif
}

#endif /* XMMU_COMPAT_H */
