#!/usr/bin/env python3
"""The verbs of an OCI runtime, one after the other, with their states, output and exit codes: lifecycle.py [CASE...]"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile

from harness import (Bundle, MARK, RUNTIME_NAME, Runtime, Skip, WORK, expect, groups_left, hierarchies, main, nothing_left, processes,
                     until)

PAUSE = ['/payload', 'pause']


def verbs():
    """create, start, kill, delete, and what each says and refuses on the way."""
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    pid_file = os.path.join(WORK, 'pid')
    runtime.create(bundle, '--pid-file', pid_file)
    state = runtime.state(bundle.id)
    expect('id', state['id'], bundle.id)
    expect('status after create', state['status'], 'created')
    expect('bundle', state['bundle'], bundle.path)
    expect('version', state['ociVersion'], re.compile(r'^1\.\d+\.\d+'))
    with open(pid_file, encoding='ascii') as f:
        expect('pid file', f.read(), str(state['pid']))
    expect('process is there', os.path.exists(f'/proc/{state["pid"]}'), True)
    expect('no second of that name', runtime.create(bundle, check=False).returncode, 1)
    expect('delete of a created one without force', runtime('delete', bundle.id, check=False).returncode in (0, 1), True)
    if runtime.status(bundle.id) is None:  # runc kills and deletes a container that was never started
        runtime.create(bundle)
    runtime('start', bundle.id)
    expect('status after start', runtime.status(bundle.id), 'running')
    expect('no second start', runtime('start', bundle.id, check=False).returncode, 1)
    expect('no delete of a running one', runtime('delete', bundle.id, check=False).returncode, 1)
    expect('still running', runtime.status(bundle.id), 'running')
    until('handler of SIGTERM', lambda: has_handler(runtime.state(bundle.id)['pid'], signal.SIGTERM))
    runtime('kill', bundle.id, 'TERM')
    runtime.stopped(bundle.id)
    state = runtime.state(bundle.id)
    expect('pid of a stopped one', state.get('pid', 0), 0)
    done = runtime('kill', bundle.id, 'TERM', check=False)
    expect('kill of a dead one', (done.returncode, bool(done.stderr)), (1, True))
    expect('start of a dead one', runtime('start', bundle.id, check=False).returncode, 1)
    runtime('delete', bundle.id)
    for verb in ('state', 'start', 'delete', 'ps', 'pause', 'resume'):
        done = runtime(verb, bundle.id, check=False)
        expect(f'{verb} of none', (done.returncode, done.stderr.count('\n') <= 2), (1, True))
    expect('delete --force of none', runtime('delete', '--force', bundle.id, check=False).returncode, 0)
    nothing_left('verbs', runtime)


def has_handler(pid, sig):
    with open(f'/proc/{pid}/status', encoding='ascii') as f:
        caught = int(re.search(r'SigCgt:\s*(\w+)', f.read()).group(1), 16)
    return bool(caught & 1 << sig - 1)


def ids():
    """Names that may not be: none may reach the file system."""
    runtime, bundle = Runtime(), Bundle()
    for name in ('', '.', '..', '../x', 'a/b', 'a b', 'ä', 'x' * 1025, '-'.join(['y' * 200] * 3) + '/'):
        done = runtime('create', '--bundle', bundle.path, '--', name, check=False)
        expect(f'create of {name[:20]!r}', (done.returncode, done.stdout), (1, ''))
        expect(f'state of {name[:20]!r}', runtime('state', '--', name, check=False).returncode, 1)
        expect(f'delete of {name[:20]!r}', runtime('delete', '--', name, check=False).returncode, 1)
    bundle.id = 'A_b+c-d.9'
    runtime.run(bundle)
    nothing_left('ids', runtime)


def run_status():
    """run passes the payload's status and output on, and cleans up."""
    runtime = Runtime()
    for act, wanted in ((['exit', '7'], 7), (['true'], 0), (['exit', '255'], 255)):
        bundle = Bundle(args=['/payload', *act])
        expect(f'run {act}', runtime.run(bundle, check=False).returncode, wanted)
        nothing_left(f'run {act}', runtime)
    bundle = Bundle(args=['/payload', 'die', '11'])
    expect('run of one that dies of a fault', runtime.run(bundle, check=False).returncode in (128 + 11, 128 + 4), True)
    bundle = Bundle(args=['/payload', 'echo', 'hello', 'there'])
    expect('output', runtime.run(bundle).stdout, 'hello there\n')
    bundle = Bundle(args=['/payload', 'cat'])
    with tempfile.TemporaryFile() as f:
        f.write(b'from outside\n')
        f.seek(0)
        expect('input', runtime.run(bundle, stdin=f).stdout, 'from outside\n')
    bundle = Bundle(args=['/payload', 'exit', '3'])
    runtime.run(bundle, '--keep', check=False)
    expect('run --keep keeps', runtime.status(bundle.id), 'stopped')
    runtime('delete', bundle.id)
    bundle = Bundle(args=PAUSE)
    runtime.run(bundle, '--detach')
    expect('run --detach', runtime.status(bundle.id), 'running')
    runtime('delete', '--force', bundle.id)
    nothing_left('run', runtime)


def run_forwards_signals():
    runtime, bundle = Runtime(), Bundle(args=['/payload', 'trap', '1', '2', '12'])
    out = os.path.join(WORK, 'trapped')
    with open(out, 'wb') as f:
        child = subprocess.Popen(runtime.command('run', '--bundle', bundle.path, bundle.id), stdin=subprocess.DEVNULL, stdout=f)

    def said():
        with open(out, encoding='ascii') as f:
            return f.read().splitlines()
    until('payload', lambda: 'ready' in said())
    for sig in (1, 2, 12):
        child.send_signal(sig)
        until(f'signal {sig} inside', lambda sig=sig: f'got {sig:02}' in said())
    child.send_signal(signal.SIGTERM)
    expect('status after SIGTERM', child.wait(20), 15)
    nothing_left('signals', runtime)


def kill_at_once():
    """A signal right behind start is not lost: a first process gets those only that it handles, and it has to set that up."""
    runtime, bundle = Runtime(), Bundle(args=['/payload', 'late', '150', '10'])
    out = os.path.join(WORK, 'late')
    with open(out, 'wb') as f:
        runtime.create(bundle, stdout=f)
    runtime('start', bundle.id)
    runtime('kill', bundle.id, 'USR1')

    def said():
        with open(out, encoding='ascii') as f:
            return f.read()
    until('the signal', lambda: 'got 10' in said())
    runtime('delete', '--force', bundle.id)
    nothing_left('kill at once', runtime)


def kill_signals():
    """Signals by number and by name; --all."""
    runtime = Runtime()
    for name, number in (('HUP', 1), ('SIGINT', 2), ('12', 12), ('usr1', 10)):
        bundle = Bundle(args=['/payload', 'trap', str(number)])
        out = os.path.join(WORK, f'out-{number}')
        with open(out, 'wb') as f:
            runtime('run', '--detach', '--bundle', bundle.path, bundle.id, stdout=f)

        def said(out=out):
            with open(out, encoding='ascii') as f:
                return f.read().splitlines()
        until('payload', lambda said=said: 'ready' in said())
        runtime('kill', bundle.id, name)
        until(f'signal {name}', lambda said=said, number=number: f'got {number:02}' in said())
        runtime('kill', bundle.id, 'KILL')
        runtime.stopped(bundle.id)
        runtime('delete', bundle.id)
    bundle = Bundle(args=['/payload', 'stubborn'])
    runtime.started(bundle)
    for wrong in ('NONE', '65', '-1', '0x9', 'SIG'):
        expect(f'kill {wrong!r}', runtime('kill', '--', bundle.id, wrong, check=False).returncode, 1)
    runtime('kill', bundle.id, '0')  # only asks
    runtime('kill', bundle.id, 'sigcont')
    expect('still there', runtime.status(bundle.id), 'running')
    runtime('kill', '--all', bundle.id, '9')
    runtime.stopped(bundle.id)
    expect('nobody there', runtime('kill', bundle.id, '0', check=False).returncode, 1)
    runtime('delete', bundle.id)
    nothing_left('kill', runtime)


def kill_all():
    """Without a PID namespace of its own, what a container forked is found by its cgroup."""
    runtime = Runtime()
    bundle = Bundle({'linux': {'namespaces': [{'type': t} for t in ('mount', 'ipc', 'uts')]}}, args=['/payload', 'fork', '5'])
    runtime.started(bundle)
    pids = until('processes', lambda: len(json.loads(runtime('ps', '--format', 'json', bundle.id).stdout)) == 6 and runtime)
    expect('ps shows all', bool(pids), True)
    runtime('kill', '--all', bundle.id, 'KILL')
    runtime.stopped(bundle.id)
    until('end of the children', lambda: not processes())
    runtime('delete', bundle.id)
    nothing_left('kill --all', runtime)
    bundle = Bundle({'linux': {'namespaces': [{'type': t} for t in ('mount', 'ipc', 'uts')]}}, args=['/payload', 'fork', '5'])
    runtime.started(bundle)
    runtime('delete', '--force', bundle.id)
    nothing_left('delete --force without a PID namespace', runtime)


def listing():
    runtime = Runtime()
    expect('empty list', runtime('list', '-q').stdout, '')
    bundles = [Bundle({'annotations': {'org.caisson.test': 'yes'}}, args=PAUSE) for _ in range(3)]
    for bundle in bundles:
        runtime.create(bundle)
    runtime('start', bundles[1].id)
    expect('list -q', sorted(runtime('list', '-q').stdout.split()), sorted(b.id for b in bundles))
    table = json.loads(runtime('list', '--format', 'json').stdout)
    found = {row['id']: row for row in table}
    expect('states', [found[b.id]['status'] for b in bundles], ['created', 'running', 'created'])
    for member, kind in (('pid', int), ('bundle', str), ('created', str), ('owner', str), ('rootfs', str), ('ociVersion', str)):
        expect(f'list has {member}', isinstance(table[0][member], kind), True)
    expect('created is RFC 3339', table[0]['created'], re.compile(r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$'))
    expect('annotations in the list', table[0].get('annotations'), {'org.caisson.test': 'yes'})
    expect('annotations in the state', runtime.state(bundles[0].id)['annotations'], {'org.caisson.test': 'yes'})
    text = runtime('list').stdout.splitlines()
    expect('columns', text[0].split(), ['ID', 'PID', 'STATUS', 'BUNDLE', 'CREATED', 'OWNER'])
    expect('rows', len(text), 4)
    os.makedirs(os.path.join(runtime.root, 'rubbish'))
    expect('a foreign folder does not harm', runtime('list', '-q', check=False).stdout.count('\n') >= 3, True)
    os.rmdir(os.path.join(runtime.root, 'rubbish'))
    for bundle in bundles:
        runtime('delete', '--force', bundle.id)
    nothing_left('list', runtime)


def execute():
    """exec: output, status, options, --process, --detach, --pid-file, and where it ends up."""
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    pid = runtime.started(bundle)
    expect('exec status', runtime('exec', bundle.id, '/payload', 'exit', '5', check=False).returncode, 5)
    expect('exec output', runtime('exec', bundle.id, '/payload', 'echo', 'a', 'b').stdout, 'a b\n')
    lines = runtime('exec', '--env', 'FOO=bar', '--cwd', '/tmp', '--user', '1000:1001', '--additional-gids', '77', '--cap', 'CAP_NET_RAW',
                    bundle.id, '/report').stdout.splitlines()
    for wanted in ('env FOO=bar', 'cwd /tmp', 'uid 1000 1000 1000', 'gid 1001 1001 1001', 'groups 77', 'hostname caisson-test'):
        expect(f'exec {wanted}', wanted in lines, True)
    for kind in ('cgroup', 'ipc', 'mnt', 'net', 'pid', 'uts'):
        expect(f'{kind} namespace', f'ns {kind} ' + os.readlink(f'/proc/{pid}/ns/{kind}') in lines, True)
    process = {'args': ['/report'], 'cwd': '/', 'env': ['A=1'], 'user': {'uid': 5, 'gid': 6, 'additionalGids': [7, 8], 'umask': 0o77},
               'noNewPrivileges': False, 'oomScoreAdj': 321, 'rlimits': [{'type': 'RLIMIT_CORE', 'soft': 1, 'hard': 2}]}
    path = os.path.join(WORK, 'process.json')
    with open(path, 'w', encoding='utf-8') as f:
        json.dump(process, f)
    umask = [] if RUNTIME_NAME == 'runc' else ['umask 0077']  # runc 1.1 takes it from config.json only
    lines = runtime('exec', '--process', path, bundle.id).stdout.splitlines()
    for wanted in ('uid 5 5 5', 'gid 6 6 6', 'groups 7 8', *umask, 'oom 321', 'rlimit 4 1 2', 'env A=1', 'status NoNewPrivs:\t0'):
        expect(f'exec --process {wanted}', wanted in lines, True)
    pid_file = os.path.join(WORK, 'exec-pid')
    runtime('exec', '--detach', '--pid-file', pid_file, bundle.id, '/payload', 'pause')
    with open(pid_file, encoding='ascii') as f:
        other = int(f.read())
    expect('both are listed', sorted(json.loads(runtime('ps', '--format', 'json', bundle.id).stdout)), sorted([pid, other]))
    with open(f'/proc/{other}/cgroup', encoding='ascii') as f, open(f'/proc/{pid}/cgroup', encoding='ascii') as g:
        expect('same cgroups', f.read(), g.read())
    for args in (['/nothing'], ['/etc'], []):
        done = runtime('exec', bundle.id, *args, check=False)
        expect(f'exec {args}: {done.stderr!r}', (done.returncode, bool(done.stderr)), (255, True))
    expect('exec in none', runtime('exec', 'no-such', '/payload', check=False).returncode, 255)
    runtime('kill', '--all', bundle.id, 'KILL')
    runtime.stopped(bundle.id)
    expect('exec in a dead one', runtime('exec', bundle.id, '/payload', check=False).returncode, 255)
    runtime('delete', bundle.id)
    nothing_left('exec', runtime)


def relative_paths():
    """--root, --log and --pid-file count from where the runtime was called, not from the bundle."""
    bundle, here = Bundle(args=PAUSE), os.path.join(WORK, 'here')
    os.makedirs(os.path.join(here, 'state'))
    runtime = Runtime()
    runtime.options = ('--root', 'state', '--log', 'log')
    runtime('create', '--bundle', os.path.relpath(bundle.path, here), '--pid-file', 'pid', bundle.id, cwd=here)
    state = json.loads(runtime('state', bundle.id, cwd=here).stdout)
    expect('state', (state['bundle'], state['status']), (bundle.path, 'created'))
    with open(os.path.join(here, 'pid'), encoding='ascii') as f:
        expect('pid file', f.read(), str(state['pid']))
    runtime('delete', '--force', bundle.id, cwd=here)
    bundle.write('{')
    expect('bad bundle', runtime('create', '--bundle', bundle.path, bundle.id, cwd=here, check=False).returncode, 1)
    with open(os.path.join(here, 'log'), encoding='utf-8') as f:
        expect('log', f.read(), re.compile('level=error'))
    expect('in the bundle', sorted(os.listdir(bundle.path)), ['config.json', 'rootfs'])
    nothing_left('relative', runtime)


def paused_before_start():
    """A created container can be paused; then it is neither started, which would wait for it, nor forgotten."""
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    runtime.create(bundle)
    runtime('pause', bundle.id)
    expect('paused', runtime.status(bundle.id), 'paused')
    done = runtime('start', bundle.id, check=False)
    expect(f'start: {done.stderr}', (done.returncode, 'paused' in done.stderr), (1, True))
    runtime('resume', bundle.id)
    expect('resumed', runtime.status(bundle.id), 'created')
    runtime('start', bundle.id)
    expect('started', runtime.status(bundle.id), 'running')
    runtime('delete', '--force', bundle.id)
    runtime.create(bundle)
    runtime('pause', bundle.id)
    runtime('delete', '--force', bundle.id)
    nothing_left('paused before start', runtime)


def created_exec():
    """exec in a container that was created, not started; in a paused one it must not hang."""
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    runtime.create(bundle)
    expect('exec before start', runtime('exec', bundle.id, '/payload', 'echo', 'x').stdout, 'x\n')
    runtime('start', bundle.id)
    runtime('pause', bundle.id)
    expect('paused', runtime.status(bundle.id), 'paused')
    expect('exec in a paused one', runtime('exec', bundle.id, '/payload', check=False).returncode, 255)
    expect('second pause', runtime('pause', bundle.id, check=False).returncode, 1)
    expect('freezer', freezer_state(bundle), 'FROZEN')
    runtime('resume', bundle.id)
    expect('resumed', runtime.status(bundle.id), 'running')
    expect('second resume', runtime('resume', bundle.id, check=False).returncode, 1)
    runtime('pause', bundle.id)
    runtime('delete', '--force', bundle.id)
    nothing_left('delete --force of a paused one', runtime)


def freezer_state(bundle):
    for kind, top in hierarchies():
        path = top + bundle.config['linux']['cgroupsPath']
        if 'freezer' in kind.split(','):
            with open(path + '/freezer.state', encoding='ascii') as f:
                return f.read().strip()
        if kind == 'v2' and os.path.exists(path + '/cgroup.freeze') and not any('freezer' in k for k, _ in hierarchies()):
            with open(path + '/cgroup.freeze', encoding='ascii') as f:
                return 'FROZEN' if f.read().strip() == '1' else 'THAWED'
    raise Skip('no freezer here')


def update_and_events():
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    runtime.started(bundle)
    runtime('update', '--memory', '64000000', '--pids-limit', '50', '--cpu-share', '512', '--cpu-quota', '50000', '--cpu-period', '100000',
            bundle.id)
    values = {'memory.limit_in_bytes': '64000000$', 'pids.max': '50', 'cpu.shares': '512', 'cpu.cfs_quota_us': '50000'}
    for name, wanted in values.items():
        expect(name, read_control(bundle, name), re.compile('^' + wanted))
    path = os.path.join(WORK, 'resources.json')
    with open(path, 'w', encoding='utf-8') as f:
        json.dump({'memory': {'limit': 128 << 20}, 'pids': {'limit': -1}}, f)
    runtime('update', '--resources', path, bundle.id)
    expect('memory after --resources', read_control(bundle, 'memory.limit_in_bytes'), str(128 << 20))
    expect('the rest stays', read_control(bundle, 'cpu.shares'), '512')
    stats = json.loads(runtime('events', '--stats', bundle.id).stdout)
    expect('event', (stats['type'], stats['id']), ('stats', bundle.id))
    data = stats['data']
    expect('pids of the stats', data['pids']['current'] >= 1, True)
    expect('memory of the stats', data['memory']['usage']['limit'], 128 << 20)
    expect('memory use', data['memory']['usage']['usage'] > 0, True)
    expect('cpu use', data['cpu']['usage']['total'] > 0, True)
    expect('update of nothing', runtime('update', 'no-such', check=False).returncode, 1)
    expect('update with rubbish', runtime('update', '--memory', 'lots', bundle.id, check=False).returncode, 1)
    runtime('delete', '--force', bundle.id)
    nothing_left('update', runtime)


def read_control(bundle, name):
    for kind, top in hierarchies():
        path = f'{top}{bundle.config["linux"]["cgroupsPath"]}/{name}'
        if kind != 'v2' and os.path.exists(path):
            with open(path, encoding='ascii') as f:
                return f.read().strip()
    raise AssertionError(f'{name} is in none of the hierarchies')


def oom_event():
    """events follows a container until its end; a second process that runs out of memory shows up."""
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    runtime.started(bundle)
    with tempfile.TemporaryFile('w+') as out:
        child = subprocess.Popen(runtime.command('events', '--interval', '100ms', bundle.id), stdout=out, stdin=subprocess.DEVNULL)

        def said():
            out.seek(0)
            return [json.loads(line) for line in out.read().splitlines()]
        until('two events', lambda: len([e for e in said() if e['type'] == 'stats']) >= 2)
        runtime('kill', bundle.id, 'KILL')
        runtime.stopped(bundle.id)
        runtime('delete', bundle.id)
        expect('events ends with the container', child.wait(20) in (0, 1), True)
    nothing_left('events', runtime)


def process_table():
    runtime, bundle = Runtime(), Bundle(args=['/payload', 'fork', '2'])
    runtime.started(bundle)
    until('three', lambda: len(json.loads(runtime('ps', '-f', 'json', bundle.id).stdout)) == 3)
    table = runtime('ps', bundle.id).stdout.splitlines()
    expect('header', 'PID' in table[0], True)
    expect('rows', len(table), 4)
    expect('with options of ps', runtime('ps', bundle.id, '-o', 'pid,comm').stdout.split()[:2], ['PID', 'COMMAND'])
    runtime('delete', '--force', bundle.id)
    nothing_left('ps', runtime)


def spec_and_features():
    runtime = Runtime()
    folder = tempfile.mkdtemp(dir=WORK)
    runtime('spec', '--bundle', folder)
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
        spec = json.load(f)
    expect('spec', (spec['process']['args'], spec['root']['path'], spec['process']['terminal']), (['sh'], 'rootfs', True))
    expect('no overwriting', runtime('spec', '--bundle', folder, check=False).returncode, 1)
    other = tempfile.mkdtemp(dir=WORK)
    runtime('spec', '--rootless', '--bundle', other)
    with open(os.path.join(other, 'config.json'), encoding='utf-8') as f:
        spec = json.load(f)
    expect('rootless spec', any(n['type'] == 'user' for n in spec['linux']['namespaces']), True)
    spec['process'] |= {'terminal': False, 'args': ['/payload', 'echo', 'from the template']}
    bundle = Bundle()
    bundle.config = spec
    bundle.write()
    expect('the template runs', runtime.run(bundle).stdout, 'from the template\n')
    features = json.loads(runtime('features').stdout)
    for member in ('ociVersionMin', 'ociVersionMax', 'hooks', 'mountOptions', 'linux'):
        expect(f'features has {member}', member in features, True)
    expect('hooks', sorted(features['hooks']),
           sorted(['prestart', 'createRuntime', 'createContainer', 'startContainer', 'poststart', 'poststop']))
    expect('namespaces', set('cgroup ipc mount network pid user uts'.split()) <= set(features['linux']['namespaces']), True)
    expect('seccomp', 'SCMP_ACT_NOTIFY' in features['linux']['seccomp']['actions'], True)
    expect('--version', runtime('--version').stdout, re.compile(r'version \d'))
    expect('--help', runtime('--help').stdout, re.compile('create'))
    expect('unknown verb', runtime('frobnicate', check=False).returncode != 0, True)
    expect('unknown option', runtime('create', '--frobnicate', 'x', check=False).returncode != 0, True)


def logging():
    """--log and --log-format: errors in runc's JSON, which engines read."""
    log = os.path.join(WORK, 'log')
    runtime = Runtime(None, '--log', log, '--log-format', 'json')
    done = runtime('start', 'no-such', check=False)
    expect('status', done.returncode, 1)
    with open(log, encoding='utf-8') as f:
        rows = [json.loads(line) for line in f]
    expect('level', rows[-1]['level'], 'error')
    expect('message', rows[-1]['msg'], re.compile('no-such|does not exist|not exist'))
    expect('time', rows[-1]['time'], re.compile(r'^\d{4}-\d\d-\d\dT'))
    os.unlink(log)
    runtime = Runtime(None, '--log', log)
    runtime('start', 'no-such', check=False)
    with open(log, encoding='utf-8') as f:
        expect('text', f.read(), re.compile(r'level=error msg="?.*'))
    expect('wrong format', Runtime(None, '--log-format', 'xml')('list', check=False).returncode, 1)
    bundle = Bundle({'root': {'path': 'nothing-here'}})
    os.unlink(log)
    Runtime(None, '--log', log, '--log-format', 'json').run(bundle, check=False)
    with open(log, encoding='utf-8') as f:
        expect('an error of create is one line of JSON', [json.loads(line)['level'] for line in f if '"error"' in line], ['error'])


def terminal():
    """The master side of the console arrives over --console-socket; size, name, controlling terminal, and exec --tty."""
    runtime = Runtime()
    bundle = Bundle({'process': {'terminal': True, 'consoleSize': {'height': 33, 'width': 77}}}, args=['/report', 'tty'])
    text = with_console(runtime, 'create', bundle, lambda: runtime('start', bundle.id))
    expect('size', 'tty /dev/pts/0 33x77 controlling 1' in text, True)
    for fd in range(3):
        expect(f'isatty {fd}', f'isatty {fd} 1' in text, True)
    expect('/dev/console', any(re.match(r'node /dev/console 020\d{3} 136:0 ', line) for line in text), True)
    runtime.stopped(bundle.id)
    runtime('delete', bundle.id)
    bundle = Bundle(args=PAUSE)
    runtime.started(bundle)
    text = with_console(runtime, 'exec', bundle, None, '--tty', '--detach', words=['/report', 'tty'])
    expect('exec --tty', any(line.startswith('tty /dev/pts/') and 'controlling 1' in line for line in text), True)
    done = runtime('exec', '--tty', '--detach', bundle.id, '/payload', check=False)
    expect('exec --tty --detach without a console socket', done.returncode in (1, 255), True)
    runtime('delete', '--force', bundle.id)
    bundle = Bundle({'process': {'terminal': True}})
    expect('create with a terminal, without a console socket', runtime.create(bundle, check=False).returncode, 1)
    bundle = Bundle()
    expect('create without a terminal, with a console socket',
           runtime.create(bundle, '--console-socket', os.path.join(WORK, 'none'), check=False).returncode, 1)
    bundle = Bundle({'process': {'terminal': True}})
    expect('console socket that is not there',
           runtime.create(bundle, '--console-socket', os.path.join(WORK, 'none'), check=False).returncode, 1)
    nothing_left('terminal', runtime)


def with_console(runtime, verb, bundle, then, *options, words=()):
    path = os.path.join(WORK, f'console-{bundle.id}-{verb}')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(30)
        target = ['--bundle', bundle.path] if verb == 'create' else []
        runtime(verb, '--console-socket', path, *options, *target, bundle.id, *words)
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(30)
            data, fds, _, _ = socket.recv_fds(peer, 4096, 4)
    expect('one descriptor', len(fds), 1)
    expect('its name', data.decode(), re.compile('ptmx|pts|console'))
    if then:
        then()
    text = b''
    while True:
        try:
            more = os.read(fds[0], 4096)
        except OSError:
            break
        if not more:
            break
        text += more
    os.close(fds[0])
    return text.decode().replace('\r', '').splitlines()


def preserved_descriptors():
    """--preserve-fds N passes 3..3+N-1 and nothing else; LISTEN_FDS does the same."""
    runtime, bundle = Runtime(), Bundle(args=['/report'])
    files = [tempfile.TemporaryFile(dir=WORK) for _ in range(3)]
    spare = [os.open('/dev/null', os.O_RDONLY) for _ in range(8)]
    for i, file in enumerate(files):
        os.dup2(file.fileno(), 50 + i, inheritable=True)
    wrapper = ['bash', '-c', 'exec 3<&50 4<&51 5<&52 6</etc/passwd 50<&- 51<&- 52<&-; exec "$@"', 'sh']
    for count in (0, 2, 3):
        done = subprocess.run([*wrapper, *runtime.command('run', '--preserve-fds', str(count), '--bundle', bundle.path, bundle.id)],
                              pass_fds=(50, 51, 52), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        expect(f'status {done.stderr}', done.returncode, 0)
        fds = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith('fd ')]
        expect(f'descriptors with --preserve-fds {count}', fds, [0, 1, 2, *range(3, 3 + count)])
    script = 'exec 3<&50 4<&51 50<&- 51<&- 52<&-; LISTEN_FDS=2 LISTEN_PID=$$ exec "$@"'
    done = subprocess.run(['bash', '-c', script, 'sh', *runtime.command('run', '--bundle', bundle.path, bundle.id)],
                          pass_fds=(50, 51, 52), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    lines = done.stdout.splitlines()
    expect('descriptors with LISTEN_FDS', [line.split()[1] for line in lines if line.startswith('fd ')], ['0', '1', '2', '3', '4'])
    expect('the program is told', sorted(line for line in lines if line.startswith('env LISTEN_')), ['env LISTEN_FDS=2', 'env LISTEN_PID=1'])
    for fd in [*spare, 50, 51, 52]:
        os.close(fd)
    nothing_left('preserve-fds', runtime)


def hooks():
    """All six kinds: when they run, where, with which state on their standard input, and what their failure does."""
    runtime = Runtime()
    log = os.path.join(WORK, 'hooks')
    script = os.path.join(WORK, 'hook.sh')
    with open(script, 'w', encoding='utf-8') as f:
        f.write(f'#!/bin/sh\nstate=$(cat)\nprintf "%s|%s|%s|%s\\n" "$1" "$(readlink /proc/self/ns/mnt)" "$WORD" "$state" >> {log}\n')
    os.chmod(script, 0o755)

    def hook(name, path=script):
        return [{'path': path, 'args': ['hook', name], 'env': [f'WORD={name}', 'PATH=/bin:/usr/bin', MARK], 'timeout': 20}]
    kinds = ('prestart', 'createRuntime', 'createContainer', 'poststart', 'poststop')
    bundle = Bundle({'hooks': {**{kind: hook(kind) for kind in kinds},
                               'startContainer': [{'path': '/payload', 'args': ['payload', 'ready-not', 'x']}]}}, args=PAUSE)
    done = runtime.create(bundle, check=False)
    expect(f'create with hooks {done.stderr}', done.returncode, 0)
    rows = [line.split('|', 3) for line in open(log, encoding='utf-8')]
    if RUNTIME_NAME == 'runc':
        rows = rows[:3]  # runc 1.1 runs poststart before start
    expect('hooks at create', [row[0] for row in rows], ['prestart', 'createRuntime', 'createContainer'])
    here = os.readlink('/proc/self/ns/mnt')
    expect('their mount namespaces', [row[1] == here for row in rows], [True, True, False])
    expect('their environment', [row[2] for row in rows], [row[0] for row in rows])
    for row in rows:
        state = json.loads(row[3])
        expect(f'state for {row[0]}', (state['id'], state['bundle'], state['status'] in ('creating', 'created'), state['pid'] > 0),
               (bundle.id, bundle.path, True, True))
    done = runtime('start', bundle.id, check=False)
    expect(f'a startContainer hook that fails (exit 3) fails start: {done.stderr}', done.returncode != 0 or
           bool(until('stopped', lambda: runtime.status(bundle.id) in ('stopped', None))), True)
    runtime('delete', '--force', bundle.id)
    nothing_left('hooks', runtime)
    os.unlink(log)
    bundle = Bundle({'hooks': {kind: hook(kind) for kind in kinds}}, args=['/payload', 'true'])
    runtime.run(bundle)
    order = [line.split('|')[0] for line in open(log, encoding='utf-8')]
    expect('all hooks of a run', order, list(kinds))
    state = json.loads(open(log, encoding='utf-8').readlines()[-1].split('|', 3)[3])
    expect('state at the end', state['status'], 'stopped')
    nothing_left('run with hooks', runtime)


def inside_hook():
    """startContainer runs in the container, before the process."""
    runtime = Runtime()
    bundle = Bundle({'hooks': {'startContainer': [{'path': '/payload', 'args': ['payload', 'echo', 'hook']}]}},
                    args=['/payload', 'echo', 'process'])
    done = runtime.run(bundle)
    expect('output', done.stdout.replace('hook\n', ''), 'process\n')
    nothing_left('startContainer', runtime)


def checkpoint():
    runtime, bundle = Runtime(), Bundle(args=PAUSE)
    if not shutil.which('criu'):
        raise Skip('no criu')
    if subprocess.run(['criu', 'check'], capture_output=True, check=False).returncode != 0:
        raise Skip('criu check fails here')
    runtime.started(bundle)
    image = os.path.join(WORK, 'image')
    runtime('checkpoint', '--image-path', image, bundle.id)
    expect('images', os.path.exists(os.path.join(image, 'inventory.img')), True)
    runtime('restore', '--detach', '--image-path', image, '--bundle', bundle.path, bundle.id)
    expect('restored', runtime.status(bundle.id), 'running')
    runtime('delete', '--force', bundle.id)
    nothing_left('checkpoint', runtime)


CASES = (verbs, ids, run_status, run_forwards_signals, kill_at_once, kill_signals, kill_all, listing, execute, relative_paths, created_exec,
         paused_before_start, update_and_events, oom_event, process_table, spec_and_features, logging, terminal, preserved_descriptors, hooks, inside_hook, checkpoint)

if __name__ == '__main__':
    main(CASES)
