#!/usr/bin/env python3
"""Networks with real guests: net.py CASE ENGINE (see meson.build). Guests are stock Debian kernels whose initrd gives a shell
on the console, in which the tests type. Everything happens in a network namespace of the test's own, where the host has one
address, so that nothing depends on this machine's network."""
import contextlib
import ctypes
import http.server
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

import vm
from vm import check

KERNEL = 'linux-image-cloud-amd64'
HOST = '198.51.100.1'
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
FAILED, USAGE, NOT_FOUND, CONFLICT, TIMEOUT, PERMISSION = 1, 2, 3, 4, 6, 7


def own_network():
    """Move this process into a network namespace that has HOST as its address; user namespaces allow that without root."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET if uid == 0 else CLONE_NEWNET | CLONE_NEWUSER) != 0:
        vm.skip(f'no network namespace: {os.strerror(ctypes.get_errno())}')
    if uid != 0:
        for name, text in (('setgroups', 'deny'), ('uid_map', f'0 {uid} 1'), ('gid_map', f'0 {gid} 1')):
            with open(f'/proc/self/{name}', 'w', encoding='ascii') as f:
                f.write(text)
    for command in ('link set lo up', f'addr add {HOST}/32 dev lo'):
        if subprocess.run(['ip', *command.split()], check=False).returncode != 0:
            vm.skip(f'this machine cannot: ip {command}')


def network(*arguments, code=0):
    run = subprocess.run([vm.CAISSON, 'network', *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                         timeout=60, check=False)
    check(run.returncode == code, f'network {arguments}: exit code {run.returncode}: {run.stderr}')
    if code:
        check(run.stderr.startswith('caisson: ') and run.stderr.count('\n') == 1, f'network {arguments}: {run.stderr!r}')
    return run.stderr if code else run.stdout


def inspect(name):
    return json.loads(network('inspect', name, '--json'))[0]


def switch_pid(name):
    """The process that holds the lock of a network."""
    inode = os.stat(os.path.join(os.environ['CAISSON_RUNTIME_DIR'], 'net', name + '.lock')).st_ino
    with open('/proc/locks', encoding='ascii') as f:
        for line in f:
            words = line.split()
            if words[1] == 'FLOCK' and int(words[5].split(':')[2]) == inode:
                return int(words[4])
    return None


def wait_until(condition, what, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        check(time.monotonic() < deadline, f'not in {timeout} s: {what}')
        time.sleep(0.1)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def places():
    """State and runtime directory of the test; at the end no switch is left."""
    own_network()
    base = os.environ['XDG_STATE_HOME'] # of vm.workplace
    os.environ['CAISSON_STATE_DIR'] = os.path.join(base, 's')
    os.environ['CAISSON_RUNTIME_DIR'] = os.path.join(base, 'r')
    try:
        yield
    finally:
        folder = os.path.join(base, 'r', 'net')
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            pid = switch_pid(name[:-len('.lock')]) if name.endswith('.lock') else None
            if pid:
                os.kill(pid, signal.SIGTERM)


class Guest:
    """A VM with a shell to type in."""

    def __init__(self, name, net, engine, options=()):
        kernel, initrd = vm.guest_kernel(KERNEL)
        self.name = name
        self.typed = 0
        # /dev/null is no root disk, which is noticed at once.
        self.vm = vm.Vm(['--kernel', kernel, '--initrd', initrd, '--engine', engine, '--name', name, '--net', net, '--append',
                         'console=ttyS0 quiet panic=-1 root=/dev/null', *options])

    def ready(self):
        self.vm.wait_for('/ # ')
        return self

    def run(self, command, timeout=None):
        """Type a command; returns its exit code and what it printed, the echo of the command with it."""
        self.typed += 1
        start = len(self.vm.output)
        self.vm.type(f'{command}; echo @{self.typed}=$?\n')
        match = self.vm.wait_for(rf'@{self.typed}=(\d+)', timeout, start)
        return int(match.group(1)), self.vm.output[start:match.start()]

    def ok(self, command, timeout=None):
        code, output = self.run(command, timeout)
        check(code == 0, f'{self.name}: {command}: {code}: {output}')
        return output

    def fails(self, command, timeout=None):
        code, output = self.run(command, timeout)
        check(code != 0, f'{self.name}: {command} went well: {output}')

    def up(self):
        """An address by DHCP; returns it."""
        self.ready()
        self.ok('ip link set lo up; ip link set eth0 up; udhcpc -i eth0 -n -q -t 10 -T 2 -s /etc/udhcpc.script')
        # The script of udhcpc may have flushed the IPv6 addresses too.
        self.ok('echo 1 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6')
        match = re.search(r'inet (10\.[\d.]+)/(\d+)', self.ok('ip -4 addr show dev eth0'))
        check(match, f'{self.name} has no address')
        return match.group(1)


    def six(self, pattern):
        """Its IPv6 address, once it has heard a router and found that nobody else has the address."""
        for _ in range(30):
            match = re.search(rf'inet6 ({pattern})/64 scope global (?!.*tentative)', self.ok('sleep 1; ip -6 addr show dev eth0'))
            if match:
                return match.group(1)
        raise vm.Failure(f'{self.name} has no IPv6 address of the network')


@contextlib.contextmanager
def guests(*all_guests):
    """Guests that are gone at the end; on failure their consoles are printed."""
    try:
        yield all_guests
    except BaseException:
        for guest in all_guests:
            print(f'---- {guest.name}: {" ".join(guest.vm.arguments)}')
            print(guest.vm.output)
        print('----')
        raise
    finally:
        for guest in all_guests:
            guest.vm.close()


@contextlib.contextmanager
def web(address, text):
    """A web server that says text; yields its port and the peers it heard."""
    heard = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.client_address[0])
            self.send_response(200)
            self.send_header('Content-Length', str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((address, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], heard
    finally:
        server.shutdown()


def tcp_between(sender, receiver, address, port):
    """4 MB from one guest to another arrive whole."""
    receiver.ok(f'(nc -l -p {port} | sha256sum >/tmp/got-{port}) & sleep 1')
    sender.ok('dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null')
    want = re.search(r'[0-9a-f]{64}', sender.ok('sha256sum /tmp/data')).group(0)
    sender.ok(f'nc {address} {port} </tmp/data')
    got = re.search(r'[0-9a-f]{64}', receiver.ok(f'wait; cat /tmp/got-{port}')).group(0)
    check(got == want, f'TCP from {sender.name} to {receiver.name} changed the data')


def case_pair(engine):
    """Two VMs on the default network: addresses, names, each other by IPv4 and IPv6, the outside by NAT, but no loopback."""
    with places(), guests(Guest('a', 'default', engine), Guest('b', 'default', engine)) as (a, b):
        first, second = a.up(), b.up()
        subnet = ipaddress.ip_network('10.188.0.0/24')
        check(first != second and all(ipaddress.ip_address(one) in subnet for one in (first, second)), f'{first} {second}')
        check(f'Address: {second}' in a.ok('nslookup b.default.internal'), 'a does not find b')
        check(f'Address: {first}' in b.ok('nslookup a.default.internal'), 'b does not find a')
        a.fails('nslookup c.default.internal')
        a.ok('ping -c 3 b.default.internal')
        a.ok('ping -c 3 10.188.0.1')
        tcp_between(a, b, 'b.default.internal', 1000)
        tcp_between(b, a, first, 1001)
        six = [guest.six(r'fdca:1550:88::?[0-9a-f:]+') for guest in (a, b)][1]
        a.ok(f'ping6 -c 3 {six}')
        with web(HOST, 'hello from the host') as (port, heard), web('127.0.0.1', 'a secret') as (inner, _):
            check('hello from the host' in a.ok(f'wget -q -O - http://{HOST}:{port}/'), 'no way out')
            check(heard == [HOST], f'the server heard {heard}')
            for address in ('10.188.0.1', '127.0.0.1'):
                a.fails(f'wget -T 5 -q -O - http://{address}:{inner}/')
        leases = {lease['host']: lease['ip'] for lease in json.loads(network('leases', 'default', '--json'))}
        check((leases.get('a'), leases.get('b')) == (first, second), f'leases: {leases}')
        seen = inspect('default')
        check((seen['state'], seen['n_ports']) == ('running', 2), f'{seen}')
        check({'a.0', 'b.0'} <= {port['name'] for port in seen['ports']}, f'{seen["ports"]}')
        pid = switch_pid('default')
        check(pid, 'nobody holds the lock of the network')
        a.vm.close()
        wait_until(lambda: inspect('default')['n_ports'] == 1, 'the port of a VM that was killed goes')
        b.vm.close()
        wait_until(lambda: not alive(pid), 'the switch ends after its last port')
        check(inspect('default')['state'] == 'stopped', 'still running')
        kept = sorted(lease['ip'] for lease in json.loads(network('leases', 'default', '--json')))
        check(kept == sorted((first, second)), f'leases of the stopped network: {kept}')


def records(path):
    """The frames of a pcap file."""
    with open(path, 'rb') as f:
        data = f.read()
    check(data[:4] in (b'\x4d\x3c\xb2\xa1', b'\xd4\xc3\xb2\xa1') and struct.unpack_from('<I', data, 20)[0] == 1, 'no pcap')
    frames, at = [], 24
    while at < len(data):
        length = struct.unpack_from('<I', data, at + 8)[0]
        check(at + 16 + length <= len(data), 'the last frame is cut')
        frames.append(data[at + 16:at + 16 + length])
        at += 16 + length
    return frames


def case_lab(engine):
    """A network that was created: a fixed address, a port forward, capture, removal while in use, leases over restarts."""
    with places():
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        network('create', 'lab', '--subnet', '10.91.0.0/24', '--host', '52:54:00:00:00:09=db=10.91.0.9', '-p',
                f'{port}:db:8080')
        pcap = os.path.join(os.environ['CAISSON_STATE_DIR'], 'lab.pcap')
        with guests(Guest('db', 'lab,mac=52:54:00:00:00:09', engine), Guest('c', 'lab', engine)) as (db, c):
            check(db.up() == '10.91.0.9', 'not the fixed address')
            other = c.up()
            with subprocess.Popen([vm.CAISSON, 'network', 'capture', 'lab', '-w', pcap], stderr=subprocess.PIPE) as capture:
                wait_until(lambda: os.path.exists(pcap), 'the capture begins')
                c.ok('ping -c 3 db.lab.internal')
                capture.send_signal(signal.SIGINT)
                check(capture.wait(30) == 0, f'capture: {capture.stderr.read()}')
            frames = records(pcap)
            pings = [frame for frame in frames if frame[12:14] == b'\x08\x00' and frame[23] == 1 and frame[34] in (0, 8)]
            check(len(pings) >= 6, f'{len(pings)} pings among {len(frames)} frames')
            db.ok('(echo hello from db | nc -l -p 8080 >/tmp/in) & sleep 1')
            with socket.create_connection(('127.0.0.1', port), 30) as s:
                s.sendall(b'hello from the host\n')
                s.shutdown(socket.SHUT_WR)
                check(b'hello from db' in s.recv(100), 'the port forward leads nowhere')
            check('hello from the host' in db.ok('wait; cat /tmp/in'), 'nothing came in')
            check('exists already' in network('create', 'lab', code=CONFLICT), 'two of a name')
            line = network('rm', 'lab', code=CONFLICT)
            check('2 ports' in line and 'db' in line and '--force' in line, line)
            c.vm.close()
            again = Guest('c', 'lab', engine)
            try:
                check(again.up() == other, 'a lease did not survive a restart of the VM')
                pid = switch_pid('lab')
                os.kill(pid, signal.SIGSTOP)
                check('does not answer' in network('rm', 'lab', code=TIMEOUT), 'what of a switch that does not answer?')
                network('rm', '--force', 'lab')
                wait_until(lambda: not alive(pid), 'the switch ends by force')
                check('lab' not in network('ls', '-q').split(), 'still listed')
                again.ok('true') # the VM lives on without its link
                again.fails('ping -c 1 -W 2 10.91.0.9')
            finally:
                again.vm.close()


def case_isolated(engine):
    """Mode isolated has no way out; isolated ports reach the gateway only; addresses cannot be borrowed."""
    with places():
        network('create', 'inner', '--mode', 'isolated', '--subnet', '10.92.0.0/24')
        network('create', 'apart', '--isolated', '--subnet', '10.93.0.0/24')
        with guests(Guest('a', 'inner', engine), Guest('b', 'inner', engine)) as (a, b), web(HOST, 'hello') as (port, heard):
            a.up()
            second = b.up()
            a.ok(f'ping -c 2 {second}')
            a.ok('ping -c 2 10.92.0.1')
            a.fails(f'wget -T 5 -q -O - http://{HOST}:{port}/')
            check(not heard, 'isolated, but outside')
            # A foreign address, then a foreign MAC: nothing passes, and the switch counts it.
            a.ok('ip addr add 10.92.0.77/24 dev eth0')
            a.fails(f'ping -c 2 -W 2 -I 10.92.0.77 {second}')
            a.ok('ip addr del 10.92.0.77/24 dev eth0; ip link set eth0 down; ip link set eth0 address 52:54:00:66:66:66; '
                 'ip link set eth0 up')
            a.fails(f'ping -c 2 -W 2 {second}')
            spoofed = {port['name']: port['counters']['in_spoofed'] for port in inspect('inner')['ports']}
            check(spoofed['a.0'] > 0 and spoofed['b.0'] == 0, f'spoofed: {spoofed}')
        with guests(Guest('a', 'apart', engine), Guest('b', 'apart', engine)) as (a, b), web(HOST, 'hello') as (port, _):
            a.up()
            second = b.up()
            a.fails(f'ping -c 2 -W 2 {second}')
            a.ok('ping -c 2 10.93.0.1')
            check('hello' in a.ok(f'wget -q -O - http://{HOST}:{port}/'), 'no way out')


def case_cards(engine):
    """Two cards on two networks, and VLANs on one: who is in the same one reaches the other, nobody else."""
    with places():
        for name in ('x', 'y'):
            network('create', name, '--mode', 'isolated', '--dhcp', 'off', '--dns', 'off', '--subnet6', 'none')
        made = Guest('a', 'x,vlan=10', engine, ['--net', 'y']), Guest('b', 'x,vlan=10', engine), \
            Guest('c', 'x,vlan=20', engine), Guest('d', 'y', engine)
        with guests(*made) as (a, b, c, d):
            for guest, addresses in ((a, ('10.1.0.1', '10.2.0.1')), (b, ('10.1.0.2',)), (c, ('10.1.0.3',)), (d, ('10.2.0.4',))):
                guest.ready()
                for card, address in enumerate(addresses):
                    guest.ok(f'ip link set eth{card} up; ip addr add {address}/24 dev eth{card}')
            a.ok('ping -c 2 10.1.0.2')
            a.ok('ping -c 2 10.2.0.4')
            tcp_between(a, d, '10.2.0.4', 1000)
            a.fails('ping -c 2 -W 2 10.1.0.3')
            c.fails('ping -c 2 -W 2 10.1.0.1')
            b.fails('ping -c 2 -W 2 10.2.0.4')
            vlans = [{port['name']: port['vlan'] for port in inspect(name)['ports'] if '.' in port['name']} for name in 'xy']
            check(vlans == [{'a.0': 10, 'b.0': 10, 'c.0': 20}, {'a.1': 0, 'd.0': 0}], f'{vlans}')


def case_lost(engine):
    """A switch that is killed takes no VM with it, and the next VM gets a new one; two VMs that start at once share one."""
    with places(), guests(Guest('a', 'default', engine)) as (a,):
        first = a.up()
        pid = switch_pid('default')
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), 'the switch dies')
        check(inspect('default')['state'] == 'stopped', 'a dead switch counts as running')
        a.vm.wait_for('caisson: warning: network default: its switch has ended, and .* started again')
        a.ok('true')
        a.fails('ping -c 1 -W 2 10.188.0.1')
        with guests(Guest('b', 'default', engine), Guest('c', 'default', engine)) as (b, c):
            second, third = b.up(), c.up()
            check(len({first, second, third}) == 3, f'addresses {first} {second} {third}: the lease of a was forgotten')
            b.ok(f'ping -c 2 {third}')
            os.kill(switch_pid('default'), signal.SIGSTOP)
            check(inspect('default')['state'] == 'unknown', 'a switch that does not answer')
            os.kill(switch_pid('default'), signal.SIGCONT)
            line = vm_refused(['--name', 'c', '--net', 'default'], CONFLICT)
            check('default' in line and 'c.0' in line, line)
        wait_until(lambda: inspect('default')['state'] == 'stopped', 'the second switch ends')


def ip(*commands):
    """ip(8), or the test is skipped: kernels without the device exist."""
    for command in commands:
        if subprocess.run(['ip', *command.split()], check=False).returncode != 0:
            vm.skip(f'this machine cannot: ip {command}')


@contextlib.contextmanager
def outside():
    """A host of the outside in a network namespace of its own: 203.0.113.2, with a web server on port 8000. Yields a command
    that runs others there."""
    with tempfile.TemporaryDirectory(prefix='caisson-outside-') as folder, \
            subprocess.Popen(['unshare', '-n', 'sh', '-c', 'echo; exec sleep 3600'], stdout=subprocess.PIPE) as holder:
        enter = ['nsenter', '-t', str(holder.pid), '-n']
        try:
            holder.stdout.readline()
            ip('link add veth0 type veth peer name veth1', f'link set veth1 netns {holder.pid}',
               'addr add 203.0.113.1/24 dev veth0', 'link set veth0 up')
            for command in ('ip addr add 203.0.113.2/24 dev veth1', 'ip link set veth1 up', 'ip link set lo up'):
                subprocess.run([*enter, *command.split()], check=True)
            with open(os.path.join(folder, 'page'), 'w', encoding='ascii') as f:
                f.write('hello from outside')
            with subprocess.Popen([*enter, 'python3', '-m', 'http.server', '-d', folder, '--bind', '203.0.113.2', '8000'],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
                try:
                    wait_until(lambda: subprocess.run([*enter, 'ss', '-Htln', 'sport', '=', ':8000'], capture_output=True,
                                                      check=True).stdout, 'the web server listens')
                    yield enter, server
                finally:
                    server.kill()
        finally:
            holder.kill()


def case_kernel(engine):
    """NAT by the kernel: out, back in by a forwarded port, names, and no way in but that; nothing is left behind."""
    if os.geteuid() != 0 or not shutil.which('nft'):
        vm.skip('needs root and nft')
    with places(), outside() as (enter, _):
        network('create', 'routed', '--backend', 'nft', '--subnet', '10.97.0.0/24', '--tap', 'caisnat0', '--host',
                '52:54:00:00:00:07=web=10.97.0.7', '-p', '203.0.113.1:8022:web:8080')
        with guests(Guest('web', 'routed,mac=52:54:00:00:00:07', engine), Guest('c', 'routed', engine)) as (served, c):
            check(served.up() == '10.97.0.7', 'not the fixed address')
            c.up()
            c.ok('ping -c 2 web.routed.internal')
            check('hello from outside' in c.ok('wget -q -O - http://203.0.113.2:8000/page'), 'no way out')
            served.ok('(echo hello from web | nc -l -p 8080 >/tmp/in) & sleep 1')
            ask = ('import socket; s = socket.create_connection(("203.0.113.1", 8022), 30); s.sendall(b"hello from far"); '
                   's.shutdown(1); print(s.recv(100))')
            asked = subprocess.run([*enter, 'python3', '-c', ask], capture_output=True, text=True, timeout=60, check=False)
            check('hello from web' in asked.stdout, f'the port forward: {asked}')
            check('hello from far' in served.ok('wait; cat /tmp/in'), 'nothing came in')
            subprocess.run([*enter, 'ip', 'route', 'add', '10.97.0.0/24', 'via', '203.0.113.1'], check=True)
            knock = subprocess.run([*enter, 'ping', '-c', '1', '-W', '2', '10.97.0.7'], capture_output=True, check=False)
            check(knock.returncode != 0, 'a guest can be reached from outside without a forward')
        wait_until(lambda: inspect('routed')['state'] == 'stopped', 'the switch ends')
        wait_until(lambda: not os.path.exists('/sys/class/net/caisnat0'), 'its tap goes')
        wait_until(lambda: 'routed' not in subprocess.run(['nft', 'list', 'tables'], capture_output=True, text=True,
                                                          check=True).stdout, 'its rules go')


def case_bridge(engine):
    """Guests on a Linux bridge and on a tap of the host's are part of its network."""
    with places():
        ip('link add cbr0 type bridge', 'addr add 10.95.0.254/24 dev cbr0', 'link set cbr0 up', 'tuntap add ctap0 mode tap',
           'addr add 10.96.0.254/24 dev ctap0', 'link set ctap0 up')
        network('create', 'bridged', '--mode', 'bridge', '--bridge', 'cbr0')
        network('create', 'tapped', '--mode', 'bridge', '--tap', 'ctap0')
        for name, net in (('bridged', '10.95.0'), ('tapped', '10.96.0')):
            with guests(Guest('a', name, engine), Guest('b', name, engine)) as both, web(f'{net}.254', 'hello') as (port, heard):
                for i, guest in enumerate(both, 1):
                    guest.ready().ok(f'ip link set eth0 up; ip addr add {net}.{i}/24 dev eth0')
                both[0].ok(f'ping -c 2 {net}.2')
                both[1].ok(f'ping -c 2 {net}.254')
                check('hello' in both[1].ok(f'wget -q -O - http://{net}.254:{port}/'), f'{name}: no way to the host')
                check(heard == [f'{net}.2'], f'{name}: the server heard {heard}')
                tcp_between(both[0], both[1], f'{net}.2', 1000)


def vm_refused(options, code):
    kernel, initrd = vm.guest_kernel(KERNEL)
    run = subprocess.run([vm.CAISSON, 'vm', 'run', '--kernel', kernel, '--initrd', initrd, *options], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=60, check=False)
    check(run.returncode == code, f'{options}: exit code {run.returncode}: {run.stderr}')
    check(run.stderr.startswith('caisson: ') and run.stderr.count('\n') == 1, f'{options}: {run.stderr!r}')
    return run.stderr


def case_reset(engine):
    """A guest that resets itself keeps its port: the VMM starts afresh on the same rings, with frames in them."""
    with places(), guests(Guest('a', 'default,queues=2', engine, ('--cpus', '2')), Guest('b', 'default', engine)) as (a, b):
        first, second = a.up(), b.up()
        for turn in range(3):
            b.ok(f'ping -c 20 -i 0.2 {first} >/dev/null & sleep 1')
            start = len(a.vm.output)
            a.vm.type('reboot -f\n')
            again = a.vm.wait_for('CAISSON-INIT no root disk', start=start)
            a.vm.wait_for('/ # ', start=again.end())
            check(a.up() == first, 'another address after a reset')
            tcp_between(a, b, second, 1000 + turn)
            tcp_between(b, a, first, 1100 + turn)
        check(inspect('default')['n_ports'] == 2, 'ports')


def case_refused(engine):
    """One clear line: unknown network, port that is taken, tap and bridge that are not there, too big an MTU."""
    with places(), socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        network('create', 'taken', '--subnet', '10.94.0.0/24', '-p', f'{port}:web:80')
        network('create', 'tapped', '--mode', 'bridge', '--tap', 'nosuchtap')
        network('create', 'bridged', '--mode', 'bridge', '--bridge', 'nosuchbr')
        for net, code, words in [('dfault', NOT_FOUND, ["'dfault'", "did you mean 'default'"]),
                                 ('elsewhere', NOT_FOUND, ['elsewhere', 'caisson network ls']),
                                 ('taken', CONFLICT, ['taken', str(port)]),
                                 ('tapped', NOT_FOUND, ['nosuchtap', 'ip tuntap add']),
                                 ('bridged', NOT_FOUND, ['nosuchbr', 'ip link add']),
                                 ('default,mtu=9000', USAGE, ['default', '1500', 'mtu=1500'])]:
            line = vm_refused(['--engine', engine, '--net', net], code)
            check(all(word in line for word in words), f'{net}: {line!r} lacks one of {words}')
        for name in ('taken', 'tapped', 'bridged'):
            check(inspect(name)['state'] == 'stopped', f'{name} runs')
    if os.geteuid() == 0:
        refused_as_nobody()


def refused_as_nobody():
    """Taps and NAT by the kernel need rights; the line says which, and what does without."""
    kernel, initrd = vm.guest_kernel(KERNEL)
    with tempfile.TemporaryDirectory(prefix='caisson-nobody-') as folder:
        for path in (vm.CAISSON, os.path.join(vm.BUILD, 'caisson-vmm'), os.path.join(vm.BUILD, 'caisson-switch'), kernel, initrd):
            shutil.copy(path, folder)
        os.chmod(folder, 0o755)
        os.mkdir(os.path.join(folder, 'own'), 0o700)
        os.chown(os.path.join(folder, 'own'), 65534, 65534)
        env = {**os.environ, **{f'CAISSON_{kind}_DIR': os.path.join(folder, 'own', kind) for kind in ('STATE', 'RUNTIME')}}
        for options, words in ((['--backend', 'nft'], ['root', '--backend slirp']),
                               (['--mode', 'bridge', '--bridge', 'br0'], ['root', 'tap devices'])):
            for arguments, code in ((['network', 'create', 'n', *options], 0),
                                    (['vm', 'run', '--kernel', os.path.join(folder, 'vmlinuz'), '--net', 'n'], PERMISSION),
                                    (['network', 'rm', 'n'], 0)):
                run = subprocess.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups',
                                      os.path.join(folder, 'caisson'), *arguments], stdin=subprocess.DEVNULL, env=env,
                                     capture_output=True, text=True, timeout=60, check=False)
                check(run.returncode == code, f'as nobody: {arguments}: {run}')
                check(not code or all(word in run.stderr for word in words), f'as nobody: {arguments}: {run.stderr}')


if __name__ == '__main__':
    vm.main({name[len('case_'):]: value for name, value in list(globals().items()) if name.startswith('case_')})
