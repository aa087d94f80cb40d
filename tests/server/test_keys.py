"""Keys: where they come from, how they are kept, whose they are."""

from __future__ import annotations

import json

import pytest

from octavo.cli import key as command
from octavo.config.engine import EngineConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import UserError
from octavo.server.keys import KeyRing, hashed, without_plain_keys
from tests.server.asgi import ask
from tests.server.fake_engine import MODEL

TEXT = {"model": MODEL, "prompt": "hello"}


def ring(*keys: str, **more: object) -> KeyRing:
    return KeyRing.of(ServeConfig(api_key=keys, **more))


def test_digests_stand_for_keys():
    found = ring(hashed("first"), "second")
    assert found.find("first") and found.find("second") and found.find("third") is None
    assert found.find(hashed("first")) is None  # whoever reads a digest cannot use it
    assert found.find("first").tenant == ring("first").find("first").tenant


def test_no_key_is_kept():
    serve = without_plain_keys(ServeConfig(api_key=("first", hashed("second"))))
    assert serve.api_key == (hashed("first"), hashed("second")) and without_plain_keys(serve) == serve
    ring_of = KeyRing.of(serve)
    kept = repr([vars(one.account) | {"digest": one.digest} for one in ring_of._known])
    assert "first" not in kept and "second" not in kept


def test_a_file_of_lines(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# ours\nfirst\n\n  {hashed('second')}  \n")
    found = ring("third", api_key_file=str(file))
    assert all(found.find(key) for key in ("first", "second", "third")) and found.find("# ours") is None


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_list_with_names_models_and_limits(tmp_path, suffix):
    file = tmp_path / f"keys{suffix}"
    entry = {"key": "first", "name": "alice", "models": ["a"], "max_requests": 2, "tokens_per_minute": 7}
    file.write_text(json.dumps([entry, "second"]))
    found = ring(api_key_file=str(file), max_requests_per_minute=9, max_tokens_per_minute=8)
    alice, other = found.find("first"), found.find("second")
    assert alice.name == "alice" and alice.may_use("a") and not alice.may_use("b") and other.may_use("b")
    assert (alice.quota.limits.requests, alice.quota.limits.requests_per_minute) == (2, 9)
    assert (alice.quota.limits.tokens_per_minute, other.quota.limits.tokens_per_minute) == (7, 8)


@pytest.mark.parametrize(
    "name,text,word",
    [
        ("keys", "", "no key"),
        ("keys", "# nobody\n", "no key"),
        ("keys", "a b", "header"),
        ("keys", "sha256:12", "64 hexadecimal"),
        ("keys", "same\nsame", "twice"),
        ("keys", "\xff", "UTF-8"),
        ("keys", "x\n" * 600_000, "larger"),
        ("keys", "\n".join(f"k{n}" for n in range(5000)), "5000 keys"),
        ("keys.yaml", "key: x", "not a list"),
        ("keys.yaml", "[", "not YAML"),
        ("keys.yaml", "[{name: x}]", "key"),
        ("keys.yaml", "[{key: secret, nam: x}]", "nam"),
        ("keys.yaml", "[{key: secret, max_requests: x}]", "max_requests"),
        ("keys.yaml", "[{key: secret, max_requests: -1}]", "below 0"),
        ("keys.yaml", "[{key: k, name: x}, {key: l, name: x}]", "name 'x'"),
        ("keys.yaml", "[!!python/object/apply:os.getcwd []]", "not YAML"),
    ],
)
def test_a_file_that_does_not_do(tmp_path, name, text, word):
    file = tmp_path / name
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        ring(api_key_file=str(file))
    assert word in str(caught.value) and "secret" not in str(caught.value)
    assert caught.value.field in ("api_key", "api_key_file")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        ring(api_key_file=str(tmp_path / "none"))


@pytest.mark.parametrize("key", ["", "a b", "ü", "a\n", "x" * 2000])
def test_a_key_no_header_could_carry(key):
    for make in (ring, lambda key: without_plain_keys(ServeConfig(api_key=(key,)))):
        with pytest.raises(UserError) as caught:
            make(key)
        assert not key or key not in str(caught.value)


async def test_a_key_sees_only_its_models(open_house, tmp_path):
    file = tmp_path / "keys.yaml"
    file.write_text(f"- {{key: mine, models: [{MODEL}]}}\n- {{key: none, models: [other]}}\n")
    house = open_house(config=EngineConfig(serve=ServeConfig(api_key_file=str(file))))
    mine, none = {"x-api-key": "mine"}, {"x-api-key": "none"}
    assert (await ask(house.app, "POST", "/v1/completions", TEXT, headers=mine)).status == 200
    for method, path, body in (
        ("POST", "/v1/completions", TEXT),
        ("POST", "/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "a"}]}),
        ("POST", "/tokenize", {"prompt": "hello"}),
        ("POST", "/detokenize", {"tokens": [1]}),
        ("GET", f"/v1/models/{MODEL}", None),
    ):
        reply = await ask(house.app, method, path, body, headers=none)
        assert reply.status == 404 and reply.error["param"] == "model", path
    assert (await ask(house.app, "GET", "/v1/models", headers=none)).json()["data"] == []
    assert len((await ask(house.app, "GET", "/v1/models", headers=mine)).json()["data"]) == 1


async def test_the_header_of_anthropics_clients(open_house):
    house = open_house(config=EngineConfig(serve=ServeConfig(api_key=("k",))))
    for headers, status in (
        ({"x-api-key": "k"}, 200),
        ({"x-api-key": "l"}, 401),
        ({"x-api-key": "k", "Authorization": "Bearer l"}, 401),
        ({"x-api-key": "k", "Authorization": "Basic eA=="}, 200),
    ):
        assert (await ask(house.app, "GET", "/v1/models", headers=headers)).status == status


def test_every_key_is_compared(monkeypatch):
    """However early one matches: the time taken does not tell which it was."""
    seen = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: seen.append(b) or a == b)
    found = ring("a", "b", "c")
    for key in ("a", "c", "nobody"):
        seen.clear()
        found.find(key)
        assert len(seen) == 3


def test_the_command_makes_keys(capsys):
    assert command.run([]) == 0
    key, digest = (line.split()[1] for line in capsys.readouterr().out.splitlines())
    assert digest == hashed(key) and len(key) > 40
    assert command.run(["--of", "k"]) == 0 and hashed("k") in capsys.readouterr().out
