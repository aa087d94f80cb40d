"""Names of blocks."""

from __future__ import annotations

from array import array

from octavo.core.request import EngineRequest, MediaSpan
from octavo.scheduler.hashing import Chain, root


def names(tokens: tuple[int, ...], start: bytes = b"root", media: tuple[MediaSpan, ...] = ()) -> list[bytes]:
    return Chain(start, 2, media).extend(array("i", tokens), len(tokens) // 2)


def test_a_name_stands_for_everything_before_it() -> None:
    assert names((1, 2, 3, 4)) == names((1, 2, 3, 4, 5))
    assert names((1, 2, 3, 4))[0] == names((1, 2, 9, 9))[0]
    assert names((1, 2, 3, 4))[1] != names((9, 9, 3, 4))[1]
    assert names((1, 2), b"a") != names((1, 2), b"b")
    assert all(len(name) == 32 for name in names((1, 2, 3, 4)))


def test_names_grow_with_the_tokens() -> None:
    tokens = array("i", (1, 2, 3))
    chain = Chain(b"root", 2)
    first = list(chain.extend(tokens, 1))
    tokens.extend((4, 5, 6))
    assert chain.extend(tokens, 3)[:1] == first
    assert chain.keys == names((1, 2, 3, 4, 5, 6))


def test_large_and_close_ids_differ() -> None:
    assert names((1, 256)) != names((257, 0)) != names((1 << 20, 0))


def test_the_root_knows_model_adapter_and_salt() -> None:
    def of(model: str = "m", **fields: str) -> bytes:
        return root(model, EngineRequest(id="x", tokens=(1,), seed=0, **fields))  # type: ignore[arg-type]

    roots = [of(), of("n"), of(adapter="a"), of(salt="a"), of(adapter="as"), of(adapter="a", salt="s")]
    assert len(set(roots)) == len(roots)
    assert of() == root("m", EngineRequest(id="y", tokens=(2,), seed=9))


def test_media_changes_the_blocks_it_touches_and_all_after() -> None:
    plain = names((1, 2, 3, 4, 5, 6))
    shown = names((1, 2, 3, 4, 5, 6), media=(MediaSpan(b"h", 3, 1),))
    other = names((1, 2, 3, 4, 5, 6), media=(MediaSpan(b"g", 3, 1),))
    assert plain[0] == shown[0] == other[0]
    assert len({plain[1], shown[1], other[1]}) == len({plain[2], shown[2], other[2]}) == 3
