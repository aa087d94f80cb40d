"""What a rehearsal noted and who compiles it when; the compilers are made up."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
import triton

from octavo.ops.triton import rehearse
from octavo.ops.triton.compile_apart import Kernel
from octavo.ops.triton.rehearse import Rehearsal


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In order: what the process and the threads here were asked for."""
    seen: list[str] = []

    class Apart:
        def __init__(self, target: str) -> None:
            self.ended = False

        def make(self, kernel: Kernel) -> None:
            if kernel.name == "bad":
                raise RuntimeError("no such kernel")
            seen.append(f"apart {kernel.name}")

        def end(self) -> None:
            if not self.ended:
                seen.append("end")
            self.ended = True

    monkeypatch.setattr(rehearse, "Compiler", Apart)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        triton.runtime.driver, "_active", SimpleNamespace(get_current_target=lambda: "a target")
    )
    return seen


def note(rehearsal: Rehearsal, name: str, happened: list[str], made: threading.Event) -> None:
    def preload(data: str) -> SimpleNamespace:
        assert data == f"{name}'s data"
        happened.append(f"here {name}")
        made.set()
        return SimpleNamespace(run=None)

    fn = SimpleNamespace(module="a.module", name=name, jit_function=SimpleNamespace(preload=preload))
    with rehearsal.noting():
        triton.knobs.runtime.jit_cache_hook(
            key="k", fn=fn, compile={"specialization_data": f"{name}'s data"}, repr="", already_compiled=False
        )


def test_kernels_are_compiled_apart_and_loaded_here_while_nothing_runs(happened: list[str]) -> None:
    rehearsal, made = Rehearsal(), threading.Event()
    idle, looked = threading.Event(), threading.Event()

    def quiet() -> bool:
        looked.set()
        return idle.is_set()

    for name in ("one", "bad"):
        note(rehearsal, name, happened, threading.Event())
    note(rehearsal, "last", happened, made)
    end = rehearsal.compile_later(quiet)
    assert looked.wait(10) and not made.wait(0.3) and happened == ["apart one"], "steps run"
    idle.set()
    assert made.wait(10)
    end()
    assert happened == ["apart one", "here one", "here bad", "apart last", "here last", "end"]


def test_the_end_comes_before_the_work_is_done(happened: list[str]) -> None:
    rehearsal = Rehearsal()
    note(rehearsal, "one", happened, threading.Event())
    rehearsal.compile_later(lambda: False)()
    assert "end" in happened and "here one" not in happened
