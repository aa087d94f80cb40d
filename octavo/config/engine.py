"""EngineConfig: all settings, composed of the parts and never inherited."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from octavo.config.cache import CacheConfig
from octavo.config.cpu import CPUConfig
from octavo.config.files import FilesConfig
from octavo.config.foreign import apply_foreign
from octavo.config.grammar import GrammarConfig, unfold
from octavo.config.model import ModelConfig
from octavo.config.observe import ObserveConfig
from octavo.config.schedule import ScheduleConfig
from octavo.config.serve import ServeConfig
from octavo.config.values import Setting, checked, settings
from octavo.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    cpu: CPUConfig = field(default_factory=CPUConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    grammar: GrammarConfig = field(default_factory=GrammarConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    files: FilesConfig = field(default_factory=FilesConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)

    @classmethod
    def from_flat(cls, values: dict[str, Any]) -> EngineConfig:
        """Builds the parts from one flat mapping (LLM's keyword arguments, a parsed command line).

        Every value is checked and converted; vLLM's settings without an owner are logged or refused
        (foreign.py). UserError names a bad value, or an unknown key and its closest neighbours.
        """
        parts: dict[str, dict[str, Any]] = {part.name: {} for part in dataclasses.fields(cls)}
        owner = owners()
        for key, value in apply_foreign(unfold(values)).items():
            if key not in owner:
                raise UserError(f"unknown setting {key!r}", hint=_closest(key, list(owner)), field=key)
            part, setting = owner[key]
            parts[part][key] = checked(setting, value)
        return cls(**{name: PARTS[name](**given) for name, given in parts.items()})


PARTS: dict[str, Any] = {
    "model": ModelConfig,
    "cache": CacheConfig,
    "cpu": CPUConfig,
    "schedule": ScheduleConfig,
    "grammar": GrammarConfig,
    "serve": ServeConfig,
    "files": FilesConfig,
    "observe": ObserveConfig,
}


def owners() -> dict[str, tuple[str, Setting]]:
    """Each setting, and which part of EngineConfig owns it."""
    return {setting.name: (part, setting) for part, kind in PARTS.items() for setting in settings(kind)}


def _closest(key: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(key, known, n=3)
    return f"did you mean {', '.join(close)}?" if close else "see docs/reference/settings.md"
