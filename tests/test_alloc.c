/* test_alloc.c: memory runs out at every single allocation of a scenario through the whole API. The
 * code is ERR_MEMORY, nothing leaks, objects stay as they were, the same call again succeeds, and
 * what comes out in the end is the same to the last bit. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define TOKENS 330

typedef struct story {
    syn_counter  count;
    int          for_good;          /* after the first failure no more memory at all: give up */
    size_t       failures;
    skv_profiler *pr, *other;
    skv_profile  *p, *loaded;
    skv_codec    *codec;
    skv_cache    *cache;
    unsigned char *blob, *page;     /* not from the counting allocator */
    size_t       blob_bytes;
    float        out[TOKENS * 4 * 16];
    uint64_t     hash;
} story;

static syn      story_syn;
static syn_data story_data[2];      /* two layers' tokens */

static void mix(story *s, const void *data, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)data;
    size_t i;
    for (i = 0; i < bytes; i++) s->hash = (s->hash ^ p[i]) * 1099511628211u;
}

/* A call that may run out of memory once: then nothing is left over, and it works again. */
#define STEP(call)                                                        \
    do {                                                                  \
        size_t blocks_ = s->count.live_blocks;                            \
        skv_result r_ = (call);                                           \
        if (r_ == SKV_ERR_MEMORY) {                                       \
            s->failures++;                                                \
            CHECK(s->count.live_blocks == blocks_);                       \
            if (s->for_good) return 0;                                    \
            r_ = (call);                                                  \
        }                                                                 \
        CHECK(r_ >= SKV_OK);                                              \
        if (r_ < SKV_OK) return 0;                                        \
    } while (0)

static int story_profile(story *s)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_target t = SKV_ZERO;
    skv_outlook o;
    char text[2048];
    skv_allocator a = syn_allocator(&s->count);
    uint32_t i;
    t.bpe = 3;
    d.model = syn_model(&story_syn, 2);
    d.head_group = 2;
    d.max_queries = 16;
    d.allocator = a;
    STEP(skv_profiler_init(&s->pr, &d));
    STEP(skv_profiler_init(&s->other, &d));
    for (i = 0; i < 2; i++) {
        skv_span q = skv_f32(story_data[i].q), k = skv_f32(story_data[i].k);
        skv_span v = skv_f32(story_data[i].v);
        STEP(skv_profiler_output(s->pr, i, &v, 8));     /* any numbers do */
        STEP(skv_profiler_output(s->other, i, &v, 8));
        STEP(skv_profiler_add(s->pr, i, &q, &k, &v, 150));
        STEP(skv_profiler_add(s->other, i, &q, &k, &v, 100));
    }
    STEP(skv_profiler_merge(s->pr, s->other));
    STEP(skv_profiler_choose_group(s->pr, &t, 9, &i));
    if (i != 1) abort();
    STEP(skv_profiler_fit(s->pr, &t, &s->p));
    STEP(skv_profile_outlook(s->p, NULL, &o));
    STEP(skv_profile_summary(s->p, NULL, text, sizeof text, NULL));
    STEP(skv_profile_save(s->p, NULL, 0, &s->blob_bytes));
    s->blob = (unsigned char *)malloc(s->blob_bytes);
    if (!s->blob) abort();
    STEP(skv_profile_save(s->p, s->blob, s->blob_bytes, &s->blob_bytes));
    STEP(skv_profile_load(&s->loaded, s->blob, s->blob_bytes, NULL, &a));
    mix(s, text, strlen(text));
    mix(s, s->blob, s->blob_bytes);
    return 1;
}

static int story_codec(story *s)
{
    skv_codec_desc d = SKV_ZERO;
    skv_span k = skv_f32(story_data[1].k), v = skv_f32(story_data[1].v);
    size_t most = 0, bytes = 0, n = 0;
    d.profile = s->loaded;
    d.allocator = syn_allocator(&s->count);
    STEP(skv_codec_init(&s->codec, &d));
    STEP(skv_codec_page_bytes(s->codec, 1, NULL, &most));
    s->page = (unsigned char *)malloc(most);
    if (!s->page) abort();
    STEP(skv_encode(s->codec, 1, &k, &v, 50, 0, s->page, most, &bytes));
    STEP(skv_decode(s->codec, 1, s->page, bytes, s->out, NULL, &n));
    mix(s, s->page, bytes);
    mix(s, s->out, n * 2 * 16 * sizeof(float));
    return 1;
}

/* Layer 1 through skv_prefill: what was done before memory ran out stays. */
static int story_prefill(story *s)
{
    size_t at = 0;
    int tries;
    for (tries = 0; at < TOKENS && tries < 8; tries++) {
        skv_span q = skv_f32(story_data[1].q + at * 64), k = skv_f32(story_data[1].k + at * 32);
        skv_span v = skv_f32(story_data[1].v + at * 32);
        skv_out o = skv_out_f32(s->out + at * 64);
        skv_result r = skv_prefill(s->cache, 1, &q, &k, &v, TOKENS - at, &o);
        at = skv_cache_tokens(s->cache, 1);
        if (r == SKV_OK) break;
        CHECK(r == SKV_ERR_MEMORY && at < TOKENS && at % 64 == 0);
        s->failures++;
        if (s->for_good) return 0;
    }
    CHECK(at == TOKENS);
    mix(s, s->out, TOKENS * 64 * sizeof(float));
    return 1;
}

static int story_cache(story *s)
{
    skv_cache_desc d = SKV_ZERO;
    size_t bytes = 0, at, m;
    skv_attn a = SKV_ZERO;
    skv_usage u;
    skv_out o = skv_out_f32(s->out);
    d.profile = s->loaded;
    d.max_tokens = TOKENS;
    d.window = 10;                                  /* so that one append makes several pages */
    d.allocator = syn_allocator(&s->count);
    d.outliers = 0.1f;
    STEP(skv_cache_size(&d, &bytes));
    mix(s, &bytes, sizeof bytes);
    STEP(skv_cache_init(&s->cache, &d));
    for (at = 0; at < TOKENS; at += m) {            /* pieces that make none, one, several pages */
        skv_span q, k = skv_f32(story_data[0].k + at * 32), v = skv_f32(story_data[0].v + at * 32);
        m = at < 10 ? 10 : at < 300 ? 290 : 10;
        STEP(skv_append(s->cache, 0, &k, &v, m));
        CHECK(skv_cache_tokens(s->cache, 0) == at + m);
        q = skv_f32(story_data[0].q + (at + m - 2) * 64);
        STEP(skv_attend(s->cache, 0, &q, 2, &o, &a));
        mix(s, s->out, 2 * 64 * sizeof(float));
        mix(s, &a.score_bound, sizeof a.score_bound);
    }
    if (!story_prefill(s)) return 0;
    STEP(skv_cache_usage(s->cache, &u));
    CHECK(u.bytes <= s->count.live_bytes && u.page_bytes > 0 && u.outlier_rows > 0);
    skv_cache_reset(s->cache);
    return story_prefill(s);                        /* and once more into the same memory */
}

/* Everything, then everything is given back. */
static void story_run(story *s)
{
    s->hash = 1469598103934665603u;
    if (story_profile(s) && story_codec(s)) (void)story_cache(s);
    skv_cache_free(s->cache);
    skv_codec_free(s->codec);
    skv_profile_free(s->loaded);
    skv_profile_free(s->p);
    skv_profiler_free(s->other);
    skv_profiler_free(s->pr);
    free(s->blob);
    free(s->page);
    CHECK(s->count.live_blocks == 0 && s->count.live_bytes == 0 && s->count.wrong == 0);
}

static story *story_new(void)
{
    static const syn about = {{4, 2, 16, 0, 0, 0, 0}, 7, 1.0f, 2.0f, 0.03f, 12};
    story *s = (story *)calloc(1, sizeof *s);
    uint32_t i;
    if (!s) abort();
    story_syn = about;
    for (i = 0; i < 2 && !story_data[i].n; i++) story_data[i] = syn_make(&story_syn, i, 1, TOKENS);
    return s;
}

TEST(the_nth_allocation_fails)
{
    story *whole = story_new();
    size_t n, calls;
    uint64_t want;
    story_run(whole);
    want = whole->hash;
    calls = whole->count.calls;
    CHECK(calls > 20 && whole->failures == 0);
    for (n = 1; n <= calls; n++) {
        story *s = story_new();
        s->count.fail_at = n;
        story_run(s);
        CHECK(s->failures == 1 && s->hash == want);
        free(s);
    }
    free(whole);
}

TEST(memory_is_gone_for_good)
{
    story *whole = story_new();
    size_t n, calls;
    story_run(whole);
    calls = whole->count.calls;
    for (n = 1; n < calls; n++) {
        story *s = story_new();
        s->for_good = 1;
        s->count.fail_after = n;
        story_run(s);
        CHECK(s->failures == 1);
        free(s);
    }
    free(whole);
}

/* Without an allocator everything comes from malloc; one of half a pair is refused everywhere. */
TEST(half_an_allocator)
{
    syn_counter count;
    skv_allocator good, half[2];
    skv_profiler_desc pd = SKV_ZERO;
    skv_profiler *pr = NULL;
    skv_profile *p, *loaded = NULL;
    unsigned char *blob;
    size_t bytes = 0, i;
    memset(&count, 0, sizeof count);
    good = half[0] = half[1] = syn_allocator(&count);
    half[0].alloc = NULL;
    half[1].free = NULL;
    free(story_new());
    p = syn_profile_direct(&story_syn, 1, 1);
    CHECK(skv_profile_save(p, NULL, 0, &bytes) == SKV_OK);
    blob = (unsigned char *)malloc(bytes);
    if (!blob) abort();
    CHECK(skv_profile_save(p, blob, bytes, &bytes) == SKV_OK);
    pd.model = syn_model(&story_syn, 1);
    for (i = 0; i < 2; i++) {
        pd.allocator = half[i];
        CHECK(skv_profiler_init(&pr, &pd) == SKV_ERR_ARG && !pr);
        CHECK(skv_profile_load(&loaded, blob, bytes, NULL, &half[i]) == SKV_ERR_ARG && !loaded);
    }
    CHECK(skv_profile_load(&loaded, blob, bytes, NULL, &good) == SKV_OK);
    CHECK(skv_profile_bytes(loaded) == count.live_bytes && count.live_blocks == 1);
    skv_profile_free(loaded);
    CHECK(count.live_blocks == 0 && count.wrong == 0);
    skv_profile_free(NULL);
    skv_profiler_free(NULL);
    free(blob);
    skv_profile_free(p);
    syn_free(&story_data[0]);
    syn_free(&story_data[1]);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(the_nth_allocation_fails);
    RUN(memory_is_gone_for_good);
    RUN(half_an_allocator);
    return TEST_END();
}
