/* html.c: see html.h. The chart is 940 by 640 user units; x is linear, y logarithmic. */
#include "html.h"
#include "files.h"
#include "gguf.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* rows ---------------------------------------------------------------------------------------- */
static double mix(double mean, int n, double x) { return mean + (x - mean) / (n + 1); }

int llm_plot_add(llm_plot *p, const llm_plot_row *row)
{
    llm_plot_row *r = p->rows;
    while (r < p->rows + p->n && strcmp(r->mode, row->mode)) r++;
    if (r == p->rows + p->n) {
        if (p->n == LLM_PLOT_ROWS) return -1;
        p->n++;
        *r = *row;
        r->texts = 1;
        return 0;
    }
    r->bpe = mix(r->bpe, r->texts, row->bpe);
    r->bpe_pages = mix(r->bpe_pages, r->texts, row->bpe_pages);
    r->kl_mean = mix(r->kl_mean, r->texts, row->kl_mean);
    r->kl_p99 = mix(r->kl_p99, r->texts, row->kl_p99);
    r->top1 = mix(r->top1, r->texts, row->top1);
    r->ppl_change = mix(r->ppl_change, r->texts, row->ppl_change);
    r->texts++;
    return 0;
}

void llm_plot_name(char *list, size_t capacity, const char *name)
{
    size_t n = strlen(name), used = strlen(list);
    const char *at = list;
    while (n && (at = strstr(at, name)) != NULL) {
        int begins = at == list || (at[-1] == ' ' && at - list > 1 && at[-2] == ',');
        if (begins && (!at[n] || at[n] == ',')) return;
        at++;
    }
    if (!n || n + 3 > capacity - used) return;
    if (used) strcpy(list + used, ", ");
    strcat(list, name);
}

/* Flat JSON: {"key": "string" | number | true | false | null, ...} ---------------------------- */
static const char *blank(const char *s)
{
    while (*s == ' ' || *s == '\t' || *s == '\r') s++;
    return s;
}

static size_t put_utf8(char *out, unsigned c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    out[0] = (char)(0xE0 | c >> 12);
    out[1] = (char)(0x80 | (c >> 6 & 63));
    out[2] = (char)(0x80 | (c & 63));
    return 3;
}

/* A string from its opening quote; returns what follows, or NULL. Too long: cut. */
static const char *json_string(const char *s, char *out, size_t capacity)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    size_t n = 0;
    if (*s++ != '"') return NULL;
    while (*s != '"') {
        char piece[3];
        size_t len = 1;
        piece[0] = *s;
        if ((unsigned char)*s < 32) return NULL;
        if (*s == '\\' && s[1] == 'u') {
            char hex[5] = "", *end;
            unsigned c;
            strncpy(hex, s + 2, 4);
            c = (unsigned)strtoul(hex, &end, 16);
            if (end != hex + 4) return NULL;
            len = put_utf8(piece, c >= 0xD800 && c < 0xE000 ? '?' : c ? c : '?');
            s += 5;
        } else if (*s == '\\') {
            const char *e = s[1] ? strchr(from, s[1]) : NULL;
            if (!e) return NULL;
            piece[0] = to[e - from];
            s++;
        }
        s++;
        if (n + len < capacity) {
            memcpy(out + n, piece, len);
            n += len;
        }
    }
    out[n] = 0;
    return s + 1;
}

typedef struct fields {
    llm_plot_row row;
    char model[256], text[256];
    double ppl, ppl_exact, tokens, start, sinks, window;
    int seen;
} fields;

static void take(fields *f, const char *key, double x)
{
    static const char *const names[] = {"bpe", "bpe_pages", "kl_mean", "kl_p99", "top1", "ppl",
                                        "ppl_exact", "tokens", "start", "sinks", "window"};
    double *const at[] = {&f->row.bpe, &f->row.bpe_pages, &f->row.kl_mean, &f->row.kl_p99,
                          &f->row.top1, &f->ppl, &f->ppl_exact, &f->tokens, &f->start, &f->sinks,
                          &f->window};
    int i;
    for (i = 0; i < 11; i++)
        if (!strcmp(key, names[i])) {
            *at[i] = x;
            f->seen |= 1 << i;
        }
}

/* 0, or -1 where the line is no flat object. */
static int json_line(fields *f, const char *s)
{
    char key[64], value[256], *end;
    memset(f, 0, sizeof *f);
    s = blank(s);
    if (*s++ != '{') return -1;
    for (s = blank(s); *s != '}'; s = blank(s + 1)) {
        s = json_string(s, key, sizeof key);
        if (!s || *(s = blank(s)) != ':') return -1;
        s = blank(s + 1);
        if (*s == '"') {
            s = json_string(s, value, sizeof value);
            if (!s) return -1;
            if (!strcmp(key, "mode")) snprintf(f->row.mode, sizeof f->row.mode, "%.47s", value);
            if (!strcmp(key, "model")) strcpy(f->model, value);
            if (!strcmp(key, "text")) strcpy(f->text, value);
        } else if (!strncmp(s, "true", 4) || !strncmp(s, "null", 4)) s += 4;
        else if (!strncmp(s, "false", 5)) s += 5;
        else {
            double x = strtod(s, &end);
            if (end == s || !isfinite(x)) return -1;
            take(f, key, x);
            s = end;
        }
        s = blank(s);
        if (*s == '}') break;
        if (*s != ',') return -1;
    }
    return *blank(s + 1) ? -1 : 0;
}

/* The setting that all rows share, else 0. */
static void agree(int *setting, double x, int first)
{
    int v = x >= 0 && x < 1e9 ? (int)x : 0;
    if (first) *setting = v;
    else if (*setting != v) *setting = 0;
}

static int read_line(llm_plot *p, const char *line)
{
    fields f;
    int first = p->n == 0;
    if (json_line(&f, line) || !f.row.mode[0] || (f.seen & 127) != 127 || !(f.ppl_exact > 0))
        return -1;
    f.row.ppl_change = f.ppl / f.ppl_exact - 1;
    agree(&p->ctx, f.tokens, first);
    agree(&p->start, f.start, first);
    agree(&p->sinks, f.sinks, first);
    agree(&p->window, f.window, first);
    llm_plot_name(p->model, sizeof p->model, f.model);
    llm_plot_name(p->text, sizeof p->text, f.text);
    return llm_plot_add(p, &f.row) ? 1 : 0;
}

int llm_plot_read(llm_plot *p, const char *path, char *err)
{
    void *data;
    size_t bytes;
    char *line, *next;
    int number = 0, r = 0;
    if (llm_read_file(path, &data, &bytes, err)) return -1;
    for (line = data; line && *line && !r; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        number++;
        if (*blank(line)) r = read_line(p, line);
    }
    free(data);
    if (r > 0)
        snprintf(err, GGUF_ERR_BYTES, "%.200s: more than %d modes", path, LLM_PLOT_ROWS);
    if (r < 0)
        snprintf(err, GGUF_ERR_BYTES, "%.200s, line %d: not a row of `skv-llm judge --json`", path,
                 number);
    return r ? -1 : 0;
}

/* text ---------------------------------------------------------------------------------------- */
/* Bytes of the UTF-8 character at s; 0 where that is none or a control. */
static size_t utf8(const unsigned char *s)
{
    size_t n = *s < 0x80 ? 1 : *s >= 0xC2 && *s < 0xE0 ? 2 : *s >= 0xE0 && *s < 0xF0 ? 3
             : *s >= 0xF0 && *s < 0xF5 ? 4 : 0, i;
    if (n == 1) return *s >= 32 && *s != 127;
    for (i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) ||
        (s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F) ||
        (s[0] == 0xEF && s[1] == 0xBF && s[2] > 0xBD))
        return 0;
    return n;
}

static void put_text(FILE *f, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        size_t n = utf8(s);
        if (*s == '&') fputs("&amp;", f);
        else if (*s == '<') fputs("&lt;", f);
        else if (*s == '>') fputs("&gt;", f);
        else if (*s == '"') fputs("&quot;", f);
        else if (*s == '\'') fputs("&#39;", f);
        else if (!n) fputc('?', f);
        else fwrite(s, 1, n, f);
        s += n ? n : 1;
    }
}

/* chart --------------------------------------------------------------------------------------- */
enum { COLOURS = 8, SHAPES = 5, LEFT = 70, RIGHT = 920, TOP = 16, BOTTOM = 580 };

typedef struct box { double x0, y0, x1, y1; } box;

typedef struct chart {
    const llm_plot *p;
    int    family[LLM_PLOT_ROWS], n_families;
    int    point[LLM_PLOT_ROWS], n;             /* rows with a point, by family, then by rate */
    double x1, y0, y1;                          /* bits to x1; logarithms of KL */
    box    taken[2 * LLM_PLOT_ROWS];
    int    n_taken;
} chart;

static double at_x(const chart *c, double bits)
{
    return LEFT + (RIGHT - LEFT) * bits / c->x1;
}

static double at_y(const chart *c, double kl)
{
    return TOP + (BOTTOM - TOP) * (c->y1 - log10(kl)) / (c->y1 - c->y0);
}

static size_t stem(const char *mode) { return strcspn(mode, ":"); }

static int drawn(const llm_plot_row *r)
{
    return r->bpe_pages > 0 && r->kl_mean > 1e-12 && r->bpe_pages < 1e3 && r->kl_mean < 1e6;
}

static void chart_families(chart *c)
{
    const llm_plot_row *r = c->p->rows;
    int i, j;
    for (i = 0; i < c->p->n; i++) {
        for (j = 0; j < i; j++)
            if (stem(r[i].mode) == stem(r[j].mode) &&
                !strncmp(r[i].mode, r[j].mode, stem(r[i].mode)))
                break;
        c->family[i] = j < i ? c->family[j] : c->n_families++;
    }
    for (i = 0; i < c->p->n; i++) {             /* insertion keeps the points in order */
        if (!drawn(&r[i])) continue;
        for (j = c->n++; j > 0; j--) {
            int k = c->point[j - 1];
            if (c->family[k] < c->family[i] ||
                (c->family[k] == c->family[i] && r[k].bpe_pages <= r[i].bpe_pages))
                break;
            c->point[j] = k;
        }
        c->point[j] = i;
    }
}

/* Logarithm of the nearest 1, 2 or 5 times a power of ten not above x (up: not below). */
static double round_number(double x, int up)
{
    static const double steps[] = {0.5, 1, 2, 5, 10};
    double decade = floor(log10(x)), best = steps[up ? 4 : 0];
    int k;
    for (k = 1; k < 4; k++) {
        double at = steps[up ? 4 - k : k];
        if (up ? at * pow(10, decade) >= x : at * pow(10, decade) <= x) best = at;
    }
    return log10(best) + decade;
}

/* Round numbers around the points: whole bits; 1, 2 or 5 times a power of ten. */
static void chart_range(chart *c)
{
    double least = 1e9, most = 0, bits = 1;
    int i;
    for (i = 0; i < c->n; i++) {
        const llm_plot_row *r = &c->p->rows[c->point[i]];
        if (r->kl_mean < least) least = r->kl_mean;
        if (r->kl_mean > most) most = r->kl_mean;
        if (r->bpe_pages > bits) bits = r->bpe_pages;
    }
    if (!c->n) least = most = 0.01;
    c->x1 = ceil(bits + 0.25);
    c->y0 = round_number(0.9 * least, 0);
    c->y1 = round_number(1.1 * most, 1);
    if (c->y1 < c->y0 + 0.5) c->y1 = c->y0 + 1;
}

static void draw_axes(FILE *f, const chart *c)
{
    static const int steps[] = {1, 2, 5};
    int b, e, k, step = c->x1 > 16 ? (int)ceil(c->x1 / 12) : 1;
    for (b = 0; b <= (int)c->x1; b += step) {
        double x = at_x(c, b);
        fprintf(f, "<path class=\"grid\" d=\"M%.1f %dV%d\"/><text class=\"tick\" x=\"%.1f\" "
                "y=\"%d\" text-anchor=\"middle\">%d</text>\n", x, TOP, BOTTOM, x, BOTTOM + 20, b);
    }
    for (e = (int)floor(c->y0) - 1; e <= (int)ceil(c->y1); e++)
        for (k = 0; k < 3; k++) {
            double kl = steps[k] * pow(10, e), y = at_y(c, kl);
            if (y < TOP - 0.5 || y > BOTTOM + 0.5) continue;
            fprintf(f, "<path class=\"grid%s\" d=\"M%d %.1fH%d\"/><text class=\"tick\" x=\"%d\" "
                    "y=\"%.1f\" text-anchor=\"end\">%g</text>\n", k ? "" : " main", LEFT, y, RIGHT,
                    LEFT - 8, y + 4, kl);
        }
    fprintf(f, "<text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">bits per element in "
            "pages</text>\n<text class=\"axis\" transform=\"translate(18 %d) rotate(-90)\" "
            "text-anchor=\"middle\">mean KL, nats (log scale; lower is better)</text>\n",
            (LEFT + RIGHT) / 2, BOTTOM + 44, (TOP + BOTTOM) / 2);
}

static void draw_marker(FILE *f, int family, double x, double y)
{
    static const char *const shape[SHAPES] = {
        "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        "m-4 -4h8v8h-8z",
        "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        "m0 -5l5.2 9h-10.4z",
        "m0 5l5.2 -9h-10.4z"
    };
    fprintf(f, "<path class=\"dot\" d=\"M%.1f %.1f%s\"/>", x, y,
            shape[(family + family / COLOURS) % SHAPES]);
}

static void draw_lines(FILE *f, const chart *c)
{
    int i, family = -1;
    for (i = 0; i < c->n; i++) {
        const llm_plot_row *r = &c->p->rows[c->point[i]];
        if (c->family[c->point[i]] != family) {
            if (family >= 0) fputs("\"/>\n", f);
            family = c->family[c->point[i]];
            fprintf(f, "<polyline class=\"line f%d\" points=\"", family % COLOURS);
        }
        fprintf(f, "%.1f,%.1f ", at_x(c, r->bpe_pages), at_y(c, r->kl_mean));
    }
    if (family >= 0) fputs("\"/>\n", f);
}

static double overlap(const box *a, const box *b)
{
    double w = (a->x1 < b->x1 ? a->x1 : b->x1) - (a->x0 > b->x0 ? a->x0 : b->x0);
    double h = (a->y1 < b->y1 ? a->y1 : b->y1) - (a->y0 > b->y0 ? a->y0 : b->y0);
    return w > 0 && h > 0 ? w * h : 0;
}

/* A place for a label near its point: the first of some that hides nothing, else the best. */
static box place(const chart *c, double x, double y, double width, double *cost)
{
    static const double move[][2] = {       /* of the label's left end, in widths, and of y */
        {0, 0}, {-1, 0}, {-0.5, -14}, {-0.5, 14}, {0, -12}, {0, 12}, {-1, -12}, {-1, 12}, {0, -26},
        {0, 26}, {-1, -26}, {-1, 26}, {-0.5, -30}, {-0.5, 30}, {0, -42}, {0, 42}, {-1, -42},
        {-1, 42}, {0.4, 0}, {-1.4, 0}, {0.4, -20}, {0.4, 20}, {-1.4, -20}, {-1.4, 20}
    };
    box best = {0, 0, 0, 0}, b;
    size_t i;
    int j;
    *cost = -1;
    for (i = 0; i < sizeof move / sizeof *move; i++) {
        double gap = move[i][0] >= 0 ? 9 : move[i][0] <= -1 ? -9 : 0, hidden = 0.01 * (double)i;
        b.x0 = x + gap + move[i][0] * width;
        b.x1 = b.x0 + width;
        b.y0 = y - 7 + move[i][1];
        b.y1 = b.y0 + 14;
        if (b.x0 < LEFT || b.x1 > RIGHT + 18 || b.y0 < TOP || b.y1 > BOTTOM) hidden += 1e4;
        for (j = 0; j < c->n_taken; j++) hidden += overlap(&b, &c->taken[j]);
        if (*cost >= 0 && hidden >= *cost) continue;
        best = b;
        *cost = hidden;
    }
    return best;
}

static void draw_points(FILE *f, chart *c)
{
    int i;
    for (i = 0; i < c->n; i++) {
        const llm_plot_row *r = &c->p->rows[c->point[i]];
        box *b = &c->taken[c->n_taken++];
        b->x0 = at_x(c, r->bpe_pages) - 6;
        b->x1 = b->x0 + 12;
        b->y0 = at_y(c, r->kl_mean) - 6;
        b->y1 = b->y0 + 12;
    }
    for (i = 0; i < c->n; i++) {
        const llm_plot_row *r = &c->p->rows[c->point[i]];
        double x = at_x(c, r->bpe_pages), y = at_y(c, r->kl_mean), cost, near_x;
        box b = place(c, x, y, 6.4 * (double)strlen(r->mode) + 2, &cost);
        c->taken[c->n_taken++] = b;
        fprintf(f, "<g class=\"f%d\"><title>", c->family[c->point[i]] % COLOURS);
        put_text(f, r->mode);
        fprintf(f, ": %.3f bits in pages, mean KL %.5g, top-1 %.4f</title>", r->bpe_pages,
                r->kl_mean, r->top1);
        near_x = x < b.x0 ? b.x0 : x > b.x1 ? b.x1 : x;
        if (fabs(near_x - x) > 12 || fabs((b.y0 + b.y1) / 2 - y) > 20)
            fprintf(f, "<path class=\"lead\" d=\"M%.1f %.1fL%.1f %.1f\"/>", x, y, near_x,
                    (b.y0 + b.y1) / 2);
        draw_marker(f, c->family[c->point[i]], x, y);
        fprintf(f, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\">", b.x0 + 1, b.y1 - 3);
        put_text(f, r->mode);
        fputs("</text></g>\n", f);
    }
}

/* page ---------------------------------------------------------------------------------------- */
static const char style[] =
    ":root{color-scheme:light dark;--bg:#fcfcfa;--ink:#1c1e21;--soft:#5c6068;--grid:#e6e6e2;"
    "--main:#cfcfc9;--c0:#0b62c4;--c1:#c2410c;--c2:#15803d;--c3:#9333ea;--c4:#be123c;--c5:#0e7490;"
    "--c6:#8a6100;--c7:#475569}\n"
    "@media (prefers-color-scheme:dark){:root{--bg:#16181c;--ink:#e8e8e4;--soft:#a4a8b0;"
    "--grid:#2a2d33;--main:#41454d;--c0:#6cb0ff;--c1:#fb923c;--c2:#4ade80;--c3:#c99bff;"
    "--c4:#fb7185;--c5:#38d0e6;--c6:#e8c22e;--c7:#a9b4c4}}\n"
    "body{margin:2rem auto;padding:0 1rem;max-width:60rem;background:var(--bg);color:var(--ink);"
    "font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.35rem;margin:0 0 .3rem}p{margin:.3rem 0;color:var(--soft)}\n"
    "svg{display:block;width:100%;height:auto;margin:1rem 0}text{font:12px system-ui,sans-serif}\n"
    ".grid{stroke:var(--grid);fill:none}.main{stroke:var(--main)}.tick,.axis{fill:var(--soft)}\n"
    ".axis{font-size:13px}.line{fill:none;stroke:currentColor;stroke-width:1.6;opacity:.75}\n"
    ".dot{fill:currentColor;stroke:var(--bg)}.lead{stroke:currentColor;opacity:.5}\n"
    ".label{fill:currentColor;font-size:11px;paint-order:stroke;stroke:var(--bg);stroke-width:3}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--grid)}\n"
    "th{color:var(--soft);font-weight:600}th:first-child,td:first-child{text-align:left}\n"
    "td svg{display:inline-block;width:14px;height:14px;margin:0 .4rem 0 0;vertical-align:-2px}\n";

static void write_head(FILE *f, const llm_plot *p)
{
    int i;
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name="
          "\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>Rate and KL: ",
          f);
    put_text(f, p->model);
    fprintf(f, "</title>\n<style>\n%s", style);
    for (i = 0; i < COLOURS; i++) fprintf(f, ".f%d{color:var(--c%d)}", i, i);
    fputs("\n</style>\n</head>\n<body>\n<h1>Compressed KV cache: rate against KL</h1>\n<p>",
          f);
    put_text(f, p->model[0] ? p->model : "unknown model");
    fputs("; text ", f);
    put_text(f, p->text[0] ? p->text : "unknown");
    if (p->ctx) fprintf(f, "; %d tokens", p->ctx);
    if (p->ctx && p->start) fprintf(f, ", judged from %d on", p->start);
    if (p->window) fprintf(f, "; %d sinks and a window of %d exact", p->sinks, p->window);
    fputs(".</p>\n<p>KL of the next token&#8217;s distribution against the exact cache, "
          "teacher-forced. Bits count everything in the compressed pages; the table adds the whole "
          "cache.</p>\n", f);
}

static void write_table(FILE *f, const chart *c)
{
    int i;
    fputs("<div class=\"wide\"><table>\n<tr><th>mode</th><th>bits, whole cache</th><th>bits in "
          "pages</th><th>KL mean</th><th>KL p99</th><th>top-1</th><th>perplexity change</th>"
          "<th>texts</th></tr>\n", f);
    for (i = 0; i < c->p->n; i++) {
        const llm_plot_row *r = &c->p->rows[i];
        fprintf(f, "<tr><td><svg class=\"f%d\" viewBox=\"0 0 14 14\" aria-hidden=\"true\">",
                c->family[i] % COLOURS);
        draw_marker(f, c->family[i], 7, 7);
        fputs("</svg>", f);
        put_text(f, r->mode);
        fprintf(f, "</td><td>%.3f</td><td>", r->bpe);
        if (r->bpe_pages > 0) fprintf(f, "%.3f", r->bpe_pages);
        else fputs("&#8211;", f);
        fprintf(f, "</td><td>%.5f</td><td>%.4f</td><td>%.4f</td><td>%+.2f %%</td><td>%d</td>"
                "</tr>\n", r->kl_mean, r->kl_p99, r->top1, 100 * r->ppl_change, r->texts);
    }
    fputs("</table></div>\n</body>\n</html>\n", f);
}

int llm_plot_write(FILE *f, const llm_plot *p)
{
    chart *c = calloc(1, sizeof *c);
    if (!c) return -1;
    c->p = p;
    chart_families(c);
    chart_range(c);
    write_head(f, p);
    fputs("<svg viewBox=\"0 0 940 640\" role=\"img\" "
          "aria-label=\"Mean KL against bits per element\">\n", f);
    draw_axes(f, c);
    draw_lines(f, c);
    draw_points(f, c);
    fputs("</svg>\n", f);
    write_table(f, c);
    free(c);
    return ferror(f) ? -1 : 0;
}
