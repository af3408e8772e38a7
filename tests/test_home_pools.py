"""A home in which people share, are assembled, and withdraw: what is left of whom, and who is answered how."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from ownlm.errors import ConfigError, NotFoundError, PoolError, StoreError
from ownlm.home import Home
from ownlm.inference.adapter_cache import AdapterCache, AdapterSlot
from ownlm.inference.load import read_adapter
from ownlm.model.adapter import Adapter
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool, open_pool
from ownlm.perpcs.version import PoolHead, write_pool
from ownlm.store import pools
from ownlm.store.pools import users_of
from ownlm.store.rows import AdapterInfo
from ownlm.workflows.pools.lineage import signing_key
from tests.community import home_on, rows, write_rows, write_task
from tests.namespace import READ_ONLY, work_with_mount
from tests.sharing import GIVERS, OTHERS, TASK, ask, everything, ids_of, share


def parts_of(pool: Pool, sharers: list[str]) -> dict[tuple[str, str], list[Tensor]]:
    """A, B and gate of these sharers' pieces, by sharer and module."""
    found = {}
    for name in pool.modules:
        for place, gate_D in enumerate(pool.gates(name)):
            if (sharer := pool.sharer(name, place)) in sharers:
                found[sharer, name] = [*pool.piece(name, place), gate_D]
    return found


def rows_of(parts: dict[tuple[str, str], list[Tensor]]) -> set[bytes]:
    """The bytes of each tensor, and of each row of it."""
    whole = [tensor for three in parts.values() for tensor in three]
    each = [row for tensor in whole for row in (tensor.unsqueeze(0) if tensor.ndim == 1 else tensor)]
    return {tensor.numpy().tobytes() for tensor in [*whole, *each]}


def matrices(home: Home, user: str) -> Adapter:
    return read_adapter(home.store, home.adapters(user)[-1])


def assert_equal(one: Adapter, other: Adapter) -> None:
    for name, pair in one.pairs.items():
        assert torch.equal(pair.A_RD, other.pairs[name].A_RD) and torch.equal(pair.B_OR, other.pairs[name].B_OR)


@pytest.mark.parametrize("again", [True, False])
def test_no_byte_of_who_withdraws_is_left_and_nobody_else_loses_one(shared: Home, again: bool) -> None:
    shared.assemble(TASK, top_k=2)
    (old,), (gone,) = shared.pools.ls(), ids_of(shared, ["gina"])
    pool = open_pool(Path(old.folder))
    theirs, others = parts_of(pool, [gone]), parts_of(pool, ids_of(shared, GIVERS[1:]))
    needles = rows_of(theirs) - rows_of(others)
    assert len(theirs) == len(pool.modules) and all(
        any(n in d for d in everything(shared.store.folder).values()) for n in needles
    )
    before = {user: matrices(shared, user) for user in OTHERS}
    adapters = {one.user: one.id for one in shared.adapters()}

    done = shared.pools.withdraw("gina", again=again)
    (new,) = shared.pools.ls()
    assert done.pools == [(old.digest, new.digest)] and done.sharers == [gone]
    assert (new.version, new.parent, new.sharers) == (2, old.digest, 3) and not Path(old.folder).exists()
    for path, data in everything(shared.store.folder).items():
        assert not any(needle in data for needle in needles), path
        assert gone.encode() not in data and gone not in str(path), path

    kept = parts_of(open_pool(Path(new.folder)), ids_of(shared, GIVERS[1:]))
    assert kept.keys() == others.keys()
    assert all(torch.equal(a, b) for key in kept for a, b in zip(kept[key], others[key], strict=True))
    untouched = set(OTHERS) - set(done.affected)
    assert done.untouched == len(untouched)
    for user in untouched:
        assert_equal(before[user], matrices(shared, user))
    latest = {user: shared.adapters(user)[-1] for user in OTHERS}
    assert {user for user in OTHERS if latest[user].id == adapters[user]} == (untouched if again else set(OTHERS))
    assert {user for user in OTHERS if latest[user].stale} == (set() if again else set(done.affected))
    assert not shared.doctor().wrong


def never_chosen(pool: Pool, folder: Path, key: Ed25519PrivateKey) -> tuple[Pool, str]:
    """The pool's next version, by whose gates one sharer is never the best, and always another is; and their id."""
    *_, other, opposite, never = pool.manifest.sharers

    def pieces() -> Iterator[tuple[str, list[tuple[str, Piece]]]]:
        for name in pool.modules:
            seats = {pool.sharer(name, place): place for place in range(len(pool.gates(name)))}
            gate_D = pool.gates(name)[seats[other]]
            gates = {opposite: -gate_D, never: torch.zeros_like(gate_D)}
            yield name, [(s, Piece(*pool.piece(name, n), gates.get(s, gate_D))) for s, n in seats.items()]

    manifest = pool.manifest
    head = PoolHead(
        manifest.base_fingerprint, pool.lora, "CC0", manifest.provenance, manifest.sharers,
        version=2, parent=pool.digest, line=manifest.line, ancestors=[pool.digest],
    )  # fmt: skip
    return write_pool(folder, head, pieces(), key=key), never


def test_who_used_none_of_it_is_answered_as_before_and_is_up_to_date(shared: Home, tmp_path: Path) -> None:
    crafted, never = never_chosen(shared.pools.open()[1], tmp_path / "crafted", signing_key(shared.store))
    shared.pools.add(crafted.folder, TASK)
    shared.assemble(TASK, top_k=1, users=OTHERS)
    before, recipes = {user: matrices(shared, user) for user in OTHERS}, shared.adapters()
    answers = ask(shared, *OTHERS)
    done = shared.pools.withdraw(never)
    assert (done.affected, done.untouched, done.again.assembled) == ([], 3, [])
    assert ask(shared, *OTHERS) == answers
    for user, adapter in before.items():
        assert_equal(adapter, matrices(shared, user))
    moved = shared.adapters()
    assert [one.id for one in moved] == [one.id for one in recipes] and moved[0].pool == dict(done.pools)[
        crafted.digest
    ]
    assert shared.assemble(TASK, top_k=1, users=OTHERS).assembled == []  # it would make the same again:
    shared.assemble(TASK, top_k=1, users=OTHERS, seed=1)
    for user, adapter in before.items():
        assert_equal(adapter, matrices(shared, user))


def stale(home: Home) -> list[str]:
    return [user for user in OTHERS if home.adapters(user)[-1].stale]


def test_stale_and_trained_and_refused_people_are_answered_in_one_call(shared: Home) -> None:
    shared.train(TASK, users=["kara"], epochs=1, batch_size=4, learning_rate=1e-2)
    shared.assemble(TASK, users=["luca", "mona"])
    (base_alone,) = shared.ask_many([ask(shared, "luca")[0].query], TASK, choose=True, base_only=True)
    (trained,) = ask(shared, "kara")

    shared.consent("gina", False)
    kara, luca, mona, nobody = ask(shared, "kara", "luca", "mona", "nobody")
    assert kara == trained and kara.answer and isinstance(nobody.error, NotFoundError)
    assert luca.answer == base_alone.answer and luca.adapter is mona.adapter is None
    assert all(
        "took their consent back" in (one.warning or "") and "gina" not in (one.warning or "") for one in (luca, mona)
    )

    shared.pools.withdraw("gina", again=False)
    for user in stale(shared):
        kara, other = ask(shared, "kara", user)
        assert kara == trained and other.answer == base_alone.answer and other.adapter is None
        assert "is stale" in (other.warning or "") and f"--user {user}" in (other.warning or "")
    shared.assemble(TASK, users=["luca", "mona"])
    assert all(one.answer and one.adapter and not one.warning for one in ask(shared, "luca", "mona"))


def test_a_pool_that_goes_while_people_are_answered_costs_only_who_needs_it(
    shared: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.train(TASK, users=["kara"], epochs=1, batch_size=4, learning_rate=1e-2)
    shared.assemble(TASK, users=["luca"])
    (trained,) = ask(shared, "kara")
    acquire = AdapterCache.acquire

    def late(self: AdapterCache, info: AdapterInfo) -> AdapterSlot | None:
        for path in (shared.store.folder / "pools").rglob("*.safetensors"):
            path.unlink()
        return acquire(self, info)

    monkeypatch.setattr(AdapterCache, "acquire", late)
    luca, kara = ask(shared, "luca", "kara")
    assert isinstance(luca.error, PoolError) and kara == trained


def test_a_sharer_is_forgotten_with_their_pieces(shared: Home) -> None:
    shared.assemble(TASK)
    gone = ids_of(shared, ["gina"])
    pool = shared.pools.open()[1]
    needles = rows_of(parts_of(pool, gone)) - rows_of(parts_of(pool, ids_of(shared, GIVERS[1:])))
    assert shared.forget("gina").records == 15
    for path, data in everything(shared.store.folder).items():
        assert not any(needle in data for needle in needles) and b"gina" not in data and gone[0].encode() not in data, (
            path
        )
    assert "gina" not in users_of(shared.store).values() and shared.pools.ls()[0].version == 2
    assert not shared.doctor().wrong and {one.user for one in shared.assemble(TASK, users=OTHERS).assembled} == set(
        OTHERS
    )


def test_an_assembled_person_is_forgotten_and_the_pool_stays(shared: Home) -> None:
    shared.assemble(TASK)
    (mine,) = shared.adapters("kara")
    before = everything(shared.store.folder / "pools")
    done = shared.forget("kara")
    assert (done.records, done.adapters) == (6, 1) and everything(shared.store.folder / "pools") == before
    for data in everything(shared.store.folder).values():
        assert b"kara" not in data and (mine.recipe or b"-") not in data and mine.id.encode() not in data
    assert not shared.doctor().wrong


def test_a_forgotten_record_of_a_sharer_is_told_to_be_in_pools(shared: Home) -> None:
    (info,) = shared.pools.ls()
    assert shared.forget_record("gina", "gina-3").pools == (info.digest,)
    assert shared.forget_record("kara", "kara-3").pools == ()
    shared.pools.withdraw("gina")
    assert shared.forget_record("gina", "gina-4").pools == ()


def test_a_read_only_home_answers_from_recipes_and_refuses_the_rest(shared: Home) -> None:
    shared.assemble(TASK)
    shared.store.database.close()
    work_with_mount(READ_ONLY, shared.store.folder, work_on_a_read_only_home)


def work_on_a_read_only_home(folder: Path) -> None:
    home = Home(folder)
    assert home.ask("kara", "thing", "sorting", choose=True).adapter and not home.doctor().wrong
    for refused in (
        lambda: home.assemble("sorting", top_k=2), lambda: home.pools.share("sorting"),
        lambda: home.pools.withdraw("gina"), lambda: home.consent("gina", False),
    ):  # fmt: skip
        with pytest.raises(StoreError, match="writable"):
            refused()


def test_no_room_for_a_version_leaves_everything_as_it_was(shared: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.assemble(TASK)
    before, answers = everything(shared.store.folder / "pools"), ask(shared, *OTHERS)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("ownlm.perpcs.version.sync", full)
        with pytest.raises(StoreError, match="room"):
            shared.pools.withdraw("gina")
        with pytest.raises(StoreError, match="room"):
            share(shared, seed=2)
    assert everything(shared.store.folder / "pools") == before and ask(shared, *OTHERS) == answers
    assert not shared.doctor().wrong


def test_a_moved_home_has_its_pools_and_recipes(shared: Home, tmp_path: Path) -> None:
    shared.assemble(TASK)
    answers = ask(shared, *OTHERS)
    shared.store.database.close()
    moved = Home(shared.store.folder.rename(tmp_path / "elsewhere"))
    assert ask(moved, *OTHERS) == answers and not moved.doctor().wrong
    assert moved.pools.withdraw("gina").pools and moved.assemble(TASK).failed == []


def test_what_was_shared_can_be_shared_again_with_more(shared: Home, tmp_path: Path) -> None:
    shared.add_history(write_rows(tmp_path / "more.jsonl", rows("kara", 8, first=40)), TASK)
    shared.consent("kara", True)
    report = share(shared, sharers=5)
    assert sorted(report.sharers) == sorted([*GIVERS, "kara"])
    old, new = shared.pools.ls()
    first, second = users_of(shared.store, pool=old.digest), users_of(shared.store, pool=new.digest)
    assert not first.keys() & second.keys()  # another id in each pool


@pytest.mark.parametrize("verb", ["share", "withdraw"])
def test_ctrl_c_right_after_the_commit_loses_no_pool(agreed: Home, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    if verb == "withdraw":
        share(agreed)
    name = {"share": "add_pool", "withdraw": "replace_pool"}[verb]
    genuine = getattr(pools, name)

    def interrupted(*args: Any, **how: Any) -> None:
        genuine(*args, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pools, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            share(agreed) if verb == "share" else agreed.pools.withdraw("gina")
    assert agreed.pools.open()[1].manifest.sharers  # whole, and there
    assert agreed.assemble(TASK, users=["kara"]).assembled and not agreed.doctor().wrong


def test_a_random_id_stands_for_the_person_in_every_pool(shared: Home) -> None:
    second = share(shared, seed=1)
    (first_id, *_), both = ids_of(shared, ["gina"]), [info.digest for info in shared.pools.ls()]
    assert second.pool.digest in both and len(ids_of(shared, ["gina"])) == 2
    done = shared.pools.withdraw(first_id, again=False)
    assert [old for old, _ in done.pools] == both and "gina" not in users_of(shared.store).values()


def test_withdrawing_from_an_older_pool_does_not_make_it_the_newest(shared: Home) -> None:
    newer = share(shared, users=["hugo", "ines", "jens"], seed=1).pool
    shared.pools.withdraw("gina")
    assert shared.pools.ls()[-1].digest == newer.digest == shared.pools.open()[0].digest


def test_residuals_of_different_ranks_are_answered_in_one_call(shared: Home) -> None:
    shared.add_history(
        write_rows(shared.store.folder.parent / "more.jsonl", rows("kara", 9, 20), rows("luca", 9, 20)), TASK
    )
    how = {"adapt_steps": 8, "residual_rank": 1}
    shared.assemble(TASK, users=["kara"], **how)
    share(shared, r=4, lora_alpha=4)
    shared.assemble(TASK, users=["luca"], **how)
    assert all(shared.adapters(user)[-1].blob for user in ("kara", "luca"))  # residuals were kept
    answers = ask(shared, "kara", "luca")
    assert all(one.answer and one.error is None for one in answers)


def test_a_pool_that_does_not_tell_how_prompts_were_made_is_refused(
    shared: Home, tmp_path: Path, tiny_base: Path
) -> None:
    pool = shared.pools.open()[1]
    manifest, gates = pool.manifest, {name: pool.gates(name) for name in pool.modules}
    head = PoolHead(manifest.base_fingerprint, pool.lora, "CC0", {"by": "somebody"}, manifest.sharers)
    pieces = [
        (name, [(pool.sharer(name, n), Piece(*pool.piece(name, n), gates[name][n])) for n in range(4)])
        for name in pool.modules
    ]
    odd = write_pool(tmp_path / "odd", head, pieces)
    stranger = home_on(tiny_base, tmp_path / "stranger")
    with pytest.raises(PoolError, match="how its pieces were trained"):
        stranger.pools.add(odd.folder, str(write_task(tmp_path)))
    assert stranger.pools.ls() == []


def test_an_export_has_a_rank_of_one_at_least(shared: Home, tmp_path: Path) -> None:
    shared.assemble(TASK, users=["kara"])
    with pytest.raises(ConfigError, match="at least 1"):
        shared.export("kara", tmp_path / "out", rank=0)
    shared.export("kara", tmp_path / "out", rank=2)
    note = json.loads((tmp_path / "out" / "ownlm.json").read_text())
    assert (note["pool"], note["licence"], note["rank"]) == (shared.pools.ls()[0].digest, "CC-BY-4.0", 2)


def test_forgetting_a_sharer_says_what_it_did_to_others(shared: Home) -> None:
    shared.assemble(TASK, top_k=4)
    (pool,) = shared.pools.ls()
    done = shared.forget("gina")
    assert done.withdrawn == (pool.digest,) and sorted(done.stale) == sorted(OTHERS)
    assert shared.forget("kara").withdrawn == () == shared.forget("luca").stale
