/*
 * xmmu: unit test of accel/xmmu/engine/linear.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Linear-address masking through the model's door, in both kinds of tables: each
 * pointer is looked up in a list of rules that names, for every setting, the bits
 * that must be equal and those that are ignored (Intel SDM vol. 3, linear-address
 * masking).  And what LAM must not touch: roots, and CPUs that do not have it.
 */
#include "fixture.h"

#define U48     XMMU_CR3_LAM_U48
#define U57     XMMU_CR3_LAM_U57
#define BIT(n)  ((uint64_t)1 << (n))

/* Bits @high down to @low. */
static uint64_t bits(unsigned high, unsigned low)
{
    return (~(uint64_t)0 >> (63 - high)) & (~(uint64_t)0 << low);
}

/* A data access through a pointer is good when all bits of @equal have the value
 * of bit 63; the address is the pointer with bits @equal | @ignored like bit 63. */
typedef struct Rule {
    unsigned levels;
    bool high;                  /* bit 63 */
    uint64_t cr3;               /* settings it is for; user pointers */
    bool sup;                   /* supervisor pointers */
    uint64_t equal, ignored;
} Rule;

static Rule rule_for(unsigned levels, bool high, uint64_t cr3, bool sup)
{
    static const struct {
        unsigned levels;
        uint64_t cr3;
        unsigned equal_high, equal_low;
        bool masks;
    } user[] = {
        { 4, 0, 62, 47, false }, { 4, U48, 47, 47, true }, { 4, U57, 56, 47, true },
        { 4, U57 | U48, 56, 47, true },
        { 5, 0, 62, 56, false }, { 5, U48, 47, 47, true }, { 5, U57, 56, 56, true },
        { 5, U57 | U48, 56, 56, true },
    };
    Rule rule = { levels, high, cr3, sup, 0, 0 };

    if (high) {
        unsigned top = levels == 5 ? 56 : 47;

        rule.equal = sup ? BIT(top) : bits(62, top);
        rule.ignored = sup ? bits(62, top + 1) : 0;
        return rule;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(user); i++) {
        if (user[i].levels == levels && user[i].cr3 == cr3) {
            rule.equal = bits(user[i].equal_high, user[i].equal_low);
            rule.ignored = user[i].masks ? bits(62, user[i].equal_high + 1) : 0;
            return rule;
        }
    }
    g_assert_not_reached();
}

static bool apply(const Rule *rule, gva_t pointer, gva_t *address)
{
    uint64_t same = rule->high ? rule->equal : 0;

    if ((pointer & rule->equal) != same) {
        return false;
    }
    *address = rule->high ? pointer | rule->ignored : pointer & ~rule->ignored;
    return true;
}

/* One page in each half, and in 5-level paging two more with bits 55:48. */
static const gva_t pages[] = {
    0x00007a4240000000, 0x00a17a4240000000, 0xfffffa4240000000, 0xff217a4240000000,
};

static XmmuCpuCaps caps_with(bool lam)
{
    return (XmmuCpuCaps) {
        .maxphyaddr = 40, .page1g = true, .pse36 = true, .lam = lam,
    };
}

typedef struct Setup {
    Fixture *fx;
    XmmuRegs regs;
    gpa_t frame[G_N_ELEMENTS(pages)];
} Setup;

/* In 4-level paging every second page can be reached. */
static bool mapped(const Setup *s, unsigned page)
{
    return fixture_levels(&s->regs) == 5 || page % 2 == 0;
}

static void setup(Setup *s, bool tdp, unsigned levels, bool lam)
{
    XmmuConfig config = tdp ? fixture_config() : fixture_shadow_config();
    XmmuCpuCaps caps = caps_with(lam);

    s->fx = fixture_new_caps(&config, MIB(64), &caps);
    s->regs = fixture_regs(levels, fixture_page(s->fx));
    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        if (mapped(s, i)) {
            s->frame[i] = fixture_page(s->fx);
            fixture_map(s->fx, &s->regs, pages[i], s->frame[i] | PTE_PWU, 1);
        }
    }
    fixture_load(s->fx, 0, s->regs);
}

static void use(Setup *s, uint64_t cr3, bool sup)
{
    XmmuRegs regs = s->regs;

    regs.cr3 |= cr3;
    regs.cr4 |= sup ? XMMU_CR4_LAM_SUP : 0;
    fixture_set(s->fx, 0, &regs);
}

static void expect(Setup *s, gva_t pointer, unsigned how, bool good, gva_t address)
{
    XmmuHwResult r = fixture_access(s->fx, 0, pointer, how);

    if (!good) {
        g_assert_cmpint(r.outcome, ==, XMMU_HW_EXCEPTION);
        g_assert_cmpint(r.exception.vector, ==, XMMU_EXC_GP);
        return;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        if (mapped(s, i) && (address & XMMU_PAGE_MASK) == pages[i]) {
            g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
            g_assert_cmphex(r.gpa, ==, s->frame[i] | (address & 0xfff));
            g_assert_cmphex(r.prot & how & XMMU_PROT_RWX, ==, how & XMMU_PROT_RWX);
            return;
        }
    }
    g_assert_cmpint(r.outcome, ==, XMMU_HW_EXCEPTION);
    g_assert_cmpint(r.exception.vector, ==, XMMU_EXC_PF);
    g_assert_cmphex(r.exception.cr2, ==, address);
}

/* What may be kept for other kinds of access must be right for them too. */
static void expect_kept(Setup *s, gva_t pointer, bool data_good, gva_t data,
                        bool fetch_good)
{
    bool same = data_good == fetch_good && data == pointer;
    XmmuHwResult r;

    if (data_good) {
        r = fixture_access(s->fx, 0, pointer, XMMU_PROT_READ);
        g_assert_true(r.outcome != XMMU_HW_OK || same || !(r.prot & XMMU_PROT_EXEC));
    }
    if (fetch_good) {
        r = fixture_access(s->fx, 0, pointer, XMMU_PROT_EXEC);
        g_assert_true(r.outcome != XMMU_HW_OK || same || r.prot == XMMU_PROT_EXEC);
    }
}

static void check_pointer(Setup *s, gva_t pointer, uint64_t cr3, bool sup)
{
    unsigned levels = fixture_levels(&s->regs);
    Rule data = rule_for(levels, pointer >> 63, cr3, sup);
    Rule fetch = rule_for(levels, pointer >> 63, 0, false);
    gva_t address = pointer, target = pointer;
    bool data_good = apply(&data, pointer, &address);
    bool fetch_good = apply(&fetch, pointer, &target);

    expect(s, pointer, XMMU_PROT_READ, data_good, address);
    expect(s, pointer, XMMU_PROT_WRITE | ACC_USER, data_good, address);
    expect(s, pointer, XMMU_PROT_EXEC | ACC_USER, fetch_good, target);
    expect_kept(s, pointer, data_good, address, fetch_good);
}

static void check_setting(Setup *s, uint64_t cr3, bool sup)
{
    use(s, cr3, sup);
    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        check_pointer(s, pages[i] + 0x123, cr3, sup);
        for (unsigned high = 47; high < 64; high++) {
            for (unsigned low = 47; low <= high; low++) {
                check_pointer(s, (pages[i] + 0x123) ^ BIT(high) ^
                              (low < high ? BIT(low) : 0), cr3, sup);
            }
        }
        check_pointer(s, pages[i] ^ bits(62, 47), cr3, sup);
        check_pointer(s, pages[i] ^ bits(62, 48), cr3, sup);
        check_pointer(s, pages[i] ^ bits(62, 57), cr3, sup);
    }
}

static void test_pointers(gconstpointer data)
{
    bool tdp = GPOINTER_TO_INT(data) & 1;
    unsigned levels = GPOINTER_TO_INT(data) & 2 ? 5 : 4;
    static const uint64_t cr3[] = { 0, U48, U57, U48 | U57 };
    Setup s;

    setup(&s, tdp, levels, true);
    for (unsigned i = 0; i < 8; i++) {
        check_setting(&s, cr3[i & 3], i & 4);
    }
    fixture_free(s.fx);
}

/* A VMRUN or a loadvm may bring the bits; without the feature they mean nothing. */
static void test_no_lam(void)
{
    Setup s;

    setup(&s, true, 4, false);
    use(&s, U48 | U57, true);
    expect(&s, pages[0], XMMU_PROT_READ, true, pages[0]);
    expect(&s, pages[0] ^ BIT(60), XMMU_PROT_READ, false, 0);
    expect(&s, pages[2] ^ BIT(60), XMMU_PROT_READ, false, 0);
    fixture_free(s.fx);
}

/* Outside long mode addresses have 32 bits, and CR3 no such bits. */
static void test_legacy(void)
{
    XmmuConfig config = fixture_config();
    XmmuCpuCaps caps = caps_with(true);
    Fixture *fx = fixture_new_caps(&config, MIB(16), &caps);
    XmmuRegs regs = fixture_regs(MODE_32, fixture_page(fx));

    regs.cr4 |= XMMU_CR4_LAM_SUP;
    fixture_map(fx, &regs, 0x80000000, MIB(4) | PTE_PWU | PTE_PS, 2);
    fixture_load(fx, 0, regs);
    fixture_expect_ok(fx, 0x80000123, XMMU_PROT_READ, MIB(4) + 0x123);
    fixture_expect_ok(fx, 0xff80000080000123, XMMU_PROT_READ, MIB(4) + 0x123);
    fixture_free(fx);
}

/* LAM's bits in CR3 select no other root, and stand in no root's key. */
static void test_roots(void)
{
    XmmuStats before, after;
    XmmuRootInfo info;
    Setup s;

    setup(&s, false, 4, true);
    expect(&s, pages[0], XMMU_PROT_READ, true, pages[0]);
    before = fixture_stats(s.fx);
    for (unsigned i = 0; i < 8; i++) {
        use(&s, (i & 1 ? U48 : 0) | (i & 2 ? U57 : 0), i & 4);
        expect(&s, pages[0], XMMU_PROT_READ, true, pages[0]);
        g_assert_cmpuint(xmmu_vcpu_roots(s.fx->vcpu, &info, 1), ==, 1);
        g_assert_cmphex(info.pgd, ==, s.regs.cr3);
    }
    after = fixture_stats(s.fx);
    g_assert_cmpuint(after.roots_new, ==, before.roots_new);
    g_assert_cmpuint(after.root_misses, ==, before.root_misses);
    g_assert_cmpuint(after.tables, ==, before.tables);
    fixture_free(s.fx);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/linear/shadow/4", GINT_TO_POINTER(0), test_pointers);
    g_test_add_data_func("/linear/tdp/4", GINT_TO_POINTER(1), test_pointers);
    g_test_add_data_func("/linear/shadow/5", GINT_TO_POINTER(2), test_pointers);
    g_test_add_data_func("/linear/tdp/5", GINT_TO_POINTER(3), test_pointers);
    g_test_add_func("/linear/no-lam", test_no_lam);
    g_test_add_func("/linear/legacy", test_legacy);
    g_test_add_func("/linear/roots", test_roots);
    return g_test_run();
}
