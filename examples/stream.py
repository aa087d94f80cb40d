"""Stream two answers at the same time from an engine in a process of its own."""

import asyncio

from octavo import AsyncLLM, RequestOutputKind, SamplingParams


async def tell(llm: AsyncLLM, name: str, prompt: str) -> None:
    params = SamplingParams(temperature=0, max_tokens=24, output_kind=RequestOutputKind.DELTA)
    async for output in llm.generate(prompt, params, request_id=name):
        print(f"{name}: {output.outputs[0].text!r}")


async def main() -> None:
    async with AsyncLLM() as llm:
        await asyncio.gather(
            tell(llm, "france", "The capital of France is"),
            tell(llm, "count", "One, two, three,"),
        )


asyncio.run(main())
