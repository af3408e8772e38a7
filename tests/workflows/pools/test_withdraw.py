"""Sharers withdraw from pools: whoever else is in them, and whatever fails."""

from pathlib import Path

import pytest

from ownlm.errors import NotFoundError, PoolError, StoreError
from ownlm.home import Home
from ownlm.store.pools import users_of
from ownlm.workflows.pools.withdraw import DAMAGED, EMPTIED, WITHDRAWN
from tests.community import rows, write_rows
from tests.sharing import GIVERS, OTHERS, TASK, ask, everything, ids_of, share


def test_nobody_unknown_is_withdrawn(shared: Home) -> None:
    before = everything(shared.store.folder / "pools")
    for who in ("kara", "nobody", "0" * 16, ""):
        with pytest.raises(NotFoundError, match="No pool of the home has pieces"):
            shared.pools.withdraw(who)
    assert everything(shared.store.folder / "pools") == before


def test_with_the_last_sharer_the_pool_goes_and_its_recipes_are_stale(agreed: Home) -> None:
    share(agreed, users=["gina"], sharers=1)
    agreed.assemble(TASK, users=OTHERS, top_k=1)
    done = agreed.pools.withdraw("gina")
    assert done.pools[0][1] is None and done.affected == list(OTHERS) and done.again.assembled == []
    assert done.again.stale == [(user, EMPTIED) for user in OTHERS]
    assert agreed.pools.ls() == [] and not list((agreed.store.folder / "pools").iterdir())
    (answer,) = ask(agreed, "kara")
    assert answer.answer and answer.adapter is None and EMPTIED in (answer.warning or "")
    assert not agreed.doctor().wrong


def test_too_few_left_to_select_from_leaves_recipes_stale(shared: Home) -> None:
    shared.assemble(TASK, top_k=4)
    done = shared.pools.withdraw("gina")
    assert done.affected == list(OTHERS) and done.again.assembled == [] and done.untouched == 0
    assert [user for user, _ in done.again.stale] == list(OTHERS)
    assert all(why.startswith(f"{WITHDRAWN}; The pool has fewer sharers") for _, why in done.again.stale)
    assert all(one.answer and one.warning and one.adapter is None for one in ask(shared, *OTHERS))
    assert "`ownlm assemble --task sorting`: recipes that are stale or behind 3" in " ".join(shared.doctor().next)
    assert len(shared.assemble(TASK, users=OTHERS, top_k=3).assembled) == 3
    assert [len(shared.adapters(user)) for user in OTHERS] == [1, 1, 1]  # what was stale made room


def test_only_who_was_named_is_withdrawn(shared: Home) -> None:
    shared.consent("hugo", False)
    assert shared.pools.withdraw("gina").sharers and sorted(users_of(shared.store).values()) == [
        "hugo",
        "ines",
        "jens",
    ]
    with pytest.raises(PoolError, match="consent"):
        shared.assemble(TASK, users=["kara"])
    shared.pools.withdraw("hugo")
    assert shared.assemble(TASK, users=["kara"], top_k=2).assembled


def test_a_sharer_can_be_withdrawn_from_a_damaged_pool(shared: Home) -> None:
    shared.assemble(TASK)
    shared.train(TASK, users=["luca"], epochs=1, batch_size=4, learning_rate=1e-3)
    (info,) = shared.pools.ls()
    (Path(info.folder) / "pool.json").write_bytes(b"{}")
    share(shared, users=["ines", "jens"], sharers=2)  # another one, whole
    done = shared.pools.withdraw("gina", again=False)
    assert done.pools == [(info.digest, None)] and done.affected == list(OTHERS)
    assert [one.sharers for one in shared.pools.ls()] == [2] and not shared.doctor().wrong
    kara, luca = ask(shared, "kara", "luca")
    assert DAMAGED in (kara.warning or "") and luca.adapter and not luca.warning
    assert shared.forget("gina").records == 15


def test_a_sharer_of_several_pools_is_withdrawn_from_all(shared: Home) -> None:
    share(shared, seed=1)
    share(shared, users=["ines", "jens"], sharers=2)
    done = shared.pools.withdraw("gina")
    assert len(done.sharers) == len(done.pools) == 2
    assert sorted(one.sharers for one in shared.pools.ls()) == [2, 3, 3]
    assert "gina" not in users_of(shared.store).values() and set(users_of(shared.store).values()) == set(GIVERS[1:])


def test_what_fails_midway_changes_nothing(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.assemble(TASK)
    before, recipes = everything(shared.store.folder / "pools"), shared.adapters()

    def fail(*args: object, **more: object) -> None:
        raise StoreError("The disk is full")

    monkeypatch.setattr("ownlm.store.pools.replace_pool", fail)
    with pytest.raises(StoreError, match="full"):
        shared.pools.withdraw("gina")
    monkeypatch.undo()
    assert everything(shared.store.folder / "pools") == before and shared.adapters() == recipes
    assert not shared.doctor().wrong and shared.pools.withdraw("gina").pools


def test_a_sharer_is_withdrawn_by_the_beginning_of_their_id(shared: Home) -> None:
    gone, stays = ids_of(shared, ["gina"])[0], ids_of(shared, ["hugo"])[0]
    before = everything(shared.store.folder / "pools")
    for short in (gone[:5], gone[:6] + "x", stays[6:]):
        with pytest.raises(NotFoundError, match=r"has pieces of .* 6 letters or more"):
            shared.pools.withdraw(short)
    shared.add_history(write_rows(shared.store.folder.parent / "odd.jsonl", rows(gone[:8], 2)), TASK)
    with pytest.raises(NotFoundError, match="has pieces of"):  # a person's name, and no beginning of another's id
        shared.pools.withdraw(gone[:8])
    assert everything(shared.store.folder / "pools") == before
    assert shared.pools.withdraw(gone[:7]).sharers == [gone]
    assert sorted(users_of(shared.store).values()) == list(GIVERS[1:])
