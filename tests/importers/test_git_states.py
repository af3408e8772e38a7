"""Repositories in unusual states: read where they can be, else refused with what to do."""

import shutil
from pathlib import Path

import pytest

from ownlm.errors import DataError
from ownlm.importers.git import import_git
from tests.importers.repository import Repository, refused, run

CLONE = "clone it, then name the folder of the clone"


def test_a_bare_repository_where_only_named_ones_are_allowed(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.change("One")
    _, rows = run(repository)
    repository.git("clone", "--quiet", "--bare", str(repository.folder), str(tmp_path / "bare.git"))
    settings = tmp_path / "settings"
    settings.write_text("[safe]\n\tbareRepository = explicit\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    assert run(tmp_path / "bare.git")[1] == rows
    assert run(repository)[1] == rows
    error = refused(tmp_path / "bare.git" / "refs")  # within it: found, not named
    assert (
        "bareRepository" in str(error.got) and str(error.hint) == "name the bare repository itself, not a folder in it"
    )


@pytest.mark.parametrize(
    ("bare", "command"), [(True, "git -C {} symbolic-ref HEAD refs/heads/dev"), (False, "git -C {} switch dev")]
)
def test_a_head_on_a_branch_that_is_not_there(repository: Repository, tmp_path: Path, bare: bool, command: str) -> None:
    repository.change("One")
    repository.git("branch", "old")
    repository.git("checkout", "--quiet", "-b", "dev")
    repository.change("Two")
    folder = repository.folder
    if bare:
        folder = tmp_path / "bare.git"
        repository.git("clone", "--quiet", "--bare", str(repository.folder), str(folder))
    (folder / ("HEAD" if bare else ".git/HEAD")).write_text("ref: refs/heads/gone\n")
    error = refused(folder)
    assert "HEAD" in error.what and error.got == "HEAD names refs/heads/gone, which has no commit"
    assert error.expected == "a branch with commits, such as dev, main, old"
    assert error.command == command.format(folder)


def test_a_head_where_only_the_remote_has_branches(repository: Repository, tmp_path: Path) -> None:
    repository.change("One")
    repository.git("clone", "--quiet", "--no-checkout", str(repository.folder), str(tmp_path / "clone"))
    (tmp_path / "clone" / ".git" / "HEAD").write_text("ref: refs/heads/gone\n")
    shutil.rmtree(tmp_path / "clone" / ".git" / "refs" / "heads")
    (tmp_path / "clone" / ".git" / "refs" / "heads").mkdir()
    assert refused(tmp_path / "clone").command == f"git -C {tmp_path}/clone switch main"


def test_an_empty_repository(tmp_path: Path) -> None:
    empty = Repository(tmp_path / "empty")
    error = refused(empty.folder)
    assert "has no commits" in error.what and str(error.hint).startswith("commit something")


@pytest.mark.parametrize(
    ("source", "hint", "command"),
    [
        ("https://example.org/ada/rain", CLONE, "git clone https://example.org/ada/rain FOLDER"),
        ("git@example.org:ada/rain.git", CLONE, "git clone git@example.org:ada/rain.git FOLDER"),
        ("file:///tmp/rain", CLONE, "git clone file:///tmp/rain FOLDER"),
        ("none", "check the path", None),
    ],
)
def test_what_is_no_folder(tmp_path: Path, source: str, hint: str, command: str | None) -> None:
    with pytest.raises(DataError) as caught:
        import_git(Path(source), tmp_path / "out.jsonl")
    assert (caught.value.hint, caught.value.command) == (hint, command) and not (tmp_path / "out.jsonl").exists()


def test_a_bundle_is_to_be_cloned(repository: Repository, tmp_path: Path) -> None:
    repository.change("One")
    repository.git("bundle", "create", "--quiet", str(tmp_path / "rain.bundle"), "--all")
    error = refused(tmp_path / "rain.bundle")
    assert (error.hint, error.command) == (CLONE, f"git clone {tmp_path}/rain.bundle FOLDER")


def test_a_gitfile(repository: Repository, tmp_path: Path) -> None:
    repository.change("One")
    repository.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"))
    assert "the folder that holds it" in str(refused(tmp_path / "linked" / ".git").hint)
    shutil.rmtree(repository.folder / ".git" / "worktrees")
    assert refused(tmp_path / "linked").command == "git worktree repair"


def test_a_repository_of_a_newer_git(repository: Repository) -> None:
    repository.change("One")
    repository.git("config", "core.repositoryFormatVersion", "1")
    repository.git("config", "extensions.fromTheFuture", "true")
    error = refused(repository.folder)
    assert "extension" in str(error.got) and error.hint == "update git: the repository was written by a newer one"


def test_advice_on_missing_objects(repository: Repository, tmp_path: Path) -> None:
    repository.change("One")
    repository.git("config", "uploadpack.allowFilter", "true")
    source = f"file://{repository.folder}"
    repository.git("clone", "--quiet", "--bare", "--filter=blob:none", source, str(tmp_path / "partial"))
    error = refused(tmp_path / "partial")
    assert "partial clone" in str(error.hint) and "--refetch" in str(error.command)
    for file in (repository.folder / ".git" / "objects").glob("??/*"):
        file.unlink()
    assert "fsck" in str(refused(repository.folder).command)


@pytest.mark.parametrize("options", [["--object-format=sha256"], []])
def test_a_state_that_is_read_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    repository = Repository(tmp_path / "repository", *options)
    repository.change("One")
    second = repository.change("Two")
    repository.change("Three")
    _, rows = run(repository)
    assert [row["subject"] for row in rows] == ["One", "Two", "Three"] and len(rows[0]["id"]) == len(second)
    repository.git("checkout", "--quiet", "--detach", second)
    assert run(repository)[1] == rows[:2]
    outer = Repository(tmp_path / "outer", *options)
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository.folder), "part")
    assert run(outer.folder / "part")[1] == rows[:2]
