"""(IA)3 and prompt tuning through the whole flow: trained, asked beside LoRA, exported."""

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from ownlm.config import LoraConfig
from ownlm.errors import AdapterError, ConfigError, DataError
from ownlm.history.record import Query
from ownlm.home import Home
from ownlm.inference.load import load_peft_adapter
from ownlm.model.packed import BatchBuilder
from ownlm.model.segments import BASE
from ownlm.prompt.example import query_prompt
from ownlm.workflows.plan import settings
from tests.community import rows, small_home, with_context, write_rows, write_task
from tests.inference.test_peft_adapters import make_attentive
from tests.shell import Shell

FAST = {"epochs": 6, "batch_size": 4, "learning_rate": 0.1}
METHODS = {"ada": "lora", "bela": "ia3", "ciro": "prompt", "dora": "ia3"}


@pytest.fixture
def home(tmp_path: Path, tiny_base: Path) -> Home:
    return small_home(tmp_path, make_attentive(tiny_base, tmp_path / "base"), *(rows(user, 4) for user in METHODS))


def train(home: Home, user: str, **changes: object) -> str:
    (adapter,) = home.train("sorting", users=[user], method=METHODS[user], **FAST | changes).trained
    assert adapter.method == METHODS[user] and adapter.loss_last < adapter.loss_first
    return adapter.id


def test_one_file_of_queries_of_people_with_different_methods(home: Home) -> None:
    ids = {user: train(home, user) for user in METHODS}
    queries = [Query(user, f"{user}-{n}", {"text": f"thing {n}"}) for n in range(3) for user in METHODS]
    plain = list(home.ask_many(queries, "sorting", base_only=True))
    done: list[float] = []
    for choose in (True, False):
        told = home.ask_many(queries, "sorting", choose=choose, progress=lambda _, n, __, ___="": done.append(n))
        answers = list(told)
        assert [answer.query for answer in answers] == queries and done[-1] == len(queries)
        assert all(answer.error is None and answer.adapter == ids[answer.query.user_id] for answer in answers)
        alone = [home.ask(query.user_id, query.fields["text"], "sorting", choose=choose) for query in queries]
        assert [answer.answer for answer in answers] == [answer.answer for answer in alone]
    for at in range(0, len(queries), len(METHODS)):  # the same text, everybody's own answer
        texts = {answer.answer for answer in answers[at : at + len(METHODS)]}
        assert len(texts) == len(METHODS) and plain[at].answer not in texts


def test_a_prompt_leaves_room_for_the_longest_label(tmp_path: Path, tiny_base: Path) -> None:
    home = Home(tmp_path / "home")
    base = home.load(home.add_base(str(with_context(tmp_path / "short", tiny_base, 160)), "short"))
    task = write_task(tmp_path)
    task.write_text(task.read_text().replace('"bin"]', '"a label of more tokens than an answer may have"]'))
    home.add_history(write_rows(tmp_path / "people.jsonl", rows("ada", 2)), str(task))
    frame = (
        len(base.encode_prompt(query_prompt(home.task("sorting"), {"text": "x"}, home.history("ada", "sorting"))[0]))
        - 1
    )
    longest = len(base.encode_answer(" a label of more tokens than an answer may have"))
    most = base.max_tokens - frame - longest
    queries = [Query("ada", str(size), {"text": "x" * size}) for size in (1, most, most + 1, 2)]
    answers = list(home.ask_many(queries, "sorting", base_only=True, choose=True))
    assert [isinstance(one.error, DataError) for one in answers] == [False, False, True, False]


def test_export_is_loaded_by_peft_and_answers_alike(home: Home, tmp_path: Path) -> None:
    for user in ("bela", "ciro"):
        train(home, user)
        info = home.export(user, tmp_path / user).adapter
        base = home.load(home.bases()[0])
        tokens = base.encode_prompt("message: bela thing")
        model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / user, dtype=torch.float32)
        with load_peft_adapter(home.store, info, base).attached(base.model) as attached, torch.no_grad():
            row = BatchBuilder()
            row.predict(BASE, row.add(BASE, attached.virtual_tokens + tokens)[-len(tokens) :])
            mine, theirs = base.logits(row.pack()), model(torch.tensor([tokens])).logits[0, -len(tokens) :]
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
        assert {file.name for file in (tmp_path / user).iterdir()} == {
            "README.md", "adapter_config.json", "adapter_model.safetensors", "answer.py", "ownlm.json", "prompt.json",
        }  # fmt: skip


def test_training_is_skipped_or_begins_anew_and_never_goes_on(home: Home, tmp_path: Path) -> None:
    for user in ("bela", "ciro"):
        first = train(home, user)
        again = home.train("sorting", users=[user], method=METHODS[user], **FAST)
        assert again.skipped == [(user, "up to date")]
        home.add_history(write_rows(tmp_path / "more.jsonl", rows(user, 6)), "sorting")
        (second,) = home.train("sorting", users=[user], method=METHODS[user], **FAST).trained
        assert second.id != first and second.parent is None and second.records == 6 and second.steps == 12
        (other,) = home.train("sorting", users=[user], **FAST).trained  # LoRA now
        assert other.method == "lora" and other.parent is None
        assert home.ask(user, "thing", "sorting").adapter == other.id


def test_a_damaged_adapter_fails_its_person_alone(home: Home) -> None:
    for user in METHODS:
        train(home, user)
    (bela,) = home.adapters("bela")
    with home.store.database.writing() as db:
        db.exec_driver_sql("UPDATE adapters SET shape = '{\"peft_type\": \"IA3\"}' WHERE user = 'ciro'")
        db.exec_driver_sql(f"UPDATE adapters SET shape = '{{}}' WHERE id = '{bela.id}'")
    answers = {a.query.user_id: a for a in home.ask_many([Query(u, u, {"text": "x"}) for u in METHODS], "sorting")}
    assert isinstance(answers["bela"].error, AdapterError) and isinstance(answers["ciro"].error, AdapterError)
    assert answers["ada"].answer is not None and answers["dora"].answer is not None


def test_rates_and_settings_of_the_methods() -> None:
    rates = {m: settings("adapter", 10**8, None, {"method": m}).learning_rate for m in ("lora", "ia3", "prompt")}
    assert rates["lora"] == settings("adapter", 10**8, None, {}).learning_rate < min(rates["ia3"], rates["prompt"])
    assert settings("adapter", 10**8, None, {"method": "ia3", "learning_rate": 0.5}).learning_rate == 0.5
    assert settings("adapter", 10**8, "paper", {"method": "ia3"}).epochs == 2
    assert settings("adapter", 10**8, None, {"method": "lora", "r": 4}).lora == LoraConfig(r=4)
    for wrong, why in (
        ({"method": "ia3", "r": 4}, "no such setting"),
        ({"method": "prompt", "target_modules": ("q_proj",)}, "target_modules"),
        ({"method": "ia3", "virtual_tokens": 4}, "virtual_tokens"),
        ({"virtual_tokens": 4}, "'lora' has no"),
        ({"method": "soup"}, "'method' is wrong"),
        ({"method": "prompt", "virtual_tokens": 0}, "'virtual_tokens' is wrong"),
    ):
        with pytest.raises(ConfigError, match=why):
            settings("adapter", 10**8, None, wrong)
    assert settings("task_adapter", 10**8, None, {"method": "lora"}).method == "lora"
    with pytest.raises(ConfigError, match="Stage 1"):
        settings("task_adapter", 10**8, None, {"method": "ia3"})


def test_adapt_is_loras(home: Home) -> None:
    with pytest.raises(ConfigError, match="Stage 1"):
        home.adapt("news", "sorting", method="prompt")
    assert len(home.bases()) == 1


def test_methods_on_the_command_line(shell: Shell) -> None:
    options = ["--task", "sorting.toml", "--user", "ada", "--epochs", 1]
    trained = shell.json("train", "people.jsonl", *options, "--method", "prompt", "--virtual-tokens", 3)
    (adapter,) = Home(shell.folder / ".ownlm").adapters("ada")
    assert trained["trained"][0]["adapter"] == adapter.id and adapter.method == "prompt"
    assert adapter.shape["num_virtual_tokens"] == 3
    assert "no such setting" in shell.run("train", *options, "--method", "ia3", "--rank", 4, code=1)
    shell.run("adapt", *options, "--out", "news", "--method", "ia3", code=2)


def test_virtual_tokens_count_in_the_context(home: Home) -> None:
    train(home, "bela")
    train(home, "ciro")
    task, base = home.task("sorting"), home.load(home.bases()[0])
    text, _ = query_prompt(task, {"text": "y"}, home.history("ciro", "sorting"))
    full = "y" * (1 + base.max_tokens - task.max_new_tokens - len(base.encode_prompt(text)))  # a byte is a token
    assert home.ask("bela", full, "sorting").answer is not None
    with pytest.raises(DataError, match="longer than the context"):
        home.ask("ciro", full, "sorting")
