#!/usr/bin/env python3
"""Looks at skv-llm (SKV_LLM, else build/skv-llm) from outside: exit codes, messages, JSON."""
import json
import os
import struct
import subprocess
import sys
import xml.etree.ElementTree

from harness import ROOT, Cases, Skip, check

ENGINE = os.path.join(ROOT, os.environ.get("SKV_LLM", os.path.join("build", "skv-llm")))
WORK = os.path.join(ROOT, "build", "cli")
JUDGE_KEYS = ("mode tokens bpe bpe_pages profile_bytes ratio kl_mean kl_p99 top1 ppl_exact ppl "
              "seconds start sinks window model text").split()


def run(*words):
    return subprocess.run([ENGINE, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True)


def refused(*words):
    """The command says what is wrong and ends with 2."""
    done = run(*words)
    shown = "%s\nexit code %d\n%s%s" % (" ".join(words), done.returncode, done.stdout, done.stderr)
    check(done.returncode == 2, shown)
    check(len(done.stderr) > 10 and not done.stdout, "no message, or output beside it:\n" + shown)


def scratch(name, data):
    os.makedirs(WORK, exist_ok=True)
    path = os.path.join(WORK, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def model():
    path = os.environ.get("SKV_MODEL_SMOLLM2")
    if not path or not os.path.isfile(path):
        raise Skip("no model: `make model` fetches it, `make test` passes its path on")
    return path


def bad_arguments():
    refused()
    for words in (["nonsense"], ["generate"], ["generate", "--nonsense"], ["generate", "--model"],
                  ["judge", "--model", "m"], ["compare", "--model", "m"],
                  ["profile", "--model", "m"],
                  ["profile", "--price", "cheap"], ["profile", "--group", "0"],
                  ["profile", "--group", "auto:"], ["profile", "--group", "auto:-1"],
                  ["generate", "--device", "tpu"], ["inspect"], ["plot"],
                  ["plot", "rows.jsonl"], ["plot", "--html", "-"]):
        refused(*words)


def help_is_no_error():
    done = run("--help")
    check(done.returncode == 0 and "usage" in done.stdout, "--help: exit code %d" % done.returncode)


def bad_models():
    empty = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)
    alien = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("general.architecture") \
        + struct.pack("<I", 8) + text("alien")
    greedy = struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 1 << 60)
    for name, data in (("empty", b""), ("magic", b"GGUF"), ("nothing", empty), ("alien", alien),
                       ("greedy", greedy), ("text", b"not a model at all\n" * 99)):
        path = scratch(name + ".gguf", data)
        refused("generate", "--model", path, "--prompt", "x")
    refused("generate", "--model", os.path.join(WORK, "absent.gguf"), "--prompt", "x")
    refused("generate", "--model", WORK, "--prompt", "x")


def bad_profiles():
    for name, data in (("empty", b""), ("text", b"not a profile\n" * 99)):
        refused("inspect", scratch(name + ".skv", data))
    refused("inspect", os.path.join(WORK, "absent.skv"))


def truncated_model():
    with open(model(), "rb") as f:
        head = f.read(1 << 22)
    for size in (100, 5000, 1 << 16, 1 << 22):
        refused("generate", "--model", scratch("cut.gguf", head[:size]), "--prompt", "x")


def bad_modes():
    source = os.path.join("examples", "text", "heldout", "scripture.txt")
    for mode in ("", "nonsense", "spectral", "spectral:", "spectral:x", "spectral:-1",
                 "spectral:nan", "exact,"):
        refused("judge", "--model", model(), "--text", source, "--kv", mode)


def same_seed_same_words():
    def ids(seed):
        out = os.path.join(WORK, "ids.json")
        os.makedirs(WORK, exist_ok=True)
        done = run("generate", "--model", model(), "--prompt", "Tell me a story.", "-n", "12",
                   "--temp", "1", "--seed", seed, "--json", out)
        check(done.returncode == 0, done.stderr)
        with open(out, encoding="utf-8") as f:
            return json.load(f)["ids"]
    first = ids("1")
    check(first == ids("1"), "the same seed gave other tokens")
    check(any(first != ids(s) for s in ("2", "3")), "three seeds gave the same tokens")


def judge_exact():
    """The exact cache against itself: nothing differs, and every promised key is there."""
    page = os.path.join(WORK, "judge.html")
    os.makedirs(WORK, exist_ok=True)
    source = os.path.join("examples", "text", "heldout", "scripture.txt")
    done = run("judge", "--model", model(), "--text", source, "--ctx", "160", "--start", "96",
               "--kv", "exact", "--json", "-", "--html", page)
    check(done.returncode == 0, done.stderr)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    check(len(rows) == 1, "%d rows for one mode" % len(rows))
    missing = [k for k in JUDGE_KEYS if k not in rows[0]]
    check(not missing, "keys missing: " + " ".join(missing))
    check(xml.etree.ElementTree.parse(page).find(".//table") is not None, "no table in " + page)
    check(rows[0]["kl_mean"] < 1e-6 and rows[0]["top1"] == 1 and rows[0]["bpe"] == 16,
          "exact differs from exact: %s" % rows[0])


def head_groups():
    """--group auto: heads share a latent space where that is free, not where it is dear."""
    source = os.path.join("examples", "text", "heldout", "scripture.txt")
    for price, size in (("0", 3), ("16", 1)):
        out = os.path.join(WORK, "group.skv")
        done = run("profile", "--model", model(), "--text", source, "--tokens", "100", "--price",
                   "norm", "--group", "auto:" + price, "--out", out)
        check(done.returncode == 0, done.stderr)
        check("Head groups of %d, " % size in done.stdout, done.stdout)
    words = ["generate", "--model", model(), "--prompt", "x", "--kv", "fast:4", "--profile", out]
    refused(*words, "--device", "cuda")                 # built without CUDA, and says so
    check("CUDA=1" in run(*words, "--device", "cuda").stderr, "no word of CUDA=1")


def tools_start():
    """Each script that make calls can be imported whole and explains itself."""
    for name in ("demo.py", "quality.py", "presets.py", "fetch_model.py"):
        done = subprocess.run([sys.executable, os.path.join("tools", name), "--help"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, universal_newlines=True)
        check(done.returncode == 0 and "usage" in done.stdout, done.stdout)


def plot():
    """Rows become one page that stands alone; what are no rows is refused."""
    row = dict(tokens=1024, bpe=5, kl_p99=.1, top1=.9, ppl_exact=10, ppl=11, start=256, sinks=4,
               window=64, model="m.gguf", text="t.txt")
    rows = [dict(row, mode=m, bpe_pages=b, kl_mean=k) for m, b, k in
            (("exact", 0, 0), ("fast:3", 3, .01), ("fast:2", 2, .1), ("q<8>", 8.5, 1e-4))]
    path = scratch("rows.jsonl", "".join(json.dumps(r) + "\n" for r in rows).encode())
    done = run("plot", path, path, "--html", "-")
    check(done.returncode == 0, done.stderr)
    page = xml.etree.ElementTree.fromstring(done.stdout)
    labels = [t.text for t in page.iter("text") if t.get("class") == "label"]
    check(sorted(labels) == ["fast:2", "fast:3", "q<8>"], "labels: %s" % labels)
    check(len(list(page.iter("tr"))) == 5, "not every mode is in the table")
    check("http" not in done.stdout and "script" not in done.stdout, "the page asks for more")
    for name, data in (("empty", b""), ("text", b"not a row\n"), ("short", b'{"mode": "a"}\n')):
        refused("plot", scratch(name + ".jsonl", data), "--html", "-")
    refused("plot", os.path.join(WORK, "absent.jsonl"), "--html", "-")


def main():
    cases = Cases("test_cli", "Looks at build/skv-llm from outside.")
    for test in (bad_arguments, help_is_no_error, bad_models, bad_profiles, truncated_model,
                 bad_modes, same_seed_same_words, judge_exact, head_groups,
                 tools_start, plot):
        cases.run(test.__name__, test)
    return cases.end()


if __name__ == "__main__":
    sys.exit(main())
