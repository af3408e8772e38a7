"""Deletions, for a server: beside its answers, each user's in turn, and finished even where the user is gone."""

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
AT_ONCE = 16  # threads, which mostly wait to share a pass over the files; threads that answer are others
RETRY_S, LONGEST_S = 1.0, 60.0  # until what could not be finished is tried again: longer each time
LOOK_S = 0.5  # how often it looks whether the home is idle, so that pieces can be withdrawn from pools


class Forgetting:
    """Deletes users and records of a home.

    A user's deletions come one after the other, so that whoever sends many keeps nobody else waiting. What cannot be
    finished at once, as another process reads the home or trains in it, is written down in the home and finished by a
    thread: a user who is deleted can no longer ask for it.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._limiter = CapacityLimiter(AT_ONCE)
        self._turns: WeakValueDictionary[str, Lock] = WeakValueDictionary()  # by user, of those who wait
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="forgetting", daemon=True)

    def start(self) -> None:
        """Begins with what a server that was killed has left."""
        self._wake.set()
        self._thread.start()

    def stop(self) -> None:
        """Ends; what is not finished is finished by the next server."""
        self._over.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    async def __call__(self, user: str, forget: Callable[[], Forgotten]) -> tuple[Forgotten, bool]:
        """What was deleted, and whether it is finished: else that is done later.

        Raises:
            OwnlmError: nothing was deleted.
        """
        turn = self._turns.setdefault(user, Lock())
        try:
            async with turn:
                done = await to_thread.run_sync(forget, limiter=self._limiter)
        except Exception:
            self._wake.set()  # rows may be deleted whose traces in files are not
            raise
        finished = done.unfinished is None and done.leaving is None
        if not finished:
            self._wake.set()
        return done, finished

    def _run(self) -> None:
        wait_s = RETRY_S
        while not self._over.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                while not self._over.is_set() and self._finish():
                    self._over.wait(LOOK_S)
                wait_s = RETRY_S
            except Exception as error:  # the home cannot be read or written just now, say
                log.error("deletion waits: %s", error.what if isinstance(error, OwnlmError) else type(error).__name__)
                self._over.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_S)
                self._wake.set()

    def _finish(self) -> bool:
        """Finishes what can be finished; whether something waits for what trains in the home."""
        erase_due(self._home.store)
        if not leaving(self._home.store):
            return False
        if at_work(self._home.store.folder) is None:
            with self._home.working("ownlm serve", silent):  # which begins with it
                left = leaving(self._home.store)
            if left:
                raise StoreError("Pieces of a user who was deleted could not be withdrawn from pools")
            return False
        return True
