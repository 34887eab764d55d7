#!/usr/bin/env python3
"""System call filters: the program that the runtime loads answers as runc's does, for every call of every architecture.

Both are taken out of the kernel (PTRACE_SECCOMP_GET_FILTER) and run here on the same inputs.
"""
import ctypes
import os
import random
import shutil
import struct
import time

import harness
from harness import Bundle, Runtime, Skip, expect

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, PTRACE_SECCOMP_GET_FILTER = 0x4206, 0x4207, 17, 0x420c
NATIVE = ['SCMP_ARCH_X86_64']
ALL = NATIVE + ['SCMP_ARCH_X86', 'SCMP_ARCH_X32']
NAMES = """access alarm arch_prctl bind brk capget capset chdir chmod chown clock_gettime clock_nanosleep clone3 close connect dup
    dup2 epoll_create epoll_ctl epoll_wait eventfd2 execve execveat exit exit_group faccessat fcntl fstat fstatfs futex getcwd
    getdents64 getegid geteuid getgid getpid getppid getrandom getrlimit getsockopt gettid getuid ioctl ipc kill listen lseek
    madvise mkdir mmap mprotect mremap munmap nanosleep newfstatat open openat pause pipe2 poll ppoll prctl pread64 prlimit64
    pselect6 read readlink recvmsg rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_yield select sendmsg set_robust_list
    set_tid_address setgid setgroups setresgid setresuid setuid shmget sigaltstack socket socketcall stat statx tgkill umask uname
    unlink wait4 write writev no_such_call""".split()
CLONE = {'names': ['clone'], 'action': 'SCMP_ACT_ALLOW', 'args': [
    {'index': 0, 'value': 0x7e020000, 'valueTwo': 0, 'op': 'SCMP_CMP_MASKED_EQ'}]}
ALLOWED = [{'names': NAMES, 'action': 'SCMP_ACT_ALLOW'}, CLONE]
PROFILES = {
    'ENOSYS': {'defaultAction': 'SCMP_ACT_ERRNO', 'defaultErrnoRet': 38, 'architectures': ALL, 'syscalls': ALLOWED},
    'EPERM': {'defaultAction': 'SCMP_ACT_ERRNO', 'architectures': ALL, 'syscalls': ALLOWED},
    'another error': {'defaultAction': 'SCMP_ACT_ERRNO', 'defaultErrnoRet': 9, 'architectures': ALL, 'syscalls': ALLOWED},
    'one architecture': {'defaultAction': 'SCMP_ACT_ERRNO', 'architectures': NATIVE, 'syscalls': ALLOWED},
    'two architectures': {'defaultAction': 'SCMP_ACT_ERRNO', 'architectures': ALL[:2], 'syscalls': ALLOWED},
    'conditions': {'defaultAction': 'SCMP_ACT_ALLOW', 'architectures': ALL[:2], 'syscalls': [
        {'names': ['mkdir', 'socketcall', 'socket', 'ipc', 'shmget'], 'action': 'SCMP_ACT_ERRNO'},
        {'names': ['clone'], 'action': 'SCMP_ACT_ERRNO', 'errnoRet': 9, 'args': [
            {'index': 0, 'value': 7, 'valueTwo': 3, 'op': 'SCMP_CMP_MASKED_EQ'}, {'index': 0, 'value': 99, 'op': 'SCMP_CMP_EQ'},
            {'index': 1, 'value': 1 << 40, 'op': 'SCMP_CMP_GT'}]},
        {'names': ['lseek'], 'action': 'SCMP_ACT_TRAP', 'args': [
            {'index': 1, 'value': 5, 'op': 'SCMP_CMP_LT'}, {'index': 2, 'value': 2, 'op': 'SCMP_CMP_NE'}]}]},
}
ARCHES = (0xc000003e, 0x40000003, 0xc00000b7)  # x86-64, i386, and one that no profile has
NUMBERS = [*range(600), *range(0x40000000, 0x40000000 + 600), 1000, 5000, 0x3fffffff, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff]
VALUES = [0, 1, 2, 3, 5, 7, 8, 9, 99, 0xffffffff, 1 << 32, 1 << 40, (1 << 40) + 1, 0x7e020000, 0x10000000, 0x20000, 0x20008]


def loaded(pid):
    """The filter of a process: [(code, jt, jf, k)]."""
    libc = ctypes.CDLL(None, use_errno=True)
    ptrace = libc.ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long
    expect(f'ptrace of {pid}', ptrace(PTRACE_SEIZE, pid, None, None), 0)
    ptrace(PTRACE_INTERRUPT, pid, None, None)
    os.waitpid(pid, 0x40000000)
    program = ctypes.create_string_buffer(8 * 4096)
    n = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, None, program)
    code = ctypes.get_errno()
    ptrace(PTRACE_DETACH, pid, None, None)
    if n <= 0:
        raise Skip(f'the kernel does not give filters away: {os.strerror(code)}')
    return list(struct.iter_unpack('<HBBI', program.raw[:8 * n]))


def run(program, data):
    """The classic BPF that libseccomp and runc's stub are made of."""
    a = at = 0
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code == 0x20:  # ld [k]
            a = struct.unpack_from('<I', data, k)[0]
        elif code == 0x54:  # and #k
            a &= k
        elif code == 0x05:  # ja
            at += k
        elif code in (0x15, 0x25, 0x35, 0x45):
            at += jt if {0x15: a == k, 0x25: a > k, 0x35: a >= k, 0x45: a & k}[code] else jf
        elif code == 0x06:  # ret #k
            return k
        else:
            raise AssertionError(f'instruction {code:#x}')


def filter_of(runtime, profile):
    bundle = Bundle({'linux': {'seccomp': profile}}, args=['/payload', 'pause'])
    try:
        pid = runtime.started(bundle)
        harness.until('the payload', lambda: os.readlink(f'/proc/{pid}/exe').endswith('payload'))
        return loaded(pid)
    finally:
        runtime.delete(bundle.id)


def like_runc():
    if not shutil.which('runc'):
        raise Skip('runc is not installed')
    ours, theirs = Runtime(), Runtime(shutil.which('runc'))
    chance = random.Random(1)
    for name, profile in PROFILES.items():
        mine, other = filter_of(ours, profile), filter_of(theirs, profile)
        different = {}
        for arch in ARCHES:
            for number in NUMBERS:
                for args in [[0] * 6] + [chance.choices(VALUES, k=6) for _ in range(3)]:
                    data = struct.pack('<IIQ6Q', number, arch, 0, *args)
                    answers = run(mine, data), run(other, data)
                    if answers[0] != answers[1]:
                        different.setdefault((hex(arch), *map(hex, answers)), hex(number))
        expect(f'filter "{name}" ({len(mine)} instructions, runc {len(other)})', different, {})


def cached():
    """The second container does not compile, and gets the same program."""
    runtime, profile = Runtime(), PROFILES['EPERM']
    first = filter_of(runtime, profile)
    files = [name for name in os.listdir(runtime.root) if name.startswith('@seccomp-')]
    expect('files of the cache', len(files), 1)
    before = os.stat(os.path.join(runtime.root, files[0]))
    time.sleep(0.01)
    expect('program from the cache', filter_of(runtime, profile) == first, True)
    expect('cache is as it was', os.stat(os.path.join(runtime.root, files[0])).st_mtime_ns, before.st_mtime_ns)
    expect('list is not confused', runtime('list', '-q').stdout, '')


CASES = [like_runc, cached]

if __name__ == '__main__':
    harness.main(CASES)
