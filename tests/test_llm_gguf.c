/* test_llm_gguf.c: the GGUF reader on good files, and on files that lie. */
#define _POSIX_C_SOURCE 200809L
#include <unistd.h>
#include "gguf.h"
#include "gguf_builder.h"
#include "test.h"

static volatile unsigned sink;              /* what walking reads goes here */

/* Opens a copy in a block of exactly that size, so that AddressSanitizer sees any step outside. */
static gguf *open_copy(const void *p, size_t n, void **copy, char *err)
{
    gguf *g = NULL;
    *copy = malloc(n ? n : 1);
    if (!*copy) exit(2);
    memcpy(*copy, p, n);
    memset(err, 'x', GGUF_ERR_BYTES);
    gguf_open_memory(&g, *copy, n, err);
    return g;
}

/* A message is one printable sentence of a sensible length. */
static int is_sentence(const char *err)
{
    size_t n = 0;
    for (; n < GGUF_ERR_BYTES && err[n]; n++)
        if (err[n] < 32 || err[n] > 126) return 0;
    return n > 10 && n < GGUF_ERR_BYTES && err[n - 1] == '.';
}

static void read_string(gguf_str s)
{
    size_t i;
    for (i = 0; i < s.n; i++) sink += (unsigned char)s.p[i];
}

static void walk_key(const gguf *g, const char *key)
{
    uint64_t u, n, i;
    double d;
    int b;
    gguf_str s;
    gguf_kind kind;
    sink += (unsigned)gguf_get_u64(g, key, &u) + (unsigned)gguf_get_f64(g, key, &d)
            + (unsigned)gguf_get_bool(g, key, &b);
    if (gguf_get_str(g, key, &s)) read_string(s);
    if (!gguf_get_array(g, key, &kind, &n)) return;
    for (i = 0; i < n; i++) {
        if (gguf_array_str(g, key, i, &s)) read_string(s);
        sink += (unsigned)gguf_array_f64(g, key, i, &d);
    }
    CHECK(!gguf_array_str(g, key, n, &s));
    CHECK(!gguf_array_f64(g, key, n, &d));
}

/* Touches everything that a reader hands out. */
static void walk(const gguf *g)
{
    static const char *const keys[] = {"general.architecture", "general.alignment", "u8", "i8",
        "u16", "i16", "u32", "i32", "f32", "yes", "no", "u64", "i64", "f64", "words", "halves",
        "signed", "flags", "nothing", ""};
    size_t k, i;
    for (k = 0; k < sizeof keys / sizeof keys[0]; k++) walk_key(g, keys[k]);
    for (k = 0; k < gguf_n_tensors(g); k++) {
        const gguf_tensor *t = gguf_tensor_at(g, k);
        read_string(t->name);
        CHECK(t->bytes > 0 && t->row_bytes > 0 && t->bytes % t->row_bytes == 0);
        CHECK(t->ne[0] && t->ne[1] && t->ne[2] && t->ne[3]);
        for (i = 0; i < t->bytes; i++) sink += ((const unsigned char *)t->data)[i];
    }
    CHECK(!gguf_tensor_at(g, gguf_n_tensors(g)));
}

/* Expects a refusal that says `phrase`; frees the file. */
static void refused(gb *b, const char *phrase)
{
    char err[GGUF_ERR_BYTES];
    void *copy;
    gguf *g;
    g = open_copy(b->p, b->n, &copy, err);
    if (g || !is_sentence(err) || !strstr(err, phrase)) {
        char text[GGUF_ERR_BYTES + 100];
        snprintf(text, sizeof text, "wanted '%.60s', got '%s'", phrase, g ? "(opened)" : err);
        test_fail(__FILE__, __LINE__, text);
    }
    gguf_close(g);
    free(copy);
    gb_free(b);
}

TEST(reads_every_kind)
{
    char err[GGUF_ERR_BYTES];
    void *copy;
    gb b;
    gguf *g;
    uint64_t u = 77;
    double d = 0;
    int yes = 5;
    gguf_str s;
    gb_small(&b, 3);
    g = open_copy(b.p, b.n, &copy, err);
    CHECK(g != NULL);
    if (!g) return;
    CHECK(gguf_get_u64(g, "u8", &u) && u == 200);
    CHECK(gguf_get_u64(g, "u16", &u) && u == 60000);
    CHECK(gguf_get_u64(g, "u32", &u) && u == 4000000000u);
    CHECK(gguf_get_u64(g, "u64", &u) && u == UINT64_MAX);
    u = 77;
    CHECK(!gguf_get_u64(g, "i8", &u) && !gguf_get_u64(g, "i32", &u) && !gguf_get_u64(g, "i64", &u));
    CHECK(!gguf_get_u64(g, "f32", &u) && !gguf_get_u64(g, "yes", &u));
    CHECK(!gguf_get_u64(g, "no key", &u));
    CHECK(!gguf_get_u64(g, "words", &u) && !gguf_get_u64(g, "general.architecture", &u) && u == 77);
    CHECK(gguf_get_f64(g, "i8", &d) && d == -2);
    CHECK(gguf_get_f64(g, "i16", &d) && d == -32768);
    CHECK(gguf_get_f64(g, "i32", &d) && d == -1);
    CHECK(gguf_get_f64(g, "i64", &d) && d == -9223372036854775808.0);
    CHECK(gguf_get_f64(g, "f32", &d) && d == -0.5);
    CHECK(gguf_get_f64(g, "f64", &d) && d == 3.25);
    CHECK(gguf_get_f64(g, "u8", &d) && d == 200);
    CHECK(!gguf_get_f64(g, "yes", &d) && !gguf_get_f64(g, "words", &d));
    CHECK(gguf_get_bool(g, "yes", &yes) && yes == 1 && gguf_get_bool(g, "no", &yes) && yes == 0);
    CHECK(!gguf_get_bool(g, "u8", &yes));
    CHECK(gguf_get_str(g, "general.architecture", &s) && s.n == 5 && !memcmp(s.p, "llama", 5));
    CHECK(!gguf_get_str(g, "words", &s) && !gguf_get_str(g, "u8", &s));
    walk(g);
    gguf_close(g);
    free(copy);
    gb_free(&b);
}

TEST(reads_arrays)
{
    char err[GGUF_ERR_BYTES];
    void *copy;
    gb b;
    gguf *g;
    gguf_kind kind;
    uint64_t n;
    gguf_str s;
    double d;
    gb_small(&b, 2);
    g = open_copy(b.p, b.n, &copy, err);
    CHECK(g != NULL);
    if (!g) return;
    CHECK(gguf_get_array(g, "words", &kind, &n) && kind == GGUF_STRING && n == 11);
    CHECK(gguf_array_str(g, "words", 0, &s) && s.n == 4 && !memcmp(s.p, "zero", 4));
    CHECK(gguf_array_str(g, "words", 1, &s) && s.n == 0);
    CHECK(gguf_array_str(g, "words", 7, &s) && s.n == 5 && !memcmp(s.p, "seven", 5));
    CHECK(gguf_array_str(g, "words", 8, &s) && s.n == 5 && !memcmp(s.p, "eight", 5));
    CHECK(gguf_array_str(g, "words", 10, &s) && s.n == 3 && !memcmp(s.p, "ten", 3));
    CHECK(!gguf_array_str(g, "words", 11, &s) && !gguf_array_str(g, "words", UINT64_MAX, &s));
    CHECK(!gguf_array_f64(g, "words", 0, &d) && !gguf_array_str(g, "halves", 0, &s));
    CHECK(gguf_array_f64(g, "halves", 3, &d) && d == 1.5 && !gguf_array_f64(g, "halves", 4, &d));
    CHECK(gguf_array_f64(g, "signed", 2, &d) && d == -3);
    CHECK(gguf_array_f64(g, "flags", 1, &d) && d == 1);
    CHECK(gguf_array_f64(g, "flags", 2, &d) && d == 0);
    CHECK(gguf_get_array(g, "nothing", &kind, &n) && n == 0);
    CHECK(!gguf_array_str(g, "nothing", 0, &s));
    CHECK(!gguf_get_array(g, "u8", &kind, &n) && !gguf_array_f64(g, "u8", 0, &d));
    gguf_close(g);
    free(copy);
    gb_free(&b);
}

TEST(reads_tensors)
{
    static const struct { const char *name; int type; size_t row, bytes, at; } want[] = {
        {"a.weight", GGUF_T_F32, 24, 72, 0},        {"b.weight", GGUF_T_Q4_1, 40, 80, 96},
        {"c.weight", GGUF_T_Q4_K, 144, 576, 192},   {"d.bias", GGUF_T_F16, 10, 10, 768},
        {"scalar", GGUF_T_BF16, 2, 2, 800}};
    char err[GGUF_ERR_BYTES];
    void *copy;
    gb b;
    gguf *g;
    size_t i;
    gb_small(&b, 3);
    g = open_copy(b.p, b.n, &copy, err);
    CHECK(g && gguf_n_tensors(g) == 5);
    for (i = 0; g && i < 5; i++) {
        const gguf_tensor *t = gguf_find(g, want[i].name);
        CHECK(t && t == gguf_tensor_at(g, i));
        if (!t) continue;
        CHECK(t->type == (gguf_dtype)want[i].type && t->row_bytes == want[i].row);
        CHECK(t->bytes == want[i].bytes);
        CHECK((const unsigned char *)t->data - (const unsigned char *)copy
              == (ptrdiff_t)(b.n - 802 + want[i].at));
    }
    CHECK(g && !gguf_find(g, "A.weight") && !gguf_find(g, "") && !gguf_find(g, "a.weigh"));
    CHECK(!strcmp(gguf_dtype_name(GGUF_T_Q4_1), "Q4_1") && !strcmp(gguf_dtype_name(10), "unknown"));
    CHECK(!strcmp(gguf_dtype_name(-1), "unknown") && !strcmp(gguf_dtype_name(30), "BF16"));
    gguf_close(g);
    free(copy);
    gb_free(&b);
}

TEST(any_address_and_no_message_buffer)
{
    gb b;
    gguf *g;
    unsigned char *odd;
    gb_small(&b, 3);
    odd = malloc(b.n + 1);
    if (!odd) exit(2);
    memcpy(odd + 1, b.p, b.n);
    CHECK(!gguf_open_memory(&g, odd + 1, b.n, NULL));
    if (g) walk(g);
    gguf_close(g);
    CHECK(gguf_open_memory(&g, odd + 1, 30, NULL) == -1 && g == NULL);
    CHECK(gguf_open_memory(&g, NULL, 0, NULL) == -1 && g == NULL);
    gguf_close(NULL);
    free(odd);
    gb_free(&b);
}

TEST(every_truncation_is_refused)
{
    char err[GGUF_ERR_BYTES];
    void *copy;
    gb b;
    size_t n;
    gb_small(&b, 3);
    for (n = 0; n < b.n; n++) {
        gguf *g = open_copy(b.p, n, &copy, err);
        CHECK(!g && is_sentence(err));
        gguf_close(g);
        free(copy);
    }
    gb_free(&b);
}

TEST(every_byte_flip_is_survived)
{
    static const unsigned char flips[] = {0x01, 0x02, 0x10, 0x40, 0x80, 0xFF};
    char err[GGUF_ERR_BYTES];
    void *copy;
    gb b;
    size_t i, k, opened = 0, refusals = 0;
    gb_small(&b, 3);
    for (i = 0; i < b.n - 802; i++) {
        for (k = 0; k < sizeof flips; k++) {
            gguf *g;
            b.p[i] ^= flips[k];
            g = open_copy(b.p, b.n, &copy, err);
            b.p[i] ^= flips[k];
            if (g) walk(g);
            else CHECK(is_sentence(err));
            if (g) opened++;
            else refusals++;
            gguf_close(g);
            free(copy);
        }
    }
    CHECK(opened > 1000 && refusals > 1000);
    gb_free(&b);
}

TEST(bad_headers)
{
    gb b;
    static const uint32_t versions[] = {0, 1, 4, 0xFFFFFFFFu};
    size_t i;
    for (i = 0; i < 4; i++) {
        gb_small(&b, versions[i]);
        refused(&b, "version");
    }
    gb_small(&b, 0x03000000u);
    refused(&b, "big-endian");
    gb_small(&b, 3);
    b.p[3] = 'f';
    refused(&b, "not a GGUF file");
    gb_small(&b, 3);
    gb_put(&b, 8, UINT64_MAX, 8);
    refused(&b, "tensors");
    gb_small(&b, 3);
    gb_put(&b, 16, UINT64_MAX, 8);
    refused(&b, "metadata pairs");
    gb_small(&b, 3);
    gb_put(&b, 16, b.n / 13, 8);                /* just credible: the pairs run into the tensors */
    refused(&b, ".");
    gb_small(&b, 3);
    gb_put(&b, 16, 3, 8);                       /* too few: metadata are taken for tensors */
    refused(&b, ".");
}

/* A key with a value of the given kind, then whatever the caller adds. */
static void begin_with(gb *b, uint32_t kind)
{
    gb_start(b, 3);
    gb_key(b, "some.key", kind);
}

TEST(bad_metadata)
{
    gb b;
    uint32_t kind;
    static const uint64_t lengths[] = {100, 0x7FFFFFFFFFFFFFFFu, 0xFFFFFFFFFFFFFFF8u, UINT64_MAX};
    size_t i;
    for (i = 0; i < 4; i++) {
        gb_start(&b, 3);                        /* a key longer than the file */
        gb_uint(&b, lengths[i], 8);
        gb_string(&b, "k");
        b.n_kv = 1;
        gb_end(&b);
        refused(&b, "ends inside its metadata");
        begin_with(&b, GGUF_STRING);
        gb_uint(&b, lengths[i], 8);
        gb_end(&b);
        refused(&b, "'some.key' runs past the end");
        for (kind = 0; kind <= GGUF_F64; kind++) {
            if (kind == GGUF_ARRAY) continue;
            begin_with(&b, GGUF_ARRAY);
            gb_uint(&b, kind, 4);
            gb_uint(&b, lengths[i], 8);
            gb_uint(&b, 0, 8);
            gb_end(&b);
            refused(&b, "'some.key' claims more");
        }
    }
    for (kind = 13; kind < 16; kind++) {
        begin_with(&b, kind);
        gb_uint(&b, 0, 8);
        gb_end(&b);
        refused(&b, "unknown kind");
        begin_with(&b, GGUF_ARRAY);
        gb_uint(&b, kind, 4);
        gb_uint(&b, 0, 8);
        gb_end(&b);
        refused(&b, "unknown kind");
    }
}

TEST(bad_metadata_of_other_sorts)
{
    gb b;
    int i;
    begin_with(&b, GGUF_ARRAY);
    gb_uint(&b, GGUF_ARRAY, 4);
    gb_uint(&b, 1, 8);
    gb_uint(&b, GGUF_U8, 4);
    gb_uint(&b, 0, 8);
    gb_end(&b);
    refused(&b, "array of arrays");
    begin_with(&b, GGUF_BOOL);
    gb_uint(&b, 2, 1);
    gb_end(&b);
    refused(&b, "must be 0 or 1");
    gb_start(&b, 3);
    gb_u32(&b, "twice", 1);
    gb_u32(&b, "once", 1);
    gb_str(&b, "twice", "x");
    gb_end(&b);
    refused(&b, "'twice' occurs twice");
    begin_with(&b, GGUF_ARRAY);                 /* the second string of two is cut */
    gb_uint(&b, GGUF_STRING, 4);
    gb_uint(&b, 2, 8);
    gb_string(&b, "whole");
    gb_uint(&b, 6, 8);
    gb_raw(&b, "short", 5);
    gb_end(&b);
    refused(&b, "runs past the end");
    gb_start(&b, 3);
    gb_uint(&b, 65536, 8);
    for (i = 0; i < 65536; i++) gb_raw(&b, "k", 1);
    gb_uint(&b, GGUF_U8, 4);
    gb_uint(&b, 1, 1);
    b.n_kv = 1;
    gb_end(&b);
    refused(&b, "65536 bytes");
    gb_start(&b, 3);
    gb_u32(&b, "bad\n\x1B[31m\xFFkey that is much longer than any message should ever become", 1);
    gb_u32(&b, "bad\n\x1B[31m\xFFkey that is much longer than any message should ever become", 1);
    gb_end(&b);
    refused(&b, "'bad??[31m?key");
}

/* One tensor, with room for 256 bytes of data. */
static void one_tensor(gb *b, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset)
{
    gb_start(b, 3);
    gb_tensor(b, "the.tensor", n_dims, ne, type, offset);
    b->data_bytes = 256;
    gb_end(b);
}

TEST(bad_tensors)
{
    static const uint64_t zero[] = {4, 0}, five[] = {1, 1, 1, 1, 1}, ok[] = {8, 2}, odd[] = {48};
    static const uint64_t k_odd[] = {128}, huge[] = {(uint64_t)1 << 40, (uint64_t)1 << 40};
    static const uint64_t huger[] = {UINT64_MAX}, wrap[] = {(uint64_t)1 << 62};
    static const uint64_t four[] = {65536, 65536, 65536, 65536}, large[] = {65};
    static const uint32_t types[] = {4, 5, 9, 10, 11, 15, 16, 23, 24, 29, 31, 1000, 0xFFFFFFFFu};
    gb b;
    size_t i;
    one_tensor(&b, 2, zero, GGUF_T_F32, 0);         refused(&b, "'the.tensor' is 0");
    one_tensor(&b, 5, five, GGUF_T_F32, 0);         refused(&b, "5 dimensions");
    one_tensor(&b, 2, huge, GGUF_T_F32, 0);         refused(&b, "overflows");
    one_tensor(&b, 1, huger, GGUF_T_F32, 0);        refused(&b, "overflows");
    one_tensor(&b, 1, wrap, GGUF_T_F32, 0);         refused(&b, "overflows");
    one_tensor(&b, 4, four, GGUF_T_F16, 0);         refused(&b, "overflows");
    one_tensor(&b, 1, odd, GGUF_T_Q4_0, 0);         refused(&b, "not a multiple of the 32");
    one_tensor(&b, 1, k_odd, GGUF_T_Q6_K, 0);       refused(&b, "not a multiple of the 256");
    one_tensor(&b, 2, ok, GGUF_T_F32, 4);           refused(&b, "not a multiple of 32");
    one_tensor(&b, 2, ok, GGUF_T_F32, 256);         refused(&b, "past the end");
    one_tensor(&b, 1, large, GGUF_T_F32, 0);        refused(&b, "past the end");
    one_tensor(&b, 2, ok, GGUF_T_F32, 224);         refused(&b, "past the end");
    one_tensor(&b, 2, ok, GGUF_T_F32, 0xFFFFFFFFFFFFFFE0u);
    refused(&b, "past the end");
    one_tensor(&b, 2, ok, GGUF_T_F32, 0x8000000000000000u);
    refused(&b, "past the end");
    for (i = 0; i < sizeof types / sizeof types[0]; i++) {
        char words[40];
        snprintf(words, sizeof words, "'the.tensor' has type %lu,", (unsigned long)types[i]);
        one_tensor(&b, 2, ok, types[i], 0);
        refused(&b, words);
    }
    gb_start(&b, 3);
    gb_tensor(&b, "same", 2, ok, GGUF_T_F32, 0);
    gb_tensor(&b, "other", 2, ok, GGUF_T_F32, 0);
    gb_tensor(&b, "same", 2, ok, GGUF_T_F32, 64);
    b.data_bytes = 256;
    gb_end(&b);
    refused(&b, "Two tensors have the name 'same'");
}

/* A file with one tensor of 8 bytes whose alignment is `align`. */
static void aligned(gb *b, uint32_t kind, uint64_t align, uint64_t offset)
{
    static const uint64_t ne[] = {2};
    static const size_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    gb_start(b, 3);
    gb_key(b, "general.alignment", kind);
    gb_uint(b, align, sizes[kind]);
    gb_tensor(b, "t", 1, ne, GGUF_T_F32, offset);
    b->alignment = align && align <= 4096 ? align : 32;
    b->data_bytes = offset + 8;
    gb_end(b);
}

TEST(alignment)
{
    static const uint64_t good[] = {1, 8, 32, 64, 4096};
    char err[GGUF_ERR_BYTES];
    void *copy;
    gb b;
    size_t i;
    for (i = 0; i < 5; i++) {
        gguf *g;
        aligned(&b, GGUF_U32, good[i], good[i]);
        g = open_copy(b.p, b.n, &copy, err);
        CHECK(g != NULL);
        if (g) CHECK((const unsigned char *)gguf_find(g, "t")->data + 8
                     == (const unsigned char *)copy + b.n);
        gguf_close(g);
        free(copy);
        gb_free(&b);
    }
    aligned(&b, GGUF_U32, 0, 0);                    refused(&b, "power of two");
    aligned(&b, GGUF_U32, 48, 0);                   refused(&b, "power of two");
    aligned(&b, GGUF_U32, 0x80000000u, 0);          refused(&b, "power of two");
    aligned(&b, GGUF_U64, 0x8000000000000000u, 0);  refused(&b, "power of two");
    aligned(&b, GGUF_I32, 0xFFFFFFE0u, 0);          refused(&b, "power of two");
    aligned(&b, GGUF_F32, 32, 0);                   refused(&b, "power of two");
    aligned(&b, GGUF_U32, 1u << 30, 0);             refused(&b, "past the end");
    aligned(&b, GGUF_U32, 64, 32);                  refused(&b, "not a multiple of 64");
}

TEST(large_string_array)
{
    char err[GGUF_ERR_BYTES], text[32];
    void *copy;
    gb b;
    gguf *g;
    uint64_t i, n = 100000;
    gguf_str s;
    gb_start(&b, 3);
    gb_array(&b, "many", GGUF_STRING, n);
    for (i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)(i * i));
        gb_string(&b, text);
    }
    gb_end(&b);
    g = open_copy(b.p, b.n, &copy, err);
    CHECK(g != NULL);
    for (i = 0; g && i < n; i++) {
        uint64_t k = i * 7919 % n;
        snprintf(text, sizeof text, "%llu", (unsigned long long)(k * k));
        CHECK(gguf_array_str(g, "many", k, &s) && s.n == strlen(text) && !memcmp(s.p, text, s.n));
    }
    gguf_close(g);
    free(copy);
    gb_free(&b);
}

/* Random damage, several bytes at a time; fuzz_gguf.c does more of this. */
TEST(random_damage)
{
    char err[GGUF_ERR_BYTES];
    void *copy;
    gb b;
    int i, k, rounds = test_.slow ? 200000 : 5000;
    gb_small(&b, 3);
    for (i = 0; i < rounds; i++) {
        gb c = b;
        gguf *g;
        c.p = malloc(b.n);
        if (!c.p) exit(2);
        memcpy(c.p, b.p, b.n);
        for (k = 1 + (int)(test_u64() % 4); k; k--) {
            size_t at = (size_t)(test_u64() % (b.n - 802));
            gb_put(&c, at, test_u64() >> test_u64() % 64, 1 + (size_t)(test_u64() % 8));
        }
        g = open_copy(c.p, (size_t)(test_u64() % 8 ? b.n : test_u64() % b.n), &copy, err);
        if (g) walk(g);
        else CHECK(is_sentence(err));
        gguf_close(g);
        free(copy);
        free(c.p);
    }
    gb_free(&b);
}

TEST(files)
{
    char err[GGUF_ERR_BYTES], path[512];
    const char *dir = getenv("TMPDIR");
    gb b;
    gguf *g;
    int fd;
    snprintf(path, sizeof path, "%.400s/skv_gguf_XXXXXX", dir ? dir : "/tmp");
    fd = mkstemp(path);
    if (fd < 0) SKIP("no temporary file can be made; set TMPDIR to a writable directory");
    CHECK(gguf_open(&g, path, err) == -1 && !g && strstr(err, "empty"));
    gb_small(&b, 3);
    CHECK(write(fd, b.p, b.n) == (ssize_t)b.n);
    CHECK(gguf_open(&g, path, err) == 0 && g);
    if (g) walk(g);
    gguf_close(g);
    CHECK(ftruncate(fd, (off_t)b.n - 1) == 0);
    CHECK(gguf_open(&g, path, err) == -1 && !g && strstr(err, "past the end"));
    close(fd);
    unlink(path);
    CHECK(gguf_open(&g, path, err) == -1 && !g && strstr(err, "Cannot open"));
    CHECK(gguf_open(&g, "/", err) == -1 && !g && is_sentence(err));
    CHECK(gguf_open(&g, NULL, err) == -1 && !g && is_sentence(err));
    gb_free(&b);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(reads_every_kind);
    RUN(reads_arrays);
    RUN(reads_tensors);
    RUN(any_address_and_no_message_buffer);
    RUN(every_truncation_is_refused);
    RUN(every_byte_flip_is_survived);
    RUN(bad_headers);
    RUN(bad_metadata);
    RUN(bad_metadata_of_other_sorts);
    RUN(bad_tensors);
    RUN(alignment);
    RUN(large_string_array);
    RUN(random_damage);
    RUN(files);
    return TEST_END();
}
