#!/usr/bin/env python3
"""Saving and restoring running guests: save.py CASE [ARGUMENT...]. The guest checks itself: computing, a disk and the network at
once, every result compared; it is saved and restored again and again, under another engine each time."""
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'boot'))
import vm # noqa: E402
from vm import check # noqa: E402

@contextlib.contextmanager
def place():
    """A folder of our own, and runtime and state directories in it, root's too. What a VM that was killed leaves there goes with it."""
    with vm.workplace() as folder:
        for name in ('RUNTIME', 'STATE'):
            directory = os.path.join(folder, name.lower() + '-of-ours')
            os.mkdir(directory, 0o700)
            os.environ[f'CAISSON_{name}_DIR'] = directory
        yield folder


PACKAGE = 'linux-image-cloud-amd64'
NAME = 'saved'

# Each part counts what it has verified in /tmp; a wrong result is said and never forgotten. A connection that was open while the VM was
# saved is lost with its user-mode network, so a download may fail, but what comes must be right.
WORK = r'''
B=/bin/busybox
bad() { echo "BAD $*"; echo "$*" >>/tmp/bad; }
count() { echo $(($(cat /tmp/$1) + 1)) >/tmp/$1.new; $B mv /tmp/$1.new /tmp/$1; }
alias cat="$B cat"
cpu() { while :; do
    got=$($B seq 1 300 | $B sha256sum); [ "$got" = "$seq_sum" ] || bad "cpu $got"
    got=$($B awk 'BEGIN { x = 0; for (i = 1; i < 2000; i++) x += 1 / (i * i + x); printf "%.12f", x }')
    [ "$got" = "$float" ] || bad "float $got"
    count cpu; done; }
mem() { while :; do
    got=$($B md5sum </tmp/data); [ "$got" = "$data_sum" ] || bad "memory $got"
    count mem; done; }
disk() { i=0; while :; do
    i=$((i + 1)); at=$((i * 7 % 120))
    { echo $i; cat /tmp/data; } | $B dd of=/dev/vda bs=64k seek=$((at * 2)) count=2 iflag=fullblock conv=notrunc 2>/dev/null
    want=$({ echo $i; cat /tmp/data; } | $B dd bs=64k count=2 iflag=fullblock 2>/dev/null | $B md5sum)
    $B sync; echo 3 >/proc/sys/vm/drop_caches
    got=$($B dd if=/dev/vda bs=64k skip=$((at * 2)) count=2 2>/dev/null | $B md5sum)
    [ "$got" = "$want" ] || bad "disk $i: $got, not $want"
    count disk; done; }
net() { while :; do
    if $B timeout 4 $B wget -q -O /tmp/got "$url" 2>/dev/null; then
        got=$($B sha256sum </tmp/got); [ "${got%% *}" = "$sha256" ] || bad "net $got"
        count net; fi; done; }
begin() {
    for i in cpu mem disk net; do echo 0 >/tmp/$i; done; true >/tmp/bad
    $B ip link set lo up; $B ip link set eth0 up
    $B udhcpc -i eth0 -n -q -t 10 -T 2 -s /etc/udhcpc.script >/tmp/udhcpc 2>&1 || bad lease
    $B dd if=/dev/urandom of=/tmp/data bs=64k count=4 2>/dev/null
    data_sum=$($B md5sum </tmp/data)
    seq_sum=$($B seq 1 300 | $B sha256sum)
    float=$($B awk 'BEGIN { x = 0; for (i = 1; i < 2000; i++) x += 1 / (i * i + x); printf "%.12f", x }')
    cpu & mem & disk & net &
    while :; do echo "AT $(cat /tmp/cpu) $(cat /tmp/mem) $(cat /tmp/disk) $(cat /tmp/net) bad=$($B wc -l </tmp/bad)"
        $B sleep 0.5; done; }
'''


def caisson(*arguments, code=0):
    run = subprocess.run([vm.CAISSON, *arguments], capture_output=True, text=True, check=False, timeout=vm.TIMEOUT)
    check(run.returncode == code, f'{" ".join(arguments)}: exit code {run.returncode}, not {code}: {run.stderr}')
    return run


def refused(code, text, *arguments):
    run = caisson(*arguments, code=code)
    check(run.stderr.startswith('caisson: ') and text in run.stderr and run.stderr.count('\n') == 1,
          f'{" ".join(arguments)}: said {run.stderr!r}, without {text!r}')


def save(path, *options):
    """Save the VM, which ends; what caisson says of it."""
    return json.loads(caisson('vm', 'save', NAME, path, '--json', *options).stdout)[0]


def restored(path, *options):
    return vm.started([*options, path], program=[vm.CAISSON, 'vm', 'restore'])


def shell(options=(), engine='bt', cpus=1, memory='128M'):
    return vm.started(vm.boot(PACKAGE, '', 'root=/dev/none', ['--name', NAME, '--memory', memory, *options], engine, cpus))


def ready(guest):
    guest.wait_for('this is a shell in the initrd')
    guest.wait_for('/ # ')


def enter(guest, text):
    """Type lines into the guest's shell, not faster than its serial port takes them."""
    for number, line in enumerate(text.strip().splitlines()):
        guest.type(line + '\n')
        if number % 8 == 7:
            time.sleep(0.05)


def progress(guest, at):
    """Wait until every part of the work has done something more than at; where it is then."""
    deadline = time.monotonic() + vm.TIMEOUT
    start = len(guest.output)
    while True:
        match = guest.wait_for(r'AT (\d+) (\d+) (\d+) (\d+) bad=(\d*)\r?\n', start=start)
        check('BAD' not in guest.output.replace('echo "BAD', '') and match.group(5) in ('', '0'),
              f'the guest found an error: {guest.output[-2000:]}')
        now = [int(word) for word in match.groups()[:4]]
        if all(new > old for new, old in zip(now, at)):
            return now
        check(time.monotonic() < deadline, f'no progress: {at}, {now}')
        start = match.end()


def busy(rounds='5', cpus='2', *engines):
    """Saved in the middle of work, restored under the other engine, as often as it is asked for."""
    engines = engines or ('bt', 'interp')
    at = [0] * 4
    times = []
    with place() as folder, vm.web_server(os.urandom(200000)) as (port, sha256, _):
        disk, path = os.path.join(folder, 'disk.raw'), os.path.join(folder, 'vm.save')
        with open(disk, 'wb') as f:
            f.truncate(16 << 20)
        options = ['--disk', disk + ',format=raw', '--net', 'user']
        running = shell(options, engines[0], cpus)
        for turn in range(int(rounds) + 1):
            with running as guest:
                if turn == 0:
                    ready(guest)
                    enter(guest, WORK)
                    enter(guest, f'url=http://10.0.2.2:{port}/; sha256={sha256}; begin')
                at = progress(guest, at)
                if turn == int(rounds):
                    break
                report = save(path, '--replace')
                check(guest.wait() == 0, 'the VM that was saved did not end well')
                times.append(report['paused_us'] / 1000)
            running = restored(path, '--engine', engines[(turn + 1) % len(engines)])
    print(f'figure: saved and restored {rounds} times, verified work in between: {at}; the VM stood still for '
          f'{max(times):.0f} ms at most')



def saved_guest(folder, options=('--net', 'none'), commands='', engine='bt', save_options=(), marks='shell'):
    """A guest with a shell, saved; the path of the file."""
    path = os.path.join(folder, 'vm.save')
    with shell(options, engine) as guest:
        ready(guest)
        enter(guest, f'B=/bin/busybox; {commands} echo {marks[0]}""{marks[1:]}')
        guest.wait_for(marks)
        save(path, *save_options)
        check(guest.wait() == 0, 'the VM that was saved did not end well')
    return path


def say(guest, command):
    """What the guest's shell prints for a command."""
    start = len(guest.output)
    guest.type(f'{command}; echo "EN""D"\n')
    match = guest.wait_for(r'\n([^\n]*)\r?\nEND', start=start)
    return match.group(1).strip()


def refused_files():
    """Damage of every kind, and hardware that does not fit: one line, the right exit code, nothing left."""
    with place() as folder:
        path = saved_guest(folder)
        with open(path, 'rb') as f:
            data = f.read()
        bad = os.path.join(folder, 'bad.save')

        def restore_bad(content, code, text, *options):
            with open(bad, 'wb') as f:
                f.write(content)
            refused(code, text, 'vm', 'restore', bad, '--console', 'none', *options)

        for cut in (0, 10, 63, 64, 5000, len(data) // 2, len(data) - 1):
            restore_bad(data[:cut], 1, 'saved VM')
        for at in (9, 20, 70, len(data) // 3, len(data) // 2, len(data) - 3000, len(data) - 200, len(data) - 90, len(data) - 1):
            restore_bad(data[:at] + bytes([data[at] ^ 4]) + data[at + 1:], 1, 'saved VM')
        restore_bad(data + b'x', 1, 'damaged')
        restore_bad(b'\x7fELF' * 100, 1, 'not a saved VM')
        refused(3, 'No such file', 'vm', 'restore', os.path.join(folder, 'none.save'))
        refused(2, 'it has 0 disks, not 1', 'vm', 'restore', path, '--disk', bad + ',format=raw')
        refused(2, 'it has 0 network cards, not 1', 'vm', 'restore', path, '--net', 'user')
        refused(2, 'ports are forwarded by the network', 'vm', 'restore', path, '--net', 'default,fwd=tcp:8080:80')
        refused(2, 'unknown engine', 'vm', 'restore', path, '--engine', 'warp')
        refused(2, 'use continue or catch-up', 'vm', 'restore', path, '--clock', 'stop')
        # And what is whole goes on, under another name, as often as one likes.
        for name in ('one', 'two'):
            with restored(path, '--name', name, '--engine', 'interp') as guest:
                guest.type('echo AG""AIN\n')
                guest.wait_for('AGAIN')


def refused_saves():
    """Saving that cannot be done leaves nothing, and the VM goes on."""
    with place() as folder, shell(['--net', 'none']) as guest:
        path = os.path.join(folder, 'vm.save')
        ready(guest)
        with open(path, 'w', encoding='ascii') as f:
            f.write('mine')
        refused(4, 'exists already', 'vm', 'save', NAME, path)
        refused(3, 'No such file', 'vm', 'save', NAME, os.path.join(folder, 'none', 'x'))
        refused(3, "no VM 'other' is running", 'vm', 'save', 'other', path)
        with open(path, encoding='ascii') as f:
            check(f.read() == 'mine', 'the file that was there is not any more')
        small = os.path.join(folder, 'small')
        os.mkdir(small)
        if os.getuid() == 0 and subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1M', 'none', small], check=False).returncode == 0:
            try:
                refused(1, 'No space left', 'vm', 'save', NAME, os.path.join(small, 'x'), '--no-compress')
                check(os.listdir(small) == [], f'left behind: {os.listdir(small)}')
            finally:
                subprocess.run(['umount', small], check=True)
        check(say(guest, 'echo 1') == '1', 'the guest did not go on')
        report = save(path, '--replace', '--keep-running')
        check(report['state'] == 'done' and os.path.getsize(path) == report['size'] > 1000000, f'report: {report}')
        check(os.stat(path).st_mode & 0o77 == 0, 'others can read the memory of the VM')
        check(say(guest, 'echo 2') == '2', 'the guest does not go on')
        left = [name for name in os.listdir(folder) if '.part' in name]
        check(not left, f'left behind: {left}')


def clock(engine='bt'):
    """The guest's clock goes on from where it was, or catches up; its uptime likewise."""
    with place() as folder:
        path = saved_guest(folder, commands='mark=$($B date +%s);', engine=engine)
        time.sleep(6)
        for how in ('continue', 'catch-up'):
            with restored(path, '--clock', how) as guest:
                now = int(say(guest, '$B date +%s'))
                mark = int(say(guest, 'echo $mark'))
                behind = time.time() - now
                check(now >= mark, 'the guest went back in time')
                # The save itself and the loading take a while on a busy machine, but never less than the pause.
                check(behind >= 5.5 if how == 'continue' else -2 < behind < 5, f'{how}: {behind:.1f} s behind')
                check('self-detected stall' not in guest.output, 'the guest saw a stall')


def disks():
    """State and disks of one moment: what is written later is gone after the restore."""
    with place() as folder:
        disk, raw, path = (os.path.join(folder, name) for name in ('disk.qcow2', 'disk.raw', 'vm.save'))
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', disk, '16M'], check=True)
        with shell(['--disk', disk, '--net', 'none']) as guest:
            ready(guest)
            enter(guest, 'B=/bin/busybox; put() { echo "$1" | $B dd of=/dev/vda bs=512 conv=notrunc,sync 2>/dev/null; $B sync; }\n'
                  'get() { echo 3 >/proc/sys/vm/drop_caches; $B dd if=/dev/vda bs=512 count=1 2>/dev/null | $B head -n 1; }\nput before')
            check(say(guest, 'get') == 'before', 'the disk does not have what was written')
            save(path, '--snapshot', 'here', '--keep-running')
            enter(guest, 'put after')
            check(say(guest, 'get') == 'after', 'the disk does not have what was written')
            refused(4, 'exists already', 'vm', 'save', NAME, path + '2', '--snapshot', 'here')
            check(say(guest, 'get') == 'after', 'the guest does not go on')
        # The VM was killed: leaked clusters (3) are no damage.
        check(subprocess.run(['qemu-img', 'check', '-q', disk], check=False).returncode in (0, 3), 'the image is damaged')
        names = [s['name'] for s in json.loads(subprocess.run(['qemu-img', 'info', '--output=json', disk], check=True,
                                                              capture_output=True).stdout)['snapshots']]
        check(names == ['here'], f'snapshots: {names}')
        with restored(path, '--engine', 'interp') as guest:
            check(say(guest, 'get') == 'before', 'the disk is not as it was')
        # Another disk file of the same content will do, one without the snapshot will not, a smaller one neither.
        copy = os.path.join(folder, 'copy.qcow2')
        shutil.copy(disk, copy)
        with restored(path, '--disk', copy, '--name', 'copy') as guest:
            check(say(guest, 'get') == 'before', 'the copy is not as it was')
        with open(raw, 'wb') as f:
            f.truncate(16 << 20)
        refused(3, "no snapshot 'here'", 'vm', 'restore', path, '--disk', raw + ',format=raw')


def reset():
    """A restored guest that resets boots its kernel; a copy gets an identity of its own."""
    with place() as folder:
        path = saved_guest(folder, ('--net', 'user'))
        with restored(path, '--new-identity') as guest:
            check(say(guest, 'echo 3') == '3', 'the guest does not go on')
            start = len(guest.output)
            guest.type('$B reboot -f\n')
            guest.wait_for('this is a shell in the initrd', start=start)


def speed(engine='bt', rounds='5'):
    """Figures only: how long saving takes a guest of 256 MiB away, and how long it is from the command to the first sign of life of the
    restored guest, compressed and not. Not in make check."""
    with place() as folder:
        path = os.path.join(folder, 'vm.save')
        for options in ((), ('--no-compress',)):
            saves, restores = [], []
            running = shell(['--net', 'none'], engine, memory='256M')
            for turn in range(int(rounds) + 1):
                with running as guest:
                    if turn == 0:
                        ready(guest)
                        enter(guest, 'i=0; while :; do i=$((i+1)); echo "AT $i"; done')
                    guest.wait_for(r'AT \d+\r?\n')
                    if turn > 0:
                        restores.append(guest.time_of(r'AT \d+|\d'))
                    time.sleep(0.3)
                    report = save(path, '--replace', *options)
                    guest.wait()
                    saves.append(report['paused_us'] / 1e6)
                running = restored(path, '--engine', engine)
            with running:
                pass
            print(f'figure: 256 MiB, {"zstd" if not options else "raw"}, {report["size"] >> 20} MiB in the file: save {sorted(saves)[len(saves) // 2]:.3f} s, '
                  f'restore to running {sorted(restores)[len(restores) // 2]:.3f} s (best {min(restores):.3f} s), medians of {rounds}')


if __name__ == '__main__':
    vm.main({'speed': speed, 'busy': busy, 'refused': refused_files, 'refused_saves': refused_saves, 'clock': clock, 'disks': disks, 'reset': reset})
