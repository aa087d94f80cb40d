"""The one table: every field x bad value and every broken artefact. Whoever errs is told class or status,
field, limit and remedy, and a neighbour's stream in the same process stays byte-equal."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad.breaking import GGUF, Break, cut, nothing, only_gguf, remove, write
from tests.bad.configs import CONFIGS
from tests.bad.fields import FIELDS
from tests.bad.files import FILES
from tests.bad.ggufs import GGUFS
from tests.bad.neighbour import Neighbour
from tests.bad.row import Row, World, start
from tests.bad.sound import write_folder
from tests.bad.texts import TEMPLATES, TOKENIZERS
from tests.bad.weights import WEIGHTS

ARTEFACTS = [*FILES, *CONFIGS, *WEIGHTS, *GGUFS, *TOKENIZERS, *TEMPLATES]
TABLE = [*FIELDS, *ARTEFACTS]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_folder(folder)
    return folder


@pytest.fixture(scope="module")
def neighbour(sound: Path) -> Iterator[Neighbour]:
    made = Neighbour(sound)
    yield made
    made.close()


@pytest.fixture
def world(sound: Path, neighbour: Neighbour, tmp_path: Path) -> World:
    return World(neighbour, Path(shutil.copytree(sound, tmp_path / "model")))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_whoever_errs_is_told_and_nobody_else_notices(row: Row, world: World) -> None:
    with world.neighbour.undisturbed():
        told = row.do(world)
    assert told.kind == row.kind, told
    assert told.field is not None and told.field.split("[")[0].removesuffix(".") == row.field, told
    for word in row.says:
        assert word in told.message, told
    assert told.hint and row.remedy in told.hint, told
    assert len(told.message) < 1000  # never the whole of what was sent
    assert " at 0x" not in told.message  # nor an object's address
    assert world.neighbour.strangers() == []  # nothing bad came through to the engine


@pytest.mark.parametrize(("change", "model"), [(nothing, ""), (only_gguf, GGUF)])
def test_the_unbroken_model_answers(change: Break, model: str, world: World) -> None:
    """What the rows break is sound before, so that it is the damage that is refused."""
    change(world.folder)
    with world.neighbour.undisturbed():
        assert start(world.folder / model)


def test_the_table_is_a_table() -> None:
    """Rows have names of their own and cover every kind of damage."""
    assert len(FIELDS) > 400 and len(ARTEFACTS) > 220
    twice = [name for name, count in Counter(row.name for row in TABLE).items() if count > 1]
    assert twice == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove("tokenizer.json"), ["has no tokenizer.json", "-> add it, name another with --tokenizer"]),
        (cut("model.safetensors", 0.5), ["is not a sound safetensors file", "-> download the file again"]),
        (
            write("chat_template.jinja", "{% if"),
            ["is not valid Jinja (line 1)", "-> mend it or name another"],
        ),
    ],
)
def test_the_server_says_it_in_two_lines(change: Break, says: list[str], world: World) -> None:
    """Before the core starts, in the core, beside it: what is told comes out at the same place."""
    change(world.folder)
    command = [sys.executable, "-m", "octavo.cli.main", "serve", str(world.folder), "--port", "0"]
    with world.neighbour.undisturbed():
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(("octavo:", "  ->"))]
    assert len(lines) == 2 and all(word in line for word, line in zip(says, lines, strict=True))
