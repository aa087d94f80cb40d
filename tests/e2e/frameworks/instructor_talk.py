"""instructor: objects out of words, in two modes, streamed, in a conversation, and retried. argv: the server."""

import asyncio
import sys
from enum import Enum
from typing import Literal

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field, field_validator

MODEL = "SmolLM2-135M-Instruct"
PLACE = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "max_retries": 0}


class Mood(str, Enum):
    GOOD = "good"
    BAD = "bad"


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Review(Closed):
    mood: Mood
    stars: int = Field(ge=1, le=5)
    language: Literal["English", "French"]


class Pet(Closed):
    name: str = Field(max_length=20)
    legs: int = Field(ge=0, le=8)


talk = [{"role": "user", "content": "Review: I love this film, five stars! What does it say?"}]
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(**PLACE), mode=mode)
    review = client.chat.completions.create(
        model=MODEL, messages=talk, response_model=Review, temperature=0, max_tokens=120
    )
    assert isinstance(review, Review) and 1 <= review.stars <= 5, (mode, review)
    assert review._raw_response.usage.completion_tokens > 0

client = instructor.from_openai(OpenAI(**PLACE), mode=instructor.Mode.JSON_SCHEMA)
again = [
    *talk,
    {"role": "assistant", "content": review.model_dump_json()},
    {"role": "user", "content": "Now a pet: my dog Rex has four legs."},
]
asked = {"model": MODEL, "messages": again, "temperature": 0, "max_tokens": 80}
pet, raw = client.chat.completions.create_with_completion(response_model=Pet, **asked)
assert isinstance(pet, Pet) and raw.choices[0].finish_reason == "stop"
parts = list(client.chat.completions.create_partial(response_model=Pet, **asked))
assert len(parts) > 1 and parts[-1].model_dump() == pet.model_dump()

tries: list[str] = []


class Picky(Closed):
    name: str = Field(max_length=20)

    @field_validator("name")
    @classmethod
    def second_time(cls, name: str) -> str:
        tries.append(name)
        if len(tries) == 1:
            raise ValueError("not good enough")
        return name


picked = client.chat.completions.create(response_model=Picky, **{**asked, "max_retries": 2})
assert picked.name == tries[-1] and len(tries) == 2  # the second request told what was wrong with the first


async def later() -> Pet:
    other = instructor.from_openai(AsyncOpenAI(**PLACE), mode=instructor.Mode.TOOLS)
    return await other.chat.completions.create(response_model=Pet, **asked)


assert isinstance(asyncio.run(later()), Pet)
print("instructor:", review, pet)
