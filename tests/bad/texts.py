"""Tokenizers and chat templates: those that cannot be read, and templates that do what none may."""

from __future__ import annotations

from typing import Any

from octavo.core.errors import UserError
from octavo.text.sandbox import TooMuch
from tests.bad.breaking import amend, both, cut, nothing, remove, swell, write
from tests.bad.row import artefact
from tests.bad.sound import VOCAB

TOKENIZER, WORDS, JINJA = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
FETCH, ANOTHER, TEMPLATE = "fetch the file again", "--chat-template", "chat_template"
FOREIGN = {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}
NOT_A_TOKENIZER = {
    "empty": write(TOKENIZER, ""),
    "without anything": write(TOKENIZER, "{}"),
    "cut": cut(TOKENIZER, 0.5),
    "cut at its end": cut(TOKENIZER, -1),
    "not UTF-8": write(TOKENIZER, b"\xff\xfe"),
    "nested": write(TOKENIZER, "[" * 100_000),
    "of another kind": amend(TOKENIZER, model={"type": "Telepathy"}),
    "with foreign merges": amend(TOKENIZER, model=FOREIGN),
}
UNREADABLE: list[tuple[Any, str]] = [
    ("{", "is not readable JSON"),
    ([1], "holds list, not an object"),
    (b"\xff", "is not readable JSON"),
    ('{"a":' * 100_000, "is not readable JSON"),
]


def added(id: int, word: str) -> dict[str, Any]:
    flags = dict.fromkeys(("special", "normalized", "single_word", "lstrip", "rstrip"), False)
    return {"id": id, "content": word, **flags}


TOO_MANY = [added(id, word) for id, word in enumerate(("q1", "q2", "user"), VOCAB - 2)]
OLDER = both(remove(TOKENIZER), write("tokenizer.model", b"garbage"))

TOKENIZERS = [
    *(
        artefact(f"{TOKENIZER} {how}", breaks, "tokenizer", (TOKENIZER, "is not a tokenizer"), FETCH)
        for how, breaks in NOT_A_TOKENIZER.items()
    ),
    artefact("a huge tokenizer", swell(TOKENIZER, 257), "tokenizer", (TOKENIZER, "256 MiB"), FETCH),
    artefact("garbage of an older kind", OLDER, "tokenizer", "no tokenizer.json", "add tokenizer.json"),
    artefact(
        "more tokens than the model has",
        amend(TOKENIZER, added_tokens=TOO_MANY),
        "tokenizer",
        "token 264 of this text, the model knows 0 to 263",
        "--tokenizer",
        kind=UserError,
    ),
    *(
        artefact(f"{name} {data!r:.20}", write(name, data), "tokenizer", (name, says), FETCH)
        for name in (WORDS, "special_tokens_map.json")
        for data, says in UNREADABLE
    ),
    artefact(f"a huge {WORDS}", swell(WORDS, 9), "tokenizer", (WORDS, "larger than 8 MiB"), FETCH),
]

INVALID: list[tuple[str, str]] = [
    ("{% if x", "is not valid Jinja (line 1)"),
    ("\n\n{{ x", "is not valid Jinja (line 3)"),
    ("{% unheard %}", "unknown tag"),
    ("{{ 'a' | unheard }}", "No filter named"),
    ("x" * 600_000, "has more than 524288 characters"),
]
UNUSABLE = {
    "not UTF-8": (write(JINJA, b"\xff{{ messages }}"), "jinja cannot be read"),
    "huge": (both(write(JINJA, ""), swell(JINJA, 9)), "jinja is larger than 8 MiB"),
    "a number": (amend(WORDS, chat_template=5), "is neither text nor a list of named texts"),
    "without a name": (amend(WORDS, chat_template=[{}]), "is neither text nor a list of named texts"),
    "a list of texts": (amend(WORDS, chat_template=["x"]), "is neither text nor a list of named texts"),
}
LOOP, END = "{% for i in range(99999) %}", "{% endfor %}"
RUNNING: list[tuple[str, str, str]] = [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", TEMPLATE, "SecurityError"),
    ("{{ cycler.__init__.__globals__.os.system('true') }}", TEMPLATE, "SecurityError"),
    ("{{ messages.append(1) }}", TEMPLATE, "SecurityError"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", TEMPLATE, "RecursionError"),
    ("{% include '/etc/passwd' %}", "messages", "no loader"),
    ("{{ nothing.at.all }}", "messages", "UndefinedError"),
    ("{{ 1 / 0 }}", "messages", "ZeroDivisionError"),
    ("{{ raise_exception('roles must alternate') }}", "messages", "roles must alternate"),
]
BUILT = "built more than 32 Mi characters"
ENDLESS = {
    "an endless loop": LOOP + LOOP + END + END,
    "endless calls": "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(60) }}",
}

TEMPLATES = [
    *(
        artefact(
            f"template {source[:20]}", write(JINJA, source), TEMPLATE, ("chat template of", says), ANOTHER
        )
        for source, says in INVALID
    ),
    *(artefact(f"template {how}", breaks, TEMPLATE, says, FETCH) for how, (breaks, says) in UNUSABLE.items()),
    *(
        artefact(f"running {source[:32]}", write(JINJA, source), field, says, ANOTHER, kind=UserError)
        for source, field, says in RUNNING
    ),
    *(
        artefact(f"building {source}", write(JINJA, source), "messages", BUILT, ANOTHER, kind=TooMuch)
        for source in ("{{ 'a' * 10**9 }}", "{{ 'a' | center(10**10) }}")
    ),
    *(
        artefact(name, write(JINJA, source), TEMPLATE, "ran longer", ANOTHER, kind=TooMuch, seconds=0.05)
        for name, source in ENDLESS.items()
    ),
    artefact(
        "--chat-template that is not there",
        nothing,
        TEMPLATE,
        "nowhere.jinja cannot be read",
        "give a file",
        kind=UserError,
        chat_template="./nowhere.jinja",
    ),
    artefact(
        "--chat-template that is broken",
        nothing,
        TEMPLATE,
        "--chat-template is not valid Jinja",
        ANOTHER,
        chat_template="{{ x",
    ),
]
