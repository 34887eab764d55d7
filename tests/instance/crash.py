#!/usr/bin/env python3
"""Kill -9 of any program of Caisson, or of what runs in a container, at random instants of random verbs on containers, VMs, images,
volumes and networks: crash.py [-n KILLS] [--seed N] [--keep]

Each round runs one verb and kills one process in the middle of it. Then the next command (`ls`) must repair what was left: the
lists are true, what was acknowledged with exit code 0 is there, what was not is there whole or not at all (crash_model.py), and
nothing is left of anything (crash_left.py). The seed gives the verbs and victims again; the instants are the machine's."""
import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import crash_left
import crash_model
import lab
from crash_model import BASE, KEPT, World
from lab import Failure, check, output

SETTLE = 60 # seconds in which supervisors that were starting or ending come to their end
VICTIMS = {'caisson': 5, 'caisson-shim': 4, 'payload': 4, 'caisson-oci': 4, 'caisson-switch': 1}


class Crash:
    def __init__(self, seed):
        self.choose = random.Random(seed)
        self.world = World()
        self.ids = set()
        self.log = collections.deque(maxlen=12)
        self.lasts = {} # seconds that a verb takes
        self.hits = collections.Counter()
        self.id_of = {}

    # ---- a verb and a kill ----

    def victim(self, plan, kind, found):
        """(pid, program, id of its instance) of one of that kind, of the target where there is one."""
        kinds = ('payload', 'caisson-vmm') if kind == 'payload' else (kind,)
        frozen = [self.id_of[name][:12] for name, t in self.world.things.items()
                  if 'paused' in t.states or (name, plan.words[0]) == (plan.target, 'pause')] # SIGKILL waits, too
        all_of = [(pid, program, of) for pid, (program, of) in found.items()
                  if program in kinds and (program != 'payload' or of not in frozen)]
        target = self.id_of.get(plan.target, '?')[:12]
        mine = [v for v in all_of if not v[2] or v[2].startswith(target)]
        return self.choose.choice(mine if mine and self.choose.random() < 0.8 else all_of) if all_of else None

    def kill(self, name, plan, before):
        """Run the verb. (process, who was killed in the middle of it: program and id of its instance, or None)"""
        kind = self.choose.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        found = self.victim(plan, kind, before) # else one that the verb starts
        known = crash_left.pids()
        process = subprocess.Popen([lab.CAISSON, *plan.words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.said)
        if not found and not plan.starts and before: # any other
            found = self.victim(plan, self.choose.choice(sorted({program for program, _ in before.values()})), before)
        if kind == 'caisson' or (not found and not plan.starts):
            found = (process.pid, 'caisson', '')
        end = time.monotonic() + self.choose.random() * self.lasts.get(name, 0.02)
        while process.poll() is None and (time.monotonic() < end or not found):
            if not found:
                found = self.victim(plan, kind, crash_left.processes(known))
        if not found or process.poll() is not None:
            return process, None
        try:
            os.kill(found[0], signal.SIGKILL)
        except ProcessLookupError:
            return process, None
        return process, found[1:]

    def round(self, serial):
        name, plan = crash_model.plan(self.world, self.choose, serial)
        with tempfile.TemporaryFile('w+') as self.said:
            before, began = crash_left.processes(), time.monotonic()
            process, hit = self.kill(name, plan, before)
            try:
                code = process.wait(lab.TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise Failure(f'{plan.words} does not end, {hit} was killed') from None
            self.said.seek(0)
            text = self.said.read()
        if code >= 0:
            lasts = time.monotonic() - began
            self.lasts[name] = (self.lasts.get(name, lasts) + lasts) / 2
        self.hits[hit[0] if hit else ''] += 1
        self.log.append(f'{serial}: {" ".join(plan.words)}: killed {hit or "nobody"}; exit code {code} {text.strip()}')
        check(code != 0 or not text or 'warning' in text, f'{name} ends with 0 and says {text!r}')
        check(code >= 0 or (code == -9 and hit == ('caisson', '')), f'{name} ended by signal {-code}')
        check(code <= 0 or text.startswith('caisson: ') or plan.words[0] in ('exec', 'run'), f'{name} fails and says {text!r}')
        self.after(plan, hit, code)

    # ---- what it must have become ----

    def after(self, plan, hit, code):
        """Compare with the world as it was, and as it is when the verb is done."""
        old, new = self.world, plan.after(self.world)
        victim = self.name_of(hit[1]) if hit else ''
        alone = not hit or (hit[0] != 'caisson' and victim and victim not in (plan.target, plan.creates))
        check(code == 0 or not alone or not plan.legal, f'nobody disturbed it, and it failed with {code}')
        worlds = [new] if code == 0 else [old] if alone else [old, new]
        for world in worlds:
            for name in {plan.target, plan.creates} & set(world.things):
                if not alone:
                    thing = world.things[name]
                    ends = {'exited'} if code == 0 or not plan.loose else {*plan.loose, 'exited'}
                    if hit[0] in ('caisson-shim', 'payload', 'caisson-vmm', 'caisson-oci') or code != 0:
                        thing.states = thing.states | ends
            if victim in world.things:
                world.things[victim].states = world.things[victim].states | {'exited'}
                if alone and hit[0] != 'caisson-oci':
                    world.things[victim].states -= set(crash_left.ALIVE)
        if any(name.startswith('e') for name in (plan.target,)) and code != 0:
            lab.run('rm', '-f', plan.target)
        self.settle(worlds)

    def name_of(self, of):
        for name, known in self.id_of.items():
            if of and known.startswith(of[:12]):
                return name
        return ''

    def observe(self):
        """(rows of inspect, a world of what is there): `ls` is the command that repairs."""
        listed = [row['name'] for row in json.loads(output('ls', '--json'))]
        rows = {row['name']: row for row in json.loads(output('inspect', '--json', *listed) if listed else '[]')}
        self.ids |= {row['id'] for row in rows.values()}
        self.id_of = {name: row['id'] for name, row in rows.items()}
        snapshots = collections.defaultdict(list)
        for row in json.loads(output('snapshot', 'ls', '--json')):
            snapshots[row['instance']].append(row)
        world = World()
        for name, row in rows.items():
            thing = world.things[name] = crash_model.Thing(row['type'], {row['state']}, '')
            thing.labels = row['spec'].get('labels', {})
            thing.files = {file for file in crash_left.listing(os.path.join(row['directory'], 'upper')) if file[0] == 'f'}
            thing.snapshots = {row['name']: row for row in snapshots[name]}
        world.images = {name for row in json.loads(output('image', 'ls', '--json')) for name in row['names']}
        world.networks = {row['name'] for row in json.loads(output('network', 'ls', '--json'))}
        volumes = json.loads(output('volume', 'ls', '--json'))
        world.volumes = {row['name'] for row in volumes if not row['instance']}
        self.wrong = [f'volume {row["name"]} of {row["instance"]}' for row in volumes
                      if row['instance'] and row['instance'] not in self.id_of.values()]
        self.wrong += [f'files of volume {name}' for name in crash_left.listing(crash_left.state('volumes')) - {row['name'] for row in volumes}]
        return rows, world

    def settle(self, worlds):
        """Until what is there is one of the worlds, and nothing else is."""
        end = time.monotonic() + SETTLE
        while True:
            rows, seen = self.observe()
            found = crash_left.processes()
            wrong = self.wrong + crash_left.untrue(rows, found) + crash_left.left(rows, found, self.ids)
            for name, row in rows.items():
                if row['type'] == 'vm' and row['state'] not in crash_left.ALIVE and not wrong:
                    wrong += crash_left.wrong_disk(row, seen.things[name].snapshots.values())
            fits = [world for world in worlds if not differences(world, seen)]
            if fits and not wrong:
                break
            check(time.monotonic() < end, '\n'.join(wrong) if fits else '\nor '.join(str(differences(w, seen)) for w in worlds))
            time.sleep(0.05)
        self.world = fits[-1]
        for name, thing in self.world.things.items():
            if seen.things[name].states <= crash_model.STILL: # nothing of it runs that could change that
                thing.states = seen.things[name].states

    # ---- the whole ----

    def begin(self):
        output('image', 'import', '--rootfs', '--name', BASE, os.environ['CRASH_ROOTFS'])
        output('volume', 'create', KEPT)
        self.settle([self.world])

    def end(self):
        names = self.world.named()
        if names:
            output('rm', '-f', *names)
        for name in sorted(self.world.images):
            output('image', 'rm', name)
        output('image', 'prune', '--all')
        output('volume', 'rm', *sorted(self.world.volumes))
        for name in sorted(self.world.networks - {'default'}):
            output('network', 'rm', name)
        end = time.monotonic() + SETTLE
        output('ls')
        while wrong := crash_left.wrong_end():
            check(time.monotonic() < end, 'left in the end:\n' + '\n'.join(wrong))
            time.sleep(0.2)


def differences(world, seen):
    wrong = [f'{what}: {getattr(seen, what)}, not {getattr(world, what)}' for what in ('images', 'volumes', 'networks')
             if getattr(seen, what) != getattr(world, what)]
    if set(seen.things) != set(world.things):
        return wrong + [f'listed are {sorted(seen.things)}, not {sorted(world.things)}']
    for name, thing in world.things.items():
        now = seen.things[name]
        if now.durable() != thing.durable():
            wrong.append(f'{name}: {now.durable()}, not {thing.durable()}')
        if not now.states <= thing.states:
            wrong.append(f'{name} is {now.states}, not {thing.states}')
    return wrong


def make_rootfs(folder):
    tree = os.path.join(folder, 'rootfs')
    os.makedirs(os.path.join(tree, 'bin'))
    shutil.copy(shutil.which('busybox'), os.path.join(tree, 'bin/busybox'))
    for name in ('sh', 'sleep', 'touch', 'true'):
        os.symlink('busybox', os.path.join(tree, 'bin', name))
    subprocess.run(['tar', '-C', tree, '--owner=0', '--group=0', '-cf', tree + '.tar', '.'], check=True)
    return tree + '.tar'


def own_network():
    """This program again, in a network namespace of its own."""
    if os.environ.get('CRASH_NETWORK') == 'own':
        subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
        return
    os.environ['CRASH_NETWORK'] = 'own'
    os.execvp('unshare', ['unshare', '--net', sys.executable, *sys.argv])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('-n', type=int, default=50)
    parser.add_argument('--seed', type=int, default=None, help='default: the clock')
    parser.add_argument('--keep', action='store_true', help='leave all as it is when it fails')
    options = parser.parse_args()
    for program in ('qemu-img', 'busybox', 'unshare', 'ip'):
        if os.geteuid() != 0 or not shutil.which(program):
            print(f'skipped: needs root and {program}')
            return 77
    own_network()
    seed = options.seed if options.seed is not None else int(time.time())
    print(f'seed {seed}', flush=True)
    folder = tempfile.mkdtemp(prefix='ci-')
    os.environ.update(CAISSON_STATE_DIR=f'{folder}/s', CAISSON_RUNTIME_DIR=f'{folder}/r', TMPDIR=f'{folder}/t')
    os.mkdir(f'{folder}/t')
    os.environ['CRASH_ROOTFS'] = make_rootfs(folder)
    tempfile.tempdir = folder # ours are not Caisson's
    crash = Crash(seed)
    try:
        crash.begin()
        for serial in range(1, options.n + 1):
            crash.round(serial)
        crash.end()
        hits = sum(count for kind, count in crash.hits.items() if kind)
        kinds = ', '.join(f'{kind} {count}' for kind, count in sorted(crash.hits.items()) if kind)
        check(hits * 4 >= options.n, f'only {hits} of {options.n} kills hit a process in the middle of a verb')
    except Failure as failure:
        print('\n'.join(crash.log))
        print(f'FAILED with seed {seed}: {failure}')
        if options.keep:
            print(f'kept: CAISSON_STATE_DIR={folder}/s CAISSON_RUNTIME_DIR={folder}/r')
            os._exit(1)
        return 1
    finally:
        with contextlib.suppress(Exception):
            lab.run('rm', '--all', '-f')
        for pid in crash_left.processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
    print(f'figure: {options.n} verbs, {hits} with a program killed in the middle (seed {seed}: {kinds})')
    return 0


if __name__ == '__main__':
    sys.exit(main())
