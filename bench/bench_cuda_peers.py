#!/usr/bin/env python3
"""Decode steps of torch's SDPA and of FlashInfer on the shapes of bench_cuda.cu, on this device.

    python3 bench/bench_cuda_peers.py [--shape NAME] [--batch N,..] [--tokens N,..] [--runs N]
                                      [--json FILE] [--ours ROWS.json]

One query token a sequence, all its query heads, caches of f16 (FlashInfer also of fp8), and so
many caches that the L2 cache holds none of them for the next run. With --ours, rows that
bench_cuda wrote with --json on the same device, it prints how many times longer each takes than
each of those. A peer that is not installed is said to be missing, and is no error.
"""
import argparse
import json
import sys

SHAPES = {"Llama-3-8B": (32, 8, 128), "Qwen3-14B": (40, 8, 128)}
PAGE = 64
GOAL = 3        # times FlashInfer f16 from 16384 tokens on


def numbers(text):
    return [int(n) for n in text.split(",")]


class Peer:
    """A step over one of several caches: step(i)."""

    def __init__(self, torch, shape, batch, tokens, dtype):
        self.torch, self.dtype = torch, dtype
        self.heads, self.kv, self.d = shape
        self.batch, self.tokens = batch, tokens
        self.bytes = 2 * batch * tokens * self.kv * self.d * (1 if "8" in str(dtype) else 2)
        l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
        self.sets = 4 * l2 // self.bytes + 1

    def random(self, *size):
        x = self.torch.randn(*size, device="cuda", dtype=self.torch.float16)
        return x.to(self.dtype)


class Sdpa(Peer):
    name = "torch sdpa f16"

    def __init__(self, torch, *rest):
        super().__init__(torch, *rest, torch.float16)
        size = (self.batch, self.kv, self.tokens, self.d)
        self.q = self.random(self.batch, self.heads, 1, self.d)
        self.caches = [(self.random(*size), self.random(*size)) for _ in range(self.sets)]

    def step(self, i):
        k, v = self.caches[i]
        self.torch.nn.functional.scaled_dot_product_attention(self.q, k, v, enable_gqa=True)


class FlashInfer(Peer):
    name = "flashinfer f16"
    kind = "float16"

    def __init__(self, torch, *rest):
        super().__init__(torch, *rest, getattr(torch, self.kind))
        import flashinfer
        pages = (self.tokens + PAGE - 1) // PAGE
        whole = {"device": "cuda", "dtype": torch.int32}
        room = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
        self.wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(room, "NHD",
                                                                     use_tensor_cores=True)
        self.wrapper.plan(torch.arange(self.batch + 1, **whole) * pages,
                          torch.randperm(self.batch * pages, device="cuda").int(),
                          torch.full((self.batch,), (self.tokens - 1) % PAGE + 1, **whole),
                          self.heads, self.kv, self.d, PAGE, q_data_type=torch.float16,
                          kv_data_type=self.dtype)
        self.q = torch.randn(self.batch, self.heads, self.d, device="cuda", dtype=torch.float16)
        self.caches = [self.random(self.batch * pages, 2, PAGE, self.kv, self.d)
                       for _ in range(self.sets)]

    def step(self, i):
        self.wrapper.run(self.q, self.caches[i])


class FlashInfer8(FlashInfer):
    name = "flashinfer fp8"
    kind = "float8_e4m3fn"


def timed(torch, peer, runs):
    """us of a step, the least and the median."""
    times = []
    for run in range(runs + 1):         # the first warms up
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for i in range(peer.sets):
            peer.step(i)
        end.record()
        end.synchronize()
        if run:
            times.append(1e3 * begin.elapsed_time(end) / peer.sets)
    return min(times), sorted(times)[len(times) // 2]


def measure(torch, kind, name, batch, tokens, runs):
    """A row, or one that says why there is none."""
    row = {"name": kind.name, "shape": name, "batch": batch, "tokens": tokens}
    try:
        peer = kind(torch, SHAPES[name], batch, tokens)
        row["us_min"], row["us_median"] = timed(torch, peer, runs)
        row["gb_per_s"] = peer.bytes / row["us_median"] / 1e3
    except (ImportError, RuntimeError, AttributeError, TypeError) as error:
        row["missing"] = "%s: %s" % (type(error).__name__, str(error).split("\n", 1)[0])
    torch.cuda.empty_cache()
    return row


def device_of():
    """torch with a device, or None and why."""
    try:
        import torch
    except ImportError:
        return None, "torch is not installed (pip install torch)"
    return (torch, "") if torch.cuda.is_available() else (None, "torch finds no CUDA device")


def ratios(rows, path):
    """How many times longer than each of ours with as many sequences and tokens."""
    with open(path, encoding="utf-8") as f:
        ours = [json.loads(line) for line in f if line.strip()]
    for row in rows:
        for own in ours:
            same = all(row[key] == own[key] for key in ("shape", "batch", "tokens"))
            if not same or "missing" in row:
                continue
            ratio, aim = row["us_median"] / own["us_median"], ""
            if row["name"] == FlashInfer.name and row["tokens"] >= 16384:
                aim = " (goal %d: %s)" % (GOAL, "met" if ratio >= GOAL else "not met")
            print("%s, %d x %d tokens: %s takes %.2f times as long as %g bits%s" % (
                row["shape"], row["batch"], row["tokens"], row["name"], ratio, own["bits"], aim))


def main():
    parse = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parse.add_argument("--shape", choices=sorted(SHAPES))
    parse.add_argument("--batch", type=numbers, default=[1, 8, 64])
    parse.add_argument("--tokens", type=numbers, default=[1024, 16384, 131072])
    parse.add_argument("--runs", type=int, default=9)
    parse.add_argument("--json")
    parse.add_argument("--ours")
    options = parse.parse_args()
    torch, why = device_of()
    if not torch:
        for kind in (Sdpa, FlashInfer, FlashInfer8):
            print(json.dumps({"name": kind.name, "missing": why}))
        return 0
    rows = [measure(torch, kind, name, batch, tokens, options.runs)
            for name in ([options.shape] if options.shape else SHAPES)
            for tokens in options.tokens for batch in options.batch
            for kind in (Sdpa, FlashInfer, FlashInfer8)]
    lines = [json.dumps(row) for row in rows]
    print("\n".join(lines))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")
    if options.ours:
        ratios(rows, options.ours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
