"""`octavo cache list|clear`: what lies in the caches, and how to get the space back.

The caches hold models, and weights packed from them, which a start makes again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from octavo.checkpoint.packs import packs
from octavo.config import env
from octavo.config.flags import Parser
from octavo.core.errors import NotFound, UserError


class Entry(NamedTuple):
    name: str
    path: Path
    nbytes: int


def run(words: list[str]) -> int:
    parser = Parser(prog="octavo cache", description="List or clear cached models and packed weights.")
    parser.add_argument("action", choices=("list", "clear"), help="what to do")
    parser.add_argument("model", nargs="?", help="clear only this one")
    parser.add_argument("-y", "--yes", action="store_true", help="clear without asking")
    asked = parser.parse_args(words)
    return _list() if asked.action == "list" else _clear(asked.model, asked.yes)


def entries() -> list[Entry]:
    """Models in our cache and in the hub's, and packed weights, by name."""
    ours = env.octavo_home() / "models"
    hub = env.hub_cache()
    found = [Entry(folder.name, folder, _size(folder)) for folder in _folders(ours)]
    found += [Entry(path.stem, path, path.stat().st_size) for path in packs(env.packed_weights())]
    for folder in _folders(hub):
        if folder.name.startswith("models--"):
            name = folder.name.removeprefix("models--").replace("--", "/")
            found.append(Entry(name, folder, _size(folder)))
    return sorted(found)


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _size(folder: Path) -> int:
    # the hub's snapshots are links to blobs, which are counted where they are
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _list() -> int:
    found = entries()
    for entry in found:
        print(f"{entry.nbytes / 1e6:>10.1f} MB  {entry.name}  {entry.path}")
    if not found:
        print(f"no models in {env.octavo_home() / 'models'} or {env.hub_cache()}")
    return 0


def _clear(model: str | None, sure: bool) -> int:
    found = entries()
    chosen = [entry for entry in found if model in (None, entry.name)]
    if model is not None and not chosen:
        listed = ", ".join(entry.name for entry in found) or "nothing"
        raise NotFound(f"{model!r} is not in the cache", hint=f"it holds {listed}")
    if model is None:  # the hub's cache belongs to other programs too: only what is named goes
        home = env.octavo_home()
        chosen = [entry for entry in chosen if home in entry.path.parents]
    if not chosen:
        print("nothing of ours to clear; name a model of `octavo cache list` to remove it")
        return 0
    if not sure:
        _ask(chosen)
    for entry in chosen:
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:  # an engine that has it mapped keeps its pages
            entry.path.unlink(missing_ok=True)
        print(f"removed {entry.name} ({entry.nbytes / 1e6:.1f} MB)")
    return 0


def _ask(chosen: list[Entry]) -> None:
    if not sys.stdin.isatty():
        raise UserError("will not clear without asking", hint="add --yes")
    names = ", ".join(entry.name for entry in chosen)
    if input(f"remove {names}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was removed", hint="answer y, or add --yes")
