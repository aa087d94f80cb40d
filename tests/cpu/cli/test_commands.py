"""Commands that need the engine in this process, with the default model."""

import gzip
import json

import pytest

from octavo.cli import doctor
from octavo.cli.bench import latency, throughput


def examined(capsys, *words: str):
    status = doctor.run([*words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_doctor_says_what_was_decided_and_why(default_model, capsys):
    status, found = examined(capsys, "--max-model-len", "1K", "--dtype", "float32")
    assert status == 0
    decided = {row["field"]: row for row in found["model"]["decisions"]}
    assert decided["attention"]["why"]
    rows = {row["name"]: row["bytes"] for row in found["model"]["memory"]}
    assert rows["weights"] > 4 * 134_000_000 and rows["KV cache"] > 0
    assert found["device"]["kind"] in ("cpu", "cuda") and found["device"]["cores"] >= 1
    assert "SmolLM2-135M-Instruct" in found["caches"]


def test_doctor_says_where_kernels_are_kept(monkeypatch, tmp_path, capsys):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path / "home"))
    _, found = examined(capsys)
    assert found["caches"]["kernels"] == str(tmp_path / "kernels")


def test_doctor_text_is_for_people(default_model, capsys):
    doctor.run([])
    shown = capsys.readouterr().out
    for word in ("device", "memory plan", "KV cache", "attention", "LlamaForCausalLM", "torch"):
        assert word in shown


def test_doctor_reports_what_does_not_fit(default_model, capsys):
    status, found = examined(capsys, "--kv-cache-memory-bytes", "900T")
    assert status == 1 and "--kv-cache-memory-bytes" in found["model"]["hint"]


@pytest.mark.parametrize(
    "words, formats, why",
    [
        (("--dtype", "bfloat16"), "BF16", "--quantization gguf"),
        (("--quantization", "gguf"), "Q4_1, Q8_0", "the file's own blocks"),
        (("--quantization", "int8"), "Q4_1, Q8_0", "more than 8 bits"),
        (("--dtype", "float32"), "F32", "dtype was given"),
    ],
)
def test_doctor_says_how_weights_are_kept(default_model, capsys, words, formats, why):
    _, found = examined(capsys, *words)
    decided = {row["field"]: row for row in found["model"]["decisions"]}
    assert decided["weights"]["value"] == formats and why in decided["weights"]["why"]
    assert decided["cpu_threads"]["why"] and decided["weight_pages"]["why"]


def test_doctor_without_a_cached_model_fetches_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OCTAVO_HOME", str(tmp_path))
    status, found = examined(capsys)
    assert status == 0 and "octavo pull" in found["model"]["note"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "mode, words, figure",
    [
        (latency, ["--batch-size", "2", "--num-iters", "2", "--num-iters-warmup", "1"], "latency_s"),
        (throughput, ["--num-prompts", "3"], "output_tokens_per_s"),
    ],
)
def test_offline_benchmarks(default_model, capsys, tmp_path, mode, words, figure):
    profile = ["--profile", "--profiler-dir", str(tmp_path)]
    mode.run(
        [
            *words,
            *profile,
            "--input-len",
            "8",
            "--output-len",
            "4",
            "--max-model-len",
            "128",
            "--max-num-seqs",
            "4",
        ]
    )
    found = json.loads(capsys.readouterr().out)
    assert found[figure] and found["input_len"] == 8 and found["versions"]["torch"]
    assert found["settings"]["max_model_len"] == "128" and "hf_token" not in found["settings"]
    [trace] = tmp_path.iterdir()
    assert found["profile"] == str(trace)
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
