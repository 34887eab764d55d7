"""Caisson with state of its own, an image of Debian's busybox, Podman beside it, and a look at what is left.

A test program gets CAISSON (build/caisson) in its environment. Everything lies in one temporary folder.
"""
import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
from program import Skip, until

CAISSON = os.path.abspath(os.environ['CAISSON'])
RUNTIME = os.path.join(os.path.dirname(CAISSON), 'caisson-oci')
BUSYBOX = '/bin/busybox'
WORK = tempfile.mkdtemp(prefix='ctr-')
os.chmod(WORK, 0o755)
APPLETS = ('cat chmod chown cp df echo env false grep head hostname httpd id ip kill ln ls mkdir mount mv nc nslookup ping ps pwd rm '
           'rmdir sh sleep stat stty tail tar test touch true tty wget').split()


def expect(what, found, wanted):
    ok = wanted.search(str(found)) is not None if hasattr(wanted, 'search') else found == wanted
    if not ok:
        raise AssertionError(f'{what}: {str(found)[:2000]!r} instead of {wanted!r}')
    print(f'ok: {what}', flush=True)


def rootfs():
    """The folder of the image."""
    folder = os.path.join(WORK, 'rootfs')
    if os.path.isdir(folder):
        return folder
    if not os.path.exists(BUSYBOX):
        raise Skip('no busybox: apt-get install busybox-static')
    for name in ('bin', 'etc', 'root', 'tmp', 'usr/share/seed', 'home/user'):
        os.makedirs(os.path.join(folder, name))
    os.chmod(os.path.join(folder, 'tmp'), 0o1777)
    shutil.copy(BUSYBOX, os.path.join(folder, 'bin/busybox'))
    for name in APPLETS:
        os.symlink('busybox', os.path.join(folder, 'bin', name))
    files = {'etc/passwd': 'root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n',
             'etc/group': 'root:x:0:\nuser:x:1000:\nextra:x:2000:user\n', 'usr/share/seed/file': 'seeded\n'}
    for name, text in files.items():
        with open(os.path.join(folder, name), 'w', encoding='ascii') as f:
            f.write(text)
    return folder


def archive():
    path = os.path.join(WORK, 'rootfs.tar')
    if not os.path.exists(path):
        subprocess.run(['tar', '-C', rootfs(), '--owner=0', '--group=0', '-cf', path, '.'], check=True)
    return path


class Caisson:
    """The program with directories of its own; prefix: a command that runs it as somebody else."""
    count = 0

    def __init__(self, prefix=(), folder=None):
        Caisson.count += 1
        self.folder = folder or os.path.join(WORK, f'c{Caisson.count}')
        os.makedirs(self.folder, exist_ok=True)
        self.prefix = list(prefix)
        self.env = {**os.environ, 'CAISSON_STATE_DIR': f'{self.folder}/s', 'CAISSON_RUNTIME_DIR': f'{self.folder}/r', 'LC_ALL': 'C'}
        atexit.register(self.end)
        with open(archive(), 'rb') as f:
            self('image', 'import', '--rootfs', '--name', 'img', '-', stdin=f)

    def end(self):
        self('rm', '-f', '--all', status=None)

    def __call__(self, *args, status=0, stdin=subprocess.DEVNULL, timeout=300, text=True, errors=False):
        done = subprocess.run([*self.prefix, CAISSON, *args], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=timeout, env=self.env, text=text)
        if status is not None and done.returncode != status:
            raise AssertionError(f'caisson {" ".join(args)}: {done.returncode} instead of {status}\n{done.stdout}{done.stderr}')
        return done.stderr if errors else done.stdout

    def run(self, *args, **options):
        """A container that is gone afterwards, without a network."""
        return self('run', '--rm', '--network', 'none', *args, **options)

    def start(self, name, *args, network='none'):
        return self('run', '-d', '--name', name, '--network', network, *args).strip()

    def inspect(self, name):
        return json.loads(self('inspect', '--json', name))[0]

    def names(self):
        return sorted(row['name'] for row in json.loads(self('ls', '-a', '--json')))


class Podman:
    """The oracle, with storage of its own and our runtime, so that only what is above it can differ."""

    def __init__(self):
        for program in ('podman', 'conmon'):
            if not shutil.which(program):
                raise Skip(f'no {program}: apt-get install podman')
        folder = os.path.join(WORK, 'podman')
        self.base = ['podman', '--root', f'{folder}/root', '--runroot', f'{folder}/run', '--tmpdir', f'{folder}/tmp', '--storage-driver', 'vfs',
                     '--cgroup-manager', 'cgroupfs', '--events-backend', 'none', '--runtime', RUNTIME]
        done = self.call('import', archive(), 'img')
        if done.returncode != 0:
            raise Skip(f'podman does not work here: {done.stderr[-300:].strip()}')

    def call(self, *args):
        return subprocess.run([*self.base, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                              timeout=300, text=True)

    def __call__(self, *args, status=0):
        done = self.call(*args)
        if status is not None and done.returncode != status:
            raise AssertionError(f'podman {" ".join(args)}: {done.returncode} {done.stderr[-300:]}')
        return done.stdout

    def run(self, *args, status=0):
        return self('run', '--rm', '--network', 'none', '--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1024:1024', *args, status=status)


def processes(word):
    """Ids of processes that have word in their command line, those that have ended are none."""
    found = []
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as f:
                if word.encode() in f.read() and int(pid) != os.getpid():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def leftovers(caisson, ids=()):
    """What is there of containers that should be gone."""
    found = []
    for folder in ('s/instances', 'r/instances', 'r/oci'):
        path = os.path.join(caisson.folder, folder)
        found += [f'{folder}/{name}' for name in os.listdir(path) if not name.startswith('@')] if os.path.isdir(path) else []
    with open('/proc/self/mountinfo', encoding='utf-8') as f:
        found += [f'mount {line.split()[4]}' for line in f if caisson.folder in line]
    for top, dirs, _ in os.walk('/sys/fs/cgroup'):
        found += [f'{top}/{name}' for name in dirs if any(name == f'caisson-{i[:12]}' for i in ids)]
        dirs[:] = []if top.count('/') > 4 else dirs
    found += [f'supervisor {pid}' for pid in processes('caisson-shim') if any(i.encode() in open(f'/proc/{pid}/cmdline', 'rb').read() for i in ids)]
    return found


def nothing_left(what, caisson, ids=()):
    try:
        until('nothing left', lambda: not leftovers(caisson, ids), 20)
    except AssertionError:
        raise AssertionError(f'{what}: left behind: {leftovers(caisson, ids)}') from None
    print(f'ok: {what}: nothing is left', flush=True)


def servers(c):
    """Processes that serve overlays of containers."""
    return [pid for pid in processes('fuse-overlayfs\0-f') if pid in processes(c.folder)]


def nested(name, prefix=(), uid=0):
    """Caisson whose directories lie on an overlayfs, in a mount namespace that lives as long as this program, as in a container."""
    if not shutil.which('fuse-overlayfs') or not os.path.exists('/dev/fuse'):
        raise Skip('no fuse-overlayfs: apt-get install fuse-overlayfs')
    folder = f'{WORK}/{name}'
    for part in ('', '-lower', '-own', '-dev'):
        os.makedirs(folder + part)
    os.chown(f'{folder}-lower', uid, uid)
    script = f'''set -e
        mount --make-rprivate /
        mount -t tmpfs t {folder}-own; mkdir {folder}-own/u {folder}-own/w; chown {uid}:{uid} {folder}-own/u
        mount -t overlay o -o lowerdir={folder}-lower,upperdir={folder}-own/u,workdir={folder}-own/w {folder}
        mount -t tmpfs t {folder}-dev; mknod {folder}-dev/fuse c 10 229; chmod 666 {folder}-dev/fuse
        mount --bind {folder}-dev/fuse /dev/fuse
        echo there; exec sleep 100000'''
    holder = subprocess.Popen(['unshare', '--mount', 'sh', '-c', script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)  # pylint: disable=consider-using-with
    atexit.register(holder.kill)
    expect('an overlayfs for the state', holder.stdout.readline(), 'there\n')
    return Caisson(['nsenter', f'--mount=/proc/{holder.pid}/ns/mnt', *prefix], folder), f'/proc/{holder.pid}/root{folder}'


def nested_life(c, seen):
    """What must be as on any other file system. seen: the folder as this process can see it."""
    fuse_missing(c)
    expect('doctor', c('doctor', status=None), re.compile(r'overlayfs.*/fuse-overlayfs, since the state directory'))
    c.run('img', 'sh', '-c', 'exit 7', status=7)
    i = c.start('a', 'img', 'sh', '-c', 'test -e /etc/new || { rm -r /usr/share/seed /etc/group && mkdir /usr/share/seed && echo n > /usr/share/seed/new &&'
                ' chmod 4755 /etc/passwd && ln /etc/passwd /etc/hard && echo x > /etc/new; }; echo x >> /root/starts; sleep 1000')
    until('its file', lambda: c('exec', 'a', 'ls', '/root') == 'starts\n')
    server = until('its file system', lambda: servers(c))
    expect('one process serves it', len(server), 1)
    held = [os.readlink(f'/proc/{server[0]}/fd/{fd}') for fd in os.listdir(f'/proc/{server[0]}/fd')]
    expect('it holds nothing of ours', [path for path in held if re.search('socket:|pipe:.*0$|/dev/pts|lock|state.db', path)], [])
    changes = ['A /etc/hard', 'A /etc/new', 'A /root/starts', 'A /usr/share/seed/new', 'C /etc', 'C /etc/passwd', 'C /root', 'C /usr', 'C /usr/share',
               'C /usr/share/seed', 'D /etc/group', 'D /usr/share/seed/file']
    expect('diff while it runs', sorted(c('diff', 'a').splitlines()), changes)
    c('stop', '--timeout', '0', 'a')
    until('its file system ends', lambda: not servers(c))
    expect('diff', sorted(c('diff', 'a').splitlines()), changes)
    expect('cp of one that is stopped', 'new' in c('cp', 'a:/usr/share/seed/new', '-'), True)
    c('start', 'a')
    until('files are kept', lambda: c('exec', 'a', 'sh', '-c', 'grep -c . /root/starts; ls -A /usr/share/seed; ls /etc/group 2>&1 | head -n 1', status=None)
          == "2\nnew\nls: /etc/group: No such file or directory\n")
    c('restart', '--timeout', '0', 'a')
    until('files are kept by a restart', lambda: c('exec', 'a', 'sh', '-c', 'grep -c . /root/starts; ls -A /usr/share/seed', status=None) == '3\nnew\n')
    expect('one process serves it still', len(servers(c)), 1)
    expect('a set-user-id bit and two names', c('exec', 'a', 'stat', '-c', '%a %h', '/etc/hard'), '4755 2\n')
    c('stop', '--timeout', '0', 'a') # nobody freezes one that runs without a cgroup of its own
    c('snapshot', 'create', 'a', 's')
    c('commit', 'a', 'img2')
    c('start', 'a')
    look = 'cd /; ls -A usr/share/seed; ls -A etc; stat -c %h etc/passwd; ls -A / | grep wh'
    expect('the commit', c.run('img2', 'sh', '-c', look, status=1), 'new\nhard\nhostname\nhosts\nnew\npasswd\nresolv.conf\n2\n')
    c.start('b', 'img2', 'sh', '-c', 'rm /etc/hard; rm -r /usr/share/seed; mkdir -p /usr/share/seed/deep; sleep 1000')
    until('its folder', lambda: c('exec', 'b', 'ls', '/usr/share/seed', status=None) == 'deep\n')
    c('stop', '--timeout', '0', 'b')
    c('commit', 'b', 'img3')
    expect('a commit of a commit', c.run('img3', 'sh', '-c', look, status=1), 'deep\nhostname\nhosts\nnew\npasswd\nresolv.conf\n1\n')
    expect('diff over several layers', {'D /etc/hard', 'D /usr/share/seed/new', 'A /usr/share/seed/deep'} <= set(c('diff', 'b').splitlines()), True)
    os.makedirs(f'{WORK}/context', exist_ok=True)
    with open(f'{WORK}/context/Dockerfile', 'w', encoding='ascii') as f:
        f.write('FROM img2 AS one\nRUN rm /etc/hard && rm -r /usr/share/seed && mkdir /usr/share/seed && echo b > /usr/share/seed/built\n'
                'FROM img\nRUN rm /etc/group\nCOPY --from=one /usr/share/seed /copied\nRUN ls -A /copied > /etc/copied\n')
    c('build', '--network', 'none', '-t', 'built', f'{WORK}/context')
    expect('a build', c.run('built', 'sh', '-c', 'ls -A /etc /copied; cat /etc/copied'),
           '/copied:\nbuilt\n\n/etc:\ncopied\nhostname\nhosts\npasswd\nresolv.conf\nbuilt\n')
    c('exec', 'a', 'sh', '-c', 'rm /etc/new; echo g > /etc/group')
    c('stop', '--timeout', '0', 'a')
    c('snapshot', 'restore', 'a', 's')
    c('start', 'a')
    until('the snapshot', lambda: c('exec', 'a', 'sh', '-c', 'ls /etc/new; cat /etc/group 2>&1', status=None)
          == "/etc/new\ncat: can't open '/etc/group': No such file or directory\n")
    os.kill(c.inspect('a')['supervisor_pid'], signal.SIGKILL)
    until('who serves it dies with its supervisor', lambda: not servers(c))
    until('repaired', lambda: c.inspect('a')['state'] == 'exited')
    c('rm', '-f', '--all')
    until('no process is left', lambda: not servers(c))
    expect('nothing is left', [name for part in ('s/instances', 'r/instances', 'r/oci') for name in os.listdir(f'{seen}/{part}')
                               if not name.startswith('@') and os.path.isdir(f'{seen}/{part}')], [])
    expect('supervisors', processes(i), [])


def fuse_life(c):
    """A container that fuse-overlayfs has served once stays with it, on any file system: the kernel does not know its marks."""
    if not shutil.which('fuse-overlayfs') or subprocess.run([*c.prefix, 'test', '-w', '/dev/fuse'], check=False).returncode != 0:
        raise Skip('no fuse-overlayfs, or no right to use it')
    c('create', '--name', 'f', '--network', 'none', 'img', 'sh', '-c', 'rm -r /usr/share/seed; mkdir /usr/share/seed; rm /etc/group; sleep 1000')
    c('cp', '/etc/hostname', 'f:/tmp/h')
    expect('the kernel serves it', os.listdir(f'{c.inspect("f")["directory"]}/work'), ['work'])
    subprocess.run([*c.prefix, 'mkdir', f'{c.inspect("f")["directory"]}/work/fuse'], check=True)
    c('start', 'f')
    until('it has worked', lambda: c('exec', 'f', 'ls', '/etc/group', status=None) == '')
    expect('fuse-overlayfs serves it', len(servers(c)), 1)
    c('stop', '--timeout', '0', 'f')
    expect('diff', sorted(c('diff', 'f').splitlines()), ['A /tmp/h', 'C /etc', 'C /tmp', 'C /usr', 'C /usr/share', 'C /usr/share/seed', 'D /etc/group',
                                                        'D /usr/share/seed/file'])
    c('commit', 'f', 'fuse')
    expect('the commit, by the kernel', c.run('fuse', 'sh', '-c', 'ls -A /usr/share/seed; ls /etc'), 'hostname\nhosts\npasswd\nresolv.conf\n')
    server = c.start('g', 'img', 'sleep', '1000') and servers(c)
    expect('others are the kernel\'s', server, [])
    c('rm', '-f', 'f', 'g')


def health_life(c):
    """A check that takes too long, or is given up, ends inside as well."""
    c.start('h', '--health-cmd', 'exec sleep 12345', '--health-timeout', '100ms', '--health-interval', '100ms', 'img', 'sleep', '1000')
    until('unhealthy', lambda: c.inspect('h')['health'] == 'unhealthy')
    checks = lambda: c('exec', 'h', 'ps').count('sleep 12345')
    until('one check at most', lambda: checks() <= 1)
    for _ in range(3):
        c('update', '--health-timeout', '1m', 'h')
        until('a check', checks)
        c('update', '--health-timeout', '2m', 'h')
    c('update', '--health-cmd', 'none', 'h')
    until('no check', lambda: checks() == 0)
    expect('the container', c('exec', 'h', 'ps').count('sleep 1000'), 1)
    c('rm', '-f', 'h')


def fuse_missing(c):
    """The error names the package."""
    folder = f'{WORK}/few-programs'
    os.makedirs(folder, exist_ok=True)
    for program in ('nsenter', 'unshare', 'setpriv', 'sh', 'newuidmap', 'newgidmap', 'mount', 'mknod', 'chmod'):
        if shutil.which(program) and not os.path.exists(f'{folder}/{program}'):
            os.symlink(shutil.which(program), f'{folder}/{program}')
    before, c.env['PATH'] = c.env['PATH'], folder
    said = c('run', '--rm', '--network', 'none', 'img', 'true', status=None, errors=True)
    c.env['PATH'] = before
    expect('without fuse-overlayfs', said, re.compile(r'^caisson: [^\n]*apt-get install fuse-overlayfs[^\n]*\n$'))


def main(cases):
    """Run the cases that are named on the command line, or all. 77: all were skipped; tools/check counts those of which it is said."""
    wanted = sys.argv[1:] or [case.__name__ for case in cases]
    unknown = set(wanted) - {case.__name__ for case in cases}
    if unknown:
        sys.exit(f'no such case: {" ".join(unknown)}')
    failed = skipped = 0
    atexit.register(shutil.rmtree, WORK, True)
    if os.geteuid() != 0:
        print('skipped: needs root')
        sys.exit(77)
    for case in cases:
        if case.__name__ not in wanted:
            continue
        print(f'--- {case.__name__}', flush=True)
        try:
            case()
        except Skip as e:
            print(f'skipped: {e}', flush=True)
            skipped += 1
        except Exception:  # pylint: disable=broad-except
            traceback.print_exc(file=sys.stdout)
            failed += 1
    sys.exit(1 if failed else 77 if skipped == len(wanted) else 0)
