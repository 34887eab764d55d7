"""Bundles, runtimes and what they leave behind, for the tests of caisson-oci.

A test program gets the runtime and the payload programs in its environment (meson.build): OCI_RUNTIME, OCI_PAYLOAD,
OCI_REPORT, OCI_ATTACK. Any runtime with runc's command line will do: OCI_RUNTIME=/usr/sbin/runc tests the tests.
"""
import atexit
import copy
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
from program import Skip, until

RUNTIME = os.path.abspath(os.environ['OCI_RUNTIME'])
RUNTIME_NAME = os.path.basename(RUNTIME)
PROGRAMS = {name: os.environ['OCI_' + name.upper()] for name in ('payload', 'report', 'attack')}
MARK = f'CAISSON_OCI_TEST={os.getpid()}'
GROUP = f'/caisson-test-{os.getpid()}'  # parent of all our cgroups
WORK = tempfile.mkdtemp(prefix='caisson-oci-', dir=os.environ.get('OCI_WORK'))
os.chmod(WORK, 0o755)
os.umask(0o022)  # the caller's would decide who may read the bundles
FILES = min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]) if resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 0 else 1024
BASE_CAPS = ['CAP_AUDIT_WRITE', 'CAP_KILL', 'CAP_NET_BIND_SERVICE']

BASE = {
    'ociVersion': '1.0.2',
    'process': {
        'terminal': False, 'user': {'uid': 0, 'gid': 0}, 'args': ['/payload', 'true'],
        'env': ['PATH=/bin:/usr/bin', MARK], 'cwd': '/',
        'capabilities': {kind: BASE_CAPS for kind in ('bounding', 'effective', 'permitted')},
        'rlimits': [{'type': 'RLIMIT_NOFILE', 'hard': FILES, 'soft': FILES}], 'noNewPrivileges': True,
    },
    'root': {'path': 'rootfs', 'readonly': False},
    'hostname': 'caisson-test',
    'mounts': [
        {'destination': '/proc', 'type': 'proc', 'source': 'proc'},
        {'destination': '/dev', 'type': 'tmpfs', 'source': 'tmpfs', 'options': ['nosuid', 'strictatime', 'mode=755', 'size=65536k']},
        {'destination': '/dev/pts', 'type': 'devpts', 'source': 'devpts',
         'options': ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5']},
        {'destination': '/dev/shm', 'type': 'tmpfs', 'source': 'shm', 'options': ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k']},
        {'destination': '/dev/mqueue', 'type': 'mqueue', 'source': 'mqueue', 'options': ['nosuid', 'noexec', 'nodev']},
        {'destination': '/sys', 'type': 'sysfs', 'source': 'sysfs', 'options': ['nosuid', 'noexec', 'nodev', 'ro']},
        {'destination': '/sys/fs/cgroup', 'type': 'cgroup', 'source': 'cgroup', 'options': ['nosuid', 'noexec', 'nodev', 'relatime', 'ro']},
    ],
    'linux': {
        'resources': {'devices': [{'allow': False, 'access': 'rwm'}]},
        'namespaces': [{'type': kind} for kind in ('pid', 'network', 'ipc', 'uts', 'mount', 'cgroup')],
        'maskedPaths': ['/proc/acpi', '/proc/asound', '/proc/kcore', '/proc/keys', '/proc/latency_stats', '/proc/timer_list',
                        '/proc/timer_stats', '/proc/sched_debug', '/sys/firmware', '/proc/scsi'],
        'readonlyPaths': ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
    },
}


def expect(what, found, wanted):
    """wanted: a value, or a regular expression that must be found in the text."""
    ok = bool(re.search(wanted.pattern, str(found), wanted.flags)) if isinstance(wanted, re.Pattern) else found == wanted
    if not ok:
        raise AssertionError(f'{what}: {str(found)[:2000]!r} instead of {wanted!r}')
    print(f'ok: {what}', flush=True)


def merged(base, changes):
    """A copy of base; dicts are merged, None removes a member, anything else replaces."""
    out = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = copy.deepcopy(value)
    return out


class Bundle:
    """A folder with config.json and rootfs/: our static programs, and empty mount points. Its root file system is its own, but
    the programs are links: a container that may change them needs copies."""
    count = 0

    def __init__(self, changes=None, args=None, base=None):
        Bundle.count += 1
        self.id = f'caisson-{os.getpid()}-{Bundle.count}'
        self.path = os.path.join(WORK, self.id)
        self.rootfs = os.path.join(self.path, 'rootfs')
        for folder in ('proc', 'sys', 'dev', 'tmp', 'etc', 'bin'):
            os.makedirs(os.path.join(self.rootfs, folder))
        os.chmod(os.path.join(self.rootfs, 'tmp'), 0o1777)
        for name, source in PROGRAMS.items():
            os.link(local(source), os.path.join(self.rootfs, name))
        self.config = merged(base or BASE, changes or {})
        self.config.setdefault('linux', {}).setdefault('cgroupsPath', f'{GROUP}/{self.id}')
        if args:
            self.config['process']['args'] = args
        self.write()

    def write(self, text=None):
        with open(os.path.join(self.path, 'config.json'), 'w', encoding='utf-8') as f:
            f.write(json.dumps(self.config, indent=1) if text is None else text)

    def file(self, name, text='', mode=0o644):
        path = os.path.join(self.rootfs, name.lstrip('/'))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as f:
            f.write(text)
        os.chmod(path, mode)
        return path


def local(program):
    """The program on the file system of the bundles, so that it can be linked into them."""
    path = os.path.join(WORK, os.path.basename(program))
    if not os.path.exists(path):
        shutil.copy(program, path)
    return path


class Runtime:
    """A runtime with a state directory of its own."""

    def __init__(self, path=None, *options):
        self.path = path or RUNTIME
        self.root = tempfile.mkdtemp(prefix='state-', dir=WORK)
        self.options = ('--root', self.root, *options)

    def command(self, *args):
        return [self.path, *self.options, *args]

    def __call__(self, *args, check=True, timeout=60, text=True, **options):
        """Run a verb. Output is in files, for a payload that lives on holds them open."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdout, stderr = options.pop('stdout', out), options.pop('stderr', err)
            env = {**os.environ, MARK.split('=')[0]: MARK.split('=')[1], **options.pop('env', {})}
            try:
                done = subprocess.run(self.command(*args), stdin=options.pop('stdin', subprocess.DEVNULL), stdout=stdout, stderr=stderr,
                                      check=False, timeout=timeout, env=env, **options)
            except subprocess.TimeoutExpired:
                err.seek(0)
                raise AssertionError(f'{" ".join(args)}: not within {timeout} s: {err.read()[-500:]!r}') from None
            out.seek(0)
            err.seek(0)
            done.stdout, done.stderr = (f.read().decode(errors='replace') if text else f.read() for f in (out, err))
        if check and done.returncode != 0:
            raise AssertionError(f'{self.path} {" ".join(args)}: {done.returncode}\n{done.stdout}{done.stderr}')
        return done

    def state(self, container):
        return json.loads(self('state', container).stdout)

    def status(self, container):
        """None: there is no such container."""
        done = self('state', container, check=False)
        return json.loads(done.stdout)['status'] if done.returncode == 0 else None

    def create(self, bundle, *options, **more):
        return self('create', '--bundle', bundle.path, *options, bundle.id, **more)

    def run(self, bundle, *options, **more):
        return self('run', '--bundle', bundle.path, *options, bundle.id, **more)

    def started(self, bundle, *options):
        """Create and start, and wait for nothing."""
        self.create(bundle, *options)
        self('start', bundle.id)
        return self.state(bundle.id)['pid']

    def delete(self, container, force=True):
        return self('delete', *(['--force'] if force else []), container, check=not force)

    def stopped(self, container):
        return until(f'end of {container}', lambda: self.status(container) == 'stopped')


def report_of(runtime, bundle, words=(), **options):
    """The lines that /report says in a container of this bundle."""
    bundle.config['process']['args'] = ['/report', *words]
    bundle.write()
    return runtime.run(bundle, **options).stdout.splitlines()


def values(lines, key):
    return [line[len(key) + 1:] for line in lines if line.startswith(key + ' ')]


# ---- what is left behind ----

def hierarchies():
    """(controllers, mount point) of each cgroup hierarchy here."""
    out = []
    with open('/proc/self/mountinfo', encoding='utf-8') as f:
        for line in f:
            fields = line.split()
            kind = fields[fields.index('-') + 1]
            if kind in ('cgroup', 'cgroup2'):
                out.append((fields[-1] if kind == 'cgroup' else 'v2', fields[4]))
    return out


def groups_left():
    return [path for _, top in hierarchies() for path, folders, _ in os.walk(top + GROUP) for path in [os.path.join(path, f) for f in folders]]


def mounts():
    with open('/proc/self/mountinfo', encoding='utf-8') as f:
        return [line.split()[4] for line in f if WORK in line]


def processes():
    """(pid, command) of what carries our mark: the runtime, hooks and payloads; not this program and its children in Python."""
    out = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        if int(pid) == os.getpid():
            continue
        try:
            with open(f'/proc/{pid}/environ', 'rb') as f:
                if MARK.encode() not in f.read():
                    continue
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                command = f.read().replace(b'\0', b' ').decode(errors='replace')
            with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
                if f.read().rpartition(')')[2].split()[0] in 'ZX':
                    continue
        except OSError:
            continue
        out.append((int(pid), command))
    return out


def nothing_left(what, runtime=None, processes_too=True):
    """Nothing is mounted, runs, or is in a cgroup; the state directory is empty. Processes get a moment: SIGKILL is not awaited
    by all verbs."""
    expect(f'{what}: mounts left', mounts(), [])
    if processes_too:
        try:
            until('end of processes', lambda: not processes(), 5)
        except AssertionError:
            pass
        expect(f'{what}: processes left', processes(), [])
    expect(f'{what}: cgroups left', groups_left(), [])
    if runtime:
        expect(f'{what}: state left', [name for name in os.listdir(runtime.root) if not name.startswith('@')], [])  # @: compiled filters


def sweep():
    """After a failure: the next test starts clean. Only what carries our mark or lies in our folders."""
    for pid, _ in processes():
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    for _, top in hierarchies():
        for path, _, _ in os.walk(top + GROUP, topdown=False):
            thawed = os.path.join(path, 'freezer.state')
            if os.path.exists(thawed):
                with open(thawed, 'w', encoding='utf-8') as f:
                    f.write('THAWED')
            for _ in range(100):
                try:
                    os.rmdir(path)
                    break
                except OSError:
                    time.sleep(0.01)
    for point in reversed(mounts()):
        subprocess.run(['umount', '-l', point], check=False)


def clean():
    sweep()
    shutil.rmtree(WORK, ignore_errors=True)


atexit.register(clean)


def main(cases, needs_root=True):
    """Run the cases named on the command line, or all. A case is a function; it may raise Skip. Exit code 77: all skipped."""
    if needs_root and os.geteuid() != 0:
        print('needs root')
        sys.exit(77)
    wanted = sys.argv[1:]
    table = {case.__name__: case for case in cases}
    failed, done, reason = [], 0, ''
    for name in wanted or table:
        print(f'-- {name}', flush=True)
        try:
            table[name]()
            done += 1
        except Skip as skip:
            reason = f'skipped {name}: {skip}'
            print(reason, flush=True)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            failed.append(name)
        sweep()
    if failed:
        print(f'{len(failed)} of {len(wanted or table)} cases failed: {" ".join(failed)}')
        sys.exit(1)
    if not done:
        print(reason)
        sys.exit(77)
    print(f'{done} cases passed')
