"""The model's vocabulary for grammars. The only file of the engine that names text and the grammar
library, and only when the first grammar is compiled."""

from __future__ import annotations

from octavo.core.errors import UserError
from octavo.core.facts import ModelFiles, Ready
from octavo.grammar.backend import GrammarBackend, Vocabulary


def make_backend(files: ModelFiles, ready: Ready, name: str = "auto") -> GrammarBackend:
    """Reads the tokenizer, makes the backend. UserError when the model came without a tokenizer."""
    from octavo.grammar.budget import LimitingBackend
    from octavo.grammar.choose import backend_class
    from octavo.text.tokenizer import Tokenizer

    if not files.tokenizer:
        raise UserError("structured output needs a tokenizer", hint="start without skip_tokenizer_init")
    tokenizer = Tokenizer.load(files.tokenizer)
    size = ready.facts.vocab_size
    known = min(size, tokenizer.vocab_size)
    tokens = [tokenizer.token_bytes(id) for id in range(known)] + [b""] * (size - known)
    eos = dict.fromkeys((*tokenizer.eos_token_ids, *ready.facts.eos_token_ids))
    vocabulary = Vocabulary(
        tokens=tokens,
        special=sorted(id for id in tokenizer.special_ids if id < size),
        eos=tuple(id for id in eos if id < size),
        encode=lambda text: tokenizer.encode(text, add_special=False, parse_special=False),
    )
    return LimitingBackend(backend_class(name)(vocabulary), vocabulary)
