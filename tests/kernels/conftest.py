"""Kernels run on the GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The full grids are for a GPU; in the interpreter they would take hours."""
    if not torch.cuda.is_available():
        large = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]
