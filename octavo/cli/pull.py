"""`octavo pull`: fetches a model, so that a later start needs no network."""

from __future__ import annotations

from octavo.checkpoint.find import locate
from octavo.config.engine import EngineConfig
from octavo.config.flags import Parser


def run(words: list[str]) -> int:
    parser = Parser(prog="octavo pull", description="Fetch a model into the cache.")
    parser.add_argument("model", nargs="?", help="Hugging Face id (none: the default model)")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--hf-token", help="access token for gated repositories (default: HF_TOKEN)")
    parser.add_argument("--download-dir", help="where hub files are kept (default: HF_HOME)")
    parser.add_argument("--load-format", help="safetensors or gguf, where a repository has both")
    parser.add_argument("--tokenizer", help="tokenizer id, when not the model's own")
    asked = vars(parser.parse_args(words))
    given = {name: value for name, value in asked.items() if value is not None}
    files = locate(EngineConfig.from_flat(given).model)
    print(f"{files.name}: {files.root}")
    return 0
