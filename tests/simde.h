/* simde.h: AVX-512 kernels on a processor without it, for gcc with `-include tests/simde.h -mavx2
 * -mf16c`. SIMDe (Debian: libsimde-dev) computes what AVX-512's intrinsics would; AVX2's stay real.
 */
#ifndef SKV_SIMDE_H
#define SKV_SIMDE_H
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <string.h>
#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/and.h>
#include <simde/x86/avx512/broadcast.h>
#include <simde/x86/avx512/cast.h>
#include <simde/x86/avx512/cmp.h>
#include <simde/x86/avx512/cvt.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#include <simde/x86/avx512/extract.h>
#include <simde/x86/avx512/insert.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/max.h>
#include <simde/x86/avx512/mul.h>
#include <simde/x86/avx512/multishift.h>
#include <simde/x86/avx512/packs.h>
#include <simde/x86/avx512/permutex2var.h>
#include <simde/x86/avx512/permutexvar.h>
#include <simde/x86/avx512/set.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/setzero.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/slli.h>
#include <simde/x86/avx512/srli.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/sub.h>
#include <simde/x86/avx512/ternarylogic.h>
#include <simde/x86/avx512/unpackhi.h>
#include <simde/x86/avx512/unpacklo.h>
#include <simde/x86/avx512/xor.h>

#define SKVI_AVX512                 /* in place of the target attribute */
#define SKVI_KEEP512(x) (void)(x)
#define SKVI_LA_HAS_AVX512() 1

/* what SIMDe 0.7.4 lacks; the kernels ask for rounding to nearest */
#undef _mm512_add_round_ps
#undef _mm512_sub_round_ps
#undef _mm512_mul_round_ps
#define _mm512_add_round_ps(x, y, mode) ((void)(mode), simde_mm512_add_ps(x, y))
#define _mm512_sub_round_ps(x, y, mode) ((void)(mode), simde_mm512_sub_ps(x, y))
#define _mm512_mul_round_ps(x, y, mode) ((void)(mode), simde_mm512_mul_ps(x, y))

static inline simde__m512 skv_simde_floats(simde__m512i x)
{
    simde__m512i_private from = simde__m512i_to_private(x);
    simde__m512_private to;
    int i;
    for (i = 0; i < 16; i++) to.f32[i] = (simde_float32)from.i32[i];
    return simde__m512_from_private(to);
}
#define _mm512_cvtepi32_ps skv_simde_floats

static inline simde__m512i skv_simde_nearest(simde__m512 x)
{
    simde__m512_private from = simde__m512_to_private(x);
    simde__m512i_private to;
    int i;
    for (i = 0; i < 16; i++) to.i32[i] = _mm_cvtss_si32(_mm_set_ss(from.f32[i]));
    return simde__m512i_from_private(to);
}
#define _mm512_cvtps_epi32 skv_simde_nearest

static inline __m256i skv_simde_shorts(simde__m512i x)
{
    simde__m512i_private from = simde__m512i_to_private(x);
    short to[16];
    int i;
    for (i = 0; i < 16; i++) to[i] = (short)from.i32[i];
    return _mm256_loadu_si256((const __m256i *)to);
}
#define _mm512_cvtepi32_epi16 skv_simde_shorts

static inline __m128i skv_simde_bytes(simde__m512i x)
{
    simde__m512i_private from = simde__m512i_to_private(x);
    signed char to[16];
    int i;
    for (i = 0; i < 16; i++) to[i] = (signed char)from.i32[i];
    return _mm_loadu_si128((const __m128i *)to);
}
#define _mm512_cvtepi32_epi8 skv_simde_bytes

/* Where the mask says so, 32 bits of memory, which may end there; else of x. */
static inline simde__m512i skv_simde_masked(simde__m512i x, unsigned mask, const void *from)
{
    simde__m512i_private to = simde__m512i_to_private(x);
    int i;
    for (i = 0; i < 16; i++)
        if (mask >> i & 1u) memcpy(&to.i32[i], (const char *)from + 4 * i, 4);
    return simde__m512i_from_private(to);
}
#define _mm512_mask_loadu_epi32 skv_simde_masked
#define _mm512_maskz_loadu_ps(mask, from) \
    simde_mm512_castsi512_ps(skv_simde_masked(simde_mm512_setzero_si512(), mask, from))

static inline void skv_simde_store(float *to, unsigned mask, simde__m512 x)
{
    simde__m512_private from = simde__m512_to_private(x);
    int i;
    for (i = 0; i < 16; i++)
        if (mask >> i & 1u) to[i] = from.f32[i];
}
#define _mm512_mask_storeu_ps skv_simde_store
#endif
