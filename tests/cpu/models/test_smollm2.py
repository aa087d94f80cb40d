"""The default model, dequantised, against transformers reading the same GGUF file."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from octavo.attention.cpu import CPUAttention
from octavo.core.facts import ModelFiles
from tests.cpu.models.driver import Driver, load, reference_gguf, relative
