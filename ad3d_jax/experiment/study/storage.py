"""The database of a study: how it is opened, retried, locked, and told who lives.

Optuna's own guarantees do not suffice for several workers. SQLite ignores the row locks
by which a waiting trial is taken once, a budget of trials can be overshot, and a trial
whose worker dies before its first heartbeat stays running for ever. All of these go
away when whatever takes trials does so alone: under a file lock beside SQLite, under an
advisory lock of PostgreSQL.
"""

import contextlib
import hashlib
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import optuna
import sqlalchemy
from absl import logging
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage

from ad3d_jax.experiment.status import Stopped
from ad3d_jax.workdir import locks, names
from ad3d_jax.workdir.disk import writing

Result = TypeVar("Result")

FEW_TRIES = 6  # 15 seconds: to open a database, which may not be there at all
TRIES = 27  # 10 minutes: of a database that was open, whose server may be restarted
FIRST_PAUSE = 0.5  # seconds before the second try; each pause is twice the last
LONGEST_PAUSE = 30.0  # seconds
BUSY_SECONDS = 30  # that a write waits for another one, in SQLite
DEAD = ("not a database", "malformed", "no such table", "no such column", "password")
SCHEMES = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}


class StudyError(ValueError):
    """A study that cannot begin or go on; the message names what is at fault."""


class UnreachableError(Stopped):
    """A database that was open cannot be reached; the same command goes on later."""


class Pulse(NamedTuple):
    """How a dead worker is noticed."""

    interval: int = 30  # seconds between heartbeats
    grace: int = 120  # seconds without one after which a trial counts as lost


class Database(NamedTuple):
    """An open database of studies."""

    storage: RDBStorage
    name: str  # its address without a password
    lock: Path | None  # file of SQLite's lock; None = PostgreSQL's advisory lock
    pulse: Pulse


def open_database(
    address: str,
    pulse: Pulse = Pulse(),  # noqa: B008
    tries: int = FEW_TRIES,
) -> Database:
    """Opens a database of studies; SQLite's file and all tables are made if need be.

    Args:
        address: a path, `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.
        pulse: heartbeats.
        tries: before it is given up.

    Raises:
        StudyError: it is of another kind, unreachable, damaged, or stays locked.
    """
    if "://" not in address:
        address = f"sqlite:///{Path(address).expanduser()}"
    try:
        url = sqlalchemy.make_url(address)
    except sqlalchemy.exc.ArgumentError as error:
        raise StudyError(f"study: {address!r} is no address: {error}") from None
    name = url.render_as_string(hide_password=True)
    if url.drivername == "grpc":
        raise StudyError(
            "study: Optuna's gRPC proxy passes no heartbeats on, so that a dead "
            "worker would never be noticed; name the database behind it"
        )
    if url.drivername not in SCHEMES:
        raise StudyError(f"study: expected sqlite or postgresql, found {name}")
    url, lock = url.set(drivername=SCHEMES[url.drivername]), None
    if url.drivername == "sqlite":
        file = Path(url.database or names.DATABASE).expanduser().absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        url, lock = url.set(database=str(file)), file.with_name(file.name + ".lock")
        options = {"connect_args": {"timeout": BUSY_SECONDS}}
    else:
        # Heartbeats are compared without their time zone, so all must have one.
        arguments = {"options": "-c timezone=UTC", "connect_timeout": 10}
        # A server that is gone without a word is noticed within a minute.
        arguments |= {"keepalives_idle": 30, "tcp_user_timeout": 60_000}
        options = {"pool_pre_ping": True, "connect_args": arguments}
    whole = url.render_as_string(hide_password=False)

    def begin() -> Database:
        with alone(lock, name), quiet():
            storage = RDBStorage(
                whole.replace("{", "{{").replace("}", "}}"),
                engine_kwargs=options,
                heartbeat_interval=pulse.interval,
                grace_period=pulse.grace,
            )
            return Database(storage, name, lock, pulse)

    try:
        return attempt(name, begin, tries)
    except UnreachableError as error:
        raise StudyError(str(error)) from error


def attempt(
    database: Database | str, operation: Callable[[], Result], tries: int = TRIES
) -> Result:
    """Returns what an operation returns, which is done anew where the database fails.

    The operation must be safe to do twice: a commit may have gone through although its
    answer was lost.

    Raises:
        UnreachableError: it failed too often; the database is named.
        StudyError: the database is damaged; it is named.
        DiskFullError: no space is left; it is named, too.
    """
    name = database if isinstance(database, str) else database.name
    for number in range(1, tries + 1):
        try:
            with writing(name):
                result = operation()
        except (
            StorageInternalError,
            sqlalchemy.exc.SQLAlchemyError,
            sqlite3.Error,
            TimeoutError,
        ) as error:
            reason = _reason(error)
            sentence = f"study database {name}: {reason}"
            if any(word in reason for word in DEAD):
                raise StudyError(sentence) from error
            if number == tries:
                raise UnreachableError(f"{sentence} (tried {tries} times)") from error
            pause = min(FIRST_PAUSE * 2 ** (number - 1), LONGEST_PAUSE)
            logging.warning(
                "%s; try %d of %d in %g s", sentence, number + 1, tries, pause
            )
            time.sleep(pause)
        else:
            if number > 1:
                logging.warning("study database %s answers again", name)
            return result
    raise AssertionError("unreachable")


@contextlib.contextmanager
def exclusive(database: Database) -> Iterator[None]:
    """Holds the right to take trials of this database; it goes with the process.

    Raises:
        TimeoutError: another process holds it for over a minute.
        sqlalchemy.exc.OperationalError: as before, of PostgreSQL.
    """
    if database.lock is not None:
        with alone(database.lock, database.name):
            yield
        return
    number = int(hashlib.sha256(b"ad3d_jax study").hexdigest()[:15], 16)
    with database.storage.engine.begin() as connection:
        connection.execute(sqlalchemy.text("SET LOCAL lock_timeout = '60s'"))
        statement = sqlalchemy.text("SELECT pg_advisory_xact_lock(:number)")
        connection.execute(statement, {"number": number})
        yield


def give_up_silent(database: Database, study: optuna.Study) -> None:
    """Fails the trials of which no sign of life came within the grace.

    Nothing reaches a server that is down: the silence counts from its start on.
    """
    if database.lock is None:
        with database.storage.engine.connect() as connection:
            statement = "SELECT extract(epoch FROM now() - pg_postmaster_start_time())"
            up = connection.execute(sqlalchemy.text(statement)).scalar_one()
        if up < database.pulse.grace:
            return
    optuna.storages.fail_stale_trials(study)


@contextlib.contextmanager
def alone(lock: Path | None, name: str, seconds: float = 60) -> Iterator[None]:
    """Holds a lock file, if there is one; TimeoutError if others hold it too long."""
    if lock is None:
        yield
        return
    try:
        file = lock.open("a")
    except OSError as error:
        raise StudyError(f"study database {name}: {error.strerror}: {lock}") from error
    with file:
        end = time.monotonic() + seconds
        while True:
            try:
                locks.take(file)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise TimeoutError(f"{lock} is held by another process") from None
                time.sleep(0.02)
        yield


class Heartbeat:
    """While it is open, a thread says at intervals that the trials are being run.

    Optuna's own thread ends at the first failure of the database, whereupon a living
    worker counts as dead; this one goes on.
    """

    def __init__(self, database: Database, trials: Sequence[int]):
        self._database, self._trials = database, trials
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        storage = self._database.storage
        while not self._ended.wait(self._database.pulse.interval):
            try:
                for trial in self._trials:
                    storage.record_heartbeat(trial)
            except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
                logging.warning("heartbeat failed: %s", _reason(error))
        storage.remove_session()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hides what Optuna says of experimental parts, of heartbeats and of each trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", message="Heartbeat of storage")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _reason(error: BaseException) -> str:
    """Returns the first line of the innermost cause."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
