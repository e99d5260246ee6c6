/*
 * xmmu: unit test of the walk of guest tables
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For each paging mode a path to one page is built, then every bit of the entry
 * at every level is flipped, and the page is accessed in every way under every
 * setting of the bits that matter.  The outcome (address, rights, error code,
 * accessed and dirty flags) must be the reference's.  The same with TDP, where the
 * hardware model walks, and with shadow paging, where the MMU does.
 */
#include <string.h>

#include "fixture.h"
#include "tests/fuzz/ref_mmu.h"

static const unsigned accesses[] = {
    XMMU_PROT_READ, XMMU_PROT_WRITE, XMMU_PROT_EXEC,
    XMMU_PROT_READ | ACC_AC, XMMU_PROT_WRITE | ACC_AC, XMMU_PROT_EXEC | ACC_AC,
    XMMU_PROT_READ | ACC_USER, XMMU_PROT_WRITE | ACC_USER, XMMU_PROT_EXEC | ACC_USER,
};

typedef struct Setting {
    bool tdp;
    XmmuTdpFormat format;
    unsigned mode;
    int leaf;                   /* level of the page */
    XmmuCpuCaps caps;
} Setting;

static unsigned ref_read(void *opaque, uint64_t addr, unsigned size, RefValue *out)
{
    Fixture *fx = opaque;

    out[0].until = 0;
    out[0].value = addr + size <= fx->ram_size ? fixture_read(fx, addr, size)
                 : size == 4 ? (uint32_t)fx->bus_value : fx->bus_value;
    return 1;
}

static RefMmu ref_for(Fixture *fx)
{
    const XmmuRegs *r = &fx->regs[0];
    RefMmu mmu = {
        .caps = { fx->caps.maxphyaddr, fx->caps.page1g, fx->caps.pse36,
                  fx->caps.amd_pml4e_bit8 },
        .regs = { .cr0 = r->cr0, .cr3 = r->cr3, .cr4 = r->cr4, .efer = r->efer,
                  .pkru = r->pkru, .pkrs = r->pkrs, .a20_masked = r->a20_masked },
        .read = ref_read, .opaque = fx,
    };

    memcpy(mmu.regs.pdpte, r->pdpte, sizeof(r->pdpte));
    return mmu;
}

/* Entries of the path before an access, to be compared and put back. */
typedef struct Path {
    unsigned count;
    gpa_t at[5];
    uint64_t entry[5];
} Path;

static void save_path(const Fixture *fx, const RefResult *ref, Path *path)
{
    path->count = ref->steps;
    for (unsigned i = 0; i < ref->steps; i++) {
        path->at[i] = ref->step[i].addr;
        path->entry[i] = ref->step[i].addr + 8 <= fx->ram_size ?
            fixture_read(fx, path->at[i], ref->step[i].size) : 0;
    }
}

static void compare(Fixture *fx, gva_t gva, unsigned how)
{
    RefMmu mmu = ref_for(fx);
    RefAccess access = {
        gva, how & XMMU_PROT_RWX, how & ACC_USER, how & ACC_AC,
    };
    RefResult ref;
    Path path;
    XmmuHwResult r;

    ref_translate(&mmu, &access, &ref);
    save_path(fx, &ref, &path);
    r = fixture_access(fx, 0, gva, how);
    if (ref.fault) {
        g_assert_cmpint(r.outcome, ==, XMMU_HW_EXCEPTION);
        g_assert_cmpint(r.exception.vector, ==, XMMU_EXC_PF);
        g_assert_cmphex(r.exception.error_code, ==, ref.error_code);
        g_assert_cmphex(r.exception.cr2, ==, gva);
    } else {
        g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
        g_assert_cmphex(r.gpa, ==, ref.phys);
        g_assert_cmphex(r.prot & ~ref.allowed, ==, 0);
        g_assert_cmphex(r.prot & how & XMMU_PROT_RWX, ==, how & XMMU_PROT_RWX);
        g_assert_true(!(r.prot & XMMU_PROT_WRITE) || ref.dirty);
        g_assert_cmpint(r.outcome == XMMU_HW_DIRECT && r.mmio, ==,
                        ref.phys >= fx->ram_size);
    }
    for (unsigned i = 0; i < path.count; i++) {
        unsigned size = ref.step[i].size;

        if (path.at[i] + size > fx->ram_size) {
            continue;
        }
        g_assert_cmphex(fixture_read(fx, path.at[i], size), ==,
                        path.entry[i] | ref.step[i].set);
    }
    for (unsigned i = 0; i < path.count; i++) {
        if (path.at[i] + ref.step[i].size <= fx->ram_size) {
            fixture_write(fx, path.at[i], path.entry[i], ref.step[i].size);
        }
    }
}

static void all_accesses(Fixture *fx, gva_t gva)
{
    for (size_t i = 0; i < G_N_ELEMENTS(accesses); i++) {
        /* Forget everything: tables are changed behind the core's back. */
        xmmu_vm_zap_all(fx->vm);
        compare(fx, gva, accesses[i]);
    }
}

/* The control bits that a mode knows, in all combinations. */
static unsigned control_count(unsigned mode)
{
    return mode == MODE_32 ? 8 : mode == MODE_PAE ? 16 : 64;
}

static void set_controls(Fixture *fx, XmmuRegs regs, unsigned controls)
{
    regs.cr0 &= ~(uint64_t)XMMU_CR0_WP;
    regs.cr0 |= controls & 1 ? XMMU_CR0_WP : 0;
    regs.cr4 |= controls & 2 ? XMMU_CR4_SMEP : 0;
    regs.cr4 |= controls & 4 ? XMMU_CR4_SMAP : 0;
    regs.efer &= controls & 8 ? ~(uint64_t)XMMU_EFER_NXE : ~(uint64_t)0;
    regs.cr4 |= controls & 16 ? XMMU_CR4_PKE : 0;
    regs.cr4 |= controls & 32 ? XMMU_CR4_PKS : 0;
    /* Key 1 denies all, key 2 writes. */
    regs.pkru = 1 << 2 | 2 << 4;
    regs.pkrs = 2 << 2 | 1 << 4;
    fixture_load(fx, 0, regs);
}

static gva_t test_gva(unsigned mode)
{
    return mode >= MODE_4L ? 0xffff812345678000 : 0x92345000;
}

static XmmuRegs build_path(Fixture *fx, const Setting *s, gva_t gva)
{
    XmmuRegs regs = fixture_regs(s->mode, fixture_page(fx));
    uint64_t page = s->leaf == 1 ? MIB(6) + 0x5000 : s->leaf == 2 ? MIB(8) : GIB(1);
    uint64_t entry = page | PTE_PWU;

    if (s->leaf > 1) {
        entry |= PTE_PS;
    }
    fixture_map(fx, &regs, gva, entry, s->leaf);
    return regs;
}

static unsigned flip_bits(const Setting *s)
{
    return s->mode == MODE_32 ? 32 : 64;
}

static void check_setting(gconstpointer data)
{
    const Setting *s = data;
    XmmuConfig config = fixture_config();
    gva_t gva = test_gva(s->mode);
    unsigned size;
    Fixture *fx;
    XmmuRegs regs;
    int top = s->mode == MODE_PAE ? 2 : s->mode;

    config.tdp = s->tdp;
    config.tdp_format = s->format;
    fx = fixture_new_caps(&config, MIB(16), &s->caps);
    regs = build_path(fx, s, gva);
    size = fixture_entry_size(&regs);
    for (unsigned c = 0; c < control_count(s->mode); c += fixture_stride()) {
        /* Each level's bits under each setting would take long: the levels take
         * turns, but the leaf is always there. */
        int other = s->leaf + 1 + c % MAX(top - s->leaf, 1);

        rcu_service_drain();
        set_controls(fx, regs, c);
        for (int level = s->leaf; level <= top; level++) {
            gpa_t at = fixture_entry(fx, &regs, gva, level);
            uint64_t entry = fixture_read(fx, at, size);

            if (level != s->leaf && level != other) {
                continue;
            }
            for (unsigned bit = 0; bit < flip_bits(s); bit++) {
                fixture_write(fx, at, entry ^ (uint64_t)1 << bit, size);
                all_accesses(fx, gva);
            }
            fixture_write(fx, at, entry, size);
        }
        /* Keys and rights together. */
        for (unsigned bits = 0; bits < 32 && size == 8; bits++) {
            gpa_t at = fixture_entry(fx, &regs, gva, s->leaf);
            uint64_t entry = fixture_read(fx, at, size);

            fixture_write(fx, at, (entry & ~(PTE_W | PTE_U)) |
                          (bits & 1 ? PTE_W : 0) | (bits & 2 ? PTE_U : 0) |
                          (bits & 4 ? PTE_NX : 0) | PTE_PK(bits >> 3), size);
            all_accesses(fx, gva);
            fixture_write(fx, at, entry, size);
        }
    }
    fixture_free(fx);
}

#define INTEL { .maxphyaddr = 40, .page1g = true, .pse36 = true }
#define AMD   { .maxphyaddr = 48, .page1g = true, .pse36 = true, .amd_pml4e_bit8 = true }
#define OLD   { .maxphyaddr = 36 }

static const Setting settings[] = {
    { .mode = MODE_32, .leaf = 1, .caps = INTEL },
    { .mode = MODE_32, .leaf = 2, .caps = INTEL },
    { .mode = MODE_32, .leaf = 2, .caps = OLD },
    { .mode = MODE_PAE, .leaf = 1, .caps = INTEL },
    { .mode = MODE_PAE, .leaf = 2, .caps = OLD },
    { .mode = MODE_4L, .leaf = 1, .caps = INTEL },
    { .mode = MODE_4L, .leaf = 2, .caps = AMD },
    { .mode = MODE_4L, .leaf = 3, .caps = INTEL },
    { .mode = MODE_4L, .leaf = 3, .caps = OLD },
    { .mode = MODE_5L, .leaf = 1, .caps = AMD },
};

static void add_settings(bool tdp, XmmuTdpFormat format, const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(settings); i++) {
        Setting *s = g_new(Setting, 1);
        char *path;

        *s = settings[i];
        s->tdp = tdp;
        s->format = format;
        path = g_strdup_printf("/guest-walk/%s/%u-level %s phys %u%s", name, s->mode,
                               s->leaf == 1 ? "4K" : s->leaf == 2 ? "large" : "1G",
                               s->caps.maxphyaddr, s->caps.page1g ? "" : " old");
        g_test_add_data_func_full(path, s, check_setting, g_free);
        g_free(path);
    }
}

/* ---- Examples, worked out by hand -------------------------------------- */

static Fixture *new_guest(unsigned mode, XmmuRegs *regs)
{
    XmmuConfig config = fixture_config();
    Fixture *fx = fixture_new(&config, MIB(16));

    *regs = fixture_regs(mode, fixture_page(fx));
    return fx;
}

static void test_flags(void)
{
    XmmuRegs regs;
    Fixture *fx = new_guest(MODE_4L, &regs);
    gpa_t at;

    fixture_map(fx, &regs, 0x5000, MIB(4) | PTE_PWU, 1);
    fixture_load(fx, 0, regs);
    at = fixture_entry(fx, &regs, 0x5000, 1);
    fixture_expect_ok(fx, 0x5008, XMMU_PROT_READ, MIB(4) + 8);
    g_assert_cmphex(fixture_read(fx, at, 8), ==, MIB(4) | PTE_PWU | PTE_A);
    g_assert_cmphex(fx->last.prot, ==, XMMU_PROT_READ | XMMU_PROT_EXEC);
    fixture_expect_ok(fx, 0x5008, XMMU_PROT_WRITE, MIB(4) + 8);
    g_assert_cmphex(fixture_read(fx, at, 8), ==, MIB(4) | PTE_PWU | PTE_A | PTE_D);
    g_assert_cmphex(fx->last.prot, ==, XMMU_PROT_RWX);
    g_assert_cmpuint(fx->last.page_shift, ==, 12);
    /* Four A bits and a D bit: each was told. */
    g_assert_cmpint(fx->written, ==, 5);
    for (int level = 2; level <= 4; level++) {
        g_assert_true(fixture_read(fx, fixture_entry(fx, &regs, 0x5000, level), 8) & PTE_A);
    }
    fixture_free(fx);
}

/* A fault leaves D alone. */
static void test_fault_sets_no_dirty(void)
{
    XmmuRegs regs;
    Fixture *fx = new_guest(MODE_4L, &regs);
    gpa_t at;

    fixture_map(fx, &regs, 0x5000, MIB(4) | PTE_P | PTE_U, 1);
    fixture_load(fx, 0, regs);
    at = fixture_entry(fx, &regs, 0x5000, 1);
    fixture_expect_fault(fx, 0x5008, XMMU_PROT_WRITE | ACC_USER, 7);
    g_assert_false(fixture_read(fx, at, 8) & PTE_D);
    fixture_expect_fault(fx, 0x6000, XMMU_PROT_READ, 0);
    fixture_expect_fault(fx, 0x6000, XMMU_PROT_EXEC | ACC_USER, 0x14);
    fixture_free(fx);
}

static void test_root_nowhere(void)
{
    static const unsigned modes[] = { MODE_32, MODE_4L, MODE_5L };

    for (int tdp = 0; tdp < 2; tdp++) {
        for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
            XmmuConfig config = fixture_config();
            Fixture *fx;
            XmmuRegs regs = fixture_regs(modes[i], 0xf0000000);

            config.tdp = tdp;
            fx = fixture_new(&config, MIB(2));
            fixture_load(fx, 0, regs);
            /* All ones: present, and reserved bits are set (32-bit: a 4K table at
             * 0xfffff000, whose entries are all ones too). */
            if (modes[i] == MODE_32) {
                XmmuHwResult r;

                regs.cr4 &= ~(uint64_t)XMMU_CR4_PSE;
                fixture_load(fx, 0, regs);
                r = fixture_access(fx, 0, 0x1234, XMMU_PROT_READ | ACC_USER);
                g_assert_cmpint(r.outcome, ==, XMMU_HW_DIRECT);
                g_assert_true(r.mmio);
                g_assert_cmphex(r.gpa, ==, 0xfffff234);
            } else {
                fixture_expect_fault(fx, 0x1234, XMMU_PROT_READ | ACC_USER, 0xd);
            }
            fx->bus_value = 0;
            fixture_expect_fault(fx, 0x1234, XMMU_PROT_WRITE, 2);
            g_assert_cmpint(fx->bus_reads, >, 0);
            fixture_free(fx);
        }
    }
}

static void test_non_canonical(void)
{
    XmmuRegs regs;
    Fixture *fx = new_guest(MODE_4L, &regs);
    XmmuHwResult r;

    fixture_load(fx, 0, regs);
    r = fixture_access(fx, 0, 0x0000800000000000, XMMU_PROT_READ);
    g_assert_cmpint(r.outcome, ==, XMMU_HW_EXCEPTION);
    g_assert_cmpint(r.exception.vector, ==, XMMU_EXC_GP);
    fixture_free(fx);
}

static void test_debug(void)
{
    static const unsigned modes[] = { MODE_NONE, MODE_32, MODE_PAE, MODE_4L, MODE_5L };

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        XmmuRegs regs;
        Fixture *fx = new_guest(modes[i], &regs);
        gpa_t gpa = 0, at = 0;

        if (modes[i]) {
            fixture_map(fx, &regs, 0x5000, MIB(4) | PTE_P, 1);
            at = fixture_entry(fx, &regs, 0x5000, 1);
        }
        fixture_load(fx, 0, regs);
        g_assert_true(xmmu_hw_translate_debug(fx->vcpu, 0x5123, &gpa));
        g_assert_cmphex(gpa, ==, modes[i] ? MIB(4) + 0x123 : 0x5123);
        if (modes[i]) {
            g_assert_cmphex(fixture_read(fx, at, fixture_entry_size(&regs)), ==,
                            MIB(4) | PTE_P);
            g_assert_false(xmmu_hw_translate_debug(fx->vcpu, 0x6123, &gpa));
        }
        fixture_free(fx);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guest-walk/flags", test_flags);
    g_test_add_func("/guest-walk/no dirty on fault", test_fault_sets_no_dirty);
    g_test_add_func("/guest-walk/root nowhere", test_root_nowhere);
    g_test_add_func("/guest-walk/non-canonical", test_non_canonical);
    g_test_add_func("/guest-walk/debug", test_debug);
    add_settings(true, XMMU_TDP_NPT, "npt");
    add_settings(true, XMMU_TDP_EPT, "ept");
    add_settings(false, XMMU_TDP_NPT, "shadow");
    return g_test_run();
}
