"""A real server as a process of its own, and a small client that can have thousands of connections to it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

SERVE = [sys.executable, "-P", "-c", "from ownlm.cli.app import main; main()", "serve", "--json", "--port", "0"]


class Server:
    """`ownlm serve` of a home, as long as the context lasts."""

    def __init__(self, home: Path, *options: object) -> None:
        self.command = [*SERVE, "--home", str(home), *map(str, options)]
        self.process: subprocess.Popen[str] | None = None
        self.host, self.port = "", 0

    def __enter__(self) -> "Server":
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        address = urlsplit(json.loads(self.process.stdout.readline())["address"])
        self.host, self.port = str(address.hostname), int(address.port or 0)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self.process is not None
        self.process.terminate()
        try:
            assert self.process.wait(60) == 0, "the server did not end as it should"
        finally:
            self.process.kill()

    async def counts(self, operator: str) -> dict[str, float]:
        """What the engine counted."""
        reply = await send(self, "GET", "/metrics", operator)
        lines = (line.split() for line in reply.body.decode().splitlines() if line.startswith("ownlm_engine"))
        return {n.removeprefix("ownlm_engine_").removesuffix("_total"): float(value) for n, value in lines}


@dataclass(frozen=True)
class Reply:
    """What came back; status 0 where nothing did."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> Any:
        """The document."""
        return json.loads(self.body)

    @property
    def retry_after(self) -> float:
        """Seconds."""
        return float(self.headers.get("retry-after", 1))

    @property
    def documents(self) -> list[dict[str, Any]]:
        """One; or the events of a stream; none where nothing came."""
        if not self.body:
            return []
        if "event-stream" not in self.headers.get("content-type", ""):
            return [self.content]
        lines = self.body.decode().splitlines()
        return [json.loads(line[5:]) for line in lines if line.startswith("data:") and "[DONE]" not in line]

    @property
    def refused(self) -> bool:
        """Whether it ends with an error."""
        return not self.documents or "error" in self.documents[-1]

    @property
    def text(self) -> str:
        """The answer."""
        choices: Sequence[dict[str, Any]] = [one for document in self.documents for one in document.get("choices", [])]
        return "".join((one.get("message") or one.get("delta") or {}).get("content") or "" for one in choices)

    @property
    def adapter(self) -> str | None:
        """Which adapter the answer names."""
        return next((document["ownlm"]["adapter"] for document in self.documents if "ownlm" in document), None)


async def send(
    server: Server, method: str, path: str, token: str, content: Any = None, *, leave: bool = False
) -> Reply:
    """One request on a connection of its own.

    Args:
        leave: hang up when the answer begins, or before.
    """
    body = b"" if content is None else json.dumps(content).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        writer.write(head.encode() + body)
        await writer.drain()
        if leave:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.3)
            return Reply(0)
        return _reply(await reader.read())
    except ConnectionError:
        return Reply(0)
    finally:
        writer.close()


def _reply(raw: bytes) -> Reply:
    top, _, body = raw.partition(b"\r\n\r\n")
    if not top:
        return Reply(0)
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _joined(body)
    return Reply(int(first.split()[1]), body, headers)


def _joined(chunks: bytes) -> bytes:
    body = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        length = int(size, 16)
        body, chunks = body + chunks[:length], chunks[length + 2 :]
        if not length:
            break
    return body
