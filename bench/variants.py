"""The default model in other formats, made once into a cache folder: GGUF files and a Hugging Face folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from octavo.checkpoint.find import locate
from octavo.config.env import octavo_home
from octavo.config.model import ModelConfig

FORMATS = ("Q4_1", "Q4_0", "Q8_0", "BF16")
SHIPPED = "Q4_1"


def default_cache() -> Path:
    return octavo_home() / "bench"


def shipped() -> Path:
    """The default model's own file."""
    return Path(locate(ModelConfig()).weights[0])


def gguf(name: str, quantizer: Path, cache: Path) -> Path:
    """The default model in format `name`. From 4 bits to more nothing is gained but size: only the
    speed of such a file means something."""
    if name == SHIPPED:
        return shipped()
    path = cache / f"{shipped().name.split('.')[0]}.{name}.gguf"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        words = [quantizer, "--allow-requantize", shipped(), part, name]
        subprocess.run([str(word) for word in words], check=True, capture_output=True)
        part.rename(path)
    return path


def hf_folder(cache: Path) -> Path:
    """The default model as config.json, tokenizer and safetensors in bfloat16."""
    folder = cache / f"{shipped().name.split('.')[0]}-hf"
    if not folder.exists():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        source, file = shipped().parent, shipped().name
        cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=cache))
        try:
            read = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.bfloat16)
            # what was read from blocks refuses to be written; its weights in a model made anew do not
            config = AutoConfig.from_pretrained(source, gguf_file=file)
            plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            plain.load_state_dict(read.state_dict())
            plain.save_pretrained(part)
            AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(part)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part)
            raise
    return folder
