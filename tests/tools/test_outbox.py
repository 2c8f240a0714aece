#!/usr/bin/env python3
"""Runs the example that appends inside its own transaction: test_outbox.py OUTBOX. Prints TAP."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position
from pg_server import PgMissing, PgServer  # noqa: E402
from tap import show_checks  # noqa: E402


def outbox(*args):
    done = subprocess.run([sys.argv[1], *args], capture_output=True, text=True, check=False,
                          timeout=30)
    return done.returncode, done.stdout + done.stderr


def main():
    with PgServer() as pg:
        got = [
            ('a change and its entry commit together, or neither', outbox(pg.url()),
             (0, 'apples: placed, pears: refused, entries: 1\n')),
            ('the entry has its event, the refused one left nothing', pg.sql(
                'SELECT (SELECT count(*) FROM outbox_orders), '
                '(SELECT count(*) FROM ledger_entries), '
                '(SELECT count(*) FROM ledger_entries_mutations)'), '1|1|1'),
            ('a second run adds to what is there', outbox(pg.url()),
             (0, 'apples: placed, pears: refused, entries: 2\n')),
            ('without a server there is a message',
             outbox('host=/nonexistent')[0], 1),
            ('without an argument it is a usage error', outbox()[0], 2),
        ]
    return show_checks(got)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except PgMissing as missing:
        print(f'1..0 # SKIP {missing}')
        sys.exit(77)
