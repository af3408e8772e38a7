"""Errors as sentences."""

import pytest

from ownlm.errors import OwnlmError


@pytest.mark.parametrize("end", ["?", "!", "", "."])
def test_a_part_of_an_error_ends_with_one_mark(end: str) -> None:
    mark = end or "."
    said = str(OwnlmError(f"No task{end}", expected="another", hint=f"did you mean 'x'{end.rstrip('.')}"))
    assert said == f"No task{mark} Expected: another. Next: did you mean 'x'{mark}"
