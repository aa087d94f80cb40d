"""Whatever a body holds, the answer is 200 or says what is wrong: never a 5xx, never a leak."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.config.engine import EngineConfig
from octavo.config.files import FilesConfig
from octavo.server.anthropic.types import CountRequest, MessageRequest
from octavo.server.openai.types import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from octavo.server.responses.types import ResponseRequest
from tests.server.asgi import Reply, ask
from tests.server.fake_engine import MODEL, House

HI = [{"role": "user", "content": "hello"}]
ROUTES = {
    "/v1/chat/completions": (ChatRequest, {"model": MODEL, "messages": HI, "max_tokens": 4}),
    "/v1/completions": (CompletionRequest, {"model": MODEL, "prompt": "hello", "max_tokens": 4}),
    "/v1/responses": (ResponseRequest, {"model": MODEL, "input": "hello", "max_output_tokens": 4}),
    "/v1/messages": (MessageRequest, {"model": MODEL, "messages": HI, "max_tokens": 4}),
    "/v1/messages/count_tokens": (CountRequest, {"model": MODEL, "messages": HI}),
    "/tokenize": (TokenizeRequest, {"prompt": "hello"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [1]}),
}
NUMBERS = st.one_of(
    st.integers(-3, 300), st.integers(), st.floats(), st.sampled_from([2**31, 2**63, -(2**63), 10**30, 1e308])
)
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=20), st.sampled_from(["user", MODEL, "text"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.sampled_from(["role", "content", "type", "name", "0"])),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def sent() -> Iterator[Callable[[str, bytes], Reply]]:
    """Sends a raw body to a house that is used for all of them, and checks that nothing stays open."""
    loop, house = asyncio.new_event_loop(), House()

    def send(path: str, raw: bytes) -> Reply:
        reply = loop.run_until_complete(ask(house.app, "POST", path, raw=raw))
        while house.service.traffic.open:  # a response in the background
            loop.run_until_complete(asyncio.sleep(0))
        assert house.service.gate.open == 0 and not house.engine.open
        return reply

    yield send
    house.service.close()
    loop.close()


@pytest.mark.parametrize("path", ROUTES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_odd_values_are_never_our_fault(sent, path, data):
    kind, good = ROUTES[path]
    names = st.sampled_from(kind.__struct_fields__)
    odd = data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=3))
    raw = json.dumps({**good, **odd}).encode()  # NaN and lone surrogates included
    reply = sent(path, raw)
    assert reply.status in (200, 400, 404), (raw, reply.content)
    if reply.status != 200 and path.startswith("/v1/messages"):
        assert reply.json()["type"] == "error" and ": " in reply.error["message"]
    elif reply.status != 200:
        error = reply.error
        assert error["message"] and error["code"] == reply.status and error["param"]


@pytest.mark.parametrize("path", ROUTES)
@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=200))
def test_odd_bytes_are_never_our_fault(sent, path, raw):
    assert sent(path, raw).status == 400


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_odd_uploads_are_never_our_fault(uploaded, data):
    """Forms cut, spliced and spoilt anywhere."""
    raw = b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    raw += b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--edge--\r\n'
    for _ in range(data.draw(st.integers(0, 3))):
        at, upto = (data.draw(st.integers(0, len(raw))) for _ in range(2))
        raw = raw[:at] + data.draw(st.binary(max_size=8)) + raw[max(at, upto) :]
    edge = data.draw(st.sampled_from(["edge", "", "x" * 80, "ed\rge", "\xff"]))
    reply = uploaded(raw, f"multipart/form-data; boundary={edge}")
    assert reply.status in (200, 400, 413), (raw, reply.content)
    if reply.status != 200:
        assert reply.error["message"] and reply.error["param"]


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory) -> Iterator[Callable[[bytes, str], Reply]]:
    folder = str(tmp_path_factory.mktemp("fuzz") / "files")
    loop, house = asyncio.new_event_loop(), House(config=EngineConfig(files=FilesConfig(files_dir=folder)))

    def send(raw: bytes, kind: str) -> Reply:
        reply = loop.run_until_complete(
            ask(house.app, "POST", "/v1/files", raw=raw, headers={"content-type": kind})
        )
        files = house.service.files
        assert not +files.uploads and not list((files.path / "partial").glob("*"))
        return reply

    yield send
    house.service.close()
    house.service.files.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
