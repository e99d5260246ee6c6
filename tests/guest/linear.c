/*
 * xmmu guest "linear": which linear addresses there are
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Canonical addresses where registers are loaded with them, and linear-address
 * masking (LAM) where memory is accessed, in 4-level and 5-level paging, against
 * a small model of its own written from Intel SDM vol. 1, 3.3.7.1, and vol. 3,
 * linear-address masking.
 */
#include "paging.h"

#define CR3_LAM_U57     BIT(61)
#define CR3_LAM_U48     BIT(62)
#define CR4_LAM_SUP     BIT(28)
#define CR4_FSGSBASE    BIT(16)

/* Descriptors of CPUs that this guest does not have. */
#define SEL_OTHER_TSS   (SEL_TSS + 16 * 2)
#define SEL_LDT         (SEL_TSS + 16 * 3)

static bool has_lam, has_fsgsbase, has_invpcid;

static void find_more_features(void)
{
    u32 r[4];

    cpuid(7, 0, r);
    has_fsgsbase = r[1] & 1;
    has_invpcid = r[1] >> 10 & 1;
    if (r[0] >= 1) {
        cpuid(7, 1, r);
        has_lam = r[0] >> 26 & 1;
    }
}

/* Bits @width - 1 .. 63 of @address are all alike. */
static bool canonical(ulong address, int width)
{
    long high = (long)address >> (width - 1);

    return high == 0 || high == -1;
}

/* ---- Registers that hold addresses ---- */

typedef struct Register {
    const char *name;
    /* Load @address and put the old value back; what came of it. */
    Exc (*load)(ulong address, u32 msr);
    u32 msr;
    u32 error;                  /* the code of #GP */
    bool not_amd;               /* AMD stores anything */
} Register;

typedef struct __attribute__((packed)) TableRegister {
    u16 limit;
    ulong base;
} TableRegister;

static Exc load_gdtr(ulong address, u32 msr)
{
    TableRegister old, new;
    Cpu *cpu = try_arm();

    (void)msr;
    asm volatile("sgdt %0" : "=m"(old));
    new = (TableRegister) { old.limit, address };
    TRY(cpu, "lgdt %[new]; lgdt %[old]", : [new] "m"(new), [old] "m"(old)
        : TRY_CLOBBER, "memory");
    return cpu->exc;
}

static Exc load_idtr(ulong address, u32 msr)
{
    TableRegister old, new;
    Cpu *cpu = try_arm();

    (void)msr;
    asm volatile("sidt %0" : "=m"(old));
    new = (TableRegister) { old.limit, address };
    TRY(cpu, "lidt %[new]; lidt %[old]", : [new] "m"(new), [old] "m"(old)
        : TRY_CLOBBER, "memory");
    return cpu->exc;
}

/* Intel SDM vol. 3, figure 8-4. */
static void put_system_descriptor(unsigned selector, int type, ulong base)
{
    volatile u64 *desc = &gdt[selector / 8];

    desc[0] = 103 | (u64)(base & 0xffffff) << 16 | (u64)(0x80 | type) << 40
              | (u64)(base >> 24 & 0xff) << 56;
    desc[1] = base >> 32;
}

/* Between both loads nothing may happen that needs the right one. */
static Exc load_tr(ulong address, u32 msr)
{
    Cpu *cpu = try_arm();

    (void)msr;
    put_system_descriptor(SEL_OTHER_TSS, 9, address);
    gdt[SEL_TSS / 8] &= ~BIT(41);               /* not busy */
    TRY(cpu, "ltr %w[new]; ltr %w[old]",
        : [new] "r"(SEL_OTHER_TSS), [old] "r"(SEL_TSS)
        : TRY_CLOBBER, "memory");
    gdt[SEL_TSS / 8] |= BIT(41);
    return cpu->exc;
}

static Exc load_ldtr(ulong address, u32 msr)
{
    Cpu *cpu = try_arm();

    (void)msr;
    put_system_descriptor(SEL_LDT, 2, address);
    TRY(cpu, "lldt %w[new]; lldt %w[old]", : [new] "r"(SEL_LDT), [old] "r"(0)
        : TRY_CLOBBER, "memory");
    return cpu->exc;
}

/* Vector -2: the value that was read back is not the one it should be. */
static Exc load_msr(ulong address, u32 msr)
{
    u64 old = rdmsr(msr);
    Exc exc = try_wrmsr(msr, address);

    if (rdmsr(msr) != (exc.vector < 0 ? address : old)) {
        exc.vector = -2;
    }
    wrmsr(msr, old);
    return exc;
}

static Exc load_fs_gs(ulong address, u32 msr)
{
    u64 old = rdmsr(msr);
    Cpu *cpu = try_arm();
    Exc exc;

    if (msr == 0xc0000100) {
        TRY(cpu, "wrfsbase %[a]", : [a] "r"(address) : TRY_CLOBBER, "memory");
    } else {
        TRY(cpu, "wrgsbase %[a]", : [a] "r"(address) : TRY_CLOBBER, "memory");
    }
    exc = cpu->exc;
    if (rdmsr(msr) != (exc.vector < 0 ? address : old)) {
        exc.vector = -2;
    }
    wrmsr(msr, old);
    return exc;
}

static const Register registers[] = {
    { "gdtr", load_gdtr, 0, 0, false },
    { "idtr", load_idtr, 0, 0, false },
    { "tr", load_tr, 0, SEL_OTHER_TSS, false },
    { "ldtr", load_ldtr, 0, SEL_LDT, false },
    { "fs-base", load_msr, 0xc0000100, 0, false },
    { "gs-base", load_msr, 0xc0000101, 0, false },
    { "kernel-gs-base", load_msr, 0xc0000102, 0, false },
    { "lstar", load_msr, 0xc0000082, 0, false },
    { "cstar", load_msr, 0xc0000083, 0, false },
    { "sysenter-esp", load_msr, 0x175, 0, true },
    { "sysenter-eip", load_msr, 0x176, 0, true },
    { "wrfsbase", load_fs_gs, 0xc0000100, 0, false },
    { "wrgsbase", load_fs_gs, 0xc0000101, 0, false },
};

static const ulong addresses[] = {
    0, 0x1234567890ul, BIT(47) - 1, BIT(47), BIT(48), BIT(55), BIT(56) - 1,
    BIT(56), BIT(57), BIT(62), BIT(63) - 1, BIT(63), -BIT(57) - 1, -BIT(57),
    -BIT(56) - 1, -BIT(56), -BIT(48) - 1, -BIT(48), -BIT(47) - 1, -BIT(47),
    -1ul, 0xaaaaaaaaaaaaaaaaul,
};

/*
 * Judged by the width that the CPU has, not by the one that is in use: the
 * results are the same in every paging mode, and with LAM on.
 */
static void test_registers(const char *mode)
{
    print("# registers, %s\n", mode);
    for (unsigned i = 0; i < ARRAY_SIZE(registers); i++) {
        const Register *r = &registers[i];
        unsigned wrong = 0;
        ulong at = 0;
        Exc seen = { .vector = 0 };

        if (r->load == load_fs_gs && !has_fsgsbase) {
            skip(r->name, "no FSGSBASE");
            continue;
        }
        for (unsigned j = 0; j < ARRAY_SIZE(addresses); j++) {
            bool good = canonical(addresses[j], cpu_has.la57 ? 57 : 48) ||
                        (r->not_amd && cpu_has.amd);
            Exc exc = r->load(addresses[j], r->msr);

            if (good ? exc.vector != -1
                     : exc.vector != 13 || exc.error != r->error) {
                wrong++;
                at = addresses[j];
                seen = exc;
            }
        }
        check(!wrong, r->name, "%d wrong, as %p: vector %d error %x", wrong, at,
              seen.vector, seen.error);
    }
}

/* ---- LAM ---- */

typedef struct Lam {
    bool u48, u57, sup;
    int width;                  /* of the paging mode: 48 or 57; for unmask() */
} Lam;

/*
 * The address that a data access through @pointer uses.  False: #GP.  Bit 63
 * says whose rule it is; LAM_U57 goes before LAM_U48; supervisor pointers are
 * masked by the width of the paging mode.
 */
static bool unmask(const Lam *lam, ulong pointer, ulong *address)
{
    bool user = !(pointer >> 63);
    int keep = user ? (lam->u57 ? 57 : lam->u48 ? 48 : 0)
                    : (lam->sup ? lam->width : 0);
    ulong metadata = keep ? BIT(63) - BIT(keep) : 0;

    if (pointer & (keep ? BIT(keep - 1) : 0)) {
        *address = pointer | metadata;
    } else {
        *address = pointer & ~metadata;
    }
    return canonical(*address, lam->width);
}

/* In 4-level paging only the first and the third can be reached. */
static const ulong test_pages[] = {
    0x00007a4240000000ul, 0x00a17a4240000000ul, 0xfffffa4240000000ul,
    0xff217a4240000000ul,
};

#define TEST_OFFSET 0x40        /* put_code() has the start of the page */

static ulong frames[ARRAY_SIZE(test_pages)];

/* What lies at @address, or NULL. */
static volatile u32 *behind(const Lam *lam, ulong address)
{
    for (unsigned i = 0; i < ARRAY_SIZE(test_pages); i++) {
        if ((address & ~(PAGE - 1)) == test_pages[i] &&
            canonical(address, lam->width)) {
            return (volatile u32 *)(frames[i] + (address & (PAGE - 1)));
        }
    }
    return NULL;
}

/* Fetches are never masked. */
static bool access_is_right(const Lam *lam, ulong pointer, Kind kind, bool user)
{
    u32 value = random32(), sent = value;
    ulong address = pointer;
    bool good = kind == EXEC ? canonical(pointer, lam->width)
                             : unmask(lam, pointer, &address);
    Exc exc = user ? probe_user(kind, pointer, &value)
                   : probe(kind, pointer, &value);
    volatile u32 *cell = behind(lam, address);
    ulong fault = address + (kind == EXEC && user ? 8 : 0);
    bool right;

    if (!good) {
        right = exc.vector == 13 && exc.error == 0;
    } else if (!cell) {
        right = exc.vector == 14 && !(exc.error & 1) && exc.cr2 == fault;
    } else {
        right = exc.vector == -1 &&
                (kind == EXEC || *cell == (kind == WRITE ? sent : value));
    }
    if (!right) {
        print("# u48 %d u57 %d sup %d width %d: %s %s at %p (%p): vector %d "
              "error %x cr2 %X\n", lam->u48, lam->u57, lam->sup, lam->width,
              user ? "user" : "supervisor", kind == READ ? "read" :
              kind == WRITE ? "write" : "fetch", pointer, address, exc.vector,
              exc.error, exc.cr2);
    }
    return right;
}

static unsigned all_accesses(const Lam *lam, ulong pointer)
{
    unsigned wrong = 0;

    for (Kind kind = READ; kind <= EXEC; kind++) {
        ulong at = pointer + (kind == EXEC ? 0 : TEST_OFFSET);

        wrong += !access_is_right(lam, at, kind, false);
        wrong += !access_is_right(lam, at, kind, true);
    }
    return wrong;
}

/* Every bit that may be metadata by itself, all of them, and some mixtures. */
static unsigned all_tags(const Lam *lam, ulong page)
{
    unsigned wrong = all_accesses(lam, page);

    for (int bit = 47; bit <= 63; bit++) {
        wrong += all_accesses(lam, page ^ BIT(bit));
    }
    wrong += all_accesses(lam, page ^ (BIT(63) - BIT(47)));
    wrong += all_accesses(lam, page ^ (BIT(63) - BIT(57)));
    for (int i = 0; i < 8; i++) {
        ulong tag = (ulong)random32() << 32;

        wrong += all_accesses(lam, page ^ (tag & (BIT(63) - BIT(47))));
        wrong += all_accesses(lam, page ^ (tag & (BIT(63) - BIT(57))));
    }
    return wrong;
}

static void lam_use(const Space *s, const Lam *lam)
{
    write_cr3(s->root | (lam->u48 ? CR3_LAM_U48 : 0)
              | (lam->u57 ? CR3_LAM_U57 : 0));
    write_cr4((read_cr4() & ~CR4_LAM_SUP) | (lam->sup ? CR4_LAM_SUP : 0));
}

static void test_pointers(const Space *s)
{
    unsigned wrong = 0;
    Lam lam = { .width = s->format->levels == 5 ? 57 : 48 };

    for (int i = 0; i < 8 && !wrong; i++) {
        lam.u48 = i & 1;
        lam.u57 = i & 2;
        lam.sup = i & 4;
        if (i && !has_lam) {
            break;
        }
        lam_use(s, &lam);
        for (unsigned page = 0; page < ARRAY_SIZE(test_pages); page++) {
            wrong += all_tags(&lam, test_pages[page]);
        }
    }
    lam = (Lam) { .sup = false };
    lam_use(s, &lam);
    check(!wrong, "pointers", "%d wrong", wrong);
}

/* The bits exist with the feature and not without. */
static void test_lam_bits(const Space *s)
{
    static const struct {
        const char *name;
        int cr;
        ulong bits;
    } list[] = {
        { "cr3-lam-u48", 3, CR3_LAM_U48 }, { "cr3-lam-u57", 3, CR3_LAM_U57 },
        { "cr3-lam-both", 3, CR3_LAM_U48 | CR3_LAM_U57 },
        { "cr4-lam-sup", 4, CR4_LAM_SUP },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(list); i++) {
        ulong old = list[i].cr == 3 ? s->root : read_cr4();
        Exc exc = try_write_cr(list[i].cr, old | list[i].bits);
        ulong now = list[i].cr == 3 ? read_cr3() : read_cr4();

        check(has_lam ? exc.vector == -1 && now == (old | list[i].bits)
                      : exc.vector == 13 && now == old, list[i].name,
              "vector %d, %p", exc.vector, now);
        if (list[i].cr == 3) {
            write_cr3(old);
        } else {
            write_cr4(old);
        }
    }
}

static u32 read_at(ulong address)
{
    u32 value = 0;
    Exc exc = probe(READ, address, &value);

    return exc.vector == -1 ? value : 0xdead0000 | exc.vector;
}

/* INVLPG, or INVPCID of one address; PCID 0 without CR4.PCIDE. */
static void invalidate(ulong address, bool invpcid)
{
    struct { u64 pcid, address; } descriptor = { 0, address };

    if (invpcid) {
        asm volatile("invpcid %0, %1" : : "m"(descriptor), "r"(0ul) : "memory");
    } else {
        invlpg(address);
    }
}

/* INVLPG takes no metadata away; both reach every alias of the page. */
static void test_lam_invalidation(const Space *s, bool invpcid)
{
    const Lam lam = { .u57 = true, .sup = true };
    ulong first = pool_page(), second = pool_page();

    *(volatile u32 *)first = 1;
    *(volatile u32 *)second = 2;
    lam_use(s, &lam);
    for (int half = 0; half < 2; half++) {
        ulong page = (half ? 0xfffffa4250000000ul : 0x00007a4250000000ul);
        ulong tagged = page ^ BIT(60);
        u32 before, after;

        map(s, page, first, P | W | U | A | D);
        flush_all();
        before = read_at(tagged);
        map(s, page, second, P | W | U | A | D);
        if (!invpcid) {
            invlpg(page ^ BIT(61));     /* another pointer: need do nothing */
        }
        invalidate(page, invpcid);
        after = read_at(tagged);
        check(before == 1 && after == 2 && read_at(page) == 2,
              half ? "flush-supervisor-alias" : "flush-user-alias",
              "invpcid %d: before %x after %x", invpcid, before, after);
    }
}

/* What was translated with LAM must not outlive it. */
static void test_lam_off(const Space *s)
{
    const Lam on = { .u57 = true, .sup = true };
    ulong user = test_pages[0] ^ BIT(60), kernel = test_pages[2] ^ BIT(60);
    ulong cr4;
    u32 seen[4];

    lam_use(s, &on);
    cr4 = read_cr4();
    seen[0] = read_at(user);
    write_cr3(s->root);
    seen[1] = read_at(user);
    seen[2] = read_at(kernel);
    write_cr4(cr4 & ~CR4_LAM_SUP);
    seen[3] = read_at(kernel);
    check(seen[0] == *(u32 *)frames[0] && seen[1] == 0xdead000d
          && seen[2] == *(u32 *)frames[2] && seen[3] == 0xdead000d, "lam-off",
          "%x %x %x %x", seen[0], seen[1], seen[2], seen[3]);
}

/* A table entry written through a pointer with metadata. */
static void test_lam_table(const Space *s)
{
    const Lam lam = { .u57 = true };
    ulong page = 0x00007a4260000000ul, window = 0x00007a4270000000ul;
    ulong table, wrong = 0;

    lam_use(s, &lam);
    map(s, page, frames[0], P | W | U);
    map(s, window, entry_at(s, page, 1) & ~(PAGE - 1), P | W | A | D);
    table = (window | BIT(59)) + (entry_at(s, page, 1) & (PAGE - 1));
    for (int i = 0; i < 64; i++) {
        int to = i & 1 ? 2 : 0;

        *(volatile u64 *)table = frames[to] | P | W | U;
        invlpg(page);
        wrong += read_at(page) != *(u32 *)frames[to];
    }
    check(!wrong, "table-through-tag", "%d wrong", (int)wrong);
}

/* An access across a page's end; both halves carry the metadata. */
static void test_lam_crossing(const Space *s)
{
    const Lam lam = { .u57 = true, .sup = true };
    ulong low = pool_pages(2);

    lam_use(s, &lam);
    *(volatile u16 *)(low + PAGE - 2) = 0x2211;
    *(volatile u16 *)(low + PAGE) = 0x4433;
    for (int half = 0; half < 2; half++) {
        ulong page = half ? 0xfffffa4280000000ul : 0x00007a4280000000ul;
        ulong at = (page ^ BIT(58)) + PAGE - 2;
        Exc exc;
        u32 value = 0;

        map(s, page, low, P | W | U);
        map(s, page + PAGE, low + PAGE, P | W | U);
        check(read_at(at) == 0x44332211, "crossing", "%x", read_at(at));
        map(s, page + PAGE, 0, 0);
        invlpg(page + PAGE);
        exc = probe(WRITE, at, &value);
        check(exc.vector == 14 && exc.error == 2 && exc.cr2 == page + PAGE,
              "crossing-fault", "vector %d error %x cr2 %X", exc.vector,
              exc.error, exc.cr2);
    }
}

/* The operand of LGDT is data; the base in it is an address for a register. */
static void test_lam_operand(const Space *s)
{
    const Lam lam = { .u57 = true, .sup = true };
    TableRegister *plain, *tagged;
    Cpu *cpu = try_arm();

    lam_use(s, &lam);
    plain = (TableRegister *)(frames[0] + TEST_OFFSET);
    tagged = (TableRegister *)((test_pages[0] + TEST_OFFSET) | BIT(61));
    asm volatile("sgdt %0" : "=m"(*plain));
    TRY(cpu, "lgdt %[t]", : [t] "m"(*tagged) : TRY_CLOBBER, "memory");
    check(cpu->exc.vector == -1, "lgdt-operand", "vector %d", cpu->exc.vector);
}

static void test_format(const Format *f)
{
    Space s = space_new(f);

    for (unsigned i = 0; i < ARRAY_SIZE(test_pages); i++) {
        if (!frames[i]) {
            frames[i] = pool_page();
            put_code((void *)frames[i]);
        }
        *(u32 *)frames[i] = *(u32 *)frames[i] | (i + 1) << 24;
        if (canonical(test_pages[i], f->levels == 5 ? 57 : 48)) {
            map(&s, test_pages[i], frames[i], P | W | U);
        }
    }
    space_use(&s);
    print("# %s\n", f->name);
    test_registers(f->name);
    test_lam_bits(&s);
    test_pointers(&s);
    if (!has_lam) {
        skip("lam", "not offered");
        return;
    }
    test_lam_invalidation(&s, false);
    if (has_invpcid) {
        test_lam_invalidation(&s, true);
    }
    test_lam_off(&s);
    test_lam_table(&s);
    test_lam_crossing(&s);
    test_lam_operand(&s);
    test_registers("with LAM");
    write_cr4(read_cr4() & ~CR4_LAM_SUP);
    write_cr3(s.root);
}

void guest_main(void)
{
    print("TAP version 13\n");
    if (has_word("plain-tcg")) {
        skip("linear", "TCG does not check");
        return;
    }
    find_more_features();
    if (has_fsgsbase) {
        write_cr4(read_cr4() | CR4_FSGSBASE);
    }
    test_format(&format_4level);
    if (cpu_has.la57) {
        test_format(&format_5level);
    } else {
        skip("5-level", "not offered");
    }
}
