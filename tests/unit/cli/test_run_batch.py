"""`octavo run-batch` where no model is needed: paths, addresses, outputs that are complete or another's."""

from __future__ import annotations

import hashlib
import json

import pytest

from octavo.cli import main
from octavo.server.batches.lines import encode, failed, read_line
from tests.unit.web import serving

LINE = json.dumps({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x"}}).encode()
ANSWER = encode(failed(read_line(1, LINE), "x", "y"))


def run(capsys, *words: object) -> tuple[int, str]:
    status = main.main(["run-batch", *map(str, words)])
    return status, capsys.readouterr().err


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(LINE + b"\n\n")
    return path


def test_a_complete_output_needs_no_model(source, tmp_path, capsys):
    output = tmp_path / "out.jsonl"
    output.write_bytes(ANSWER)
    status, said = run(capsys, "-i", source, "-o", output, "/nowhere/model.gguf")
    assert status == 0 and "all 1 requests are answered already" in said and output.read_bytes() == ANSWER


def test_what_cannot_be_run(source, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    other.write_bytes(LINE.replace(b"x", b"z") + b"\n")
    output = tmp_path / "out.jsonl"
    output.write_bytes(ANSWER)
    for words, says in (
        (["-i", tmp_path / "none", "-o", output], "none cannot be read"),
        (["-i", tmp_path, "-o", output], "cannot be read"),
        (["-i", source, "-o", tmp_path / "no" / "folder"], "cannot be written"),
        (["-i", source, "-o", "/dev/null"], "not a regular file"),
        (["-i", source, "-o", source], "something else"),
        (["-i", other, "-o", output], "line 1"),
        (["-i", other, "-o", output, "--overwrite", "/nowhere/model.gguf"], "does not exist"),
        (["-i", source], "required"),
    ):
        status, said = run(capsys, *words)
        assert status == 2 and says in said, (words, said)
    assert source.read_bytes() == LINE + b"\n\n"


def test_addresses(source, tmp_path, capsys):
    with serving() as site:
        site.pages = {"/in": LINE, "/out": b"", "/full": (507, {}, b"")}
        asked = f"{site.url}/in"

        def prepare(target: str) -> None:
            name = hashlib.sha256(f"{asked}\n{target}".encode()).hexdigest()[:16]
            (tmp_path / f"octavo-{name}.jsonl").write_bytes(ANSWER)

        prepare(f"{site.url}/out")
        status, said = run(capsys, "-i", asked, "-o", f"{site.url}/out", "--output-tmp-dir", tmp_path)
        assert status == 0 and site.put == {"/out": ANSWER}, said
        prepare(f"{site.url}/full")
        status, said = run(capsys, "-i", asked, "-o", f"{site.url}/full", "--output-tmp-dir", tmp_path)
        assert status == 1 and "507" in said and "--output-tmp-dir" in said
        status, said = run(capsys, "-i", f"{site.url}/none", "-o", tmp_path / "out")
        assert status == 1 and "404" in said
    status, said = run(capsys, "-i", "http://127.0.0.1:9/x", "-o", tmp_path / "out")
    assert status == 1 and "cannot be fetched" in said
