"""What a model's own files say about sampling: generation_config.json. Nothing of requests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from octavo.config.model import ModelConfig
from octavo.core.errors import ArtefactError, UserError
from octavo.core.facts import ModelFiles
from octavo.core.hf_config import HFConfig
from octavo.front.params import SamplingParams

_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "max_tokens": "max_tokens",
}
_FILE, _OVERRIDE = "generation_config.json", "override_generation_config"


class Defaults(NamedTuple):
    """Sampling fields a request gets when it leaves them out, and ids that end a text."""

    sampling: Mapping[str, Any]
    eos: tuple[int, ...] = ()


def read_defaults(config: ModelConfig, files: ModelFiles) -> Defaults:
    """ids always come from the model's file; sampling fields as --generation-config says.

    ArtefactError for a broken file, UserError for overrides that cannot be.
    """
    own = _read(Path(files.root) / _FILE)
    chosen = own
    if config.generation_config == "vllm":
        chosen = HFConfig({}, _FILE)
    elif config.generation_config != "auto":
        chosen = _named(Path(config.generation_config).expanduser() / _FILE)
        own = chosen if chosen.has("eos_token_id") else own
    overrides = _overrides(config.override_generation_config or {})
    sampling = {**_sampling(chosen), **overrides}
    try:
        SamplingParams(**sampling)
    except UserError as error:
        if error.field in overrides:
            raise UserError(f"{_OVERRIDE}: {error.message}", hint=error.hint, field=_OVERRIDE) from error
        raise ArtefactError(
            f"{chosen.source}: {error}", hint="mend it or use --generation-config vllm", field=error.field
        ) from error
    return Defaults(sampling, own.ids("eos_token_id"))


def _read(path: Path) -> HFConfig:
    return HFConfig.load(path) if path.is_file() else HFConfig({}, str(path))


def _named(path: Path) -> HFConfig:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist",
            hint=f"--generation-config is auto, vllm or a folder with {_FILE}",
            field="generation_config",
        )
    return HFConfig.load(path)


def _sampling(config: HFConfig) -> dict[str, Any]:
    return {name: config.raw(key) for key, name in _NAMES.items() if config.has(key)}


def _overrides(given: Mapping[str, Any]) -> dict[str, Any]:
    for key in given:
        if key not in _NAMES:
            raise UserError(
                f"override_generation_config has no field {key[:40]!r}",
                hint=f"known: {', '.join(_NAMES)}",
                field="override_generation_config",
            )
    return {_NAMES[key]: value for key, value in given.items() if value is not None}
