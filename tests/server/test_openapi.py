"""The document is true: every route is in it, and whatever is sent, the answer is one it names.

schemathesis makes requests out of the document, good ones and bad ones, and holds each answer to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.config.engine import EngineConfig
from octavo.config.schedule import ScheduleConfig
from octavo.config.serve import ServeConfig
from octavo.server.app import ROUTES, operations
from octavo.server.body import Body
from octavo.server.openapi import Operation, schema
from tests.server.asgi import ask
from tests.server.fake_engine import MODEL, House

KEY = "the-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
KEYED = EngineConfig(serve=ServeConfig(api_key=(KEY,)), schedule=ScheduleConfig(max_queue=16))
HELD = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.ignored_auth,
    checks.unsupported_method,
]
QUICK, LONG = 40, 500  # requests for each operation and kind
GOOD = {
    "/v1/chat/completions": {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
    },
    "/v1/completions": {"model": MODEL, "prompt": "hello", "max_tokens": 5},
    "/tokenize": {"prompt": "hello"},
    "/detokenize": {"tokens": [1, 2]},
}
DOCUMENT = schema(operations(), secured=True)


class Door:
    """The app that is asked; operations are made before there is one."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


DOOR = Door()


def described(document: dict[str, Any]) -> list[APIOperation]:
    found = schemathesis.openapi.from_dict(document)
    found.app = DOOR
    return [one.ok() for one in found.get_all_operations()]


def cases() -> Iterator[Any]:
    """Each operation with good requests, and, where it takes anything, with bad ones."""
    for one in described(DOCUMENT):
        for mode in GenerationMode:
            if mode.is_positive or one.body or list(one.iter_parameters()):
                yield pytest.param(one, mode, id=f"{one.label}-{mode.value}")


CASES = list(cases())


@pytest.fixture(scope="module")
def keyed() -> Iterator[House]:
    house = House(config=KEYED)
    DOOR.app = house.app
    yield house
    house.service.close()


async def test_the_document_is_the_one_served(open_house):
    house = open_house(config=KEYED)
    assert (await ask(house.app, "GET", "/openapi.json", headers=HEADERS)).json() == DOCUMENT


def test_it_is_valid():
    schemathesis.openapi.from_dict(DOCUMENT).validate()


def test_every_route_is_described(keyed):
    served = {
        (method, route.path.replace(":path}", "}"))
        for route in keyed.app.routes
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    assert len(served) == len(keyed.app.routes)
    assert served == {(method.upper(), path) for path, one in DOCUMENT["paths"].items() for method in one}


def test_every_route_but_health_wants_a_key():
    for path, methods in DOCUMENT["paths"].items():
        for method, one in methods.items():
            opened = (method, path) == ("get", "/health")
            assert (one.get("security") == []) is opened and ("401" in one["responses"]) is not opened


class Query(msgspec.Struct):
    limit: int
    order: str | None = None


class Upload(msgspec.Struct):
    file: bytes
    purpose: str


class OwnError(msgspec.Struct):
    type: str


def test_what_a_route_may_say_of_itself():
    """Parameters, forms, other kinds of replies, another success, another shape of errors."""
    made = schema(
        {
            ("GET", "/a"): Operation("list", query=Query, media="text/csv", errors=(409,), problem=OwnError),
            ("POST", "/b/{id}"): Operation("upload", form=Upload, status=201),
        },
        secured=False,
    )
    schemathesis.openapi.from_dict(made).validate()
    listed, upload = made["paths"]["/a"]["get"], made["paths"]["/b/{id}"]["post"]
    assert [(one["name"], one["in"], one["required"]) for one in listed["parameters"]] == [
        ("limit", "query", True),
        ("order", "query", False),
    ]
    assert "text/csv" in listed["responses"]["200"]["content"] and "409" in listed["responses"]
    shapes = listed["responses"]["400"]["content"]["application/json"]["schema"]["anyOf"]
    assert [one["$ref"].rpartition("/")[2] for one in shapes] == ["OwnError", "ErrorReply"]
    form = upload["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    binary = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    assert form["file"] == binary
    assert "201" in upload["responses"] and "200" not in upload["responses"] and "404" in upload["responses"]
    assert "401" not in upload["responses"] and "security" not in made


@pytest.fixture
def read_as_declared(monkeypatch) -> None:
    """A body is read as the type that its route has in the document."""
    declared = {entry.path: entry.operation.request for entry in ROUTES if entry.operation.request}
    read = Body.read

    async def checked(self: Body, request: Request) -> Any:
        assert self.kind is declared[request.scope["path"]]
        return await read(self, request)

    monkeypatch.setattr(Body, "read", checked)


def nearly_good(case: Case, draw: Callable) -> Case:
    """What the types allow is mostly refused for other reasons, so most bodies are a good one with a few
    odd fields: those get to the engine, and some of them are streamed."""
    good = GOOD.get(case.path)
    if good is not None and isinstance(case.body, dict) and draw(st.integers(0, 4)):
        names = draw(st.permutations(sorted(case.body)))[: draw(st.integers(0, 2))]
        stream = {"stream": True} if "max_tokens" in good and draw(st.booleans()) else {}
        case.body = {**{name: case.body[name] for name in names}, **good, **stream}
    return case


def probe(house: House, operation: APIOperation, mode: GenerationMode, count: int) -> None:
    statuses = set()

    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def run(data) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if mode.is_positive:
            case = nearly_good(case, data.draw)
        reply = case.call(headers=HEADERS)
        statuses.add(reply.status_code)
        # in queries and forms all is text, which JSON's types say little about
        more = [checks.negative_data_rejection] if case.media_type == "application/json" else []
        case.validate_response(reply, checks=HELD + more, headers=HEADERS)

    run()
    assert statuses


@pytest.mark.parametrize("operation,mode", CASES)
def test_no_answer_is_undocumented(keyed, read_as_declared, operation, mode):
    probe(keyed, operation, mode, QUICK)


@pytest.mark.parametrize(
    "label,kind,field",
    [
        ("GET /version", "VersionReply", "version"),
        ("POST /tokenize", "TokenizeReply", "count"),
        ("POST /v1/completions", "CompletionReply", "id"),
        ("POST /v1/completions", "CompletionChunk", "id"),
        ("POST /v1/chat/completions", "ChatChunk", "id"),
        ("POST /v1/completions", "ErrorBody", "message"),
    ],
)
def test_a_lie_is_found(keyed, label, kind, field):
    """Whole answers, streams and refusals are held to the document: where it is false, this fails."""
    document = copy.deepcopy(DOCUMENT)
    document["components"]["schemas"][kind]["properties"][field] = {"type": "array"}
    (operation,) = (one for one in described(document) if one.label == label)
    with pytest.raises(FailureGroup):
        probe(keyed, operation, GenerationMode.POSITIVE, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation,mode", CASES)
def test_no_answer_is_undocumented_at_length(keyed, operation, mode):
    probe(keyed, operation, mode, LONG)
