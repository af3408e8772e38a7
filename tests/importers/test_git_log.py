import os
import shutil
import stat
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from ownlm.errors import DataError
from ownlm.importers import git_log
from ownlm.importers.git import import_git
from ownlm.importers.git_log import commit_log, find_head
from ownlm.importers.imported import pseudonym
from tests.importers.repository import BELA, Repository, refused, run


def measured(repository: Repository):  # type: ignore[no-untyped-def]
    """The rows of an import, and the most memory that Python took for it, in bytes."""
    tracemalloc.start()
    try:
        rows = run(repository)[1]
        return rows, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_long_line_costs_little(repository: Repository) -> None:
    size = 10_000_000
    repository.put("a.txt", b"a" * size)
    repository.commit("Long")
    repository.put("a.txt", b"b" * size + b"\nafter\n")
    repository.commit("Long again " + "word " * 1_000_000)
    repository.change("Short")
    rows, peak = measured(repository)
    assert [row["files"] for row in rows] == ["a.txt +1 -0", "a.txt +2 -1", "notes.txt +1 -0"]
    assert rows[1]["diff"] == "-" + "a" * 76 + "...\n+" + "b" * 76 + "...\n+after"
    assert rows[1]["subject"].startswith("Long again word word") and len(rows[1]["subject"]) < 10_000
    assert peak < 2_000_000


def test_many_files_cost_little(repository: Repository) -> None:
    for number in range(1000):
        repository.put(f"{number % 50}/{number}.txt", f"{number} is a line {'x' * 500}\n" * 10)
    repository.put("0/0.txt", "".join(f"{number} is a line {'x' * 500}\n" for number in range(10_000)))
    repository.commit("Everything")
    rows, peak = measured(repository)
    assert rows[0]["files"].endswith("\nand 990 more") and peak < 2_000_000


def test_a_file_cannot_forge_a_commit(repository: Repository) -> None:
    header = "\0".join(["", "f" * 40, "", "Eve", "eve@example.org", "1700000000", "", "Forged"])
    forged = f"{header}\n\n1\t1\tforged\n\ndiff --git a/f b/f\n@@ -1 +1 @@\n-old\n+new\n1\t1\tx\n--- a/z\n+++ b/z\n"
    repository.put(".gitattributes", "* diff\n")
    repository.put("a.txt", forged + "x\r" + forged + "no end of line: " + header)
    repository.put("b.txt", "after\n")
    repository.commit(f"True\r{header}".replace("\0", " ").encode() + b"\n" + forged.replace("\0", " ").encode())
    repository.put("a.txt", "x\n")
    repository.change("Also true")
    imported, rows = run(repository)
    assert [row["user_id"] for row in rows] == [pseudonym("ada@example.org")] * 2 and imported.left_out == {}
    assert rows[0]["files"] == f".gitattributes +1 -0\na.txt +{2 * forged.count(chr(10)) + 1} -0\nb.txt +1 -0"
    assert rows[1]["files"].split("\n")[1] == "notes.txt +1 -0"


def test_settings_change_nothing(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.put("b/a.txt", "".join(f"line {n}\n" for n in range(9)))
    repository.put("a.bin", "text\n")
    repository.put("d.txt", "\n".join("beacadddf"))
    repository.put(".gitattributes", "*.bin diff=touch\n*.txt diff=touch\n")
    repository.commit("Begin")
    repository.put("b/a.txt", "changed\n\n" + "".join(f"line {n}\n" for n in range(8)))
    repository.put("d.txt", "\n".join("dbadaddea"))  # what changed here is a matter of the algorithm
    repository.git("add", "d.txt", "b/a.txt")
    repository.git("mv", "b/a.txt", "c.txt")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},part")
    repository.commit("More", author=BELA, all=False)
    signature = b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n"
    repository.raw(b"Ada <ada@example.org> 1700000000 +0000", b"Signed", header=signature)
    before = run(repository)
    canary, script = tmp_path / "canary", tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {canary}\n")
    script.chmod(0o755)
    (tmp_path / "order").write_text("part\n")
    for name, value in HOSTILE.items():
        repository.git("config", name, value.replace("SCRIPT", str(script)).replace("ORDER", str(tmp_path / "order")))
    repository.git("log", "-p", "--ext-diff")
    assert canary.exists()  # the settings are heard
    canary.unlink()
    other = Repository(tmp_path / "other")
    other.change("Another repository")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"):
        monkeypatch.setenv(name, str(other.folder / ".git"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(script))
    monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=5")
    monkeypatch.setenv("GIT_PAGER", str(script))
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run(repository) == before
    assert not canary.exists()


HOSTILE = {
    "alias.log": "!SCRIPT", "color.ui": "always", "color.diff": "always",
    "core.abbrev": "4", "core.fsmonitor": "SCRIPT", "core.pager": "SCRIPT",
    "core.quotePath": "true", "diff.algorithm": "patience", "diff.colorMoved": "zebra",
    "diff.context": "7", "diff.external": "SCRIPT", "diff.ignoreSubmodules": "all", "diff.interHunkContext": "9",
    "diff.mnemonicPrefix": "true", "diff.noprefix": "true", "diff.orderFile": "ORDER", "diff.relative": "true",
    "diff.renames": "false", "diff.submodule": "log", "diff.suppressBlankEmpty": "true", "diff.touch.command": "SCRIPT",
    "diff.touch.textconv": "SCRIPT", "diff.wordRegex": ".", "format.pretty": "oneline", "gpg.program": "SCRIPT",
    "i18n.logOutputEncoding": "UTF-16", "log.abbrevCommit": "true", "log.date": "human", "log.decorate": "full",
    "log.diffMerges": "combined", "log.follow": "true", "log.mailmap": "false", "log.showRoot": "false",
    "log.showSignature": "true", "pager.log": "SCRIPT",
}  # fmt: skip


def test_bare_linked_and_from_within(repository: Repository, tmp_path: Path) -> None:
    repository.put("deep/down/a.txt", "a\n")
    repository.commit("Deep")
    repository.change("Shallow")
    _, rows = run(repository)
    assert len(rows) == 2
    repository.git("clone", "--quiet", "--bare", str(repository.folder), str(tmp_path / "bare.git"))
    repository.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"))
    repository.git("config", "diff.relative", "true")
    for folder in ("bare.git", "linked", "linked/deep", "repository/deep/down", "repository/.git"):
        assert run(tmp_path / folder)[1] == rows, folder


def test_a_shallow_clone_ends_somewhere(repository: Repository, tmp_path: Path) -> None:
    for number in range(4):
        repository.change(f"Number {number}")
    _, rows = run(repository)
    source = f"file://{repository.folder}"
    repository.git("clone", "--quiet", "--depth=3", source, str(tmp_path / "three"))
    repository.git("clone", "--quiet", "--depth=1", source, str(tmp_path / "one"))
    imported, kept = run(tmp_path / "three")
    assert kept == rows[2:] and imported.left_out == {"where the shallow clone ends": 1}
    one = tmp_path / "one"
    error = refused(one)
    assert "1 where the shallow clone ends" in str(error) and error.command == f"git -C {one} fetch --unshallow"


def test_nothing_is_fetched(repository: Repository, tmp_path: Path) -> None:
    repository.change("One")
    repository.change("Two")
    repository.git("config", "uploadpack.allowFilter", "true")
    source = f"file://{repository.folder}"
    repository.git("clone", "--quiet", "--bare", "--filter=blob:none", source, str(tmp_path / "partial"))
    assert "partial clone" in str(refused(tmp_path / "partial"))
    fetched = subprocess.run(["git", "-C", str(tmp_path / "partial"), "log", "-p"], capture_output=True)
    assert b"+line" in fetched.stdout  # it could have been


def test_what_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    assert "There is no folder" in str(refused(tmp_path / "none"))
    assert "is a file" in str(refused(tmp_path / "file"))
    error = refused(tmp_path / "folder")
    assert "not a git repository" in str(error.got) and error.hint and "folder of a repository" in error.hint
    empty = Repository(tmp_path / "empty")
    assert "has no commits" in str(refused(empty.folder))


def test_nothing_is_left(repository: Repository) -> None:
    repository.commit("Empty")
    repository.change("SECRET", author="x[bot] <x@example.org>")
    error = refused(repository.folder)
    assert error.got == "left out: 1 without changed files, 1 bots" and error.hint is None


def test_git_is_not_there(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.change("One")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git cannot be run" in str(refused(repository.folder))


def test_a_repository_of_somebody_else(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.change("One")
    script = tmp_path / "bin" / "git"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {shutil.which("git")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    error = refused(repository.folder)
    assert "dubious ownership" in str(error.got)
    assert error.command == f"git config --global --add safe.directory {repository.folder}"


def test_a_damaged_repository(repository: Repository) -> None:
    for number in range(5):
        repository.put("SECRET.txt", f"SECRET {number}\n")
        repository.commit(f"SECRET {number}")
    for name in ("HEAD~2:SECRET.txt", "HEAD~1^{tree}", "HEAD~3"):
        hash = repository.git("rev-parse", name)
        file = repository.folder / ".git" / "objects" / hash[:2] / hash[2:]
        content = file.read_bytes()
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
        for damaged in (b"", content[: len(content) // 2], None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            error = refused(repository.folder)
            assert "fsck" in str(error.command) and "SECRET" not in str(error)
            assert str(error.got).startswith(("fatal: ", "error: "))
        file.write_bytes(content)
    assert len(run(repository)[1]) == 5
    (repository.folder / ".git" / "HEAD").write_text("f" * 40)
    assert "fsck" in str(refused(repository.folder).command)


def test_git_ends_whatever_happens(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.put("a.txt", "line\n" * 500_000)
    repository.commit("More than a pipe holds")
    started: list[subprocess.Popen[bytes]] = []

    def spied(*args: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(*args, **more))
        return started[-1]

    monkeypatch.setattr(git_log, "Popen", spied)
    head = find_head(repository.folder)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), commit_log(repository.folder, head):
            assert started[-1].poll() is None
            raise error
        assert started[-1].returncode == -9
    with pytest.raises(DataError, match="cannot be written"):
        import_git(repository.folder, tmp_path / "none" / "out.jsonl")
    assert [process.returncode for process in started] == [0, 0, 0, -9, -9, 0, 0, 0, 0, -9]
    assert all(process.stdout and process.stdout.closed for process in started)


def test_progress(repository: Repository) -> None:
    told: list[tuple[str, float, float]] = []
    for number in range(3):
        repository.commit(f"Empty {number}")
    repository.change("One")
    run(repository, progress=lambda stage, done, total, note="": told.append((stage, done, total)))
    assert told == [("commits", 4, 4)]
