"""The house rules: what importing loads, who may import whom, and how large files, functions and folders are."""

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


@pytest.mark.parametrize("module", ["ownlm", "ownlm.cli.app"])
def test_importing_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'transformers', 'peft', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_names_that_people_choose_are_quoted_in_commands(path: Path) -> None:
    """A user, a record or a file may have spaces, quotes and `;` in its name, or begin with `-`."""
    chosen, whole = (
        re.compile(r"user|who\b|path|folder|data\b|repo|record|gone|files?\b|source"),
        re.compile(r"quoted|argument"),
    )
    bare = []
    for text in ast.walk(ast.parse(path.read_text("utf8"))):
        said = ""
        for part in text.values if isinstance(text, ast.JoinedStr) else []:
            if isinstance(part, ast.Constant):
                said += str(part.value)
                continue
            name, command = ast.unparse(part), re.search(r"(?:(?:`|^|Next: |Then: )ownlm|`git) [^`]*$", said)
            if command and chosen.search(name) and not whole.search(name):
                bare.append(f"{path}:{text.lineno}: {command.group()}{name}")
            said += "X"
    assert not bare


def test_nothing_changes_a_library_for_all_threads() -> None:
    """transformers' `no_init_weights` replaces torch's functions: of two threads within it, the later one to leave puts
    the replacements back, and every random model after that has weights that are not set.
    """
    changing = re.compile(r"no_init_weights|set_default_(dtype|device)")
    assert not [path.name for path in SOURCES if changing.search(path.read_text("utf8"))]


def test_home_is_there_when_asked_for() -> None:
    import ownlm
    from ownlm.home import Home

    assert ownlm.Home is Home
    with pytest.raises(AttributeError, match="has no attribute 'House'"):
        _ = ownlm.House


def test_imports_keep_the_contract() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_no_imports_go_in_circles() -> None:
    graph = grimp.build_graph("ownlm", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(list(TopologicalSorter(imports).static_order())) >= len(SOURCES)  # a circle raises CycleError


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT / "src")))
def test_files_and_functions_are_short(file: Path) -> None:
    text = file.read_text("utf8")
    long = {
        node.name: lines
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > 60
    }
    assert not long
    assert len(text.splitlines()) <= 400


def test_folders_have_few_files() -> None:
    counts = Counter(str(file.parent.relative_to(ROOT / "src")) for file in SOURCES)
    assert {folder: count for folder, count in counts.items() if count > 16} == {}


_STARTS = re.compile(r"os\.(system|popen|exec|spawn|posix_spawn)")


def test_children_are_started_by_one_rule() -> None:
    """Python is named in `programs.py` alone, and whoever starts a process takes its command from there."""
    for file in SOURCES:
        tree = ast.parse(file.read_text("utf8"))
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        shell = [node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "shell"]
        assert file.name == "programs.py" or "sys.executable" not in names, file
        assert "subprocess" not in imported or "ownlm.programs" in imported, file
        assert not shell and not {name for name in names if _STARTS.match(name)}, file
        assert not {"runpy", "pty"} & imported, file


_READ_OTHERWISE = {
    "filesystem.py": "the rule itself",
    "search.py": "its process has nothing of ours",
    "memory.py": "/proc and /sys",
    "machine.py": "/proc",
    "page_files.py": "the package's own page",
    "report.py": "the package's own style",
    "task.py": "the package's own tasks",
    "export.py": "the package's own script",
    "source.py": "a folder that was looked at",
}


@pytest.mark.parametrize("file", [file for file in SOURCES if file.name not in _READ_OTHERWISE], ids=lambda f: f.stem)
def test_files_are_read_by_one_rule(file: Path) -> None:
    """Only regular files, by `filesystem.py`; and no `Path.resolve`, which breaks on a circle of links."""
    for node in ast.walk(ast.parse(file.read_text("utf8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            assert not (isinstance(node.func, ast.Attribute) and name in ("read_bytes", "read_text", "resolve"))
            assert not (name == "open" and (not node.args or {"r", "rb", "r+b"} & set(modes)))
