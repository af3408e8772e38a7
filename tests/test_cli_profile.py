"""`ownlm profile`, and the options that show profiles, as they are typed."""

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ownlm.home import Home
from tests.community import FOLDERS, write_rows
from tests.endpoint import free_port, serving
from tests.shell import QuickShell

KEY = "sk-do-not-tell"
SORTING = ("--task", "sorting")


@pytest.fixture
def filed(shell: QuickShell) -> QuickShell:
    Home(shell.folder / ".ownlm").add_history(shell.folder / "people.jsonl", str(shell.folder / "sorting.toml"))
    return shell


def both(shell: QuickShell, *args: object, code: int) -> tuple[str, str]:
    out, err = shell.both(*args, code=code)
    assert KEY not in out + err and "Traceback" not in err
    return out, err


def test_a_journey_with_an_endpoint(filed: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNLM_PROFILE_KEY", KEY)
    long = "Mostly files what the family says at home, and what the office says under work, and does so every day."
    with serving(lambda caller: caller.say(long)) as server:
        command = ("profile", *SORTING, "--profile-url", server.url, "--profile-model", "big")
        host = f"127.0.0.1:{server.server_port}"
        out, err = both(filed, *command, "--user", "ada", "--json", code=0)
        assert f"sending 7 records to {host}, for the model big: ada (7)\n" in err
        assert json.loads(out) == {
            "written": [{"user": "ada", "records": 7, "writer": f"big at {host}", "profile": long}],
            "skipped": [],
            "failed": [],
        }
        out, err = both(filed, *command, code=0)
        assert f"2 profiles (big at {host})" in out and "skipped 1: up to date" in out
        assert "bela" in out and "Mostly files what the family says" in out and "every day" not in out
        assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert f"profile (big at {host}): {long}" in filed.run("users", "show", "ada")

    report = filed.json("train", *SORTING, "--profile", "--rag", "1", "--epochs", "1", "--user", "ada")
    assert len(report["trained"]) == 1


def test_counted_profiles_in_a_table(filed: QuickShell) -> None:
    out = filed.run("profile", *SORTING, "--counted")
    assert "3 profiles (counted)" in out
    assert [[cell.strip() for cell in line.split("│")] for line in out.splitlines()[-3:]] == [
        ["ada", "7", "Most often home (3 of 7 records), then bin (2), work (2)."],
        ["bela", "4", "Most often home (2 of 4 records), then bin (1), work (1)."],
        ["ciro", "3", "Most often bin (1 of 3 records), then home (1), work (1)."],
    ]


def test_help_is_there(shell: QuickShell) -> None:
    text = shell.run("profile", "--help")
    assert all(option in text for option in ("Usage", "--home", "--profile-url", "--counted"))


def test_the_base_writes_by_default(filed: QuickShell) -> None:
    process = filed.start("profile", *SORTING, "--json")
    document = json.loads(process.communicate()[0])
    told = [row["user"] for row in document["written"] + document["failed"]]
    assert sorted(told) == ["ada", "bela", "ciro"] and process.returncode == bool(document["failed"])


def test_training_names_who_has_no_profile(filed: QuickShell) -> None:
    filed.run("profile", *SORTING, "--counted", "--user", "bela", "-u", "ciro")
    out, err = both(filed, "train", *SORTING, "--profile", "--epochs", "1", "--json", code=1)
    assert sorted(row["user"] for row in json.loads(out)["trained"]) == ["bela", "ciro"]
    assert "failed: ada: User 'ada' has no profile. Next: write it: `ownlm profile --task T`." in err
    ask = ("ask", "ada", "thing", *SORTING, "--choose", "--base-only")
    assert "User 'ada' has no profile" in both(filed, *ask, "--profile", code=1)[1]
    assert both(filed, *ask, "--no-profile", code=0)[0].strip() in FOLDERS


def test_what_fails_is_told_and_the_rest_is_kept(filed: QuickShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNLM_PROFILE_KEY", KEY)

    def behaviour(caller: Any) -> None:
        if "bela" in caller.question:
            caller.give(b"rubbish", 401)
        else:
            caller.say("Fine.")

    with serving(behaviour) as server:
        command = ("profile", *SORTING, "--profile-url", server.url, "--profile-model", "m")
        out, err = both(filed, *command, "--json", code=1)
        document = json.loads(out)
        assert [row["user"] for row in document["written"]] == ["ada", "ciro"]
        assert [row["user"] for row in document["failed"]] == ["bela"] and "401" in document["failed"][0]["error"]
        assert "failed: bela: " in err and "OWNLM_PROFILE_KEY" in err and "secret" not in err + out
        assert "rubbish" not in err + out


def test_nobody_there_is_one_clear_error(filed: QuickShell) -> None:
    command = ("profile", *SORTING, "--profile-url", f"http://127.0.0.1:{free_port()}", "--profile-model", "m")
    out, err = both(filed, *command, "--json", code=1)
    document = json.loads(out)["error"]
    assert "cannot be reached" in document["what"] and document["hint"]
    assert err.count("error: ") == 1 and "failed: " not in err


@pytest.mark.parametrize(
    "line",
    [
        "--counted --base tiny",
        "--counted --profile-url http://a --profile-model m",
        "--base tiny --profile-url http://a --profile-model m",
        "--profile-url http://a",
        "--profile-model m",
    ],
)
def test_wrong_usage_is_exit_code_two(filed: QuickShell, line: str) -> None:
    both(filed, "profile", *SORTING, *line.split(), code=2)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("--profile-url ftp://me:sk-do-not-tell@a --profile-model m", "URL"),
        ("--user nobody", "'nobody'"),
        ("--base other", "'other'"),
        ("--home elsewhere", "elsewhere"),
        ("--task LaMP_4 --counted", "no labels"),
    ],
)
def test_an_error_is_one_clear_message(filed: QuickShell, line: str, word: str) -> None:
    out, err = both(filed, "profile", *SORTING, *line.split(), "--json", code=1)
    assert word in json.loads(out)["error"]["what"] and err.startswith("error: ")


def test_ctrl_c_keeps_what_is_written_and_the_same_command_goes_on(filed: QuickShell) -> None:
    people = [{"user_id": f"u{n:02}", "id": "r", "text": "x", "folder": "bin"} for n in range(30)]
    filed.run("history", "add", write_rows(Path(filed.folder) / "many.jsonl", people), *SORTING)
    hold = threading.Event()

    def behaviour(caller: Any) -> None:
        if caller.number >= 12 and not hold.is_set():
            caller.hang()
        else:
            caller.say("Fine.")

    with serving(behaviour) as server:
        command = ("profile", *SORTING, "--profile-url", server.url, "--profile-model", "m", "--json")
        process = filed.start(*command)
        deadline = time.monotonic() + 60
        home = Home(filed.folder / ".ownlm")
        while len(home.profiles("sorting")) < 12 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 1 and "interrupted: 12 profiles" in err and "Traceback" not in err
        document = json.loads(out)
        written = [row["user"] for row in document["written"]]
        assert document["interrupted"] and sorted(written) == sorted(home.profiles("sorting"))
        assert len(written) == 12 and not document["failed"]
        hold.set()
        rest = filed.json(*command[:-1])
        assert len(rest["skipped"]) == 12 and len(rest["written"]) == 33 - 12
