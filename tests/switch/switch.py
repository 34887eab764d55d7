#!/usr/bin/env python3
"""The switch's process from outside: switch.py CASE (see meson.build).

A VM is a few lines of Python here, with its own reading of the control messages and of the rings (net/ring_priv.h). Exit status
77: skipped, the last line says why."""
import ctypes
import hashlib
import json
import mmap
import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'rig'))
from program import BUILD, Skip, check, run_case, until

BROADCAST = b'\xff' * 6
PLAIN = bytes(10)
PAGE, CTL, UNIT = 4096, 192, 16
HEAD, SPACE_EVENT, TAIL, DATA_EVENT, OFFLOADS = 0, 4, 64, 68, 128
SWITCH, VM = 0, 1 # who consumes a direction
NEEDS_CSUM, GSO_TCP4 = 1, 1
CSUM, TSO4 = 1, 2
EBUSY, EEXIST, EINVAL, ENOENT, EOPNOTSUPP = 16, 17, 22, 2, 95


def mac(number):
    return b'\x52\x54\x00\x00\x01' + bytes([number])


def mac_text(number):
    return ':'.join(f'{byte:02x}' for byte in mac(number))


def ethernet(dst, src, payload, kind=0x88b5):
    return dst + src + struct.pack('>H', kind) + payload


class Switch:
    """A process for one network, with directories of its own."""

    started = []

    def __init__(self, folder, idle=0, program=(), ready=True, **spec):
        self.folder = folder
        self.spec = {'name': 'test', 'mode': 'isolated', 'dhcp': False, 'dns': False, 'mac_filter': False, **spec}
        self.path = os.path.join(folder, 'net', f'{self.spec["name"]}.sock')
        memory = os.memfd_create('spec')
        os.write(memory, json.dumps(self.spec).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        out, into = os.pipe()
        command = [*program, os.path.join(BUILD, 'caisson-switch'), '--spec-fd', str(memory), '--idle', str(idle)]
        if ready:
            command += ['--ready-fd', str(into)]
        self.process = subprocess.Popen(command, pass_fds=[memory, into], stdin=subprocess.DEVNULL,
                                        env={**os.environ, 'CAISSON_RUNTIME_DIR': folder, 'CAISSON_STATE_DIR': folder})
        self.started.append(self.process)
        os.close(into)
        os.close(memory)
        with os.fdopen(out, 'rb') as f:
            answer = f.readline()
        self.answer = json.loads(answer) if answer else None
        if not self.answer or not self.answer['ok']:
            self.process.wait(20)

    def __enter__(self):
        check(self.answer == {'ok': True}, f'not started: {self.answer}')
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            check(self.process.wait(20) == 0, f'ended with {self.process.returncode}')

    def connect(self):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(self.path)
        return sock

    def ask(self, request, sock=None, fds=()):
        """(reply, descriptors)"""
        own = sock or self.connect()
        text = request if isinstance(request, bytes) else json.dumps(request).encode()
        try:
            socket.send_fds(own, [text], list(fds))
            own.settimeout(20)
            data, got, _, _ = socket.recv_fds(own, 1 << 16, 8)
        finally:
            if not sock:
                own.close()
        if data == b'\0': # longer than a packet
            with os.fdopen(got.pop(), 'rb') as f:
                f.seek(0)
                data = f.read()
        return json.loads(data), got

    def must(self, request, **how):
        reply, fds = self.ask(request, **how)
        check(reply['ok'] is True, f'{request}: {reply}')
        return reply, fds

    def refuses(self, request, code, *words, **how):
        reply, fds = self.ask(request, **how)
        check(reply['ok'] is False and not fds, f'{request}: {reply}')
        check(reply['code'] == code, f'{request}: {reply} instead of {code}')
        check('\n' not in reply['error'] and all(word in reply['error'] for word in words), f'{request}: {reply}')

    def ports(self, kind='ring'):
        ports = self.must({'op': 'info'})[0]['info']['ports']
        return {port['name']: port for port in ports if port['kind'] == kind}

    def attach(self, number, vm=None, **more):
        request = {'op': 'attach', 'vm': vm or f'vm{number}', 'nic': 0, 'mac': mac_text(number), **more}
        reply, fds = self.must(request)
        check(len(fds) == 3, f'{len(fds)} descriptors')
        return Ring(fds, number, reply)


class Ring:
    """A VM's end."""

    def __init__(self, fds, number, reply):
        self.fds, self.number, self.reply = fds, number, reply
        size = os.fstat(fds[0]).st_size
        self.bytes = (size - PAGE) // 2
        self.memory = mmap.mmap(fds[0], size)
        self.words = memoryview(self.memory).cast('I')
        self.head = self.tail = 0
        self.barrier = threading.Lock()

    # One access of four bytes; struct.pack_into writes zeroes first, and the switch would see a position that never was.
    # What was put is seen by the switch before anything else is got: without a barrier either could miss the other.
    def get(self, side, field):
        return self.words[(side * CTL + field) // 4]

    def put(self, side, field, value):
        self.words[(side * CTL + field) // 4] = value & 0xffffffff
        with self.barrier: # an atomic operation
            pass

    def copy_in(self, position, data):
        at = position % self.bytes
        first = min(len(data), self.bytes - at)
        base = PAGE + SWITCH * self.bytes
        self.memory[base + at:base + at + first] = data[:first]
        self.memory[base:base + len(data) - first] = data[first:]

    def copy_out(self, position, n):
        at = position % self.bytes
        first = min(n, self.bytes - at)
        base = PAGE + VM * self.bytes
        return self.memory[base + at:base + at + first] + self.memory[base:base + n - first]

    def ring(self):
        os.write(self.fds[2], b'\0')

    def offer(self, *frames, hdr=PLAIN):
        """Frames become visible together; the doorbell is rung where it is asked for. False: no room."""
        records = b''
        for frame in frames:
            record = struct.pack('<I', len(frame)) + hdr + b'\0\0' + frame
            records += record + bytes(-len(record) % UNIT)
        old, new = self.head, self.head + len(records)
        if new - self.get(SWITCH, TAIL) & 0xffffffff > self.bytes:
            return False
        self.copy_in(self.head, records)
        self.head = new & 0xffffffff
        self.put(SWITCH, HEAD, self.head)
        event = self.get(SWITCH, DATA_EVENT)
        if new - event - 1 & 0xffffffff < new - old:
            self.ring()
        return True

    def send(self, dst, payload, kind=0x88b5):
        frame = ethernet(dst, mac(self.number), payload, kind)
        until('room in the ring', lambda: self.offer(frame))
        return frame

    def receive(self, seconds=10):
        """(header, frame), or None where nothing comes."""
        end = time.monotonic() + seconds
        while self.get(VM, HEAD) == self.tail:
            self.put(VM, DATA_EVENT, self.tail)
            if self.get(VM, HEAD) != self.tail:
                break
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fds[1]], [], [], left)[0]:
                return None
            if not os.read(self.fds[1], 4096):
                raise EOFError
        length, = struct.unpack('<I', self.copy_out(self.tail, 4))
        record = self.copy_out(self.tail, UNIT + length)
        self.tail = self.tail + UNIT + length + (-length % UNIT) & 0xffffffff
        self.put(VM, TAIL, self.tail)
        if self.get(VM, SPACE_EVENT) - self.tail & 0xffffffff < UNIT + length:
            self.ring()
        return record[4:14], record[UNIT:]

    def expect(self, frame):
        got = self.receive()
        check(got is not None, 'nothing comes')
        check(got[1] == frame, f'{len(got[1])} bytes that are others than the {len(frame)} sent')
        return got[0]

    def gone(self):
        """Whether the switch has let this port go."""
        poll = select.poll()
        poll.register(self.fds[1], 0)
        return any(event & select.POLLHUP for _, event in poll.poll(20000))

    def close(self):
        self.words.release()
        self.memory.close()
        for fd in self.fds:
            os.close(fd)


# ---- frames ----

def case_frames(folder):
    rng = random.Random(4)
    with Switch(folder) as switch:
        a, b, c = (switch.attach(number) for number in (1, 2, 3))
        check(a.reply['port'] == 'vm1.0' and a.reply['mtu'] == 1500, f'{a.reply}')
        frame = a.send(BROADCAST, b'hello'.ljust(46))
        b.expect(frame)
        c.expect(frame)
        reply = b.send(mac(1), b'reply'.ljust(46))
        a.expect(reply)
        check(c.receive(0.2) is None, 'a known address was flooded')
        total = 0
        while total < 3 * a.bytes: # over the end of the rings, with lengths of all kinds
            payload = rng.randbytes(rng.choice((46, 47, 61, 100, 1000, 1499, 1500)))
            b.expect(a.send(mac(2), payload))
            total += len(payload)
        a.send(mac(2), bytes(1501)) # beyond the MTU
        b.expect(a.send(mac(2), b'after'.ljust(46)))
        ports = switch.ports()
        check(ports['vm2.0']['counters']['out_too_big'] == 1, f'{ports["vm2.0"]}')
        check(ports['vm1.0']['counters']['in_spoofed'] == 0, f'{ports["vm1.0"]}')
        full(switch, a, b)
        segments(a, b)


def full(switch, a, b):
    """A VM that does not read loses what does not fit, and harms nobody else."""
    before = switch.ports()['vm2.0']['counters']
    count = b.bytes // 1500 + 500
    for _ in range(count):
        a.send(mac(2), bytes(1500))
    until('all frames seen', lambda: switch.ports()['vm2.0']['counters']['out_frames'] +
          switch.ports()['vm2.0']['counters']['out_full'] >= before['out_frames'] + count)
    after = switch.ports()['vm2.0']['counters']
    got = 0
    while b.receive(0.1):
        got += 1
    check(after['out_full'] > 0 and got == after['out_frames'] - before['out_frames'], f'{got} of {before} {after}')


def ones_sum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f'>{len(data) // 2}H', data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total


def segments(a, b):
    """A TCP packet to be cut: untouched for who takes it, cut and right for who does not."""
    payload = random.Random(5).randbytes(20000)
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    pseudo = ones_sum(addresses + struct.pack('>HH', 6, 20 + len(payload)))
    ip = struct.pack('>BBHHHBBH', 0x45, 0, 40 + len(payload), 1, 0x4000, 64, 6, 0) + addresses
    ip = ip[:10] + struct.pack('>H', ~ones_sum(ip) & 0xffff) + ip[12:]
    tcp = struct.pack('>HHIIBBHHH', 1, 2, 1000, 0, 0x50, 0x18, 500, pseudo, 0)
    frame = ethernet(mac(2), mac(1), ip + tcp + payload, 0x0800)
    hdr = struct.pack('<BBHHHH', NEEDS_CSUM, GSO_TCP4, 54, 1448, 34, 16)
    b.put(VM, OFFLOADS, CSUM | TSO4)
    b.ring()
    b.send(mac(1), b'sync'.ljust(46))
    check(a.receive() is not None, 'no sync')
    check(a.offer(frame, hdr=hdr), 'no room')
    check(b.expect(frame) == hdr, 'the header changed')
    b.put(VM, OFFLOADS, 0)
    b.ring()
    b.send(mac(1), b'sync'.ljust(46))
    check(a.receive() is not None, 'no sync')
    check(a.offer(frame, hdr=hdr), 'no room')
    joined = b''
    while len(joined) < len(payload):
        got_hdr, got = b.receive()
        check(got_hdr[:2] == b'\0\0', f'header {got_hdr}')
        check(ones_sum(got[14:34]) == 0xffff, 'IP checksum')
        check(ones_sum(addresses + struct.pack('>HH', 6, len(got) - 34) + got[34:]) == 0xffff, 'TCP checksum')
        check(struct.unpack('>I', got[38:42])[0] == 1000 + len(joined), 'sequence number')
        joined += got[54:]
    check(joined == payload, 'payload')


# ---- life ----

def case_life(folder):
    with Switch(folder) as switch:
        check(os.stat(os.path.dirname(switch.path)).st_mode & 0o777 == 0o700, 'directory is open to others')
        second = Switch(folder)
        check(second.answer and second.answer['code'] == EBUSY and second.process.returncode == 4, f'{second.answer}')
        a, b = switch.attach(1), switch.attach(2)
        a.expect(b.send(BROADCAST, b'1'.ljust(46)))
        b.close()
        until('port goes with its descriptors', lambda: 'vm2.0' not in switch.ports())
        b = switch.attach(2)
        child = os.fork()
        if child == 0:
            signal.pause()
        b.close()
        check('vm2.0' in switch.ports(), 'the port went, though another process holds it')
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        until('port goes with its process', lambda: 'vm2.0' not in switch.ports())
        b = switch.attach(2)
        switch.must({'op': 'detach', 'port': 'vm2.0'})
        check(b.gone(), 'a detached VM is not told')
        many(switch)
        switch.process.kill()
        switch.process.wait()
        check(a.gone(), 'the VM is not told that the switch died')
        check(os.path.exists(switch.path), 'no stale socket')
    with Switch(folder) as switch: # which takes the stale socket's place
        switch.attach(1)
    check(not os.path.exists(switch.path), 'the socket stays after SIGTERM')
    with Switch(folder) as switch:
        switch.must({'op': 'stop'})
        check(switch.process.wait(20) == 0, 'stop')
    with Switch(folder, idle=1) as switch:
        ring = switch.attach(1)
        time.sleep(1.5)
        check(switch.process.poll() is None, 'ended with a VM on it')
        ring.close()
        check(switch.process.wait(20) == 0, 'idle')
    check(not os.path.exists(switch.path), 'the socket stays after an idle end')


def many(switch):
    """A hundred VMs come and go; what a reply of more than a packet holds arrives."""
    rings = [switch.attach(number + 10) for number in range(100)]
    check(len(switch.ports()) == 101, f'{len(switch.ports())} ports')
    frame = rings[0].send(BROADCAST, b'all'.ljust(46))
    for ring in rings[1:]:
        ring.expect(frame)
    for ring in rings:
        ring.close()
    until('all gone', lambda: len(switch.ports()) == 1)


# ---- what is refused ----

def case_refused(folder):
    with Switch(folder) as switch:
        good = {'op': 'attach', 'vm': 'a', 'nic': 0, 'mac': mac_text(1)}
        keep = switch.attach(1, vm='a')
        switch.refuses(good, EEXIST, 'a.0')
        for bad in (b'x', b'[]', b'{}', b'{"op": 1}', b'{"op": "fly"}', b'{"op": "info", "x": 1}', b'{"op": "attach"}',
                    b'{"op": "detach"}', b'{"op": "attach"' + b' ' * 30000 + b'}', b'{' * 20000):
            switch.refuses(bad, EINVAL, 'switch request')
        for field, value in (('vm', ''), ('vm', 'A'), ('vm', '../x'), ('vm', 'x' * 64), ('vm', 1), ('nic', 64), ('nic', -1),
                             ('nic', 1.5), ('mac', 'x'), ('mac', '01:00:00:00:00:01'), ('mac', '00:00:00:00:00:00'),
                             ('vlan', 4095), ('vlan', -1), ('trunk', [0]), ('trunk', [4095]), ('trunk', list(range(1, 90))),
                             ('trunk', 5), ('isolated', 1), ('rate_in', -1), ('rate_out', 2 ** 63), ('host', 'a b'), ('what', 1)):
            switch.refuses({**good, 'vm': 'b', field: value}, EINVAL, 'switch request')
        switch.refuses({'op': 'detach', 'port': 'none.0'}, ENOENT, 'none.0')
        switch.refuses({'op': 'forward-add', 'proto': 'tcp', 'host_port': 80, 'guest': 'a', 'guest_port': 80}, EOPNOTSUPP)
        for junk in ([], [b''], [b'\0'], [b'{"op":\0"info"}'], [b'x' * 100000]): # no messages: hung up on
            sock = switch.connect()
            if junk:
                sock.sendmsg(junk)
            else:
                socket.send_fds(sock, [b'\0'], [0, 0, 0, 0, 0, 0])
            sock.settimeout(20)
            check(sock.recv(100) == b'', f'{junk}: not hung up on')
            sock.close()
        before = os.listdir(f'/proc/{switch.process.pid}/fd')
        for _ in range(20): # descriptors that nobody asked for are closed
            switch.must({'op': 'info'}, fds=[0, 1, 2])
        until('descriptors are closed', lambda: len(os.listdir(f'/proc/{switch.process.pid}/fd')) <= len(before))
        hostile(switch, keep)


def hostile(switch, keep):
    """VMs that write nonsense into their rings lose them, and nobody else does."""
    rng = random.Random(6)
    for number in range(60):
        ring = switch.attach(100, vm='evil')
        for _ in range(20):
            ring.copy_in(rng.randrange(0, 4096, UNIT), struct.pack('<I', rng.choice((0, 13, 14, 60, 1 << 31, 0xffffffff))))
            ring.put(rng.randrange(2), rng.choice((HEAD, TAIL, SPACE_EVENT, DATA_EVENT, OFFLOADS)),
                     rng.choice((0, 16, 1 << 20, 1 << 31, 0xfffffff0, rng.getrandbits(32))))
            try:
                ring.ring()
            except BrokenPipeError:
                break
        ring.close()
        until('it is gone', lambda: 'evil.0' not in switch.ports())
    ring = switch.attach(100, vm='evil')
    ring.put(SWITCH, HEAD, 8)
    ring.ring()
    check(ring.gone(), 'a broken ring lives on')
    other = switch.attach(2)
    keep.expect(other.send(BROADCAST, b'alive'.ljust(46)))


# ---- captures ----

def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise Skip(f'no {tool} here')


def case_capture(folder):
    need('tcpdump')
    path = os.path.join(folder, 'x.pcap')
    with Switch(folder) as switch:
        a, b = switch.attach(1), switch.attach(2)
        sock = switch.connect()
        switch.refuses({'op': 'capture', 'port': 'none.0'}, ENOENT, 'none.0', sock=sock)
        switch.refuses({'op': 'capture'}, EINVAL, 'descriptor', sock=sock)
        with open('/dev/full', 'wb') as f:
            switch.refuses({'op': 'capture'}, 28, 'capture', sock=sock, fds=[f.fileno()])
        with open(path, 'wb') as f:
            switch.must({'op': 'capture', 'port': None}, sock=sock, fds=[f.fileno()])
        frames = [a.send(BROADCAST, bytes([i]) * (46 + i)) for i in range(100)]
        for frame in frames:
            b.expect(frame)
        segments(a, b)
        sock.close()
        until('the capture ends with its connection', lambda: len(os.listdir(f'/proc/{switch.process.pid}/fd')) and
              not any(os.path.realpath(f'/proc/{switch.process.pid}/fd/{fd}') == os.path.realpath(path)
                      for fd in os.listdir(f'/proc/{switch.process.pid}/fd')))
        with open(path, 'rb') as f:
            inode = os.fstat(f.fileno())
        check(inode.st_size > 50000, f'{inode.st_size} bytes')
    out = subprocess.run(['tcpdump', '-nner', path, '-vv'], capture_output=True, text=True, check=False)
    check(out.returncode == 0, out.stderr)
    lines = [line for line in out.stdout.splitlines() if mac_text(1) + ' >' in line]
    check(len(lines) == 100 + 2 * 14, f'{len(lines)} frames of the first VM')
    check(out.stdout.count('(correct)') == 2 * 14 and 'incorrect' not in out.stdout and 'bad cksum' not in out.stdout,
          'checksums')


# ---- filters ----

def case_filter(folder):
    with Switch(folder, mac_filter=True, isolated_ports=True) as switch:
        a, b = switch.attach(1), switch.attach(2, vm='free', no_filter=True)
        sniff = switch.attach(3, vlan=7)
        a.send(BROADCAST, b'isolated'.ljust(46))
        a.offer(ethernet(BROADCAST, mac(2), b'spoofed'.ljust(46)))
        until('counted', lambda: switch.ports()['vm1.0']['counters']['in_spoofed'] == 1)
        check(b.receive(0.2) is None and sniff.receive(0.2) is None, 'isolated ports hear each other')
        ports = switch.ports()
        check(ports['vm1.0']['mac_filter'] and not ports['free.0']['mac_filter'], f'{ports}')
        switch.refuses({'op': 'attach', 'vm': 'x', 'nic': 1, 'mac': mac_text(1)}, EEXIST, mac_text(1), 'vm1.0')
    with Switch(folder) as switch:
        a, b, c = switch.attach(1, vlan=10), switch.attach(2, trunk=[10, 20]), switch.attach(3, vlan=20)
        frame = a.send(BROADCAST, b'ten'.ljust(46))
        b.expect(frame[:12] + struct.pack('>HH', 0x8100, 10) + frame[12:])
        tagged = ethernet(BROADCAST, mac(2), struct.pack('>HH', 0x6014, 0x88b5) + b'twenty'.ljust(46), 0x8100)
        check(b.offer(tagged), 'no room')
        c.expect(tagged[:12] + tagged[16:])
        check(a.receive(0.2) is None, 'the wrong VLAN')
        slow = switch.attach(4, rate_in=100000, burst=20000)
        began = time.monotonic()
        for _ in range(100):
            slow.send(BROADCAST, bytes(1000))
        until('all through', lambda: switch.ports()['vm4.0']['counters']['in_frames'] == 100)
        check(time.monotonic() - began > 0.5, 'no limit') # 101 kB, of which 20 at once
        check(switch.ports()['vm4.0']['counters']['in_held'] > 0, 'never held')


# ---- taps, with the kernel's network stack at the other end ----

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def ip(*arguments):
    done = subprocess.run(['ip', *arguments], capture_output=True, text=True, check=False)
    check(done.returncode == 0, f'ip {" ".join(arguments)}: {done.stderr}')
    return done.stdout


class Spaces:
    """Network namespaces for the time of a test."""

    def __init__(self, *names):
        self.names = {name: f'caisson-{os.getpid()}-{name}' for name in names}

    def __enter__(self):
        for full in self.names.values():
            ip('netns', 'add', full)
        return self.names

    def __exit__(self, *_):
        for full in self.names.values():
            subprocess.run(['ip', 'netns', 'del', full], capture_output=True, check=False)


def inside(space, function):
    """A thread that runs function in that namespace, and its result in a list."""
    result = []

    def body():
        try:
            with open(f'/run/netns/{space}', encoding='ascii') as f:
                if LIBC.setns(f.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), 'setns')
            result.append(function())
        except OSError as error:
            result.append(error)
    thread = threading.Thread(target=body)
    thread.start()
    return thread, result


def transfer(sender, receiver, address, family, size):
    """size random bytes by TCP from one namespace to the other; both see the same."""
    data = random.Random(7).randbytes(1 << 20)
    listening = threading.Event()

    def receive():
        with socket.create_server((address, 5000), family=family) as server:
            listening.set()
            server.settimeout(60)
            connection, _ = server.accept()
            got, digest = 0, hashlib.sha256()
            with connection:
                connection.settimeout(60)
                while chunk := connection.recv(1 << 18):
                    digest.update(chunk)
                    got += len(chunk)
            return got, digest.hexdigest()

    def send():
        with socket.create_connection((address, 5000), timeout=60) as connection:
            for _ in range(size >> 20):
                connection.sendall(data)

    there, got = inside(receiver, receive)
    check(listening.wait(20), f'no listener: {got}')
    here, sent = inside(sender, send)
    here.join()
    there.join()
    check(sent == [None], f'sending: {sent}')
    expected = hashlib.sha256(data * (size >> 20)).hexdigest()
    check(got == [(size, expected)], f'received {got}')


def case_tap(folder):
    need('ip', 'ping')
    if os.geteuid() != 0 or not os.path.exists('/dev/net/tun'):
        raise Skip('taps need root and /dev/net/tun')
    with Spaces('s', 'a', 'b', 'c') as space:
        between(space)
        bridged(folder, space)


def frame_size(before, after):
    """Bytes of a frame that left by a port. No more than one packet of Ethernet fits one where offloads do not pass."""
    return (after['out_bytes'] - before['out_bytes']) / (after['out_frames'] - before['out_frames'])


def between(space):
    """Three kernels on one switch; the last one's port takes no offloads."""
    program = subprocess.Popen(['ip', 'netns', 'exec', space['s'], os.path.join(BUILD, 'tests/switch/tap_switch'), 'ta', 'tb',
                                'tc,plain'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def counters():
        program.stdin.write('\n')
        program.stdin.flush()
        return json.loads(program.stdout.readline())

    try:
        check(program.stdout.readline() == 'ready\n', 'no taps')
        for number, name in enumerate('abc', 1):
            ip('-n', space['s'], 'link', 'set', 't' + name, 'netns', space[name])
            ip('-n', space[name], 'addr', 'add', f'10.9.0.{number}/24', 'dev', 't' + name)
            ip('-n', space[name], 'addr', 'add', f'fd09::{number}/64', 'dev', 't' + name, 'nodad')
            ip('-n', space[name], 'link', 'set', 't' + name, 'up')
        for target in ('10.9.0.2', 'fd09::2', '10.9.0.3', 'fd09::3'):
            done = subprocess.run(['ip', 'netns', 'exec', space['a'], 'ping', '-c', '3', '-i', '0.2', '-s', '1400', '-W', '5', target],
                                  capture_output=True, text=True, check=False)
            check(done.returncode == 0 and ' 0% packet loss' in done.stdout, f'{target}: {done.stdout}{done.stderr}')
        for sender, receiver, number in (('a', 'b', 2), ('b', 'a', 1), ('a', 'c', 3), ('c', 'a', 1)):
            before = counters()['t' + receiver]
            for address, family in ((f'10.9.0.{number}', socket.AF_INET), (f'fd09::{number}', socket.AF_INET6)):
                transfer(space[sender], space[receiver], address, family, 32 << 20)
            if 'c' not in (sender, receiver):
                after = counters()['t' + receiver]
                check(frame_size(before, after) > 1514, f'offloads do not pass from {sender} to {receiver}: {before} {after}')
    finally:
        program.stdin.close()
        out = program.stdout.read()
        program.wait(20)
    check(program.returncode == 0, f'tap_switch: {program.returncode}')
    c = json.loads(out)['tc']
    check(c['in_malformed'] == 0 and c['out_bytes'] > 64 << 20, f'{c}')


def case_tcp(folder):
    """Two kernels as VMs: TCP over tap, ring, switch, ring, tap, with backpressure, offloads and losses as they come."""
    need('ip')
    if os.geteuid() != 0 or not os.path.exists('/dev/net/tun'):
        raise Skip('taps need root and /dev/net/tun')
    programs = []
    with Spaces('a', 'b') as space, Switch(folder, mac_filter=True) as switch:
        try:
            for number, name in enumerate('ab', 1):
                programs.append(subprocess.Popen(['ip', 'netns', 'exec', space[name], os.path.join(BUILD, 'tests/switch/ring_tap'),
                                                  switch.path, str(number), 't0'], stdin=subprocess.PIPE,
                                                 stdout=subprocess.PIPE, text=True))
                check(programs[-1].stdout.readline() == 'ready\n', 'no VM')
                ip('-n', space[name], 'addr', 'add', f'10.9.0.{number}/24', 'dev', 't0')
                ip('-n', space[name], 'addr', 'add', f'fd09::{number}/64', 'dev', 't0', 'nodad')
                ip('-n', space[name], 'link', 'set', 't0', 'up')
            size = 256 << 20
            for sender, receiver, address, family in (('a', 'b', '10.9.0.2', socket.AF_INET), ('b', 'a', 'fd09::1', socket.AF_INET6)):
                began, before = time.monotonic(), switch.ports()
                transfer(space[sender], space[receiver], address, family, size)
                seconds, after = time.monotonic() - began, switch.ports()
                old, new = (ports['vm1.0' if receiver == 'a' else 'vm2.0']['counters'] for ports in (before, after))
                print(f'figure: TCP between two kernels on one switch, IPv{4 if family == socket.AF_INET else 6}: '
                      f'{size * 8 / seconds / 1e9:.2f} Gbit/s, {frame_size(old, new):.0f} bytes a frame, '
                      f'{new["out_full"] - old["out_full"]} frames lost')
                check(frame_size(old, new) > 1514, f'offloads do not pass: {old} {new}')
            check(all(port['counters']['in_spoofed'] == 0 for port in switch.ports().values()), f'{switch.ports()}')
        finally:
            for program in programs:
                program.stdin.close()
                check(program.wait(20) == 0, f'ring_tap: {program.returncode}')
        until('their ports go', lambda: not switch.ports())


def arp_question(source, target):
    return struct.pack('>HHBBH', 1, 0x0800, 6, 4, 1) + mac(1) + source + bytes(6) + target + bytes(18)


def arp_answer(vm, source, target):
    """The kernel's answer. Asked again: an interface drops what it sends until its carrier was noticed, which may take a second."""
    for _ in range(20):
        vm.send(BROADCAST, arp_question(bytes(source), bytes(target)), 0x0806)
        while got := vm.receive(1):
            if got[1][12:14] == b'\x08\x06' and got[1][20:22] == b'\0\2': # neither its own multicasts nor its questions
                return got[1]
    return None


def bridged(folder, space):
    """Networks whose uplink is a tap that is there already: errors, and an address of the kernel's that answers."""
    enter = ('ip', 'netns', 'exec', space['s'])

    def started(**spec):
        return Switch(folder, program=enter, name='bridged', mode='bridge', **spec)

    refusals = (('none', ENOENT, 'there is no interface none'), ('lo', EINVAL, 'lo is no tap'), ('busy', EBUSY, 'busy is in use'))
    ip('-n', space['s'], 'tuntap', 'add', 'busy', 'mode', 'tap')
    ip('-n', space['s'], 'tuntap', 'add', 'owned', 'mode', 'tap', 'user', '12345')
    ip('-n', space['s'], 'tuntap', 'add', 'up0', 'mode', 'tap')
    ip('-n', space['s'], 'addr', 'add', '10.8.0.1/24', 'dev', 'up0')
    ip('-n', space['s'], 'link', 'set', 'up0', 'up')
    holder = Switch(folder, program=enter, name='holder', mode='bridge', tap='busy')
    with holder:
        for tap, code, words in refusals:
            switch = started(tap=tap)
            check(switch.answer and switch.answer['code'] == code and words in switch.answer['error'], f'{tap}: {switch.answer}')
            check(not os.path.exists(switch.path), 'a socket is left behind')
    if shutil.which('setpriv'):
        switch = Switch(folder, program=(*enter, 'setpriv', '--bounding-set', '-all'), name='bridged', mode='bridge', tap='owned')
        check(switch.answer and switch.answer['code'] == 1 and 'no right to tap owned' in switch.answer['error'], f'{switch.answer}')
    with started(tap='up0') as switch:
        vm = switch.attach(1)
        got = arp_answer(vm, (10, 8, 0, 9), (10, 8, 0, 1))
        check(got and got[28:32] == bytes([10, 8, 0, 1]), f'{got}')
        check('uplink' in switch.ports('tap'), f'{switch.ports("tap")}')
    if 'br0' in ip('-n', space['s'], 'link') or subprocess.run(
            ['ip', '-n', space['s'], 'link', 'add', 'br0', 'type', 'bridge'], capture_output=True, check=False).returncode:
        return # this kernel has no bridges
    ip('-n', space['s'], 'addr', 'add', '10.7.0.1/24', 'dev', 'br0')
    ip('-n', space['s'], 'link', 'set', 'br0', 'up')
    with started(bridge='br0') as switch:
        vm = switch.attach(1)
        check('master br0' in ip('-n', space['s'], 'link', 'show', 'cais0'), 'not in the bridge')
        got = arp_answer(vm, (10, 7, 0, 9), (10, 7, 0, 1))
        check(got and got[28:32] == bytes([10, 7, 0, 1]), f'{got}')
    check('cais0' not in ip('-n', space['s'], 'link'), 'the tap stays')
    switch = started(bridge='nobridge')
    check(switch.answer and 'nobridge' in switch.answer['error'], f'{switch.answer}')


# ---- speed ----

def case_speed(folder):
    with Switch(folder) as switch:
        for length, count in ((64, 400000), (1514, 200000), (65226, 20000)):
            out = subprocess.run([os.path.join(BUILD, 'tests/switch/ring_bench'), switch.path, str(length), str(count)],
                                 capture_output=True, text=True, check=False)
            check(out.returncode == 0, out.stderr)
            result = json.loads(out.stdout)
            check(result['sent'] == count and 0 < result['received'] <= count, out.stdout)
            until('ports gone', lambda: not switch.ports())
            print(f'figure: switch, frames of {length} bytes: {result["frames_per_s"]:.0f}/s, {result["gbit_per_s"]} Gbit/s, '
                  f'{result["rung"] / count:.4f} doorbells each')


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        return run_case(sys.argv[1], globals()['case_' + sys.argv[1]])
    finally:
        for process in Switch.started:
            if process.poll() is None:
                process.kill()


if __name__ == '__main__':
    sys.exit(main())
