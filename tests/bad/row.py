"""A row of the one table: something bad, and what whoever sent it must be told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from octavo import LLM, SamplingParams
from octavo.core.errors import ArtefactError, EngineError
from octavo.text import sandbox
from tests.bad.neighbour import Neighbour
from tests.bad.sound import SETTINGS

HI = [{"role": "user", "content": "hello"}]


class World(NamedTuple):
    """The server next door, and a folder with a sound model, to be broken."""

    neighbour: Neighbour
    folder: Path


class Told(NamedTuple):
    """`kind` is the error's class, or the status of a reply."""

    kind: type[EngineError] | int
    field: str | None
    message: str
    hint: str


class Row(NamedTuple):
    """`says` stands in the message, `remedy` in the hint."""

    name: str
    do: Callable[[World], Told]
    kind: type[EngineError] | int
    field: str
    says: tuple[str, ...]
    remedy: str


def field(
    path: str,
    body: Any,
    name: str,
    says: str | tuple[str, ...],
    remedy: str,
    *,
    status: int = 400,
    shown: Any = None,
) -> Row:
    """A request to the neighbour's own server. `body` is an object, or the bytes themselves; `shown`
    is what is bad about it."""
    told = repr(body if shown is None else shown)
    label = told if len(told) < 70 else f"{told[:60]}...{len(told)}"
    words = (says,) if isinstance(says, str) else says
    return Row(f"{path} {label}", lambda world: _send(world, path, body), status, name, words, remedy)


def artefact(
    name: str,
    breaks: Callable[[Path], Any],
    field: str,
    says: str | tuple[str, ...],
    remedy: str,
    *,
    kind: type[EngineError] = ArtefactError,
    model: str = "",
    seconds: float = sandbox.MOST_SECONDS,
    **settings: Any,
) -> Row:
    """A model whose files or settings cannot be. `model` is what the user names, in the folder;
    `seconds` is what its chat template may take."""

    def do(world: World) -> Told:
        breaks(world.folder)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(EngineError) as caught:
            patch.setattr(sandbox, "MOST_SECONDS", seconds)
            start(world.folder / model, **settings)
        error = caught.value
        return Told(type(error), error.field, error.message, error.hint)

    return Row(name, do, kind, field, (says,) if isinstance(says, str) else says, remedy)


def start(model: Path, **settings: Any) -> list[int]:
    """What a user does with a model: start it and ask it something."""
    with LLM(str(model), **{**SETTINGS, **settings}) as llm:
        (said,) = llm.chat(HI, SamplingParams(max_tokens=2), use_tqdm=False)
        return list(said.outputs[0].token_ids)


def _send(world: World, path: str, body: Any) -> Told:
    more = {"raw": body} if isinstance(body, bytes) else {"body": body}
    reply = world.neighbour.ask("POST", path, **more)
    error = reply.error
    assert error["code"] == reply.status
    assert error["type"] == {400: "BadRequestError", 404: "NotFoundError"}[reply.status]
    return Told(reply.status, error["param"], *_parted(error["message"]))


def _parted(text: str) -> tuple[str, str]:
    """ "what is wrong (what would do)": the hint is the last pair of brackets."""
    assert text.endswith(")"), text
    depth = 0
    for at in range(len(text) - 1, 0, -1):
        depth += (text[at] == ")") - (text[at] == "(")
        if not depth:
            return text[: at - 1], text[at + 1 : -1]
    raise AssertionError(text)
