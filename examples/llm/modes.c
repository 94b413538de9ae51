/* modes.c: see modes.h. */
#include "modes.h"
#include "baselines.h"
#include "codecs_classic.h"
#include "codecs_cold.h"
#include "kv_cuda.h"
#include "kv_spectral.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Words whose cache is not an llm_codec. arg is what follows the colon, or NULL. */
typedef struct mode_kind {
    const char *word, *form;
    int profile;
    int (*parse)(llm_mode *m, const char *arg);         /* 0, or -1 */
    int (*open)(llm_lane *lane, const llm_mode *m, const llm_mode_env *env, int max_tokens,
                char *err);
} mode_kind;

static int parse_nothing(llm_mode *m, const char *arg)
{
    (void)m;
    return arg ? -1 : 0;
}

static int parse_bpe(llm_mode *m, const char *arg)
{
    char *end;
    if (!arg) return -1;
    m->target.bpe = (float)strtod(arg, &end);
    return end != arg && !*end && m->target.bpe > 0 && m->target.bpe <= 16 ? 0 : -1;
}

static int open_exact(llm_lane *lane, const llm_mode *m, const llm_mode_env *env, int max_tokens,
                      char *err)
{
    (void)m;
    if (llm_kv_exact_new(&lane->exact, env->c, max_tokens, err)) return -1;
    lane->kv = llm_kv_exact_ops(lane->exact);
    return 0;
}

static int open_cuda(llm_lane *lane, const llm_mode *m, const llm_mode_env *env,
                     const skv_model *model, int max_tokens, char *err)
{
#ifdef LLM_CUDA
    if (llm_kv_cuda_new(&lane->cuda, env->profile, model, &m->target, max_tokens, err)) return -1;
    lane->kv = llm_kv_cuda_ops(lane->cuda);
    return 0;
#else
    (void)lane, (void)m, (void)env, (void)model, (void)max_tokens;
    snprintf(err, GGUF_ERR_BYTES, "this skv-llm has no CUDA: build it with `make CUDA=1`");
    return -1;
#endif
}

static int open_spectral(llm_lane *lane, const llm_mode *m, const llm_mode_env *env,
                         int max_tokens, char *err)
{
    skv_layer *layers = malloc((size_t)env->c->n_layers * sizeof *layers);
    skv_model model;
    int bad;
    if (!layers) {
        snprintf(err, GGUF_ERR_BYTES, "out of memory");
        return -1;
    }
    model = llm_skv_model(env->c, 0, layers);
    bad = env->cuda ? open_cuda(lane, m, env, &model, max_tokens, err)
                    : llm_kv_spectral_new(&lane->cache, env->profile, &model, &m->target,
                                          max_tokens, err);
    if (!bad && lane->cache) lane->kv = llm_kv_spectral_ops(lane->cache);
    free(layers);
    return bad;
}

/* The presets are head groups: fast has one latent space per KV head, small one for all. */
static int check_heads(const llm_mode *m, const llm_mode_env *env, int want, char *err)
{
    const float *var;
    size_t channels = 0;
    (void)skv_profile_spectrum(env->profile, 0, SKV_K, 0, &var, &channels);
    if (channels == (size_t)want * (size_t)env->c->head_dim) return 0;
    snprintf(err, GGUF_ERR_BYTES, "mode %s needs a profile with %d heads in a group: make one with "
             "`skv-llm profile --group %s`", m->name, want, want > 1 ? "joint" : "1");
    return -1;
}

static int open_fast(llm_lane *lane, const llm_mode *m, const llm_mode_env *env, int max_tokens,
                     char *err)
{
    if (check_heads(m, env, 1, err)) return -1;
    return open_spectral(lane, m, env, max_tokens, err);
}

static int open_small(llm_lane *lane, const llm_mode *m, const llm_mode_env *env, int max_tokens,
                      char *err)
{
    if (check_heads(m, env, env->c->n_kv_heads, err)) return -1;
    return open_spectral(lane, m, env, max_tokens, err);
}

static const mode_kind kinds[] = {
    {"exact", "exact", 0, parse_nothing, open_exact},
    {"spectral", "spectral:BPE", 1, parse_bpe, open_spectral},
    {"fast", "fast:BPE", 1, parse_bpe, open_fast},
    {"small", "small:BPE", 1, parse_bpe, open_small}
};
enum { N_KINDS = (int)(sizeof kinds / sizeof kinds[0]) };

static const char codec_words[] = COLD_WORDS ", " CLASSIC_WORDS ", " BASELINE_WORDS;

/* Is the stem (up to a colon) one of the comma separated words? */
static int listed(const char *words, const char *name)
{
    size_t n = strcspn(name, ":");
    while (*words) {
        if (n && !strncmp(words, name, n) && strchr(":,", words[n])) return 1;
        words += strcspn(words, ",");
        words += strspn(words, ", ");
    }
    return 0;
}

static int unknown(const char *word, size_t n, char *err)
{
    int i, used = snprintf(err, GGUF_ERR_BYTES, "mode `%.*s` is not known: use ",
                           n < 24 ? (int)n : 24, word);
    for (i = 0; i < N_KINDS && used < GGUF_ERR_BYTES; i++)
        used += snprintf(err + used, (size_t)(GGUF_ERR_BYTES - used), "%s, ", kinds[i].form);
    if (used < GGUF_ERR_BYTES)
        snprintf(err + used, (size_t)(GGUF_ERR_BYTES - used), "%s", codec_words);
    return -1;
}

int llm_mode_parse(llm_mode *m, const char *word, size_t n, char *err)
{
    const char *colon;
    size_t stem;
    int i;
    memset(m, 0, sizeof *m);
    if (!n || n >= sizeof m->name) return unknown(word, n, err);
    memcpy(m->name, word, n);
    colon = strchr(m->name, ':');
    stem = colon ? (size_t)(colon - m->name) : n;
    for (i = 0; i < N_KINDS; i++)
        if (strlen(kinds[i].word) == stem && !memcmp(kinds[i].word, word, stem)) {
            m->kind = i;
            m->profile = kinds[i].profile;
            if (!kinds[i].parse(m, colon ? colon + 1 : NULL)) return 0;
            snprintf(err, GGUF_ERR_BYTES, "mode `%s` is not of the form %s%s", m->name,
                     kinds[i].form, kinds[i].parse == parse_bpe ? " (bits per element, above 0, at "
                     "most 16, such as 4.3)" : "");
            return -1;
        }
    m->kind = -1;
    return listed(codec_words, m->name) ? 0 : unknown(word, n, err);
}

static int open_coded(llm_lane *lane, const llm_mode *m, const llm_mode_env *env, int max_tokens,
                      char *err)
{
    llm_codec codec;
    baseline_env e;
    int r;
    memset(&codec, 0, sizeof codec);
    e.c = env->c;
    e.grams = env->grams;
    r = llm_classic_open(&codec, m->name, &e, err);
    if (r == 1) r = llm_cold_open(&codec, m->name, env->c, env->cold, err);
    if (r == 1) r = baseline_open(&codec, m->name, &e, err);
    if (r == 1) return unknown(m->name, strlen(m->name), err);
    if (r || llm_kv_coded_new(&lane->coded, env->c, max_tokens, codec, err)) return -1;
    lane->kv = llm_kv_coded_ops(lane->coded);
    return 0;
}

int llm_lane_open(llm_lane *lane, const llm_mode *mode, const llm_mode_env *env, int max_tokens,
                  char *err)
{
    memset(lane, 0, sizeof *lane);
    if (mode->profile && !env->profile) {
        snprintf(err, GGUF_ERR_BYTES, "mode %s needs --profile P.skv (make one with "
                 "`skv-llm profile`)", mode->name);
        return -1;
    }
    if (mode->kind >= 0) return kinds[mode->kind].open(lane, mode, env, max_tokens, err);
    return open_coded(lane, mode, env, max_tokens, err);
}

void llm_lane_free(llm_lane *lane)
{
    llm_kv_exact_free(lane->exact);
    llm_kv_coded_free(lane->coded);
    skv_cache_free(lane->cache);
#ifdef LLM_CUDA
    llm_kv_cuda_free(lane->cuda);
#endif
}

void llm_lane_measure(const llm_lane *lane, llm_lane_stats *s)
{
    memset(s, 0, sizeof *s);
    s->bpe = 16;
    if (lane->exact) s->bytes = llm_kv_exact_bytes_f16(lane->exact);
    if (lane->coded) {
        s->bpe = llm_kv_coded_bpe(lane->coded);
        s->bpe_pages = llm_kv_coded_bpe_pages(lane->coded);
        s->bytes = llm_kv_coded_bytes(lane->coded);
    }
    if (lane->cache) (void)skv_cache_usage(lane->cache, &s->usage);
#ifdef LLM_CUDA
    if (lane->cuda) llm_kv_cuda_usage(lane->cuda, &s->usage);
#endif
    if (lane->cache || lane->cuda) {
        s->bpe = s->usage.bpe;
        s->bpe_pages = s->usage.bpe_pages;
        s->bytes = s->usage.bytes;
    }
}

const char *llm_lane_error(const llm_lane *lane, int code)
{
    if (lane->cache || lane->cuda) return skv_result_text((skv_result)code);
    if (code == LLM_KV_FULL) return "the cache is full";
    return lane->coded ? "the codec refused its rows" : "the forward pass failed";
}
