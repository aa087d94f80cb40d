"""What other packages bring, by name only: nothing of them is loaded here."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points


def logits_stages() -> tuple[EntryPoint, ...]:
    """Stages that edit logits (sampling/stage.py), in the order of their names."""
    return tuple(sorted(entry_points(group="octavo.logits_stage"), key=lambda entry: entry.name))
