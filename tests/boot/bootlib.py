# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots one guest under QEMU and judges what it did.

Owns the QEMU process of a boot: its command line, its serial console, its QMP
connection. The guest's init (tests/boot/init) says "end" when its work is done
and waits for a line; at that moment the MMU's statistics are asked for. Used by
boot-test (one boot, for people) and run-matrix (many, as TAP).
"""

import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / 'build'

# Silence for so long means that the guest hangs. Generous: a slow machine under
# verify=on must not fail for being slow, and no boot is judged by its speed.
SILENCE_LIMIT = 300
HINT_EVERY = 30

SAYS = 'xmmu-guest: '
BAD_SIGNS = [
    (re.compile(pattern), text) for pattern, text in (
        (r'Kernel panic', 'the kernel panicked'),
        (r'\bOops\b', 'a kernel oops'),
        (r'\bBUG:', 'a kernel BUG'),
        (r'kernel BUG at', 'a kernel BUG'),
        (r'general protection fault', 'a general protection fault in the guest'),
        (r'segfault at', 'a guest program crashed'),
        (r'soft lockup|rcu: INFO: .* detected .*stall', 'a guest CPU stalled'),
        (r'double fault', 'a double fault in the guest'),
    )]
WENT_DOWN = re.compile(r'reboot: (Power down|System halted|machine halt)')
OVMF = Path('/usr/share/OVMF')

# Properties of the xmmu accelerator that TCG does not have.
XMMU_ONLY = {'engine', 'tdp', 'pt-format', 'prev-roots', 'huge-pages', 'verify', 'async-pf', 'nx-huge-pages',
             'nx-huge-pages-recovery', 'nx-huge-pages-recovery-ratio',
             'nx-huge-pages-recovery-period-ms'}


class BootError(Exception):
    """The boot cannot be tried at all: a file or a program is missing."""


@dataclass
class Config:
    """What to boot, and how."""
    qemu: str = str(BUILD / 'qemu' / 'qemu-system-x86_64')
    accel: str = 'xmmu'
    machine: str = 'q35'
    smp: str = '2'
    memory: str = '512M'
    kernel: str = 'amd64'
    cpu: str = 'max'
    firmware: str = 'bios'
    append: str = ''
    extra: list = field(default_factory=list)
    image: str = 'vmlinuz'          # in the guest's directory

    def cpus(self):
        """The number of CPUs that the guest must see."""
        return int(re.match(r'(?:cpus=)?(\d+)', self.smp)[1])


@dataclass
class Result:
    """What came of it. `problems` is empty for a good boot."""
    problems: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    system: str = ''
    user_space_seconds: float = 0.0
    total_seconds: float = 0.0
    mmu: dict = None
    mmu_why_not: str = ''


def accel_for(wanted, override):
    """The accelerator options of a boot that runs with another accelerator."""
    if not override:
        return wanted
    name, *options = wanted.split(',')
    kept = [o for o in options if name != 'xmmu' or o.split('=')[0] not in XMMU_ONLY]
    return ','.join([override] + kept)


def prepare_guest(kernel, quiet=False):
    """Returns the directory with vmlinuz and initrd.gz, made when missing."""
    command = [str(HERE / 'make-guest'), kernel, str(BUILD)]
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None,
                          stderr=subprocess.PIPE if quiet else None, text=True, check=False)
    if done.returncode:
        raise BootError(f"cannot prepare the guest '{kernel}':\n{done.stderr or ''}")
    return BUILD / 'guests' / kernel


def firmware_options(config, workdir):
    if config.firmware == 'bios':
        return []
    secure = '.secboot' if config.firmware == 'ovmf-smm' else ''
    code, template = OVMF / f'OVMF_CODE_4M{secure}.fd', OVMF / 'OVMF_VARS_4M.fd'
    if config.firmware not in ('ovmf', 'ovmf-smm'):
        raise BootError(f"unknown firmware '{config.firmware}': bios, ovmf or ovmf-smm")
    if not code.exists():
        raise BootError(f"{code} is missing: install the package ovmf")
    variables = Path(workdir) / 'vars.fd'
    shutil.copyfile(template, variables)
    options = ['-drive', f'if=pflash,unit=0,format=raw,readonly=on,file={code}',
               '-drive', f'if=pflash,unit=1,format=raw,file={variables}']
    if secure:
        options += ['-global', 'driver=cfi.pflash01,property=secure,value=on']
    return options


def command_line(config, guest, workdir, qmp_fd):
    append = f'console=ttyS0 panic=-1 {config.append}'.strip()
    return [config.qemu, '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
            '-accel', config.accel, '-machine', config.machine, '-cpu', config.cpu,
            '-smp', config.smp, '-m', config.memory,
            '-chardev', 'stdio,id=console,signal=off', '-serial', 'chardev:console',
            '-chardev', f'socket,id=qmp,fd={qmp_fd}', '-mon', 'chardev=qmp,mode=control',
            '-kernel', str(guest / config.image), '-initrd', str(guest / 'initrd.gz'),
            '-append', append,
            *firmware_options(config, workdir), *config.extra]


class Qmp:
    """A QMP connection over a socket that QEMU was started with."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b''
        self.events = []

    def _message(self, seconds=SILENCE_LIMIT):
        self.sock.settimeout(seconds)
        while b'\n' not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError('QEMU closed the QMP connection')
            self.buffer += data
        line, self.buffer = self.buffer.split(b'\n', 1)
        return json.loads(line)

    def read_events(self):
        """Takes in what has arrived, without waiting. Returns False at the end."""
        try:
            while True:
                message = self._message(0.0)
                if 'event' in message:
                    self.events.append(message)
        except (BlockingIOError, socket.timeout):
            return True
        except (ConnectionError, OSError):
            return False

    def command(self, name, **arguments):
        self.sock.settimeout(None)
        request = {'execute': name, 'arguments': arguments}
        self.sock.sendall(json.dumps(request).encode() + b'\n')
        while True:
            message = self._message()
            if 'event' in message:
                self.events.append(message)
            elif 'return' in message or 'error' in message:
                return message

    def saw(self, event):
        return any(seen['event'] == event for seen in self.events)

    def shutdown_reason(self):
        for event in self.events:
            if event['event'] == 'SHUTDOWN':
                return event['data'].get('reason', '')
        return None


class Boot:
    """One boot, from start to the end of the process."""

    def __init__(self, config, log, show=None, hint=None):
        self.config = config
        self.log = log
        self.show = show
        self.hint = hint or (lambda text: None)
        self.result = Result()
        self.process = None
        self.qmp = None
        self.line = ''
        self.last_line = ''
        self.ended = False
        self.down = False
        self.started = 0.0
        self.last_output = 0.0

    def elapsed(self):
        return time.monotonic() - self.started

    def problem(self, text):
        if text not in self.result.problems:
            self.result.problems.append(text)

    # --- the console ---

    def on_output(self, data):
        text = data.decode('utf-8', 'replace').replace('\r', '')
        self.last_output = time.monotonic()
        self.log.write(text)
        self.log.flush()
        if self.show:
            self.show.write(text)
            self.show.flush()
        *lines, self.line = (self.line + text).split('\n')
        for line in lines:
            self.on_line(line)

    def on_line(self, line):
        self.last_line = line.strip() or self.last_line
        for pattern, text in BAD_SIGNS:
            if pattern.search(line):
                self.problem(f'{text}: {line.strip()}')
        if WENT_DOWN.search(line):
            self.down = True
        if SAYS in line:
            self.on_guest_says(line[line.index(SAYS) + len(SAYS):].strip())

    def on_guest_says(self, words):
        if words.startswith('user space '):
            self.result.system = words[len('user space '):]
            self.result.user_space_seconds = self.elapsed()
        elif words.startswith('cpus '):
            self.judge_check(words == f'cpus {self.config.cpus()}',
                             f"{words}, expected {self.config.cpus()}")
        elif words.startswith('ok '):
            self.judge_check(True, words[3:])
        elif words.startswith('not ok '):
            self.judge_check(False, words[7:])
        elif words == 'end':
            self.on_end()

    def judge_check(self, good, text):
        self.result.checks.append((good, text))
        if not good:
            self.problem(f'check in the guest failed: {text}')

    def on_end(self):
        self.ended = True
        self.ask_statistics()
        try:
            self.process.stdin.write(b'go\n')
            self.process.stdin.flush()
        except OSError:
            self.problem('QEMU ended while the guest was still running')

    def ask_statistics(self):
        try:
            answer = self.qmp.command('x-query-xmmu')
        except (OSError, ValueError) as error:
            self.problem(f'no answer over QMP: {error}')
            return
        if 'return' in answer:
            self.result.mmu = answer['return']
        else:
            self.result.mmu_why_not = answer['error'].get('desc', 'error')

    # --- the process ---

    def prepare(self):
        """Returns the directory of the guest; the benchmark has one of its own."""
        return prepare_guest(self.config.kernel, quiet=self.show is None)

    def run(self):
        try:
            guest = self.prepare()
        except OSError as error:
            raise BootError(str(error)) from error
        with tempfile.TemporaryDirectory(prefix='xmmu-boot-') as workdir:
            self.start(guest, workdir)
            try:
                self.watch()
            finally:
                self.stop()
        self.judge_end()
        return self.result

    def start(self, guest, workdir):
        ours, theirs = socket.socketpair()
        command = command_line(self.config, guest, workdir, theirs.fileno())
        self.log.write('$ ' + ' '.join(command) + '\n')
        self.started = self.last_output = time.monotonic()
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()], start_new_session=True)
        except OSError as error:
            ours.close()
            theirs.close()
            raise BootError(f'cannot start {self.config.qemu}: {error.strerror}') from error
        theirs.close()
        self.qmp = Qmp(ours)
        self.negotiate()

    def negotiate(self):
        """Without QMP the boot goes on: QEMU's own message tells what is wrong."""
        try:
            self.qmp.command('qmp_capabilities')
        except (OSError, ValueError):
            pass

    def watch(self):
        selector = selectors.DefaultSelector()
        selector.register(self.process.stdout, selectors.EVENT_READ)
        next_hint = self.started + HINT_EVERY
        while True:
            for key, _ in selector.select(timeout=1.0):
                data = os.read(key.fd, 65536)
                if not data:
                    return
                self.on_output(data)
            now = time.monotonic()
            if now >= next_hint:
                next_hint += HINT_EVERY
                self.hint(f'{self.elapsed():.0f} s, last line: {self.last_line[-100:]}')
            if self.is_over(now):
                return

    def is_over(self, now):
        """A machine without a power switch is switched off here."""
        if not self.qmp.read_events():
            return False
        if self.qmp.saw('STOP') and not self.qmp.saw('SHUTDOWN'):
            self.problem(f'QEMU stopped the machine: {self.last_line}')
            return True
        if self.down and now - self.last_output > 5:
            self.qmp.command('quit')
            return False
        if now - self.last_output > SILENCE_LIMIT:
            self.problem(f'the guest hangs: no output for {SILENCE_LIMIT} s')
            return True
        return False

    def stop(self):
        try:
            self.process.wait(timeout=0 if self.result.problems else SILENCE_LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.qmp.read_events()
        self.qmp.sock.close()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except OSError:
            pass
        self.result.total_seconds = self.elapsed()

    def judge_end(self):
        status = self.process.returncode
        if status < 0 and not self.result.problems:
            self.problem(f'QEMU was ended by signal {signal.Signals(-status).name}')
        elif status > 0:
            self.problem(f'QEMU ended with status {status}')
        if not self.result.system:
            self.problem('user space was not reached')
        elif not self.ended:
            self.problem("the guest's checks did not come to their end "
                         f'(QEMU says: {self.qmp.shutdown_reason()})')
        elif not self.down:
            self.problem(f'no clean power-off (QEMU says: {self.qmp.shutdown_reason()})')


def boot(config, log_path, show=None, hint=None):
    """Boots once. The console goes to log_path, and to the stream `show` if given."""
    log_path = Path(log_path)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with open(log_path, 'w', encoding='utf-8') as log:
        return Boot(config, log, show, hint).run()


def hint_on_stderr(text):
    print(f'# still booting: {text}', file=sys.stderr, flush=True)
