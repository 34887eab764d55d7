#!/usr/bin/env python3
"""Hostile guests in real VMs: hostile.py CASE IMAGE (see meson.build), meant for the build with sanitizers.

Each case starts caisson with the guest program of this folder, two disks of known content, user network and the debug exit
port, and demands: the expected exit code, no report of a sanitizer, no failed check in the guest, both disks intact.
HOSTILE_SECONDS (6) is how long `random` runs, HOSTILE_SEED (1) its first seed."""
import contextlib
import hashlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'boot'))
import vm  # noqa: E402
from vm import check  # noqa: E402

SECONDS = int(os.environ.get('HOSTILE_SECONDS', '6'))
SEED = int(os.environ.get('HOSTILE_SEED', '1'))
HEARTBEAT_LIMIT = 60 # seconds without one: the VM hangs
GROWTH_LIMIT = 16 << 10 # KiB of anonymous memory
SECTORS = 2048
REPORT = re.compile(r'(AddressSanitizer|LeakSanitizer|UndefinedBehavior|runtime error|check failed|SUMMARY:).*')
IMAGE = None


def content(tag):
    """What virtio.c expects: word n of the disk."""
    return b''.join(struct.pack('<Q', (n * 0x9e3779b97f4a7c15 + tag) & 0xffffffffffffffff) for n in range(SECTORS * 64))


class Disks:
    def __init__(self):
        folder = os.path.dirname(os.environ['XDG_RUNTIME_DIR'])
        self.paths = [os.path.join(folder, f'disk{n}.img') for n in range(2)]
        for n, path in enumerate(self.paths):
            with open(path, 'wb') as f:
                f.write(content(n + 1))
        self.digests = self.read()

    def read(self):
        digests = []
        for path in self.paths:
            with open(path, 'rb') as f:
                digests.append(hashlib.sha256(f.read()).hexdigest())
        return digests

    def check(self):
        check(self.read() == self.digests, 'a disk was changed')


def arguments(disks, case, words='', cpus=1, net='user'):
    return ['--kernel', IMAGE, '--append', f'case={case} {words}'.strip(), '--engine', 'interp', '--memory', '64M', '--cpus',
            str(cpus), '--net', net, '--debug-exit', '--no-reboot', *(word for path in disks.paths for word in ('--disk', path))]


@contextlib.contextmanager
def hostile(case, words='', terminal=False, **options):
    """A running guest; its disks are compared at the end and its output is searched for reports."""
    disks = Disks()
    with vm.started(arguments(disks, case, words, **options), terminal=terminal) as guest:
        yield guest
        report = REPORT.search(guest.output)
        check(not report, report and report.group(0))
    disks.check()


def passes(case, words='', **options):
    with hostile(case, words, **options) as guest:
        code = guest.wait()
        check(code == 0, f'{case}: exit code {code}')
        check(re.search(r'\d+ checks, 0 failed', guest.output), f'{case}: the guest did not finish')
        return guest.output


def case_group(case):
    """The groups that the guest judges itself, with one queue and with two for each disk."""
    for cpus in (1, 2):
        print(passes(case, cpus=cpus).splitlines()[-1])


def anonymous_kib(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as f:
        return int(re.search(r'RssAnon:\s+(\d+)', f.read()).group(1))


def case_random():
    """Random accesses to all registers: the guest's heart goes on beating, and the VMM does not grow."""
    for seed, cpus in ((SEED, 1), (SEED + 1, 2)):
        print(f'random: seed {seed}, {SECONDS} s, {cpus} vCPUs')
        with hostile('random', f'seconds={SECONDS} seed={seed}', cpus=cpus) as guest:
            guest.wait_for('random: seed')
            pid, beats, sizes = guest.vmm_pid(), 0, []
            while True:
                match = guest.wait_for(rf'heartbeat {beats + 1}:|checks, \d+ failed', HEARTBEAT_LIMIT)
                if 'checks' in match.group(0):
                    break
                beats += 1
                with contextlib.suppress(OSError, AttributeError): # it may have ended just now
                    sizes.append(anonymous_kib(pid))
            code = guest.wait()
            check(code == 0, f'exit code {code}')
            check('checks, 0 failed' in guest.output, 'the devices did not recover')
            check(beats > 0, 'no heartbeat at all')
            print(f'{beats} heartbeats, memory {sizes} KiB')
            check(not sizes or sizes[-1] - sizes[0] < GROWTH_LIMIT, f'the VMM grows: {sizes} KiB')


def case_crash():
    """A triple fault: exit code 8, one line."""
    with hostile('triple') as guest:
        code = guest.wait()
        check(code == 8, f'exit code {code}')
        lines = re.findall(r'caisson: [^\n]*', guest.output)
        check(len(lines) == 1 and 'triple fault' in lines[0], f'lines: {lines}')


def case_exec():
    """Code in device space and over the end of RAM raises exceptions in the guest and nothing else."""
    for case in ('exec-mmio', 'exec-end'):
        check('READY' in passes(case), 'it did not begin')


def cpu_seconds(pid):
    with open(f'/proc/{pid}/stat', encoding='ascii') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def ends(case, idle=False):
    """A guest that never ends by itself: SIGTERM to the CLI, SIGTERM to the VMM, and Ctrl-] x end it."""
    for way in ('term', 'vmm', 'keys'):
        with hostile(case, terminal=way == 'keys') as guest:
            guest.wait_for('READY')
            pid = guest.vmm_pid()
            if idle and way == 'term':
                before = cpu_seconds(pid)
                time.sleep(2)
                used = cpu_seconds(pid) - before
                check(used < 0.5, f'a halted VM used {used} s of CPU time in 2 s')
            if way == 'term':
                guest.process.send_signal(signal.SIGTERM)
            elif way == 'vmm':
                os.kill(pid, signal.SIGTERM)
            else:
                guest.type('\x1dx')
            code = guest.wait(60)
            check(code == {'term': 128 + signal.SIGTERM, 'vmm': 0, 'keys': 0}[way], f'{way}: exit code {code}')
            check(not os.path.exists(f'/proc/{pid}'), f'{way}: the VMM lives on')
            if way == 'keys':
                check(guest.terminal_restored(), 'the terminal was not restored')


def case_quiet():
    ends('quiet', idle=True)


def case_busy():
    ends('busy')


def wait_gone(pid, what):
    deadline = time.monotonic() + 60
    while os.path.exists(f'/proc/{pid}'):
        with contextlib.suppress(OSError), open(f'/proc/{pid}/stat', encoding='ascii') as f:
            if f.read().rsplit(')', 1)[1].split()[0] == 'Z':
                return
        check(time.monotonic() < deadline, what)
        time.sleep(0.1)


def case_flood():
    """Output that nobody reads for a while does not stop the guest's other devices (the exit code is the guest's verdict; its
    last words may be lost on so slow a reader). Nor does it keep anybody from ending the VM."""
    for way in ('read', 'closed', 'term'):
        disks = Disks()
        with subprocess.Popen([vm.CAISSON, 'vm', 'run', *arguments(disks, 'flood-on' if way == 'term' else 'flood')],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as cli:
            try:
                output = b''
                while b'READY' not in output:
                    part = os.read(cli.stdout.fileno(), 100)
                    check(part, f'the guest did not begin: {output}')
                    output += part
                if way == 'read':
                    time.sleep(2)
                    output += cli.stdout.read()
                    code = cli.wait(60)
                    check(code == 0, f'exit code {code}')
                elif way == 'closed':
                    cli.stdout.close()
                    code = cli.wait(60)
                    check(code == 0, f'exit code {code} without a reader')
                else:
                    time.sleep(2) # all buffers on the way are full now
                    cli.send_signal(signal.SIGTERM)
                    code = cli.wait(60)
                    check(code == 128 + signal.SIGTERM, f'exit code {code}')
                report = REPORT.search(output.decode('utf-8', 'replace'))
                check(not report, report and report.group(0))
            except subprocess.TimeoutExpired:
                raise vm.Failure(f'{way}: caisson does not end') from None
            finally:
                cli.kill()
        disks.check()


def case_race():
    """A second vCPU changes rings and registers under the device's hands."""
    passes('race', 'cpus=2', cpus=2)


def case_storm():
    """Interrupts that are not acknowledged, by a level and by the timer."""
    passes('storm')


def case_starve():
    """The host sends and the guest takes nothing: no growth without bound, and the network works afterwards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with hostile('starve', net=f'user,fwd=udp:{port}:7') as guest:
        guest.wait_for('READY')
        pid, sizes = guest.vmm_pid(), []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(('127.0.0.1', port))
            for n in range(40000):
                with contextlib.suppress(ConnectionRefusedError):
                    s.send(b'x' * 1400)
                if n % 4000 == 3999:
                    time.sleep(0.2)
                    sizes.append(anonymous_kib(pid))
        print(f'memory {sizes} KiB')
        check(sizes[-1] - sizes[0] < GROWTH_LIMIT, f'the VMM grows: {sizes} KiB')
        guest.type('g')
        code = guest.wait()
        check(code == 0, f'exit code {code}')
        check('checks, 0 failed' in guest.output, 'the guest did not finish')


CASES = {name[5:]: case for name, case in globals().items() if name.startswith('case_') and name != 'case_group'}

if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit('usage: hostile.py CASE IMAGE')
    IMAGE = os.path.abspath(sys.argv[2])
    options = os.environ.get('ASAN_OPTIONS', 'detect_leaks=1')
    if sys.argv[1] in ('random', 'starve'):
        # Freed memory would wait in a quarantine, which looks like growth.
        options += ':quarantine_size_mb=0:thread_local_quarantine_size_kb=0'
    os.environ['ASAN_OPTIONS'] = options
    os.environ.setdefault('UBSAN_OPTIONS', 'print_stacktrace=1:halt_on_error=1')
    name = sys.argv[1]
    sys.argv[1:] = [name]
    vm.main({**CASES, **{group: (lambda group=group: case_group(group)) for group in ('split', 'packed', 'registers', 'pci', 'msix')}})
