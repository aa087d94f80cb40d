"""`octavo doctor`: what was found on this machine, what would be decided for a model, and why.

Reads headers only: no weights are loaded and nothing is fetched unless a model is named.
"""

from __future__ import annotations

import importlib.util
import json
import platform as python_platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from octavo import __version__
from octavo.checkpoint import default_model
from octavo.cli.cache import entries
from octavo.config import env
from octavo.config.engine import EngineConfig
from octavo.config.flags import Parser, add_flags, build
from octavo.core.errors import EngineError

_PACKAGES = (
    "torch",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pyzmq",
    "uvicorn",
    "transformers",
)
Report = dict[str, Any]


def run(words: list[str]) -> int:
    parser = Parser(
        prog="octavo doctor",
        usage="octavo doctor [MODEL] [--json] [flags of `octavo serve`]",
        description="Show what was found on this machine, what would be decided for a model, and why.",
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="as for `octavo serve`; none: the default model"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_flags(parser, serve=True)
    config, asked = build(parser, words)
    report = examine(config)
    print(json.dumps(report, indent=1) if asked.json else text(report))
    return 1 if "error" in report["model"] else 0


def examine(config: EngineConfig) -> Report:
    """Everything as plain data. Problems are entries, not exceptions."""
    return {
        "octavo": {"version": __version__, "python": sys.version.split()[0], "executable": sys.executable},
        "system": {"os": python_platform.platform(), **_packages()},
        "device": _device(),
        "caches": _caches(),
        "model": _model(config),
    }


def _packages() -> Report:
    found: Report = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _device() -> Report:
    if importlib.util.find_spec("torch") is None:
        return {"error": "torch is not installed", "hint": "run `make setup`"}
    from octavo.platform.detect import default_dtype, detect

    found = detect()
    dtype, why = default_dtype(found)
    return {
        "kind": found.kind,
        "name": found.name,
        "cores": found.cores,
        "memory": f"{_size(found.memory_free)} free of {_size(found.memory_total)}",
        "features": " ".join(found.features) or "none that matter",
        "devices": found.devices,
        "dtype": f"{dtype}: {why}",
    }


def _caches() -> Report:
    found = {entry.name: f"{_size(entry.nbytes)} in {entry.path}" for entry in entries()}
    return {"octavo": str(env.octavo_home()), "hub": str(env.hub_cache()), **_kernels(), **found}


def _kernels() -> Report:
    """A GPU's kernels, kept by Triton under their source, its version and the device they are for."""
    if importlib.util.find_spec("triton") is None:
        return {}
    from triton import knobs

    return {"kernels": str(knobs.cache.dir)}


def _model(config: EngineConfig) -> Report:
    if config.model.model is None and not default_model.cached():
        return {
            "note": f"{default_model.NAME} is not cached yet: `octavo pull` or the first start fetches it"
        }
    try:
        return _plan(config)
    except EngineError as error:
        return {"error": error.message, "hint": error.hint}


def _plan(config: EngineConfig) -> Report:
    from octavo.checkpoint.find import locate
    from octavo.checkpoint.open import open_checkpoint
    from octavo.runner.start import draw_up

    files = locate(config.model)
    checkpoint = open_checkpoint(files, config.model.load_format, overrides=config.model.hf_overrides)
    try:
        plan = draw_up(config, files, checkpoint)
    finally:
        checkpoint.close()
    return {
        "name": files.name,
        "files": ", ".join(files.weights) or files.root,
        "architecture": plan.facts.architecture,
        "parameters": f"{plan.facts.num_parameters:,}",
        "decisions": [{"field": d.field, "value": d.value, "why": d.why} for d in plan.decisions],
        "memory": [{"name": row.name, "bytes": row.nbytes, "note": row.note} for row in plan.memory.rows],
    }


def text(report: Report) -> str:
    """The report for people."""
    lines: list[str] = []
    for title, section in report.items():
        lines += [title, *_section(section), ""]
    return "\n".join(lines).rstrip()


def _section(section: Report) -> list[str]:
    width = max((len(name) for name in section), default=0)
    lines = [f"  {name:<{width}}  {value}" for name, value in section.items() if not isinstance(value, list)]
    if decisions := section.get("decisions"):
        lines += ["  decided"] + [f"    {row['field']} = {row['value']}: {row['why']}" for row in decisions]
    if memory := section.get("memory") if isinstance(section.get("memory"), list) else None:
        lines += ["  memory plan"]
        lines += [
            f"    {row['name']:<18} {_size(row['bytes']):>10}  {row['note']}".rstrip() for row in memory
        ]
    return lines


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB" if nbytes >= 2**30 // 10 else f"{nbytes / 2**20:.1f} MiB"
