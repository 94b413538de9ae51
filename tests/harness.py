"""harness.py: what test.h is to C, for the test programs written in Python."""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Skip(Exception):
    """The case cannot run here; the text says what is missing and how to get it."""


class Fail(Exception):
    """The case failed; the text says how."""


class Cases:
    """Runs cases, some at a time, prints a line each in their order and at last the summary."""

    def __init__(self, program, description):
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--only", metavar="WORD", help="cases whose name contains it")
        parser.add_argument("--quick", action="store_true", help="leave the slow cases out")
        self.options = parser.parse_args()
        self.program = program
        self.pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1)
        self.cases = []
        os.chdir(ROOT)

    def run(self, name, function, *arguments, slow=False):
        if self.options.only and self.options.only not in name:
            return
        if not (slow and self.options.quick):
            self.cases.append((name, self.pool.submit(function, *arguments)))

    def end(self):
        count = {"ok": 0, "FAIL": 0, "skip": 0}
        for name, future in self.cases:
            word, why = "ok", ""
            try:
                future.result()
            except Skip as e:
                word, why = "skip", ": %s" % e
            except Exception as e:              # a case that breaks has failed too
                word = "FAIL"
                print("    " + "\n    ".join((str(e) or repr(e)).rstrip().split("\n")[:40]))
            count[word] += 1
            print("  %-4s %s%s" % (word, name, why), flush=True)
        if not self.cases:
            print("%s: no test ran" % self.program)
            count["FAIL"] = 1
        print("%s: %d passed, %d failed, %d skipped"
              % (self.program, count["ok"], count["FAIL"], count["skip"]))
        return 1 if count["FAIL"] else 0


def check(condition, text):
    if not condition:
        raise Fail(text)


def need(tool, package):
    """Path of a tool, or the case is skipped."""
    path = shutil.which(tool)
    if not path:
        raise Skip("no %s here (Debian: apt-get install %s)" % (tool, package))
    return path


def command(*words, cwd=None, env=None):
    """Output of a command that must succeed."""
    done = subprocess.run(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode("utf-8", "replace")
    check(done.returncode == 0, "%s\n%s\nexit code %d" % (" ".join(words), text, done.returncode))
    return text


def succeeds(*words):
    return subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def first_comment(text):
    """Inside of the first C comment of a file."""
    found = re.search(r"/\*(.*?)\*/", text, re.S)
    return found.group(1) if found else ""


def header_api():
    """Names of the functions that spectral_kv.h declares, in order."""
    head = re.split(r"^#\s*if.*SPECTRAL_KV_IMPLEMENTATION", read("spectral_kv.h"), flags=re.M)[0]
    head = re.sub(r"/\*.*?\*/", " ", head, flags=re.S)
    names = re.findall(r"^\s*SKV_?(?:DEF|API)\b[^;(]*?\b(skv_\w+)\s*\(", head, re.M)
    return list(dict.fromkeys(names))

