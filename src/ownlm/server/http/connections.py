"""TCP connections of a server: how many there may be, and how long a client may take for what it owes.

A client owes the headers of a request, and to read what it was answered. One that does not is disconnected, and so are
the oldest connections without a request where others need their place: clients without a token take up little.
"""

import ipaddress
import logging
import re
import resource
import time
from collections import Counter
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.logging import DefaultFormatter
from uvicorn.protocols.http.h11_impl import H11Protocol

from ownlm.server.limits import Limits

log = logging.getLogger("ownlm.server")

HEAD_BYTES, HEAD_LINES = 32_768, 128  # of a request
RECEIVE_BYTES = 65_536  # read from a connection at a time
BACKLOG = 128  # connections that may wait to be accepted; so many are accepted at a time
RESERVED = 256  # file descriptors for the database, models and processes
PROGRESS_BYTES = 16_384  # of an answer: a client that reads fewer in `stall_s` has stalled
LINGER_S = 2.0  # for a client to read a refusal while it still sends its body
LINGER_BYTES = 8_000_000
LOOK_S = 1.0
LOOPBACK = "loopback"
CALLER = "ownlm.caller"  # in the state of a request whose token is valid
_HEAD_ENDS = re.compile(rb"\n\r?\n")
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def server_config(app: ASGIApp, limits: Limits, log_level: str = "warning") -> uvicorn.Config:
    """uvicorn's configuration for an app: limits on connections, and a log of bounded size on stderr.

    Other loggers of the process stay as they are: `logging.config`, which uvicorn would use, closes their handlers.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        http=partial(Connection, Table(limits)),  # type: ignore[arg-type]
        ws="none",
        log_level=log_level,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=max(1, round(limits.keep_alive_s)),
        timeout_graceful_shutdown=int(limits.grace_s) + 1,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(DefaultFormatter("%(levelprefix)s %(message)s"))
    logger = logging.getLogger("uvicorn")
    logger.handlers, logger.propagate = [handler], False
    bound = Bounded()
    for one in (logging.lastResort, handler):
        if one is not None and not any(isinstance(known, Bounded) for known in one.filters):
            one.addFilter(bound)
    return config


class Table:
    """The open connections of one server.

    Each may need two file descriptors, its own and that of a file it is sent; the process's limit is raised as far as
    that is allowed, and bounds the number of connections.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._most = min(limits.connections, (_descriptors() - RESERVED - BACKLOG) // 2)
        self._open: dict[Connection, str] = {}  # with their addresses, oldest first
        self._of_address: Counter[str] = Counter()

    def admit(self, connection: "Connection", address: str) -> bool:
        """Whether a new connection may stay; the oldest one that serves no token makes room for it."""
        if self._of_address[address] >= self.limits.connections_per_address and address != LOOPBACK:
            log.warning("connections are refused: one address has %d", self.limits.connections_per_address)
            return False
        if len(self._open) >= self._most:
            oldest = next((one for one in self._open if not one.serves_token), None)
            if oldest is None:
                log.warning("connections are refused: %d are open, all with requests of tokens", self._most)
                return False
            log.warning("connections without a token are closed for new ones: %d are open", self._most)
            self.leave(oldest)
            oldest.abort()
        self._open[connection] = address
        self._of_address[address] += 1
        return True

    def leave(self, connection: "Connection") -> None:
        """A connection has ended."""
        if (address := self._open.pop(connection, None)) is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]


def _descriptors() -> int:
    """How many files the process may open, after the soft limit was raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if most > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft


def network_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or a network of IPv6 that one client may own.

    A reverse proxy on the same machine sends everybody's requests from the loopback address.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return LOOPBACK if address.is_loopback else str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return LOOPBACK if address.is_loopback else str(address)


class Connection(H11Protocol):
    """uvicorn's protocol, with deadlines for headers and for reading answers.

    Args:
        table: of all connections.
        rest: see `H11Protocol`.
    """

    def __init__(self, table: Table, **rest: Any) -> None:
        super().__init__(**rest)
        self._table, self._limits = table, table.limits
        self._admitted = False
        self._head_since: float | None = None  # when the headers that are incomplete began
        self._lingers_since: float | None = None
        self._discarded = 0
        self._read, self._read_at = 0, self.loop.time()  # what the client had read when it last made progress
        self._out: _Out | None = None
        self._look: Any = None

    def connection_made(self, transport: Any) -> None:
        """Accepts a connection, or closes it at once."""
        peer = transport.get_extra_info("peername")
        address = network_of(peer[0]) if isinstance(peer, tuple) else LOOPBACK
        if not self._table.admit(self, address):
            transport.abort()
            return
        transport.max_size = RECEIVE_BYTES
        super().connection_made(transport)
        self.transport = self._out = _Out(transport, self)  # type: ignore[assignment]
        self._admitted, self._head_since = True, self.loop.time()
        self._look = self.loop.call_later(LOOK_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all that waits for the connection."""
        if self._admitted:
            self._look.cancel()
            self._table.leave(self)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads requests; of a connection that lingers, nothing."""
        if self._lingers_since is not None:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.abort()
        elif self._admitted:
            if self._head_since is None and self.conn.their_state is h11.IDLE:
                self._head_since = self.loop.time()
            super().data_received(data)

    def handle_events(self) -> None:
        """Acts upon what was read."""
        if self.conn.their_state is h11.IDLE and _is_too_large(self.conn.trailing_data[0]):
            self.transport.write(_TOO_LARGE)
            self.linger()
            return
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: a request to upgrade is answered as any other."""

    def on_response_complete(self) -> None:
        """Goes on with the next request; not where the body of the last one is still being sent."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self.linger()

    @property
    def serves_token(self) -> bool:
        """Whether a request with a valid token is under way."""
        return self.cycle is not None and not self.cycle.response_complete and CALLER in self.scope["state"]

    @property
    def lingers(self) -> bool:
        """Whether it is closed as soon as the client has read its answer."""
        return self._lingers_since is not None

    def linger(self) -> None:
        """Ends the answers, and ignores what is still sent, for a short time.

        A connection that is closed while its client sends is reset, and the client may never read the answer.
        """
        if not self.lingers and self._out is not None:
            self._lingers_since = self.loop.time()
            self.flow.resume_reading()
            self._out.end()

    def abort(self) -> None:
        """Disconnects the client."""
        if self._out is not None:
            self._out.raw.abort()

    def _check(self) -> None:
        """Disconnects a client that is late."""
        now, out = self.loop.time(), self._out
        assert out is not None
        waiting = out.raw.get_write_buffer_size()
        read = out.written - waiting
        if not waiting or read >= self._read + PROGRESS_BYTES:
            self._read, self._read_at = read, now
        late = (
            now > self._read_at + self._limits.stall_s
            or (self._head_since is not None and now > self._head_since + self._limits.head_s)
            or (self._lingers_since is not None and now > self._lingers_since + LINGER_S)
        )
        if late:
            self.abort()
        else:
            self._look = self.loop.call_later(LOOK_S, self._check)


class _Out:
    """A connection's transport: it counts what is written, and lingers where it is closed while a client sends."""

    def __init__(self, raw: Any, connection: Connection) -> None:
        self.raw, self.written, self._connection = raw, 0, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        if not self._connection.lingers:
            self.written += len(data)
            self.raw.write(data)

    def is_closing(self) -> bool:
        """Whether nothing more is sent."""
        return self._connection.lingers or bool(self.raw.is_closing())

    def close(self) -> None:
        """Closes it when all was sent."""
        if self._connection.conn.their_state in (h11.SEND_BODY, h11.ERROR) and not self.raw.is_closing():
            self._connection.linger()
        elif not self._connection.lingers:
            self.raw.close()

    def end(self) -> None:
        """Tells the client that nothing follows."""
        if self.raw.can_write_eof() and not self.raw.is_closing():
            try:
                self.raw.write_eof()
            except OSError:  # the client has gone
                self.raw.abort()


def _is_too_large(data: bytes) -> bool:
    """Whether the headers that data begins with are too long, or too many."""
    end = _HEAD_ENDS.search(data)
    head = data[: end.start()] if end else data
    return len(head) > HEAD_BYTES or head.count(b"\n") > HEAD_LINES


class Bounded(logging.Filter):
    """Lets few lines of each kind pass in a minute; the next one says how many were left out."""

    MOST, WITHIN_S = 5, 60.0

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # by place: since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        since, count = self._seen.get(place, (now, 0))
        if now > since + self.WITHIN_S:
            if count > self.MOST:
                record.msg, record.args = f"{record.getMessage()} ({count - self.MOST:,} more like it before)", None
            since, count = now, 0
        self._seen[place] = since, count + 1
        return count < self.MOST
