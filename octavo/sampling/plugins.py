"""Logits stages of other packages: classes behind the entry point group `octavo.logits_stage`.

They run on a CPU, before the request's own stages, and read what is theirs in `Sampling.extra_args`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

from octavo.core.errors import UserError
from octavo.core.facts import NO_EFFECT, Decision
from octavo.core.plugins import logits_stages
from octavo.sampling.sampler import EDITS
from octavo.sampling.stage import LogitsStage


def stages() -> tuple[Callable[[int], LogitsStage], ...]:
    """Theirs, then our edits (sampler.py). UserError names a package's stage that cannot be loaded."""
    return (*map(_load, logits_stages()), *EDITS)


def decisions(kind: str) -> tuple[Decision, ...]:
    """What became of them on a device of that kind."""
    names = ", ".join(entry.name for entry in logits_stages())
    if not names:
        return ()
    if kind == "cuda":
        return (Decision("logits stages", NO_EFFECT, f"those of other packages ({names}) run on CPUs only"),)
    return (Decision("logits stages", names, "installed packages bring them"),)


def _load(entry: EntryPoint) -> Callable[[int], LogitsStage]:
    try:
        found: Callable[[int], LogitsStage] = entry.load()
    except Exception as error:  # code of others: whatever it raises
        raise UserError(
            f"the logits stage {entry.name!r} ({entry.value}) cannot be loaded: {error}",
            hint="mend or uninstall the package that brings it",
            field="octavo.logits_stage",
        ) from error
    return found
