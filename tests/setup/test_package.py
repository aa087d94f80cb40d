"""The package by itself: built, put into an empty folder, and run without the source tree."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import octavo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the unpacked wheel."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    shutil.copytree(ROOT / "octavo", tree / "octavo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run([*command, "-w", str(folder)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("octavo-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    shutil.rmtree(tree)
    return folder / "site"


def run(installed: Path, *words: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-P", *words] if sys.version_info >= (3, 11) else [sys.executable, *words],
        env=env, cwd=installed.parent, capture_output=True, text=True,
    )  # fmt: skip


def test_it_runs_without_the_source_tree(installed):
    where = run(installed, "-c", "import octavo; print(octavo.__file__)").stdout
    assert where.startswith(str(installed))
    assert run(installed, "-m", "octavo", "--version").stdout == f"octavo {octavo.__version__}\n"


def test_it_brings_everything_that_is_not_python_too(installed):
    names = {str(path.relative_to(ROOT)) for path in (ROOT / "octavo").rglob("*") if path.is_file()}
    wanted = {name for name in names if "__pycache__" not in name}
    missing = {name for name in wanted if not (installed / name).is_file()}
    assert not missing


def test_its_entry_point_and_version(installed):
    (info,) = installed.glob("octavo-*.dist-info")
    assert "octavo = octavo.cli.main:main" in (info / "entry_points.txt").read_text()
    assert re.search(rf"^Version: {re.escape(octavo.__version__)}$", (info / "METADATA").read_text(), re.M)


def test_every_module_of_the_front_imports_from_there(installed):
    code = "import octavo.server.app, octavo.cli.serve, octavo.cli.doctor, octavo.front.service, octavo.engine.client"
    done = run(installed, "-c", code)
    assert done.returncode == 0, done.stderr
