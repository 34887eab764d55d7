"""What must be there after the verbs that were acknowledged, and the verbs: each is a Plan of its words and of what it makes of a
World. Run states are sets: one where it is known, several after a kill that decides it (a world of which we are not sure)."""
import copy
import os

from crash_left import ALIVE, MARK
from lab import MACHINE

BASE, KEPT = 'localhost/base:latest', 'kept' # the image and the volume that stay
STILL = {'created', 'exited', 'saved'}
STARTS = {'run', 'start', 'restart', 'exec', 'pause', 'resume', 'stop', 'kill', 'commit', 'snapshot'}
PATIENT = 3 # containers and VMs that there are at most of each


class Thing:
    """A VM or container."""

    def __init__(self, kind, states, network):
        self.kind, self.states, self.network = kind, states, network
        self.labels, self.files, self.snapshots = {}, set(), {}

    def durable(self):
        return self.kind, self.labels, self.files, set(self.snapshots)


class World:
    def __init__(self):
        self.things, self.images, self.volumes, self.networks = {}, {BASE}, {KEPT}, {'default'}

    def named(self, kind=None, states=None):
        """Those of which it is sure that they are in one of these states."""
        return sorted(name for name, t in self.things.items() if kind in (None, t.kind) and (not states or t.states <= set(states)))


class Plan:
    """words: of the command line; target: whom it is about, or ''; legal: whether it must succeed when it is left alone (None: it
    may); change(world): what success means; loose: run states of the target when it was not left alone."""

    def __init__(self, words, target='', legal=True, change=None, loose=(), creates=''):
        self.words, self.target, self.legal, self.change, self.loose, self.creates = words, target, legal, change, set(loose), creates
        self.starts = words[0] in STARTS # programs, which are worth waiting for

    def after(self, world):
        new = copy.deepcopy(world)
        if self.change:
            self.change(new)
        return new


class Verbs:
    """One method for each verb, which plans it for the world as it is; None: it has no object."""

    def __init__(self, world, choose, serial):
        self.world, self.choose, self.serial = world, choose, serial

    def any(self, kind=None, states=None):
        names = self.world.named(kind, states)
        return self.choose.choice(names) if names else None

    def to(self, words, name, states, after, loose=()):
        """A change of the run state. It must succeed where all states that it may be in are among states."""
        if not name:
            return None
        thing = self.world.things[name]

        def change(world):
            world.things[name].states = set(after(thing) if callable(after) else after)
        return Plan(words, name, True if thing.states <= set(states) else None, change, {*thing.states, 'exited', *loose})

    def make(self, words, kind, states, network, loose, name=''):
        name = name or f'{kind[0]}{self.serial}'

        def change(world):
            world.things[name] = Thing(kind, set(states), network)
        return Plan([*words[:-1], *(words[-1] if isinstance(words[-1], list) else [words[-1]])], name, True, change, loose, name)

    def networks(self):
        return self.choose.choice(('none', 'none', 'none', 'default'))

    def container(self, verb):
        network, name = self.networks(), f'c{self.serial}'
        volume = self.choose.choice(([], ['-v', f'{KEPT}:/kept'], ['-v', '/anonymous'], ['--init']))
        return [*verb, '--name', name, '--network', network, *volume, BASE, ['sleep', f'{MARK}{self.serial}']], network

    def create(self):
        if len(self.world.named('container')) >= PATIENT:
            return self.rm()
        words, network = self.container(['create'])
        return self.make(words, 'container', {'created'}, network, {'created'})

    def run(self):
        if len(self.world.named('container')) >= PATIENT:
            return self.rm()
        words, network = self.container(['run', '-d'])
        return self.make(words, 'container', {'running'}, network, {'created', 'running', 'exited'})

    def run_rm(self):
        return Plan(['run', '--rm', '--name', f'e{self.serial}', '--network', self.networks(), BASE, 'true'], f'e{self.serial}')

    def vm_create(self):
        if len(self.world.named('vm')) >= PATIENT - 1:
            return None
        network = self.networks()
        words = ['vm', 'create', f'v{self.serial}', '--kernel', MACHINE, '--memory', '16M', '--disk', '8M', '--no-seed', '--engine',
                 'interp', '--net', network]
        return self.make(words, 'vm', {'created'}, network, {'created'})

    def start(self):
        name = self.any(states=STILL) or self.any(states=[*STILL, 'running'])
        return self.to(['start', name], name, {*STILL, 'running'}, {'running'}, {'running'})

    def stop(self):
        name = self.any(states=['running']) or self.any()
        return self.to(['stop', '-t', '0', name], name, {'running', *STILL}, lambda t: {'exited'} if t.states & set(ALIVE) else t.states)

    def kill(self):
        name = self.any(states=['running'])
        return self.to(['kill', name], name, {'running'}, {'exited'})

    def restart(self):
        name = self.any(states=['running']) or self.any()
        return self.to(['restart', '-t', '0', name], name, {'running', 'created', 'exited'}, {'running'}, {'running'})

    def pause(self):
        name = self.any(states=['running'])
        return self.to(['pause', name], name, {'running'}, {'paused'}, {'paused'})

    def resume(self):
        name = self.any(states=['paused'])
        return self.to(['resume', name], name, {'paused'}, {'running'}, {'running'})

    def save(self):
        name = self.any('vm', ['running'])
        return self.to(['save', name], name, {'running'}, {'saved'}, {'saved'})

    def rm(self):
        name = self.any()
        return name and Plan(['rm', '-f', name], name, True, lambda world: world.things.pop(name),
                             {*self.world.things[name].states, 'exited'})

    def about(self, words, name, legal, change):
        """A change of something else of it."""
        return name and Plan(words, name, legal, lambda world: change(world.things[name]), self.world.things[name].states)

    def rename(self):
        name = self.any(states=STILL)
        return name and Plan(['rename', name, f'r{self.serial}'], name, True,
                             lambda world: world.things.update({f'r{self.serial}': world.things.pop(name)}),
                             self.world.things[name].states, f'r{self.serial}')

    def update(self):
        name, value = self.any(), str(self.serial)
        return self.about(['update', '--label', f'n={value}', name], name, True, lambda t: t.labels.update(n=value))

    def exec(self):
        name, file = self.any('container', ['running']), f'f{self.serial}'
        return self.about(['exec', name, 'touch', f'/{file}'], name, True, lambda t: t.files.add(file))

    def cp(self):
        name, file = self.any('container', [*STILL, 'running']), f'f{self.serial}'
        return self.about(['cp', '/etc/hostname', f'{name}:/{file}'], name, True, lambda t: t.files.add(file))

    def snapshot(self):
        name, new = self.any(states=[*STILL, 'running']), f's{self.serial}'
        return self.about(['snapshot', 'create', name, new], name, True,
                          lambda t: t.snapshots.update({new: (dict(t.labels), set(t.files))}))

    def with_snapshot(self):
        names = [name for name in self.world.named(states=[*STILL, 'running']) if self.world.things[name].snapshots]
        name = self.choose.choice(names) if names else None
        return name, name and self.choose.choice(sorted(self.world.things[name].snapshots))

    def restore(self):
        name, of = self.with_snapshot()
        if not name:
            return None
        states = {'running'} if self.world.things[name].states == {'running'} else STILL

        def change(t):
            t.labels, t.files = copy.deepcopy(t.snapshots[of])
            t.states = states
        plan = self.about(['snapshot', 'restore', name, of], name, True, change)
        plan.loose = {*STILL, *states}
        return plan

    def snapshot_rm(self):
        name, of = self.with_snapshot()
        return self.about(['snapshot', 'rm', name, of], name, True, lambda t: t.snapshots.pop(of))

    def clone(self):
        name = self.any('vm', [*STILL, 'running'])
        if not name or len(self.world.named('vm')) >= PATIENT:
            return None
        thing = self.world.things[name]

        def change(world):
            made = world.things[f'v{self.serial}'] = Thing('vm', set(STILL), thing.network)
            made.labels = dict(thing.labels)
        return Plan(['clone', name, f'v{self.serial}'], name, True, change, thing.states, f'v{self.serial}')

    # ---- images, volumes, networks ----

    def set_of(self, words, what, name, there):
        """A name comes into a set of the world, or goes."""
        def change(world):
            (getattr(world, what).add if there else getattr(world, what).discard)(name)
        return Plan(words, '', True, change)

    def image_import(self):
        name = f'localhost/i{self.serial}:latest'
        return self.set_of(['image', 'import', '--rootfs', '--name', name, os.environ['CRASH_ROOTFS']], 'images', name, True)

    def image_tag(self):
        name = f'localhost/t{self.serial}:latest'
        return self.set_of(['image', 'tag', self.choose.choice(sorted(self.world.images)), name], 'images', name, True)

    def image_rm(self):
        names = sorted(self.world.images - {BASE})
        name = self.choose.choice(names) if names else None
        return name and self.set_of(['image', 'rm', name], 'images', name, False)

    def commit(self):
        name, image = self.any('container', [*STILL, 'running']), f'localhost/k{self.serial}:latest'
        if not name:
            return None
        plan = self.set_of(['commit', name, image], 'images', image, True)
        plan.target, plan.loose = name, set(self.world.things[name].states)
        return plan

    def volume_create(self):
        return self.set_of(['volume', 'create', f'w{self.serial}'], 'volumes', f'w{self.serial}', True)

    def volume_rm(self):
        names = sorted(self.world.volumes - {KEPT})
        name = self.choose.choice(names) if names else None
        return name and self.set_of(['volume', 'rm', name], 'volumes', name, False)

    def network_create(self):
        return self.set_of(['network', 'create', f'n{self.serial}', '--mode', 'isolated'], 'networks', f'n{self.serial}', True)

    def network_rm(self):
        names = sorted(self.world.networks - {'default'})
        name = self.choose.choice(names) if names else None
        return name and self.set_of(['network', 'rm', name], 'networks', name, False)


# How often each is taken.
WEIGHTS = {'create': 3, 'run': 5, 'run_rm': 2, 'vm_create': 5, 'start': 9, 'stop': 3, 'kill': 2, 'restart': 3, 'pause': 4, 'resume': 4,
           'save': 4, 'rm': 2, 'rename': 2, 'update': 3, 'exec': 4, 'cp': 2, 'snapshot': 5, 'restore': 3, 'snapshot_rm': 2, 'clone': 2,
           'image_import': 2, 'image_tag': 2, 'image_rm': 2, 'commit': 2, 'volume_create': 1, 'volume_rm': 1, 'network_create': 1,
           'network_rm': 1}


def plan(world, choose, serial):
    """(name of the verb, Plan) of a verb that has an object."""
    verbs = Verbs(world, choose, serial)
    while True:
        name = choose.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        found = getattr(verbs, name)()
        if found:
            return name, found


