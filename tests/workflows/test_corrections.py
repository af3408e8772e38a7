"""Records that are changed, and versions of adapters that are used again."""

import json
import shutil
from pathlib import Path

import pytest

from ownlm.errors import AdapterError, DataError, NotFoundError
from ownlm.home import Home
from ownlm.workflows.selection import CHOSEN
from tests.community import rows, small_home, write_rows
from tests.shell import QuickShell

FAST = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2}
WRONG = [
    ({"folder": "hom"}, "not a label of the task; did you mean 'home'"),
    ({"folder": None}, "the field 'folder' is missing"),
    ({"fodler": "home"}, "no field 'fodler'; did you mean 'folder'"),
    ({"id": "other"}, "a record keeps its 'id'"),
    ({"user_id": "bela"}, "a record keeps its 'user_id'"),
    ({"time": "yesterday"}, "the field 'time'"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    folder = tmp_path_factory.mktemp("made")
    home = small_home(folder, tiny_base, rows("ada", 5), rows("bela", 3))
    home.train("sorting", **FAST)
    home.add_history(write_rows(folder / "b.jsonl", rows("ada", 2, 5)), "sorting")
    home.train("sorting", **FAST)
    home.store.database.close()
    return home.store.folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    """Ada has an adapter, and a version after it that knows two records more."""
    return Home(shutil.copytree(made, tmp_path / "home"))


@pytest.mark.parametrize(("changes", "what"), WRONG)
def test_a_change_that_makes_no_record_of_the_task(changes: dict[str, str | None], what: str, home: Home) -> None:
    before = home.history("ada", "sorting")
    with pytest.raises(DataError, match="cannot be changed so") as caught:
        home.edit_record("ada", "ada-1", changes)
    assert what in caught.value.what, caught.value
    assert home.history("ada", "sorting") == before and not any(one.forgotten for one in home.adapters())


def test_an_edited_record_replaces_the_old_one_everywhere(home: Home, tmp_path: Path) -> None:
    before = home.history("ada", "sorting").records
    edited = home.edit_record("ada", "ada-1", {"text": "something else entirely", "folder": "bin"}, verify=True)
    assert edited.changed == ("text", "folder") and (edited.removed.marked, edited.removed.unfinished) == (2, None)
    after = home.history("ada", "sorting").records
    assert [one.id for one in after] == [one.id for one in before] and after[1].time == before[1].time
    assert after[1].fields == {"text": "something else entirely", "folder": "bin"}
    home.store.database.close()
    assert not any(b"ada secret1 said" in path.read_bytes() for path in home.store.folder.rglob("*") if path.is_file())
    assert home.edit_record("ada", "ada-1", {"folder": "bin"}).changed == ()
    (trained,) = home.train("sorting", **FAST).trained
    assert (trained.user, trained.parent, trained.steps) == ("ada", None, 2)
    assert [one.forgotten for one in home.adapters("ada")] == [0]  # those that learnt from the old text are gone
    assert home.edit_record("ada", "ada-1", {"time": None}).changed == ("time",)
    with pytest.raises(NotFoundError, match="no record 'ada-9'"):
        home.edit_record("ada", "ada-9", {"folder": "bin"})


def test_a_changed_record_that_is_added_again(home: Home, tmp_path: Path) -> None:
    changed = write_rows(tmp_path / "c.jsonl", [rows("ada", 1)[0] | {"folder": "work"}])
    with pytest.raises(DataError) as caught:
        home.add_history(changed, "sorting")
    assert "Record 'ada-0' of user 'ada' is in the home with another text or time" in caught.value.what
    assert caught.value.command == "ownlm history edit --task sorting --set FIELD=VALUE ada ada-0"


def test_answers_and_exports_of_an_adapter_that_learnt_from_what_is_gone(home: Home, tmp_path: Path) -> None:
    assert home.ask("ada", "thing", "sorting").warning is None
    home.forget_record("ada", "ada-1")
    answer = home.ask("ada", "thing", "sorting")
    assert answer.adapter == home.adapters("ada")[-1].id
    assert answer.warning == (
        "The adapter of user 'ada' has learnt from a record that was forgotten or changed since: "
        "`ownlm train --task sorting --user ada` makes one without"
    )
    assert home.ask("bela", "thing", "sorting").warning is None
    exported = home.export("ada", tmp_path / "out")
    assert exported.warning == "has learnt from a record that was forgotten or changed since"
    assert json.loads((tmp_path / "out" / "ownlm.json").read_text())["forgotten"] == 1
    home.edit_record("ada", "ada-2", {"folder": "home"})
    assert "2 records that were forgotten or changed" in str(home.ask("ada", "thing", "sorting").warning)


def test_an_earlier_version_is_used_until_records_come(home: Home, tmp_path: Path) -> None:
    first, second = home.adapters("ada")
    assert home.use_version("ada", first.id[:8]).id == first.id
    assert [one.id for one in home.adapters("ada")] == [second.id, first.id]
    assert home.ask("ada", "thing", "sorting").adapter == first.id
    assert home.export("ada", tmp_path / "out").adapter.id == first.id
    assert home.behind(home.adapters("ada")[-1]) == 2
    assert ("ada", CHOSEN) in home.train("sorting", **FAST).skipped
    home.add_history(write_rows(tmp_path / "d.jsonl", rows("ada", 1, 7)), "sorting")
    (trained,) = home.train("sorting", **FAST).trained
    assert trained.parent == first.id and home.ask("ada", "thing", "sorting").adapter == trained.id


def test_named_users_continue_from_the_version_in_use(home: Home) -> None:
    first, _ = home.adapters("ada")
    home.use_version("ada", first.id)
    (trained,) = home.train("sorting", users=["ada"], **FAST).trained
    assert trained.parent == first.id


def test_versions_that_cannot_be_used(home: Home, tmp_path: Path) -> None:
    first, second = home.adapters("ada")
    for version in ("zzz", ""):
        with pytest.raises(NotFoundError, match=f"no version '{version}'.*{first.id[:8]}, {second.id[:8]}"):
            home.use_version("ada", version)
    with pytest.raises(NotFoundError, match="no user 'nobody'"):
        home.use_version("nobody", first.id)
    home.forget_record("ada", "ada-6")  # known to the second alone
    with pytest.raises(AdapterError, match="has learnt from records that were forgotten"):
        home.use_version("ada", second.id)
    assert home.use_version("ada", first.id).id == first.id
    assert home.ask("ada", "thing", "sorting").warning is None
    home.store.blobs.remove([str(home.adapters("bela")[-1].blob)])
    with pytest.raises(AdapterError, match="its weights are lost"):
        home.use_version("bela", home.adapters("bela")[-1].id)


def test_a_version_on_another_base(home: Home) -> None:
    first = home.adapters("bela")[0]
    home.adapt("adapted", "sorting", users=["ada"], **FAST)
    home.train("sorting", users=["bela"], **FAST)
    with pytest.raises(AdapterError, match=r"was made for another base\. Got: 'tiny'. Expected: 'adapted'"):
        home.use_version("bela", first.id)


def test_on_the_command_line(shell: QuickShell) -> None:
    train = ("train", "--task", "sorting", "--epochs", "1", "--user", "ada")
    twice = write_rows(shell.folder / "twice.jsonl", rows("ada", 7), rows("ada", 2))
    told = shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    assert "there already" not in told
    told = shell.run("history", "add", twice, "--task", "sorting")
    assert "7 records were there already" in told and "2 rows of the file repeat another row" in told
    assert shell.json("history", "add", twice, "--task", "sorting")["repeated"] == 2
    shell.run(*train)
    first = shell.json("users", "show", "ada")["adapters"][0]["id"]
    shell.run(*train, "--seed", "1")
    told = shell.run("users", "use", "ada", first[:8])
    assert told.startswith(f"ada uses the adapter {first[:8]} in sorting")
    assert shell.json("users", "use", "ada", first)["adapter"] == first
    assert shell.json("users", "ls")[0]["adapter"] == first
    told = shell.run("history", "edit", "ada", "ada-1", "--set", "folder=bin", "--set", "text=more = less")
    assert "ada, record ada-1: changed text, folder" in told and "marked: 2 adapters" in told
    assert shell.json("history", "show", "ada", "--task", "sorting")[1]["text"] == "more = less"
    assert "nothing changed" in shell.run("history", "edit", "ada", "ada-1", "--set", "folder=bin")
    assert shell.json("history", "edit", "ada", "ada-2", "--set", "folder=home")["changed"] == ["folder"]
    assert "is no FIELD=VALUE" in shell.run("history", "edit", "ada", "ada-1", "--set", "folder", code=2)
    out, warned = shell.both("ask", "ada", "thing", "--task", "sorting", "--json")
    assert "has learnt from 2 records" in json.loads(out)["warning"] and "warning: The adapter of user" in warned
    out, warned = shell.both("users", "export", "ada", "out", "--json")
    assert "has learnt from 2 records" in json.loads(out)["warning"] and "ownlm train" in warned
    told = shell.run("users", "show", "ada")
    assert "`ownlm train --task sorting --user ada` begins again without them" in told and "goes on from it" not in told
