"""The commands, as they are typed: their JSON, their exit codes, and stopping them."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ownlm.home import Home
from tests.community import rows, write_rows
from tests.shell import QuickShell, Shell

SLOW = ["--epochs", "20", "--batch-size", "2", "--slots", "2"]


def test_a_journey_in_json(shell: Shell, tiny_base: Path) -> None:
    assert shell.json("base", "add", tiny_base, "--name", "tiny")["name"] == "tiny"  # again: no error, no second one
    (base,) = shell.json("base", "ls")
    assert base["name"] == "tiny" and base["folder"] == str(tiny_base) and len(base["fingerprint"]) == 64
    added = shell.json("history", "add", "people.jsonl", "--task", "sorting.toml")
    assert (added["users"], added["new"], added["known"]) == (3, 14, 0)
    assert shell.json("history", "add", "people.jsonl", "--task", "sorting.toml")["known"] == 14
    assert [row["records"] for row in shell.json("history", "ls")] == [7, 4, 3]
    shown = shell.json("history", "show", "ada", "--task", "sorting", "--last", "2")
    assert [row["id"] for row in shown] == ["ada-5", "ada-6"] and shown[0]["text"] == "ada secret5 said"

    report = shell.json("train", "--task", "sorting", "--epochs", "1")
    assert sorted(report) == [
        "added", "anew", "checkpointed", "failed", "not_chosen", "notes", "resumed", "skipped",
        "tokens_per_s", "trained",
    ]  # fmt: skip
    assert sorted(report["trained"][0]) == [
        "adapter", "loss_first", "loss_last", "parent", "records", "seconds", "steps", "tokens", "user",
        "verdict"]  # fmt: skip
    assert [row["user"] for row in shell.json("train", "--task", "sorting", "--epochs", "1")["skipped"]] == [
        "ada", "bela", "ciro"]  # fmt: skip

    write_rows(shell.folder / "more.jsonl", rows("ada", 8))
    shell.run("history", "add", "more.jsonl", "--task", "sorting")
    users = shell.json("users", "ls")
    assert [sorted(row) for row in users] == [
        ["adapter", "base", "bytes", "method", "records", "shares", "stale", "standing", "task", "user"]
    ] * 3
    assert {row["user"]: row["stale"] for row in users} == {"ada": True, "bela": False, "ciro": False}
    assert shell.json("users", "show", "bela")["adapters"][0]["base"] == "tiny"

    answer = shell.json("ask", "ada", "thing", "--task", "sorting", "--choose", "--rag", "2")
    assert sorted(answer) == ["adapter", "answer", "base", "retrieved", "user"]
    assert answer["answer"] in ("home", "work", "bin") and len(answer["retrieved"]) == 2
    bare = shell.json("ask", "ada", "thing", "--task", "sorting", "--base-only")
    assert bare["adapter"] is None and bare["base"] == "tiny"

    lines = shell.run("ask", "--file", "queries.jsonl", "--task", "sorting", "--choose", "--json", code=1).splitlines()
    by_id = {line["id"]: line for line in map(json.loads, lines)}
    assert by_id["q-ada"]["gold"] == "bin" and "nobody" in by_id["q-nobody"]["error"] and by_id["q-ciro"]["answer"]

    assert "`python answer.py TEXT --choose` in" in shell.run("users", "export", "ada", "told")  # it has labels
    exported = shell.json("users", "export", "ada", "out")
    assert exported["base"] == str(tiny_base)
    assert sorted(os.listdir(shell.folder / "out")) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "answer.py", "ownlm.json", "prompt.json",
    ]  # fmt: skip


def test_a_journey_for_people(shell: Shell, tiny_base: Path) -> None:
    write_rows(shell.folder / "out.jsonl", rows("olga", 5))
    assert str(tiny_base) in shell.run("base", "ls")
    out = shell.run("adapt", "out.jsonl", "--task", "sorting.toml", "--out", "sorted", "--epochs", "1")
    assert "tiny adapted to sorting" in out
    assert "3 adapters" in shell.run("train", "people.jsonl", "--task", "sorting.toml", "--epochs", "1")
    assert "sorted" in shell.run("users", "show", "ada")
    assert "bela" in shell.run("users", "ls") and "ada-3" in shell.run("history", "show", "ada", "--task", "sorting")
    error = shell.run("ask", "--file", "queries.jsonl", "--task", "sorting", "--choose", code=1)
    assert "nobody" in error


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("history add missing.jsonl --task sorting.toml", "missing.jsonl"),
        ("history add people.jsonl --task LaMP_4", "title"),
        ("history show nobody --task sorting.toml", "nobody"),
        ("train --task sorting.toml", "No user in the home has records"),
        ("train people.jsonl --task sorting.toml --base other", "other"),
        ("train people.jsonl --task sorting.toml --preset huge", "huge"),
        ("ask ada thing --task sorting.toml", "ada"),
        ("users ls --home elsewhere", "elsewhere"),
        ("ask ada thing --task no-such-task", "no-such-task"),
        ("users show nobody", "nobody"),
        ("users export nobody out", "nobody"),
        ("base add ./nowhere", "nowhere"),
        ("adapt --task sorting.toml --out ../bad", "../bad"),
        ("history add people.jsonl --task sorting.toml --home sorting.toml", "sorting.toml"),
    ],
)
def test_an_error_is_one_clear_message(shell: QuickShell, line: str, word: str) -> None:
    out, err = shell.both(*line.split(), "--json", code=1)
    assert "error: " in err.splitlines()[-1] and word in err and "Traceback" not in err
    document = json.loads(out)["error"]
    assert document["what"] and set(document) == {"error", "what", "got", "expected", "hint"}


@pytest.mark.parametrize(
    "line", ["train", "ask --task x", "ask ada --task x", "nonsense", "ask --task x --file f ada text"]
)
def test_wrong_usage_is_exit_code_two(shell: Shell, line: str) -> None:
    shell.run(*line.split(), code=2)


def test_a_process_of_its_own_ends_and_writes_alike(shell: QuickShell) -> None:
    apart = Shell(shell.folder)
    assert apart.json("base", "ls") == shell.json("base", "ls")
    line = ("users", "show", "nobody", "--json")
    process = shell.start(*line)
    assert (*process.communicate(), process.returncode) == (*shell.both(*line, code=1), 1)
    apart.run("train", code=2)


def test_help_is_there_for_every_command(shell: Shell) -> None:
    for command in ("", "base add", "base ls", "history add", "history ls", "history show", "adapt", "train", "ask",
                    "users ls", "users show", "users export"):  # fmt: skip
        text = shell.run(*command.split(), "--help")
        assert "Usage" in text
        assert ("--home" in text) == bool(command)


def test_of_very_many_people_some_are_shown_and_all_are_counted(shell: QuickShell) -> None:
    broken = [{"user_id": f"long{n:02}", "id": "r", "text": "x" * 5000, "folder": "bin"} for n in range(23)]
    write_rows(shell.folder / "many.jsonl", *(rows(f"user{n:02}", 1) for n in range(25)), broken)
    out, err = shell.both("train", "many.jsonl", "--task", "sorting.toml", "--epochs", "1", code=1)
    assert "25 adapters" in out and "and 5 more: `ownlm users ls`" in out
    assert sum(line.strip().startswith("user") for line in out.splitlines()) == 20 + 1  # and the heading
    assert err.count("failed: long") == 20 and "failed: 3 more" in err
    assert len(shell.json("train", "--task", "sorting", "--epochs", "1", code=1)["failed"]) == 23


def test_peoples_words_are_shown_as_they_are(shell: Shell) -> None:
    odd = {"user_id": "[b]ada", "id": "r", "text": "[/b] [bold]x[/bold] :smile: \x1b[31m", "folder": "bin"}
    write_rows(shell.folder / "odd.jsonl", [odd])
    shell.run("history", "add", "odd.jsonl", "--task", "sorting.toml")
    assert odd["text"].replace("\x1b", "?") in shell.run("history", "show", "[b]ada", "--task", "sorting")


def test_a_cut_file_adds_nothing(shell: Shell) -> None:
    data = (shell.folder / "people.jsonl").read_bytes()
    (shell.folder / "cut.jsonl").write_bytes(data[:-20])
    assert "cut.jsonl:14" in shell.run("history", "add", "cut.jsonl", "--task", "sorting.toml", code=1)
    assert shell.json("history", "ls") == []
    added = shell.json("history", "add", "cut.jsonl", "--task", "sorting.toml", "--skip-bad")
    assert added["new"] == 13 and len(added["bad"]) == 1


def everything_is_whole(shell: Shell) -> list[str]:
    """Reads every blob that the database names; the users who have an adapter."""
    home = Home(shell.folder / ".ownlm")
    for adapter in home.adapters():
        assert len(home.store.blobs.get(adapter.blob)) == adapter.bytes
    return [adapter.user for adapter in home.adapters()]


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(shell: Shell) -> None:
    write_rows(shell.folder / "many.jsonl", *(rows(f"user{n}", 4) for n in range(12)))
    command = ("train", "many.jsonl", "--task", "sorting.toml", *SLOW, "--json")
    process = shell.start(*command)
    wait_for_adapters(shell, process, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "interrupted" in err and "Traceback" not in err
    document = json.loads(out)
    assert document["interrupted"] and 2 <= len(document["trained"]) < 12
    done = everything_is_whole(shell)
    assert [row["user"] for row in document["trained"]] == done
    rest = shell.json(*command[:-1])
    assert len(rest["skipped"]) == len(done) and len(rest["trained"]) == 12 - len(done)


def test_ctrl_c_elsewhere_is_one_clear_message(shell: Shell) -> None:
    command = ("adapt", "people.jsonl", "--task", "sorting.toml", "--out", "big", "--epochs", "5000")
    process = shell.start(*command, "--json")
    while process.poll() is None and not Home(shell.folder / ".ownlm").histories():
        time.sleep(0.2)
    time.sleep(5)  # into the training
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "Interrupted" in json.loads(out)["error"]["what"] and "Traceback" not in err
    assert [base["name"] for base in shell.json("base", "ls")] == ["tiny"]


def test_a_kill_loses_only_who_was_in_flight(shell: Shell) -> None:
    write_rows(shell.folder / "many.jsonl", *(rows(f"user{n}", 4) for n in range(12)))
    command = ("train", "many.jsonl", "--task", "sorting.toml", *SLOW, "--json")
    process = shell.start(*command)
    wait_for_adapters(shell, process, 1)
    process.kill()
    process.communicate()
    before = everything_is_whole(shell)
    assert 1 <= len(before) < 12
    report = shell.json(*command[:-1])
    assert sorted([row["user"] for row in report["trained"]] + before) == sorted(f"user{n}" for n in range(12))
    assert sorted(everything_is_whole(shell)) == sorted(f"user{n}" for n in range(12))


def wait_for_adapters(shell: Shell, process: subprocess.Popen[str], count: int) -> None:
    """Waits until the home of a running command has so many adapters."""
    while process.poll() is None:
        if (shell.folder / ".ownlm" / "ownlm.db").exists() and len(Home(shell.folder / ".ownlm").adapters()) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"the command ended before {count} adapters were stored: {process.communicate()}")
