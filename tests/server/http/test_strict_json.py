"""Whatever stands in a body: an answer below 500, and no text that cannot be stored."""

import json

import pytest

from tests.server.conftest import Served

TASK = "sorting"
CHAT, HISTORY, COMPLETIONS = "/v1/chat/completions", "/v1/users/me/history", "/v1/completions"
HALF = '"\\ud800"'


def send(served: Served, path: str, body: bytes, **headers: str) -> tuple[int, str]:
    head = served.token("ada") | {"Content-Type": "application/json"} | headers
    told = served.client.post(path, headers=head, content=body)
    assert json.loads(told.text) is not None
    return told.status_code, told.text


def chat(content: str = '"x"', **more: str) -> str:
    rest = "".join(f', "{name}": {value}' for name, value in more.items())
    return f'{{"model": "{TASK}", "messages": [{{"role": "user", "content": {content}}}]{rest}}}'


def record(**fields: str) -> str:
    inner = ", ".join(f'"{name}": {value}' for name, value in ({"text": '"a"', "folder": '"bin"'} | fields).items())
    return f'{{"task": "{TASK}", "records": [{{{inner}}}]}}'


BODIES = {
    "half a character in a question": (CHAT, chat(HALF)),
    "half a character in a stop": (CHAT, chat(stop=HALF)),
    "half a character in stops": (CHAT, chat(stop=f"[{HALF}]")),
    "half a character in the model": (CHAT, chat().replace(f'"{TASK}"', HALF)),
    "half a character in a name": (CHAT, chat(**{"\\ud800": "1"})),
    "half a character in what is not looked at": (CHAT, chat(metadata=f'{{"a": {HALF}}}')),
    "half a character in a prompt": (COMPLETIONS, f'{{"model": "{TASK}", "prompt": {HALF}}}'),
    "half a character in prompts": (COMPLETIONS, f'{{"model": "{TASK}", "prompt": ["a", {HALF}]}}'),
    "half a character in a record": (HISTORY, record(text=HALF)),
    "half a character in a record's id": (HISTORY, record(id=HALF)),
    "half a character in a record's time": (HISTORY, record(time=HALF)),
    "half a character in a field's name": (HISTORY, record(**{"\\udfff": '"a"'})),
    "halves in the wrong order": (HISTORY, record(text='"\\udc00\\ud800"')),
    "half a character in a task": ("/v1/users/me/train", f'{{"task": {HALF}}}'),
    "deep": (CHAT, "[" * 200_000),
    "deep and whole": (HISTORY, record(text="[" * 100_000 + "]" * 100_000)),
    "deep in a name that is not looked at": (CHAT, chat(metadata='{"a":' * 50_000 + "1" + "}" * 50_000)),
    "a long number": (CHAT, chat(seed="1" * 5000)),
    "a large number": (CHAT, chat(seed="1" * 4000)),
    "a large number in a record": (HISTORY, record(text="1" * 4000, folder="1e999")),
    "a large fraction": (CHAT, chat(temperature="1e999")),
    "no number": (CHAT, chat(temperature="NaN")),
    "no number in a record": (HISTORY, record(text="NaN")),
    "infinity in a record": (HISTORY, record(text="-Infinity")),
    "infinity that is not looked at": (CHAT, chat(metadata='{"a": Infinity}')),
}


def test_a_body_of_very_many_values_is_refused_before_it_is_read(served: Served) -> None:
    empty = ",".join(["[]"] * 200_000)
    status, told = send(served, CHAT, chat(metadata=f'{{"a": [{empty}]}}').encode())
    assert status == 413 and "too many values" in told
    status, told = send(served, CHAT, chat(json.dumps(f"[{empty}]")).encode())  # a text may have as many commas
    assert "too many values" not in told


@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES.keys())
def test_what_is_no_strict_json_is_refused(path: str, body: str, served: Served) -> None:
    status, text = send(served, path, body.encode())
    assert status in (400, 404) and "Traceback" not in text and "\\ud800" not in text
    assert len(served.home.history("ada", TASK)) == 7 and not served.engine.streams


@pytest.mark.parametrize(
    "raw",
    [b'"\xff"', b'"\xed\xa0\x80"', chat().encode("utf-16"), b"\xef\xbb\xbf{", b'"\xc0\xaf"', b"", b"nul", b"\x00"],
)
def test_what_is_no_text_is_refused(raw: bytes, served: Served) -> None:
    assert send(served, CHAT, raw)[0] == 400


def test_whole_characters_and_control_characters_are_text(served: Served) -> None:
    text = '"\\ud83d\\ude00 \\u0000 \\\\ud800 \\u2028 \\ufdd0"'
    assert send(served, CHAT, chat(text).encode())[0] == 200
    assert send(served, CHAT, b"\xef\xbb\xbf" + chat().encode())[0] == 200
    assert send(served, HISTORY, record(text=text, id='"\\ud83d\\ude00"').encode())[0] == 201
    page = served.get(f"{HISTORY}?task={TASK}&limit=1", served.token("ada"))
    assert page["records"][0]["fields"]["text"] == json.loads(text) and page["records"][0]["id"] == "\U0001f600"
    assert send(served, HISTORY, record(id='"\\u0000"').encode())[0] == 400  # an id can be seen


def test_of_a_name_that_stands_twice_the_last_one_counts(served: Served) -> None:
    body = chat().replace('"content": "x"', '"content": "x", "content": "xyz"')
    assert send(served, CHAT, body.encode())[0] == 200


def test_compressed_bodies_are_refused_by_name(served: Served) -> None:
    status, text = send(served, CHAT, chat().encode(), **{"Content-Encoding": "gzip"})
    assert status == 415 and "Compressed" in text
    assert send(served, CHAT, chat().encode(), **{"Content-Encoding": "identity"})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/%00", "/v1/models/%ff", "/v1/models/%ed%a0%80", f"{HISTORY}?task=%00",
        f"{HISTORY}?task={TASK}&q=%ed%a0%80&id=%00", "/v1/users/me/jobs/%ed%a0%80",
    ],
)  # fmt: skip
def test_odd_addresses_are_answered(path: str, served: Served) -> None:
    assert served.client.get(path, headers=served.token("ada")).status_code in (200, 404)


@pytest.mark.parametrize("value", [b"Bearer \xff\xfe", b"Bearer ", b"Bearer", b"own_x", b"Bearer a b", b"\xed\xa0\x80"])
def test_odd_tokens_are_unknown(value: bytes, served: Served) -> None:
    assert served.client.get("/v1/models", headers={b"Authorization": value}).status_code == 401
