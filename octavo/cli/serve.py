"""`octavo serve`: settings, files and what is shown at start. The serving itself is server.run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from octavo.checkpoint.find import locate
from octavo.cli.show import Startup, examples, facts, summary
from octavo.config import env
from octavo.config.engine import EngineConfig, owners
from octavo.config.flags import Parser, add_flags, given
from octavo.config.observe import ObserveConfig
from octavo.core.facts import ModelFiles

if TYPE_CHECKING:
    from octavo.server.run import Serving

log = logging.getLogger(__name__)


def parser() -> Parser:
    made = Parser(
        prog="octavo serve",
        usage="octavo serve [MODEL] [options]",
        description="Serve a model over HTTP, in OpenAI's protocol.",
    )
    made.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="Hugging Face id, local folder or .gguf file (none: the default model, SmolLM2-135M-Instruct)",
    )
    add_flags(made, serve=True)
    return made


def run(words: list[str]) -> int:
    from octavo.observe.log import configure

    values, _ = given(parser(), words)
    configure(observed(values))  # before the rest is read, which may have something to tell
    config = with_environment(EngineConfig.from_flat(values))
    warn_if_open(config)
    from octavo.server.port import listen
    from octavo.server.run import run as serve

    # a taken port should be told before gigabytes are fetched; the server takes it again
    listen(config.serve.host, config.serve.port).close()
    files = locate(config.model)

    def announce(serving: Serving) -> None:
        show(config, files, serving)

    startup = Startup(tell=log.info if config.observe.log_format == "json" else None)
    serve(config, files, progress=startup, announce=announce)
    return 0


def observed(values: Mapping[str, Any]) -> ObserveConfig:
    """How this command line wants its log."""
    mine = {
        name: values[name] for name, (part, _) in owners().items() if part == "observe" and name in values
    }
    return EngineConfig.from_flat(mine).observe


def with_environment(config: EngineConfig) -> EngineConfig:
    """The API key of the environment, where the command line brought none."""
    key = env.read("OCTAVO_API_KEY")
    if key is None or config.serve.api_key:
        return config
    return dataclasses.replace(config, serve=dataclasses.replace(config.serve, api_key=(key,)))


def warn_if_open(config: EngineConfig) -> None:
    """Says loudly that anyone who reaches this machine can use the model."""
    if not config.serve.api_key and not _loopback(config.serve.host):
        log.warning(
            "!! --host %s without --api-key: everyone who can reach this machine can use the model. "
            "Set --api-key or OCTAVO_API_KEY, or leave --host out.",
            config.serve.host,
        )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def show(config: EngineConfig, files: ModelFiles, serving: Serving) -> None:
    """Prints what was started and how to use it."""
    for made in serving.ready.decisions:
        log.log(logging.WARNING if made.idle else logging.DEBUG, "%s", made)
    if config.model.seed and config.model.load_format != "dummy":
        log.warning("seed has no effect: a request without a seed draws its own")
    found = facts(config, files, serving.ready, serving.model, serving.url, serving.queue)
    if config.observe.log_format == "json":
        log.info("ready", extra={"data": found})
        return
    print(f"\nOctavo is ready after {serving.seconds:.1f} s.\n\n{summary(found)}\n", flush=True)
    keyed = bool(config.serve.api_key)
    print(examples(serving.model, serving.url, keyed=keyed, chat=serving.chat) + "\n", flush=True)
