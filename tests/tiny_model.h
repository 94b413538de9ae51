/* tiny_model.h: builds the models of tiny_reference.h as GGUF files in memory, faithfully or with
 * one thing wrong. Weights and the order of tensors are those of tools/make_tiny_reference.py. */
#ifndef SKV_TINY_MODEL_H
#define SKV_TINY_MODEL_H
#include "gguf_builder.h"
#include "tiny_reference.h"

/* What is wrong with a file; all NULL for nothing. */
typedef struct twist {
    const char *arch;               /* general.architecture says this */
    const char *key;                /* this number, without the architecture, is `value` ... */
    double      value;              /* ... or absent when NaN; counts are stored whole */
    const char *omit, *reshape, *extra;     /* tensor names: left out, one column more, added */
    const char *scaling;            /* rope.scaling.type */
    const char *zero;               /* this tensor is all zeros */
} twist;

enum { TINY_MATRIX, TINY_NORM, TINY_DIVISOR, TINY_ZERO };

typedef struct tiny_file {
    gb b;
    const tiny_model *m;
    const twist *t;
    struct { char name[48]; uint64_t cols, rows; int kind; } tensors[160];
    unsigned n;
} tiny_file;

static inline float tiny_weight(unsigned tensor, uint64_t i, int kind)
{
    uint64_t z = (((uint64_t)tensor << 32) + i + 1) * 0x9E3779B97F4A7C15u;
    double u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    u = (double)((z ^ (z >> 31)) >> 40) / 16777216.0 - 0.5;
    if (kind == TINY_ZERO) return 0.0f;
    return (float)(kind == TINY_NORM ? 1.0 + u : kind == TINY_DIVISOR ? 5.0 + 8.0 * u : u);
}

static inline void tiny_number(tiny_file *f, const char *key, double value, int whole)
{
    char full[96];
    if (f->t->key && !strcmp(f->t->key, key)) value = f->t->value;
    if (value != value) return;                 /* NaN: leave it out */
    snprintf(full, sizeof full, "%s.%s", f->t->arch ? f->t->arch : f->m->arch, key);
    if (whole) {
        gb_key(&f->b, full, GGUF_U64);
        gb_uint(&f->b, (uint64_t)value, 8);
    } else {
        gb_key(&f->b, full, GGUF_F32);
        gb_float(&f->b, (float)value);
    }
}

static inline void tiny_metadata(tiny_file *f)
{
    const tiny_model *m = f->m;
    const double absent = (double)NAN;
    char full[96];
    gb_str(&f->b, "general.architecture", f->t->arch ? f->t->arch : m->arch);
    gb_str(&f->b, "general.name", m->name);
    tiny_number(f, "block_count", m->layers, 1);
    tiny_number(f, "embedding_length", m->embd, 1);
    tiny_number(f, "feed_forward_length", m->ff, 1);
    tiny_number(f, "context_length", 256, 1);
    tiny_number(f, "attention.head_count", m->heads, 1);
    tiny_number(f, "attention.head_count_kv", m->kv_heads, 1);
    tiny_number(f, "attention.key_length", m->head_dim, 1);
    tiny_number(f, "attention.value_length", m->head_dim, 1);
    tiny_number(f, "rope.dimension_count", m->head_dim, 1);
    tiny_number(f, "expert_count", absent, 1);
    tiny_number(f, "attention.layer_norm_rms_epsilon", 1e-5, 0);
    tiny_number(f, "rope.freq_base", 500.0, 0);
    tiny_number(f, "attention.scale", absent, 0);
    tiny_number(f, "final_logit_softcapping", absent, 0);
    tiny_number(f, "attn_logit_softcapping", absent, 0);
    tiny_number(f, "rope.scaling.factor", m->factor > 0.0 ? m->factor : absent, 0);
    tiny_number(f, "attention.sliding_window", m->window ? m->window : absent, 1);
    snprintf(full, sizeof full, "%s.rope.scaling.type", m->arch);
    if (f->t->scaling || m->factor > 0.0)
        gb_str(&f->b, full, f->t->scaling ? f->t->scaling : "linear");
}

static inline void tiny_add(tiny_file *f, int layer, const char *name, int rows, int cols, int kind)
{
    if (f->n == 160) exit(2);
    if (layer < 0) snprintf(f->tensors[f->n].name, 48, "%s", name);
    else snprintf(f->tensors[f->n].name, 48, "blk.%d.%s", layer, name);
    f->tensors[f->n].rows = (uint64_t)rows;
    f->tensors[f->n].cols = (uint64_t)cols;
    f->tensors[f->n++].kind = kind;
}

static inline void tiny_list(tiny_file *f)
{
    const tiny_model *m = f->m;
    int l, q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    int gemma = !strcmp(m->arch, "gemma3"), norms = gemma || !strcmp(m->arch, "qwen3");
    int divisors = f->t->scaling && !strcmp(f->t->scaling, "zero") ? TINY_ZERO : TINY_DIVISOR;
    tiny_add(f, -1, "token_embd.weight", m->vocab, m->embd, TINY_MATRIX);
    tiny_add(f, -1, "output_norm.weight", 0, m->embd, TINY_NORM);
    if (m->output) tiny_add(f, -1, "output.weight", m->vocab, m->embd, TINY_MATRIX);
    if (m->freqs) tiny_add(f, -1, "rope_freqs.weight", 0, m->head_dim / 2, divisors);
    for (l = 0; l < m->layers; l++) {
        tiny_add(f, l, "attn_norm.weight", 0, m->embd, TINY_NORM);
        tiny_add(f, l, "attn_q.weight", q, m->embd, TINY_MATRIX);
        tiny_add(f, l, "attn_k.weight", kv, m->embd, TINY_MATRIX);
        tiny_add(f, l, "attn_v.weight", kv, m->embd, TINY_MATRIX);
        tiny_add(f, l, "attn_output.weight", m->embd, q, TINY_MATRIX);
        tiny_add(f, l, "ffn_norm.weight", 0, m->embd, TINY_NORM);
        tiny_add(f, l, "ffn_gate.weight", m->ff, m->embd, TINY_MATRIX);
        tiny_add(f, l, "ffn_up.weight", m->ff, m->embd, TINY_MATRIX);
        tiny_add(f, l, "ffn_down.weight", m->embd, m->ff, TINY_MATRIX);
        if (!strcmp(m->arch, "qwen2")) {
            tiny_add(f, l, "attn_q.bias", 0, q, TINY_MATRIX);
            tiny_add(f, l, "attn_k.bias", 0, kv, TINY_MATRIX);
            tiny_add(f, l, "attn_v.bias", 0, kv, TINY_MATRIX);
        }
        if (norms) tiny_add(f, l, "attn_q_norm.weight", 0, m->head_dim, TINY_NORM);
        if (norms) tiny_add(f, l, "attn_k_norm.weight", 0, m->head_dim, TINY_NORM);
        if (gemma) tiny_add(f, l, "post_attention_norm.weight", 0, m->embd, TINY_NORM);
        if (gemma) tiny_add(f, l, "post_ffw_norm.weight", 0, m->embd, TINY_NORM);
    }
    if (f->t->extra) tiny_add(f, -1, f->t->extra, 0, m->embd, TINY_MATRIX);
}

/* The file; its bytes are f->b.p[0 .. f->b.n), to be freed by gb_free(&f->b). rows 0: a vector. */
static inline void tiny_build(tiny_file *f, const tiny_model *m, const twist *t)
{
    static const twist nothing;
    uint64_t at = 0, i, count;
    unsigned j;
    memset(f, 0, sizeof *f);
    f->m = m;
    f->t = t ? t : &nothing;
    gb_start(&f->b, 3);
    tiny_metadata(f);
    tiny_list(f);
    for (j = 0; j < f->n; j++) {
        uint64_t ne[2];
        if (f->t->reshape && !strcmp(f->t->reshape, f->tensors[j].name)) f->tensors[j].cols++;
        ne[0] = f->tensors[j].cols;
        ne[1] = f->tensors[j].rows;
        count = ne[0] * (ne[1] ? ne[1] : 1);
        if (f->t->omit && !strcmp(f->t->omit, f->tensors[j].name)) continue;
        gb_tensor(&f->b, f->tensors[j].name, ne[1] ? 2 : 1, ne, GGUF_T_F32, at);
        at += (count * 4 + 31) / 32 * 32;
    }
    gb_end(&f->b);
    for (j = 0; j < f->n; j++) {
        if (f->t->omit && !strcmp(f->t->omit, f->tensors[j].name)) continue;
        count = f->tensors[j].cols * (f->tensors[j].rows ? f->tensors[j].rows : 1);
        if (f->t->zero && !strcmp(f->t->zero, f->tensors[j].name)) f->tensors[j].kind = TINY_ZERO;
        for (i = 0; i < count; i++) gb_float(&f->b, tiny_weight(j, i, f->tensors[j].kind));
        while (i++ % 8) gb_float(&f->b, 0.0f);
    }
}
#endif
