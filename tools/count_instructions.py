#!/usr/bin/env python3
"""Instructions that expanding codes, scores and values take per 64 codes, counted one by one while
they run: aarch64 under qemu, WebAssembly in wabt's interpreter. Prints bench/results/isa.md's tables.

    tools/count_instructions.py

Needs gcc-aarch64-linux-gnu, qemu-user, clang, wasi-libc and wabt (the names of Debian's packages).
WebAssembly counts what computes, loads, stores or jumps; a machine keeps local.* and constants in
registers. The least is what one kernel for all three steps would need that never stores a level:
the look-ups, the products, and loads of codes; no loop, no query or weight loaded, no sum spread.
"""
import os
import re
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "build", "isa")
TABLES = [      # name, compiler, least for the products of a row, for what comes before (values)
    ("aarch64, gcc", ["aarch64-linux-gnu-gcc", "-static"], 8, (0, 4)),
    ("aarch64 with dot products, gcc",
     ["aarch64-linux-gnu-gcc", "-static", "-march=armv8.2-a+dotprod"], 4, (0, 4)),
    ("WebAssembly, clang",
     ["clang", "--target=wasm32-wasi", "-mexec-model=reactor", "-msimd128"], 16, (8, 8))]
SLAB = 64                           # times 64 codes
IDLE = re.compile(r"local\.|\S+\.const|block|loop|end|drop|return|catch|alloca")


def count(compiler, part, h, rows):
    """Instructions of one kernel on one slab."""
    program = os.path.join(FOLDER, "isa")
    subprocess.run([*compiler, "-O2", "-std=c99", "-DPART=%d" % part, "-DH=%d" % h,
                    "-DROWS=%d" % rows, "-I.", "bench/isa.c", "-o", program, "-lm"],
                   cwd=ROOT, check=True)
    if compiler[0] == "clang":
        words = ["wasm-interp", "--dummy-import-func", "--trace", "--run-all-exports", program]
        text = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout.decode()
        names = re.findall(r"^#\d+\.\s+\d+: V:\d+\s+\| (\S+)", text, re.M)
        return sum(1 for name in names if not IDLE.match(name))
    log = program + ".log"
    subprocess.run(["qemu-aarch64", "-singlestep", "-d", "exec,nochain", "-D", log, program],
                   check=True)
    with open(log, encoding="utf-8") as lines:
        kernel = re.compile(r"\] skvi_(?:%s)_\w+$" % "|".join(("expand", "score", "value")))
        return sum(1 for line in lines if kernel.search(line))


def least(h, wasm):
    """To expand 64 codes of h half bits, 8 or 4: isa.md says why."""
    bits = [1, 1, 1, 1] if h == 8 else [1, 2, 1, 4 if wasm else 3]      # to cut four nibbles out
    return h // 4 + sum(bits) + 4 * 4


def main():
    os.makedirs(FOLDER, exist_ok=True)
    for name, compiler, products, before in TABLES:
        print("\n%s\n\n| bits | rows | expand | scores | values | expand + scores | least | ratio "
              "| expand + values | least | ratio |\n|%s" % (name, "---|" * 11))
        for h in (8, 4):
            for rows in (1, 4):
                n = [count(compiler, part, h, rows) / SLAB for part in range(3)]
                row = "| %d | %d | %.1f | %.1f | %.1f |" % (h // 2, rows, *n)
                for kind in (0, 1):
                    low = least(h, compiler[0] == "clang") + before[kind] + rows * products
                    both = n[0] + n[1 + kind]
                    row += " %.1f | %d | %.2f |" % (both, low, both / low)
                print(row, flush=True)


if __name__ == "__main__":
    main()
