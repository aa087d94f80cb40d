"""From a path to a model's files, and what is said when one is missing."""

import json
import subprocess
import sys

import pytest

from octavo.checkpoint.find import locate
from octavo.config.model import ModelConfig
from octavo.core.errors import ArtefactError, NotFound, UserError


def folder_with(tmp_path, *names: str, index: dict | None = None):
    for name in names:
        (tmp_path / name).write_bytes(b"GGUF" if name.endswith(".gguf") else b"{}")
    if index is not None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(tmp_path)


def find(model, **more):
    return locate(ModelConfig(model=model, **more))


def names_of(files):
    return [path.rpartition("/")[2] for path in files.weights]


def test_a_folder_with_one_file(tmp_path):
    model = folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json")
    files = find(model)
    assert files.format == "safetensors" and files.name == model and files.root == model
    assert names_of(files) == ["model.safetensors"]
    assert files.config == f"{model}/config.json" and files.tokenizer == model


def test_shards_come_from_the_index(tmp_path):
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "m-1.safetensors"}}
    names = (
        "config.json",
        "m-1.safetensors",
        "m-2.safetensors",
        "consolidated.safetensors",
        "tokenizer.json",
    )
    assert names_of(find(folder_with(tmp_path, *names, index=index))) == [
        "m-1.safetensors",
        "m-2.safetensors",
    ]


def test_a_missing_shard_is_named(tmp_path):
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    model = folder_with(tmp_path, "config.json", "m-1.safetensors", "tokenizer.json", index=index)
    with pytest.raises(ArtefactError, match=r"1 of 2 .*m-2\.safetensors"):
        find(model)


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {}}, [], {"weight_map": {"a": 1}}])
def test_a_broken_index_is_refused(tmp_path, index):
    with pytest.raises(ArtefactError, match=r"index|odd"):
        find(folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json", index=index))


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_an_index_cannot_point_outside(tmp_path, name):
    index = {"weight_map": {"a": name}}
    with pytest.raises(ArtefactError, match="odd files"):
        find(folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json", index=index))


def test_the_original_authors_copy_is_left_out(tmp_path):
    names = ("config.json", "tokenizer.json", "a.safetensors", "b.safetensors", "consolidated.safetensors")
    assert names_of(find(folder_with(tmp_path, *names))) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    "names, says, hint",
    [
        (("model.safetensors", "tokenizer.json"), "no config.json", "config.json"),
        (("config.json", "tokenizer.json", "pytorch_model.bin"), "no weights", "pickles"),
        (("config.json",), "no weights", "config.json and"),
        ((), "empty", "a model is a folder"),
        (("config.json", "model.safetensors"), "no tokenizer.json", "--tokenizer"),
        (("a.gguf", "b.gguf"), r"several .*a\.gguf, b\.gguf", "name one"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, names, says, hint):
    with pytest.raises(ArtefactError, match=says) as caught:
        find(folder_with(tmp_path, *names))
    assert hint in caught.value.hint


def test_a_folder_without_tokenizer_is_fine_for_token_ids(tmp_path):
    files = find(folder_with(tmp_path, "config.json", "model.safetensors"), skip_tokenizer_init=True)
    assert files.tokenizer == ""


def test_dummy_weights_need_only_a_config(tmp_path):
    files = find(folder_with(tmp_path, "config.json"), load_format="dummy")
    assert files.format == "dummy" and files.weights == () and files.tokenizer == "" and files.config


def test_gguf_as_file_and_as_folder(tmp_path):
    folder = folder_with(tmp_path, "m.gguf")
    for model in (f"{folder}/m.gguf", folder):
        files = find(model)
        assert files.format == "gguf" and files.config is None and files.name == model
        assert files.weights == (f"{folder}/m.gguf",) and files.tokenizer == f"{folder}/m.gguf"


def test_safetensors_win_unless_gguf_is_asked_for(tmp_path):
    model = folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json", "m.gguf")
    assert find(model).format == "safetensors"
    assert find(model, load_format="gguf").format == "gguf"


def test_formats_that_contradict_the_files(tmp_path):
    model = folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json")
    with pytest.raises(UserError, match=r"no \.gguf"):
        find(model, load_format="gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="is a GGUF file"):
        find(f"{model}/x.gguf", load_format="safetensors")


@pytest.mark.parametrize(
    "name, data, says",
    [("a.gguf", b"no", "begin like"), ("a.bin", b"x", "gguf"), ("a-1-of-2.gguf", b"GGUF", "part")],
)
def test_files_that_are_no_model(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ArtefactError, match=says):
        find(str(tmp_path / name))


def test_a_path_that_does_not_exist_names_its_neighbours(tmp_path):
    folder_with(tmp_path, "model.gguf")
    with pytest.raises(NotFound) as caught:
        find(str(tmp_path / "modle.gguf"))
    assert "model.gguf" in caught.value.hint
    with pytest.raises(NotFound, match="does not exist either"):
        find(str(tmp_path / "none" / "model.gguf"))


def test_another_tokenizer(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "t").mkdir()
    model = folder_with(tmp_path / "m", "config.json", "model.safetensors")
    other = folder_with(tmp_path / "t", "tokenizer.json")
    assert find(model, tokenizer=other).tokenizer == other
    with pytest.raises(NotFound, match="does not exist"):
        find(model, tokenizer="./nowhere")
    with pytest.raises(ArtefactError, match=r"no tokenizer\.json"):
        find(model, tokenizer=model)


def test_identity_follows_the_weights(tmp_path):
    model = folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json")
    before = find(model).identity
    assert find(model).identity == before
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert find(model).identity != before


def test_finding_a_local_model_loads_nothing_heavy(tmp_path):
    model = folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json")
    code = (
        "import sys; from octavo.checkpoint.find import locate; from octavo.config.model import ModelConfig;"
        f"locate(ModelConfig(model={model!r}));"
        "sys.exit(str({'torch', 'httpx', 'huggingface_hub', 'transformers', 'rich'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_revision_of_a_folder_is_told_to_do_nothing(tmp_path, caplog):
    find(folder_with(tmp_path, "config.json", "model.safetensors", "tokenizer.json"), revision="main")
    assert "revision has no effect" in caplog.text


def test_a_name_too_long_for_a_file_is_no_model():
    with pytest.raises(NotFound, match="neither a path that exists nor a valid id"):
        find("x" * 5000)
