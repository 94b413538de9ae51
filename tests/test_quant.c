/* test_quant.c: number formats, page scales, small kernels and the heap (trellis codes:
 * test_trellis.c), each against an independent formula or model. Private functions are called
 * directly. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"
#include "tables.h"

#define TOKENS SKV_PAGE_TOKENS

/* --- f16 and bf16 ----------------------------------------------------------------------------- */

/* A binary format of 16 bits with `bits` of mantissa and exponent bias `bias`. */
static double half_value(unsigned h, int bits, int bias)
{
    int e = (int)((h & 0x7FFFu) >> bits), m = (int)(h & ((1u << bits) - 1));
    double x = e ? ldexp((1 << bits) + m, e - bias - bits) : ldexp(m, 1 - bias - bits);
    return h & 0x8000u ? -x : x;
}

static int is_half_finite(unsigned h, int bits) { return (h & 0x7FFFu) >> bits != 0x7FFFu >> bits; }

/* Nearest pattern of a finite x, ties to even, by search: independent of any bit trick. */
static unsigned half_nearest(double x, int bits, int bias)
{
    unsigned lo = 0, hi = (0x7FFFu >> bits) << bits, sign = signbit(x) ? 0x8000u : 0;
    double a = fabs(x), low, high;
    while (hi - lo > 1) {               /* value(lo) <= a < value(hi), hi = infinity at first */
        unsigned mid = (lo + hi) / 2;
        if (half_value(mid, bits, bias) <= a) lo = mid;
        else hi = mid;
    }
    low = a - half_value(lo, bits, bias);
    high = half_value(hi, bits, bias) - a;      /* one past the largest counts as its successor */
    return sign | (low < high || (low == high && !(lo & 1)) ? lo : hi);
}

static float value16(unsigned h, int bf)
{
    return bf ? skvi_from_bf16((uint16_t)h) : skvi_from_f16((uint16_t)h);
}
static unsigned code16(float x, int bf) { return bf ? skvi_to_bf16(x) : skvi_to_f16(x); }

static void check_all_patterns(int bf, int bits, int bias)
{
    unsigned h;
    for (h = 0; h < 65536; h++) {
        float f = value16(h, bf);
        if (is_half_finite(h, bits)) {
            CHECK((double)f == half_value(h, bits, bias) && !signbit(f) == !(h & 0x8000u));
            CHECK(code16(f, bf) == h);
        } else if (h & ((1u << bits) - 1)) {
            CHECK(isnan(f) && isnan(value16(code16(f, bf), bf)));
        } else {
            CHECK(isinf(f) && !signbit(f) == !(h & 0x8000u) && code16(f, bf) == h);
        }
    }
}

/* Between two neighbours: the middle goes to the even one, a float beside it to the nearer one. */
static void check_ties(int bf, int bits, int bias)
{
    unsigned h, top = (0x7FFFu >> bits) << bits;
    for (h = 0; h < top; h++) {
        double mid = 0.5 * (half_value(h, bits, bias) + half_value(h + 1, bits, bias));
        float f = (float)mid;
        int s;
        if ((double)f != mid) continue;         /* the last of bf16 is not a float */
        for (s = 0; s < 2; s++) {
            unsigned sign = s ? 0x8000u : 0;
            float x = s ? -f : f, away = s ? -INFINITY : INFINITY;
            CHECK(code16(x, bf) == (sign | (h & 1 ? h + 1 : h)));
            CHECK(code16(nextafterf(x, 0), bf) == (sign | h));
            CHECK(code16(nextafterf(x, away), bf) == (sign | (h + 1)));
        }
    }
}

static void check_random_floats(int bf, int bits, int bias)
{
    int i;
    for (i = 0; i < 100000; i++) {
        float x = skvi_float((uint32_t)test_u64());
        if (!skvi_is_finite(x)) continue;
        if (!bf && i % 2) x = skvi_float(0x36000000u + (uint32_t)(test_u64() % 0x12000000u));
        CHECK(code16(x, bf) == half_nearest((double)x, bits, bias));
    }
}

TEST(f16_is_ieee)
{
    check_all_patterns(0, 10, 15);
    check_ties(0, 10, 15);
    check_random_floats(0, 10, 15);
    CHECK(skvi_to_f16(65519.996f) == 0x7BFF && skvi_to_f16(65520.0f) == 0x7C00);
    CHECK(skvi_to_f16(-1e30f) == 0xFC00 && skvi_to_f16(-0.0f) == 0x8000);
    CHECK(skvi_to_f16(1e-30f) == 0 && skvi_to_f16(2.9802322e-8f) == 0);      /* 2^-25: tie to 0 */
    CHECK(skvi_to_f16(2.9802326e-8f) == 1);
}

TEST(bf16_is_rounded_float)
{
    unsigned i;
    check_all_patterns(1, 7, 127);
    check_ties(1, 7, 127);
    check_random_floats(1, 7, 127);
    CHECK(isinf(value16(code16(FLT_MAX, 1), 1)));
    for (i = 0; i < 100000; i++) {          /* upwards: not below x, and the one before is below */
        float x = skvi_float((uint32_t)test_u64() & 0x7FFFFFFFu);
        uint16_t up;
        if (!skvi_is_finite(x)) continue;
        up = skvi_to_bf16_up(x);
        CHECK(skvi_from_bf16(up) >= x);
        CHECK(up == 0 || skvi_from_bf16((uint16_t)(up - 1)) < x);
    }
    CHECK(skvi_to_bf16_up(0) == 0 && skvi_to_bf16_up(1) == 0x3F80);
}

TEST(integers_are_little_endian)
{
    unsigned char b[16];
    memset(b, 0xEE, sizeof b);
    skvi_put64(b + 1, 0x0123456789ABCDEFu);
    CHECK(b[0] == 0xEE && b[1] == 0xEF && b[2] == 0xCD && b[8] == 0x01 && b[9] == 0xEE);
    CHECK(skvi_get64(b + 1) == 0x0123456789ABCDEFu && skvi_get32(b + 1) == 0x89ABCDEFu);
    CHECK(skvi_get16(b + 1) == 0xCDEF);
    skvi_put16(b + 3, 0xBEEFu);
    CHECK(skvi_get32(b + 1) == 0xBEEFCDEFu);
    CHECK(skvi_crc32((const unsigned char *)"123456789", 9) == 0xCBF43926u);    /* check value */
}

/* --- scales ----------------------------------------------------------------------------------- */

TEST(scales_are_quarter_octaves)
{
    uint32_t e;
    for (e = 0; e <= 270; e++) {
        double want = pow(2, e / 4.0 - 32);
        CHECK_NEAR(skvi_scale(e), want, 1e-7 * want);
        CHECK(skvi_nearest_scale(skvi_scale(e)) == e);
        if (e < 270) {                              /* the border is in the middle, of logarithms */
            double mid = pow(2, (e + 0.5) / 4 - 32);
            CHECK(skvi_scale(e) < skvi_scale(e + 1));
            CHECK(skvi_nearest_scale((float)(mid * (1 - 1e-6))) == e);
            CHECK(skvi_nearest_scale((float)(mid * (1 + 1e-6))) == e + 1);
        }
    }
    CHECK(skvi_nearest_scale(0) == 0 && skvi_nearest_scale(1e-38f) == 0);
    CHECK(skvi_nearest_scale(-3) == 0 && skvi_nearest_scale(NAN) == 0);
    CHECK(skvi_nearest_scale(1e30f) == 270 && skvi_nearest_scale(INFINITY) == 270);
    CHECK(skvi_scale(255 + 15) < 1e11f && skvi_scale(0) > 2e-10f);      /* gain + nibble reach it */
}

/* --- kernels ---------------------------------------------------------------------------------- */

TEST(small_kernels)
{
    static const size_t shape[][3] = {{1, 1, 1}, {4, 64, 16}, {5, 17, 33}, {7, 3, 65},
                                      {16, 64, 80}};
    static float a[16 * 90], b[90 * 70], c[16 * 70];
    size_t i, j, l, x;
    for (x = 0; x < sizeof shape / sizeof shape[0]; x++) {
        size_t m = shape[x][0], n = shape[x][1], k = shape[x][2], lda = k + 3, ldb = n + 2;
        for (i = 0; i < 16 * 90; i++) a[i] = (float)test_normal();
        for (i = 0; i < 90 * 70; i++) b[i] = (float)test_normal();
        for (i = 0; i < 16 * 70; i++) c[i] = 0.5f;
        skvi_kernels_c.gemm(m, n, k, a, lda, b, ldb, c, 70);
        for (i = 0; i < 16; i++)
            for (j = 0; j < 70; j++) {
                double want = 0.5;
                for (l = 0; l < k && i < m && j < n; l++)
                    want += (double)a[i * lda + l] * (double)b[l * ldb + j];
                CHECK_NEAR(c[i * 70 + j], want, 1e-4);
            }
        for (l = 0; l <= k; l++) {
            double want = 0;
            for (i = 0; i < l; i++) want += (double)a[i] * (double)b[i];
            CHECK_NEAR(skvi_kernels_c.dot(a, b, l), want, 1e-4);
        }
    }
}

/* Factors of n channels against the formula, in all tables; zeros up to whole pairs, no more. */
TEST(steps_are_scales_times_units)
{
    unsigned char nibbles[SKVI_SLAB / 2 + 7];
    float unit[SKVI_SLAB / 4 + 1], out[2][SKVI_SLAB + 9];
    uint32_t n, gain, i, shift, round = 0;
    for (gain = 0; gain < 256; gain++)
        for (n = 4; n <= SKVI_SLAB; n += 4, round++) {
            shift = round % 4;
            for (i = 0; i < sizeof nibbles; i++) nibbles[i] = (unsigned char)test_u64();
            for (i = 0; i < n / 4; i++) unit[i] = (float)(0.02 + 0.3 * test_uniform());
            unit[n / 4] = 0;
            memset(out, 0x5A, sizeof out);
            skvi_steps_c(nibbles + shift, n, gain, unit, out[0]);
            for (i = 0; i < n; i++) {
                uint32_t e = gain + ((uint32_t)nibbles[shift + i / 2] >> (i % 2 ? 4 : 0) & 15u);
                double want = pow(2, e / 4.0 - 32) * (double)unit[i / 4];
                CHECK_NEAR(out[0][i], want, 2e-7 * want);
                CHECK(out[0][i] == skvi_scale(e) * unit[i / 4]);
            }
            for (; i % 8; i++) CHECK(out[0][i] == 0 && !signbit(out[0][i]));
            CHECK(skvi_bits(out[0][i]) == 0x5A5A5A5Au);
            for (i = 1; table_at(i); i++) {
                memset(out[1], 0x5A, sizeof out[1]);
                table_at(i)->steps(nibbles + shift, n, gain, unit, out[1]);
                CHECK(!memcmp(out[0], out[1], sizeof out[0]));
            }
        }
}

TEST(arena_counts_and_refuses_overflow)
{
    static unsigned char memory[1024];
    skvi_arena a = {NULL, 0, 0}, b = {NULL, 0, 0};
    unsigned char *p, *q;
    CHECK(skvi_take(&a, 3, 5) == NULL && a.used == 15);
    CHECK(skvi_take(&a, 1, 1) == NULL && a.used == SKVI_ALIGN + 1 && !a.overflow);
    b.base = skvi_align_up(memory);
    CHECK(b.base >= memory && b.base < memory + SKVI_ALIGN && (uintptr_t)b.base % SKVI_ALIGN == 0);
    p = (unsigned char *)skvi_take(&b, 3, 5);
    q = (unsigned char *)skvi_take(&b, 1, 1);
    CHECK(p == b.base && q == p + SKVI_ALIGN && b.used == a.used);
    CHECK(!skvi_take(&a, (size_t)-1 / 2, 3) && a.overflow);
    a.overflow = 0;
    CHECK(!skvi_take(&a, (size_t)-1, 1) && a.overflow);
    b.overflow = 0;
    b.used = (size_t)-8;
    CHECK(!skvi_take(&b, 1, 1) && b.overflow);
}

/* --- heap ------------------------------------------------------------------------------------- */
#define HEAP_BYTES 8192
#define HEAP_BLOCKS 200

typedef struct heap_block {
    unsigned char *p;
    size_t n;
    unsigned char mark;
} heap_block;

static int heap_intact(const heap_block *b)
{
    size_t i;
    for (i = 0; i < b->n; i++)
        if (b->p[i] != b->mark) return 0;
    return 1;
}

static void heap_new(skvi_heap *h, unsigned char *memory, heap_block *b, size_t n)
{
    b->n = n;
    b->p = (unsigned char *)skvi_heap_alloc(h, n);
    if (!b->p) return;
    b->mark = (unsigned char)test_u64();
    CHECK((uintptr_t)b->p % 16 == 0 && b->p >= memory && b->p + n <= memory + HEAP_BYTES);
    memset(b->p, b->mark, n);
}

/* Largest gap that a first fit must find: bytes between blocks, from the model. */
static size_t heap_gap(const heap_block *b, const unsigned char *memory)
{
    size_t at = 0, gap = 0, i, next, cost;
    do {
        for (next = HEAP_BYTES, cost = 0, i = 0; i < HEAP_BLOCKS; i++)
            if (b[i].p && (size_t)(b[i].p - memory) - SKVI_UNIT >= at &&
                (size_t)(b[i].p - memory) - SKVI_UNIT < next) {
                next = (size_t)(b[i].p - memory) - SKVI_UNIT;
                cost = skvi_heap_cost(b[i].n);
            }
        gap = next - at > gap ? next - at : gap;
        at = next + cost;
    } while (cost);
    return gap;
}

TEST(heap_against_a_model)
{
    static heap_block block[HEAP_BLOCKS];
    unsigned char *raw = (unsigned char *)malloc(HEAP_BYTES + SKVI_ALIGN), *memory;
    skvi_heap h;
    int step, full = 0;
    size_t i;
    memory = skvi_align_up(raw);
    memset(block, 0, sizeof block);
    skvi_heap_init(&h, memory, HEAP_BYTES);
    for (step = 0; step < 6000; step++) {
        heap_block *b = &block[test_u64() % HEAP_BLOCKS];
        if (b->p) {
            CHECK(heap_intact(b));                      /* nobody else wrote into it */
            skvi_heap_free(&h, b->p, b->n);
            b->p = NULL;
        } else if (step % 1500 < 1200) {
            size_t n = 1 + (size_t)(test_u64() % 300), gap = heap_gap(block, memory);
            heap_new(&h, memory, b, n);
            CHECK((b->p != NULL) == (gap >= skvi_heap_cost(n)));    /* free neighbours are joined */
            full += !b->p;
        }
    }
    CHECK(full > 10);
    for (i = 0; i < HEAP_BLOCKS; i++)
        if (block[i].p) {
            CHECK(heap_intact(&block[i]));
            skvi_heap_free(&h, block[i].p, block[i].n);
            block[i].p = NULL;
        }
    CHECK(!skvi_heap_alloc(&h, HEAP_BYTES - SKVI_UNIT + 1));
    CHECK(skvi_heap_alloc(&h, HEAP_BYTES - SKVI_UNIT) == memory + SKVI_UNIT);
    CHECK(!skvi_heap_alloc(&h, 1));
    free(raw);
}

TEST(heap_cost_is_exact)
{
    static unsigned char raw[4096 + SKVI_ALIGN];
    unsigned char *memory = skvi_align_up(raw);
    skvi_heap h;
    size_t n, i, cost, count;
    for (n = 1; n < 200; n += 3) {
        cost = skvi_heap_cost(n);
        CHECK(cost >= n + sizeof(size_t) && cost < n + 2 * SKVI_UNIT);
        count = 4096 / cost;
        skvi_heap_init(&h, memory, count * cost);
        for (i = 0; i < count; i++) CHECK(skvi_heap_alloc(&h, n) != NULL);
        CHECK(!skvi_heap_alloc(&h, 1));
    }
    skvi_heap_init(&h, memory, SKVI_UNIT - 1);
    CHECK(!skvi_heap_alloc(&h, 1));
    skvi_heap_init(&h, memory, 0);
    CHECK(!skvi_heap_alloc(&h, 1));
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(f16_is_ieee);
    RUN(bf16_is_rounded_float);
    RUN(integers_are_little_endian);
    RUN(scales_are_quarter_octaves);
    RUN(small_kernels);
    RUN(steps_are_scales_times_units);
    RUN(arena_counts_and_refuses_overflow);
    RUN(heap_against_a_model);
    RUN(heap_cost_is_exact);
    return TEST_END();
}
