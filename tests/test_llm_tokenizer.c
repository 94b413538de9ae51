/* test_llm_tokenizer.c: both tokenizers, against rules restated naively here, against words cut by
 * the regular expressions themselves (Hugging Face tokenizers 0.23), and, where the models are
 * there, against llama.cpp's ids.
 */
#include "gguf_builder.h"
#include "reference.h"
#include "test.h"
#include "tokenizer.h"

#define MAX_IDS 8192

typedef struct tok { gb file; gguf *g; llm_tokenizer *t; } tok;     /* a vocabulary, opened */

static void close_tok(tok *k)
{
    llm_tokenizer_close(k->t);
    gguf_close(k->g);
    gb_free(&k->file);
    memset(k, 0, sizeof *k);
}

/* Opens what k->file holds; 0, or -1 with err filled. */
static int open_tok(tok *k, char *err)
{
    k->t = NULL;
    k->g = NULL;
    if (gguf_open_memory(&k->g, k->file.p, k->file.n, err)) return -1;
    return llm_tokenizer_open(&k->t, k->g, err);
}

static void must_open(tok *k)
{
    char err[GGUF_ERR_BYTES];
    if (!open_tok(k, err)) return;
    printf("    %s\n", err);
    exit(2);
}

static int ids_are(const tok *k, const char *text, int parse, const int *want, int n)
{
    int ids[64], i;
    long count = llm_tokenize(k->t, text, strlen(text), parse, ids, 64);
    for (i = 0; i < n && i < count && ids[i] == want[i]; i++) { }
    if (count == n && i == n) return 1;
    printf("    \"%s\":", text);
    for (i = 0; i < count && i < 64; i++) printf(" %d", ids[i]);
    printf("\n");
    return 0;
}

/* All bytes of the ids, one after the other. */
static size_t text_of(const llm_tokenizer *t, const int *ids, long n, char *out, size_t max)
{
    size_t at = 0;
    long i;
    for (i = 0; i < n; i++) at += llm_detokenize(t, ids[i], out + at, max - at);
    return at;
}

static int round_trips(const llm_tokenizer *t, const char *text, size_t n)
{
    static int ids[MAX_IDS];
    static char out[4 * MAX_IDS];
    long count = llm_tokenize(t, text, n, 0, ids, MAX_IDS);
    return count >= 0 && count <= MAX_IDS && text_of(t, ids, count, out, sizeof out) == n
           && !memcmp(out, text, n);
}

/* Random text: bytes, ASCII, valid UTF-8 of all lengths, white space. Returns its length. */
static size_t random_text(char *out, size_t max)
{
    static const char *const pieces[] = {" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "\xC2\xA0",
        "\xE3\x80\x80", "\xF0\x9F\x99\x82", "\xCC\x81", "\xC2\xBD", "hello", "12", "\xFF", "\xE6"};
    size_t n = 0, k, room = (size_t)(test_u64() % max);
    int style = (int)(test_u64() % 4);
    while (n + 8 < room) {
        uint64_t r = test_u64();
        uint32_t c = (uint32_t)(r >> 8) % (r & 1 ? 0x800 : r & 2 ? 0x10000 : 0x110000);
        if (style == 0) {
            out[n++] = (char)r;
        } else if (style == 1 || r % 3 == 0) {
            const char *s = pieces[(r >> 8) % (sizeof pieces / sizeof pieces[0])];
            for (k = 0; s[k]; k++) out[n++] = s[k];
        } else if (c < 0x80 || style == 2) {
            out[n++] = (char)(c & 0x7F);
        } else if (c < 0x800) {
            out[n++] = (char)(0xC0 | c >> 6);
            out[n++] = (char)(0x80 | (c & 63));
        } else if (c < 0x10000 && (c < 0xD800 || c > 0xDFFF) && c != 0x2581) {
            out[n++] = (char)(0xE0 | c >> 12);
            out[n++] = (char)(0x80 | (c >> 6 & 63));
            out[n++] = (char)(0x80 | (c & 63));
        } else if (c >= 0x10000) {
            out[n++] = (char)(0xF0 | c >> 18);
            out[n++] = (char)(0x80 | (c >> 12 & 63));
            out[n++] = (char)(0x80 | (c >> 6 & 63));
            out[n++] = (char)(0x80 | (c & 63));
        }
    }
    return n;
}

/* ---- merging against the rule, restated ---- */

/* Joins neighbours of pieces[] while some pair is good: cost() says how good, negative is none. */
typedef double cost_fn(const void *self, const char *p, size_t left, size_t right);

static int naive_merge(const char *p, size_t *size, int n, cost_fn *cost, const void *self)
{
    for (;;) {
        size_t at = 0;
        int i, best = -1;
        double best_cost = 0;
        for (i = 0; i + 1 < n; at += size[i++]) {
            double c = cost(self, p + at, size[i], size[i + 1]);
            if (c < 0 || (best >= 0 && c >= best_cost)) continue;
            best = i;
            best_cost = c;
        }
        if (best < 0) return n;
        size[best] += size[best + 1];
        for (i = best + 1; i + 1 < n; i++) size[i] = size[i + 1];
        n--;
    }
}

static double spm_cost(const void *self, const char *p, size_t left, size_t right)
{
    const gb_vocab *v = self;
    int id = gb_find(v, p, left + right);
    return id < 0 ? -1 : 1000 - (double)v->score[id];
}

static double bpe_cost(const void *self, const char *p, size_t left, size_t right)
{
    const gb_vocab *merges = self;              /* "left right", in the order of their ranks */
    char text[64];
    if (left + right > 60) return -1;
    memcpy(text, p, left);
    text[left] = ' ';
    memcpy(text + left + 1, p + left, right);
    return gb_find(merges, text, left + 1 + right);
}

/* A vocabulary of random strings over a, b and U+2581; c is left to the bytes. Scores have ties. */
static gb_vocab *random_spm(tok *k)
{
    static const char *const letters[] = {"a", "b", "\xE2\x96\x81"};
    gb_vocab *v = calloc(1, sizeof *v);
    int i;
    if (!v) exit(2);
    gb_byte_tokens(v, 1);
    for (i = 0; i < 3; i++) gb_word(v, letters[i], 1, -100);
    for (i = 0; i < 60; i++) {
        char word[32] = "";
        int n = 2 + (int)(test_u64() % 4);
        while (n--) strcat(word, letters[test_u64() % 3]);
        if (gb_find(v, word, strlen(word)) < 0) gb_word(v, word, 1, -(float)(test_u64() % 8));
    }
    gb_start(&k->file, 3);
    gb_str(&k->file, "tokenizer.ggml.model", "llama");
    gb_write_vocab(&k->file, v, 1);
    gb_end(&k->file);
    must_open(k);
    return v;
}

TEST(spm_merges_as_the_rule_says)
{
    int round, i, vocabularies = test_.slow ? 200 : 30;
    while (vocabularies--) {
        tok k;
        gb_vocab *v = random_spm(&k);
        for (round = 0; round < 40; round++) {
            char text[48], spaced[200] = "\xE2\x96\x81";        /* the space that goes first */
            size_t size[64], at = 3;
            int ids[64], n = 1, len = (int)(test_u64() % 40), ok = 1;
            long count, j = 0;
            size[0] = 3;
            for (i = 0; i < len; i++) {
                text[i] = "aab c"[test_u64() % 5];
                size[n] = text[i] == ' ' ? 3 : 1;
                memcpy(spaced + at, text[i] == ' ' ? spaced : &text[i], size[n]);
                at += size[n++];
            }
            count = llm_tokenize(k.t, text, (size_t)len, 0, ids, 64);
            if (!len) n = 0;
            n = naive_merge(spaced, size, n, spm_cost, v);
            for (i = 0, at = 0; i < n && j < count; at += size[i++], j++) {
                int id = gb_find(v, spaced + at, size[i]);
                ok = ok && ids[j] == (id >= 0 ? id : (unsigned char)spaced[at]);
            }
            CHECK(ok && count == n);
        }
        gb_vocab_free(v);
        free(v);
        close_tok(&k);
    }
}

/* Bytes, and random merges of what is there so far over a, b and c. */
static gb_vocab *random_bpe(tok *k, gb_vocab *merges)
{
    gb_vocab *v = calloc(1, sizeof *v);
    int i;
    if (!v) exit(2);
    gb_byte_tokens(v, 0);
    for (i = 0; i < 60; i++) {
        int first = v->n > 256 ? 256 : 'a', x[2], j;
        char word[40], merge[40];
        for (j = 0; j < 2; j++)
            x[j] = test_u64() % 2 ? 'a' + (int)(test_u64() % 3)
                 : first == 'a' ? 'b' : first + (int)(test_u64() % (uint64_t)(v->n - first));
        if (v->bytes[x[0]] + v->bytes[x[1]] > 8) continue;
        snprintf(word, sizeof word, "%s%s", v->text[x[0]], v->text[x[1]]);
        snprintf(merge, sizeof merge, "%s %s", v->text[x[0]], v->text[x[1]]);
        if (gb_find(merges, merge, strlen(merge)) >= 0) continue;
        gb_word(merges, merge, 1, 0);
        if (gb_find(v, word, strlen(word)) < 0) gb_word(v, word, 1, 0);
    }
    gb_start(&k->file, 3);
    gb_str(&k->file, "tokenizer.ggml.model", "gpt2");
    gb_write_vocab(&k->file, v, 0);
    gb_array(&k->file, "tokenizer.ggml.merges", GGUF_STRING, (uint64_t)merges->n);
    for (i = 0; i < merges->n; i++) gb_string(&k->file, merges->text[i]);
    gb_end(&k->file);
    must_open(k);
    return v;
}

TEST(bpe_merges_as_the_rule_says)
{
    int round, i, vocabularies = test_.slow ? 200 : 30;
    gb_vocab *merges = calloc(1, sizeof *merges);
    if (!merges) exit(2);
    while (vocabularies--) {
        tok k;
        gb_vocab *v = random_bpe(&k, merges);
        for (round = 0; round < 40; round++) {
            char text[48];
            size_t size[64], at = 0;
            int ids[64], n = (int)(test_u64() % 40), ok = 1;
            long count;
            for (i = 0; i < n; i++) text[i] = "abc"[test_u64() % 3];
            for (i = 0; i < n; i++) size[i] = 1;
            count = llm_tokenize(k.t, text, (size_t)n, 0, ids, 64);
            n = naive_merge(text, size, n, bpe_cost, merges);
            for (i = 0; i < n && i < count; at += size[i++])
                ok = ok && ids[i] == gb_find(v, text + at, size[i]);
            CHECK(ok && count == n);
        }
        gb_vocab_free(v);
        gb_vocab_free(merges);
        free(v);
        close_tok(&k);
    }
    free(merges);
}

/* ---- special tokens ---- */

/* Control and user-defined tokens of 2 to 7 letters x and y, all of different length, so that
 * "longest first, then leftmost" is a total order. */
static gb_vocab *random_specials(tok *k)
{
    gb_vocab *v = calloc(1, sizeof *v);
    int i, len;
    if (!v) exit(2);
    gb_byte_tokens(v, 0);
    for (len = 2; len <= 7; len++) {
        char word[8] = "";
        if (test_u64() % 3 == 0) continue;
        for (i = 0; i < len; i++) word[i] = "xy"[test_u64() % 2];
        gb_word(v, word, test_u64() % 2 ? 4 : 3, 0);
    }
    gb_start(&k->file, 3);
    gb_str(&k->file, "tokenizer.ggml.model", "gpt2");
    gb_write_vocab(&k->file, v, 0);
    gb_array(&k->file, "tokenizer.ggml.merges", GGUF_STRING, 0);
    gb_end(&k->file);
    must_open(k);
    return v;
}

/* owner[i]: the token that starts there, -2 inside one, -1 for plain text. */
static void naive_specials(const gb_vocab *v, const char *text, int n, int parse, int *owner)
{
    int i, c, id, is_free;
    for (i = 0; i < n; i++) owner[i] = -1;
    for (id = v->n - 1; id >= 256; id--) {
        int size = (int)v->bytes[id];
        if (!parse && v->type[id] != 4) continue;
        for (i = 0; i + size <= n; i++) {
            for (c = 0, is_free = 1; c < size; c++) is_free = is_free && owner[i + c] == -1;
            if (!is_free || memcmp(text + i, v->text[id], (size_t)size)) continue;
            for (c = 0; c < size; c++) owner[i + c] = c ? -2 : id;
        }
    }
}

TEST(special_tokens_longest_first)
{
    int round, i, vocabularies = test_.slow ? 300 : 40;
    while (vocabularies--) {
        tok k;
        gb_vocab *v = random_specials(&k);
        for (round = 0; round < 40; round++) {
            char text[40];
            int owner[40], ids[40], n = (int)(test_u64() % 39), parse = (int)(test_u64() % 2);
            int ok = 1;
            long count, j = 0;
            for (i = 0; i < n; i++) text[i] = "xy"[test_u64() % 2];
            naive_specials(v, text, n, parse, owner);
            count = llm_tokenize(k.t, text, (size_t)n, parse, ids, 40);
            for (i = 0; i < n; i++)
                if (owner[i] != -2)
                    ok = ok && j < count && ids[j++] == (owner[i] >= 0 ? owner[i] : text[i]);
            CHECK(ok && j == count);
        }
        gb_vocab_free(v);
        free(v);
        close_tok(&k);
    }
}

TEST(spm_spaces_and_bytes)
{
    static const int hello[] = {271, 271}, wide[] = {271, 278, 271}, special[] = {271, 276, 271};
    static const int plain[] = {271, '<', 's', '>', 269}, leading[] = {256, 271};
    static const int bytes[] = {256, 0xE6, 0x9D, 0xB1, 0xFF}, cut[] = {256, 0xE6, 256, 'z'};
    int ids[8];
    char out[8];
    tok k;
    gb_small_spm(&k.file);
    must_open(&k);
    CHECK(llm_tokenizer_size(k.t) == 281);
    CHECK(ids_are(&k, "", 0, NULL, 0));
    CHECK(ids_are(&k, "hello", 0, hello, 1));           /* with the space that goes first */
    CHECK(ids_are(&k, "hello hello", 0, hello, 2));
    CHECK(ids_are(&k, " hello", 0, leading, 2));
    CHECK(ids_are(&k, "hello  hello", 0, wide, 3));     /* "  " is user-defined: always one token */
    CHECK(ids_are(&k, "hello<s>hello", 0, plain, 5));   /* "<s>" is control: only when asked for */
    CHECK(ids_are(&k, "hello<s>hello", 1, special, 3));
    CHECK(ids_are(&k, "\xE6\x9D\xB1\xFF", 0, bytes, 5));
    CHECK(ids_are(&k, "\xE6 z", 0, cut, 4));            /* half a character, then a space */
    CHECK(llm_tokenize(k.t, "hello hello", 11, 0, ids, 1) == 2 && ids[0] == 271);
    CHECK(llm_tokenize(k.t, "hello hello", 11, 0, NULL, 0) == 2);
    CHECK(llm_detokenize(k.t, 271, out, 8) == 6 && !memcmp(out, " hello", 6));
    CHECK(llm_detokenize(k.t, 271, out, 2) == 6 && llm_detokenize(k.t, 271, NULL, 0) == 6);
    CHECK(llm_detokenize(k.t, 0xE6, out, 8) == 1 && out[0] == '\xE6');
    CHECK(llm_detokenize(k.t, 276, out, 8) == 0 && llm_detokenize(k.t, 275, out, 8) == 0);
    CHECK(llm_detokenize(k.t, 278, out, 8) == 2 && llm_detokenize(k.t, -1, out, 8) == 0);
    CHECK(llm_detokenize(k.t, 281, out, 8) == 0);
    close_tok(&k);
}

TEST(spm_without_the_first_space)
{
    static const int hello[] = {269}, special[] = {276, 269};
    gb_vocab *v = calloc(1, sizeof *v);
    tok k;
    if (!v) exit(2);
    gb_small_spm(&k.file);
    gb_key(&k.file, "tokenizer.ggml.add_space_prefix", GGUF_BOOL);      /* added at the end */
    gb_uint(&k.file, 0, 1);
    gb_end(&k.file);
    must_open(&k);
    CHECK(ids_are(&k, "hello", 0, hello, 1));
    CHECK(ids_are(&k, "<s>hello", 1, special, 2));
    free(v);
    close_tok(&k);
}

/* ---- pre-tokenizers ---- */

/* Writes a vocabulary in which every word of `cut` (words between bars) is reached by merges from
 * left to right, and so is each word joined with its successor: a cut in the wrong place shows. */
static void write_words(tok *k, const char *pre, const char *cut)
{
    gb_vocab *v = calloc(1, sizeof *v), *merges = calloc(1, sizeof *merges);
    const char *word = cut, *end, *next;
    int pass, i;
    if (!v || !merges) exit(2);
    gb_byte_tokens(v, 0);
    for (pass = 0; pass < 2; pass++) {
        for (word = cut; *word; word = *end ? end + 1 : end) {
            char plain[64], encoded[128], merge[160];
            size_t n, at, all, chars;
            end = strchr(word, '|') ? strchr(word, '|') : word + strlen(word);
            next = strchr(end + (*end != 0), '|');
            if (!next) next = end + strlen(end);
            n = (size_t)(end - word);
            memcpy(plain, word, n);
            if (pass && *end) memcpy(plain + n, end + 1, (size_t)(next - end - 1));
            all = pass && *end ? n + (size_t)(next - end - 1) : n;
            for (at = pass ? n : 1; at < all; at = pass ? all : at + 1) {
                size_t left = gb_encode(plain, at, encoded);
                chars = gb_encode(plain, pass ? all : at + 1, encoded);
                snprintf(merge, sizeof merge, "%.*s %.*s", (int)left, encoded, (int)(chars - left),
                         encoded + left);
                if (gb_find(merges, merge, strlen(merge)) < 0) gb_word(merges, merge, 1, 0);
                if (gb_find(v, encoded, chars) < 0) gb_token(v, encoded, chars, 1, 0);
            }
        }
    }
    gb_start(&k->file, 3);
    gb_str(&k->file, "tokenizer.ggml.model", "gpt2");
    gb_str(&k->file, "tokenizer.ggml.pre", pre);
    gb_write_vocab(&k->file, v, 0);
    gb_array(&k->file, "tokenizer.ggml.merges", GGUF_STRING, (uint64_t)merges->n);
    for (i = 0; i < merges->n; i++) gb_string(&k->file, merges->text[i]);
    gb_end(&k->file);
    gb_vocab_free(v);
    gb_vocab_free(merges);
    free(v);
    free(merges);
}

static void cuts(const char *pre, const char *cut)
{
    char text[256], got[512];
    size_t n = 0, at = 0;
    int ids[128], i;
    const char *c;
    tok k;
    long count;
    for (c = cut; *c; c++)
        if (*c != '|') text[n++] = *c;
    write_words(&k, pre, cut);
    must_open(&k);
    count = llm_tokenize(k.t, text, n, 0, ids, 128);
    for (i = 0; i < count && i < 128; i++) {
        if (i) got[at++] = '|';
        at += llm_detokenize(k.t, ids[i], got + at, 64);
    }
    got[at] = 0;
    if (strcmp(got, cut)) {
        printf("    %s\n      wanted %s\n      got    %s\n", pre, cut, got);
        test_fail(__FILE__, __LINE__, "words");
    }
    close_tok(&k);
}

/* The cuts are those of the regular expressions in Hugging Face tokenizers. */
TEST(words_of_gpt2_and_smollm)
{
    cuts("gpt-2", "Hello|,| world|!| It|'s| 1234| o|'|clock|;| WE|'|LL| see|.");
    cuts("gpt-2", "abc| | def|\n\n| ghi|\t|\t|x");
    cuts("default", "x|=|3|.|14159|*|y|**|2| //| ok|\n\n");
    cuts("gpt-2", "Na\xC3\xAFve| caf\xC3\xA9| \xE2\x82\xAC|1|,|234| \xC2\xBD| \xE6\x9D\xB1"
                  "\xE4\xBA\xAC| \xF0\x9F\x99\x82|\xE3\x80\x80|end");
    cuts("gpt-2", "'s| '|T| '|re| '|ve| |\xC2\xA0|x|  ");
    cuts("gpt-2", "a|\xAA|b|\xC3| c| \xA0|1");            /* no UTF-8: neither letter nor space */
    cuts("smollm", "Hello|,| world|!| It|'s| |1|2|3|4| o|'|clock|;| WE|'|LL| see|.");
    cuts("smollm", "abc| | def|\n\n| ghi|\t|\t|x");
    cuts("smollm", "x|=|3|.|1|4|1|5|9|*|y|**|2| //| ok|\n\n");
    cuts("smollm", "Na\xC3\xAFve| caf\xC3\xA9| \xE2\x82\xAC|1|,|2|3|4| |\xC2\xBD| \xE6\x9D\xB1"
                   "\xE4\xBA\xAC| \xF0\x9F\x99\x82|\xE3\x80\x80|end");
    cuts("smollm", "a|  |7|  | b|  |8");
    cuts("smollm", "a|.|\n\t |\r|b");
}

TEST(words_of_llama3_and_qwen2)
{
    cuts("llama-bpe", "Hello|,| world|!| It|'s| |123|4| o|'clock|;| WE|'LL| see|.");
    cuts("llama3", "abc| | def|\n\n| ghi|\t|\tx");
    cuts("llama-bpe", "x|=|3|.|141|59|*y|**|2| //| ok|\n\n");
    cuts("llama-bpe", "Na\xC3\xAFve| caf\xC3\xA9| \xE2\x82\xAC|1|,|234| |\xC2\xBD| \xE6\x9D\xB1"
                      "\xE4\xBA\xAC| \xF0\x9F\x99\x82|\xE3\x80\x80" "end");
    cuts("llama-bpe", "'s| '|T| '|re|'VE| |\xC2\xA0x|  ");
    cuts("qwen2", "Hello|,| world|!| It|'s| |1|2|3|4| o|'clock|;| WE|'LL| see|.");
    cuts("qwen2", "abc| | def|\n\n| ghi|\t|\tx");
    cuts("qwen2", "x|=|3|.|1|4|1|5|9|*y|**|2| //| ok|\n\n");
    cuts("qwen2", "a|.\r\n\r\n| \r\n| b|!?\n\n|  \n|  | c");
    cuts("qwen2", "a| | |7|  | b| | |8");
}

TEST(bpe_round_trips)
{
    static const char *const pre[] = {"gpt-2", "smollm", "llama-bpe", "qwen2"};
    char text[600];
    int i, round, rounds = test_.slow ? 20000 : 1000;
    for (i = 0; i < 4; i++) {
        tok k;
        gb_small_bpe(&k.file, pre[i]);
        must_open(&k);
        for (round = 0; round < rounds; round++) {
            size_t n = random_text(text, sizeof text);
            CHECK(round_trips(k.t, text, n));
            CHECK(llm_tokenize(k.t, text, n, 1, NULL, 0) >= 0);
        }
        close_tok(&k);
    }
}

/* One word of 200000 letters, and as many spaces: quadratic merging would take minutes. */
TEST(long_words)
{
    size_t n = 200000;
    char *text = malloc(n);
    tok spm, bpe;
    if (!text) exit(2);
    gb_small_spm(&spm.file);
    must_open(&spm);
    gb_small_bpe(&bpe.file, "llama3");
    must_open(&bpe);
    memset(text, 'l', n);
    CHECK(llm_tokenize(bpe.t, text, n, 1, NULL, 0) == (long)n / 2);
    CHECK(llm_tokenize(spm.t, text, n, 1, NULL, 0) == (long)n / 2 + 1);
    memset(text, ' ', n);
    CHECK(llm_tokenize(bpe.t, text, n, 1, NULL, 0) == (long)n / 2);
    CHECK(llm_tokenize(spm.t, text, n, 1, NULL, 0) == (long)n / 2);
    free(text);
    close_tok(&spm);
    close_tok(&bpe);
}

/* ---- ids, chat forms, refusals ---- */

TEST(first_and_last_tokens)
{
    tok k;
    gb_small_spm(&k.file);
    must_open(&k);
    CHECK(llm_tokenizer_bos(k.t) == 276);               /* SentencePiece: unless told otherwise */
    CHECK(llm_tokenizer_is_end(k.t, 277) && llm_tokenizer_is_end(k.t, 280));
    CHECK(!llm_tokenizer_is_end(k.t, 276) && !llm_tokenizer_is_end(k.t, -1));
    CHECK(!llm_tokenizer_is_end(k.t, 281));
    close_tok(&k);
    gb_small_spm(&k.file);
    gb_bool(&k.file, "tokenizer.ggml.add_bos_token", 0);
    gb_end(&k.file);
    must_open(&k);
    CHECK(llm_tokenizer_bos(k.t) == -1);
    close_tok(&k);
    gb_small_bpe(&k.file, "smollm");
    gb_u32(&k.file, "tokenizer.ggml.bos_token_id", 3);
    gb_u32(&k.file, "tokenizer.ggml.eos_token_id", 4000000000u);        /* outside: ignored */
    gb_end(&k.file);
    must_open(&k);
    CHECK(llm_tokenizer_bos(k.t) == -1);
    close_tok(&k);
    gb_small_bpe(&k.file, "llama-bpe");
    gb_u32(&k.file, "tokenizer.ggml.bos_token_id", 3);
    gb_end(&k.file);
    must_open(&k);
    CHECK(llm_tokenizer_bos(k.t) == 3);                 /* Llama 3 wants it */
    close_tok(&k);
}

TEST(known_names_are_control_tokens)
{
    int ids[16], end;
    char out[16];
    tok k;
    gb_small_bpe(&k.file, "smollm");
    must_open(&k);
    CHECK(llm_tokenize(k.t, "<|im_end|>", 10, 1, ids, 16) == 1);
    end = ids[0];
    CHECK(llm_tokenizer_is_end(k.t, end) && llm_detokenize(k.t, end, out, 16) == 0);
    CHECK(llm_tokenize(k.t, "<|im_end|>", 10, 0, ids, 16) == 10);
    CHECK(llm_tokenize(k.t, "ab<|im_end|>", 12, 1, ids, 16) == 2 && ids[1] == end);
    close_tok(&k);
}

static int chat_is(const char *chat_template, const char *user, const char *want)
{
    static const unsigned char zero[8] = {0};
    char out[256], small[4];
    tok k;
    long n;
    int ok;
    gb_start(&k.file, 3);
    gb_str(&k.file, "tokenizer.ggml.model", "gpt2");
    if (chat_template) gb_str(&k.file, "tokenizer.chat_template", chat_template);
    gb_array(&k.file, "tokenizer.ggml.tokens", GGUF_STRING, 1);
    gb_raw(&k.file, zero, 8);
    gb_array(&k.file, "tokenizer.ggml.merges", GGUF_STRING, 0);
    gb_end(&k.file);
    must_open(&k);
    n = llm_chat_prompt(k.t, user, out, sizeof out);
    ok = n == (long)strlen(want) && !strcmp(out, want);
    if (!ok) printf("    %ld %s\n", n, n < 0 ? "" : out);
    ok = ok && llm_chat_prompt(k.t, user, out, (size_t)n + 1) == n;
    ok = ok && llm_chat_prompt(k.t, user, out, (size_t)n) == -1;
    ok = ok && (n < 4 || llm_chat_prompt(k.t, user, small, sizeof small) == -1);
    ok = ok && llm_chat_prompt(k.t, user, NULL, 0) == -1;
    close_tok(&k);
    return ok;
}

TEST(chat_forms)
{
    CHECK(chat_is(NULL, " as it is ", " as it is "));
    CHECK(chat_is("{{ '[INST]' }}", "hi", "hi"));
    CHECK(chat_is("{% '<|im_start|>' + role %}", " hi ",
                  "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n"));
    CHECK(chat_is("{{ '<|im_start|>system\n' + x }}"
                  "{{ \"<|im_start|>system\\nBe kind.<|im_end|>\" }}",
                  "hi", "<|im_start|>system\nBe kind.<|im_end|>\n"
                        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"));
    CHECK(chat_is("<|im_start|>system\nno end", "hi",
                  "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"));
    CHECK(chat_is("{{ '<start_of_turn>' }}", " hi\n",
                  "<start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"));
    CHECK(chat_is("{{ '<|start_header_id|>' }}", "hi",
                  "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                  "<|start_header_id|>assistant<|end_header_id|>\n\n"));
}

static void refused(tok *k, const char *phrase)
{
    char err[GGUF_ERR_BYTES] = "", text[GGUF_ERR_BYTES + 100];
    gb_end(&k->file);
    if (!open_tok(k, err) || !strstr(err, phrase) || err[strlen(err) - 1] != '.') {
        snprintf(text, sizeof text, "wanted '%.60s', got '%s'", phrase, k->t ? "(opened)" : err);
        test_fail(__FILE__, __LINE__, text);
    }
    close_tok(k);
}

/* Begins a vocabulary of n one-letter tokens. */
static void letters(tok *k, const char *model, int n)
{
    int i;
    gb_start(&k->file, 3);
    gb_str(&k->file, "tokenizer.ggml.model", model);
    gb_array(&k->file, "tokenizer.ggml.tokens", GGUF_STRING, (uint64_t)n);
    for (i = 0; i < n; i++) gb_bytes(&k->file, &"abcdefghij"[i % 10], 1);
}

static void refuses_other_shapes(void)
{
    tok k;
    int i;
    letters(&k, "llama", 3);
    gb_array(&k.file, "tokenizer.ggml.scores", GGUF_F32, 2);
    for (i = 0; i < 2; i++) gb_float(&k.file, 1);
    refused(&k, "scores");
    letters(&k, "llama", 1);
    gb_array(&k.file, "tokenizer.ggml.scores", GGUF_STRING, 1);
    gb_string(&k.file, "1.0");
    refused(&k, "scores");
    letters(&k, "gpt2", 3);
    gb_array(&k.file, "tokenizer.ggml.token_type", GGUF_I32, 2);
    gb_uint(&k.file, 1, 4);
    gb_uint(&k.file, 1, 4);
    refused(&k, "differ in length");
    letters(&k, "gpt2", 3);
    gb_array(&k.file, "tokenizer.ggml.merges", GGUF_U32, 0);
    refused(&k, "merges");
}

TEST(refuses_bad_vocabularies)
{
    tok k;
    gb_start(&k.file, 3);
    refused(&k, "no tokenizer");
    letters(&k, "bert", 3);
    refused(&k, "not supported");
    letters(&k, "gpt2", 3);
    refused(&k, "merges");
    letters(&k, "llama", 3);
    refused(&k, "scores");
    letters(&k, "gpt2", 0);
    refused(&k, "vocabulary");
    letters(&k, "gpt2", 3);
    gb_str(&k.file, "tokenizer.ggml.pre", "tekken\n");
    refused(&k, "'tekken?'");
    gb_start(&k.file, 3);
    gb_str(&k.file, "tokenizer.ggml.model", "llama");
    gb_array(&k.file, "tokenizer.ggml.tokens", GGUF_U8, 3);
    gb_uint(&k.file, 0, 3);
    refused(&k, "vocabulary");
    refuses_other_shapes();
}

/* Odd but usable: scores without order, empty and equal tokens, kinds that mean nothing. */
TEST(odd_vocabularies_work)
{
    static const float scores[] = {1, 0, 0, 3, 3, 2};
    static const int types[] = {1, -5, 1000, 4, 6, 1};
    tok k;
    int ids[8], i;
    float bad;
    char out[8];
    letters(&k, "llama", 5);
    k.file.n -= 5 * 9;                                  /* the same five, one twice, and "" */
    gb_put(&k.file, k.file.n - 8, 6, 8);
    gb_string(&k.file, "a");
    gb_string(&k.file, "b");
    gb_string(&k.file, "ab");
    gb_string(&k.file, "");
    gb_string(&k.file, "<0x>");                         /* called a byte, but none */
    gb_string(&k.file, "ab");
    gb_array(&k.file, "tokenizer.ggml.token_type", GGUF_I32, 6);
    for (i = 0; i < 6; i++) gb_uint(&k.file, (uint64_t)(int64_t)types[i], 4);
    gb_array(&k.file, "tokenizer.ggml.scores", GGUF_F32, 6);
    for (i = 0; i < 6; i++) {
        bad = i == 2 ? (float)NAN : i == 1 ? -(float)INFINITY : scores[i];
        gb_float(&k.file, bad);
    }
    gb_end(&k.file);
    must_open(&k);
    CHECK(llm_tokenize(k.t, "abzab", 5, 1, ids, 8) == 2);       /* z and the space are unknown */
    CHECK(ids[0] == 5 && ids[1] == 5);                          /* the last of equal tokens */
    CHECK(llm_detokenize(k.t, 4, out, 8) == 4 && llm_detokenize(k.t, 3, out, 8) == 0);
    close_tok(&k);
}

/* ---- models ---- */

static int open_model(tok *k, const char *variable)
{
    char err[GGUF_ERR_BYTES];
    const char *path = getenv(variable);
    memset(k, 0, sizeof *k);
    if (!path || !*path) return -1;
    if (gguf_open(&k->g, path, err) || llm_tokenizer_open(&k->t, k->g, err)) {
        printf("    %s\n", err);
        test_fail(__FILE__, __LINE__, "the model opens");
        gguf_close(k->g);
        return -2;
    }
    return 0;
}

static void check_reference(const tok *k, const char *model)
{
    static int ids[MAX_IDS];
    reference *r = reference_open(model);
    int i;
    CHECK(r != NULL);
    for (i = 0; r && i < r->n_cases; i++) {
        const reference_case *c = &r->cases[i];
        long n = llm_tokenize(k->t, c->text, c->text_bytes, 0, ids, MAX_IDS);
        CHECK(n == c->n_ids);
        CHECK(n == c->n_ids && !memcmp(ids, c->ids, (size_t)n * sizeof *ids));
        CHECK(round_trips(k->t, c->text, c->text_bytes));
    }
    reference_free(r);
}

TEST(smollm2_as_llama_cpp)
{
    static const int chat[] = {1, 9690, 198};
    char text[600];
    int ids[64], i, known[256];
    tok k;
    i = open_model(&k, "SKV_MODEL_SMOLLM2");
    if (i == -1) SKIP("SKV_MODEL_SMOLLM2 is not set; run make model");
    if (i) return;
    check_reference(&k, "smollm2");
    CHECK(llm_tokenizer_size(k.t) == 49152 && llm_tokenizer_bos(k.t) == -1);
    CHECK(llm_tokenizer_is_end(k.t, 0) && llm_tokenizer_is_end(k.t, 2));
    CHECK(!llm_tokenizer_is_end(k.t, 1));
    CHECK(llm_chat_prompt(k.t, "Hi", text, sizeof text) > 0 && !strcmp(text,
          "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
          "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"));
    CHECK(llm_tokenize(k.t, text, strlen(text), 1, ids, 64) > 10);
    CHECK(!memcmp(ids, chat, sizeof chat));
    for (i = 0; i < 256; i++) {                 /* 21 bytes are not in this vocabulary */
        text[0] = (char)i;
        known[i] = llm_tokenize(k.t, text, 1, 0, NULL, 0) == 1;
    }
    CHECK(known['a'] && known[0] && !known[0xC0] && !known[0xFF]);
    for (i = 0; i < (test_.slow ? 20000 : 1000); i++) {
        size_t n = random_text(text, sizeof text), j, kept = 0;
        for (j = 0; j < n; j++)
            if (known[(unsigned char)text[j]]) text[kept++] = text[j];
        CHECK(round_trips(k.t, text, kept));
    }
    close_tok(&k);
}

TEST(gemma3_as_llama_cpp)
{
    char text[600];
    int ids[8], i;
    tok k;
    i = open_model(&k, "SKV_MODEL_GEMMA3");
    if (i == -1) SKIP("SKV_MODEL_GEMMA3 is not set; run make model-gemma");
    if (i) return;
    check_reference(&k, "gemma3");
    CHECK(llm_tokenizer_size(k.t) == 262144 && llm_tokenizer_bos(k.t) == 2);
    CHECK(llm_tokenizer_is_end(k.t, 1) && llm_tokenizer_is_end(k.t, 106));
    CHECK(llm_tokenize(k.t, "<start_of_turn>user\n\n", 21, 1, ids, 8) == 3);
    CHECK(ids[0] == 105 && ids[1] == 2364 && ids[2] == 108);
    for (i = 0; i < (test_.slow ? 20000 : 1000); i++) {
        size_t n = random_text(text, sizeof text);
        CHECK(round_trips(k.t, text, n));
    }
    close_tok(&k);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(spm_merges_as_the_rule_says);
    RUN(bpe_merges_as_the_rule_says);
    RUN(special_tokens_longest_first);
    RUN(spm_spaces_and_bytes);
    RUN(spm_without_the_first_space);
    RUN(words_of_gpt2_and_smollm);
    RUN(words_of_llama3_and_qwen2);
    RUN(bpe_round_trips);
    RUN(long_words);
    RUN(first_and_last_tokens);
    RUN(known_names_are_control_tokens);
    RUN(chat_forms);
    RUN(refuses_bad_vocabularies);
    RUN(odd_vocabularies_work);
    RUN(smollm2_as_llama_cpp);
    RUN(gemma3_as_llama_cpp);
    return TEST_END();
}
