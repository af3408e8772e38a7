"""Every architecture of the table: accepted and equal to `peft`, alone and in company; or refused with those words."""

import json
import random
from pathlib import Path

import pytest
import torch

from ownlm.config import LoraConfig, TrainConfig
from ownlm.errors import BaseModelError
from ownlm.home import Home
from ownlm.model.base import load_base
from ownlm.model.bases.files import named_by
from ownlm.oppu.fleet import Job, train_fleet
from ownlm.oppu.memory import bytes_per_token
from ownlm.oppu.minibatches import TokenizedExample
from ownlm.presets import small
from tests.model.bases_table import PAGE, TABLE, Tried, page
from tests.model.small_bases import write_base
from tests.peft_reference import train_with_peft, weights

PRESET = small().sharer.lora.target_modules


def write(tried: Tried, folder: Path, tokenizer: Path) -> Path:
    write_base(folder, tokenizer, tried.kind, tried.architecture, **tried.changes)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text("utf8")) | dict(tried.edit)), "utf8")
    return folder


def jobs() -> list[Job]:
    """Two users, some of whose texts are longer than any window, chunk or original context."""
    rng = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(3, 250) for _ in range(count)]

    lengths = {"ada": (40, 9), "bela": (7, 33)}
    return [
        Job(user, [TokenizedExample(tokens(count), [*tokens(3), 2]) for count in counts], seed=5)
        for user, counts in lengths.items()
    ]


@pytest.mark.parametrize("tried", [one for one in TABLE if one.refused is None], ids=lambda one: one.name)
def test_accepted_and_equal_to_peft_alone_and_in_company(tried: Tried, tmp_path: Path, tiny_base: Path) -> None:
    folder = write(tried, tmp_path / "base", tiny_base)
    added = Home(tmp_path / "home").add_base(str(folder))
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=named_by(Path(added.folder), PRESET))
    assert ", ".join(lora.target_modules) == tried.modules
    dtype = torch.float32 if "experts" in repr(tried.changes) else torch.float64  # torch's grouped products: no double
    close, same = (1e-5, 1e-2) if dtype is torch.float32 else (1e-6, 1e-3)
    base = load_base(folder, name="base", fingerprint=added.fingerprint, dtype=dtype)
    assert bytes_per_token(base.model) > 0
    config = TrainConfig(
        lora=lora, learning_rate=3e-3, epochs=1, batch_size=1, warmup_ratio=0
    )  # a row of one needs no padding
    together = {run.job.user: run for run in train_fleet(base, jobs(), config, slots=2, tokens_per_step=200)}
    for job in jobs():
        (alone,) = train_fleet(base, [job], config, slots=1)
        losses, start, end = train_with_peft(folder, job, config, dtype)
        own = together[job.user]
        for other, after in ((alone.losses, weights(alone.adapter)), (losses, end)):
            assert own.losses == pytest.approx(other, rel=close)
            for name, tensor in weights(own.adapter).items():  # B is what these steps train most
                assert (tensor - after[name]).norm() <= same * (after[name] - start[name]).norm() + 1e-9, name


@pytest.mark.parametrize("tried", [one for one in TABLE if one.refused is not None], ids=lambda one: one.name)
def test_refused_in_one_line_with_these_words(tried: Tried, tmp_path: Path, tiny_base: Path) -> None:
    folder = write(tried, tmp_path / "base", tiny_base)
    home = Home(tmp_path / "home")
    with pytest.raises(BaseModelError) as caught:
        home.add_base(str(folder))
    why = caught.value.what.replace(str(folder), "FOLDER"), str(caught.value.got).partition(":")[0]
    assert tried.refused in why
    assert caught.value.hint and "\n" not in str(caught.value) and "Error" not in str(caught.value)
    assert home.bases() == []


def test_the_page_is_what_the_table_makes() -> None:
    assert PAGE.read_text("utf8") == page(), "run `python -m tests.model.bases_table`"
