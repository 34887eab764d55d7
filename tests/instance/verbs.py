#!/usr/bin/env python3
"""The verbs that VMs and containers have in common, on a VM that is up at once: verbs.py CASE (see meson.build)."""
import datetime
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import lab
from lab import check, check_clean, events, inspect, listed, make, output, refused, run, until, until_log


def case_life():
    """From made to removed, and what is refused on the way."""
    check(output('ls', '-q') == '', 'not empty at first')
    check(not os.path.exists(os.environ['CAISSON_STATE_DIR']), 'ls made a state directory')
    refused(['start', 'web'], lab.NOT_FOUND, "'web'")
    refused(['start'], lab.USAGE, 'name')
    web = make('web')
    row = listed()['web']
    check((row['id'], row['type'], row['state'], row['wanted']) == (web, 'vm', 'created', False), f'{row}')
    refused(['start', 'wbe'], lab.NOT_FOUND, "did you mean 'web'")
    for verb in ('kill', 'pause', 'resume', 'attach', 'console'):
        refused([verb, 'web'], lab.CONFLICT, 'not running', 'caisson start web')
    check(output('stop', 'web') == 'web\n', 'stop of one that does not run')
    check(output('start', web[:6]) == 'web\n', 'start by a part of its id')
    check(output('start', 'web') == 'web\n', 'start of one that runs')
    row = inspect('web')
    check((row['state'], row['ready'], row['wanted'], row['exit_code']) == ('running', True, True, None), f'{row}')
    check(set(lab.processes()) == {row['pid'], row['supervisor_pid']}, f'{lab.processes()}')
    check(os.path.isdir(row['directory']) and row['directory'].endswith(web), f'{row}')
    refused(['rm', 'web'], lab.CONFLICT, 'running', '--force')
    refused(['rename', 'web', 'www'], lab.CONFLICT, 'running')
    check(output('pause', 'web') == 'web\n' and listed()['web']['state'] == 'paused', 'pause')
    refused(['pause', 'web'], lab.CONFLICT, 'paused already')
    check(output('resume', 'web') == 'web\n' and listed()['web']['state'] == 'running', 'resume')
    refused(['kill', '-s', 'HUP', 'web'], lab.USAGE, 'VM')
    until_log('web', 'ready>')
    check(output('stop', 'web') == 'web\n', 'stop')
    row = inspect('web')
    check((row['status'], row['exit_code'], row['wanted']) == ('exited (0)', 0, False), f'{row}')
    check('power button' in output('logs', 'web'), 'the power button was not pressed')
    check_clean()
    output('start', 'web')
    check(output('kill', 'web') == 'web\n' and listed()['web']['exit_code'] == 137, 'kill')
    check(output('rename', 'web', 'www') == 'www\n' and list(listed()) == ['www'], 'rename')
    refused(['rename', 'www', 'W'], lab.USAGE, 'not allowed')
    make('other')
    refused(['rename', 'www', 'other'], lab.CONFLICT, 'taken')
    output('start', 'www')
    check(output('rm', '-f', 'www', 'other') == 'www\nother\n', 'rm')
    check(listed() == {} and os.listdir(os.path.join(os.environ['CAISSON_STATE_DIR'], 'instances')) == [], 'left')
    check_clean()
    # Actions, in order; a stop is an order and an end.
    check([action for name, action in events() if name == 'web'] ==
          ['create', 'start', 'pause', 'resume', 'stop', 'die', 'start', 'kill', 'die'], f'{events()}')
    check([action for name, action in events() if name == 'www'] == ['rename', 'start', 'stop', 'die', 'remove'],
          f'{events()}')


    # One that starts while the row still says that a killed one runs can be reached.
    web = make('web')
    output('start', 'web')
    for pid in lab.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not lab.processes(), 'the end')
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, subprocess.Popen([os.path.join(lab.BUILD, 'caisson-shim'), '--id', web, '--ready-fd', str(theirs.fileno())],
                                        pass_fds=[theirs.fileno()]) as shim:
        theirs.close()
        check(json.loads(ours.recv(4096))['ok'], 'a supervisor after a killed one')
        check(listed()['web']['state'] == 'running', f'{listed()}')
        output('kill', 'web')
        shim.wait(lab.TIMEOUT)
    output('rm', 'web')
    check_clean()


def case_failed():
    """A start that fails says why, and leaves nothing."""
    bad = lab.document()
    bad['vm']['kernel'] = '/nonexistent/kernel'
    lab.make('bad', vm=bad['vm'])
    for _ in range(2):
        refused(['start', 'bad'], lab.FAILED, '/nonexistent/kernel')
        row = inspect('bad')
        check(row['state'] == 'created' and '/nonexistent/kernel' in row['error'] and not row['wanted'], f'{row}')
        check_clean()
    done = run('start', '--all')
    check(done.returncode == lab.FAILED and '/nonexistent' in done.stderr, f'{done}')
    make('good', 'exit=0')
    done = run('start', 'bad', 'good', 'none')
    check(done.returncode == lab.FAILED and done.stdout == 'good\n' and done.stderr.count('\n') == 2, f'{done}')
    output('wait', 'good')
    output('rm', 'bad', 'good')
    # One that is ending runs, or can be started or removed; nobody hears that it is being worked on.
    for _ in range(20):
        make('brief', 'exit=0')
        for _ in range(3):
            output('start', 'brief')
        while (done := run('rm', 'brief')).returncode:
            check('brief is running; stop it first' in done.stderr, f'{done}')
    check_clean()


def case_attach():
    """Exit codes, input, several at once, slow readers, leaving with the keys."""
    make('five', 'exit=5 flood=3')
    done = run('start', '-a', 'five')
    check(done.returncode == 5 and done.stdout.endswith('line 2 of the flood\n') and not done.stderr, f'{done}')
    # Nothing is lost on the way to a reader that is slow, nor of what comes last.
    make('flood', 'exit=3 flood=20000')
    with subprocess.Popen([lab.CAISSON, 'start', '-a', 'flood'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True) as slow:
        time.sleep(2)
        lines = slow.stdout.read().splitlines()
        check(slow.wait(lab.TIMEOUT) == 3, f'{slow.returncode}')
    check(lines[1:] == [f'line {i} of the flood' for i in range(20000)], f'{len(lines)} lines')
    check(output('logs', 'flood').splitlines()[1:] == lines[1:], 'the log differs')
    # Input decides about the end; who only watches sees it too.
    make('echo')
    output('start', 'echo')
    until_log('echo', 'ready>')
    with subprocess.Popen([lab.CAISSON, 'attach', '--no-stdin', 'echo'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True) as watcher:
        check(watcher.stdout.read(6) == 'machin', 'the last output does not come first')
        done = run('attach', 'echo', stdin=None, input='hello q7')
        check(done.returncode == 7 and done.stdout.endswith('hello q7'), f'{done}')
        check(watcher.stdout.read().endswith('hello q7') and watcher.wait(lab.TIMEOUT) == 7, 'the watcher')
    output('start', 'echo')
    until_log('echo', 'ready>')
    for keys, verb in ((b'abc\x1dd', 'console'), (b'xyz\x10\x11', 'attach')):
        text, code = terminal([verb, 'echo'], b'ready>', keys)
        check(keys[:3] in text and b'goes on' in text and code == 0, f'{text} {code}')
        check(listed()['echo']['state'] == 'running', 'leaving ended it')
    refused(['attach'], lab.USAGE, 'name')
    output('rm', '-f', 'echo')
    check_clean()


def terminal(arguments, wait_for, keys):
    """Run caisson on a pseudo-terminal and type keys when it has written wait_for. Its output and exit code."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(lab.CAISSON, [lab.CAISSON, *arguments])
    text, typed = b'', False
    while True:
        if not select.select([fd], [], [], lab.TIMEOUT)[0]:
            break
        try:
            part = os.read(fd, 4096)
        except OSError:
            break
        text += part
        if wait_for in text and not typed:
            os.write(fd, keys[:3])
            typed = True
        if typed and keys[:3] in text.split(wait_for)[-1]:
            os.write(fd, keys[3:])
            wait_for = b'\0never'
    os.close(fd)
    return text, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def case_policy():
    """Restart policies, and what a stop does in between."""
    make('failing', 'exit=4', restart={'policy': 'on-failure', 'max': 3})
    output('start', 'failing')
    check(output('wait', 'failing') == '4\n', 'wait')
    row = inspect('failing')
    check((row['restarts'], row['exit_code'], row['state'], row['wanted']) == (3, 4, 'exited', False), f'{row}')
    check([action for action, _ in events('failing')] == ['create'] + ['start', 'die'] * 4, f'{events("failing")}')
    make('fine', 'exit=0', restart={'policy': 'on-failure', 'max': 0})
    check(run('start', '-a', 'fine').returncode == 0 and inspect('fine')['restarts'] == 0, 'on-failure after a success')
    make('always', 'exit=0', restart={'policy': 'always'})
    output('start', 'always')
    until(lambda: inspect('always')['restarts'] >= 3, 'restarts')
    check(until(lambda: (s := listed()['always']['state']) == 'restarting' and s, 'restarting'), '')
    output('stop', 'always')
    row = inspect('always')
    check((row['state'], row['wanted']) == ('exited', False), f'{row}')
    check_clean()
    # Restart by hand: another process, no end in between for who waits.
    make('web')
    output('start', 'web')
    before = inspect('web')
    with subprocess.Popen([lab.CAISSON, 'wait', 'web'], stdout=subprocess.PIPE, text=True) as waiting:
        check(output('restart', '-t', '30s', 'web') == 'web\n', 'restart')
        after = inspect('web')
        check(after['pid'] != before['pid'] and after['supervisor_pid'] == before['supervisor_pid'], f'{before} {after}')
        check(waiting.poll() is None, 'wait ended at a restart')
        output('stop', '-t', '0', 'web')
        check(waiting.communicate(timeout=lab.TIMEOUT)[0].strip() in ('0', '143', '137'), 'wait')
    check(output('restart', 'web') == 'web\n' and listed()['web']['state'] == 'running', 'restart of one that does not run')
    output('rm', '-f', 'web')
    make('deaf', 'deaf', stop={'signal': 15, 'timeout_ns': 200_000_000})
    output('start', 'deaf')
    check(output('stop', 'deaf') == 'deaf\n', 'stop of one that does not listen')
    make('gone', 'exit=9', remove=True)
    check(run('start', '-a', 'gone').returncode == 9, '--rm')
    until(lambda: 'gone' not in listed(), 'removal')
    check_clean()


def case_boot():
    """What runs again at boot, and what a shutdown leaves wanted."""
    policies = {'never': 'no', 'always': 'always', 'stopped': 'unless-stopped', 'wanted': 'unless-stopped',
                'halted': 'always'}
    for name, policy in policies.items():
        make(name, restart={'policy': policy})
    output('start', *policies)
    output('stop', '-t', '0', 'stopped', 'halted')
    check(set(output('stop', '--all', '--shutdown', '-t', '0').split()) == {'never', 'always', 'wanted'}, 'shutdown')
    check({name for name, row in listed().items() if row['wanted']} == {'never', 'always', 'wanted'}, 'wanted')
    refused(['start', '--boot'], lab.USAGE, '--all')
    refused(['start', '--all', 'never'], lab.USAGE, '--all')
    check(set(output('start', '--all', '--boot').split()) == {'always', 'wanted', 'halted'}, 'boot')
    check(output('start', '--all', '--boot') == '', 'a second boot')
    # A machine that crashed: the supervisors are gone, their rows say running.
    for pid in lab.processes():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not lab.processes(), 'the end')
    check(set(output('start', '--all', '--boot').split()) == {'always', 'wanted', 'halted'}, 'boot after a crash')
    output('kill', '--all')
    output('rm', '--all')
    check(listed() == {}, 'rm --all')
    check_clean()
    # One that ends by itself and is removed, before it comes to it, is no failure of --all.
    make('deaf', 'deaf', stop={'signal': 15, 'timeout_ns': 600_000_000_000})
    make('brief', remove=True)
    output('start', 'deaf', 'brief')
    with subprocess.Popen([lab.CAISSON, 'stop', '--all'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as stop:
        until(lambda: ('stop', None) in events('deaf'), 'the first stop')
        output('kill', 'brief')
        until(lambda: 'brief' not in listed(), 'the removal')
        output('kill', 'deaf')
        check(stop.communicate(timeout=lab.TIMEOUT) == ('deaf\n', '') and stop.returncode == 0, f'{stop}')
    output('rm', 'deaf')
    # What could not be started at one boot is wanted at the next, what the user starts in vain is not.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(lab.MACHINE, f'{folder}/kernel')
        vm = {**lab.document()['vm'], 'kernel': f'{folder}/kernel'}
        for name in ('wanted', 'stopped'):
            make(name, vm=vm, restart={'policy': 'unless-stopped'})
            output('start', name)
        output('stop', '-t', '0', 'stopped')
        output('stop', '--all', '--shutdown', '-t', '0')
        os.rename(f'{folder}/kernel', f'{folder}/gone')
        for arguments in (['--all', '--boot'], ['stopped']):
            check(run('start', *arguments).returncode == lab.FAILED, 'a start without its kernel')
        os.rename(f'{folder}/gone', f'{folder}/kernel')
        check(output('start', '--all', '--boot') == 'wanted\n', 'the boot after one that failed')
        output('rm', '-f', 'wanted', 'stopped')
    check_clean()
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, 'CAISSON_SYSTEMD_DIR': folder}
        check(output('autostart', env=env) == 'disabled\n', 'autostart at first')
        unit = output('autostart', 'enable', env=env).strip()
        check(output('autostart', 'enable', env=env).strip() == unit, 'enable twice')
        check(output('autostart', 'status', env=env) == 'enabled\n', 'enabled')
        with open(unit, encoding='utf-8') as f:
            text = f.read()
        check(f'ExecStart={lab.CAISSON} start --all --boot\n' in text, text)
        check(text == output('autostart', 'print', env=env), 'print')
        output('autostart', 'disable', env=env)
        check(output('autostart', 'status', env=env) == 'disabled\n' and lab.files(folder) == [], 'disable')


def case_logs():
    """Rotation, and what logs picks."""
    make('flood', 'exit=0 flood=3000', logs={'max_size': 20000, 'files': 3})
    with subprocess.Popen([lab.CAISSON, 'start', 'flood'], stdout=subprocess.DEVNULL) as start:
        start.wait(lab.TIMEOUT)
    followed = output('logs', '-f', 'flood').splitlines()
    check(followed[-1] == 'line 2999 of the flood', f'-f: {followed[-3:]}')
    lines = output('logs', 'flood').splitlines()
    check(lines[-1] == 'line 2999 of the flood' and len(lines) < 3000, f'{len(lines)} lines')
    numbers = [int(line.split()[1]) for line in lines]
    check(numbers == list(range(numbers[0], 3000)), 'lines are missing')
    folder = os.path.join(inspect('flood')['directory'], 'logs')
    sizes = {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)}
    check(set(sizes) == {'log.json', 'log.json.1', 'log.json.2'} and max(sizes.values()) <= 20000, f'{sizes}')
    for name in sizes:
        with open(os.path.join(folder, name), encoding='utf-8') as f:
            for line in f:
                row = json.loads(line)
                check(set(row) == {'time', 'stream', 'log'} and row['stream'] == 'stdout', line)
    check(output('logs', '--tail', '2', 'flood') == 'line 2998 of the flood\nline 2999 of the flood\n', '--tail 2')
    check(output('logs', '-n', '0', 'flood') == '', '--tail 0')
    check(output('logs', '--tail', 'all', 'flood').splitlines() == lines, '--tail all')
    stamped = output('logs', '-t', '-n2', 'flood').splitlines()
    times = [datetime.datetime.fromisoformat(line.split()[0][:26] + '+00:00') for line in stamped]
    now = datetime.datetime.now(datetime.timezone.utc)
    check(all(now - datetime.timedelta(minutes=10) < at <= now for at in times), f'{stamped}')
    check(output('logs', '--since', '10m', 'flood').splitlines() == lines, '--since')
    check(output('logs', '--since', '0s', 'flood') == '', '--since now')
    check(output('logs', '--until', '1h', 'flood') == '', '--until')
    check(output('logs', '--until', (now + datetime.timedelta(seconds=1)).strftime('%Y-%m-%dT%H:%M:%SZ'), '--since', '2020-01-01', 'flood').splitlines()
          == lines, '--until now')
    refused(['logs', '--since', 'yesterday', 'flood'], lab.USAGE, 'not a time')
    refused(['logs', '--tail', 'x', 'flood'], lab.USAGE, 'number')
    refused(['logs', 'nothing'], lab.NOT_FOUND, 'nothing')
    # A line that a crash cut off, and bytes that are none of ours.
    with open(os.path.join(folder, 'log.json'), 'ab') as f:
        f.write(b'\xff\xfe{"time"\n{"time":"2026-01-01T00:00:00Z","stream":"stdout","log":"cut')
    check(output('logs', 'flood').splitlines() == lines, 'a cut line')
    output('start', 'flood')
    output('wait', 'flood')
    check(output('logs', '-n1', 'flood') == 'line 2999 of the flood\n', 'after a cut line')
    # A reader that has enough is no failure; one that follows goes with the run.
    make('web')
    output('start', 'web')
    with subprocess.Popen([lab.CAISSON, 'logs', '-f', 'web'], stdout=subprocess.PIPE, text=True) as follow:
        check(follow.stdout.readline().startswith('machine up'), 'follow')
        check(follow.stdout.read(6) == 'ready>', 'a line without its end is not shown')
        check(output('logs', '-f', '--until', '0s', 'web').startswith('machine up') and output('events', '-f', '--until', '1h') == '', '-f --until')
        output('stop', 'web')
        check('power button' in follow.stdout.read() and follow.wait(lab.TIMEOUT) == 0, 'the end of follow')
    # A full disk is one.
    for command in (['logs', 'flood'], ['events'], ['start', '-a', 'flood']):
        with open('/dev/full', 'wb') as full:
            done = subprocess.run([lab.CAISSON, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=lab.TIMEOUT, check=False)
        check(done.returncode == lab.FAILED and 'No space left' in done.stderr and done.stderr.count('\n') == 1, f'{done}')
    done = subprocess.run(f'{lab.CAISSON} logs flood | head -n 1', shell=True, capture_output=True, text=True,
                          timeout=lab.TIMEOUT, check=False)
    check(done.stdout.count('\n') == 1 and not done.stderr, f'{done}')
    check_clean()


def case_change():
    """update, wait for conditions, filters of events, labels."""
    make('web', labels={'tier': 'front', 'keep': ''})
    with subprocess.Popen([lab.CAISSON, 'wait', '--condition', 'ready', 'web'], stdout=subprocess.PIPE, text=True) as w:
        output('start', 'web')
        check(w.communicate(timeout=lab.TIMEOUT)[0] == 'web\n' and w.returncode == 0, 'wait ready')
    refused(['wait', '--timeout', '100ms', 'web'], lab.TIMED_OUT, 'left as it is')
    refused(['wait', '--condition', 'up', 'web'], lab.USAGE, 'removed')
    refused(['update', 'web'], lab.USAGE, 'nothing to change')
    refused(['update', '--restart', 'sometimes', 'web'], lab.USAGE, 'unless-stopped')
    refused(['update', '--log-size', '1', 'web'], lab.USAGE, 'log size')
    output('update', '--restart', 'on-failure:2', '--stop-timeout', '1m30s', '--memory', '32M', '--cpus', '2', '--label',
           'tier=back', '--label', 'keep=', '--log-files', '5', 'web')
    spec = inspect('web')['spec']
    check(spec['restart'] == {'policy': 'on-failure', 'max': 2} and spec['stop']['timeout_ns'] == 90_000_000_000, f'{spec}')
    check(spec['vm']['memory'] == 32 << 20 and spec['vm']['cpus'] == 2 and spec['labels'] == {'tier': 'back'}, f'{spec}')
    # The running supervisor knows: an end with an error starts it again, twice.
    for _ in range(3):
        until_log('web', 'ready>')
        pid = until(lambda: inspect('web')['pid'], 'a run')
        os.kill(pid, signal.SIGKILL)
        until(lambda: inspect('web')['pid'] != pid, 'the end of the run')
    check(until(lambda: inspect('web')['state'] == 'exited', 'the end'), '')
    check(inspect('web')['restarts'] == 2, f'{inspect("web")}')
    output('update', '--restart', 'no', 'web')
    make('other')
    for words, names in ((['label=tier'], ['web']), (['status=created'], ['other']), (['status=created', 'status=exited'], ['other', 'web']),
                         (['name=the', 'type=vm'], ['other']), (['id=' + inspect('web')['id'][:9]], ['web']), (['label=tier', 'name=other'], []),
                         (['health=healthy'], [])):
        check(sorted(output('ls', '-q', *[w for f in words for w in ('-f', f)]).split()) == names, f'{words}')
    for words in ('status', 'colour=red', '=x', ''):
        refused(['ls', '-f', words], lab.USAGE, 'KEY=VALUE')
    check(output('ls', '--no-trunc', '--format', 'id', '-f', 'name=other').split() == ['ID', inspect('other')['id']], 'ls --no-trunc')
    check(output('inspect', '-f', '{{.Name}} {{.spec.labels.tier}}', 'web') == 'web back\n', 'inspect -f')
    refused(['inspect', '-f', '{{.spec.none}}', 'web'], lab.USAGE, 'unknown field')
    refused(['rm', 'nobody'], lab.NOT_FOUND, 'nobody')
    output('rm', '-i', 'nobody')
    check(output('ls', '-q', '--label', 'tier') == 'web\n' and output('ls', '-q', '--label', 'tier=x') == '', 'labels')
    check(output('ls', '-q', '--running') == '' and output('ls', '-q', '--type', 'container') == '', 'filters')
    refused(['ls', '--type', 'pod'], lab.USAGE, 'container')
    lines = output('events', '--filter', 'name=web', '--filter', 'action=die').splitlines()
    check(len(lines) == 3 and all(re.search(r' vm die web [0-9a-f]{12} exit_code=137', line) for line in lines), f'{lines}')
    check(output('events', '--since', '0s') == '', 'events from now on')
    refused(['events', '--filter', 'colour=red'], lab.USAGE, 'action=')
    with subprocess.Popen([lab.CAISSON, 'events', '-f', '--json', '--since', '0s', '--filter', 'name=other'],
                          stdout=subprocess.PIPE, text=True) as follow:
        time.sleep(0.3)
        output('start', 'other')
        check(json.loads(follow.stdout.readline())['action'] == 'start', 'events -f')
        with subprocess.Popen([lab.CAISSON, 'wait', '--condition', 'removed', 'other'], stdout=subprocess.PIPE, text=True) as w:
            output('rm', '-f', 'other')
            check(w.communicate(timeout=lab.TIMEOUT)[0] == 'other\n', 'wait removed')
        actions = [json.loads(follow.stdout.readline())['action'] for _ in range(3)]
        check(actions == ['stop', 'die', 'remove'], f'{actions}')
        follow.terminate()
    output('start', 'web')
    supervisor = inspect('web')['supervisor_pid']
    os.kill(supervisor, signal.SIGSTOP) # one that hangs is in the list all the same
    check(output('ls', '-q', '--running') == 'web\n' and listed()['web']['state'] == 'running', 'one that does not answer')
    os.kill(supervisor, signal.SIGCONT)
    output('kill', 'web')
    check_clean()


def updates_at_once():
    """Every change that was acknowledged is there, also of those that were made at once."""
    for state in ('created', 'running'):
        web = make('web')
        if state == 'running':
            output('start', 'web')
        updates = [subprocess.Popen([lab.CAISSON, 'update', '--label', f'n{n}={n}', 'web'], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for n in range(8)]
        for update in updates:
            check(update.communicate(timeout=lab.TIMEOUT)[1] == '' and update.returncode == 0, f'{update}')
        labels = inspect('web')['spec']['labels']
        check(labels == {f'n{n}': f'{n}' for n in range(8)}, f'{state}: {labels}')
        output('rm', '-f', web)
    check_clean()


def one_of_each(found):
    """Whether found is a VMM and a supervisor of each that runs, and nothing else."""
    pids = {row['pid'] for row in listed().values() if row['pid']}
    return pids <= set(found) and len(found) == 2 * len(pids)


def case_race():
    """Many commands at once on the same two: each ends with a reason, and the list is true afterwards."""
    updates_at_once()
    choose = random.Random(3)
    commands = (['start'], ['stop', '-t', '0'], ['restart', '-t', '0'], ['kill'], ['pause'], ['resume'], ['rm', '-f'],
                ['update', '--label', 'a=b'])
    for _ in range(5):
        for name in ('one', 'two'):
            if name not in listed():
                make(name)
        running = [subprocess.Popen([lab.CAISSON, *choose.choice(commands), choose.choice(('one', 'two'))],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                   for _ in range(8)]
        for process in running:
            text = process.communicate(timeout=lab.TIMEOUT)[1]
            check(process.returncode in (0, lab.FAILED, lab.NOT_FOUND, lab.CONFLICT), f'{process.args}: {text}')
            check(process.returncode != lab.FAILED or 'while' in text or 'gone' in text or 'answer' in text,
                  f'{process.args}: {text}')
        until(lambda: one_of_each(lab.processes()), f'one VMM and one supervisor each: {listed()} {lab.processes()}') # some are ending
    if listed():
        output('rm', '--all', '-f')
    check_clean()


def case_health():
    """A check that cannot be made is one that fails; ready waits for a good one."""
    make('web', health={'command': ['true'], 'interval_ns': 100_000_000, 'timeout_ns': 100_000_000, 'start_period_ns': 0,
                        'retries': 2})
    output('start', 'web')
    until(lambda: inspect('web')['health'] == 'unhealthy', 'unhealthy')
    row = listed()['web']
    check(row['status'] == 'running (unhealthy)' and not row['ready'], f'{row}')
    refused(['wait', '--condition', 'ready', '-t', '300ms', 'web'], lab.TIMED_OUT, 'not ready')
    check(('health_status', {'health': 'unhealthy'}) in events('web'), f'{events("web")}')
    output('update', '--label', 'a=b', 'web')
    check(inspect('web')['health'] == 'unhealthy', 'what is known is forgotten')
    output('update', '--health-cmd', 'none', 'web')
    check(output('wait', '--condition', 'ready', '-t', '60s', 'web') == 'web\n', 'ready without a check')
    output('rm', '-f', 'web')
    check_clean()


if __name__ == '__main__':
    lab.main(globals())
