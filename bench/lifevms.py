"""The VMs of bench/life: one that Caisson keeps as an instance, one that QEMU runs. Both boot the same kernel and the same initrd
(bench/guest/life) with 256 MiB, and have the same methods. Times are milliseconds from the start of the command."""
import contextlib
import json
import os
import socket
import subprocess
import threading
import time

import subjects
from subjects import vm

MEMORY_MIB = 256
DATA_MIB = 64 # of the VM that is saved, in its memory and random: not to be compressed
WAIT_SECONDS = 120
NAP = 0.0005
WORDS = 'console=ttyS0 quiet panic=-1'


def command_line(data=0, tick=False):
    return f'{WORDS} life.data={data} life.tick={int(tick)}'


def wait_until(true, what):
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise vm.Failure(f'{what}: not within {WAIT_SECONDS} s')
        time.sleep(NAP)


def since(began):
    return (time.perf_counter() - began) * 1000


def proportional_mib(pids):
    """Sum of the processes' PSS."""
    total = 0
    for pid in pids:
        with open(f'/proc/{pid}/smaps_rollup', encoding='utf-8') as f:
            total += next(int(line.split()[1]) for line in f if line.startswith('Pss:'))
    return total / 1024


def cpu_ms(pids):
    """What all threads of the processes that live have used."""
    total = 0
    for pid in pids:
        for task in os.listdir(f'/proc/{pid}/task'):
            with open(f'/proc/{pid}/task/{task}/schedstat', encoding='ascii') as f:
                total += int(f.read().split()[0])
    return total / 1e6


class Guest:
    """What both have in common: output is watched by its lines."""

    def seen(self, text, start):
        """Whether the output from this place on has the text; and where it ends now."""
        raise NotImplementedError

    def size(self):
        raise NotImplementedError

    def wait_for(self, text, start=0):
        wait_until(lambda: self.seen(text, start), f'{self.name}: "{text}"')


class Caisson(Guest):
    label = 'caisson'

    def __init__(self, place, name, words):
        self.name, self.folder = name, place.folder
        self.call('vm', 'create', name, '--kernel', place.kernel, '--initrd', place.initrd, '--append', words,
                  '--memory', f'{MEMORY_MIB}M', '--net', 'none', '--no-seed')
        self.log = os.path.join(json.loads(self.call('inspect', '--json', name))[0]['directory'], 'logs', 'log.json')

    def call(self, *command):
        done = subprocess.run([vm.CAISSON, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise vm.Failure(f'{" ".join(command)}: {done.returncode} {done.stderr}')
        return done.stdout

    def size(self):
        return os.path.getsize(self.log) if os.path.exists(self.log) else 0

    def seen(self, text, start):
        with contextlib.suppress(FileNotFoundError), open(self.log, 'rb') as f:
            f.seek(start if os.fstat(f.fileno()).st_size >= start else 0) # a full log begins anew
            return text.encode() in f.read()
        return False

    def begin(self):
        """`start`, which comes back when the VM runs."""
        began = time.perf_counter()
        self.call('start', self.name)
        return began

    def save(self, _tag):
        began = time.perf_counter()
        self.call('save', self.name)
        return since(began)

    def restore(self, _tag):
        """(until the guest says a word, until the command is back)"""
        start, back = self.size(), []
        began = time.perf_counter()
        command = subprocess.Popen([vm.CAISSON, 'start', self.name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        watch = threading.Thread(target=lambda: back.append((command.wait(), since(began))))
        watch.start()
        self.wait_for('TICK', start)
        running = since(began)
        watch.join()
        vm.check(back[0][0] == 0, f'start {self.name}: exit code {back[0][0]}')
        return running, back[0][1]

    def pids(self):
        row = json.loads(self.call('inspect', '--json', self.name))[0]
        return [row['pid'], row['supervisor_pid']]

    def answers(self):
        start = self.size()
        with subprocess.Popen([vm.CAISSON, 'attach', self.name], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as session:
            session.stdin.write(b'hello\n')
            session.stdin.flush()
            self.wait_for('ANSWER hello', start)
            session.terminate()

    def remove(self):
        self.call('rm', '-f', self.name)


class Qemu(Guest):
    label = 'qemu'

    def __init__(self, place, name, words):
        self.name = name
        self.base = os.path.join(place.folder, f'q-{name}')
        self.state, self.disk = self.base + '.state', self.base + '.qcow2'
        self.arguments = ['-M', 'q35', '-accel', 'tcg', '-cpu', 'max', '-m', str(MEMORY_MIB), '-nographic', '-no-reboot', '-nodefaults',
                          '-serial', 'stdio', '-qmp', f'unix:{self.base}.qmp,server,nowait', '-kernel', place.kernel,
                          '-initrd', place.initrd, '-append', words]
        self.process = self.reader = None
        self.output = b''

    def size(self):
        return len(self.output)

    def seen(self, text, start):
        return text.encode() in self.output[start:]

    def _read(self, fd):
        while data := os.read(fd, 65536):
            self.output += data

    def begin(self, *more):
        began = time.perf_counter()
        if not os.path.exists(self.disk): # where savevm puts the state; no device of the guest
            subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', self.disk, '1G'], check=True)
            began = time.perf_counter()
        self.process = subprocess.Popen([subjects.QEMU, *self.arguments, '-drive', f'file={self.disk},if=none,id=state', *more],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout.fileno(),), daemon=True)
        self.reader.start()
        return began

    def qmp(self, *commands):
        """The answers to commands, (name, arguments) each."""
        answers = []
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.base + '.qmp')
            stream = sock.makefile('rw', encoding='utf-8')
            stream.readline()
            for name, arguments in (('qmp_capabilities', {}), *commands):
                stream.write(json.dumps({'execute': name, 'arguments': arguments}))
                stream.flush()
                while 'return' not in (answer := json.loads(stream.readline() or '{"error": "it ended"}')):
                    vm.check('error' not in answer, f'{name}: {answer}')
                answers.append(answer['return'])
        return answers[1:]

    def save(self, tag):
        began = time.perf_counter()
        if tag:
            text = self.qmp(('human-monitor-command', {'command-line': f'savevm {tag}'}))[0]
            vm.check(not text, f'savevm: {text}')
        else:
            # Not stopped before, or it would be so when it comes back.
            self.qmp(('migrate-set-parameters', {'max-bandwidth': 10 << 30}), ('migrate', {'uri': f'exec:cat >{self.state}'}))
            wait_until(lambda: self.qmp(('query-migrate', {}))[0].get('status') == 'completed', 'migrate')
        self.end()
        return since(began)

    def restore(self, tag):
        start = len(self.output)
        began = self.begin(*(['-loadvm', tag] if tag else ['-incoming', f'exec:cat {self.state}']))
        self.wait_for('TICK', start)
        return since(began), None

    def pids(self):
        return [self.process.pid]

    def answers(self):
        start = self.size()
        self.process.stdin.write(b'hello\n')
        self.process.stdin.flush()
        self.wait_for('ANSWER hello', start)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.reader.join()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def remove(self):
        self.end()
        for path in (self.state, self.disk, self.base + '.qmp'):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


class Place:
    """Kernel and initrd of all, and the folder of this run."""

    def __init__(self, folder):
        self.folder = folder
        self.kernel, plain = vm.guest_kernel(subjects.KERNEL)
        self.initrd = os.path.join(folder, 'initrd.img')
        layer = os.path.join(folder, 'layer')
        os.makedirs(layer)
        source = os.path.join(subjects.ROOT, 'bench', 'guest', 'life')
        with open(source, encoding='utf-8') as f, open(os.path.join(layer, 'init'), 'w', encoding='utf-8') as init:
            init.write(f.read())
        os.chmod(os.path.join(layer, 'init'), 0o755)
        subjects.lay_over(plain, layer, self.initrd)


def boots(place, kinds, rounds, rows):
    """Rows init and memory: boot, and how much it takes when it stands idle."""
    for number in range(rounds):
        for kind in turn(kinds, number):
            guest = kind(place, 'boot', command_line())
            began = guest.begin()
            guest.wait_for('LIFE-INIT')
            rows.add('init', kind.label, since(began))
            guest.wait_for('LIFE-READY')
            time.sleep(1)
            rows.add('memory', kind.label, proportional_mib(guest.pids()[:1]))
            if kind is Caisson:
                rows.add('supervisor', kind.label, proportional_mib(guest.pids()[1:]))
            guest.remove()


def turn(things, number):
    """Each round begins with another one."""
    return things[number % len(things):] + things[:number % len(things)]


def saves(place, kinds, rounds, rows):
    """Rows save and restore: one VM each, over and over."""
    ways = [(kind, '') for kind in kinds] + [(kind, 'state') for kind in kinds if kind is Qemu]
    guests = {(kind, tag): kind(place, f'save{tag}', command_line(DATA_MIB, True)) for kind, tag in ways}
    try:
        for guest in guests.values():
            guest.begin()
            guest.wait_for('TICK')
        for number in range(rounds):
            for kind, tag in turn(ways, number):
                guest, label = guests[kind, tag], kind.label + (' savevm' if tag else '')
                time.sleep(0.2)
                rows.add('save', label, guest.save(tag))
                running, back = guest.restore(tag)
                rows.add('restore', label, running)
                if back:
                    rows.add('restore-command', label, back)
    finally:
        for guest in guests.values():
            guest.remove()


def crowd(place, kinds, count, seconds, rows):
    """Rows idle-...: many at once, each of which must answer at the end; of the peer a fifth, for its boots take long."""
    for kind in kinds:
        guests = []
        try:
            began = time.perf_counter()
            for number in range(count if kind is Caisson else max(2, count // 5)): # two boot at a time
                guests.append(kind(place, f'idle{number}', command_line()))
                guests[-1].begin()
                if number > 0:
                    guests[-2].wait_for('LIFE-READY')
            guests[-1].wait_for('LIFE-READY')
            rows.add('idle-start', kind.label, since(began) / len(guests))
            time.sleep(5)
            pids = [pid for guest in guests for pid in guest.pids()]
            before = cpu_ms(pids)
            time.sleep(seconds)
            rows.add('idle-cpu', kind.label, (cpu_ms(pids) - before) / seconds / 10 / len(guests))
            rows.add('idle-memory', kind.label, proportional_mib(pids) / len(guests))
            for guest in guests:
                guest.answers()
            rows.add('idle-answers', kind.label, len(guests))
        finally:
            for guest in guests:
                guest.remove()
