"""Sends entries to the store at once, or through a spool while the store is away.

The caller never waits for a store that is known to be away: entries go to the spool, and a thread
tries again until everything has arrived, in order. Small entries can be posted, which does not wait
for the store's disk either (an SQLite commit takes some 20 ms on a cloud disk).
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from bratsml.tracking.spool import Entry, Spool

logger = logging.getLogger("bratsml.tracking")

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
REFUSALS = 3
"""An entry that a store in working order refuses this often is dropped: it would block the rest."""


class StoreAwayError(Exception):
    """The store did not take an entry but may take it later."""


class RefusedError(Exception):
    """The store will never take this entry."""


class Outbox:
    """Delivers entries in order, each until it has arrived.

    Args:
        deliver: Hands one entry, with the folder its kept files lie in, to the store; raises
            :class:`StoreAwayError` or :class:`RefusedError`. Must stand being repeated.
        spool: Where entries wait; it may hold some from an earlier process.
        is_store_there: Asked when an entry fails again and again, to tell a bad entry from a store
            that is away.
    """

    def __init__(
        self,
        deliver: Callable[[Entry, Path], None],
        spool: Spool,
        is_store_there: Callable[[], bool],
    ) -> None:
        self._deliver, self._spool, self._is_store_there = deliver, spool, is_store_there
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._posted: deque[Entry] = deque()
        self._posts = threading.Condition()
        self._poster: threading.Thread | None = None
        self._wake = threading.Event()
        self._drained = threading.Event()
        if not len(spool):
            self._drained.set()

    @property
    def num_waiting(self) -> int:
        """Entries not yet delivered."""
        return len(self._spool)

    def post(self, entry: Entry) -> None:
        """Deliver an entry soon, without waiting; one still in memory is lost with the process."""
        with self._posts:
            self._posted.append(entry)
            if self._poster is None:
                self._poster = threading.Thread(
                    target=self._send_posted, daemon=True, name="tracking-posts"
                )
                self._poster.start()
                atexit.register(self.flush)
            self._posts.notify_all()

    def flush(self) -> None:
        """Wait until every posted entry has arrived or is in the spool."""
        with self._posts:
            self._posts.wait_for(lambda: not self._posted)

    def send(self, entry: Entry, file: Path | None = None) -> bool:
        """Deliver an entry now, after those posted, or keep it (and its file) for later.

        Returns:
            Whether it has arrived already.
        """
        self.flush()
        return self._send(entry, file)

    def _send_posted(self) -> None:
        while True:
            with self._posts:
                self._posts.wait_for(lambda: bool(self._posted))
                entry = self._posted[0]
            try:
                self._send(entry, None)
            except Exception as error:
                # this thread must outlive whatever one entry does
                logger.warning("an entry for the tracking store is lost (%s)", error)
            with self._posts:
                self._posted.popleft()
                self._posts.notify_all()

    def _send(self, entry: Entry, file: Path | None) -> bool:
        with self._lock:
            if not len(self._spool):
                try:
                    self._deliver(entry if file is None else {**entry, "kept": str(file)}, Path())
                    return True
                except StoreAwayError as error:
                    logger.warning(
                        "the tracking store is away (%s); the work goes on, entries are kept in %s "
                        "and delivered when it is back",
                        error,
                        self._spool.folder.name,
                    )
                except RefusedError as error:
                    logger.warning("the tracking store refused an entry (%s); it is lost", error)
                    return True
            self._keep(entry, file)
        self._start()
        return False

    def drain(self, seconds: float) -> bool:
        """Wait until everything is delivered, at most about that long; returns whether it is."""
        self.flush()
        if len(self._spool):
            self._start()
            self._wake.set()
        return self._drained.wait(seconds)

    def drain_here(self) -> None:
        """Deliver what waits from an earlier process, in this thread.

        Raises:
            StoreAwayError: The store is away; what is left stays in the spool.
        """
        while len(self._spool):
            self._deliver_first()
        self._drained.set()

    def _keep(self, entry: Entry, file: Path | None) -> None:
        try:
            kept = {} if file is None else {"kept": self._spool.keep_file(file)}
            self._spool.append({**entry, **kept})
            self._drained.clear()
        except OSError as error:
            logger.warning(
                "an entry for the tracking store could not be kept either (%s); it is lost",
                error.strerror or error,
            )

    def _start(self) -> None:
        with self._lock:
            if len(self._spool) and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(
                    target=self._deliver_all, daemon=True, name="tracking-outbox"
                )
                self._thread.start()

    def _deliver_all(self) -> None:
        pause, refusals = FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                self._deliver_first()
                pause, refusals = FIRST_PAUSE_SECONDS, 0
            except StoreAwayError as error:
                refusals = refusals + 1 if self._is_store_there() else 0
                if refusals >= REFUSALS:
                    self._drop_first(str(error))
                    refusals = 0
                elif self._wake.wait(pause):
                    self._wake.clear()
                    time.sleep(FIRST_PAUSE_SECONDS / 4)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            with self._lock:
                if not len(self._spool):
                    self._drained.set()
                    self._thread = None
                    return

    def _deliver_first(self) -> None:
        # not under the lock: the caller can go on adding while a slow server is asked
        try:
            self._deliver(self._spool.first(), self._spool.folder)
        except RefusedError as error:
            self._drop_first(str(error))
            return
        with self._lock:
            self._spool.remove_first()

    def _drop_first(self, reason: str) -> None:
        logger.warning("the tracking store refused an entry (%s); it is lost", reason)
        with self._lock:
            self._spool.remove_first()
