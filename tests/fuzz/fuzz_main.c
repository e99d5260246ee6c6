/*
 * xmmu fuzz: stand-alone driver
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns the command line of fuzz-mmu, which runs the fuzzer's operations from a
 * generator instead of a fuzzing engine: for any compiler, for `make check` and
 * to replay a difference.  Each world has a seed of its own.
 */
#include <glib.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz_mmu.h"

static const struct {
    const char *option, *text;
    unsigned bit;
} features[] = {
#define X(name, option, text) { option, text, FUZZ_##name },
    FUZZ_FEATURES(X)
#undef X
};

static gint64 accesses = 1000000;
static gint64 seed = 1;
static gint ops = 4000;
static gchar *target = (gchar *)"single";
static gchar *record;
static gchar *world, *without, *paging, *modes;
static gboolean trace, quiet;

static const GOptionEntry options[] = {
    { "accesses", 'n', 0, G_OPTION_ARG_INT64, &accesses, "Accesses to make", "N" },
    { "seed", 's', 0, G_OPTION_ARG_INT64, &seed, "First seed", "S" },
    { "ops", 0, 0, G_OPTION_ARG_INT, &ops, "Operations in a world", "N" },
    { "world", 'w', 0, G_OPTION_ARG_STRING, &world, "Run only this world", "SEED" },
    { "target", 0, 0, G_OPTION_ARG_STRING, &target, "single or smp", "NAME" },
    { "record", 0, 0, G_OPTION_ARG_STRING, &record, "Write the world as an input", "FILE" },
    { "paging", 'p', 0, G_OPTION_ARG_STRING, &paging, "Of shadow, npt, ept", "LIST" },
    { "modes", 'm', 0, G_OPTION_ARG_STRING, &modes, "Guest levels: of 0,2,3,4,5", "LIST" },
    { "without", 0, 0, G_OPTION_ARG_STRING, &without, "Leave out features", "LIST" },
    { "trace", 't', 0, G_OPTION_ARG_NONE, &trace, "Print each operation", NULL },
    { "quiet", 'q', 0, G_OPTION_ARG_NONE, &quiet, "No summary", NULL },
    { NULL }
};

static void G_GNUC_NORETURN bad_word(const char *option, const char *word)
{
    fprintf(stderr, "fuzz-mmu: --%s: unknown word '%s'\n", option, word);
    exit(2);
}

static unsigned feature_bit(const char *word)
{
    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        if (!strcmp(word, features[i].option)) {
            return features[i].bit;
        }
    }
    bad_word("without", word);
}

static unsigned paging_bit(const char *word)
{
    static const char *const names[] = { "shadow", "npt", "ept" };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!strcmp(word, names[i])) {
            return 1 << i;
        }
    }
    bad_word("paging", word);
}

static unsigned mode_bit(const char *word)
{
    if (strlen(word) != 1 || !strchr("02345", word[0])) {
        bad_word("modes", word);
    }
    return 1 << (word[0] - '0');
}

static FuzzTarget target_named(const char *word)
{
    if (strcmp(word, "single") && strcmp(word, "smp")) {
        bad_word("target", word);
    }
    return strcmp(word, "smp") ? FUZZ_SINGLE : FUZZ_SMP;
}

static unsigned word_set(const char *list, unsigned (*bit)(const char *word))
{
    char **words = g_strsplit(list, ",", -1);
    unsigned set = 0;

    for (int i = 0; words[i]; i++) {
        set |= bit(words[i]);
    }
    g_strfreev(words);
    return set;
}

static char *feature_help(void)
{
    GString *s = g_string_new("Features that --without takes:\n");

    for (size_t i = 0; i < G_N_ELEMENTS(features); i++) {
        g_string_append_printf(s, "  %-8s %s\n", features[i].option, features[i].text);
    }
    return g_string_free(s, FALSE);
}

static void parse(int argc, char **argv)
{
    GOptionContext *context = g_option_context_new("- compare the MMU with the manuals");
    GError *error = NULL;
    char *help = feature_help();

    g_option_context_set_description(context, help);
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        fprintf(stderr, "fuzz-mmu: %s\n", error->message);
        exit(2);
    }
    g_free(help);
    g_option_context_free(context);
}

static uint64_t current_world;

/* Assertions of the core and the checker do not know which world they are in. */
static void on_abort(int signo)
{
    fprintf(stderr, "fuzz-mmu: stopped in --world=%#" PRIx64 "\n", current_world);
    signal(signo, SIG_DFL);
    raise(signo);
}

static void run_world(uint64_t id, const FuzzLimits *limits, FuzzCount *count)
{
    Source source = { .state = id ^ 0x786d6d75 };

    current_world = id;
    if (record) {
        /* An input has 16 bits for what fills the tables. */
        id &= 0xffff;
        source.record = fopen(record, "wb");
        if (!source.record) {
            perror(record);
            exit(2);
        }
        fwrite(&id, 2, 1, source.record);
    }
    fuzz_run(&source, id, ops, limits, count);
    if (source.record && fclose(source.record)) {
        perror(record);
        exit(2);
    }
}

static void summary(const FuzzCount *c, uint64_t worlds)
{
    printf("%" PRIu64 " worlds, %" PRIu64 " operations, %" PRIu64 " accesses: "
           "%" PRIu64 " translated, %" PRIu64 " by hand, %" PRIu64 " faults; "
           "%" PRIu64 " from the software TLB, %" PRIu64 " stale but legal, "
           "%" PRIu64 " not judged; %" PRIu64 " table writes\n",
           worlds, c->ops, c->accesses, c->ok, c->direct, c->faults, c->tlb_hits,
           c->stale, c->unknown, c->writes);
    printf("accesses by paging mode: none %" PRIu64 ", 32-bit %" PRIu64 ", PAE %" PRIu64
           ", 4-level %" PRIu64 ", 5-level %" PRIu64 "\n", c->by_levels[0],
           c->by_levels[2], c->by_levels[3], c->by_levels[4], c->by_levels[5]);
}

int main(int argc, char **argv)
{
    FuzzLimits limits = {
        .features = FUZZ_EVERYTHING, .paging = FUZZ_ALL_PAGING, .modes = FUZZ_ALL_MODES,
    };
    FuzzCount count = { 0 };
    uint64_t worlds = 0;

    parse(argc, argv);
    signal(SIGABRT, on_abort);
    limits.trace = trace;
    limits.target = target_named(target);
    if (without) {
        limits.features &= ~word_set(without, feature_bit);
    }
    if (paging) {
        limits.paging = word_set(paging, paging_bit);
    }
    if (modes) {
        limits.modes = word_set(modes, mode_bit);
    }
    if (world) {
        run_world(strtoull(world, NULL, 0), &limits, &count);
        worlds = 1;
    }
    while (!world && count.accesses < (uint64_t)accesses) {
        run_world(((uint64_t)seed << 32) + worlds++, &limits, &count);
    }
    if (!quiet) {
        summary(&count, worlds);
    }
    return 0;
}
