"""What each token id stands for, in bytes. Knows nothing of streams, templates or files.

Bytes and not characters, because one character may be spread over several tokens. Vocabularies
that have no byte for byte meaning (WordPiece and the like) have no Pieces; see detokenizer.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import tokenizers

_SPM_SPACE = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """The 256 characters that byte-level BPE writes bytes with: printable ones stand for
    themselves, the others are moved up from U+0100 in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(moved)})
    return alphabet


class Pieces:
    """id -> bytes. `style` is "bytes" (byte-level BPE) or "spm" (SentencePiece with or without
    byte fallback). `strips` tells whether a whole text loses one leading space."""

    def __init__(
        self, backend: tokenizers.Tokenizer, added: Mapping[int, str], style: str, strips: bool
    ) -> None:
        self.style = style
        self.strips = strips
        self._backend = backend
        self._added = {id: content.encode() for id, content in added.items()}
        self._alphabet = _byte_alphabet() if style == "bytes" else {}
        self._known: dict[int, bytes] = {}

    def __getitem__(self, id: int) -> bytes:
        """b"" for an id nothing is known of (padding rows of the output head)."""
        piece = self._known.get(id)
        if piece is None:
            piece = self._known[id] = self._read(id)
        return piece

    def _read(self, id: int) -> bytes:
        if id in self._added:
            return self._added[id]
        token = self._backend.id_to_token(id)
        if token is None:
            return b""
        return self._from_alphabet(token) if self.style == "bytes" else _from_spm(token)

    def _from_alphabet(self, token: str) -> bytes:
        try:
            return bytes(self._alphabet[char] for char in token)
        except KeyError:
            return token.encode()


def _from_spm(token: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(token):
        return bytes((int(match[1], 16),))
    return token.replace(_SPM_SPACE, " ").encode()


def pieces_of(backend: tokenizers.Tokenizer, added: Mapping[int, str]) -> Pieces | None:
    """Reads the tokenizer's decoder: None when its tokens do not spell bytes."""
    if backend.decoder is None:
        return None
    node = json.loads(backend.decoder.__getstate__())  # its description; the library has no other
    steps = node.get("decoders", [node]) if node.get("type") == "Sequence" else [node]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return Pieces(backend, added, "bytes", strips=False)
    if not kinds or set(kinds) - {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        return None
    if not all(_is_spm_step(step) for step in steps):
        return None
    return Pieces(backend, added, "spm", strips=any(_strips(step) for step in steps))


def _is_spm_step(step: Mapping[str, object]) -> bool:
    if step.get("type") == "Replace":
        return step.get("pattern") == {"String": _SPM_SPACE} and step.get("content") == " "
    if step.get("type") == "Metaspace":
        return step.get("replacement") == _SPM_SPACE
    if step.get("type") == "Strip":
        return step.get("content") == " " and step.get("stop") == 0
    return True


def _strips(step: Mapping[str, object]) -> bool:
    if step.get("type") == "Metaspace":
        return step.get("prepend_scheme", "always") != "never"
    return step.get("type") == "Strip" and bool(step.get("start"))
