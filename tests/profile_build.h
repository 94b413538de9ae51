/* profile_build.h: profiles with known content for the tests of plan and blob, without calibration.
 * Include after spectral_kv.h with SPECTRAL_KV_IMPLEMENTATION.
 */
#ifndef SKV_PROFILE_BUILD_H
#define SKV_PROFILE_BUILD_H
#include "test.h"

static inline skv_layer layer_of(uint32_t n_q, uint32_t n_kv, uint32_t d, uint32_t dv)
{
    skv_layer l;
    memset(&l, 0, sizeof l);
    l.n_q_heads = n_q;
    l.n_kv_heads = n_kv;
    l.head_dim = d;
    l.head_dim_v = dv;
    return l;
}

/* Sign of entry (i, j) of the Sylvester-Hadamard matrix. */
static inline float hadamard(uint32_t i, uint32_t j)
{
    uint32_t x = i & j, odd = 0;
    for (; x; x >>= 1) odd ^= x & 1u;
    return odd ? -1.0f : 1.0f;
}

/* Fills in the golden profile: one layer, one head of 16, every number a small integer times a
 * power of two, so that it is exact on every machine.
 *   K: mean[i] = (i - 8) / 8, sd[c] = 2^-c      V: mean[i] = i / 4, sd[c] = 2^-(c / 2) (integer /)
 *   var = sd^2, enc[c][i] = H[c][i] / (4 sd[c]), dec[c][i] = H[c][i] sd[c] / 4, H Hadamard's
 *   where keys turn: turn[i] = i + 1 for i < 6, else 0 */
static inline skv_profile *profile_golden_with(const skvi_turns *turns, const skv_allocator *a)
{
    skv_model m;
    skv_profile *p = NULL;
    uint32_t kind, c, i;
    memset(&m, 0, sizeof m);
    m.n_layers = 1;
    m.layer = layer_of(2, 1, 16, 16);
    m.fingerprint = 0x0123456789ABCDEFu;
    m.name = "golden";
    if (skvi_profile_new(&p, &m, 1, turns, a) != SKV_OK) return NULL;
    p->sinks = 4;
    p->window = 64;
    p->n_tokens = 1000;
    p->target.bpe = 3;
    for (kind = 0; kind < 2; kind++) {
        skvi_stream *s = &p->stream[kind];
        for (c = 0; c < 16; c++) {
            float sd = 1.0f / (float)(1u << (kind ? c / 2 : c));
            s->mean[c] = kind ? (float)c / 4 : ((float)c - 8) / 8;
            s->var[c] = sd * sd;
            if (s->turn && c < 6) s->turn[c] = (float)c + 1;
            for (i = 0; i < 16; i++) {
                s->enc[c * 16 + i] = hadamard(c, i) / (4 * sd);
                s->dec[c * 16 + i] = hadamard(c, i) * sd / 4;
            }
        }
    }
    return p;
}

/* tests/data/profile_v1.skv */
static inline skv_profile *profile_golden(const skv_allocator *a)
{
    return profile_golden_with(NULL, a);
}

/* tests/data/profile_v2.skv: three pairs of halves turn by 1, 1/2 and 1/4 */
static inline skv_profile *profile_golden_turned(const skv_allocator *a)
{
    float freq[3] = {1, 0.5f, 0.25f};
    skvi_turn turn;
    skvi_turns turns;
    turn.style = SKV_ROPE_HALVES;
    turn.pairs = 3;
    turn.freq = freq;
    turns.first = &turn;
    turns.stride = sizeof turn;
    return profile_golden_with(&turns, a);
}

/* Spectra that fall by a factor per channel between `steep` and 1, with random heights; enc and
 * dec only scale. Deterministic from test_'s seed. turns may be NULL. */
static inline skv_profile *profile_random_with(const skv_model *m, uint32_t head_group,
                                               double steep, const skvi_turns *turns)
{
    skv_profile *p = NULL;
    uint32_t i, c;
    if (skvi_profile_new(&p, m, head_group, turns, NULL) != SKV_OK) return NULL;
    p->sinks = 4;
    p->window = 64;
    p->n_tokens = 5000;
    for (i = 0; i < p->n_streams; i++) {
        skvi_stream *s = &p->stream[i];
        double var = exp(2 * test_normal()), fall = steep + (1 - steep) * test_uniform();
        for (c = 0; c < s->D; c++, var *= fall + (1 - fall) * test_uniform()) {
            float sd = (float)sqrt(var);
            s->mean[c] = (float)test_normal();
            if (s->turn) s->turn[c] = (float)test_normal();
            s->var[c] = sd * sd;
            s->enc[(size_t)c * s->D + c] = 1 / sd;
            s->dec[(size_t)c * s->D + c] = sd;
        }
    }
    return p;
}

static inline skv_profile *profile_random(const skv_model *m, uint32_t head_group, double steep)
{
    return profile_random_with(m, head_group, steep, NULL);
}

static inline skv_target target_bpe(double bpe)
{
    skv_target t;
    memset(&t, 0, sizeof t);
    t.bpe = (float)bpe;
    return t;
}
static inline skv_target target_energy(double energy)
{
    skv_target t;
    memset(&t, 0, sizeof t);
    t.energy = (float)energy;
    return t;
}
static inline skv_target target_error(double error)
{
    skv_target t;
    memset(&t, 0, sizeof t);
    t.error = (float)error;
    return t;
}
#endif
