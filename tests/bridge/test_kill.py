#!/usr/bin/env python3
"""test_kill.py WRITER LEDGERCTL: kill -9 at random moments, on real files.

A writer and one, two and four bridges work on one pair of SQLite files and are killed and started
again; then the rest is carried over, `ledgerctl bridge verify` must say "equal", and so must a
comparison of its own in plain SQL. The source's log and its entries must agree too: a killed writer
leaves no half write. In one round the log is of a store in the middle: what it holds another has
written, whose ids are texts. LEDGER_TEST_KILLS=n: how often in all (default 100);
LEDGER_TEST_SEED=n: same choices again (the moments differ, of course). Prints TAP."""
import collections
import functools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position
from tap import Failure, run_cases  # noqa: E402

WRITER, LEDGERCTL = sys.argv[1], sys.argv[2]
KILLS = int(os.environ.get('LEDGER_TEST_KILLS') or 100)
SEED = int(os.environ.get('LEDGER_TEST_SEED') or time.time())
SLOW = 8 if os.environ.get('LEDGER_TEST_SANITIZED') else 1
TABLE = 'ledger_entries'


class Process:
    """A child that may only end because we ended it."""

    def __init__(self, args, folder, name):
        self.args, self.name = args, name
        self.log = os.path.join(folder, name + '.log')
        self.start()

    def start(self):
        with open(self.log, 'ab') as log:
            self.child = subprocess.Popen(self.args, stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log)

    def output(self):
        with open(self.log, errors='replace') as log:
            return log.read()[-3000:]

    def check(self):
        status = self.child.poll()
        if status is not None:
            raise Failure(f'{self.name} ended by itself with {status}:\n{self.output()}')

    def kill(self):
        self.check()
        self.child.kill()
        self.child.wait()

    def terminate(self):
        """SIGTERM or SIGINT: finishes the batch and exits 0 (or dies of it while it starts)."""
        self.check()
        number = random.choice([signal.SIGTERM, signal.SIGINT])
        self.child.send_signal(number)
        try:
            status = self.child.wait(timeout=60 * SLOW)
        except subprocess.TimeoutExpired:
            raise Failure(f'{self.name} does not end on {number.name}:\n'
                          f'{self.output()}') from None
        if status not in (0, -number):
            raise Failure(f'{self.name} ended with {status} on {number.name}:\n'
                          f'{self.output()}')


def ledgerctl(*args, expect=(0,)):
    done = subprocess.run([LEDGERCTL, *args], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=600 * SLOW)
    if done.returncode not in expect:
        raise Failure(f'ledgerctl {" ".join(args)}: exit {done.returncode}\n'
                      f'{done.stdout}{done.stderr}')
    return done


# ---- the comparison of its own -------------------------------------------------------------------

def connect(path):
    db = sqlite3.connect(f'file:{path}?mode=ro', uri=True)
    db.text_factory = str
    return db


def history(db, where):
    """{id at the origin: every field}, and the ids here by stream in the order of the origin."""
    entries, order = {}, {}
    key = 'id' if where == 'source' else 'source_pos'
    for row in db.execute(
            f'SELECT {key}, id, stream, CAST(payload AS BLOB), order_key, dedup_key,'
            f' schema_version, metadata, tags, annotations, created_at, updated_at'
            f' FROM {TABLE} ORDER BY {key}'):
        ident, own, stream, payload, order_key, dedup_key, version, *rest = row
        metadata, tags, notes, made, set_at = rest
        if ident in entries:
            raise Failure(f'{where}: entry {ident} is there twice')
        entries[ident] = (stream, payload, order_key, dedup_key, version,
                          json.loads(metadata or '{}'), json.loads(tags or '[]'),
                          json.loads(notes or '{}'), made, set_at)
        order.setdefault(stream, []).append(own)
    return entries, order


def compare(source, sink):
    with connect(source) as a, connect(sink) as b:
        for name, db in (('source', a), ('sink', b)):
            state = db.execute('PRAGMA integrity_check').fetchone()[0]
            if state != 'ok':
                raise Failure(f'{name}: {state}')
        entries_a, _ = history(a, 'source')
        entries_b, order_b = history(b, 'sink')
        for ident in sorted(entries_a.keys() | entries_b.keys()):
            if entries_a.get(ident) != entries_b.get(ident):
                raise Failure(f'entry {ident} differs:\n'
                              f' source {str(entries_a.get(ident))[:1000]}\n'
                              f' sink   {str(entries_b.get(ident))[:1000]}')
        for stream, ids in order_b.items():
            if ids != sorted(ids):
                raise Failure(f'stream {stream!r}: ids in the sink do not follow the source')
        parked = b.execute(f'SELECT count(*) FROM {TABLE}_parked').fetchone()[0]
        if parked:
            raise Failure(f'{parked} events are parked')
        head = a.execute(f'SELECT max(id) FROM {TABLE}_mutations').fetchone()[0] or 0
        cursor = int(b.execute(f"SELECT cursor FROM {TABLE}_cursors"
                               " WHERE name = 'default'").fetchone()[0])
        if cursor != head:
            raise Failure(f'cursor is {cursor}, the end of the log is {head}')
        return len(entries_a), head


def play(source):
    """{id: stream, tags, annotations} of what the log leads to."""
    played, alive = {}, {}
    with connect(source) as db:
        for number, event in db.execute(
                f'SELECT id, CAST(payload AS TEXT) FROM {TABLE}_mutations ORDER BY id'):
            event = json.loads(event, parse_float=str, parse_int=str)
            stream = event['stream']
            if event['type'] == 'append':
                for entry in event['entries']:
                    if int(entry['id']) in played:
                        raise Failure(f'log {number}: entry {entry["id"]} appended twice')
                    played[int(entry['id'])] = [stream, entry.get('tags', []), {}, True]
                    alive.setdefault(stream, collections.deque()).append(int(entry['id']))
            elif event['type'] == 'trim':
                last = int(event['before_id'])
                ids = alive.get(stream, ())
                while ids and ids[0] <= last:
                    played[ids.popleft()][3] = False
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
    return {ident: (e[0], e[1], e[2]) for ident, e in played.items() if e[3]}


def check_played(live, there):
    for ident in sorted(live.keys() | there.keys()):
        if live.get(ident) != there.get(ident):
            raise Failure(f'entry {ident}: the log leads to {live.get(ident)},'
                          f' the table has {there.get(ident)}')


def log_agrees(source):
    """What the log leads to is what the entries are."""
    with connect(source) as db:
        entries, _ = history(db, 'source')
    check_played(play(source), {ident: (e[0], e[6], e[7]) for ident, e in entries.items()})


def has_cursor(sink):
    with sqlite3.connect(f'file:{sink}?mode=ro', uri=True, timeout=60) as db:
        return db.execute(f'SELECT 1 FROM {TABLE}_cursors').fetchone() is not None


# ---- the killing ---------------------------------------------------------------------------------

def round_of(bridge_count, kills):
    folder = tempfile.mkdtemp(prefix='ledger-kill-')
    source, sink = os.path.join(folder, 'source.db'), os.path.join(folder, 'sink.db')
    pair = ['--source', 'sqlite:' + source, '--sink', 'sqlite:' + sink]
    everybody = []
    done = verified = stopped = 0
    try:
        ledgerctl('store', 'init', '--store', 'sqlite:' + source)
        ledgerctl('store', 'init', '--store', 'sqlite:' + sink)
        writer = Process([WRITER, 'random', source, str(random.getrandbits(60))], folder, 'writer')
        everybody.append(writer)
        for i in range(bridge_count):
            # Small batches: it is at work all the time, so most kills come in the middle of one.
            size = str([3, 20, 2, 100][i])
            everybody.append(Process(
                [LEDGERCTL, 'bridge', 'run', *pair, '--quiet', '--interval', '200ms',
                 '--batch-size', size, '--backlog-batch-size', size], folder, f'bridge{i}'))
        while done < kills:
            time.sleep(random.choice([0.002, 0.03, 0.1, 0.4]) * 2 * random.random() * min(SLOW, 3))
            victims = random.sample(everybody, random.choice([1, 1, 1, min(2, len(everybody))]))
            if random.random() < 0.6 and writer in victims and len(everybody) > 1:
                victims = [random.choice(everybody[1:])]  # mostly bridges
            for victim in victims:
                victim.kill()
                done += 1
            for victim in victims:
                if victim is writer:
                    writer.args[3] = str(random.getrandbits(60))
                victim.start()
            if random.random() < 0.05:
                victim = random.choice(everybody[1:])
                victim.terminate()
                victim.start()
                stopped += 1
            # Equal up to the cursor at any moment, once there is one: the first bridge may have
            # been killed before it made it.
            if random.random() < 0.04 and has_cursor(sink):
                ledgerctl('bridge', 'verify', *pair, '--quiet')
                verified += 1
        for process in everybody:
            process.kill()
            done += 1
        log_agrees(source)
        ledgerctl('bridge', 'run', *pair, '--until-empty', '--quiet')
        verdict = ledgerctl('bridge', 'verify', *pair)
        if 'equal' not in verdict.stdout + verdict.stderr:
            raise Failure(f'verify does not say "equal": {verdict.stdout}{verdict.stderr}')
        entries, events = compare(source, sink)
        again = ledgerctl('bridge', 'run', *pair, '--until-empty', '--quiet')
        entries_again, _ = compare(source, sink)
        if entries_again != entries or again.returncode != 0:
            raise Failure('a second run changed something')
        print(f'# {done} kills, {stopped} stops, {verified} verified on the way,'
              f' {events} events, {entries} entries', flush=True)
    finally:
        for process in everybody:
            if process.child.poll() is None:
                process.child.kill()
                process.child.wait()
        if os.environ.get('LEDGER_TEST_KEEP'):
            print(f'# kept {folder}')
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return done


def text_of(ident):
    return f'65f0a1b2{int(ident):016x}'


def come_from_elsewhere(source):
    """Makes the log say that another store, whose ids are texts, has written all this."""
    with sqlite3.connect(source) as db:
        rows = db.execute(f'SELECT id, CAST(payload AS TEXT) FROM {TABLE}_mutations').fetchall()
        for number, text in rows:
            event = json.loads(text, parse_float=str)  # 1e400 is none of Python's
            event['origin'], event['origin_pos'] = '11111111-1111-4111-8111-111111111111:1', number
            for entry in event.get('entries', []):
                entry['source_id'] = text_of(entry['id'])
            last = event.get('entry_id') or event.get('before_id')
            if last:
                event['source_id'] = text_of(last)
            db.execute(f'UPDATE {TABLE}_mutations SET payload = ? WHERE id = ?',
                       (json.dumps(event).encode(), number))


def carried(sink):
    with connect(sink) as db:
        if db.execute(f'SELECT count(*) FROM {TABLE}_parked').fetchone()[0]:
            raise Failure('events are parked')
        rows = db.execute(f'SELECT source_id, stream, tags, annotations FROM {TABLE}').fetchall()
    there = {row[0]: (row[1], json.loads(row[2]), json.loads(row[3] or '{}')) for row in rows}
    if len(there) != len(rows):
        raise Failure('an entry is there twice')
    return there


def round_of_texts(kills):
    """Two bridges are killed while they carry entries whose ids are texts."""
    folder = tempfile.mkdtemp(prefix='ledger-kill-')
    source, sink = os.path.join(folder, 'source.db'), os.path.join(folder, 'sink.db')
    pair = ['--source', 'sqlite:' + source, '--sink', 'sqlite:' + sink]
    bridges = []
    try:
        ledgerctl('store', 'init', '--store', 'sqlite:' + source)
        ledgerctl('store', 'init', '--store', 'sqlite:' + sink)
        subprocess.run([WRITER, 'random', source, str(random.getrandbits(60)), '3000'], check=True,
                       stdout=subprocess.DEVNULL, timeout=120 * SLOW)
        live = {text_of(ident): e for ident, e in play(source).items()}
        come_from_elsewhere(source)
        for i in range(2):
            bridges.append(Process(
                [LEDGERCTL, 'bridge', 'run', *pair, '--quiet', '--batch-size', str([3, 10][i]),
                 '--backlog-batch-size', str([3, 10][i])], folder, f'bridge{i}'))
        for _ in range(kills):
            time.sleep(random.choice([0.03, 0.1, 0.3]) * random.random() * min(SLOW, 3))
            victim = random.choice(bridges)
            victim.kill()
            victim.start()
        for process in bridges:
            process.kill()
        for _ in range(2):
            ledgerctl('bridge', 'run', *pair, '--until-empty', '--quiet')
            check_played(live, carried(sink))
        print(f'# {kills + 2} kills, {len(live)} entries', flush=True)
    finally:
        for process in bridges:
            if process.child.poll() is None:
                process.child.kill()
                process.child.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return kills + 2


def first_runs():
    """Four programs make both stores and start the bridge at once; all is applied once."""
    for turn in range(max(1, 5 // SLOW)):
        folder = tempfile.mkdtemp(prefix='ledger-kill-')
        source, sink = os.path.join(folder, 'source.db'), os.path.join(folder, 'sink.db')
        pair = ['--source', 'sqlite:' + source, '--sink', 'sqlite:' + sink]
        try:
            for path in (source, sink):
                children = [subprocess.Popen([LEDGERCTL, 'store', 'init',
                                              '--store', 'sqlite:' + path,
                                              '--quiet'], stdout=subprocess.DEVNULL,
                                             stderr=subprocess.PIPE) for _ in range(4)]
                for child in children:
                    error = child.communicate(timeout=60 * SLOW)[1]
                    if child.returncode != 0:
                        raise Failure(f'store init: {child.returncode} {error}')
            subprocess.run([WRITER, 'random', source, str(random.getrandbits(60)), '400'],
                           check=True, stdout=subprocess.DEVNULL, timeout=60 * SLOW)
            children = [subprocess.Popen([LEDGERCTL, 'bridge', 'run', *pair,
                                          '--until-empty', '--json',
                                          '--batch-size', '7', '--backlog-batch-size', '20'],
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                        for _ in range(4)]
            moved = 0
            for child in children:
                out, error = child.communicate(timeout=120 * SLOW)
                if child.returncode != 0:
                    raise Failure(f'bridge run: {child.returncode} {error}')
                last = json.loads(out.splitlines()[-1])
                moved += int(last['read'])
            _, events = compare(source, sink)
            if moved != events:
                raise Failure(f'turn {turn}: {events} events, {moved} of them read by the four')
            ledgerctl('bridge', 'verify', *pair)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def main():
    random.seed(SEED)
    print(f'# seed {SEED}', flush=True)
    rounds = [(f'killed writer and {bridges} bridge{"s" if bridges > 1 else ""}',
               functools.partial(round_of, bridges, max(1, round(KILLS * share))))
              for bridges, share in ((1, 0.3), (2, 0.3), (4, 0.4))]
    others = [('killed bridges that carry texts for ids', lambda: round_of_texts(KILLS // 5)),
              ('four first runs at once', first_runs)]
    failed, kills = run_cases(rounds + others)
    print(f'# {kills} kills in all')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
