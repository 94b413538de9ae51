#!/usr/bin/env python3
"""Instructions per 64 codes in the inner loops of the AVX2 and AVX-512 kernels, read from the
machine code, and where llvm-mca is installed its prediction of cycles: bench/results/isa-x86.md.

    tools/count_x86.py [--cpu icelake-server]

Needs an x86-64 with gcc or clang, objdump, and llvm-mca (Debian: llvm) for the cycles.
"""
import argparse
import os
import re
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "build", "isa")
PRODUCT = re.compile("vpdpbusd|vpmaddubsw")
WORK = re.compile("vpdpbusd|vpmaddubsw|vpshufb|vpermb")


def output(words, text=None):
    return subprocess.run(words, cwd=ROOT, input=text, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, universal_newlines=True).stdout


def functions(compiler):
    """{name: [(address, instruction)]} of bench/isa_x86.c."""
    path = os.path.join(FOLDER, "x86-%s.o" % compiler)
    output([compiler, "-O2", "-std=c99", "-w", "-I.", "-c", "bench/isa_x86.c", "-o", path])
    found = {}
    for line in output(["objdump", "-d", "--no-show-raw-insn", path]).split("\n"):
        head = re.match(r"[0-9a-f]+ <(\w+)>:", line)
        row = re.match(r"\s+([0-9a-f]+):\s+(.*\S)", line)
        if head:
            here = found.setdefault(head.group(1), [])
        elif row and not re.match(r"(?:nop|data16|cs nop)", row.group(2)):
            here.append((int(row.group(1), 16), re.sub(r"\s*[#<].*", "", row.group(2))))
    return found


def busiest_inner_loop(rows):
    """Of the loops that hold no other loop: the instructions of the one with most products, or
    look-ups."""
    loops = []
    for address, text in rows:
        jump = re.match(r"j\w+\s+([0-9a-f]+)$", text)
        if jump and rows[0][0] <= int(jump.group(1), 16) < address:
            loops.append((int(jump.group(1), 16), address))
    inner = [l for l in loops if not any(o != l and l[0] <= o[0] and o[1] <= l[1] for o in loops)]
    bodies = [[text for address, text in rows if low <= address <= high] for low, high in inner]
    return max(bodies or [[text for _, text in rows]],
               key=lambda body: sum(1 for text in body if WORK.match(text)))


def codes(name, body):
    """How many codes a turn of the loop takes: what it stores or multiplies tells."""
    part, number, isa = name.split("_")
    width = 64 if isa == "avx512" else 32
    if part == "expand":
        return 8 * 64
    products = sum(1 for text in body if PRODUCT.match(text))
    return width * products // int(number)


def cycles(body, cpu):
    text = "".join(re.sub(r"^(j\w+)\s.*", r"\1 1b", line) + "\n" for line in body)
    report = output(["llvm-mca", "-mtriple=x86_64", "-mcpu=" + cpu, "-iterations=500", "-"],
                    "1:\n" + text)
    return float(re.search(r"Total Cycles:\s+(\d+)", report).group(1)) / 500


def table(compiler, cpu):
    found = functions(compiler)
    print("\n%s -O2\n\n| loop | AVX2 | AVX-512 | ratio |%s\n|%s" % (
        compiler, " AVX2, cycles | AVX-512, cycles | ratio |" if cpu else "",
        "---|" * (7 if cpu else 4)))

    def numbers(name):
        body = busiest_inner_loop(found[name])
        n = codes(name, body) / 64
        return [len(body) / n] + ([cycles(body, cpu) / n] if cpu else [])

    def row(what, pair):
        print("| %s |" % what + "".join(" %.1f | %s |" % (pair[0][i], " %.1f | %.2f" % (
            pair[1][i], pair[0][i] / pair[1][i]) if len(pair) > 1 else " - | -")
            for i in range(len(pair[0]))).replace("|  ", "| "))
    parts = {n: numbers(n) for n in found if re.match(r"(?:expand|score|value)_\d_avx", n)}
    for h in (4, 8):
        row("expand, %d bits" % (h // 2), [parts["expand_%d_avx2" % h]])
    for part in ("score", "value"):
        for rows in (3, 4):
            row("%s, %d rows" % (part, rows), [parts["%s_%d_avx2" % (part, rows)]])
    for part in ("score", "value"):
        for h in (4, 8):
            for rows in (3, 4):
                name = "%s_%d" % (part, rows)
                both = [x + y for x, y in zip(parts["expand_%d_avx2" % h], parts[name + "_avx2"])]
                row("expand + %s, %d bits, %d rows" % (part, h // 2, rows),
                    [both, parts[name + "_avx512"]])


def main():
    parser = argparse.ArgumentParser(description="Counts instructions of the inner loops.")
    parser.add_argument("--cpu", default="icelake-server", help="whose cycles llvm-mca predicts")
    options = parser.parse_args()
    os.makedirs(FOLDER, exist_ok=True)
    for compiler in ("gcc", "clang"):
        if shutil.which(compiler):
            table(compiler, options.cpu if shutil.which("llvm-mca") else None)


if __name__ == "__main__":
    main()
