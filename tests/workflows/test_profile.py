"""Profiles written, kept, renewed, and shown; whoever writes them, only a person's own records are read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ownlm.config import TrainConfig
from ownlm.errors import ConfigError, DataError, NotFoundError, OwnlmError, TaskError
from ownlm.history.record import History, Query, Record
from ownlm.home import Home
from ownlm.inference import endpoint as client
from ownlm.inference.engine import Engine
from ownlm.inference.request import Request, RequestOutput
from ownlm.model.base import BaseLM, load_base
from ownlm.oppu.examples import tokenize
from ownlm.oppu.fleet import Job, train_fleet
from ownlm.prompt.example import history_examples
from ownlm.prompt.profile import OPENING
from ownlm.prompt.profile import request as profile_request
from ownlm.store.rows import ProfileInfo
from ownlm.workflows import profile as verb
from ownlm.workflows.report import Profiles
from tests.community import FOLDERS, home_on, rows, small_home, with_context, write_rows, write_task
from tests.endpoint import serving

FAST: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, tiny_base, rows("ada", 13), rows("bela", 4), rows("ciro", 1))


def answering(says: Callable[[str], str]) -> Callable[..., Iterator[RequestOutput]]:
    """In place of `Engine.generate`: says what is made of each prompt's text."""

    def generate(engine: Engine, requests: Iterable[Request]) -> Iterator[RequestOutput]:
        for request in requests:
            assert request.max_tokens == verb.NEW_TOKENS and not isinstance(request.prompt, str)
            text = engine.load(request.base).tokenizer.decode(list(request.prompt))
            yield RequestOutput(says(text), "stop")

    return generate


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the base is asked, in place of asking it; it says the secrets that it read."""
    prompts: list[str] = []

    def says(text: str) -> str:
        prompts.append(text)
        return f"says {' '.join(sorted({w for w in text.split() if w.startswith('secret')}))}."

    monkeypatch.setattr(Engine, "generate", answering(says))
    return prompts


def add(home: Home, *groups: list[dict[str, str]]) -> None:
    home.add_history(write_rows(home.store.folder.parent / "more.jsonl", *groups), "sorting")


def texts(home: Home) -> dict[str, str]:
    return {user: profile.text for user, profile in home.profiles("sorting").items()}


# By the base


def test_the_base_writes_about_all_users_from_their_latest_records(home: Home, asked: list[str]) -> None:
    report = home.profile("sorting")
    assert [(profile.user, records) for profile, records in report.written] == [("ada", 10), ("bela", 4), ("ciro", 1)]
    assert {profile.writer for profile, _ in report.written} == {"base tiny"} and not report.failed
    for user, count, first in (("ada", 13, 3), ("bela", 4, 0), ("ciro", 1, 0)):
        secrets = " ".join(sorted(f"secret{n}" for n in range(first, count)))
        assert texts(home)[user] == f"{OPENING} says {secrets}."
    prompt = profile_request(home.task("sorting"), home.history("bela", "sorting").records)
    assert any(text.removeprefix("<s>").strip() == f"{prompt}\n\n{OPENING}" for text in asked)


def test_a_real_base_writes_something_or_says_that_it_did_not(home: Home) -> None:
    report = home.profile("sorting")
    assert len(report.written) + len(report.failed) == 3
    assert all(profile.text.startswith(OPENING) for profile, _ in report.written)
    assert all("is empty" in str(error) for _, error in report.failed)


def test_company_does_not_matter(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "cleaned", lambda text: text.strip() and repr(text))  # a random base writes no sentences
    monkeypatch.setattr(verb, "NEW_TOKENS", 16)
    together = home.profile("sorting")
    monkeypatch.setattr(verb, "USERS_AT_ONCE", 2)
    add(home, rows("dora", 3))
    home.store.add_profile(ProfileInfo("sorting", "ada", "old", "other", home.histories()[0].history))
    home.store.add_profile(ProfileInfo("sorting", "bela", "old", "other", home.histories()[1].history))
    alone = home.profile("sorting")
    assert [p.user for p, _ in alone.written] == ["ada", "bela", "dora"]
    assert [p.text for p, _ in alone.written[:2]] == [p.text for p, _ in together.written[:2]]


def test_a_base_that_says_nothing_writes_no_profile(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "generate", answering(lambda text: "\x00 \n"))
    report = home.profile("sorting", users=["ada", "ciro"])
    assert [user for user, _ in report.failed] == ["ada", "ciro"] and not texts(home)
    assert "'ada' is empty" in str(report.failed[0][1])


def test_where_the_context_is_short_the_oldest_records_are_left_out(
    home: Home, tiny_base: Path, tmp_path: Path, asked: list[str]
) -> None:
    home.add_base(str(with_context(tmp_path / "short", tiny_base, 560)), "short")
    home.add_history(write_rows(tmp_path / "long.jsonl", [rows("long", 1)[0] | {"text": "x" * 500}]), "sorting")
    report = home.profile("sorting", base="short")
    ((ada, records), *_) = report.written
    assert ada.writer == "base short" and 1 < records < 10
    assert ada.text == f"{OPENING} says {' '.join(sorted(f'secret{n}' for n in range(13 - records, 13)))}."
    ((user, error),) = report.failed
    assert user == "long" and isinstance(error, DataError) and "at most 560" in str(error) and "xxx" not in str(error)


def test_the_raw_base_writes_not_the_adapted_one(home: Home, asked: list[str]) -> None:
    home.adapt("adapted", "sorting", users=["ciro"], **FAST)
    assert home.profile("sorting", users=["ada"]).written[0][0].writer == "base tiny"
    assert home.profile("sorting", users=["ada"], base="adapted").written[0][0].writer == "base adapted"
    with pytest.raises(NotFoundError, match="no base 'other'"):
        home.profile("sorting", base="other")


# Kept, skipped, renewed


def test_up_to_date_users_are_skipped(home: Home, asked: list[str]) -> None:
    home.profile("sorting", users=["ada", "ada"])
    report = home.profile("sorting")
    assert report.skipped == [("ada", "up to date")] and [p.user for p, _ in report.written] == ["bela", "ciro"]
    count = len(asked)
    assert home.profile("sorting").skipped == [(user, "up to date") for user in ("ada", "bela", "ciro")]
    assert len(asked) == count == 3

    add(home, rows("bela", 5))
    assert texts(home)["bela"].endswith("secret3.")  # the old one is there until it is renewed
    assert [p.user for p, _ in home.profile("sorting").written] == ["bela"]
    assert texts(home)["bela"].endswith("secret4.")
    other = home.profile("sorting", users=["bela"], counted=True)
    assert [p.writer for p, _ in other.written] == ["counted"]
    assert [p.writer for p, _ in home.profile("sorting", users=["bela"]).written] == ["base tiny"]


def test_up_to_date_users_need_no_base(home: Home, asked: list[str]) -> None:
    home.profile("sorting")
    fresh = Home(home.store.folder)
    assert len(fresh.profile("sorting").skipped) == 3 and "engine" not in vars(fresh)


def test_a_history_that_changes_during_the_run(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def writes(text: str) -> str:
        add(home, rows("ada", 14))
        if home.store.knows("sorting", "bela"):
            home.forget("bela")
        return "writes."

    monkeypatch.setattr(Engine, "generate", answering(writes))
    report = home.profile("sorting")
    assert [user for user, _ in report.failed] == ["ada"] and "changed while" in str(report.failed[0][1])
    assert report.skipped == [("bela", "forgotten during this run")]
    assert list(texts(home)) == ["ciro"] and not home.doctor().wrong
    assert [p.user for p, _ in home.profile("sorting").written] == ["ada"]


def test_users_that_are_forgotten_before_they_are_read(home: Home, asked: list[str]) -> None:
    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        if done == 0:
            home.forget("bela")

    report = home.profile("sorting", progress=on_progress)
    assert [p.user for p, _ in report.written] == ["ada", "ciro"] and not report.failed
    assert report.skipped == [("bela", "forgotten during this run")]


def test_an_interrupt_keeps_written_profiles(home: Home, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:

    def on_progress(stage: str, done: float, total: float, note: str = "") -> None:
        assert (stage, total) == ("profiles", 3)
        if done == 2:
            raise KeyboardInterrupt

    report = Profiles()
    with pytest.raises(KeyboardInterrupt):
        home.profile("sorting", progress=on_progress, report=report)
    assert [p.user for p, _ in report.written] == ["ada", "bela"] == list(texts(home))
    rest = home.profile("sorting")
    assert [user for user, _ in rest.skipped] == ["ada", "bela"] and [p.user for p, _ in rest.written] == ["ciro"]


def test_one_writer_at_a_time_and_known_users(home: Home, tmp_path: Path) -> None:
    for how in ({"base": "tiny", "counted": True}, {"url": "http://a", "counted": True, "model": "m"},
                {"url": "http://a"}, {"model": "m"}, {"url": "http://a", "model": "m", "base": "tiny"}):  # fmt: skip
        with pytest.raises(ConfigError, match="writer"):
            home.profile("sorting", **how)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="URL"):
        home.profile("sorting", url="file:///etc/passwd", model="m")
    with pytest.raises(NotFoundError, match="nobody"):
        home.profile("sorting", users=["ada", "nobody"])
    with pytest.raises(NotFoundError, match="No user in the home"):
        home.profile("LaMP_4")
    with pytest.raises(TaskError, match="no labels"):
        home.profile("LaMP_4", counted=True)
    with pytest.raises(NotFoundError, match="no base model yet"):
        Home(tmp_path / "empty").profile("LaMP_4")
    assert not texts(home)


def test_a_user_without_answers_fails_and_the_others_go_on(tmp_path: Path, tiny_base: Path, asked: list[str]) -> None:
    home = home_on(tiny_base, tmp_path / "papers")
    papers = [{"user_id": "ada", "title": "T", "citation": "C"}, {"user_id": "bela", "title": "T"}]
    home.add_history(write_rows(tmp_path / "papers.jsonl", papers), "LaMP_1")
    report = home.profile("LaMP_1")
    assert [p.user for p, _ in report.written] == ["ada"] and "cited: C" in asked[0]
    assert [user for user, _ in report.failed] == ["bela"] and "no record with an answer" in str(report.failed[0][1])


# Counted


def test_counting_needs_no_base_and_counts_everything(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.add_history(write_rows(tmp_path / "a.jsonl", rows("ada", 13), rows("bela", 1)), str(write_task(tmp_path)))
    report = home.profile("sorting", counted=True)
    assert [(p.user, p.text, p.writer, n) for p, n in report.written] == [
        ("ada", "Most often home (5 of 13 records), then bin (4), work (4).", "counted", 13),
        ("bela", "Most often home (1 of 1 records).", "counted", 1),
    ]
    assert len(home.profile("sorting", counted=True).skipped) == 2


# By an endpoint


def test_an_endpoint_writes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWNLM_PROFILE_KEY", " sk-1\n")
    printed: list[str] = []
    with serving(lambda caller: caller.say(f"About {caller.question.count('message:')}.")) as server:
        how: dict[str, Any] = {
            "url": server.url,
            "model": "big",
            "tell": lambda text: printed.append(f"{len(server.requests)} {text}"),
        }
        report = home.profile("sorting", **how)
        host = f"127.0.0.1:{server.server_port}"
        assert [(p.user, p.text, n) for p, n in report.written] == [
            ("ada", "About 10.", 10), ("bela", "About 4.", 4), ("ciro", "About 1.", 1)]  # fmt: skip
        assert {p.writer for p, _ in report.written} == {f"big at {host}"}
        assert printed == [f"0 sending 15 records to {host}, for the model big: ada (10), bela (4), ciro (1)"]
        assert {request.headers["Authorization"] for request in server.requests} == {"Bearer sk-1"}
        assert len(home.profile("sorting", **how).skipped) == 3 and len(server.requests) == 3 and len(printed) == 1
        monkeypatch.delenv("OWNLM_PROFILE_KEY")
        assert len(home.profile("sorting", **how | {"model": "other"}).written) == 3
        assert all("Authorization" not in request.headers for request in server.requests[3:])


def test_what_the_endpoint_refuses_of_one_does_not_stop_the_others(home: Home) -> None:
    def behaviour(caller: Any) -> None:
        if "bela" in caller.question:
            caller.give(b"bela secret2 rubbish", 404)
        else:
            caller.say("\x07" if "ciro" in caller.question else "Fine.")

    with serving(behaviour) as server:
        report = home.profile("sorting", url=server.url, model="m")
    assert texts(home) == {"ada": "Fine."}
    assert [user for user, _ in report.failed] == ["bela", "ciro"]
    said = " ".join(str(error) for _, error in report.failed)
    assert "'bela'" in said and "404" in said and "'ciro' is empty" in said
    assert "secret" not in said and "rubbish" not in said


def test_where_the_endpoint_goes_away_what_is_written_is_kept(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "AT_ONCE", 1)
    report = Profiles()

    def behaviour(caller: Any) -> None:
        caller.close_connection = True
        if caller.number == 1:
            caller.server.socket.close()  # no server listens from here on
        caller.say("Fine.", Connection="close")

    with serving(behaviour) as server, pytest.raises(OwnlmError, match="cannot be reached"):
        home.profile("sorting", url=server.url, model="m", report=report)
    assert [p.user for p, _ in report.written] == ["ada", "bela"] == list(texts(home)) and not report.failed


def test_what_is_printed_before_anything_is_sent(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_sent(endpoint: Any, questions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        raise OwnlmError("sent")
        yield

    monkeypatch.setattr(client, "answers", nothing_sent)
    add(home, *(rows(f"u{n:02}", 12) for n in range(20)))
    printed: list[str] = []
    for url in ("http://far.example/v1", "https://far.example/v1"):
        with pytest.raises(OwnlmError, match="sent"):
            home.profile("sorting", url=url, model="m", tell=printed.append)
    plain, encrypted = printed
    assert plain.startswith("sending 215 records to far.example, for the model m, NOT ENCRYPTED: ada (10), bela (4)")
    assert plain.endswith("u06 (10) and 13 more users") and "NOT ENCRYPTED" not in encrypted


# Whose records are read

some_people = st.dictionaries(st.sampled_from(["ada", "bela", "ciro", "dora"]), st.integers(1, 14), min_size=2)


@settings(max_examples=12)
@given(some_people, st.sampled_from(["base", "endpoint"]), st.integers(1, 5), st.randoms())
def test_only_a_users_own_records_are_in_the_request(
    tiny_base: Path,
    tmp_path_factory: pytest.TempPathFactory,
    people: dict[str, int],
    by: str,
    at_once: int,
    random: Any,
) -> None:
    folder = tmp_path_factory.mktemp("home")
    mixed = [row for user, count in people.items() for row in rows(user, count)]
    random.shuffle(mixed)
    home = small_home(folder, tiny_base, mixed)
    asked: list[str] = []

    def echo(text: str) -> str:
        asked.append(text)
        (user,) = {one for one in ("ada", "bela", "ciro", "dora") if one in text}
        return f"is {user}."

    def answers(endpoint: Any, questions: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        shuffled = list(questions.items())
        random.shuffle(shuffled)
        yield from ((user, echo(question)) for user, question in shuffled)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "generate", answering(echo))
        patch.setattr(client, "answers", answers)
        patch.setattr(verb, "USERS_AT_ONCE", at_once)
        how = {"url": "http://a", "model": "m"} if by == "endpoint" else {}
        report = home.profile("sorting", **how)  # type: ignore[arg-type]
    assert [p.user for p, _ in report.written] == [person.user for person in home.histories()] and len(asked) == len(
        people
    )
    assert all(profile.text.endswith(f"is {user}.") for user, profile in home.profiles("sorting").items())
    for user, count in people.items():
        (text,) = (text for text in asked if user in text)
        shown = {n for n in range(count) if f"{user} secret{n} said" in text}
        assert shown == set(range(max(0, count - 10), count))


# Shown


def watch(monkeypatch: pytest.MonkeyPatch, where: str = "selection") -> dict[str, str]:
    """The first prompt of every user that is trained."""
    seen: dict[str, str] = {}

    def tokenize_watched(base: BaseLM, user: str, examples: Any, *rest: Any) -> Any:
        examples = list(examples)
        seen[user] = examples[-1].prompt
        return tokenize(base, user, examples, *rest)

    monkeypatch.setattr(f"ownlm.workflows.{where}.tokenize", tokenize_watched)
    return seen


def in_order(prompt: str, *parts: str) -> bool:
    places = [prompt.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


INSTRUCTION, PROFILE, EARLIER = "Sort the message", "About this person: Most often home", "Earlier, by the same person:"


@pytest.mark.parametrize("rag", [0, 2])
def test_training_and_asking_show_the_profile(home: Home, monkeypatch: pytest.MonkeyPatch, rag: int) -> None:
    home.profile("sorting", users=["ada"], counted=True)
    seen = watch(monkeypatch)
    report = home.train("sorting", profile=True, rag=rag, **FAST)
    assert [a.user for a in report.trained] == ["ada"]
    assert [user for user, _ in report.failed] == ["bela", "ciro"]
    error = report.failed[0][1]
    assert "no profile" in str(error) and error.command == "ownlm profile --task T"
    between = [EARLIER] if rag else []
    assert in_order(seen["ada"], INSTRUCTION, PROFILE, *between, "message: ada secret12 said\nfolder:")
    assert (EARLIER in seen["ada"]) == bool(rag) and seen["ada"].count("About this person:") == 1

    prompts: list[str] = []
    genuine = BaseLM.encode_prompt
    monkeypatch.setattr(BaseLM, "encode_prompt", lambda base, text: prompts.append(text) or genuine(base, text))
    assert home.ask("ada", "new one", "sorting", choose=True).answer in FOLDERS
    assert in_order(prompts[-1], INSTRUCTION, PROFILE, *between, "message: new one\nfolder:")
    home.ask("ada", "new one", "sorting", choose=True, profile=False)
    assert "About this person" not in prompts[-1] and (EARLIER in prompts[-1]) == bool(rag)
    home.ask("ada", "new one", "sorting", choose=True, rag=1)
    assert in_order(prompts[-1], INSTRUCTION, PROFILE, EARLIER, "message: new one")
    home.ask("ada", "new one", "sorting", choose=True, base_only=True)
    assert "About this person" not in prompts[-1]
    home.ask("ada", "new one", "sorting", choose=True, base_only=True, profile=True)
    assert PROFILE in prompts[-1]
    (without,) = home.ask_many([Query("bela", "q", {"text": "x"})], "sorting", profile=True, base_only=True)
    assert "no profile" in str(without.error)


def test_stage_one_shows_the_profile(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match="no profile"):
        home.adapt("adapted", "sorting", users=["ada"], profile=True, **FAST)
    home.profile("sorting", counted=True)
    seen = watch(monkeypatch, "bases")
    home.adapt("adapted", "sorting", users=["ada"], profile=True, **FAST)
    assert in_order(seen["ada"], INSTRUCTION, PROFILE, "message: ada")


def test_a_stale_profile_is_shown_until_it_is_renewed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.profile("sorting", users=["bela"], counted=True)
    (first,) = home.train("sorting", users=["bela"], profile=True, **FAST).trained
    add(home, rows("bela", 9))
    seen = watch(monkeypatch)
    (second,) = home.train("sorting", users=["bela"], profile=True, **FAST).trained
    assert second.parent == first.id and "(2 of 4 records)" in seen["bela"]
    home.profile("sorting", counted=True)
    (third,) = home.train("sorting", users=["bela"], profile=True, **FAST).trained  # other prompts: trained again
    assert third.parent is None and "(3 of 9 records)" in seen["bela"]
    assert home.train("sorting", users=["bela"], profile=True, **FAST).skipped


def test_a_minibatch_computes_the_profile_once(home: Home, tiny_base: Path) -> None:
    base = load_base(tiny_base, name="tiny", fingerprint="tiny")
    task, text = home.task("sorting"), "Writes mostly about rain, in short sentences."
    history = History("u", tuple(Record("u", f"r{n}", {"text": f"{n} things", "folder": "bin"}) for n in range(6)))
    config = TrainConfig(epochs=1, batch_size=6, learning_rate=1e-2)
    tokens = {}
    for profile in ("", text):
        examples = tokenize(base, "u", history_examples(task, history, profile=profile))
        (run,) = train_fleet(base, [Job("u", examples, 0)], config, slots=1)
        tokens[profile] = run.tokens
    more = base.encode_prompt(f"About this person: {text}\n\n")
    assert tokens[text] - tokens[""] == len(more) - len(base.encode_prompt(""))
    assert torch.isfinite(torch.tensor(run.losses)).all()
