"""What must be known to read a benchmark's tables, in words: the same in a terminal, Markdown and a page."""

from collections import Counter
from statistics import median

from ownlm.bench.metrics import metric
from ownlm.bench.results import MethodResult, Results, SetResult
from ownlm.bench.statistics import FEWEST
from ownlm.bench.tables import BETTER, EQUAL, UNCLEAR, VERDICTS, WORSE, figure, plain, verdict, without_folders
from ownlm.errors import many

_BY_CHANCE = 0.05  # of differences whose true value is none: what lies outside intervals of 95%
_FEW = 10  # comparisons, of which chance marks hardly one
_ROUGE = (
    "ROUGE: F-measure by rouge-score, no stemming; words are runs of a-z and 0-9 in Latin script, single characters "
    "in scripts without blanks between words (Chinese, Japanese, Thai...), else runs of letters, marks and digits."
)


def title(results: Results) -> str:
    """The plan's name, as a heading."""
    return f"Benchmark: {plain(results.plan)}"


def subtitle(results: Results) -> str:
    """What was run, where and when."""
    size = [f"size {results.size}"] if results.size else []
    base = [f"base: {_base(results)}"] if _base(results) else []
    seeds = f"{'seed' if len(results.seeds) == 1 else 'seeds'} {', '.join(map(str, results.seeds))}"
    return plain(" · ".join([*size, *base, f"baseline: {results.baseline}", seeds, results.hardware, results.date]))


def notes(results: Results) -> list[str]:
    """What holds for all sets, a sentence or two each."""
    random = "The base has random weights: the figures mean nothing, they only show that the plan runs."
    to_come = f"Not finished: still to be measured: {plain(', '.join(results.to_come))}."
    others = plain("; ".join(results.earlier))
    earlier = f"The same folder was run with other code, or on another machine, before; some may be theirs: {others}."
    return [
        *([to_come] if results.to_come else []),
        *([earlier] if results.earlier else []),
        *([random] if _base(results) == "random" else []),
        *([_ROUGE] if any(name.startswith("rouge") for one in results.sets for name in one.metrics) else []),
        "In brackets: 95% intervals, from drawing whole people again (queries, where there is one person alone), "
        f"stretched as Student's t is for few; none where they are fewer than {FEWEST}.",
        f"Verdicts on differences to the baseline, {plain(results.baseline)}: {BETTER} or {WORSE}, the interval "
        f"excludes zero (by chance alone, one in twenty does); {UNCLEAR}, it holds zero, or there is none; {EQUAL}, "
        "nobody's answers score differently.",
    ]


def about(results: Results, one: SetResult) -> list[str]:
    """What must be known to read a set's tables, a sentence or two each."""
    lines = [
        f"Task {plain(one.task)}: {many(one.users, 'person')} with "
        f"{many(one.queries, 'query')}, answered under {many(len(results.seeds), 'seed')}; "
        f"{many(one.outsiders, 'outsider')}, {many(one.sharers, 'possible sharer')}."
    ]
    lines += _of_people("the data", one.people) + _of_people("the file of outsiders", one.outsiders_found)
    if one.unlabelled:
        lines.append(f"Left out: {many(one.unlabelled, 'query')} without a known right answer.")
    if one.left_out:
        names = "; ".join(map(plain, one.left_out))
        why = "as the task has no labels (or shows its options in each query), or records hold nothing to learn from"
        lines.append(f"Methods left out, {why}: {names}.")
    lines += [f"Warning: {plain(warning)}" for warning in one.warnings]
    buckets = one.methods[0].buckets if one.methods else ()
    if len(buckets) == 1:
        lines.append(f"All people have {buckets[0].label}, so that there is no table by activity.")
    compared = [method for method in one.methods if method.differences]
    if not compared:
        lines.append(f"Nothing is compared to the baseline, {plain(results.baseline)}, here.")
    return lines + [
        f"{name}: {_direction(name)} is better. {_summary(name, compared)}".rstrip() for name in one.metrics
    ]


def _of_people(where: str, counts: dict[str, int]) -> list[str]:
    """What became of the people in a file; nothing where all of them were asked, or learnt from."""
    if len(counts) < 2:
        return []
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    return [f"Of {many(sum(counts.values()), 'person')} in {where}: {plain(told)}."]


def _summary(name: str, compared: list[MethodResult]) -> str:
    """How many methods differ from the baseline, how many chance would mark, and what this size would have shown."""
    if not compared:
        return ""
    counts = Counter(verdict(name, method.differences[name]) for method in compared)
    unlike = [one for method in compared if verdict(name, one := method.differences[name]) != EQUAL]
    if not unlike:
        return f"None of {many(len(compared), 'compared method')} differs from the baseline."
    found = sorted(one.detectable for one in unlike if one.detectable is not None)
    each = ", ".join(f"{counts[one]} {one.split()[-1]}" for one in VERDICTS)
    told = [f"Of {many(len(compared), 'compared method')}: {each}."]
    if len(found) > _FEW:
        told.append(
            f"By chance alone about {_BY_CHANCE * len(found):.1f} of the {len(found)} not equal would be marked."
        )
    if not found:
        told.append(f"Fewer than {FEWEST} were asked: nothing can be shown.")
        return " ".join(told)
    spread = f", from {figure(found[0])} to {figure(found[-1])}" if found[0] < found[-1] else ""
    whose = f"the median of the {len(found)} methods not equal{spread}" if len(found) > 1 else "by the one not equal"
    told.append(f"With 80% power this size would find a true difference of {figure(median(found))} ({whose}).")
    return " ".join(told)


def _direction(name: str) -> str:
    return "higher" if metric(name).higher_is_better else "lower"


def _base(results: Results) -> str:
    return str(without_folders(results.resolved.get("base", "")))
