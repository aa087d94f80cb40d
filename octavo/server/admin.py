"""Routes about the server itself: health, version, load, metrics. Nothing secret is shown here."""

from __future__ import annotations

from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import octavo
from octavo.core.errors import EngineDead, Unsupported
from octavo.observe.prometheus import CONTENT_TYPE_LATEST
from octavo.server.body import reply
from octavo.server.openai.errors import error_response
from octavo.server.openai.types import LoadReply, ProfileReply, VersionReply
from octavo.server.service import Service


async def health(service: Service, request: Request) -> Response:
    """200 while idle or progressing, 503 when a step is overdue or the engine is gone."""
    reason = service.health()
    return Response(status_code=200) if reason is None else error_response(EngineDead(reason))


async def version(service: Service, request: Request) -> Response:
    return reply(VersionReply(octavo.__version__))


async def load(service: Service, request: Request) -> Response:
    """Rows open at this moment, and how many may be."""
    return reply(LoadReply(service.gate.open, service.gate.most))


async def start_profile(service: Service, request: Request) -> Response:
    """Begins a trace of what the device does."""
    await service.client.call("start_profile", folder=_profiler_dir(service))
    return reply(ProfileReply("recording"))


async def stop_profile(service: Service, request: Request) -> Response:
    """Ends it. The trace's name within --profiler-dir is told, its folder is not."""
    _profiler_dir(service)
    path = await service.client.call("stop_profile")
    return reply(ProfileReply("written", PurePath(str(path)).name))


def _profiler_dir(service: Service) -> str:
    folder = service.config.observe.profiler_dir
    if folder is None:
        raise Unsupported("profiling is off", hint="start the server with --profiler-dir FOLDER")
    return folder


async def metrics(service: Service, request: Request) -> Response:
    return PlainTextResponse(service.exposition.render(), media_type=CONTENT_TYPE_LATEST)
