"""What calls are held to: a tool's own words, closed where it leaves open what no function could take."""

from __future__ import annotations

import pytest

from octavo.front.tools import Definition, read_tools
from octavo.parsers.machine import ToolChoice

CITY = {"properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    "given,held",
    [
        (CITY, {"type": "object", **CITY, "additionalProperties": False}),
        ({**CITY, "additionalProperties": True}, {"type": "object", **CITY, "additionalProperties": True}),
        ({**CITY, "anyOf": [{}]}, {"type": "object", **CITY, "anyOf": [{}]}),
        ({"patternProperties": {}}, {"type": "object", "patternProperties": {}}),
        ({"type": "object"}, {"type": "object"}),
        (None, {"type": "object", "properties": {}, "additionalProperties": False}),
    ],
)
def test_arguments_are_those_that_are_listed(given, held):
    (tool,) = read_tools([Definition("f", None, given)], ToolChoice("required")).tools
    assert tool.parameters == held
