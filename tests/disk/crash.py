#!/usr/bin/env python3
"""kill -9 in the middle of random writes: the image is clean or leaked, opens, and has everything that a flush had
confirmed. Writers in several threads, each in stripes of its own, and flushes between them.

crash.py [-n KILLS] [--first SEED] [-v]
"""
import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile

import disk
from disk import Failure, blkio, caisson, check, qemu_img, run

K, M = 1024, 1024 * 1024
SIZE = 24 * M
STRIPE = 1 * M
THREADS = 3
LINES = 3000
KINDS = (
    [], ['--cluster-size', '4K'], ['--cluster-size', '512'], ['--cluster-size', '2M'], ['--extended-l2'], ['--lazy-refcounts'],
    ['--refcount-bits', '1'], ['--qcow2-version', '2'], ['--preallocation', 'metadata'], ['--compression', 'zstd'],
)


def script(rng):
    """Lines for blkio: line i belongs to thread i % THREADS, which writes only to its own stripes."""
    lines = []
    for i in range(LINES):
        thread = i % THREADS
        if rng.random() < 0.12:
            lines.append(('f', 0, 0, 0))
            continue
        stripe = rng.randrange(SIZE // STRIPE // THREADS) * THREADS + thread
        op = rng.choice('wwwwwwzud' if rng.random() < 0.5 else 'w')
        length = rng.choice([512, 4 * K, 4 * K, 16 * K, 64 * K, 64 * K, 200 * K])
        off = rng.randrange(0, STRIPE - length + 1) // 512 * 512
        if rng.random() < 0.5:
            off = off // (4 * K) * 4 * K
        lines.append((op, stripe * STRIPE + off, length, rng.randrange(1, 256)))
    return lines


def events(text):
    """[('begin' | 'done', line number)]; a last line that was cut off does not count."""
    out = []
    for line in text.split('\n')[:-1]:
        word, number = line.split(' ')
        out.append((word, int(number)))
    return out


def allowed(lines, log):
    """For each sector the bytes that it may have: what the last confirmed flush vouches for, or anything written since."""
    begun_at, done_at, flushes = {}, {}, []
    for position, (word, i) in enumerate(log):
        (begun_at if word == 'begin' else done_at)[i] = position
        if word == 'done' and lines[i][0] == 'f':
            flushes.append(begun_at[i])
    sure = max(flushes, default=-1) # lines done before the start of the last confirmed flush
    may = [{0} for _ in range(SIZE // 512)]
    for i in sorted(begun_at): # lines of one sector are all of one thread, which goes in order
        op, off, length, byte = lines[i]
        if op == 'f':
            continue
        confirmed = i in done_at and done_at[i] < sure
        values = {'w': {byte}, 'z': {0}, 'u': {0}, 'd': {0, None}}[op]
        for s in range(off // 512, (off + length) // 512):
            new = {v for v in values if v is not None} | (may[s] if None in values else set())
            may[s] = new if confirmed else may[s] | new
    return may, len(flushes)


def one_kill(seed, folder, verbose):
    rng = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    image = os.path.join(folder, f'crash{seed}')
    caisson('create', image, SIZE, *kind)
    lines = script(rng)
    writer = subprocess.Popen([disk.BLKIO, '-f', 'qcow2', '-t', str(THREADS), image], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    writer.stdin.write(''.join(f'{op} {off} {length} {byte}\n' for op, off, length, byte in lines))
    writer.stdin.close()
    until, seen = rng.randrange(1, LINES * 3 // 2), ''
    for _ in range(until):
        line = writer.stdout.readline()
        if not line:
            break
        seen += line
    writer.kill()
    seen += writer.stdout.read()
    stderr = writer.stderr.read()
    writer.wait()
    check(writer.returncode == -9 or (writer.returncode == 0 and not stderr), f'the writer failed by itself: {stderr}')
    may, n_flushes = allowed(lines, events(seen))
    checked = qemu_img('check', image, code=None)
    check(checked.returncode in (0, 3), f'qemu-img check: {checked.returncode} {checked.stdout} {checked.stderr}')
    ours = caisson('check', image) # 0: clean or leaked
    verify(image, may)
    if verbose:
        print(f'{seed} {" ".join(kind)}: {len(events(seen))} events, {n_flushes} flushes, qemu-img check {checked.returncode}, '
              f'{ours.stdout.splitlines()[0]}', flush=True)
    caisson('check', image, '--repair', 'all')
    qemu_img('check', image)
    verify(image, may)
    blkio(image, ['w 0 65536 1', 'f', 'r 0 65536 1'])
    qemu_img('check', image)
    os.unlink(image)
    return checked.returncode == 3, n_flushes


def verify(image, may):
    raw = image + '.raw'
    run('qemu-img', 'convert', '-U', '-f', 'qcow2', '-O', 'raw', image, raw)
    with open(raw, 'rb') as f:
        data = f.read()
    os.unlink(raw)
    check(len(data) == SIZE, 'the size is another')
    for s, values in enumerate(may):
        sector = data[s * 512:s * 512 + 512]
        if len(values) == 1 and sector == bytes([next(iter(values))]) * 512:
            continue
        check(set(sector) <= values, f'sector {s} has {sorted(set(sector))[:8]}, allowed is {sorted(values)[:8]}')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('-n', type=int, default=20)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('-v', action='store_true')
    options = parser.parse_args()
    if not shutil.which('qemu-img'):
        print('needs qemu-img (qemu-utils), to check with')
        return 77
    folder = tempfile.mkdtemp(prefix='caisson-crash-', dir=disk.fast_folder())
    failures, leaked, flushes = [], 0, 0
    try:
        for seed in range(options.first, options.first + options.n):
            try:
                leak, n = one_kill(seed, folder, options.v)
                leaked += leak
                flushes += n
            except Failure as e:
                failures.append(f'seed {seed} ({" ".join(KINDS[seed % len(KINDS)])}): {e}')
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for text in failures:
        print(text)
    print(f'{options.n} kills: {len(failures)} wrong, {leaked} leaked, {flushes} flushes confirmed')
    return 1 if failures or flushes == 0 else 0


if __name__ == '__main__':
    sys.exit(main())
