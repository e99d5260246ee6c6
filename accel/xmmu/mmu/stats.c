/*
 * xmmu: counters and what can be seen of roles and roots
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the description of the counters and the texts for people.  Reads without
 * stopping anyone: a sum may be a few events behind.
 */
#include <string.h>
#include "roots.h"
#include "vm.h"

#define EVENT(field, description) \
    { .name = #field, .text = description, .offset = offsetof(XmmuStats, field) },
#define GAUGE(field, description) \
    { .name = #field, .text = description, .offset = offsetof(XmmuStats, field), \
      .gauge = true },

const XmmuStatDesc xmmu_stat_descs[] = {
    XMMU_STATS(EVENT)
    XMMU_GAUGES(GAUGE)
};

const size_t xmmu_stat_count = G_N_ELEMENTS(xmmu_stat_descs);

XmmuPfResult xmmu_count_fault(XmmuVcpu *vcpu, XmmuPfResult result)
{
    XmmuStats *stats = &vcpu->stats;

    xmmu_count(&stats->faults);
    switch (result) {
    case XMMU_PF_FIXED:
        xmmu_count(&stats->faults_fixed);
        break;
    case XMMU_PF_SPURIOUS:
        xmmu_count(&stats->faults_spurious);
        break;
    case XMMU_PF_GUEST:
    case XMMU_PF_REFLECT:
        xmmu_count(&stats->faults_guest);
        break;
    case XMMU_PF_EMULATE:
        xmmu_count(&stats->faults_emulate);
        break;
    default:
        break;
    }
    return result;
}

void xmmu_stats_add(XmmuStats *sum, const XmmuStats *more)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)more;

    for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++) {
        __atomic_fetch_add(&to[i], __atomic_load_n(&from[i], __ATOMIC_RELAXED),
                           __ATOMIC_RELAXED);
    }
}

static void each_gauge(XmmuStats *stats, uint64_t (*fn)(uint64_t value))
{
    for (size_t i = 0; i < xmmu_stat_count; i++) {
        if (xmmu_stat_descs[i].gauge) {
            uint64_t *value = (uint64_t *)((char *)stats + xmmu_stat_descs[i].offset);

            *value = fn(*value);
        }
    }
}

/* Each vCPU counts what it added and removed, so its part of a gauge may be below
 * zero, and so may a sum that was read while things moved from one to another. */
static uint64_t not_negative(uint64_t value)
{
    return (int64_t)value < 0 ? 0 : value;
}

static uint64_t nothing(uint64_t value)
{
    (void)value;
    return 0;
}

void xmmu_vm_stats(XmmuVm *vm, XmmuStats *out)
{
    XmmuHold hold;

    memset(out, 0, sizeof(*out));
    xmmu_stats_add(out, &vm->stats);
    xmmu_read_lock(&hold, vm, NULL, XMMU_REASON_GUEST);
    for (XmmuVcpu *vcpu = vm->vcpus; vcpu; vcpu = vcpu->next) {
        xmmu_stats_add(out, &vcpu->stats);
    }
    xmmu_read_unlock(&hold);
    each_gauge(out, not_negative);
}

void xmmu_vcpu_stats(XmmuVcpu *vcpu, XmmuStats *out)
{
    memset(out, 0, sizeof(*out));
    xmmu_stats_add(out, &vcpu->stats);
    /* Tables belong to the VM. */
    each_gauge(out, nothing);
}

uint64_t xmmu_vcpu_role_word(const XmmuVcpu *vcpu)
{
    return vcpu->walk_mmu->role.word;
}

/* Append " name" for each set flag. */
typedef struct Flag {
    bool set;
    const char *name;
} Flag;

static void append_flags(GString *text, const Flag *flags, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (flags[i].set) {
            g_string_append_printf(text, " %s", flags[i].name);
        }
    }
}

char *xmmu_vcpu_role_text(const XmmuVcpu *vcpu)
{
    XmmuVcpuRole role = vcpu->walk_mmu->role;
    GString *text = g_string_new(role.valid ? vcpu->walk_mmu->masks.guest->name : "unset");
    const Flag flags[] = {
        { role.pse, "pse" }, { role.nxe, "nxe" }, { role.wp, "wp" },
        { role.smep, "smep" }, { role.smap, "smap" }, { role.pke, "pke" },
        { role.pks, "pks" }, { role.smm, "smm" }, { role.a20_masked, "a20-masked" },
    };

    append_flags(text, flags, G_N_ELEMENTS(flags));
    return g_string_free(text, false);
}

char *xmmu_page_role_text(uint32_t page_role)
{
    XmmuPageRole role = { .word = page_role };
    GString *text = g_string_new(NULL);
    const Flag flags[] = {
        { role.direct, "direct" }, { role.tdp, "tdp" }, { role.pae_root, "pae-root" },
        { role.gpte4, "gpte4" }, { role.lma, "lma" },
        { role.ept, "ept" }, { role.ept_ad, "ept-ad" }, { role.nxe, "nxe" },
        { role.pse, "pse" }, { role.wp, "wp" },
        { role.smep_andnot_wp, "smep-andnot-wp" },
        { role.smap_andnot_wp, "smap-andnot-wp" },
        { role.pk_andnot_wp, "pk-andnot-wp" }, { role.smm, "smm" },
        { role.guest_mode, "guest-mode" }, { role.a20_masked, "a20-masked" },
    };

    g_string_append_printf(text, "level %u %c%c%c", role.level,
                           role.access & XMMU_ACC_USER ? 'u' : '-',
                           role.access & XMMU_ACC_WRITE ? 'w' : '-',
                           role.access & XMMU_ACC_EXEC ? 'x' : '-');
    if (role.gpte4) {
        g_string_append_printf(text, " quadrant %u", role.quadrant);
    }
    append_flags(text, flags, G_N_ELEMENTS(flags));
    return g_string_free(text, false);
}

static XmmuRootInfo describe(const XmmuCachedRoot *root)
{
    XmmuTable *table = root->table;

    return (XmmuRootInfo) {
        .valid = table && !xmmu_table_stale(table),
        .pgd = root->pgd,
        .pcid = root->pcid,
        .page_role = root->role.word,
        .hpa = table ? xmmu_table_hpa(table) : 0,
    };
}

size_t xmmu_vcpu_roots(XmmuVcpu *vcpu, XmmuRootInfo *out, size_t max)
{
    XmmuCachedRoot roots[XMMU_PREV_ROOTS_MAX + 1];
    XmmuHold hold;
    size_t count;

    /* The lock keeps the tables; the owner may still switch, so this is a snapshot
     * for people. */
    xmmu_read_lock(&hold, vcpu->vm, NULL, XMMU_REASON_GUEST);
    count = xmmu_roots_snapshot(vcpu->mmu, roots, MIN(max, G_N_ELEMENTS(roots)));
    for (size_t i = 0; i < count; i++) {
        out[i] = describe(&roots[i]);
    }
    xmmu_read_unlock(&hold);
    return count;
}
