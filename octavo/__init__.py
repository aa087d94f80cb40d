"""Octavo: an engine that runs and serves large language models.

The public names are loaded on first use, so that `import octavo` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.async_llm import AsyncLLM as AsyncLLM
    from octavo.front.beam import BeamSearchParams as BeamSearchParams
    from octavo.front.outputs import CompletionOutput as CompletionOutput
    from octavo.front.outputs import RequestOutput as RequestOutput
    from octavo.front.params import RequestOutputKind as RequestOutputKind
    from octavo.front.params import SamplingParams as SamplingParams
    from octavo.front.structured import StructuredOutputsParams as StructuredOutputsParams
    from octavo.offline import LLM as LLM

__version__ = "0.1.0"

_PUBLIC = {
    "LLM": "octavo.offline",
    "AsyncLLM": "octavo.async_llm",
    "SamplingParams": "octavo.front.params",
    "BeamSearchParams": "octavo.front.beam",
    "RequestOutputKind": "octavo.front.params",
    "StructuredOutputsParams": "octavo.front.structured",
    "RequestOutput": "octavo.front.outputs",
    "CompletionOutput": "octavo.front.outputs",
}

__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchParams",
    "CompletionOutput",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'octavo' has no attribute {name!r}")
