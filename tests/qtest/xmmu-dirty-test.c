/*
 * xmmu: what the log of writes is for: live migration of a guest that writes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Each way to log writes, with two-dimensional and with shadow paging, on one vCPU and
 * on two.  A guest (below, in its boot sector) counts each page of its part of memory
 * up, pass after pass, and stops for good when a page does not hold what the pass before
 * wrote.  It is migrated while it does so, several iterations of the memory long.  Then
 * the memory of the stopped source must be that of the stopped destination, byte for
 * byte, and the guest must go on there for two passes and more.
 *
 * verify=on compares what our log says with what TCG saw.
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "qobject/qdict.h"

#define RAM         (32 * MiB)
#define PROGRESS    0x9000      /* for each vCPU: passes, address of a bad page */
#define ITERATIONS  4           /* of migration, before it may end */

/*
 * The boot sector, at 0x7c00.  4 MiB pages map everything one to one; vCPU n counts in
 * the 4 MiB from 8 MiB + n * 4 MiB on.
 */
asm(".pushsection .rodata\n"
    ".global guest_code, guest_code_end\n"
    "guest_code:\n"
    ".code16\n"
    "    cli\n"
    "    xorw %ax, %ax\n"
    "    movw %ax, %ds\n"
    "    lgdtl 0x7c00 + gdtr - guest_code\n"
    "    movl %cr0, %eax\n"
    "    orb $1, %al\n"
    "    movl %eax, %cr0\n"
    "    ljmpl $8, $(0x7c00 + start32 - guest_code)\n"
    ".code32\n"
    "start32:\n"
    "    movw $16, %ax\n"
    "    movw %ax, %ds\n"
    "    movw %ax, %es\n"
    "    movw %ax, %ss\n"
    "    movl 0xfee00020, %ebx\n"               /* APIC ID */
    "    shrl $24, %ebx\n"
    "    jnz paging\n"
    "    movl $0x10000, %edi\n"                 /* page directory */
    "    movl $0x83, %eax\n"
    "1:  movl %eax, (%edi)\n"
    "    addl $4, %edi\n"
    "    addl $0x400000, %eax\n"
    "    jnc 1b\n"
    "    movl $0x007c00ea, 0x8000\n"            /* ljmp 0:0x7c00, for the others */
    "    movb $0, 0x8004\n"
    "    movl $0xc4500, 0xfee00300\n"           /* INIT to all but this one */
    "    movl $1000000, %ecx\n"
    "2:  loop 2b\n"
    "    movl $0xc4608, 0xfee00300\n"           /* start them at 0x8000 */
    "paging:\n"
    "    movl %cr4, %eax\n"
    "    orb $0x10, %al\n"                      /* PSE */
    "    movl %eax, %cr4\n"
    "    movl $0x10000, %eax\n"
    "    movl %eax, %cr3\n"
    "    movl %cr0, %eax\n"
    "    orl $0x80010000, %eax\n"               /* PG, WP */
    "    movl %eax, %cr0\n"
    "    movl %ebx, %esi\n"
    "    shll $22, %esi\n"
    "    addl $0x800000, %esi\n"
    "    xorl %ebp, %ebp\n"
    "pass:\n"
    "    incl %ebp\n"
    "    movl %esi, %edi\n"
    "    movl $1024, %ecx\n"
    "3:  movl (%edi), %eax\n"
    "    incl %eax\n"
    "    cmpl %eax, %ebp\n"
    "    jne bad\n"
    "    movl %eax, (%edi)\n"
    "    movl %eax, 4092(%edi)\n"
    "    addl $4096, %edi\n"
    "    loop 3b\n"
    "    movl %ebp, 0x9000(,%ebx,8)\n"
    "    jmp pass\n"
    "bad:\n"
    "    movl %edi, 0x9004(,%ebx,8)\n"
    "4:  hlt\n"
    "    jmp 4b\n"
    ".balign 8\n"
    "gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff\n"
    "gdtr: .word 23\n"
    "    .long 0x7c00 + gdt - guest_code\n"
    ".org guest_code + 510\n"
    "    .word 0xaa55\n"
    "guest_code_end:\n"
    ".code64\n"
    ".popsection\n");
extern const uint8_t guest_code[], guest_code_end[];

typedef struct Case {
    const char *log;
    bool tdp;
    unsigned cpus;
} Case;

static char *directory;

static char *path_of(const char *name)
{
    return g_strdup_printf("%s/%s", directory, name);
}

static QTestState *start_vm(const Case *c, const char *more)
{
    g_autofree char *disk = path_of("disk");

    return qtest_initf("-accel xmmu,engine=soft,dirty-log=%s%s,tdp=%s,verify=on,"
                       "thread=multi -machine pc -cpu max -smp %u -m %u "
                       "-nodefaults -display none -drive file=%s,format=raw,snapshot=on "
                       "%s", c->log, !strcmp(c->log, "ring") ? ",dirty-ring-size=64" : "",
                       c->tdp ? "on" : "off", c->cpus, (unsigned)(RAM / MiB), disk, more);
}

/* ---- The guest ------------------------------------------------------------------- */

/* Passes that the slowest vCPU has done. */
static uint32_t passes(QTestState *q, const Case *c)
{
    uint32_t least = UINT32_MAX;

    for (unsigned i = 0; i < c->cpus; i++) {
        g_assert_cmphex(qtest_readl(q, PROGRESS + 8 * i + 4), ==, 0);
        least = MIN(least, qtest_readl(q, PROGRESS + 8 * i));
    }
    return least;
}

static void wait_passes(QTestState *q, const Case *c, uint32_t count)
{
    uint32_t now = passes(q, c), end = now + count;

    while (now < end) {
        g_usleep(10 * 1000);
        now = passes(q, c);
    }
}

/* ---- Migration -------------------------------------------------------------------- */

static void set_parameters(QTestState *q, uint64_t bandwidth, uint64_t downtime_ms)
{
    qtest_qmp_assert_success(q, "{ 'execute': 'migrate-set-parameters', 'arguments': {"
                             " 'max-bandwidth': %" PRIu64 ", 'downtime-limit': %" PRIu64
                             " } }", bandwidth, downtime_ms);
}

static QDict *query_migrate(QTestState *q)
{
    return qtest_qmp_assert_success_ref(q, "{ 'execute': 'query-migrate' }");
}

static bool status_is(QTestState *q, const char *wanted)
{
    QDict *info = query_migrate(q);
    const char *status = qdict_get_try_str(info, "status");
    bool is = status && !strcmp(status, wanted);

    g_assert_cmpstr(status, !=, "failed");
    qobject_unref(info);
    return is;
}

/* At least that many iterations are begun; or it has come to an end. */
static bool iterated(QTestState *q, int64_t count)
{
    QDict *info = query_migrate(q);
    QDict *ram = qdict_get_qdict(info, "ram");
    const char *status = qdict_get_try_str(info, "status");
    int64_t now = ram ? qdict_get_int(ram, "dirty-sync-count") : 0;
    bool ended = status && !strcmp(status, "completed");

    g_assert_cmpstr(status, !=, "failed");
    qobject_unref(info);
    return ended || now >= count;
}

static void wait_status(QTestState *q, const char *wanted)
{
    while (!status_is(q, wanted)) {
        g_usleep(10 * 1000);
    }
}

/* Slowly first, so that the guest writes to what has been sent. */
static void migrate(QTestState *from, QTestState *to)
{
    g_autofree char *uri = g_strdup_printf("unix:%s/socket", directory);

    set_parameters(from, 16 * MiB, 1);
    qtest_qmp_assert_success(to, "{ 'execute': 'migrate-incoming', 'arguments': {"
                             " 'uri': %s } }", uri);
    qtest_qmp_assert_success(from, "{ 'execute': 'migrate', 'arguments': {"
                             " 'uri': %s } }", uri);
    while (!iterated(from, ITERATIONS)) {
        g_usleep(10 * 1000);
    }
    set_parameters(from, 8 * GiB, 20 * 1000);
    wait_status(from, "completed");
    wait_status(to, "completed");
}

static void save_memory(QTestState *q, const char *file)
{
    qtest_qmp_assert_success(q, "{ 'execute': 'pmemsave', 'arguments': { 'val': 0,"
                             " 'size': %u, 'filename': %s } }", (unsigned)RAM, file);
}

static void compare_memory(QTestState *from, QTestState *to)
{
    g_autofree char *a = path_of("from"), *b = path_of("to");
    g_autofree char *x = NULL, *y = NULL;
    size_t m, n;

    save_memory(from, a);
    save_memory(to, b);
    g_assert_true(g_file_get_contents(a, &x, &m, NULL));
    g_assert_true(g_file_get_contents(b, &y, &n, NULL));
    g_assert_cmpuint(m, ==, RAM);
    g_assert_cmpuint(n, ==, RAM);
    for (size_t i = 0; i < RAM; i += 4 * KiB) {
        if (memcmp(x + i, y + i, 4 * KiB)) {
            g_error("page 0x%zx differs", i);
        }
    }
    unlink(a);
    unlink(b);
}

static uint64_t counter(QTestState *q, const char *name)
{
    QDict *status = qtest_qmp_assert_success_ref(q, "{ 'execute': 'x-query-xmmu' }");
    uint64_t value = qdict_get_int(qdict_get_qdict(status, "stats"), name);

    qobject_unref(status);
    return value;
}

static void test_precopy(const void *data)
{
    const Case *c = data;
    QTestState *from = start_vm(c, ""), *to = start_vm(c, "-incoming defer -S");

    wait_passes(from, c, 2);
    migrate(from, to);
    /* What was sent again was known from our log. */
    g_assert_cmpuint(counter(from, "dirty-pages"), >, 0);
    g_assert_cmpuint(counter(from, "dirty-reported"), >, 0);
    if (!strcmp(c->log, "ring")) {
        g_assert_cmpuint(counter(from, "dirty-ring-full"), >, 0);
    }
    compare_memory(from, to);
    qtest_quit(from);
    qtest_qmp_assert_success(to, "{ 'execute': 'cont' }");
    wait_passes(to, c, 3);
    qtest_quit(to);
}

/* Written by a guest while nobody migrates: pages are large again afterwards. */
static void test_cancel(const void *data)
{
    const Case *c = data;
    QTestState *from = start_vm(c, ""), *to = start_vm(c, "-incoming defer -S");
    g_autofree char *uri = g_strdup_printf("unix:%s/socket", directory);

    wait_passes(from, c, 1);
    set_parameters(from, 4 * MiB, 1);
    qtest_qmp_assert_success(to, "{ 'execute': 'migrate-incoming', 'arguments': {"
                             " 'uri': %s, 'exit-on-error': false } }", uri);
    qtest_qmp_assert_success(from, "{ 'execute': 'migrate', 'arguments': {"
                             " 'uri': %s } }", uri);
    while (!iterated(from, 1)) {
        g_usleep(10 * 1000);
    }
    qtest_qmp_assert_success(from, "{ 'execute': 'migrate_cancel' }");
    wait_status(from, "cancelled");
    qtest_quit(to);
    wait_passes(from, c, 1);
    to = start_vm(c, "-incoming defer -S");
    migrate(from, to);
    compare_memory(from, to);
    qtest_quit(from);
    qtest_qmp_assert_success(to, "{ 'execute': 'cont' }");
    wait_passes(to, c, 2);
    qtest_quit(to);
}

/* ---- Cases ------------------------------------------------------------------------- */

static const Case cases[] = {
    { "wp", true, 2 }, { "wp", false, 2 },
    { "dbit", true, 2 }, { "dbit", false, 2 },
    { "ring", true, 2 }, { "ring", false, 2 },
    /* With g_test_slow() only. */
    { "wp", true, 1 }, { "wp", false, 1 },
    { "dbit", true, 1 }, { "dbit", false, 1 },
    { "ring", true, 1 }, { "ring", false, 1 },
};

static void make_disk(void)
{
    g_autofree char *disk = path_of("disk");

    g_assert_cmpuint(guest_code_end - guest_code, ==, 512);
    g_assert_true(g_file_set_contents(disk, (const char *)guest_code, 512, NULL));
}

static void add(const char *what, const Case *c, void (*fn)(const void *))
{
    g_autofree char *path = g_strdup_printf("xmmu/dirty/%s/%s/tdp-%s/%u", what,
                                            c->log, c->tdp ? "on" : "off", c->cpus);

    qtest_add_data_func(path, c, fn);
}

static void remove_files(void)
{
    static const char *const names[] = { "disk", "socket", "from", "to" };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *path = path_of(names[i]);

        unlink(path);
    }
    rmdir(directory);
}

int main(int argc, char **argv)
{
    int result;

    g_test_init(&argc, &argv, NULL);
    directory = g_dir_make_tmp("xmmu-dirty-XXXXXX", NULL);
    g_assert_nonnull(directory);
    make_disk();
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (cases[i].cpus == 2 || g_test_slow()) {
            add("precopy", &cases[i], test_precopy);
        }
    }
    add("cancel", &cases[0], test_cancel);
    add("cancel", &cases[1], test_cancel);
    result = g_test_run();
    remove_files();
    g_free(directory);
    return result;
}
