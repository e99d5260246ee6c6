/*
 * xmmu: unit test of the counters and of the small containers below the core
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <string.h>

#include "accel/xmmu/mmu/arena.h"
#include "accel/xmmu/mmu/ptr_list.h"
#include "fixture.h"

/* The descriptions cover the structure, each counter once. */
static void test_descriptions(void)
{
    size_t gauges = 0;

    g_assert_cmpuint(xmmu_stat_count * sizeof(uint64_t), ==, sizeof(XmmuStats));
    for (size_t i = 0; i < xmmu_stat_count; i++) {
        const XmmuStatDesc *d = &xmmu_stat_descs[i];

        g_assert_cmpuint(d->offset, ==, i * sizeof(uint64_t));
        g_assert_cmpuint(strlen(d->text), >, 5);
        for (size_t j = 0; j < i; j++) {
            g_assert_cmpstr(d->name, !=, xmmu_stat_descs[j].name);
        }
        gauges += d->gauge;
    }
    g_assert_cmpuint(gauges, ==, 7);
}

/* A vCPU's counts are part of the VM's, and stay when it goes. */
static void test_sum(void)
{
    XmmuConfig config = fixture_config();
    Fixture *fx = fixture_new(&config, MIB(4));
    XmmuStats vm, one;

    fixture_add_cpu(fx, 1);
    fixture_access(fx, 0, 0x1000, XMMU_PROT_READ);
    fixture_access(fx, 1, 0xfee00000, XMMU_PROT_READ);
    xmmu_vcpu_stats(fx->cpus[1], &one);
    g_assert_cmpuint(one.faults, ==, 1);
    g_assert_cmpuint(one.faults_emulate, ==, 1);
    vm = fixture_stats(fx);
    g_assert_cmpuint(vm.faults, ==, 2);
    xmmu_vcpu_free(fx->cpus[1]);
    fx->cpus[1] = NULL;
    vm = fixture_stats(fx);
    g_assert_cmpuint(vm.faults, ==, 2);
    fixture_free(fx);
}

static void test_config(void)
{
    XmmuConfig config = fixture_config();
    Fixture *fx;

    config.tdp_levels = 0;              /* the default */
    fx = fixture_new(&config, MIB(4));
    g_assert_cmpuint(xmmu_vm_config(fx->vm)->tdp_levels, ==, 4);
    g_assert_cmpuint(xmmu_vm_config(fx->vm)->table_memory, >, 0);
    fixture_free(fx);
}

typedef struct Seen {
    void *ptr;
    size_t times;
} Seen;

static void see(void *ptr, void *opaque)
{
    Seen *s = opaque;

    s->times += ptr == s->ptr;
}

static size_t seen(const XmmuPtrList *list, void *ptr)
{
    Seen s = { .ptr = ptr };

    xmmu_ptr_list_each(list, see, &s);
    return s.times;
}

static void test_ptr_list(void)
{
    XmmuPtrList list = { 0 };
    XmmuPtrNode nodes[20];
    XmmuPtrPool pool = { 0 };
    uint64_t items[40];

    /* 40 pointers take 20 nodes; all come back. */
    for (size_t i = 0; i < G_N_ELEMENTS(nodes); i++) {
        xmmu_ptr_pool_put(&pool, &nodes[i]);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 40; i++) {
            xmmu_ptr_list_add(&list, &items[i], &pool);
            g_assert_cmpuint(xmmu_ptr_list_count(&list), ==, i + 1);
        }
        g_assert_cmpuint(pool.count, ==, 0);
        /* From the middle, from both ends. */
        for (int i = 0; i < 40; i++) {
            void *victim = i % 4 ? &items[(i * 7) % 40] : xmmu_ptr_list_first(&list);

            if (seen(&list, victim) == 0) {
                continue;
            }
            xmmu_ptr_list_remove(&list, victim, &pool);
            g_assert_cmpuint(seen(&list, victim), ==, 0);
        }
        while (!xmmu_ptr_list_empty(&list)) {
            xmmu_ptr_list_remove(&list, xmmu_ptr_list_first(&list), &pool);
        }
        g_assert_cmpuint(pool.count, ==, G_N_ELEMENTS(nodes));
    }
}

static void test_arena(void)
{
    const XmmuServices services = { NULL };
    XmmuArena *arena = xmmu_arena_new(&services, NULL);
    XmmuArenaReserve reserve = { .count = 0 };
    void *pages[200];

    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 200; i++) {
            /* Alone, from a reserve, from both by turns. */
            pages[i] = xmmu_arena_alloc(arena, (round == 1 || (round > 1 && i % 3))
                                        ? &reserve : NULL, &pages[i]);
            g_assert_nonnull(pages[i]);
            g_assert_cmpuint((uintptr_t)pages[i] & 0xfff, ==, 0);
            for (int b = 0; b < 4096; b += 8) {
                g_assert_cmpuint(*(uint64_t *)((char *)pages[i] + b), ==, 0);
            }
            memset(pages[i], 0xff, 4096);
        }
        for (int i = 0; i < 200; i++) {
            g_assert_true(xmmu_arena_owner((char *)pages[i] + 8 * i) == &pages[i]);
            xmmu_arena_release(arena, pages[i]);
        }
        if (round == 2) {
            xmmu_arena_empty(arena, &reserve);
            g_assert_cmpuint(reserve.count, ==, 0);
        }
        g_assert_cmpuint(reserve.count, <=, XMMU_ARENA_RESERVE);
    }
    xmmu_arena_free(arena);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/stats/descriptions", test_descriptions);
    g_test_add_func("/stats/sum", test_sum);
    g_test_add_func("/stats/config", test_config);
    g_test_add_func("/stats/ptr-list", test_ptr_list);
    g_test_add_func("/stats/arena", test_arena);
    return g_test_run();
}
