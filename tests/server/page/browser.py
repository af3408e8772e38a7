"""Debian's Chromium, driven by the tests: installed where it is missing and may be, else the tests are skipped."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 60_000  # of a machine whose cores are all busy


def chromium() -> str:
    """Where the browser lies. Skips, with the reason, where there is none and none can be installed."""
    if found := shutil.which("chromium") or shutil.which(CHROMIUM):
        return found
    if not shutil.which("apt-get") or os.geteuid() != 0:
        pytest.skip("NOT TESTED: the page. There is no chromium, and no apt-get (or no right) to install it")
    quiet = {"capture_output": True, "text": True, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(["apt-get", *command], **quiet)  # type: ignore[call-overload]
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: the page. apt-get {command[0]} failed: {done.stderr.strip()[-300:]}")
    return shutil.which("chromium") or CHROMIUM


@dataclass
class Visit:
    """A tab at the page, and what it did that it should not."""

    page: Any
    url: str
    wrong: list[str] = field(default_factory=list)
    allowed: tuple[str, ...] = ()  # beginnings of console errors that belong to the test

    def sign_in(self, token: str, section: str = "") -> None:
        """From the door into the house."""
        self.page.goto(self.url + (f"#{section}" if section else ""))
        self.page.get_by_label("Your access key").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("button", name="Sign out").wait_for()

    @property
    def main(self) -> Any:
        """What is seen below the header; without the texts that are for ears only."""
        return self.page.locator("#main")

    def go(self, section: str) -> None:
        """To a section, by its link."""
        self.page.get_by_role("navigation").get_by_role("link", name=section).click()

    def focus(self) -> str:
        """Id, or else name, of what has the keyboard's focus."""
        told: str = self.page.evaluate(
            "(one => one.id || one.ariaLabel || one.dataset.id || one.textContent.trim().slice(0, 40) || one.tagName)"
            "(document.activeElement)"
        )
        return "BODY" if self.page.evaluate("document.activeElement === document.body") else told

    def width(self) -> tuple[int, int]:
        """How wide the page is, and the window."""
        wide: list[int] = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        return wide[0], wide[1]


def until(tab: Visit, true: Callable[[], bool]) -> None:
    """Waits for what the page shows nowhere."""
    for _ in range(PATIENCE_MS // 20):
        if true():
            return
        tab.page.wait_for_timeout(20)
    raise AssertionError("it has not come true in time")


@contextmanager
def visit(browser: Any, url: str, **options: Any) -> Iterator[Visit]:
    """A fresh tab. What it says on the console as an error, and what it asks of another origin, is written down."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    there = Visit(context.new_page(), url)
    there.page.on("console", lambda m: there.wrong.append(m.text) if m.type in ("error", "warning") else None)
    there.page.on("pageerror", lambda error: there.wrong.append(str(error)))
    there.page.on("request", lambda r: None if _ours(r.url, url) else there.wrong.append(f"asked of {r.url}"))
    try:
        yield there
    finally:
        context.close()


def _ours(asked: str, url: str) -> bool:
    return asked.startswith((url, f"blob:{url}"))


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """While it lasts, the app is served; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "the server has not started"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
