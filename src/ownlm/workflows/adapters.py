"""What is known of an adapter: its worth beside the base, how far it is behind, and the command that makes it again.

Command line and server use these words; the page words the same verdict for readers who know no models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any, Literal

from ownlm.errors import quoted
from ownlm.store import pools
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows.options import HOW, AssembleOptions

FEW_STEPS = 12  # adapters that took so many, or fewer, had learnt little (benchmarks/LOG.md)
HARDLY = 0.9  # last by first training loss, above which a few steps have changed hardly anything (the same place)
CONFIDENCE = 0.95  # of the interval of a gain on held-back records

Verdict = Literal["better", "worse", "unclear", "little"]


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Loss of the base and of an adapter on the same unseen records.

    Attributes:
        how: "trial", an adapter trained on all but the latest records; or "last", the user's last adapter on new ones.
        records: number of unseen records.
        base, adapter: mean over records of the mean loss per answer token, in nats.
        gain: base minus adapter.
        low, high: 95% confidence interval of the gain over records (paired, Student's t).
    """

    how: Literal["trial", "last"]
    records: int
    base: float
    adapter: float
    gain: float
    low: float
    high: float

    @classmethod
    def of(cls, how: Literal["trial", "last"], base_N: Sequence[float], adapter_N: Sequence[float]) -> "HeldBack":
        """The result of N records' losses, N at least 2."""
        from scipy.stats import t

        gain_N = [base - adapter for base, adapter in zip(base_N, adapter_N, strict=True)]
        gain, n = fmean(gain_N), len(gain_N)
        reach = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(gain_N) / sqrt(n)
        numbers = fmean(base_N), fmean(adapter_N), gain, gain - reach, gain + reach
        return cls(how, n, *(round(number, 4) for number in numbers))


@dataclass(frozen=True, slots=True)
class Worth:
    """What is known of an adapter beside its base.

    Attributes:
        verdict: "better" or "worse" than the base on records it had not learnt from, where the 95% interval of the
            difference says so; "unclear" where it holds zero; "little" where nothing was held back and a few steps
            hardly moved the training loss; None where there is no evidence for a verdict.
        records: number of held-back records that the verdict rests on; None where there were none.
        words: the same as a sentence with its figures; empty where nothing is known.
    """

    verdict: Verdict | None = None
    records: int | None = None
    words: str = ""


def worth(
    steps: int, loss_first: float | None, loss_last: float | None, provenance: dict[str, Any], parent: str | None = None
) -> Worth:
    """What is known of an adapter, from the best evidence there is: held-back records, else the training loss.

    >>> worth(6, 0.95, 0.07, {}).words
    'training loss 0.950 -> 0.070 on its own records; not tried on held-back ones'
    >>> worth(4, 7.9, 7.3, {}).verdict
    'little'
    """
    if (measured := provenance.get("held_back")) is not None:
        return _of_held_back(measured)
    if (losses := provenance.get("held_back_losses")) is not None:  # they have also chosen what was kept
        kept = provenance["kept"]
        compared = f"loss {losses['base']:.3f} with the base, {losses[kept]:.3f} with what was kept ({kept})"
        return Worth(words=f"{compared}, on the held-back records that it was chosen by")
    if loss_first is None or loss_last is None:
        return Worth()
    moved = f"training loss {loss_first:.3f} -> {loss_last:.3f}"
    if parent is None and steps <= FEW_STEPS and loss_last > HARDLY * loss_first:
        many = "1 step" if steps == 1 else f"{steps:,} steps"
        return Worth("little", None, f"{moved} in {many}: it may have learnt little")
    return Worth(words=f"{moved} on its own records; not tried on held-back ones")


def worth_of(adapter: AdapterInfo) -> Worth:
    """What is known of a kept adapter."""
    a = adapter
    return worth(a.steps, a.loss_first, a.loss_last, a.provenance, a.parent)


def _of_held_back(measured: dict[str, Any]) -> Worth:
    low, high, count = measured["low"], measured["high"], measured["records"]
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "unclear"
    whom = {"trial": "a trial without the user's", "last": "the version before, on the user's"}[measured["how"]]
    said = {"better": "better than the base", "worse": "worse than the base", "unclear": "no clear difference"}[verdict]
    figures = f"loss {measured['base']:.3f} with the base, {measured['adapter']:.3f} with it"
    gain = f"gain {measured['gain']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}"
    return Worth(verdict, count, f"held-back records: {said} ({whom} {count:,} latest: {figures}; {gain})")


def learnt_from_gone(adapter: AdapterInfo) -> str | None:
    """That an adapter has learnt from records which are gone, in words; None where it has not.

    It answers until a new one is made without them.
    """
    count = adapter.forgotten
    if not count:
        return None
    what = "a record that was" if count == 1 else f"{count:,} records that were"
    return f"has learnt from {what} forgotten or changed since"


def behind(adapter: AdapterInfo, history: str | None, new: int) -> str:
    """How far an adapter is behind, or why it cannot be used, in words; empty where it is up to date.

    Args:
        history: digest of the user's history; None where there is none.
        new: number of records that came after those it knows.
    """
    parts = []
    if history is None or not adapter.knows(history):
        counts = {"new": new, "forgotten or changed": adapter.forgotten}
        parts += [f"{count:,} {what}" for what, count in counts.items() if count]
    if adapter.stale is not None:
        parts.append(adapter.stale if adapter.waits else f"stale: {adapter.stale}")
    return ", ".join(parts)


def sharers_now(store: Store, task: str) -> int:
    """Number of sharers of the pool that users are assembled from by default; 0 where there is no pool."""
    known = pools.pools(store, task)
    return known[-1].sharers if known else 0


def assemble_command(recipe: AdapterInfo, sharers: int, users: Sequence[str] = ()) -> str:
    """The `ownlm assemble` command with the settings of a recipe; pool and base are the default ones.

    Args:
        recipe: the recipe.
        sharers: number of sharers of the default pool; it limits the number of pieces.
        users: users that the command names.
    """
    how = {"seed": recipe.provenance.get("seed", 0)} | recipe.provenance.get("assembly", {})
    if sharers and how.get("top_k", 0) > sharers:
        how["top_k"] = sharers
    usual = {name: AssembleOptions.model_fields[name].default for name in (*HOW, "seed")}
    given = [f" --{name.replace('_', '-')} {how[name]}" for name in usual if how.get(name, usual[name]) != usual[name]]
    named = [f" --user {quoted(user)}" for user in users]
    return "".join([f"ownlm assemble --task {recipe.task}", *given, *named])


def stale_warning(store: Store, recipe: AdapterInfo) -> str:
    """Why the base answers instead of a stale recipe, and what to do about it."""
    which = f"The assembly of user {recipe.user!r}"
    if recipe.waits:
        again = f"`ownlm assemble --task {recipe.task}` assembles again when they are gone"
        return f"{which} {recipe.stale}; the base answers. `ownlm doctor` says whose, and {again}"
    command = assemble_command(recipe, sharers_now(store, recipe.task), [recipe.user])
    return f"{which} is stale: {recipe.stale}; the base answers. `{command}` assembles again"


def remake_command(store: Store, adapter: AdapterInfo) -> str:
    """The command, in backticks, that makes an adapter again from the user's present records."""
    if adapter.is_recipe:
        return f"`{assemble_command(adapter, sharers_now(store, adapter.task), [adapter.user])}`"
    return f"`ownlm train --task {adapter.task} --user {quoted(adapter.user)}`"
