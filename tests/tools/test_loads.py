#!/usr/bin/env python3
"""The judge of the load tests (tests/loads/loads.py) sees trouble where there is some, and only there."""
import os
import sys
import tempfile
import time
import unittest

LOADS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'loads')
sys.path.insert(0, os.path.abspath(LOADS))
import loads # noqa: E402 (found by the line above)
import vm # noqa: E402

TROUBLE = [
    '[   12.3] BUG: kernel NULL pointer dereference, address: 0000000000000010',
    '[   12.3] BUG: Bad page state in process cc1  pfn:12345',
    '[   12.3] WARNING: CPU: 0 PID: 1 at kernel/sched/core.c:1 foo+0x1/0x2',
    '[   12.3] watchdog: BUG: soft lockup - CPU#1 stuck for 23s! [cc1:77]',
    '[   12.3] rcu: INFO: rcu_preempt self-detected stall on CPU',
    '[   12.3] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:',
    '[   12.3] INFO: task init:1 blocked for more than 120 seconds.',
    '[   12.3] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100',
    '[   12.3] general protection fault, probably for non-canonical address 0x1: 0000 [#1] PREEMPT SMP',
    '[   12.3] Oops: 0002 [#1] PREEMPT SMP',
    '[   12.3] unchecked MSR access error: RDMSR from 0x1a2 at rIP: 0xffffffff81000000',
    '[   12.3] EXT4-fs error (device vda): ext4_lookup:1: inode #2: comm ls: deleted inode referenced: 3',
    '[   12.3] I/O error, dev vda, sector 8 op 0x1:(WRITE) flags 0x0 phys_seg 1 prio class 2',
    '[   12.3] irq 9: nobody cared (try booting with the "irqpoll" option)',
]
QUIET = [
    '[    0.4] PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug',
    '[    0.7] i8042: PNP: PS/2 appears to have AUX port disabled, if this is incorrect please boot with i8042.nopnp',
    '[    9.0] hrtimer: interrupt took 12345678 ns',
    '[    6.0] sched: DL replenish lagged too much',
    'warning: unused variable x',
    'test_bug_1234 (test.test_int.IntTestCases) ... ok',
    'DEBUG: nothing',
]


class Guest:
    """What wait_for_end needs of a Vm: says its words and then ends, or does not."""

    def __init__(self, output, ends):
        self.output, self.ends, self.process = output, ends, self

    def poll(self):
        return 0 if self.ends else None

    def wait(self):
        return 0


class Judge(unittest.TestCase):
    def test_trouble(self):
        for line in TROUBLE:
            self.assertEqual(loads.trouble(f'all is well\r\n{line}\r\nand on\r\n'), line)

    def test_quiet(self):
        self.assertIsNone(loads.trouble('\r\n'.join(QUIET)))

    def test_one_among_others(self):
        self.assertEqual(loads.trouble('\r\n'.join([*QUIET, TROUBLE[0], *QUIET])), TROUBLE[0])

    def test_end_and_hang(self):
        with tempfile.TemporaryDirectory(prefix='caisson-judge-') as folder:
            vm.BUILD = folder
            self.assertEqual(loads.wait_for_end('x', Guest('words', True), 60), 0)
            with open(os.path.join(folder, 'loads', 'x.log'), encoding='utf-8') as log:
                self.assertEqual(log.read(), 'words')
            began = time.monotonic()
            with self.assertRaisesRegex(vm.Failure, "hung.*last words: 'so far'"):
                loads.wait_for_end('x', Guest('so far', False), 0.5)
            self.assertGreaterEqual(time.monotonic() - began, 0.5) # not before its time


if __name__ == '__main__':
    unittest.main()
