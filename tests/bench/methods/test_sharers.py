"""Whole adapters of sharers, and their mean, against adapters made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ownlm.bench.case import BASE, Case
from ownlm.bench.methods.averaged import average_of
from ownlm.bench.methods.nearest import nearest_places, recipe_of
from ownlm.bench.methods.pool import pool_of
from ownlm.home import Home
from ownlm.model.adapter import Adapter, LoraPair
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE as BASE_SLOT
from ownlm.perpcs.materialise import materialise
from ownlm.perpcs.pool import Pool
from ownlm.prompt.example import retrieval_document
from ownlm.store.drafts import drafts
from ownlm.store.pools import users_of
from tests.bench.methods.cases import SHARE, SHARERS, ask
from tests.decoding import answers


@pytest.fixture(scope="module")
def home(case: Case) -> Home:
    return pool_of(case, case.adapted(), SHARE)[0]


@pytest.fixture(scope="module")
def pool(case: Case) -> Pool:
    return opened(case, SHARE)


def opened(case: Case, share: dict[str, Any]) -> Pool:
    home, info = pool_of(case, case.adapted(), share)
    return home.pools.open(info.digest)[1]


def answers_of(case: Case, home: Home, adapters: dict[str, Adapter], rag: int = 0) -> list[str]:
    """What whole adapters, by target user, answer."""
    base, prompt = home.load(home.store.base(BASE)), case.retrieving(rag)
    prompts = [(query.user_id, base.encode_prompt(prompt(query))) for query in case.data.queries]
    return answers(base, adapters, prompts, 4)


def test_the_nearest_sharers_whole_adapter_answers(case: Case, generating: Case, home: Home, pool: Pool) -> None:
    person = users_of(home.store, pool=pool.digest)
    base = home.load(home.store.base(BASE))

    def vector(user: str) -> np.ndarray:
        records = case.histories[user].records if user in case.histories else home.history(user, "sorting").records
        means = []
        for record in records[-16:]:
            row = BatchBuilder()
            row.add(BASE_SLOT, base.encode_prompt(retrieval_document(case.task, record)))
            means.append(base.hidden(row.pack()).mean(0))
        return torch.stack(means).mean(0).detach().numpy()

    sharers = sorted(person)
    mean = np.mean([vector(person[sharer]) for sharer in sharers], axis=0)

    def cosine(one: str, other: str) -> float:
        x, y = vector(one) - mean, vector(other) - mean
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    adapters = {}
    for user in case.users:
        near = max(sharers, key=lambda sharer: cosine(user, person[sharer]))
        place = pool.manifest.sharers.index(near)
        adapters[user] = Adapter(pool.lora, {name: LoraPair(*pool.piece(name, place)) for name in pool.modules})
    expected = answers_of(case, home, adapters)
    assert ask(generating, "nearest", share=SHARE) == expected
    assert len(set(expected)) > 6


def test_the_nearest_depends_on_no_other_target() -> None:
    draw = torch.Generator().manual_seed(0)
    sharer_ND, target_UD = torch.randn(5, 8, generator=draw), torch.randn(6, 8, generator=draw)
    together = nearest_places(target_UD, sharer_ND)
    assert together == [nearest_places(one_D[None], sharer_ND)[0] for one_D in target_UD]
    assert nearest_places(sharer_ND, sharer_ND) == list(range(5)) and len(set(together)) > 1


def test_what_sharers_have_in_common_brings_nobody_nearer() -> None:
    sharer_ND = torch.tensor([[140.0, 1.0, 0.0], [60.0, 0.0, 1.0]])  # their mean is about (100, 0, 0)
    target_D = torch.tensor([95.0, 0.0, 0.0])
    assert torch.nn.functional.cosine_similarity(target_D, sharer_ND).argmax() == 0
    assert nearest_places(target_D[None], sharer_ND) == [1]


def test_the_average_is_the_mean_of_all_updates(case: Case, generating: Case, home: Home, pool: Pool) -> None:
    made = materialise(average_of(pool), pool)
    stacked = {}
    for name in pool.modules:
        A_NRD, B_NOR, _ = pool.whole(name)
        mean_OD = sum(B_OR @ A_RD for A_RD, B_OR in zip(A_NRD, B_NOR, strict=True)) / 4
        assert torch.allclose(made.pairs[name].B_OR @ made.pairs[name].A_RD, mean_OD, atol=1e-6)
        stacked[name] = LoraPair(torch.cat(list(A_NRD)), torch.cat(list(B_NOR / 4), dim=1))
    whole = Adapter(made.lora, stacked)
    expected = answers_of(case, home, dict.fromkeys(case.users, whole), rag=1)
    assert ask(generating, "averaged", share=SHARE, rag=1) == expected != ask(generating, "averaged", share=SHARE)


def test_of_modules_that_few_give_their_mean_is_taken(case: Case) -> None:
    pool = opened(case, SHARE | {"ratio": 0.5})
    counts = [len(pool.gates(name)) for name in pool.modules]
    assert len(set(counts)) > 1
    made = materialise(average_of(pool), pool)
    for name in (name for name in pool.modules if len(pool.gates(name))):
        A_NRD, B_NOR, _ = pool.whole(name)
        mean_OD = torch.einsum("nor,nrd->od", B_NOR, A_NRD) / len(A_NRD)
        assert torch.allclose(made.pairs[name].B_OR @ made.pairs[name].A_RD, mean_OD, atol=1e-6)
    sharer = pool.manifest.sharers[1]
    own = materialise(recipe_of(pool, sharer), pool)
    gives = [name for name in pool.modules if own.pairs[name].B_OR.any()]
    assert len(gives) == len(pool.modules) // 2
    for name in gives:
        place = next(n for n in range(len(pool.gates(name))) if pool.sharer(name, n) == sharer)
        assert torch.equal(own.pairs[name].A_RD, pool.piece(name, place)[0])
    for method in ("nearest", "averaged", "arrow", "assembled"):
        assert len(ask(case, method, share=SHARE | {"ratio": 0.5})) == len(case.data.queries)


def test_equal_settings_share_one_pool(case: Case, home: Home, pool: Pool) -> None:
    again, info = pool_of(case, case.adapted(), SHARE)
    assert (again.store.folder, info.digest) == (home.store.folder, pool.digest)
    assert sorted(users_of(home.store, pool=pool.digest).values()) == sorted(SHARERS)
    ask(case, "assembled", share=SHARE)
    homes = [Home(path) for path in (case.folder / "stages").glob("assemble-*")]
    assert info.digest in {one.digest for own in homes for one in own.pools.ls()}


def test_other_sharers_or_modules_make_another_pool_and_train_nobody(case: Case, pool: Pool) -> None:
    before = drafts(pool_of(case, case.adapted(), SHARE)[0].store)
    fewer, halved = opened(case, SHARE | {"sharers": 2}), opened(case, SHARE | {"ratio": 0.5})
    assert (len(fewer.manifest.sharers), len(pool.manifest.sharers)) == (2, 4)
    assert drafts(pool_of(case, case.adapted(), SHARE)[0].store) == before and len(before) == 8
    for other in (fewer, halved):
        for name in other.modules:
            theirs = [other.piece(name, place)[0] for place in range(len(other.gates(name)))]
            assert all(any(torch.equal(A_RD, pool.piece(name, n)[0]) for n in range(4)) for A_RD in theirs)
    assert opened(case, SHARE).digest == pool.digest, "the newest pool of the home is another"


def test_other_training_is_another_home(case: Case, home: Home) -> None:
    assert pool_of(case, case.adapted(), SHARE | {"learning_rate": 1e-2})[0].store.folder != home.store.folder


def test_what_a_pool_took_is_that_of_all_who_are_in_it(case: Case) -> None:
    costs = []
    for count in (4, 2):
        share = SHARE | {"sharers": count}
        pool_of(case, case.adapted(), share)
        costs.append(case.shared["the pool, " + ", ".join(f"{key} = {value}" for key, value in share.items())])
    of_4, of_2 = costs
    assert (of_4.people, of_2.people) == (4, 2)
    assert of_4.tokens and of_2.tokens and of_4.tokens > of_2.tokens > 0
    assert of_4.seconds and of_2.seconds and of_4.seconds > of_2.seconds > 0


def test_without_stage_one_pieces_are_for_the_raw_base(case: Case, pool: Pool) -> None:
    raw = replace(case, adapt=None)
    home, info = pool_of(raw, raw.adapted(), SHARE)
    assert home.store.base(BASE).fingerprint == info.base_fingerprint != pool.manifest.base_fingerprint


def test_a_plans_settings_of_pools_stand_below_a_methods_own(case: Case, pool: Pool) -> None:
    planned = replace(case, share=SHARE | {"sharers": 2})
    assert pool_of(planned, case.adapted(), {})[1].sharers == 2
    assert pool_of(planned, case.adapted(), {"sharers": 4})[1].digest == pool.digest
