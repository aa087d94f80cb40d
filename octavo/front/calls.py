"""What LLM and AsyncLLM do alike with the arguments of a call. Knows no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from octavo.config.engine import EngineConfig, owners
from octavo.core.errors import Unsupported, UserError
from octavo.front.hf_view import HFView, view_of
from octavo.front.prompt import ChatOptions, Options, PromptBuilder, TextSide

T = TypeVar("T")

_SERVED = "served_model_name"  # a server's setting that vLLM's LLM takes too


def config_from(model: Any, settings: Mapping[str, Any]) -> EngineConfig:
    """Keyword arguments to settings. UserError names those that only a server has."""
    known = owners()
    for name in settings:
        if name in known and known[name][1].option.serve_only and name != _SERVED:
            raise UserError(f"{name} is a setting of the server", hint="leave it out here", field=name)
    return EngineConfig.from_flat({**settings, "model": model})


def refuse(**given: Any) -> None:
    """Arguments that exist in vLLM and are not built yet."""
    for name, value in given.items():
        if value:
            raise Unsupported(f"{name} is not supported yet", hint="leave it out", field=name)


def each(value: T | Sequence[T], count: int, name: str) -> list[T]:
    """One value for all, or one for each."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != count:
            raise UserError(
                f"{len(value)} {name} for {count} prompts", hint="give one, or one for each", field=name
            )
        return list(value)
    return [value] * count  # type: ignore[list-item]


def options_from(tokenization: Mapping[str, Any] | None, **fields: Any) -> Options:
    """tokenization_kwargs, of which two mean something here."""
    given = dict(tokenization or {})
    truncate = given.pop("truncate_prompt_tokens", None)
    add_special = given.pop("add_special_tokens", True)
    refuse(**{f"tokenization_kwargs[{name!r}]": True for name in given})
    return Options(truncate=truncate, add_special=bool(add_special), **fields)


def tokenizer_view(text: TextSide, builder: PromptBuilder | None) -> HFView:
    """`builder` is needed for conversations only."""

    def render(
        conversation: Any, tools: Any, generation: bool, final: bool, variables: Any
    ) -> tuple[str, tuple[int, ...]]:
        if builder is None:
            raise UserError("the engine has not started", hint="await start() first")
        how = ChatOptions(
            tools=tools,
            add_generation_prompt=generation,
            continue_final_message=final,
            variables=variables,
        )
        return builder.render(conversation, how)

    return view_of(text.tokenizer, text.template, render)
