"""How a core is told its settings, and what its end is called."""

from __future__ import annotations

import io
import os
import struct

import pytest

from octavo.config.engine import EngineConfig
from octavo.core import errors
from octavo.core.errors import EngineError, Fault
from octavo.core.mail import Failed
from octavo.engine.lifecycle import BOOT, Boot, describe_exit, private_folder, read_boot, rebuild_error
from octavo.engine.process import failure
from tests.unit.engine.conftest import files


def frame(boot: Boot) -> bytes:
    data = BOOT.encode(boot)
    return struct.pack("<I", len(data)) + data


def test_settings_arrive_as_they_were_sent():
    config = EngineConfig.from_flat(
        {
            "model": "m",
            "hf_token": "secret",
            "api_key": ("a", "b"),
            "hf_overrides": {"x": [1, {"y": None}]},
            "block_size": 32,
        }
    )
    boot = Boot(config, files("n"), "ipc:///x", 7)
    assert read_boot(io.BytesIO(frame(boot) + b"later")) == boot


@pytest.mark.parametrize("cut", [0, 2, 4, 10, -1])
def test_settings_that_are_cut_off(cut):
    whole = frame(Boot(EngineConfig(), files(), "ipc:///x", 7))
    with pytest.raises(Fault, match="cut off"):
        read_boot(io.BytesIO(whole[:cut]))


def test_sizes_are_checked_before_anything_is_read():
    with pytest.raises(Fault, match="cut off"):
        read_boot(io.BytesIO(struct.pack("<I", 1 << 31) + b"x"))


@pytest.mark.parametrize(
    "kind", [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, EngineError)]
)
def test_every_error_comes_back_in_its_class(kind):
    error = rebuild_error(failure(kind("what", hint="how")))
    assert type(error) is (Fault if kind is errors.Overloaded else kind)
    assert (error.message, error.hint) == ("what", "how")


@pytest.mark.parametrize("kind", ["KeyError", "annotations", "__name__", "", "os.system"])
def test_unknown_kinds_are_faults(kind):
    assert type(rebuild_error(Failed(kind, "x"))) is Fault


def test_ends_have_names():
    assert describe_exit(3) == "ended with status 3"
    assert describe_exit(-11) == "was ended by SIGSEGV"
    assert "memory" in describe_exit(-9)


def test_sockets_live_where_nobody_else_can_go(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = private_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    for odd in ("/no/such/folder", "/" + "x" * 100):
        monkeypatch.setenv("XDG_RUNTIME_DIR", odd)
        other = private_folder()
        assert len(str(other)) < 90 and other.exists()
        os.rmdir(other)
