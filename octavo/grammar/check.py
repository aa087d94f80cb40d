"""The front's look at a grammar before the core sees it: what cannot be compiled is refused by name.

Keeps what was found good, so that an application's schema costs this once. Any thread may call it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from threading import Lock

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.choose import Problem, problem_finder

_KEYWORDS = re.compile(r"Unimplemented keys: \[([^\]]*)\]")
_NAMES = {
    "json": "the JSON schema",
    "ebnf": "the grammar",
    "lark": "the grammar",
    "structural_tag": "the tag",
}


class Checker:
    """Remembers the last `keep` specs that were fine."""

    def __init__(self, keep: int, problem: Problem | None = None) -> None:
        self._keep = keep
        self._problem = problem or problem_finder("auto")
        self._good: OrderedDict[GrammarSpec, None] = OrderedDict()
        self._lock = Lock()

    def check(self, spec: GrammarSpec) -> GrammarSpec:
        """The spec itself. UserError says what in it cannot be."""
        with self._lock:
            if spec in self._good:
                self._good.move_to_end(spec)
                return spec
        if (why := self._problem(spec)) is not None:
            raise refusal(spec, why)
        with self._lock:
            self._good[spec] = None
            if len(self._good) > self._keep:
                self._good.popitem(last=False)
        return spec


def refusal(spec: GrammarSpec, why: str) -> UserError:
    """What the user is told; unsupported keywords are named."""
    what = _NAMES.get(spec.kind, f"the {spec.kind}")
    if "coerce_one_of" in why:  # the library's remedy is an option that nobody can set here
        why = "oneOf whose branches are not told apart by type or const cannot be enforced: use anyOf"
    if (found := _KEYWORDS.search(why)) is None:
        return UserError(
            f"structured_outputs: {what} cannot be used: {why}",
            hint="change it and try again",
            field="structured_outputs",
        )
    names = ", ".join(name.strip().strip('"\\') for name in found[1].split(","))
    return UserError(
        f"structured_outputs: {what} uses {names}, which cannot be enforced",
        hint="leave it out and check the answer yourself",
        field="structured_outputs",
    )
