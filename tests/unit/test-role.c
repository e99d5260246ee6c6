/*
 * xmmu: unit test of accel/xmmu/mmu/role.c
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Two properties carry the roles.  The vCPU role is a complete key: whatever
 * input is flipped, either the masks computed from the registers are the same or
 * the role differs.  And it is not too fine: flipping an input that has no effect
 * in a paging mode leaves it alone.  Both are checked over all combinations; a
 * table of examples says what the bits mean.
 */
#include <string.h>

#include "accel/xmmu/mmu/role.h"
#include "accel/xmmu/mmu/vm.h"
#include "fixture.h"

/* One input bit of the role computation. */
typedef enum Input {
    IN_PE, IN_WP, IN_CD, IN_PG, IN_PSE, IN_PAE, IN_PGE, IN_LA57, IN_PCIDE, IN_SMEP,
    IN_SMAP, IN_PKE, IN_PKS, IN_LME_LMA, IN_NXE, IN_SMM, IN_A20, IN_CR3, IN_PKRU,
    IN_PKRS, IN_PAGE1G, IN_PSE36, IN_AMD, IN_PHYS, IN_COUNT,
} Input;

typedef struct State {
    XmmuRegs regs;
    XmmuCpuCaps caps;
} State;

static void flip(State *s, Input input)
{
    switch (input) {
    case IN_PE: s->regs.cr0 ^= XMMU_CR0_PE; break;
    case IN_WP: s->regs.cr0 ^= XMMU_CR0_WP; break;
    case IN_CD: s->regs.cr0 ^= XMMU_CR0_CD; break;
    case IN_PG: s->regs.cr0 ^= XMMU_CR0_PG; break;
    case IN_PSE: s->regs.cr4 ^= XMMU_CR4_PSE; break;
    case IN_PAE: s->regs.cr4 ^= XMMU_CR4_PAE; break;
    case IN_PGE: s->regs.cr4 ^= XMMU_CR4_PGE; break;
    case IN_LA57: s->regs.cr4 ^= XMMU_CR4_LA57; break;
    case IN_PCIDE: s->regs.cr4 ^= XMMU_CR4_PCIDE; break;
    case IN_SMEP: s->regs.cr4 ^= XMMU_CR4_SMEP; break;
    case IN_SMAP: s->regs.cr4 ^= XMMU_CR4_SMAP; break;
    case IN_PKE: s->regs.cr4 ^= XMMU_CR4_PKE; break;
    case IN_PKS: s->regs.cr4 ^= XMMU_CR4_PKS; break;
    case IN_LME_LMA: s->regs.efer ^= XMMU_EFER_LME | XMMU_EFER_LMA; break;
    case IN_NXE: s->regs.efer ^= XMMU_EFER_NXE; break;
    case IN_SMM: s->regs.smm ^= 1; break;
    case IN_A20: s->regs.a20_masked ^= 1; break;
    case IN_CR3: s->regs.cr3 ^= 0x5000; break;
    case IN_PKRU: s->regs.pkru ^= 0xc; break;
    case IN_PKRS: s->regs.pkrs ^= 0x30; break;
    case IN_PAGE1G: s->caps.page1g ^= 1; break;
    case IN_PSE36: s->caps.pse36 ^= 1; break;
    case IN_AMD: s->caps.amd_pml4e_bit8 ^= 1; break;
    case IN_PHYS: s->caps.maxphyaddr ^= 36 ^ 46; break;
    case IN_COUNT: g_assert_not_reached();
    }
}

static State state_of(uint32_t set)
{
    State s = { .caps.maxphyaddr = 36 };

    for (Input i = 0; i < IN_COUNT; i++) {
        if (set >> i & 1) {
            flip(&s, i);
        }
    }
    return s;
}

/* Combinations that no processor can be in. */
static bool possible(const State *s)
{
    bool pg = s->regs.cr0 & XMMU_CR0_PG, lma = s->regs.efer & XMMU_EFER_LMA;

    if (!(s->regs.cr0 & XMMU_CR0_PE) && pg) {
        return false;
    }
    return !lma || (pg && (s->regs.cr4 & XMMU_CR4_PAE));
}

static void derive(const State *s, XmmuVcpuRole *role, XmmuMasks *masks)
{
    *role = xmmu_vcpu_role(&s->caps, &s->regs);
    memset(masks, 0, sizeof(*masks));
    xmmu_masks_compute(*role, masks);
}

static bool same_masks(const XmmuMasks *a, const XmmuMasks *b)
{
    return a->guest == b->guest && a->addr_mask == b->addr_mask &&
           a->gpa_mask == b->gpa_mask && a->large_levels == b->large_levels &&
           a->fetch_in_pfec == b->fetch_in_pfec &&
           !memcmp(a->guest_perm, b->guest_perm, sizeof(a->guest_perm)) &&
           !memcmp(a->shadow_perm, b->shadow_perm, sizeof(a->shadow_perm)) &&
           !memcmp(a->rsvd, b->rsvd, sizeof(a->rsvd));
}

/* Inputs that may legitimately be in the key without changing a mask: they decide
 * what is compared with what, not how.  The CPU model never changes. */
static bool selects_only(Input i)
{
    return i == IN_SMM || i == IN_PKE || i == IN_PKS || i >= IN_PAGE1G;
}

/* Registers that are looked at per access, not through masks. */
static bool never_in_key(Input i)
{
    return i == IN_CR3 || i == IN_PKRU || i == IN_PKRS || i == IN_PE || i == IN_CD ||
           i == IN_PGE || i == IN_PCIDE;
}

static void test_key_complete(void)
{
    unsigned checked = 0;

    for (uint32_t set = 0; set < 1u << IN_COUNT; set += fixture_stride()) {
        State s = state_of(set);
        XmmuVcpuRole role;
        XmmuMasks masks;

        /* All of the interesting bits, every seventh of the rest. */
        if (!possible(&s) || set % 7) {
            continue;
        }
        derive(&s, &role, &masks);
        for (Input i = 0; i < IN_COUNT; i++) {
            State t = s;
            XmmuVcpuRole role2;
            XmmuMasks masks2;

            flip(&t, i);
            if (!possible(&t)) {
                continue;
            }
            derive(&t, &role2, &masks2);
            checked++;
            if (role.word == role2.word) {
                g_assert_true(same_masks(&masks, &masks2));
            } else if (!selects_only(i)) {
                g_assert_false(same_masks(&masks, &masks2));
            }
            if (never_in_key(i)) {
                g_assert_cmphex(role.word, ==, role2.word);
            }
        }
    }
    g_assert_cmpuint(checked, >, 1000000 / fixture_stride());
}

static void test_page_role_follows(void)
{
    XmmuConfig tdp = fixture_config(), shadow = fixture_shadow_config();

    for (uint32_t set = 0; set < 1u << IN_COUNT; set += 3 * fixture_stride()) {
        State s = state_of(set);
        XmmuVcpuRole role;
        XmmuPageRole root;

        if (!possible(&s)) {
            continue;
        }
        role = xmmu_vcpu_role(&s.caps, &s.regs);

        /* TDP: no control register matters, only the address space. */
        root = xmmu_root_role(&tdp, role);
        g_assert_true(root.direct);
        g_assert_cmpuint(root.level, ==, 4);
        g_assert_cmpuint(root.smm, ==, s.regs.smm);
        root.smm = 0;
        g_assert_cmphex(root.word, ==,
                        xmmu_root_role(&tdp, (XmmuVcpuRole) { .word = 1 }).word);

        /* Shadow: the same registers give the same word, always. */
        root = xmmu_root_role(&shadow, role);
        g_assert_cmphex(root.word, ==, xmmu_root_role(&shadow, role).word);
        g_assert_cmpuint(root.direct, ==, !role.pg);
        g_assert_cmpuint(root.pae_root, ==, !role.lma);
        g_assert_cmpuint(root.gpte4, ==, role.pg && !role.pae);
        g_assert_cmpuint(root.level, ==, role.la57 ? 5 : role.lma ? 4 : 3);
        g_assert_cmpuint(root.smep_andnot_wp, ==, role.smep && !role.wp);
        g_assert_cmpuint(root.smap_andnot_wp, ==, role.smap && !role.wp);
        g_assert_cmpuint(xmmu_root_role(&shadow, role).access, ==, XMMU_ACC_ALL);
    }
}

typedef struct RoleCase {
    const char *name;
    uint64_t cr0, cr4, efer;
    const char *text;           /* xmmu_vcpu_role_text() */
    const char *shadow, *tdp;   /* xmmu_page_role_text() of the roots */
} RoleCase;

#define PG (XMMU_CR0_PE | XMMU_CR0_PG)

static const RoleCase role_cases[] = {
    { "real mode", 0, 0, 0, "no paging",
      "level 3 uwx direct pae-root", "level 4 uwx direct tdp" },
    { "protected mode", XMMU_CR0_PE | XMMU_CR0_WP, XMMU_CR4_PAE | XMMU_CR4_SMEP, 0,
      "no paging", "level 3 uwx direct pae-root", "level 4 uwx direct tdp" },
    { "32-bit", PG, 0, 0, "32-bit",
      "level 3 uwx quadrant 0 pae-root gpte4", "level 4 uwx direct tdp" },
    { "32-bit PSE WP", PG | XMMU_CR0_WP, XMMU_CR4_PSE, 0, "32-bit pse wp",
      "level 3 uwx quadrant 0 pae-root gpte4 pse wp", "level 4 uwx direct tdp" },
    { "32-bit does not know NXE, PKE, LA57", PG, XMMU_CR4_PKE | XMMU_CR4_LA57,
      XMMU_EFER_NXE, "32-bit", "level 3 uwx quadrant 0 pae-root gpte4",
      "level 4 uwx direct tdp" },
    { "PAE", PG | XMMU_CR0_WP, XMMU_CR4_PAE, 0, "PAE wp",
      "level 3 uwx pae-root wp", "level 4 uwx direct tdp" },
    { "PAE NX, PSE has no effect", PG, XMMU_CR4_PAE | XMMU_CR4_PSE, XMMU_EFER_NXE,
      "PAE nxe", "level 3 uwx pae-root nxe", "level 4 uwx direct tdp" },
    { "4-level", PG | XMMU_CR0_WP, XMMU_CR4_PAE | XMMU_CR4_SMEP | XMMU_CR4_SMAP,
      XMMU_EFER_LME | XMMU_EFER_LMA | XMMU_EFER_NXE, "4-level nxe wp smep smap",
      "level 4 uwx lma nxe wp", "level 4 uwx direct tdp" },
    { "4-level without WP", PG, XMMU_CR4_PAE | XMMU_CR4_SMEP | XMMU_CR4_SMAP |
      XMMU_CR4_PKE, XMMU_EFER_LME | XMMU_EFER_LMA, "4-level smep smap pke",
      "level 4 uwx lma smep-andnot-wp smap-andnot-wp pk-andnot-wp",
      "level 4 uwx direct tdp" },
    { "5-level", PG | XMMU_CR0_WP, XMMU_CR4_PAE | XMMU_CR4_LA57 | XMMU_CR4_PKS,
      XMMU_EFER_LME | XMMU_EFER_LMA, "5-level wp pks", "level 5 uwx lma wp",
      "level 4 uwx direct tdp" },
    { "LME without PG", XMMU_CR0_PE, XMMU_CR4_PAE, XMMU_EFER_LME, "no paging",
      "level 3 uwx direct pae-root", "level 4 uwx direct tdp" },
};

static void check_role(gconstpointer data)
{
    const RoleCase *c = data;
    XmmuConfig configs[2] = { fixture_shadow_config(), fixture_config() };

    for (int i = 0; i < 2; i++) {
        Fixture *fx = fixture_new(&configs[i], MIB(2));
        XmmuRegs regs = { .cr0 = c->cr0, .cr4 = c->cr4, .efer = c->efer };
        char *text, *page;

        fixture_set(fx, 0, &regs);
        text = xmmu_vcpu_role_text(fx->vcpu);
        page = xmmu_page_role_text(xmmu_root_role(&configs[i], fx->vcpu->mmu->role).word);
        g_assert_cmpstr(text, ==, c->text);
        g_assert_cmpstr(page, ==, i ? c->tdp : c->shadow);
        g_assert_cmphex(xmmu_vcpu_role_word(fx->vcpu), ==, fx->vcpu->mmu->role.word);
        g_free(text);
        g_free(page);
        fixture_free(fx);
    }
}

static void test_role_text_flags(void)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, MIB(2));
    XmmuRegs regs = fixture_regs(MODE_4L, 0);
    char *text;

    regs.smm = true;
    regs.a20_masked = true;
    fixture_set(fx, 0, &regs);
    text = xmmu_vcpu_role_text(fx->vcpu);
    g_assert_cmpstr(text, ==, "4-level nxe wp smm a20-masked");
    g_free(text);
    text = xmmu_page_role_text(((XmmuPageRole) {
        .level = 1, .gpte4 = 1, .quadrant = 3, .access = XMMU_ACC_USER,
        .guest_mode = 1, .smm = 1, .a20_masked = 1 }).word);
    g_assert_cmpstr(text, ==, "level 1 u-- quadrant 3 gpte4 smm guest-mode a20-masked");
    g_free(text);
    fixture_free(fx);
}

/* Registers that do not matter cost nothing. */
static void test_skip(void)
{
    XmmuConfig config = fixture_shadow_config();
    Fixture *fx = fixture_new(&config, MIB(2));
    XmmuRegs regs = fixture_regs(MODE_4L, fixture_page(fx));
    XmmuStats before, after;

    fixture_set(fx, 0, &regs);
    before = fixture_stats(fx);
    for (int i = 0; i < 10; i++) {
        regs.pkru ^= 3;
        regs.cr4 ^= XMMU_CR4_PGE;
        regs.cr3 ^= 0x10000;
        xmmu_vcpu_set_regs(fx->vcpu, &regs);
    }
    after = fixture_stats(fx);
    g_assert_cmpuint(after.role_changes, ==, before.role_changes);
    g_assert_cmpuint(after.role_skips, ==, before.role_skips + 10);
    regs.cr4 ^= XMMU_CR4_SMEP;
    xmmu_vcpu_set_regs(fx->vcpu, &regs);
    after = fixture_stats(fx);
    g_assert_cmpuint(after.role_changes, ==, before.role_changes + 1);
    fixture_free(fx);
}

/* Children: a bit of the parent's role is inherited or belongs to the child. */
static void test_child_roles(void)
{
    XmmuPageRole parent = {
        .level = 3, .pae_root = 1, .gpte4 = 1, .access = XMMU_ACC_ALL, .pse = 1, .wp = 1,
        .smm = 1, .a20_masked = 1,
    };
    XmmuPageRole child = xmmu_child_role_indirect(parent, 2, XMMU_ACC_USER);
    XmmuPageRole leaf = xmmu_child_role_indirect(child, 7, XMMU_ACC_EXEC);
    XmmuPageRole direct = xmmu_child_role_direct(child, XMMU_ACC_WRITE, 5);

    g_assert_cmpuint(child.level, ==, 2);
    g_assert_cmpuint(child.quadrant, ==, 2);
    g_assert_cmpuint(child.access, ==, XMMU_ACC_USER);
    g_assert_false(child.pae_root);
    g_assert_true(child.gpte4 && child.pse && child.wp && child.smm && child.a20_masked);
    g_assert_cmpuint(leaf.level, ==, 1);
    g_assert_cmpuint(leaf.quadrant, ==, 1);
    g_assert_cmpuint(leaf.access, ==, XMMU_ACC_EXEC);
    g_assert_true(direct.direct && direct.wp && direct.smm && direct.a20_masked);
    g_assert_false(direct.gpte4 || direct.pse || direct.lma || direct.quadrant);
    g_assert_cmpuint(direct.level, ==, 1);
    g_assert_cmpuint(direct.pkey, ==, 5);
}

/* ---- All four kinds of MMU, every bit ------------------------------------------- */

/* Whose tables are walked, and by what. */
typedef enum Kind { KIND_SHADOW, KIND_TDP, KIND_NPT, KIND_EPT, KIND_COUNT } Kind;

static XmmuVcpuRole role_of_kind(Kind kind, const State *s)
{
    switch (kind) {
    case KIND_NPT: return xmmu_vcpu_role_npt(&s->caps, &s->regs);
    case KIND_EPT: return xmmu_vcpu_role_ept(&s->caps, &s->regs);
    default: return xmmu_vcpu_role(&s->caps, &s->regs);
    }
}

static XmmuPageRole root_of_kind(Kind kind, XmmuVcpuRole role)
{
    XmmuConfig tdp = fixture_config(), shadow = fixture_shadow_config();

    return xmmu_root_role(kind == KIND_SHADOW ? &shadow : &tdp, role);
}

/*
 * Every bit of CR0, CR4 and EFER, the bits of the EPTP that are not the address, and
 * every bit of every input that the CPU model and the machine have.
 */
enum {
    BIT_CR0 = 0, BIT_CR4 = 32, BIT_EFER = 64, BIT_CR3 = 96, BIT_CAPS = 108,
    BIT_PHYS = BIT_CAPS + 5, BIT_MACHINE = BIT_PHYS + 6, BIT_COUNT = BIT_MACHINE + 2,
};

static void flip_bit(State *s, unsigned bit)
{
    bool *const flags[] = {
        &s->caps.page1g, &s->caps.pse36, &s->caps.amd_pml4e_bit8,
        &s->caps.ept_execonly, &s->caps.ept_1g,
    };

    if (bit < BIT_CR4) {
        s->regs.cr0 ^= (uint64_t)1 << (bit - BIT_CR0);
    } else if (bit < BIT_EFER) {
        s->regs.cr4 ^= (uint64_t)1 << (bit - BIT_CR4);
    } else if (bit < BIT_CR3) {
        s->regs.efer ^= (uint64_t)1 << (bit - BIT_EFER);
    } else if (bit < BIT_CAPS) {
        s->regs.cr3 ^= (uint64_t)1 << (bit - BIT_CR3);
    } else if (bit < BIT_PHYS) {
        *flags[bit - BIT_CAPS] ^= 1;
    } else if (bit < BIT_MACHINE) {
        s->caps.maxphyaddr ^= 1 << (bit - BIT_PHYS);
    } else if (bit == BIT_MACHINE) {
        s->regs.smm ^= 1;
    } else {
        s->regs.a20_masked ^= 1;
    }
}

/* The masks are compared byte by byte, whatever is added to them. */
static void masks_of(XmmuVcpuRole role, XmmuMasks *masks)
{
    memset(masks, 0, sizeof(*masks));
    xmmu_masks_compute(role, masks);
}

static bool possible_caps(const State *s)
{
    return s->caps.maxphyaddr >= 32 && s->caps.maxphyaddr <= 52 && possible(s);
}

/*
 * Flip one bit alone: either the key differs, or nothing that is derived does.  What a
 * walk decides, it decides by the masks (and the PDPTEs, the keys and CR3's address,
 * which are no part of any mask).
 */
static unsigned check_flips(Kind kind, const State *s)
{
    XmmuVcpuRole role = role_of_kind(kind, s);
    XmmuPageRole root = root_of_kind(kind, role);
    XmmuMasks masks, other_masks;
    unsigned checked = 0;

    masks_of(role, &masks);
    for (unsigned bit = 0; bit < BIT_COUNT; bit++) {
        State t = *s;
        XmmuVcpuRole other;

        flip_bit(&t, bit);
        if (!possible_caps(&t)) {
            continue;
        }
        other = role_of_kind(kind, &t);
        checked++;
        if (other.word != role.word) {
            continue;
        }
        masks_of(other, &other_masks);
        g_assert_cmpint(memcmp(&masks, &other_masks, sizeof(masks)), ==, 0);
        g_assert_cmphex(root.word, ==, root_of_kind(kind, other).word);
    }
    return checked;
}

static void test_every_bit(gconstpointer data)
{
    Kind kind = GPOINTER_TO_UINT(data);
    static const Input varied[] = {
        IN_PE, IN_WP, IN_PG, IN_PSE, IN_PAE, IN_LA57, IN_SMEP, IN_SMAP, IN_PKE, IN_PKS,
        IN_LME_LMA, IN_NXE, IN_PAGE1G, IN_PSE36, IN_AMD, IN_PHYS,
    };
    unsigned checked = 0;

    for (uint32_t set = 0; set < 1u << G_N_ELEMENTS(varied); set += 5 * fixture_stride()) {
        State s = { .caps.maxphyaddr = 36, .regs.cr3 = 0x1e };

        for (size_t i = 0; i < G_N_ELEMENTS(varied); i++) {
            if (set >> i & 1) {
                flip(&s, varied[i]);
            }
        }
        if (possible_caps(&s)) {
            checked += check_flips(kind, &s);
        }
    }
    g_assert_cmpuint(checked, >, 100000 / fixture_stride());
}

/* The bits that a kind consumes: flipping any other changes no key. */
static void test_consumed(void)
{
    State s = {
        .caps = { .maxphyaddr = 40, .page1g = true, .pse36 = true, .ept_1g = true },
        .regs = fixture_regs(MODE_4L, 0x1e),
    };
    const uint64_t npt_cr4 = XMMU_CR4_PAE | XMMU_CR4_LA57, eptp = 0x78;

    s.regs.cr4 |= XMMU_CR4_PKE | XMMU_CR4_SMEP | XMMU_CR4_SMAP | XMMU_CR4_PKS;
    for (unsigned bit = 0; bit < BIT_COUNT; bit++) {
        State t = s;
        bool npt, ept;

        flip_bit(&t, bit);
        if (!possible_caps(&t)) {
            continue;
        }
        npt = role_of_kind(KIND_NPT, &s).word != role_of_kind(KIND_NPT, &t).word;
        ept = role_of_kind(KIND_EPT, &s).word != role_of_kind(KIND_EPT, &t).word;
        if (bit < BIT_CR4) {
            g_assert_cmpint(npt, ==, (s.regs.cr0 ^ t.regs.cr0) == XMMU_CR0_PG);
        } else if (bit < BIT_EFER) {
            g_assert_cmpint(npt, ==, !!((s.regs.cr4 ^ t.regs.cr4) & npt_cr4));
        } else if (bit < BIT_CR3) {
            g_assert_cmpint(npt, ==, (s.regs.efer ^ t.regs.efer) == XMMU_EFER_NXE ||
                            (s.regs.efer ^ t.regs.efer) == XMMU_EFER_LMA);
        }
        if (bit < BIT_CR3) {
            g_assert_false(ept);
        } else if (bit < BIT_CAPS) {
            g_assert_false(npt);
            g_assert_true(!ept || ((s.regs.cr3 ^ t.regs.cr3) & eptp));
        }
    }
}

/* (CR0, CR4, EFER) by the four kinds. */
static void test_four_kinds(void)
{
    enum { W = XMMU_CR0_WP, K = XMMU_CR4_PKE, E = XMMU_CR4_SMEP, A = XMMU_CR4_SMAP };
    static const struct {
        unsigned mode;
        uint64_t cr4;
        bool wp, nxe;
        const char *shadow, *npt;
    } cases[] = {
        { MODE_4L, 0, true, true, "level 4 uwx lma nxe wp",
          "level 4 uwx lma nxe wp guest-mode" },
        { MODE_4L, 0, false, true, "level 4 uwx lma nxe",
          "level 4 uwx lma nxe wp guest-mode" },
        { MODE_4L, K | E | A, false, false,
          "level 4 uwx lma smep-andnot-wp smap-andnot-wp pk-andnot-wp",
          "level 4 uwx lma wp guest-mode" },
        { MODE_5L, K | E | A, true, true, "level 5 uwx lma nxe wp",
          "level 5 uwx lma nxe wp guest-mode" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        State s = {
            .caps.maxphyaddr = 40,
            .regs = fixture_regs(cases[i].mode, 0x5e),      /* EPTP: 4 levels, A/D */
        };
        const char *expected[KIND_COUNT] = {
            cases[i].shadow, "level 4 uwx direct tdp", cases[i].npt,
            "level 4 uwx ept ept-ad wp guest-mode",
        };

        s.regs.cr4 |= cases[i].cr4;
        s.regs.cr0 &= cases[i].wp ? ~(uint64_t)0 : ~(uint64_t)W;
        s.regs.efer &= cases[i].nxe ? ~(uint64_t)0 : ~(uint64_t)XMMU_EFER_NXE;
        for (Kind kind = 0; kind < KIND_COUNT; kind++) {
            XmmuPageRole root = root_of_kind(kind, role_of_kind(kind, &s));
            char *text = xmmu_page_role_text(root.word);

            g_assert_cmpstr(text, ==, expected[kind]);
            g_free(text);
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(role_cases); i++) {
        char *path = g_strdup_printf("/role/table/%s", role_cases[i].name);

        g_test_add_data_func(path, &role_cases[i], check_role);
        g_free(path);
    }
    g_test_add_func("/role/text", test_role_text_flags);
    g_test_add_func("/role/key-complete", test_key_complete);
    g_test_add_func("/role/page-role", test_page_role_follows);
    g_test_add_func("/role/skip", test_skip);
    g_test_add_func("/role/children", test_child_roles);
    g_test_add_func("/role/consumed bits", test_consumed);
    g_test_add_func("/role/four kinds", test_four_kinds);
    g_test_add_data_func("/role/every bit/shadow", GUINT_TO_POINTER(KIND_SHADOW),
                         test_every_bit);
    g_test_add_data_func("/role/every bit/tdp", GUINT_TO_POINTER(KIND_TDP), test_every_bit);
    g_test_add_data_func("/role/every bit/npt", GUINT_TO_POINTER(KIND_NPT), test_every_bit);
    g_test_add_data_func("/role/every bit/ept", GUINT_TO_POINTER(KIND_EPT), test_every_bit);
    return g_test_run();
}
