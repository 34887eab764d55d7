#!/usr/bin/env python3
"""Networks in network namespaces: netns.py GATEWAY CASE

The host, the outside and each guest is a namespace of its own; GATEWAY (gateway.c) runs on the host with a switch, our
services and NAT. The kernel's network stack, dhclient, dig, ping and sockets are the oracle. Exit status 77: skipped,
the last line says why.
"""
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
from program import SKIP, Failure, expect, until

TOOLS = ('ip', 'nft', 'dhclient', 'udhcpc', 'rdisc6', 'dig', 'ping', 'dnsmasq', 'unshare', 'mount')
PROGRAM, CASE = os.path.abspath(sys.argv[1]), sys.argv[2]
CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
MACS = {'g1': '52:54:00:00:00:01', 'g2': '52:54:00:00:00:02'}


def run(*command, check=True, timeout=60):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout)
    if check and done.returncode != 0:
        raise Failure(f'{" ".join(command)}: {done.returncode}\n{done.stdout}{done.stderr}')
    return done.stdout


def inside(space, *command, **options):
    return run('ip', 'netns', 'exec', space, *command, **options)


def in_space(space, function):
    """Call function on a thread in that namespace: sockets that it makes stay there."""
    result = []

    def body():
        with open(f'/run/netns/{space}', encoding='ascii') as f:
            if LIBC.setns(f.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), 'setns')
        try:
            result.append(function())
        except OSError as error:
            result.append(error)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return result[0]


# Not the system's, which writes /etc/resolv.conf.
DHCLIENT_SCRIPT = '''#!/bin/sh
case $reason in
PREINIT) ip link set "$interface" up ;;
BOUND|RENEW|REBIND|REBOOT)
    ip addr replace "$new_ip_address/24" broadcast "$new_broadcast_address" dev "$interface"
    [ -z "$new_routers" ] || ip route replace default via "$new_routers" ;;
EXPIRE|FAIL|RELEASE|STOP) ip -4 addr flush dev "$interface" ;;
esac
'''


class Echo:
    """Serves TCP and UDP: answers with the peer's address and what was sent."""

    def __init__(self, space, address, port):
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        self.tcp = in_space(space, lambda: socket.create_server((address, port), family=family))
        self.udp = in_space(space, lambda: socket.socket(family, socket.SOCK_DGRAM))
        self.udp.bind((address, port))
        threading.Thread(target=self.serve_tcp, daemon=True).start()
        threading.Thread(target=self.serve_udp, daemon=True).start()

    def serve_tcp(self):
        while True:
            try:
                peer, address = self.tcp.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(peer, address), daemon=True).start()

    @staticmethod
    def answer(peer, address):
        with peer:
            data = b''
            while chunk := peer.recv(65536):
                data += chunk
            peer.sendall(address[0].encode() + b' ' + data)

    def serve_udp(self):
        while True:
            try:
                data, address = self.udp.recvfrom(65536)
                self.udp.sendto(address[0].encode() + b' ' + data, address)
            except OSError:
                return


def tcp(space, address, port, data=b'hello'):
    def talk():
        with socket.create_connection((address, port), timeout=10) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            answer = b''
            while chunk := s.recv(65536):
                answer += chunk
            return answer.decode()
    found = in_space(space, talk)
    return found if isinstance(found, str) else f'{type(found).__name__}: {found}'


def udp(space, address, port, data=b'hello'):
    def talk():
        family = socket.AF_INET6 if ':' in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            s.settimeout(5)
            s.connect((address, port))
            s.send(data)
            return s.recv(65536).decode()
    found = in_space(space, talk)
    return found if isinstance(found, str) else f'{type(found).__name__}: {found}'


class Gateway:
    def __init__(self, mode, folder, mtu=1500):
        self.process = subprocess.Popen(['ip', 'netns', 'exec', 'host', PROGRAM, mode, f'{folder}/resolv.conf',
                                         f'{folder}/leases', str(mtu)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.banner = self.process.stdout.readline().strip()
        if not self.banner.startswith('ready'):
            raise Failure(f'gateway: {self.banner}')

    def ask(self, command):
        self.process.stdin.write(command + '\n')
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def guest(self, name, mtu=1500):
        """A tap of the switch's, moved to a namespace of its own."""
        expect(f'port for {name}', self.ask(f'up tap-{name} {MACS[name]} vm-{name}'), 'ok')
        run('ip', '-n', 'host', 'link', 'set', f'tap-{name}', 'netns', name, 'name', 'eth0', 'address', MACS[name])
        run('ip', '-n', name, 'link', 'set', 'eth0', 'mtu', str(mtu))
        run('ip', '-n', name, 'link', 'set', 'eth0', 'up')

    def end(self):
        self.process.stdin.close()
        expect('the gateway ends well', self.process.wait(30), 0)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)


def lease(space, folder, *options):
    """dhclient in a guest; returns its address."""
    with open(f'{folder}/dhclient.conf', 'w', encoding='ascii') as f:
        f.write(f'send host-name "own-{space}";\nrequest subnet-mask, routers, domain-name-servers, domain-name, '
                'interface-mtu, host-name, broadcast-address;\ntimeout 20;\n')
    script = f'{folder}/dhclient-script'
    with open(script, 'w', encoding='ascii') as f:
        f.write(DHCLIENT_SCRIPT)
    os.chmod(script, 0o755)
    inside(space, 'dhclient', '-4', '-1', '-v', '-sf', script, '-cf', f'{folder}/dhclient.conf',
           '-lf', f'{folder}/{space}.leases', '-pf', f'{folder}/{space}.pid', *options, 'eth0')
    found = re.search(r'inet (10\.\d+\.\d+\.\d+)/24 ', run('ip', '-n', space, '-o', '-4', 'addr', 'show', 'eth0'))
    return found.group(1) if found else ''


def udhcpc(space, folder, *options):
    """busybox's client; what it says."""
    script = f'{folder}/udhcpc-script'
    with open(script, 'w', encoding='ascii') as f:
        f.write('#!/bin/sh\n[ "$1" = deconfig ] || echo "$1 ip=$ip mask=$mask dns=$dns mtu=$mtu lease=$lease '
                'domain=$domain hostname=$hostname serverid=$serverid"\n')
    os.chmod(script, 0o755)
    return inside(space, 'udhcpc', '-i', 'eth0', '-n', '-q', '-f', '-t', '5', '-s', script, *options)


def stop_dhclient(space, folder, release=False):
    inside(space, 'dhclient', '-4', '-r' if release else '-x', '-cf', f'{folder}/dhclient.conf', '-lf',
           f'{folder}/{space}.leases', '-pf', f'{folder}/{space}.pid', 'eth0', check=False)


def address6(space):
    def probe():
        found = re.search(r'inet6 (fd[0-9a-f:]+)/64 scope global dynamic',
                          run('ip', '-n', space, '-o', '-6', 'addr', 'show', 'eth0'))
        tentative = 'tentative' in run('ip', '-n', space, '-o', '-6', 'addr', 'show', 'eth0')
        return found.group(1) if found and not tentative else None
    return until(f'{space} has an address by SLAAC', probe)


def dig(space, *question):
    return inside(space, 'dig', '@10.88.0.1', '+tries=2', '+time=3', '+noall', '+answer', '+comments', *question,
                  check=False)


def lay_out(folder):
    """host 203.0.113.1 -- outside 203.0.113.2, 2001:db8:5::/64, with a DNS server .53 (dnsmasq)."""
    for name in ('host', 'outside', 'g1', 'g2'):
        run('ip', 'netns', 'add', name)
        run('ip', '-n', name, 'link', 'set', 'lo', 'up')
    run('ip', 'netns', 'exec', 'host', 'sysctl', '-qw', 'net.ipv4.ip_forward=0') # a new one has what the machine has
    run('ip', 'link', 'add', 'wan', 'netns', 'host', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', 'outside')
    for space, link, n in (('host', 'wan', 1), ('outside', 'eth0', 2)):
        run('ip', '-n', space, 'addr', 'add', f'203.0.113.{n}/24', 'dev', link)
        run('ip', '-n', space, 'addr', 'add', f'2001:db8:5::{n}/64', 'dev', link, 'nodad')
        run('ip', '-n', space, 'link', 'set', link, 'up')
    run('ip', '-n', 'outside', 'addr', 'add', '203.0.113.53/24', 'dev', 'eth0')
    with open(f'{folder}/resolv.conf', 'w', encoding='ascii') as f:
        f.write('nameserver 203.0.113.53\n')
    run('mount', '--bind', f'{folder}/resolv.conf', '/etc/resolv.conf')
    big = ','.join(f'"{"x" * 200}{n}"' for n in range(8))
    server = subprocess.Popen(['ip', 'netns', 'exec', 'outside', 'dnsmasq', '-k', '-C', '/dev/null', '--no-resolv',
                               '--no-hosts', '--listen-address=203.0.113.53', '--bind-interfaces', '--user=root', '--pid-file=',
                               '--host-record=www.example.org,203.0.113.80,2001:db8:5::80', '--auth-ttl=60',
                               f'--txt-record=big.example.org,{big}'], stderr=subprocess.DEVNULL)
    until('dnsmasq listens', lambda: '203.0.113.53:53' in inside('outside', 'ss', '-lun'))
    return server


def check_guest(space, folder, mtu=1500):
    """DHCP options as the kernel and dhclient see them."""
    address = lease(space, folder)
    expect(f'{space} has a lease', address, r'^10\.88\.0\.1\d\d$')
    with open(f'{folder}/{space}.leases', encoding='ascii') as f:
        text = f.read()
    for option in ('subnet-mask 255.255.255.0', 'domain-name-servers 10.88.0.1', 'domain-name "net.internal"',
                   f'interface-mtu {mtu}', 'broadcast-address 10.88.0.255', 'dhcp-server-identifier 10.88.0.1',
                   'dhcp-lease-time 3600', f'host-name "vm-{space}"'):
        expect(f'{space}: option {option}', text, re.escape(option))
    return address


def check_names(a1, a2, a6):
    expect('A of the other guest', dig('g1', 'vm-g2.net.internal', 'A'), rf'ANSWER: 1.*\n.*\n*(.*\n)*.*IN\s+A\s+{re.escape(a2)}')
    expect('authority', dig('g1', 'vm-g2.net.internal', 'A'), r'flags: qr aa rd ra')
    expect('bare name', dig('g2', 'VM-G1', 'A'), rf'IN\s+A\s+{re.escape(a1)}')
    expect('AAAA', dig('g2', 'vm-g1.net.internal', 'AAAA'), rf'IN\s+AAAA\s+{re.escape(a6)}')
    expect('AAAA by TTL and type only', dig('g2', 'vm-g1.net.internal', 'MX'), r'NOERROR(.*\n)*.*ANSWER: 0')
    expect('no such name', dig('g1', 'nobody.net.internal', 'A'), r'NXDOMAIN')
    expect('PTR', dig('g1', '-x', a2), r'PTR\s+vm-g2\.net\.internal\.')
    expect('PTR of IPv6', dig('g2', '-x', a6), r'PTR\s+vm-g1\.net\.internal\.')
    expect('by IPv6', inside('g1', 'dig', '@fd88::1', '+short', 'vm-g2.net.internal'), rf'^{re.escape(a2)}$')


def check_between(a1, a2):
    echo = Echo('g2', a2, 7000)
    expect('TCP between guests', tcp('g1', a2, 7000, b'x' * 300000), rf'^{re.escape(a1)} x{{300000}}$')
    expect('UDP between guests', udp('g1', a2, 7000), rf'^{re.escape(a1)} hello$')
    return echo


def two_guests(g, folder):
    """What holds for each network; returns the addresses of g1, g2, and g1's by IPv6."""
    g.guest('g1')
    g.guest('g2')
    a1, a2 = check_guest('g1', folder), check_guest('g2', folder)
    a6 = address6('g1')
    check_names(a1, a2, a6)
    check_between(a1, a2)
    return a1, a2, a6


def case_isolated(folder):
    g = Gateway('isolated', folder)
    a1, a2, _ = two_guests(g, folder)
    expect('no route out', run('ip', '-n', 'g1', 'route'), r'^(?!default)')
    expect('no default route in IPv6', 'default' in run('ip', '-n', 'g1', '-6', 'route'), False)
    expect('ping of the gateway', inside('g1', 'ping', '-c', '2', '-i', '0.2', '10.88.0.1'), r' 0% packet loss')
    expect('ping by IPv6', inside('g1', 'ping', '-c', '2', '-i', '0.2', 'fd88::1'), r' 0% packet loss')
    expect('nothing is forwarded', dig('g1', 'www.example.org', 'A'), r'REFUSED')
    expect('no forwards', g.ask('forward tcp 127.0.0.1 8080 vm-g1 80'), 'EOPNOTSUPP')
    expect('udhcpc', udhcpc('g2', folder), rf'bound ip={re.escape(a2)} mask=24 dns=10.88.0.1 mtu=1500 lease=3600 '
           'domain=net.internal hostname=vm-g2 serverid=10.88.0.1')
    expect('udhcpc wants an address of another', udhcpc('g2', folder, '-r', a1), rf'ip={re.escape(a2)} ')
    ra = inside('g1', 'rdisc6', '-1', 'eth0')
    for line in (r'Prefix +: fd88::/64', r'On-link +: +Yes', r'Autonomous address conf.: +Yes', r'MTU +: +1500 bytes',
                 r'Source link-layer address: 52:55:0A:58:00:01', r'Recursive DNS server +: fd88::1',
                 r'DNS search list +: net.internal', r'Stateful other conf. +: +Yes', r'Router lifetime +: +0 ',
                 r'from fe80::1'):
        expect(f'router advertisement: {line}', ra, line)
    with open(f'{folder}/script6', 'w', encoding='ascii') as f:
        f.write(f'#!/bin/sh\nenv >>{folder}/env6\n')
    os.chmod(f'{folder}/script6', 0o755)
    inside('g1', 'dhclient', '-6', '-S', '-1', '-sf', f'{folder}/script6', '-lf', f'{folder}/g1.leases6',
           '-pf', f'{folder}/g1.pid6', 'eth0')
    with open(f'{folder}/env6', encoding='ascii') as f:
        found = f.read()
    expect('stateless DHCPv6: DNS', found, r'new_dhcp6_name_servers=fd88::1\n')
    expect('stateless DHCPv6: domain', found, r'new_dhcp6_domain_search=net.internal')
    # Somebody else's address: the filter lets nothing of it out.
    run('ip', '-n', 'g1', 'addr', 'add', '10.88.0.77/24', 'dev', 'eth0')
    expect('a stolen address is of no use', inside('g1', 'ping', '-c', '1', '-W', '1', '-I', '10.88.0.77', '10.88.0.1', check=False),
           r'100% packet loss')
    g.end()


def check_outside(source4, source6):
    expect('TCP to the outside', tcp('g1', '203.0.113.2', 7000, b'y' * 1000000), rf'^{re.escape(source4)} y{{1000000}}$')
    expect('UDP to the outside', udp('g1', '203.0.113.2', 7000, b'u' * 1400), rf'^{re.escape(source4)} u{{1400}}$')
    expect('ping of the outside', inside('g1', 'ping', '-c', '2', '-i', '0.2', '203.0.113.2'), r' 0% packet loss')
    expect('TCP by IPv6', tcp('g1', '2001:db8:5::2', 7000, b'z' * 100000), rf'^{re.escape(source6)} z{{100000}}$')
    expect('UDP by IPv6', udp('g1', '2001:db8:5::2', 7000), rf'^{re.escape(source6)} hello$')
    expect('names of the outside', dig('g1', 'www.example.org', 'A'), r'IN\s+A\s+203\.0\.113\.80')
    expect('AAAA of the outside', dig('g1', 'www.example.org', 'AAAA'), r'IN\s+AAAA\s+2001:db8:5::80')
    expect('refused outside stays refused', dig('g1', 'none.example.org', 'A'), r'REFUSED|NXDOMAIN')
    expect('too long for UDP', dig('g1', '+ignore', '+noedns', 'big.example.org', 'TXT'), r'flags: qr[a-z ]* tc')
    expect('and whole by TCP', dig('g1', 'big.example.org', 'TXT'), r'ANSWER: 1')
    expect('TCP was what did it', dig('g1', '+tcp', 'big.example.org', 'TXT'), r'x{200}7')


def check_forwards(g, a1, a6):
    web, web6 = Echo('g1', a1, 80), Echo('g1', a6, 80)
    expect('forward', g.ask('forward tcp 0.0.0.0 8080 vm-g1 80'), 'ok')
    expect('forward of UDP', g.ask('forward udp 203.0.113.1 8080 vm-g1 80'), 'ok')
    expect('forward of loopback', g.ask('forward tcp 127.0.0.1 8081 vm-g1 80'), 'ok')
    expect('forward of IPv6', g.ask('forward tcp 2001:db8:5::1 8080 vm-g1 80'), 'ok')
    expect('one for a guest that is not there yet', g.ask('forward tcp 0.0.0.0 9090 later 80'), 'ok')
    expect('twice the same', g.ask('forward tcp 203.0.113.1 8080 vm-g1 81'), 'EEXIST')
    busy = in_space('host', lambda: socket.create_server(('0.0.0.0', 8090)))
    expect('a port in use', g.ask('forward tcp 0.0.0.0 8090 vm-g1 80'), 'EADDRINUSE')
    expect('an address of others', g.ask('forward tcp 203.0.113.9 8091 vm-g1 80'), 'EADDRNOTAVAIL')
    expect('a port in use, for a guest that is not there yet', g.ask('forward tcp 0.0.0.0 8090 later 80'), 'EADDRINUSE')
    busy.close()
    expect('from outside', tcp('outside', '203.0.113.1', 8080, b'w' * 200000), r'^203\.0\.113\.2 w{200000}$')
    expect('UDP from outside', udp('outside', '203.0.113.1', 8080), r'^203\.0\.113\.2 hello$')
    expect('from the host', tcp('host', '127.0.0.1', 8081), r'^10\.88\.0\.1 hello$')
    expect('from outside by IPv6', tcp('outside', '2001:db8:5::1', 8080), r'^(2001:db8:5::2|fd88::1|fe80::\S*) hello$')
    expect('loopback only for the host', tcp('outside', '203.0.113.1', 8081), r'Refused')
    expect('forward removed', g.ask('unforward tcp 0.0.0.0 8080'), 'ok')
    expect('removed twice', g.ask('unforward tcp 0.0.0.0 8080'), 'ENOENT')
    expect('and gone', tcp('outside', '203.0.113.1', 8080), r'Refused')
    return web, web6


def case_slirp(folder):
    echo = [Echo('outside', '203.0.113.2', 7000), Echo('outside', '2001:db8:5::2', 7000)]
    host = Echo('host', '127.0.0.1', 7001)
    g = Gateway('slirp', folder)
    a1, _, a6 = two_guests(g, folder)
    check_outside('203.0.113.1', '2001:db8:5::1')
    check_forwards(g, a1, a6)
    expect("the host's loopback is out of reach", tcp('g1', '10.88.0.1', 7001), r'Refused|[Tt]imed|[Uu]nreachable')
    g.end()
    return echo, host


def keeper_status(g):
    """/proc/PID/status of the gateway's child."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/status', encoding='ascii') as f:
                text = f.read()
        except OSError:
            continue
        if re.search(rf'^PPid:\s*{g.process.pid}$', text, re.M):
            return text
    raise Failure('the gateway has no child')


def keeper(g):
    return int(re.search(r'^Pid:\s*(\d+)$', keeper_status(g), re.M).group(1))


def keeper_power(g):
    """Its effective capabilities."""
    return re.search(r'^CapEff:\s*(\w+)$', keeper_status(g), re.M).group(1)


def case_nft(folder):
    echo = [Echo('outside', '203.0.113.2', 7000), Echo('outside', '2001:db8:5::2', 7000)]
    host = Echo('host', '0.0.0.0', 7001)
    inside('host', 'nft', 'add table inet caisson_nettest { chain old { } ; }')  # of a run that was killed
    g = Gateway('nft', folder)
    expect('routing was switched on, and it says so', g.banner, r'changed=3 interface=cais0')
    expect('leftovers are gone', 'old' in inside('host', 'nft', 'list', 'ruleset'), False)
    a1, _, a6 = two_guests(g, folder)
    check_outside('203.0.113.1', '2001:db8:5::1')
    expect('ping of the gateway', inside('g1', 'ping', '-c', '2', '-i', '0.2', '10.88.0.1'), r' 0% packet loss')
    expect('ping of the gateway by IPv6', inside('g1', 'ping', '-c', '2', '-i', '0.2', 'fd88::1'), r' 0% packet loss')
    check_forwards(g, a1, a6)
    expect('a guest reaches its own network by a forward', g.ask('forward tcp 203.0.113.1 8082 vm-g1 80'), 'ok')
    expect('hairpin', tcp('g2', '203.0.113.1', 8082), r'^10\.88\.0\.1 hello$')
    run('ip', 'netns', 'exec', 'g2', 'sysctl', '-qw', 'net.ipv4.conf.all.route_localnet=1')
    run('ip', '-n', 'g2', 'route', 'add', '127.0.0.2/32', 'via', '10.88.0.1')
    expect('forward of a loopback address', g.ask('forward tcp 127.0.0.2 8083 vm-g1 80'), 'ok')
    expect('for the host', tcp('host', '127.0.0.2', 8083), r'^10\.88\.0\.1 hello$')
    inside('g2', 'ip', 'route', 'del', 'local', '127.0.0.0/8', 'dev', 'lo', 'table', 'local')
    expect('not for guests', tcp('g2', '127.0.0.2', 8083), r'Refused|[Tt]imed|[Uu]nreachable')
    # What must not work: guests from outside without a forward, the host's services from guests.
    run('ip', '-n', 'outside', 'route', 'add', '10.88.0.0/24', 'via', '203.0.113.1')
    expect('no way in', inside('outside', 'ping', '-c', '1', '-W', '1', a1, check=False), r'100% packet loss')
    expect("the host's services are out of reach", inside('g1', 'timeout', '2', 'bash', '-c', 'exec 3<>/dev/tcp/10.88.0.1/7001 && echo open',
                                                          check=False), '^$')
    expect('the keeper of the rules has little power', keeper_power(g), '0000000000001400')
    rules = inside('host', 'nft', 'list', 'ruleset')
    expect('rules', rules, r'table inet caisson_nettest')
    g.kill()
    # A keeper that is slow to notice does not take away the rules of the next one.
    g = Gateway('nft', folder)
    slow = keeper(g)
    os.kill(slow, signal.SIGSTOP)
    g.kill()
    threading.Timer(1, os.kill, (slow, signal.SIGCONT)).start()
    g = Gateway('nft', folder)
    until('the earlier keeper ends', lambda: not os.path.exists(f'/proc/{slow}/exe'))
    expect('its successor keeps the rules', inside('host', 'nft', 'list', 'ruleset'), r'table inet caisson_nettest')
    g.kill()
    until('the rules go with the process, killed or not', lambda: inside('host', 'nft', 'list', 'ruleset') == '')
    expect('the tap too', 'cais0' in run('ip', '-n', 'host', 'link'), False)
    with open(f'{folder}/resolv.conf', 'w', encoding='ascii') as f:
        f.write('nameserver 127.0.0.53\n')
    server = subprocess.Popen(['ip', 'netns', 'exec', 'host', 'dnsmasq', '-k', '-C', '/dev/null', '--no-resolv',
                               '--no-hosts', '--listen-address=127.0.0.53', '--bind-interfaces', '--user=root', '--pid-file=',
                               '--log-facility=-', '--log-queries=extra', '--host-record=stub.example.org,203.0.113.99'],
                              stderr=subprocess.PIPE, text=True)
    until('dnsmasq listens on loopback', lambda: '127.0.0.53:53' in inside('host', 'ss', '-ltn'))
    g = Gateway('nft', folder)
    expect('routing is on already', g.banner, r'changed=0')
    run('ip', 'netns', 'del', 'g1')
    run('ip', 'netns', 'add', 'g1')
    g.guest('g1')
    expect('the same address', lease('g1', folder), a1)
    expect('names by a resolver on loopback', dig('g1', 'stub.example.org', 'A'), r'203\.0\.113\.99')
    expect('by TCP too', dig('g1', '+tcp', 'stub.example.org', 'A'), r'203\.0\.113\.99')
    server.terminate()
    expect('which it takes for its own host', server.stderr.read(), r'(?s)(.*127\.0\.0\.1/\d+ query\[A\] stub){2}')
    expect('nothing else of loopback', inside('g1', 'timeout', '2', 'bash', '-c', 'exec 3<>/dev/tcp/10.88.0.1/7001 && echo open',
                                                  check=False), '^$')
    g.end()
    expect('rules are gone at the end', inside('host', 'nft', 'list', 'ruleset'), '^$')
    return echo, host


def case_user(folder):
    echo = [Echo('outside', '203.0.113.2', 7000), Echo('outside', '2001:db8:5::2', 7000)]
    g = Gateway('user', folder)
    g.guest('g1')
    expect("libslirp's own lease", lease('g1', folder), r'^10\.0\.2\.15$')
    expect("libslirp's own prefix", address6('g1'), r'^fd10:0:2:')
    expect('TCP to the outside', tcp('g1', '203.0.113.2', 7000, b'y' * 100000), r'^203\.0\.113\.1 y{100000}$')
    expect('TCP by IPv6', tcp('g1', '2001:db8:5::2', 7000, b'z' * 100000), r'^2001:db8:5::1 z{100000}$')
    expect('UDP by IPv6', udp('g1', '2001:db8:5::2', 7000), r'^2001:db8:5::1 hello$')
    expect('DNS', inside('g1', 'dig', '@10.0.2.3', '+short', 'www.example.org'), r'^203\.0\.113\.80$')
    g.end()
    return echo


def case_persist(folder):
    g = Gateway('isolated', folder, 9000)
    g.guest('g1', 9000)
    a1 = check_guest('g1', folder, 9000)
    stop_dhclient('g1', folder)
    g.end()
    g = Gateway('isolated', folder, 9000)
    expect('leases are kept', g.ask('leases'), rf'52:54:00:00:00:01={re.escape(a1)}=')
    g.kill()
    run('ip', 'netns', 'del', 'g1')
    run('ip', 'netns', 'add', 'g1')
    g = Gateway('isolated', folder, 9000)
    g.guest('g1', 9000)
    os.unlink(f'{folder}/g1.leases')
    expect('the same address again', lease('g1', folder), a1)
    stop_dhclient('g1', folder, release=True)
    until('released', lambda: '10.88.0.1' not in g.ask('leases').replace(f'={a1}=vm-g1!', ''))
    g.end()


def end_daemons(folder):
    """The dhclients that were started with files of ours."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', encoding='utf-8', errors='replace') as f:
                words = f.read().split('\0')
            if words[0].endswith('dhclient') and any(word.startswith(folder + '/') for word in words):
                os.kill(int(pid), signal.SIGTERM)
        except OSError:
            pass


def main():
    if os.geteuid() != 0:
        print('needs root: network namespaces and taps')
        return SKIP
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or not os.path.exists('/dev/net/tun'):
        print('missing here: ' + ' '.join(missing + (['/dev/net/tun'] if not os.path.exists('/dev/net/tun') else [])))
        return SKIP
    if os.environ.get('NETNS_OWN') != '1':
        # Mounts and namespaces of our own, which go with us.
        done = subprocess.run(['unshare', '-m', '-n', '--propagation', 'private', sys.executable, *sys.argv],
                              env={**os.environ, 'NETNS_OWN': '1'}, check=False)
        return done.returncode
    os.makedirs('/run/netns', exist_ok=True)
    run('mount', '-t', 'tmpfs', 'tmpfs', '/run/netns')
    with tempfile.TemporaryDirectory() as folder:
        server = lay_out(folder)
        try:
            kept = globals()[f'case_{CASE}'](folder)
            del kept
        finally:
            server.terminate()
            end_daemons(folder)
        run('umount', '/etc/resolv.conf', check=False)
    return 0


if __name__ == '__main__':
    try:
        STATUS = main()
    except Failure as error:
        print(f'FAILED: {error}', flush=True)
        STATUS = 1
    os._exit(STATUS)
