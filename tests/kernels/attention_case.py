"""A random step over a paged cache, with poison wherever a kernel must not look, and its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
SHAPES = [
    {"heads": 2, "kv_heads": 2},
    {"heads": 6, "kv_heads": 2, "d": 80},
    {"heads": 5, "kv_heads": 1, "d": 96},
    {"heads": 4, "kv_heads": 1, "d": 112, "page": 32},
    {"heads": 4, "kv_heads": 4, "d": 256, "page": 64},
    {"window": 20},
    {"window": 1},
    {"window": 33, "softcap": 5.0},
    {"softcap": 0.5},
    {"dtype": torch.bfloat16},
    {"dtype": torch.float16, "heads": 8},
    {"dtype": torch.bfloat16, "cache_dtype": FP8, "k_scale": 0.5, "v_scale": 2.0},
]
DECODED = [*SHAPES, {"heads": 72, "kv_heads": 1, "d": 64}]  # for rows of one token


@dataclass
class Case:
    """`rows` is (positions of this step, context after it); padding rows and tokens follow."""

    rows: Sequence[tuple[int, int]]
    heads: int = 4
    kv_heads: int = 2
    d: int = 64
    page: int = 16
    dtype: torch.dtype = torch.float32
    cache_dtype: torch.dtype | None = None
    window: int = 0
    softcap: float = 0.0
    shared: int = 0  # leading pages common to all rows
    pad: int = 2  # padding rows and tokens
    k_scale: float = 1.0
    v_scale: float = 1.0
    device: str = "cpu"
    seed: int | None = None  # of its own; otherwise torch's generator goes on

    def build(self) -> Case:
        if self.seed is not None:
            torch.manual_seed(self.seed)
        counts = [c for c, _ in self.rows]
        n, live = sum(counts), [c > 0 for c in counts]
        self.scale = self.d**-0.5
        # slots lie in another order than rows, with slots of others between them
        many = len(self.rows) + self.pad + 3
        owners = torch.randperm(many)[: len(self.rows) + self.pad]
        wide = max([-(-length // self.page) for _, length in self.rows] + [1]) + 2
        tables = torch.zeros(many, wide, dtype=torch.int32)
        free = (torch.randperm(1 + sum(-(-length // self.page) for _, length in self.rows)) + 1).tolist()
        common = [free.pop() for _ in range(self.shared)]
        for owner, (count, length) in zip(owners.tolist(), self.rows, strict=False):
            used = -(-length // self.page) if count else 0
            gone = max(0, length - count - self.window + 1) // self.page if self.window else 0
            for i in range(gone, used):
                tables[owner, i] = common[i] if i < self.shared else free.pop()
        pages = int(tables.max()) + 1
        cache = torch.full((pages, self.kv_heads, 2, self.page, self.d), float("nan"))
        for owner, (count, length) in zip(owners.tolist(), self.rows, strict=False):
            for at in range(0, length if count else 0, self.page):
                if physical := int(tables[owner, at // self.page]):
                    kept = min(self.page, length - at)
                    cache[physical, :, :, :kept] = torch.randn(self.kv_heads, 2, kept, self.d)
        cache[0] = 3.0  # the null page: finite garbage
        total = n + self.pad
        self.q = torch.randn(total, self.heads, self.d).to(self.device, self.dtype)
        self.cache = cache.to(self.cache_dtype or self.dtype).to(self.device)
        self.tables = tables.to(self.device)
        self.owners = owners.int().to(self.device)
        starts = [0]
        for c in counts + [0] * self.pad:
            starts.append(starts[-1] + c)
        self.row_start = torch.tensor(starts, dtype=torch.int32, device=self.device)
        lengths = [length if alive else 0 for (_, length), alive in zip(self.rows, live, strict=True)]
        self.lengths = torch.tensor(lengths + [0] * self.pad, dtype=torch.int32, device=self.device)
        self.shared_pages = torch.tensor([self.shared], dtype=torch.int32, device=self.device)
        self.out = torch.full(
            (total, self.heads * self.d), float("nan"), dtype=self.dtype, device=self.device
        )
        return self

    @property
    def k(self) -> Tensor:
        return self.cache[:, :, 0].transpose(1, 2)

    @property
    def v(self) -> Tensor:
        return self.cache[:, :, 1].transpose(1, 2)

    def expected(self) -> Tensor:
        """In float64 from the stored values; padding tokens are zero."""
        out = torch.zeros(self.q.shape[0], self.heads, self.d, dtype=torch.float64, device=self.device)
        begin = 0
        for (count, length), owner in zip(self.rows, self.owners.tolist(), strict=False):
            if not count:
                continue
            table = self.tables[owner].long()
            at = torch.arange(length, device=self.device)
            k, v = (t.float().double()[table[at // self.page], at % self.page] for t in (self.k, self.v))
            k, v = (
                t.repeat_interleave(self.heads // self.kv_heads, 1)
                for t in (k * self.k_scale, v * self.v_scale)
            )
            s = torch.einsum("qhd,khd->hqk", self.q[begin : begin + count].double() * self.scale, k)
            if self.softcap:
                s = self.softcap * (s / self.softcap).tanh()
            distance = torch.arange(length - count, length, device=self.device)[:, None] - at
            hidden = (distance < 0) | (distance >= self.window) if self.window else distance < 0
            weights = s.masked_fill(hidden, float("-inf")).softmax(-1)
            v = v.masked_fill(hidden.all(0)[:, None, None], 0.0)  # nobody may look there
            out[begin : begin + count] = torch.einsum("hqk,khd->qhd", weights, v)
            begin += count
        return out.flatten(1)

    def slots(self) -> Tensor:
        """[n] int64: where the keys of every token lie; padding tokens are in page 0."""
        places = []
        for (count, length), owner in zip(self.rows, self.owners.tolist(), strict=False):
            at = torch.arange(length - count, length, device=self.device)
            places.append(self.tables[owner].long()[at // self.page] * self.page + at % self.page)
        places.append(torch.zeros(self.pad, dtype=torch.int64, device=self.device))
        return torch.cat(places)

    def decoded(self) -> Tensor:
        """Which tokens the decode kernel writes: rows of one token, and padding."""
        mask = self._tokens_of([count == 1 for count, _ in self.rows])
        mask[sum(count for count, _ in self.rows) :] = True
        return mask

    def whole(self) -> Tensor:
        """Which tokens are those of prompts that begin with this step."""
        return self._tokens_of([count == length > 1 for count, length in self.rows])

    def _tokens_of(self, chosen: Sequence[bool]) -> Tensor:
        counts = torch.tensor([count for count, _ in self.rows])
        mask = torch.repeat_interleave(torch.tensor(chosen), counts)
        return torch.cat((mask, torch.zeros(self.q.shape[0] - len(mask), dtype=torch.bool))).to(self.device)

    def check(self, got: Tensor, want: Tensor) -> float:
        """The largest error in units of the tolerance; at most 1 is right."""
        tolerance = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[self.dtype]
        return float(((got.double() - want).abs() / (tolerance * (1 + want.abs()))).nan_to_num(1e9).max())
