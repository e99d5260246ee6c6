# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's guest: Debian's kernel, and an initramfs of one program.

Owns the building of both below build/bench/guest. The program is bench-init.c,
linked statically; the kernel is the one that the boot tests use.
"""

import gzip
import os
import subprocess
from pathlib import Path

import bootlib

SOURCE = Path(__file__).resolve().parent / 'guest' / 'bench-init.c'
COMPILE = ['gcc', '-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-static', '-s']


def cpio_entry(name, mode, data):
    """One file of a "newc" archive: a header of 8-digit fields, name, content."""
    name = name.encode() + b'\0'
    #         inode, mode, uid, gid, links, mtime, size, four device numbers
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
    head = b'070701' + b''.join(b'%08X' % field for field in fields) + name
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(program):
    return cpio_entry('init', 0o100755, program) + cpio_entry('TRAILER!!!', 0, b'')


def compile_init(path):
    try:
        done = subprocess.run([*COMPILE, '-o', str(path), str(SOURCE)],
                              capture_output=True, text=True, check=False)
    except OSError as error:
        raise bootlib.BootError(f'cannot start gcc: {error.strerror}') from error
    if done.returncode:
        raise bootlib.BootError(f'{SOURCE.name} does not compile:\n{done.stderr}')


def prepare(kernel, directory):
    """Returns @directory with vmlinuz and initrd.gz in it, as bootlib wants them."""
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / 'vmlinuz'
    if kernel:
        target = Path(kernel).resolve()
        if not target.is_file():
            raise bootlib.BootError(f'there is no kernel {kernel}')
    else:
        target = bootlib.prepare_guest('amd64', quiet=True) / 'vmlinuz'
    if not link.is_symlink() or os.readlink(link) != str(target):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    program = directory / 'bench-init'
    compile_init(program)
    with open(directory / 'initrd.gz', 'wb') as out:
        out.write(gzip.compress(initramfs(program.read_bytes()), mtime=0))
    return directory
