"""The benchmark of that name, small: a crowd at a real server while adapters come, go and are trained again."""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from isolation_stress import main


def test_nobody_gets_anothers_answer() -> None:
    told = main(Namespace(people=12, assembled=4, requests=150, at_once=40, slots=2, timeout=600, seed=1))
    assert told["wrong"] == 0 and told["answers"]["right"] > 75 and "refused 503" not in told["answers"], told[
        "answers"
    ]
    assert told["retrained"] > 0 and told["retrained_and_not_learnt"] == 0
    assert told["assembled_say"] > 1 and told["server"]["evictions"] > 10
