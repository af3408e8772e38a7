"""Deletions of users and records by a server: one at a time for each user, finished by a background thread."""

import logging
import threading
from collections.abc import Callable
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Lock, to_thread

from ownlm.errors import OwnlmError, StoreError
from ownlm.home import Home
from ownlm.progress import silent
from ownlm.store.database import at_work
from ownlm.store.erasing.leftovers import erase_due
from ownlm.store.forget import Forgotten, leaving

log = logging.getLogger("ownlm.server")
AT_ONCE = 16  # threads, which mostly wait to share a search of the files; other threads answer
RETRY_S, MAX_RETRY_S = 1.0, 60.0  # time until an unfinished deletion is tried again: doubled each time
POLL_S = 0.5  # time between two checks that the home is idle, so that pieces can be withdrawn from pools


class Deletions:
    """Deletes users and records of a home.

    The deletions of one user run one after the other, so that many of them do not delay other users. What cannot be
    finished at once, as another process reads the home or trains in it, is noted in the home and finished by a thread:
    a deleted user cannot ask for it again.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._limiter = CapacityLimiter(AT_ONCE)
        self._locks: WeakValueDictionary[str, Lock] = WeakValueDictionary()  # by user, while one is held
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="deletions", daemon=True)

    def start(self) -> None:
        """Starts the thread, which finishes the deletions of a server that was killed."""
        self._wake.set()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; the next server finishes what is left."""
        self._stopped.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    async def __call__(self, user: str, delete: Callable[[], Forgotten]) -> tuple[Forgotten, bool]:
        """Runs a deletion.

        Returns:
            What was deleted, and whether the deletion is finished.

        Raises:
            OwnlmError: Nothing was deleted.
        """
        lock = self._locks.setdefault(user, Lock())
        try:
            async with lock:
                done = await to_thread.run_sync(delete, limiter=self._limiter)
        except Exception:
            self._wake.set()  # rows may be deleted while files still hold traces of them
            raise
        finished = done.unfinished is None and done.leaving is None
        if not finished:
            self._wake.set()
        return done, finished

    def _run(self) -> None:
        retry_s = RETRY_S
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while not self._stopped.is_set() and self._finish():
                    self._stopped.wait(POLL_S)
                retry_s = RETRY_S
            except Exception as error:  # such as a home that cannot be read or written now
                log.error("deletion waits: %s", error.what if isinstance(error, OwnlmError) else type(error).__name__)
                self._stopped.wait(retry_s)
                retry_s = min(2 * retry_s, MAX_RETRY_S)
                self._wake.set()

    def _finish(self) -> bool:
        """Finishes what can be finished; returns whether the rest waits for a training in the home."""
        erase_due(self._home.store)
        if not leaving(self._home.store):
            return False
        if at_work(self._home.store.folder) is not None:
            return True
        with self._home.working("ownlm serve", silent):  # it begins with the withdrawals
            left = leaving(self._home.store)
        if left:
            raise StoreError("Pieces of a deleted user could not be withdrawn from pools")
        return False
