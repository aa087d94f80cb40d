"""Fills every sink of a built model from a checkpoint; names what is missing or left over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from octavo.core.errors import ArtefactError
from octavo.core.facts import TensorInfo
from octavo.nn.build import Build, Sink
from octavo.nn.protocols import Checkpoint

Progress = Callable[[float], None]  # done share in [0, 1]


def load_model(checkpoint: Checkpoint, b: Build, progress: Progress | None = None) -> None:
    """Checks every name and shape first, then reads. ArtefactError names the offenders."""
    if not checkpoint.anything:
        check_names(checkpoint.index, b, checkpoint.hf.source)
    sinks = sorted(b.sinks(), key=lambda sink: -sink.target.numel())
    total = sum(sink.target.numel() for sink in sinks) or 1
    done = 0

    def read(sink: Sink) -> int:
        if sink.take is None:
            checkpoint.read(sink.name, sink.target)
        else:
            tensor = torch.empty_like(sink.target, device=b.device)
            checkpoint.read(sink.name, tensor)
            sink.take(tensor)
        return sink.target.numel()

    with one_tensor_a_thread() as pool:
        for count in pool.map(read, sinks):
            done += count
            if progress is not None:
                progress(done / total)
    b.finish()


def check_names(index: Mapping[str, TensorInfo], b: Build, source: str) -> None:
    """Every sink has its tensor, of its shape, and no tensor is without a sink."""
    sinks = {sink.name: tuple(sink.target.shape) for sink in b.sinks()}
    if missing := [name for name in sinks if name not in index]:
        raise ArtefactError(f"{source}: the checkpoint lacks {_few(missing)}", hint="fetch the model again")
    if unknown := [n for n in index if n not in sinks and n not in b.ledger.ignored]:
        raise ArtefactError(
            f"{source}: the model has no place for {_few(unknown)}",
            hint="config.json and weights disagree: fetch both again",
        )
    for name, shape in sinks.items():
        if index[name].shape != shape:
            raise ArtefactError(
                f"{source}: {name} has shape {index[name].shape}, the configuration asks for {shape}",
                hint="config.json and weights disagree: fetch both again",
            )


@contextmanager
def one_tensor_a_thread() -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads each run torch alone: many small parallel regions would spend
    their time waiting for each other, most of all on a machine that is busy already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what new threads start with
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _few(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more
