from ownlm.bench.data import SetData
from ownlm.bench.shift import least_like
from ownlm.history.record import History, Query, Record
from ownlm.history.task import Task, load_task


def task() -> Task:
    return load_task("free-text").model_copy(update={"name": "notes"})


def never() -> None:
    raise AssertionError("words need no base")


def test_the_share_is_of_all_queries_even_where_each_person_has_one() -> None:
    told = {"ada": "rain over the hills", "bela": "the price of bread", "ciro": "trains to the coast", "dana": "a cat"}
    asked = {
        "ada": "rain over the hills",
        "bela": "moons of jupiter",
        "ciro": "trains to the coast",
        "dana": "a violin",
    }
    histories = {user: History(user, (Record(user, "1", {"text": "so", "prompt": told[user]}),)) for user in told}
    queries = tuple(Query(user, f"q-{user}", {"prompt": asked[user]}, gold="so") for user in asked)
    data = SetData("notes", task(), histories, queries, {}, {})
    assert [one.user_id for one in least_like(data, "bm25", 0.5, never)] == ["bela", "dana"]  # type: ignore[arg-type]
    assert [one.user_id for one in least_like(data, "bm25", 0.01, never)] == ["bela"]  # type: ignore[arg-type]
    assert least_like(data, "bm25", 1.0, never) == queries  # type: ignore[arg-type]
