/* tokenizer.h: SentencePiece ("llama") and byte-level BPE ("gpt2") tokenizers from a GGUF file. */
#ifndef LLM_TOKENIZER_H
#define LLM_TOKENIZER_H
#include "gguf.h"

typedef struct llm_tokenizer llm_tokenizer;

/* 0, or -1 with a sentence in err (GGUF_ERR_BYTES). The gguf must outlive the tokenizer. */
int  llm_tokenizer_open(llm_tokenizer **out, const gguf *g, char *err);
void llm_tokenizer_close(llm_tokenizer *t);

/* Token ids of text[0..n). Returns the count, whatever max is (at most max are written to ids), or
 * -1 when memory ran out. parse_special: control tokens such as <|im_start|> in the text become
 * their ids. No BOS is added; ask llm_tokenizer_bos. Invalid UTF-8 is tokenised, never refused. */
long llm_tokenize(const llm_tokenizer *t, const char *text, size_t n, int parse_special,
                  int *ids, long max);

/* Bytes of one token, as they go to the screen: returns the count, at most max written. */
size_t llm_detokenize(const llm_tokenizer *t, int id, char *out, size_t max);

int llm_tokenizer_bos(const llm_tokenizer *t);      /* id to put first, or -1 when none is wanted */
int llm_tokenizer_is_end(const llm_tokenizer *t, int id);   /* EOS, EOT and the like */
int llm_tokenizer_size(const llm_tokenizer *t);
/* Wraps a user's message in the model's chat form into out (zero terminated). Returns the length,
 * or -1 when it does not fit. Families without a known form get the message as it is. */
long llm_chat_prompt(const llm_tokenizer *t, const char *user, char *out, size_t max);
#endif
