"""TCP connections of a server: their number, and deadlines for clients.

A client must send the headers of a request, and read its response, in time; else it is disconnected. Where too many
connections are open, the oldest one without an authenticated request is closed for a new one.
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

HEAD_BYTES, HEAD_LINES = 32_768, 128  # limits on the headers of a request
RECEIVE_BYTES = 65_536  # bytes read from a connection at a time
BACKLOG = 128  # connections that may wait to be accepted, and that are accepted at a time
RESERVED = 256  # file descriptors for the database, models and processes
PROGRESS_BYTES = 16_384  # a client that reads fewer bytes of its response in `stall_s` has stalled
LINGER_S = 2.0  # time for a client to read an error response while it still sends its body
LINGER_BYTES = 8_000_000
CHECK_S = 1.0  # time between two checks of a connection's deadlines
LOOPBACK = "loopback"
CALLER = "ownlm.caller"  # key in the state of a request with a valid token
_HEAD_ENDS = re.compile(rb"\n\r?\n")
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def server_config(app: ASGIApp, limits: Limits, log_level: str = "warning") -> uvicorn.Config:
    """Returns uvicorn's configuration for an app: limits on connections, and a rate-limited log on stderr.

    Other loggers of the process are not changed: `logging.config`, which uvicorn would use, closes their handlers.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        http=partial(Connection, ConnectionTable(limits)),  # type: ignore[arg-type]
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
    rate_limit = RateLimitFilter()
    for one in (logging.lastResort, handler):
        if one is not None and not any(isinstance(known, RateLimitFilter) for known in one.filters):
            one.addFilter(rate_limit)
    return config


class ConnectionTable:
    """Open connections of one server.

    Each connection may need two file descriptors: its own, and one for a file that is sent. The process's limit is
    raised as far as possible, and bounds the number of connections.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._limit = min(limits.connections, (_descriptors() - RESERVED - BACKLOG) // 2)
        self._open: dict[Connection, str] = {}  # with addresses, oldest first
        self._count_by_address: Counter[str] = Counter()

    def admit(self, connection: "Connection", address: str) -> bool:
        """Returns whether a new connection may stay; may close the oldest connection without a token for it."""
        if self._count_by_address[address] >= self.limits.connections_per_address and address != LOOPBACK:
            log.warning("connections are refused: one address has %d", self.limits.connections_per_address)
            return False
        if len(self._open) >= self._limit:
            oldest = next((one for one in self._open if not one.serves_token), None)
            if oldest is None:
                log.warning("connections are refused: %d are open, all with requests of tokens", self._limit)
                return False
            log.warning("connections without a token are closed for new ones: %d are open", self._limit)
            self.leave(oldest)
            oldest.abort()
        self._open[connection] = address
        self._count_by_address[address] += 1
        return True

    def leave(self, connection: "Connection") -> None:
        """Removes a connection that has ended."""
        if (address := self._open.pop(connection, None)) is not None:
            self._count_by_address[address] -= 1
            if not self._count_by_address[address]:
                del self._count_by_address[address]


def _descriptors() -> int:
    """Raises the soft limit on open files to the hard one, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if most > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
    return soft


def network_of(host: str) -> str:
    """Returns what counts as one address: an IPv4 address, or the IPv6 network of one client.

    A reverse proxy on the same machine sends the requests of all clients from the loopback address.
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
    """uvicorn's HTTP protocol, with deadlines for headers and for reading responses.

    Args:
        table: All connections of the server.
        rest: Arguments of `H11Protocol`.
    """

    def __init__(self, table: ConnectionTable, **rest: Any) -> None:
        super().__init__(**rest)
        self._table, self._limits = table, table.limits
        self._admitted = False
        self._head_since: float | None = None  # start of incomplete headers
        self._lingers_since: float | None = None
        self._discarded = 0
        self._read, self._read_at = 0, self.loop.time()  # bytes read by the client at its last progress
        self._out: _Transport | None = None
        self._timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """Accepts a connection, or closes it."""
        peer = transport.get_extra_info("peername")
        address = network_of(peer[0]) if isinstance(peer, tuple) else LOOPBACK
        if not self._table.admit(self, address):
            transport.abort()
            return
        transport.max_size = RECEIVE_BYTES
        super().connection_made(transport)
        self.transport = self._out = _Transport(transport, self)  # type: ignore[assignment]
        self._admitted, self._head_since = True, self.loop.time()
        self._timer = self.loop.call_later(CHECK_S, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the checks and leaves the table."""
        if self._admitted:
            self._timer.cancel()
            self._table.leave(self)
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses requests; ignores data while the connection lingers."""
        if self._lingers_since is not None:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.abort()
        elif self._admitted:
            if self._head_since is None and self.conn.their_state is h11.IDLE:
                self._head_since = self.loop.time()
            super().data_received(data)

    def handle_events(self) -> None:
        """Handles parsed requests; answers 431 to headers that are too large."""
        if self.conn.their_state is h11.IDLE and _is_too_large(self.conn.trailing_data[0]):
            self.transport.write(_TOO_LARGE)
            self.linger()
            return
        super().handle_events()
        if self.conn.their_state is not h11.IDLE:
            self._head_since = None

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: a request to upgrade is answered like any other."""

    def on_response_complete(self) -> None:
        """Continues with the next request; lingers where the client still sends the body of this one."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self.linger()

    @property
    def serves_token(self) -> bool:
        """Whether a request with a valid token is being answered."""
        return self.cycle is not None and not self.cycle.response_complete and CALLER in self.scope["state"]

    @property
    def lingers(self) -> bool:
        """Whether the connection closes as soon as the client has read its response."""
        return self._lingers_since is not None

    def linger(self) -> None:
        """Ends the response, and ignores what the client still sends for a short time.

        A connection that is closed while its client sends is reset, and the client may never read the response.
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
        """Disconnects a client that missed a deadline."""
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
            self._timer = self.loop.call_later(CHECK_S, self._check)


class _Transport:
    """Transport that counts written bytes, and lingers where it is closed while the client still sends."""

    def __init__(self, raw: Any, connection: Connection) -> None:
        self.raw, self.written, self._connection = raw, 0, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def write(self, data: bytes) -> None:
        """Sends bytes, unless the connection lingers."""
        if not self._connection.lingers:
            self.written += len(data)
            self.raw.write(data)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._connection.lingers or bool(self.raw.is_closing())

    def close(self) -> None:
        """Closes the connection when everything was sent."""
        if self._connection.conn.their_state in (h11.SEND_BODY, h11.ERROR) and not self.raw.is_closing():
            self._connection.linger()
        elif not self._connection.lingers:
            self.raw.close()

    def end(self) -> None:
        """Sends the end of the stream."""
        if self.raw.can_write_eof() and not self.raw.is_closing():
            try:
                self.raw.write_eof()
            except OSError:  # the client has gone
                self.raw.abort()


def _is_too_large(data: bytes) -> bool:
    """Returns whether the headers at the beginning of data are too long, or too many."""
    end = _HEAD_ENDS.search(data)
    head = data[: end.start()] if end else data
    return len(head) > HEAD_BYTES or head.count(b"\n") > HEAD_LINES


class RateLimitFilter(logging.Filter):
    """Passes a few log lines of each place in a minute; the next line says how many were left out."""

    LINES, WINDOW_S = 5, 60.0

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}  # start of window, lines; by place

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether a line is written."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        since, count = self._seen.get(place, (now, 0))
        if now > since + self.WINDOW_S:
            if count > self.LINES:
                record.msg, record.args = f"{record.getMessage()} ({count - self.LINES:,} more like it before)", None
            since, count = now, 0
        self._seen[place] = since, count + 1
        return count < self.LINES
