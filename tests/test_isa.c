/* test_isa.c: kernel sets at run time, >>isa: what the caller's mask leaves is picked and named; a
 * fit, a cache and its scores have the same bits whatever was picked. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#include <stdint.h>
static uint32_t allowed = 0xFFFFFFFFu;
static uint32_t allowed_now(void) { return allowed; }
#define SKV_ISA_MASK allowed_now()
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "synthetic.h"

#define SETS (sizeof sets / sizeof *sets)
static const struct { uint32_t bit; const char *name; } sets[] = {     /* the best last */
    {0, "portable"}, {SKV_ISA_WASM, "wasm"}, {SKV_ISA_NEON, "neon"},
    {SKV_ISA_SSE41, "sse4.1"}, {SKV_ISA_AVX2, "avx2"}, {SKV_ISA_AVX512, "avx512"}
};

TEST(the_mask_decides)
{
    const uint32_t here = (allowed = SKV_ISA_ALL, skv_isa());
    uint32_t m, i, best;
    printf("  (kernels in use: %s)\n", skv_isa_name());
    for (m = 0; m < 64; m++) {
        allowed = m;
        CHECK(skv_isa() == (here & m & (m & SKV_ISA_AVX2 ? SKV_ISA_ALL : ~SKV_ISA_AVX512)));
        for (best = i = 0; i < SETS; i++)
            if (skv_isa() & sets[i].bit) best = i;
        CHECK(!strcmp(skv_isa_name(), sets[best].name));
        CHECK((skvi_pick_kernels() == &skvi_kernels_c) == !best);
        if (!best) CHECK(skvi_la_pick().dot == skvi_la_dot && skvi_la_pick().tile == skvi_la_tile);
    }
    allowed = SKV_ISA_ALL;
    CHECK(here < 32);
}

#ifdef SKVI_LA_AVX2
/* cpuid says the same, with the registers that the system keeps. */
TEST(the_processor_is_asked)
{
    uint32_t a = 1, b, c = 0, d, low = 0, high, has, avx2 = 0;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    has = c >> 27 & c >> 28 & c >> 29 & 1u;             /* OSXSAVE, AVX, F16C */
    if (has) {
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        a = 7;
        c = 0;
        __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
        has = (low & 6u) == 6 && (b >> 5 & 1u);
        avx2 = has;
        (void)high;
    }
    allowed = SKV_ISA_ALL;
    CHECK(!(skv_isa() & SKV_ISA_AVX2) == !has);
#ifdef SKVI_LA_AVX512
#ifndef SKV_SIMDE_H
    /* F, DQ, BW, VL; VBMI, VNNI; registers */
    has = has && !(~b & 0xC0030000u) && !(~c & 0x802u) && !(~low & 0xE6u);
    CHECK(!(skv_isa() & SKV_ISA_AVX512) == !has);
#endif
    CHECK((skvi_pick_kernels() == &skvi_kernels_avx512) == !!(skv_isa() & SKV_ISA_AVX512));
#endif
    allowed = SKV_ISA_AVX2;
    CHECK((skvi_pick_kernels() == &skvi_kernels_avx2) == (avx2 != 0));
    CHECK((skvi_la_pick().dot == skvi_la_dot_avx2) == (avx2 != 0));
    allowed = SKV_ISA_ALL;
}
#else
TEST(the_processor_is_asked)
{
    CHECK(!(skv_isa() & SKV_ISA_AVX2));
    SKIP("no kernel set is chosen at run time (gcc or clang for x86-64, and no SKV_NO_SIMD)");
}
#endif

/* What comes out of calibration, a cache and its report with the sets that m leaves. */
enum { TOKENS = 400, OUT = TOKENS * 6 * 48, ROWS = TOKENS * 2 * 48 };
typedef struct result {
    float out[OUT], scores[6 * TOKENS], k[ROWS], v[ROWS], bound, mass;
    double fit;
} result;

static void run(uint32_t m, const syn *s, const syn_data *x, uint32_t bits, result *r)
{
    skv_span q = skv_f32(x->q), k = skv_f32(x->k), v = skv_f32(x->v);
    skv_out o = skv_out_f32(r->out);
    skv_attn attn = SKV_ZERO;
    skv_cache_desc d = SKV_ZERO;
    skv_cache *c = NULL;
    skv_profile *p;
    uint32_t i;
    allowed = m;
    memset(r, 0, sizeof *r);
    p = syn_profile(s, 1, 1, 2, 200);
    CHECK(p != NULL);
    if (!p) return;
    for (i = 0; i < p->stream[0].D; i++) r->fit += (double)p->stream[0].var[i];
    d.profile = p;
    d.target.bpe = 2.5f;
    d.max_tokens = TOKENS;
    d.attend_bits = bits;
    CHECK(skv_cache_init(&c, &d) == SKV_OK);
    if (c) {
        CHECK(skv_prefill(c, 0, &q, &k, &v, TOKENS, &o) == SKV_OK);
        q = skv_f32(x->q + (TOKENS - 1) * 6 * 48);
        CHECK(skv_attend(c, 0, &q, 1, &o, &attn) == SKV_OK);
        CHECK(skv_scores(c, 0, &q, r->scores) == SKV_OK && attn.tokens_paged >= 192);
        CHECK(skv_reconstruct(c, 0, 0, TOKENS, r->k, r->v) == SKV_OK);
    }
    r->bound = attn.score_bound;
    r->mass = attn.page_mass;
    skv_cache_free(c);
    skv_profile_free(p);
    allowed = SKV_ISA_ALL;
}

TEST(every_mask_gives_the_same_bits)
{
    const syn s = {{6, 2, 48, 48, 0, 0, 0}, 3, 2.0f, 3.0f, 0.01f, 6.0f};
    static result want, got;
    const uint32_t here = skv_isa();
    syn_data x = syn_make(&s, 0, 0, TOKENS);
    uint32_t bits, m, tried = 0;
    for (bits = 8; bits <= 14; bits += 6) {
        run(0, &s, &x, bits, &want);
        for (m = 1; m < 64; m++) {
            if (m & ~here) continue;
            run(m, &s, &x, bits, &got);
            CHECK(!memcmp(&want, &got, sizeof want));
            tried++;
        }
    }
    syn_free(&x);
    if (!tried) SKIP("no other kernels than C here");
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(the_mask_decides);
    RUN(the_processor_is_asked);
    RUN(every_mask_gives_the_same_bits);
    return TEST_END();
}
