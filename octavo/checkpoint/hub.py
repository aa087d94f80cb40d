"""Files of a Hugging Face repository, through the hub's own cache. Never fetches or reads a pickle.

Every file of a model comes from one commit, which is resolved once. Knows nothing of tensors.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from octavo.config import env
from octavo.config.model import ModelConfig
from octavo.core.errors import ArtefactError, EngineError, NotFound, UserError

log = logging.getLogger(__name__)
T = TypeVar("T")

_TEXT = tuple(
    "config.json generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json "
    "added_tokens.json tokenizer.model vocab.json vocab.txt merges.txt tekken.json chat_template* "
    "preprocessor_config.json".split()
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")


class Snapshot(NamedTuple):
    folder: Path
    commit: str | None
    gguf: str | None = None  # name inside the folder


class Hub:
    """One model's dealings with the hub. `endpoint` is for tests; None is the hub's own choice."""

    def __init__(self, config: ModelConfig, endpoint: str | None = None) -> None:
        self._config = config
        self._endpoint = endpoint
        self._cache = str(Path(config.download_dir).expanduser()) if config.download_dir else None
        self._token = config.hf_token or env.read("HF_TOKEN")

    def model(self, repo: str, file: str | None = None) -> Snapshot:
        """Fetches config, tokenizer and weights; `file` picks a .gguf of the repository (name or part of it).

        NotFound, ArtefactError and UserError carry what would help.
        """
        return self._guard(repo, lambda: self._model(repo, file))

    def tokenizer(self, repo: str) -> Path:
        """Fetches only the tokenizer's files."""
        return self._guard(repo, lambda: self._snapshot(repo, self._commit(repo)[0], list(_TEXT)))

    def _model(self, repo: str, file: str | None) -> Snapshot:
        commit, names = self._commit(repo)
        if names is None:
            return self._from_cache(repo, file)
        gguf, wanted = choose(repo, names, self._config.load_format, file)
        return Snapshot(self._snapshot(repo, commit, wanted), commit, gguf)

    def _commit(self, repo: str) -> tuple[str | None, list[str] | None]:
        """Commit and top-level files; (revision, None) where only the cache can be asked."""
        from huggingface_hub import HfApi

        if env.flag("HF_HUB_OFFLINE"):
            return self._config.revision, None
        try:
            info = HfApi(endpoint=self._endpoint, token=self._token).model_info(
                repo, revision=self._config.revision, timeout=15
            )
        except _connection_errors() as error:
            log.warning("the hub cannot be reached (%s); using the cache", type(error).__name__)
            return self._config.revision, None
        return info.sha, [item.rfilename for item in info.siblings or [] if "/" not in item.rfilename]

    def _snapshot(self, repo: str, commit: str | None, patterns: list[str], local: bool = False) -> Path:
        from huggingface_hub import snapshot_download

        found: Any = snapshot_download(
            repo,
            revision=commit,
            allow_patterns=patterns,
            cache_dir=self._cache,
            token=self._token,
            endpoint=self._endpoint,
            local_files_only=local or env.flag("HF_HUB_OFFLINE"),
        )
        return Path(found)

    def _from_cache(self, repo: str, file: str | None) -> Snapshot:
        folder = self._snapshot(repo, self._config.revision, [], local=True)
        names = sorted(path.name for path in folder.iterdir())
        gguf, _ = choose(repo, names, self._config.load_format, file)
        return Snapshot(folder, folder.name, gguf)

    def _guard(self, repo: str, work: Callable[[], T]) -> T:
        """Runs `work`; what the hub raises becomes one of our errors, with a remedy."""
        from huggingface_hub import errors as hub

        try:
            return work()
        except EngineError:
            raise
        except hub.GatedRepoError as error:
            raise UserError(
                f"{repo} is gated: access was refused", hint=self._gate(repo), field="model"
            ) from error
        except hub.RevisionNotFoundError as error:
            revision = self._config.revision
            raise NotFound(
                f"{repo} has no revision {revision!r}",
                hint="name a branch, tag or full commit",
                field="revision",
            ) from error
        except hub.RepositoryNotFoundError as error:
            raise NotFound(
                f"{repo} is not on the hub, or it is private", hint=self._other(repo), field="model"
            ) from error
        except hub.HFValidationError as error:
            hint = "a model is a folder, a .gguf file, or an id like HuggingFaceTB/SmolLM2-135M-Instruct"
            raise NotFound(
                f"{repo!r} is neither a path that exists nor a valid id", hint=hint, field="model"
            ) from error
        except (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) as error:
            cause = f"; {_first_line(error.__cause__)}" if isinstance(error.__cause__, Exception) else ""
            raise NotFound(
                f"{repo} is not in the cache ({self._where()}){cause}", hint=_reach(), field="model"
            ) from error
        except hub.HfHubHTTPError as error:
            raise UserError(
                f"the hub refused {repo}: {_first_line(error)}", hint=self._gate(repo), field="model"
            ) from error
        except _connection_errors() as error:
            raise UserError(
                f"the hub cannot be reached: {_first_line(error)}", hint=_reach(), field="model"
            ) from error

    def _where(self) -> str:
        return self._cache or str(env.hub_cache())

    def _gate(self, repo: str) -> str:
        ask = f"ask for access at https://huggingface.co/{repo}"
        return (
            f"{ask}, then set HF_TOKEN" if self._token is None else f"{ask} with the account of your HF_TOKEN"
        )

    def _other(self, repo: str) -> str:
        hint = "check the spelling; a private repository needs HF_TOKEN; a local folder must exist"
        try:
            from huggingface_hub import HfApi

            api = HfApi(endpoint=self._endpoint, token=self._token)
            found = [model.id for model in api.list_models(search=repo.rpartition("/")[2], limit=3)]
        except Exception as error:  # only a nicer hint; whatever goes wrong here must not hide the real error
            log.debug("no suggestions: %s", error)
            return hint
        return f"did you mean {', '.join(found)}?" if found else hint


def choose(repo: str, names: list[str], load_format: str, file: str | None) -> tuple[str | None, list[str]]:
    """Which files of a repository make a model: (the .gguf or None, all names to fetch).

    ArtefactError when it has pickles only, or several .gguf files and none was named.
    """
    texts = [name for name in names if any(fnmatch(name, pattern) for pattern in _TEXT)]
    ggufs = [name for name in names if name.endswith(".gguf")]
    tensors = [
        name for name in names if name.endswith(".safetensors") and not name.startswith("consolidated")
    ]
    if load_format == "dummy" and file is None and "config.json" in names:
        return None, texts
    if file is not None or load_format == "gguf" or (ggufs and not tensors):
        return _one_gguf(repo, ggufs, file)
    if not tensors:
        raise ArtefactError(f"{repo} has no safetensors", hint=_no_weights(names), field="model")
    indexed = [name for name in names if name == "model.safetensors.index.json"]
    return None, [*texts, *indexed, *tensors]


def _one_gguf(repo: str, ggufs: list[str], file: str | None) -> tuple[str, list[str]]:
    wanted = (file or "").lower()
    exact = [name for name in ggufs if name.lower() == wanted]
    matching = exact or [name for name in ggufs if wanted in name.lower()]
    if len(matching) == 1:
        return matching[0], matching
    listed = ", ".join(ggufs[:12]) or "no .gguf at all"
    if not matching:
        raise NotFound(f"{repo} has no .gguf called {file!r}", hint=f"it has {listed}", field="model")
    example = next((name for name in matching if "Q4_K_M" in name.upper()), matching[0])
    raise ArtefactError(
        f"{repo} has several .gguf files: {', '.join(matching[:12])}",
        hint=f"name one, as {repo}:{example}",
        field="model",
    )


def _no_weights(names: list[str]) -> str:
    if any(name.endswith(_PICKLES) for name in names):
        return (
            "its weights are pickles, which can run code when read: look for a safetensors revision "
            "(--revision refs/pr/N) or convert them to safetensors"
        )
    return "choose a repository that holds a model's weights"


def _connection_errors() -> tuple[type[Exception], ...]:
    """What a broken network raises; which HTTP library huggingface_hub uses depends on its version."""
    libraries = [name for name in ("httpx", "httpx2") if importlib.util.find_spec(name)]
    return (
        ConnectionError,
        TimeoutError,
        *(importlib.import_module(name).TransportError for name in libraries),
    )


def _reach() -> str:
    if env.flag("HF_HUB_OFFLINE"):
        return "HF_HUB_OFFLINE is set; unset it for one start, or run `octavo pull` where there is a network"
    return "check the network and the proxy (HTTPS_PROXY), or give a local folder or .gguf file"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
