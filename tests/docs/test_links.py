"""What the docs point at exists: files, functions, pages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PLACE = re.compile(r"`(octavo/[\w/]+\.py)(?::([\w.]+))?`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)[^)]*\)")


def names(path: Path) -> set[str]:
    """Functions, classes, methods (Class.method) and module constants."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{part.name}"
                for part in node.body
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_places_and_links_exist(page):
    text = page.read_text()
    missing = [
        f"{file}:{name}"
        for file, name in PLACE.findall(text)
        if not (ROOT / file).is_file() or (name and name not in names(ROOT / file))
    ]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert missing == []


def test_the_tour_names_places():
    assert len(PLACE.findall((ROOT / "docs" / "tour.md").read_text())) > 25
