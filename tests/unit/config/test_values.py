import pytest

from octavo.config.engine import EngineConfig, owners
from octavo.config.values import checked, size
from octavo.core.errors import UserError


@pytest.mark.parametrize(
    "text, value",
    [
        ("4096", 4096),
        ("4k", 4000),
        ("4K", 4096),
        ("4KiB", 4096),
        ("4kib", 4096),
        ("1.5g", 1_500_000_000),
        ("2GiB", 2 << 30),
        ("2GB", 2 << 30),
        ("3m", 3_000_000),
        ("1T", 1 << 40),
        (" 7 ", 7),
    ],
)
def test_sizes(text, value):
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "k", "4x", "-1", "1.5", "4 4", "1e9", "0x10", "4iB", "inf"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError):
        size(text)


@pytest.mark.parametrize(
    "name, value, wanted",
    [
        ("port", 99999, "from 0 to 65535"),
        ("port", "http", "whole number"),
        ("port", True, "whole number"),
        ("port", 80.5, "whole number"),
        ("block_size", 0, "from 1 to 256"),
        ("gpu_memory_utilization", "nan", "0.01 to 1"),
        ("gpu_memory_utilization", 0, "0.01 to 1"),
        ("gpu_memory_utilization", float("inf"), "0.01 to 1"),
        ("dtype", "bfloat", "did you mean float?"),
        ("dtype", 16, "one of auto"),
        ("hf_overrides", "[1]", "JSON object"),
        ("hf_overrides", "{", "JSON object"),
        ("served_model_name", [1], "names"),
        ("served_model_name", [""], "names"),
        ("enable_prefix_caching", "maybe", "true or false"),
        ("model", 7, "text"),
        ("max_model_len", -5, "at least 1"),
        ("kv_cache_memory_bytes", "lots", "2GiB"),
        ("cpu_threads", 0, "from 1 to 1024"),
        ("cpu_threads", 2.5, "whole number"),
        ("cpu_threads", 1025, "from 1 to 1024"),
        ("cpu_level", 2, "text"),
        ("weight_pages", "share", "did you mean shared?"),
        ("weight_cache_bytes", -1, "at least 0"),
        ("weight_cache_bytes", "much", "2GiB"),
        ("quantization", "int4", "did you mean int8?"),
    ],
)
def test_a_bad_value_names_flag_and_limit(name, value, wanted):
    with pytest.raises(UserError) as caught:
        EngineConfig.from_flat({name: value})
    assert caught.value.field == name
    assert "--" + name.replace("_", "-") in caught.value.message
    assert wanted in caught.value.hint


def test_a_bad_key_is_not_shown():
    with pytest.raises(UserError) as caught:
        EngineConfig.from_flat({"api_key": ["sk-secret", 3]})
    assert "sk-secret" not in str(caught.value)


def test_python_values_are_taken_as_they_are(tmp_path):
    config = EngineConfig.from_flat(
        {"model": tmp_path, "max_model_len": 128, "served_model_name": ["a", "b"], "hf_overrides": {"x": 1}}
    )
    assert config.model.model == str(tmp_path)
    assert config.model.max_model_len == 128
    assert config.model.served_model_name == ("a", "b")
    assert config.model.hf_overrides == {"x": 1}


@pytest.mark.parametrize("value", ["auto", "-1", -1, None])
def test_automatic_length(value):
    assert EngineConfig.from_flat({"max_model_len": value}).model.max_model_len is None


def test_an_unknown_setting_names_its_neighbours():
    with pytest.raises(UserError, match="max_model_len"):
        EngineConfig.from_flat({"max_model_length": 5})


def test_every_default_is_within_its_own_limits():
    for _, setting in owners().values():
        assert checked(setting, setting.default) == setting.default
        assert setting.option.help


@pytest.mark.parametrize(
    "text, value",
    [("FLASHINFER", "flashinfer"), ("TRITON_ATTN", "triton"), ("Triton", "triton"), ("auto", "auto")],
)
def test_attention_backends_by_their_names_here_and_in_vllm(text, value):
    assert checked(owners()["attention_backend"][1], text) == value
    assert EngineConfig.from_flat({"attention_backend": text}).model.attention_backend == value


@pytest.mark.parametrize("text", ["FLASH_ATTN", "flashinfer2", ""])
def test_other_attention_backends_are_refused(text):
    with pytest.raises(UserError, match="one of auto, triton, flashinfer"):
        EngineConfig.from_flat({"attention_backend": text})
