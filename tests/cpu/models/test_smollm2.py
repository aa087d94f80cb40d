"""The default model, dequantised, against transformers reading the same GGUF file."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from octavo.attention.cpu import CPUAttention
from octavo.core.facts import ModelFiles
from tests.cpu.models.driver import Driver, load, relative
from tests.cpu.models.tiny import reference

# "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", in its vocabulary
PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]


def test_logits_of_the_default_model(default_model: ModelFiles) -> None:
    path = Path(default_model.weights[0])
    theirs = AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    ).eval()
    said = theirs.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT)), max_new_tokens=10, do_sample=False
    )[0].tolist()
    wanted = reference(theirs, said)
    backend = CPUAttention()
    driver = Driver(load(default_model, backend), backend, page=16)
    pieces = driver.step([("a", said[:9])]) + driver.step([("a", said[9 : len(PROMPT)])])
    for token in said[len(PROMPT) :]:
        pieces += driver.step([("a", [token])])
    logits = torch.cat(pieces)
    assert relative(logits, wanted) < 1e-4
    assert logits[len(PROMPT) - 1 : -1].argmax(-1).tolist() == said[len(PROMPT) :]
