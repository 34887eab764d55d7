"""What of Caisson is there on this machine, and what should not be: processes, mounts, control groups, frozen ones, sockets,
files, jobs, disks. The test has a network namespace of its own, so that all sockets and interfaces in it are its own."""
import contextlib
import glob
import json
import os
import socket
import sqlite3
import subprocess

MARK = f'7{os.getpid():07d}' # in the command line of every payload: how long it sleeps
ALIVE = ('running', 'paused')
GROUPS = ('/sys/fs/cgroup/caisson-*', '/sys/fs/cgroup/*/caisson-*')


def state(*parts):
    return os.path.join(os.environ['CAISSON_STATE_DIR'], *parts)


def runtime(*parts):
    return os.path.join(os.environ['CAISSON_RUNTIME_DIR'], *parts)


def words_of(path):
    with open(path, 'rb') as f:
        return f.read().decode(errors='replace').split('\0')


def pids():
    return {pid for pid in os.listdir('/proc') if pid.isdigit()}


def processes(known=frozenset()):
    """{pid: (program or 'payload', id of its instance or '')} of this test, but those known; those that have ended are none."""
    found = {}
    for pid in pids() - known:
        with contextlib.suppress(OSError):
            words = words_of(f'/proc/{pid}/cmdline')
            program = os.path.basename(words[0])
            if any(MARK in word for word in words[1:]) and not program.startswith('caisson'):
                found[int(pid)] = ('payload', instance_of(pid))
            elif program.startswith('caisson') or not program:
                env = words_of(f'/proc/{pid}/environ')
                if f'CAISSON_STATE_DIR={state()}' in env:
                    mine = [word[17:] for word in env if word.startswith('CAISSON_INSTANCE=')]
                    of = mine[0] if mine else after(words, '--id')
                    found[int(pid)] = (program, of if program != 'caisson-switch' else '') # that is of all instances of its network
    return found


def after(words, option):
    return words[words.index(option) + 1] if option in words[:-1] else ''


def instance_of(pid):
    """By its control group: a payload has the environment of its image."""
    with open(f'/proc/{pid}/cgroup', encoding='utf-8') as f:
        text = f.read()
    return text.split('/caisson-', 1)[1][:12] if '/caisson-' in text else ''


def names_below(folder):
    return sorted(os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder) for name in names)


def listing(folder):
    return set(os.listdir(folder)) if os.path.isdir(folder) else set()


def groups():
    return {path for pattern in GROUPS for path in glob.glob(pattern)}


def frozen(short):
    for path, word in ((f'/sys/fs/cgroup/freezer/caisson-{short}/freezer.state', 'FROZEN'),
                       (f'/sys/fs/cgroup/caisson-{short}/cgroup.freeze', '1')):
        with contextlib.suppress(OSError):
            with open(path, encoding='ascii') as f:
                return f.read().strip() == word
    return False


def untrue(rows, found):
    """Where the rows do not say what is. rows: of inspect; found: processes()."""
    wrong = []
    for name, row in rows.items():
        mine = sorted(kind for kind, of in found.values() if of and row['id'].startswith(of[:12]) and kind != 'caisson-oci')
        payload = 'caisson-vmm' if row['type'] == 'vm' else 'payload'
        want = [['caisson-shim', payload], [payload, 'caisson-shim']] if row['state'] in ALIVE else [[]]
        if mine not in want:
            wrong.append(f'{name} is {row["state"]} and has the processes {mine}')
        if row['type'] == 'container' and frozen(row['id'][:12]) != (row['state'] == 'paused'):
            wrong.append(f'{name} is {row["state"]} and {"" if frozen(row["id"][:12]) else "not "}frozen')
    return wrong


def left(rows, found, ids):
    """What belongs to nothing that is listed. ids: of all instances that ever were."""
    there = {row['id'] for row in rows.values()}
    alive = {row['id'] for row in rows.values() if row['state'] in ALIVE}
    short = {i[:12] for i in alive}
    wrong = [f'process {pid}: {kind} of {of or "nothing"}' for pid, (kind, of) in found.items()
             if kind != 'caisson-switch' and of[:12] not in short]
    with open('/proc/self/mountinfo', encoding='utf-8') as f:
        wrong += [f'mount {line.split()[4]}' for line in f if os.path.dirname(state()) in line]
    wrong += [f'control group {path}' for path in groups() if any(path.endswith(i[:12]) for i in ids - alive)]
    wrong += [f'folder of an instance {i}' for i in listing(state('instances')) ^ there]
    for name in listing(runtime('instances')):
        kept = name in {i[:12] for i in there} and not names_below(runtime('instances', name)) # an empty folder is nothing
        wrong += [f'runtime/instances/{name}'] if name.split('.')[0] not in short and not kept else []
    wrong += [f'runtime/oci/{name}' for name in listing(runtime('oci')) if not name.startswith('@') and name[:12] not in short]
    wrong += [f'runtime/vm/{name}' for name in listing(runtime('vm')) if name.split('.')[0] not in {n for n in rows if rows[n]['id'] in alive}]
    wrong += [f'temporary file {name}' for name in listing(os.environ['TMPDIR'])]
    with contextlib.closing(sqlite3.connect(state('state.db'))) as db:
        wrong += [f'job {row}' for row in db.execute('SELECT verb, object FROM jobs') if row[1] not in alive]
        serials = {str(row[0]) for row in db.execute('SELECT serial FROM jobs')}
    return wrong + [f'runtime/job/{name}' for name in listing(runtime('job')) if name.split('.')[0] not in serials]


def wrong_disk(row, snapshots):
    """A VM that does not run: its disk has the snapshots that are listed, its folder what belongs to it."""
    disk = os.path.join(row['directory'], 'disk1.qcow2')
    info = json.loads(subprocess.run(['qemu-img', 'info', '--output=json', disk], capture_output=True, text=True, check=True).stdout)
    tags, kept = {s['name'] for s in info.get('snapshots', [])}, {s['tag'] for s in snapshots}
    checked = subprocess.run(['qemu-img', 'check', disk], capture_output=True, text=True, check=False)
    memories = {name for name in listing(os.path.join(row['directory'], 'snapshots')) if name.endswith('.vm')}
    wrong = [] if tags == kept else [f'its disk has the snapshots {tags}, listed are {kept}']
    wrong += [] if checked.returncode in (0, 3) else [checked.stdout] # leaked clusters cost space only
    wrong += [f'{name} is left of a snapshot' for name in memories - {f'{tag}.vm' for tag in kept}]
    if os.path.exists(os.path.join(row['directory'], 'memory.vm')) != (row['state'] == 'saved'):
        wrong.append(f'it is {row["state"]}, and memory.vm says otherwise')
    if os.path.exists(os.path.join(row['directory'], 'memory.run')):
        wrong.append('memory.run is left')
    return [f'{row["name"]}: {text}' for text in wrong]


def wrong_end():
    """When all has been removed: nothing but the database, caches and empty folders. Networks end some seconds after their last
    port."""
    wrong = [f'process {pid}: {kind}' for pid, (kind, _) in processes().items()]
    wrong += [f'runtime/{name}' for name in names_below(runtime()) if not name.startswith(('oci/@', 'net/default.start'))]
    wrong += [f'state/{name}' for name in names_below(state()) if not name.startswith(('state.db', 'net/default.', 'images/lock'))]
    wrong += [f'interface {name}' for _, name in socket.if_nameindex() if name != 'lo']
    with open('/proc/net/unix', encoding='utf-8') as f:
        wrong += [f'socket {line.split()[-1]}' for line in f if os.path.dirname(state()) in line or '@caisson' in line]
    for table in ('tcp', 'udp', 'tcp6', 'udp6'):
        with open(f'/proc/net/{table}', encoding='ascii') as f:
            wrong += [f'{table} {line.split()[1]}' for line in f if line.split()[3] in ('0A', '07')]
    with contextlib.closing(sqlite3.connect(state('state.db'))) as db:
        wrong += [f'database: {row}' for row in db.execute('PRAGMA integrity_check') if row != ('ok',)]
        wrong += [f'job {row}' for row in db.execute('SELECT verb, object FROM jobs')]
    return wrong
