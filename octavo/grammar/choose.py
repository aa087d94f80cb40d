"""Backends by name. A library is loaded when its first grammar is, not before."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.backend import GrammarBackend, Vocabulary

Problem = Callable[[GrammarSpec], str | None]
_OTHER = "xgrammar"


def backend_class(name: str) -> Callable[[Vocabulary], GrammarBackend]:
    """In the core: what compiles."""
    if name == _OTHER:
        from octavo.grammar.xgr import XGrammarBackend

        return XGrammarBackend
    from octavo.grammar.guidance import GuidanceBackend

    return GuidanceBackend


def problem_finder(name: str) -> Problem:
    """In the front: what looks at a grammar first. UserError when the backend is not installed."""
    if name == _OTHER and find_spec(_OTHER) is None:
        raise UserError(
            "the structured_outputs_backend xgrammar is not installed",
            hint="pip install 'octavo[xgrammar]', or take guidance",
            field="structured_outputs_backend",
        )
    return _with_xgrammar if name == _OTHER else _with_guidance


def _with_guidance(spec: GrammarSpec) -> str | None:
    from octavo.grammar.guidance import problem

    return problem(spec)


def _with_xgrammar(spec: GrammarSpec) -> str | None:
    from octavo.grammar.xgr import problem

    return problem(spec)
