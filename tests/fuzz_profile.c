/* fuzz_profile.c: fuzzes skv_profile_load and what is done with a profile that loads: outlook,
 * summary, codec, a page there and back, saving.
 *
 * Byte 0 of the input are flags: 1 = make the checksums right, 2 = the rest is a list of changes
 * to a built-in blob of two layers (groups of 12 bytes: operation, place in 3 bytes, value in 8),
 * else the rest is the blob itself. The seeds in tests/data/fuzz_profile/ are tests/data/
 * profile_v1.skv and profile_v2.skv behind a byte of 1.
 */
#include "fuzz.h"
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "profile_build.h"

#define GROUP 12
#define MUST(cond) do { if (!(cond)) abort(); } while (0)

static volatile float sink;
static uint64_t noise;

/* Floats of every size, now and then at the limit of what is accepted. */
static void values(float *x, size_t n, uint32_t how)
{
    static const float size[8] = {1, 1e-6f, 1e4f, 0, 1e9f, 3e-39f, 1e10f, 100};
    size_t i;
    for (i = 0; i < n; i++) {
        noise = noise * 6364136223846793005u + 1442695040888963407u;
        x[i] = ((float)(noise >> 40) / 8388608.0f - 1) * size[how & 7];
    }
    if ((how & 24) == 24 && n) x[noise % n] = NAN;
}

static void try_page(const skv_profile *p, const skv_target *t, uint32_t layer, uint32_t how)
{
    const skv_layer *l = &skv_profile_model(p)->layers[layer];
    size_t nk = 64 * (size_t)l->n_kv_heads * l->head_dim, least = 0, most = 0, bytes = 0, n = 0;
    size_t nv = 64 * (size_t)l->n_kv_heads * l->head_dim_v, i;
    float *k = (float *)malloc(2 * (nk + nv) * sizeof *k), *v = k + nk;
    size_t at = how & 128 ? 0xFFFFFFFFu : how * 997u;       /* position */
    skv_codec_desc d = SKV_ZERO;
    skv_codec *c = NULL;
    skv_span sk = skv_f32(k), sv = skv_f32(v);
    unsigned char *page;
    d.profile = p;
    d.target = *t;
    d.outliers = how & 64 ? -1.0f : 0;
    if (k && skv_codec_init(&c, &d) == SKV_OK) {
        values(k, nk + nv, how);
        MUST(skv_codec_page_bytes(c, layer, &least, &most) == SKV_OK && least <= most);
        page = (unsigned char *)malloc(most);
        if (page &&
            skv_encode(c, layer, &sk, &sv, 1 + how % 64, at, page, most, &bytes) == SKV_OK) {
            MUST(bytes >= least && bytes <= most);
            MUST(skv_decode(c, layer, page, bytes, v + nv, v + nv + nk, &n) == SKV_OK);
            MUST(n == 1 + how % 64);
            for (i = 0; i < n; i++) sink += v[nv + i];
        }
        free(page);
    }
    skv_codec_free(c);
    free(k);
}

/* A loaded profile saves, and what it saves loads and saves the same. */
static void try_save(const skv_profile *p)
{
    size_t n = 0, m = 0;
    unsigned char *a, *b;
    skv_profile *q = NULL;
    MUST(skv_profile_save(p, NULL, 0, &n) == SKV_OK);
    a = (unsigned char *)malloc(2 * n);
    if (!a) return;
    b = a + n;
    MUST(skv_profile_save(p, a, n, &m) == SKV_OK && m == n);
    MUST(skv_profile_load(&q, a, n, skv_profile_model(p), NULL) == SKV_OK);
    MUST(skv_profile_save(q, b, n, &m) == SKV_OK && m == n && !memcmp(a, b, n));
    skv_profile_free(q);
    free(a);
}

static void try_profile(const skv_profile *p, const uint8_t *body, size_t size)
{
    static const float bpe[4] = {0, 4, 1, 16};
    uint32_t how = size ? body[size - 1] : 0, layer;
    skv_target t;
    skv_outlook o;
    char text[700];
    size_t n = 0;
    memset(&t, 0, sizeof t);
    for (layer = 0; layer < 5; layer++) {
        memset(&t, 0, sizeof t);
        if (layer < 4) t.bpe = bpe[layer];
        else t.energy = 0.9f;
        if (skv_profile_outlook(p, &t, &o) != SKV_OK) continue;
        MUST(o.bpe > 0 && o.error >= 0 && o.rank_min <= o.rank_median && o.rank95_max > 0);
        MUST(t.bpe == 0 || o.bpe <= (double)t.bpe * 1.000001);
    }
    t.energy = 0;
    t.bpe = how & 128 ? 2.0f : 0.0f;
    (void)skv_profile_summary(p, &t, text, sizeof text, &n);
    for (layer = 0; layer < skv_profile_model(p)->n_layers && layer < 3; layer++)
        try_page(p, &t, layer, how + layer);
    try_save(p);
}

/* Makes every checksum right that can be. */
static void fix(uint8_t *b, size_t size)
{
    uint32_t n = size >= 32 ? skvi_get32(b + 12) : 0, i;
    if (size < 32) return;
    for (i = 0; i < n && 32 + 24 * ((size_t)i + 1) <= size; i++) {
        uint8_t *e = b + 32 + 24 * (size_t)i;
        uint64_t off = skvi_get64(e + 8), len = skvi_get64(e + 16);
        if (i < 64 && off <= size && len <= size - off)
            skvi_put32(e + 4, skvi_crc32(b + off, (size_t)len));
    }
    if (n <= (size - 32) / 24) skvi_put32(b + 24, skvi_crc32(b + 32, 24 * (size_t)n));
    skvi_put32(b + 28, skvi_crc32(b, 28));
}

/* The blob that changes apply to: two layers of other shapes, 2 of 3 heads joint. */
static const uint8_t *built_in(size_t *size)
{
    static uint8_t *blob;
    static size_t bytes;
    if (!blob) {
        skv_layer l[2];
        skv_model m;
        skv_profile *p;
        float freq[6] = {1, 0.5f, 0.1f, 0.03f, 0.01f, 0.001f};
        skvi_turn turn[2];
        skvi_turns turns;
        memset(&m, 0, sizeof m);
        turns.first = turn;
        turns.stride = sizeof turn[0];
        turn[0].style = SKV_ROPE_HALVES;
        turn[1].style = SKV_ROPE_ADJACENT;
        turn[0].freq = turn[1].freq = freq;
        turn[0].pairs = 6;
        turn[1].pairs = 4;
        l[0] = layer_of(2, 2, 16, 20);
        l[1] = layer_of(6, 3, 17, 16);
        l[1].softcap = 30;
        m.n_layers = 2;
        m.layers = l;
        p = profile_random_with(&m, 2, 0.8, &turns);
        MUST(p && skv_profile_save(p, NULL, 0, &bytes) == SKV_OK);
        blob = (uint8_t *)malloc(bytes);
        MUST(blob && skv_profile_save(p, blob, bytes, &bytes) == SKV_OK);
        skv_profile_free(p);
    }
    *size = bytes;
    return blob;
}

/* A copy of the built-in blob with 1, 2, 4 or 8 bytes set, or one added to, per group; half of the
   places are in header, table and description, half of the others in ROPE. */
static uint8_t *changed(const uint8_t *body, size_t size, size_t *n)
{
    const uint8_t *from = built_in(n);
    uint8_t *b = (uint8_t *)malloc(*n);
    size_t i, k, at, width;
    if (!b) return NULL;
    memcpy(b, from, *n);
    for (i = 0; i + GROUP <= size; i += GROUP) {
        at = body[i + 1] | (size_t)body[i + 2] << 8 | (size_t)body[i + 3] << 16;
        if (body[i] & 16) at = *n - 1 - at % 600;               /* ROPE is the end */
        else at %= body[i] & 4 ? 104 + 108 + 2 * 28 : *n;
        width = (size_t)1 << (body[i] & 3);
        for (k = 0; k < width && at + k < *n; k++)
            b[at + k] = (uint8_t)(body[i] & 8 ? b[at + k] + body[i + 4 + k] : body[i + 4 + k]);
    }
    return b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    skv_profile *p = NULL;
    uint8_t *b;
    size_t n = size ? size - 1 : 0;
    skv_result r;
    if (!size) return 0;
    noise = size;
    if (data[0] & 2) {
        b = changed(data + 1, size - 1, &n);
    } else if ((b = (uint8_t *)malloc(n ? n : 1)) != NULL) {
        memcpy(b, data + 1, n);
    }
    if (!b) return 0;
    if (data[0] & 1) fix(b, n);
    r = skv_profile_load(&p, b, n, NULL, NULL);
    free(b);                                    /* the profile borrows nothing */
    MUST((r == SKV_OK) == (p != NULL));
    if (p) try_profile(p, data + 1, size - 1);
    skv_profile_free(p);
    return 0;
}
