/* test_classic.c: the published row codecs (>>classic) against their papers' formulas, written here
 * a second time in double. */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "test.h"

enum { MAX = SKV_MAX_HEAD_DIM, ROW = 4 + 3 * MAX };
static float rotation[MAX * MAX], sketch[MAX * MAX], basis[MAX * MAX];

static void normals(float *x, int n, double scale)
{
    int i;
    for (i = 0; i < n; i++) x[i] = (float)(scale * test_normal());
}

static double dot(const float *a, const float *b, int n)
{
    double s = 0;
    int i;
    for (i = 0; i < n; i++) s += (double)a[i] * b[i];
    return s;
}

static double distance(const float *a, const float *b, int n)
{
    double s = 0;
    int i;
    for (i = 0; i < n; i++) s += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return s;
}

static skv_turbo turbo(skv_turbo_form form, int dim, int bits)
{
    skv_turbo t = SKV_ZERO;
    t.form = form;
    t.dim = (uint32_t)dim;
    t.bits = (uint32_t)bits;
    t.rank = 3;
    t.rotation = rotation;
    t.sketch = sketch;
    t.basis = basis;
    return t;
}

/* --- matrices --------------------------------------------------------------------------------- */
TEST(rotation_is_orthogonal)
{
    static const int dims[] = {1, 2, 3, 16, 64, 80, 96, 127, 256, 576};
    size_t k;
    int i, j;
    for (k = 0; k < sizeof dims / sizeof *dims; k++) {
        int n = dims[k];
        double worst = 0;
        CHECK(skv_turbo_rotation(7 + k, (size_t)n, rotation) == SKV_OK);
        for (i = 0; i < n; i += n > 100 ? 5 : 1)
            for (j = 0; j <= i; j++) {
                double e = fabs(dot(rotation + i * n, rotation + j * n, n) - (i == j));
                worst = e > worst || isnan(e) ? e : worst;
            }
        CHECK(worst < 4e-6);
    }
}

/* Uniform (Haar): entries have mean 0, variance 1/n and, as on the sphere, fourth moment
 * 3 / (n (n + 2)); the determinant is 1 as often as -1, seen in 2 x 2 as a reflection. */
TEST(rotation_is_uniform)
{
    enum { N = 8, TRIES = 20000 };
    double m1[2] = {0, 0}, m2[2] = {0, 0}, m4[2] = {0, 0};
    int t, k, turns = 0;
    for (t = 0; t < TRIES; t++) {
        float r[N * N], d[4];
        CHECK(skv_turbo_rotation((uint64_t)t + 1000, N, r) == SKV_OK);
        for (k = 0; k < 2; k++) {                       /* the first entry and the last */
            double x = r[k * (N * N - 1)];
            m1[k] += x / TRIES;
            m2[k] += x * x / TRIES;
            m4[k] += x * x * x * x / TRIES;
        }
        CHECK(skv_turbo_rotation((uint64_t)t, 2, d) == SKV_OK);
        turns += d[0] * d[3] - d[1] * d[2] > 0;
    }
    for (k = 0; k < 2; k++) {
        CHECK_NEAR(m1[k], 0, 0.01);
        CHECK_NEAR(m2[k], 1.0 / N, 0.005);
        CHECK_NEAR(m4[k], 3.0 / (N * (N + 2)), 0.003);
    }
    CHECK_NEAR((double)turns / TRIES, 0.5, 0.015);
}

TEST(sketch_is_normal)
{
    int n = 576 * 576, i;
    double m[5] = {0, 0, 0, 0, 0};
    CHECK(skv_turbo_sketch(3, 576, sketch) == SKV_OK);
    for (i = 0; i < n; i++) {
        double x = sketch[i];
        m[0] += fabs(x) / n;
        m[1] += x / n;
        m[2] += x * x / n;
        m[4] += x * x * x * x / n;
    }
    CHECK_NEAR(m[0], sqrt(2 / 3.14159265358979), 0.005);
    CHECK_NEAR(m[1], 0, 0.008);
    CHECK_NEAR(m[2], 1, 0.01);
    CHECK_NEAR(m[4], 3, 0.1);
}

/* The same matrices on every machine: as an independent program computed them */
TEST(matrices_are_the_same_everywhere)
{
    CHECK(skv_turbo_sketch(42, 2, sketch) == SKV_OK);
    CHECK_NEAR(sketch[0], -1.12412071, 1e-6);
    CHECK_NEAR(sketch[3], -1.00787663, 1e-6);
    CHECK(skv_turbo_rotation(42, 64, rotation) == SKV_OK);
    CHECK_NEAR(rotation[0], -0.0179737546, 1e-6);
    CHECK_NEAR(rotation[64 * 64 - 1], 0.012427792, 1e-6);
}

/* --- TurboQuant ------------------------------------------------------------------------------- */

/* The levels of 1 to 3 bits as the literature gives them (Max 1960), and for every width Lloyd's
 * two conditions: borders half way, each level the mean of its cell. */
TEST(levels_are_lloyd_max)
{
    static const double published[] = {0.7979, 0.4528, 1.510, 0.2451, 0.7560, 1.344, 2.152};
    uint32_t bits, i;
    int at = 0;
    for (bits = 1; bits <= 3; bits++)
        for (i = 0; i < 1u << (bits - 1); i++)
            CHECK_NEAR(skvi_lloyd_level(bits, (1u << (bits - 1)) + i), published[at++], 6e-4);
    for (bits = 1; bits <= 8; bits++) {
        uint32_t last = (1u << bits) - 1;
        for (i = 0; i <= last; i++) {
            double x = skvi_lloyd_level(bits, i), lo = -40, hi = 40, mass, mean;
            if (i) lo = (x + skvi_lloyd_level(bits, i - 1)) / 2;
            if (i < last) hi = (x + skvi_lloyd_level(bits, i + 1)) / 2;
            mass = 0.5 * (erfc(lo / sqrt(2.0)) - erfc(hi / sqrt(2.0)));
            mean = (exp(-lo * lo / 2) - exp(-hi * hi / 2)) / sqrt(2 * 3.14159265358979) / mass;
            CHECK_NEAR(x, mean, 2e-4);
            CHECK(x == -skvi_lloyd_level(bits, last - i));
            CHECK(skvi_lloyd_code(bits, (float)(hi - 1e-3)) == i || hi - lo < 2e-3);
            CHECK(skvi_lloyd_code(bits, (float)(lo + 1e-3)) == i || hi - lo < 2e-3);
        }
        CHECK(skvi_lloyd_code(bits, 1e30f) == last && skvi_lloyd_code(bits, -1e30f) == 0);
    }
}

/* Expected error per unit norm in dimension n: the distance of sqrt(n) times a coordinate of a
 * uniform unit vector, density ~ (1 - t^2/n)^((n-3)/2), from its nearest level. */
static double sphere_error(int n, int bits)
{
    double t, step = 1e-3, mass = 0, error = 0, top = sqrt(n) < 9 ? sqrt(n) : 9;
    for (t = step / 2; t < top; t += step) {
        double p = pow(1 - t * t / n, (n - 3) / 2.0), e, best = HUGE_VAL;
        uint32_t c;
        for (c = 0; c < 1u << bits; c++) {
            e = t - skvi_lloyd_level((uint32_t)bits, c);
            best = e * e < best ? e * e : best;
        }
        mass += p;
        error += p * best;
    }
    return error / mass;
}

/* The paper's 0.36, 0.117, 0.03, 0.009 with more digits, which hold for many dimensions (in few the
 * sphere has lighter tails); and what rows really lose, odd dims too. */
TEST(mse_is_as_published)
{
    static const double wanted[] = {0.36338, 0.11748, 0.03455, 0.009501, 0.002505, 0.000644,
                                    0.0001635, 0.0000412};
    static const int dims[] = {64, 80, 96, 576};
    static float x[MAX], y[MAX];
    unsigned char row[ROW];
    int d, bits, t;
    for (d = 0; d < 4; d++) {
        int n = dims[d], tries = 25000 / n;
        CHECK(skv_turbo_rotation(5, (size_t)n, rotation) == SKV_OK);
        for (bits = 1; bits <= (n == 576 ? 4 : 8); bits++) {
            skv_turbo c = turbo(SKV_TURBO_MSE, n, bits);
            double e = 0;
            CHECK(skv_turbo_bytes(&c) == (size_t)(2 + (n * bits + 7) / 8));
            for (t = 0; t < tries; t++) {
                normals(x, n, t % 2 ? 1 : 30);
                x[t % n] *= 5;                          /* an outlier channel: rotated away */
                CHECK(skv_turbo_encode(&c, x, row) == SKV_OK);
                CHECK(skv_turbo_decode(&c, row, y) == SKV_OK);
                e += distance(x, y, n) / dot(x, x, n) / tries;
            }
            CHECK_NEAR(e / sphere_error(n, bits), 1, 0.05);
            CHECK_NEAR(sphere_error(n, bits) / wanted[bits - 1], 1, n == 576 ? 0.02 : 0.07);
        }
    }
}

/* x^ by the formula, from the row's own bytes; bits read one by one. */
static uint32_t read_bits(const unsigned char *p, int at, int n)
{
    uint32_t x = 0;
    int i;
    for (i = 0; i < n; i++) x |= (uint32_t)(p[(at + i) / 8] >> (at + i) % 8 & 1) << i;
    return x;
}
static double half(const unsigned char *p) { return skvi_from_f16((uint16_t)(p[0] | p[1] << 8)); }

static void slow_decode(const skv_turbo *t, const unsigned char *row, double *x)
{
    int n = (int)t->dim, i, k, product = t->form == SKV_TURBO_PRODUCT;
    int bits = (int)t->bits - product;
    int head = product ? 4 : t->form == SKV_TURBO_RESIDUAL ? 2 + 2 * (int)t->rank : 2;
    for (k = 0; k < n; k++) x[k] = 0;
    for (i = 0; i < n && bits; i++) {
        uint32_t code = read_bits(row + head, i * bits, bits);
        double y = fabs(half(row)) / sqrt(n) * skvi_lloyd_level((uint32_t)bits, code);
        for (k = 0; k < n; k++) x[k] += y * t->rotation[i * n + k];
    }
    for (i = 0; i < n && product; i++) {
        double w = sqrt(3.14159265358979 / 2) / n * half(row + 2);
        if (!read_bits(row + head, n * bits + i, 1)) w = -w;
        for (k = 0; k < n; k++) x[k] += w * t->sketch[i * n + k];
    }
    for (i = 0; i < (int)t->rank && t->form == SKV_TURBO_RESIDUAL; i++)
        for (k = 0; k < n; k++) x[k] += half(row + 2 + 2 * i) * t->basis[i * n + k];
}

/* Rows are what the layout says, decode is the formula, dot is decode's dot product, and what
 * decode gives back encodes to itself where the norm allows (MSE of a codebook vector). */
TEST(rows_decode_as_published)
{
    static const int dims[] = {16, 33, 64, 80, 96, 576};
    static float x[MAX], y[MAX], q[MAX], turned[2 * MAX];
    static double slow[MAX];
    unsigned char row[ROW], guard[ROW];
    int d, bits, form, i;
    for (d = 0; d < 6; d++) {
        int n = dims[d];
        CHECK(skv_turbo_rotation(1, (size_t)n, rotation) == SKV_OK);
        CHECK(skv_turbo_sketch(2, (size_t)n, sketch) == SKV_OK);
        CHECK(skv_turbo_rotation(3, (size_t)n, basis) == SKV_OK);
        for (form = 0; form < 3; form++)
            for (bits = 1; bits <= 8; bits += n == 576 ? 3 : 1) {
                skv_turbo t = turbo((skv_turbo_form)form, n, bits);
                size_t bytes = skv_turbo_bytes(&t);
                double scale, worst = 0, d1;
                float d2 = 0;
                normals(x, n, 3);
                normals(q, n, 1);
                memset(row, 0xA5, sizeof row);
                memset(guard, 0xA5, sizeof guard);
                CHECK(bytes <= (size_t)(8 + (n * bits + 7) / 8));
                CHECK(skv_turbo_encode(&t, x, row) == SKV_OK);
                CHECK(!memcmp(row + bytes, guard, sizeof row - bytes));     /* not a byte more */
                CHECK(skv_turbo_decode(&t, row, y) == SKV_OK);
                slow_decode(&t, row, slow);
                scale = sqrt(dot(x, x, n));
                for (i = 0; i < n; i++) worst = fmax(worst, fabs(slow[i] - y[i]));
                CHECK(worst < 3e-6 * scale);
                CHECK(skv_turbo_query(&t, q, turned) == SKV_OK);
                CHECK(skv_turbo_dot(&t, row, turned, &d2) == SKV_OK);
                d1 = dot(q, y, n);
                CHECK_NEAR(d2, d1, 1e-5 * scale * sqrt(dot(q, q, n)));
            }
    }
}

/* Every code's level is its own nearest: a row of levels comes back as the same codes. */
TEST(codes_are_fixed_points)
{
    uint32_t bits, code;
    for (bits = 1; bits <= 8; bits++)
        for (code = 0; code < 1u << bits; code++)
            CHECK(skvi_lloyd_code(bits, skvi_lloyd_level(bits, code)) == code);
}

/* The mean over sketches of the estimate is q.x, of the MSE form it is not (1 bit: 2/pi of it);
 * and the variance is the paper's pi/2 |r|^2 |q|^2 / dim at most. */
TEST(product_form_is_unbiased)
{
    enum { N = 40, TRIES = 1500 };
    static float x[N], q[N], turned[2 * N];
    unsigned char row[ROW];
    int bits, t, i;
    for (bits = 1; bits <= 4; bits++) {
        double mean = 0, square = 0, want, sigma, rest;
        float d = 0;
        skv_turbo p = turbo(SKV_TURBO_PRODUCT, N, bits);
        normals(x, N, 1);
        for (i = 0; i < N; i++) q[i] = (float)(x[i] + 0.5 * test_normal());  /* q.x far from 0 */
        CHECK(skv_turbo_rotation(9, N, rotation) == SKV_OK);
        want = dot(x, q, N);
        for (t = 0; t < TRIES; t++) {
            CHECK(skv_turbo_sketch((uint64_t)(t * 31 + bits), N, sketch) == SKV_OK);
            CHECK(skv_turbo_encode(&p, x, row) == SKV_OK);
            CHECK(skv_turbo_query(&p, q, turned) == SKV_OK);
            CHECK(skv_turbo_dot(&p, row, turned, &d) == SKV_OK);
            mean += d / TRIES;
            square += (d - want) * (d - want) / TRIES;
        }
        rest = half(row + 2);
        sigma = sqrt(3.14159265358979 / 2 / N * dot(q, q, N)) * rest;
        CHECK_NEAR(mean, want, 5 * sigma / sqrt(TRIES) + 1e-3 * rest);
        CHECK(sqrt(square) < 1.05 * sigma);
        CHECK(rest > 0.02 * sqrt(dot(x, x, N)));
    }
}

/* The better of two: never worse than MSE; much better where a few directions hold nearly all. */
TEST(residual_takes_the_smaller_error)
{
    enum { N = 64 };
    static float x[N], y[N], z[N];
    unsigned char row[ROW], other[ROW];
    skv_turbo r = turbo(SKV_TURBO_RESIDUAL, N, 3), m = turbo(SKV_TURBO_MSE, N, 3);
    int t, i, k, spectral = 0;
    double er = 0, em = 0;
    CHECK(skv_turbo_rotation(1, N, rotation) == SKV_OK);
    CHECK(skv_turbo_rotation(2, N, basis) == SKV_OK);
    for (t = 0; t < 200; t++) {
        double c[3] = {0, 0, 0};
        normals(x, N, 1);
        for (k = 0; k < 3; k++) {
            c[k] = (t % 2 ? 20 : -dot(x, basis + k * N, N)) * (t % 2 ? test_normal() : 1);
            for (i = 0; i < N; i++) x[i] += (float)c[k] * basis[k * N + i];
        }
        CHECK(skv_turbo_encode(&r, x, row) == SKV_OK);
        CHECK(skv_turbo_encode(&m, x, other) == SKV_OK);
        CHECK(skv_turbo_decode(&r, row, y) == SKV_OK);
        CHECK(skv_turbo_decode(&m, other, z) == SKV_OK);
        CHECK(distance(x, y, N) <= distance(x, z, N) * (1 + 1e-5));
        if (row[1] & 0x80) spectral++;
        else CHECK(!memcmp(y, z, sizeof y));
        if (t % 2) {
            er += distance(x, y, N);
            em += distance(x, z, N);
        }
    }
    CHECK(spectral >= 95 && spectral < 200);
    CHECK(er < em / 4);
}

/* --- JarvisKV --------------------------------------------------------------------------------- */

/* As the package computes it: rotate, clip to 3 sigma, floor by a step of 6 / 2^bits, correct. */
static void slow_jarvis(const skv_jarvis *j, const float *x, double *out)
{
    int n = (int)j->rank, d = (int)j->dim, i, k;
    double *y = malloc((size_t)n * sizeof *y), mu = 0, s = 0, step = 6 / pow(2, j->bits), fs, fm;
    if (!y) exit(2);
    for (i = 0; i < n; i++) {
        y[i] = 0;
        for (k = 0; k < n; k++) y[i] += j->rotation[i * n + k] * dot(j->basis + k * d, x, d);
        mu += y[i] / n;
    }
    for (i = 0; i < n; i++) s += (y[i] - mu) * (y[i] - mu) / (n - 1);
    s = 3 * sqrt(s);
    fs = skvi_from_f16(skvi_to_f16((float)s));
    fm = skvi_from_f16(skvi_to_f16((float)mu));
    for (k = 0; k < d; k++) out[k] = 0;
    for (i = 0; i < n; i++) {
        double u = fmin(fmax((y[i] - mu) / s, -1), 1), c = floor((u + 1) / step), a;
        c = fmin(fmax(c, 0), pow(2, j->bits) - 1);
        a = ((c + 0.5) * step - 1) * fs + fm;
        y[i] = a + (y[i] > a ? step : 0) - step / 2;
    }
    for (i = 0; i < n; i++)
        for (k = 0; k < n; k++) {
            int l;
            for (l = 0; l < d; l++) out[l] += y[i] * j->rotation[i * n + k] * j->basis[k * d + l];
        }
    free(y);
}

TEST(jarvis_is_as_published)
{
    static const int shapes[][2] = {{64, 4}, {80, 32}, {96, 17}, {256, 12}, {64, 64}};
    static float x[MAX], y[MAX], q[MAX], turned[MAX];
    static double slow[MAX];
    unsigned char row[ROW];
    int k, bits, t, i, off = 0, rows = 0;
    for (k = 0; k < 5; k++)
        for (bits = 1; bits <= 8; bits++) {
            int d = shapes[k][0], r = shapes[k][1];
            skv_jarvis j = SKV_ZERO;
            j.dim = (uint32_t)d;
            j.rank = (uint32_t)r;
            j.bits = (uint32_t)bits;
            j.basis = basis;
            j.rotation = rotation;
            CHECK(skv_turbo_rotation(4, (size_t)d, basis) == SKV_OK);
            CHECK(skv_turbo_rotation(5, (size_t)r, rotation) == SKV_OK);
            CHECK(skv_jarvis_bytes(&j) == (size_t)(4 + (r * (bits + 1) + 7) / 8));
            for (t = 0; t < 10; t++, rows++) {
                double worst = 0, size;
                float d2 = 0;
                normals(x, d, 2);
                normals(q, d, 1);
                CHECK(skv_jarvis_encode(&j, x, row) == SKV_OK);
                CHECK(skv_jarvis_decode(&j, row, y) == SKV_OK);
                slow_jarvis(&j, x, slow);
                for (i = 0; i < d; i++) worst = fmax(worst, fabs(slow[i] - y[i]));
                off += !(worst < 1e-4);         /* a border case may fall to the other side */
                size = sqrt(dot(q, q, d) * (dot(y, y, d) + 1));
                CHECK(skv_jarvis_query(&j, q, turned) == SKV_OK);
                CHECK(skv_jarvis_dot(&j, row, turned, &d2) == SKV_OK);
                CHECK_NEAR(d2, dot(q, y, d), 1e-5 * size);
            }
        }
    CHECK(off <= rows / 100);
}

/* basis NULL: the latent itself; a constant row has no spread and comes back but for half a step */
TEST(jarvis_latent_rows)
{
    enum { R = 12 };
    float x[R], y[R];
    unsigned char row[ROW];
    skv_jarvis j = SKV_ZERO;
    int i;
    double e = 0;
    j.dim = j.rank = R;
    j.bits = 8;
    j.rotation = rotation;
    CHECK(skv_turbo_rotation(5, R, rotation) == SKV_OK);
    normals(x, R, 1);
    CHECK(skv_jarvis_encode(&j, x, row) == SKV_OK);
    CHECK(skv_jarvis_decode(&j, row, y) == SKV_OK);
    e = sqrt(distance(x, y, R) / R);
    CHECK(e < 0.06 && e > 1e-4);
    for (i = 0; i < R; i++) x[i] = 0;
    CHECK(skv_jarvis_encode(&j, x, row) == SKV_OK);
    CHECK(skv_jarvis_decode(&j, row, y) == SKV_OK);
    CHECK(sqrt(distance(x, y, R) / R) < 6.0 / 256);
}

/* --- SVDq ------------------------------------------------------------------------------------- */
TEST(svdq_schedules)
{
    static const struct { const char *word; double mean; } named[] = {
        {"2.25", 2.25}, {"2", 2}, {"1.25", 1.25}, {"84420000", 2.25}, {"88888888", 8}
    };
    uint8_t s[8], bits[MAX];
    size_t k, n, i;
    for (k = 0; k < 5; k++) {
        CHECK(skv_svdq_schedule(named[k].word, s) == SKV_OK);
        for (n = 8; n <= 576; n += 8) {
            double sum = 0;
            CHECK(skv_svdq_bits(s, n, bits) == SKV_OK);
            for (i = 0; i < n; i++) {
                sum += bits[i];
                CHECK(bits[i] == s[i / (n / 8)]);
            }
            CHECK_NEAR(sum / (double)n, named[k].mean, 1e-12);
        }
        CHECK(skv_svdq_bits(s, 83, bits) == SKV_OK);
        for (i = 1; i < 83; i++) CHECK(bits[i] <= bits[i - 1]);
        CHECK(bits[82] == s[7]);
    }
    CHECK(skv_svdq_schedule("3", s) == SKV_ERR_ARG);
    CHECK(skv_svdq_schedule("8442000", s) == SKV_ERR_ARG);
    CHECK(skv_svdq_schedule("844200000", s) == SKV_ERR_ARG);
    CHECK(skv_svdq_schedule("94420000", s) == SKV_ERR_ARG);
    CHECK(skv_svdq_schedule("", s) == SKV_ERR_ARG);
    CHECK(skv_svdq_schedule(NULL, s) == SKV_ERR_ARG);
    CHECK(skv_svdq_bits(s, 8, NULL) == SKV_ERR_ARG);
}

/* --- what is refused -------------------------------------------------------------------------- */
TEST(bad_turbo_arguments)
{
    static float x[64], y[64], turned[128];
    unsigned char row[ROW], before[ROW];
    skv_turbo good = turbo(SKV_TURBO_MSE, 64, 4), t;
    float d;
    CHECK(skv_turbo_rotation(1, 64, rotation) == SKV_OK);
    CHECK(skv_turbo_rotation(1, 0, rotation) == SKV_ERR_ARG);
    CHECK(skv_turbo_rotation(1, MAX + 1, rotation) == SKV_ERR_ARG);
    CHECK(skv_turbo_rotation(1, 64, NULL) == SKV_ERR_ARG);
    CHECK(skv_turbo_sketch(1, 0, sketch) == SKV_ERR_ARG);
    CHECK(skv_turbo_sketch(1, 64, NULL) == SKV_ERR_ARG);
    CHECK(skv_turbo_bytes(NULL) == 0);
#define REFUSED(change) \
    do { t = good; t.change; CHECK(skv_turbo_bytes(&t) == 0); \
         CHECK(skv_turbo_encode(&t, x, row) == SKV_ERR_ARG); } while (0)
    REFUSED(dim = 0);
    REFUSED(dim = MAX + 1);
    REFUSED(bits = 0);
    REFUSED(bits = 9);
    REFUSED(rotation = NULL);
    REFUSED(form = (skv_turbo_form)3);
    good.form = SKV_TURBO_PRODUCT;
    REFUSED(sketch = NULL);
    good.form = SKV_TURBO_RESIDUAL;
    REFUSED(basis = NULL);
    REFUSED(rank = 0);
    REFUSED(rank = 65);
#undef REFUSED
    good.form = SKV_TURBO_MSE;
    memset(row, 7, sizeof row);
    memcpy(before, row, sizeof row);
    x[3] = (float)NAN;
    CHECK(skv_turbo_encode(&good, x, row) == SKV_ERR_NOT_FINITE);
    CHECK(skv_turbo_query(&good, x, turned) == SKV_ERR_NOT_FINITE);
    x[3] = 70000;                                       /* the norm is beyond f16 */
    CHECK(skv_turbo_encode(&good, x, row) == SKV_ERR_RANGE);
    CHECK(!memcmp(row, before, sizeof row));
    CHECK(skv_turbo_encode(&good, NULL, row) == SKV_ERR_ARG);
    CHECK(skv_turbo_encode(&good, x, NULL) == SKV_ERR_ARG);
    memset(row, 0xFF, sizeof row);                      /* a norm that is not a number */
    CHECK(skv_turbo_decode(&good, row, y) == SKV_ERR_FORMAT);
    CHECK(skv_turbo_dot(&good, row, turned, &d) == SKV_ERR_FORMAT);
    memset(x, 0, sizeof x);                             /* zero is a row like others */
    CHECK(skv_turbo_encode(&good, x, row) == SKV_OK);
    CHECK(skv_turbo_decode(&good, row, y) == SKV_OK);
    CHECK(!memcmp(x, y, sizeof x));
}

TEST(bad_jarvis_arguments)
{
    float x[16] = {0}, y[16];
    unsigned char row[ROW];
    skv_jarvis good = SKV_ZERO, j;
    good.dim = 16;
    good.rank = 4;
    good.bits = 4;
    good.basis = basis;
    good.rotation = rotation;
    CHECK(skv_jarvis_bytes(&good) == 4 + 3);
    CHECK(skv_jarvis_bytes(NULL) == 0);
#define REFUSED(change) \
    do { j = good; j.change; CHECK(skv_jarvis_bytes(&j) == 0); \
         CHECK(skv_jarvis_encode(&j, x, row) == SKV_ERR_ARG); } while (0)
    REFUSED(rank = 1);
    REFUSED(rank = 17);
    REFUSED(dim = MAX + 1);
    REFUSED(bits = 0);
    REFUSED(bits = 9);
    REFUSED(rotation = NULL);
#undef REFUSED
    CHECK(skv_jarvis_encode(&good, x, NULL) == SKV_ERR_ARG);
    x[0] = HUGE_VALF;
    CHECK(skv_jarvis_encode(&good, x, row) == SKV_ERR_NOT_FINITE);
    memset(row, 0xFF, sizeof row);
    CHECK(skv_jarvis_decode(&good, row, y) == SKV_ERR_FORMAT);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(rotation_is_orthogonal);
    RUN(rotation_is_uniform);
    RUN(sketch_is_normal);
    RUN(matrices_are_the_same_everywhere);
    RUN(levels_are_lloyd_max);
    RUN(mse_is_as_published);
    RUN(rows_decode_as_published);
    RUN(codes_are_fixed_points);
    RUN(product_form_is_unbiased);
    RUN(residual_takes_the_smaller_error);
    RUN(jarvis_is_as_published);
    RUN(jarvis_latent_rows);
    RUN(svdq_schedules);
    RUN(bad_turbo_arguments);
    RUN(bad_jarvis_arguments);
    return TEST_END();
}
