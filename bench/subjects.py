"""Who runs the benchmark's rows, and how: Caisson's engines, QEMU TCG, the bare machine. Builds the program and the initrd that
all of them share, starts guests, reads the markers on their consoles. Used by bench/run and tests/boot/bench.py."""
import bisect
import collections
import contextlib
import fcntl
import glob
import os
import re
import shutil
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'boot'))
import vm # noqa: E402

KERNEL = 'linux-image-cloud-amd64'
QEMU = 'qemu-system-x86_64'
ENGINES = ('kvm', 'bt', 'interp')
MEMORY_MIB = 1024
ROW_SECONDS = 180 # a row that takes longer hangs
BOOT_SECONDS = 120
CFLAGS = ['-std=gnu17', '-D_GNU_SOURCE', '-O2', '-fno-tree-vectorize', '-ffp-contract=off', '-Wall', '-Wextra', '-Wconversion',
          '-Wno-sign-conversion', '-Wshadow', '-Wmissing-prototypes', '-Werror', '-static', '-pthread']
INIT = re.compile('CAISSON-INIT') # a firmware may have left escape sequences before it
MARK = re.compile(r'^CAISSON-(BEGIN|END|ROW|STATUS|WAITS|DONE|TROUBLE) ?(.*?)\r?$', re.M)

# One row of one boot: milliseconds (or MiB) by the host's clock, by the guest's own, and of host CPU; sum of what was
# computed; or why there is none of that.
Result = collections.namedtuple('Result', 'value guest cpu sum error', defaults=(None, None, None, None, None))


class Machine(vm.Vm):
    """A started guest or program, whose output is kept with the time and the CPU time at which each piece came."""

    def __init__(self, subject, arguments, program):
        self.subject = subject
        self.pid = None
        self.used = []
        super().__init__(arguments, program=program)

    def main_pid(self):
        """The process that does the work: the program itself, or the CLI's child once there is one."""
        if self.pid is None:
            self.pid = self.vmm_pid() if self.subject in ENGINES else self.process.pid
        return self.pid

    def cpu_ms(self):
        """Of all threads that live, by the scheduler's own count."""
        total = 0
        try:
            for task in os.scandir(f'/proc/{self.main_pid()}/task'):
                with open(os.path.join(task.path, 'schedstat'), encoding='ascii') as f:
                    total += int(f.read().split()[0])
        except (OSError, vm.Failure):
            return None
        return total / 1e6

    def _read(self, fd):
        with contextlib.suppress(OSError): # only root may; on a busy machine a late reader spoils the figures
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -10)
        while True:
            data = os.read(fd, 65536)
            now = time.monotonic() - self.began
            if not data:
                return
            cpu = None if self.subject == 'bare' else self.cpu_ms()
            with self.lock:
                self.times.append((len(self.output), now))
                self.used.append(cpu)
                self.output += data.decode('utf-8', 'replace')
                self.lock.notify_all()

    def at(self, offset):
        """(ms since the start, CPU ms or None) when the character at this offset of the output arrived."""
        index = bisect.bisect_right(self.times, offset, key=lambda pair: pair[0]) - 1
        return self.times[index][1] * 1000, self.used[index]


def lay_over(initrd, layer, path):
    """Write an initrd to path: another one with the files of a folder over it."""
    with open(path + '.new', 'wb') as out:
        with open(initrd, 'rb') as plain:
            shutil.copyfileobj(plain, out)
        out.flush()
        names = subprocess.run(['find', '.'], cwd=layer, capture_output=True, check=True).stdout
        subprocess.run(['cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0'], cwd=layer, input=names, stdout=out, check=True)
    os.rename(path + '.new', path)


class Place:
    """What is prepared once for a run, in BUILD/bench: program, initrd, the Debian tree for the bare machine."""

    def __init__(self, build):
        self.folder = os.path.join(os.path.abspath(build), 'bench')
        self.program = os.path.join(self.folder, 'caisson-bench')
        self.initrd = os.path.join(self.folder, 'initrd.img')
        self.script = os.path.join(ROOT, 'bench', 'guest', 'work.py')
        self.tree = None
        self.work_disk = None
        os.makedirs(self.folder, exist_ok=True)
        self.lock = open(os.path.join(self.folder, 'lock'), 'w', encoding='ascii') # held until the process ends
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'bench: another run uses {self.folder}: waiting', file=sys.stderr, flush=True)
            fcntl.flock(self.lock, fcntl.LOCK_EX)
        self.kernel, self.plain_initrd = vm.guest_kernel(KERNEL)

    def make(self):
        """Build the program, and the initrd: guest-image's, with our init, program and script over it."""
        sources = sorted(glob.glob(os.path.join(ROOT, 'bench', 'guest', '*.c')))
        inputs = glob.glob(os.path.join(ROOT, 'bench', 'guest', '*')) + [self.plain_initrd, __file__]
        newest = max(os.path.getmtime(path) for path in inputs)
        if os.path.exists(self.initrd) and os.path.getmtime(self.initrd) > newest:
            return
        subprocess.run([os.environ.get('CC', 'gcc'), *CFLAGS, '-o', self.program, *sources, '-lm'], check=True)
        layer = os.path.join(self.folder, 'layer')
        shutil.rmtree(layer, ignore_errors=True)
        os.makedirs(os.path.join(layer, 'bin'))
        shutil.copy(os.path.join(ROOT, 'bench', 'guest', 'init'), os.path.join(layer, 'init'))
        shutil.copy(self.program, os.path.join(layer, 'bin', 'caisson-bench'))
        shutil.copy(self.script, os.path.join(layer, 'work.py'))
        lay_over(self.plain_initrd, layer, self.initrd)

    def make_tree(self):
        """The Debian tree of the work disk: the disk for guests, its files unpacked for the bare machine."""
        subprocess.run([os.path.join(ROOT, 'tools/guest-image'), 'work'], check=True)
        self.work_disk = os.path.realpath(os.path.join(vm.guest_folder(), 'work', 'root.ext4'))
        key = os.path.basename(os.path.dirname(self.work_disk))
        self.tree = os.path.join(self.folder, key)
        if os.path.isdir(self.tree):
            return
        print('bench: unpacking the Debian tree for the bare machine', file=sys.stderr, flush=True)
        for old in glob.glob(os.path.join(self.folder, 'work_*')):
            shutil.rmtree(old)
        # As another user than root it cannot give the files their owners, and says so.
        os.makedirs(self.tree + '.new')
        subprocess.run(['debugfs', '-R', f'rdump / {self.tree}.new', self.work_disk], stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True, env={**os.environ, 'PATH': os.environ['PATH'] + ':/usr/sbin:/sbin'})
        if not os.path.exists(os.path.join(self.tree + '.new', 'usr/bin/python3')):
            raise vm.Failure(f'debugfs cannot unpack {self.work_disk}')
        os.rename(self.tree + '.new', self.tree)


class Peer:
    """The host's end of row tcp."""

    def __init__(self, place):
        self.process = subprocess.Popen([place.program, '--serve'], stdout=subprocess.PIPE, text=True)
        match = re.fullmatch(r'CAISSON-PORT (\d+)\n', self.process.stdout.readline())
        if not match:
            raise vm.Failure('the peer of row tcp does not start')
        self.port = int(match.group(1))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def guest_command(place, subject, rows, cpus, devices, scale, port):
    """(program, arguments) of a guest that runs these rows."""
    words = f'console=ttyS0 quiet panic=-1 caisson.rows={",".join(rows)} caisson.scale={scale}'
    scratch = os.path.join(place.folder, 'scratch.ext4')
    if devices:
        vm.make_disk(scratch, '256M')
        words += f' caisson.devices=1 caisson.peer=10.0.2.2:{port}'
    if subject == 'tcg':
        multi = ',thread=multi' if cpus > 1 else ''
        arguments = ['-M', 'q35', '-accel', 'tcg' + multi, '-cpu', 'max', '-smp', str(cpus), '-m', str(MEMORY_MIB), '-nographic',
                     '-no-reboot', '-nodefaults', '-serial', 'stdio', '-kernel', place.kernel, '-initrd', place.initrd, '-append', words]
        if devices:
            arguments += ['-drive', f'file={place.work_disk},format=raw,if=none,id=work,readonly=on',
                          '-device', 'virtio-blk-pci,drive=work',
                          '-drive', f'file={scratch},format=raw,if=none,id=scratch', '-device', 'virtio-blk-pci,drive=scratch',
                          '-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net']
        return [QEMU], arguments
    arguments = ['--kernel', place.kernel, '--initrd', place.initrd, '--append', words, '--engine', subject, '--cpus', str(cpus),
                 '--memory', f'{MEMORY_MIB}M', '--no-reboot', *(['-v'] if os.environ.get('BENCH_DEBUG') else [])]
    if devices:
        arguments += ['--disk', place.work_disk + ',ro', '--disk', scratch, '--net', 'user']
    else:
        arguments += ['--net', 'none']
    return [vm.CAISSON, 'vm', 'run'], arguments


def read_marks(machine):
    """{row: Result} of what the output says so far, the row that is running now (or None), and all words that were said."""
    results, began, ended, said = {}, {}, {}, []
    running = None
    for match in MARK.finditer(machine.output):
        word, text = match.groups()
        said.append(word)
        row, _, rest = text.partition(' ')
        if word == 'BEGIN':
            began[row] = machine.at(match.start())
            running = row
        elif word == 'END':
            ended[row] = machine.at(match.start())
        elif word == 'ROW':
            running = None
            good = re.fullmatch(r'ok sum=(\w+) ns=(\d+) cpu=(\d+)', rest)
            if good and row in ended:
                (begin, cpu_begin), (end, cpu_end) = began[row], ended[row]
                # On the bare machine the program knows best, as it knows its children.
                cpu = int(good.group(3)) / 1e6 if machine.subject == 'bare' else \
                    cpu_end - cpu_begin if cpu_begin is not None and cpu_end is not None else None
                results[row] = Result(end - begin, int(good.group(2)) / 1e6, cpu, good.group(1))
            else:
                results[row] = Result(error=rest.removeprefix('FAIL ') if rest else 'its line makes no sense')
        elif word == 'STATUS' and row not in results:
            running = None
            results[row] = Result(error=f'its process ended with status {rest}')
    return results, running, said


def memory_beside_ram(machine):
    """MiB of the VMM's resident memory that is not guest RAM (by PSS), from /proc/PID/smaps."""
    pid = machine.main_pid()
    other = ram = ram_size = 0
    with open(f'/proc/{pid}/smaps', encoding='utf-8') as f:
        for line in f:
            if re.match(r'[0-9a-f]+-[0-9a-f]+ ', line):
                name = line.split(maxsplit=5)[5].strip() if len(line.split(maxsplit=5)) > 5 else ''
                size = None
            elif line.startswith('Size:'):
                size = int(line.split()[1]) >> 10
                # QEMU's RAM has no name; nothing else of it is as big as the guest.
                is_ram = 'guest-ram' in name if machine.subject != 'tcg' else not name and size >= MEMORY_MIB
                ram_size += size if is_ram else 0
            elif line.startswith('Pss:'):
                if is_ram:
                    ram += int(line.split()[1])
                else:
                    other += int(line.split()[1])
    if ram_size < MEMORY_MIB:
        raise vm.Failure(f'no mapping of {MEMORY_MIB} MiB in /proc/{pid}/smaps')
    return other / 1024


def follow(machine, rows):
    """Wait until the guest is done or hangs; returns {row: Result} of the rows that it came to."""
    memory = None
    deadline, known = time.monotonic() + BOOT_SECONDS, 0
    while True:
        with machine.lock:
            machine.lock.wait(0.5)
            results, running, said = read_marks(machine)
        if len(said) > known:
            deadline, known = time.monotonic() + ROW_SECONDS, len(said)
        if 'WAITS' in said and memory is None:
            memory = Result(memory_beside_ram(machine))
            machine.type('\n')
        ended = machine.process.poll() is not None and not machine.thread.is_alive()
        if ended or 'DONE' in said or time.monotonic() > deadline:
            break
    if memory and 'memory' in rows:
        results['memory'] = memory
    if 'DONE' not in said:
        stuck = running or next((row for row in rows if row not in results), None)
        if stuck:
            what = f'the guest ended (exit code {machine.process.poll()})' if ended else f'nothing for {ROW_SECONDS} s'
            results[stuck] = Result(error=f'{what}; last words: {machine.output.strip().splitlines()[-1:]}')
    return results


def run_guest(place, subject, rows, cpus=1, devices=False, scale=100, port=0):
    """Boot as often as it takes to try each row once. {row: Result}; `boot` is the time of the first boot to its init."""
    results, left = {}, [row for row in rows if row != 'boot']
    first = True
    while left or first:
        program, arguments = guest_command(place, subject, left, cpus, devices, scale, port)
        machine = Machine(subject, arguments, program)
        try:
            found = follow(machine, left)
            init = INIT.search(machine.output)
            if first:
                results['boot'] = Result(*machine.at(init.start())[:1], cpu=machine.at(init.start())[1]) if init else \
                    Result(error=f'no init; last words: {machine.output.strip().splitlines()[-1:]}')
            if init and 'DONE' in read_marks(machine)[2]:
                machine.process.wait(30)
        except subprocess.TimeoutExpired:
            print(f'bench: {subject}: the guest does not power off', file=sys.stderr)
        finally:
            machine.close()
        first = False
        if os.environ.get('BENCH_DEBUG'):
            print(machine.output, file=sys.stderr)
        results.update({row: found.get(row, Result(error='no result')) for row in left if row in found or not init})
        left = [row for row in left if row not in results]
        if not found:
            break
    results.update({row: Result(error='no result') for row in left})
    return results


def run_bare(place, rows, scale=100, port=0):
    """The same program on this machine itself. {row: Result}"""
    results = {}
    disk = os.path.join(place.folder, 'scratch')
    os.makedirs(disk, exist_ok=True)
    for row in rows:
        if row in ('boot', 'memory'):
            continue
        arguments = ['--tmp', '/dev/shm', '--disk', disk, '--script', place.script, '--scale', str(scale), '--peer', f'127.0.0.1:{port or 1}']
        machine = Machine('bare', [*arguments, *(['--root', place.tree] if place.tree else []), row], [place.program])
        try:
            machine.wait(ROW_SECONDS)
            results[row] = read_marks(machine)[0].get(row, Result(error=machine.output.strip() or 'no result'))
        except vm.Failure as failure:
            results[row] = Result(error=str(failure))
        finally:
            machine.close()
    return results


def check_sums(results, reference):
    """Results whose sum differs from the reference's become errors."""
    for row, result in results.items():
        if result.sum is not None and row in reference and result.sum != reference[row].sum:
            results[row] = Result(error=f'sum {result.sum}, on the bare machine {reference[row].sum}')
    return results
