/*
 * xmmu tests: the kernel, as far as the module's common part needs it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Included before every file of the module that the fake device is made of (the
 * headers that those name are empty here).  What can go wrong in the kernel goes wrong
 * here when a test asks for it: allocations, pins, copies from user space.  What the
 * kernel would only find with lockdep is an assertion.
 */
#ifndef XMMU_FAKE_KERNEL_H
#define XMMU_FAKE_KERNEL_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <linux/types.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;
typedef int64_t s64;
typedef unsigned int gfp_t;

#define KERNEL_VERSION(a, b, c) ((a) << 16 | (b) << 8 | (c))
#define LINUX_VERSION_CODE      KERNEL_VERSION(6, 1, 0)
#define __user
#define __init
#define __exit
#define BIT_ULL(n)              (1ULL << (n))
#define ARRAY_SIZE(a)           (sizeof(a) / sizeof((a)[0]))
#define sizeof_field(t, f)      sizeof(((t *)0)->f)
#define container_of(p, t, f)   ((t *)((char *)(p) - offsetof(t, f)))
#define min(a, b)               ((a) < (b) ? (a) : (b))
#define min_t(t, a, b)          ((t)(a) < (t)(b) ? (t)(a) : (t)(b))
#define BUILD_BUG_ON(x)         _Static_assert(!(x), #x)
#define WARN_ON_ONCE(x)         ((x) ? abort() : (void)0)
#define array_size(a, b)        ((size_t)(a) * (b))
#define array_index_nospec(i, n) (i)
#define U32_MAX                 (~0u)

/* ---- Pages ------------------------------------------------------------------- */

#define PAGE_SHIFT      12
#define PAGE_SIZE       4096UL
#define PAGE_ALIGN(x)   (((x) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))
#define PAGE_ALIGNED(x) (!((x) & (PAGE_SIZE - 1)))
#define PFN_PHYS(n)     ((u64)(n) << PAGE_SHIFT)
#define TASK_SIZE_MAX   ((1UL << 47) - PAGE_SIZE)
/* Table pages are where the process has them. */
#define __pa(p)         ((u64)(uintptr_t)(p))
#define virt_to_phys(p) __pa(p)
#define __sme_set(x)    (x)

/* ---- Atomics ----------------------------------------------------------------- */

#define READ_ONCE(x)            __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, v)        __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define smp_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define smp_load_acquire(p)     __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define xchg(p, v)              __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#define try_cmpxchg64(p, old, v) \
    __atomic_compare_exchange_n((p), (old), (v), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
/* ThreadSanitizer does not know fences; the accesses around them are SEQ_CST. */
#define smp_mb()                ((void)0)
#define smp_mb__after_atomic()  ((void)0)
#define barrier()               __asm__ volatile("" ::: "memory")

typedef struct { s64 counter; } atomic64_t;
#define atomic64_read(a)        __atomic_load_n(&(a)->counter, __ATOMIC_SEQ_CST)
#define atomic64_inc(a)         __atomic_add_fetch(&(a)->counter, 1, __ATOMIC_SEQ_CST)
#define atomic64_inc_return(a)  ((u64)atomic64_inc(a))
#define atomic64_dec(a)         __atomic_sub_fetch(&(a)->counter, 1, __ATOMIC_SEQ_CST)
#define atomic64_sub(n, a)      __atomic_sub_fetch(&(a)->counter, (n), __ATOMIC_SEQ_CST)
#define atomic64_add_return(n, a) \
    ((u64)__atomic_add_fetch(&(a)->counter, (n), __ATOMIC_SEQ_CST))

struct kref { int count; };
#define kref_init(r)            ((r)->count = 1)
#define kref_get(r)             __atomic_add_fetch(&(r)->count, 1, __ATOMIC_SEQ_CST)
static inline void kref_put(struct kref *ref, void (*release)(struct kref *))
{
    if (!__atomic_sub_fetch(&ref->count, 1, __ATOMIC_SEQ_CST)) {
        release(ref);
    }
}

/* ---- Mutexes ----------------------------------------------------------------- */

struct mutex {
    pthread_mutex_t mutex;
    pthread_t owner;
    bool held;
};

void mutex_init(struct mutex *mutex);
void mutex_lock(struct mutex *mutex);
int mutex_lock_killable(struct mutex *mutex);
int mutex_trylock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);
void lockdep_assert_held(struct mutex *mutex);

/* ---- Memory ------------------------------------------------------------------ */

#define GFP_KERNEL              0
#define GFP_KERNEL_ACCOUNT      0
#define GFP_DMA32               0
#define __GFP_ZERO              0
#define __GFP_NOWARN            0
#define __GFP_RETRY_MAYFAIL     0

/* Zeroed; NULL when a test wants it so.  @align: 0, or a power of two. */
void *fake_alloc(size_t size, size_t align);
#define kzalloc(n, gfp)         fake_alloc(n, 0)
#define kcalloc(n, m, gfp)      fake_alloc((size_t)(n) * (m), 0)
#define kvmalloc_array(n, m, gfp) fake_alloc((size_t)(n) * (m), 0)
#define __vmalloc(n, gfp)       fake_alloc(n, 0)
#define kfree(p)                free(p)
#define kvfree(p)               free(p)
#define vfree(p)                free(p)
#define __get_free_page(gfp)    ((unsigned long)fake_alloc(PAGE_SIZE, PAGE_SIZE))
#define free_page(p)            free((void *)(p))
#define alloc_pages_exact(n, gfp) fake_alloc(n, PAGE_SIZE)
#define free_pages_exact(p, n)  free(p)

static inline size_t roundup_pow_of_two(size_t n)
{
    size_t p = 1;

    while (p < n) {
        p *= 2;
    }
    return p;
}

#define IS_ERR(p)       ((unsigned long)(p) >= (unsigned long)-4095)
#define PTR_ERR(p)      ((long)(p))
#define ERR_PTR(e)      ((void *)(long)(e))

void *memchr_inv(const void *p, int c, size_t n);
#define for_each_set_bit(i, word, n) \
    for ((i) = 0; (i) < (n); (i)++) \
        if (*(word) >> (i) & 1)

/* ---- User space -------------------------------------------------------------- */

#define u64_to_user_ptr(x)      ((void *)(uintptr_t)(x))
bool access_ok(const void *p, size_t size);
/* Bytes that could not be copied. */
size_t copy_from_user(void *to, const void *from, size_t size);
size_t copy_to_user(void *to, const void *from, size_t size);
void *vmemdup_user(const void *from, size_t size);
#define get_user(x, p)  (copy_from_user(&(x), (p), sizeof(x)) ? -EFAULT : 0)
#define put_user(x, p)  (copy_to_user((p), &(x), sizeof(x)) ? -EFAULT : 0)

/* ---- Pins -------------------------------------------------------------------- */

#define FOLL_WRITE      1
#define FOLL_LONGTERM   0x100
struct page;
int pin_user_pages_fast(unsigned long addr, int count, unsigned flags,
                        struct page **pages);
void unpin_user_pages(struct page **pages, unsigned long count);
void unpin_user_pages_dirty_lock(struct page **pages, unsigned long count, bool dirty);
unsigned long page_to_pfn(const struct page *page);
struct page *pfn_to_page(unsigned long pfn);

/* ---- Processes --------------------------------------------------------------- */

struct mm_struct {
    atomic64_t pinned_vm;
};
struct task_struct {
    struct mm_struct *mm;
};
struct task_struct *fake_current(void);
#define current         fake_current()
#define CAP_IPC_LOCK    14
#define capable(c)      false
unsigned long rlimit(int resource);
#define TIF_NOTIFY_RESUME 1
#define test_thread_flag(f)     false
#define need_resched()          false
bool signal_pending(struct task_struct *task);
#define ERESTARTNOINTR 513	/* the kernel restarts the call: user space never sees it */
#define fatal_signal_pending(t) false
void cond_resched(void);

struct mmu_notifier;
struct mmu_notifier_ops {
    void (*release)(struct mmu_notifier *notifier, struct mm_struct *mm);
};
struct mmu_notifier {
    const struct mmu_notifier_ops *ops;
    struct mmu_notifier *next;
};
int mmu_notifier_register(struct mmu_notifier *notifier, struct mm_struct *mm);
void mmu_notifier_unregister(struct mmu_notifier *notifier, struct mm_struct *mm);

/* ---- Files ------------------------------------------------------------------- */

#define VM_SHARED       8
struct vm_area_struct {
    unsigned long vm_start, vm_end, vm_pgoff, vm_flags, vm_page_prot;
    void *mapped;               /* what remap_pfn_range() was asked for */
};
struct inode;
struct file_operations;
struct file {
    const struct file_operations *f_op;
    void *private_data;
};
struct file_operations {
    void *owner;
    int (*release)(struct inode *inode, struct file *file);
    long (*unlocked_ioctl)(struct file *file, unsigned int cmd, unsigned long arg);
    long (*compat_ioctl)(struct file *file, unsigned int cmd, unsigned long arg);
    int (*mmap)(struct file *file, struct vm_area_struct *vma);
    void *llseek;
};
#define THIS_MODULE             NULL
#define noop_llseek             NULL
#define compat_ptr_ioctl        NULL
int anon_inode_getfd(const char *name, const struct file_operations *ops, void *private,
                     int flags);
int remap_pfn_range(struct vm_area_struct *vma, unsigned long start, unsigned long pfn,
                    unsigned long size, unsigned long prot);

struct miscdevice {
    int minor;
    const char *name;
    const struct file_operations *fops;
    unsigned mode;
};
#define MISC_DYNAMIC_MINOR      255
int misc_register(struct miscdevice *device);
void misc_deregister(struct miscdevice *device);
int fake_module_init(void);
void fake_module_exit(void);
#define module_init(f)          int fake_module_init(void) { return f(); }
#define module_exit(f)          void fake_module_exit(void) { f(); }
#define MODULE_DESCRIPTION(s)
#define MODULE_LICENSE(s)
#define MODULE_AUTHOR(s)
#define pr_info(...)            ((void)0)
#define pr_err(...)             ((void)0)

/* ---- CPUs: one for each thread ----------------------------------------------- */

#define DEFINE_PER_CPU(type, name) _Thread_local type name
#define this_cpu_read(v)        (v)
#define this_cpu_write(v, x)    ((v) = (x))
typedef struct { u64 bits; } cpumask_var_t[1];
bool zalloc_cpumask_var(cpumask_var_t *mask, gfp_t gfp);
#define free_cpumask_var(mask)  ((void)(mask))
#define cpumask_set_cpu(n, mask) ((mask)->bits |= BIT_ULL(n))
/* When they return, each of the CPUs has had its interrupts on. */
void on_each_cpu_mask(cpumask_var_t mask, void (*fn)(void *), void *arg, bool wait);
void smp_call_function(void (*fn)(void *), void *arg, bool wait);
int smp_processor_id(void);
void local_irq_disable(void);
void local_irq_enable(void);
#define kernel_fpu_begin()      ((void)0)
#define kernel_fpu_end()        ((void)0)

/* ---- x86: a CPU with as little as can be ------------------------------------- */

/* No FPU state is exchanged: fxsave64 and its kin are not for this process. */
#define asm                     if (0) __asm__
#define _ASM_EXTABLE(a, b)
#define boot_cpu_has(f)         fake_cpu_has(#f)
#define boot_cpu_has_bug(f)     false
#define cpu_feature_enabled(f)  false
#define xgetbv(n)               fake_xcr0()
#define xsetbv(n, v)            ((void)(v))
#define cpuid_ebx(n)            fake_xsave_size()
bool fake_cpu_has(const char *feature);
u64 fake_xcr0(void);
u32 fake_xsave_size(void);
#define rdpkru()                0
#define wrpkru(v)               ((void)(v))
#define rdmsrl(n, v)            ((v) = 0)
#define wrmsrl(n, v)            ((void)(v))
#define MSR_IA32_PRED_CMD       0x49
#define PRED_CMD_IBPB           1
#define get_debugreg(v, n)      ((v) = 0)
#define set_debugreg(v, n)      ((void)(v))
#define DR_GLOBAL_ENABLE_MASK   0xaa
#define DR_LOCAL_ENABLE_MASK    0x55
#define MXCSR_DEFAULT           0x1f80
#define X86_TRAP_NMI            2
enum {
    X86_CR4_VME = 1 << 0, X86_CR4_PVI = 1 << 1, X86_CR4_TSD = 1 << 2,
    X86_CR4_DE = 1 << 3, X86_CR4_PSE = 1 << 4, X86_CR4_PAE = 1 << 5,
    X86_CR4_MCE = 1 << 6, X86_CR4_PGE = 1 << 7, X86_CR4_PCE = 1 << 8,
    X86_CR4_OSFXSR = 1 << 9, X86_CR4_OSXMMEXCPT = 1 << 10, X86_CR4_UMIP = 1 << 11,
    X86_CR4_LA57 = 1 << 12, X86_CR4_FSGSBASE = 1 << 16, X86_CR4_PCIDE = 1 << 17,
    X86_CR4_OSXSAVE = 1 << 18, X86_CR4_SMEP = 1 << 20, X86_CR4_SMAP = 1 << 21,
    X86_CR4_PKE = 1 << 22,
    EFER_SCE = 1 << 0, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NX = 1 << 11,
    EFER_FFXSR = 1 << 14,
};
extern unsigned int tsc_khz;

/* ---- xarray: an array -------------------------------------------------------- */

struct xarray {
    void **item;
    unsigned long size;
};
void xa_init(struct xarray *xa);
void *xa_load(const struct xarray *xa, unsigned long index);
/* What it replaced, or an error as xa_err() tells it. */
void *xa_store(struct xarray *xa, unsigned long index, void *item, gfp_t gfp);
void xa_erase(struct xarray *xa, unsigned long index);
void xa_destroy(struct xarray *xa);
#define xa_err(p)       (IS_ERR(p) ? (int)PTR_ERR(p) : 0)
#define xa_for_each(xa, i, p) \
    for ((i) = 0; (i) < (xa)->size; (i)++) \
        if (((p) = (xa)->item[i]))

#endif /* XMMU_FAKE_KERNEL_H */
