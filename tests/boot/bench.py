#!/usr/bin/env python3
"""The benchmark's rows compute the same on the host and in guests, and the harness sees what goes wrong: bench.py CASE
Little work, no figures: whether something is fast is not asked here."""
import os
import sys
import tempfile

import vm
from vm import check

sys.path.insert(0, os.path.join(vm.ROOT, 'bench'))
import subjects # noqa: E402

PLAIN = ('alu sort chase recursion indirect fp sse2 avx2 memcpy crc sha syscall fault fork exec pipe switch tmpfs').split()
with open('/proc/cpuinfo', encoding='utf-8') as cpuinfo:
    if not {'avx2', 'fma'} < set(cpuinfo.read().split()):
        PLAIN.remove('avx2')


def place():
    made = subjects.Place(vm.BUILD)
    made.make()
    return made


def case_rows(engine):
    """Every row that does not need the Debian tree, with 1% of its work."""
    vm.need_engine(engine)
    made = place()
    peer = subjects.Peer(made)
    try:
        bare = subjects.run_bare(made, [*PLAIN, 'disk', 'tcp', 'smp1', 'smp2'], scale=1, port=peer.port)
        with tempfile.TemporaryDirectory(prefix='caisson-disk-') as folder:
            made.work_disk = vm.make_disk(os.path.join(folder, 'tree.ext4'))
            devices = subjects.run_guest(made, engine, ['disk', 'tcp'], devices=True, scale=1, port=peer.port)
    finally:
        peer.close()
    guest = subjects.run_guest(made, engine, [*PLAIN, 'memory'], scale=1)
    guest.update(devices)
    guest.update(subjects.run_guest(made, engine, ['smp1', 'smp2'], cpus=2, scale=1))
    for where, results in (('host', bare), (engine, subjects.check_sums(guest, bare))):
        for row, result in results.items():
            check(not result.error, f'{where}: {row}: {result.error}')
    check(set(PLAIN) < set(guest) and guest['memory'].value > 0, f'rows that came back: {sorted(guest)}')


def case_broken(engine):
    """A row that fails, one that hangs, a wrong sum, no init: each is an error, and the rows behind it still run."""
    vm.need_engine(engine)
    made = place()
    guest = subjects.run_guest(made, engine, ['tcp', 'no-such-row', 'disk', 'crc'], scale=1)
    check(guest['no-such-row'].error, 'a row that does not exist was measured')
    check(guest['tcp'].error and guest['crc'].sum, f'{guest}')
    bare = subjects.run_bare(made, ['crc'], scale=2)
    check(subjects.check_sums({'crc': guest['crc']}, bare)['crc'].error, 'a wrong sum went through')
    subjects.ROW_SECONDS = 5
    guest = subjects.run_guest(made, engine, ['alu', 'no-such-row'], scale=10000)
    check('nothing for 5 s' in (guest['alu'].error or ''), f'a row that takes minutes: {guest["alu"]}')
    check(guest['no-such-row'].error == 'there is no such row', f'the row behind it: {guest["no-such-row"]}')
    with tempfile.NamedTemporaryFile() as empty:
        made.initrd = empty.name
        check(subjects.run_guest(made, engine, ['crc'])['crc'].error, 'a kernel without init gave a figure')


if __name__ == '__main__':
    vm.main({name[len('case_'):]: value for name, value in list(globals().items()) if name.startswith('case_')})
