# SPDX-License-Identifier: GPL-2.0-or-later
"""The two emulators of CPUs with virtualization that Debian has: our own QEMU with TCG
for SVM, bochs for VMX. Owns their command lines and processes, and how the results that
the machine writes to its second serial port come out of them. Used by `run`.
"""

import fcntl
import os
import pty
import selectors
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / 'build'
IMAGE = BUILD / 'machine'


class Emulator:
    """A process in a session of its own, and the bytes of the second serial port."""

    # Seconds of the clock on the wall until a machine must have booted, and how many of
    # them a second of its own time may take. Limits are there to end what hangs.
    boot_limit = 300
    slowness = 5

    def __init__(self, args, logs):
        self.args = args
        self.logs = logs
        self.process = None

    def append(self, suite, more):
        """The machine's kernel command line."""
        return f'console=ttyS0,115200 panic=-1 {more} suite={suite} {self.args.append}'.strip()

    def cpu_seconds(self):
        """What it has used: other load on the host does not change that."""
        try:
            with open(f'/proc/{self.process.pid}/stat', encoding='ascii') as stat:
                times = stat.read().rpartition(')')[2].split()
        except OSError:
            return 0.0
        return (int(times[11]) + int(times[12])) / os.sysconf('SC_CLK_TCK')

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Qemu(Emulator):
    """SVM: what TCG emulates."""

    def command(self, suite, console, results):
        return [self.args.qemu, '-nodefaults', '-no-user-config', '-display', 'none',
                '-no-reboot', '-machine', 'q35', '-accel', 'tcg',
                '-cpu', self.args.cpu or 'EPYC,+svm,+npt',
                '-smp', self.args.smp, '-m', f'{self.args.memory or 1536}M',
                '-kernel', str(IMAGE / 'kernel' / 'vmlinuz'),
                '-initrd', str(IMAGE / 'initrd.cpio'),
                '-append', self.append(suite, 'machine=svm'),
                '-serial', console, '-serial', results, *self.args.extra]

    def start(self, suite):
        command = self.command(suite, f'file:{self.logs}/console.new', 'stdio')
        with open(self.logs / 'emulator', 'w', encoding='utf-8') as log:
            log.write(' '.join(command) + '\n')
            log.flush()
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=log,
                                            start_new_session=True)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def read(self):
        """What has come within a second at most; None at the end."""
        if not self.selector.select(timeout=1.0):
            return b''
        return os.read(self.process.stdout.fileno(), 65536) or None

    def stop(self):
        super().stop()
        self.process.stdout.close()

    def shell(self):
        """A shell in the machine, on this terminal."""
        return subprocess.run(self.command('shell', 'mon:stdio', 'null'),
                              check=False).returncode


class Bochs(Emulator):
    """VMX. An interpreter: what can be left out of the boot is left out."""

    boot_limit = 900
    slowness = 30

    # No APIC, PCI and ACPI: a kernel that probes for devices does little else here. The
    # TSC counts instructions (ips below), whatever CPUID says of this model's. With
    # rodata=off it does not look through all of its page tables either.
    words = ('machine=vmx quiet loglevel=4 mitigations=off nosmp noapic nolapic acpi=off nokaslr no_timer_check '
             'cryptomgr.notests tsc=reliable tsc_early_khz=500000 '
             'random.trust_cpu=on rodata=off initcall_blacklist=cubictcp_register,trace_eval_init,pci_subsys_init,ptp_init,cipso_v4_init')

    config = '''\
megs: {memory}
cpu: model={cpu}, count=1, ips=500000000, reset_on_triple_fault=0
romimage: file={image}/boot_rom.bin
optramimage1: file={work}/flat, address=0x100000
vgaromimage: file=/usr/share/vgabios/vgabios.bin
plugin_ctrl: biosdev=0, speaker=0, parallel=0, extfpuirq=1
com1: enabled=1, mode=file, dev={work}/console
com2: enabled=1, mode=file, dev={work}/results
display_library: term
log: {work}/log
panic: action=fatal
error: action=report
info: action=ignore
clock: sync=none
'''

    def __init__(self, args, logs):
        super().__init__(args, logs)
        self.work = IMAGE / 'bochs'
        self.results = None
        self.terminal = None

    def prepare(self, suite):
        self.work.mkdir(exist_ok=True)
        for name in ('console', 'results', 'log'):
            (self.work / name).write_bytes(b'')
        memory = self.args.memory or 1024
        subprocess.run([HERE / 'kernel-image', 'flat', IMAGE / 'kernel' / 'vmlinuz',
                        self.work / 'flat', str(memory), self.append(suite, self.words),
                        IMAGE / 'initrd.cpio'], check=True)
        (self.work / 'config').write_text(
            self.config.format(memory=memory, image=IMAGE, work=self.work,
                               cpu=self.args.cpu or 'corei7_skylake_x'), encoding='utf-8')
        # Debian's bochs has its debugger built in: it must be told to go on.
        (self.work / 'commands').write_text('c\n', encoding='utf-8')

    def start(self, suite):
        self.prepare(suite)
        # It draws its screen on a terminal, which has to be a large one.
        self.terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 60, 160, 0, 0))
        with open(self.logs / 'emulator', 'w', encoding='utf-8') as log:
            self.process = subprocess.Popen(
                ['bochs', '-q', '-f', 'config', '-rc', 'commands'], cwd=self.work,
                stdin=theirs, stdout=theirs, stderr=log, start_new_session=True,
                env={**os.environ, 'TERM': 'xterm'})
        os.close(theirs)
        os.set_blocking(self.terminal, False)
        self.results = open(self.work / 'results', 'rb')

    def drain_terminal(self):
        try:
            while os.read(self.terminal, 65536):
                pass
        except (BlockingIOError, OSError):
            pass

    def read(self):
        """What has come; None at the end."""
        over = self.process.poll() is not None
        self.drain_terminal()
        data = self.results.read()
        if data or over:
            return data or None
        time.sleep(0.2)
        return b''

    def stop(self):
        super().stop()
        os.close(self.terminal)
        self.results.close()
        (self.logs / 'console.new').write_bytes((self.work / 'console').read_bytes())


EMULATORS = {'svm': Qemu, 'vmx': Bochs}
