#!/usr/bin/env python3
"""Writes the texts that `make bench-quality` judges on, taken from what a Debian machine has.

    python3 tools/judge_texts.py [--dir build/texts]

documentation.txt  Python's own documentation topics (pydoc_data)
scripture.txt      King James Bible, Genesis (Debian bible-kjv), else a passage of this repository
code.txt           Python's library sources (tarfile, argparse)
licence.txt        GFDL and GPL-3 (Debian base-files)

Each has 8,192 characters, 1,024 tokens or more. Their words depend on the versions of Python and
Debian: compare figures only where the printed check sums agree.
"""
import argparse
import hashlib
import inspect
import os
import subprocess
import sys

LENGTH = 8192
REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def cut(text, start):
    """LENGTH characters from start on, or the last LENGTH where the text is shorter than that."""
    return text[max(0, min(start, len(text) - LENGTH)):][:LENGTH]


def read(*names):
    texts = []
    for name in names:
        with open(name, encoding="utf-8") as f:
            texts.append(f.read())
    return "".join(texts)


def documentation():
    from pydoc_data import topics
    return cut("\n".join(topics.topics[k] for k in sorted(topics.topics)), 20000)


def scripture():
    try:
        got = subprocess.run(["bible", "Gen1:1-Gen30:1"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, universal_newlines=True)
        if len(got.stdout) > LENGTH:
            return cut(got.stdout, 2000)
    except OSError:
        pass
    print("scripture: no `bible` here (Debian: apt-get install bible-kjv), "
          "taking examples/text/heldout/scripture.txt instead")
    return read(os.path.join(REPOSITORY, "examples", "text", "heldout", "scripture.txt"))


def code():
    import tarfile
    return cut(inspect.getsource(tarfile) + inspect.getsource(argparse), 120000)


def licence():
    folder = "/usr/share/common-licenses"
    return cut(read(os.path.join(folder, "GFDL"), os.path.join(folder, "GPL-3")), 3000)


def main():
    parser = argparse.ArgumentParser(description="Writes the texts of make bench-quality.")
    parser.add_argument("--dir", default=os.path.join("build", "texts"))
    args = parser.parse_args()
    os.makedirs(args.dir, exist_ok=True)
    written = 0
    for make in (documentation, scripture, code, licence):
        path = os.path.join(args.dir, make.__name__ + ".txt")
        try:
            data = make().encode("utf-8")
        except (OSError, ImportError, UnicodeDecodeError) as e:
            if os.path.exists(path):
                os.unlink(path)
            print("%s: left out, this machine lacks its source (%s)" % (make.__name__, e))
            continue
        with open(path, "wb") as f:
            f.write(data)
        written += 1
        print("%s %6d bytes  sha256 %s" % (path, len(data), hashlib.sha256(data).hexdigest()[:12]))
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
