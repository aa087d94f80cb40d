"""Kernels run on the GPU where there is one, otherwise in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch


def interpret() -> None:
    """Before triton is imported. Its interpreter makes int() of arrays of one, which NumPy 2.4 refuses."""
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patched


if not torch.cuda.is_available():
    interpret()


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
