"""The output while it grows: an append-only file that says by itself what is done.

`open` reads what is there, cuts off a torn last line and holds a lock, so that two processes
cannot answer the same input. Results stand in the order they came; `ordered` gives them in
the order of the input. One whole line is one write: a process that is killed tears at most
the last one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from octavo.core.errors import Fault, UserError
from octavo.server.batches.lines import Result, encode, number_of

_LONGEST = 1 << 30


class Place(NamedTuple):
    """Where the result of a line is."""

    id: str
    at: int
    good: bool


class _Details(msgspec.Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct):
    """Of any dialect: some say prompt and completion, others input and output."""

    prompt_tokens: int = 0
    input_tokens: int = 0
    completion_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


class Tokens(NamedTuple):
    """Of all good answers together."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class Journal:
    """Results by line number."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = 0
        self.tokens = Tokens()
        self.done: dict[int, Place] = {}
        self.completed = 0
        self._file = file
        self._results = msgspec.json.Decoder(Result)
        self._bodies = msgspec.json.Decoder(_Body)

    @classmethod
    def open(cls, path: Path, *, fresh: bool = False) -> Journal:
        """UserError when the file holds something else, or when somebody else writes it. `fresh` empties
        it first."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            hint = "name a file in a folder that exists and may be written"
            raise UserError(
                f"{path} cannot be written: {error.strerror}", hint=hint, field="output"
            ) from None
        journal = cls(path, os.fdopen(handle, "r+b", buffering=0))
        try:
            journal._lock()
            if fresh:
                journal._file.truncate(0)
            journal._load()
        except BaseException:
            journal.close()
            raise
        return journal

    def close(self) -> None:
        self._file.close()

    def add(self, result: Result) -> None:
        """Appends a result. Fault when the disk does not take it; what is there stays whole."""
        number = number_of(result.id)
        assert number is not None and number not in self.done, "a line is answered once"
        data = encode(result)
        try:
            if self._file.write(data) != len(data):
                raise OSError(0, "the disk is full")
        except OSError as error:
            self._file.truncate(self.size)
            self._file.seek(self.size)
            raise Fault(f"{self.path} cannot be written: {error.strerror}") from None
        self._note(number, result, len(data))

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def ordered(self, good: bool | None = None) -> Iterator[bytes]:
        """Lines in the order of the input; only the good or only the others, where one is asked for."""
        with self.path.open("rb") as file:
            for number in sorted(self.done):
                place = self.done[number]
                if good is None or place.good is good:
                    file.seek(place.at)
                    yield file.readline()

    def arrange(self) -> None:
        """Puts the file into the order of the input, at once."""
        numbers = list(self.done)
        if all(a < b for a, b in pairwise(numbers)):
            self.sync()
            return
        fresh = self.path.with_name(self.path.name + ".sorted")
        write_lines(fresh, self.ordered())
        fresh.replace(self.path)

    # -- inside ---------------------------------------------------------------------------

    def _lock(self) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            hint = "an output that can be resumed is a regular file"
            raise UserError(f"{self.path} is not a regular file", hint=hint, field="output")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            hint = "wait for the other one, or choose another output"
            raise UserError(f"another process writes {self.path}", hint=hint, field="output") from None

    def _load(self) -> None:
        with self.path.open("rb") as file:
            while raw := file.readline(_LONGEST):
                if not raw.endswith(b"\n"):
                    break  # torn: its line is answered again
                self._recall(raw)
        self._file.truncate(self.size)
        self._file.seek(self.size)

    def _recall(self, raw: bytes) -> None:
        try:
            result = self._results.decode(raw)
            number = number_of(result.id)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            number = None
        if number is None or number in self.done:
            hint = "choose another output, or let --overwrite replace it"
            raise UserError(f"{self.path} holds something else than results", hint=hint, field="output")
        self._note(number, result, len(raw))

    def _note(self, number: int, result: Result, size: int) -> None:
        self.done[number] = Place(result.id, self.size, result.good)
        self.size += size
        if result.good:
            self.completed += 1
            self._count(result)

    def _count(self, result: Result) -> None:
        assert result.response is not None
        try:
            usage = self._bodies.decode(result.response.body).usage or _Usage()
        except msgspec.MsgspecError:
            return
        read = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
        said = usage.completion_tokens_details or usage.output_tokens_details or _Details()
        now = (
            usage.prompt_tokens + usage.input_tokens,
            read.cached_tokens,
            usage.completion_tokens + usage.output_tokens,
            said.reasoning_tokens,
        )
        self.tokens = Tokens(*(a + b for a, b in zip(self.tokens, now, strict=True)))


def write_lines(path: Path, lines: Iterator[bytes]) -> int:
    """A new file of `lines`, on the disk; returns its size."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()
