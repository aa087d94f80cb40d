"""`octavo bench latency`: how long one batch takes from prompts to last token, in this process."""

from __future__ import annotations

import time

from octavo.cli.bench import record
from octavo.cli.bench.offline import Offline, add_profile
from octavo.config.flags import Parser, add_flags, given


def run(words: list[str]) -> int:
    parser = Parser(prog="octavo bench latency", usage="octavo bench latency [MODEL] [options]")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="as for `octavo serve`")
    parser.add_argument("--input-len", type=int, default=32, help="tokens of a prompt (default: 32)")
    parser.add_argument("--output-len", type=int, default=128, help="tokens to generate (default: 128)")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts at once (default: 8)")
    parser.add_argument("--num-iters-warmup", type=int, default=2, help="runs that do not count (default: 2)")
    parser.add_argument("--num-iters", type=int, default=10, help="runs that count (default: 10)")
    add_profile(parser)
    record.add_flags(parser)
    add_flags(parser, serve=False)
    values, asked = given(parser, words)
    engine = Offline(values)
    seconds: list[float] = []
    for turn in range(asked.num_iters_warmup + asked.num_iters):
        # other prompts each time, so that the prefix cache has nothing to give
        prompts = engine.prompts(turn, asked.batch_size, asked.input_len)
        start = time.perf_counter()
        engine.generate(prompts, asked.output_len)
        if turn >= asked.num_iters_warmup:
            seconds.append(time.perf_counter() - start)
    shape = {name: vars(asked)[name] for name in ("batch_size", "input_len", "output_len", "num_iters")}
    tokens = asked.batch_size * asked.output_len
    result = {
        **engine.facts(),
        **shape,
        "latency_s": record.spread(seconds),
        "output_tokens_per_s": round(tokens * len(seconds) / sum(seconds), 3),
        "latencies_s": [round(value, 6) for value in seconds],
    }
    if asked.profile:
        prompts = engine.prompts(-1, asked.batch_size, asked.input_len)
        result["profile"] = engine.profile(prompts, asked.output_len)
    record.emit("latency", result, asked.output_json)
    return 0
