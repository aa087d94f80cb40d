"""The error tree. Knows nothing of HTTP: the server maps each class to a status in one place.

EngineError
├── UserError            the caller can mend it: names the field, the limit and the remedy
│   ├── NotFound         an unknown model, response or route
│   └── Unsupported      understood, but not available here
├── Overloaded           try again later (carries `retry_after`)
└── Fault                ours: a bug or a broken device
    └── EngineDead       the core is gone; requests in flight ended with it
ArtefactError(UserError) a broken or missing file of a model
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of every error raised on purpose.

    `message` says what is wrong, `hint` what would work, `field` which setting or
    request field is meant (None when none is).
    """

    def __init__(self, message: str, *, hint: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UserError(EngineError, ValueError):
    """The caller asked for something that cannot be; `hint` says what can."""


class NotFound(UserError):
    """A name that does not exist here; `hint` lists the valid ones."""


class Unsupported(UserError):
    """A known feature that this build or device does not offer."""


class ArtefactError(UserError):
    """A model's file is missing, truncated, or not what it claims to be.

    Never without a remedy. `field` is the setting that names the file, or the key inside it.
    """

    def __init__(self, message: str, *, hint: str, field: str | None = "model") -> None:
        super().__init__(message, hint=hint, field=field)


class Overloaded(EngineError):
    """The queue is full. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class Fault(EngineError):
    """A bug of ours or a broken device; the request is not to blame."""


class EngineDead(Fault):
    """The core process ended."""
