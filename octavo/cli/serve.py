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
from octavo.core.errors import UserError
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
    from octavo.server.doors import check_doors
    from octavo.server.port import listen
    from octavo.server.run import run as serve

    # what is wrong here should be told before gigabytes are fetched; the server does both again
    check_doors(config.serve)
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
    """The API keys of the environment, where the command line brought none."""
    keys = env.read("OCTAVO_API_KEY")
    if keys is None or config.serve.api_key:
        return config
    found = tuple(key.strip() for key in keys.split(",") if key.strip())
    if not found:  # or a slip would leave the door open
        raise UserError("OCTAVO_API_KEY holds no key", hint="unset it, or put a key into it", field="api_key")
    return dataclasses.replace(config, serve=dataclasses.replace(config.serve, api_key=found))


def warn_if_open(config: EngineConfig) -> None:
    """Says loudly that anyone who reaches this machine can use the model."""
    if not config.serve.keyed and not _loopback(config.serve.host):
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
    print(
        examples(serving.model, serving.url, keyed=config.serve.keyed, chat=serving.chat) + "\n", flush=True
    )
