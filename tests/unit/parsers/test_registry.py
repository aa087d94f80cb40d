"""Every parser there is, by the registries: none is without its texts, and none is slow to backtrack."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from octavo.parsers.machine import REASONING, TOOLS
from tests.unit.parsers import test_reasoning, test_tools
from tests.unit.parsers.driving import maker, run, three_cuts, two_cuts
from tests.unit.parsers.formats import FORMATS, damaged

ROOT = Path(__file__).resolve().parents[3]
# whatever sees text that a model wrote
READERS = (
    "octavo/parsers/**/*.py",
    "octavo/front/speech.py",
    "octavo/front/answer.py",
    "octavo/front/collect.py",
    "octavo/text/stop.py",
    "octavo/text/detokenizer.py",
)


def tool_texts(name: str) -> list[str]:
    kind = TOOLS.get(name)
    return [text for parser, text in test_tools.TEXTS if TOOLS.get(parser) is kind]


def reasoning_texts(name: str) -> list[tuple[str | None, str]]:
    kind = REASONING.get(name)
    return [
        (prompt, text) for parser, prompt, text, _ in test_reasoning.CASES if REASONING.get(parser) is kind
    ]


@pytest.mark.parametrize("name", sorted(TOOLS.names()))
def test_tool_parsers_have_texts_whole_broken_and_cut_off(name):
    texts = set(tool_texts(name))
    broken = {text for f in FORMATS.values() if TOOLS.get(f.parser) is TOOLS.get(name) for text in damaged(f)}
    assert len(texts) >= 10 and len(texts & broken) >= 10 and texts - broken
    make = maker(name)
    for text in sorted(texts, key=len)[:10]:  # by every name it goes by
        want = run(make(), [text])
        assert all(run(make(), parts) == want for parts in two_cuts(text)), text


@pytest.mark.parametrize("name", sorted(REASONING.names()))
def test_reasoning_parsers_have_texts_whole_broken_and_cut_off(name):
    texts = sorted(set(reasoning_texts(name)), key=lambda pair: len(pair[1]))
    assert len(texts) >= 10
    for prompt, text in texts[:10]:
        make = maker(reasoning=name, prompt=prompt)
        want = run(make(), [text])
        assert all(run(make(), parts) == want for parts in (*two_cuts(text), *three_cuts(text, 500))), text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REASONING.names()))
def test_every_cut_into_three(name):
    for prompt, text in set(reasoning_texts(name)):
        make = maker(reasoning=name, prompt=prompt)
        want = run(make(), [text])
        for parts in three_cuts(text):
            assert run(make(), parts) == want, parts


def test_no_regular_expression_reads_what_a_model_wrote():
    files = [path for pattern in READERS for path in ROOT.glob(pattern)]
    assert len(files) > 20
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {"re", "regex"} & set(names), path
