#!/usr/bin/env python3
"""Bundles that are wrong: bad.py [CASE...]

Each gives one clear error (one line on standard error: the field or object, and the cause), exit code 1, and leaves nothing:
no mount, process, cgroup or state.
"""
import os
import re
import time

import harness
from harness import BASE, Bundle, RUNTIME_NAME, Runtime, Skip, WORK, expect, main, merged, nothing_left, until

ROOMY = RUNTIME_NAME in ('runc', 'crun')  # their words and checks differ: only what is left behind is compared


def refused(what, changes=None, words=None, bundle=None, status=1, left=True):
    """create fails; nothing is left. words: must be in the message."""
    runtime, bundle = Runtime(), bundle or Bundle(changes)
    done = runtime.create(bundle, check=False)
    text = done.stderr
    if not ROOMY:
        expect(f'{what}: status of {text[-300:]!r}', done.returncode, status)
        expect(f'{what}: one line: {text[-300:]}', len(text.strip().splitlines()), 1)
        if words:
            expect(f'{what}: message', text, re.compile(words, re.I))
    elif done.returncode == 0:
        runtime('delete', '--force', bundle.id, check=False)
    if left:
        nothing_left(what, runtime)
    return text


def document(what, text, words=None):
    bundle = Bundle()
    bundle.write(text)
    refused(what, words=words, bundle=bundle)


def documents():
    document('empty', '', 'config.json')
    document('not JSON', '{"ociVersion": ', 'config.json')
    document('an array', '[]')
    document('null', 'null')
    document('nested too deeply', '[' * 100000)
    document('behind the end', '{"ociVersion":"1.0.2"} x')
    document('a NUL', '{"ociVersion":"1.0.2\0"}')
    document('not UTF-8', '{"ociVersion":"\\ud800"}')
    document('too large', '{"ociVersion":"1.0.2","x":"' + 'y' * (9 << 20) + '"}')
    bundle = Bundle()
    os.unlink(os.path.join(bundle.path, 'config.json'))
    refused('no config.json', words='config.json', bundle=bundle)
    os.mkdir(os.path.join(bundle.path, 'config.json'))
    refused('config.json is a folder', words='config.json', bundle=bundle)
    os.rmdir(os.path.join(bundle.path, 'config.json'))
    os.mkfifo(os.path.join(bundle.path, 'config.json'))
    refused('config.json is a pipe', bundle=bundle) if not ROOMY else None
    runtime = Runtime()
    expect('no bundle', runtime('create', '--bundle', '/no/such/bundle', 'x', check=False).returncode, 1)
    nothing_left('documents', runtime)


def versions():
    for version in ('0.9.0', '2.0.0', '1', 'x', '', None, 5):
        refused(f'version {version!r}', {'ociVersion': version}, 'ociVersion|version')
    for version in ('1.0.0', '1.0.2', '1.1.0', '1.2.0', '1.0.2-dev', '1.2.1', '1.3.0'):
        bundle, runtime = Bundle({'ociVersion': version}), Runtime()
        done = runtime.run(bundle, check=False)
        if not ROOMY:
            expect(f'version {version}: {done.stderr}', done.returncode, 0)


WRONG = {
    'ociVersion': 5, 'process': [], 'root': 'rootfs', 'hostname': 7, 'domainname': {}, 'mounts': {}, 'hooks': [], 'annotations': [], 'linux': [],
    'process.terminal': 'yes', 'process.consoleSize': 5, 'process.cwd': 5, 'process.env': 'A=1', 'process.args': 'true', 'process.rlimits': {},
    'process.capabilities': [], 'process.noNewPrivileges': 1, 'process.oomScoreAdj': 'x', 'process.user': 0, 'process.user.uid': 'root',
    'process.user.gid': -1, 'process.user.umask': 'x', 'process.user.additionalGids': 5, 'process.scheduler': 'batch',
    'process.ioPriority': 4, 'process.apparmorProfile': 5, 'process.selinuxLabel': 5, 'root.path': 5, 'root.readonly': 'x',
    'linux.namespaces': {}, 'linux.uidMappings': {}, 'linux.devices': {}, 'linux.cgroupsPath': 5, 'linux.resources': [],
    'linux.seccomp': 'default', 'linux.sysctl': [], 'linux.maskedPaths': '/x', 'linux.readonlyPaths': [5], 'linux.rootfsPropagation': 5,
    'linux.mountLabel': 5, 'linux.personality': 'LINUX', 'linux.intelRdt': 7, 'linux.timeOffsets': [],
    'linux.resources.memory': 5, 'linux.resources.cpu': 'x', 'linux.resources.pids': [], 'linux.resources.devices': {},
    'linux.resources.blockIO': 5, 'linux.resources.hugepageLimits': {}, 'linux.resources.network': [], 'linux.resources.rdma': [],
    'linux.resources.unified': [], 'linux.resources.memory.limit': 'x', 'linux.resources.cpu.shares': -1, 'linux.resources.cpu.cpus': 0,
    'linux.resources.pids.limit': 'many',
}
OUT_OF_RANGE = {
    'process.oomScoreAdj': 1001, 'process.user.uid': 1 << 32, 'process.user.umask': 1 << 20, 'process.args': [], 'process.cwd': 'relative',
    'process.env': [5], 'process.rlimits': [{'type': 'RLIMIT_WRONG', 'soft': 1, 'hard': 1}], 'linux.resources.cpu.quota': 1 << 70,
    'process.ioPriority': {'class': 'IOPRIO_CLASS_BE', 'priority': 8}, 'process.scheduler': {'policy': 'SCHED_NONE'},
    'linux.rootfsPropagation': 'sideways', 'linux.personality': {'domain': 'WINDOWS'}, 'linux.resources.blockIO': {'weight': 70000},
    'linux.namespaces': [{'type': 'colour'}], 'linux.devices': [{'path': '/dev/x', 'type': 'q', 'major': 1, 'minor': 1}],
    'linux.seccomp': {'defaultAction': 'SCMP_ACT_DREAM'}, 'linux.sysctl': {'kernel.hostname': 5},
    'mounts': [{'type': 'tmpfs'}], 'root.path': '', 'linux.resources.hugepageLimits': [{'pageSize': 5, 'limit': 1}],
    'linux.resources.unified': {'memory.max': 5}, 'hooks': {'prestart': [{'args': ['x']}]},
    'linux.resources.devices': [{'allow': True, 'type': 'x', 'access': 'rwm'}],
}


def field(path, value):
    out = value
    for name in reversed(path.split('.')):
        out = {name: out}
    return out


def wrong_fields():
    """Each field with the wrong type, null and out of range: refused before anything is made, and named in the message."""
    for table in (WRONG, OUT_OF_RANGE):
        for path, value in table.items():
            bundle = Bundle()
            node = bundle.config
            *parents, last = path.split('.')
            for parent in parents:
                node = node.setdefault(parent, {})
                node = node if isinstance(node, dict) else {}
            node[last] = value
            bundle.write()
            if not ROOMY:
                refused(f'{path} {str(value)[:50]}', words=re.escape(last.rstrip('s'))[:8], bundle=bundle, left=False)
    nothing_left('wrong fields')


def page_sizes():
    """A size is a number and a unit; one that this machine does not have is an error of the cgroup."""
    for size in ('3QB', '', 'MB', '2M', '0MB', '02MB', '2mb', '../x', '2MB/x', '12345678901MB', '2 MB', '3MB'):
        changes = {'linux': {'resources': {'hugepageLimits': [{'pageSize': size, 'limit': 1 << 21}]}}}
        if not ROOMY:
            refused(f'page size {size!r}', changes, 'pageSize must be|hugetlb')


def missing_fields():
    for path in ('ociVersion', 'process.cwd', 'process.args', 'root.path'):
        refused(f'without {path}', field(path, None), path.rsplit('.', maxsplit=1)[-1])
    for what, changes in (
            ('a mount without destination', {'mounts': [{'type': 'tmpfs', 'source': 'x'}]}),
            ('a namespace without type', {'linux': {'namespaces': [{'path': '/proc/self/ns/net'}]}}),
            ('a device without path', {'linux': {'devices': [{'type': 'c', 'major': 1, 'minor': 3}]}}),
            ('a hook without path', {'hooks': {'poststop': [{'args': ['x']}]}}),
            ('seccomp without an action', {'linux': {'seccomp': {}}}),
            ('a limit without type', {'process': {'rlimits': [{'soft': 1, 'hard': 1}]}}),
            ('a relative hook', {'hooks': {'prestart': [{'path': 'bin/true'}]}})):
        if not ROOMY:
            refused(what, changes)


def contradictions():
    user = [{'type': t} for t in ('pid', 'mount', 'user')]
    one = [{'containerID': 0, 'hostID': 1000, 'size': 1}]
    for what, changes, words in (
            ('the same namespace twice', {'linux': {'namespaces': [{'type': 'mount'}, {'type': 'mount'}]}}, 'namespace'),
            ('joined and new', {'linux': {'namespaces': [{'type': 'mount'}, {'type': 'network'}, {'type': 'network', 'path': '/proc/self/ns/net'}]}},
             'namespace'),
            ('mappings without a user namespace', {'linux': {'uidMappings': one, 'gidMappings': one}}, 'mapping|user'),
            ('a user namespace without mappings', {'linux': {'namespaces': user}, 'hostname': None}, 'mapping|user'),
            ('overlapping mappings', {'hostname': None, 'linux': {'namespaces': user, 'gidMappings': one, 'uidMappings': [
                {'containerID': 0, 'hostID': 0, 'size': 10}, {'containerID': 5, 'hostID': 100, 'size': 10}]}}, 'mapping|uid_map|user'),
            ('a host name without a UTS namespace', {'linux': {'namespaces': [{'type': 'mount'}, {'type': 'pid'}]}}, 'hostname|uts'),
            ('a host sysctl', {'linux': {'sysctl': {'vm.swappiness': '1'}}}, 'sysctl'),
            ('a network sysctl without the namespace', {'linux': {'namespaces': [{'type': 'mount'}, {'type': 'uts'}],
                                                                  'sysctl': {'net.ipv4.ip_forward': '1'}}}, 'sysctl'),
            ('a sysctl outside', {'linux': {'sysctl': {'net/../kernel/domainname': 'x'}}}, 'sysctl'),
            ('time offsets without the namespace', {'linux': {'timeOffsets': {'boottime': {'secs': 5}}}}, 'time'),
            ('masked paths without a mount namespace', {'hostname': None, 'mounts': None, 'linux': {'namespaces': [{'type': 'pid'}]}}, 'mount|mask'),
            ('a namespace file that is none', {'linux': {'namespaces': [{'type': 'mount'}, {'type': 'uts'}, {'type': 'network', 'path': '/dev/null'}]}},
             'network|namespace|/dev/null'),
            ('a namespace of another kind', {'linux': {'namespaces': [{'type': 'mount'}, {'type': 'uts'}, {'type': 'network', 'path': '/proc/self/ns/pid'}]}},
             'network|namespace'),
            ('a namespace that is not there', {'linux': {'namespaces': [{'type': 'mount'}, {'type': 'uts'}, {'type': 'network', 'path': '/no/ns'}]}},
             '/no/ns|network'),
            ('a limit above its hard limit', {'process': {'rlimits': [{'type': 'RLIMIT_NOFILE', 'soft': 20, 'hard': 10}]}}, 'rlimit|NOFILE'),
            ('a limit twice', {'process': {'rlimits': [{'type': 'RLIMIT_NOFILE', 'soft': 1, 'hard': 10}] * 2}}, 'rlimit|NOFILE'),
            ('a reserved memory above the limit', {'linux': {'resources': {'memory': {'limit': 1 << 30, 'swap': 1 << 20}}}}, 'memory|swap'),
            ('weights of a CPU that is not there', {'linux': {'resources': {'cpu': {'cpus': '4000'}}}}, 'cpu'),
            ('a unified key of a controller that is not there', {'linux': {'resources': {'unified': {'nothing.max': '1'}}}}, 'unified|nothing'),
            ('a control file as a cgroup', {'linux': {'cgroupsPath': '/cgroup.procs'}}, 'cgroup')):
        if RUNTIME_NAME in ('runc', 'crun') and what in ('a control file as a cgroup',):
            continue
        if what in ('a limit above its hard limit', 'a limit twice', 'a user namespace without mappings') and ROOMY:
            continue
        refused(what, changes, words)


def bad_roots():
    refused('no root file system', {'root': {'path': 'nothing'}}, 'nothing|root')
    bundle = Bundle({'root': {'path': 'config.json'}})
    refused('a root that is a file', words='root|config.json', bundle=bundle)
    bundle = Bundle({'process': {'args': ['/no/such/program']}})
    runtime = Runtime()
    done = runtime.run(bundle, check=False)
    expect(f'a program that is not there: {done.returncode} {done.stderr!r}', (done.returncode in (1, 127), '/no/such/program' in done.stderr), (True, True))
    bundle = Bundle({'process': {'args': ['/etc']}})
    done = runtime.run(bundle, check=False)
    expect(f'a program that is a folder: {done.returncode} {done.stderr!r}', done.returncode in (1, 126), True)
    bundle = Bundle({'process': {'cwd': '/payload'}})
    done = runtime.run(bundle, check=False)
    expect(f'a cwd that is a file: {done.stderr!r}', done.returncode in (1, 126, 127), True)
    nothing_left('bad roots', runtime)


def bad_mounts():
    mounts = BASE['mounts']
    for what, mount, words in (
            ('an unknown file system', {'destination': '/mnt', 'type': 'nofs', 'source': 'x'}, 'nofs|/mnt'),
            ('a bind of nothing', {'destination': '/mnt', 'type': 'bind', 'source': '/no/such/source', 'options': ['bind']}, '/no/such/source|/mnt'),
            ('an option that is refused', {'destination': '/mnt', 'type': 'tmpfs', 'source': 'x', 'options': ['colour=red']}, '/mnt|colour'),
            ('a bind with an unknown option', {'destination': '/mnt', 'type': 'bind', 'source': '/tmp', 'options': ['bind', 'idmap=uids=0-1-10']}, 'options'),
            ('a file over a folder', {'destination': '/etc', 'type': 'bind', 'source': '/etc/passwd', 'options': ['bind']}, '/etc'),
            ('a mount on /', {'destination': '/', 'type': 'tmpfs', 'source': 'x'}, 'destination|/'),
            ('a mount over procfs', {'destination': '/proc/self', 'type': 'tmpfs', 'source': 'x'}, '/proc')):
        if ROOMY and what in ('a mount on /',):
            continue
        refused(what, {'mounts': mounts + [mount]}, words)
    bundle = Bundle({'mounts': mounts + [{'destination': '/etc/file/below', 'type': 'tmpfs', 'source': 'x'}]})
    bundle.file('/etc/file', 'x')
    refused('a destination below a file', words='/etc/file', bundle=bundle)


def symlinks_stay_inside():
    """Links in the root file system that point out of it: destinations, devices, masked paths and cwd are resolved within it."""
    outside = os.path.join(WORK, 'outside')
    os.makedirs(outside, exist_ok=True)
    for target in (outside, '../../../../../..' + outside):
        bundle = Bundle({'mounts': BASE['mounts'] + [{'destination': '/link/made', 'type': 'tmpfs', 'source': 'x'},
                                                     {'destination': '/dangling', 'type': 'bind', 'source': '/etc/passwd', 'options': ['bind']}],
                         'process': {'cwd': '/link/cwd'},
                         'linux': {'devices': [{'path': '/link/null', 'type': 'c', 'major': 1, 'minor': 3}], 'maskedPaths': ['/link'],
                                   'readonlyPaths': ['/link']}})
        os.symlink(target, os.path.join(bundle.rootfs, 'link'))
        os.symlink(outside + '/dangled', os.path.join(bundle.rootfs, 'dangling'))
        runtime = Runtime()
        runtime.run(bundle, check=False)
        expect(f'nothing made outside by {target}', os.listdir(outside), [])
        nothing_left('links', runtime)


def pipe_for_users():
    """A named pipe in the place of /etc/passwd, where HOME is looked up, is not waited for."""
    runtime, bundle = Runtime(), Bundle(args=['/payload', 'pause'])
    os.mkfifo(os.path.join(bundle.rootfs, 'etc/passwd'))
    if ROOMY:
        raise Skip('runc 1.1 waits')
    runtime.started(bundle)
    expect('exec', runtime('exec', bundle.id, '/report').stdout, re.compile('^env HOME=/$', re.M))
    runtime('delete', '--force', bundle.id)
    nothing_left('pipe', runtime)


def mount_labels():
    """A label with categories has commas. Without SELinux the kernel knows no labels, and says so."""
    if os.path.exists('/sys/fs/selinux/enforce'):
        raise Skip('SELinux is here')
    for label in ('u:r:t:s0', 'u:r:t:s0:c1,c2'):
        refused(f'label {label}', {'linux': {'mountLabel': label}}, 'context')
    refused('label in an option', {'mounts': BASE['mounts'] + [{'destination': '/m', 'type': 'tmpfs', 'source': 'x', 'options': ['context="u:s0:c1,c2"']}]},
            'context')


def bad_hooks():
    for kind in ('prestart', 'createRuntime', 'createContainer'):
        refused(f'{kind} that fails', {'hooks': {kind: [{'path': '/bin/false'}]}}, kind)
        refused(f'{kind} that is not there', {'hooks': {kind: [{'path': '/no/such/hook'}]}}, kind)
        began = time.monotonic()
        refused(f'{kind} that hangs', {'hooks': {kind: [{'path': '/bin/sleep', 'args': ['sleep', '300'], 'env': [harness.MARK], 'timeout': 1}]}}, kind)
        expect(f'{kind} is given up', time.monotonic() - began < 60, True)
    runtime = Runtime()
    bundle = Bundle({'hooks': {'startContainer': [{'path': '/payload', 'args': ['payload', 'exit', '9']}]}}, ['/payload', 'echo', 'payload ran'])
    done = runtime.run(bundle, check=False)
    expect(f'startContainer that fails: {done.stderr}', (done.returncode != 0, 'payload ran' in done.stdout), (True, False))
    runtime('delete', '--force', bundle.id)
    for kind in ('poststart', 'poststop'):
        bundle = Bundle({'hooks': {kind: [{'path': '/bin/false'}]}}, ['/payload', 'pause'])
        runtime.create(bundle, check=not ROOMY)  # runc 1.1 runs poststart here
        done = runtime('start', bundle.id, check=False)
        expect(f'{kind} that fails: {done.stderr}', done.returncode in (0, 1), True)
        runtime('delete', '--force', bundle.id)
        expect('gone', runtime.status(bundle.id), None)
    nothing_left('hooks', runtime)


def many_files():
    """Bundles with more of everything than anybody needs are run, or refused with one line; not a crash."""
    for what, changes in (('mounts', {'mounts': BASE['mounts'] + [{'destination': f'/m/{i}', 'type': 'tmpfs', 'source': 'x'} for i in range(300)]}),
                          ('env', {'process': {'env': [harness.MARK] + [f'V{i}={"x" * 100}' for i in range(5000)]}}),
                          ('args', {'process': {'args': ['/payload', 'true'] + ['y' * 100] * 5000}}),
                          ('annotations', {'annotations': {f'k{i}': 'v' * 100 for i in range(2000)}}),
                          ('masked', {'linux': {'maskedPaths': [f'/none/{i}' for i in range(3000)]}}),
                          ('an endless argument', {'process': {'args': ['/payload', 'true', 'z' * (1 << 20)]}})):
        runtime, bundle = Runtime(), Bundle(changes)
        done = runtime.run(bundle, check=False)
        expect(f'many {what}: {done.stderr[-200:]}', done.returncode in (0, 1, 126), True)
        nothing_left(f'many {what}', runtime)


def broken_state():
    """State files that were damaged: an error, not a crash, and delete --force clears them."""
    runtime, bundle = Runtime(), Bundle(args=['/payload', 'pause'])
    runtime.started(bundle)
    folder = os.path.join(runtime.root, bundle.id)
    names = [n for n in os.listdir(folder) if os.path.isfile(os.path.join(folder, n)) and not os.path.islink(os.path.join(folder, n))]
    kept = {}
    for name in names:
        with open(os.path.join(folder, name), 'rb') as f:
            kept[name] = f.read()
    for damage in (b'', b'{', b'[]', b'{"pid": "x"}', b'\0' * 100, b'{"init_process_pid": -1}'):
        for name in names:
            if not kept[name]:
                continue
            with open(os.path.join(folder, name), 'wb') as f:
                f.write(damage)
            for verb in ('state', 'start', 'pause', 'ps'):
                done = runtime(verb, bundle.id, check=False)
                expect(f'{verb} with {name} {damage[:12]}', done.returncode in (0, 1), True)
            expect('list', runtime('list', check=False).returncode in (0, 1), True)
            with open(os.path.join(folder, name), 'wb') as f:
                f.write(kept[name])
    runtime('delete', '--force', bundle.id)
    nothing_left('broken state', runtime)


CASES = (documents, versions, wrong_fields, page_sizes, missing_fields, contradictions, bad_roots, bad_mounts, symlinks_stay_inside, pipe_for_users,
         mount_labels, bad_hooks, many_files, broken_state)

if __name__ == '__main__':
    main(CASES)
