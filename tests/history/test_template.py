import pytest

from ownlm.history.template import fill, template_fields


def test_fields_come_once_and_in_order() -> None:
    assert template_fields("b: {b}\na: {a} {b}\nno field {{c}}") == ("b", "a")


@pytest.mark.parametrize("template", ["a {", "a }", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}", "{a b}"])
def test_what_is_no_plain_field_is_refused(template: str) -> None:
    with pytest.raises(ValueError):
        template_fields(template)


def test_filling_leaves_out_lines_without_values() -> None:
    template = "Given:\ntitle: {title}\n{a} by {b}\n{{as it is}}"
    assert fill(template, {"title": "T", "a": "A", "b": "B"}) == "Given:\ntitle: T\nA by B\n{as it is}"
    assert fill(template, {"b": "B"}) == "Given:\n by B\n{as it is}"
    assert fill(template, {}) == "Given:\n{as it is}"


def test_values_are_not_templates() -> None:
    assert fill("x: {x}", {"x": "{y} {{ }", "y": "no"}) == "x: {y} {{ }"
