"""Forgetting, for a server: beside its answers, and finished even where the person can no longer ask for it."""

import logging
import threading
from collections.abc import Callable

from anyio import CapacityLimiter, to_thread

from ownlm.errors import OwnlmError
from ownlm.home import Home
from ownlm.store.forget import Forgotten, Unfinished, finish_all

log = logging.getLogger("ownlm.serve")
AT_ONCE = 4  # each may wait for who trains; the threads that answer must not wait with them
RETRY_S = 5.0


class Forgetting:
    """Forgets people and records of a home.

    A person's token goes with their rows: from then on nobody can ask again, so that what could not be finished, or was
    stopped by a kill, is finished by a thread of the server.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._limiter = CapacityLimiter(AT_ONCE)
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

    async def __call__(self, forget: Callable[[], Forgotten]) -> tuple[Forgotten, bool]:
        """What was forgotten, and whether it is finished: else that is done later.

        Raises:
            OwnlmError: nothing was forgotten.
        """
        try:
            return await to_thread.run_sync(forget, limiter=self._limiter), True
        except Unfinished as unfinished:
            self._wake.set()
            return unfinished.done, False

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                if not self._over.is_set():
                    finish_all(self._home.store)
            except Exception as error:  # the home cannot be read or written just now, say
                log.error("forgetting waits: %s", error.what if isinstance(error, OwnlmError) else type(error).__name__)
                self._over.wait(RETRY_S)
                self._wake.set()
