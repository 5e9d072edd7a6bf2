#include "tokenizer/tool/options.h"

#include <string.h>

#define FLAG_OWNER TokenizeOptions
#include "cli/flag_rows.h"

enum { GROUP_INPUT, GROUP_TOKENS, GROUP_SHARDS, GROUP_RUNNING };
static const char *const groups[] = {"Input", "Tokens", "Shards", "Running"};

static const Flag flags[] = {
    {GROUP_INPUT, "tokenizer", STRING(tokenizer), "", "FILE|DIR",
     "tokenizer.json of Hugging Face, or a folder that holds it"},
    {GROUP_INPUT, "input", STRING(input), "", "GLOB[,...]",
     "text or JSONL files, taken in the order of their names"},
    {GROUP_INPUT, "format", CHOICE(format), "auto", NULL,
     "auto = JSONL where the name ends in .jsonl, else text", .choices = "auto|text|jsonl"},
    {GROUP_INPUT, "split", CHOICE(split), "file", NULL,
     "what a document of a text is: the file, a line, what lies between blank lines",
     .choices = "file|line|blank"},
    {GROUP_INPUT, "field", STRING(field), "text", "KEY", "the text of a JSON object"},
    {GROUP_INPUT, "prompt-field", STRING(prompt_field), "", "KEY",
     "the prompt of a JSON object: read, but not trained on"},
    {GROUP_INPUT, "completion-field", STRING(completion_field), "", "KEY", "what follows the prompt"},
    {GROUP_INPUT, "on-invalid", CHOICE(on_invalid), "stop", NULL,
     "a document that is not UTF-8: stop, leave it out, put U+FFFD for the wrong bytes",
     .choices = "stop|skip|replace"},
    {GROUP_INPUT, "max-document", INT(max_document), "256Mi", "N", "largest document, in bytes",
     RANGE(1, INT32_MAX)},

    {GROUP_TOKENS, "bos", STRING(bos), "auto", "TOKEN|auto|none",
     "token before each document; auto = what the tokenizer names, if it does"},
    {GROUP_TOKENS, "eos", STRING(eos), "auto", "TOKEN|auto|none", "token behind each document"},
    {GROUP_TOKENS, "special-tokens", CHOICE(special), "parse", NULL,
     "special tokens that stand in the text: parse = themselves, text = ordinary text",
     .choices = "parse|text"},

    {GROUP_SHARDS, "out", STRING(out), "", "DIR", "folder for train-000000.bin, val-000000.bin, ..."},
    {GROUP_SHARDS, "shard-tokens", INT(shard_tokens), "100M", "N", "tokens a shard", RANGE(1, INT32_MAX)},
    {GROUP_SHARDS, "shard-version", INT(version), "8", "1|7|8",
     "layout: 8 has document starts, masks and hashes; llm.c reads 1 (ids below 65536) and 7", RANGE(1, 8)},
    {GROUP_SHARDS, "val-fraction", DOUBLE(val_fraction), "0", "X",
     "part of the documents that is kept for validation", BOUNDS(0, 1), .below_high = true},
    {GROUP_SHARDS, "seed", INT(seed), "42", "N", "decides which documents these are", RANGE(0, INT64_MAX)},

    {GROUP_RUNNING, "threads", INT(threads), "0", "N", "0 = all cores", RANGE(0, 4096)},
    {GROUP_RUNNING, "help", .type = FLAG_HELP, .offset = FIELD(const char *, help), "", "[FLAG]",
     "print this, or everything about one flag", .meta = true},
    {GROUP_RUNNING, "man", BOOL(man), "", NULL, "print the manual page (roff)", .meta = true},
    {GROUP_RUNNING, "completion", STRING(completion), "", NULL, "print the shell's completion of these flags",
     .choices = "bash|zsh", .meta = true},
    {GROUP_RUNNING, "version", BOOL(show_version), "", NULL, "print the version", .meta = true},
};
enum { FLAGS = sizeof flags / sizeof *flags };
_Static_assert((int)FLAGS <= (int)TOKENIZE_FLAGS, "TokenizeOptions.given has a place for every flag");

const FlagTable tokenize_flags = {
    .program = "./tokenize",
    .flags = flags,
    .n = FLAGS,
    .groups = groups,
    .group_count = sizeof groups / sizeof *groups,
    .given = offsetof(TokenizeOptions, given),
    .intro = "tokenize: turns text into token shards for train_llama.\n\n"
             "  ./tokenize --tokenizer DIR --input 'books/*.txt' --out data/books\n"
             "  ./tokenize --tokenizer DIR --input pairs.jsonl --prompt-field question --completion-field "
             "answer \\\n"
             "             --out data/pairs\n\n"
             "The same command again goes on where the last one stopped.\n"
             "Whole numbers take K, M, G, T (powers of 1000) and Ki, Mi, Gi, Ti (powers of 1024).\n"
             "Exit status: 0 done, 1 the run failed, 2 the flags or the input cannot be used.\n",
};

bool tokenize_options_check(const TokenizeOptions *o, Error *e) {
  if (!o->tokenizer || !o->input || !o->out) {
    return error_usage(
        e, "--%s is missing: expected --tokenizer, --input and --out.\n`./tokenize --help` says more.",
        !o->tokenizer ? "tokenizer"
        : !o->input   ? "input"
                      : "out");
  }
  if (o->version != 1 && o->version != 7 && o->version != 8)
    return error_usage(e, "--shard-version: found %lld, expected 1, 7 or 8.", (long long)o->version);
  if (!o->prompt_field != !o->completion_field)
    return error_usage(e, "--prompt-field and --completion-field go together: give both or none.");
  const Flag *field = flag_table_find(&tokenize_flags, "field"),
             *split = flag_table_find(&tokenize_flags, "split");
  if (o->prompt_field && flag_table_given(&tokenize_flags, o, field))
    return error_usage(e, "--field and --prompt-field: give one of them.");
  if (o->prompt_field && o->format == INPUT_TEXT)
    return error_usage(e, "--prompt-field needs JSONL, but --format says text.");
  if (o->prompt_field && o->version != 8)
    return error_usage(e,
                       "--prompt-field needs --shard-version 8: shards of version %lld cannot mask prompts.",
                       (long long)o->version);
  if (o->format == INPUT_JSONL && flag_table_given(&tokenize_flags, o, split))
    return error_usage(e, "--split is for text, but --format says jsonl: each line is a document.");
  return true;
}
