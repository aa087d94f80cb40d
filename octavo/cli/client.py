"""A small client of an OpenAI-compatible server, for the terminal commands and the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from octavo.config import env
from octavo.config.flags import Parser
from octavo.core.errors import EngineError, Fault, NotFound, Overloaded, UserError

URL = "http://127.0.0.1:8000/v1"
_CONNECT = 5.0  # seconds; reading has no limit, because a long queue is not an error


def add_flags(parser: Parser) -> None:
    parser.add_argument("--url", default=URL, help=f"the server's address (default: {URL})")
    parser.add_argument("--model-name", help="a name from /v1/models (default: the first)")
    parser.add_argument("--api-key", help="key of the server (default: OCTAVO_API_KEY)")


class Client:
    """Blocking; one server. Errors are typed and say what to do."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = base(url)
        self._http = httpx.Client(**options(self.url, key))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def model(self, wanted: str | None) -> str:
        """`wanted`, or the first name the server lists."""
        if wanted:
            return wanted
        names = [card["id"] for card in self._get("/models")["data"]]
        if not names:
            raise Fault(f"{self.url} lists no model")
        return str(names[0])

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of one streamed request, as objects. Closing the iterator stops the request."""
        try:
            with self._http.stream("POST", self.url + path, json={**body, "stream": True}) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise refusal(answer)
                for line in answer.iter_lines():
                    if (event := event_of(line)) is not None:
                        yield event
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error

    def _get(self, path: str) -> Any:
        try:
            answer = self._http.get(self.url + path)
        except httpx.HTTPError as error:
            raise unreachable(self.url, error) from error
        if answer.status_code != 200:
            raise refusal(answer)
        return json_of(answer)


def base(url: str) -> str:
    """The address that ends in /v1."""
    url = url.rstrip("/") if "://" in url else "http://" + url.rstrip("/")
    return url if urlsplit(url).path else url + "/v1"


def options(url: str, key: str | None) -> dict[str, Any]:
    """Arguments of an httpx client for this server."""
    key = key or env.read("OCTAVO_API_KEY")
    return {
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(None, connect=_CONNECT),
        # a proxy that is set for the internet must not stand between us and this very machine
        "trust_env": urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
    }


def event_of(line: str) -> dict[str, Any] | None:
    """The object in a line of an event stream; None for comments, blanks and [DONE]."""
    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
        return None
    event: dict[str, Any] = json.loads(line[5:])
    if "error" in event:
        raise Fault(str(event["error"].get("message", event["error"])))
    return event


def json_of(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise Fault(f"{answer.url} is not an OpenAI-compatible server", hint="--url ends in /v1") from error


def refusal(answer: httpx.Response) -> EngineError:
    """The server's error as one of ours."""
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:200] or answer.reason_phrase
    if answer.status_code in (401, 403):
        return UserError(message, hint="give the server's key with --api-key or OCTAVO_API_KEY")
    if answer.status_code in (429, 503):
        return Overloaded(f"the server is busy: {message}", hint="try again in a moment")
    if answer.status_code == 404:
        return NotFound(message, hint="--url ends in /v1; --model-name is one of /v1/models")
    return (UserError if answer.status_code < 500 else Fault)(message)


def unreachable(url: str, error: httpx.HTTPError) -> EngineError:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        port = urlsplit(url).port or 8000
        start = "octavo serve" + ("" if port == 8000 else f" --port {port}")
        return UserError(
            f"no server answers at {url}", hint=f"start one with `{start}`, or name its address with --url"
        )
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return UserError(f"{url} is not an address", hint=f"one looks like {URL}")
    return Fault(
        f"the connection to {url} broke: {error or type(error).__name__}", hint="is the server alive?"
    )
