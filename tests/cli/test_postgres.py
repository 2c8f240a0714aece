"""ledgerctl stream on PostgreSQL: what is different where transactions overlap."""
import json
import os
import random
import signal
import subprocess
import time

from harness import contains, ctl, equal, main, shared_pg, spawn


def make(table):
    url = shared_pg().url()
    ctl('store', 'init', '--store', url, '--table', table)
    return url


class Session:
    """A psql that takes statements one by one."""

    def __init__(self):
        pg = shared_pg()
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            [os.path.join(pg.bin, 'psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', pg.url()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, text):
        self.process.stdin.write(text + ';\n\\echo done\n')
        self.process.stdin.flush()
        while self.process.stdout.readline() not in ('done\n', ''):
            pass

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def tail(url, table, *more, **streams):
    return spawn('stream', 'tail', '--store', url, '--table', table, '--json', *more, **streams)


def next_id(process):
    return json.loads(process.stdout.readline())['id']


def await_following(application):
    """Until the tail that bears this name reads again and again: by then it has its place."""
    reads = set()
    while len(reads) < 3:
        reads.add(shared_pg().sql(
            'SELECT query_start FROM pg_stat_activity WHERE application_name = '
            f"'{application}' AND query LIKE 'SELECT e.id, %'"))
        reads.discard('')


def finish(process):
    """What it printed besides, ended by a signal."""
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read().decode().splitlines()
    equal(process.wait(30), 0)
    return [json.loads(line)['id'] for line in rest]


def test_run_gives_up_on_ends_never_reached():
    """Without --retry-for after 30 s, also when it would stay for ever afterwards."""
    url = make('reached')
    wrong = 'postgresql:///postgres?host=' + os.path.join(os.getcwd(), 'nowhere')
    both = ('--source-table', 'reached', '--sink-table', 'reached')
    began = time.monotonic()
    started = [spawn('bridge', 'run', '--source', source, '--sink', sink, *both, *more)
               for source, sink, more in ((wrong, url, ()), (url, wrong, ()),
                                          (wrong, url, ('--retry-for', '1h')))]
    ctl('bridge', 'run', '--source', wrong, '--sink', url, *both, '--retry-for', '300ms', code=69)
    for process, end in zip(started[:2], ('source', 'sink')):
        _, words = process.communicate(timeout=60)
        equal(process.returncode, 69)
        assert time.monotonic() - began > 29
        contains(words.decode(), f'warn {end}: ', 'trying again', '--retry-for',
                 f'ledgerctl: {end}: ')
    equal(started[2].poll(), None)
    started[2].send_signal(signal.SIGINT)
    started[2].communicate(timeout=60)
    equal(started[2].returncode, 0)


def test_price_of_notify_is_told():
    """A transaction that notifies cannot be prepared: by init, its help, and check."""
    url = make('notified')
    said = ctl('store', 'init', '--store', url, '--table', 'notified', '--notify')
    contains(said.err, 'PREPARE TRANSACTION', 'DROP TRIGGER')
    assert 'PREPARE' not in ctl('store', 'init', '--store', url, '--table', 'notified').err
    contains(ctl('store', 'init', '--help').out, 'PREPARE TRANSACTION', 'two-phase')
    contains(ctl('store', 'check', '--store', url, '--table', 'notified').out, 'two-phase')


def test_password_with_url_signs_is_not_shown():
    for password in ('se@cret', 'se/cret', '12/cret', '/cret', 'se@cr/et', 's%cret'):
        done = ctl('stream', 'count', '--store', f'postgresql://u:{password}@127.0.0.1:9/d', code=2)
        for part in ('cret', 'cr', '"se"'):
            assert part not in done.err, str(done)
        contains(done.err, '%')


def test_tail_shows_what_is_committed_below_others():
    url = make('late')
    slow, quick = Session(), Session()
    insert = "INSERT INTO late(stream, payload) VALUES ('s', '1')"
    process = tail(url, 'late')
    slow.run('BEGIN; ' + insert)
    quick.run(insert)
    equal(next_id(process), '2')
    end = tail(url, 'late', '--after', 'end', '--stream', 's', env={'PGAPPNAME': 'at-end'})
    await_following('at-end')
    quick.run("UPDATE late SET tags = '[\"x\"]'")
    quick.run(insert)
    equal([next_id(process), next_id(end)], ['3', '3'])
    slow.run('COMMIT')
    equal([next_id(process), next_id(end)], ['1', '1'])
    equal(finish(process), [])
    equal(finish(end), [])
    slow.close()
    quick.close()


def test_tail_misses_nothing_of_many_writers():
    url = make('many')
    pg = shared_pg()
    files = [open(name, 'w+b') for name in ('all', 's3')]  # pylint: disable=consider-using-with
    processes = [tail(url, 'many', stdout=files[0]),
                 tail(url, 'many', '--stream', 's3', stdout=files[1])]
    scripts = []
    for writer in range(6):
        text = ''
        for _ in range(60):
            end = 'ROLLBACK' if random.random() < 0.2 else 'COMMIT'
            text += (f"BEGIN; INSERT INTO many(stream, payload) SELECT 's{writer}', '1' "
                     f"FROM generate_series(1, {random.randint(1, 4)}); "
                     f"SELECT pg_sleep({random.random() * 0.03:.4f}); {end};\n")
        scripts.append(subprocess.Popen(
            [os.path.join(pg.bin, 'psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1', url],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        scripts[-1].stdin.write(text.encode())
        scripts[-1].stdin.close()
    for script in scripts:
        equal(script.wait(120), 0)
    for process, file, condition in zip(processes, files, ('true', "stream = 's3'")):
        there = pg.sql(f'SELECT id FROM many WHERE {condition} ORDER BY id').split('\n')
        end = time.monotonic() + 60
        while os.pread(file.fileno(), 1 << 24, 0).count(b'\n') < len(there):
            assert time.monotonic() < end, file.name
            time.sleep(0.05)
        time.sleep(0.3)  # nothing more comes
        process.send_signal(signal.SIGINT)
        equal(process.wait(30), 0)
        file.seek(0)
        shown = [json.loads(line)['id'] for line in file]
        file.close()
        equal(sorted(shown, key=int), there)


def test_tail_goes_on_when_its_connection_is_cut():
    url = make('cut')
    ctl('stream', 'append', '--store', url, '--table', 'cut', '1')
    process = tail(url, 'cut')
    equal(next_id(process), '1')
    shared_pg().sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND application_name LIKE 'ledger%'")
    ctl('stream', 'append', '--store', url, '--table', 'cut', '2')
    equal(next_id(process), '2')
    equal(finish(process), [])


def test_read_search_and_list():
    url = make('words')
    lines = [{'stream': s, 'payload': p, 'metadata': {'k': s}, 'tags': [s]}
             for s, p in (('b', {'text': 'Hello World'}), ('a', ['hello']), ('B', 'other'))]
    ctl('stream', 'append', '--store', url, '--table', 'words', '--lines',
        stdin=''.join(json.dumps(line) + '\n' for line in lines))

    def ids(verb, *more):
        return [row['id'] for row in ctl('stream', verb, '--store', url, '--table', 'words',
                                         '--json', *more).objects()]

    equal(ids('search', 'HELLO'), ['1', '2'])
    equal(ids('search', 'hello', '--desc'), ['2', '1'])
    equal(ids('read', '--stream', 'b', '--meta', 'k=b'), ['1'])
    equal(ids('read', '--stream', 'b', '--meta', 'k=a'), [])
    equal(ids('read', '--stream', 'a', '--tag', 'a'), ['2'])
    equal(ctl('stream', 'list', '--store', url, '--table', 'words').out, 'B\na\nb\n')
    contains(ctl('stream', 'stat', '--store', url, '--table', 'words').out, 'count   3')


main(globals())
