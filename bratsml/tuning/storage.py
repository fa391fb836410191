"""Where studies are kept: an SQLite file beside the runs, or a PostgreSQL server.

What must not happen twice is done under one lock per storage: making it, taking a trial, returning
one. The lock ends with its process, however that ends: a file lock beside an SQLite file, an
advisory lock of the server for PostgreSQL.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from bratsml.errors import ConfigError, ResourceError

STORAGE_VARIABLE = "BRATSML_STUDY_STORAGE"
"""Hands the address to workers; it may hold a password, so it is written to no file."""
DATABASE_FILE = "studies.db"
LOCK_SECONDS = 120
BUSY_SECONDS = 60
LOCK_KEY = 0x62726174736D6C  # any number, the same for all
_DRIVERS = {"psycopg": "postgresql+psycopg", "psycopg2": "postgresql+psycopg2"}


class StudyStorage:
    """One storage of studies.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.

    Raises:
        ConfigError: Another kind of storage, or the driver for PostgreSQL is missing.
    """

    def __init__(self, url: str) -> None:
        self.url = _with_driver(url)
        self.is_sqlite = self.url.startswith("sqlite:///")
        self._storage: RDBStorage | None = None

    @classmethod
    def locate(cls, root: Path, url: str = "") -> StudyStorage:
        """The storage given, else that of the environment, else the file in the project folder."""
        default = f"sqlite:///{root / DATABASE_FILE}"
        return cls(url or os.environ.get(STORAGE_VARIABLE, "") or default)

    @property
    def shown(self) -> str:
        """The address without password or folders."""
        if self.is_sqlite:
            return Path(self.url.removeprefix("sqlite:///")).name
        return re.sub(r"//[^/@]*@", "//", self.url)

    def connect(self) -> RDBStorage:
        """Optuna's storage; made on first use, by one process at a time.

        Raises:
            ResourceError: It cannot be reached or written.
        """
        if self._storage is None:
            with self.lock():
                self._storage = self._open()
        return self._storage

    def _open(self) -> RDBStorage:
        # SQLite: wait for other writers; a server: notice connections that a restart has cut
        extra = (
            {"connect_args": {"timeout": BUSY_SECONDS}}
            if self.is_sqlite
            else {"pool_pre_ping": True}
        )
        with self.in_plain_words():
            return RDBStorage(self.url, engine_kwargs=extra)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process at a time, over all machines that share the storage.

        Raises:
            ResourceError: The storage is away, or somebody holds the lock for minutes.
        """
        if self.is_sqlite:
            file = Path(self.url.removeprefix("sqlite:///"))
            if not file.parent.is_dir():  # the lock would make it
                raise ResourceError(
                    f"the folder of the study storage {file.name} is not there; check --storage"
                )
            try:
                held = FileLock(f"{file}.lock", timeout=LOCK_SECONDS)
                held.acquire()
            except Timeout as error:
                raise ResourceError(
                    f"another process has held {file.name}.lock for {LOCK_SECONDS} s; end it"
                ) from error
            except OSError as error:
                raise ResourceError(
                    f"the study storage {self.shown} cannot be written ({error.strerror}); give "
                    "another with --storage"
                ) from error
            try:
                yield
            finally:
                held.release()
        else:
            with self._server_lock():
                yield

    @contextmanager
    def _server_lock(self) -> Iterator[None]:
        with self.in_plain_words():
            engine = sqlalchemy.create_engine(self.url, poolclass=NullPool)
            connection = engine.connect()
        try:
            with self.in_plain_words():
                connection.execute(sqlalchemy.text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({LOCK_KEY})"))
            yield
        finally:
            connection.close()  # the server gives the lock free with the connection
            engine.dispose()

    @contextmanager
    def in_plain_words(self) -> Iterator[None]:
        """Turn errors of the database into one sentence.

        Raises:
            ResourceError: The database failed.
        """
        try:
            yield
        except (SQLAlchemyError, StorageInternalError) as error:
            cause = error.__cause__ or error
            said = re.sub(r"//[^/@\s]*@", "//", str(cause).strip().splitlines()[0])[:160]
            raise ResourceError(
                f"the study storage {self.shown} cannot be used ({said}); start it, or leave out "
                "--storage to keep studies in the project folder"
            ) from error


def _with_driver(url: str) -> str:
    """The address with a driver that is installed."""
    if re.match(r"sqlite:///.+", url):
        return url
    if not re.match(r"postgres(ql)?(\+\w+)?://", url):
        raise ConfigError(
            "the study storage must be sqlite:///FILE or postgresql://USER@HOST/DATABASE, received "
            f"{re.sub(r'//[^/@]*@', '//', url)!r}"
        )
    try:
        sqlalchemy.make_url(url)
    except ArgumentError as error:
        raise ConfigError("the study storage's address is not valid; check --storage") from error
    scheme, _, rest = url.partition("://")
    if "+" not in scheme:
        known = [name for name in _DRIVERS if importlib.util.find_spec(name)]
        if not known:
            raise ConfigError(
                "a study in PostgreSQL needs a driver; install one: pip install 'psycopg[binary]'"
            )
        scheme = _DRIVERS[known[0]]
    elif importlib.util.find_spec(scheme.partition("+")[2]) is None:
        raise ConfigError(f"the driver of {scheme} is not installed; leave it out of --storage")
    return f"{scheme}://{rest}"
