"""Lines of a batch and the journal of their results: what is read, what is refused, what survives."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from octavo.core.errors import Fault, UserError
from octavo.server.batches.journal import Journal
from octavo.server.batches.lines import Line, Result, encode, failed, number_of, read_lines
from octavo.server.batches.work import unanswered

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def lines(*texts: str | bytes | dict, most: int = 1000) -> list[Line]:
    raw = [json.dumps(one) if isinstance(one, dict) else one for one in texts]
    data = b"".join((one if isinstance(one, bytes) else one.encode()) + b"\n" for one in raw)
    return list(read_lines(io.BytesIO(data), most))


def test_a_good_line():
    (line,) = lines(GOOD)
    assert line.problem is None and line.custom_id == "a" and json.loads(line.body) == {"prompt": "x"}
    assert number_of(line.id) == line.number == 1


@pytest.mark.parametrize(
    "text,code",
    [
        ("{", "invalid_json_line"),
        ("nonsense", "invalid_json_line"),
        (b"\xff\xfe", "invalid_json_line"),
        ("[" * 900, "invalid_request"),
        ("[]", "invalid_request"),
        ("{}", "invalid_request"),
        ({**GOOD, "custom_id": 5}, "invalid_request"),
        ({**GOOD, "custom_id": ""}, "invalid_custom_id"),
        ({**GOOD, "custom_id": "x" * 600}, "invalid_custom_id"),
        ({**GOOD, "method": "GET"}, "invalid_method"),
        ({**GOOD, "body": "x"}, "invalid_request"),
        ({**GOOD, "body": {"stream": True}}, "invalid_request"),
        ({**GOOD, "body": {"background": True}}, "invalid_request"),
        ({**GOOD, "url": None}, "invalid_request"),
        ({**GOOD, "padding": "x" * 2000}, "line_too_long"),
    ],
)
def test_a_bad_line_is_told_and_the_next_one_is_read(text, code):
    bad, good = lines(text, GOOD)
    assert bad.problem is not None and bad.problem.code == code and bad.problem.message
    assert good.problem is None and good.number == 2
    result = failed(bad, *bad.problem[:2])
    assert json.loads(encode(result))["error"]["code"] == code and encode(result).count(b"\n") == 1


def test_the_name_of_a_wrong_line_is_found_again():
    wrong, unnamed = lines({"custom_id": "mine", "url": 3}, {"custom_id": [1]})
    assert wrong.custom_id == "mine" and unnamed.custom_id is None


def test_blank_lines_count_and_ids_tell_lines_apart():
    same = lines("", GOOD, "   ", GOOD)
    assert [line.number for line in same] == [2, 4]
    assert same[0].id != same[1].id and same[0].id[-16:] == same[1].id[-16:]


def test_the_last_line_needs_no_end():
    assert [line.number for line in read_lines(io.BytesIO(json.dumps(GOOD).encode()), 1000)] == [1]


def result(line: Line) -> Result:
    return failed(line, "x", "y")


def test_the_journal_remembers_and_cuts_a_torn_end(tmp_path):
    path = tmp_path / "out.jsonl"
    made = lines(GOOD, {**GOOD, "custom_id": "ü\u2028"}, GOOD)
    journal = Journal.open(path)
    journal.add(result(made[2]))
    journal.add(result(made[1]))
    journal.close()
    whole = path.read_bytes()
    last = encode(result(made[0]))
    for cut in range(len(last)):
        path.write_bytes(whole + last[:cut])
        again = Journal.open(path)
        assert sorted(again.done) == [2, 3] and path.read_bytes() == whole
        assert [line.number for line in unanswered(made, again)] == [1]
        again.add(result(made[0]))
        again.arrange()
        again.close()
        assert [json.loads(one)["id"] for one in path.read_bytes().splitlines()] == [one.id for one in made]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out.jsonl"]


def test_a_line_is_answered_once(tmp_path):
    (line,) = lines(GOOD)
    journal = Journal.open(tmp_path / "out")
    journal.add(result(line))
    with pytest.raises(AssertionError, match="once"):
        journal.add(result(line))
    journal.close()


def test_two_processes_do_not_write_one_output(tmp_path):
    first = Journal.open(tmp_path / "out")
    with pytest.raises(UserError, match="another process"):
        Journal.open(tmp_path / "out")
    first.close()
    Journal.open(tmp_path / "out").close()


def test_an_output_that_is_something_else_is_left_alone(tmp_path):
    path = tmp_path / "out"
    for content in (b"my notes\n", b'{"id": "batch_req_1", "custom_id": "a"}\n', b"{}\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="something else"):
            Journal.open(path)
        assert path.read_bytes() == content
    journal = Journal.open(path, fresh=True)
    assert not journal.done and path.read_bytes() == b""
    journal.close()
    for odd in (tmp_path, tmp_path / "no" / "folder"):
        with pytest.raises(UserError):
            Journal.open(odd)
    with pytest.raises(UserError, match="regular"):
        Journal.open(Path("/dev/null"))


def test_another_input_is_noticed(tmp_path):
    mine, other = lines(GOOD), lines({**GOOD, "custom_id": "b"})
    journal = Journal.open(tmp_path / "out")
    journal.add(result(mine[0]))
    with pytest.raises(UserError, match="line 1"):
        list(unanswered(other, journal))
    journal.close()


def test_a_full_disk_leaves_whole_lines(tmp_path):
    first, second = lines(GOOD, GOOD)
    journal = Journal.open(tmp_path / "out")
    journal.add(result(first))
    whole = (tmp_path / "out").read_bytes()
    real = journal._file

    class Full:
        """Takes half of what it gets."""

        def write(self, data: bytes) -> int:
            return real.write(data[: len(data) // 2])

        truncate, seek = real.truncate, real.seek

    journal._file = Full()
    with pytest.raises(Fault, match="full"):
        journal.add(result(second))
    assert (tmp_path / "out").read_bytes() == whole and list(journal.done) == [1]
    journal._file = real
    journal.add(result(second))
    journal.close()
