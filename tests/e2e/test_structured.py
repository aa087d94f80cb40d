"""The default model under schemas: what it says parses and validates, and its neighbours do not notice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import jsonschema
import pytest

from octavo.core.facts import ModelFiles
from octavo.core.request import GrammarSpec
from octavo.grammar.backend import Vocabulary
from octavo.grammar.guidance import GuidanceBackend
from octavo.text.tokenizer import Tokenizer
from tests.e2e.schemas import WRITTEN, made
from tests.serving import Server, serve
from tests.suite import load

AT_ONCE = 16
TOKENS, MORE = 120, 240  # of an answer, and when it is asked for again
MODEL = "SmolLM2-135M-Instruct"
NEIGHBOURS = [
    f"Once upon a time there were {n} " for n in ("two", "three", "many", "no", "some", "a", "six", "old")
]


@pytest.fixture(scope="module")
def house() -> Iterator[Server]:
    # exact arithmetic, so that neighbours can be compared byte by byte
    with serve("--dtype", "float32", "--max-model-len", "1024", "--disable-uvicorn-access-log") as running:
        yield running


class Beginnings:
    """Whether a text that was cut off is the beginning of an answer that would have fitted."""

    def __init__(self, files: ModelFiles) -> None:
        tokenizer = Tokenizer.load(files.tokenizer)
        self._encode = lambda text: tokenizer.encode(text, add_special=False, parse_special=False)
        texts = {id: tokenizer.token_bytes(id) for id in range(tokenizer.vocab_size)}
        closing = [id for id, text in texts.items() if text and set(text) <= set(b'"]}')]
        closing += tokenizer.eos_token_ids
        null = [id for id, text in texts.items() if text.strip() == b"null"]
        at = [id for id, text in texts.items() if text == b"@"]
        # what ends an answer: null what is recursive; an address, in which null is a word, goes on up to its @
        self.biases = [(bias, [*closing, *null]) for bias in (3, 8, 20)] + [(20, [*closing, *at])]
        self._backend = GuidanceBackend(
            Vocabulary(
                list(texts.values()),
                sorted(tokenizer.special_ids),
                tokenizer.eos_token_ids,
                self._encode,
            )
        )

    def check(self, schema: dict[str, Any], text: str, tight: bool) -> None:
        matcher = self._backend.compile(GrammarSpec("json", json.dumps(schema), "" if tight else None))
        whole = text.rstrip("\ufffd")  # the bytes of a character may be cut, too
        assert whole and all(map(matcher.accept, self._encode(whole))), (schema, text)


@pytest.fixture(scope="module")
def beginnings(default_model: ModelFiles) -> Beginnings:
    return Beginnings(default_model)


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


class Case(NamedTuple):
    number: int
    schema: dict[str, Any]
    temperature: float


class Tally(NamedTuple):
    """What became of the answers: at once, or cut off first and whole when asked for again."""

    whole: list[Case]
    again: list[Case]


async def answer(client: httpx.AsyncClient, case: Case, flows: bool, fits: Beginnings, tally: Tally) -> Said:
    """The first answer. One that max_tokens cut must be a beginning of one that fits. Then it is asked for
    again, with more tokens and a bias towards those that close strings, arrays, objects and the answer: where the
    schema sets no bound, a small model may go on for ever. One of those answers must come to its end."""
    way = streamed if flows else whole
    asked = body(case.schema, case.number, case.temperature)
    first = await way(client, asked)
    if check(case.schema, first):
        tally.whole.append(case)
        return first
    fits.check(case.schema, first.text, asked["structured_outputs"]["disable_any_whitespace"])
    for bias, ends in fits.biases:
        closing = dict.fromkeys(map(str, ends), bias)
        said = await way(client, {**asked, "max_tokens": MORE, "logit_bias": closing})
        if check(case.schema, said):
            break
        fits.check(case.schema, said.text, asked["structured_outputs"]["disable_any_whitespace"])
    assert said.finish == "stop", (case, said)
    tally.again.append(case)
    return first


async def run(server: Server, cases: list[tuple[Case, bool]], fits: Beginnings) -> Tally:
    """Each case whole or streamed, among eight neighbours that never stop talking; whole answers and streams
    of a case are equal."""
    gate, tally, over = asyncio.Semaphore(AT_ONCE), Tally([], []), asyncio.Event()
    said: dict[str, Said] = {}
    limits = httpx.Limits(max_connections=AT_ONCE + len(NEIGHBOURS))
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=limits) as client:
        alone = [await neighbour(client, prompt, 64) for prompt in NEIGHBOURS]

        async def one(case: Case, flows: bool) -> None:
            async with gate:
                first = await answer(client, case, flows, fits, tally)
            assert said.setdefault(repr(case), first) == first, "a stream says what the whole says"

        async def talk(prompt: str, expected: str) -> int:
            rounds = 0
            while not over.is_set():
                assert await neighbour(client, prompt, 64) == expected
                rounds += 1
            return rounds

        around = [asyncio.create_task(talk(*pair)) for pair in zip(NEIGHBOURS, alone, strict=True)]
        ended = await asyncio.gather(*(one(case, flows) for case, flows in cases), return_exceptions=True)
        over.set()
        assert min(await asyncio.gather(*around)) > 0
    failed = [(case, error) for (case, _), error in zip(cases, ended, strict=True) if error is not None]
    assert not failed, "\n".join(f"{case}: {error!r:.600}" for case, error in failed)
    assert counter(server, "structured_output_rows") > 0
    assert counter(server, "structured_output_forced_tokens") > 0
    return tally


def counter(server: Server, name: str) -> float:
    lines = server.get("/metrics").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"octavo:{name}_total"))


async def test_written_schemas(house: Server, beginnings: Beginnings) -> None:
    """Each at both temperatures, once whole and once streamed."""
    cases = [(Case(n, schema, t), (n + t) % 2 == 0) for t in (0, 1) for n, schema in enumerate(WRITTEN)]
    tally = await run(house, cases, beginnings)
    assert len(tally.again) <= len(cases) // 10, tally.again


# patterns that Python's re, by which jsonschema validates, cannot read or reads differently
UNREADABLE = ("optional/ecmascript-regex", "optional/non-bmp-regex")
PARTS = 10


@pytest.fixture(scope="module")
def five_hundred(house: Server) -> list[dict[str, Any]]:
    """Those of the suite that the server takes, the written ones and as many made ones. Of the others of the
    suite it says what is wrong with structured_outputs."""
    suite = []
    with httpx.Client(base_url=house.url, timeout=120) as client:
        for schema in [case.schema for case in load() if case.of not in UNREADABLE]:
            reply = client.post("/v1/chat/completions", json={**body(schema, 1, 0), "max_tokens": 1})
            if reply.status_code == 200:
                suite.append(schema)
            else:
                error = reply.json()["error"]
                assert (reply.status_code, error["param"]) == (400, "structured_outputs"), error
    assert len(suite) > 150
    return [*WRITTEN, *suite, *made(500 - len(WRITTEN) - len(suite))]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_five_hundred_schemas(
    house: Server, beginnings: Beginnings, five_hundred: list[dict[str, Any]], part: int
) -> None:
    """Each at both temperatures, both whole and streamed; every tenth of them in each part."""
    assert len(five_hundred) == 500
    cases = [
        (Case(n, schema, t), bool(flows))
        for n, schema in list(enumerate(five_hundred))[part::PARTS]
        for t in (0, 1)
        for flows in (0, 1)
    ]
    tally = await run(house, cases, beginnings)
    assert len(tally.whole) + len(tally.again) == len(cases) == 200
    print(f"{len(cases)} answers: {len(tally.whole)} whole at once, {len(tally.again)} when asked for again")


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
