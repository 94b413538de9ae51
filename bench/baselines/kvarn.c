/* kvarn.c: KVarN (2606.03458), `kvarn:B` or `kvarn:BK:BV`, its preset k4v2_g64 is kvarn:4:2.
 *
 * Per head and tile of 64 tokens: every token times a Hadamard matrix; the tile (keys [channel]
 * [token], values [token][channel]) divided by column and row scales that even out its standard
 * deviations (16 alternating steps on the logarithms, the best imbalance kept); rows quantised
 * asymmetrically. Stored per row f16 step and f16 zero, the row scale folded in, per column the f16
 * scale: bits + 16 (2 rows + cols) / (rows cols), 4.75 for 4 bits and heads of 64. Constants as in
 * huawei-csl/KVarN: deviations within 1e-3 .. 1e3, logarithms of scales within -0.3 .. 10.
 */
#include "parts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 16 };

typedef struct kvarn {
    llm_config c;
    int bits[2];
    double *tile;
} kvarn;

/* Standard deviation of n elements, stride apart (n - 1 below the sum). */
static double deviation(const double *x, int n, int stride)
{
    double mean = 0, sum = 0;
    int i;
    for (i = 0; i < n; i++) mean += x[i * stride];
    mean /= n;
    for (i = 0; i < n; i++) sum += (x[i * stride] - mean) * (x[i * stride] - mean);
    return sqrt(sum / (n > 1 ? n - 1 : 1));
}

static double clamp(double x, double lo, double hi) { return x < lo ? lo : x > hi ? hi : x; }

/* Largest to smallest deviation of n lines, len elements each. */
static double spread(const double *x, int n, int apart, int len, int stride)
{
    double lo = 0, hi = 0;
    int i;
    for (i = 0; i < n; i++) {
        double s = deviation(x + i * apart, len, stride);
        if (!i || s < lo) lo = s;
        if (!i || s > hi) hi = s;
    }
    return hi / fmax(lo, 1e-8);
}

/* out = x / (row and column scales); room [cols] */
static void divide(const double *x, int rows, int cols, const double *log_row,
                   const double *log_col, double *room, double *out)
{
    int r, c;
    for (c = 0; c < cols; c++) room[c] = exp(-log_col[c]);
    for (r = 0; r < rows; r++) {
        double by = exp(-log_row[r]);
        for (c = 0; c < cols; c++) out[r * cols + c] = x[r * cols + c] * by * room[c];
    }
}

int baseline_kvarn_balance(const double *x, int rows, int cols, double *s_row, double *s_col)
{
    double *now = calloc((size_t)(rows + 2) * (size_t)cols + (size_t)rows, sizeof *now);
    double *log_row, *log_col, *room, best, is;
    int step, i;
    if (!now) return -1;
    log_row = now + (size_t)rows * (size_t)cols;
    log_col = log_row + rows;
    room = log_col + cols;
    for (i = 0; i < rows; i++) s_row[i] = 1;
    for (i = 0; i < cols; i++) s_col[i] = 1;
    memcpy(now, x, (size_t)rows * (size_t)cols * sizeof *now);
    best = spread(now, cols, 1, rows, cols) + spread(now, rows, cols, cols, 1);
    for (step = 0; step < STEPS; step++) {
        for (i = 0; i < cols; i++)
            log_col[i] = clamp(log_col[i] + log(clamp(deviation(now + i, rows, cols), 1e-3, 1e3)),
                               -0.3, 10);
        divide(x, rows, cols, log_row, log_col, room, now);
        for (i = 0; i < rows; i++)
            log_row[i] = clamp(log_row[i] + log(clamp(deviation(now + i * cols, cols, 1), 1e-3,
                                                      1e3)), -0.3, 10);
        divide(x, rows, cols, log_row, log_col, room, now);
        is = spread(now, cols, 1, rows, cols) + spread(now, rows, cols, cols, 1);
        if (is > best) continue;
        best = is;
        for (i = 0; i < rows; i++) s_row[i] = exp(log_row[i]);
        for (i = 0; i < cols; i++) s_col[i] = exp(log_col[i]);
    }
    free(now);
    return 0;
}

double baseline_kvarn_tile(double *x, int rows, int cols, int bits)
{
    double *s_row = malloc((size_t)(rows + cols) * sizeof *s_row), *s_col = s_row + rows;
    double top = (1 << bits) - 1;
    int r, c;
    if (!s_row || baseline_kvarn_balance(x, rows, cols, s_row, s_col)) {
        free(s_row);
        return -1;
    }
    for (r = 0; r < rows; r++) {
        double *row = x + r * cols, lo = 0, hi = 0, step, zero, scale;
        for (c = 0; c < cols; c++) {
            double v = row[c] /= s_row[r] * s_col[c];
            if (!c || v < lo) lo = v;
            if (!c || v > hi) hi = v;
        }
        step = fmax((hi - lo) / top, 1e-10);
        scale = (double)baseline_half((float)(s_row[r] * step));
        zero = (double)baseline_half((float)(s_row[r] * lo));
        for (c = 0; c < cols; c++)
            row[c] = (clamp(nearbyint((row[c] - lo) / step), 0, top) * scale + zero) *
                     (double)baseline_half((float)s_col[c]);
    }
    free(s_row);
    return (double)rows * cols * bits + 16.0 * (2 * rows + cols);
}

static int code_tile(const kvarn *k, int kind, int head, float *rows, double *bits)
{
    int d = k->c.head_dim, t, i;
    size_t width = (size_t)k->c.n_kv_heads * (size_t)d;
    float *at = rows + (size_t)head * (size_t)d;
    double got;
    for (t = 0; t < LLM_PAGE; t++)
        for (i = 0; i < d; i++)
            k->tile[kind ? t * d + i : i * LLM_PAGE + t] = at[(size_t)t * width + (size_t)i];
    got = baseline_kvarn_tile(k->tile, kind ? LLM_PAGE : d, kind ? d : LLM_PAGE, k->bits[kind]);
    if (got < 0) return -1;
    *bits += got;
    for (t = 0; t < LLM_PAGE; t++)
        for (i = 0; i < d; i++)
            at[(size_t)t * width + (size_t)i] =
                (float)k->tile[kind ? t * d + i : i * LLM_PAGE + t];
    return 0;
}

static int kvarn_code(void *self, int layer, int kind, int first, int n, float *rows, double *bits)
{
    const kvarn *k = self;
    int d = k->c.head_dim, t, h;
    size_t width = (size_t)k->c.n_kv_heads * (size_t)d;
    (void)layer;
    (void)first;
    baseline_hadamard_blocks(rows, (size_t)n * width, baseline_power_of_two(d));
    for (t = 0; t + LLM_PAGE <= n; t += LLM_PAGE)
        for (h = 0; h < k->c.n_kv_heads; h++)
            if (code_tile(k, kind, h, rows + (size_t)t * width, bits)) return -1;
    baseline_hadamard_blocks(rows, (size_t)n * width, baseline_power_of_two(d));
    return 0;
}

static void kvarn_free(void *self)
{
    kvarn *k = self;
    free(k->tile);
    free(k);
}

int baseline_kvarn_open(llm_codec *out, const char *name, const baseline_env *env, char *err)
{
    kvarn *k;
    int bits[2];
    char first[4] = "";
    const char *colon;
    if (strncmp(name, "kvarn:", 6)) return 1;
    name += 6;
    colon = strchr(name, ':');
    if (strlen(name) <= 3) memcpy(first, name, colon ? (size_t)(colon - name) : strlen(name));
    if (baseline_whole(first, 1, 8, &bits[0]) ||
        baseline_whole(colon ? colon + 1 : first, 1, 8, &bits[1]))
        return baseline_refuse(err, name - 6, "give the bits, 1 to 8: kvarn:4, or kvarn:4:2 for "
                               "keys and values");
    k = calloc(1, sizeof *k);
    if (k) k->tile = malloc((size_t)LLM_PAGE * (size_t)env->c->head_dim * sizeof *k->tile);
    if (!k || !k->tile) {
        free(k);
        return baseline_refuse(err, name - 6, "out of memory");
    }
    k->c = *env->c;
    memcpy(k->bits, bits, sizeof bits);
    out->self = k;
    out->code = kvarn_code;
    out->free = kvarn_free;
    return 0;
}
