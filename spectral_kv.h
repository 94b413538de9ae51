/* spectral_kv.h - v0.1.0 - KV-cache compression for transformer language models, in one C99 file.
   MIT-0 or public domain, at your choice; the text is at the end of this file.

   Do this in ONE C or C++ file of your project:

       #define SPECTRAL_KV_IMPLEMENTATION
       #include "spectral_kv.h"

   and include it without the define wherever else you need it. Nothing but libc and libm is used.

   WHAT IT DOES
     Replaces "append K and V in f16, then attend" of an inference loop. Old tokens leave the exact
     window in pages of 64, are turned into a latent space in which squared error is expected error
     of the model's output, quantised there with the bits where they matter, and attention runs on
     the codes. It is the codec, the cache and the attention; it is not an engine.
     SmolLM2-135M, per head, 4.24 bits per element in the pages with everything counted: mean KL of
     the next token 0.0024 nats, 98 % the same top token (`make bench-quality`, README.md).

   A COMPLETE PROGRAM              (examples/ has six more, from a quick start to a generation loop)

       #define SPECTRAL_KV_IMPLEMENTATION
       #include "spectral_kv.h"
       #include <stdio.h>

       enum { T = 512, HEADS = 2, D = 64 };         // tokens, heads of Q and of KV, head_dim
       static float q[T * HEADS * D], k[T * HEADS * D], v[T * HEADS * D], o[T * HEADS * D];

       int main(void)
       {
           skv_span sq = skv_f32(q), sk = skv_f32(k), sv = skv_f32(v);
           skv_out so = skv_out_f32(o);
           skv_profiler_desc p = SKV_ZERO;          // zero is a valid description: all defaults
           skv_cache_desc d = SKV_ZERO;
           skv_profiler *profiler = NULL;
           skv_profile *profile = NULL;
           skv_cache *cache = NULL;
           skv_usage use = SKV_ZERO;
           skv_result r;
           for (unsigned i = 0; i < T * HEADS * D; i++) {       // your model's tensors go here
               k[i] = (float)(i * 2654435761u >> 22) / 512 - 1;
               v[i] = (float)(i * 2246822519u >> 22) / 512 - 1;
               q[i] = (float)(i * 3266489917u >> 22) / 512 - 1;
           }
           p.model.n_layers = 1;
           p.model.layer.n_q_heads = p.model.layer.n_kv_heads = HEADS;
           p.model.layer.head_dim = D;
           r = skv_profiler_init(&profiler, &p);                // once per model: calibrate
           if (r >= SKV_OK) r = skv_profiler_add(profiler, 0, &sq, &sk, &sv, T);
           if (r >= SKV_OK) r = skv_profiler_fit(profiler, NULL, &profile);
           d.profile = profile;
           d.target.bpe = 4.0f;                     // bits per element of the pages, at most
           d.max_tokens = T;
           if (r >= SKV_OK) r = skv_cache_init(&cache, &d);     // per sequence
           if (r >= SKV_OK) r = skv_append(cache, 0, &sk, &sv, T);      // layer 0, T tokens
           if (r >= SKV_OK) r = skv_attend(cache, 0, &sq, 1, &so, NULL);    // newest query
           if (r >= SKV_OK) r = skv_cache_usage(cache, &use);
           printf("%s; %.2f bits per element in pages\n", skv_result_text(r), use.bpe_pages);
           skv_cache_free(cache);
           skv_profile_free(profile);
           skv_profiler_free(profiler);
           return r < SKV_OK;
       }

   OUTLINE (search for the tag)
     In the API            >>result  >>tensor  >>memory  >>model  >>profiler  >>profile  >>codec
                           >>cache  >>attend  >>linalg
     In the implementation >>base  >>kernels  >>la  >>product  >>jacobi  >>eigh  >>svd  >>fit
                           >>quant  >>plan  >>summary  >>blob  >>page  >>heap  >>ring  >>scores

   SHAPES AND STRIDES
     Q is [n_tokens][n_q_heads][head_dim], K [n_tokens][n_kv_heads][head_dim], V and the output have
     head_dim_v in place of head_dim. The last axis is contiguous, the others have strides in
     elements (skv_span). f32, f16 and bf16 are read as they are. Query head h uses KV head
     h / (n_q_heads / n_kv_heads): MHA, GQA and MQA are the same code. head_dim is 16 to 576, any
     number. Keys and queries come after RoPE and QK norms.

   WHICH TOKENS ARE EXACT
     The first `sinks` tokens and the recent ones, in f16 (or f32). A page of 64 is encoded when
     window + 64 recent tokens have gathered, and only by skv_append, before it adds: every query
     sees at least `window` recent tokens exactly, at most window + 63 + the tokens of its own call.
     Where max_append is smaller than the n of one skv_append, the tokens go in by pieces and early
     queries of that call may see pages in place of their window; skv_prefill avoids that.
     Tokens that no page can hold well (outliers) are kept in f16 inside their page.

   MEMORY
     No allocation after skv_cache_init but pages, which come from your allocator (default malloc).
     With desc.memory the object and all its pages live in that memory and nothing is allocated at
     all; skv_cache_size() says how much that takes. skv_profiler_add and _fit allocate work space.
     A profile given to a cache or codec is borrowed: keep it alive.

   ERRORS
     Every function that can fail returns skv_result: 0 is success, negative an error, positive a
     warning with usable results. On error outputs and objects are as before. skv_result_text() says
     what to do. Nothing aborts or prints. NaN and infinity are refused with their own code.

   THREADS
     No threads of its own, no globals. One call at a time per object; different objects are
     independent; skv_profiler_add may run for different layers at the same time when no desc.memory
     was given. A caller's parallel_for (skv_parallel) spreads encoding and attention over head
     groups; the result does not depend on it.

   NUMERICS
     Pages written by one build are read by every other: integers, bf16, f16 with fixed layout and
     order (skv_encode describes it). Encoding uses float products: a code on the border between two
     levels may come out differently under another compiler or with fused multiply-add. Attention is
     float with sums in fixed order per build. Fits are double.

   CONFIGURATION (define before the implementation; defaults in brackets)
     SKVDEF            linkage of the API [extern]
     SKV_STATIC        [off] makes everything static to the including file
     SKV_NO_STDLIB     [off] no malloc: pass an allocator or memory
     SKV_NO_STDIO      [off] no snprintf: skv_profile_summary is left out
     SKV_CBLAS         [off] use cblas_sgemm for the large products of calibration
     SKV_NO_SIMD       [off] no AVX2 copies of the eigen-solver's inner loops (gcc, clang, x86-64)
     SPECTRAL_KV_CUDA  [off] also include spectral_kv_cuda.cuh

   LIMITS OF THIS VERSION
     Encoding and attention run on portable C kernels (one table, ready for others). Scalar
     quantisers of 1 to 8 bits. Pages are never re-coded. Keys are compressed after RoPE, so
     positions cannot be shifted.
*/
#ifndef SPECTRAL_KV_H
#define SPECTRAL_KV_H

#include <stddef.h>
#include <stdint.h>

#define SKV_VERSION_MAJOR 0
#define SKV_VERSION_MINOR 1
#define SKV_VERSION_PATCH 0

#ifndef SKVDEF
#if !defined(SKV_STATIC)
#define SKVDEF extern
#elif defined(__GNUC__)
#define SKVDEF static __attribute__((unused))
#else
#define SKVDEF static
#endif
#endif

#ifdef __cplusplus
#define SKV_ZERO {}
extern "C" {
#else
#define SKV_ZERO {0}
#endif

#define SKV_PAGE_TOKENS 64      /* tokens of a page */
#define SKV_MIN_HEAD_DIM 16
#define SKV_MAX_HEAD_DIM 576
#define SKV_MAX_BITS 8          /* widest code of a channel */
#define SKV_NONE 0xFFFFFFFFu    /* "none at all", where 0 means the default */

/* >>result ------------------------------------------------------------------------------------
   Numbers are never reused. Positive: the result is usable, and the text says what to know. */
#define SKV_RESULTS(X) \
    X(NOT_CONVERGED,   1, "the sweep limit was reached: results are usable, less exact") \
    X(OK,              0, "ok") \
    X(ERR_ARG,        -1, "bad argument: a NULL, a count of zero or a value out of its range") \
    X(ERR_SHAPE,      -2, "shapes do not fit: check heads, head_dim and strides") \
    X(ERR_NOT_FINITE, -3, "NaN or infinity in the input: nothing was stored; look upstream") \
    X(ERR_RANGE,      -4, "a value is beyond f16 (65504: set exact_bits to 32) or beyond 1e9") \
    X(ERR_MEMORY,     -5, "out of memory: raise desc.memory_bytes, or free some and call again") \
    X(ERR_FULL,       -6, "max_tokens reached: reset, or make a cache with more capacity") \
    X(ERR_STATE,      -7, "not possible now: see the function's comment for what comes first") \
    X(ERR_FORMAT,     -8, "not such a file, or its content contradicts itself") \
    X(ERR_TRUNCATED,  -9, "the data ends early: read or copy it again, whole") \
    X(ERR_CHECKSUM,  -10, "the data is damaged: a checksum does not match; fetch it again") \
    X(ERR_VERSION,   -11, "written by a newer version: update spectral_kv.h") \
    X(ERR_MODEL,     -12, "made for another model: shape or fingerprint differ") \
    X(ERR_TARGET,    -13, "no plan reaches this target: ask for more bits or less precision")

#define SKVI_RESULT_ENUM(name, value, text) SKV_##name = value,
typedef enum skv_result { SKV_RESULTS(SKVI_RESULT_ENUM) SKV_RESULT_LAST_ = -99 } skv_result;
#undef SKVI_RESULT_ENUM

SKVDEF const char *skv_result_name(skv_result r);   /* "ERR_SHAPE"; never NULL */
SKVDEF const char *skv_result_text(skv_result r);   /* a sentence; never NULL */

/* >>tensor ------------------------------------------------------------------------------------ */
typedef enum skv_dtype { SKV_F32 = 0, SKV_F16 = 1, SKV_BF16 = 2 } skv_dtype;

/* Read-only tensor [n_tokens][n_heads][dim]; strides in elements, 0 means dense. */
typedef struct skv_span {
    const void *data;
    ptrdiff_t   token_stride;       /* 0 = n_heads * head_stride */
    ptrdiff_t   head_stride;        /* 0 = dim */
    skv_dtype   dtype;
} skv_span;

static inline skv_span skv_make_span(const void *data, skv_dtype dtype)
{
    skv_span s = SKV_ZERO;
    s.data = data;
    s.dtype = dtype;
    return s;
}
static inline skv_span skv_f32(const float *data) { return skv_make_span(data, SKV_F32); }
static inline skv_span skv_f16(const uint16_t *data) { return skv_make_span(data, SKV_F16); }
static inline skv_span skv_bf16(const uint16_t *data) { return skv_make_span(data, SKV_BF16); }

/* Where results go; same strides. f16 turns what is beyond 65504 into infinity. */
typedef struct skv_out {
    void     *data;
    ptrdiff_t token_stride, head_stride;
    skv_dtype dtype;
} skv_out;

static inline skv_out skv_make_out(void *data, skv_dtype dtype)
{
    skv_out o = SKV_ZERO;
    o.data = data;
    o.dtype = dtype;
    return o;
}
static inline skv_out skv_out_f32(float *data) { return skv_make_out(data, SKV_F32); }
static inline skv_out skv_out_f16(uint16_t *data) { return skv_make_out(data, SKV_F16); }
static inline skv_out skv_out_bf16(uint16_t *data) { return skv_make_out(data, SKV_BF16); }

/* >>memory ------------------------------------------------------------------------------------
   Both functions or neither (then malloc and free). alloc returns memory aligned for any type, or
   NULL; free gets the size back. */
typedef struct skv_allocator {
    void *user;
    void *(*alloc)(void *user, size_t bytes);
    void (*free)(void *user, void *p, size_t bytes);
} skv_allocator;

/* Runs task(arg, i) for every i in 0 .. n-1, in any order, on any threads, and returns when all are
   done. A NULL run means a plain loop. */
typedef struct skv_parallel {
    void *user;
    void (*run)(void *user, size_t n, void (*task)(void *arg, size_t i), void *arg);
} skv_parallel;

/* >>model ------------------------------------------------------------------------------------- */
typedef struct skv_layer {
    uint32_t n_q_heads, n_kv_heads; /* n_kv_heads at most 512 */
    uint32_t head_dim;              /* of Q and K */
    uint32_t head_dim_v;            /* of V and the output; 0 = head_dim */
    uint32_t sliding_window;        /* a query at p sees p - sliding_window < j <= p; 0 = all */
    float    scale;                 /* scores are scale * q.k; 0 = 1 / sqrt(head_dim); to 1e6 */
    float    softcap;               /* then softcap * tanh(score / softcap); 0 = none */
} skv_layer;

typedef struct skv_model {
    uint32_t         n_layers;
    skv_layer        layer;         /* every layer, when layers is NULL */
    const skv_layer *layers;        /* [n_layers]; copied by whoever takes the model */
    uint64_t         fingerprint;   /* your hash of weights and RoPE convention; 0 = not checked */
    const char      *name;          /* for summaries, first 63 bytes; may be NULL */
} skv_model;

/* >>profiler ----------------------------------------------------------------------------------
   Streams Q, K, V of calibration passages and keeps sums only: per head group the Gram of K and of
   V, per KV head the plain and the output-aware Gram of the queries. Two profilers of the same
   description merge by addition.

   Output-aware weights: a key's score error at (i, j) moves the head's output by
   p_ij W_O (v_j - o_i), a value's error by p_ij W_O. So query i counts in M_K with
   a_i = sum_j p_ij^2 |W_O (v_j - o_i)|^2 over the j that will be read from pages, and M_V is
   sum_ij p_ij^2 W_O^T W_O. Reverse water-filling over the eigenvalues of M^(1/2) Cov M^(1/2) then
   minimises the expected error of the layer's output. With a plain query Gram in place of the
   weights the leading channels are KQ-SVD's optimum (arXiv 2512.05916). */
typedef struct skv_profiler skv_profiler;

typedef struct skv_profiler_desc {
    skv_model     model;
    uint32_t      head_group;       /* KV heads that share a latent space; 0 = 1 = per head */
    uint32_t      sinks;            /* first tokens that will stay exact; 0 = 4, SKV_NONE = 0 */
    uint32_t      window;           /* recent tokens that will stay exact; 0 = 64 */
    uint32_t      max_passage;      /* most tokens of one skv_profiler_add; 0 = 2048 */
    uint32_t      max_queries;      /* queries weighted per passage and head, evenly spread;
                                       0 = 256 */
    skv_allocator allocator;
    void         *memory;           /* optional: everything but the profile lives here */
    size_t        memory_bytes;
} skv_profiler_desc;

SKVDEF skv_result skv_profiler_size(const skv_profiler_desc *desc, size_t *bytes);
SKVDEF skv_result skv_profiler_init(skv_profiler **out, const skv_profiler_desc *desc);
SKVDEF void       skv_profiler_free(skv_profiler *p);
SKVDEF size_t     skv_profiler_bytes(const skv_profiler *p);    /* memory held, all of it */

/* Output projection of a layer, W_O as [n_out][n_q_heads][head_dim_v] (y = W_O o, PyTorch's
   o_proj.weight as it lies in memory), magnitudes up to 1e4. Call before that layer's first add, or
   never. */
SKVDEF skv_result skv_profiler_output(skv_profiler *p, uint32_t layer, const skv_span *w_o,
                                      size_t n_out);

/* One passage: Q, K, V of the same n_tokens consecutive tokens from position 0, one layer. */
SKVDEF skv_result skv_profiler_add(skv_profiler *p, uint32_t layer, const skv_span *q,
                                   const skv_span *k, const skv_span *v, size_t n_tokens);

/* What a unit of squared error in the layer's attention output costs, for K and for V errors;
   default 1. For pre-norm models: 1 / mean squared norm of the residual stream after the layer. */
SKVDEF skv_result skv_profiler_price(skv_profiler *p, uint32_t layer, double price_k,
                                     double price_v);

/* Adds the sums of another profiler of the same model, head group, sinks, window and W_O: else
   ERR_MODEL or ERR_SHAPE. p's prices stay. */
SKVDEF skv_result skv_profiler_merge(skv_profiler *p, const skv_profiler *other);

/* >>profile -----------------------------------------------------------------------------------
   Per stream (K or V of a layer) and head group: mean, transform, its inverse, and the variance of
   each latent channel in units of expected output error. Serves every target. Immutable. */
typedef struct skv_profile skv_profile;

/* Exactly one member above zero; all zero takes the profile's own default. */
typedef struct skv_target {
    float bpe;      /* bits per element of the pages at most: codes, scales, headers, outliers */
    float energy;   /* share of every stream's latent energy to keep, such as 0.99 */
    float error;    /* expected squared output error, summed over layers, in units of the prices */
} skv_target;

/* Needs every layer to have seen at least 64 tokens, the sinks of each passage not counted: else
   ERR_STATE. fallback is the profile's own target, or NULL. The profile comes from desc.allocator,
   else malloc, also when the profiler lives in desc.memory. May return NOT_CONVERGED. */
SKVDEF skv_result skv_profiler_fit(const skv_profiler *p, const skv_target *fallback,
                                   skv_profile **out);
SKVDEF void       skv_profile_free(skv_profile *p);

/* Writes the blob into buf (capacity bytes) and its size into *bytes; buf NULL asks for the size.
   Layout: >>blob. The same profile gives the same bytes on every machine. */
SKVDEF skv_result skv_profile_save(const skv_profile *p, void *buf, size_t capacity,
                                   size_t *bytes);

/* Checks everything, then builds the profile. expect: the caller's model, or NULL for any;
   shapes must agree, and fingerprints where both are nonzero. allocator may be NULL. */
SKVDEF skv_result skv_profile_load(skv_profile **out, const void *data, size_t bytes,
                                   const skv_model *expect, const skv_allocator *allocator);

SKVDEF const skv_model *skv_profile_model(const skv_profile *p);   /* owned by the profile */
SKVDEF size_t           skv_profile_bytes(const skv_profile *p);   /* memory held */

typedef enum skv_kind { SKV_K = 0, SKV_V = 1 } skv_kind;

/* Variances of the latent channels of one head group, descending: *n of them, owned by the profile.
   Group g holds KV heads g * head_group and on. */
SKVDEF skv_result skv_profile_spectrum(const skv_profile *p, uint32_t layer, skv_kind kind,
                                       uint32_t group, const float **variances, size_t *n);

/* What a target would give, before anything is compressed. */
typedef struct skv_outlook {
    double   bpe;                   /* codes, scales, headers and the allowance for outliers */
    double   ratio;                 /* 16 / bpe */
    double   error;                 /* expected squared output error, summed over layers */
    double   energy_mean, energy_min;           /* kept share of latent energy, over streams */
    double   bpe_k, bpe_v;          /* codes of keys and of values alone */
    uint32_t rank_median, rank_min, rank_max;   /* channels with bits, over head groups */
    uint32_t rank95_median, rank95_min, rank95_max; /* channels that hold 95 % of the energy */
} skv_outlook;
SKVDEF skv_result skv_profile_outlook(const skv_profile *p, const skv_target *target,
                                      skv_outlook *out);
#ifndef SKV_NO_STDIO
/* Several lines of text for a person, zero terminated. Too small a buffer: ERR_ARG, with what fits
   in text and the needed size in *bytes (which may be NULL). */
SKVDEF skv_result skv_profile_summary(const skv_profile *p, const skv_target *target, char *text,
                                      size_t capacity, size_t *bytes);
#endif

/* >>codec -------------------------------------------------------------------------------------
   A profile with a bit plan: pages without a cache, for storage and transfer. */
typedef struct skv_codec skv_codec;

typedef struct skv_codec_desc {
    const skv_profile *profile;     /* borrowed */
    skv_target         target;
    float              outliers;    /* share of the bits set aside for outlier tokens;
                                       0 = 0.015, negative = none */
    skv_allocator      allocator;
    skv_parallel       parallel;
} skv_codec_desc;

SKVDEF skv_result skv_codec_init(skv_codec **out, const skv_codec_desc *desc);
SKVDEF void       skv_codec_free(skv_codec *c);

/* Most bytes that one page of a layer can take, and the least (no outliers). */
SKVDEF skv_result skv_codec_page_bytes(const skv_codec *c, uint32_t layer, size_t *least,
                                       size_t *most);

/* K and V of n <= 64 consecutive tokens become one page; *bytes tells its size. All head groups of
   the layer are in it: random access to a token, a channel or a group needs no other page.
     page    = u8 format (1), u8 n_tokens, u16 n_rows, u32 bytes, sub[0..2*n_groups), row[0..n_rows)
     sub     = u16 bf16 largest and u16 bf16 root mean squared residual norm |z - z^|, rounded up;
               u8 scale per coded channel; then per coded channel 8 * width bytes: the codes of 64
               tokens as one little-endian bit stream. Subs: K of every group, then V.
     row     = u8 sub number % 256, u8 token + 64 (sub number / 256), f16 whitened latent per
               channel: an outlier token, which overrides its codes
   All integers little endian. Width per channel: the plan. scale s means 2^((s>>3)-16) (1+(s&7)/8).
   Element = codebook[width][code] * scale * sd(channel); see >>quant. A page by itself has no
   budget for outliers, at most 8 per sub: a cache keeps to target.bpe, pages do on average. */
SKVDEF skv_result skv_encode(skv_codec *c, uint32_t layer, const skv_span *k, const skv_span *v,
                             size_t n, void *page, size_t capacity, size_t *bytes);

/* Back to dense float rows, k [n][n_kv_heads][head_dim], v [n][n_kv_heads][head_dim_v]; either may
   be NULL. *n tells the tokens. The page is checked against the plan. */
SKVDEF skv_result skv_decode(skv_codec *c, uint32_t layer, const void *page, size_t bytes,
                             float *k, float *v, size_t *n);

/* >>cache ------------------------------------------------------------------------------------- */
typedef struct skv_cache skv_cache;

typedef struct skv_cache_desc {
    const skv_profile *profile;     /* borrowed; NULL keeps every token exact (then set model) */
    skv_model          model;       /* only read when profile is NULL */
    skv_target         target;      /* zero = the profile's default */
    uint32_t           max_tokens;  /* capacity; required */
    uint32_t           sinks;       /* 0 = 4, SKV_NONE = 0 */
    uint32_t           window;      /* 0 = 64, SKV_NONE = 0 */
    uint32_t           max_append;  /* tokens that go in as one piece; 0 = 64 */
    uint32_t           exact_bits;  /* of sinks and window: 16 = f16 (default, 0) or 32 = f32 */
    float              outliers;    /* as in skv_codec_desc */
    skv_allocator      allocator;
    skv_parallel       parallel;
    void              *memory;      /* optional: the cache and all its pages live here */
    size_t             memory_bytes;
} skv_cache_desc;
/* Bytes that the object and, with all max_tokens in it, its pages take: what desc.memory needs.
   Allocates for a moment where there is a profile (the plan decides the sizes). */
SKVDEF skv_result skv_cache_size(const skv_cache_desc *desc, size_t *bytes);
SKVDEF skv_result skv_cache_init(skv_cache **out, const skv_cache_desc *desc);
SKVDEF void       skv_cache_free(skv_cache *c);
SKVDEF void       skv_cache_reset(skv_cache *c);    /* forgets all tokens, keeps the memory */

/* Appends n tokens to one layer: k [n][n_kv_heads][head_dim], v [n][n_kv_heads][head_dim_v]. On any
   error the layer is as it was. Layers fill independently. */
SKVDEF skv_result skv_append(skv_cache *c, uint32_t layer, const skv_span *k, const skv_span *v,
                             size_t n);

/* Forgets a layer's newest tokens so that n_tokens stay (speculative decoding). Only tokens that
   are still exact can go, and in a sliding layer only while the pages that the next query would see
   are there: else ERR_STATE. The recent window is shorter until it has filled again. */
SKVDEF skv_result skv_truncate(skv_cache *c, uint32_t layer, size_t n_tokens);

SKVDEF size_t skv_cache_tokens(const skv_cache *c, uint32_t layer);    /* appended so far */

/* Where the bytes are. elements counts what is held now (a sliding layer drops its old pages). */
typedef struct skv_usage {
    size_t tokens;                  /* most tokens appended to any layer */
    size_t elements;                /* K and V elements of all held tokens */
    size_t bytes;                   /* all memory of the cache: state, tables, exact, work, pages */
    size_t page_elements;           /* of tokens in pages */
    size_t page_bytes;              /* pages: codes, scales, headers, outliers */
    size_t outlier_rows, outlier_bytes;     /* part of page_bytes */
    size_t exact_bytes;             /* sinks and window, capacity */
    size_t work_bytes;              /* scratch of attend and append */
    double bpe;                     /* 8 bytes / elements: everything but the profile */
    double bpe_pages;               /* 8 page_bytes / page_elements */
} skv_usage;
SKVDEF skv_result skv_cache_usage(const skv_cache *c, skv_usage *out);

/* Rows first .. first+n-1 of a layer as floats, exact or decoded: k [n][n_kv_heads][head_dim],
   v [n][n_kv_heads][head_dim_v]; either may be NULL. ERR_STATE for tokens that a sliding layer has
   dropped. */
SKVDEF skv_result skv_reconstruct(skv_cache *c, uint32_t layer, size_t first, size_t n, float *k,
                                  float *v);

/* >>attend ------------------------------------------------------------------------------------ */
/* Outputs of skv_attend besides the rows. Zero it before; lse may stay NULL. */
typedef struct skv_attn {
    float   *lse;                   /* out [n][n_q_heads]: log of the sum of exp(score) */
    float    score_bound;           /* no score of a token in a page is off by more (before soft
                                       cap; against the key as the window held it, so rounding to
                                       f16 and of floats apart): see >>scores */
    float    page_mass;             /* largest share of probability that was read from pages */
    uint32_t tokens_exact, tokens_paged;    /* held by the layer */
} skv_attn;

/* Attention of the n newest tokens' queries: q [n][n_q_heads][head_dim], out
   [n][n_q_heads][head_dim_v]. Causal; the layer's sliding window, scale and soft cap apply.
   n is 1 in decode; at most the tokens appended. attn may be NULL. */
SKVDEF skv_result skv_attend(skv_cache *c, uint32_t layer, const skv_span *q, size_t n,
                             const skv_out *out, skv_attn *attn);

/* skv_append and skv_attend in pieces of max_append: for prompts of any length. On ERR_FULL,
   ERR_NOT_FINITE and the like nothing was appended; on ERR_MEMORY the pieces done stay. */
SKVDEF skv_result skv_prefill(skv_cache *c, uint32_t layer, const skv_span *q, const skv_span *k,
                              const skv_span *v, size_t n, const skv_out *out);

/* Scores alone: scale * q.k for one token's q [1][n_q_heads][head_dim] against all tokens held,
   into scores [n_q_heads][skv_cache_tokens()], before soft cap and masks; -infinity where a
   sliding layer has dropped them. */
SKVDEF skv_result skv_scores(skv_cache *c, uint32_t layer, const skv_span *q, float *scores);

/* Merges a second partial attention over other tokens into the first: rows of dim, one lse each
   (log-sum-exp merge; an lse of -infinity means "no tokens"). Associative up to rounding. */
SKVDEF void skv_merge(float *out, float *lse, const float *out2, const float *lse2, size_t rows,
                      size_t dim);

/* >>linalg ------------------------------------------------------------------------------------
   What the fit is made of, useful on its own. Double precision, no allocation, no global state, one
   fixed order of operations: the same input gives the same bits, in the portable and the AVX2 build
   of the inner loops alike (unless the compiler fuses multiply and add: clang does so with -mfma).
   Matrices are row-major; ld* is the distance between rows in elements. Vectors come out as ROWS:
   row i of v, ut, vt is the i-th vector, so V x is n dot products over contiguous memory.
   SKV_ERR_ARG: null pointer, ld too small, size overflow. SKV_ERR_NOT_FINITE: a NaN or an infinity
   was read. Every argument is then untouched. SKV_NOT_CONVERGED is a warning: the sweep limit was
   hit; the results are there, sorted, but vectors are orthogonal only to about the size of the last
   rotations. n = 0 is valid and does nothing. */

/* Eigenvalues and eigenvectors of a symmetric matrix: A = sum_i w[i] v_i v_i^T.

     a           [n][lda], only the upper triangle (column >= row) is read; destroyed
     w           [n] eigenvalues, descending
     v           [n][n] row i is the unit eigenvector of w[i]; its sign means nothing
     max_sweeps  0 = 30; 5 to 10 are used in practice
     sweeps      receives the number of sweeps done, or NULL

   a, w and v must not overlap. Accuracy: a positive (semi)definite A = D H D, D = sqrt(diag A), has
   its eigenvalues to a relative error of about n eps cond(H), however small they are next to the
   largest. Directions with less than n eps of their own a_ii left count as exactly zero. An A with
   negative eigenvalues is accepted and solved to an absolute error of about n eps max_i sum_j
   |a_ij|. Vectors are always orthogonal to about sqrt(n) eps.
   Cost: n^3/2 + up to 4 n^3 flops per sweep; n = 64, 128, 256 take about 0.8, 5 and 40 ms on one
   core of a 2021 server (Zen 3, AVX2; bench/bench_fit.c). */
SKVDEF skv_result skv_eigh(double *a, size_t n, size_t lda, double *w, double *v, int max_sweeps,
                           int *sweeps);

/* Number of doubles that skv_svd needs as scratch; 0 if m or n is 0 or the size overflows. */
SKVDEF size_t skv_svd_scratch(size_t m, size_t n);

/* Thin singular value decomposition: A = sum_i s[i] u_i v_i^T over i < k = min(m, n).

     a           [m][lda], read only
     s           [k] singular values, descending
     ut          [k][m] row i is the left singular vector u_i
     vt          [k][n] row i is the right singular vector v_i
     scratch     [skv_svd_scratch(m, n)]
     max_sweeps, sweeps as above

   Nothing may overlap. ut and vt have orthonormal rows, also where s is 0. Any scale from denormal
   to 1e308 is safe (a power of two is taken out first). Accuracy: for A = B D with D diagonal
   (m >= n: columns of very different length; m < n: rows, A = D B) each singular value has a
   relative error of about m eps cond(B), whatever D is. Columns that depend on others to n eps of
   their own length give exact zeros, and so does what is below 1e-130 of the largest.
   Cost: about 8 m n^2 + up to 7 n^3 flops per sweep, for m >= n. */
SKVDEF skv_result skv_svd(const double *a, size_t m, size_t n, size_t lda, double *s, double *ut,
                          double *vt, double *scratch, int max_sweeps, int *sweeps);

#ifdef __cplusplus
}
#endif

#ifdef SPECTRAL_KV_CUDA
#include "spectral_kv_cuda.cuh"
#endif
#endif /* SPECTRAL_KV_H */

/* ---- end of the API: reading may stop here ------------------------------------------------- */

#if defined(SPECTRAL_KV_IMPLEMENTATION) && !defined(SKVI_IMPLEMENTED)
#define SKVI_IMPLEMENTED

#include <float.h>
#include <math.h>
#include <string.h>
#ifndef SKV_NO_STDLIB
#include <stdlib.h>
#endif
#ifndef SKV_NO_STDIO
#include <stdarg.h>
#include <stdio.h>
#endif
#ifdef SKV_CBLAS
#include <cblas.h>
#endif

#ifdef __cplusplus
extern "C" {
#define SKVI_RESTRICT
#else
#define SKVI_RESTRICT restrict
#endif

/* >>base --------------------------------------------------------------------------------------
   Results, allocation, number formats. */

SKVDEF const char *skv_result_name(skv_result r)
{
#define SKVI_RESULT_NAME(name, value, text) if (r == SKV_##name) return #name;
    SKV_RESULTS(SKVI_RESULT_NAME)
#undef SKVI_RESULT_NAME
    return "UNKNOWN";
}

SKVDEF const char *skv_result_text(skv_result r)
{
#define SKVI_RESULT_TEXT(name, value, text) if (r == SKV_##name) return text;
    SKV_RESULTS(SKVI_RESULT_TEXT)
#undef SKVI_RESULT_TEXT
    return "unknown result code";
}

#ifndef SKV_NO_STDLIB
static void *skvi_malloc(void *user, size_t bytes) { (void)user; return malloc(bytes); }
static void skvi_mfree(void *user, void *p, size_t bytes) { (void)user; (void)bytes; free(p); }
#endif

/* The caller's allocator, or malloc. Half an allocator is an error. */
static skv_result skvi_pick_allocator(const skv_allocator *want, skv_allocator *out)
{
    memset(out, 0, sizeof *out);
    if (want && (want->alloc || want->free)) {
        if (!want->alloc || !want->free) return SKV_ERR_ARG;
        *out = *want;
        return SKV_OK;
    }
#ifndef SKV_NO_STDLIB
    out->alloc = skvi_malloc;
    out->free = skvi_mfree;
    return SKV_OK;
#else
    return SKV_ERR_ARG;
#endif
}

/* Layout by counting: with base NULL skvi_take only adds up, with memory it carves. One function
   per object runs twice and so both sizes and places it. */
typedef struct skvi_arena {
    unsigned char *base;
    size_t used;
    int overflow;
} skvi_arena;

#define SKVI_ALIGN 64u

static void *skvi_take(skvi_arena *a, size_t n, size_t size)
{
    size_t start = (a->used + (SKVI_ALIGN - 1)) & ~(size_t)(SKVI_ALIGN - 1), bytes;
    if (start < a->used || (size && n > ((size_t)-1 - start) / size)) {
        a->overflow = 1;
        return NULL;
    }
    bytes = n * size;
    a->used = start + bytes;
    return a->base ? (void *)(a->base + start) : NULL;
}

/* First aligned address in a block that has SKVI_ALIGN bytes to spare. */
static unsigned char *skvi_align_up(void *p)
{
    uintptr_t u = (uintptr_t)p;
    return (unsigned char *)p + ((SKVI_ALIGN - (u & (SKVI_ALIGN - 1))) & (SKVI_ALIGN - 1));
}

static uint32_t skvi_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static float skvi_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static int skvi_is_finite(float f) { return (skvi_bits(f) & 0x7F800000u) != 0x7F800000u; }

static float skvi_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3FFu;
    if (e == 0) {
        float f = (float)m * (1.0f / 16777216.0f);      /* 2^-24 */
        return sign ? -f : f;
    }
    if (e == 31) return skvi_float(sign | 0x7F800000u | (m << 13));
    return skvi_float(sign | ((e + 112u) << 23) | (m << 13));
}

/* Round to nearest even; beyond 65504 gives infinity, NaN stays NaN. */
static uint16_t skvi_to_f16(float f)
{
    uint32_t u = skvi_bits(f), sign = (u >> 16) & 0x8000u, a = u & 0x7FFFFFFFu, r;
    if (a >= 0x7F800000u) return (uint16_t)(sign | 0x7C00u | (a > 0x7F800000u ? 0x200u : 0u));
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);
    if (a < 0x38800000u) {                              /* subnormal: let the adder round */
        r = skvi_bits(skvi_float(a) + 0.5f) - 0x3F000000u;
        return (uint16_t)(sign | r);
    }
    r = a + 0xFFFu + ((a >> 13) & 1u);
    return (uint16_t)(sign | ((r - 0x38000000u) >> 13));
}

static float skvi_from_bf16(uint16_t h) { return skvi_float((uint32_t)h << 16); }
static uint16_t skvi_to_bf16(float f)
{
    uint32_t u = skvi_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}
/* Not below f, for f >= 0: bounds stay bounds. */
static uint16_t skvi_to_bf16_up(float f) { return (uint16_t)((skvi_bits(f) + 0xFFFFu) >> 16); }

static uint16_t skvi_get16(const unsigned char *p) { return (uint16_t)(p[0] | (p[1] << 8)); }
static uint32_t skvi_get32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t skvi_get64(const unsigned char *p)
{
    return (uint64_t)skvi_get32(p) | (uint64_t)skvi_get32(p + 4) << 32;
}
static void skvi_put16(unsigned char *p, uint32_t v)
{
    p[0] = (unsigned char)(v & 255u);
    p[1] = (unsigned char)((v >> 8) & 255u);
}
static void skvi_put32(unsigned char *p, uint32_t v)
{
    skvi_put16(p, v & 0xFFFFu);
    skvi_put16(p + 2, v >> 16);
}
static void skvi_put64(unsigned char *p, uint64_t v)
{
    skvi_put32(p, (uint32_t)(v & 0xFFFFFFFFu));
    skvi_put32(p + 4, (uint32_t)(v >> 32));
}

/* Spans with their strides filled in. Element sizes are 4 or 2. */
typedef struct skvi_tokens {
    const unsigned char *data;
    ptrdiff_t token, head;          /* strides in bytes */
    skv_dtype dtype;
    size_t dim;
} skvi_tokens;

static skv_result skvi_open(skvi_tokens *v, const skv_span *s, size_t n_heads, size_t dim)
{
    ptrdiff_t es, head, token;
    if (!s || !s->data) return SKV_ERR_ARG;
    if (s->dtype != SKV_F32 && s->dtype != SKV_F16 && s->dtype != SKV_BF16) return SKV_ERR_ARG;
    es = s->dtype == SKV_F32 ? 4 : 2;
    head = s->head_stride ? s->head_stride : (ptrdiff_t)dim;
    token = s->token_stride ? s->token_stride : head * (ptrdiff_t)n_heads;
    v->data = (const unsigned char *)s->data;
    v->token = token * es;
    v->head = head * es;
    v->dtype = s->dtype;
    v->dim = dim;
    return SKV_OK;
}

static void skvi_load(const skvi_tokens *v, size_t token, size_t head, float *out)
{
    const unsigned char *p = v->data + (ptrdiff_t)token * v->token + (ptrdiff_t)head * v->head;
    size_t i;
    uint16_t h;
    if (v->dtype == SKV_F32) {
        memcpy(out, p, v->dim * sizeof(float));
        return;
    }
    for (i = 0; i < v->dim; i++) {
        memcpy(&h, p + 2 * i, 2);
        out[i] = v->dtype == SKV_F16 ? skvi_from_f16(h) : skvi_from_bf16(h);
    }
}

/* Larger inputs are refused, so that no product of two overflows. */
#define SKVI_LARGEST 1e9f

/* OK, or NOT_FINITE, or RANGE when a magnitude is above limit. */
static skv_result skvi_check_values(const skvi_tokens *v, size_t n, size_t n_heads, float limit)
{
    float row[SKV_MAX_HEAD_DIM];
    size_t t, h, i;
    for (t = 0; t < n; t++)
        for (h = 0; h < n_heads; h++) {
            float top = 0;
            uint32_t bad = 0;
            skvi_load(v, t, h, row);
            for (i = 0; i < v->dim; i++) {
                float a = fabsf(row[i]);
                bad |= (uint32_t)!skvi_is_finite(row[i]);
                top = a > top ? a : top;
            }
            if (bad) return SKV_ERR_NOT_FINITE;
            if (top > limit) return SKV_ERR_RANGE;
        }
    return SKV_OK;
}

/* Model descriptions: every layer checked, defaults filled in. */
static skv_result skvi_fill_layer(skv_layer *l)
{
    if (!l->head_dim_v) l->head_dim_v = l->head_dim;
    if (!l->n_q_heads || !l->n_kv_heads || l->n_q_heads % l->n_kv_heads) return SKV_ERR_SHAPE;
    if (l->n_q_heads > 65536 || l->n_kv_heads > 512 ||
        l->head_dim < SKV_MIN_HEAD_DIM || l->head_dim > SKV_MAX_HEAD_DIM ||
        l->head_dim_v < SKV_MIN_HEAD_DIM || l->head_dim_v > SKV_MAX_HEAD_DIM)
        return SKV_ERR_SHAPE;
    if (l->scale == 0) l->scale = 1.0f / sqrtf((float)l->head_dim);
    if (!(fabsf(l->scale) <= 1e6f) || !(l->softcap >= 0) || !skvi_is_finite(l->softcap))
        return SKV_ERR_ARG;                 /* with values up to 1e9 every score is finite */
    return SKV_OK;
}

static skv_layer skvi_model_layer(const skv_model *m, uint32_t i)
{
    return m->layers ? m->layers[i] : m->layer;
}

static skv_result skvi_check_model(const skv_model *m)
{
    uint32_t i;
    if (!m->n_layers || m->n_layers > 65536) return SKV_ERR_SHAPE;
    for (i = 0; i < m->n_layers; i++) {
        skv_layer l = skvi_model_layer(m, i);
        skv_result r = skvi_fill_layer(&l);
        if (r != SKV_OK) return r;
    }
    return SKV_OK;
}

/* A checked copy: layers into `layers` [n_layers], the name into `name` [64]. */
static void skvi_copy_model(skv_model *to, const skv_model *from, skv_layer *layers, char *name)
{
    uint32_t i;
    *to = *from;
    for (i = 0; i < from->n_layers; i++) {
        layers[i] = skvi_model_layer(from, i);
        (void)skvi_fill_layer(&layers[i]);
    }
    to->layers = layers;
    to->layer = layers[0];
    memset(name, 0, 64);
    if (from->name)
        for (i = 0; i < 63 && from->name[i]; i++) name[i] = from->name[i];
    to->name = name;
}

static uint32_t skvi_groups(const skv_layer *l, uint32_t head_group)
{
    return (l->n_kv_heads + head_group - 1) / head_group;
}

/* 0 = the default, SKV_NONE = zero. */
static uint32_t skvi_or(uint32_t value, uint32_t fallback)
{
    return value == 0 ? fallback : value == SKV_NONE ? 0 : value;
}

/* >>kernels -----------------------------------------------------------------------------------
   The leaf functions that an instruction set may replace; everything else calls through this table.
   Sums run in a fixed order per table. */
typedef struct skvi_kernels {
    /* C[m][n] += A[m][k] B[k][n], row strides lda, ldb, ldc; C must not overlap A or B */
    void (*gemm)(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                 size_t ldb, float *c, size_t ldc);
    /* sum of a[i] b[i] */
    float (*dot)(const float *a, const float *b, size_t n);
    void (*from_f16)(const uint16_t *h, float *out, size_t n);
    /* values of one channel's 64 codes: out[t] = level(code) * step */
    void (*expand)(const unsigned char *codes, uint32_t width, float step, float *out);
} skvi_kernels;

/* c[4][16] += a[4][k] b[k][16]: sixteen lanes of four sums that stay in registers */
static void skvi_gemm_tile(const float *a, size_t lda, const float *b, size_t ldb, size_t k,
                           float *c, size_t ldc)
{
    float s0[16] = {0}, s1[16] = {0}, s2[16] = {0}, s3[16] = {0};
    const float *a1 = a + lda, *a2 = a1 + lda, *a3 = a2 + lda;
    size_t l, x;
    for (l = 0; l < k; l++, b += ldb)
        for (x = 0; x < 16; x++) {
            s0[x] += a[l] * b[x];
            s1[x] += a1[l] * b[x];
            s2[x] += a2[l] * b[x];
            s3[x] += a3[l] * b[x];
        }
    for (x = 0; x < 16; x++) {
        c[x] += s0[x];
        c[ldc + x] += s1[x];
        c[2 * ldc + x] += s2[x];
        c[3 * ldc + x] += s3[x];
    }
}

/* Edges: one row at a time. */
static void skvi_gemm_rows(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                           size_t ldb, float *c, size_t ldc)
{
    size_t i, j, l;
    for (i = 0; i < m; i++)
        for (l = 0; l < k; l++) {
            const float *SKVI_RESTRICT r = b + l * ldb;
            float *SKVI_RESTRICT to = c + i * ldc, x = a[i * lda + l];
            for (j = 0; j < n; j++) to[j] += x * r[j];
        }
}

static void skvi_gemm_c(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                        size_t ldb, float *c, size_t ldc)
{
    size_t i, j, rows = m - m % 4, wide = n - n % 16;
    for (j = 0; j < wide; j += 16)
        for (i = 0; i < rows; i += 4)
            skvi_gemm_tile(a + i * lda, lda, b + j, ldb, k, c + i * ldc + j, ldc);
    if (wide < n) skvi_gemm_rows(rows, n - wide, k, a, lda, b + wide, ldb, c + wide, ldc);
    skvi_gemm_rows(m - rows, n, k, a + rows * lda, lda, b, ldb, c + rows * ldc, ldc);
}

static float skvi_dot_c(const float *a, const float *b, size_t n)
{
    float s[16] = {0}, sum = 0;
    size_t i, j;
    for (i = 0; i + 16 <= n; i += 16)
        for (j = 0; j < 16; j++) s[j] += a[i + j] * b[i + j];
    for (j = 0; i < n; i++, j++) s[j] += a[i] * b[i];
    for (j = 0; j < 16; j++) sum += s[j];
    return sum;
}

static void skvi_from_f16_c(const uint16_t *h, float *out, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = skvi_from_f16(h[i]);
}

/* C += A B for calibration: large products, through BLAS where the build says so. */
static void skvi_sgemm(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                       size_t ldb, float *c, size_t ldc)
{
#ifdef SKV_CBLAS
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, a,
                (int)lda, b, (int)ldb, 1.0f, c, (int)ldc);
#else
    skvi_gemm_c(m, n, k, a, lda, b, ldb, c, ldc);
#endif
}

/* >>la ------------------------------------------------------------------------------------------
   Four leaf kernels of the linear algebra, portable and for AVX2. Lanes are independent and sums
   have eight fixed partial sums, so both give the same bits. */
#ifndef SKVI_RESTRICT
#if defined(_MSC_VER) || defined(__cplusplus)
#define SKVI_RESTRICT __restrict
#else
#define SKVI_RESTRICT restrict
#endif
#endif

/* gcc -O2 vectorises short constant loops only, clang long ones only; both are happy with this. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define SKVI_LA_UNROLL _Pragma("GCC unroll 8")
enum { SKVI_LA_STEP = 8 };
#else
#define SKVI_LA_UNROLL
enum { SKVI_LA_STEP = 1 };
#endif

#if defined(__GNUC__) && defined(__x86_64__) && !defined(__CUDACC__) && !defined(SKV_NO_SIMD)
#define SKVI_LA_AVX2 1
#ifndef SKVI_LA_HAS_AVX2
#define SKVI_LA_HAS_AVX2() __builtin_cpu_supports("avx2")
#endif
#endif

enum {
    SKVI_LA_MR = 4,                     /* rows of C in one register tile */
    SKVI_LA_NR = 8,                     /* columns of C in one register tile */
    SKVI_LA_MC = 64,                    /* rows of A packed at a time */
    SKVI_LA_NC = 16,                    /* columns of B packed at a time */
    SKVI_LA_KC = 64                     /* depth packed at a time; 40 KiB of stack in all */
};

typedef struct skvi_la {
    double (*dot)(const double *x, const double *y, size_t n);
    void (*axpy)(double *y, const double *x, size_t n, double f);
    void (*rot)(double *x, double *y, size_t n, double c, double s);
    void (*tile)(const double *a, const double *b, size_t depth, double *acc);
} skvi_la;

/* sum_i x_i y_i */
static double skvi_la_dot(const double *SKVI_RESTRICT x, const double *SKVI_RESTRICT y, size_t n)
{
    double s[8] = { 0, 0, 0, 0, 0, 0, 0, 0 }, tail = 0.0;
    size_t i, t, head = n - n % 8;
    for (i = 0; i < head; i += 8) {
        double p[8];
        SKVI_LA_UNROLL
        for (t = 0; t < 8; t++) p[t] = x[i + t] * y[i + t];
        SKVI_LA_UNROLL
        for (t = 0; t < 8; t++) s[t] += p[t];
    }
    for (i = head; i < n; i++) tail += x[i] * y[i];
    SKVI_LA_UNROLL
    for (t = 0; t < 4; t++) s[t] += s[t + 4];
    return (s[0] + s[2]) + (s[1] + s[3]) + tail;
}

/* y += f x */
static void skvi_la_axpy(double *SKVI_RESTRICT y, const double *SKVI_RESTRICT x, size_t n,
                         double f)
{
    size_t i, t, head = n - n % SKVI_LA_STEP;
    for (i = 0; i < head; i += SKVI_LA_STEP) {
        SKVI_LA_UNROLL
        for (t = 0; t < SKVI_LA_STEP; t++) y[i + t] += f * x[i + t];
    }
    for (i = head; i < n; i++) y[i] += f * x[i];
}

/* (x, y) <- (c x - s y, s x + c y) */
static void skvi_la_rot(double *SKVI_RESTRICT x, double *SKVI_RESTRICT y, size_t n, double c,
                        double s)
{
    size_t i, t, head = n - n % SKVI_LA_STEP;
    for (i = 0; i < head; i += SKVI_LA_STEP) {
        SKVI_LA_UNROLL
        for (t = 0; t < SKVI_LA_STEP; t++) {
            double p = x[i + t], q = y[i + t];
            x[i + t] = c * p - s * q;
            y[i + t] = s * p + c * q;
        }
    }
    for (i = head; i < n; i++) {
        double p = x[i], q = y[i];
        x[i] = c * p - s * q;
        y[i] = s * p + c * q;
    }
}

/* acc [4][8] = sum over depth of packed a [depth][4] times packed b [depth][8] */
static void skvi_la_tile(const double *SKVI_RESTRICT a, const double *SKVI_RESTRICT b,
                         size_t depth, double *SKVI_RESTRICT acc)
{
    double r[SKVI_LA_MR][SKVI_LA_NR];
    size_t i, j, k;
    SKVI_LA_UNROLL
    for (i = 0; i < SKVI_LA_MR; i++)
        SKVI_LA_UNROLL
        for (j = 0; j < SKVI_LA_NR; j++) r[i][j] = 0.0;
    for (k = 0; k < depth; k++, a += SKVI_LA_MR, b += SKVI_LA_NR) {
        SKVI_LA_UNROLL
        for (i = 0; i < SKVI_LA_MR; i++)
            SKVI_LA_UNROLL
            for (j = 0; j < SKVI_LA_NR; j++) r[i][j] += a[i] * b[j];
    }
    SKVI_LA_UNROLL
    for (i = 0; i < SKVI_LA_MR; i++)
        SKVI_LA_UNROLL
        for (j = 0; j < SKVI_LA_NR; j++) acc[i * SKVI_LA_NR + j] = r[i][j];
}

#ifdef SKVI_LA_AVX2
/* Four doubles anywhere in an array of doubles (gcc and clang vector types). */
typedef double skvi_v4 __attribute__((vector_size(32), aligned(8), may_alias));

__attribute__((target("avx2")))
static double skvi_la_dot_avx2(const double *x, const double *y, size_t n)
{
    skvi_v4 s0 = { 0, 0, 0, 0 }, s1 = { 0, 0, 0, 0 };
    double tail = 0.0;
    size_t i, head = n - n % 8;
    for (i = 0; i < head; i += 8) {
        s0 += *(const skvi_v4 *)(x + i) * *(const skvi_v4 *)(y + i);
        s1 += *(const skvi_v4 *)(x + i + 4) * *(const skvi_v4 *)(y + i + 4);
    }
    for (i = head; i < n; i++) tail += x[i] * y[i];
    s0 += s1;
    return (s0[0] + s0[2]) + (s0[1] + s0[3]) + tail;
}

__attribute__((target("avx2")))
static void skvi_la_axpy_avx2(double *y, const double *x, size_t n, double f)
{
    skvi_v4 ff = { f, f, f, f };
    size_t i, head = n - n % 4;
    for (i = 0; i < head; i += 4) *(skvi_v4 *)(y + i) += ff * *(const skvi_v4 *)(x + i);
    for (i = head; i < n; i++) y[i] += f * x[i];
}

__attribute__((target("avx2")))
static void skvi_la_rot_avx2(double *x, double *y, size_t n, double c, double s)
{
    skvi_v4 cc = { c, c, c, c }, ss = { s, s, s, s };
    size_t i, head = n - n % 4;
    for (i = 0; i < head; i += 4) {
        skvi_v4 p = *(const skvi_v4 *)(x + i), q = *(const skvi_v4 *)(y + i);
        *(skvi_v4 *)(x + i) = cc * p - ss * q;
        *(skvi_v4 *)(y + i) = ss * p + cc * q;
    }
    for (i = head; i < n; i++) {
        double p = x[i], q = y[i];
        x[i] = c * p - s * q;
        y[i] = s * p + c * q;
    }
}

__attribute__((target("avx2")))
static void skvi_la_tile_avx2(const double *a, const double *b, size_t depth, double *acc)
{
    skvi_v4 r[SKVI_LA_MR][2], zero = { 0, 0, 0, 0 };
    size_t i, k;
    SKVI_LA_UNROLL
    for (i = 0; i < SKVI_LA_MR; i++) r[i][0] = r[i][1] = zero;
    for (k = 0; k < depth; k++, a += SKVI_LA_MR, b += SKVI_LA_NR) {
        skvi_v4 b0 = *(const skvi_v4 *)b, b1 = *(const skvi_v4 *)(b + 4);
        SKVI_LA_UNROLL
        for (i = 0; i < SKVI_LA_MR; i++) {
            skvi_v4 aa = { a[i], a[i], a[i], a[i] };
            r[i][0] += aa * b0;
            r[i][1] += aa * b1;
        }
    }
    SKVI_LA_UNROLL
    for (i = 0; i < SKVI_LA_MR; i++) {
        *(skvi_v4 *)(acc + i * SKVI_LA_NR) = r[i][0];
        *(skvi_v4 *)(acc + i * SKVI_LA_NR + 4) = r[i][1];
    }
}
#endif

static size_t skvi_la_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static skvi_la skvi_la_pick(void)
{
    skvi_la k;
    k.dot = skvi_la_dot;
    k.axpy = skvi_la_axpy;
    k.rot = skvi_la_rot;
    k.tile = skvi_la_tile;
#ifdef SKVI_LA_AVX2
    if (SKVI_LA_HAS_AVX2()) {
        k.dot = skvi_la_dot_avx2;
        k.axpy = skvi_la_axpy_avx2;
        k.rot = skvi_la_rot_avx2;
        k.tile = skvi_la_tile_avx2;
    }
#endif
    return k;
}

/* >>product -------------------------------------------------------------------------------------
   C += A B by register tiles of 4 x 8 over packed panels. Operands are views with two strides, so a
   transpose is a swap of strides; float operands are widened while packing. An element of C is a
   sum over blocks of 64 terms in ascending order, whatever the sizes. */
typedef struct skvi_view {
    const double *d;                    /* exactly one of d and f is set */
    const float *f;
    size_t rs, cs;                      /* element (i, j) at i * rs + j * cs */
} skvi_view;

static skvi_view skvi_view_d(const double *p, size_t ld)
{
    skvi_view v;
    v.d = p;
    v.f = NULL;
    v.rs = ld;
    v.cs = 1;
    return v;
}

static skvi_view skvi_view_f(const float *p, size_t ld)
{
    skvi_view v = skvi_view_d(NULL, ld);
    v.f = p;
    return v;
}

static skvi_view skvi_view_t(skvi_view v)
{
    size_t rs = v.rs;
    v.rs = v.cs;
    v.cs = rs;
    return v;
}

/* dst = count (a multiple of 4) neighbours in memory */
static void skvi_la_pack_run(double *SKVI_RESTRICT dst, skvi_view v, size_t at, size_t count)
{
    size_t i, t;
    for (i = 0; i < count; i += 4) {
        SKVI_LA_UNROLL
        for (t = 0; t < 4; t++) dst[i + t] = v.d ? v.d[at + i + t] : (double)v.f[at + i + t];
    }
}

/* Packs rows [i0, i0 + rows) and columns [k0, k0 + depth) into panels of `width` (4 or 8) rows,
   each [depth][width]; rows missing in the last panel are zero. */
static void skvi_la_pack(double *dst, skvi_view v, size_t i0, size_t rows, size_t k0, size_t depth,
                         size_t width)
{
    size_t p, i, k;
    for (k = 0; k < depth; k++) {
        size_t at = i0 * v.rs + (k0 + k) * v.cs;
        for (p = 0; p < rows; p += width, at += width * v.rs) {
            double *to = dst + p * depth + k * width;
            size_t full = skvi_la_min(rows - p, width);
            if (v.rs == 1 && full == width) {
                skvi_la_pack_run(to, v, at, width);
                continue;
            }
            for (i = 0; i < full; i++)
                to[i] = v.d ? v.d[at + i * v.rs] : (double)v.f[at + i * v.rs];
            for (i = full; i < width; i++) to[i] = 0.0;
        }
    }
}

/* Adds one tile to c at row i0, column j0; with `upper` only where column >= row. */
static void skvi_la_tile_add(double *SKVI_RESTRICT c, size_t ldc, const double *SKVI_RESTRICT acc,
                             size_t i0, size_t rows, size_t j0, size_t cols, int upper)
{
    size_t i, j;
    int whole = cols == SKVI_LA_NR && !(upper && i0 + rows > j0 + 1);
    for (i = 0; i < rows; i++, acc += SKVI_LA_NR) {
        double *SKVI_RESTRICT row = c + (i0 + i) * ldc + j0;
        if (whole) {
            SKVI_LA_UNROLL
            for (j = 0; j < SKVI_LA_NR; j++) row[j] += acc[j];
        } else {
            for (j = upper && i0 + i > j0 ? i0 + i - j0 : 0; j < cols; j++) row[j] += acc[j];
        }
    }
}

/* One packed block: rows [i, i + mc) of C by columns [j, j + nc). */
static void skvi_gemm_block(const skvi_la *la, double *c, size_t ldc, const double *pa,
                            const double *pb, size_t i, size_t mc, size_t j, size_t nc, size_t kc,
                            int upper)
{
    double acc[SKVI_LA_MR * SKVI_LA_NR];
    size_t r, t;
    for (t = 0; t < nc; t += SKVI_LA_NR) {
        size_t cols = skvi_la_min(nc - t, SKVI_LA_NR);
        for (r = 0; r < mc; r += SKVI_LA_MR) {
            if (upper && i + r >= j + t + cols) break;
            la->tile(pa + r * kc, pb + t * kc, kc, acc);
            skvi_la_tile_add(c, ldc, acc, i + r, skvi_la_min(mc - r, SKVI_LA_MR), j + t, cols,
                             upper);
        }
    }
}

/* C[m][n] += A[m][depth] B[depth][n]; with `upper` only the upper triangle of C is computed. */
static void skvi_gemm_add(double *c, size_t ldc, size_t m, size_t n, size_t depth, skvi_view a,
                          skvi_view b, int upper)
{
    const skvi_la la = skvi_la_pick();
    const skvi_view bt = skvi_view_t(b);
    double pa[SKVI_LA_MC * SKVI_LA_KC], pb[SKVI_LA_NC * SKVI_LA_KC];
    size_t i, j, k, mc, nc, kc;
    for (k = 0; k < depth; k += kc) {
        kc = skvi_la_min(depth - k, SKVI_LA_KC);
        for (i = 0; i < m; i += mc) {
            mc = skvi_la_min(m - i, SKVI_LA_MC);
            skvi_la_pack(pa, a, i, mc, k, kc, SKVI_LA_MR);
            for (j = upper ? i - i % SKVI_LA_NR : 0; j < n; j += nc) {
                nc = skvi_la_min(n - j, SKVI_LA_NC);
                skvi_la_pack(pb, bt, j, nc, k, kc, SKVI_LA_NR);
                skvi_gemm_block(&la, c, ldc, pa, pb, i, mc, j, nc, kc, upper);
            }
        }
    }
}

/* C = A B; A^T B and A B^T through skvi_view_t */
static void skvi_gemm(double *c, size_t ldc, size_t m, size_t n, size_t depth, skvi_view a,
                      skvi_view b)
{
    size_t i, j;
    for (i = 0; i < m; i++)
        for (j = 0; j < n; j++) c[i * ldc + j] = 0.0;
    skvi_gemm_add(c, ldc, m, n, depth, a, b, 0);
}

/* Upper triangle of C[n][n] += X^T X, X [rows][ldx] float; products of floats are exact in double.
   The upper triangle is all that skv_eigh reads. */
static void skvi_syrk_add(double *c, size_t n, const float *x, size_t rows, size_t ldx)
{
    skvi_view v = skvi_view_f(x, ldx);
    skvi_gemm_add(c, n, n, n, rows, skvi_view_t(v), v, 1);
}

/* >>jacobi --------------------------------------------------------------------------------------
   One-sided (Hestenes): rotates pairs of rows of X until all are orthogonal, X <- J X, so that row
   lengths become singular values. The criterion is the cosine |x_p . x_q| / (|x_p| |x_q|), which is
   what gives small singular values their relative accuracy (Demmel and Veselic 1992; de Rijk 1989;
   Drmac and Veselic 2008). The longer row of a pair moves up. Pairs are visited tile by tile so
   that the rows at hand stay in cache. Callers scale X so that squared lengths stay below 2^500
   (their products must not overflow); rows of squared length below SKVI_JAC_ZERO count as zero. */
#define SKVI_JAC_ZERO 1e-130
enum { SKVI_JAC_WAVE = 4 };

typedef struct skvi_jac {
    skvi_la la;
    double *x;                          /* [rows][ld]; the first `len` columns decide, `full` */
    double *norm2;                      /* [rows] squared lengths, kept up to date */
    size_t rows, ld, len, full;         /* are turned */
    double tol2;                        /* squared cosine that counts as orthogonal */
    double max_cos2, max_sin;           /* maxima over the rotations of the running sweep */
} skvi_jac;

/* One pair of rows: d = x_p . x_q, then the rotation by (c, s); s = 0 for none. */
typedef struct skvi_jac_pair {
    size_t p, q;
    double d, c, s, shorter;            /* shorter: the smaller squared length before */
} skvi_jac_pair;

/* The rotation that makes the pair orthogonal, and both squared lengths after it. The longer row
   goes to p. t = tan, from the smaller root of t^2 + t |n_p - n_q| / |d| = 1; c = 1 - t^2 / (...)
   is 1 / sqrt(1 + t^2) without its bias in rounding, which would shrink rows over many turns. */
static void skvi_jac_angle(skvi_jac *k, skvi_jac_pair *pair)
{
    double np = k->norm2[pair->p], nq = k->norm2[pair->q], d = pair->d, h, t, c, s;
    pair->s = 0.0;
    if (np < SKVI_JAC_ZERO || nq < SKVI_JAC_ZERO || d * d <= k->tol2 * (np * nq)) return;
    if (d * d > k->max_cos2 * (np * nq)) k->max_cos2 = d * d / (np * nq);
    h = fabs(np - nq);
    t = 2.0 * d / (h + sqrt(h * h + 4.0 * d * d));
    c = 1.0 - t * t / (1.0 + t * t + sqrt(1.0 + t * t));
    s = c * t;
    if (fabs(s) > k->max_sin) k->max_sin = fabs(s);
    pair->shorter = np < nq ? np : nq;
    pair->c = np < nq ? s : c;
    pair->s = np < nq ? -c : -s;
    k->norm2[pair->p] = (np < nq ? nq : np) + t * d;
    k->norm2[pair->q] = pair->shorter - t * d;
}

/* A few pairs that share no row: first all products, then all angles, then all rotations, so that
   the processor overlaps the chains of divisions and roots. */
static void skvi_jac_step(skvi_jac *k, skvi_jac_pair *r, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        r[i].d = k->la.dot(k->x + r[i].p * k->ld, k->x + r[i].q * k->ld, k->len);
    for (i = 0; i < count; i++) skvi_jac_angle(k, r + i);
    for (i = 0; i < count; i++) {
        double *xq = k->x + r[i].q * k->ld;
        if (!(fabs(r[i].s) > 0)) continue;
        k->la.rot(k->x + r[i].p * k->ld, xq, k->full, r[i].c, r[i].s);
        if (!(k->norm2[r[i].q] > 0.1 * r[i].shorter)) k->norm2[r[i].q] = k->la.dot(xq, xq, k->len);
    }
}

/* All pairs with p in [p0, p1) and q in [q0, q1), p < q, row by row, four rows p at a time as a
   wave: (p, t), (p + 1, t - 1), ... are independent and the result is that of plain row order. */
static void skvi_jac_tile(skvi_jac *k, size_t p0, size_t p1, size_t q0, size_t q1)
{
    skvi_jac_pair r[SKVI_JAC_WAVE];
    size_t p, t, b, count;
    for (p = p0; p < p1; p += SKVI_JAC_WAVE) {
        for (t = q0; t < q1 + SKVI_JAC_WAVE - 1; t++) {
            for (b = 0, count = 0; b < SKVI_JAC_WAVE && b <= t && p + b < p1; b++) {
                if (t - b < q0 || t - b >= q1 || t - b <= p + b) continue;
                r[count].p = p + b;
                r[count++].q = t - b;
            }
            skvi_jac_step(k, r, count);
        }
    }
}

/* Sweeps until orthogonal. Returns the number of sweeps, negative if the limit was reached. A pair
   made orthogonal is disturbed later by at most rows * max_cos * max(max_sin, max_cos), so once
   that is below the tolerance another sweep would find nothing. */
static int skvi_jac_run(skvi_jac *k, int max_sweeps)
{
    size_t i, p, q, step = 131072 / (k->full * sizeof(double) + 1);
    int sweep;
    double tol = DBL_EPSILON * (2.0 + 0.5 * sqrt((double)k->len));
    k->tol2 = tol * tol;
    if (step < 4) step = 4;
    for (sweep = 1; sweep <= max_sweeps; sweep++) {
        double cosine, worst;
        k->max_cos2 = k->max_sin = 0.0;
        for (i = 0; i < k->rows; i++)
            k->norm2[i] = k->la.dot(k->x + i * k->ld, k->x + i * k->ld, k->len);
        for (p = 0; p < k->rows; p += step)
            for (q = p; q < k->rows; q += step)
                skvi_jac_tile(k, p, skvi_la_min(p + step, k->rows), q,
                              skvi_la_min(q + step, k->rows));
        cosine = sqrt(k->max_cos2);
        worst = cosine > k->max_sin ? cosine : k->max_sin;
        if ((double)k->rows * cosine * worst <= tol) return sweep;
    }
    return -max_sweeps;
}

/* Sorts rows by length, descending, makes the first `len` columns unit vectors and leaves the
   squared lengths in norm2. Returns the number of rows that are not zero; the rest is garbage. */
static size_t skvi_jac_finish(skvi_jac *k)
{
    const double zero = 100.0 * SKVI_JAC_ZERO;      /* a margin over the running lengths */
    size_t i, j, t, top, have = 0;
    for (i = 0; i < k->rows; i++)
        k->norm2[i] = k->la.dot(k->x + i * k->ld, k->x + i * k->ld, k->len);
    for (i = 0; i < k->rows; i++) {
        double h, *a = k->x + i * k->ld, *b;
        for (top = i, j = i + 1; j < k->rows; j++)
            if (k->norm2[j] > k->norm2[top]) top = j;
        h = k->norm2[top];
        k->norm2[top] = k->norm2[i];
        k->norm2[i] = h < zero ? 0.0 : h;
        b = k->x + top * k->ld;
        for (t = 0; top != i && t < k->full; t++) {
            double swap = a[t];
            a[t] = b[t];
            b[t] = swap;
        }
        if (h < zero) continue;
        h = sqrt(h);
        for (t = 0; t < k->len; t++) a[t] /= h;
        have = i + 1;
    }
    return have;
}

/* Extends the orthonormal rows [0, have) of v [want][ld] to [0, want). Each new row starts from
   the unit vector farthest from the span (its squared residual is at least (len - have) / len) and
   the span is removed twice, which is enough. rest [len] is scratch. */
static void skvi_complete_rows(const skvi_la *la, double *v, size_t have, size_t want, size_t len,
                               size_t ld, double *rest)
{
    size_t i, j, far;
    int pass;
    for (i = 0; i < len && have < want; i++) rest[i] = 1.0;
    for (j = 0; j < want && have < want; j++) {
        double *row = v + j * ld;
        if (j >= have) {
            double length;
            for (i = 1, far = 0; i < len; i++)
                if (rest[i] > rest[far]) far = i;
            for (i = 0; i < len; i++) row[i] = 0.0;
            row[far] = 1.0;
            for (pass = 0; pass < 2; pass++)
                for (i = 0; i < j; i++)
                    la->axpy(row, v + i * ld, len, -la->dot(row, v + i * ld, len));
            length = sqrt(la->dot(row, row, len));
            for (i = 0; i < len && length > 0; i++) row[i] /= length;
        }
        for (i = 0; i < len; i++) rest[i] -= row[i] * row[i];
    }
}

/* Largest magnitude in a (upper: columns >= row only); -1 if something is not finite. Works on the
   bits, whose order is that of the magnitudes, so that -ffast-math cannot remove the check. */
static double skvi_la_max_abs(const double *a, size_t m, size_t n, size_t lda, int upper)
{
    uint64_t bits, top = 0;
    double h;
    size_t i, j;
    for (i = 0; i < m; i++) {
        for (j = upper ? i : 0; j < n; j++) {
            memcpy(&bits, a + i * lda + j, sizeof bits);
            bits &= UINT64_MAX >> 1;
            if (bits > top) top = bits;
        }
    }
    if (top >= (uint64_t)0x7FF << 52) return -1.0;
    memcpy(&h, &top, sizeof h);
    return h;
}

/* Exponent e such that top * 2^e is in [2^(want - 1), 2^want), and 2^e as a product of two. */
static int skvi_la_scale(double top, int want, double *f0, double *f1)
{
    int e = 0;
    if (top > 0) {
        (void)frexp(top, &e);
        e = want - e;
    }
    *f0 = ldexp(1.0, e / 2);
    *f1 = ldexp(1.0, e - e / 2);
    return e;
}

/* 1 if a matrix of m rows with distance ld cannot be addressed, or ld < n. */
static int skvi_la_bad_shape(size_t m, size_t n, size_t ld)
{
    return ld < n || (m && ld > SIZE_MAX / 4 / sizeof(double) / m);
}

/* >>eigh ----------------------------------------------------------------------------------------
   A = L L^T by Cholesky with diagonal pivoting, then one-sided Jacobi on the columns of L (kept as
   rows): J L^T = S U^T gives A = U S^2 U^T, and J is never formed (Veselic and Hari 1989). Pivoting
   brings the columns of L near to orthogonal, which saves sweeps. An indefinite A is shifted. */

/* Pivoted Cholesky of the upper triangle of a: writes the columns of L, in the original order, as
   rows of v and returns the rank. diag [n] holds a_ii; its sign bit marks used pivots. A pivot
   below tol * a_ii is noise and left out. *residue = largest |rest_ij| / sqrt(a_ii a_jj) over what
   is left, which is above a few tol for an indefinite matrix. */
static size_t skvi_chol_rows(const skvi_la *la, double *a, size_t n, size_t lda, double *diag,
                             double *v, double tol, double *residue)
{
    size_t i, j, p, rank;
    for (rank = 0; rank < n; rank++) {
        double *row = v + rank * n, top = 0.0;
        for (i = 0, p = n; i < n; i++) {
            double s = a[i * lda + i];
            if (signbit(diag[i]) || !(s > top) || !(s > tol * diag[i])) continue;
            top = s;
            p = i;
        }
        if (p == n) break;
        top = sqrt(top);
        for (i = 0; i < n; i++)
            row[i] = signbit(diag[i]) ? 0.0 : (i < p ? a[i * lda + p] : a[p * lda + i]) / top;
        row[p] = top;
        diag[p] = -diag[p];
        for (i = 0; i < n; i++)
            if (!signbit(diag[i])) la->axpy(a + i * lda + i, row + i, n - i, -row[i]);
    }
    *residue = 0.0;
    for (i = 0; i < n && rank < n; i++) {
        if (signbit(diag[i])) continue;
        for (j = i; j < n; j++) {
            double s = fabs(a[i * lda + j]), f;
            if (signbit(diag[j])) continue;
            f = sqrt(diag[i]) * sqrt(diag[j]);
            if (s > *residue * f) *residue = f > 0 ? s / f : 1.0;
        }
    }
    return rank;
}

/* Factors a + shift into rows of v, with the smallest of three shifts that makes it positive
   semidefinite: none, the level of rounding, Gershgorin's bound. Returns the rank. The lower
   triangle keeps the matrix for the next attempt, and the last row of v its diagonal: that row is
   written only by a last pivot, after which no other attempt follows. */
static size_t skvi_eigh_factor(const skvi_la *la, double *a, size_t n, size_t lda, double *diag,
                               double *v, double *shift)
{
    double tol = (double)n * DBL_EPSILON, residue, bound = 0.0, trace = 0.0;
    double *keep = v + (n - 1) * n;
    size_t i, j, rank = 0;
    int attempt, negative;
    for (i = 0; i < n; i++) {
        double sum = 0.0;
        keep[i] = a[i * lda + i];
        for (j = 0; j < i; j++) a[i * lda + j] = a[j * lda + i];
        for (j = 0; j < n; j++) sum += j == i ? 0.0 : fabs(a[i * lda + j]);
        if (sum - keep[i] > bound) bound = sum - keep[i];
        trace += fabs(keep[i]);
    }
    for (attempt = 0; attempt < 3; attempt++) {
        *shift = attempt == 0 ? 0.0 : attempt == 1 ? 64.0 * tol * trace : bound;
        for (i = 0, negative = 0; i < n; i++) {
            double h = keep[i] + *shift;
            if (h < 0) negative = 1;
            diag[i] = a[i * lda + i] = h > 0 ? h : 0.0;
            for (j = i + 1; attempt && j < n; j++) a[i * lda + j] = a[j * lda + i];
        }
        if (negative && attempt < 2) continue;
        rank = skvi_chol_rows(la, a, n, lda, diag, v, tol, &residue);
        if (residue <= 4.0 * tol) break;
    }
    return rank;
}

SKVDEF skv_result skv_eigh(double *a, size_t n, size_t lda, double *w, double *v, int max_sweeps,
                           int *sweeps)
{
    skvi_jac k;
    double top, shift, f0, f1;
    size_t i, j, have;
    int e, done;
    if (n && (!a || !w || !v)) return SKV_ERR_ARG;
    if (max_sweeps < 0 || skvi_la_bad_shape(n, n, lda)) return SKV_ERR_ARG;
    top = skvi_la_max_abs(a, n, n, lda, 1);
    if (top < 0) return SKV_ERR_NOT_FINITE;
    if (sweeps) *sweeps = 0;
    if (!n) return SKV_OK;
    e = skvi_la_scale(top, 460, &f0, &f1);
    for (i = 0; i < n; i++)
        for (j = i; j < n; j++) a[i * lda + j] = a[i * lda + j] * f0 * f1;
    k.la = skvi_la_pick();
    k.x = v;
    k.norm2 = w;
    k.ld = k.len = k.full = n;
    k.rows = skvi_eigh_factor(&k.la, a, n, lda, w, v, &shift);
    done = skvi_jac_run(&k, max_sweeps ? max_sweeps : 30);
    have = skvi_jac_finish(&k);
    skvi_complete_rows(&k.la, v, have, n, n, n, a);
    for (i = 0; i < n; i++) w[i] = ldexp((i < have ? w[i] : 0.0) - shift, -e);
    if (sweeps) *sweeps = done < 0 ? -done : done;
    return done < 0 ? SKV_NOT_CONVERGED : SKV_OK;
}

/* >>svd -----------------------------------------------------------------------------------------
   For m >= n (else the transpose): QR with column pivoting, A P = Q R, then one-sided Jacobi on the
   rows of R. With J R = S V^T this gives A P = (Q J^T) S V^T. The rows of R are the columns of a
   lower triangular matrix with falling diagonal, on which Jacobi converges fast and keeps the
   relative accuracy of A's columns (Drmac and Veselic 2008, LAPACK's dgejsv). Columns of A are kept
   as rows and never move: R gets its columns in the order of A, so P is not needed. J rides along
   to the right of R. */
typedef struct skvi_qr {
    skvi_la la;
    size_t m, n;                        /* m >= n */
    double *x;                          /* [n][m] columns of A, transformed */
    double *r;                          /* [n][2 n] left half: R with columns in the order of A */
    double *h;                          /* [n][m] Householder vectors, then Q^T */
    double *tau, *norm2, *last, *whole; /* [n] each; norm2 is negative for used columns */
} skvi_qr;

/* Squared lengths of the unused columns from row k on: downdated, summed anew after the loss of
   three digits, and zero once they are noise against the whole column. */
static void skvi_qr_lengths(skvi_qr *t, size_t k)
{
    double tol = (double)t->n * DBL_EPSILON;
    size_t j;
    for (j = 0; j < t->n; j++) {
        const double *x = t->x + j * t->m;
        double left = k ? t->norm2[j] - x[k - 1] * x[k - 1] : 0.0;
        if (k && t->norm2[j] <= 0) continue;
        if (!k || !(left > 1e-3 * t->last[j])) {
            left = t->la.dot(x + k, x + k, t->m - k);
            t->last[j] = left;
            if (!k) t->whole[j] = left;
        }
        t->norm2[j] = left > tol * tol * t->whole[j] && left > SKVI_JAC_ZERO ? left : 0.0;
    }
}

/* Factors; returns the rank. Step k reflects the longest remaining column onto axis k by
   I - tau h h^T with h_k = 1 and writes row k of R. */
static size_t skvi_qr_factor(skvi_qr *t)
{
    size_t i, j, k, p, m = t->m, n = t->n;
    for (k = 0; k < n; k++) {
        double *x, *h = t->h + k * m, *r = t->r + k * 2 * n, beta;
        skvi_qr_lengths(t, k);
        for (j = 1, p = 0; j < n; j++)
            if (t->norm2[j] > t->norm2[p]) p = j;
        if (!(t->norm2[p] > 0)) break;
        x = t->x + p * m;
        beta = sqrt(t->la.dot(x + k, x + k, m - k));
        if (x[k] > 0) beta = -beta;
        t->tau[k] = (beta - x[k]) / beta;
        for (i = 0; i < k; i++) h[i] = 0.0;
        for (h[k] = 1.0, i = k + 1; i < m; i++) h[i] = x[i] / (x[k] - beta);
        for (j = 0; j < n; j++) {
            double *y = t->x + j * m;
            r[j] = 0.0;
            if (j == p || t->norm2[j] < 0) continue;
            t->la.axpy(y + k, h + k, m - k, -t->tau[k] * t->la.dot(h + k, y + k, m - k));
            r[j] = y[k];
        }
        r[p] = beta;
        t->norm2[p] = -1.0;
    }
    return k;
}

/* Replaces the Householder vectors by the rows of Q^T; rows from rank on complete the basis. */
static void skvi_qr_form(skvi_qr *t, size_t rank)
{
    size_t i, j, k, m = t->m;
    for (j = rank; j < t->n; j++)
        for (i = 0; i < m; i++) t->h[j * m + i] = i == j ? 1.0 : 0.0;
    for (k = rank; k-- > 0;) {
        double *h = t->h + k * m, tau = t->tau[k];
        for (j = k + 1; j < t->n; j++) {
            double *y = t->h + j * m;
            t->la.axpy(y + k, h + k, m - k, -tau * t->la.dot(h + k, y + k, m - k));
        }
        for (i = k; i < m; i++) h[i] *= -tau;
        h[k] += 1.0;
    }
}

SKVDEF size_t skv_svd_scratch(size_t m, size_t n)
{
    size_t most = SIZE_MAX / sizeof(double), k = m < n ? m : n, l = m < n ? n : m;
    if (!k || k > most / 8 / k || l > most / k - 2 * k - 4) return 0;
    return k * l + 2 * k * k + 4 * k;
}

/* The work for m >= n; x, the columns of A as rows, is where the left vectors go. */
static int skvi_svd_tall(skvi_qr *t, double *s, double *vt, int max_sweeps)
{
    skvi_jac k;
    size_t i, j, have, m = t->m, n = t->n, rank = skvi_qr_factor(t);
    int done;
    for (i = 0; i < rank; i++)
        for (j = 0; j < rank; j++) t->r[i * 2 * n + n + j] = i == j ? 1.0 : 0.0;
    k.la = t->la;
    k.x = t->r;
    k.norm2 = s;
    k.rows = rank;
    k.ld = 2 * n;
    k.len = n;
    k.full = n + rank;
    done = skvi_jac_run(&k, max_sweeps);
    have = skvi_jac_finish(&k);
    for (i = 0; i < n; i++) s[i] = i < have ? sqrt(s[i]) : 0.0;
    for (i = 0; i < have; i++)
        for (j = 0; j < n; j++) vt[i * n + j] = t->r[i * 2 * n + j];
    skvi_complete_rows(&t->la, vt, have, n, n, n, t->last);
    skvi_qr_form(t, rank);
    skvi_gemm(t->x, m, rank, m, rank, skvi_view_d(t->r + n, 2 * n), skvi_view_d(t->h, m));
    for (i = rank * m; i < n * m; i++) t->x[i] = t->h[i];
    return done;
}

SKVDEF skv_result skv_svd(const double *a, size_t m, size_t n, size_t lda, double *s, double *ut,
                          double *vt, double *scratch, int max_sweeps, int *sweeps)
{
    skvi_qr t;
    double top, f0, f1;
    size_t i, j, low = m < n ? m : n;
    int e, done;
    if (low && (!a || !s || !ut || !vt || !scratch)) return SKV_ERR_ARG;
    if (max_sweeps < 0 || skvi_la_bad_shape(m, n, lda)) return SKV_ERR_ARG;
    if (low && !skv_svd_scratch(m, n)) return SKV_ERR_ARG;
    top = low ? skvi_la_max_abs(a, m, n, lda, 0) : 0.0;
    if (top < 0) return SKV_ERR_NOT_FINITE;
    if (sweeps) *sweeps = 0;
    if (!low) return SKV_OK;
    e = skvi_la_scale(top, 230, &f0, &f1);
    t.la = skvi_la_pick();
    t.n = low;
    t.m = m < n ? n : m;
    t.x = m < n ? vt : ut;
    for (i = 0; i < m; i++) {
        for (j = 0; j < n; j++) {
            double h = a[i * lda + j] * f0 * f1;
            if (m < n) t.x[i * n + j] = h;
            else t.x[j * m + i] = h;
        }
    }
    t.h = scratch;
    t.r = t.h + t.n * t.m;
    t.tau = t.r + 2 * low * low;
    t.norm2 = t.tau + low;
    t.last = t.norm2 + low;
    t.whole = t.last + low;
    done = skvi_svd_tall(&t, s, m < n ? ut : vt, max_sweeps ? max_sweeps : 30);
    for (i = 0; i < low; i++) s[i] = ldexp(s[i], -e);
    if (sweeps) *sweeps = done < 0 ? -done : done;
    return done < 0 ? SKV_NOT_CONVERGED : SKV_OK;
}

/* >>fit ---------------------------------------------------------------------------------------
   Profiler: sums over calibration passages, and the fit from them. */
typedef struct skvi_gram {          /* one stream of one head group; sums over tokens */
    double *sum;                    /* [D] */
    double *gram;                   /* [D][D], upper triangle: sum of x x^T */
} skvi_gram;

typedef struct skvi_player {
    skv_layer shape;
    uint32_t  n_groups;
    double    n_tokens, n_queries, price[2];
    skvi_gram *k, *v;               /* [n_groups] */
    double    *mk_plain, *mk;       /* [n_kv][d][d]: sums of q q^T scale^2; times a_i */
    double    *mass;                /* [n_q]: sum of p_ij^2 over what will be read from pages */
    float     *wo;                  /* [n_q][dv][dv]: W_O,h^T W_O,h, or the identity */
} skvi_player;

struct skv_profiler {
    skv_allocator alloc;
    size_t        bytes;
    int           own;              /* allocated here, not desc.memory */
    void         *block;            /* what alloc returned or desc.memory */
    skv_model     model;
    char          name[64];
    uint32_t      head_group, sinks, window, max_passage, max_queries;
    skv_layer    *layers;
    skvi_player  *player;           /* [n_layers] */
    unsigned char *scratch;         /* in desc.memory mode; else NULL */
    size_t        scratch_bytes;
};

static void skvi_profiler_grams(skvi_arena *a, skvi_gram *g, uint32_t n_groups, uint32_t n_kv,
                                uint32_t head_group, uint32_t dim)
{
    uint32_t i;
    for (i = 0; i < n_groups; i++) {
        uint32_t first = i * head_group, left = n_kv - first;
        size_t d = (size_t)(left < head_group ? left : head_group) * dim;
        double *sum = (double *)skvi_take(a, d, sizeof(double));
        double *gram = (double *)skvi_take(a, d, d * sizeof(double));
        if (g) {
            g[i].sum = sum;
            g[i].gram = gram;
        }
    }
}

static void skvi_profiler_layout(skvi_arena *a, skv_profiler *p, const skv_model *m)
{
    uint32_t i;
    p->layers = (skv_layer *)skvi_take(a, m->n_layers, sizeof *p->layers);
    p->player = (skvi_player *)skvi_take(a, m->n_layers, sizeof *p->player);
    for (i = 0; i < m->n_layers; i++) {
        skvi_player tmp, *l = a->base ? &p->player[i] : &tmp;
        skv_layer s = skvi_model_layer(m, i);
        (void)skvi_fill_layer(&s);
        memset(l, 0, sizeof *l);
        l->shape = s;
        l->n_groups = skvi_groups(&s, p->head_group);
        l->price[0] = l->price[1] = 1;
        l->k = (skvi_gram *)skvi_take(a, l->n_groups, sizeof(skvi_gram));
        l->v = (skvi_gram *)skvi_take(a, l->n_groups, sizeof(skvi_gram));
        skvi_profiler_grams(a, l->k, l->n_groups, s.n_kv_heads, p->head_group, s.head_dim);
        skvi_profiler_grams(a, l->v, l->n_groups, s.n_kv_heads, p->head_group, s.head_dim_v);
        l->mk_plain = (double *)skvi_take(a, (size_t)s.n_kv_heads * s.head_dim,
                                          s.head_dim * sizeof(double));
        l->mk = (double *)skvi_take(a, (size_t)s.n_kv_heads * s.head_dim,
                                    s.head_dim * sizeof(double));
        l->mass = (double *)skvi_take(a, s.n_q_heads, sizeof(double));
        l->wo = (float *)skvi_take(a, (size_t)s.n_q_heads * s.head_dim_v,
                                   s.head_dim_v * sizeof(float));
    }
    p->scratch = (unsigned char *)skvi_take(a, p->scratch_bytes, 1);
    p->bytes = a->used;
}

/* Work space of skv_profiler_add for one layer and n tokens. */
#define SKVI_QTILE 16u
typedef struct skvi_addwork {
    float *kt, *v, *gv;             /* K in tiles [n / 64][d][64]; [n][dv] twice */
    float *vgv, *s, *cross;         /* [n], [QTILE][n], [QTILE][n] */
    float *q, *o, *og;              /* [QTILE][d], [QTILE][dv], [QTILE][dv] */
    float *rows;                    /* [64][D]: tokens of a head group side by side */
    double *a;                      /* [QTILE] */
} skvi_addwork;

static void skvi_add_layout(skvi_arena *a, skvi_addwork *w, const skv_layer *s, size_t n,
                            uint32_t head_group)
{
    size_t d = s->head_dim, dv = s->head_dim_v, big = d > dv ? d : dv, f = sizeof(float);
    w->kt = (float *)skvi_take(a, (n + 63) / 64 * 64, d * f);
    w->v = (float *)skvi_take(a, n, dv * f);
    w->gv = (float *)skvi_take(a, n, dv * f);
    w->vgv = (float *)skvi_take(a, n, f);
    w->s = (float *)skvi_take(a, n, SKVI_QTILE * f);
    w->cross = (float *)skvi_take(a, n, SKVI_QTILE * f);
    w->q = (float *)skvi_take(a, SKVI_QTILE, d * f);
    w->o = (float *)skvi_take(a, SKVI_QTILE, dv * f);
    w->og = (float *)skvi_take(a, SKVI_QTILE, dv * f);
    w->rows = (float *)skvi_take(a, 64u * (size_t)head_group, big * f);
    w->a = (double *)skvi_take(a, SKVI_QTILE, sizeof(double));
}

/* Work space of the fit of one stream: D latent channels, heads of dim. */
typedef struct skvi_fitwork {
    double *c, *t, *vec, *w;        /* [D][D] three times, [D] */
    double *m, *root, *inv;         /* [dim][dim], [heads][dim][dim] twice */
} skvi_fitwork;

static void skvi_fit_layout(skvi_arena *a, skvi_fitwork *w, size_t heads, size_t dim)
{
    size_t D = heads * dim, f = sizeof(double);
    w->c = (double *)skvi_take(a, D, D * f);
    w->t = (double *)skvi_take(a, D, D * f);
    w->vec = (double *)skvi_take(a, D, D * f);
    w->w = (double *)skvi_take(a, D, f);
    w->m = (double *)skvi_take(a, dim, dim * f);
    w->root = (double *)skvi_take(a, D, dim * f);
    w->inv = (double *)skvi_take(a, D, dim * f);
}

/* The most that add or fit will want for any layer. */
static size_t skvi_profiler_scratch(const skv_profiler *p, const skv_model *m)
{
    size_t most = 0;
    uint32_t i;
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        skvi_arena a = {NULL, 0, 0}, b = {NULL, 0, 0};
        skvi_addwork aw;
        skvi_fitwork fw;
        uint32_t group = p->head_group;
        (void)skvi_fill_layer(&s);
        if (group > s.n_kv_heads) group = s.n_kv_heads;
        skvi_add_layout(&a, &aw, &s, p->max_passage, group);
        skvi_fit_layout(&b, &fw, group, s.head_dim > s.head_dim_v ? s.head_dim : s.head_dim_v);
        if (a.overflow || b.overflow) return (size_t)-1 / 2;
        if (a.used > most) most = a.used;
        if (b.used > most) most = b.used;
    }
    return most + SKVI_ALIGN;
}

/* Work space of the asked size: the caller's memory, or allocated. */
static skv_result skvi_work_begin(const skv_profiler *p, skvi_arena *a, size_t bytes, void **block)
{
    *block = NULL;
    a->used = 0;
    a->overflow = 0;
    if (p->scratch) {
        if (bytes + SKVI_ALIGN > p->scratch_bytes) return SKV_ERR_MEMORY;
        a->base = skvi_align_up(p->scratch);
        return SKV_OK;
    }
    *block = p->alloc.alloc(p->alloc.user, bytes + SKVI_ALIGN);
    if (!*block) return SKV_ERR_MEMORY;
    a->base = skvi_align_up(*block);
    return SKV_OK;
}

static void skvi_work_end(const skv_profiler *p, void *block, size_t bytes)
{
    if (block) p->alloc.free(p->alloc.user, block, bytes + SKVI_ALIGN);
}

static skv_result skvi_profiler_prepare(const skv_profiler_desc *d, skv_profiler *p)
{
    skv_result r;
    memset(p, 0, sizeof *p);
    r = skvi_check_model(&d->model);
    if (r != SKV_OK) return r;
    p->head_group = d->head_group ? d->head_group : 1;
    p->sinks = skvi_or(d->sinks, 4);
    p->window = skvi_or(d->window, 64);
    p->max_passage = d->max_passage ? d->max_passage : 2048;
    p->max_queries = d->max_queries ? d->max_queries : 256;
    if (p->head_group > 65536 || p->max_passage > (1u << 24)) return SKV_ERR_ARG;
    p->own = d->memory == NULL;
    if (p->own) {
        r = skvi_pick_allocator(&d->allocator, &p->alloc);
        if (r != SKV_OK) return r;
    } else {
        (void)skvi_pick_allocator(&d->allocator, &p->alloc);    /* for the profile that fit makes */
    }
    if (!p->own) p->scratch_bytes = skvi_profiler_scratch(p, &d->model);
    return SKV_OK;
}

static skv_result skvi_profiler_measure(const skv_profiler_desc *d, skv_profiler *p, size_t *bytes)
{
    skvi_arena a = {NULL, 0, 0};
    skv_result r = skvi_profiler_prepare(d, p);
    if (r != SKV_OK) return r;
    (void)skvi_take(&a, 1, sizeof *p);
    skvi_profiler_layout(&a, p, &d->model);
    if (a.overflow || a.used > (size_t)-1 / 4) return SKV_ERR_MEMORY;
    *bytes = a.used + SKVI_ALIGN;
    return SKV_OK;
}

SKVDEF skv_result skv_profiler_size(const skv_profiler_desc *desc, size_t *bytes)
{
    skv_profiler_desc d;
    skv_profiler p;
    if (!desc || !bytes) return SKV_ERR_ARG;
    d = *desc;
    if (!d.memory) d.memory = &p;           /* size is asked for the memory mode */
    return skvi_profiler_measure(&d, &p, bytes);
}

SKVDEF skv_result skv_profiler_init(skv_profiler **out, const skv_profiler_desc *desc)
{
    skv_profiler tmp, *p;
    skvi_arena a = {NULL, 0, 0};
    size_t bytes = 0, h, i;
    uint32_t l;
    void *block;
    skv_result r;
    if (!out || !desc) return SKV_ERR_ARG;
    r = skvi_profiler_measure(desc, &tmp, &bytes);
    if (r != SKV_OK) return r;
    if (!tmp.own && desc->memory_bytes < bytes) return SKV_ERR_MEMORY;
    block = tmp.own ? tmp.alloc.alloc(tmp.alloc.user, bytes) : desc->memory;
    if (!block) return SKV_ERR_MEMORY;
    memset(block, 0, bytes);
    a.base = skvi_align_up(block);
    p = (skv_profiler *)skvi_take(&a, 1, sizeof *p);
    *p = tmp;
    skvi_profiler_layout(&a, p, &desc->model);
    skvi_copy_model(&p->model, &desc->model, p->layers, p->name);
    if (p->own) p->scratch = NULL;
    p->block = block;
    p->bytes = bytes;
    for (l = 0; l < p->model.n_layers; l++) {       /* without W_O its Gram is the identity */
        size_t dv = p->layers[l].head_dim_v;
        for (h = 0; h < p->layers[l].n_q_heads; h++)
            for (i = 0; i < dv; i++) p->player[l].wo[(h * dv + i) * dv + i] = 1.0f;
    }
    *out = p;
    return SKV_OK;
}

SKVDEF void skv_profiler_free(skv_profiler *p)
{
    skv_allocator a;
    if (!p || !p->own) return;
    a = p->alloc;
    a.free(a.user, p->block, p->bytes);
}

SKVDEF size_t skv_profiler_bytes(const skv_profiler *p) { return p ? p->bytes : 0; }

SKVDEF skv_result skv_profiler_output(skv_profiler *p, uint32_t layer, const skv_span *w_o,
                                      size_t n_out)
{
    float row[SKV_MAX_HEAD_DIM];
    skvi_player *l;
    skvi_tokens w;
    skv_result r;
    size_t h, t, i, j, dv;
    if (!p || layer >= p->model.n_layers) return SKV_ERR_ARG;
    l = &p->player[layer];
    dv = l->shape.head_dim_v;
    if (!n_out) return SKV_ERR_ARG;
    if (l->n_queries > 0) return SKV_ERR_STATE;
    r = skvi_open(&w, w_o, l->shape.n_q_heads, dv);
    if (r == SKV_OK) r = skvi_check_values(&w, n_out, l->shape.n_q_heads, 1e4f);
    if (r != SKV_OK) return r;
    for (h = 0; h < l->shape.n_q_heads; h++) {
        float *g = l->wo + h * dv * dv;
        memset(g, 0, dv * dv * sizeof(float));
        for (t = 0; t < n_out; t++) {
            skvi_load(&w, t, h, row);
            for (i = 0; i < dv; i++)
                for (j = 0; j < dv; j++) g[i * dv + j] += row[i] * row[j];
        }
    }
    return SKV_OK;
}

SKVDEF skv_result skv_profiler_price(skv_profiler *p, uint32_t layer, double price_k,
                                     double price_v)
{
    if (!p || layer >= p->model.n_layers) return SKV_ERR_ARG;
    if (!(price_k >= 0) || !(price_v >= 0) || price_k > 1e30 || price_v > 1e30)
        return SKV_ERR_ARG;
    p->player[layer].price[0] = price_k;
    p->player[layer].price[1] = price_v;
    return SKV_OK;
}

/* Adds tokens first .. n-1 of one head group to its mean and Gram. */
static void skvi_add_gram(skvi_gram *g, const skvi_tokens *x, size_t first, size_t n, size_t head0,
                          size_t heads, float *rows)
{
    size_t D = heads * x->dim, t, i, h, m;
    for (; first < n; first += m) {
        m = n - first < 64 ? n - first : 64;
        for (t = 0; t < m; t++)
            for (h = 0; h < heads; h++)
                skvi_load(x, first + t, head0 + h, rows + t * D + h * x->dim);
        for (t = 0; t < m; t++)
            for (i = 0; i < D; i++) g->sum[i] += (double)rows[t * D + i];
        skvi_syrk_add(g->gram, D, rows, m, D);
    }
}

/* Softmax weights of queries i0.. of one tile over their causal past, in place of the scores;
   slope becomes the soft cap's derivative. Both [m][n]. */
static void skvi_add_softmax(float *s, float *slope, size_t m, size_t n, const size_t *pos,
                             const skv_layer *shape)
{
    size_t r, j;
    for (r = 0; r < m; r++) {
        float *row = s + r * n, *sl = slope + r * n, top = -INFINITY, sum = 0;
        size_t end = pos[r] + 1, w = shape->sliding_window;
        size_t begin = w && end > w ? end - w : 0;
        for (j = 0; j < n; j++) {
            sl[j] = 1;
            if (j < begin || j >= end) continue;
            row[j] *= shape->scale;
            if (shape->softcap > 0) {
                float th = tanhf(row[j] / shape->softcap);
                row[j] = shape->softcap * th;
                sl[j] = 1 - th * th;
            }
            if (row[j] > top) top = row[j];
        }
        for (j = 0; j < n; j++) {
            row[j] = j < begin || j >= end ? 0.0f : expf(row[j] - top);
            sum += row[j];
        }
        for (j = 0; j < n; j++) row[j] /= sum;
    }
}

/* One tile of m queries of head h: adds q q^T to the plain and the weighted Gram of KV head kh. */
static void skvi_add_tile(const skv_profiler *p, skvi_player *l, skvi_addwork *w, size_t n,
                          size_t h, const size_t *pos, size_t m)
{
    const skv_layer *s = &l->shape;
    size_t d = s->head_dim, dv = s->head_dim_v, kh = h / (s->n_q_heads / s->n_kv_heads);
    size_t r, i, j;
    float *slope = w->cross;
    memset(w->s, 0, m * n * sizeof(float));
    memset(w->o, 0, m * dv * sizeof(float));
    memset(w->og, 0, m * dv * sizeof(float));
    for (j = 0; j < n; j += 64)
        skvi_sgemm(m, n - j < 64 ? n - j : 64, d, w->q, d, w->kt + j * d, 64, w->s + j, n);
    skvi_add_softmax(w->s, slope, m, n, pos, s);
    skvi_sgemm(m, dv, n, w->s, n, w->v, dv, w->o, dv);
    skvi_sgemm(m, dv, dv, w->o, dv, l->wo + h * dv * dv, dv, w->og, dv);
    for (r = 0; r < m; r++) {           /* a_i = sum_j (p slope)^2 |W_O (v_j - o_i)|^2 */
        double a = 0, mass = 0;
        float oo = skvi_dot_c(w->o + r * dv, w->og + r * dv, dv);
        for (j = p->sinks; j + p->window <= pos[r]; j++) {
            float pj = w->s[r * n + j], x = pj * slope[r * n + j], dist;
            if (pj < 1e-6f) continue;
            dist = w->vgv[j] + oo - 2 * skvi_dot_c(w->og + r * dv, w->v + j * dv, dv);
            if (dist > 0) a += (double)(x * x * dist);
            mass += (double)(pj * pj);
        }
        w->a[r] = a;
        l->mass[h] += mass;
    }
    for (r = 0; r < m; r++) {
        const float *q = w->q + r * d;
        double sc = (double)s->scale * s->scale, *plain = l->mk_plain + kh * d * d;
        double *mk = l->mk + kh * d * d;
        for (i = 0; i < d; i++) {
            double x = q[i] * sc, xa = x * w->a[r];
            for (j = i; j < d; j++) {
                plain[i * d + j] += x * q[j];
                mk[i * d + j] += xa * q[j];
            }
        }
    }
}

/* All queries of the heads that share KV head kh. */
static void skvi_add_kv_head(const skv_profiler *p, skvi_player *l, skvi_addwork *w,
                             const skvi_tokens *q, const skvi_tokens *k, const skvi_tokens *v,
                             size_t n, size_t kh)
{
    const skv_layer *s = &l->shape;
    size_t d = s->head_dim, dv = s->head_dim_v, g = s->n_q_heads / s->n_kv_heads;
    size_t count = n < p->max_queries ? n : p->max_queries, t, i, h, at, pos[SKVI_QTILE];
    float row[SKV_MAX_HEAD_DIM];
    for (t = 0; t < n; t++) {
        skvi_load(k, t, kh, row);
        for (i = 0; i < d; i++) w->kt[(t / 64 * d + i) * 64 + t % 64] = row[i];
        skvi_load(v, t, kh, w->v + t * dv);
    }
    for (i = 0; i < dv; i++) {              /* only v_j - o_i counts: no mean, no cancellation */
        double mean = 0;
        for (t = 0; t < n; t++) mean += (double)w->v[t * dv + i] / (double)n;
        for (t = 0; t < n; t++) w->v[t * dv + i] -= (float)mean;
    }
    for (h = kh * g; h < (kh + 1) * g; h++) {
        memset(w->gv, 0, n * dv * sizeof(float));
        skvi_sgemm(n, dv, dv, w->v, dv, l->wo + h * dv * dv, dv, w->gv, dv);
        for (t = 0; t < n; t++) w->vgv[t] = skvi_dot_c(w->v + t * dv, w->gv + t * dv, dv);
        for (at = 0; at < count; ) {
            size_t m = 0;
            for (; m < SKVI_QTILE && at < count; m++, at++) {
                pos[m] = (2 * at + 1) * n / (2 * count);
                skvi_load(q, pos[m], h, w->q + m * d);
            }
            skvi_add_tile(p, l, w, n, h, pos, m);
        }
    }
}

SKVDEF skv_result skv_profiler_add(skv_profiler *p, uint32_t layer, const skv_span *q,
                                   const skv_span *k, const skv_span *v, size_t n_tokens)
{
    skvi_tokens vq, vk, vv;
    skvi_player *l;
    skvi_addwork w;
    skvi_arena a = {NULL, 0, 0};
    size_t bytes, g, first;
    void *block;
    skv_result r;
    if (!p || layer >= p->model.n_layers || !n_tokens) return SKV_ERR_ARG;
    if (n_tokens > p->max_passage) return SKV_ERR_ARG;
    l = &p->player[layer];
    r = skvi_open(&vq, q, l->shape.n_q_heads, l->shape.head_dim);
    if (r == SKV_OK) r = skvi_open(&vk, k, l->shape.n_kv_heads, l->shape.head_dim);
    if (r == SKV_OK) r = skvi_open(&vv, v, l->shape.n_kv_heads, l->shape.head_dim_v);
    if (r == SKV_OK) r = skvi_check_values(&vq, n_tokens, l->shape.n_q_heads, SKVI_LARGEST);
    if (r == SKV_OK) r = skvi_check_values(&vk, n_tokens, l->shape.n_kv_heads, SKVI_LARGEST);
    if (r == SKV_OK) r = skvi_check_values(&vv, n_tokens, l->shape.n_kv_heads, SKVI_LARGEST);
    if (r != SKV_OK) return r;
    g = p->head_group < l->shape.n_kv_heads ? p->head_group : l->shape.n_kv_heads;
    skvi_add_layout(&a, &w, &l->shape, n_tokens, (uint32_t)g);
    bytes = a.used;
    r = a.overflow ? SKV_ERR_MEMORY : skvi_work_begin(p, &a, bytes, &block);
    if (r != SKV_OK) return r;
    skvi_add_layout(&a, &w, &l->shape, n_tokens, (uint32_t)g);
    first = p->sinks < n_tokens ? p->sinks : n_tokens;
    for (g = 0; g < l->n_groups; g++) {
        size_t h0 = g * p->head_group, left = l->shape.n_kv_heads - h0;
        size_t heads = left < p->head_group ? left : p->head_group;
        skvi_add_gram(&l->k[g], &vk, first, n_tokens, h0, heads, w.rows);
        skvi_add_gram(&l->v[g], &vv, first, n_tokens, h0, heads, w.rows);
    }
    for (g = 0; g < l->shape.n_kv_heads; g++)
        skvi_add_kv_head(p, l, &w, &vq, &vk, &vv, n_tokens, g);
    l->n_tokens += (double)(n_tokens - first);
    l->n_queries += (double)(n_tokens < p->max_queries ? n_tokens : p->max_queries);
    skvi_work_end(p, block, bytes);
    return SKV_OK;
}

static int skvi_same_layer(const skv_layer *a, const skv_layer *b)
{
    return a->n_q_heads == b->n_q_heads && a->n_kv_heads == b->n_kv_heads &&
           a->head_dim == b->head_dim && a->head_dim_v == b->head_dim_v;
}

static void skvi_sum(double *to, const double *from, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) to[i] += from[i];
}

SKVDEF skv_result skv_profiler_merge(skv_profiler *p, const skv_profiler *other)
{
    uint32_t i, g;
    if (!p || !other || p == other) return SKV_ERR_ARG;
    if (p->model.n_layers != other->model.n_layers || p->head_group != other->head_group ||
        p->sinks != other->sinks || p->window != other->window)
        return SKV_ERR_SHAPE;
    if (p->model.fingerprint && other->model.fingerprint &&
        p->model.fingerprint != other->model.fingerprint)
        return SKV_ERR_MODEL;
    for (i = 0; i < p->model.n_layers; i++) {
        const skv_layer *a = &p->layers[i], *b = &other->layers[i];
        size_t wo = (size_t)a->n_q_heads * a->head_dim_v * a->head_dim_v * sizeof(float);
        if (!skvi_same_layer(a, b) || a->sliding_window != b->sliding_window ||
            skvi_bits(a->scale) != skvi_bits(b->scale) ||
            skvi_bits(a->softcap) != skvi_bits(b->softcap) ||
            memcmp(p->player[i].wo, other->player[i].wo, wo))
            return SKV_ERR_SHAPE;
    }
    for (i = 0; i < p->model.n_layers; i++) {
        skvi_player *l = &p->player[i];
        const skvi_player *o = &other->player[i];
        size_t d = l->shape.head_dim, dv = l->shape.head_dim_v, kv = l->shape.n_kv_heads;
        for (g = 0; g < l->n_groups; g++) {
            size_t left = kv - (size_t)g * p->head_group;
            size_t heads = left < p->head_group ? left : p->head_group;
            skvi_sum(l->k[g].sum, o->k[g].sum, heads * d);
            skvi_sum(l->k[g].gram, o->k[g].gram, heads * d * heads * d);
            skvi_sum(l->v[g].sum, o->v[g].sum, heads * dv);
            skvi_sum(l->v[g].gram, o->v[g].gram, heads * dv * heads * dv);
        }
        skvi_sum(l->mk_plain, o->mk_plain, kv * d * d);
        skvi_sum(l->mk, o->mk, kv * d * d);
        skvi_sum(l->mass, o->mass, l->shape.n_q_heads);
        l->n_tokens += o->n_tokens;
        l->n_queries += o->n_queries;
    }
    return SKV_OK;
}

/* Symmetric square root and its inverse, [n][n] each, of m (upper triangle; destroyed).
   Eigenvalues below 1e-6 of the largest are raised to that, so that the inverse stays tame. */
static skv_result skvi_root(double *m, size_t n, double *root, double *inv, double *vec, double *w)
{
    size_t i, j, c;
    skv_result r = skv_eigh(m, n, n, w, vec, 0, NULL);
    double least = r >= SKV_OK && w[0] > 0 ? w[0] * 1e-6 : 1;
    if (r < SKV_OK) return r;
    memset(root, 0, n * n * sizeof(double));
    memset(inv, 0, n * n * sizeof(double));
    for (c = 0; c < n; c++) {
        double x = sqrt(w[c] > least ? w[c] : least), y = 1 / x;
        const double *v = vec + c * n;
        for (i = 0; i < n; i++) {
            double vx = v[i] * x, vy = v[i] * y;
            for (j = 0; j < n; j++) {
                root[i * n + j] += vx * v[j];
                inv[i * n + j] += vy * v[j];
            }
        }
    }
    return r;
}

/* The error metric M of one KV head, upper triangle into m. A head that looked idle in calibration
   keeps 1 % of the layer's mean weight, shaped by the plain Gram: it may matter elsewhere. */
static void skvi_metric(const skvi_player *l, skv_kind kind, size_t head, double *m)
{
    size_t d = kind == SKV_K ? l->shape.head_dim : l->shape.head_dim_v, n_kv = l->shape.n_kv_heads;
    size_t g = l->shape.n_q_heads / n_kv, h, i, x;
    double trace = 0, plain_trace = 0, own = 0, share;
    const double *plain = l->mk_plain + head * d * d;
    memset(m, 0, d * d * sizeof(double));
    if (kind == SKV_K) {
        memcpy(m, l->mk + head * d * d, d * d * sizeof(double));
        for (h = 0; h < n_kv; h++)
            for (i = 0; i < d; i++) trace += l->mk[(h * d + i) * d + i];
        for (i = 0; i < d; i++) plain_trace += plain[i * d + i];
    } else {
        for (h = 0; h < l->shape.n_q_heads; h++) {
            const float *wo = l->wo + h * d * d;
            int mine = h / g == head;
            for (i = 0; i < d; i++) {
                trace += l->mass[h] * wo[i * d + i];
                plain_trace += mine ? (double)wo[i * d + i] : 0;
            }
            for (i = 0; mine && i < d * d; i++) m[i] += l->mass[h] * wo[i];
        }
    }
    share = trace > 0 ? 0.01 * trace / (double)n_kv : plain_trace;
    if (!(trace > 0) && kind == SKV_V) share *= l->n_queries;   /* each query read one token */
    if (plain_trace > 0)
        for (i = 0; i < d * d; i++) {
            double add = kind == SKV_K ? plain[i] : 0;
            for (h = head * g; kind == SKV_V && h < (head + 1) * g; h++)
                add += (double)l->wo[h * d * d + i];
            m[i] += share * add / plain_trace;
        }
    for (i = 0; i < d; i++) own += m[i * d + i];
    if (!(own > 0)) own = (double)d;
    for (i = 0; i < d; i++) m[i * d + i] += 1e-6 * own / (double)d;
    share = 1 / (l->n_queries > 0 ? l->n_queries : 1);
    for (x = 0; x < d * d; x++) m[x] *= share;
}

/* Centred covariance of a stream into c [D][D], full; mean into the profile. */
static void skvi_covariance(const skvi_gram *g, double n, size_t D, double *c, float *mean)
{
    size_t i, j;
    for (i = 0; i < D; i++) mean[i] = (float)(g->sum[i] / n);
    for (i = 0; i < D; i++)
        for (j = i; j < D; j++) {
            double x = g->gram[i * D + j] / n - (g->sum[i] / n) * (g->sum[j] / n);
            c[i * D + j] = c[j * D + i] = x;
        }
}

/* The profile object. */
typedef struct skvi_stream {        /* K or V of one head group: D = heads * dim channels */
    uint32_t heads, dim, D;
    float *mean;                    /* [D] */
    float *var;                     /* [D] descending, in units of expected output error */
    float *enc;                     /* [D][D]: whitened latent u = enc (x - mean) */
    float *dec;                     /* [D][D], row = channel: x = mean + sum_c u_c dec[c] */
} skvi_stream;

struct skv_profile {
    skv_allocator alloc;
    size_t        bytes;
    void         *block;
    skv_model     model;
    char          name[64];
    uint32_t      head_group, sinks, window, n_streams;
    skv_target    target;
    double        n_tokens;         /* calibrated on, per layer */
    skv_layer    *layers;
    uint32_t     *first;            /* [n_layers + 1]: first stream of a layer; K groups, then V */
    skvi_stream  *stream;           /* [n_streams] */
};

static const skvi_stream *skvi_stream_at(const skv_profile *p, uint32_t layer, int kind, size_t g)
{
    return &p->stream[p->first[layer] + (kind ? skvi_groups(&p->layers[layer], p->head_group) : 0) +
                      g];
}

static void skvi_profile_layout(skvi_arena *a, skv_profile *p, const skv_model *m)
{
    uint32_t i, g, n = 0, at = 0;
    int kind;
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        n += 2 * skvi_groups(&s, p->head_group);
    }
    p->n_streams = n;
    p->layers = (skv_layer *)skvi_take(a, m->n_layers, sizeof *p->layers);
    p->first = (uint32_t *)skvi_take(a, m->n_layers + 1u, sizeof *p->first);
    p->stream = (skvi_stream *)skvi_take(a, n, sizeof *p->stream);
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        uint32_t n_groups = skvi_groups(&s, p->head_group);
        (void)skvi_fill_layer(&s);
        if (a->base) p->first[i] = at;
        for (kind = 0; kind < 2; kind++)
            for (g = 0; g < n_groups; g++, at++) {
                skvi_stream tmp, *t = a->base ? &p->stream[at] : &tmp;
                uint32_t left = s.n_kv_heads - g * p->head_group;
                t->heads = left < p->head_group ? left : p->head_group;
                t->dim = kind ? s.head_dim_v : s.head_dim;
                t->D = t->heads * t->dim;
                t->mean = (float *)skvi_take(a, t->D, sizeof(float));
                t->var = (float *)skvi_take(a, t->D, sizeof(float));
                t->enc = (float *)skvi_take(a, t->D, t->D * sizeof(float));
                t->dec = (float *)skvi_take(a, t->D, t->D * sizeof(float));
            }
    }
    if (a->base) p->first[m->n_layers] = at;
}

/* An empty profile for a checked model. */
static skv_result skvi_profile_new(skv_profile **out, const skv_model *m, uint32_t head_group,
                                   const skv_allocator *alloc)
{
    skv_profile tmp, *p;
    skvi_arena a = {NULL, 0, 0};
    void *block;
    size_t bytes;
    skv_result r;
    memset(&tmp, 0, sizeof tmp);
    r = skvi_pick_allocator(alloc, &tmp.alloc);
    if (r != SKV_OK) return r;
    tmp.head_group = head_group;
    (void)skvi_take(&a, 1, sizeof tmp);
    skvi_profile_layout(&a, &tmp, m);
    if (a.overflow || a.used > (size_t)-1 / 4) return SKV_ERR_MEMORY;
    bytes = a.used + SKVI_ALIGN;
    block = tmp.alloc.alloc(tmp.alloc.user, bytes);
    if (!block) return SKV_ERR_MEMORY;
    memset(block, 0, bytes);
    a.used = 0;
    a.base = skvi_align_up(block);
    p = (skv_profile *)skvi_take(&a, 1, sizeof *p);
    *p = tmp;
    p->block = block;
    p->bytes = bytes;
    skvi_profile_layout(&a, p, m);
    skvi_copy_model(&p->model, m, p->layers, p->name);
    *out = p;
    return SKV_OK;
}

SKVDEF void skv_profile_free(skv_profile *p)
{
    skv_allocator a;
    if (!p) return;
    a = p->alloc;
    a.free(a.user, p->block, p->bytes);
}

SKVDEF const skv_model *skv_profile_model(const skv_profile *p) { return p ? &p->model : NULL; }
SKVDEF size_t skv_profile_bytes(const skv_profile *p) { return p ? p->bytes : 0; }

SKVDEF skv_result skv_profile_spectrum(const skv_profile *p, uint32_t layer, skv_kind kind,
                                       uint32_t group, const float **variances, size_t *n)
{
    const skvi_stream *s;
    if (!p || !variances || !n || layer >= p->model.n_layers) return SKV_ERR_ARG;
    if ((kind != SKV_K && kind != SKV_V) ||
        group >= skvi_groups(&p->layers[layer], p->head_group))
        return SKV_ERR_ARG;
    s = skvi_stream_at(p, layer, (int)kind, group);
    *variances = s->var;
    *n = s->D;
    return SKV_OK;
}

/* Fit of one stream: eigenvectors of R C R, R = blockdiag of the heads' metric roots.
   u = diag(1/sd) V R (x - mean), and back with R^-1 V^T diag(sd). */
static skv_result skvi_fit_stream(const skvi_player *l, skv_kind kind, const skvi_gram *g,
                                  size_t head0, skvi_stream *s, skvi_fitwork *w)
{
    size_t D = s->D, d = s->dim, h, i, c;
    double least, price = l->price[kind];
    skv_result r = SKV_OK, e;
    skvi_covariance(g, l->n_tokens, D, w->c, s->mean);
    for (h = 0; h < s->heads; h++) {
        skvi_metric(l, kind, head0 + h, w->m);
        e = skvi_root(w->m, d, w->root + h * d * d, w->inv + h * d * d, w->t, w->w);
        if (e < SKV_OK) return e;
        if (e != SKV_OK) r = e;
    }
    for (h = 0; h < s->heads; h++)                  /* t = R C, then c = t R */
        skvi_gemm(w->t + h * d * D, D, d, D, d, skvi_view_d(w->root + h * d * d, d),
                  skvi_view_d(w->c + h * d * D, D));
    for (h = 0; h < s->heads; h++)
        skvi_gemm(w->c + h * d, D, D, d, d, skvi_view_d(w->t + h * d, D),
                  skvi_view_d(w->root + h * d * d, d));
    e = skv_eigh(w->c, D, D, w->w, w->vec, 0, NULL);
    if (e < SKV_OK) return e;
    if (e != SKV_OK) r = e;
    least = w->w[0] * 1e-14 > 1e-30 ? w->w[0] * 1e-14 : 1e-30;
    for (h = 0; h < s->heads; h++) {                /* t = V R, c = V R^-1 */
        skvi_gemm(w->t + h * d, D, D, d, d, skvi_view_d(w->vec + h * d, D),
                  skvi_view_d(w->root + h * d * d, d));
        skvi_gemm(w->c + h * d, D, D, d, d, skvi_view_d(w->vec + h * d, D),
                  skvi_view_d(w->inv + h * d * d, d));
    }
    for (c = 0; c < D; c++) {
        double var = w->w[c] > least ? w->w[c] : least, sd = sqrt(var);
        s->var[c] = (float)(var * price > 1e-36 ? var * price : 1e-36);
        for (i = 0; i < D; i++) {
            s->enc[c * D + i] = (float)(w->t[c * D + i] / sd);
            s->dec[c * D + i] = (float)(w->c[c * D + i] * sd);
        }
    }
    return r;
}

/* At most one member set, each in its range. */
static skv_result skvi_check_target(const skv_target *t)
{
    int given = (t->bpe != 0) + (t->energy != 0) + (t->error != 0);
    if (given > 1 || !(t->bpe >= 0 && t->bpe <= 16) || !(t->energy >= 0 && t->energy < 1) ||
        !(t->error >= 0) || !skvi_is_finite(t->error))
        return SKV_ERR_ARG;
    return SKV_OK;
}

SKVDEF skv_result skv_profiler_fit(const skv_profiler *p, const skv_target *fallback,
                                   skv_profile **out)
{
    skv_profile *f = NULL;
    skvi_arena a = {NULL, 0, 0};
    size_t bytes;
    void *block;
    uint32_t i, g;
    int kind;
    skv_result r, worst = SKV_OK;
    if (!p || !out || (fallback && skvi_check_target(fallback) != SKV_OK)) return SKV_ERR_ARG;
    for (i = 0; i < p->model.n_layers; i++)
        if (p->player[i].n_tokens < SKV_PAGE_TOKENS) return SKV_ERR_STATE;
    r = skvi_profile_new(&f, &p->model, p->head_group, &p->alloc);
    if (r != SKV_OK) return r;
    f->sinks = p->sinks;
    f->window = p->window;
    f->n_tokens = p->player[0].n_tokens;
    if (fallback) f->target = *fallback;
    bytes = skvi_profiler_scratch(p, &p->model);
    r = skvi_work_begin(p, &a, bytes - SKVI_ALIGN, &block);
    if (r != SKV_OK) {
        skv_profile_free(f);
        return r;
    }
    for (i = 0; i < p->model.n_layers; i++)
        for (kind = 0; kind < 2; kind++)
            for (g = 0; g < p->player[i].n_groups; g++) {
                const skvi_player *l = &p->player[i];
                skvi_stream *s = &f->stream[f->first[i] + (kind ? l->n_groups : 0) + g];
                skvi_fitwork w;
                a.used = 0;
                skvi_fit_layout(&a, &w, s->heads, s->dim);
                r = skvi_fit_stream(l, kind ? SKV_V : SKV_K, kind ? &l->v[g] : &l->k[g],
                                    (size_t)g * p->head_group, s, &w);
                if (r != SKV_OK && worst >= SKV_OK) worst = r;
            }
    skvi_work_end(p, block, bytes - SKVI_ALIGN);
    if (worst < SKV_OK) skv_profile_free(f);
    else *out = f;
    return worst;
}

/* >>quant -------------------------------------------------------------------------------------
   Scalar codebooks for a unit normal: Lloyd-Max levels (Max 1960; widths 7 and 8 uniform), rounded
   to int8 so that inner loops may be integer. Level of code = table * unit. Symmetric: only the
   positive half is kept; code c >= 2^(w-1) is +half[c - 2^(w-1)], below it mirrors. */
static const signed char skvi_half[63] = {
    127,
    18, 60,
    10, 31, 55, 88,
    5, 15, 25, 36, 48, 62, 79, 104,
    2, 6, 10, 14, 18, 22, 26, 31, 36, 41, 47, 53, 60, 68, 79, 96,
    1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 32,
    34, 37, 39, 42, 45, 48, 51, 54, 58, 62, 66, 71, 77, 84, 93, 108
};
static const float skvi_unit[SKV_MAX_BITS + 1] = {
    0, 0.0062825556f, 0.0251726076f, 0.0244487934f, 0.0262124995f, 0.0338759728f, 0.0347329493f,
    0.0284233559f, 0.0307626907f
};
/* Mean squared error on a unit normal, scale chosen per page included nowhere. */
static const float skvi_distortion[SKV_MAX_BITS + 1] = {
    1.0f, 0.363380f, 0.117482f, 0.0345486f, 0.00950622f, 0.00252006f, 0.000662471f, 0.000304333f,
    0.0000877f
};

static int skvi_level(uint32_t width, uint32_t code)
{
    int half = 1 << (width - 1), c = (int)code;
    if (width == 8) return c - 128;
    if (width == 7) return 2 * c - 127;
    return c >= half ? skvi_half[half - 1 + c - half] : -skvi_half[half - 1 + half - 1 - c];
}

/* Nearest code by half steps: thresholds lie on multiples of 0.5, so cell[2 y + 256] is exact. */
static void skvi_cells(uint32_t width, unsigned char *cell /* [512] */)
{
    uint32_t code = 0, last = (1u << width) - 1;
    int i;
    for (i = -256; i < 256; i++) {          /* y in [i/2, i/2 + 1/2) */
        while (code < last && 2 * i + 1 > 2 * (skvi_level(width, code) +
                                               skvi_level(width, code + 1)))
            code++;
        cell[i + 256] = (unsigned char)code;
    }
}

static uint32_t skvi_quantise(const unsigned char *cell, float y)
{
    float z = 2 * y + 256;
    return cell[z > 0 ? z < 511 ? (int)z : 511 : 0];    /* a NaN falls to 0 */
}

/* Page scales: an unsigned minifloat of 5 exponent and 3 mantissa bits, 2^-16 to about 2^16. */
static float skvi_scale(uint32_t s) { return skvi_float((s << 20) + (111u << 23)); }
static uint32_t skvi_nearest_scale(float x)
{
    int32_t s;
    if (!(x > skvi_scale(0))) return 0;
    s = (int32_t)((skvi_bits(x) + (1u << 19)) >> 20) - (111 << 3);
    return s > 255 ? 255u : (uint32_t)s;
}

/* 64 codes of width bits as one little-endian bit stream: 8 codes in width bytes. */
static void skvi_pack(const unsigned char *codes, uint32_t width, unsigned char *out)
{
    uint32_t i, j;
    for (i = 0; i < SKV_PAGE_TOKENS; i += 8, out += width) {
        uint64_t x = 0;
        for (j = 0; j < 8; j++) x |= (uint64_t)codes[i + j] << (width * j);
        for (j = 0; j < width; j++) out[j] = (unsigned char)(x >> (8 * j));
    }
}

static void skvi_expand_c(const unsigned char *codes, uint32_t width, float step, float *out)
{
    float level[1 << SKV_MAX_BITS];
    uint32_t i, j, mask = (1u << width) - 1;
    for (i = 0; i <= mask; i++) level[i] = (float)skvi_level(width, i) * step;
    for (i = 0; i < SKV_PAGE_TOKENS; i += 8, codes += width) {
        uint64_t x = 0;
        for (j = 0; j < width; j++) x |= (uint64_t)codes[j] << (8 * j);
        for (j = 0; j < 8; j++) out[i + j] = level[(x >> (width * j)) & mask];
    }
}

static const skvi_kernels skvi_kernels_c = {
    skvi_gemm_c, skvi_dot_c, skvi_from_f16_c, skvi_expand_c
};

/* >>plan --------------------------------------------------------------------------------------
   Widths by reverse water-filling: with price lambda of a bit, a channel takes its w-th bit when
   var (D[w-1] - D[w]) >= lambda * cost, cost 1, for the first bit 1 + 8/64 with its scale byte.
   Channels are sorted by variance, so widths never rise along them and a plan is counts. */
typedef struct skvi_plan {
    uint32_t n[SKV_MAX_BITS + 1];   /* channels of each width */
    uint32_t coded;                 /* channels of width > 0 */
    uint32_t bytes;                 /* of a sub */
    float    lambda;                /* distortion that one bit is worth */
    double   error, energy;         /* expected distortion, and the sum of variances */
} skvi_plan;

#define SKVI_SUB_HEADER 4u
#define SKVI_PAGE_HEADER 8u
#define SKVI_ROW_BYTES(D) (2u + 2u * (size_t)(D))
#define SKVI_MAX_ROWS 8u            /* outlier rows of one sub */

static void skvi_plan_stream(const skvi_stream *s, double lambda, skvi_plan *p)
{
    uint32_t c, w;
    memset(p, 0, sizeof *p);
    p->bytes = SKVI_SUB_HEADER;
    p->lambda = (float)lambda;
    for (c = 0; c < s->D; c++) {
        double var = s->var[c];
        for (w = 0; w < SKV_MAX_BITS; w++) {
            double gain = var * (double)(skvi_distortion[w] - skvi_distortion[w + 1]);
            if (gain < lambda * (w ? 1.0 : 1.0 + 8.0 / SKV_PAGE_TOKENS)) break;
        }
        p->n[w]++;
        p->energy += var;
        p->error += var * (double)skvi_distortion[w];
        p->bytes += w ? 1 + w * (SKV_PAGE_TOKENS / 8) : 0;
    }
    p->coded = s->D - p->n[0];
}

/* One lambda for all streams; returns bits per element of the pages, and the summed error. */
static double skvi_plan_all(const skv_profile *p, double lambda, skvi_plan *plan, double *error)
{
    double bytes = 0, elements = 0;
    uint32_t i;
    *error = 0;
    for (i = 0; i < p->n_streams; i++) {
        skvi_plan one;
        skvi_plan_stream(&p->stream[i], lambda, &one);
        bytes += one.bytes;
        elements += (double)p->stream[i].D * SKV_PAGE_TOKENS;
        *error += one.error;
        if (plan) plan[i] = one;
    }
    return 8 * (bytes + (double)SKVI_PAGE_HEADER * p->model.n_layers) / elements;
}

/* Smallest error with bpe at most want, or the fewest bits with error at most want. */
static skv_result skvi_plan_search(const skv_profile *p, const skv_target *t, double want_bpe,
                                   skvi_plan *plan)
{
    double lo = -140, hi = 140, error;      /* log2 of lambda; bits fall as it rises */
    int i, enough;
    for (i = 0; i < 100; i++) {
        double mid = 0.5 * (lo + hi), bpe = skvi_plan_all(p, exp2(mid), NULL, &error);
        enough = t->error > 0 ? error > (double)t->error : bpe <= want_bpe;
        if (enough) hi = mid;
        else lo = mid;
    }
    if (t->error > 0) {
        (void)skvi_plan_all(p, exp2(lo), plan, &error);
        return error <= (double)t->error ? SKV_OK : SKV_ERR_TARGET;
    }
    return skvi_plan_all(p, exp2(hi), plan, &error) <= want_bpe ? SKV_OK : SKV_ERR_TARGET;
}

/* Each stream for itself, to keep a share of its energy. */
static skv_result skvi_plan_energy(const skv_profile *p, double share, skvi_plan *plan)
{
    uint32_t i;
    int step;
    for (i = 0; i < p->n_streams; i++) {
        double lo = -140, hi = 140;
        for (step = 0; step < 100; step++) {
            double mid = 0.5 * (lo + hi);
            skvi_plan_stream(&p->stream[i], exp2(mid), &plan[i]);
            if (plan[i].error > (1 - share) * plan[i].energy) hi = mid;
            else lo = mid;
        }
        skvi_plan_stream(&p->stream[i], exp2(lo), &plan[i]);
        if (plan[i].error > (1 - share) * plan[i].energy) return SKV_ERR_TARGET;
    }
    return SKV_OK;
}

/* Plan for a target; outliers is their share of the bits, already resolved. */
static skv_result skvi_plan_make(const skv_profile *p, const skv_target *target, float outliers,
                                 skvi_plan *plan)
{
    skv_target t = *target;
    if (skvi_check_target(&t) != SKV_OK) return SKV_ERR_ARG;
    if (t.bpe == 0 && t.energy == 0 && t.error == 0) t = p->target;
    if (t.bpe == 0 && t.energy == 0 && t.error == 0) t.bpe = 4;
    if (t.energy > 0) return skvi_plan_energy(p, t.energy, plan);
    return skvi_plan_search(p, &t, (double)t.bpe * (1 - (double)outliers), plan);
}

static float skvi_outlier_share(float wanted)
{
    return wanted < 0 ? 0.0f : wanted > 0 ? (wanted < 0.5f ? wanted : 0.5f) : 0.015f;
}

/* Bytes that a stream's outliers may take per page, from the share of the bits. */
static uint32_t skvi_outlier_allowance(const skvi_plan *p, float share)
{
    return (uint32_t)((double)p->bytes * (double)share / (1 - (double)share));
}

/* >>summary ----------------------------------------------------------------------------------- */
/* Rank of one head group: coded channels, or the channels that hold 95 % of the energy. */
static uint32_t skvi_rank_of(const skv_profile *p, const skvi_plan *plan, uint32_t i, int rank95)
{
    const skvi_stream *s = &p->stream[i];
    double sum = 0, part = 0;
    uint32_t c;
    if (!rank95) return plan[i].coded;
    for (c = 0; c < s->D; c++) sum += (double)s->var[c];
    for (c = 0; c < s->D; c++) {
        part += (double)s->var[c];
        if (part >= 0.95 * sum) return c + 1;
    }
    return s->D;
}

/* Median and range over all head groups. The median by bisection: no memory, no sort. */
static void skvi_rank_range(const skv_profile *p, const skvi_plan *plan, int rank95,
                            uint32_t *median, uint32_t *least, uint32_t *most)
{
    uint32_t i, lo, hi, below;
    *least = 0xFFFFFFFFu;
    *most = 0;
    for (i = 0; i < p->n_streams; i++) {
        uint32_t r = skvi_rank_of(p, plan, i, rank95);
        if (r < *least) *least = r;
        if (r > *most) *most = r;
    }
    lo = *least;
    hi = *most;
    while (lo < hi) {               /* smallest value with at least half of the ranks at or below */
        uint32_t mid = lo + (hi - lo) / 2;
        for (i = 0, below = 0; i < p->n_streams; i++)
            below += skvi_rank_of(p, plan, i, rank95) <= mid;
        if (2 * below >= p->n_streams) hi = mid;
        else lo = mid + 1;
    }
    *median = lo;
}

static void skvi_outlook_of(const skv_profile *p, const skvi_plan *plan, float share,
                            skv_outlook *o)
{
    double bytes[2] = {0, 0}, elements[2] = {0, 0}, head, allowance = 0;
    uint32_t layer, i;
    memset(o, 0, sizeof *o);
    o->energy_min = 1;
    for (layer = 0; layer < p->model.n_layers; layer++) {
        uint32_t n_groups = skvi_groups(&p->layers[layer], p->head_group);
        for (i = p->first[layer]; i < p->first[layer + 1]; i++) {
            int v = i - p->first[layer] >= n_groups;
            double kept = plan[i].energy > 0 ? 1 - plan[i].error / plan[i].energy : 1;
            bytes[v] += plan[i].bytes;
            allowance += skvi_outlier_allowance(&plan[i], share);
            elements[v] += (double)p->stream[i].D * SKV_PAGE_TOKENS;
            o->error += plan[i].error;
            o->energy_mean += kept / p->n_streams;
            if (kept < o->energy_min) o->energy_min = kept;
        }
    }
    head = (double)SKVI_PAGE_HEADER * p->model.n_layers;
    o->bpe = 8 * (bytes[0] + bytes[1] + head + allowance) / (elements[0] + elements[1]);
    o->ratio = 16 / o->bpe;
    o->bpe_k = 8 * bytes[0] / elements[0];
    o->bpe_v = 8 * bytes[1] / elements[1];
    skvi_rank_range(p, plan, 0, &o->rank_median, &o->rank_min, &o->rank_max);
    skvi_rank_range(p, plan, 1, &o->rank95_median, &o->rank95_min, &o->rank95_max);
}

SKVDEF skv_result skv_profile_outlook(const skv_profile *p, const skv_target *target,
                                      skv_outlook *out)
{
    skv_target t;
    skvi_plan *plan;
    size_t bytes;
    skv_result r;
    float share = skvi_outlier_share(0);
    if (!p || !out) return SKV_ERR_ARG;
    memset(&t, 0, sizeof t);
    if (target) t = *target;
    bytes = p->n_streams * sizeof *plan;
    plan = (skvi_plan *)p->alloc.alloc(p->alloc.user, bytes);
    if (!plan) return SKV_ERR_MEMORY;
    r = skvi_plan_make(p, &t, share, plan);
    if (r == SKV_OK) skvi_outlook_of(p, plan, share, out);
    p->alloc.free(p->alloc.user, plan, bytes);
    return r;
}

#ifndef SKV_NO_STDIO
typedef struct skvi_text { char *p; size_t cap, len; } skvi_text;

static void skvi_say(skvi_text *t, const char *format, ...)
{
    va_list args;
    int n;
    size_t room = t->len < t->cap ? t->cap - t->len : 0;
    va_start(args, format);
    n = vsnprintf(room ? t->p + t->len : NULL, room, format, args);
    va_end(args);
    if (n > 0) t->len += (size_t)n;
}

SKVDEF skv_result skv_profile_summary(const skv_profile *p, const skv_target *target, char *text,
                                      size_t capacity, size_t *bytes)
{
    skvi_text t;
    skv_outlook o;
    const skv_layer *l;
    skv_result r;
    if (!p || (!text && capacity)) return SKV_ERR_ARG;
    r = skv_profile_outlook(p, target, &o);
    if (r != SKV_OK) return r;
    l = &p->layers[0];
    t.p = text;
    t.cap = capacity;
    t.len = 0;
    skvi_say(&t, "Spectral profile: %s\n", p->name[0] ? p->name : "(unnamed)");
    skvi_say(&t, "Architecture: %uL x %uH (%u query heads), d_h=%u", (unsigned)p->model.n_layers,
             (unsigned)l->n_kv_heads, (unsigned)l->n_q_heads, (unsigned)l->head_dim);
    if (p->head_group >= l->n_kv_heads && l->n_kv_heads > 1)
        skvi_say(&t, ", heads joint\n");
    else if (p->head_group > 1)
        skvi_say(&t, ", heads in groups of %u\n", (unsigned)p->head_group);
    else
        skvi_say(&t, ", per head\n");
    skvi_say(&t, "Calibrated on: %.0f tokens beyond the sinks; %u sinks, a window of %u exact\n",
             p->n_tokens, (unsigned)p->sinks, (unsigned)p->window);
    skvi_say(&t, "Energy kept: mean=%.4f, min=%.4f\n", o.energy_mean, o.energy_min);
    skvi_say(&t, "Effective rank (95%% energy): median=%u, range=[%u, %u]\n",
             (unsigned)o.rank95_median, (unsigned)o.rank95_min, (unsigned)o.rank95_max);
    skvi_say(&t, "Coded channels: median=%u, range=[%u, %u]\n", (unsigned)o.rank_median,
             (unsigned)o.rank_min, (unsigned)o.rank_max);
    skvi_say(&t, "Bits per element: %.3f in pages (keys %.2f, values %.2f)\n", o.bpe, o.bpe_k,
             o.bpe_v);
    skvi_say(&t, "Compression: %.2fx against f16, pages only\n", o.ratio);
    skvi_say(&t, "Expected output error: %.3g (squared, in units of the prices, all layers)\n",
             o.error);
    if (bytes) *bytes = t.len + 1;
    return t.len < capacity ? SKV_OK : SKV_ERR_ARG;
}
#endif

/* >>blob --------------------------------------------------------------------------------------
   Container, all integers little endian, floats as IEEE bits:
     0  "SKV\x89PRF\n"   8 u32 version (1)   12 u32 sections   16 u64 bytes of the whole file
     24 u32 CRC-32 of the section table      28 u32 CRC-32 of bytes 0..27
     32 per section: 4 bytes tag, u32 CRC-32 of its content, u64 offset, u64 bytes
   MODL: u32 n_layers, head_group, sinks, window; u64 fingerprint; f32 target bpe, energy, error;
         u64 tokens calibrated on; char name[64]; per layer u32 n_q_heads, n_kv_heads, head_dim,
         head_dim_v, sliding_window, f32 scale, softcap
   SPEC: per stream (layer by layer; K groups, then V groups): f32 mean, var, enc, dec
   These 32 bytes keep their meaning in all versions. */
#define SKVI_BLOB_VERSION 1u
#define SKVI_BLOB_HEADER 32u
#define SKVI_BLOB_ENTRY 24u
#define SKVI_MODL_FIXED 108u
#define SKVI_MODL_LAYER 28u
static const unsigned char skvi_magic[8] = {'S', 'K', 'V', 0x89, 'P', 'R', 'F', '\n'};

/* CRC-32 (IEEE 802.3, reflected), four bits at a time: a 64-byte table. */
static uint32_t skvi_crc32(const unsigned char *p, size_t n)
{
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u,
        0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u,
        0xA00AE278u, 0xBDBDF21Cu
    };
    uint32_t c = 0xFFFFFFFFu;
    size_t i;
    for (i = 0; i < n; i++) {
        c ^= p[i];
        c = (c >> 4) ^ table[c & 15u];
        c = (c >> 4) ^ table[c & 15u];
    }
    return ~c;
}

static unsigned char *skvi_put_floats(unsigned char *to, const float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++, to += 4) skvi_put32(to, skvi_bits(x[i]));
    return to;
}

static const unsigned char *skvi_get_floats(const unsigned char *from, float *x, size_t n,
                                            int *bad)
{
    size_t i;
    for (i = 0; i < n; i++, from += 4) {
        x[i] = skvi_float(skvi_get32(from));
        *bad |= !skvi_is_finite(x[i]);
    }
    return from;
}

static size_t skvi_blob_spec_bytes(const skv_profile *p)
{
    size_t n = 0;
    uint32_t i;
    for (i = 0; i < p->n_streams; i++)
        n += 4 * (2 * (size_t)p->stream[i].D + 2 * (size_t)p->stream[i].D * p->stream[i].D);
    return n;
}

static void skvi_blob_entry(unsigned char *e, const char *tag, const unsigned char *blob,
                            size_t offset, size_t bytes)
{
    memcpy(e, tag, 4);
    skvi_put32(e + 4, skvi_crc32(blob + offset, bytes));
    skvi_put64(e + 8, offset);
    skvi_put64(e + 16, bytes);
}

static void skvi_blob_model(unsigned char *m, const skv_profile *p)
{
    uint32_t i;
    skvi_put32(m, p->model.n_layers);
    skvi_put32(m + 4, p->head_group);
    skvi_put32(m + 8, p->sinks);
    skvi_put32(m + 12, p->window);
    skvi_put64(m + 16, p->model.fingerprint);
    skvi_put_floats(m + 24, &p->target.bpe, 1);
    skvi_put_floats(m + 28, &p->target.energy, 1);
    skvi_put_floats(m + 32, &p->target.error, 1);
    skvi_put64(m + 36, (uint64_t)p->n_tokens);
    memcpy(m + 44, p->name, 64);
    for (i = 0, m += SKVI_MODL_FIXED; i < p->model.n_layers; i++, m += SKVI_MODL_LAYER) {
        const skv_layer *l = &p->layers[i];
        skvi_put32(m, l->n_q_heads);
        skvi_put32(m + 4, l->n_kv_heads);
        skvi_put32(m + 8, l->head_dim);
        skvi_put32(m + 12, l->head_dim_v);
        skvi_put32(m + 16, l->sliding_window);
        skvi_put_floats(m + 20, &l->scale, 1);
        skvi_put_floats(m + 24, &l->softcap, 1);
    }
}

SKVDEF skv_result skv_profile_save(const skv_profile *p, void *buf, size_t capacity, size_t *bytes)
{
    unsigned char *b = (unsigned char *)buf, *at;
    size_t modl, spec, total, first = SKVI_BLOB_HEADER + 2 * SKVI_BLOB_ENTRY;
    uint32_t i;
    if (!p || !bytes) return SKV_ERR_ARG;
    modl = SKVI_MODL_FIXED + (size_t)p->model.n_layers * SKVI_MODL_LAYER;
    spec = skvi_blob_spec_bytes(p);
    total = first + modl + spec;
    if (!buf || capacity < total) {
        *bytes = total;
        return buf ? SKV_ERR_ARG : SKV_OK;
    }
    skvi_blob_model(b + first, p);
    for (i = 0, at = b + first + modl; i < p->n_streams; i++) {
        const skvi_stream *s = &p->stream[i];
        at = skvi_put_floats(at, s->mean, s->D);
        at = skvi_put_floats(at, s->var, s->D);
        at = skvi_put_floats(at, s->enc, (size_t)s->D * s->D);
        at = skvi_put_floats(at, s->dec, (size_t)s->D * s->D);
    }
    memcpy(b, skvi_magic, 8);
    skvi_put32(b + 8, SKVI_BLOB_VERSION);
    skvi_put32(b + 12, 2);
    skvi_put64(b + 16, total);
    skvi_blob_entry(b + 32, "MODL", b, first, modl);
    skvi_blob_entry(b + 56, "SPEC", b, first + modl, spec);
    skvi_put32(b + 24, skvi_crc32(b + 32, 2 * SKVI_BLOB_ENTRY));
    skvi_put32(b + 28, skvi_crc32(b, 28));
    *bytes = total;
    return SKV_OK;
}

/* Header and table checked; finds a section, or NULL. */
static skv_result skvi_blob_open(const unsigned char *b, size_t bytes)
{
    uint64_t total;
    uint32_t n, i;
    if (bytes < 8) return memcmp(b, skvi_magic, bytes) ? SKV_ERR_FORMAT : SKV_ERR_TRUNCATED;
    if (memcmp(b, skvi_magic, 8)) return SKV_ERR_FORMAT;
    if (bytes < SKVI_BLOB_HEADER) return SKV_ERR_TRUNCATED;
    if (skvi_crc32(b, 28) != skvi_get32(b + 28)) return SKV_ERR_CHECKSUM;
    if (skvi_get32(b + 8) > SKVI_BLOB_VERSION) return SKV_ERR_VERSION;
    n = skvi_get32(b + 12);
    total = skvi_get64(b + 16);
    if (skvi_get32(b + 8) != SKVI_BLOB_VERSION || n > 1024) return SKV_ERR_FORMAT;
    if (total > bytes) return SKV_ERR_TRUNCATED;
    if (total < bytes || total < SKVI_BLOB_HEADER + (uint64_t)n * SKVI_BLOB_ENTRY)
        return SKV_ERR_FORMAT;
    if (skvi_crc32(b + 32, (size_t)n * SKVI_BLOB_ENTRY) != skvi_get32(b + 24))
        return SKV_ERR_CHECKSUM;
    for (i = 0; i < n; i++) {
        const unsigned char *e = b + 32 + i * SKVI_BLOB_ENTRY;
        uint64_t off = skvi_get64(e + 8), len = skvi_get64(e + 16);
        if (off > total || len > total - off) return SKV_ERR_FORMAT;
        if (skvi_crc32(b + off, (size_t)len) != skvi_get32(e + 4)) return SKV_ERR_CHECKSUM;
    }
    return SKV_OK;
}

static const unsigned char *skvi_blob_find(const unsigned char *b, const char *tag, size_t *bytes)
{
    uint32_t i, n = skvi_get32(b + 12);
    for (i = 0; i < n; i++) {
        const unsigned char *e = b + 32 + i * SKVI_BLOB_ENTRY;
        if (memcmp(e, tag, 4)) continue;
        *bytes = (size_t)skvi_get64(e + 16);
        return b + skvi_get64(e + 8);
    }
    return NULL;
}

static skv_result skvi_blob_layers(const unsigned char *m, uint32_t n, skv_layer *out)
{
    uint32_t i;
    int bad = 0;
    for (i = 0; i < n; i++, m += SKVI_MODL_LAYER) {
        memset(&out[i], 0, sizeof out[i]);
        out[i].n_q_heads = skvi_get32(m);
        out[i].n_kv_heads = skvi_get32(m + 4);
        out[i].head_dim = skvi_get32(m + 8);
        out[i].head_dim_v = skvi_get32(m + 12);
        out[i].sliding_window = skvi_get32(m + 16);
        (void)skvi_get_floats(m + 20, &out[i].scale, 1, &bad);
        (void)skvi_get_floats(m + 24, &out[i].softcap, 1, &bad);
        if (bad || !out[i].head_dim_v || skvi_fill_layer(&out[i]) != SKV_OK) return SKV_ERR_FORMAT;
    }
    return SKV_OK;
}

/* Streams out of SPEC; values must be finite, variances positive and falling. */
static skv_result skvi_blob_streams(const unsigned char *at, skv_profile *p)
{
    uint32_t i, c;
    int bad = 0;
    for (i = 0; i < p->n_streams; i++) {
        skvi_stream *s = &p->stream[i];
        at = skvi_get_floats(at, s->mean, s->D, &bad);
        at = skvi_get_floats(at, s->var, s->D, &bad);
        at = skvi_get_floats(at, s->enc, (size_t)s->D * s->D, &bad);
        at = skvi_get_floats(at, s->dec, (size_t)s->D * s->D, &bad);
        for (c = 0; c < s->D; c++)
            bad |= !(s->var[c] > 0) || (c && s->var[c] > s->var[c - 1]);
    }
    return bad ? SKV_ERR_FORMAT : SKV_OK;
}

static skv_result skvi_blob_expect(const skv_model *have, const skv_model *want)
{
    uint32_t i;
    skv_result r;
    if (!want) return SKV_OK;
    r = skvi_check_model(want);
    if (r != SKV_OK) return r;
    if (have->n_layers != want->n_layers) return SKV_ERR_MODEL;
    if (have->fingerprint && want->fingerprint && have->fingerprint != want->fingerprint)
        return SKV_ERR_MODEL;
    for (i = 0; i < have->n_layers; i++) {
        skv_layer l = skvi_model_layer(want, i);
        (void)skvi_fill_layer(&l);
        if (!skvi_same_layer(&have->layers[i], &l)) return SKV_ERR_MODEL;
    }
    return SKV_OK;
}

/* Builds the profile from sections whose checksums hold; layers is work space. */
static skv_result skvi_blob_build(skv_profile **out, const unsigned char *m,
                                  const unsigned char *spec, size_t spec_bytes, skv_layer *layers,
                                  const skv_model *expect, const skv_allocator *alloc)
{
    skv_model model;
    skv_profile *p = NULL;
    char name[65];
    int bad = 0;
    uint32_t group = skvi_get32(m + 4), i;
    uint64_t need = 0;
    skv_result r;
    memset(&model, 0, sizeof model);
    model.n_layers = skvi_get32(m);
    model.layers = layers;
    model.fingerprint = skvi_get64(m + 16);
    memcpy(name, m + 44, 64);
    name[64] = 0;
    model.name = name;
    r = skvi_blob_layers(m + SKVI_MODL_FIXED, model.n_layers, layers);
    if (r == SKV_OK && (!group || group > 65536)) r = SKV_ERR_FORMAT;
    for (i = 0; r == SKV_OK && i < model.n_layers; i++) {   /* sizes before memory */
        uint64_t kv = layers[i].n_kv_heads, d = layers[i].head_dim, dv = layers[i].head_dim_v;
        uint64_t g = group < kv ? group : kv;
        need += 4 * (kv * (d + dv) * 2 + (kv / g) * 2 * g * g * (d * d + dv * dv) +
                     2 * (kv % g) * (kv % g) * (d * d + dv * dv));
        if (need > spec_bytes) r = SKV_ERR_FORMAT;
    }
    if (r == SKV_OK && need != spec_bytes) r = SKV_ERR_FORMAT;
    if (r == SKV_OK) r = skvi_blob_expect(&model, expect);
    if (r == SKV_OK) r = skvi_profile_new(&p, &model, group, alloc);
    if (r != SKV_OK) return r;
    p->sinks = skvi_get32(m + 8);
    p->window = skvi_get32(m + 12);
    p->n_tokens = (double)skvi_get64(m + 36);
    bad |= skvi_get64(m + 36) > (uint64_t)1 << 53;
    (void)skvi_get_floats(m + 24, &p->target.bpe, 1, &bad);
    (void)skvi_get_floats(m + 28, &p->target.energy, 1, &bad);
    (void)skvi_get_floats(m + 32, &p->target.error, 1, &bad);
    bad |= skvi_check_target(&p->target) != SKV_OK;
    r = bad ? SKV_ERR_FORMAT : skvi_blob_streams(spec, p);
    if (r == SKV_OK) *out = p;
    else skv_profile_free(p);
    return r;
}

SKVDEF skv_result skv_profile_load(skv_profile **out, const void *data, size_t bytes,
                                   const skv_model *expect, const skv_allocator *allocator)
{
    const unsigned char *b = (const unsigned char *)data, *m, *spec;
    size_t modl = 0, spec_bytes = 0, work;
    skv_allocator a;
    skv_layer *layers;
    skv_result r;
    if (!out || !data) return SKV_ERR_ARG;
    r = skvi_pick_allocator(allocator, &a);
    if (r == SKV_OK) r = skvi_blob_open(b, bytes);
    if (r != SKV_OK) return r;
    m = skvi_blob_find(b, "MODL", &modl);
    spec = skvi_blob_find(b, "SPEC", &spec_bytes);
    if (!m || !spec || modl < SKVI_MODL_FIXED) return SKV_ERR_FORMAT;
    if (!skvi_get32(m) || skvi_get32(m) > 65536 ||
        modl != SKVI_MODL_FIXED + (size_t)skvi_get32(m) * SKVI_MODL_LAYER)
        return SKV_ERR_FORMAT;
    work = skvi_get32(m) * sizeof *layers;
    layers = (skv_layer *)a.alloc(a.user, work);
    if (!layers) return SKV_ERR_MEMORY;
    r = skvi_blob_build(out, m, spec, spec_bytes, layers, expect, &a);
    a.free(a.user, layers, work);
    return r;
}

/* >>page --------------------------------------------------------------------------------------
   The coder: a profile with a plan, and the work space to encode, decode and attend. Work is split
   over head groups; each task has a lane of its own, or all share one where tasks run in turn. */
#define SKVI_P SKV_PAGE_TOKENS
#define SKVI_ROWS 16u               /* (query, head) rows of one attention tile */
#define SKVI_SLAB 64u               /* channels that are expanded at a time */

typedef struct skvi_lane {
    float *xt, *u;                  /* encode: [D][64], [D][64] */
    float *x, *ut;                  /* decode: [64][D], [64][D] */
    float *q, *ql, *s, *ol, *oo;    /* attend: [ROWS] times d, D, 64, D, dv */
    float *tile;                    /* attend: [max(SLAB, d, dv)][64] */
} skvi_lane;

typedef struct skvi_coder {
    const skv_profile  *profile;    /* NULL in a cache that keeps everything exact */
    const skvi_kernels *kern;
    skv_parallel        par;
    skvi_plan          *plan;       /* [n_streams] */
    uint32_t           *offset;     /* [n_streams] of the sub in its page */
    uint32_t           *allow;      /* [n_streams] outlier bytes per page */
    uint32_t           *least;      /* [n_layers] page bytes without outliers */
    unsigned char      *cells;      /* [MAX_BITS + 1][512] */
    skvi_lane          *lane;
    uint32_t            n_lanes, max_groups;
    uint32_t            most_page;  /* largest page of any layer */
    uint16_t           *rows;       /* [2 max_groups][MAX_ROWS][max D]: outliers of this page */
    unsigned char      *row_token;  /* [2 max_groups][MAX_ROWS] */
    uint32_t           *n_rows;     /* [2 max_groups] */
    size_t              max_D, max_d;
} skvi_coder;

static void skvi_lane_layout(skvi_arena *a, skvi_lane *l, size_t D, size_t d, int attend)
{
    size_t f = sizeof(float), start, end, tall = d > SKVI_SLAB ? d : SKVI_SLAB;
    skvi_lane tmp;
    if (!l) l = &tmp;
    (void)skvi_take(a, 0, 1);
    start = a->used;
    l->xt = (float *)skvi_take(a, D, SKVI_P * f);
    l->u = (float *)skvi_take(a, D, SKVI_P * f);
    l->x = l->xt;
    l->ut = l->u;
    if (!attend) return;
    end = a->used;
    a->used = start;                /* attention reuses the same bytes */
    l->q = (float *)skvi_take(a, SKVI_ROWS, d * f);
    l->ql = (float *)skvi_take(a, SKVI_ROWS, D * f);
    l->s = (float *)skvi_take(a, SKVI_ROWS, SKVI_P * f);
    l->ol = (float *)skvi_take(a, SKVI_ROWS, D * f);
    l->oo = (float *)skvi_take(a, SKVI_ROWS, d * f);
    l->tile = (float *)skvi_take(a, tall, SKVI_P * f);
    if (a->used < end) a->used = end;
}

static void skvi_coder_layout(skvi_arena *a, skvi_coder *c, const skv_model *m, int attend)
{
    uint32_t n_streams = c->profile ? c->profile->n_streams : 0, i;
    skvi_lane *lanes;
    c->plan = (skvi_plan *)skvi_take(a, n_streams, sizeof(skvi_plan));
    c->offset = (uint32_t *)skvi_take(a, n_streams, sizeof(uint32_t));
    c->allow = (uint32_t *)skvi_take(a, n_streams, sizeof(uint32_t));
    c->least = (uint32_t *)skvi_take(a, m->n_layers, sizeof(uint32_t));
    c->cells = (unsigned char *)skvi_take(a, n_streams ? SKV_MAX_BITS + 1u : 0, 512);
    c->rows = (uint16_t *)skvi_take(a, n_streams ? 2u * c->max_groups * SKVI_MAX_ROWS : 0,
                                    c->max_D * sizeof(uint16_t));
    c->row_token = (unsigned char *)skvi_take(a, 2u * c->max_groups, SKVI_MAX_ROWS);
    c->n_rows = (uint32_t *)skvi_take(a, 2u * c->max_groups, sizeof(uint32_t));
    lanes = (skvi_lane *)skvi_take(a, c->n_lanes, sizeof(skvi_lane));
    c->lane = lanes;
    for (i = 0; i < c->n_lanes; i++)
        skvi_lane_layout(a, lanes ? &lanes[i] : NULL, c->max_D, c->max_d, attend);
}

/* Everything that the layout needs to know, from the model. */
static void skvi_coder_sizes(skvi_coder *c, const skv_model *m, uint32_t head_group)
{
    uint32_t i;
    c->max_D = c->max_d = SKV_MIN_HEAD_DIM;
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        uint32_t g, heads;
        size_t d;
        (void)skvi_fill_layer(&s);
        g = skvi_groups(&s, head_group);
        heads = head_group < s.n_kv_heads ? head_group : s.n_kv_heads;
        d = s.head_dim > s.head_dim_v ? s.head_dim : s.head_dim_v;
        if (g > c->max_groups) c->max_groups = g;
        if (d > c->max_d) c->max_d = d;
        if (heads * d > c->max_D) c->max_D = heads * d;
    }
    c->n_lanes = c->par.run ? c->max_groups : 1;
    c->kern = &skvi_kernels_c;
}

static uint32_t skvi_layer_streams(const skv_profile *p, uint32_t layer)
{
    return p->first[layer + 1] - p->first[layer];
}

/* Offsets, allowances and page sizes from the plan in c->plan. */
static void skvi_coder_index(skvi_coder *c, float share)
{
    const skv_profile *p = c->profile;
    uint32_t layer, i, w;
    for (w = 1; w <= SKV_MAX_BITS; w++) skvi_cells(w, c->cells + w * 512);
    for (layer = 0; layer < p->model.n_layers; layer++) {
        uint32_t at = SKVI_PAGE_HEADER;
        size_t most;
        for (i = p->first[layer]; i < p->first[layer + 1]; i++) {
            c->offset[i] = at;
            at += c->plan[i].bytes;
            c->allow[i] = skvi_outlier_allowance(&c->plan[i], share);
        }
        c->least[layer] = at;
        most = at;
        for (i = p->first[layer]; i < p->first[layer + 1]; i++)
            most += SKVI_MAX_ROWS * SKVI_ROW_BYTES(p->stream[i].D);
        if (most > c->most_page) c->most_page = (uint32_t)most;
    }
}

static void skvi_run(const skv_parallel *par, size_t n, void (*task)(void *, size_t), void *arg)
{
    size_t i;
    if (par->run && n > 1) par->run(par->user, n, task, arg);
    else for (i = 0; i < n; i++) task(arg, i);
}

/* Scale and codes of one channel: of five scales around the root mean square, and on upwards while
   the error falls, the best by squared error over the tokens in use. Adds var (u - u^)^2 to err. */
static void skvi_encode_channel(const skvi_coder *c, const float *u, const unsigned char *use,
                                uint32_t width, float var, unsigned char *scale,
                                unsigned char *codes, float *err)
{
    const unsigned char *cell = c->cells + width * 512;
    unsigned char code[SKVI_P];
    float level[1 << SKV_MAX_BITS], sum = 0, best = -1;
    uint32_t t, count = 0, mid, s, best_s = 0;
    for (t = 0; t < (1u << width); t++) level[t] = (float)skvi_level(width, t) * skvi_unit[width];
    for (t = 0; t < SKVI_P; t++)
        if (use[t]) {
            sum += u[t] * u[t];
            count++;
        }
    mid = skvi_nearest_scale(count ? sqrtf(sum / (float)count) : 0);
    for (s = mid > 2 ? mid - 2 : 0; s < 256 && (s <= mid + 2 || best_s + 1 == s); s++) {
        float step = skvi_scale(s), inv = 1 / (step * skvi_unit[width]), e = 0;
        for (t = 0; t < SKVI_P; t++) {
            float diff = u[t] - level[skvi_quantise(cell, u[t] * inv)] * step;
            e += use[t] ? diff * diff : 0;
        }
        if (best < 0 || e < best) {
            best = e;
            best_s = s;
        }
    }
    *scale = (unsigned char)best_s;
    for (t = 0; t < SKVI_P; t++) {
        float step = skvi_scale(best_s), y = use[t] ? u[t] / (step * skvi_unit[width]) : 0;
        float diff;
        code[t] = (unsigned char)skvi_quantise(cell, y);
        diff = u[t] - level[code[t]] * step;
        err[t] += var * diff * diff;
    }
    skvi_pack(code, width, codes);
}

/* One pass over all channels of a stream: the sub's scales and codes, and err per token. */
static void skvi_encode_pass(const skvi_coder *c, const skvi_stream *s, const skvi_plan *plan,
                             const float *u, const unsigned char *use, unsigned char *sub,
                             float *err)
{
    unsigned char *scales = sub + SKVI_SUB_HEADER, *codes = scales + plan->coded;
    uint32_t ch = 0, w = SKV_MAX_BITS, left = plan->n[SKV_MAX_BITS], t;
    memset(err, 0, SKVI_P * sizeof(float));
    for (; ch < plan->coded; ch++, left--) {
        while (!left) left = plan->n[--w];
        skvi_encode_channel(c, u + ch * SKVI_P, use, w, s->var[ch], scales + ch, codes, err);
        codes += w * (SKVI_P / 8);
    }
    for (; ch < s->D; ch++)
        for (t = 0; t < SKVI_P; t++) err[t] += s->var[ch] * u[ch * SKVI_P + t] * u[ch * SKVI_P + t];
}

/* Moves the worst tokens to exact rows while a row's bits are worth more there than as widths:
   err > 8 row_bytes lambda. Outliers blow up the scales for all, so one round takes only tokens
   within a factor of 4 of the worst, and the rest is looked at again. Returns how many came. */
static uint32_t skvi_pick_outliers(const skvi_coder *c, const skvi_plan *plan, size_t D,
                                   size_t local, uint32_t room, const float *err,
                                   unsigned char *use)
{
    float least = 8.0f * (float)SKVI_ROW_BYTES(D) * plan->lambda;
    uint32_t added = 0, t, worst;
    for (t = 0; t < SKVI_P; t++)
        if (use[t] && 0.25f * err[t] > least) least = 0.25f * err[t];
    while (c->n_rows[local] < room) {
        for (t = 0, worst = SKVI_P; t < SKVI_P; t++)
            if (use[t] && err[t] > least && (worst == SKVI_P || err[t] > err[worst])) worst = t;
        if (worst == SKVI_P) break;
        use[worst] = 0;
        c->row_token[local * SKVI_MAX_ROWS + c->n_rows[local]++] = (unsigned char)worst;
        added++;
    }
    return added;
}

/* f16 rows of the chosen tokens, and their remaining error. */
static void skvi_store_rows(const skvi_coder *c, const skvi_stream *s, size_t local, const float *u,
                            float *err)
{
    uint32_t r, ch;
    for (r = 0; r < c->n_rows[local]; r++) {
        uint32_t t = c->row_token[local * SKVI_MAX_ROWS + r];
        uint16_t *row = c->rows + (local * SKVI_MAX_ROWS + r) * c->max_D;
        err[t] = 0;
        for (ch = 0; ch < s->D; ch++) {
            float x = u[ch * SKVI_P + t], diff;
            x = x > -65504.0f ? x < 65504.0f ? x : 65504.0f : -65504.0f;
            row[ch] = skvi_to_f16(x);
            diff = u[ch * SKVI_P + t] - skvi_from_f16(row[ch]);
            err[t] += s->var[ch] * diff * diff;
        }
    }
}

typedef struct skvi_source {        /* where the tokens of a page come from */
    void *self;
    void (*row)(void *self, int kind, size_t token, size_t head, float *out);
} skvi_source;

typedef struct skvi_encode_job {
    skvi_coder        *c;
    const skvi_source *src;
    const uint32_t    *credit;      /* [streams of the layer] bytes that outliers may take */
    unsigned char     *page;
    uint32_t           layer, n;
} skvi_encode_job;

static void skvi_encode_stream(const skvi_encode_job *j, const skvi_lane *lane, int kind, size_t g)
{
    skvi_coder *c = j->c;
    const skv_profile *p = c->profile;
    const skvi_stream *s = skvi_stream_at(p, j->layer, kind, g);
    size_t index = (size_t)(s - p->stream), local = index - p->first[j->layer], h, i, t;
    const skvi_plan *plan = &c->plan[index];
    unsigned char use[SKVI_P], *sub = j->page + c->offset[index];
    float row[SKV_MAX_HEAD_DIM], err[SKVI_P], top = 0;
    double sum = 0;
    uint32_t round, room = (uint32_t)(j->credit[local] / SKVI_ROW_BYTES(s->D));
    if (room > SKVI_MAX_ROWS) room = SKVI_MAX_ROWS;
    c->n_rows[local] = 0;
    memset(lane->xt, 0, s->D * SKVI_P * sizeof(float));
    memset(lane->u, 0, s->D * SKVI_P * sizeof(float));
    for (t = 0; t < SKVI_P; t++) use[t] = t < j->n;
    for (t = 0; t < j->n; t++)
        for (h = 0; h < s->heads; h++) {
            const float *mean = s->mean + h * s->dim;
            j->src->row(j->src->self, kind, t, g * p->head_group + h, row);
            for (i = 0; i < s->dim; i++)
                lane->xt[(h * s->dim + i) * SKVI_P + t] = row[i] - mean[i];
        }
    c->kern->gemm(s->D, SKVI_P, s->D, s->enc, s->D, lane->xt, SKVI_P, lane->u, SKVI_P);
    for (round = 0; round < 4; round++) {
        skvi_encode_pass(c, s, plan, lane->u, use, sub, err);
        if (round == 3 || !skvi_pick_outliers(c, plan, s->D, local, room, err, use)) break;
    }
    skvi_store_rows(c, s, local, lane->u, err);
    for (t = 0; t < j->n; t++) {
        sum += (double)err[t];
        top = err[t] > top ? err[t] : top;
    }
    skvi_put16(sub, skvi_to_bf16_up(sqrtf(top) * 1.0001f));
    skvi_put16(sub + 2, skvi_to_bf16_up((float)sqrt(sum / j->n)));
}

static void skvi_encode_task(void *arg, size_t g)
{
    const skvi_encode_job *j = (const skvi_encode_job *)arg;
    const skvi_lane *lane = &j->c->lane[j->c->n_lanes > 1 ? g : 0];
    skvi_encode_stream(j, lane, 0, g);
    skvi_encode_stream(j, lane, 1, g);
}

/* Encodes n tokens into page (most_page bytes of room); returns the bytes used. */
static size_t skvi_encode_page(skvi_encode_job *j)
{
    const skvi_coder *c = j->c;
    const skv_profile *p = c->profile;
    uint32_t local, r, i, total = 0, streams = skvi_layer_streams(p, j->layer);
    unsigned char *at = j->page + c->least[j->layer];
    skvi_run(&c->par, streams / 2, skvi_encode_task, j);
    for (local = 0; local < streams; local++)
        for (r = 0; r < c->n_rows[local]; r++, total++) {
            uint32_t D = p->stream[p->first[j->layer] + local].D;
            const uint16_t *row = c->rows + (local * SKVI_MAX_ROWS + r) * c->max_D;
            at[0] = (unsigned char)(local & 255u);
            at[1] = (unsigned char)(c->row_token[local * SKVI_MAX_ROWS + r] | (local >> 8) << 6);
            for (i = 0, at += 2; i < D; i++, at += 2) skvi_put16(at, row[i]);
        }
    j->page[0] = 1;
    j->page[1] = (unsigned char)j->n;
    skvi_put16(j->page + 2, total);
    skvi_put32(j->page + 4, (uint32_t)(at - j->page));
    return (size_t)(at - j->page);
}

/* Walks the outlier rows of one stream: NULL after the last. Start with at = NULL. */
static const unsigned char *skvi_next_row(const skvi_coder *c, const unsigned char *page,
                                          uint32_t layer, uint32_t local, const unsigned char *at,
                                          uint32_t *token)
{
    const skv_profile *p = c->profile;
    const unsigned char *end = page + skvi_get32(page + 4);
    if (!at) at = page + c->least[layer];
    else at += SKVI_ROW_BYTES(p->stream[p->first[layer] + local].D);
    while (at < end) {
        uint32_t sub = at[0] | (uint32_t)(at[1] >> 6) << 8;
        *token = at[1] & 63u;
        if (sub == local) return at;
        at += SKVI_ROW_BYTES(p->stream[p->first[layer] + sub].D);
    }
    return NULL;
}

/* Levels of channels first .. first+n-1 of a sub, times scale, into out[n][64]. Only the slab's
   start is searched; n at most SLAB. */
static void skvi_expand_slab(const skvi_coder *c, const skvi_plan *plan, const unsigned char *sub,
                             uint32_t first, uint32_t n, float *out)
{
    const unsigned char *scales = sub + SKVI_SUB_HEADER, *codes = scales + plan->coded;
    uint32_t w = SKV_MAX_BITS, before = 0, ch;
    for (; before + plan->n[w] <= first; w--) {
        before += plan->n[w];
        codes += plan->n[w] * w * (SKVI_P / 8);
    }
    codes += (first - before) * w * (SKVI_P / 8);
    for (ch = first; ch < first + n; ch++) {
        while (ch >= before + plan->n[w]) before += plan->n[w--];
        c->kern->expand(codes, w, skvi_unit[w] * skvi_scale(scales[ch]),
                        out + (ch - first) * SKVI_P);
        codes += w * (SKVI_P / 8);
    }
}

/* One stream of one page. */
typedef struct skvi_sub {
    const skvi_stream   *stream;
    const skvi_plan     *plan;
    const unsigned char *bytes;
    uint32_t             local;     /* its number in the layer */
} skvi_sub;

static skvi_sub skvi_sub_at(const skvi_coder *c, uint32_t layer, size_t index,
                            const unsigned char *page)
{
    skvi_sub s;
    s.stream = &c->profile->stream[index];
    s.plan = &c->plan[index];
    s.bytes = page + c->offset[index];
    s.local = (uint32_t)index - c->profile->first[layer];
    return s;
}

/* Rows of one stream of a page, tokens [0, n): x[n][D] with the mean. */
static void skvi_decode_stream(const skvi_coder *c, const skvi_lane *lane, uint32_t layer,
                               size_t index, const unsigned char *page, uint32_t n)
{
    const skvi_sub at = skvi_sub_at(c, layer, index, page);
    const skvi_stream *s = at.stream;
    const unsigned char *row = NULL;
    uint32_t ch, t, i, m;
    float slab[SKVI_SLAB * SKVI_P];
    memset(lane->ut, 0, SKVI_P * s->D * sizeof(float));
    for (ch = 0; ch < at.plan->coded; ch += m) {
        m = at.plan->coded - ch < SKVI_SLAB ? at.plan->coded - ch : SKVI_SLAB;
        skvi_expand_slab(c, at.plan, at.bytes, ch, m, slab);
        for (i = 0; i < m; i++)
            for (t = 0; t < n; t++) lane->ut[t * s->D + ch + i] = slab[i * SKVI_P + t];
    }
    while ((row = skvi_next_row(c, page, layer, at.local, row, &t)) != NULL)
        for (i = 0; i < s->D; i++)
            lane->ut[t * s->D + i] = skvi_from_f16(skvi_get16(row + 2 + 2 * i));
    for (t = 0; t < n; t++) memcpy(lane->x + t * s->D, s->mean, s->D * sizeof(float));
    c->kern->gemm(n, s->D, s->D, lane->ut, s->D, s->dec, s->D, lane->x, s->D);
}

/* A page from outside: every field against the plan. */
static skv_result skvi_check_page(const skvi_coder *c, uint32_t layer, const unsigned char *page,
                                  size_t bytes)
{
    const skv_profile *p = c->profile;
    const unsigned char *at;
    uint32_t rows, streams = skvi_layer_streams(p, layer);
    if (bytes < SKVI_PAGE_HEADER) return SKV_ERR_TRUNCATED;
    if (page[0] > 1) return SKV_ERR_VERSION;
    if (page[0] != 1 || !page[1] || page[1] > SKVI_P) return SKV_ERR_FORMAT;
    if (skvi_get32(page + 4) > bytes) return SKV_ERR_TRUNCATED;
    if (skvi_get32(page + 4) < bytes || bytes < c->least[layer]) return SKV_ERR_FORMAT;
    for (rows = p->first[layer]; rows < p->first[layer + 1]; rows++) {     /* norms, not NaN */
        const unsigned char *sub = page + c->offset[rows];
        if (skvi_get16(sub) > 0x7F80u || skvi_get16(sub + 2) > 0x7F80u) return SKV_ERR_FORMAT;
    }
    rows = skvi_get16(page + 2);
    for (at = page + c->least[layer]; rows; rows--) {
        uint32_t sub;
        size_t left = bytes - (size_t)(at - page), need;
        if (left < 2) return SKV_ERR_FORMAT;
        sub = at[0] | (uint32_t)(at[1] >> 6) << 8;
        if (sub >= streams || (at[1] & 63u) >= page[1]) return SKV_ERR_FORMAT;
        need = SKVI_ROW_BYTES(p->stream[p->first[layer] + sub].D);
        if (left < need) return SKV_ERR_FORMAT;
        for (left = 2; left < need; left += 2)
            if ((skvi_get16(at + left) & 0x7C00u) == 0x7C00u) return SKV_ERR_FORMAT;
        at += need;
    }
    return at == page + bytes ? SKV_OK : SKV_ERR_FORMAT;
}

/* The codec object. */
struct skv_codec {
    skv_allocator alloc;
    size_t        bytes;
    void         *block;
    skvi_coder    coder;
    uint32_t     *unlimited;        /* [2 max_groups]: credit that never runs out */
};

SKVDEF skv_result skv_codec_init(skv_codec **out, const skv_codec_desc *desc)
{
    skv_codec tmp, *c;
    skvi_arena a = {NULL, 0, 0};
    const skv_profile *p;
    float share;
    void *block;
    skv_result r;
    uint32_t i;
    int pass;
    if (!out || !desc || !desc->profile) return SKV_ERR_ARG;
    p = desc->profile;
    share = skvi_outlier_share(desc->outliers);
    memset(&tmp, 0, sizeof tmp);
    r = skvi_pick_allocator(&desc->allocator, &tmp.alloc);
    if (r != SKV_OK) return r;
    tmp.coder.profile = p;
    tmp.coder.par = desc->parallel;
    skvi_coder_sizes(&tmp.coder, &p->model, p->head_group);
    for (pass = 0, c = &tmp, block = NULL; pass < 2; pass++) {
        a.used = 0;
        if (pass) c = (skv_codec *)skvi_take(&a, 1, sizeof *c);
        else (void)skvi_take(&a, 1, sizeof *c);
        if (pass) *c = tmp;
        skvi_coder_layout(&a, &c->coder, &p->model, 0);
        c->unlimited = (uint32_t *)skvi_take(&a, 2u * tmp.coder.max_groups, sizeof(uint32_t));
        if (pass) break;
        if (a.overflow || a.used > (size_t)-1 / 4) return SKV_ERR_MEMORY;
        tmp.bytes = a.used + SKVI_ALIGN;
        block = tmp.alloc.alloc(tmp.alloc.user, tmp.bytes);
        if (!block) return SKV_ERR_MEMORY;
        memset(block, 0, tmp.bytes);
        tmp.block = block;
        a.base = skvi_align_up(block);
    }
    r = skvi_plan_make(p, &desc->target, share, c->coder.plan);
    if (r != SKV_OK) {
        skv_codec_free(c);
        return r;
    }
    skvi_coder_index(&c->coder, share);
    for (i = 0; i < 2 * c->coder.max_groups; i++) c->unlimited[i] = share > 0 ? 0x7FFFFFFFu : 0;
    *out = c;
    return SKV_OK;
}

SKVDEF void skv_codec_free(skv_codec *c)
{
    skv_allocator a;
    if (!c) return;
    a = c->alloc;
    a.free(a.user, c->block, c->bytes);
}

SKVDEF skv_result skv_codec_page_bytes(const skv_codec *c, uint32_t layer, size_t *least,
                                       size_t *most)
{
    const skv_profile *p;
    size_t m;
    uint32_t i;
    if (!c || layer >= c->coder.profile->model.n_layers) return SKV_ERR_ARG;
    p = c->coder.profile;
    m = c->coder.least[layer];
    if (least) *least = m;
    for (i = p->first[layer]; c->unlimited[0] && i < p->first[layer + 1]; i++)
        m += SKVI_MAX_ROWS * SKVI_ROW_BYTES(p->stream[i].D);
    if (most) *most = m;
    return SKV_OK;
}

static void skvi_row_of_views(void *self, int kind, size_t token, size_t head, float *out)
{
    const skvi_tokens *v = (const skvi_tokens *)self;
    skvi_load(&v[kind], token, head, out);
}

SKVDEF skv_result skv_encode(skv_codec *c, uint32_t layer, const skv_span *k, const skv_span *v,
                             size_t n, void *page, size_t capacity, size_t *bytes)
{
    skvi_tokens views[2];
    skvi_source src;
    skvi_encode_job j;
    const skv_layer *l;
    size_t most = 0;
    skv_result r = skv_codec_page_bytes(c, layer, NULL, &most);
    if (r != SKV_OK) return r;
    if (!page || !bytes || !n || n > SKVI_P || capacity < most) return SKV_ERR_ARG;
    l = &c->coder.profile->layers[layer];
    r = skvi_open(&views[0], k, l->n_kv_heads, l->head_dim);
    if (r == SKV_OK) r = skvi_open(&views[1], v, l->n_kv_heads, l->head_dim_v);
    if (r == SKV_OK) r = skvi_check_values(&views[0], n, l->n_kv_heads, SKVI_LARGEST);
    if (r == SKV_OK) r = skvi_check_values(&views[1], n, l->n_kv_heads, SKVI_LARGEST);
    if (r != SKV_OK) return r;
    src.self = views;
    src.row = skvi_row_of_views;
    j.c = &c->coder;
    j.src = &src;
    j.credit = c->unlimited;
    j.page = (unsigned char *)page;
    j.layer = layer;
    j.n = (uint32_t)n;
    *bytes = skvi_encode_page(&j);
    return SKV_OK;
}

/* K and V rows of a page's tokens [from, from + n) to dense floats; either may be NULL. */
static void skvi_decode_page(const skvi_coder *c, uint32_t layer, const unsigned char *page,
                             uint32_t from, uint32_t n, float *k, float *v)
{
    const skv_profile *p = c->profile;
    uint32_t streams = skvi_layer_streams(p, layer), i, t;
    for (i = 0; i < streams; i++) {
        size_t index = p->first[layer] + i, g = i < streams / 2 ? i : i - streams / 2;
        const skvi_stream *s = &p->stream[index];
        size_t width = (size_t)p->layers[layer].n_kv_heads * s->dim;
        float *to = i < streams / 2 ? k : v;
        if (!to) continue;
        skvi_decode_stream(c, &c->lane[0], layer, index, page, from + n);
        for (t = 0; t < n; t++)
            memcpy(to + t * width + g * p->head_group * s->dim, c->lane[0].x + (from + t) * s->D,
                   s->D * sizeof(float));
    }
}

SKVDEF skv_result skv_decode(skv_codec *c, uint32_t layer, const void *page, size_t bytes,
                             float *k, float *v, size_t *n)
{
    const unsigned char *b = (const unsigned char *)page;
    skv_result r;
    if (!c || !page || !n || layer >= c->coder.profile->model.n_layers) return SKV_ERR_ARG;
    r = skvi_check_page(&c->coder, layer, b, bytes);
    if (r != SKV_OK) return r;
    skvi_decode_page(&c->coder, layer, b, 0, b[1], k, v);
    *n = b[1];
    return SKV_OK;
}

/* >>heap --------------------------------------------------------------------------------------
   First fit over the caller's memory, for pages: blocks in address order, free neighbours joined.
   Block: size_t size with the lowest bit set when in use, then 8 bytes spare, then content. */
#define SKVI_UNIT 16u
typedef struct skvi_heap {
    unsigned char *base;
    size_t bytes;                   /* multiple of UNIT */
    size_t low;                     /* every block below is in use: where a search starts */
} skvi_heap;

static size_t skvi_block_size(const unsigned char *b)
{
    size_t s;
    memcpy(&s, b, sizeof s);
    return s;
}
static void skvi_block_set(unsigned char *b, size_t s) { memcpy(b, &s, sizeof s); }

static void skvi_heap_init(skvi_heap *h, unsigned char *base, size_t bytes)
{
    h->base = base;
    h->bytes = bytes & ~(size_t)(SKVI_UNIT - 1);
    h->low = 0;
    if (h->bytes) skvi_block_set(base, h->bytes);
}

static size_t skvi_heap_cost(size_t bytes)
{
    return ((bytes + SKVI_UNIT - 1) & ~(size_t)(SKVI_UNIT - 1)) + SKVI_UNIT;
}

static void *skvi_heap_alloc(void *user, size_t bytes)
{
    skvi_heap *h = (skvi_heap *)user;
    size_t need = skvi_heap_cost(bytes), at, size;
    for (at = h->low; at < h->bytes; at += size & ~(size_t)1) {
        unsigned char *b = h->base + at;
        size = skvi_block_size(b);
        if (size & 1) continue;
        while (at + size < h->bytes && !(skvi_block_size(b + size) & 1))
            size += skvi_block_size(b + size);
        if (size >= need) {
            if (size > need) skvi_block_set(b + need, size - need);
            skvi_block_set(b, need | 1);
            if (at == h->low) h->low += need;
            return b + SKVI_UNIT;
        }
        skvi_block_set(b, size);
    }
    return NULL;
}

static void skvi_heap_free(void *user, void *p, size_t bytes)
{
    skvi_heap *h = (skvi_heap *)user;
    unsigned char *b = (unsigned char *)p - SKVI_UNIT;
    (void)bytes;
    skvi_block_set(b, skvi_block_size(b) & ~(size_t)1);
    if ((size_t)(b - h->base) < h->low) h->low = (size_t)(b - h->base);
}

/* >>ring --------------------------------------------------------------------------------------
   The cache: per layer the sinks, a ring of recent tokens, and pages between them. Positions count
   appended tokens: [0, sinks) sinks, [sinks, sinks + 64 pages) pages, the rest in the ring. */
typedef struct skvi_clayer {
    uint32_t total, n_pages, dropped;       /* tokens appended; pages made; pages let go */
    unsigned char **page;                   /* [max_pages]; NULL where dropped */
    unsigned char *sink[2], *ring[2];       /* K, V: [n_kv][sinks or cap][dim] of f16 or f32 */
    uint32_t *credit;                       /* [streams] bytes that outliers may still take */
} skvi_clayer;

struct skv_cache {
    skv_allocator alloc, pages;
    size_t        bytes, state_bytes, work_bytes;
    void         *block;
    int           own;
    skv_model     model;
    char          name[64];
    skv_layer    *layers;
    uint32_t      max_tokens, sinks, window, max_append, cap, max_pages, exact_bits;
    skvi_coder    coder;
    skvi_clayer  *cl;
    unsigned char *page_buffer;             /* [most_page] */
    uint32_t      *saved_credit;            /* [2 max_groups] */
    float         *report;                  /* [max_groups][2]: bound and page mass */
    skvi_heap      heap;
};

static uint32_t skvi_cache_head_group(const skv_cache *c)
{
    return c->coder.profile ? c->coder.profile->head_group : 1;
}

static void skvi_cache_layout(skvi_arena *a, skv_cache *c, const skv_model *m)
{
    const skv_profile *p = c->coder.profile;
    size_t es = c->exact_bits / 8, before, i;
    int kind;
    c->layers = (skv_layer *)skvi_take(a, m->n_layers, sizeof *c->layers);
    c->cl = (skvi_clayer *)skvi_take(a, m->n_layers, sizeof *c->cl);
    for (i = 0; i < m->n_layers; i++) {
        skvi_clayer tmp, *l = a->base ? &c->cl[i] : &tmp;
        skv_layer s = skvi_model_layer(m, (uint32_t)i);
        (void)skvi_fill_layer(&s);
        l->page = (unsigned char **)skvi_take(a, c->max_pages, sizeof *l->page);
        for (kind = 0; kind < 2; kind++) {
            size_t row = (kind ? s.head_dim_v : s.head_dim) * es;
            l->sink[kind] = (unsigned char *)skvi_take(a, (size_t)s.n_kv_heads * c->sinks, row);
            l->ring[kind] = (unsigned char *)skvi_take(a, (size_t)s.n_kv_heads * c->cap, row);
        }
        l->credit = (uint32_t *)skvi_take(a, p ? skvi_layer_streams(p, (uint32_t)i) : 0,
                                          sizeof *l->credit);
    }
    before = a->used;
    skvi_coder_layout(a, &c->coder, m, 1);
    c->saved_credit = (uint32_t *)skvi_take(a, 2u * c->coder.max_groups, sizeof(uint32_t));
    c->report = (float *)skvi_take(a, c->coder.max_groups, 2 * sizeof(float));
    c->page_buffer = (unsigned char *)skvi_take(a, c->coder.most_page, 1);
    c->work_bytes = a->used - before;
}

/* Upper bound of a page of any layer, before there is a plan: 8 bits for every channel. */
static uint32_t skvi_most_page(const skv_profile *p)
{
    size_t most = 0;
    uint32_t layer, i;
    for (layer = 0; layer < p->model.n_layers; layer++) {
        size_t n = SKVI_PAGE_HEADER;
        for (i = p->first[layer]; i < p->first[layer + 1]; i++)
            n += SKVI_SUB_HEADER + p->stream[i].D * (1u + SKV_PAGE_TOKENS) +
                 SKVI_MAX_ROWS * SKVI_ROW_BYTES(p->stream[i].D);
        if (n > most) most = n;
    }
    return (uint32_t)most;
}

/* Checks a description and fills in everything that the layout depends on. */
static skv_result skvi_cache_prepare(const skv_cache_desc *d, skv_cache *c, const skv_model **m)
{
    skv_result r;
    memset(c, 0, sizeof *c);
    *m = d->profile ? &d->profile->model : &d->model;
    r = skvi_check_model(*m);
    if (r != SKV_OK) return r;
    if (!d->max_tokens || d->max_tokens > (1u << 30)) return SKV_ERR_ARG;
    if (d->exact_bits && d->exact_bits != 16 && d->exact_bits != 32) return SKV_ERR_ARG;
    c->max_tokens = d->max_tokens;
    c->sinks = skvi_or(d->sinks, 4);
    c->window = skvi_or(d->window, 64);
    c->max_append = d->max_append ? d->max_append : 64;
    c->exact_bits = d->exact_bits ? d->exact_bits : 16;
    if (c->sinks > c->max_tokens) c->sinks = c->max_tokens;
    if (c->window > c->max_tokens) c->window = c->max_tokens;
    if (c->max_append > c->max_tokens) c->max_append = c->max_tokens;
    c->max_pages = d->profile ? (c->max_tokens - c->sinks) / SKVI_P : 0;
    c->cap = c->window + SKVI_P - 1 + c->max_append;
    if (!d->profile || c->cap > c->max_tokens) c->cap = c->max_tokens;
    c->own = d->memory == NULL;
    if (c->own) {
        r = skvi_pick_allocator(&d->allocator, &c->alloc);
        if (r != SKV_OK) return r;
    }
    c->coder.profile = d->profile;
    c->coder.par = d->parallel;
    skvi_coder_sizes(&c->coder, *m, skvi_cache_head_group(c));
    if (d->profile) c->coder.most_page = skvi_most_page(d->profile);
    return SKV_OK;
}

static skv_result skvi_cache_measure(const skv_cache_desc *d, skv_cache *c, const skv_model **m)
{
    skvi_arena a = {NULL, 0, 0};
    skv_result r = skvi_cache_prepare(d, c, m);
    if (r != SKV_OK) return r;
    (void)skvi_take(&a, 1, sizeof *c);
    skvi_cache_layout(&a, c, *m);
    (void)skvi_take(&a, 0, 1);
    if (a.overflow || a.used > (size_t)-1 / 4) return SKV_ERR_MEMORY;
    c->state_bytes = a.used;
    c->bytes = a.used + SKVI_ALIGN;
    return SKV_OK;
}

/* Bytes of all pages when max_tokens are in, outlier allowances included. Needs a plan. */
static size_t skvi_pages_reserve(const skv_cache *c)
{
    const skvi_coder *k = &c->coder;
    const skv_profile *p = k->profile;
    size_t bytes = 0;
    uint32_t layer, i;
    for (layer = 0; p && layer < p->model.n_layers; layer++) {
        size_t extra = 0;
        for (i = p->first[layer]; i < p->first[layer + 1]; i++) extra += k->allow[i];
        bytes += c->max_pages * (skvi_heap_cost(k->least[layer]) + extra + SKVI_UNIT - 1);
    }
    return bytes;
}

SKVDEF skv_result skv_cache_size(const skv_cache_desc *desc, size_t *bytes)
{
    skv_cache_desc d;
    skv_cache *c = NULL;
    skv_result r;
    if (!desc || !bytes) return SKV_ERR_ARG;
    d = *desc;
    d.memory = NULL;
    if (!d.profile) {                       /* no pages: the state is all */
        skv_cache tmp;
        const skv_model *m;
        d.memory = &tmp;
        r = skvi_cache_measure(&d, &tmp, &m);
        if (r == SKV_OK) *bytes = tmp.bytes;
        return r;
    }
    if (!d.allocator.alloc && !d.allocator.free) d.allocator = d.profile->alloc;
    r = skv_cache_init(&c, &d);             /* the plan decides: make one, look, let it go */
    if (r != SKV_OK) return r;
    *bytes = c->bytes + skvi_pages_reserve(c);
    skv_cache_free(c);
    return SKV_OK;
}

SKVDEF skv_result skv_cache_init(skv_cache **out, const skv_cache_desc *desc)
{
    skv_cache tmp, *c;
    const skv_model *m;
    skvi_arena a = {NULL, 0, 0};
    float share;
    void *block;
    skv_result r;
    if (!out || !desc) return SKV_ERR_ARG;
    r = skvi_cache_measure(desc, &tmp, &m);
    if (r != SKV_OK) return r;
    if (!tmp.own && desc->memory_bytes < tmp.bytes) return SKV_ERR_MEMORY;
    block = tmp.own ? tmp.alloc.alloc(tmp.alloc.user, tmp.bytes) : desc->memory;
    if (!block) return SKV_ERR_MEMORY;
    memset(block, 0, tmp.bytes);
    a.base = skvi_align_up(block);
    c = (skv_cache *)skvi_take(&a, 1, sizeof *c);
    *c = tmp;
    c->block = block;
    skvi_cache_layout(&a, c, m);
    skvi_copy_model(&c->model, m, c->layers, c->name);
    share = skvi_outlier_share(desc->outliers);
    r = c->coder.profile ? skvi_plan_make(c->coder.profile, &desc->target, share, c->coder.plan)
                         : SKV_OK;
    if (r == SKV_OK && c->coder.profile) skvi_coder_index(&c->coder, share);
    c->pages = c->alloc;
    if (!c->own) {
        unsigned char *first = a.base + c->state_bytes;
        size_t rest = desc->memory_bytes - (size_t)(first - (unsigned char *)desc->memory);
        if (r == SKV_OK && desc->memory_bytes - c->bytes < skvi_pages_reserve(c))
            r = SKV_ERR_MEMORY;
        skvi_heap_init(&c->heap, first, rest);
        c->pages.user = &c->heap;
        c->pages.alloc = skvi_heap_alloc;
        c->pages.free = skvi_heap_free;
    }
    if (r == SKV_OK) *out = c;
    else skv_cache_free(c);
    return r;
}

static void skvi_page_free(skv_cache *c, unsigned char **page)
{
    if (*page) c->pages.free(c->pages.user, *page, skvi_get32(*page + 4));
    *page = NULL;
}

SKVDEF void skv_cache_reset(skv_cache *c)
{
    uint32_t i, j;
    if (!c) return;
    for (i = 0; i < c->model.n_layers; i++) {
        skvi_clayer *l = &c->cl[i];
        for (j = 0; j < l->n_pages; j++) skvi_page_free(c, &l->page[j]);
        l->total = l->n_pages = l->dropped = 0;
        if (c->coder.profile)
            memset(l->credit, 0, skvi_layer_streams(c->coder.profile, i) * sizeof(uint32_t));
    }
}

SKVDEF void skv_cache_free(skv_cache *c)
{
    skv_allocator a;
    if (!c || !c->own) return;
    skv_cache_reset(c);
    a = c->alloc;
    a.free(a.user, c->block, c->bytes);
}

SKVDEF size_t skv_cache_tokens(const skv_cache *c, uint32_t layer)
{
    return c && layer < c->model.n_layers ? c->cl[layer].total : 0;
}

static uint32_t skvi_sinks_held(const skv_cache *c, const skvi_clayer *l)
{
    return l->total < c->sinks ? l->total : c->sinks;
}

static uint32_t skvi_ring_first(const skv_cache *c, const skvi_clayer *l)
{
    return skvi_sinks_held(c, l) + l->n_pages * SKVI_P;
}

/* Address of an exact token's row. */
static unsigned char *skvi_exact_at(const skv_cache *c, uint32_t layer, int kind, size_t head,
                                    uint32_t pos)
{
    const skvi_clayer *l = &c->cl[layer];
    size_t dim = kind ? c->layers[layer].head_dim_v : c->layers[layer].head_dim;
    size_t row = dim * (c->exact_bits / 8);
    if (pos < c->sinks) return l->sink[kind] + (head * c->sinks + pos) * row;
    return l->ring[kind] + (head * c->cap + (pos - c->sinks) % c->cap) * row;
}

static void skvi_exact_load(const skv_cache *c, uint32_t layer, int kind, size_t head,
                            uint32_t pos, float *out)
{
    size_t dim = kind ? c->layers[layer].head_dim_v : c->layers[layer].head_dim;
    const unsigned char *row = skvi_exact_at(c, layer, kind, head, pos);
    uint16_t h[SKV_MAX_HEAD_DIM];
    if (c->exact_bits == 32) {
        memcpy(out, row, dim * sizeof(float));
        return;
    }
    memcpy(h, row, dim * 2);
    c->coder.kern->from_f16(h, out, dim);
}

static void skvi_exact_store(const skv_cache *c, uint32_t layer, int kind, size_t head,
                             uint32_t pos, const float *x)
{
    size_t dim = kind ? c->layers[layer].head_dim_v : c->layers[layer].head_dim, i;
    unsigned char *row = skvi_exact_at(c, layer, kind, head, pos);
    uint16_t h;
    if (c->exact_bits == 32) {
        memcpy(row, x, dim * sizeof(float));
        return;
    }
    for (i = 0; i < dim; i++) {
        h = skvi_to_f16(x[i]);
        memcpy(row + 2 * i, &h, 2);
    }
}

/* Tokens of a page to be: from the ring, or from the call's own input, rounded as the ring would
   have, so that a prompt in one call and in pieces gives the same pages. */
typedef struct skvi_append_source {
    const skv_cache *c;
    skvi_tokens view[2];
    uint32_t layer, old_total, first;       /* first: position of the page's token 0 */
} skvi_append_source;

static void skvi_append_row(void *self, int kind, size_t token, size_t head, float *out)
{
    const skvi_append_source *s = (const skvi_append_source *)self;
    uint32_t pos = s->first + (uint32_t)token;
    size_t i;
    if (pos < s->old_total) {
        skvi_exact_load(s->c, s->layer, kind, head, pos, out);
        return;
    }
    skvi_load(&s->view[kind], pos - s->old_total, head, out);
    if (s->c->exact_bits == 16)
        for (i = 0; i < s->view[kind].dim; i++) out[i] = skvi_from_f16(skvi_to_f16(out[i]));
}

/* Pages there will be after n more tokens go in by pieces of max_append. */
static uint32_t skvi_pages_after(const skv_cache *c, const skvi_clayer *l, size_t n)
{
    size_t total = l->total, pages = l->n_pages, take;
    if (!c->coder.profile) return 0;
    for (; n; n -= take, total += take) {
        size_t ring = (total > c->sinks ? total - c->sinks : 0) - pages * SKVI_P;
        while (ring >= c->window + SKVI_P) {
            pages++;
            ring -= SKVI_P;
        }
        take = n < c->max_append ? n : c->max_append;
    }
    return (uint32_t)pages;
}

/* Makes page number index of a layer. Credits are spent; the caller can put them back. */
static skv_result skvi_make_page(skv_cache *c, uint32_t layer, skvi_append_source *s,
                                 uint32_t index, int store)
{
    skvi_clayer *l = &c->cl[layer];
    const skv_profile *p = c->coder.profile;
    uint32_t i, streams = skvi_layer_streams(p, layer);
    skvi_source src;
    skvi_encode_job j;
    size_t bytes;
    s->first = c->sinks + index * SKVI_P;
    for (i = 0; i < streams; i++) {         /* unspent credit gathers, within reason */
        uint32_t most = (1u << 24) + c->coder.allow[p->first[layer] + i];
        l->credit[i] += c->coder.allow[p->first[layer] + i];
        if (l->credit[i] > most) l->credit[i] = most;
    }
    src.self = s;
    src.row = skvi_append_row;
    j.c = &c->coder;
    j.src = &src;
    j.credit = l->credit;
    j.page = c->page_buffer;
    j.layer = layer;
    j.n = SKVI_P;
    bytes = skvi_encode_page(&j);
    for (i = 0; i < streams; i++)
        l->credit[i] -= (uint32_t)(c->coder.n_rows[i] *
                                   SKVI_ROW_BYTES(p->stream[p->first[layer] + i].D));
    if (!store) return SKV_OK;              /* out of sight already, but its credit counts */
    l->page[index] = (unsigned char *)c->pages.alloc(c->pages.user, bytes);
    if (!l->page[index]) return SKV_ERR_MEMORY;
    memcpy(l->page[index], c->page_buffer, bytes);
    return SKV_OK;
}

/* First page that a query at position pos or later can still see. */
static uint32_t skvi_first_visible(const skv_cache *c, uint32_t layer, uint32_t pos)
{
    uint32_t w = c->layers[layer].sliding_window, gone;
    if (!w || pos + 1 <= w) return 0;
    gone = pos + 1 - w;                     /* positions below are out of sight */
    return gone <= c->sinks ? 0 : (gone - c->sinks) / SKVI_P;
}

static skv_result skvi_append_views(const skv_cache *c, uint32_t layer, const skv_span *k,
                                    const skv_span *v, size_t n, skvi_tokens *view)
{
    const skv_layer *s = &c->layers[layer];
    float limit = c->exact_bits == 16 ? 65504.0f : SKVI_LARGEST;
    skv_result r = skvi_open(&view[0], k, s->n_kv_heads, s->head_dim);
    if (r == SKV_OK) r = skvi_open(&view[1], v, s->n_kv_heads, s->head_dim_v);
    if (r == SKV_OK) r = skvi_check_values(&view[0], n, s->n_kv_heads, limit);
    if (r == SKV_OK) r = skvi_check_values(&view[1], n, s->n_kv_heads, limit);
    return r;
}

SKVDEF skv_result skv_append(skv_cache *c, uint32_t layer, const skv_span *k, const skv_span *v,
                             size_t n)
{
    skvi_append_source s;
    skvi_clayer *l;
    float row[SKV_MAX_HEAD_DIM];
    uint32_t pages, visible, i, h, streams, pos, end, keep;
    int kind;
    skv_result r;
    if (!c || layer >= c->model.n_layers || !n) return SKV_ERR_ARG;
    l = &c->cl[layer];
    if (n > c->max_tokens - l->total) return SKV_ERR_FULL;
    r = skvi_append_views(c, layer, k, v, n, s.view);
    if (r != SKV_OK) return r;
    s.c = c;
    s.layer = layer;
    s.old_total = l->total;
    pages = skvi_pages_after(c, l, n);
    visible = skvi_first_visible(c, layer, l->total);
    streams = pages > l->n_pages ? skvi_layer_streams(c->coder.profile, layer) : 0;
    if (streams) memcpy(c->saved_credit, l->credit, streams * sizeof(uint32_t));
    for (i = l->n_pages; i < pages; i++) {
        r = skvi_make_page(c, layer, &s, i, i >= visible);
        if (r == SKV_OK) continue;
        while (i-- > l->n_pages) skvi_page_free(c, &l->page[i]);
        memcpy(l->credit, c->saved_credit, streams * sizeof(uint32_t));
        return r;
    }
    end = l->total + (uint32_t)n;                           /* nothing can fail from here on */
    keep = c->sinks + pages * SKVI_P;
    for (pos = l->total; pos < end; pos++) {
        if (pos >= c->sinks && pos < keep) continue;
        for (kind = 0; kind < 2; kind++)
            for (h = 0; h < c->layers[layer].n_kv_heads; h++) {
                skvi_load(&s.view[kind], pos - s.old_total, h, row);
                skvi_exact_store(c, layer, kind, h, pos, row);
            }
    }
    l->total = end;
    l->n_pages = pages;
    for (; l->dropped < visible && l->dropped < pages; l->dropped++)
        skvi_page_free(c, &l->page[l->dropped]);
    return SKV_OK;
}

SKVDEF skv_result skv_truncate(skv_cache *c, uint32_t layer, size_t n_tokens)
{
    skvi_clayer *l;
    if (!c || layer >= c->model.n_layers || n_tokens > c->cl[layer].total) return SKV_ERR_ARG;
    l = &c->cl[layer];
    if (l->n_pages && n_tokens < skvi_ring_first(c, l)) return SKV_ERR_STATE;
    if (l->dropped > skvi_first_visible(c, layer, (uint32_t)n_tokens)) return SKV_ERR_STATE;
    l->total = (uint32_t)n_tokens;
    return SKV_OK;
}

SKVDEF skv_result skv_cache_usage(const skv_cache *c, skv_usage *out)
{
    uint32_t i, j;
    if (!c || !out) return SKV_ERR_ARG;
    memset(out, 0, sizeof *out);
    for (i = 0; i < c->model.n_layers; i++) {
        const skvi_clayer *l = &c->cl[i];
        const skv_layer *s = &c->layers[i];
        size_t width = (size_t)s->n_kv_heads * (s->head_dim + s->head_dim_v);
        size_t live = l->n_pages - l->dropped;
        if (l->total > out->tokens) out->tokens = l->total;
        out->elements += (l->total - (size_t)l->dropped * SKVI_P) * width;
        out->page_elements += live * SKVI_P * width;
        out->exact_bytes += (c->cap + (size_t)c->sinks) * width * (c->exact_bits / 8);
        for (j = l->dropped; j < l->n_pages; j++) {
            size_t bytes = skvi_get32(l->page[j] + 4);
            out->page_bytes += bytes;
            out->outlier_bytes += bytes - c->coder.least[i];
            out->outlier_rows += skvi_get16(l->page[j] + 2);
        }
    }
    out->work_bytes = c->work_bytes;
    out->bytes = c->bytes + out->page_bytes;
    if (out->elements) out->bpe = 8.0 * (double)out->bytes / (double)out->elements;
    if (out->page_elements)
        out->bpe_pages = 8.0 * (double)out->page_bytes / (double)out->page_elements;
    return SKV_OK;
}

SKVDEF skv_result skv_reconstruct(skv_cache *c, uint32_t layer, size_t first, size_t n, float *k,
                                  float *v)
{
    const skvi_clayer *l;
    const skv_layer *s;
    size_t pos, end, h;
    if (!c || layer >= c->model.n_layers) return SKV_ERR_ARG;
    l = &c->cl[layer];
    s = &c->layers[layer];
    if (first > l->total || n > l->total - first) return SKV_ERR_ARG;
    for (pos = first; pos < first + n; pos++)               /* before anything is written */
        if (pos >= c->sinks && pos < skvi_ring_first(c, l) && !l->page[(pos - c->sinks) / SKVI_P])
            return SKV_ERR_STATE;
    for (pos = first, end = first + n; pos < end; ) {
        size_t ring = skvi_ring_first(c, l), wk = (size_t)s->n_kv_heads * s->head_dim;
        size_t wv = (size_t)s->n_kv_heads * s->head_dim_v, at = pos - first, m = 1;
        float *to_k = k ? k + at * wk : NULL, *to_v = v ? v + at * wv : NULL;
        if (pos >= c->sinks && pos < ring) {
            size_t page = (pos - c->sinks) / SKVI_P, from = (pos - c->sinks) % SKVI_P;
            m = SKVI_P - from < end - pos ? SKVI_P - from : end - pos;
            skvi_decode_page(&c->coder, layer, l->page[page], (uint32_t)from, (uint32_t)m, to_k,
                             to_v);
        } else
            for (h = 0; h < s->n_kv_heads; h++) {
                if (to_k) skvi_exact_load(c, layer, 0, h, (uint32_t)pos, to_k + h * s->head_dim);
                if (to_v) skvi_exact_load(c, layer, 1, h, (uint32_t)pos, to_v + h * s->head_dim_v);
            }
        pos += m;
    }
    return SKV_OK;
}

/* >>scores ------------------------------------------------------------------------------------
   Attention of a tile of at most 16 rows (query, head) of one head group over all tokens. For a
   token in a page, x = mean + D u: the score is q.mean + q'.u with q' = D^T q, in whitened latents;
   values gather in the latent too and are turned back once. Bound: |q.(x - x^)| <= |q'/sd| e, where
   e is the page's largest residual |z - z^| (Cauchy-Schwarz). */
typedef struct skvi_atile {
    size_t   n, pos[SKVI_ROWS], head[SKVI_ROWS], query[SKVI_ROWS];  /* rows by rising head */
    float    top[SKVI_ROWS], sum[SKVI_ROWS], paged[SKVI_ROWS];  /* running softmax, page share */
    float    qmean[SKVI_ROWS], qnorm[SKVI_ROWS];
    size_t   first_pos, last_pos;   /* of the rows */
    float    bound;
} skvi_atile;

typedef struct skvi_attend_job {
    skv_cache   *c;
    uint32_t     layer;
    size_t       n;                 /* queries */
    skvi_tokens  q;
    const skv_out *out;
    skv_attn    *attn;
    float       *scores;            /* of skv_scores, else NULL */
} skvi_attend_job;

static const skvi_stream *skvi_attend_stream(const skvi_attend_job *j, int kind, size_t g)
{
    return skvi_stream_at(j->c->coder.profile, j->layer, kind, g);
}

/* q rows of the tile, scaled, and their latents. */
static void skvi_tile_queries(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                              size_t g)
{
    const skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    const skvi_stream *s;
    size_t r, i, d = l->head_dim, group = l->n_q_heads / l->n_kv_heads;
    for (r = 0; r < t->n; r++) {
        skvi_load(&j->q, t->query[r], t->head[r], lane->q + r * d);
        for (i = 0; i < d; i++) lane->q[r * d + i] *= l->scale;
    }
    if (!c->cl[j->layer].n_pages) return;
    s = skvi_attend_stream(j, 0, g);
    for (r = 0; r < t->n; r++) {
        size_t slice = (t->head[r] / group - g * c->coder.profile->head_group) * d;
        const float *q = lane->q + r * d;
        float norm = 0;
        for (i = 0; i < s->D; i++) {
            float x = c->coder.kern->dot(q, s->dec + i * s->D + slice, d);
            lane->ql[r * s->D + i] = x;
            norm += x * x / s->var[i];
        }
        t->qmean[r] = c->coder.kern->dot(q, s->mean + slice, d);
        t->qnorm[r] = sqrtf(norm);
    }
}

/* Softmax step over n tokens from position first: soft cap, masks, running maximum; scores become
   weights. */
static void skvi_softmax(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                         size_t first, size_t n, size_t D)
{
    const skv_layer *l = &j->c->layers[j->layer];
    size_t r, i, dv = l->head_dim_v, w = l->sliding_window;
    for (r = 0; r < t->n; r++) {
        float *s = lane->s + r * SKVI_P, top = t->top[r], sum = 0, keep;
        size_t begin = w && t->pos[r] + 1 > w ? t->pos[r] + 1 - w : 0, end = t->pos[r] + 1;
        for (i = 0; i < n; i++) {
            if (l->softcap > 0) s[i] = l->softcap * tanhf(s[i] / l->softcap);
            if (first + i < begin || first + i >= end) s[i] = -INFINITY;
            else if (s[i] > top) top = s[i];
        }
        if (top == -INFINITY) {
            for (i = 0; i < n; i++) s[i] = 0;
            continue;
        }
        keep = expf(t->top[r] - top);
        for (i = 0; i < n; i++) {
            s[i] = expf(s[i] - top);
            sum += s[i];
        }
        if (keep < 1) {
            float *oo = lane->oo + r * dv, *ol = lane->ol + r * D;
            for (i = 0; i < dv; i++) oo[i] *= keep;
            for (i = 0; i < D; i++) ol[i] *= keep;
            t->paged[r] *= keep;
        }
        t->sum[r] = t->sum[r] * keep + sum;
        t->top[r] = top;
    }
}

/* Rows of the tile from r0 on that share a KV head; returns the end. */
static size_t skvi_same_head(const skvi_atile *t, size_t r0, size_t group)
{
    size_t r = r0;
    while (r < t->n && t->head[r] / group == t->head[r0] / group) r++;
    return r;
}

/* Exact tokens first .. first+n-1, n <= 64. */
static void skvi_exact_block(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             size_t first, size_t n, size_t D)
{
    const skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    size_t d = l->head_dim, dv = l->head_dim_v, group = l->n_q_heads / l->n_kv_heads, i, r, r0, x;
    float row[SKV_MAX_HEAD_DIM];
    memset(lane->s, 0, t->n * SKVI_P * sizeof(float));
    for (r0 = 0; r0 < t->n; r0 = r) {
        r = skvi_same_head(t, r0, group);
        for (i = 0; i < n; i++) {
            skvi_exact_load(c, j->layer, 0, t->head[r0] / group, (uint32_t)(first + i), row);
            for (x = 0; x < d; x++) lane->tile[x * SKVI_P + i] = row[x];
        }
        c->coder.kern->gemm(r - r0, n, d, lane->q + r0 * d, d, lane->tile, SKVI_P,
                            lane->s + r0 * SKVI_P, SKVI_P);
    }
    if (j->scores) return;
    skvi_softmax(j, lane, t, first, n, D);
    for (r0 = 0; r0 < t->n; r0 = r) {
        r = skvi_same_head(t, r0, group);
        for (i = 0; i < n; i++)
            skvi_exact_load(c, j->layer, 1, t->head[r0] / group, (uint32_t)(first + i),
                            lane->tile + i * dv);
        c->coder.kern->gemm(r - r0, dv, n, lane->s + r0 * SKVI_P, SKVI_P, lane->tile, dv,
                            lane->oo + r0 * dv, dv);
    }
}

/* Scores of one page into lane->s. */
static void skvi_page_scores(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             size_t g, const unsigned char *page)
{
    const skvi_coder *k = &j->c->coder;
    const skvi_stream *s = skvi_attend_stream(j, 0, g);
    const skvi_sub at = skvi_sub_at(k, j->layer, (size_t)(s - k->profile->stream), page);
    const unsigned char *row = NULL;
    size_t r, i;
    uint32_t ch, m, token;
    for (r = 0; r < t->n; r++)
        for (i = 0; i < SKVI_P; i++) lane->s[r * SKVI_P + i] = t->qmean[r];
    for (ch = 0; ch < at.plan->coded; ch += m) {
        m = at.plan->coded - ch < SKVI_SLAB ? at.plan->coded - ch : SKVI_SLAB;
        skvi_expand_slab(k, at.plan, at.bytes, ch, m, lane->tile);
        k->kern->gemm(t->n, SKVI_P, m, lane->ql + ch, s->D, lane->tile, SKVI_P, lane->s, SKVI_P);
    }
    while ((row = skvi_next_row(k, page, j->layer, at.local, row, &token)) != NULL)
        for (r = 0; r < t->n; r++) {
            float x = t->qmean[r];
            for (i = 0; i < s->D; i++)
                x += lane->ql[r * s->D + i] * skvi_from_f16(skvi_get16(row + 2 + 2 * i));
            lane->s[r * SKVI_P + token] = x;
        }
    for (r = 0; r < t->n; r++) {
        float e = skvi_from_bf16(skvi_get16(at.bytes)) * t->qnorm[r];
        if (e > t->bound) t->bound = e;
    }
}

/* Gathers weights times latents of one page into lane->ol. */
static void skvi_page_values(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             size_t g, const unsigned char *page)
{
    const skvi_coder *k = &j->c->coder;
    const skvi_stream *s = skvi_attend_stream(j, 1, g);
    const skvi_sub at = skvi_sub_at(k, j->layer, (size_t)(s - k->profile->stream), page);
    const unsigned char *row = NULL;
    size_t r, i;
    uint32_t ch, m, token;
    for (r = 0; r < t->n; r++)
        for (i = 0; i < SKVI_P; i++) t->paged[r] += lane->s[r * SKVI_P + i];
    while ((row = skvi_next_row(k, page, j->layer, at.local, row, &token)) != NULL)
        for (r = 0; r < t->n; r++) {
            float p = lane->s[r * SKVI_P + token], *ol = lane->ol + r * s->D;
            for (i = 0; i < s->D; i++) ol[i] += p * skvi_from_f16(skvi_get16(row + 2 + 2 * i));
            lane->s[r * SKVI_P + token] = 0;
        }
    for (ch = 0; ch < at.plan->coded; ch += m) {
        m = at.plan->coded - ch < SKVI_SLAB ? at.plan->coded - ch : SKVI_SLAB;
        skvi_expand_slab(k, at.plan, at.bytes, ch, m, lane->tile);
        for (r = 0; r < t->n; r++)
            for (i = 0; i < m; i++)
                lane->ol[r * s->D + ch + i] +=
                    k->kern->dot(lane->s + r * SKVI_P, lane->tile + i * SKVI_P, SKVI_P);
    }
}

static void skvi_copy_scores(const skvi_attend_job *j, const skvi_lane *lane, const skvi_atile *t,
                             size_t first, size_t n)
{
    size_t r;
    for (r = 0; j->scores && r < t->n; r++)
        memcpy(j->scores + t->head[r] * j->c->cl[j->layer].total + first, lane->s + r * SKVI_P,
               n * sizeof(float));
}

/* All tokens: sinks, pages, ring, in order of position. */
static void skvi_tile_walk(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t, size_t g,
                           size_t D)
{
    const skv_cache *c = j->c;
    const skvi_clayer *l = &c->cl[j->layer];
    size_t w = c->layers[j->layer].sliding_window, pos, n, ring = skvi_ring_first(c, l);
    size_t begin = w && t->first_pos + 1 > w ? t->first_pos + 1 - w : 0;
    size_t end = t->last_pos + 1;
    for (pos = 0; pos < end; pos += n) {
        int paged = pos >= c->sinks && pos < ring;
        size_t stop = pos < c->sinks ? skvi_sinks_held(c, l) : end;
        n = paged ? SKVI_P : stop - pos < SKVI_P ? stop - pos : SKVI_P;
        if (pos + n <= begin && !j->scores) continue;
        if (!paged) {
            skvi_exact_block(j, lane, t, pos, n, D);
        } else {
            const unsigned char *page = l->page[(pos - c->sinks) / SKVI_P];
            if (!page) continue;
            skvi_page_scores(j, lane, t, g, page);
            if (!j->scores) {
                skvi_softmax(j, lane, t, pos, n, D);
                skvi_page_values(j, lane, t, g, page);
            }
        }
        skvi_copy_scores(j, lane, t, pos, n);
    }
}

static void skvi_write_row(const skv_out *o, const skv_layer *l, size_t token, size_t head,
                           const float *x)
{
    ptrdiff_t hs = o->head_stride ? o->head_stride : (ptrdiff_t)l->head_dim_v;
    ptrdiff_t ts = o->token_stride ? o->token_stride : hs * (ptrdiff_t)l->n_q_heads;
    ptrdiff_t at = (ptrdiff_t)token * ts + (ptrdiff_t)head * hs;
    size_t i;
    uint16_t h;
    if (o->dtype == SKV_F32) {
        memcpy((unsigned char *)o->data + 4 * at, x, l->head_dim_v * sizeof(float));
        return;
    }
    for (i = 0; i < l->head_dim_v; i++) {
        h = o->dtype == SKV_F16 ? skvi_to_f16(x[i]) : skvi_to_bf16(x[i]);
        memcpy((unsigned char *)o->data + 2 * (at + (ptrdiff_t)i), &h, 2);
    }
}

/* (exact + latent turned back + page share times mean) / sum, for each row. */
static void skvi_tile_finish(const skvi_attend_job *j, const skvi_lane *lane, const skvi_atile *t,
                             size_t g, size_t D)
{
    const skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    size_t r, i, dv = l->head_dim_v, group = l->n_q_heads / l->n_kv_heads;
    for (r = 0; r < t->n; r++) {
        float *oo = lane->oo + r * dv, inv = 1 / t->sum[r];
        if (c->cl[j->layer].n_pages) {
            const skvi_stream *s = skvi_attend_stream(j, 1, g);
            size_t slice = (t->head[r] / group - g * c->coder.profile->head_group) * dv;
            c->coder.kern->gemm(1, dv, D, lane->ol + r * D, D, s->dec + slice, s->D, oo, dv);
            for (i = 0; i < dv; i++) oo[i] += t->paged[r] * s->mean[slice + i];
        }
        for (i = 0; i < dv; i++) oo[i] *= inv;
        skvi_write_row(j->out, l, t->query[r], t->head[r], oo);
        if (j->attn && j->attn->lse)
            j->attn->lse[t->query[r] * l->n_q_heads + t->head[r]] = t->top[r] + logf(t->sum[r]);
    }
}

/* One task: all rows of one head group, in tiles. */
static void skvi_attend_task(void *arg, size_t g)
{
    const skvi_attend_job *j = (const skvi_attend_job *)arg;
    skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    const skvi_lane *lane = &c->coder.lane[c->coder.n_lanes > 1 ? g : 0];
    size_t G = skvi_cache_head_group(c), group = l->n_q_heads / l->n_kv_heads, row, rows, r;
    size_t head0 = g * G * group, left = l->n_kv_heads - g * G, total = c->cl[j->layer].total;
    size_t D = (left < G ? left : G) * l->head_dim_v;
    float *report = c->report + 2 * g;
    skvi_atile t;
    rows = (left < G ? left : G) * group * j->n;
    report[0] = report[1] = 0;
    for (row = 0; row < rows; row += t.n) {
        memset(&t, 0, sizeof t);
        t.n = rows - row < SKVI_ROWS ? rows - row : SKVI_ROWS;
        t.first_pos = total;
        for (r = 0; r < t.n; r++) {
            t.head[r] = head0 + (row + r) / j->n;
            t.query[r] = (row + r) % j->n;
            t.pos[r] = total - j->n + t.query[r];
            t.top[r] = -INFINITY;
            if (t.pos[r] < t.first_pos) t.first_pos = t.pos[r];
            if (t.pos[r] > t.last_pos) t.last_pos = t.pos[r];
        }
        memset(lane->oo, 0, t.n * l->head_dim_v * sizeof(float));
        memset(lane->ol, 0, t.n * D * sizeof(float));
        skvi_tile_queries(j, lane, &t, g);
        skvi_tile_walk(j, lane, &t, g, D);
        if (!j->scores) skvi_tile_finish(j, lane, &t, g, D);
        if (t.bound > report[0]) report[0] = t.bound;
        for (r = 0; r < t.n && !j->scores; r++)
            if (t.paged[r] / t.sum[r] > report[1]) report[1] = t.paged[r] / t.sum[r];
    }
}

/* The public calls. */
static void skvi_attend_run(skvi_attend_job *j)
{
    skv_cache *c = j->c;
    uint32_t g, groups = skvi_groups(&c->layers[j->layer], skvi_cache_head_group(c));
    skv_attn *a = j->attn;
    skvi_run(&c->coder.par, groups, skvi_attend_task, j);
    if (!a) return;
    a->score_bound = a->page_mass = 0;
    for (g = 0; g < groups; g++) {
        if (c->report[2 * g] > a->score_bound) a->score_bound = c->report[2 * g];
        if (c->report[2 * g + 1] > a->page_mass) a->page_mass = c->report[2 * g + 1];
    }
    a->tokens_paged = (c->cl[j->layer].n_pages - c->cl[j->layer].dropped) * SKVI_P;
    a->tokens_exact = c->cl[j->layer].total - c->cl[j->layer].n_pages * SKVI_P;
}

static int skvi_out_valid(const skv_out *o)
{
    return o && o->data &&
           (o->dtype == SKV_F32 || o->dtype == SKV_F16 || o->dtype == SKV_BF16);
}

/* A job for n queries, checked. */
static skv_result skvi_attend_open(skvi_attend_job *j, skv_cache *c, uint32_t layer,
                                   const skv_span *q, size_t n)
{
    const skv_layer *l = &c->layers[layer];
    skv_result r;
    memset(j, 0, sizeof *j);
    j->c = c;
    j->layer = layer;
    j->n = n;
    r = skvi_open(&j->q, q, l->n_q_heads, l->head_dim);
    return r == SKV_OK ? skvi_check_values(&j->q, n, l->n_q_heads, SKVI_LARGEST) : r;
}

SKVDEF skv_result skv_attend(skv_cache *c, uint32_t layer, const skv_span *q, size_t n,
                             const skv_out *out, skv_attn *attn)
{
    skvi_attend_job j;
    const skvi_clayer *l;
    skv_result r;
    if (!c || layer >= c->model.n_layers || !skvi_out_valid(out) || !n) return SKV_ERR_ARG;
    l = &c->cl[layer];
    if (n > l->total) return SKV_ERR_ARG;
    if (l->dropped > skvi_first_visible(c, layer, l->total - (uint32_t)n)) return SKV_ERR_STATE;
    r = skvi_attend_open(&j, c, layer, q, n);
    if (r != SKV_OK) return r;
    j.out = out;
    j.attn = attn;
    skvi_attend_run(&j);
    return SKV_OK;
}

SKVDEF skv_result skv_scores(skv_cache *c, uint32_t layer, const skv_span *q, float *scores)
{
    skvi_attend_job j;
    size_t i;
    skv_result r;
    if (!c || layer >= c->model.n_layers || !scores) return SKV_ERR_ARG;
    if (!c->cl[layer].total) return SKV_ERR_STATE;
    r = skvi_attend_open(&j, c, layer, q, 1);
    if (r != SKV_OK) return r;
    for (i = 0; i < (size_t)c->layers[layer].n_q_heads * c->cl[layer].total; i++)
        scores[i] = -INFINITY;
    j.scores = scores;
    skvi_attend_run(&j);
    return SKV_OK;
}

/* Bytes from the first token of a span or output to token n. */
static ptrdiff_t skvi_later(ptrdiff_t token, ptrdiff_t head, skv_dtype dtype, size_t n_heads,
                            size_t dim, size_t n)
{
    ptrdiff_t hs = head ? head : (ptrdiff_t)dim, ts = token ? token : hs * (ptrdiff_t)n_heads;
    return ts * (ptrdiff_t)n * (dtype == SKV_F32 ? 4 : 2);
}

static skv_span skvi_span_later(const skv_span *s, size_t n_heads, size_t dim, size_t n)
{
    skv_span t = *s;
    t.data = (const unsigned char *)s->data +
             skvi_later(s->token_stride, s->head_stride, s->dtype, n_heads, dim, n);
    return t;
}

SKVDEF skv_result skv_prefill(skv_cache *c, uint32_t layer, const skv_span *q, const skv_span *k,
                              const skv_span *v, size_t n, const skv_out *out)
{
    skvi_attend_job whole;
    skvi_tokens view[2];
    const skv_layer *l;
    size_t at, m;
    skv_result r;
    if (!c || layer >= c->model.n_layers || !n || !skvi_out_valid(out)) return SKV_ERR_ARG;
    l = &c->layers[layer];
    if (n > c->max_tokens - c->cl[layer].total) return SKV_ERR_FULL;
    r = skvi_append_views(c, layer, k, v, n, view);
    if (r == SKV_OK) r = skvi_attend_open(&whole, c, layer, q, n);
    for (at = 0; r == SKV_OK && at < n; at += m) {
        skv_span pq = skvi_span_later(q, l->n_q_heads, l->head_dim, at);
        skv_span pk = skvi_span_later(k, l->n_kv_heads, l->head_dim, at);
        skv_span pv = skvi_span_later(v, l->n_kv_heads, l->head_dim_v, at);
        skv_out po = *out;
        po.data = (unsigned char *)out->data +
                  skvi_later(out->token_stride, out->head_stride, out->dtype, l->n_q_heads,
                             l->head_dim_v, at);
        m = n - at < c->max_append ? n - at : c->max_append;
        r = skv_append(c, layer, &pk, &pv, m);
        if (r == SKV_OK) r = skv_attend(c, layer, &pq, m, &po, NULL);
    }
    return r;
}

SKVDEF void skv_merge(float *out, float *lse, const float *out2, const float *lse2, size_t rows,
                      size_t dim)
{
    size_t r, i;
    for (r = 0; r < rows; r++) {
        float top = lse[r] > lse2[r] ? lse[r] : lse2[r], a, b;
        if (lse2[r] == -INFINITY) continue;             /* nothing there, whatever out2 holds */
        if (lse[r] == -INFINITY) {
            memcpy(out + r * dim, out2 + r * dim, dim * sizeof(float));
            lse[r] = lse2[r];
            continue;
        }
        a = expf(lse[r] - top);
        b = expf(lse2[r] - top);
        for (i = 0; i < dim; i++)
            out[r * dim + i] = (a * out[r * dim + i] + b * out2[r * dim + i]) / (a + b);
        lse[r] = top + logf(a + b);
    }
}

#ifdef __cplusplus
}
#endif
#endif /* SPECTRAL_KV_IMPLEMENTATION */

/*
This software is available under two licenses; choose whichever you prefer.

------------------------------------------------------------------------------
ALTERNATIVE A - MIT No Attribution (MIT-0)

Copyright (c) 2026 the authors of spectral_kv.h

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

------------------------------------------------------------------------------
ALTERNATIVE B - Public Domain (unlicense.org)

This is free and unencumbered software released into the public domain.

Anyone is free to copy, modify, publish, use, compile, sell, or distribute
this software, either in source code form or as a compiled binary, for any
purpose, commercial or non-commercial, and by any means.

In jurisdictions that recognize copyright laws, the author or authors of this
software dedicate any and all copyright interest in the software to the public
domain. We make this dedication for the benefit of the public at large and to
the detriment of our heirs and successors. We intend this dedication to be an
overt act of relinquishment in perpetuity of all present and future rights to
this software under copyright law.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN
ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
*/
