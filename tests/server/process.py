"""`ownlm serve` as a process of its own, over TCP, as its users meet it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.shell import OWNLM

PATIENCE_S = 120


@dataclass
class Process:
    """A server that listens at `url`."""

    url: str
    popen: subprocess.Popen[str]

    def send(self, method: str, path: str, token: str, content: Any = None) -> httpx2.Response:
        """One request of somebody."""
        head = {"Authorization": f"Bearer {token}"}
        return httpx2.request(method, self.url + path, headers=head, json=content, timeout=PATIENCE_S)

    def end(self, by: signal.Signals) -> tuple[int, str]:
        """Ends it by a signal; the status, and what it wrote to stderr."""
        self.popen.send_signal(by)
        return self.popen.wait(PATIENCE_S), self.popen.stderr.read() if self.popen.stderr else ""


@contextmanager
def serve(home: Path, *options: object) -> Iterator[Process]:
    """A server of a home, killed at the end where it is still there."""
    command = [*OWNLM, "serve", "--home", str(home), "--json", "--port", "0", *map(str, options)]
    popen = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert popen.stdout is not None and popen.stderr is not None
        line = popen.stdout.readline()
        assert line, popen.stderr.read()
        yield Process(json.loads(line)["address"], popen)
    finally:
        popen.kill()
        popen.communicate()


def until(done: Callable[[], Any]) -> Any:
    """Waits for something that is true, and gives it."""
    end = time.monotonic() + PATIENCE_S
    while not (found := done()):
        assert time.monotonic() < end, "it has not come true in time"
        time.sleep(0.15)  # at most 400 requests a minute: a server allows a token 600
    return found
