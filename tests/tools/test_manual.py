#!/usr/bin/env python3
"""The manual page and the command line agree: every option of --help stands in docs/caisson.1 and the other way round, the
page is clean mdoc, the exit codes are those of the sources, and the completion for bash parses and knows every option."""
import os
import re
import subprocess
import sys
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
CAISSON = sys.argv.pop() if len(sys.argv) > 1 and not sys.argv[-1].startswith('-') else os.path.join(ROOT, 'build/caisson')
PAGE = os.path.join(ROOT, 'docs/caisson.1')
COMMANDS = (['vm', 'run'], ['cpu', 'ls'], ['doctor'], ['completion'])


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def help_options():
    found = set()
    for command in COMMANDS:
        found |= set(re.findall(r'^\s+(?:-\w, )?--([\w-]+)', output(CAISSON, *command, '--help'), re.M))
    return found - {'help'}


class Manual(unittest.TestCase):
    def setUp(self):
        with open(PAGE, encoding='utf-8') as f:
            self.page = f.read()

    def test_options(self):
        documented = set(re.findall(r'Fl Fl ([\w-]+)', self.page)) - {'help', 'version'}
        self.assertEqual(documented, help_options())

    def test_clean_mdoc(self):
        run = subprocess.run(['groff', '-mdoc', '-ww', '-Tutf8', PAGE], capture_output=True, text=True, check=True)
        self.assertEqual(run.stderr, '')

    def test_exit_codes(self):
        with open(os.path.join(ROOT, 'src/proto/exit_code.h'), encoding='utf-8') as f:
            codes = set(re.findall(r'EXIT_CODE_\w+ = (\d+)', f.read())) - {'5'} # the daemon is yet to come
        self.assertEqual(set(re.findall(r'^\.It (\d+)$', self.page, re.M)), codes)

    def test_bash_completion(self):
        script = output(CAISSON, 'completion', 'bash')
        subprocess.run(['bash', '-n'], input=script, text=True, check=True)
        for option in help_options():
            self.assertIn('--' + option, script)

    def test_other_completions(self):
        for shell in ('zsh', 'fish'):
            script = output(CAISSON, 'completion', shell)
            for option in help_options():
                self.assertRegex(script, rf'(--|-l ){option}\b')


if __name__ == '__main__':
    unittest.main()
