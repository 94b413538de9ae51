/* test_llm_html.c: rows in, one page out: means, every mode and figure there, nothing but elements
 * that are closed, nothing from outside, whatever the names hold. */
#include "html.h"
#include "gguf.h"
#include "test.h"
#include <ctype.h>

static char rows_path[512];         /* beside this program */
static llm_plot plot;
static char page[1 << 20];

static int write_rows(const char *rows)
{
    FILE *f = fopen(rows_path, "w");
    int bad;
    if (!f) return -1;
    bad = fputs(rows, f) < 0;
    return fclose(f) || bad ? -1 : 0;
}

static int read_rows(const char *rows, char *err)
{
    int r;
    memset(&plot, 0, sizeof plot);
    if (write_rows(rows)) {
        printf("    cannot write %s\n", rows_path);
        exit(1);
    }
    r = llm_plot_read(&plot, rows_path, err);
    remove(rows_path);
    return r;
}

static void draw(void)
{
    FILE *f = tmpfile();
    size_t n = 0;
    CHECK(f != NULL);
    page[0] = 0;
    if (!f) return;
    CHECK(llm_plot_write(f, &plot) == 0);
    rewind(f);
    n = fread(page, 1, sizeof page - 1, f);
    page[n] = 0;
    CHECK(n > 1000 && n < sizeof page - 1);
    fclose(f);
}

static int count(const char *word)
{
    const char *at = page;
    int n = 0;
    for (; (at = strstr(at, word)) != NULL; at++) n++;
    return n;
}

/* Elements nest and close, attributes are quoted, text has no bare & or <: as XML wants it. */
static int well_formed(void)
{
    char open[64][16];
    int depth = 0, n;
    const char *s = strchr(page, '\n');             /* after the DOCTYPE */
    for (; s && *s; s++) {
        if (*s == '&' && !strchr("#aglq", s[1])) return 0;
        if (*s == '&' && strcspn(s, ";") > 6) return 0;
        if (*s != '<') continue;
        if (s[1] == '/') {
            n = (int)strcspn(s + 2, ">");
            if (!depth-- || (int)strlen(open[depth]) != n || strncmp(open[depth], s + 2, (size_t)n))
                return 0;
            s += n + 2;
            continue;
        }
        n = (int)strcspn(s + 1, " />");
        if (n < 1 || n > 15 || depth == 64) return 0;
        memcpy(open[depth], s + 1, (size_t)n);
        open[depth++][n] = 0;
        for (s += n + 1; *s && *s != '>' && *s != '/'; ) {
            if (*s != ' ' || !isalpha((unsigned char)s[1])) return 0;
            s += strcspn(s, "=");
            if (s[0] != '=' || s[1] != '"') return 0;
            n = (int)strcspn(s + 2, "\"<");
            s += n + 2;
            if (*s++ != '"') return 0;
        }
        if (*s == '/') {
            depth--;
            s++;
        }
        if (*s != '>') return 0;
    }
    return depth == 0;
}

static const char usual[] =
    "{\"mode\": \"exact\", \"tokens\": 1024, \"bpe\": 16, \"bpe_pages\": 0, \"kl_mean\": 0, "
    "\"kl_p99\": 0, \"top1\": 1, \"ppl_exact\": 10, \"ppl\": 10, \"start\": 256, \"sinks\": 4, "
    "\"window\": 64, \"model\": \"a<b>&\\\"c\\u00e9.gguf\", \"text\": \"one.txt\"}\n"
    "{\"mode\": \"fast:3\", \"tokens\": 1024, \"bpe\": 5, \"bpe_pages\": 3, \"kl_mean\": 1e-2, "
    "\"kl_p99\": 0.1, \"top1\": 0.9, \"ppl_exact\": 10, \"ppl\": 11, \"start\": 256, \"sinks\": 4, "
    "\"window\": 64, \"model\": \"a<b>&\\\"c\\u00e9.gguf\", \"text\": \"one.txt\", \"odd\": null}\n"
    "\n{\"mode\":\"fast:3\",\"tokens\":1024,\"bpe\":5,\"bpe_pages\":3,\"kl_mean\":0.03,\"kl_p99\":"
    "0.3,\"top1\":0.8,\"ppl_exact\":10,\"ppl\":12,\"start\":300,\"sinks\":4,\"window\":64,\"text\":"
    "\"two.txt\"}\n"
    "{\"mode\": \"fast:2\", \"tokens\": 1024, \"bpe\": 4, \"bpe_pages\": 2, \"kl_mean\": 0.1, "
    "\"kl_p99\": 1, \"top1\": 0.7, \"ppl_exact\": 10, \"ppl\": 13, \"sinks\": 4, \"window\": 64}\n"
    "{\"mode\": \"q'<script>&:1\", \"tokens\": 1024, \"bpe\": 9, \"bpe_pages\": 8.5, \"kl_mean\": "
    "1e-4, \"kl_p99\": 0.001, \"top1\": 1, \"ppl_exact\": 10, \"ppl\": 10, \"window\": 64}";

TEST(means_over_texts)
{
    char err[GGUF_ERR_BYTES];
    CHECK(read_rows(usual, err) == 0 && plot.n == 4);
    CHECK(!strcmp(plot.rows[1].mode, "fast:3") && plot.rows[1].texts == 2);
    CHECK_NEAR(plot.rows[1].kl_mean, 0.02, 1e-12);
    CHECK_NEAR(plot.rows[1].kl_p99, 0.2, 1e-12);
    CHECK_NEAR(plot.rows[1].top1, 0.85, 1e-12);
    CHECK_NEAR(plot.rows[1].ppl_change, 0.15, 1e-12);
    CHECK(plot.rows[0].texts == 1 && plot.ctx == 1024 && plot.start == 0 && plot.window == 64);
    CHECK(!strcmp(plot.text, "one.txt, two.txt"));
    CHECK(!strcmp(plot.model, "a<b>&\"c\xC3\xA9.gguf"));
}

TEST(page_has_it_all)
{
    char err[GGUF_ERR_BYTES];
    CHECK(read_rows(usual, err) == 0);
    draw();
    CHECK(well_formed());
    CHECK(count("<svg viewBox=\"0 0 940") == 1 && count("<tr>") == 5 && count("<title>") == 4);
    CHECK(count("class=\"label\"") == 3);           /* the exact cache has no place on the chart */
    CHECK(count(">fast:3</text>") == 1 && count(">fast:2</text>") == 1);
    CHECK(count("</svg>exact</td><td>16.000</td><td>&#8211;</td>") == 1);
    CHECK(count("</svg>fast:3</td><td>5.000</td><td>3.000</td><td>0.02000</td><td>0.2000</td>"
                "<td>0.8500</td><td>+15.00 %</td><td>2</td>") == 1);
    CHECK(count("<polyline") == 2);                 /* a line for each family */
    CHECK(count("q&#39;&lt;script&gt;&amp;:1") == 3 && !count("<script"));
    CHECK(count("a&lt;b&gt;&amp;&quot;c\xC3\xA9.gguf") == 2);
    CHECK(!count("http") && !count("url(") && !count("src=") && !count("href"));
    CHECK(!count("@import"));
}

/* Names with anything in them; many modes; no point at all; one point. */
TEST(page_stands_anything)
{
    static const char *const odd[] = {"\xFF\x01\x7F", "\xC3", "\xE2\x82", "\xED\xA0\x80", "]]>",
                                      "--", "&amp;", "a\xF0\x9F\x98\x80z"};
    llm_plot_row row;
    size_t i;
    memset(&plot, 0, sizeof plot);
    draw();
    CHECK(well_formed());
    for (i = 0; i < LLM_PLOT_ROWS; i++) {
        memset(&row, 0, sizeof row);
        snprintf(row.mode, sizeof row.mode, "%s%d:%d", odd[i % 8], (int)(i % 8), (int)i);
        row.bpe_pages = 0.1 + 30 * test_uniform();
        row.kl_mean = pow(10, -8 * test_uniform());
        CHECK(llm_plot_add(&plot, &row) == 0);
        if (i < 2 || i == LLM_PLOT_ROWS - 1) {
            draw();
            CHECK(well_formed() && count("class=\"label\"") == (int)i + 1);
            CHECK(!count("nan") && !count("inf,") && !count("\xFF") && !count("\x01"));
        }
    }
    strcpy(row.mode, "one more");
    CHECK(llm_plot_add(&plot, &row) == -1);
    llm_plot_name(plot.model, sizeof plot.model, "model");
    llm_plot_name(plot.model, sizeof plot.model, "model");
    llm_plot_name(plot.model, sizeof plot.model, "mod");
    CHECK(!strcmp(plot.model, "model, mod"));
    for (i = 0; i < 2000; i++) {
        char name[16];
        snprintf(name, sizeof name, "text%d", (int)i);
        llm_plot_name(plot.text, sizeof plot.text, name);
    }
    CHECK(strlen(plot.text) < sizeof plot.text);
}

TEST(bad_rows)
{
    static const char *const bad[] = {
        "x", "{", "{}", "[]", "{\"mode\"}", "{\"mode\":}", "{\"mode\": \"a\"}", "{\"mode\": \"a",
        "{\"a\": \"\\q\"}", "{\"a\": \"\\u12\"}", "{\"a\": 1 \"b\": 2}", "{\"a\": {}}",
        "{\"mode\": \"a\", \"bpe\": 1, \"bpe_pages\": 1, \"kl_mean\": 1, \"kl_p99\": 1, "
        "\"top1\": 1, \"ppl\": 1, \"ppl_exact\": 0}",
        "{\"mode\": \"a\", \"bpe\": 1, \"bpe_pages\": 1, \"kl_mean\": nan, \"kl_p99\": 1, "
        "\"top1\": 1, \"ppl\": 1, \"ppl_exact\": 1}"
    };
    char err[GGUF_ERR_BYTES], rows[4096], cut[sizeof usual];
    size_t i;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(rows, sizeof rows, "\n%s\n", bad[i]);
        err[0] = 0;
        CHECK(read_rows(rows, err) == -1 && strstr(err, "line 2"));
    }
    for (i = 1; i < 330; i++) {                     /* the first row, cut anywhere */
        memcpy(cut, usual, i);
        cut[i] = 0;
        if (strchr(cut, '\n')) break;
        CHECK((read_rows(cut, err) == -1) == (cut[i - 1] != '}'));
    }
    CHECK(i > 200);
    CHECK(llm_plot_read(&plot, rows_path, err) == -1);      /* removed by now */
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    snprintf(rows_path, sizeof rows_path, "%s.jsonl", argv[0]);
    RUN(means_over_texts);
    RUN(page_has_it_all);
    RUN(page_stands_anything);
    RUN(bad_rows);
    return TEST_END();
}
