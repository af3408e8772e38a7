"""Static files of the web page, at addresses with a digest of their content, so that browsers can cache them."""

import gzip
import hashlib
import re
from pathlib import Path

from fastapi import FastAPI, Request, Response

PAGE = Path(__file__).parents[1] / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "no-cache"


class PageFiles:
    """Files of a folder, read once.

    Args:
        folder: Folder of the page.
        root_path: Prefix of the page's path. The browser may have asked without the final slash that relative addresses
            need.

    Attributes:
        version: Digest of all files; all files but the index lie below it.
        index: HTML of the page.
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
        self.index = _File("index.html", index, REVALIDATE)
        self._files = {name: _File(name, content, IMMUTABLE) for name, content in contents.items()}

    def find(self, version: str, name: str) -> "_File | None":
        """Returns a file of this version of the page; None for other versions, which do not fit the other files."""
        return self._files.get(name) if version == self.version else None


class _File:
    def __init__(self, name: str, content: bytes, cache_control: str) -> None:
        self._plain, self._gzipped = content, gzip.compress(content, mtime=0)
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._type, self._cache_control = TYPES[Path(name).suffix], cache_control

    def response(self, request: Request) -> Response:
        """Returns the file, compressed where the browser accepts that; 304 where the browser has it already."""
        headers = {"Cache-Control": self._cache_control, "ETag": self._etag, "Vary": "Accept-Encoding"}
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
        if self._etag in known:
            return Response(status_code=304, headers=headers)
        accepts_gzip = re.search(
            r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", request.headers.get("Accept-Encoding", "")
        )
        if accepts_gzip:
            headers["Content-Encoding"] = "gzip"
        return Response(self._gzipped if accepts_gzip else self._plain, headers=headers, media_type=self._type)


def add_page(app: FastAPI, root_path: str = "") -> None:
    """Serves the page at `/`, and its files below `/page`."""
    files = PageFiles(root_path=root_path)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return files.index.response(request)

    @app.api_route("/page/{version}/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def file(request: Request, version: str, name: str) -> Response:
        found = files.find(version, name)
        return found.response(request) if found else Response("Not found. Load the page again.", 404)
