"""A benchmark's tables, in a terminal."""

from typing import TYPE_CHECKING

from ownlm.cli.output import print_table, say

if TYPE_CHECKING:
    from ownlm.bench.results import Results


def show(results: "Results") -> None:
    """Prints all tables of all sets."""
    from ownlm.bench.tables import about, activity, costs, quality

    for number, one in enumerate(results.sets):
        if number:
            say("")
        for line in about(results, one):
            say(line)
        for table in (quality(results, one), costs(one), *activity(one)):
            say("")
            print_table(table.title, table.columns, table.rows)
