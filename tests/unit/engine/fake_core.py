"""A core process whose device is made of lists: `python -m tests.unit.engine.fake_core`.

The model's name says how it misbehaves: "bad" refuses to load, "mute" ends at once, "weak" fails
at its third step, "fatal" ends at its first step.
"""

from __future__ import annotations

import os
import sys

from octavo.config.engine import EngineConfig
from octavo.core.errors import ArtefactError, Fault
from octavo.core.facts import ModelFiles
from octavo.core.messages import StepPlan
from octavo.engine.process import main
from octavo.executor.inline import InlineExecutor
from tests.fakes import FakeRunner, Shape, plan_of

SHAPE = Shape(plan_of(pages=2000), max_model_len=4096)


class Moody(FakeRunner):
    """A device that does what its name says."""

    def __init__(self, mood: str) -> None:
        super().__init__(SHAPE)
        self._mood = mood
        self._steps = 0
        if mood == "bad":
            raise ArtefactError("no such weights", hint="fetch them", field="model")
        if mood == "mute":
            os._exit(3)

    def forward(self, plan: StepPlan) -> None:
        self._steps += 1
        if self._mood == "fatal":
            os._exit(4)
        if self._mood == "weak" and self._steps == 3:
            raise Fault("the device broke")
        super().forward(plan)


def make(config: EngineConfig, files: ModelFiles) -> InlineExecutor:
    return InlineExecutor(lambda: Moody(files.name))


if __name__ == "__main__":
    sys.exit(main(make))
