from pathlib import Path

import pytest

from octavo.config import env


def test_only_listed_names_are_read():
    with pytest.raises(KeyError):
        env.read("PATH")
    assert len(env.NAMES) <= 15


def test_homes(monkeypatch, tmp_path):
    for name in ("OCTAVO_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    assert env.octavo_home() == Path("~/.cache/octavo").expanduser()
    assert env.hub_cache() == Path("~/.cache/huggingface/hub").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert env.octavo_home() == tmp_path / "octavo"
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "o"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "h"))
    assert env.octavo_home() == tmp_path / "o"
    assert env.hub_cache() == tmp_path / "h" / "hub"


@pytest.mark.parametrize("value, yes", [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)])
def test_flags(monkeypatch, value, yes):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert env.flag("HF_HUB_OFFLINE") is yes


def test_waiting_threads_are_calmed_unless_the_user_chose(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    env.calm_threads()
    assert env.read("GOMP_SPINCOUNT") is None
    monkeypatch.delenv("OMP_WAIT_POLICY")
    env.calm_threads()
    assert env.read("GOMP_SPINCOUNT") == "1000"
