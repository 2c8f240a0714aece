"""Whether two things are the same is decided alike everywhere: replays, keys, log rows, tables."""
import os
import sqlite3
import subprocess
import time

from harness import contains, ctl, equal, main, shared_pg


class Lite:
    """Sinks and sources in SQLite."""
    protect = ("CREATE TRIGGER keep BEFORE DELETE ON {t} BEGIN "
               "SELECT raise(ABORT, 'append-only'); END")
    unprotect = 'DROP TRIGGER keep'
    empty = 'DELETE FROM {t}'

    def __init__(self, name):
        self.path = os.path.abspath(name + '.db')
        self.url, self.table = 'sqlite:' + self.path, 'ledger_entries'

    def sql(self, text):
        db = sqlite3.connect(self.path, isolation_level=None)
        rows = db.execute(text.replace('{t}', self.table)).fetchall()
        db.close()
        return rows

    def silence(self, table, event):
        """A trigger that leaves every row as it is, and says nothing."""
        self.sql(f'CREATE TRIGGER silent_{event} BEFORE {event} ON {table} '
                 'BEGIN SELECT RAISE(IGNORE); END')

    def refuse(self, table, event):
        self.sql(f"CREATE TRIGGER no_{event} BEFORE {event} ON {table} "
                 "BEGIN SELECT RAISE(ABORT, 'never'); END")

    def hand_row(self, event, column='_', **columns):
        """A row of the log, written as a program does that keeps its outbox by plain SQL."""
        names = ['stream', 'payload'] + list(columns)
        values = [repr(column), f"'{event}'" if event is not None else 'NULL'] + list(
            columns.values())
        self.sql(f'INSERT INTO {{t}}_mutations({", ".join(names)}) VALUES({", ".join(values)})')


class Pg(Lite):
    """The same in PostgreSQL: a table each."""
    protect = ("CREATE FUNCTION {t}_keep() RETURNS trigger LANGUAGE plpgsql AS "
               "$$BEGIN RAISE 'append-only'; END$$; CREATE TRIGGER keep BEFORE DELETE ON {t} "
               "FOR EACH ROW EXECUTE FUNCTION {t}_keep()")
    unprotect = 'DROP TRIGGER keep ON {t}'
    empty = 'TRUNCATE {t}'

    def __init__(self, name):
        super().__init__(name)
        self.url, self.table = shared_pg().url(), name

    def sql(self, text):
        pg = shared_pg()
        out = subprocess.run(
            [os.path.join(pg.bin, 'psql'), '-XAtq', '-F', '|', '-v', 'ON_ERROR_STOP=1', pg.url(),
             '-c', text.replace('{t}', self.table)], check=True, capture_output=True, text=True)
        return [tuple(line.split('|')) for line in out.stdout.splitlines()]


    def trigger(self, table, event, body):
        self.sql(f'CREATE OR REPLACE FUNCTION {{t}}_f() RETURNS trigger LANGUAGE plpgsql AS '
                 f'$$BEGIN {body}; END$$; CREATE TRIGGER f BEFORE {event} ON {table} '
                 'FOR EACH ROW EXECUTE FUNCTION {t}_f()')

    def silence(self, table, event):
        self.trigger(table, event, 'RETURN NULL')

    def refuse(self, table, event):
        self.trigger(table, event, "RAISE 'never'")


def store(kind, name, *options):
    made = kind(name)
    ctl('store', 'init', '--store', made.url, '--table', made.table, *options)
    return made


def pair(source, sink, *more):
    return ['--source', source.url, '--source-table', source.table, '--sink', sink.url,
            '--sink-table', sink.table, *more]


def append(to, stream, *more):
    return ctl('stream', 'append', '--store', to.url, '--table', to.table, '--stream', stream,
               *more)


def payloads(of):
    return [row[0] for row in of.sql("SELECT CAST(payload AS TEXT) FROM {t} ORDER BY source_pos"
                                     if isinstance(of, Lite) and not isinstance(of, Pg) else
                                     "SELECT convert_from(payload, 'UTF8') FROM {t} "
                                     'ORDER BY source_pos')]


def run(ends, *more, code=0):
    return ctl('bridge', 'run', *ends, '--until-empty', *more, code=code)


def both(test):
    for kind in (Lite, Pg):
        test(kind, f'{test.__name__.strip("_")}_{kind.__name__}'.lower())


def _keys(kind, name):
    source, sink = store(Lite, name + '_a'), store(kind, name, '--no-log')
    ends = pair(source, sink)
    append(source, 's', '--dedup-key', 'k', '1')
    append(source, 's', '2')
    run(ends)
    sink.sql(sink.protect)
    trim = ('stream', 'trim', '--store', source.url, '--stream', 's', '--before')
    ctl(*trim, '2')
    append(source, 's', '--dedup-key', 'k', '3')
    ctl('stream', 'tag', '--store', source.url, '--stream', 's', '--id', '3', '--tag', 't')
    append(source, 't', '4')
    run(ends)
    equal(payloads(sink), ['1', '2', '4'])
    ctl('bridge', 'status', *ends, code=12)
    ids = [row['id'] for row in ctl('bridge', 'parked', 'list', '--sink', sink.url, '--sink-table',
                                    sink.table, '--json').objects()]
    equal(len(ids), 3)
    # the entry that waits is not brought before its trim
    ctl('bridge', 'parked', 'retry', ids[1], *ends, code=12)
    equal(payloads(sink), ['1', '2', '4'])
    ctl('bridge', 'parked', 'retry', '--all', *ends, code=12)
    sink.sql(sink.unprotect)
    ctl('bridge', 'parked', 'retry', '--all', *ends)
    equal(payloads(sink), ['3', '4'])
    ctl('bridge', 'verify', *ends)
    # the whole log once more, in batches of one and of all, changes nothing
    for size in ('1', '500'):
        ctl('bridge', 'cursor', 'reset', *ends)
        run(ends, '--batch-size', size)
        equal(payloads(sink), ['3', '4'])
    ctl('bridge', 'status', *ends)


def test_a_key_waits_for_the_trim_that_frees_it():
    both(_keys)


def _copies(kind, name):
    """Two stores that are copies of one, with the same words at other times."""
    stores = []
    image = store(Lite, name + '_image')
    for letter in 'ab':
        path = os.path.abspath(f'{name}_{letter}.db')
        image.sql(f"VACUUM INTO '{path}'")
        stores.append(Lite(f'{name}_{letter}'))
    for one in stores:
        append(one, 'device', '{"event":"boot"}')
        time.sleep(0.01)
    sink = store(kind, name, '--no-log')
    run(pair(stores[0], sink, '--name', 'a'))
    # told by the other bridge's cursor, and where that is gone by the first entry
    result = run(pair(stores[1], sink, '--name', 'b'), code=78)
    contains(result.err, 'cursor "a"', 'copies of one store', '--new-identity')
    sink.sql("DELETE FROM {t}_cursors")
    result = run(pair(stores[1], sink, '--name', 'b'), code=65)
    contains(result.err, 'created_at', '--new-identity')
    equal(len(payloads(sink)), 1)
    ctl('store', 'init', '--store', stores[1].url, '--new-identity')
    run(pair(stores[1], sink, '--name', 'b'))
    equal(len(payloads(sink)), 2)
    # one store under two names is no copy
    run(pair(stores[1], sink, '--name', 'c'))
    equal(len(payloads(sink)), 2)


def test_copies_of_a_store_are_told_apart():
    both(_copies)


EVENT = ('{"type":"append","stream":"t","entries":[{"id":"%d","payload":%d}],'
         '"created_at":"2024-01-02T03:04:05.678Z"}')


def _log_rows(kind, name):
    source, sink = store(kind, name), store(Lite, name + '_k', '--no-log')
    ends = pair(source, sink)
    source.hand_row(EVENT % (101, 1), 't')
    append(source, 't', '2')
    for n, stream in enumerate(('', '_', 'T', ' t', '*'), 102):
        source.hand_row(EVENT % (n, n), stream)
    source.hand_row(EVENT % (110, 110), schema_version='7')
    source.hand_row('', 't')
    status = ctl('bridge', 'status', *ends, '--json').objects()[0]
    equal(str(status['backlog']), '9')
    run(ends)
    equal(sorted(map(int, payloads(sink))), [1, 2, 102, 103, 104, 105, 106, 110])
    ctl('bridge', 'status', *ends, code=12)  # the empty one is parked
    status = ctl('bridge', 'status', *ends, '--json', code=12).objects()[0]
    equal((str(status['backlog']), str(status['parked'])), ('0', '1'))
    # from a position in the middle, whose row has another stream's name
    ctl('bridge', 'cursor', 'set', *ends, '4')
    run(ends)
    equal(len(payloads(sink)), 8)
    # ids that reading never comes by
    source.hand_row(EVENT % (120, 120), id='-5')
    contains(run(ends, code=78).err, 'id -5', 'without an id')


def test_a_log_is_read_whatever_its_stream_column_holds():
    both(_log_rows)


def _anew(kind, name):
    source = store(Lite, name + '_a')
    cases = (('DROP TABLE {t}', 78), ('DROP TABLE {t}_parked', 78), ('DROP TABLE {t}_cursors', 0),
             (kind.empty, 0))
    for n in range(5):
        append(source, 's', str(n))
    for i, (text, code) in enumerate(cases):
        sink = store(kind, f'{name}{i}', '--no-log')
        ends = pair(source, sink)
        run(ends)
        sink.sql(text)
        append(source, 's', str(5 + i))
        if text == 'DROP TABLE {t}':
            contains(run(ends, code=78).err, 'store init')
        ctl('store', 'init', '--store', sink.url, '--table', sink.table, '--no-log')
        told = ctl('store', 'check', '--store', sink.url, '--table', sink.table).out
        equal('made anew' in told, code == 78)
        result = run(ends, code=code)
        if 'cursors' not in text:
            contains(result.err, 'cursor reset --name default')
            if code == 78:
                contains(ctl('bridge', 'status', *ends, code=78).err, 'cursor reset')
                contains(ctl('bridge', 'cursor', 'acknowledge', *ends, code=78).err, 'cursor reset')
            ctl('bridge', 'cursor', 'reset', *ends)
            run(ends)
        equal(payloads(sink), [str(n) for n in range(6 + i)])
        ctl('bridge', 'verify', *ends)
        equal(run(ends).err.count('cursor reset'), 0)


def test_a_sink_made_anew_is_told():
    both(_anew)


def _emptied_beside_parked(kind, name):
    """Parked events do not hide that the table was emptied, and are not missed themselves."""
    source, sink = store(Lite, name + '_a'), store(kind, name, '--no-log')
    ends = pair(source, sink)
    source.hand_row('no event')
    append(source, 's', '1')
    run(ends)
    sink.sql(kind.empty)
    contains(run(ends).err, 'cursor reset --name default')
    ctl('bridge', 'cursor', 'reset', *ends)
    run(ends)
    equal(payloads(sink), ['1'])
    other, kept = store(Lite, name + '_b'), store(kind, name + '_kept', '--no-log')
    ends = pair(other, kept)
    kept.sql(kind.protect.replace('DELETE', 'INSERT'))
    append(other, 's', '1')
    run(ends)
    equal(kept.sql('SELECT count(*) FROM {t}_parked')[0][0] in (1, '1'), True)
    equal(run(ends).err.count('cursor reset'), 0)


def test_a_sink_emptied_beside_parked_events_is_told():
    both(_emptied_beside_parked)


def test_a_copy_under_the_same_name_is_told():
    source, sink = store(Lite, 'golden'), store(Lite, 'golden_k', '--no-log')
    append(source, 's', '1')
    run(pair(source, sink))
    source.sql(f"VACUUM INTO '{os.path.abspath('golden_copy.db')}'")
    copy = Lite('golden_copy')
    append(copy, 's', '2')
    run(pair(copy, sink))
    append(source, 's', '3')
    contains(run(pair(source, sink), code=78).err, 'store init --new-identity', 'cursor set')


def _silent(kind, name):
    """What a trigger of the sink keeps in silence is parked, not taken for a replay."""
    source = store(Lite, name + '_a')
    append(source, 's', '1')
    for i, (event, words) in enumerate((
            ('UPDATE', ('tag', '--id', '1', '--tag', 'x')),
            ('UPDATE', ('annotate', '--id', '1', '--set', 'a=b')),
            ('DELETE', ('trim', '--before', '1')))):
        sink = store(kind, f'{name}{i}', '--no-log')
        ends = pair(source, sink)
        run(ends)
        sink.silence('{t}', event)
        ctl('stream', words[0], '--store', source.url, '--stream', 's', *words[1:])
        run(ends)
        contains(sink.sql('SELECT reason FROM {t}_parked')[0][0], 'keeps a row as it is')


def test_what_a_trigger_keeps_in_silence_is_parked():
    both(_silent)


def _own_tables(kind, name):
    """A table of the ledger's own that takes nothing is a fault of the store: 78, by its name."""
    source = store(Lite, name + '_a')
    append(source, 's', '1')
    cases = (('cursors', 'UPDATE'), ('cursors', 'INSERT'), ('origins', 'INSERT'))
    for i, (side, event) in enumerate(cases):
        sink = store(kind, f'{name}r{i}', '--no-log')
        sink.refuse('{t}_' + side, event)
        contains(run(pair(source, sink), code=78).err, 'never', "the ledger's own")
        equal(payloads(sink), [])
        sink = store(kind, f'{name}s{i}', '--no-log')
        sink.silence('{t}_' + side, event)
        code = 75 if kind is Pg and side == 'origins' else 78  # there, others may have been faster
        contains(run(pair(source, sink), '--retry-for', '1s', code=code).err,
                 f'{sink.table}_{side}', 'keeps rows out')


def test_own_tables_that_take_nothing_are_told():
    both(_own_tables)


def _origins(kind, name):
    source, sink = store(Lite, name + '_a'), store(kind, name, '--no-log')
    append(source, 's', '1')
    run(pair(source, sink))
    other = store(Lite, name + '_b')
    append(other, 's', '2')
    sink.sql('CREATE TABLE {t}_kept AS SELECT * FROM {t}_origins')
    sink.sql('DELETE FROM {t}_origins')
    for one in (source, other):
        contains(run(pair(one, sink, '--name', one.table), code=78).err, f'{sink.table}_origins')
    sink.sql('INSERT INTO {t}_origins SELECT * FROM {t}_kept')
    run(pair(other, sink, '--name', 'other'))
    equal(sorted(payloads(sink)), ['1', '2'])
    sink.sql('DROP TABLE {t}_origins')
    contains(run(pair(source, sink), code=78).err, f'{sink.table}_origins', 'backup')
    contains(ctl('store', 'init', '--store', sink.url, '--table', sink.table, '--no-log',
                 code=78).err, f'{sink.table}_origins')


def test_lost_names_of_origins_are_told():
    both(_origins)


def test_a_sink_that_is_emptied_on_purpose_goes_on():
    """Nothing is missing where the source has nothing any more, or nothing was to come."""
    source, sink = store(Lite, 'purpose_a'), store(Lite, 'purpose', '--no-log')
    ends = pair(source, sink)
    append(source, 's', '1')
    run(ends)
    ctl('stream', 'trim', '--store', source.url, '--stream', 's', '--before', '9')
    run(ends)
    equal(run(ends).err.count('cursor reset'), 0)
    append(source, 's', '2')
    run(ends, '--skip', 'append')
    equal(run(ends, '--skip', 'append').err.count('cursor reset'), 0)


def test_a_table_renamed_away_keeps_its_indexes():
    source, sink = store(Lite, 'renamed_a'), store(Lite, 'renamed', '--no-log')
    ends = pair(source, sink)
    append(source, 's', '1')
    run(ends)
    sink.sql('ALTER TABLE {t} RENAME TO away')
    again = ('store', 'init', '--store', sink.url, '--no-log')
    while 'DROP INDEX' in (words := ctl(*again, code=None).err):
        sink.sql(words.split('`')[1])
    ctl(*again)
    contains(run(ends, code=78).err, 'cursor reset')
    ctl('bridge', 'cursor', 'reset', *ends)
    run(ends)
    equal(payloads(sink), ['1'])


main(globals())
