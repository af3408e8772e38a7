import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ownlm.history.readers import read_dataset
from ownlm.history.task import load_task
from ownlm.importers.git_subjects import REPEATED, known_kind, own_words
from ownlm.importers.imported import pseudonym
from ownlm.prompt.example import history_examples
from tests.importers.repository import BELA, DAY, START, Repository, run

ROOT = Path(__file__).resolve().parents[2]
LOG = ROOT.parent / "shared" / "data" / "git_commits" / "lm_eval_harness.jsonl"
TASK = load_task("git-commit")
sys.path.insert(0, str(ROOT / "studies"))  # scripts beside each other, not a package

from replay_commits import replay  # noqa: E402


def test_a_commit_becomes_a_row(repository: Repository) -> None:
    repository.put("src/rain.py", "import os\n\nrain = 1\n")
    repository.put("old.txt", "it was\n")
    first = repository.commit("Let it rain\n\nThe body is not read.")
    repository.put("src/rain.py", "import os\n\n    rain   =\t2\nmore = 3\n")
    (repository.folder / "old.txt").unlink()
    second = repository.commit("  Let it rain more  ", author=BELA)
    imported, rows = run(repository)
    assert rows == [
        {
            "user_id": pseudonym("ada@example.org"),
            "id": first,
            "time": "2023-11-14T22:13:20+00:00",
            "files": "old.txt +1 -0\nsrc/rain.py +3 -0",
            "diff": "+it was\n+import os\n+rain = 1",
            "subject": "Let it rain",
        },
        {
            "user_id": pseudonym("bela@example.org"),
            "id": second,
            "time": "2023-11-15T22:13:20+00:00",
            "files": "old.txt +0 -1\nsrc/rain.py +2 -1",
            "diff": "-it was\n-rain = 1\n+rain = 2\n+more = 3",
            "subject": "Let it rain more",
        },
    ]
    assert imported.left_out == {}


def test_what_a_prompt_looks_like(repository: Repository) -> None:
    repository.put("a.txt", "one\n")
    repository.commit("Add one")
    os.chmod(repository.folder / "a.txt", 0o755)
    repository.commit("Let it run")
    run(repository)
    (history,) = read_dataset(repository.folder.parent / "repository.jsonl", TASK).histories
    with_diff, without = (example.prompt for example in history_examples(TASK, history))
    assert with_diff == f"{TASK.instruction_text}\n\nfiles: a.txt +1 -0\ndiff: +one\nsubject:"
    assert without == f"{TASK.instruction_text}\n\nfiles: a.txt +0 -0\nsubject:"


def test_limits(repository: Repository) -> None:
    for number in range(14):
        lines = [f"file {number} line {line}" for line in range(3)]
        repository.put(f"{number:02d}.txt", "{\n\n----\n" + "\n".join(lines) + "\n")
    long = "x/" * 60 + "end.txt"
    repository.put(long, "w" * 500 + "\n")
    repository.commit("Many files")
    for number in range(3, 15):
        (repository.folder / f"{number:02d}.txt").unlink(missing_ok=True)
    (repository.folder / long).rename(repository.folder / "short.txt")
    repository.put("00.txt", "\n".join(f"new {line}" for line in range(40)))
    repository.commit("Few lines")
    _, (many, few) = run(repository)
    files, diff = many["files"].split("\n"), many["diff"].split("\n")
    assert files == [f"{number:02d}.txt +6 -0" for number in range(10)] + ["and 5 more"]
    assert diff == [f"+file {number} line 0" for number in range(10)]
    lines = few["diff"].split("\n")
    assert lines[:2] == ["-file 0 line 0", "+new 0"] and "-file 3 line 0" in lines and len(lines) == 10
    repository.put("short.txt", "v" * 500 + "\n")
    repository.put("y/" * 60 + "end.txt", "short\n")
    repository.commit("Long things")
    *_, last = run(repository)[1]
    assert last["files"] == "short.txt +1 -1\n..." + ("y/" * 60 + "end.txt")[-77:] + " +1 -0"
    assert last["diff"].split("\n") == ["-" + "w" * 76 + "...", "+" + "v" * 76 + "...", "+short"]


def test_files_with_nothing_to_tell_take_no_room(repository: Repository) -> None:
    for number in range(20):
        repository.put(f"{number:02d}.txt", "}\n")
    for number in range(20, 32):
        repository.put(f"{number}.txt", f"{number} old\n")
    repository.commit("Many files")
    for number in range(20, 30):
        repository.put(f"{number}.txt", f"{number} old\n{number} new\n")
    (repository.folder / "30.txt").unlink()
    repository.commit("Not the eleventh")
    assert [row["diff"].split("\n") for row in run(repository)[1]] == [
        [f"+{number} {age}" for number in range(20, 30)] for age in ("old", "new")
    ]


def test_lines_lost_and_gained_share_the_room(repository: Repository) -> None:
    repository.put("a.txt", "".join(f"old {n}\n" for n in range(30)))
    repository.commit("Before")
    repository.put("a.txt", "".join(f"new {n}\n" for n in range(30)))
    repository.commit("After")
    assert run(repository)[1][1]["diff"].split("\n") == [
        *(f"-old {n}" for n in range(5)),
        *(f"+new {n}" for n in range(5)),
    ]


def test_who_it_was(repository: Repository) -> None:
    repository.change("One", author="Ada <Ada@Example.org>")
    repository.change("Two", author="Ada at home <home@example.org>")
    repository.change("Three", author="Ciro <>")
    repository.raw(b" <> 1700000000 +0000", b"Four")
    imported, rows = run(repository)
    ada, home, ciro = map(pseudonym, ("ada@example.org", "home@example.org", "ciro"))
    assert [row["user_id"] for row in rows] == [ada, home, ciro] and "example" not in str(imported)
    assert imported.left_out == {"without an author": 1}
    assert [row["user_id"] for row in run(repository, keep_names=True)[1]] == [
        "ada@example.org", "home@example.org", "ciro"]  # fmt: skip
    repository.put(".mailmap", "Ada Lovelace <ada@example.org> <home@example.org>\n")
    assert run(repository)[0].records == {ada: 2, ciro: 1}


SAME = [  # authors who are one user
    ["Ada <ada@example.org>", "ada <ADA@Example.org>", "A. L. <Ada@example.org>"],
    ["B <7+ada@users.noreply.github.com>", "Ada <Ada@users.noreply.github.com>", "A <9+ada@users.noreply.github.com>"],
    ["Cyd <12-cyd@users.noreply.gitlab.com>", "Cyd <cyd@users.noreply.gitlab.com>"],
    ["Dan <3+dan@noreply.forge.example>", "Dan <dan@noreply.forge.example>"],
    ["12-e <12-e@users.noreply.github.com>"],  # a name that begins so
    ["Fay <>", "fay  <none@none>", "Fay <root@localhost>", "FAY <devnull@localhost>", "Fay <you@example.com>",
     "Fay <fay>", "Fay <noreply@github.com>", "Fay <fay@laptop.(none)>"],
    ["Gil <>"],
    ["Hal <root@localhost>"],
    ["Ira <none@none>"],
    ["(no author) <jo@1234-abcd>"],
    ["unknown <kim>"],
]  # fmt: skip
NOBODY = ["unknown <unknown>", "(no author) <(no author)@1234-abcd>", "root <root@localhost>", "none <none@none>"]


def test_who_is_one_user(repository: Repository) -> None:
    authors = [author for same in SAME for author in same] + NOBODY
    for number, author in enumerate(authors):
        repository.change(f"Something {'x' * number}", author=author)
    imported, rows = run(repository, keep_names=True)
    users = iter(row["user_id"] for row in rows)
    assert [{next(users) for _ in same} for same in SAME] == [
        {"ada@example.org"}, {"ada@users.noreply.github.com"}, {"cyd@users.noreply.gitlab.com"},
        {"dan@noreply.forge.example"}, {"12-e@users.noreply.github.com"}, {"fay"}, {"gil"}, {"hal"}, {"ira"},
        {"jo@1234-abcd"}, {"kim"}]  # fmt: skip
    assert imported.left_out == {"without an author": len(NOBODY)}


def test_what_a_translation_platform_signed(repository: Repository) -> None:
    repository.change("Begin")
    repository.change("i18n: German\n\nCurrently translated at 100%\n\nTranslate-URL: https://example.org/de/")
    repository.change("Speak of a Translate-URL: here\n\nNo trailer, but text.\n")
    imported, rows = run(repository)
    assert [row["subject"] for row in rows] == ["Begin", "Speak of a Translate-URL: here"]
    assert imported.left_out == {"translation platforms": 1}


def test_templates_are_counted_and_can_be_kept(repository: Repository) -> None:
    repository.change("Let it rain (#1)")
    for number in range(REPEATED):
        repository.change(f"Linux: Update kernel 5.4.{number} (#{number})")
    repository.change("Update notes.txt")
    repository.change("Merge branch 'rain'")
    imported, rows = run(repository)
    assert [row["subject"] for row in rows] == ["Let it rain"]
    assert imported.left_out == {
        "repeated templates": REPEATED, "default subjects of web editors and hosts": 1, "merges": 1}  # fmt: skip
    assert imported.templates == {"linux: update kernel #": REPEATED}
    imported, rows = run(repository, keep_machine=True)
    assert len(rows) == REPEATED + 2 and rows[1]["subject"] == "Linux: Update kernel 5.4.0"
    assert imported.left_out == {"merges": 1} and imported.templates == {}


@pytest.mark.parametrize(
    ("date", "time"),
    [
        ("1700000000 +0000", "2023-11-14T22:13:20+00:00"),
        ("1700000000 -0500", "2023-11-14T22:13:20+00:00"),
        ("4294967295 +0000", "2106-02-07T06:28:15+00:00"),
        ("4294967296 +0000", None),
        ("99999999999999999999 +0000", None),
        ("0 +0000", None),
        ("-1 +0000", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates(repository: Repository, date: str, time: str | None) -> None:
    repository.change("First")
    repository.raw(f"Ada <ada@example.org> {date}".encode(), b"Second")
    assert [row.get("time") for row in run(repository)[1]] == ["2023-11-14T22:13:20+00:00", time]


def test_one_without_a_time_stays_in_its_place(repository: Repository) -> None:
    for subject, at in (("One", START), ("Two", START + DAY), ("Three", 0), ("Four", START + 2 * DAY)):
        repository.change(subject, at=at)
    rows = run(repository)[1]
    assert ["time" in row for row in rows] == [True, True, False, True]
    (history,) = read_dataset(repository.folder.parent / "repository.jsonl", TASK).histories
    assert [record.fields["subject"] for record in history.records] == ["One", "Two", "Three", "Four"]


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("Merge branch 'rain' into sun", "merges"),
        ("Merge branches 'rain' and 'sun'", "merges"),
        ("Merge pull request #12 from ada/rain", "merges"),
        ("Merge remote-tracking branch 'origin/main'", "merges"),
        ("Merge tag 'v1'", "merges"),
        ("Merged in rain (pull request #3)", "merges"),
        ('Revert "Let it rain"', "reverts"),
        ('Reapply "Let it rain"', "reverts"),
        ("revert: let it rain", "reverts"),
        ("revert(core)!: let it rain", "reverts"),
        ("fixup! Let it rain", "fixups"),
        ("squash! Let it rain", "fixups"),
        ("amend! Let it rain", "fixups"),
        ("", "without a subject"),
        (" \n\t\n", "without a subject"),
        ("\x07\x1b", "without a subject"),
        ("Merge duplicate code", None),
        ("Merge branch prediction into the core", None),
        ("Revert to the old parser", None),
        ("Reverting: no", None),
        ("fixup", None),
        ("fixup docs! now", None),
        ("Remerge branch 'x'", None),
    ],
)
def test_whose_words_a_subject_is(repository: Repository, subject: str, reason: str | None) -> None:
    repository.change("Begin")
    repository.change(subject)
    imported, rows = run(repository)
    assert imported.left_out == ({reason: 1} if reason else {})
    assert [row["subject"] for row in rows] == ["Begin"] + ([] if reason else [subject])


BOTS = [
    "dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>",
    "Somebody <41898282+github-actions[bot]@users.noreply.github.com>",
    "Any Thing[bot] <x@example.org>",
    "Renovate Bot <bot@renovateapp.com>",
    "WhiteSource Renovate <x@example.org>",
    "GitHub Actions <actions@github.com>",
    "github-actions <x@example.org>",
    "pre-commit-ci <x@example.org>",
    "greenkeeper <support@greenkeeper.io>",
    "semantic-release-bot <x@example.org>",
    "Dependabot <x@example.org>",
    "x <dependabot@example.org>",
    "Somebody <198982749+Copilot@users.noreply.github.com>",
    "Weblate <noreply@weblate.org>",
    "Hosted Weblate <hosted@weblate.org>",
    "Somebody <hosted@weblate.org>",
    "Nextcloud bot <x@example.org>",
    "OpenStack Proposal Bot <x@example.org>",
    "BrewTestBot <x@example.org>",
    "l10n daemon script <scripty@kde.org>",
    "k8s-ci-robot <x@example.org>",
    "bors <x@example.org>",
    "Jenkins <x@example.org>",
    "svn2git <x@example.org>",
    "translation-updater-bot <x@example.org>",
    "Crowdin Bot <x@example.org>",
    "Somebody <noreply@anthropic.com>",
]
PEOPLE = [
    "Ada Abbot <abbot@example.org>",
    "Talbot <talbot@example.org>",
    "Jan Bot <jan-bot@example.org>",
    "Bot <bot@example.org>",
    "Renova Teixeira <renovate.me@example.org>",
    "Robot Fan <robot@example.org>",
    "Ann Actions <actions@example.org>",
    "Ada Weblate User <weblate@ada.example>",
    "Bea <bea+weblate@example.org>",
    "Cem <cem+dependabot@example.org>",
    "Bob Jenkins <jenkins@example.org>",
    "Travis <travis@example.org>",
    "Claude <claude@example.org>",
    "Devin Ai <devin@example.org>",
    "Release Manager <release@example.org>",
]


def test_bots_and_people(repository: Repository) -> None:
    for author in (*BOTS, *PEOPLE):
        repository.change(f"By {author.split('<')[0]}", author=author)
    imported, rows = run(repository, keep_names=True)
    assert [row["user_id"] for row in rows] == [author.split("<")[1].rstrip(">") for author in PEOPLE]
    assert imported.left_out == {"bots": len(BOTS)}


def test_merges_and_empty_commits(repository: Repository) -> None:
    repository.change("Begin")
    repository.git("checkout", "--quiet", "-b", "rain")
    repository.put("rain.txt", "rain\n")
    repository.commit("Rain", author=BELA)
    repository.git("checkout", "--quiet", "main")
    repository.change("Sun")
    repository.git("merge", "--quiet", "--no-ff", "-m", "Both at last", "rain")
    repository.commit("Nothing at all")
    repository.git("checkout", "--quiet", "-b", "elsewhere")
    repository.change("Not on the branch")
    repository.git("checkout", "--quiet", "main")
    imported, rows = run(repository)
    assert [row["subject"] for row in rows] == ["Begin", "Rain", "Sun"]
    assert imported.left_out == {"merges": 1, "without changed files": 1}


def test_kinds_of_changes(repository: Repository) -> None:
    repository.put("a.txt", "".join(f"line {n}\n" for n in range(9)))
    repository.put("run.sh", "go\n")
    repository.put("none.txt", "")
    repository.commit("Begin")
    repository.git("mv", "a.txt", "b.txt")
    repository.put("b.txt", "".join(f"line {n}\n" for n in range(8)) + "more\n")
    repository.commit("Rename")
    repository.put("picture.png", bytes(range(256)))
    repository.commit("Picture")
    os.chmod(repository.folder / "run.sh", 0o755)
    repository.commit("Mode")
    (repository.folder / "b.txt").unlink()
    repository.commit("Delete")
    (repository.folder / "run.sh").unlink()
    (repository.folder / "run.sh").symlink_to("none.txt")
    repository.commit("Link")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},part")
    repository.commit("Submodule", all=False)
    rows = {row["subject"]: row for row in run(repository)[1]}
    assert {subject: row["files"] for subject, row in rows.items()} == {
        "Begin": "a.txt +9 -0\nnone.txt +0 -0\nrun.sh +1 -0",
        "Rename": "a.txt => b.txt +1 -1",
        "Picture": "picture.png (binary)",
        "Mode": "run.sh +0 -0",
        "Delete": "b.txt +0 -9",
        "Link": "run.sh +1 -1",
        "Submodule": "part +1 -0",
    }
    assert rows["Rename"]["diff"] == "-line 8\n+more"
    assert rows["Link"]["diff"] == "-go\n+none.txt"
    assert rows["Submodule"]["diff"] == f"+Subproject commit {'1' * 40}"
    assert "diff" not in rows["Picture"] and "diff" not in rows["Mode"]


def test_names_of_files(repository: Repository) -> None:
    names: list[str | bytes] = [
        '"q" \\ b.txt',
        "a\tb.txt",
        "c\nd.txt",
        "Grüße.txt",
        "雨 .txt",
        "x => y.txt",
        "-1\t-2\tz",
        b"caf\xe9.txt",
    ]
    for name in names:
        repository.put(name, "line\n")
    repository.commit("Odd names")
    (row,) = run(repository)[1]
    shown = {
        '"\\"q\\" \\\\ b.txt"', '"a\\tb.txt"', '"c\\nd.txt"', "Grüße.txt", "雨 .txt", "x => y.txt", '"-1\\t-2\\tz"',
        "café.txt"}  # fmt: skip
    assert set(row["files"].split("\n")) == {f"{name} +1 -0" for name in shown}
    assert row["diff"].split("\n") == ["+line"] * len(names)


@pytest.mark.parametrize(
    ("message", "encoding", "subject"),
    [
        ("Grüße an alle 🧑‍🌾 雨".encode(), None, "Grüße an alle 🧑‍🌾 雨"),
        ("Grüße".encode("latin-1"), None, "Grüße"),
        ("Grüße".encode("latin-1"), "ISO-8859-1", "Grüße"),
        ("Привет".encode("koi8-r"), "KOI8-R", "Привет"),
        (b"\x93quoted\x94 \x80", None, "“quoted” €"),
        (b"caf\xe9 \x81 x", None, "café   x"),
        (b"caf\xe9", None, "café"),
        (b"a\x07b\x1b[31mc\x7fd", None, "a b [31mc d"),
        ("a\u2028b\u0085c\u00adé".encode(), None, "a b c\u00adé"),
        (b"\xed\xa0\x80 half", None, "\u00ed\u00a0\u20ac half"),
        (b"two\nlines\n\nand a body", None, "two lines"),
        (b"crlf\r\n\r\nbody", None, "crlf"),
    ],
)
def test_subjects_in_any_encoding(repository: Repository, message: bytes, encoding: str | None, subject: str) -> None:
    repository.change("Begin")
    header = f"encoding {encoding}\n".encode() if encoding else b""
    repository.raw(b"Ada <ada@example.org> 1700000000 +0000", message, header=header)
    assert [row["subject"] for row in run(repository)[1]] == ["Begin", subject]


def test_subjects_as_git_itself_writes_them(repository: Repository) -> None:
    repository.change("Grüße".encode("latin-1"))
    repository.git("config", "i18n.commitEncoding", "ISO-8859-1")
    repository.change("Grüße nochmals".encode("latin-1"))
    assert [row["subject"] for row in run(repository)[1]] == ["Grüße", "Grüße nochmals"]


def test_contents_in_any_encoding(repository: Repository) -> None:
    repository.put("a.txt", "Grüße\n".encode("latin-1") + "雨 x\n".encode() + b"\x07bell \x1b[0m\n\xed\xa0\x80ab\n")
    long = "é" * 5000  # two bytes each, after one '+': what is read of the line ends within one
    repository.put("b.txt", long + "\n")
    repository.commit("Texts")
    (row,) = run(repository)[1]
    assert row["diff"].split("\n") == [
        "+Grüße", "+雨 x", "+bell  [0m", "+\u00ed\u00a0\u20acab", "+" + "é" * 76 + "..."]  # fmt: skip


def is_kept(entry: dict[str, Any]) -> bool:
    if entry["subject"].startswith("Rename greedy_until_template_yaml"):
        return True  # the log renames this file twice: replayed, the second time is a change of the new name alone
    return known_kind(entry["subject"].strip(), [file["path"] for file in entry["files"]]) is None


@pytest.mark.skipif(not LOG.is_file(), reason=f"THE REAL DATA ARE NOT THERE: no file {LOG}")
def test_a_real_log(tmp_path: Path) -> None:
    replay(LOG, tmp_path / "replayed")
    imported, rows = run(tmp_path / "replayed", keep_names=True)
    log = [json.loads(line) for line in LOG.read_text("utf8").splitlines()][::-1]
    own = [entry for entry in log if entry["files"] and is_kept(entry)]
    assert imported.left_out == {
        "default subjects of web editors and hosts": 190, "versions and dependencies": 11, "without changed files": 5,
        "reverts": 4, "bots": 1, "fixups": 1}  # fmt: skip
    assert [(row["user_id"], row["subject"]) for row in rows] == [
        (f"{entry['author']}@users.invalid", own_words(entry["subject"].strip())) for entry in own
    ]
    assert [datetime.fromisoformat(row["time"]) for row in rows] == [
        datetime.fromisoformat(entry["date"]) for entry in own
    ]
    assert sum(records >= 30 for records in imported.records.values()) == 5
    wrong = 0
    for row, entry in zip(rows, own, strict=True):
        files = {f"{file['path']} +{file['added']} -{file['removed']}" for file in entry["files"]}
        wrong += len(files) <= 10 and len(max(files, key=len)) < 80 and set(row["files"].split("\n")) != files
    assert wrong <= 2  # binary files, and a file that the log renames twice
