/*
 * xmmu: unit test of the lock below mmu_lock
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Exclusion, with readers that have slots and readers that have none; who comes
 * first when several wait.  Meant for ThreadSanitizer too: what the lock guards are
 * plain variables.
 */
#include <glib.h>

#include "accel/xmmu/mmu/rw_lock.h"

#define READERS 3
#define ROUNDS  20000

typedef struct World {
    XmmuRwLock lock;
    XmmuRwSlot slot[READERS];
    uint64_t a, b;              /* equal, whoever looks under the lock */
    gint order;
} World;

static void world_init(World *w, unsigned slots)
{
    xmmu_rw_init(&w->lock);
    xmmu_rw_write_lock(&w->lock);
    for (unsigned i = 0; i < slots; i++) {
        xmmu_rw_slot_add(&w->lock, &w->slot[i]);
    }
    xmmu_rw_write_unlock(&w->lock);
}

/* ---- Exclusion ---------------------------------------------------------------- */

typedef struct Reader {
    World *world;
    XmmuRwSlot *slot;
    uint64_t seen;
} Reader;

static gpointer read_all_the_time(gpointer opaque)
{
    Reader *r = opaque;
    World *w = r->world;

    for (unsigned i = 0; i < ROUNDS; i++) {
        xmmu_rw_read_lock(&w->lock, r->slot);
        g_assert_cmpuint(w->a, >=, r->seen);
        r->seen = w->a;
        if (i % 64 == 0) {
            g_thread_yield();
        }
        g_assert_cmpuint(w->b, ==, r->seen);
        xmmu_rw_read_unlock(&w->lock, r->slot);
    }
    return NULL;
}

static gpointer write_all_the_time(gpointer opaque)
{
    World *w = opaque;

    for (unsigned i = 0; i < ROUNDS / 8; i++) {
        xmmu_rw_write_lock(&w->lock);
        w->a++;
        if (i % 64 == 0) {
            g_thread_yield();
        }
        w->b++;
        xmmu_rw_write_unlock(&w->lock);
    }
    return NULL;
}

static void test_exclusion(void)
{
    World w = { 0 };
    Reader readers[READERS + 2] = { 0 };
    GThread *threads[G_N_ELEMENTS(readers) + 2];
    size_t n = 0;

    world_init(&w, READERS);
    for (size_t i = 0; i < G_N_ELEMENTS(readers); i++) {
        readers[i].world = &w;
        readers[i].slot = i < READERS ? &w.slot[i] : NULL;
        threads[n++] = g_thread_new("reader", read_all_the_time, &readers[i]);
    }
    threads[n++] = g_thread_new("writer", write_all_the_time, &w);
    threads[n++] = g_thread_new("writer", write_all_the_time, &w);
    for (size_t i = 0; i < n; i++) {
        g_thread_join(threads[i]);
    }
    g_assert_cmpuint(w.a, ==, 2 * (ROUNDS / 8));
    xmmu_rw_destroy(&w.lock);
}

/* ---- Who comes first ------------------------------------------------------------ */

static gpointer write_once(gpointer opaque)
{
    World *w = opaque;
    gint turn;

    xmmu_rw_write_lock(&w->lock);
    turn = g_atomic_int_add(&w->order, 1);
    xmmu_rw_write_unlock(&w->lock);
    return GINT_TO_POINTER(turn);
}

static gpointer read_once(gpointer opaque)
{
    World *w = opaque;
    gint turn;

    xmmu_rw_read_lock(&w->lock, &w->slot[1]);
    turn = g_atomic_int_add(&w->order, 1);
    xmmu_rw_read_unlock(&w->lock, &w->slot[1]);
    return GINT_TO_POINTER(turn);
}

static void wait_for(const uint32_t *waiting)
{
    while (!__atomic_load_n(waiting, __ATOMIC_RELAXED)) {
        g_thread_yield();
    }
}

/* A reader inside, a writer waits, another reader comes: it must not overtake. */
static void test_writer_before_readers(void)
{
    World w = { 0 };
    GThread *writer, *reader;

    world_init(&w, 2);
    for (unsigned slot = 0; slot < 2; slot++) {
        XmmuRwSlot *mine = slot ? NULL : &w.slot[0];

        w.order = 0;
        xmmu_rw_read_lock(&w.lock, mine);
        g_assert_false(xmmu_rw_reader_contended(&w.lock));
        writer = g_thread_new("writer", write_once, &w);
        wait_for(&w.lock.writer);
        g_assert_true(xmmu_rw_reader_contended(&w.lock));
        reader = g_thread_new("reader", read_once, &w);
        wait_for(&w.lock.waiting_readers);
        g_assert_cmpint(g_atomic_int_get(&w.order), ==, 0);
        xmmu_rw_read_unlock(&w.lock, mine);
        g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(writer)), ==, 0);
        g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(reader)), ==, 1);
    }
    xmmu_rw_destroy(&w.lock);
}

/* A writer inside, a reader and a writer wait: it is the reader's turn. */
static void test_readers_before_next_writer(void)
{
    World w = { 0 };
    GThread *writer, *reader;

    world_init(&w, 2);
    for (unsigned round = 0; round < 50; round++) {
        w.order = 0;
        xmmu_rw_write_lock(&w.lock);
        g_assert_false(xmmu_rw_writer_contended(&w.lock));
        writer = g_thread_new("writer", write_once, &w);
        wait_for(&w.lock.waiting_writers);
        reader = g_thread_new("reader", read_once, &w);
        wait_for(&w.lock.waiting_readers);
        g_assert_true(xmmu_rw_writer_contended(&w.lock));
        xmmu_rw_write_unlock(&w.lock);
        g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(reader)), ==, 0);
        g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(writer)), ==, 1);
    }
    xmmu_rw_destroy(&w.lock);
}

/* Slots come and go; the writer looks at those that are known. */
static void test_slots(void)
{
    World w = { 0 };
    GThread *writer;

    world_init(&w, 3);
    xmmu_rw_write_lock(&w.lock);
    xmmu_rw_slot_remove(&w.lock, &w.slot[1]);
    xmmu_rw_write_unlock(&w.lock);
    for (unsigned i = 0; i < 3; i += 2) {
        w.order = 0;
        xmmu_rw_read_lock(&w.lock, &w.slot[i]);
        writer = g_thread_new("writer", write_once, &w);
        wait_for(&w.lock.writer);
        g_assert_cmpint(g_atomic_int_get(&w.order), ==, 0);
        xmmu_rw_read_unlock(&w.lock, &w.slot[i]);
        g_thread_join(writer);
    }
    xmmu_rw_destroy(&w.lock);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/lock/exclusion", test_exclusion);
    g_test_add_func("/lock/writer before readers", test_writer_before_readers);
    g_test_add_func("/lock/readers before the next writer", test_readers_before_next_writer);
    g_test_add_func("/lock/slots", test_slots);
    return g_test_run();
}
