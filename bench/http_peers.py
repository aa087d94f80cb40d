"""Octavo's server beside llama-server (and vLLM's): the same weights, cores and requests, turn by turn.

    LLAMA_BIN=FOLDER python -m bench.http_peers --weights Q4_0,BF16 --pairs 5 --out bench/results/NAME.json

Sixteen clients in a closed loop; all servers run, one is asked, the others wait (`idle`: the share of a
core each took meanwhile). Loads:
  distinct  128 tokens in, 64 out, no two prompts alike
  shared    1,000 tokens that all prompts of a turn begin with, new ones each turn, and 128 of their own
  known     the same, but the 1,000 tokens were in earlier turns, too
With VLLM_PYTHON (a Python that has vLLM) and BF16 vLLM's server takes part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
from typing import Any

from bench import servers, variants
from bench.load import load
from bench.peers import LLAMA_BIN, alternate, closing, from_environment, prompts, ratio, verdict
from bench.record import provenance, spread, write
from bench.servers import Server

INPUT, OUTPUT, SHARED, ROOM = 128, 64, 1000, 1280
# times llama-server's output tokens/s; both times of a client must be better as well
TARGETS = {"distinct": 2.5, "shared": 4.0, "known": 4.0}
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}


def requests(kind: str, round_: int, count: int, side: int) -> list[list[int]]:
    """`side`: servers see other prompts of the same shape, none twice."""
    seed = 100 * round_ + side
    if kind == "distinct":
        return prompts(count, INPUT, seed)
    common = prompts(1, SHARED, 10**6 + (seed if kind == "shared" else 0))[0]
    return [common + own for own in prompts(count, INPUT, 10**7 + seed)]


def measure(kind: str, running: list[Server], args: argparse.Namespace) -> dict[str, Any]:
    def turn(server: Server, side: int) -> Any:
        return lambda round_: load(
            server.address, requests(kind, round_, args.requests, side), OUTPUT, args.clients
        )

    sides = {server.name: turn(server, i) for i, server in enumerate(running)}
    found = alternate(sides, {server.name: server.process for server in running}, args.pairs)
    row: dict[str, Any] = {
        "load": kind, "clients": args.clients, "requests": args.requests, "input": INPUT, "output": OUTPUT,
        "once": SHARED if kind == "shared" else 0,  # tokens that one request of a turn could compute for all
        "idle": found["idle"], "quiet": found["quiet"],
        "servers": {name: figures(turns) for name, turns in found["turns"].items()},
    }  # fmt: skip
    row["against"] = {
        name: against(found["turns"]["octavo"], turns, TARGETS[kind] if name == "llama-server" else 1.0)
        for name, turns in found["turns"].items()
        if name != "octavo"
    }
    return row


def figures(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all turns together; the rate's spread is over the turns."""
    ttft, tpot = ([s for turn in turns for s in turn[name]] for name in ("ttft", "tpot"))
    return {
        "output_tokens_per_s": spread([turn["output_tokens_per_s"] for turn in turns]),
        "ttft_s": {"median": share(ttft, 50), "p95": share(ttft, 95)},
        "tpot_s": {"median": share(tpot, 50), "p95": share(tpot, 95)},
        "client": spread([turn["client"] for turn in turns]),
    }


def share(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def against(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], target: float) -> dict[str, Any]:
    rate = ratio(*([turn["output_tokens_per_s"] for turn in side] for side in (ours, theirs)))
    # how many times shorter a client waits
    waits = {
        name: ratio(*([share(turn[name], 50) for turn in side] for side in (theirs, ours)))
        for name in ("ttft", "tpot")
    }
    better = all(one["median"] > 1 for one in waits.values())
    met = verdict(rate, target)
    return {"times": rate, **waits, **met, "met": met["met"] and better}


def start(name: str, args: argparse.Namespace, stack: contextlib.ExitStack) -> list[Server]:
    """Those that serve these weights; they end with `stack`."""
    path = variants.gguf(name, args.llama_bin / "llama-quantize", args.cache)
    log, words = args.cache / "logs", args.octavo
    if name != "BF16":
        words += " --quantization gguf"
    makers = {"octavo": lambda: servers.octavo(path, args.threads, log, f"--max-model-len 2048 {words}")}
    if "llama" in args.peers:
        makers["llama"] = lambda: servers.llama(
            args.llama_bin, path, args.threads, log, args.clients, ROOM, args.llama_args
        )
    if "vllm" in args.peers and name == "BF16":
        folder, environment = variants.hf_folder(args.cache), {**VLLM, **args.vllm_env}
        makers["vllm"] = lambda: servers.vllm(
            args.vllm_python, folder, log, 2048, environment, args.vllm_args
        )
    running = []
    for make in makers.values():
        running.append(make())
        stack.enter_context(closing(running[-1].process))
    return running


def shown(row: dict[str, Any]) -> str:
    lines = [f"{row['weights']} {row['load']}:"]
    for name, one in row["servers"].items():
        lines.append(
            f"  {name:<12} {one['output_tokens_per_s']['median']:7.1f} tok/s, "
            f"TTFT {one['ttft_s']['median']:.3f} s (p95 {one['ttft_s']['p95']:.3f}), "
            f"TPOT {1e3 * one['tpot_s']['median']:.1f} ms (p95 {1e3 * one['tpot_s']['p95']:.1f}), "
            f"client {one['client']['median']:.3f}, idle {row['idle'].get(name, 0):.3f}"
        )
    for name, one in row["against"].items():
        lines.append(
            f"  {one['times']['median']:.2f} [{one['times']['min']:.2f}, {one['times']['max']:.2f}] times "
            f"{name} (target {one['target']}{'' if one['met'] else ', missed'}); TTFT "
            f"{one['ttft']['median']:.2f}, TPOT {one['tpot']['median']:.2f} times shorter"
        )
    return "\n".join(lines)


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--llama-bin", type=Path, **from_environment("LLAMA_BIN"), help=LLAMA_BIN)
    parser.add_argument("--llama-args", default="-fa on", help="more words for llama-server")
    parser.add_argument("--vllm-python", type=Path, default=os.environ.get("VLLM_PYTHON"))
    parser.add_argument("--vllm-env", type=json.loads, default={}, help="JSON object")
    parser.add_argument("--vllm-args", default="", help="more words for vLLM's server")
    parser.add_argument("--octavo", default="", help="more words for `octavo serve`")
    parser.add_argument("--peers", default="llama", help="llama, vllm or both")
    parser.add_argument("--weights", default="Q4_0,BF16")
    parser.add_argument("--loads", default=",".join(TARGETS))
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=32, help="in a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=variants.default_cache())
    parser.add_argument("--out", type=Path)
    return parser


def main() -> None:
    args = flags().parse_args()
    origin, rows = provenance(), []
    for name in args.weights.split(","):
        with contextlib.ExitStack() as stack:
            running = start(name, args, stack)
            for kind in args.loads.split(","):
                row = {"weights": name, **measure(kind, running, args)}
                rows.append({**row, "commands": {one.name: one.facts()["command"] for one in running}})
                print(shown(rows[-1]), flush=True)
                if args.out:
                    write(args.out, {"benchmark": "http_peers", **origin, "rows": rows})


if __name__ == "__main__":
    main()
