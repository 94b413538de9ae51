/* fuzz_page.c: fuzzes skv_decode over pages of four codecs. What passes the check must decode to
 * finite rows and to the same rows again; what is refused must leave the outputs alone.
 *
 * Byte 0 picks codec and layer. Where bit 7 is set the rest is the page as it is; else the rest is
 * a list of changes of a valid page, so that no seed files are needed: groups of 4 bytes, place
 * (2 bytes), operation, value.
 */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "fuzz.h"
#include "synthetic.h"

#define MUST(cond) do { if (!(cond)) abort(); } while (0)
#define CODECS 4
#define MOST_ROW (6 * 40)           /* elements of a token in any of them */

typedef struct fuzz_codec {
    skv_profile   *profile;
    skv_codec     *codec;
    unsigned char *page[2];         /* a valid page of each layer */
    size_t         bytes[2], wk, wv;
} fuzz_codec;

static fuzz_codec codecs[CODECS];

static void make_codec(fuzz_codec *f, size_t number)
{
    static const syn shapes[CODECS] = {
        {{2, 1, 16, 0, 0, 0, 0}, 1, 1.0f, 2.0f, 0.1f, 20},
        {{3, 3, 17, 24, 0, 0, 0}, 2, 1.0f, 2.0f, 0.1f, 20},
        {{6, 6, 20, 40, 0, 0, 0}, 3, 1.0f, 2.0f, 0.05f, 20},
        {{4, 2, 64, 16, 0, 0, 0}, 4, 1.0f, 2.0f, 0, 1}};
    static const float bpe[CODECS] = {3, 2, 5, 1};
    const syn *s = &shapes[number];
    skv_codec_desc d = SKV_ZERO;
    uint32_t layer;
    f->profile = syn_profile_turned(s, 2, (uint32_t)number + 1, 1 + number % 2,
                                    (uint32_t)number * 3);      /* the first does not turn */
    MUST(f->profile);
    d.profile = f->profile;
    d.target.bpe = bpe[number];
    MUST(skv_codec_init(&f->codec, &d) == SKV_OK);
    f->wk = (size_t)s->shape.n_kv_heads * s->shape.head_dim;
    f->wv = (size_t)s->shape.n_kv_heads * syn_dim_v(&s->shape);
    for (layer = 0; layer < 2; layer++) {
        syn_data x = syn_make(s, layer, 1, SKV_PAGE_TOKENS);
        skv_span k = skv_f32(x.k), v = skv_f32(x.v);
        size_t most = 0, n = layer ? 33 : SKV_PAGE_TOKENS;
        MUST(skv_codec_page_bytes(f->codec, layer, NULL, &most) == SKV_OK);
        f->page[layer] = (unsigned char *)malloc(most);
        MUST(f->page[layer]);
        MUST(skv_encode(f->codec, layer, &k, &v, n, 1000 * number, f->page[layer], most,
                        &f->bytes[layer]) == SKV_OK);
        syn_free(&x);
    }
}

static void decode(const fuzz_codec *f, uint32_t layer, const unsigned char *page, size_t bytes)
{
    static float k[SKV_PAGE_TOKENS * MOST_ROW], v[SKV_PAGE_TOKENS * MOST_ROW];
    static float again[SKV_PAGE_TOKENS * MOST_ROW];
    size_t n = 999, m = 0, i;
    skv_result r;
    k[0] = v[0] = 4711;
    r = skv_decode(f->codec, layer, page, bytes, k, v, &n);
    if (r != SKV_OK) {
        MUST(r == SKV_ERR_FORMAT || r == SKV_ERR_TRUNCATED || r == SKV_ERR_VERSION);
        MUST(n == 999 && k[0] == 4711 && v[0] == 4711);
        return;
    }
    MUST(bytes >= 12 && n == page[1] && n >= 1 && n <= SKV_PAGE_TOKENS);
    for (i = 0; i < n * f->wk; i++) MUST(skvi_is_finite(k[i]));
    for (i = 0; i < n * f->wv; i++) MUST(skvi_is_finite(v[i]));
    MUST(skv_decode(f->codec, layer, page, bytes, again, NULL, &m) == SKV_OK && m == n);
    MUST(!memcmp(again, k, n * f->wk * sizeof(float)));
}

/* A valid page with changes, in a block of its exact size. */
static void changed_page(const fuzz_codec *f, uint32_t layer, const uint8_t *data, size_t size)
{
    size_t n = f->bytes[layer], at, i;
    unsigned char *page = (unsigned char *)malloc(n + 256);
    MUST(page);
    memset(page, 0, n + 256);
    memcpy(page, f->page[layer], n);
    for (i = 0; i + 4 <= size; i += 4) {
        at = (data[i] | (size_t)data[i + 1] << 8) % n;
        if (data[i + 1] & 0x80) at = f->codec->coder.least[layer] + at % 64;    /* the rows */
        if (data[i + 1] & 0x40) at = at % 24;                                   /* the headers */
        if (at >= n) continue;
        switch (data[i + 2] % 8) {
        case 0: page[at] = (unsigned char)(page[at] ^ (1u << (data[i + 3] & 7))); break;
        case 1: n = at + 1; break;                                  /* cut */
        case 2: skvi_put32(page + 4, (uint32_t)n); break;           /* and make it fit */
        case 3: n = f->bytes[layer] + data[i + 3]; break;           /* longer */
        default: page[at] = data[i + 3];
        }
    }
    page = (unsigned char *)realloc(page, n < 8 ? 8 : n);
    MUST(page);
    decode(f, layer, page, n);
    free(page);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const fuzz_codec *f;
    uint32_t layer;
    size_t i;
    if (!codecs[0].codec)
        for (i = 0; i < CODECS; i++) make_codec(&codecs[i], i);
    if (!size) return 0;
    f = &codecs[data[0] % CODECS];
    layer = data[0] >> 2 & 1;
    if (data[0] & 0x80) decode(f, layer, data + 1, size - 1);
    else changed_page(f, layer, data + 1, size - 1);
    return 0;
}
