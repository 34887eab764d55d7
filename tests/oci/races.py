#!/usr/bin/env python3
"""Two at once, and ends at the wrong moment: races.py [CASE...]

`killed_at_each_step` ends the runtime by SIGKILL in the N-th system call of one kind (strace -e inject), and demands that
`delete --force` then leaves nothing, and that the name can be used again. OCI_STEPS of them (24), chosen by OCI_SEED (1);
OCI_STEPS=all: every N of every kind, as `make soak` has it.
"""
import os
import random
import shutil
import subprocess
import threading

from harness import Bundle, MARK, Runtime, Skip, WORK, expect, main, nothing_left, until

PAUSE = ['/payload', 'pause']
# What create, start and delete do that leaves something behind: one kill before each such call, in every process of the runtime.
STEPS = {'create': ('clone,clone3', 'mkdir,mkdirat', 'openat,openat2', 'write', 'mount,move_mount,fsopen', 'sendto,sendmsg', 'execve', 'pivot_root',
                    'renameat,renameat2,rename'),
         'start': ('openat,openat2', 'write', 'sendto,sendmsg', 'connect', 'renameat,renameat2,rename'),
         'delete': ('openat,openat2', 'rmdir,unlinkat', 'write', 'kill,pidfd_send_signal')}
SAMPLE = os.environ.get('OCI_STEPS', '24')
MOST = 100 if SAMPLE == 'all' else 12  # the highest N
SEED = int(os.environ.get('OCI_SEED', '1'))


def at_once(count, work):
    """The results of work(i) in threads."""
    results = [None] * count

    def body(i):
        results[i] = work(i)
    threads = [threading.Thread(target=body, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def two_starts():
    for _ in range(10):
        runtime, bundle = Runtime(), Bundle(args=['/payload', 'echo', 'once'])
        out = os.path.join(WORK, 'once')
        with open(out, 'wb') as f:
            runtime.create(bundle, stdout=f)
        codes = at_once(4, lambda i, r=runtime, b=bundle: r('start', b.id, check=False).returncode)
        expect('one of four starts succeeds', sorted(codes), [0, 1, 1, 1])
        runtime.stopped(bundle.id)
        with open(out, encoding='ascii') as f:
            expect('it ran once', f.read(), 'once\n')
        runtime('delete', bundle.id)
    nothing_left('starts')


def two_creates():
    for _ in range(10):
        runtime, bundle = Runtime(), Bundle(args=PAUSE)
        codes = at_once(4, lambda i, r=runtime, b=bundle: r.create(b, check=False).returncode)
        expect('one of four creates succeeds', sorted(codes), [0, 1, 1, 1])
        expect('status', runtime.status(bundle.id), 'created')
        runtime('delete', '--force', bundle.id)
        nothing_left('creates', runtime)


def deletes_and_kills():
    for _ in range(10):
        runtime, bundle = Runtime(), Bundle(args=PAUSE)
        runtime.started(bundle)
        verbs = [('kill', bundle.id, 'KILL'), ('delete', '--force', bundle.id), ('delete', '--force', bundle.id), ('state', bundle.id),
                 ('kill', bundle.id, 'TERM'), ('list',)]
        codes = at_once(len(verbs), lambda i, r=runtime, v=verbs: r(*v[i], check=False).returncode)
        expect('each ends as it may', set(codes) <= {0, 1}, True)
        runtime('delete', '--force', bundle.id)
        nothing_left('deletes', runtime)


def many_at_once():
    """Different containers do not disturb one another."""
    runtime = Runtime()
    bundles = [Bundle(args=['/payload', 'exit', str(i)]) for i in range(12)]
    codes = at_once(len(bundles), lambda i: runtime.run(bundles[i], check=False).returncode)
    expect('their statuses', codes, list(range(12)))
    nothing_left('many', runtime)


def start_and_death():
    """The first process is killed before and during start; a dead one can be neither started nor killed."""
    for _ in range(5):
        runtime, bundle = Runtime(), Bundle(args=PAUSE)
        runtime.create(bundle)
        pid = runtime.state(bundle.id)['pid']
        results = at_once(2, lambda i, r=runtime, b=bundle, p=pid: os.kill(p, 9) if i else r('start', b.id, check=False).returncode)
        expect('start ends', results[0] in (0, 1), True)
        runtime.stopped(bundle.id)
        expect('kill of a dead one', runtime('kill', bundle.id, 'KILL', check=False).returncode, 1)
        expect('start of a dead one', runtime('start', bundle.id, check=False).returncode, 1)
        runtime('delete', bundle.id)
        nothing_left('death', runtime)


def ended(log):
    """The first process of strace's log has ended: the others are the container's, and may live on."""
    try:
        with open(log, encoding='utf-8', errors='replace') as f:
            lines = f.read().splitlines()
    except OSError:
        return False
    first = lines[0].split(' ', 1)[0] if lines else None
    return any(line.split(None, 1)[0] == first and '+++ ' in line for line in lines)


def traced(runtime, calls, number, *args):
    """The verb, killed at its number-th of these calls (counted for each process). False: it did not have so many."""
    log = os.path.join(WORK, 'strace')
    if os.path.exists(log):
        os.unlink(log)
    command = ['strace', '-f', '-I', '2', '-o', log, '-e', f'trace=execve,{calls}', '-e', f'inject={calls}:signal=KILL:when={number}', *runtime.command(*args)]
    name, value = MARK.split('=')
    with open(os.path.join(WORK, 'traced-output'), 'wb') as out:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, name: value})
    until('end of the runtime under strace', lambda: child.poll() is not None or ended(log), 60)
    child.terminate()  # strace lets go of those that live on
    child.wait(60)
    with open(log, encoding='utf-8', errors='replace') as f:
        return 'killed by SIGKILL' in f.read()


def killed_at(verb, calls, number):
    """False: there is no such step."""
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    if verb != 'create':
        runtime.create(bundle)
    if verb == 'delete':
        runtime('start', bundle.id)
        runtime('kill', bundle.id, 'KILL')
        runtime.stopped(bundle.id)
    args = ('create', '--bundle', bundle.path, bundle.id) if verb == 'create' else (verb, bundle.id)
    hit = traced(runtime, calls, number, *args)
    done = runtime('delete', '--force', bundle.id, check=False)
    where = f'{verb} killed at {calls} {number}: {done.stderr.strip()[-100:]}'
    expect(f'{where}: delete --force', done.returncode, 0)
    nothing_left(where, runtime)
    bundle.config['process']['args'] = ['/payload', 'true']
    bundle.write()
    expect(f'{where}: the name can be used again', runtime.run(bundle, check=False).returncode, 0)
    return hit


def killed_at_each_step():
    if not shutil.which('strace'):
        raise Skip('no strace: apt-get install strace')
    kinds = [(verb, calls) for verb, names in STEPS.items() for calls in names]
    count = 0
    if SAMPLE == 'all':
        for verb, calls in kinds:
            for number in range(1, MOST + 1):
                if not killed_at(verb, calls, number):
                    break
                count += 1
    else:
        chance, most = random.Random(SEED), dict.fromkeys(kinds, MOST)
        for i in range(int(SAMPLE)):
            kind = kinds[i % len(kinds)]
            number = chance.randint(1, most[kind])
            if killed_at(*kind, number):
                count += 1
            else:
                most[kind] = max(number - 1, 1)
    expect('there were many steps', count > (20 if SAMPLE == 'all' else int(SAMPLE) // 3), True)
    print(f'figure: the runtime killed at {count} steps (seed {SEED}, of {SAMPLE}); nothing left after delete --force')


def killed_run():
    """SIGKILL of a run in the foreground: the container goes on and can be deleted."""
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    name, value = MARK.split('=')
    child = subprocess.Popen(runtime.command('run', '--bundle', bundle.path, bundle.id), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             env={**os.environ, name: value})
    until('running', lambda: runtime.status(bundle.id) == 'running')
    child.kill()
    child.wait()
    expect('status', runtime.status(bundle.id) in ('running', 'stopped'), True)
    runtime('delete', '--force', bundle.id)
    nothing_left('killed run', runtime)


CASES = (two_starts, two_creates, deletes_and_kills, many_at_once, start_and_death, killed_at_each_step, killed_run)

if __name__ == '__main__':
    main(CASES)
