/* gguf_builder.h: builds small GGUF files in memory, good and bad ones, for tests and the fuzzer.
 *
 *   gb b; gb_start(&b, 3); gb_u32(&b, "general.alignment", 64); gb_tensor(&b, ...); gb_end(&b);
 *
 * gb_end writes the counts, pads, and appends b.data_bytes of data. Everything is counted as it is
 * added; a test that wants a lie changes n_kv, n_tensors or the bytes themselves. Out of memory
 * ends the program: this is test code.
 */
#ifndef SKV_GGUF_BUILDER_H
#define SKV_GGUF_BUILDER_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "gguf.h"

typedef struct gb {
    unsigned char *p;
    size_t n, room;
    uint64_t n_kv, n_tensors, data_bytes, alignment;
} gb;

static inline void gb_raw(gb *b, const void *data, size_t n)
{
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n) + 256;
        b->p = (unsigned char *)realloc(b->p, b->room);
        if (!b->p) exit(2);
    }
    if (n) memcpy(b->p + b->n, data, n);
    b->n += n;
}

static inline void gb_uint(gb *b, uint64_t v, size_t n)         /* n bytes, little endian */
{
    unsigned char bytes[8];
    size_t i;
    for (i = 0; i < n; i++) bytes[i] = (unsigned char)(v >> 8 * i);
    gb_raw(b, bytes, n);
}

static inline void gb_put(gb *b, size_t at, uint64_t v, size_t n)      /* overwrites */
{
    size_t i;
    for (i = 0; i < n && at + i < b->n; i++) b->p[at + i] = (unsigned char)(v >> 8 * i);
}

static inline void gb_bytes(gb *b, const void *p, size_t n)     /* a string: length and bytes */
{
    gb_uint(b, n, 8);
    gb_raw(b, p, n);
}

static inline void gb_string(gb *b, const char *s) { gb_bytes(b, s, strlen(s)); }

static inline void gb_start(gb *b, uint32_t version)
{
    memset(b, 0, sizeof *b);
    b->alignment = 32;
    gb_raw(b, "GGUF", 4);
    gb_uint(b, version, 4);
    gb_uint(b, 0, 8);
    gb_uint(b, 0, 8);
}

static inline void gb_key(gb *b, const char *key, uint32_t kind)        /* the value follows */
{
    gb_string(b, key);
    gb_uint(b, kind, 4);
    b->n_kv++;
}

static inline void gb_u32(gb *b, const char *key, uint32_t v)
{
    gb_key(b, key, GGUF_U32);
    gb_uint(b, v, 4);
}

static inline void gb_bool(gb *b, const char *key, int v)
{
    gb_key(b, key, GGUF_BOOL);
    gb_uint(b, (uint64_t)v, 1);
}

static inline void gb_str(gb *b, const char *key, const char *v)
{
    gb_key(b, key, GGUF_STRING);
    gb_string(b, v);
}

static inline void gb_float(gb *b, float v)             /* four bytes of an F32 */
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    gb_uint(b, bits, 4);
}

static inline void gb_array(gb *b, const char *key, uint32_t item, uint64_t count)
{
    gb_key(b, key, GGUF_ARRAY);
    gb_uint(b, item, 4);
    gb_uint(b, count, 8);
}

/* All metadata must come before the first tensor. */
static inline void gb_tensor(gb *b, const char *name, uint32_t n_dims, const uint64_t *ne,
                             uint32_t type, uint64_t offset)
{
    uint32_t i;
    gb_string(b, name);
    gb_uint(b, n_dims, 4);
    for (i = 0; i < n_dims; i++) gb_uint(b, ne[i], 8);
    gb_uint(b, type, 4);
    gb_uint(b, offset, 8);
    b->n_tensors++;
}

static inline void gb_end(gb *b)
{
    uint64_t i;
    gb_put(b, 8, b->n_tensors, 8);
    gb_put(b, 16, b->n_kv, 8);
    if (!b->n_tensors) return;
    while (b->n % b->alignment) gb_uint(b, 0, 1);
    for (i = 0; i < b->data_bytes; i++) gb_uint(b, i * 7, 1);
}

static inline void gb_free(gb *b)
{
    free(b->p);
    memset(b, 0, sizeof *b);
}

/* A file with every kind of value and several tensor types. */
static inline void gb_small(gb *b, uint32_t version)
{
    static const uint64_t f32[] = {6, 3}, q4_1[] = {64, 2}, q4_k[] = {256, 2, 2}, f16[] = {5};
    static const char *const words[] = {"zero", "", "two", "three", "4", "five", "six", "seven",
                                        "eight", "nine", "ten"};
    uint32_t i;
    double pi = 3.25;
    uint64_t bits;
    gb_start(b, version);
    gb_str(b, "general.architecture", "llama");
    gb_key(b, "u8", GGUF_U8);       gb_uint(b, 200, 1);
    gb_key(b, "i8", GGUF_I8);       gb_uint(b, 0xFE, 1);
    gb_key(b, "u16", GGUF_U16);     gb_uint(b, 60000, 2);
    gb_key(b, "i16", GGUF_I16);     gb_uint(b, 0x8000, 2);
    gb_u32(b, "u32", 4000000000u);
    gb_key(b, "i32", GGUF_I32);     gb_uint(b, 0xFFFFFFFFu, 4);
    gb_key(b, "f32", GGUF_F32);     gb_float(b, -0.5f);
    gb_bool(b, "yes", 1);
    gb_bool(b, "no", 0);
    gb_key(b, "u64", GGUF_U64);     gb_uint(b, 0xFFFFFFFFFFFFFFFFu, 8);
    gb_key(b, "i64", GGUF_I64);     gb_uint(b, 0x8000000000000000u, 8);
    memcpy(&bits, &pi, 8);
    gb_key(b, "f64", GGUF_F64);     gb_uint(b, bits, 8);
    gb_array(b, "words", GGUF_STRING, 11);
    for (i = 0; i < 11; i++) gb_string(b, words[i]);
    gb_array(b, "halves", GGUF_F32, 4);
    for (i = 0; i < 4; i++) gb_float(b, (float)i * 0.5f);
    gb_array(b, "signed", GGUF_I16, 3);
    for (i = 0; i < 3; i++) gb_uint(b, 0xFFFFu - i, 2);
    gb_array(b, "flags", GGUF_BOOL, 3);
    for (i = 0; i < 3; i++) gb_uint(b, i & 1, 1);
    gb_array(b, "nothing", GGUF_STRING, 0);
    gb_tensor(b, "a.weight", 2, f32, GGUF_T_F32, 0);            /* 72 bytes */
    gb_tensor(b, "b.weight", 2, q4_1, GGUF_T_Q4_1, 96);         /* 80 bytes */
    gb_tensor(b, "c.weight", 3, q4_k, GGUF_T_Q4_K, 192);        /* 576 bytes */
    gb_tensor(b, "d.bias", 1, f16, GGUF_T_F16, 768);            /* 10 bytes */
    gb_tensor(b, "scalar", 0, NULL, GGUF_T_BF16, 800);          /* 2 bytes */
    b->data_bytes = 802;
    gb_end(b);
}

/* ---- vocabularies ---- */

/* A token list is filled first and written at once, with types, and scores for SentencePiece. */
typedef struct gb_vocab {
    char  *text[4096];
    size_t bytes[4096];
    int    type[4096];
    float  score[4096];
    int    n;
} gb_vocab;

static inline int gb_find(const gb_vocab *v, const void *p, size_t n)
{
    int i;
    for (i = 0; i < v->n; i++)
        if (v->bytes[i] == n && !memcmp(v->text[i], p, n)) return i;
    return -1;
}

static inline int gb_token(gb_vocab *v, const void *p, size_t n, int type, float score)
{
    if (v->n == 4096 || !(v->text[v->n] = (char *)malloc(n + 1))) exit(2);
    memcpy(v->text[v->n], p, n);
    v->text[v->n][n] = 0;
    v->bytes[v->n] = n;
    v->type[v->n] = type;
    v->score[v->n] = score;
    return v->n++;
}

static inline int gb_word(gb_vocab *v, const char *s, int type, float score)
{
    return gb_token(v, s, strlen(s), type, score);
}

static inline void gb_vocab_free(gb_vocab *v)
{
    while (v->n) free(v->text[--v->n]);
}

static inline void gb_write_vocab(gb *b, const gb_vocab *v, int scores)
{
    int i;
    gb_array(b, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)v->n);
    for (i = 0; i < v->n; i++) gb_bytes(b, v->text[i], v->bytes[i]);
    gb_array(b, "tokenizer.ggml.token_type", GGUF_I32, (uint64_t)v->n);
    for (i = 0; i < v->n; i++) gb_uint(b, (uint64_t)v->type[i], 4);
    if (!scores) return;
    gb_array(b, "tokenizer.ggml.scores", GGUF_F32, (uint64_t)v->n);
    for (i = 0; i < v->n; i++) gb_float(b, v->score[i]);
}

/* The character that stands for a byte in GPT-2 vocabularies, in UTF-8; its length. Restated here
 * from its definition, so that the tokenizer's own table is tested: bytes that are not printable
 * Latin-1 become U+0100, U+0101, ... in order. */
static inline size_t gb_byte_char(unsigned byte, char out[2])
{
    unsigned c = byte, k, shift = 0;
    for (k = 0; k <= byte; k++) {
        int printable = (k >= '!' && k <= '~') || (k >= 0xA1 && k <= 0xAC) || k >= 0xAE;
        c = printable ? k : 0x100 + shift++;
    }
    if (c < 128) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 + c / 64);
    out[1] = (char)(0x80 + c % 64);
    return 2;
}

/* Text in GPT-2's characters; out has room for 2 n bytes. */
static inline size_t gb_encode(const char *p, size_t n, char *out)
{
    size_t i, at = 0;
    for (i = 0; i < n; i++) at += gb_byte_char((unsigned char)p[i], out + at);
    return at;
}

/* Tokens 0 .. 255: the bytes, in GPT-2's characters or as <0xXX>. */
static inline void gb_byte_tokens(gb_vocab *v, int spm)
{
    char text[8];
    unsigned i;
    for (i = 0; i < 256; i++) {
        size_t n = spm ? (size_t)snprintf(text, sizeof text, "<0x%02X>", i) : gb_byte_char(i, text);
        gb_token(v, text, n, spm ? 6 : 1, 0);
    }
}

/* Small SentencePiece file: bytes, a few words, control and user-defined tokens. */
static inline void gb_small_spm(gb *b)
{
    static const char *const words[] = {"\xE2\x96\x81", "a", "b", "c", "h", "e", "l", "o", "he",
        "ll", "lo", "hell", "llo", "hello", "\xE2\x96\x81he", "\xE2\x96\x81hello", "ab", "bc",
        "abc"};
    gb_vocab *v = (gb_vocab *)calloc(1, sizeof *v);
    size_t i;
    if (!v) exit(2);
    gb_byte_tokens(v, 1);
    for (i = 0; i < sizeof words / sizeof words[0]; i++)
        gb_word(v, words[i], 1, (float)(i * 7 % 11) - 20.0f);
    gb_word(v, "<unk>", 2, 0);                  /* 275 */
    gb_word(v, "<s>", 3, 0);
    gb_word(v, "</s>", 3, 0);
    gb_word(v, "  ", 4, 0);
    gb_word(v, "<start_of_turn>", 3, 0);
    gb_word(v, "<end_of_turn>", 3, 0);
    gb_start(b, 3);
    gb_str(b, "tokenizer.ggml.model", "llama");
    gb_u32(b, "tokenizer.ggml.unknown_token_id", 275);
    gb_u32(b, "tokenizer.ggml.bos_token_id", 276);
    gb_u32(b, "tokenizer.ggml.eos_token_id", 277);
    gb_str(b, "tokenizer.chat_template", "{{ '<start_of_turn>' }}");
    gb_write_vocab(b, v, 1);
    gb_end(b);
    gb_vocab_free(v);
    free(v);
}

/* Small BPE file: bytes, merges, control tokens. */
static inline void gb_small_bpe(gb *b, const char *pre)
{
    static const char *const merges[] = {"h e", "l l", "he ll", "hell o", "\xC4\xA0 hello", "a b",
        "b c", "ab c", "\xC4\xA0 \xC4\xA0", "1 2", "12 3", "", "x", " y", "z "};
    gb_vocab *v = (gb_vocab *)calloc(1, sizeof *v);
    size_t i, n = sizeof merges / sizeof merges[0];
    if (!v) exit(2);
    gb_byte_tokens(v, 0);
    for (i = 0; i < n; i++) {
        const char *space = strchr(merges[i], ' ');
        char joined[32];
        if (!space || space == merges[i] || !space[1]) continue;
        snprintf(joined, sizeof joined, "%.*s%s", (int)(space - merges[i]), merges[i], space + 1);
        gb_word(v, joined, 1, 0);
    }
    gb_word(v, "<|im_start|>", 3, 0);
    gb_word(v, "<|im_end|>", 1, 0);             /* called a normal token, as some files do */
    gb_word(v, "<|endoftext|>", 3, 0);
    gb_start(b, 3);
    gb_str(b, "tokenizer.ggml.model", "gpt2");
    gb_str(b, "tokenizer.ggml.pre", pre);
    gb_str(b, "tokenizer.chat_template", "{{ '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}");
    gb_write_vocab(b, v, 0);
    gb_array(b, "tokenizer.ggml.merges", GGUF_STRING, n);
    for (i = 0; i < n; i++) gb_string(b, merges[i]);
    gb_end(b);
    gb_vocab_free(v);
    free(v);
}
#endif
