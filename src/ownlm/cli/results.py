"""A benchmark's tables, in a terminal."""

from typing import TYPE_CHECKING

from ownlm.cli.output import print_table, say

if TYPE_CHECKING:
    from ownlm.bench.results import Results


def show(results: "Results", activity: bool = False) -> None:
    """Prints the tables of all sets, and what must be known to read them.

    Args:
        activity: also by how many records people have.
    """
    from ownlm.bench import tables
    from ownlm.bench.sentences import about, notes, subtitle, title

    for line in (title(results), subtitle(results), *notes(results)):
        say(line)
    for one in results.sets:
        say("")
        for line in about(results, one):
            say(line)
        by_activity = tables.activity(one) if activity else ()
        for table in (tables.quality(results, one), *tables.costs(one), *by_activity):
            say("")
            print_table(table.title, table.columns, table.rows)
            if table.note:
                say(table.note)
