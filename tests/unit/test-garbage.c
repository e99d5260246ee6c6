/*
 * xmmu: unit test with guests that make no sense
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Guest memory full of random bits, used as page tables in every mode; CR3 at MMIO,
 * at ROM, at nowhere; tables that contain themselves; and a guest that overwrites its
 * tables while they are used.  Nothing is expected but that each access ends in a
 * translation, an access by hand or #PF, and that no table is left afterwards.
 */
#include <string.h>

#include "fixture.h"

#define RAM MIB(4)

typedef struct GarbageCase {
    const char *name;
    bool tdp;
    XmmuTdpFormat format;
    unsigned mode;
} GarbageCase;

/* @sense: how many bits of an entry point into RAM. */
static void fill(Fixture *fx, uint64_t *random, unsigned sense)
{
    uint64_t *words = (uint64_t *)fx->ram;

    for (size_t i = 0; i < RAM / 8; i++) {
        uint64_t e = fixture_random(random);

        if (sense) {
            e &= (RAM - 1) | (sense > 1 ? 0xfff : 0xfff0000000000fff);
            e |= fixture_random(random) & 7 ? 7 : 0;
            e &= ~(fixture_random(random) & 7 ? PTE_PS : 0);
        }
        words[i] = e;
    }
}

static gva_t random_gva(uint64_t *random, unsigned mode)
{
    uint64_t gva = fixture_random(random);

    if (mode < MODE_4L) {
        return gva & 0xffffffff;
    }
    return (gva_t)((int64_t)(gva << (mode == MODE_5L ? 7 : 16)) >>
                   (mode == MODE_5L ? 7 : 16));
}

static void check_result(const Fixture *fx, const XmmuHwResult *r)
{
    switch (r->outcome) {
    case XMMU_HW_OK:
        g_assert_cmphex(r->gpa, <, RAM);
        g_assert_cmphex(r->hpa, ==, (uintptr_t)fx->ram + r->gpa);
        break;
    case XMMU_HW_DIRECT:
        g_assert_true(r->mmio || r->gpa < RAM);
        break;
    case XMMU_HW_EXCEPTION:
        g_assert_cmpint(r->exception.vector, ==, XMMU_EXC_PF);
        break;
    default:
        g_assert_not_reached();
    }
}

static void access_at_random(Fixture *fx, uint64_t *random, unsigned mode)
{
    unsigned how = 1 << fixture_random(random) % 3;
    gva_t gva = random_gva(random, mode) & ~(gva_t)7;
    XmmuHwResult r;

    how |= fixture_random(random) & 1 ? ACC_USER : 0;
    r = fixture_access(fx, 0, gva, how);
    check_result(fx, &r);
    if (how & XMMU_PROT_WRITE && r.outcome <= XMMU_HW_DIRECT && r.gpa < RAM) {
        fixture_write(fx, r.gpa, fixture_random(random), 8);
    }
    if (fixture_random(random) % 8 == 0) {
        xmmu_vcpu_invlpg(fx->vcpu, gva);
    }
}

static void check(gconstpointer data)
{
    const GarbageCase *c = data;
    XmmuConfig config = fixture_config();
    uint64_t random = 0x1234567 + c->mode;
    Fixture *fx;

    config.tdp = c->tdp;
    config.tdp_format = c->format;
    config.table_memory = KIB(512);
    fx = fixture_new(&config, RAM);
    for (unsigned round = 0; round < 60; round++) {
        XmmuRegs regs = fixture_regs(c->mode, fixture_random(&random) & (RAM - 1) & XMMU_PAGE_MASK);

        fill(fx, &random, round % 3);
        xmmu_vm_zap_all(fx->vm);
        rcu_service_drain();
        regs.cr0 ^= fixture_random(&random) & 1 ? XMMU_CR0_WP : 0;
        regs.cr4 |= fixture_random(&random) & (XMMU_CR4_SMEP | XMMU_CR4_PKE | XMMU_CR4_PKS);
        regs.pkru = fixture_random(&random);
        if (round % 10 == 9) {
            regs.cr3 = 0xf0000000;          /* MMIO */
            fx->bus_value = fixture_random(&random);
        }
        for (int i = 0; i < 4; i++) {
            regs.pdpte[i] = (fixture_random(&random) & (RAM - 1) & XMMU_PAGE_MASK) | PTE_P;
        }
        fixture_set(fx, 0, &regs);
        for (unsigned i = 0; i < 400; i++) {
            access_at_random(fx, &random, c->mode);
        }
    }
    fixture_free(fx);
}

/* A table full of entries that point back to it. */
static void test_all_recursive(void)
{
    for (int tdp = 0; tdp < 2; tdp++) {
        for (unsigned mode = MODE_32; mode <= MODE_5L; mode++) {
            XmmuConfig config = fixture_config();
            Fixture *fx;
            XmmuRegs regs;
            uint64_t random = mode;

            config.tdp = tdp;
            fx = fixture_new(&config, RAM);
            regs = fixture_regs(mode, fixture_page(fx));
            for (unsigned i = 0; i < XMMU_PAGE_SIZE; i += fixture_entry_size(&regs)) {
                fixture_write(fx, regs.cr3 + i, regs.cr3 | PTE_PWU,
                              fixture_entry_size(&regs));
            }
            for (int i = 0; i < 4; i++) {
                regs.pdpte[i] = regs.cr3 | PTE_P;
            }
            fixture_set(fx, 0, &regs);
            for (unsigned i = 0; i < 2000; i++) {
                gva_t gva = random_gva(&random, mode) & ~(gva_t)7;
                XmmuHwResult r = fixture_access(fx, 0, gva, i % 5 ? XMMU_PROT_READ
                                                                  : XMMU_PROT_WRITE);

                g_assert_cmpint(r.outcome, <=, XMMU_HW_DIRECT);
                g_assert_cmphex(r.gpa, ==, regs.cr3 | (gva & 0xfff));
            }
            fixture_free(fx);
        }
    }
}

static void test_no_memory_at_all(void)
{
    for (int tdp = 0; tdp < 2; tdp++) {
        for (unsigned mode = MODE_32; mode <= MODE_5L; mode++) {
            XmmuConfig config = fixture_config();
            Fixture *fx;
            XmmuRegs regs = fixture_regs(mode, 0x1000);

            config.tdp = tdp;
            fx = fixture_new(&config, RAM);
            fixture_set(fx, 0, &regs);
            fixture_access(fx, 0, 0x5000, XMMU_PROT_READ);
            for (unsigned as = 0; as < XMMU_AS_COUNT; as++) {
                xmmu_vm_set_memory(fx->vm, as, NULL, 0);
            }
            fx->bus_value = 0;
            fixture_expect_fault(fx, 0x5000, XMMU_PROT_READ, 0);
            fixture_free(fx);
        }
    }
}

static const GarbageCase cases[] = {
    { "npt 32-bit", true, XMMU_TDP_NPT, MODE_32 },
    { "npt PAE", true, XMMU_TDP_NPT, MODE_PAE },
    { "npt 4-level", true, XMMU_TDP_NPT, MODE_4L },
    { "ept 5-level", true, XMMU_TDP_EPT, MODE_5L },
    { "shadow 32-bit", false, XMMU_TDP_NPT, MODE_32 },
    { "shadow PAE", false, XMMU_TDP_NPT, MODE_PAE },
    { "shadow 4-level", false, XMMU_TDP_NPT, MODE_4L },
    { "shadow 5-level", false, XMMU_TDP_NPT, MODE_5L },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char *path = g_strdup_printf("/garbage/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], check);
        g_free(path);
    }
    g_test_add_func("/garbage/recursive", test_all_recursive);
    g_test_add_func("/garbage/no memory", test_no_memory_at_all);
    return g_test_run();
}
