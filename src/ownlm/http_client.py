"""HTTP clients for servers that are not trusted: no compression, no redirects, and no proxy to this machine."""

import ipaddress
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2 as httpx

from ownlm.errors import ConfigError

CONNECT_S = 10.0


def sync_client(url: httpx.URL, silence_s: float) -> httpx.Client:
    """A client for one server.

    Args:
        url: an address at that server.
        silence_s: seconds without a byte after which a request ends in a TimeoutException.

    Raises:
        ConfigError: the proxy of the environment cannot be used.
    """
    return _client(httpx.Client, httpx.HTTPTransport, url, silence_s)  # type: ignore[no-any-return]


def async_client(url: httpx.URL, silence_s: float, key: str | None = None) -> httpx.AsyncClient:
    """`sync_client` for asyncio. A key is sent as a bearer token."""
    client: httpx.AsyncClient = _client(httpx.AsyncClient, httpx.AsyncHTTPTransport, url, silence_s)
    if key is not None:
        client.headers["Authorization"] = f"Bearer {key}"
    return client


def _client(kind: Any, transport: Any, url: httpx.URL, silence_s: float) -> Any:
    try:
        return kind(
            headers={"Accept-Encoding": "identity", "User-Agent": "ownlm"},
            timeout=httpx.Timeout(silence_s, connect=CONNECT_S),
            transport=transport() if is_local(url) else None,  # with a given transport, no proxy is used
            follow_redirects=False,
        )
    except (ImportError, ValueError):
        raise ConfigError(
            "The proxy that the environment names cannot be used",
            expected="an http or https URL in HTTPS_PROXY or HTTP_PROXY",
        ) from None


def is_local(url: httpx.URL) -> bool:
    """Whether a URL's host is this machine."""
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that a response's Retry-After header, a number or a date, asks to wait; None without a valid one."""
    header = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
