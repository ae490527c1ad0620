"""The house rules that a program can check: who imports whom, where heavy things are, how long files are."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "idefics_cli"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
MAX_LINES = 350

# Imports point to a lower or the same rank. `shapes` trains and measures through the backends; only commands ask it.
RANKS = {
    "errors": 0,
    "values": 0,
    "rows": 0,
    "ranking": 0,
    "lru": 0,
    "files": 0,
    "content": 0,
    "child_processes": 0,
    "figures": 0,
    "url_secrets": 0,
    "yaml_reader": 0,
    "http_retry": 0,
    "config": 1,
    "jsonl": 2,
    "images": 2,
    "prompts": 2,
    "records": 2,
    "results": 2,
    "models": 3,
    "engine": 4,
    "backends": 5,
    "runner": 6,
    "bench": 7,
    "doctor": 7,
    "serve": 7,
    "review": 7,
    "eval": 7,
    "convert": 7,
    "shapes": 7,
    "cli": 8,
    "__main__": 9,
}
HEAVY = {
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "bitsandbytes",
    "huggingface_hub",
    "optimum",
    "numpy",
}
PLACES = {
    "vllm": ("bench/vllm_script",),
    "typer": ("cli",),
    "rich": ("cli",),
    "prompt_toolkit": ("cli/terminal",),
    "click": (),
    "yaml": ("yaml_reader",),
    "httpx2": ("images", "models/hub", "doctor", "backends/openai"),
    "tenacity": ("http_retry",),
    "packaging": ("doctor",),
    "psutil": ("models", "serve"),
    "filelock": ("models", "backends/daemon"),
    "platformdirs": ("config", "backends/daemon"),
    "pydantic": (
        *(
            "config",
            "cli/resolve",
            "prompts",
            "runner",
            "serve",
            "review",
            "backends/daemon",
            "eval/benchmarks",
        ),
        *("models/dimensions", "models/families", "models/hub"),
    ),
    "llguidance": ("prompts/answer_format", "engine/grammar"),
    "jsonschema_rs": ("prompts/answer_format",),
    "starlette": ("serve", "review"),
    "uvicorn": ("serve", "review"),
    "anyio": ("serve", "review"),
    "pydantic_core": ("review/lines",),
    "ray": ("backends/cluster",),
    "datasets": ("eval/benchmarks",),
    "pyarrow": ("convert/parquet", "records/parquet_table"),
    "pypdfium2": ("images/document",),
    "fsspec": ("images/remote",),
    "lance": ("records/lance_table",),
    **dict.fromkeys(HEAVY, ("models", "engine", "bench", "shapes")),
    "numpy": ("models", "engine", "bench", "shapes", "images", "review", "eval"),
    "tifffile": ("images/precise",),
    "imagecodecs": ("images/precise",),
    "PIL": ("images", "shapes", "values", "models", "bench", "backends/daemon", "eval/plot"),
}


def module_of(path: Path) -> str:
    """`images/decode.py` -> `images/decode`; a package's `__init__` is the package."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")


def imports(path: Path) -> Iterator[tuple[str, bool, int]]:
    """Each imported module (ours from the package's root, with slashes), whether it is ours, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _named(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from _named(node.module or "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            folder = path.parent
            for _ in range(node.level - 1):
                folder = folder.parent
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield "/".join((*folder.relative_to(PACKAGE).parts, *name.split("."))), True, node.lineno


def _named(name: str, line: int) -> Iterator[tuple[str, bool, int]]:
    first, *rest = name.split(".")
    yield ("/".join(rest), True, line) if first == "idefics_cli" else (first, False, line)


def part(module: str) -> str:
    return module.split("/")[0]


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_down(path: Path) -> None:
    here = part(module_of(path))
    if here == "__init__":
        return
    assert here in RANKS, f"{here} has no rank: give it one here"
    for module, is_ours, line in imports(path):
        target = part(module)
        if is_ours and target in RANKS and target != here:
            assert RANKS[target] <= RANKS[here], f"{path}:{line} imports {target}, which is above {here}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_third_parties_stay_in_their_places(path: Path) -> None:
    here = module_of(path)
    for module, is_ours, line in imports(path):
        if not is_ours and module in PLACES:
            allowed = PLACES[module]
            assert any(here == place or here.startswith(f"{place}/") for place in allowed), (
                f"{path}:{line} imports {module}, which belongs in {', '.join(allowed) or 'nothing'}"
            )


def test_every_library_that_is_imported_is_declared() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {re.split("[^a-z0-9-]", line.lower())[0] for line in listed}
    imported = {module for path in FILES for module, is_ours, _ in imports(path) if not is_ours}
    imported -= {"vllm"}  # the rival's, of another environment
    owners = {"lance": ["pylance"], **packages_distributions()}  # which is not installed to be tested
    for module in sorted(imported - sys.stdlib_module_names):
        names = {name.lower().replace("_", "-") for name in owners.get(module, [module])}
        assert names & declared, f"{module} is not among the dependencies in pyproject.toml"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert path.stem not in {"utils", "helpers", "common", "base"}
    assert not text or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_only_output_prints(path: Path) -> None:
    here = module_of(path)
    if here == "cli/output" or here.startswith("shapes/"):  # shapes: the training script reports its progress
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno} prints"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            is_stream = node.value.id == "sys" and node.attr in {"stdout", "stderr"}
            assert not is_stream, f"{path}:{node.lineno} uses sys.{node.attr}"


def test_no_two_files_import_each_other() -> None:
    """Nor any longer circle, whether at the top of a file or within a function."""
    names = {module_of(path) for path in FILES}
    above: dict[str, set[str]] = {}
    for path in FILES:
        targets = (_file_of(module, names) for module, is_ours, _ in imports(path) if is_ours)
        above[module_of(path)] = {target for target in targets if target} - {module_of(path)}
    while free := {name for name, targets in above.items() if not targets & above.keys()}:
        above = {name: targets for name, targets in above.items() if name not in free}
    assert not above, f"these files are in circles of imports, or above one: {', '.join(sorted(above))}"


def _file_of(module: str, names: set[str]) -> str:
    """The file that a module is in: the longest beginning of its path that is one."""
    while module and module not in names:
        module = module.rpartition("/")[0]
    return module


def test_the_tree_names_every_folder() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    tree = readme.split("## The tree")[1].split("\n## ")[0]
    for folder in sorted({path.parent for path in FILES} - {PACKAGE}):
        assert f"{folder.name}/" in tree, f"{folder} is not in the README's tree"


def test_a_class_name_stands_once() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module_of(path))
    for name, modules in places.items():
        assert len(modules) == 1, f"class {name} stands in {', '.join(modules)}"
