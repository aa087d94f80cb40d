"""Programs written for OpenAI's and vLLM's servers, unchanged: the official client, LangChain, requests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.serving import Server, serve

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))
KEY = "a-key"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"  # what those programs ask for
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def keyed() -> Iterator[Server]:
    with serve(
        "--served-model-name", MODEL, "your-model", "--api-key", KEY, "EMPTY", "--max-model-len", "1024"
    ) as one:
        yield one


@pytest.fixture(scope="module")
def client(keyed: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{keyed.url}/v1", api_key=KEY, max_retries=0, timeout=300) as one:
        yield one


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_run_unchanged(keyed: Server, script: Path) -> None:
    """But for the address; and requests has no place for a key, so it is sent by a header."""
    text = script.read_text().replace("http://localhost:8000", keyed.url)
    text = text.replace(
        "        json=", f'        headers={{"Authorization": "Bearer {KEY}"}},\n        json='
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_chat(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=0)
    assert "Paris" in whole.choices[0].message.content and whole.model == MODEL
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = client.chat.completions.create(
        model=MODEL, messages=FRANCE, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions(client: openai.OpenAI) -> None:
    many = client.completions.create(
        model="your-model",
        prompt=["The capital of France is", "1, 2, 3,"],
        max_tokens=4,
        temperature=0,
        logprobs=1,
    )
    assert [choice.index for choice in many.choices] == [0, 1] and "Paris" in many.choices[0].text
    assert "".join(many.choices[1].logprobs.tokens) == many.choices[1].text
    ids = client.completions.create(
        model=MODEL, prompt=[504, 3575, 282, 4649, 314], max_tokens=2, temperature=0
    )
    assert ids.usage.prompt_tokens == 5
    stopped = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4,", max_tokens=20, temperature=0, stop=[" 7"]
    )
    assert stopped.choices[0].finish_reason == "stop" and " 7" not in stopped.choices[0].text


def test_errors_have_the_clients_classes(client: openai.OpenAI, keyed: Server) -> None:
    with pytest.raises(openai.NotFoundError, match=r"your-model"):
        client.chat.completions.create(model="gpt-4", messages=FRANCE)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=3)
    assert caught.value.param == "temperature" and caught.value.type == "BadRequestError"
    stranger = openai.OpenAI(base_url=f"{keyed.url}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


async def test_the_asynchronous_client(keyed: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{keyed.url}/v1", api_key=KEY, timeout=300) as client:
        assert [model.id async for model in client.models.list()] == [MODEL, "your-model"]
        stream = await client.completions.create(
            model=MODEL,
            prompt="Once upon a time",
            max_tokens=400,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for _ in stream:
            break
        await stream.close()  # leaving early is fine


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_langchain(keyed: Server) -> None:
    from langchain_openai import ChatOpenAI, OpenAI

    chat = ChatOpenAI(model=MODEL, base_url=f"{keyed.url}/v1", api_key=KEY, temperature=0, timeout=300)
    answer = chat.invoke("What is the capital of France?")
    assert "Paris" in answer.content and answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in chat.stream("What is the capital of France?")) == answer.content
    text = OpenAI(model=MODEL, base_url=f"{keyed.url}/v1", api_key=KEY, temperature=0, max_tokens=4)
    assert "Paris" in text.invoke("The capital of France is")
