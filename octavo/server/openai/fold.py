"""A whole answer is the folded stream: choices of chunks, put together by index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec import UNSET, UnsetType

from octavo.server.openai.logprobs import joined
from octavo.server.openai.tools import fold_calls
from octavo.server.openai.types import (
    ChatChoice,
    ChatChunkChoice,
    ChatLogprobs,
    CompletionChoice,
    CompletionChunkChoice,
    ReplyMessage,
)

Part = TypeVar("Part", ChatChunkChoice, CompletionChunkChoice)


def fold_chat(parts: Iterable[ChatChunkChoice]) -> list[ChatChoice]:
    return [_chat(index, group) for index, group in _by_index(parts)]


def fold_completion(parts: Iterable[CompletionChunkChoice]) -> list[CompletionChoice]:
    return [_completion(index, group) for index, group in _by_index(parts)]


def _chat(index: int, parts: list[ChatChunkChoice]) -> ChatChoice:
    roles = [part.delta.role for part in parts if part.delta.role is not UNSET]
    text = "".join(part.delta.content for part in parts if isinstance(part.delta.content, str))
    thought = "".join(part.delta.reasoning for part in parts if isinstance(part.delta.reasoning, str))
    calls = fold_calls(
        one for part in parts if isinstance(part.delta.tool_calls, list) for one in part.delta.tool_calls
    )
    scored = [part.logprobs for part in parts if part.logprobs is not None]
    content = [token for one in scored for token in one.content or ()]
    return ChatChoice(
        index=index,
        message=ReplyMessage(
            role=str(roles[0]) if roles else "assistant",
            content=text if text or not (calls or thought) else None,
            tool_calls=calls,
            reasoning=thought or None,
        ),
        logprobs=ChatLogprobs(content) if scored else None,
        finish_reason=parts[-1].finish_reason,
        stop_reason=_set(parts[-1].stop_reason),
        token_ids=_ids(parts),
    )


def _completion(index: int, parts: list[CompletionChunkChoice]) -> CompletionChoice:
    scored = [part.logprobs for part in parts if part.logprobs is not None]
    return CompletionChoice(
        index=index,
        text="".join(part.text for part in parts),
        logprobs=joined(scored) if scored else None,
        finish_reason=parts[-1].finish_reason,
        stop_reason=_set(parts[-1].stop_reason),
        token_ids=_ids(parts),
    )


def _by_index(parts: Iterable[Part]) -> list[tuple[int, list[Part]]]:
    groups: dict[int, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.index, []).append(part)
    return sorted(groups.items())


def _ids(parts: list[Part]) -> list[int] | None:
    """None when they were not asked for."""
    given = [part.token_ids for part in parts if isinstance(part.token_ids, list)]
    return [id for ids in given for id in ids] if given else None


def _set(value: int | str | UnsetType | None) -> int | str | None:
    return None if isinstance(value, UnsetType) else value
