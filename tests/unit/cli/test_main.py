import io
import subprocess
import sys

import pytest

from octavo import __version__
from octavo.cli import cache, main
from octavo.core.errors import Fault, NotFound, UserError


def test_version_and_help(capsys):
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"octavo {__version__}\n"
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in main.COMMANDS)
    assert main.main([]) == 2


def test_every_command_exists_and_has_help(capsys):
    for name in main.COMMANDS:
        try:
            status = main.main([name, "--help"])
        except SystemExit as leaving:
            status = leaving.code
        assert status in (0, None)
        assert f"octavo {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, status, says",
    [
        (["serv"], 2, "octavo serve"),
        (["serve", "--port", "x"], 2, "whole number"),
        (["serve", "/nowhere/model.gguf", "--port", "0"], 2, "does not exist"),
        (["pull", "/nowhere/model"], 2, "does not exist"),
        (["bench", "nothing"], 2, "latency, throughput"),
        (["cache", "clear", "none"], 2, "not in the cache"),
        (["chat", "--url", "http://127.0.0.1:9/v1", "-q", "hi"], 2, "octavo serve"),
        (["complete", "--url", "nonsense://x/v1", "-q", "hi"], 2, "not an address"),
    ],
)
def test_errors_are_two_lines_without_a_traceback(words, status, says, monkeypatch, tmp_path):
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "octavo", *words], capture_output=True, text=True)
    assert done.returncode == status
    assert says in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("octavo: ") and len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    "error, status",
    [(UserError("u"), 2), (Fault("f"), 1), (ZeroDivisionError("z"), 1), (KeyboardInterrupt(), 130)],
)
def test_exit_status(error, status, monkeypatch, capsys):
    def run(words):
        raise error

    monkeypatch.setattr(main, "_find", lambda name: run)
    assert main.main(["x"]) == status
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch, capsys):
    def run(words):
        raise Fault("f")

    monkeypatch.setattr(main, "_find", lambda name: run)
    main.main(["x", "--log-level", "debug"])
    assert "Traceback" in capsys.readouterr().err


def test_the_command_line_loads_little():
    code = (
        "import sys; from octavo.cli.main import main; main(['--help']); main(['--version']);"
        "sys.exit(str({'torch', 'httpx', 'rich', 'fastapi', 'zmq', 'msgspec', 'argparse'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def caches(monkeypatch, tmp_path):
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "o"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "h"))
    for folder in (tmp_path / "o" / "models" / "mine", tmp_path / "h" / "models--a--b" / "blobs"):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 2_000_000)
    return tmp_path


def test_cache_list(caches, capsys):
    cache.run(["list"])
    shown = capsys.readouterr().out
    assert "mine" in shown and "a/b" in shown and "2.0 MB" in shown


def test_cache_clear_leaves_other_programs_files(caches):
    cache.run(["clear", "--yes"])
    assert [entry.name for entry in cache.entries()] == ["a/b"]
    cache.run(["clear", "a/b", "--yes"])
    assert cache.entries() == []


def test_packed_weights_are_listed_and_cleared(caches, capsys):
    folder = caches / "o" / "packed"
    folder.mkdir()
    for name in ("mine-0123", "other-4567"):
        (folder / f"{name}.pack").write_bytes(b"x" * 3_000_000)
    cache.run(["list"])
    shown = capsys.readouterr().out
    assert "mine-0123" in shown and "other-4567" in shown and "3.0 MB" in shown
    cache.run(["clear", "mine-0123", "--yes"])
    assert [entry.name for entry in cache.entries()] == ["a/b", "mine", "other-4567"]
    cache.run(["clear", "--yes"])
    assert [entry.name for entry in cache.entries()] == ["a/b"] and not list(folder.iterdir())


def test_cache_clear_asks(caches, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(UserError, match="--yes"):
        cache.run(["clear"])
    with pytest.raises(NotFound, match="mine"):
        cache.run(["clear", "other"])
    assert len(cache.entries()) == 2
