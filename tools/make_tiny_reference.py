#!/usr/bin/env python3
"""Writes tests/tiny_reference.h: logits that llama.cpp computes for tiny made-up models.

    python3 -m venv venv && venv/bin/pip install cyllama gguf numpy
    venv/bin/python tools/make_tiny_reference.py > tests/tiny_reference.h

tests/test_llm_model.c builds the very same models in memory (same formula, same order of tensors)
and compares its logits. cyllama carries llama.cpp, so what is tested is our reading of GGUF: RoPE
styles, scaling, biases, norms, windows. Keys and values are float32 there too; llama.cpp's GELU
goes through a float16 table, which limits the agreement for gemma3.
"""
import os
import sys
import tempfile

import gguf
import numpy as np
from cyllama.llama import llama_cpp as lc

N_TOKENS = 30
F32 = 0                                                 # ggml's number of the type

# name, architecture, layers, embd, query heads, kv heads, head_dim, ff, vocabulary, output.weight,
# rope_freqs, linear factor, window
MODELS = [
    ("llama", "llama", 2, 32, 4, 2, 8, 48, 40, True, True, 0.0, 0),
    ("llama_linear", "llama", 2, 24, 3, 3, 8, 20, 40, False, False, 4.0, 0),
    ("qwen2", "qwen2", 2, 32, 4, 1, 8, 40, 40, False, False, 2.0, 0),
    ("qwen3", "qwen3", 3, 20, 4, 2, 12, 36, 40, True, False, 0.0, 0),
    ("gemma3", "gemma3", 7, 24, 4, 2, 16, 32, 40, False, False, 4.0, 8),
]


def weights(index, shape, kind):
    """Tensor `index` of the file: splitmix64 of index * 2^32 + element, as [-0.5, 0.5)."""
    z = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(index << 32)
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float64) / 2.0 ** 24 - 0.5
    u = {"matrix": u, "norm": 1.0 + u, "divisor": 5.0 + 8.0 * u}[kind]
    return u.astype(np.float32).reshape(shape)


def build(path, name, arch, layers, embd, heads, kv_heads, head_dim, ff, vocab, output, freqs,
          factor, window):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(layers)
    w.add_embedding_length(embd)
    w.add_feed_forward_length(ff)
    w.add_context_length(256)
    w.add_vocab_size(vocab)
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(500.0)
    if factor:
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(factor)
    if window:
        w.add_sliding_window(window)
    w.add_tokenizer_model("none")
    count = 0

    def add(tensor, shape, kind):
        nonlocal count
        w.add_tensor(tensor, weights(count, shape, kind))
        count += 1

    q, kv = heads * head_dim, kv_heads * head_dim
    add("token_embd.weight", (vocab, embd), "matrix")
    add("output_norm.weight", (embd,), "norm")
    if output:
        add("output.weight", (vocab, embd), "matrix")
    if freqs:
        add("rope_freqs.weight", (head_dim // 2,), "divisor")
    for i in range(layers):
        b = "blk.%d." % i
        add(b + "attn_norm.weight", (embd,), "norm")
        add(b + "attn_q.weight", (q, embd), "matrix")
        add(b + "attn_k.weight", (kv, embd), "matrix")
        add(b + "attn_v.weight", (kv, embd), "matrix")
        add(b + "attn_output.weight", (embd, q), "matrix")
        add(b + "ffn_norm.weight", (embd,), "norm")
        add(b + "ffn_gate.weight", (ff, embd), "matrix")
        add(b + "ffn_up.weight", (ff, embd), "matrix")
        add(b + "ffn_down.weight", (embd, ff), "matrix")
        if arch == "qwen2":
            add(b + "attn_q.bias", (q,), "matrix")
            add(b + "attn_k.bias", (kv,), "matrix")
            add(b + "attn_v.bias", (kv,), "matrix")
        if arch in ("qwen3", "gemma3"):
            add(b + "attn_q_norm.weight", (head_dim,), "norm")
            add(b + "attn_k_norm.weight", (head_dim,), "norm")
        if arch == "gemma3":
            add(b + "post_attention_norm.weight", (embd,), "norm")
            add(b + "post_ffw_norm.weight", (embd,), "norm")
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Model(lc.LlamaModel):
    n_vocab = 40                                        # cyllama 0.7.0 asks for it and lacks it


def logits(path, vocab):
    """Of the last token, fed one by one, so that nothing depends on how llama.cpp batches."""
    mp = lc.LlamaModelParams()
    mp.n_gpu_layers = 0
    model = Model(path, mp)
    cp = lc.LlamaContextParams()
    cp.n_ctx, cp.n_batch, cp.n_ubatch, cp.n_threads = 256, 64, 64, 1
    cp.type_k = cp.type_v = F32
    cp.flash_attn_type = 0
    cp.swa_full = True
    context = lc.LlamaContext(model, cp)
    for i in range(N_TOKENS):
        batch = lc.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        batch.add((7 * i + 3) % vocab, i, [0], True)
        context.decode(batch)
    row = [float(x) for x in context.get_logits_ith(-1)]
    assert len(row) == vocab
    return row


def main():
    print("/* Made by tools/make_tiny_reference.py, which says what this is. */")
    print("#ifndef SKV_TINY_REFERENCE_H")
    print("#define SKV_TINY_REFERENCE_H")
    print("\n#define TINY_TOKENS %d              /* token i is (7 * i + 3) %% 40 */" % N_TOKENS)
    print("#define TINY_VOCAB 40\n")
    print("typedef struct tiny_model {\n    const char *name, *arch;")
    print("    int layers, embd, heads, kv_heads, head_dim, ff, vocab, output, freqs;")
    print("    double factor;\n    int window;")
    print("    float logits[TINY_VOCAB];       /* of the last token */")
    print("} tiny_model;\n")
    print("static const tiny_model tiny_models[] = {")
    lc.disable_logging()
    for m in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "tiny.gguf")
            build(path, *m)
            row = logits(path, m[8])
        print('    {"%s", "%s", %d, %d, %d, %d, %d, %d, %d, %d, %d, %.1f, %d, {' % (m[:9] + (
            int(m[9]), int(m[10])) + m[11:]))
        for i in range(0, len(row), 6):
            print("        " + ", ".join("%.6ff" % x for x in row[i:i + 6]) + ",")
        print("    }},")
    print("};\n#endif")


if __name__ == "__main__":
    sys.exit(main())
