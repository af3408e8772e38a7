"""One small case for all methods: what is trained for it is trained once."""

from dataclasses import replace
from pathlib import Path

import pytest

from ownlm.bench.case import Case
from tests.bench.methods.cases import make_case


@pytest.fixture(scope="session")
def case(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Three people who are asked, four who share, two outsiders, on a tiny base that heeds its prompt."""
    return make_case(tiny_base, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def generating(case: Case) -> Case:
    """The same, answered by text, in which every difference between methods shows."""
    return replace(case, choose=False)
