"""The default model under schemas: what it says parses and validates, and its neighbours do not notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import jsonschema
import pytest

from tests.e2e.schemas import WRITTEN, made
from tests.serving import Server, serve

AT_ONCE = 16
TOKENS = 120
MODEL = "SmolLM2-135M-Instruct"
NEIGHBOURS = [
    f"Once upon a time there were {n} " for n in ("two", "three", "many", "no", "some", "a", "six", "old")
]


@pytest.fixture(scope="module")
def house() -> Iterator[Server]:
    # exact arithmetic, so that neighbours can be compared byte by byte
    with serve("--dtype", "float32", "--max-model-len", "512", "--disable-uvicorn-access-log") as running:
        yield running


class Said(NamedTuple):
    text: str
    finish: str | None


def body(schema: dict[str, Any], seed: int, temperature: float) -> dict[str, Any]:
    ask = f"Give an example of this as JSON: {json.dumps(schema, ensure_ascii=False)[:300]}"
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": ask}],
        "structured_outputs": {"json": schema, "disable_any_whitespace": seed % 2 == 0},
        "temperature": temperature,
        "seed": seed,
        "max_tokens": TOKENS,
    }


async def whole(client: httpx.AsyncClient, asked: dict[str, Any]) -> Said:
    reply = await client.post("/v1/chat/completions", json=asked)
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    return Said(choice["message"]["content"], choice["finish_reason"])


async def streamed(client: httpx.AsyncClient, asked: dict[str, Any]) -> Said:
    text, finish = "", None
    async with client.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content", "")
                    finish = choice["finish_reason"] or finish
    return Said(text, finish)


async def neighbour(client: httpx.AsyncClient, prompt: str, tokens: int) -> str:
    asked = {"model": MODEL, "prompt": prompt, "temperature": 0.8, "seed": 3, "ignore_eos": True}
    asked["max_tokens"] = tokens
    reply = await client.post("/v1/completions", json=asked)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["choices"][0]["text"])


def check(schema: dict[str, Any], said: Said) -> bool:
    """Whether it came to its end; then it must be valid."""
    if said.finish == "length":
        return False
    assert said.finish == "stop"
    found = json.loads(said.text)
    jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema).validate(found)
    return True


Case = tuple[int, dict[str, Any], float]


async def run(server: Server, cases: list[tuple[Case, bool]]) -> list[tuple[dict[str, Any], str]]:
    """Each case whole or streamed, among neighbours; those that did not come to an end."""
    gate, cut = asyncio.Semaphore(AT_ONCE), []
    limits = httpx.Limits(max_connections=AT_ONCE + len(NEIGHBOURS))
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        alone = [await neighbour(client, prompt, 64) for prompt in NEIGHBOURS]

        async def one(case: Case, way: Any) -> None:
            async with gate:
                said = await way(client, body(case[1], case[0], case[2]))
            if not check(case[1], said):
                cut.append((case[1], said.text))

        around = [asyncio.create_task(neighbour(client, prompt, 64)) for prompt in NEIGHBOURS]
        await asyncio.gather(*(one(case, streamed if flows else whole) for case, flows in cases))
        assert await asyncio.gather(*around) == alone
    assert "octavo:structured_output_rows_total" in server.get("/metrics")
    return cut


async def test_written_schemas(house: Server) -> None:
    """Each at both temperatures, once whole and once streamed."""
    cases = [((n, schema, t), (n + t) % 2 == 0) for t in (0, 1) for n, schema in enumerate(WRITTEN)]
    cut = await run(house, cases)
    assert len(cut) <= len(cases) // 10, cut


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_five_hundred_schemas(house: Server) -> None:
    """Each at both temperatures, both whole and streamed."""
    schemas = [*WRITTEN, *made(500 - len(WRITTEN))]
    every = [((n, schema, t), flows) for n, schema in enumerate(schemas) for t in (0, 1) for flows in (0, 1)]
    cut = await run(house, every)
    assert len(cut) <= len(every) // 10, cut


async def test_a_stream_says_what_the_whole_says(house: Server) -> None:
    async with httpx.AsyncClient(base_url=house.url, timeout=120) as client:
        for n, schema in enumerate(WRITTEN[:3]):
            asked = body(schema, n, 1.0)
            assert await streamed(client, asked) == await whole(client, asked)


async def test_other_forms(house: Server) -> None:
    import re

    forms: list[tuple[dict[str, Any], str]] = [
        ({"regex": "[0-9]{3}-[a-f]{4}"}, "[0-9]{3}-[a-f]{4}"),
        ({"choice": ["positive", "negative", "neutral"]}, "positive|negative|neutral"),
        (
            {"grammar": 'root ::= "SELECT " col ("," col)? ";"\ncol ::= "a" | "bb"'},
            "SELECT (a|bb)(,(a|bb))?;",
        ),
        ({"grammar": 'start: "x" num\nnum: /[0-9]{1,3}/'}, "x[0-9]{1,3}"),
    ]
    async with httpx.AsyncClient(base_url=house.url, timeout=120) as client:
        for form, pattern in forms:
            for temperature in (0, 1):
                messages = [{"role": "user", "content": "Go"}]
                asked = {"model": MODEL, "messages": messages, "max_tokens": 40, "seed": 5}
                said = await whole(client, {**asked, "temperature": temperature, "structured_outputs": form})
                assert said.finish == "stop" and re.fullmatch(pattern, said.text), (form, said)


async def test_several_answers_penalties_and_stop_strings(house: Server) -> None:
    schema = WRITTEN[0]
    async with httpx.AsyncClient(base_url=house.url, timeout=120) as client:
        asked = body(schema, 1, 1.0) | {"n": 4, "presence_penalty": 0.5, "min_tokens": 30, "top_k": 20}
        reply = (await client.post("/v1/chat/completions", json=asked)).json()
        texts = [choice["message"]["content"] for choice in reply["choices"]]
        for choice in reply["choices"]:
            assert check(schema, Said(choice["message"]["content"], choice["finish_reason"]))
        assert len(set(texts)) > 1
        cut = await whole(client, {**asked, "n": 1, "stop": ['"age'], "min_tokens": 0})
        assert cut.finish == "stop" and '"name"' in cut.text and "age" not in cut.text


def test_the_openai_client_parses_into_a_class(house: Server) -> None:
    import openai
    import pydantic

    class Person(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        name: str = pydantic.Field(max_length=20)
        age: int = pydantic.Field(ge=0, le=150)

    with openai.OpenAI(base_url=house.url + "/v1", api_key="none") as client:
        reply = client.chat.completions.parse(
            model=MODEL,
            messages=[{"role": "user", "content": "Describe a person as JSON."}],
            response_format=Person,
            temperature=0,
            max_tokens=80,
        )
    person = reply.choices[0].message.parsed
    assert isinstance(person, Person) and person.age <= 150
