#!/usr/bin/env python3
"""Real loads in a stock Debian guest, verified by their own checks: loads.py CASE [KEY=VALUE...]

    stress    stress-ng --verify                seconds=600 group=cpu:2,vm:1
    project   C projects built, and tested      projects=zlib,libtommath
    python    python3's own test modules        modules=test_int,test_zlib
    boots     the same machine again and again  count=100
    fio       fio --verify=crc32c on disks      size=64M disks=raw:none,qcow2:writeback

All take engine=bt cpus=2 memory=1G, and silence=SECONDS: how long the guest may print nothing before it counts as hung. That is
no demand on its speed. Words that are not known here go to the guest (tests/loads/guest). A line from the guest's kernel that
speaks of trouble fails every case. CAISSON_LOADS_DISK names another work disk than that of tools/guest-image.
"""
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'boot'))
import vm # noqa: E402 (found by the line above)
from vm import check # noqa: E402

KERNEL = 'linux-image-cloud-amd64'
# What Linux says when it finds that something is wrong with itself or with the machine.
TROUBLE = re.compile(r'^.*(?:\bBUG\b|\bWARNING:|\bOops\b|Kernel panic|Call Trace|soft lockup|hard LOCKUP|rcu.*stall|'
                     r'blocked for more than|general protection fault|double fault|unchecked MSR|Bad page|bad pmd|'
                     r'EXT4-fs error|I/O error|nobody cared|Machine Check|NMI received|corrupted|'
                     r'unable to handle|Spurious|spurious|lost interrupt|NETDEV WATCHDOG|hrtimer: interrupt took).*$', re.M)
# Trouble that a load makes on purpose, or that a slow host makes: none of it means a wrong machine.
HARMLESS = re.compile(r'hrtimer: interrupt took|perf: interrupt took')
DEFAULTS = {'engine': 'bt', 'cpus': '2', 'memory': '1G', 'silence': '900'}


def work_disk():
    """The template of the guest's root disk."""
    path = os.environ.get('CAISSON_LOADS_DISK') or os.path.join(vm.guest_folder(), 'work', 'root.ext4')
    if not os.path.exists(path):
        subprocess.run([os.path.join(vm.ROOT, 'tools/guest-image'), 'work'], check=True)
    return path


def copy_in(disk, folders):
    """Put the files of {folder in the guest: folder here} onto a disk; without rights or mounts, by debugfs."""
    commands = []
    for inside, here in folders.items():
        commands.append(f'mkdir {inside}')
        for name in sorted(os.listdir(here)):
            mode = '0100755' if os.access(os.path.join(here, name), os.X_OK) else '0100644'
            commands += [f'write {os.path.join(here, name)} {inside}/{name}', f'sif {inside}/{name} mode {mode}']
    run = subprocess.run(['/sbin/debugfs', '-w', '-f', '/dev/stdin', disk], input='\n'.join(commands) + '\n', text=True,
                         capture_output=True, check=True)
    problems = run.stderr.splitlines()[1:] # the first line is its version
    check(not problems, f'debugfs: {problems}')


def make_disk(folder):
    """A copy of the work disk with our scripts and what Debian's package of python's tests lacks."""
    disk = os.path.join(folder, 'root.ext4')
    subprocess.run(['cp', '--sparse=always', '--reflink=auto', work_disk(), disk], check=True)
    sqlite = subprocess.run([os.path.join(HERE, 'sqlite-tests')], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    copy_in(disk, {'/caisson-load': os.path.join(HERE, 'guest'), '/usr/lib/python3.11/test/test_sqlite3': sqlite})
    return disk


def wait_for_end(name, guest, silence):
    """Until the guest ends. It is hung when it has said nothing for so many seconds; then what it said last is shown. All that it
    says goes to BUILD/loads/NAME.log as it comes."""
    folder = os.path.join(vm.BUILD, 'loads')
    os.makedirs(folder, exist_ok=True)
    written, since = 0, time.monotonic()
    with open(os.path.join(folder, f'{name}.log'), 'w', encoding='utf-8') as log:
        while guest.process.poll() is None or len(guest.output) > written:
            news = guest.output[written:]
            if news:
                log.write(news)
                log.flush()
                written, since = written + len(news), time.monotonic()
            if time.monotonic() - since > silence:
                raise vm.Failure(f'hung: nothing from the guest for {silence:.0f} s; last words: {guest.output[-400:]!r}')
            time.sleep(0.2)
        code = guest.wait()
        log.write(guest.output[written:])
    return code


def trouble(output):
    """The first line in which the guest's kernel complains, None without."""
    for match in TROUBLE.finditer(output):
        if not HARMLESS.search(match.group(0)):
            return match.group(0).strip()
    return None


def run_load(name, disk, words, options=()):
    """One boot of the work disk that runs a load to its end. Returns the output."""
    settings = {key: words.get(key, value) for key, value in DEFAULTS.items()}
    kernel, initrd = vm.guest_kernel(KERNEL)
    rest = ' '.join(f'caisson.{key}={value}' for key, value in words.items() if key not in DEFAULTS)
    arguments = ['--kernel', kernel, '--initrd', initrd, '--engine', settings['engine'], '--cpus', settings['cpus'],
                 '--memory', settings['memory'], '--disk', disk, '--net', 'none', '--no-reboot', *options, '--append',
                 f'console=ttyS0 loglevel=5 panic=-1 root=/dev/vda init=/caisson-load/init caisson.load={name} {rest}'.strip()]
    with vm.started(arguments) as guest:
        code = wait_for_end(name, guest, float(settings['silence']))
        result = re.search(rf'^CAISSON-LOAD {name} (PASS|FAIL.*?)\r?$', guest.output, re.M)
        found = trouble(guest.output)
        check(not found, f'the guest\'s kernel: {found}')
        check(result, f'the guest ended without a result; exit code {code}')
        check(result.group(1) == 'PASS', result.group(1))
        check(code == 0, f'exit code {code}')
        return guest.output


@contextlib.contextmanager
def fresh_disk():
    with tempfile.TemporaryDirectory(prefix='caisson-load-') as folder:
        yield make_disk(folder)


def case_stress(words):
    with fresh_disk() as disk:
        output = run_load('stress', disk, {'seconds': '600', **words})
    found = re.findall(r'metrc: .*?\] (\S+) +(\d+) ', output)
    print(f'figure: stress-ng: {len(found)} stressors, {sum(int(count) for _, count in found)} operations verified')


def case_project(words):
    with fresh_disk() as disk:
        output = run_load('project', disk, words)
    names = re.findall(r'^project (.*?)\r?$', output, re.M)
    print(f'figure: built and tested: {", ".join(names)}')


def case_python(words):
    with fresh_disk() as disk:
        output = run_load('python', disk, words)
    ran = re.search(r'(?:All )?(\d+) tests? (?:OK|passed)', output)
    check(ran, 'python did not say how many modules passed')
    print(f'figure: python3: {ran.group(1)} test modules passed')


def case_boots(words):
    """The same disk, so that a boot also finds what the one before it wrote."""
    count = int(words.get('count', '100'))
    with fresh_disk() as disk:
        for number in range(count):
            try:
                run_load('boots', disk, {'silence': '300', **words})
            except vm.Failure as failure:
                raise vm.Failure(f'boot {number + 1} of {count}: {failure}') from None
        subprocess.run(['/sbin/e2fsck', '-fn', disk], check=True, stdout=subprocess.DEVNULL)
    print(f'figure: {count} boots')


def case_fio(words):
    """disks: FORMAT:CACHE pairs. Each gets its own content, which fio in the guest verifies; the images are checked afterwards."""
    every = [f'{form}:{cache}' for form in ('raw', 'qcow2') for cache in ('none', 'writeback', 'writethrough', 'unsafe')]
    disks = words['disks'].split(',') if 'disks' in words else every
    with fresh_disk() as root:
        options, images = [], []
        for n, disk in enumerate(disks):
            form, cache = disk.split(':')
            path = os.path.join(os.path.dirname(root), f'{n}.{form}')
            subprocess.run(['qemu-img', 'create', '-q', '-f', form, path, words.get('size', '64M')], check=True)
            images.append((form, path))
            options += ['--disk', f'{path},format={form},cache={cache}']
        output = run_load('fio', root, {'size': '64M', **{key: value for key, value in words.items() if key != 'disks'}}, options)
        for form, path in images:
            if form != 'raw':
                subprocess.run(['qemu-img', 'check', path], check=True, stdout=subprocess.DEVNULL)
    runs = re.findall(r'^fio (vd\w) direct=([01]) (.*?)\r?$', output, re.M)
    check(len(runs) == 2 * len(disks), f'{len(runs)} runs of fio for {len(disks)} disks')
    for name, _, kind in runs:
        through = 'writethrough' in disks[ord(name[2]) - ord('b')]
        check(kind == ('write through' if through else 'write back'), f'{name}: the guest takes its cache for {kind}')
    print(f'figure: fio: {len(runs)} runs on {len(disks)} disks verified')


def with_words(case):
    """A case for vm.main, which passes plain arguments."""
    return lambda *arguments: case(dict(argument.split('=', 1) for argument in arguments))


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) # no guest stays behind
    vm.main({name[len('case_'):]: with_words(value) for name, value in list(globals().items()) if name.startswith('case_')})
