"""What the checks of tools/ share: finding the C files of a tree, hiding comments and strings, exception comments.

An exception stands on the line that it excuses or on the line above, names rule and object and gives the reason:
    /* check: allow(banned:abort) the one place that ends the process on a programmer error */
An exception that excuses nothing is an error itself, so that none outlives its cause.
"""
import os
import re

ALLOW = re.compile(r'check: allow\((\w+):([\w./-]+)\)[ \t]*(.*?)[ \t]*(?:\*/|$)')
TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)


def c_files(root, folders=('src',), suffixes=('.c', '.h')):
    """Paths relative to root, sorted."""
    found = []
    for folder in folders:
        for base, dirs, names in os.walk(os.path.join(root, folder)):
            dirs.sort()
            found += [os.path.relpath(os.path.join(base, n), root) for n in names if n.endswith(suffixes)]
    return sorted(found)


def blank(text):
    """The code alone: comments and the insides of strings become blanks, line numbers stay."""
    def hide(match):
        token = match.group(0)
        if token[0] in '"\'':
            return token[0] + re.sub(r'[^\n]', ' ', token[1:-1]) + token[-1]
        return re.sub(r'[^\n]', ' ', token)
    return TOKEN.sub(hide, text)


class Source:
    """One file: text, lines, code (as blank() makes it) and its exceptions."""

    def __init__(self, root, path):
        self.path = path
        with open(os.path.join(root, path), encoding='utf-8') as f:
            self.text = f.read()
        self.lines = self.text.split('\n')
        self.code = blank(self.text).split('\n')
        self.allowed = {}
        for number, line in enumerate(self.lines, 1):
            for rule, name, reason in ALLOW.findall(line):
                self.allowed[(rule, name, number)] = [reason, False]

    def excused(self, rule, name, line):
        """Whether an exception covers this finding; marks it as used."""
        for at in (line, line - 1):
            if (rule, name, at) in self.allowed:
                self.allowed[(rule, name, at)][1] = True
                return True
        return False

    def excused_anywhere(self, rule, name):
        for key in self.allowed:
            if key[:2] == (rule, name):
                self.allowed[key][1] = True
                return True
        return False

    def stale(self, rule):
        """Findings about the exceptions of one rule themselves."""
        found = []
        for (their_rule, name, line), (reason, used) in sorted(self.allowed.items(), key=lambda item: item[0][2]):
            if their_rule != rule:
                continue
            if not reason:
                found.append(f'{self.path}:{line}: exception {rule}:{name} gives no reason')
            if not used:
                found.append(f'{self.path}:{line}: exception {rule}:{name} excuses nothing any more: remove it')
        return found


def finish(name, findings, notes=()):
    """Print and give the exit status of a check."""
    for note in notes:
        print(f'{name}: note: {note}')
    for finding in findings:
        print(f'{name}: {finding}')
    return 1 if findings else 0
