#!/usr/bin/env python3
"""What the compiler makes of the kernels of spectral_kv_cuda.cuh, without a GPU: registers, spills,
shared memory and theoretical occupancy for every architecture, and how many instructions codes
cost, against the bytes they come from: bench/results/cuda-kernels.md.

    tools/cuda_report.py > bench/results/cuda-kernels.md

Needs nvcc and cuobjdump (`pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm` has the latter
where the toolkit does not: put its bin folder into PATH) and g++. Takes two minutes.
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER = os.path.join(ROOT, "build", "cuda-report")
BLOCK = 128
# Per multiprocessor: warps, blocks, KiB of shared memory; KiB that a block is charged beside its
# own (CUDA C++ Programming Guide, compute capabilities; registers are 65536 everywhere).
LIMITS = {"sm_75": (32, 16, 64, 0), "sm_80": (64, 32, 164, 1), "sm_86": (48, 16, 100, 1),
          "sm_89": (48, 24, 100, 1), "sm_90": (64, 32, 228, 1), "sm_100": (64, 32, 228, 1),
          "sm_120": (48, 24, 100, 1)}
# GPUs of the prediction: architecture, multiprocessors, boost GHz, GB/s (vendors' data sheets).
GPUS = [("T4", "sm_75", 40, 1.59, 320), ("A100 SXM 80 GB", "sm_80", 108, 1.41, 2039),
        ("RTX 4090", "sm_89", 128, 2.52, 1008), ("H100 SXM", "sm_90", 132, 1.98, 3350)]
UNIT = '#define SPECTRAL_KV_CUDA_IMPLEMENTATION\n#include "spectral_kv_cuda.cuh"\n'
SIZES = """#include <stdio.h>
#define SPECTRAL_KV_IMPLEMENTATION
#define SPECTRAL_KV_CUDA
#include "spectral_kv.h"
int main(void)
{
    const uint32_t shape[][3] = {{64, 4, 32}, {128, 8, 64}, {128, 32, 64}};  /* dim, rows, pairs */
    for (int i = 0; i < 3; i++) {
        skv_table t;
        memset(&t, 0, sizeof t);
        t.shape.head_dim = t.shape.head_dim_v = shape[i][0];
        t.pairs = shape[i][2];
        printf("skvi_cu_attend_kernel<%u> %zu\\n", shape[i][1],
               skvi_cu_attend_bytes(shape[i][1], &t, shape[i][0]));
        if (!i) printf("skvi_cu_attend_kernel<2> %zu\\n", skvi_cu_attend_bytes(2, &t, 64));
    }
    printf("skvi_cu_query_kernel 512\\nskvi_cu_merge_kernel 512\\n");
    printf("skvi_cu_latents_kernel %zu\\n", (size_t)SKVI_CU_LATENTS_BYTES);
    printf("skvi_cu_choose_kernel %zu\\n", (size_t)SKVI_CU_CHOOSE_BYTES);
    printf("skvi_cu_search_kernel %zu\\n", (size_t)SKVI_CU_SEARCH_BYTES);
    printf("skvi_cu_finish_kernel %zu\\n", (size_t)SKVI_CU_FINISH_BYTES);
    printf("skvi_cu_decode_kernel %zu\\n", (size_t)SKVI_CU_DECODE_BYTES);
    printf("skvi_cu_cold_codes_kernel %zu\\n", skvi_cu_cold_codes_bytes(64));
    printf("skvi_cu_cold_rows_kernel %zu\\n", (size_t)SKVI_CU_TILE_BYTES);
    printf("skvi_cu_cold_out_kernel 0\\nskvi_cu_prepare_kernel 0\\nskvi_cu_norms_kernel 0\\n");
    printf("skvi_cu_weigh_kernel %zu\\n", skvi_cu_weigh_bytes(64, 64, 2048));
    printf("skvi_cu_gram_kernel %zu\\n", (size_t)SKVI_CU_TILE_BYTES);
    printf("skvi_cu_totals_kernel 0\\n");
    return 0;
}
"""
# A slab of 64 channels by 64 tokens: codes to shared memory, levels, products with ROWS rows.
PROBE = UNIT + """
template <uint32_t ROWS, int VALUES>
__global__ void __launch_bounds__(SKVI_CU_BLOCK, 3)
probe(const skv_table *t, const unsigned char *sub, const uint32_t *quads, float *out)
{
    extern __shared__ uint4 skvi_cu_shared[];
    unsigned char *at = (unsigned char *)skvi_cu_shared;
    uint32_t *levels = skvi_cu_room<uint32_t>(&at, 64 * SKVI_CU_LINE);
    uint32_t *stage = skvi_cu_room<uint32_t>(&at, SKVI_CU_STAGE);
    uint32_t *bytes = skvi_cu_room<uint32_t>(&at, 2 * ROWS * 16);
    uint4 *parts = skvi_cu_room<uint4>(&at, 4 * SKV_TABLE_MODES);
    skvi_cu_stage(t, sub, quads, 16, VALUES, stage);
    __syncthreads();
    skvi_cu_slab(t, quads, 16, VALUES, stage, parts, levels);
    __syncthreads();
    skvi_cu_product<ROWS, VALUES>(levels, bytes, 0, ROWS, [&](uint32_t r, uint32_t line, int sum) {
        out[64 * r + line] += (float)sum;
    });
}
#define MAKE(R) \\
    template __global__ void probe<R, 0>(const skv_table *, const unsigned char *, \\
                                         const uint32_t *, float *); \\
    template __global__ void probe<R, 1>(const skv_table *, const unsigned char *, \\
                                         const uint32_t *, float *);
MAKE(2) MAKE(4) MAKE(8)
"""


def output(*words):
    if not shutil.which(words[0]):
        sys.exit("%s is not here: see the first lines of this script" % words[0])
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          universal_newlines=True, check=False)
    if done.returncode:
        sys.exit("%s:\n%s" % (" ".join(words), done.stdout))
    return done.stdout


def write(name, text):
    path = os.path.join(FOLDER, name)
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    return path


def short(name):
    """skvi_cu_attend_kernel<8> of void skvi_cu_attend_kernel<8u>(skvi_cu_job)."""
    name = subprocess.run(["c++filt"], input=name, stdout=subprocess.PIPE, check=True,
                          universal_newlines=True).stdout
    return re.search(r"(\w+(?:<[^>]*>)?)\(|(\w+)\s*$", name).group(0).strip(" (\n").replace("u>", ">")


def shared():
    program = os.path.join(FOLDER, "sizes")
    output("g++", "-std=c++17", "-w", "-DSKV_CUDA_EMULATION", "-Itests/cuda_emulation", "-I.",
           write("sizes.cpp", SIZES), "-o", program)
    return {name: int(n) for name, n in (line.split() for line in output(program).split("\n")
                                         if line)}


def resources(arch):
    """{kernel: (registers, bytes of spills)}"""
    said = output("nvcc", "-std=c++17", "-I.", "-Werror", "all-warnings", "-arch=" + arch, "-cubin",
                  "-Xptxas", "-v", os.path.join(FOLDER, "unit.cu"), "-o",
                  os.path.join(FOLDER, arch + ".cubin"))
    found = {}
    for part in said.split("Compiling entry function '")[1:]:
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        found[short(part.split("'")[0])] = (int(re.search(r"Used (\d+) reg", part).group(1)), spills)
    return found


def occupancy(arch, registers, shared_bytes):
    """Blocks of 128 threads a multiprocessor, and the share of its warps that makes."""
    warps, blocks, kib, charged = LIMITS[arch]
    by_registers = 65536 // ((registers + 7) // 8 * 8 * BLOCK)
    by_shared = kib * 1024 // max((shared_bytes + 127) // 128 * 128 + charged * 1024, 1)
    n = min(blocks, warps * 32 // BLOCK, by_registers, by_shared)
    return n, 100 * n * BLOCK // 32 // warps


def instructions(arch):
    """{(rows, values): (instructions of a warp, those of each kind)} of a slab at 2 bits."""
    cubin = os.path.join(FOLDER, arch + "-probe.cubin")
    output("nvcc", "-std=c++17", "-I.", "-arch=" + arch, "-cubin",
           os.path.join(FOLDER, "probe.cu"), "-o", cubin)
    found = {}
    for part in output("cuobjdump", "-sass", cubin).split("Function : ")[1:]:
        head = re.search(r"probe<(\d+)u?, *(\d)>|probeILj(\d+)ELi(\d)E", part + short(
            part.split("\n")[0].strip()))
        if not head:
            continue
        rows, values = [int(x) for x in head.groups() if x is not None]
        code = re.findall(r"/\*[0-9a-f]{4,}\*/\s+([^;]*);", part)
        last = max(i for i, text in enumerate(code) if "EXIT" in text)
        found[rows, values] = kinds_of([c for c in code[:last + 1] if not c.startswith("NOP")])
    return found


INTEGER = ("PRMT", "LOP3", "SHF", "SGXT", "LEA", "IADD3", "ISETP", "SEL", "PLOP3", "IDP", "IDP4A")


def kinds_of(code):
    """How many instructions, and of which kind. The only loop copies a slab: up to 8 half bits a
    code it goes round once."""
    kinds = {"PRMT": 0, "other integer": 0, "shared": 0, "IMMA": 0, "other": 0}
    for text in code:
        name = re.sub(r"^@!?U?P\w+\s+", "", text).split(".")[0].split(" ")[0]
        kind = ("PRMT" if name == "PRMT" else "shared" if name in ("LDS", "STS", "LDSM")
                else name if name == "IMMA" else "other integer" if name in INTEGER else "other")
        kinds[kind] += 1
    return len(code), kinds


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(x) for x in row) + " |")
    print()


def report_resources(bytes_of, found):
    print("## Registers, spills, shared memory, occupancy\n")
    print("Registers a thread / blocks of 128 threads a multiprocessor / share of its warps. Shared "
          "memory is that of\nSmolLM2's shape (head_dim 64; the attention kernel for 4 rows) and "
          "Llama-3-8B's (head_dim 128, for 8 and 32 rows).\n")
    rows = []
    for name in sorted(bytes_of):
        row = [name, "%.1f KiB" % (bytes_of[name] / 1024)]
        for arch in LIMITS:
            registers, spills = found[arch][name]
            n, share = occupancy(arch, registers, bytes_of[name])
            row.append("%d / %d / %d %%%s" % (registers, n, share,
                                             ", %d bytes spilled" % spills if spills else ""))
        rows.append(row)
    table(["kernel", "shared"] + list(LIMITS), rows)
    spilled = sum(spills for kernels in found.values() for _, spills in kernels.values())
    print("Bytes of spilled registers in all: %d.\n" % spilled)


def report_instructions(counts):
    print("## Instructions of codes, and what they allow (a prediction)\n")
    print("A slab is 64 channels by 64 tokens; its instructions are those that one warp of four "
          "executes for it, at 2 bits, with\nrows of 8-bit numbers: codes to shared memory, levels, "
          "products. Counted in the machine code; 2 and 4 rows go through\ndp4a, 8 through tensor "
          "cores.\n")
    rows = []
    for arch in counts:
        for n in (2, 4, 8):
            for values in (0, 1):
                total, kinds = counts[arch][n, values]
                rows.append([arch, n, "values" if values else "keys", total] + list(kinds.values()))
    kinds = list(counts[arch][2, 0][1])
    table(["arch", "rows", "what", "instructions"] + kinds, rows)
    print("A multiprocessor issues four instructions a cycle, of which integer ones take 64 lanes, "
          "so two (CUDA C++ Programming\nGuide, arithmetic instructions). If nothing else ran and "
          "nothing waited, codes would arrive at this share of the\nmemory's bandwidth (above 100 %: "
          "memory is the limit):\n")
    rows = []
    for name, arch, multiprocessors, ghz, bandwidth in GPUS:
        row = [name]
        for n in (2, 4, 8):
            cycles = sum(max(total, 2 * (kinds["PRMT"] + kinds["other integer"]))
                         for total, kinds in (counts[arch][n, v] for v in (0, 1))) / 2
            for bits in (2, 4):
                rate = 512 * bits / cycles * multiprocessors * ghz
                row.append("%d %%" % (100 * rate / bandwidth))
        rows.append(row)
    table(["GPU", "2 rows, 2 bits", "4 bits", "4 rows, 2 bits", "4 bits", "8 rows, 2 bits",
           "4 bits"], rows)
    print("At 4 bits the count is that of 2 bits: windows are taken out alike. Softmax, the means "
          "that RoPE turns, page headers\nand exact tokens come on top. These are predictions from "
          "counts; nothing here was measured on a device.")


def main():
    os.makedirs(FOLDER, exist_ok=True)
    write("unit.cu", UNIT)
    write("probe.cu", PROBE)
    archs = sorted({gpu[1] for gpu in GPUS}, key=list(LIMITS).index)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = dict(zip(LIMITS, pool.map(resources, LIMITS)))
        counts = dict(zip(archs, pool.map(instructions, archs)))
    release = re.search(r"release ([\d.]+)", output("nvcc", "--version")).group(1)
    print("# Kernels of spectral_kv_cuda.cuh, as nvcc %s makes them\n" % release)
    print("Made by `tools/cuda_report.py`, without a GPU. `make nvcc` builds the same with warnings "
          "as errors, and fails when\nregisters are spilled.\n")
    report_resources(shared(), found)
    report_instructions(counts)


if __name__ == "__main__":
    main()
