"""Consent, pools, and whose pieces lie in them: looked at every time, changed all or not at all."""

from dataclasses import replace

import pytest

from ownlm.errors import ConfigError, NotFoundError, PoolError, StoreError
from ownlm.history.record import History, Record
from ownlm.store.blobs import blob_name
from ownlm.store.forget import forget_record, forget_user, leaving, left
from ownlm.store.pools import (
    add_pool,
    check_not_withdrawn,
    consents,
    move_pool,
    pool,
    pools,
    recipes_of_pool,
    replace_pool,
    sharers_of,
    usable,
    user_of,
    users_of,
)
from ownlm.store.rows import WAITS
from ownlm.store.store import Store
from tests.store.rows import TASK, give_consent, keep, pool_info, recipe, take_back_consent

PEOPLE = ("zora", "bela", "ciro")
IDS = {"id-a": "zora", "id-b": "bela"}


@pytest.fixture
def crowd(store: Store) -> Store:
    """Three people with two records each, of whom zora and bela agree to share."""
    for user in PEOPLE:
        records = [Record(user, f"{user}-{n}", {"text": f"{user} wrote the {n}th", "title": "t"}) for n in range(2)]
        store.add_records(TASK.name, [History(user, tuple(records))])
    for user in IDS.values():
        give_consent(store, user, "CC-BY-4.0")
    return store


@pytest.fixture
def sharing(crowd: Store) -> Store:
    """The same with a pool of zora's and bela's pieces, and a recipe of ciro's made of it."""
    add_pool(crowd, pool_info("p1"), IDS)
    keep(crowd, recipe(crowd, 1, "ciro", "p1"), b"")
    return crowd


def test_consent_is_given_once_and_taken_back(crowd: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    since = consents(crowd)["zora"]
    monkeypatch.setattr("ownlm.store.consents.now", lambda: "later")
    give_consent(crowd, "zora", "CC-BY-4.0")
    assert consents(crowd)["zora"] == since and since[0] == "CC-BY-4.0"
    give_consent(crowd, "zora", " Only  for\nresearch ")
    assert consents(crowd)["zora"] == (" Only  for\nresearch ", "later")
    for _ in range(2):
        take_back_consent(crowd, "zora")
        assert list(consents(crowd)) == ["bela"]
    assert list(consents(Store(crowd.folder))) == ["bela"]


def test_consent_of_nobody_and_under_nothing_is_refused(crowd: Store) -> None:
    before = consents(crowd)
    for change in (lambda: give_consent(crowd, "nobody", "CC0"), lambda: take_back_consent(crowd, "nobody")):
        with pytest.raises(NotFoundError, match="no user 'nobody'"):
            change()
    for licence in ("", " \n"):
        with pytest.raises(ConfigError, match="licence"):
            give_consent(crowd, "ciro", licence)
    assert consents(crowd) == before


def states(store: Store) -> tuple[bool, str | None]:
    """Whether the pool waits, and why the recipe of it is stale."""
    return pools(store)[0].waits, store.adapters()[0].stale


def test_withdrawn_consent_marks_pool_and_recipes_in_its_transaction(sharing: Store) -> None:
    for user in ("zora", "bela"):
        assert states(sharing) == (False, None)
        take_back_consent(sharing, user)
        assert states(sharing) == (True, WAITS) and usable_pool(sharing) is None
        keep(sharing, recipe(sharing, 2, "zora", "p1"), b"")
        assert [one.stale for one in sharing.adapters()] == [WAITS, WAITS]  # also of a recipe that was made meanwhile
        give_consent(sharing, user, "CC0")
        assert [one.stale for one in sharing.adapters()] == [None, None] and usable_pool(sharing) == "p1"
        with sharing.database.writing() as db:
            db.exec_driver_sql("DELETE FROM adapters WHERE id = 'a2'")
    take_back_consent(sharing, "zora")
    forget_user(sharing, "bela")
    give_consent(sharing, "zora", "CC0")
    assert states(sharing) == (True, WAITS)  # until bela's pieces are withdrawn
    replace_pool(sharing, "p1", pool_info("p2"), {"a1": b"moved"}, {}, withdrawn=["id-b"])
    assert states(sharing) == (False, None)


def usable_pool(store: Store) -> str | None:
    """The pool's digest, if recipes of it may be used."""
    try:
        return usable(store, "p1").digest
    except PoolError as error:
        assert WAITS in str(error) and not any(user in str(error) for user in PEOPLE)
        return None


def test_pools_that_wait_are_marked_in_a_home_of_format_8(sharing: Store) -> None:
    take_back_consent(sharing, "zora")
    with sharing.database.writing() as db:
        db.exec_driver_sql("UPDATE adapters SET stale = NULL")
        db.exec_driver_sql("ALTER TABLE pools DROP COLUMN waits")
        db.exec_driver_sql("UPDATE meta SET value = '8' WHERE key = 'version'")
    sharing.database.close()
    opened = Store(sharing.folder)
    assert states(opened) == (True, WAITS)
    give_consent(opened, "zora", "CC0")
    assert states(opened) == (False, None)


def test_a_pool_and_its_links_are_there_together(crowd: Store) -> None:
    info = pool_info("p1", folder=str(crowd.folder / "pools" / "p1"))
    add_pool(crowd, info, IDS)
    assert pools(crowd) == [info] and pool(crowd) == info
    with crowd.database.reading() as db:
        assert db.exec_driver_sql("SELECT folder FROM pools").scalar() == "pools/p1"  # a home can be moved
    assert sharers_of(crowd, "zora") == [("id-a", TASK.name)] and sharers_of(crowd, "ciro") == []
    assert user_of(crowd, "id-b") == "bela" and user_of(crowd, "id-x") is None
    assert users_of(crowd) == users_of(crowd, TASK.name) == users_of(crowd, pool="p1") == IDS
    assert users_of(crowd, "other") == users_of(crowd, pool="p2") == {}
    with pytest.raises(StoreError, match="already"):
        add_pool(crowd, info, {"id-c": "zora"})
    with pytest.raises(StoreError):
        add_pool(crowd, pool_info("p2"), {"id-a": "zora"})  # an id is never used twice
    assert pools(crowd) == [info] and users_of(crowd) == IDS


def test_consent_taken_back_between_choosing_and_sharing(crowd: Store) -> None:
    take_back_consent(crowd, "bela")
    with pytest.raises(NotFoundError, match=r"Consent withdrawn.*: bela") as caught:
        add_pool(crowd, pool_info("p1"), IDS)
    assert "zora" not in str(caught.value) and pools(crowd) == [] and users_of(crowd) == {}
    give_consent(crowd, "bela", "CC0")
    crowd.put_task(TASK.model_copy(update={"name": "other"}))
    with pytest.raises(NotFoundError, match=": bela, zora"):  # their records are of another task
        add_pool(crowd, pool_info("p1", task="other"), IDS)
    forget_user(crowd, "zora")
    with pytest.raises(NotFoundError, match=": zora"):
        add_pool(crowd, pool_info("p1"), IDS)
    add_pool(crowd, pool_info("p1"), {"id-b": "bela"})
    assert users_of(crowd) == {"id-b": "bela"}


def test_another_consent_or_a_forgotten_record_between_choosing_and_sharing(crowd: Store) -> None:
    histories = [crowd.history(TASK.name, user) for user in IDS.values()]
    agreed = {user: licence for user, (licence, _) in consents(crowd).items()}
    take_back_consent(crowd, "bela")
    give_consent(crowd, "bela", "for research only")
    with pytest.raises(NotFoundError, match=r": bela\."):
        add_pool(crowd, pool_info("p1"), IDS, histories, agreed)
    forget_record(crowd, TASK.name, "zora", "zora-1")
    with pytest.raises(NotFoundError, match=": bela, zora"):
        add_pool(crowd, pool_info("p1"), IDS, histories, agreed)
    assert pools(crowd) == [] and users_of(crowd) == {}
    now_so = {user: licence for user, (licence, _) in consents(crowd).items()}
    left = [crowd.history(TASK.name, user) for user in IDS.values()]
    crowd.add_records(TASK.name, [History("bela", (Record("bela", "new", {"text": "later", "title": "t"}),))])
    add_pool(crowd, pool_info("p1"), IDS, left, now_so)  # what came meanwhile does no harm
    assert users_of(crowd) == IDS


def test_who_was_withdrawn_is_known_by_no_name(sharing: Store) -> None:
    check_not_withdrawn(sharing, IDS)
    replace_pool(sharing, "p1", pool_info("p2"), {}, {}, withdrawn=["id-a"])
    check_not_withdrawn(sharing, ["id-b", "id-c"])
    with pytest.raises(PoolError, match=r"withdrawn here.*id-a"):
        check_not_withdrawn(sharing, ["id-c", "id-a"])
    sharing.database.vacuum()
    assert not any(b"id-a" in path.read_bytes() for path in sharing.folder.glob("ownlm.db*"))


def test_a_pool_is_moved(sharing: Store) -> None:
    move_pool(sharing, "p1", str(sharing.folder / "pools" / "there"))
    assert pool(sharing, "p1").folder == str(sharing.folder / "pools" / "there") and users_of(sharing, pool="p1") == IDS


def test_a_pool_from_outside_names_nobody(crowd: Store) -> None:
    add_pool(crowd, pool_info("foreign", own=False, folder="/elsewhere"), {})
    assert pool(crowd).own is False and pool(crowd).folder == "/elsewhere" and users_of(crowd) == {}


def test_pools_are_found_by_what_they_are_for(crowd: Store) -> None:
    crowd.put_task(TASK.model_copy(update={"name": "other"}))
    crowd.add_base(replace(crowd.base("base"), name="second", fingerprint="2" * 64))
    first, second, third = (
        pool_info("aa1"),
        pool_info("aa2", base="second", base_fingerprint="2" * 64),
        pool_info("bb1", task="other"),
    )
    with pytest.raises(NotFoundError, match=r"no pool of task 'LaMP_4'.*make one"):
        pool(crowd, task=TASK.name)
    for one in (first, second, third):
        add_pool(crowd, one, {})
    assert pools(crowd) == [first, second, third] and pools(crowd, TASK.name) == [first, second]
    assert pool(crowd) == third and pool(crowd, task=TASK.name) == second
    assert pool(crowd, task=TASK.name, base=crowd.base("base")) == first
    twin = replace(crowd.base("base"), name="twin")  # the same weights by another name
    assert pool(crowd, base=twin) == third and pool(crowd, "aa", base=twin) == first
    assert pool(crowd, "bb") == third and pool(crowd, "aa2") == second
    with pytest.raises(NotFoundError, match=r"2 pools begin with 'aa'.*aa1, aa2"):
        pool(crowd, "aa")
    with pytest.raises(NotFoundError, match=r"no pool %.*list the pools"):
        pool(crowd, "%")
    with pytest.raises(NotFoundError, match="no pool bb of task 'LaMP_4' for the base 'second'"):
        pool(crowd, "bb", TASK.name, crowd.base("second"))


def test_a_recipe_is_one_more_version(sharing: Store) -> None:
    (made,) = recipes_of_pool(sharing, "p1")
    assert (
        made == sharing.latest_adapters()[TASK.name, "ciro"] == recipe(sharing, 1, "ciro", "p1", created=made.created)
    )
    assert (made.recipe, made.blob, made.loss_first, made.loss_last) == (b"recipe 1 of ciro", None, None, None)
    assert made.is_recipe and sharing.has_weights(made) and sharing.sweep() == 0
    residual = recipe(sharing, 2, "ciro", "p1", blob=blob_name(b"residual"))
    keep(sharing, residual, b"residual")
    assert sharing.blobs.get(blob_name(b"residual")) == b"residual" and sharing.sweep() == 0
    assert [one.id for one in recipes_of_pool(sharing, "p1")] == ["a1", "a2"] and recipes_of_pool(sharing, "p2") == []
    for path in sharing.blobs.files():
        path.unlink()
    assert not sharing.has_weights(residual)
    keep(sharing, recipe(sharing, 3, "ciro", "p1"), b"")  # whose weights are lost makes room
    assert [one.id for one in sharing.adapters()] == ["a1", "a3"]


def test_a_recipe_of_a_pool_that_went_meanwhile_is_not_kept(sharing: Store) -> None:
    late = recipe(sharing, 2, "ciro", "p1")
    replace_pool(sharing, "p1", None, {}, {"a1": "nobody is left"}, withdrawn=IDS)
    with pytest.raises(NotFoundError, match="withdrawn while a recipe of user 'ciro'"):
        keep(sharing, late, b"")
    assert [one.id for one in sharing.adapters()] == ["a1"]


def test_a_new_version_takes_the_old_ones_place(sharing: Store) -> None:
    for number in (2, 3, 4):
        keep(sharing, recipe(sharing, number, "ciro", "p1"), b"")
    before = {one.id: one for one in sharing.adapters()}
    new = pool_info("p2", version=2, parent="p1", sharers=1)
    recipes, stale = {"a1": b"without bela", "a9": b"nobody's"}, {"a2": "its history is not here"}
    late = replace_pool(sharing, "p1", new, recipes, stale, withdrawn=["id-b"])
    assert late == ["a3", "a4"] and pools(sharing) == [new]
    assert users_of(sharing) == users_of(sharing, pool="p2") == {"id-a": "zora"} and sharers_of(sharing, "bela") == []
    first, second, third, fourth = sharing.adapters()
    size = before["a1"].bytes - len(b"recipe 1 of ciro") + len(b"without bela")
    assert first == replace(before["a1"], recipe=b"without bela", bytes=size, pool="p2")
    assert second == replace(before["a2"], stale="its history is not here")
    assert third.stale == fourth.stale == "its pool was replaced while it was made" and third.pool == "p1"
    assert first.knows(first.history) and not second.knows(second.history)
    assert sorted(consents(sharing)) == ["bela", "zora"]  # to withdraw pieces is no answer about others
    keep(sharing, recipe(sharing, 5, "ciro", "p2"), b"")  # what is stale makes room
    assert [one.id for one in sharing.adapters()] == ["a1", "a5"]


def test_with_the_last_sharer_the_pool_goes(sharing: Store) -> None:
    late = replace_pool(sharing, "p1", None, {"a1": b"of nothing"}, {}, withdrawn=IDS)
    assert late == ["a1"] and pools(sharing) == [] and users_of(sharing) == {}
    (left,) = sharing.adapters()
    assert left.recipe == b"recipe 1 of ciro" and left.stale
    with pytest.raises(NotFoundError, match="no pool p1, or no longer"):
        replace_pool(sharing, "p1", None, {}, {}, withdrawn=IDS)


def test_what_fails_midway_changes_nothing(sharing: Store) -> None:
    add_pool(sharing, pool_info("p2"), {"id-c": "zora"})
    before = (pools(sharing), sharing.adapters(), users_of(sharing, pool="p1"))
    with pytest.raises(StoreError, match="already"):
        replace_pool(sharing, "p1", pool_info("p2"), {}, {"a1": "gone"}, withdrawn=["id-b"])
    assert (pools(sharing), sharing.adapters(), users_of(sharing, pool="p1")) == before


def test_who_has_pieces_in_a_pool_leaves_them_under_a_made_up_name_until_they_are_withdrawn(sharing: Store) -> None:
    done = forget_user(sharing, "zora")
    assert (done.records, done.pools) == (2, ("p1",)) and leaving(sharing) == [done.leaving]
    assert list(consents(sharing)) == ["bela"]  # so that nobody is answered from the pool
    assert users_of(sharing) == {"id-a": done.leaving, "id-b": "bela"}
    for path in sharing.folder.glob("ownlm.db*"):
        assert b"zora" not in path.read_bytes()
    with pytest.raises(NotFoundError):
        forget_user(sharing, "zora")
    replace_pool(sharing, "p1", pool_info("p2"), {"a1": b"without her"}, {}, withdrawn=["id-a"])
    left(sharing, str(done.leaving))
    assert leaving(sharing) == [] and users_of(sharing) == {"id-b": "bela"}


def test_a_recipe_is_forgotten_with_its_person(sharing: Store) -> None:
    done = forget_user(sharing, "ciro")
    assert (done.adapters, done.records, done.pools) == (1, 2, ()) and recipes_of_pool(sharing, "p1") == []
    assert not any(b"recipe 1" in path.read_bytes() for path in sharing.folder.glob("ownlm.db*"))
    assert pools(sharing)


def test_a_recipe_is_marked_when_a_record_of_its_person_is_forgotten(sharing: Store) -> None:
    assert forget_record(sharing, TASK.name, "ciro", "ciro-0").marked == 1
    (marked,) = sharing.adapters()
    assert marked.forgotten == 1 and not marked.knows(marked.history)
    keep(sharing, recipe(sharing, 2, "ciro", "p1"), b"")
    assert [one.id for one in sharing.adapters()] == ["a2"]
    assert forget_record(sharing, TASK.name, "ciro", "ciro-1").adapters == 1 and sharing.adapters() == []


def test_consent_goes_with_the_last_record_and_the_link_stays_until_pieces_are_withdrawn(sharing: Store) -> None:
    assert forget_record(sharing, TASK.name, "zora", "zora-0").pools == ("p1",)  # may have learnt from it
    assert "zora" in consents(sharing)
    forget_record(sharing, TASK.name, "zora", "zora-1")
    assert list(consents(sharing)) == ["bela"] and sharers_of(sharing, "zora") == [("id-a", TASK.name)]
    take_back_consent(sharing, "zora")  # still known
    assert forget_user(sharing, "zora").pools == ("p1",)


def test_licences_and_pools_of_others_are_no_trace(crowd: Store) -> None:
    texts = ("My own licence, which is long enough", "seeds of many things", "model.layers.0.self_attn.q_proj")
    records = [Record("dora", str(n), {"text": text, "title": "t"}) for n, text in enumerate(texts)]
    crowd.add_records(TASK.name, [History("dora", tuple(records))])
    give_consent(crowd, "bela", texts[0])
    add_pool(crowd, pool_info("p1", provenance={"note": texts[1]}), {"id-b": "bela"})
    (crowd.folder / "pools" / "p1").mkdir(parents=True)
    (crowd.folder / "pools" / "p1" / "pool.json").write_text(texts[2], "utf8")
    (crowd.folder / "pools" / "p1" / "README.md").write_text(f"as somebody wrote: {texts[1]}, {texts[2]}", "utf8")
    with pytest.raises(StoreError, match=r"A copy of the text to delete lies in .*README\.md"):
        forget_user(crowd, "dora")
    (crowd.folder / "pools" / "p1" / "README.md").unlink()
    assert forget_user(crowd, "dora", verify=True).texts == 3
    assert consents(crowd)["bela"][0] == texts[0] and pool(crowd).provenance == {"note": texts[1]}
