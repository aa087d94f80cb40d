"""A tokenizer out of a Hugging Face folder. Knows nothing of GGUF.

tokenizer.json is read directly. A folder without one goes through transformers, which knows how
to convert older files; it is imported only then, because that takes seconds.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from octavo.core.errors import ArtefactError, Unsupported
from octavo.text.vocabulary import Vocabulary

_LIMIT = 256 << 20  # bytes of a tokenizer.json; the largest published ones have 35 MB
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
_SMALL = 8 << 20  # bytes of the files beside it
_REMEDY = "fetch the file again"


def read_folder(folder: Path) -> Vocabulary:
    """ArtefactError names the file that is missing or broken."""
    path = folder / "tokenizer.json"
    backend = _from_json(path) if path.is_file() else _through_transformers(folder)
    backend.no_truncation()
    backend.no_padding()
    config = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}

    _add_named(backend, config)

    def id_of(key: str) -> int | None:
        content = _content(config.get(key))
        return None if content is None else backend.token_to_id(content)

    eos = id_of("eos_token")
    return Vocabulary(
        backend=backend,
        source=str(folder),
        bos=id_of("bos_token"),
        eos=() if eos is None else (eos,),
        pad=id_of("pad_token"),
        unknown=id_of("unk_token"),
        templates=_templates(folder, config),
    )


def _from_json(path: Path) -> tokenizers.Tokenizer:
    if path.stat().st_size > _LIMIT:
        raise ArtefactError(f"{path} is larger than {_LIMIT >> 20} MiB", hint=_REMEDY, field="tokenizer")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ArtefactError(
            f"{path} is not a tokenizer: {str(error)[:200]}", hint=_REMEDY, field="tokenizer"
        ) from error


def _add_named(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Tokens that tokenizer_config.json names for a purpose are special, whatever tokenizer.json says."""
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    extra = config.get("additional_special_tokens")
    named = [config.get(key) for key in _NAMED] + (extra if isinstance(extra, list) else [])
    contents = [content for token in named if (content := _content(token))]
    backend.add_special_tokens(
        [
            tokenizers.AddedToken(content, special=True, normalized=False)
            for content in contents
            if content not in special and backend.token_to_id(content) is not None
        ]
    )


def _through_transformers(folder: Path) -> tokenizers.Tokenizer:
    if not folder.is_dir():
        raise ArtefactError(
            f"{folder} is not a folder", hint="--tokenizer names a folder or a .gguf file", field="tokenizer"
        )
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise Unsupported(
            f"{folder} has no tokenizer.json, and transformers, which could make one, is not installed",
            hint="pip install octavo[hf], or add tokenizer.json",
            field="tokenizer",
        ) from error
    try:
        found = transformers.AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
        backend = found.backend_tokenizer
    except Exception as error:
        raise ArtefactError(
            f"{folder} has no tokenizer.json and transformers cannot make one",
            hint=f"add tokenizer.json ({type(error).__name__}: {str(error)[:200]})",
            field="tokenizer",
        ) from error
    if not isinstance(backend, tokenizers.Tokenizer):
        raise Unsupported(
            f"{folder} has a tokenizer without a fast version", hint="add tokenizer.json", field="tokenizer"
        )
    return backend


def _json(path: Path) -> dict[str, Any]:
    """An object, or {} when there is no such file."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _SMALL:
            raise ArtefactError(f"{path} is larger than {_SMALL >> 20} MiB", hint=_REMEDY, field="tokenizer")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(
            f"{path} is not readable JSON: {error}", hint=_REMEDY, field="tokenizer"
        ) from error
    if not isinstance(data, dict):
        raise ArtefactError(
            f"{path} holds {type(data).__name__}, not an object", hint=_REMEDY, field="tokenizer"
        )
    return data


def _content(token: Any) -> str | None:
    """A token is written as text, or as an object with its text under "content"."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """chat_template.jinja and its named siblings win over tokenizer_config.json."""
    value = config.get("chat_template") or _json(folder / "chat_template.json").get("chat_template")
    found = _stated(value, folder)
    files = {"default": folder / "chat_template.jinja"}
    files.update({path.stem: path for path in (folder / "additional_chat_templates").glob("*.jinja")})
    for name, path in files.items():
        if path.is_file():
            found[name] = _template(path)
    return found


def _stated(value: Any, folder: Path) -> dict[str, str]:
    """One template, or a list of {"name", "template"}."""
    if not value:
        return {}
    if isinstance(value, str):
        return {"default": value}
    rows = value if isinstance(value, list) and all(isinstance(row, Mapping) for row in value) else [{}]
    found = {row.get("name"): row.get("template") for row in rows}
    if not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise ArtefactError(
            f"{folder}: chat_template is neither text nor a list of named texts",
            hint=_REMEDY,
            field="chat_template",
        )
    return found


def _template(path: Path) -> str:
    try:
        if path.stat().st_size > _SMALL:
            raise ArtefactError(
                f"{path} is larger than {_SMALL >> 20} MiB", hint=_REMEDY, field="chat_template"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}", hint=_REMEDY, field="chat_template") from error
