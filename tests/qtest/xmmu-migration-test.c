/*
 * xmmu: moving a machine that is at work
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every way in which QEMU moves or saves a running machine, with a guest
 * (tests/guest/migrate.c) that writes all its memory again and again and checks what
 * it wrote.  Where the machine is stopped on both sides, their memories are compared
 * page by page too.
 *
 * Each kind of migration runs with two-dimensional and with shadow paging, on one and
 * on two vCPUs, and with each way of logging writes.  A run without arguments takes
 * a part of these combinations so that each value of each meets each kind; -m slow
 * (or XMMU_MIGRATION_ALL=1) takes all.
 *
 * The guests are looked for in $XMMU_GUESTS, else in ../guest from QEMU's directory.
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "libqtest.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "xmmu-migrate-guest.h"

/* QEMU samples pages only in blocks of 128 MiB and more. */
#define RAM_MIB         144
#define PAGE            4096
/* The guest looks at all its memory in so many rounds. */
#define ROUNDS          17
/* Nothing is judged by its speed: who has not moved by then hangs. */
#define LIMIT           (300 * G_USEC_PER_SEC)

/* ---- Machines --------------------------------------------------------------- */

typedef struct Config {
    const char *name, *options;
} Config;

static const Config modes[] = {
    { "npt", "xmmu,tdp=on,pt-format=npt" },
    { "ept", "xmmu,tdp=on,pt-format=ept" },
    { "shadow", "xmmu,tdp=off" },
};

static const Config logs[] = {
    { "wp", ",dirty-log=wp" },
    { "dbit", ",dirty-log=dbit" },
    { "ring", ",dirty-log=ring,dirty-ring-size=1024" },
};

/* One test: a kind of migration in one combination. */
typedef struct Case {
    void (*run)(const struct Case *c);
    char *source, *destination;         /* values of -accel */
    unsigned cpus;
    const char *guest, *words;
} Case;

typedef struct Move {
    const Case *c;
    char *dir;
    QTestState *from, *to;
    unsigned starts;                    /* for names of sockets and files */
    char *uri;
} Move;

static char *guest_path(const char *name)
{
    const char *dir = g_getenv("XMMU_GUESTS");
    g_autofree char *binary = g_path_get_dirname(g_getenv("QTEST_QEMU_BINARY"));
    char *path = dir ? g_strdup_printf("%s/%s.elf", dir, name)
                     : g_strdup_printf("%s/../guest/%s.elf", binary, name);

    if (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        g_error("no guest %s: make -C tests/guest OUT=DIRECTORY", path);
    }
    return path;
}

static QTestState *launch(Move *m, const char *accel, const char *side,
                          const char *more)
{
    const Case *c = m->c;
    g_autofree char *guest = guest_path(c->guest);
    g_autofree char *command = g_strdup_printf(
        "-accel %s -machine pc -cpu max -smp %u -m %u -nodefaults -vga none -no-reboot "
        "-kernel %s -append '%s cpus%u' -debugcon file:%s/%s-%u.console %s",
        accel, c->cpus, RAM_MIB, guest, c->words, c->cpus, m->dir, side, m->starts,
        more);
    QList *capabilities = qlist_new();

    qlist_append_str(capabilities, "oob");
    return qtest_init_with_env_and_capabilities(NULL, command, capabilities, true);
}

/* ---- The guest ---------------------------------------------------------------- */

static void look(QTestState *q, MigrateMailbox *box)
{
    qtest_memread(q, MIGRATE_MAILBOX, box, sizeof(*box));
}

static void check_no_error(const MigrateMailbox *box, unsigned cpus)
{
    for (unsigned i = 0; i < cpus; i++) {
        const MigrateCpu *cpu = &box->cpus[i];

        if (cpu->errors) {
            g_error("CPU %u: %u errors; the first: page %u word %u is 0x%x, not 0x%x; "
                    "in round %u", i, cpu->errors, cpu->bad_page, cpu->bad_word,
                    cpu->bad_found, cpu->bad_wanted, cpu->rounds + 1);
        }
    }
}

/* A wait that can only end by what it waits for. */
typedef struct Wait {
    gint64 until;
    const char *what;
} Wait;

static Wait wait_for(const char *what)
{
    return (Wait) { g_get_monotonic_time() + LIMIT, what };
}

static void wait_more(Wait *wait)
{
    if (g_get_monotonic_time() > wait->until) {
        g_error("%s never came", wait->what);
    }
    g_usleep(5000);
}

static bool all_at(const MigrateMailbox *box, const MigrateMailbox *start,
                   unsigned cpus, unsigned rounds)
{
    for (unsigned i = 0; i < cpus; i++) {
        /* A guest that began anew would be good, too. */
        g_assert_cmpuint(box->cpus[i].rounds, >=, start->cpus[i].rounds);
        if (box->cpus[i].rounds - start->cpus[i].rounds < rounds) {
            return false;
        }
    }
    return true;
}

/* Each vCPU does @rounds more, all of them good. */
static void goes_on(const Case *c, QTestState *q, unsigned rounds)
{
    MigrateMailbox start, now;
    Wait wait = wait_for("the guest's next round");

    look(q, &start);
    do {
        wait_more(&wait);
        look(q, &now);
        check_no_error(&now, c->cpus);
    } while (!all_at(&now, &start, c->cpus, rounds));
}

static void wait_for_guest(const Case *c, QTestState *q)
{
    Wait wait = wait_for("the guest");

    while (qtest_readl(q, MIGRATE_MAILBOX) != MIGRATE_MAGIC) {
        wait_more(&wait);
    }
    goes_on(c, q, 3);
}

/* ---- Memories ------------------------------------------------------------------- */

/* All of the guest's memory, as the stopped machine has it. */
static GMappedFile *memory_of(Move *m, QTestState *q, const char *name)
{
    g_autofree char *path = g_strdup_printf("%s/%s", m->dir, name);
    GMappedFile *file;

    qtest_qmp_assert_success(q, "{ 'execute': 'pmemsave', 'arguments': {"
                             " 'val': 0, 'size': %" PRId64 ", 'filename': %s } }",
                             (int64_t)RAM_MIB * MiB, path);
    file = g_mapped_file_new(path, false, NULL);
    g_assert_nonnull(file);
    g_assert_cmpuint(g_mapped_file_get_length(file), ==, RAM_MIB * MiB);
    unlink(path);
    return file;
}

static void must_be_equal(GMappedFile *a, GMappedFile *b)
{
    const char *one = g_mapped_file_get_contents(a);
    const char *two = g_mapped_file_get_contents(b);
    size_t first = 0, count = 0;

    for (size_t at = 0; at < RAM_MIB * MiB; at += PAGE) {
        if (memcmp(one + at, two + at, PAGE)) {
            first = count ? first : at;
            count++;
        }
    }
    if (count) {
        g_error("%zu pages differ, the first at 0x%zx", count, first);
    }
    g_mapped_file_unref(a);
    g_mapped_file_unref(b);
}

/* ---- Source and destination ----------------------------------------------------- */

static void set_speed(QTestState *q, int64_t bytes_per_second, int downtime_ms)
{
    migrate_set_parameter_int(q, "max-bandwidth", bytes_per_second);
    migrate_set_parameter_int(q, "downtime-limit", downtime_ms);
}

/* The guest writes more than this brings over. */
static void go_slowly(QTestState *q)
{
    set_speed(q, 16 * MiB, 1);
}

static void let_converge(QTestState *q)
{
    set_speed(q, 8 * GiB, 30000);
}

static void start_destination(Move *m, bool paused)
{
    g_autofree char *more = g_strdup_printf("-incoming defer %s", paused ? "-S" : "");

    m->starts++;
    m->to = launch(m, m->c->destination, "destination", more);
    g_free(m->uri);
    m->uri = g_strdup_printf("unix:%s/socket%u", m->dir, m->starts);
}

static void start_source(Move *m, const Case *c)
{
    g_autoptr(GError) error = NULL;
    bool shm = g_file_test("/dev/shm", G_FILE_TEST_IS_DIR);

    *m = (Move) { .c = c };
    m->dir = shm ? g_strdup("/dev/shm/xmmu-migration-XXXXXX")
                 : g_strdup_printf("%s/xmmu-migration-XXXXXX", g_get_tmp_dir());
    g_assert_nonnull(g_mkdtemp(m->dir));
    m->from = launch(m, c->source, "source", "");
    migrate_set_capability(m->from, "events", true);
}

static void start_both(Move *m, const Case *c, bool paused)
{
    start_source(m, c);
    start_destination(m, paused);
    wait_for_guest(c, m->from);
}

static void set_on_both(Move *m, const char *capability)
{
    migrate_set_capability(m->from, capability, true);
    migrate_set_capability(m->to, capability, true);
}

static void begin(Move *m)
{
    go_slowly(m->from);
    migrate_incoming_qmp(m->to, m->uri, NULL, "{}");
    migrate_qmp(m->from, m->to, m->uri, NULL, "{}");
}

/* Memory was brought over so many times. */
static void wait_for_pass(Move *m, uint64_t pass)
{
    Wait wait = wait_for("the next pass");

    while (get_migration_pass(m->from) < pass) {
        wait_more(&wait);
    }
}

/* Source and destination are stopped; the guest then goes on. */
static void arrive(Move *m)
{
    let_converge(m->from);
    wait_for_migration_complete(m->from);
    wait_for_migration_complete(m->to);
    must_be_equal(memory_of(m, m->from, "source"), memory_of(m, m->to, "destination"));
    qtest_qmp_assert_success(m->to, "{ 'execute': 'cont' }");
    goes_on(m->c, m->to, ROUNDS);
}

static void remove_files(const char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        unlink(file);
    }
    g_dir_close(dir);
    rmdir(path);
}

static void finish(Move *m)
{
    if (m->from) {
        qtest_quit(m->from);
    }
    if (m->to) {
        qtest_quit(m->to);
    }
    remove_files(m->dir);
    g_free(m->dir);
    g_free(m->uri);
}

/* ---- Kinds of migration ------------------------------------------------------------ */

static void test_precopy(const Case *c)
{
    Move m;

    start_both(&m, c, true);
    begin(&m);
    wait_for_pass(&m, 3);
    arrive(&m);
    finish(&m);
}

static void test_multifd(const Case *c)
{
    Move m;

    start_both(&m, c, true);
    set_on_both(&m, "multifd");
    migrate_set_parameter_int(m.from, "multifd-channels", 3);
    migrate_set_parameter_int(m.to, "multifd-channels", 3);
    begin(&m);
    wait_for_pass(&m, 3);
    arrive(&m);
    finish(&m);
}

/* The source goes on, and then moves to another destination. */
static void test_cancel(const Case *c)
{
    Move m;

    start_both(&m, c, true);
    begin(&m);
    wait_for_pass(&m, 2);
    migrate_cancel(m.from);
    wait_for_migration_status(m.from, "cancelled",
                              (const char *[]) { "completed", "failed", NULL });
    qtest_set_expected_status(m.to, EXIT_FAILURE);
    qtest_wait_qemu(m.to);
    qtest_quit(m.to);
    goes_on(c, m.from, ROUNDS);
    start_destination(&m, true);
    begin(&m);
    wait_for_pass(&m, 3);
    arrive(&m);
    finish(&m);
}

static void test_auto_converge(const Case *c)
{
    Wait wait = wait_for("a vCPU that is held back");
    Move m;

    start_both(&m, c, true);
    migrate_set_capability(m.from, "auto-converge", true);
    migrate_set_parameter_int(m.from, "throttle-trigger-threshold", 10);
    migrate_set_parameter_int(m.from, "cpu-throttle-initial", 30);
    begin(&m);
    while (read_migrate_property_int(m.from, "cpu-throttle-percentage") == 0) {
        wait_more(&wait);
    }
    arrive(&m);
    finish(&m);
}

static void start_postcopy(Move *m, const Case *c)
{
    start_both(m, c, false);
    set_on_both(m, "postcopy-ram");
    begin(m);
    wait_for_pass(m, 2);
    migrate_set_parameter_int(m->from, "max-postcopy-bandwidth", 8 * MiB);
    qtest_qmp_assert_success(m->from, "{ 'execute': 'migrate-start-postcopy' }");
    qtest_qmp_eventwait(m->to, "RESUME");
}

/* The guest ran at the destination while its memory was still coming. */
static void end_postcopy(Move *m)
{
    migrate_set_parameter_int(m->from, "max-postcopy-bandwidth", 0);
    wait_for_migration_complete(m->from);
    g_assert_cmpint(read_ram_property_int(m->from, "postcopy-requests"), >, 0);
    goes_on(m->c, m->to, ROUNDS);
}

static void test_postcopy(const Case *c)
{
    Move m;

    start_postcopy(&m, c);
    goes_on(c, m.to, 1);
    end_postcopy(&m);
    finish(&m);
}

static void wait_until_paused(QTestState *q)
{
    wait_for_migration_status(q, "postcopy-paused",
                              (const char *[]) { "failed", "completed", NULL });
}

/* The connection breaks when a part of the memory is here and a part there. */
static void test_postcopy_recover(const Case *c)
{
    g_autofree char *uri = NULL;
    Move m;

    start_postcopy(&m, c);
    migrate_pause(m.from);
    wait_until_paused(m.from);
    wait_until_paused(m.to);
    uri = g_strdup_printf("unix:%s/recover", m.dir);
    migrate_recover(m.to, uri);
    migrate_qmp(m.from, m.to, uri, NULL, "{ 'resume': true }");
    end_postcopy(&m);
    finish(&m);
}

/* The machine's state at one moment, written while it goes on. */
static void test_background_snapshot(const Case *c)
{
    g_autofree char *uri = NULL;
    MigrateMailbox before, saved;
    Move m;

    start_source(&m, c);
    wait_for_guest(c, m.from);
    look(m.from, &before);
    migrate_set_capability(m.from, "background-snapshot", true);
    migrate_set_parameter_int(m.from, "max-bandwidth", 64 * MiB);
    uri = g_strdup_printf("file:%s/snapshot", m.dir);
    migrate_qmp(m.from, NULL, uri, NULL, "{}");
    goes_on(c, m.from, 3);
    migrate_set_parameter_int(m.from, "max-bandwidth", 8 * GiB);
    wait_for_migration_complete(m.from);
    goes_on(c, m.from, ROUNDS);

    start_destination(&m, true);
    migrate_incoming_qmp(m.to, uri, NULL, "{}");
    wait_for_migration_complete(m.to);
    look(m.to, &saved);
    g_assert_true(all_at(&saved, &before, c->cpus, 0));
    qtest_qmp_assert_success(m.to, "{ 'execute': 'cont' }");
    goes_on(c, m.to, ROUNDS);
    finish(&m);
}

/* ---- Snapshots in an image ------------------------------------------------------- */

/* True when it has ended well, and is forgotten then. */
static bool job_is_done(QTestState *q, const char *id)
{
    g_autoptr(QDict) answer = qtest_qmp(q, "{ 'execute': 'query-jobs' }");
    QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "return"), entry) {
        QDict *job = qobject_to(QDict, qlist_entry_obj(entry));

        if (g_str_equal(qdict_get_str(job, "id"), id) &&
            g_str_equal(qdict_get_str(job, "status"), "concluded")) {
            if (qdict_haskey(job, "error")) {
                g_error("%s: %s", id, qdict_get_str(job, "error"));
            }
            qtest_qmp_assert_success(q, "{ 'execute': 'job-dismiss',"
                                     " 'arguments': { 'id': %s } }", id);
            return true;
        }
    }
    return false;
}

static void wait_for_job(QTestState *q, const char *id)
{
    Wait wait = wait_for(id);

    while (!job_is_done(q, id)) {
        wait_more(&wait);
    }
}

static void make_image(QTestState *q, const char *path)
{
    qtest_qmp_assert_success(q, "{ 'execute': 'blockdev-create', 'arguments': {"
                             " 'job-id': 'file', 'options': { 'driver': 'file',"
                             " 'filename': %s, 'size': 0 } } }", path);
    wait_for_job(q, "file");
    qtest_qmp_assert_success(q, "{ 'execute': 'blockdev-add', 'arguments': {"
                             " 'driver': 'file', 'filename': %s,"
                             " 'node-name': 'bytes' } }", path);
    qtest_qmp_assert_success(q, "{ 'execute': 'blockdev-create', 'arguments': {"
                             " 'job-id': 'format', 'options': { 'driver': 'qcow2',"
                             " 'file': 'bytes', 'size': 1048576 } } }");
    wait_for_job(q, "format");
    qtest_qmp_assert_success(q, "{ 'execute': 'blockdev-add', 'arguments': {"
                             " 'driver': 'qcow2', 'file': 'bytes',"
                             " 'node-name': 'state' } }");
}

static void snapshot(QTestState *q, const char *command)
{
    qtest_qmp_assert_success(q, "{ 'execute': %s, 'arguments': { 'job-id': %s,"
                             " 'tag': 'here', 'vmstate': 'state',"
                             " 'devices': [ 'state' ] } }", command, command);
    wait_for_job(q, command);
}

/* The machine goes back to what it was, and again from there. */
static void test_savevm(const Case *c)
{
    g_autofree char *path = NULL;
    GMappedFile *saved;
    Move m;

    start_source(&m, c);
    path = g_strdup_printf("%s/image", m.dir);
    make_image(m.from, path);
    wait_for_guest(c, m.from);
    qtest_qmp_assert_success(m.from, "{ 'execute': 'stop' }");
    saved = memory_of(&m, m.from, "saved");
    snapshot(m.from, "snapshot-save");
    qtest_qmp_assert_success(m.from, "{ 'execute': 'cont' }");
    goes_on(c, m.from, ROUNDS);
    qtest_qmp_assert_success(m.from, "{ 'execute': 'stop' }");
    snapshot(m.from, "snapshot-load");
    must_be_equal(saved, memory_of(&m, m.from, "loaded"));
    qtest_qmp_assert_success(m.from, "{ 'execute': 'cont' }");
    goes_on(c, m.from, ROUNDS);
    finish(&m);
}

/* ---- Rates -------------------------------------------------------------------------- */

static int64_t measured_rate(QTestState *q, const char *how)
{
    Wait wait = wait_for("the rate");
    int64_t rate = -1;
    g_autofree char *command = g_strdup_printf(
        "{ 'execute': 'calc-dirty-rate', 'arguments': { 'calc-time': 200,"
        " 'calc-time-unit': 'millisecond', %s } }", how);
    QDict *begun = qtest_qmp(q, command, NULL);

    g_assert_true(qdict_haskey(begun, "return"));
    qobject_unref(begun);
    while (rate < 0) {
        QDict *answer;

        wait_more(&wait);
        answer = qtest_qmp_assert_success_ref(q, "{ 'execute': 'query-dirty-rate' }");
        if (g_str_equal(qdict_get_str(answer, "status"), "measured")) {
            rate = qdict_get_int(answer, "dirty-rate");
        }
        qobject_unref(answer);
    }
    return rate;
}

static bool has_ring(const Case *c)
{
    return strstr(c->source, "dirty-log=ring");
}

/* A guest that writes has a rate, one that is stopped has none.  As with KVM, who has
 * rings has no bitmap. */
static void test_dirty_rate(const Case *c)
{
    const char *sampling = "'mode': 'page-sampling', 'sample-pages': 4096";
    const char *exact = has_ring(c) ? "'mode': 'dirty-ring'" : "'mode': 'dirty-bitmap'";
    Move m;

    start_source(&m, c);
    wait_for_guest(c, m.from);
    g_assert_cmpint(measured_rate(m.from, sampling), >, 0);
    g_assert_cmpint(measured_rate(m.from, exact), >, 0);
    goes_on(c, m.from, ROUNDS);
    qtest_qmp_assert_success(m.from, "{ 'execute': 'stop' }");
    g_assert_cmpint(measured_rate(m.from, sampling), ==, 0);
    g_assert_cmpint(measured_rate(m.from, exact), ==, 0);
    finish(&m);
}

static void must_refuse(QTestState *q, const char *words, const char *command)
{
    g_autoptr(QDict) error = qtest_qmp_assert_failure_ref(q, command, NULL);
    const char *text = qdict_get_str(error, "desc");

    if (!strstr(text, words)) {
        g_error("%s gives: %s", command, text);
    }
}

/* The highest rate of a vCPU, in MiB/s; there are to be @count with a limit of @limit. */
static int64_t highest_rate(QTestState *q, unsigned count, int64_t limit)
{
    g_autoptr(QDict) answer = qtest_qmp(q, "{ 'execute': 'query-vcpu-dirty-limit' }");
    QList *list = qdict_get_qlist(answer, "return");
    const QListEntry *entry;
    int64_t highest = 0;

    g_assert_cmpuint(qlist_size(list), ==, count);
    QLIST_FOREACH_ENTRY(list, entry) {
        QDict *vcpu = qobject_to(QDict, qlist_entry_obj(entry));

        g_assert_cmpint(qdict_get_int(vcpu, "limit-rate"), ==, limit);
        highest = MAX(highest, qdict_get_int(vcpu, "current-rate"));
    }
    return highest;
}

static void set_limit_capability(QTestState *q, bool on)
{
    qtest_qmp_assert_success(q, "{ 'execute': 'migrate-set-capabilities', 'arguments': {"
                             " 'capabilities': [ { 'capability': 'dirty-limit',"
                             " 'state': %i } ] } }", on);
}

/* The rate comes down to the limit; QEMU is content with 25 MiB/s more. */
static void check_limit(const Case *c)
{
    Case large = *c;
    Wait wait = wait_for("the limit");
    Move m;

    large.words = "mb64 writer";
    start_source(&m, &large);
    wait_for_guest(&large, m.from);
    qtest_qmp_assert_success(m.from, "{ 'execute': 'set-vcpu-dirty-limit',"
                             " 'arguments': { 'dirty-rate': 4 } }");
    while (!highest_rate(m.from, c->cpus, 4)) {
        wait_more(&wait);
    }
    while (highest_rate(m.from, c->cpus, 4) > 4 + 25) {
        wait_more(&wait);
    }
    qtest_qmp_assert_success(m.from, "{ 'execute': 'cancel-vcpu-dirty-limit' }");
    highest_rate(m.from, 0, 0);
    set_limit_capability(m.from, true);
    set_limit_capability(m.from, false);
    goes_on(&large, m.from, 1);
    finish(&m);
}

/* Without a ring it is refused with a reason, and the guest does not notice. */
static void refuse_limit(const Case *c)
{
    Move m;

    start_source(&m, c);
    wait_for_guest(c, m.from);
    must_refuse(m.from, "requires KVM", "{ 'execute': 'set-vcpu-dirty-limit',"
                " 'arguments': { 'dirty-rate': 10 } }");
    must_refuse(m.from, "requires KVM", "{ 'execute': 'migrate-set-capabilities',"
                " 'arguments': { 'capabilities': [ { 'capability': 'dirty-limit',"
                " 'state': true } ] } }");
    must_refuse(m.from, "not enabled", "{ 'execute': 'calc-dirty-rate', 'arguments': {"
                " 'calc-time': 1, 'mode': 'dirty-ring' } }");
    goes_on(c, m.from, ROUNDS);
    finish(&m);
}

static void test_dirty_limit(const Case *c)
{
    if (has_ring(c)) {
        check_limit(c);
    } else {
        refuse_limit(c);
    }
}

/* ---- Which tests there are ---------------------------------------------------------- */

typedef struct Kind {
    const char *name;
    void (*run)(const Case *c);
} Kind;

static const Kind kinds[] = {
    { "precopy", test_precopy },
    { "multifd", test_multifd },
    { "postcopy", test_postcopy },
    { "postcopy-recover", test_postcopy_recover },
    { "cancel", test_cancel },
    { "auto-converge", test_auto_converge },
    { "background-snapshot", test_background_snapshot },
    { "savevm", test_savevm },
    { "dirty-rate", test_dirty_rate },
    { "dirty-limit", test_dirty_limit },
};

static void run_case(const void *data)
{
    const Case *c = data;

    c->run(c);
}

static void add(const char *path, Case c)
{
    qtest_add_data_func(path, g_memdup2(&c, sizeof(c)), run_case);
}

static bool everything(void)
{
    return g_test_slow() || g_getenv("XMMU_MIGRATION_ALL");
}

/* Without "everything" the modes go round with CPUs and logs, not through them. */
static bool wanted(size_t kind, size_t mode, size_t cpus, size_t log)
{
    return everything() || log == (kind + mode + cpus) % ARRAY_SIZE(logs);
}

static void add_kind(size_t k, size_t mode, size_t log, unsigned cpus)
{
    g_autofree char *path = g_strdup_printf(
        "xmmu/migration/%s/%s/%s/cpus%u", kinds[k].name, modes[mode].name,
        logs[log].name, cpus);
    char *accel = g_strconcat(modes[mode].options, logs[log].options, NULL);

    add(path, (Case) { kinds[k].run, accel, accel, cpus, "migrate64", "mb8" });
}

/* Shadow paging and one of the formats; the pairs below have the other one. */
static void add_kinds(void)
{
    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        for (size_t mode = 0; mode < ARRAY_SIZE(modes); mode++) {
            for (size_t log = 0; log < ARRAY_SIZE(logs); log++) {
                for (unsigned cpus = 1; cpus <= 2; cpus++) {
                    if (g_str_equal(modes[mode].name, "ept") && !everything()) {
                        continue;
                    }
                    if (wanted(k, mode, cpus, log)) {
                        add_kind(k, mode, log, cpus);
                    }
                }
            }
        }
    }
}

/* What is different here must not matter: none of it is in the stream. */
static void add_pair(size_t from, size_t to, const char *guest, unsigned cpus)
{
    g_autofree char *path = g_strdup_printf("xmmu/migration/pair/%s-to-%s/%s",
                                            modes[from].name, modes[to].name, guest);
    char *source = g_strconcat(modes[from].options, ",prev-roots=0", NULL);
    char *destination = g_strconcat(modes[to].options,
                                    ",prev-roots=16,huge-pages=off,verify=on", NULL);

    add(path, (Case) { test_precopy, source, destination, cpus, guest, "mb2" });
}

static void add_pairs(void)
{
    for (size_t from = 0; from < ARRAY_SIZE(modes); from++) {
        for (size_t to = 0; to < ARRAY_SIZE(modes); to++) {
            add_pair(from, to, "migrate64", 2);
            add_pair(from, to, "migrate32", 1);
        }
    }
    add("xmmu/migration/pair/savevm/migrate32",
        (Case) { test_savevm, g_strdup("xmmu"), g_strdup("xmmu"), 1, "migrate32", "mb2" });
    add("xmmu/migration/pair/tcg-to-xmmu",
        (Case) { test_precopy, g_strdup("tcg"), g_strdup("xmmu"), 2, "migrate64", "mb2" });
    add("xmmu/migration/pair/xmmu-to-tcg",
        (Case) { test_precopy, g_strdup("xmmu"), g_strdup("tcg"), 2, "migrate64", "mb2" });
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (!g_getenv("QTEST_QEMU_BINARY")) {
        g_error("QTEST_QEMU_BINARY is not set");
    }
    add_kinds();
    add_pairs();
    return g_test_run();
}
