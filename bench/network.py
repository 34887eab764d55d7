"""The benchmark's rows of networks: TCP by iperf3 between two guests on one switch, and from a guest through NAT to the host, in
both directions, beside QEMU's socket networks and libslirp (docs/bench.md)."""
import contextlib
import os
import signal
import subprocess
import sys
import time

import agents
from iorows import Row
from subjects import ENGINES, vm

HOST = '198.51.100.1'
SECONDS = 2
STREAMS = (1, 4)
PEERS = ('socket', 'stream', 'dgram') # of QEMU: TCP, a UNIX stream, UNIX datagrams
MACS = ('52:54:00:be:0c:01', '52:54:00:be:0c:02')
LAN = '10.94.0'


def names():
    """lan: guest to guest, ours by the switch; nat: through a network's NAT; user: through --net user. out: guest to host."""
    return [f'lan-{peer}-{streams}' for peer in PEERS for streams in STREAMS] + \
        [f'{kind}-{way}-{streams}' for kind in ('nat', 'user') for way in ('out', 'in') for streams in STREAMS]


def make_rows(wanted):
    return {name: Row(name, 'Mbit/s', cpu_unit='us/MiB') for name in wanted}


class Outside:
    """A network namespace with the address HOST and an iperf3 that serves there: the host, as guests see it. prefix: what puts a
    command there."""

    def __init__(self):
        own = [] if os.geteuid() == 0 else ['--map-root-user']
        script = f'ip link set lo up && ip addr add {HOST}/32 dev lo && echo ready && exec cat'
        self.holder = subprocess.Popen(['unshare', *own, '--net', 'sh', '-c', script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       text=True)
        if self.holder.stdout.readline() != 'ready\n':
            raise vm.Failure('no network namespace')
        self.prefix = ['nsenter', f'--target={self.holder.pid}', '--net', *(['--user', '--preserve-credentials'] if own else [])]
        self.server = subprocess.Popen([*self.prefix, 'iperf3', '-s', '-B', HOST], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def close(self):
        for process in (self.server, self.holder):
            process.kill()
            process.wait()
        self.holder.stdin.close()
        self.holder.stdout.close()


class Switches:
    """Where the networks of this run live; their switches end with it."""

    def __init__(self, folder):
        self.base = folder
        for name in ('state', 'runtime'):
            os.environ[f'CAISSON_{name.upper()}_DIR'] = os.path.join(folder, name[0])

    def pids(self):
        folder = os.path.join(self.base, 'r', 'net')
        inodes = {os.stat(os.path.join(folder, name)).st_ino for name in os.listdir(folder) if name.endswith('.lock')} \
            if os.path.isdir(folder) else set()
        with open('/proc/locks', encoding='ascii') as f:
            lines = [line.split() for line in f]
        return [int(words[4]) for words in lines if words[1] == 'FLOCK' and int(words[5].split(':')[2]) in inodes]

    def cpu_ms(self):
        return sum(map(agents.process_cpu_ms, self.pids()))

    def close(self):
        for pid in self.pids():
            os.kill(pid, signal.SIGTERM)
        for name in ('STATE', 'RUNTIME'):
            os.environ.pop(f'CAISSON_{name}_DIR')


def transfer(row, subject, agent, options, cpu_ms):
    """One iperf3 in a guest; the figure is what the receiver got."""
    before = cpu_ms()
    output, _ = agent.run(f'$T iperf3 -f m -t {SECONDS} {options} >/tmp/iperf 2>&1; s=$?; $B tail -n 8 /tmp/iperf; [ $s = 0 ]', 60)
    after = cpu_ms()
    lines = [line for line in output.splitlines() if 'receiver' in line]
    if not lines:
        raise vm.Failure(f'iperf3 {options}: {output.strip()[-200:]!r}')
    speed = agents.number(r'([\d.]+) Mbits/sec', lines[-1])
    row.add(subject, speed, (after - before) * 1000 / max(speed * SECONDS / 8 / 1.048576, 1e-9))


def up(agent, card, address=None):
    """Bring up a card of a guest, by DHCP if it has no fixed address; returns the address."""
    how = f'$B ip addr add {address}/24 dev {card}' if address else \
        f'$B udhcpc -i {card} -n -q -t 10 -T 2 -s /etc/udhcpc.script >/dev/null 2>&1'
    agent.run(f'$B ip link set {card} up && {how} && $B ip -4 addr show dev {card} >/tmp/addr && $B cat /tmp/addr')
    output, _ = agent.run(f'$B ip -4 -o addr show dev {card}')
    return output.split('inet ')[1].split('/')[0]


def between(rows, subject, name, pair, address, cpu_ms):
    """Guest to guest, where the second one serves already."""
    for streams in STREAMS:
        row = rows.get(f'lan-{name}-{streams}')
        if row:
            transfer(row, subject, pair[0], f'-c {address} -P {streams}', cpu_ms)


def outside(rows, subject, kind, agent, cpu_ms):
    for way, option in (('out', ''), ('in', '-R')):
        for streams in STREAMS:
            row = rows.get(f'{kind}-{way}-{streams}')
            if row:
                transfer(row, subject, agent, f'-c {HOST} -P {streams} {option}', cpu_ms)


def serve(agent):
    agent.run('$T iperf3 -s -D')
    time.sleep(0.5)


def is_wanted(rows, kind):
    return any(name.startswith(kind + '-') for name in rows)


def caisson(rows, place, engine, host, switches):
    """Two guests on network `default`, the first one with a card of --net user besides. The rows lan-* differ in their peer only, so
    the first one's figure stands in all of them."""
    cards = [('default', MACS[0]), ('user', '52:54:00:be:0d:01')]
    with contextlib.ExitStack() as stack:
        first = agents.Agent(place, engine, cards=cards, prefix=host.prefix, name='bench-one')
        stack.callback(first.close)
        up(first, 'eth0')
        if is_wanted(rows, 'lan'):
            second = agents.Agent(place, engine, cards=[('default', MACS[1])], prefix=host.prefix, name='bench-two')
            stack.callback(second.close)
            address = up(second, 'eth0')
            serve(second)
            for streams in STREAMS:
                same = [row for name, row in rows.items() if name.startswith('lan-') and name.endswith(f'-{streams}')]
                if same:
                    transfer(same[0], engine, first, f'-c {address} -P {streams}',
                             lambda: first.cpu_ms() + second.cpu_ms() + switches.cpu_ms())
                    for row in same[1:]:
                        row.add(engine, *same[0].figures[engine][-1])
        outside(rows, engine, 'nat', first, lambda: first.cpu_ms() + switches.cpu_ms())
        if is_wanted(rows, 'user'):
            up(first, 'eth1', '10.0.2.15')
            first.run(f'$B ip route replace {HOST} via 10.0.2.2 dev eth1')
            outside(rows, engine, 'user', first, first.cpu_ms)


def netdevs(folder):
    """(first guest's, second guest's) -netdev of each of PEERS. The second one is started first and waits."""
    unix = os.path.join(folder, 'stream.sock')
    one, two = (os.path.join(folder, f'dgram-{n}.sock') for n in (1, 2))
    return {'socket': ('socket,connect=127.0.0.1:5299', 'socket,listen=127.0.0.1:5299'),
            'stream': (f'stream,server=off,addr.type=unix,addr.path={unix}', f'stream,server=on,addr.type=unix,addr.path={unix}'),
            'dgram': (f'dgram,local.type=unix,local.path={one},remote.type=unix,remote.path={two}',
                      f'dgram,local.type=unix,local.path={two},remote.type=unix,remote.path={one}')}


def qemu(rows, place, host, folder):
    """The same in QEMU: a card for each of PEERS, and the first guest's last one is libslirp's."""
    kinds = netdevs(folder)
    # A card takes its id behind a comma: netdev options and `mac` are separate words of the command line.
    cards = [[(kinds[peer][n], f'52:54:00:be:{0x10 + n:02x}:{i:02x}') for i, peer in enumerate(PEERS)] for n in (0, 1)]
    with contextlib.ExitStack() as stack:
        pair = []
        if is_wanted(rows, 'lan'):
            pair.append(agents.Agent(place, 'tcg', cards=cards[1], prefix=host.prefix))
            stack.callback(pair[0].close)
        first = agents.Agent(place, 'tcg', cards=(cards[0] if pair else []) + [('user', MACS[0])], prefix=host.prefix)
        stack.callback(first.close)
        if pair:
            for n, agent in enumerate((first, pair[0])):
                for i in range(len(PEERS)):
                    up(agent, f'eth{i}', f'{LAN[:-1]}{i}.{n + 1}')
            serve(pair[0])
            for i, peer in enumerate(PEERS):
                between(rows, 'tcg', peer, (first,), f'{LAN[:-1]}{i}.2', lambda: first.cpu_ms() + pair[0].cpu_ms())
        up(first, f'eth{len(PEERS) if pair else 0}', '10.0.2.15')
        first.run('$B ip route replace default via 10.0.2.2')
        outside(rows, 'tcg', 'nat', first, first.cpu_ms)
        # The peer of both kinds of NAT is one.
        for name, row in rows.items():
            twin = rows.get(name.replace('user-', 'nat-', 1)) if name.startswith('user-') else None
            if twin and 'tcg' in twin.figures:
                row.add('tcg', *twin.figures['tcg'][-1])
            elif name.startswith('user-'):
                _, way, streams = name.split('-')
                transfer(row, 'tcg', first, f'-c {HOST} -P {streams} {"-R" if way == "in" else ""}', first.cpu_ms)


def measure(rows, place, subjects, turn, _realtime):
    """One round of the rows."""
    if not rows:
        return
    base = os.path.join(os.environ['XDG_STATE_HOME'], f'net-{turn}') # of vm.workplace
    os.makedirs(base)
    host, switches = Outside(), Switches(base)
    try:
        guests = [subject for subject in subjects if subject in ('tcg', *ENGINES)]
        for subject in guests[turn % len(guests):] + guests[:turn % len(guests)]:
            try:
                if subject == 'tcg':
                    qemu(rows, place, host, base)
                else:
                    caisson(rows, place, subject, host, switches)
            except (vm.Failure, subprocess.SubprocessError, OSError, TypeError) as failure:
                print(f'bench: {subject} network: {failure}', file=sys.stderr, flush=True)
                for row in rows.values():
                    if len(row.figures.get(subject, ())) <= turn:
                        row.fail(subject, failure)
    finally:
        switches.close()
        host.close()
