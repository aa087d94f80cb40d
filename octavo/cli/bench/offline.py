"""The engine in this process, as the offline benchmarks use it."""

from __future__ import annotations

from typing import Any

from octavo.cli.bench.prompts import TEXT, random_prompts
from octavo.config.flags import Parser


def add_profile(parser: Parser) -> None:
    parser.add_argument(
        "--profile",
        action="store_true",
        help="then one more run, with a trace of it in --profiler-dir (default: ./profiles)",
    )


class Offline:
    """An LLM and a pool of ordinary tokens of its vocabulary."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from octavo import LLM

        self._llm: Any = LLM(**settings)
        self._settings = settings
        self._pool = sorted(set(self._llm.get_tokenizer().encode(TEXT)))

    def prompts(self, seed: int, count: int, length: int) -> list[list[int]]:
        return random_prompts(seed, count, length, self._pool)

    def generate(self, prompts: list[list[int]], tokens: int) -> int:
        """Generates exactly `tokens` for each prompt, greedily; returns how many that were."""
        from octavo import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        answers = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
        )
        return sum(len(choice.token_ids) for answer in answers for choice in answer.outputs)

    def profile(self, prompts: list[list[int]], tokens: int) -> str:
        """Generates with the profiler on; the trace's path."""
        self._llm.start_profile()
        self.generate(prompts, tokens)
        return str(self._llm.stop_profile())

    def facts(self) -> dict[str, Any]:
        """Which model, and the settings that were given."""
        named = {name: value for name, value in self._settings.items() if name not in ("hf_token", "api_key")}
        return {"model": self._settings.get("model") or "default", "settings": named}
