"""README and docs/: the quickstart runs as written, each command parses, links and names of functions exist."""

import pydoc
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from ownlm.cli.app import app
from tests.shell import QuickShell

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text("utf8")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    """Each `ownlm` command of the pages' code blocks, without its comment."""
    for page in PAGES:
        for line in "".join(blocks(page.read_text("utf8"), "(?:sh)?")).replace("\\\n", " ").splitlines():
            for command in re.sub(r"\s#.*", "", line).split("; "):
                if command.startswith("ownlm "):
                    yield re.sub(r'"\$\(.*\)"', "TEXT", command)


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_each_command_parses(line: str) -> None:
    command, args = typer.main.get_command(app), shlex.split(line)
    while hasattr(command, "commands"):
        name, *args = args[1:] if args[0] == "ownlm" else args
        command = command.commands[name]
    command.make_context(line, args)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link.partition("#")[0]).exists()]
    assert not missing


def test_the_quickstart_runs_as_written(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,), (python,) = blocks(README, "sh"), blocks(README, "python")
    files, _, _ = script.partition("ownlm")
    subprocess.run(["bash", "-ec", files], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OWNLM_HOME", raising=False)
    shell = QuickShell(tmp_path)
    for line in script[len(files) :].splitlines():
        said = shell.run(*shlex.split(line.replace("smollm2-135m", str(tiny_base)), comments=True)[1:])
    assert said.strip() in ("home", "work", "money")
    exec(python.replace("smollm2-135m", str(tiny_base)), {})
    assert (tmp_path / "ada-adapter" / "adapter_model.safetensors").is_file()


def test_each_function_of_the_papers_page_exists() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs" / "paper.md").read_text("utf8").splitlines()]
    named = [name for row in rows if len(row) == 4 for name in re.findall(r"`([a-z_0-9]+(?:\.\w+)+)`", row[2])]
    assert len(named) > 30
    assert [name for name in named if not name.endswith(".toml") and pydoc.locate(f"ownlm.{name}") is None] == []


def test_the_readme_is_short_and_names_every_folder() -> None:
    assert len(README.splitlines()) <= 130
    folders = [one.name for one in (ROOT / "src" / "ownlm").iterdir() if (one / "__init__.py").is_file()]
    assert [name for name in folders if f"  {name}/ " not in README] == []
