#!/usr/bin/env python3
"""The manual page and the command line agree: every option of --help stands in docs/caisson.1 and the other way round, the
page is clean mdoc, the exit codes are those of the sources, and the completion for bash parses and knows every option."""
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
CAISSON = sys.argv.pop() if len(sys.argv) > 1 and not sys.argv[-1].startswith('-') else os.path.join(ROOT, 'build/caisson')
PAGE = os.path.join(ROOT, 'docs/caisson.1')


@functools.lru_cache(maxsize=None)
def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def commands():
    """The words of each command, as `help all` lists them: in 20 columns."""
    listed = output(CAISSON, 'help', 'all').split('\nCommands:\n')[1].split('\n\n')[0]
    return [line[2:22].split() for line in listed.splitlines()]


def help_options():
    found = set()
    for command in commands():
        found |= set(re.findall(r'^\s+(?:-\w, )?--([\w-]+)', output(CAISSON, *command, '--help'), re.M))
    return found - {'help'}


class Manual(unittest.TestCase):
    def setUp(self):
        with open(PAGE, encoding='utf-8') as f:
            self.page = f.read()

    def test_nothing_stale(self):
        """What caisson(1) describes is there. Not everything has to be in it: there is a page for each noun."""
        documented = set(re.findall(r'Fl Fl ([\w-]+)', self.page)) - {'help', 'version'}
        self.assertEqual(documented - help_options(), set())
        described = {name for line in re.findall(r'^\.Ss caisson (.*)$', self.page, re.M) for name in line.split(' , ')}
        self.assertEqual(described - {' '.join(command) for command in commands()}, set())

    def test_pages(self):
        """The pages that come from the table: every command and every option, clean mdoc; caisson(1) names all pages, and
        all are installed."""
        self.assertGreater(len(commands()), 20)
        with open(os.path.join(ROOT, 'docs/meson.build'), encoding='utf-8') as f:
            installed = set(re.findall(r"'(\w+)'", re.search(r'foreach noun : \[(.*?)\]', f.read(), re.S)[1]))
        nouns = {command[0] if len(command) > 1 else 'instance' for command in commands()}
        self.assertEqual(nouns, installed)
        for noun in nouns:
            page = output(CAISSON, '__man', noun)
            run = subprocess.run(['groff', '-mdoc', '-ww', '-Tascii', '-P-c'], input=page, capture_output=True, text=True, check=True)
            self.assertEqual(run.stderr, '', noun)
            text = re.sub(r'.\x08', '', run.stdout)
            for command in commands():
                if (command[0] if len(command) > 1 else 'instance') != noun:
                    continue
                self.assertIn('caisson ' + ' '.join(command), text)
                for option in re.findall(r'^\s+(?:-\w, )?(--[\w-]+)', output(CAISSON, *command, '--help'), re.M):
                    self.assertIn(option, text)
            self.assertIn(f'.Xr caisson-{noun} 1', self.page)

    def test_clean_mdoc(self):
        run = subprocess.run(['groff', '-mdoc', '-ww', '-Tutf8', PAGE], capture_output=True, text=True, check=True)
        self.assertEqual(run.stderr, '')

    def test_exit_codes(self):
        with open(os.path.join(ROOT, 'src/proto/exit_code.h'), encoding='utf-8') as f:
            codes = set(re.findall(r'EXIT_CODE_\w+ = (\d+)', f.read())) - {'5'} # the daemon is yet to come
        self.assertEqual(set(re.findall(r'^\.It (\d+)$', self.page, re.M)), codes)

    def test_completion(self):
        """Each option of each command, each command after its noun, values of options, names of objects and of files."""
        @functools.lru_cache(maxsize=None)
        def offered(*words):
            return [line.split('\t')[0] for line in output(CAISSON, '__complete', *words).splitlines()]
        for command in commands():
            words = command if isinstance(command, list) else command.split()
            self.assertIn(words[-1], offered(*words[:-1], ''))
            text = output(CAISSON, *words, '--help')
            options = {'--' + name for name in re.findall(r'^\s+(?:-\w, )?--([\w-]+)', text, re.M)} | {'--help'}
            self.assertEqual(set(offered(*words, '-')), options, words)
        self.assertEqual(offered('vm', 'run', '--engine', 'k'), ['kvm'])
        self.assertEqual(offered('vm', 'run', '--engine=i'), ['--engine=interp'])
        self.assertEqual(offered('vm', 'run', '--kernel', ''), [':file'])
        self.assertEqual(offered('completion', 'z'), ['zsh'])
        self.assertIn('default', offered('network', 'inspect', 'd'))
        self.assertIn('default', offered('network', 'show', ''))
        self.assertEqual(offered('nonsense', ''), [])
        self.assertNotIn('__complete', offered(''))

    def test_bash_completes(self):
        """As bash itself does it, with words cut at = as it cuts them."""
        script = output(CAISSON, 'completion', 'bash')
        def completed(line, *words):
            run = subprocess.run(['bash', '-c', script + """
                compopt() { :; }
                COMP_LINE=$1 COMP_POINT=${#1}; shift
                COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
                _caisson; printf '%s\\n' "${COMPREPLY[@]}" """, 'bash', line, *words], capture_output=True, text=True,
                check=True)
            self.assertEqual(run.stderr, '')
            return run.stdout.splitlines()
        self.assertEqual(completed(f'{CAISSON} vm ru', CAISSON, 'vm', 'ru'), ['run'])
        self.assertEqual(completed(f'{CAISSON} vm run --engine=k', CAISSON, 'vm', 'run', '--engine', '=', 'k'), ['kvm'])
        self.assertIn('--kernel', completed(f'{CAISSON} vm run --k', CAISSON, 'vm', 'run', '--k'))
        self.assertIn(PAGE, completed(f'{CAISSON} disk info {PAGE[:-3]}', CAISSON, 'disk', 'info', PAGE[:-3]))

    def test_other_completions(self):
        """zsh and fish take their scripts, where they are installed."""
        for shell in ('zsh', 'fish'):
            script = output(CAISSON, 'completion', shell)
            self.assertIn('__complete', script)
            if shutil.which(shell):
                run = subprocess.run([shell, '-n', '/dev/stdin'], input=script, capture_output=True, text=True, check=False)
                self.assertEqual((run.returncode, run.stderr), (0, ''))

    def test_aliases(self):
        """Other words for ours: each does what ours does, and none is in the help."""
        self.assertEqual(output(CAISSON, 'network', 'list', '-q'), output(CAISSON, 'network', 'ls', '-q'))
        self.assertEqual(output(CAISSON, 'network', 'show', 'default'), output(CAISSON, 'network', 'inspect', 'default'))
        self.assertNotIn('unpause', output(CAISSON, 'help', 'all'))

    def test_help(self):
        """By noun, of one command, by the word help; a noun alone is a usage error that lists its commands."""
        top = output(CAISSON, '--help')
        self.assertLess(top.count('\n'), 60)
        self.assertIn('Common commands:', top)
        self.assertEqual(output(CAISSON, 'help', 'network', 'ls'), output(CAISSON, 'network', 'ls', '-h'))
        self.assertIn('network create', output(CAISSON, 'help', 'network'))
        run = subprocess.run([CAISSON, 'network'], capture_output=True, text=True, check=False)
        self.assertEqual((run.returncode, run.stdout), (2, ''))
        self.assertIn('network create', run.stderr)
        run = subprocess.run([CAISSON, 'netwrok', 'ls'], capture_output=True, text=True, check=False)
        self.assertIn("did you mean 'caisson network ls'?", run.stderr)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory(prefix='csn-') as state:
        os.environ.update(CAISSON_STATE_DIR=os.path.join(state, 's'), CAISSON_RUNTIME_DIR=os.path.join(state, 'r'))
        unittest.main()
