#!/usr/bin/env python3
"""The same prompt with the exact and with the compressed cache, and the difference: `make demo`.

    python3 tools/demo.py --engine build/skv-llm --model M.gguf --text CALIBRATION...
"""
import json
import os
import sys
import tempfile
import time

from quality import Problem, engine, inputs, judge, parse, table, threads

HELDOUT = os.path.join("examples", "text", "heldout")
TOKENS = 96                         # generated for each cache
COMPRESSED = ["fast:4", "fast:2"]


def prompt():
    """A prompt that is longer than sinks and window, so that most of it is read compressed."""
    with open(os.path.join(HELDOUT, "documentation.txt"), encoding="utf-8") as f:
        text = f.read(3000)
    return text[:text.rindex("\n\n")] + "\n\nSummarize the text above in a few sentences."


def generate(options, profile, mode):
    """Runs one answer, whose words appear as they come; its figures as the engine wrote them."""
    print("\n--- %s ---" % mode, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "generate.json")
        words = [options.engine, "generate", "--model", options.model, "--prompt", prompt(), "-n",
                 str(TOKENS), "--kv", mode, "--temp", "0", "--json", out, *threads(options)]
        if mode != "exact":
            words += ["--profile", profile]
        engine(words)
        with open(out, encoding="utf-8") as f:
            return json.load(f)


def same_start(a, b):
    """How many tokens two answers have in common before they part."""
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


def answers_table(answers):
    exact = answers[0]
    lines = ["%-12s %12s %8s %10s %12s   same as exact for the first"
             % ("cache", "bytes", "ratio", "prompt s", "tokens/s")]
    for a in answers:
        lines.append("%-12s %12d %8.2f %10.2f %12.1f   %d of %d tokens" % (
            a["mode"] + (" (f16)" if a is exact else ""), a["cache_bytes"],
            exact["cache_bytes"] / a["cache_bytes"], a["prompt_seconds"],
            a["tokens_per_second"], same_start(exact["ids"], a["ids"]), len(a["ids"])))
    return "\n".join(lines)


def main():
    options = parse("The same prompt with the exact and with the compressed cache.")
    start = time.time()
    profile = inputs(options, COMPRESSED[0])[1]
    print("prompt: the start of %s/documentation.txt, to be summarized" % HELDOUT, flush=True)
    answers = [generate(options, profile, mode) for mode in ["exact"] + COMPRESSED]
    print("\n%d tokens of prompt, then the answer:" % answers[0]["prompt_tokens"])
    print(answers_table(answers))
    print("\nteacher-forced on texts that the profile has not seen, against the exact cache:")
    rows = []
    for name in sorted(os.listdir(HELDOUT)):
        rows += judge(options, os.path.join(HELDOUT, name), COMPRESSED, ["--profile", profile])
    print(table(rows))
    print("bpe counts every byte of the cache but the profile (%d bytes); f16 has 16. %.0f s in all"
          % (os.path.getsize(profile), time.time() - start))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Problem, OSError) as problem:
        print("demo.py: %s" % problem, file=sys.stderr)
        sys.exit(1)
