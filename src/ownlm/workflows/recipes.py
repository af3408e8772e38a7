"""Commands that make an adapter again with the settings it had, from the newest pool and base of its task."""

from collections.abc import Sequence

from ownlm.errors import quoted
from ownlm.store import pools
from ownlm.store.rows import AdapterInfo
from ownlm.store.store import Store
from ownlm.workflows.options import HOW, AssembleOptions


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
