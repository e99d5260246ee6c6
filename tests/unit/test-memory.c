/*
 * xmmu: how much memory the tables of a full guest take
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Every page of a guest of 1 GiB is touched.  With TDP the tables and their
 * bookkeeping may take 4 MiB with large pages and 16 MiB without.
 */
#include "fixture.h"

#define GUEST GIB(1)

static void touch_all(Fixture *fx)
{
    for (gpa_t gpa = 0; gpa < GUEST; gpa += XMMU_PAGE_SIZE) {
        XmmuHwResult r = fixture_access(fx, 0, gpa, XMMU_PROT_WRITE);

        g_assert_cmpint(r.outcome, ==, XMMU_HW_OK);
    }
}

static void check_tdp(bool huge, XmmuTdpFormat format, uint64_t limit)
{
    XmmuConfig config = fixture_config();
    Fixture *fx;
    XmmuStats stats;

    config.huge_pages = huge;
    config.tdp_format = format;
    fx = fixture_new(&config, GUEST);
    touch_all(fx);
    stats = fixture_stats(fx);
    g_test_message("%" G_GUINT64_FORMAT " tables, %" G_GUINT64_FORMAT " bytes",
                   stats.tables, stats.table_bytes);
    g_assert_cmpuint(stats.table_bytes, <=, limit);
    g_assert_cmpuint(stats.tables * XMMU_PAGE_SIZE, <=, stats.table_bytes);
    g_assert_cmpuint(stats.pages_4k + stats.pages_2m * 512 + stats.pages_1g * 512 * 512,
                     ==, GUEST / XMMU_PAGE_SIZE);
    fixture_free(fx);
}

static void test_tdp_large(void)
{
    check_tdp(true, XMMU_TDP_NPT, MIB(4));
    check_tdp(true, XMMU_TDP_EPT, MIB(4));
}

static void test_tdp_small(void)
{
    check_tdp(false, XMMU_TDP_NPT, MIB(16));
    check_tdp(false, XMMU_TDP_EPT, MIB(16));
}

/* Shadow paging keeps a reverse map beside the tables. */
static void test_shadow(void)
{
    for (int huge = 0; huge < 2; huge++) {
        XmmuConfig config = fixture_shadow_config();
        Fixture *fx;
        XmmuStats stats;

        config.huge_pages = huge;
        fx = fixture_new(&config, GUEST);
        touch_all(fx);
        stats = fixture_stats(fx);
        g_test_message("large pages %d: %" G_GUINT64_FORMAT " tables, %" G_GUINT64_FORMAT
                       " bytes", huge, stats.tables, stats.table_bytes);
        g_assert_cmpuint(stats.table_bytes, <=, huge ? MIB(4) : MIB(16));
        fixture_free(fx);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/memory/tdp large pages", test_tdp_large);
    g_test_add_func("/memory/tdp small pages", test_tdp_small);
    g_test_add_func("/memory/shadow", test_shadow);
    return g_test_run();
}
