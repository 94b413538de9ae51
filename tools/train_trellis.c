/* train_trellis.c: makes the tables of the trellis in spectral_kv.h (>>quant) again.
 *
 *     cc -O3 -march=native tools/train_trellis.c -lm -o build/train_trellis
 *     build/train_trellis             # all of h = 1 to 8: some minutes
 *     build/train_trellis 4           # one
 *
 * Lloyd's iteration: encode unit normals in pages of 64 with the present table by a Viterbi search
 * over the circle of tokens, then let every entry be the mean of what it stood for. The entry of a
 * window and that of its complement are kept opposite. The table with the least error seen is
 * scaled to int8. Arithmetic is double in one thread, the random numbers are integers: the same
 * libm gives the same table.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 64, STATES = 256, PAGES = 2500, ROUNDS = 120 };

static uint64_t seed = 0x9E3779B97F4A7C15u;

static double uniform(void)         /* (0, 1); xorshift64 */
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

typedef struct search {
    double cost[2][STATES];
    unsigned char from[TOKENS][STATES], state[TOKENS];
} search;

/* Bits that token t brings at h half bits. */
static int bits_of(int h, int t) { return (h + (t & 1)) / 2; }

/* Best path over the circle from token first on, from and to state ends, or free where ends < 0. */
static double find_path(search *v, double table[2][STATES], const double *x, int h, int first,
                        int ends)
{
    double *c = v->cost[0], *d = v->cost[1], *swap, least;
    int i, j, k, t, b, s;
    for (s = 0; s < STATES; s++) c[s] = ends < 0 || s == ends ? 0 : 1e9;
    for (i = 0; i < TOKENS; i++) {
        t = (first + i) % TOKENS;
        b = bits_of(h, t);
        for (j = 0; j < STATES >> b; j++) {
            int best = j << b;
            for (k = 1; k < 1 << b; k++)
                if (c[(j << b) + k] < c[best]) best = (j << b) + k;
            v->from[t][j] = (unsigned char)(best & ((1 << b) - 1));
            for (k = 0; k < 1 << b; k++) {
                double e = x[t] - table[t & 1][k * (STATES >> b) + j];
                d[k * (STATES >> b) + j] = c[best] + e * e;
            }
        }
        swap = c;
        c = d;
        d = swap;
    }
    s = ends < 0 ? 0 : ends;
    for (j = 1; ends < 0 && j < STATES; j++) s = c[j] < c[s] ? j : s;
    least = c[s];
    for (i = TOKENS; i-- > 0;) {
        t = (first + i) % TOKENS;
        b = bits_of(h, t);
        v->state[t] = (unsigned char)s;
        s &= (STATES >> b) - 1;
        s = b ? s << b | v->from[t][s] : s;
    }
    return least;
}

/* One round: the mean squared error of the table, and the means of what its entries stood for. */
static double measure(double table[2][STATES], int h, double sum[2][STATES], double n[2][STATES])
{
    static search v;
    double x[TOKENS], error = 0;
    int page, t;
    memset(sum, 0, 2 * STATES * sizeof(double));
    memset(n, 0, 2 * STATES * sizeof(double));
    for (page = 0; page < PAGES; page++) {
        for (t = 0; t < TOKENS; t++) x[t] = normal();
        find_path(&v, table, x, h, TOKENS / 2, -1);
        error += find_path(&v, table, x, h, 0, v.state[TOKENS - 1]);
        for (t = 0; t < TOKENS; t++) {
            sum[t & h & 1][v.state[t]] += x[t];
            n[t & h & 1][v.state[t]] += 1;
        }
    }
    return error / ((double)PAGES * TOKENS);
}

/* Entries become means, opposite windows opposite; an odd h has a table for each parity. */
static void improve(double table[2][STATES], int h, double sum[2][STATES], double n[2][STATES])
{
    int parity, w;
    for (parity = 0; parity < 2; parity++)
        for (w = 0; w < STATES / 2; w++) {
            int of = parity & h, o = STATES - 1 - w;
            double many = n[of][w] + n[of][o];
            double mean = many > 0 ? (sum[of][w] - sum[of][o]) / many : normal();
            table[parity][w] = mean;
            table[parity][o] = -mean;
        }
}

static void print_table(double table[2][STATES], int h, double error)
{
    double most = 0, unit;
    int parity, w;
    for (parity = 0; parity < 2; parity++)
        for (w = 0; w < STATES / 2; w++)
            most = fabs(table[parity][w]) > most ? fabs(table[parity][w]) : most;
    unit = most / 127;
    printf("/* h = %d, unit %.8ff, error %.5f */\n", h, unit, error);
    for (parity = 0; parity <= (h & 1); parity++) {
        int column = printf("    {");
        for (w = 0; w < STATES / 2; w++) {
            char word[16];
            int last = w == STATES / 2 - 1;
            int level = (int)lrint(table[parity][w] / unit);
            int length = sprintf(word, "%d%s", level, last ? "}," : ",");
            if (column + 1 + length > 99) column = printf("\n    ") - 1;
            column += printf("%s%s", w ? " " : "", word);
        }
        printf("\n");
    }
    fflush(stdout);
}

static void train(int h)
{
    static double table[2][STATES], best[2][STATES], sum[2][STATES], n[2][STATES];
    double least = 1e9, error;
    int round, w;
    for (w = 0; w < STATES; w++) sum[0][w] = sum[1][w] = n[0][w] = n[1][w] = 0;
    improve(table, h, sum, n);      /* no data yet: random entries */
    for (round = 0; round < ROUNDS; round++) {
        error = measure(table, h, sum, n);
        if (error < least) {
            least = error;
            memcpy(best, table, sizeof best);
        }
        improve(table, h, sum, n);
    }
    print_table(best, h, least);
}

int main(int argc, char **argv)
{
    int h;
    if (argc > 1) train(atoi(argv[1]) > 0 && atoi(argv[1]) <= 8 ? atoi(argv[1]) : 4);
    else
        for (h = 1; h <= 8; h++) train(h);
    return 0;
}
