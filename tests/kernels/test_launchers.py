"""Modules of one name, as Triton makes its launchers."""

from __future__ import annotations

from types import ModuleType

import pytest
from triton.runtime import build

from octavo.ops.triton.launchers import keep_apart

SOURCE = """
#include <Python.h>
static PyObject *which(PyObject *self, PyObject *args) { return PyLong_FromLong(%d); }
static PyMethodDef methods[] = {{"which", which, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "launcher_of_a_test", NULL, -1, methods};
PyMODINIT_FUNC PyInit_launcher_of_a_test(void) { return PyModule_Create(&definition); }
"""


def load(number: int) -> ModuleType:
    return build.compile_module_from_src(SOURCE % number, "launcher_of_a_test")


def test_a_launcher_stays_its_kernel_s_when_another_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_load_module_from_path", build._load_module_from_path)
    keep_apart.__wrapped__()
    first, second = load(1), load(2)
    assert load(1).which() == 1
    assert (first.which(), second.which()) == (1, 2)
