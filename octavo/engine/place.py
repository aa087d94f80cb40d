"""Where the runner lives. The only file of the engine that names the runner, and only when called,
so that importing the engine never loads torch."""

from __future__ import annotations

from octavo.config import env
from octavo.config.engine import EngineConfig
from octavo.core.facts import ModelFiles
from octavo.core.runner import Runner
from octavo.executor.direct import DirectExecutor
from octavo.executor.executor import Executor
from octavo.executor.inline import InlineExecutor


def make_executor(config: EngineConfig, files: ModelFiles) -> Executor:
    """The runner in this process: in a thread of its own where the CPU computes, in the caller's where
    a GPU does."""
    env.calm_threads()  # libgomp looks when torch loads it
    from octavo.platform.detect import detect

    def make_runner() -> Runner:
        from octavo.runner.runner import Runner as DeviceRunner

        runner: Runner = DeviceRunner(config, files)
        return runner

    return DirectExecutor(make_runner) if detect().kind == "cuda" else InlineExecutor(make_runner)
