"""Other engines beside Octavo: processes that take turns on the same cores, and what their turns say."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.record import ROOT, spread

IDLE = 0.02  # of a core: an engine that takes more while it has nothing to do disturbs the other
LLAMA_BIN = "folder of llama.cpp's programs (default: LLAMA_BIN)"
Turn = Callable[[int], Any]


def from_environment(name: str) -> dict[str, Any]:
    """Arguments of a flag that may be given as a variable: so a recorded command holds no local path."""
    found = os.environ.get(name)
    return {"default": found} if found else {"required": True}


class Process:
    """A program with children, in a group of its own. What it prints goes to `log`; of one that
    `talks`, standard output is for us."""

    def __init__(self, command: Sequence[object], log: Path, talks: bool = True, **environment: str) -> None:
        self.command, self.log = [str(word) for word in command], log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._child = subprocess.Popen(
                self.command, stderr=file,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip

    def cpu(self) -> float:
        """Processor seconds of it and its children so far."""
        total = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._child.pid)
            for one in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = one.cpu_times()
                    total += times.user + times.system
        return total

    def ask(self, line: str | None) -> dict[str, Any]:
        """Sends a line and waits for the line that answers it."""
        reader, writer = self._child.stdout, self._child.stdin
        assert reader and writer
        if line is not None:
            writer.write(line.encode() + b"\n")
            writer.flush()
        answer = reader.readline()
        if not answer:
            raise SystemExit(f"{self.command[0]} ended: {self.tail()}")
        return dict(json.loads(answer))

    def ended(self) -> bool:
        return self._child.poll() is not None

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:].strip()

    def close(self) -> None:
        for word in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, word)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(30)


class Engine:
    """bench/worker.py under some Python: batches in, seconds out."""

    def __init__(
        self, name: str, module: str, model: Path, settings: dict[str, Any], log: Path,
        python: str = sys.executable, **environment: str,
    ) -> None:  # fmt: skip
        script = Path(__file__).with_name("worker.py")
        if module == "octavo":
            environment = {"PYTHONPATH": str(ROOT), **environment}
        words = [python, script, "--module", module, "--model", model, "--settings", json.dumps(settings)]
        self.name, self.process = name, Process(words, log / f"{name}.log", **environment)
        self.facts = {"settings": settings, "environment": environment, **self.process.ask(None)}
        self.facts["environment"].pop("PYTHONPATH", None)

    def run(self, prompts: list[list[int]], output: int) -> float:
        """Seconds until each prompt had `output` tokens more."""
        return float(self.process.ask(json.dumps({"prompts": prompts, "output": output}))["seconds"])


@contextlib.contextmanager
def closing(*processes: Process) -> Iterator[None]:
    """Ends them in any case, being ended ourselves included."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for one in processes:
            one.close()


def alternate(sides: dict[str, Turn], processes: dict[str, Process], pairs: int) -> dict[str, Any]:
    """Each side's turn once a round, in turning order; the first round warms up and does not count.

    turns[name] holds what the turns returned; idle[name] is the share of a core that `name` took
    while others had their turn (for a process that lives on between its turns).
    """
    turns: dict[str, list[Any]] = {name: [] for name in sides}
    idle: dict[str, list[float]] = {name: [] for name in processes}
    names = list(sides)
    for round_ in range(pairs + 1):
        for name in names if round_ % 2 else names[::-1]:
            others = {other: one.cpu() for other, one in processes.items() if other != name}
            began = time.perf_counter()
            found = sides[name](round_)
            wall = time.perf_counter() - began
            if round_:
                turns[name].append(found)
                for other, before in others.items():
                    idle[other].append((processes[other].cpu() - before) / wall)
    shares = {name: round(max(found), 4) for name, found in idle.items() if found}
    return {"turns": turns, "idle": shares, "quiet": all(share <= IDLE for share in shares.values())}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times ours is theirs, pair by pair."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def verdict(found: dict[str, float], target: float) -> dict[str, Any]:
    """The target is held against the median of the pairs."""
    return {"target": target, "met": found["median"] >= target}


def prompts(count: int, length: int, seed: int) -> list[list[int]]:
    """Random token ids: no two prompts share a beginning."""
    dice = random.Random(seed)
    return [[dice.randrange(100, 49_000) for _ in range(length)] for _ in range(count)]
