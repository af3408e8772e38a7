"""The methods that a plan can compare: one file each. A new method is a new file, and one name in `METHODS`."""

from collections.abc import Mapping
from typing import Final

from ownlm.bench.methods import (
    adapted,
    arrow,
    assembled,
    averaged,
    base,
    ia3,
    knn,
    most_frequent,
    nearest,
    own,
    prompt,
    random_records,
)
from ownlm.bench.methods.method import Method

_MODULES = (
    base, adapted, most_frequent, knn, random_records, own, ia3, prompt, nearest, averaged, arrow, assembled
)  # fmt: skip
METHODS: Final[Mapping[str, Method]] = {module.METHOD.name: module.METHOD for module in _MODULES}
