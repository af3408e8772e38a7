"""--layers, as it is typed."""

import pytest

from ownlm.home import Home
from tests.shell import QuickShell

TRAIN = ("train", "people.jsonl", "--task", "sorting.toml", "--epochs", "2", "--batch-size", "2")


def test_the_top_layers_are_trained_and_recorded(shell: QuickShell) -> None:
    estimated = shell.json(*TRAIN, "--layers", "top:1", "--dry-run")
    shell.run(*TRAIN, "--layers", "top:1")
    adapters = Home(shell.folder / ".ownlm").latest_adapters().values()
    assert {one.shape["top_layers"] for one in adapters} == {1}
    assert estimated["bytes"] == sum(one.bytes for one in adapters)
    shell.run("train", "--task", "sorting", "--epochs", "2", "--batch-size", "2", "--layers", "all")
    whole = Home(shell.folder / ".ownlm").latest_adapters().values()
    assert all("top_layers" not in one.shape and one.bytes > estimated["bytes"] / 3 for one in whole)
    assert shell.run("ask", "ada", "thing", "--task", "sorting", "--choose")


@pytest.mark.parametrize("layers", ["top:0", "top:", "top:two", "bottom:1", "2", "top:-1", "top:1.5"])
def test_other_words_are_wrong_usage(shell: QuickShell, layers: str) -> None:
    assert "neither all nor top:N" in shell.run(*TRAIN, "--layers", layers, code=2)


def test_more_layers_than_the_base_has(shell: QuickShell) -> None:
    error = shell.json(*TRAIN, "--layers", "top:3", code=1)["error"]
    assert error["got"] == "the top 3 layers" and error["expected"] == "at most 2"
