/* Stored profiles: round trips, refusals, damage of every kind, and a golden file that must load
 * for ever.
 * cc -std=c99 -O2 -I. tests/test_blob.c -o test_blob -lm
 *
 * tests/data/profile_v1.skv is profile_golden() of profile_build.h and profile_v2.skv its
 * profile_golden_turned(), as `test_blob --write FILE` saved them with these versions of the
 * format. Never write them again: a change of the format gets a new version and a new file.
 */
#define SKV_STATIC      /* what a test does not use is not compiled */
#define SPECTRAL_KV_IMPLEMENTATION
#include "spectral_kv.h"
#include "profile_build.h"
#include "synthetic.h"

/* Where things are in a blob with three sections, and in the golden one. */
enum { TABLE = 32, MODL = TABLE + 3 * 24, LAYERS = MODL + 108, SPEC = LAYERS + 28,
       VAR_K = SPEC + 64, ENC_K = VAR_K + 64, DEC_K = ENC_K + 1024, STREAM = 128 + 2048,
       ROPE = SPEC + 2 * STREAM, FREQ = ROPE + 8, TURN = FREQ + 12, BYTES = TURN + 64,
       BYTES_V1 = 80 + 108 + 28 + 2 * STREAM };

typedef struct blob {
    unsigned char *p;
    size_t n;
} blob;

static blob save(const skv_profile *p)
{
    blob b = {NULL, 0};
    size_t again = 0;
    CHECK(skv_profile_save(p, NULL, 0, &b.n) == SKV_OK && b.n > 0);
    b.p = (unsigned char *)malloc(b.n);         /* its exact size: sanitizers watch the end */
    if (!b.p) abort();
    CHECK(skv_profile_save(p, b.p, b.n, &again) == SKV_OK && again == b.n);
    return b;
}

static blob copy_of(const unsigned char *p, size_t n)
{
    blob b;
    b.n = n;
    b.p = (unsigned char *)malloc(n ? n : 1);
    if (!b.p) abort();
    memcpy(b.p, p, n);
    return b;
}

static blob golden(void)
{
    skv_profile *p = profile_golden_turned(NULL);
    blob b = save(p);
    skv_profile_free(p);
    CHECK(b.n == BYTES);
    return b;
}

/* Loads with a counting allocator: nothing may stay behind on an error, nothing large be asked. */
static skv_result try_load(const unsigned char *p, size_t n, const skv_model *expect, size_t most)
{
    syn_counter count = {0, 0, 0, 0, 0, 0, 0};
    skv_allocator a = syn_allocator(&count);
    skv_profile *f = NULL;
    skv_result r = skv_profile_load(&f, p, n, expect, &a);
    CHECK((r == SKV_OK) == (f != NULL));
    CHECK(r == SKV_OK ? count.live_blocks == 1 : count.live_blocks == 0);
    CHECK(count.peak_bytes <= most);
    skv_profile_free(f);
    CHECK(count.live_bytes == 0 && count.wrong == 0);
    return r;
}

#define SMALL 16384u

/* ---- checksums by their definition ---- */

static uint32_t crc(const unsigned char *p, size_t n)
{
    uint32_t c = 0xFFFFFFFFu;
    size_t i;
    int k;
    for (i = 0; i < n; i++)
        for (c ^= p[i], k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0xEDB88320u : 0);
    return ~c;
}

static uint64_t get(const unsigned char *p, int n)
{
    uint64_t v = 0;
    while (n-- > 0) v = v << 8 | p[n];
    return v;
}

static void put(unsigned char *p, uint64_t v, int n)
{
    for (; n-- > 0; v >>= 8) *p++ = (unsigned char)(v & 255);
}

static void put_float(unsigned char *p, double x)
{
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, 4);
    put(p, u, 4);
}

/* Makes every checksum right that can be. */
static void fix(blob b)
{
    uint64_t n = get(b.p + 12, 4), i;
    for (i = 0; i < n && TABLE + (i + 1) * 24 <= b.n; i++) {
        unsigned char *e = b.p + TABLE + i * 24;
        uint64_t off = get(e + 8, 8), len = get(e + 16, 8);
        if (off <= b.n && len <= b.n - off) put(e + 4, crc(b.p + off, (size_t)len), 4);
    }
    if (n <= (b.n - TABLE) / 24) put(b.p + 24, crc(b.p + TABLE, (size_t)n * 24), 4);
    put(b.p + 28, crc(b.p, 28), 4);
}

/* ---- round trips ---- */

/* The same content: everything that a caller can see. */
static void check_same(const skv_profile *a, const skv_profile *b)
{
    uint32_t i, g;
    int kind;
    skv_outlook oa, ob;
    CHECK(a->model.n_layers == b->model.n_layers && a->head_group == b->head_group);
    CHECK(a->model.fingerprint == b->model.fingerprint && !strcmp(a->name, b->name));
    CHECK(a->sinks == b->sinks && a->window == b->window && a->n_tokens == b->n_tokens);
    CHECK(!memcmp(a->layers, b->layers, a->model.n_layers * sizeof *a->layers));
    for (i = 0; i < a->n_streams; i++) {
        const skvi_stream *s = &a->stream[i], *t = &b->stream[i];
        size_t D = s->D;
        CHECK(s->heads == t->heads && s->dim == t->dim && D == t->D);
        CHECK(!memcmp(s->mean, t->mean, 4 * D) && !memcmp(s->var, t->var, 4 * D));
        CHECK(!memcmp(s->enc, t->enc, 4 * D * D) && !memcmp(s->dec, t->dec, 4 * D * D));
        CHECK(!s->turn == !t->turn && (!s->turn || !memcmp(s->turn, t->turn, 4 * D)));
    }
    for (i = 0; i < a->model.n_layers; i++) {
        const skvi_turn *s = &a->turn[i], *t = &b->turn[i];
        CHECK(s->style == t->style && s->pairs == t->pairs);
        CHECK(!s->pairs || (s->freq != t->freq && !memcmp(s->freq, t->freq, 4 * s->pairs)));
    }
    for (i = 0; i < a->model.n_layers; i++)
        for (kind = 0; kind < 2; kind++)
            for (g = 0; g < skvi_groups(&a->layers[i], a->head_group); g++) {
                const float *x = NULL, *y = NULL;
                size_t n = 0, m = 1;
                CHECK(skv_profile_spectrum(a, i, (skv_kind)kind, g, &x, &n) == SKV_OK);
                CHECK(skv_profile_spectrum(b, i, (skv_kind)kind, g, &y, &m) == SKV_OK);
                CHECK(n == m && x && y && x != y && !memcmp(x, y, n * sizeof *x));
            }
    CHECK(skv_profile_outlook(a, NULL, &oa) == SKV_OK);
    CHECK(skv_profile_outlook(b, NULL, &ob) == SKV_OK);
    CHECK(oa.bpe == ob.bpe && oa.error == ob.error && oa.rank_median == ob.rank_median);
    CHECK(skv_profile_bytes(a) == skv_profile_bytes(b));
}

/* Loads from odd addresses, saves again, compares; frees p. */
static void round_trip(skv_profile *p)
{
    blob b = save(p), odd, again;
    skv_profile *q = NULL;
    size_t shift;
    for (shift = 0; shift < 9; shift += 1 + shift) {
        odd = copy_of(b.p, b.n);
        odd.p = (unsigned char *)realloc(odd.p, b.n + shift);
        if (!odd.p) abort();
        memmove(odd.p + shift, odd.p, b.n);
        CHECK(skv_profile_load(&q, odd.p + shift, b.n, NULL, NULL) == SKV_OK);
        memset(odd.p, 0xEE, b.n + shift);       /* nothing of it is borrowed */
        free(odd.p);
        check_same(p, q);
        again = save(q);
        CHECK(again.n == b.n && !memcmp(again.p, b.p, b.n));
        skv_profile_free(q);
        free(again.p);
    }
    skv_profile_free(p);
    free(b.p);
}

TEST(round_trip_golden)
{
    round_trip(profile_golden(NULL));
    round_trip(profile_golden_turned(NULL));
}

TEST(round_trip_of_many_layers)
{
    skv_layer l[3];
    skv_model m;
    skv_profile *p;
    skvi_turn turn[3];
    skvi_turns turns;
    float freq[12];
    int i;
    memset(&m, 0, sizeof m);
    l[0] = layer_of(4, 2, 24, 17);
    l[1] = layer_of(6, 3, 16, 16);
    l[2] = layer_of(5, 5, 16, 20);
    l[1].sliding_window = 128;
    l[1].softcap = 50;
    l[2].scale = 0.0625f;
    m.n_layers = 3;
    m.layers = l;
    m.fingerprint = 0xFEDCBA9876543210u;
    m.name = "sixty-three bytes of a name, which is as long as a name can be!";
    memset(turn, 0, sizeof turn);               /* keys of the second layer do not turn */
    turn[0].style = SKV_ROPE_ADJACENT;
    turn[2].style = SKV_ROPE_HALVES;
    turn[0].pairs = 12;
    turn[2].pairs = 1;
    for (i = 0; i < 12; i++) freq[i] = (float)i - 6;
    turn[0].freq = turn[2].freq = freq;
    turns.first = turn;
    turns.stride = sizeof turn[0];
    p = profile_random_with(&m, 3, 0.9, &turns);
    p->target.energy = 0.9f;
    p->window = 0xFFFFFFFFu;
    p->n_tokens = 9007199254740992.0;           /* 2^53 */
    CHECK(strlen(p->name) == 63);
    round_trip(p);
}

TEST(round_trip_of_a_fit)
{
    syn s;
    memset(&s, 0, sizeof s);
    s.shape = layer_of(4, 2, 16, 20);
    s.seed = 5;
    s.mean = 1;
    s.decay = 2;
    round_trip(syn_profile(&s, 2, 2, 1, 120));
}

TEST(sizes)
{
    skv_profile *p = profile_golden_turned(NULL);
    unsigned char buf[BYTES + 8];
    size_t n, bytes = 0;
    for (n = 0; n < BYTES; n += n < 300 ? 1 : 97) {
        memset(buf, 0x77, sizeof buf);
        bytes = 0;
        CHECK(skv_profile_save(p, buf, n, &bytes) == SKV_ERR_ARG && bytes == BYTES);
        CHECK(buf[0] == 0x77 && !memcmp(buf, buf + 1, sizeof buf - 1));     /* untouched */
    }
    for (n = 0; n <= 8; n += 4) {
        memset(buf, 0x77, sizeof buf);
        CHECK(skv_profile_save(p, buf, BYTES + n, &bytes) == SKV_OK && bytes == BYTES);
        CHECK(buf[BYTES] == 0x77 && buf[BYTES + 7] == 0x77);
    }
    CHECK(skv_profile_save(p, buf + 1, sizeof buf - 1, &bytes) == SKV_OK);  /* misaligned */
    CHECK(skv_profile_save(NULL, buf, sizeof buf, &bytes) == SKV_ERR_ARG);
    CHECK(skv_profile_save(p, buf, sizeof buf, NULL) == SKV_ERR_ARG);
    CHECK(skv_profile_bytes(p) > BYTES - 400 && skv_profile_bytes(NULL) == 0);
    CHECK(skv_profile_model(NULL) == NULL);
    skv_profile_free(p);
}

TEST(arguments_of_load)
{
    blob b = golden();
    skv_profile *f = NULL;
    skv_allocator half;
    syn_counter count = {0, 0, 0, 0, 0, 0, 0};
    size_t i, calls;
    CHECK(skv_profile_load(NULL, b.p, b.n, NULL, NULL) == SKV_ERR_ARG);
    CHECK(skv_profile_load(&f, NULL, b.n, NULL, NULL) == SKV_ERR_ARG && f == NULL);
    half = syn_allocator(&count);
    CHECK(skv_profile_load(&f, b.p, b.n, NULL, &half) == SKV_OK);
    skv_profile_free(f);
    f = NULL;
    calls = count.calls;
    for (i = 1; i <= calls; i++) {
        count.fail_at = i;
        CHECK(skv_profile_load(&f, b.p, b.n, NULL, &half) == SKV_ERR_MEMORY && f == NULL);
        CHECK(count.live_blocks == 0 && count.wrong == 0);
    }
    half.free = NULL;
    CHECK(skv_profile_load(&f, b.p, b.n, NULL, &half) == SKV_ERR_ARG && f == NULL);
    free(b.p);
}

TEST(spectrum_arguments)
{
    skv_profile *p = profile_golden(NULL);
    const float *var = NULL;
    size_t n = 0;
    CHECK(skv_profile_spectrum(p, 0, SKV_K, 0, &var, &n) == SKV_OK && n == 16);
    CHECK(skv_profile_spectrum(NULL, 0, SKV_K, 0, &var, &n) == SKV_ERR_ARG);
    CHECK(skv_profile_spectrum(p, 1, SKV_K, 0, &var, &n) == SKV_ERR_ARG);
    CHECK(skv_profile_spectrum(p, 0, (skv_kind)2, 0, &var, &n) == SKV_ERR_ARG);
    CHECK(skv_profile_spectrum(p, 0, SKV_K, 1, &var, &n) == SKV_ERR_ARG);
    CHECK(skv_profile_spectrum(p, 0, SKV_K, 0, NULL, &n) == SKV_ERR_ARG);
    CHECK(skv_profile_spectrum(p, 0, SKV_K, 0, &var, NULL) == SKV_ERR_ARG);
    skv_profile_free(p);
}

/* ---- damage ---- */

TEST(every_truncation)
{
    blob b = golden(), cut;
    size_t n;
    for (n = 0; n < b.n; n++) {
        cut = copy_of(b.p, n);
        CHECK(try_load(cut.p, n, NULL, 0) == SKV_ERR_TRUNCATED);
        free(cut.p);
    }
    CHECK(try_load(b.p, b.n, NULL, SMALL) == SKV_OK);
    free(b.p);
}

/* Each bit of magic: another format. Each other bit: a checksum. */
TEST(every_bit)
{
    blob b = golden();
    size_t i, step = getenv("SKV_SANITIZED") ? 7 : 1;
    for (i = 0; i < 8 * b.n; i += i < 8 * SPEC ? 1 : step) {
        skv_result r;
        b.p[i / 8] = (unsigned char)(b.p[i / 8] ^ 1u << i % 8);
        r = try_load(b.p, b.n, NULL, 0);
        CHECK(r == (i < 64 ? SKV_ERR_FORMAT : SKV_ERR_CHECKSUM));
        b.p[i / 8] = (unsigned char)(b.p[i / 8] ^ 1u << i % 8);
    }
    CHECK(try_load(b.p, b.n, NULL, SMALL) == SKV_OK);
    free(b.p);
}

TEST(other_files)
{
    static const char *const head[] = {"\x89PNG\r\n\x1a\n", "GGUF\3\0\0\0", "SKV\x89PAG\n", "SKV",
                                       "", "S", "X", "SKV\x89PRF\r", "PK\3\4"};
    static const skv_result want[] = {SKV_ERR_FORMAT, SKV_ERR_FORMAT, SKV_ERR_FORMAT,
                                      SKV_ERR_TRUNCATED, SKV_ERR_TRUNCATED, SKV_ERR_TRUNCATED,
                                      SKV_ERR_FORMAT, SKV_ERR_FORMAT, SKV_ERR_FORMAT};
    unsigned char page[4096];
    size_t i;
    for (i = 0; i < sizeof want / sizeof want[0]; i++) {
        blob b = copy_of((const unsigned char *)head[i], strlen(head[i]));
        CHECK(try_load(b.p, b.n, NULL, 0) == want[i]);
        free(b.p);
    }
    for (i = 0; i < sizeof page; i++) page[i] = (unsigned char)test_u64();
    CHECK(try_load(page, sizeof page, NULL, 0) == SKV_ERR_FORMAT);
    memset(page, 0, sizeof page);
    CHECK(try_load(page, sizeof page, NULL, 0) == SKV_ERR_FORMAT);
}

TEST(trailing_bytes)
{
    blob b = golden(), more = copy_of(b.p, b.n);
    more.p = (unsigned char *)realloc(more.p, b.n + 100);
    if (!more.p) abort();
    memset(more.p + b.n, 0, 100);
    CHECK(try_load(more.p, b.n + 1, NULL, 0) == SKV_ERR_FORMAT);
    CHECK(try_load(more.p, b.n + 100, NULL, 0) == SKV_ERR_FORMAT);
    CHECK(try_load(more.p, b.n, NULL, SMALL) == SKV_OK);
    free(more.p);
    free(b.p);
}

TEST(versions)
{
    blob b = golden();
    put(b.p + 8, 3, 4);
    fix(b);
    CHECK(try_load(b.p, b.n, NULL, 0) == SKV_ERR_VERSION);
    put(b.p + 8, 0xFFFFFFFFu, 4);
    memset(b.p + TABLE, 0xAB, b.n - TABLE);             /* of which nothing is known */
    put(b.p + 28, crc(b.p, 28), 4);
    CHECK(try_load(b.p, b.n, NULL, 0) == SKV_ERR_VERSION);
    CHECK(try_load(b.p, TABLE, NULL, 0) == SKV_ERR_VERSION);
    b.p[28] ^= 1;
    CHECK(try_load(b.p, b.n, NULL, 0) == SKV_ERR_CHECKSUM);
    free(b.p);
    b = golden();
    put(b.p + 8, 0, 4);
    fix(b);
    CHECK(try_load(b.p, b.n, NULL, 0) == SKV_ERR_FORMAT);
    free(b.p);
}

/* ---- another model ---- */

TEST(models)
{
    blob b = golden();
    skv_model m;
    skv_layer l[2];
    memset(&m, 0, sizeof m);
    m.n_layers = 1;
    m.layer = layer_of(2, 1, 16, 0);                    /* head_dim_v 0 = head_dim */
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_OK);     /* no fingerprint here: not checked */
    m.fingerprint = 0x0123456789ABCDEFu;
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_OK);
    m.fingerprint ^= (uint64_t)1 << 63;
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_MODEL);
    put(b.p + MODL + 16, 0, 8);                         /* none in the file */
    fix(b);
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_OK);
    m.n_layers = 2;
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_MODEL);
    m.n_layers = 1;
    l[0] = m.layer;
    m.layers = l;
    memset(&m.layer, 0, sizeof m.layer);                /* not looked at beside layers */
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_OK);
    l[0].n_q_heads = 4;
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_MODEL);
    l[0].n_kv_heads = 2;
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_MODEL);
    l[0] = layer_of(2, 1, 17, 16);
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_MODEL);
    l[0] = layer_of(2, 1, 16, 17);
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_MODEL);
    l[0] = layer_of(2, 0, 16, 16);                      /* not a model at all */
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_SHAPE);
    m.n_layers = 0;
    CHECK(try_load(b.p, b.n, &m, SMALL) == SKV_ERR_SHAPE);
    free(b.p);
}

/* ---- contradictions under valid checksums ---- */

/* Sets an integer, makes the checksums right, loads, and puts it back. */
static skv_result with_int(size_t at, uint64_t value, int n)
{
    blob b = golden();
    skv_result r;
    put(b.p + at, value, n);
    fix(b);
    r = try_load(b.p, b.n, NULL, SMALL);
    free(b.p);
    return r;
}

static skv_result with_float(size_t at, double value)
{
    blob b = golden();
    skv_result r;
    put_float(b.p + at, value);
    fix(b);
    r = try_load(b.p, b.n, NULL, SMALL);
    free(b.p);
    return r;
}

TEST(impossible_counts)
{
    static const uint32_t bad[] = {0, 2, 3, 255, 512, 513, 577, 65535, 65536, 65537, 0x7FFFFFFFu,
                                   0x80000000u, 0xFFFFFFFFu};
    size_t i, field;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(with_int(MODL, bad[i], 4) == SKV_ERR_FORMAT);             /* n_layers */
        for (field = 1; field < 4; field++)     /* n_kv_heads, head_dim, head_dim_v */
            CHECK(with_int(LAYERS + 4 * field, bad[i], 4) == SKV_ERR_FORMAT);
        if (bad[i] == 0 || bad[i] > 65536)
            CHECK(with_int(LAYERS, bad[i], 4) == SKV_ERR_FORMAT);       /* n_q_heads */
        if (bad[i] == 0 || bad[i] > 65536)
            CHECK(with_int(MODL + 4, bad[i], 4) == SKV_ERR_FORMAT);     /* head_group */
    }
    CHECK(with_int(MODL + 4, 2, 4) == SKV_OK);          /* groups larger than the layer are fine */
    CHECK(with_int(LAYERS + 8, 15, 4) == SKV_ERR_FORMAT);
    CHECK(with_int(LAYERS + 8, 17, 4) == SKV_ERR_FORMAT);
}

/* The largest shapes there are, times many layers: refused by arithmetic, not by malloc. */
TEST(absurd_sizes)
{
    uint32_t n_layers, group, i;
    for (n_layers = 1; n_layers <= 65536; n_layers *= 256)
        for (group = 1; group <= 65536; group *= 256) {
            size_t modl = 108 + 28 * (size_t)n_layers;
            blob b = golden(), big;
            big.n = MODL + modl + 64 + (BYTES - ROPE);
            big.p = (unsigned char *)calloc(big.n, 1);
            if (!big.p) abort();
            memcpy(big.p, b.p, LAYERS);
            put(big.p + 16, big.n, 8);
            put(big.p + TABLE + 16, modl, 8);
            put(big.p + TABLE + 24 + 8, MODL + modl, 8);
            put(big.p + TABLE + 24 + 16, 64, 8);
            put(big.p + TABLE + 48 + 8, MODL + modl + 64, 8);
            put(big.p + TABLE + 48 + 16, BYTES - ROPE, 8);
            put(big.p + MODL, n_layers, 4);
            put(big.p + MODL + 4, group, 4);
            for (i = 0; i < n_layers; i++) {
                unsigned char *l = big.p + LAYERS + 28 * (size_t)i;
                put(l, 65536, 4);
                put(l + 4, 512, 4);
                put(l + 8, 576, 4);
                put(l + 12, 576, 4);
            }
            fix(big);
            CHECK(try_load(big.p, big.n, NULL, n_layers * (sizeof(skv_layer) + sizeof(skvi_turn)) +
                           BYTES - ROPE) == SKV_ERR_FORMAT);
            free(big.p);
            free(b.p);
        }
}

TEST(numbers_that_are_none)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    static const size_t at[] = {MODL + 24, MODL + 28, MODL + 32, LAYERS + 20, LAYERS + 24, SPEC,
                                SPEC + 60, VAR_K, VAR_K + 60, ENC_K, ENC_K + 1020, DEC_K,
                                DEC_K + 1020, SPEC + STREAM, ROPE - 4, FREQ, FREQ + 8, TURN,
                                TURN + 60};
    size_t i, j;
    for (i = 0; i < 3; i++)
        for (j = 0; j < sizeof at / sizeof at[0]; j++)
            CHECK(with_float(at[j], bad[i]) == SKV_ERR_FORMAT);
    CHECK(with_float(SPEC, 1e30) == SKV_OK);
    CHECK(with_float(LAYERS + 24, -1) == SKV_ERR_FORMAT);       /* soft cap */
    CHECK(with_float(LAYERS + 24, 30) == SKV_OK);
}

TEST(spectra_that_are_none)
{
    CHECK(with_float(VAR_K + 60, 0) == SKV_ERR_FORMAT);
    CHECK(with_float(VAR_K + 60, -1e-9) == SKV_ERR_FORMAT);
    CHECK(with_float(VAR_K + 60, 1e-30) == SKV_OK);
    CHECK(with_float(VAR_K, 0.2) == SKV_ERR_FORMAT);            /* below the second */
    CHECK(with_float(VAR_K + 60, 1) == SKV_ERR_FORMAT);         /* rises at the end */
    CHECK(with_float(VAR_K + 20, 0.1) == SKV_ERR_FORMAT);       /* rises in the middle */
    CHECK(with_float(VAR_K + 4, 1) == SKV_OK);                  /* equal to the first */
    CHECK(with_float(SPEC + STREAM + 64 + 60, 2) == SKV_ERR_FORMAT);    /* of V */
}

/* The default target must be one that plans take; the count of tokens is kept in a double. */
TEST(other_contradictions)
{
    CHECK(with_float(MODL + 24, -1) == SKV_ERR_FORMAT);
    CHECK(with_float(MODL + 24, 17) == SKV_ERR_FORMAT);
    CHECK(with_float(MODL + 28, 0.9) == SKV_ERR_FORMAT);        /* beside bpe = 3 */
    CHECK(with_float(MODL + 32, 1) == SKV_ERR_FORMAT);
    CHECK(with_float(MODL + 24, 0) == SKV_OK);
    CHECK(with_int(MODL + 36, ~(uint64_t)0, 8) == SKV_ERR_FORMAT);
    CHECK(with_int(MODL + 36, ((uint64_t)1 << 53) + 1, 8) == SKV_ERR_FORMAT);
    CHECK(with_int(MODL + 36, (uint64_t)1 << 53, 8) == SKV_OK);
    CHECK(with_int(MODL + 44 + 63, 'x', 1) == SKV_OK);          /* a name without a zero */
}

/* Header and table. */
TEST(sections)
{
    static const uint64_t wild[] = {0xFFFFFFFFu, 0x100000000u, (uint64_t)1 << 63, ~(uint64_t)0,
                                    ~(uint64_t)0 - 79, BYTES, BYTES + 1};
    size_t i, e;
    for (i = 0; i < sizeof wild / sizeof wild[0]; i++)
        for (e = 0; e < 3; e++) {
            CHECK(with_int(TABLE + 24 * e + 8, wild[i], 8) == SKV_ERR_FORMAT);      /* offset */
            CHECK(with_int(TABLE + 24 * e + 16, wild[i], 8) == SKV_ERR_FORMAT);     /* bytes */
        }
    for (e = 0; e < 3; e++) {
        CHECK(with_int(TABLE + 24 * e, 'X', 1) == SKV_ERR_FORMAT);                  /* absent */
        CHECK(with_int(TABLE + 24 * e + 16, 0, 8) == SKV_ERR_FORMAT);               /* empty */
        CHECK(with_int(TABLE + 24 * e + 16, 107, 8) == SKV_ERR_FORMAT);
        CHECK(with_int(TABLE + 24 * e + 16, 135, 8) == SKV_ERR_FORMAT);
    }
    CHECK(with_int(TABLE + 32, SPEC - 4, 8) == SKV_ERR_FORMAT);     /* SPEC four bytes early */
    CHECK(with_int(12, 0, 4) == SKV_ERR_FORMAT && with_int(12, 1, 4) == SKV_ERR_FORMAT);
    CHECK(with_int(12, 2, 4) == SKV_ERR_FORMAT);                    /* version 2 without ROPE */
    CHECK(with_int(12, 1025, 4) == SKV_ERR_FORMAT);
    CHECK(with_int(12, 0xFFFFFFFFu, 4) == SKV_ERR_FORMAT);
    CHECK(with_int(16, BYTES - 1, 8) == SKV_ERR_FORMAT);
    CHECK(with_int(16, BYTES + 1, 8) == SKV_ERR_TRUNCATED);
    CHECK(with_int(16, ~(uint64_t)0, 8) == SKV_ERR_TRUNCATED);
    CHECK(with_int(16, 0, 8) == SKV_ERR_FORMAT);
}

/* Spectra with four bytes too many, which are another section's, under a right checksum. */
TEST(spectra_too_long)
{
    CHECK(with_int(TABLE + 24 + 16, ROPE - SPEC + 4, 8) == SKV_ERR_FORMAT);
    CHECK(with_int(TABLE + 24 + 16, ROPE - SPEC - 4, 8) == SKV_ERR_FORMAT);
}

/* ---- ROPE ---- */

/* The golden blob with a ROPE section of n bytes in place of its own. */
static skv_result with_rope(const unsigned char *rope, size_t n)
{
    blob b = golden(), c = copy_of(b.p, b.n);
    skv_result r;
    c.n = ROPE + n;
    c.p = (unsigned char *)realloc(c.p, c.n);
    if (!c.p) abort();
    if (n) memcpy(c.p + ROPE, rope, n);
    put(c.p + 16, c.n, 8);
    put(c.p + TABLE + 48 + 16, n, 8);
    fix(c);
    r = try_load(c.p, c.n, NULL, SMALL);
    free(b.p);
    free(c.p);
    return r;
}

/* style, pairs, freqs of 1, turn of ones for n_turn channels */
static skv_result with_turn(uint32_t style, uint32_t pairs, uint32_t n_freq, uint32_t n_turn)
{
    unsigned char rope[8 + 4 * 64];
    uint32_t i;
    put(rope, style, 4);
    put(rope + 4, pairs, 4);
    for (i = 0; i < n_freq + n_turn; i++) put_float(rope + 8 + 4 * i, 1);
    return with_rope(rope, 8 + 4 * ((size_t)n_freq + n_turn));
}

TEST(rope_sections)
{
    blob b = golden();
    uint32_t pairs, style;
    size_t n;
    for (n = 0; n < BYTES - ROPE; n++) CHECK(with_rope(b.p + ROPE, n) == SKV_ERR_FORMAT);
    CHECK(with_rope(b.p + ROPE, BYTES - ROPE) == SKV_OK);
    for (pairs = 1; pairs <= 8; pairs++)
        for (style = 1; style <= 2; style++) {
            CHECK(with_turn(style, pairs, pairs, 16) == SKV_OK);
            CHECK(with_turn(style, pairs, pairs, 15) == SKV_ERR_FORMAT);    /* bytes missing */
            CHECK(with_turn(style, pairs, pairs, 17) == SKV_ERR_FORMAT);    /* too many */
            CHECK(with_turn(style, pairs, pairs, 0) == SKV_ERR_FORMAT);
        }
    CHECK(with_turn(1, 9, 9, 16) == SKV_ERR_FORMAT);            /* more than half of 16 */
    CHECK(with_turn(2, 0xFFFFFFFFu, 8, 16) == SKV_ERR_FORMAT);
    CHECK(with_turn(2, 0x40000003u, 3, 16) == SKV_ERR_FORMAT);  /* 4 pairs: 12 with 32 bits */
    CHECK(with_turn(0, 0, 0, 0) == SKV_OK);                     /* no turn, and said so */
    CHECK(with_turn(0, 0, 0, 16) == SKV_ERR_FORMAT);
    CHECK(with_turn(0, 3, 3, 16) == SKV_ERR_FORMAT);
    CHECK(with_turn(1, 0, 0, 16) == SKV_ERR_FORMAT && with_turn(2, 0, 0, 0) == SKV_ERR_FORMAT);
    for (style = 3; style; style <<= 1) CHECK(with_turn(style, 3, 3, 16) == SKV_ERR_FORMAT);
    CHECK(with_float(FREQ, 10) == SKV_OK && with_float(FREQ, -10) == SKV_OK);
    CHECK(with_float(FREQ, 10.001) == SKV_ERR_FORMAT && with_float(FREQ, -11) == SKV_ERR_FORMAT);
    CHECK(with_float(TURN, 1e30) == SKV_OK);                    /* as a mean can be */
    free(b.p);
}

/* Version 1 had no ROPE; what is there under its number is read all the same. */
TEST(version_1_needs_no_rope)
{
    blob b = golden();
    skv_profile *p = NULL;
    put(b.p + 8, 1, 4);
    fix(b);
    CHECK(skv_profile_load(&p, b.p, b.n, NULL, NULL) == SKV_OK && p && p->turn[0].pairs == 3);
    skv_profile_free(p);
    p = NULL;
    memcpy(b.p + TABLE + 48, "XTRA", 4);
    fix(b);
    CHECK(skv_profile_load(&p, b.p, b.n, NULL, NULL) == SKV_OK && p && !p->turn[0].pairs);
    CHECK(p && !p->stream[0].turn && !p->stream[1].turn);
    skv_profile_free(p);
    free(b.p);
}

/* A section with another tag is passed over: room for additions within a version. */
TEST(unknown_sections_are_passed_over)
{
    blob b = golden(), c;
    size_t i;
    c.n = b.n + 24 + 10;
    c.p = (unsigned char *)calloc(c.n, 1);
    if (!c.p) abort();
    memcpy(c.p, b.p, MODL);
    memcpy(c.p + MODL + 24, b.p + MODL, b.n - MODL);
    memcpy(c.p + c.n - 10, "an addition", 10);
    put(c.p + 12, 4, 4);
    put(c.p + 16, c.n, 8);
    for (i = 0; i < 3; i++) put(c.p + TABLE + 24 * i + 8, get(b.p + TABLE + 24 * i + 8, 8) + 24, 8);
    memcpy(c.p + TABLE + 72, "XTRA", 4);
    put(c.p + TABLE + 80, c.n - 10, 8);
    put(c.p + TABLE + 88, 10, 8);
    fix(c);
    CHECK(try_load(c.p, c.n, NULL, SMALL) == SKV_OK);
    c.p[c.n - 1] ^= 4;                                  /* but its checksum counts */
    CHECK(try_load(c.p, c.n, NULL, SMALL) == SKV_ERR_CHECKSUM);
    free(b.p);
    free(c.p);
}

/* ---- the golden file ---- */

static blob read_golden(const char *name)
{
    blob b = {NULL, 0};
    char path[1024];
    const char *dir = getenv("SKV_TEST_DATA");
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", dir ? dir : "tests/data", name);
    f = fopen(path, "rb");
    if (!f) return b;
    b.p = (unsigned char *)malloc(2 * BYTES);
    if (b.p) b.n = fread(b.p, 1, 2 * BYTES, f);
    fclose(f);
    return b;
}

static void check_golden(const skv_profile *p)
{
    const skv_model *m = skv_profile_model(p);
    const float *k = NULL, *v = NULL;
    size_t n = 0, c;
    CHECK(m->n_layers == 1 && m->layer.n_q_heads == 2 && m->layer.n_kv_heads == 1);
    CHECK(m->layer.head_dim == 16 && m->layer.head_dim_v == 16 && m->layer.scale == 0.25f);
    CHECK(m->fingerprint == 0x0123456789ABCDEFu && !strcmp(m->name, "golden"));
    CHECK(p->target.bpe == 3 && p->n_tokens == 1000 && p->sinks == 4 && p->window == 64);
    CHECK(skv_profile_spectrum(p, 0, SKV_K, 0, &k, &n) == SKV_OK && n == 16);
    CHECK(skv_profile_spectrum(p, 0, SKV_V, 0, &v, &n) == SKV_OK && n == 16);
    for (c = 0; c < 16; c++) {
        CHECK((double)k[c] == pow(0.25, (double)c));        /* 1, 1/4, 1/16 .. */
        CHECK((double)v[c] == pow(0.25, (double)(c / 2)));  /* 1, 1, 1/4, 1/4 .. */
    }
    CHECK(p->stream[0].mean[0] == -1 && p->stream[1].mean[15] == 3.75f);
    CHECK(p->stream[0].enc[16] == 0.5f && p->stream[0].enc[17] == -0.5f);
    CHECK(p->stream[0].dec[16] == 0.125f && p->stream[1].dec[255] == 0.25f / 128);
    CHECK(!p->stream[1].turn);
}

TEST(golden_file_of_version_1)
{
    blob b = read_golden("profile_v1.skv");
    skv_profile *p = NULL, *now;
    if (!b.p) SKIP("no profile_v1.skv: run from the repository's root, or set SKV_TEST_DATA");
    now = profile_golden(NULL);
    CHECK(b.n == BYTES_V1 && crc(b.p, b.n) == 0x569B27D5u);
    CHECK(skv_profile_load(&p, b.p, b.n, NULL, NULL) == SKV_OK);
    if (p) {
        check_golden(p);
        check_same(p, now);
        CHECK(!p->stream[0].turn && !p->turn[0].pairs && !p->turn[0].style);
    }
    skv_profile_free(p);
    skv_profile_free(now);
    free(b.p);
}

TEST(golden_file)
{
    blob b = read_golden("profile_v2.skv"), now;
    skv_profile *p = NULL;
    int i;
    if (!b.p) SKIP("no profile_v2.skv: run from the repository's root, or set SKV_TEST_DATA");
    now = golden();
    CHECK(b.n == BYTES && crc(b.p, b.n) == 0x67F7BD06u);
    CHECK(skv_profile_load(&p, b.p, b.n, NULL, NULL) == SKV_OK);
    if (p) {
        check_golden(p);
        CHECK(p->turn[0].style == SKV_ROPE_HALVES && p->turn[0].pairs == 3);
        CHECK(p->turn[0].freq[0] == 1 && p->turn[0].freq[1] == 0.5f);
        CHECK(p->turn[0].freq[2] == 0.25f && p->stream[0].turn != NULL);
        for (i = 0; i < 16 && p->stream[0].turn; i++)
            CHECK(p->stream[0].turn[i] == (i < 6 ? (float)i + 1 : 0));
    }
    CHECK(now.n == b.n && !memcmp(now.p, b.p, b.n));            /* and it is still written so */
    skv_profile_free(p);
    free(b.p);
    free(now.p);
}

static int write_golden(const char *path)
{
    blob b = golden();
    FILE *f = fopen(path, "wb");
    int ok = f && fwrite(b.p, 1, b.n, f) == b.n;
    if (f && fclose(f)) ok = 0;
    free(b.p);
    return !ok;
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    if (argc == 3 && !strcmp(argv[1], "--write")) return write_golden(argv[2]);
    RUN(round_trip_golden);
    RUN(round_trip_of_many_layers);
    RUN(round_trip_of_a_fit);
    RUN(sizes);
    RUN(arguments_of_load);
    RUN(spectrum_arguments);
    RUN(every_truncation);
    RUN(every_bit);
    RUN(other_files);
    RUN(trailing_bytes);
    RUN(versions);
    RUN(models);
    RUN(impossible_counts);
    RUN(absurd_sizes);
    RUN(numbers_that_are_none);
    RUN(spectra_that_are_none);
    RUN(other_contradictions);
    RUN(sections);
    RUN(spectra_too_long);
    RUN(unknown_sections_are_passed_over);
    RUN(rope_sections);
    RUN(version_1_needs_no_rope);
    RUN(golden_file_of_version_1);
    RUN(golden_file);
    return TEST_END();
}
