"""Op: a reference in plain torch that faster kernels attach to.

The reference is the specification, the fallback on every device and the oracle of the
tests. Knows nothing of layers. Inside a model's forward every call that makes a tensor is
an Op, so that a step can be recorded and replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


class Kernel(NamedTuple):
    """A faster way. `invariant`: a row's bits do not depend on the rest of the batch."""

    run: Callable[..., Any]
    when: Callable[..., bool] | None
    invariant: bool


class Op(Generic[P, R]):
    """Callable like its reference; the first argument's device picks the kernels to try."""

    def __init__(self, reference: Callable[P, R]) -> None:
        self.reference = reference
        self.name: str = reference.__name__
        self.__doc__ = reference.__doc__
        self._kernels: dict[str, list[Kernel]] = {}

    def kernel(
        self, device: str, *, when: Callable[..., bool] | None = None, invariant: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Attaches a kernel for a device kind; the last one attached is tried first."""

        def attach(run: Callable[P, R]) -> Callable[P, R]:
            self._kernels.setdefault(device, []).insert(0, Kernel(run, when, invariant))
            return run

        return attach

    def kernels(self, device: str) -> tuple[Kernel, ...]:
        return tuple(self._kernels.get(device, ()))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._kernels:
            first = args[0]
            assert isinstance(first, Tensor), "an op's first argument is a tensor"
            for kernel in self._kernels.get(first.device.type, ()):
                if kernel.when is None or kernel.when(*args, **kwargs):
                    return kernel.run(*args, **kwargs)  # type: ignore[no-any-return]
        return self.reference(*args, **kwargs)


def op(reference: Callable[P, R]) -> Op[P, R]:
    """Decorator: a reference becomes an Op."""
    return Op(reference)
