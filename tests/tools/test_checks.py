#!/usr/bin/env python3
"""The checks of tools/ are themselves checked: each small tree below violates one rule, and the check must say so with the
right message and fail; a clean tree must pass every check."""
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True  # of tools/check
TOOLS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools')

CLEAN = {
    'src/layers.txt': 'base:\nmem: base\ncpu: base mem\ncpu/bt: cpu base mem | zydis\nhw: base mem\nbin/prog.c: base hw\n',
    'src/base/a.h': '#ifndef BASE_A_H\n#define BASE_A_H\nint base_a(int x);\n#endif\n',
    'src/base/a.c': '#include "base/a.h"\n\n#include <string.h>\n\nint base_a(int x)\n{\n    return x + (int)strlen("strcpy(");\n}\n',
    'src/mem/m.h': '#ifndef MEM_M_H\n#define MEM_M_H\n#include "base/a.h"\nint mem_m(void);\n#endif\n',
    'src/mem/m.c': '#include "mem/m.h"\n\nstatic const int table[] = { 1, 2 };\n\nint mem_m(void)\n{\n'
                   '    return base_a(table[1]); /* not system("x") */\n}\n',
    'src/hw/h.c': '#include <stdlib.h>\n\n#include "mem/m.h"\n\nint hw_h(void);\n\nint hw_h(void)\n{\n    int *p = malloc(4);\n\n'
                  '    if (!p)\n        return -1;\n    free(p);\n    return mem_m();\n}\n',
    'src/bin/prog.c': '#include <stdlib.h>\n\nint main(void)\n{\n    exit(3);\n}\n',
}


class Tree(unittest.TestCase):
    """Makes the clean tree plus changes in a temporary folder and runs one check over it."""

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix='caisson-checks-')
        self.addCleanup(shutil.rmtree, self.root)
        self.write(CLEAN)

    def write(self, files):
        for path, text in files.items():
            path = os.path.join(self.root, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'w', encoding='utf-8') as f:
                f.write(text)

    def run_check(self, name, *arguments):
        run = subprocess.run([os.path.join(TOOLS, name), '--root', self.root, *arguments], capture_output=True, text=True,
                             check=False)
        self.assertEqual(run.stderr, '')
        return run.returncode, run.stdout

    def passes(self, name, *arguments):
        status, out = self.run_check(name, *arguments)
        self.assertEqual((status, out), (0, ''))

    def fails(self, message, name, *arguments):
        status, out = self.run_check(name, *arguments)
        self.assertIn(message, out)
        self.assertEqual(len(out.splitlines()), 1, out)
        self.assertEqual(status, 1)

    def archive(self, name, sources):
        """Build the static library that the symbol checks look at."""
        folder = os.path.join(self.root, 'build', 'src')
        os.makedirs(folder, exist_ok=True)
        objects = []
        for source in sources:
            target = os.path.join(folder, source.replace('/', '_') + '.o')
            subprocess.run(['gcc', '-O1', '-fPIC', '-I' + os.path.join(self.root, 'src'), '-c',
                            os.path.join(self.root, 'src', source), '-o', target], check=True)
            objects.append(target)
        subprocess.run(['ar', 'rcs', os.path.join(folder, f'libcaisson_{name}.a'), *objects], check=True)
        return os.path.join(self.root, 'build')


class Layers(Tree):
    def test_clean(self):
        self.passes('check-layers')

    def test_upward_include(self):
        self.write({'src/base/a.c': '#include "base/a.h"\n#include "mem/m.h"\nint base_a(int x)\n{\n    return x;\n}\n'})
        self.fails('src/base/a.c:2: base may not include "mem/m.h" of mem', 'check-layers')

    def test_subfolder_is_a_layer_of_its_own(self):
        self.write({'src/cpu/bt/x.h': '', 'src/cpu/y.c': '#include "cpu/bt/x.h"\n'})
        self.fails('src/cpu/y.c:1: cpu may not include "cpu/bt/x.h" of cpu/bt', 'check-layers')

    def test_include_in_comment_is_none(self):
        self.write({'src/base/b.c': '/*\n#include "mem/m.h"\n*/\n'})
        self.passes('check-layers')

    def test_relative_include(self):
        self.write({'src/base/b.c': '#include "a.h"\n'})
        self.fails('src/base/b.c:1: "a.h": write the path from src/', 'check-layers')

    def test_folder_without_row(self):
        self.write({'src/new/n.c': ''})
        self.fails('src/new/n.c: its folder has no row in src/layers.txt', 'check-layers')

    def test_private_header(self):
        self.write({'src/mem/m_priv.h': '', 'src/hw/i.c': '#include "mem/m_priv.h"\n'})
        self.fails('src/hw/i.c:1: "mem/m_priv.h" is private to its folder', 'check-layers')

    def test_external_header(self):
        self.write({'src/mem/z.c': '#include <Zydis/Zydis.h>\n', 'src/cpu/bt/z.c': '#include <Zydis/Zydis.h>\n'})
        self.fails('src/mem/z.c:1: mem includes <Zydis/Zydis.h>, but its row does not name zydis', 'check-layers')

    def test_symbols_clean(self):
        self.archive('base', ['base/a.c'])
        self.archive('mem', ['mem/m.c'])
        self.passes('check-layers', '--build', self.archive('hw', ['hw/h.c']))

    def test_symbol_of_another_layer(self):
        self.write({'src/base/b.c': 'int mem_m(void);\nint base_b(void);\nint base_b(void)\n{\n    return mem_m();\n}\n'})
        self.archive('base', ['base/a.c', 'base/b.c'])
        self.fails('libcaisson_base.a: base needs mem_m of mem', 'check-layers', '--build', self.archive('mem', ['mem/m.c']))

    def test_symbol_of_an_external_library(self):
        self.write({'src/mem/z.c': 'void ZydisDecoderInit(void);\nvoid mem_z(void);\nvoid mem_z(void)\n{\n'
                                   '    ZydisDecoderInit();\n}\n'})
        self.fails('libcaisson_mem.a: mem needs ZydisDecoderInit of zydis', 'check-layers', '--build',
                   self.archive('mem', ['mem/z.c']))

    def test_run_path_without_libc(self):
        self.write({'src/cpu/bt/r.c': 'void *memcpy(void *, const void *, unsigned long);\nvoid bt_r(void *a, void *b, '
                                      'unsigned long n);\nvoid bt_r(void *a, void *b, unsigned long n)\n{\n'
                                      '    memcpy(a, b, n);\n}\n'})
        self.fails('libcaisson_cpu_bt_run.a: the run path needs memcpy', 'check-layers', '--build',
                   self.archive('cpu_bt_run', ['cpu/bt/r.c']))


class Headers(Tree):
    def test_clean(self):
        self.passes('check-headers')

    def test_needs_another_header(self):
        self.write({'src/mem/n.h': '#ifndef MEM_N_H\n#define MEM_N_H\nuint64_t mem_n(void);\n#endif\n'})
        status, out = self.run_check('check-headers')
        self.assertEqual(status, 1)
        for compiler in ('gcc', 'clang-14'):
            self.assertIn(f'src/mem/n.h: does not compile alone with {compiler}: ', out)

    def test_no_guard(self):
        self.write({'src/mem/n.h': 'struct mem_n {\n    int x;\n};\n'})
        status, out = self.run_check('check-headers')
        self.assertEqual(status, 1)
        self.assertIn('redefinition', out)

    def test_own_header_first(self):
        self.write({'src/base/a.c': '#include <string.h>\n#include "base/a.h"\nint base_a(int x)\n{\n    return x;\n}\n'})
        self.fails('src/base/a.c:1: includes string.h before its own header', 'check-headers')

    def test_own_header_missing(self):
        self.write({'src/base/a.c': 'int base_a(int x);\n'})
        self.fails('src/base/a.c: does not include its own header', 'check-headers')


class Banned(Tree):
    def test_clean(self):
        self.passes('check-banned')

    def test_functions(self):
        for name in ('strcpy', 'sprintf', 'gets', 'strtok', 'atoi', 'alloca', 'system', 'signal', 'rand', 'assert'):
            with self.subTest(name):
                self.write({'src/hw/b.c': f'void hw_b(void)\n{{\n    {name}(0);\n}}\n'})
                self.fails(f'src/hw/b.c:3: {name} ', 'check-banned')

    def test_longer_names_and_members_are_fine(self):
        self.write({'src/hw/b.c': 'void hw_b(struct x *x)\n{\n    my_strcpy(0);\n    x->signal(1);\n    x.system(2);\n}\n'})
        self.passes('check-banned')

    def test_exit_outside_bin(self):
        self.write({'src/hw/b.c': 'void hw_b(void)\n{\n    exit(1);\n}\n'})
        self.fails('src/hw/b.c:3: exit only bin/ ends the process', 'check-banned')

    def test_unchecked_allocation(self):
        self.write({'src/hw/b.c': 'void hw_b(struct x *x)\n{\n    x->data = malloc(4);\n    x->data[0] = 1;\n}\n'})
        self.fails('src/hw/b.c:3: the result of malloc in x->data is not checked', 'check-banned')

    def test_checked_allocations(self):
        for test in ('if (!p)', 'if (p == NULL)', 'if (NULL == p)', 'if (!q || !p)', 'return p ? 0 : -1;', 'if (p)',
                     'while (a && p)', 'return p;'):
            with self.subTest(test):
                self.write({'src/hw/b.c': f'void *hw_b(void)\n{{\n    char *p = calloc(1, 4);\n\n    {test}\n}}\n'})
                self.passes('check-banned')

    def test_typedef(self):
        self.write({'src/hw/b.h': 'typedef struct hw_b {\n    int x;\n} hw_b;\n'})
        self.fails('src/hw/b.h:1: typedef of a struct', 'check-banned')

    def test_exception(self):
        self.write({'src/hw/b.c': 'void hw_b(void)\n{\n    abort(); /* check: allow(banned:abort) a reason */\n'
                                  '    /* check: allow(banned:abort) another */\n    abort();\n}\n'})
        self.passes('check-banned')

    def test_exception_for_another_name(self):
        self.write({'src/hw/b.c': 'void hw_b(void)\n{\n    abort(); /* check: allow(banned:exit) a reason */\n}\n'})
        status, out = self.run_check('check-banned')
        self.assertEqual(status, 1)
        self.assertIn('src/hw/b.c:3: abort ends the process', out)
        self.assertIn('src/hw/b.c:3: exception banned:exit excuses nothing any more: remove it', out)

    def test_stale_exception(self):
        self.write({'src/hw/b.c': '/* check: allow(banned:abort) a reason */\n'})
        self.fails('src/hw/b.c:1: exception banned:abort excuses nothing any more: remove it', 'check-banned')

    def test_exception_without_reason(self):
        self.write({'src/hw/b.c': 'void hw_b(void)\n{\n    abort(); /* check: allow(banned:abort) */\n}\n'})
        self.fails('src/hw/b.c:3: exception banned:abort gives no reason', 'check-banned')


def function(name, lines, comment=''):
    return f'{comment}int {name}(void)\n{{\n' + '    x++;\n' * (lines - 2) + '}\n\n'


class Size(Tree):
    def test_clean(self):
        self.passes('check-size', '--report')

    def test_function_at_the_limit(self):
        self.write({'src/hw/b.c': function('hw_b', 100)})
        self.passes('check-size')

    def test_function_beyond_the_limit(self):
        self.write({'src/hw/b.c': function('hw_a', 3) + function('hw_b', 101)})
        self.fails('src/hw/b.c:6: hw_b has 101 lines: split it (limit 100)', 'check-size')

    def test_report(self):
        self.write({'src/hw/b.c': function('hw_b', 61)})
        status, out = self.run_check('check-size', '--report')
        self.assertEqual((status, out), (0, 'check-size: note: src/hw/b.c:1: hw_b has 61 lines\n'))

    def test_file_beyond_the_limit(self):
        self.write({'src/hw/b.c': function('hw_b', 80) * 15})
        self.fails('src/hw/b.c: 1230 lines without tables: split it by meaning', 'check-size')

    def test_tables_are_exempt(self):
        self.write({'src/hw/b.c': 'static const int hw_table[] = {\n' + '    1,\n' * 2000 + '};\n\n' + function('hw_b', 5)})
        self.passes('check-size')

    def test_exception(self):
        self.write({'src/hw/b.c': function('hw_b', 120, '/* Docs.\n * check: allow(size:hw_b) one flat switch\n */\n')})
        self.passes('check-size')

    def test_stale_exception(self):
        self.write({'src/hw/b.c': function('hw_b', 20, '/* check: allow(size:hw_b) one flat switch */\n')})
        self.fails('src/hw/b.c:1: exception size:hw_b excuses nothing any more', 'check-size')


class Globals(Tree):
    def test_clean(self):
        self.passes('check-globals', '--build', self.archive('mem', ['mem/m.c']))

    def test_global(self):
        self.write({'src/mem/g.c': 'int mem_count;\n'})
        self.fails('mem_g.c.o of libcaisson_mem.a: mem_count is a mutable global', 'check-globals', '--build',
                   self.archive('mem', ['mem/g.c']))

    def test_static_in_function(self):
        self.write({'src/mem/g.c': 'int mem_next(void)\n{\n    static int last = 3;\n\n    return last++;\n}\n'})
        self.fails('mem_g.c.o of libcaisson_mem.a: last is a mutable global', 'check-globals', '--build',
                   self.archive('mem', ['mem/g.c']))

    def test_table_of_pointers_is_const(self):
        self.write({'src/mem/g.c': 'const char *const mem_names[] = { "a", "b" };\n'})
        self.passes('check-globals', '--build', self.archive('mem', ['mem/g.c']))

    def test_exception(self):
        self.write({'src/mem/g.c': '/* check: allow(globals:mem_count) a reason */\nint mem_count;\n'})
        self.passes('check-globals', '--build', self.archive('mem', ['mem/g.c']))

    def test_stale_exception(self):
        self.write({'src/mem/g.c': '/* check: allow(globals:mem_count) a reason */\n'})
        self.fails('src/mem/g.c:1: exception globals:mem_count excuses nothing any more', 'check-globals', '--build',
                   self.archive('mem', ['mem/m.c']))


class Scripts(Tree):
    def run_in_tree(self, name):
        run = subprocess.run([os.path.join(TOOLS, name)], capture_output=True, text=True, check=False,
                             env={**os.environ, 'CHECK_ROOT': self.root})
        return run.returncode, run.stdout + run.stderr

    def test_format(self):
        self.write({'.clang-format': 'BasedOnStyle: LLVM\nIndentWidth: 4\nBreakBeforeBraces: Linux\nCpp11BracedListStyle: false\n'
                                     'AllowShortFunctionsOnASingleLine: None\n',
                    'tests/x.c': 'int x;\n'})
        self.assertEqual(self.run_in_tree('check-format'), (0, ''))
        self.write({'src/hw/b.c': 'int hw_b( void ) { return 0; }\n'})
        self.assertEqual(self.run_in_tree('check-format'), (1, 'check-format: src/hw/b.c: run make format\n'))

    def test_shell(self):
        self.write({'tools/good': '#!/bin/sh\necho "$1"\n'})
        self.assertEqual(self.run_in_tree('check-shell'), (0, ''))
        self.write({'tools/bad': '#!/bin/sh\nrm -rf $1\n'})
        status, out = self.run_in_tree('check-shell')
        self.assertEqual(status, 1)
        self.assertIn('SC2086', out)


class Again(Tree):
    """tools/check over a project of a few shell tests, some of which fail, or fail the first time."""

    def tally(self, tests):
        """tests: name: shell command. Returns the tally and what was said."""
        loader = importlib.machinery.SourceFileLoader('check', os.path.join(TOOLS, 'check'))
        check = importlib.util.module_from_spec(importlib.util.spec_from_loader('check', loader))
        loader.exec_module(check)
        self.write({'meson.build': "project('caisson')\n" + ''.join(
            f"test('{name}', find_program('sh'), args : ['-c', '{command}'])\n" for name, command in tests.items())})
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.root)
        subprocess.run(['meson', 'setup', 'build'], check=True, stdout=subprocess.DEVNULL)
        tally, said = check.Tally(), io.StringIO()
        with contextlib.redirect_stdout(said):
            check.meson_tests(tally, 'build', [], 'all', 1)
            check.run_again(tally)
        return tally, said.getvalue()

    def test_second_run(self):
        once = f'echo beside others; [ -e {self.root}/ran ] || {{ touch {self.root}/ran; exit 1; }}'
        tally, said = self.tally({'good': 'true', 'once': once, 'bad': 'exit 1'})
        self.assertEqual((tally.passed, tally.failed), (2, 1))
        self.assertRegex(tally.failures[0][0], r'\bbad: fail$')
        self.assertRegex(said, r'(?s)    beside others.*\nflaky: \S*once: fail, passed alone')
        self.assertNotIn('flaky: bad', said)

    def test_many(self):
        tally, said = self.tally({name: f'[ -e {self.root}/{name} ] || {{ touch {self.root}/{name}; exit 1; }}'
                                  for name in ('a', 'b', 'c')})
        self.assertEqual((tally.passed, tally.failed), (0, 3))
        self.assertNotIn('again', said)


if __name__ == '__main__':
    unittest.main()
