/*
 * xmmu tests: a CPU for the module
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns what svm.c and vmx.c are in the kernel: a struct xmmu_hw.  Its enter() makes
 * the accesses of fake.h, translated by the module's tables as hardware reads them,
 * decoded here a second time from the manuals.  It has a TLB, which it empties when the
 * module says so and at no other time.  What it asserts is what the module is for: a
 * guest reaches pages only while they are pinned.
 */
#include <cpuid.h>
#include <glib.h>
#include "kernel.h"
#undef asm
#include "../../module/xmmu.h"
#include "fake.h"
#include "fake_kernel.h"

#define TLB_SIZE 64

typedef struct Tlb {
    bool valid;
    u64 page, pfn;              /* of 4 KiB */
    u32 access;
    u64 *leaf;                  /* where to set D */
} Tlb;

typedef struct FakeVcpu {
    Tlb tlb[TLB_SIZE];
    bool missed;
    bool logs, log_full;
    int log_index;              /* the next word to write; -1: none is left */
    unsigned guest_flushes;
} FakeVcpu;

static u32 vendor, features;
static u64 xcr0;

/* ---- Entries, by the manuals ------------------------------------------------- */

typedef struct Format {
    u64 read, write, exec, no_exec, user, accessed, dirty, large;
} Format;

/* Intel SDM vol. 3, 29.3.2; AMD APM vol. 2, 5.3. */
static const Format ept = {
    .read = 1 << 0, .write = 1 << 1, .exec = 1 << 2, .accessed = 1 << 8,
    .dirty = 1 << 9, .large = 1 << 7,
};
static const Format legacy = {
    .read = 1 << 0, .write = 1 << 1, .no_exec = 1ull << 63, .user = 1 << 2,
    .accessed = 1 << 5, .dirty = 1 << 6, .large = 1 << 7,
};

#define FRAME_MASK 0x000ffffffffff000ull

static const Format *format_of(const struct xmmu_table *table)
{
    return table->format == XMMU_FORMAT_EPT ? &ept : &legacy;
}

static bool is_present(const Format *format, u64 entry)
{
    return entry & (format->read | (format == &ept ? format->write | format->exec : 0));
}

static u32 access_of(const Format *format, u64 entry)
{
    return (entry & format->read ? XMMU_ACCESS_READ : 0) |
           (entry & format->write ? XMMU_ACCESS_WRITE : 0) |
           ((format->exec ? entry & format->exec : !(entry & format->no_exec))
            ? XMMU_ACCESS_EXEC : 0) |
           (entry & format->user ? XMMU_ACCESS_USER : 0) |
           (entry & format->accessed ? XMMU_ACCESS_ACCESSED : 0) |
           (entry & format->dirty ? XMMU_ACCESS_DIRTY : 0) |
           (format == &legacy ? (u32)(entry >> 59 & 15) << XMMU_ACCESS_PKEY_SHIFT : 0);
}

/* ---- The walk ---------------------------------------------------------------- */

/* What an access needs; reading is implied but in EPT. */
static bool allows(u32 access, u32 want)
{
    return (access & want) == want;
}

static void set_bits(u64 *entry, u64 bits)
{
    if ((READ_ONCE(*entry) & bits) != bits) {
        __atomic_fetch_or(entry, bits, __ATOMIC_SEQ_CST);
    }
}

/* Intel SDM vol. 3, 4.5 and 29.3; the rights of all levels are combined. */
static bool walk(const struct xmmu_vcpu *vcpu, u64 address, u32 want, Tlb *out)
{
    const struct xmmu_table *root = vcpu->root;
    const Format *format = format_of(root);
    u32 access = XMMU_ACCESS_READ | XMMU_ACCESS_WRITE | XMMU_ACCESS_EXEC |
                 XMMU_ACCESS_USER;
    bool pae_root = root->format == XMMU_FORMAT_PAE;
    u64 *table = root->spt;

    for (int level = root->level;; level--) {
        unsigned index = address >> (12 + 9 * (level - 1)) & (pae_root ? 3 : 511);
        u64 *p = &table[index], entry = __atomic_load_n(p, __ATOMIC_SEQ_CST);

        if (!is_present(format, entry)) {
            return false;
        }
        if (pae_root) {
            g_assert_cmphex(entry & ~FRAME_MASK, ==, 1);
        } else {
            access &= access_of(format, entry);
        }
        if (level == 1 || (entry & format->large && !pae_root)) {
            u64 in_page = address >> 12 & (xmmu_level_pages(level) - 1);
            u64 pfn = (entry & FRAME_MASK) >> 12;

            g_assert_cmphex(pfn & (xmmu_level_pages(level) - 1), ==, 0);
            if (!allows(access, want)) {
                return false;
            }
            set_bits(p, format->accessed);
            *out = (Tlb) { true, address >> 12, pfn + in_page, access, p };
            return true;
        }
        pae_root = false;
        table = (u64 *)(uintptr_t)(entry & FRAME_MASK);
    }
}

/* Intel SDM vol. 3, 29.3.6.  False: there is no room to log what becomes dirty. */
static bool log_write(const struct xmmu_vcpu *vcpu, u64 address)
{
    FakeVcpu *hw = vcpu->hw;
    u64 *log = vcpu->log;

    if (!hw->logs) {
        return true;
    }
    if (hw->log_index < 0) {
        hw->log_full = true;
        return false;
    }
    __atomic_store_n(&log[hw->log_index--], address & FRAME_MASK, __ATOMIC_RELEASE);
    return true;
}

/* The D bit: the entry that was cached must still be the one, else walk again. */
static bool make_dirty(const struct xmmu_vcpu *vcpu, Tlb *tlb, u64 address, u32 want)
{
    const Format *format = format_of(vcpu->root);
    bool logged = false;

    if (!(features & XMMU_FEATURE_AD) && format == &ept) {
        return true;
    }
    if (tlb->access & XMMU_ACCESS_DIRTY) {
        return true;
    }
    for (;;) {
        Tlb now;
        u64 old;

        if (!walk(vcpu, address, want, &now)) {
            return false;
        }
        old = __atomic_load_n(now.leaf, __ATOMIC_SEQ_CST);
        if (!logged && !(old & format->dirty)) {
            logged = log_write(vcpu, address);
            if (!logged) {
                return false;
            }
        }
        if ((access_of(format, old) & want & XMMU_ACCESS_WRITE) &&
            try_cmpxchg64(now.leaf, &old, old | format->dirty)) {
            now.access |= XMMU_ACCESS_DIRTY;
            *tlb = now;
            return true;
        }
    }
}

/* Where user space sees the byte; 0: the tables do not allow it. */
static uintptr_t translate(struct xmmu_vcpu *vcpu, u64 address, u32 want)
{
    FakeVcpu *hw = vcpu->hw;
    Tlb *tlb = &hw->tlb[(address >> 12) % TLB_SIZE];

    if (!tlb->valid || tlb->page != address >> 12 || !allows(tlb->access, want)) {
        tlb->valid = false;
        if (!walk(vcpu, address, want, tlb)) {
            return 0;
        }
    }
    if ((want & XMMU_ACCESS_WRITE) && !make_dirty(vcpu, tlb, address, want)) {
        tlb->valid = false;
        return 0;
    }
    g_assert_true(fake_is_pinned(tlb->pfn));
    return fake_user_page(tlb->pfn) + (address & 4095);
}

/* ---- struct xmmu_hw ---------------------------------------------------------- */

static void get_caps(struct xmmu_caps *caps)
{
    caps->vendor = vendor;
    caps->features = features;
    caps->formats = 1 << (vendor == XMMU_VENDOR_VMX ? XMMU_FORMAT_EPT : XMMU_FORMAT_NPT) |
                    1 << XMMU_FORMAT_LONG | 1 << XMMU_FORMAT_PAE;
    caps->max_level = 5;
}

static bool root_ok(const struct xmmu_table *table)
{
    struct xmmu_caps caps = { 0 };

    get_caps(&caps);
    return (caps.formats >> table->format & 1) &&
           (table->format == XMMU_FORMAT_PAE || table->level >= 4);
}

static int vcpu_new(struct xmmu_vcpu *vcpu)
{
    vcpu->hw = fake_alloc(sizeof(FakeVcpu), 0);
    return vcpu->hw ? 0 : -ENOMEM;
}

static void vcpu_free(struct xmmu_vcpu *vcpu)
{
    free(vcpu->hw);
}

static void commit(struct xmmu_vcpu *vcpu, u32 which)
{
    FakeVcpu *hw = vcpu->hw;
    bool logs = vcpu->root->format == XMMU_FORMAT_EPT &&
                (vcpu->state.controls.want & XMMU_WANT_WRITE_LOG);

    (void)which;
    if (logs && !hw->logs) {
        hw->log_index = XMMU_LOG_ENTRIES - 1;
    }
    hw->logs = logs;
}

static void fetch(struct xmmu_vcpu *vcpu, u32 which)
{
    if (fake.fetch) {
        fake.fetch(&vcpu->state, vcpu->xsave, which);
    }
}

static void prepare(struct xmmu_vcpu *vcpu)
{
    (void)vcpu;
}

static u64 next_random(u64 *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void enter(struct xmmu_vcpu *vcpu)
{
    FakeVcpu *hw = vcpu->hw;
    __u64 *gpr = vcpu->state.gprs.gpr;

    if (vcpu->flush) {
        memset(hw->tlb, 0, sizeof(hw->tlb));
        vcpu->flush = false;
    }
    hw->guest_flushes += vcpu->flush_guest;
    vcpu->flush_guest = false;
    hw->missed = false;
    while (gpr[FAKE_COUNT] && !fake_interrupt_pending()) {
        u64 seed = gpr[FAKE_SEED];
        uintptr_t host;

        gpr[FAKE_ADDRESS] = gpr[FAKE_BASE] +
                            ((next_random(&seed) % gpr[FAKE_PAGES]) << PAGE_SHIFT);
        host = translate(vcpu, gpr[FAKE_ADDRESS], gpr[FAKE_WANT]);
        if (!host) {
            hw->missed = !hw->log_full;
            return;
        }
        if (gpr[FAKE_WANT] & XMMU_ACCESS_WRITE) {
            __atomic_add_fetch((u64 *)host, 1, __ATOMIC_RELAXED);
        }
        gpr[FAKE_SEED] = seed;
        gpr[FAKE_COUNT]--;
    }
}

static void explain_miss(const struct xmmu_vcpu *vcpu, struct xmmu_exit *exit)
{
    u64 address = vcpu->state.gprs.gpr[FAKE_ADDRESS];
    u32 want = vcpu->state.gprs.gpr[FAKE_WANT];

    if (vcpu->root->format == XMMU_FORMAT_NPT || vcpu->root->format == XMMU_FORMAT_EPT) {
        exit->reason = XMMU_EXIT_MEMORY;
        exit->memory.gpa = address;
        exit->memory.access = want & XMMU_ACCESS_WRITE ? XMMU_ACCESS_WRITE
                            : want & XMMU_ACCESS_EXEC ? XMMU_ACCESS_EXEC
                            : XMMU_ACCESS_READ;
        return;
    }
    exit->reason = XMMU_EXIT_EXCEPTION;
    exit->exception.vector = 14;
    exit->exception.address = address;
}

static bool explain(struct xmmu_vcpu *vcpu)
{
    FakeVcpu *hw = vcpu->hw;

    if (hw->log_full) {
        hw->log_full = false;
        hw->log_index = XMMU_LOG_ENTRIES - 1;
        vcpu->state.exit.reason = XMMU_EXIT_LOG_FULL;
        return true;
    }
    if (hw->missed) {
        explain_miss(vcpu, &vcpu->state.exit);
        return true;
    }
    if (vcpu->state.gprs.gpr[FAKE_COUNT]) {
        return false;           /* an interrupt */
    }
    vcpu->state.exit.reason = XMMU_EXIT_HLT;
    return true;
}

static const struct xmmu_hw fake_hw = {
    .name = "fake",
    .get_caps = get_caps,
    .root_ok = root_ok,
    .vcpu_new = vcpu_new,
    .vcpu_free = vcpu_free,
    .commit = commit,
    .fetch = fetch,
    .prepare = prepare,
    .enter = enter,
    .explain = explain,
};

/* ---- hardware.c -------------------------------------------------------------- */

const struct xmmu_hw *xmmu_hw = &fake_hw;
static int users;

u32 xmmu_hw_features(void)
{
    return features;
}

int xmmu_hardware_init(void)
{
    return 0;
}

int xmmu_hardware_get(void)
{
    __atomic_add_fetch(&users, 1, __ATOMIC_SEQ_CST);
    return 0;
}

void xmmu_hardware_put(void)
{
    __atomic_sub_fetch(&users, 1, __ATOMIC_SEQ_CST);
}

void xmmu_cpu_get(void)
{
}

void xmmu_cpu_put(void)
{
}

bool xmmu_cpu_is_on(void)
{
    return true;
}

/* ---- For tests --------------------------------------------------------------- */

bool fake_cpu_has(const char *feature)
{
    return g_str_equal(feature, "X86_FEATURE_XSAVE") ? xcr0 != 0 :
           g_str_equal(feature, "X86_FEATURE_OSPKE") ? xcr0 >> 9 & 1 : false;
}

u64 fake_xcr0(void)
{
    return xcr0;
}

/* Intel SDM vol. 1, 13.2: what the components take that this CPU has on. */
u32 fake_xsave_size(void)
{
    u32 eax, ebx, ecx, edx;

    __cpuid_count(0xd, 0, eax, ebx, ecx, edx);
    return ebx;
}

void fake_reset(uint32_t new_vendor, uint32_t new_features)
{
    fake_reset_xsave(new_vendor, new_features, 0);
}

void fake_reset_xsave(uint32_t new_vendor, uint32_t new_features, uint64_t new_xcr0)
{
    g_assert_cmpint(users, ==, 0);
    g_assert_cmpuint(fake_open_files(), ==, 0);
    g_assert_cmpuint(fake_pinned_pages(), ==, 0);
    if (fake_is_loaded()) {
        fake_module_exit();
    }
    fake_kernel_reset();
    vendor = new_vendor;
    features = new_features;
    xcr0 = new_xcr0;
    g_assert_cmpint(fake_module_init(), ==, 0);
}

static struct xmmu_table *table_of(int vm, uint32_t id)
{
    struct xmmu_vm *v = fake_file(vm)->private_data;

    return xa_load(&v->tables, id);
}

bool fake_entry(int vm, uint32_t id, unsigned index, FakeEntry *entry)
{
    struct xmmu_table *table = table_of(vm, id);
    const Format *format;
    u64 raw;

    *entry = (FakeEntry) { 0 };
    if (!table) {
        return false;
    }
    format = format_of(table);
    raw = table->spt[index];
    if (!is_present(format, raw)) {
        return true;
    }
    entry->access = access_of(format, raw);
    entry->is_leaf = table->level == 1 ||
                     (table->format != XMMU_FORMAT_PAE && (raw & format->large));
    if (entry->is_leaf) {
        entry->address = fake_user_page((raw & FRAME_MASK) >> PAGE_SHIFT);
        return true;
    }
    entry->table = table->meaning[index].target;
    g_assert_cmphex(__pa(table_of(vm, entry->table)->spt), ==, raw & FRAME_MASK);
    return true;
}

unsigned fake_guest_flushes(int vcpu)
{
    struct xmmu_vcpu *v = fake_file(vcpu)->private_data;

    return ((FakeVcpu *)v->hw)->guest_flushes;
}

uint64_t fake_pages(int vm, uint32_t id)
{
    return xmmu_level_pages(table_of(vm, id)->level);
}

uint32_t fake_next_table(int vm, uint32_t id)
{
    struct xmmu_vm *v = fake_file(vm)->private_data;

    while (id < v->tables.size && !v->tables.item[id]) {
        id++;
    }
    return id < v->tables.size ? id : UINT32_MAX;
}

void fake_set_dirty(int vm, uint32_t id, unsigned index)
{
    struct xmmu_table *table = table_of(vm, id);

    set_bits(&table->spt[index], format_of(table)->dirty);
}
