"""From what the user calls a model to the files of it. Knows nothing of tensors; never imports torch.

A model is: nothing (the default model), a folder, a .gguf file, or a Hugging Face id.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from octavo.checkpoint import default_model
from octavo.checkpoint.download import Progress
from octavo.config.model import ModelConfig
from octavo.core.errors import ArtefactError, NotFound, UserError
from octavo.core.facts import ModelFiles

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_INDEX = "model.safetensors.index.json"
_INDEX_LIMIT = 64 << 20  # bytes; the largest published ones are a few MB


def locate(config: ModelConfig, *, progress: Progress | None = None) -> ModelFiles:
    """The files of `config.model`, fetched first where they have to be.

    `progress(stage, share)` hears of downloads; without it a bar is shown on the terminal.
    UserError (NotFound, ArtefactError) says what is missing and what would help.
    """
    name = config.model
    if config.revision is not None and (name is None or _exists(Path(name).expanduser())):
        log.warning("revision has no effect: %s has none", name or "the default model")
    if name is None or (name == default_model.NAME and not _exists(Path(name))):
        files = _default(config, progress)
    elif _exists(path := Path(name).expanduser()):
        files = _single(config, path) if path.is_file() else _folder(config, path, name)
    elif _looks_like_path(name):
        raise NotFound(f"{name} does not exist", hint=_near(path), field="model")
    else:
        files = _from_hub(config, name)
    return (
        files if config.tokenizer is None or config.skip_tokenizer_init else _other_tokenizer(config, files)
    )


def _default(config: ModelConfig, progress: Progress | None) -> ModelFiles:
    if config.load_format == "safetensors":
        raise UserError(
            "the default model is a GGUF file", hint="use --load-format auto", field="load_format"
        )
    if progress is None:
        from octavo.checkpoint.bar import Bar

        with Bar(f"fetching {default_model.NAME}") as bar:
            path = default_model.ensure(bar)
    else:
        path = default_model.ensure(progress)
    return ModelFiles(
        name=default_model.NAME,
        root=str(path.parent),
        weights=(str(path),),
        format="gguf" if config.load_format != "dummy" else "dummy",
        config=None,
        tokenizer="" if config.skip_tokenizer_init else str(path),
        commit=default_model.VERSION,
        identity=default_model.FILE_SHA256,
    )


def _single(config: ModelConfig, path: Path) -> ModelFiles:
    if path.suffix.lower() != ".gguf":
        raise ArtefactError(
            f"{path} is not a model: a single file must be a .gguf",
            hint="give the folder with config.json",
            field="model",
        )
    if config.load_format == "safetensors":
        raise UserError(f"{path} is a GGUF file", hint="use --load-format auto or gguf", field="load_format")
    return gguf_files(config, path, config.model or path.name)


def gguf_files(config: ModelConfig, path: Path, name: str, commit: str | None = None) -> ModelFiles:
    """ModelFiles of one .gguf. Its header serves as config.json and tokenizer."""
    try:
        with path.open("rb") as file:
            begin = file.read(4)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}", hint="fetch it again") from error
    if begin != b"GGUF":
        raise ArtefactError(f"{path} does not begin like a GGUF file", hint="fetch it again", field="model")
    if "-of-" in path.stem:
        raise ArtefactError(
            f"{path} is one part of several", hint="join the parts with llama-gguf-split --merge"
        )
    return ModelFiles(
        name=name,
        root=str(path.parent.absolute()),
        weights=(str(path.absolute()),),
        format="dummy" if config.load_format == "dummy" else "gguf",
        config=None,
        tokenizer="" if config.skip_tokenizer_init else str(path.absolute()),
        commit=commit,
        identity=_identity([path]),
    )


def _folder(config: ModelConfig, folder: Path, name: str) -> ModelFiles:
    if config.load_format == "dummy" and (folder / "config.json").is_file():
        return folder_files(config, folder, name)
    ggufs = sorted(folder.glob("*.gguf"))
    safetensors = any(folder.glob("*.safetensors")) or (folder / _INDEX).exists()
    if ggufs and (config.load_format == "gguf" or not safetensors):
        if len(ggufs) > 1:
            listed = ", ".join(p.name for p in ggufs[:8])
            raise ArtefactError(
                f"{folder} has several .gguf files: {listed}", hint="name one of them", field="model"
            )
        return gguf_files(config, ggufs[0], name)
    if config.load_format == "gguf":
        raise ArtefactError(f"{folder} has no .gguf file", hint="use --load-format auto", field="load_format")
    if not safetensors:
        raise ArtefactError(
            f"{folder} has no weights: {_instead(folder)}", hint=_remedy(folder), field="model"
        )
    return folder_files(config, folder, name)


def folder_files(config: ModelConfig, folder: Path, name: str, commit: str | None = None) -> ModelFiles:
    """ModelFiles of a folder with config.json and safetensors. ArtefactError names what is missing."""
    if not (folder / "config.json").is_file():
        raise ArtefactError(f"{folder} has no config.json", hint=_without_config(folder), field="model")
    dummy = config.load_format == "dummy"
    weights = [] if dummy else _shards(folder)
    return ModelFiles(
        name=name,
        root=str(folder.absolute()),
        weights=tuple(str(path.absolute()) for path in weights),
        format="dummy" if dummy else "safetensors",
        config=str((folder / "config.json").absolute()),
        tokenizer=_tokenizer(config, folder, optional=dummy),
        commit=commit,
        identity=_identity(weights or [folder / "config.json"]),
    )


def _without_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter: name the model it belongs to"
    return "a model folder needs config.json"


def _shards(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        return _there([folder / name for name in shard_names(index)])
    if (single := folder / "model.safetensors").is_file():
        return [single]
    # consolidated*: the same weights a second time, in the layout of the original authors
    found = (path for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated"))
    return _there(sorted(found))


def _there(files: list[Path]) -> list[Path]:
    """All of them, or ArtefactError: what an index names may be missing, and a link may lead nowhere."""
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ArtefactError(
            f"{files[0].parent} lacks {len(missing)} of {len(files)} weight files: {', '.join(missing[:5])}",
            hint="fetch the folder again",
            field="model",
        )
    return files


def shard_names(index: Path) -> list[str]:
    """File names out of an index. It is untrusted: names that leave the folder are refused."""
    if index.stat().st_size > _INDEX_LIMIT:
        raise ArtefactError(f"{index} is larger than {_INDEX_LIMIT >> 20} MiB", hint="fetch it again")
    try:
        names = sorted({str(name) for name in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtefactError(f"{index} is not an index of weights: {error}", hint="fetch it again") from error
    odd = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if odd or not names:
        raise ArtefactError(
            f"{index} names odd files: {odd[:3]}", hint="it must name *.safetensors beside it"
        )
    return names


def _tokenizer(config: ModelConfig, folder: Path, optional: bool) -> str:
    if config.skip_tokenizer_init:
        return ""
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        return str(folder.absolute())
    if optional or config.tokenizer is not None:
        return ""
    raise ArtefactError(
        f"{folder} has no tokenizer.json",
        hint="add it, name another with --tokenizer, or use --skip-tokenizer-init",
        field="tokenizer",
    )


def _other_tokenizer(config: ModelConfig, files: ModelFiles) -> ModelFiles:
    import msgspec

    name = config.tokenizer or ""
    path = Path(name).expanduser()
    if path.is_dir():
        found = _tokenizer(config, path, optional=False) or str(path.absolute())
        if not any((path / file).is_file() for file in TOKENIZER_FILES):
            raise ArtefactError(
                f"{path} has no tokenizer.json",
                hint="--tokenizer names a folder that has it",
                field="tokenizer",
            )
    elif path.suffix.lower() == ".gguf" and path.is_file():
        found = str(path.absolute())
    elif _exists(path):
        raise ArtefactError(
            f"{name} is no tokenizer", hint="--tokenizer names a folder or a .gguf file", field="tokenizer"
        )
    elif _looks_like_path(name):
        raise NotFound(f"{name} does not exist", hint=_near(path), field="tokenizer")
    else:
        from octavo.checkpoint.hub import Hub

        found = str(Hub(config).tokenizer(name))
    return msgspec.structs.replace(files, tokenizer=found)


def _from_hub(config: ModelConfig, name: str) -> ModelFiles:
    from octavo.checkpoint.hub import Hub

    repo, _, file = name.partition(":")
    snapshot = Hub(config).model(repo, file or None)
    if snapshot.gguf:
        return gguf_files(config, snapshot.folder / snapshot.gguf, name, snapshot.commit)
    return folder_files(config, snapshot.folder, name, snapshot.commit)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for a file
        return False


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith(("/", ".", "~"))
        or name.count("/") > 1
        or (name.endswith(".gguf") and ":" not in name)
    )


def _near(path: Path) -> str:
    """What the user may have meant, from what lies beside it."""
    import difflib

    folder = path.parent
    if not folder.is_dir():
        return f"{folder} does not exist either"
    close = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=3)
    return (
        f"did you mean {', '.join(str(folder / name) for name in close)}?"
        if close
        else f"nothing like it in {folder}"
    )


def _instead(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return (
        ("it holds " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) if names else "it is empty"
    )


def _remedy(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return "these weights are pickles, which can run code: convert them to safetensors"
    return "a model is a folder with config.json and *.safetensors, or a .gguf file"


def _identity(files: list[Path]) -> str:
    """Changes when a file is replaced; cheap, because gigabytes are not hashed at each start."""
    seen = hashlib.sha256()
    for path in files:
        stat = path.stat()
        seen.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return seen.hexdigest()
