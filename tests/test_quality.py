#!/usr/bin/env python3
"""The promise about quality on a real model, as `make bench-quality` measures it but shorter: a
profile from 512 tokens of each calibration passage, judged on the two held-out texts."""
import json
import os
import sys

from harness import ROOT, Cases, Skip, check, command, read

ENGINE = os.path.join(ROOT, os.environ.get("SKV_LLM", os.path.join("build", "skv-llm")))
WORK = os.path.join(ROOT, "build", "quality")
LIMITS = {"spectral:4.3": (4.3, 0.008), "spectral:2.3": (2.3, 0.06)}    # bits in pages, mean KL


def verdicts():
    """Rows of the judge: the exact cache against itself, and the modes of LIMITS."""
    model = os.environ.get("SKV_MODEL_SMOLLM2")
    if not model or not os.path.isfile(model):
        raise Skip("no model: `make model` fetches it, `make test` passes its path on")
    os.makedirs(WORK, exist_ok=True)
    profile = os.path.join(WORK, "short.skv")
    texts = [l for l in read("examples/text/calibration.list").split("\n") if l and l[0] != "#"]
    command(ENGINE, "profile", "--model", model, "--tokens", "512", "--out", profile, "--text",
            *texts)
    rows = []
    for name in ("documentation", "scripture"):
        lines = command(ENGINE, "judge", "--model", model, "--profile", profile, "--ctx", "768",
                        "--text", os.path.join("examples", "text", "heldout", name + ".txt"),
                        "--kv", ",".join(["exact"] + sorted(LIMITS)), "--json", "-")
        rows += [json.loads(line) for line in lines.strip().split("\n")]
    return rows


def quality_within_the_promise():
    rows = verdicts()
    check(len(rows) == 6 and all(r["tokens"] == 768 for r in rows), "rows: %r" % rows)
    for row in rows:
        if row["mode"] == "exact":
            check(row["kl_mean"] == 0 and row["top1"] == 1, "exact is not exact: %r" % row)
    for mode, (bits, kl) in LIMITS.items():
        of = [r for r in rows if r["mode"] == mode]
        mean = sum(r["kl_mean"] for r in of) / len(of)
        check(max(r["bpe_pages"] for r in of) <= bits, "%s takes too many bits: %r" % (mode, of))
        check(0 < mean <= kl, "%s: mean KL %g, allowed %g" % (mode, mean, kl))
        check(all(abs(r["ppl"] / r["ppl_exact"] - 1) < 0.1 for r in of), "perplexity: %r" % of)


def main():
    cases = Cases("test_quality", __doc__)
    cases.run("quality_within_the_promise", quality_within_the_promise, slow=True)
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
