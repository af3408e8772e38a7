"""How many threads torch has."""

from collections.abc import Iterator

import pytest
import torch


def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_core() -> Iterator[None]:
    """Many small products: cores that others use as well would wait for each other at each of them."""
    yield from threads(1)


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Rows then run at once wherever the tests do."""
    yield from threads(2)
