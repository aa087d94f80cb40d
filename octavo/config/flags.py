"""The command line of the settings: flags, defaults, help and the reference page from the dataclasses.

Knows nothing of subcommands; `octavo serve` and the benchmarks lay these flags over their own.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from octavo.config.engine import PARTS, EngineConfig, owners
from octavo.config.foreign import FOREIGN
from octavo.config.values import Setting, flag, settings
from octavo.core.errors import UserError

TITLES = {
    "model": "Model",
    "cache": "KV cache",
    "cpu": "CPU",
    "schedule": "Scheduling",
    "grammar": "Structured output",
    "serve": "HTTP server",
    "files": "Files and batches",
    "observe": "Logs and statistics",
}
_FOREIGN_PREFIX = "foreign:"  # argparse destinations of flags nobody here owns


class Parser(argparse.ArgumentParser):
    """argparse with our habits: `-` and `_` alike, dotted JSON, no abbreviations, typed errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _Help)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UserError(message, hint=f"see `{self.prog} --help`")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise self.unknown(unknown[0])
        return known

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(None if args is None else self._tidy(list(args)), namespace)

    def unknown(self, word: str) -> UserError:
        """The error for an argument that is not ours, with its nearest neighbours."""
        name = word.partition("=")[0]
        if not name.startswith("-"):
            return UserError(f"unexpected argument {word!r}", hint=f"see `{self.prog} --help`")
        mine = [option for option in self._option_string_actions if option.startswith("--")]
        close = difflib.get_close_matches(name, mine, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"see `{self.prog} --help`"
        return UserError(f"unknown flag {name}", hint=hint)

    def _tidy(self, words: list[str]) -> list[str]:
        """Spells flags with dashes and turns `--flag.a.b value` into a JSON object for --flag."""
        tidy: list[str] = []
        for at, word in enumerate(words):
            if word == "--":
                return tidy + words[at:]
            tidy.append(self._spelled(word) if word.startswith("--") else word)
        return _undot(tidy, self._option_string_actions)

    def _spelled(self, word: str) -> str:
        name, equals, value = word.partition("=")
        head, dot, path = name.partition(".")
        return head.replace("_", "-") + dot + path + equals + value


def _undot(words: list[str], options: Any) -> list[str]:
    plain: list[str] = []
    objects: dict[str, dict[str, Any]] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        head, dot, path = name.partition(".")
        if not (dot and path and head.startswith("-") and head in options):
            plain.append(word)
            continue
        text = value if equals else next(rest, "")
        _plant(objects.setdefault(head, {}), path.split("."), text)
    return plain + [word for head, found in objects.items() for word in (head, json.dumps(found))]


def _plant(tree: dict[str, Any], path: list[str], text: str) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    try:
        tree[path[-1]] = json.loads(text)
    except ValueError:
        tree[path[-1]] = text


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36)


def add_flags(parser: argparse.ArgumentParser, *, serve: bool, parts: Iterable[str] = PARTS) -> None:
    """Adds the flags of every setting (without those of the server when not `serve`), --config, and
    vLLM's flags without an owner, which stay out of the help."""
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings; the command line wins")
    parser.add_argument("--model", dest="model_flag", metavar="MODEL", default=None, help=argparse.SUPPRESS)
    for part in parts:
        group = parser.add_argument_group(TITLES[part])
        for setting in settings(PARTS[part]):
            if setting.name != "model" and (serve or not setting.option.serve_only):
                _add(group, setting)
    taken = set(parser._option_string_actions)
    for name in FOREIGN:
        _add_foreign(parser, name, taken)


def _add(group: Any, setting: Setting) -> None:
    names = [flag(setting), *("--" + alias for alias in setting.option.aliases)]
    facts: dict[str, Any] = {"dest": setting.name, "default": argparse.SUPPRESS, "help": _help(setting)}
    if setting.kind is bool:
        group.add_argument(*names, action=argparse.BooleanOptionalAction, **facts)
    elif setting.kind is tuple:
        group.add_argument(*names, action="extend", nargs="+", metavar=_metavar(setting), **facts)
    else:
        group.add_argument(*names, metavar=_metavar(setting), **facts)


def _add_foreign(parser: argparse.ArgumentParser, name: str, taken: set[str]) -> None:
    row = FOREIGN[name]
    names = [word for word in (*row.flags, "--" + name.replace("_", "-")) if word not in taken]
    facts: dict[str, Any] = {
        "dest": _FOREIGN_PREFIX + name,
        "default": argparse.SUPPRESS,
        "help": argparse.SUPPRESS,
    }
    if row.switch:
        # BooleanOptionalAction would also make a "--no-" form of short flags
        parser.add_argument(*names, action="store_true", **facts)
        parser.add_argument(
            *("--no-" + word[2:] for word in names if word[:2] == "--"), action="store_false", **facts
        )
    else:
        parser.add_argument(*names, nargs="*" if row.many else None, **facts)


def _metavar(setting: Setting) -> str:
    if setting.option.choices:
        return "{" + ",".join(setting.option.choices) + "}"
    if setting.option.kind:
        return {"list": "NAME", "size": "SIZE", "json": "JSON", "path": "PATH"}[setting.option.kind]
    return {int: "N", float: "X"}.get(setting.kind, "TEXT")


def _help(setting: Setting) -> str:
    default = shown_default(setting)
    return (setting.option.help + (f" (default: {default})" if default else "")).replace("%", "%%")


def shown_default(setting: Setting) -> str:
    """The default as a user would type it; "" where there is none."""
    value = setting.default
    if value is None or value == ():
        return ""
    if isinstance(value, tuple):
        return " ".join(value)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def given(parser: Parser, words: Sequence[str]) -> tuple[dict[str, Any], argparse.Namespace]:
    """Parses `words` over the file of --config. Returns the settings that were given, as text, and the
    namespace with everything else."""
    space = parser.parse_args(list(words))
    values = _settings_of(space)
    if space.config:
        below = parser.parse_args(_words_of(parser, Path(space.config)))
        values = {**_settings_of(below), **values}
    return values, space


def build(parser: Parser, words: Sequence[str]) -> tuple[EngineConfig, argparse.Namespace]:
    """EngineConfig from a command line. UserError names the first flag that cannot be."""
    values, space = given(parser, words)
    return EngineConfig.from_flat(values), space


def _settings_of(space: argparse.Namespace) -> dict[str, Any]:
    names = set(owners()) - {"model"}
    values = {name: value for name, value in vars(space).items() if name in names}
    for name, value in values.items():
        if isinstance(value, list) and len(value) == 1:  # one word may hold a list of its own: a,b
            values[name] = value[0]
    for name, value in vars(space).items():
        if name.startswith(_FOREIGN_PREFIX):
            values[name.removeprefix(_FOREIGN_PREFIX)] = value
    models = {word for name in ("model", "model_flag") if (word := vars(space).get(name))}
    if len(models) > 1:
        raise UserError(
            f"two models were named: {' and '.join(sorted(models))}", hint="name one", field="model"
        )
    if models:
        values["model"] = models.pop()
    return values


def _words_of(parser: Parser, path: Path) -> list[str]:
    """A settings file as the words of a command line. UserError on a key no flag has."""
    import yaml

    try:
        data = yaml.safe_load(path.expanduser().read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(
            f"--config {path}: {error.strerror}", hint="name a YAML file", field="config"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not YAML: {error}", hint="lines like `port: 8000`") from error
    if not isinstance(data, dict):
        raise UserError(f"--config {path} holds no settings", hint="lines like `port: 8000`", field="config")
    return [word for key, value in data.items() for word in _as_words(parser, str(key), value)]


def _as_words(parser: Parser, key: str, value: Any) -> list[str]:
    name = "--" + key.replace("_", "-")
    if name == "--model":
        return ["--model", str(value)]
    if name not in parser._option_string_actions or name in ("--config", "--help"):
        raise parser.unknown(name)
    if value is None:
        return []
    if isinstance(value, bool):
        off = f"--no-{name[2:]}"
        if off in parser._option_string_actions:
            return [name if value else off]
        return [f"{name}={str(value).lower()}"]
    if isinstance(value, list):
        return [name, *map(str, value)] if value else []
    return [f"{name}={json.dumps(value) if isinstance(value, dict) else value}"]
