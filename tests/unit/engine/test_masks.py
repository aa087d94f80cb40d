"""Grammars in the engine: waiting aside, failing alone, following outputs, and the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from octavo.config.engine import EngineConfig
from octavo.config.grammar import GrammarConfig
from octavo.core.errors import UserError
from octavo.core.facts import Ready
from octavo.core.request import EngineRequest, Finish, GrammarSpec, Sampling
from octavo.engine.core import EngineCore
from octavo.engine.inline import InlineClient
from octavo.engine.masks import Grammars
from octavo.executor.inline import InlineExecutor
from octavo.grammar.compile import Compiler
from tests.fakes import VOCAB, FakeRunner, naive
from tests.unit.engine.conftest import files, request
from tests.unit.engine.fake_core import SHAPE

EOS = 5


class Even:
    """Allows even tokens, `most` of them; then nothing but the end. "broken" dies at the second mask."""

    def __init__(self, text: str, taken: int = 0) -> None:
        self.text = text
        self.taken = taken

    def copy(self) -> Even:
        return Even(self.text, self.taken)

    def accept(self, token: int) -> bool:
        fits = token % 2 == 0 and self.taken < 6
        self.taken += fits
        return fits

    def rollback(self, count: int) -> None:
        self.taken -= count

    def fill(self) -> bytes:
        even = sum(1 << token for token in range(0, VOCAB, 2)) if self.taken < 6 else 0
        return even.to_bytes(4, "little")

    def forced(self) -> list[int]:
        return []

    @property
    def may_end(self) -> bool:
        return self.taken >= 3

    @property
    def error(self) -> str | None:
        return "too complex" if self.text == "broken" and self.taken == 2 else None


class Backend:
    def __init__(self) -> None:
        self.go = threading.Event()

    def compile(self, spec: GrammarSpec) -> Even:
        if spec.text == "slow":
            assert self.go.wait(30)
        if spec.text == "bad":
            raise UserError("no such rule")
        if spec.text == "bug":
            raise ZeroDivisionError
        return Even(spec.text)


def constrained(id: str, text: str = "fine", **more: object) -> EngineRequest:
    sampling = Sampling(**{"max_tokens": 12, "eos": (EOS,), **more.pop("sampling", {})})
    return EngineRequest(
        id=id, tokens=(1, 2, 3), seed=len(id), sampling=sampling, grammar=GrammarSpec("x", text), **more
    )


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def core(backend):
    made = EngineCore(
        EngineConfig(),
        files(),
        InlineExecutor(lambda: FakeRunner(SHAPE)),
        make_backend=lambda files, ready, name: backend,
    )
    made.start(lambda stage, share: None)
    yield made
    backend.go.set()
    made.close()


def drain(core: EngineCore, until: str | None = None) -> dict[str, tuple[list[int], Finish | None, str]]:
    told: dict[str, tuple[list[int], Finish | None, str]] = {}
    while core.busy:
        deltas = core.step()
        for delta in deltas:
            tokens = told.setdefault(delta.id, ([], None, ""))[0] + list(delta.tokens)
            assert delta.refused is (delta.finish is Finish.ERROR)
            told[delta.id] = (tokens, delta.finish, delta.error or "")
        if until in told and told[until][1] is not None:
            break
        if not deltas and not core.in_flight:
            core.pause(10)
    return told


def test_outputs_keep_to_the_grammar(core):
    asked = [constrained("c" * n) for n in range(1, 7)]
    free = request("free", max_tokens=12)
    core.add([*asked, free])
    told = drain(core)
    for one in asked:
        tokens, finish, _ = told[one.id]
        assert finish is Finish.STOP and tokens[-1] == EOS and 3 <= len(tokens) - 1 <= 6
        assert all(token % 2 == 0 for token in tokens[:-1])
    assert tuple(told["free"][0]) == naive(free, SHAPE).tokens
    assert core.stats().overlapped > 0


def test_a_request_waits_aside_while_its_grammar_is_compiled(core, backend):
    core.add([constrained("slow", "slow"), constrained("fine"), request("free")])
    told = drain(core, until="fine")
    assert told["fine"][1] is Finish.STOP and "slow" not in told
    backend.go.set()
    assert drain(core)["slow"][1] is Finish.STOP


@pytest.mark.parametrize(
    ("text", "says"), [("bad", "no such rule"), ("bug", "ZeroDivisionError"), ("broken", "too complex")]
)
def test_what_goes_wrong_ends_one_request(core, text, says):
    core.add([constrained("it", text), constrained("fine")])
    told = drain(core)
    assert told["it"][1] is Finish.ERROR and says in told["it"][2]
    assert told["fine"][1] is Finish.STOP


def test_waiting_too_long_is_an_error(backend):
    now = [0.0]
    compiler = Compiler(lambda: backend, keep=4)
    grammars = Grammars(compiler, VOCAB, (EOS,), timeout=3, clock=lambda: now[0])
    one = constrained("slow", "slow")
    grammars.open(one)
    assert not grammars.ready(one) and grammars.failures() == {}
    now[0] = 4.0
    assert "longer than 3 s" in grammars.failures()["slow"]
    assert grammars.failures() == {} and not grammars.ready(one)
    backend.go.set()
    compiler.close()


def test_settings_that_leave_no_token_are_an_error(core, backend):
    grammars = core._grammars
    one = constrained("it")
    grammars.open(one)
    grammars.wait(10)
    assert grammars.ready(one)
    grammars.accept("it", (2, 3))
    assert "leave no token" in grammars.failures()["it"]
    assert grammars.fill("it", ()) == b"\xff" * 4  # nobody will see the token


def test_drafts_are_tried_and_taken_back(core):
    grammars = core._grammars
    one = constrained("it")
    grammars.open(one)
    grammars.wait(10)
    assert grammars.ready(one)
    first = grammars.fill("it", ())
    assert grammars.fill("it", (2, 4, 6)) == _with_end(first)
    assert grammars.fill("it", (2, 3)) is None
    assert grammars.fill("it", (2, 4, 6, EOS)) == (1 << EOS).to_bytes(4, "little")
    assert grammars.fill("it", (EOS,)) is None
    assert grammars.fill("it", ()) == first


def _with_end(bits: bytes) -> bytes:
    return (int.from_bytes(bits, "little") | 1 << EOS).to_bytes(4, "little")


def test_replay_goes_on_where_the_output_ended(core):
    core.add([constrained("it")])
    tokens = drain(core)["it"][0]
    for cut in range(1, len(tokens)):
        core.add([constrained("it", output=tuple(tokens[:cut]))])
        assert tokens[:cut] + drain(core)["it"][0] == tokens


def test_an_output_that_does_not_fit_is_refused(core):
    core.add([constrained("it", output=(3,))])
    assert "does not fit" in drain(core)["it"][2]


def test_aborted_requests_leave_nothing_behind(core, backend):
    core.add([constrained("slow", "slow"), constrained("fine"), constrained("again"), constrained("again")])
    core.step()
    core.abort(["slow", "fine"])
    drain(core)
    backend.go.set()
    grammars = core._grammars
    assert not grammars._open and not grammars._compiling and not grammars._failed


def test_a_taken_id_does_not_touch_the_grammar_of_its_owner(core):
    core.add([constrained("it"), constrained("it", "bad")])
    told: list[tuple[Finish, int]] = []
    while core.busy:
        told += [(d.finish, len(d.tokens)) for d in core.step() if d.finish is not None]
        core.pause(10) if not core.in_flight else None
    assert [finish for finish, _ in told] == [Finish.ERROR, Finish.STOP]


def test_an_inline_client_sleeps_while_only_a_grammar_is_awaited(backend):
    core = InlineClient(EngineConfig(), files(), executor=InlineExecutor(lambda: FakeRunner(SHAPE)))
    core._core._make_backend = lambda files, ready, name: backend
    core.submit([constrained("slow", "slow")])
    turns = 0
    while core.busy:
        turns += 1
        if turns == 3:
            backend.go.set()
        core.step()
    assert turns < 200
    core.close()


class Certain(Even):
    """Leaves no choice at all."""

    said = (2, 4, 6, 8, 10, 12)

    def copy(self) -> Certain:
        return Certain(self.text, self.taken)

    def accept(self, token: int) -> bool:
        fits = self.taken < 6 and token == self.said[self.taken]
        self.taken += fits
        return fits

    def fill(self) -> bytes:
        return sum(1 << token for token in self.said[self.taken :][:1]).to_bytes(4, "little")

    def forced(self) -> list[int]:
        return list(self.said[self.taken :])

    @property
    def may_end(self) -> bool:
        return self.taken == 6


class Blind(FakeRunner):
    """A device that checks no drafts."""

    def start(self, progress: Callable[[str, float], None]) -> Ready:
        return msgspec.structs.replace(super().start(progress), verifies=False)


@pytest.mark.parametrize("device", [FakeRunner, Blind])
@pytest.mark.parametrize("wanted", [True, False])
def test_certain_tokens_go_ahead_where_the_device_verifies(backend, device, wanted):
    backend.compile = lambda spec: Certain(spec.text)
    made = EngineCore(
        EngineConfig(grammar=GrammarConfig(jump_ahead=wanted)),
        files(),
        InlineExecutor(lambda: device(SHAPE)),
        make_backend=lambda files, ready, name: backend,
    )
    made.start(lambda stage, share: None)
    made.add([constrained("a"), constrained("b")])
    told = drain(made)
    assert told["a"][0] == told["b"][0] == [*Certain.said, EOS]
    assert (made.stats().jumped > 0) is (wanted and device is FakeRunner)
    made.close()
