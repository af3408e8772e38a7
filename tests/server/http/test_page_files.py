"""The page's files: kept by browsers for good, checked by their content, sent compressed."""

import gzip
import re
import shutil
from pathlib import Path

import pytest

from ownlm.server.http.page_files import PAGE, PageFiles
from tests.server.conftest import Served

ADDRESS = re.compile(r'(?:href|src)="(page/[^"]+)"')


def test_every_file_is_kept_for_good_under_an_address_of_its_content(served: Served) -> None:
    get = served.client.get
    index = get("/")
    assert index.headers["cache-control"] == "no-cache"
    addresses = set(ADDRESS.findall(index.text))
    assert {address.rpartition("/")[2] for address in addresses} >= {"page.js", "page.css", "icon.svg"}
    for address in addresses:
        response = get(f"/{address}")
        assert response.status_code == 200
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert response.content == (PAGE / address.rpartition("/")[2]).read_bytes()
        assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert get(f"/{address}", headers={"If-None-Match": response.headers["etag"]}).status_code == 304
    assert get("/page/0123456789abcdef/page.js").status_code == 404  # of another version: it would not fit
    assert get(f"/page/{PageFiles().version}/..%2F..%2Fapp.py").status_code == 404


def test_the_page_itself_is_asked_for_again_and_sent_again_only_where_it_changed(served: Served) -> None:
    response = served.client.get("/")
    again = served.client.get("/", headers={"If-None-Match": f'"other", W/{response.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", response.headers["etag"])
    head = served.client.head("/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("accepts", "packed"), [("gzip, br", True), ("gzip;q=0", False), ("identity", False), ("br, gzip;q=0.5", True)]
)
def test_texts_are_compressed_where_the_browser_takes_that(served: Served, accepts: str, packed: bool) -> None:
    plain = served.client.get("/", headers={"Accept-Encoding": "identity"})
    with served.client.stream("GET", "/", headers={"Accept-Encoding": accepts}) as response:
        content = b"".join(response.iter_raw())
    assert response.headers.get("content-encoding") == ("gzip" if packed else None)
    assert (gzip.decompress(content) if packed else content) == plain.content
    assert response.headers["vary"] == "Accept-Encoding"


def test_all_scripts_are_asked_for_at_once() -> None:
    html = (PAGE / "index.html").read_text("utf8")
    loaded, todo = set[str](), ["page.js"]
    while todo:
        name = todo.pop()
        if name not in loaded:
            loaded.add(name)
            todo += re.findall(r'from "\./([\w.]+)"', (PAGE / name).read_text("utf8"))
    preloaded = set(re.findall(r'<link rel="modulepreload" href="page/([\w.]+)">', html))
    assert preloaded | {"page.js"} == loaded == {path.name for path in PAGE.glob("*.js")}


def test_a_changed_file_changes_every_address(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(PAGE, tmp_path / "page"))
    before = PageFiles(copy)
    assert before.version == PageFiles(PAGE).version and before.find(before.version, "page.css")
    (copy / "page.css").write_text("/* another */", "utf8")
    after = PageFiles(copy)
    assert after.version != before.version and after.find(before.version, "page.js") is None
