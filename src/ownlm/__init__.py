"""Own your language model: a small adapter for each user on one shared, frozen base.

Example:
    >>> from ownlm import Home
    >>> home = Home(".ownlm")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ownlm import presets
from ownlm.errors import (
    AdapterError,
    BaseModelError,
    ConfigError,
    DataError,
    NotFoundError,
    OwnlmError,
    PoolError,
    StoreError,
    TaskError,
    TrainingError,
)

if TYPE_CHECKING:
    from ownlm.home import Home

__version__ = "0.1.0"

__all__ = [
    "AdapterError",
    "BaseModelError",
    "ConfigError",
    "DataError",
    "Home",
    "NotFoundError",
    "OwnlmError",
    "PoolError",
    "StoreError",
    "TaskError",
    "TrainingError",
    "__version__",
    "presets",
]


def __getattr__(name: str) -> Any:
    """Imports `Home` on first use."""
    if name == "Home":
        return import_module("ownlm.home").Home
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
