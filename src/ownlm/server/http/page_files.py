"""The files of the page, under addresses that name their content: browsers keep them and ask only for what changed."""

import gzip
import hashlib
import re
from pathlib import Path

from fastapi import FastAPI, Request, Response

PAGE = Path(__file__).parents[1] / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FOR_GOOD = "public, max-age=31536000, immutable"
CHECK_EACH_TIME = "no-cache"


class PageFiles:
    """A folder of files, read once.

    Args:
        root_path: prefix of the page's path; the browser may have asked without the slash at the end that relative
            addresses need.

    Attributes:
        version: digest of all files; every file but the first lies under it.
        index: the page's HTML.
    """

    def __init__(self, folder: Path = PAGE, root_path: str = "") -> None:
        contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in TYPES}
        hasher = hashlib.sha256()
        for name, content in contents.items():
            hasher.update(f"{name}\0{len(content)}\0".encode() + content)
        self.version = hasher.hexdigest()[:16]
        index = re.sub(rb'(href|src)="page/', rf'\1="page/{self.version}/'.encode(), contents.pop("index.html"))
        if root_path:
            index = index.replace(b"<head>", f'<head>\n  <base href="{root_path}/">'.encode(), 1)
        self.index = _Sent("index.html", index, CHECK_EACH_TIME)
        self._files = {name: _Sent(name, content, FOR_GOOD) for name, content in contents.items()}

    def find(self, version: str, name: str) -> "_Sent | None":
        """A file of this version of the page; none of another version, which would not fit the others."""
        return self._files.get(name) if version == self.version else None


class _Sent:
    """A file as it is sent: plain, or compressed where the browser takes that."""

    def __init__(self, name: str, content: bytes, keep: str) -> None:
        self._plain, self._packed = content, gzip.compress(content, mtime=0)
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._type, self._keep = TYPES[Path(name).suffix], keep

    def answer(self, request: Request) -> Response:
        """The response to a request for it; 304 where the browser has it already."""
        headers = {"Cache-Control": self._keep, "ETag": self._etag, "Vary": "Accept-Encoding"}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
        if self._etag in known:
            return Response(status_code=304, headers=headers)
        packed = re.search(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", request.headers.get("Accept-Encoding", ""))
        if packed:
            headers["Content-Encoding"] = "gzip"
        return Response(self._packed if packed else self._plain, headers=headers, media_type=self._type)


def add_page(app: FastAPI, root_path: str = "") -> None:
    """Serves the page at `/`, and its files beside it."""
    files = PageFiles(root_path=root_path)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return files.index.answer(request)

    @app.api_route("/page/{version}/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request, version: str, name: str) -> Response:
        found = files.find(version, name)
        return found.answer(request) if found else Response("Not found. Load the page again.", 404)
