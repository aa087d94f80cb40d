"""Files that are missing, or are not what they should be."""

from __future__ import annotations

from octavo.core.errors import NotFound
from tests.bad.breaking import (
    GGUF,
    INDEX,
    SAFETENSORS,
    both,
    copy,
    empty,
    link,
    nothing,
    remove,
    rename,
    shards,
    swell,
    write,
)
from tests.bad.row import artefact

ADAPTER = both(
    remove("config.json"),
    rename(SAFETENSORS, "adapter_model.safetensors"),
    write("adapter_config.json", {"peft_type": "LORA"}),
)
PICKLES = rename(SAFETENSORS, "pytorch_model.bin")
A_SHARD = both(shards("a.safetensors", "b.safetensors"), write("a.safetensors", b""))
LINK = both(remove(SAFETENSORS), link(SAFETENSORS, "/nowhere"))
FOLDER = both(empty, lambda folder: (folder / GGUF).mkdir())
TWICE = both(copy(SAFETENSORS, "b.safetensors"), rename(SAFETENSORS, "a.safetensors"))

FILES = [
    artefact("empty folder", empty, "model", ("has no weights", "it is empty"), "or a .gguf file"),
    artefact("no config.json", remove("config.json"), "model", "no config.json", "needs config.json"),
    artefact("no weights", remove(SAFETENSORS), "model", ("no weights", "config.json"), "*.safetensors"),
    artefact("pickles only", PICKLES, "model", ("no weights", "pytorch_model.bin"), "convert them"),
    artefact("an adapter", ADAPTER, "model", "no config.json", "adapter: name the model it belongs to"),
    artefact(
        "no folder", nothing, "model", "modle does not", "did you mean", kind=NotFound, model="../modle"
    ),
    artefact("a text", nothing, "model", "config.json is not a model", "the folder", model="config.json"),
    artefact("no tokenizer", remove("tokenizer.json"), "tokenizer", "no tokenizer.json", "--tokenizer"),
    artefact(
        "another tokenizer that is none",
        nothing,
        "tokenizer",
        "./nowhere does not exist",
        "nothing like it",
        kind=NotFound,
        tokenizer="./nowhere",
    ),
    artefact(
        "a file for a tokenizer", nothing, "tokenizer", "is no tokenizer", "a folder", tokenizer="/etc/hosts"
    ),
    artefact("a link to nowhere", LINK, "model", "lacks 1 of 1 weight files: model.saf", "fetch the folder"),
    artefact(
        "a folder for a file", FOLDER, "model", "m.gguf cannot be read: Is a directory", "fetch it again"
    ),
    artefact(
        "a missing shard", A_SHARD, "model", "lacks 1 of 2 weight files: b.safetensors", "fetch the folder"
    ),
    artefact("weights twice", TWICE, "model", ("b.safetensors: tensor", "is also in"), "remove the file"),
    artefact(
        "no GGUF", nothing, "load_format", "has no .gguf file", "--load-format auto", load_format="gguf"
    ),
    *(
        artefact(f"an index that names {name}", shards(name), "model", (INDEX, "odd files"), "beside it")
        for name in ("../x.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin")
    ),
    *(
        artefact(
            f"an index: {data!r:.20}", write(INDEX, data), "model", (INDEX, "is not an index"), "fetch it"
        )
        for data in ("{", [], {}, {"weight_map": 3}, b"\xff\xfe", "[" * 100_000)
    ),
    artefact(
        "an empty index", write(INDEX, {"weight_map": {}}), "model", (INDEX, "odd files: []"), "beside it"
    ),
    artefact(
        "a huge index",
        both(write(INDEX, ""), swell(INDEX, 65)),
        "model",
        (INDEX, "larger than 64 MiB"),
        "fetch it again",
    ),
]
