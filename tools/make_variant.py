#!/usr/bin/env python3
"""Writes SmolLM2 as a model of another family, to judge caches on families with no small model here.

    python3 -m venv venv && venv/bin/pip install gguf numpy
    venv/bin/python tools/make_variant.py qwen2 build/models/smollm2-135m-instruct-q4_1.gguf OUT.gguf

qwen2: rows of W_Q and W_K in the order of NEOX rotation, and a bias of +-SIZE on the four slowest
RoPE pairs of K, as Qwen2.5's keys have. The slowest pairs hardly turn within 1,024 tokens, so all
scores of a query move alike and the model stays nearly what it was, while its keys have a mean far
larger than what they tell.
qwen3: the same order, and norms of Q and K per head, their gains the root mean square that white
normalised input would give. Scores lose the length of Q and K: a worse model of the same texts.
"""
import argparse

import gguf
import numpy as np

HEAD_DIM, SLOW_PAIRS = 64, 4


def neox_order(rows):
    """Rows of a head from pairs (2 i, 2 i + 1) to pairs (i, i + head_dim / 2)."""
    head = np.concatenate([np.arange(0, HEAD_DIM, 2), np.arange(1, HEAD_DIM, 2)])
    return (np.arange(rows) // HEAD_DIM) * HEAD_DIM + head[np.arange(rows) % HEAD_DIM]


def key_bias(rng, rows, size):
    bias = np.zeros((rows // HEAD_DIM, HEAD_DIM), np.float32)
    half = HEAD_DIM // 2
    for at in (half - SLOW_PAIRS, HEAD_DIM - SLOW_PAIRS):
        bias[:, at:at + SLOW_PAIRS] = size * rng.choice([-1.0, 1.0], (len(bias), SLOW_PAIRS))
    return bias.reshape(-1)


def gains(weights, norm):
    """One gain for all channels: RMS over channels of W x, x white with the norm's gains."""
    full = gguf.quants.dequantize(weights.data, weights.tensor_type) * norm.data
    return np.full(HEAD_DIM, np.sqrt((full.astype(np.float64) ** 2).sum(1).mean()), np.float32)


def copy_fields(source, out, family):
    for name, field in source.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        name = name.replace("llama.", family + ".", 1)
        kind = field.types[0]
        if kind == gguf.GGUFValueType.ARRAY:
            out.add_array(name, field.contents())
        else:
            out.add_key_value(name, field.contents(), kind)


def write(family, source, path, size):
    rng, out = np.random.default_rng(1), gguf.GGUFWriter(path, family)
    tensors = {t.name: t for t in source.tensors}
    copy_fields(source, out, family)
    for t in source.tensors:
        data = t.data
        layer, _, part = t.name.rpartition(".attn_")
        if part in ("q.weight", "k.weight"):
            data = np.ascontiguousarray(data[neox_order(len(data))])
            norm = tensors[layer + ".attn_norm.weight"]
            if family == "qwen3":
                out.add_tensor(layer + ".attn_%s_norm.weight" % part[0], gains(t, norm))
        if part in ("q.weight", "k.weight", "v.weight") and family == "qwen2":
            rows = len(data)
            bias = key_bias(rng, rows, size) if part[0] == "k" else np.zeros(rows, np.float32)
            out.add_tensor(layer + ".attn_%s.bias" % part[0], bias)
        out.add_tensor(t.name, data, raw_dtype=t.tensor_type)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    parser = argparse.ArgumentParser(description="SmolLM2 as a model of another family.")
    parser.add_argument("family", choices=("qwen2", "qwen3"))
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--size", type=float, default=30.0, help="of the key bias")
    options = parser.parse_args()
    write(options.family, gguf.GGUFReader(options.model), options.out, options.size)


if __name__ == "__main__":
    main()
