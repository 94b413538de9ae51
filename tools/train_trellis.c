/* train_trellis.c: makes the tables of the trellis in spectral_kv.h (>>quant) again.
 *
 *     cc -O3 -march=native -ffp-contract=off tools/train_trellis.c -lm -o build/train_trellis
 *     build/train_trellis             # every h: some minutes
 *     build/train_trellis 4           # h = 4
 *     build/train_trellis 4 400       # from 400 random starts
 *
 * A window w of 8 bits stands for unit * (A[w & 15] + B[(w >> 4) ^ (w & 15)]). Training:
 *   1. Lloyd's iteration from many random starts: encode unit normals in pages of 64 by a Viterbi
 *      search over the circle of tokens, then fit A and B to what the windows stood for by least
 *      squares. The best few go on with more samples.
 *   2. Each of them is rounded to integers on grids of some widths.
 *   3. The best is annealed: single entries move or swap, and what is worse passes less and less.
 * Steps 2 and 3 choose on one sample, the error printed is that on another, which chose nothing.
 * One thread, random numbers from integers: the same compiler and libm give the same tables.
 * The rows of the header are the best of several runs, some annealed again from the row before.
 *
 * h = 12, 14 and 16 are constructed: the newest h / 2 bits of the window pick one of 2^(h / 2)
 * evenly spaced levels, the other 8 - h / 2 shift them all by a fraction of their distance.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 64, STATES = 256, LANES = 8, PARTS = 16, KEEP = 6, MOVES = 48, LAST = 16 };
enum { TRAIN = 8192, CHOOSE = 2048, TEST = 8192 };    /* pages of the samples, multiples of LANES */

typedef struct code {
    double unit, part[2][2][PARTS];     /* of even and odd tokens: A, B; unit 1 off the grid */
} code;

typedef struct stats {                  /* per window: sum of the values and their number */
    double sum[2][STATES], n[2][STATES];
} stats;

static float train_set[TRAIN][TOKENS], choose_set[CHOOSE][TOKENS], test_set[TEST][TOKENS];
static uint64_t seed;

static double uniform(void)             /* (0, 1); xorshift64 */
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return ((double)(seed >> 11) + 0.5) / 9007199254740992.0;
}

static double normal(void)
{
    double radius = sqrt(-2 * log(uniform()));
    return radius * cos(6.283185307179586 * uniform());
}

static int below(int n) { return (int)(uniform() * n); }

static void draw(float x[][TOKENS], int pages, uint64_t from)
{
    int p, t;
    seed = from;
    for (p = 0; p < pages; p++)
        for (t = 0; t < TOKENS; t++) x[p][t] = (float)normal();
}

/* Bits that token t brings at h half bits. */
static int bits_of(int h, int t) { return (h + (t & 1)) / 2; }

/* Bits of a level on the grid. */
static int grid_bits(int h) { return h < 8 ? (h + 7) / 2 : h <= 10 ? 7 : 8; }

/* Which entry of part k window w looks up. */
static int entry(int k, int w) { return k ? (w >> 4) ^ (w & 15) : w & 15; }

/* Search of LANES pages at once: costs before each token and after the last. */
typedef struct search {
    float cost[TOKENS + 1][STATES][LANES];
    float x[TOKENS][LANES], table[2][STATES];
    int   state[TOKENS][LANES];
} search;

/* One token: of the 2^b states that lead to remainder j the cheapest goes on. */
static void step(float (*restrict c)[LANES], float (*restrict d)[LANES], const float *restrict x,
                 const float *restrict table, int b)
{
    int j, k, l, n = STATES >> b;
    for (j = 0; j < n; j++) {
        float best[LANES];
        for (l = 0; l < LANES; l++) best[l] = c[j << b][l];
        for (k = 1; k < 1 << b; k++)
            for (l = 0; l < LANES; l++) {
                float y = c[(j << b) + k][l];
                best[l] = y < best[l] ? y : best[l];
            }
        for (k = 0; k < 1 << b; k++)
            for (l = 0; l < LANES; l++) {
                float e = x[l] - table[k * n + j];
                d[k * n + j][l] = best[l] + e * e;
            }
    }
}

/* Best paths over the circle from token first on, from and to the states ends, NULL: free. */
static void find_paths(search *v, int h, int first, const int *ends)
{
    int i, k, l, s, t, b;
    for (s = 0; s < STATES; s++)
        for (l = 0; l < LANES; l++) v->cost[0][s][l] = !ends || s == ends[l] ? 0.0f : 1e9f;
    for (i = 0; i < TOKENS; i++) {
        t = (first + i) % TOKENS;
        step(v->cost[i], v->cost[i + 1], v->x[t], v->table[t & 1], bits_of(h, t));
    }
    for (l = 0; l < LANES; l++) {
        s = ends ? ends[l] : 0;
        for (k = 1; !ends && k < STATES; k++)
            s = v->cost[TOKENS][k][l] < v->cost[TOKENS][s][l] ? k : s;
        for (i = TOKENS; i-- > 0;) {
            int from, best;
            t = (first + i) % TOKENS;
            b = bits_of(h, t);
            v->state[t][l] = s;
            best = from = (s & ((STATES >> b) - 1)) << b;
            for (k = 1; k < 1 << b; k++)
                if (v->cost[i][from + k][l] < v->cost[i][best][l]) best = from + k;
            s = best;
        }
    }
}

/* The mean squared error of a code on pages, and what its windows stood for, unless NULL. */
static double measure(const code *a, int h, float pages[][TOKENS], int n, stats *seen)
{
    static search v;
    double error = 0;
    int p, t, l, ends[LANES];
    if (seen) memset(seen, 0, sizeof *seen);
    for (p = 0; p < 2; p++)
        for (t = 0; t < STATES; t++)
            v.table[p][t] = (float)(a->unit * (a->part[p][0][entry(0, t)] +
                                               a->part[p][1][entry(1, t)]));
    for (p = 0; p < n; p += LANES) {
        for (t = 0; t < TOKENS; t++)
            for (l = 0; l < LANES; l++) v.x[t][l] = pages[p + l][t];
        find_paths(&v, h, TOKENS / 2, NULL);
        memcpy(ends, v.state[TOKENS - 1], sizeof ends);
        find_paths(&v, h, 0, ends);
        for (t = 0; t < TOKENS; t++)
            for (l = 0; l < LANES; l++) {
                int w = v.state[t][l], odd = t & h & 1;
                double e = (double)v.x[t][l] - (double)v.table[t & 1][w];
                error += e * e;
                if (!seen) continue;
                seen->sum[odd][w] += (double)v.x[t][l];
                seen->n[odd][w] += 1;
            }
    }
    return error / ((double)n * TOKENS);
}

/* An even h has one pair of parts: the second is a copy. */
static void copy_even(code *a, int h)
{
    if (h % 2 == 0) memcpy(a->part[1], a->part[0], sizeof a->part[0]);
}

/* Least squares for A with B fixed, then for B with A fixed, and so on. */
static void fit(code *a, int h, const stats *seen)
{
    int p, k, i, w, round;
    for (p = 0; p <= (h & 1); p++)
        for (round = 0; round < 2 * 20; round++) {
            double sum[PARTS] = {0}, n[PARTS] = {0};
            k = round & 1;
            for (w = 0; w < STATES; w++) {
                sum[entry(k, w)] += seen->sum[p][w] -
                                    seen->n[p][w] * a->part[p][!k][entry(!k, w)];
                n[entry(k, w)] += seen->n[p][w];
            }
            for (i = 0; i < PARTS; i++)
                if (n[i] > 0) a->part[p][k][i] = sum[i] / n[i];
        }
    copy_even(a, h);
}

/* The best unit for what was seen. */
static void fit_unit(code *a, int h, const stats *seen)
{
    double xy = 0, yy = 0;
    int p, w;
    for (p = 0; p <= (h & 1); p++)
        for (w = 0; w < STATES; w++) {
            double y = a->part[p][0][entry(0, w)] + a->part[p][1][entry(1, w)];
            xy += seen->sum[p][w] * y;
            yy += seen->n[p][w] * y * y;
        }
    if (xy > 0) a->unit = xy / yy;
}

/* Gaussian quantile, q in (0, 1). */
static double quantile(double q)
{
    double low = -6, high = 6;
    int i;
    for (i = 0; i < 50; i++) {
        double middle = (low + high) / 2;
        if (erfc(-middle / sqrt(2.0)) / 2 < q) low = middle;
        else high = middle;
    }
    return low;
}

/* Random parts: permuted quantiles of 16, A between small and as large as B, or plain normals. */
static void start(code *a, int h)
{
    double share = pow(2, -6 * uniform()), width[2];
    int p, k, i, j;
    width[0] = share;
    width[1] = sqrt(1 - share * share / 1.1);
    a->unit = 1;
    for (p = 0; p < 2; p++)
        for (k = 0; k < 2; k++) {
            double *x = a->part[p][k];
            for (i = 0; i < PARTS; i++) {       /* inserts i at a random place before */
                j = below(i + 1);
                if (j < i) x[i] = x[j];
                x[j] = share > 0.35 ? normal() * 0.7 : quantile((i + 0.5) / PARTS) * width[k];
            }
        }
    copy_even(a, h);
}

/* Rounds of Lloyd's iteration on n pages; returns the error before the last of them. */
static double iterate(code *a, int h, int rounds, int n)
{
    static stats seen;
    double error = 0;
    while (rounds-- > 0) {
        error = measure(a, h, train_set + below((TRAIN - n) / LANES + 1) * LANES, n, &seen);
        fit(a, h, &seen);
    }
    return error;
}

static void range_of(const double *x, double *low, double *high)
{
    int i;
    *low = *high = x[0];
    for (i = 1; i < PARTS; i++) {
        *low = fmin(*low, x[i]);
        *high = fmax(*high, x[i]);
    }
}

/* Whether the levels of a code on the grid have `bits` bits, and the entries 8. */
static int fits(const code *a, int bits)
{
    double half = ldexp(1, bits - 1), low[2], high[2];
    int p, k;
    for (p = 0; p < 2; p++) {
        for (k = 0; k < 2; k++) {
            range_of(a->part[p][k], &low[k], &high[k]);
            if (low[k] < -128 || high[k] > 127) return 0;
        }
        if (low[0] + low[1] < -half || high[0] + high[1] > half - 1) return 0;
    }
    return 1;
}

/* Onto the grid of unit: A, its mean moved to B, rounded and cut to the levels, then B cut to what
 * A leaves: the lowest level less the least of A to the highest less the greatest. */
static void to_grid(code *a, double unit, int bits)
{
    double half = ldexp(1, bits - 1), low, high, mean;
    int p, i;
    for (p = 0; p < 2; p++) {
        double *x = a->part[p][0], *y = a->part[p][1];
        for (mean = i = 0; i < PARTS; i++) mean += x[i] / PARTS;
        for (i = 0; i < PARTS; i++)
            x[i] = fmax(-half, fmin(half - 1, rint((x[i] - mean) * a->unit / unit)));
        range_of(x, &low, &high);
        for (i = 0; i < PARTS; i++)
            y[i] = fmax(-half - low, fmin(half - 1 - high, rint((y[i] + mean) * a->unit / unit)));
    }
    a->unit = unit;
}

/* The best of some grids, the finest of which just holds all levels. */
static double best_grid(code *a, int h)
{
    static stats seen;
    code free = *a, try;
    double low, high, most = 0, least = 1e9, error;
    int p, k, bits = grid_bits(h);
    for (p = 0; p < 2; p++) {
        double ends[2] = {0, 0};
        for (k = 0; k < 2; k++) {
            range_of(a->part[p][k], &low, &high);
            ends[0] -= low;
            ends[1] += high;
        }
        most = fmax(most, fmax(ends[0], ends[1]));
    }
    for (k = 0; k < 6; k++) {
        try = free;
        to_grid(&try, most * (1 - 0.06 * k) / (ldexp(1, bits - 1) - 0.5), bits);
        measure(&try, h, train_set, TRAIN / 8, &seen);
        fit_unit(&try, h, &seen);
        error = measure(&try, h, choose_set, CHOOSE / 2, NULL);
        if (error < least) {
            least = error;
            *a = try;
        }
    }
    return least;
}

/* A random change: two entries of a part swap, or one moves by about `far` grid steps. */
static void change(code *a, int h, double far)
{
    double *x = a->part[below(1 + (h & 1))][below(2)], y;
    int i = below(PARTS), j = below(PARTS);
    if (j != i && uniform() < 0.25) {
        y = x[i];
        x[i] = x[j];
        x[j] = y;
    } else {
        y = rint(normal() * far);
        x[i] += y != 0 ? y : uniform() < 0.5 ? -1 : 1;
    }
    copy_even(a, h);
}

/* Some moves of simulated annealing on n pages. What is worse by a fraction f passes with
 * probability exp(-f / heat). */
static void walk(code *a, int h, float pages[][TOKENS], int n, double heat, double far)
{
    static stats seen;
    double last = measure(a, h, pages, n, NULL), error;
    int i;
    for (i = 0; i < MOVES; i++) {
        code try = *a;
        change(&try, h, far);
        if (!fits(&try, grid_bits(h))) continue;
        error = measure(&try, h, pages, n, &seen);
        if (error > last * (1 - heat * log(uniform()))) continue;
        fit_unit(&try, h, &seen);
        *a = try;
        last = error;
    }
}

/* Annealing in stages of more pages, smaller moves and less heat. Every walk has other pages, so
 * that a code cannot adapt to a sample; where it gets to is judged on one for all. */
static void anneal(code *a, int h, int walks)
{
    code now;
    double least = measure(a, h, choose_set, CHOOSE, NULL), error;
    double heat = 0.002, far = 0.1 / a->unit;
    int stage, i, n;
    for (stage = 0; stage < 3; stage++, heat /= 4, far /= 2, walks = (walks + 1) / 2) {
        n = 512 << stage;
        now = *a;
        for (i = 0; i < walks; i++) {
            walk(&now, h, train_set + below((TRAIN - n) / LANES + 1) * LANES, n, heat, far);
            error = measure(&now, h, choose_set, CHOOSE, NULL);
            if (error < least) {
                least = error;
                *a = now;
            }
        }
    }
}

static void print_part(const char *before, const double *x, const char *after)
{
    int i;
    printf("%s{", before);
    for (i = 0; i < PARTS; i++) printf("%d%s", (int)x[i], i < PARTS - 1 ? ", " : "}");
    printf("%s\n", after);
}

static void print_code(const code *a, int h)
{
    printf("    /* h = %d: error %.7f */\n", h, measure(a, h, test_set, TEST, NULL));
    printf("    {%.8ff, %d, {\n", a->unit, grid_bits(h));
    print_part("        {", a->part[0][0], ",");
    print_part("         ", a->part[0][1], "},");
    print_part("        {", a->part[1][0], ",");
    print_part("         ", a->part[1][1], h < LAST ? "}}}," : "}}}");
    fflush(stdout);
}

/* The 4 bits of i in opposite order. */
static int reversed(int i)
{
    return (i & 1) << 3 | (i & 2) << 1 | (i & 4) >> 1 | (i & 8) >> 3;
}

/* h = 12, 14, 16: see the top. Given w & 15, its xor with the newest 4 bits takes every value. */
static void construct(code *a, int h)
{
    int i;
    for (i = 0; i < PARTS; i++) {
        if (h == 16) {
            a->part[0][0][i] = i - 8;
            a->part[0][1][i] = 16 * i - 120;
        } else if (h == 14) {
            a->part[0][0][i] = 32 * (i >> 1) + (i & 1) - 128;
            a->part[0][1][i] = 2 * reversed(i);
        } else {
            a->part[0][0][i] = 64 * (i >> 2) + (i & 3) - 128;
            a->part[0][1][i] = 4 * reversed(i);
        }
    }
    a->unit = h == 16 ? 0.024 : h == 14 ? 0.0232 : 0.0215;
    copy_even(a, h);
}

/* Puts a code where it belongs among the best so far, n of at most KEEP; returns the new n. */
static int keep(code *kept, double *error, int n, const code *a, double e)
{
    int k = n < KEEP ? n : KEEP - 1;
    if (n == KEEP && e >= error[k]) return n;
    for (; k > 0 && error[k - 1] > e; k--) {
        error[k] = error[k - 1];
        kept[k] = kept[k - 1];
    }
    error[k] = e;
    kept[k] = *a;
    return n < KEEP ? n + 1 : n;
}

/* Steps 1 to 3 of the top. A start that is far behind after six rounds is given up. */
static void train(code *a, int h, int starts)
{
    code kept[KEEP], try;
    double error[KEEP], least = 1e9, e;
    int i, k, round, n = 0;
    seed = 0x9E3779B97F4A7C15u + (uint64_t)h * 977;
    for (i = 0; i < starts; i++) {
        start(&try, h);
        iterate(&try, h, 5, 96);
        e = iterate(&try, h, 1, 192);
        if (n == KEEP && e > 1.12 * error[KEEP - 1]) continue;
        for (round = 0; round < 6; round++) iterate(&try, h, 1, 192 + 32 * round);
        e = measure(&try, h, choose_set, CHOOSE / 4, NULL);
        n = keep(kept, error, n, &try, e);
    }
    for (k = 0; k < n; k++) {
        iterate(&kept[k], h, 30, TRAIN / 16);
        iterate(&kept[k], h, 5, TRAIN / 4);
        e = best_grid(&kept[k], h);
        if (e < least) {
            least = e;
            *a = kept[k];
        }
    }
    anneal(a, h, starts / 8);
}

int main(int argc, char **argv)
{
    int only = argc > 1 ? atoi(argv[1]) : 0, starts = argc > 2 ? atoi(argv[2]) : 200, h;
    static code a;
    if (argc > 3 || only < 0 || only > LAST || (only > 8 && only % 2) || starts < 1) {
        fprintf(stderr, "usage: train_trellis [h [starts]], h = 1 to 8, 10, 12, 14, 16, 0: all\n");
        return 1;
    }
    draw(train_set, TRAIN, 0x243F6A8885A308D3u);     /* digits of pi */
    draw(choose_set, CHOOSE, 0x13198A2E03707344u);
    draw(test_set, TEST, 0xA4093822299F31D0u);
    for (h = 1; h <= LAST; h += h < 8 ? 1 : 2) {
        if (only && h != only) continue;
        if (h < 12) train(&a, h, starts);
        else construct(&a, h);
        print_code(&a, h);
    }
    return 0;
}
