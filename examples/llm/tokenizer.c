/* tokenizer.c: see tokenizer.h. Follows llama.cpp's rules, so that its models see the ids they were
 * tested with, but for two things. Bytes that are not UTF-8 stay what they are (llama.cpp makes
 * them U+FFFD before byte-level BPE, and lets them swallow their successors in SentencePiece). And
 * a BPE vocabulary with the pre-tokenizer "default" or none is cut like GPT-2's. A byte that a BPE
 * vocabulary lacks is dropped, as there.
 *
 * Cost: O(n log n) for n bytes of text; the index takes about 30 bytes per token of vocabulary.
 */
#include "tokenizer.h"
#include "unicode_tables.h"
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TEXT 0x3FFFFFFFu        /* bytes; escaped text (three times that) still fits 32 bits */
#define MAX_VOCAB (1u << 24)
#define NONE UINT32_MAX

enum { SPM, BPE };
enum { PRE_GPT2, PRE_SMOLLM, PRE_LLAMA3, PRE_QWEN2 };
enum { CHAT_NONE, CHAT_ML, CHAT_GEMMA, CHAT_LLAMA3 };
enum { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };  /* token types in the file */
enum { OUTSIDE, LETTER, NUMBER, SPACE, OTHER };                     /* classes of characters */

typedef unsigned char byte;

typedef struct merge { const char *p; uint32_t left, right; } merge;    /* p: "left right" */
typedef struct special { gguf_str text; int id; } special;

struct llm_tokenizer {
    int model, pre, chat, ignore_merges, space_prefix;
    int n, bos, unknown;            /* bos: -1 when none is to be put first */
    gguf_str *text;
    float *score;                   /* SPM only */
    byte *type, *end;
    int32_t *slots, *merge_slots;   /* open hash tables of token ids and of ranks; -1 is free */
    size_t mask, merge_mask, max_token, max_merge;
    merge *merges;
    special *specials;              /* sorted by their bytes */
    size_t n_specials, first[257];  /* those that begin with byte b: first[b] .. first[b + 1] */
    int byte_id[256];               /* SPM: <0x00> .. <0xFF>, or -1 */
    unsigned byte_char[256];        /* BPE: the code point that stands for a byte ... */
    int char_byte[0x144];           /* ... and back; -1 for code points that stand for none */
    gguf_str system_line;           /* ChatML: the template's own; n is 0 when it has none */
};

typedef struct symbol { uint32_t prev, next, at, n; } symbol;   /* a piece of the word; n 0: gone */
typedef struct pair { double cost; uint32_t left, right, size; } pair;

typedef struct work {               /* what one llm_tokenize needs */
    const llm_tokenizer *t;
    int *ids;
    long max, n;
    symbol *symbols;
    char *buffer;
    pair *heap;
    size_t symbols_room, buffer_room, heap_n, heap_room;
} work;

static int fail(char *err, const char *format, ...)
{
    va_list args;
    if (!err) return -1;
    va_start(args, format);
    vsnprintf(err, GGUF_ERR_BYTES, format, args);
    va_end(args);
    return -1;
}

/* ---- hash tables of strings ---- */

static uint64_t hash(uint64_t h, const char *p, size_t n)       /* FNV-1a with a better end */
{
    while (n--) h = (h ^ (byte)*p++) * 0x100000001B3u;
    return h;
}

static size_t slot_of(uint64_t h, size_t mask)
{
    h ^= h >> 32;
    h *= 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 29) & mask;
}

static int same(gguf_str s, const char *p, size_t n)
{
    return s.n == n && !memcmp(s.p, p, n);
}

static size_t token_slot(const llm_tokenizer *t, const char *p, size_t n)
{
    size_t i = slot_of(hash(0xCBF29CE484222325u, p, n), t->mask);
    while (t->slots[i] >= 0 && !same(t->text[t->slots[i]], p, n)) i = (i + 1) & t->mask;
    return i;
}

static int find_token(const llm_tokenizer *t, const char *p, size_t n)     /* -1: not there */
{
    return n && n <= t->max_token ? t->slots[token_slot(t, p, n)] : -1;
}

/* The slot that holds the rank of the pair (p, q), or the free one where it would be. */
static size_t merge_slot(const llm_tokenizer *t, const char *p, const char *q, uint32_t left,
                         uint32_t right)
{
    uint64_t h = hash(hash(0xCBF29CE484222325u, p, left) ^ 0x100, q, right);
    size_t i = slot_of(h, t->merge_mask);
    for (; t->merge_slots[i] >= 0; i = (i + 1) & t->merge_mask) {
        const merge *m = &t->merges[t->merge_slots[i]];
        if (m->left == left && m->right == right && !memcmp(m->p, p, left)
            && !memcmp(m->p + left + 1, q, right)) break;
    }
    return i;
}

static int32_t *new_slots(uint64_t n, size_t *mask)
{
    size_t size = 4, i;
    int32_t *slots;
    while (size < 2 * n) size *= 2;
    slots = malloc(size * sizeof *slots);
    for (i = 0; slots && i < size; i++) slots[i] = -1;
    *mask = size - 1;
    return slots;
}

/* ---- characters ---- */

static int in_ranges(const unicode_range *r, size_t n, uint32_t c)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c > r[mid].last) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && c >= r[lo].first;
}

#define IN(table, c) in_ranges(table, sizeof table / sizeof table[0], c)

static int class_of(uint32_t c)
{
    if (c < 128) {
        if ((c | 32) >= 'a' && (c | 32) <= 'z') return LETTER;
        if (c >= '0' && c <= '9') return NUMBER;
        return c == ' ' || (c >= 9 && c <= 13) ? SPACE : OTHER;
    }
    if (IN(unicode_letters, c)) return LETTER;
    if (IN(unicode_numbers, c)) return NUMBER;
    return IN(unicode_spaces, c) ? SPACE : OTHER;
}

/* One code point of strict UTF-8; a byte that begins none counts as one U+FFFD. Sets its length. */
static uint32_t decode(const char *text, size_t left, uint32_t *length)
{
    const byte *p = (const byte *)text;
    uint32_t c = p[0], n = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4, i;
    *length = 1;
    if (n == 1) return c;
    if (!n || c > 0xF4 || n > left) return 0xFFFD;
    c &= 0x7Fu >> n;
    for (i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0xFFFD;
        c = c << 6 | (p[i] & 0x3Fu);
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) || (n == 3 && c < 0x800)
        || (n == 4 && c < 0x10000)) return 0xFFFD;
    *length = n;
    return c;
}

static size_t encode_two(char *out, unsigned c)         /* code points below 0x800 */
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xC0 | c >> 6);
    out[1] = (char)(0x80 | (c & 63));
    return 2;
}

/* GPT-2's bytes-to-characters map: printable Latin-1 stands for itself, the rest for U+0100 up. */
static void make_byte_map(llm_tokenizer *t)
{
    unsigned b, next = 0x100;
    for (b = 0; b < 0x144; b++) t->char_byte[b] = -1;
    for (b = 0; b < 256; b++) {
        int plain = (b > 32 && b < 127) || (b > 160 && b < 256 && b != 173);
        t->byte_char[b] = plain ? b : next++;
        t->char_byte[t->byte_char[b]] = (int)b;
    }
}

/* ---- pre-tokenizers: where the word that starts at `at` ends; text is p[0 .. end) ---- */

typedef struct span { const char *p; size_t end; } span;

static int look(const span *s, size_t at, uint32_t *length)
{
    *length = 0;
    return at < s->end ? class_of(decode(s->p + at, s->end - at, length)) : OUTSIDE;
}

static size_t run_of(const span *s, size_t at, int class, int most)
{
    uint32_t length;
    while (most-- && look(s, at, &length) == class) at += length;
    return at;
}

static int is_newline(const span *s, size_t at)
{
    return at < s->end && (s->p[at] == '\r' || s->p[at] == '\n');
}

/* 's 't 're 've 'm 'll 'd: its length, or 0. */
static size_t contraction(const span *s, size_t at, int any_case)
{
    char a, b;
    if (s->p[at] != '\'' || s->end - at < 2) return 0;
    a = s->p[at + 1];
    b = s->end - at > 2 ? s->p[at + 2] : 0;
    if (any_case && a >= 'A' && a <= 'Z') a = (char)(a + 32);
    if (any_case && b >= 'A' && b <= 'Z') b = (char)(b + 32);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l') ? 3 : 0;
}

/* (\s*[\r\n]+|)\s+(?!\S)|\s+ : the first alternative only when newlines is set */
static size_t space_end(const span *s, size_t at, int newlines)
{
    size_t start = at, last = at, after_newline = 0;
    uint32_t length;
    while (look(s, at, &length) == SPACE) {
        last = at;
        at += length;
        if (is_newline(s, last)) after_newline = at;
    }
    if (newlines && after_newline) return after_newline;
    return last > start && at < s->end ? last : at;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t gpt2_end(const span *s, size_t at)
{
    size_t n = contraction(s, at, 0), skip = s->p[at] == ' ';
    uint32_t length;
    int class;
    if (n) return at + n;
    class = look(s, at + skip, &length);
    if (class == OUTSIDE || class == SPACE) return space_end(s, at, 0);
    return run_of(s, at + skip, class, -1);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*
 * |\s*[\r\n]+|\s+(?!\S)|\s+      with digits 3: Llama 3, 1: Qwen 2 */
static size_t llama3_end(const span *s, size_t at, int digits)
{
    size_t n = contraction(s, at, 1), skip = s->p[at] == ' ';
    uint32_t length, unused;
    int class = look(s, at, &length);
    if (n) return at + n;
    if (class == NUMBER) return run_of(s, at, NUMBER, digits);
    if (class == LETTER || (!is_newline(s, at) && look(s, at + length, &unused) == LETTER))
        return run_of(s, at + length, LETTER, -1);
    if (look(s, at + skip, &unused) != OTHER) return space_end(s, at, 1);
    at = run_of(s, at + skip, OTHER, -1);
    while (is_newline(s, at)) at++;
    return at;
}

/* ---- merging ---- */

static int emit(work *w, int id)
{
    if (w->n < w->max) w->ids[w->n] = id;
    w->n++;
    return 0;
}

/* Makes room for n items of the given size; 0, or -1 when memory ran out. */
static int reserve(void **p, size_t *room, size_t n, size_t size)
{
    size_t wanted = *room ? *room : 64;
    void *more;
    if (n <= *room) return 0;
    while (wanted < n) wanted *= 2;
    if (wanted > SIZE_MAX / size || !(more = realloc(*p, wanted * size))) return -1;
    *p = more;
    *room = wanted;
    return 0;
}

static int before(pair a, pair b)
{
    return a.cost < b.cost || (a.cost <= b.cost && a.left < b.left);
}

static int heap_push(work *w, pair x)
{
    void *heap = w->heap;
    size_t i = w->heap_n;
    if (reserve(&heap, &w->heap_room, i + 1, sizeof x)) return -1;
    w->heap = heap;
    w->heap_n++;
    for (; i && before(x, w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
    return 0;
}

static pair heap_pop(work *w)
{
    pair top = w->heap[0], x = w->heap[--w->heap_n];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < w->heap_n) {
        if (child + 1 < w->heap_n && before(w->heap[child + 1], w->heap[child])) child++;
        if (!before(w->heap[child], x)) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = x;
    return top;
}

/* Offers symbol `left` and its successor for merging, if the vocabulary has them joined. */
static int offer(work *w, const char *p, uint32_t left)
{
    const llm_tokenizer *t = w->t;
    const symbol *a, *b;
    pair x;
    int32_t hit;
    if (left == NONE || w->symbols[left].next == NONE) return 0;
    a = &w->symbols[left];
    b = &w->symbols[a->next];
    x.left = left;
    x.right = a->next;
    x.size = a->n + b->n;
    if (t->model == SPM) {
        hit = find_token(t, p + a->at, x.size);
        if (hit < 0) return 0;
        x.cost = -(double)t->score[hit];
    } else {
        if (x.size > t->max_merge) return 0;
        hit = t->merge_slots[merge_slot(t, p + a->at, p + b->at, a->n, b->n)];
        if (hit < 0) return 0;
        x.cost = (double)hit;
    }
    return heap_push(w, x);
}

static int cut(work *w, const char *p, size_t n)        /* into characters */
{
    void *symbols = w->symbols;
    uint32_t count = 0, at = 0;
    if (reserve(&symbols, &w->symbols_room, n, sizeof *w->symbols)) return -1;
    w->symbols = symbols;
    while (at < n) {
        symbol *s = &w->symbols[count];
        s->at = at;
        decode(p + at, n - at, &s->n);
        at += s->n;
        s->prev = count ? count - 1 : NONE;
        s->next = at < n ? count + 1 : NONE;
        count++;
    }
    return 0;
}

/* The ids of one finished symbol: its token, or those of its bytes. */
static void emit_symbol(work *w, const char *p, size_t n)
{
    const llm_tokenizer *t = w->t;
    int id = find_token(t, p, n);
    size_t i, step;
    if (id >= 0) {
        emit(w, id);
        return;
    }
    for (i = 0; i < n; i += step) {
        if (t->model == SPM) {
            step = 1;
            id = t->byte_id[(byte)p[i]];
            if (id < 0) id = t->unknown;
        } else {
            step = (byte)p[i] < 0x80 || n - i < 2 ? 1 : 2;
            id = find_token(t, p + i, step);
        }
        if (id >= 0) emit(w, id);
    }
}

/* Joins the cheapest pair (highest score, or lowest rank; leftmost of equals) until none is. */
static int merge_word(work *w, const char *p, size_t n)
{
    uint32_t i;
    if (!n) return 0;
    if (cut(w, p, n)) return -1;
    w->heap_n = 0;
    for (i = 0; i != NONE; i = w->symbols[i].next)
        if (offer(w, p, i)) return -1;
    while (w->heap_n) {
        pair x = heap_pop(w);
        symbol *a = &w->symbols[x.left], *b = &w->symbols[x.right];
        if (!a->n || !b->n || a->n + b->n != x.size) continue;     /* one of them has changed */
        a->n += b->n;
        b->n = 0;
        a->next = b->next;
        if (a->next != NONE) w->symbols[a->next].prev = x.left;
        if (offer(w, p, a->prev) || offer(w, p, x.left)) return -1;
    }
    for (i = 0; i != NONE; i = w->symbols[i].next)
        emit_symbol(w, p + w->symbols[i].at, w->symbols[i].n);
    return 0;
}

static char *buffer_of(work *w, size_t n)
{
    void *buffer = w->buffer;
    if (reserve(&buffer, &w->buffer_room, n, 1)) return NULL;
    return w->buffer = buffer;
}

/* ---- stretches of text between special tokens ---- */

static size_t put_space(char *out)                      /* U+2581 */
{
    memcpy(out, "\xE2\x96\x81", 3);
    return 3;
}

static int spm_stretch(work *w, const char *p, size_t n, int prefix)
{
    char *out = buffer_of(w, 3 * n + 3);
    size_t i, at = 0;
    if (!out) return -1;
    if (prefix) at += put_space(out);
    for (i = 0; i < n; i++) {
        if (p[i] == ' ') at += put_space(out + at);
        else out[at++] = p[i];
    }
    return merge_word(w, out, at);
}

static int bpe_word(work *w, const char *p, size_t n)
{
    char *out = buffer_of(w, 2 * n);
    size_t i, at = 0;
    int id;
    if (!out) return -1;
    for (i = 0; i < n; i++) at += encode_two(out + at, w->t->byte_char[(byte)p[i]]);
    id = w->t->ignore_merges ? find_token(w->t, out, at) : -1;
    return id >= 0 ? emit(w, id) : merge_word(w, out, at);
}

static int bpe_stretch(work *w, const char *p, size_t n)
{
    span s;
    size_t at = 0, stop = 0, next;
    uint32_t length;
    s.p = p;
    while (at < n) {
        s.end = n;
        if (w->t->pre == PRE_SMOLLM) {          /* digits are cut off first, one by one */
            if (at >= stop) {
                stop = at;
                if (look(&s, at, &length) == NUMBER) stop += length;
                else while (stop < n && look(&s, stop, &length) != NUMBER) stop += length;
            }
            s.end = stop;
        }
        next = w->t->pre == PRE_LLAMA3 ? llama3_end(&s, at, 3)
             : w->t->pre == PRE_QWEN2 ? llama3_end(&s, at, 1) : gpt2_end(&s, at);
        if (bpe_word(w, p + at, next - at)) return -1;
        at = next;
    }
    return 0;
}

/* ---- special tokens in the text ---- */

/* Longest special token of at most `limit` bytes that p begins with, or -1. */
static int special_at(const llm_tokenizer *t, const char *p, size_t limit, int control, uint32_t *n)
{
    size_t lo = t->first[(byte)*p], hi = t->first[(byte)*p + 1], depth;
    int id = -1;
    for (depth = 1; lo < hi && depth <= limit; depth++) {
        size_t end[2], k;       /* narrows lo .. hi to those that go on with the byte p[depth] */
        for (; lo < hi && t->specials[lo].text.n == depth; lo++) {
            if (!control && t->type[t->specials[lo].id] != USER_DEFINED) continue;
            id = t->specials[lo].id;
            *n = (uint32_t)depth;
        }
        if (depth == limit) break;
        for (k = 0; k < 2; k++) {
            size_t a = lo, b = hi;
            while (a < b) {
                size_t mid = (a + b) / 2;
                if ((byte)t->specials[mid].text.p[depth] < (byte)p[depth] + k) a = mid + 1;
                else b = mid;
            }
            end[k] = a;
        }
        lo = end[0];
        hi = end[1];
    }
    return id;
}

/* Finds the special tokens: longest first, leftmost of equals. *found is NULL when there are none,
 * else found[i] is 1 + id where one starts and -1 inside it. O(n) plus the candidates' heap. */
static int find_specials(work *w, const char *p, size_t n, int control, int32_t **found)
{
    const llm_tokenizer *t = w->t;
    size_t i;
    pair x;
    int id;
    *found = NULL;
    w->heap_n = 0;
    for (i = 0; i < n; i++) {
        id = special_at(t, p + i, n - i, control, &x.size);
        if (id < 0) continue;
        x.cost = -(double)x.size;
        x.left = (uint32_t)i;
        x.right = (uint32_t)id;
        if (heap_push(w, x)) return -1;
    }
    if (!w->heap_n) return 0;
    *found = calloc(n, sizeof **found);
    if (!*found) return -1;
    while (w->heap_n) {
        int32_t *at;
        x = heap_pop(w);
        at = *found + x.left;
        if (at[0]) continue;
        if (at[x.size - 1]) {           /* its end is taken: perhaps a shorter one fits */
            id = special_at(t, p + x.left, x.size - 1, control, &x.size);
            if (id < 0) continue;
            x.cost = -(double)x.size;
            x.right = (uint32_t)id;
            if (heap_push(w, x)) return -1;
            continue;
        }
        at[0] = (int32_t)x.right + 1;
        for (i = 1; i < x.size; i++) at[i] = -1;
    }
    return 0;
}

static int tokenize(work *w, const char *p, size_t n, int control, int32_t **found)
{
    const llm_tokenizer *t = w->t;
    size_t i = 0;
    int after_special = 1;
    if (find_specials(w, p, n, control, found)) return -1;
    while (i < n) {
        size_t start = i;
        if (*found && (*found)[i] > 0) {
            emit(w, (*found)[i++] - 1);
            while (i < n && (*found)[i] < 0) i++;
            after_special = 1;
            continue;
        }
        while (i < n && !(*found && (*found)[i])) i++;
        if (t->model == SPM ? spm_stretch(w, p + start, i - start, after_special && t->space_prefix)
                            : bpe_stretch(w, p + start, i - start)) return -1;
        after_special = 0;
    }
    return 0;
}

long llm_tokenize(const llm_tokenizer *t, const char *text, size_t n, int parse_special,
                  int *ids, long max)
{
    work w;
    int32_t *found = NULL;
    int status;
    if (n > MAX_TEXT) return -1;
    memset(&w, 0, sizeof w);
    w.t = t;
    w.ids = ids;
    w.max = ids ? max : 0;
    status = n ? tokenize(&w, text, n, parse_special, &found) : 0;
    free(found);
    free(w.symbols);
    free(w.buffer);
    free(w.heap);
    return status ? -1 : w.n;
}

/* ---- back to bytes ---- */

static int hex_digit(char c)
{
    const char *digits = "0123456789ABCDEF", *hit = c ? strchr(digits, c) : NULL;
    return hit ? (int)(hit - digits) : -1;
}

static int byte_of(gguf_str s)                  /* "<0x0A>" is 10; -1: something else */
{
    int a, b;
    if (s.n != 6 || memcmp(s.p, "<0x", 3) || s.p[5] != '>') return -1;
    a = hex_digit(s.p[3]);
    b = hex_digit(s.p[4]);
    return a < 0 || b < 0 ? -1 : 16 * a + b;
}

/* The next piece of s from *at on, as it goes to the screen; its length, at most 4. */
static size_t next_piece(const llm_tokenizer *t, gguf_str s, size_t *at, char piece[4])
{
    uint32_t length, c = decode(s.p + *at, s.n - *at, &length);
    int stands_for = t->model == BPE && c < 0x144 ? t->char_byte[c] : -1;
    memcpy(piece, s.p + *at, length);
    *at += length;
    if (stands_for >= 0) piece[0] = (char)stands_for;
    else if (t->model == SPM && c == 0x2581) piece[0] = ' ';
    else return length;
    return 1;
}

size_t llm_detokenize(const llm_tokenizer *t, int id, char *out, size_t max)
{
    size_t n = 0, at = 0, i, length;
    char piece[4];
    gguf_str s;
    int type;
    if (id < 0 || id >= t->n) return 0;
    s = t->text[id];
    type = t->type[id];
    if (type == CONTROL || type == UNKNOWN || type == UNUSED) return 0;
    if (type == BYTE && byte_of(s) >= 0) {
        if (max) out[0] = (char)byte_of(s);
        return 1;
    }
    while (at < s.n) {
        if (type == USER_DEFINED) {
            piece[0] = s.p[at++];
            length = 1;
        } else {
            length = next_piece(t, s, &at, piece);
        }
        for (i = 0; i < length; i++, n++)
            if (n < max) out[n] = piece[i];
    }
    return n;
}

/* ---- opening ---- */

static int contains(gguf_str s, const char *word, size_t from, size_t *where)
{
    size_t n = strlen(word), i;
    for (i = from; s.n >= n && i <= s.n - n; i++) {
        if (memcmp(s.p + i, word, n)) continue;
        if (where) *where = i;
        return 1;
    }
    return 0;
}

static int load_tokens(llm_tokenizer *t, const gguf *g, char *err)
{
    const char *key = "tokenizer.ggml.tokens", *types = "tokenizer.ggml.token_type";
    gguf_kind kind;
    uint64_t n, n_types, i;
    double type;
    int typed = gguf_get_array(g, types, &kind, &n_types);
    if (!gguf_get_array(g, key, &kind, &n) || kind != GGUF_STRING || !n || n > MAX_VOCAB)
        return fail(err, "The file has no usable vocabulary (%s).", key);
    if (typed && n_types != n)
        return fail(err, "%s and %s differ in length; convert the model anew.", types, key);
    t->n = (int)n;
    t->text = malloc((size_t)n * sizeof *t->text);
    t->type = malloc((size_t)n);
    t->end = calloc((size_t)n, 1);
    t->slots = new_slots(n, &t->mask);
    if (!t->text || !t->type || !t->end || !t->slots)
        return fail(err, "Out of memory while reading the vocabulary.");
    for (i = 0; i < n; i++) {
        gguf_str *s = &t->text[i];
        gguf_array_str(g, key, i, s);
        type = NORMAL;
        if (typed) gguf_array_f64(g, types, i, &type);
        t->type[i] = (byte)(type >= NORMAL && type <= BYTE ? (int)type : NORMAL);
        if (s->n > t->max_token) t->max_token = s->n;
        if (s->n) t->slots[token_slot(t, s->p, s->n)] = (int32_t)i;    /* the last of equals wins */
    }
    return 0;
}

static int load_scores(llm_tokenizer *t, const gguf *g, char *err)
{
    const char *key = "tokenizer.ggml.scores";
    gguf_kind kind;
    uint64_t n, i;
    double x;
    char name[8];
    if (!gguf_get_array(g, key, &kind, &n) || n != (uint64_t)t->n
        || !gguf_array_f64(g, key, 0, &x))
        return fail(err, "The vocabulary has no scores, or not one per token (%s).", key);
    t->score = malloc((size_t)n * sizeof *t->score);
    if (!t->score) return fail(err, "Out of memory while reading the vocabulary.");
    for (i = 0; i < n; i++) {
        gguf_array_f64(g, key, i, &x);
        t->score[i] = x > -1e30 && x < 1e30 ? (float)x : -1e30f;       /* NaN has no order */
    }
    for (i = 0; i < 256; i++) {
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        t->byte_id[i] = find_token(t, name, 6);
    }
    return 0;
}

static int load_merges(llm_tokenizer *t, const gguf *g, char *err)
{
    const char *key = "tokenizer.ggml.merges";
    gguf_kind kind;
    uint64_t n, i;
    if (!gguf_get_array(g, key, &kind, &n) || kind != GGUF_STRING || n > MAX_VOCAB)
        return fail(err, "The file has no merges for its BPE vocabulary (%s).", key);
    t->merges = malloc(((size_t)n + 1) * sizeof *t->merges);
    t->merge_slots = new_slots(n, &t->merge_mask);
    if (!t->merges || !t->merge_slots)
        return fail(err, "Out of memory while reading the vocabulary.");
    for (i = 0; i < n; i++) {
        gguf_str s;
        const char *space;
        merge *m = &t->merges[i];
        size_t slot;
        gguf_array_str(g, key, i, &s);
        space = s.n > 2 ? memchr(s.p + 1, ' ', s.n - 1) : NULL;
        if (!space || s.n > 65535) continue;            /* never matches */
        m->p = s.p;
        m->left = (uint32_t)(space - s.p);
        m->right = (uint32_t)(s.n - m->left - 1);
        if (s.n - 1 > t->max_merge) t->max_merge = s.n - 1;
        slot = merge_slot(t, m->p, space + 1, m->left, m->right);
        if (t->merge_slots[slot] < 0) t->merge_slots[slot] = (int32_t)i;   /* first of equals */
    }
    return 0;
}

static int load_pre(llm_tokenizer *t, const gguf *g, char *err)
{
    static const struct { const char *name; int pre; } known[] = {
        {"default", PRE_GPT2}, {"gpt-2", PRE_GPT2}, {"gpt2", PRE_GPT2}, {"phi-2", PRE_GPT2},
        {"olmo", PRE_GPT2}, {"smollm", PRE_SMOLLM}, {"starcoder", PRE_SMOLLM},
        {"refact", PRE_SMOLLM}, {"command-r", PRE_SMOLLM}, {"codeshell", PRE_SMOLLM},
        {"llama3", PRE_LLAMA3}, {"llama-v3", PRE_LLAMA3}, {"llama-bpe", PRE_LLAMA3},
        {"falcon3", PRE_LLAMA3}, {"qwen2", PRE_QWEN2}, {"deepseek-r1-qwen", PRE_QWEN2}
    };
    gguf_str s;
    size_t i;
    char name[33];
    if (!gguf_get_str(g, "tokenizer.ggml.pre", &s)) return 0;      /* PRE_GPT2 */
    for (i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!same(s, known[i].name, strlen(known[i].name))) continue;
        t->pre = known[i].pre;
        t->ignore_merges = t->pre == PRE_LLAMA3;
        return 0;
    }
    for (i = 0; i < s.n && i < sizeof name - 1; i++)
        name[i] = (char)(s.p[i] > 32 && s.p[i] < 127 ? s.p[i] : '?');
    name[i] = 0;
    return fail(err, "The pre-tokenizer '%s' is not known here; use a model with gpt-2, smollm, "
                "llama-bpe or qwen2.", name);
}

static int compare_specials(const void *a, const void *b)
{
    const special *x = a, *y = b;
    size_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
    int order = memcmp(x->text.p, y->text.p, n);
    if (!order) order = (x->text.n > y->text.n) - (x->text.n < y->text.n);
    return order ? order : x->id - y->id;
}

static int load_specials(llm_tokenizer *t, char *err)
{
    size_t n = 0, i;
    int id;
    for (id = 0; id < t->n; id++) n += t->type[id] >= UNKNOWN && t->type[id] <= USER_DEFINED;
    t->specials = malloc((n + 1) * sizeof *t->specials);
    if (!t->specials) return fail(err, "Out of memory while reading the vocabulary.");
    for (id = 0; id < t->n; id++) {
        if (t->type[id] < UNKNOWN || t->type[id] > USER_DEFINED || !t->text[id].n) continue;
        t->specials[t->n_specials].text = t->text[id];
        t->specials[t->n_specials++].id = id;
    }
    if (t->n_specials > 1)
        qsort(t->specials, t->n_specials, sizeof *t->specials, compare_specials);
    for (i = 0; i < t->n_specials; i++) t->first[(byte)t->specials[i].text.p[0] + 1]++;
    for (i = 1; i < 257; i++) t->first[i] += t->first[i - 1];
    return 0;
}

static int get_id(const llm_tokenizer *t, const gguf *g, const char *key)
{
    uint64_t id;
    return gguf_get_u64(g, key, &id) && id < (uint64_t)t->n ? (int)id : -1;
}

/* BOS, the unknown token, and the tokens that end a reply: by key, and by the names they go by. */
static void load_ids(llm_tokenizer *t, const gguf *g)
{
    static const char *const keys[] = {
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"
    };
    static const char *const names[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>",
        "<|endoftext|>", "<|end|>", "<EOT>"
    };
    int add_bos = t->model == SPM || t->pre == PRE_LLAMA3, id;
    size_t i;
    gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &add_bos);
    t->bos = add_bos ? get_id(t, g, "tokenizer.ggml.bos_token_id") : -1;
    t->unknown = get_id(t, g, "tokenizer.ggml.unknown_token_id");
    t->space_prefix = t->model == SPM;
    gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->space_prefix);
    for (i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if ((id = get_id(t, g, keys[i])) >= 0) t->end[id] = 1;
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        id = find_token(t, names[i], strlen(names[i]));
        if (id < 0) continue;
        t->end[id] = 1;
        t->type[id] = CONTROL;                  /* some files call them normal tokens */
    }
}

/* The chat form shows in the markers of the template. A ChatML template's default system line is a
 * plain text between "<|im_start|>system" with a line break and "<|im_end|>". */
static void load_chat(llm_tokenizer *t, const gguf *g)
{
    gguf_str s, line;
    size_t at, stop, from = 0;
    if (!gguf_get_str(g, "tokenizer.chat_template", &s)) return;
    if (contains(s, "<start_of_turn>", 0, NULL)) t->chat = CHAT_GEMMA;
    else if (contains(s, "<|start_header_id|>", 0, NULL)) t->chat = CHAT_LLAMA3;
    else if (contains(s, "<|im_start|>", 0, NULL)) t->chat = CHAT_ML;
    while (t->chat == CHAT_ML && contains(s, "<|im_start|>system", from, &at)) {
        from = at + 18;
        if (from < s.n && s.p[from] == '\n') from++;
        else if (s.n - from > 1 && s.p[from] == '\\' && s.p[from + 1] == 'n') from += 2;
        else continue;
        if (!contains(s, "<|im_end|>", from, &stop)) return;
        line.p = s.p + from;
        line.n = stop - from;
        if (line.n && !memchr(line.p, '\'', line.n) && !memchr(line.p, '"', line.n)
            && !memchr(line.p, '{', line.n)) {
            t->system_line = line;
            return;
        }
    }
}

static int load(llm_tokenizer *t, const gguf *g, char *err)
{
    gguf_str model;
    if (!gguf_get_str(g, "tokenizer.ggml.model", &model))
        return fail(err, "The file has no tokenizer (tokenizer.ggml.model); it may be a part of a "
                    "model or an adapter.");
    if (same(model, "llama", 5)) t->model = SPM;
    else if (same(model, "gpt2", 4)) t->model = BPE;
    else return fail(err, "This kind of tokenizer is not supported; only 'llama' (SentencePiece) "
                     "and 'gpt2' (byte-level BPE) are.");
    make_byte_map(t);
    if (load_tokens(t, g, err)) return -1;
    if (t->model == SPM ? load_scores(t, g, err) : load_pre(t, g, err) || load_merges(t, g, err))
        return -1;
    load_ids(t, g);
    load_chat(t, g);
    return load_specials(t, err);
}

int llm_tokenizer_open(llm_tokenizer **out, const gguf *g, char *err)
{
    llm_tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t) return fail(err, "Out of memory while reading the vocabulary.");
    if (load(t, g, err)) {
        llm_tokenizer_close(t);
        return -1;
    }
    *out = t;
    return 0;
}

void llm_tokenizer_close(llm_tokenizer *t)
{
    if (!t) return;
    free(t->text);
    free(t->score);
    free(t->type);
    free(t->end);
    free(t->slots);
    free(t->merge_slots);
    free(t->merges);
    free(t->specials);
    free(t);
}

int llm_tokenizer_bos(const llm_tokenizer *t)
{
    return t->bos;
}

int llm_tokenizer_is_end(const llm_tokenizer *t, int id)
{
    return id >= 0 && id < t->n && t->end[id];
}

int llm_tokenizer_size(const llm_tokenizer *t)
{
    return t->n;
}

/* ---- chat ---- */

typedef struct sink { char *out; size_t n, max; } sink;

static void put(sink *s, const char *p, size_t n)       /* n beyond max marks that it did not fit */
{
    if (s->n < s->max && n < s->max - s->n) memcpy(s->out + s->n, p, n);
    s->n = n < SIZE_MAX - s->n ? s->n + n : SIZE_MAX;
}

static void puts_to(sink *s, const char *p)
{
    put(s, p, strlen(p));
}

static int is_blank(char c)
{
    return c == ' ' || (c >= 9 && c <= 13);
}

/* Gemma's and Llama 3's templates trim the message, ChatML's do not. Llama 3.1's own system header
 * with the date is left out. */
long llm_chat_prompt(const llm_tokenizer *t, const char *user, char *out, size_t max)
{
    static const char *const forms[][2] = {
        {"", ""},
        {"<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"},
        {"<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"},
        {"<|start_header_id|>user<|end_header_id|>\n\n",
         "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"}
    };
    size_t n = strlen(user);
    sink s;
    s.out = out;
    s.n = 0;
    s.max = max;
    if (t->chat == CHAT_GEMMA || t->chat == CHAT_LLAMA3) {
        while (n && is_blank(user[n - 1])) n--;
        while (n && is_blank(*user)) user++, n--;
    }
    if (t->chat == CHAT_ML && t->system_line.n) {
        puts_to(&s, "<|im_start|>system\n");
        put(&s, t->system_line.p, t->system_line.n);
        puts_to(&s, "<|im_end|>\n");
    }
    puts_to(&s, forms[t->chat][0]);
    put(&s, user, n);
    puts_to(&s, forms[t->chat][1]);
    if (s.n >= max || s.n > LONG_MAX) return -1;
    out[s.n] = 0;
    return (long)s.n;
}
