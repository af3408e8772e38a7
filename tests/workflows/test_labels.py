"""Records that were in a home before their answers were checked: nothing learns from them."""

from collections.abc import Callable

import pytest

from ownlm.errors import DataError, OwnlmError
from ownlm.history.record import History, Query, Record
from ownlm.home import Home
from ownlm.workflows.bases import stage_one_examples
from tests.sharing import SHARE, TASK
from tests.shell import QuickShell

Failed = list[tuple[str, OwnlmError]]
QUICK = {"epochs": 1, "batch_size": 8}


def train(home: Home) -> Failed:
    return home.train(TASK, users=["gina", "kara"], **QUICK).failed


def estimate(home: Home) -> Failed:
    return home.estimate(TASK, users=["gina", "kara"], **QUICK).failed


def share(home: Home) -> Failed:
    return home.pools.share(TASK, **SHARE | {"steps": 1, "gate_steps": 1, "sharers": 4}).failed


def assemble(home: Home) -> Failed:
    return home.assemble(TASK, users=["gina", "kara"]).failed


def adapt(home: Home) -> Failed:
    with pytest.raises(DataError) as caught:
        home.adapt("adapted", TASK, users=["kara", "gina"])
    assert len(home.bases()) == 1
    return [("gina", caught.value)]


@pytest.mark.parametrize("verb", [train, estimate, share, assemble, adapt])
def test_it_is_told_and_the_others_go_on(verb: Callable[[Home], Failed], shared: Home) -> None:
    wrong = [Record("gina", name, {"text": "gina says", "folder": "Hme"}) for name in ("w1", "w2")]
    shared.store.add_records(TASK, [History("gina", tuple(wrong))])
    ((user, error),) = verb(shared)
    assert user == "gina" and isinstance(error, DataError)
    assert error.what.startswith("2 records of user 'gina' in task 'sorting' have an answer that is not one of"), error
    assert error.got == "record 'w1' (nearest label: 'home'), and 1 more"


def test_a_right_answer_to_a_query_that_is_no_label_is_not_learnt(shared: Home) -> None:
    from ownlm.presets import small

    task, query = shared.task(TASK), Query("kara", "q", {"text": "thing"}, "Hme")
    with pytest.raises(DataError, match=r"query 'q' of user 'kara' cannot be learnt from.*did you mean 'home'"):
        stage_one_examples(task, shared.history("kara", TASK), [query], small().task_adapter, None)


def test_on_the_command_line(shell: QuickShell) -> None:
    (shell.folder / "bad.jsonl").write_text('{"user_id": "ada", "text": "thing", "folder": "Homes"}\n')
    told = shell.run("train", "bad.jsonl", "--task", "sorting.toml", code=1)
    assert "bad.jsonl:1: user 'ada': the value of 'folder' is not a label of the task; did you mean 'home'?" in told
    assert shell.run("train", "bad.jsonl", "--task", "sorting.toml", code=1).count("Expected: one of: home, work, bin")
