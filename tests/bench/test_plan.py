from pathlib import Path

import pytest

from ownlm.bench.check import check_settings
from ownlm.bench.methods import METHODS
from ownlm.bench.plan import read_plan
from ownlm.errors import ConfigError, NotFoundError

PLANS_FOLDER = Path(__file__).resolve().parents[2] / "plans"
PLANS = sorted(path for path in PLANS_FOLDER.glob("*.toml") if path.name != "sizes.toml")

SIZES = """
[small]
base = "random"
share = { steps = 2 }
settings.own = { epochs = 1, recent = 5 }

[[small.sets]]
name = "notes"
task = "notes.toml"
data = "data/notes.jsonl"
people = 4

[[small.sets]]
name = "mail"
task = "mail-subject"
data = "/elsewhere/mail.jsonl"

[large]
base = "big"
sets = [{ name = "lamp", task = "LaMP_4", data = "lamp.json" }]
"""

PLAN = """
name = "trial"
size = "small"
baseline = "adapted base"
[[methods]]
name = "adapted base"
method = "adapted"
[[methods]]
name = "own adapter"
method = "own"
epochs = 3
"""


def write(folder: Path, plan: str = PLAN, sizes: str = SIZES) -> Path:
    (folder / "sizes.toml").write_text(sizes, "utf8")
    (folder / "plan.toml").write_text(plan, "utf8")
    return folder / "plan.toml"


def test_a_size_stands_below_the_plan(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path))
    assert (plan.base, plan.size, plan.share) == ("random", "small", {"steps": 2})
    assert [one.name for one in plan.sets] == ["notes", "mail"]
    assert plan.settings_of(plan.methods[1]) == {"epochs": 3, "recent": 5}
    assert plan.settings_of(plan.methods[0]) == {}


def test_one_line_changes_the_size(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, PLAN.replace('"small"', '"large"')))
    assert (plan.base, [one.task for one in plan.sets]) == ("big", ["LaMP_4"])
    assert read_plan(tmp_path / "plan.toml", "small") == read_plan(write(tmp_path))


def test_paths_count_from_the_file_that_names_them(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    write(tmp_path)
    text = f'sizes = "../sizes.toml"\n{PLAN}\n[[sets]]\nname = "own"\ntask = "LaMP_4"\ndata = "here.json"\n'
    (inner / "plan.toml").write_text(
        text + '[[sets]]\nfrom = "notes"\npeople = 2\noutsiders = "others.jsonl"\n', "utf8"
    )
    own, notes = read_plan(inner / "plan.toml").sets
    assert own.data == inner / "here.json"
    assert notes.data.resolve() == tmp_path / "data" / "notes.jsonl"
    assert Path(notes.task).resolve() == tmp_path / "notes.toml"
    assert (notes.outsiders, notes.people) == (inner / "others.jsonl", 2)


def test_every_set_of_the_size_with_a_change(tmp_path: Path) -> None:
    plan = PLAN + '[[sets]]\nfrom = "*"\n[[sets]]\nfrom = "*"\nsuffix = "shifted"\nshift = "bm25"\n'
    sets = read_plan(write(tmp_path, plan)).sets
    assert [one.name for one in sets] == ["notes", "mail", "notes, shifted", "mail, shifted"]
    assert [one.shift for one in sets] == [None, None, "bm25", "bm25"]


def test_a_bases_folder_counts_from_the_file_that_names_it(tmp_path: Path) -> None:
    plan = PLAN.replace('name = "trial"', 'name = "trial"\nbase = "models/mine"')
    assert read_plan(write(tmp_path, plan)).base == "models/mine"  # such as one at the hub
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert read_plan(write(tmp_path, plan)).base == str(tmp_path / "models" / "mine")


def test_sets_are_left_out_of_each(tmp_path: Path) -> None:
    plan = PLAN + '[[sets]]\nfrom = "*"\nwithout = ["mail", "of another size"]\n'
    assert [one.name for one in read_plan(write(tmp_path, plan)).sets] == ["notes"]


@pytest.mark.parametrize("which", ['from = "*"\nwithout = "mail"', 'from = "notes"\nwithout = ["mail"]'])
def test_what_cannot_be_left_out(tmp_path: Path, which: str) -> None:
    with pytest.raises(ConfigError, match="without"):
        read_plan(write(tmp_path, f"{PLAN}[[sets]]\n{which}\n"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('baseline = "adapted base"', 'baseline = "nobody"'), "baseline 'nobody'"),
        (('name = "own adapter"', 'name = "adapted base"'), "called 'adapted base'"),
        (('name = "trial"', 'name = "trial"\nseeds = [1, 1]'), "seed is repeated"),
        (('name = "trial"', 'name = "trial"\ncolour = "red"'), "colour.*Expected: one of: name, size, base"),
        (('name = "trial"', 'name = "trial"\nprofile = { writer = "base", url = "https://x" }'), "one writer"),
        (('size = "small"', 'size = "huge"'), "no size 'huge'"),
        (('name = "trial"', 'name = "trial"\nsets = ["letters"]'), "'letters'"),
        (('name = "trial"', "name = trial"), "no TOML"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    path = write(tmp_path, PLAN.replace(*change))
    with pytest.raises((ConfigError, NotFoundError), match=told):
        read_plan(path)


def test_a_size_without_its_file(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN, "utf8")
    with pytest.raises(NotFoundError, match=r"the size 'small' in it"):
        read_plan(tmp_path / "plan.toml")


def test_somebody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leaves no user to ask"):
        read_plan(write(tmp_path, PLAN + '[[sets]]\nfrom = "notes"\nsharing = 1\n'))


def test_no_plan_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        read_plan(tmp_path / "plan.toml")


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", ["tiny", "cpu", "full"])
def test_the_shipped_plans(path: Path, size: str) -> None:
    plan = read_plan(path, size)
    assert plan.size == size
    for method in plan.methods:
        check_settings(method.method, plan.settings_of(method))


def test_the_main_plan_has_every_method() -> None:
    assert {method.method for method in read_plan(PLANS_FOLDER / "main.toml").methods} == set(METHODS)


@pytest.mark.parametrize("wrong", ["sets = 3", "sets = [3]", "settings = 3", "settings.own = 3"])
def test_sets_and_settings_of_another_shape(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError, match="The se"):
        read_plan(write(tmp_path, wrong + PLAN))
    with pytest.raises(ConfigError, match="The se"):
        read_plan(write(tmp_path, PLAN, f'[small]\nbase = "random"\n{wrong}\n'))
