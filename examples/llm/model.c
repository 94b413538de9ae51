/* model.c: see model.h. A layer is
 *   x += [post norm](O attend(rope(norm(Q h)), rope(norm(K h)), V h)),  h = norm(x)
 *   x += [post norm](down (act(gate h) * up h)),                        h = norm(x)
 * with act = SiLU, or GELU in its tanh form for gemma3. Matrix products share out their rows, and
 * element-wise loops their tokens, over OpenMP threads; no sum depends on the number of threads.
 */
#include "model_internal.h"
#include "kernels.h"
#include "quants.h"
#include <limits.h>
#include <stdlib.h>

struct llm_run {
    float *x, *h;                   /* residual stream, and what was normed from it: [n][n_embd] */
    float *q, *k, *v, *o;           /* [n][heads][head_dim] */
    float *gate, *up;               /* [n][n_ff] */
    float *angles[2];               /* [n][head_dim / 2] of (cos, sin); [1]: sliding layers */
    float *packed;                  /* room for quant_pack */
    float *memory;
};

/* ---- small parts ---- */

const llm_config *llm_model_config(const llm_model *m) { return &m->c; }

int llm_layer_window(const llm_config *c, int layer)
{
    int global = c->sliding_pattern > 0 && (layer + 1) % c->sliding_pattern == 0;
    return global ? 0 : c->sliding_window;
}

void llm_model_output_projection(const llm_model *m, int layer, float *out)
{
    const gguf_tensor *w = m->layers[layer].mat[MAT_O];
    size_t r, cols = (size_t)w->ne[0];
    for (r = 0; r < (size_t)w->ne[1]; r++)
        quant_expand(w->type, (const char *)w->data + r * w->row_bytes, cols, out + r * cols);
}

int llm_model_post_attention_norm(const llm_model *m, int layer, float *gain)
{
    const float *v = m->layers[layer].vec[VEC_POST_ATTN_NORM];
    if (!v) return 0;
    memcpy(gain, v, (size_t)m->c.n_embd * sizeof *gain);
    return 1;
}

int llm_model_rope(const llm_model *m, int layer, float *freqs)
{
    const double *f = llm_layer_window(&m->c, layer) ? m->freqs_local : m->freqs;
    int i;
    for (i = 0; i < m->c.head_dim / 2; i++) freqs[i] = (float)f[i];
    return m->family == LLM_LLAMA;
}

/* out = x / rms(x) * gain for each of n rows; out may be x */
static void rms_norm(const float *x, const float *gain, float eps, size_t n, size_t width,
                     float *out)
{
    size_t t, i;
    for (t = 0; t < n; t++, x += width, out += width) {
        float scale = 1.0f / sqrtf(kern_dot(x, x, width) / (float)width + eps);
        for (i = 0; i < width; i++) out[i] = x[i] * scale * gain[i];
    }
}

/* llama: pairs (2i, 2i + 1), since its GGUF rows are permuted; the others: (i, i + half) */
static void rope(float *x, int n, int heads, int head_dim, const float *angles, int adjacent)
{
    int half = head_dim / 2, step = adjacent ? 2 : 1, apart = adjacent ? 1 : half, t, h, i;
    for (t = 0; t < n; t++, angles += head_dim)
        for (h = 0; h < heads; h++, x += head_dim)
            for (i = 0; i < half; i++) {
                float *a = x + i * step, *b = a + apart, u = *a, v = *b;
                float c = angles[2 * i], s = angles[2 * i + 1];
                *a = u * c - v * s;
                *b = u * s + v * c;
            }
}

static void fill_angles(const double *freqs, int head_dim, int n, int pos, float *out)
{
    int t, i;
    for (t = 0; t < n; t++)
        for (i = 0; i < head_dim / 2; i++) {
            double angle = (double)(pos + t) * freqs[i];
            *out++ = (float)cos(angle);
            *out++ = (float)sin(angle);
        }
}

/* gate = act(gate) * up. GELU's tanh form is x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3))). */
static void activate(float *gate, const float *up, int n, int width, int gelu)
{
    int t;
#ifdef _OPENMP
#pragma omp parallel for if (n * (long)width >= 8192)
#endif
    for (t = 0; t < n; t++) {
        float *g = gate + (size_t)t * (size_t)width;
        const float *u = up + (size_t)t * (size_t)width;
        int i;
        if (gelu)
            for (i = 0; i < width; i++) {
                float x = g[i], y = 1.59576912f * (x + 0.044715f * x * x * x);
                g[i] = x / (1.0f + kern_exp(-y)) * u[i];
            }
        else
            for (i = 0; i < width; i++) g[i] = g[i] / (1.0f + kern_exp(-g[i])) * u[i];
    }
}

static void add(float *x, const float *y, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) x[i] += y[i];
}

static void soft_cap(float *x, size_t n, float cap)
{
    size_t i;
    if (cap > 0.0f)
        for (i = 0; i < n; i++) x[i] = cap * tanhf(x[i] / cap);
}

/* ---- run ---- */

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

int llm_run_new(llm_run **out, const llm_model *m, char *err)
{
    const llm_config *c = &m->c;
    size_t embd = (size_t)c->n_embd, ff = (size_t)c->n_ff, d = (size_t)c->head_dim, n = LLM_CHUNK;
    size_t q = (size_t)c->n_q_heads * d, kv = (size_t)c->n_kv_heads * d;
    size_t pack = quant_pack_floats(LLM_CHUNK, max_size(embd, max_size(q, ff)));
    uint64_t total = (uint64_t)n * (2 * embd + 2 * q + 2 * kv + 2 * ff + 2 * d) + pack;
    llm_run *r = calloc(1, sizeof *r);
    float *p = NULL;
    if (r && total <= SIZE_MAX / sizeof *p) p = malloc((size_t)total * sizeof *p);
    if (!p) {
        free(r);
        strcpy(err, "No memory for the activations of a chunk of tokens.");
        return -1;
    }
    r->memory = p;
    r->x = p, p += n * embd;
    r->h = p, p += n * embd;
    r->q = p, p += n * q;
    r->o = p, p += n * q;
    r->k = p, p += n * kv;
    r->v = p, p += n * kv;
    r->gate = p, p += n * ff;
    r->up = p, p += n * ff;
    r->angles[0] = p, p += n * d;
    r->angles[1] = p, p += n * d;
    r->packed = p;
    *out = r;
    return 0;
}

void llm_run_free(llm_run *r)
{
    if (!r) return;
    free(r->memory);
    free(r);
}

/* ---- forward ---- */

static void embed(const llm_model *m, const int *tokens, int n, float *x)
{
    size_t i, width = (size_t)m->c.n_embd;
    int t;
    for (t = 0; t < n; t++, x += width) {
        const char *row = (const char *)m->embed->data + (size_t)tokens[t] * m->embed->row_bytes;
        quant_expand(m->embed->type, row, width, x);
        for (i = 0; i < width; i++) x[i] *= m->embed_scale;
    }
}

static int attention(const llm_model *m, llm_run *r, int l, int n, llm_kv *kv,
                     const llm_probe *probe)
{
    const llm_config *c = &m->c;
    const llm_layer *L = &m->layers[l];
    size_t d = (size_t)c->head_dim, embd = (size_t)c->n_embd;
    size_t q_rows = (size_t)n * (size_t)c->n_q_heads, kv_rows = (size_t)n * (size_t)c->n_kv_heads;
    const float *angles = r->angles[llm_layer_window(c, l) > 0];
    const quant_job qkv[3] = {{L->mat[MAT_Q], L->vec[VEC_Q_BIAS], r->q},
                              {L->mat[MAT_K], L->vec[VEC_K_BIAS], r->k},
                              {L->mat[MAT_V], L->vec[VEC_V_BIAS], r->v}};
    const quant_job out = {L->mat[MAT_O], NULL, r->h};
    int adjacent = m->family == LLM_LLAMA, code;
    quant_input in;
    rms_norm(r->x, L->vec[VEC_ATTN_NORM], c->norm_eps, (size_t)n, embd, r->h);
    quant_pack(&in, r->h, n, embd, r->packed);
    quant_matmul(qkv, 3, &in);
    if (L->vec[VEC_Q_NORM]) rms_norm(r->q, L->vec[VEC_Q_NORM], c->norm_eps, q_rows, d, r->q);
    if (L->vec[VEC_K_NORM]) rms_norm(r->k, L->vec[VEC_K_NORM], c->norm_eps, kv_rows, d, r->k);
    rope(r->q, n, c->n_q_heads, c->head_dim, angles, adjacent);
    rope(r->k, n, c->n_kv_heads, c->head_dim, angles, adjacent);
    if (probe && probe->attention) probe->attention(probe->self, l, r->q, r->k, r->v, n);
    if ((code = kv->append(kv->self, l, r->k, r->v, n)) != 0) return code;
    if ((code = kv->attend(kv->self, l, r->q, n, r->o)) != 0) return code;
    quant_pack(&in, r->o, n, (size_t)c->n_q_heads * d, r->packed);
    quant_matmul(&out, 1, &in);
    if (L->vec[VEC_POST_ATTN_NORM])
        rms_norm(r->h, L->vec[VEC_POST_ATTN_NORM], c->norm_eps, (size_t)n, embd, r->h);
    add(r->x, r->h, (size_t)n * embd);
    return 0;
}

static void feed_forward(const llm_model *m, llm_run *r, int l, int n)
{
    const llm_config *c = &m->c;
    const llm_layer *L = &m->layers[l];
    const quant_job gate_up[2] = {{L->mat[MAT_GATE], NULL, r->gate}, {L->mat[MAT_UP], NULL, r->up}};
    const quant_job down = {L->mat[MAT_DOWN], NULL, r->h};
    size_t embd = (size_t)c->n_embd;
    quant_input in;
    rms_norm(r->x, L->vec[VEC_FFN_NORM], c->norm_eps, (size_t)n, embd, r->h);
    quant_pack(&in, r->h, n, embd, r->packed);
    quant_matmul(gate_up, 2, &in);
    activate(r->gate, r->up, n, c->n_ff, m->family == LLM_GEMMA3);
    quant_pack(&in, r->gate, n, (size_t)c->n_ff, r->packed);
    quant_matmul(&down, 1, &in);
    if (L->vec[VEC_POST_FFN_NORM])
        rms_norm(r->h, L->vec[VEC_POST_FFN_NORM], c->norm_eps, (size_t)n, embd, r->h);
    add(r->x, r->h, (size_t)n * embd);
}

static int bad_call(int n, int pos, const float *logits, int n_logits)
{
    if (n < 1 || n > LLM_CHUNK || pos < 0 || pos > INT_MAX - n) return 1;
    return logits && (n_logits < 0 || n_logits > n);
}

/* Layers first .. and the logits, from the residual stream in r->x. */
static int run_layers(const llm_model *m, llm_run *r, int first, int n, int pos, llm_kv *kv,
                      const llm_probe *probe, float *logits, int n_logits)
{
    const llm_config *c = &m->c;
    size_t embd = (size_t)c->n_embd;
    quant_input in;
    quant_job output;
    int l, code;
    fill_angles(m->freqs, c->head_dim, n, pos, r->angles[0]);
    fill_angles(m->freqs_local, c->head_dim, n, pos, r->angles[1]);
    for (l = first; l < c->n_layers; l++) {
        if ((code = attention(m, r, l, n, kv, probe)) != 0) return code;
        feed_forward(m, r, l, n);
        if (probe && probe->residual) probe->residual(probe->self, l, r->x, n);
    }
    if (!logits || n_logits == 0) return 0;
    rms_norm(r->x + (size_t)(n - n_logits) * embd, m->output_norm, c->norm_eps, (size_t)n_logits,
             embd, r->h);
    quant_pack(&in, r->h, n_logits, embd, r->packed);
    output.w = m->output;
    output.bias = NULL;
    output.y = logits;
    quant_matmul(&output, 1, &in);
    soft_cap(logits, (size_t)n_logits * (size_t)c->n_vocab, c->final_softcap);
    return 0;
}

int llm_forward(const llm_model *m, llm_run *r, const int *tokens, int n, int pos, llm_kv *kv,
                const llm_probe *probe, float *logits, int n_logits)
{
    int t;
    if (bad_call(n, pos, logits, n_logits)) return -1;
    for (t = 0; t < n; t++)
        if (tokens[t] < 0 || tokens[t] >= m->c.n_vocab) return -1;
    embed(m, tokens, n, r->x);
    return run_layers(m, r, 0, n, pos, kv, probe, logits, n_logits);
}

int llm_forward_from(const llm_model *m, llm_run *r, int first, const float *x, int n, int pos,
                     llm_kv *kv, const llm_probe *probe, float *logits, int n_logits)
{
    if (bad_call(n, pos, logits, n_logits) || first < 1 || first >= m->c.n_layers) return -1;
    memcpy(r->x, x, (size_t)n * (size_t)m->c.n_embd * sizeof *x);
    return run_layers(m, r, first, n, pos, kv, probe, logits, n_logits);
}
