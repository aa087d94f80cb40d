"""A tokenizer for people: the methods they know from transformers, over ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from octavo.core.errors import UserError
from octavo.text.chat import ChatTemplate
from octavo.text.tokenizer import Tokenizer

Render = Callable[..., tuple[str, tuple[int, ...]]]


class HFView:
    """What LLM.get_tokenizer() returns. `render` makes a prompt of messages."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, render: Render) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._render = render
        self.name_or_path = tokenizer.source
        self.bos_token_id = tokenizer.bos_token_id
        self.eos_token_id = next(iter(tokenizer.eos_token_ids), None)
        self.pad_token_id = tokenizer.pad_token_id
        self.unk_token_id = tokenizer.unk_token_id

    # -- text and ids ---------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self._tokenizer.encode(text, add_special=add_special_tokens)

    def __call__(self, text: str | Sequence[str], add_special_tokens: bool = True) -> dict[str, Any]:
        """{"input_ids", "attention_mask"}, of one text or of several."""
        if isinstance(text, str):
            ids = self.encode(text, add_special_tokens)
            return {"input_ids": ids, "attention_mask": [1] * len(ids)}
        rows = [self.encode(one, add_special_tokens) for one in text]
        return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}

    def decode(self, token_ids: int | Sequence[int], skip_special_tokens: bool = False) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return self._tokenizer.decode(ids, skip_special=skip_special_tokens)

    def batch_decode(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False
    ) -> list[str]:
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def tokenize(self, text: str) -> list[str]:
        return [self._tokenizer.token(id) or "" for id in self.encode(text, add_special_tokens=False)]

    def convert_ids_to_tokens(self, ids: int | Sequence[int]) -> str | list[str | None] | None:
        if isinstance(ids, int):
            return self._tokenizer.token(ids)
        return [self._tokenizer.token(id) for id in ids]

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> int | list[int | None] | None:
        if isinstance(tokens, str):
            return self._tokenizer.token_id(tokens)
        return [self._tokenizer.token_id(token) for token in tokens]

    # -- conversations --------------------------------------------------------------------

    @property
    def chat_template(self) -> str | None:
        return None if self._template is None else self._template.source

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str | list[int]:
        text, ids = self._render(
            conversation, tools, add_generation_prompt, continue_final_message, variables
        )
        return list(ids) if tokenize else text

    # -- the vocabulary -------------------------------------------------------------------

    def get_vocab(self) -> dict[str, int]:
        return dict(self._tokenizer.vocab)

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.vocab_size

    def __len__(self) -> int:
        return self._tokenizer.vocab_size

    @property
    def all_special_tokens(self) -> list[str]:
        return list(self._tokenizer.specials)

    @property
    def all_special_ids(self) -> list[int]:
        return list(self._tokenizer.specials.values())

    @property
    def bos_token(self) -> str | None:
        return self._tokenizer.text_of(self.bos_token_id) or None

    @property
    def eos_token(self) -> str | None:
        return self._tokenizer.text_of(self.eos_token_id) or None

    @property
    def pad_token(self) -> str | None:
        return self._tokenizer.text_of(self.pad_token_id) or None

    def __repr__(self) -> str:
        return f"Tokenizer({self.name_or_path!r}, vocab_size={self.vocab_size})"


def view_of(tokenizer: Tokenizer | None, template: ChatTemplate | None, render: Render) -> HFView:
    if tokenizer is None:
        raise UserError("there is no tokenizer", hint="start without skip_tokenizer_init")
    return HFView(tokenizer, template, render)
