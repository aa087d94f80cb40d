"""What every route works with: the front, the settings, the counters. Knows no wire type."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import octavo
from octavo.config.engine import EngineConfig
from octavo.config.env import octavo_home
from octavo.core.errors import NotFound, UserError
from octavo.core.events import CoreStats
from octavo.core.facts import ModelFiles, Ready
from octavo.front.prompt import PromptBuilder
from octavo.front.service import Front
from octavo.front.speech import Formats
from octavo.observe.meter import Meter
from octavo.observe.prometheus import Exposition
from octavo.server.doors import audit_log
from octavo.server.files.store import FileStore
from octavo.server.gate import Gate, OpenGate
from octavo.server.keys import KeyRing
from octavo.server.middleware.drain import Traffic
from octavo.server.responses.store import Store
from octavo.server.visit import visit

if TYPE_CHECKING:
    from octavo.server.batches.batches import Batches

T = TypeVar("T")

_INLINE = 4096  # characters; longer inputs are tokenised in a thread, so that nobody waits for them
_THREADS = 2


class Engine(Protocol):
    """What the server asks of a client beyond what the front asks."""

    stats: CoreStats
    restarts: int

    def health(self) -> str | None: ...
    async def call(self, name: str, **args: Any) -> Any: ...
    async def close(self) -> None: ...


class Service:
    """One engine as the routes see it."""

    def __init__(
        self,
        config: EngineConfig,
        files: ModelFiles,
        ready: Ready,
        client: Engine,
        front: Front,
        builder: PromptBuilder,
    ) -> None:
        self.config = config
        self.ready = ready
        self.client = client
        self.front = front
        self.builder = builder
        specials = builder.tokenizer.specials if builder.tokenizer is not None else ()
        self.formats = Formats.of(config.serve, builder.template, specials)
        self.names = config.model.served_model_name or (files.name,)
        self.root = files.name
        self.responses = Store(
            config.serve.response_store_bytes, config.serve.response_store_seconds, time.monotonic
        )
        self.created = int(time.time())
        self.gate = Gate(config.schedule.max_queue)
        self.traffic = Traffic()
        self.files = FileStore(_folder(config), config.files)
        self.batches: Batches  # set by whoever knows the routes, which know services
        self.ring = KeyRing.of(config.serve)
        self.audit = audit_log(config.serve)
        self.meter = Meter(ready.max_model_len)
        self.fingerprint = _fingerprint(files, ready)
        self.exposition = Exposition(
            self.meter,
            lambda: client.stats,
            model_name=self.names[0],
            cache_info=_cache_info(config, ready),
            restarts=lambda: client.restarts,
        )
        self._pool = ThreadPoolExecutor(_THREADS, "octavo-text")

    def resolve(self, name: str | None) -> str:
        """The name replies carry. UserError or NotFound, listing the valid names."""
        names = self.visible()
        known = ", ".join(names) or "none for this key"
        if name is None:
            raise UserError("model is missing", hint=f"valid names: {known}", field="model")
        if name not in names:
            raise NotFound(
                f"the model {name[:200]!r} does not exist", hint=f"valid names: {known}", field="model"
            )
        visit().model = name
        return self.names[0]

    def visible(self) -> list[str]:
        """The names that whoever asks may use."""
        account = visit().account
        return [name for name in self.names if account is None or account.may_use(name)]

    def now(self) -> int:
        """Seconds of the wall clock, as replies carry them."""
        return int(time.time())

    def health(self) -> str | None:
        """Why the server cannot serve now; None when it can."""
        return self.client.health()

    async def off_loop(self, size: int, work: Callable[[], T]) -> T:
        """Runs `work` on text of `size` characters; in a thread when that is long."""
        if size <= _INLINE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def aside(self) -> Service:
        """This service with a queue of its own: what goes through it takes no place from live requests."""
        other = copy.copy(self)
        other.gate = OpenGate(self.gate.most)
        return other

    def close(self) -> None:
        self.responses.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self.audit is not None:
            self.audit.close()


def _folder(config: EngineConfig) -> Path:
    """A folder for each port, so that two servers on one machine do not meet."""
    named = config.files.files_dir
    return Path(named).expanduser() if named else octavo_home() / "files" / str(config.serve.port)


def _fingerprint(files: ModelFiles, ready: Ready) -> str:
    """Changes whenever the same request with the same seed may give another answer."""
    facts = "\0".join((files.identity, files.name, ready.dtype, ready.attention, octavo.__version__))
    return f"octavo-{octavo.__version__}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def _cache_info(config: EngineConfig, ready: Ready) -> dict[str, str]:
    return {
        "block_size": str(ready.cache.groups[0].tokens_per_page if ready.cache.groups else 0),
        "num_gpu_blocks": str(ready.cache.pages),
        "cache_dtype": config.cache.kv_cache_dtype,
        "enable_prefix_caching": str(config.cache.enable_prefix_caching),
        "gpu_memory_utilization": str(config.cache.gpu_memory_utilization),
    }
