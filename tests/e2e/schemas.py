"""JSON schemas whose outputs are short: forty written by hand, any number made from a seed."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]


def text(most: int = 12, **more: object) -> Schema:
    return {"type": "string", "maxLength": most, **more}


def record(**fields: Schema) -> Schema:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def some(item: Schema, most: int = 3, least: int = 0) -> Schema:
    return {"type": "array", "items": item, "minItems": least, "maxItems": most}


BOOL, NULL = {"type": "boolean"}, {"type": "null"}


def whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high, "multipleOf": 0.25}


TREE: Schema = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": record(
            name=text(6), children={"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/node"}}
        )
    },
}
CHAIN: Schema = {
    "$ref": "#/definitions/link",
    "definitions": {"link": record(n=whole(0, 9), next={"anyOf": [NULL, {"$ref": "#/definitions/link"}]})},
}

WRITTEN: list[Schema] = [
    record(name=text(), age=whole(0, 150)),
    record(city=text(20), country=text(20), capital=BOOL),
    record(a=record(b=record(c=record(d=whole(0, 9))))),
    record(items=some(record(sku=text(8), count=whole(1, 99)), 2, 1)),
    record(colour={"enum": ["red", "green", "blue"]}),
    record(mixed={"enum": ["a", 1, None, True, {"x": [1, 2]}]}),
    {"const": {"fixed": [1, "two", None]}},
    {"enum": ["one", "two", "three"]},
    {"type": "string", "enum": ["ünïcödé", "日本語", "emoji 🎉", 'quote " \\ slash']},
    record(**{"schlüssel": whole(0, 5), "键": text(4), "with space": BOOL, 'q"uote': NULL}),
    whole(-10, 10),
    whole(1000, 1003),
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3},
    {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
    number(-1, 1),
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 70},
    BOOL,
    NULL,
    text(10, minLength=5),
    text(30, pattern="^[A-Z][a-z]{2,8}$"),
    record(phone={"type": "string", "pattern": r"^\+[0-9]{2} [0-9]{3,6}$"}),
    record(id={"type": "string", "pattern": "^(usr|org)_[a-f0-9]{8}$"}),
    record(date={"type": "string", "format": "date"}),
    record(at={"type": "string", "format": "date-time", "maxLength": 30}),
    record(ip={"type": "string", "format": "ipv4"}, id={"type": "string", "format": "uuid"}),
    some(whole(0, 9), 5, 2),
    some(some(BOOL, 2, 1), 2, 1),
    {"type": "array", "prefixItems": [text(4), whole(0, 9), BOOL], "items": False, "minItems": 3},
    {"type": "array", "prefixItems": [whole(0, 1)], "items": text(3), "maxItems": 3, "minItems": 1},
    {"anyOf": [whole(0, 9), text(5), record(x=BOOL)]},
    {"oneOf": [record(kind={"const": "a"}, a=whole(0, 9)), record(kind={"const": "b"}, b=text(4))]},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 5},
    {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 8}]},
    {"type": "object", "additionalProperties": whole(0, 9), "maxProperties": 2, "minProperties": 1},
    {
        "type": "object",
        "patternProperties": {"^[a-c]{1,2}$": BOOL},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    {
        "type": "object",
        "properties": {"must": whole(0, 9), "may": text(4), "might": BOOL},
        "required": ["must"],
        "additionalProperties": False,
    },
    TREE,
    CHAIN,
    record(list=some({"$ref": "#/$defs/point"}, 2, 1)) | {"$defs": {"point": record(x=whole(0, 9), y=whole(0, 9))}},
    record(person=record(name=text(10), tags=some({"enum": ["x", "y", "z"]}, 2)), note={"anyOf": [text(8), NULL]}),
]  # fmt: skip


def made(count: int, seed: int = 0) -> list[Schema]:
    """Different schemas, nested three levels at most."""
    rng = random.Random(seed)
    return [_made(rng, 3) for _ in range(count)]


def _made(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(-50, 50)
    leaves = [
        lambda: whole(low, low + rng.randint(0, 60)),
        lambda: number(low, low + 5),
        lambda: text(rng.randint(1, 12)),
        lambda: text(
            8, pattern=rng.choice(["^[a-z]{1,6}$", "^[0-9]{2}-[A-F]{2}$", "^(ab|cd){1,3}$", "^é?ü+$"])
        ),
        lambda: {"enum": rng.sample(["a", "é", "日", 1, -2.5, None, True, "long value", [1], {"k": "v"}], 3)},
        lambda: {"const": rng.choice(["x", 7, [1, 2], {"a": None}])},
        lambda: rng.choice([BOOL, NULL, {"type": ["boolean", "null"]}]),
        lambda: {"type": "string", "format": rng.choice(["date", "uuid", "ipv4", "ipv6"])},
    ]
    if depth == 0 or rng.random() < 0.25:
        return rng.choice(leaves)()
    names = rng.sample(["a", "name", "größe", "数", "x y", "flag"], rng.randint(1, 3))
    branches = [
        lambda: record(**{name: _made(rng, depth - 1) for name in names}),
        lambda: some(_made(rng, depth - 1), rng.randint(1, 2)),
        lambda: {"anyOf": [_made(rng, 0), record(z=_made(rng, depth - 1))]},
        lambda: {
            "type": "array",
            "prefixItems": (parts := [_made(rng, 0) for _ in range(2)]),
            "items": False,
            "minItems": len(parts),
        },
        lambda: {
            "type": "object",
            "properties": {"must": _made(rng, 0), "may": _made(rng, depth - 1)},
            "required": ["must"],
            "additionalProperties": False,
        },
    ]
    return rng.choice(branches)()
