"""The rules the house keeps about itself, read off its own source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "octavo").rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
DANGEROUS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}


def found(check) -> list[str]:
    return [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if check(name, node)
    ]


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_nothing_can_execute_data():
    def bad(name: str, node: ast.AST) -> bool:
        if isinstance(node, ast.Import):
            return any(alias.name.split(".")[0] in DANGEROUS for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            return (node.module or "").split(".")[0] in DANGEROUS
        what = called(node)
        shell = isinstance(node, ast.Call) and any(
            k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords
        )
        return (
            shell or what in {"eval", "exec", "torch.load"} or what.endswith((".recv_pyobj", ".send_pyobj"))
        )

    assert found(bad) == []


def test_no_global_statement():
    assert found(lambda name, node: isinstance(node, ast.Global)) == []


def test_every_refusal_carries_its_remedy():
    """Whoever is told what is wrong is told what would do. Grammars are worded where they are used."""
    kinds = {"UserError", "ArtefactError", "NotFound", "Unsupported", "Overloaded"}

    def bad(name: str, node: ast.AST) -> bool:
        if not isinstance(node, ast.Call) or called(node) not in kinds or name.startswith("octavo/grammar/"):
            return False
        worded = isinstance(node.args[0], ast.Constant | ast.JoinedStr)
        return worded and not any(k.arg == "hint" for k in node.keywords)

    assert found(bad) == []


def test_only_one_file_reads_the_environment():
    def bad(name: str, node: ast.AST) -> bool:
        reads = isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv"}
        return reads and name != "octavo/config/env.py"

    assert found(bad) == []


def test_capabilities_are_asked_in_one_place():
    """getattr and hasattr with a literal name hide what an object must offer."""

    def bad(name: str, node: ast.AST) -> bool:
        literal = (
            called(node) in {"getattr", "hasattr"}
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant)
        )
        return literal and not name.startswith("octavo/platform/")

    assert found(bad) == []


def test_every_file_says_what_it_owns():
    silent = [name for name, tree in TREES.items() if not ast.get_docstring(tree) and tree.body]
    assert silent == []


def test_device_values_are_copied_to_the_host_in_one_place():
    pattern = re.compile(r"\.(item|tolist|cpu)\(\)")
    rooms = ("octavo/runner/", "octavo/nn/", "octavo/models/", "octavo/attention/", "octavo/sampling/")
    hits = [
        f"{path.relative_to(ROOT)}:{n}"
        for path in FILES
        if path.relative_to(ROOT).as_posix().startswith(rooms) and path.name != "transfer.py"
        for n, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert hits == []


@pytest.mark.parametrize(
    "module", ["octavo", "octavo.scheduler.scheduler", "octavo.front.service", "octavo.server.app"]
)
def test_the_front_never_loads_torch(module):
    code = f"import sys, {module}; bad = {{'torch', 'transformers'}} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
