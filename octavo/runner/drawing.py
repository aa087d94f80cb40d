"""Everything a worker decides before memory is taken."""

from __future__ import annotations

from typing import NamedTuple

from octavo.config.resolve import Resolved
from octavo.core.facts import Decision, ModelFacts, Platform
from octavo.nn.protocols import AttentionBackend, Quantization
from octavo.runner.cache import Layout
from octavo.runner.memory import Costs, MemoryPlan
from octavo.runner.native import NativePlan


class Drawing(NamedTuple):
    """Everything decided before memory is taken."""

    resolved: Resolved
    facts: ModelFacts
    platform: Platform
    backend: AttentionBackend
    quant: Quantization
    layout: Layout
    costs: Costs
    parameters: int
    memory: MemoryPlan
    decisions: tuple[Decision, ...]
    native: NativePlan | None
