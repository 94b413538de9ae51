/* parts.h: what the baselines are made of. Every function that a published formula defines is here,
 * so that tests/test_llm_baselines.c can hold it against that formula.
 */
#ifndef BASELINES_PARTS_H
#define BASELINES_PARTS_H
#include "baselines.h"
#include "grams.h"
#include <stddef.h>

/* ---- baselines.c ---- */

/* Rounded to the nearest f16, ties to even; what is beyond 65504 becomes that. */
float baseline_half(float x);
void  baseline_half_rows(float *x, size_t n);

/* x of n = 2^k elements times the orthonormal, symmetric Hadamard matrix: its own inverse. */
void baseline_hadamard(float *x, int n);
/* The same for every run of `block` elements of x[0..n). */
void baseline_hadamard_blocks(float *x, size_t n, int block);
int  baseline_power_of_two(int n);          /* the largest that divides n */

/* Asymmetric round to nearest of n elements, stride apart: lo = f16(min), step =
 * f16((max - lo) / (2^bits - 1)), x -> lo + step q. Returns the bits stored: n bits + 32. */
double baseline_asymmetric(float *x, int n, size_t stride, int bits);

/* RoPE of rows [n][heads][d] of a layer, tokens first .. first + n - 1; turn 1 applies it, -1 takes
 * it off. Angles position * base^(-2i/d) with the layer's base; pairs as the engine has them. A
 * model's own divisors (rope_freqs, linear scaling) are not in llm_config: the two directions then
 * still undo each other, but the rows between are not those that the model had. */
void baseline_rope(const llm_config *c, int layer, int heads, int first, int n, int turn,
                   float *rows);

/* A whole number least .. most that ends the word. 0, or -1. */
int  baseline_whole(const char *s, int least, int most, int *out);
int  baseline_refuse(char *err, const char *name, const char *what);   /* -1 with a sentence */

/* ---- families; what baseline_open calls. 0, 1 = not mine, -1 with a sentence ---- */

int baseline_rtn_open(llm_codec *out, const char *name, const baseline_env *env, char *err);
int baseline_kvarn_open(llm_codec *out, const char *name, const baseline_env *env, char *err);
int baseline_lowrank_open(llm_codec *out, const char *name, const baseline_env *env, char *err);
int baseline_svdq_open(llm_codec *out, const char *name, const baseline_env *env, char *err);
int baseline_spectralquant_open(llm_codec *out, const char *name, const baseline_env *env,
                                char *err);

/* ---- rtn.c ---- */

enum { BASELINE_BLOCK = 32 };       /* elements of a ggml block, or of a KIVI group */

/* ggml's blocks: q8_0 = f16 d, 32 x i8; q4_0 = f16 d, 16 bytes of which byte j holds element j in
 * its low half and element j + 16 in its high half. */
void baseline_q8_0(const float *x, unsigned char block[34]);
void baseline_q4_0(const float *x, unsigned char block[18]);
/* kind 0: keys, groups of 32 tokens per channel; 1: values, groups of 32 channels per token. */
double baseline_kivi(float *rows, int n, int heads, int d, int kind, int bits);

/* ---- kvarn.c ---- */

/* Scales of rows and columns that balance the standard deviations of x [rows][cols]. */
int baseline_kvarn_balance(const double *x, int rows, int cols, double *s_row, double *s_col);
/* One tile x [rows][cols] and back; rows are quantised. Returns the bits, or -1. */
double baseline_kvarn_tile(double *x, int rows, int cols, int bits);

/* ---- lowrank.c ---- */

/* Rank r map x -> sum_i (down_i . x) up_i, rows down, up [r][d]. 0, or -1. */
int baseline_kqsvd(const double *gram_k, const double *gram_q, int d, int r, double *down,
                   double *up);
/* The r leading eigenvectors of a + b (b may be NULL) as rows. 0, or -1. */
int baseline_eigen(const double *a, const double *b, int d, int r, double *basis);
/* ThinK: keep[] of the `count` channels with the largest |Q_j| |K_j|; score = its square. */
void baseline_think(const double *score, int d, int count, unsigned char *keep);

/* ---- spectralquant.c ---- */

/* Bits of the d_eff leading channels (high) and of the rest, for an average of `bits`. */
void baseline_spectralquant_bits(int bits, int d_eff, int d, int *high, int *low);
int  baseline_participation(const double *w, int n);    /* (sum w)^2 / sum w^2, in 1 .. n-1 */
/* Lloyd-Max levels for the mixture of n normal densities. 0, or -1. */
int  baseline_lloyd_max(const double *mean, const double *sd, int n, int bits, double *levels);
#endif
