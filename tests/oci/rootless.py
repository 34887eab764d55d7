#!/usr/bin/env python3
"""Containers of a user without rights, with one id and with a range of /etc/subuid: rootless.py [CASE...]

The program is started by root and runs the runtime as the user 65534 (setpriv). /etc/subuid is ours in a mount namespace.
"""
import json
import os
import re
import shutil
import subprocess
import sys

from harness import Bundle, GROUP, MARK, Runtime, Skip, WORK, expect, groups_left, hierarchies, main, nothing_left

USER = 65534
AS_USER = ['setpriv', f'--reuid={USER}', f'--regid={USER}', '--clear-groups']


class UserRuntime(Runtime):
    def __init__(self):
        super().__init__()
        os.chown(self.root, USER, USER)

    def command(self, *args):
        return [*AS_USER, *super().command(*args)]


def owned(bundle):
    for path, _, _ in os.walk(bundle.path):
        os.chown(path, USER, USER)
    return bundle


def template(runtime, args, uid_mappings=None, gid_mappings=None, user=None):
    """A bundle with what `spec --rootless` says."""
    bundle = Bundle()
    folder = os.path.join(bundle.path, 'template')
    os.mkdir(folder)
    os.chown(folder, USER, USER)
    runtime('spec', '--rootless', '--bundle', folder, cwd='/')
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
        spec = json.load(f)
    expect('mapping of the template', (spec['linux']['uidMappings'][0]['hostID'], spec['linux']['gidMappings'][0]['hostID']), (USER, USER))
    spec['process'] |= {'terminal': False, 'args': args, 'env': [MARK]}
    spec['linux'].pop('cgroupsPath', None)
    if uid_mappings:
        spec['linux'] |= {'uidMappings': uid_mappings, 'gidMappings': gid_mappings}
    if user:
        spec['process']['user'] = user
    bundle.config = spec
    bundle.write()
    return owned(bundle)


def possible():
    done = subprocess.run([*AS_USER, 'unshare', '--user', '--map-root-user', '--pid', '--fork', '--mount-proc', 'true'], check=False, capture_output=True)
    if done.returncode != 0:
        raise Skip(f'a user may not make namespaces here: {done.stderr.decode().strip()}')


def one_id():
    possible()
    runtime = UserRuntime()
    bundle = template(runtime, ['/report', 'call:mount'])
    lines = runtime.run(bundle, cwd='/').stdout.splitlines()
    for wanted in ('uid 0 0 0', 'gid 0 0 0', 'setgroups deny', 'pid 1'):
        expect(f'rootless: {wanted}', wanted in lines, True)
    expect('map', any(re.match(rf'uid_map +0 +{USER} +1$', line) for line in lines), True)
    nothing_left('one id', runtime)


def life():
    possible()
    runtime = UserRuntime()
    bundle = template(runtime, ['/payload', 'pause'])
    runtime.create(bundle, cwd='/')
    expect('created', runtime.status(bundle.id), 'created')
    runtime('start', bundle.id)
    expect('list', runtime('list', '-q').stdout.split(), [bundle.id])
    runtime('kill', bundle.id, 'KILL')
    runtime.stopped(bundle.id)
    runtime('delete', bundle.id)
    nothing_left('rootless life', runtime)


def enter():
    """exec: into the user namespace, and by it into the others; its status, its output, a terminal, a process that lives on."""
    possible()
    runtime = UserRuntime()
    bundle = template(runtime, ['/payload', 'pause'])
    runtime.create(bundle, cwd='/')
    runtime('start', bundle.id)
    expect('exec', runtime('exec', bundle.id, '/payload', 'echo', 'inside', cwd='/').stdout, 'inside\n')
    expect('status', runtime('exec', bundle.id, '/payload', 'exit', '7', check=False, cwd='/').returncode, 7)
    expect('no program', runtime('exec', bundle.id, '/nothing', check=False, cwd='/').returncode, 255)
    first = f'/proc/{runtime.state(bundle.id)["pid"]}/ns/'
    lines = runtime('exec', bundle.id, '/report', cwd='/').stdout.splitlines()
    for wanted in ('uid 0 0 0', 'setgroups deny', *(f'ns {name} {os.readlink(first + name)}' for name in ('user', 'pid', 'mnt', 'uts', 'ipc'))):
        expect(f'exec: {wanted}', wanted in lines, True)
    pid_file = os.path.join(runtime.root, 'pid')
    runtime('exec', '--detach', '--pid-file', pid_file, bundle.id, '/payload', 'pause', cwd='/')
    with open(pid_file, encoding='ascii') as f:
        pid = f.read()
    expect('the pid is that of the process', os.readlink(f'/proc/{pid}/ns/pid'), os.readlink(first + 'pid'))
    os.unlink(pid_file)
    runtime('delete', '--force', bundle.id)
    nothing_left('rootless exec', runtime)


def limits_without_rights():
    """A limit that cannot be set is an error, not a wish."""
    possible()
    runtime = UserRuntime()
    bundle = template(runtime, ['/payload', 'true'])
    bundle.config['linux']['resources'] = {'memory': {'limit': 64 << 20}}
    bundle.write()
    done = runtime.run(bundle, check=False, cwd='/')
    expect(f'memory limit without a delegated group: {done.stderr}', (done.returncode, bool(done.stderr)), (1, True))
    nothing_left('limits', runtime)


def delegated():
    """In groups that root has given to the user, limits apply as for root."""
    possible()
    runtime = UserRuntime()
    bundle = template(runtime, ['/payload', 'pause'])
    bundle.config['linux']['resources'] = {'pids': {'limit': 33}, 'memory': {'limit': 64 << 20}}
    bundle.write()
    moves = []
    for kind, top in hierarchies():
        folder = top + GROUP + '/user'
        os.makedirs(folder)
        if 'cpuset' in kind:
            for name in ('cpuset.cpus', 'cpuset.mems'):
                for below in (GROUP, GROUP + '/user'):
                    with open(f'{top}/{name}', encoding='ascii') as whole, open(f'{top}{below}/{name}', 'w', encoding='ascii') as part:
                        part.write(whole.read())
        os.chown(folder, USER, USER)
        for name in os.listdir(folder):
            os.chown(os.path.join(folder, name), USER, USER)
        moves.append(f'echo $$ >{folder}/cgroup.procs')
    # A caller in the user's groups, as in a session of his: v2 lets him move processes between groups that are both his.
    plain = runtime.command
    runtime.command = lambda *args: ['sh', '-c', ' && '.join(moves) + ' && exec "$@"', 'sh', *plain(*args)]
    runtime.run(bundle, '--detach', cwd='/')
    pid = runtime.state(bundle.id)['pid']
    with open(f'/proc/{pid}/cgroup', encoding='ascii') as f:
        groups = {line.split(':')[1]: line.strip().split(':', 2)[2] for line in f}
    for name, file, value in (('pids', 'pids.max', '33'), ('memory', 'memory.limit_in_bytes', str(64 << 20))):
        if name not in groups:
            continue
        top = next(top for kind, top in hierarchies() if name in kind.split(','))
        expect(f'{name} below the user\'s group', groups[name].startswith(f'{GROUP}/user/'), True)
        with open(f'{top}{groups[name]}/{file}', encoding='ascii') as f:
            expect(file, f.read().strip(), value)
    expect('exec', runtime('exec', bundle.id, '/payload', 'echo', 'inside', cwd='/').stdout, 'inside\n')
    expect('update', runtime('update', '--pids-limit', '44', bundle.id, cwd='/').returncode, 0)
    runtime('pause', bundle.id, cwd='/')
    expect('pause', runtime.status(bundle.id), 'paused')
    runtime('resume', bundle.id, cwd='/')
    runtime('delete', '--force', bundle.id, cwd='/')
    expect('its groups have gone', [g for g in groups_left() if not g.endswith('/user')], [])
    for _, top in hierarchies():
        os.rmdir(top + GROUP + '/user')
    nothing_left('delegated', runtime)


def ranges():
    """newuidmap and newgidmap of Debian's uidmap, with a range for this user."""
    possible()
    if not shutil.which('newuidmap'):
        raise Skip('no newuidmap: apt-get install uidmap')
    if os.environ.get('OCI_SUBUID') != 'yes':
        for name in ('subuid', 'subgid'):
            with open(os.path.join(WORK, name), 'w', encoding='ascii') as f:
                f.write(f'{USER}:300000:5000\n')
        script = f'mount --bind {WORK}/subuid /etc/subuid && mount --bind {WORK}/subgid /etc/subgid && exec "$@"'
        done = subprocess.run(['unshare', '-m', 'sh', '-c', script, 'sh', sys.executable, os.path.abspath(__file__), 'ranges'], check=False,
                              env={**os.environ, 'OCI_SUBUID': 'yes'}, stdin=subprocess.DEVNULL)
        expect('in a mount namespace with our /etc/subuid', done.returncode, 0)
        return
    runtime = UserRuntime()
    mappings = [{'containerID': 0, 'hostID': USER, 'size': 1}, {'containerID': 1, 'hostID': 300000, 'size': 4000}]
    bundle = template(runtime, ['/report'], mappings, mappings, {'uid': 33, 'gid': 44, 'additionalGids': [55]})
    lines = runtime.run(bundle, cwd='/').stdout.splitlines()
    for wanted in ('uid 33 33 33', 'gid 44 44 44', 'groups 55'):
        expect(f'range: {wanted}', wanted in lines, True)
    expect('map', any(re.match(r'uid_map +1 +300000 +4000$', line) for line in lines), True)
    wrong = [{'containerID': 0, 'hostID': USER, 'size': 1}, {'containerID': 1, 'hostID': 400000, 'size': 10}]
    done = runtime.run(template(runtime, ['/payload', 'true'], wrong, wrong), check=False, cwd='/')
    expect(f'a range of somebody else: {done.stderr}', (done.returncode, bool(done.stderr)), (1, True))
    nothing_left('ranges', runtime)


CASES = (one_id, life, enter, limits_without_rights, delegated, ranges)

if __name__ == '__main__':
    main(CASES)
