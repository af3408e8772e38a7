import math
from datetime import UTC, date, datetime

import pytest

from ownlm.history.record import History, Record, in_order
from ownlm.history.values import as_id, as_text, as_time, as_user, pick_fields
from tests.history.files import SECRET


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (3.0, "3"), (2.5, "2.5"), (" a\nb ", "a\nb"), ("", None), (" \n", None), (None, None)]
)
def test_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(
    "value", [True, [SECRET], {"a": SECRET}, SECRET.encode(), math.nan, -math.inf, f"{SECRET} \ud83d"]
)
def test_what_is_no_text_is_refused_and_not_repeated(value: object) -> None:
    with pytest.raises(ValueError) as caught:
        as_text(value)
    assert SECRET not in str(caught.value)


def test_ids_are_text_or_whole_numbers() -> None:
    assert (as_id(7), as_id("u 7")) == ("7", "u 7")
    for value in (None, "", " ", 7.0, False, ["u"]):
        with pytest.raises(ValueError):
            as_id(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2020-02-29", "2020-02-29"),
        (2020, "2020"),
        (1.5, "1.5"),
        ("2020-02-29T10:00:00+01:00", "2020-02-29T10:00:00+01:00"),
        (date(2020, 2, 29), "2020-02-29"),
        (datetime(2020, 2, 29, 10, tzinfo=UTC), "2020-02-29T10:00:00+00:00"),
        (None, None),
        (" ", None),
    ],
)
def test_times(value: object, text: str | None) -> None:
    assert as_time(value) == text


@pytest.mark.parametrize("value", [f"{SECRET} day", "inf", "nan", math.inf, "2021-02-29", "0000", "²", True, [2020]])
def test_what_is_no_time_is_refused_and_not_repeated(value: object) -> None:
    with pytest.raises(ValueError) as caught:
        as_time(value)
    assert SECRET not in str(caught.value)


def test_order_is_by_time_and_what_has_none_stays_where_it_was_given() -> None:
    def ids(*times: str | None) -> list[str]:
        history = in_order("u", [Record("u", str(place), {}, time) for place, time in enumerate(times)])
        assert isinstance(history, History)
        return [record.id for record in history.records]

    assert ids("2021-01-02", "2020", "1600000000", "2021-01-01T23:00:00-02:00") == ["1", "2", "0", "3"]
    assert ids("2021", None, "2020") == ["2", "0", "1"]
    assert ids(None, "2021", None, None, "2020") == ["0", "4", "1", "2", "3"]
    assert ids(None, None) == ["0", "1"]
    assert ids("2021", "2020", "2021", "2020") == ["1", "3", "0", "2"]


def test_picking_fields() -> None:
    row = {"a": " x ", "b": 4, "c": " ", "user_id": "u"}
    assert pick_fields(row, ["b", "a", "c", "d"], {"a"}) == {"b": "4", "a": "x"}
    for required in ("c", "d"):
        with pytest.raises(ValueError, match=f"'{required}' is missing or blank"):
            pick_fields(row, ["a", "c", "d"], {required})
    with pytest.raises(ValueError, match="the field 'a' is a list"):
        pick_fields({"a": []}, ["a"], ())


NAMES: list[tuple[str, str | None]] = [  # a user, and what is said of it where it is refused
    ("Ada Byron", None),
    ("山田 太郎", None),
    ("علی\u200cرضی", None),
    ("क्\u200dष", None),
    ("شر\u200dیف 2", None),
    ("ada\u200c", "ZERO WIDTH NON-JOINER"),
    ("a\u200cda", "ZERO WIDTH NON-JOINER"),
    ("علی\u200c", "ZERO WIDTH NON-JOINER"),
    ("\u200cعلی", "ZERO WIDTH NON-JOINER"),
    ("علی\u200d\u200cرضی", "ZERO WIDTH JOINER"),
    ("علی\u200cada", "ZERO WIDTH NON-JOINER"),
    ("علی\u200bرضی", "ZERO WIDTH SPACE"),
    ("Ada\u00a0Byron", "NO-BREAK SPACE"),
    ("Ada\u2007Byron", "FIGURE SPACE"),
    ("山田\u3000太郎", "IDEOGRAPHIC SPACE"),
    ("Ada\u1680Byron", "OGHAM SPACE MARK"),
    ("Ada  Byron", "two blanks in a row"),
]


@pytest.mark.parametrize(("name", "said"), NAMES)
def test_names_that_look_like_others(name: str, said: str | None) -> None:
    if said is None:
        assert as_user(name) == name
        return
    with pytest.raises(ValueError, match=said):
        as_user(name)
