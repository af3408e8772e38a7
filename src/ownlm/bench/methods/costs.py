"""What people's adapters took, as their home keeps it: the same after a run that was killed and went on."""

from collections.abc import Sequence

from ownlm.bench.case import Case
from ownlm.bench.results import Costs
from ownlm.bench.warnings import of_adapters
from ownlm.home import Home
from ownlm.store.rows import AdapterInfo


def of_training(case: Case, home: Home) -> Costs:
    """Seconds and tokens of all people's training together; bytes of an adapter, on average.

    What the reader should know of the training goes to `case.warnings`.
    """
    made = _made(case, home)
    case.warnings.extend(of_adapters(made))
    return Costs(
        train_seconds=sum(one.seconds for one in made),
        train_tokens=sum(one.tokens for one in made),
        bytes_per_user=sum(one.bytes for one in made) / len(made),
    )


def of_assembling(case: Case, home: Home) -> Costs:
    """Seconds of all people's assembly together, adapting included; bytes of what is kept of one, on average."""
    made = _made(case, home)
    if by_base := sum(one.provenance.get("kept") == "base" for one in made):
        case.warnings.append(
            f"the base answers for {by_base:,} of {len(made):,} people: it did best on held-back records"
        )
    return Costs(
        assemble_seconds=sum(one.seconds for one in made),
        bytes_per_user=sum(one.bytes for one in made) / len(made),
    )


def _made(case: Case, home: Home) -> Sequence[AdapterInfo]:
    """The newest adapter of everybody who is asked."""
    latest = home.latest_adapters(case.task.name)
    return [latest[case.task.name, user] for user in case.people]
