"""Tokens: their lifetimes."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ownlm.errors import ConfigError
from ownlm.store.store import Store
from ownlm.store.tokens import expiry_of, find_token, give_token, tokens
from tests.shell import QuickShell


@pytest.mark.parametrize(
    ("text", "length"), [("12h", timedelta(hours=12)), ("30d", timedelta(days=30)), ("8w", timedelta(weeks=8))]
)
def test_a_lifetime_is_a_length(text: str, length: timedelta) -> None:
    before = datetime.now(UTC)
    assert before + length <= expiry_of(text) <= datetime.now(UTC) + length


def test_a_lifetime_is_a_date_or_a_time() -> None:
    assert expiry_of("2999-01-31") == datetime(2999, 1, 31, tzinfo=UTC)
    assert expiry_of("2999-01-31T12:00+02:00") == datetime(2999, 1, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "0d", "30", "-3d", "1.5d", "999999w", "tomorrow", "2020-01-01", "9999-12-31T23:59-23:00"]
)
def test_what_is_no_lifetime_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        expiry_of(text)


def test_a_token_knows_whether_it_has_expired(store: Store) -> None:
    now = datetime.now(UTC)
    for end, expired in ((None, False), (now + timedelta(hours=1), False), (now, True)):
        info, secret = give_token(store, "ada", end)
        found = find_token(store, secret)
        assert found == info and found is not None and found.expired is expired
    assert [one.expired for one in tokens(store, "ada")].count(True) == 1


def test_tokens_of_format_5_never_expire(store: Store) -> None:
    info, secret = give_token(store, "ada")
    store.database.close()
    with sqlite3.connect(store.folder / "ownlm.db") as db:
        db.execute("ALTER TABLE tokens DROP COLUMN expires")
        for column in ("publisher", "waits"):  # and what later formats added
            db.execute(f"ALTER TABLE pools DROP COLUMN {column}")
        for table in ("pool_versions", "checkpoints"):
            db.execute(f"DROP TABLE {table}")
        db.execute("UPDATE meta SET value = '5'")
    db.close()
    assert find_token(Store(store.folder), secret) == info and info.expires is None


def test_the_command_line_gives_and_lists_lifetimes(tmp_path: Path) -> None:
    store, shell = Store(tmp_path / "home"), QuickShell(tmp_path)
    for whom in (["ada"], ["--operator"]):
        told, warned = shell.both("users", "token", *whom, "--expires", "2999-01-31", "--home", "home")
        assert told.startswith("own_") and "from 2999-01-31 00:00 (UTC) on" in warned
    give_token(store, "bela", datetime.now(UTC))
    listed = shell.run("users", "token", "--list", "--home", "home")
    assert listed.count("2999-01-31 00:00") == 2 and ", expired" in listed
    told = shell.json("users", "token", "--list", "--home", "home")
    assert {one["user"]: one["expired"] for one in told} == {"ada": False, None: False, "bela": True}
    refused = shell.run("users", "token", "ada", "--expires", "soon", "--home", "home", code=1)
    assert "30d" in refused and len(tokens(store)) == 3
    shell.run("users", "token", "--list", "--expires", "3d", "--home", "home", code=2)
