/* gguf.c: see gguf.h. Layout of a file: magic, version, counts, metadata, tensor headers, padding
 * to general.alignment, tensor data (github.com/ggml-org/ggml, docs/gguf.md).
 *
 * Refused beyond what the format says: nested arrays, duplicate keys, duplicate tensor names,
 * dimensions of 0. A file that another process shortens while it is mapped is out of our hands.
 */
#define _POSIX_C_SOURCE 200809L
#include "gguf.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_NAME 65535u             /* longest key or tensor name; the format's limit for keys */
#define MIN_KV 13u                  /* bytes of the smallest metadata pair */
#define MIN_TENSOR 24u              /* bytes of the smallest tensor header */
#define MARK_EVERY 8u               /* string arrays: one offset is kept per so many strings */

typedef unsigned char byte;

typedef struct entry {
    gguf_str    key;                /* first, so that the sorted index serves tensors too */
    uint32_t    kind, item;         /* item: kind of an array's elements */
    uint64_t    count;              /* array elements */
    const byte *value;              /* string: its length field; array: its first element */
    size_t     *marks;              /* string arrays: offset from value of strings 0, 8, 16, ... */
} entry;

struct gguf {
    const byte *base;
    size_t bytes;
    void *map, *copy;               /* what to give back: a mapping, or a heap copy, or neither */
    entry *entries;
    gguf_tensor *tensors;
    const gguf_str **by_key, **by_name;     /* sorted, for binary search */
    size_t n_entries, n_tensors;
};

typedef struct cursor {             /* what is still to be read */
    const byte *p;
    size_t left;
    char *err;
} cursor;

static const struct { int type; unsigned block, bytes; const char *name; } dtypes[] = {
    {GGUF_T_F32, 1, 4, "F32"},       {GGUF_T_F16, 1, 2, "F16"},
    {GGUF_T_BF16, 1, 2, "BF16"},     {GGUF_T_Q4_0, 32, 18, "Q4_0"},
    {GGUF_T_Q4_1, 32, 20, "Q4_1"},   {GGUF_T_Q5_0, 32, 22, "Q5_0"},
    {GGUF_T_Q5_1, 32, 24, "Q5_1"},   {GGUF_T_Q8_0, 32, 34, "Q8_0"},
    {GGUF_T_Q4_K, 256, 144, "Q4_K"}, {GGUF_T_Q5_K, 256, 176, "Q5_K"},
    {GGUF_T_Q6_K, 256, 210, "Q6_K"}
};
#define N_DTYPES (sizeof dtypes / sizeof dtypes[0])

static const byte kind_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};     /* 0: not fixed */

/* ---- small helpers ---- */

static int fail(char *err, const char *format, ...)
{
    va_list args;
    if (!err) return -1;
    va_start(args, format);
    vsnprintf(err, GGUF_ERR_BYTES, format, args);
    va_end(args);
    return -1;
}

/* A name out of the file made fit for a message: cut, and nothing but printable ASCII. */
static const char *shown(gguf_str s, char out[52])
{
    size_t i, n = s.n < 48 ? s.n : 48;
    for (i = 0; i < n; i++) out[i] = (char)(s.p[i] >= 32 && s.p[i] < 127 ? s.p[i] : '?');
    strcpy(out + n, s.n > n ? "..." : "");
    return out;
}

static uint64_t load(const byte *p, size_t n)     /* little endian */
{
    uint64_t v = 0;
    while (n--) v = v << 8 | p[n];
    return v;
}

static const byte *take(cursor *c, uint64_t n)    /* NULL when fewer than n bytes are left */
{
    const byte *p = c->p;
    if (n > c->left) return NULL;
    c->p += n;
    c->left -= (size_t)n;
    return p;
}

static int take_uint(cursor *c, size_t n, uint64_t *v)
{
    const byte *p = take(c, n);
    if (!p) return -1;
    *v = load(p, n);
    return 0;
}

static int take_string(cursor *c, gguf_str *s)
{
    uint64_t n;
    const byte *p;
    if (take_uint(c, 8, &n) || !(p = take(c, n))) return -1;
    s->p = (const char *)p;
    s->n = (size_t)n;
    return 0;
}

static int compare(gguf_str a, gguf_str b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int order = n ? memcmp(a.p, b.p, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int compare_slots(const void *a, const void *b)
{
    return compare(**(const gguf_str *const *)a, **(const gguf_str *const *)b);
}

static const void *find(const gguf_str **index, size_t n, const char *name)
{
    gguf_str s;
    const gguf_str *wanted = &s, **hit;
    if (!n || !name) return NULL;
    s.p = name;
    s.n = strlen(name);
    hit = bsearch(&wanted, index, n, sizeof *index, compare_slots);
    return hit ? *hit : NULL;
}

/* Sorts an index; 0, or -1 when a name occurs twice (then *twice is it). */
static int sort_index(const gguf_str **index, size_t n, gguf_str *twice)
{
    size_t i;
    if (n > 1) qsort(index, n, sizeof *index, compare_slots);
    for (i = 1; i < n; i++) {
        if (compare(*index[i - 1], *index[i])) continue;
        *twice = *index[i];
        return -1;
    }
    return 0;
}

static const entry *find_entry(const gguf *g, const char *key)
{
    return g ? find(g->by_key, g->n_entries, key) : NULL;
}

/* ---- metadata ---- */

/* Checks every string of an array and notes where each eighth starts. One pass. */
static int index_strings(cursor *c, entry *e)
{
    const byte *start = c->p;
    uint64_t i;
    gguf_str s;
    char name[52];
    if (e->count > c->left / 8)
        return fail(c->err, "The array '%s' claims more strings than the file holds; "
                    "download the file again.", shown(e->key, name));
    e->marks = malloc(((size_t)(e->count / MARK_EVERY) + 1) * sizeof *e->marks);
    if (!e->marks) return fail(c->err, "Out of memory while reading the metadata.");
    for (i = 0; i < e->count; i++) {
        if (i % MARK_EVERY == 0) e->marks[i / MARK_EVERY] = (size_t)(c->p - start);
        if (take_string(c, &s))
            return fail(c->err, "A string of the array '%s' runs past the end of the file; "
                        "download the file again.", shown(e->key, name));
    }
    return 0;
}

static int read_array(cursor *c, entry *e)
{
    char name[52];
    uint64_t item;
    if (take_uint(c, 4, &item) || take_uint(c, 8, &e->count))
        return fail(c->err, "The file ends inside the array '%s'; download it again.",
                    shown(e->key, name));
    if (item == GGUF_ARRAY)
        return fail(c->err, "'%s' is an array of arrays, which this reader does not take.",
                    shown(e->key, name));
    if (item >= sizeof kind_bytes)
        return fail(c->err, "The array '%s' has elements of the unknown kind %lu.",
                    shown(e->key, name), (unsigned long)item);
    e->item = (uint32_t)item;
    e->value = c->p;
    if (item == GGUF_STRING) return index_strings(c, e);
    if (e->count > c->left / kind_bytes[item])
        return fail(c->err, "The array '%s' claims more elements than the file holds; "
                    "download the file again.", shown(e->key, name));
    take(c, e->count * kind_bytes[item]);
    return 0;
}

static int read_entry(cursor *c, entry *e)
{
    char name[52];
    uint64_t kind;
    gguf_str s;
    if (take_string(c, &e->key) || take_uint(c, 4, &kind))
        return fail(c->err, "The file ends inside its metadata; download it again.");
    if (e->key.n > MAX_NAME)
        return fail(c->err, "A metadata key has %lu bytes; the format allows %u.",
                    (unsigned long)e->key.n, MAX_NAME);
    if (kind >= sizeof kind_bytes)
        return fail(c->err, "'%s' is of the unknown kind %lu.", shown(e->key, name),
                    (unsigned long)kind);
    e->kind = (uint32_t)kind;
    if (kind == GGUF_ARRAY) return read_array(c, e);
    e->value = c->p;
    if (kind == GGUF_STRING ? take_string(c, &s) : !take(c, kind_bytes[kind]))
        return fail(c->err, "The value of '%s' runs past the end of the file; download it again.",
                    shown(e->key, name));
    if (kind == GGUF_BOOL && *e->value > 1)
        return fail(c->err, "The truth value '%s' is %d; it must be 0 or 1.",
                    shown(e->key, name), *e->value);
    return 0;
}

static int read_metadata(cursor *c, gguf *g, uint64_t n)
{
    char name[52];
    gguf_str twice;
    uint64_t i;
    if (n > c->left / MIN_KV)
        return fail(c->err, "The file claims %llu metadata pairs, more than it can hold; "
                    "download it again.", (unsigned long long)n);
    g->entries = calloc((size_t)n + 1, sizeof *g->entries);
    g->by_key = malloc(((size_t)n + 1) * sizeof *g->by_key);
    if (!g->entries || !g->by_key) return fail(c->err, "Out of memory while reading the metadata.");
    for (i = 0; i < n; i++) {
        g->by_key[i] = &g->entries[i].key;
        g->n_entries = (size_t)i + 1;           /* before reading, so that close sees its marks */
        if (read_entry(c, &g->entries[i])) return -1;
    }
    if (sort_index(g->by_key, g->n_entries, &twice))
        return fail(c->err, "The metadata key '%s' occurs twice.", shown(twice, name));
    return 0;
}

/* ---- tensors ---- */

static int find_dtype(uint64_t type)
{
    size_t i;
    for (i = 0; i < N_DTYPES; i++)
        if ((uint64_t)dtypes[i].type == type) return (int)i;
    return -1;
}

/* Sets type, row_bytes and bytes; every product is checked. */
static int size_tensor(cursor *c, gguf_tensor *t, uint64_t type)
{
    char name[52];
    int d = find_dtype(type), i;
    uint64_t blocks;
    if (d < 0)
        return fail(c->err, "The tensor '%s' has type %lu, which this reader does not know; use a "
                    "model in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K.",
                    shown(t->name, name), (unsigned long)type);
    t->type = (gguf_dtype)dtypes[d].type;
    if (t->ne[0] % dtypes[d].block)
        return fail(c->err, "Rows of the tensor '%s' have %llu elements, not a multiple of the "
                    "%u of a %s block.", shown(t->name, name), (unsigned long long)t->ne[0],
                    dtypes[d].block, dtypes[d].name);
    blocks = t->ne[0] / dtypes[d].block;
    if (blocks > SIZE_MAX / dtypes[d].bytes)
        return fail(c->err, "The size of the tensor '%s' overflows.", shown(t->name, name));
    t->row_bytes = (size_t)blocks * dtypes[d].bytes;
    t->bytes = t->row_bytes;
    for (i = 1; i < 4; i++) {
        if (t->ne[i] > SIZE_MAX / t->bytes)
            return fail(c->err, "The size of the tensor '%s' overflows.", shown(t->name, name));
        t->bytes *= (size_t)t->ne[i];
    }
    return 0;
}

/* One tensor header. *offset is relative to the start of the data, not yet known. */
static int read_tensor(cursor *c, gguf_tensor *t, uint64_t *offset)
{
    char name[52];
    uint64_t n_dims, type;
    int i;
    if (take_string(c, &t->name) || take_uint(c, 4, &n_dims)) goto cut;
    if (t->name.n > MAX_NAME)
        return fail(c->err, "A tensor name has %lu bytes; at most %u are taken.",
                    (unsigned long)t->name.n, MAX_NAME);
    if (n_dims > 4)
        return fail(c->err, "The tensor '%s' has %lu dimensions; the most is 4.",
                    shown(t->name, name), (unsigned long)n_dims);
    t->n_dims = (uint32_t)n_dims;
    for (i = 0; i < 4; i++) {
        t->ne[i] = 1;
        if (i < (int)n_dims && take_uint(c, 8, &t->ne[i])) goto cut;
        if (!t->ne[i])
            return fail(c->err, "Dimension %d of the tensor '%s' is 0.", i, shown(t->name, name));
    }
    if (take_uint(c, 4, &type) || take_uint(c, 8, offset)) goto cut;
    return size_tensor(c, t, type);
cut:
    return fail(c->err, "The file ends inside its tensor headers; download it again.");
}

static int read_alignment(const gguf *g, char *err, uint64_t *alignment)
{
    *alignment = 32;
    if (!find_entry(g, "general.alignment")) return 0;
    if (!gguf_get_u64(g, "general.alignment", alignment) || !*alignment
        || (*alignment & (*alignment - 1)) || *alignment > 1u << 30)
        return fail(err, "general.alignment is not a power of two.");
    return 0;
}

/* offsets[i] is relative to the first byte of data, base + start. */
static int place_tensors(gguf *g, const uint64_t *offsets, size_t start, uint64_t align, char *err)
{
    size_t i, room = start < g->bytes ? g->bytes - start : 0;
    char name[52];
    for (i = 0; i < g->n_tensors; i++) {
        gguf_tensor *t = &g->tensors[i];
        if (offsets[i] % align)
            return fail(err, "The data of the tensor '%s' start at %llu, not a multiple of %lu.",
                        shown(t->name, name), (unsigned long long)offsets[i], (unsigned long)align);
        if (offsets[i] > room || t->bytes > room - (size_t)offsets[i])
            return fail(err, "The data of the tensor '%s' run past the end of the file; it is "
                        "incomplete, download it again.", shown(t->name, name));
        t->data = g->base + start + (size_t)offsets[i];
    }
    return 0;
}

static int read_headers(cursor *c, gguf *g, uint64_t *offsets, uint64_t n)
{
    char name[52];
    gguf_str twice;
    uint64_t align, i;
    size_t start;
    for (i = 0; i < n; i++) {
        g->by_name[i] = &g->tensors[i].name;
        if (read_tensor(c, &g->tensors[i], &offsets[i])) return -1;
    }
    g->n_tensors = (size_t)n;
    if (sort_index(g->by_name, g->n_tensors, &twice))
        return fail(c->err, "Two tensors have the name '%s'.", shown(twice, name));
    if (read_alignment(g, c->err, &align)) return -1;
    start = g->bytes - c->left;
    if (start > SIZE_MAX - (size_t)align) return fail(c->err, "The file is too large.");
    start = (start + (size_t)align - 1) & ~((size_t)align - 1);
    return place_tensors(g, offsets, start, align, c->err);
}

static int read_tensors(cursor *c, gguf *g, uint64_t n)
{
    uint64_t *offsets;
    int status;
    if (n > c->left / MIN_TENSOR)
        return fail(c->err, "The file claims %llu tensors, more than it can hold; "
                    "download it again.", (unsigned long long)n);
    g->tensors = calloc((size_t)n + 1, sizeof *g->tensors);
    g->by_name = malloc(((size_t)n + 1) * sizeof *g->by_name);
    offsets = malloc(((size_t)n + 1) * sizeof *offsets);
    if (g->tensors && g->by_name && offsets) status = read_headers(c, g, offsets, n);
    else status = fail(c->err, "Out of memory while reading the tensor headers.");
    free(offsets);
    return status;
}

/* ---- opening and closing ---- */

static int read_all(gguf *g, char *err)
{
    cursor c;
    uint64_t magic, version, n_tensors, n_kv;
    c.p = g->base;
    c.left = g->bytes;
    c.err = err;
    if (take_uint(&c, 4, &magic) || magic != 0x46554747u)       /* "GGUF" */
        return fail(err, "This is not a GGUF file (it does not begin with 'GGUF').");
    if (take_uint(&c, 4, &version))
        return fail(err, "The file ends inside its header; download it again.");
    if (version == 0x02000000u || version == 0x03000000u)
        return fail(err, "This is a big-endian GGUF file; only little-endian ones are read.");
    if (version != 2 && version != 3)
        return fail(err, "GGUF version %lu is not read, only 2 and 3; convert the model anew.",
                    (unsigned long)version);
    if (take_uint(&c, 8, &n_tensors) || take_uint(&c, 8, &n_kv))
        return fail(err, "The file ends inside its header; download it again.");
    return read_metadata(&c, g, n_kv) || read_tensors(&c, g, n_tensors) ? -1 : 0;
}

static int finish(gguf **out, gguf *g, char *err)
{
    if (read_all(g, err)) {
        gguf_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

int gguf_open_memory(gguf **out, const void *data, size_t bytes, char *err)
{
    gguf *g;
    *out = NULL;
    if (!data) return fail(err, "No data were given.");
    g = calloc(1, sizeof *g);
    if (!g) return fail(err, "Out of memory while opening a model.");
    g->base = data;
    g->bytes = bytes;
    return finish(out, g, err);
}

/* Maps the file, or reads it where mapping is refused. */
static int bring_in(gguf *g, int fd, char *err)
{
    struct stat info;
    size_t done = 0;
    if (fstat(fd, &info) || !S_ISREG(info.st_mode)) return fail(err, "The model is not a file.");
    if (info.st_size <= 0) return fail(err, "The model file is empty.");
    if ((uint64_t)info.st_size > SIZE_MAX / 2)
        return fail(err, "The model file does not fit this machine's address space.");
    g->bytes = (size_t)info.st_size;
    g->map = mmap(NULL, g->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (g->map != MAP_FAILED) {
        g->base = g->map;
        return 0;
    }
    g->map = NULL;
    g->base = g->copy = malloc(g->bytes);
    if (!g->copy) return fail(err, "The model can neither be mapped nor held in memory.");
    while (done < g->bytes) {
        ssize_t n = read(fd, (byte *)g->copy + done, g->bytes - done);
        if (n <= 0) return fail(err, "The model file could not be read to its end.");
        done += (size_t)n;
    }
    return 0;
}

int gguf_open(gguf **out, const char *path, char *err)
{
    gguf *g;
    int fd, status;
    *out = NULL;
    fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0)
        return fail(err, "Cannot open '%.180s'; check the path and the permissions.",
                    path ? path : "");
    g = calloc(1, sizeof *g);
    status = g ? bring_in(g, fd, err) : fail(err, "Out of memory while opening a model.");
    close(fd);
    if (status) {
        gguf_close(g);
        return -1;
    }
    return finish(out, g, err);
}

void gguf_close(gguf *g)
{
    size_t i;
    if (!g) return;
    for (i = 0; i < g->n_entries; i++) free(g->entries[i].marks);
    free(g->entries);
    free(g->tensors);
    free((void *)g->by_key);
    free((void *)g->by_name);
    free(g->copy);
    if (g->map) munmap(g->map, g->bytes);
    free(g);
}

/* ---- asking ---- */

/* An integer in two's complement; 1 when it is negative, 0 when not, -1 when it is no integer. */
static int integer(uint32_t kind, const byte *p, uint64_t *v)
{
    int is_signed = kind == GGUF_I8 || kind == GGUF_I16 || kind == GGUF_I32 || kind == GGUF_I64;
    unsigned bits;
    if (!is_signed && kind != GGUF_U8 && kind != GGUF_U16 && kind != GGUF_U32 && kind != GGUF_U64)
        return -1;
    bits = 8u * kind_bytes[kind];
    *v = load(p, kind_bytes[kind]);
    if (!is_signed || !(*v >> (bits - 1))) return 0;
    if (bits < 64) *v |= ~(uint64_t)0 << bits;
    return 1;
}

static int number(uint32_t kind, const byte *p, double *out)
{
    uint64_t v;
    int sign = integer(kind, p, &v);
    if (sign >= 0) {
        *out = sign ? -(double)(~v + 1) : (double)v;
    } else if (kind == GGUF_F32) {
        uint32_t bits = (uint32_t)load(p, 4);
        float f;
        memcpy(&f, &bits, 4);
        *out = (double)f;
    } else if (kind == GGUF_F64) {
        v = load(p, 8);
        memcpy(out, &v, 8);
    } else {
        return 0;
    }
    return 1;
}

int gguf_get_u64(const gguf *g, const char *key, uint64_t *out)
{
    const entry *e = find_entry(g, key);
    uint64_t v;
    if (!e || integer(e->kind, e->value, &v) != 0) return 0;
    *out = v;
    return 1;
}

int gguf_get_f64(const gguf *g, const char *key, double *out)
{
    const entry *e = find_entry(g, key);
    return e && number(e->kind, e->value, out);
}

int gguf_get_bool(const gguf *g, const char *key, int *out)
{
    const entry *e = find_entry(g, key);
    if (!e || e->kind != GGUF_BOOL) return 0;
    *out = *e->value;
    return 1;
}

static gguf_str string_at(const byte *p)        /* p was checked at open */
{
    gguf_str s;
    s.n = (size_t)load(p, 8);
    s.p = (const char *)p + 8;
    return s;
}

int gguf_get_str(const gguf *g, const char *key, gguf_str *out)
{
    const entry *e = find_entry(g, key);
    if (!e || e->kind != GGUF_STRING) return 0;
    *out = string_at(e->value);
    return 1;
}

int gguf_get_array(const gguf *g, const char *key, gguf_kind *kind, uint64_t *count)
{
    const entry *e = find_entry(g, key);
    if (!e || e->kind != GGUF_ARRAY) return 0;
    *kind = (gguf_kind)e->item;
    *count = e->count;
    return 1;
}

int gguf_array_str(const gguf *g, const char *key, uint64_t i, gguf_str *out)
{
    const entry *e = find_entry(g, key);
    const byte *p;
    uint64_t skip;
    if (!e || e->kind != GGUF_ARRAY || e->item != GGUF_STRING || i >= e->count) return 0;
    p = e->value + e->marks[i / MARK_EVERY];
    for (skip = i % MARK_EVERY; skip; skip--) p += 8 + load(p, 8);
    *out = string_at(p);
    return 1;
}

/* Truth values count as 0 and 1 here: an array of them has no other reader. */
int gguf_array_f64(const gguf *g, const char *key, uint64_t i, double *out)
{
    const entry *e = find_entry(g, key);
    const byte *p;
    if (!e || e->kind != GGUF_ARRAY || i >= e->count || !kind_bytes[e->item]) return 0;
    p = e->value + i * kind_bytes[e->item];
    if (e->item == GGUF_BOOL) *out = *p != 0;
    else return number(e->item, p, out);
    return 1;
}

const gguf_tensor *gguf_find(const gguf *g, const char *name)
{
    return g ? find(g->by_name, g->n_tensors, name) : NULL;
}

uint64_t gguf_n_tensors(const gguf *g)
{
    return g ? g->n_tensors : 0;
}

const gguf_tensor *gguf_tensor_at(const gguf *g, uint64_t i)
{
    return g && i < g->n_tensors ? &g->tensors[i] : NULL;
}

const char *gguf_dtype_name(int type)
{
    int d = type < 0 ? -1 : find_dtype((uint64_t)type);
    return d < 0 ? "unknown" : dtypes[d].name;
}
