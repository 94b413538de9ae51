/* model_load.c: from a GGUF file to a checked llm_model. Everything that the forward pass relies on
 * is checked here: sizes, shapes, types, and that the file holds no tensor that we would leave out.
 */
#include "model_internal.h"
#include "quants.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAMILIES "llama, qwen2, qwen3 and gemma3"
#define NAME_BYTES 96

/* Sizes that shapes are made of */
enum { DIM_ONE, DIM_EMBD, DIM_FF, DIM_Q, DIM_KV, DIM_HEAD };

typedef struct spec {
    const char *suffix;             /* behind "blk.N." */
    int slot, cols, rows;           /* rows DIM_ONE: a vector */
    unsigned needed, allowed;       /* families */
} spec;

#define ALL (LLM_LLAMA | LLM_QWEN2 | LLM_QWEN3 | LLM_GEMMA3)
static const spec specs[] = {
    {"attn_q.weight",      MAT_Q,    DIM_EMBD, DIM_Q,    ALL, ALL},
    {"attn_k.weight",      MAT_K,    DIM_EMBD, DIM_KV,   ALL, ALL},
    {"attn_v.weight",      MAT_V,    DIM_EMBD, DIM_KV,   ALL, ALL},
    {"attn_output.weight", MAT_O,    DIM_Q,    DIM_EMBD, ALL, ALL},
    {"ffn_gate.weight",    MAT_GATE, DIM_EMBD, DIM_FF,   ALL, ALL},
    {"ffn_up.weight",      MAT_UP,   DIM_EMBD, DIM_FF,   ALL, ALL},
    {"ffn_down.weight",    MAT_DOWN, DIM_FF,   DIM_EMBD, ALL, ALL},
    {"attn_norm.weight",   VEC_ATTN_NORM, DIM_EMBD, DIM_ONE, ALL, ALL},
    {"ffn_norm.weight",    VEC_FFN_NORM,  DIM_EMBD, DIM_ONE, ALL, ALL},
    {"attn_q.bias",        VEC_Q_BIAS, DIM_Q,    DIM_ONE, LLM_QWEN2, LLM_QWEN2 | LLM_LLAMA},
    {"attn_k.bias",        VEC_K_BIAS, DIM_KV,   DIM_ONE, LLM_QWEN2, LLM_QWEN2 | LLM_LLAMA},
    {"attn_v.bias",        VEC_V_BIAS, DIM_KV,   DIM_ONE, LLM_QWEN2, LLM_QWEN2 | LLM_LLAMA},
    {"attn_q_norm.weight", VEC_Q_NORM, DIM_HEAD, DIM_ONE, LLM_QWEN3 | LLM_GEMMA3,
     LLM_QWEN3 | LLM_GEMMA3},
    {"attn_k_norm.weight", VEC_K_NORM, DIM_HEAD, DIM_ONE, LLM_QWEN3 | LLM_GEMMA3,
     LLM_QWEN3 | LLM_GEMMA3},
    {"post_attention_norm.weight", VEC_POST_ATTN_NORM, DIM_EMBD, DIM_ONE, LLM_GEMMA3, LLM_GEMMA3},
    {"post_ffw_norm.weight",       VEC_POST_FFN_NORM,  DIM_EMBD, DIM_ONE, LLM_GEMMA3, LLM_GEMMA3},
};
#define N_SPECS (sizeof specs / sizeof specs[0])

typedef struct loader {
    const gguf *g;
    llm_model *m;
    char *err;
} loader;

static int fail(const loader *ld, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(ld->err, GGUF_ERR_BYTES, format, args);
    va_end(args);
    return -1;
}

/* ---- metadata ---- */

static const char *key_of(const loader *ld, const char *what, char out[NAME_BYTES])
{
    snprintf(out, NAME_BYTES, "%s.%s", ld->m->c.arch, what);
    return out;
}

/* A size within 1 .. max; fallback < 0: the key must be there. */
static int get_size(const loader *ld, const char *what, long max, long fallback, int *out)
{
    char key[NAME_BYTES];
    uint64_t v;
    if (!gguf_get_u64(ld->g, key_of(ld, what, key), &v)) {
        if (fallback < 0) return fail(ld, "The file lacks %s, or it is not a whole number.", key);
        v = (uint64_t)fallback;
    }
    if (v < 1 || v > (uint64_t)max)
        return fail(ld, "%s is %llu; this engine takes 1 to %ld.", key, (unsigned long long)v, max);
    *out = (int)v;
    return 0;
}

/* A number within [low, high]; the fallback is used when the key is absent. */
static int get_number(const loader *ld, const char *what, double low, double high, double fallback,
                      float *out)
{
    char key[NAME_BYTES];
    double v = fallback;
    int given = gguf_get_f64(ld->g, key_of(ld, what, key), &v);
    if (given && !(v >= low && v <= high))
        return fail(ld, "%s is %g; this engine takes %g to %g.", key, v, low, high);
    *out = (float)v;
    return 0;
}

static int load_family(loader *ld)
{
    static const struct { const char *name; unsigned family; } known[] = {
        {"llama", LLM_LLAMA}, {"qwen2", LLM_QWEN2}, {"qwen3", LLM_QWEN3}, {"gemma3", LLM_GEMMA3}
    };
    llm_config *c = &ld->m->c;
    gguf_str arch, name;
    char shown[32];
    size_t i, n;
    if (!gguf_get_str(ld->g, "general.architecture", &arch))
        return fail(ld, "The file does not say its general.architecture; it is no language model.");
    for (i = 0; i < sizeof known / sizeof known[0]; i++)
        if (arch.n == strlen(known[i].name) && !memcmp(arch.p, known[i].name, arch.n)) {
            ld->m->family = known[i].family;
            strcpy(c->arch, known[i].name);
        }
    for (i = n = 0; i < arch.n && n < sizeof shown - 1; i++)
        shown[n++] = (char)(arch.p[i] > 32 && arch.p[i] < 127 ? arch.p[i] : '?');
    shown[n] = 0;
    if (!ld->m->family)
        return fail(ld, "The architecture %s is not supported; this engine runs %s.", shown,
                    FAMILIES);
    strcpy(c->name, c->arch);
    if (gguf_get_str(ld->g, "general.name", &name) && name.n) {
        for (i = n = 0; i < name.n && n < sizeof c->name - 1; i++)
            if ((unsigned char)name.p[i] >= 32 && name.p[i] != 127) c->name[n++] = name.p[i];
        c->name[n] = 0;
    }
    return 0;
}

static int load_sizes(loader *ld)
{
    llm_config *c = &ld->m->c;
    int values = 0;
    uint64_t experts;
    char key[NAME_BYTES];
    if (gguf_get_u64(ld->g, key_of(ld, "expert_count", key), &experts) && experts)
        return fail(ld, "This is a mixture of experts, which this engine does not run.");
    if (get_size(ld, "block_count", 1024, -1, &c->n_layers) ||
        get_size(ld, "embedding_length", 1L << 17, -1, &c->n_embd) ||
        get_size(ld, "feed_forward_length", 1L << 20, -1, &c->n_ff) ||
        get_size(ld, "context_length", 1L << 30, -1, &c->n_ctx) ||
        get_size(ld, "attention.head_count", 1024, -1, &c->n_q_heads) ||
        get_size(ld, "attention.head_count_kv", 1024, c->n_q_heads, &c->n_kv_heads))
        return -1;
    if (c->n_q_heads % c->n_kv_heads)
        return fail(ld, "%d query heads cannot share %d key-value heads evenly.", c->n_q_heads,
                    c->n_kv_heads);
    if (get_size(ld, "attention.key_length", LLM_MAX_HEAD, c->n_embd / c->n_q_heads,
                 &c->head_dim) ||
        get_size(ld, "attention.value_length", LLM_MAX_HEAD, c->head_dim, &values))
        return -1;
    if (values != c->head_dim || c->head_dim % 2)
        return fail(ld, "Heads of %d (keys) and %d (values) elements: this engine takes even and "
                    "equal sizes.", c->head_dim, values);
    if (get_size(ld, "rope.dimension_count", LLM_MAX_HEAD, c->head_dim, &values)) return -1;
    if (values != c->head_dim)
        return fail(ld, "RoPE over %d of %d elements of a head is not supported.", values,
                    c->head_dim);
    return 0;
}

static int load_numbers(loader *ld)
{
    llm_config *c = &ld->m->c;
    double per_head = c->head_dim;
    int gemma = ld->m->family == LLM_GEMMA3;
    char key[NAME_BYTES];
    gguf_kind kind;
    uint64_t count;
    if (gguf_get_array(ld->g, key_of(ld, "attention.sliding_window_pattern", key), &kind, &count))
        return fail(ld, "%s as a list is not supported, only a number.", key);
    if (gemma && c->n_layers == 62) per_head = (double)c->n_embd / c->n_q_heads;    /* 27B */
    ld->m->embed_scale = gemma ? (float)sqrt((double)c->n_embd) : 1.0f;
    if (gemma && (get_size(ld, "attention.sliding_window", 1L << 30, -1, &c->sliding_window) ||
                  get_size(ld, "attention.sliding_window_pattern", 1024, 6, &c->sliding_pattern)))
        return -1;
    if (get_number(ld, "attention.layer_norm_rms_epsilon", 0.0, 1.0, -1.0, &c->norm_eps) ||
        get_number(ld, "attention.scale", 1e-6, 1e3, 1.0 / sqrt(per_head), &c->attn_scale) ||
        get_number(ld, "rope.freq_base", 1.0, 1e12, gemma ? 1e6 : 1e4, &c->rope_base) ||
        get_number(ld, "rope.freq_base_swa", 1.0, 1e12, 1e4, &c->rope_base_local) ||
        get_number(ld, "attn_logit_softcapping", 0.0, 1e6, 0.0, &c->attn_softcap) ||
        get_number(ld, "final_logit_softcapping", 0.0, 1e6, 0.0, &c->final_softcap))
        return -1;
    if (c->norm_eps < 0.0f)
        return fail(ld, "The file lacks %s.attention.layer_norm_rms_epsilon.", c->arch);
    if (!gemma) c->rope_base_local = c->rope_base;
    return 0;
}

/* ---- tensors ---- */

static size_t dim(const llm_config *c, int which)
{
    switch (which) {
    case DIM_EMBD: return (size_t)c->n_embd;
    case DIM_FF:   return (size_t)c->n_ff;
    case DIM_Q:    return (size_t)c->n_q_heads * (size_t)c->head_dim;
    case DIM_KV:   return (size_t)c->n_kv_heads * (size_t)c->head_dim;
    case DIM_HEAD: return (size_t)c->head_dim;
    default:       return 1;
    }
}

/* The tensor if its type and shape are those wanted; NULL with a sentence otherwise. rows 1: any
 * number of dimensions whose further ones are 1. */
static const gguf_tensor *need_tensor(const loader *ld, const char *name, size_t cols, size_t rows)
{
    const gguf_tensor *t = gguf_find(ld->g, name);
    size_t len, size;
    if (!t) {
        fail(ld, "The tensor %s is missing.", name);
        return NULL;
    }
    len = quant_block_len((int)t->type);
    if (!len) {
        fail(ld, "The tensor %s has a type that this engine cannot read.", name);
        return NULL;
    }
    if (t->ne[0] != cols || t->ne[1] != rows || t->ne[2] != 1 || t->ne[3] != 1) {
        fail(ld, "The tensor %s is %llu x %llu, not %lu x %lu as the metadata says.", name,
             (unsigned long long)t->ne[1], (unsigned long long)t->ne[0], (unsigned long)rows,
             (unsigned long)cols);
        return NULL;
    }
    size = cols / len * quant_block_bytes((int)t->type);
    if (cols % len || t->row_bytes != size || t->bytes / size < rows) {
        fail(ld, "Rows of %lu elements of the tensor %s do not fill whole blocks of its type.",
             (unsigned long)cols, name);
        return NULL;
    }
    return t;
}

static float *need_vector(const loader *ld, const char *name, size_t n)
{
    const gguf_tensor *t = need_tensor(ld, name, n, 1);
    float *v;
    if (!t) return NULL;
    v = malloc(n * sizeof *v);
    if (!v) fail(ld, "No memory for the tensor %s.", name);
    else quant_expand(t->type, t->data, n, v);
    return v;
}

static int load_layer(loader *ld, int l)
{
    const llm_config *c = &ld->m->c;
    llm_layer *layer = &ld->m->layers[l];
    char name[NAME_BYTES];
    size_t i;
    for (i = 0; i < N_SPECS; i++) {
        const spec *s = &specs[i];
        size_t cols = dim(c, s->cols);
        if (!(s->allowed & ld->m->family)) continue;
        snprintf(name, sizeof name, "blk.%d.%s", l, s->suffix);
        if (!(s->needed & ld->m->family) && !gguf_find(ld->g, name)) continue;
        if (s->rows == DIM_ONE) {
            if (!(layer->vec[s->slot] = need_vector(ld, name, cols))) return -1;
        } else if (!(layer->mat[s->slot] = need_tensor(ld, name, cols, dim(c, s->rows)))) {
            return -1;
        }
    }
    return 0;
}

/* 1 when the forward pass uses a tensor of this name */
static int is_known(const llm_model *m, gguf_str name)
{
    static const char *const globals[] = {"token_embd.weight", "output_norm.weight",
                                          "output.weight"};
    const char *p = name.p, *end = p + name.n;
    size_t i;
    long layer = 0;
    for (i = 0; i < sizeof globals / sizeof globals[0]; i++)
        if (name.n == strlen(globals[i]) && !memcmp(p, globals[i], name.n)) return 1;
    if (name.n == 17 && !memcmp(p, "rope_freqs.weight", 17)) return m->family == LLM_LLAMA;
    if (name.n < 4 || memcmp(p, "blk.", 4)) return 0;
    for (p += 4; p < end && *p >= '0' && *p <= '9' && layer < 10000; p++)
        layer = 10 * layer + (*p - '0');
    if (p == end || *p++ != '.' || layer >= m->c.n_layers) return 0;
    for (i = 0; i < N_SPECS; i++)
        if ((specs[i].allowed & m->family) && (size_t)(end - p) == strlen(specs[i].suffix) &&
            !memcmp(p, specs[i].suffix, (size_t)(end - p)))
            return 1;
    return 0;
}

/* A tensor that nobody reads means that the model computes something else than we would. */
static int refuse_unknown(const loader *ld)
{
    uint64_t i, n = gguf_n_tensors(ld->g);
    for (i = 0; i < n; i++) {
        gguf_str name = gguf_tensor_at(ld->g, i)->name;
        char shown[64];
        size_t j;
        if (is_known(ld->m, name)) continue;
        for (j = 0; j < name.n && j < sizeof shown - 1; j++)
            shown[j] = (char)(name.p[j] > 32 && name.p[j] < 127 ? name.p[j] : '?');
        shown[j] = 0;
        return fail(ld, "The tensor %s has no place in the %s family as this engine knows it.",
                    shown, ld->m->c.arch);
    }
    return 0;
}

static int load_tensors(loader *ld)
{
    llm_model *m = ld->m;
    const gguf_tensor *embed = gguf_find(ld->g, "token_embd.weight");
    size_t n_embd = (size_t)m->c.n_embd;
    int l;
    if (!embed || embed->ne[1] < 1 || embed->ne[1] > 1u << 24)
        return fail(ld, "The tensor token_embd.weight is missing, or its vocabulary is absurd.");
    m->c.n_vocab = (int)embed->ne[1];
    m->embed = need_tensor(ld, "token_embd.weight", n_embd, (size_t)embed->ne[1]);
    if (!m->embed) return -1;
    m->output = m->embed;
    if (gguf_find(ld->g, "output.weight")) {
        m->output = need_tensor(ld, "output.weight", n_embd, (size_t)m->c.n_vocab);
        if (!m->output) return -1;
    }
    if (!(m->output_norm = need_vector(ld, "output_norm.weight", n_embd))) return -1;
    m->layers = calloc((size_t)m->c.n_layers, sizeof *m->layers);
    if (!m->layers) return fail(ld, "No memory for %d layers.", m->c.n_layers);
    for (l = 0; l < m->c.n_layers; l++)
        if (load_layer(ld, l)) return -1;
    return refuse_unknown(ld);
}

/* ---- RoPE ---- */

/* Linear scaling divides positions. Anything but that and "none" changes the angles in ways that
 * this engine does not know. */
static int rope_factor(const loader *ld, double *factor)
{
    char key[NAME_BYTES];
    gguf_str type = {"linear", 6};
    float given = 0.0f;
    gguf_get_str(ld->g, key_of(ld, "rope.scaling.type", key), &type);
    if (get_number(ld, "rope.scale_linear", 0.0, 1e6, 0.0, &given) ||
        get_number(ld, "rope.scaling.factor", 0.0, 1e6, given, &given))
        return -1;
    *factor = given > 0.0f ? given : 1.0;
    if (type.n == 6 && !memcmp(type.p, "linear", 6)) return 0;
    *factor = 1.0;
    if (type.n == 4 && !memcmp(type.p, "none", 4)) return 0;
    return fail(ld, "RoPE scaling of the type %.*s is not supported, only none and linear.",
                (int)(type.n < 20 ? type.n : 20), type.p);
}

/* Angle per position of pair i: base^(-2i / head_dim), divided by the linear factor and by
 * Llama 3's divisors where the file has them. Sliding layers are never scaled. */
static int load_rope(loader *ld)
{
    llm_model *m = ld->m;
    size_t i, half = (size_t)m->c.head_dim / 2;
    double factor;
    float *divisors = NULL;
    if (rope_factor(ld, &factor)) return -1;
    m->freqs = malloc(half * sizeof *m->freqs);
    m->freqs_local = malloc(half * sizeof *m->freqs_local);
    if (!m->freqs || !m->freqs_local) return fail(ld, "No memory for the RoPE table.");
    if (gguf_find(ld->g, "rope_freqs.weight") &&
        !(divisors = need_vector(ld, "rope_freqs.weight", half)))
        return -1;
    for (i = 0; i < half; i++) {
        double power = -2.0 * (double)i / (double)m->c.head_dim;
        double by = divisors ? divisors[i] : 1.0;
        if (!(by > 1e-6 && by < 1e9)) {
            free(divisors);
            return fail(ld, "The tensor rope_freqs.weight holds a divisor of %g.", by);
        }
        m->freqs[i] = pow(m->c.rope_base, power) / (factor * by);
        m->freqs_local[i] = pow(m->c.rope_base_local, power);
    }
    free(divisors);
    return 0;
}

/* ---- open and close ---- */

int llm_model_open(llm_model **out, const gguf *g, char *err)
{
    loader ld;
    ld.g = g;
    ld.err = err;
    ld.m = calloc(1, sizeof *ld.m);
    if (!ld.m) return fail(&ld, "No memory for the model.");
    if (load_family(&ld) || load_sizes(&ld) || load_numbers(&ld) || load_tensors(&ld) ||
        load_rope(&ld)) {
        llm_model_close(ld.m);
        return -1;
    }
    *out = ld.m;
    return 0;
}

void llm_model_close(llm_model *m)
{
    int l, i;
    if (!m) return;
    for (l = 0; m->layers && l < m->c.n_layers; l++)
        for (i = 0; i < N_VECS; i++) free(m->layers[l].vec[i]);
    free(m->layers);
    free(m->output_norm);
    free(m->freqs);
    free(m->freqs_local);
    free(m);
}
