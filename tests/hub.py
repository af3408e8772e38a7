"""A small server that answers as the Hugging Face hub does, for the models it is given."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "a" * 40
Files = Mapping[str, bytes]


class _Handler(BaseHTTPRequestHandler):
    """Knows some models; "some/gated" wants an agreement; nothing else exists."""

    def __init__(self, *args: object, models: Mapping[str, Files], sent: list[str]) -> None:
        self.models, self.sent = models, sent
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        for name, files in self.models.items():
            if path.startswith(f"/api/models/{name}/revision/"):
                return self.answer(json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
            if path.startswith(f"/api/models/{name}/tree/"):
                rows = [
                    {"type": "file", "path": file, "size": len(data), "oid": sha1(data).hexdigest()}
                    for file, data in files.items()
                ]
                return self.answer(json.dumps(rows).encode())
            if path.startswith(tuple(f"/{name}/resolve/{revision}/" for revision in ("main", COMMIT))):
                return self.send_file(files, path.rsplit("/", 1)[1])
        gated = "gated" in path
        return self.answer(b"{}", {"X-Error-Code": "GatedRepo" if gated else "RepoNotFound"}, 403 if gated else 404)

    do_HEAD = do_GET

    def send_file(self, files: Files, name: str) -> None:
        if name not in files:
            return self.answer(b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, 404)
        if self.command == "GET":
            self.sent.append(name)
        return self.answer(files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(files[name]).hexdigest()}"'})

    def answer(self, data: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def running_hub(models: Mapping[str, Files], sent: list[str] | None = None) -> Iterator[str]:
    """A running hub's address.

    Args:
        models: the files of each, by its id.
        sent: gets the names of the files that are downloaded.
    """
    handler = partial(_Handler, models=models, sent=[] if sent is None else sent)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
