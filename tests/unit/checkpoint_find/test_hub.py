"""Repositories of a hub: a small web server that answers as the hub does."""

import hashlib
import json

import pytest

from octavo.checkpoint.hub import Hub, choose
from octavo.config.model import ModelConfig
from octavo.core.errors import ArtefactError, NotFound, UserError
from tests.unit.web import serving

SHA = "a" * 40
FULL = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"no",
}


@pytest.fixture
def hub(monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as site:
        yield site


def publish(site, repo, files, revision="main"):
    card = {"id": repo, "modelId": repo, "sha": SHA, "siblings": [{"rfilename": name} for name in files]}
    body = json.dumps(card).encode()
    site.pages[f"/api/models/{repo}"] = body
    for name in {revision, SHA}:
        site.pages[f"/api/models/{repo}/revision/{name}"] = body
    rows = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in files.items()]
    site.pages[f"/api/models/{repo}/tree/{SHA}"] = json.dumps(rows).encode()
    for name, data in files.items():
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": SHA}
        site.pages[f"/{repo}/resolve/{SHA}/{name}"] = (200, headers, data)


def refuse(site, repo, status, code):
    for path in (f"/api/models/{repo}", f"/api/models/{repo}/revision/main"):
        site.pages[path] = (status, {"X-Error-Code": code, "X-Error-Message": "no"}, b"{}")


def ask(site, tmp_path, repo, file=None, **more):
    config = ModelConfig(model=repo, download_dir=str(tmp_path / "cache"), **more)
    return Hub(config, endpoint=site.url).model(repo, file)


def test_only_what_a_model_needs_is_fetched_from_one_commit(hub, tmp_path):
    publish(
        hub, "a/b", {**FULL, "onnx/model.onnx": b"x", "consolidated.safetensors": b"x", "README.md": b"x"}
    )
    found = ask(hub, tmp_path, "a/b")
    assert found.commit == SHA and found.gguf is None
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    fetched = [path for _, path, _ in hub.asked if "/resolve/" in path]
    assert fetched and all(f"/resolve/{SHA}/" in path for path in fetched)
    assert not any(path.endswith((".bin", ".onnx")) for path in fetched)


def test_the_revision_holds_for_every_file(hub, tmp_path):
    publish(hub, "a/b", FULL, revision="v2")
    del hub.pages["/api/models/a/b"]
    assert ask(hub, tmp_path, "a/b", revision="v2").commit == SHA
    assert all(SHA in path for _, path, _ in hub.asked if "/resolve/" in path)


def test_the_cache_serves_when_the_hub_does_not(hub, tmp_path, monkeypatch):
    publish(hub, "a/b", FULL)
    first = ask(hub, tmp_path, "a/b", revision=SHA)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.asked)
    assert ask(hub, tmp_path, "a/b", revision=SHA) == first
    assert len(hub.asked) == asked
    monkeypatch.delenv("HF_HUB_OFFLINE")
    config = ModelConfig(model="a/b", download_dir=str(tmp_path / "cache"), revision=SHA)
    assert Hub(config, endpoint="http://127.0.0.1:9").model("a/b") == first


def test_offline_and_not_cached(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFound, match="not in the cache") as caught:
        ask(hub, tmp_path, "a/b")
    assert "HF_HUB_OFFLINE" in caught.value.hint and hub.asked == []


def test_no_network_and_not_cached(tmp_path, hub):
    config = ModelConfig(model="a/b", download_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        Hub(config, endpoint="http://127.0.0.1:9").model("a/b")
    assert "HTTPS_PROXY" in caught.value.hint


def test_a_gated_repository(hub, tmp_path):
    refuse(hub, "a/b", 403, "GatedRepo")
    with pytest.raises(UserError, match="gated") as caught:
        ask(hub, tmp_path, "a/b")
    assert "HF_TOKEN" in caught.value.hint and "/a/b" in caught.value.hint
    with pytest.raises(UserError) as caught:
        ask(hub, tmp_path, "a/b", hf_token="hf_x")
    assert "account" in caught.value.hint and "hf_x" not in str(caught.value)


def test_a_missing_repository_names_similar_ones(hub, tmp_path):
    refuse(hub, "a/b", 404, "RepoNotFound")
    hub.pages["/api/models"] = json.dumps([{"id": "a/bee", "modelId": "a/bee"}]).encode()
    with pytest.raises(NotFound, match="not on the hub") as caught:
        ask(hub, tmp_path, "a/b")
    assert "a/bee" in caught.value.hint


def test_a_missing_revision(hub, tmp_path):
    hub.pages["/api/models/a/b/revision/v9"] = (404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
    with pytest.raises(NotFound, match="v9") as caught:
        ask(hub, tmp_path, "a/b", revision="v9")
    assert caught.value.field == "revision"


def test_a_name_that_cannot_be(hub, tmp_path):
    with pytest.raises(NotFound, match="neither a path"):
        ask(hub, tmp_path, "not a name!")


def test_the_hub_being_broken_is_no_traceback(hub, tmp_path):
    hub.pages["/api/models/a/b"] = (500, {}, b"oops")
    with pytest.raises(UserError, match="a/b"):
        ask(hub, tmp_path, "a/b")


def test_only_pickles(hub, tmp_path):
    publish(hub, "a/b", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(ArtefactError, match="no safetensors") as caught:
        ask(hub, tmp_path, "a/b")
    assert "convert" in caught.value.hint


def test_a_gguf_repository_wants_one_named(hub, tmp_path):
    publish(hub, "a/b", {"m-Q4_K_M.gguf": b"GGUFm", "m-Q8_0.gguf": b"GGUF8", "README.md": b""})
    with pytest.raises(ArtefactError) as caught:
        ask(hub, tmp_path, "a/b")
    assert "m-Q8_0.gguf" in caught.value.message and "a/b:m-Q4_K_M.gguf" in caught.value.hint
    for file in ("m-Q8_0.gguf", "q8_0"):
        found = ask(hub, tmp_path, "a/b", file)
        assert found.gguf == "m-Q8_0.gguf" and (found.folder / found.gguf).read_bytes() == b"GGUF8"
    with pytest.raises(NotFound, match="Q2"):
        ask(hub, tmp_path, "a/b", "Q2")


def test_only_the_tokenizer(hub, tmp_path):
    publish(hub, "a/b", FULL)
    folder = Hub(ModelConfig(download_dir=str(tmp_path / "cache")), endpoint=hub.url).tokenizer("a/b")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]


def test_what_is_chosen():
    names = ["config.json", "tokenizer.json", "model.safetensors.index.json", "m-1.safetensors", "x.gguf"]
    assert choose("r", names, "auto", None) == (None, [names[0], names[1], names[2], names[3]])
    assert choose("r", names, "gguf", None) == ("x.gguf", ["x.gguf"])
    assert choose("r", ["config.json"], "dummy", None) == (None, ["config.json"])
