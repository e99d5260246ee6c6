/*
 * xmmu: what a guest is offered of asynchronous page faults, under qtest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * CPUID and the three MSRs, bit by bit: what async-pf= and the CPU's properties offer is
 * there, and nothing else is.  The rules are KVM's (Linux
 * Documentation/virt/kvm/x86/msr.rst and cpuid.rst).  What happens at a missing page needs
 * a guest: tests/guest/apf.c.
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "xmmu-qtest.h"

#define MSR_EN          0x4b564d02
#define MSR_INT         0x4b564d06
#define MSR_ACK         0x4b564d07

#define EN_ENABLED      0x01ull
#define EN_ALWAYS       0x02ull
#define EN_VMEXIT       0x04ull
#define EN_INT          0x08ull
#define EN_BOTH         (EN_ENABLED | EN_INT)

#define HAS_APF         (1u << 4)
#define HAS_APF_INT     (1u << 14)

#define AREA            0x10000ull
#define RAM             (128 * MiB)
#define PCI_HOLE        0xd0000000ull
#define ROM             0xfffff000ull
#define LAPIC           0xfee00000ull

/* ---- A machine --------------------------------------------------------------- */

static QTestState *start_with(const char *accel, const char *cpu)
{
    const char *more = g_getenv(MORE_OPTIONS);

    return qtest_initf("-accel xmmu,%s%s%s -cpu max%s -m 128M -S -nodefaults -vga none",
                       accel, more ? "," : "", more ?: "", cpu);
}

/* Vector of the exception, or -1. */
static int write_msr(QTestState *q, uint32_t msr, uint64_t value)
{
    g_autofree char *answer = ask(q, "xmmu_wrmsr 0 0x%x 0x%" PRIx64, msr, value);
    Exception e = exception_of(answer);

    g_assert_cmphex(e.error, ==, 0);
    return e.vector;
}

static int read_msr(QTestState *q, uint32_t msr, uint64_t *value)
{
    g_autofree char *answer = ask(q, "xmmu_rdmsr 0 0x%x", msr);
    Exception e = exception_of(answer);

    if (e.vector == -1) {
        *value = number_of(answer);
    }
    return e.vector;
}

static void msr_must_be(QTestState *q, uint32_t msr, uint64_t wanted)
{
    uint64_t value = 0;

    g_assert_cmpint(read_msr(q, msr, &value), ==, -1);
    g_assert_cmphex(value, ==, wanted);
}

/* A refused write raises #GP and changes nothing. */
static void check_write(QTestState *q, uint32_t msr, uint64_t value, bool good)
{
    uint64_t before = 0, after = 0;
    int vector;

    g_assert_cmpint(read_msr(q, msr, &before), ==, -1);
    vector = write_msr(q, msr, value);
    g_assert_cmpint(read_msr(q, msr, &after), ==, -1);
    if (vector != (good ? -1 : 13) || after != (good ? value : before)) {
        g_error("MSR 0x%x = 0x%" PRIx64 ": exception %d, then 0x%" PRIx64 "; should be %s",
                msr, value, vector, after, good ? "accepted" : "#GP(0)");
    }
}

/* Neither read nor written. */
static void must_be_absent(QTestState *q, uint32_t msr)
{
    uint64_t value;

    g_assert_cmpint(read_msr(q, msr, &value), ==, 13);
    g_assert_cmpint(write_msr(q, msr, 0), ==, 13);
}

/* ---- CPUID --------------------------------------------------------------------- */

static void check_leaf(QTestState *q, uint32_t leaf, const uint32_t wanted[4])
{
    static const char *const name[] = { "eax", "ebx", "ecx", "edx" };
    g_autofree char *answer = ask(q, "xmmu_cpuid 0 0x%x 0", leaf);
    uint64_t value;

    for (int i = 0; i < 4; i++) {
        g_assert_true(field(answer, name[i], &value));
        if (value != wanted[i]) {
            g_error("CPUID 0x%x: %s is not 0x%x: %s", leaf, name[i], wanted[i], answer);
        }
    }
}

/* KVM's leaves with these features, or TCG's. */
static void check_cpuid(QTestState *q, uint32_t features)
{
    const uint32_t kvm[4] = { 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d };
    const uint32_t tcg[4] = { 0x40000001, 0x54474354, 0x43544743, 0x47435447 };

    check_leaf(q, 0x40000000, features ? kvm : tcg);
    check_leaf(q, 0x40000001, (const uint32_t [4]) { features });
}

/* ---- What is offered -------------------------------------------------------------- */

/* TCG reads MSRs that it does not know as 0, and ignores what is written. */
static void test_off(const void *data)
{
    static const uint32_t msrs[] = { MSR_EN, MSR_INT, MSR_ACK };
    static const char *const cpus[] = { "", ",kvm-asyncpf=on,kvm-asyncpf-int=on" };

    for (size_t c = 0; c < ARRAY_SIZE(cpus); c++) {
        QTestState *q = start_with(data, cpus[c]);

        check_cpuid(q, 0);
        for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
            msr_must_be(q, msrs[i], 0);
            g_assert_cmpint(write_msr(q, msrs[i], AREA | EN_BOTH), ==, -1);
            msr_must_be(q, msrs[i], 0);
        }
        qtest_quit(q);
    }
}

static void test_on(const void *data)
{
    QTestState *q = start_with(data, "");

    check_cpuid(q, HAS_APF | HAS_APF_INT);
    qtest_quit(q);
}

static void test_without_interrupt(const void *data)
{
    QTestState *q = start_with(data, ",kvm-asyncpf-int=off");

    check_cpuid(q, HAS_APF);
    must_be_absent(q, MSR_INT);
    must_be_absent(q, MSR_ACK);
    check_write(q, MSR_EN, AREA | EN_BOTH, false);
    check_write(q, MSR_EN, AREA | EN_INT, false);
    check_write(q, MSR_EN, AREA | EN_ENABLED, true);
    qtest_quit(q);
}

static void test_only_interrupt(const void *data)
{
    QTestState *q = start_with(data, ",kvm-asyncpf=off");

    check_cpuid(q, HAS_APF_INT);
    must_be_absent(q, MSR_EN);
    check_write(q, MSR_INT, 0x32, true);
    msr_must_be(q, MSR_ACK, 0);
    qtest_quit(q);
}

static void test_hidden(const void *data)
{
    QTestState *q = start_with(data, ",kvm=off");

    check_cpuid(q, 0);
    must_be_absent(q, MSR_EN);
    must_be_absent(q, MSR_INT);
    must_be_absent(q, MSR_ACK);
    qtest_quit(q);
}

/* Nobody could deliver "page ready". */
static void test_without_apic(const void *data)
{
    QTestState *q = start_with(data, ",-apic");

    check_write(q, MSR_EN, 0, true);
    check_write(q, MSR_EN, AREA | EN_BOTH, false);
    check_write(q, MSR_EN, AREA | EN_ENABLED, false);
    check_write(q, MSR_INT, 0x32, false);
    qtest_quit(q);
}

/* ---- The MSRs ---------------------------------------------------------------------- */

/* All of the low bits, in every combination, turned on and off. */
static void test_enable_flags(const void *data)
{
    QTestState *q = start_with(data, "");

    for (uint64_t flags = 0; flags < 64; flags++) {
        check_write(q, MSR_EN, AREA | flags, !(flags & (EN_VMEXIT | 0x30)));
    }
    check_write(q, MSR_EN, 0, true);
    qtest_quit(q);
}

/* Where events are enabled all 64 bytes must be RAM. */
static void test_enable_area(const void *data)
{
    QTestState *q = start_with(data, "");

    for (unsigned bit = 6; bit < 64; bit++) {
        check_write(q, MSR_EN, 1ull << bit | EN_BOTH, 1ull << bit < RAM);
    }
    check_write(q, MSR_EN, (RAM - 64) | EN_BOTH, true);
    check_write(q, MSR_EN, RAM | EN_BOTH, false);
    check_write(q, MSR_EN, PCI_HOLE | EN_BOTH, false);
    check_write(q, MSR_EN, ROM | EN_BOTH, false);
    check_write(q, MSR_EN, LAPIC | EN_BOTH, false);
    check_write(q, MSR_EN, ~0x3full | EN_BOTH, false);
    check_write(q, MSR_EN, AREA | EN_BOTH | EN_ALWAYS, true);
    qtest_quit(q);
}

static void test_int(const void *data)
{
    QTestState *q = start_with(data, "");

    for (unsigned vector = 0; vector < 256; vector++) {
        check_write(q, MSR_INT, vector, true);
    }
    for (unsigned bit = 8; bit < 64; bit++) {
        check_write(q, MSR_INT, 1ull << bit | 0x32, false);
    }
    msr_must_be(q, MSR_INT, 255);
    qtest_quit(q);
}

static void test_ack(const void *data)
{
    static const uint64_t values[] = { 0, 1, 2, 1ull << 63, ~0ull };
    QTestState *q = start_with(data, "");

    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        g_assert_cmpint(write_msr(q, MSR_ACK, values[i]), ==, -1);
        msr_must_be(q, MSR_ACK, 0);
    }
    qtest_quit(q);
}

static void test_reset(const void *data)
{
    QTestState *q = start_with(data, "");

    check_write(q, MSR_INT, 0x32, true);
    check_write(q, MSR_EN, AREA | EN_BOTH, true);
    qtest_system_reset(q);
    msr_must_be(q, MSR_EN, 0);
    msr_must_be(q, MSR_INT, 0);
    check_cpuid(q, HAS_APF | HAS_APF_INT);
    qtest_quit(q);
}

int main(int argc, char **argv)
{
    static char off[] = "async-pf=off", unset[] = "tdp=off";
    static char on[] = "async-pf=on";

    g_test_init(&argc, &argv, NULL);
    qtest_add_data_func("xmmu/apf/offered/not-off", off, test_off);
    qtest_add_data_func("xmmu/apf/offered/not-by-default", unset, test_off);
    qtest_add_data_func("xmmu/apf/offered/on", on, test_on);
    qtest_add_data_func("xmmu/apf/offered/no-interrupt", on, test_without_interrupt);
    qtest_add_data_func("xmmu/apf/offered/interrupt-only", on, test_only_interrupt);
    qtest_add_data_func("xmmu/apf/offered/kvm-hidden", on, test_hidden);
    qtest_add_data_func("xmmu/apf/offered/no-apic", on, test_without_apic);
    qtest_add_data_func("xmmu/apf/enable/flags", on, test_enable_flags);
    qtest_add_data_func("xmmu/apf/enable/area", on, test_enable_area);
    qtest_add_data_func("xmmu/apf/int", on, test_int);
    qtest_add_data_func("xmmu/apf/ack", on, test_ack);
    qtest_add_data_func("xmmu/apf/reset", on, test_reset);
    return g_test_run();
}
