#!/usr/bin/env python3
"""Speaks CRIU's swrk protocol, for machines on whose kernel CRIU does not run: fakecriu.py swrk FD

What it was asked is appended to FAKE_CRIU_LOG as JSON. FAKE_CRIU says how it behaves: "ok", "fail" (an answer without success),
"die" (no answer), "garbage" (no message), "late" (restores, then fails). Field numbers are those of CRIU's images/rpc.proto.
"""
import ctypes
import json
import os
import signal
import socket
import struct
import sys

DUMP, RESTORE, PRE_DUMP, NOTIFY = 1, 2, 13, 6
NAMES = {1: 'images_dir_fd', 2: 'pid', 3: 'leave_running', 4: 'ext_unix_sk', 5: 'tcp_established', 7: 'shell_job', 8: 'file_locks', 9: 'log_level',
         10: 'log_file', 11: 'ps', 12: 'notify_scripts', 13: 'root', 14: 'parent_img', 15: 'track_mem', 16: 'auto_dedup', 17: 'work_dir_fd',
         18: 'link_remap', 23: 'ext_mnt', 24: 'manage_cgroups', 25: 'cg_root', 26: 'rst_sibling', 27: 'inherit_fd', 34: 'cgroups_mode',
         37: 'external', 38: 'empty_ns', 44: 'freeze_cgroup', 46: 'tcp_skip_in_flight', 50: 'orphan_pts_master', 53: 'lsm_profile',
         63: 'lsm_mount_context'}
LISTS, PAIRS = (23, 25, 27, 37), (11, 23, 25, 27)
CLONE_PARENT = 0x8000


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7f) << shift
        at, shift = at + 1, shift + 7
        if not data[at - 1] & 0x80:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 2:
            size, at = varint(data, at)
            value, at = data[at:at + size], at + size
            assert len(value) == size
        else:
            raise ValueError(f'wire type {tag & 7}')
        yield tag >> 3, value


def plain(value):
    return value.decode() if isinstance(value, bytes) else value


def options(data):
    out = {}
    for number, value in fields(data):
        name = NAMES[number]
        value = [plain(v) for _, v in fields(value)] if number in PAIRS else plain(value)
        if number in LISTS:
            out.setdefault(name, []).append(value)
        else:
            out[name] = value
    return out


def encoded(*pairs):
    out = b''
    for number, value in pairs:
        kind = 2 if isinstance(value, bytes) else 0
        for n in (number << 3 | kind, len(value) if kind else value):
            while n > 0x7f:
                out += bytes([n & 0x7f | 0x80])
                n >>= 7
            out += bytes([n])
        out += value if kind else b''
    return out


def tell(sock, script, pid=None, fd=None):
    inner = encoded((1, script.encode()), *([(2, pid)] if pid else []))
    message = encoded((1, NOTIFY), (2, 1), (5, inner))
    if fd is None:
        sock.send(message)
    else:
        socket.send_fds(sock, [message], [fd])
    answer = dict(fields(sock.recv(4096)))
    assert answer[1] == NOTIFY, answer
    return answer.get(3) == 1


def sibling(opts):
    """A process that is the runtime's child, as CRIU's are with rst_sibling; its descriptors are those that were handed over."""
    pid = ctypes.CDLL(None).syscall(56, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        for key, number in opts.get('inherit_fd', []):
            del key
            os.set_inheritable(os.open(f'/proc/{os.getpid()}/fd/{number}', os.O_WRONLY if number else os.O_RDONLY), False)
        os.execv(os.environ['OCI_PAYLOAD'], ['payload', 'pause'])
    return pid


def main():
    sock = socket.socket(fileno=int(sys.argv[2]))
    how = os.environ.get('FAKE_CRIU', 'ok')
    request = dict(fields(sock.recv(1 << 20)))
    opts = options(request[2])
    peer = struct.unpack('3i', sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    with open('/proc/self/mountinfo', encoding='utf-8') as f:
        points = [line.split()[4] for line in f]
    with open('/proc/self/cgroup', encoding='ascii') as f:
        seen = {'type': request[1], 'opts': opts, 'images': os.readlink(f'/proc/{peer}/fd/{opts["images_dir_fd"]}'),
                'work': os.readlink(f'/proc/{peer}/fd/{opts["work_dir_fd"]}'), 'root_is_mount': opts.get('root') in points,
                'mount_ns': os.readlink('/proc/self/ns/mnt'), 'cgroup_ns': os.readlink('/proc/self/ns/cgroup'), 'cgroups': f.read()}
    with open(os.environ['FAKE_CRIU_LOG'], 'a', encoding='utf-8') as f:
        f.write(json.dumps(seen) + '\n')
    if how == 'die':
        os.kill(os.getpid(), signal.SIGKILL)
    if how == 'garbage':
        sock.send(b'\xff' * 40)
        return 0
    inner = []
    if how == 'ok' and request[1] == DUMP:
        assert tell(sock, 'pre-dump') and tell(sock, 'post-dump')
        with open(os.path.join(seen['images'], 'inventory.img'), 'wb') as f:
            f.write(b'image')
        if not opts.get('leave_running'):
            os.kill(opts['pid'], signal.SIGKILL)
    if how in ('ok', 'late') and request[1] == RESTORE:
        pid = sibling(opts)
        accepted = tell(sock, 'setup-namespaces', pid) and tell(sock, 'post-restore', pid)
        if opts.get('orphan_pts_master') and os.path.exists('/dev/ptmx'):
            master = os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)
            accepted = tell(sock, 'orphan-pts-master', None, master) and accepted
        if how == 'late' or not accepted:
            os.kill(pid, signal.SIGKILL)
            how = 'fail'
        inner = [(4, encoded((1, pid)))]
    if how == 'fail':
        inner = [(7, 22), (9, b'no such luck')]
    sock.send(encoded((1, request[1]), (2, how == 'ok'), *inner))
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (BrokenPipeError, ConnectionResetError):  # the runtime has had enough
        sys.exit(1)
