/*
 * xmmu native engine: the tables that vCPUs begin at
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what a vCPU is told to run by, and what it takes for it to run at all: nothing
 * left to be told, a root that the core has not given up, no leaf that the hardware
 * cannot map.
 */
#include <string.h>
#include "native_parts.h"

static XmmuTable *good_root(XmmuVcpu *vcpu)
{
    XmmuTable *root = __atomic_load_n(&vcpu->mmu->root.table, __ATOMIC_ACQUIRE);

    return root && !xmmu_table_stale(root) ? root : NULL;
}

/* A table without entries, for a vCPU without a good root. */
static XmmuMirrorTable *empty_root(XmmuMirror *mirror, XmmuVcpu *vcpu)
{
    XmmuPageRole role = vcpu->mmu->root.role;
    uint8_t format = xmmu_mirror_format(vcpu->vm->format, role);
    XmmuMirrorTable **t;

    if (role.level < 1 || role.level > XMMU_MAX_LEVEL) {
        xmmu_mirror_refuse(mirror, "vCPU %u has no registers", vcpu->index);
        return NULL;
    }
    t = &mirror->empty[format][role.level];
    if (!*t) {
        *t = xmmu_mirror_new_table(mirror, format, role.level);
    }
    if (*t && (*t)->state == TABLE_UNKNOWN) {
        xmmu_mirror_announce_new(mirror, *t);
    }
    if (!*t) {
        xmmu_mirror_refuse(mirror, "no memory, or no number, for another table");
    }
    return *t;
}

/* Under the lock.  Whoever gives a root up from here on finds it in .roots. */
static XmmuMirrorTable *take_root(XmmuMirror *mirror, XmmuVcpu *vcpu)
{
    XmmuTable *table = good_root(vcpu);
    XmmuMirrorTable *t = table ? xmmu_mirror_announce(mirror, table)
                               : empty_root(mirror, vcpu);

    xmmu_mirror_execute(mirror);
    if (!t || t->state != TABLE_KNOWN) {
        return NULL;
    }
    if (table && !t->is_root) {
        g_ptr_array_add(mirror->roots, t);
        __atomic_store_n(&t->is_root, true, __ATOMIC_RELEASE);
    }
    if (table && xmmu_table_stale(table)) {
        return take_root(mirror, vcpu);         /* that will be an empty one */
    }
    return t;
}

/*
 * The run before this one has committed the root of then, so the one before that is
 * not in use by this vCPU any more; and that of then neither if this is the second
 * time with the present one.
 */
static void note_root(XmmuMirror *mirror, unsigned index, uint32_t id)
{
    VcpuRoot *v = &mirror->vcpu_root[index];
    bool moved = !v->set || v->id != id;

    if (moved || !v->settled) {
        __atomic_fetch_add(&mirror->roots_moved, 1, __ATOMIC_RELEASE);
    }
    *v = (VcpuRoot) { .set = true, .settled = !moved, .id = id };
}

/* Is there nothing to tell, and the vCPU's root known? */
static bool nothing_to_tell(const XmmuMirror *mirror, XmmuVcpu *vcpu, uint32_t *root)
{
    XmmuTable *table = good_root(vcpu);
    XmmuMirrorTable *t = table ? __atomic_load_n(&table->mirror, __ATOMIC_ACQUIRE) : NULL;

    if (!t || !__atomic_load_n(&t->is_root, __ATOMIC_ACQUIRE)) {
        return false;
    }
    *root = t->id;
    return xmmu_mirror_settled(mirror);
}

/* Large leaves that the hardware cannot map go; the next fault makes small ones. */
static void drop_large(const HugeDrop *drop, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        xmmu_table_drop_large(drop[i].table, drop[i].index);
    }
}

/* Tell all; false: again. */
static bool enter_once(XmmuMirror *mirror, XmmuVcpu *vcpu, XmmuMirrorTable **root,
                       char **error)
{
    HugeDrop drop[HUGE_DROPS];
    unsigned drops;

    mirror->services->rcu_read_lock();          /* keeps what is in drop[] */
    xmmu_mirror_begin(mirror);
    xmmu_mirror_tell_all(mirror);
    *root = take_root(mirror, vcpu);
    if (mirror->refused) {
        *root = NULL;
    }
    *error = *root ? NULL : g_steal_pointer(&mirror->error);
    drops = mirror->drops;
    memcpy(drop, mirror->drop, drops * sizeof(drop[0]));
    xmmu_mirror_end(mirror);
    drop_large(drop, drops);
    mirror->services->rcu_read_unlock();
    return !drops;
}

XmmuMirrorResult xmmu_mirror_enter(XmmuMirror *mirror, XmmuVcpu *vcpu, uint32_t *root,
                                   char **error)
{
    XmmuMirrorTable *t;

    g_assert(vcpu->index < mirror->device->caps.max_vcpus);
    if (!nothing_to_tell(mirror, vcpu, root)) {
        while (!enter_once(mirror, vcpu, &t, error)) {
            g_free(*error);
        }
        if (!t) {
            return XMMU_MIRROR_FAILED;
        }
        *root = t->id;
    }
    note_root(mirror, vcpu->index, *root);
    return XMMU_MIRROR_OK;
}

void xmmu_mirror_forget_vcpu(XmmuMirror *mirror, unsigned index)
{
    mirror->vcpu_root[index] = (VcpuRoot) { 0 };
    __atomic_fetch_add(&mirror->roots_moved, 1, __ATOMIC_RELEASE);
}
