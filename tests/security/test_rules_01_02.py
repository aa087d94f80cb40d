"""1: nothing that is sent or loaded is executed. 2: no socket is open to the network unasked."""

from __future__ import annotations

import ast
import base64
import pickle
import socket
import stat
from pathlib import Path

import psutil
import pytest

from octavo.checkpoint.find import locate
from octavo.config.model import ModelConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from tests.security.target import DIALECTS, Target
from tests.unit.test_house import TREES, called, test_nothing_can_execute_data

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("prompt_embeds", "logits_processors", "kv_transfer_params", "vllm_xargs", "extra_args", "tools")


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.mkdir, (self.path,)


def test_rule_01_a_pickle_in_any_field_is_not_opened(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "sprung"
    data = pickle.dumps(Trap(path))
    text = base64.b64encode(data).decode()
    for route in target.dialects:
        good = DIALECTS[route]("hello")
        for field in FIELDS:
            for value in (text, [text], {"a": text}):
                assert target.post(route, {**good, field: value}).status_code < 500
        target.ask("POST", route, raw=data)
        target.ask("POST", route, raw=data, headers={"Content-Type": "application/octet-stream"})
    assert not path.exists()


def test_rule_01_code_in_any_field_is_not_run(target: Target, tmp_path: Path) -> None:
    """As an argument of a tool call (which was once read with eval), a template, a grammar, a pattern."""
    path = tmp_path / "sprung"
    code = f"__import__('pathlib').Path({str(path)!r}).mkdir()"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": code}}
    messages = [
        {"role": "user", "content": code},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": code},
    ]
    chat = "/v1/chat/completions"
    for more in (
        {},
        {"chat_template": "{{ " + code + " }}"},
        {"chat_template_kwargs": {"x": code}},
        {"structured_outputs": {"grammar": code}},
        {"structured_outputs": {"regex": code}},
        {"structured_outputs": {"json": code}},
    ):
        reply = target.post(chat, {"messages": messages, "max_tokens": 4, **more})
        assert reply.status_code < 500, reply.text
    assert not path.exists()


@pytest.mark.this_tree
def test_rule_01_source_can_not_execute_data() -> None:
    test_nothing_can_execute_data()
    unsafe = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if called(node) in {"yaml.load", "yaml.unsafe_load", "os.system", "compile", "importlib.reload"}
        or (called(node) == "np.load" and "allow_pickle" in ast.unparse(node))
    ]
    assert unsafe == []


@pytest.mark.this_tree
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_rule_01_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (tmp_path / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError):
        locate(ModelConfig(model=str(tmp_path)))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.this_tree
def test_rule_02_every_socket_of_the_server_is_on_loopback_or_private(target: Target) -> None:
    assert target.server is not None
    listening = [
        connection.laddr.ip
        for process in target.server.family()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]  # HTTP, and nothing else
    paths = {
        Path(connection.laddr)
        for process in target.server.family()
        for connection in process.net_connections("unix")
        if isinstance(connection.laddr, str) and connection.laddr.startswith("/")
    }
    assert paths  # front and core do talk
    for path in paths:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700 and path.parent.owner() == path.owner()


@pytest.mark.this_tree
def test_rule_02_nothing_binds_to_all_addresses_in_the_source() -> None:
    assert ServeConfig().host == "127.0.0.1"
    places = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if called(node).rpartition(".")[2] in ("bind", "create_server", "start_server")
    ]
    assert {place.partition(":")[0] for place in places} <= {
        "octavo/server/port.py",  # the address of the settings
        "octavo/engine/client.py",  # ipc:// in a private folder
        "octavo/cli/bench/startup.py",  # looks for a free port of 127.0.0.1
    }, places
    assert socket.gethostbyname("localhost").startswith("127.")
