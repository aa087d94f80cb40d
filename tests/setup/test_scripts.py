"""The commands a newcomer runs: what they say when something is missing, and that they hang together."""

import os
import re
import shutil
import stat
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TOOLS = "bash env dirname df awk sed cksum tr cat grep make date uname rm head".split()


@pytest.fixture
def clone(tmp_path):
    """A folder with the scripts, and a PATH that holds only what a bare machine has."""
    tree = tmp_path / "octavo"
    shutil.copytree(ROOT / "scripts", tree / "scripts")
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    tools = tree / "bin"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name))
    return tree


def tool(clone: Path, name: str, text: str) -> str:
    path = clone / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def setup(clone: Path, **variables: str) -> subprocess.CompletedProcess:
    env = {"PATH": str(clone / "bin"), "HOME": str(clone), **variables}
    return subprocess.run(["bash", "scripts/setup"], cwd=clone, env=env, capture_output=True, text=True)


def refused(done: subprocess.CompletedProcess, what: str, remedy: str) -> None:
    lines = [line for line in done.stderr.splitlines() if "compiler" not in line]
    assert done.returncode != 0
    assert what in lines[-2] and remedy in lines[-1], done.stderr


OLD = '#!/bin/bash\ncase "$*" in *--version*) echo Python 3.8.1;; *) exit 1;; esac\n'


def test_no_python(clone):
    refused(setup(clone), "no Python 3.10 to 3.13", "apt install")


def test_old_python(clone):
    tool(clone, "python3", OLD)
    refused(setup(clone), "Python 3.8.1", "PYTHON=")
    named = tool(clone, "python3.8", OLD)
    refused(setup(clone, PYTHON=named), "Python 3.8.1", "3.10 to 3.13")


def test_a_python_that_does_not_exist(clone):
    refused(setup(clone, PYTHON="/nowhere/python3"), "was not found", "3.10 to 3.13")


def test_no_venv_module(clone):
    text = f'#!/bin/bash\ncase "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    tool(clone, "python3", text)
    refused(setup(clone), "no venv module", f"apt install python3.{sys.version_info[1]}-venv")


def test_no_space(clone):
    tool(clone, "python3", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    tool(clone, "df", "#!/bin/bash\necho head; echo disk 9 4 5 44% /\n")
    done = setup(clone)
    refused(done, "5 MB are free here", "free some space")
    assert "no C++ compiler" in done.stderr and "apt install g++" in done.stderr


def test_no_network(clone):
    """torch is there already (or so pip says); the rest would have to be fetched."""
    tool(clone, "python3", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    lost = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}
    refused(setup(clone, TORCH="cuda", **lost), "index cannot be reached", "proxy")


def test_make_lists_its_targets():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True)
    for target in ("serve", "test", "test-slow", "test-gpu", "fuzz", "bench", "check", "clean"):
        assert f"make {target} " in done.stdout


def test_make_serve_passes_its_settings():
    words = ["PORT=9000", "MODEL=a/b", "HOST=0.0.0.0", "ARGS=--dtype float32"]
    done = subprocess.run(["make", "-n", "serve", *words], cwd=ROOT, capture_output=True, text=True)
    assert "octavo serve a/b --port 9000 --host 0.0.0.0 --dtype float32" in done.stdout


def test_ci_runs_the_command_of_the_readme():
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.M)
    ci = ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK) and re.search(r"^make .*\btest$", ci.read_text(), re.M)


@pytest.mark.parametrize(
    "script", sorted(path.name for path in (ROOT / "scripts").iterdir() if path.is_file())
)
def test_scripts_can_be_run_and_parse(script):
    path = ROOT / "scripts" / script
    assert os.access(path, os.X_OK)
    if "bash" in path.read_text().partition("\n")[0]:
        assert subprocess.run(["bash", "-n", path]).returncode == 0
    else:
        compile(path.read_text(), str(path), "exec")


@pytest.mark.parametrize("page,apart", [("constraints.txt", False), ("constraints-frameworks.txt", True)])
def test_every_dependency_has_one_pin_on_every_python(page, apart):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    gpu = "flashinfer"  # nothing here installs it
    others = (extras[name] for name in extras if name not in ("frameworks", gpu))
    ours = [*project["dependencies"], *chain(*others)]
    named = extras["frameworks"] if apart else ours
    pins = [Requirement(line) for line in (ROOT / page).read_text().splitlines() if line[0] != "#"]
    for wanted in map(Requirement, named):
        if wanted.name == "octavo":
            continue
        for python in ("3.10", "3.11", "3.12", "3.13"):
            fitting = [
                pin
                for pin in pins
                if pin.name.lower() == wanted.name.lower().replace("_", "-")
                and (pin.marker is None or pin.marker.evaluate({"python_version": python}))
            ]
            assert len(fitting) == 1, (
                f"{wanted.name} on Python {python}: {len(fitting)} pins; run scripts/pin"
            )
            (version,) = fitting[0].specifier
            assert wanted.specifier.contains(version.version), f"{wanted} but {version}"
