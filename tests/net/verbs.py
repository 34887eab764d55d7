#!/usr/bin/env python3
"""The verbs of `caisson network` without guests: what is stored, printed and refused, and that a kill -9 at any instant leaves
the old or the new state: verbs.py CASE (see meson.build)."""
import csv
import ipaddress
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
import program
from program import CAISSON, CONFLICT, FAILED, NOT_FOUND, PERMISSION, SKIP, USAGE, Skip, check, run_case

KILLS = 50


def run(*arguments, **how):
    return program.run('network', *arguments, **how)


def output(*arguments):
    return program.output('network', *arguments)


def refused(arguments, code, *words, **how):
    program.refused(['network', *arguments], code, *words, **how)


def networks():
    return {network['name']: network for network in json.loads(output('ls', '--json'))}


def case_objects():
    """What create is told is what inspect and ls show; defaults follow from it."""
    check(list(networks()) == ['default'], 'the default network is not alone at first')
    check(not os.path.exists(os.environ['CAISSON_STATE_DIR']), 'ls made a state directory')
    check(output('create', 'web', '--subnet', '172.30.4.0/22', '--subnet6', 'fd00:4::/64', '--gateway', '172.30.7.254',
                 '--dhcp-range', '172.30.5.1-172.30.6.9', '--domain', 'lab.example', '--mtu', '9000', '--isolated',
                 '--host', '52:54:00:00:00:05=db=172.30.4.5', '--host', '52-54-00-00-00-06==172.30.4.6',
                 '-p', '8080:db:80', '-p', '0.0.0.0:53:172.30.4.6:53/udp', '--publish', '[::1]:5:[fd00:4::9]:6/tcp',
                 '--mac-filter', 'off') == 'web\n', 'create does not print the name')
    web = networks()['web']
    want = {'mode': 'nat', 'backend': 'slirp', 'subnet': '172.30.4.0/22', 'subnet6': 'fd00:4::/64',
            'gateway': '172.30.7.254', 'dhcp': True, 'dhcp_range': ['172.30.5.1', '172.30.6.9'], 'dns': True,
            'domain': 'lab.example', 'mtu': 9000, 'isolated_ports': True, 'mac_filter': False, 'tap': None, 'bridge': None,
            'state': 'stopped', 'n_ports': 0, 'ports': [],
            'hosts': [{'mac': '52:54:00:00:00:05', 'name': 'db', 'ip': '172.30.4.5'},
                      {'mac': '52:54:00:00:00:06', 'name': None, 'ip': '172.30.4.6'}],
            'forwards': [
                {'proto': 'tcp', 'host_addr': '127.0.0.1', 'host_port': 8080, 'guest': 'db', 'guest_port': 80},
                {'proto': 'udp', 'host_addr': '0.0.0.0', 'host_port': 53, 'guest': '172.30.4.6', 'guest_port': 53},
                {'proto': 'tcp', 'host_addr': '::1', 'host_port': 5, 'guest': 'fd00:4::9', 'guest_port': 6}]}
    for key, value in want.items():
        check(web[key] == value, f'{key}: {web[key]!r} instead of {value!r}')
    check(re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', web['created']), f'created {web["created"]!r}')
    shown = json.loads(output('inspect', 'web', 'default', '--json'))
    check([network['name'] for network in shown] == ['web', 'default'] and shown[0] == web, 'inspect differs from ls')
    leases = json.loads(output('leases', 'web', '--json'))
    check([lease['ip'] for lease in leases] == ['172.30.4.5', '172.30.4.6'], f'fixed leases: {leases}')
    made = json.loads(output('create', 'bridged', '--mode', 'bridge', '--bridge', 'br7', '--json'))
    check((made['dhcp'], made['dns'], made['subnet'], made['subnet6']) == (False, False, None, None), f'bridge: {made}')
    made = json.loads(output('create', 'flat', '--mode', 'isolated', '--dhcp', 'off', '--dns', 'off', '--subnet6', 'none',
                             '--json'))
    check(made['subnet'] is None and made['backend'] is None, f'isolated without services: {made}')
    check(output('rm', 'web', 'flat') == 'web\nflat\n', 'rm does not print the names')
    check(json.loads(output('rm', '--json', 'bridged')) == ['bridged'], 'rm --json')
    check(list(networks()) == ['default'], 'something is left')
    output('create', 'default', '--subnet', '10.99.0.0/24')
    check(networks()['default']['subnet'] == '10.99.0.0/24', 'default was not replaced')
    output('rm', 'default')
    check(networks()['default']['subnet'] == '10.188.0.0/24', 'default did not come back')


def case_output():
    """Tables, CSV, templates, names."""
    output('create', 'b', '--host', '52:54:00:00:00:05=d=10.188.9.5', '--subnet', '10.188.9.0/24', '--subnet6', 'none')
    lines = output('ls').splitlines()
    check(lines[0].split() == ['NAME', 'MODE', 'SUBNET', 'SUBNET6', 'STATE', 'PORTS'], lines[0])
    check([line.split()[0] for line in lines[1:]] == ['b', 'default'], f'{lines}')
    columns = [match.start() for match in re.finditer(r'\S+', lines[0])][:-1]
    check(all(line[at] != ' ' and line[at - 1:at] in (' ', '') for line in lines for at in columns), f'ragged: {lines}')
    check(all(line == line.rstrip() for line in lines), 'blanks at the end of a line')
    check(output('ls', '-q') == 'b\ndefault\n', 'names')
    rows = list(csv.DictReader(output('ls', '--format', 'csv:name,hosts,dhcp,tap').splitlines()))
    check(json.loads(rows[0]['hosts'])['ip'] == '10.188.9.5', f'{rows}')
    check((rows[0]['dhcp'], rows[0]['tap']) == ('true', ''), f'{rows}')
    check(output('ls', '--format', r'{{name}}\t{{mtu}} {x}') == 'b\t1500 {x}\ndefault\t1500 {x}\n', 'template')
    check(output('ls', '--format', 'gateway,name').splitlines()[1].split() == ['10.188.9.1', 'b'], 'columns')
    shown = output('inspect', 'b')
    check(re.search(r'^hosts: +mac=52:54:00:00:00:05 name=d ip=10.188.9.5$', shown, re.M), shown)
    check(output('leases', 'default') == 'IP  MAC  HOST  EXPIRES\n', 'an empty list is no table with a heading')
    refused(['ls', '--format', 'nme'], USAGE, "did you mean 'name'")
    refused(['ls', '--format', '{{zzz}}'], USAGE, 'zzz', 'subnet')
    refused(['ls', '--format', ''], USAGE, 'unknown field')
    refused(['ls', '--json', '-q'], USAGE, 'exclude')
    full = subprocess.run(f'{CAISSON} network ls >/dev/full', shell=True, stderr=subprocess.PIPE, text=True, check=False)
    check(full.returncode == FAILED and 'cannot write' in full.stderr, f'full disk: {full}')


def case_refused():
    """Each mistake has its line and its exit code, and changes nothing."""
    output('create', 'web', '--subnet', '10.188.5.0/24')
    before = networks()
    start = ['create', 'n', '--subnet', '10.188.6.0/24']
    for arguments, code, *words in [
            (['create'], USAGE, 'no name', '--help'),
            (['create', 'Web'], USAGE, "'Web'", 'a-z'),
            (['create', 'a' * 64], USAGE, 'a-z'),
            (['create', '-x'], USAGE, '-x'),
            (['create', 'a', 'b'], USAGE, "'b'"),
            (['create', 'web'], CONFLICT, 'exists already', 'caisson network rm web'),
            (['create', 'n', '--subnet', '10.188.0.0/16'], CONFLICT, '10.188.0.0/24 of network default'),
            (['create', 'n', '--subnet', '10.188.5.128/25'], CONFLICT, '10.188.5.0/24 of network web'),
            (['create', 'n', '--subnet', '10.188.6.1/24'], USAGE, '--subnet', 'behind the prefix'),
            (['create', 'n', '--subnet', '10.188.6.0/31'], USAGE, 'useful size'),
            (['create', 'n', '--subnet', 'fd00::/64'], USAGE, '--subnet'),
            ([*start, '--subnet6', '10.0.0.0/8'], USAGE, '--subnet6'),
            ([*start, '--subnet6', 'fd00::/60'], USAGE, '/64'),
            ([*start, '--gateway', '10.188.7.1'], USAGE, 'gateway 10.188.7.1'),
            ([*start, '--mtu', '100'], USAGE, '--mtu', '1280'),
            ([*start, '--mtu', '65521'], USAGE, '--mtu'),
            ([*start, '--dhcp-range', '10.188.6.9'], USAGE, '--dhcp-range', 'FIRST-LAST'),
            ([*start, '--dhcp-range', '10.188.6.9-10.188.6.3'], USAGE, 'DHCP range'),
            ([*start, '--dhcp', 'yes'], USAGE, '--dhcp', 'on or off'),
            ([*start, '--domain', 'a b'], USAGE, "domain 'a b'"),
            ([*start, '--mode', 'nta'], USAGE, '--mode', 'isolated'),
            ([*start, '--backend', 'pasta'], USAGE, '--backend', 'slirp'),
            ([*start, '--mode', 'isolated', '--backend', 'nft'], USAGE, 'mode nat'),
            ([*start, '--mode', 'isolated', '-p', '80:a:80'], USAGE, 'mode nat'),
            ([*start, '--mode', 'bridge'], USAGE, '--bridge IF'),
            ([*start, '--bridge', 'br0'], USAGE, 'mode bridge'),
            ([*start, '--mode', 'bridge', '--tap', 'x' * 16], USAGE, '--tap'),
            ([*start, '--mode', 'bridge', '--tap', 'a/b'], USAGE, 'interface'),
            ([*start, '--host', '52:54:00:00:00:05=10.188.6.5'], USAGE, '--host', 'MAC=NAME=IP'),
            ([*start, '--host', '53:54:00:00:00:05=a=10.188.6.5'], USAGE, 'no card'),
            ([*start, '--host', '52:54:00:00:00:05=a=10.188.7.5'], USAGE, '10.188.7.5', 'subnet'),
            ([*start, '--host', '52:54:00:00:00:05=a=10.188.6.5', '--host', '52:54:00:00:00:05=b=10.188.6.6'], USAGE,
             'share'),
            ([*start, '-p', '80'], USAGE, '--publish', 'HOSTPORT'),
            ([*start, '-p', '0:a:1'], USAGE, '--publish'),
            ([*start, '-p', '1:a:1', '-p', '1:b:2'], USAGE, 'two port forwards'),
            ([*start, '-p', 'localhost:1:a:1'], USAGE, "'localhost'"),
            ([*start, '--colour'], USAGE, '--colour'),
            (['rm'], USAGE, 'no network named'),
            (['rm', 'wbe'], NOT_FOUND, "did you mean 'web'"),
            (['rm', 'default'], CONFLICT, 'built in'),
            (['inspect'], USAGE, 'no network named'),
            (['inspect', 'web', 'nothing'], NOT_FOUND, 'nothing', 'caisson network ls'),
            (['leases', 'wep'], NOT_FOUND, "did you mean 'web'"),
            (['capture', 'wep'], NOT_FOUND, "did you mean 'web'"),
            (['capture', 'web', '-w', os.path.join(os.environ['CAISSON_STATE_DIR'], 'x')], CONFLICT, 'not running'),
            (['lss'], USAGE, 'network ls')]:
        refused(arguments, code, *words)
    check(networks() == before, 'something was changed')
    check(not os.path.exists(os.path.join(os.environ['CAISSON_STATE_DIR'], 'x')), 'capture made a file')
    done = run('rm', 'nothing', 'web')
    check((done.returncode, done.stdout) == (NOT_FOUND, 'web\n'), f'rm of one that is there and one that is not: {done}')


def host_subnets():
    """[(interface, network)] of the host's IPv4 addresses, as ip(8) has them."""
    addresses = json.loads(subprocess.run(['ip', '-json', '-4', 'addr'], capture_output=True, text=True, check=True).stdout)
    return [(link['ifname'], ipaddress.ip_interface(f'{info["local"]}/{info["prefixlen"]}').network) for link in addresses
            for info in link['addr_info'] if link['ifname'] != 'lo']


def case_subnets():
    """Subnets that are chosen are free; the host's own are refused where the kernel would route, else warned about."""
    chosen = [json.loads(output('create', f'n{i}', '--json')) for i in range(20)]
    nets = [ipaddress.ip_network(network['subnet']) for network in chosen]
    nets += [ipaddress.ip_network('10.188.0.0/24')] + [network for _, network in host_subnets()]
    check(not [1 for i, a in enumerate(nets[:20]) for b in nets[i + 1:] if a.overlaps(b)], f'overlap: {nets}')
    sixes = {ipaddress.ip_network(network['subnet6']) for network in chosen}
    check(len(sixes) == 20 and all(six.subnet_of(ipaddress.ip_network('fd00::/8')) for six in sixes), f'{sixes}')
    for interface, subnet in host_subnets():
        if not 8 <= subnet.prefixlen <= 30:
            continue
        refused(['create', 'nft', '--backend', 'nft', '--subnet', str(subnet)], CONFLICT, str(subnet), interface)
        done = run('create', 'slirp', '--subnet', str(subnet))
        check(done.returncode == 0 and re.search(rf'warning.*{interface}', done.stderr), f'no warning: {done}')
        return
    raise Skip('no subnet of the host to overlap with')


def case_places():
    """Places that cannot be used, foreign and newer databases."""
    state = os.environ['CAISSON_STATE_DIR']
    done = run('create', 'a', env={'CAISSON_STATE_DIR': '/proc/caisson'})
    check(done.returncode and 'CAISSON_STATE_DIR' in done.stderr, f'/proc: {done}')
    output('create', 'a')
    mode = os.stat(os.path.join(state, 'state.db')).st_mode & 0o777
    check(mode == 0o600 and os.stat(state).st_mode & 0o777 == 0o700, f'others may read the state: {mode:o}')
    os.chmod(state, 0o777)
    refused(['create', 'b'], PERMISSION, 'chmod')
    os.chmod(state, 0o700)
    if os.geteuid() == 0:
        nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
        with tempfile.TemporaryDirectory(prefix='caisson-nobody-') as folder:
            os.chmod(folder, 0o755)
            program = os.path.join(folder, 'caisson')
            subprocess.run(['cp', CAISSON, program], check=True)
            done = subprocess.run([*nobody, program, 'network', 'create', 'x'], capture_output=True, text=True, check=False,
                                  env={**os.environ, 'CAISSON_STATE_DIR': folder})
            check(done.returncode == PERMISSION and 'must belong to you' in done.stderr, f'as nobody: {done}')
            done = subprocess.run([*nobody, program, 'network', 'ls', '-q'], capture_output=True, text=True, check=False,
                                  env={**os.environ, 'CAISSON_STATE_DIR': folder})
            check(done.stdout == 'default\n', f'ls as nobody, without a database: {done}')
    database = os.path.join(state, 'state.db')
    for log in ('-wal', '-shm'): # they would be read in place of the file
        if os.path.exists(database + log):
            os.unlink(database + log)
    with open(database, 'r+b') as f:
        f.write(b'This is no database. ' * 5)
    refused(['ls'], FAILED, 'damaged', 'backup')


def case_full():
    """A full disk: one line, and the old state."""
    inner = f'''
        mount -t tmpfs -o size=200k,mode=700 tmpfs "$CAISSON_STATE_DIR" || exit {SKIP}
        i=0
        code=0
        while [ $code = 0 ]; do
            {CAISSON} network create n$i --subnet6 none >/dev/null 2>"$1" || code=$?
            i=$((i + 1))
        done
        cat "$1"
        {CAISSON} network ls -q | grep -c '^n'
        echo made $((i - 1)) code $code'''
    os.mkdir(os.environ['CAISSON_STATE_DIR'], 0o700)
    log = os.environ['CAISSON_STATE_DIR'] + '.log'
    done = subprocess.run(['unshare', '-m', *([] if os.geteuid() == 0 else ['-Ur']), 'sh', '-c', inner, 'sh', log],
                          capture_output=True, text=True, timeout=250, check=False)
    if done.returncode == SKIP or 'made' not in done.stdout:
        raise Skip('no file system can be mounted here')
    line, stored, made = done.stdout.splitlines()[-3:]
    check('no space left' in line and 'nothing was changed' in line, done.stdout)
    check(made == f'made {stored} code {FAILED}', f'{done.stdout}')


def killed_once(command, moment):
    """Start a command and kill it after that many seconds. Returns whether it was still running."""
    process = subprocess.Popen([CAISSON, 'network', *command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def case_killed():
    """kill -9 in the middle of create and rm, at moments spread over their duration."""
    choose = random.Random(1)
    began = time.monotonic()
    output('create', 'probe')
    output('rm', 'probe')
    duration = (time.monotonic() - began) / 2
    want = {'default'}
    killed = changed = 0
    for i in range(KILLS):
        removable = sorted(want - {'default'})
        name = choose.choice(removable) if removable and choose.random() < 0.4 else f'n{i}'
        verb = 'rm' if name in want else 'create'
        after = want ^ {name}
        killed += killed_once([verb, name], choose.random() * duration)
        found = networks()
        check(set(found) in (want, after), f'kill {i} of {verb} {name}: {sorted(found)} after {sorted(want)}')
        for network in found.values(): # whole objects, too
            check(ipaddress.ip_network(network['subnet']) and network['mtu'] == 1500, f'{network}')
        changed += set(found) == after
        want = set(found)
    print(f'{KILLS} commands: {killed} killed in the middle, {changed} had done their work')
    output('create', 'last')


if __name__ == '__main__':
    sys.exit(run_case(sys.argv[1], lambda folder: globals()['case_' + sys.argv[1]]()))
