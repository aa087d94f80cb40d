"""What holds for every registered architecture, picked up by being registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from octavo.attention.torch_ref import TorchRef
from octavo.core.hf_config import HFConfig
from octavo.models.registry import MODELS, build
from octavo.nn.build import Build
from octavo.ops.op import Op
from octavo.quant.none import Plain
from tests.cpu.models.driver import Driver, files, load
from tests.cpu.models.tiny import CONFIGS, save


def test_every_architecture_is_compared_with_transformers() -> None:
    """A family without a tiny checkpoint in tests/cpu/models/tiny.py is not tested at all."""
    kinds = {type(make()).__name__.replace("Config", "ForCausalLM") for make in CONFIGS.values()}
    assert set(MODELS.names()) <= kinds


@pytest.mark.parametrize("name", MODELS.names())
def test_parameters_are_the_checkpoints(name: str, tmp_path: Path) -> None:
    """Built on the meta device: every sink has a transformers name and shape, and none is left over."""
    case = next(
        key for key, make in CONFIGS.items() if type(make()).__name__ == name.replace("ForCausalLM", "Config")
    )
    theirs = save(case, tmp_path)
    b = Build.root({}, dtype=torch.float32, device="meta", backend=TorchRef(), quant=Plain())
    model = build(HFConfig.load(tmp_path / "config.json"), b)
    ours = {sink.name: tuple(sink.target.shape) for sink in b.sinks()}
    assert ours == {key: tuple(value.shape) for key, value in theirs.named_parameters()}
    assert len({spec.name for spec in model.cache_specs}) == len(model.cache_specs) == 3


class Strays(TorchFunctionMode):
    """Records calls that make a tensor outside an Op and outside the attention backend."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0
        self.found: list[str] = []
        self.made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in given:
            self.made += 1
            if not self.inside:
                self.found.append(func.__name__)
        return result


@pytest.mark.parametrize("name", list(CONFIGS))
def test_only_ops_make_tensors_in_forward(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(name, tmp_path)
    of = files(str(tmp_path), [str(tmp_path / "model.safetensors")], config=str(tmp_path / "config.json"))
    strays = Strays()

    def within(call: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            strays.inside += 1
            try:
                return call(*args, **kwargs)
            finally:
                strays.inside -= 1

        return run

    monkeypatch.setattr(Op, "__call__", within(Op.__call__))
    monkeypatch.setattr(TorchRef, "run", within(TorchRef.run))
    backend = TorchRef()
    model = load(of, backend)
    whole = model.forward

    def watched(f: Any) -> Tensor:
        with strays:
            return whole(f)

    monkeypatch.setattr(model, "forward", watched)
    Driver(model, backend).step([("a", [3, 4, 5]), ("b", [6])])
    assert strays.found == [] and strays.made > 30
