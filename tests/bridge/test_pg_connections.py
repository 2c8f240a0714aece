"""Ways to a PostgreSQL server: a pooler in transaction mode, several hosts and a promotion, TLS,
passwords, and everything that is refused; through ledgerctl, as a user meets them."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'cli'))
# pylint: disable=wrong-import-position
from harness import (contains, ctl, equal, free_port, init, main, PgBouncer, PgServer,  # noqa: E402
                     shared_pg, Skip, spawn)

SECRET = 's3cret-w0rd'


def fill(url, first, count):
    lines = [json.dumps({'stream': f's{n % 5}', 'payload': {'n': n}, 'dedup_key': f'k{n}',
                         'tags': ['t'], 'metadata': {'m': str(n)}}) for n in range(first,
                                                                                  first + count)]
    ctl('stream', 'append', '--store', url, '--lines', stdin='\n'.join(lines) + '\n')


def database(server, name):
    server.create_database(name)
    return name


def carry(source, sink, *args):
    ends = ['--source', source, '--sink', sink]
    stats = ctl('bridge', 'run', *ends, '--until-empty', '--json', *args).objects()[0]
    equal((stats['backlog'], stats['parked']), (0, 0))
    contains(ctl('bridge', 'verify', *ends).out, 'equal: ')
    return stats


# --- a pooler ---------------------------------------------------------------------------------

def test_pooler_in_transaction_mode():
    server = shared_pg()
    # Few server connections: each transaction may get another one.
    pool = PgBouncer(server, 'default_pool_size = 3\nserver_round_robin = 1\n')
    source = pool.url(database(server, 'pool_a'))
    sink = pool.url(database(server, 'pool_b'))
    third = init('third')
    for url in (source, sink):
        ctl('store', 'init', '--store', url, '--notify')
    fill(source, 0, 500)
    ctl('stream', 'tag', '--store', source, '--stream', 's0', '--id', '1', '--tag', 'new')
    ctl('stream', 'annotate', '--store', source, '--stream', 's0', '--id', '1', '--set', 'a=b')
    ctl('stream', 'trim', '--store', source, '--stream', 's1', '--before', '100')
    equal(carry(source, sink, '--batch-size', '50')['errors'], 0)
    equal(carry(sink, third)['errors'], 0)
    fill(source, 500, 500)
    carry(source, sink, '--parallel-streams', '3')
    equal(ctl('stream', 'count', '--store', sink).out,
          ctl('stream', 'count', '--store', source).out)
    # Events come while it runs, and the wake-up works without a session.
    running = spawn('bridge', 'run', '--source', source, '--sink', sink, '--quiet')
    try:
        fill(source, 1000, 300)
        wait_equal(source, sink)
    finally:
        running.send_signal(signal.SIGTERM)
        equal(running.communicate(timeout=30)[1], b'')
    # Nothing of ours stays in a session that is somebody else's next.
    for name in ('pool_a', 'pool_b'):
        rows = sessions(pool.url(name), server)
        equal(rows, '0|0|0')
    pool.destroy()


def sessions(url, server):
    """Of the session the pooler gives: prepared statements, settings of ours, channels."""
    done = subprocess.run([os.path.join(server.bin, 'psql'), '-XAtq', url, '-c',
                           "SELECT (SELECT count(*) FROM pg_prepared_statements), "
                           "(SELECT count(*) FROM pg_settings WHERE source = 'session' AND name IN "
                           "('lock_timeout', 'statement_timeout', 'synchronous_commit', 'jit')), "
                           "(SELECT count(*) FROM pg_listening_channels())"],
                          capture_output=True, check=True)
    return done.stdout.decode().strip()


def wait_equal(source, sink, seconds=60):
    end = time.monotonic() + seconds
    while True:
        counts = [ctl('stream', 'count', '--store', url).out for url in (source, sink)]
        if counts[0] == counts[1]:
            return
        assert time.monotonic() < end, counts
        time.sleep(0.1)


def test_pooler_goes_and_comes():
    server = shared_pg()
    name = database(server, 'pool_c')
    pool = PgBouncer(server)
    source = pool.url(name)
    sink = init('sink')
    ctl('store', 'init', '--store', source)
    fill(source, 0, 10)
    running = spawn('bridge', 'run', '--source', source, '--sink', sink, '--quiet')
    try:
        wait_equal(source, sink)
        pool.process.kill()
        pool.process.wait()
        fill(server.url(name), 10, 10)
        pool.process = subprocess.Popen(  # pylint: disable=consider-using-with
            pool.process.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            **server._options(signal.SIGTERM))  # pylint: disable=protected-access
        wait_equal(server.url(name), sink)
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
    equal(running.returncode, 0)
    pool.destroy()


# --- several hosts ------------------------------------------------------------------------------

def test_promotion_is_followed():
    with PgServer(tcp=True) as primary:
        with primary.standby() as standby:
            both = (f'postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}'
                    '/postgres?connect_timeout=2')
            sink = init('sink')
            ctl('store', 'init', '--store', both)
            fill(both, 0, 100)
            result = ctl('store', 'init', '--store', standby.url(), code=None)
            equal(result.code, 77)
            contains(result.err, 'standby', 'name the primary')
            running = spawn('bridge', 'run', '--source', both, '--sink', sink, '--quiet')
            try:
                wait_equal(both, sink)
                caught_up(primary, standby)
                primary.stop('fast')
                standby.promote()
                fill(both, 100, 100)
                wait_equal(both, sink, 60)
            finally:
                running.send_signal(signal.SIGTERM)
                errors = running.communicate(timeout=30)[1]
            equal((running.returncode, errors), (0, b''))
            contains(ctl('bridge', 'verify', '--source', both, '--sink', sink).out,
                     'equal: 200 entries')


def caught_up(primary, standby):
    end = time.monotonic() + 60
    position = primary.sql('SELECT pg_current_wal_flush_lsn()')
    while standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") != 't':
        assert time.monotonic() < end
        time.sleep(0.05)


# --- TLS ----------------------------------------------------------------------------------------

def openssl(*args):
    try:
        subprocess.run(['openssl', *args], check=True, capture_output=True)
    except FileNotFoundError:
        raise Skip('openssl is not installed') from None


def make_certificates(host):
    openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'ca.key', '-out', 'ca.crt',
            '-subj', '/CN=test ca', '-days', '2')
    openssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'server.key', '-out', 'server.csr',
            '-subj', f'/CN={host}')
    with open('ext', 'w', encoding='ascii') as file:
        file.write(f'subjectAltName=DNS:{host}\n')
    openssl('x509', '-req', '-in', 'server.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key',
            '-CAcreateserial', '-out', 'server.crt', '-days', '2', '-extfile', 'ext')


def remote_name():
    """A name of this machine that is not known to be its own; an address for the server."""
    name = socket.gethostname()
    try:
        return name, socket.gethostbyname(name)
    except OSError:
        raise Skip("this machine's name cannot be resolved") from None


def test_tls_is_verified_for_a_remote_host():
    host, address = remote_name()
    make_certificates(host)
    with PgServer(hba='host all all 0.0.0.0/0 trust',
                  settings=f"listen_addresses = '{address}'") as server:
        url = f'postgresql://postgres@{host}:{server.port}/postgres'
        home = {'HOME': os.getcwd()}

        def check(more, code, *words, env=None):
            result = ctl('store', 'init', '--store', url + more, code=None,
                         env={**home, **(env or {})})
            assert result.code == code, str(result)
            contains(result.err, *words)

        # Without TLS at the server nothing goes, unless somebody says so.
        check('', 69, 'certificate', 'sslrootcert')
        check('?sslmode=disable', 0)
        check('', 0, env={'PGSSLMODE': 'allow'})

        for name in ('server.crt', 'server.key'):
            path = os.path.join(server.data, name)
            with open(name, 'rb') as source, open(path, 'wb') as target:
                target.write(source.read())
            os.chmod(path, 0o600)
            if server.user:
                os.chown(path, *server.user)
        server.configure('ssl = on')
        server.restart()
        check('', 69, 'certificate', 'sslrootcert')
        ca = os.path.abspath('ca.crt')
        check(f'?sslrootcert={ca}', 0)
        check('', 0, env={'PGSSLROOTCERT': ca})
        check('?sslmode=require', 0)
        os.mkdir('.postgresql')
        os.rename('ca.crt', '.postgresql/root.crt')
        check('', 0)
        equal(server.sql('SELECT count(*) FROM pg_stat_ssl WHERE ssl'), '0')
        # Another name than the certificate's.
        with open('services', 'w', encoding='ascii') as file:
            file.write(f'[there]\nhost=other.example\nhostaddr={address}\nport={server.port}\n'
                       'user=postgres\ndbname=postgres\nsslmode=verify-full\n')
        result = ctl('store', 'check', '--store', 'postgresql:///?service=there', code=69,
                     env={**home, 'PGSERVICEFILE': os.path.abspath('services')})
        contains(result.err, 'other.example')


# --- who and where ------------------------------------------------------------------------------

HBA = 'host all locked 127.0.0.1/32 scram-sha-256\nlocal all locked scram-sha-256'


def test_passwords():
    with PgServer(tcp=True, hba=HBA) as server:
        server.sql(f"CREATE ROLE locked LOGIN PASSWORD '{SECRET}' CREATEDB; "
                   "GRANT ALL ON SCHEMA public TO locked")
        url = server.url(user='locked', tcp=True)

        def check(store, code, *words, env=None):
            result = ctl('store', 'init', '--store', store, code=None, env=env)
            assert result.code == code, str(result)
            contains(result.err, *words)
            assert SECRET not in result.err + result.out, str(result)

        check(url, 77, 'PGPASSWORD')
        check(url, 77, 'authentication', env={'PGPASSWORD': SECRET + 'x'})
        check(url, 0, env={'PGPASSWORD': SECRET})
        check(url + '&password=' + SECRET, 0)
        check(f'postgresql://locked:{SECRET}@127.0.0.1:{server.port}/postgres', 0)
        check(f'postgresql://locked:{SECRET}@127.0.0.1:{server.port}/nothing', 78, 'nothing')
        check(f'postgresql:host=127.0.0.1 port={server.port} user=locked password={SECRET} '
              'dbname=postgres', 0)
        check(f'postgresql://locked:{SECRET}@127.0.0.1:{free_port()}/postgres', 69, 'check host')
        check(f'postgresql://locked:{SECRET}@no-such-host.invalid/postgres', 69, 'check host')
        check(f'postgresql://locked:{SECRET}@127.0.0.1/postgres?passwort={SECRET}', 2, 'libpq')
        check(f'postgresql:host=127.0.0.1 {SECRET}', 2)
        with open('pass', 'w', encoding='ascii') as file:
            file.write(f'127.0.0.1:{server.port}:*:locked:{SECRET}\n')
        os.chmod('pass', 0o600)
        check(url, 0, env={'PGPASSFILE': os.path.abspath('pass')})
        check(url + '&passfile=' + os.path.abspath('pass'), 0)
        with open('services', 'w', encoding='ascii') as file:
            file.write(f'[orders]\nhost=127.0.0.1\nport={server.port}\nuser=locked\n'
                       f'dbname=postgres\npassword={SECRET}\n')
        services = {'PGSERVICEFILE': os.path.abspath('services')}
        check('postgresql:///?service=orders', 0, env=services)
        check('postgresql:service=orders', 0, env=services)
        check('postgresql:service=nothing', 2, 'nothing', env=services)

        with open('secret', 'w', encoding='ascii') as file:
            file.write(SECRET + '\n')
        os.chmod('secret', 0o600)
        ctl('stream', 'count', '--store', url, '--password-file', 'secret')

        # A bridge opens its own connections with the same password, and says nothing of it.
        sink = init('sink')
        fill_url = url + '&password=' + SECRET
        fill(fill_url, 0, 10)
        for store, env in ((fill_url, None), (url, {'PGPASSWORD': SECRET})):
            result = ctl('bridge', 'run', '--source', store, '--sink', sink, '--until-empty', '-vv',
                         env=env)
            assert SECRET not in result.err + result.out, str(result)
            result = ctl('bridge', 'status', '--source', store, '--sink', sink, '--json', env=env)
            assert SECRET not in result.err + result.out, str(result)


def test_application_name():
    server = shared_pg()
    url = server.url(database(server, 'named'))
    sink = init('sink')
    ctl('store', 'init', '--store', url)
    running = spawn('bridge', 'run', '--source', url, '--sink', sink, '--name', 'orders', '--quiet')
    try:
        end = time.monotonic() + 60
        while True:
            names = server.sql("SELECT DISTINCT application_name FROM pg_stat_activity WHERE "
                               "datname = 'named'").split('\n')
            if 'ledgerctl/orders' in names:
                break
            assert time.monotonic() < end, names
            time.sleep(0.05)
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)


def test_not_a_ledger_database():
    server = shared_pg()
    server.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    contains(ctl('store', 'init', '--store', server.url('latin'), code=78).err, 'LATIN1', 'UTF8')
    contains(ctl('store', 'init', '--store', server.url('missing'), code=78).err, 'missing')


if __name__ == '__main__':
    main(globals())
