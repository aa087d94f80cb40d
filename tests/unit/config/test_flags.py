import dataclasses
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.cli.serve import parser, with_environment
from octavo.config.engine import PARTS, EngineConfig, owners
from octavo.config.flags import build
from octavo.config.values import flag
from octavo.core.errors import Unsupported, UserError

ROOT = Path(__file__).resolve().parents[3]


def parse(*words: str) -> EngineConfig:
    return build(parser(), words)[0]


def test_no_words_give_the_defaults():
    assert parse() == EngineConfig()


def test_dashes_and_underscores_are_alike():
    assert parse("m", "--max_model_len", "4K", "--port=99") == parse(
        "m", "--max-model-len=4096", "--port", "99"
    )


def test_values_with_underscores_stay_as_they_are():
    assert parse("--served_model_name=my_model").model.served_model_name == ("my_model",)


def test_switches_and_their_negation():
    assert parse("--no-enable-prefix-caching").cache.enable_prefix_caching is False
    assert parse("--no-enable_prefix_caching", "--enable-prefix-caching").cache.enable_prefix_caching is True


def test_lists_repeat_or_follow_or_use_commas():
    for words in (["a", "b"], ["a,b"], ["a", "--served-model-name", "b"], ['["a","b"]']):
        assert parse("--served-model-name", *words).model.served_model_name == ("a", "b")


def test_keys_are_repeated_or_separated_by_commas():
    assert parse("--api-key", "a,b", "--api-key", "c").serve.api_key == ("a", "b", "c")


def test_json_whole_and_dotted():
    assert parse("--hf-overrides", '{"a": {"b": 1}}') == parse("--hf_overrides.a.b", "1")
    assert parse("--hf-overrides.name=x_y").model.hf_overrides == {"name": "x_y"}


@pytest.mark.parametrize("words", [("m",), ("--model", "m"), ("--model=m",), ("m", "--model", "m")])
def test_model_by_place_or_flag(words):
    assert parse(*words).model.model == "m"


def test_two_models_are_an_error():
    with pytest.raises(UserError, match="two models"):
        parse("m", "--model", "n")


def test_an_unknown_flag_names_its_neighbours():
    with pytest.raises(UserError, match="--port"):
        parse("--prot", "1")
    with pytest.raises(UserError, match="unexpected argument"):
        parse("m", "n")


def test_abbreviations_are_not_guessed():
    with pytest.raises(UserError, match="unknown flag"):
        parse("--max-model", "5")


def config_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "octavo.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_lies_below_the_command_line(tmp_path):
    path = config_file(
        tmp_path,
        "model: below\nport: 7\nserved_model_name: [a, b]\nenable-prefix-caching: false\n"
        "override_generation_config: {temperature: 0.5}\nrevision:\ntensor_parallel_size: 1\n",
    )
    config = parse("--config", path, "--port", "9", "--served-model-name", "c")
    assert config.model.model == "below"
    assert config.serve.port == 9
    assert config.model.served_model_name == ("c",)
    assert config.cache.enable_prefix_caching is False
    assert config.model.override_generation_config == {"temperature": 0.5}
    assert parse("above", "--config", path).model.model == "above"


@pytest.mark.parametrize(
    "text, says",
    [
        ("prot: 1", "--port"),
        ("config: other.yaml", "unknown flag"),
        ("port: [", "not YAML"),
        ("- port", "no settings"),
        ("port: many", "whole number"),
        ("port: true", "--port"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, text, says):
    with pytest.raises(UserError, match=says):
        parse("--config", config_file(tmp_path, text))


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        parse("--config", str(tmp_path / "none.yaml"))


def test_foreign_flags(caplog):
    with caplog.at_level(logging.WARNING):
        parse(
            "-tp", "1", "--swap-space", "4", "-O3", "--compilation-config.mode", "3", "--no-enable-lora", "m"
        )
    said = caplog.text
    assert "swap_space has no effect" in said and "optimization_level has no effect" in said
    assert "tensor_parallel_size" not in said and "enable_lora" not in said
    for words in (["-tp", "2"], ["--enable-lora"], ["--speculative-config", '{"method": "ngram"}']):
        with pytest.raises(Unsupported) as caught:
            parse(*words)
        assert caught.value.hint


def test_every_flag_round_trips():
    for part, setting in owners().values():
        if setting.name == "model":
            continue
        word = flag(setting)
        if setting.kind is bool:
            words, value = [word if not setting.default else f"--no-{word[2:]}"], not setting.default
        elif setting.option.choices:
            words, value = [word, setting.option.choices[-1]], setting.option.choices[-1]
        elif setting.option.kind == "json":
            words, value = [word, '{"a": 1}'], {"a": 1}
        elif setting.kind is tuple:
            words, value = [word, "x"], ("x",)
        elif setting.kind in (int, float):
            value = setting.kind(setting.option.high or (setting.option.low or 0) + 5)
            words = [word, str(value)]
        else:
            words, value = [word, "x"], "x"
        assert getattr(getattr(parse(*words), part), setting.name) == value, word


def test_options_belong_to_one_part():
    names = [f.name for kind in PARTS.values() for f in dataclasses.fields(kind)]
    assert len(names) == len(set(names)) == len(owners())


def test_the_key_of_the_environment_is_a_default(monkeypatch):
    monkeypatch.setenv("OCTAVO_API_KEY", "k")
    assert with_environment(EngineConfig()).serve.api_key == ("k",)
    assert with_environment(parse("--api-key", "own")).serve.api_key == ("own",)
    monkeypatch.setenv("OCTAVO_API_KEY", "k, l")
    assert with_environment(EngineConfig()).serve.api_key == ("k", "l")
    monkeypatch.setenv("OCTAVO_API_KEY", " , ")
    with pytest.raises(UserError, match="holds no key"):
        with_environment(EngineConfig())


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = capsys.readouterr().out
    assert all(flag(setting) in shown for _, setting in owners().values() if setting.name != "model")
    assert "--tensor-parallel-size" not in shown


def test_the_reference_pages_are_up_to_date():
    script = ROOT / "scripts" / "reference"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
