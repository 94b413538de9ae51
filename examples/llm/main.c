/* main.c: the command line of skv-llm.
 *
 *   skv-llm generate --model M.gguf --prompt TEXT [-n N] [--kv MODE] [--profile P.skv] [--seed S]
 *                    [--temp T] [--top-k K] [--top-p P] [--raw] [--threads N] [--json FILE]
 *                    [--device cpu|cuda]
 *   skv-llm profile  --model M.gguf --text FILE... --out P.skv [--bpe B | --energy E | --error X]
 *                    [--tokens N] [--group G|joint|auto:BITS] [--price measured|norm] [--cold FILE]
 *                    [--json FILE] [--threads N]
 *   skv-llm inspect  P.skv [--bpe B] [--json]
 *   skv-llm judge    --model M.gguf --text FILE [--ctx N] [--start N] --kv MODE[,MODE...]
 *                    [--profile P.skv] [--cold FILE] [--grams FILE] [--json FILE] [--html FILE]
 *                    [--threads N] [--device cpu|cuda]
 *   skv-llm compare  --model M.gguf --text FILE... [--ctx N] [-n N] --kv MODE[,MODE...]
 *                    [--profile P.skv] [--cold FILE] [--grams FILE] [--json FILE] [--threads N]
 *                    [--device cpu|cuda]
 *   skv-llm plot     ROWS.jsonl... --html FILE
 *   skv-llm capture  --model M.gguf --text FILE --layers L[,L...] [--tokens N] --out FILE
 *   skv-llm grams    --model M.gguf --text FILE... --out FILE [--tokens N] [--threads N]
 *   MODE: exact | spectral:BPE | fast:BPE | small:BPE | cold:BPE | a codec of codecs_classic.h or
 *   bench/baselines
 *
 * Exit code: 0, 1 when something failed on the way, 2 for bad arguments or unusable files.
 */
#define _POSIX_C_SOURCE 200809L
#include "baselines.h"
#include "calibrate.h"
#include "codecs_classic.h"
#include "compare.h"
#include "files.h"
#include "grams.h"
#include "html.h"
#include "judge.h"
#include "kv_spectral.h"
#include "progress.h"
#include "sampling.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum { MAX_TEXTS = 256, MAX_MODES = 32, MAX_LAYERS = 64 };

typedef struct options {
    const char *model, *profile, *grams, *cold, *out, *prompt, *kv, *json, *html;
    char *texts[MAX_TEXTS];
    int n_texts, n, ctx, start, tokens, threads, raw, top_k, joint, group, json_flag;
    int layers[MAX_LAYERS], n_layers, price_norm, cuda;
    double temp, top_p, group_price;
    unsigned long long seed;
    skv_target target;
} options;

typedef struct engine {
    gguf *g;
    llm_model *m;
    llm_tokenizer *t;
    const llm_config *c;
} engine;

static const char usage_text[] =
    "usage: skv-llm generate --model M.gguf --prompt TEXT [-n N] [--kv MODE] [--profile P.skv]\n"
    "                        [--seed S] [--temp T] [--top-k K] [--top-p P] [--raw] [--threads N]\n"
    "                        [--json FILE] [--device cpu|cuda]\n"
    "       skv-llm profile  --model M.gguf --text FILE... --out P.skv\n"
    "                        [--bpe B | --energy E | --error X] [--tokens N]\n"
    "                        [--group G|joint|auto:BITS]\n"
    "                        [--price measured|norm] [--cold FILE] [--json FILE] [--threads N]\n"
    "       skv-llm inspect  P.skv [--bpe B] [--json]\n"
    "       skv-llm judge    --model M.gguf --text FILE [--ctx N] [--start N] --kv MODE[,MODE...]\n"
    "                        [--profile P.skv] [--cold FILE] [--grams FILE] [--json FILE]\n"
    "                        [--html FILE] [--threads N] [--device cpu|cuda]\n"
    "       skv-llm compare  --model M.gguf --text FILE... [--ctx N] [-n N] --kv MODE[,MODE...]\n"
    "                        [--profile P.skv] [--cold FILE] [--grams FILE] [--json FILE]\n"
    "                        [--threads N] [--device cpu|cuda]\n"
    "                        (time of a token after a prompt of N)\n"
    "       skv-llm plot     ROWS.jsonl... --html FILE   (rows of judge --json: means)\n"
    "       skv-llm capture  --model M.gguf --text FILE --layers L[,L...] [--tokens N] --out FILE\n"
    "       skv-llm grams    --model M.gguf --text FILE... --out FILE [--tokens N]\n"
    "MODE: exact | spectral:BPE        (BPE: bits per element in the pages, such as 4.3)\n"
    "      | fast:BPE | small:BPE      (the same, and the profile is per head, or joint)\n"
    "      | cold:BPE                  (pages for storage; their profile is --cold FILE)\n"
    "      | " CLASSIC_WORDS "\n"
    "      | " BASELINE_WORDS "\n"
    "--device cuda: pages of the first three on a GPU, where skv-llm was built with CUDA=1.\n"
    "JSON and HTML go to FILE, or to standard output when FILE is -.\n";

static int usage(const char *what, const char *word)
{
    if (what) fprintf(stderr, "skv-llm: %s%s%s\n", what, word ? ": " : "", word ? word : "");
    fputs(usage_text, stderr);
    return 2;
}

static int complain(const char *err)
{
    fprintf(stderr, "skv-llm: %s\n", err);
    return 2;
}

static int to_int(const char *s, int least, int *out)
{
    char *end;
    long v = strtol(s, &end, 10);
    if (end == s || *end || v < least || v > INT_MAX) return -1;
    *out = (int)v;
    return 0;
}

static int to_float(const char *s, double least, double most, double *out)
{
    char *end;
    double v = strtod(s, &end);
    if (end == s || *end || !(v >= least && v <= most)) return -1;
    *out = v;
    return 0;
}

static int to_layers(const char *s, options *o)
{
    char *end;
    for (o->n_layers = 0; o->n_layers < MAX_LAYERS; s = end + 1) {
        long v = strtol(s, &end, 10);
        if (end == s || v < 0 || v > INT_MAX) return -1;
        o->layers[o->n_layers++] = (int)v;
        if (!*end) return 0;
        if (*end != ',') return -1;
    }
    return -1;
}

/* One option with its value. 1: taken, 0: not known, -1: bad value. */
static int take_value(options *o, const char *name, const char *value)
{
    double x = 0;
    int bad = 0;
    if (!strcmp(name, "--model")) o->model = value;
    else if (!strcmp(name, "--profile")) o->profile = value;
    else if (!strcmp(name, "--grams")) o->grams = value;
    else if (!strcmp(name, "--cold")) o->cold = value;
    else if (!strcmp(name, "--out")) o->out = value;
    else if (!strcmp(name, "--prompt")) o->prompt = value;
    else if (!strcmp(name, "--kv")) o->kv = value;
    else if (!strcmp(name, "--json")) o->json = value;
    else if (!strcmp(name, "--html")) o->html = value;
    else if (!strcmp(name, "-n")) bad = to_int(value, 1, &o->n);
    else if (!strcmp(name, "--ctx")) bad = to_int(value, 2, &o->ctx);
    else if (!strcmp(name, "--start")) bad = to_int(value, 0, &o->start);
    else if (!strcmp(name, "--tokens")) bad = to_int(value, 68, &o->tokens);
    else if (!strcmp(name, "--threads")) bad = to_int(value, 1, &o->threads);
    else if (!strcmp(name, "--top-k")) bad = to_int(value, 0, &o->top_k);
    else if (!strcmp(name, "--layers")) bad = to_layers(value, o);
    else if (!strcmp(name, "--temp")) bad = to_float(value, 0, 100, &o->temp);
    else if (!strcmp(name, "--top-p")) bad = to_float(value, 0, 1, &o->top_p);
    else if (!strcmp(name, "--group")) {
        o->joint = !strcmp(value, "joint");
        o->group_price = -1;
        if (!strncmp(value, "auto:", 5)) bad = to_float(value + 5, 0, 16, &o->group_price);
        else if (!o->joint) bad = to_int(value, 1, &o->group);
    } else if (!strcmp(name, "--device")) {
        o->cuda = !strcmp(value, "cuda");
        bad = o->cuda || !strcmp(value, "cpu") ? 0 : -1;
    } else if (!strcmp(name, "--price")) {
        o->price_norm = !strcmp(value, "norm");
        bad = o->price_norm || !strcmp(value, "measured") ? 0 : -1;
    } else if (!strcmp(name, "--seed")) {
        char *end;
        o->seed = strtoull(value, &end, 10);
        bad = end == value || *end ? -1 : 0;
    } else if (!strcmp(name, "--bpe")) {
        bad = to_float(value, 0.05, 16, &x);
        o->target.bpe = (float)x;
    } else if (!strcmp(name, "--energy")) {
        bad = to_float(value, 0.01, 0.999999, &x);
        o->target.energy = (float)x;
    } else if (!strcmp(name, "--error")) {
        bad = to_float(value, 1e-12, 1e6, &x);
        o->target.error = (float)x;
    } else return 0;
    return bad ? -1 : 1;
}

/* Options of a command from argv[2]; words without a dash after --text are more texts, for plot
 * files of rows, for inspect the profile. 0, or 2 with the message printed. */
static int parse(options *o, int argc, char **argv)
{
    int i, r, listing = 0, inspect = !strcmp(argv[1], "inspect");
    int plot = !strcmp(argv[1], "plot");
    memset(o, 0, sizeof *o);
    o->n = 128;
    o->ctx = 1024;
    o->start = 256;
    o->tokens = 1024;
    o->group = 1;
    o->group_price = -1;
    o->top_p = 1;
    o->seed = 1;
    for (i = 2; i < argc; i++) {
        if (argv[i][0] != '-') {
            if (inspect && !o->profile) o->profile = argv[i];
            else if ((listing || plot) && o->n_texts < MAX_TEXTS) o->texts[o->n_texts++] = argv[i];
            else return usage("unexpected word", argv[i]);
            continue;
        }
        listing = !strcmp(argv[i], "--text");
        if (!strcmp(argv[i], "--raw")) o->raw = 1;
        else if (inspect && !strcmp(argv[i], "--json")) o->json_flag = 1;
        else if (!listing) {
            if (i + 1 == argc) return usage("no value for", argv[i]);
            r = take_value(o, argv[i], argv[i + 1]);
            if (r < 0) return usage("bad value for", argv[i]);
            if (!r) return usage("unknown option", argv[i]);
            i++;
        }
    }
    if ((o->target.bpe > 0) + (o->target.energy > 0) + (o->target.error > 0) > 1)
        return usage("only one of --bpe, --energy, --error", NULL);
#ifdef _OPENMP
    if (o->threads) omp_set_num_threads(o->threads);
#endif
    return 0;
}

static void engine_close(engine *e)
{
    llm_tokenizer_close(e->t);
    llm_model_close(e->m);
    gguf_close(e->g);
}

static int engine_open(engine *e, const char *path)
{
    char err[GGUF_ERR_BYTES];
    memset(e, 0, sizeof *e);
    if (!path) return usage("--model is missing", NULL);
    if (gguf_open(&e->g, path, err) || llm_model_open(&e->m, e->g, err) ||
        llm_tokenizer_open(&e->t, e->g, err)) {
        engine_close(e);
        return complain(err);
    }
    e->c = llm_model_config(e->m);
    return 0;
}

static FILE *json_open(const char *path)
{
    FILE *f = !strcmp(path, "-") ? stdout : fopen(path, "w");
    if (!f) perror(path);
    return f;
}

static int json_close(FILE *f)
{
    int bad = ferror(f) || (f != stdout && fclose(f));
    if (bad) fprintf(stderr, "skv-llm: cannot write the output file\n");
    return bad ? 1 : 0;
}

/* profile ------------------------------------------------------------------------------------- */
static int save_profile(const skv_profile *p, const char *path, char *err)
{
    size_t bytes = 0;
    void *buf;
    skv_result r = skv_profile_save(p, NULL, 0, &bytes);
    int bad;
    buf = r == SKV_OK ? malloc(bytes) : NULL;
    if (!buf) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    r = skv_profile_save(p, buf, bytes, &bytes);
    bad = r == SKV_OK ? llm_write_file(path, buf, bytes, err) : -1;
    free(buf);
    return bad;
}

/* Range of the prices, as a person reads it */
static void print_prices(const llm_calibration *c, int n_layers)
{
    const llm_prices *m = c->prices;
    double least[2], most[2];
    int i;
    for (i = 0; i < 2 * n_layers; i++) {
        double x = c->price[i];
        if (i < 2 || x < least[i & 1]) least[i & 1] = x;
        if (i < 2 || x > most[i & 1]) most[i & 1] = x;
    }
    printf("Prices: K %.3g to %.3g, V %.3g to %.3g; ", least[0], most[0], least[1], most[1]);
    if (m && m->n_samples)
        printf("measured on %d passages, %d streams silent, log error %.2f of spread %.2f, "
               "trust %.2f\n", m->n_samples, m->silent, m->noise, m->spread, m->trust);
    else if (m)
        printf("from norms: the texts are too short to measure them (%d tokens)\n",
               LLM_PRICE_TOKENS);
    else printf("from norms\n");
}

static int prices_json(const options *o, const llm_calibration *c, int n_layers)
{
    const llm_prices *m = c->prices;
    FILE *f = json_open(o->json);
    int kind, l;
    if (!f) return 1;
    fprintf(f, "{\"passages\": %d, \"silent\": %d, \"noise\": %.6g, \"spread\": %.6g, "
            "\"trust\": %.6g", m ? m->n_samples : 0, m ? m->silent : 0, m ? m->noise : 0.0,
            m ? m->spread : 0.0, m ? m->trust : 0.0);
    for (kind = 0; kind < 2; kind++) {
        fprintf(f, ", \"price_%c\": [", kind ? 'v' : 'k');
        for (l = 0; l < n_layers; l++) fprintf(f, "%s%.6g", l ? ", " : "", c->price[2 * l + kind]);
        fputc(']', f);
    }
    fprintf(f, ", \"seconds_price\": %.3f}\n", c->seconds_price);
    return json_close(f);
}

/* Cold pages' profile to a file. 0, or -1 with a sentence. */
static int cold_save(const skv_cold_profile *p, const char *path, char *err)
{
    size_t bytes = 0;
    void *data;
    int bad;
    skv_cold_profile_save(p, NULL, 0, &bytes);
    data = malloc(bytes);
    bad = !data || skv_cold_profile_save(p, data, bytes, &bytes) != SKV_OK;
    if (bad) snprintf(err, GGUF_ERR_BYTES, "out of memory");
    else bad = llm_write_file(path, data, bytes, err);
    free(data);
    return bad ? -1 : 0;
}

static int command_profile(options *o)
{
    char err[GGUF_ERR_BYTES], text[2048];
    llm_calibration c;
    engine e;
    skv_profile *p = NULL;
    int r;
    if (!o->n_texts || !o->out) return usage("profile needs --text and --out", NULL);
    r = engine_open(&e, o->model);
    if (r) return r;
    memset(&c, 0, sizeof c);
    c.n_texts = o->n_texts;
    c.n_tokens = o->tokens;
    c.texts = o->texts;
    c.head_group = (uint32_t)(o->joint || o->group_price >= 0 ? e.c->n_kv_heads : o->group);
    c.group_price = o->group_price;
    c.price_norm = o->price_norm;
    c.cold_depth = o->cold != NULL;
    if (llm_calibrate(&p, e.g, e.m, e.t, &c, &o->target, err) || save_profile(p, o->out, err) ||
        (o->cold && cold_save(c.cold, o->cold, err))) {
        r = complain(err);
    } else {
        if (skv_profile_summary(p, &o->target, text, sizeof text, NULL) == SKV_OK)
            fputs(text, stdout);
        if (o->group_price >= 0)
            printf("Head groups of %u, chosen at %g bits for each KV head of a group\n",
                   (unsigned)c.head_group, o->group_price);
        print_prices(&c, e.c->n_layers);
        printf("Time: model %.1f s, Grams %.1f s, fit %.1f s, prices %.1f s; Grams held %.1f MB\n",
               c.seconds_model, c.seconds_gram, c.seconds_fit, c.seconds_price,
               (double)c.profiler_bytes / 1e6);
        if (o->json) r = prices_json(o, &c, e.c->n_layers);
    }
    llm_prices_free(c.prices);
    free(c.price);
    skv_cold_profile_free(c.cold);
    skv_profile_free(p);
    engine_close(&e);
    return r;
}

/* inspect ------------------------------------------------------------------------------------- */
static void print_json_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') fprintf(f, "\\%c", *s);
        else if ((unsigned char)*s < 32) fprintf(f, "\\u%04x", (unsigned)*s);
        else fputc(*s, f);
    }
    fputc('"', f);
}

static void inspect_json(const skv_profile *p, const skv_outlook *k, size_t bytes)
{
    const skv_model *m = skv_profile_model(p);
    printf("{\"name\": ");
    print_json_string(stdout, m->name ? m->name : "");
    printf(", \"n_layers\": %u, \"n_q_heads\": %u, \"n_kv_heads\": %u, \"head_dim\": %u, "
           "\"fingerprint\": \"%016llx\", \"profile_bytes\": %zu, ", (unsigned)m->n_layers,
           (unsigned)m->layer.n_q_heads, (unsigned)m->layer.n_kv_heads,
           (unsigned)m->layer.head_dim, (unsigned long long)m->fingerprint, bytes);
    printf("\"bpe\": %.4f, \"ratio\": %.4f, \"bpe_k\": %.4f, \"bpe_v\": %.4f, "
           "\"expected_error\": %.6g, \"energy_mean\": %.6f, \"energy_min\": %.6f, ", k->bpe,
           k->ratio, k->bpe_k, k->bpe_v, k->error, k->energy_mean, k->energy_min);
    printf("\"rank_median\": %u, \"rank_min\": %u, \"rank_max\": %u, \"rank95_median\": %u, "
           "\"rank95_min\": %u, \"rank95_max\": %u}\n", (unsigned)k->rank_median,
           (unsigned)k->rank_min, (unsigned)k->rank_max, (unsigned)k->rank95_median,
           (unsigned)k->rank95_min, (unsigned)k->rank95_max);
}

static int command_inspect(const options *o)
{
    char err[GGUF_ERR_BYTES], text[2048];
    skv_profile *p = NULL;
    skv_outlook k;
    void *data = NULL;
    size_t bytes = 0;
    skv_result r;
    if (!o->profile) return usage("inspect needs a profile", NULL);
    if (llm_read_file(o->profile, &data, &bytes, err)) return complain(err);
    r = skv_profile_load(&p, data, bytes, NULL, NULL);
    free(data);
    if (r == SKV_OK) r = skv_profile_outlook(p, &o->target, &k);
    if (r == SKV_OK && o->json_flag) inspect_json(p, &k, bytes);
    else if (r == SKV_OK) r = skv_profile_summary(p, &o->target, text, sizeof text, NULL);
    if (r == SKV_OK && !o->json_flag) printf("%sProfile: %zu bytes\n", text, bytes);
    skv_profile_free(p);
    if (r == SKV_OK) return 0;
    fprintf(stderr, "skv-llm: %s: %s\n", o->profile, skv_result_text(r));
    return 2;
}

/* judge --------------------------------------------------------------------------------------- */
static int parse_modes(const char *list, llm_mode *modes, int *n, char *err)
{
    const char *at = list;
    for (*n = 0; *n < MAX_MODES; at++) {
        size_t len = strcspn(at, ",");
        if (llm_mode_parse(&modes[(*n)++], at, len, err)) return -1;
        at += len;
        if (!*at) return 0;
    }
    snprintf(err, GGUF_ERR_BYTES, "too many modes; at most %d", MAX_MODES);
    return -1;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void verdict_json(FILE *f, const options *o, const llm_verdict *v, size_t profile_bytes)
{
    fprintf(f, "{\"mode\": \"%s\", \"tokens\": %d, \"bpe\": %.4f, \"bpe_pages\": %.4f, "
            "\"profile_bytes\": %zu, \"ratio\": %.4f, \"kl_mean\": %.6g, \"kl_p99\": %.6g, "
            "\"top1\": %.5f, \"ppl_exact\": %.5f, \"ppl\": %.5f, \"seconds\": %.3f, "
            "\"cache_bytes\": %zu, \"page_bytes\": %zu, \"outlier_rows\": %zu, ", v->mode.name,
            v->tokens, v->bpe, v->bpe_pages, v->mode.profile ? profile_bytes : 0, v->ratio,
            v->kl_mean, v->kl_p99, v->top1, v->ppl_exact, v->ppl, v->seconds, v->usage.bytes,
            v->usage.page_bytes, v->usage.outlier_rows);
    fprintf(f, "\"start\": %d, \"sinks\": %d, \"window\": %d, \"model\": ", o->start, LLM_SINKS,
            LLM_WINDOW);
    print_json_string(f, base_name(o->model));
    fputs(", \"text\": ", f);
    print_json_string(f, base_name(o->texts[0]));
    fputs("}\n", f);
}

static int write_html(const char *path, const llm_plot *plot)
{
    FILE *f = json_open(path);
    int bad;
    if (!f) return 1;
    bad = llm_plot_write(f, plot);
    return json_close(f) || bad ? 1 : 0;
}

static int verdict_html(const options *o, const llm_verdict *v, int n)
{
    llm_plot *plot = calloc(1, sizeof *plot);
    int i, r;
    if (!plot) return 1;
    plot->ctx = n ? v[0].tokens : 0;
    plot->start = o->start;
    plot->sinks = LLM_SINKS;
    plot->window = LLM_WINDOW;
    llm_plot_name(plot->model, sizeof plot->model, base_name(o->model));
    llm_plot_name(plot->text, sizeof plot->text, base_name(o->texts[0]));
    for (i = 0; i < n; i++) {
        llm_plot_row row;
        memset(&row, 0, sizeof row);
        memcpy(row.mode, v[i].mode.name, sizeof row.mode);
        row.bpe = v[i].bpe;
        row.bpe_pages = v[i].bpe_pages;
        row.kl_mean = v[i].kl_mean;
        row.kl_p99 = v[i].kl_p99;
        row.top1 = v[i].top1;
        row.ppl_change = v[i].ppl / v[i].ppl_exact - 1;
        (void)llm_plot_add(plot, &row);         /* MAX_MODES fit */
    }
    r = write_html(o->html, plot);
    free(plot);
    return r;
}

static int command_plot(const options *o)
{
    char err[GGUF_ERR_BYTES];
    llm_plot *plot;
    int i, r = 0;
    if (!o->n_texts || !o->html) return usage("plot needs files of rows and --html", NULL);
    plot = calloc(1, sizeof *plot);
    if (!plot) return complain("out of memory");
    for (i = 0; i < o->n_texts && !r; i++)
        if (llm_plot_read(plot, o->texts[i], err)) r = complain(err);
    if (!r && !plot->n) r = complain("no rows in these files");
    if (!r) r = write_html(o->html, plot);
    free(plot);
    return r;
}

static int report(const options *o, const llm_verdict *v, int n, size_t profile_bytes)
{
    FILE *f;
    int i;
    if (o->json) {
        f = json_open(o->json);
        if (!f) return 1;
        for (i = 0; i < n; i++) verdict_json(f, o, &v[i], profile_bytes);
        if (json_close(f)) return 1;
    }
    if (o->html && verdict_html(o, v, n)) return 1;
    if ((o->json && !strcmp(o->json, "-")) || (o->html && !strcmp(o->html, "-"))) return 0;
    printf("%-16s %7s %7s %7s %9s %9s %7s %9s %9s %7s\n", "mode", "bpe", "pages", "ratio",
           "KL mean", "KL p99", "top-1", "ppl exact", "ppl", "s");
    for (i = 0; i < n; i++)
        printf("%-16s %7.3f %7.3f %7.2f %9.5f %9.4f %7.4f %9.3f %9.3f %7.1f\n", v[i].mode.name,
               v[i].bpe, v[i].bpe_pages, v[i].ratio, v[i].kl_mean, v[i].kl_p99, v[i].top1,
               v[i].ppl_exact, v[i].ppl, v[i].seconds);
    return 0;
}

/* The files that modes read. */
typedef struct mode_files {
    skv_profile *profile;
    struct baseline_grams *grams;
    skv_cold_profile *cold;
    size_t profile_bytes;
    llm_mode_env env;
} mode_files;

static void files_close(mode_files *f)
{
    skv_profile_free(f->profile);
    baseline_grams_free(f->grams);
    skv_cold_profile_free(f->cold);
}

/* 0, or -1 with a sentence; to be closed in both cases. */
static int files_open(mode_files *f, const options *o, const engine *e, char *err)
{
    memset(f, 0, sizeof *f);
    if ((o->profile &&
         llm_profile_load(&f->profile, o->profile, e->g, e->c, &f->profile_bytes, err)) ||
        (o->grams && baseline_grams_load(&f->grams, o->grams, e->c, err)) ||
        (o->cold && llm_cold_profile_load(&f->cold, o->cold, e->g, e->c, err)))
        return -1;
    f->env.c = e->c;
    f->env.profile = f->profile;
    f->env.grams = f->grams;
    f->env.cold = f->cold;
    f->env.cuda = o->cuda;
    return 0;
}

static int command_judge(const options *o)
{
    char err[GGUF_ERR_BYTES];
    llm_mode modes[MAX_MODES];
    llm_verdict v[MAX_MODES];
    engine e;
    mode_files files;
    int n_modes = 0, n, r, *ids;
    if (!o->kv || o->n_texts != 1) return usage("judge needs --kv and one --text", NULL);
    if (parse_modes(o->kv, modes, &n_modes, err)) return complain(err);
    r = engine_open(&e, o->model);
    if (r) return r;
    ids = malloc((size_t)o->ctx * sizeof *ids);
    if (!ids) r = complain("out of memory");
    if (files_open(&files, o, &e, err)) r = complain(err);
    if (!r) {
        n = llm_file_tokens(e.t, o->texts[0], o->ctx, ids, err);
        if (n < 0 || llm_judge(v, modes, n_modes, e.m, &files.env, ids, n, o->start, err))
            r = complain(err);
    }
    if (!r) r = report(o, v, n_modes, files.profile_bytes);
    files_close(&files);
    free(ids);
    engine_close(&e);
    return r;
}

/* compare ------------------------------------------------------------------------------------- */
/* Tokens of the texts, one after the other and again from the first until there are n. */
static int fill_tokens(const options *o, const engine *e, int n, int *ids, char *err)
{
    int at = 0, i, got, before;
    while (at < n) {
        before = at;
        for (i = 0; i < o->n_texts && at < n; i++) {
            got = llm_file_tokens(e->t, o->texts[i], n - at, ids + at, err);
            if (got < 0) return -1;
            at += got;
        }
        if (at > before) continue;
        snprintf(err, GGUF_ERR_BYTES, "no tokens in the texts");
        return -1;
    }
    return 0;
}

static int pace_json(const options *o, const llm_pace *v, int n, double prompt)
{
    FILE *f = json_open(o->json);
    int i;
    if (!f) return 1;
    for (i = 0; i < n; i++)
        fprintf(f, "{\"mode\": \"%s\", \"prompt_tokens\": %d, \"tokens\": %d, "
                "\"prompt_seconds\": %.4f, \"encode_seconds\": %.4f, \"ms_per_token\": %.4f, "
                "\"least_ms_per_token\": %.4f, \"cache_share\": %.4f, \"exact_to_this\": %.4f, "
                "\"cache_bytes\": %zu, \"bpe\": %.4f, \"bpe_pages\": %.4f, \"top1\": %.4f}\n",
                v[i].mode.name, o->ctx, o->n, prompt, v[i].encode, 1e3 * v[i].step,
                1e3 * v[i].least, v[i].cache, v[i].ratio, v[i].stats.bytes, v[i].stats.bpe,
                v[i].stats.bpe_pages, (double)v[i].agree / o->n);
    return json_close(f);
}

static int pace_report(const options *o, const llm_pace *v, int n, double prompt)
{
    int i;
    if (o->json && pace_json(o, v, n, prompt)) return 1;
    if (o->json && !strcmp(o->json, "-")) return 0;
    printf("prompt: %d tokens, %.2f s with the exact cache; then %d tokens with each in turn\n"
           "%-16s %9s %9s %9s %9s %10s %9s %9s %7s %7s\n", o->ctx, prompt, o->n, "mode", "ms/token",
           "least", "tokens/s", "in cache", "exact:this", "encode", "MB", "pages", "top-1");
    for (i = 0; i < n; i++)
        printf("%-16s %9.2f %9.2f %9.2f %7.1f %% %10.3f %7.2f %% %9.2f %7.3f %7.4f\n",
               v[i].mode.name, 1e3 * v[i].step, 1e3 * v[i].least, 1 / v[i].step, 100 * v[i].cache,
               v[i].ratio, 100 * v[i].encode / prompt, (double)v[i].stats.bytes / 1e6,
               v[i].stats.bpe_pages, (double)v[i].agree / o->n);
    printf("in cache: append and attend, of a token; encode: append, of the prompt's time\n");
    return 0;
}

static int command_compare(const options *o)
{
    char err[GGUF_ERR_BYTES];
    llm_mode modes[MAX_MODES];
    llm_pace v[MAX_MODES + 1];
    engine e;
    mode_files files;
    double prompt = 0;
    int n_modes = 0, n, r, *ids;
    if (!o->kv || !o->n_texts) return usage("compare needs --kv and --text", NULL);
    if (o->n > INT_MAX / 2 || o->ctx > INT_MAX / 2) return usage("too many tokens", NULL);
    n = o->ctx + o->n;
    if (parse_modes(o->kv, modes, &n_modes, err)) return complain(err);
    r = engine_open(&e, o->model);
    if (r) return r;
    ids = malloc((size_t)n * sizeof *ids);
    if (!ids) snprintf(err, sizeof err, "out of memory");
    if (files_open(&files, o, &e, err) || !ids || fill_tokens(o, &e, n, ids, err) ||
        llm_compare(v, modes, n_modes, e.m, &files.env, ids, n, o->n, &prompt, err))
        r = complain(err);
    else r = pace_report(o, v, n_modes + 1, prompt);
    files_close(&files);
    free(ids);
    engine_close(&e);
    return r;
}

/* generate ------------------------------------------------------------------------------------ */
typedef struct talk {
    engine e;
    llm_lane lane;
    skv_profile *profile;
    struct baseline_grams *grams;
    llm_run *run;
    llm_sampler *sampler;
    float *logits;
    int *ids, n_prompt, n_out, max;
    double prompt_seconds, seconds;
    llm_kv_timed timed;             /* the lane's cache */
    double prompt_cache_seconds;    /* of the prompt's, in append and attend */
} talk;

static void talk_close(talk *t)
{
    llm_lane_free(&t->lane);
    skv_profile_free(t->profile);
    baseline_grams_free(t->grams);
    llm_run_free(t->run);
    llm_sampler_free(t->sampler);
    free(t->logits);
    free(t->ids);
    engine_close(&t->e);
}

/* The prompt's tokens, in the model's chat form unless --raw. */
static int talk_tokens(talk *t, const options *o, char *err)
{
    size_t room = strlen(o->prompt) + 4096;
    char *text = malloc(room);
    int bos = llm_tokenizer_bos(t->e.t), first = bos >= 0;
    long n, most;
    if (!text) goto no_memory;
    if (o->raw || llm_chat_prompt(t->e.t, o->prompt, text, room) < 0) strcpy(text, o->prompt);
    n = llm_tokenize(t->e.t, text, strlen(text), !o->raw, NULL, 0);
    most = (long)first + n + o->n;
    if (n < 0 || most > INT_MAX / 2) goto no_memory;
    t->ids = malloc((size_t)most * sizeof *t->ids);
    if (!t->ids) goto no_memory;
    if (first) t->ids[0] = bos;
    llm_tokenize(t->e.t, text, strlen(text), !o->raw, t->ids + first, n);
    t->n_prompt = first + (int)n;
    t->max = (int)most;
    free(text);
    if (t->n_prompt) return 0;
    snprintf(err, GGUF_ERR_BYTES, "the prompt is empty");
    return -1;
no_memory:
    free(text);
    snprintf(err, GGUF_ERR_BYTES, "out of memory");
    return -1;
}

static int talk_open(talk *t, const options *o, char *err)
{
    llm_mode mode;
    const char *kv = o->kv ? o->kv : "exact";
    size_t bytes = 0;
    llm_mode_env env;
    if (llm_mode_parse(&mode, kv, strlen(kv), err) || talk_tokens(t, o, err)) return -1;
    t->logits = malloc((size_t)t->e.c->n_vocab * sizeof *t->logits);
    if (!t->logits) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    if (mode.profile && o->profile &&
        llm_profile_load(&t->profile, o->profile, t->e.g, t->e.c, &bytes, err))
        return -1;
    if (o->grams && baseline_grams_load(&t->grams, o->grams, t->e.c, err)) return -1;
    env.c = t->e.c;
    env.profile = t->profile;
    env.grams = t->grams;
    env.cold = NULL;
    env.cuda = o->cuda;
    if (llm_lane_open(&t->lane, &mode, &env, t->max, err)) return -1;
    t->timed.kv = t->lane.kv;
    return llm_run_new(&t->run, t->e.m, err) ||
           llm_sampler_new(&t->sampler, t->e.c->n_vocab, o->temp, o->top_k, o->top_p, o->seed, err)
           ? -1 : 0;
}

static int talk_forward(talk *t, const int *ids, int n, int pos, float *logits, char *err)
{
    llm_kv kv = llm_kv_timed_ops(&t->timed);
    int r = llm_forward(t->e.m, t->run, ids, n, pos, &kv, NULL, logits, logits ? 1 : 0);
    if (r)
        snprintf(err, GGUF_ERR_BYTES, "token %d: %s", pos,
                 llm_lane_error(&t->lane, r));
    return r ? -1 : 0;
}

static int talk_run(talk *t, const options *o, char *err)
{
    double t0 = llm_seconds();
    llm_progress bar;
    int at, n, quiet = o->json && !strcmp(o->json, "-");
    llm_progress_begin(&bar, "reading the prompt", t->n_prompt);
    for (at = 0; at < t->n_prompt; at += n) {
        n = at == 0 ? LLM_SINKS : LLM_CHUNK;
        if (n > t->n_prompt - at) n = t->n_prompt - at;
        if (talk_forward(t, t->ids + at, n, at, at + n == t->n_prompt ? t->logits : NULL, err))
            return -1;
        llm_progress_at(&bar, at + n);
    }
    llm_progress_end(&bar);
    t->prompt_seconds = llm_seconds() - t0;
    t->prompt_cache_seconds = t->timed.seconds;
    t0 = llm_seconds();
    for (at = t->n_prompt; at < t->max; at++) {
        char piece[512];
        int id = llm_sample(t->sampler, t->logits);
        if (id < 0) {
            snprintf(err, GGUF_ERR_BYTES, "the model gave no number as logit");
            return -1;
        }
        if (llm_tokenizer_is_end(t->e.t, id)) break;
        t->ids[at] = id;
        t->n_out++;
        if (!quiet) {
            fwrite(piece, 1, llm_detokenize(t->e.t, id, piece, sizeof piece), stdout);
            fflush(stdout);
        }
        if (at + 1 < t->max && talk_forward(t, &id, 1, at, t->logits, err)) return -1;
    }
    t->seconds = llm_seconds() - t0;
    if (!quiet) putchar('\n');
    fflush(stdout);
    return 0;
}

static int talk_report(const talk *t, const options *o)
{
    double speed = t->seconds > 0 ? t->n_out / t->seconds : 0, read = t->prompt_cache_seconds;
    double share = t->seconds > 0 ? (t->timed.seconds - read) / t->seconds : 0;
    llm_lane_stats k;
    FILE *f;
    int i;
    llm_lane_measure(&t->lane, &k);
    fprintf(stderr, "%d + %d tokens; prompt %.2f s, then %.1f tokens/s; cache %s: %zu bytes "
            "(%.2f bits per element%s)\nattention and append: %.2f s of the prompt, %.0f %% of a "
            "token\n", t->n_prompt, t->n_out, t->prompt_seconds, speed, o->kv ? o->kv : "exact",
            k.bytes, k.bpe, t->lane.exact ? ", as f16" : ", all counted", read, 100 * share);
    if (!o->json) return 0;
    f = json_open(o->json);
    if (!f) return 1;
    fprintf(f, "{\"mode\": \"%s\", \"prompt_tokens\": %d, \"tokens\": %d, "
            "\"prompt_seconds\": %.4f, \"prompt_cache_seconds\": %.4f, "
            "\"tokens_per_second\": %.3f, \"cache_share\": %.4f, \"cache_bytes\": %zu, "
            "\"bpe\": %.4f, \"ids\": [",
            o->kv ? o->kv : "exact", t->n_prompt, t->n_out, t->prompt_seconds, read, speed, share,
            k.bytes, k.bpe);
    for (i = 0; i < t->n_out; i++) fprintf(f, "%s%d", i ? ", " : "", t->ids[t->n_prompt + i]);
    fprintf(f, "]}\n");
    return json_close(f);
}

static int command_generate(const options *o)
{
    char err[GGUF_ERR_BYTES];
    talk t;
    int r;
    if (!o->prompt) return usage("generate needs --prompt", NULL);
    memset(&t, 0, sizeof t);
    r = engine_open(&t.e, o->model);
    if (r) return r;
    if (talk_open(&t, o, err)) r = complain(err);
    else if (talk_run(&t, o, err)) r = complain(err) - 1;
    else r = talk_report(&t, o);
    talk_close(&t);
    return r;
}

/* capture ------------------------------------------------------------------------------------- */
static int command_capture(const options *o)
{
    char err[GGUF_ERR_BYTES];
    engine e;
    int r;
    if (o->n_texts != 1 || !o->out || !o->n_layers)
        return usage("capture needs one --text, --layers and --out", NULL);
    r = engine_open(&e, o->model);
    if (r) return r;
    if (llm_capture(o->out, e.m, e.t, o->texts[0], o->tokens, o->layers, o->n_layers, err))
        r = complain(err);
    engine_close(&e);
    return r;
}

/* grams --------------------------------------------------------------------------------------- */
static int command_grams(const options *o)
{
    char err[GGUF_ERR_BYTES];
    engine e;
    int r;
    if (!o->n_texts || !o->out) return usage("grams needs --text and --out", NULL);
    r = engine_open(&e, o->model);
    if (r) return r;
    if (baseline_grams_make(o->out, e.m, e.t, o->texts, o->n_texts, o->tokens, err))
        r = complain(err);
    engine_close(&e);
    return r;
}

int main(int argc, char **argv)
{
    options o;
    int r;
    if (argc < 2) return usage(NULL, NULL);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        fputs(usage_text, stdout);
        return 0;
    }
    r = parse(&o, argc, argv);
    if (r) return r;
    if (!strcmp(argv[1], "generate")) return command_generate(&o);
    if (!strcmp(argv[1], "profile")) return command_profile(&o);
    if (!strcmp(argv[1], "inspect")) return command_inspect(&o);
    if (!strcmp(argv[1], "judge")) return command_judge(&o);
    if (!strcmp(argv[1], "compare")) return command_compare(&o);
    if (!strcmp(argv[1], "plot")) return command_plot(&o);
    if (!strcmp(argv[1], "capture")) return command_capture(&o);
    if (!strcmp(argv[1], "grams")) return command_grams(&o);
    return usage("unknown command", argv[1]);
}
