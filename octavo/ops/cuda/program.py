"""Compiled kernels: made by NVRTC, kept on disk beside Triton's, loaded once a device.

NVRTC and the driver are reached through NVIDIA's own bindings, which torch for CUDA brings along.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

_log = logging.getLogger(__name__)
_noting: ContextVar[Callable[[Program], None] | None] = ContextVar("_noting", default=None)


@contextmanager
def noting(note: Callable[[Program], None]) -> Iterator[None]:
    """Inside, programs that are not compiled yet are told to `note` instead of being launched."""
    before = _noting.set(note)
    try:
        yield
    finally:
        _noting.reset(before)


@cache
def available(device: torch.device) -> bool:
    """Whether the device is a Hopper (what the kernels are written for), the compiler can be reached, and its
    work can be loaded."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != (9, 0):
        return False
    try:
        Program("probe", 'extern "C" __global__ void probe() {}', {}, threads=32, shared=0).ready()
    except (ImportError, RuntimeError) as error:
        _log.warning("products for Hopper are left to cuBLAS and Triton: %s", error)
        return False
    return True


class Program:
    """A kernel of one device. `shared`: bytes of dynamic shared memory; `cluster`: blocks that read each
    other's."""

    def __init__(
        self, name: str, text: str, values: dict[str, int], *, threads: int, shared: int, cluster: int = 1
    ) -> None:
        self.name = name
        self._text, self._values = text, values
        self._threads, self._shared, self._cluster = threads, shared, cluster
        self._function: Any = None
        self._lock = threading.Lock()

    def ready(self) -> None:
        """Compiles the kernel, or takes it from disk, and loads it into the current device."""
        with self._lock:
            if self._function is None:
                self._function = self._load(_kept(self.name, self._text, self._values))

    def launch(self, blocks: int, arguments: Sequence[Any], stream: int) -> None:
        """`arguments`: ctypes objects, passed by value. The kernel may begin before its predecessor ends."""
        if self._function is None:
            if (note := _noting.get()) is not None:
                note(self)
                return
            self.ready()
        from cuda.bindings import driver

        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = blocks, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = self._threads, 1, 1
        config.sharedMemBytes, config.hStream = self._shared, stream
        config.attrs = list(_attributes(self._cluster))
        config.numAttrs = len(config.attrs)
        places = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        checked(driver.cuLaunchKernelEx(config, self._function, ctypes.addressof(places), 0))

    def _load(self, image: bytes) -> Any:
        from cuda.bindings import driver

        if not int(checked(driver.cuCtxGetCurrent())):  # a thread begins without
            checked(
                driver.cuCtxSetCurrent(checked(driver.cuDevicePrimaryCtxRetain(torch.cuda.current_device())))
            )
        module = checked(driver.cuModuleLoadData(image))
        function = checked(driver.cuModuleGetFunction(module, self.name.encode()))
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        checked(driver.cuFuncSetAttribute(function, most, self._shared))
        return function


@cache
def _attributes(cluster: int) -> tuple[Any, ...]:
    from cuda.bindings import driver

    kinds, made = driver.CUlaunchAttributeID, []
    if cluster > 1:
        size = driver.CUlaunchAttribute()
        size.id = kinds.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        size.value.clusterDim.x, size.value.clusterDim.y, size.value.clusterDim.z = cluster, 1, 1
        made.append(size)
    early = driver.CUlaunchAttribute()
    early.id = kinds.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    early.value.programmaticStreamSerializationAllowed = 1
    return (*made, early)


def checked(answer: tuple[Any, ...]) -> Any:
    """What a call of the bindings returned beside its status. No memory is torch's error, which is mended."""
    if int(answer[0]) != 0:
        name = answer[0].name
        raise (torch.OutOfMemoryError if name == "CUDA_ERROR_OUT_OF_MEMORY" else RuntimeError)(
            f"CUDA: {name}"
        )
    return answer[1] if len(answer) == 2 else answer[1:]


def _kept(name: str, text: str, values: dict[str, int]) -> bytes:
    """The machine code, from the directory of compiled kernels where it lies there."""
    from cuda.bindings import nvrtc

    version = checked(nvrtc.nvrtcVersion())
    defined = (f"-D{key}={value}" for key, value in sorted(values.items()))
    options = ("--gpu-architecture=sm_90a", "--std=c++17", "-default-device", *defined)
    digest = hashlib.sha256(repr((version, options, text)).encode()).hexdigest()
    path = Path(triton.knobs.cache.dir, f"octavo-{name}-{digest}.cubin")
    if (kept := _read(path)).startswith(_ELF):
        return kept
    image = compiled(name, text, options)
    _write(path, image)
    return image


_ELF = b"\x7fELF"  # a file that a crash has cut begins otherwise


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def compiled(name: str, text: str, options: Sequence[str]) -> bytes:
    """RuntimeError with the compiler's words where it refuses."""
    from cuda.bindings import nvrtc

    program = checked(nvrtc.nvrtcCreateProgram(text.encode(), f"{name}.cu".encode(), 0, [], []))
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if int(status[0]) != 0:
            log = bytes(checked(nvrtc.nvrtcGetProgramLogSize(program)))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"{name}.cu: {log.rstrip(bytes(1)).decode(errors='replace')}")
        image = bytes(checked(nvrtc.nvrtcGetCUBINSize(program)))
        checked(nvrtc.nvrtcGetCUBIN(program, image))
        return image
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _write(path: Path, image: bytes) -> None:
    """Whole or not at all; a disk that cannot be written costs the next start its time, no more."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="build-") as work:
            made = Path(work, path.name)
            made.write_bytes(image)
            os.replace(made, path)
