#!/usr/bin/env python3
"""Judges compressed caches on several texts: `make bench-quality`.

    python3 tools/quality.py --engine build/skv-llm --model M.gguf --text CALIBRATION...
                             [--judge FILE...] [--modes fast:4.3,...] [--ctx 1024] [--start 256]
                             [--tokens N] [--profile P.skv] [--threads N] [--json FILE]
                             [--html FILE] [--markdown] [--fresh]

Makes what the modes need from the calibration texts unless it is there and newer than they are (a
profile per head, a joint one for `small` and `cold`, Grams for rivals), runs `skv-llm judge` on
every text and prints the means over the texts, and the bits that our presets need for the KL of a
rival. A row that was judged before by the same engine, with the same files, is taken from
build/quality, so a run that was cut off goes on where it was; --fresh judges again. --json FILE
keeps every row (- is standard output), --html FILE draws the means, rate against KL, --markdown
prints the tables as README.md has them.
"""
import argparse
import functools
import glob
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile

MODES = ("fast:4.3,fast:3.3,fast:2.95,fast:2.3,fast:1.75,fast:1.35,"
         "small:3.3,small:2.75,small:2.4,small:1.75,small:1.4,small:1.15,"
         "cold:2.2,cold:1.1,q8_0,q4_0,q4_0h,kivi:4,kivi:2,kvarn:4,kvarn:4:2,turbo:4,turbo:3,"
         "turbo:2,turboqjl:4,residual:3,spectralquant:3,svdq:84420000,svdq:84420000:v,"
         "jarvis:32:8,kqsvd:32,eigen:48,think:0.4")
JOINT = ("small", "cold")               # families whose latent space is that of all KV heads
NEEDS_GRAMS = ("jarvis", "residual", "kqsvd", "eigen", "think", "spectralquant")
AT_ONCE = 4                             # modes of one run of skv-llm


class Problem(Exception):
    """A sentence for the user."""


def engine(words, **settings):
    """Runs skv-llm; its messages and progress bars go to the terminal."""
    calm = dict(os.environ)             # threads that spin while they wait hurt on busy cores
    calm.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        done = subprocess.run(words, env=calm, stdin=subprocess.DEVNULL, **settings)
    except OSError as e:
        raise Problem("%s cannot be run (%s); `make` builds it" % (words[0], e.strerror)) from e
    if done.returncode:
        raise Problem("`%s` gave exit code %d" % (" ".join(words[:2]), done.returncode))
    return done


def threads(options):
    return ["--threads", str(options.threads)] if options.threads else []


def family(mode):
    return mode.split(":")[0]


def made_file(options, words, path):
    """Path of an up-to-date file that `skv-llm WORDS` makes from the calibration texts."""
    sources = [options.engine, options.model] + options.text
    absent = [s for s in sources if not os.path.exists(s)]
    if absent:
        raise Problem("missing: " + ", ".join(absent))
    newest = max(os.path.getmtime(s) for s in sources)
    if os.path.isfile(path) and os.path.getmtime(path) >= newest:
        return path
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    print("%s: %d passages -> %s" % (words[0], len(options.text), path), file=sys.stderr,
          flush=True)
    tokens = ["--tokens", str(options.tokens)] if options.tokens else []
    engine([options.engine, words[0], "--model", options.model, "--text", *options.text,
            "--out", path + ".new", *words[1:], *tokens, *threads(options)], stdout=sys.stderr)
    os.replace(path + ".new", path)
    return path


def inputs(options, mode):
    """Arguments of `skv-llm judge` for what a mode reads."""
    stem = os.path.splitext(os.path.basename(options.model))[0]
    base = os.path.join("build", "profiles", stem)
    name = family(mode)
    if name in JOINT:                   # one calibration makes both
        cold = base + "-joint.cold"
        joint = made_file(options, ["profile", "--group", "joint", "--cold", cold],
                          base + "-joint.skv")
        return ["--cold", cold] if name == "cold" else ["--profile", joint]
    if name in NEEDS_GRAMS:
        return ["--grams", made_file(options, ["grams"], base + ".grams")]
    if name in ("fast", "spectral"):
        return ["--profile", made_file(options, ["profile"], options.profile or base + ".skv")]
    return []


@functools.lru_cache(maxsize=None)
def digest(path):
    """Of a file that stays as it is during the run; the model is large and in every stamp."""
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).digest()


def stamp(paths, *words):
    """Hash of files and settings: rows with the same one need not be judged again."""
    h = hashlib.sha256(json.dumps(words).encode())
    for path in paths:
        h.update(digest(path))
    return h.hexdigest()[:16]


def judge(options, text, modes, extra):
    """The JSON objects of one text, one for each mode."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "judge.json")
        engine([options.engine, "judge", "--model", options.model, "--text", text, "--ctx",
                str(options.ctx), "--start", str(options.start), "--kv", ",".join(modes), *extra,
                "--json", out, *threads(options)], stdout=subprocess.DEVNULL)
        with open(out, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f if line.strip()]
    if len(rows) != len(modes):
        raise Problem("`skv-llm judge` wrote %d rows for %s" % (len(rows), text))
    return [dict(row, text=os.path.basename(text)) for row in rows]


class Store:
    """Rows judged so far, in build/quality: one file a model, a line a row."""

    def __init__(self, options):
        stem = os.path.splitext(os.path.basename(options.model))[0]
        self.path = os.path.join("build", "quality", stem + ".jsonl")
        self.rows = {}
        if os.path.isfile(self.path) and not options.fresh:
            with open(self.path, encoding="utf-8") as f:
                for line in f:
                    if line.endswith("\n"):
                        row = json.loads(line)
                        self.rows[row["stamp"]] = row

    def add(self, row):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.rows[row["stamp"]] = row
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")


def judge_all(options, texts, modes):
    """Rows of every mode on every text, in the order of the texts."""
    store, rows, done = Store(options), [], 0
    extras = {mode: inputs(options, mode) for mode in modes}
    for text in texts:
        stamps = {mode: stamp([options.engine, options.model, text] + extras[mode][1::2], mode,
                              options.ctx, options.start) for mode in modes}
        missing = [mode for mode in modes if stamps[mode] not in store.rows]
        done += len(modes) - len(missing)
        while missing:
            same = [m for m in missing if extras[m] == extras[missing[0]]][:AT_ONCE]
            print("[%d of %d] %s: %s" % (done, len(modes) * len(texts), os.path.basename(text),
                                         " ".join(same)), file=sys.stderr, flush=True)
            for row in judge(options, text, same, extras[same[0]]):
                store.add(dict(row, stamp=stamps[row["mode"]]))
            missing = [m for m in missing if m not in same]
            done += len(same)
        rows += [store.rows[stamps[mode]] for mode in modes]
    return rows


def mean(rows, key):
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else float("nan")


def by_mode(rows):
    """(mode, its rows, mean change of perplexity), in the order of the rows."""
    for mode in dict.fromkeys(row["mode"] for row in rows):
        of = [row for row in rows if row["mode"] == mode]
        yield mode, of, 100 * sum(row["ppl"] / row["ppl_exact"] - 1 for row in of) / len(of)


def table(rows):
    """Means over the texts, one line a mode."""
    lines = ["%-16s %7s %9s %7s %9s %8s %7s %8s   KL of each text"
             % ("mode", "bpe", "bpe_pages", "ratio", "KL mean", "KL p99", "top-1", "ppl")]
    for mode, of, change in by_mode(rows):
        lines.append("%-16s %7.3f %9.3f %7.2f %9.5f %8.4f %7.4f %+7.2f%%   %s" % (
            mode, mean(of, "bpe"), mean(of, "bpe_pages"), mean(of, "ratio"), mean(of, "kl_mean"),
            mean(of, "kl_p99"), mean(of, "top1"), change,
            " ".join("%.4f" % row["kl_mean"] for row in of)))
    return "\n".join(lines)


def bits_for(rows, name, kl):
    """Bits in the pages at which a family reaches a mean KL, as text: log-linear between two judged
    rates, else beyond the least or the most that was judged."""
    modes = [m for m in dict.fromkeys(row["mode"] for row in rows) if family(m) == name]
    points = sorted((mean([r for r in rows if r["mode"] == m], "bpe_pages"),
                     math.log(mean([r for r in rows if r["mode"] == m], "kl_mean"))) for m in modes)
    for (b0, k0), (b1, k1) in zip(points, points[1:]):
        if k1 <= math.log(kl) <= k0:
            return "%.2f" % (b0 + (b1 - b0) * (k0 - math.log(kl)) / (k0 - k1))
    return "<%.2f" % points[0][0] if math.log(kl) > points[0][1] else ">%.2f" % points[-1][0]


def rivals(rows):
    """Our presets, and for every other method (mode, its bits, its KL, the bits they need for it);
    nothing where one side is missing."""
    ours = [n for n in ("fast", "small", "cold")
            if any(family(row["mode"]) == n for row in rows)]
    found = [(mode, mean(of, "bpe_pages"), mean(of, "kl_mean")) for mode, of, _ in by_mode(rows)
             if family(mode) not in ours + ["spectral", "exact"]]
    if not ours or not found:
        return [], []
    return ours, [(mode, bits, kl, [bits_for(rows, name, kl) for name in ours])
                  for mode, bits, kl in found]


def rivals_table(rows):
    ours, found = rivals(rows)
    lines = ["%-16s %9s %9s" % ("rival", "its bits", "its KL") + "".join(" %7s" % n for n in ours)]
    lines += ["%-16s %9.3f %9.5f" % (mode, bits, kl) + "".join(" %7s" % b for b in need)
              for mode, bits, kl, need in found]
    return "\n".join(lines) if found else ""


def markdown(rows):
    """The two tables of README.md."""
    lines = ["| mode | bits per element in pages | mean KL | 99th percentile | same top token | "
             "perplexity |", "|---|---|---|---|---|---|"]
    for mode, of, change in by_mode(rows):
        lines.append("| `%s` | %.2f | %.4f | %.3f | %.1f %% | %+.1f %% |" % (
            mode, mean(of, "bpe_pages"), mean(of, "kl_mean"), mean(of, "kl_p99"),
            100 * mean(of, "top1"), change))
    ours, found = rivals(rows)
    if found:
        lines += ["", "| KL | of | its bits |" + "".join(" `%s` |" % n for n in ours),
                  "|---|---|---|" + "---|" * len(ours)]
    lines += ["| %.4f | `%s` | %.2f | %s |" % (kl, mode, bits, " | ".join(need))
              for mode, bits, kl, need in found]
    return "\n".join(lines)


def draw(options, rows):
    """One HTML file; skv-llm has the drawing code."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.jsonl")
        with open(path, "w", encoding="utf-8") as f:
            f.write("".join(json.dumps(row) + "\n" for row in rows))
        engine([options.engine, "plot", path, "--html", options.html])


def parse(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--engine", default=os.path.join("build", "skv-llm"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", nargs="+", default=[], help="calibration passages")
    parser.add_argument("--tokens", type=int, help="of each calibration passage")
    parser.add_argument("--profile", help="default: build/profiles/MODEL.skv")
    parser.add_argument("--judge", nargs="+", help="texts to judge on (default: build/texts)")
    parser.add_argument("--modes", default=MODES)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--start", type=int, default=256)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--html", metavar="FILE")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="judge again what was judged before")
    return parser.parse_args()


def main():
    options = parse("Judges compressed caches on several texts.")
    texts = options.judge or sorted(glob.glob(os.path.join("build", "texts", "*.txt")))
    if not texts:
        raise Problem("no text to judge on: `make texts` writes build/texts")
    rows = judge_all(options, texts, options.modes.split(","))
    quiet = options.json == "-"
    out = sys.stderr if quiet else sys.stdout
    print("%s, texts %s, positions %d to %d, window and sinks as by default"
          % (os.path.basename(options.model), " ".join(os.path.basename(t) for t in texts),
             options.start, options.ctx - 1), file=out)
    print(markdown(rows) if options.markdown else table(rows), file=out)
    needed = "" if options.markdown else rivals_table(rows)
    if needed:
        print("\nBits in the pages at which our presets reach a rival's KL\n" + needed, file=out)
    if quiet:
        print("\n".join(json.dumps(row) for row in rows))
    elif options.json:
        with open(options.json, "w", encoding="utf-8") as f:
            f.write("".join(json.dumps(row) + "\n" for row in rows))
    if options.html:
        draw(options, rows)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Problem, OSError) as problem:
        print("quality.py: %s" % problem, file=sys.stderr)
        sys.exit(1)
