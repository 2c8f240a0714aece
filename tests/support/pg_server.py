"""PostgreSQL servers for tests written in Python: what pg_server.c is for those in C.

    with PgServer() as pg:            # or PgServer(tcp=True, settings='...', hba='...')
        pg.sql("CREATE TABLE t (id int)")
        ctl('store', 'init', '--store', pg.url())

With LEDGER_TEST_PG_CLUSTER (`pg_server.py FOLDER` makes it) servers are copies of it.
A server is stopped when this process ends, however it ends. Where none can be had, PgServer()
raises PgMissing; with CI=true that is an error, otherwise the case is to be skipped."""
import atexit
import contextlib
import ctypes
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from ports import free_port

for _name in [n for n in os.environ if n.startswith('PG')]:
    del os.environ[_name]  # the user's own servers are none of our business


class PgMissing(Exception):
    """The machine lacks what a server needs."""


def missing(reason):
    """What to raise when something is not installed."""
    if os.environ.get('CI') == 'true':
        return AssertionError(reason)
    return PgMissing(reason)


def bin_dir():
    found = os.environ.get('LEDGER_TEST_PG_BIN')
    if not found:
        dirs = [d for d in glob.glob('/usr/lib/postgresql/*/bin')
                if os.path.exists(os.path.join(d, 'initdb'))]
        dirs.sort(key=lambda d: int(d.split('/')[4].split('.')[0]))
        found = dirs[-1] if dirs else os.path.dirname(shutil.which('initdb') or '')
    if not found or not os.path.exists(os.path.join(found, 'initdb')):
        raise missing('no PostgreSQL server (initdb and postgres) is installed;'
                      ' ./dev deps test installs one')
    return found


def server_user():
    """(uid, gid) to run servers as, None: as we are."""
    if os.geteuid() != 0:
        return None
    for name in ('postgres', 'nobody'):
        try:
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
        except KeyError:
            pass
    raise missing('PostgreSQL refuses to run as root, and there is no user postgres')


def _signal_all(pids, number):
    """A process may have ended between the list and the signal."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _children(pid):
    result = []
    for path in glob.glob('/proc/[0-9]*/stat'):
        try:
            with open(path, encoding='ascii', errors='replace') as file:
                fields = file.read().rpartition(')')[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            result.append((int(path.split('/')[2]), fields[0]))
    return result


def _alive(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as file:
            return file.read().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False


def _child_options(user, folder, death_signal):
    libc = ctypes.CDLL(None)

    def before_exec():  # after the change of user, which would forget it
        libc.prctl(1, death_signal)  # PR_SET_PDEATHSIG

    options = {'cwd': folder, 'preexec_fn': before_exec, 'stdin': subprocess.DEVNULL}
    if user:
        options.update(user=user[0], group=user[1], extra_groups=[])
    return options


def _run(args, options):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          **options)
    assert done.returncode == 0, f'{args[0]}: {done.stdout.decode("utf-8", "replace")}'


def initdb(data):
    return ('initdb', '-D', data, '-A', 'trust', '-N', '-U', 'postgres', '-E', 'UTF8',
            '--locale=C.UTF-8', '--no-instructions')


def make_cluster(folder):
    """What LEDGER_TEST_PG_CLUSTER names: data/, of which servers are copies, and bin, what made
    it."""
    user, name, *args = server_user(), *initdb(os.path.join(folder, 'data'))
    if user:
        os.chown(folder, *user)
    os.chmod(folder, 0o755)
    _run([os.path.join(bin_dir(), name), *args], _child_options(user, folder, signal.SIGKILL))
    os.symlink(bin_dir(), os.path.join(folder, 'bin'))


class PgServer:
    # pylint: disable=too-many-instance-attributes
    all = []

    def __init__(self, settings='', hba='', tcp=False, base=None):
        self.bin = bin_dir()
        self.user = server_user()
        self.process = None
        self.port = free_port()
        self.dir = tempfile.mkdtemp(prefix='ledger-pg-')
        PgServer.all.append(self)
        self.data = os.path.join(self.dir, 'data')
        if self.user:
            os.chown(self.dir, *self.user)
        os.chmod(self.dir, 0o755)
        if base:  # a standby of it
            self.run_program('pg_basebackup', '-D', self.data, '-h', base.dir, '-p', base.port,
                             '-U', 'postgres', '-R', '-X', 'stream', '-c', 'fast', '--no-sync')
        else:
            self.make_data()
            self.configure('fsync = off\nfull_page_writes = off\nshared_buffers = 64MB\n'
                           'max_connections = 120\nmax_prepared_transactions = 64\n'
                           'log_checkpoints = off\nautovacuum_naptime = 5s')
        self.tcp = tcp or bool(base and base.tcp)
        self.configure(f"listen_addresses = '{'127.0.0.1' if self.tcp else ''}'\n"
                       f"port = {self.port}\nunix_socket_directories = '{self.dir}'")
        if settings:
            self.configure(settings)
        if hba:
            with open(os.path.join(self.data, 'pg_hba.conf'), 'w', encoding='ascii') as file:
                file.write(hba + '\nlocal all all trust\nlocal replication all trust\n'
                           'host all all 127.0.0.1/32 trust\n')
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind is not None:
            print('\n'.join('# ' + line for line in self.log_tail().splitlines()))
        self.destroy()

    def _options(self, death_signal):
        return _child_options(self.user, self.dir, death_signal)

    def make_data(self):
        made = os.environ.get('LEDGER_TEST_PG_CLUSTER')
        if made and os.readlink(os.path.join(made, 'bin')) == self.bin:
            self.run_program('/bin/cp', '-a', os.path.join(made, 'data'), self.data)
        else:
            self.run_program(*initdb(self.data))

    def run_program(self, name, *args):
        _run([os.path.join(self.bin, name)] + [str(a) for a in args],
             self._options(signal.SIGKILL))

    def configure(self, settings):
        """For the next start or reload; wins over what is there."""
        with open(os.path.join(self.data, 'postgresql.conf'), 'a', encoding='utf-8') as file:
            file.write('\n' + settings + '\n')

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def start(self):
        with open(os.path.join(self.dir, 'log'), 'ab') as log:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen([os.path.join(self.bin, 'postgres'), '-D', self.data],
                                            stdout=log, stderr=log,
                                            **self._options(signal.SIGQUIT))
        end = time.monotonic() + 120
        ready = [os.path.join(self.bin, 'pg_isready'), '-q', '-h', self.dir, '-p', str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self.process.poll() is None, 'the server has ended:\n' + self.log_tail()
            assert time.monotonic() < end, 'the server does not start:\n' + self.log_tail()
            time.sleep(0.01)

    def stop(self, how='fast'):
        self.process.send_signal({'smart': signal.SIGTERM, 'fast': signal.SIGINT,
                                  'immediate': signal.SIGQUIT}[how])
        self.process.wait(120)
        self.process = None

    def backends(self):
        """Pids of the postmaster's processes."""
        return [pid for pid, _ in _children(self.process.pid)]

    def freeze(self):
        """Stops the postmaster, so that it starts no one any more, then its processes."""
        self.process.send_signal(signal.SIGSTOP)
        children = self.backends()
        _signal_all(children, signal.SIGSTOP)
        return children

    def thaw(self, children):
        _signal_all(children, signal.SIGCONT)
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """kill -9 of the postmaster and of each process of its, at one moment."""
        self.process.send_signal(signal.SIGSTOP)
        children = self.backends()
        _signal_all(children, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process = None
        while any(_alive(pid) for pid in children):
            time.sleep(0.001)

    def restart(self, how='fast'):
        self.stop(how)
        self.start()

    def hold_commits(self):
        """Each commit waits from now on, for a standby that is not there. It is the checkpointer
        that makes them wait, at a moment of its own, so commits are tried until one does."""
        held = "FROM pg_stat_activity WHERE application_name = 'trial' AND wait_event = 'SyncRep'"
        waits, end = False, time.monotonic() + 120
        self.sql('CREATE TABLE trial(n int8)')
        self.configure("synchronous_standby_names = 'nobody'")
        self.reload()
        while not waits:
            assert time.monotonic() < end, 'no commit waits:\n' + self.log_tail()
            with subprocess.Popen([os.path.join(self.bin, 'psql'), '-Xq', '-c',
                                   'INSERT INTO trial VALUES (1)',
                                   self.url(more='application_name=trial')],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as trial:
                while not waits and trial.poll() is None:
                    waits = self.sql(f'SELECT count(*) {held}') != '0'
                if waits:
                    self.sql(f'SELECT pg_terminate_backend(pid) {held}')

    def standby(self):
        return PgServer(base=self)

    def promote(self):
        assert self.sql('SELECT pg_promote(true, 60)') == 't'

    def destroy(self):
        if self.process and self.process.poll() is None:
            self.stop('immediate')
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in PgServer.all:
            PgServer.all.remove(self)

    def url(self, database='postgres', user='postgres', tcp=False, more=''):
        host = '127.0.0.1' if tcp else self.dir
        return (f'postgresql:///{database}?host={host}&port={self.port}&user={user}'
                + ('&' + more if more else ''))

    def sql(self, text, database='postgres', user='postgres'):
        """Runs statements, which must work; gives the rows, columns separated by |."""
        done = subprocess.run(
            [os.path.join(self.bin, 'psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1',
             self.url(database, user)], input=text.encode(), capture_output=True, check=False)
        assert done.returncode == 0, f'{text}\n{done.stderr.decode("utf-8", "replace")}'
        return done.stdout.decode().rstrip('\n')

    def create_database(self, name):
        self.sql(f'CREATE DATABASE "{name}"')

    def log_tail(self, lines=25):
        try:
            with open(os.path.join(self.dir, 'log'), encoding='utf-8', errors='replace') as file:
                return '\n'.join(file.read().splitlines()[-lines:])
        except OSError:
            return ''


class PgBouncer:
    """A pooler in front of a server, in transaction mode."""

    def __init__(self, server, settings=''):
        program = shutil.which('pgbouncer', path=os.environ.get('PATH', '') + ':/usr/sbin')
        if not program:
            raise missing('pgbouncer is not installed; ./dev deps test installs it')
        self.port = free_port()
        self.server = server
        self.dir = tempfile.mkdtemp(prefix='ledger-pgb-')
        PgServer.all.append(self)
        if server.user:
            os.chown(self.dir, *server.user)
        os.chmod(self.dir, 0o755)
        with open(os.path.join(self.dir, 'ini'), 'w', encoding='utf-8') as file:
            # auth_type any lets everybody in, as the user of the database's line
            file.write(f'[databases]\n* = host={server.dir} port={server.port} user=postgres\n'
                       f'[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n'
                       f'unix_socket_dir = {self.dir}\nauth_type = any\n'
                       'pool_mode = transaction\ndefault_pool_size = 20\n'
                       'max_client_conn = 100\n' + settings + '\n')
        with open(os.path.join(self.dir, 'log'), 'ab') as log:
            # pylint: disable=consider-using-with,protected-access
            self.process = subprocess.Popen([program, os.path.join(self.dir, 'ini')], stdout=log,
                                            stderr=log, **server._options(signal.SIGTERM))
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(('127.0.0.1', self.port), 1).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, self.log_tail()
                time.sleep(0.01)

    def url(self, database='postgres', user='postgres', more=''):
        return (f'postgresql:///{database}?host=127.0.0.1&port={self.port}&user={user}'
                + ('&' + more if more else ''))

    def log_tail(self):
        with open(os.path.join(self.dir, 'log'), encoding='utf-8', errors='replace') as file:
            return file.read()[-3000:]

    def destroy(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in PgServer.all:
            PgServer.all.remove(self)


def _clean_up():
    for server in list(PgServer.all):
        server.destroy()


atexit.register(_clean_up)

if __name__ == '__main__':
    make_cluster(sys.argv[1])
