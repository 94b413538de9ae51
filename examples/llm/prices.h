/* prices.h: what an error in the cache costs, measured: one layer's K or V at a time goes through
 * the codec, and the KL of the next token against the exact run is divided by the error that the
 * codec made in the latent space. The plan needs the ratios between layers and streams; a common
 * factor changes nothing.
 *
 * A passage is run once exactly. Then, for every stream, the rows that have left the window are
 * replaced, the last positions run again through the layers from that one on, and the last
 * `scored` of them are compared. That the positions before them run exactly changes little: with
 * 64 more run again log prices of SmolLM2 moved by 0.15, while two passages differ by 0.6.
 */
#ifndef LLM_PRICES_H
#define LLM_PRICES_H
#include "kv_spectral.h"
#include "model.h"

#define LLM_PRICE_TOKENS 140        /* a shorter passage cannot be priced */

typedef struct llm_price_options {
    int    pages;                   /* rows replaced: at most 64 times so many */
    int    settle, scored;          /* last positions: run again, of these compared; at most 64 */
    double energy;                  /* share of a stream's latent energy that the codec keeps */
} llm_price_options;
extern const llm_price_options llm_price_defaults;

typedef struct llm_prices {
    int     n_layers, n_samples;
    double *sample;                 /* [n_samples][n_layers][2]: KL over latent error, in units of
                                       the profile's prices; 0: no effect or not finite */
    double *factor;                 /* [n_layers][2]: to multiply the profile's prices with */
    int     silent;                 /* streams without a sample: they keep their price */
    double  noise, spread;          /* of log factor: standard error; spread between streams */
    double  trust;                  /* exponent on the measured ratio, 0 .. 1/2 */
} llm_prices;

int  llm_prices_new(llm_prices **out, int n_layers, int n_samples, char *err);
void llm_prices_free(llm_prices *p);

/* Sample number `at` from one passage. profile: fitted with the prices that are to be corrected.
 * tick: NULL, or called after every stream. 0, or -1 with a sentence in err. */
int  llm_prices_measure(llm_prices *p, int at, const llm_model *m, const skv_profile *profile,
                        const llm_price_options *o, const int *ids, int n,
                        void (*tick)(void *user), void *user, char *err);

/* From the samples to factor and the figures behind it; rule: prices.c. */
void llm_prices_combine(llm_prices *p);
#endif
