"""Whether a file is a batch: every line is read once before the first is answered."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from octavo.server.batches.lines import Line, Problem, read_lines
from octavo.server.batches.types import BatchProblem

_TOLD = 100  # problems are told; who has more will not read them


class Found(NamedTuple):
    total: int
    problems: list[BatchProblem]


def validate(path: Path, endpoint: str, most_line: int, most_lines: int) -> Found:
    """Counts the requests and names what is wrong with them."""
    names: set[str] = set()
    problems: list[BatchProblem] = []
    total = 0
    with path.open("rb") as file:
        for line in read_lines(file, most_line):
            total += 1
            if total > most_lines:
                message = f"a batch has at most {most_lines} requests"
                return Found(0, [BatchProblem(code="request_limit_exceeded", message=message)])
            if (problem := _problem(line, endpoint, names)) is not None and len(problems) < _TOLD:
                code, message, param = problem
                problems.append(BatchProblem(code=code, message=message, param=param, line=line.number))
    if not total:
        problems.append(BatchProblem(code="empty_file", message="the file holds no request"))
    return Found(total, problems)


def _problem(line: Line, endpoint: str, names: set[str]) -> Problem | None:
    if line.problem is not None:
        return line.problem
    if line.url != endpoint:
        message = f"url is {line.url[:80]!r}, the batch's endpoint is {endpoint!r}"
        return Problem("mismatched_endpoint", message, "url")
    assert line.custom_id is not None
    if line.custom_id in names:
        return Problem("duplicate_custom_id", f"custom_id {line.custom_id[:80]!r} comes twice", "custom_id")
    names.add(line.custom_id)
    return None
