# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU with the guest tests/guest/migrate.c, for the programs of this directory.

Owns the process, its QMP connection, and what the guest's mailbox says
(tests/qtest/xmmu-migrate-guest.h has its layout).
"""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
QEMU = os.environ.get('XMMU_QEMU', str(ROOT / 'build' / 'qemu' / 'qemu-system-x86_64'))
GUESTS = Path(os.environ.get('XMMU_GUESTS', ROOT / 'build' / 'guest'))

MAILBOX = 0x3f0000
MAGIC = 0x4d494752
# Nothing is judged by its speed: who has not moved by then hangs.
LIMIT = 300


class Bad(Exception):
    """What must not be."""


# A QEMU with sanitizers frees nothing at its end, and goes on after undefined behaviour,
# of which one process says as much as there is.
SANITIZERS = {'ASAN_OPTIONS': 'detect_leaks=0', 'UBSAN_OPTIONS': 'print_stacktrace=0'}


def complaints(status, errors):
    """What a sanitizer found, or what signal ended it, as a set of texts that are the same
    whenever the same happens."""
    found = set(re.findall(r'SUMMARY: (AddressSanitizer: .*)', errors))
    for place, what in re.findall(r'^(\S+): runtime error: (.*)', errors, re.M):
        what = re.sub(r'-?\b(0x[0-9a-f]+|[0-9]+)\b', 'N', what)
        found.add(f'UndefinedBehaviorSanitizer: {place}: {what}')
    if status < 0:
        last = re.findall(r'\S+\.c:\d+:.*[Aa]ssert.*|.*should not be reached.*', errors)
        found.add(' '.join([signal.Signals(-status).name, *last[-1:]]))
    return found


def build_guests():
    done = subprocess.run(['make', '-s', '-C', str(ROOT / 'tests' / 'guest'), f'OUT={GUESTS}'],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise Bad(f'the guests do not build: {done.stderr}')


def wait_until(what, condition):
    """Polls; what never comes is a failure."""
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise Bad(f'{what} never came')
        time.sleep(0.005)


class Machine:
    """One QEMU process."""

    def __init__(self, accel, cpus=1, words='mb8', memory=144, machine='pc', cpu='max',
                 extra=(), guest='migrate64'):
        self.cpus = cpus
        mine, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        mine.settimeout(LIMIT)
        self.errors = tempfile.TemporaryFile('w+', errors='replace')
        self.process = subprocess.Popen(
            [QEMU, '-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none',
             '-no-reboot', '-accel', accel, '-machine', machine, '-cpu', cpu, '-m', str(memory),
             '-smp', str(cpus), '-kernel', str(GUESTS / f'{guest}.elf'),
             '-append', f'{words} cpus{cpus}',
             '-chardev', f'socket,id=qmp,fd={theirs.fileno()}',
             '-mon', 'chardev=qmp,mode=control', *extra],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.errors,
            close_fds=False, env={**SANITIZERS, **os.environ})
        theirs.close()
        self.file = mine.makefile('rw')
        mine.close()

    def greet(self):
        self.message()
        self.do('qmp_capabilities')
        return self

    def message(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError('QEMU closed the connection')
        return json.loads(line)

    def tell(self, name, **arguments):
        """A command whose answer may never come."""
        self.file.write(json.dumps({'execute': name, 'arguments': arguments}) + '\n')
        self.file.flush()

    def ask(self, name, **arguments):
        self.tell(name, **arguments)
        while True:
            message = self.message()
            if 'event' not in message:
                return message

    def do(self, name, **arguments):
        answer = self.ask(name, **arguments)
        if 'error' in answer:
            raise Bad(f"{name}: {answer['error']['desc']}")
        return answer['return']

    def words_at(self, address, count):
        text = self.do('human-monitor-command',
                       **{'command-line': f'xp /{count}wx 0x{address:x}'})
        return [int(word, 16) for word in re.findall(r'0x([0-9a-f]{8})\b', text)]

    # --- the guest ---

    def mailbox(self):
        """For each CPU: rounds, pages, errors, page, word, found, wanted of the first."""
        words = self.words_at(MAILBOX, 8 + 8 * self.cpus)
        return words[0], [words[8 + 8 * i:16 + 8 * i] for i in range(self.cpus)]

    def rounds(self):
        return [cpu[0] for cpu in self.mailbox()[1]]

    def pages(self):
        return sum(cpu[1] for cpu in self.mailbox()[1])

    def wait_for_guest(self):
        wait_until('the guest', lambda: self.mailbox()[0] == MAGIC)
        self.goes_on(2)
        return self

    def goes_on(self, rounds):
        """Each CPU does so many more, without an error."""
        start = self.rounds()

        def done():
            cpus = self.mailbox()[1]
            for number, cpu in enumerate(cpus):
                if cpu[2]:
                    raise Bad(f'CPU {number}: {cpu[2]} errors; the first: page {cpu[3]} word '
                              f'{cpu[4]} is 0x{cpu[5]:x}, not 0x{cpu[6]:x}')
                if cpu[0] < start[number]:
                    raise Bad('the guest began anew')
            return all(cpu[0] - first >= rounds for cpu, first in zip(cpus, start))
        wait_until("the guest's next round", done)

    # --- migration ---

    def status(self):
        return self.do('query-migrate').get('status')

    def wait_status(self, wanted, never=('failed',)):
        def there():
            status = self.status()
            if status in never and status != wanted:
                raise Bad(f'migration is {status}, not {wanted}')
            return status == wanted
        wait_until(f'the status {wanted}', there)

    def set_capability(self, name, state=True):
        self.do('migrate-set-capabilities', capabilities=[{'capability': name, 'state': state}])

    def set_parameters(self, **values):
        self.do('migrate-set-parameters', **{k.replace('_', '-'): v for k, v in values.items()})

    # --- the end ---

    def quit(self):
        """Exit status and stderr, which must not be a complaint."""
        try:
            self.ask('quit')
        except (OSError, ValueError):
            pass
        ended = self.end()
        found = complaints(*ended)
        if found:
            raise Bad('; '.join(sorted(found)))
        return ended

    def kill(self):
        self.process.kill()
        return self.end()

    def end(self):
        """Exit status and stderr; negative: by a signal."""
        try:
            self.process.wait(timeout=LIMIT)
        except subprocess.TimeoutExpired as error:
            self.process.kill()
            self.process.wait()
            raise Bad('QEMU does not end') from error
        try:
            self.file.close()
        except OSError:
            pass                # what was not sent any more
        with self.errors:
            self.errors.seek(0)
            return self.process.returncode, self.errors.read()
