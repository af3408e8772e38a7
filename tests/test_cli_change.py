"""The commands about what changes, as they are typed: going on, forgetting, the doctor."""

import json
import re
import shutil
import sqlite3
import time
from pathlib import Path

from ownlm.store.database import working
from tests.community import rows, write_rows
from tests.shell import Shell


def grown(shell: Shell) -> None:
    """Ada and others with an adapter, and two more records of ada's."""
    shell.run("train", "people.jsonl", "--task", "sorting.toml", "--epochs", "1", "--batch-size", "2")
    write_rows(shell.folder / "more.jsonl", rows("ada", 9))
    shell.run("history", "add", "more.jsonl", "--task", "sorting")


def test_how_far_an_adapter_is_behind_and_that_training_goes_on(shell: Shell) -> None:
    grown(shell)
    told = shell.run("users", "show", "ada")
    worth = r"training loss [\d.]+ -> [\d.]+ in 4 steps: it may have learnt little"
    assert re.search(rf"the adapter \w{{8}} is behind: 2 new; {worth}\. `ownlm train --task sorting`", told), told
    standing = {row["user"]: (row["standing"], row["stale"]) for row in shell.json("users", "ls")}
    assert standing == {"ada": ("2 new", True), "bela": ("", False), "ciro": ("", False)}
    assert "2 new" in shell.run("users", "ls")
    command = ("train", "--task", "sorting", "--epochs", "1", "--batch-size", "2")
    assert [(row["user"], row["steps"]) for row in shell.json(*command)["trained"]] == [("ada", 1)]
    first, second = shell.json("users", "show", "ada")["adapters"]
    assert second["parent"] == first["id"] and (first["standing"], second["standing"]) == ("2 new", "")
    assert "is up to date" in shell.run("users", "show", "ada")
    assert [row["steps"] for row in shell.json(*command, "--from-scratch")["trained"]] == [5]
    other = shell.run("train", "--task", "sorting", "--epochs", "2", "--user", "ada")
    assert "1 of them began again: their last adapter had other settings" in other
    assert [row["steps"] for row in shell.json(*command, "--since", "1007", "--user", "ada")["trained"]] == [1]
    assert "is not a time" in shell.run(*command, "--since", "yesterday", code=1)


def test_forgetting_is_told(shell: Shell) -> None:
    grown(shell)
    assert "removed: 1 record\n" in shell.run("history", "forget", "ada", "--record", "ada-8", "--task", "sorting")
    told = shell.json("history", "forget", "ada", "--record", "ada-1", "--task", "sorting")
    assert (told["records"], told["marked"], told["adapters"]) == (1, 1, 0)
    assert "1 new, 1 forgotten or changed" in shell.run("users", "show", "ada")
    assert "no record" in shell.run("history", "forget", "ada", "--record", "ada-1", "--task", "sorting", code=1)
    out = shell.run("users", "forget", "ada", "--verify")
    assert "7 records, 1 adapter, 1 file of weights" in out and "for 7 texts of theirs: none is left" in out
    assert "not searched for: 4 texts of fewer than 8 letters" in out
    assert shell.json("users", "forget", "bela")["adapters"] == 1
    assert "no user 'ada'" in shell.run("users", "forget", "ada", code=1)
    assert "left out 9: they, or their user, were forgotten before" in shell.run(
        "history", "add", "more.jsonl", "--task", "sorting"
    )
    assert [row["user"] for row in shell.json("users", "ls")] == ["ciro"]
    everything = b"".join(path.read_bytes() for path in (shell.folder / ".ownlm").rglob("*") if path.is_file())
    assert b"ada secret" not in everything and b"bela" not in everything and b"ciro secret" in everything


def test_a_reader_who_stays_is_told_of_and_the_next_command_finishes(shell: Shell) -> None:
    database = shell.folder / ".ownlm" / "ownlm.db"
    shell.run("history", "add", "people.jsonl", "--task", "sorting.toml")
    reader = sqlite3.connect(database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchone()
    out, err = shell.both("history", "forget", "ada", "--record", "ada-1", "--task", "sorting")
    assert "removed: 1 record" in out and "not yet gone from every file" in err and "another process" in err
    assert "end what else uses the home" in shell.run("doctor", code=1)
    reader.close()
    shell.run("users", "ls")
    assert not shell.json("doctor")["wrong"] and b"ada secret 1" not in database.read_bytes()


def test_data_in_the_home_is_told_of_and_not_written_there(shell: Shell) -> None:
    inside = Path(".ownlm") / "people.jsonl"
    shutil.copy(shell.folder / "people.jsonl", shell.folder / inside)
    assert "lies in the home" in shell.both("history", "add", str(inside), "--task", "sorting.toml")[1]
    forget = ("history", "forget", "ada", "--record", "ada-1", "--task", "sorting")
    assert "people.jsonl; nothing was removed" in shell.run(*forget, code=1)
    told = shell.run("doctor", code=1)
    assert "holds copies of" in told and "out of the home, or remove it" in told
    (shell.folder / inside).unlink()
    assert "removed: 1 record" in shell.run(*forget)
    for command in (("import", "git", ".", ".ownlm/commits.jsonl"), ("users", "export", "ada", ".ownlm/ada")):
        assert "it lies in the home" in " ".join(shell.run(*command, code=2).replace("│", " ").split())


def test_the_doctor_speaks(shell: Shell) -> None:
    out = shell.run("doctor")
    assert "The home is whole" in out and "Next: `ownlm import git" in out and "torch" in out
    elsewhere = shell.run("doctor", "--home", "elsewhere")
    assert "no home in elsewhere" in elsewhere and "torch" in elsewhere and "is whole" not in elsewhere
    grown(shell)
    assert "without an adapter 0, with an old one 1" in shell.run("doctor")
    seen = shell.json("doctor")
    assert seen["wrong"] == [] and seen["home"]["records"] == 16 and seen["machine"]["memory_bytes"] > 0
    for blob in (shell.folder / ".ownlm" / "blobs").rglob("*.safetensors"):
        blob.write_bytes(b"")
    error = shell.run("doctor", code=1)
    assert "is damaged" in error and "ownlm train" in error and "Traceback" not in error
    assert len(shell.json("doctor", code=1)["wrong"]) == 3
    shutil.rmtree(shell.folder / ".ownlm" / "blobs")
    shell.run("train", "--task", "sorting", "--epochs", "1", "--batch-size", "2")
    shell.run("doctor")


def test_a_second_train_says_whom_it_waits_for(shell: Shell) -> None:
    with working(shell.folder / ".ownlm", "ownlm train", lambda *_: None):
        waiting = shell.start("train", "people.jsonl", "--task", "sorting.toml", "--epochs", "1")
        deadline, told = time.monotonic() + 60, ""
        assert waiting.stderr is not None
        while "waiting" not in told and time.monotonic() < deadline:
            told += waiting.stderr.readline()
        assert "waiting" in told and "`ownlm train`, process" in told
        assert waiting.poll() is None and len(shell.json("history", "ls")) == 3
    out, err = waiting.communicate(timeout=120)
    assert waiting.returncode == 0, (out, err)
    assert "3 adapters" in out


def test_imports_are_followed_by_training(shell: Shell, tmp_path: Path) -> None:
    from tests.importers.mailbox_files import write_mailbox

    count = write_mailbox(tmp_path / "sent.mbox")
    document = shell.json("import", "mbox", "sent.mbox", "mail.jsonl", "--me", "ada@example.org")
    assert document["records"] == count and document["task"] == "mail-subject"
    told = shell.run("import", "mbox", "sent.mbox", "mail.jsonl", "--me", "ada@example.org", "--keep-names")
    command = re.search(r"Next: ownlm (.+)", told)
    assert command is not None
    assert "1 adapter," in shell.run(*command.group(1).split(), "--epochs", "1")
    assert shell.run("ask", "ada@example.org", "The invoice for March is attached.", "--task", "mail-subject")
    assert json.loads((tmp_path / "mail.jsonl").read_text().splitlines()[0])["user_id"] == "ada@example.org"
