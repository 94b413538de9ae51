/* 02_own_memory.c - the whole way, calibration too, in memory of your own and without malloc.

   Shows: SKV_NO_STDLIB, the two ways to give memory (a block in a description, an allocator), how
   to ask for sizes first, and what happens when a block is too small.
   Leaves out: what compression costs in quality (01_quickstart.c).
   Build in the repository's root, then run ./a.out; `nm a.out | grep malloc` finds nothing:
       cc -O2 examples/02_own_memory.c -lm
   Prints what profiler, profile and cache take, how a block of half the size is refused,
   and the allocator's balance at the end. */
#define SKV_NO_STDLIB               /* the library then knows no malloc and no free */
#define SPECTRAL_KV_IMPLEMENTATION
#include "../spectral_kv.h"
#include "capture.h"

/* Block: the profiler lives in it first, the cache and its pages after that.
   Stack: what has no block of its own, here the profile and the work of skv_cache_size. */
static unsigned char block[2 * 1024 * 1024];
static union {
    unsigned char bytes[1024 * 1024];
    long double align_number;       /* aligned for any type, as allocators must be */
    void *align_pointer;
} stack;
static size_t stack_used, stack_most;

static capture cap;

/* An allocator in a dozen lines: free takes back only what was handed out last. */
static void *stack_alloc(void *user, size_t bytes)
{
    size_t at = stack_used;
    (void)user;
    if (bytes > sizeof stack.bytes - at) return NULL;
    stack_used = at + (bytes + 15) / 16 * 16;
    if (stack_used > stack_most) stack_most = stack_used;
    return stack.bytes + at;
}

static void stack_free(void *user, void *p, size_t bytes)
{
    size_t at = (size_t)((unsigned char *)p - stack.bytes);
    (void)user;
    if (at + (bytes + 15) / 16 * 16 == stack_used) stack_used = at;
}

static int failed(skv_result r, const char *what)
{
    if (r < SKV_OK) fprintf(stderr, "%s: %s\n", what, skv_result_text(r));
    return r < SKV_OK;
}

static int calibrate(skv_profile **profile, const skv_allocator *allocator)
{
    skv_profiler_desc d = SKV_ZERO;
    skv_profiler *profiler = NULL;
    size_t bytes = 0;
    uint32_t layer;
    d.model = capture_model(&cap);
    d.window = 16;
    d.max_passage = cap.n_tokens;   /* the work space is sized by it */
    d.allocator = *allocator;       /* the profile outlives the profiler: it comes from here */
    if (failed(skv_profiler_size(&d, &bytes), "profiler size")) return -1;
    printf("profiler: %8lu of %lu bytes of the block\n", (unsigned long)bytes,
           (unsigned long)sizeof block);
    d.memory = block;
    d.memory_bytes = sizeof block;
    if (failed(skv_profiler_init(&profiler, &d), "profiler")) return -1;
    for (layer = 0; layer < cap.n_layers; layer++) {
        capture_rows x = capture_at(&cap, layer, 0);
        if (failed(skv_profiler_add(profiler, layer, &x.q, &x.k, &x.v, cap.n_tokens), "calibrate"))
            return -1;
    }
    if (failed(skv_profiler_fit(profiler, NULL, profile), "fit")) return -1;
    skv_profiler_free(profiler);    /* the block is ours again */
    printf("profile:  %8lu bytes of the stack\n", (unsigned long)skv_profile_bytes(*profile));
    return 0;
}

static int use(skv_cache *cache)
{
    static float row[8192];         /* a capture of 1 MiB has no longer rows */
    skv_out out = skv_out_f32(row);
    skv_usage used;
    uint32_t layer;
    for (layer = 0; layer < cap.n_layers; layer++) {
        capture_rows x = capture_at(&cap, layer, 0);
        capture_rows last = capture_at(&cap, layer, cap.n_tokens - 1);
        if (failed(skv_append(cache, layer, &x.k, &x.v, cap.n_tokens), "append") ||
            failed(skv_attend(cache, layer, &last.q, 1, &out, NULL), "attend"))
            return -1;
    }
    if (failed(skv_cache_usage(cache, &used), "usage")) return -1;
    printf("in use:   %8lu bytes, %lu of them pages, with %lu tokens in\n",
           (unsigned long)used.bytes, (unsigned long)used.page_bytes, (unsigned long)used.tokens);
    return 0;
}

int main(int argc, char **argv)
{
    skv_allocator allocator = {NULL, stack_alloc, stack_free};
    skv_profile *profile = NULL;
    skv_cache_desc d = SKV_ZERO;
    skv_cache *cache = NULL;
    size_t bytes = 0;
    skv_result r;
    if (capture_read(&cap, argc > 1 ? argv[1] : CAPTURE_DEFAULT)) return 1;
    if (calibrate(&profile, &allocator)) return 1;
    d.profile = profile;
    d.target.bpe = 4.0f;
    d.max_tokens = cap.n_tokens;
    d.window = 16;
    d.allocator = allocator;        /* only skv_cache_size asks it, and gives all back */
    if (failed(skv_cache_size(&d, &bytes), "cache size")) return 1;
    printf("cache:    %8lu bytes with all its pages\n", (unsigned long)bytes);
    d.memory = block;
    d.memory_bytes = bytes / 2;
    r = skv_cache_init(&cache, &d);
    printf("in half:  %s: %s\n", skv_result_name(r), skv_result_text(r));
    d.memory_bytes = bytes;
    if (bytes > sizeof block || failed(skv_cache_init(&cache, &d), "cache") || use(cache)) return 1;
    skv_cache_free(cache);
    skv_profile_free(profile);
    printf("stack:    %8lu bytes at most, %lu now\n", (unsigned long)stack_most,
           (unsigned long)stack_used);
    return 0;
}
