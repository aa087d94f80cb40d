"""The table of benchmarks: which figure counts, and what is better."""

from __future__ import annotations

import pytest

from bench.table import MODELS, ROWS, Row, judged, table


def result(check=None, **figures):
    rows = [
        {"workload": "start", "seconds": figures.get("start", 9.0)},
        {"workload": "one", "seconds": {"median": 2.0}, "ms_per_step": figures.get("ms", 5.0),
         "output_tokens_per_s": figures.get("rate", 100.0)},
    ]  # fmt: skip
    return {"rows": rows, "check": check}


@pytest.mark.parametrize(
    ("row", "octavo", "other", "reached", "ratio", "of_floor"),
    [
        (Row("8B", "one", "ms_per_step", 5.4, 4.0), {"ms": 5.0}, {"ms": 6.0}, True, 1.2, 0.8),
        (Row("8B", "one", "ms_per_step", 4.9, 4.0), {"ms": 5.0}, {"ms": 4.0}, False, 0.8, 0.8),
        (Row("8B", "one", "output_tokens_per_s", 90, 200), {}, {"rate": 50.0}, True, 2.0, 0.5),
        (Row("8B", "one", "seconds", 1.9), {}, {}, False, 1.0, None),
        (Row("8B", "start", "seconds", 8.0), {"start": 4.0}, {"start": 8.0}, True, 2.0, None),
    ],
)
def test_a_row_is_judged(row, octavo, other, reached, ratio, of_floor):
    found = judged(row, {"octavo": result({"bound": 0.03}, **octavo), "vllm": result(**other)})
    assert (found["reached"], found["ratio"], found["of_floor"]) == (reached, ratio, of_floor)
    assert found["check"] == {"bound": 0.03}
    assert f"| {found['target']:g} |" in table([found], ["octavo", "vllm"])


def test_alone_there_is_no_ratio():
    assert judged(ROWS[0], {"octavo": result()})["ratio"] is None


def test_every_row_has_its_model():
    assert len(ROWS) == 12 and {row.model for row in ROWS} == set(MODELS)
