"""The form an answer must have, in the dialect's several ways of asking: one of them, as parameters."""

from __future__ import annotations

import logging

import msgspec

from octavo.core.errors import UserError
from octavo.front.params import SamplingParams
from octavo.front.structured import StructuredOutputsParams
from octavo.server.openai.types import GenerateRequest, ResponseFormat

_log = logging.getLogger(__name__)
_HEAVY = 1 << 20
_OLD = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def constraint(body: GenerateRequest) -> StructuredOutputsParams | None:
    """UserError when there are two, or when the one is incomplete."""
    field = field_of(body)
    if field == "response_format":
        assert body.response_format is not None
        return _of_format(body.response_format)
    if body.structured_outputs is not None:
        return StructuredOutputsParams.of(msgspec.structs.asdict(body.structured_outputs))
    if field in _OLD:
        _log.warning("%s is deprecated: use structured_outputs", field)
        return StructuredOutputsParams.of({_OLD[field]: getattr(body, field)})
    return None


def field_of(body: GenerateRequest) -> str:
    """The field that asks; "structured_outputs" when none does."""
    asked = [name for name in ("structured_outputs", *_OLD) if getattr(body, name) is not None]
    if body.response_format is not None and body.response_format.type != "text":
        asked.append("response_format")
    if len(asked) > 1:
        raise UserError(f"{asked[0]} and {asked[1]} are both given", hint="send one of them", field=asked[1])
    return asked[0] if asked else "structured_outputs"


def names(body: GenerateRequest) -> dict[str, str]:
    """What the parameter is called on this request."""
    field = field_of(body)
    return {} if field == "structured_outputs" else {"structured_outputs": field}


def weight(params: SamplingParams) -> int:
    """How much there is to check, in characters of a prompt: enough to be done beside the event loop."""
    return 0 if params.structured_outputs is None else _HEAVY


def _of_format(wanted: ResponseFormat) -> StructuredOutputsParams:
    if wanted.type == "json_object":
        return StructuredOutputsParams(json_object=True)
    if wanted.type == "structural_tag":
        tag = {"structures": wanted.structures, "triggers": wanted.triggers, "format": wanted.format}
        given = {key: value for key, value in tag.items() if value is not None}
        return StructuredOutputsParams(structural_tag=given)
    found = wanted.json_schema
    if found is None or found.schema is None:
        raise UserError(
            "structured_outputs has no json_schema.schema",
            hint='{"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}',
            field="structured_outputs",
        )
    return StructuredOutputsParams(json=found.schema)
