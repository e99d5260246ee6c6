/*
 * xmmu: what the qtests of xmmu share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The commands of target/i386/xmmu/qtest.c as functions, and the configurations
 * in which each test runs.
 */
#ifndef XMMU_QTEST_H
#define XMMU_QTEST_H

#include "libqtest.h"

/* From qemu/hooks/libqtest-command.hook. */
GString *xmmu_qtest_command(QTestState *s, const char *line);

/* ---- Configurations -------------------------------------------------------- */

typedef struct Config {
    const char *name, *options;
    bool tdp;
} Config;

static const Config configs[] = {
    { "tdp-npt", "tdp=on,pt-format=npt", true },
    { "tdp-ept", "tdp=on,pt-format=ept", true },
    { "shadow-npt", "tdp=off,pt-format=npt", false },
    { "shadow-ept", "tdp=off,pt-format=ept", false },
};

/* Of this name the environment has more options of the accelerator (engine=native). */
#define MORE_OPTIONS "XMMU_QTEST_OPTIONS"

/* -cpu max has what TCG has; with engine=native, what the host has of it. */
static inline bool cpu_has_all(void)
{
    return !g_getenv(MORE_OPTIONS);
}

/* A machine whose vCPUs do not execute.  @extra: more options, or "". */
static inline QTestState *start(const Config *config, const char *extra)
{
    const char *more = g_getenv(MORE_OPTIONS);

    return qtest_initf("-accel xmmu,%s%s%s -cpu max -S -nodefaults %s",
                       config->options, more ? "," : "", more ?: "", extra);
}

/* Registers @fn once for each configuration, as /CONFIG/@path. */
static inline void add_for_all(const char *path, void (*fn)(const void *))
{
    for (size_t i = 0; i < ARRAY_SIZE(configs); i++) {
        g_autofree char *full = g_strdup_printf("xmmu/%s/%s", configs[i].name,
                                                path);

        qtest_add_data_func(full, &configs[i], fn);
    }
}

/* ---- Commands --------------------------------------------------------------- */

static inline char *G_GNUC_PRINTF(2, 3) ask(QTestState *q, const char *fmt, ...)
{
    g_autofree char *line = NULL;
    va_list ap;

    va_start(ap, fmt);
    line = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return g_string_free(xmmu_qtest_command(q, line), FALSE);
}

/* The value of "NAME=..." in an answer. */
static inline bool field(const char *answer, const char *name, uint64_t *value)
{
    g_autofree char *key = g_strdup_printf(" %s=", name);
    const char *at = strstr(answer, key);

    return at && qemu_strtou64(at + strlen(key), &at, 0, value) >= 0;
}

static inline uint64_t number_of(const char *answer)
{
    uint64_t value;

    if (!g_str_has_prefix(answer, "OK ") ||
        qemu_strtou64(answer + 3, NULL, 0, &value) < 0) {
        g_error("no number: %s", answer);
    }
    return value;
}

/* An exception, or none (vector -1). */
typedef struct Exception {
    int vector;
    uint32_t error;
    uint64_t cr2;
} Exception;

static inline Exception exception_of(const char *answer)
{
    Exception e = { -1, 0, 0 };
    uint64_t vector, error;

    if (!g_str_has_prefix(answer, "OK")) {
        g_error("refused: %s", answer);
    }
    if (field(answer, "exception", &vector)) {
        g_assert_true(field(answer, "error", &error));
        e.vector = vector;
        e.error = error;
        field(answer, "cr2", &e.cr2);
    }
    return e;
}

static inline Exception write_reg(QTestState *q, const char *reg, uint64_t value)
{
    g_autofree char *answer = ask(q, "xmmu_write_reg 0 %s 0x%" PRIx64, reg,
                                  value);

    return exception_of(answer);
}

/* A write that must be legal. */
static inline void set_reg(QTestState *q, const char *reg, uint64_t value)
{
    Exception e = write_reg(q, reg, value);

    if (e.vector != -1) {
        g_error("%s = 0x%" PRIx64 " was refused", reg, value);
    }
}

static inline uint64_t read_reg(QTestState *q, const char *reg)
{
    g_autofree char *answer = ask(q, "xmmu_read_reg 0 %s", reg);

    return number_of(answer);
}

static inline void command(QTestState *q, const char *line)
{
    g_autofree char *answer = ask(q, "%s", line);

    if (!g_str_has_prefix(answer, "OK")) {
        g_error("%s: %s", line, answer);
    }
}

typedef struct Translation {
    Exception exception;
    uint64_t gpa;
    char prot[4];
    bool ram;
} Translation;

/* @access: r, w or x, and u (user), s (supervisor) or a (with EFLAGS.AC). */
static inline Translation translate(QTestState *q, uint64_t gva,
                                    const char *access)
{
    g_autofree char *answer = ask(q, "xmmu_translate 0 0x%" PRIx64 " %s", gva,
                                  access);
    Translation t = { exception_of(answer) };
    const char *prot = strstr(answer, " prot=");
    uint64_t ram;

    if (t.exception.vector == -1) {
        g_assert_true(field(answer, "gpa", &t.gpa));
        g_assert_true(field(answer, "ram", &ram));
        g_assert_nonnull(prot);
        memcpy(t.prot, prot + 6, 3);
        t.ram = ram;
    }
    return t;
}

static inline void must_reach(QTestState *q, uint64_t gva, const char *access,
                              uint64_t gpa)
{
    Translation t = translate(q, gva, access);

    if (t.exception.vector != -1 || t.gpa != gpa) {
        g_error("%s at 0x%" PRIx64 ": exception %d error 0x%x gpa 0x%" PRIx64
                ", want gpa 0x%" PRIx64, access, gva, t.exception.vector,
                t.exception.error, t.gpa, gpa);
    }
}

static inline void must_fault(QTestState *q, uint64_t gva, const char *access,
                              uint32_t error)
{
    Translation t = translate(q, gva, access);

    if (t.exception.vector != 14 || t.exception.error != error ||
        t.exception.cr2 != gva) {
        g_error("%s at 0x%" PRIx64 ": exception %d error 0x%x cr2 0x%" PRIx64
                ", want #PF error 0x%x", access, gva, t.exception.vector,
                t.exception.error, t.exception.cr2, error);
    }
}

static inline void must_gp(QTestState *q, uint64_t gva, const char *access)
{
    Translation t = translate(q, gva, access);

    if (t.exception.vector != 13 || t.exception.error) {
        g_error("%s at 0x%" PRIx64 ": exception %d error 0x%x, want #GP(0)",
                access, gva, t.exception.vector, t.exception.error);
    }
}

static inline uint64_t load(QTestState *q, uint64_t gva, unsigned size)
{
    g_autofree char *answer = ask(q, "xmmu_load 0 0x%" PRIx64 " %u", gva, size);

    return number_of(answer);
}

static inline Exception store(QTestState *q, uint64_t gva, unsigned size,
                              uint64_t value)
{
    g_autofree char *answer = ask(q, "xmmu_store 0 0x%" PRIx64 " %u 0x%" PRIx64,
                                  gva, size, value);

    return exception_of(answer);
}

/* qtest's own writes are like a device's: no tracking sees them. */
static inline void table_write(QTestState *q, uint64_t gpa, uint64_t value)
{
    qtest_writeq(q, gpa, value);
}

static inline void forget_all(QTestState *q)
{
    command(q, "xmmu_zap_all");
}

/* ---- The MMU ------------------------------------------------------------------ */

typedef struct Root {
    uint64_t pgd, role, hpa;
} Root;

static inline Root current_root(QTestState *q)
{
    g_autofree char *answer = ask(q, "xmmu_roots 0");
    Root root = { 0 };

    if (!field(answer, "pgd", &root.pgd) || !field(answer, "role", &root.role) ||
        !field(answer, "hpa", &root.hpa)) {
        g_error("no current root: %s", answer);
    }
    return root;
}

static inline uint64_t role_word(QTestState *q)
{
    g_autofree char *answer = ask(q, "xmmu_roles 0");
    uint64_t word = 0;

    g_assert_true(field(answer, "role", &word));
    return word;
}

static inline uint64_t counter(QTestState *q, const char *name)
{
    g_autofree char *answer = ask(q, "xmmu_counters");
    uint64_t value = 0;

    if (!field(answer, name, &value)) {
        g_error("no counter %s: %s", name, answer);
    }
    return value;
}

#endif /* XMMU_QTEST_H */
