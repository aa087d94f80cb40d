"""Schemas of the JSON-Schema-Test-Suite (github.com/json-schema-org/JSON-Schema-Test-Suite, draft 2020-12,
MIT: see LICENSE here), without those that refer to other documents. Data only: one case a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    of: str  # the keyword's file
    about: str
    schema: dict[str, Any]
    valid: list[Any]
    invalid: list[Any]


def load() -> list[Case]:
    lines = Path(__file__).with_name("draft2020-12.jsonl").read_text(encoding="utf-8").splitlines()
    return [Case(**json.loads(line)) for line in lines]
