"""Kernels run on the GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from tests.kernels import fresh

SEED = pytest.StashKey[int]()


def interpret() -> None:
    """Before triton is imported. Two things its interpreter lacks: int() of arrays of one is refused by
    NumPy 2.4, and bfloat16 is kept as uint16, which a product must widen first."""
    os.environ["TRITON_INTERPRET"] = "1"
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    patch, builder = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder
    dot = builder.create_dot

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def widened(handle):
        if handle.dtype != tl.bfloat16:
            return handle
        wide = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(wide, tl.float32)

    interpreter._patch_lang_tensor = patched
    builder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)


if not torch.cuda.is_available():
    interpret()


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def fresh_inputs_and_poisoned_outputs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = request.config.stash[SEED]
    print(f"inputs: {fresh.NAME}={seed}")  # shown where a test fails
    fresh.sow(seed, request.node.nodeid)
    fresh.poison(monkeypatch)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a GPU all of them need it. The full grids always do; in the interpreter they would take hours."""
    config.stash[SEED] = fresh.session_seed()
    away = not torch.cuda.is_available()
    for item in items:
        if "tests/kernels/" not in item.nodeid:
            continue
        if not away:
            item.add_marker(pytest.mark.gpu)
        elif item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """So that a run can be repeated as it was."""
    if SEED in config.stash:
        terminalreporter.write_line(f"inputs of tests/kernels: {fresh.NAME}={config.stash[SEED]}")
