/*
 * xmmu soft engine: linear addresses before their translation
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Called by the hardware model at the start of each translation, and by whoever
 * must know which address a pointer stands for.
 */
#ifndef XMMU_ENGINE_LINEAR_H
#define XMMU_ENGINE_LINEAR_H

#include "../mmu/mmu.h"

/*
 * The address that @access uses: cut to 32 bits outside long mode, without its
 * metadata where linear-address masking applies.  Not checked.
 */
gva_t xmmu_linear_address(const XmmuVcpu *vcpu, const XmmuAccess *access);

/*
 * Which kinds of access use the same address through this pointer: a translation
 * may be kept for no others.
 */
uint8_t xmmu_linear_prot(const XmmuVcpu *vcpu, const XmmuAccess *access);

/* What xmmu_linear_address() gave is an address in the current paging mode. */
bool xmmu_linear_canonical(const XmmuVcpu *vcpu, gva_t gva);

#endif /* XMMU_ENGINE_LINEAR_H */
