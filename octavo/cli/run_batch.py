"""`octavo run-batch`: answers a file of requests, in OpenAI's batch format, without a server.

The output says itself what is done: the same command goes on where an earlier one was stopped
or killed, and writes each answer once. Lines come as they are ready; a finished output is in
the order of the input.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from octavo.checkpoint.find import locate
from octavo.cli import transfer
from octavo.cli.show import Startup
from octavo.config.flags import Parser, add_flags, build
from octavo.server.batches.journal import Journal
from octavo.server.batches.lines import Result
from octavo.server.batches.offline import Task, answer, left


def parser() -> Parser:
    made = Parser(
        prog="octavo run-batch",
        usage="octavo run-batch -i INPUT -o OUTPUT [MODEL] [options]",
        description="Answer a file of requests, one JSON object a line, without a server. "
        "The same command goes on where an earlier one was stopped.",
    )
    made.add_argument("model", nargs="?", metavar="MODEL", help="as for `octavo serve`")
    made.add_argument(
        "-i", "--input-file", required=True, metavar="INPUT", help="requests: a path or an http(s) address"
    )
    made.add_argument(
        "-o",
        "--output-file",
        required=True,
        metavar="OUTPUT",
        help="answers: a path, or an http(s) address they are PUT to at the end",
    )
    made.add_argument(
        "--output-tmp-dir", metavar="DIR", help="where answers for an address are gathered, and resumed from"
    )
    made.add_argument("--overwrite", action="store_true", help="begin anew, whatever the output holds")
    made.add_argument("--enable-metrics", action="store_true", help="show /metrics meanwhile, on --port")
    made.add_argument("--url", default="127.0.0.1", help="address of /metrics (default: 127.0.0.1)")
    add_flags(made, serve=True)
    return made


def run(words: list[str]) -> int:
    from octavo.observe.log import configure

    config, asked = build(parser(), words)
    configure(config.observe)
    with _places(asked) as (source, output):
        with contextlib.closing(Journal.open(output, fresh=asked.overwrite)) as journal:
            task = Task(source, journal, config, asked.url if asked.enable_metrics else None)
            if not _work(task):
                return 130
            journal.arrange()
        if transfer.remote(asked.output_file):
            transfer.put(output, asked.output_file)
    return 0


@contextlib.contextmanager
def _places(asked: Any) -> Iterator[tuple[Path, Path]]:
    """Local paths of input and output."""
    with tempfile.TemporaryDirectory(prefix="octavo-") as folder:
        source, output = Path(asked.input_file), Path(asked.output_file)
        if transfer.remote(asked.input_file):
            source = Path(folder, "input.jsonl")
            transfer.get(asked.input_file, source)
        transfer.check_readable(source)
        if transfer.remote(asked.output_file):
            name = hashlib.sha256(f"{asked.input_file}\n{asked.output_file}".encode()).hexdigest()[:16]
            output = Path(asked.output_tmp_dir or folder, f"octavo-{name}.jsonl")
        yield source, output


def _work(task: Task) -> bool:
    """Whether all is answered."""
    import uvloop

    began = time.monotonic()
    total, missing = left(task)
    if not missing:
        _say(f"all {total} requests are answered already")
        return True
    if missing < total:
        _say(f"{total - missing} of {total} requests are answered already")
    files = locate(task.config.model)
    with _bar(total, total - missing) as told:
        complete = uvloop.run(answer(task, files, Startup(), told))
    good, done = task.journal.completed, len(task.journal.done)
    if complete:
        took = time.monotonic() - began
        _say(f"{done} requests are answered, {done - good} of them with an error, after {took:.1f} s")
    else:
        _say(f"stopped: {done} of {total} requests are answered; the same command goes on from there")
    return complete


@contextlib.contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[Result], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("answered"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("answered", total=total, completed=done)
        yield lambda result: bar.advance(task)


def _say(text: str) -> None:
    print(f"octavo: {text}", file=sys.stderr, flush=True)
