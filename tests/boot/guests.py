#!/usr/bin/env python3
"""Stock Debian kernels boot, use disk and network, and power off: guests.py CASE [ARGUMENT...] (see meson.build)."""
import ctypes
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time

import vm
from vm import check


def case_matrix(package, engine, cpus):
    """CPU count, DHCP, download from the host's loopback, write; after a second boot the file is read back."""
    vm.need_engine(engine)
    content = os.urandom(1 << 20)
    with tempfile.TemporaryDirectory(prefix='caisson-disk-') as folder, vm.web_server(content) as (port, digest, requests):
        disk = vm.make_disk(os.path.join(folder, 'disk.ext4'))
        output = vm.run_test(package, 'all',
                             f'caisson.cpus={cpus} caisson.url=http://10.0.2.2:{port}/file caisson.sha256={digest}',
                             ['--disk', disk, '--net', 'user'], engine, cpus)
        check('CAISSON-LEASE 10.0.2.15/24' in output, 'no address by DHCP')
        check('CAISSON-NET downloaded' in output, 'no download')
        check('CAISSON-DISK written' in output, 'not the first boot of this disk?')
        check(requests == ['/file'], f'requests that the server saw: {requests}')
        output = vm.run_test(package, 'disk', '', ['--disk', disk, '--net', 'none'], engine, cpus)
        check('CAISSON-DISK verified' in output, 'the file of the first boot was not found')
        subprocess.run(['/sbin/e2fsck', '-fn', disk], check=True, stdout=subprocess.DEVNULL)


def case_disk_modes(package, engine, *modes):
    """A disk in each cache mode and format, with limits and without: what one boot writes, the next one verifies. What is left
    must be a clean file system in a clean image. modes: FORMAT:OPTION[/OPTION]..."""
    vm.need_engine(engine)
    with tempfile.TemporaryDirectory(prefix='caisson-disk-') as folder:
        for mode in modes:
            form, _, words = mode.partition(':')
            raw = vm.make_disk(os.path.join(folder, 'disk.ext4'))
            disk = raw
            if form != 'raw':
                disk = os.path.join(folder, 'disk.' + form)
                subprocess.run(['qemu-img', 'convert', '-O', form, raw, disk], check=True)
            options = ['--disk', f'{disk},format={form},{words.replace("/", ",")}', '--net', 'none']
            output = vm.run_test(package, 'disk', 'caisson.n=64', options, engine, 2)
            check('CAISSON-DISK written' in output, f'{mode}: nothing written')
            output = vm.run_test(package, 'disk', '', options, engine, 2)
            check('CAISSON-DISK verified' in output, f'{mode}: the file of the first boot was not found')
            if form != 'raw':
                subprocess.run(['qemu-img', 'check', disk], check=True, stdout=subprocess.DEVNULL)
                subprocess.run(['qemu-img', 'convert', '-O', 'raw', disk, raw], check=True)
            subprocess.run(['/sbin/e2fsck', '-fn', raw], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def case_nbd_lost(package, engine):
    """The NBD server of a disk vanishes under load and comes back: with on-error=wait the guest waits, and nothing is lost."""
    vm.need_engine(engine)
    with tempfile.TemporaryDirectory(prefix='caisson-nbd-') as folder:
        disk, address = vm.make_disk(os.path.join(folder, 'disk.ext4')), os.path.join(folder, 'nbd')

        def serve():
            if os.path.exists(address):
                os.unlink(address)
            server = subprocess.Popen(['qemu-nbd', '-k', address, '-f', 'raw', '-t', '-e', '4', disk])
            while not os.path.exists(address):
                time.sleep(0.05)
            return server

        server = serve()
        try:
            options = ['--disk', f'nbd+unix:///?socket={address},on-error=wait', '--net', 'none']
            with vm.started(vm.boot(package, 'busy', '', options, engine)) as guest:
                at = guest.wait_for('CAISSON-READY').end()
                for _ in range(2):
                    server.kill()
                    server.wait()
                    at = guest.wait_for('the guest waits', start=at).end()
                    server = serve()
                    at = guest.wait_for('the guest goes on', start=at).end()
                    time.sleep(1)
                check('I/O error' not in guest.output and 'EXT4-fs error' not in guest.output, 'the guest has seen an error')
        finally:
            server.kill()
            server.wait()
        vm.run_test(package, 'disk', options=['--disk', disk, '--net', 'none'], engine=engine) # the journal is replayed
        subprocess.run(['/sbin/e2fsck', '-fn', disk], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def case_disk_full(package, engine):
    """The host's file system is full: with on-error=wait the guest waits, and goes on when there is room again."""
    vm.need_engine(engine)
    with tempfile.TemporaryDirectory(prefix='caisson-disk-') as folder:
        disk = vm.make_disk(os.path.join(folder, 'disk.ext4'))
        small = os.path.join(folder, 'small')
        os.mkdir(small)
        # The small file system is in a mount namespace of the VM's own; the host reaches into it through /proc.
        script = (f'mount -t tmpfs -o size=24M none {small} && cp --sparse=always {disk} {small}/disk.ext4 && '
                  f'head -c 12M /dev/zero >{small}/ballast && exec "$@"')
        namespace = ['unshare', *([] if os.getuid() == 0 else ['-r']), '-m']
        if subprocess.run([*namespace, 'true'], capture_output=True, check=False).returncode != 0:
            vm.skip('no mount namespaces here')
        program = [*namespace, 'sh', '-c', script, 'sh', vm.CAISSON, 'vm', 'run']
        options = ['--disk', f'{small}/disk.ext4,on-error=wait', '--net', 'none']
        with vm.started(vm.boot(package, 'disk', 'caisson.n=256', options, engine), program=program) as guest:
            guest.wait_for('No space left on device; the guest waits')
            check('CAISSON-TEST' not in guest.output, 'the guest has not waited')
            os.unlink(f'/proc/{guest.process.pid}/root{small}/ballast')
            guest.wait_for('works again, the guest goes on')
            check(guest.wait() == 0, 'exit code')
            check('CAISSON-TEST disk PASS' in guest.output, 'the guest has seen an error')
            check(guest.output.count('the guest waits') == guest.output.count('the guest goes on'), 'messages')
def nics_run(package, engine, options, host, words='', cpus=2):
    """The guest transfers a file in each direction through each of its cards. Returns what it says of them, by name."""
    content = os.urandom(4 << 20)
    with vm.web_server(content, '') as (port, digest, requests), vm.sink() as (sink, sums):
        output = vm.run_test(package, 'nics', f'caisson.url=http://{host}:{port}/file caisson.sha256={digest} '
                             f'caisson.sink={host}:{sink} {words}'.strip(), options, engine, cpus)
    cards = {name: dict(zip(rest.split()[::2], rest.split()[1::2])) for name, rest in re.findall(r'CAISSON-NIC (\w+) (.*)', output)}
    said = re.findall('CAISSON-UP ([0-9a-f]{64})', output)
    check(len(requests) == len(said) == len(cards), f'{len(requests)} downloads, {len(said)} uploads, {len(cards)} cards')
    check(said == sums, f'uploads: the guest sent {said}, the host has {sums}')
    for card in cards.values():
        card['features'] = {bit for bit, on in enumerate(card['features']) if on == '1'}
    return cards


NET_OFFLOADS = {0, 1, 7, 8, 9, 11, 12, 13} # virtio 1.2 section 5.1.3: checksums, TSO and ECN in both directions
NET_MQ = 22


def case_nics(package, engine):
    """Two cards on user-mode networks: MTU, MAC, queue pairs, and offloads that are on and off."""
    vm.need_engine(engine)
    cards = nics_run(package, engine, ['--net', 'user,mac=52:54:00:aa:bb:cc,mtu=9000', '--net', 'user,offload=off,queues=2'], '10.0.2.2')
    check(sorted(cards) == ['eth0', 'eth1'], f'cards: {sorted(cards)}')
    first, second = cards['eth0'], cards['eth1']
    check(first['mac'] == '52:54:00:aa:bb:cc' and second['mac'].startswith('52:'), f'MACs {first["mac"]} and {second["mac"]}')
    check(first['mtu'] == '9000' and second['mtu'] == '32000', f'MTUs {first["mtu"]} and {second["mtu"]}')
    check(first['speed'] == '10000', f'speed {first["speed"]}')
    check(NET_OFFLOADS <= first['features'], f'features {sorted(first["features"])}')
    check(not NET_OFFLOADS & second['features'], f'features {sorted(second["features"])}')
    check(first['queues'] == '1' and NET_MQ not in first['features'], f'queues {first["queues"]}')
    check(second['queues'] == '2' and NET_MQ in second['features'], f'queues {second["queues"]}')


def own_network():
    """Go into a network namespace of our own, with its loopback up."""
    if os.geteuid() != 0:
        vm.skip('needs root, for a network namespace with a tap device')
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) != 0: # CLONE_NEWNET
        vm.skip(f'no network namespace: {os.strerror(ctypes.get_errno())}')
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)


def packets(interface):
    """(packets, bytes) that the host has received through an interface."""
    run = subprocess.run(['ip', '-j', '-s', 'link', 'show', 'dev', interface], check=True, capture_output=True, text=True)
    received = json.loads(run.stdout)[0]['stats64']['rx']
    return received['packets'], received['bytes']


class Watch:
    """How many of the packets that come in through an interface are longer than limit."""

    def __init__(self, interface, limit):
        self.limit, self.longer, self.socket = limit, 0, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((interface, 3))
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        head = bytearray(64)
        try:
            while True:
                length, _, _, address = self.socket.recvmsg_into([head], 0, socket.MSG_TRUNC)
                self.longer += address[2] != socket.PACKET_OUTGOING and length > self.limit
        except OSError:  # the interface is gone
            self.socket.close()


def case_tap(package, engine):
    """A tap device of the host: segmentation is the host's work with offloads, the guest's without, and jumbo frames."""
    vm.need_engine(engine)
    own_network()
    for option, mtu in (('', 1500), (',offload=off', 1500), (',mtu=9000,queues=2', 9000)):
        if subprocess.run(['ip', 'tuntap', 'add', 'ctest0', 'mode', 'tap'], check=False).returncode != 0:
            vm.skip('this machine cannot make tap devices')
        try:
            subprocess.run(['ip', 'addr', 'add', '10.99.0.1/24', 'dev', 'ctest0'], check=True)
            subprocess.run(['ip', 'link', 'set', 'ctest0', 'up'], check=True)
            watch = Watch('ctest0', 14 + mtu)
            cards = nics_run(package, engine, ['--net', f'tap=ctest0{option}'], '10.99.0.1', 'caisson.addr=10.99.0.2/24')
            count, size = packets('ctest0')
        finally:
            subprocess.run(['ip', 'link', 'del', 'ctest0'], check=True)
        watch.thread.join()
        check(cards['eth0']['mtu'] == str(mtu), f'MTU {cards["eth0"]["mtu"]}')
        check(size > 4 << 20, f'{size} bytes through the tap')
        check((watch.longer > 0) == ('offload' not in option), f'{option}: {watch.longer} of {count} packets are longer than the MTU')
        print(f'figure: tap{option}: {size // count} bytes a packet from the guest')


def case_rng(package, engine):
    vm.need_engine(engine)
    vm.run_test(package, 'rng', engine=engine)


def case_cpu(package, engine, model):
    """The guest's kernel finds the features of the CPU model, and needs no costly defence on it. model: what --cpu takes, or
    `default` for the option left out."""
    vm.need_engine(engine)
    run = subprocess.run([vm.CAISSON, 'cpu', 'ls', '--engine', engine, '--json'], capture_output=True, text=True, check=True)
    models = {entry['name']: entry for entry in json.loads(run.stdout)}
    base = next(name for name, entry in models.items() if entry['default']) if model == 'default' else model.split(',')[0]
    if not models[base]['runs']:
        vm.skip(f'this machine lacks {", ".join(models[base]["lacks"])} of {base}')
    options = [] if model == 'default' else ['--cpu', model]
    output = vm.run_test(package, 'cpuinfo', '', options, engine, 2)
    flags = set(re.search('CAISSON-FLAGS (.*)', output).group(1).split())
    wanted = {'x86-64-v1': 'sse2 smap pcid', 'x86-64-v2': 'ssse3 sse4_2 popcnt cx16 smap pcid x2apic fsrm',
              'x86-64-v3': 'sse4_2 avx avx2 fma f16c bmi1 bmi2 movbe abm aes xsave xsaveopt smap pcid x2apic fsrm'}
    absent = {'x86-64-v1': 'pni popcnt avx', 'x86-64-v2': 'avx xsave aes nonstop_tsc', 'x86-64-v3': 'sha_ni nonstop_tsc pku la57'}
    wanted, absent = set(wanted.get(base, 'smap').split()), set(absent.get(base, 'pku la57 avx512f').split())
    masked = {change[1:] for change in model.split(',')[1:] if change[0] == '-'}
    if 'avx' in masked: # and what needs it
        masked |= {'avx2', 'fma', 'f16c'}
    check(wanted - masked <= flags, f'the guest does not see {sorted(wanted - masked - flags)}')
    check(not (absent | masked) & flags, f'the guest sees {sorted((absent | masked) & flags)}')
    if base != 'host':
        check(f'CAISSON-MODEL Caisson {base}' in output and 'CAISSON-VENDOR GenuineIntel' in output, 'identity')
    # What is left is free for the engine: no page-table isolation, retpolines, buffer or history clearing.
    for name, state in re.findall(r'CAISSON-BUG (\w+): (.*)', output):
        if name == 'spectre_v1' and 'smap' not in masked:
            check(state.startswith('Mitigation: usercopy/swapgs barriers'), f'{name}: {state}')
        elif name == 'spectre_v2':
            check('Enhanced' in state and not re.search('etpoline|SW loop|always-on|RSB filling', state), f'{name}: {state}')
        elif name == 'retbleed' and base == 'host': # an Intel host's own identity; it costs what spectre_v2's does
            check(state.strip() in ('Not affected', 'Mitigation: Enhanced IBRS'), f'{name}: {state}')
        elif name != 'spectre_v1':
            check(state.strip() == 'Not affected', f'{name}: {state}')


def case_pvh(package, engine):
    """The ELF image inside a bzImage starts through its PVH note."""
    vm.need_engine(engine)
    kernel, initrd = vm.guest_kernel(package)
    with open(kernel, 'rb') as f:
        image = f.read()
    # Setup header (Linux boot protocol 2.08): the compressed kernel, with its size behind it.
    at = (image[0x1f1] + 1) * 512 + int.from_bytes(image[0x248:0x24c], 'little')
    payload = image[at:at + int.from_bytes(image[0x24c:0x250], 'little') - 4]
    tool = {b'\x02\x21\x4c\x18': 'lz4', b'\xfd7zX': 'xz'}.get(payload[:4])
    check(tool, f'compressed in an unknown way: {payload[:4]!r}')
    with tempfile.TemporaryDirectory(prefix='caisson-pvh-') as folder:
        elf = os.path.join(folder, 'vmlinux')
        with open(elf, 'wb') as f:
            # xz complains of what follows its stream; the size tells whether all came.
            subprocess.run([tool, '-dc'], input=payload, stdout=f, stderr=subprocess.DEVNULL, check=False)
        size = int.from_bytes(image[at + len(payload):at + len(payload) + 4], 'little')
        check(os.path.getsize(elf) == size, f'{os.path.getsize(elf)} of {size} bytes after {tool}')
        with vm.started(['--kernel', elf, '--initrd', initrd, '--engine', engine,
                         '--append', 'console=ttyS0 quiet panic=-1 caisson.test=boot']) as guest:
            check(guest.wait() == 0, 'exit code')
            check('CAISSON-TEST boot PASS' in guest.output, 'no PASS')


def case_hvc(package, engine):
    """The console on virtio-console: input arrives, and 256 KiB of output arrive whole."""
    vm.need_engine(engine)
    arguments = vm.boot(package, 'hvc', options=['--console', 'stdio,device=virtio'], engine=engine)
    with vm.started(arguments, terminal=True) as guest:
        guest.wait_for('CAISSON-READY')
        guest.type('hello hvc\n')
        guest.wait_for('CAISSON-GOT hello hvc')
        check(guest.wait() == 0, 'exit code')
        check(guest.output.count('x') >= 256 << 10, f'{guest.output.count("x")} of {256 << 10} bytes came')


def case_forward(package, engine):
    """A connection from the host to a port of the guest."""
    vm.need_engine(engine)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    arguments = vm.boot(package, 'serve', options=['--net', f'user,fwd=tcp:{port}:8080'], engine=engine)
    with vm.started(arguments) as guest:
        guest.wait_for('CAISSON-READY')
        deadline = time.monotonic() + 60
        answer = b''
        while not answer and time.monotonic() < deadline:
            # The guest listens a moment after it says so.
            with socket.create_connection(('127.0.0.1', port), 30) as connection:
                connection.sendall(b'hello from the host\n')
                connection.shutdown(socket.SHUT_WR)
                try:
                    answer = connection.makefile('rb').read()
                except ConnectionResetError:
                    pass
            time.sleep(0.2)
        check(answer == b'hello from the guest\n', f'answer {answer!r}')
        check(guest.wait() == 0, 'exit code')
        check('CAISSON-GOT hello from the host' in guest.output, 'the guest did not get our line')


def case_panic(package, engine):
    """panic=-1 resets the machine; with --no-reboot that ends it."""
    vm.need_engine(engine)
    with vm.started(vm.boot(package, 'panic', options=['--no-reboot'], engine=engine)) as guest:
        guest.wait_for('CAISSON-READY')
        check(guest.wait() == 0, 'a reset with --no-reboot is an orderly end')


def case_reboot(package, engine):
    """A reset starts the same guest again."""
    vm.need_engine(engine)
    with vm.started(vm.boot(package, 'reboot', engine=engine)) as guest:
        first = guest.wait_for('CAISSON-READY')
        guest.wait_for('CAISSON-READY', start=first.end())


def case_debian(engine):
    """What make run does, on a terminal: root shell of the Debian disk, commands, power off, terminal as it was."""
    vm.need_engine(engine)
    kernel, initrd = vm.guest_kernel('linux-image-cloud-amd64')
    with tempfile.TemporaryDirectory(prefix='caisson-disk-') as folder:
        disk = os.path.join(folder, 'root.ext4')
        subprocess.run(['cp', '--sparse=always', vm.guest_disk(), disk], check=True)
        arguments = ['--kernel', kernel, '--initrd', initrd, '--engine', engine, '--disk', disk, '--net', 'user',
                     '--append', 'console=ttyS0 quiet root=LABEL=caisson-root']
        with vm.started(arguments, terminal=True) as guest:
            guest.wait_for(r'root@caisson:.*# ')
            check(not guest.terminal_restored(), 'the terminal is not in raw mode while the guest runs')
            guest.type('echo sum=$((6 * 7)); . /etc/os-release; echo version=$VERSION_ID\r')
            guest.wait_for('sum=42')
            guest.wait_for('version=12')
            guest.type("ip -4 -o addr show eth0 | tr -s ' ' | cut -d ' ' -f 4\r")
            guest.wait_for('10.0.2.15/24')
            guest.type('dpkg -l | tail -n 1; apt-get --version | head -n 1\r')
            guest.wait_for(r'apt 2\.')
            guest.type('poweroff\r')
            check(guest.wait() == 0, 'exit code after poweroff')
            check(guest.terminal_restored(), 'the terminal was not restored')


def case_button(package, engine):
    """Ctrl-] p presses the power button: the guest shuts down by itself, and the other keys still reach it."""
    vm.need_engine(engine)
    with vm.started(vm.boot(package, 'button', engine=engine), terminal=True) as guest:
        guest.wait_for('CAISSON-READY')
        deadline = time.monotonic() + 60
        while guest.process.poll() is None and time.monotonic() < deadline:
            guest.type('\x1dp') # again: the guest listens a moment after it says so
            time.sleep(3)
        code = guest.wait()
        check(re.search('CAISSON-TEST button PASS', guest.output), 'the guest saw no power button')
        check(code == 0, f'exit code {code}')


if __name__ == '__main__':
    vm.main({name[len('case_'):]: value for name, value in list(globals().items()) if name.startswith('case_')})
