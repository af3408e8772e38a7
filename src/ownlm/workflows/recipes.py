"""How a person was assembled, as the command that would do it again from the newest pool and base of the task."""

from collections.abc import Sequence

from ownlm.errors import quoted
from ownlm.store import pools
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store

# By their names in a recipe's provenance: the options, and what they are where they are not given.
_OPTIONS = {
    "top_k": ("--top-k", 3),
    "tau": ("--tau", 1.0),
    "combine": ("--combine", "product"),
    "recent": ("--recent", 2000),
    "adapt_steps": ("--adapt-steps", 0),
    "residual_rank": ("--residual-rank", None),
    "seed": ("--seed", 0),
}


def sharers_now(store: Store, task: str) -> int:
    """How many sharers the pool has that people are assembled from by default; 0 where there is none."""
    known = pools.pools(store, task)
    return known[-1].sharers if known else 0


def assemble_command(recipe: AdapterInfo, sharers: int, users: Sequence[str] = ()) -> str:
    """The `ownlm assemble` with the settings of a recipe; pool and base are those it takes by default.

    Args:
        sharers: how many the pool has that it would be made of; of fewer than its K, so many are selected.
        users: whom it names.
    """
    how = {"seed": recipe.provenance.get("seed", 0)} | recipe.provenance.get("assembly", {})
    if sharers and how.get("top_k", 0) > sharers:
        how["top_k"] = sharers
    given = [f" {option} {how[name]}" for name, (option, usual) in _OPTIONS.items() if how.get(name, usual) != usual]
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
    """The command, in backticks, that makes an adapter again from the records that are there now."""
    if adapter.is_recipe:
        return f"`{assemble_command(adapter, sharers_now(store, adapter.task), [adapter.user])}`"
    return f"`ownlm train --task {adapter.task} --user {quoted(adapter.user)}`"
