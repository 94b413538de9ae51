/* test_cuda_profile.cpp: skv_cuda_profile on emulated CUDA (tests/cuda_emulation). Its sums are
 * those of skv_profiler_add but for rounding, and a profile is fitted from either.
 */
#include "cuda_device.h"
#define SKV_STATIC                  /* what a test does not use is not compiled */
#define SKV_NO_SIMD                 /* the reference: portable loops */
#define SPECTRAL_KV_IMPLEMENTATION
#define SPECTRAL_KV_CUDA
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"
#include <vector>

struct shape {
    uint32_t q, kv, d, dv, group;
    skv_rope style;
    uint32_t pairs, sinks, window, queries, sliding;
    float    softcap;
    uint32_t n_out;                 /* rows of W_O, or 0 */
    uint32_t tokens[2];             /* of two passages */
    skv_dtype dtype;
};
static const shape shapes[] = {
    /* q kv d  dv group style     pairs sinks window queries sliding softcap n_out tokens dtype */
    {4, 2, 16, 16, 1, SKV_ROPE_HALVES, 8, 0, 16, 40, 0, 0, 32, {90, 64}, SKV_F32},
    {6, 3, 20, 36, 2, SKV_ROPE_ADJACENT, 6, 3, SKV_NONE, 24, 40, 8, 70, {100, 71}, SKV_F16},
    {2, 1, 72, 40, 1, SKV_ROPE_HALVES, 0, SKV_NONE, 8, 100, 0, 0, 0, {66, 3}, SKV_BF16},
    {2, 2, 18, 18, 2, SKV_ROPE_HALVES, 9, 8, 0, 16, 0, 5, 18, {80, 6}, SKV_F32}
};

struct rig {
    syn                   s;
    skv_profiler         *cpu, *gpu;
    std::vector<uint64_t> tables, work;
    std::vector<double>   sums;
    skv_cuda_profile_desc d;
};
template <class T> static T *even(std::vector<T> &x)     /* at a multiple of 16 */
{
    return x.data() + ((size_t)x.data() / 8 & 1);
}

static skv_profiler *profiler_new(const syn *y, const shape *s)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *p = NULL;
    std::vector<float> freqs, w;
    d.model = syn_model(y, 1);
    d.head_group = s->group;
    d.sinks = s->sinks;
    d.window = s->window;
    d.max_queries = s->queries;
    d.max_passage = 128;
    CHECK(skv_profiler_init(&p, &d) == SKV_OK);
    for (uint32_t i = 0; i < s->pairs; i++) freqs.push_back(powf(100, -(float)i / (float)s->pairs));
    if (s->pairs)
        CHECK(skv_profiler_rope(p, 0, s->style, freqs.data(), s->pairs) == SKV_OK);
    uint64_t state = 5;
    for (uint32_t i = 0; i < s->n_out * s->q * s->dv; i++)
        w.push_back((float)syn_unit(&state) - 0.5f);
    if (s->n_out) {
        skv_span o = skv_f32(w.data());
        CHECK(skv_profiler_output(p, 0, &o, s->n_out) == SKV_OK);
    }
    return p;
}

static void rig_new(rig *r, const shape *s)
{
    size_t bytes = 0, n = 0;
    r->s = {{0, 0, 0, 0, 0, 0, 0}, 11, 1.0f, 1.0f, 0, 1};
    r->s.shape.n_q_heads = s->q;
    r->s.shape.n_kv_heads = s->kv;
    r->s.shape.head_dim = s->d;
    r->s.shape.head_dim_v = s->dv;
    r->s.shape.softcap = s->softcap;
    r->s.shape.sliding_window = s->sliding;
    r->cpu = profiler_new(&r->s, s);
    r->gpu = profiler_new(&r->s, s);
    CHECK(skv_profiler_tables(r->gpu, 0, NULL, 0, &bytes) == SKV_OK);
    r->tables.resize(bytes / 8 + 3);
    CHECK(skv_profiler_tables(r->gpu, 0, even(r->tables), bytes - 1, &bytes) == SKV_ERR_ARG);
    CHECK(skv_profiler_tables(r->gpu, 0, even(r->tables), bytes, &bytes) == SKV_OK);
    memset(&r->d, 0, sizeof r->d);
    r->d.host = (const skv_profiler_table *)(const void *)even(r->tables);
    r->d.tables = r->d.host;
    CHECK(skv_profiler_sums(r->gpu, 0, NULL, 0, &n) == SKV_OK && n == r->d.host->n_sums);
    r->sums.assign(n, 0);
    r->d.sums = r->sums.data();
}

static void rig_free(rig *r)
{
    skv_profiler_free(r->cpu);
    skv_profiler_free(r->gpu);
}

/* A tensor of n tokens as a dtype, heads and tokens with gaps between them. */
struct tensor {
    std::vector<float>    f;
    std::vector<uint16_t> h;
    skv_span              span;
};
static void tensor_fill(tensor *x, const float *from, uint32_t n, uint32_t heads, uint32_t dim,
                        skv_dtype dtype)
{
    const uint32_t apart = dim + 3, row = heads * apart + 5;
    x->f.assign((size_t)n * row, NAN);
    x->h.assign((size_t)n * row, 0x7FFF);
    for (uint32_t i = 0; i < n * heads * dim; i++) {
        const size_t at = i / (heads * dim) * row + i / dim % heads * apart + i % dim;
        x->f[at] = from[i];
        x->h[at] = dtype == SKV_F16 ? skvi_to_f16(from[i]) : skvi_to_bf16(from[i]);
    }
    memset(&x->span, 0, sizeof x->span);
    x->span.data = dtype == SKV_F32 ? (const void *)x->f.data() : x->h.data();
    x->span.dtype = dtype;
    x->span.token_stride = row;
    x->span.head_stride = apart;
}

static skv_result rig_add(rig *r, const shape *s, uint32_t passage, int spoiled)
{
    const uint32_t n = s->tokens[passage];
    syn_data x = syn_make(&r->s, 0, passage, n);
    tensor q, k, v;
    if (spoiled) x.k[5 * s->kv * s->d] = INFINITY;
    tensor_fill(&q, x.q, n, s->q, s->d, s->dtype);
    tensor_fill(&k, x.k, n, s->kv, s->d, s->dtype);
    tensor_fill(&v, x.v, n, s->kv, s->dv, s->dtype);
    syn_free(&x);
    if (!spoiled) CHECK(skv_profiler_add(r->cpu, 0, &q.span, &k.span, &v.span, n) == SKV_OK);
    r->d.q = q.span;
    r->d.k = k.span;
    r->d.v = v.span;
    r->d.n_tokens = n;
    r->d.work_bytes = skv_cuda_profile_work(&r->d);
    r->work.resize(r->d.work_bytes / 8 + 3);
    emu::fill(r->work.data(), r->work.size() * 8);
    r->d.work = even(r->work);
    const skv_result result = skv_cuda_profile(&r->d, NULL);
    finish();
    return result;
}

/* The largest difference of n numbers from the CPU's, as a share of the largest of those. */
static double part(const std::vector<double> &a, const std::vector<double> &b, size_t *at, size_t n)
{
    double most = 0, worst = 0;
    for (size_t i = *at; i < *at + n; i++) {
        const double e = fabs(a[i] - b[i]);
        if (!(e <= worst)) worst = e < 1e30 ? e : 1e30;
        most = fabs(b[i]) > most ? fabs(b[i]) : most;
    }
    *at += n;
    return worst > 0 ? worst / (most + 1e-30) : 0;
}

static double differ(const rig *r, const shape *s, const std::vector<double> &cpu)
{
    double worst = 0, e;
    size_t at = 0, i, parts[64], n = 0;
    parts[n++] = 1, parts[n++] = 1;
    for (i = 0; i < 2 * (size_t)r->d.host->n_groups; i++) {
        const uint32_t g = i % r->d.host->n_groups, left = s->kv - g * s->group;
        const size_t D = (left < s->group ? left : s->group) *
                         (i < r->d.host->n_groups ? s->d : s->dv);
        parts[n++] = D, parts[n++] = D * D;
        if (i < r->d.host->n_groups) parts[n++] = D * 2 * s->pairs;
    }
    parts[n++] = 2 * s->pairs, parts[n++] = (size_t)4 * s->pairs * s->pairs;
    for (i = 0; i < 2 * s->kv; i++) parts[n++] = s->d * s->d;
    for (i = 0; i < s->q; i++) parts[n++] = 1;
    for (i = 0; i < n; i++) {
        e = part(r->sums, cpu, &at, parts[i]);
        worst = e > worst ? e : worst;
    }
    CHECK(at == cpu.size());
    return worst;
}

TEST(sums_are_the_cpus)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        rig r;
        size_t n = 0;
        rig_new(&r, &shapes[i]);
        emu::seed(i);                   /* another order of threads */
        CHECK(rig_add(&r, &shapes[i], 0, 0) == SKV_OK);
        CHECK(rig_add(&r, &shapes[i], 1, 0) == SKV_OK);
        std::vector<double> cpu(r.sums.size());
        CHECK(skv_profiler_sums(r.cpu, 0, cpu.data(), cpu.size(), &n) == SKV_OK);
        CHECK(differ(&r, &shapes[i], cpu) < 5e-6);
        CHECK(cpu.back() > 0);
        rig_free(&r);
    }
}

TEST(rows_of_profiles_agree)
{
    const shape *s = &shapes[0];
    skv_profile *a = NULL, *b = NULL;
    rig r;
    rig_new(&r, s);
    CHECK(rig_add(&r, s, 0, 0) == SKV_OK && rig_add(&r, s, 1, 0) == SKV_OK);
    CHECK(skv_profiler_add_sums(r.gpu, 0, r.sums.data(), r.sums.size() - 1) == SKV_ERR_SHAPE);
    CHECK(skv_profiler_add_sums(r.gpu, 0, r.sums.data(), r.sums.size()) == SKV_OK);
    CHECK(skv_profiler_fit(r.cpu, NULL, &a) >= SKV_OK);
    CHECK(skv_profiler_fit(r.gpu, NULL, &b) >= SKV_OK);
    for (uint32_t i = 0; i < 2 * s->kv; i++)
        for (uint32_t c = 0; c < a->stream[i].D; c++)
            CHECK(fabsf(a->stream[i].var[c] - b->stream[i].var[c]) < 1e-4f * a->stream[i].var[0]);
    skv_profile_free(a);
    skv_profile_free(b);
    rig_free(&r);
}

TEST(bad_numbers_do_not_pass)
{
    rig r;
    rig_new(&r, &shapes[0]);
    CHECK(rig_add(&r, &shapes[0], 0, 1) == SKV_OK);
    CHECK(skv_profiler_add_sums(r.gpu, 0, r.sums.data(), r.sums.size()) == SKV_ERR_NOT_FINITE);
    rig_free(&r);
}

TEST(arguments_are_checked)
{
    rig r;
    rig_new(&r, &shapes[0]);
    CHECK(rig_add(&r, &shapes[0], 0, 0) == SKV_OK);
    skv_cuda_profile_desc good = r.d, d;
    CHECK(skv_cuda_profile(NULL, NULL) == SKV_ERR_ARG && !skv_cuda_profile_work(NULL));
#define REFUSED(change) \
    do { d = good; change; CHECK(skv_cuda_profile(&d, NULL) == SKV_ERR_ARG); } while (0)
    REFUSED(d.host = NULL);
    REFUSED(d.tables = NULL);
    REFUSED(d.n_tokens = 0);
    REFUSED(d.n_tokens = 129);
    REFUSED(d.q.data = NULL);
    REFUSED(d.sums = NULL);
    REFUSED(d.work_bytes--);
    REFUSED(d.work = (char *)d.work + 8);
    REFUSED(d.v.dtype = (skv_dtype)(SKV_BF16 + 1));
    rig_free(&r);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    device_needed();
    RUN(sums_are_the_cpus);
    RUN(rows_of_profiles_agree);
    RUN(bad_numbers_do_not_pass);
    RUN(arguments_are_checked);
    return TEST_END();
}
