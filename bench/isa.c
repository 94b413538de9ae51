/* isa.c: one kernel on a slab of 64 channels of one rate, called as attention calls it, for
 * tools/count_instructions.py, which runs it instruction by instruction. Macros say what: PART 0
 * expands, 1 makes scores, 2 values; H: half bits of a code; ROWS: query heads that share it. */
#define SKV_STATIC
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"

#define PAIRS (SKVI_SLAB / 8)

static unsigned char codes[SKVI_SLAB * SKVI_CODE_BYTES(16)], weight[SKVI_GANG * SKV_PAGE_TOKENS];
static signed char   levels[PAIRS * SKVI_PAIR_BYTES], query[PAIRS * SKVI_GANG * 32];
static int32_t       acc[SKVI_GANG * SKV_PAGE_TOKENS];

void count(void);
#ifdef __wasm__
__attribute__((export_name("count")))
#endif
void count(void)
{
    static const skvi_kernels *volatile table = &skvi_kernels_128;      /* no constants inlined */
    const skvi_kernels *k = table;
    if (PART == 0) k->expand(codes, H, 0, 0, SKVI_SLAB / 4, 0, levels);
    if (PART == 1) k->score(levels, query, PAIRS, ROWS, acc);
    if (PART == 2) k->value(levels, weight, PAIRS, ROWS, acc);
}

int main(void)
{
    count();
    return 0;
}
