"""Whatever is sent, within the API's own description or beside it, the server answers, and never with a 500."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import booleans
from schemathesis.checks import not_a_server_error
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from ownlm.home import Home
from ownlm.server.app import create_app
from ownlm.server.limits import Limits
from ownlm.store.tokens import give_token
from tests.community import rows, write_rows, write_task
from tests.server.fake_engine import FakeEngine

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
KNOWN = {"model": "sorting", "task": "sorting", "messages": [{"role": "user", "content": "thing"}]}
GENEROUS = Limits(requests_per_minute=10**9, grace_s=0)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Home]:
    """A home in which ada has records, and an adapter; jobs are accepted, and never begun."""
    folder = tmp_path_factory.mktemp("fuzzed")
    home = Home(folder / "home")
    home.add_base(str(tiny_base), "tiny")
    home.add_history(write_rows(folder / "people.jsonl", rows("ada", 7)), str(write_task(folder)))
    home.train(str(write_task(folder)), users=["ada"], epochs=1)
    yield home


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("user", ["ada", "new", None])
def test_no_request_breaks_the_server(user: str | None, mode: GenerationMode, fuzzed: Home) -> None:
    described = schemathesis.openapi.from_asgi("/openapi.json", create_app(fuzzed, FakeEngine(), GENEROUS))
    seen, kinds = Counter[int](), set[str]()
    for operation in described.get_all_operations():
        one = operation.ok()

        @settings(max_examples=10, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        @given(case=one.as_strategy(generation_mode=mode), known=booleans(), stream=booleans())
        def check(case: schemathesis.Case, known: bool, stream: bool) -> None:
            if known:  # else nearly all end where no task is called so, or at an option that is not known
                for names in (case.body, case.query):
                    if isinstance(names, dict):
                        names |= {name: value for name, value in KNOWN.items() if name in names}
                if isinstance(case.body, dict) and "model" in case.body:
                    asked = {name: case.body[name] for name in ("model", "messages", "prompt") if name in case.body}
                    case.body = asked | {"stream": stream}
            token = give_token(fuzzed.store, user)[1]  # of before may have been forgotten with its person
            response = case.call(headers={"Authorization": f"Bearer {token}"})
            case.validate_response(response, checks=CHECKS)
            seen[response.status_code] += 1
            kinds.add(response.headers.get("content-type", [""])[0].partition(";")[0])

        with suppress(Unsatisfiable):  # nothing can be wrong where nothing is taken
            check()
    assert seen.total() > 50
    if user is not None and mode == GenerationMode.POSITIVE:
        assert seen[200] > 10 and {"application/json", "text/event-stream"} <= kinds
