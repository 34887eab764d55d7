#!/usr/bin/env python3
"""A walk through every verb of the command table, each with its output checked, and README's own walk, whose output must be what
README shows: walk.py vm|container|image|disk|host|readme

VERBS says which case walks which verb. A verb of the table that none walks fails each case, and so does a case that has not walked
one of its own."""
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, 'tests/instance'), os.path.join(ROOT, 'tests/registry')]
import harness # noqa: E402
import vmimage # noqa: E402
from vmimage import BUILD # noqa: E402

CAISSON = os.path.join(BUILD, 'caisson')
MACHINE = os.path.join(BUILD, 'tests/instance/machine.elf')
LIMIT = 300
ID = '[0-9a-f]{12}'
DIGEST = 'sha256:[0-9a-f]{64}'
BOTH = {'start', 'stop', 'restart', 'pause', 'resume', 'kill', 'rm', 'ls', 'inspect', 'console', 'attach', 'logs', 'wait', 'events',
        'rename', 'update', 'exec', 'cp', 'stats', 'snapshot create', 'snapshot ls', 'snapshot inspect', 'snapshot restore',
        'snapshot rm'}
VERBS = {
    'vm': BOTH | {'vm create', 'save', 'clone', 'vm run', 'vm save', 'vm restore', 'disk backup', 'disk backups', 'disk restore'},
    'container': BOTH | {'run', 'create', 'diff', 'port', 'top', 'commit', 'volume create', 'volume ls', 'volume inspect', 'volume rm',
                         'volume prune'},
    'image': {'image import', 'image ls', 'image tag', 'image inspect', 'image history', 'image export', 'image prune', 'image rm',
              'image build', 'image pull', 'image push', 'image login', 'image logout', 'template create', 'template ls',
              'template inspect', 'template rm'},
    'disk': {'disk create', 'disk info', 'disk check', 'disk convert', 'disk resize', 'disk commit', 'disk rebase', 'disk compare',
             'disk map', 'disk snapshot ls', 'disk snapshot create', 'disk snapshot apply', 'disk snapshot rm', 'disk bitmap ls',
             'disk bitmap add', 'disk bitmap rm', 'disk bitmap enable', 'disk bitmap disable', 'disk bitmap clear'},
    'host': {'cpu ls', 'doctor', 'completion', 'autostart', 'network create', 'network ls', 'network inspect', 'network rm',
             'network leases', 'network capture'},
    'readme': set(),
}
USERS = 'me:$2b$05$kfM55JYQHdnS5696x0m0aeqQFi.iFYwGtDLgzP2HNqnOzOyM.zw.y\n' # the password is secret
walked = set()


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def table():
    """The paths of all commands."""
    text = subprocess.run([CAISSON, 'help', 'all'], capture_output=True, text=True, check=True).stdout
    return {line[2:22].strip() for line in text.splitlines() if line.startswith('  ')}


def note(words, paths=None):
    """Which command that is."""
    for n in (3, 2, 1):
        if ' '.join(words[:n]) in (paths or table()):
            walked.add(' '.join(words[:n]))
            return


def walk(command, wanted='', code=0, typed=None):
    """Run a command line; wanted: a pattern for all of its output, blanks at its ends aside; typed: its input."""
    words = command.split() if isinstance(command, str) else list(command)
    done = subprocess.run([CAISSON, *words], input=typed, stdin=subprocess.DEVNULL if typed is None else None, capture_output=True, text=True,
                          timeout=LIMIT, check=False)
    shown = ' '.join(words)
    check(done.returncode == code, f'caisson {shown}: exit code {done.returncode} instead of {code}: {done.stderr!r}')
    said = (done.stdout if code == 0 else done.stderr).strip()
    check(re.fullmatch(wanted, said, re.S), f'caisson {shown} prints {said!r}, not {wanted!r}')
    if code == 0:
        note(words)
    print(f'caisson {shown}', flush=True)
    return said


@contextlib.contextmanager
def beside(command, codes=(0,)):
    """A command that runs while others do; it has ended behind the block. Yields the process."""
    with subprocess.Popen([CAISSON, *command.split()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
            code = process.wait(LIMIT)
            check(code in codes, f'caisson {command}: {code} {process.stderr.read()!r}')
            note(command.split())
            print(f'caisson {command}', flush=True)
        finally:
            process.kill()


def at_terminal(command, sees, keys):
    """A command on a terminal: when it has shown that, the keys are pressed, and it must end with 0."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(CAISSON, [CAISSON, *command.split()])
    text = b''
    while select.select([fd], [], [], LIMIT)[0]:
        try:
            text += os.read(fd, 4096)
        except OSError: # it has ended
            break
        if sees and sees in text:
            os.write(fd, keys)
            sees = None
    os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    check(code == 0 and not sees, f'caisson {command}: {code} {text!r}')
    note(command.split())
    print(f'caisson {command}', flush=True)


def until(condition, what):
    end = time.monotonic() + LIMIT
    while not condition():
        check(time.monotonic() < end, f'never: {what}')
        time.sleep(0.05)


def here(name):
    return os.path.join(os.environ['WALK'], name)


def write(name, text):
    os.makedirs(os.path.dirname(here(name)), exist_ok=True)
    with open(here(name), 'w', encoding='utf-8') as f:
        f.write(text)
    return here(name)


def need_root():
    if os.geteuid() != 0:
        print('skipped: containers are walked through as root')
        sys.exit(77)


def make_vm_image():
    """debian, of a VM."""
    vmimage.make_guest(here('vm-image'), os.path.join(vmimage.guest_cache(), 'disk/root.ext4'), 'console=ttyS0 quiet root=LABEL=caisson-root')
    walk(f'image import --name debian {here("vm-image")}', DIGEST)


def make_busybox():
    """busybox, of a container."""
    busybox = shutil.which('busybox')
    check(busybox, 'busybox is missing: install busybox-static')
    with tarfile.open(here('busybox.tar'), 'w') as tar:
        tar.add(busybox, 'bin/busybox')
        for name in ('sh', 'cat', 'echo', 'ls', 'sleep', 'true', 'uname', 'touch'):
            link = tarfile.TarInfo(f'bin/{name}')
            link.type, link.linkname = tarfile.SYMTYPE, 'busybox'
            tar.addfile(link)
    walk(f'image import --rootfs --name busybox {here("busybox.tar")}', DIGEST)


def both(name, kind):
    """The verbs that do not ask what it is. It runs a shell that has /bin/cat, and prints something at its start."""
    walk(f'start {name}', name)
    walk('ls', rf'NAME +ID +TYPE +STATUS +IMAGE +CREATED\n{name} +{ID} +{kind} +running +.*')
    walk(f'ls -q --type {kind}', name)
    walk(f'{kind} ls -q', name)
    walk(f'inspect {name}', rf'name: +{name}\n.*state: +running\n.*')
    until(lambda: 'READY' in walk(f'logs {name}', '.*'), f'READY in the log of {name}')
    walk(f'exec {name} uname', 'Linux')
    walk(f'cp {write("file", "what is copied")} {name}:/copied')
    walk(f'exec {name} cat /copied', 'what is copied')
    walk(f'cp {name}:/copied {here("back")}')
    with open(here('back'), encoding='ascii') as f:
        check(f.read() == 'what is copied', 'cp from it')
    at_terminal(f'console {name}', b'READY', b'\x1dd')
    walk(f'pause {name}', name)
    walk('ls --format name,state', rf'.*{name} +paused')
    walk(f'unpause {name}', name)
    walk(f'pause {name}', name)
    walk(f'resume {name}', name)
    walk(f'update --label a=b {name}', name)
    walk('ls -q --label a=b', name)
    walk(f'stats --no-stream {name}', rf'.*{name}.*')
    walk(f'snapshot create {name} clean', 'clean')
    walk(f'snapshot ls {name}', rf'INSTANCE +NAME +CREATED +MEMORY\n{name} +clean .*')
    walk(f'snapshot inspect {name} clean', rf'instance: +{name}\n.*')
    walk(f'snapshot restore {name} clean', name)
    walk(f'ls --format state', '.*running')
    walk(f'snapshot rm {name} clean', 'clean')
    walk(f'start {name}', name) # is that of one that runs
    walk(f'start {name}x', r".*no VM or container is called '.*did you mean.*", 3)
    walk(f'rm {name}', rf'.*{name}.*running.*', 4)
    with beside(f'attach --no-stdin {name}', codes=(0, 137, 143)) as attached:
        walk(f'restart -t 0 {name}', name)
        while not select.select([attached.stdout], [], [], 20)[0]: # it was not there yet
            walk(f'restart -t 0 {name}', name)
        walk(f'stop -t 0 {name}', name)
        attached.stdout.read()
    walk(f'wait {name}', '[0-9]+')
    walk(f'start {name}', name)
    walk(f'kill {name}', name)
    walk(f'wait {name}', '137')
    walk('ls --format status', r'.*exited \(137\).*')
    walk(f'rename {name} other', 'other')
    walk(f'rename other {name}', name)
    walk('events --until 0s', r'.*start.*die.*')


def case_vm():
    """A small guest whose agent answers; a machine of a page where the guest does not matter."""
    vmimage.make_guest(here('vm-image'))
    walk(f'image import --name debian {here("vm-image")}', DIGEST)
    walk(['vm', 'create', 'web', '--image', 'debian', '--memory', '256M', '--disk', '80M', '--net', 'none', '--initrd', vmimage.agent_initrd(here('agent')),
          '--append', 'console=ttyS0 quiet caisson.test=agent'], 'web')
    both('web', 'vm')
    walk('start web', 'web')
    walk('save web', 'web')
    walk('ls', '.* saved .*')
    walk('start web', 'web')
    walk('clone web copy', 'copy')
    walk('ls -q', 'web\ncopy')
    walk(f'disk backup web --to {here("backups")}', '.*')
    walk(f'disk backups {here("backups")}', '.*')
    walk(f'disk restore {here("backups")} --disk 0 --to {here("restored.qcow2")}', '.*')
    walk('save web', 'web')
    walk('save --discard web', 'web')
    walk('rm web copy', 'web\ncopy')
    machine = f'--kernel {MACHINE} --memory 16M --engine interp --net none --debug-exit'
    walk(f'vm run {machine} --append exit=0', 'machine up.*')
    with beside(f'vm run {machine} --name small') as running:
        check(running.stdout.readline().startswith(b'machine up'), 'the machine is not up')
        walk(f'vm save small {here("saved.vm")}', '.*')
    walk(f'vm restore {here("saved.vm")}', '.*q0', typed='q0')
    walk('ls -q', '')


def case_container():
    need_root()
    make_busybox()
    walk(['create', '-it', '--name', 'db', 'busybox', 'sh', '-c', 'echo READY; exec sleep 1000'], '.*')
    both('db', 'container')
    walk('rm db', 'db')
    walk('run --rm busybox echo hello', 'hello')
    walk('run --rm busybox sh -c true', '')
    walk('create -i --name echo busybox cat', '.*')
    walk('start echo', 'echo')
    walk('attach echo', 'typed', typed='typed\n')
    walk('rm echo', 'echo')
    with harness.socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    walk(f'run -d --name db -e WORD=kept -p 127.0.0.1:{port}:80 -v things:/data busybox sleep 1000', f'{ID}.*')
    walk('port db', rf'80/tcp -> 127\.0\.0\.1:{port}')
    walk('exec db touch /data/x /made', '')
    walk('diff db', '.*A /made.*')
    walk('top db', '.*sleep 1000')
    walk('volume create more', 'more')
    walk('volume ls', 'NAME +CREATED +USED BY\n.*things +.* db.*')
    walk('volume inspect things', 'name: +things\n.*')
    walk('commit db kept', DIGEST)
    walk('rm -f db', 'db')
    walk('run --rm kept ls /made', '/made')
    walk('volume rm things', 'things')
    walk('volume prune --force', 'more')
    walk('ls -q', '')


def case_image():
    need_root()
    harness.need('docker-registry')
    make_busybox()
    walk('image ls', 'NAME +ID +KIND +CREATED +SIZE\nlocalhost/busybox:latest .* container .*')
    walk('image tag busybox again', '.*')
    walk('image inspect again', '.*localhost/again:latest.*')
    walk('image history again', '.*')
    walk(f'image export --output {here("out.tar")} again', '.*')
    walk('image rm again', '.*again.*')
    walk(f'image import {here("out.tar")}', f'({DIGEST}\n?)+')
    write('context/Containerfile', 'FROM localhost/busybox\nCOPY word /word\nRUN cat /word > /made\nCMD ["cat", "/made"]\n')
    write('context/word', 'built\n')
    walk(f'image build -q --name built --network none {here("context")}', DIGEST)
    walk('run --rm --network none built', 'built')
    users = write('users', USERS) # of htpasswd -B
    registry = harness.Registry(os.environ['WALK'], f'auth: {{htpasswd: {{realm: walk, path: {users}}}}}\n')
    try:
        host = f'127.0.0.1:{registry.port}'
        walk(f'image push built {host}/walk/built:1', '.*login.*', 7)
        walk(f'image login {host} -u me --password-stdin', '.*', typed='secret')
        walk(f'image push built {host}/walk/built:1', '.*')
        walk('image rm built', '.*')
        walk(f'image pull -q {host}/walk/built:1', DIGEST)
        walk(f'image logout {host}', '.*')
        walk(f'run --rm --network none {host}/walk/built:1', 'built')
    finally:
        registry.stop()
    walk('template create words busybox -- -e A=templated --network none', 'words')
    walk('template ls', 'NAME +.*\nwords .*')
    walk('template inspect words', 'name: +words\n.*')
    walk(['run', '--rm', '--template', 'words', 'sh', '-c', 'echo $A'], 'templated')
    walk('template rm words', 'words')
    walk('image rm busybox again', '.*')
    walk('image prune --all', '.*')
    walk('image ls -q', '')


def case_disk():
    a, b = here('a.qcow2'), here('b.qcow2')
    walk(f'disk create {a} 8M', '.*')
    walk(f'disk create {b} --backing {a}', '.*')
    walk(f'disk info --chain {b}', f'.*{re.escape(b)}.*{re.escape(a)}.*')
    walk(f'disk resize {b} +8M', '.*')
    walk(f'disk info {b}', '.*16(.0)? MiB.*')
    walk(f'disk check {b}', '.*')
    walk(f'disk map {b}', '.*')
    walk(f'disk snapshot create {b} early', '.*')
    walk(f'disk snapshot ls {b}', '.*early.*')
    walk(f'disk snapshot apply {b} early', '.*')
    walk(f'disk snapshot rm {b} early', '.*')
    for verb in ('add', 'disable', 'enable', 'clear', 'ls', 'rm'):
        walk(f'disk bitmap {verb} {b}' + ('' if verb == 'ls' else ' changes'), '.*changes.*' if verb == 'ls' else '.*')
    walk(f'disk convert --format raw {b} {here("c.raw")}', '.*')
    walk(f'disk compare {b} {here("c.raw")}', '.*')
    walk(f'disk create {here("other.qcow2")} 16M', '.*')
    walk(f'disk rebase --backing {here("other.qcow2")},format=qcow2 {b}', '.*')
    walk(f'disk commit {b}', '.*')
    walk(f'disk compare {here("other.qcow2")} {here("c.raw")}', '.*')


def case_host():
    need_root()
    make_busybox()
    walk('cpu ls', '.*x86-64-v3 .*')
    walk('doctor', '.*')
    for shell in ('bash', 'zsh', 'fish'):
        walk(f'completion {shell}', '.*__complete.*')
    os.environ['CAISSON_SYSTEMD_DIR'] = here('units')
    os.mkdir(here('units'))
    walk('autostart enable', r'.*\.service')
    walk('autostart status', 'enabled')
    walk('autostart print', '.*start --all --boot.*')
    walk('autostart disable', '.*')
    walk('network create inner --mode isolated', 'inner')
    walk('network ls', 'NAME +MODE .*inner +isolated .*')
    walk('run -d --name one --network inner busybox sleep 1000', f'{ID}.*')
    walk('network inspect inner', 'name: +inner\n.*state: +running\n.*')
    walk('network leases inner', 'IP +MAC .*')
    with beside(f'network capture inner --write {here("packets.pcap")}') as capture:
        until(lambda: os.path.exists(here('packets.pcap')) and os.path.getsize(here('packets.pcap')) >= 24, 'a capture that has begun')
        capture.send_signal(signal.SIGINT)
    walk('network rm inner', '.*inner.*', 4)
    walk('rm -f one', 'one')
    walk('network rm inner', 'inner')


# ---- README ----

def plain(text):
    """What of an output does not depend on the day and the machine."""
    text = re.sub(r'\d{4}-\d\d-\d\dT[\d:.]+Z', 'TIME', text)
    text = re.sub(r'\b(now|\d+ (second|minute|hour|day)s? ago)', 'AGO', text)
    text = re.sub(r'\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b', 'ID', text)
    text = re.sub(r'\d+(\.\d+)? ([KMG]i)?B\b', 'SIZE', text)
    return re.sub(r'[ \t]+', ' ', text).strip()


def case_readme():
    """The section "Day by day": each command prints what stands below it. ... stands for any lines."""
    need_root()
    make_vm_image()
    make_busybox()
    with open(os.path.join(ROOT, 'README.md'), encoding='utf-8') as f:
        section = re.search(r'^## Day by day$(.*?)^## ', f.read(), re.S | re.M)
    check(section, 'README has no section "Day by day"')
    lines = [line[4:] for line in section[1].splitlines() if line.startswith('    ')]
    commands = '\n'.join(lines).split('$ ')[1:]
    check(len(commands) >= 10, f'{len(commands)} commands in README')
    for text in commands:
        command, _, shown = text.partition('\n')
        command = re.sub(r'\s+#.*', '', command)
        done = subprocess.run(command, shell=True, cwd=os.environ['WALK'], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=LIMIT, env={**os.environ, 'PATH': BUILD + ':' + os.environ['PATH']}, check=False)
        check(done.returncode == 0 and not done.stderr, f'{command}: {done.returncode} {done.stderr!r}')
        wanted = '.*'.join(re.escape(plain(part)) for part in shown.split('...'))
        check(re.fullmatch(wanted, plain(done.stdout), re.S), f'{command} prints\n{done.stdout}\nREADME has\n{shown}')
        print(command, flush=True)


def main():
    case = sys.argv[1]
    folder = tempfile.mkdtemp(prefix='csn-')
    os.environ.update(CAISSON_STATE_DIR=os.path.join(folder, 's'), CAISSON_RUNTIME_DIR=os.path.join(folder, 'r'), WALK=folder,
                      REGISTRY_AUTH_FILE=os.path.join(folder, 'auth.json'))
    os.environ.pop('NO_COLOR', None)
    try:
        known = set().union(*VERBS.values())
        check(known == table(), f'no case walks {sorted(table() - known)}, and {sorted(known - table())} are no commands')
        globals()[f'case_{case}']()
        check(VERBS[case] <= walked, f'not walked: {sorted(VERBS[case] - walked)}')
    except Failure as e:
        print(f'{case}: {e}')
        return 1
    finally:
        rows = subprocess.run([CAISSON, 'ls', '--json'], capture_output=True, text=True, check=False).stdout
        names = [row['name'] for row in json.loads(rows or '[]')]
        if names:
            subprocess.run([CAISSON, 'rm', '-f', *names], stdout=subprocess.DEVNULL, check=False)
        subprocess.run([CAISSON, 'network', 'rm', '--force', 'default'], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)
    print(f'{case}: ok, {len(walked)} verbs')
    return 0


if __name__ == '__main__':
    sys.exit(main())
