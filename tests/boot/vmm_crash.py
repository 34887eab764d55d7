#!/usr/bin/env python3
"""kill -9 of caisson-vmm in the middle of random writes by a stock guest: each image is clean or leaked, and has everything whose
flush the guest saw acknowledged. The guest's first process (crash_guest.c) writes to all disks of the VM at once; the host knows
by the same random numbers what it wrote. Images live through several kills before they are checked out by a repair.

vmm_crash.py GUEST-PROGRAM [-n KILLS] [--first SEED] [-v]
"""
import argparse
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time

import vm
from vm import check

sys.path.insert(0, os.path.join(vm.ROOT, 'tests/disk'))
import crash # noqa: E402 (found by the line above)
import disk # noqa: E402
from disk import qemu_img, run # noqa: E402

KERNEL = 'linux-image-cloud-amd64'
M = 1 << 20
SIZE = 16 * M
SECTOR, STRIPE, WORKERS, MOST = 512, 256, 2, 128 # as in crash_guest.c; sectors but for the first
CACHES = ('none', 'writeback', 'writethrough')
LIVES = 4 # kills of one set of images
WORD = (1 << 64) - 1


def numbers(state):
    """xorshift64*, as in crash_guest.c."""
    while True:
        state ^= state >> 12
        state = (state ^ state << 25) & WORD
        state ^= state >> 27
        yield (state * 0x2545f4914f6cdd1d & WORD) >> 16


def operations(boot, number, worker):
    """(sequence number, kind, first sector, sectors) of a worker of crash_guest.c, without end."""
    draw = numbers(((boot << 16 | number << 8 | worker) * 0x9e3779b97f4a7c15 + 1) & WORD)
    grain = 8 if worker == 0 else 1
    seq = 0
    while True:
        seq += 1
        kind = next(draw) % 32
        stripe = next(draw) % (SIZE // SECTOR // STRIPE // WORKERS) * WORKERS + worker
        at = next(draw) % (STRIPE // grain) * grain
        count = (next(draw) % (min(STRIPE - at, MOST) // grain) + 1) * grain
        name = 'flush' if kind < 3 else 'data' if kind > 4 else 'discard' if kind == 3 and worker == 1 else 'zero'
        yield seq, name, stripe * STRIPE + at, count


def content(tag, sector):
    return struct.pack('<QQ', tag, sector) + struct.pack('<Q', tag * 0x9e3779b97f4a7c15 & WORD ^ sector) * 62


def allowed(base, boot, number, acked):
    """{sector: the contents that it may have} of all sectors that the guest may have touched since `base`."""
    may = {}
    zeroes = bytes(SECTOR)
    for worker in range(WORKERS):
        after = 0
        for seq, kind, first, count in operations(boot, number, worker):
            if kind == 'flush':
                # One acknowledgement may have got lost on its way, and of what follows it anything may have been done.
                after += seq > acked[worker]
                if after > 2:
                    break
                continue
            sure = seq <= acked[worker]
            tag = boot << 48 | number << 40 | worker << 32 | seq
            for s in range(first, first + count):
                new = content(tag, s) if kind == 'data' else zeroes
                if sure and kind != 'discard':
                    may[s] = [new]
                else:
                    may.setdefault(s, [base[s * SECTOR:(s + 1) * SECTOR]]).append(new)
    return may


class Image:
    def __init__(self, folder, number, form, options, cache):
        self.form, self.number, self.cache = form, number, cache
        self.path = os.path.join(folder, f'{number}.{form}')
        self.what = f'{form} {" ".join(options)} cache={cache}'
        self.data = bytes(SIZE)
        disk.caisson('create', self.path, SIZE, '--format', form, *options)

    def read(self):
        raw = self.path
        if self.form != 'raw':
            raw += '.read'
            run('qemu-img', 'convert', '-f', self.form, '-O', 'raw', self.path, raw)
        with open(raw, 'rb') as f:
            data = f.read()
        if raw != self.path:
            os.unlink(raw)
        check(len(data) == SIZE, f'{self.what}: the size is another')
        return data

    def checked(self, boot, acked):
        """Check it after a kill; returns whether qemu-img found leaks."""
        leaked = False
        if self.form != 'raw':
            found = qemu_img('check', self.path, code=None)
            check(found.returncode in (0, 3), f'{self.what}: qemu-img check: {found.returncode} {found.stdout} {found.stderr}')
            leaked = found.returncode == 3
            disk.caisson('check', self.path) # 0: clean or leaked
        data = self.read()
        may = allowed(self.data, boot, self.number, acked)
        for s in range(SIZE // SECTOR):
            sector = data[s * SECTOR:(s + 1) * SECTOR]
            values = may.get(s)
            if sector not in values if values else sector != self.data[s * SECTOR:(s + 1) * SECTOR]:
                tag, at = struct.unpack_from('<QQ', sector)
                raise vm.Failure(f'{self.what}: sector {s} has the record {tag:#x} of sector {at}, allowed are '
                                 f'{[hex(struct.unpack_from("<Q", value)[0]) for value in values or []]}; flushed was {acked}')
        self.data = data
        return leaked

    def repaired(self):
        if self.form != 'raw':
            disk.caisson('check', self.path, '--repair', 'all')
            qemu_img('check', self.path)
            check(self.read() == self.data, f'{self.what}: the repair changed the data')


def initrd(folder, original, program):
    """The stock initrd with the program behind it, as a second archive."""
    path = os.path.join(folder, 'initrd')
    archive = subprocess.run(['cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0'], input=os.path.basename(program).encode(),
                             capture_output=True, check=True, cwd=os.path.dirname(program))
    with open(original, 'rb') as f:
        first = f.read()
    with open(path, 'wb') as f:
        f.write(first + bytes(-len(first) % 512) + archive.stdout)
    return path


def one_kill(boot, images, kernel, initrd_path, program):
    """Boot, kill -9 at some moment, check. Returns (acknowledged flushes, images with leaks)."""
    rng = random.Random(boot)
    until = rng.randrange(1, 300)
    options = [word for image in images for word in ('--disk', f'{image.path},format={image.form},cache={image.cache}')]
    arguments = ['--kernel', kernel, '--initrd', initrd_path, '--engine', 'bt', '--cpus', '1', '--memory', '256M', '--net', 'none',
                 *options, '--append', f'console=ttyS0 quiet panic=-1 rdinit=/{os.path.basename(program)} -- {boot}']
    with vm.started(arguments) as guest:
        guest.wait_for('ACK|CRASH-ERROR')
        while guest.output.count('ACK') < until and 'CRASH-ERROR' not in guest.output and guest.process.poll() is None:
            time.sleep(0.001)
        os.kill(guest.vmm_pid(), signal.SIGKILL)
        code = guest.wait(60)
        check(code == 1 and 'signal 9' in guest.output, f'exit code {code}')
        check('CRASH-ERROR' not in guest.output, 'the guest got an error')
        # Whole lines: the kill, or a message of the kernel, may have cut one.
        acks = [[int(word) for word in match] for match in re.findall(r'^ACK (\d) (\d) (\d+)\r?\n', guest.output, re.M)]
    leaked = 0
    for image in images:
        acked = [0] * WORKERS
        for number, worker, seq in acks:
            if number == image.number:
                acked[worker] = max(acked[worker], seq)
        leaked += image.checked(boot, acked)
    return len(acks), leaked


def one_set(first, kills, folder, kernel, initrd_path, program, verbose):
    """Kills of the VMs first, first + 1, ... with the same images. Returns the sums of what one_kill does."""
    images = [Image(folder, 0, 'raw', [], CACHES[first // LIVES % 3])]
    for number in range(1, 4):
        n = first // LIVES * 3 + number - 1
        images.append(Image(folder, number, 'qcow2', crash.KINDS[n % len(crash.KINDS)], CACHES[(n + n // 10) % 3]))
    acked = leaked = 0
    for boot in range(first, first + kills):
        try:
            a, l = one_kill(boot + 1, images, kernel, initrd_path, program)
        except (vm.Failure, disk.Failure) as failure:
            raise vm.Failure(f'kill {boot}: {failure}') from None
        acked, leaked = acked + a, leaked + l
        if verbose:
            print(f'kill {boot}: {a} flushes, {l} of {len(images)} images leaked: {"; ".join(i.what for i in images)}', flush=True)
    for image in images:
        image.repaired()
        os.unlink(image.path)
    return acked, leaked


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('program')
    parser.add_argument('-n', type=int, default=20)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('-v', action='store_true')
    options = parser.parse_args()
    kernel, original = vm.guest_kernel(KERNEL)
    with vm.workplace() as work:
        initrd_path = initrd(work, original, options.program)
        acked = leaked = 0
        for first in range(options.first, options.first + options.n, LIVES):
            kills = min(LIVES, options.first + options.n - first)
            with tempfile.TemporaryDirectory(dir=work) as folder:
                a, l = one_set(first, kills, folder, kernel, initrd_path, options.program, options.v)
            acked, leaked = acked + a, leaked + l
    check(acked > options.n, 'hardly a flush was acknowledged')
    print(f'figure: {options.n} kills of the VMM with 4 disks each: {acked} acknowledged flushes, none lost; {leaked} images with leaks')


if __name__ == '__main__':
    try:
        main()
    except (vm.Failure, disk.Failure) as problem:
        print(f'FAILED: {problem}')
        sys.exit(1)
