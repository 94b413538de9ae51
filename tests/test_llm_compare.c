/* test_llm_compare.c: caches side by side behind one prompt, on a small made-up model. That times
 * are there is judged, and what the caches hold. */
#include "test.h"
#include "compare.h"
#include "tiny_model.h"

enum { PROMPT = LLM_SINKS + LLM_WINDOW + 2 * LLM_PAGE + 9, STEPS = 12, ALL = PROMPT + STEPS };

static const tiny_model deep = {"deep", "llama", 4, 32, 4, 2, 16, 48, 40, 1, 0, 0.0, 0, {0}};

typedef struct engine {
    tiny_file *file;
    gguf *g;
    llm_model *m;
    int ids[ALL];
    llm_mode_env env;
    char err[GGUF_ERR_BYTES];
} engine;

static void open_tiny(engine *e)
{
    twist t = {0};
    int i;
    memset(e, 0, sizeof *e);
    e->file = malloc(sizeof *e->file);
    if (!e->file) exit(2);
    tiny_build(e->file, &deep, &t);
    if (gguf_open_memory(&e->g, e->file->b.p, e->file->b.n, e->err) ||
        llm_model_open(&e->m, e->g, e->err)) {
        printf("    %s\n", e->err);
        exit(2);
    }
    e->env.c = llm_model_config(e->m);
    for (i = 0; i < ALL; i++) e->ids[i] = (int)(test_u64() % TINY_VOCAB);
}

static void shut(engine *e)
{
    llm_model_close(e->m);
    gguf_close(e->g);
    gb_free(&e->file->b);
    free(e->file);
}

static llm_mode mode(const char *word)
{
    char err[GGUF_ERR_BYTES];
    llm_mode m;
    CHECK(!llm_mode_parse(&m, word, strlen(word), err));
    return m;
}

TEST(everybody_has_the_prompt)
{
    engine e;
    llm_mode modes[3];
    llm_pace v[4];
    double prompt = 0;
    int i;
    open_tiny(&e);
    modes[0] = mode("exact");
    modes[1] = mode("turbo:8");
    modes[2] = mode("turbo:1");
    CHECK(!llm_compare(v, modes, 3, e.m, &e.env, e.ids, ALL, STEPS, &prompt, e.err));
    for (i = 0; i < 4; i++) {
        CHECK(v[i].least > 0 && v[i].least <= v[i].step && v[i].cache > 0 && v[i].cache < 1);
        CHECK(v[i].encode > 0 && v[i].ratio > 0);
        CHECK(v[i].agree >= 0 && v[i].agree <= STEPS);
    }
    CHECK(prompt > v[0].encode);
    CHECK(!strcmp(v[0].mode.name, "exact") && !strcmp(v[3].mode.name, "turbo:1"));
    CHECK(v[0].ratio == 1 && v[0].agree == STEPS);
    CHECK(v[1].agree == STEPS && v[1].stats.bytes == v[0].stats.bytes);
    CHECK(v[2].agree > STEPS / 2 && v[3].agree <= v[2].agree);
    CHECK_NEAR(v[2].stats.bpe_pages, 8 + 16.0 / 16, 1e-9);
    CHECK_NEAR(v[0].stats.bpe, 16, 1e-9);
    CHECK(v[0].stats.bytes == (size_t)ALL * 4 * 2 * 2 * 16 * 2);        /* layers K V heads d f16 */
    shut(&e);
}

TEST(refusals)
{
    engine e;
    llm_mode modes[1];
    llm_pace v[2];
    double prompt = 0;
    open_tiny(&e);
    modes[0] = mode("exact");
    CHECK(llm_compare(v, modes, 1, e.m, &e.env, e.ids, STEPS, STEPS, &prompt, e.err) == -1);
    CHECK(strstr(e.err, "too few"));
    CHECK(llm_compare(v, modes, 1, e.m, &e.env, e.ids, STEPS, 0, &prompt, e.err) == -1);
    e.ids[PROMPT] = TINY_VOCAB;
    CHECK(llm_compare(v, modes, 1, e.m, &e.env, e.ids, ALL, STEPS, &prompt, e.err) == -1);
    CHECK(strstr(e.err, "token"));
    modes[0] = mode("fast:4");
    CHECK(llm_compare(v, modes, 1, e.m, &e.env, e.ids, ALL, STEPS, &prompt, e.err) == -1);
    CHECK(strstr(e.err, "--profile"));
    shut(&e);
}

int main(int argc, char **argv)
{
    TEST_BEGIN(argc, argv);
    RUN(everybody_has_the_prompt);
    RUN(refusals);
    return TEST_END();
}
