#!/usr/bin/env python3
"""test_http_kill.py WRITER LEDGERCTL RECEIVER: kill -9 of bridges into sinks that speak HTTP.

A writer and a bridge (then two) are killed at random moments and started again, while the receiver
of the webhooks hangs up, answers late or with errors, and ClickHouse is killed and started again;
so is the PostgreSQL that keeps the state, and the one that is the source. Then the rest is carried
over. The receiver must have every event of the log; an event that came more than once came in a
request of the same id and the same bytes; each stream came in its order; every signature was right.
Of ClickHouse `ledgerctl bridge verify` must say "equal", and so must a comparison in SQL.
LEDGER_TEST_KILLS=n: how often for each (default 100). Prints TAP."""
import base64
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                                'support'))
# pylint: disable=wrong-import-position
import test_kill as base  # noqa: E402
import test_pg_kill as stores  # noqa: E402
from partners import Engine, PartnerMissing, Receiver  # noqa: E402
from pg_server import PgMissing, PgServer  # noqa: E402
from tap import Failure, run_cases  # noqa: E402
from test_kill import Process, ledgerctl  # noqa: E402

RECEIVER = sys.argv[3]
TABLE = base.TABLE
UNAVAILABLE = (69, 75)
GONE = ('LEDGER_ERR_CONNECT', 'LEDGER_ERR_UNKNOWN_OUTCOME')
SECRETS = [base64.b64encode(os.urandom(32)).decode() for _ in range(2)]
# What the receiver does with some requests while bridges are killed.
ACTS = [{'act': 'hang-up-before'}, {'act': 'hang-up-after'}, {'act': 'cut', 'bytes': 5},
        {'act': 'answer', 'status': 500}, {'act': 'slow', 'seconds': 0.05},
        {'act': 'answer', 'status': 429, 'headers': {'Retry-After': '0'}}]


class Round:
    """A source, writers into it, and bridges out of it, that are killed."""

    # pylint: disable=too-many-arguments
    def __init__(self, bridge_count, options, source=stores.SqliteStore, writer_count=1,
                 writes='random'):
        self.folder = tempfile.mkdtemp(prefix='ledger-kill-')
        self.source = source(self.folder, 'source')
        self.done = 0
        self.everybody = []
        ledgerctl('store', 'init', '--store', self.source.url)
        self.options = ['--source', self.source.url, *options(self.folder)]
        self.writers = [Process([base.WRITER, writes, self.source.written_by,
                                 str(random.getrandbits(60))], self.folder, f'writer{i}')
                        for i in range(writer_count)]
        self.everybody.extend(self.writers)
        for i in range(bridge_count):
            size = str([20, 3][i])
            self.everybody.append(Process(
                [base.LEDGERCTL, 'bridge', 'run', *self.options, '--quiet', '--interval', '200ms',
                 '--batch-size', size, '--backlog-batch-size', size], self.folder, f'bridge{i}'))

    def kill(self, process):
        # A store that does not answer while it is opened is the end of a program.
        status = process.child.poll()
        if process in self.writers:
            gone = status is not None and any(name in process.output() for name in GONE)
        else:
            gone = status in UNAVAILABLE
        if not gone:
            process.kill()
        self.done += 1

    def kill_some(self, kills, disturb):
        while self.done < kills:
            disturb()
            time.sleep(random.choice([0.02, 0.1, 0.3, 0.4]) * 2 * random.random()
                       * min(base.SLOW, 3))
            # The writer seldom: it is never far ahead then.
            victim = random.choice(self.everybody if random.random() < 0.2
                                   else self.everybody[len(self.writers):])
            self.kill(victim)
            if victim in self.writers:
                victim.args[3] = str(random.getrandbits(60))
            victim.start()

    def end(self):
        for process in self.everybody:
            self.kill(process)
        if len(self.writers) == 1:
            stores.log_agrees(self.source)
        for _ in range(2):  # the second has nothing left to do
            ledgerctl('bridge', 'run', *self.options, '--until-empty', '--quiet')

    def clean_up(self):
        for process in self.everybody:
            if process.child.poll() is None:
                process.child.kill()
                process.child.wait()
        self.source.close()
        if os.environ.get('LEDGER_TEST_KEEP'):
            print(f'# kept {self.folder}')
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


# ---- webhooks ------------------------------------------------------------------------------------

def written(source):
    """What the log has: ("entry", id) of each appended, ("event", position) of the rest."""
    result = {}
    for position, event in source.events():
        event = json.loads(event, parse_float=str)
        if event['type'] == 'append':
            for entry in event['entries']:
                result['entry', int(entry['id'])] = event['stream']
        else:
            result['event', position] = event['stream']
    return result


def received(requests, alone, ordered):
    """The same of what came, and how many requests came more than once. alone: by one bridge at a
    time, so that an event comes in one request only. ordered: ids rise with commits."""
    result, requests_by_id, last = {}, {}, {}
    again = 0
    for request in requests:
        if request['status'] != 200:
            continue
        ident = request['headers']['webhook-id']
        if ident in requests_by_id:
            again += 1
            if requests_by_id[ident] != request['sha256']:
                raise Failure(f'{ident} came with other bytes')
            continue
        requests_by_id[ident] = request['sha256']
        body = json.loads(request['body'], parse_float=str)
        if 'type' in body:
            items = [('event', int(ident.split(':')[2]))]
        else:
            items = [('entry', int(entry['source_id'])) for entry in body['entries']]
        for item in items:
            if item in result:
                if alone:
                    raise Failure(f'{item} came in two requests, the second is {ident}')
                again += 1
                continue
            result[item] = body['stream']
            order = (body['stream'], item[0])
            if ordered and last.get(order, 0) >= item[1]:
                raise Failure(f'{item} of stream {body["stream"]!r} came behind {last[order]}')
            last[order] = item[1]
    return result, again


def compare_webhooks(source, hook, alone, ordered=True):
    there, (here, again) = written(source), received(hook.requests(), alone, ordered)
    for item in there.keys() | here.keys():
        if there.get(item) != here.get(item):
            raise Failure(f'{item}: stream {there.get(item)!r} in the log,'
                          f' {here.get(item)!r} received')
    complaints = [line for line in hook.complaints().splitlines()
                  if (alone and ordered) or not line.startswith('order:')]
    if complaints:
        raise Failure('the receiver complains:\n' + '\n'.join(complaints[:30]))
    return len(there), again


def write_secrets(folder):
    path = os.path.join(folder, 'secrets')
    with open(path, 'w', encoding='ascii') as file:
        file.write(''.join(f'whsec_{secret}\n' for secret in SECRETS))
    return path


def round_of_webhooks(bridge_count, kills, writes='random'):
    with Receiver(RECEIVER, '--bodies', secrets=f'whsec_{SECRETS[1]}\n') as hook:
        def options(folder):
            return ['--sink', hook.url, '--state', f'sqlite:{folder}/state.db', '--secret-file',
                    write_secrets(folder), '--max-request-entries', '7']

        def disturb():
            if random.random() < 0.3:
                hook.script(*random.choices(ACTS, k=3))

        run = Round(bridge_count, options, writes=writes)
        try:
            run.kill_some(kills, disturb)
            hook.script()
            run.end()
            count, again = compare_webhooks(run.source, hook, bridge_count == 1)
            print(f'# {run.done} kills, {count} events and entries, {again} requests came again',
                  flush=True)
        finally:
            run.clean_up()
    return run.done


def restart_some(server, most):
    server.kill()
    time.sleep(most * random.random())
    server.start()


def round_of_servers(writer_count, kills):
    """The source and the state are in PostgreSQL, and both servers are killed as well."""
    with Receiver(RECEIVER, '--bodies', secrets=f'whsec_{SECRETS[0]}\n') as hook, \
            PgServer() as state:
        restarts = 0

        def options(folder):
            return ['--sink', hook.url, '--state', state.url(), '--secret-file',
                    write_secrets(folder), '--max-request-entries', '7']

        def disturb():
            nonlocal restarts
            if random.random() < 0.3:
                hook.script(*random.choices(ACTS, k=3))
            if random.random() < 0.2:
                restart_some(random.choice([state, run.source.server]), 0.2)
                restarts += 1

        run = Round(1, options, stores.PgStore, writer_count)
        try:
            run.kill_some(kills, disturb)
            hook.script()
            run.end()
            count, again = compare_webhooks(run.source, hook, True, writer_count == 1)
            print(f'# {run.done} kills, {restarts} of servers, {count} events and entries,'
                  f' {again} requests came again', flush=True)
        finally:
            run.clean_up()
    return run.done


def round_of_backlog(kills):
    """A bridge with the sizes that it has by itself is killed in a backlog: it would read little at
    first, and much later."""
    folder = tempfile.mkdtemp(prefix='ledger-kill-')
    source = stores.SqliteStore(folder, 'source')
    done = 0
    try:
        subprocess.run([base.WRITER, 'random', source.path, str(random.getrandbits(60)), '6000'],
                       check=True, stdout=subprocess.DEVNULL, timeout=120 * base.SLOW)
        while done < kills:
            with Receiver(RECEIVER, '--bodies') as hook:
                options = ['--source', source.url, '--sink', hook.url, '--state',
                           f'sqlite:{folder}/state{done}.db', '--quiet', '--until-empty']
                for _ in range(6):
                    bridge = subprocess.Popen([base.LEDGERCTL, 'bridge', 'run', *options],
                                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    time.sleep(random.uniform(0.02, 0.15) * base.SLOW)
                    bridge.kill()
                    bridge.wait()
                    done += 1
                ledgerctl('bridge', 'run', *options)
                count, again = compare_webhooks(source, hook, True)
                print(f'# 6 kills, {count} events and entries, {again} requests came again',
                      flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return done


def undisturbed():
    """Nothing goes wrong: each request comes once, of whatever length the batches are."""
    folder = tempfile.mkdtemp(prefix='ledger-kill-')
    source = stores.SqliteStore(folder, 'source')
    try:
        subprocess.run([base.WRITER, 'random', source.path, str(random.getrandbits(60)), '800'],
                       check=True, stdout=subprocess.DEVNULL, timeout=120 * base.SLOW)
        for size in ('1', '20', '2000'):
            with Receiver(RECEIVER, '--bodies') as hook:
                ledgerctl('bridge', 'run', '--source', source.url, '--sink', hook.url,
                          '--state', f'sqlite:{folder}/state{size}.db', '--until-empty',
                          '--quiet', '--batch-size', size, '--backlog-batch-size', size)
                _, again = compare_webhooks(source, hook, True)
                if again:
                    raise Failure(f'batches of {size}: {again} requests came again')
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


# ---- ClickHouse ----------------------------------------------------------------------------------

def moment(text):
    """To the millisecond, which is what SQLite keeps; None: none."""
    return text.replace(' ', 'T')[:23] if text else None


def compare_clickhouse(source, engine):
    here = {}
    there, _ = stores.history(source, 'id')
    for line in engine.sql(
            'SELECT toInt64(entry_key), stream, lower(hex(payload)), order_key, dedup_key,'
            ' schema_version, metadata, tags, annotations, toString(created_at),'
            f' toString(updated_at) FROM {TABLE} FINAL WHERE is_deleted = 0'
            ' ORDER BY entry_key FORMAT JSONCompactEachRow').split('\n'):
        ident, stream, payload, order_key, dedup_key, version, *rest = json.loads(line)
        metadata, tags, notes, made, set_at = rest
        if int(ident) in here:
            raise Failure(f'entry {ident} is there twice')
        here[int(ident)] = (stream, payload, order_key or None, dedup_key or None,
                            version, json.loads(metadata or '{}'), json.loads(tags or '[]'),
                            json.loads(notes or '{}'), moment(made), moment(set_at))
    for ident in sorted(there.keys() | here.keys()):
        wanted = there.get(ident)
        if wanted:
            wanted = (*wanted[:2], wanted[2] or None, wanted[3] or None, *wanted[4:8],
                      moment(wanted[8]), moment(wanted[9]))
        if wanted != here.get(ident):
            raise Failure(f'entry {ident} differs:\n source     {str(wanted)[:1000]}\n'
                          f' ClickHouse {str(here.get(ident))[:1000]}')
    parked = engine.sql(f'SELECT count() FROM {TABLE}_parked FINAL')
    if parked != '0':
        raise Failure(f'{parked} events are parked')
    return len(there)


def round_of_clickhouse(bridge_count, kills, source=stores.SqliteStore, writer_count=1):
    with Engine() as engine:
        ledgerctl('store', 'init', '--store', engine.url())
        restarts = 0

        def disturb():
            nonlocal restarts
            if random.random() < 0.1:
                engine.kill()
                time.sleep(random.random() * 0.2)
                engine.run()
                restarts += 1
            elif random.random() < 0.1 and source is stores.PgStore:
                restart_some(run.source.server, 0.2)
                restarts += 1
            elif random.random() < 0.2:
                engine.fault(random.choice([
                    {'act': 'cut', 'bytes': -1, 'match': 'INSERT'}, {'act': 'cut', 'bytes': 3},
                    {'act': 'cut', 'when': 'before'}, {'act': 'tagged', 'code': 241},
                    {'act': 'late', 'code': 241}, {'act': 'error', 'code': 252}]))

        run = Round(bridge_count, lambda _: ['--sink', engine.url()], source, writer_count)
        try:
            run.kill_some(kills, disturb)
            engine.fault()
            run.end()
            verdict = ledgerctl('bridge', 'verify', *run.options)
            if 'equal' not in verdict.stdout + verdict.stderr:
                raise Failure(f'verify does not say "equal": {verdict.stdout}{verdict.stderr}')
            print(f'# {run.done} kills, {restarts} restarts of servers,'
                  f' {compare_clickhouse(run.source, engine)} entries', flush=True)
        finally:
            run.clean_up()
    return run.done


def main():
    random.seed(base.SEED)
    print(f'# seed {base.SEED}', flush=True)
    rounds = [('killed writer and bridge, webhooks',
               lambda: round_of_webhooks(1, max(1, round(base.KILLS * 0.7)))),
              ('killed writer and 2 bridges, webhooks',
               lambda: round_of_webhooks(2, max(1, round(base.KILLS * 0.3)))),
              ('killed writer as of the Go module and bridge, webhooks',
               lambda: round_of_webhooks(1, max(1, round(base.KILLS * 0.3)), 'go')),
              ('killed writer, bridge and servers, PostgreSQL to webhooks',
               lambda: round_of_servers(1, max(1, round(base.KILLS * 0.3)))),
              ('killed writers, bridge and servers, PostgreSQL to webhooks',
               lambda: round_of_servers(3, max(1, round(base.KILLS * 0.3)))),
              ('killed in a backlog, webhooks',
               lambda: round_of_backlog(max(1, round(base.KILLS * 0.2)))),
              ('nobody is killed, webhooks', undisturbed),
              ('killed writer and bridge, ClickHouse',
               lambda: round_of_clickhouse(1, max(1, round(base.KILLS * 0.7)))),
              ('killed writer and 2 bridges, ClickHouse',
               lambda: round_of_clickhouse(2, max(1, round(base.KILLS * 0.3)))),
              ('killed writers, 2 bridges and servers, PostgreSQL to ClickHouse',
               lambda: round_of_clickhouse(2, max(1, round(base.KILLS * 0.3)), stores.PgStore, 3))]
    failed, kills = run_cases(rounds, (PartnerMissing, PgMissing))
    print(f'# {kills} kills in all')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
