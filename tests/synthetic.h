/* synthetic.h: deterministic Q, K, V for tests, profiles for them, and a naive attention in double.
 *
 * Include after spectral_kv.h with SPECTRAL_KV_IMPLEMENTATION.
 *
 *   syn s = {{4, 2, 64, 64, 0, 0, 0}, 1, 2.0f, 3.0f, 0.0f, 0.0f};
 *   syn_data x = syn_make(&s, layer, passage, n_tokens);     // x.q, x.k, x.v dense
 *   skv_profile *p = syn_profile(&s, n_layers, head_group, passages, n_tokens);
 *   syn_attention(&s.shape, x.q, x.k, x.v, n_tokens, n_queries, out, lse);
 *
 * A token depends on (seed, layer, passage, position) alone, so any split of a passage gives the
 * same rows. Heads have bases of their own (Householder reflections) and share 0.64 of their
 * variance; spectra fall by `decay` decades.
 */
#ifndef SKV_SYNTHETIC_H
#define SKV_SYNTHETIC_H
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct syn {
    skv_layer shape;                /* head_dim_v 0 = head_dim */
    uint64_t  seed;
    float     mean;                 /* length of K's and V's mean, in standard deviations */
    float     decay;                /* decades from largest to smallest variance; 0 = white */
    float     outliers, gain;       /* share of tokens whose K and V are gain times longer */
} syn;

typedef struct syn_data {
    float *q, *k, *v;               /* [n][n_q][d], [n][n_kv][d], [n][n_kv][dv] */
    size_t n;
} syn_data;

#define SYN_REFLECTIONS 3

static inline uint64_t syn_next(uint64_t *state)        /* splitmix64 */
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline uint64_t syn_state(uint64_t seed, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t s = seed * 0xD1342543DE82EF95u + 1;
    s = syn_next(&s) ^ (a + 1) * 0xA0761D6478BD642Fu;
    s = syn_next(&s) ^ (b + 1) * 0xE7037ED1A0B428DBu;
    s = syn_next(&s) ^ (c + 1) * 0x8EBC6AF09C88C6E3u;
    return s;
}

static inline double syn_unit(uint64_t *state)
{
    return (double)(syn_next(state) >> 11) / 9007199254740992.0;
}

static inline void syn_normals(uint64_t *state, double *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i += 2) {
        double r = sqrt(-2 * log(syn_unit(state) + 1e-300));
        double a = 6.283185307179586 * syn_unit(state);
        x[i] = r * cos(a);
        if (i + 1 < n) x[i + 1] = r * sin(a);
    }
}

static inline size_t syn_dim_v(const skv_layer *l)
{
    return l->head_dim_v ? l->head_dim_v : l->head_dim;
}

/* Basis, spectrum and mean of one head of one stream (0 = Q, 1 = K, 2 = V). */
typedef struct syn_head {
    size_t d;
    double sd[SKV_MAX_HEAD_DIM], mean[SKV_MAX_HEAD_DIM];
    double h[SYN_REFLECTIONS][SKV_MAX_HEAD_DIM];
} syn_head;

static inline void syn_head_make(const syn *s, uint32_t layer, uint32_t stream, uint32_t head,
                                 size_t d, syn_head *h)
{
    uint64_t st = syn_state(s->seed, layer, stream, head);
    double sum = 0, norm;
    size_t i, r;
    h->d = d;
    for (i = 0; i < d; i++) {
        h->sd[i] = pow(10, -0.5 * (double)s->decay * (double)i / (double)d);
        sum += h->sd[i] * h->sd[i];
    }
    for (i = 0; i < d; i++) h->sd[i] *= sqrt((double)d / sum);      /* mean square 1 */
    for (r = 0; r < SYN_REFLECTIONS; r++) {
        syn_normals(&st, h->h[r], d);
        for (norm = 0, i = 0; i < d; i++) norm += h->h[r][i] * h->h[r][i];
        for (i = 0; i < d; i++) h->h[r][i] /= sqrt(norm);
    }
    syn_normals(&st, h->mean, d);
    for (i = 0; i < d; i++) h->mean[i] *= (double)s->mean;
}

/* out = H3 H2 H1 x with H = I - 2 h h^T */
static inline void syn_reflect(const syn_head *h, double *x)
{
    size_t r, i;
    for (r = 0; r < SYN_REFLECTIONS; r++) {
        double dot = 0;
        for (i = 0; i < h->d; i++) dot += h->h[r][i] * x[i];
        for (i = 0; i < h->d; i++) x[i] -= 2 * dot * h->h[r][i];
    }
}

/* Whether K and V of a token are gain times longer. */
static inline int syn_is_outlier(const syn *s, uint32_t layer, uint32_t passage, size_t pos)
{
    uint64_t st = syn_state(s->seed + 77, layer, passage, pos);
    return syn_unit(&st) < (double)s->outliers;
}

/* One stream of tokens first .. first+n-1, dense [n][heads][d]. */
static inline void syn_stream(const syn *s, uint32_t layer, uint32_t stream, uint32_t passage,
                              size_t first, size_t n, float *out)
{
    uint32_t heads = stream ? s->shape.n_kv_heads : s->shape.n_q_heads, h;
    size_t d = stream == 2 ? syn_dim_v(&s->shape) : s->shape.head_dim, t, i;
    double shared[SKV_MAX_HEAD_DIM], x[SKV_MAX_HEAD_DIM];
    syn_head *head = (syn_head *)malloc(sizeof *head);
    for (h = 0; head && h < heads; h++) {
        syn_head_make(s, layer, stream, h, d, head);
        for (t = 0; t < n; t++) {
            uint64_t a = syn_state(s->seed + 1 + stream, layer, passage, first + t);
            uint64_t b = syn_state(s->seed + 11 + stream, layer + 4096u * h, passage, first + t);
            double gain = stream && syn_is_outlier(s, layer, passage, first + t) ? s->gain : 1;
            if (!stream) gain = 1.5;
            syn_normals(&a, shared, d);
            syn_normals(&b, x, d);
            for (i = 0; i < d; i++) x[i] = head->sd[i] * (0.8 * shared[i] + 0.6 * x[i]);
            syn_reflect(head, x);
            for (i = 0; i < d; i++)
                out[(t * heads + h) * d + i] = (float)(gain * (x[i] + head->mean[i]));
        }
    }
    free(head);
}

static inline syn_data syn_make(const syn *s, uint32_t layer, uint32_t passage, size_t n)
{
    const skv_layer *l = &s->shape;
    syn_data x;
    x.n = n;
    x.q = (float *)malloc(n * l->n_q_heads * l->head_dim * sizeof(float) + 1);
    x.k = (float *)malloc(n * l->n_kv_heads * l->head_dim * sizeof(float) + 1);
    x.v = (float *)malloc(n * l->n_kv_heads * syn_dim_v(l) * sizeof(float) + 1);
    if (!x.q || !x.k || !x.v) abort();
    syn_stream(s, layer, 0, passage, 0, n, x.q);
    syn_stream(s, layer, 1, passage, 0, n, x.k);
    syn_stream(s, layer, 2, passage, 0, n, x.v);
    return x;
}

static inline void syn_free(syn_data *x)
{
    free(x->q);
    free(x->k);
    free(x->v);
    memset(x, 0, sizeof *x);
}

static inline skv_model syn_model(const syn *s, uint32_t n_layers)
{
    skv_model m = SKV_ZERO;
    m.n_layers = n_layers;
    m.layer = s->shape;
    m.name = "synthetic";
    m.fingerprint = s->seed;
    return m;
}

/* Profiler and fit over `passages` passages of n tokens (numbers 1000 and on: others than the
   tests' own). NULL on any error. */
static inline skv_profile *syn_profile(const syn *s, uint32_t n_layers, uint32_t head_group,
                                       uint32_t passages, size_t n)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *pr = NULL;
    skv_profile *p = NULL;
    uint32_t i, layer;
    skv_result r;
    d.model = syn_model(s, n_layers);
    d.head_group = head_group;
    d.max_passage = (uint32_t)n;
    d.max_queries = 64;
    if (n < 160) d.window = 16;
    if (skv_profiler_init(&pr, &d) != SKV_OK) return NULL;
    for (r = SKV_OK, i = 0; i < passages; i++)
        for (layer = 0; layer < n_layers && r == SKV_OK; layer++) {
            syn_data x = syn_make(s, layer, 1000 + i, n);
            skv_span q = skv_f32(x.q), k = skv_f32(x.k), v = skv_f32(x.v);
            r = skv_profiler_add(pr, layer, &q, &k, &v, n);
            syn_free(&x);
        }
    if (r == SKV_OK) r = skv_profiler_fit(pr, NULL, &p);
    skv_profiler_free(pr);
    return r < SKV_OK ? NULL : p;
}

/* A profile by formula, without a fit, for big shapes: every head group's latent is a rotation
   (two reflections) of x - mean, variances fall by `decay` decades from 1. With pairs, keys turn:
   frequencies 10000^(-p / pairs), unturned means of random normals times 1 + s->mean. */
static inline skv_profile *syn_profile_turned(const syn *s, uint32_t n_layers, uint32_t head_group,
                                              uint32_t style, uint32_t pairs)
{
    skv_model m = syn_model(s, n_layers);
    skv_profile *p = NULL;
    skvi_turn turn;
    skvi_turns turns;
    float freq[SKV_MAX_HEAD_DIM / 2];
    uint32_t i;
    size_t c, x, D;
    for (i = 0; i < pairs; i++) freq[i] = (float)pow(10000, -(double)i / (double)pairs);
    turn.style = style;
    turn.pairs = pairs;
    turn.freq = freq;
    turns.first = &turn;
    turns.stride = 0;               /* the same for every layer */
    if (skvi_profile_new(&p, &m, head_group, pairs ? &turns : NULL, NULL) != SKV_OK) return NULL;
    p->sinks = 4;
    p->window = 64;
    p->n_tokens = 4096;
    for (i = 0; i < p->n_streams; i++) {
        skvi_stream *t = &p->stream[i];
        uint64_t st = syn_state(s->seed + 5, i, 0, 0);
        double *a, *b, na = 0, nb = 0, ab = 0;
        D = t->D;
        a = (double *)malloc(2 * D * sizeof *a);
        if (!a) abort();
        b = a + D;
        syn_normals(&st, a, D);
        syn_normals(&st, b, D);
        for (x = 0; x < D; x++) na += a[x] * a[x];
        for (x = 0; x < D; x++) nb += b[x] * b[x];
        for (x = 0; x < D; x++) a[x] /= sqrt(na);
        for (x = 0; x < D; x++) b[x] /= sqrt(nb);
        for (x = 0; x < D; x++) ab += a[x] * b[x];
        for (c = 0; c < D; c++) {
            double sd = pow(10, -0.5 * (double)s->decay * (double)c / (double)D);
            t->var[c] = (float)(sd * sd);
            t->mean[c] = (float)(0.25 * (double)s->mean * a[c] * sqrt((double)D));
            for (x = 0; x < D; x++) {           /* (I - 2 a a^T)(I - 2 b b^T) */
                double h = (c == x) - 2 * a[c] * a[x] - 2 * b[c] * b[x] + 4 * a[c] * ab * b[x];
                t->enc[c * D + x] = (float)(h / sd);
                t->dec[c * D + x] = (float)(h * sd);
            }
        }
        for (x = 0; x < D && t->turn; x++) {
            syn_normals(&st, &na, 1);
            t->turn[x] = (1 + s->mean) * (float)na;
        }
        free(a);
    }
    return p;
}

static inline skv_profile *syn_profile_direct(const syn *s, uint32_t n_layers, uint32_t head_group)
{
    return syn_profile_turned(s, n_layers, head_group, 0, 0);
}

/* x[dim] += sign R(position) mu of one head, in double; freq[pairs]. */
static inline void syn_turn(uint32_t style, size_t pairs, const float *freq, const float *mu,
                            double position, double sign, double *x)
{
    size_t p;
    for (p = 0; p < pairs; p++) {
        size_t i = style == SKV_ROPE_ADJACENT ? 2 * p : p;
        size_t j = style == SKV_ROPE_ADJACENT ? i + 1 : p + pairs;
        double angle = position * (double)freq[p], c = sign * cos(angle), s = sign * sin(angle);
        x[i] += c * (double)mu[i] - s * (double)mu[j];
        x[j] += s * (double)mu[i] + c * (double)mu[j];
    }
}

/* The scores' scale as the library fills it in. */
static inline double syn_scale(const skv_layer *l)
{
    return l->scale != 0 ? (double)l->scale : 1 / sqrt((double)l->head_dim);
}

static inline double syn_score(const skv_layer *l, const float *q, const float *k)
{
    double s = 0;
    size_t i;
    for (i = 0; i < l->head_dim; i++) s += (double)q[i] * (double)k[i];
    return s * syn_scale(l);
}

/* Naive attention of the last n of `total` tokens: q [n][n_q][d] belongs to positions total-n ..
   total-1; k, v [total]. out [n][n_q][dv], lse [n][n_q] or NULL. Written for clarity. */
static inline void syn_attention(const skv_layer *l, const float *q, const float *k,
                                 const float *v, size_t total, size_t n, double *out, double *lse)
{
    size_t d = l->head_dim, dv = syn_dim_v(l), nq = l->n_q_heads, nk = l->n_kv_heads, i, h, j, x;
    double *s = (double *)malloc(total * sizeof *s);
    if (!s) abort();
    for (i = 0; i < n; i++)
        for (h = 0; h < nq; h++) {
            size_t pos = total - n + i, kh = h / (nq / nk), from = 0;
            double top = -INFINITY, sum = 0, *o = out + (i * nq + h) * dv;
            if (l->sliding_window && pos + 1 > l->sliding_window)
                from = pos + 1 - l->sliding_window;
            for (j = from; j <= pos; j++) {
                s[j] = syn_score(l, q + (i * nq + h) * d, k + (j * nk + kh) * d);
                if (l->softcap > 0) s[j] = (double)l->softcap * tanh(s[j] / (double)l->softcap);
                if (s[j] > top) top = s[j];
            }
            for (x = 0; x < dv; x++) o[x] = 0;
            for (j = from; j <= pos; j++) {
                double p = exp(s[j] - top);
                sum += p;
                for (x = 0; x < dv; x++) o[x] += p * (double)v[(j * nk + kh) * dv + x];
            }
            for (x = 0; x < dv; x++) o[x] /= sum;
            if (lse) lse[i * nq + h] = top + log(sum);
        }
    free(s);
}

/* Largest |a - b|. */
static inline double syn_worst(const float *a, const double *b, size_t n)
{
    double worst = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        double e = fabs((double)a[i] - b[i]);
        if (!(e <= worst)) worst = e;           /* a NaN stays */
    }
    return worst;
}

/* Sum of squared differences of two float arrays, against the sum of squares of the second. */
static inline double syn_relative_error(const float *a, const float *b, size_t n)
{
    double e = 0, s = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        e += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        s += (double)b[i] * (double)b[i];
    }
    return s > 0 ? e / s : e;
}

/* An allocator that counts, can fail at the nth call, and checks that sizes come back right. */
typedef struct syn_counter {
    size_t live_bytes, live_blocks, peak_bytes, calls, wrong;
    size_t fail_at;                 /* 1 = the next call fails, once; 0 = never */
    size_t fail_after;              /* every call after this many fails; 0 = never */
} syn_counter;

static inline void *syn_count_alloc(void *user, size_t bytes)
{
    syn_counter *c = (syn_counter *)user;
    unsigned char *p;
    c->calls++;
    if (c->fail_at && --c->fail_at == 0) return NULL;
    if (c->fail_after && c->calls > c->fail_after) return NULL;
    p = (unsigned char *)malloc(bytes + 16);
    if (!p) return NULL;
    memcpy(p, &bytes, sizeof bytes);
    memset(p + 16, 0xA5, bytes);                /* new memory is not zero */
    c->live_bytes += bytes;
    c->live_blocks++;
    if (c->live_bytes > c->peak_bytes) c->peak_bytes = c->live_bytes;
    return p + 16;
}

static inline void syn_count_free(void *user, void *q, size_t bytes)
{
    syn_counter *c = (syn_counter *)user;
    unsigned char *p = (unsigned char *)q - 16;
    size_t had;
    memcpy(&had, p, sizeof had);
    if (had != bytes) c->wrong++;
    c->live_bytes -= had;
    c->live_blocks--;
    free(p);
}

static inline skv_allocator syn_allocator(syn_counter *c)
{
    skv_allocator a;
    a.user = c;
    a.alloc = syn_count_alloc;
    a.free = syn_count_free;
    return a;
}
#endif
