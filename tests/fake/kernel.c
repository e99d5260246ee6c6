/*
 * xmmu tests: the kernel, as far as the module's common part needs it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Owns mutexes, memory, user space, pins, files, CPUs and the array of kernel.h.
 *
 * Physical memory: the page of user space at address A has the frame number A >> 12, or
 * where the test wants it scattered one with other low bits, so that only the first four
 * of 2 MiB are where a large leaf needs them.  Pins are counted for each frame.
 */
#include <assert.h>
#include <glib.h>
#include "kernel.h"
#undef asm
#include "fake.h"
#include "fake_kernel.h"

FakeControl fake;
unsigned int tsc_khz = 1000000;

/* ---- Mutexes ----------------------------------------------------------------- */

void mutex_init(struct mutex *mutex)
{
    pthread_mutex_init(&mutex->mutex, NULL);
    mutex->held = false;
}

static void take(struct mutex *mutex)
{
    mutex->owner = pthread_self();
    mutex->held = true;
}

void mutex_lock(struct mutex *mutex)
{
    pthread_mutex_lock(&mutex->mutex);
    take(mutex);
}

int mutex_lock_killable(struct mutex *mutex)
{
    mutex_lock(mutex);
    return 0;
}

int mutex_trylock(struct mutex *mutex)
{
    if (pthread_mutex_trylock(&mutex->mutex)) {
        return 0;
    }
    take(mutex);
    return 1;
}

void mutex_unlock(struct mutex *mutex)
{
    lockdep_assert_held(mutex);
    mutex->held = false;
    pthread_mutex_unlock(&mutex->mutex);
}

void lockdep_assert_held(struct mutex *mutex)
{
    g_assert_true(mutex->held && pthread_equal(mutex->owner, pthread_self()));
}

/* ---- Memory ------------------------------------------------------------------ */

static unsigned allocations, fail_from;

void fake_fail_alloc(unsigned n)
{
    __atomic_store_n(&allocations, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&fail_from, n, __ATOMIC_RELAXED);
}

void *fake_alloc(size_t size, size_t align)
{
    unsigned n = __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    unsigned fail = __atomic_load_n(&fail_from, __ATOMIC_RELAXED);
    void *p;

    if (fail && n >= fail) {
        return NULL;
    }
    if (!align) {
        return calloc(1, MAX(size, 1));
    }
    if (posix_memalign(&p, align, size)) {
        return NULL;
    }
    return memset(p, 0, size);
}

void fake_kernel_reset(void)
{
    memset(&fake, 0, sizeof(fake));
    fake_fail_alloc(0);
}

void *memchr_inv(const void *p, int c, size_t n)
{
    const unsigned char *byte = p;

    for (size_t i = 0; i < n; i++) {
        if (byte[i] != c) {
            return (void *)&byte[i];
        }
    }
    return NULL;
}

/* ---- The array --------------------------------------------------------------- */

void xa_init(struct xarray *xa)
{
    *xa = (struct xarray) { 0 };
}

void *xa_load(const struct xarray *xa, unsigned long index)
{
    return index < xa->size ? xa->item[index] : NULL;
}

void *xa_store(struct xarray *xa, unsigned long index, void *item, gfp_t gfp)
{
    void *old = xa_load(xa, index);

    (void)gfp;
    if (index >= xa->size) {
        unsigned long size = MAX(index + 1, 2 * xa->size);
        void **more = fake_alloc(size * sizeof(*more), 0);

        if (!more) {
            return ERR_PTR(-ENOMEM);
        }
        if (xa->size) {
            memcpy(more, xa->item, xa->size * sizeof(*more));
        }
        free(xa->item);
        xa->item = more;
        xa->size = size;
    }
    xa->item[index] = item;
    return old;
}

void xa_erase(struct xarray *xa, unsigned long index)
{
    if (index < xa->size) {
        xa->item[index] = NULL;
    }
}

void xa_destroy(struct xarray *xa)
{
    free(xa->item);
    xa_init(xa);
}

/* ---- User space -------------------------------------------------------------- */

bool access_ok(const void *p, size_t size)
{
    uintptr_t from = (uintptr_t)p;

    return from <= TASK_SIZE_MAX && size <= TASK_SIZE_MAX - from;
}

/* The first page is never there. */
static bool is_bad(const void *p, size_t size)
{
    uintptr_t from = (uintptr_t)p, to = from + size;

    return from < PAGE_SIZE || !access_ok(p, size) ||
           (from < fake.bad_to && to > fake.bad_from);
}

size_t copy_from_user(void *to, const void *from, size_t size)
{
    if (is_bad(from, size)) {
        return size;
    }
    memcpy(to, from, size);
    return 0;
}

size_t copy_to_user(void *to, const void *from, size_t size)
{
    if (is_bad(to, size)) {
        return size;
    }
    memcpy(to, from, size);
    return 0;
}

void *vmemdup_user(const void *from, size_t size)
{
    void *copy = fake_alloc(size, 0);

    if (!copy) {
        return ERR_PTR(-ENOMEM);
    }
    if (copy_from_user(copy, from, size)) {
        free(copy);
        return ERR_PTR(-EFAULT);
    }
    return copy;
}

/* ---- Pins -------------------------------------------------------------------- */

static pthread_mutex_t pins_lock = PTHREAD_MUTEX_INITIALIZER;
static GHashTable *pins;                /* frame number -> how often it is pinned */

/* There and back. */
static unsigned long scatter(unsigned long n)
{
    return fake.scattered && (n & 0x1fc) ? n ^ 3 : n;
}

static unsigned long pfn_of(unsigned long address)
{
    return scatter(address >> PAGE_SHIFT);
}

uintptr_t fake_user_page(unsigned long pfn)
{
    return scatter(pfn) << PAGE_SHIFT;
}

unsigned long page_to_pfn(const struct page *page)
{
    return (uintptr_t)page >> 1;
}

struct page *pfn_to_page(unsigned long pfn)
{
    return (struct page *)(uintptr_t)(pfn << 1 | 1);
}

static uint64_t pin_count(unsigned long pfn)
{
    return pins ? (uintptr_t)g_hash_table_lookup(pins, (void *)(uintptr_t)pfn) : 0;
}

static void set_pin_count(unsigned long pfn, uint64_t count)
{
    if (!pins) {
        pins = g_hash_table_new(NULL, NULL);
    }
    if (count) {
        g_hash_table_insert(pins, (void *)(uintptr_t)pfn, (void *)(uintptr_t)count);
    } else {
        g_hash_table_remove(pins, (void *)(uintptr_t)pfn);
    }
}

bool fake_is_pinned(unsigned long pfn)
{
    bool pinned;

    pthread_mutex_lock(&pins_lock);
    pinned = pin_count(pfn);
    pthread_mutex_unlock(&pins_lock);
    return pinned;
}

uint64_t fake_pinned_pages(void)
{
    uint64_t count;

    pthread_mutex_lock(&pins_lock);
    count = pins ? g_hash_table_size(pins) : 0;
    pthread_mutex_unlock(&pins_lock);
    return count;
}

int pin_user_pages_fast(unsigned long addr, int count, unsigned flags,
                        struct page **pages)
{
    int n = 0;

    g_assert_true(flags & FOLL_LONGTERM);
    pthread_mutex_lock(&pins_lock);
    for (; n < count; n++) {
        unsigned long pfn = pfn_of(addr + n * PAGE_SIZE);

        if (is_bad((void *)(addr + n * PAGE_SIZE), PAGE_SIZE)) {
            break;
        }
        set_pin_count(pfn, pin_count(pfn) + 1);
        pages[n] = pfn_to_page(pfn);
    }
    pthread_mutex_unlock(&pins_lock);
    return n ? n : -EFAULT;
}

void unpin_user_pages(struct page **pages, unsigned long count)
{
    pthread_mutex_lock(&pins_lock);
    for (unsigned long i = 0; i < count; i++) {
        unsigned long pfn = page_to_pfn(pages[i]);

        g_assert_cmpuint(pin_count(pfn), >, 0);
        set_pin_count(pfn, pin_count(pfn) - 1);
    }
    pthread_mutex_unlock(&pins_lock);
}

void unpin_user_pages_dirty_lock(struct page **pages, unsigned long count, bool dirty)
{
    (void)dirty;
    unpin_user_pages(pages, count);
}

/* ---- Processes --------------------------------------------------------------- */

static struct mm_struct mm, another_mm;
static struct mmu_notifier *notifiers;
static pthread_mutex_t notifiers_lock = PTHREAD_MUTEX_INITIALIZER;

static struct task_struct task = { &mm }, stranger = { &another_mm };

struct task_struct *fake_current(void)
{
    return fake.other_mm ? &stranger : &task;
}

unsigned long rlimit(int resource)
{
    g_assert_cmpint(resource, ==, RLIMIT_MEMLOCK);
    return fake.memlock ? fake.memlock : RLIM_INFINITY;
}

bool signal_pending(struct task_struct *t)
{
    (void)t;
    return __atomic_load_n(&fake.signal, __ATOMIC_RELAXED);
}

int mmu_notifier_register(struct mmu_notifier *notifier, struct mm_struct *of)
{
    (void)of;
    pthread_mutex_lock(&notifiers_lock);
    notifier->next = notifiers;
    notifiers = notifier;
    pthread_mutex_unlock(&notifiers_lock);
    return 0;
}

/* Returns whether it was registered. */
static bool take_notifier(struct mmu_notifier *notifier)
{
    struct mmu_notifier **p = &notifiers;
    bool found;

    pthread_mutex_lock(&notifiers_lock);
    while (*p && *p != notifier) {
        p = &(*p)->next;
    }
    found = *p;
    if (found) {
        *p = notifier->next;
    }
    pthread_mutex_unlock(&notifiers_lock);
    return found;
}

void mmu_notifier_unregister(struct mmu_notifier *notifier, struct mm_struct *of)
{
    if (take_notifier(notifier)) {
        notifier->ops->release(notifier, of);
    }
}

void fake_mm_exit(void)
{
    while (notifiers) {
        mmu_notifier_unregister(notifiers, &mm);
    }
}

uint64_t fake_charged_pages(void)
{
    return atomic64_read(&mm.pinned_vm);
}

/* ---- CPUs -------------------------------------------------------------------- */

#define CPUS 64

typedef struct Cpu {
    pthread_mutex_t irqs_off;
    int interrupts;             /* atomic; that wait to be served */
} Cpu;

static Cpu cpus[CPUS] = { [0 ... CPUS - 1] = { PTHREAD_MUTEX_INITIALIZER, 0 } };

int smp_processor_id(void)
{
    static int next;
    static _Thread_local int mine = -1;

    if (mine < 0) {
        mine = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED) % CPUS;
    }
    return mine;
}

bool fake_interrupt_pending(void)
{
    return __atomic_load_n(&cpus[smp_processor_id()].interrupts, __ATOMIC_SEQ_CST);
}

void cond_resched(void)
{
}

/* Mutexes are not fair: who sends an interrupt comes first. */
void local_irq_disable(void)
{
    while (fake_interrupt_pending()) {
        sched_yield();
    }
    pthread_mutex_lock(&cpus[smp_processor_id()].irqs_off);
}

void local_irq_enable(void)
{
    pthread_mutex_unlock(&cpus[smp_processor_id()].irqs_off);
}

bool zalloc_cpumask_var(cpumask_var_t *mask, gfp_t gfp)
{
    void *may = fake_alloc(1, 0);

    (void)gfp;
    (*mask)->bits = 0;
    free(may);
    return may;
}

static void interrupt(Cpu *cpu)
{
    __atomic_add_fetch(&cpu->interrupts, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&cpu->irqs_off);
    pthread_mutex_unlock(&cpu->irqs_off);
    __atomic_sub_fetch(&cpu->interrupts, 1, __ATOMIC_SEQ_CST);
}

void on_each_cpu_mask(cpumask_var_t mask, void (*fn)(void *), void *arg, bool wait)
{
    g_assert_true(wait);
    for (int i = 0; i < CPUS; i++) {
        if (mask->bits >> i & 1) {
            interrupt(&cpus[i]);
        }
    }
    fn(arg);
}

void smp_call_function(void (*fn)(void *), void *arg, bool wait)
{
    cpumask_var_t all = { { ~0ull } };

    on_each_cpu_mask(all, fn, arg, wait);
}

/* ---- Files ------------------------------------------------------------------- */

/* More than a process may have open. */
#define FIRST_FD (1 << 28)

static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static GPtrArray *files;                /* by descriptor - FIRST_FD */
static struct miscdevice *the_device;

static int install(const struct file_operations *ops, void *private)
{
    struct file *file;
    guint fd;

    file = fake_alloc(sizeof(*file), 0);
    if (!file) {
        return -ENOMEM;
    }
    *file = (struct file) { ops, private };
    pthread_mutex_lock(&files_lock);
    if (!files) {
        files = g_ptr_array_new();
    }
    for (fd = 0; fd < files->len && files->pdata[fd]; fd++) {
    }
    if (fd == files->len) {
        g_ptr_array_add(files, NULL);
    }
    files->pdata[fd] = file;
    pthread_mutex_unlock(&files_lock);
    return FIRST_FD + fd;
}

int anon_inode_getfd(const char *name, const struct file_operations *ops, void *private,
                     int flags)
{
    (void)name;
    (void)flags;
    return install(ops, private);
}

struct file *fake_file(int fd)
{
    struct file *file = NULL;

    if (fd < FIRST_FD) {
        return NULL;
    }
    pthread_mutex_lock(&files_lock);
    if (files && (guint)fd - FIRST_FD < files->len) {
        file = files->pdata[fd - FIRST_FD];
    }
    pthread_mutex_unlock(&files_lock);
    return file;
}

bool fake_has_file(int fd)
{
    return fake_file(fd);
}

int misc_register(struct miscdevice *device)
{
    the_device = device;
    return 0;
}

void misc_deregister(struct miscdevice *device)
{
    g_assert_true(the_device == device);
    the_device = NULL;
}

int remap_pfn_range(struct vm_area_struct *vma, unsigned long start, unsigned long pfn,
                    unsigned long size, unsigned long prot)
{
    (void)prot;
    g_assert_cmpuint(size, ==, vma->vm_end - start);
    vma->mapped = (void *)(uintptr_t)PFN_PHYS(pfn);
    return 0;
}

static int device_open(const char *path)
{
    int fd;

    if (!the_device || strcmp(path, XMMU_DEVICE_PATH)) {
        errno = ENOENT;
        return -1;
    }
    fd = install(the_device->fops, NULL);
    errno = fd < 0 ? -fd : 0;
    return MAX(fd, -1);
}

static int device_ioctl(int fd, unsigned long request, unsigned long argument)
{
    static unsigned count;
    struct file *file = fake_file(fd);
    unsigned fail = __atomic_load_n(&fake.fail_ioctl, __ATOMIC_RELAXED);
    void (*call)(void *opaque) = __atomic_load_n(&fake.in_ioctl, __ATOMIC_ACQUIRE);
    long ret;

    if (call) {
        fake.in_ioctl = NULL;
        call(fake.opaque);
    }
    if (fail && __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) >= fail) {
        __atomic_store_n(&count, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&fake.fail_ioctl, 0, __ATOMIC_RELAXED);
        errno = fake.fail_errno;
        return -1;
    }
    if (!file) {
        errno = EBADF;
        return -1;
    }
    ret = file->f_op->unlocked_ioctl(file, request, argument);
    if (ret < 0) {
        errno = -ret;
        return -1;
    }
    return ret;
}

static void *device_map(int fd, size_t size)
{
    struct file *file = fake_file(fd);
    struct vm_area_struct vma = { .vm_end = size, .vm_flags = VM_SHARED };
    int ret = file && file->f_op->mmap ? file->f_op->mmap(file, &vma) : -ENODEV;

    errno = -ret;
    return ret ? MAP_FAILED : vma.mapped;
}

static void device_unmap(void *address, size_t size)
{
    (void)address;
    (void)size;
}

static void device_close(int fd)
{
    struct file *file = fake_file(fd);

    g_assert_nonnull(file);
    pthread_mutex_lock(&files_lock);
    files->pdata[fd - FIRST_FD] = NULL;
    pthread_mutex_unlock(&files_lock);
    if (file->f_op->release) {
        file->f_op->release(NULL, file);
    }
    free(file);
}

const XmmuDeviceOps fake_device_ops = {
    .open = device_open,
    .ioctl = device_ioctl,
    .map = device_map,
    .unmap = device_unmap,
    .close = device_close,
};

bool fake_is_loaded(void)
{
    return the_device;
}

guint fake_open_files(void)
{
    guint open = 0;

    for (guint i = 0; files && i < files->len; i++) {
        open += files->pdata[i] != NULL;
    }
    return open;
}
