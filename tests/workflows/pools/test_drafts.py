"""Sharing goes on where it stopped: nobody is trained twice on the same, and everybody anew on anything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ownlm.workflows.pools.share as module
from ownlm.errors import NotFoundError
from ownlm.home import Home
from ownlm.oppu.fleet import Run
from ownlm.store.drafts import drafts
from ownlm.store.rows import DraftInfo
from ownlm.workflows.pools.report import Drafted, Shared
from tests.community import rows, write_rows
from tests.sharing import GIVERS, OTHERS, SHARE, TASK, Pieces, everything, ids_of, make_home, pieces_of, share

ALL, NONE = Drafted(4, 0), Drafted(0, 4)  # trained, and there


def pieces(home: Home, shared: Shared) -> Pieces:
    return pieces_of(home, home.pools.open(shared.pool.digest)[1])


def differing(one: Pieces, other: Pieces) -> set[tuple[str, str]]:
    """Whose pieces are not bit for bit the same, and in which part; of modules that both give."""
    return {
        (user, part)
        for user in one.keys() & other.keys()
        for name in one[user].keys() & other[user].keys()
        for part in ("A_RD", "B_OR", "gate_D")
        if not torch.equal(getattr(one[user][name], part), getattr(other[user][name], part))
    }


def counted(home: Home, **changes: Any) -> tuple[Shared, int]:
    """A pool, and how many steps were taken for it."""
    steps = dict[str, float]()

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        if stage.endswith(", steps"):
            steps[stage] = done

    return share(home, progress=progress, **changes), round(sum(steps.values()))


@pytest.mark.parametrize(
    "changes", [{}, {"ratio": 0.5}, {"centre": True}, {"slots": 1}, {"tokens_per_step": 300}, {"select": "random"}]
)
def test_another_pool_of_the_same_people_trains_nobody(shared: Home, changes: dict[str, Any]) -> None:
    kept, (old,) = drafts(shared.store), shared.pools.ls()
    second, steps = counted(shared, **changes)
    assert (second.adapters, second.gates, steps) == (NONE, NONE, 0) and drafts(shared.store) == kept
    differ = differing(pieces_of(shared, shared.pools.open(old.digest)[1]), pieces(shared, second))
    assert {part for _, part in differ} == ({"gate_D"} if "centre" in changes else set())
    assert not shared.doctor().wrong


def test_of_more_sharers_only_the_new_ones_are_trained(agreed: Home) -> None:
    first, steps = counted(agreed, sharers=3, select="active")
    assert (first.adapters, first.gates, steps) == (Drafted(3, 0), Drafted(3, 0), 3 * (4 + 4))
    told = list[tuple[object, ...]]()
    second = share(agreed, progress=lambda *what: told.append(what))
    assert second.adapters == second.gates == Drafted(1, 3)
    assert told.count(("sharers' adapters", 3, 4, "were there")) == told.count(("gates", 3, 4, "were there")) == 1
    assert not differing(pieces(agreed, first), pieces(agreed, second)) and len(second.sharers) == 4


@pytest.mark.parametrize("changes", [{"seed": 1}, {"learning_rate": 2e-2}, {"r": 4, "lora_alpha": 4}, {"recent": 5}])
def test_with_other_settings_everybody_is_trained_anew(shared: Home, changes: dict[str, Any]) -> None:
    made = share(shared, **changes)
    assert (made.adapters, made.gates) == (ALL, ALL)
    assert len(drafts(shared.store)) == 8 == len(shared.store.blobs.files())  # in the older ones' place
    assert share(shared, **changes).gates == NONE and not shared.doctor().wrong


def test_other_words_versions_or_bases_train_everybody_anew(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    task = shared.task(TASK)
    shared.store.put_task(task.model_copy(update={"instruction": f"{task.instruction} Now."}))
    assert share(shared).adapters == ALL
    genuine = module.versions
    monkeypatch.setattr(module, "versions", lambda: genuine() | {"torch": "another"})
    assert share(shared).adapters == ALL and len(drafts(shared.store)) == 8
    shared.adapt("adapted", TASK, users=list(OTHERS), epochs=1)
    assert share(shared, base="adapted").adapters == ALL and len(drafts(shared.store)) == 16
    assert share(shared, base="tiny").adapters == share(shared, base="adapted").gates == NONE


def test_with_other_gate_settings_only_gates_are(shared: Home) -> None:
    made = share(shared, gate_steps=5)
    assert (made.adapters, made.gates) == (NONE, ALL) and len(drafts(shared.store)) == 8
    assert share(shared, gate_steps=5).gates == NONE


def test_dropout_is_a_setting_and_the_tokens_of_a_step_are_none(agreed: Home) -> None:
    assert share(agreed).adapters == ALL
    assert share(agreed, lora_dropout=0.1).adapters == ALL
    assert share(agreed, lora_dropout=0.1, slots=2, tokens_per_step=512).adapters == NONE


def test_whose_history_changed_is_trained_anew(shared: Home, tmp_path: Path) -> None:
    shared.add_history(write_rows(tmp_path / "more.jsonl", rows("hugo", 1, first=90)), TASK)
    made = share(shared)
    assert made.adapters == made.gates == Drafted(1, 3)
    shared.forget_record("gina", "gina-3")
    made = share(shared)
    assert made.adapters == made.gates == Drafted(1, 3)


def test_a_profile_counts_where_prompts_show_it(agreed: Home) -> None:
    agreed.profile(TASK, counted=True)
    assert share(agreed).adapters == ALL
    assert share(agreed, profile=True).adapters == ALL
    assert share(agreed, profile=True).adapters == NONE
    with agreed.store.database.writing() as db:
        db.exec_driver_sql("UPDATE profiles SET text = text || ' indeed' WHERE user = 'ines'")
    assert share(agreed, profile=True).adapters == Drafted(1, 3)


def damage(home: Home, draft: DraftInfo) -> None:
    path = home.store.blobs.folder / draft.blob[:2] / f"{draft.blob}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def lose(home: Home, draft: DraftInfo) -> None:
    (home.store.blobs.folder / draft.blob[:2] / f"{draft.blob}.safetensors").unlink()


@pytest.mark.parametrize("spoil", [damage, lose])
def test_what_is_lost_or_damaged_is_trained_anew(shared: Home, spoil: Callable[[Home, DraftInfo], None]) -> None:
    adapter, gates = drafts(shared.store, user="hugo")
    spoil(shared, gates)
    (finding,) = shared.doctor().wrong
    assert "draft of user 'hugo' (gates" in finding.what and "trains it again" in finding.hint
    made = share(shared)
    assert (made.adapters, made.gates) == (NONE, Drafted(1, 3)) and not shared.doctor().wrong
    spoil(shared, adapter)
    made = share(shared)
    assert (made.adapters, made.gates) == (Drafted(1, 3),) * 2 and not shared.doctor().wrong


def test_company_does_not_matter(tmp_path: Path, tiny_base: Path) -> None:
    one, other = make_home(tmp_path / "one", tiny_base), make_home(tmp_path / "other", tiny_base)
    for user in reversed(GIVERS):
        assert share(one, users=[user], sharers=1, slots=1).gates == Drafted(1, 0)
    made = share(one)
    assert (made.adapters, made.gates) == (NONE, NONE)
    assert not differing(pieces(one, made), pieces(other, share(other, slots=1)))


def tensors(home: Home, user: str) -> set[bytes]:
    """The bytes of the tensors in a person's drafts."""
    from safetensors.torch import load

    whole = [load(home.store.blobs.get(one.blob)) for one in drafts(home.store, user=user)]
    return {tensor.numpy().tobytes() for tensors in whole for tensor in tensors.values()}


def no_share(home: Home) -> None:
    home.consent("gina", False)


def withdraw(home: Home) -> None:
    assert home.pools.withdraw("gina").drafts == 2


def forget(home: Home) -> None:
    home.forget("gina")


def forget_record(home: Home) -> None:
    home.forget_record("gina", "gina-3")


@pytest.mark.parametrize("go", [no_share, withdraw, forget, forget_record])
@pytest.mark.parametrize("pooled", [True, False])
def test_no_tensor_is_left_of_who_changes_their_mind(shared: Home, go: Callable[[Home], None], pooled: bool) -> None:
    if not pooled:
        shared.pools.remove(shared.pools.ls()[0].digest)
    theirs, others = tensors(shared, "gina"), tensors(shared, "hugo")
    before = everything(shared.store.folder)
    assert len(theirs) == 8 * 3 and all(any(one in data for data in before.values()) for one in theirs)
    go(shared)
    for path, data in everything(shared.store.folder).items():
        if path.parts[0] != "pools" or go in (withdraw, forget):  # out of a pool, a withdrawal takes them
            assert not any(one in data for one in theirs), path
    assert drafts(shared.store, user="gina") == [] and tensors(shared, "hugo") == others
    assert len(drafts(shared.store)) == 6 and not shared.doctor().wrong


@pytest.mark.parametrize("go", [no_share, forget])
def test_nothing_is_left_in_a_pool_whose_making_was_killed(
    agreed: Home, go: Callable[[Home], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("ownlm.store.pools.add_pool", killed)
        share(agreed)
    theirs, pieces = tensors(agreed, "gina"), Path("pools")
    assert any(path.is_relative_to(pieces) for path in everything(agreed.store.folder))
    go(agreed)
    assert not any(one in data for data in everything(agreed.store.folder).values() for one in theirs)
    assert not agreed.doctor().wrong


def test_pools_may_go_while_drafts_stay(shared: Home) -> None:
    shared.pools.remove(shared.pools.ls()[0].digest)
    made, steps = counted(shared)
    assert (made.adapters, made.gates, steps) == (NONE, NONE, 0)


def test_who_gives_a_random_id_withdraws_the_drafts_too(shared: Home) -> None:
    done = shared.pools.withdraw(ids_of(shared, ["gina"])[0])
    assert done.drafts == 2 and drafts(shared.store, user="gina") == []


def test_who_was_never_in_a_pool_can_withdraw(agreed: Home) -> None:
    interrupted(agreed, after=3)
    user = drafts(agreed.store)[0].user
    done = agreed.pools.withdraw(user)
    assert done.drafts == 1 and done.pools == [] and drafts(agreed.store, user=user) == []
    with pytest.raises(NotFoundError, match="No pool of the home"):
        agreed.pools.withdraw(user)


def interrupted(home: Home, after: int, **changes: Any) -> None:
    """Sharing is stopped by Ctrl-C, when so many runs have ended."""
    genuine, ended = module.train_fleet, list[Run]()

    def stopping(*args: Any, **how: Any):  # type: ignore[no-untyped-def]
        for run in genuine(*args, **how):
            ended.append(run)
            yield run
            if len(ended) == after:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "train_fleet", stopping)
        with pytest.raises(KeyboardInterrupt):
            share(home, **changes)


@pytest.mark.parametrize("after", [1, 4, 5, 8])
def test_ctrl_c_loses_those_in_flight_alone(tmp_path: Path, tiny_base: Path, after: int) -> None:
    home, other = make_home(tmp_path / "home", tiny_base), make_home(tmp_path / "other", tiny_base)
    interrupted(home, after, slots=1)
    assert len(drafts(home.store)) == after and home.pools.ls() == [] and not home.doctor().wrong
    made, steps = counted(home, slots=1)
    adapters = min(after, 4)
    assert (made.adapters, made.gates) == (
        Drafted(4 - adapters, adapters),
        Drafted(8 - max(after, 4), after - adapters),
    )
    assert steps == 4 * (8 - after)
    assert not differing(pieces(home, made), pieces(other, share(other, slots=1)))


def test_of_who_changes_their_mind_in_training_nothing_is_kept(agreed: Home) -> None:
    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        if stage == "sharers' adapters, steps" and agreed.consent("hugo").shares:
            agreed.consent("hugo", False)

    with pytest.raises(NotFoundError, match="between selection and sharing: hugo"):
        share(agreed, progress=progress)
    assert [one.user for one in drafts(agreed.store)] == ["gina", "ines", "jens"] and not agreed.doctor().wrong
    assert share(agreed, sharers=3).adapters == Drafted(0, 3)


def test_whose_training_fails_has_no_draft_and_is_tried_again(agreed: Home, tmp_path: Path) -> None:
    (long,) = rows("hugo", 1, first=90)
    agreed.add_history(write_rows(tmp_path / "long.jsonl", [long | {"text": "bananas " * 700}]), TASK)
    for expected in (Drafted(3, 0), Drafted(0, 3)):
        made = share(agreed)
        assert (made.adapters, made.gates) == (expected, expected)
        assert [user for user, _ in made.failed] == ["hugo"] and len(made.sharers) == 3


def test_drafts_name_what_they_are_for(shared: Home) -> None:
    base = shared.bases()[0]
    found = drafts(shared.store)
    assert [(one.user, one.kind) for one in found] == [(user, k) for user in GIVERS for k in ("adapter", "gates")]
    assert {(one.task, one.base_fingerprint) for one in found} == {(TASK, base.fingerprint)}
    assert len({one.key for one in found}) == 8 and SHARE["steps"] == 4
    assert all(one.bytes == len(shared.store.blobs.get(one.blob)) for one in found)
