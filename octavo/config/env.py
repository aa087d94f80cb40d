"""The only reader of the environment. Knows names and paths, nothing of models or servers."""

from __future__ import annotations

import os
from pathlib import Path

# Everything Octavo itself reads, and what it is for (the settings page prints this table).
NAMES: dict[str, str] = {
    "OCTAVO_HOME": "folder for the default model and other caches (default: XDG_CACHE_HOME/octavo)",
    "OCTAVO_API_KEY": "key clients must send, or several separated by commas, when --api-key is not given",
    "OCTAVO_MODEL_MAP": "models to run instead of those a vLLM script names: OLD=NEW, several by commas",
    "XDG_CACHE_HOME": "base of cache folders (default: ~/.cache)",
    "HF_HOME": "cache of Hugging Face files (default: XDG_CACHE_HOME/huggingface)",
    "HF_HUB_CACHE": "cache of Hugging Face repositories (default: HF_HOME/hub)",
    "HF_TOKEN": "access token for gated repositories, when --hf-token is not given",
    "HF_HUB_OFFLINE": "1: use only files that are in the cache already",
    "PIP_INDEX_URL": "package index for the default model where pip itself is not installed",
    "CUDA_VISIBLE_DEVICES": "GPUs that may be used",
    "OMP_NUM_THREADS": "threads for arithmetic on a CPU, when --cpu-threads is not given",
    "OMP_WAIT_POLICY": "how idle arithmetic threads wait (default: they soon sleep, see GOMP_SPINCOUNT)",
    "GOMP_SPINCOUNT": "how long idle arithmetic threads spin before they sleep (default: 1000)",
    "XDG_RUNTIME_DIR": "private folder for sockets between our processes (default: the temporary folder)",
    "NO_COLOR": "any value: no colours in the terminal",
}


def read(name: str) -> str | None:
    """The variable's value; None when unset or empty. `name` must be listed in NAMES."""
    if name not in NAMES:
        raise KeyError(f"{name} is not listed in config/env.py")
    return os.environ.get(name) or None


def flag(name: str) -> bool:
    """Whether the variable is set to something that means yes."""
    return (read(name) or "").strip().lower() in ("1", "true", "yes", "on")


def calm_threads() -> None:
    """Makes OpenMP's threads sleep soon while they wait for each other. Before torch is imported only.

    By default libgomp spins for milliseconds at every barrier as long as it has no more threads than
    cores. One busy neighbour on the machine then makes each step wait for the scheduler's slices: tokens
    came twenty times slower. 1,000 turns is libgomp's own choice once it knows that cores are short.
    """
    if read("OMP_WAIT_POLICY") is None and read("GOMP_SPINCOUNT") is None:
        os.environ["GOMP_SPINCOUNT"] = "1000"


def child_environment(**changes: str) -> dict[str, str]:
    """A copy of the environment for a process we start, with `changes` laid over it."""
    return {**os.environ, **changes}


def cache_base() -> Path:
    return Path(read("XDG_CACHE_HOME") or "~/.cache").expanduser()


def octavo_home() -> Path:
    """Where Octavo keeps what it fetched. Not created here."""
    return Path(read("OCTAVO_HOME") or cache_base() / "octavo").expanduser()


def packed_weights() -> Path:
    """Folder of weights as a CPU's kernels read them (checkpoint/packs.py). Not created here."""
    return octavo_home() / "packed"


def hub_cache() -> Path:
    """Where Hugging Face repositories are cached, by the hub's own rules."""
    home = Path(read("HF_HOME") or cache_base() / "huggingface")
    return Path(read("HF_HUB_CACHE") or home / "hub").expanduser()
