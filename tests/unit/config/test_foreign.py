import pytest

from octavo.config.engine import EngineConfig, owners
from octavo.config.foreign import FOREIGN, apply_foreign, foreign, known
from octavo.core.errors import Unsupported


def test_nothing_is_both_ours_and_foreign():
    assert not set(FOREIGN) & set(owners())


@pytest.mark.parametrize("name", FOREIGN)
def test_neutral_values_are_silent(name):
    for value in (None, "", [], {}, False, *FOREIGN[name].neutral, *map(str, FOREIGN[name].neutral)):
        assert foreign(name, value) is None


@pytest.mark.parametrize("name", FOREIGN)
def test_other_values_are_explained(name):
    if FOREIGN[name].ignored:
        assert FOREIGN[name].why in foreign(name, "something")
        return
    with pytest.raises(Unsupported) as caught:
        foreign(name, "something")
    assert caught.value.field == name and caught.value.hint and FOREIGN[name].why in caught.value.message


def test_spellings():
    assert known("--tensor-parallel-size") and known("tensor_parallel_size") and not known("port")


def test_the_rest_goes_on():
    assert apply_foreign({"swap_space": 4, "port": 1, "tensor_parallel_size": 1}) == {"port": 1}


def test_llm_arguments_take_the_same_way():
    with pytest.raises(Unsupported, match="speculative"):
        EngineConfig.from_flat({"speculative_config": {"method": "ngram"}})
    assert EngineConfig.from_flat({"swap_space": 4}) == EngineConfig()
