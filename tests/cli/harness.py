"""Runs ledgerctl and compares what it prints and how it ends.

Every test file calls main(globals()): each function test_* is one case, in a directory of its own,
and prints one line of TAP. A case that needs a PostgreSQL server makes a PgServer, or uses
shared_pg(), which is the same one for all cases of a file."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position,unused-import
from pg_server import PgBouncer, PgMissing, PgServer, free_port  # noqa: E402

CTL = os.path.abspath(sys.argv[1])
ROOT = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else os.getcwd()


class Skip(Exception):
    """The machine lacks what a case needs."""


def environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith('LEDGER_')}
    env.update(extra or {})
    return env


class Result:
    def __init__(self, args, done):
        self.args = args
        self.code = done.returncode
        self.raw = done.stdout
        self.out = done.stdout.decode('utf-8', 'replace')
        self.err = done.stderr.decode('utf-8', 'replace')

    def __str__(self):
        return (f'ledgerctl {" ".join(self.args)}\nexit {self.code}\n'
                f'out: {self.out}\nerr: {self.err}')

    def lines(self):
        return self.out.splitlines()

    def objects(self):
        return [json.loads(line) for line in self.out.splitlines()]


def ctl(*args, code=0, env=None, stdin=b'', timeout=60):
    """Runs to the end; the exit code has to be `code` (None: any)."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    args = [str(a) for a in args]
    done = subprocess.run([CTL] + args, input=stdin, capture_output=True, timeout=timeout,
                          env=environment(env), check=False)
    result = Result(args, done)
    # A sanitizer's report is a failure whatever the exit code.
    assert 'Sanitizer' not in result.err and 'runtime error' not in result.err, str(result)
    if code is not None:
        assert result.code == code, f'exit {result.code}, expected {code}\n{result}'
    return result


def spawn(*args, env=None, **streams):
    streams.setdefault('stdout', subprocess.PIPE)
    streams.setdefault('stderr', subprocess.PIPE)
    return subprocess.Popen([CTL] + [str(a) for a in args], env=environment(env), **streams)


def await_catching(process, number):
    """Until it hears of the signal; one that has just begun dies of it, as any program."""
    end = time.monotonic() + 60
    while process.poll() is None:
        with open(f'/proc/{process.pid}/status', encoding='ascii', errors='replace') as file:
            caught = re.search(r'^SigCgt:\s*(\w+)', file.read(), re.M)
        if caught and int(caught.group(1), 16) >> (number - 1) & 1:
            return
        assert time.monotonic() < end, f'signal {number} is not caught'
        time.sleep(0.005)


def equal(got, expected):
    assert got == expected, f'got      {got!r}\nexpected {expected!r}'


def contains(text, *parts):
    for part in parts:
        assert part in text, f'{part!r} is not in:\n{text}'


def init(*names):
    """Makes stores name.db here and gives their URLs."""
    urls = [f'sqlite:{name}.db' for name in names]
    for url in urls:
        ctl('store', 'init', '--store', url)
    return urls[0] if len(urls) == 1 else urls


_shared = []


def shared_pg():
    """The server that the cases of a file share. Each makes databases or schemas of its own."""
    if not _shared:
        _shared.append(PgServer(tcp=True))
    return _shared[0]


def main(names):
    cases = [(name, fn) for name, fn in names.items() if name.startswith('test_')]
    failed = 0
    print(f'1..{len(cases)}')
    for number, (name, fn) in enumerate(cases, 1):
        place = tempfile.mkdtemp(prefix='ledger-cli-')
        os.chdir(place)
        title = name[len('test_'):].replace('_', ' ')
        try:
            fn()
            print(f'ok {number} - {title}')
        except (Skip, PgMissing) as reason:
            print(f'ok {number} - {title} # SKIP {reason}')
        except Exception:  # pylint: disable=broad-except
            failed += 1
            print(f'not ok {number} - {title}')
            print('\n'.join('# ' + line for line in traceback.format_exc().splitlines()))
        finally:
            os.chdir('/')
            shutil.rmtree(place, ignore_errors=True)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)
