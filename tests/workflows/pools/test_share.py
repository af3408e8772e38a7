"""Sharing: who agrees, at every moment, and what a pool tells about whom."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ownlm.errors import ConfigError, DataError, NotFoundError, PoolError, TrainingError
from ownlm.history.record import History
from ownlm.home import Home
from ownlm.oppu.examples import tokenize
from ownlm.perpcs.assemble import Target
from ownlm.perpcs.features import mean_features
from ownlm.perpcs.piece import kept_modules
from ownlm.prompt.example import history_examples
from ownlm.store.pools import users_of
from ownlm.workflows.options import ShareOptions
from ownlm.workflows.plan import share_plan
from tests.community import rows, write_rows
from tests.sharing import GIVERS, OTHERS, SHARE, TASK, Pieces, everything, make_home, pieces_of, share


def assert_same(one: Pieces, other: Pieces) -> None:
    assert one.keys() == other.keys()
    for user, own in one.items():
        assert own.keys() == other[user].keys()
        for name, piece in own.items():
            for part in ("A_RD", "B_OR", "gate_D"):
                ours, theirs = getattr(piece, part), getattr(other[user][name], part)
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def no_pool(home: Home) -> bool:
    """Whether there is neither a pool nor anything of one."""
    return home.pools.ls() == [] and not list((home.store.folder / "pools").glob("*")) and not users_of(home.store)


def test_a_pool_is_made_of_those_who_agree(shared: Home) -> None:
    info, pool = shared.pools.open()
    assert (info.version, info.parent, info.sharers, info.own, info.task) == (1, None, 4, True, TASK)
    assert pool.manifest.licence == "CC-BY-4.0" and info.provenance == pool.manifest.provenance
    given = pieces_of(shared, pool)
    assert set(given) == set(GIVERS) and all(set(own) == set(pool.modules) for own in given.values())
    for own in given.values():
        assert all(piece.B_OR.abs().sum() > 0 and piece.gate_D.abs().sum() > 0 for piece in own.values())
    assert not shared.doctor().wrong


def test_nobody_shares_who_has_not_agreed(agreed: Home) -> None:
    with pytest.raises(NotFoundError, match=r"not agreed to share: kara.*users consent"):
        share(agreed, users=["gina", "kara"])
    for user in GIVERS:
        agreed.consent(user, False)
    with pytest.raises(NotFoundError, match="has agreed to share"):
        share(agreed)
    agreed.consent("kara", True)
    with pytest.raises(DataError, match=r"enough records to share.*kara \(6\)"):
        share(agreed)
    assert no_pool(agreed)


def test_only_those_named_are_chosen_and_of_those_only_so_many(agreed: Home) -> None:
    report = share(agreed, users=["jens", "hugo", "ines"], sharers=2, select="active")
    assert report.sharers == ["hugo", "ines"] and report.candidates == 3
    assert set(users_of(agreed.store).values()) == {"hugo", "ines"}


@pytest.mark.parametrize("ratio", [0, -0.5, 1.01, float("nan")])
def test_a_ratio_out_of_range_is_refused(agreed: Home, ratio: float) -> None:
    with pytest.raises(ConfigError, match="ratio"):
        share(agreed, ratio=ratio)
    assert no_pool(agreed)


def test_with_a_ratio_each_gives_a_part_of_their_modules(agreed: Home) -> None:
    share(agreed, ratio=0.25)
    _, pool = agreed.pools.open()
    given = pieces_of(agreed, pool)
    assert {len(own) for own in given.values()} == {round(0.25 * len(pool.modules))}
    assert len({tuple(own) for own in given.values()}) > 1  # not the same ones
    assert agreed.assemble(TASK, users=["kara"]).assembled[0].user == "kara"
    assert not agreed.doctor().wrong


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_the_same_seed_and_home_give_the_same_pieces(tmp_path: Path, tiny_base: Path, ratio: float) -> None:
    one, other = make_home(tmp_path / "one", tiny_base), make_home(tmp_path / "other", tiny_base)
    first, second = share(one, ratio=ratio).pool, share(other, ratio=ratio).pool
    assert first.digest != second.digest  # random ids
    assert_same(pieces_of(one, one.pools.open()[1]), pieces_of(other, other.pools.open()[1]))


def test_another_seed_gives_other_pieces(shared: Home) -> None:
    one = pieces_of(shared, shared.pools.open()[1])
    share(shared, seed=1)
    info, pool = shared.pools.open()
    other = pieces_of(shared, pool)
    name = pool.modules[0]
    assert not torch.allclose(one["gina"][name].A_RD, other["gina"][name].A_RD, atol=1e-3)
    assert (info.version, info.parent) == (1, None)  # no version of the first: it has others' ids, and may be another


def test_no_file_of_a_pool_names_anybody(shared: Home) -> None:
    files = everything(shared.store.folder / "pools")
    assert len(files) == len(shared.pools.open()[1].modules) + 1
    content = b"".join(str(path).encode() + data for path, data in files.items()).lower()
    for trace in (*GIVERS, *OTHERS, "secret", "user_id", str(shared.store.folder)):
        assert trace.encode() not in content
    (manifest,) = [json.loads(data) for path, data in files.items() if path.name == "pool.json"]
    assert all(len(sharer) == 16 for sharer in manifest["sharers"])


def test_a_guessed_name_cannot_be_checked_against_the_pieces(agreed: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither which modules a sharer gives, nor their fresh weights, follow from the name and what the pool tells."""
    names = list[str]()
    monkeypatch.setattr("ownlm.workflows.pools.share.new_sharer_id", lambda: names.append("") or f"{len(names):016x}")
    share(agreed, ratio=0.5, learning_rate=1e-12, gate_learning_rate=1e-12)
    _, pool = agreed.pools.open()
    seed, given = pool.manifest.provenance["seed"], pieces_of(agreed, pool)
    guessed = [kept_modules(seed, user, pool.modules, 0.5) for user in GIVERS]
    assert [list(given[user]) for user in GIVERS] != guessed
    one = given["gina"]
    agreed.train(TASK, users=["gina"], epochs=1, learning_rate=1e-12, target_modules=pool.lora.target_modules)
    from ownlm.inference.load import read_adapter

    fresh = read_adapter(agreed.store, agreed.adapters("gina")[-1])  # as good as what the seed and the name begin with
    assert not any(torch.allclose(piece.A_RD, fresh.pairs[name].A_RD, atol=1e-4) for name, piece in one.items())


def take_back(home: Home) -> None:
    home.consent("hugo", False)


def agree_to_something_else(home: Home) -> None:
    home.consent("hugo", False)
    home.consent("hugo", True, "for research only")


def forget_a_record(home: Home) -> None:
    home.forget_record("hugo", "hugo-3")


def forget(home: Home) -> None:
    home.forget("hugo")


STEPS = ("_candidates", "choose_sharers", "adapters_of", "gates_of", "_write", "admit")


@pytest.mark.parametrize("change", [take_back, agree_to_something_else, forget_a_record, forget])
def test_what_changes_between_choosing_and_sharing_leaves_no_pool(
    agreed: Home, change: Callable[[Home], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_during(monkeypatch, "adapters_of", lambda: change(agreed))
    with pytest.raises(NotFoundError, match=r"between selection and sharing: hugo.*was not kept"):
        share(agreed)
    assert no_pool(agreed) and not agreed.doctor().wrong


@pytest.mark.parametrize("step", STEPS)
def test_consent_taken_back_at_any_step_leaves_no_pool(
    agreed: Home, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_during(monkeypatch, step, lambda: take_back(agreed))
    with pytest.raises(NotFoundError, match="hugo"):
        share(agreed)
    assert no_pool(agreed)
    monkeypatch.undo()
    assert share(agreed, sharers=3).pool.sharers == 3


def changed_during(monkeypatch: pytest.MonkeyPatch, step: str, change: Callable[[], None]) -> None:
    """Something happens just after one of the steps of sharing, for the first time."""
    import ownlm.workflows.pools.share as module

    genuine, due = getattr(module, step), [change]

    def disturbed(*args: object, **more: object) -> object:
        result = genuine(*args, **more)
        if due:
            due.pop()()
        return result

    monkeypatch.setattr(module, step, disturbed)


def test_records_that_come_meanwhile_do_no_harm(agreed: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = write_rows(tmp_path / "more.jsonl", rows("hugo", 1, first=90))
    changed_during(monkeypatch, "adapters_of", lambda: agreed.add_history(more, TASK) and None)
    assert share(agreed).pool.sharers == 4


@pytest.mark.parametrize("step", ["write_pool", "admit", "pool_info"])
def test_what_is_interrupted_leaves_no_pool(agreed: Home, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    changed_during(monkeypatch, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        share(agreed)
    monkeypatch.undo()
    assert agreed.pools.ls() == [] and share(agreed).pool.version == 1
    assert len(list((agreed.store.folder / "pools").iterdir())) == 1 and not agreed.doctor().wrong


def test_training_that_diverges_leaves_no_pool(agreed: Home) -> None:
    with pytest.raises((TrainingError, PoolError)):  # whichever sees it first
        share(agreed, learning_rate=1.0, steps=20, max_grad_norm=1e9)
    assert no_pool(agreed)


def test_a_record_longer_than_the_context_is_told_with_its_person(agreed: Home, tmp_path: Path) -> None:
    (long,) = rows("hugo", 1, first=90)
    agreed.add_history(write_rows(tmp_path / "long.jsonl", [long | {"text": "bananas " * 700}]), TASK)
    made = share(agreed)
    ((user, error),) = made.failed
    assert user == "hugo" and "hugo" not in made.sharers and made.pool.sharers == len(made.sharers) == 3
    assert "'hugo-90' of user 'hugo' is longer" in str(error) and "bananas" not in str(error)
    with pytest.raises(DataError, match="is longer"):
        share(agreed, users=["hugo"])
    assert [one.digest for one in agreed.pools.ls()] == [made.pool.digest]


def test_a_pool_has_one_licence(agreed: Home) -> None:
    agreed.consent("gina", True, licence="CC0")
    with pytest.raises(ConfigError, match=r"different licences.*2 licences.*users with the same one"):
        share(agreed)
    assert no_pool(agreed)


def test_centred_gates_are_blind_to_what_histories_have_in_common(agreed: Home) -> None:
    plain, made = share(agreed), share(agreed, centre=True)
    plan = share_plan(agreed.store, agreed.keep_task(TASK), ShareOptions(task=TASK, **SHARE))
    base = agreed.load(plan.base)
    people = [
        Target(user, tokenize(base, user, history_examples(plan.task, agreed.history(user, TASK)))) for user in GIVERS
    ]
    mean = mean_features(base, plan.config.lora, people)
    one, other = (agreed.pools.open(info.pool.digest)[1] for info in (plain, made))
    for name in one.modules:
        before_N, after_N = ((pool.gates(name).double() @ mean[name]).abs() for pool in (one, other))
        assert after_N.max() < 1e-6 * before_N.min() + 1e-9 and before_N.min() > 1e-6
    with pytest.raises(ConfigError, match="centring"):
        share(agreed, users=["gina"], centre=True)


def test_what_a_pool_was_made_with_can_be_seen_and_names_no_folder(agreed: Home, tmp_path: Path) -> None:
    asked = ShareOptions(task=TASK, embedder=tmp_path, users=("gina",), **SHARE)
    plan = share_plan(agreed.store, agreed.keep_task(TASK), asked)
    told = json.dumps(plan.provenance())
    assert "gina" not in told and str(tmp_path) not in told and plan.provenance()["gate"]["steps"] == 4
    assert isinstance(agreed.store.history(TASK, "gina"), History)
