"""Assembly in one pass equals a naive loop over the modules of the stock model, whoever and whatever is beside it."""

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.errors import PoolError
from ownlm.model.base import BaseLM
from ownlm.model.lora import lora_update
from ownlm.perpcs import assemble as module
from ownlm.perpcs.assemble import Target, assemble, check_pool
from ownlm.perpcs.manifest import module_file
from ownlm.perpcs.materialise import materialise
from ownlm.perpcs.piece import Piece
from ownlm.perpcs.pool import Pool
from ownlm.perpcs.recipe import Combine
from tests.perpcs.assembling import (
    MLP,
    QKVO,
    by_sharer,
    histories,
    logits_of,
    made,
    pieces_for,
    pool_for,
    recipes,
    same_recipe,
    sharers_of,
)
from tests.perpcs.pools import Given

LORAS = {"attention": QKVO, "mlp": MLP}


@pytest.fixture(scope="module", params=list(LORAS))
def lora(request: pytest.FixtureRequest) -> LoraConfig:
    return LORAS[request.param]


@pytest.fixture(scope="module")
def given(base: BaseLM, lora: LoraConfig) -> Given:
    return pieces_for(base, lora=lora)


@pytest.fixture(scope="module")
def pool(base: BaseLM, lora: LoraConfig, given: Given, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return pool_for(base, tmp_path_factory.mktemp("pool") / "pool", given, lora)


class Naive:
    """The stock model in float64, a pass over every record for each module, with plain hooks."""

    def __init__(self, folder: Path, pool: Pool, combine: Combine, top_k: int, tau: float) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        assert self.model.config.num_key_value_heads < self.model.config.num_attention_heads
        self.pool, self.combine, self.top_k, self.tau = pool, combine, top_k, tau

    def input_of(self, name: str, target: Target) -> list[Tensor]:
        """By record, what a module reads where the next token belongs to the answer."""
        seen: list[Tensor] = []
        hook = self.model.get_submodule(name).register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
        with torch.no_grad():
            for one in target.examples:
                self.model(torch.tensor([one.prompt + one.answer]))
        hook.remove()
        return [
            x_TD[len(one.prompt) - 1 : len(one.prompt) + len(one.answer) - 1]
            for x_TD, one in zip(seen, target.examples, strict=True)
        ]

    def choose(self, name: str, target: Target) -> tuple[list[int], Tensor]:
        gate_ND = self.pool.gates(name).double()
        N, D = gate_ND.shape
        score_N = torch.zeros(N, dtype=torch.float64)
        records = self.input_of(name, target)
        for n in range(N):
            for x_PD in records:
                for x_D in x_PD:
                    fit = F.layer_norm(x_D, (D,)) @ F.layer_norm(gate_ND[n], (D,)) / D**0.5
                    score_N[n] += fit / len(x_PD) / len(records)
        places = score_N.argsort(descending=True)[: self.top_k].tolist()
        return places, torch.softmax(score_N[places] / self.tau, dim=0)

    def install(self, name: str, places: list[int], weights: Tensor):
        own = [tuple(part.double() for part in self.pool.piece(name, place)) for place in places]
        scaling = self.pool.lora.scaling

        def add(_: nn.Module, args: tuple[Tensor], y: Tensor) -> Tensor:
            if self.combine == "product":
                return y + sum(w * lora_update(args[0], A, B, scaling) for w, (A, B) in zip(weights, own, strict=True))
            A = sum(w * A for w, (A, _) in zip(weights, own, strict=True))
            B = sum(w * B for w, (_, B) in zip(weights, own, strict=True))
            return y + lora_update(args[0], A, B, scaling)

        return self.model.get_submodule(name).register_forward_hook(add)

    def assemble(self, target: Target) -> dict[str, tuple[list[int], Tensor]]:
        chosen, hooks = {}, []
        for name in self.pool.modules:  # early ones are installed before later ones see their input
            chosen[name] = self.choose(name, target)
            hooks.append(self.install(name, *chosen[name]))
        for hook in hooks:
            hook.remove()
        return chosen


@pytest.mark.parametrize(
    ("combine", "top_k", "tau", "tokens"),
    [("product", 3, 1.0, 2048), ("factors", 2, 0.5, 2048), ("product", 2, 0.2, 30)],
)
def test_one_pass_equals_a_naive_loop_over_the_modules(
    double: BaseLM, tiny_base: Path, pool: Pool, combine: Combine, top_k: int, tau: float, tokens: int, one_core: None
) -> None:
    check_against_naive(double, tiny_base, pool, histories(double, 2, records=3), combine, top_k, tau, tokens)


@pytest.mark.parametrize("longest", [1, 30], ids=["whole", "trimmed"])
def test_the_last_mlp_whole_or_on_asked_positions_alone(
    double: BaseLM, tiny_base: Path, tmp_path: Path, longest: int, one_core: None
) -> None:
    pool, seen = pool_for(double, tmp_path / "pool", pieces_for(double, lora=MLP), MLP), set()
    targets = histories(double, 2, records=3, longest=longest)
    tokens = {one.user: one.tokens for one in made(double, pool, targets, tokens_per_pass=10**6)}
    asked = sum(len(one.answer) for target in targets for one in target.examples)
    hook = double.model.model.layers[-1].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: seen.add(args[0].shape[1])
    )
    check_against_naive(double, tiny_base, pool, targets, "product", 2, 0.5, 10**6)
    hook.remove()
    assert seen == {asked if longest > 1 else sum(tokens.values())}
    check_against_naive(double, tiny_base, pool, targets, "product", 2, 0.5, 1)


def check_against_naive(
    base: BaseLM, folder: Path, pool: Pool, targets: list[Target], combine: Combine, top_k: int, tau: float, tokens: int
) -> None:
    how = {"combine": combine, "top_k": top_k, "tau": tau, "tokens_per_pass": tokens}
    got, naive = recipes(base, pool, targets, **how), Naive(folder, pool, combine, top_k, tau)
    for target in targets:
        recipe = got[target.user]
        for number, (name, (places, weights)) in enumerate(naive.assemble(target).items()):
            assert recipe.place_MK[number].tolist() == places, name
            assert recipe.weight_MK[number].tolist() == pytest.approx(weights.tolist(), abs=1e-6), name


def test_what_an_early_module_selects_is_what_later_ones_see(
    double: BaseLM, given: Given, lora: LoraConfig, pool: Pool, tmp_path: Path
) -> None:
    first, *later = given
    turned = {name: replace(piece, gate_D=-piece.gate_D) for name, piece in given[first].items()}
    other = pool_for(double, tmp_path / "other", given | {first: turned}, lora)
    (target,) = histories(double, 1)
    one, two = (by_sharer(each, recipes(double, each, [target])[target.user]) for each in (pool, other))
    assert one[0].keys() != two[0].keys()
    changed = [
        number
        for number in range(1, len(one))
        if one[number].keys() != two[number].keys()
        or max(abs(w - two[number][name]) for name, w in one[number].items()) > 1e-5
    ]
    parent = first.rpartition(".")[0]
    reads_the_same = [n for n, name in enumerate(pool.modules) if name in later and name.rpartition(".")[0] == parent]
    unchanged = [n for n in reads_the_same if not pool.modules[n].endswith("o_proj")]
    assert changed == [n for n in range(1, len(one)) if n not in unchanged]


def test_company_does_not_matter(base: BaseLM, pool: Pool, two_cores: None) -> None:
    targets = histories(base, 16)
    together = recipes(base, pool, targets)
    assert list(together) == [target.user for target in targets]
    assert len({one.place_MK.tobytes() for one in together.values()}) > 8
    turned = recipes(base, pool, targets[::-1])
    rows = [recipes(base, pool, targets, tokens_per_pass=90, workers=workers) for workers in (1, 2, 2)]
    for target in targets:
        expected = together[target.user]
        for other in (turned, *rows):
            assert same_recipe(other[target.user], expected)
    for target in targets[::5]:
        assert same_recipe(recipes(base, pool, [target])[target.user], together[target.user])
    for user, recipe in rows[1].items():
        assert recipe.to_bytes() == rows[2][user].to_bytes()  # which row comes first changes not a bit


def test_groups_are_read_one_by_one(base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, read, groups = histories(base, 7), [], []
    expected = recipes(base, pool, targets)
    monkeypatch.setattr(module, "AT_ONCE", 3)

    def one_by_one():
        for target in targets:
            read.append(target.user)
            yield target

    stream = assemble(base, pool, one_by_one(), on_group=lambda group: groups.append([one.user for one in group]))
    first = next(stream)
    assert first.user == "person 0" and len(read) <= 4  # one more tells that the group is full
    every = [first, *stream]
    assert groups == [[f"person {n}" for n in numbers] for numbers in ((0, 1, 2), (3, 4, 5), (6,))]
    assert all(same_recipe(one.recipe, expected[one.user]) for one in every)
    monkeypatch.setattr(module, "TOKENS", 1)  # everybody alone
    assert all(same_recipe(one, expected[user]) for user, one in recipes(base, pool, targets).items())


def test_order_of_records_does_not_matter(base: BaseLM, pool: Pool) -> None:
    target = histories(base, 1, records=9)[0]
    expected = recipes(base, pool, [target])[target.user]
    for examples in (target.examples[::-1], [*target.examples[4:], *target.examples[:4]]):
        assert same_recipe(recipes(base, pool, [Target(target.user, examples)])[target.user], expected)


def test_a_long_history_over_many_rows_equals_one_row(
    base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch, two_cores: None
) -> None:
    target = histories(base, 1, records=60)[0]
    (one,) = made(base, pool, [target], tokens_per_pass=10**6)
    (many,) = made(base, pool, [target], tokens_per_pass=64)
    assert same_recipe(one.recipe, many.recipe)
    assert one.tokens < many.tokens < 2 * one.tokens  # each row begins with the instruction again
    monkeypatch.setattr(module, "PASSES", 2)
    (few,) = made(base, pool, [target], tokens_per_pass=1)
    assert same_recipe(one.recipe, few.recipe) and few.tokens < many.tokens


def test_order_and_ids_of_sharers_do_not_matter(
    base: BaseLM, given: Given, lora: LoraConfig, pool: Pool, tmp_path: Path
) -> None:
    """Ids are random, and so is a pool's order."""
    names = sharers_of(5)
    renamed = dict(zip(names, [names[n] for n in (3, 0, 4, 2, 1)], strict=True))
    other_given = {name: {renamed[old]: piece for old, piece in reversed(own.items())} for name, own in given.items()}
    other = pool_for(base, tmp_path / "other", other_given, lora)
    targets = histories(base, 3)
    one, two = recipes(base, pool, targets), recipes(base, other, targets)
    for user in one:
        for before, after in zip(by_sharer(pool, one[user]), by_sharer(other, two[user]), strict=True):
            assert {renamed[name]: w for name, w in before.items()} == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize("combine", ["product", "factors"])
def test_a_pool_of_one_sharer_gives_that_sharers_adapter(
    base: BaseLM, given: Given, lora: LoraConfig, tmp_path: Path, combine: Combine
) -> None:
    (name,) = sharers_of(1)
    pool = pool_for(base, tmp_path / "pool", {module: {name: own[name]} for module, own in given.items()}, lora)
    for recipe in recipes(base, pool, histories(base, 2), top_k=1, combine=combine).values():
        adapter = materialise(recipe, pool)
        assert adapter.lora == lora
        for module_name, pair in adapter.pairs.items():
            piece = given[module_name][name]
            assert torch.equal(pair.A_RD, piece.A_RD) and torch.equal(pair.B_OR, piece.B_OR)


def test_what_is_assembled_is_what_was_installed(base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: later modules have seen what the recipe makes, not what it would be unrounded."""
    installed = {}
    load_pair = module.LoraBank.load_pair

    def noted(self: module.LoraBank, slot: int, name: str, A_HD: Tensor, B_OH: Tensor) -> None:
        installed[slot, name] = A_HD.clone(), B_OH.clone()
        load_pair(self, slot, name, A_HD, B_OH)

    monkeypatch.setattr(module.LoraBank, "load_pair", noted)
    for slot, recipe in enumerate(recipes(base, pool, histories(base, 3)).values()):
        for name, pair in materialise(recipe, pool).pairs.items():
            A_HD, B_OH = installed[slot, name]
            assert torch.equal(pair.B_OR @ pair.A_RD, B_OH @ A_HD)


def counted(base: BaseLM, names: dict[str, nn.Module], work: Callable[[], object]) -> dict[str, int]:
    calls = dict.fromkeys(names, 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[name] += 1

        return hook

    hooks = [one.register_forward_pre_hook(count(name)) for name, one in names.items()]
    work()
    for hook in hooks:
        hook.remove()
    return calls


@pytest.mark.parametrize("kinds", [("q_proj", "v_proj"), QKVO.target_modules, MLP.target_modules], ids="-".join)
def test_nothing_behind_the_last_adapted_module_runs(base: BaseLM, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=kinds)
    pool = pool_for(base, tmp_path / "pool", pieces_for(base, lora=lora), lora)
    last = base.model.model.layers[-1]
    watched = {
        "first": base.model.model.layers[0].mlp, "v": last.self_attn.v_proj, "o": last.self_attn.o_proj,
        "mlp": last.mlp, "down": last.mlp.down_proj, "norm": base.model.model.norm, "head": base.model.lm_head,
    }  # fmt: skip
    rows = 3
    targets = histories(base, 1, records=3)
    calls = counted(base, watched, lambda: recipes(base, pool, targets, tokens_per_pass=1))
    o, mlp = ("o_proj" in kinds or "down_proj" in kinds) * rows, ("down_proj" in kinds) * rows
    assert calls == {"first": rows, "v": rows, "o": o, "mlp": mlp, "down": mlp, "norm": 0, "head": 0}


def test_only_chosen_pieces_are_read(base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    read, piece = [], Pool.piece

    def noted(self: Pool, name: str, place: int) -> tuple[Tensor, Tensor]:
        read.append((name, place))
        return piece(self, name, place)

    monkeypatch.setattr(Pool, "piece", noted)
    monkeypatch.setattr(Pool, "whole", lambda *_: pytest.fail("all pieces were read"))
    got = recipes(base, pool, histories(base, 2), top_k=2)
    chosen = [
        (name, int(place))
        for recipe in got.values()
        for name, places in zip(pool.modules, recipe.place_MK, strict=True)
        for place in places
    ]
    assert sorted(read) == sorted(chosen) and len(read) == 2 * 2 * len(pool.modules)


def test_modules_that_few_share_or_nobody(base: BaseLM, given: Given, lora: LoraConfig, tmp_path: Path) -> None:
    some = {
        name: {sharer: piece for n, (sharer, piece) in enumerate(own.items()) if n < number % 4}
        for number, (name, own) in enumerate(given.items())
    }
    pool = pool_for(base, tmp_path / "pool", some, lora)
    assert sorted({len(pool.gates(name)) for name in pool.modules}) == [0, 1, 2, 3]
    targets = histories(base, 3)
    got = recipes(base, pool, targets, top_k=3, tokens_per_pass=60)
    for user, recipe in got.items():
        for number, name in enumerate(pool.modules):
            pieces = len(pool.gates(name))
            weights = recipe.weight_MK[number].tolist()
            assert (recipe.weight_MK[number] > 0).sum() == pieces and not any(weights[pieces:])
            assert sum(weights) == pytest.approx(1 if pieces else 0, abs=1e-6)
            assert len(set(recipe.place_MK[number, :pieces].tolist())) == pieces
        assert logits_of(base, materialise(recipe, pool)).isfinite().all()
        alone = recipes(base, pool, [target for target in targets if target.user == user])[user]
        assert same_recipe(alone, recipe)
    for recipe in recipes(base, pool, targets, combine="factors").values():
        assert logits_of(base, materialise(recipe, pool)).isfinite().all()


def test_a_pool_that_does_not_go(base: BaseLM, pool: Pool) -> None:
    targets = histories(base, 1)
    with pytest.raises(PoolError, match="fewer sharers"):
        recipes(base, pool, targets, top_k=6)
    other = replace(base, fingerprint="another")
    with pytest.raises(PoolError, match="another base"):
        recipes(other, pool, targets)
    check_pool(base, pool, 5)
    assert recipes(base, pool, []) == {}
    assert len(recipes(base, pool, targets, top_k=5)) == 1


def test_gates_and_weights_far_from_usual(base: BaseLM, given: Given, lora: LoraConfig, tmp_path: Path) -> None:
    """Gates as after no training, all zero; and a temperature at which all weight falls on one."""
    untrained = {
        name: {sharer: Piece(one.A_RD, one.B_OR, torch.zeros_like(one.gate_D)) for sharer, one in own.items()}
        for name, own in given.items()
    }
    pool = pool_for(base, tmp_path / "untrained", untrained, lora)
    targets = histories(base, 2)
    for recipe in recipes(base, pool, targets).values():
        assert (recipe.place_MK == [0, 1, 2]).all() and recipe.weight_MK == pytest.approx(1 / 3, abs=1e-6)
    pool = pool_for(base, tmp_path / "cold", given, lora)
    for recipe in recipes(base, pool, targets, tau=1e-6).values():
        assert (recipe.weight_MK[:, 0] == 1).all() and not recipe.weight_MK[:, 1:].any()
        assert logits_of(base, materialise(recipe, pool)).isfinite().all()


def test_shares_of_time_and_tokens(base: BaseLM, pool: Pool) -> None:
    targets = histories(base, 3)
    for one, target in zip(made(base, pool, targets), targets, strict=True):
        shared = 6  # the instruction, once
        assert one.seconds > 0
        assert one.tokens == shared + sum(len(e.prompt) + len(e.answer) - 1 - shared for e in target.examples)


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_a_lost_file_ends_the_assembly(
    base: BaseLM, given: Given, lora: LoraConfig, tmp_path: Path, two_cores: None
) -> None:
    pool, before = pool_for(base, tmp_path / "pool", given, lora), threads()
    (pool.folder / module_file(pool.modules[2])).unlink()
    for tokens in (2048, 1):
        with pytest.raises(PoolError, match="damaged"):
            recipes(base, pool, histories(base, 3), tokens_per_pass=tokens)
        assert threads() == before


def test_an_error_in_one_row_ends_the_assembly(
    base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch, two_cores: None
) -> None:
    before, features, calls = threads(), module.features_of, []

    def broken(x_TD: Tensor, batch: object) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise MemoryError("no room")
        return features(x_TD, batch)  # type: ignore[arg-type]

    targets = histories(base, 3)
    expected = recipes(base, pool, targets)
    with monkeypatch.context() as patched:
        patched.setattr(module, "features_of", broken)
        with pytest.raises(MemoryError, match="no room"):  # and not the barrier that it broke
            recipes(base, pool, targets, tokens_per_pass=1)
    assert threads() == before
    assert all(not one._forward_hooks for name, one in base.model.named_modules() if name in pool.modules)
    assert all(same_recipe(one, expected[user]) for user, one in recipes(base, pool, targets).items())


def test_ctrl_c(base: BaseLM, pool: Pool, monkeypatch: pytest.MonkeyPatch, two_cores: None) -> None:
    before, gates, asked = threads(), Pool.gates, threading.Event()

    def interrupted(self: Pool, name: str) -> Tensor:
        if name == pool.modules[3] and not asked.is_set():
            asked.set()
            os.kill(os.getpid(), signal.SIGINT)
        return gates(self, name)

    monkeypatch.setattr(Pool, "gates", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    try:
        with pytest.raises(KeyboardInterrupt):
            recipes(base, pool, histories(base, 3), tokens_per_pass=1)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert asked.is_set() and threads() == before


def test_threads_are_left_as_they_were(base: BaseLM, pool: Pool, two_cores: None) -> None:
    recipes(base, pool, histories(base, 3), tokens_per_pass=1)
    counts = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert counts == [2, 2]
