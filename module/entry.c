// SPDX-License-Identifier: GPL-2.0-only
/*
 * xmmu: what entries look like
 *
 * The one place that builds an entry for the hardware or reads one.  The second
 * dimension has EPT's encoding or that of long mode (NPT); shadow tables have
 * that of long mode or of PAE paging.  Pure functions.
 */
#include <linux/bits.h>
#include <linux/mem_encrypt.h>
#include <asm/page.h>
#include "xmmu.h"

/* Intel SDM vol. 3, 4.5 and 4.4; AMD APM vol. 2, 5.3. */
#define PTE_P		BIT_ULL(0)
#define PTE_W		BIT_ULL(1)
#define PTE_U		BIT_ULL(2)
#define PTE_A		BIT_ULL(5)
#define PTE_D		BIT_ULL(6)
#define PTE_LARGE	BIT_ULL(7)
#define PTE_G		BIT_ULL(8)
#define PTE_NX		BIT_ULL(63)
#define PTE_PKEY_SHIFT	59

/* Intel SDM vol. 3, 29.3.2. */
#define EPT_R		BIT_ULL(0)
#define EPT_W		BIT_ULL(1)
#define EPT_X		BIT_ULL(2)
#define EPT_WB		(6ULL << 3)
#define EPT_IGNORE_PAT	BIT_ULL(6)
#define EPT_LARGE	BIT_ULL(7)
#define EPT_A		BIT_ULL(8)
#define EPT_D		BIT_ULL(9)

#define ACCESS_PKEY	(15U << XMMU_ACCESS_PKEY_SHIFT)

/* What a leaf of each format can say. */
static const u32 leaf_access[XMMU_FORMAT_COUNT] = {
	[XMMU_FORMAT_NPT]  = XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC |
			     XMMU_ENTRY_AD,
	[XMMU_FORMAT_EPT]  = XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC |
			     XMMU_ENTRY_AD,
	[XMMU_FORMAT_LONG] = XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC |
			     XMMU_ACCESS_USER | XMMU_ACCESS_GLOBAL | XMMU_ENTRY_AD |
			     ACCESS_PKEY,
	/* A PDPTE of PAE paging is no leaf. */
	[XMMU_FORMAT_PAE]  = 0,
};

u32 xmmu_format_entries(u8 format, u8 level)
{
	if (format >= XMMU_FORMAT_COUNT || level < 1 || level > 5)
		return 0;
	if (format == XMMU_FORMAT_PAE)
		return level == 3 ? 4 : 0;
	return XMMU_ENTRIES;
}

static bool leaf_fits(u8 format, u8 level, u32 access)
{
	if (level > 1 && (access & XMMU_ACCESS_EXEC) &&
	    (xmmu_hw_features() & XMMU_FEATURE_SMALL_EXEC))
		return false;
	if (level > 3 || (level == 3 && !(xmmu_hw_features() & XMMU_FEATURE_1G)) ||
	    (access & ~leaf_access[format]))
		return false;
	if (access & XMMU_ACCESS_READ)
		return true;
	/* An EPT entry may allow nothing but fetches; writing needs reading. */
	return format == XMMU_FORMAT_EPT && !(access & XMMU_ACCESS_WRITE) &&
	       (access & XMMU_ACCESS_EXEC) &&
	       (xmmu_hw_features() & XMMU_FEATURE_EXECONLY);
}

static u64 ept_leaf(u8 level, u32 access)
{
	return (access & XMMU_ACCESS_READ ? EPT_R : 0) |
	       (access & XMMU_ACCESS_WRITE ? EPT_W : 0) |
	       (access & XMMU_ACCESS_EXEC ? EPT_X : 0) |
	       (level > 1 ? EPT_LARGE : 0) | EPT_WB | EPT_IGNORE_PAT;
}

/* Accesses of the second dimension count as a user's: AMD APM vol. 2, 15.25.5. */
static u64 legacy_leaf(u8 format, u8 level, u32 access)
{
	bool user = format == XMMU_FORMAT_NPT || (access & XMMU_ACCESS_USER);

	return PTE_P | (user ? PTE_U : 0) |
	       (access & XMMU_ACCESS_WRITE ? PTE_W : 0) |
	       (access & XMMU_ACCESS_EXEC ? 0 : PTE_NX) |
	       (access & XMMU_ACCESS_GLOBAL ? PTE_G : 0) |
	       (level > 1 ? PTE_LARGE : 0) |
	       (u64)((access & ACCESS_PKEY) >> XMMU_ACCESS_PKEY_SHIFT) << PTE_PKEY_SHIFT;
}

bool xmmu_encode_leaf(u8 format, u8 level, u32 access, u64 pa, u64 *entry)
{
	if (!leaf_fits(format, level, access))
		return false;
	if (format == XMMU_FORMAT_EPT)
		*entry = pa | ept_leaf(level, access);
	else
		*entry = __sme_set(pa) | legacy_leaf(format, level, access);
	*entry |= xmmu_encode_ad(format, access);
	return true;
}

u64 xmmu_encode_link(u8 format, u64 pa)
{
	if (format == XMMU_FORMAT_EPT)
		return pa | EPT_R | EPT_W | EPT_X;
	/* In a PDPTE of PAE paging all but P and the address is reserved. */
	if (format == XMMU_FORMAT_PAE)
		return __sme_set(pa) | PTE_P;
	return __sme_set(pa) | PTE_P | PTE_W | PTE_U | PTE_A;
}

u64 xmmu_encode_ad(u8 format, u32 ad)
{
	bool ept = format == XMMU_FORMAT_EPT;

	return (ad & XMMU_ACCESS_ACCESSED ? (ept ? EPT_A : PTE_A) : 0) |
	       (ad & XMMU_ACCESS_DIRTY ? (ept ? EPT_D : PTE_D) : 0);
}

static u32 decode_ept(u64 entry)
{
	return (entry & EPT_R ? XMMU_ACCESS_READ : 0) |
	       (entry & EPT_W ? XMMU_ACCESS_WRITE : 0) |
	       (entry & EPT_X ? XMMU_ACCESS_EXEC : 0) |
	       (entry & EPT_A ? XMMU_ACCESS_ACCESSED : 0) |
	       (entry & EPT_D ? XMMU_ACCESS_DIRTY : 0);
}

u32 xmmu_decode_access(u8 format, u64 entry)
{
	if (format == XMMU_FORMAT_EPT)
		return decode_ept(entry);
	return (entry & PTE_P ? XMMU_ACCESS_READ : 0) |
	       (entry & PTE_W ? XMMU_ACCESS_WRITE : 0) |
	       (entry & PTE_NX ? 0 : XMMU_ACCESS_EXEC) |
	       (entry & PTE_U && format != XMMU_FORMAT_NPT ? XMMU_ACCESS_USER : 0) |
	       (entry & PTE_G ? XMMU_ACCESS_GLOBAL : 0) |
	       (entry & PTE_A ? XMMU_ACCESS_ACCESSED : 0) |
	       (entry & PTE_D ? XMMU_ACCESS_DIRTY : 0) |
	       ((u32)(entry >> PTE_PKEY_SHIFT) & 15) << XMMU_ACCESS_PKEY_SHIFT;
}
