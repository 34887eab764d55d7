"""Guests of the benchmark that obey: Caisson and QEMU with the same kernel, initrd and Debian tree, driven by commands that the
host types on their consoles (`agent` of bench/guest/init). Used by bench/storage.py and bench/network.py."""
import contextlib
import os
import re
import subprocess

import subjects as bench
from subjects import vm

COMMAND_SECONDS = 120
TICK_MS = 1000 / os.sysconf('SC_CLK_TCK')
QEMU_DISK = 'file={path},format={format},cache={cache},aio=io_uring,if=none,id=d{n}'


def qemu_arguments(place, words, disks, cards):
    arguments = ['-M', 'q35', '-accel', 'tcg', '-cpu', 'max', '-smp', '1', '-m', str(bench.MEMORY_MIB), '-nographic', '-no-reboot',
                 '-nodefaults', '-serial', 'stdio', '-kernel', place.kernel, '-initrd', place.initrd, '-append', words,
                 '-drive', f'file={place.work_disk},format=raw,if=none,id=work,readonly=on', '-device', 'virtio-blk-pci,drive=work']
    for n, (path, form, cache) in enumerate(disks):
        arguments += ['-drive', QEMU_DISK.format(path=path, format=form, cache=cache, n=n), '-device', f'virtio-blk-pci,drive=d{n}']
    for n, (netdev, mac) in enumerate(cards):
        arguments += ['-netdev', f'{netdev},id=n{n}', '-device', f'virtio-net-pci,netdev=n{n},mac={mac}']
    return arguments


def caisson_arguments(place, engine, words, disks, cards):
    arguments = ['--kernel', place.kernel, '--initrd', place.initrd, '--append', words, '--engine', engine, '--cpus', '1',
                 '--memory', f'{bench.MEMORY_MIB}M', '--no-reboot', '--disk', f'{place.work_disk},ro']
    for path, form, cache in disks:
        arguments += ['--disk', f'{path},format={form},cache={cache}']
    for network, mac in cards:
        arguments += ['--net', f'{network},mac={mac}']
    return arguments if cards else [*arguments, '--net', 'none']


def process_cpu_ms(pid):
    """CPU time of a process with its threads that have ended, of which workers are many. In ticks of the kernel's clock."""
    with open(f'/proc/{pid}/stat', encoding='ascii') as f:
        words = f.read().rpartition(')')[2].split()
    return (int(words[11]) + int(words[12])) * TICK_MS


class Guest(bench.Machine):
    def cpu_ms(self):
        try:
            return process_cpu_ms(self.main_pid())
        except (OSError, vm.Failure):
            return None


class Agent:
    """A running guest that is ready for commands. disks: (path, format, cache); cards: (what --net or -netdev want, MAC);
    prefix: words in front of the VMM's command line."""

    def __init__(self, place, subject, disks=(), cards=(), prefix=(), name=None):
        words = 'console=ttyS0 quiet panic=-1 caisson.agent=1'
        self.subject = subject
        if subject == 'tcg':
            program, arguments = [*prefix, bench.QEMU], qemu_arguments(place, words, disks, cards)
        else:
            program = [*prefix, vm.CAISSON, 'vm', 'run', *(['--name', name] if name else [])]
            arguments = caisson_arguments(place, subject, words, disks, cards)
        self.machine = Guest(subject, arguments, program)
        try:
            self.machine.wait_for('CAISSON-READY', bench.BOOT_SECONDS)
        except vm.Failure:
            raise vm.Failure(f'{subject}: no agent; last words: {self.close()[-300:]!r}') from None

    def run(self, command, seconds=COMMAND_SECONDS):
        """(output, offset of its start) of a command that must go well."""
        start = len(self.machine.output)
        self.machine.type(command + '\n')
        match = self.machine.wait_for(r'CAISSON-EXIT (\d+)', seconds, start)
        said = self.machine.output[start:match.start()]
        if match.group(1) != '0':
            raise vm.Failure(f'{self.subject}: {command}: status {match.group(1)}: {said.strip()[-300:]}')
        return said, start

    def cpu_ms(self):
        return self.machine.cpu_ms()

    def close(self):
        """Ends it, without ceremony; returns all that it said."""
        with contextlib.suppress(OSError, vm.Failure, subprocess.TimeoutExpired):
            if self.machine.process.poll() is None:
                self.machine.type('$B poweroff -f\n')
                self.machine.process.wait(15)
        self.machine.close()
        return self.machine.output


def number(pattern, text):
    match = re.search(pattern, text)
    if not match:
        raise vm.Failure(f'no figure in {text.strip()[-200:]!r}')
    return float(match.group(1))


def scratch(place, name):
    return os.path.join(place.folder, name)
