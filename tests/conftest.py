"""What many tests share. No test talks to the hub; the embedded base is fetched once and kept in the user's cache."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import pytest
from hypothesis import settings

from ownlm.model import smollm2 as embedded
from ownlm.model.random_base import make_random_base

settings.register_profile("ownlm", deadline=None)  # the first example warms up; how long a test takes proves nothing
settings.load_profile("ownlm")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama: 2 layers, 4 heads on 2 key-value heads, float32. Copy it before changing it."""
    return make_random_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the embedded base. Leave it as it is."""
    return embedded.fetch()
