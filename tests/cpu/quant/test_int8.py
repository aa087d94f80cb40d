"""8-bit integers at load: who may have them. What they compute: tests/cpu/native."""

from __future__ import annotations

import pytest

from octavo.core.errors import Unsupported
from octavo.quant.choose import choose_quantization
from octavo.quant.int8 import Int8
from octavo.quant.none import Plain
from tests.cpu.quant.test_fp8 import CPU, GPU, config_of


def test_a_cpu_may_have_it() -> None:
    found = choose_quantization(config_of(), {}, "int8", CPU)
    assert isinstance(found, Int8) and isinstance(found, Plain) and found.name == "int8"


def test_others_are_told_what_works() -> None:
    with pytest.raises(Unsupported, match="not on cuda") as refused:
        choose_quantization(config_of(), {}, "int8", GPU)
    assert refused.value.field == "quantization" and "--quantization fp8" in refused.value.hint
    with pytest.raises(Unsupported, match="in fp8 already") as refused:
        choose_quantization(config_of(quant_method="fp8"), {}, "int8", CPU)
    assert refused.value.field == "quantization" and "leave quantization out" in refused.value.hint
