"""Plans are checked whole: one error says all that is wrong, before a base is loaded or anything is written."""

import json
import re
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import ownlm.bench.check as checking
import ownlm.bench.run as running
from ownlm.bench.case import Case
from ownlm.bench.check import check_plan, check_settings, size_of
from ownlm.bench.data import SetData, read_set
from ownlm.bench.methods import METHODS
from ownlm.bench.plan import MethodPlan, Plan, Problems, SetPlan, read_plan
from ownlm.bench.report import about
from ownlm.bench.results import read_results
from ownlm.bench.run import run_plan
from ownlm.bench.tables import quality
from ownlm.bench.warnings import of_adapters, of_answers
from ownlm.errors import ConfigError, OwnlmError
from ownlm.history.record import History
from ownlm.history.task import load_task
from tests.community import rows, write_rows, write_task
from tests.shell import QuickShell
from tests.store.rows import adapter


def data(folder: Path) -> dict[str, Any]:
    """A set: 9 people, of whom one has no records, one no query, one a query without a right answer; 4 outsiders."""
    write_rows(folder / "people.jsonl", *(rows(f"user{n}", 12 if n < 4 else 4) for n in range(8)))
    gold = [
        {"user_id": f"user{n}", "id": f"q{n}", "time": "5000", "text": f"thing {n}", "gold": "bin"} for n in range(6)
    ]
    other = [
        {"user_id": "user6", "id": "q6", "text": "no answer"},
        {"user_id": "stranger", "id": "q7", "text": "x", "gold": "bin"},
    ]
    write_rows(folder / "queries.jsonl", gold, other)  # type: ignore[arg-type]
    write_rows(folder / "others.jsonl", *(rows(f"other{n}", 12) for n in range(4)))
    return {
        "name": "mail", "task": str(write_task(folder)), "data": str(folder / "people.jsonl"),
        "queries": str(folder / "queries.jsonl"), "outsiders": str(folder / "others.jsonl"),
    }  # fmt: skip


def plan(folder: Path, *methods: dict[str, Any], sets: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """A plan for that set on a random base; its baseline is the base."""
    wanted = [{"name": "base", "method": "base"}, *({"name": one["method"], **one} for one in methods)]
    return Plan.model_validate(
        {"name": "trial", "base": "random", "sets": [{**data(folder), **(sets or {})}], "methods": wanted,
         "baseline": "base", **changes}
    )  # fmt: skip


WRONG: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], str]] = {  # methods, set, plan, words
    "no outsiders": ([{"method": "own"}], {"outsiders": None}, {}, "no outsiders"),
    "top_k above the sharers": ([{"method": "assembled", "top_k": 9}], {}, {}, "top_k = 9, .* sharers"),
    "top_k above those asked for": ([{"method": "assembled"}], {}, {"share": {"sharers": 2}}, "top_k = 3, 2 sharers"),
    "no user has enough records": (
        [{"method": "nearest"}], {"outsiders": None, "sharing": 0}, {"adapt": False}, "no sharers"
    ),
    "a method misspelt": ([{"method": "asembled"}], {}, {}, "did you mean 'assembled'"),
    "a setting misspelt": ([{"method": "own", "epocs": 2}], {}, {}, "did you mean 'epochs'"),
    "a setting out of range": ([{"method": "own", "epochs": -1}], {}, {}, "'epochs' is wrong"),
    "a setting of stage 1": ([], {}, {"adapt": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
    "a setting of pools": ([], {}, {"share": {"sharers": 0}}, "'sharers'"),
    "too many to be held back": ([], {"queries": None, "held_back": 9, "data": "short.jsonl"}, {}, "fewer than five"),
    "a file that is not there": ([], {"data": "nothing.jsonl"}, {}, r"nothing\.jsonl"),
    "a base that is not there": ([], {}, {"base": "./nowhere"}, "neither a folder nor"),
    "modules that the base has not": (
        [{"method": "own", "target_modules": ["query"]}], {}, {}, "no such modules.*query"
    ),
    "no method for a set": (
        [], {}, {"methods": [{"name": "base", "method": "most_frequent"}], "free": True}, "anything to say"
    ),
}  # fmt: skip


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Case, "raw", lambda _: pytest.fail("a base was made"))
    monkeypatch.setattr(running, "working", lambda *_: pytest.fail("it runs"))


def wrong(folder: Path, *names: str) -> Plan:
    """A plan with all these faults."""
    methods, sets, changes = list[dict[str, Any]](), dict[str, Any](), dict[str, Any]()
    for name in names:
        more, other, settings, _ = WRONG[name]
        methods += [{"name": f"{one['method']} {name}", **one} for one in more]
        sets |= {key: str(folder / value) if key == "data" else value for key, value in other.items()}
        changes |= settings
    write_rows(folder / "short.jsonl", *(rows(f"user{n}", 3) for n in range(3)))
    if changes.pop("free", False):
        text = (
            write_task(folder)
            .read_text()
            .replace('labels = ["home", "work", "bin"]', "")
            .replace("{labels}", "a folder")
        )
        (folder / "free.toml").write_text(text.replace('"sorting"', '"free"').replace("accuracy", "rouge1"))
        sets |= {"task": str(folder / "free.toml")}
    return plan(folder, *methods, sets=sets, **changes)


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_is_found_before_anything_runs(name: str, tmp_path: Path, nothing_runs: None) -> None:
    with pytest.raises(OwnlmError, match=WRONG[name][3]):
        run_plan(wrong(tmp_path, name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_error_lists_all_faults(tmp_path: Path, nothing_runs: None) -> None:
    names = ["no outsiders", "top_k above the sharers", "a method misspelt", "a setting misspelt", "a setting of pools",
             "a setting of stage 1", "modules that the base has not"]  # fmt: skip
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"wrong in \d+ places; nothing has run") as error:
        run_plan(wrong(tmp_path, *names), tmp_path / "file")
    told = str(error.value)
    for word in (
        "no outsiders",
        "top_k = 9",
        "'assembled'",
        "'epochs'",
        "'sharers'",
        "'learning_rate'",
        "query",
        "a file",
    ):
        assert word in told, (word, told)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('colour = "red"\nsede = 1\nbaseline = "nobody"', ["3 places", "'colour'", "did you mean 'seeds'", "'nobody'"]),
        (
            "[[sets]]\nname='a'\ntask='t'\ndata='d'\noutsiders_people=3\nshift_share=0.5",
            ["outsiders_people, shift_share"],
        ),
        ("profile = { url = 'https://x' }", ["both a `url` and a `model`"]),
    ],
)
def test_a_files_faults_are_listed_too(tmp_path: Path, change: str, words: list[str]) -> None:
    whole = 'name = "a"\nbase = "random"\n' + ("" if "baseline" in change else 'baseline = "b"\n')
    whole += change + "\n[[methods]]\nname = 'b'\nmethod = 'base'\n"
    whole += "" if "sets" in change else "[[sets]]\nname = 's'\ntask = 't'\ndata = 'd'\n"
    (tmp_path / "plan.toml").write_text(whole)
    with pytest.raises(ConfigError) as error:
        read_plan(tmp_path / "plan.toml")
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    "changes", [{}, {"people": 2}, {"sharing": 0}, {"outsiders_people": 2}, {"held_back": 2, "queries": None}]
)
def test_people_are_counted_with_what_became_of_them(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The numbers add up to the people in the files."""
    found = read_set(SetPlan.model_validate(data(tmp_path) | changes))
    everybody = {f"user{n}" for n in range(8)} | ({"stranger"} if "held_back" not in changes else set())
    assert sum(found.people.values()) == len(everybody) and found.people["asked"] == len(found.targets)
    assert sum(found.outsiders_found.values()) == 4 and found.outsiders_found["learnt from"] == len(found.outsiders)
    if not changes:
        assert found.people == {
            "asked": 4, "share and are not asked": 2, "without a usable record": 1, "without a query": 1,
            "without a query whose right answer is known": 1,
        }  # fmt: skip


def test_the_size_of_a_plan_and_what_is_smaller_than_asked_for(tmp_path: Path) -> None:
    big = plan(tmp_path, {"method": "knn", "k": 9}, sets={"people": 50}, seeds=(0, 1))
    (ready,) = check_plan(big, tmp_path / "out")
    size = size_of(big, ready)
    assert (size["asked"], size["queries"], size["methods"], size["answers"]) == (4, 4, 2, 16)
    assert any("50 users; the data have 4" in note for note in ready.notes)
    assert any("users have fewer than the 9 records" in note for note in ready.notes)


def test_the_dry_run_of_the_command(shell: QuickShell) -> None:
    given = data(shell.folder)
    sets = "\n".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
    text = 'name = "trial"\nbase = "random"\nbaseline = "base"\n[[methods]]\nname = "base"\nmethod = "base"\n[[sets]]\n'
    text += sets
    (shell.folder / "plan.toml").write_text(text)
    document = shell.json("bench", "run", "plan.toml", "out", "--dry-run")
    assert document["answers"] == 4 and document["sets"][0]["people"]["asked"] == 4
    told = shell.run("bench", "run", "plan.toml", "out", "--dry-run")
    assert "nothing is wrong with it" in told and "1 without a query" in told and not (shell.folder / "out").exists()


TASK = load_task("LaMP_2N")
LABEL, OTHER = (TASK.labels or ())[:2]


@pytest.mark.parametrize(
    ("outputs", "golds", "told"),
    [
        ([LABEL] * 20, [LABEL, OTHER] * 10, [f"it answers {LABEL!r} to all queries"]),
        ([LABEL] * 19 + [OTHER], [LABEL, OTHER] * 10, ["to 19 of 20 queries"]),
        ([LABEL] * 18 + [OTHER] * 2, [LABEL, OTHER] * 10, []),
        ([LABEL] * 20, [LABEL] * 20, []),  # and so it should
        ([LABEL] * 4, [LABEL, OTHER] * 2, []),  # too few to say
        (["", LABEL, OTHER, LABEL, " "], [LABEL, OTHER] * 2 + [LABEL], ["2 of 5 answers are empty"]),
        (["rubbish", LABEL, OTHER, LABEL, OTHER], [LABEL, OTHER] * 2 + [LABEL], ["1 of 5 answers are none of the"]),
    ],
)
def test_odd_answers(outputs: list[str], golds: list[str], told: list[str]) -> None:
    found = list(of_answers(TASK, outputs, golds))
    assert len(found) == len(told) and all(words in line for words, line in zip(told, found, strict=True)), found


def test_answers_that_may_be_cut_and_the_same_text() -> None:
    task = load_task("LaMP_4")
    most = task.max_new_tokens
    found = list(of_answers(task, ["a secret"] * 6, list("abcdef"), [most, most - 1, most, 1, 1, 1]))
    assert "the same text" in found[0] and "2 of 6 answers may be cut" in found[1] and "secret" not in "".join(found)


def test_odd_training() -> None:
    def made(steps: int, last: float, **config: float) -> Any:
        known = adapter(steps, "ada", provenance={"config": config})
        return replace(known, steps=steps, loss_first=2.0, loss_last=last)

    assert of_adapters([made(100, 0.5, warmup_ratio=0.1)] * 3) == []
    found = of_adapters([made(3, 1.99), made(100, float("nan")), made(50, 1.0, warmup_ratio=1.0)])
    words = ("12 optimizer steps or fewer for 1 of 3", "hardly moved", "no number", "warm-up")
    assert all(word in line for word, line in zip(words, found, strict=True)), found


def test_warnings_and_counts_stand_in_the_report(tmp_path: Path) -> None:
    """A short run: the training of 1 step is told in every form of the report; results of earlier versions are read."""
    short = plan(
        tmp_path, {"method": "own", "epochs": 1, "learning_rate": 1e-2}, {"method": "most_frequent"},
        adapt=False, sets={"people": 2},
    )  # fmt: skip
    out = tmp_path / "out"
    results = run_plan(short, out)
    (one,) = results.sets
    assert any(line.startswith("own: training took") for line in one.warnings), one.warnings
    assert run_plan(short, out).sets[0].warnings == one.warnings  # kept with what it cost
    assert one.people["asked"] == 2 == one.users and sum(one.people.values()) == 9
    lines = "\n".join(about(results, one))
    assert "Warning: own: training took" in lines and "Of 9 users in the data: 2 asked" in lines
    for name in ("report.md", "report.html", "results.json"):
        assert "training took" in (out / name).read_text()
    assert quality(results, one).rows
    document = json.loads((out / "results.json").read_text())
    for key in ("warnings", "people", "outsiders_found"):
        del document["sets"][0][key]
    (out / "results.json").write_text(json.dumps(document))
    assert read_results(out).sets[0].warnings == ()


def test_a_single_fault_keeps_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method 'own' is wrong"):
        check_plan(plan(tmp_path, {"method": "own", "epochs": -1}), tmp_path / "out")
    assert MethodPlan(name="a", method="own").settings == {}


WRONG_SETTINGS = [
    (method, setting, meant)
    for method in METHODS
    for setting, meant in (
        (
            {"adaptt": {}},
            "did you mean 'adapt'" if "adapt" in signature(METHODS[method].make).parameters else "such setting",
        ),
        ({"ragg": 1}, "did you mean 'rag'" if "rag" in signature(METHODS[method].make).parameters else "such setting"),
        ({"kk": 1}, "no such setting .*kk"),
        ({"share": 3}, "share"),
        ({"adapt": "x"}, "adapt"),
        ({"profile": 3}, "profile"),
        ({"rag": "two"}, "rag"),
        ({"k": "two"}, "k"),
        ({"top_k": "two"}, "top_k"),
        ({"epochs": "two"}, "epochs"),
        ({"preset": 3}, "preset"),
        ({"since": 3.5}, "since"),
        ({"target_modules": 3}, "target_modules"),
    )
]


@pytest.mark.parametrize(
    ("method", "setting", "meant"), WRONG_SETTINGS, ids=lambda one: str(one)[:20] if isinstance(one, str | dict) else ""
)
def test_a_wrong_setting_of_any_method_is_named(
    method: str, setting: dict[str, Any], meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=meant):
        check_settings(method, setting, TASK)
    whole = {
        "name": "trial",
        "base": "random",
        "baseline": "it",
        "sets": [{"name": "a", "task": "LaMP_2N", "data": "a"}],
    }
    wrong = Plan.model_validate({**whole, "methods": [{"name": "it", "method": method, **setting}]})
    monkeypatch.setattr(checking, "_check_files", lambda _: Problems())
    monkeypatch.setattr(checking, "read_set", lambda _: SetData("a", TASK, {"ada": History("ada", ())}, (), {}, {}))
    with pytest.raises(ConfigError, match=meant) as found:
        check_plan(wrong, tmp_path / "out")
    assert "Input should" not in str(found.value)


BAD = """
name = "bad"
base = "random"
baselin = "x"
baseline = "nope"
seeds = ["zero"]
share = { sharers = "x" }
settings.own = { epochs = 0 }

[[sets]]
name = "notes"
task = "triag.toml"
data = "nofile.jsonl"
held_bck = 2

[[sets]]
name = "notes"
task = "LaMP_2X"
data = "here.jsonl"

[[sets]]
name = "third"
people = "many"

[[methods]]
name = "a"
method = "mostfrequent"

[[methods]]
name = "a"
method = "own"
learningrate = 3

[[methods]]
name = "b"
"""


def test_one_run_names_all_mistakes_of_a_file_each_once_on_its_line(shell: QuickShell) -> None:
    (shell.folder / "plan.toml").write_text(BAD)
    (shell.folder / "here.jsonl").write_text("")
    told = shell.run("bench", "run", "plan.toml", "out", code=1)
    places = (
        "in the set 'notes': there is no key 'held_bck'", "in the set 'third' at 'people'",
        "in the set 'third': 'data' is missing", "in the set 'third': 'task' is missing",
        "in the method 'b': 'method' is missing", "no key 'baselin' .*did you mean 'baseline'",
        "at 'seeds' .*'zero', expected: a whole number", "2 sets of the plan are called 'notes'",
        "2 methods of the plan are called 'a'", "baseline 'nope' .*expected: a, b[)]", "'sharers' .*a whole number",
        "'epochs' .*1 or more", "did you mean 'most_frequent'", "did you mean 'learning_rate'",
        "no task file '[^ ]*triag.toml",
        "no file .*nofile.jsonl", "did you mean 'LaMP_2N'",
    )  # fmt: skip
    lines = [line for line in told.splitlines() if line.startswith("  ")]
    for place in places:
        assert sum(re.search(place, line) is not None for line in lines) == 1, (place, told)
    assert len(lines) == len(places) and f"in {len(places)} places" in told
    assert "Input should" not in told and "Tuple" not in told and "plans/" not in told
    assert not (shell.folder / "out").exists()
