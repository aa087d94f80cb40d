"""API keys: where they come from, and whose a given one is. Only digests are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.server.quota import Limits, Quota
from octavo.server.visit import Account

HASHED = "sha256:"
_MOST_KEYS = 4096  # a given key is compared with each of them
_MOST_BYTES = 1 << 20  # of a key file
_HEX = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[!-~]{1,1024}")  # what a header carries unchanged


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One item of a YAML key file. Limits that are not given are those of the settings."""

    key: str
    name: str | None = None
    models: list[str] | None = None
    max_requests: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class _Known(NamedTuple):
    digest: bytes
    account: Account


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def hashed(key: str) -> str:
    """A key as settings and files may hold it: whoever reads it there cannot use it."""
    return key if key.startswith(HASHED) else HASHED + digest(key).hex()


def without_plain_keys(serve: ServeConfig) -> ServeConfig:
    """The same settings, with digests in the place of keys."""
    for key in serve.api_key:
        _digest_of(key, "api_key")
    return dataclasses.replace(serve, api_key=tuple(hashed(key) for key in serve.api_key))


class KeyRing:
    """Every key that opens the server."""

    def __init__(self, entries: Sequence[tuple[str, KeyEntry]], limits: Limits) -> None:
        if len(entries) > _MOST_KEYS:
            raise UserError(
                f"there are {len(entries)} keys", hint=f"at most {_MOST_KEYS}", field="api_key_file"
            )
        self._known = tuple(_known(field, entry, limits) for field, entry in entries)
        _check_unique(self._known)
        self.anonymous = Account("", "", Quota(limits))
        accounts = [one.account for one in self._known] or [self.anonymous]
        self._owners = {account.tenant: account for account in accounts}

    @classmethod
    def of(cls, serve: ServeConfig) -> KeyRing:
        """UserError for a key that cannot be, or a file that cannot be read."""
        entries = [("api_key", KeyEntry(key=key)) for key in serve.api_key]
        if serve.api_key_file is not None:
            found = list(read_key_file(Path(serve.api_key_file).expanduser()))
            if not found:
                raise _bad_file("it holds no key")  # or every door would stand open
            entries += [("api_key_file", entry) for entry in found]
        limits = Limits(
            requests=serve.max_requests_per_key,
            requests_per_minute=serve.max_requests_per_minute,
            tokens_per_minute=serve.max_tokens_per_minute,
        )
        return cls(entries, limits)

    @property
    def closed(self) -> bool:
        """Whether a key is needed."""
        return bool(self._known)

    def find(self, key: str) -> Account | None:
        """The owner of `key`. Takes equally long whichever key it is, or none."""
        given, found = digest(key), None
        for known in self._known:
            if hmac.compare_digest(given, known.digest):
                found = known.account
        return found

    def owner(self, tenant: str) -> Account | None:
        """Whose things on disk are; None once the key was withdrawn."""
        return self._owners.get(tenant)


def read_key_file(path: Path) -> Iterator[KeyEntry]:
    """A list in YAML or JSON where the name ends so; else one key a line, with # before remarks."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _bad_file(error.strerror or "it cannot be read") from None
    if len(data) > _MOST_BYTES:
        raise _bad_file(f"it is larger than {_MOST_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _bad_file("it is not UTF-8") from None
    if path.suffix in (".yaml", ".yml", ".json"):
        yield from _listed(text)
        return
    lines = (line.strip() for line in text.splitlines())
    yield from (KeyEntry(key=line) for line in lines if line and not line.startswith("#"))


def _listed(text: str) -> list[KeyEntry]:
    import yaml

    try:
        items: Any = yaml.safe_load(text) or []
    except yaml.YAMLError:
        raise _bad_file("it is not YAML") from None
    if not isinstance(items, list):
        raise _bad_file("it is not a list")
    entries = [{"key": item} if isinstance(item, str) else item for item in items]
    try:
        return msgspec.convert(entries, list[KeyEntry])
    except msgspec.ValidationError as error:
        raise _bad_file(str(error)) from None  # names place and type, never the value


def _known(field: str, entry: KeyEntry, limits: Limits) -> _Known:
    found = _digest_of(entry.key, field)
    tenant = hashlib.sha256(b"octavo tenant" + found).hexdigest()[:32]  # does not give the key away
    given = {
        "requests": entry.max_requests,
        "requests_per_minute": entry.requests_per_minute,
        "tokens_per_minute": entry.tokens_per_minute,
    }
    own = {name: value for name, value in given.items() if value is not None}
    if any(value < 0 for value in own.values()):
        raise _bad_file("a limit is below 0")
    models = None if entry.models is None else frozenset(entry.models)
    quota = Quota(msgspec.structs.replace(limits, **own))
    return _Known(found, Account(entry.name or f"key-{tenant[:8]}", tenant, quota, models))


def _digest_of(key: str, field: str) -> bytes:
    if key.startswith(HASHED):
        text = key.removeprefix(HASHED).lower()
        if _HEX.fullmatch(text):
            return bytes.fromhex(text)
        raise UserError("a digest of a key is not 64 hexadecimal digits", hint=f"{HASHED}...", field=field)
    if not _KEY.fullmatch(key):
        hint = "1 to 1024 printable ASCII characters, no spaces; `octavo key` makes one"
        raise UserError("a key cannot be sent in a header", hint=hint, field=field)
    return digest(key)


def _check_unique(known: Sequence[_Known]) -> None:
    if len({one.digest for one in known}) < len(known):
        raise UserError("a key is given twice", hint="give each one once", field="api_key")
    counted = Counter(one.account.name for one in known)
    twice, count = counted.most_common(1)[0] if counted else ("", 0)
    if count > 1:
        raise _bad_file(f"two keys have the name {twice[:80]!r}")


def _bad_file(why: str) -> UserError:
    hint = "one key a line, or a YAML list of {key, name, models, max_requests, ...}"
    return UserError(f"the key file cannot be used: {why}", hint=hint, field="api_key_file")
