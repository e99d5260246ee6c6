/*
 * xmmu: registers between QEMU and the native engine's module
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Both directions of target/i386/xmmu/native-regs.c, group by group, on the module's own
 * code without its hardware (tests/fake/preload.c).  After each command of a qtest all
 * registers go to the module and come back; what went is in the file that we share with
 * the fake, and what comes back is what we have put there.  What QEMU then has is looked
 * at by `info registers`.
 *
 * scripts/run-qtests says in XMMU_FAKE_DEVICE where the fake is.
 */
#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include <cpuid.h>
#include <sys/mman.h>
#include "xmmu-qtest.h"
#include "xmmu-fake-cpu.h"

typedef struct Setup {
    const char *name, *cpu, *options;
    bool tdp, vmx;
} Setup;

static const Setup setups[] = {
    { "svm-tdp", "svm", "tdp=on", true, false },
    { "svm-shadow", "svm", "tdp=off", false, false },
    { "vmx-tdp", "vmx", "tdp=on", true, true },
    { "vmx-shadow", "vmx", "tdp=off", false, true },
};

typedef struct Machine {
    const Setup *setup;
    QTestState *q;
    FakeFile *file;
} Machine;

/* ---- The machine ---------------------------------------------------------------- */

static FakeFile *new_file(char **path)
{
    int fd = g_file_open_tmp("xmmu-fake-XXXXXX", path, NULL);
    void *file;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, sizeof(FakeFile)), ==, 0);
    file = mmap(NULL, sizeof(FakeFile), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert_true(file != MAP_FAILED);
    close(fd);
    return file;
}

static Machine *machine_new(const Setup *setup)
{
    Machine *m = g_new0(Machine, 1);
    g_autofree char *path = NULL;

    if (!g_getenv("XMMU_FAKE_DEVICE")) {
        g_error("XMMU_FAKE_DEVICE is not set: scripts/run-qtests xmmu-native-test");
    }
    m->setup = setup;
    m->file = new_file(&path);
    g_setenv(FAKE_CPU_ENV, setup->cpu, true);
    g_setenv(FAKE_FILE_ENV, path, true);
    g_setenv("LD_PRELOAD", g_getenv("XMMU_FAKE_DEVICE"), true);
    m->q = qtest_initf("-accel xmmu,engine=native,%s -cpu max -S -nodefaults -m 64",
                       setup->options);
    g_unsetenv("LD_PRELOAD");
    unlink(path);
    return m;
}

static void machine_free(Machine *m)
{
    qtest_quit(m->q);
    munmap(m->file, sizeof(*m->file));
    g_free(m);
}

/* What the module is given of all registers, as QEMU has them now. */
static const struct xmmu_run *given(Machine *m)
{
    uint32_t before = m->file->cpu.fetches;

    read_reg(m->q, "cr0");
    /* In a mode that is no hardware's nothing would have been given. */
    g_assert_cmpuint(m->file->cpu.fetches, !=, before);
    g_assert_cmphex(m->file->run.commit, ==, 0);
    return &m->file->run;
}

/* The guest has changed the groups to what is in m->file->cpu. */
static void change(Machine *m, uint32_t groups)
{
    m->file->cpu.groups = groups;
    given(m);
    m->file->cpu.groups = 0;
}

static struct xmmu_run *changed(Machine *m)
{
    return &m->file->cpu.state;
}

/* ---- What QEMU has ---------------------------------------------------------------- */

static char *info_registers(Machine *m)
{
    return qtest_hmp(m->q, "info registers");
}

static uint64_t shown(const char *text, const char *name)
{
    g_autofree char *key = g_strdup_printf("%s=", name);
    const char *at = strstr(text, key);

    g_assert_nonnull(at);
    return g_ascii_strtoull(at + strlen(key), NULL, 16);
}

typedef struct Shown {
    uint32_t selector, limit, flags;
    uint64_t base, base_mask;
} Shown;

/* A line `CS =0008 0000000000000000 ffffffff 00af9b00`; the base has 8 digits outside
 * 64-bit code. */
static Shown shown_segment(const char *text, unsigned index)
{
    static const char *const names[] = { "\nES =", "\nCS =", "\nSS =", "\nDS =",
                                         "\nFS =", "\nGS =", "\nLDT=", "\nTR =" };
    const char *at = strstr(text, names[index]);
    char base[17];
    Shown s;

    g_assert_nonnull(at);
    g_assert_cmpint(sscanf(at + 5, "%x %16s %x %x", &s.selector, base, &s.limit,
                           &s.flags), ==, 4);
    s.base = g_ascii_strtoull(base, NULL, 16);
    s.base_mask = strlen(base) == 16 ? UINT64_MAX : UINT32_MAX;
    return s;
}

/* ---- Modes -------------------------------------------------------------------------- */

#define PE      1ull
#define MP      2ull
#define EM      4ull
#define TS      8ull
#define ET      0x10ull
#define NE      0x20ull
#define WP      0x10000ull
#define AM      0x40000ull
#define NW      0x20000000ull
#define CD      0x40000000ull
#define PG      0x80000000ull
#define PAE     0x20ull
#define PGE     0x80ull
#define LA57    0x1000ull
#define PCIDE   0x20000ull
#define LAM_SUP 0x10000000ull
#define SMEP 0x100000ull
#define SMAP 0x200000ull
#define PKE 0x400000ull
#define PKS 0x1000000ull
#define LME     0x100ull
#define LMA     0x400ull
#define NXE     0x800ull

/* Of 32 bytes alignment, as PDPTEs may be. */
#define TABLE   0x100040ull

typedef enum Mode { REAL, PROTECTED, PAGING32, PAGING_PAE, COMPAT, LONG, COMPAT5, LONG5,
                    MODE_COUNT } Mode;

/* False: this CPU, the host's, has no such mode. */
static bool enter(Machine *m, Mode mode)
{
    QTestState *q = m->q;

    command(q, "xmmu_set_cs_l 0 0");
    set_reg(q, "cr0", ET);
    set_reg(q, "efer", 0);
    if (write_reg(q, "cr4", mode >= COMPAT5 ? PAE | LA57 :
                            mode >= PAGING_PAE ? PAE : 0).vector != -1) {
        return false;
    }
    set_reg(q, "cr3", mode == PAGING_PAE ? TABLE : TABLE & ~0xfffull);
    set_reg(q, "efer", mode >= COMPAT ? LME : 0);
    set_reg(q, "cr0", ET | (mode >= PROTECTED ? PE : 0) | (mode >= PAGING32 ? PG : 0));
    if (mode == LONG || mode == LONG5) {
        command(q, "xmmu_set_cs_l 0 1");
    }
    return true;
}

/* ---- General registers ----------------------------------------------------------------- */

static uint64_t random64(void)
{
    return (uint64_t)g_test_rand_int() << 32 | (uint32_t)g_test_rand_int();
}

/* CF to AC but RF and VM (Intel SDM vol. 1, 3.4.3); bit 1 is always 1. */
#define RFLAGS  0x47fd5ull

static void check_gprs(Machine *m, uint64_t rflags)
{
    static const char *const names[] = {
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10",
        "R11", "R12", "R13", "R14", "R15",
    };
    struct xmmu_gprs *gprs = &changed(m)->gprs;
    g_autofree char *text = NULL;

    for (unsigned i = 0; i < 16; i++) {
        gprs->gpr[i] = random64();
    }
    gprs->rip = random64();
    gprs->rflags = rflags | 2;
    change(m, XMMU_GROUP_GPRS);
    text = info_registers(m);
    for (unsigned i = 0; i < 16; i++) {
        g_assert_cmphex(shown(text, names[i]), ==, gprs->gpr[i]);
    }
    g_assert_cmphex(shown(text, "RIP"), ==, gprs->rip);
    g_assert_cmphex(shown(text, "RFL") | 2, ==, gprs->rflags);
    g_assert_cmpmem(&given(m)->gprs, sizeof(*gprs), gprs, sizeof(*gprs));
}

static void test_gprs(const void *data)
{
    Machine *m = machine_new(data);

    g_assert_true(enter(m, LONG));
    for (unsigned i = 0; i < 32; i++) {
        check_gprs(m, RFLAGS & 1ull << i);
        check_gprs(m, RFLAGS & ~(1ull << i));
        check_gprs(m, RFLAGS & random64());
    }
    machine_free(m);
}

/* ---- Segments ------------------------------------------------------------------------------ */

/* In the descriptor's upper half, Intel SDM vol. 3, 3.4.5: type, S, DPL and P from bit 8,
 * AVL, L, D/B and G from bit 20. */
static uint32_t descriptor(uint16_t attributes)
{
    return (attributes & 0xff) << 8 | (attributes >> 8 & 15) << 20;
}

#define P_      0x80
#define DPL     0x60

/* QEMU has no segment that is present and unusable, or the reverse. */
static uint16_t normal(uint16_t attributes)
{
    if (attributes & XMMU_SEGMENT_UNUSABLE) {
        attributes &= ~P_;
    }
    return attributes & P_ ? attributes : attributes | XMMU_SEGMENT_UNUSABLE;
}

static void fill_segment(struct xmmu_segment *s, uint16_t attributes)
{
    *s = (struct xmmu_segment) {
        .base = random64(), .limit = g_test_rand_int(), .selector = g_test_rand_int(),
        .attributes = attributes,
    };
}

static void check_segments(Machine *m)
{
    struct xmmu_segments *want = &changed(m)->segments;
    g_autofree char *text = NULL;
    const struct xmmu_segments *have;

    change(m, XMMU_GROUP_SEGMENTS);
    /* The CPL is SS's, usable or not. */
    want->seg[XMMU_SS].attributes &= ~DPL;
    want->seg[XMMU_SS].attributes |= want->cpl << 5;
    text = info_registers(m);
    have = &given(m)->segments;
    for (unsigned i = 0; i < XMMU_SEGMENT_COUNT; i++) {
        const struct xmmu_segment *w = &want->seg[i], *h = &have->seg[i];
        Shown s = shown_segment(text, i);

        g_assert_cmphex(s.flags, ==, descriptor(normal(w->attributes)));
        g_assert_cmphex(s.selector, ==, w->selector);
        g_assert_cmphex(s.limit, ==, w->limit);
        g_assert_cmphex(s.base, ==, w->base & s.base_mask);
        g_assert_cmphex(h->attributes, ==, normal(w->attributes));
        g_assert_cmphex(h->selector, ==, w->selector);
        g_assert_cmphex(h->limit, ==, w->limit);
        g_assert_cmphex(h->base, ==, w->base);
    }
    g_assert_cmphex(shown(text, "CPL"), ==, want->cpl);
    g_assert_cmphex(have->cpl, ==, want->cpl);
    g_assert_cmphex(have->gdt.base, ==, want->gdt.base);
    g_assert_cmphex(have->gdt.limit, ==, want->gdt.limit);
    g_assert_cmphex(have->idt.base, ==, want->idt.base);
    g_assert_cmphex(have->idt.limit, ==, want->idt.limit);
}

/* All attributes, each in another register than last time. */
static void all_attributes(Machine *m, unsigned turn, uint16_t unusable)
{
    struct xmmu_segments *s = &changed(m)->segments;

    for (unsigned i = 0; i < 4096; i += XMMU_SEGMENT_COUNT) {
        for (unsigned n = 0; n < XMMU_SEGMENT_COUNT; n++) {
            fill_segment(&s->seg[(n + turn) % XMMU_SEGMENT_COUNT], (i + n) | unusable);
        }
        fill_segment(&s->gdt, 0);
        fill_segment(&s->idt, 0);
        s->cpl = g_test_rand_int() & 3;
        check_segments(m);
    }
}

static void test_segments(const void *data)
{
    Machine *m = machine_new(data);

    g_assert_true(enter(m, LONG));
    for (unsigned turn = 0; turn < XMMU_SEGMENT_COUNT; turn++) {
        /* So every register meets all, and each of them is usable and not. */
        all_attributes(m, turn, turn & 1 ? XMMU_SEGMENT_UNUSABLE : 0);
    }
    machine_free(m);
}

/* ---- Control registers ----------------------------------------------------------------------- */

/* What the CPU works with: what struct xmmu_crs and the manuals ask for. */
static void check_hardware_crs(const Machine *m, const struct xmmu_crs *c)
{
    bool tdp = m->setup->tdp;
    uint64_t same4 = ~0ull, same0 = ~(CD | NW | ET);

    if (!tdp) {
        same0 &= ~(PE | PG | WP);
        g_assert_cmphex(c->hw_cr0 & (PE | PG | WP), ==, PE | PG | WP);
        /* Ours are tables of 4 levels or PAE's, under the shadow root's own tags. */
        same4 = ~(PAE | LA57 | PCIDE | PGE | LAM_SUP);
        g_assert_cmphex(c->hw_cr4 & (PAE | LA57 | PCIDE | PGE | LAM_SUP), ==, PAE);
        g_assert_cmphex(c->hw_efer & NXE, ==, NXE);
        if (!(c->cr0 & PG)) {
            /* These are about pages, of which the guest has none yet. */
            same4 &= ~(SMEP | SMAP | PKE | PKS);
            g_assert_cmphex(c->hw_cr4 & (SMEP | SMAP | PKE | PKS), ==, 0);
        }
    }
    g_assert_cmphex(c->hw_cr0 & same0, ==, c->cr0 & same0);
    g_assert_cmphex(c->hw_cr0 & (CD | NW | ET), ==, ET);
    g_assert_cmphex(c->hw_cr4 & same4, ==, c->cr4 & same4);
    g_assert_cmphex((c->hw_efer ^ c->efer) & ~(LME | (tdp ? 0 : NXE)), ==, 0);
    g_assert_cmpint(!!(c->hw_efer & LME), ==, !!(c->efer & LMA));
}

/* What a guest can never be in (Intel SDM vol. 3, 27.3.1.1; AMD APM vol. 2, 15.5.1). */
static void check_consistency(const struct xmmu_run *run)
{
    const struct xmmu_crs *c = &run->crs;
    uint16_t cs = run->segments.seg[XMMU_CS].attributes;
    bool paging = c->hw_cr0 & PG;

    g_assert_true(!paging || (c->hw_cr0 & PE));
    g_assert_cmpint(!!(c->hw_efer & LMA), ==, paging && (c->hw_efer & LME));
    g_assert_true(!(c->hw_efer & LMA) || (c->hw_cr4 & PAE));
    g_assert_true((c->hw_efer & LMA) || !(c->hw_cr4 & PCIDE));
    g_assert_true(!(c->hw_efer & LMA) || (cs & 0x600) != 0x600);
}

static void check_crs(Machine *m)
{
    const struct xmmu_run *run = given(m);
    const struct xmmu_crs *c = &run->crs;

    g_assert_cmphex(c->cr0, ==, read_reg(m->q, "cr0"));
    g_assert_cmphex(c->cr3, ==, read_reg(m->q, "cr3"));
    g_assert_cmphex(c->cr4, ==, read_reg(m->q, "cr4"));
    g_assert_cmphex(c->efer, ==, read_reg(m->q, "efer"));
    check_hardware_crs(m, c);
    check_consistency(run);
}

/* The same with bits flipped that say nothing about the mode, if the CPU takes them. */
static void check_bits(Machine *m, const char *reg, uint64_t bits)
{
    uint64_t value = read_reg(m->q, reg);

    if (write_reg(m->q, reg, value ^ bits).vector == -1) {
        g_assert_cmphex(read_reg(m->q, reg), ==, value ^ bits);
        check_crs(m);
        set_reg(m->q, reg, value);
    }
}

/* Shadow tables need protected mode: in real mode the guest is TCG's. */
static bool is_emulated(Machine *m, Mode mode)
{
    uint32_t before = m->file->cpu.fetches;

    read_reg(m->q, "cr0");
    g_assert_cmpint(m->file->cpu.fetches == before, ==, mode == REAL && !m->setup->tdp);
    return m->file->cpu.fetches == before;
}

static void test_crs(const void *data)
{
    static const uint64_t cr0[] = { MP, EM, TS, NE, WP, AM, CD, CD | NW, CD | WP | TS };
    Machine *m = machine_new(data);
    unsigned modes = 0;

    for (Mode mode = REAL; mode < MODE_COUNT; mode++) {
        if (!enter(m, mode)) {
            continue;
        }
        modes++;
        if (is_emulated(m, mode)) {
            continue;
        }
        check_crs(m);
        for (unsigned i = 0; i < ARRAY_SIZE(cr0); i++) {
            check_bits(m, "cr0", cr0[i]);
        }
        for (unsigned i = 0; i < 32; i++) {
            if (1ull << i & ~(PAE | LA57)) {
                check_bits(m, "cr4", 1ull << i);
            }
        }
        check_bits(m, "efer", 1);
        check_bits(m, "efer", NXE);
        check_bits(m, "efer", NXE | 1);
        if (mode < PAGING32) {
            /* Not yet on. */
            check_bits(m, "efer", LME);
        }
    }
    g_assert_cmpuint(modes, >=, COMPAT5);
    machine_free(m);
}

/* CR2 and CR8; and CR3, which only with two dimensions the guest loads by itself. */
static void test_address_crs(const void *data)
{
    Machine *m = machine_new(data);
    struct xmmu_crs *c = &changed(m)->crs;

    g_assert_true(enter(m, LONG));
    for (unsigned i = 0; i < 16; i++) {
        uint64_t cr3 = read_reg(m->q, "cr3");

        c->cr2 = random64();
        c->cr3 = cr3 ^ 0x1000;
        change(m, XMMU_GROUP_CRS);
        set_reg(m->q, "cr8", i);
        g_assert_cmphex(read_reg(m->q, "cr2"), ==, c->cr2);
        g_assert_cmphex(read_reg(m->q, "cr3"), ==, m->setup->tdp ? c->cr3 : cr3);
        g_assert_cmphex(given(m)->crs.cr2, ==, c->cr2);
        g_assert_cmphex(given(m)->crs.cr3, ==, m->setup->tdp ? c->cr3 : cr3);
        g_assert_cmphex(given(m)->crs.cr8, ==, i);
    }
    machine_free(m);
}

/* Those of memory when the guest loads CR3, and on VMX what the CPU then has. */
static void test_pdptes(const void *data)
{
    Machine *m = machine_new(data);
    struct xmmu_crs *c = &changed(m)->crs;

    g_assert_true(enter(m, PAGING_PAE));
    for (unsigned i = 0; i < 4; i++) {
        table_write(m->q, TABLE + 8 * i, (i + 2) << 12 | 1);
    }
    set_reg(m->q, "cr3", TABLE);
    for (unsigned i = 0; i < 4; i++) {
        g_assert_cmphex(given(m)->crs.pdpte[i], ==, (i + 2) << 12 | 1);
    }
    /* Memory says something else by now, and that does not matter. */
    *c = given(m)->crs;
    for (unsigned i = 0; i < 4; i++) {
        table_write(m->q, TABLE + 8 * i, 0);
        c->pdpte[i] = (i + 20) << 12 | 1;
    }
    change(m, XMMU_GROUP_CRS);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t want = !m->setup->tdp ? (i + 2) << 12 | 1 :
                        m->setup->vmx ? (i + 20) << 12 | 1 : 0;

        g_assert_cmphex(given(m)->crs.pdpte[i], ==, want);
    }
    machine_free(m);
}

/* ---- Debug registers, MSRs, events --------------------------------------------------------------- */

static void test_drs(const void *data)
{
    static const char *const names[] = { "dr0", "dr1", "dr2", "dr3" };
    Machine *m = machine_new(data);

    g_assert_true(enter(m, LONG));
    for (unsigned round = 0; round < 64; round++) {
        uint64_t dr[4], dr6 = random64() & 0xe00f, dr7 = random64() & 0xffff03ff;

        /* No I/O breakpoints: they need CR4.DE. */
        dr7 &= ~(0x22220000ull & ~(dr7 << 1 & 0x22220000ull));
        set_reg(m->q, "dr7", 0);
        for (unsigned i = 0; i < 4; i++) {
            dr[i] = random64();
            set_reg(m->q, names[i], dr[i]);
        }
        set_reg(m->q, "dr6", dr6);
        set_reg(m->q, "dr7", dr7);
        for (unsigned i = 0; i < 4; i++) {
            g_assert_cmphex(given(m)->drs.dr[i], ==, dr[i]);
        }
        /* Intel SDM vol. 3, 18.2: bits that are always 1. */
        g_assert_cmphex(given(m)->drs.dr6, ==, dr6 | 0xffff0ff0);
        g_assert_cmphex(given(m)->drs.dr7, ==, dr7 | 0x400);
    }
    machine_free(m);
}

typedef struct Msr {
    uint32_t index;
    size_t offset;
    uint64_t mask;
} Msr;

#define MSR(index, name) { index, offsetof(struct xmmu_msrs, name), UINT64_MAX }

static const Msr msrs[] = {
    MSR(0xc0000081, star), MSR(0xc0000082, lstar), MSR(0xc0000083, cstar),
    MSR(0xc0000102, kernel_gs_base), MSR(0x175, sysenter_esp), MSR(0x176, sysenter_eip),
    { 0xc0000084, offsetof(struct xmmu_msrs, sfmask), UINT32_MAX },
    { 0x174, offsetof(struct xmmu_msrs, sysenter_cs), 0xffff },
    { 0x277, offsetof(struct xmmu_msrs, pat), 0x0707070707070707 },
    { 0xc0000103, offsetof(struct xmmu_msrs, tsc_aux), UINT32_MAX },
};

static uint64_t *field_of(struct xmmu_msrs *m, const Msr *msr)
{
    return (uint64_t *)((char *)m + msr->offset);
}

static void random_msrs(struct xmmu_msrs *m)
{
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        uint64_t value = random64() & msrs[i].mask;

        /* Addresses must be canonical; memory types 2 and 3 do not exist. */
        *field_of(m, &msrs[i]) = msrs[i].mask == UINT64_MAX ? sextract64(value, 0, 47) :
                                 msrs[i].index == 0x277 ? value | (value & 0x0202020202020202) << 1
                                                        : value;
    }
}

static void test_msrs(const void *data)
{
    Machine *m = machine_new(data);
    struct xmmu_msrs *want = &changed(m)->msrs;

    g_assert_cmpuint(ARRAY_SIZE(msrs) * 8, ==, sizeof(*want));
    g_assert_true(enter(m, LONG));
    for (unsigned round = 0; round < 32; round++) {
        /* The guest wrote them, and QEMU reads them; */
        random_msrs(want);
        change(m, XMMU_GROUP_MSRS);
        for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
            g_autofree char *answer = ask(m->q, "xmmu_rdmsr 0 0x%x", msrs[i].index);

            g_assert_cmphex(number_of(answer), ==, *field_of(want, &msrs[i]));
        }
        g_assert_cmpmem(&given(m)->msrs, sizeof(*want), want, sizeof(*want));
        /* QEMU writes them, and the guest gets them. */
        random_msrs(want);
        for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
            g_autofree char *answer = ask(m->q, "xmmu_wrmsr 0 0x%x 0x%" PRIx64,
                                          msrs[i].index, (uint64_t)*field_of(want, &msrs[i]));

            g_assert_cmpstr(answer, ==, "OK 0");
        }
        g_assert_cmpmem(&given(m)->msrs, sizeof(*want), want, sizeof(*want));
    }
    machine_free(m);
}

static void test_events(const void *data)
{
    Machine *m = machine_new(data);

    g_assert_true(enter(m, LONG));
    for (unsigned i = 0; i < 8; i++) {
        struct xmmu_events *want = &changed(m)->events;
        const struct xmmu_events *have;
        g_autofree char *text = NULL;

        *want = (struct xmmu_events) { .shadow = i & 1, .nmi_blocked = i >> 1 & 1 };
        change(m, XMMU_GROUP_EVENTS);
        text = info_registers(m);
        g_assert_cmphex(shown(text, "II"), ==, want->shadow);
        have = &given(m)->events;
        g_assert_cmpuint(have->shadow, ==, want->shadow);
        g_assert_cmpuint(have->nmi_blocked, ==, want->nmi_blocked);
        g_assert_cmpuint(have->inject.type, ==, XMMU_EVENT_NONE);
    }
    machine_free(m);
}

/* ---- FPU and vector registers ----------------------------------------------------------------------- */

/* Intel SDM vol. 1, table 10-2. */
enum { FCW = 0, FSW = 2, FTW = 4, FOP = 6, MXCSR = 24, ST0 = 32, XMM0 = 160, XMM_END = 416,
       HEADER = 512 };

static void fill_random(uint8_t *p, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        p[i] = g_test_rand_int();
    }
}

/* Of the components behind the first 512 bytes, those that TCG can give a guest: the upper
 * halves of YMM registers, and PKRU. */
static const unsigned components[] = { 2, 9 };

/* Where the standard format has it: Intel SDM vol. 1, 13.4.3.  PKRU has 4 bytes of its 8. */
static uint32_t component_at(const Machine *m, unsigned n, uint32_t *size)
{
    uint32_t offset, ecx, edx;

    if (!(m->file->cpu.xcr0 >> n & 1)) {
        *size = 0;
        return 0;
    }
    __cpuid_count(0xd, n, *size, offset, ecx, edx);
    *size = n == 9 ? 4 : *size;
    g_assert_cmpuint(offset + *size, <=, sizeof(m->file->cpu.xsave));
    return offset;
}

static void make_image(Machine *m, unsigned top)
{
    uint8_t *image = m->file->cpu.xsave;

    memset(image, 0, sizeof(m->file->cpu.xsave));
    fill_random(image, XMM_END);
    stw_le_p(image + FCW, 0x37f ^ (g_test_rand_int() & 0xf3f));
    /* No exception waits. */
    stw_le_p(image + FSW, (g_test_rand_int() & 0x477f) | top << 11);
    image[FTW + 1] = 0;
    stw_le_p(image + FOP, g_test_rand_int() & 0x7ff);
    stl_le_p(image + MXCSR, g_test_rand_int() & 0xffbf);
    memset(image + MXCSR + 4, 0, 4);
    for (unsigned i = 0; i < 8; i++) {
        memset(image + ST0 + 16 * i + 10, 0, 6);
    }
    stq_le_p(image + HEADER, m->file->cpu.xcr0);
    for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
        uint32_t size, at = component_at(m, components[i], &size);

        fill_random(image + at, size);
    }
}

static void check_shown_fpu(const char *text, const uint8_t *image, unsigned top)
{
    g_assert_cmphex(shown(text, "FCW"), ==, lduw_le_p(image + FCW));
    g_assert_cmphex(shown(text, "FSW"), ==, lduw_le_p(image + FSW));
    g_assert_cmphex(shown(text, "FTW"), ==, image[FTW]);
    g_assert_cmphex(shown(text, "MXCSR"), ==, ldl_le_p(image + MXCSR));
    for (unsigned i = 0; i < 8; i++) {
        /* The image begins with ST(0), whose place is the top. */
        g_autofree char *name = g_strdup_printf("FPR%u", (top + i) % 8);
        const uint8_t *st = image + ST0 + 16 * i;
        const char *at = strstr(text, name);

        g_assert_cmphex(shown(text, name), ==, ldq_le_p(st));
        g_assert_cmphex(g_ascii_strtoull(at + 22, NULL, 16), ==, lduw_le_p(st + 8));
    }
    for (unsigned i = 0; i < 16; i++) {
        g_autofree char *name = g_strdup_printf("XMM%02u", i);
        const char *at = strstr(text, name);

        g_assert_cmphex(shown(text, name), ==, ldq_le_p(image + XMM0 + 16 * i + 8));
        g_assert_cmphex(g_ascii_strtoull(at + 23, NULL, 16), ==,
                        ldq_le_p(image + XMM0 + 16 * i));
    }
}

static void test_xsave(const void *data)
{
    Machine *m = machine_new(data);
    const uint8_t *want = m->file->cpu.xsave;
    const uint8_t *have = m->file->mapping + XMMU_RUN_XSAVE_OFFSET;

    g_assert_true(enter(m, LONG));
    for (unsigned round = 0; round < 64; round++) {
        g_autofree char *text = NULL;

        make_image(m, round % 8);
        change(m, XMMU_GROUP_XSAVE);
        text = info_registers(m);
        check_shown_fpu(text, want, round % 8);
        given(m);
        g_assert_cmpmem(have, XMM_END, want, XMM_END);
        if (m->file->cpu.xcr0) {
            g_assert_cmphex(ldq_le_p(have + HEADER), ==, m->file->cpu.xcr0);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(components); i++) {
            uint32_t size, at = component_at(m, components[i], &size);

            g_assert_cmpmem(have + at, size, want + at, size);
        }
    }
    machine_free(m);
}

static void add(const char *name, void (*fn)(const void *))
{
    for (size_t i = 0; i < ARRAY_SIZE(setups); i++) {
        g_autofree char *path = g_strdup_printf("xmmu/native/%s/%s", setups[i].name, name);

        qtest_add_data_func(path, &setups[i], fn);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("gprs", test_gprs);
    add("segments", test_segments);
    add("crs", test_crs);
    add("address-crs", test_address_crs);
    add("pdptes", test_pdptes);
    add("drs", test_drs);
    add("msrs", test_msrs);
    add("events", test_events);
    add("xsave", test_xsave);
    return g_test_run();
}
