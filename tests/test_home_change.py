"""Behaviour that changes: new records, forgotten ones, several processes, and what the doctor says of it all."""

import shutil
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from ownlm.config import TrainConfig
from ownlm.errors import BaseModelError, ConfigError, NotFoundError, StoreError
from ownlm.home import Home
from ownlm.inference.load import load_adapter
from ownlm.model.adapter import Adapter
from ownlm.model.base import load_base
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, train_fleet
from ownlm.progress import silent
from ownlm.prompt.example import history_examples
from ownlm.store.database import working
from tests.community import home_on, rows, small_home, write_rows, write_task
from tests.forks import context
from tests.namespace import READ_ONLY, work_with_mount
from tests.shell import QuickShell

FAST = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, tiny_base, rows("ada", 7), rows("bela", 4))


def add(home: Home, *people: list[dict[str, str]]) -> None:
    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", *people), "sorting")


def weights(home: Home, user: str) -> Adapter:
    base = home.load(home.bases()[0])
    adapter = load_adapter(home.store, home.adapters(user)[-1], base)
    assert isinstance(adapter, Adapter)
    return adapter


def test_training_goes_on_from_the_last_adapter_on_the_new_records_alone(home: Home, tiny_base: Path) -> None:
    home.train("sorting", **FAST)
    first, start = home.adapters("ada")[-1], weights(home, "ada")
    add(home, rows("ada", 10))
    assert home.behind(first) == 3
    (second,) = home.train("sorting", **FAST).trained
    assert (second.user, second.parent, second.records, second.steps) == ("ada", first.id, 10, 2)
    assert home.behind(home.adapters("ada")[-1]) == 0 and home.train("sorting", **FAST).trained == []

    base = load_base(tiny_base, name="tiny", fingerprint="f")
    learnt = {f"ada-{n}" for n in range(7)}
    new = history_examples(home.task("sorting"), home.history("ada", "sorting"), learnt=learnt)
    assert [example.record_id for example in new] == ["ada-7", "ada-8", "ada-9"]
    job = Job("ada", tokenize(base, "ada", new), 0, start)
    config = TrainConfig.model_validate(home.adapters("ada")[-1].provenance["config"])
    (alone,) = train_fleet(base, [job], config, slots=1)
    assert isinstance(alone.adapter, Adapter)
    for name, pair in weights(home, "ada").pairs.items():
        torch.testing.assert_close(pair.B_OR, alone.adapter.pairs[name].B_OR, atol=1e-5, rtol=1e-3)
        assert not torch.equal(pair.B_OR, start.pairs[name].B_OR)


def test_from_scratch_knows_no_last_adapter(home: Home, tmp_path: Path, tiny_base: Path) -> None:
    home.train("sorting", users=["ada"], **FAST)
    add(home, rows("ada", 10))
    home.train("sorting", users=["ada"], **FAST)
    (anew,) = home.train("sorting", users=["ada"], from_scratch=True, **FAST).trained
    assert (anew.parent, anew.records, anew.steps) == (None, 10, 6)
    assert home.train("sorting", users=["ada"], from_scratch=True, **FAST).trained == []
    fresh = home_on(tiny_base, tmp_path / "fresh")
    fresh.train(str(tmp_path / "sorting.toml"), data=write_rows(tmp_path / "ten.jsonl", rows("ada", 10)), **FAST)
    for name, pair in weights(home, "ada").pairs.items():
        torch.testing.assert_close(pair.B_OR, weights(fresh, "ada").pairs[name].B_OR, atol=1e-6, rtol=1e-3)


def test_other_settings_start_anew(home: Home) -> None:
    home.train("sorting", users=["ada"], **FAST)
    add(home, rows("ada", 10))
    (other,) = home.train("sorting", users=["ada"], seed=1, **FAST).trained
    assert other.parent is None and other.steps == 6


def test_recent_and_since_choose_what_is_learnt(home: Home) -> None:
    add(home, [row | {"id": f"{row['id']}-timeless", "time": ""} for row in rows("ada", 2)])
    by = {}
    for name, changes in {
        "all": {}, "recent": {"recent": 3}, "since": {"since": "1005"}, "both": {"since": "1003-01-01", "recent": 1},
    }.items():  # fmt: skip
        (adapter,) = home.train("sorting", users=["ada"], epochs=1, batch_size=1, **changes).trained
        by[name] = adapter.steps
    assert by == {"all": 9, "recent": 3, "since": 2, "both": 1}  # ada's times are the years 1000 to 1006
    with pytest.raises(ConfigError, match="since"):
        home.train("sorting", since="yesterday")
    report = home.train("sorting", users=["ada"], since="2020")
    assert not report.trained and "no record that can be trained on" in str(report.failed[0][1])


def test_recent_counts_what_was_learnt_before(home: Home) -> None:
    home.train("sorting", users=["ada"], recent=3, epochs=1, batch_size=1)
    add(home, rows("ada", 9))
    (grown,) = home.train("sorting", users=["ada"], recent=3, epochs=1, batch_size=1).trained
    assert grown.steps == 2 and grown.parent  # of the three latest, one was learnt already


def test_a_forgotten_record_is_trained_away(home: Home) -> None:
    home.train("sorting", users=["ada"], **FAST)
    add(home, rows("ada", 9))
    home.train("sorting", users=["ada"], **FAST)
    assert home.forget_record("ada", "ada-3").marked == 2
    assert home.ask("ada", "x", "sorting", choose=True).adapter == home.adapters("ada")[-1].id  # until there is another
    (anew,) = home.train("sorting", **FAST | {"users": ["ada"]}).trained
    assert (anew.parent, anew.records) == (None, 8) and [a.id for a in home.adapters("ada")] == [anew.id]
    assert not home.doctor().wrong


def test_a_forgotten_person_is_nowhere(home: Home) -> None:
    home.train("sorting", **FAST)
    home.forget("ada")
    with pytest.raises(NotFoundError):
        home.ask("ada", "x", "sorting")
    assert [p.user for p in home.histories()] == ["bela"] and not home.doctor().wrong
    content = b"".join(path.read_bytes() for path in home.store.folder.rglob("*") if path.is_file())
    assert b"ada secret" not in content and b"bela secret" in content
    assert home.ask("bela", "x", "sorting", choose=True).answer


def test_who_is_forgotten_while_in_training_is_not_kept(home: Home) -> None:
    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if "ada" in {p.user for p in home.histories()}:
            home.forget("ada")

    report = home.train("sorting", progress=on_progress, **FAST)
    assert [a.user for a in report.trained] == ["bela"]
    assert report.skipped == [("ada", "forgotten during this run")] and not report.failed
    assert [a.user for a in home.adapters()] == ["bela"] and not home.doctor().wrong


def test_outsiders_who_are_forgotten_while_a_base_learns_leave_no_base(home: Home) -> None:
    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if "ada" in {p.user for p in home.histories()}:
            home.forget("ada")

    with pytest.raises(NotFoundError, match="forgotten or changed while"):
        home.adapt("news", "sorting", progress=on_progress, **FAST)
    assert [base.name for base in home.bases()] == ["tiny"] and not list((home.store.folder / "bases").iterdir())
    assert not home.doctor().wrong


def _train(folder: Path) -> None:
    Home(folder).train("sorting", **FAST)


def test_a_second_train_waits_and_reading_goes_on(home: Home) -> None:
    told: list[str] = []
    with working(home.store.folder, "a test", silent):
        second = threading.Thread(
            target=lambda: Home(home.store.folder).train(
                "sorting", progress=lambda stage, done, total, note="": told.append(f"{stage} {note}"), **FAST
            )
        )
        second.start()
        time.sleep(0.7)
        reader = Home(home.store.folder)
        assert len(reader.histories()) == 2 and reader.adapters() == []
        assert "a test" in reader.doctor().home["at_work"]
        add(home, rows("bela", 5))
        assert second.is_alive() and told[0].startswith("waiting for `a test`, process")
    second.join()
    assert {a.user: a.records for a in home.adapters()} == {"ada": 7, "bela": 5}


def test_two_trains_at_once_train_everybody_once(home: Home) -> None:
    processes = [context.Process(target=_train, args=(home.store.folder,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(a.user for a in home.adapters()) == ["ada", "bela"] and not home.doctor().wrong


def test_the_doctor_sees_what_is_wrong(home: Home) -> None:
    assert home.doctor().next[0].startswith("`ownlm train --task sorting`: users without an adapter 2")
    home.train("sorting", **FAST)
    seen = home.doctor()
    assert not seen.wrong and "up to date" in seen.next[0] and "ownlm" in seen.machine["versions"]

    lost, damaged = (home.store.blobs._path(a.blob) for a in home.adapters())
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (damaged.parent / f".{'0' * 32}").write_bytes(b"half")
    home.store.new_base_folder("half").mkdir(parents=True)
    with home.store.database.writing() as db:
        db.exec_driver_sql("UPDATE records SET fields = '{\"text\": \"changed\"}' WHERE id = 'ada-2'")
    wrong = " ".join(finding.what for finding in home.doctor().wrong)
    for part in ("'ada-2'", "cannot be read", "is damaged", "killed run: 1 files", "killed run: 1 folders"):
        assert part in wrong
    assert "secret" not in wrong and "changed" not in wrong
    damaged.unlink()
    home.forget_record("ada", "ada-2")
    home.train("sorting", **FAST)
    assert not home.doctor().wrong


def test_the_doctor_sees_a_changed_base(home: Home, tmp_path: Path) -> None:
    home.adapt("news", "sorting", users=["bela"], **FAST)
    with (Path(home.store.base("news").folder) / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert "is no longer what it was" in home.doctor().wrong[0].what
    shutil.rmtree(Path(home.store.base("news").folder))
    assert "cannot be read" in home.doctor().wrong[0].what


def test_the_doctor_names_a_base_that_learnt_from_what_was_forgotten(home: Home) -> None:
    home.adapt("news", "sorting", users=["bela"], **FAST)
    assert not any("forgotten" in step for step in home.doctor().next)
    home.forget("bela")
    assert not home.doctor().wrong and "the base news learnt from" in home.doctor().next[0]


def test_a_read_only_home_answers(home: Home) -> None:
    home.train("sorting", users=["ada"], **FAST)
    home.store.database.close()
    work_with_mount(READ_ONLY, home.store.folder, commands_on_a_read_only_home)


def commands_on_a_read_only_home(folder: Path) -> None:
    shell, home = QuickShell(folder.parent), ("--home", folder)
    assert shell.run("ask", "ada", "x", "--task", "sorting", "--choose", *home).strip() in ("home", "work", "bin")
    assert "ada" in shell.run("users", "ls", *home) and "read only" in shell.run("doctor", *home)
    for refused in (["train", "--task", "sorting"], ["users", "forget", "ada"]):
        told = shell.run(*refused, *home, code=1)
        assert "writable" in told and "Traceback" not in told


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path, tiny_base: Path) -> None:
    write_task(tmp_path)
    write_rows(tmp_path / "many.jsonl", *(rows(f"u{n}", 3) for n in range(40)))
    (tmp_path / "disk").mkdir()
    work_with_mount(
        'mount -t tmpfs -o size=1m tmpfs "$0"', tmp_path / "disk", partial(training_fills_the_disk, tiny_base)
    )


def training_fills_the_disk(base: Path, folder: Path) -> None:
    shell = QuickShell(folder)
    shell.run("base", "add", base, "--name", "tiny")
    told = shell.run("train", "../many.jsonl", "--task", "../sorting.toml", "--rank", 16, "--epochs", 1, code=1)
    assert "room" in told and "Traceback" not in told and "The home is whole" in shell.run("doctor"), told
    assert 0 < sum(row["adapter"] is not None for row in shell.json("users", "ls")) < 40


def test_nothing_can_be_trained_where_nothing_can_be_written(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    opened = Home(home.store.folder)
    with pytest.raises(StoreError, match="can be read, not written"):
        opened.train("sorting", **FAST)


def test_an_adapter_that_went_on_from_what_learnt_the_forgotten_is_not_kept(home: Home) -> None:
    home.train("sorting", **FAST)
    add(home, rows("ada", 9), rows("bela", 6))

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if "bela-1" in {record.id for record in home.history("bela", "sorting").records}:
            home.forget_record("bela", "bela-1")  # while ada is in the only slot, bela's start is chosen already

    report = home.train("sorting", slots=1, progress=on_progress, **FAST)
    assert [a.user for a in report.trained] == ["ada"] and "forgotten" in str(report.failed[0][1])
    (anew,) = home.train("sorting", **FAST).trained
    assert (anew.user, anew.parent, anew.records) == ("bela", None, 5)


def test_a_profile_that_is_forgotten_meanwhile_is_not_learnt_from(home: Home) -> None:
    home.profile("sorting", counted=True)

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if "bela" in home.profiles("sorting"):
            home.forget_record("bela", "bela-1")

    report = home.train("sorting", slots=1, profile=True, progress=on_progress, **FAST)
    assert [a.user for a in report.trained] == ["ada"] and "no profile" in str(report.failed[0][1])


def test_who_was_trained_with_a_profile_is_answered_when_it_is_forgotten(home: Home) -> None:
    home.profile("sorting", counted=True)
    home.train("sorting", users=["ada"], profile=True, **FAST)
    home.forget_record("ada", "ada-1", "sorting")
    assert home.ask("ada", "x", "sorting", choose=True).answer
    with pytest.raises(NotFoundError, match="no profile"):
        home.ask("ada", "x", "sorting", choose=True, profile=True)


def test_a_marked_adapter_of_an_outsider_is_trained_anew(home: Home) -> None:
    home.train("sorting", users=["bela"], **FAST)
    home.adapt("news", "sorting", users=["bela"], **FAST)
    assert "bela" in [user for user, _ in home.train("sorting", **FAST).skipped]
    home.forget_record("bela", "bela-1")
    assert "bela" in [a.user for a in home.train("sorting", **FAST).trained]
    assert not any(a.forgotten for a in home.adapters())


def test_records_that_teach_nothing_do_not_leave_a_person_behind(home: Home) -> None:
    home.train("sorting", users=["ada"], recent=3, **FAST)
    add(home, [row | {"id": f"{row['id']}-old", "time": "900"} for row in rows("ada", 2)])
    report = home.train("sorting", users=["ada"], recent=3, **FAST)
    assert report.skipped == [("ada", "nothing new to learn from")]
    assert home.behind(home.adapters("ada")[-1]) == 0
    assert home.train("sorting", users=["ada"], recent=3, **FAST).skipped == [("ada", "up to date")]


def test_bases_of_a_persons_own_are_left_alone(home: Home, tmp_path: Path, tiny_base: Path) -> None:
    theirs = home.store.folder / "bases" / "my-model"
    shutil.copytree(tiny_base, theirs)
    home.add_base(str(theirs), "mine")
    home.adapt("news", "sorting", users=["bela"], base="tiny", **FAST)
    home.add_base(home.store.base("news").folder, "news")  # again, by its whole path
    home.store.folder.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    moved.train("sorting", users=["ada"], **FAST)
    assert not moved.doctor().wrong and Path(moved.store.base("mine").folder).parent.parent == tmp_path / "moved"


def test_a_second_base_of_the_name_is_refused_before_anything_is_trained(home: Home) -> None:
    home.adapt("news", "sorting", users=["bela"], **FAST)
    told: list[str] = []
    with pytest.raises(BaseModelError, match="already"):
        home.adapt("news", "sorting", progress=lambda stage, *rest: told.append(stage), **FAST)
    assert told == []


def test_the_doctor_survives_rows_that_cannot_be_read(home: Home) -> None:
    for statement in (
        "UPDATE records SET fields = '{' WHERE id = 'ada-2'", "UPDATE records SET time = 'soon' WHERE id = 'ada-2'",
        "UPDATE tasks SET spec = '{}'",
    ):  # fmt: skip
        with home.store.database.writing() as db:
            db.exec_driver_sql(statement)
        assert any("cannot be read" in finding.what for finding in home.doctor().wrong)
