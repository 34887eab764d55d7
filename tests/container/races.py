#!/usr/bin/env python3
"""Verbs at the same time, and SIGKILL at any moment of run: races.py [CASE...]"""
import io
import os
import random
import signal
import subprocess
import tarfile
import threading
import time

from common import CAISSON, Caisson, expect, main, nothing_left, processes, until

c = Caisson()
ROUNDS = int(os.environ.get('CTR_ROUNDS', '12'))


def together():
    """Several run --rm, exec and cp at once."""
    i = c.start('t', 'img', 'sleep', '1000')
    failed = []

    def work(n):
        try:
            expect(f'run {n}', c.run('img', 'echo', str(n)), f'{n}\n')
            expect(f'exec {n}', c('exec', 't', 'echo', str(n)), f'{n}\n')
            c('cp', '/etc/hostname', f't:/tmp/{n}')
        except AssertionError as e:
            failed.append(str(e))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    expect('all went well', failed, [])
    expect('all files', sorted(c('exec', 't', 'ls', '/tmp').split()), ['0', '1', '2', '3'])
    c('rm', '-f', 't')
    nothing_left('together', c, [i])


def same_name():
    """One of them gets it."""
    runs = [subprocess.Popen([CAISSON, 'run', '-d', '--name', 'n', '--network', 'none', 'img', 'sleep', '1000'], env=c.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(3)]
    codes = sorted(p.wait(300) for p in runs)
    expect('one of three', codes, [0, 125, 125])
    c('rm', '-f', 'n')
    nothing_left('same name', c)


def copied():
    """Nobody starts or removes one that does not run while something is copied into it."""
    i = c.start('s', 'img', 'sleep', '1000')
    c('stop', '-t', '0', 's')
    for verb in (['start'], ['rm']):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode='w') as t:
            t.addfile(tarfile.TarInfo('one'))
        copy = subprocess.Popen([CAISSON, 'cp', '-', 's:/tmp'], env=c.env, stdin=subprocess.PIPE)
        copy.stdin.write(data.getvalue()[:512])
        copy.stdin.flush()
        until('it has begun', lambda: os.path.exists(f'{c.folder}/r/instances/{i[:12]}.lock'))
        other = subprocess.Popen([CAISSON, *verb, 's'], env=c.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(0.3) # so that it tries
        expect(f'{verb[0]} waits', other.poll(), None)
        copy.stdin.write(data.getvalue()[512:])
        copy.stdin.close()
        expect('copied', copy.wait(300), 0)
        expect(f'and then {verb[0]}', other.wait(300), 0)
        if verb == ['start']:
            expect('the file', c('exec', 's', 'ls', '/tmp'), 'one\n')
            c('stop', '-t', '0', 's')
    nothing_left('copied', c, [i])


def killed():
    """The command, its supervisor or the runtime dies somewhere between begin and end; the next command cleans up."""
    rng, hits, lasts = random.Random(11), 0, 0.4
    for n in range(ROUNDS):
        victim = ('caisson', 'caisson-shim', 'caisson-oci')[n % 3]
        began = time.monotonic()
        p = subprocess.Popen([CAISSON, 'run', '--rm', '--name', f'k{n}', '--network', ('none', 'default')[n % 2], 'img', 'true'], env=c.env,
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = began + rng.uniform(0, lasts)
        pids = []
        while p.poll() is None and (time.monotonic() < end or not pids): # from then on the first one that comes
            pids = [p.pid] if victim == 'caisson' else [pid for pid in processes(c.folder) + processes('caisson-shim')
                                                        if victim in name(pid) and c.folder in environment(pid)]
        hit = False
        for pid in pids if p.poll() is None else []:
            try:
                os.kill(pid, signal.SIGKILL)
                hit = True
            except ProcessLookupError:
                pass
        hits += hit
        p.wait(300)
        lasts = lasts if hit else time.monotonic() - began # so that the next ones come while it is busy
        c('ls', '-a')
        c('rm', '-f', f'k{n}', status=None)
    nothing_left('killed at any moment', c)
    expect('no row is left', c.names(), [])
    expect('and all works', c.run('img', 'echo', 'works'), 'works\n')
    expect(f'{hits} of {ROUNDS} kills hit: at least half', 2 * hits >= ROUNDS, True)


def name(pid):
    try:
        with open(f'/proc/{pid}/comm', encoding='utf-8') as f:
            return f.read()
    except OSError:
        return ''


def environment(pid):
    try:
        with open(f'/proc/{pid}/environ', encoding='utf-8') as f:
            return f.read()
    except OSError:
        return ''


main((together, same_name, copied, killed))
