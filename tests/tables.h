/* tables.h: the tables of kernels that this build has and this machine runs, for tests that compare
 * them. Include it after the implementation of spectral_kv.h and test.h. */
#ifndef SKV_TABLES_H
#define SKV_TABLES_H

#define NO_TABLE \
    "only C kernels here: others need gcc or clang and SSE4.1, aarch64 or -msimd128, no SKV_NO_SIMD"

/* Table i: 0 is C, the last one is what skvi_pick_kernels() takes; NULL beyond it. */
static inline const skvi_kernels *table_at(uint32_t i)
{
    const skvi_kernels *have[8] = {NULL};
    uint32_t n = 0;
    have[n++] = &skvi_kernels_c;
#ifdef SKVI_LA_SSE41
    if (SKVI_LA_HAS_SSE41()) have[n++] = &skvi_kernels_128;
#endif
#ifdef SKVI_LA_AVX2
    if (SKVI_LA_HAS_AVX2()) have[n++] = &skvi_kernels_avx2;
#endif
#ifdef SKVI_LA_AVX512
    if (skv_isa() & SKV_ISA_AVX512) have[n++] = &skvi_kernels_avx512;
#endif
#if defined(SKVI_LA_128) && !defined(SKVI_LA_SSE41)
    have[n++] = &skvi_kernels_128;
#endif
    return i < n ? have[i] : NULL;
}

static inline const char *table_name(const skvi_kernels *k)
{
#ifdef SKVI_LA_AVX512
    if (k == &skvi_kernels_avx512) return "AVX-512";
#endif
#ifdef SKVI_LA_AVX2
    if (k == &skvi_kernels_avx2) return "AVX2";
#endif
#if defined(SKVI_LA_SSE41)
    if (k == &skvi_kernels_128) return "SSE4.1";
#elif defined(SKVI_LA_NEON)
    if (k == &skvi_kernels_128) return "NEON";
#elif defined(SKVI_LA_WASM)
    if (k == &skvi_kernels_128) return "WASM SIMD128";
#endif
    return k == &skvi_kernels_c ? "C" : "unknown";
}

/* Runs a comparison with the C table for every other one. */
static inline void compare_tables(void (*compare)(const skvi_kernels *other))
{
    uint32_t i;
    if (!table_at(1)) SKIP(NO_TABLE);
    for (i = 1; table_at(i); i++) compare(table_at(i));
}
#endif
