"""`octavo bench throughput`: tokens a second over many prompts given at once, in this process."""

from __future__ import annotations

import time

from octavo.cli.bench import record
from octavo.cli.bench.offline import Offline, add_profile
from octavo.config.flags import Parser, add_flags, given


def run(words: list[str]) -> int:
    parser = Parser(prog="octavo bench throughput", usage="octavo bench throughput [MODEL] [options]")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="as for `octavo serve`")
    parser.add_argument("--num-prompts", type=int, default=64, help="how many (default: 64)")
    parser.add_argument("--input-len", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument("--output-len", type=int, default=64, help="tokens to generate (default: 64)")
    add_profile(parser)
    record.add_flags(parser)
    add_flags(parser, serve=False)
    values, asked = given(parser, words)
    engine = Offline(values)
    seed = int(values.get("seed", 0))
    engine.generate(engine.prompts(seed + 1, 2, asked.input_len), 8)  # warm up
    prompts = engine.prompts(seed, asked.num_prompts, asked.input_len)
    start = time.perf_counter()
    generated = engine.generate(prompts, asked.output_len)
    seconds = time.perf_counter() - start
    read = asked.num_prompts * asked.input_len
    result = {
        **engine.facts(),
        **{name: vars(asked)[name] for name in ("num_prompts", "input_len", "output_len")},
        "seconds": round(seconds, 6),
        "requests_per_s": round(asked.num_prompts / seconds, 3),
        "output_tokens_per_s": round(generated / seconds, 3),
        "total_tokens_per_s": round((read + generated) / seconds, 3),
    }
    if asked.profile:
        prompts = engine.prompts(seed + 2, asked.num_prompts, asked.input_len)
        result["profile"] = engine.profile(prompts, asked.output_len)
    record.emit("throughput", result, asked.output_json)
    return 0
