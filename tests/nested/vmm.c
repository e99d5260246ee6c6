/*
 * xmmu tests: a small virtual machine monitor on /dev/kvm
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Runs in the guest (L1) of the nested boot test and boots a Linux kernel as L2: one
 * CPU, RAM, KVM's own interrupt controllers and timer, and as much of a serial port
 * as an early console writes to.  Everything that L2 prints goes to stdout.
 *
 * usage: vmm BZIMAGE INITRD MEBIBYTES CMDLINE
 *        0: L2 asked for a reset; 1: anything else
 */
#include <asm/bootparam.h>
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Guest physical addresses. */
#define GDT         0x500
#define TABLES      0x2000      /* PML4, PDPT, and a PD for each of four GiB */
#define PARAMS      0x10000
#define CMDLINE     0x20000
#define KERNEL      0x100000
#define ENTRY_64    0x200       /* of the kernel, by the 64-bit boot protocol */

#define HYPERVISOR  (1u << 31)  /* CPUID 1, ECX */

#define COM1        0x3f8
#define LCR         3
#define LSR         5
#define LCR_DLAB    0x80
#define LSR_IDLE    0x60
#define KBD_COMMAND 0x64
#define KBD_RESET   0xfe

typedef struct Vm {
    int kvm, vm, vcpu;
    uint8_t *ram;
    size_t size;
    struct kvm_run *run;
    uint8_t lcr;
} Vm;

static void must(int result, const char *what)
{
    if (result < 0) {
        err(1, "%s", what);
    }
}

static void create(Vm *vm)
{
    struct kvm_pit_config pit = { 0 };
    struct kvm_userspace_memory_region ram = { .memory_size = vm->size };
    int run_size;

    vm->kvm = open("/dev/kvm", O_RDWR);
    must(vm->kvm, "/dev/kvm");
    vm->vm = ioctl(vm->kvm, KVM_CREATE_VM, 0);
    must(vm->vm, "KVM_CREATE_VM");
    must(ioctl(vm->vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    must(ioctl(vm->vm, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
    vm->ram = mmap(NULL, vm->size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vm->ram == MAP_FAILED) {
        err(1, "memory of L2");
    }
    ram.userspace_addr = (uintptr_t)vm->ram;
    must(ioctl(vm->vm, KVM_SET_USER_MEMORY_REGION, &ram), "memory region");
    vm->vcpu = ioctl(vm->vm, KVM_CREATE_VCPU, 0);
    must(vm->vcpu, "KVM_CREATE_VCPU");
    run_size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    must(run_size, "KVM_GET_VCPU_MMAP_SIZE");
    vm->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu, 0);
    if (vm->run == MAP_FAILED) {
        err(1, "kvm_run");
    }
}

/* The CPU of L2 is what KVM can give, and says that it is KVM's: for its clock. */
static void set_cpuid(Vm *vm)
{
    enum { MAX = 128 };
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + MAX * sizeof(struct kvm_cpuid_entry2));

    if (!cpuid) {
        err(1, "memory");
    }
    cpuid->nent = MAX;
    must(ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
    for (uint32_t i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == 1) {
            cpuid->entries[i].ecx |= HYPERVISOR;
        }
    }
    must(ioctl(vm->vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");
    free(cpuid);
}

/* ---- What is in L2's memory at the start ------------------------------------- */

static size_t load_file(Vm *vm, const char *path, off_t skip, size_t at)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    size_t done = 0, size;

    must(fd, path);
    must(fstat(fd, &st), path);
    size = st.st_size - skip;
    if (at + size > vm->size) {
        errx(1, "%s does not fit", path);
    }
    while (done < size) {
        ssize_t n = pread(fd, vm->ram + at + done, size - done, skip + done);

        if (n <= 0) {
            err(1, "%s", path);
        }
        done += n;
    }
    close(fd);
    return size;
}

static void read_header(const char *path, struct setup_header *header)
{
    int fd = open(path, O_RDONLY);

    must(fd, path);
    if (pread(fd, header, sizeof(*header), 0x1f1) != sizeof(*header) ||
        header->header != 0x53726448 || !(header->xloadflags & XLF_KERNEL_64)) {
        errx(1, "%s is no 64-bit kernel", path);
    }
    close(fd);
}

static void load_linux(Vm *vm, const char *kernel, const char *initrd,
                       const char *cmdline)
{
    struct boot_params *params = (void *)(vm->ram + PARAMS);
    struct setup_header *header = &params->hdr;
    size_t initrd_at;
    struct stat st;

    read_header(kernel, header);
    load_file(vm, kernel, (header->setup_sects + 1) * 512, KERNEL);
    must(stat(initrd, &st), initrd);
    initrd_at = (vm->size - st.st_size) & ~(size_t)0xfff;
    header->ramdisk_size = load_file(vm, initrd, 0, initrd_at);
    header->ramdisk_image = initrd_at;
    header->type_of_loader = 0xff;
    header->loadflags |= LOADED_HIGH;
    header->cmd_line_ptr = CMDLINE;
    strcpy((char *)vm->ram + CMDLINE, cmdline);
    params->e820_entries = 2;
    params->e820_table[0] = (struct boot_e820_entry) { 0, 0x9fc00, 1 };
    params->e820_table[1] = (struct boot_e820_entry) { KERNEL, vm->size - KERNEL, 1 };
}

/* The first four GiB, one to one. */
static void build_tables(Vm *vm)
{
    uint64_t *pml4 = (void *)(vm->ram + TABLES);
    uint64_t *pdpt = pml4 + 512, *pd = pdpt + 512;

    pml4[0] = (TABLES + 0x1000) | 3;
    for (int i = 0; i < 4; i++) {
        pdpt[i] = (TABLES + 0x2000 + i * 0x1000) | 3;
    }
    for (uint64_t i = 0; i < 4 * 512; i++) {
        pd[i] = i << 21 | 0x83;
    }
}

static void set_registers(Vm *vm)
{
    static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
    struct kvm_segment code = {
        .selector = 0x10, .limit = 0xffffffff, .type = 11, .present = 1, .s = 1, .l = 1,
        .g = 1,
    };
    struct kvm_segment data = {
        .selector = 0x18, .limit = 0xffffffff, .type = 3, .present = 1, .s = 1, .db = 1,
        .g = 1,
    };
    struct kvm_regs regs = {
        .rip = KERNEL + ENTRY_64, .rsi = PARAMS, .rflags = 2,
    };
    struct kvm_sregs sregs;

    memcpy(vm->ram + GDT, gdt, sizeof(gdt));
    must(ioctl(vm->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.ss = data;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = sizeof(gdt) - 1;
    sregs.cr0 = 0x80000011;
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x20;
    sregs.efer = 0x500;
    must(ioctl(vm->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    must(ioctl(vm->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

/* ---- While it runs ------------------------------------------------------------- */

static void serial_out(Vm *vm, unsigned reg, uint8_t value)
{
    if (reg == LCR) {
        vm->lcr = value;
    } else if (reg == 0 && !(vm->lcr & LCR_DLAB)) {
        putchar(value);
        if (value == '\n') {
            fflush(stdout);
        }
    }
}

/* True: L2 asked for a reset. */
static int port(Vm *vm)
{
    uint8_t *data = (uint8_t *)vm->run + vm->run->io.data_offset;
    unsigned at = vm->run->io.port;

    for (uint32_t i = 0; i < vm->run->io.count; i++, data += vm->run->io.size) {
        if (vm->run->io.direction == KVM_EXIT_IO_IN) {
            memset(data, at >= COM1 && at < COM1 + 8 ? 0 : 0xff, vm->run->io.size);
            if (at == COM1 + LSR) {
                *data = LSR_IDLE;
            } else if (at == KBD_COMMAND) {
                *data = 0;
            }
        } else if (at >= COM1 && at < COM1 + 8) {
            serial_out(vm, at - COM1, *data);
        } else if (at == KBD_COMMAND && *data == KBD_RESET) {
            return 1;
        }
    }
    return 0;
}

static int run(Vm *vm)
{
    for (;;) {
        must(ioctl(vm->vcpu, KVM_RUN, 0), "KVM_RUN");
        switch (vm->run->exit_reason) {
        case KVM_EXIT_IO:
            if (port(vm)) {
                return 0;
            }
            break;
        case KVM_EXIT_MMIO:
            memset(vm->run->mmio.data, 0xff, sizeof(vm->run->mmio.data));
            break;
        default:
            fflush(stdout);
            warnx("L2 stopped: exit reason %u", vm->run->exit_reason);
            return 1;
        }
    }
}

int main(int argc, char **argv)
{
    Vm vm = { .kvm = -1 };
    int status;

    if (argc != 5) {
        errx(1, "usage: vmm BZIMAGE INITRD MEBIBYTES CMDLINE");
    }
    vm.size = strtoul(argv[3], NULL, 0) << 20;
    create(&vm);
    set_cpuid(&vm);
    load_linux(&vm, argv[1], argv[2], argv[4]);
    build_tables(&vm);
    set_registers(&vm);
    status = run(&vm);
    fflush(stdout);
    return status;
}
