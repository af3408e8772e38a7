"""The whole flow on a tiny base: histories, training, asking, exporting; and what happens when something is wrong."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from ownlm.errors import (
    AdapterError,
    BaseModelError,
    ConfigError,
    DataError,
    NotFoundError,
    StoreError,
    TaskError,
    TrainingError,
)
from ownlm.history.record import Query
from ownlm.home import Home
from tests.community import home_on, rows, small_home, write_rows, write_task
from tests.peft_folder import read_peft_folder

FAST = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture
def task(tmp_path: Path) -> str:
    return str(write_task(tmp_path))


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, tiny_base, rows("ada", 7), rows("bela", 4), rows("ciro", 1))


def test_train_trains_whom_it_must_and_nobody_else(home: Home, tmp_path: Path) -> None:
    first = home.train("sorting", **FAST)
    assert {a.user: (a.records, a.steps) for a in first.trained} == {"ada": (7, 4), "bela": (4, 2), "ciro": (1, 2)}
    assert all(a.loss_last < a.loss_first and a.tokens > 0 and a.bytes > 0 for a in first.trained)
    assert not first.failed and not first.skipped and first.tokens_per_s > 0

    again = home.train("sorting", **FAST)
    assert not again.trained and [reason for _, reason in again.skipped] == ["up to date"] * 3

    grown = home.train("sorting", data=write_rows(tmp_path / "more.jsonl", rows("bela", 5)), **FAST)
    assert [a.user for a in grown.trained] == ["bela"] and grown.trained[0].records == 5
    assert len(home.adapters("bela")) == 2 and home.latest_adapters()["sorting", "bela"].records == 5

    other = home.train("sorting", users=["ada"], seed=1, **FAST)
    assert [a.user for a in other.trained] == ["ada"]
    one, another = home.adapters("ada")
    assert another.blob != one.blob


def test_the_same_person_in_another_home_gets_the_same_adapter(
    home: Home, tmp_path: Path, tiny_base: Path, task: str
) -> None:
    alone = home_on(tiny_base, tmp_path / "alone")
    alone.train(task, data=write_rows(tmp_path / "bela.jsonl", rows("bela", 4)), slots=1, **FAST)
    home.train("sorting", **FAST)
    home.export("bela", tmp_path / "one")
    alone.export("bela", tmp_path / "other")
    one, other = read_peft_folder(tmp_path / "one"), read_peft_folder(tmp_path / "other")
    for name, pair in one.pairs.items():
        torch.testing.assert_close(pair.B_OR, other.pairs[name].B_OR, atol=1e-5, rtol=1e-2)
        assert pair.B_OR.any()


def test_outsiders_teach_the_base_and_are_left_out(home: Home, tmp_path: Path, task: str) -> None:
    adapted = home.adapt("news", task, data=write_rows(tmp_path / "out.jsonl", rows("olga", 6)), **FAST)
    assert adapted.parent == "tiny" and adapted.fingerprint != home.bases()[0].fingerprint
    report = home.train("sorting", **FAST)
    assert sorted(a.user for a in report.trained) == ["ada", "bela", "ciro"]
    assert {a.base for a in home.adapters()} == {"news"}
    assert [user for user, _ in report.skipped] == ["olga"]
    assert [a.user for a in home.train("sorting", users=["olga"], **FAST).trained] == ["olga"]
    with pytest.raises(BaseModelError, match="already"):
        home.adapt("news", "sorting", **FAST)


def test_a_home_can_be_moved_and_a_changed_base_is_noticed(home: Home, tmp_path: Path, task: str) -> None:
    left_over = home.store.new_base_folder("news")  # as kill -9 leaves it
    left_over.mkdir(parents=True)
    home.adapt("news", task, users=["ciro"], **FAST)
    assert not left_over.exists()
    home.train("sorting", users=["ada"], **FAST)
    before = home.ask("ada", "thing", "sorting", choose=True)
    home.store.folder.rename(tmp_path / "moved")
    moved = Home(tmp_path / "moved")
    assert moved.ask("ada", "thing", "sorting", choose=True) == before
    with (Path(moved.store.base("news").folder) / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(BaseModelError, match="have changed since it was added"):
        Home(tmp_path / "moved").ask("ada", "thing", "sorting")
    with pytest.raises(BaseModelError, match="have changed since it was added"):
        Home(tmp_path / "moved").train("sorting", users=["bela"], **FAST)


def test_answers_in_a_mixed_batch_are_those_of_each_alone(home: Home) -> None:
    home.train("sorting", **FAST)
    queries = [Query(user, f"{user}{n}", {"text": f"thing {n}"}) for n in range(3) for user in ("ada", "bela", "ciro")]
    for choose in (True, False):
        mixed = {answer.query.id: answer for answer in home.ask_many(queries, "sorting", choose=choose)}
        assert [answer.query.id for answer in mixed.values()] == [query.id for query in queries]
        for query in queries[:3]:
            alone = home.ask(query.user_id, query.fields["text"], "sorting", choose=choose)
            assert alone.answer == mixed[query.id].answer and alone.adapter == mixed[query.id].adapter
    assert len({answer.adapter for answer in mixed.values()}) == 3


def test_answers_come_in_the_order_of_the_queries(home: Home) -> None:
    home.train("sorting", users=["ada", "bela"], **FAST)
    home.train("sorting", users=["ciro"], r=4, **FAST)  # another shape: another batch
    users = ["ciro", "ada", "nobody", "ciro", "bela", "ada"]
    queries = [Query(user, str(place), {"text": "x"}) for place, user in enumerate(users)]
    answers = list(home.ask_many(queries, "sorting", choose=True))
    assert [answer.query.id for answer in answers] == ["0", "1", "2", "3", "4", "5"]
    assert [answer.error is not None for answer in answers] == [user == "nobody" for user in users]


def test_an_edited_task_file_counts_for_training_and_asking_alike(home: Home, tmp_path: Path, task: str) -> None:
    home.train(task, users=["ada"], **FAST)
    file = Path(task)
    file.write_text(file.read_text().replace('"bin"]', '"bin", "attic"]'))
    assert home.ask("ada", "x", "sorting", choose=True).answer in ("home", "work", "bin")  # as it was trained
    report = home.train(task, users=["ada"], **FAST)
    assert [a.user for a in report.trained] == ["ada"] and home.task("sorting").labels[2:] == ("bin", "attic")
    assert home.adapters("ada")[-1].provenance["task"]["labels"][-1] == "attic"


def test_records_that_come_while_training_are_not_counted_as_learnt(home: Home, tmp_path: Path, task: str) -> None:
    late = write_rows(tmp_path / "late.jsonl", rows("ciro", 5))

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        home.add_history(late, task)

    report = home.train("sorting", slots=1, progress=on_progress, **FAST)  # ciro's come before ciro is seated
    by_user = {a.user: a for a in report.trained}
    assert by_user["ciro"].records == 5
    assert {p.user: p.history for p in home.histories()} == {a.user: a.history for a in home.adapters()}


def test_a_prompt_shows_as_many_records_as_the_adapter_was_trained_with(home: Home) -> None:
    home.train("sorting", users=["ada"], rag=2, **FAST)
    home.train("sorting", users=["bela"], **FAST)
    assert len(home.ask("ada", "ada secret3", "sorting").retrieved) == 2
    assert home.ask("ada", "ada secret3", "sorting", rag=1).retrieved == ("ada-3",)
    assert home.ask("bela", "bela secret3", "sorting").retrieved == ()
    assert home.ask("bela", "ada secret3", "sorting", rag=4).retrieved != ()
    assert all(id.startswith("bela") for id in home.ask("bela", "ada secret3", "sorting", rag=4).retrieved)


def test_nobodys_text_reaches_another_persons_prompt(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import ownlm.oppu.examples as examples
    import ownlm.workflows.ask as ask

    seen: dict[str, str] = {}

    def watch(base, user, made, *rest):  # type: ignore[no-untyped-def]
        made = list(made)
        seen[user] = " ".join(one.prompt + one.answer for one in made)
        return examples.tokenize(base, user, made, *rest)

    monkeypatch.setattr("ownlm.workflows.selection.tokenize", watch)
    home.train("sorting", rag=4, **FAST)
    asked: dict[str, str] = {}
    genuine = ask.query_prompt

    def watch_query(task, fields, history, *args, **kwargs):  # type: ignore[no-untyped-def]
        text, retrieved = genuine(task, fields, history, *args, **kwargs)
        asked[history.user_id] = text
        return text, retrieved

    monkeypatch.setattr(ask, "query_prompt", watch_query)
    list(home.ask_many([Query(u, u, {"text": "secret1 said"}) for u in ("ada", "bela", "ciro")], "sorting", rag=4))
    for texts in (seen, asked):
        assert texts.keys() == {"ada", "bela", "ciro"}
        for user, text in texts.items():
            assert not any(other in text for other in texts if other != user)
    assert "ada secret1" in seen["ada"] and "ada secret1" in asked["ada"]


def test_an_exported_adapter_is_loaded_by_peft(home: Home, tmp_path: Path, tiny_base: Path) -> None:
    home.train("sorting", users=["ada"], **FAST)
    info = home.export("ada", tmp_path / "adapter").adapter
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_base)
    note = json.loads((tmp_path / "adapter" / "ownlm.json").read_text())
    assert note["adapter"] == info.id and note["seed"] == 0 and note["config"]["epochs"] == 2
    with pytest.raises(AdapterError, match="not empty"):
        home.export("ada", tmp_path / "adapter")
    with pytest.raises(NotFoundError, match="no adapter"):
        home.export("bela", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_one_persons_trouble_does_not_stop_the_others(home: Home, tmp_path: Path) -> None:
    long = [{"user_id": "long", "id": "r", "text": "x" * 5000, "folder": "bin"}]
    report = home.train("sorting", data=write_rows(tmp_path / "long.jsonl", long), **FAST)
    assert sorted(a.user for a in report.trained) == ["ada", "bela", "ciro"]
    ((user, error),) = report.failed
    assert user == "long" and isinstance(error, DataError) and "xxx" not in str(error) and "'r'" in str(error)


def test_a_diverging_person_fails_with_a_clear_word(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        home.train("sorting", learning_rate=1e30)
    monkeypatch.setattr("ownlm.oppu.passes.wide", lambda logits_PV: logits_PV * float("nan"))
    report = home.train("sorting", users=["ada"], epochs=4, batch_size=1)
    ((_, error),) = report.failed
    assert isinstance(error, TrainingError) and "learning rate" in str(error) and not report.trained


def test_damage_is_noticed_before_it_is_used(home: Home) -> None:
    home.train("sorting", users=["ada"], **FAST)
    (blob,) = [path for path in home.store.blobs.folder.rglob("*.safetensors")]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"):
        home.ask("ada", "x", "sorting")
    blob.unlink()  # as the error says
    assert [a.user for a in home.train("sorting", users=["ada"], **FAST).trained] == ["ada"]
    assert home.ask("ada", "x", "sorting").answer is not None


def test_an_adapter_of_another_base_is_refused(home: Home, tiny_base: Path) -> None:
    from dataclasses import replace

    home.train("sorting", users=["ada"], **FAST)
    wrong = replace(home.adapters("ada")[0], id="wrong", base_fingerprint="0" * 64)
    assert home.store.add_adapters([(wrong, home.store.blobs.get(wrong.blob))]) == [None]
    with pytest.raises(AdapterError, match="another base"):
        home.ask("ada", "x", "sorting")


def test_who_and_what_is_not_there(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no records of user 'nobody'"):
        home.ask("nobody", "x", "sorting")
    with pytest.raises(NotFoundError, match="no adapter"):
        home.ask("ada", "x", "sorting")
    with pytest.raises(NotFoundError, match="nobody"):
        home.train("sorting", users=["nobody"], **FAST)
    with pytest.raises(NotFoundError, match="no task"):
        home.train("unknown", **FAST)
    with pytest.raises(NotFoundError, match="no base 'other'"):
        home.train("sorting", base="other", **FAST)
    with pytest.raises(NotFoundError, match="no home"):
        Home(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(NotFoundError, match="no base model yet"):
        Home(tmp_path / "empty").train("LaMP_4", data=_titles(tmp_path))
    with pytest.raises(TaskError, match="no labels"):
        titles = home_on(Path(home.bases()[0].folder), tmp_path / "titles")
        titles.add_history(_titles(tmp_path), "LaMP_4")
        titles.ask("ada", "x", "LaMP_4", choose=True, base_only=True)
    with pytest.raises(ConfigError, match="epochs"):
        home.train("sorting", epochs=0)
    with pytest.raises(ConfigError, match="epoch"):
        home.train("sorting", epoch=3)
    with pytest.raises(BaseModelError, match="linear module"):
        home.train("sorting", target_modules=("c_attn",))


def test_in_a_file_of_queries_one_bad_one_does_not_stop_the_others(home: Home) -> None:
    home.train("sorting", users=["ada"], **FAST)
    queries = [
        Query("nobody", "q1", {"text": "x"}),
        Query("ada", "q2", {"text": "x"}),
        Query("ada", "q3", {"text": "y" * 9999}),
    ]
    answers = {answer.query.id: answer for answer in home.ask_many(queries, "sorting", choose=True)}
    assert isinstance(answers["q1"].error, NotFoundError) and isinstance(answers["q3"].error, DataError)
    assert answers["q2"].answer in ("home", "work", "bin")


def _titles(folder: Path) -> Path:
    return write_rows(folder / "titles.jsonl", [{"user_id": "ada", "text": "some text", "title": "A title"}])
