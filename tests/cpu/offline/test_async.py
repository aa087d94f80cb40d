"""AsyncLLM with the default model in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib

import psutil
import pytest

from octavo import AsyncLLM, RequestOutputKind, SamplingParams
from octavo.core.errors import EngineDead, UserError

FRANCE = "The capital of France is"


def params(kind=RequestOutputKind.CUMULATIVE, **more):
    return SamplingParams(**{"temperature": 0, "max_tokens": 8, "output_kind": kind, **more})


async def collect(llm, id, sampling):
    return [output async for output in llm.generate(FRANCE, sampling, id)]


async def test_everything_asynchronous(default_model):
    """One engine for all of it: starting one takes seconds."""
    async with AsyncLLM(max_model_len=512, kv_cache_memory_bytes="64MiB") as llm:
        core = psutil.Process(llm._client.pid)
        kinds = list(RequestOutputKind)
        whole, delta, final = await asyncio.gather(*(collect(llm, kind.name, params(kind)) for kind in kinds))
        text = final[0].outputs[0].text
        assert len(final) == 1 and "Paris" in text and final[0].request_id == "FINAL_ONLY"
        assert whole[-1].outputs[0].text == text and whole[0].outputs[0].text != text
        assert "".join(output.outputs[0].text for output in delta) == text
        await aborting(llm)
        await leaving(llm)
        with pytest.raises(UserError, match="empty"):
            await collect_prompt(llm, "")
        assert await llm.reset_prefix_cache()
        await llm.check_health()
        assert llm.is_running and not llm.errored
        assert llm.get_tokenizer().decode(llm.get_tokenizer().encode("hi")) == "hi"
        llm.get_tokenizer().apply_chat_template([{"role": "user", "content": "hi"}])
    assert llm.is_stopped and not core.is_running()
    with pytest.raises(EngineDead):
        await collect(llm, "late", params())


async def collect_prompt(llm, prompt):
    return [output async for output in llm.generate(prompt, params(), "p")]


async def aborting(llm):
    """An aborted request ends with that reason."""
    long, began = params(max_tokens=400, ignore_eos=True), asyncio.Event()

    async def read():
        outputs = []
        async for output in llm.generate(FRANCE, long, "long"):
            outputs.append(output)
            began.set()
        return outputs[-1]

    task = asyncio.create_task(read())
    await began.wait()
    await llm.abort(["long", "unknown"])
    last = await task
    assert last.finished and last.outputs[0].finish_reason == "abort"
    assert len(last.outputs[0].token_ids) < 400


async def leaving(llm):
    """A reader who goes away stops the request."""
    long = params(max_tokens=400, ignore_eos=True)
    async with contextlib.aclosing(llm.generate(FRANCE, long, "left")) as outputs:
        async for _ in outputs:
            break
    assert llm._client.open_requests == 0
