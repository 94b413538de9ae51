#!/usr/bin/env python3
"""Quality, bytes and speed of the presets in one table: `make bench-presets`.

    python3 tools/presets.py [--modes fast:4.3,...] [--quality ROWS.jsonl] [--bench build/bench_attn]
                             [--shape SmolLM2-135M] [--tokens 4096] [--runs 9]

Quality and bits are the means of rows that `make bench-quality` wrote with --json, speed is taken
now: one decode step of bench_attn with the same preset and the same target of bits, on the shape
of the model that the rows are of. Its data are synthetic, so its pages' bits differ a little.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import quality

MODES = "fast:4.3,fast:3.3,fast:2.3,small:3.3,small:2.4,small:1.4"


def judged(path, modes):
    """{mode: its rows}, all of one model."""
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f if line.strip()]
    found = {mode: of for mode, of, _ in quality.by_mode(rows)}
    for mode in modes:
        if mode not in found:
            raise quality.Problem("no rows of %s in %s: `make bench-quality QUALITY_ARGS='--modes "
                                  "%s --json FILE'`" % (mode, path, mode))
    return found


def timed(options, preset, bits):
    """{bits: row of bench_attn}, all rates of a preset in one run."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "attn.json")
        words = [options.bench, "--preset", preset, "--shape", options.shape, "--bits",
                 ",".join(bits), "--tokens", str(options.tokens), "--runs", str(options.runs),
                 "--json", out]
        env = dict(os.environ, OMP_NUM_THREADS="1")
        try:
            done = subprocess.run(words, env=env, stdout=subprocess.DEVNULL)
        except OSError as e:
            raise quality.Problem("%s cannot be run (%s); `make` builds it"
                                  % (options.bench, e.strerror)) from e
        if done.returncode:
            raise quality.Problem("`%s` gave exit code %d" % (" ".join(words), done.returncode))
        with open(out, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
    rows = [row for row in rows if row["bench"] == "attn"]
    return dict(zip(bits, rows))


def parse():
    parser = argparse.ArgumentParser(description="Quality, bytes and speed of the presets.")
    parser.add_argument("--modes", default=MODES)
    parser.add_argument("--quality", metavar="ROWS.jsonl",
                        default=os.path.join("bench", "results", "quality-smollm2-135m.jsonl"))
    parser.add_argument("--bench", default=os.path.join("build", "bench_attn"))
    parser.add_argument("--shape", default="SmolLM2-135M")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=9)
    return parser.parse_args()


def main():
    options = parse()
    modes = [mode.split(":") for mode in options.modes.split(",")]
    if any(len(m) != 2 or m[0] not in ("fast", "small") for m in modes):
        raise quality.Problem("--modes takes fast:BPE and small:BPE")
    found = judged(options.quality, [":".join(m) for m in modes])
    speed = {name: timed(options, name, [bits for word, bits in modes if word == name])
             for name in dict.fromkeys(m[0] for m in modes)}
    print("| preset | bits in pages | mean KL | same top token | bytes per token and layer | "
          "ns per token and query head | f16 kernel = 1 |\n|---|---|---|---|---|---|---|")
    for name, bits in modes:
        rows, t = found[name + ":" + bits], speed[name][bits]
        print("| `%s:%s` | %.2f | %.4f | %.1f %% | %.0f | %.1f | %.2f |" % (
            name, bits, quality.mean(rows, "bpe_pages"), quality.mean(rows, "kl_mean"),
            100 * quality.mean(rows, "top1"), t["bytes_per_token"], t["ns_per_token_head"],
            1 / t["f16_own_to_ours"]))
    print("\nSpeed: %s, %s tokens, kernels %s, one thread, median of %d runs; last column: "
          "time over that of our own f16 kernel in the same run." % (options.shape, options.tokens, t["isa"],
                                                  options.runs))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (quality.Problem, OSError) as problem:
        print("presets.py: %s" % problem, file=sys.stderr)
        sys.exit(1)
