/* calibrate.h: runs texts through the model with the exact cache and streams Q, K, V of every layer
 * into an skv_profiler; also writes captures. */
#ifndef LLM_CALIBRATE_H
#define LLM_CALIBRATE_H
#include "model.h"
#include "prices.h"
#include "spectral_kv.h"
#include "tokenizer.h"

typedef struct llm_calibration {
    int      n_texts, n_tokens;     /* passages, and tokens of each at most */
    char   **texts;                 /* file names */
    uint32_t head_group;            /* KV heads per latent space; what was chosen, if it was */
    double   group_price;           /* 0 or above: fewer may be chosen, at these bits a head */
    int      price_norm;            /* prices from the norms around attention, none measured */
    int      cold_depth;            /* above 0: fit cold pages too, from so many layers before */
    skv_cold_profile *cold;         /* out: the caller's to free, or NULL */
    size_t   profiler_bytes;        /* out: memory that the sums took */
    double  *price;                 /* out: [n_layers][2], K and V; the caller's to free */
    llm_prices *prices;             /* out: how they were measured, to be freed, or NULL: not */
    double   seconds_model, seconds_gram, seconds_fit, seconds_price;       /* out */
} llm_calibration;

/* 0, or -1 with a sentence in err. */
int llm_calibrate(skv_profile **out, const gguf *g, const llm_model *m, const llm_tokenizer *t,
                  llm_calibration *c, const skv_target *target, char *err);

/* Writes Q, K, V of some layers for the first n tokens of a text as f16; format: calibrate.c. */
int llm_capture(const char *path, const llm_model *m, const llm_tokenizer *t, const char *text_file,
                int n, const int *layers, int n_layers, char *err);

/* Token ids of a file's first n tokens, BOS first where the model wants one; fewer when the file
 * ends. Returns the count, or -1 with a sentence. */
int llm_file_tokens(const llm_tokenizer *t, const char *path, int n, int *ids, char *err);
#endif
