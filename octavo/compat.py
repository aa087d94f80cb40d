"""Runs a program written for vLLM, unchanged.

    python -m octavo.compat [--model-map OLD=NEW] script.py [arguments]
    python -m octavo.compat [--model-map OLD=NEW] -m module [arguments]

Within it `import vllm` finds Octavo under vLLM's names. `--model-map` (or OCTAVO_MODEL_MAP) runs
another model than the one the program names, where that is too large or not to be had: OLD may
have wildcards, NEW is a model as for `octavo serve`, or "default" for the default model.

    python -m octavo.compat --model-map '*=default' script.py

Holds only what exists for such programs; everything else is the ordinary API.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import runpy
import sys
import uuid
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import octavo
from octavo.config import env
from octavo.config.flags import Parser, add_flags
from octavo.core.errors import UserError

_OUTPUTS = {
    name: f"octavo.front.outputs:{name}"
    for name in ("RequestOutput", "CompletionOutput", "RequestStateStats")
}
_PARAMS = {name: f"octavo.front.params:{name}" for name in ("SamplingParams", "RequestOutputKind")}
_PARAMS["StructuredOutputsParams"] = "octavo.front.structured:StructuredOutputsParams"
_PARAMS["RepetitionDetectionParams"] = "octavo.front.repetition:RepetitionDetectionParams"
_PARAMS["BeamSearchParams"] = "octavo.front.beam:BeamSearchParams"
_BEAMS = {name: f"octavo.front.beams:{name}" for name in ("BeamSearchOutput", "BeamSearchSequence")}
_INPUTS = {name: f"octavo.front.forms:{name}" for name in ("TextPrompt", "TokensPrompt", "PromptType")}
_METRICS = {
    name: f"octavo.front.metrics:{name}" for name in ("Counter", "Gauge", "Histogram", "Metric", "Vector")
}
_ARGS = {name: f"octavo.compat:{name}" for name in ("EngineArgs", "AsyncEngineArgs")}
_LORA = {"LoRARequest": "octavo.compat:LoRARequest"}
_LOGPROB = {name: f"octavo.front.logprobs:{name}" for name in ("Logprob", "FlatLogprobs")}
_LOGPROB |= {name: f"octavo.front.logprobs:{name}" for name in ("PromptLogprobs", "SampleLogprobs")}

# module of vLLM -> its names -> where they are here. "LLM" and the asynchronous classes are added by
# `install`, since they depend on the map of models.
ALIASES: dict[str, dict[str, str]] = {
    "vllm": {**_OUTPUTS, **_PARAMS, **_INPUTS, **_ARGS},
    "vllm.outputs": _OUTPUTS,
    "vllm.sampling_params": _PARAMS,
    "vllm.inputs": _INPUTS,
    "vllm.inputs.data": _INPUTS,
    "vllm.logprobs": _LOGPROB,
    "vllm.sequence": _LOGPROB,
    "vllm.beam_search": _BEAMS,
    "vllm.lora": {},
    "vllm.lora.request": _LORA,
    "vllm.engine": {},
    "vllm.engine.arg_utils": _ARGS,
    "vllm.engine.async_llm_engine": {},
    "vllm.entrypoints": {},
    "vllm.entrypoints.llm": {},
    "vllm.v1": {},
    "vllm.v1.engine": {},
    "vllm.v1.engine.async_llm": {},
    "vllm.v1.metrics": {},
    "vllm.v1.metrics.reader": _METRICS,
    "vllm.utils": {"random_uuid": "octavo.compat:random_uuid"},
    "vllm.utils.argparse_utils": {},
}
_MADE = {  # names made by `install`, by module
    "LLM": ("vllm", "vllm.entrypoints.llm"),
    "AsyncLLMEngine": ("vllm", "vllm.engine.async_llm_engine"),
    "AsyncLLM": ("vllm.v1.engine.async_llm",),
    "FlexibleArgumentParser": ("vllm.utils", "vllm.utils.argparse_utils"),
}


class EngineArgs:
    """Settings as attributes, for LLM.from_engine_args and its like."""

    def __init__(self, model: str | None = None, **settings: Any) -> None:
        self.model = model
        vars(self).update(settings)

    @staticmethod
    def add_cli_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        add_flags(parser, serve=False)
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> EngineArgs:
        """Of the settings among them; a program's own arguments are left alone."""
        from octavo.config.engine import owners

        known = owners()
        settings = {name: value for name, value in vars(args).items() if name in known and value is not None}
        model = settings.pop("model", None) or vars(args).get("model_flag")
        return cls(model=model, **settings)


class AsyncEngineArgs(EngineArgs):
    """As EngineArgs."""


@dataclasses.dataclass(frozen=True)
class LoRARequest:
    """Can be made, so that programs can be read; using one says that adapters are not there yet."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""


def random_uuid() -> str:
    return uuid.uuid4().hex


class ModelMap:
    """Which model runs instead of which. The first pattern that fits wins."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = tuple(pairs)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ModelMap:
        """From "OLD=NEW" texts."""
        pairs = []
        for text in texts:
            old, equals, new = text.partition("=")
            if not equals or not old.strip():
                raise UserError(f"a model map is OLD=NEW, not {text[:80]!r}", hint="--model-map '*=default'")
            pairs.append((old.strip(), new.strip()))
        return cls(pairs)

    def __call__(self, model: str | None) -> str | None:
        for old, new in self._pairs:
            if model is not None and fnmatchcase(str(model), old):
                return None if new in ("", "default") else new
        return model


def install(models: ModelMap) -> None:
    """Makes `import vllm` find Octavo from now on, in this process."""
    made = _classes(models)
    for name, aliases in ALIASES.items():
        module = _module(name, aliases)
        for attribute, homes in _MADE.items():
            if name in homes:
                setattr(module, attribute, made[attribute])
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    sys.meta_path.insert(0, _Missing())


def _classes(models: ModelMap) -> dict[str, type]:
    """LLM and AsyncLLM that look a model's name up first."""

    class LLM(octavo.LLM):
        def __init__(self, model: str | None = None, **settings: Any) -> None:
            with _remedy(model):
                super().__init__(models(model), **settings)

    class AsyncLLM(octavo.AsyncLLM):
        def __init__(self, model: str | None = None, **settings: Any) -> None:
            with _remedy(model):
                super().__init__(models(model), **settings)

    return {"LLM": LLM, "AsyncLLM": AsyncLLM, "AsyncLLMEngine": AsyncLLM, "FlexibleArgumentParser": Parser}


class _remedy:
    """Adds the way out to an error about the model itself."""

    def __init__(self, model: str | None) -> None:
        self._model = model

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, UserError) and error.field in ("model", "quantization"):
            error.hint = f"{error.hint}; or run another with --model-map '{self._model}=default'".lstrip("; ")


def _module(name: str, aliases: Mapping[str, str]) -> ModuleType:
    """A module whose names are fetched when first used."""
    module = ModuleType(name, f"Octavo under the name of {name}.")
    module.__path__ = []  # a package: further modules of it are looked for, and refused, by _Missing
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    setattr(module, "__version__", f"0.25.1+octavo{octavo.__version__}")  # noqa: B010 (ModuleType lacks it)

    def fetch(attribute: str) -> Any:
        target = aliases.get(attribute)
        if target is None:
            raise AttributeError(
                f"{name}.{attribute} does not exist in Octavo; see docs/coming-from-vllm.md for what does"
            )
        source, _, origin = target.partition(":")
        return getattr(importlib.import_module(source), origin)

    setattr(module, "__getattr__", fetch)  # noqa: B010
    return module


class _Missing(importlib.abc.MetaPathFinder):
    """Says of vLLM's other modules that they are not here."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname.startswith("vllm."):
            raise ModuleNotFoundError(
                f"{fullname} does not exist in Octavo; see docs/coming-from-vllm.md", name=fullname
            )


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m octavo.compat",
        usage="%(prog)s [--model-map OLD=NEW] (script.py | -m module) [arguments]",
        description="Runs a program written for vLLM, unchanged.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model-map",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="run NEW (a model, or default) where the program names OLD (wildcards allowed); repeatable",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module")
    parser.add_argument("program", help="script or module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own arguments")
    asked = parser.parse_args(list(words))
    from_environment = (env.read("OCTAVO_MODEL_MAP") or "").split(",")
    try:
        models = ModelMap.parse([*asked.model_map, *(text for text in from_environment if text.strip())])
    except UserError as error:
        parser.error(str(error))
    install(models)
    sys.argv = [asked.program, *asked.arguments]
    if asked.module:
        runpy.run_module(asked.program, run_name="__main__", alter_sys=True)
        return 0
    script = Path(asked.program)
    if not script.is_file():
        parser.error(f"{script} does not exist")
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
