/* spectral_kv.h - v0.2.0 - KV-cache compression for transformer language models, in one C99 file.
   MIT-0 or public domain, at your choice; the text is at the end of this file.

   Do this in ONE C or C++ file of your project:

       #define SPECTRAL_KV_IMPLEMENTATION
       #include "spectral_kv.h"

   and include it without the define wherever else you need it. Nothing but libc and libm is used.

   WHAT IT DOES
     Replaces "append K and V in f16, then attend" of an inference loop. Old tokens leave the exact
     window in pages of 64, are turned into a latent space in which squared error is expected error
     of the model's output, coded there (trellis-coded quantisation) with the bits where they
     matter, and attention runs on the codes. It is the codec, the cache and the attention; it is
     not an engine.
     SmolLM2-135M, per head, 2.27 bits per element in the pages with everything counted: mean KL of
     the next token below 0.01 nats, 96 % the same top token (`make bench-quality`, README.md).

   A COMPLETE PROGRAM              (examples/ has ten more, from a quick start to threads)

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
                           >>tables  >>cache  >>attend  >>report  >>classic  >>cold  >>isa
                           >>linalg
     In the implementation >>base  >>kernels  >>la  >>product  >>jacobi  >>eigh  >>svd  >>fit
                           >>quant  >>search  >>integer  >>turned  >>plan  >>summary  >>blob
                           >>page  >>tables  >>heap  >>ring  >>scores  >>turbo  >>report
                           >>cold

   SHAPES AND STRIDES
     Q is [n_tokens][n_q_heads][head_dim], K [n_tokens][n_kv_heads][head_dim], V and the output have
     head_dim_v in place of head_dim. The last axis is contiguous, the others have strides in
     elements (skv_span). f32, f16 and bf16 are read as they are. Query head h uses KV head
     h / (n_q_heads / n_kv_heads): MHA, GQA and MQA are the same code. head_dim is 16 to 576, any
     number. Keys and queries come after RoPE and QK norms; say how they were turned
     (skv_profiler_rope) and they compress better.

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
     was given. A caller's parallel_for (skv_parallel) spreads encoding over head groups, attention
     over head groups and ranges of 1,024 tokens (prompts: over tiles of query rows), so that one KV
     head keeps many threads busy at long context. Ranges and the order in which they merge are
     fixed: the bits of the result do not depend on threads. Each of its n_threads has work space,
     which skv_usage.work_bytes counts.

   NUMERICS
     Pages written by one build are read by every other: integers, bf16, f16 with fixed layout and
     order (skv_encode describes it). Latents are float products: a code on the border between two
     levels may come out differently under another compiler or with fused multiply-add; the search
     for codes itself is in integers. Attention is float with sums in fixed order per build. Fits
     are double.

   CONFIGURATION (define before the implementation; defaults in brackets)
     SKVDEF            linkage of the API [extern]
     SKV_STATIC        [off] makes everything static to the including file
     SKV_NO_STDLIB     [off] no malloc: pass an allocator or memory
     SKV_NO_STDIO      [off] no snprintf: skv_profile_summary is left out
     SKV_CBLAS         [off] use cblas_sgemm for the large products of calibration
     SKV_NO_SIMD       [off] portable inner loops only; else gcc and clang on x86-64 also compile
                       SSE4.1, AVX2 and AVX-512 ones (immintrin.h), taken where the processor has
                       them, on aarch64 NEON ones (arm_neon.h; dot products with
                       -march=..+dotprod), with -msimd128 WebAssembly ones (wasm_simd128.h)
     SKV_ISA_MASK      [SKV_ISA_ALL] kernel sets that may be used; any expression, such as a call of
                       your function, evaluated whenever a set is picked (>>isa)
     SPECTRAL_KV_CUDA  [off] also include spectral_kv_cuda.cuh

   LIMITS OF THIS VERSION
     Kernels are portable C, SSE4.1, AVX2, AVX-512, NEON and WebAssembly's SIMD128, with the same
     bits.
     Attention on pages is in integers: queries and softmax weights of 8 bits, or 14
     (skv_cache_desc.attend_bits). Pages of a cache are never re-coded, and hold keys after RoPE:
     positions cannot be shifted. Cold pages (>>cold) are a codec of their own, beside the cache.
     Sparse attention (skv_attn.tolerance) leaves out values only: all scores are computed.
*/
#ifndef SPECTRAL_KV_H
#define SPECTRAL_KV_H

#include <stddef.h>
#include <stdint.h>

#define SKV_VERSION_MAJOR 0
#define SKV_VERSION_MINOR 2
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
    X(ERR_TARGET,    -13, "no plan reaches this target: ask for more bits or less precision") \
    X(ERR_DEVICE,    -14, "the GPU refused a launch: see cudaGetLastError, shared memory, device")

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
   done. A NULL run means a plain loop. Caches and codecs ask for at most n_threads tasks at a time,
   and hold work space for as many. examples/09_threads.c: one with OpenMP, one with pthreads. */
typedef struct skv_parallel {
    void *user;
    void (*run)(void *user, size_t n, void (*task)(void *arg, size_t i), void *arg);
    uint32_t n_threads;             /* that run uses; 0 = 16 */
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

/* How a layer turns keys by position (RoPE): pair p by position * freqs[p] radians, freqs from -10
   to 10, n_pairs at most head_dim / 2. ADJACENT pairs are elements (2p, 2p + 1) as in GPT-J and in
   GGUF files of llama, HALVES (p, p + n_pairs) as in GPT-NeoX and transformers. Worth 0.1 to 0.2
   bits: the mean of the unturned keys, turned to each token's position, is taken off before coding;
   the mean of turned keys cannot do that. Token i of a cache then counts as position i; where that
   is not so, nothing is wrong but the gain. Call before that layer's first add, or never. */
typedef enum skv_rope { SKV_ROPE_ADJACENT = 1, SKV_ROPE_HALVES = 2 } skv_rope;
SKVDEF skv_result skv_profiler_rope(skv_profiler *p, uint32_t layer, skv_rope style,
                                    const float *freqs, size_t n_pairs);

/* One passage: Q, K, V of the same n_tokens consecutive tokens from position 0, one layer. */
SKVDEF skv_result skv_profiler_add(skv_profiler *p, uint32_t layer, const skv_span *q,
                                   const skv_span *k, const skv_span *v, size_t n_tokens);

/* What a unit of squared error in the layer's attention output costs, for K and for V errors;
   default 1. For pre-norm models: 1 / mean squared norm of the residual stream after the layer. */
SKVDEF skv_result skv_profiler_price(skv_profiler *p, uint32_t layer, double price_k,
                                     double price_v);

/* Adds the sums of another profiler of the same model, sinks, window, W_O and RoPE, whose head
   groups are whole groups of p side by side (equal, a multiple, or all heads): else ERR_MODEL or
   ERR_SHAPE. p's prices stay. */
SKVDEF skv_result skv_profiler_merge(skv_profiler *p, const skv_profiler *other);

/* A new profiler with p's settings, prices and sums, but smaller head groups (as for merge, else
   ERR_SHAPE), so that one calibration with joint heads serves every size. From p's allocator, else
   malloc. */
SKVDEF skv_result skv_profiler_narrow(const skv_profiler *p, uint32_t head_group,
                                      skv_profiler **out);

/* The sums of one layer as they are, to bring them over from another process, or from a GPU
   (skv_cuda_profile). Doubles, in this order; Grams have their upper triangle, zeros below:
     n_tokens, n_queries;
     per head group of K: sum of x [D], Gram [D][D], sum of x wave^T [D][2 pairs];
     per head group of V: sum of x [D], Gram [D][D];
     sum of wave [2 pairs], of wave wave^T [2 pairs][2 pairs];
     query Gram [n_kv_heads][head_dim][head_dim], the same of output-aware weights;
     mass [n_q_heads]: sum of p_ij^2 over what will be read from pages
   with wave = cos(t freqs), sin(t freqs). sums NULL asks for *n. */
SKVDEF skv_result skv_profiler_sums(const skv_profiler *p, uint32_t layer, double *sums,
                                    size_t capacity, size_t *n);
/* Adds them to p's own: of a profiler with the same head groups, sinks, window, W_O and RoPE. All
   or nothing: ERR_SHAPE where n is not p's, ERR_NOT_FINITE, ERR_ARG for counts that are none. */
SKVDEF skv_result skv_profiler_add_sums(skv_profiler *p, uint32_t layer, const double *sums,
                                        size_t n);

/* All that it takes to make such sums, as one block: see >>tables. */
#define SKV_PROFILER_MAGIC 0x50564B53u  /* "SKVP" on little endian machines */
typedef struct skv_profiler_table {
    uint32_t  magic, bytes, layer, n_groups, head_group;    /* bytes of the whole block */
    uint32_t  sinks, window, max_passage, max_queries;
    skv_layer shape;                /* nothing is 0 for a default */
    uint32_t  style, pairs;         /* skv_rope, or 0 and 0 */
    uint32_t  freqs;                /* float [pairs] */
    uint32_t  output;               /* float [n_q_heads][head_dim_v][head_dim_v]: W_O,h^T W_O,h */
    uint32_t  n_sums;               /* of skv_profiler_sums */
} skv_profiler_table;

/* As skv_codec_tables, after skv_profiler_output and skv_profiler_rope. */
SKVDEF skv_result skv_profiler_tables(const skv_profiler *p, uint32_t layer, void *buf,
                                      size_t capacity, size_t *bytes);

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

/* The transform of one head group, owned by the profile. x is the group's heads side by side, n
   numbers: latent z_c = sqrt(variance[c]) sum_i encode[c n + i] (x_i - mean[i]), in which squared
   error is expected output error; x_i = mean[i] + sum_c z_c decode[c n + i] / sqrt(variance[c]).
   Keys of a layer with RoPE: x is what is left when the turned mean (skv_profiler_rope) is off,
   which no difference of two rows of one token has to know. */
typedef struct skv_transform {
    size_t       n;
    const float *mean, *variance;   /* [n] */
    const float *encode, *decode;   /* [n][n] */
} skv_transform;
SKVDEF skv_result skv_profile_transform(const skv_profile *p, uint32_t layer, skv_kind kind,
                                        uint32_t group, skv_transform *out);

/* For caches with latent_out: a layer's output projection W_O, as for skv_profiler_output
   [n_out][n_q_heads][head_dim_v], folded with the way back from the latent of V:
     W_O o = folded z + bias,   o as skv_attend gives it without latent_out, z with it.
   folded is dense, [n_out][n_q_heads][head_dim_v] (w_o's own memory will do, where that is dense
   f32); bias is [n_out], of V's mean: W_O's own comes on top. z_c = sqrt(variance[c] / variance[0])
   times the whitened latent (skv_transform), so columns are of about one length, as quantisers like
   them. Head groups of one only, else ERR_SHAPE: a joint latent would multiply the columns. Costs
   n_out n_q_heads head_dim_v^2 multiplications. */
SKVDEF skv_result skv_profile_fold(const skv_profile *p, uint32_t layer, const skv_span *w_o,
                                   size_t n_out, float *folded, float *bias);

/* What a target would give, before anything is compressed. Every layer counts alike; a cache shifts
   bits to sliding layers, which hold fewer of its max_tokens. */
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

/* The head group, of the sizes that p can be narrowed to, whose profile costs least at `target`:
   bits per element at equal error (an error half as large is worth half a bit) plus `price` bits
   for each KV head of a group, since a query head meets the channels of all of them. Price 0 takes
   the fewest bits. Every size is fitted once. Errors: those of fit. */
SKVDEF skv_result skv_profiler_choose_group(const skv_profiler *p, const skv_target *target,
                                            double price, uint32_t *head_group);
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

/* K and V of n <= 64 consecutive tokens, the first at position `first` (see skv_profiler_rope;
   below 2^32), become one page; *bytes tells its size. All head groups of the layer are in it:
   random access to a token, a channel or a group needs no other page.
     page    = u8 format (3), u8 n_tokens, u16 n_rows, u32 bytes, u32 position of the first token,
               sub[0..2*n_groups), row[0..n_rows)
     sub     = u16 bf16 largest and u16 bf16 root mean squared residual norm |z - z^|, rounded up;
               u8 gain; then a nibble per coded channel, low one first; then per quad of channels
               16 h bytes of codes, see >>quant. Subs: K of every group, then V.
     row     = u8 sub number % 256, u8 token + 64 (sub number / 256), f16 whitened latent per
               channel: an outlier token, which overrides its codes
   All integers little endian. Half bits h per channel: the plan. Element = level * unit(h) * scale
   * sd(channel), scale = 2^((gain + nibble) / 4 - 32). A page by itself has no budget for outliers,
   at most 8 per sub: a cache keeps to target.bpe, pages do on average. */
SKVDEF skv_result skv_encode(skv_codec *c, uint32_t layer, const skv_span *k, const skv_span *v,
                             size_t n, size_t first, void *page, size_t capacity, size_t *bytes);

/* Back to dense float rows, k [n][n_kv_heads][head_dim], v [n][n_kv_heads][head_dim_v]; either may
   be NULL. *n tells the tokens. The page is checked against the plan. */
SKVDEF skv_result skv_decode(skv_codec *c, uint32_t layer, const void *page, size_t bytes,
                             float *k, float *v, size_t *n);

/* >>tables ------------------------------------------------------------------------------------
   All that a reader or writer of one layer's pages needs, as one block of bytes without a pointer,
   in this machine's byte order: for a GPU (spectral_kv_cuda.cuh), an NPU, another language. An
   skv_table, then what its members point at, in bytes from the block's start, all at multiples of
   16. skv_encode says how pages are laid out; >>quant has the meaning of codes. */
#define SKV_TABLE_MAGIC 0x54564B53u     /* "SKVT" on little endian machines */
#define SKV_TABLE_MODES 13u

typedef struct skv_table_stream {   /* K or V of one head group */
    uint32_t heads, dim, n;         /* n = heads * dim channels */
    uint32_t offset, bytes;         /* of its sub in a page */
    uint32_t coded;                 /* channels with codes, whole quads: may be above n */
    uint32_t allowance;             /* bytes that outlier rows may take, a page's mean */
    float    lambda;                /* squared error that a bit is worth */
    uint32_t mean, variance;        /* float [n] */
    uint32_t turn;                  /* float [n] mean of the unturned keys; 0: none */
    uint32_t encode, decode;        /* float [n][n]: u = encode (x - mean); row c = channel c */
    uint32_t quads;                 /* uint32_t [coded / 4]: 16 * (bytes before the quad's codes in
                                       the sub) + mode */
} skv_table_stream;

typedef struct skv_table_mode {     /* codes of one width, see >>quant and >>search */
    uint32_t half, bits;            /* half bits of a code; bits of a level */
    float    unit, distortion;
    uint32_t fine, twice;
    int8_t   part[2][2][16];        /* of even and odd steps: A, B */
} skv_table_mode;

typedef struct skv_table {
    uint32_t  magic, page_format, bytes;    /* bytes of the whole block */
    uint32_t  layer, n_groups, head_group;
    skv_layer shape;                /* as the profile has it: nothing is 0 for a default */
    uint32_t  least, most;          /* bytes of a page without, and with all outlier rows */
    uint32_t  style, pairs;         /* skv_rope, or 0 and 0 */
    uint32_t  turns;                /* uint64_t [pairs]: turns per half token, 2^64 each */
    uint32_t  waves;                /* float [pairs][32][2]: cos, sin of (i + 1/2) freqs[p] */
    uint32_t  stream;               /* skv_table_stream [2 n_groups]: K of every group, then V */
    skv_table_mode mode[SKV_TABLE_MODES];
} skv_table;

/* Writes the block into buf (capacity bytes at a multiple of 16) and its size into *bytes; buf
   NULL asks for the size. Tables of a codec and of a cache differ where their targets do. */
SKVDEF skv_result skv_codec_tables(const skv_codec *c, uint32_t layer, void *buf, size_t capacity,
                                   size_t *bytes);

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
    uint32_t           attend_bits; /* of queries and weights where they meet channels of up to 5
                                       bits: 8 (default, 0) or 14, slower; all others have 14 */
    uint32_t           latent_out;  /* 1: skv_attend and skv_prefill give outputs in the latent of
                                       V, for a W_O of skv_profile_fold; 0: as the model has them */
    float              outliers;    /* as in skv_codec_desc */
    skv_allocator      allocator;
    skv_parallel       parallel;
    void              *memory;      /* optional: the cache and all its pages live here */
    size_t             memory_bytes;
} skv_cache_desc;

/* latent_out wants a profile (else ERR_ARG) with head groups of one (else ERR_SHAPE; see
   skv_profiler_narrow). Exact values are then kept as latents, by skv_append, which refuses
   (ERR_RANGE) what f16 may not hold there: a product of head_dim_v^2 a token and KV head, in place
   of one a step and query head. So it pays in decode, where query heads share KV heads and contexts
   are short; a prompt's append takes a tenth longer. skv_reconstruct and skv_report give the
   model's coordinates all the same. */

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

/* As skv_codec_tables, for the pages of this cache; ERR_STATE where it has no profile. */
SKVDEF skv_result skv_cache_tables(const skv_cache *c, uint32_t layer, void *buf, size_t capacity,
                                   size_t *bytes);

/* Page i of a layer, tokens sinks + 64 i and on, as skv_encode describes it: *page is the cache's,
   until it drops or forgets it. ERR_ARG where there is no such page (yet), ERR_STATE where a
   sliding layer has dropped it. */
SKVDEF skv_result skv_cache_page(const skv_cache *c, uint32_t layer, size_t i, const void **page,
                                 size_t *bytes);

/* >>attend ------------------------------------------------------------------------------------ */
/* Outputs of skv_attend besides the rows, and one input. Zero it before; lse may stay NULL.

   Sparse values: with a tolerance above 0, a page in which no query row has more than a small share
   of its probability is not read for its values: there they count as the profile's mean of V. These
   shares are known exactly (all scores are computed, lse and page_mass are as without it) and sum
   to at most `tolerance` for any row, so its output moves by at most skipped times the largest
   |v - mean| of the head's tokens. The bits depend on neither threads nor earlier calls; with
   tolerance 0 they are those of a call without it. */
typedef struct skv_attn {
    float   *lse;                   /* out [n][n_q_heads]: log of the sum of exp(score) */
    float    score_bound;           /* no score of a token in a page is off by more (before soft
                                       cap; against the key as the window held it, so rounding to
                                       f16 and of floats apart): see >>scores */
    float    page_mass;             /* largest share of probability that was read from pages */
    uint32_t tokens_exact, tokens_paged;    /* held by the layer */
    float    tolerance;             /* in: 0 to 1; 0 reads all values */
    float    skipped;               /* largest share of probability whose values were not read */
    uint32_t pages_met, pages_read; /* pages times tiles (a head group's rows, up to 64) that had
                                       their scores computed; that had their values read too */
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

/* >>report ------------------------------------------------------------------------------------
   Is this profile safe on this model? Captured or live Q, K, V of a layer go through a cache as in
   generation; beside it runs exact attention in double. On data other than the calibration's this
   tells before anything is shipped. */
typedef enum skv_verdict { SKV_SAFE = 0, SKV_DOUBTFUL = 1, SKV_UNSAFE = 2 } skv_verdict;
SKVDEF const char *skv_verdict_name(skv_verdict v);     /* "safe", "doubtful", "unsafe" */

/* Thresholds: mean KL of the attention weights in nats, and root mean squared error of the output
   against its own root mean square. Safe: at most the first two. Unsafe: above one of the last two.
   Means over the 30 layers of SmolLM2-135M, a scripture passage, and what the next token then lost:
       attention KL  0.005  0.012  0.027  0.052  0.078
       output error  0.018  0.034  0.064  0.113  0.154
       next token KL 0.005  0.015  0.041  0.167  0.251
   One layer's verdict says less: a plan with prices starves a layer that the model can spare. */
#define SKV_SAFE_KL       0.02
#define SKV_SAFE_OUTPUT   0.06
#define SKV_UNSAFE_KL     0.06
#define SKV_UNSAFE_OUTPUT 0.12

/* One query head over the queries, or a layer: means over its heads, their largest maxima, and
   expected and measured summed over its head groups. o is attention's output, p its weights. */
typedef struct skv_head_report {
    double score_rms, score_max;    /* of score - score^, tokens in pages, before soft cap */
    double score_bound;             /* largest certified bound of its head group's queries; above
                                       score_max but for rounding of exact K to f16 */
    double page_mass, page_mass_max;        /* share of p on tokens in pages: mean, largest */
    double kl_mean, kl_max;         /* KL(p | p^) in nats */
    double output_rms;              /* root of mean |o - o^|^2 / mean |o|^2 */
    double output_mean, output_max; /* |o - o^| / |o| of a query */
    double output_square;           /* mean |o - o^|^2; a layer's is the sum over its heads. On
                                       calibration data, without W_O and prices, about the sum of
                                       expected */
    double expected[2], measured[2];        /* squared error of a latent in pages, K and V, of its
                                       head group, in the profile's units (error of skv_outlook): as
                                       planned; as found here. Far above 1 to 1: calibrate on data
                                       like this */
    skv_verdict verdict;
} skv_head_report;

typedef struct skv_layer_report {
    skv_head_report all;
    uint32_t layer, n_heads, n_queries;
    uint32_t worst_head;            /* largest of kl_mean / SKV_SAFE_KL, output_rms / its own */
    size_t   tokens, tokens_paged;  /* held by the layer after the last token */
    size_t   page_bytes, page_elements;
    double   bpe_pages;             /* 8 page_bytes / page_elements */
} skv_layer_report;

typedef struct skv_report_desc {
    const skv_profile *profile;     /* these seven as in skv_cache_desc */
    skv_target         target;
    uint32_t           sinks, window, exact_bits, attend_bits;
    float              outliers;
    skv_cache         *cache;       /* or in place of them a cache with its own settings, which
                                       loses all its tokens, before and after */
    uint32_t           max_queries; /* evenly spread, the last token's among them; 0 = 64 */
    skv_allocator      allocator;
    skv_parallel       parallel;
} skv_report_desc;

/* Q, K, V of the same n_tokens consecutive tokens from position 0, as for skv_profiler_add. Needs
   more than sinks + window + 64 tokens, else nothing gets into a page: ERR_STATE. heads is NULL or
   room for n_q_heads of the layer. On an error nothing is written. Cost: per query one skv_attend,
   one skv_scores and an exact attention in double. */
SKVDEF skv_result skv_report(const skv_report_desc *desc, uint32_t layer, const skv_span *q,
                             const skv_span *k, const skv_span *v, size_t n_tokens,
                             skv_layer_report *out, skv_head_report *heads);

/* Of a model: the thresholds on the means over its layers' reports. Unsafe when n_layers is 0. */
SKVDEF skv_verdict skv_report_verdict(const skv_layer_report *layers, size_t n_layers);
#ifndef SKV_NO_STDIO
/* A page of text: a line for each layer, the verdict; as skv_profile_summary. */
SKVDEF skv_result skv_report_text(const skv_layer_report *layers, size_t n_layers, char *text,
                                  size_t capacity, size_t *bytes);
#endif

/* >>classic -----------------------------------------------------------------------------------
   Codecs that others published, as published, to compare with or to stay compatible with: one row
   of floats becomes bytes. No profile, no state, no allocation; matrices are the caller's. Rows
   must be finite, up to 1e9. Layouts are the same everywhere: integers little endian, f16, codes as
   one bit stream from the low bits of the first byte. Encoded again under another compiler, a value
   on the border of two levels may fall to the other. */

/* A random orthogonal matrix [dim][dim], uniformly distributed, for dim 1 to SKV_MAX_HEAD_DIM:
   Householder reflections of normal vectors (Stewart 1980). And a matrix [dim][dim] of independent
   unit normals. Both from integers made of the seed; the same numbers everywhere, up to the last
   bits of libm's log and sqrt. */
SKVDEF skv_result skv_turbo_rotation(uint64_t seed, size_t dim, float *rotation);
SKVDEF skv_result skv_turbo_sketch(uint64_t seed, size_t dim, float *sketch);

/* TurboQuant (arXiv 2504.19874). With R the rotation and c the Lloyd-Max levels of a unit normal,
   the limit of the paper's codebooks for large dim:
     MSE       x^ = |x| / sqrt(dim) R^T c(sqrt(dim) R x / |x|); error 0.363, 0.117, 0.0345, 0.0095
               |x|^2 at 1 to 4 bits. row = f16 |x|, dim codes of `bits`.
     PRODUCT   MSE with bits - 1, then the residual r = x - x^ as QJL (arXiv 2406.03482):
               x~ = x^ + sqrt(pi/2) / dim |r| S^T sign(S r), S the sketch. q.x~ is q.x on average
               over S. row = f16 |x|, f16 |r|, dim codes of bits - 1, dim signs (1 = not negative).
     RESIDUAL  after SpectralQuant's error = min(|x - x_turbo|, |x - x_spectral|): x_turbo is MSE,
               x_spectral the first `rank` coordinates in the basis in f16 and the rest as MSE; the
               better of the two. (Its text leaves the residual's format open: this is a reading.)
               row = f16 norm with the sign bit set for spectral, rank f16, dim codes. */
typedef enum skv_turbo_form {
    SKV_TURBO_MSE = 0, SKV_TURBO_PRODUCT = 1, SKV_TURBO_RESIDUAL = 2
} skv_turbo_form;

typedef struct skv_turbo {
    skv_turbo_form form;
    uint32_t       dim;             /* 1 to SKV_MAX_HEAD_DIM */
    uint32_t       bits;            /* per coordinate, 1 to 8; norms come on top */
    uint32_t       rank;            /* RESIDUAL: 1 to dim */
    const float   *rotation;        /* [dim][dim], orthogonal */
    const float   *sketch;          /* PRODUCT: [dim][dim] */
    const float   *basis;           /* RESIDUAL: [rank][dim], orthonormal rows */
} skv_turbo;

SKVDEF size_t     skv_turbo_bytes(const skv_turbo *t);          /* of a row; 0: t is not valid */
SKVDEF skv_result skv_turbo_encode(const skv_turbo *t, const float *x, void *row);
SKVDEF skv_result skv_turbo_decode(const skv_turbo *t, const void *row, float *x);
/* q.x from the codes alone: once per query turned = [R q | S q or basis q], room for 2 dim floats,
   then dim multiplications a row (two dim for PRODUCT). */
SKVDEF skv_result skv_turbo_query(const skv_turbo *t, const float *q, float *turned);
SKVDEF skv_result skv_turbo_dot(const skv_turbo *t, const void *row, const float *turned,
                                float *dot);

/* JarvisKV of the package spectral-kv 1.0.0: y = R B x with B the first right singular vectors of
   centred keys; mu and s = 3 sigma of y's coordinates (n - 1 in the variance), in f16; with
   step = 6 / 2^bits as published, code = floor((clip((y - mu) / s, -1, 1) + 1) / step),
   y' = mu + s ((code + 1/2) step - 1), and a bit a coordinate for y > y':
   y^ = y' + step / 2 or y' - step / 2; x^ = B^T R^T y^. Published as it is: the step is that of
   [-3, 3] on a range of [-1, 1], so a third of the codes is used, and the correction ignores s.
   row = f16 s, f16 mu, rank codes, rank signs (1 = y > y'). */
typedef struct skv_jarvis {
    uint32_t     dim;               /* 2 to SKV_MAX_HEAD_DIM */
    uint32_t     rank;              /* 2 to dim */
    uint32_t     bits;              /* 1 to 8 */
    const float *basis;             /* [rank][dim], orthonormal rows; NULL: x is the latent row */
    const float *rotation;          /* [rank][rank], orthogonal */
} skv_jarvis;

SKVDEF size_t     skv_jarvis_bytes(const skv_jarvis *j);        /* of a row; 0: j is not valid */
SKVDEF skv_result skv_jarvis_encode(const skv_jarvis *j, const float *x, void *row);
SKVDEF skv_result skv_jarvis_decode(const skv_jarvis *j, const void *row, float *x);
/* Scores in the latent space: turned = R B q, [rank], then rank multiplications a row. */
SKVDEF skv_result skv_jarvis_query(const skv_jarvis *j, const float *q, float *turned);
SKVDEF skv_result skv_jarvis_dot(const skv_jarvis *j, const void *row, const float *turned,
                                 float *dot);

/* SVDq (arXiv 2502.15304): latent channels in order of falling singular value, in 8 groups of the
   same size, each with its bits. word names a schedule by its mean, "2.25" (8,4,4,2,0,0,0,0), "2"
   (8,4,2,1,1,0,0,0), "1.25" (4,4,2,0,0,0,0,0), or spells one in 8 digits, "84420000".
   skv_svdq_bits: bits of channel i of n are schedule[8 i / n]. */
SKVDEF skv_result skv_svdq_schedule(const char *word, uint8_t schedule[8]);
SKVDEF skv_result skv_svdq_bits(const uint8_t schedule[8], size_t n, uint8_t *bits);

/* >>cold --------------------------------------------------------------------------------------
   Pages for storage and transfer, a third to a half smaller than hot pages at the same quality, and
   not attended as they lie. Keys are turned back to position 0 (pre-RoPE, where they compact best),
   and K and V are predicted from what is already coded of the same tokens: V from K, both from the
   `depth` layers before. What is left goes through a KLT in the metric of output error, one uniform
   step for all channels of the model (the water level), and an adaptive range coder. Calibrate with
   skv_chain beside a profiler that has seen the same passages; code with skv_cold. Layers of a page
   go in order, 0 first, since each is read with the ones before; and keys can be put back at other
   positions than they had. */

typedef struct skv_chain skv_chain;                 /* sums of calibration passages */
typedef struct skv_cold_profile skv_cold_profile;   /* what the coder needs; immutable */
typedef struct skv_cold skv_cold;                   /* the coder of one page at a time */

typedef struct skv_chain_desc {
    const skv_profiler *profiler;   /* for model, RoPE (skv_profiler_rope comes first), head group,
                                       sinks, longest passage, allocator */
    uint32_t            depth;      /* layers to predict from; 0 = 1, SKV_NONE = 0; at most 4 */
} skv_chain_desc;

SKVDEF skv_result skv_chain_init(skv_chain **out, const skv_chain_desc *desc);
SKVDEF void       skv_chain_free(skv_chain *c);
/* A passage as in skv_profiler_add, from position 0; per passage layer 0 first, then in order. */
SKVDEF skv_result skv_chain_add(skv_chain *c, uint32_t layer, const skv_span *k, const skv_span *v,
                                size_t n_tokens);
/* p: a profiler of the same description, with its weights and prices. The same needs as
   skv_profiler_fit. */
SKVDEF skv_result skv_chain_fit(const skv_chain *c, const skv_profiler *p, skv_cold_profile **out);

SKVDEF void       skv_cold_profile_free(skv_cold_profile *p);
/* As skv_profile_save and _load. expect and allocator may be NULL. */
SKVDEF skv_result skv_cold_profile_save(const skv_cold_profile *p, void *buf, size_t capacity,
                                        size_t *bytes);
SKVDEF skv_result skv_cold_profile_load(skv_cold_profile **out, const void *data, size_t bytes,
                                        const skv_model *expect, const skv_allocator *allocator);

/* All that a decoder of one layer's cold pages needs, as one block: see >>tables. A skv_cold_table,
   then what its members point at, in bytes from the block's start. Rows are held as floats, K heads
   before RoPE, then V heads, without their means; of `depth` layers before they are what x is
   predicted from, layer - 1 first, K and V of the same head group side by side. */
#define SKV_COLD_MAGIC 0x43564B53u      /* "SKVC" on little endian machines */

typedef struct skv_cold_table_stream {  /* K or V of one head group */
    uint32_t heads, dim, n;         /* n = heads * dim */
    uint32_t at;                    /* where it lies in a held row */
    uint32_t refs;                  /* numbers to predict from: V: own K; then layers before */
    uint32_t mean;                  /* float [n] */
    uint32_t decode, predict;       /* float [n][n], row c = channel c; [refs][n]: x = mean +
                                       refs predict + z decode */
    uint32_t level;                 /* int32_t [n] 64 log2 of the sd of z, falling */
} skv_cold_table_stream;

typedef struct skv_cold_table {
    uint32_t  magic, page_version, bytes;   /* bytes of the whole block */
    uint32_t  layer, n_groups, head_group, depth, crc;      /* crc: the profile's */
    skv_layer shape, before[4];     /* before: of layers layer - 1 - i, as far as depth goes */
    uint32_t  width;                /* numbers in a held row of the model's widest layer */
    uint32_t  style, pairs, turns;  /* as in skv_table */
    uint32_t  stream;               /* skv_cold_table_stream [2 n_groups]: K of every group, V */
    uint32_t  mean[56];             /* average magnitudes to start from, and ... */
    uint8_t   start[52][4];         /* ... probabilities: see skvi_cold_table */
} skv_cold_table;

/* As skv_codec_tables. */
SKVDEF skv_result skv_cold_tables(const skv_cold_profile *p, uint32_t layer, void *buf,
                                  size_t capacity, size_t *bytes);

typedef struct skv_cold_desc {
    const skv_cold_profile *profile;        /* borrowed */
    float                   bpe;            /* bits per element to expect, above 0, at most 12 */
    skv_allocator           allocator;
} skv_cold_desc;

SKVDEF skv_result skv_cold_init(skv_cold **out, const skv_cold_desc *desc);
SKVDEF void       skv_cold_free(skv_cold *c);
SKVDEF double     skv_cold_step(const skv_cold *c);         /* the water level, as a step of z */
SKVDEF size_t     skv_cold_page_most(const skv_cold *c);    /* no page takes more bytes */

/* n <= 64 tokens at positions position .. of one layer become a page:
     page = "C", u8 version (1), u8 n_tokens, u8 0, u16 layer, u16 step + 32768 (in 64ths of an
            octave), u32 position, u32 bytes, u32 CRC-32 of bytes 0..15 and 20.. , xor the
            profile's checksum, xor that of the page of the layer before; then the range coder's
   All integers little endian. Layers in order: of layer l, pages of the same tokens of the layers
   before (depth of them) must have been encoded or decoded just before with the same object: else
   ERR_STATE. Rates are met on average over texts like the calibration. ERR_RANGE: a row is beyond
   32767 steps; keep such tokens exact. */
SKVDEF skv_result skv_cold_encode(skv_cold *c, uint32_t layer, uint32_t position, const skv_span *k,
                                  const skv_span *v, size_t n, void *page, size_t capacity,
                                  size_t *bytes);
/* Back to rows as skv_decode gives them. Keys are turned to `position` on; SKV_NONE = where they
   were. k and v may be NULL. */
SKVDEF skv_result skv_cold_decode(skv_cold *c, uint32_t layer, uint32_t position, const void *page,
                                  size_t bytes, float *k, float *v, size_t *n);
/* The rows that a decoder gets, after encode or decode of this layer. */
SKVDEF skv_result skv_cold_rows(skv_cold *c, uint32_t layer, uint32_t position, float *k, float *v);

/* >>isa ---------------------------------------------------------------------------------------
   Kernel sets: inner loops for an instruction set, all with the bits of the portable ones. The best
   one that is compiled in, that this processor (and its operating system) has and that SKV_ISA_MASK
   leaves is picked when a cache, codec or fit begins; without any, portable C. x86-64 is asked at
   run time; elsewhere the compiler's target decides. */
#define SKV_ISA_AVX2   1u           /* with F16C: Haswell, Zen and later */
#define SKV_ISA_AVX512 2u           /* with BW, DQ, VL, VBMI, VNNI: Ice Lake, Zen 4 and later;
                                       only where AVX2 may be used too */
#define SKV_ISA_NEON   4u
#define SKV_ISA_WASM   8u           /* WebAssembly's 128 bits */
#define SKV_ISA_SSE41  16u          /* x86-64 since 2008, where AVX2 is not; the fit's loops, of
                                       doubles, stay portable */
#define SKV_ISA_ALL    0xFFFFFFFFu

SKVDEF uint32_t    skv_isa(void);       /* sets that may be picked now, SKV_ISA_*; 0: none */
SKVDEF const char *skv_isa_name(void);  /* the best of them: "avx512", "avx2", "sse4.1", "neon",
                                           "wasm", else "portable" */

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

/* A zeroed block for what the arena has measured; the arena starts over, on it. */
static skv_result skvi_arena_block(skvi_arena *a, const skv_allocator *alloc, void **block,
                                   size_t *bytes)
{
    if (a->overflow || a->used > (size_t)-1 / 4) return SKV_ERR_MEMORY;
    *bytes = a->used + SKVI_ALIGN;
    *block = alloc->alloc(alloc->user, *bytes);
    if (!*block) return SKV_ERR_MEMORY;
    memset(*block, 0, *bytes);
    a->base = skvi_align_up(*block);
    a->used = 0;
    return SKV_OK;
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

/* KV heads of group g: head_group, fewer in the last one. */
static uint32_t skvi_group_heads(const skv_layer *l, uint32_t head_group, uint32_t g)
{
    uint32_t left = l->n_kv_heads - g * head_group;
    return left < head_group ? left : head_group;
}

/* 0 = the default, SKV_NONE = zero. */
static uint32_t skvi_or(uint32_t value, uint32_t fallback)
{
    return value == 0 ? fallback : value == SKV_NONE ? 0 : value;
}

/* >>kernels -----------------------------------------------------------------------------------
   The leaf functions that an instruction set may replace; everything else calls through this table.
   Sums run in a fixed order, the same in every table, so all tables give the same bits, unless the
   compiler fuses multiply and add: gcc does so with -mfma or on aarch64, in C++ and in its own
   dialects (-std=gnu..). */
#ifdef __clang__
#define SKVI_UNFUSED _Pragma("STDC FP_CONTRACT OFF")    /* first in a function */
#else
#define SKVI_UNFUSED
#endif
#ifndef SKVI_RESTRICT
#if defined(_MSC_VER) || defined(__cplusplus)
#define SKVI_RESTRICT __restrict
#else
#define SKVI_RESTRICT restrict
#endif
#endif

#if defined(__GNUC__) && !defined(__CUDACC__)
#define SKVI_PREFETCH(p) __builtin_prefetch(p)
#endif

/* gcc -O2 vectorises short constant loops only, clang long ones only; both are happy with this. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#define SKVI_LA_UNROLL _Pragma("GCC unroll 8")
#define SKVI_UNROLL_16 _Pragma("GCC unroll 16")
#define SKVI_UNROLL_4 _Pragma("GCC unroll 4")
enum { SKVI_LA_STEP = 8 };
#else
#define SKVI_LA_UNROLL
#define SKVI_UNROLL_4
#ifdef __clang__
#define SKVI_UNROLL_16 _Pragma("clang loop unroll(full)")
#else
#define SKVI_UNROLL_16
#endif
enum { SKVI_LA_STEP = 1 };
#endif

#if defined(__GNUC__) && defined(__x86_64__) && !defined(__CUDACC__) && !defined(SKV_NO_SIMD)
#define SKVI_LA_AVX2 1
#include <immintrin.h>
#ifndef SKVI_LA_HAS_AVX2
#define SKVI_LA_HAS_AVX2() (__builtin_cpu_supports("avx2") && skvi_has_f16c())
#endif

/* F16C, on a processor with AVX2 and a system that keeps its registers; emulators may lack it. */
static int skvi_has_f16c(void)
{
#if defined(__clang__) || __GNUC__ < 11         /* their __builtin_cpu_supports does not know it */
    uint32_t a = 1, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (int)(c >> 29 & 1u);
#else
    return __builtin_cpu_supports("f16c") != 0;
#endif
}
#endif

#ifdef SKVI_LA_AVX2
#define SKVI_LA_SSE41 1
#define SKVI_LA_128 1
#define SKVI_TARGET_128 __attribute__((target("sse4.1")))
#ifndef SKVI_LA_HAS_SSE41
#define SKVI_LA_HAS_SSE41() (__builtin_cpu_supports("sse4.1") != 0)
#endif
#elif defined(__GNUC__) && defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && \
    !defined(__CUDACC__) && !defined(SKV_NO_SIMD)
#define SKVI_LA_NEON 1
#define SKVI_LA_128 1
#include <arm_neon.h>
#elif defined(__wasm_simd128__) && !defined(SKV_NO_SIMD)
#define SKVI_LA_WASM 1
#define SKVI_LA_128 1
#include <wasm_simd128.h>
#endif

#ifdef SKVI_LA_128
/* Vectors of 16 bytes, at any address: one set of kernels for SSE4.1, NEON and WebAssembly.
   Operators do the arithmetic (gcc and clang vector types); what they lack has one name for all
   here. x86 has the set by attribute, the others by the compiler's target. */
#ifndef SKVI_TARGET_128
#define SKVI_TARGET_128
#endif
#define SKVI_INLINE_128 SKVI_TARGET_128 __attribute__((always_inline))
#define SKVI_VECTOR __attribute__((vector_size(16), aligned(1), may_alias))
typedef float          skvi_f32x4 SKVI_VECTOR;
typedef double         skvi_f64x2 SKVI_VECTOR;
typedef int32_t        skvi_i32x4 SKVI_VECTOR;
typedef uint32_t       skvi_u32x4 SKVI_VECTOR;
typedef int64_t        skvi_i64x2 SKVI_VECTOR;
typedef int16_t        skvi_i16x8 SKVI_VECTOR;
typedef uint16_t       skvi_u16x8 SKVI_VECTOR;
typedef unsigned char  skvi_u8x16 SKVI_VECTOR;
#define SKVI_LOAD(type, p) (*(const type *)(const void *)(p))
#define SKVI_STORE(type, p, x) (*(type *)(void *)(p) = (type)(x))
#ifdef SKVI_LA_NEON
#define SKVI_SPLAT_F32(x)     ((skvi_f32x4)vdupq_n_f32(x))
#define SKVI_SPLAT_32(x)      ((skvi_u32x4)vdupq_n_u32(x))
#define SKVI_SPLAT_16(x)      ((skvi_u16x8)vdupq_n_u16((uint16_t)(x)))
#define SKVI_SPLAT_8(x)       ((skvi_u8x16)vdupq_n_u8((uint8_t)(x)))
#define SKVI_SPLAT_I64(x)     ((skvi_i64x2)vdupq_n_s64(x))
#define SKVI_LOOKUP(table, i) ((skvi_u8x16)vqtbl1q_u8((uint8x16_t)(table), (uint8x16_t)(i)))
#define SKVI_MAX_F32(x, y)    ((skvi_f32x4)vmaxq_f32((float32x4_t)(x), (float32x4_t)(y)))
#define SKVI_FLOATS(x)        ((skvi_f32x4)vcvtq_f32_s32((int32x4_t)(x)))
#define SKVI_MIN_U8(x, y)     ((skvi_u8x16)vminq_u8((uint8x16_t)(x), (uint8x16_t)(y)))
#define SKVI_ADDS_U8(x, y)    ((skvi_u8x16)vqaddq_u8((uint8x16_t)(x), (uint8x16_t)(y)))
#define SKVI_SUBS_U8(x, y)    ((skvi_u8x16)vqsubq_u8((uint8x16_t)(x), (uint8x16_t)(y)))
#define SKVI_ADDS_I16(x, y)   ((skvi_i16x8)vqaddq_s16((int16x8_t)(x), (int16x8_t)(y)))
/* products / 32768, rounded; signed numbers to bytes from 0 to 255 */
#define SKVI_MULS_I16(x, y)   ((skvi_i16x8)vqrdmulhq_s16((int16x8_t)(x), (int16x8_t)(y)))
#define SKVI_CUT_BYTES(x, y) \
    ((skvi_u8x16)vcombine_u8(vqmovun_s16((int16x8_t)(x)), vqmovun_s16((int16x8_t)(y))))
/* two vectors to one of half the width, numbers that fit */
#define SKVI_SHORTS(x, y) \
    ((skvi_i16x8)vcombine_s16(vmovn_s32((int32x4_t)(x)), vmovn_s32((int32x4_t)(y))))
/* x0 + x1, x2 + x3, y0 + y1, y2 + y3 */
#define SKVI_ADD_PAIRS(x, y)  ((skvi_i32x4)vpaddq_s32((int32x4_t)(x), (int32x4_t)(y)))
/* eight signed bytes as 16-bit numbers */
#define SKVI_WIDEN(p)         ((skvi_i16x8)vmovl_s8(vld1_s8(p)))
#elif defined(SKVI_LA_SSE41)
#define SKVI_LOAD_HALF(p)     _mm_loadl_epi64((const __m128i *)(const void *)(p))
#define SKVI_SPLAT_F32(x)     ((skvi_f32x4)_mm_set1_ps(x))
#define SKVI_SPLAT_32(x)      ((skvi_u32x4)_mm_set1_epi32((int)(x)))
#define SKVI_SPLAT_16(x)      ((skvi_u16x8)_mm_set1_epi16((short)(x)))
#define SKVI_SPLAT_8(x)       ((skvi_u8x16)_mm_set1_epi8((char)(x)))
#define SKVI_SPLAT_I64(x)     ((skvi_i64x2)_mm_set1_epi64x(x))
#define SKVI_LOOKUP(table, i) ((skvi_u8x16)_mm_shuffle_epi8((__m128i)(table), (__m128i)(i)))
#define SKVI_MAX_F32(x, y)    ((skvi_f32x4)_mm_max_ps((__m128)(x), (__m128)(y)))
#define SKVI_FLOATS(x)        ((skvi_f32x4)_mm_cvtepi32_ps((__m128i)(x)))
#define SKVI_MIN_U8(x, y)     ((skvi_u8x16)_mm_min_epu8((__m128i)(x), (__m128i)(y)))
#define SKVI_ADDS_U8(x, y)    ((skvi_u8x16)_mm_adds_epu8((__m128i)(x), (__m128i)(y)))
#define SKVI_SUBS_U8(x, y)    ((skvi_u8x16)_mm_subs_epu8((__m128i)(x), (__m128i)(y)))
#define SKVI_ADDS_I16(x, y)   ((skvi_i16x8)_mm_adds_epi16((__m128i)(x), (__m128i)(y)))
#define SKVI_MULS_I16(x, y)   ((skvi_i16x8)_mm_mulhrs_epi16((__m128i)(x), (__m128i)(y)))
#define SKVI_CUT_BYTES(x, y)  ((skvi_u8x16)_mm_packus_epi16((__m128i)(x), (__m128i)(y)))
#define SKVI_SHORTS(x, y)     ((skvi_i16x8)_mm_packs_epi32((__m128i)(x), (__m128i)(y)))
#define SKVI_ADD_PAIRS(x, y)  ((skvi_i32x4)_mm_hadd_epi32((__m128i)(x), (__m128i)(y)))
#define SKVI_MADD(x, y)       ((skvi_i32x4)_mm_madd_epi16((__m128i)(x), (__m128i)(y)))
#define SKVI_WIDEN(p)         ((skvi_i16x8)_mm_cvtepi8_epi16(SKVI_LOAD_HALF(p)))
#define SKVI_WIDEN_U8(p)      ((skvi_u16x8)_mm_cvtepu8_epi16(SKVI_LOAD_HALF(p)))
#define SKVI_WIDEN_U16(p)     ((skvi_u32x4)_mm_cvtepu16_epi32(SKVI_LOAD_HALF(p)))
#else
#define SKVI_SPLAT_F32(x)     ((skvi_f32x4)wasm_f32x4_splat(x))
#define SKVI_SPLAT_32(x)      ((skvi_u32x4)wasm_i32x4_splat((int32_t)(x)))
#define SKVI_SPLAT_16(x)      ((skvi_u16x8)wasm_i16x8_splat((int16_t)(x)))
#define SKVI_SPLAT_8(x)       ((skvi_u8x16)wasm_i8x16_splat((int8_t)(x)))
#define SKVI_SPLAT_I64(x)     ((skvi_i64x2)wasm_i64x2_splat(x))
#define SKVI_LOOKUP(table, i) ((skvi_u8x16)wasm_i8x16_swizzle((v128_t)(table), (v128_t)(i)))
#define SKVI_MAX_F32(x, y)    ((skvi_f32x4)wasm_f32x4_pmax((v128_t)(x), (v128_t)(y)))
#define SKVI_FLOATS(x)        ((skvi_f32x4)wasm_f32x4_convert_i32x4((v128_t)(x)))
#define SKVI_MIN_U8(x, y)     ((skvi_u8x16)wasm_u8x16_min((v128_t)(x), (v128_t)(y)))
#define SKVI_ADDS_U8(x, y)    ((skvi_u8x16)wasm_u8x16_add_sat((v128_t)(x), (v128_t)(y)))
#define SKVI_SUBS_U8(x, y)    ((skvi_u8x16)wasm_u8x16_sub_sat((v128_t)(x), (v128_t)(y)))
#define SKVI_ADDS_I16(x, y)   ((skvi_i16x8)wasm_i16x8_add_sat((v128_t)(x), (v128_t)(y)))
#define SKVI_MULS_I16(x, y)   ((skvi_i16x8)wasm_i16x8_q15mulr_sat((v128_t)(x), (v128_t)(y)))
#define SKVI_CUT_BYTES(x, y)  ((skvi_u8x16)wasm_u8x16_narrow_i16x8((v128_t)(x), (v128_t)(y)))
#define SKVI_SHORTS(x, y)     ((skvi_i16x8)wasm_i16x8_narrow_i32x4((v128_t)(x), (v128_t)(y)))
#define SKVI_ADD_PAIRS(x, y) \
    ((skvi_i32x4)wasm_i32x4_add(wasm_i32x4_shuffle((v128_t)(x), (v128_t)(y), 0, 2, 4, 6), \
                                wasm_i32x4_shuffle((v128_t)(x), (v128_t)(y), 1, 3, 5, 7)))
/* eight products of 16 bits, each with its neighbour's */
#define SKVI_MADD(x, y)       ((skvi_i32x4)wasm_i32x4_dot_i16x8((v128_t)(x), (v128_t)(y)))
#define SKVI_WIDEN(p)         ((skvi_i16x8)wasm_i16x8_load8x8(p))
#define SKVI_WIDEN_U8(p)      ((skvi_u16x8)wasm_u16x8_load8x8(p))
#define SKVI_WIDEN_U16(p)     ((skvi_u32x4)wasm_u32x4_load16x4(p))
#endif
#endif

/* AVX-512 with byte permutes (VBMI) and dot products (VNNI). The attribute brings FMA with it, and
   gcc would fuse _mm512_mul_ps and _mm512_add_ps in its own dialects: forms with a rounding mode
   are not. Nothing else that multiplies and adds floats may be inlined under it. */
#if defined(SKVI_LA_AVX2) && (defined(__clang__) ? __clang_major__ >= 8 : __GNUC__ >= 9)
#define SKVI_LA_AVX512 1
#if defined(__cplusplus) && !defined(__clang__) && __GNUC__ < 13
#define SKVI_QUIET 1            /* gcc's own headers warn in C++: its bug 105593 */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#ifndef SKVI_AVX512
#define SKVI_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi," \
                                          "avx512vnni")))
#define SKVI_KEEP512(x) __asm__("" : "+v"(x))   /* else made anew in loops, at the busiest port */
#define SKVI_LA_HAS_AVX512() \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && \
     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && \
     __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni"))
#endif
#ifdef __clang__
typedef unsigned skvi_count_avx512;         /* of shifts: the headers differ */
#else
typedef int skvi_count_avx512;
#endif
#define SKVI_INLINE_AVX512 SKVI_AVX512 __attribute__((always_inline))
#define SKVI_LOAD512(p) _mm512_loadu_si512((const void *)(p))
#define SKVI_STORE512(p, x) _mm512_storeu_si512((void *)(p), x)
#define SKVI_UPPER(x) _mm512_extracti64x4_epi64(x, 1)
#define SKVI_UPPER_PS(x) _mm256_castsi256_ps(SKVI_UPPER(_mm512_castps_si512(x)))
enum { SKVI_NEAREST = 8 };      /* _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC */
#define SKVI_ADD512(x, y) _mm512_add_round_ps(x, y, SKVI_NEAREST)
#define SKVI_SUB512(x, y) _mm512_sub_round_ps(x, y, SKVI_NEAREST)
#define SKVI_MUL512(x, y) _mm512_mul_round_ps(x, y, SKVI_NEAREST)
#endif

#ifndef SKV_ISA_MASK
#define SKV_ISA_MASK SKV_ISA_ALL
#endif

SKVDEF uint32_t skv_isa(void)
{
    uint32_t here = 0;
#ifdef SKVI_LA_AVX2
    if (SKVI_LA_HAS_AVX2()) here |= SKV_ISA_AVX2;
#endif
#ifdef SKVI_LA_SSE41
    if (SKVI_LA_HAS_SSE41()) here |= SKV_ISA_SSE41;
#endif
#ifdef SKVI_LA_AVX512
    if ((here & SKV_ISA_AVX2) && SKVI_LA_HAS_AVX512()) here |= SKV_ISA_AVX512;
#endif
#ifdef SKVI_LA_NEON
    here |= SKV_ISA_NEON;
#endif
#ifdef SKVI_LA_WASM
    here |= SKV_ISA_WASM;
#endif
    here &= (uint32_t)(SKV_ISA_MASK);
    if (!(here & SKV_ISA_AVX2)) here &= ~SKV_ISA_AVX512;       /* which takes much from AVX2 */
    return here;
}

SKVDEF const char *skv_isa_name(void)
{
    const uint32_t isa = skv_isa();
    if (isa & SKV_ISA_AVX512) return "avx512";
    if (isa & SKV_ISA_AVX2) return "avx2";
    if (isa & SKV_ISA_SSE41) return "sse4.1";
    if (isa & SKV_ISA_NEON) return "neon";
    return isa & SKV_ISA_WASM ? "wasm" : "portable";
}

/* Calls f(rows, ...) with a constant, so that its loops over rows unroll. */
#define SKVI_BY_ROWS(f, rows, ...)                                                                \
    do {                                                                                          \
        if ((rows) == 4) f(4, __VA_ARGS__);                                                       \
        else if ((rows) == 3) f(3, __VA_ARGS__);                                                  \
        else if ((rows) == 2) f(2, __VA_ARGS__);                                                  \
        else f(1, __VA_ARGS__);                                                                   \
    } while (0)

struct skvi_trial;
struct skvi_joint;
typedef struct skvi_kernels {
    /* C[m][n] += A[m][k] B[k][n], row strides lda, ldb, ldc; C must not overlap A or B */
    void (*gemm)(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                 size_t ldb, float *c, size_t ldc);
    /* sum of a[i] b[i] */
    float (*dot)(const float *a, const float *b, size_t n);
    /* out[m][l], row stride ldo: dots of n numbers of a[m] and b[l], rows lda and ldb apart, for l
       in fours and n in sixteens; or NULL: see skvi_dots */
    void (*dots)(size_t m, size_t l, size_t n, const float *a, size_t lda, const float *b,
                 size_t ldb, float *out, size_t ldo);
    void (*from_f16)(const uint16_t *h, float *out, size_t n);
    /* codes and scales of a page to levels and factors: see >>quant */
    void (*expand)(const unsigned char *codes, uint32_t h, int kind, int bias, uint32_t n,
                   uint32_t first, signed char *levels);
    void (*steps)(const unsigned char *nibbles, uint32_t n, uint32_t gain, const float *unit,
                  float *out);
    /* attention on levels: see >>integer */
    float (*query)(const float *q, const float *step, const float *zero, uint32_t n, int wide,
                   void *out, size_t stride, float *offset);
    void (*score)(const signed char *levels, const signed char *q, uint32_t pairs, uint32_t rows,
                  int32_t *acc);
    void (*score_wide)(const signed char *levels, const int16_t *q, uint32_t pairs, uint32_t rows,
                       int32_t *acc);
    void (*value)(const signed char *levels, const unsigned char *p, uint32_t pairs, uint32_t rows,
                  int32_t *acc);
    void (*value_wide)(const signed char *levels, const int16_t *p, uint32_t pairs, uint32_t rows,
                       int32_t *acc);
    void (*add_scores)(const int32_t *acc, float unit, float offset, float *s);
    void (*add_values)(const int32_t *acc, size_t stride, const float *step, float unit, uint32_t n,
                       float *out);
    float (*top)(const float *s);
    float (*exps)(float *s, float top);
    float (*weights)(const float *s, unsigned char *p, int16_t *wide);
    int unsigned_keys;              /* score wants levels of keys from 0 on */
    /* scores of q[rows][whole] added to s[rows][64], weights w[rows][64] times values to
       out[rows][whole]; or NULL: expand, steps, query, score and add_scores do that, or value and
       add_values, with the same bits */
    void (*keys)(const struct skvi_joint *j, const float *q, float *s);
    void (*values)(const struct skvi_joint *j, const unsigned char *w, float *out);
    /* means that RoPE turns: see >>turned */
    void (*wave_step)(double *phase, uint32_t whole, float *now);
    float (*wave_coef)(const float *now, const float *still, const float *poly, uint32_t whole,
                       uint32_t fast, int16_t *coef, float *line);
    void (*wave_sum)(const int16_t *wave, const int16_t *coef, uint32_t n, uint32_t odd,
                     uint32_t rows, const float *unit, const float *line, float *s);
    /* the encoder's search, in integers: see >>search */
    void (*search)(const struct skvi_trial *t);
    void (*low)(const unsigned char *c, unsigned char *low, unsigned char *state);
} skvi_kernels;

static const skvi_kernels *skvi_pick_kernels(void);

/* c[4][16] += a[4][k] b[k][16]: sixteen lanes of four sums that stay in registers */
static void skvi_gemm_tile(const float *a, size_t lda, const float *b, size_t ldb, size_t k,
                           float *c, size_t ldc)
{
    SKVI_UNFUSED
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
    SKVI_UNFUSED
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
    SKVI_UNFUSED
    float s[16] = {0};
    size_t i, j;
    for (i = 0; i + 16 <= n; i += 16)
        for (j = 0; j < 16; j++) s[j] += a[i + j] * b[i + j];
    for (j = 0; i < n; i++, j++) s[j] += a[i] * b[i];
    for (n = 8; n > 0; n /= 2)
        for (j = 0; j < n; j++) s[j] += s[j + n];
    return s[0];
}

#ifdef SKVI_LA_AVX2
__attribute__((target("avx2")))
static float skvi_sum_avx2(__m256 x)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_shuffle_ps(a, a, 1)));
}

/* c[rows][16], rows at most 4 and a caller's constant, as skvi_gemm_tile sums; or onto c, as
   skvi_gemm_rows does. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_gemm_block_avx2(const uint32_t rows, const int onto, size_t k,
                                        const float *a, size_t lda, const float *b, size_t ldb,
                                        float *c, size_t ldc)
{
    __m256 s[4][2];
    uint32_t i;
    size_t l;
    for (i = 0; i < rows; i++) {
        s[i][0] = onto ? _mm256_loadu_ps(c + i * ldc) : _mm256_setzero_ps();
        s[i][1] = onto ? _mm256_loadu_ps(c + i * ldc + 8) : _mm256_setzero_ps();
    }
    for (l = 0; l < k; l++, b += ldb) {
        __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
        SKVI_LA_UNROLL
        for (i = 0; i < rows; i++) {
            __m256 x = _mm256_set1_ps(a[i * lda + l]);
            s[i][0] = _mm256_add_ps(s[i][0], _mm256_mul_ps(x, b0));
            s[i][1] = _mm256_add_ps(s[i][1], _mm256_mul_ps(x, b1));
        }
    }
    for (i = 0; i < rows; i++, c += ldc) {
        if (!onto) s[i][0] = _mm256_add_ps(_mm256_loadu_ps(c), s[i][0]);
        if (!onto) s[i][1] = _mm256_add_ps(_mm256_loadu_ps(c + 8), s[i][1]);
        _mm256_storeu_ps(c, s[i][0]);
        _mm256_storeu_ps(c + 8, s[i][1]);
    }
}

__attribute__((target("avx2")))
static void skvi_gemm_avx2(size_t m, size_t n, size_t k, const float *a, size_t lda,
                           const float *b, size_t ldb, float *c, size_t ldc)
{
    size_t i, j, rows = m - m % 4, wide = n - n % 16;
    for (j = 0; j < wide; j += 16) {
        for (i = 0; i < rows; i += 4)
            skvi_gemm_block_avx2(4, 0, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
        if (m % 4 == 3)
            skvi_gemm_block_avx2(3, 1, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
        else if (m % 4 == 2)
            skvi_gemm_block_avx2(2, 1, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
        else if (m % 4 == 1)
            skvi_gemm_block_avx2(1, 1, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
    if (wide < n) skvi_gemm_rows(m, n - wide, k, a, lda, b + wide, ldb, c + wide, ldc);
}

__attribute__((target("avx2")))
static float skvi_dot_avx2(const float *a, const float *b, size_t n)
{
    SKVI_UNFUSED
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    float s[16];
    size_t i, j;
    for (i = 0; i + 16 <= n; i += 16) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i));
        __m256 y = _mm256_mul_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8));
        s0 = _mm256_add_ps(s0, x);
        s1 = _mm256_add_ps(s1, y);
    }
    if (i == n) return skvi_sum_avx2(_mm256_add_ps(s0, s1));
    _mm256_storeu_ps(s, s0);
    _mm256_storeu_ps(s + 8, s1);
    for (j = 0; i < n; i++, j++) s[j] += a[i] * b[i];
    return skvi_sum_avx2(_mm256_add_ps(_mm256_loadu_ps(s), _mm256_loadu_ps(s + 8)));
}
#endif

#ifdef SKVI_LA_AVX512
/* As skvi_gemm_block_avx2; wide: 16 columns each. rows, wide and onto are constants. */
SKVI_INLINE_AVX512
static inline void skvi_gemm_block_avx512(const uint32_t rows, const uint32_t wide, const int onto,
                                          size_t k, const float *a, size_t lda, const float *b,
                                          size_t ldb, float *c, size_t ldc)
{
    __m512 s[4][4], x[4], y;
    uint32_t i, j;
    size_t l;
    SKVI_UNROLL_16
    for (i = 0; i < rows; i++)
        SKVI_UNROLL_16
        for (j = 0; j < wide; j++)
            s[i][j] = onto ? _mm512_loadu_ps(c + i * ldc + 16 * j) : _mm512_setzero_ps();
    for (l = 0; l < k; l++, b += ldb) {
        SKVI_UNROLL_16
        for (j = 0; j < wide; j++) x[j] = _mm512_loadu_ps(b + 16 * j);
        SKVI_UNROLL_16
        for (i = 0; i < rows; i++) {
            y = _mm512_set1_ps(a[i * lda + l]);
            SKVI_UNROLL_16
            for (j = 0; j < wide; j++) s[i][j] = SKVI_ADD512(s[i][j], SKVI_MUL512(y, x[j]));
        }
    }
    SKVI_UNROLL_16
    for (i = 0; i < rows; i++, c += ldc)
        SKVI_UNROLL_16
        for (j = 0; j < wide; j++)
            _mm512_storeu_ps(c + 16 * j, onto ? s[i][j]
                                              : SKVI_ADD512(_mm512_loadu_ps(c + 16 * j), s[i][j]));
}

/* All rows of 16 wide columns. */
SKVI_INLINE_AVX512
static inline void skvi_gemm_columns_avx512(const uint32_t wide, size_t m, size_t k,
                                            const float *a, size_t lda, const float *b, size_t ldb,
                                            float *c, size_t ldc)
{
    for (; m >= 4; m -= 4, a += 4 * lda, c += 4 * ldc)
        skvi_gemm_block_avx512(4, wide, 0, k, a, lda, b, ldb, c, ldc);
    if (m == 3) skvi_gemm_block_avx512(3, wide, 1, k, a, lda, b, ldb, c, ldc);
    else if (m == 2) skvi_gemm_block_avx512(2, wide, 1, k, a, lda, b, ldb, c, ldc);
    else if (m == 1) skvi_gemm_block_avx512(1, wide, 1, k, a, lda, b, ldb, c, ldc);
}

SKVI_AVX512
static void skvi_gemm_wide_avx512(size_t m, size_t n, size_t k, const float *a, size_t lda,
                                  const float *b, size_t ldb, float *c, size_t ldc)
{
    for (; n >= 64; n -= 64, b += 64, c += 64)
        skvi_gemm_columns_avx512(4, m, k, a, lda, b, ldb, c, ldc);
    for (; n; n -= 16, b += 16, c += 16)
        skvi_gemm_columns_avx512(1, m, k, a, lda, b, ldb, c, ldc);
}

/* rows x 4 dots; the sixteen lanes of each in one register, added up as skvi_dot_c does. */
SKVI_INLINE_AVX512
static inline void skvi_dots_block_avx512(const uint32_t rows, size_t n, const float *a,
                                          size_t lda, const float *b, size_t ldb, float *out,
                                          size_t ldo)
{
    __m512 s[4][4], x[4], y;
    __m128 z[4];
    uint32_t i, j;
    size_t l;
    SKVI_UNROLL_16
    for (i = 0; i < 16; i++) s[i / 4][i % 4] = _mm512_setzero_ps();
    for (l = 0; l < n; l += 16) {
        SKVI_UNROLL_16
        for (j = 0; j < 4; j++) x[j] = _mm512_loadu_ps(b + j * ldb + l);
        SKVI_UNROLL_16
        for (i = 0; i < rows; i++) {
            y = _mm512_loadu_ps(a + i * lda + l);
            SKVI_UNROLL_16
            for (j = 0; j < 4; j++) s[i][j] = SKVI_ADD512(s[i][j], SKVI_MUL512(y, x[j]));
        }
    }
    SKVI_UNROLL_16
    for (i = 0; i < rows; i++, out += ldo) {
        SKVI_UNROLL_16
        for (j = 0; j < 4; j++) {
            __m256 half = _mm256_add_ps(_mm512_castps512_ps256(s[i][j]), SKVI_UPPER_PS(s[i][j]));
            z[j] = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
        }
        z[0] = _mm_add_ps(_mm_unpacklo_ps(z[0], z[1]), _mm_unpackhi_ps(z[0], z[1]));
        z[1] = _mm_add_ps(_mm_unpacklo_ps(z[2], z[3]), _mm_unpackhi_ps(z[2], z[3]));
        _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(z[0], z[1]), _mm_movehl_ps(z[1], z[0])));
    }
}

SKVI_AVX512
static void skvi_dots_avx512(size_t m, size_t l, size_t n, const float *a, size_t lda,
                             const float *b, size_t ldb, float *out, size_t ldo)
{
    for (; m; m -= m < 4 ? m : 4, a += 4 * lda, out += 4 * ldo) {
        const uint32_t rows = m < 4 ? (uint32_t)m : 4;
        size_t i;
        for (i = 0; i < l; i += 4)
            SKVI_BY_ROWS(skvi_dots_block_avx512, rows, n, a, lda, b + i * ldb, ldb, out + i, ldo);
    }
}

static void skvi_gemm_avx512(size_t m, size_t n, size_t k, const float *a, size_t lda,
                             const float *b, size_t ldb, float *c, size_t ldc)
{
    const size_t wide = n - n % 16;
    skvi_gemm_wide_avx512(m, wide, k, a, lda, b, ldb, c, ldc);
    if (wide < n) skvi_gemm_rows(m, n - wide, k, a, lda, b + wide, ldb, c + wide, ldc);
}
#endif

#ifdef SKVI_LA_128
/* (a0 + a4 + a2 + a6) + ..: eight partial sums in the order that every table adds them */
SKVI_INLINE_128
static inline float skvi_sum_128(skvi_f32x4 a, skvi_f32x4 b)
{
    SKVI_UNFUSED
    a += b;
    return (a[0] + a[2]) + (a[1] + a[3]);
}

#ifdef SKVI_LA_NEON
enum { SKVI_COLUMNS = 4 };      /* vectors in a row of a register tile */
#else
enum { SKVI_COLUMNS = 2 };      /* most machines below have 16 registers */
#endif

/* c[rows][4 COLUMNS], rows at most 4 and a caller's constant, as skvi_gemm_tile sums; or onto c, as
   skvi_gemm_rows does. */
SKVI_INLINE_128
static inline void skvi_gemm_block_128(const uint32_t rows, const int onto, size_t k,
                                       const float *a, size_t lda, const float *b, size_t ldb,
                                       float *c, size_t ldc)
{
    SKVI_UNFUSED
    skvi_f32x4 s[4][SKVI_COLUMNS], x;
    uint32_t i, j;
    size_t l;
    for (i = 0; i < rows; i++)
        for (j = 0; j < SKVI_COLUMNS; j++)
            s[i][j] = onto ? SKVI_LOAD(skvi_f32x4, c + i * ldc + 4 * j) : SKVI_SPLAT_F32(0);
    for (l = 0; l < k; l++, b += ldb) {
        SKVI_LA_UNROLL
        for (i = 0; i < rows; i++) {
            x = SKVI_SPLAT_F32(a[i * lda + l]);
            SKVI_LA_UNROLL
            for (j = 0; j < SKVI_COLUMNS; j++) s[i][j] += x * SKVI_LOAD(skvi_f32x4, b + 4 * j);
        }
    }
    for (i = 0; i < rows; i++, c += ldc)
        for (j = 0; j < SKVI_COLUMNS; j++) {
            if (!onto) s[i][j] = SKVI_LOAD(skvi_f32x4, c + 4 * j) + s[i][j];
            SKVI_STORE(skvi_f32x4, c + 4 * j, s[i][j]);
        }
}

SKVI_TARGET_128
static void skvi_gemm_128(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                          size_t ldb, float *c, size_t ldc)
{
    size_t i, j, rows = m - m % 4, wide = n - n % 16;
    for (j = 0; j < wide; j += 4 * SKVI_COLUMNS) {
        for (i = 0; i < rows; i += 4)
            skvi_gemm_block_128(4, 0, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
        if (m % 4 == 3)
            skvi_gemm_block_128(3, 1, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
        else if (m % 4 == 2)
            skvi_gemm_block_128(2, 1, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
        else if (m % 4 == 1)
            skvi_gemm_block_128(1, 1, k, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
    if (wide < n) skvi_gemm_rows(m, n - wide, k, a, lda, b + wide, ldb, c + wide, ldc);
}

SKVI_TARGET_128
static float skvi_dot_128(const float *a, const float *b, size_t n)
{
    SKVI_UNFUSED
    skvi_f32x4 s[4];
    float last[16];
    size_t i, j;
    for (j = 0; j < 4; j++) s[j] = SKVI_SPLAT_F32(0);
    for (i = 0; i + 16 <= n; i += 16)
        SKVI_LA_UNROLL
        for (j = 0; j < 4; j++)
            s[j] += SKVI_LOAD(skvi_f32x4, a + i + 4 * j) * SKVI_LOAD(skvi_f32x4, b + i + 4 * j);
    if (i < n) {
        memcpy(last, s, sizeof last);
        for (j = 0; i < n; i++, j++) last[j] += a[i] * b[i];
        memcpy(s, last, sizeof last);
    }
    return skvi_sum_128(s[0] + s[2], s[1] + s[3]);
}
#endif

static void skvi_from_f16_c(const uint16_t *h, float *out, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = skvi_from_f16(h[i]);
}

#ifdef SKVI_LA_AVX2
__attribute__((target("avx2,f16c")))
static void skvi_from_f16_avx2(const uint16_t *h, float *out, size_t n)
{
    size_t i;
    for (i = 0; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(h + i))));
    skvi_from_f16_c(h + i, out + i, n - i);
}
#endif

#ifdef SKVI_LA_128
SKVI_TARGET_128
static void skvi_from_f16_128(const uint16_t *h, float *out, size_t n)
{
    size_t i;
    for (i = 0; i + 4 <= n; i += 4) {
#ifdef SKVI_LA_NEON
        SKVI_STORE(skvi_f32x4, out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h + i))));
#else
        /* exponent and mantissa in place and 2^112 too small, subnormal or not; infinity is not */
        skvi_u32x4 x = SKVI_WIDEN_U16(h + i), a = (x & 0x7FFFu) << 13;
        skvi_f32x4 y = (skvi_f32x4)a * SKVI_SPLAT_F32(5.1922969e33f);
        a = (skvi_u32x4)(a >= 0x0F800000u) & 0x7F800000u;
        SKVI_STORE(skvi_f32x4, out + i, (skvi_u32x4)y | a | (x & 0x8000u) << 16);
#endif
    }
    skvi_from_f16_c(h + i, out + i, n - i);
}
#endif

/* C += A B for calibration: large products, through BLAS where the build says so. */
static void skvi_sgemm(size_t m, size_t n, size_t k, const float *a, size_t lda, const float *b,
                       size_t ldb, float *c, size_t ldc)
{
#ifdef SKV_CBLAS
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, a,
                (int)lda, b, (int)ldb, 1.0f, c, (int)ldc);
#else
    skvi_pick_kernels()->gemm(m, n, k, a, lda, b, ldb, c, ldc);
#endif
}

/* >>la ------------------------------------------------------------------------------------------
   Four leaf kernels of the linear algebra, portable and for AVX2. Lanes are independent and sums
   have eight fixed partial sums, so both give the same bits. */
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
    if (skv_isa() & SKV_ISA_AVX2) {
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
    double *cross;                  /* K: [D][2 pairs], room for d: sum of x wave^T; V: NULL */
} skvi_gram;

/* RoPE of a layer: pair p holds elements at(p) and at(p) + apart. wave(t) is the vector of
   cos(t freq[p]), then sin(t freq[p]), p < pairs. */
typedef struct skvi_turn {
    uint32_t style, pairs;          /* 0, 0: keys are not turned */
    float   *freq;                  /* [pairs] */
} skvi_turn;

typedef struct skvi_player {
    skv_layer shape;
    uint32_t  n_groups;
    double    n_tokens, n_queries, price[2];
    skvi_gram *k, *v;               /* [n_groups] */
    double    *mk_plain, *mk;       /* [n_kv][d][d]: sums of q q^T scale^2; times a_i */
    double    *mass;                /* [n_q]: sum of p_ij^2 over what will be read from pages */
    float     *wo;                  /* [n_q][dv][dv]: W_O,h^T W_O,h, or the identity */
    skvi_turn  turn;                /* freq has room for d / 2 */
    double    *wave_sum, *wave;     /* [d], [d][d] upper triangle, of 2 pairs: sums over tokens */
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

static void skvi_profiler_grams(skvi_arena *a, skvi_gram *g, uint32_t n_groups,
                                const skv_layer *layer, uint32_t head_group, uint32_t dim,
                                int keys)
{
    uint32_t i;
    for (i = 0; i < n_groups; i++) {
        size_t d = (size_t)skvi_group_heads(layer, head_group, i) * dim;
        double *sum = (double *)skvi_take(a, d, sizeof(double));
        double *gram = (double *)skvi_take(a, d, d * sizeof(double));
        double *cross = (double *)skvi_take(a, keys ? d : 0, dim * sizeof(double));
        if (g) {
            g[i].sum = sum;
            g[i].gram = gram;
            g[i].cross = keys ? cross : NULL;
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
        skvi_profiler_grams(a, l->k, l->n_groups, &s, p->head_group, s.head_dim, 1);
        skvi_profiler_grams(a, l->v, l->n_groups, &s, p->head_group, s.head_dim_v, 0);
        l->mk_plain = (double *)skvi_take(a, (size_t)s.n_kv_heads * s.head_dim,
                                          s.head_dim * sizeof(double));
        l->mk = (double *)skvi_take(a, (size_t)s.n_kv_heads * s.head_dim,
                                    s.head_dim * sizeof(double));
        l->mass = (double *)skvi_take(a, s.n_q_heads, sizeof(double));
        l->wo = (float *)skvi_take(a, (size_t)s.n_q_heads * s.head_dim_v,
                                   s.head_dim_v * sizeof(float));
        l->turn.freq = (float *)skvi_take(a, s.head_dim / 2, sizeof(float));
        l->wave_sum = (double *)skvi_take(a, s.head_dim, sizeof(double));
        l->wave = (double *)skvi_take(a, s.head_dim, s.head_dim * sizeof(double));
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
    float *waves;                   /* [64][d] */
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
    w->waves = (float *)skvi_take(a, 64, d * f);
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

SKVDEF skv_result skv_profiler_rope(skv_profiler *p, uint32_t layer, skv_rope style,
                                    const float *freqs, size_t n_pairs)
{
    skvi_player *l;
    size_t i;
    if (!p || layer >= p->model.n_layers || !freqs || !n_pairs) return SKV_ERR_ARG;
    l = &p->player[layer];
    if (style != SKV_ROPE_ADJACENT && style != SKV_ROPE_HALVES) return SKV_ERR_ARG;
    if (n_pairs > l->shape.head_dim / 2) return SKV_ERR_SHAPE;
    if (l->n_queries > 0) return SKV_ERR_STATE;
    for (i = 0; i < n_pairs; i++)
        if (!(freqs[i] >= -10 && freqs[i] <= 10)) return SKV_ERR_ARG;
    l->turn.style = (uint32_t)style;
    l->turn.pairs = (uint32_t)n_pairs;
    memcpy(l->turn.freq, freqs, n_pairs * sizeof(float));
    return SKV_OK;
}

/* wave(position), [2 pairs] */
static void skvi_wave(const skvi_turn *r, double position, float *wave)
{
    uint32_t p;
    for (p = 0; p < r->pairs; p++) {
        double angle = position * (double)r->freq[p];
        wave[p] = (float)cos(angle);
        wave[r->pairs + p] = (float)sin(angle);
    }
}

/* First element of a pair, and how far the second is behind it. */
static size_t skvi_turn_at(const skvi_turn *r, size_t p)
{
    return r->style == SKV_ROPE_ADJACENT ? 2 * p : p;
}
static size_t skvi_turn_apart(const skvi_turn *r)
{
    return r->style == SKV_ROPE_ADJACENT ? 1 : r->pairs;
}

/* Adds tokens first .. n-1 to the sums over waves. */
static void skvi_add_waves(skvi_player *l, size_t first, size_t n, float *waves)
{
    size_t F = 2 * (size_t)l->turn.pairs, t, i, m;
    for (; first < n && F; first += m) {
        m = n - first < 64 ? n - first : 64;
        for (t = 0; t < m; t++) {
            skvi_wave(&l->turn, (double)(first + t), waves + t * F);
            for (i = 0; i < F; i++) l->wave_sum[i] += (double)waves[t * F + i];
        }
        skvi_syrk_add(l->wave, F, waves, m, F);
    }
}

/* Adds tokens first .. n-1 of one head group to its mean and Gram, and with a turn to cross. */
static void skvi_add_gram(skvi_gram *g, const skvi_tokens *x, size_t first, size_t n, size_t head0,
                          size_t heads, float *rows, const skvi_turn *turn, float *waves)
{
    size_t D = heads * x->dim, t, i, h, m, F = turn ? 2 * (size_t)turn->pairs : 0;
    for (; first < n; first += m) {
        m = n - first < 64 ? n - first : 64;
        for (t = 0; t < m; t++)
            for (h = 0; h < heads; h++)
                skvi_load(x, first + t, head0 + h, rows + t * D + h * x->dim);
        for (t = 0; t < m; t++)
            for (i = 0; i < D; i++) g->sum[i] += (double)rows[t * D + i];
        skvi_syrk_add(g->gram, D, rows, m, D);
        for (t = 0; t < m && F; t++) skvi_wave(turn, (double)(first + t), waves + t * F);
        if (F)
            skvi_gemm_add(g->cross, F, D, F, m, skvi_view_t(skvi_view_f(rows, D)),
                          skvi_view_f(waves, F), 0);
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
        size_t h0 = g * p->head_group;
        size_t heads = skvi_group_heads(&l->shape, p->head_group, (uint32_t)g);
        skvi_add_gram(&l->k[g], &vk, first, n_tokens, h0, heads, w.rows, &l->turn, w.waves);
        skvi_add_gram(&l->v[g], &vv, first, n_tokens, h0, heads, w.rows, NULL, NULL);
    }
    skvi_add_waves(l, first, n_tokens, w.waves);
    for (g = 0; g < l->shape.n_kv_heads; g++)
        skvi_add_kv_head(p, l, &w, &vq, &vk, &vv, n_tokens, g);
    l->n_tokens += (double)(n_tokens - first);
    l->n_queries += (double)(n_tokens < p->max_queries ? n_tokens : p->max_queries);
    skvi_work_end(p, block, bytes);
    return SKV_OK;
}

/* n of a player's sums, and where they go to or come from, if anywhere. */
typedef struct skvi_sumswalk {
    double       *out;
    const double *in;
    size_t        n;
} skvi_sumswalk;
static void skvi_sums_part(skvi_sumswalk *w, double *own, size_t n)
{
    size_t i;
    for (i = 0; w->out && i < n; i++) w->out[w->n + i] = own[i];
    for (i = 0; w->in && i < n; i++) own[i] += w->in[w->n + i];
    w->n += n;
}

static void skvi_sums_walk(const skv_profiler *p, uint32_t layer, skvi_sumswalk *w)
{
    skvi_player *l = &p->player[layer];
    const size_t F = 2 * (size_t)l->turn.pairs, d = l->shape.head_dim, dv = l->shape.head_dim_v;
    size_t g, n;
    skvi_sums_part(w, &l->n_tokens, 1);
    skvi_sums_part(w, &l->n_queries, 1);
    for (g = 0; g < 2 * (size_t)l->n_groups; g++) {
        const int keys = g < l->n_groups;
        skvi_gram *x = keys ? &l->k[g] : &l->v[g - l->n_groups];
        n = skvi_group_heads(&l->shape, p->head_group, (uint32_t)(g % l->n_groups));
        n *= keys ? d : dv;
        skvi_sums_part(w, x->sum, n);
        skvi_sums_part(w, x->gram, n * n);
        if (keys) skvi_sums_part(w, x->cross, n * F);
    }
    skvi_sums_part(w, l->wave_sum, F);
    skvi_sums_part(w, l->wave, F * F);
    skvi_sums_part(w, l->mk_plain, l->shape.n_kv_heads * d * d);
    skvi_sums_part(w, l->mk, l->shape.n_kv_heads * d * d);
    skvi_sums_part(w, l->mass, l->shape.n_q_heads);
}

static size_t skvi_sums_count(const skv_profiler *p, uint32_t layer)
{
    skvi_sumswalk w = {NULL, NULL, 0};
    skvi_sums_walk(p, layer, &w);
    return w.n;
}

SKVDEF skv_result skv_profiler_sums(const skv_profiler *p, uint32_t layer, double *sums,
                                    size_t capacity, size_t *n)
{
    skvi_sumswalk w = {NULL, NULL, 0};
    if (!p || !n || layer >= p->model.n_layers) return SKV_ERR_ARG;
    *n = skvi_sums_count(p, layer);
    if (!sums) return SKV_OK;
    if (capacity < *n) return SKV_ERR_ARG;
    w.out = sums;
    skvi_sums_walk(p, layer, &w);
    return SKV_OK;
}

SKVDEF skv_result skv_profiler_add_sums(skv_profiler *p, uint32_t layer, const double *sums,
                                        size_t n)
{
    skvi_sumswalk w = {NULL, NULL, 0};
    size_t i;
    if (!p || !sums || layer >= p->model.n_layers) return SKV_ERR_ARG;
    if (n != skvi_sums_count(p, layer)) return SKV_ERR_SHAPE;
    for (i = 0; i < n; i++)
        if (!(fabs(sums[i]) <= 1e300)) return SKV_ERR_NOT_FINITE;
    for (i = 0; i < 2; i++)
        if (!(sums[i] >= 0) || sums[i] > 1e15 || floor(sums[i]) != sums[i]) return SKV_ERR_ARG;
    w.in = sums;
    skvi_sums_walk(p, layer, &w);
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

static int skvi_same_turn(const skvi_turn *a, const skvi_turn *b)
{
    return a->style == b->style && a->pairs == b->pairs &&
           !memcmp(a->freq, b->freq, a->pairs * sizeof(float));
}

/* Whether groups of `from` heads fall into whole groups of `to` heads in every layer. */
static int skvi_group_divides(const skv_profiler *p, uint32_t to, uint32_t from)
{
    uint32_t i;
    for (i = 0; to && from % to && i < p->model.n_layers; i++)
        if (from < p->layers[i].n_kv_heads) return 0;
    return to != 0;
}

/* Adds the block of g's heads out of the wider `from`, in which they start at element `at`. */
static void skvi_add_block(skvi_gram *g, size_t n, const skvi_gram *from, size_t wide, size_t at,
                           size_t waves)
{
    size_t i;
    skvi_sum(g->sum, from->sum + at, n);
    for (i = 0; i < n; i++) skvi_sum(g->gram + i * n, from->gram + (at + i) * wide + at, n);
    if (g->cross) skvi_sum(g->cross, from->cross + at * waves, n * waves);
}

static void skvi_add_sums(skv_profiler *p, const skv_profiler *other)
{
    uint32_t i, g;
    for (i = 0; i < p->model.n_layers; i++) {
        skvi_player *l = &p->player[i];
        const skvi_player *o = &other->player[i];
        size_t d = l->shape.head_dim, dv = l->shape.head_dim_v, kv = l->shape.n_kv_heads;
        for (g = 0; g < l->n_groups; g++) {
            size_t n = skvi_group_heads(&l->shape, p->head_group, g), at = g * p->head_group;
            uint32_t from = (uint32_t)(at / other->head_group);
            size_t wide = skvi_group_heads(&l->shape, other->head_group, from);
            at -= (size_t)from * other->head_group;
            skvi_add_block(&l->k[g], n * d, &o->k[from], wide * d, at * d,
                           2 * (size_t)l->turn.pairs);
            skvi_add_block(&l->v[g], n * dv, &o->v[from], wide * dv, at * dv, 0);
        }
        skvi_sum(l->mk_plain, o->mk_plain, kv * d * d);
        skvi_sum(l->mk, o->mk, kv * d * d);
        skvi_sum(l->mass, o->mass, l->shape.n_q_heads);
        skvi_sum(l->wave_sum, o->wave_sum, d);
        skvi_sum(l->wave, o->wave, d * d);
        l->n_tokens += o->n_tokens;
        l->n_queries += o->n_queries;
    }
}

SKVDEF skv_result skv_profiler_merge(skv_profiler *p, const skv_profiler *other)
{
    uint32_t i;
    if (!p || !other || p == other) return SKV_ERR_ARG;
    if (p->model.n_layers != other->model.n_layers || p->sinks != other->sinks ||
        p->window != other->window || !skvi_group_divides(other, p->head_group, other->head_group))
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
            memcmp(p->player[i].wo, other->player[i].wo, wo) ||
            !skvi_same_turn(&p->player[i].turn, &other->player[i].turn))
            return SKV_ERR_SHAPE;
    }
    skvi_add_sums(p, other);
    return SKV_OK;
}

SKVDEF skv_result skv_profiler_narrow(const skv_profiler *p, uint32_t head_group,
                                      skv_profiler **out)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *n = NULL;
    uint32_t i;
    skv_result r;
    if (!p || !out || !head_group) return SKV_ERR_ARG;
    if (!skvi_group_divides(p, head_group, p->head_group)) return SKV_ERR_SHAPE;
    d.model = p->model;
    d.head_group = head_group;
    d.sinks = p->sinks ? p->sinks : SKV_NONE;
    d.window = p->window ? p->window : SKV_NONE;
    d.max_passage = p->max_passage;
    d.max_queries = p->max_queries;
    d.allocator = p->alloc;
    r = skv_profiler_init(&n, &d);
    if (r != SKV_OK) return r;
    for (i = 0; i < p->model.n_layers; i++) {
        const skvi_player *from = &p->player[i];
        skvi_player *to = &n->player[i];
        size_t dv = from->shape.head_dim_v;
        memcpy(to->wo, from->wo, from->shape.n_q_heads * dv * dv * sizeof(float));
        memcpy(to->price, from->price, sizeof to->price);
        to->turn.style = from->turn.style;
        to->turn.pairs = from->turn.pairs;
        memcpy(to->turn.freq, from->turn.freq, from->turn.pairs * sizeof(float));
    }
    skvi_add_sums(n, p);
    *out = n;
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
static void skvi_covariance(const double *sum, const double *gram, double n, size_t D, double *c,
                            float *mean)
{
    size_t i, j;
    for (i = 0; i < D; i++) mean[i] = (float)(sum[i] / n);
    for (i = 0; i < D; i++)
        for (j = i; j < D; j++) {
            double x = gram[i * D + j] / n - (sum[i] / n) * (sum[j] / n);
            c[i * D + j] = c[j * D + i] = x;
        }
}

/* The unturned mean of each key, mu = mean of R(-t) k, in pairs that turn: sums are in cross. */
static void skvi_unturned_mean(const skvi_player *l, const skvi_gram *g, size_t heads, float *mu)
{
    const skvi_turn *r = &l->turn;
    size_t h, p, d = l->shape.head_dim, P = r->pairs, apart = skvi_turn_apart(r);
    memset(mu, 0, heads * d * sizeof(float));
    for (h = 0; h < heads; h++)
        for (p = 0; p < P; p++) {
            size_t i = h * d + skvi_turn_at(r, p);
            const double *a = g->cross + i * 2 * P, *b = a + apart * 2 * P;
            mu[i] = (float)((a[p] + b[P + p]) / l->n_tokens);
            mu[i + apart] = (float)((b[p] - a[P + p]) / l->n_tokens);
        }
}

/* Element i of R(t) mu is x cos(t f) + y sin(t f): its pair p, x and y. 0 where i does not turn. */
static int skvi_turn_row(const skvi_turn *r, const float *mu, size_t i, size_t *p, double *x,
                         double *y)
{
    size_t apart = skvi_turn_apart(r), second;
    if (i >= 2 * (size_t)r->pairs) return 0;
    second = r->style == SKV_ROPE_ADJACENT ? i & 1u : i >= apart;
    *p = r->style == SKV_ROPE_ADJACENT ? i / 2 : i - second * apart;
    *x = (double)mu[i];
    *y = second ? (double)mu[i - apart] : -(double)mu[i + apart];
    return 1;
}

/* Sums of k - R(t) mu from those of k: with the linear map R(t) mu = W wave(t),
   sum - W wave_sum, and gram - cross W^T - W cross^T + W wave W^T. sum [D], gram [D][D]. */
static void skvi_take_turn(const skvi_player *l, const skvi_gram *g, size_t heads, const float *mu,
                           double *sum, double *gram)
{
    const skvi_turn *r = &l->turn;
    size_t d = l->shape.head_dim, D = heads * d, F = 2 * (size_t)r->pairs, P = r->pairs, i, j;
    memcpy(sum, g->sum, D * sizeof(double));
    memcpy(gram, g->gram, D * D * sizeof(double));
    for (i = 0; i < D; i++) {
        size_t p = 0, q = 0;
        double x = 0, y = 0, u = 0, v = 0;
        int turns = skvi_turn_row(r, mu + i / d * d, i % d, &p, &x, &y);
        if (turns) sum[i] -= x * l->wave_sum[p] + y * l->wave_sum[P + p];
        for (j = i; j < D; j++) {
            double *to = &gram[i * D + j];
            if (turns) *to -= x * g->cross[j * F + p] + y * g->cross[j * F + P + p];
            if (!skvi_turn_row(r, mu + j / d * d, j % d, &q, &u, &v)) continue;
            *to -= u * g->cross[i * F + q] + v * g->cross[i * F + P + q];
            if (!turns) continue;
            *to += x * u * l->wave[p < q ? p * F + q : q * F + p] + x * v * l->wave[p * F + P + q];
            *to += y * u * l->wave[q * F + P + p];
            *to += y * v * l->wave[p < q ? (P + p) * F + P + q : (P + q) * F + P + p];
        }
    }
}

/* The profile object. */
typedef struct skvi_stream {        /* K or V of one head group: D = heads * dim channels */
    uint32_t heads, dim, D;
    float *mean;                    /* [D] */
    float *turn;                    /* [D] unturned mean, K with RoPE only: else NULL */
    float *var;                     /* [D] descending, in units of expected output error */
    float *enc;                     /* [D][D]: whitened latent u = enc (x - mean) */
    float *dec;                     /* [D][D], row = channel: x = mean + sum_c u_c dec[c] */
} skvi_stream;                      /* with turn, mean + R(position) turn takes mean's place */

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
    skvi_turn    *turn;             /* [n_layers] */
    uint32_t     *first;            /* [n_layers + 1]: first stream of a layer; K groups, then V */
    skvi_stream  *stream;           /* [n_streams] */
};

static const skvi_stream *skvi_stream_at(const skv_profile *p, uint32_t layer, int kind, size_t g)
{
    return &p->stream[p->first[layer] + (kind ? skvi_groups(&p->layers[layer], p->head_group) : 0) +
                      g];
}

/* turn: of a layer, `stride` bytes apart, or NULL for none. */
typedef struct skvi_turns { const skvi_turn *first; size_t stride; } skvi_turns;

static const skvi_turn *skvi_turns_at(const skvi_turns *t, uint32_t layer)
{
    if (!t || !t->first) return NULL;
    return (const skvi_turn *)(const void *)((const char *)t->first + layer * t->stride);
}

static void skvi_profile_layout(skvi_arena *a, skv_profile *p, const skv_model *m,
                                const skvi_turns *turns)
{
    uint32_t i, g, n = 0, at = 0;
    int kind;
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        n += 2 * skvi_groups(&s, p->head_group);
    }
    p->n_streams = n;
    p->layers = (skv_layer *)skvi_take(a, m->n_layers, sizeof *p->layers);
    p->turn = (skvi_turn *)skvi_take(a, m->n_layers, sizeof *p->turn);
    p->first = (uint32_t *)skvi_take(a, m->n_layers + 1u, sizeof *p->first);
    p->stream = (skvi_stream *)skvi_take(a, n, sizeof *p->stream);
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        uint32_t n_groups = skvi_groups(&s, p->head_group);
        const skvi_turn *turn = skvi_turns_at(turns, i);
        uint32_t pairs = turn ? turn->pairs : 0;
        float *freq = (float *)skvi_take(a, pairs, sizeof(float));
        (void)skvi_fill_layer(&s);
        if (a->base) p->first[i] = at;
        if (a->base && pairs) {
            p->turn[i] = *turn;
            p->turn[i].freq = freq;
            memcpy(freq, turn->freq, pairs * sizeof(float));
        }
        for (kind = 0; kind < 2; kind++)
            for (g = 0; g < n_groups; g++, at++) {
                skvi_stream tmp, *t = a->base ? &p->stream[at] : &tmp;
                t->heads = skvi_group_heads(&s, p->head_group, g);
                t->dim = kind ? s.head_dim_v : s.head_dim;
                t->D = t->heads * t->dim;
                t->mean = (float *)skvi_take(a, t->D, sizeof(float));
                t->turn = (float *)skvi_take(a, !kind && pairs ? t->D : 0, sizeof(float));
                if (kind || !pairs) t->turn = NULL;
                t->var = (float *)skvi_take(a, t->D, sizeof(float));
                t->enc = (float *)skvi_take(a, t->D, t->D * sizeof(float));
                t->dec = (float *)skvi_take(a, t->D, t->D * sizeof(float));
            }
    }
    if (a->base) p->first[m->n_layers] = at;
}

/* An empty profile for a checked model. */
static skv_result skvi_profile_new(skv_profile **out, const skv_model *m, uint32_t head_group,
                                   const skvi_turns *turns, const skv_allocator *alloc)
{
    skv_profile tmp, *p;
    skvi_arena a = {NULL, 0, 0};
    skv_result r;
    memset(&tmp, 0, sizeof tmp);
    r = skvi_pick_allocator(alloc, &tmp.alloc);
    if (r != SKV_OK) return r;
    tmp.head_group = head_group;
    (void)skvi_take(&a, 1, sizeof tmp);
    skvi_profile_layout(&a, &tmp, m, turns);
    r = skvi_arena_block(&a, &tmp.alloc, &tmp.block, &tmp.bytes);
    if (r != SKV_OK) return r;
    p = (skv_profile *)skvi_take(&a, 1, sizeof *p);
    *p = tmp;
    skvi_profile_layout(&a, p, m, turns);
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

SKVDEF skv_result skv_profile_transform(const skv_profile *p, uint32_t layer, skv_kind kind,
                                        uint32_t group, skv_transform *out)
{
    const float *variance;
    const skvi_stream *s;
    size_t n;
    if (!out || skv_profile_spectrum(p, layer, kind, group, &variance, &n) != SKV_OK)
        return SKV_ERR_ARG;
    s = skvi_stream_at(p, layer, (int)kind, group);
    out->n = n;
    out->mean = s->mean;
    out->variance = variance;
    out->encode = s->enc;
    out->decode = s->dec;
    return SKV_OK;
}

/* What a value's whitened latent is multiplied by with latent_out: 1 for the largest variance. */
static float skvi_latent_unit(const skvi_stream *s, size_t c)
{
    float x = sqrtf(s->var[c] / s->var[0]);
    return x > 1e-8f ? x : 1e-8f;
}

SKVDEF skv_result skv_profile_fold(const skv_profile *p, uint32_t layer, const skv_span *w_o,
                                   size_t n_out, float *folded, float *bias)
{
    const skvi_kernels *kern = skvi_pick_kernels();
    float row[SKV_MAX_HEAD_DIM];
    const skv_layer *l;
    skvi_tokens w;
    size_t t, h, c, dv;
    skv_result r;
    if (!p || layer >= p->model.n_layers || !n_out || !folded || !bias) return SKV_ERR_ARG;
    l = &p->layers[layer];
    dv = l->head_dim_v;
    if (p->head_group != 1) return SKV_ERR_SHAPE;
    r = skvi_open(&w, w_o, l->n_q_heads, dv);
    if (r == SKV_OK) r = skvi_check_values(&w, n_out, l->n_q_heads, SKVI_LARGEST);
    if (r != SKV_OK) return r;
    for (t = 0; t < n_out; t++) {
        bias[t] = 0;
        for (h = 0; h < l->n_q_heads; h++, folded += dv) {
            const skvi_stream *s = skvi_stream_at(p, layer, 1, h / (l->n_q_heads / l->n_kv_heads));
            skvi_load(&w, t, h, row);
            bias[t] += kern->dot(row, s->mean, dv);
            for (c = 0; c < dv; c++)
                folded[c] = kern->dot(row, s->dec + c * dv, dv) / skvi_latent_unit(s, c);
        }
    }
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
    if (s->turn) {
        skvi_unturned_mean(l, g, s->heads, s->turn);
        skvi_take_turn(l, g, s->heads, s->turn, w->w, w->t);
        skvi_covariance(w->w, w->t, l->n_tokens, D, w->c, s->mean);
    } else {
        skvi_covariance(g->sum, g->gram, l->n_tokens, D, w->c, s->mean);
    }
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
    skvi_turns turns;
    size_t bytes;
    void *block;
    uint32_t i, g;
    int kind;
    skv_result r, worst = SKV_OK;
    if (!p || !out || (fallback && skvi_check_target(fallback) != SKV_OK)) return SKV_ERR_ARG;
    for (i = 0; i < p->model.n_layers; i++)
        if (p->player[i].n_tokens < SKV_PAGE_TOKENS) return SKV_ERR_STATE;
    turns.first = &p->player[0].turn;
    turns.stride = sizeof p->player[0];
    r = skvi_profile_new(&f, &p->model, p->head_group, &turns, &p->alloc);
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
   The codes of a quad, four channels of one page: 64 tokens, half bits h = 1 to 16 each (h / 2
   bits). A value is level * unit * scale; levels are integers, so that inner loops may be too.

   Bit-shift trellis (the idea: Tseng et al., QTIP, arXiv 2406.11235): the tokens of a channel form
   a circle of 64 positions, each brings h / 2 new bits (odd h: one half more every second time),
   and the level follows from the newest 8 bits, the window, alone: A[low 4] + B[high 4 ^ low 4],
   two look-ups of 16 entries that any byte shuffle does. Odd h have one pair of tables for even
   and one for odd positions. Encoding is a Viterbi search. tools/train_trellis.c makes such tables.

   Position 16 l + s is token 4 s + l: four lanes l of 16 steps s, h bytes each, new bits above old
   ones in a byte stream. Byte i of lane l of channel b is byte 16 i + 4 l + b of the quad for keys,
   16 i + 4 b + l for values: so 16 bytes of levels, 4 tokens by 4 channels, have those four bytes
   side by side that an inner product sums, channels for keys and tokens for values. */
#define SKVI_MODES 13u              /* half bits a channel may take, the plan's choices */
#define SKVI_QUAD 4u
#define SKVI_STEPS 16u              /* of a lane */
#define SKVI_NARROW 10u             /* most half bits whose levels have 7 bits */
#define SKVI_SUB_HEADER 5u
#define SKVI_PAIR_BYTES (2u * SKVI_STEPS * SKVI_STEPS)      /* levels of two quads */
static const unsigned char skvi_mode_half[SKVI_MODES] = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16
};

typedef struct skvi_code {
    float       unit;               /* what a level is worth at scale 1 */
    uint32_t    bits;               /* levels are -2^(bits - 1) to 2^(bits - 1) - 1 */
    signed char part[2][2][16];     /* of even and odd steps: A, B */
} skvi_code;
static const skvi_code skvi_codes[SKVI_MODES] = {
    {0, 1, {{{0}, {0}}, {{0}, {0}}}},
    {0.20381150f, 4, {
        {{2, 1, -2, 1, 0, 0, 1, 1, -2, -3, -1, 0, -1, 1, 3, -1},
         {4, -4, 3, -4, 0, 1, -1, 2, -4, 4, -4, 4, -1, -1, 3, -1}},
        {{3, -1, -3, 2, -2, 3, 4, -4, -1, 0, 1, 2, -2, 1, 0, -1},
         {-1, 1, 1, -1, -3, -2, 3, 1, 3, 3, -2, -4, 1, 3, -2, -4}}}},
    {0.30263874f, 4, {
        {{0, 0, -1, 1, 1, 2, -1, -2, 1, 2, -1, -2, -2, -2, -1, 0},
         {3, -1, -4, 1, 3, -2, 2, -1, -1, 4, 1, -4, -2, 2, -1, 4}},
        {{0, 0, -1, 1, 1, 2, -1, -2, 1, 2, -1, -2, -2, -2, -1, 0},
         {3, -1, -4, 1, 3, -2, 2, -1, -1, 4, 1, -4, -2, 2, -1, 4}}}},
    {0.16732475f, 5, {
        {{-3, -3, -2, -1, 3, 4, 3, 2, 0, 2, 4, -1, -4, -1, -3, -2},
         {5, 3, -6, -2, 1, 7, -2, -10, -3, -5, 3, 9, -6, -1, 7, 1}},
        {{3, 3, -1, -1, -2, -2, 2, 3, -2, -2, 1, 1, 0, 1, -4, -3},
         {11, 1, 1, -7, 3, -4, -2, 6, -3, 5, 7, -2, 0, -10, -6, 4}}}},
    {0.16627507f, 5, {
        {{0, 0, 0, 0, -3, -3, -3, -4, 4, 3, 3, 4, 0, 0, 0, 1},
         {-4, 3, -1, 8, 0, 11, 3, -6, 4, -12, -6, -2, -8, -2, 7, 2}},
        {{0, 0, 0, 0, -3, -3, -3, -4, 4, 3, 3, 4, 0, 0, 0, 1},
         {-4, 3, -1, 8, 0, 11, 3, -6, 4, -12, -6, -2, -8, -2, 7, 2}}}},
    {0.09105288f, 6, {
        {{-3, 2, -1, 2, 2, -1, 1, -2, -2, -6, 4, 8, -6, 5, -6, 5},
         {-5, 23, -13, -4, 3, 11, 9, 3, -13, 3, -24, -11, 10, -4, -2, 12}},
        {{1, -2, 3, -4, 3, -3, 2, -4, 1, 7, 1, 7, -1, -7, 0, -6},
         {2, -8, 23, 4, -1, 15, -13, -1, -23, 1, 12, -7, 7, 9, -6, -16}}}},
    {0.09286011f, 6, {
        {{2, -1, 5, -9, 3, 1, 4, 7, -3, -4, -2, 1, -4, -6, -2, 0},
         {-3, -9, 10, 4, 5, -15, 16, -4, -23, 0, -7, 13, -12, 24, 1, 8}},
        {{2, -1, 5, -9, 3, 1, 4, 7, -3, -4, -2, 1, -4, -6, -2, 0},
         {-3, -9, 10, 4, 5, -15, 16, -4, -23, 0, -7, 13, -12, 24, 1, 8}}}},
    {0.04804938f, 7, {
        {{8, 15, -4, 0, -3, -2, 9, -6, 1, -7, -16, 3, 2, -9, 5, 5},
         {-4, 25, -29, -18, -13, 14, 31, -11, 18, -3, 48, -47, 11, 5, 3, -28}},
        {{4, -4, 3, -4, 5, -1, 7, 15, -7, -8, -2, -2, 7, 3, 2, -16},
         {-9, -24, 10, 25, -47, -3, 48, 6, 14, -14, -32, 2, -19, 18, 33, -5}}}},
    {0.05101092f, 7, {
        {{0, 2, 10, 7, 12, -20, 4, 3, -6, -1, -8, 17, -10, -13, -3, -3},
         {2, -5, -9, 19, 10, -22, 24, 6, 14, -28, -44, 46, -1, 29, -13, -17}},
        {{0, 2, 10, 7, 12, -20, 4, 3, -6, -1, -8, 17, -10, -13, -3, -3},
         {2, -5, -9, 19, 10, -22, 24, 6, 14, -28, -44, 46, -1, 29, -13, -17}}}},
    {0.05510919f, 7, {
        {{12, 19, -6, 15, -10, -18, -28, -14, 1, -13, 12, -3, 8, 29, 5, 33},
         {3, -27, 15, -14, 17, -12, 1, 30, -35, -5, 8, -21, 10, -19, -7, 23}},
        {{12, 19, -6, 15, -10, -18, -28, -14, 1, -13, 12, -3, 8, 29, 5, 33},
         {3, -27, 15, -14, 17, -12, 1, 30, -35, -5, 8, -21, 10, -19, -7, 23}}}},
    {0.02150000f, 8, {
        {{-128, -127, -126, -125, -64, -63, -62, -61, 0, 1, 2, 3, 64, 65, 66, 67},
         {0, 32, 16, 48, 8, 40, 24, 56, 4, 36, 20, 52, 12, 44, 28, 60}},
        {{-128, -127, -126, -125, -64, -63, -62, -61, 0, 1, 2, 3, 64, 65, 66, 67},
         {0, 32, 16, 48, 8, 40, 24, 56, 4, 36, 20, 52, 12, 44, 28, 60}}}},
    {0.02320000f, 8, {
        {{-128, -127, -96, -95, -64, -63, -32, -31, 0, 1, 32, 33, 64, 65, 96, 97},
         {0, 16, 8, 24, 4, 20, 12, 28, 2, 18, 10, 26, 6, 22, 14, 30}},
        {{-128, -127, -96, -95, -64, -63, -32, -31, 0, 1, 32, 33, 64, 65, 96, 97},
         {0, 16, 8, 24, 4, 20, 12, 28, 2, 18, 10, 26, 6, 22, 14, 30}}}},
    {0.02400000f, 8, {
        {{-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7},
         {-120, -104, -88, -72, -56, -40, -24, -8, 8, 24, 40, 56, 72, 88, 104, 120}},
        {{-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7},
         {-120, -104, -88, -72, -56, -40, -24, -8, 8, 24, 40, 56, 72, 88, 104, 120}}}}
};
/* Mean squared error of each mode on unit normals, scale chosen per page as >>page does. */
static const float skvi_distortion[SKVI_MODES] = {
    1.0f, 0.570f, 0.2903f, 0.150f, 0.0768f, 0.0405f, 0.0200f, 0.0107f, 0.00541f, 0.00152f,
    0.000702f, 0.000184f, 0.0000519f
};

static uint32_t skvi_mode_of(uint32_t h) { return h <= 8 ? h : h / 2 + 4; }
static const skvi_code *skvi_code_of(uint32_t h) { return &skvi_codes[skvi_mode_of(h)]; }

static const signed char *skvi_code_part(uint32_t h, uint32_t step, uint32_t which)
{
    return skvi_code_of(h)->part[step & h & 1u][which];
}

/* New bits of a step. */
static uint32_t skvi_step_bits(uint32_t h, uint32_t step) { return (h + (step & 1u)) >> 1; }

/* The level that a window stands for, from a step's A and B. */
static int skvi_part_level(const signed char *a, const signed char *b, uint32_t window)
{
    return a[window & 15u] + b[(window >> 4) ^ (window & 15u)];
}

static int skvi_level(uint32_t h, uint32_t step, uint32_t window)
{
    return skvi_part_level(skvi_code_part(h, step, 0), skvi_code_part(h, step, 1), window);
}

/* Token of a position of the circle. */
static uint32_t skvi_token_of(uint32_t at) { return 4 * (at % SKVI_STEPS) + at / SKVI_STEPS; }

/* Byte of a quad's 16 that holds lane l of channel b. */
static uint32_t skvi_quad_byte(int kind, uint32_t lane, uint32_t b)
{
    return kind ? 4 * b + lane : 4 * lane + b;
}

/* Page scales in quarter octaves: e = 0 to 270 means 2^(e/4 - 32). */
static const float skvi_quarter[4] = {1.0f, 1.1892071f, 1.4142135f, 1.6817929f};
static float skvi_scale(uint32_t e)
{
    return skvi_float(((e >> 2) + 95) << 23) * skvi_quarter[e & 3u];
}
static uint32_t skvi_nearest_scale(float x)
{
    uint32_t e;
    if (!(x > skvi_scale(0))) return 0;
    if (!(x < skvi_scale(270))) return 270;
    e = ((skvi_bits(x) >> 23) - 95) << 2;
    while (e < 270 && x > 1.0905077f * skvi_scale(e)) e++;     /* 2^(1/8): half a step */
    return e;
}

/* Levels + bias of n quads, the first of them number `first` of the buffer [pair][step][2][16]. */
static void skvi_expand_c(const unsigned char *codes, uint32_t h, int kind, int bias, uint32_t n,
                          uint32_t first, signed char *levels)
{
    uint32_t i, at, step, lane, b;
    for (i = first; i < first + n; i++, codes += 16 * h) {
        signed char *out = levels + i / 2 * SKVI_PAIR_BYTES + i % 2 * 16;
        for (lane = 0; lane < 4; lane++)
            for (b = 0; b < SKVI_QUAD; b++) {
                const unsigned char *in = codes + (at = skvi_quad_byte(kind, lane, b));
                uint32_t before = skvi_quad_byte(kind, (lane + 3) & 3u, b);
                uint32_t bits = codes[16 * (h - 1) + before], next = 0, have = 0;
                for (step = 0; step < SKVI_STEPS; step++) {     /* bits: window, then new ones */
                    uint32_t take = skvi_step_bits(h, step);
                    for (; have < take; have += 8) bits |= (uint32_t)in[16 * next++] << (8 + have);
                    bits >>= take;
                    have -= take;
                    out[32 * step + at] = (signed char)(skvi_level(h, step, bits & 255u) + bias);
                }
            }
    }
}

/* Factors of n channels, whole quads: scale * unit[quad]; 0 up to whole pairs. */
static void skvi_steps_c(const unsigned char *nibbles, uint32_t n, uint32_t gain, const float *unit,
                         float *out)
{
    uint32_t i;
    for (i = 0; i < n; i++)
        out[i] = skvi_scale(gain + ((uint32_t)nibbles[i / 2] >> 4 * (i & 1u) & 15u)) * unit[i / 4];
    for (; i % 8; i++) out[i] = 0;
}

#ifdef SKVI_LA_AVX2
#define SKVI_LOAD256(p) _mm256_loadu_si256((const __m256i *)(p))
#define SKVI_LOAD128(p) _mm_loadu_si128((const __m128i *)(p))

/* Bits at .. at+3 of the lanes whose bytes are in x[]. */
__attribute__((target("avx2"), always_inline))
static inline __m256i skvi_nibble_avx2(const __m256i *x, const uint32_t at)
{
    const uint32_t i = at >> 3, s = at & 7u;
    const __m256i low = _mm256_set1_epi8(15), part = _mm256_set1_epi8((char)(255 >> s & 15));
    __m256i a = s ? _mm256_srli_epi16(x[i], (int)s) : x[i], b;
    if (s <= 4) return _mm256_and_si256(a, low);
    b = _mm256_slli_epi16(x[i + 1], (int)(8 - s));
    return _mm256_or_si256(_mm256_and_si256(a, part),
                           _mm256_and_si256(b, _mm256_andnot_si256(part, low)));
}

/* 16 lanes, half a byte later: what starts in x goes on in y. */
__attribute__((target("avx2"), always_inline))
static inline __m128i skvi_later_avx2(__m128i x, __m128i y)
{
    const __m128i low = _mm_set1_epi8(15);
    return _mm_or_si128(_mm_and_si128(_mm_srli_epi16(x, 4), low),
                        _mm_andnot_si128(low, _mm_slli_epi16(y, 4)));
}

/* The two quads of a pair; or one (q1 unused), its second half of the steps beside its first. h and
   two are constants of the caller. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_expand_two_avx2(const uint32_t h, const int two, const unsigned char *q0,
                                        const unsigned char *q1, int kind, int bias,
                                        signed char *out)
{
    const signed char *p = skvi_code_of(h)->part[0][0];
    const __m128i before =
        kind ? _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14)
             : _mm_setr_epi8(12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    const uint32_t half = h / 2;
    __m128i y[18];                  /* bytes of the lanes, the one before them first */
    __m256i x[17], a[2], b[2];
    uint32_t i;
    for (i = 0; i < 2; i++) {
        a[i] = _mm256_broadcastsi128_si256(SKVI_LOAD128(p + 32 * (i & h)));
        a[i] = _mm256_add_epi8(a[i], _mm256_set1_epi8((char)bias));
        b[i] = _mm256_broadcastsi128_si256(SKVI_LOAD128(p + 32 * (i & h) + 16));
    }
    SKVI_UNROLL_16
    for (i = 0; i < h; i++) y[i + 1] = SKVI_LOAD128(q0 + 16 * i);
    y[0] = _mm_shuffle_epi8(y[h], before);
    if (two) {
        SKVI_UNROLL_16
        for (i = 0; i < h; i++)
            x[i + 1] = _mm256_inserti128_si256(_mm256_castsi128_si256(y[i + 1]),
                                               SKVI_LOAD128(q1 + 16 * i), 1);
        x[0] = _mm256_inserti128_si256(
            _mm256_castsi128_si256(y[0]),
            _mm_shuffle_epi8(SKVI_LOAD128(q1 + 16 * (h - 1)), before), 1);
    } else {
        y[h + 1] = y[h];
        SKVI_UNROLL_16
        for (i = 0; i <= (h + 1) / 2; i++) {
            __m128i late = h & 1u ? skvi_later_avx2(y[half + i], y[half + i + 1]) : y[half + i];
            x[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(y[i]), late, 1);
        }
    }
    SKVI_UNROLL_16
    for (i = 0; i < SKVI_STEPS; i++) {
        const uint32_t end = ((i + 1) * h) >> 1;
        __m256i lo, hi;
        if (!two && i >= SKVI_STEPS / 2) break;
        lo = skvi_nibble_avx2(x, end);
        hi = skvi_nibble_avx2(x, end + 4);
        hi = _mm256_shuffle_epi8(b[i & 1u], _mm256_xor_si256(lo, hi));
        lo = _mm256_add_epi8(_mm256_shuffle_epi8(a[i & 1u], lo), hi);
        if (two) {
            _mm256_storeu_si256((__m256i *)(out + 32 * i), lo);
            continue;
        }
        _mm_storeu_si128((__m128i *)(out + 32 * i), _mm256_castsi256_si128(lo));
        _mm_storeu_si128((__m128i *)(out + SKVI_STEPS / 2 * 32 + 32 * i),
                         _mm256_extracti128_si256(lo, 1));
    }
}

/* A run of quads of one h. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_expand_run_avx2(const unsigned char *codes, const uint32_t h, int kind,
                                        int bias, uint32_t n, uint32_t first, signed char *levels)
{
    uint32_t i = first, end = first + n, quads;
    for (; i < end; i += quads, codes += 16 * h * quads) {
        signed char *out = levels + i / 2 * SKVI_PAIR_BYTES + i % 2 * 16;
        quads = i % 2 || i + 1 == end ? 1 : 2;
        if (quads == 2) skvi_expand_two_avx2(h, 1, codes, codes + 16 * h, kind, bias, out);
        else skvi_expand_two_avx2(h, 0, codes, NULL, kind, bias, out);
    }
}

#define SKVI_EXPAND_OF(h) \
    __attribute__((target("avx2"), noinline)) \
    static void skvi_expand_##h##_avx2(const unsigned char *codes, int kind, int bias, uint32_t n, \
                                       uint32_t first, signed char *levels) \
    { \
        skvi_expand_run_avx2(codes, h, kind, bias, n, first, levels); \
    }
SKVI_EXPAND_OF(1)
SKVI_EXPAND_OF(2)
SKVI_EXPAND_OF(3)
SKVI_EXPAND_OF(4)
SKVI_EXPAND_OF(5)
SKVI_EXPAND_OF(6)
SKVI_EXPAND_OF(7)
SKVI_EXPAND_OF(8)
SKVI_EXPAND_OF(10)
SKVI_EXPAND_OF(12)
SKVI_EXPAND_OF(14)
SKVI_EXPAND_OF(16)

static void skvi_expand_avx2(const unsigned char *codes, uint32_t h, int kind, int bias, uint32_t n,
                             uint32_t first, signed char *levels)
{
    static void (*const run[SKVI_MODES])(const unsigned char *, int, int, uint32_t, uint32_t,
                                         signed char *) = {
        NULL, skvi_expand_1_avx2, skvi_expand_2_avx2, skvi_expand_3_avx2, skvi_expand_4_avx2,
        skvi_expand_5_avx2, skvi_expand_6_avx2, skvi_expand_7_avx2, skvi_expand_8_avx2,
        skvi_expand_10_avx2, skvi_expand_12_avx2, skvi_expand_14_avx2, skvi_expand_16_avx2
    };
    run[skvi_mode_of(h)](codes, kind, bias, n, first, levels);
}

/* Eight at a time: the quarter octave from a table, the octave as an exponent. Reads nibbles of a
   whole pair, unit[] is 0 there. */
__attribute__((target("avx2")))
static void skvi_steps_avx2(const unsigned char *nibbles, uint32_t n, uint32_t gain,
                            const float *unit, float *out)
{
    const __m256i shift = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256 quarter = _mm256_broadcast_ps((const __m128 *)skvi_quarter);
    uint32_t i;
    for (i = 0; i < n; i += 8, unit += 2) {
        __m256i e = _mm256_set1_epi32((int)skvi_get32(nibbles + i / 2));
        __m256 f, s, u = _mm256_set_m128(_mm_set1_ps(unit[1]), _mm_set1_ps(unit[0]));
        e = _mm256_and_si256(_mm256_srlv_epi32(e, shift), _mm256_set1_epi32(15));
        e = _mm256_add_epi32(e, _mm256_set1_epi32((int)gain));
        f = _mm256_permutevar_ps(quarter, e);           /* takes the two lowest bits */
        e = _mm256_add_epi32(_mm256_srli_epi32(e, 2), _mm256_set1_epi32(95));
        s = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(e, 23)), f);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(s, u));
    }
}

#endif

#ifdef SKVI_LA_128
/* Bits at .. at+3 of the lanes whose bytes are in x[]. */
SKVI_INLINE_128
static inline skvi_u8x16 skvi_nibble_128(const skvi_u8x16 *x, const uint32_t at)
{
    const uint32_t i = at >> 3, s = at & 7u;
    skvi_u8x16 a = x[i];
    if (s) a >>= SKVI_SPLAT_8(s);
    if (s > 4) a += x[i + 1] << SKVI_SPLAT_8(8 - s);
    if (s != 4) a &= SKVI_SPLAT_8(15);
    return a;
}

/* A run of quads of one h, a constant of the caller. */
SKVI_INLINE_128
static inline void skvi_expand_run_128(const unsigned char *codes, const uint32_t h, int kind,
                                       int bias, uint32_t n, uint32_t first, signed char *levels)
{
    static const unsigned char before[2][16] = {
        {12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
        {3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14}
    };
    const signed char *part = skvi_code_of(h)->part[0][0];
    const skvi_u8x16 order = SKVI_LOAD(skvi_u8x16, before[kind ? 1 : 0]);
    skvi_u8x16 a[2], b[2], x[17], lo;       /* x: bytes of the lanes, the one before them first */
    uint32_t i, q;
    for (i = 0; i < 2; i++) {
        a[i] = SKVI_LOAD(skvi_u8x16, part + 32 * (i & h)) + SKVI_SPLAT_8(bias);
        b[i] = SKVI_LOAD(skvi_u8x16, part + 32 * (i & h) + 16);
    }
    for (q = first; q < first + n; q++, codes += 16 * h) {
        signed char *out = levels + q / 2 * SKVI_PAIR_BYTES + q % 2 * 16;
        SKVI_UNROLL_16
        for (i = 0; i < h; i++) x[i + 1] = SKVI_LOAD(skvi_u8x16, codes + 16 * i);
        x[0] = SKVI_LOOKUP(x[h], order);
        SKVI_UNROLL_16
        for (i = 0; i < SKVI_STEPS; i++) {
            const uint32_t end = ((i + 1) * h) >> 1;
            lo = skvi_nibble_128(x, end);
            lo = SKVI_LOOKUP(a[i & 1u], lo) +
                 SKVI_LOOKUP(b[i & 1u], lo ^ skvi_nibble_128(x, end + 4));
            SKVI_STORE(skvi_u8x16, out + 32 * i, lo);
        }
    }
}

SKVI_TARGET_128
static void skvi_expand_128(const unsigned char *codes, uint32_t h, int kind, int bias, uint32_t n,
                            uint32_t first, signed char *levels)
{
    switch (h) {
    case 1: skvi_expand_run_128(codes, 1, kind, bias, n, first, levels); break;
    case 2: skvi_expand_run_128(codes, 2, kind, bias, n, first, levels); break;
    case 3: skvi_expand_run_128(codes, 3, kind, bias, n, first, levels); break;
    case 4: skvi_expand_run_128(codes, 4, kind, bias, n, first, levels); break;
    case 5: skvi_expand_run_128(codes, 5, kind, bias, n, first, levels); break;
    case 6: skvi_expand_run_128(codes, 6, kind, bias, n, first, levels); break;
    case 7: skvi_expand_run_128(codes, 7, kind, bias, n, first, levels); break;
    case 8: skvi_expand_run_128(codes, 8, kind, bias, n, first, levels); break;
    case 10: skvi_expand_run_128(codes, 10, kind, bias, n, first, levels); break;
    case 12: skvi_expand_run_128(codes, 12, kind, bias, n, first, levels); break;
    case 14: skvi_expand_run_128(codes, 14, kind, bias, n, first, levels); break;
    default: skvi_expand_run_128(codes, 16, kind, bias, n, first, levels); break;
    }
}

/* A quad at a time: the quarter octave from a table, the octave as an exponent. */
SKVI_TARGET_128
static void skvi_steps_128(const unsigned char *nibbles, uint32_t n, uint32_t gain,
                           const float *unit, float *out)
{
    const skvi_u32x4 left = {4096, 256, 16, 1};
    const skvi_u8x16 quarter = SKVI_LOAD(skvi_u8x16, skvi_quarter);
    uint32_t i;
    for (i = 0; i < n; i += 4, unit++) {
        skvi_u32x4 e = SKVI_SPLAT_32(skvi_get16(nibbles + i / 2)) * left, at;
        skvi_f32x4 f;
        e = ((e >> SKVI_SPLAT_32(12)) & SKVI_SPLAT_32(15)) + SKVI_SPLAT_32(gain);
        at = (e & SKVI_SPLAT_32(3)) * SKVI_SPLAT_32(0x04040404u) + SKVI_SPLAT_32(0x03020100u);
        f = (skvi_f32x4)SKVI_LOOKUP(quarter, at);
        e = ((e >> SKVI_SPLAT_32(2)) + SKVI_SPLAT_32(95)) << SKVI_SPLAT_32(23);
        SKVI_STORE(skvi_f32x4, out + i, (skvi_f32x4)e * f * SKVI_SPLAT_F32(*unit));
    }
    if (n % 8) SKVI_STORE(skvi_f32x4, out + n, SKVI_SPLAT_F32(0));
}
#endif

/* >>search ------------------------------------------------------------------------------------
   Viterbi search of the trellis for LANES channels of one h at once, along the circle of positions.
   States are windows; a step of b bits leads from s to (s >> b) + v G for each v < 2^b, G = 256 >>
   b, so 2^b neighbours s compete for each of G remainders. All in integers, so codes follow from
   the scaled latents alone, on every machine. Costs are bytes that stop at 255: squared
   differences, scaled so that a mode's mean error is about 2. (At 14 paths to far tokens cost too
   much to be told apart.) What a state costs above the best is bounded by the 8 / b steps that lead
   everywhere; each step takes off the least of the one before. */
#define SKVI_LANES 32u
#define SKVI_PAIRED 16u             /* channels of a search at two scales: lanes l and l + PAIRED */
#define SKVI_BEYOND 2               /* levels a latent may lie beyond the last one */
typedef struct skvi_search {
    int16_t  x[SKV_PAGE_TOKENS][SKVI_LANES];            /* latents by token, in fine steps */
    int16_t  kept[SKV_PAGE_TOKENS][SKVI_LANES];         /* of LANES channels, at the scale taken */
    unsigned char cost[2][256][SKVI_LANES];
    unsigned char dist[256][SKVI_LANES];                /* of the levels to this token's latents */
    unsigned char low[SKVI_LANES];                      /* to take off next */
    uint16_t total[SKVI_LANES];                         /* taken off so far */
    unsigned char from[SKV_PAGE_TOKENS][512];           /* winners among the neighbours */
    unsigned char state[SKV_PAGE_TOKENS][SKVI_LANES];   /* the paths found */
    uint16_t level[2][256];                             /* of windows: where in dist, at lane 0 */
} skvi_search;

/* One token of the search. */
typedef struct skvi_trial {
    const unsigned char *c;         /* [256][LANES] costs */
    unsigned char  *d;              /* next ones */
    unsigned char  *low;            /* [LANES] to subtract; becomes the least that is left */
    uint16_t       *total;          /* [LANES] what was subtracted, summed */
    const int16_t  *x;              /* [LANES], NULL: a token that costs nothing */
    unsigned char  *dist;           /* [256][LANES] room */
    const uint16_t *level;          /* [256] of windows: where in dist, at lane 0 */
    unsigned char  *from;           /* winners */
    uint32_t        levels;         /* how many there are */
    int             unit;           /* fine steps of a level */
    uint32_t        twice, b;       /* see skvi_fine; bits of this step */
} skvi_trial;

/* Fine steps of a level, to which latents are rounded: a difference of x steps costs x (x 2^twice)
   / 32768, rounded, a mode's mean error about 2, and nothing more than 255. */
typedef struct skvi_fine {
    int      unit;
    uint32_t twice;
} skvi_fine;
static skvi_fine skvi_fine_of(uint32_t h)
{
    static const skvi_fine f[SKVI_MODES] = {
        {0, 0}, {70, 0}, {143, 0}, {110, 0}, {154, 0}, {116, 0}, {169, 0}, {119, 0}, {175, 0},
        {250, 1}, {127, 1}, {127, 3}, {127, 5}
    };
    return f[skvi_mode_of(h)];
}

/* Calls f(t, b) with t's bits as a constant, so that its loops over states unroll. */
#define SKVI_BY_BITS(f, t)                                                                        \
    do {                                                                                          \
        switch ((t)->b) {                                                                         \
        case 0: f(t, 0); break;                                                                   \
        case 1: f(t, 1); break;                                                                   \
        case 2: f(t, 2); break;                                                                   \
        case 3: f(t, 3); break;                                                                   \
        case 4: f(t, 4); break;                                                                   \
        case 5: f(t, 5); break;                                                                   \
        case 6: f(t, 6); break;                                                                   \
        case 7: f(t, 7); break;                                                                   \
        default: f(t, 8); break;                                                                  \
        }                                                                                         \
    } while (0)

/* As many winners of neighbouring remainders share a byte of their lane, the first one on top. */
#define SKVI_SHARE(b) ((b) > 4 ? 1u : (b) > 2 ? 2u : (b) == 2 ? 4u : 8u)

static void skvi_search_dist_c(const skvi_trial *t)
{
    uint32_t u, l;
    int lowest = -(int)(t->levels / 2), most = 32767 >> t->twice;
    for (u = 0; u < t->levels; u++)
        for (l = 0; l < SKVI_LANES; l++) {
            int d = t->x ? t->x[l] - t->unit * ((int)u + lowest) : 0;
            d = d < 0 ? -d : d;
            d = d > most ? 255 : (d * (d << t->twice) + 16384) >> 15;
            t->dist[u * SKVI_LANES + l] = (unsigned char)(d < 255 ? d : 255);
        }
}

static void skvi_search_step_c(const skvi_trial *t)
{
    const uint32_t n = 256u >> t->b, ways = 1u << t->b, share = SKVI_SHARE(t->b);
    unsigned char low[SKVI_LANES];
    uint32_t j, k, l;
    skvi_search_dist_c(t);
    memset(low, 255, sizeof low);
    for (l = 0; l < SKVI_LANES; l++) t->total[l] = (uint16_t)(t->total[l] + t->low[l]);
    for (j = 0; j < n; j++) {
        const unsigned char *in = t->c + (j << t->b) * SKVI_LANES;
        unsigned char *from = t->from + j / share * SKVI_LANES;
        for (l = 0; l < SKVI_LANES; l++) {
            uint32_t best = in[l], who = 0;
            for (k = 1; k < ways; k++) {
                uint32_t y = in[k * SKVI_LANES + l];
                if (y > best) continue;         /* the last of equals */
                best = y;
                who = k;
            }
            if (j % share) who |= (uint32_t)from[l] << 8 / share;
            if (t->b) from[l] = (unsigned char)who;
            best = best > t->low[l] ? best - t->low[l] : 0;
            low[l] = (unsigned char)(best < low[l] ? best : low[l]);
            for (k = 0; k < ways; k++) {
                uint32_t s = k * n + j, y = best + t->dist[t->level[s] + l];
                t->d[s * SKVI_LANES + l] = (unsigned char)(y < 255 ? y : 255);
            }
        }
    }
    memcpy(t->low, low, sizeof low);
}

/* The least cost of each lane and the first state that has it. */
static void skvi_search_low_c(const unsigned char *c, unsigned char *low, unsigned char *state)
{
    uint32_t s, l;
    for (l = 0; l < SKVI_LANES; l++) {
        uint32_t first = 0;
        for (s = 1; s < 256; s++)
            if (c[s * SKVI_LANES + l] < c[first * SKVI_LANES + l]) first = s;
        low[l] = c[first * SKVI_LANES + l];
        state[l] = (unsigned char)first;
    }
}

#ifdef SKVI_LA_AVX2
__attribute__((target("avx2"), always_inline))
static inline void skvi_search_dist_avx2(const skvi_trial *t, const uint32_t twice)
{
    const __m256i unit = _mm256_set1_epi16((short)t->unit);
    const __m256i least = _mm256_set1_epi16((short)(-t->unit * (int)(t->levels / 2)));
    __m256i a = _mm256_sub_epi16(SKVI_LOAD256(t->x), least), *to = (__m256i *)t->dist;
    __m256i b = _mm256_sub_epi16(SKVI_LOAD256(t->x + 16), least), x, y;
    uint32_t u, i, k;
    x = _mm256_permute2x128_si256(a, b, 0x20);      /* as packus will want them */
    b = _mm256_permute2x128_si256(a, b, 0x31);
    a = x;
    for (u = 0; u < t->levels; u += 8, to += 8)     /* a power of two, 16 at least */
        SKVI_LA_UNROLL
        for (i = 0; i < 8; i++) {
            x = a;
            y = b;
            SKVI_LA_UNROLL
            for (k = 0; k < twice; k++) {
                x = _mm256_adds_epi16(x, x);
                y = _mm256_adds_epi16(y, y);
            }
            x = _mm256_packus_epi16(_mm256_mulhrs_epi16(x, a), _mm256_mulhrs_epi16(y, b));
            _mm256_storeu_si256(to + i, x);
            a = _mm256_sub_epi16(a, unit);
            b = _mm256_sub_epi16(b, unit);
        }
}

/* The step with b in its code: a caller's constant, so that loops unroll. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_search_bits_avx2(const skvi_trial *t, const uint32_t b)
{
    const uint32_t n = 256u >> b, ways = 1u << b, share = SKVI_SHARE(b);
    const __m256i low = SKVI_LOAD256(t->low), one = _mm256_set1_epi8(1);
    const unsigned char *in = t->c, *dist = t->dist;
    const uint16_t *level = t->level;
    unsigned char *from = t->from, *out = t->d;
    __m256i least = _mm256_set1_epi8(-1), who, all, best, x, number;
    uint32_t i, j, k;
    for (j = 0; j < n; j += share, level += share, out += share * SKVI_LANES, from += SKVI_LANES) {
        all = _mm256_setzero_si256();
        SKVI_LA_UNROLL
        for (i = 0; i < share; i++, in += ways * SKVI_LANES) {
            best = SKVI_LOAD256(in);
            who = number = _mm256_setzero_si256();
            SKVI_UNROLL_16
            for (k = 1; k < ways; k++) {
                x = SKVI_LOAD256(in + k * SKVI_LANES);
                best = _mm256_min_epu8(best, x);
                x = _mm256_cmpeq_epi8(best, x);
                if (b > 1) number = _mm256_add_epi8(number, one);
                who = b == 1 ? _mm256_and_si256(x, one) : _mm256_blendv_epi8(who, number, x);
            }
            all = _mm256_or_si256(_mm256_slli_epi16(all, (int)(8 / share)), who);
            best = _mm256_subs_epu8(best, low);
            least = _mm256_min_epu8(least, best);
            SKVI_UNROLL_16
            for (k = 0; k < ways; k++) {
                x = _mm256_adds_epu8(best, SKVI_LOAD256(dist + level[i + k * n]));
                _mm256_storeu_si256((__m256i *)(out + (i + k * n) * SKVI_LANES), x);
            }
        }
        if (b) _mm256_storeu_si256((__m256i *)from, all);
    }
    _mm256_storeu_si256((__m256i *)t->low, least);
}

__attribute__((target("avx2")))
static void skvi_search_step_avx2(const skvi_trial *t)
{
    __m256i *total = (__m256i *)t->total, x = SKVI_LOAD256(t->low);
    if (!t->x) memset(t->dist, 0, t->levels * SKVI_LANES);
    else if (t->twice == 0) skvi_search_dist_avx2(t, 0);
    else if (t->twice == 1) skvi_search_dist_avx2(t, 1);
    else if (t->twice == 3) skvi_search_dist_avx2(t, 3);
    else skvi_search_dist_avx2(t, 5);
    _mm256_storeu_si256(total, _mm256_add_epi16(SKVI_LOAD256(total), _mm256_cvtepu8_epi16(
                                                    _mm256_castsi256_si128(x))));
    x = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1));
    _mm256_storeu_si256(total + 1, _mm256_add_epi16(SKVI_LOAD256(total + 1), x));
    SKVI_BY_BITS(skvi_search_bits_avx2, t);
}

__attribute__((target("avx2")))
static void skvi_search_low_avx2(const unsigned char *c, unsigned char *low, unsigned char *state)
{
    __m256i least = SKVI_LOAD256(c), first = _mm256_setzero_si256(), at = first, x;
    uint32_t s;
    for (s = 1; s < 256; s++) {
        at = _mm256_sub_epi8(at, _mm256_set1_epi8(-1));
        x = _mm256_cmpeq_epi8(least, _mm256_min_epu8(least, SKVI_LOAD256(c + s * SKVI_LANES)));
        first = _mm256_blendv_epi8(at, first, x);
        least = _mm256_min_epu8(least, SKVI_LOAD256(c + s * SKVI_LANES));
    }
    _mm256_storeu_si256((__m256i *)low, least);
    _mm256_storeu_si256((__m256i *)state, first);
}
#endif

#ifdef SKVI_LA_128
SKVI_TARGET_128
static void skvi_search_dist_128(const skvi_trial *t)
{
    const skvi_u16x8 unit = SKVI_SPLAT_16(t->unit);     /* unsigned: lanes not in use may wrap */
    const skvi_u16x8 least = SKVI_SPLAT_16(-t->unit * (int)(t->levels / 2));
    skvi_u16x8 level[4];
    skvi_i16x8 x[4];
    uint32_t u, v, k;
    if (!t->x) {
        memset(t->dist, 0, t->levels * SKVI_LANES);
        return;
    }
    for (v = 0; v < 4; v++) level[v] = SKVI_LOAD(skvi_u16x8, t->x + 8 * v) - least;
    for (u = 0; u < t->levels; u++) {
        for (v = 0; v < 4; v++) {
            x[v] = (skvi_i16x8)level[v];
            for (k = 0; k < t->twice; k++) x[v] = SKVI_ADDS_I16(x[v], x[v]);
            x[v] = SKVI_MULS_I16(x[v], (skvi_i16x8)level[v]);
            level[v] -= unit;
        }
        SKVI_STORE(skvi_u8x16, t->dist + u * SKVI_LANES, SKVI_CUT_BYTES(x[0], x[1]));
        SKVI_STORE(skvi_u8x16, t->dist + u * SKVI_LANES + 16, SKVI_CUT_BYTES(x[2], x[3]));
    }
}

/* The step for 16 lanes from `lane` on, with b in its code: a caller's constant, so that loops
   unroll. */
SKVI_INLINE_128
static inline void skvi_search_lanes_128(const skvi_trial *t, const uint32_t b, uint32_t lane)
{
    const uint32_t n = 256u >> b, ways = 1u << b, share = SKVI_SHARE(b);
    const skvi_u8x16 low = SKVI_LOAD(skvi_u8x16, t->low + lane);
    const unsigned char *in = t->c + lane, *dist = t->dist + lane;
    skvi_u8x16 least = SKVI_SPLAT_8(255), who, all, best, number, x;
    uint32_t i, j, k;
    for (j = 0; j < n; j += share) {
        all = SKVI_SPLAT_8(0);
        SKVI_LA_UNROLL
        for (i = j; i < j + share; i++, in += ways * SKVI_LANES) {
            best = SKVI_LOAD(skvi_u8x16, in);
            who = number = SKVI_SPLAT_8(0);
            SKVI_LA_UNROLL
            for (k = 1; k < ways; k++) {
                x = SKVI_LOAD(skvi_u8x16, in + k * SKVI_LANES);
                best = SKVI_MIN_U8(best, x);
                x = (skvi_u8x16)(best == x);
                number += SKVI_SPLAT_8(1);
                who = (who & ~x) | (number & x);
            }
            all = (share > 1 ? all << SKVI_SPLAT_8(8 / share) : all) | who;
            best = SKVI_SUBS_U8(best, low);
            least = SKVI_MIN_U8(least, best);
            SKVI_LA_UNROLL
            for (k = 0; k < ways; k++) {
                const uint32_t s = k * n + i;
                x = SKVI_ADDS_U8(best, SKVI_LOAD(skvi_u8x16, dist + t->level[s]));
                SKVI_STORE(skvi_u8x16, t->d + s * SKVI_LANES + lane, x);
            }
        }
        if (b) SKVI_STORE(skvi_u8x16, t->from + j / share * SKVI_LANES + lane, all);
    }
    SKVI_STORE(skvi_u8x16, t->low + lane, least);
}

/* All lanes. */
SKVI_INLINE_128
static inline void skvi_search_bits_128(const skvi_trial *t, const uint32_t b)
{
    skvi_search_lanes_128(t, b, 0);
    skvi_search_lanes_128(t, b, 16);
}

SKVI_TARGET_128
static void skvi_search_step_128(const skvi_trial *t)
{
    uint32_t l;
    for (l = 0; l < SKVI_LANES; l++) t->total[l] = (uint16_t)(t->total[l] + t->low[l]);
    skvi_search_dist_128(t);
    SKVI_BY_BITS(skvi_search_bits_128, t);
}

SKVI_TARGET_128
static void skvi_search_low_128(const unsigned char *c, unsigned char *low, unsigned char *state)
{
    uint32_t s, v;
    for (v = 0; v < SKVI_LANES; v += 16) {
        skvi_u8x16 least = SKVI_LOAD(skvi_u8x16, c + v), first = SKVI_SPLAT_8(0), at = first, x, y;
        for (s = 1; s < 256; s++) {
            at += SKVI_SPLAT_8(1);
            y = SKVI_LOAD(skvi_u8x16, c + s * SKVI_LANES + v);
            x = (skvi_u8x16)(y < least);
            first = (first & ~x) | (at & x);
            least = SKVI_MIN_U8(least, y);
        }
        SKVI_STORE(skvi_u8x16, low + v, least);
        SKVI_STORE(skvi_u8x16, state + v, first);
    }
}
#endif

/* >>integer -----------------------------------------------------------------------------------
   Attention on the levels of a page, for up to SKVI_GANG rows (query heads) that share it. Queries
   become 8 bits, weights 8 bits without sign; channels of more than 5 bits ("wide") have levels of
   8 bits and take queries and weights of 14. Sums are exact integers, so tables agree in all bits;
   the float parts keep the order of the C versions.

   Levels come in pairs of quads, [pair][step][2][16] as >>quant says. A query is repeated as often
   as its levels ask: [pair][row][2][4 lanes][4 channels] for bytes, and [pair][row][2][2][4] for 16
   bits. Scores are acc[row][token], values acc[pair][row][8 channels]. */
#define SKVI_GANG 4u
#define SKVI_MAGIC 12582912.0f       /* 1.5 * 2^23: added and taken off, rounds to even */
#define SKVI_SLAB 64u               /* channels that are expanded at a time */

/* Up to SLAB channels of a stream that are all wide or all narrow: where they are in a sub and how
   kernels take them; their factors once skvi_slab_expand, or keys or values of a kernel table, has
   been there. */
typedef struct skvi_slab {
    uint32_t ch, n;                 /* from which channel on, how many, whole quads */
    int      wide, kind;
    uint32_t n_runs;                /* of quads of one h */
    struct { uint32_t h, first, quads, bias, codes; } run[SKVI_MODES];     /* codes: bytes before */
    float    reach;                 /* the largest levels of each channel, summed */
    float    unit[SKVI_SLAB / SKVI_QUAD];
    float    zero[SKVI_SLAB / SKVI_QUAD];   /* what was added to levels */
    float    step[SKVI_SLAB];       /* factors; 0 up to whole pairs */
} skvi_slab;

/* Asks for a run's codes in the next page's sub, while those of this page are at work: subs are
   apart, so hardware does not see them coming, and many requests at once wait for each other. */
static void skvi_fetch_run(const skvi_slab *b, uint32_t run, const unsigned char *next)
{
#ifdef SKVI_PREFETCH
    uint32_t at, bytes = b->run[run].quads * 16 * b->run[run].h;
    if (!next) return;
    for (at = 0; at < bytes; at += 64) SKVI_PREFETCH(next + b->run[run].codes + at);
#else
    (void)b, (void)run, (void)next;
#endif
}

/* A slab of narrow channels of one page and the rows of a gang, for kernels that expand and
   multiply at once. Its factors are computed with the first gang. */
typedef struct skvi_joint {
    skvi_slab           *slab;
    const unsigned char *sub, *next;    /* of this page; of the next, or NULL */
    uint32_t             rows;
    size_t               whole;     /* numbers from a row of latents to the next */
    signed char         *levels;    /* [SLAB / 4][256]: kept for the next gang; NULL: none */
    int                  kept;      /* they are there */
    float               *unit;      /* [rows]: what one query (out), one weight (in) is worth */
} skvi_joint;

/* A query times the factors of n channels, to integers; n is padded with zeros to pairs, `stride`
   bytes apart; all 0 where no product is above 1e-34. Returns what one is worth; *offset is the sum
   of zero[quad] times them. */
static float skvi_query_c(const float *q, const float *step, const float *zero, uint32_t n,
                          int wide, void *out, size_t stride, float *offset)
{
    SKVI_UNFUSED
    float top = 0, most = wide ? 8191.0f : 127.0f, inv, sum = 0;
    uint32_t i, j, b;
    for (i = 0; i < n; i++) {
        float a = fabsf(q[i] * step[i]);
        top = a > top ? a : top;
    }
    inv = top > 1e-34f ? most / top : 0;
    for (i = 0; i < n; i += 8)
        for (b = 0; b < 8; b++) {
            float x = i + b < n ? q[i + b] * step[i + b] * inv + SKVI_MAGIC - SKVI_MAGIC : 0;
            unsigned char *at = (unsigned char *)out + i / 8 * stride;
            if (i + b < n) sum += x * zero[(i + b) / 4];
            for (j = 0; !wide && j < 4; j++)
                ((signed char *)at)[b / 4 * 16 + 4 * j + b % 4] = (signed char)x;
            for (j = 0; wide && j < 2; j++) ((int16_t *)at)[b / 4 * 8 + 4 * j + b % 4] = (int16_t)x;
        }
    *offset = sum;
    return top / most;
}

static void skvi_score_c(const signed char *levels, const signed char *q, uint32_t pairs,
                         uint32_t rows, int32_t *acc)
{
    uint32_t p, r, i, j;
    memset(acc, 0, rows * SKV_PAGE_TOKENS * sizeof *acc);
    for (p = 0; p < pairs; p++)
        for (r = 0; r < rows; r++)
            for (i = 0; i < SKVI_STEPS; i++)
                for (j = 0; j < 32; j++)
                    acc[r * SKV_PAGE_TOKENS + 4 * i + j % 16 / 4] +=
                        levels[p * SKVI_PAIR_BYTES + 32 * i + j] * q[(p * rows + r) * 32 + j];
}

static void skvi_score_wide_c(const signed char *levels, const int16_t *q, uint32_t pairs,
                              uint32_t rows, int32_t *acc)
{
    uint32_t p, r, i, j;
    memset(acc, 0, rows * SKV_PAGE_TOKENS * sizeof *acc);
    for (p = 0; p < pairs; p++)
        for (r = 0; r < rows; r++)
            for (i = 0; i < SKVI_STEPS; i++)
                for (j = 0; j < 32; j++)
                    acc[r * SKV_PAGE_TOKENS + 4 * i + j % 16 / 4] +=
                        levels[p * SKVI_PAIR_BYTES + 32 * i + j] *
                        q[(p * rows + r) * 16 + j / 16 * 8 + j % 4];
}

static void skvi_value_c(const signed char *levels, const unsigned char *w, uint32_t pairs,
                         uint32_t rows, int32_t *acc)
{
    uint32_t p, r, i, j;
    memset(acc, 0, pairs * rows * 8 * sizeof *acc);
    for (p = 0; p < pairs; p++)
        for (r = 0; r < rows; r++)
            for (i = 0; i < SKVI_STEPS; i++)
                for (j = 0; j < 32; j++)
                    acc[(p * rows + r) * 8 + j / 4] +=
                        levels[p * SKVI_PAIR_BYTES + 32 * i + j] *
                        w[r * SKV_PAGE_TOKENS + 4 * i + j % 4];
}

static void skvi_value_wide_c(const signed char *levels, const int16_t *w, uint32_t pairs,
                              uint32_t rows, int32_t *acc)
{
    uint32_t p, r, i, j;
    memset(acc, 0, pairs * rows * 8 * sizeof *acc);
    for (p = 0; p < pairs; p++)
        for (r = 0; r < rows; r++)
            for (i = 0; i < SKVI_STEPS; i++)
                for (j = 0; j < 32; j++)
                    acc[(p * rows + r) * 8 + j / 4] +=
                        levels[p * SKVI_PAIR_BYTES + 32 * i + j] *
                        w[r * SKV_PAGE_TOKENS + 4 * i + j % 4];
}

/* s[64] += unit (acc - offset) */
static void skvi_add_scores_c(const int32_t *acc, float unit, float offset, float *s)
{
    SKVI_UNFUSED
    uint32_t i;
    for (i = 0; i < SKV_PAGE_TOKENS; i++) s[i] += unit * ((float)acc[i] - offset);
}

/* out[n] += unit (step acc), acc in groups of 8, `stride` apart */
static void skvi_add_values_c(const int32_t *acc, size_t stride, const float *step, float unit,
                              uint32_t n, float *out)
{
    SKVI_UNFUSED
    uint32_t i;
    for (i = 0; i < n; i++) out[i] += unit * (step[i] * (float)acc[i / 8 * stride + i % 8]);
}

static float skvi_top_c(const float *s)
{
    float top = s[0];
    uint32_t i;
    for (i = 1; i < SKV_PAGE_TOKENS; i++) top = s[i] > top ? s[i] : top;
    return top;
}

/* s[64] to exp(s - top), 0 below e^-87; returns the sum. 2^f by a polynomial of degree 6 on
   [-0.5, 0.5]; relative error 2.5e-7 + 7.5e-8 |s - top|. */
#define SKVI_LOG2E 1.44269504f
static float skvi_exp_c(float x)
{
    SKVI_UNFUSED
    float n, f, y;
    if (!(x > -87.0f)) return 0;
    x *= SKVI_LOG2E;
    n = x + SKVI_MAGIC;
    f = x - (n - SKVI_MAGIC);
    y = f * 1.5403530e-4f + 1.3333558e-3f;
    y = y * f + 9.6181291e-3f;
    y = y * f + 5.5504109e-2f;
    y = y * f + 2.4022651e-1f;
    y = y * f + 6.9314718e-1f;
    y = y * f + 1.0f;
    return skvi_float(skvi_bits(y) + (skvi_bits(n) << 23));
}
static float skvi_exps_c(float *s, float top)
{
    SKVI_UNFUSED
    float sum[8] = {0};
    uint32_t i, l;
    for (i = 0; i < SKV_PAGE_TOKENS; i += 8)
        for (l = 0; l < 8; l++) {
            s[i + l] = skvi_exp_c(s[i + l] - top);
            sum[l] += s[i + l];
        }
    for (l = 0; l < 4; l++) sum[l] += sum[l + 4];
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* Weights s[64] >= 0 to p[64], at most 254, and 64 times finer to wide[64] unless NULL. What
   rounding takes from a token goes to the sixteenth after it, so no mass is lost. Returns what one
   is worth; 0: all are 0. */
static float skvi_weights_c(const float *s, unsigned char *p, int16_t *wide)
{
    SKVI_UNFUSED
    float carry[16] = {0}, top = skvi_top_c(s), inv;
    uint32_t i, l;
    if (!(top > 1e-30f)) return 0;
    inv = 254.0f / top;
    for (i = 0; i < SKV_PAGE_TOKENS; i += 16)
        for (l = 0; l < 16; l++) {
            float x = s[i + l] * inv + carry[l], n = x + SKVI_MAGIC - SKVI_MAGIC;
            carry[l] = x - n;
            p[i + l] = (unsigned char)n;
        }
    inv *= 64;
    for (i = 0; wide && i < SKV_PAGE_TOKENS; i++)
        wide[i] = (int16_t)(s[i] * inv + SKVI_MAGIC - SKVI_MAGIC);
    return top / 254.0f;
}

#ifdef SKVI_LA_AVX2
__attribute__((target("avx2")))
static float skvi_most_avx2(__m256 x)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_shuffle_ps(a, a, 1)));
}

/* Reads q, step and zero up to the next multiple of 8, where they are 0. */
__attribute__((target("avx2")))
static float skvi_query_avx2(const float *q, const float *step, const float *zero, uint32_t n,
                             int wide, void *out, size_t stride, float *offset)
{
    SKVI_UNFUSED
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    __m256 most = _mm256_setzero_ps(), inv, sum = most, zeros;
    float top, range = wide ? 8191.0f : 127.0f;
    unsigned char *at = (unsigned char *)out;
    uint32_t i;
    for (i = 0; i < n; i += 8) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(q + i), _mm256_loadu_ps(step + i));
        most = _mm256_max_ps(most, _mm256_and_ps(x, magnitude));
    }
    top = skvi_most_avx2(most);
    inv = _mm256_set1_ps(top > 1e-34f ? range / top : 0);
    for (i = 0; i < n; i += 8, at += stride) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(q + i), _mm256_loadu_ps(step + i));
        __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(x, inv));
        zeros = _mm256_set_m128(_mm_set1_ps(zero[i / 4 + 1]), _mm_set1_ps(zero[i / 4]));
        sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_cvtepi32_ps(v), zeros));
        v = _mm256_packs_epi32(v, v);
        if (!wide) v = _mm256_packs_epi16(v, v);
        _mm256_storeu_si256((__m256i *)at, v);
    }
    *offset = skvi_sum_avx2(sum);
    return top / range;
}

/* Sums in a type of their own: gcc copies those of type __m256i at the end of each round. */
typedef int32_t skvi_sums_avx2 __attribute__((vector_size(32)));

/* Two steps at a time. Levels have at most 7 bits here, so sums of two products fit in 16. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_score_rows_avx2(const uint32_t rows, const signed char *levels,
                                        const signed char *q, uint32_t pairs, int32_t *acc)
{
    const __m256i one = _mm256_set1_epi16(1);
    uint32_t i, p, r;
    for (i = 0; i < SKVI_STEPS; i += 2, levels += 64, acc += 8) {
        const signed char *level = levels, *query = q;
        skvi_sums_avx2 a[4][2];
        __m256i x, y, z, u;
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) a[r][0] = a[r][1] = (skvi_sums_avx2)_mm256_setzero_si256();
        for (p = 0; p < pairs; p++, level += SKVI_PAIR_BYTES, query += 32 * rows) {
            x = SKVI_LOAD256(level);
            y = SKVI_LOAD256(level + 32);
            SKVI_LA_UNROLL
            for (r = 0; r < rows; r++) {
                z = SKVI_LOAD256(query + 32 * r);
                u = _mm256_madd_epi16(_mm256_maddubs_epi16(x, z), one);
                a[r][0] += (skvi_sums_avx2)u;
                u = _mm256_madd_epi16(_mm256_maddubs_epi16(y, z), one);
                a[r][1] += (skvi_sums_avx2)u;
            }
        }
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) {
            x = _mm256_permute2x128_si256((__m256i)a[r][0], (__m256i)a[r][1], 0x20);
            y = _mm256_permute2x128_si256((__m256i)a[r][0], (__m256i)a[r][1], 0x31);
            _mm256_storeu_si256((__m256i *)(acc + r * SKV_PAGE_TOKENS), _mm256_add_epi32(x, y));
        }
    }
}

__attribute__((target("avx2")))
static void skvi_score_avx2(const signed char *levels, const signed char *q, uint32_t pairs,
                            uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_score_rows_avx2, rows, levels, q, pairs, acc);
}

/* 16 levels as 16-bit numbers. */
__attribute__((target("avx2"), always_inline))
static inline __m256i skvi_widen_avx2(const signed char *levels)
{
    return _mm256_cvtepi8_epi16(SKVI_LOAD128(levels));
}

__attribute__((target("avx2"), always_inline))
static inline void skvi_score_wide_rows_avx2(const uint32_t rows, const signed char *levels,
                                             const int16_t *q, uint32_t pairs, int32_t *acc)
{
    uint32_t i, p, r, k;
    for (i = 0; i < SKVI_STEPS; i += 2) {
        const signed char *level = levels + 32 * i;
        const int16_t *query = q;
        skvi_sums_avx2 a[4][2];
        __m256i sum;
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) a[r][0] = a[r][1] = (skvi_sums_avx2)_mm256_setzero_si256();
        for (p = 0; p < pairs; p++, level += SKVI_PAIR_BYTES, query += 16 * rows)
            for (k = 0; k < 2; k++) {
                __m256i x = skvi_widen_avx2(level + 16 * k);
                __m256i y = skvi_widen_avx2(level + 32 + 16 * k);
                SKVI_LA_UNROLL
                for (r = 0; r < rows; r++) {
                    __m256i z = _mm256_broadcastsi128_si256(SKVI_LOAD128(query + 16 * r + 8 * k));
                    a[r][0] += (skvi_sums_avx2)_mm256_madd_epi16(x, z);
                    a[r][1] += (skvi_sums_avx2)_mm256_madd_epi16(y, z);
                }
            }
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) {
            sum = _mm256_hadd_epi32((__m256i)a[r][0], (__m256i)a[r][1]);
            sum = _mm256_permute4x64_epi64(sum, 0xD8);
            _mm256_storeu_si256((__m256i *)(acc + r * SKV_PAGE_TOKENS + 4 * i), sum);
        }
    }
}

__attribute__((target("avx2")))
static void skvi_score_wide_avx2(const signed char *levels, const int16_t *q, uint32_t pairs,
                                 uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_score_wide_rows_avx2, rows, levels, q, pairs, acc);
}

/* One pair or two, n, which share what is loaded of the weights. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_value_pairs_avx2(const uint32_t rows, const uint32_t n,
                                         const signed char *levels, const unsigned char *w,
                                         int32_t *acc)
{
    const __m256i one = _mm256_set1_epi16(1);
    skvi_sums_avx2 a[4][2];
    __m256i x, y, z, u;
    uint32_t r, i;
    SKVI_LA_UNROLL
    for (r = 0; r < rows; r++) a[r][0] = a[r][1] = (skvi_sums_avx2)_mm256_setzero_si256();
    SKVI_UNROLL_4
    for (i = 0; i < SKVI_STEPS; i++, levels += 32, w += 4) {
        x = y = SKVI_LOAD256(levels);
        if (n == 2) y = SKVI_LOAD256(levels + SKVI_PAIR_BYTES);
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, w + r * SKV_PAGE_TOKENS, 4);
            z = _mm256_set1_epi32(four);
            u = _mm256_madd_epi16(_mm256_maddubs_epi16(z, x), one);
            a[r][0] += (skvi_sums_avx2)u;
            if (n == 1) continue;
            u = _mm256_madd_epi16(_mm256_maddubs_epi16(z, y), one);
            a[r][1] += (skvi_sums_avx2)u;
        }
    }
    SKVI_LA_UNROLL
    for (r = 0; r < rows; r++) {
        _mm256_storeu_si256((__m256i *)(acc + 8 * r), (__m256i)a[r][0]);
        if (n == 2) _mm256_storeu_si256((__m256i *)(acc + 8 * (rows + r)), (__m256i)a[r][1]);
    }
}

__attribute__((target("avx2"), always_inline))
static inline void skvi_value_rows_avx2(const uint32_t rows, const signed char *levels,
                                        const unsigned char *w, uint32_t pairs, int32_t *acc)
{
    for (; pairs > 1; pairs -= 2, levels += 2 * SKVI_PAIR_BYTES, acc += 16 * rows)
        skvi_value_pairs_avx2(rows, 2, levels, w, acc);
    if (pairs) skvi_value_pairs_avx2(rows, 1, levels, w, acc);
}

__attribute__((target("avx2")))
static void skvi_value_avx2(const signed char *levels, const unsigned char *w, uint32_t pairs,
                            uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_value_rows_avx2, rows, levels, w, pairs, acc);
}

__attribute__((target("avx2"), always_inline))
static inline void skvi_value_wide_rows_avx2(const uint32_t rows, const signed char *levels,
                                             const int16_t *w, uint32_t pairs, int32_t *acc)
{
    uint32_t p, r, i;
    for (p = 0; p < pairs; p++, levels += SKVI_PAIR_BYTES) {
        skvi_sums_avx2 a[4][2];
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) a[r][0] = a[r][1] = (skvi_sums_avx2)_mm256_setzero_si256();
        SKVI_UNROLL_4
        for (i = 0; i < SKVI_STEPS; i++) {
            __m256i x = skvi_widen_avx2(levels + 32 * i);
            __m256i y = skvi_widen_avx2(levels + 32 * i + 16);
            SKVI_LA_UNROLL
            for (r = 0; r < rows; r++) {
                long long four;
                __m256i z;
                memcpy(&four, w + r * SKV_PAGE_TOKENS + 4 * i, 8);
                z = _mm256_set1_epi64x(four);
                a[r][0] += (skvi_sums_avx2)_mm256_madd_epi16(x, z);
                a[r][1] += (skvi_sums_avx2)_mm256_madd_epi16(y, z);
            }
        }
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++, acc += 8) {
            __m256i sum = _mm256_hadd_epi32((__m256i)a[r][0], (__m256i)a[r][1]);
            _mm256_storeu_si256((__m256i *)acc, _mm256_permute4x64_epi64(sum, 0xD8));
        }
    }
}

__attribute__((target("avx2")))
static void skvi_value_wide_avx2(const signed char *levels, const int16_t *w, uint32_t pairs,
                                 uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_value_wide_rows_avx2, rows, levels, w, pairs, acc);
}

__attribute__((target("avx2")))
static void skvi_add_scores_avx2(const int32_t *acc, float unit, float offset, float *s)
{
    SKVI_UNFUSED
    uint32_t i;
    SKVI_LA_UNROLL
    for (i = 0; i < SKV_PAGE_TOKENS; i += 8) {
        __m256 x = _mm256_sub_ps(_mm256_cvtepi32_ps(SKVI_LOAD256(acc + i)),
                                 _mm256_set1_ps(offset));
        x = _mm256_mul_ps(_mm256_set1_ps(unit), x);
        _mm256_storeu_ps(s + i, _mm256_add_ps(_mm256_loadu_ps(s + i), x));
    }
}

/* Writes whole eights: step is 0 beyond n. */
__attribute__((target("avx2")))
static void skvi_add_values_avx2(const int32_t *acc, size_t stride, const float *step, float unit,
                                 uint32_t n, float *out)
{
    SKVI_UNFUSED
    uint32_t i;
    for (i = 0; i < n; i += 8, acc += stride) {
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(step + i), _mm256_cvtepi32_ps(SKVI_LOAD256(acc)));
        x = _mm256_mul_ps(_mm256_set1_ps(unit), x);
        _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_loadu_ps(out + i), x));
    }
}

__attribute__((target("avx2")))
static float skvi_top_avx2(const float *s)
{
    __m256 x = _mm256_loadu_ps(s), y = _mm256_loadu_ps(s + 8);
    uint32_t i;
    SKVI_LA_UNROLL
    for (i = 16; i < SKV_PAGE_TOKENS; i += 16) {
        x = _mm256_max_ps(x, _mm256_loadu_ps(s + i));
        y = _mm256_max_ps(y, _mm256_loadu_ps(s + i + 8));
    }
    return skvi_most_avx2(_mm256_max_ps(x, y));
}

__attribute__((target("avx2")))
static float skvi_exps_avx2(float *s, float top)
{
    SKVI_UNFUSED
    static const float part[6] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f,
                                  6.9314718e-1f, 1.0f};
    const __m256 magic = _mm256_set1_ps(SKVI_MAGIC);
    __m256 sum = _mm256_setzero_ps();
    uint32_t i, k;
    for (i = 0; i < SKV_PAGE_TOKENS; i += 8) {
        __m256 x = _mm256_sub_ps(_mm256_loadu_ps(s + i), _mm256_set1_ps(top)), n, f, y;
        __m256 here = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_GT_OQ);
        x = _mm256_mul_ps(x, _mm256_set1_ps(SKVI_LOG2E));
        n = _mm256_add_ps(x, magic);
        f = _mm256_sub_ps(x, _mm256_sub_ps(n, magic));
        y = _mm256_mul_ps(f, _mm256_set1_ps(1.5403530e-4f));
        y = _mm256_add_ps(y, _mm256_set1_ps(part[0]));
        SKVI_LA_UNROLL
        for (k = 1; k < 6; k++) y = _mm256_add_ps(_mm256_mul_ps(y, f), _mm256_set1_ps(part[k]));
        y = _mm256_castsi256_ps(_mm256_add_epi32(
            _mm256_castps_si256(y), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
        y = _mm256_and_ps(y, here);
        sum = _mm256_add_ps(sum, y);
        _mm256_storeu_ps(s + i, y);
    }
    return skvi_sum_avx2(sum);
}

__attribute__((target("avx2")))
static float skvi_weights_avx2(const float *s, unsigned char *p, int16_t *wide)
{
    SKVI_UNFUSED
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256 magic = _mm256_set1_ps(SKVI_MAGIC);
    __m256 carry[2], inv;
    __m256i v[8];
    float top = skvi_top_avx2(s);
    uint32_t i;
    if (!(top > 1e-30f)) return 0;
    inv = _mm256_set1_ps(254.0f / top);
    carry[0] = carry[1] = _mm256_setzero_ps();
    SKVI_LA_UNROLL
    for (i = 0; i < 8; i++) {
        __m256 x = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(s + 8 * i), inv), carry[i & 1u]);
        __m256 n = _mm256_sub_ps(_mm256_add_ps(x, magic), magic);
        carry[i & 1u] = _mm256_sub_ps(x, n);
        v[i] = _mm256_cvtps_epi32(n);
    }
    SKVI_LA_UNROLL
    for (i = 0; i < 8; i += 4) {
        __m256i a = _mm256_packs_epi32(v[i], v[i + 1]), b = _mm256_packs_epi32(v[i + 2], v[i + 3]);
        a = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
        _mm256_storeu_si256((__m256i *)(p + 8 * i), a);
    }
    inv = _mm256_mul_ps(inv, _mm256_set1_ps(64));
    for (i = 0; wide && i < SKV_PAGE_TOKENS; i += 16) {
        __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(s + i), inv));
        __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(s + i + 8), inv));
        a = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
        _mm256_storeu_si256((__m256i *)(wide + i), a);
    }
    return top / 254.0f;
}
#ifdef SKVI_LA_AVX512
/* As skvi_sums_avx2: gcc copies __m512i before each product and after. */
typedef int32_t skvi_sums_avx512 __attribute__((vector_size(64)));
#define SKVI_DOT512(f, a, x, z) ((a) = (skvi_sums_avx512)f((__m512i)(a), x, z))
#define SKVI_DOT4(f, a, x, z) \
    (SKVI_DOT512(f, (a)[0], (x)[0], z), SKVI_DOT512(f, (a)[1], (x)[1], z), \
     SKVI_DOT512(f, (a)[2], (x)[2], z), SKVI_DOT512(f, (a)[3], (x)[3], z))
#define SKVI_ZERO4(a) \
    ((a)[0] = (a)[1] = (a)[2] = (a)[3] = (skvi_sums_avx512)_mm512_setzero_si512())

/* 32 levels as 16-bit numbers. */
SKVI_INLINE_AVX512
static inline __m512i skvi_widen_avx512(const signed char *levels)
{
    return _mm512_cvtepi8_epi16(SKVI_LOAD256(levels));
}

/* x0 + x1, x2 + x3, .. of u, then of v. */
SKVI_INLINE_AVX512
static inline __m512i skvi_add_pairs_avx512(__m512i u, __m512i v)
{
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16,
                                          14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_permutex2var_epi32(u, even, v),
                            _mm512_permutex2var_epi32(u, odd, v));
}

/* Lower and upper half of u added, then those of v. */
SKVI_INLINE_AVX512
static inline __m512i skvi_add_halves_avx512(__m512i u, __m512i v)
{
    return _mm512_add_epi32(_mm512_shuffle_i32x4(u, v, 0x44), _mm512_shuffle_i32x4(u, v, 0xEE));
}

/* Four steps at a time. */
SKVI_INLINE_AVX512
static inline void skvi_score_wide_rows_avx512(const uint32_t rows, const signed char *levels,
                                               const int16_t *q, uint32_t pairs, int32_t *acc)
{
    const __m512i twice = _mm512_set_epi64(3, 2, 3, 2, 1, 0, 1, 0);
    uint32_t i, p, r, k;
    for (i = 0; i < SKVI_STEPS; i += 4, levels += 128, acc += 16) {
        const signed char *level = levels;
        const int16_t *query = q;
        skvi_sums_avx512 a[4][4];
        __m512i x[4], z;
        SKVI_UNROLL_16
        for (r = 0; r < rows; r++) SKVI_ZERO4(a[r]);
        for (p = 0; p < pairs; p++, level += SKVI_PAIR_BYTES, query += 16 * rows) {
            SKVI_UNROLL_16
            for (k = 0; k < 4; k++) x[k] = skvi_widen_avx512(level + 32 * k);
            SKVI_UNROLL_16
            for (r = 0; r < rows; r++) {
                z = _mm512_castsi256_si512(SKVI_LOAD256(query + 16 * r));
                z = _mm512_permutexvar_epi64(twice, z);
                SKVI_DOT4(_mm512_dpwssd_epi32, a[r], x, z);
            }
        }
        SKVI_UNROLL_16
        for (r = 0; r < rows; r++) {
            z = skvi_add_pairs_avx512(skvi_add_halves_avx512((__m512i)a[r][0], (__m512i)a[r][1]),
                                      skvi_add_halves_avx512((__m512i)a[r][2], (__m512i)a[r][3]));
            SKVI_STORE512(acc + r * SKV_PAGE_TOKENS, z);
        }
    }
}

SKVI_AVX512
static void skvi_score_wide_avx512(const signed char *levels, const int16_t *q, uint32_t pairs,
                                   uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_score_wide_rows_avx512, rows, levels, q, pairs, acc);
}

/* One pair or two, n. */
SKVI_INLINE_AVX512
static inline void skvi_value_wide_pairs_avx512(const uint32_t rows, const uint32_t n,
                                                const signed char *levels, const int16_t *w,
                                                int32_t *acc)
{
    skvi_sums_avx512 a[4][2];
    __m512i x, y, z;
    uint32_t r, i;
    SKVI_UNROLL_16
    for (r = 0; r < rows; r++) a[r][0] = a[r][1] = (skvi_sums_avx512)_mm512_setzero_si512();
    for (i = 0; i < SKVI_STEPS; i++, levels += 32, w += 4) {
        x = y = skvi_widen_avx512(levels);
        if (n == 2) y = skvi_widen_avx512(levels + SKVI_PAIR_BYTES);
        SKVI_UNROLL_16
        for (r = 0; r < rows; r++) {
            long long four;
            memcpy(&four, w + r * SKV_PAGE_TOKENS, 8);
            z = _mm512_set1_epi64(four);
            SKVI_DOT512(_mm512_dpwssd_epi32, a[r][0], x, z);
            if (n == 2) SKVI_DOT512(_mm512_dpwssd_epi32, a[r][1], y, z);
        }
    }
    SKVI_UNROLL_16
    for (r = 0; r < rows; r++, acc += 8) {
        z = skvi_add_pairs_avx512((__m512i)a[r][0], (__m512i)a[r][1]);
        _mm256_storeu_si256((__m256i *)acc, _mm512_castsi512_si256(z));
        if (n == 2) _mm256_storeu_si256((__m256i *)(acc + 8 * rows), SKVI_UPPER(z));
    }
}

SKVI_INLINE_AVX512
static inline void skvi_value_wide_rows_avx512(const uint32_t rows, const signed char *levels,
                                               const int16_t *w, uint32_t pairs, int32_t *acc)
{
    for (; pairs > 1; pairs -= 2, levels += 2 * SKVI_PAIR_BYTES, acc += 16 * rows)
        skvi_value_wide_pairs_avx512(rows, 2, levels, w, acc);
    if (pairs) skvi_value_wide_pairs_avx512(rows, 1, levels, w, acc);
}

SKVI_AVX512
static void skvi_value_wide_avx512(const signed char *levels, const int16_t *w, uint32_t pairs,
                                   uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_value_wide_rows_avx512, rows, levels, w, pairs, acc);
}

SKVI_AVX512
static void skvi_add_scores_avx512(const int32_t *acc, float unit, float offset, float *s)
{
    uint32_t i;
    SKVI_LA_UNROLL
    for (i = 0; i < SKV_PAGE_TOKENS; i += 16) {
        __m512 x = _mm512_cvtepi32_ps(SKVI_LOAD512(acc + i));
        x = SKVI_MUL512(_mm512_set1_ps(unit), SKVI_SUB512(x, _mm512_set1_ps(offset)));
        _mm512_storeu_ps(s + i, SKVI_ADD512(_mm512_loadu_ps(s + i), x));
    }
}

SKVI_AVX512
static float skvi_exps_avx512(float *s, float top)
{
    static const float part[6] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f,
                                  6.9314718e-1f, 1.0f};
    const __m512 magic = _mm512_set1_ps(SKVI_MAGIC);
    __m256 sum = _mm256_setzero_ps();
    uint32_t i, k;
    SKVI_UNROLL_4
    for (i = 0; i < SKV_PAGE_TOKENS; i += 16) {
        __m512 x = SKVI_SUB512(_mm512_loadu_ps(s + i), _mm512_set1_ps(top)), n, f, y;
        __mmask16 here = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GT_OQ);
        __m512i z;
        x = SKVI_MUL512(x, _mm512_set1_ps(SKVI_LOG2E));
        n = SKVI_ADD512(x, magic);
        f = SKVI_SUB512(x, SKVI_SUB512(n, magic));
        y = SKVI_MUL512(f, _mm512_set1_ps(1.5403530e-4f));
        y = SKVI_ADD512(y, _mm512_set1_ps(part[0]));
        SKVI_LA_UNROLL
        for (k = 1; k < 6; k++) y = SKVI_ADD512(SKVI_MUL512(y, f), _mm512_set1_ps(part[k]));
        z = _mm512_slli_epi32(_mm512_castps_si512(n), 23);
        z = _mm512_maskz_add_epi32(here, _mm512_castps_si512(y), z);
        sum = _mm256_add_ps(sum, _mm256_castsi256_ps(_mm512_castsi512_si256(z)));
        sum = _mm256_add_ps(sum, _mm256_castsi256_ps(SKVI_UPPER(z)));
        SKVI_STORE512(s + i, z);
    }
    return skvi_sum_avx2(sum);
}

SKVI_INLINE_AVX512
static inline float skvi_most_avx512(__m512 x)
{
    return skvi_most_avx2(_mm256_max_ps(_mm512_castps512_ps256(x), SKVI_UPPER_PS(x)));
}

SKVI_AVX512
static float skvi_top_avx512(const float *s)
{
    __m512 x = _mm512_max_ps(_mm512_loadu_ps(s), _mm512_loadu_ps(s + 16));
    x = _mm512_max_ps(x, _mm512_max_ps(_mm512_loadu_ps(s + 32), _mm512_loadu_ps(s + 48)));
    return skvi_most_avx512(x);
}

SKVI_AVX512
static float skvi_weights_avx512(const float *s, unsigned char *p, int16_t *wide)
{
    const __m512 magic = _mm512_set1_ps(SKVI_MAGIC);
    __m512 carry = _mm512_setzero_ps(), inv, x, n;
    float top = skvi_top_avx512(s);
    uint32_t i;
    if (!(top > 1e-30f)) return 0;
    inv = _mm512_set1_ps(254.0f / top);
    SKVI_UNROLL_4
    for (i = 0; i < SKV_PAGE_TOKENS; i += 16) {
        x = SKVI_ADD512(SKVI_MUL512(_mm512_loadu_ps(s + i), inv), carry);
        n = SKVI_SUB512(SKVI_ADD512(x, magic), magic);
        carry = SKVI_SUB512(x, n);
        _mm_storeu_si128((__m128i *)(p + i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(n)));
    }
    inv = SKVI_MUL512(inv, _mm512_set1_ps(64));
    for (i = 0; wide && i < SKV_PAGE_TOKENS; i += 16) {
        __m512i v = _mm512_cvtps_epi32(SKVI_MUL512(_mm512_loadu_ps(s + i), inv));
        _mm256_storeu_si256((__m256i *)(wide + i), _mm512_cvtepi32_epi16(v));
    }
    return top / 254.0f;
}

/* A quad's levels in registers. Its rows are 16 bytes, one of each lane of each channel; row 0 is
   the last one again, moved on by a lane, since positions form a circle. The windows of steps 4 o
   to 4 o + 3 stand in 32 bits, four rows from a first one on that ends at the last row at most:
   the same for all up to h = 3, for two o each up to h = 6. `at` are the shifts of a lane's four
   windows, and of the next one's. */
typedef struct skvi_cut {
    uint64_t at[4];
    uint32_t row[4];                /* the first of the rows, in bytes after q */
    uint32_t here;                  /* dwords of the four from row 0 on that are in memory */
} skvi_cut;
#define SKVI_END_512(h, i) (((i) + 1u) * (h) >> 1)
#define SKVI_FROM_512(h, o) (SKVI_END_512(h, 4u * ((h) > 6 ? (o) : (o) & 2u)) >> 3)
#define SKVI_ROW_512(h, o)                                                                        \
    ((h) <= 3 ? 0 : SKVI_FROM_512(h, o) < (h) - 3u ? SKVI_FROM_512(h, o) : (h) - 3u)
#define SKVI_AT_512(h, o, s) \
    ((uint64_t)(SKVI_END_512(h, 4u * (o) + (s)) - 8 * SKVI_ROW_512(h, o)) << 8 * (s))
#define SKVI_ATS_512(h, o)                                                                        \
    ((SKVI_AT_512(h, o, 0) | SKVI_AT_512(h, o, 1) | SKVI_AT_512(h, o, 2) |                        \
      SKVI_AT_512(h, o, 3)) * 0x100000001u + 0x2020202000000000u)
#define SKVI_AFTER_512(h, o) (16u * SKVI_ROW_512(h, o) - 16u)
#define SKVI_CUT_512(h)                                                                           \
    {{SKVI_ATS_512(h, 0), SKVI_ATS_512(h, 1), SKVI_ATS_512(h, 2), SKVI_ATS_512(h, 3)},            \
     {0, SKVI_AFTER_512(h, 1), SKVI_AFTER_512(h, 2), SKVI_AFTER_512(h, 3)},                       \
     (h) == 1 ? 0xF0u : (h) == 2 ? 0xFF0u : 0xFFF0u}
static const skvi_cut skvi_cuts[] = {           /* by mode */
    {{0}, {0}, 0}, SKVI_CUT_512(1), SKVI_CUT_512(2), SKVI_CUT_512(3), SKVI_CUT_512(4),
    SKVI_CUT_512(5), SKVI_CUT_512(6), SKVI_CUT_512(7), SKVI_CUT_512(8), SKVI_CUT_512(10)
};

/* Bytes that a permute takes. Four rows to one dword a lane: with row 0 of keys, of values, or
   without; and levels of keys, a dword of four steps a lane, to one of four channels a token. */
#define SKVI_16_512(f)                                                                            \
    {f(0u), f(1u), f(2u), f(3u), f(4u), f(5u), f(6u), f(7u), f(8u), f(9u), f(10u), f(11u),        \
     f(12u), f(13u), f(14u), f(15u)}
#define SKVI_LANE_512(p) (0x30201000u + 0x1010101u * (p))
#define SKVI_LANE_K_512(p) (0x30201000u + 0x1010100u * (p) + (((p) + 12u) & 15u))
#define SKVI_LANE_V_512(p) (0x30201000u + 0x1010100u * (p) + (((p) & 12u) | (((p) + 3u) & 3u)))
#define SKVI_TOKEN_512(p) (0x0C080400u + 0x1010101u * (16u * ((p) & 3u) + ((p) >> 2)))
static const uint32_t skvi_order_512[4][16] = {
    SKVI_16_512(SKVI_LANE_K_512), SKVI_16_512(SKVI_LANE_V_512), SKVI_16_512(SKVI_LANE_512),
    SKVI_16_512(SKVI_TOKEN_512)
};

/* Tables of even and odd steps, twice, A and B; and bit 4 of the index: not for others but where
   steps are odd. */
typedef struct skvi_tables_avx512 { __m512i a, b, others, odd; } skvi_tables_avx512;
SKVI_INLINE_AVX512
static inline skvi_tables_avx512 skvi_tables_of_avx512(const int kind)
{
    skvi_tables_avx512 t;
    t.a = t.b = _mm512_setzero_si512();
    t.others = _mm512_set1_epi8((char)0xEF);
    t.odd = kind ? _mm512_set1_epi32(0x10001000)
                 : _mm512_set_epi32(0x10101010, 0x10101010, 0x10101010, 0x10101010, 0, 0, 0, 0,
                                    0x10101010, 0x10101010, 0x10101010, 0x10101010, 0, 0, 0, 0);
    SKVI_KEEP512(t.others);
    SKVI_KEEP512(t.odd);
    return t;
}

/* part[] of skvi_code is even A, B, odd A, B. */
SKVI_INLINE_AVX512
static inline void skvi_tables_mode_avx512(skvi_tables_avx512 *t, uint32_t h, uint32_t bias)
{
    __m512i x = SKVI_LOAD512(skvi_code_of(h)->part);
    t->a = _mm512_add_epi8(_mm512_shuffle_i32x4(x, x, 0x88), _mm512_set1_epi8((char)bias));
    t->b = _mm512_shuffle_i32x4(x, x, 0xDD);
}

/* Levels of the quad at q: x[o] is [4 steps][4 lanes][4 channels] of keys, 4 o the first step, or
   [4 channels][4 lanes][4 steps] of values. */
SKVI_INLINE_AVX512
static inline void skvi_unfold_avx512(const unsigned char *q, uint32_t h, const int kind,
                                      const skvi_tables_avx512 *table, __m512i *x)
{
    const skvi_cut *cut = &skvi_cuts[skvi_mode_of(h)];
    __m512i y = _mm512_broadcast_i32x4(SKVI_LOAD128(q + 16 * (h - 1))), w, i, t;
    uint32_t o;
    y = _mm512_mask_loadu_epi32(y, (__mmask16)cut->here, q - 16);
    y = _mm512_permutexvar_epi8(SKVI_LOAD512(skvi_order_512[kind]), y);
    SKVI_LA_UNROLL
    for (o = 0; o < 4; o++) {
        if (o == 2 ? h > 3 : o && h > 6)
            y = _mm512_permutexvar_epi8(SKVI_LOAD512(skvi_order_512[2]),
                                        SKVI_LOAD512(q + cut->row[o]));
        w = _mm512_multishift_epi64_epi8(_mm512_set1_epi64((long long)cut->at[o]), y);
        if (!kind) w = _mm512_permutexvar_epi8(SKVI_LOAD512(skvi_order_512[3]), w);
        i = _mm512_ternarylogic_epi32(w, table->others, table->odd, 0xEA);  /* (w & others) | odd */
        t = _mm512_srli_epi16(w, 4);
        t = _mm512_ternarylogic_epi32(i, t, table->others, 0x78);           /* i ^ (t & others) */
        x[o] = _mm512_add_epi8(_mm512_permutexvar_epi8(i, table->a),
                               _mm512_permutexvar_epi8(t, table->b));
    }
}

/* Quad number `quad` of a slab: unfolded, or as the gang before has left it. */
SKVI_INLINE_AVX512
static inline void skvi_joint_quad_avx512(const skvi_joint *j, const unsigned char *q, uint32_t h,
                                          const int kind, const skvi_tables_avx512 *table,
                                          uint32_t quad, __m512i *x)
{
    signed char *levels = j->levels + 256 * quad;
    uint32_t o;
    if (j->kept) {
        SKVI_LA_UNROLL
        for (o = 0; o < 4; o++) x[o] = SKVI_LOAD512(levels + 64 * o);
        return;
    }
    skvi_unfold_avx512(q, h, kind, table, x);
    if (j->levels) {
        SKVI_LA_UNROLL
        for (o = 0; o < 4; o++) SKVI_STORE512(levels + 64 * o, x[o]);
    }
}

#define SKVI_TURN_512 /* four fours */                                                            \
    _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0)

/* Which of 16 numbers are among n. */
SKVI_INLINE_AVX512
static inline __mmask16 skvi_first_avx512(uint32_t n)
{
    return (__mmask16)(n < 16 ? (1u << n) - 1 : 0xFFFFu);
}

/* As skvi_steps_c, 16 at a time. */
SKVI_INLINE_AVX512
static inline void skvi_joint_steps_avx512(const skvi_joint *j)
{
    const __m512i at = _mm512_set_epi64(0x3C00000038, 0x3400000030, 0x2C00000028, 0x2400000020,
                                        0x1C00000018, 0x1400000010, 0xC00000008, 0x400000000);
    const __m512i quads = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    const unsigned char *nibbles = j->sub + SKVI_SUB_HEADER + j->slab->ch / 2;
    const __m512i gain = _mm512_set1_epi32(j->sub[4]);
    const __m512 quarter = _mm512_castsi512_ps(_mm512_broadcast_i32x4(SKVI_LOAD128(skvi_quarter)));
    uint32_t i;
    for (i = 0; i < j->slab->n; i += 16) {
        __m512i e = _mm512_set1_epi64((long long)skvi_get64(nibbles + i / 2));
        __m512 f, s, u;
        e = _mm512_multishift_epi64_epi8(at, e);
        e = _mm512_add_epi32(_mm512_and_si512(e, _mm512_set1_epi32(15)), gain);
        f = _mm512_permutexvar_ps(e, quarter);          /* four times the same four */
        e = _mm512_add_epi32(_mm512_srli_epi32(e, 2), _mm512_set1_epi32(95));
        s = SKVI_MUL512(_mm512_castsi512_ps(_mm512_slli_epi32(e, 23)), f);
        u = _mm512_castsi512_ps(_mm512_permutexvar_epi32(
            quads, _mm512_broadcast_i32x4(SKVI_LOAD128(j->slab->unit + i / 4))));
        _mm512_storeu_ps(j->slab->step + i, SKVI_MUL512(s, u));
    }
}

/* One row's query in bytes; as skvi_query_c, but [64]. */
SKVI_INLINE_AVX512
static inline float skvi_joint_query_avx512(const skvi_slab *b, const float *q, __m512i zero,
                                            signed char *out, float *offset)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512 x[4], most = _mm512_setzero_ps(), inv;
    __m512i v[4], sum;
    float top;
    uint32_t i;
    SKVI_LA_UNROLL
    for (i = 0; i < 4; i++) {
        __mmask16 here = skvi_first_avx512(b->n > 16 * i ? b->n - 16 * i : 0);
        x[i] = SKVI_MUL512(_mm512_maskz_loadu_ps(here, q + 16 * i),
                           _mm512_maskz_loadu_ps(here, b->step + 16 * i));
        most = _mm512_max_ps(most, _mm512_castsi512_ps(_mm512_and_si512(
                                       _mm512_castps_si512(x[i]), magnitude)));
    }
    top = skvi_most_avx512(most);
    inv = _mm512_set1_ps(top > 1e-34f ? 127.0f / top : 0);
    SKVI_LA_UNROLL
    for (i = 0; i < 4; i++) v[i] = _mm512_cvtps_epi32(SKVI_MUL512(x[i], inv));
    sum = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    sum = _mm512_permutexvar_epi32(SKVI_TURN_512, sum);
    SKVI_STORE512(out, sum);
    sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), zero, sum);
    *offset = skvi_sum_avx2(_mm256_cvtepi32_ps(
        _mm256_add_epi32(_mm512_castsi512_si256(sum), SKVI_UPPER(sum))));
    return top / 127.0f;
}

SKVI_INLINE_AVX512
static inline void skvi_keys_rows_avx512(const uint32_t rows, const skvi_joint *j, const float *q,
                                         float *s)
{
    const skvi_slab *slab = j->slab;
    signed char query[4][SKVI_SLAB];
    float offset[4];
    skvi_tables_avx512 table = skvi_tables_of_avx512(0);
    skvi_sums_avx512 sum[4][4];
    __m512i x[4], z;
    uint32_t r, o, i, n, quad = 0;
    z = _mm512_cvtps_epi32(_mm512_loadu_ps(slab->zero));
    z = _mm512_shuffle_epi8(z, _mm512_broadcast_i32x4(_mm_set_epi32(
                                   0x0C0C0C0C, 0x08080808, 0x04040404, 0)));
    for (r = 0; r < rows; r++)
        j->unit[r] = skvi_joint_query_avx512(slab, q + r * j->whole, z, query[r], &offset[r]);
    SKVI_UNROLL_16
    for (r = 0; r < rows; r++) SKVI_ZERO4(sum[r]);
    for (i = 0; i < slab->n_runs; i++) {
        const uint32_t h = slab->run[i].h;
        const unsigned char *codes = j->sub + slab->run[i].codes;
        skvi_fetch_run(slab, i, j->next);
        skvi_tables_mode_avx512(&table, h, slab->run[i].bias);
        for (n = slab->run[i].quads; n; n--, codes += 16 * h, quad++) {
            skvi_joint_quad_avx512(j, codes, h, 0, &table, quad, x);
            SKVI_UNROLL_16
            for (r = 0; r < rows; r++) {
                int32_t four;
                memcpy(&four, query[r] + 4 * quad, 4);
                z = _mm512_set1_epi32(four);
                SKVI_DOT4(_mm512_dpbusd_epi32, sum[r], x, z);
            }
        }
    }
    SKVI_UNROLL_16
    for (r = 0; r < rows; r++)
        SKVI_UNROLL_16
        for (o = 0; o < 4; o++) {
            float *at = s + r * SKV_PAGE_TOKENS + 16 * o;
            __m512 y = _mm512_cvtepi32_ps((__m512i)sum[r][o]);
            y = SKVI_MUL512(_mm512_set1_ps(j->unit[r]), SKVI_SUB512(y, _mm512_set1_ps(offset[r])));
            _mm512_storeu_ps(at, SKVI_ADD512(_mm512_loadu_ps(at), y));
        }
}

SKVI_AVX512
static void skvi_keys_avx512(const skvi_joint *j, const float *q, float *s)
{
    if (!j->kept) skvi_joint_steps_avx512(j);
    SKVI_BY_ROWS(skvi_keys_rows_avx512, j->rows, j, q, s);
}

/* out[n] += unit (step sum), where sum is that of each channel's four lanes. */
SKVI_INLINE_AVX512
static inline void skvi_joint_values_avx512(const int32_t *sum, const float *step, float unit,
                                            uint32_t n, float *out)
{
    uint32_t i;
    for (i = 0; i < n; i += 16, sum += 64) {
        __m512i u = SKVI_LOAD512(sum), v = SKVI_LOAD512(sum + 16), w, x;
        __mmask16 here = skvi_first_avx512(n - i);
        __m512 y;
        u = _mm512_add_epi32(_mm512_unpacklo_epi32(u, v), _mm512_unpackhi_epi32(u, v));
        w = SKVI_LOAD512(sum + 32);
        x = SKVI_LOAD512(sum + 48);
        v = _mm512_add_epi32(_mm512_unpacklo_epi32(w, x), _mm512_unpackhi_epi32(w, x));
        u = _mm512_add_epi32(_mm512_unpacklo_epi64(u, v), _mm512_unpackhi_epi64(u, v));
        y = _mm512_cvtepi32_ps(_mm512_permutexvar_epi32(SKVI_TURN_512, u));
        y = SKVI_MUL512(_mm512_set1_ps(unit), SKVI_MUL512(_mm512_loadu_ps(step + i), y));
        y = SKVI_ADD512(_mm512_maskz_loadu_ps(here, out + i), y);
        _mm512_mask_storeu_ps(out + i, here, y);
    }
}

SKVI_INLINE_AVX512
static inline void skvi_values_rows_avx512(const uint32_t rows, const skvi_joint *j,
                                           const unsigned char *w, float *out)
{
    const __m512i lanes = _mm512_broadcast_i32x4(_mm_set_epi32(0x0F0B0703, 0x0E0A0602, 0x0D090501,
                                                               0x0C080400));
    const skvi_slab *slab = j->slab;
    unsigned char weight[4][SKV_PAGE_TOKENS];           /* [4][4 lanes][4 steps] */
    skvi_tables_avx512 table = skvi_tables_of_avx512(1);
    int32_t sum[4][SKVI_SLAB / SKVI_QUAD][16];
    __m512i x[4];
    uint32_t r, o, i, n, quad = 0;
    for (r = 0; r < rows; r++)
        SKVI_STORE512(weight[r], _mm512_shuffle_epi8(SKVI_LOAD512(w + r * SKV_PAGE_TOKENS), lanes));
    for (i = 0; i < slab->n_runs; i++) {
        const uint32_t h = slab->run[i].h;
        const unsigned char *codes = j->sub + slab->run[i].codes;
        skvi_fetch_run(slab, i, j->next);
        skvi_tables_mode_avx512(&table, h, 0);
        for (n = slab->run[i].quads; n; n--, codes += 16 * h, quad++) {
            skvi_joint_quad_avx512(j, codes, h, 1, &table, quad, x);
            SKVI_UNROLL_16
            for (r = 0; r < rows; r++) {
                skvi_sums_avx512 y = (skvi_sums_avx512)_mm512_setzero_si512();
                SKVI_UNROLL_16
                for (o = 0; o < 4; o++)
                    SKVI_DOT512(_mm512_dpbusd_epi32, y,
                                _mm512_broadcast_i32x4(SKVI_LOAD128(weight[r] + 16 * o)), x[o]);
                SKVI_STORE512(sum[r][quad], (__m512i)y);
            }
        }
    }
    for (; quad % 4; quad++)
        for (r = 0; r < rows; r++) SKVI_STORE512(sum[r][quad], _mm512_setzero_si512());
    for (r = 0; r < rows; r++)
        skvi_joint_values_avx512(sum[r][0], slab->step, j->unit[r], slab->n, out + r * j->whole);
}

SKVI_AVX512
static void skvi_values_avx512(const skvi_joint *j, const unsigned char *w, float *out)
{
    if (!j->kept) skvi_joint_steps_avx512(j);
    SKVI_BY_ROWS(skvi_values_rows_avx512, j->rows, j, w, out);
}
#endif
#endif

#ifdef SKVI_LA_128
SKVI_INLINE_128
static inline skvi_f32x4 skvi_abs_128(skvi_f32x4 x)
{
    return (skvi_f32x4)((skvi_u32x4)x & SKVI_SPLAT_32(0x7FFFFFFFu));
}

/* The nearest integers, ties to even, of numbers below 2^22. */
SKVI_INLINE_128
static inline skvi_u32x4 skvi_nearest_128(skvi_f32x4 x)
{
    const skvi_f32x4 magic = SKVI_SPLAT_F32(SKVI_MAGIC);
    return (skvi_u32x4)(x + magic) - (skvi_u32x4)magic;
}

/* Reads q, step and zero up to the next multiple of 8, where they are 0. */
SKVI_TARGET_128
static float skvi_query_128(const float *q, const float *step, const float *zero, uint32_t n,
                            int wide, void *out, size_t stride, float *offset)
{
    SKVI_UNFUSED
    skvi_f32x4 most = SKVI_SPLAT_F32(0), sum = most;
    float top = 0, inv, range = wide ? 8191.0f : 127.0f;
    uint32_t i, whole = (n + 7) & ~7u;
    for (i = 0; i < n; i += 4) {
        skvi_f32x4 x = SKVI_LOAD(skvi_f32x4, q + i) * SKVI_LOAD(skvi_f32x4, step + i);
        most = SKVI_MAX_F32(most, skvi_abs_128(x));
    }
    for (i = 0; i < 4; i++) top = most[i] > top ? most[i] : top;
    inv = top > 1e-34f ? range / top : 0;
    for (i = 0; i < whole; i += 4) {
        unsigned char *at = (unsigned char *)out + i / 8 * stride + i % 8 * 4;
        skvi_f32x4 x = SKVI_LOAD(skvi_f32x4, q + i) * SKVI_LOAD(skvi_f32x4, step + i);
        skvi_u32x4 v = skvi_nearest_128(x * SKVI_SPLAT_F32(inv));
        skvi_u16x8 twice = (skvi_u16x8)SKVI_SHORTS(v, v);
        sum += SKVI_FLOATS(v) * SKVI_SPLAT_F32(zero[i / 4]);
        if (wide) {
            SKVI_STORE(skvi_u16x8, at, twice);
        } else {
            twice &= SKVI_SPLAT_16(255);
            SKVI_STORE(skvi_u8x16, at, SKVI_CUT_BYTES(twice, twice));
        }
    }
    *offset = skvi_sum_128(sum, SKVI_SPLAT_F32(0));
    return top / range;
}

/* Eight products of 16 bits, each added to its neighbour's: at once with SSE4.1 and in WebAssembly,
   on NEON when all is summed. */
#ifdef SKVI_LA_NEON
typedef struct skvi_madds { int32x4_t v[2]; } skvi_madds;
#else
typedef struct skvi_madds { skvi_i32x4 v[1]; } skvi_madds;
#endif
SKVI_INLINE_128
static inline void skvi_madd_zero_128(skvi_madds *a)
{
#ifdef SKVI_LA_NEON
    a->v[0] = a->v[1] = vdupq_n_s32(0);
#else
    a->v[0] = (skvi_i32x4)SKVI_SPLAT_32(0);
#endif
}

SKVI_INLINE_128
static inline void skvi_madd_128(skvi_madds *a, skvi_i16x8 x, skvi_i16x8 y)
{
#ifdef SKVI_LA_NEON
    a->v[0] = vmlal_s16(a->v[0], vget_low_s16((int16x8_t)x), vget_low_s16((int16x8_t)y));
    a->v[1] = vmlal_high_s16(a->v[1], (int16x8_t)x, (int16x8_t)y);
#else
    a->v[0] += SKVI_MADD(x, y);
#endif
}

SKVI_INLINE_128
static inline skvi_i32x4 skvi_madd_sum_128(const skvi_madds *a)
{
#ifdef SKVI_LA_NEON
    return SKVI_ADD_PAIRS(a->v[0], a->v[1]);
#else
    return a->v[0];
#endif
}

/* Levels times queries of 16 bits, or of 8 where `wide` is 0; rows and wide are constants of the
   caller. As many steps at a time as the registers hold sums for. */
SKVI_INLINE_128
static inline void skvi_score_steps_128(const uint32_t rows, const int wide,
                                        const signed char *levels, const signed char *q,
                                        uint32_t pairs, int32_t *acc)
{
    const uint32_t n = rows > 2 ? 1 : 4 / rows;
    uint32_t i, p, r, k, e;
    for (i = 0; i < SKVI_STEPS; i += n) {
        const signed char *level = levels + 32 * i, *query = q;
        skvi_madds a[4][2];
        SKVI_LA_UNROLL
        for (k = 0; k < 8; k++) skvi_madd_zero_128(&a[k / 2][k % 2]);
        for (p = 0; p < pairs; p++, level += SKVI_PAIR_BYTES, query += 32 * rows)
            SKVI_LA_UNROLL
            for (k = 0; k < 32; k += 16)
                SKVI_LA_UNROLL
                for (e = 0; e < n; e++) {
                    skvi_i16x8 x = SKVI_WIDEN(level + 32 * e + k), z;
                    skvi_i16x8 y = SKVI_WIDEN(level + 32 * e + k + 8);
                    SKVI_LA_UNROLL
                    for (r = 0; r < rows; r++) {
                        z = wide ? SKVI_LOAD(skvi_i16x8, query + 32 * r + k)
                                 : SKVI_WIDEN(query + 32 * r + k);
                        skvi_madd_128(&a[r + rows * e][0], x, z);
                        skvi_madd_128(&a[r + rows * e][1], y, z);
                    }
                }
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++)
            SKVI_LA_UNROLL
            for (e = 0; e < n; e++) {
                int32_t *to = acc + r * SKV_PAGE_TOKENS + 4 * (i + e);
                skvi_i32x4 x = skvi_madd_sum_128(&a[r + rows * e][0]);
                x = SKVI_ADD_PAIRS(x, skvi_madd_sum_128(&a[r + rows * e][1]));
                SKVI_STORE(skvi_i32x4, to, x);
            }
    }
}

SKVI_TARGET_128
static void skvi_score_wide_128(const signed char *levels, const int16_t *q, uint32_t pairs,
                                uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_score_steps_128, rows, 1, levels, (const signed char *)q, pairs, acc);
}

/* One quad at a time, or two where the registers hold their sums. */
SKVI_INLINE_128
static inline void skvi_value_wide_rows_128(const uint32_t rows, const signed char *levels,
                                            const int16_t *w, uint32_t pairs, int32_t *acc)
{
    const uint32_t n = rows > 2 ? 1 : 2;
    uint32_t q, r, i, k;
    for (q = 0; q < 2 * pairs; q += n) {
        const signed char *level = levels + q / 2 * SKVI_PAIR_BYTES + q % 2 * 16;
        skvi_madds a[4][2];
        SKVI_LA_UNROLL
        for (k = 0; k < 8; k++) skvi_madd_zero_128(&a[k / 2][k % 2]);
        SKVI_LA_UNROLL
        for (i = 0; i < SKVI_STEPS; i++, level += 32)
            SKVI_LA_UNROLL
            for (k = 0; k < n; k++) {
                skvi_i16x8 x = SKVI_WIDEN(level + 16 * k), y = SKVI_WIDEN(level + 16 * k + 8), z;
                SKVI_LA_UNROLL
                for (r = 0; r < rows; r++) {
                    int64_t four;
                    memcpy(&four, w + r * SKV_PAGE_TOKENS + 4 * i, 8);
                    z = (skvi_i16x8)SKVI_SPLAT_I64(four);
                    skvi_madd_128(&a[r * n + k][0], x, z);
                    skvi_madd_128(&a[r * n + k][1], y, z);
                }
            }
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++)
            SKVI_LA_UNROLL
            for (k = 0; k < n; k++) {
                skvi_i32x4 x = skvi_madd_sum_128(&a[r * n + k][0]);
                x = SKVI_ADD_PAIRS(x, skvi_madd_sum_128(&a[r * n + k][1]));
                SKVI_STORE(skvi_i32x4, acc + (q / 2 * rows + r) * 8 + (q + k) % 2 * 4, x);
            }
    }
}

SKVI_TARGET_128
static void skvi_value_wide_128(const signed char *levels, const int16_t *w, uint32_t pairs,
                                uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_value_wide_rows_128, rows, levels, w, pairs, acc);
}

#ifdef SKVI_LA_NEON
/* a += x[0] y[0] + x[1] y[1], vectors of bytes, four products of each together. Where the processor
   has no dot products sums of four stay in 16 bits on the way: levels have 7. */
__attribute__((always_inline))
static inline int32x4_t skvi_dot_add_neon(int32x4_t a, const int8x16_t *x, const int8x16_t *y)
{
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(vdotq_s32(a, x[0], y[0]), x[1], y[1]);
#else
    int16x8_t u = vmull_s8(vget_low_s8(x[0]), vget_low_s8(y[0])), v = vmull_high_s8(x[0], y[0]);
    u = vmlal_s8(u, vget_low_s8(x[1]), vget_low_s8(y[1]));
    return vpadalq_s16(a, vpaddq_s16(u, vmlal_high_s8(v, x[1], y[1])));
#endif
}

__attribute__((always_inline))
static inline void skvi_score_rows_neon(const uint32_t rows, const signed char *levels,
                                        const signed char *q, uint32_t pairs, int32_t *acc)
{
    const uint32_t n = rows > 2 ? 4 : 8 / rows;
    uint32_t i, p, r, k, e;
    for (i = 0; i < SKVI_STEPS; i += n) {
        const signed char *level = levels + 32 * i, *query = q;
        int32x4_t a[16];
        SKVI_UNROLL_16
        for (e = 0; e < n * rows; e++) a[e] = vdupq_n_s32(0);
        for (p = 0; p < pairs; p++, level += SKVI_PAIR_BYTES, query += 32 * rows)
            SKVI_LA_UNROLL
            for (e = 0; e < n; e++) {
                int8x16_t x[2], y[2];
                SKVI_LA_UNROLL
                for (k = 0; k < 2; k++) x[k] = vld1q_s8(level + 32 * e + 16 * k);
                SKVI_LA_UNROLL
                for (r = 0; r < rows; r++) {
                    SKVI_LA_UNROLL
                    for (k = 0; k < 2; k++) y[k] = vld1q_s8(query + 32 * r + 16 * k);
                    a[r + rows * e] = skvi_dot_add_neon(a[r + rows * e], x, y);
                }
            }
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++)
            SKVI_UNROLL_16
            for (e = 0; e < n; e++)
                vst1q_s32(acc + r * SKV_PAGE_TOKENS + 4 * (i + e), a[r + rows * e]);
    }
}

SKVI_TARGET_128
static void skvi_score_128(const signed char *levels, const signed char *q, uint32_t pairs,
                           uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_score_rows_neon, rows, levels, q, pairs, acc);
}

/* Levels times weights less 127, and what that takes, 127 levels, onto all rows. */
__attribute__((always_inline))
static inline void skvi_value_rows_neon(const uint32_t rows, const signed char *levels,
                                        const signed char *w, uint32_t pairs, int32_t *acc)
{
    uint32_t p, r, i, k, e;
    for (p = 0; p < pairs; p++, levels += SKVI_PAIR_BYTES, acc += 8 * rows) {
        int16x8_t sum[2];
        int32x4_t a[4][2], all;
        sum[0] = sum[1] = vdupq_n_s16(0);
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) a[r][0] = a[r][1] = vdupq_n_s32(0);
        for (i = 0; i < SKVI_STEPS; i += 2) {
            int8x16_t x[2][2], y[2];
            SKVI_LA_UNROLL
            for (k = 0; k < 2; k++) {
                SKVI_LA_UNROLL
                for (e = 0; e < 2; e++) x[k][e] = vld1q_s8(levels + 32 * (i + e) + 16 * k);
                sum[k] = vpadalq_s8(vpadalq_s8(sum[k], x[k][0]), x[k][1]);
            }
            SKVI_LA_UNROLL
            for (r = 0; r < rows; r++) {
                SKVI_LA_UNROLL
                for (e = 0; e < 2; e++) {
                    int32_t four;
                    memcpy(&four, w + r * SKV_PAGE_TOKENS + 4 * (i + e), 4);
                    y[e] = vreinterpretq_s8_s32(vdupq_n_s32(four));
                }
                a[r][0] = skvi_dot_add_neon(a[r][0], x[0], y);
                a[r][1] = skvi_dot_add_neon(a[r][1], x[1], y);
            }
        }
        SKVI_LA_UNROLL
        for (k = 0; k < 2; k++) {
            all = vmulq_n_s32(vpaddlq_s16(sum[k]), 127);
            SKVI_LA_UNROLL
            for (r = 0; r < rows; r++) vst1q_s32(acc + 8 * r + 4 * k, vaddq_s32(a[r][k], all));
        }
    }
}

SKVI_TARGET_128
static void skvi_value_128(const signed char *levels, const unsigned char *w, uint32_t pairs,
                           uint32_t rows, int32_t *acc)
{
    signed char less[SKVI_GANG * SKV_PAGE_TOKENS];
    uint32_t i;
    for (i = 0; i < rows * SKV_PAGE_TOKENS; i += 16)
        vst1q_s8(less + i, vreinterpretq_s8_u8(vsubq_u8(vld1q_u8(w + i), vdupq_n_u8(127))));
    SKVI_BY_ROWS(skvi_value_rows_neon, rows, levels, less, pairs, acc);
}
#else
SKVI_TARGET_128
static void skvi_score_128(const signed char *levels, const signed char *q, uint32_t pairs,
                           uint32_t rows, int32_t *acc)
{
    SKVI_BY_ROWS(skvi_score_steps_128, rows, 0, levels, q, pairs, acc);
}

SKVI_TARGET_128
static void skvi_value_128(const signed char *levels, const unsigned char *w, uint32_t pairs,
                           uint32_t rows, int32_t *acc)
{
    int16_t wide[SKVI_GANG * SKV_PAGE_TOKENS];
    uint32_t i;
    for (i = 0; i < rows * SKV_PAGE_TOKENS; i += 8)
        SKVI_STORE(skvi_u16x8, wide + i, SKVI_WIDEN_U8(w + i));
    skvi_value_wide_128(levels, wide, pairs, rows, acc);
}
#endif

SKVI_TARGET_128
static void skvi_add_scores_128(const int32_t *acc, float unit, float offset, float *s)
{
    SKVI_UNFUSED
    uint32_t i;
    for (i = 0; i < SKV_PAGE_TOKENS; i += 4) {
        skvi_f32x4 x = SKVI_FLOATS(SKVI_LOAD(skvi_i32x4, acc + i)) - SKVI_SPLAT_F32(offset);
        x = SKVI_LOAD(skvi_f32x4, s + i) + SKVI_SPLAT_F32(unit) * x;
        SKVI_STORE(skvi_f32x4, s + i, x);
    }
}

SKVI_TARGET_128
static void skvi_add_values_128(const int32_t *acc, size_t stride, const float *step, float unit,
                                uint32_t n, float *out)
{
    SKVI_UNFUSED
    uint32_t i;
    for (i = 0; i < n; i += 4) {
        skvi_f32x4 x = SKVI_FLOATS(SKVI_LOAD(skvi_i32x4, acc + i / 8 * stride + i % 8));
        x = SKVI_SPLAT_F32(unit) * (SKVI_LOAD(skvi_f32x4, step + i) * x);
        SKVI_STORE(skvi_f32x4, out + i, SKVI_LOAD(skvi_f32x4, out + i) + x);
    }
}

SKVI_TARGET_128
static float skvi_top_128(const float *s)
{
    skvi_f32x4 x = SKVI_LOAD(skvi_f32x4, s), y = SKVI_LOAD(skvi_f32x4, s + 4);
    float top;
    uint32_t i;
    for (i = 8; i < SKV_PAGE_TOKENS; i += 8) {
        x = SKVI_MAX_F32(x, SKVI_LOAD(skvi_f32x4, s + i));
        y = SKVI_MAX_F32(y, SKVI_LOAD(skvi_f32x4, s + i + 4));
    }
    x = SKVI_MAX_F32(x, y);
    top = x[0];
    for (i = 1; i < 4; i++) top = x[i] > top ? x[i] : top;
    return top;
}

SKVI_TARGET_128
static float skvi_exps_128(float *s, float top)
{
    SKVI_UNFUSED
    static const float part[6] = {1.3333558e-3f, 9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f,
                                  6.9314718e-1f, 1.0f};
    const skvi_f32x4 magic = SKVI_SPLAT_F32(SKVI_MAGIC);
    skvi_f32x4 sum[2];
    uint32_t i, l, k;
    sum[0] = sum[1] = SKVI_SPLAT_F32(0);
    for (i = 0; i < SKV_PAGE_TOKENS; i += 8)
        SKVI_LA_UNROLL
        for (l = 0; l < 2; l++) {
            skvi_f32x4 x = SKVI_LOAD(skvi_f32x4, s + i + 4 * l) - SKVI_SPLAT_F32(top), n, f, y;
            skvi_u32x4 here = (skvi_u32x4)(x > SKVI_SPLAT_F32(-87.0f));
            x *= SKVI_SPLAT_F32(SKVI_LOG2E);
            n = x + magic;
            f = x - (n - magic);
            y = f * SKVI_SPLAT_F32(1.5403530e-4f) + SKVI_SPLAT_F32(part[0]);
            SKVI_LA_UNROLL
            for (k = 1; k < 6; k++) y = y * f + SKVI_SPLAT_F32(part[k]);
            here &= (skvi_u32x4)y + ((skvi_u32x4)n << SKVI_SPLAT_32(23));
            sum[l] += (skvi_f32x4)here;
            SKVI_STORE(skvi_u32x4, s + i + 4 * l, here);
        }
    return skvi_sum_128(sum[0], sum[1]);
}

SKVI_TARGET_128
static float skvi_weights_128(const float *s, unsigned char *p, int16_t *wide)
{
    SKVI_UNFUSED
    const skvi_f32x4 magic = SKVI_SPLAT_F32(SKVI_MAGIC);
    skvi_f32x4 carry[4], inv;
    skvi_u32x4 v[4];
    float top = skvi_top_128(s);
    uint32_t i, l;
    if (!(top > 1e-30f)) return 0;
    inv = SKVI_SPLAT_F32(254.0f / top);
    carry[0] = carry[1] = carry[2] = carry[3] = SKVI_SPLAT_F32(0);
    for (i = 0; i < SKV_PAGE_TOKENS; i += 16) {
        SKVI_LA_UNROLL
        for (l = 0; l < 4; l++) {
            skvi_f32x4 x = SKVI_LOAD(skvi_f32x4, s + i + 4 * l) * inv + carry[l];
            v[l] = skvi_nearest_128(x);
            carry[l] = x - (x + magic - magic);
        }
        SKVI_STORE(skvi_u8x16, p + i,
                   SKVI_CUT_BYTES(SKVI_SHORTS(v[0], v[1]), SKVI_SHORTS(v[2], v[3])));
    }
    inv *= SKVI_SPLAT_F32(64);
    for (i = 0; wide && i < SKV_PAGE_TOKENS; i += 8) {
        v[0] = skvi_nearest_128(SKVI_LOAD(skvi_f32x4, s + i) * inv);
        v[1] = skvi_nearest_128(SKVI_LOAD(skvi_f32x4, s + i + 4) * inv);
        SKVI_STORE(skvi_i16x8, wide + i, SKVI_SHORTS(v[0], v[1]));
    }
    return top / 254.0f;
}
#endif

/* >>turned ------------------------------------------------------------------------------------
   Scores of a mean that RoPE turns: the sum over pairs p of a_p cos(f_p t) + b_p sin(f_p t), for
   the 128 tokens of two pages, t counted from their middle. Pairs of low frequency, fewer than
   SKVI_SLOW radians from the middle to an end, are one polynomial of degree 7 between them (T_n of
   x = t / 63.5: cos(z x) = J_0(z) + 2 sum (-1)^k J_2k(z) T_2k(x), sin(z x) = 2 sum (-1)^k J_2k+1(z)
   T_2k+1(x), Abramowitz and Stegun 9.1.44 to 47); the others keep a cosine and a sine of their own.
   The sum is in 16-bit integers; no coefficient's rounding moves a score by more than half a unit.
   T_0 and T_1, a line, stay in float: slow pairs may be large (the key biases of Qwen2).

   Cosines are even and sines odd about the middle, T_n likewise: sums for the later 64 tokens,
   even and odd apart, give the earlier ones too. Waves are [even, odd][n / 2][64 tokens][2] of
   int16, 32767 for 1; a row's coefficients [even, odd][room], their magnitudes together at most
   SKVI_WAVE_MOST, so that no sum overflows. */
#define SKVI_SPAN (2u * SKV_PAGE_TOKENS)
#define SKVI_MIDDLE 63.5            /* of a span, from its first token */
#define SKVI_SLOW 1.5               /* left out: 2 J_8(1.5) = 5e-6 of such a pair */
#define SKVI_WAVE_MOST 32500.0f
#define SKVI_WAVE_POLY 3u           /* waves that T_2 T_3, T_4 T_5, T_6 T_7 take */
#define SKVI_WAVE_UNIT (1.0f / 32767.0f)
#define SKVI_WAVE_ROOM(whole) ((whole) + 8u)

typedef struct skvi_waves {
    uint32_t  pairs, whole, fast;   /* whole: pairs up to a multiple of 8 */
    uint16_t *order;                /* [pairs]: fast pairs first */
    float    *freq;                 /* [pairs], in that order */
    double   *phase;                /* [4][whole]: e^(i f position), then e^(i f 128) */
    double   *start;                /* likewise, of the first span of 8; e^(i f 1024) */
    uint32_t  at, start_at;         /* positions of both + 1; 0: none */
    float    *now;                  /* [2][whole]: phase, as floats */
    float    *poly;                 /* [8][whole]: J_0 2J_2.. J_6 of a pair, J_1.. J_7; fast: 0 */
    int16_t  *wave;                 /* [2][n / 2][64][2] */
    int16_t  *coef;                 /* [GANG][2][WAVE_ROOM(whole)] */
} skvi_waves;

/* Turns the phases on by one span. */
static void skvi_wave_step_c(double *phase, uint32_t whole, float *now)
{
    SKVI_UNFUSED
    double *c = phase, *s = c + whole, *dc = s + whole, *ds = dc + whole;
    uint32_t p;
    for (p = 0; p < whole; p++) {
        double x = c[p] * dc[p] - s[p] * ds[p], y = c[p] * ds[p] + s[p] * dc[p];
        c[p] = x;
        s[p] = y;
        now[p] = (float)x;
        now[whole + p] = (float)y;
    }
}

/* Waves of a span, in twos. */
static uint32_t skvi_wave_count(uint32_t fast) { return (fast + SKVI_WAVE_POLY + 1) & ~1u; }

/* Coefficients of one row, [2][WAVE_ROOM]: still[2][whole] turned by now[2][whole], low pairs
   gathered into the polynomial, whose line (value in the middle, slope) stays apart. Returns what
   one is worth; 0: all are 0. */
static float skvi_wave_coef_c(const float *now, const float *still, const float *poly,
                              uint32_t whole, uint32_t fast, int16_t *coef, float *line)
{
    SKVI_UNFUSED
    float part[8][8] = {{0}}, work[2][SKV_MAX_HEAD_DIM / 2], low[8], load[8] = {0}, most, inv;
    uint32_t p, l, k, odd = SKVI_WAVE_ROOM(whole);
    for (p = 0; p < whole; p++) {
        float c = now[p], s = now[whole + p], x = still[p], y = still[whole + p];
        float a = work[0][p] = c * x + s * y, b = work[1][p] = c * y - s * x;
        for (k = 0; k < 8; k++) part[k][p % 8] += (k < 4 ? a : b) * poly[k * whole + p];
        if (p < fast) load[p % 8] += fabsf(a) + fabsf(b);
    }
    for (k = 0; k < 8; k++) {
        float *x = part[k];
        low[k] = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
    }
    for (l = 0; l < 8; l++) load[l] += l % 4 ? fabsf(low[l]) : 0;
    for (l = 0; l < 4; l++) load[l] += load[l + 4];
    most = (load[0] + load[2]) + (load[1] + load[3]);
    inv = most > 1e-30f ? SKVI_WAVE_MOST / most : 0;
    for (p = 0; p < skvi_wave_count(fast); p++) {
        float a = p < fast ? work[0][p] : p < fast + SKVI_WAVE_POLY ? low[1 + p - fast] : 0;
        float b = p < fast ? work[1][p] : p < fast + SKVI_WAVE_POLY ? low[5 + p - fast] : 0;
        coef[p] = (int16_t)(a * inv + SKVI_MAGIC - SKVI_MAGIC);
        coef[odd + p] = (int16_t)(b * inv + SKVI_MAGIC - SKVI_MAGIC);
    }
    line[0] = low[0];
    line[1] = low[4] * (float)(1 / SKVI_MIDDLE);
    return most / SKVI_WAVE_MOST;
}

/* s[rows][128] = line[rows][2] at t + unit times the sum of n waves; coefficients of even and odd
   waves, and so half a row's, are `odd` apart. */
static void skvi_wave_sum_c(const int16_t *wave, const int16_t *coef, uint32_t n, uint32_t odd,
                            uint32_t rows, const float *unit, const float *line, float *s)
{
    SKVI_UNFUSED
    const int16_t *w = wave, *v = wave + n * SKVI_SPAN / 2;
    uint32_t r, t, p;
    for (r = 0; r < rows; r++, coef += 2 * odd, line += 2, s += SKVI_SPAN)
        for (t = 0; t < SKVI_SPAN / 2; t++) {
            int32_t even_sum = 0, odd_sum = 0;
            float x, y;
            for (p = 0; p < n; p++) {
                uint32_t at = p / 2 * SKVI_SPAN + 2 * t + p % 2;
                even_sum += w[at] * coef[p];
                odd_sum += v[at] * coef[odd + p];
            }
            x = line[0] + unit[r] * (float)even_sum;
            y = ((float)t + 0.5f) * line[1] + unit[r] * (float)odd_sum;
            s[SKVI_SPAN / 2 + t] = x + y;
            s[SKVI_SPAN / 2 - 1 - t] = x - y;
        }
}

#ifdef SKVI_LA_AVX2
__attribute__((target("avx2")))
static void skvi_wave_step_avx2(double *phase, uint32_t whole, float *now)
{
    SKVI_UNFUSED
    double *c = phase, *s = c + whole, *dc = s + whole, *ds = dc + whole;
    uint32_t p;
    for (p = 0; p < whole; p += 4) {
        __m256d x = _mm256_loadu_pd(c + p), y = _mm256_loadu_pd(s + p), z;
        __m256d u = _mm256_loadu_pd(dc + p), v = _mm256_loadu_pd(ds + p);
        z = _mm256_sub_pd(_mm256_mul_pd(x, u), _mm256_mul_pd(y, v));
        y = _mm256_add_pd(_mm256_mul_pd(x, v), _mm256_mul_pd(y, u));
        _mm256_storeu_pd(c + p, z);
        _mm256_storeu_pd(s + p, y);
        _mm_storeu_ps(now + p, _mm256_cvtpd_ps(z));
        _mm_storeu_ps(now + whole + p, _mm256_cvtpd_ps(y));
    }
}

/* Eight cosines to even[8] and eight sines to odd[8], as int16. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_wave_pack_avx2(__m256 a, __m256 b, __m256 inv, int16_t *even, int16_t *odd)
{
    __m256i x = _mm256_cvtps_epi32(_mm256_mul_ps(a, inv));
    __m256i y = _mm256_cvtps_epi32(_mm256_mul_ps(b, inv));
    x = _mm256_permute4x64_epi64(_mm256_packs_epi32(x, y), 0xD8);
    _mm_storeu_si128((__m128i *)even, _mm256_castsi256_si128(x));
    _mm_storeu_si128((__m128i *)odd, _mm256_extracti128_si256(x, 1));
}

/* The sum of each of four vectors. */
__attribute__((target("avx2"), always_inline))
static inline __m128 skvi_four_sums_avx2(const __m256 *x)
{
    __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
}

__attribute__((target("avx2")))
static float skvi_wave_coef_avx2(const float *now, const float *still, const float *poly,
                                 uint32_t whole, uint32_t fast, int16_t *coef, float *line)
{
    SKVI_UNFUSED
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 zero = _mm256_setzero_ps(), low, load = zero, part[8], inv;
    float most, work[2][SKV_MAX_HEAD_DIM / 2 + 8];
    uint32_t p, k, odd = SKVI_WAVE_ROOM(whole);
    SKVI_LA_UNROLL
    for (k = 0; k < 8; k++) part[k] = zero;
    for (p = 0; p < whole; p += 8) {
        __m256 c = _mm256_loadu_ps(now + p), s = _mm256_loadu_ps(now + whole + p), a, b;
        __m256 x = _mm256_loadu_ps(still + p), y = _mm256_loadu_ps(still + whole + p);
        a = _mm256_add_ps(_mm256_mul_ps(c, x), _mm256_mul_ps(s, y));
        b = _mm256_sub_ps(_mm256_mul_ps(c, y), _mm256_mul_ps(s, x));
        if (p < fast) {
            _mm256_storeu_ps(work[0] + p, a);
            _mm256_storeu_ps(work[1] + p, b);
            x = _mm256_add_ps(_mm256_and_ps(a, magnitude), _mm256_and_ps(b, magnitude));
            y = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)(fast - p)), lanes));
            load = _mm256_add_ps(load, _mm256_and_ps(x, y));
        }
        if (p + 8 <= fast) continue;
        SKVI_LA_UNROLL
        for (k = 0; k < 8; k++)
            part[k] = _mm256_add_ps(part[k], _mm256_mul_ps(k < 4 ? a : b,
                                                           _mm256_loadu_ps(poly + k * whole + p)));
    }
    low = _mm256_set_m128(skvi_four_sums_avx2(part + 4), skvi_four_sums_avx2(part));
    line[0] = _mm256_cvtss_f32(low);
    line[1] = _mm_cvtss_f32(_mm256_extractf128_ps(low, 1)) * (float)(1 / SKVI_MIDDLE);
    low = _mm256_blend_ps(low, zero, 0x11);
    most = skvi_sum_avx2(_mm256_add_ps(load, _mm256_and_ps(low, magnitude)));
    inv = _mm256_set1_ps(most > 1e-30f ? SKVI_WAVE_MOST / most : 0);
    for (p = 0; p < fast; p += 8)
        skvi_wave_pack_avx2(_mm256_loadu_ps(work[0] + p), _mm256_loadu_ps(work[1] + p), inv,
                            coef + p, coef + odd + p);
    low = _mm256_permutevar8x32_ps(low, _mm256_setr_epi32(1, 2, 3, 0, 5, 6, 7, 4));
    skvi_wave_pack_avx2(low, _mm256_permute2f128_ps(low, low, 0x81), inv, coef + fast,
                        coef + odd + fast);
    return most / SKVI_WAVE_MOST;
}

/* Line and sums of 8 tokens from the middle + at on, and of the 8 that mirror them. */
__attribute__((target("avx2"), always_inline))
static inline void skvi_wave_write_avx2(__m256i even, __m256i odd, float unit, const float *line,
                                        uint32_t at, float *s)
{
    SKVI_UNFUSED
    const __m256 half = _mm256_setr_ps(0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f);
    const __m256i mirror = _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    __m256 x = _mm256_mul_ps(_mm256_set1_ps(unit), _mm256_cvtepi32_ps(even));
    __m256 y = _mm256_mul_ps(_mm256_set1_ps(unit), _mm256_cvtepi32_ps(odd));
    __m256 t = _mm256_add_ps(half, _mm256_set1_ps((float)at));
    x = _mm256_add_ps(_mm256_set1_ps(line[0]), x);
    y = _mm256_add_ps(_mm256_mul_ps(t, _mm256_set1_ps(line[1])), y);
    _mm256_storeu_ps(s + SKVI_SPAN / 2 + at, _mm256_add_ps(x, y));
    x = _mm256_permutevar8x32_ps(_mm256_sub_ps(x, y), mirror);
    _mm256_storeu_ps(s + SKVI_SPAN / 2 - 8 - at, x);
}

__attribute__((target("avx2"), always_inline))
static inline void skvi_wave_rows_avx2(const uint32_t rows, const int16_t *wave,
                                       const int16_t *coef, uint32_t n, uint32_t odd,
                                       const float *unit, const float *line, float *s)
{
    uint32_t t, p, r;
    for (t = 0; t < SKVI_SPAN / 2; t += 8, wave += 16) {
        const int16_t *w = wave, *q = coef;
        skvi_sums_avx2 a[4][2];
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++) a[r][0] = a[r][1] = (skvi_sums_avx2)_mm256_setzero_si256();
        SKVI_UNROLL_4
        for (p = 0; p < n; p += 2, w += SKVI_SPAN, q += 2) {
            __m256i x = SKVI_LOAD256(w), y = SKVI_LOAD256(w + n * SKVI_SPAN / 2);
            SKVI_LA_UNROLL
            for (r = 0; r < rows; r++) {
                int32_t two, twin;
                memcpy(&two, q + 2 * odd * r, 4);
                memcpy(&twin, q + 2 * odd * r + odd, 4);
                a[r][0] += (skvi_sums_avx2)_mm256_madd_epi16(x, _mm256_set1_epi32(two));
                a[r][1] += (skvi_sums_avx2)_mm256_madd_epi16(y, _mm256_set1_epi32(twin));
            }
        }
        SKVI_LA_UNROLL
        for (r = 0; r < rows; r++)
            skvi_wave_write_avx2((__m256i)a[r][0], (__m256i)a[r][1], unit[r], line + 2 * r, t,
                                 s + r * SKVI_SPAN);
    }
}

__attribute__((target("avx2")))
static void skvi_wave_sum_avx2(const int16_t *wave, const int16_t *coef, uint32_t n, uint32_t odd,
                               uint32_t rows, const float *unit, const float *line, float *s)
{
    SKVI_BY_ROWS(skvi_wave_rows_avx2, rows, wave, coef, n, odd, unit, line, s);
}
#ifdef SKVI_LA_AVX512
/* As skvi_wave_write_avx2, 16 tokens. */
SKVI_INLINE_AVX512
static inline void skvi_wave_write_avx512(__m512i even, __m512i odd, float unit, const float *line,
                                          uint32_t at, float *s)
{
    const __m512i mirror = _mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i last = _mm512_set1_epi32((int)at + 15);
    __m512 x = SKVI_MUL512(_mm512_set1_ps(unit), _mm512_cvtepi32_ps(even));
    __m512 y = SKVI_MUL512(_mm512_set1_ps(unit), _mm512_cvtepi32_ps(odd));
    __m512 t = _mm512_cvtepi32_ps(_mm512_sub_epi32(last, mirror));
    t = SKVI_ADD512(t, _mm512_set1_ps(0.5f));
    x = SKVI_ADD512(_mm512_set1_ps(line[0]), x);
    y = SKVI_ADD512(SKVI_MUL512(t, _mm512_set1_ps(line[1])), y);
    _mm512_storeu_ps(s + SKVI_SPAN / 2 + at, SKVI_ADD512(x, y));
    SKVI_STORE512(s + SKVI_SPAN / 2 - 16 - at,
                  _mm512_permutexvar_epi32(mirror, _mm512_castps_si512(SKVI_SUB512(x, y))));
}

SKVI_INLINE_AVX512
static inline void skvi_wave_rows_avx512(const uint32_t rows, const int16_t *wave,
                                         const int16_t *coef, uint32_t n, uint32_t odd,
                                         const float *unit, const float *line, float *s)
{
    uint32_t t, p, r;
    for (t = 0; t < SKVI_SPAN / 2; t += 32, wave += 64) {
        const int16_t *w = wave, *v = wave + n * SKVI_SPAN / 2, *q = coef;
        skvi_sums_avx512 a[4][4];
        __m512i x[4], z;
        SKVI_UNROLL_16
        for (r = 0; r < rows; r++) SKVI_ZERO4(a[r]);
        for (p = 0; p < n; p += 2, w += SKVI_SPAN, v += SKVI_SPAN, q += 2) {
            x[0] = SKVI_LOAD512(w);
            x[1] = SKVI_LOAD512(w + 32);
            x[2] = SKVI_LOAD512(v);
            x[3] = SKVI_LOAD512(v + 32);
            SKVI_UNROLL_16
            for (r = 0; r < rows; r++) {
                int32_t two, twin;
                memcpy(&two, q + 2 * odd * r, 4);
                memcpy(&twin, q + 2 * odd * r + odd, 4);
                z = _mm512_set1_epi32(two);
                SKVI_DOT512(_mm512_dpwssd_epi32, a[r][0], x[0], z);
                SKVI_DOT512(_mm512_dpwssd_epi32, a[r][1], x[1], z);
                z = _mm512_set1_epi32(twin);
                SKVI_DOT512(_mm512_dpwssd_epi32, a[r][2], x[2], z);
                SKVI_DOT512(_mm512_dpwssd_epi32, a[r][3], x[3], z);
            }
        }
        SKVI_UNROLL_16
        for (r = 0; r < rows; r++) {
            const float *l = line + 2 * r;
            float *to = s + r * SKVI_SPAN;
            skvi_wave_write_avx512((__m512i)a[r][0], (__m512i)a[r][2], unit[r], l, t, to);
            skvi_wave_write_avx512((__m512i)a[r][1], (__m512i)a[r][3], unit[r], l, t + 16, to);
        }
    }
}

SKVI_AVX512
static void skvi_wave_sum_avx512(const int16_t *wave, const int16_t *coef, uint32_t n,
                                 uint32_t odd, uint32_t rows, const float *unit, const float *line,
                                 float *s)
{
    SKVI_BY_ROWS(skvi_wave_rows_avx512, rows, wave, coef, n, odd, unit, line, s);
}
#endif
#endif

#ifdef SKVI_LA_128
SKVI_TARGET_128
static void skvi_wave_step_128(double *phase, uint32_t whole, float *now)
{
    SKVI_UNFUSED
    double *c = phase, *s = c + whole, *dc = s + whole, *ds = dc + whole;
    uint32_t p, i;
    for (p = 0; p < whole; p += 2) {
        skvi_f64x2 x = SKVI_LOAD(skvi_f64x2, c + p), y = SKVI_LOAD(skvi_f64x2, s + p), z;
        skvi_f64x2 u = SKVI_LOAD(skvi_f64x2, dc + p), v = SKVI_LOAD(skvi_f64x2, ds + p);
        z = x * u - y * v;
        y = x * v + y * u;
        SKVI_STORE(skvi_f64x2, c + p, z);
        SKVI_STORE(skvi_f64x2, s + p, y);
        for (i = 0; i < 2; i++) {
            now[p + i] = (float)z[i];
            now[whole + p + i] = (float)y[i];
        }
    }
}

/* Eight numbers times inv as int16. */
SKVI_INLINE_128
static inline void skvi_wave_pack_128(const float *x, float inv, int16_t *out)
{
    skvi_u32x4 a = skvi_nearest_128(SKVI_LOAD(skvi_f32x4, x) * SKVI_SPLAT_F32(inv));
    skvi_u32x4 b = skvi_nearest_128(SKVI_LOAD(skvi_f32x4, x + 4) * SKVI_SPLAT_F32(inv));
    SKVI_STORE(skvi_i16x8, out, SKVI_SHORTS(a, b));
}

SKVI_TARGET_128
static float skvi_wave_coef_128(const float *now, const float *still, const float *poly,
                                uint32_t whole, uint32_t fast, int16_t *coef, float *line)
{
    SKVI_UNFUSED
    const skvi_u32x4 lanes = {0, 1, 2, 3};
    skvi_f32x4 load[2], part[8][2], a, b, x, y;
    float most, inv, work[2][SKV_MAX_HEAD_DIM / 2 + 8], low[2][8] = {{0}};
    uint32_t p, k, i, odd = SKVI_WAVE_ROOM(whole);
    memset(load, 0, sizeof load);
    memset(part, 0, sizeof part);
    for (p = 0; p < whole; p += 4) {
        i = p / 4 % 2;
        a = SKVI_LOAD(skvi_f32x4, now + p);
        b = SKVI_LOAD(skvi_f32x4, now + whole + p);
        x = SKVI_LOAD(skvi_f32x4, still + p);
        y = SKVI_LOAD(skvi_f32x4, still + whole + p);
        SKVI_STORE(skvi_f32x4, work[0] + p, a * x + b * y);
        SKVI_STORE(skvi_f32x4, work[1] + p, a * y - b * x);
        a = SKVI_LOAD(skvi_f32x4, work[0] + p);
        b = SKVI_LOAD(skvi_f32x4, work[1] + p);
        x = skvi_abs_128(a) + skvi_abs_128(b);
        load[i] += (skvi_f32x4)((skvi_u32x4)x & (skvi_u32x4)(lanes + SKVI_SPLAT_32(p) <
                                                             SKVI_SPLAT_32(fast)));
        for (k = 0; k < 8; k++)
            part[k][i] += (k < 4 ? a : b) * SKVI_LOAD(skvi_f32x4, poly + k * whole + p);
    }
    for (k = 0; k < 8; k++) {
        x = part[k][0];
        y = part[k][1];
        low[k / 4][k % 4] = ((x[0] + x[1]) + (x[2] + x[3])) + ((y[0] + y[1]) + (y[2] + y[3]));
    }
    line[0] = low[0][0];
    line[1] = low[1][0] * (float)(1 / SKVI_MIDDLE);
    for (i = 0; i < 2; i++) {
        low[i][0] = 0;
        load[i] += skvi_abs_128(SKVI_LOAD(skvi_f32x4, low[i]));
    }
    most = skvi_sum_128(load[0], load[1]);
    inv = most > 1e-30f ? SKVI_WAVE_MOST / most : 0;
    for (i = 0; i < 2; i++) {
        memmove(low[i], low[i] + 1, 7 * sizeof(float));
        for (p = 0; p < fast; p += 8) skvi_wave_pack_128(work[i] + p, inv, coef + i * odd + p);
        skvi_wave_pack_128(low[i], inv, coef + i * odd + fast);
    }
    return most / SKVI_WAVE_MOST;
}

SKVI_INLINE_128
static inline void skvi_wave_rows_128(const uint32_t rows, const int16_t *wave,
                                      const int16_t *coef, uint32_t n, uint32_t odd,
                                      const float *unit, const float *line, float *s)
{
    SKVI_UNFUSED
    const skvi_f32x4 half = {0.5f, 1.5f, 2.5f, 3.5f};
    uint32_t t, p, r, i;
    for (t = 0; t < SKVI_SPAN / 2; t += 4, wave += 8) {
        const int16_t *w = wave, *q = coef;
        skvi_madds a[4][2];
        SKVI_LA_UNROLL
        for (i = 0; i < 8; i++) skvi_madd_zero_128(&a[i / 2][i % 2]);
        for (p = 0; p < n; p += 2, w += SKVI_SPAN, q += 2)
            SKVI_LA_UNROLL
            for (i = 0; i < 2; i++) {
                skvi_i16x8 x = SKVI_LOAD(skvi_i16x8, w + i * n * (SKVI_SPAN / 2));
                SKVI_LA_UNROLL
                for (r = 0; r < rows; r++)
                    skvi_madd_128(&a[r][i], x, (skvi_i16x8)SKVI_SPLAT_32(skvi_get32(
                        (const unsigned char *)(q + (2 * r + i) * odd))));
            }
        for (r = 0; r < rows; r++) {
            float *to = s + r * SKVI_SPAN + SKVI_SPAN / 2;
            skvi_f32x4 x = SKVI_FLOATS(skvi_madd_sum_128(&a[r][0])) * SKVI_SPLAT_F32(unit[r]);
            skvi_f32x4 y = SKVI_FLOATS(skvi_madd_sum_128(&a[r][1])) * SKVI_SPLAT_F32(unit[r]);
            x = SKVI_SPLAT_F32(line[2 * r]) + x;
            y = (half + SKVI_SPLAT_F32((float)t)) * SKVI_SPLAT_F32(line[2 * r + 1]) + y;
            SKVI_STORE(skvi_f32x4, to + t, x + y);
            x -= y;
            for (i = 0; i < 4; i++) to[-1 - (int)(t + i)] = x[i];
        }
    }
}

SKVI_TARGET_128
static void skvi_wave_sum_128(const int16_t *wave, const int16_t *coef, uint32_t n, uint32_t odd,
                              uint32_t rows, const float *unit, const float *line, float *s)
{
    SKVI_BY_ROWS(skvi_wave_rows_128, rows, wave, coef, n, odd, unit, line, s);
}
#endif

static const skvi_kernels skvi_kernels_c = {
    skvi_gemm_c, skvi_dot_c, NULL, skvi_from_f16_c, skvi_expand_c, skvi_steps_c, skvi_query_c,
    skvi_score_c, skvi_score_wide_c, skvi_value_c, skvi_value_wide_c,
    skvi_add_scores_c, skvi_add_values_c, skvi_top_c, skvi_exps_c, skvi_weights_c, 0, NULL, NULL,
    skvi_wave_step_c, skvi_wave_coef_c, skvi_wave_sum_c,
    skvi_search_step_c, skvi_search_low_c
};
#ifdef SKVI_LA_AVX2
static const skvi_kernels skvi_kernels_avx2 = {
    skvi_gemm_avx2, skvi_dot_avx2, NULL, skvi_from_f16_avx2, skvi_expand_avx2, skvi_steps_avx2,
    skvi_query_avx2, skvi_score_avx2, skvi_score_wide_avx2, skvi_value_avx2, skvi_value_wide_avx2,
    skvi_add_scores_avx2, skvi_add_values_avx2, skvi_top_avx2, skvi_exps_avx2, skvi_weights_avx2,
    1, NULL, NULL, skvi_wave_step_avx2, skvi_wave_coef_avx2, skvi_wave_sum_avx2,
    skvi_search_step_avx2, skvi_search_low_avx2
};
#endif
#ifdef SKVI_LA_128
static const skvi_kernels skvi_kernels_128 = {
    skvi_gemm_128, skvi_dot_128, NULL, skvi_from_f16_128, skvi_expand_128, skvi_steps_128,
    skvi_query_128, skvi_score_128, skvi_score_wide_128, skvi_value_128, skvi_value_wide_128,
    skvi_add_scores_128, skvi_add_values_128, skvi_top_128, skvi_exps_128, skvi_weights_128, 0,
    NULL, NULL,
    skvi_wave_step_128, skvi_wave_coef_128, skvi_wave_sum_128,
    skvi_search_step_128, skvi_search_low_128
};
#endif
#ifdef SKVI_LA_AVX512
static const skvi_kernels skvi_kernels_avx512 = {
    skvi_gemm_avx512, skvi_dot_avx2, skvi_dots_avx512, skvi_from_f16_avx2, skvi_expand_avx2,
    skvi_steps_avx2,
    skvi_query_avx2, skvi_score_avx2, skvi_score_wide_avx512, skvi_value_avx2,
    skvi_value_wide_avx512, skvi_add_scores_avx512, skvi_add_values_avx2, skvi_top_avx512,
    skvi_exps_avx512, skvi_weights_avx512, 1, skvi_keys_avx512, skvi_values_avx512,
    skvi_wave_step_avx2, skvi_wave_coef_avx2, skvi_wave_sum_avx512,
    skvi_search_step_avx2, skvi_search_low_avx2
};
#endif

/* As kernels' dots, for any l and n. */
static void skvi_dots(const skvi_kernels *k, size_t m, size_t l, size_t n, const float *a,
                      size_t lda, const float *b, size_t ldb, float *out, size_t ldo)
{
    size_t i, r, at = k->dots && n % 16 == 0 ? l / 4 * 4 : 0;
    if (at) k->dots(m, at, n, a, lda, b, ldb, out, ldo);
    for (r = 0; r < m; r++)
        for (i = at; i < l; i++) out[r * ldo + i] = k->dot(a + r * lda, b + i * ldb, n);
}

static const skvi_kernels *skvi_pick_kernels(void)
{
    const uint32_t isa = skv_isa();
#ifdef SKVI_LA_AVX512
    if (isa & SKV_ISA_AVX512) return &skvi_kernels_avx512;
#endif
#ifdef SKVI_LA_AVX2
    if (isa & SKV_ISA_AVX2) return &skvi_kernels_avx2;
#endif
#ifdef SKVI_LA_128
    if (isa & (SKV_ISA_SSE41 | SKV_ISA_NEON | SKV_ISA_WASM)) return &skvi_kernels_128;
#endif
    (void)isa;
    return &skvi_kernels_c;
}

/* state[] of `lanes` lanes from number `to` on at n positions from `first` on, from the winners of
   the lanes lane[]: back from the states s[] at the last position. */
static void skvi_search_trace(skvi_search *v, uint32_t h, uint32_t first, uint32_t n,
                              const unsigned char *lane, uint32_t lanes, unsigned char *s,
                              uint32_t to)
{
    uint32_t i, l, at, b;
    for (i = n; i-- > 0;) {
        at = (first + i) % SKV_PAGE_TOKENS;
        b = skvi_step_bits(h, at);
        memcpy(v->state[at] + to, s, lanes);
        for (l = 0; b && l < lanes; l++) {      /* lanes inside: loads that wait side by side */
            uint32_t rest = s[l] & ((256u >> b) - 1), share = SKVI_SHARE(b);
            uint32_t who = v->from[at][rest / share * SKVI_LANES + lane[l]];
            who = who >> (share - 1 - rest % share) * (8 / share) & ((1u << b) - 1);
            s[l] = (unsigned char)(rest << b | who);
        }
    }
}

/* Costs and winners of the best paths over n positions of the circle from `first` on, n even, for
   latents x[64][LANES]; from the states start[LANES], or from any when that is NULL. use[] counts
   positions. Costs end up in cost[0]. */
static void skvi_search_run(const skvi_kernels *kern, skvi_search *v, const int16_t *x,
                            const unsigned char *use, uint32_t h, uint32_t first, uint32_t n,
                            const unsigned char *start)
{
    const skvi_fine fine = skvi_fine_of(h);
    skvi_trial t;
    uint32_t i, l, at;
    memset(v->cost[0], start ? 255 : 0, sizeof v->cost[0]);
    for (l = 0; start && l < SKVI_LANES; l++) v->cost[0][start[l]][l] = 0;
    memset(v->low, 0, sizeof v->low);
    memset(v->total, 0, sizeof v->total);
    t.unit = fine.unit;
    t.twice = fine.twice;
    t.levels = 1u << skvi_code_of(h)->bits;
    t.dist = v->dist[0];
    t.low = v->low;
    t.total = v->total;
    for (i = 0; i < n; i++) {
        at = (first + i) % SKV_PAGE_TOKENS;
        t.c = v->cost[i % 2][0];
        t.d = v->cost[(i + 1) % 2][0];
        t.x = use[at] ? x + skvi_token_of(at) * SKVI_LANES : NULL;
        t.level = v->level[at & 1u];
        t.from = v->from[at];
        t.b = skvi_step_bits(h, at);
        kern->search(&t);
    }
}

/* Levels of all windows, counted from the lowest. */
static void skvi_search_levels(skvi_search *v, uint32_t h)
{
    int lowest = -(1 << (skvi_code_of(h)->bits - 1));
    uint32_t step, w;
    for (step = 0; step < 2; step++) {
        const signed char *a = skvi_code_part(h, step, 0), *b = skvi_code_part(h, step, 1);
        for (w = 0; w < 256; w++)
            v->level[step][w] = (uint16_t)((skvi_part_level(a, b, w) - lowest) * (int)SKVI_LANES);
    }
}

/* A lane's path to its channel's bytes in a quad: each position's newest bits top its window. */
static void skvi_search_pack(const skvi_search *v, uint32_t lane, uint32_t h, int kind,
                             unsigned char *quad)
{
    uint32_t l, step;
    for (l = 0; l < 4; l++) {
        unsigned char *out = quad + skvi_quad_byte(kind, l, lane % SKVI_QUAD);
        uint32_t bits = 0, have = 0;
        for (step = 0; step < SKVI_STEPS; step++) {
            uint32_t b = skvi_step_bits(h, step);
            bits |= (uint32_t)v->state[SKVI_STEPS * l + step][lane] >> (8 - b) << have;
            for (have += b; have >= 8; have -= 8, bits >>= 8, out += 16)
                *out = (unsigned char)bits;
        }
    }
}

/* What cutting latents off at `most` hides of their squared errors: in costs. */
static uint32_t skvi_search_hidden(const float *u, const unsigned char *use, float inv, int last,
                                   int most, uint32_t twice)
{
    uint32_t i, sum = 0;
    for (i = 0; i < SKV_PAGE_TOKENS; i++) {
        float x = fabsf(u[skvi_token_of(i)]) * inv;
        int y = x < 32000.0f ? (int)x : 32000;
        if (use[i] && y > most)
            sum += (uint32_t)((y - last) * (y - last) - (most - last) * (most - last)) >> 15
                   << twice;
    }
    return sum;
}

/* A lane's latents at a scale, cut off a little beyond the last level. Returns what that hides;
   use[] by position. */
static uint32_t skvi_search_load(skvi_search *v, uint32_t lane, const float *u,
                                 const unsigned char *use, uint32_t h, uint32_t e)
{
    const skvi_code *code = skvi_code_of(h);
    const skvi_fine fine = skvi_fine_of(h);
    const int last = fine.unit << (code->bits - 1), end = last + SKVI_BEYOND * fine.unit;
    const float inv = (float)fine.unit / (code->unit * skvi_scale(e)), most = (float)end;
    float peak = 0;
    uint32_t t;
    for (t = 0; t < SKV_PAGE_TOKENS; t++) {
        float x = u[t] * inv, y = fabsf(x);
        peak = y > peak ? y : peak;
        x = x > -most ? x : -most;                      /* NaN: the left */
        x = (x < most ? x : most) + SKVI_MAGIC;
        v->x[t][lane] = (int16_t)(uint16_t)(skvi_bits(x) & 0xFFFFu);
    }
    return peak > most ? skvi_search_hidden(u, use, inv, last, end, fine.twice) : 0;
}

/* >>plan --------------------------------------------------------------------------------------
   Half bits by reverse water-filling: with price lambda of a bit, a quad takes the next mode when
   var (D[m] - D[m+1]) >= lambda * bits, var the sum of its channels', the first one's with the 4/64
   bits of a scale each. Channels are sorted by variance, so modes never rise along them and a plan
   is counts. Where D is no multiple of 4 the last quad is filled with channels of zeros. */
typedef struct skvi_plan {
    uint32_t n[SKVI_MODES];         /* channels of each mode, multiples of 4 */
    uint32_t coded;                 /* channels with bits, likewise */
    uint32_t bytes;                 /* of a sub */
    float    lambda;                /* distortion that one bit is worth */
    double   error, energy;         /* expected distortion, and the sum of variances */
} skvi_plan;

#define SKVI_PAGE_HEADER 12u
#define SKVI_PAGE_FORMAT 3u
#define SKVI_ROW_BYTES(D) (2u + 2u * (size_t)(D))
#define SKVI_CODE_BYTES(h) (4u * (uint32_t)(h))         /* of a channel and page */
#define SKVI_SCALE_BYTES(coded) (((coded) + 1u) / 2)    /* a nibble each */
#define SKVI_MAX_ROWS 8u            /* outlier rows of one sub */

static void skvi_plan_stream(const skvi_stream *s, double lambda, skvi_plan *p)
{
    uint32_t c, i, m;
    memset(p, 0, sizeof *p);
    p->bytes = SKVI_SUB_HEADER;
    p->lambda = (float)lambda;
    for (c = 0; c < s->D; c += SKVI_QUAD) {
        double var = 0;
        for (i = c; i < s->D && i < c + SKVI_QUAD; i++) var += s->var[i];
        for (m = 0; m + 1 < SKVI_MODES; m++) {
            double gain = var * (double)(skvi_distortion[m] - skvi_distortion[m + 1]);
            double bits = 0.5 * SKVI_QUAD * (skvi_mode_half[m + 1] - skvi_mode_half[m]);
            if (gain < lambda * (m ? bits : bits + 4.0 * SKVI_QUAD / SKV_PAGE_TOKENS)) break;
        }
        p->n[m] += SKVI_QUAD;
        p->coded += m ? SKVI_QUAD : 0;
        p->energy += var;
        p->error += var * (double)skvi_distortion[m];
        p->bytes += SKVI_QUAD * SKVI_CODE_BYTES(skvi_mode_half[m]);
    }
    p->bytes += SKVI_SCALE_BYTES(p->coded);
}

/* Share of a cache's tokens that a layer holds: a sliding layer drops what is out of sight, so its
   bits cost less. tokens 0: not in a cache, 1. */
static double skvi_held_share(const skv_layer *l, uint32_t tokens)
{
    double most = (double)l->sliding_window + SKV_PAGE_TOKENS;
    return l->sliding_window && most < tokens ? most / tokens : 1;
}

/* One lambda for all streams; returns bits per element of the pages that a cache of so many tokens
   holds, and the summed error. */
static double skvi_plan_all(const skv_profile *p, uint32_t tokens, double lambda, skvi_plan *plan,
                            double *error)
{
    double bytes = 0, elements = 0;
    uint32_t layer, i;
    *error = 0;
    for (layer = 0; layer < p->model.n_layers; layer++) {
        double share = skvi_held_share(&p->layers[layer], tokens);
        bytes += share * SKVI_PAGE_HEADER;
        for (i = p->first[layer]; i < p->first[layer + 1]; i++) {
            skvi_plan one;
            skvi_plan_stream(&p->stream[i], lambda * share, &one);
            bytes += share * one.bytes;
            elements += share * p->stream[i].D * SKV_PAGE_TOKENS;
            *error += one.error;
            if (plan) plan[i] = one;
        }
    }
    return 8 * bytes / elements;
}

/* Smallest error with bpe at most want, or the fewest bits with error at most want. */
static skv_result skvi_plan_search(const skv_profile *p, uint32_t tokens, const skv_target *t,
                                   double want_bpe, skvi_plan *plan)
{
    double lo = -140, hi = 140, error;      /* log2 of lambda; bits fall as it rises */
    int i, enough;
    for (i = 0; i < 100; i++) {
        double mid = 0.5 * (lo + hi), bpe = skvi_plan_all(p, tokens, exp2(mid), NULL, &error);
        enough = t->error > 0 ? error > (double)t->error : bpe <= want_bpe;
        if (enough) hi = mid;
        else lo = mid;
    }
    if (t->error > 0) {
        (void)skvi_plan_all(p, tokens, exp2(lo), plan, &error);
        return error <= (double)t->error ? SKV_OK : SKV_ERR_TARGET;
    }
    return skvi_plan_all(p, tokens, exp2(hi), plan, &error) <= want_bpe ? SKV_OK : SKV_ERR_TARGET;
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

/* Plan for a target; outliers is their share of the bits, already resolved; tokens as above. */
static skv_result skvi_plan_make(const skv_profile *p, uint32_t tokens, const skv_target *target,
                                 float outliers, skvi_plan *plan)
{
    skv_target t = *target;
    if (skvi_check_target(&t) != SKV_OK) return SKV_ERR_ARG;
    if (t.bpe == 0 && t.energy == 0 && t.error == 0) t = p->target;
    if (t.bpe == 0 && t.energy == 0 && t.error == 0) t.bpe = 4;
    if (t.energy > 0) return skvi_plan_energy(p, t.energy, plan);
    return skvi_plan_search(p, tokens, &t, (double)t.bpe * (1 - (double)outliers), plan);
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

/* The outlook of p's sums with another head group. */
static skv_result skvi_group_outlook(const skv_profiler *p, uint32_t head_group,
                                     const skv_target *target, skv_outlook *o)
{
    skv_profiler *narrow = NULL;
    skv_profile *f = NULL;
    skv_result r = skv_profiler_narrow(p, head_group, &narrow), e;
    if (r != SKV_OK) return r;
    r = skv_profiler_fit(narrow, NULL, &f);
    skv_profiler_free(narrow);
    if (r < SKV_OK) return r;
    e = skv_profile_outlook(f, target, o);
    skv_profile_free(f);
    return e < SKV_OK ? e : r;
}

SKVDEF skv_result skv_profiler_choose_group(const skv_profiler *p, const skv_target *target,
                                            double price, uint32_t *head_group)
{
    uint32_t g, i, most = 1, best = 0;
    double least = 0;
    skv_result worst = SKV_OK;
    if (!p || !head_group || !(price >= 0) || !(price <= 1e6)) return SKV_ERR_ARG;
    for (i = 0; i < p->model.n_layers; i++)
        if (p->layers[i].n_kv_heads > most) most = p->layers[i].n_kv_heads;
    if (most > p->head_group) most = p->head_group;
    for (g = most; g >= 1; g--) {
        skv_outlook o;
        double cost;
        skv_result r;
        if (!skvi_group_divides(p, g, p->head_group)) continue;
        r = skvi_group_outlook(p, g, target, &o);
        if (r < SKV_OK) return r;
        if (r != SKV_OK) worst = r;
        cost = o.bpe + 0.5 * log2(o.error > 1e-300 ? o.error : 1e-300) + price * g;
        if (best && cost >= least) continue;
        best = g;
        least = cost;
    }
    *head_group = best;
    return worst;
}

/* >>summary ----------------------------------------------------------------------------------- */
/* Rank of one head group: coded channels, or the channels that hold 95 % of the energy. */
static uint32_t skvi_rank_of(const skv_profile *p, const skvi_plan *plan, uint32_t i, int rank95)
{
    const skvi_stream *s = &p->stream[i];
    double sum = 0, part = 0;
    uint32_t c;
    if (!rank95) return plan[i].coded < s->D ? plan[i].coded : s->D;    /* without filling */
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
    r = skvi_plan_make(p, 0, &t, share, plan);
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
     0  "SKV\x89PRF\n"   8 u32 version (2)   12 u32 sections   16 u64 bytes of the whole file
     24 u32 CRC-32 of the section table      28 u32 CRC-32 of bytes 0..27
     32 per section: 4 bytes tag, u32 CRC-32 of its content, u64 offset, u64 bytes
   MODL: u32 n_layers, head_group, sinks, window; u64 fingerprint; f32 target bpe, energy, error;
         u64 tokens calibrated on; char name[64]; per layer u32 n_q_heads, n_kv_heads, head_dim,
         head_dim_v, sliding_window, f32 scale, softcap
   SPEC: per stream (layer by layer; K groups, then V groups): f32 mean, var, enc, dec
   ROPE: (since version 2) per layer u32 style, u32 pairs, f32 freqs; then per K stream of layers
         with pairs, in order, f32 turn
   These 32 bytes keep their meaning in all versions. */
#define SKVI_BLOB_VERSION 2u
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

static size_t skvi_blob_rope_bytes(const skv_profile *p)
{
    size_t n = 0;
    uint32_t i;
    for (i = 0; i < p->model.n_layers; i++) n += 8 + 4 * (size_t)p->turn[i].pairs;
    for (i = 0; i < p->n_streams; i++) n += p->stream[i].turn ? 4 * (size_t)p->stream[i].D : 0;
    return n;
}

static void skvi_blob_rope(unsigned char *at, const skv_profile *p)
{
    uint32_t i;
    for (i = 0; i < p->model.n_layers; i++) {
        skvi_put32(at, p->turn[i].style);
        skvi_put32(at + 4, p->turn[i].pairs);
        at = skvi_put_floats(at + 8, p->turn[i].freq, p->turn[i].pairs);
    }
    for (i = 0; i < p->n_streams; i++)
        if (p->stream[i].turn) at = skvi_put_floats(at, p->stream[i].turn, p->stream[i].D);
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
    size_t modl, spec, rope, total, first = SKVI_BLOB_HEADER + 3 * SKVI_BLOB_ENTRY;
    uint32_t i;
    if (!p || !bytes) return SKV_ERR_ARG;
    modl = SKVI_MODL_FIXED + (size_t)p->model.n_layers * SKVI_MODL_LAYER;
    spec = skvi_blob_spec_bytes(p);
    rope = skvi_blob_rope_bytes(p);
    total = first + modl + spec + rope;
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
    skvi_blob_rope(at, p);
    memcpy(b, skvi_magic, 8);
    skvi_put32(b + 8, SKVI_BLOB_VERSION);
    skvi_put32(b + 12, 3);
    skvi_put64(b + 16, total);
    skvi_blob_entry(b + 32, "MODL", b, first, modl);
    skvi_blob_entry(b + 56, "SPEC", b, first + modl, spec);
    skvi_blob_entry(b + 80, "ROPE", b, first + modl + spec, rope);
    skvi_put32(b + 24, skvi_crc32(b + 32, 3 * SKVI_BLOB_ENTRY));
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
    if (!skvi_get32(b + 8) || n > 1024) return SKV_ERR_FORMAT;
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

/* The sections of a blob whose checksums hold. */
typedef struct skvi_sections {
    const unsigned char *modl, *spec, *rope;    /* rope: NULL in version 1 */
    size_t modl_bytes, spec_bytes, rope_bytes;
} skvi_sections;

/* Turns of the layers out of ROPE; *used tells where the streams' part begins. freq is room for
   all of the section. */
static skv_result skvi_blob_turns(const skvi_sections *b, uint32_t n, const skv_layer *layers,
                                  skvi_turn *turn, float *freq, size_t *used)
{
    size_t at = 0, streams = 0;
    uint32_t i, p;
    int bad = 0;
    memset(turn, 0, n * sizeof *turn);
    for (i = 0; b->rope && i < n; i++) {
        if (b->rope_bytes - at < 8) return SKV_ERR_FORMAT;
        turn[i].style = skvi_get32(b->rope + at);
        turn[i].pairs = skvi_get32(b->rope + at + 4);
        turn[i].freq = freq;
        at += 8;
        if (turn[i].style > SKV_ROPE_HALVES || !turn[i].style != !turn[i].pairs ||
            turn[i].pairs > layers[i].head_dim / 2 ||
            b->rope_bytes - at < 4 * (size_t)turn[i].pairs)
            return SKV_ERR_FORMAT;
        (void)skvi_get_floats(b->rope + at, freq, turn[i].pairs, &bad);
        for (p = 0; p < turn[i].pairs; p++) bad |= !(freq[p] >= -10 && freq[p] <= 10);
        at += 4 * (size_t)turn[i].pairs;
        freq += turn[i].pairs;
        if (turn[i].pairs) streams += 4 * (size_t)layers[i].n_kv_heads * layers[i].head_dim;
    }
    *used = at;
    return bad || (b->rope && b->rope_bytes - at != streams) ? SKV_ERR_FORMAT : SKV_OK;
}

/* Builds the profile from sections whose checksums hold; layers, turn and freq are work space. */
static skv_result skvi_blob_build(skv_profile **out, const skvi_sections *b, skv_layer *layers,
                                  skvi_turn *turn, float *freq, const skv_model *expect,
                                  const skv_allocator *alloc)
{
    const unsigned char *m = b->modl, *at;
    size_t spec_bytes = b->spec_bytes, used = 0;
    skvi_turns turns;
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
    if (r == SKV_OK) r = skvi_blob_turns(b, model.n_layers, layers, turn, freq, &used);
    turns.first = turn;
    turns.stride = sizeof *turn;
    if (r == SKV_OK) r = skvi_profile_new(&p, &model, group, &turns, alloc);
    if (r != SKV_OK) return r;
    for (i = 0, at = b->rope ? b->rope + used : NULL; i < p->n_streams; i++)
        if (p->stream[i].turn)
            at = skvi_get_floats(at, p->stream[i].turn, p->stream[i].D, &bad);
    p->sinks = skvi_get32(m + 8);
    p->window = skvi_get32(m + 12);
    p->n_tokens = (double)skvi_get64(m + 36);
    bad |= skvi_get64(m + 36) > (uint64_t)1 << 53;
    (void)skvi_get_floats(m + 24, &p->target.bpe, 1, &bad);
    (void)skvi_get_floats(m + 28, &p->target.energy, 1, &bad);
    (void)skvi_get_floats(m + 32, &p->target.error, 1, &bad);
    bad |= skvi_check_target(&p->target) != SKV_OK;
    r = bad ? SKV_ERR_FORMAT : skvi_blob_streams(b->spec, p);
    if (r == SKV_OK) *out = p;
    else skv_profile_free(p);
    return r;
}

SKVDEF skv_result skv_profile_load(skv_profile **out, const void *data, size_t bytes,
                                   const skv_model *expect, const skv_allocator *allocator)
{
    const unsigned char *b = (const unsigned char *)data;
    skvi_sections s;
    size_t layers_bytes, turn_bytes, work;
    uint32_t n;
    skv_allocator a;
    unsigned char *room;
    skv_result r;
    if (!out || !data) return SKV_ERR_ARG;
    r = skvi_pick_allocator(allocator, &a);
    if (r == SKV_OK) r = skvi_blob_open(b, bytes);
    if (r != SKV_OK) return r;
    memset(&s, 0, sizeof s);
    s.modl = skvi_blob_find(b, "MODL", &s.modl_bytes);
    s.spec = skvi_blob_find(b, "SPEC", &s.spec_bytes);
    s.rope = skvi_blob_find(b, "ROPE", &s.rope_bytes);
    if (!s.modl || !s.spec || s.modl_bytes < SKVI_MODL_FIXED) return SKV_ERR_FORMAT;
    if (!s.rope && skvi_get32(b + 8) >= 2) return SKV_ERR_FORMAT;
    n = skvi_get32(s.modl);
    if (!n || n > 65536 || s.modl_bytes != SKVI_MODL_FIXED + (size_t)n * SKVI_MODL_LAYER)
        return SKV_ERR_FORMAT;
    layers_bytes = n * sizeof(skv_layer);
    turn_bytes = n * sizeof(skvi_turn);
    work = turn_bytes + layers_bytes + s.rope_bytes;
    room = (unsigned char *)a.alloc(a.user, work);
    if (!room) return SKV_ERR_MEMORY;
    r = skvi_blob_build(out, &s, (skv_layer *)(void *)(room + turn_bytes),
                        (skvi_turn *)(void *)room,
                        (float *)(void *)(room + turn_bytes + layers_bytes), expect, &a);
    a.free(a.user, room, work);
    return r;
}

/* >>page --------------------------------------------------------------------------------------
   The coder: a profile with a plan, and the work space to encode, decode and attend. Work falls
   into units (head groups; of attention also tiles and ranges of tokens), which are dealt out to
   lanes: a lane is the work space of one task. What a unit computes knows nothing of lanes. */
#define SKVI_P SKV_PAGE_TOKENS
#define SKVI_ROWS 64u               /* most (query, head) rows of one attention tile */
#define SKVI_WHOLE(D) (((size_t)(D) + 7) & ~(size_t)7)      /* whole pairs of quads */
#define SKVI_PART(D) (SKVI_WHOLE(D) + 8)    /* a row of a part: see >>scores; 5 are spare, since
                                       kernels write whole eights from any quad on */
#define SKVI_THREADS 16u            /* unless the caller says */

/* One stream of the page that is being encoded. */
typedef struct skvi_coding {
    const skvi_stream *s;
    const skvi_plan   *plan;
    int                kind;
    size_t             local;       /* its number in the layer */
    float             *u;           /* [whole D][64] latents */
    uint16_t          *scale;       /* [whole D] that channels ask for */
    unsigned char     *sub, *codes; /* codes: of channel ch */
    uint32_t           ch;          /* up to which channels are coded */
    int                scaled;      /* scale[] is of these tokens */
    float              err[SKVI_P]; /* squared, of each token */
    unsigned char      use[SKVI_P], in[SKVI_P];     /* tokens coded; by position */
} skvi_coding;
#define SKVI_GATHER 4u              /* head groups whose K and V are encoded together, at most */

#define SKVI_SLABS(D) (SKVI_WHOLE(D) / SKVI_SLAB + 2)        /* most that D channels make */

typedef struct skvi_lane {
    float *xt, *u;                  /* encode: [D][64], [streams][whole D][64] */
    uint16_t *scale;                /* encode: [streams][whole D] */
    skvi_coding *coding;            /* encode: [streams] */
    skvi_search *search;            /* encode */
    float *x, *ut;                  /* decode: [64][D], [64][D] */
    float *q, *ql, *s, *ol, *oo;    /* attend: [tile_rows] times d, whole D, 64, whole D, dv */
    float *part;                    /* attend: [tile_rows][SKVI_PART] of one range */
    float *base;                    /* attend: [tile_rows][128], scores of means in two pages */
    float *tile;                    /* attend: [max(d, dv)][64] of exact tokens, in base's place */
    signed char *levels;            /* of a slab: [SLAB / 8][16][2][16] */
    skvi_slab *slab[2];             /* attend: K and V of the head group at hand */
    signed char *gang;              /* attend: queries of GANG rows as kernels want them */
    unsigned char *weight;          /* attend: [tile_rows][64] */
    int16_t *weight_wide;           /* likewise */
    int32_t *acc;                   /* attend: [GANG][64] */
    skvi_waves *waves;              /* attend, turned means: kept from call to call */
    float *still;                   /* [tile_rows][2][whole pairs] */
} skvi_lane;

typedef struct skvi_coder {
    const skv_profile  *profile;    /* NULL in a cache that keeps everything exact */
    const skvi_kernels *kern;
    skv_parallel        par;
    skvi_plan          *plan;       /* [n_streams] */
    uint32_t           *offset;     /* [n_streams] of the sub in its page */
    uint32_t           *allow;      /* [n_streams] outlier bytes per page */
    uint32_t           *least;      /* [n_layers] page bytes without outliers */
    skvi_lane          *lane;
    uint32_t            n_lanes, max_groups;    /* lanes: at most par.n_threads */
    uint32_t            tile_rows;  /* of attention, at most ROWS; 0 in a codec */
    int                 precise;    /* queries and weights of 14 bits everywhere */
    uint32_t            most_page;  /* largest page of any layer */
    uint16_t           *rows;       /* [2 max_groups][MAX_ROWS][max D]: outliers of this page */
    unsigned char      *row_token;  /* [2 max_groups][MAX_ROWS] */
    uint32_t           *n_rows;     /* [2 max_groups] */
    size_t              max_D, max_d;
} skvi_coder;

static skvi_waves *skvi_waves_layout(skvi_arena *a, size_t d)
{
    size_t pairs = d / 2, whole = SKVI_WHOLE(pairs);
    skvi_waves tmp, *w = (skvi_waves *)skvi_take(a, 1, sizeof *w), *to = w ? w : &tmp;
    to->order = (uint16_t *)skvi_take(a, pairs, sizeof(uint16_t));
    to->freq = (float *)skvi_take(a, pairs, sizeof(float));
    to->phase = (double *)skvi_take(a, whole, 4 * sizeof(double));
    to->start = (double *)skvi_take(a, whole, 4 * sizeof(double));
    to->now = (float *)skvi_take(a, whole, 2 * sizeof(float));
    to->poly = (float *)skvi_take(a, whole, 8 * sizeof(float));
    to->wave = (int16_t *)skvi_take(a, skvi_wave_count((uint32_t)pairs), SKVI_SPAN * 2);
    to->coef = (int16_t *)skvi_take(a, SKVI_WAVE_ROOM(whole), 2 * SKVI_GANG * sizeof(int16_t));
    return w;
}

static void skvi_lane_layout(skvi_arena *a, skvi_lane *l, size_t D, size_t d, size_t rows,
                             size_t streams)
{
    size_t f = sizeof(float), start, end, i;
    skvi_lane tmp;
    if (!l) l = &tmp;
    l->levels = (signed char *)skvi_take(a, SKVI_SLAB / 8, SKVI_PAIR_BYTES);
    l->waves = rows ? skvi_waves_layout(a, d) : NULL;
    (void)skvi_take(a, 0, 1);
    start = a->used;
    l->xt = (float *)skvi_take(a, streams ? D : 0, SKVI_P * f);
    l->u = (float *)skvi_take(a, streams * SKVI_WHOLE(D), SKVI_P * f);
    l->scale = (uint16_t *)skvi_take(a, streams * SKVI_WHOLE(D), sizeof(uint16_t));
    l->coding = (skvi_coding *)skvi_take(a, streams, sizeof *l->coding);
    l->search = (skvi_search *)skvi_take(a, streams ? 1 : 0, sizeof *l->search);
    l->x = l->xt;
    l->ut = l->u;
    if (!rows) return;
    end = a->used;
    a->used = start;                /* attention reuses the same bytes */
    l->q = (float *)skvi_take(a, rows, d * f);
    l->ql = (float *)skvi_take(a, rows, SKVI_WHOLE(D) * f);
    l->s = (float *)skvi_take(a, rows, SKVI_P * f);
    l->ol = (float *)skvi_take(a, rows, SKVI_WHOLE(D) * f);
    l->oo = (float *)skvi_take(a, rows, d * f);
    l->part = (float *)skvi_take(a, rows, SKVI_PART(D) * f);
    i = rows * SKVI_SPAN > d * SKVI_P ? rows * SKVI_SPAN : d * SKVI_P;
    l->base = (float *)skvi_take(a, i, f);
    l->tile = l->base;
    l->gang = (signed char *)skvi_take(a, SKVI_GANG, SKVI_P * 4);
    l->weight = (unsigned char *)skvi_take(a, rows, SKVI_P);
    l->weight_wide = (int16_t *)skvi_take(a, rows, SKVI_P * sizeof(int16_t));
    l->acc = (int32_t *)skvi_take(a, SKVI_GANG, SKVI_P * sizeof(int32_t));
    l->still = (float *)skvi_take(a, rows, 2 * SKVI_WHOLE(d / 2) * f);
    for (i = 0; i < 2; i++)
        l->slab[i] = (skvi_slab *)skvi_take(a, SKVI_SLABS(D), sizeof(skvi_slab));
    if (a->used < end) a->used = end;
}

/* Head groups of one unit of the encoder: as many as leave work for every lane. */
static uint32_t skvi_gather(const skvi_coder *c)
{
    uint32_t n = c->max_groups / (c->n_lanes ? c->n_lanes : 1);
    return n < 1 ? 1 : n < SKVI_GATHER ? n : SKVI_GATHER;
}

static void skvi_coder_layout(skvi_arena *a, skvi_coder *c, const skv_model *m)
{
    uint32_t n_streams = c->profile ? c->profile->n_streams : 0, i;
    skvi_lane *lanes;
    c->plan = (skvi_plan *)skvi_take(a, n_streams, sizeof(skvi_plan));
    c->offset = (uint32_t *)skvi_take(a, n_streams, sizeof(uint32_t));
    c->allow = (uint32_t *)skvi_take(a, n_streams, sizeof(uint32_t));
    c->least = (uint32_t *)skvi_take(a, m->n_layers, sizeof(uint32_t));
    c->rows = (uint16_t *)skvi_take(a, n_streams ? 2u * c->max_groups * SKVI_MAX_ROWS : 0,
                                    c->max_D * sizeof(uint16_t));
    c->row_token = (unsigned char *)skvi_take(a, 2u * c->max_groups, SKVI_MAX_ROWS);
    c->n_rows = (uint32_t *)skvi_take(a, 2u * c->max_groups, sizeof(uint32_t));
    lanes = (skvi_lane *)skvi_take(a, c->n_lanes, sizeof(skvi_lane));
    c->lane = lanes;
    for (i = 0; i < c->n_lanes; i++)        /* more than the encoder has units: attention only */
        skvi_lane_layout(a, lanes ? &lanes[i] : NULL, c->max_D, c->max_d, c->tile_rows,
                         i * skvi_gather(c) < c->max_groups ? 2 * skvi_gather(c) : 0);
}

/* Lanes for work that never falls into more units than these. */
static void skvi_coder_lanes(skvi_coder *c, size_t units)
{
    size_t n = c->par.n_threads ? c->par.n_threads : SKVI_THREADS;
    c->n_lanes = c->par.run ? (uint32_t)(n < units ? n : units) : 1;
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
    skvi_coder_lanes(c, c->max_groups);
    c->kern = skvi_pick_kernels();
}

static uint32_t skvi_layer_streams(const skv_profile *p, uint32_t layer)
{
    return p->first[layer + 1] - p->first[layer];
}

/* Offsets, allowances and page sizes from the plan in c->plan. */
static void skvi_coder_index(skvi_coder *c, float share)
{
    const skv_profile *p = c->profile;
    uint32_t layer, i;
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

/* Units first .. end-1 in one lane. */
typedef void (*skvi_units)(void *arg, size_t lane, size_t first, size_t end);
typedef struct skvi_shares {
    skvi_units run;
    void      *arg;
    size_t     n, tasks;
} skvi_shares;

static void skvi_share(void *arg, size_t task)
{
    const skvi_shares *s = (const skvi_shares *)arg;
    s->run(s->arg, task, task * s->n / s->tasks, (task + 1) * s->n / s->tasks);
}

/* Deals n units out to lanes, neighbours together. */
static void skvi_spread(const skvi_coder *c, size_t n, skvi_units run, void *arg)
{
    skvi_shares s;
    s.run = run;
    s.arg = arg;
    s.n = n;
    s.tasks = n < c->n_lanes ? n : c->n_lanes;
    skvi_run(&c->par, s.tasks, skvi_share, &s);
}

/* Root mean square of a channel over the tokens in use, as a scale. */
static uint32_t skvi_page_rms(const float *u, const unsigned char *use)
{
    float sum[4] = {0};
    uint32_t t, i, count = 0;
    for (t = 0; t < SKVI_P; t += 4)
        SKVI_LA_UNROLL
        for (i = 0; i < 4; i++) {
            float x = use[t + i] ? u[t + i] : 0;
            sum[i] += x * x;
            count += use[t + i];
        }
    sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    return skvi_nearest_scale(count ? sqrtf(sum[0] / (float)count) : 0);
}

/* The largest level at scale 1. Not every path gets there: what counts as reached when a scale is
   chosen is less, by the KL of SmolLM2 (bench/results/hot-pages.md). */
#define SKVI_REACHED 0.75f
static float skvi_reach(uint32_t m)
{
    return skvi_codes[m].unit * (float)(1u << skvi_codes[m].bits) / 2;
}

/* Scale to start from: the root mean square, or above it where a few tokens lie so far out that
   cutting them off would cost more than a coarser scale does to all. */
static uint32_t skvi_page_scale(const float *u, const unsigned char *use, uint32_t m)
{
    float reach = SKVI_REACHED * skvi_reach(m), best = -1, far[SKVI_P + 1];
    uint32_t rms = skvi_page_rms(u, use), s, best_s = rms, t, n = 0;
    for (t = 0; t < SKVI_P; t++) {          /* only a few tokens lie beyond any reach */
        far[n] = fabsf(u[t]);
        n += use[t] && far[n] > reach * skvi_scale(rms);
    }
    for (s = rms; s <= rms + 12 && s < 269; s++) {
        float scale = skvi_scale(s), cost = 64 * skvi_distortion[m] * scale * scale;
        for (t = 0; t < n; t++) {
            float beyond = far[t] - reach * scale;
            cost += beyond > 0 ? beyond * beyond : 0;
        }
        if (best >= 0 && cost >= best) break;
        best = cost;
        best_s = s;
    }
    return best_s;
}

/* Quads of one mode, of streams that code the same tokens. */
typedef struct skvi_batch {
    uint32_t       n;               /* channels, at most LANES */
    uint32_t       scale[SKVI_LANES];
    skvi_coding   *of[SKVI_LANES / SKVI_QUAD];      /* whose quads they are */
    uint32_t       ch[SKVI_LANES / SKVI_QUAD];      /* and of which channels on */
    unsigned char *codes[SKVI_LANES / SKVI_QUAD];   /* and where their codes go */
} skvi_batch;

static const float *skvi_batch_u(const skvi_batch *b, uint32_t l)
{
    return b->of[l / SKVI_QUAD]->u + (b->ch[l / SKVI_QUAD] + l % SKVI_QUAD) * SKVI_P;
}

/* Free paths round the circle (tails need not meet) of up to PAIRED channels of a batch from `from`
   on, at their scales and one step below; scale[], state[] and kept[] are of the better one. */
static void skvi_search_free(const skvi_kernels *kern, skvi_search *v, uint32_t h, skvi_batch *b,
                             uint32_t from)
{
    unsigned char end[SKVI_LANES], lane[SKVI_PAIRED], s[SKVI_PAIRED];
    uint32_t n = b->n - from < SKVI_PAIRED ? b->n - from : SKVI_PAIRED, l, i;
    uint64_t err[SKVI_LANES];
    for (l = 0; l < n; l++)
        for (i = l; i < SKVI_LANES; i += SKVI_PAIRED)
            err[i] = skvi_search_load(v, i, skvi_batch_u(b, from + l), b->of[0]->in, h,
                                      b->scale[from + l] - i / SKVI_PAIRED);
    skvi_search_run(kern, v, v->x[0], b->of[0]->in, h, 0, SKVI_P, NULL);
    kern->low(v->cost[0][0], v->low, end);
    for (l = 0; l < SKVI_LANES; l++) err[l] += v->total[l] + v->low[l];
    for (l = 0; l < n; l++) {
        uint32_t down = 5741 * err[l + SKVI_PAIRED] < 8119 * err[l];    /* sqrt 2 between them */
        b->scale[from + l] -= down;
        lane[l] = (unsigned char)(l + down * SKVI_PAIRED);
        s[l] = end[lane[l]];
    }
    skvi_search_trace(v, h, 0, SKVI_P, lane, n, s, from);
    for (i = 0; i < SKVI_P; i++)
        for (l = 0; l < n; l++) v->kept[i][from + l] = v->x[i][lane[l]];
}

/* The seam where a free path's ends meet is mended over this many positions: enough for a path to
   forget, an even number. */
static uint32_t skvi_seam(uint32_t h) { return h <= 4 ? 64 : h <= 8 ? 48 : 24; }

/* Codes of a batch; scale[] comes as skvi_page_scale says, at least low + 2, and leaves with what
   was taken: that or the step below, by the cost of a free path. Another search, over the seam,
   from and to states of the free path, then makes its tails meet. */
static void skvi_encode_quads(const skvi_kernels *kern, skvi_search *v, uint32_t h, skvi_batch *b)
{
    unsigned char start[SKVI_LANES], lane[SKVI_LANES], s[SKVI_LANES];
    uint32_t l, seam = skvi_seam(h), first = SKVI_P - seam / 2;
    skvi_search_levels(v, h);
    for (l = 0; l < b->n; l += SKVI_PAIRED) skvi_search_free(kern, v, h, b, l);
    for (l = 0; l < SKVI_LANES; l++) lane[l] = (unsigned char)l;
    memcpy(start, v->state[first - 1], sizeof start);
    memcpy(s, v->state[(first + seam - 1) % SKVI_P], sizeof s);
    skvi_search_run(kern, v, v->kept[0], b->of[0]->in, h, first, seam, start);
    skvi_search_trace(v, h, first, seam, lane, b->n, s, 0);
    for (l = 0; l < b->n; l++)
        skvi_search_pack(v, l, h, b->of[l / SKVI_QUAD]->kind, b->codes[l / SKVI_QUAD]);
}

/* Scale 0 of a sub's nibbles: as low as the quietest channel asks for, unless the loudest one would
   then not fit. */
static uint32_t skvi_sub_gain(const uint16_t *scale, uint32_t n)
{
    uint32_t ch, most = 0, least = 255;
    for (ch = 0; ch < n; ch++) {
        uint32_t e = scale[ch];
        most = e > most ? e : most;
        if (e < least + 2) least = e > 2 ? e - 2 : 0;
    }
    if (most > least + 14) least = most - 14;
    return least > 255 ? 255 : least;       /* it is a byte */
}

/* err[token] += var times the squared error of n channels' codes. */
static void skvi_encode_error(const skvi_kernels *kern, signed char *levels, const float *u,
                              const float *var, int kind, uint32_t h, uint32_t n,
                              const uint32_t *scale, const unsigned char *codes, float *err)
{
    uint32_t i, step, l;
    kern->expand(codes, h, kind, 0, (n + 3) / SKVI_QUAD, 0, levels);
    for (i = 0; i < n; i++, u += SKVI_P) {
        const signed char *level = levels + i / 8 * SKVI_PAIR_BYTES + i / 4 % 2 * 16;
        float unit = skvi_code_of(h)->unit * skvi_scale(scale[i]);
        for (step = 0; step < SKVI_STEPS; step++)
            for (l = 0; l < 4; l++) {
                float diff = u[4 * step + l] -
                             (float)level[32 * step + skvi_quad_byte(kind, l, i % 4)] * unit;
                err[4 * step + l] += var[i] * diff * diff;
            }
    }
}

/* Encodes what was gathered of one mode: codes, nibbles, and err of the streams. */
static void skvi_batch_flush(const skvi_coder *c, const skvi_lane *lane, uint32_t m, skvi_batch *b)
{
    uint32_t q, i, h = skvi_mode_half[m];
    if (!b->n) return;
    skvi_encode_quads(c->kern, lane->search, h, b);
    for (q = 0; q < b->n / SKVI_QUAD; q++) {
        skvi_coding *k = b->of[q];
        uint32_t ch = b->ch[q], n = ch + SKVI_QUAD < k->s->D ? SKVI_QUAD : k->s->D - ch;
        const uint32_t *scale = b->scale + q * SKVI_QUAD;
        unsigned char *nibbles = k->sub + SKVI_SUB_HEADER;
        for (i = 0; i < SKVI_QUAD; i++, ch++)
            nibbles[ch / 2] =
                (unsigned char)(nibbles[ch / 2] | (scale[i] - k->sub[4]) << 4 * (ch & 1u));
        skvi_encode_error(c->kern, lane->levels, k->u + b->ch[q] * SKVI_P, k->s->var + b->ch[q],
                          k->kind, h, n, scale, b->codes[q], k->err);
    }
    b->n = 0;
}

/* The next quad of a stream, to a batch that has room. */
static void skvi_batch_add(skvi_batch *b, skvi_coding *k, uint32_t h)
{
    uint32_t i, q = b->n / SKVI_QUAD, low = k->sub[4];
    b->codes[q] = k->codes;
    b->of[q] = k;
    b->ch[q] = k->ch;
    for (i = 0; i < SKVI_QUAD; i++, k->ch++) {
        uint32_t e = k->scale[k->ch];
        b->scale[b->n++] = e < low + 2 ? low + 2 : e > low + 14 ? low + 14 : e;
    }
    k->codes += SKVI_QUAD * SKVI_CODE_BYTES(h);
}

/* The scales that channels ask for. */
static void skvi_coding_scales(skvi_coding *k)
{
    uint32_t ch, m = SKVI_MODES - 1, left = k->plan->n[m];
    for (ch = 0; ch < k->plan->coded; ch++, left--) {
        while (!left) left = k->plan->n[--m];
        k->scale[ch] = (uint16_t)skvi_page_scale(k->u + ch * SKVI_P, k->use, m);
    }
    k->scaled = 1;
}

/* What a pass over a stream begins with: scales that channels ask for, and the least of them. */
static void skvi_coding_begin(skvi_coding *k)
{
    uint32_t coded = k->plan->coded, t;
    if (!k->scaled) skvi_coding_scales(k);
    k->sub[4] = (unsigned char)skvi_sub_gain(k->scale, coded < k->s->D ? coded : k->s->D);
    memset(k->sub + SKVI_SUB_HEADER, 0, SKVI_SCALE_BYTES(coded));
    memset(k->err, 0, sizeof k->err);
    for (t = 0; t < SKVI_P; t++) k->in[t] = k->use[skvi_token_of(t)];
    k->codes = k->sub + SKVI_SUB_HEADER + SKVI_SCALE_BYTES(coded);
    k->ch = 0;
}

/* Encodes n streams side by side, so that the search has its lanes full: their scales, codes and
   err. Each stream's bytes are its own, whatever is beside it. */
static void skvi_encode_pass(const skvi_coder *c, const skvi_lane *lane, skvi_coding *job, size_t n)
{
    uint32_t m, t;
    skvi_coding *k;
    skvi_batch b;
    b.n = 0;
    for (k = job; k < job + n; k++) skvi_coding_begin(k);
    for (m = SKVI_MODES - 1; m; m--, skvi_batch_flush(c, lane, m + 1, &b))
        for (k = job; k < job + n; k++) {
            uint32_t end = k->ch + k->plan->n[m];
            while (k->ch < end) {
                if (b.n == SKVI_LANES || (b.n && memcmp(b.of[0]->in, k->in, SKVI_P)))
                    skvi_batch_flush(c, lane, m, &b);
                skvi_batch_add(&b, k, skvi_mode_half[m]);
            }
        }
    for (k = job; k < job + n; k++)
        for (; k->ch < k->s->D; k->ch++)
            for (t = 0; t < SKVI_P; t++) {
                float x = k->u[k->ch * SKVI_P + t];
                k->err[t] += k->s->var[k->ch] * x * x;
            }
}

/* What each token's error will be, before any code is chosen: the mode's distortion at the page's
   scale, and what lies beyond the reach of its levels. */
static void skvi_foresee(skvi_coding *k)
{
    uint32_t ch, m = SKVI_MODES - 1, left = k->plan->n[m], t;
    float all = 0;
    skvi_coding_scales(k);
    memset(k->err, 0, sizeof k->err);
    for (ch = 0; ch < k->s->D; ch++, left--) {
        const float *x = k->u + ch * SKVI_P, var = k->s->var[ch];
        float scale, reach;
        while (!left) left = k->plan->n[--m];
        scale = m ? skvi_scale(k->scale[ch]) : 0;
        reach = m ? skvi_reach(m) * scale : 0;
        if (m) all += var * (skvi_distortion[m] * scale * scale);
        for (t = 0; t < SKVI_P; t++) {
            float beyond = fabsf(x[t]) - reach;
            if (beyond > 0) k->err[t] += var * (beyond * beyond);
        }
    }
    for (t = 0; t < SKVI_P; t++) k->err[t] += all;
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
    uint32_t           layer, n, first;     /* first: position of token 0 */
    int                latent_v;    /* rows of V are whitened latents */
} skvi_encode_job;

/* x[dim] += sign R(position) turn for one head, its wave given. */
static void skvi_add_turned(const skvi_turn *r, const float *turn, const float *wave, float sign,
                            float *x)
{
    size_t p, apart = skvi_turn_apart(r);
    for (p = 0; p < r->pairs; p++) {
        size_t i = skvi_turn_at(r, p);
        float a = turn[i], b = turn[i + apart], c = sign * wave[p], s = sign * wave[r->pairs + p];
        x[i] += a * c - b * s;
        x[i + apart] += a * s + b * c;
    }
}

/* Waves of token after token from a position on: phase is {cos, sin} of all pairs, then of what a
   step adds to their angles. */
static void skvi_tokens_start(const skvi_turn *r, double position, double *phase)
{
    uint32_t p, n = r->pairs;
    for (p = 0; p < n; p++) {
        double f = (double)r->freq[p];
        phase[p] = cos((position - 1) * f);
        phase[n + p] = sin((position - 1) * f);
        phase[2 * n + p] = cos(f);
        phase[3 * n + p] = sin(f);
    }
}

/* Latents of one stream, and the tokens of it that are coded: all but outliers. */
static void skvi_encode_latents(const skvi_encode_job *j, const skvi_lane *lane, int kind, size_t g,
                                skvi_coding *k)
{
    skvi_coder *c = j->c;
    const skv_profile *p = c->profile;
    const skvi_stream *s = skvi_stream_at(p, j->layer, kind, g);
    size_t index = (size_t)(s - p->stream), h, i, t;
    float row[SKV_MAX_HEAD_DIM], wave[SKV_MAX_HEAD_DIM];
    double phase[2 * SKV_MAX_HEAD_DIM];
    uint32_t round, room;
    k->s = s;
    k->plan = &c->plan[index];
    k->kind = kind;
    k->local = index - p->first[j->layer];
    k->sub = j->page + c->offset[index];
    room = (uint32_t)(j->credit[k->local] / SKVI_ROW_BYTES(s->D));
    if (room > SKVI_MAX_ROWS) room = SKVI_MAX_ROWS;
    c->n_rows[k->local] = 0;
    memset(lane->xt, 0, s->D * SKVI_P * sizeof(float));
    memset(k->u, 0, SKVI_WHOLE(s->D) * SKVI_P * sizeof(float));
    for (t = 0; t < SKVI_P; t++) k->use[t] = t < j->n;
    if (s->turn) skvi_tokens_start(&p->turn[j->layer], j->first, phase);
    for (t = 0; t < j->n; t++) {
        if (s->turn) skvi_wave_step_c(phase, p->turn[j->layer].pairs, wave);
        for (h = 0; h < s->heads; h++) {
            const float *mean = s->mean + h * s->dim;
            j->src->row(j->src->self, kind, t, g * p->head_group + h, row);
            if (kind && j->latent_v) {
                for (i = 0; i < s->D; i++) k->u[i * SKVI_P + t] = row[i];
                continue;
            }
            if (s->turn)
                skvi_add_turned(&p->turn[j->layer], s->turn + h * s->dim, wave, -1, row);
            for (i = 0; i < s->dim; i++)
                lane->xt[(h * s->dim + i) * SKVI_P + t] = row[i] - mean[i];
        }
    }
    if (!kind || !j->latent_v)
        c->kern->gemm(s->D, SKVI_P, s->D, s->enc, s->D, lane->xt, SKVI_P, k->u, SKVI_P);
    k->scaled = 0;
    for (round = 0; room && round < 3; round++) {
        skvi_foresee(k);
        if (!skvi_pick_outliers(c, k->plan, s->D, k->local, room, k->err, k->use)) break;
        k->scaled = 0;
    }
}

/* Outlier rows, and what a sub's header says of its errors. */
static void skvi_encode_finish(const skvi_encode_job *j, skvi_coding *k)
{
    float top = 0;
    double sum = 0;
    size_t t;
    skvi_store_rows(j->c, k->s, k->local, k->u, k->err);
    for (t = 0; t < j->n; t++) {
        sum += (double)k->err[t];
        top = k->err[t] > top ? k->err[t] : top;
    }
    skvi_put16(k->sub, skvi_to_bf16_up(sqrtf(top) * 1.0001f));
    skvi_put16(k->sub + 2, skvi_to_bf16_up((float)sqrt(sum / j->n)));
}

/* K and V of some head groups. */
static void skvi_encode_unit(const skvi_encode_job *j, const skvi_lane *lane, size_t unit)
{
    size_t per = skvi_gather(j->c), g = unit * per, i, n = 0;
    size_t groups = skvi_layer_streams(j->c->profile, j->layer) / 2;
    size_t whole = SKVI_WHOLE(j->c->max_D);
    for (; g < groups && g < (unit + 1) * per; g++)
        for (i = 0; i < 2; i++, n++) {
            lane->coding[n].u = lane->u + n * whole * SKVI_P;
            lane->coding[n].scale = lane->scale + n * whole;
            skvi_encode_latents(j, lane, (int)i, g, &lane->coding[n]);
        }
    skvi_encode_pass(j->c, lane, lane->coding, n);
    for (i = 0; i < n; i++) skvi_encode_finish(j, &lane->coding[i]);
}

static void skvi_encode_units(void *arg, size_t lane, size_t first, size_t end)
{
    const skvi_encode_job *j = (const skvi_encode_job *)arg;
    for (; first < end; first++) skvi_encode_unit(j, &j->c->lane[lane], first);
}

/* Encodes n tokens into page (most_page bytes of room); returns the bytes used. */
static size_t skvi_encode_page(skvi_encode_job *j)
{
    const skvi_coder *c = j->c;
    const skv_profile *p = c->profile;
    uint32_t local, r, i, total = 0, streams = skvi_layer_streams(p, j->layer);
    unsigned char *at = j->page + c->least[j->layer];
    skvi_spread(c, (streams / 2 + skvi_gather(c) - 1) / skvi_gather(c), skvi_encode_units, j);
    for (local = 0; local < streams; local++)
        for (r = 0; r < c->n_rows[local]; r++, total++) {
            uint32_t D = p->stream[p->first[j->layer] + local].D;
            const uint16_t *row = c->rows + (local * SKVI_MAX_ROWS + r) * c->max_D;
            at[0] = (unsigned char)(local & 255u);
            at[1] = (unsigned char)(c->row_token[local * SKVI_MAX_ROWS + r] | (local >> 8) << 6);
            for (i = 0, at += 2; i < D; i++, at += 2) skvi_put16(at, row[i]);
        }
    j->page[0] = SKVI_PAGE_FORMAT;
    j->page[1] = (unsigned char)j->n;
    skvi_put16(j->page + 2, total);
    skvi_put32(j->page + 4, (uint32_t)(at - j->page));
    skvi_put32(j->page + 8, j->first);
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

/* One stream of one page. */
typedef struct skvi_sub {
    const skvi_stream   *stream;
    const skvi_plan     *plan;
    const unsigned char *bytes;
    uint32_t             local;     /* its number in the layer */
    int                  kind;
} skvi_sub;

static skvi_sub skvi_sub_at(const skvi_coder *c, uint32_t layer, size_t index,
                            const unsigned char *page)
{
    skvi_sub s;
    s.stream = &c->profile->stream[index];
    s.plan = &c->plan[index];
    s.bytes = page + c->offset[index];
    s.local = (uint32_t)index - c->profile->first[layer];
    s.kind = s.local >= skvi_layer_streams(c->profile, layer) / 2;
    return s;
}

static int skvi_is_wide(const skvi_coder *c, uint32_t h) { return c->precise || h > SKVI_NARROW; }

/* The slab from channel ch on. */
static void skvi_slab_plan(const skvi_coder *c, const skvi_plan *plan, int kind, uint32_t ch,
                           skvi_slab *b)
{
    uint32_t m = SKVI_MODES - 1, end = plan->n[m], i, n;
    uint32_t codes = SKVI_SUB_HEADER + SKVI_SCALE_BYTES(plan->coded);
    for (; end <= ch; end += plan->n[--m]) codes += plan->n[m] * SKVI_CODE_BYTES(skvi_mode_half[m]);
    codes += (plan->n[m] - (end - ch)) * SKVI_CODE_BYTES(skvi_mode_half[m]);
    b->ch = ch;
    b->n = b->n_runs = 0;
    b->reach = 0;
    b->kind = kind;
    b->wide = skvi_is_wide(c, skvi_mode_half[m]);
    for (; ch < plan->coded && b->n < SKVI_SLAB; ch += n, b->n += n) {
        uint32_t h, bias;
        while (end <= ch) end += plan->n[--m];
        h = skvi_mode_half[m];
        if (skvi_is_wide(c, h) != b->wide) break;
        n = end - ch < SKVI_SLAB - b->n ? end - ch : SKVI_SLAB - b->n;
        bias = !kind && !b->wide && c->kern->unsigned_keys ? 1u << (skvi_codes[m].bits - 1) : 0;
        for (i = b->n / SKVI_QUAD; i < (b->n + n) / SKVI_QUAD; i++) {
            b->unit[i] = skvi_codes[m].unit;
            b->zero[i] = (float)bias;
        }
        b->reach += (float)(n << (skvi_codes[m].bits - 1));
        b->run[b->n_runs].h = h;
        b->run[b->n_runs].first = b->n / SKVI_QUAD;
        b->run[b->n_runs].quads = n / SKVI_QUAD;
        b->run[b->n_runs].bias = bias;
        b->run[b->n_runs++].codes = codes;
        codes += n * SKVI_CODE_BYTES(h);
    }
    for (i = b->n / SKVI_QUAD; i < SKVI_SLAB / SKVI_QUAD; i++)
        b->unit[i] = b->zero[i] = 0;                /* levels there count 0 times */
}

/* Levels and factors of a slab, from a sub's bytes; `next`: see skvi_fetch_run. */
static void skvi_slab_expand(const skvi_coder *c, const unsigned char *sub,
                             const unsigned char *next, skvi_slab *b, signed char *levels)
{
    uint32_t i;
    for (i = 0; i < b->n_runs; i++) {
        skvi_fetch_run(b, i, next);
        c->kern->expand(sub + b->run[i].codes, b->run[i].h, b->kind, (int)b->run[i].bias,
                        b->run[i].quads, b->run[i].first, levels);
    }
    c->kern->steps(sub + SKVI_SUB_HEADER + b->ch / 2, b->n, sub[4], b->unit, b->step);
}

/* Level of channel i of a slab. */
static int skvi_slab_level(const signed char *levels, int kind, uint32_t i, uint32_t token)
{
    return levels[i / 8 * SKVI_PAIR_BYTES + token / 4 * 32 + i / 4 % 2 * 16 +
                  skvi_quad_byte(kind, token % 4, i % 4)];
}

/* Rows of one stream of a page, tokens [0, n): x[n][D] with the mean. */
static void skvi_decode_stream(const skvi_coder *c, const skvi_lane *lane, uint32_t layer,
                               size_t index, const unsigned char *page, uint32_t n)
{
    const skvi_sub at = skvi_sub_at(c, layer, index, page);
    const skvi_stream *s = at.stream;
    const unsigned char *row = NULL;
    uint32_t ch, t, i;
    float wave[SKV_MAX_HEAD_DIM];
    skvi_slab slab;
    memset(lane->ut, 0, SKVI_P * s->D * sizeof(float));
    for (ch = 0; ch < at.plan->coded; ch += slab.n) {
        skvi_slab_plan(c, at.plan, at.kind, ch, &slab);
        skvi_slab_expand(c, at.bytes, NULL, &slab, lane->levels);
        for (t = 0; t < n; t++)
            for (i = 0; i < slab.n && ch + i < s->D; i++) {
                int level = skvi_slab_level(lane->levels, at.kind, i, t) - (int)slab.zero[i / 4];
                lane->ut[t * s->D + ch + i] = (float)level * slab.step[i];
            }
    }
    while ((row = skvi_next_row(c, page, layer, at.local, row, &t)) != NULL)
        for (i = 0; i < s->D; i++)
            lane->ut[t * s->D + i] = skvi_from_f16(skvi_get16(row + 2 + 2 * i));
    for (t = 0; t < n; t++) {
        memcpy(lane->x + t * s->D, s->mean, s->D * sizeof(float));
        if (!s->turn) continue;
        skvi_wave(&c->profile->turn[layer], (double)skvi_get32(page + 8) + (double)t, wave);
        for (i = 0; i < s->heads; i++)
            skvi_add_turned(&c->profile->turn[layer], s->turn + i * s->dim, wave, 1,
                            lane->x + t * s->D + i * s->dim);
    }
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
    if (page[0] > SKVI_PAGE_FORMAT) return SKV_ERR_VERSION;
    if (page[0] != SKVI_PAGE_FORMAT || !page[1] || page[1] > SKVI_P) return SKV_ERR_FORMAT;
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
    for (pass = 0, c = &tmp; pass < 2; pass++) {
        a.used = 0;
        if (pass) c = (skv_codec *)skvi_take(&a, 1, sizeof *c);
        else (void)skvi_take(&a, 1, sizeof *c);
        if (pass) *c = tmp;
        skvi_coder_layout(&a, &c->coder, &p->model);
        c->unlimited = (uint32_t *)skvi_take(&a, 2u * tmp.coder.max_groups, sizeof(uint32_t));
        if (pass) break;
        r = skvi_arena_block(&a, &tmp.alloc, &tmp.block, &tmp.bytes);
        if (r != SKV_OK) return r;
    }
    r = skvi_plan_make(p, 0, &desc->target, share, c->coder.plan);
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
                             size_t n, size_t first, void *page, size_t capacity, size_t *bytes)
{
    skvi_tokens views[2];
    skvi_source src;
    skvi_encode_job j;
    const skv_layer *l;
    size_t most = 0;
    skv_result r = skv_codec_page_bytes(c, layer, NULL, &most);
    if (r != SKV_OK) return r;
    if (!page || !bytes || !n || n > SKVI_P || capacity < most) return SKV_ERR_ARG;
    if (first > 0xFFFFFFFFu) return SKV_ERR_ARG;
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
    j.first = (uint32_t)first;
    j.latent_v = 0;
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

/* >>tables ------------------------------------------------------------------------------------ */
/* f radians as turns, modulo one, in units of 2^-64: f = m 2^-shift times 2^64 / (2 pi). */
static uint64_t skvi_table_turns(float f)
{
    const uint32_t bits = skvi_bits(f), e = bits >> 23 & 255u;
    const uint64_t m = (bits & 0x7FFFFFu) | (e ? 0x800000u : 0u);
    const uint64_t high = m * 0x28BE60DBu, low = m * 0x9391054Au, x = high + (low >> 32);
    const uint32_t shift = 150 - (e ? e : 1);           /* 20 at least: f is up to 10 */
    uint64_t turns = 0;
    if (shift < 32) turns = x << (32 - shift) | (low & 0xFFFFFFFFu) >> shift;
    else if (shift < 96) turns = x >> (shift - 32);
    return bits >> 31 ? 0 - turns : turns;
}

static void skvi_table_rope(const skvi_turn *r, uint64_t *turns, float *waves)
{
    uint32_t p, i;
    for (p = 0; p < r->pairs; p++) {
        turns[p] = skvi_table_turns(0.5f * r->freq[p]);
        for (i = 0; i < SKV_PAGE_TOKENS / 2; i++, waves += 2) {
            double x = (i + 0.5) * (double)r->freq[p];
            waves[0] = (float)cos(x);
            waves[1] = (float)sin(x);
        }
    }
}

/* Takes n items; *offset says where they lie. Copies them from `from` where there is something. */
static void *skvi_table_put(skvi_arena *a, const void *from, size_t n, size_t size,
                            uint32_t *offset)
{
    void *to = skvi_take(a, n, size);
    *offset = (uint32_t)(a->used - n * size);
    if (to && from) memcpy(to, from, n * size);
    return to;
}

/* After a pass that only measured: turns the arena to buf, if there is one and it has room. */
static skv_result skvi_table_room(skvi_arena *a, void *buf, size_t capacity)
{
    if (a->overflow || a->used > 0xFFFFFFFFu) return SKV_ERR_SHAPE;
    if (!buf) return SKV_OK;
    if (capacity < a->used || (uintptr_t)buf % 16) return SKV_ERR_ARG;
    memset(buf, 0, a->used);
    a->base = (unsigned char *)buf;
    a->used = 0;
    return SKV_OK;
}

/* A stream's entry, and its arrays where the block is there. */
static void skvi_table_fill(const skvi_coder *c, skvi_arena *a, size_t index, skv_table_stream *t)
{
    const skvi_stream *s = &c->profile->stream[index];
    const skvi_plan *plan = &c->plan[index];
    uint32_t *at[5], i, q, m = SKVI_MODES - 1, left = plan->n[m], *quads;
    uint32_t codes = SKVI_SUB_HEADER + SKVI_SCALE_BYTES(plan->coded);
    const float *from[5];
    memset(t, 0, sizeof *t);
    t->heads = s->heads;
    t->dim = s->dim;
    t->n = s->D;
    t->offset = c->offset[index];
    t->bytes = plan->bytes;
    t->coded = plan->coded;
    t->allowance = c->allow[index];
    t->lambda = plan->lambda;
    at[0] = &t->mean, at[1] = &t->variance, at[2] = &t->turn;
    at[3] = &t->encode, at[4] = &t->decode;
    from[0] = s->mean, from[1] = s->var, from[2] = s->turn, from[3] = s->enc, from[4] = s->dec;
    for (i = 0; i < 5; i++)
        if (from[i])
            skvi_table_put(a, from[i], i < 3 ? s->D : (size_t)s->D * s->D, sizeof(float), at[i]);
    quads = (uint32_t *)skvi_table_put(a, NULL, plan->coded / SKVI_QUAD, sizeof *quads, &t->quads);
    for (q = 0; q < plan->coded / SKVI_QUAD; q++, left -= SKVI_QUAD) {
        while (!left) left = plan->n[--m];
        if (quads) quads[q] = 16 * codes + m;
        codes += SKVI_QUAD * SKVI_CODE_BYTES(skvi_mode_half[m]);
    }
}

static void skvi_table_head(const skvi_coder *c, uint32_t layer, skv_table *t)
{
    const skv_profile *p = c->profile;
    uint32_t i;
    memset(t, 0, sizeof *t);
    t->magic = SKV_TABLE_MAGIC;
    t->page_format = SKVI_PAGE_FORMAT;
    t->layer = layer;
    t->n_groups = skvi_layer_streams(p, layer) / 2;
    t->head_group = p->head_group;
    t->shape = p->layers[layer];
    t->least = t->most = c->least[layer];
    for (i = p->first[layer]; i < p->first[layer + 1]; i++)
        t->most += (uint32_t)(SKVI_MAX_ROWS * SKVI_ROW_BYTES(p->stream[i].D));
    t->style = p->turn[layer].style;
    t->pairs = p->turn[layer].pairs;
    for (i = 0; i < SKVI_MODES; i++) {
        const skvi_fine fine = skvi_fine_of(skvi_mode_half[i]);
        skv_table_mode *m = &t->mode[i];
        m->half = skvi_mode_half[i];
        m->bits = skvi_codes[i].bits;
        m->unit = skvi_codes[i].unit;
        m->distortion = skvi_distortion[i];
        m->fine = (uint32_t)fine.unit;
        m->twice = fine.twice;
        memcpy(m->part, skvi_codes[i].part, sizeof m->part);
    }
}

/* The block, or with an arena without memory its size alone. */
static void skvi_table_write(const skvi_coder *c, uint32_t layer, skvi_arena *a)
{
    const skv_profile *p = c->profile;
    const skvi_turn *r = &p->turn[layer];
    uint32_t streams = skvi_layer_streams(p, layer), i;
    skv_table head, *t = (skv_table *)skvi_take(a, 1, sizeof *t);
    skv_table_stream one, *s;
    uint64_t *turns;
    float *waves;
    skvi_table_head(c, layer, &head);
    s = (skv_table_stream *)skvi_table_put(a, NULL, streams, sizeof *s, &head.stream);
    turns = (uint64_t *)skvi_table_put(a, NULL, r->pairs, sizeof *turns, &head.turns);
    waves = (float *)skvi_table_put(a, NULL, r->pairs, SKV_PAGE_TOKENS * sizeof *waves,
                                    &head.waves);
    if (turns) skvi_table_rope(r, turns, waves);
    for (i = 0; i < streams; i++) {
        skvi_table_fill(c, a, p->first[layer] + i, &one);
        if (s) s[i] = one;
    }
    (void)skvi_take(a, 0, 1);
    head.bytes = (uint32_t)a->used;
    if (t) *t = head;
}

static skv_result skvi_tables(const skvi_coder *c, uint32_t layer, void *buf, size_t capacity,
                              size_t *bytes)
{
    skvi_arena a = {NULL, 0, 0};
    skv_result r;
    skvi_table_write(c, layer, &a);
    *bytes = a.used;
    r = skvi_table_room(&a, buf, capacity);
    if (r == SKV_OK && buf) skvi_table_write(c, layer, &a);
    return r;
}

SKVDEF skv_result skv_codec_tables(const skv_codec *c, uint32_t layer, void *buf, size_t capacity,
                                   size_t *bytes)
{
    if (!c || !bytes || layer >= c->coder.profile->model.n_layers) return SKV_ERR_ARG;
    return skvi_tables(&c->coder, layer, buf, capacity, bytes);
}

static void skvi_profilertable_write(const skv_profiler *p, uint32_t layer, skvi_arena *a)
{
    const skvi_player *l = &p->player[layer];
    const size_t dv = l->shape.head_dim_v;
    skv_profiler_table head, *t = (skv_profiler_table *)skvi_take(a, 1, sizeof *t);
    memset(&head, 0, sizeof head);
    head.magic = SKV_PROFILER_MAGIC;
    head.layer = layer;
    head.n_groups = l->n_groups;
    head.head_group = p->head_group;
    head.sinks = p->sinks;
    head.window = p->window;
    head.max_passage = p->max_passage;
    head.max_queries = p->max_queries;
    head.shape = l->shape;
    head.style = l->turn.style;
    head.pairs = l->turn.pairs;
    head.n_sums = (uint32_t)skvi_sums_count(p, layer);
    skvi_table_put(a, l->turn.freq, l->turn.pairs, sizeof(float), &head.freqs);
    skvi_table_put(a, l->wo, l->shape.n_q_heads * dv * dv, sizeof(float), &head.output);
    (void)skvi_take(a, 0, 1);
    head.bytes = (uint32_t)a->used;
    if (t) *t = head;
}

SKVDEF skv_result skv_profiler_tables(const skv_profiler *p, uint32_t layer, void *buf,
                                      size_t capacity, size_t *bytes)
{
    skvi_arena a = {NULL, 0, 0};
    skv_result r;
    if (!p || !bytes || layer >= p->model.n_layers) return SKV_ERR_ARG;
    if (skvi_sums_count(p, layer) > 0xFFFFFFFFu) return SKV_ERR_SHAPE;
    skvi_profilertable_write(p, layer, &a);
    *bytes = a.used;
    r = skvi_table_room(&a, buf, capacity);
    if (r == SKV_OK && buf) skvi_profilertable_write(p, layer, &a);
    return r;
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
#define SKVI_RANGE 16u              /* pages, or blocks of 64 exact tokens, of a range of tokens */
#define SKVI_RANGES(n) (((n) + SKVI_RANGE - 1) / SKVI_RANGE)
#define SKVI_REPORT 3u
#define SKVI_SURE 0.9999f           /* of a tolerance: the rest is for the rounding of sums */
#define SKVI_DRAFT 4u               /* queries whose ranges can run side by side */
typedef struct skvi_clayer {
    uint32_t total, n_pages, dropped;       /* tokens appended; pages made; pages let go */
    unsigned char **page;                   /* [max_pages]; NULL where dropped */
    unsigned char *sink[2], *ring[2];       /* K, V: [n_kv][sinks or cap][dim] of f16 or f32 */
    uint32_t *credit;                       /* [streams] bytes that outliers may still take */
    float *unit;                            /* with latent_out [n_kv][head_dim_v + 1]: a latent's
                                               units, then |x - mean| that f16 surely holds */
} skvi_clayer;

struct skv_cache {
    skv_allocator alloc, pages;
    size_t        bytes, state_bytes, work_bytes;
    void         *block;
    int           own, latent;              /* memory is ours; exact values are latents */
    skv_model     model;
    char          name[64];
    skv_layer    *layers;
    uint32_t      max_tokens, sinks, window, max_append, cap, max_pages, exact_bits;
    skvi_coder    coder;
    skvi_clayer  *cl;
    unsigned char *page_buffer;             /* [most_page] */
    uint32_t      *saved_credit;            /* [2 max_groups] */
    float         *report;                  /* [n_lanes][max_groups][REPORT]: bound, page mass,
                                               mass without values */
    uint32_t      *count;                   /* [n_lanes][2]: pages met, read */
    float         *parts;                   /* [part_rows][SKVI_PART]: see >>scores */
    size_t         part_rows;               /* 0 with one lane */
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
        l->unit = (float *)skvi_take(a, c->latent ? s.n_kv_heads : 0,
                                     (s.head_dim_v + 1) * sizeof(float));
    }
    before = a->used;
    skvi_coder_layout(a, &c->coder, m);
    c->saved_credit = (uint32_t *)skvi_take(a, 2u * c->coder.max_groups, sizeof(uint32_t));
    c->report = (float *)skvi_take(a, (size_t)c->coder.n_lanes * c->coder.max_groups,
                                   SKVI_REPORT * sizeof(float));
    c->count = (uint32_t *)skvi_take(a, c->coder.n_lanes, 2 * sizeof(uint32_t));
    c->parts = (float *)skvi_take(a, c->part_rows, SKVI_PART(c->coder.max_D) * sizeof(float));
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

/* Rows of an attention tile: all query heads of a group for the queries of one append. */
static uint32_t skvi_tile_rows(const skv_model *m, uint32_t head_group, uint32_t queries)
{
    uint32_t i, most = 1;
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        uint32_t heads = head_group < s.n_kv_heads ? head_group : s.n_kv_heads;
        heads *= s.n_q_heads / s.n_kv_heads;
        most = heads > most ? heads : most;
    }
    return most < SKVI_ROWS && queries < SKVI_ROWS / most ? most * queries : SKVI_ROWS;
}

/* Lanes, and room for what the ranges of a step give, where there are threads: of a decode step or
   a few draft tokens. */
static void skvi_cache_lanes(skv_cache *c, const skv_model *m)
{
    size_t blocks = (c->sinks + SKVI_P - 1) / SKVI_P + (c->cap + SKVI_P - 1) / SKVI_P;
    size_t ranges = SKVI_RANGES(blocks) + SKVI_RANGES(c->max_pages), heads = 1, units;
    size_t queries = c->max_append < SKVI_DRAFT ? c->max_append : SKVI_DRAFT;
    uint32_t i;
    for (i = 0; i < m->n_layers; i++) {
        skv_layer s = skvi_model_layer(m, i);
        heads = s.n_q_heads > heads ? s.n_q_heads : heads;
    }
    units = c->coder.max_groups * ranges;       /* of a step, or of a prompt's tiles */
    if (heads * c->max_append / c->coder.tile_rows > units)
        units = heads * c->max_append / c->coder.tile_rows;
    skvi_coder_lanes(&c->coder, units);
    c->part_rows = c->coder.n_lanes > 1 ? ranges * heads * queries : 0;
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
    if (d->attend_bits && d->attend_bits != 8 && d->attend_bits != 14) return SKV_ERR_ARG;
    if (d->latent_out > (d->profile ? 1u : 0u)) return SKV_ERR_ARG;
    if (d->latent_out && d->profile->head_group != 1) return SKV_ERR_SHAPE;
    c->latent = d->latent_out != 0;
    c->max_tokens = d->max_tokens;
    c->sinks = skvi_or(d->sinks, 4);
    c->window = skvi_or(d->window, 64);
    c->max_append = d->max_append ? d->max_append : 64;
    c->exact_bits = d->exact_bits ? d->exact_bits : 16;
    c->coder.precise = d->attend_bits == 14;
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
    c->coder.tile_rows = skvi_tile_rows(*m, skvi_cache_head_group(c), c->max_append);
    skvi_cache_lanes(c, *m);
    return SKV_OK;
}

/* |z| <= |unit enc| |x - mean|, Frobenius. */
static void skvi_latent_units(skv_cache *c)
{
    uint32_t layer, h;
    size_t i, n, dv;
    for (layer = 0; layer < c->model.n_layers; layer++)
        for (h = 0; h < c->layers[layer].n_kv_heads; h++) {
            const skvi_stream *s = skvi_stream_at(c->coder.profile, layer, 1, h);
            float *unit = c->cl[layer].unit + h * ((size_t)s->D + 1);
            double sum = 0;
            for (dv = s->D, n = 0; n < dv; n++) {
                unit[n] = skvi_latent_unit(s, n);
                for (i = 0; i < dv; i++) {
                    double x = (double)unit[n] * (double)s->enc[n * dv + i];
                    sum += x * x;
                }
            }
            unit[dv] = (float)(65440 / sqrt(sum > 1e-30 ? sum : 1e-30));
        }
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
    if (c->latent) skvi_latent_units(c);
    share = skvi_outlier_share(desc->outliers);
    r = c->coder.profile ? skvi_plan_make(c->coder.profile, c->max_tokens, &desc->target, share,
                                          c->coder.plan)
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

SKVDEF skv_result skv_cache_tables(const skv_cache *c, uint32_t layer, void *buf, size_t capacity,
                                   size_t *bytes)
{
    if (!c || !bytes || layer >= c->model.n_layers) return SKV_ERR_ARG;
    if (!c->coder.profile) return SKV_ERR_STATE;
    return skvi_tables(&c->coder, layer, buf, capacity, bytes);
}

SKVDEF skv_result skv_cache_page(const skv_cache *c, uint32_t layer, size_t i, const void **page,
                                 size_t *bytes)
{
    if (!c || !page || !bytes || layer >= c->model.n_layers || i >= c->cl[layer].n_pages)
        return SKV_ERR_ARG;
    if (!c->cl[layer].page[i]) return SKV_ERR_STATE;
    *page = c->cl[layer].page[i];
    *bytes = skvi_get32(c->cl[layer].page[i] + 4);
    return SKV_OK;
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

static const float *skvi_latent_units_of(const skv_cache *c, uint32_t layer, size_t head)
{
    return c->cl[layer].unit + head * (c->layers[layer].head_dim_v + (size_t)1);
}

/* A value of a KV head to what a cache with latent_out holds, in place: z = unit enc (x - mean). */
static void skvi_value_turn(const skv_cache *c, uint32_t layer, size_t head, float *x)
{
    const skvi_stream *s = skvi_stream_at(c->coder.profile, layer, 1, head);
    const float *unit = skvi_latent_units_of(c, layer, head);
    float y[SKV_MAX_HEAD_DIM];
    size_t i, dv = s->D;
    for (i = 0; i < dv; i++) y[i] = x[i] - s->mean[i];
    for (i = 0; i < dv; i++) x[i] = unit[i] * c->coder.kern->dot(s->enc + i * dv, y, dv);
}

/* And back. */
static void skvi_value_back(const skv_cache *c, uint32_t layer, size_t head, float *x)
{
    const skvi_stream *s = skvi_stream_at(c->coder.profile, layer, 1, head);
    const float *unit = skvi_latent_units_of(c, layer, head);
    float u[SKV_MAX_HEAD_DIM];
    size_t i, dv = s->D;
    for (i = 0; i < dv; i++) u[i] = x[i] / unit[i];
    memcpy(x, s->mean, dv * sizeof(float));
    c->coder.kern->gemm(1, dv, dv, u, dv, s->dec, dv, x, dv);
}

/* Whether f16 holds the latents of n tokens' values. */
static skv_result skvi_check_latents(const skv_cache *c, uint32_t layer, const skvi_tokens *v,
                                     size_t n)
{
    float x[SKV_MAX_HEAD_DIM];
    size_t t, h, i;
    for (t = 0; t < n; t++)
        for (h = 0; h < c->layers[layer].n_kv_heads; h++) {
            const float *mean = skvi_stream_at(c->coder.profile, layer, 1, h)->mean;
            float most = skvi_latent_units_of(c, layer, h)[v->dim], sum = 0;
            skvi_load(v, t, h, x);
            for (i = 0; i < v->dim; i++) sum += (x[i] - mean[i]) * (x[i] - mean[i]);
            if (sqrtf(sum) > most) return SKV_ERR_RANGE;
        }
    return SKV_OK;
}

/* Tokens of a page to be: from the ring, or from the call's own input, rounded as the ring would
   have, so that a prompt in one call and in pieces gives the same pages. Values of a cache with
   latent_out come as whitened latents. */
typedef struct skvi_append_source {
    const skv_cache *c;
    skvi_tokens view[2];
    uint32_t layer, old_total, first;       /* first: position of the page's token 0 */
} skvi_append_source;

static void skvi_append_row(void *self, int kind, size_t token, size_t head, float *out)
{
    const skvi_append_source *s = (const skvi_append_source *)self;
    uint32_t pos = s->first + (uint32_t)token;
    size_t i, dim = s->view[kind].dim;
    if (pos < s->old_total)
        skvi_exact_load(s->c, s->layer, kind, head, pos, out);
    else {
        skvi_load(&s->view[kind], pos - s->old_total, head, out);
        if (kind && s->c->latent) skvi_value_turn(s->c, s->layer, head, out);
        for (i = 0; s->c->exact_bits == 16 && i < dim; i++)
            out[i] = skvi_from_f16(skvi_to_f16(out[i]));
    }
    for (i = 0; kind && s->c->latent && i < dim; i++)
        out[i] /= skvi_latent_units_of(s->c, s->layer, head)[i];
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
    j.first = s->first;
    j.latent_v = c->latent;
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
    if (r == SKV_OK && c->latent && c->exact_bits == 16)
        r = skvi_check_latents(c, layer, &view[1], n);
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
                if (kind && c->latent) skvi_value_turn(c, layer, h, row);
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
                if (to_v && c->latent) skvi_value_back(c, layer, h, to_v + h * s->head_dim_v);
            }
        pos += m;
    }
    return SKV_OK;
}

/* >>scores ------------------------------------------------------------------------------------
   Attention of a tile of at most 64 rows (query, head) of one head group over all tokens. For a
   token in a page, x = mean + D u: the score is q.mean + q'.u with q' = D^T q, in whitened latents,
   plus q.R(t) turn where keys turn; values gather in the latent too and are turned back once.
   Bound: |q.(x - x^)| <= |q'/sd| e, e the page's largest residual |z - z^| (Cauchy-Schwarz), and
   half a unit of the rounded queries times the largest levels, and of a turned mean's numbers.

   Tokens come in ranges: 16 blocks of 64 exact ones (sinks, then the recent ones), then 16 pages
   whose numbers begin at a multiple of 16. Each range has a softmax of its own, a part, and parts
   merge in that order, whoever computed them: the answer does not depend on threads.

   Sparse values: the ranges of exact tokens come first. A range of pages may then leave out those
   whose weights, with those left out before, are at most tolerance times the share of all pages
   that it has met so far times what is known of the row's sum: the exact tokens' and its own. Over
   all ranges that is at most tolerance times the whole sum. */
typedef struct skvi_part {
    float *top, *sum;               /* [rows]: largest score; weights exp(score - top), summed */
    float *skip;                    /* [rows]: those of them whose values were not read */
    float *acc;                     /* [rows]: weights times values (exact) or times latents */
} skvi_part;

typedef struct skvi_atile {
    size_t   n, pos[SKVI_ROWS], head[SKVI_ROWS], query[SKVI_ROWS];  /* rows by rising head */
    size_t   g, D, row;             /* head group, its width, first row in the layer */
    float    top[SKVI_ROWS], sum[SKVI_ROWS], paged[SKVI_ROWS];  /* of the parts; share of pages */
    float    skip[SKVI_ROWS];
    float    exact_top[SKVI_ROWS], exact_sum[SKVI_ROWS];    /* of the ranges of exact tokens */
    float    mass[SKVI_ROWS];       /* weights of the page at hand, summed */
    uint32_t met, read;             /* pages */
    const unsigned char *next;      /* page after the one at hand, or NULL */
    skvi_part part;                 /* of the range at hand */
    float    rounded[SKVI_ROWS];    /* most that whole-number queries change this page's scores */
    float    turn_rounded[SKVI_ROWS];   /* of which the numbers of turned means, this span's */
    uint32_t span;                  /* position of the span in lane->base + 1; 0: none */
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
    size_t       first_page;        /* that any query sees */
    size_t       tiles;             /* of a head group */
    size_t       exact, ranges;     /* ranges of exact tokens; of all */
    int          split;             /* units are ranges of tiles, not tiles */
    float        tolerance;         /* of sparse values */
    size_t       first_range, n_ranges;     /* at hand, where units are ranges */
} skvi_attend_job;

/* Rows from r on that share a gang. */
static uint32_t skvi_gang_rows(const skvi_atile *t, size_t r)
{
    return (uint32_t)(t->n - r < SKVI_GANG ? t->n - r : SKVI_GANG);
}

static const skvi_stream *skvi_attend_stream(const skvi_attend_job *j, int kind, size_t g)
{
    return skvi_stream_at(j->c->coder.profile, j->layer, kind, g);
}

/* J_0(z) 2J_2 2J_4 2J_6 2J_1 2J_3 2J_5 2J_7, signs as cos(z x) and sin(z x) have them, |z| < 2:
   the power series, Abramowitz and Stegun 9.1.10. */
static void skvi_wave_bessel(double z, float *out, size_t stride)
{
    uint32_t n, m;
    for (n = 0; n < 8; n++) {
        double term = n ? 2 : 1, sum = 0;
        for (m = 1; m <= n; m++) term *= z / 2 / m;
        for (m = 0; m < 10; m++) {
            sum += term;
            term *= -(z / 2) * (z / 2) / ((m + 1.0) * (m + 1.0 + n));
        }
        out[(n % 2 * 4 + n / 2) * stride] = (float)(n / 2 % 2 ? -sum : sum);
    }
}

static int16_t skvi_wave_value(double x) { return (int16_t)floor(x * 32767.0 + 0.5); }

/* Waves of the pairs that turn fast, and Chebyshev's polynomials T_2 to T_7 after them. */
static void skvi_wave_fill(skvi_waves *w)
{
    uint32_t p, i, k, n = skvi_wave_count(w->fast);
    int16_t *at, *odd = w->wave + n * (SKVI_SPAN / 2);
    memset(w->wave, 0, n * SKVI_SPAN * sizeof *w->wave);
    for (p = 0; p < w->fast; p++) {             /* token by token on from e^(i f / 2) */
        double f = (double)w->freq[p], c = cos(f), s = sin(f);
        double x = cos(0.5 * f), y = sin(0.5 * f);
        for (i = 0; i < SKVI_SPAN / 2; i++) {
            double was = x;
            at = w->wave + p / 2 * SKVI_SPAN + 2 * i + p % 2;
            *at = skvi_wave_value(x);
            at[odd - w->wave] = skvi_wave_value(y);
            x = x * c - y * s;
            y = was * s + y * c;
        }
    }
    for (i = 0; i < SKVI_SPAN / 2; i++) {
        double x = ((double)i + 0.5) / SKVI_MIDDLE, t0 = 1, t1 = x;
        for (k = w->fast; k < w->fast + SKVI_WAVE_POLY; k++) {
            t0 = 2 * x * t1 - t0;
            t1 = 2 * x * t0 - t1;
            at = w->wave + k / 2 * SKVI_SPAN + 2 * i + k % 2;
            *at = skvi_wave_value(t0);
            at[odd - w->wave] = skvi_wave_value(t1);
        }
    }
}

/* Waves for these frequencies; nothing to do where they are those of the call before. */
static void skvi_wave_begin(const skvi_turn *r, skvi_waves *w)
{
    uint32_t p, n = 0, slow;
    for (p = 0; w->pairs == r->pairs && p < r->pairs; p++)
        if (w->freq[p] < r->freq[w->order[p]] || w->freq[p] > r->freq[w->order[p]]) w->pairs = 0;
    if (w->pairs == r->pairs) return;
    w->pairs = r->pairs;
    w->whole = (uint32_t)SKVI_WHOLE(r->pairs);
    for (slow = 0; slow < 2; slow++) {
        for (p = 0; p < r->pairs; p++)
            if ((SKVI_MIDDLE * fabs((double)r->freq[p]) < SKVI_SLOW) == (slow != 0))
                w->order[n++] = (uint16_t)p;
        if (!slow) w->fast = n;
    }
    w->at = w->start_at = 0;
    memset(w->phase, 0, 4 * w->whole * sizeof(double));
    memset(w->start, 0, 4 * w->whole * sizeof(double));
    memset(w->now, 0, 2 * w->whole * sizeof(float));
    memset(w->poly, 0, 8 * w->whole * sizeof(float));
    for (p = 0; p < r->pairs; p++) {
        double f = (double)(w->freq[p] = r->freq[w->order[p]]);
        w->phase[2 * w->whole + p] = cos(f * SKVI_SPAN);
        w->phase[3 * w->whole + p] = sin(f * SKVI_SPAN);
        w->start[2 * w->whole + p] = cos(f * SKVI_P * SKVI_RANGE);
        w->start[3 * w->whole + p] = sin(f * SKVI_P * SKVI_RANGE);
        if (p >= w->fast) skvi_wave_bessel(SKVI_MIDDLE * f, w->poly + p, w->whole);
    }
    skvi_wave_fill(w);
}

/* q.R(t) turn = sum over pairs of cos(t f) dot + sin(t f) cross: the dots of one row, then the
   crosses, [2][whole], in the waves' order. */
static void skvi_still_row(const skvi_turn *r, const skvi_waves *w, const float *turn,
                           const float *q, float *still)
{
    size_t p, apart = skvi_turn_apart(r);
    memset(still, 0, 2 * w->whole * sizeof(float));
    for (p = 0; p < r->pairs; p++) {
        size_t i = skvi_turn_at(r, w->order[p]);
        still[p] = q[i] * turn[i] + q[i + apart] * turn[i + apart];
        still[w->whole + p] = q[i + apart] * turn[i] - q[i] * turn[i + apart];
    }
}

/* Slabs of the head group's keys and values. */
static void skvi_tile_slabs(const skvi_attend_job *j, const skvi_lane *lane, size_t g)
{
    const skvi_coder *k = &j->c->coder;
    int kind;
    for (kind = 0; kind < 2; kind++) {
        const skvi_plan *plan = &k->plan[skvi_attend_stream(j, kind, g) - k->profile->stream];
        skvi_slab *b = lane->slab[kind];
        uint32_t ch;
        b->wide = 0;
        for (ch = 0; ch < plan->coded; ch += b->n, b++) skvi_slab_plan(k, plan, kind, ch, b);
    }
}

/* Rows of the tile from r0 on that share a KV head; returns the end. */
static size_t skvi_same_head(const skvi_atile *t, size_t r0, size_t group)
{
    size_t r = r0;
    while (r < t->n && t->head[r] / group == t->head[r0] / group) r++;
    return r;
}

/* q rows of the tile, scaled, and their latents. */
static void skvi_tile_queries(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t)
{
    const skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    const skvi_stream *s;
    size_t r, i, d = l->head_dim, group = l->n_q_heads / l->n_kv_heads, g = t->g, whole, end = 0;
    for (r = 0; r < t->n; r++) {
        skvi_load(&j->q, t->query[r], t->head[r], lane->q + r * d);
        for (i = 0; i < d; i++) lane->q[r * d + i] *= l->scale;
    }
    if (!c->cl[j->layer].n_pages) return;
    skvi_tile_slabs(j, lane, g);
    s = skvi_attend_stream(j, 0, g);
    whole = SKVI_WHOLE(s->D);
    if (s->turn) skvi_wave_begin(&c->coder.profile->turn[j->layer], lane->waves);
    for (r = 0; r < t->n; r++) {
        size_t slice = (t->head[r] / group - g * c->coder.profile->head_group) * d;
        const float *q = lane->q + r * d;
        float norm = 0, *x = lane->ql + r * whole;
        if (r == end) {
            end = skvi_same_head(t, r, group);
            skvi_dots(c->coder.kern, end - r, s->D, d, q, d, s->dec + slice, s->D, x, whole);
        }
        for (i = s->D; i < whole; i++) x[i] = 0;
        for (i = 0; i < s->D; i++) norm += x[i] * x[i] / s->var[i];
        if (s->turn) {
            const skvi_turn *turn = &c->coder.profile->turn[j->layer];
            skvi_still_row(turn, lane->waves, s->turn + slice, q,
                           lane->still + r * 2 * lane->waves->whole);
        }
        t->qmean[r] = c->coder.kern->dot(q, s->mean + slice, d);
        t->qnorm[r] = sqrtf(norm);
    }
}

/* Soft cap and masks of n scores from position first on; what is not there becomes -infinity. */
static void skvi_mask(const skv_layer *l, size_t position, float *s, size_t first, size_t n)
{
    size_t i, w = l->sliding_window, end = position + 1, begin = w && end > w ? end - w : 0;
    size_t seen = end < first ? 0 : end - first < n ? end - first : n;
    for (i = 0; l->softcap > 0 && i < seen; i++) s[i] = l->softcap * tanhf(s[i] / l->softcap);
    for (i = 0; i < seen && first + i < begin; i++) s[i] = -INFINITY;
    for (i = seen; i < SKVI_P; i++) s[i] = -INFINITY;
}

/* to = old to + now x */
static void skvi_blend(float *SKVI_RESTRICT to, float old, const float *SKVI_RESTRICT x, float now,
                       size_t n)
{
    size_t i, k;
    for (i = 0; i + 8 <= n; i += 8)
        for (k = 0; k < 8; k++) to[i + k] = old * to[i + k] + now * x[i + k];
    for (; i < n; i++) to[i] = old * to[i] + now * x[i];
}

static void skvi_scale_row(float *to, float by, size_t n)
{
    size_t i, k;
    for (i = 0; i + 8 <= n; i += 8)
        for (k = 0; k < 8; k++) to[i + k] *= by;
    for (; i < n; i++) to[i] *= by;
}

/* Softmax step of a part over n tokens from position first: soft cap, masks, running maximum;
   scores become weights. Rows of the part are `width` numbers. */
static void skvi_softmax(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                         size_t first, size_t n, size_t width)
{
    const skv_layer *l = &j->c->layers[j->layer];
    const skvi_kernels *kern = j->c->coder.kern;
    const skvi_part *p = &t->part;
    size_t r;
    for (r = 0; r < t->n; r++) {
        float *s = lane->s + r * SKVI_P, *acc = p->acc + r * width, top, keep;
        skvi_mask(l, t->pos[r], s, first, n);
        top = kern->top(s);
        if (top < p->top[r]) top = p->top[r];
        t->mass[r] = 0;
        if (top == -INFINITY) {
            memset(s, 0, SKVI_P * sizeof(float));
            continue;
        }
        keep = top > p->top[r] ? expf(p->top[r] - top) : 1;
        t->mass[r] = kern->exps(s, top);
        p->sum[r] = p->sum[r] * keep + t->mass[r];
        p->skip[r] *= keep;
        if (keep < 1) skvi_scale_row(acc, keep, width);
        p->top[r] = top;
    }
}

/* Exact tokens first .. first+n-1, n <= 64. */
static void skvi_exact_block(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             size_t first, size_t n)
{
    const skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    size_t d = l->head_dim, dv = l->head_dim_v, group = l->n_q_heads / l->n_kv_heads, i, r, r0;
    t->span = 0;                    /* the tile takes its place */
    for (r0 = 0; r0 < t->n; r0 = r) {
        r = skvi_same_head(t, r0, group);
        for (i = 0; i < n; i++)
            skvi_exact_load(c, j->layer, 0, t->head[r0] / group, (uint32_t)(first + i),
                            lane->tile + i * d);
        skvi_dots(c->coder.kern, r - r0, n, d, lane->q + r0 * d, d, lane->tile, d,
                  lane->s + r0 * SKVI_P, SKVI_P);
    }
    if (j->scores) return;
    skvi_softmax(j, lane, t, first, n, dv);
    for (r0 = 0; r0 < t->n; r0 = r) {
        r = skvi_same_head(t, r0, group);
        for (i = 0; i < n; i++)
            skvi_exact_load(c, j->layer, 1, t->head[r0] / group, (uint32_t)(first + i),
                            lane->tile + i * dv);
        c->coder.kern->gemm(r - r0, dv, n, lane->s + r0 * SKVI_P, SKVI_P, lane->tile, dv,
                            t->part.acc + r0 * dv, dv);
    }
}

/* The phase at a position that is span 0 of 8: exact at every sixteenth such, from there by steps
   of 8 spans, whichever positions came before. */
static void skvi_wave_start(const skvi_kernels *kern, skvi_waves *w, uint32_t position)
{
    uint32_t step = SKVI_P * SKVI_RANGE, n = position / step % SKVI_RANGE, p;
    if (w->start_at == position + 1) n = 0;
    else if (n && w->start_at + step == position + 1) n = 1;
    else
        for (p = 0; p < w->pairs; p++) {
            double f = ((double)(position - n * step) + SKVI_MIDDLE) * (double)w->freq[p];
            w->start[p] = cos(f);
            w->start[w->whole + p] = sin(f);
        }
    while (n--) kern->wave_step(w->start, w->whole, w->now);
    w->start_at = position + 1;
}

/* The phase in the middle of the span at a position: as many steps on from span 0 of its 8. */
static void skvi_wave_move(const skvi_kernels *kern, skvi_waves *w, uint32_t position)
{
    uint32_t n = position / SKVI_SPAN % (SKVI_RANGE / 2), p;
    if (n && w->at + SKVI_SPAN == position + 1) n = 1;
    else {
        skvi_wave_start(kern, w, position - n * SKVI_SPAN);
        memcpy(w->phase, w->start, 2 * w->whole * sizeof(double));
        for (p = 0; p < 2 * w->whole; p++) w->now[p] = (float)w->phase[p];
    }
    while (n--) kern->wave_step(w->phase, w->whole, w->now);
    w->at = position + 1;
}

/* q.mean and q.R(position) turn for the rows and the tokens of the span at a position. */
static void skvi_span_base(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                           uint32_t position)
{
    const skvi_kernels *kern = j->c->coder.kern;
    skvi_waves *w = lane->waves;
    size_t r, r0;
    uint32_t odd = SKVI_WAVE_ROOM(w->whole);
    float unit[SKVI_GANG], line[SKVI_GANG][2];
    if (t->span == position + 1) return;
    t->span = position + 1;
    skvi_wave_move(kern, w, position);
    for (r0 = 0; r0 < t->n; r0 += SKVI_GANG) {
        uint32_t rows = skvi_gang_rows(t, r0);
        for (r = 0; r < rows; r++) {    /* error: half a unit a number, and of waves as much */
            unit[r] = kern->wave_coef(w->now, lane->still + (r0 + r) * 2 * w->whole, w->poly,
                                      w->whole, w->fast, w->coef + 2 * r * odd, line[r]);
            line[r][0] += t->qmean[r0 + r];
            t->turn_rounded[r0 + r] = unit[r] * (float)(w->fast + SKVI_WAVE_POLY + 1);
            unit[r] *= SKVI_WAVE_UNIT;
        }
        kern->wave_sum(w->wave, w->coef, skvi_wave_count(w->fast), odd, rows, unit, line[0],
                       lane->base + r0 * SKVI_SPAN);
    }
}

/* The stream's bytes in the next page, NULL: there is none; its scales are asked for. */
static const unsigned char *skvi_next_sub(const skvi_attend_job *j, const skvi_atile *t,
                                          const skvi_stream *s)
{
    const skvi_coder *k = &j->c->coder;
    const unsigned char *at;
    if (!t->next) return NULL;
    at = t->next + k->offset[s - k->profile->stream];
#ifdef SKVI_PREFETCH
    SKVI_PREFETCH(t->next);
    SKVI_PREFETCH(at);
#endif
    return at;
}

/* What every token of page i has before its codes. Spans are pages of even number and the next. */
static void skvi_page_base(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                           const skvi_stream *s, const unsigned char *page, size_t number)
{
    uint32_t half = (uint32_t)(number % 2) * SKVI_P;
    size_t r, i;
    if (s->turn) skvi_span_base(j, lane, t, skvi_get32(page + 8) - half);
    for (r = 0; r < t->n; r++) {
        float *at = lane->s + r * SKVI_P, mean = t->qmean[r];
        t->rounded[r] = s->turn ? t->turn_rounded[r] : 0;
        if (s->turn) memcpy(at, lane->base + r * SKVI_SPAN + half, SKVI_P * sizeof *at);
        else for (i = 0; i < SKVI_P; i++) at[i] = mean;
    }
}

/* Rows r0 .. r0+rows-1 against a slab of keys: lane->s += unit (acc - offset). */
static void skvi_slab_scores(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             const skvi_slab *b, size_t whole, size_t r0, uint32_t rows)
{
    const skvi_kernels *kern = j->c->coder.kern;
    uint32_t r, pairs = (b->n + 7) / 8;
    float unit[SKVI_GANG], offset[SKVI_GANG];
    for (r = 0; r < rows; r++)
        unit[r] = kern->query(lane->ql + (r0 + r) * whole + b->ch, b->step, b->zero, b->n, b->wide,
                              lane->gang + 32 * r, 32 * rows, &offset[r]);
    if (b->wide)
        kern->score_wide(lane->levels, (const int16_t *)(const void *)lane->gang, pairs, rows,
                         lane->acc);
    else
        kern->score(lane->levels, lane->gang, pairs, rows, lane->acc);
    for (r = 0; r < rows; r++) {
        t->rounded[r0 + r] += 0.5f * b->reach * unit[r];
        kern->add_scores(lane->acc + r * SKVI_P, unit[r], offset[r], lane->s + (r0 + r) * SKVI_P);
    }
}

static skvi_joint skvi_joint_of(const skvi_lane *lane, const skvi_atile *t, skvi_slab *b,
                                const unsigned char *sub, const unsigned char *next, size_t whole)
{
    skvi_joint x;
    x.slab = b;
    x.sub = sub;
    x.next = next;
    x.whole = whole;
    x.levels = t->n > SKVI_GANG ? lane->levels : NULL;
    x.kept = 0;
    return x;
}

/* All gangs against a slab by the kernels that expand and multiply at once. 0: there are none. */
static int skvi_joint_scores(const skvi_coder *k, const skvi_lane *lane, skvi_atile *t,
                             skvi_slab *b, const unsigned char *sub, const unsigned char *next,
                             size_t whole)
{
    skvi_joint x = skvi_joint_of(lane, t, b, sub, next, whole);
    float unit[SKVI_GANG];
    size_t r, i;
    if (b->wide || !k->kern->keys) return 0;
    x.unit = unit;
    for (r = 0; r < t->n; r += SKVI_GANG, x.kept = 1) {
        x.rows = skvi_gang_rows(t, r);
        k->kern->keys(&x, lane->ql + r * whole + b->ch, lane->s + r * SKVI_P);
        for (i = 0; i < x.rows; i++) t->rounded[r + i] += 0.5f * b->reach * unit[i];
    }
    return 1;
}

static int skvi_joint_values(const skvi_coder *k, const skvi_lane *lane, const skvi_atile *t,
                             skvi_slab *b, const unsigned char *sub, const unsigned char *next,
                             size_t whole, float *unit)
{
    skvi_joint x = skvi_joint_of(lane, t, b, sub, next, whole);
    size_t r;
    if (b->wide || !k->kern->values) return 0;
    for (r = 0; r < t->n; r += SKVI_GANG, x.kept = 1) {
        x.rows = skvi_gang_rows(t, r);
        x.unit = unit + r;
        k->kern->values(&x, lane->weight + r * SKVI_P, t->part.acc + r * whole + b->ch);
    }
    return 1;
}

/* Scores of page `number` into lane->s. */
static void skvi_page_scores(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             const unsigned char *page, size_t number)
{
    const skvi_coder *k = &j->c->coder;
    const skvi_stream *s = skvi_attend_stream(j, 0, t->g);
    const skvi_sub at = skvi_sub_at(k, j->layer, (size_t)(s - k->profile->stream), page);
    const unsigned char *row = NULL, *next = skvi_next_sub(j, t, s);
    size_t r, i, n_base = 0, whole = SKVI_WHOLE(s->D);
    uint32_t ch, token;
    float base[SKVI_ROWS][SKVI_MAX_ROWS];   /* of the outlier tokens */
    skvi_slab *slab = lane->slab[0];
    skvi_page_base(j, lane, t, s, page, number);
    while ((row = skvi_next_row(k, page, j->layer, at.local, row, &token)) != NULL &&
           n_base < SKVI_MAX_ROWS) {
        for (r = 0; r < t->n; r++) base[r][n_base] = lane->s[r * SKVI_P + token];
        n_base++;
    }
    for (ch = 0; ch < at.plan->coded; ch += slab->n, slab++) {
        if (skvi_joint_scores(k, lane, t, slab, at.bytes, next, whole)) continue;
        skvi_slab_expand(k, at.bytes, next, slab, lane->levels);
        for (r = 0; r < t->n; r += SKVI_GANG)
            skvi_slab_scores(j, lane, t, slab, whole, r, skvi_gang_rows(t, r));
    }
    for (row = NULL, n_base = 0;
         n_base < SKVI_MAX_ROWS &&
         (row = skvi_next_row(k, page, j->layer, at.local, row, &token)) != NULL; n_base++)
        for (r = 0; r < t->n; r++) {
            float x = base[r][n_base];
            for (i = 0; i < s->D; i++)
                x += lane->ql[r * whole + i] * skvi_from_f16(skvi_get16(row + 2 + 2 * i));
            lane->s[r * SKVI_P + token] = x;
        }
    for (r = 0; r < t->n; r++) {
        float e = skvi_from_bf16(skvi_get16(at.bytes)) * t->qnorm[r] + t->rounded[r];
        if (e > t->bound) t->bound = e;
    }
}

/* Weights of rows r0 .. r0+rows-1 times a slab of values into acc. */
static void skvi_slab_values(const skvi_attend_job *j, const skvi_lane *lane, const skvi_slab *b,
                             float *acc, size_t whole, size_t r0, uint32_t rows, const float *unit)
{
    const skvi_kernels *kern = j->c->coder.kern;
    uint32_t r, pairs = (b->n + 7) / 8;
    if (b->wide)
        kern->value_wide(lane->levels, lane->weight_wide + r0 * SKVI_P, pairs, rows, lane->acc);
    else
        kern->value(lane->levels, lane->weight + r0 * SKVI_P, pairs, rows, lane->acc);
    for (r = 0; r < rows; r++)
        kern->add_values(lane->acc + 8 * r, 8 * (size_t)rows, b->step,
                         b->wide ? unit[r] / 64 : unit[r], b->n,
                         acc + (r0 + r) * whole + b->ch);
}

/* Gathers weights times latents of one page into the part. */
static void skvi_page_values(const skvi_attend_job *j, const skvi_lane *lane, const skvi_atile *t,
                             const unsigned char *page)
{
    const skvi_coder *k = &j->c->coder;
    const skvi_stream *s = skvi_attend_stream(j, 1, t->g);
    const skvi_sub at = skvi_sub_at(k, j->layer, (size_t)(s - k->profile->stream), page);
    const unsigned char *row = NULL, *next = skvi_next_sub(j, t, s);
    size_t r, i, whole = SKVI_WHOLE(s->D);
    uint32_t ch, token;
    float unit[SKVI_ROWS], most = 0;
    skvi_slab *slab = lane->slab[1];        /* where any channel is wide, the first are */
    while ((row = skvi_next_row(k, page, j->layer, at.local, row, &token)) != NULL)
        for (r = 0; r < t->n; r++) {
            float p = lane->s[r * SKVI_P + token], *acc = t->part.acc + r * whole;
            for (i = 0; i < s->D; i++) acc[i] += p * skvi_from_f16(skvi_get16(row + 2 + 2 * i));
            lane->s[r * SKVI_P + token] = 0;
        }
    for (r = 0; r < t->n; r++) {
        unit[r] = k->kern->weights(lane->s + r * SKVI_P, lane->weight + r * SKVI_P,
                                   slab->wide ? lane->weight_wide + r * SKVI_P : NULL);
        most = unit[r] > most ? unit[r] : most;
    }
    for (ch = 0; most > 0 && ch < at.plan->coded; ch += slab->n, slab++) {
        if (skvi_joint_values(k, lane, t, slab, at.bytes, next, whole, unit)) continue;
        skvi_slab_expand(k, at.bytes, next, slab, lane->levels);
        for (r = 0; r < t->n; r += SKVI_GANG)
            skvi_slab_values(j, lane, slab, t->part.acc, whole, r, skvi_gang_rows(t, r), unit + r);
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

/* Exact tokens of blocks b .. b+RANGE-1: of the sinks, then of the ring. */
static void skvi_range_exact(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             size_t begin, size_t b)
{
    const skvi_clayer *l = &j->c->cl[j->layer];
    size_t sinks = skvi_sinks_held(j->c, l), ring = skvi_ring_first(j->c, l), last = b + SKVI_RANGE;
    for (; b < last; b++) {
        size_t sink_blocks = (sinks + SKVI_P - 1) / SKVI_P;
        size_t pos = b < sink_blocks ? b * SKVI_P : ring + (b - sink_blocks) * SKVI_P;
        size_t end = b < sink_blocks ? sinks : t->last_pos + 1, n;
        if (end > t->last_pos + 1) end = t->last_pos + 1;
        if (pos >= end) continue;
        n = end - pos < SKVI_P ? end - pos : SKVI_P;
        if (pos + n <= begin && !j->scores) continue;
        skvi_exact_block(j, lane, t, pos, n);
        skvi_copy_scores(j, lane, t, pos, n);
    }
}

/* Whether the values of the page at hand may stay unread: see the top of the section. `seen` pages
   of the range have been met, this one too. */
static int skvi_page_skip(const skvi_attend_job *j, const skvi_atile *t, size_t seen)
{
    const skvi_part *p = &t->part;
    size_t r, pages = j->c->cl[j->layer].n_pages - j->first_page;
    float share = j->tolerance * (float)seen / (float)pages * SKVI_SURE;
    for (r = 0; r < t->n; r++) {
        float known = p->sum[r];
        if (t->mass[r] <= 0) continue;
        if (t->exact_sum[r] > 0) known += t->exact_sum[r] * expf(t->exact_top[r] - p->top[r]);
        if (!(p->skip[r] + t->mass[r] <= share * known)) return 0;
    }
    for (r = 0; r < t->n; r++) p->skip[r] += t->mass[r];
    return 1;
}

/* Pages i .. i+RANGE-1. */
static void skvi_range_pages(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                             size_t begin, size_t i)
{
    const skvi_clayer *l = &j->c->cl[j->layer];
    size_t last = i + SKVI_RANGE < l->n_pages ? i + SKVI_RANGE : l->n_pages, seen = 0;
    if (i < j->first_page) i = j->first_page;
    for (; i < last; i++) {
        size_t pos = j->c->sinks + i * SKVI_P;
        const unsigned char *page = l->page[i];
        if (pos > t->last_pos) break;
        if ((pos + SKVI_P <= begin && !j->scores) || !page) continue;
        t->next = i + 1 < l->n_pages ? l->page[i + 1] : NULL;
        skvi_page_scores(j, lane, t, page, i);
        if (!j->scores) {
            skvi_softmax(j, lane, t, pos, SKVI_P, SKVI_WHOLE(t->D));
            t->met++;
            if (!(j->tolerance > 0 && skvi_page_skip(j, t, ++seen))) {
                skvi_page_values(j, lane, t, page);
                t->read++;
            }
        }
        skvi_copy_scores(j, lane, t, pos, SKVI_P);
    }
}

/* Range r of the job into the tile's part. */
static void skvi_tile_range(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                            size_t r)
{
    const skv_layer *l = &j->c->layers[j->layer];
    size_t w = l->sliding_window, begin = w && t->first_pos + 1 > w ? t->first_pos + 1 - w : 0, i;
    size_t width = r < j->exact ? l->head_dim_v : SKVI_WHOLE(t->D);
    for (i = 0; i < t->n; i++) {
        t->part.top[i] = -INFINITY;
        t->part.sum[i] = t->part.skip[i] = 0;
    }
    memset(t->part.acc, 0, t->n * width * sizeof(float));
    if (r < j->exact) skvi_range_exact(j, lane, t, begin, r * SKVI_RANGE);
    else skvi_range_pages(j, lane, t, begin,
                          (j->first_page / SKVI_RANGE + r - j->exact) * SKVI_RANGE);
}

/* The part of a range onto what the tile has: the softmax step of a whole range. */
static void skvi_tile_merge(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                            size_t range)
{
    const skvi_part *p = &t->part;
    size_t r, dv = j->c->layers[j->layer].head_dim_v, whole = SKVI_WHOLE(t->D);
    int exact = range < j->exact;
    for (r = 0; r < t->n; r++) {
        float *oo = lane->oo + r * dv, *ol = lane->ol + r * whole, old = 1, now = 1;
        if (p->top[r] == -INFINITY) continue;
        if (p->top[r] > t->top[r]) {
            old = expf(t->top[r] - p->top[r]);
            t->top[r] = p->top[r];
            skvi_scale_row(exact ? ol : oo, old, exact ? whole : dv);
        } else
            now = expf(p->top[r] - t->top[r]);
        t->sum[r] = old * t->sum[r] + now * p->sum[r];
        t->paged[r] = old * t->paged[r] + (exact ? 0 : now * p->sum[r]);
        t->skip[r] = old * t->skip[r] + now * p->skip[r];
        if (exact) skvi_blend(oo, old, p->acc + r * dv, now, dv);
        else skvi_blend(ol, old, p->acc + r * whole, now, whole);
    }
    if (range + 1 == j->exact) {
        memcpy(t->exact_top, t->top, sizeof t->top);
        memcpy(t->exact_sum, t->sum, sizeof t->sum);
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

/* Onto the rows: latents turned back, those of a KV head at once, and page share times mean. */
static void skvi_tile_turn_back(const skvi_attend_job *j, const skvi_lane *lane,
                                const skvi_atile *t)
{
    const skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    const skvi_stream *s = skvi_attend_stream(j, 1, t->g);
    size_t dv = l->head_dim_v, group = l->n_q_heads / l->n_kv_heads, whole = SKVI_WHOLE(t->D);
    size_t r0, r = 0, i;
    for (r0 = 0; r0 < t->n; r0 = r) {
        size_t slice = (t->head[r0] / group - t->g * c->coder.profile->head_group) * dv;
        r = skvi_same_head(t, r0, group);
        c->coder.kern->gemm(r - r0, dv, t->D, lane->ol + r0 * whole, whole, s->dec + slice, s->D,
                            lane->oo + r0 * dv, dv);
        for (; r0 < r; r0++)
            for (i = 0; i < dv; i++)
                lane->oo[r0 * dv + i] += t->paged[r0] * s->mean[slice + i];
    }
}

/* (exact + latent turned back + page share times mean) / sum, for each row; with latent_out
   (exact + latent in its units) / sum. */
static void skvi_tile_finish(const skvi_attend_job *j, const skvi_lane *lane, const skvi_atile *t)
{
    const skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    size_t r, i, dv = l->head_dim_v;
    if (c->latent) {
        const float *unit = skvi_latent_units_of(c, j->layer, t->g);
        for (r = 0; r < t->n; r++)
            for (i = 0; i < dv; i++)
                lane->oo[r * dv + i] += unit[i] * lane->ol[r * SKVI_WHOLE(t->D) + i];
    } else if (c->cl[j->layer].n_pages)
        skvi_tile_turn_back(j, lane, t);
    for (r = 0; r < t->n; r++) {
        float *oo = lane->oo + r * dv, inv = 1 / t->sum[r];
        for (i = 0; i < dv; i++) oo[i] *= inv;
        skvi_write_row(j->out, l, t->query[r], t->head[r], oo);
        if (j->attn && j->attn->lse)
            j->attn->lse[t->query[r] * l->n_q_heads + t->head[r]] = t->top[r] + logf(t->sum[r]);
    }
}

/* Tile number `tile` of the job: its rows, nothing attended yet. */
static void skvi_tile_rows_of(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                              size_t tile)
{
    skv_cache *c = j->c;
    const skv_layer *l = &c->layers[j->layer];
    uint32_t G = skvi_cache_head_group(c), g = (uint32_t)(tile / j->tiles);
    size_t group = l->n_q_heads / l->n_kv_heads, row = tile % j->tiles * c->coder.tile_rows, r;
    size_t heads = skvi_group_heads(l, G, g), rows = heads * group * j->n, total, head;
    total = c->cl[j->layer].total;
    memset(t, 0, sizeof *t);
    t->g = g;
    t->D = heads * l->head_dim_v;
    if (row >= rows) return;        /* the last head group may be smaller */
    t->row = (size_t)g * G * group * j->n + row;
    t->n = rows - row < c->coder.tile_rows ? rows - row : c->coder.tile_rows;
    t->first_pos = total;
    for (r = 0; r < t->n; r++) {
        head = (t->row + r) / j->n;
        t->head[r] = head;
        t->query[r] = (t->row + r) % j->n;
        t->pos[r] = total - j->n + t->query[r];
        t->top[r] = -INFINITY;
        if (t->pos[r] < t->first_pos) t->first_pos = t->pos[r];
        if (t->pos[r] > t->last_pos) t->last_pos = t->pos[r];
    }
    memset(lane->oo, 0, t->n * l->head_dim_v * sizeof(float));
    memset(lane->ol, 0, t->n * SKVI_WHOLE(t->D) * sizeof(float));
}

/* Where the part of a tile's range lies: with all others of the job, or in the lane. */
static void skvi_tile_part(const skvi_attend_job *j, const skvi_lane *lane, skvi_atile *t,
                           size_t range)
{
    size_t row = SKVI_PART(j->c->coder.max_D);
    float *at = lane->part;
    if (j->split && !j->scores) at = j->c->parts + (t->row * j->ranges + range * t->n) * row;
    t->part.top = at;
    t->part.sum = at + t->n;
    t->part.skip = at + 2 * t->n;
    t->part.acc = at + 3 * t->n;
}

static void skvi_attend_note(const skvi_attend_job *j, size_t lane, skvi_atile *t, int done)
{
    float *report = j->c->report + SKVI_REPORT * (lane * j->c->coder.max_groups + t->g);
    size_t r;
    if (t->bound > report[0]) report[0] = t->bound;
    for (r = 0; done && r < t->n; r++) {
        if (t->paged[r] / t->sum[r] > report[1]) report[1] = t->paged[r] / t->sum[r];
        if (t->skip[r] / t->sum[r] > report[2]) report[2] = t->skip[r] / t->sum[r];
    }
    j->c->count[2 * lane] += t->met;
    j->c->count[2 * lane + 1] += t->read;
    t->met = t->read = 0;
}

/* Units are tiles, from the queries to the rows of the output. */
static void skvi_attend_tiles(void *arg, size_t lane_at, size_t first, size_t end)
{
    const skvi_attend_job *j = (const skvi_attend_job *)arg;
    const skvi_lane *lane = &j->c->coder.lane[lane_at];
    skvi_atile t;
    size_t range;
    for (; first < end; first++) {
        skvi_tile_rows_of(j, lane, &t, first);
        skvi_tile_queries(j, lane, &t);
        skvi_tile_part(j, lane, &t, 0);
        for (range = 0; range < j->ranges; range++) {
            skvi_tile_range(j, lane, &t, range);
            if (!j->scores) skvi_tile_merge(j, lane, &t, range);
        }
        if (!j->scores) skvi_tile_finish(j, lane, &t);
        skvi_attend_note(j, lane_at, &t, !j->scores);
    }
}

/* Units are ranges of tiles, to parts; those before first_range are there already. */
static void skvi_attend_ranges(void *arg, size_t lane_at, size_t first, size_t end)
{
    const skvi_attend_job *j = (const skvi_attend_job *)arg;
    const skvi_lane *lane = &j->c->coder.lane[lane_at];
    skvi_atile t;
    size_t at = first, range;
    for (; at < end; at++) {
        if (at == first || at % j->n_ranges == 0) {
            skvi_tile_rows_of(j, lane, &t, at / j->n_ranges);
            skvi_tile_queries(j, lane, &t);
            for (range = 0; range < j->first_range; range++) {
                skvi_tile_part(j, lane, &t, range);
                skvi_tile_merge(j, lane, &t, range);
            }
        }
        range = j->first_range + at % j->n_ranges;
        skvi_tile_part(j, lane, &t, range);
        skvi_tile_range(j, lane, &t, range);
        skvi_attend_note(j, lane_at, &t, 0);
    }
}

/* Units are tiles, from their parts to the rows of the output. */
static void skvi_attend_finish(void *arg, size_t lane_at, size_t first, size_t end)
{
    const skvi_attend_job *j = (const skvi_attend_job *)arg;
    const skvi_lane *lane = &j->c->coder.lane[lane_at];
    skvi_atile t;
    size_t range;
    for (; first < end; first++) {
        skvi_tile_rows_of(j, lane, &t, first);
        for (range = 0; range < j->ranges; range++) {
            skvi_tile_part(j, lane, &t, range);
            skvi_tile_merge(j, lane, &t, range);
        }
        skvi_tile_finish(j, lane, &t);
        skvi_attend_note(j, lane_at, &t, 1);
    }
}

/* How the job falls into units. */
static void skvi_attend_units(skvi_attend_job *j)
{
    const skv_cache *c = j->c;
    const skv_layer *s = &c->layers[j->layer];
    const skvi_clayer *l = &c->cl[j->layer];
    uint32_t G = skvi_cache_head_group(c);
    size_t rows = skvi_group_heads(s, G, 0) * (s->n_q_heads / s->n_kv_heads) * j->n, tiles;
    size_t sinks = skvi_sinks_held(c, l), ring = l->total - skvi_ring_first(c, l);
    j->tiles = (rows + c->coder.tile_rows - 1) / c->coder.tile_rows;
    j->first_page = j->scores ? l->dropped
                              : skvi_first_visible(c, j->layer, l->total - (uint32_t)j->n);
    if (j->first_page > l->n_pages) j->first_page = l->n_pages;
    j->exact = SKVI_RANGES((sinks + SKVI_P - 1) / SKVI_P + (ring + SKVI_P - 1) / SKVI_P);
    j->ranges = j->exact + SKVI_RANGES((size_t)l->n_pages) - j->first_page / SKVI_RANGE;
    tiles = j->tiles * skvi_groups(s, G);
    j->split = tiles < 2 * (size_t)c->coder.n_lanes && j->ranges > 1 &&
               (j->scores || s->n_q_heads * j->n * j->ranges <= c->part_rows);
}

/* Ranges of all tiles to parts, first .. end-1 of them. */
static void skvi_attend_split(skvi_attend_job *j, size_t tiles, size_t first, size_t end)
{
    j->first_range = first;
    j->n_ranges = end - first;
    if (end > first)
        skvi_spread(&j->c->coder, tiles * j->n_ranges, skvi_attend_ranges, j);
}

/* What the lanes noted, into attn. */
static void skvi_attend_report(const skvi_attend_job *j, uint32_t groups)
{
    const skv_cache *c = j->c;
    const skvi_clayer *l = &c->cl[j->layer];
    skv_attn *a = j->attn;
    uint32_t g, i;
    a->score_bound = a->page_mass = a->skipped = 0;
    for (g = 0; g < groups; g++) {
        const float *report = c->report + SKVI_REPORT * g;
        if (report[0] > a->score_bound) a->score_bound = report[0];
        if (report[1] > a->page_mass) a->page_mass = report[1];
        if (report[2] > a->skipped) a->skipped = report[2];
    }
    a->tokens_paged = (l->n_pages - l->dropped) * SKVI_P;
    a->tokens_exact = l->total - l->n_pages * SKVI_P;
    a->pages_met = a->pages_read = 0;
    for (i = 0; i < c->coder.n_lanes; i++) {
        a->pages_met += c->count[2 * i];
        a->pages_read += c->count[2 * i + 1];
    }
}

/* The public calls. */
static void skvi_attend_run(skvi_attend_job *j)
{
    skv_cache *c = j->c;
    uint32_t i, groups = skvi_groups(&c->layers[j->layer], skvi_cache_head_group(c));
    uint32_t n = SKVI_REPORT * c->coder.max_groups;
    size_t tiles;
    memset(c->report, 0, c->coder.n_lanes * n * sizeof(float));
    memset(c->count, 0, c->coder.n_lanes * 2 * sizeof(uint32_t));
    skvi_attend_units(j);
    tiles = groups * j->tiles;
    if (!j->split) {
        skvi_spread(&c->coder, tiles, skvi_attend_tiles, j);
    } else {
        size_t first = j->tolerance > 0 ? j->exact : 0;
        skvi_attend_split(j, tiles, 0, first);
        skvi_attend_split(j, tiles, first, j->ranges);
        if (!j->scores) skvi_spread(&c->coder, tiles, skvi_attend_finish, j);
    }
    for (i = n; i < c->coder.n_lanes * n; i++)
        if (c->report[i] > c->report[i % n]) c->report[i % n] = c->report[i];
    if (j->attn) skvi_attend_report(j, groups);
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
    if (attn && !(attn->tolerance >= 0 && attn->tolerance <= 1)) return SKV_ERR_ARG;
    if (l->dropped > skvi_first_visible(c, layer, l->total - (uint32_t)n)) return SKV_ERR_STATE;
    r = skvi_attend_open(&j, c, layer, q, n);
    if (r != SKV_OK) return r;
    j.out = out;
    j.attn = attn;
    j.tolerance = attn ? attn->tolerance : 0;
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

/* >>turbo -------------------------------------------------------------------------------------
   The published row codecs of >>classic. Lloyd-Max levels of a unit normal in 1/10000, the positive
   half of widths 1 to 8 one after the other (solved to 1e-13, then rounded: mean squared error
   within 1e-7 relative of the optimum up to width 6, 1.1e-5 at 8). Code c >= 2^(w-1) is
   +level[c - 2^(w-1)], below it mirrors. */
static const uint16_t skvi_lloyd[255] = {
    7979,
    4528, 15104,
    2451, 7560, 13439, 21519,
    1284, 3880, 6568, 9423, 12562, 16180, 20690, 27326,
    659, 1981, 3314, 4667, 6049, 7471, 8946, 10488, 12118, 13863, 15762, 17872, 20287, 23177,
    26911, 32607,
    334, 1003, 1673, 2346, 3022, 3703, 4389, 5083, 5785, 6497, 7219, 7955, 8705, 9472, 10257,
    11065, 11897, 12758, 13651, 14583, 15558, 16586, 17675, 18840, 20096, 21468, 22990, 24713,
    26723, 29174, 32404, 37441,
    168, 505, 842, 1179, 1516, 1855, 2193, 2533, 2874, 3216, 3559, 3903, 4249, 4597, 4947, 5298,
    5652, 6008, 6367, 6728, 7093, 7460, 7831, 8206, 8585, 8967, 9354, 9746, 10143, 10545, 10953,
    11367, 11788, 12216, 12652, 13095, 13548, 14009, 14481, 14964, 15459, 15967, 16489, 17027,
    17581, 18154, 18748, 19364, 20006, 20677, 21380, 22120, 22903, 23736, 24628, 25590, 26639,
    27795, 29090, 30572, 32319, 34474, 37349, 41897,
    84, 253, 422, 591, 760, 930, 1099, 1268, 1437, 1607, 1777, 1947, 2117, 2287, 2458, 2628, 2799,
    2971, 3142, 3314, 3486, 3659, 3832, 4005, 4179, 4353, 4527, 4703, 4878, 5054, 5231, 5408, 5585,
    5764, 5942, 6122, 6302, 6483, 6664, 6847, 7030, 7214, 7398, 7584, 7770, 7957, 8145, 8335, 8525,
    8716, 8908, 9102, 9296, 9492, 9689, 9887, 10086, 10287, 10489, 10693, 10898, 11105, 11313,
    11523, 11735, 11948, 12163, 12380, 12599, 12821, 13044, 13269, 13497, 13727, 13959, 14194,
    14432, 14673, 14916, 15162, 15411, 15664, 15920, 16180, 16443, 16710, 16981, 17256, 17536,
    17820, 18110, 18404, 18704, 19009, 19321, 19639, 19963, 20295, 20635, 20982, 21339, 21704,
    22080, 22466, 22864, 23274, 23697, 24135, 24590, 25061, 25553, 26065, 26602, 27165, 27759,
    28387, 29055, 29769, 30537, 31371, 32285, 33298, 34441, 35756, 37317, 39256, 41866, 46035
};

static uint64_t skvi_random(uint64_t *state)            /* splitmix64 */
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Marsaglia's polar method on odd multiples of 2^-26: the test r < 1 is exact. */
static double skvi_normal(uint64_t *state)
{
    double u, v, r;
    do {
        uint64_t z = skvi_random(state);
        u = (double)((int64_t)(z >> 38) * 2 + 1 - (1 << 26)) / (1 << 26);
        v = (double)((int64_t)(z & 0x3FFFFFFu) * 2 + 1 - (1 << 26)) / (1 << 26);
        r = u * u + v * v;
    } while (r >= 1);
    return u * sqrt(-2 * log(r) / r);
}

SKVDEF skv_result skv_turbo_sketch(uint64_t seed, size_t dim, float *sketch)
{
    size_t i;
    if (!sketch || !dim || dim > SKV_MAX_HEAD_DIM) return SKV_ERR_ARG;
    for (i = 0; i < dim * dim; i++) sketch[i] = (float)skvi_normal(&seed);
    return SKV_OK;
}

/* a[k][k] = H diag(+-1, a's lower block) where the first column of H is uniform on the sphere. */
static void skvi_reflect(uint64_t *state, size_t k, float *a, size_t lda)
{
    double v[SKV_MAX_HEAD_DIM], w[SKV_MAX_HEAD_DIM], norm = 0, beta;
    size_t i, j;
    int up;
    for (i = 0; i < k; i++) {
        v[i] = skvi_normal(state);
        norm += v[i] * v[i];
    }
    norm = sqrt(norm);
    up = v[0] >= 0;
    beta = 1 / (norm * (norm + fabs(v[0])));            /* 2 / |v|^2 of the v below */
    v[0] += up ? norm : -norm;
    for (j = 0; j < k; j++) a[j] = a[j * lda] = 0;
    a[0] = up ? -1.0f : 1.0f;
    memset(w, 0, sizeof w);
    for (i = 0; i < k; i++)
        for (j = 0; j < k; j++) w[j] += v[i] * (double)a[i * lda + j];
    for (i = 0; i < k; i++)
        for (j = 0; j < k; j++)
            a[i * lda + j] = (float)((double)a[i * lda + j] - beta * v[i] * w[j]);
}

SKVDEF skv_result skv_turbo_rotation(uint64_t seed, size_t dim, float *rotation)
{
    size_t k;
    if (!rotation || !dim || dim > SKV_MAX_HEAD_DIM) return SKV_ERR_ARG;
    rotation[dim * dim - 1] = skvi_random(&seed) >> 63 ? 1.0f : -1.0f;
    for (k = 2; k <= dim; k++)
        skvi_reflect(&seed, k, rotation + (dim - k) * (dim + 1), dim);
    return SKV_OK;
}

/* Rows of codes: n of `bits` from bit position `at` on; out must be zero before. */
static void skvi_put_code(unsigned char *out, size_t at, uint32_t bits, uint32_t code)
{
    uint32_t x = code << (at & 7);
    out[at >> 3] = (unsigned char)(out[at >> 3] | (x & 255u));
    if ((at & 7) + bits > 8) out[(at >> 3) + 1] = (unsigned char)(out[(at >> 3) + 1] | (x >> 8));
}
static uint32_t skvi_get_code(const unsigned char *in, size_t at, uint32_t bits)
{
    uint32_t x = in[at >> 3];
    if ((at & 7) + bits > 8) x |= (uint32_t)in[(at >> 3) + 1] << 8;
    return (x >> (at & 7)) & ((1u << bits) - 1);
}

/* y[m] = a[m][n] x, and x[n] += a^T y */
static void skvi_apply(const float *a, size_t m, size_t n, const float *x, float *y)
{
    size_t i;
    for (i = 0; i < m; i++) y[i] = skvi_dot_c(a + i * n, x, n);
}
static void skvi_apply_back(const float *a, size_t m, size_t n, const float *y, float *x)
{
    size_t i, j;
    for (i = 0; i < m; i++)
        for (j = 0; j < n; j++) x[j] += a[i * n + j] * y[i];
}

static double skvi_norm(const float *x, size_t n)
{
    double s = 0;
    size_t i;
    for (i = 0; i < n; i++) s += (double)x[i] * (double)x[i];
    return sqrt(s);
}

static skv_result skvi_check_row(const float *x, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++)
        if (!skvi_is_finite(x[i])) return SKV_ERR_NOT_FINITE;
    for (i = 0; i < n; i++)
        if (fabsf(x[i]) > SKVI_LARGEST) return SKV_ERR_RANGE;
    return SKV_OK;
}

/* A number as f16 at p; RANGE where that is infinite. */
static skv_result skvi_put_half(unsigned char *p, double x, float *stored)
{
    uint16_t h = skvi_to_f16((float)x);
    *stored = skvi_from_f16(h);
    if (!skvi_is_finite(*stored)) return SKV_ERR_RANGE;
    skvi_put16(p, h);
    return SKV_OK;
}

/* Nearest level to y, and its value */
static uint32_t skvi_lloyd_code(uint32_t bits, float y)
{
    const uint16_t *level = skvi_lloyd + (1 << (bits - 1)) - 1;
    uint32_t half = 1u << (bits - 1), lo = 0, hi = half - 1;
    float a = fabsf(y) * 20000.0f;
    while (lo < hi) {                       /* least i with a below the border of i and i + 1 */
        uint32_t mid = (lo + hi) / 2;
        if (a < (float)(level[mid] + level[mid + 1])) hi = mid;
        else lo = mid + 1;
    }
    return y < 0 ? half - 1 - lo : half + lo;
}
static float skvi_lloyd_level(uint32_t bits, uint32_t code)
{
    const uint16_t *level = skvi_lloyd + (1 << (bits - 1)) - 1;
    uint32_t half = 1u << (bits - 1);
    float x = (float)level[code >= half ? code - half : half - 1 - code] / 10000.0f;
    return code >= half ? x : -x;
}

/* The parts of a row: where things begin, in bytes and then bits of the stream. */
typedef struct skvi_turbo_row {
    uint32_t bits;                          /* of the Lloyd-Max codes; 0 = none */
    size_t head, bytes;
} skvi_turbo_row;

static skv_result skvi_turbo_open(const skv_turbo *t, skvi_turbo_row *l)
{
    size_t stream;
    if (!t || !t->dim || t->dim > SKV_MAX_HEAD_DIM || !t->bits || t->bits > 8 || !t->rotation)
        return SKV_ERR_ARG;
    stream = ((size_t)t->dim * t->bits + 7) / 8;
    l->bits = t->form == SKV_TURBO_PRODUCT ? t->bits - 1 : t->bits;
    l->head = 2;
    if (t->form == SKV_TURBO_PRODUCT) {
        if (!t->sketch) return SKV_ERR_ARG;
        l->head = 4;
    } else if (t->form == SKV_TURBO_RESIDUAL) {
        if (!t->basis || !t->rank || t->rank > t->dim) return SKV_ERR_ARG;
        l->head = 2 + 2 * (size_t)t->rank;
    } else if (t->form != SKV_TURBO_MSE) return SKV_ERR_ARG;
    l->bytes = l->head + stream;
    return SKV_OK;
}

SKVDEF size_t skv_turbo_bytes(const skv_turbo *t)
{
    skvi_turbo_row l;
    return skvi_turbo_open(t, &l) == SKV_OK ? l.bytes : 0;
}

/* x[dim] into codes of l->bits, its norm as f16 at row; made [dim] becomes what a decoder gives. */
static skv_result skvi_turbo_quantise(const skv_turbo *t, const skvi_turbo_row *l, const float *x,
                                      unsigned char *row, float *made)
{
    float y[SKV_MAX_HEAD_DIM], norm, unit;
    size_t i, n = t->dim;
    skv_result r = skvi_put_half(row, skvi_norm(x, n), &norm);
    if (r != SKV_OK) return r;
    memset(made, 0, n * sizeof *made);
    memset(row + l->head, 0, l->bytes - l->head);
    if (!l->bits) return SKV_OK;
    unit = norm / sqrtf((float)n);
    skvi_apply(t->rotation, n, n, x, y);
    for (i = 0; i < n; i++) {
        uint32_t code = skvi_lloyd_code(l->bits, unit > 0 ? y[i] / unit : 0);
        skvi_put_code(row + l->head, i * l->bits, l->bits, code);
        y[i] = skvi_lloyd_level(l->bits, code) * unit;
    }
    skvi_apply_back(t->rotation, n, n, y, made);
    return SKV_OK;
}

/* Rotated coordinates of the codes; their norm is the f16 at row, sign apart. */
static skv_result skvi_turbo_levels(const skv_turbo *t, const skvi_turbo_row *l,
                                    const unsigned char *row, float *y)
{
    float norm = fabsf(skvi_from_f16(skvi_get16(row))), unit = norm / sqrtf((float)t->dim);
    size_t i;
    if (!skvi_is_finite(norm)) return SKV_ERR_FORMAT;
    for (i = 0; i < t->dim; i++)
        y[i] = l->bits ? unit * skvi_lloyd_level(l->bits, skvi_get_code(row + l->head, i * l->bits,
                                                                        l->bits)) : 0;
    return SKV_OK;
}

/* QJL signs of the residual x - made, S the sketch. */
static skv_result skvi_turbo_signs(const skv_turbo *t, const skvi_turbo_row *l, const float *x,
                                   const float *made, unsigned char *row)
{
    float rest[SKV_MAX_HEAD_DIM], norm;
    size_t i, n = t->dim;
    skv_result r;
    for (i = 0; i < n; i++) rest[i] = x[i] - made[i];
    r = skvi_put_half(row + 2, skvi_norm(rest, n), &norm);
    for (i = 0; i < n && r == SKV_OK; i++)
        skvi_put_code(row + l->head, n * l->bits + i, 1,
                      skvi_dot_c(t->sketch + i * n, rest, n) >= 0);
    return r;
}

static double skvi_distance(const float *a, const float *b, size_t n)
{
    double s = 0;
    size_t i;
    for (i = 0; i < n; i++) s += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return s;
}

/* RESIDUAL: the spectral candidate replaces the row's codes where it is nearer than made. */
static skv_result skvi_turbo_spectral(const skv_turbo *t, const skvi_turbo_row *l, const float *x,
                                      const float *made, unsigned char *row)
{
    unsigned char other[2 + 3 * SKV_MAX_HEAD_DIM];
    float z[SKV_MAX_HEAD_DIM], part[SKV_MAX_HEAD_DIM], rest[SKV_MAX_HEAD_DIM],
          coded[SKV_MAX_HEAD_DIM];
    size_t i, n = t->dim;
    skv_result r = SKV_OK;
    memset(row + 2, 0, 2 * (size_t)t->rank);
    memset(part, 0, n * sizeof *part);
    skvi_apply(t->basis, t->rank, n, x, z);
    for (i = 0; i < t->rank && r == SKV_OK; i++) r = skvi_put_half(other + 2 + 2 * i, z[i], &z[i]);
    if (r != SKV_OK) return r;
    skvi_apply_back(t->basis, t->rank, n, z, part);
    memcpy(rest, x, n * sizeof *rest);
    for (i = 0; i < n; i++) rest[i] -= part[i];
    r = skvi_turbo_quantise(t, l, rest, other, coded);
    if (r != SKV_OK) return r;
    for (i = 0; i < n; i++) coded[i] += part[i];
    if (skvi_distance(x, coded, n) < skvi_distance(x, made, n)) {
        memcpy(row, other, l->bytes);
        row[1] = (unsigned char)(row[1] | 0x80u);
    }
    return SKV_OK;
}

SKVDEF skv_result skv_turbo_encode(const skv_turbo *t, const float *x, void *row)
{
    unsigned char out[4 + 3 * SKV_MAX_HEAD_DIM];
    float made[SKV_MAX_HEAD_DIM];
    skvi_turbo_row l;
    skv_result r = skvi_turbo_open(t, &l);
    if (r != SKV_OK || !x || !row) return SKV_ERR_ARG;
    r = skvi_check_row(x, t->dim);
    if (r == SKV_OK) r = skvi_turbo_quantise(t, &l, x, out, made);
    if (r == SKV_OK && t->form == SKV_TURBO_PRODUCT) r = skvi_turbo_signs(t, &l, x, made, out);
    if (r == SKV_OK && t->form == SKV_TURBO_RESIDUAL)
        r = skvi_turbo_spectral(t, &l, x, made, out);
    if (r == SKV_OK) memcpy(row, out, l.bytes);
    return r;
}

/* Weights of the sketch's rows (PRODUCT) or of the basis (RESIDUAL) in the decoded row: count. */
static size_t skvi_turbo_second(const skv_turbo *t, const skvi_turbo_row *l,
                                const unsigned char *row, float *w)
{
    size_t i, n = t->form == SKV_TURBO_PRODUCT ? t->dim : t->rank;
    float norm;
    if (t->form == SKV_TURBO_MSE) return 0;
    if (t->form == SKV_TURBO_RESIDUAL) {
        for (i = 0; i < n; i++) w[i] = skvi_from_f16(skvi_get16(row + 2 + 2 * i));
        return n;
    }
    norm = skvi_from_f16(skvi_get16(row + 2)) * 1.2533141373f / (float)n;   /* sqrt(pi/2) / n */
    for (i = 0; i < n; i++)
        w[i] = skvi_get_code(row + l->head, n * l->bits + i, 1) ? norm : -norm;
    return n;
}

SKVDEF skv_result skv_turbo_decode(const skv_turbo *t, const void *row, float *x)
{
    const unsigned char *in = (const unsigned char *)row;
    float y[SKV_MAX_HEAD_DIM], w[SKV_MAX_HEAD_DIM];
    skvi_turbo_row l;
    size_t n;
    skv_result r = skvi_turbo_open(t, &l);
    if (r != SKV_OK || !x || !row) return SKV_ERR_ARG;
    r = skvi_turbo_levels(t, &l, in, y);
    if (r != SKV_OK) return r;
    n = skvi_turbo_second(t, &l, in, w);
    if (skvi_check_row(w, n) != SKV_OK) return SKV_ERR_FORMAT;
    memset(x, 0, t->dim * sizeof *x);
    if (l.bits) skvi_apply_back(t->rotation, t->dim, t->dim, y, x);
    if (n) skvi_apply_back(t->form == SKV_TURBO_PRODUCT ? t->sketch : t->basis, n, t->dim, w, x);
    return SKV_OK;
}

SKVDEF skv_result skv_turbo_query(const skv_turbo *t, const float *q, float *turned)
{
    skvi_turbo_row l;
    skv_result r = skvi_turbo_open(t, &l);
    if (r != SKV_OK || !q || !turned) return SKV_ERR_ARG;
    r = skvi_check_row(q, t->dim);
    if (r != SKV_OK) return r;
    skvi_apply(t->rotation, t->dim, t->dim, q, turned);
    if (t->form == SKV_TURBO_PRODUCT)
        skvi_apply(t->sketch, t->dim, t->dim, q, turned + t->dim);
    if (t->form == SKV_TURBO_RESIDUAL)
        skvi_apply(t->basis, t->rank, t->dim, q, turned + t->dim);
    return SKV_OK;
}

SKVDEF skv_result skv_turbo_dot(const skv_turbo *t, const void *row, const float *turned,
                                float *dot)
{
    const unsigned char *in = (const unsigned char *)row;
    float y[SKV_MAX_HEAD_DIM], w[SKV_MAX_HEAD_DIM];
    skvi_turbo_row l;
    size_t n;
    skv_result r = skvi_turbo_open(t, &l);
    if (r != SKV_OK || !row || !turned || !dot) return SKV_ERR_ARG;
    r = skvi_turbo_levels(t, &l, in, y);
    if (r != SKV_OK) return r;
    n = skvi_turbo_second(t, &l, in, w);
    if (skvi_check_row(w, n) != SKV_OK) return SKV_ERR_FORMAT;
    *dot = skvi_dot_c(y, turned, t->dim) + skvi_dot_c(w, turned + t->dim, n);
    return SKV_OK;
}

/* JarvisKV ------------------------------------------------------------------------------------ */
static int skvi_jarvis_valid(const skv_jarvis *j)
{
    return j && j->rank >= 2 && j->rank <= j->dim && j->dim <= SKV_MAX_HEAD_DIM && j->bits &&
           j->bits <= 8 && j->rotation;
}

SKVDEF size_t skv_jarvis_bytes(const skv_jarvis *j)
{
    return skvi_jarvis_valid(j) ? 4 + ((size_t)j->rank * (j->bits + 1) + 7) / 8 : 0;
}

static size_t skvi_jarvis_length(const skv_jarvis *j) { return j->basis ? j->dim : j->rank; }

SKVDEF skv_result skv_jarvis_query(const skv_jarvis *j, const float *q, float *turned)
{
    float z[SKV_MAX_HEAD_DIM];
    skv_result r;
    if (!skvi_jarvis_valid(j) || !q || !turned) return SKV_ERR_ARG;
    r = skvi_check_row(q, skvi_jarvis_length(j));
    if (r != SKV_OK) return r;
    if (j->basis) skvi_apply(j->basis, j->rank, j->dim, q, z);
    skvi_apply(j->rotation, j->rank, j->rank, j->basis ? z : q, turned);
    return SKV_OK;
}

SKVDEF skv_result skv_jarvis_encode(const skv_jarvis *j, const float *x, void *row)
{
    unsigned char out[4 + 2 * SKV_MAX_HEAD_DIM];
    float y[SKV_MAX_HEAD_DIM], s, mu, step;
    double mean = 0, sigma = 0;
    int i, n, last;
    skv_result r = row ? skv_jarvis_query(j, x, y) : SKV_ERR_ARG;
    if (r != SKV_OK) return r;
    n = (int)j->rank;
    memset(out, 0, sizeof out);
    last = (1 << j->bits) - 1;
    step = 6.0f / (float)(last + 1);
    for (i = 0; i < n; i++) mean += (double)y[i] / n;
    for (i = 0; i < n; i++) sigma += ((double)y[i] - mean) * ((double)y[i] - mean) / (n - 1);
    sigma = 3 * (sigma > 1e-16 ? sqrt(sigma) : 1e-8);
    r = skvi_put_half(out, sigma, &s);
    if (r == SKV_OK) r = skvi_put_half(out + 2, mean, &mu);
    if (r != SKV_OK) return r;
    for (i = 0; i < n; i++) {
        double u = ((double)y[i] - mean) / sigma;
        int code = (int)((1 + (u < -1 ? -1 : u > 1 ? 1 : u)) / (double)step);
        float near;
        if (code > last) code = last;
        near = (((float)code + 0.5f) * step - 1) * s + mu;
        skvi_put_code(out + 4, (size_t)i * j->bits, j->bits, (uint32_t)code);
        skvi_put_code(out + 4, (size_t)n * j->bits + (size_t)i, 1, y[i] > near);
    }
    memcpy(row, out, skv_jarvis_bytes(j));
    return SKV_OK;
}

/* Rotated latent coordinates of a row */
static skv_result skvi_jarvis_levels(const skv_jarvis *j, const unsigned char *row, float *y)
{
    float s = skvi_from_f16(skvi_get16(row)), mu = skvi_from_f16(skvi_get16(row + 2));
    float step = 6.0f / (float)(1 << j->bits);
    size_t i, n = j->rank;
    if (!skvi_is_finite(s) || !skvi_is_finite(mu)) return SKV_ERR_FORMAT;
    for (i = 0; i < n; i++) {
        float code = (float)skvi_get_code(row + 4, i * j->bits, j->bits);
        int up = skvi_get_code(row + 4, n * j->bits + i, 1) != 0;
        y[i] = ((code + 0.5f) * step - 1) * s + mu + (up ? step : -step) / 2;
    }
    return SKV_OK;
}

SKVDEF skv_result skv_jarvis_decode(const skv_jarvis *j, const void *row, float *x)
{
    float y[SKV_MAX_HEAD_DIM], z[SKV_MAX_HEAD_DIM];
    skv_result r;
    if (!skvi_jarvis_valid(j) || !row || !x) return SKV_ERR_ARG;
    r = skvi_jarvis_levels(j, (const unsigned char *)row, y);
    if (r != SKV_OK) return r;
    memset(z, 0, j->rank * sizeof *z);
    skvi_apply_back(j->rotation, j->rank, j->rank, y, z);
    memset(x, 0, skvi_jarvis_length(j) * sizeof *x);
    if (j->basis) skvi_apply_back(j->basis, j->rank, j->dim, z, x);
    else memcpy(x, z, j->rank * sizeof *x);
    return SKV_OK;
}

SKVDEF skv_result skv_jarvis_dot(const skv_jarvis *j, const void *row, const float *turned,
                                 float *dot)
{
    float y[SKV_MAX_HEAD_DIM];
    skv_result r;
    if (!skvi_jarvis_valid(j) || !row || !turned || !dot) return SKV_ERR_ARG;
    r = skvi_jarvis_levels(j, (const unsigned char *)row, y);
    if (r == SKV_OK) *dot = skvi_dot_c(y, turned, j->rank);
    return r;
}

/* SVDq ---------------------------------------------------------------------------------------- */
SKVDEF skv_result skv_svdq_schedule(const char *word, uint8_t schedule[8])
{
    static const char *const names[3][2] = {
        {"2.25", "84420000"}, {"2", "84211000"}, {"1.25", "44200000"}
    };
    int i;
    if (!word || !schedule) return SKV_ERR_ARG;
    for (i = 0; i < 3; i++)
        if (!strcmp(word, names[i][0])) {
            word = names[i][1];
            break;
        }
    for (i = 0; i < 8; i++)
        if (word[i] < '0' || word[i] > '8') return SKV_ERR_ARG;
    if (word[8]) return SKV_ERR_ARG;
    for (i = 0; i < 8; i++) schedule[i] = (uint8_t)(word[i] - '0');
    return SKV_OK;
}

SKVDEF skv_result skv_svdq_bits(const uint8_t schedule[8], size_t n, uint8_t *bits)
{
    size_t i;
    if (!schedule || !bits || n > ((size_t)-1) / 8) return SKV_ERR_ARG;
    for (i = 0; i < n; i++) bits[i] = schedule[8 * i / n];
    return SKV_OK;
}

/* >>report ------------------------------------------------------------------------------------
   The cache beside exact attention. One task per KV head, each with sums of its own. */
typedef struct skvi_report_sum {
    double scores, square, far;     /* tokens in pages; errors of their scores: squares, largest */
    double bound, mass, mass_max, kl, kl_max;
    double error, norm, ratio, ratio_max;       /* |o - o^|^2, |o|^2, |o - o^| / |o| */
} skvi_report_sum;

typedef struct skvi_report_job {
    skv_cache       *c;
    const skv_layer *shape;
    uint32_t         layer;
    skvi_tokens      q, k, v;
    size_t           n, pos;        /* tokens; position of the query at hand */
    size_t           from;          /* first visible token */
    size_t           paged[2];      /* first and behind last visible token in a page */
    float           *score, *row;   /* [n_q][pos + 1] of the cache; its output [n_q][dv] */
    double          *exact, *o;     /* [n_q][n], [n_q][dv] */
    float           *query;         /* [n_q][d] */
    float           *k_row, *v_row; /* [n_kv][d], [n_kv][dv]: one token from the cache */
    double          *diff;          /* [largest D] */
    double          *latent;        /* [2][groups]: mean squared latent errors */
    skvi_report_sum *sum;           /* [n_q] */
} skvi_report_job;

static void skvi_report_layout(skvi_arena *a, skvi_report_job *j)
{
    const skv_layer *l = j->shape;
    size_t nq = l->n_q_heads, nk = l->n_kv_heads, d = l->head_dim, dv = l->head_dim_v;
    j->score = (float *)skvi_take(a, nq * j->n, sizeof(float));
    j->exact = (double *)skvi_take(a, nq * j->n, sizeof(double));
    j->row = (float *)skvi_take(a, nq * dv, sizeof(float));
    j->o = (double *)skvi_take(a, nq * dv, sizeof(double));
    j->query = (float *)skvi_take(a, nq * d, sizeof(float));
    j->k_row = (float *)skvi_take(a, nk * d, sizeof(float));
    j->v_row = (float *)skvi_take(a, nk * dv, sizeof(float));
    j->diff = (double *)skvi_take(a, nk * (d > dv ? d : dv), sizeof(double));
    j->latent = (double *)skvi_take(a, 2 * nk, sizeof(double));
    j->sum = (skvi_report_sum *)skvi_take(a, nq, sizeof *j->sum);
    (void)skvi_take(a, 0, 1);
}

/* Exact scores of the query heads of one KV head, from the caller's own K. */
static void skvi_report_scores(const skvi_report_job *j, size_t kv, size_t group)
{
    float key[SKV_MAX_HEAD_DIM];
    size_t t, h, i, d = j->shape->head_dim;
    for (t = j->from; t <= j->pos; t++) {
        skvi_load(&j->k, t, kv, key);
        for (h = kv * group; h < (kv + 1) * group; h++) {
            const float *q = j->query + h * d;
            double s = 0;
            for (i = 0; i < d; i++) s += (double)q[i] * (double)key[i];
            j->exact[h * j->n + t] = s * (double)j->shape->scale;
        }
    }
}

static double skvi_report_capped(const skvi_report_job *j, double s)
{
    double cap = (double)j->shape->softcap;
    return cap > 0 ? cap * tanh(s / cap) : s;
}

/* Score errors, KL and page mass of one head; exact scores become weights. */
static void skvi_report_weights(const skvi_report_job *j, size_t h)
{
    const float *got = j->score + h * (j->pos + 1);
    double *want = j->exact + h * j->n, top[2] = {-INFINITY, -INFINITY}, lse[2] = {0, 0};
    double kl = 0, mass = 0, a, b;
    skvi_report_sum *sum = &j->sum[h];
    size_t t;
    for (t = j->paged[0]; t < j->paged[1]; t++) {
        double e = fabs(want[t] - (double)got[t]);
        sum->square += e * e;
        if (e > sum->far) sum->far = e;
    }
    sum->scores += (double)(j->paged[1] - j->paged[0]);
    for (t = j->from; t <= j->pos; t++) {
        want[t] = skvi_report_capped(j, want[t]);
        b = skvi_report_capped(j, (double)got[t]);
        if (want[t] > top[0]) top[0] = want[t];
        if (b > top[1]) top[1] = b;
    }
    for (t = j->from; t <= j->pos; t++) {
        lse[0] += exp(want[t] - top[0]);
        lse[1] += exp(skvi_report_capped(j, (double)got[t]) - top[1]);
    }
    for (t = j->from; t <= j->pos; t++) {
        a = want[t] - top[0] - log(lse[0]);
        b = skvi_report_capped(j, (double)got[t]) - top[1] - log(lse[1]);
        want[t] = exp(a);
        kl += want[t] * (a - b);
        if (t >= j->paged[0] && t < j->paged[1]) mass += want[t];
    }
    if (kl < 0) kl = 0;                     /* rounding */
    sum->kl += kl;
    sum->mass += mass;
    if (kl > sum->kl_max) sum->kl_max = kl;
    if (mass > sum->mass_max) sum->mass_max = mass;
}

static void skvi_report_outputs(const skvi_report_job *j, size_t kv, size_t group)
{
    float value[SKV_MAX_HEAD_DIM];
    size_t t, h, i, dv = j->shape->head_dim_v;
    memset(j->o + kv * group * dv, 0, group * dv * sizeof(double));
    for (t = j->from; t <= j->pos; t++) {
        skvi_load(&j->v, t, kv, value);
        for (h = kv * group; h < (kv + 1) * group; h++) {
            double p = j->exact[h * j->n + t], *o = j->o + h * dv;
            for (i = 0; i < dv; i++) o[i] += p * (double)value[i];
        }
    }
    for (h = kv * group; h < (kv + 1) * group; h++) {
        skvi_report_sum *sum = &j->sum[h];
        double error = 0, norm = 0, ratio;
        for (i = 0; i < dv; i++) {
            double o = j->o[h * dv + i], e = o - (double)j->row[h * dv + i];
            error += e * e;
            norm += o * o;
        }
        ratio = norm > 0 ? sqrt(error / norm) : error > 0 ? 1 : 0;
        sum->error += error;
        sum->norm += norm;
        sum->ratio += ratio;
        if (ratio > sum->ratio_max) sum->ratio_max = ratio;
    }
}

static void skvi_report_task(void *arg, size_t kv)
{
    const skvi_report_job *j = (const skvi_report_job *)arg;
    size_t group = j->shape->n_q_heads / j->shape->n_kv_heads, h;
    double bound = (double)j->c->report[SKVI_REPORT * (kv / skvi_cache_head_group(j->c))];
    for (h = kv * group; h < (kv + 1) * group; h++) {
        skvi_load(&j->q, j->pos, h, j->query + h * j->shape->head_dim);
        if (bound > j->sum[h].bound) j->sum[h].bound = bound;
    }
    skvi_report_scores(j, kv, group);
    for (h = kv * group; h < (kv + 1) * group; h++) skvi_report_weights(j, h);
    skvi_report_outputs(j, kv, group);
}

/* Which tokens of the layer are in pages now, of those that the caller may see. */
static void skvi_report_paged(skvi_report_job *j, const skv_attn *a)
{
    size_t total = j->pos + 1, sinks = j->c->sinks < total ? j->c->sinks : total;
    size_t w = j->shape->sliding_window;
    j->from = w && total > w ? total - w : 0;
    j->paged[1] = total - (a->tokens_exact - sinks);
    j->paged[0] = j->paged[1] - a->tokens_paged;
    if (j->paged[0] < j->from) j->paged[0] = j->from;
    if (j->paged[1] < j->paged[0]) j->paged[1] = j->paged[0];
}

/* Tokens up to `to` go in, the last one by itself, then that one's query through both. */
static skv_result skvi_report_query(skvi_report_job *j, const skv_report_desc *d,
                                    const skv_span *q, const skv_span *k, const skv_span *v)
{
    const skv_layer *l = j->shape;
    size_t at = skv_cache_tokens(j->c, j->layer), n;
    skv_attn attn = SKV_ZERO;
    skv_out out = skv_out_f32(j->row);
    skv_span s = skvi_span_later(q, l->n_q_heads, l->head_dim, j->pos);
    skv_result r = SKV_OK;
    for (; r == SKV_OK && at <= j->pos; at += n) {
        skv_span kk = skvi_span_later(k, l->n_kv_heads, l->head_dim, at);
        skv_span vv = skvi_span_later(v, l->n_kv_heads, l->head_dim_v, at);
        n = at < j->pos ? j->pos - at : 1;
        r = skv_append(j->c, j->layer, &kk, &vv, n);
    }
    if (r == SKV_OK) r = skv_scores(j->c, j->layer, &s, j->score);
    if (r == SKV_OK) r = skv_attend(j->c, j->layer, &s, 1, &out, &attn);
    if (r != SKV_OK) return r;
    for (n = 0; j->c->latent && n < l->n_q_heads; n++)
        skvi_value_back(j->c, j->layer, n / (l->n_q_heads / l->n_kv_heads),
                        j->row + n * l->head_dim_v);
    skvi_report_paged(j, &attn);
    skvi_run(&d->parallel, l->n_kv_heads, skvi_report_task, j);
    return SKV_OK;
}

/* |z - z^|^2 of one token in one head group's latent. */
static double skvi_report_latent(const skvi_report_job *j, int kind, uint32_t g, size_t token,
                                 const float *row)
{
    const skvi_tokens *x = kind ? &j->v : &j->k;
    size_t first = (size_t)g * skvi_cache_head_group(j->c), h, i, c;
    const skvi_stream *s = skvi_stream_at(j->c->coder.profile, j->layer, kind, g);
    float value[SKV_MAX_HEAD_DIM];
    double sum = 0;
    for (h = 0; h < s->heads; h++) {
        skvi_load(x, token, first + h, value);
        for (i = 0; i < x->dim; i++)
            j->diff[h * x->dim + i] = (double)value[i] - (double)row[(first + h) * x->dim + i];
    }
    for (c = 0; c < s->D; c++) {
        double u = 0;
        for (i = 0; i < s->D; i++) u += (double)s->enc[c * s->D + i] * j->diff[i];
        sum += u * u * (double)s->var[c];
    }
    return sum;
}

/* Mean squared latent errors over at most 256 tokens of the pages. */
static skv_result skvi_report_latents(skvi_report_job *j)
{
    uint32_t groups = skvi_groups(j->shape, skvi_cache_head_group(j->c)), g;
    size_t n = j->paged[1] - j->paged[0], m = n < 256 ? n : 256, i;
    int kind;
    skv_result r;
    for (i = 0; i < m; i++) {
        size_t token = j->paged[0] + i * n / m;
        r = skv_reconstruct(j->c, j->layer, token, 1, j->k_row, j->v_row);
        if (r != SKV_OK) return r;
        for (kind = 0; kind < 2; kind++)
            for (g = 0; g < groups; g++)
                j->latent[(size_t)kind * groups + g] +=
                    skvi_report_latent(j, kind, g, token, kind ? j->v_row : j->k_row) / (double)m;
    }
    return SKV_OK;
}

static double skvi_report_badness(const skv_head_report *h)
{
    double kl = h->kl_mean / SKV_SAFE_KL, out = h->output_rms / SKV_SAFE_OUTPUT;
    return kl > out ? kl : out;
}

static skv_verdict skvi_report_judge(double kl, double output)
{
    if (kl <= SKV_SAFE_KL && output <= SKV_SAFE_OUTPUT) return SKV_SAFE;
    if (kl <= SKV_UNSAFE_KL && output <= SKV_UNSAFE_OUTPUT) return SKV_DOUBTFUL;
    return SKV_UNSAFE;                      /* what is no number, too */
}

static void skvi_report_head(const skvi_report_sum *s, double queries, skv_head_report *h)
{
    memset(h, 0, sizeof *h);
    h->score_rms = s->scores > 0 ? sqrt(s->square / s->scores) : 0;
    h->score_max = s->far;
    h->score_bound = s->bound;
    h->page_mass = s->mass / queries;
    h->page_mass_max = s->mass_max;
    h->kl_mean = s->kl / queries;
    h->kl_max = s->kl_max;
    h->output_rms = s->norm > 0 ? sqrt(s->error / s->norm) : s->error > 0 ? 1 : 0;
    h->output_mean = s->ratio / queries;
    h->output_max = s->ratio_max;
    h->output_square = s->error / queries;
}

static void skvi_report_add(skvi_report_sum *to, const skvi_report_sum *s)
{
    to->scores += s->scores;
    to->square += s->square;
    to->mass += s->mass;
    to->kl += s->kl;
    to->error += s->error;
    to->norm += s->norm;
    to->ratio += s->ratio;
    if (s->far > to->far) to->far = s->far;
    if (s->bound > to->bound) to->bound = s->bound;
    if (s->mass_max > to->mass_max) to->mass_max = s->mass_max;
    if (s->kl_max > to->kl_max) to->kl_max = s->kl_max;
    if (s->ratio_max > to->ratio_max) to->ratio_max = s->ratio_max;
}

/* Sums into means, for every head and for the layer. */
static void skvi_report_finish(const skvi_report_job *j, uint32_t queries, skv_layer_report *out,
                               skv_head_report *heads)
{
    const skv_layer *l = j->shape;
    uint32_t G = skvi_cache_head_group(j->c), groups = skvi_groups(l, G), h, g, kind;
    const skv_profile *p = j->c->coder.profile;
    skvi_report_sum all;
    skv_head_report one;
    double worst = -1;
    memset(&all, 0, sizeof all);
    for (h = 0; h < l->n_q_heads; h++) skvi_report_add(&all, &j->sum[h]);
    skvi_report_head(&all, (double)queries * l->n_q_heads, &out->all);
    out->all.output_square *= l->n_q_heads;
    for (h = 0; h < l->n_q_heads; h++) {
        uint32_t group = h / (l->n_q_heads / l->n_kv_heads) / G;
        skvi_report_head(&j->sum[h], queries, &one);
        for (kind = 0; kind < 2; kind++) {
            const skvi_stream *s = skvi_stream_at(p, j->layer, (int)kind, group);
            one.expected[kind] = j->c->coder.plan[s - p->stream].error;
            one.measured[kind] = j->latent[kind * groups + group];
        }
        one.verdict = skvi_report_judge(one.kl_mean, one.output_rms);
        if (!(skvi_report_badness(&one) <= worst)) {
            worst = skvi_report_badness(&one);
            out->worst_head = h;
        }
        if (heads) heads[h] = one;
    }
    for (kind = 0; kind < 2; kind++)
        for (g = 0; g < groups; g++) {
            const skvi_stream *s = skvi_stream_at(p, j->layer, (int)kind, g);
            out->all.expected[kind] += j->c->coder.plan[s - p->stream].error;
            out->all.measured[kind] += j->latent[kind * groups + g];
        }
    out->all.verdict = skvi_report_judge(out->all.kl_mean, out->all.output_rms);
}

/* All queries, evenly spread from the first that can see a page to the last. */
static skv_result skvi_report_run(skvi_report_job *j, const skv_report_desc *d, const skv_span *q,
                                  const skv_span *k, const skv_span *v, skv_layer_report *out,
                                  skv_head_report *heads)
{
    size_t first = (size_t)j->c->sinks + j->c->window + SKV_PAGE_TOKENS, span, m, i;
    skv_usage use;
    skv_layer_report whole;
    skv_result r = SKV_OK;
    if (!j->c->coder.profile || j->n <= first) return SKV_ERR_STATE;
    span = j->n - first;
    m = d->max_queries ? d->max_queries : 64;
    if (m > span) m = span;
    for (i = 0; i < m && r == SKV_OK; i++) {
        j->pos = first + (size_t)((uint64_t)(i + 1) * span / m) - 1;
        r = skvi_report_query(j, d, q, k, v);
    }
    if (r == SKV_OK) r = skvi_report_latents(j);
    if (r == SKV_OK) r = skv_cache_usage(j->c, &use);
    if (r != SKV_OK) return r;
    memset(&whole, 0, sizeof whole);
    whole.layer = j->layer;
    whole.n_heads = j->shape->n_q_heads;
    whole.n_queries = (uint32_t)m;
    whole.tokens = j->n;
    whole.tokens_paged = use.page_elements / ((size_t)j->shape->n_kv_heads *
                                              (j->shape->head_dim + j->shape->head_dim_v));
    whole.page_bytes = use.page_bytes;
    whole.page_elements = use.page_elements;
    whole.bpe_pages = use.bpe_pages;
    skvi_report_finish(j, (uint32_t)m, &whole, heads);
    *out = whole;
    return SKV_OK;
}

/* The caller's cache, or one with the description's settings. */
static skv_result skvi_report_cache(const skv_report_desc *desc, size_t n, skv_cache **c)
{
    skv_cache_desc d = SKV_ZERO;
    *c = desc->cache;
    if (*c) {
        if (n > (*c)->max_tokens) return SKV_ERR_FULL;
        skv_cache_reset(*c);
        return SKV_OK;
    }
    if (!desc->profile || n > (1u << 30)) return SKV_ERR_ARG;
    d.profile = desc->profile;
    d.target = desc->target;
    d.max_tokens = (uint32_t)n;
    d.sinks = desc->sinks;
    d.window = desc->window;
    d.exact_bits = desc->exact_bits;
    d.attend_bits = desc->attend_bits;
    d.outliers = desc->outliers;
    d.allocator = desc->allocator;
    d.parallel = desc->parallel;
    return skv_cache_init(c, &d);
}

SKVDEF skv_result skv_report(const skv_report_desc *desc, uint32_t layer, const skv_span *q,
                             const skv_span *k, const skv_span *v, size_t n_tokens,
                             skv_layer_report *out, skv_head_report *heads)
{
    skvi_report_job j;
    skvi_arena a = {NULL, 0, 0};
    skv_allocator alloc;
    void *block = NULL;
    size_t bytes = 0;
    skv_result r;
    if (!desc || !out || !n_tokens) return SKV_ERR_ARG;
    r = skvi_pick_allocator(&desc->allocator, &alloc);
    memset(&j, 0, sizeof j);
    if (r == SKV_OK) r = skvi_report_cache(desc, n_tokens, &j.c);
    if (r != SKV_OK) return r;
    j.layer = layer;
    j.n = n_tokens;
    if (layer >= j.c->model.n_layers) r = SKV_ERR_ARG;
    if (r == SKV_OK) {
        j.shape = &j.c->layers[layer];
        r = skvi_open(&j.q, q, j.shape->n_q_heads, j.shape->head_dim);
        if (r == SKV_OK) r = skvi_open(&j.k, k, j.shape->n_kv_heads, j.shape->head_dim);
        if (r == SKV_OK) r = skvi_open(&j.v, v, j.shape->n_kv_heads, j.shape->head_dim_v);
    }
    if (r == SKV_OK) {
        skvi_report_layout(&a, &j);
        r = skvi_arena_block(&a, &alloc, &block, &bytes);
    }
    if (block) {
        skvi_report_layout(&a, &j);
        r = skvi_report_run(&j, desc, q, k, v, out, heads);
        alloc.free(alloc.user, block, bytes);
    }
    if (desc->cache) skv_cache_reset(desc->cache);
    else skv_cache_free(j.c);
    return r;
}

SKVDEF skv_verdict skv_report_verdict(const skv_layer_report *layers, size_t n_layers)
{
    double kl = 0, output = 0;
    size_t i;
    if (!layers || !n_layers) return SKV_UNSAFE;
    for (i = 0; i < n_layers; i++) {
        kl += layers[i].all.kl_mean / (double)n_layers;
        output += layers[i].all.output_rms / (double)n_layers;
    }
    return skvi_report_judge(kl, output);
}

SKVDEF const char *skv_verdict_name(skv_verdict v)
{
    return v == SKV_SAFE ? "safe" : v == SKV_DOUBTFUL ? "doubtful" : "unsafe";
}

#ifndef SKV_NO_STDIO
/* measured / expected, or 1 where nothing was expected and nothing found */
static double skvi_report_drift(const skv_head_report *h, int kind)
{
    if (h->expected[kind] > 0) return h->measured[kind] / h->expected[kind];
    return h->measured[kind] > 0 ? INFINITY : 1;
}

static void skvi_report_line(skvi_text *t, const skv_layer_report *r)
{
    const skv_head_report *a = &r->all;
    skvi_say(t, "%5u %6.3f %6.3f %9.4f %8.3f %9.3f %9.5f %8.4f %8.4f %8.3f %7.2f %6.2f  %s\n",
             (unsigned)r->layer, r->bpe_pages, a->page_mass, a->score_rms, a->score_max,
             a->score_bound, a->kl_mean, a->kl_max, a->output_rms, a->output_max,
             skvi_report_drift(a, 0), skvi_report_drift(a, 1), skv_verdict_name(a->verdict));
}

static const char *skvi_report_advice(skv_verdict v, double drift)
{
    if (v == SKV_SAFE) return "Safe on this data; the next token (skv-llm judge) decides.";
    if (drift > 3) return "Not safe: calibrate on data like this, which pages hold far worse than "
                          "was planned.";
    if (v == SKV_DOUBTFUL) return "Doubtful: give more bits, or see what the next token loses.";
    return "Unsafe: give more bits, or calibrate again.";
}

SKVDEF skv_result skv_report_text(const skv_layer_report *layers, size_t n_layers, char *text,
                                  size_t capacity, size_t *bytes)
{
    size_t i, worst = 0, page_bytes = 0, elements = 0;
    double drift[2] = {0, 0}, kl = 0, output = 0, n = (double)n_layers;
    skvi_text t;
    int kind;
    if (!layers || !n_layers || (!text && capacity)) return SKV_ERR_ARG;
    t.p = text;
    t.cap = capacity;
    t.len = 0;
    skvi_say(&t, "layer   bits   mass score rms  largest certified   KL mean   KL max  out rms  "
                 "largest  plan K plan V  verdict\n");
    for (i = 0; i < n_layers; i++) {
        skvi_report_line(&t, &layers[i]);
        if (skvi_report_badness(&layers[i].all) > skvi_report_badness(&layers[worst].all))
            worst = i;
        page_bytes += layers[i].page_bytes;
        elements += layers[i].page_elements;
        kl += layers[i].all.kl_mean / n;
        output += layers[i].all.output_rms / n;
        for (kind = 0; kind < 2; kind++) drift[kind] += skvi_report_drift(&layers[i].all, kind) / n;
    }
    skvi_say(&t, "%5s %6.3f %35s %9.5f %8s %8.4f %8s %7.2f %6.2f  %s\n", "mean",
             elements ? 8 * (double)page_bytes / (double)elements : 0, "", kl, "", output, "",
             drift[0], drift[1], skv_verdict_name(skv_report_verdict(layers, n_layers)));
    skvi_say(&t, "mass: share of attention on tokens in pages. KL: of its weights, nats. out: "
                 "error of its\noutput / its size. plan: squared latent error found / planned. "
                 "Worst: layer %u, head %u.\n",
             (unsigned)layers[worst].layer, (unsigned)layers[worst].worst_head);
    skvi_say(&t, "%s\n", skvi_report_advice(skv_report_verdict(layers, n_layers),
                                            drift[0] > drift[1] ? drift[0] : drift[1]));
    if (bytes) *bytes = t.len + 1;
    return t.len < capacity ? SKV_OK : SKV_ERR_ARG;
}
#endif

/* >>cold -------------------------------------------------------------------------------------- */
/* An adaptive binary range coder (Martin 1979; carry as in LZMA) in integers: what the encoder's
   machine assumed, the decoder's assumes. A probability is of a 1 bit, of 65536. */
typedef struct skvi_rangecoder {
    unsigned char *out;             /* encode */
    const unsigned char *in;        /* decode */
    size_t   at, end;               /* decode: bytes behind the end read as 0, and are counted */
    uint64_t low;
    uint32_t range, code, cache, pending;
    int      full;                  /* encode: out was too small */
} skvi_rangecoder;

typedef struct skvi_bit {
    uint16_t p;
    uint16_t seen;
} skvi_bit;

#define SKVI_BIT_SEEN 255u
static void skvi_bit_learn(skvi_bit *b, uint32_t bit)
{
    uint32_t rate = b->seen < 8 ? 5 : b->seen < 48 ? 6 : 7, p = b->p;
    b->p = (uint16_t)(bit ? p + ((65536u - p) >> rate) : p - (p >> rate));
    if (b->p < 32) b->p = 32;
    b->seen = (uint16_t)(b->seen + (b->seen < SKVI_BIT_SEEN));
}

static void skvi_rc_put(skvi_rangecoder *r, uint32_t byte)
{
    if (r->at < r->end) r->out[r->at++] = (unsigned char)byte;
    else r->full = 1;
}

static void skvi_rc_shift(skvi_rangecoder *r)
{
    uint32_t carry = (uint32_t)(r->low >> 32);
    if ((uint32_t)r->low < 0xFF000000u || carry) {
        if (r->cache < 256) skvi_rc_put(r, (r->cache + carry) & 255u);  /* 256: nothing yet */
        for (; r->pending; r->pending--) skvi_rc_put(r, (255u + carry) & 255u);
        r->cache = (uint32_t)(r->low >> 24) & 255u;
    } else {
        r->pending++;
    }
    r->low = (r->low & 0xFFFFFFu) << 8;
}

static void skvi_rc_encode_begin(skvi_rangecoder *r, unsigned char *out, size_t capacity)
{
    memset(r, 0, sizeof *r);
    r->out = out;
    r->end = capacity;
    r->range = 0xFFFFFFFFu;
    r->cache = 256;
}

static void skvi_rc_encode(skvi_rangecoder *r, skvi_bit *b, uint32_t bit)
{
    uint32_t one = (r->range >> 16) * b->p;
    if (bit) {
        r->range = one;
    } else {
        r->low += one;
        r->range -= one;
    }
    skvi_bit_learn(b, bit);
    while (r->range < 1u << 24) {
        r->range <<= 8;
        skvi_rc_shift(r);
    }
}

/* n <= 16 bits, each as likely as not. */
static void skvi_rc_encode_raw(skvi_rangecoder *r, uint32_t bits, uint32_t n)
{
    r->range >>= n;
    r->low += (uint64_t)r->range * bits;
    while (r->range < 1u << 24) {
        r->range <<= 8;
        skvi_rc_shift(r);
    }
}

static size_t skvi_rc_encode_end(skvi_rangecoder *r)
{
    int i;
    for (i = 0; i < 5; i++) skvi_rc_shift(r);
    while (r->at && !r->full && !r->out[r->at - 1]) r->at--;    /* zeros are what is read anyway */
    return r->at;
}

static uint32_t skvi_rc_byte(skvi_rangecoder *r)
{
    uint32_t x = r->at < r->end ? r->in[r->at] : 0;
    r->at++;
    return x;
}

static void skvi_rc_decode_begin(skvi_rangecoder *r, const unsigned char *in, size_t bytes)
{
    int i;
    memset(r, 0, sizeof *r);
    r->in = in;
    r->end = bytes;
    r->range = 0xFFFFFFFFu;
    for (i = 0; i < 4; i++) r->code = r->code << 8 | skvi_rc_byte(r);
}

static void skvi_rc_refill(skvi_rangecoder *r)
{
    while (r->range < 1u << 24) {
        r->range <<= 8;
        r->code = r->code << 8 | skvi_rc_byte(r);
    }
}

static uint32_t skvi_rc_decode(skvi_rangecoder *r, skvi_bit *b)
{
    uint32_t one = (r->range >> 16) * b->p, bit = r->code < one;
    if (bit) {
        r->range = one;
    } else {
        r->code -= one;
        r->range -= one;
    }
    skvi_bit_learn(b, bit);
    skvi_rc_refill(r);
    return bit;
}

static uint32_t skvi_rc_decode_raw(skvi_rangecoder *r, uint32_t n)
{
    uint32_t x;
    r->range >>= n;
    x = r->code / r->range;
    if (x >> n) x = (1u << n) - 1;              /* only in damaged data */
    r->code -= x * r->range;
    skvi_rc_refill(r);
    return x;
}

/* The model of the integers. Magnitudes of a channel follow an average over its past tokens, that
   starts from what the variance lets expect; a token's gain, magnitudes of its channels so far over
   those averages, multiplies it. The forecast, in steps of a quarter octave, picks the states with
   which |q| is coded in unary; then the sign. Large forecasts code the low bits apart, evenly. */
#define SKVI_COLD_BINS 52
#define SKVI_COLD_UNARY 14u
#define SKVI_COLD_LARGEST 32767
typedef struct skvi_coldmodel {
    skvi_bit  more[SKVI_COLD_BINS][SKVI_COLD_UNARY];
    uint32_t *mean;                 /* [coded] average magnitude, times 65536 */
    uint32_t  sum, expected;        /* of the token's channels so far, fading */
    uint32_t  low, bin;             /* of the coefficient at hand */
} skvi_coldmodel;

/* 64 log2(x), linear between powers of two; x > 0. */
static int32_t skvi_log64(uint32_t x)
{
    int32_t e;
#ifdef __GNUC__
    e = 31 - __builtin_clz(x);
#else
    for (e = 31; !(x >> e); e--) continue;
#endif
    return e * 64 + (int32_t)((x << (31 - e)) >> 25 & 63u);
}

/* P(|q| > i | |q| >= i), of 256, for i = 0, 1, 2 and beyond, by bin; and the average |q|, times
   65536, by eighths of an octave of sd / step above 1/16. From calibration texts of SmolLM2. */
static const unsigned char skvi_cold_table[SKVI_COLD_BINS][4] = {
    {1, 1, 39, 51}, {1, 2, 39, 51}, {1, 2, 39, 51}, {1, 1, 39, 51},
    {1, 1, 39, 52}, {1, 1, 39, 52}, {1, 1, 39, 52}, {1, 1, 39, 52},
    {1, 1, 39, 52}, {1, 1, 39, 52}, {2, 1, 39, 52}, {2, 1, 40, 52},
    {2, 1, 40, 52}, {3, 1, 40, 53}, {3, 1, 40, 53}, {3, 1, 41, 53},
    {4, 1, 41, 54}, {5, 1, 42, 54}, {6, 1, 41, 55}, {6, 1, 42, 55},
    {8, 1, 40, 56}, {10, 1, 44, 57}, {12, 1, 38, 58}, {13, 1, 36, 59},
    {16, 1, 31, 61}, {21, 1, 22, 63}, {24, 1, 14, 65}, {28, 1, 9, 67},
    {35, 1, 5, 69}, {43, 1, 3, 66}, {51, 2, 2, 66}, {59, 3, 2, 57},
    {71, 5, 2, 29}, {84, 9, 4, 17}, {98, 16, 6, 9}, {112, 25, 11, 9},
    {127, 37, 18, 14}, {142, 54, 30, 20}, {156, 72, 45, 33}, {168, 91, 63, 46},
    {180, 112, 84, 64}, {191, 132, 108, 85}, {201, 150, 130, 107}, {209, 165, 149, 126},
    {208, 177, 163, 143}, {216, 190, 180, 160}, {222, 201, 193, 175}, {228, 209, 204, 188},
    {231, 181, 189, 192}, {233, 187, 194, 197}, {235, 191, 199, 201}, {236, 196, 203, 205}
};
static const uint32_t skvi_cold_mean[56] = {
    1, 1, 1, 1, 2, 6, 12, 31,
    68, 120, 233, 406, 684, 1116, 1716, 2594,
    3632, 5077, 6577, 8638, 10724, 12978, 15392, 18096,
    21055, 24161, 27104, 30886, 34739, 38720, 43136, 48069,
    53332, 59297, 65249, 71805, 79219, 86791, 95264, 104306,
    114610, 126194, 139492, 153391, 167927, 184256, 200133, 217235,
    237948, 258569, 283377, 309648, 340565, 373249, 406109, 446870
};
/* bits of a coefficient there, times 1000, in texts that the fit has not seen */
static const uint16_t skvi_cold_bits[56] = {
    3, 3, 3, 3, 3, 4, 5, 8, 13, 21, 37, 60, 94, 140,
    199, 275, 358, 462, 561, 682, 795, 907, 1019, 1134, 1252, 1368, 1474, 1599,
    1719, 1836, 1956, 2084, 2207, 2340, 2461, 2583, 2710, 2834, 2961, 3086, 3218, 3351,
    3490, 3623, 3750, 3884, 4001, 4123, 4253, 4376, 4512, 4636, 4767, 4895, 5018, 5145
};

static void skvi_cold_start(skvi_coldmodel *m)
{
    uint32_t b, i;
    for (b = 0; b < SKVI_COLD_BINS; b++)
        for (i = 0; i < SKVI_COLD_UNARY; i++) {
            m->more[b][i].p = (uint16_t)(skvi_cold_table[b][i < 3 ? i : 3] * 256u);
            m->more[b][i].seen = 0;
        }
}

/* Averages of a stream's channels before its first token. level = 64 log2(sd / step). */
static void skvi_cold_expect(skvi_coldmodel *m, const int32_t *level, uint32_t coded)
{
    uint32_t c;
    for (c = 0; c < coded; c++) {
        int32_t l = (level[c] + 256) >> 3;      /* eighths of an octave above 1/16 */
        if (l < 0) l = 0;
        if (l > 119) l = 119;                   /* up to 2^27 */
        m->mean[c] = l < 56 ? skvi_cold_mean[l] : skvi_cold_mean[48 + (l & 7)] << ((l - 48) >> 3);
    }
}

#define SKVI_COLD_GAIN 24
#define SKVI_COLD_PRIOR 262144u
#define SKVI_COLD_FADE 6
static void skvi_cold_forecast(skvi_coldmodel *m, uint32_t c)
{
    int32_t f = skvi_log64(m->sum + SKVI_COLD_PRIOR) - skvi_log64(m->expected + SKVI_COLD_PRIOR);
    int32_t bin;
    f = skvi_log64(m->mean[c]) + f * SKVI_COLD_GAIN / 32 - 1024;
    m->low = f >= 128 ? (uint32_t)(f - 64) >> 6 : 0;
    if (m->low > 12) m->low = 12;
    bin = (f - (int32_t)m->low * 64 + 640) >> 4;        /* 2^-10 to 2^3 */
    m->bin = (uint32_t)(bin < 0 ? 0 : bin < SKVI_COLD_BINS ? bin : SKVI_COLD_BINS - 1);
}

static void skvi_cold_learn(skvi_coldmodel *m, uint32_t c, uint32_t a)
{
    uint32_t mean = m->mean[c], x = a < 2048 ? a << 16 : 2048u << 16;
    m->sum += x - (m->sum >> 4);
    m->expected += mean - (m->expected >> 4);
    m->mean[c] = mean + (x >> SKVI_COLD_FADE) - (mean >> SKVI_COLD_FADE);
    if (!m->mean[c]) m->mean[c] = 1;
}

/* What unary does not reach: x < 65536 as the number of its bits, and those below the first. */
static void skvi_cold_encode_rest(skvi_rangecoder *r, uint32_t x)
{
    uint32_t n = x ? (uint32_t)skvi_log64(x) / 64 + 1 : 0;
    skvi_rc_encode_raw(r, n, 5);
    if (n > 1) skvi_rc_encode_raw(r, x & ((1u << (n - 1)) - 1), n - 1);
}

static uint32_t skvi_cold_decode_rest(skvi_rangecoder *r)
{
    uint32_t n = skvi_rc_decode_raw(r, 5);
    if (n > 16) n = 16;                         /* only in damaged data */
    if (n < 2) return n;
    return 1u << (n - 1) | skvi_rc_decode_raw(r, n - 1);
}

static void skvi_cold_encode_one(skvi_rangecoder *r, skvi_coldmodel *m, uint32_t c, int32_t q)
{
    uint32_t a = (uint32_t)(q < 0 ? -q : q), high, i;
    skvi_cold_forecast(m, c);
    high = a >> m->low;
    for (i = 0; i < SKVI_COLD_UNARY; i++) {
        skvi_rc_encode(r, &m->more[m->bin][i], high > i);
        if (high <= i) break;
    }
    if (i == SKVI_COLD_UNARY) skvi_cold_encode_rest(r, high - i);
    if (m->low) skvi_rc_encode_raw(r, a & ((1u << m->low) - 1), m->low);
    if (a) skvi_rc_encode_raw(r, q < 0, 1);
    skvi_cold_learn(m, c, a);
}

static int32_t skvi_cold_decode_one(skvi_rangecoder *r, skvi_coldmodel *m, uint32_t c)
{
    uint32_t a = 0;
    skvi_cold_forecast(m, c);
    while (a < SKVI_COLD_UNARY && skvi_rc_decode(r, &m->more[m->bin][a])) a++;
    if (a == SKVI_COLD_UNARY) a += skvi_cold_decode_rest(r);
    a <<= m->low;
    if (m->low) a |= skvi_rc_decode_raw(r, m->low);
    if (a > SKVI_COLD_LARGEST) a = SKVI_COLD_LARGEST;   /* only in damaged data */
    skvi_cold_learn(m, c, a);
    if (!a) return 0;
    return skvi_rc_decode_raw(r, 1) ? -(int32_t)a : (int32_t)a;
}

#define SKVI_COLD_DEPTH 4u
#define SKVI_COLD_HEADER 20u
#define SKVI_COLD_VERSION 1u
#define SKVI_COLD_CUT 256           /* channels with a sd 4 octaves below the step are left out */
/* Rounding is up from .58, since zeros are cheap. Values that become 1 have a mean of 1 - ONE,
   those that become a larger q of q - MORE (calibration texts of SmolLM2). */
#define SKVI_COLD_ROUND 0.42f
#define SKVI_COLD_ONE 0.045f
#define SKVI_COLD_MORE -0.02f

/* The pairs of a row turned by their angles at a position, or back. */
static void skvi_cold_turn(const skvi_turn *r, double position, int back, float *x)
{
    size_t i, far = skvi_turn_apart(r);
    for (i = 0; i < r->pairs; i++) {
        double angle = position * (double)r->freq[i];
        float c = (float)cos(angle), s = (float)sin(angle), *a = x + skvi_turn_at(r, i), y = a[0];
        if (back) s = -s;
        a[0] = y * c - a[far] * s;
        a[far] = y * s + a[far] * c;
    }
}

/* Average over positions 0 .. span-1 (256 of them) of R_j^T m R_j, m symmetric [d][d]: a metric of
   keys after RoPE as one of keys before. room [2 d d]. */
static void skvi_turn_metric(const skvi_turn *r, size_t d, size_t span, double *m, double *room)
{
    double *sum = room, *t = room + d * d;
    size_t i, f, side, far = skvi_turn_apart(r);
    int j, n = span < 256 ? (int)span : 256;
    if (!r->pairs) return;
    memset(sum, 0, d * d * sizeof(double));
    for (j = 0; j < n; j++) {
        memcpy(t, m, d * d * sizeof(double));
        for (side = 0; side < 2; side++)            /* columns, then rows */
            for (f = 0; f < r->pairs; f++) {
                double angle = (double)j * (double)span / n * (double)r->freq[f];
                double c = cos(angle), s = sin(angle);
                size_t next = side ? 1 : d, gap = side ? far * d : far;
                double *a = t + skvi_turn_at(r, f) * (side ? d : 1);
                for (i = 0; i < d; i++, a += next) {
                    double x = a[0], y = a[gap];
                    a[0] = x * c + y * s;
                    a[gap] = y * c - x * s;
                }
            }
        for (i = 0; i < d * d; i++) sum[i] += t[i];
    }
    for (i = 0; i < d * d; i++) m[i] = sum[i] / n;
}

/* K (0) or V (1) of a head group of a layer, as it is predicted and coded. */
typedef struct skvi_coldstream {
    uint32_t heads, dim, D, R;      /* R numbers to predict from */
    float   *mean;                  /* [D] */
    float   *enc;                   /* [D][D], column = channel: z = (x - mean - p) enc */
    float   *dec;                   /* [D][D], row = channel: x = mean + p + z dec */
    float   *pred;                  /* [R][D]: p = refs pred */
    int32_t *level;                 /* [D] 64 log2 of the sd of z, falling */
} skvi_coldstream;

struct skv_cold_profile {
    skv_allocator alloc;
    size_t        bytes;
    void         *block;
    skv_model     model;
    char          name[64];
    uint32_t      head_group, depth, n_streams, crc;
    double        elements;         /* of one token, all layers */
    skv_layer    *layers;
    uint32_t     *first;            /* [n_layers + 1], as in skv_profile */
    skvi_turn    *turn;             /* [n_layers] */
    skvi_coldstream *stream;
};

/* Numbers that layer l, group g has to give to others: K and V side by side; 0: no such group. */
static uint32_t skvi_cold_own(const skv_layer *l, uint32_t head_group, uint32_t g)
{
    if (g >= skvi_groups(l, head_group)) return 0;
    return skvi_group_heads(l, head_group, g) * (l->head_dim + l->head_dim_v);
}

/* Numbers of a token in a layer. */
static uint32_t skvi_cold_width(const skv_layer *l)
{
    return l->n_kv_heads * (l->head_dim + l->head_dim_v);
}

static uint32_t skvi_cold_refs(const skv_layer *layers, uint32_t head_group, uint32_t depth,
                               uint32_t l, uint32_t g)
{
    uint32_t a, n = 0;
    for (a = 1; a <= depth && a <= l; a++) n += skvi_cold_own(&layers[l - a], head_group, g);
    return n;
}

static void skvi_coldstream_layout(skvi_arena *a, skvi_coldstream *s)
{
    s->mean = (float *)skvi_take(a, s->D, sizeof(float));
    s->enc = (float *)skvi_take(a, s->D, s->D * sizeof(float));
    s->dec = (float *)skvi_take(a, s->D, s->D * sizeof(float));
    s->pred = (float *)skvi_take(a, s->R, s->D * sizeof(float));
    s->level = (int32_t *)skvi_take(a, s->D, sizeof(int32_t));
}

/* m has its layers filled; turn is of every layer. */
static void skvi_cold_profile_layout(skvi_arena *a, skv_cold_profile *p, const skv_layer *layers,
                                     uint32_t n_layers, const skvi_turn *turn)
{
    uint32_t i, g, at = 0, n = 0;
    int kind;
    for (i = 0; i < n_layers; i++) n += 2 * skvi_groups(&layers[i], p->head_group);
    p->n_streams = n;
    p->layers = (skv_layer *)skvi_take(a, n_layers, sizeof *p->layers);
    p->first = (uint32_t *)skvi_take(a, n_layers + 1u, sizeof *p->first);
    p->turn = (skvi_turn *)skvi_take(a, n_layers, sizeof *p->turn);
    p->stream = (skvi_coldstream *)skvi_take(a, n, sizeof *p->stream);
    for (i = 0; i < n_layers; i++) {
        const skv_layer *l = &layers[i];
        uint32_t groups = skvi_groups(l, p->head_group);
        float *freq = (float *)skvi_take(a, turn[i].pairs, sizeof(float));
        if (a->base) {
            p->first[i] = at;
            p->turn[i] = turn[i];
            p->turn[i].freq = freq;
            if (turn[i].pairs) memcpy(freq, turn[i].freq, turn[i].pairs * sizeof(float));
        }
        for (kind = 0; kind < 2; kind++)
            for (g = 0; g < groups; g++, at++) {
                skvi_coldstream tmp, *s = a->base ? &p->stream[at] : &tmp;
                s->heads = skvi_group_heads(l, p->head_group, g);
                s->dim = kind ? l->head_dim_v : l->head_dim;
                s->D = s->heads * s->dim;
                s->R = skvi_cold_refs(layers, p->head_group, p->depth, i, g) +
                       (kind ? s->heads * l->head_dim : 0);
                skvi_coldstream_layout(a, s);
            }
    }
    if (a->base) p->first[n_layers] = at;
}

static skv_result skvi_cold_profile_new(skv_cold_profile **out, const skv_model *m,
                                        const skv_layer *layers, uint32_t head_group,
                                        uint32_t depth, const skvi_turn *turn,
                                        const skv_allocator *alloc)
{
    skv_cold_profile tmp, *p;
    skvi_arena a = {NULL, 0, 0};
    skv_result r;
    uint32_t i;
    memset(&tmp, 0, sizeof tmp);
    tmp.alloc = *alloc;
    tmp.head_group = head_group;
    tmp.depth = depth;
    for (i = 0; i < m->n_layers; i++)
        tmp.elements += (double)skvi_cold_width(&layers[i]);
    (void)skvi_take(&a, 1, sizeof tmp);
    skvi_cold_profile_layout(&a, &tmp, layers, m->n_layers, turn);
    r = skvi_arena_block(&a, alloc, &tmp.block, &tmp.bytes);
    if (r != SKV_OK) return r;
    p = (skv_cold_profile *)skvi_take(&a, 1, sizeof *p);
    *p = tmp;
    skvi_cold_profile_layout(&a, p, layers, m->n_layers, turn);
    skvi_copy_model(&p->model, m, p->layers, p->name);
    *out = p;
    return SKV_OK;
}

SKVDEF void skv_cold_profile_free(skv_cold_profile *p)
{
    skv_allocator a;
    if (!p) return;
    a = p->alloc;
    a.free(a.user, p->block, p->bytes);
}

/* Calibration: per layer and group the second moments of own numbers (K, V before RoPE) with
   themselves and with those of `depth` layers before. */
typedef struct skvi_link {
    uint32_t own, refs;
    double  *sum;                   /* [own] */
    double  *gram;                  /* [own][own + refs] */
} skvi_link;

struct skv_chain {
    skv_allocator alloc;
    size_t        bytes;
    void         *block;
    uint32_t      n_layers, head_group, depth, sinks, max_passage, max_own, max_width;
    skv_layer    *layers;
    skvi_turn    *turn;
    uint32_t     *first;            /* [n_layers + 1]: first link of a layer */
    skvi_link    *link;             /* [layer][group] */
    double       *n_tokens;         /* [n_layers] */
    size_t        passage, next;    /* tokens of the passage, and the layer that comes next */
    float        *rows;             /* [depth + 1][max_passage][max_width]: K heads, then V */
    float        *tile, *wide, *tall;   /* [own][own + refs], [64][own + refs], [own][64] */
};

static void skvi_chain_layout(skvi_arena *a, skv_chain *c, const skv_layer *layers,
                              const skvi_player *player)
{
    uint32_t i, g, n = 0, most = 0, own = 0, width = 0;
    for (i = 0; i < c->n_layers; i++) n += skvi_groups(&layers[i], c->head_group);
    c->layers = (skv_layer *)skvi_take(a, c->n_layers, sizeof *c->layers);
    c->turn = (skvi_turn *)skvi_take(a, c->n_layers, sizeof *c->turn);
    c->first = (uint32_t *)skvi_take(a, c->n_layers + 1u, sizeof *c->first);
    c->link = (skvi_link *)skvi_take(a, n, sizeof *c->link);
    c->n_tokens = (double *)skvi_take(a, c->n_layers, sizeof(double));
    for (i = n = 0; i < c->n_layers; i++) {
        const skv_layer *l = &layers[i];
        uint32_t pairs = player[i].turn.pairs, w;
        float *freq = (float *)skvi_take(a, pairs, sizeof(float));
        if (a->base) {
            c->layers[i] = *l;
            c->first[i] = n;
            c->turn[i] = player[i].turn;
            c->turn[i].freq = freq;
            if (pairs) memcpy(freq, player[i].turn.freq, pairs * sizeof(float));
        }
        for (g = 0; g < skvi_groups(l, c->head_group); g++, n++) {
            skvi_link tmp, *k = a->base ? &c->link[n] : &tmp;
            k->own = skvi_cold_own(l, c->head_group, g);
            k->refs = skvi_cold_refs(layers, c->head_group, c->depth, i, g);
            k->sum = (double *)skvi_take(a, k->own, sizeof(double));
            k->gram = (double *)skvi_take(a, k->own, (k->own + k->refs) * sizeof(double));
            if (k->own + k->refs > most) most = k->own + k->refs;
            if (k->own > own) own = k->own;
        }
        w = skvi_cold_width(l);
        if (w > width) width = w;
    }
    if (a->base) c->first[c->n_layers] = n;
    c->max_own = own;
    c->max_width = width;
    c->rows = (float *)skvi_take(a, (c->depth + 1u) * (size_t)c->max_passage,
                                 width * sizeof(float));
    c->tile = (float *)skvi_take(a, own, most * sizeof(float));
    c->wide = (float *)skvi_take(a, 64, most * sizeof(float));
    c->tall = (float *)skvi_take(a, 64, own * sizeof(float));
}

SKVDEF skv_result skv_chain_init(skv_chain **out, const skv_chain_desc *desc)
{
    skv_chain tmp, *c;
    const skv_profiler *p;
    skvi_arena a = {NULL, 0, 0};
    skv_result r;
    if (!out || !desc || !desc->profiler) return SKV_ERR_ARG;
    p = desc->profiler;
    memset(&tmp, 0, sizeof tmp);
    r = skvi_pick_allocator(&p->alloc, &tmp.alloc);
    if (r != SKV_OK) return r;
    tmp.n_layers = p->model.n_layers;
    tmp.head_group = p->head_group;
    tmp.depth = skvi_or(desc->depth, 1);
    tmp.sinks = p->sinks;
    tmp.max_passage = p->max_passage;
    if (tmp.depth > SKVI_COLD_DEPTH) return SKV_ERR_ARG;
    (void)skvi_take(&a, 1, sizeof tmp);
    skvi_chain_layout(&a, &tmp, p->layers, p->player);
    r = skvi_arena_block(&a, &tmp.alloc, &tmp.block, &tmp.bytes);
    if (r != SKV_OK) return r;
    c = (skv_chain *)skvi_take(&a, 1, sizeof *c);
    *c = tmp;
    skvi_chain_layout(&a, c, p->layers, p->player);
    *out = c;
    return SKV_OK;
}

SKVDEF void skv_chain_free(skv_chain *c)
{
    skv_allocator a;
    if (!c) return;
    a = c->alloc;
    a.free(a.user, c->block, c->bytes);
}

/* A token's K and V of one layer into a row: K heads before RoPE, then V heads. */
static void skvi_cold_row(const skv_layer *l, const skvi_turn *turn, const skvi_tokens *k,
                          const skvi_tokens *v, size_t token, double position, float *row)
{
    uint32_t h;
    for (h = 0; h < l->n_kv_heads; h++, row += l->head_dim) {
        skvi_load(k, token, h, row);
        skvi_cold_turn(turn, position, 1, row);
    }
    for (h = 0; h < l->n_kv_heads; h++, row += l->head_dim_v) skvi_load(v, token, h, row);
}

/* Group g's K and V out of such a row. */
static float *skvi_cold_pick(const skv_layer *l, uint32_t head_group, uint32_t g, const float *row,
                             float *to)
{
    size_t n = skvi_group_heads(l, head_group, g);
    memcpy(to, row + g * head_group * l->head_dim, n * l->head_dim * sizeof(float));
    to += n * l->head_dim;
    row += (size_t)l->n_kv_heads * l->head_dim + g * head_group * l->head_dim_v;
    memcpy(to, row, n * l->head_dim_v * sizeof(float));
    return to + n * l->head_dim_v;
}

static void skvi_chain_add_group(skv_chain *c, uint32_t layer, uint32_t g, size_t n)
{
    skvi_link *k = &c->link[c->first[layer] + g];
    size_t width = k->own + k->refs, t, i, m, from;
    uint32_t a;
    for (from = c->sinks; from < n; from += m) {
        m = n - from < 64 ? n - from : 64;
        memset(c->tile, 0, k->own * width * sizeof(float));
        for (t = 0; t < m; t++) {
            float *to = c->wide + t * width;
            for (a = 0; a <= c->depth && a <= layer; a++) {
                const float *rows = c->rows + (layer - a) % (c->depth + 1) * c->max_passage *
                                              c->max_width;
                if (g < skvi_groups(&c->layers[layer - a], c->head_group))
                    to = skvi_cold_pick(&c->layers[layer - a], c->head_group, g,
                                        rows + (from + t) * c->max_width, to);
            }
            for (i = 0; i < k->own; i++) {
                c->tall[i * 64 + t] = c->wide[t * width + i];
                k->sum[i] += (double)c->wide[t * width + i];
            }
        }
        skvi_sgemm(k->own, width, m, c->tall, 64, c->wide, width, c->tile, width);
        for (i = 0; i < k->own * width; i++) k->gram[i] += (double)c->tile[i];
    }
}

SKVDEF skv_result skv_chain_add(skv_chain *c, uint32_t layer, const skv_span *k, const skv_span *v,
                                size_t n_tokens)
{
    const skv_layer *l;
    skvi_tokens vk, vv;
    float *rows;
    uint32_t g;
    size_t t;
    skv_result r;
    if (!c || layer >= c->n_layers || !n_tokens || n_tokens > c->max_passage) return SKV_ERR_ARG;
    if (layer && (layer != c->next || n_tokens != c->passage)) return SKV_ERR_STATE;
    l = &c->layers[layer];
    r = skvi_open(&vk, k, l->n_kv_heads, l->head_dim);
    if (r == SKV_OK) r = skvi_open(&vv, v, l->n_kv_heads, l->head_dim_v);
    if (r == SKV_OK) r = skvi_check_values(&vk, n_tokens, l->n_kv_heads, SKVI_LARGEST);
    if (r == SKV_OK) r = skvi_check_values(&vv, n_tokens, l->n_kv_heads, SKVI_LARGEST);
    if (r != SKV_OK) return r;
    rows = c->rows + layer % (c->depth + 1) * c->max_passage * c->max_width;
    for (t = 0; t < n_tokens; t++)
        skvi_cold_row(l, &c->turn[layer], &vk, &vv, t, (double)t, rows + t * c->max_width);
    for (g = 0; g < skvi_groups(l, c->head_group); g++)
        skvi_chain_add_group(c, layer, g, n_tokens);
    if (n_tokens > c->sinks) c->n_tokens[layer] += (double)(n_tokens - c->sinks);
    c->passage = n_tokens;
    c->next = layer + 1u;
    return SKV_OK;
}

/* Solves a x = b for b [n][m] in place, a [n][n] positive definite (upper triangle; destroyed).
   Cholesky by rows; directions that depend on others to 1e-12 are left out. */
static void skvi_solve(double *a, size_t n, double *b, size_t m)
{
    size_t i, j, k;
    for (k = 0; k < n; k++) {
        double *u = a + k * n, *x = b + k * m, first = u[k], inv;
        for (i = 0; i < k; i++) first += a[i * n + k] * a[i * n + k];
        inv = u[k] > 1e-12 * first && u[k] > 0 ? 1 / sqrt(u[k]) : 0;
        for (j = k; j < n; j++) u[j] *= inv;
        for (j = 0; j < m; j++) x[j] *= inv;
        for (i = k + 1; i < n; i++) {
            double f = u[i], *ai = a + i * n, *bi = b + i * m;
            for (j = i; j < n; j++) ai[j] -= f * u[j];
            for (j = 0; j < m; j++) bi[j] -= f * x[j];
        }
    }
    for (k = n; k-- > 0; ) {
        double *u = a + k * n, *x = b + k * m;
        for (i = k + 1; i < n; i++)
            for (j = 0; j < m; j++) x[j] -= u[i] * b[i * m + j];
        for (j = 0; j < m; j++) x[j] = u[k] > 0 ? x[j] / u[k] : 0;
    }
}

/* Cold profile as a blob: little endian, floats as IEEE bits.
     0 "SKV\x89CLD\n"   8 u32 version (1)   12 u32 CRC-32 of everything behind byte 16
     16 u64 bytes, u32 n_layers, head_group, depth, u32 0, u64 fingerprint, char name[64]
     per layer: as in MODL of >>blob, then u32 RoPE style, pairs, f32 freq[pairs]
     per stream (layer by layer; K groups, then V): f32 mean, enc, dec, pred, i32 level */
#define SKVI_COLD_FIXED 112u
static const unsigned char skvi_cold_magic[8] = {'S', 'K', 'V', 0x89, 'C', 'L', 'D', '\n'};

static size_t skvi_cold_profile_size(const skv_cold_profile *p)
{
    size_t n = SKVI_COLD_FIXED;
    uint32_t i;
    for (i = 0; i < p->model.n_layers; i++) n += SKVI_MODL_LAYER + 8 + 4u * p->turn[i].pairs;
    for (i = 0; i < p->n_streams; i++) {
        const skvi_coldstream *s = &p->stream[i];
        n += 4 * (size_t)s->D * (2 + 2 * (size_t)s->D + s->R);
    }
    return n;
}

static void skvi_cold_profile_write(const skv_cold_profile *p, unsigned char *b)
{
    unsigned char *at = b + SKVI_COLD_FIXED;
    uint32_t i, c;
    memcpy(b, skvi_cold_magic, 8);
    skvi_put32(b + 8, 1);
    skvi_put64(b + 16, skvi_cold_profile_size(p));
    skvi_put32(b + 24, p->model.n_layers);
    skvi_put32(b + 28, p->head_group);
    skvi_put32(b + 32, p->depth);
    skvi_put32(b + 36, 0);
    skvi_put64(b + 40, p->model.fingerprint);
    memcpy(b + 48, p->name, 64);
    for (i = 0; i < p->model.n_layers; i++, at += SKVI_MODL_LAYER) {
        const skv_layer *l = &p->layers[i];
        skvi_put32(at, l->n_q_heads);
        skvi_put32(at + 4, l->n_kv_heads);
        skvi_put32(at + 8, l->head_dim);
        skvi_put32(at + 12, l->head_dim_v);
        skvi_put32(at + 16, l->sliding_window);
        skvi_put_floats(at + 20, &l->scale, 1);
        skvi_put_floats(at + 24, &l->softcap, 1);
    }
    for (i = 0; i < p->model.n_layers; i++) {
        skvi_put32(at, p->turn[i].style);
        skvi_put32(at + 4, p->turn[i].pairs);
        at = skvi_put_floats(at + 8, p->turn[i].freq, p->turn[i].pairs);
    }
    for (i = 0; i < p->n_streams; i++) {
        const skvi_coldstream *s = &p->stream[i];
        at = skvi_put_floats(at, s->mean, s->D);
        at = skvi_put_floats(at, s->enc, (size_t)s->D * s->D);
        at = skvi_put_floats(at, s->dec, (size_t)s->D * s->D);
        at = skvi_put_floats(at, s->pred, (size_t)s->R * s->D);
        for (c = 0; c < s->D; c++, at += 4) skvi_put32(at, (uint32_t)s->level[c]);
    }
}

/* The checksum that a saved profile has. */
static skv_result skvi_cold_profile_sum(skv_cold_profile *p)
{
    size_t n = skvi_cold_profile_size(p);
    unsigned char *b = (unsigned char *)p->alloc.alloc(p->alloc.user, n);
    if (!b) return SKV_ERR_MEMORY;
    skvi_cold_profile_write(p, b);
    p->crc = skvi_crc32(b + 16, n - 16);
    p->alloc.free(p->alloc.user, b, n);
    return SKV_OK;
}

SKVDEF skv_result skv_cold_profile_save(const skv_cold_profile *p, void *buf, size_t capacity,
                                        size_t *bytes)
{
    unsigned char *b = (unsigned char *)buf;
    size_t total;
    if (!p || !bytes) return SKV_ERR_ARG;
    total = skvi_cold_profile_size(p);
    if (!buf || capacity < total) {
        *bytes = total;
        return buf ? SKV_ERR_ARG : SKV_OK;
    }
    skvi_cold_profile_write(p, b);
    skvi_put32(b + 12, skvi_crc32(b + 16, total - 16));
    *bytes = total;
    return SKV_OK;
}

/* Streams of a blob whose checksum holds. */
static skv_result skvi_cold_profile_read(const unsigned char *at, skv_cold_profile *p)
{
    uint32_t i, c;
    int bad = 0;
    for (i = 0; i < p->n_streams; i++) {
        skvi_coldstream *s = &p->stream[i];
        at = skvi_get_floats(at, s->mean, s->D, &bad);
        at = skvi_get_floats(at, s->enc, (size_t)s->D * s->D, &bad);
        at = skvi_get_floats(at, s->dec, (size_t)s->D * s->D, &bad);
        at = skvi_get_floats(at, s->pred, (size_t)s->R * s->D, &bad);
        for (c = 0; c < s->D; c++, at += 4) {
            uint32_t x = skvi_get32(at) + 8192u;
            bad |= x > 16384u;
            s->level[c] = x > 16384u ? 0 : (int32_t)x - 8192;
            bad |= c && s->level[c] > s->level[c - 1];
        }
    }
    return bad ? SKV_ERR_FORMAT : SKV_OK;
}

/* Sizes of everything against the blob's, before memory is taken. */
static skv_result skvi_cold_profile_fits(const skv_layer *layers, uint32_t n, uint32_t group,
                                         uint32_t depth, uint64_t head, uint64_t bytes)
{
    uint64_t need = head;
    uint32_t i, g;
    for (i = 0; i < n; i++)
        for (g = 0; g < skvi_groups(&layers[i], group); g++) {
            uint32_t left = layers[i].n_kv_heads - g * group;
            uint64_t heads = left < group ? left : group, dk = heads * layers[i].head_dim;
            uint64_t dv = heads * layers[i].head_dim_v;
            uint64_t refs = skvi_cold_refs(layers, group, depth, i, g);
            need += 4 * (dk * (2 + 2 * dk + refs) + dv * (2 + 2 * dv + refs + dk));
            if (need > bytes) return SKV_ERR_FORMAT;
        }
    return need == bytes ? SKV_OK : SKV_ERR_FORMAT;
}

/* Layers' RoPE behind the layers; *at moves on. freq is room for all of it. */
static skv_result skvi_cold_profile_turns(const unsigned char *b, size_t *at, size_t bytes,
                                          const skv_layer *layers, uint32_t n, skvi_turn *turn,
                                          float *freq)
{
    uint32_t i, j;
    int bad = 0;
    for (i = 0; i < n; i++) {
        if (bytes - *at < 8) return SKV_ERR_FORMAT;
        turn[i].style = skvi_get32(b + *at);
        turn[i].pairs = skvi_get32(b + *at + 4);
        *at += 8;
        if (turn[i].pairs > layers[i].head_dim / 2 || turn[i].style > SKV_ROPE_HALVES ||
            (turn[i].pairs && !turn[i].style) ||
            (bytes - *at) / 4 < turn[i].pairs)
            return SKV_ERR_FORMAT;
        turn[i].freq = freq;
        (void)skvi_get_floats(b + *at, freq, turn[i].pairs, &bad);
        for (j = 0; j < turn[i].pairs; j++) bad |= !(fabsf(freq[j]) <= 1e6f);
        freq += turn[i].pairs;
        *at += 4u * turn[i].pairs;
    }
    return bad ? SKV_ERR_FORMAT : SKV_OK;
}

static skv_result skvi_cold_profile_build(skv_cold_profile **out, const unsigned char *b,
                                          size_t bytes, const skv_model *expect, skv_layer *layers,
                                          skvi_turn *turn, const skv_allocator *a)
{
    skv_model m;
    skv_cold_profile *p = NULL;
    char name[65];
    uint32_t group = skvi_get32(b + 28), depth = skvi_get32(b + 32);
    size_t at = SKVI_COLD_FIXED + (size_t)skvi_get32(b + 24) * SKVI_MODL_LAYER;
    skv_result r;
    memset(&m, 0, sizeof m);
    m.n_layers = skvi_get32(b + 24);
    m.layers = layers;
    m.fingerprint = skvi_get64(b + 40);
    memcpy(name, b + 48, 64);
    name[64] = 0;
    m.name = name;
    r = skvi_blob_layers(b + SKVI_COLD_FIXED, m.n_layers, layers);
    if (r == SKV_OK && (!group || group > 65536 || depth > SKVI_COLD_DEPTH)) r = SKV_ERR_FORMAT;
    if (r == SKV_OK)
        r = skvi_cold_profile_turns(b, &at, bytes, layers, m.n_layers, turn,
                                    (float *)(void *)(layers + m.n_layers));
    if (r == SKV_OK)
        r = skvi_cold_profile_fits(layers, m.n_layers, group, depth, at, bytes);
    if (r == SKV_OK) r = skvi_blob_expect(&m, expect);
    if (r == SKV_OK) r = skvi_cold_profile_new(&p, &m, layers, group, depth, turn, a);
    if (r != SKV_OK) return r;
    r = skvi_cold_profile_read(b + at, p);
    p->crc = skvi_get32(b + 12);
    if (r == SKV_OK) *out = p;
    else skv_cold_profile_free(p);
    return r;
}

SKVDEF skv_result skv_cold_profile_load(skv_cold_profile **out, const void *data, size_t bytes,
                                        const skv_model *expect, const skv_allocator *allocator)
{
    const unsigned char *b = (const unsigned char *)data;
    skv_allocator a;
    void *work;
    size_t room, n;
    skv_result r;
    if (!out || !data) return SKV_ERR_ARG;
    r = skvi_pick_allocator(allocator, &a);
    if (r != SKV_OK) return r;
    if (memcmp(b, skvi_cold_magic, bytes < 8 ? bytes : 8)) return SKV_ERR_FORMAT;
    if (bytes < SKVI_COLD_FIXED) return SKV_ERR_TRUNCATED;
    if (skvi_get32(b + 8) > 1) return SKV_ERR_VERSION;
    if (skvi_get32(b + 8) != 1) return SKV_ERR_FORMAT;
    if (skvi_get64(b + 16) > bytes) return SKV_ERR_TRUNCATED;
    if (skvi_get64(b + 16) < bytes) return SKV_ERR_FORMAT;
    if (skvi_crc32(b + 16, bytes - 16) != skvi_get32(b + 12)) return SKV_ERR_CHECKSUM;
    n = skvi_get32(b + 24);
    if (!n || n > 65536 || (bytes - SKVI_COLD_FIXED) / SKVI_MODL_LAYER < n) return SKV_ERR_FORMAT;
    room = n * (sizeof(skv_layer) + sizeof(skvi_turn)) + bytes;
    work = a.alloc(a.user, room);
    if (!work) return SKV_ERR_MEMORY;
    r = skvi_cold_profile_build(out, b, bytes, expect,
                                (skv_layer *)(void *)((skvi_turn *)work + n), (skvi_turn *)work,
                                &a);
    a.free(a.user, work, room);
    return r;
}

/* The fit: work space, and what it is about. */
typedef struct skvi_coldfit {
    const skv_chain    *c;
    const skv_profiler *p;
    double *root, *inv;             /* metric roots of all heads: [layer][K heads, V heads][d][d] */
    size_t *root_at;                /* [2 n_layers] */
    double *a, *b;                  /* [R][R], [R][D] */
    double *cov, *t, *vec, *w;      /* [D][D] three times, [D] */
    double *cross;                  /* [R][D] */
    double *m, *room;               /* [d][d], [2 d d] */
    double  noise;                  /* variance of a coded z */
    size_t  total, max_R, max_D, max_d;
} skvi_coldfit;

/* Part of a group's own numbers: off .. off + n of layer. */
typedef struct skvi_coldpart {
    uint32_t layer, off, n;
} skvi_coldpart;

static void skvi_coldfit_layout(skvi_arena *a, skvi_coldfit *f)
{
    size_t s = sizeof(double);
    f->root_at = (size_t *)skvi_take(a, 2u * f->c->n_layers, sizeof(size_t));
    f->root = (double *)skvi_take(a, f->total, s);
    f->inv = (double *)skvi_take(a, f->total, s);
    f->a = (double *)skvi_take(a, f->max_R, f->max_R * s);
    f->b = (double *)skvi_take(a, f->max_R, f->max_D * s);
    f->cross = (double *)skvi_take(a, f->max_R, f->max_D * s);
    f->cov = (double *)skvi_take(a, f->max_D, f->max_D * s);
    f->t = (double *)skvi_take(a, f->max_D, f->max_D * s);
    f->vec = (double *)skvi_take(a, f->max_D, f->max_D * s);
    f->w = (double *)skvi_take(a, f->max_D, s);
    f->m = (double *)skvi_take(a, f->max_d, f->max_d * s);
    f->room = (double *)skvi_take(a, f->max_d, 2 * f->max_d * s);
}

/* Square roots of all heads' metrics; those of keys averaged over positions. */
static skv_result skvi_coldfit_roots(skvi_coldfit *f)
{
    const skv_chain *c = f->c;
    uint32_t l, h;
    size_t at = 0, i, j;
    int kind;
    skv_result r = SKV_OK, e;
    for (l = 0; l < c->n_layers; l++)
        for (kind = 0; kind < 2; kind++) {
            size_t d = kind ? c->layers[l].head_dim_v : c->layers[l].head_dim;
            f->root_at[2 * l + (uint32_t)kind] = at;
            for (h = 0; h < c->layers[l].n_kv_heads; h++, at += d * d) {
                skvi_metric(&f->p->player[l], kind ? SKV_V : SKV_K, h, f->m);
                for (i = 0; i < d; i++)
                    for (j = 0; j < i; j++) f->m[i * d + j] = f->m[j * d + i];
                if (!kind) skvi_turn_metric(&c->turn[l], d, c->max_passage, f->m, f->room);
                e = skvi_root(f->m, d, f->root + at, f->inv + at, f->t, f->w);
                if (e < SKV_OK) return e;
                if (e != SKV_OK) r = e;
            }
        }
    return r;
}

/* Covariance of part x with part y into to [x.n][ld]; x's layer is not before y's. */
static void skvi_chain_block(const skv_chain *c, uint32_t g, skvi_coldpart x, skvi_coldpart y,
                             double *to, size_t ld)
{
    const skvi_link *kx = &c->link[c->first[x.layer] + g], *ky = &c->link[c->first[y.layer] + g];
    size_t width = kx->own + kx->refs, col = x.layer == y.layer ? 0 : kx->own, i, j;
    double n = c->n_tokens[x.layer];
    uint32_t l;
    for (l = y.layer + 1; l < x.layer; l++) col += skvi_cold_own(&c->layers[l], c->head_group, g);
    for (i = 0; i < x.n; i++)
        for (j = 0; j < y.n; j++)
            to[i * ld + j] = kx->gram[(x.off + i) * width + col + y.off + j] / n -
                             kx->sum[x.off + i] / n * (ky->sum[y.off + j] / n);
}

/* What stream (layer, kind, g) is predicted from. Returns the parts. */
static uint32_t skvi_coldfit_parts(const skv_chain *c, uint32_t layer, int kind, uint32_t g,
                                   uint32_t Dk, skvi_coldpart *part)
{
    uint32_t a, n = 0;
    if (kind) {
        part[n].layer = layer;
        part[n].off = 0;
        part[n++].n = Dk;
    }
    for (a = 1; a <= c->depth && a <= layer; a++) {
        part[n].layer = layer - a;
        part[n].off = 0;
        part[n].n = skvi_cold_own(&c->layers[layer - a], c->head_group, g);
        n += part[n].n > 0;
    }
    return n;
}

/* The coded error of a part on the diagonal blocks of a [R][R]: noise M^-1 / price per head. */
static void skvi_coldfit_noise(const skvi_coldfit *f, uint32_t g, const skvi_coldpart *part,
                               size_t at, size_t R)
{
    const skv_layer *l = &f->c->layers[part->layer];
    uint32_t h, heads = skvi_group_heads(l, f->c->head_group, g);
    size_t end = at + part->n, i, j, x;
    int kind;
    for (kind = 0; kind < 2; kind++) {
        size_t d = kind ? l->head_dim_v : l->head_dim;
        double price = f->p->player[part->layer].price[kind], scale;
        scale = f->noise / (price > 1e-30 ? price : 1e-30);
        for (h = 0; h < heads && at < end; h++, at += d) {
            const double *inv = f->inv + f->root_at[2 * part->layer + (uint32_t)kind] +
                                (g * f->c->head_group + h) * d * d;
            for (i = 0; i < d; i++)
                for (j = i; j < d; j++) {
                    double sum = 0;
                    for (x = 0; x < d; x++) sum += inv[i * d + x] * inv[j * d + x];
                    f->a[(at + i) * R + at + j] += scale * sum;
                }
        }
    }
}

/* Prediction of one stream: b [R][D], and cov [D][D] of what it leaves. */
static void skvi_coldfit_predict(skvi_coldfit *f, uint32_t layer, int kind, uint32_t g,
                                 const skvi_coldstream *s)
{
    const skv_chain *c = f->c;
    skvi_coldpart part[1 + SKVI_COLD_DEPTH], me;
    uint32_t dk = kind ? s->heads * c->layers[layer].head_dim : 0;
    uint32_t n = skvi_coldfit_parts(c, layer, kind, g, dk, part), x, y;
    size_t R = s->R, D = s->D, at = 0, to, i, j;
    me.layer = layer;
    me.off = dk;
    me.n = s->D;
    skvi_chain_block(c, g, me, me, f->cov, D);
    for (x = 0; x < n; at += part[x++].n) {
        for (y = x, to = at; y < n; to += part[y++].n)
            skvi_chain_block(c, g, part[x], part[y], f->a + at * R + to, R);
        skvi_coldfit_noise(f, g, &part[x], at, R);
        skvi_chain_block(c, g, me, part[x], f->b, part[x].n);   /* b for now [D][part] */
        for (i = 0; i < part[x].n; i++)
            for (j = 0; j < D; j++) f->cross[(at + i) * D + j] = f->b[j * part[x].n + i];
    }
    memcpy(f->b, f->cross, R * D * sizeof(double));
    skvi_solve(f->a, R, f->b, D);
    for (x = 0; x < R; x++)                         /* cov -= cross^T b */
        for (i = 0; i < D; i++)
            for (j = 0; j < D; j++) f->cov[i * D + j] -= f->cross[x * D + i] * f->b[x * D + j];
    for (i = 0; i < D; i++)                         /* rounding left it not quite symmetric */
        for (j = 0; j < i; j++) {
            double mean = 0.5 * (f->cov[i * D + j] + f->cov[j * D + i]);
            f->cov[i * D + j] = f->cov[j * D + i] = mean;
        }
}

/* KLT of cov in the metric: eigenvalues w times price are variances of z; vec the vectors. */
static skv_result skvi_coldfit_klt(skvi_coldfit *f, const double *root, const skvi_coldstream *s)
{
    size_t D = s->D, d = s->dim, h;
    for (h = 0; h < s->heads; h++)
        skvi_gemm(f->t + h * d * D, D, d, D, d, skvi_view_d(root + h * d * d, d),
                  skvi_view_d(f->cov + h * d * D, D));
    for (h = 0; h < s->heads; h++)
        skvi_gemm(f->cov + h * d, D, D, d, d, skvi_view_d(f->t + h * d, D),
                  skvi_view_d(root + h * d * d, d));
    return skv_eigh(f->cov, D, D, f->w, f->vec, 0, NULL);
}

static int32_t skvi_cold_level(double variance)
{
    return variance > 1e-36 ? (int32_t)floor(32 * log2(variance) + 0.5) : -4096;
}

/* One stream; with noise 0 its variances only, unpredicted. */
static skv_result skvi_coldfit_stream(skvi_coldfit *f, uint32_t layer, int kind, uint32_t g,
                                      skvi_coldstream *s)
{
    const skvi_link *link = &f->c->link[f->c->first[layer] + g];
    size_t D = s->D, d = s->dim, h, i, c;
    size_t at = f->root_at[2 * layer + (uint32_t)kind] + g * f->c->head_group * d * d;
    double price = f->p->player[layer].price[kind], root_price;
    const double *sum = link->sum + (kind ? link->own - s->D : 0);
    skv_result r;
    if (!(price > 1e-30)) price = 1e-30;
    root_price = sqrt(price);
    if (f->noise > 0) {
        skvi_coldfit_predict(f, layer, kind, g, s);
    } else {
        skvi_coldpart me;
        me.layer = layer;
        me.off = link->own - s->D;
        me.n = s->D;
        if (!kind) me.off = 0;
        skvi_chain_block(f->c, g, me, me, f->cov, D);
    }
    r = skvi_coldfit_klt(f, f->root + at, s);
    if (r < SKV_OK) return r;
    for (c = 0; c < D; c++) s->level[c] = skvi_cold_level(f->w[c] * price);
    if (!(f->noise > 0)) return r;
    for (h = 0; h < s->heads; h++) {                /* t = V R, cov = V R^-1 */
        skvi_gemm(f->t + h * d, D, D, d, d, skvi_view_d(f->vec + h * d, D),
                  skvi_view_d(f->root + at + h * d * d, d));
        skvi_gemm(f->cov + h * d, D, D, d, d, skvi_view_d(f->vec + h * d, D),
                  skvi_view_d(f->inv + at + h * d * d, d));
    }
    for (c = 0; c < D; c++) {
        s->mean[c] = (float)(sum[c] / f->c->n_tokens[layer]);
        for (i = 0; i < D; i++) {
            s->enc[i * D + c] = (float)(f->t[c * D + i] * root_price);
            s->dec[c * D + i] = (float)(f->cov[c * D + i] / root_price);
        }
    }
    for (i = 0; i < s->R * D; i++) s->pred[i] = (float)f->b[i];
    return r;
}

static skv_result skvi_coldfit_all(skvi_coldfit *f, skv_cold_profile *out)
{
    uint32_t l, g, groups;
    int kind;
    skv_result r, worst = SKV_OK;
    for (l = 0; l < f->c->n_layers; l++)
        for (kind = 0, groups = skvi_groups(&f->c->layers[l], f->c->head_group); kind < 2; kind++)
            for (g = 0; g < groups; g++) {
                uint32_t index = out->first[l] + (kind ? groups : 0) + g;
                r = skvi_coldfit_stream(f, l, kind, g, &out->stream[index]);
                if (r < SKV_OK) return r;
                if (r != SKV_OK) worst = r;
            }
    return worst;
}

/* Expected bits of a coefficient with level - step = x: the table, between its eighths of octaves,
   and a bit an octave beyond it. */
static double skvi_cold_cost(int32_t x)
{
    double at = (x + 256 - 4) / 8.0, from;
    int i;
    if (at <= 0) return skvi_cold_bits[0] / 1000.0;
    if (at >= 55) return skvi_cold_bits[55] / 1000.0 + (at - 55) / 8;
    i = (int)at;
    from = skvi_cold_bits[i];
    return (from + (skvi_cold_bits[i + 1] - from) * (at - i)) / 1000.0;
}

/* Expected bits of a token, without headers, at a step of 2^(step/64). */
static double skvi_cold_rate(const skv_cold_profile *p, int32_t step)
{
    double bits = 0;
    uint32_t i, c;
    for (i = 0; i < p->n_streams; i++)
        for (c = 0; c < p->stream[i].D; c++) {
            int32_t x = p->stream[i].level[c] - step;
            if (x > -SKVI_COLD_CUT) bits += skvi_cold_cost(x);
        }
    return bits;
}

/* The step at which a token takes at most so many bits. */
static int32_t skvi_cold_search(const skv_cold_profile *p, double bits)
{
    int32_t lo = -8192, hi = 8192;
    while (hi - lo > 1) {
        int32_t mid = (lo + hi) / 2;
        if (skvi_cold_rate(p, mid) <= bits) hi = mid;
        else lo = mid;
    }
    return hi;
}

static void skvi_coldfit_sizes(skvi_coldfit *f, const skv_cold_profile *p)
{
    uint32_t i;
    for (i = 0; i < p->n_streams; i++) {
        const skvi_coldstream *s = &p->stream[i];
        if (s->R > f->max_R) f->max_R = s->R;
        if (s->D > f->max_D) f->max_D = s->D;
        if (s->dim > f->max_d) f->max_d = s->dim;
        f->total += (size_t)s->heads * s->dim * s->dim;
    }
}

SKVDEF skv_result skv_chain_fit(const skv_chain *c, const skv_profiler *p, skv_cold_profile **out)
{
    skv_cold_profile *f = NULL;
    skvi_coldfit w;
    skvi_arena a = {NULL, 0, 0};
    void *block;
    size_t bytes;
    uint32_t l;
    skv_result r;
    if (!c || !p || !out) return SKV_ERR_ARG;
    if (p->model.n_layers != c->n_layers || p->head_group != c->head_group) return SKV_ERR_SHAPE;
    for (l = 0; l < c->n_layers; l++) {
        if (!skvi_same_layer(&p->layers[l], &c->layers[l])) return SKV_ERR_SHAPE;
        if (c->n_tokens[l] < SKV_PAGE_TOKENS || p->player[l].n_tokens < SKV_PAGE_TOKENS)
            return SKV_ERR_STATE;
    }
    r = skvi_cold_profile_new(&f, &p->model, p->layers, c->head_group, c->depth, c->turn,
                              &c->alloc);
    if (r != SKV_OK) return r;
    memset(&w, 0, sizeof w);
    w.c = c;
    w.p = p;
    skvi_coldfit_sizes(&w, f);
    skvi_coldfit_layout(&a, &w);
    bytes = a.used + SKVI_ALIGN;
    block = a.overflow ? NULL : c->alloc.alloc(c->alloc.user, bytes);
    if (!block) {
        skv_cold_profile_free(f);
        return SKV_ERR_MEMORY;
    }
    a.used = 0;
    a.base = skvi_align_up(block);
    skvi_coldfit_layout(&a, &w);
    r = skvi_coldfit_roots(&w);
    if (r >= SKV_OK) r = skvi_coldfit_all(&w, f);       /* unpredicted: at 2 bits, what step? */
    if (r >= SKV_OK) {
        w.noise = exp2(skvi_cold_search(f, 2 * f->elements) / 32.0) / 12;
        r = skvi_coldfit_all(&w, f);
    }
    c->alloc.free(c->alloc.user, block, bytes);
    if (r >= SKV_OK && skvi_cold_profile_sum(f) != SKV_OK) r = SKV_ERR_MEMORY;
    if (r < SKV_OK) skv_cold_profile_free(f);
    else *out = f;
    return r;
}

/* The coder of pages. */
struct skv_cold {
    skv_allocator alloc;
    size_t        bytes;
    void         *block;
    const skv_cold_profile *p;
    int32_t       step;             /* 64 log2 of it */
    size_t        max_width, max_D, max_R, most;
    float        *rows;             /* [depth + 1][64][max_width]: K heads before RoPE, V heads,
                                       means taken off */
    struct {
        uint32_t layer, position, n, crc, known;
    } held[SKVI_COLD_DEPTH + 1u];
    float        *x, *refs, *y;     /* [64][D], [64][R], [64][D] */
    int32_t      *q;                /* [64][max_width], stream after stream */
    int32_t      *level;            /* [D] */
    skvi_coldmodel model;
};

static void skvi_cold_layout(skvi_arena *a, skv_cold *c)
{
    size_t f = sizeof(float);
    c->rows = (float *)skvi_take(a, (c->p->depth + 1u) * (size_t)SKVI_P, c->max_width * f);
    c->x = (float *)skvi_take(a, SKVI_P, c->max_D * f);
    c->y = (float *)skvi_take(a, SKVI_P, c->max_D * f);
    c->refs = (float *)skvi_take(a, SKVI_P, c->max_R * f);
    c->q = (int32_t *)skvi_take(a, SKVI_P, c->max_width * sizeof(int32_t));
    c->level = (int32_t *)skvi_take(a, c->max_D, sizeof(int32_t));
    c->model.mean = (uint32_t *)skvi_take(a, c->max_D, sizeof(uint32_t));
}

SKVDEF skv_result skv_cold_init(skv_cold **out, const skv_cold_desc *desc)
{
    skv_cold tmp, *c;
    skvi_arena a = {NULL, 0, 0};
    const skv_cold_profile *p;
    double bits;
    uint32_t i;
    skv_result r;
    if (!out || !desc || !desc->profile || !(desc->bpe > 0 && desc->bpe <= 12)) return SKV_ERR_ARG;
    p = desc->profile;
    memset(&tmp, 0, sizeof tmp);
    r = skvi_pick_allocator(&desc->allocator, &tmp.alloc);
    if (r != SKV_OK) return r;
    tmp.p = p;
    for (i = 0; i < p->model.n_layers; i++) {
        const size_t width = skvi_cold_width(&p->layers[i]);
        if (width > tmp.max_width) tmp.max_width = width;
    }
    for (i = 0; i < p->n_streams; i++) {
        if (p->stream[i].D > tmp.max_D) tmp.max_D = p->stream[i].D;
        if (p->stream[i].R > tmp.max_R) tmp.max_R = p->stream[i].R;
        if (p->stream[i].D > tmp.max_R) tmp.max_R = p->stream[i].D;  /* refs serves as room too */
    }
    bits = (double)desc->bpe * p->elements -
           p->model.n_layers * (SKVI_COLD_HEADER + 4.0) * 8 / SKVI_P;
    if (bits <= 0) return SKV_ERR_TARGET;
    tmp.step = skvi_cold_search(p, bits);
    if (tmp.step < -32768 || tmp.step > 32767) return SKV_ERR_TARGET;
    tmp.most = SKVI_COLD_HEADER + 8 + 8 * tmp.max_width * SKVI_P;    /* 33 bits each, and skew */
    (void)skvi_take(&a, 1, sizeof tmp);
    skvi_cold_layout(&a, &tmp);
    r = skvi_arena_block(&a, &tmp.alloc, &tmp.block, &tmp.bytes);
    if (r != SKV_OK) return r;
    c = (skv_cold *)skvi_take(&a, 1, sizeof *c);
    *c = tmp;
    skvi_cold_layout(&a, c);
    *out = c;
    return SKV_OK;
}

SKVDEF void skv_cold_free(skv_cold *c)
{
    skv_allocator a;
    if (!c) return;
    a = c->alloc;
    a.free(a.user, c->block, c->bytes);
}

SKVDEF double skv_cold_step(const skv_cold *c) { return c ? exp2(c->step / 64.0) : 0; }
SKVDEF size_t skv_cold_page_most(const skv_cold *c) { return c ? c->most : 0; }

static float *skvi_cold_slot(const skv_cold *c, uint32_t layer)
{
    return c->rows + layer % (c->p->depth + 1) * SKVI_P * c->max_width;
}

/* Are the layers before held for these tokens? */
static int skvi_cold_ready(const skv_cold *c, uint32_t layer, uint32_t position, uint32_t n)
{
    uint32_t a;
    for (a = 1; a <= c->p->depth && a <= layer; a++) {
        uint32_t i = (layer - a) % (c->p->depth + 1);
        if (!c->held[i].known || c->held[i].layer != layer - a || c->held[i].n != n ||
            c->held[i].position != position)
            return 0;
    }
    return 1;
}

/* Coded channels of a stream: those with a sd above 1/16 of a step, all in front. */
static uint32_t skvi_cold_coded(const skvi_coldstream *s, int32_t step)
{
    uint32_t n = s->D;
    while (n && s->level[n - 1] - step <= -SKVI_COLD_CUT) n--;
    return n;
}

/* Prediction of stream (kind, g) of a layer from the held rows: x [n][D], without the mean. */
static void skvi_cold_predict(skv_cold *c, uint32_t layer, int kind, uint32_t g,
                              const skvi_coldstream *s, uint32_t n)
{
    const skv_cold_profile *p = c->p;
    uint32_t t, a;
    for (t = 0; t < n; t++) {
        float *to = c->refs + t * s->R;
        if (kind) {
            const float *row = skvi_cold_slot(c, layer) + t * c->max_width;
            size_t dk = (size_t)s->heads * p->layers[layer].head_dim;
            memcpy(to, row + (size_t)g * p->head_group * p->layers[layer].head_dim,
                   dk * sizeof(float));
            to += dk;
        }
        for (a = 1; a <= p->depth && a <= layer; a++)
            if (g < skvi_groups(&p->layers[layer - a], p->head_group))
                to = skvi_cold_pick(&p->layers[layer - a], p->head_group, g,
                                    skvi_cold_slot(c, layer - a) + t * c->max_width, to);
    }
    memset(c->x, 0, n * s->D * sizeof(float));
    skvi_pick_kernels()->gemm(n, s->D, s->R, c->refs, s->R, s->pred, s->D, c->x, s->D);
}

/* Adds what the integers say to the prediction in x, and puts it into the layer's rows at `at`. */
static void skvi_cold_restore(skv_cold *c, const skvi_coldstream *s, uint32_t coded,
                              const int32_t *q, uint32_t n, float *at)
{
    float step = (float)exp2(c->step / 64.0);
    uint32_t t, i;
    for (t = 0; t < n; t++)
        for (i = 0; i < coded; i++) {
            int32_t v = q[t * coded + i], a = v < 0 ? -v : v;
            float z = (float)a - (a == 1 ? SKVI_COLD_ONE : a ? SKVI_COLD_MORE : 0);
            c->y[t * coded + i] = v < 0 ? -z * step : z * step;
        }
    skvi_pick_kernels()->gemm(n, s->D, coded, c->y, coded, s->dec, s->D, c->x, s->D);
    for (t = 0; t < n; t++)
        memcpy(at + t * c->max_width, c->x + t * s->D, s->D * sizeof(float));
}

/* Where stream (kind, g) lies in a layer's row. */
static size_t skvi_cold_offset(const skv_cold_profile *p, uint32_t layer, int kind, uint32_t g)
{
    const skv_layer *l = &p->layers[layer];
    return kind ? (size_t)l->n_kv_heads * l->head_dim + (size_t)g * p->head_group * l->head_dim_v
                : (size_t)g * p->head_group * l->head_dim;
}

/* A stream's entry, and its arrays where the block is there. */
static void skvi_coldtable_fill(const skvi_coldstream *s, uint32_t at, skvi_arena *a,
                                skv_cold_table_stream *t)
{
    const size_t n = s->D;
    memset(t, 0, sizeof *t);
    t->heads = s->heads;
    t->dim = s->dim;
    t->n = s->D;
    t->at = at;
    t->refs = s->R;
    skvi_table_put(a, s->mean, n, sizeof(float), &t->mean);
    skvi_table_put(a, s->dec, n * n, sizeof(float), &t->decode);
    skvi_table_put(a, s->pred, s->R * n, sizeof(float), &t->predict);
    skvi_table_put(a, s->level, n, sizeof(int32_t), &t->level);
}

static void skvi_coldtable_head(const skv_cold_profile *p, uint32_t layer, skv_cold_table *t)
{
    uint32_t i;
    memset(t, 0, sizeof *t);
    t->magic = SKV_COLD_MAGIC;
    t->page_version = SKVI_COLD_VERSION;
    t->layer = layer;
    t->n_groups = skvi_groups(&p->layers[layer], p->head_group);
    t->head_group = p->head_group;
    t->depth = p->depth;
    t->crc = p->crc;
    t->shape = p->layers[layer];
    for (i = 0; i < p->depth && i < layer; i++) t->before[i] = p->layers[layer - 1 - i];
    for (i = 0; i < p->model.n_layers; i++) {
        const uint32_t width = skvi_cold_width(&p->layers[i]);
        if (width > t->width) t->width = width;
    }
    t->style = p->turn[layer].style;
    t->pairs = p->turn[layer].pairs;
    memcpy(t->mean, skvi_cold_mean, sizeof t->mean);
    memcpy(t->start, skvi_cold_table, sizeof t->start);
}

/* The block, or with an arena without memory its size alone. */
static void skvi_coldtable_write(const skv_cold_profile *p, uint32_t layer, skvi_arena *a)
{
    const skvi_turn *r = &p->turn[layer];
    skv_cold_table head, *t = (skv_cold_table *)skvi_take(a, 1, sizeof *t);
    skv_cold_table_stream one, *s;
    uint64_t *turns;
    uint32_t i, g, streams;
    skvi_coldtable_head(p, layer, &head);
    streams = 2 * head.n_groups;
    s = (skv_cold_table_stream *)skvi_table_put(a, NULL, streams, sizeof *s, &head.stream);
    turns = (uint64_t *)skvi_table_put(a, NULL, r->pairs, sizeof *turns, &head.turns);
    for (i = 0; turns && i < r->pairs; i++) turns[i] = skvi_table_turns(0.5f * r->freq[i]);
    for (i = 0; i < streams; i++) {
        g = i % head.n_groups;
        skvi_coldtable_fill(&p->stream[p->first[layer] + i],
                            (uint32_t)skvi_cold_offset(p, layer, i >= head.n_groups, g), a, &one);
        if (s) s[i] = one;
    }
    (void)skvi_take(a, 0, 1);
    head.bytes = (uint32_t)a->used;
    if (t) *t = head;
}

SKVDEF skv_result skv_cold_tables(const skv_cold_profile *p, uint32_t layer, void *buf,
                                  size_t capacity, size_t *bytes)
{
    skvi_arena a = {NULL, 0, 0};
    skv_result r;
    if (!p || !bytes || layer >= p->model.n_layers) return SKV_ERR_ARG;
    skvi_coldtable_write(p, layer, &a);
    *bytes = a.used;
    r = skvi_table_room(&a, buf, capacity);
    if (r == SKV_OK && buf) skvi_coldtable_write(p, layer, &a);
    return r;
}

/* Integers of a stream from its rows, which become what is left of them, z / step. */
static skv_result skvi_cold_quantise(skv_cold *c, const skvi_coldstream *s, uint32_t coded,
                                     uint32_t n, const float *at, int32_t *q)
{
    float inv = (float)exp2(-c->step / 64.0);
    uint32_t t, i;
    for (t = 0; t < n; t++)
        for (i = 0; i < s->D; i++)
            c->refs[t * s->D + i] = at[t * c->max_width + i] - c->x[t * s->D + i];
    memset(c->y, 0, n * coded * sizeof(float));
    skvi_pick_kernels()->gemm(n, coded, s->D, c->refs, s->D, s->enc, s->D, c->y, coded);
    for (i = 0; i < n * coded; i++) {
        float y = c->y[i] * inv, a = fabsf(y) + SKVI_COLD_ROUND;
        if (!(a < (float)SKVI_COLD_LARGEST)) return SKV_ERR_RANGE;
        q[i] = y < 0 ? -(int32_t)a : (int32_t)a;
    }
    return SKV_OK;
}

/* The integers of one stream through the coder: encodes with out set in r, else decodes. */
static void skvi_cold_code(skv_cold *c, skvi_rangecoder *r, const skvi_coldstream *s,
                           uint32_t coded, uint32_t n, int32_t *q)
{
    skvi_coldmodel *m = &c->model;
    uint32_t t, i;
    for (i = 0; i < coded; i++) c->level[i] = s->level[i] - c->step;
    skvi_cold_expect(m, c->level, coded);
    for (t = 0; t < n; t++, q += coded) {
        m->sum = m->expected = 0;
        if (r->out) for (i = 0; i < coded; i++) skvi_cold_encode_one(r, m, i, q[i]);
        else for (i = 0; i < coded; i++) q[i] = skvi_cold_decode_one(r, m, i);
    }
}

static uint32_t skvi_cold_page_crc(const skv_cold *c, uint32_t layer, const unsigned char *page,
                                   size_t bytes)
{
    uint32_t crc = skvi_crc32(page, 16) * 0x9E3779B1u ^
                   skvi_crc32(page + SKVI_COLD_HEADER, bytes - SKVI_COLD_HEADER) ^ c->p->crc;
    if (layer && c->p->depth) crc ^= c->held[(layer - 1) % (c->p->depth + 1)].crc;
    return crc;
}

static void skvi_cold_hold(skv_cold *c, uint32_t layer, uint32_t position, uint32_t n, uint32_t crc)
{
    uint32_t i = layer % (c->p->depth + 1);
    c->held[i].layer = layer;
    c->held[i].position = position;
    c->held[i].n = n;
    c->held[i].crc = crc;
    c->held[i].known = 1;
}

SKVDEF skv_result skv_cold_encode(skv_cold *c, uint32_t layer, uint32_t position, const skv_span *k,
                                  const skv_span *v, size_t n, void *page, size_t capacity,
                                  size_t *bytes)
{
    unsigned char *b = (unsigned char *)page;
    const skv_layer *l;
    const skvi_coldstream *s;
    skvi_tokens vk, vv;
    skvi_rangecoder rc;
    float *rows;
    uint32_t g, groups, t, i;
    int kind;
    skv_result r;
    if (!c || !page || !bytes || layer >= c->p->model.n_layers || !n || n > SKVI_P ||
        capacity < c->most)
        return SKV_ERR_ARG;
    l = &c->p->layers[layer];
    r = skvi_open(&vk, k, l->n_kv_heads, l->head_dim);
    if (r == SKV_OK) r = skvi_open(&vv, v, l->n_kv_heads, l->head_dim_v);
    if (r == SKV_OK) r = skvi_check_values(&vk, n, l->n_kv_heads, SKVI_LARGEST);
    if (r == SKV_OK) r = skvi_check_values(&vv, n, l->n_kv_heads, SKVI_LARGEST);
    if (r == SKV_OK && !skvi_cold_ready(c, layer, position, (uint32_t)n)) r = SKV_ERR_STATE;
    if (r != SKV_OK) return r;
    c->held[layer % (c->p->depth + 1)].known = 0;
    rows = skvi_cold_slot(c, layer);
    groups = skvi_groups(l, c->p->head_group);
    for (t = 0; t < n; t++)
        skvi_cold_row(l, &c->p->turn[layer], &vk, &vv, t, (double)position + t,
                      rows + t * c->max_width);
    skvi_rc_encode_begin(&rc, b + SKVI_COLD_HEADER, capacity - SKVI_COLD_HEADER);
    skvi_cold_start(&c->model);
    for (kind = 0; kind < 2; kind++)
        for (g = 0; g < groups; g++) {
            float *at = rows + skvi_cold_offset(c->p, layer, kind, g);
            uint32_t coded;
            s = &c->p->stream[c->p->first[layer] + (kind ? groups : 0) + g];
            coded = skvi_cold_coded(s, c->step);
            for (t = 0; t < n; t++)
                for (i = 0; i < s->D; i++) at[t * c->max_width + i] -= s->mean[i];
            skvi_cold_predict(c, layer, kind, g, s, (uint32_t)n);
            r = skvi_cold_quantise(c, s, coded, (uint32_t)n, at, c->q);
            if (r != SKV_OK) return r;
            skvi_cold_code(c, &rc, s, coded, (uint32_t)n, c->q);
            skvi_cold_restore(c, s, coded, c->q, (uint32_t)n, at);
        }
    *bytes = SKVI_COLD_HEADER + skvi_rc_encode_end(&rc);
    if (rc.full) return SKV_ERR_RANGE;
    b[0] = 'C';
    b[1] = SKVI_COLD_VERSION;
    b[2] = (unsigned char)n;
    b[3] = 0;
    skvi_put16(b + 4, layer);
    skvi_put16(b + 6, (uint32_t)(c->step + 32768));
    skvi_put32(b + 8, position);
    skvi_put32(b + 12, (uint32_t)*bytes);
    skvi_put32(b + 16, skvi_cold_page_crc(c, layer, b, *bytes));
    skvi_cold_hold(c, layer, position, (uint32_t)n, skvi_get32(b + 16));
    return SKV_OK;
}

/* Held rows of a layer to dense floats, keys turned to position on. */
static void skvi_cold_out(const skv_cold *c, uint32_t layer, uint32_t position, uint32_t n,
                          float *k, float *v)
{
    const skv_layer *l = &c->p->layers[layer];
    uint32_t groups = skvi_groups(l, c->p->head_group), g, t, i, h;
    size_t nk = (size_t)l->n_kv_heads * l->head_dim, nv = (size_t)l->n_kv_heads * l->head_dim_v;
    int kind;
    for (kind = 0; kind < 2; kind++) {
        float *to = kind ? v : k;
        size_t width = kind ? nv : nk;
        if (!to) continue;
        for (g = 0; g < groups; g++) {
            const skvi_coldstream *s = &c->p->stream[c->p->first[layer] + (kind ? groups : 0) + g];
            size_t from = skvi_cold_offset(c->p, layer, kind, g), at = from - (kind ? nk : 0);
            const float *row = skvi_cold_slot(c, layer) + from;
            for (t = 0; t < n; t++)
                for (i = 0; i < s->D; i++)
                    to[t * width + at + i] = row[t * c->max_width + i] + s->mean[i];
        }
        for (t = 0; t < n && !kind; t++)
            for (h = 0; h < l->n_kv_heads; h++)
                skvi_cold_turn(&c->p->turn[layer], (double)position + t, 0,
                              to + t * width + h * l->head_dim);
    }
}

SKVDEF skv_result skv_cold_rows(skv_cold *c, uint32_t layer, uint32_t position, float *k, float *v)
{
    uint32_t i;
    if (!c || layer >= c->p->model.n_layers) return SKV_ERR_ARG;
    i = layer % (c->p->depth + 1);
    if (!c->held[i].known || c->held[i].layer != layer) return SKV_ERR_STATE;
    skvi_cold_out(c, layer, position == SKV_NONE ? c->held[i].position : position, c->held[i].n, k,
                  v);
    return SKV_OK;
}

static skv_result skvi_cold_check(const skv_cold *c, uint32_t layer, const unsigned char *b,
                                  size_t bytes)
{
    if (bytes < SKVI_COLD_HEADER) return SKV_ERR_TRUNCATED;
    if (b[0] != 'C') return SKV_ERR_FORMAT;
    if (b[1] > SKVI_COLD_VERSION) return SKV_ERR_VERSION;
    if (b[1] != SKVI_COLD_VERSION || !b[2] || b[2] > SKVI_P || b[3]) return SKV_ERR_FORMAT;
    if (skvi_get32(b + 12) > bytes) return SKV_ERR_TRUNCATED;
    if (skvi_get32(b + 12) < bytes || skvi_get16(b + 4) != layer) return SKV_ERR_FORMAT;
    if (!skvi_cold_ready(c, layer, skvi_get32(b + 8), b[2])) return SKV_ERR_STATE;
    if (skvi_cold_page_crc(c, layer, b, bytes) != skvi_get32(b + 16)) return SKV_ERR_CHECKSUM;
    return SKV_OK;
}

SKVDEF skv_result skv_cold_decode(skv_cold *c, uint32_t layer, uint32_t position, const void *page,
                                  size_t bytes, float *k, float *v, size_t *n)
{
    const unsigned char *b = (const unsigned char *)page;
    const skv_layer *l;
    skvi_rangecoder rc;
    uint32_t g, groups, tokens, coded;
    int32_t own_step;
    float *rows;
    int kind;
    skv_result r;
    if (!c || !page || !n || layer >= c->p->model.n_layers) return SKV_ERR_ARG;
    r = skvi_cold_check(c, layer, b, bytes);
    if (r != SKV_OK) return r;
    c->held[layer % (c->p->depth + 1)].known = 0;
    tokens = b[2];
    own_step = c->step;
    c->step = (int32_t)skvi_get16(b + 6) - 32768;   /* a page may have another than this coder's */
    l = &c->p->layers[layer];
    groups = skvi_groups(l, c->p->head_group);
    rows = skvi_cold_slot(c, layer);
    skvi_rc_decode_begin(&rc, b + SKVI_COLD_HEADER, bytes - SKVI_COLD_HEADER);
    skvi_cold_start(&c->model);
    for (kind = 0; kind < 2; kind++)
        for (g = 0; g < groups; g++) {
            const skvi_coldstream *s = &c->p->stream[c->p->first[layer] + (kind ? groups : 0) + g];
            coded = skvi_cold_coded(s, c->step);
            skvi_cold_code(c, &rc, s, coded, tokens, c->q);
            skvi_cold_predict(c, layer, kind, g, s, tokens);
            skvi_cold_restore(c, s, coded, c->q, tokens,
                              rows + skvi_cold_offset(c->p, layer, kind, g));
        }
    c->step = own_step;
    if (rc.at > rc.end + 8) return SKV_ERR_FORMAT;
    skvi_cold_hold(c, layer, skvi_get32(b + 8), tokens, skvi_get32(b + 16));
    skvi_cold_out(c, layer, position == SKV_NONE ? skvi_get32(b + 8) : position, tokens, k, v);
    *n = tokens;
    return SKV_OK;
}

#ifdef __cplusplus
}
#endif
#ifdef SKVI_QUIET
#pragma GCC diagnostic pop
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
