#!/usr/bin/env python3
"""Runs the example with a sink of its own, and looks at its state store with ledgerctl:
test_own_sink.py OWN_SINK LEDGERCTL. Prints TAP."""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position
from tap import show_checks  # noqa: E402


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def ctl(*args):
    return run(sys.argv[2], *args)


def main():
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        source, index, state = (os.path.join(folder, n) for n in ('a.db', 'index', 'state.db'))
        ends = ['--source', f'sqlite:{source}', '--state', f'sqlite:{state}']
        store = ['--store', f'sqlite:{source}', '--stream', 's']

        def own_sink():
            return run(sys.argv[1], source, index, state)

        def lines():
            with open(index, encoding='utf-8') as file:
                return file.read().split('\n')[:-1]

        def check(name, is_, wanted):
            checks.append((name, is_, wanted))

        ctl('store', 'init', '--store', f'sqlite:{source}')
        ctl('stream', 'append', '{"say": "hello"}', *store)
        ctl('stream', 'append', '"no object"', *store)
        ctl('stream', 'append', '{"say": "world"}', *store)
        ctl('stream', 'tag', '--id', '1', '--tag', 'x', *store)
        check('delivers, and parks what is refused', own_sink(), (0, '2 delivered, 1 parked\n', ''))
        check('in order', lines(), ['say s 1', 'hello s 1', 'say s 3', 'world s 3'])
        check('goes on from its state', own_sink(), (0, '0 delivered, 0 parked\n', ''))

        code, out, _ = ctl('bridge', 'status', '--json', *ends)
        status = json.loads(out)
        check('status through --state: parked', code, 12)
        check('status names the state store',
              (status['state'], status['state_table'], status['position'], status['parked']),
              (f'sqlite:{state}', 'ledger_state', '4', 1))
        code, out, _ = ctl('bridge', 'status', *ends)
        check('and for people', f'state     sqlite:{state}  table ledger_state' in out, True)
        code, out, _ = ctl('bridge', 'status', '--source', f'sqlite:{source}', '--cursor-file',
                           state)
        check('--cursor-file is the short form', code, 12)
        code, out, _ = ctl('bridge', 'parked', 'list', '--json', '--state', f'sqlite:{state}')
        check('parked list', (code, json.loads(out)['reason'], json.loads(out)['position']),
              (0, 'payload is no object', '2'))
        code, out, _ = ctl('bridge', 'parked', 'show', '1', '--state', f'sqlite:{state}')
        check('parked show', (code, '"no object"' in out), (0, True))
        code, _, err = ctl('bridge', 'parked', 'retry', '--all', *ends, '--sink',
                           f'sqlite:{folder}/sink.db')
        check('a retry needs a sink that is there', (code, 'sink.db' in err), (78, True))
        ctl('store', 'init', '--no-log', '--store', f'sqlite:{folder}/sink.db')
        code, _, err = ctl('bridge', 'parked', 'retry', '--all', *ends, '--sink',
                           f'sqlite:{folder}/sink.db')
        check('and that one keeps its own state', (code, 'leave --state' in err), (2, True))
        check('parked drop', ctl('bridge', 'parked', 'drop', '1', '--state', f'sqlite:{state}')[0],
              0)
        check('nothing is parked', ctl('bridge', 'status', *ends)[0], 0)
        code, out, _ = ctl('bridge', 'cursor', 'show', *ends)
        check('cursor show', (code, 'position  4 of 4' in out), (0, True))
        check('cursor reset', ctl('bridge', 'cursor', 'reset', *ends)[0], 0)
        ctl('stream', 'trim', '--before', '1', *store)
        check('delivers all of it again', own_sink(), (0, '3 delivered, 1 parked\n', ''))
        check('and the trim', lines()[-1], '- s 1')
        check('cursor acknowledge', ctl('bridge', 'cursor', 'acknowledge', *ends)[0], 0)
        code, _, err = ctl('bridge', 'status', *ends, '--cursor-file', state)
        check('one name for the state is enough', (code, 'one of the two' in err), (2, True))
        code, _, err = ctl('bridge', 'run', '--source', f'sqlite:{source}', '--sink',
                           f'sqlite:{folder}/sink.db', '--state', f'sqlite:{state}')
        check('a sink that keeps its state needs none', (code, 'leave --state' in err), (2, True))
        check('without arguments it is a usage error', run(sys.argv[1])[0], 2)

    return show_checks(checks)


if __name__ == '__main__':
    sys.exit(main())
