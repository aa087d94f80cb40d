"""Who asks, for the time of one HTTP request, and what the request has used so far.

Written by the middleware; read wherever a model is named or tokens are counted, so that no route can
forget to.
"""

from __future__ import annotations

from contextvars import ContextVar

from octavo.server.quota import Limits, Quota


class Account:
    """The owner of one key. `tenant` names it in the prefix cache; `models` are those it may use."""

    def __init__(
        self, name: str, tenant: str, quota: Quota | None = None, models: frozenset[str] | None = None
    ) -> None:
        self.name = name
        self.tenant = tenant
        self.quota = quota or Quota(Limits())
        self.models = models

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


class Visit:
    """One request. `account` is None until somebody is known to ask."""

    def __init__(self) -> None:
        self.account: Account | None = None
        self.model = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def use(self, *, prompt: int = 0, completion: int = 0) -> None:
        """Counts tokens, which the account pays for."""
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        if self.account is not None and (prompt or completion):
            self.account.quota.spend(prompt + completion)


visiting: ContextVar[Visit | None] = ContextVar("octavo_visit", default=None)
"""Set by the middleware for the time of one HTTP request."""


def visit() -> Visit:
    """The request at work; outside of one, an unlimited one."""
    return visiting.get() or Visit()
