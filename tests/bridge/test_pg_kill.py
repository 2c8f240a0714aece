#!/usr/bin/env python3
"""test_pg_kill.py WRITER LEDGERCTL: kill -9 at random moments, with PostgreSQL at one end or both.

As test_kill.py, which has the rest: a writer and some bridges are killed and started again, then
the rest is carried over, `ledgerctl bridge verify` must say "equal", and so must a comparison in
plain SQL. LEDGER_TEST_KILLS=n: how often in all (default 100). Prints TAP."""
import collections
import functools
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position
import test_kill as base  # noqa: E402
from pg_server import PgMissing, PgServer  # noqa: E402
from tap import Failure, run_cases  # noqa: E402
from test_kill import Process, ledgerctl  # noqa: E402

TABLE = base.TABLE
COLUMNS = 'id, stream, {payload}, order_key, dedup_key, schema_version, metadata, tags, annotations'


class SqliteStore:
    name = 'SQLite'

    def __init__(self, folder, name):
        self.path = os.path.join(folder, name + '.db')
        self.url = 'sqlite:' + self.path
        self.written_by = self.path

    def ask(self, text):
        with sqlite3.connect(f'file:{self.path}?mode=ro', uri=True) as db:
            return db.execute(text).fetchall()

    def entries(self, key):
        return self.ask(f'SELECT {key}, ' + COLUMNS.format(payload='lower(hex(payload))') +
                        f', created_at, updated_at FROM {TABLE} ORDER BY {key}')

    def events(self):
        return self.ask(f'SELECT id, CAST(payload AS TEXT) FROM {TABLE}_mutations ORDER BY id')

    def has_cursor(self):
        return bool(self.ask(f'SELECT 1 FROM {TABLE}_cursors'))

    def close(self):
        pass


class PgStore:
    name = 'PostgreSQL'

    def __init__(self, _folder, _name):
        self.server = PgServer()
        self.url = self.written_by = self.server.url()

    def ask(self, text):
        out = self.server.sql(f'SELECT row_to_json(r) FROM ({text}) AS r')
        # As rows, in the order of the columns: names may come twice.
        return [tuple(json.loads(line).values()) for line in out.split('\n') if line]

    def entries(self, key):
        def moment(column):
            return (f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS')"
                    f' AS {column}')
        columns = COLUMNS.format(payload="encode(payload, 'hex') AS payload")
        for column in ('metadata', 'tags', 'annotations'):
            columns = columns.replace(column, f'{column}::text AS {column}')
        return self.ask(f'SELECT {key} AS key, {columns}, {moment("created_at")},'
                        f' {moment("updated_at")} FROM {TABLE} ORDER BY {key}')

    def events(self):
        return [(number, bytes.fromhex(event).decode()) for number, event in self.ask(
            f"SELECT id, encode(payload, 'hex') AS event FROM {TABLE}_mutations ORDER BY id")]

    def has_cursor(self):
        return bool(self.ask(f'SELECT 1 AS n FROM {TABLE}_cursors'))

    def close(self):
        self.server.destroy()


def history(store, key):
    """{id at the origin: every field}, and the ids here by stream in the order of the origin."""
    entries, order = {}, {}
    for ident, own, stream, payload, order_key, dedup_key, version, *rest in store.entries(key):
        metadata, tags, notes, made, set_at = rest
        if ident in entries:
            raise Failure(f'entry {ident} is there twice')
        entries[ident] = (stream, payload, order_key, dedup_key, version,
                          json.loads(metadata or '{}'), json.loads(tags or '[]'),
                          json.loads(notes or '{}'), made, set_at)
        order.setdefault(stream, []).append(own)
    return entries, order


def compare(source, sink):
    there, _ = history(source, 'id')
    here, order = history(sink, 'source_pos')
    for ident in sorted(there.keys() | here.keys()):
        if there.get(ident) != here.get(ident):
            raise Failure(f'entry {ident} differs:\n source {str(there.get(ident))[:1000]}\n'
                          f' sink   {str(here.get(ident))[:1000]}')
    for stream, ids in order.items():
        if ids != sorted(ids):
            raise Failure(f'stream {stream!r}: ids in the sink do not follow the source')
    parked = sink.ask(f'SELECT count(*) AS n FROM {TABLE}_parked')[0][0]
    if parked:
        raise Failure(f'{parked} events are parked')
    return len(there)


def log_agrees(store):
    """What the log leads to is what the entries are."""
    played, alive = {}, {}
    events = store.events()
    for number, event in events:
        event = json.loads(event, parse_float=str, parse_int=str)
        stream = event['stream']
        if event['type'] == 'append':
            for entry in event['entries']:
                if int(entry['id']) in played:
                    raise Failure(f'log {number}: entry {entry["id"]} appended twice')
                played[int(entry['id'])] = [stream, entry.get('tags', []), {}]
                alive.setdefault(stream, collections.deque()).append(int(entry['id']))
        elif event['type'] == 'trim':
            last = int(event['before_id'])
            ids = alive.get(stream, ())
            while ids and ids[0] <= last:
                played[ids.popleft()] = None
        else:
            entry = played[int(event['entry_id'])]
            if event['type'] == 'set_tags':
                entry[1] = event.get('tags', [])
            else:
                for key, value in event.get('annotations', {}).items():
                    if value is None:
                        entry[2].pop(key, None)
                    else:
                        entry[2][key] = value
    entries, _ = history(store, 'id')
    live = {ident: tuple(e) for ident, e in played.items() if e}
    there = {ident: (e[0], e[6], e[7]) for ident, e in entries.items()}
    for ident in sorted(live.keys() | there.keys()):
        if live.get(ident) != there.get(ident):
            raise Failure(f'entry {ident}: the log leads to {live.get(ident)},'
                          f' the table has {there.get(ident)}')
    return len(events)


def round_of(kinds, bridge_count, kills):
    folder = tempfile.mkdtemp(prefix='ledger-kill-')
    stores, everybody = [], []
    done = verified = of_bridges = 0
    try:
        for kind, name in zip(kinds, ('source', 'sink')):
            stores.append(kind(folder, name))
            ledgerctl('store', 'init', '--store', stores[-1].url)
        source, sink = stores
        pair = ['--source', source.url, '--sink', sink.url]
        writer = Process([base.WRITER, 'random', source.written_by, str(random.getrandbits(60))],
                         folder, 'writer')
        everybody.append(writer)
        for i in range(bridge_count):
            size = str([3, 20, 2, 100][i])
            everybody.append(Process(
                [base.LEDGERCTL, 'bridge', 'run', *pair, '--quiet', '--interval', '200ms',
                 '--batch-size', size, '--backlog-batch-size', size], folder, f'bridge{i}'))
        while of_bridges < kills:
            time.sleep(random.choice([0.01, 0.05, 0.1, 0.4]) * 2 * random.random()
                       * min(base.SLOW, 3))
            victim = writer if random.random() < 0.15 else random.choice(everybody[1:])
            victim.kill()
            done += 1
            if victim is writer:
                writer.args[3] = str(random.getrandbits(60))
            else:
                of_bridges += 1
            victim.start()
            # Equal up to the cursor at any moment, once there is one: the first bridge may have
            # been killed before it made it.
            if random.random() < 0.04 and sink.has_cursor():
                ledgerctl('bridge', 'verify', *pair, '--quiet')
                verified += 1
        for process in everybody:
            process.kill()
        events = log_agrees(source)
        ledgerctl('bridge', 'run', *pair, '--until-empty', '--quiet')
        verdict = ledgerctl('bridge', 'verify', *pair)
        if 'equal' not in verdict.stdout + verdict.stderr:
            raise Failure(f'verify does not say "equal": {verdict.stdout}{verdict.stderr}')
        entries = compare(source, sink)
        ledgerctl('bridge', 'run', *pair, '--until-empty', '--quiet')
        if compare(source, sink) != entries:
            raise Failure('a second run changed something')
        print(f'# {of_bridges} kills of bridges, {done - of_bridges} of the writer, {verified}'
              f' verified on the way, {events} events, {entries} entries; equal', flush=True)
    finally:
        for process in everybody:
            if process.child.poll() is None:
                process.child.kill()
                process.child.wait()
        for store in stores:
            store.close()
        shutil.rmtree(folder, ignore_errors=True)


def main():
    random.seed(base.SEED)
    print(f'# seed {base.SEED}', flush=True)
    rounds = [(f'{kinds[0].name} to {kinds[1].name}, killed writer and {bridges}'
               f' bridge{"s" if bridges > 1 else ""}',
               functools.partial(round_of, kinds, bridges, max(1, round(base.KILLS * share))))
              for kinds, bridges, share in (((PgStore, PgStore), 1, 0.3),
                                            ((PgStore, PgStore), 4, 0.3),
                                            ((SqliteStore, PgStore), 2, 0.2),
                                            ((PgStore, SqliteStore), 2, 0.2))]
    failed, _ = run_cases(rounds, PgMissing, (Failure, AssertionError))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
