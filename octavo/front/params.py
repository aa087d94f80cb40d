"""SamplingParams: how to choose tokens, with vLLM's names, defaults and limits.

Everything that can be checked without a model is checked here; ids against the vocabulary and
lengths against the context are checked where a request is built (prompt.py).
"""

from __future__ import annotations

import copy
import logging
from enum import Enum
from typing import Any

import msgspec

from octavo.core.errors import Unsupported, UserError
from octavo.front import checks, plain
from octavo.front.repetition import RepetitionDetectionParams
from octavo.front.structured import StructuredOutputsParams

log = logging.getLogger(__name__)

MOST_CHOICES = 16384  # n
_GREEDY = 1e-5  # temperatures below are greedy
MOST_NAMED = 128  # logprob_token_ids
_COLDEST = 0.01  # positive temperatures below are raised to it: their logits would overflow


class RequestOutputKind(Enum):
    """What a stream of RequestOutput holds each time."""

    CUMULATIVE = 0  # all so far
    DELTA = 1  # what is new
    FINAL_ONLY = 2  # nothing before the end


class SamplingParams(msgspec.Struct, kw_only=True, repr_omit_defaults=True):
    """Raises UserError, which names the field and its range. Fields may be changed later; they
    are checked again when a request is built."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | Any = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    extra_args: dict[str, Any] | None = None
    skip_reading_prefix_cache: bool | None = None
    thinking_token_budget: int | None = None
    repetition_detection: RepetitionDetectionParams | Any = None
    routed_experts_prompt_start: int = 0
    skip_clone: bool = False
    output_text_buffer_length: int = 0

    def __post_init__(self) -> None:
        self.check()

    @staticmethod
    def from_optional(**fields: Any) -> SamplingParams:
        """As the constructor, but None means the default, and biases are clamped to +-100."""
        keep_none = {"max_tokens"}
        given = {name: value for name, value in fields.items() if value is not None or name in keep_none}
        if (bias := given.get("logit_bias")) is not None:
            pairs = checks.bias("logit_bias", bias)
            given["logit_bias"] = {id: min(100.0, max(-100.0, value)) for id, value in pairs.items()}
        return SamplingParams(**given)

    def clone(self) -> SamplingParams:
        """An independent copy, checked; `skip_clone` says that nobody will change this one."""
        if self.skip_clone:
            return self
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__struct_fields__}
        for name, value in fields.items():
            if isinstance(value, list | dict):
                fields[name] = copy.copy(value)
        return SamplingParams(**fields)

    @property
    def greedy(self) -> bool:
        return self.temperature < _GREEDY

    @property
    def scores(self) -> bool:
        """Whether answers come with log-probabilities."""
        return self.logprobs is not None or bool(self.logprob_token_ids)

    def check(self) -> None:
        """Brings every field to its normal form, or raises UserError."""
        self._check_numbers()
        self._check_lists()
        self._check_switches()
        self._check_together()
        _check_unsupported(self)

    def _check_numbers(self) -> None:
        self.n = checks.integer("n", self.n, 1, MOST_CHOICES)
        self.presence_penalty = checks.number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        self.frequency_penalty = checks.number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        self.repetition_penalty = checks.number("repetition_penalty", self.repetition_penalty, above=0.0)
        self.temperature = checks.number("temperature", self.temperature, 0.0, 2.0)
        self.top_p = checks.number("top_p", self.top_p, above=0.0, high=1.0)
        self.top_k = max(checks.integer("top_k", self.top_k, -1, checks.INT32), 0)
        self.min_p = checks.number("min_p", self.min_p, 0.0, 1.0)
        self.seed = checks.maybe(checks.integer, "seed", self.seed, -(1 << 63), (1 << 63) - 1)
        self.seed = None if self.seed == -1 else self.seed
        self.max_tokens = checks.maybe(checks.integer, "max_tokens", self.max_tokens, 1, checks.INT32)
        self.min_tokens = checks.integer("min_tokens", self.min_tokens, 0, checks.INT32)
        budget = checks.maybe(
            checks.integer, "thinking_token_budget", self.thinking_token_budget, -1, checks.INT32
        )
        self.thinking_token_budget = None if budget == -1 else budget
        self.logprobs = _alternatives("logprobs", self.logprobs)
        self.prompt_logprobs = _alternatives("prompt_logprobs", self.prompt_logprobs)

    def _check_lists(self) -> None:
        self.stop = checks.texts("stop", self.stop, most=128, longest=4096)
        self.stop_token_ids = checks.token_ids("stop_token_ids", self.stop_token_ids or [], most=1024)
        self.bad_words = checks.texts("bad_words", self.bad_words, most=1024, longest=1024)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = checks.token_ids(
                "allowed_token_ids", self.allowed_token_ids, most=1 << 20, empty=False
            )
        if self.logit_bias is not None:
            self.logit_bias = checks.bias("logit_bias", self.logit_bias)
        if self.logprob_token_ids is not None:
            self.logprob_token_ids = checks.token_ids(
                "logprob_token_ids", self.logprob_token_ids, most=MOST_NAMED
            )
        if self.extra_args is not None:
            self.extra_args = _extra_args(self.extra_args)

    def _check_switches(self) -> None:
        for name in _SWITCHES:
            checks.switch(name, getattr(self, name))
        if self.skip_reading_prefix_cache is None:
            self.skip_reading_prefix_cache = self.prompt_logprobs is not None
        checks.switch("skip_reading_prefix_cache", self.skip_reading_prefix_cache)
        if not isinstance(self.output_kind, RequestOutputKind):
            names = ", ".join(kind.name for kind in RequestOutputKind)
            raise UserError(
                "output_kind is not a RequestOutputKind", hint=f"one of {names}", field="output_kind"
            )
        self.structured_outputs = StructuredOutputsParams.of(self.structured_outputs)
        self.repetition_detection = RepetitionDetectionParams.of(self.repetition_detection)

    def _check_together(self) -> None:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise UserError(
                f"min_tokens is {self.min_tokens}, more than max_tokens ({self.max_tokens})",
                hint="raise max_tokens",
                field="min_tokens",
            )
        if self.logprobs is not None and self.logprob_token_ids not in (None, []):
            named = len(self.logprob_token_ids or ())
            if self.logprobs != named:
                raise UserError(
                    f"logprobs is {self.logprobs} and logprob_token_ids names {named} tokens",
                    hint=f"leave logprobs out or set it to {named}",
                    field="logprobs",
                )
        if self.stop and not self.detokenize:
            raise UserError(
                "stop strings need detokenize", hint="set detokenize or use stop_token_ids", field="stop"
            )
        if self.greedy:
            if self.n > 1:
                raise UserError(
                    f"n is {self.n} with greedy sampling: all answers would be equal",
                    hint="raise temperature above 0, or set n to 1",
                    field="n",
                )
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0
        elif self.temperature < _COLDEST:
            log.warning("temperature %g is raised to %g; 0 is greedy", self.temperature, _COLDEST)
            self.temperature = _COLDEST


_SWITCHES = (
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "flat_logprobs",
)

# fields of vLLM that do nothing here at these values, and what to say at others
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "routed_experts_prompt_start": ((0, None), "routed experts are not reported"),
}


def _check_unsupported(params: SamplingParams) -> None:
    for name, (neutral, why) in _NEUTRAL.items():
        value = getattr(params, name)
        if not any(value is one or value == one for one in neutral):
            raise Unsupported(f"{name} is not supported", hint=why, field=name)


def _extra_args(value: Any) -> dict[str, Any]:
    """A copy, which nobody else can change, of what other packages may read."""
    extra = plain.copied("extra_args", value)
    for name in ("kv_transfer_params", "ec_transfer_params"):
        if extra.get(name):
            raise Unsupported(
                f"{name} in extra_args is not supported", hint="no KV connectors run here", field="extra_args"
            )
    return extra


def _alternatives(name: str, value: Any) -> int | None:
    """True is one alternative, as in the chat API; -1 is the whole vocabulary."""
    if isinstance(value, bool):
        return 1 if value else None
    return None if value is None else checks.integer(name, value, -1, checks.INT32)
