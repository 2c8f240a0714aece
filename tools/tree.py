"""What the checks share: the files of the tree, and C source without comments and strings."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def files(*suffixes, under=''):
    """Paths of the tree's own files (tracked, or new and not ignored), relative to its root."""
    try:
        out = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT,
                             check=True, capture_output=True).stdout.decode()
        paths = [p for p in out.split('\0') if p]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        paths = []
        for folder, subfolders, names in os.walk(ROOT):
            subfolders[:] = [s for s in subfolders if not s.startswith(('build', '.git'))]
            paths += [os.path.relpath(os.path.join(folder, n), ROOT) for n in names]
    return sorted(p for p in set(paths) if p.startswith(under) and p.endswith(suffixes or '')
                  and os.path.isfile(os.path.join(ROOT, p)))


def read(path):
    with open(os.path.join(ROOT, path), encoding='utf-8', errors='replace') as file:
        return file.read()


TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


def code_only(text, keep_strings=False):
    """C text with comments (and strings) blanked out; line numbers stay."""
    def blank(match):
        token = match.group(0)
        if token[0] == '/':
            return re.sub(r'[^\n]', ' ', token)
        return token if keep_strings else token[0] + token[0]
    return TOKEN.sub(blank, text)


def finish(problems):
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)
