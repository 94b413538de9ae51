#!/usr/bin/env python3
"""Judges compressed caches on several texts: `make bench-quality`.

    python3 tools/quality.py --engine build/skv-llm --model M.gguf --text CALIBRATION...
                             [--judge FILE...] [--modes spectral:4.3,...] [--ctx 1024] [--start 256]
                             [--tokens N] [--profile P.skv] [--threads N] [--json FILE]

Makes the profile from the calibration texts unless it is there and newer than they are, runs
`skv-llm judge` on every text and prints the means over the texts. --json FILE keeps every row (- is
standard output).
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import tempfile

MODES = "spectral:4.3,spectral:3.3,spectral:2.3"


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


def default_profile(model):
    stem = os.path.splitext(os.path.basename(model))[0]
    return os.path.join("build", "profiles", stem + ".skv")


def make_profile(options):
    """Path of an up-to-date profile."""
    path = options.profile or default_profile(options.model)
    sources = [options.engine, options.model] + options.text
    absent = [s for s in sources if not os.path.exists(s)]
    if absent:
        raise Problem("missing: " + ", ".join(absent))
    newest = max(os.path.getmtime(s) for s in sources)
    if os.path.isfile(path) and os.path.getmtime(path) >= newest:
        return path
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    print("profile: %d passages -> %s" % (len(options.text), path), file=sys.stderr, flush=True)
    tokens = ["--tokens", str(options.tokens)] if options.tokens else []
    engine([options.engine, "profile", "--model", options.model, "--text", *options.text,
            "--out", path, *tokens, *threads(options)], stdout=sys.stderr)
    return path


def judge(options, profile, text, modes):
    """The JSON objects of one text, one for each mode."""
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "judge.json")
        engine([options.engine, "judge", "--model", options.model, "--text", text, "--ctx",
                str(options.ctx), "--start", str(options.start), "--kv", modes, "--profile",
                profile, "--json", out, *threads(options)], stdout=subprocess.DEVNULL)
        with open(out, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f if line.strip()]
    if not rows:
        raise Problem("`skv-llm judge` wrote no row for %s" % text)
    return [dict(row, text=os.path.basename(text)) for row in rows]


def mean(rows, key):
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else float("nan")


def table(rows):
    """Means over the texts, one line a mode, in the order of the rows."""
    lines = ["%-16s %7s %9s %7s %9s %8s %7s %8s   KL of each text"
             % ("mode", "bpe", "bpe_pages", "ratio", "KL mean", "KL p99", "top-1", "ppl")]
    for mode in dict.fromkeys(row["mode"] for row in rows):
        of = [row for row in rows if row["mode"] == mode]
        change = sum(row["ppl"] / row["ppl_exact"] - 1 for row in of) / len(of)
        lines.append("%-16s %7.3f %9.3f %7.2f %9.5f %8.4f %7.4f %+7.2f%%   %s" % (
            mode, mean(of, "bpe"), mean(of, "bpe_pages"), mean(of, "ratio"), mean(of, "kl_mean"),
            mean(of, "kl_p99"), mean(of, "top1"), 100 * change,
            " ".join("%.4f" % row["kl_mean"] for row in of)))
    return "\n".join(lines)


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
    return parser.parse_args()


def main():
    options = parse("Judges compressed caches on several texts.")
    texts = options.judge or sorted(glob.glob(os.path.join("build", "texts", "*.txt")))
    if not texts:
        raise Problem("no text to judge on: `make texts` writes build/texts")
    profile, rows = make_profile(options), []
    for text in texts:
        print("judge: " + text, file=sys.stderr, flush=True)
        rows += judge(options, profile, text, options.modes)
    quiet = options.json == "-"
    print("%s, profile %s (%d bytes), texts %s, positions %d to %d, window and sinks as by default"
          % (os.path.basename(options.model), profile, os.path.getsize(profile),
             " ".join(os.path.basename(t) for t in texts), options.start, options.ctx - 1),
          file=sys.stderr if quiet else sys.stdout)
    print(table(rows), file=sys.stderr if quiet else sys.stdout)
    if quiet:
        print("\n".join(json.dumps(row) for row in rows))
    elif options.json:
        with open(options.json, "w", encoding="utf-8") as f:
            f.write("".join(json.dumps(row) + "\n" for row in rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Problem, OSError) as problem:
        print("quality.py: %s" % problem, file=sys.stderr)
        sys.exit(1)
