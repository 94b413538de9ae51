/* fuzz_gguf.c: fuzzes the GGUF reader and the tokenizers: opens the input, touches everything that
 * the reader hands out, opens the vocabulary, turns text into ids and ids into text.
 *
 * An input that begins with GGUF is taken as a file. Any other is a list of changes to one of the
 * small valid files of gguf_builder.h, so that no seed files are needed: byte 0 picks the file,
 * then follow groups of 12 bytes: operation, place (3 bytes), value (8 bytes).
 */
#include "fuzz.h"
#include "gguf_builder.h"
#include "tokenizer.h"

#define GROUP 12
#define MUST(cond) do { if (!(cond)) abort(); } while (0)

static volatile unsigned sink;              /* what walking reads goes here */

static void touch(const void *p, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++) sink += ((const unsigned char *)p)[i];
}

static void walk_key(const gguf *g, const char *key)
{
    uint64_t u = 0, n, i;
    double d = 0;
    int b = 0;
    gguf_str s;
    gguf_kind kind;
    gguf_get_u64(g, key, &u);
    gguf_get_f64(g, key, &d);
    gguf_get_bool(g, key, &b);
    if (gguf_get_str(g, key, &s)) touch(s.p, s.n);
    if (!gguf_get_array(g, key, &kind, &n)) return;
    for (i = 0; i < n; i++) {
        if (gguf_array_str(g, key, i, &s)) touch(s.p, s.n);
        gguf_array_f64(g, key, i, &d);
    }
    MUST(!gguf_array_str(g, key, n, &s) && !gguf_array_f64(g, key, n, &d));
}

static void walk(const gguf *g)
{
    static const char *const keys[] = {"general.architecture", "general.alignment", "u8", "i8",
        "u16", "i16", "u32", "i32", "f32", "yes", "no", "u64", "i64", "f64", "words", "halves",
        "signed", "flags", "nothing", "tokenizer.ggml.model", "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.chat_template"};
    uint64_t i;
    for (i = 0; i < sizeof keys / sizeof keys[0]; i++) walk_key(g, keys[i]);
    for (i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        touch(t->name.p, t->name.n);
        touch(t->data, t->bytes);
        MUST(t->bytes && t->row_bytes && t->bytes % t->row_bytes == 0);
    }
    MUST(!gguf_tensor_at(g, i) && !gguf_find(g, "no such tensor"));
}

static void try_text(const llm_tokenizer *t, const char *text, size_t n, int parse)
{
    int ids[64];
    char out[64];
    long count = llm_tokenize(t, text, n, parse, ids, 64), i;
    MUST(count >= 0 && count == llm_tokenize(t, text, n, parse, NULL, 0));
    for (i = 0; i < count && i < 64; i++) {
        MUST(ids[i] >= 0 && ids[i] < llm_tokenizer_size(t));
        sink += (unsigned)llm_detokenize(t, ids[i], out, sizeof out);
    }
}

static void try_tokenizer(const gguf *g, const uint8_t *data, size_t size)
{
    static const char text[] = "hello  abc \xE6\x9D\xB1 hell 1234 <|im_start|>user\n<s>it's\xFF"
                               "\xC3";
    char err[GGUF_ERR_BYTES], out[256];
    llm_tokenizer *t;
    int id;
    if (llm_tokenizer_open(&t, g, err)) {
        MUST(!t && memchr(err, 0, sizeof err));
        return;
    }
    try_text(t, text, sizeof text - 1, 0);
    try_text(t, text, sizeof text - 1, 1);
    try_text(t, (const char *)data, size < 256 ? size : 256, 1);
    for (id = -1; id <= llm_tokenizer_size(t); id++) {
        sink += (unsigned)llm_detokenize(t, id, out, sizeof out);
        sink += (unsigned)llm_tokenizer_is_end(t, id);
    }
    MUST(llm_tokenizer_bos(t) < llm_tokenizer_size(t));
    if (llm_chat_prompt(t, " hi ", out, sizeof out) >= 0) MUST(memchr(out, 0, sizeof out));
    MUST(llm_chat_prompt(t, "hello", out, 5) == -1);
    llm_tokenizer_close(t);
}

static void read_file(const uint8_t *file, size_t n, const uint8_t *data, size_t size)
{
    char err[GGUF_ERR_BYTES];
    gguf *g;
    if (gguf_open_memory(&g, file, n, err)) {
        MUST(!g && memchr(err, 0, sizeof err));
        return;
    }
    walk(g);
    try_tokenizer(g, data, size);
    gguf_close(g);
}

static void changed_file(const uint8_t *data, size_t size)
{
    static gb files[6];
    static const char *const pre[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
    const gb *from;
    uint8_t *file;
    size_t n, i, k;
    if (!files[0].n) {
        gb_small(&files[0], 3);
        gb_small_spm(&files[1]);
        for (i = 0; i < 4; i++) gb_small_bpe(&files[2 + i], pre[i]);
    }
    from = &files[size ? data[0] % 6 : 0];
    n = from->n;
    for (i = 1; i + GROUP <= size; i += GROUP)          /* first the cuts */
        if (data[i] >= 0xF0) n = (data[i + 1] | (size_t)data[i + 2] << 8) % (n + 1);
    file = (uint8_t *)malloc(n ? n : 1);
    if (!file) return;
    memcpy(file, from->p, n);
    for (i = 1; n && i + GROUP <= size; i += GROUP) {   /* then 1, 2, 4 or 8 bytes each */
        size_t at = (data[i + 1] | (size_t)data[i + 2] << 8 | (size_t)data[i + 3] << 16) % n;
        size_t width = (size_t)1 << (data[i] & 3);
        for (k = 0; k < width && at + k < n && data[i] < 0xF0; k++) file[at + k] = data[i + 4 + k];
    }
    read_file(file, n, data, size);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 4 && !memcmp(data, "GGUF", 4)) read_file(data, size, data, size);
    else changed_file(data, size);
    return 0;
}
