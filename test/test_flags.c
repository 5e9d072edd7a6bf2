/* The flag table, the parser, the checks across flags, help and JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "cli/flags.h"
#include "llama/optimizer.h" /* LrKind */

enum { MAX_ARGS = 16 };

/* Splits a command line at blanks into argv; the words stay in `words`. */
typedef struct CommandLine {
  char words[512];
  char *argv[MAX_ARGS];
  int argc;
} CommandLine;

static void split(CommandLine *c, const char *line) {
  snprintf(c->words, sizeof c->words, "train_llama %s", line);
  c->argc = 0;
  for (char *w = strtok(c->words, " "); w && c->argc < MAX_ARGS; w = strtok(NULL, " "))
    c->argv[c->argc++] = w;
}

/* Parses a line that must be fine, and must pass the cross checks. */
static void accept_line(Options *o, CommandLine *c, const char *line) {
  Error e = {0};
  split(c, line);
  flags_defaults(o);
  if (!flags_parse(o, c->argc, c->argv, &e) || !options_check(o, &e))
    fail_msg("\"%s\" was refused: %s", line, e.text);
}

/* Parses a line that must be refused, by a message that contains all of the words (up to NULL). */
static void refuse_line(const char *line, ...) {
  Options o;
  CommandLine c;
  Error e = {0};
  split(&c, line);
  flags_defaults(&o);
  if (flags_parse(&o, c.argc, c.argv, &e) && options_check(&o, &e)) fail_msg("\"%s\" was accepted", line);
  assert_int_equal(e.code, EXIT_USAGE);
  va_list words;
  va_start(words, line);
  for (const char *w = va_arg(words, const char *); w; w = va_arg(words, const char *))
    if (!strstr(e.text, w)) fail_msg("\"%s\": the message lacks \"%s\": %s", line, w, e.text);
  va_end(words);
}

static void table_is_sound(void **state) {
  (void)state;
  Options o;
  flags_defaults(&o); /* panics when a default does not parse */
  for (int i = 0; flags_at(i); i++) {
    const Flag *f = flags_at(i);
    assert_ptr_equal(flags_find(f->name), f); /* the first of that name: names are unique */
    assert_true(f->help && strlen(f->help) > 10);
    assert_null(strchr(f->help, '\n'));
    assert_int_equal(strspn(f->name, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(f->name));
    assert_true(f->group < GROUPS);
    assert_true(i == 0 || f->group >= flags_at(i - 1)->group); /* help shows a group in one piece */
    assert_non_null(f->default_value);
    if (f->type == FLAG_INT) assert_true(f->min < f->max);
    if (f->type == FLAG_DOUBLE) assert_true(f->low < f->high);
    if (f->type == FLAG_CHOICE) assert_non_null(f->choices);
    if (f->type == FLAG_INT || f->type == FLAG_DOUBLE || f->type == FLAG_CHOICE)
      assert_true(strlen(f->default_value) > 0);
    for (int j = 0; j < i; j++) assert_true(flags_at(j)->offset != f->offset); /* a field of its own */
    assert_false(flags_given(&o, f->name));
  }
}

static void defaults(void **state) {
  (void)state;
  Options o;
  flags_defaults(&o);
  assert_string_equal(o.model, "demo");
  assert_string_equal(o.device, "auto");
  assert_null(o.train);
  assert_null(o.out);
  assert_null(o.help);
  assert_int_equal(o.seq_len, 512);
  assert_int_equal(o.mlp_chunk, CHUNK_AUTO);
  assert_int_equal(o.keep_attention, KEEP_AUTO);
  assert_int_equal(o.recompute, RECOMPUTE_AUTO);
  assert_int_equal(o.checkpoint_every, EVERY_AUTO);
  assert_int_equal(o.attn_groups, GROUPS_AUTO);
  assert_int_equal(o.offload, OFFLOAD_AUTO);
  assert_int_equal(o.rope_scaling, OPTION_ROPE_OF_MODEL);
  assert_true(o.beta2 == 0.95);
  assert_false(o.plan);
  Error e;
  assert_true(options_check(&o, &e));
}

static void values(void **state) {
  (void)state;
  Options o;
  CommandLine c;
  accept_line(&o, &c,
              "--seq-len 8Ki --lr=1e-3 --min-lr 1e-4 --plan --out=a=b --mlp-chunk auto --head-chunk 7");
  assert_int_equal(o.seq_len, 8192);
  assert_true(o.lr == 1e-3 && o.min_lr == 1e-4);
  assert_true(o.plan);
  assert_string_equal(o.out, "a=b");
  assert_int_equal(o.mlp_chunk, CHUNK_AUTO);
  assert_int_equal(o.head_chunk, 7);
  assert_true(flags_given(&o, "lr") && flags_given(&o, "plan") && flags_given(&o, "mlp-chunk"));
  assert_false(flags_given(&o, "batch"));

  accept_line(&o, &c, "--keep-attention all --device cpu --seed 9223372036854775807");
  assert_int_equal(o.keep_attention, KEEP_ALL);
  assert_string_equal(o.device, "cpu");
  assert_true(o.seed == INT64_MAX);
  accept_line(&o, &c, "--keep-attention auto --checkpoint-every auto");
  assert_true(o.keep_attention == KEEP_AUTO && o.checkpoint_every == EVERY_AUTO);
  refuse_line("--seed 9223372036854775808", "--seed: found \"9223372036854775808\"", NULL);
}

/* The numbers behind the words are those of the enums that the rest of the program uses. */
static void choices(void **state) {
  (void)state;
  static const struct {
    const char *line;
    size_t offset;
    int value;
  } cases[] = {
      {"--dtype fp32", offsetof(Options, dtype), DT_FP32},
      {"--dtype bf16", offsetof(Options, dtype), DT_BF16},
      {"--dtype bf16 --moments bf16", offsetof(Options, moments), DT_BF16},
      {"--moments 8bit", offsetof(Options, moments), DT_U8},
      {"--dtype bf16 --master fp32", offsetof(Options, master), 1},
      {"--rope-scaling none", offsetof(Options, rope_scaling), ROPE_NONE},
      {"--rope-scaling linear", offsetof(Options, rope_scaling), ROPE_LINEAR},
      {"--rope-scaling llama3", offsetof(Options, rope_scaling), ROPE_LLAMA3},
      {"--rope-scaling yarn", offsetof(Options, rope_scaling), ROPE_YARN},
      {"--rope-scaling model", offsetof(Options, rope_scaling), OPTION_ROPE_OF_MODEL},
      {"--recompute none", offsetof(Options, recompute), RECOMPUTE_NONE},
      {"--recompute mlp", offsetof(Options, recompute), RECOMPUTE_MLP},
      {"--recompute layer", offsetof(Options, recompute), RECOMPUTE_LAYER},
      {"--recompute auto", offsetof(Options, recompute), RECOMPUTE_AUTO},
      {"--offload auto", offsetof(Options, offload), OFFLOAD_AUTO},
      {"--schedule cosine", offsetof(Options, schedule), LR_COSINE},
      {"--schedule linear", offsetof(Options, schedule), LR_LINEAR},
      {"--schedule constant", offsetof(Options, schedule), LR_CONSTANT},
      {"--schedule wsd", offsetof(Options, schedule), LR_WSD},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    Options o;
    CommandLine c;
    accept_line(&o, &c, cases[i].line);
    assert_int_equal(*(int *)((char *)&o + cases[i].offset), cases[i].value);
  }
}

static void sizes(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int64_t value; /* -1: refused */
  } cases[] = {
      {"1", 1},
      {"3K", 3000},
      {"2M", 2000000},
      {"5G", 5000000000},
      {"3Ki", 3072},
      {"2Mi", 2097152},
      {"1Gi", 1 << 30},
      {"1T", 1000000000000},
      {"1Ti", (int64_t)1 << 40},
      {"0007", 7},
      {"1k", -1},
      {"1Kb", -1},
      {"K", -1},
      {"1.5K", -1},
      {"1e3", -1},
      {"0x10", -1},
      {"-1", -1},
      {"+1", -1},
      {"1 ", -1},
      {"", -1},
      {"--", -1},
      {"1Pi", -1},
      {"1t", -1},
      {"2Ti", -1},
      {"9223372036854775808", -1},
      {"auto", -1},
      {"10000000000G", -1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char argument[64];
    snprintf(argument, sizeof argument, "--steps=%s", cases[i].text);
    char *argv[] = {"train_llama", argument};
    Options o;
    Error e = {0};
    flags_defaults(&o);
    bool ok = flags_parse(&o, 2, argv, &e);
    if (ok != (cases[i].value >= 0)) fail_msg("%s: accepted = %d", argument, ok);
    if (ok)
      assert_int_equal(o.steps, cases[i].value);
    else
      assert_non_null(strstr(e.text, "--steps: found"));
  }
}

static void numbers(void **state) {
  (void)state;
  Options o;
  CommandLine c;
  accept_line(&o, &c, "--eps 1e-12 --beta1 0 --clip 0 --rope-theta 5e5 --weight-decay .5");
  assert_true(o.eps == 1e-12 && o.beta1 == 0 && o.clip == 0 && o.rope_theta == 5e5 && o.weight_decay == .5);
  refuse_line("--lr abc", "--lr: found \"abc\"", "at least 0 and at most 1000", NULL);
  refuse_line("--lr -1", "--lr: found \"-1\"", NULL);
  refuse_line("--lr inf", "\"inf\"", NULL);
  refuse_line("--lr nan", "\"nan\"", NULL);
  refuse_line("--lr 0x1p-3", "\"0x1p-3\"", NULL);
  refuse_line("--lr 1e-3x", "\"1e-3x\"", NULL);
  refuse_line("--lr 1e999", "\"1e999\"", NULL);
  refuse_line("--lr=", "--lr: found \"\"", NULL);
  refuse_line("--eps 0", "above 0", NULL);
  refuse_line("--beta1 1", "below 1", NULL);
}

static void bad_arguments(void **state) {
  (void)state;
  refuse_line("--lrr 3", "--lrr: there is no such flag", "did you mean --lr?", "--help", NULL);
  refuse_line("--seq_len 3", "did you mean --seq-len?", NULL);
  refuse_line("--checkpoint 2", "did you mean --checkpoint-every?", NULL);
  refuse_line("--mlpchunk=2", "--mlpchunk: ", "did you mean --mlp-chunk?", NULL);
  refuse_line("-lr 3", "-lr: there is no such flag; did you mean --lr?", NULL);
  refuse_line("--recmopute mlp", "did you mean --recompute?", NULL); /* neighbours swapped */
  refuse_line("--shceduel wsd", "did you mean --schedule?", NULL);
  refuse_line("--SEQ_LEN 3", "did you mean --seq-len?", NULL);
  refuse_line("--batch-size 3", "did you mean --batch?", NULL);
  refuse_line("--lr-schedule wsd", "did you mean --schedule?", NULL);
  refuse_line("--warmup-steps 3", "did you mean --warmup?", NULL);
  refuse_line("--eval-steps 3", "did you mean --steps?", NULL); /* not --val, which is no word of it */
  refuse_line("--theta 3", "did you mean --rope-theta?", NULL);
  refuse_line("---lr 3", "did you mean --lr?", NULL);
  refuse_line("--wombat 3", "--wombat: there is no such flag.", NULL);
  refuse_line("-- 3", "there is no such flag", NULL);
  refuse_line("- 3", "there is no such flag", NULL);
  refuse_line("model", "found \"model\" where a flag was expected", NULL);
  refuse_line("--plan 3", "found \"3\" where a flag was expected", NULL);
  refuse_line("--plan=yes", "--plan: found \"yes\"", "no value", NULL);
  refuse_line("--lr", "--lr: found no value", NULL);
  refuse_line("--out --plan", "--out: found no value", NULL);
  refuse_line("--out=", "--out: found \"\"", NULL);
  refuse_line("--batch 3 --batch=4", "--batch was given twice", NULL);
  refuse_line("--plan --plan", "--plan was given twice", NULL);
  refuse_line("--dtype fp17", "--dtype: found \"fp17\"", "one of fp32, bf16", NULL);
  refuse_line("--dtype fp", "found \"fp\"", "did you mean fp32?", NULL);
  refuse_line("--recompute layre", "one of none, mlp, layer, auto; did you mean layer?", NULL);
  refuse_line("--schedule Cosine", "did you mean cosine?", NULL);
  refuse_line("--schedule wombat", "one of cosine, linear, constant, wsd.", NULL);
  refuse_line("--device tpu", "one of auto, cpu, cuda", NULL);
  refuse_line("--mlp-chunk all", "found \"all\"", "or auto", NULL);
  refuse_line("--threads 5000", "from 0 to 4096", NULL);

  /* a name or value of any length neither overflows nor is lost */
  char long_name[6000];
  memset(long_name, 'x', sizeof long_name);
  long_name[sizeof long_name - 1] = '\0';
  for (int dashes = 0; dashes <= 2; dashes++) {
    memset(long_name, '-', (size_t)dashes);
    char *argv[] = {"train_llama", long_name};
    Options o;
    Error e = {0};
    flags_defaults(&o);
    assert_false(flags_parse(&o, 2, argv, &e));
    assert_int_equal(e.code, EXIT_USAGE);
  }
}

static void flags_that_do_not_go_together(void **state) {
  (void)state;
  refuse_line("--checkpoint-every 2 --recompute mlp", "--checkpoint-every", "--recompute layer", NULL);
  refuse_line("--attn-groups 2 --recompute mlp", "--attn-groups", "--recompute layer", NULL);
  refuse_line("--attn-groups 0", "--attn-groups", "or auto", NULL);
  refuse_line("--offload checkpoints --recompute none", "--offload", "--recompute layer", NULL);
  refuse_line("--offload attention --keep-attention 0", "--offload", "--keep-attention", NULL);
  refuse_line("--offload-update cpu --offload optimizer", "--offload-update", "optimizer,gradients", NULL);
  refuse_line("--offload auto,weights", "--offload", "alone", NULL);
  refuse_line("--device-memory 1G --plan --plan-device h100", "--device-memory", "--plan-device", NULL);
  refuse_line("--device cpu --plan --plan-device h100", "--plan-device", "--device cpu", NULL);
  refuse_line("--keep-attention some", "--keep-attention", "or all or auto", NULL);
  refuse_line("--offload checkpoint", "--offload", "checkpoints", NULL);
  refuse_line("--offload checkpoints,", "--offload", "separated by commas", NULL);
  refuse_line("--update layer", "--update layer", "--clip 1", "--clip 0", "--update step", NULL);
  refuse_line("--update layer --clip 0 --grad-accum 2", "--grad-accum 2", "--update step", NULL);
  refuse_line("--update layer --clip 0 --skip-bad-steps 1", "--skip-bad-steps", "--update step", NULL);
  refuse_line("--update layer --clip 0 --dump-grads x", "--dump-grads", "--update layer out", NULL);
  refuse_line("--keep-attention 1 --recompute none", "--keep-attention", "--recompute layer", NULL);
  refuse_line("--keep-attention all --recompute mlp", "--keep-attention", NULL);
  refuse_line("--master fp32", "--master", "--dtype bf16", NULL);
  refuse_line("--moments bf16", "--moments", "--dtype bf16", NULL);
  refuse_line("--json", "--json", "--plan", NULL);
  refuse_line("--eval-only --steps 3", "--eval-only", "--steps", NULL);
  refuse_line("--eval-only --stop-after 3", "--stop-after", NULL);
  refuse_line("--lr 1e-4 --min-lr 1e-3", "--min-lr: found 0.001", "--lr, which is 0.0001", NULL);
  refuse_line("--rope-factor 2 --rope-scaling none", "--rope-factor", "--rope-scaling none", NULL);
  refuse_line("--rope-factor 0.5 --rope-scaling linear", "--rope-factor: found 0.5", NULL);
  refuse_line("--rope-theta 1", "--rope-theta: found 1", NULL);
  refuse_line("--steps 10 --warmup 11", "--warmup: found 11", "--steps, which is 10", NULL);
  refuse_line("--steps 10 --stop-after 11", "--stop-after: found 11", NULL);
  refuse_line("--save-every 5", "--save-every", "--out", NULL);
  refuse_line("--dump-grads f --eval-only", "--dump-grads", "--eval-only", NULL);
  refuse_line("--dump-grads f --out d", "--dump-grads", "--out", NULL);
  refuse_line("--model some/folder", "--train", "some/folder", NULL);
  refuse_line("--model llama3-8b --eval-only", "--val", NULL);
  refuse_line("--seq-len 1Gi --batch 1Mi", "1073741824, 1048576", NULL);
  refuse_line("--seq-len 1Gi --batch 1Mi --grad-accum 1Mi", "--grad-accum", NULL);

  Options o;
  CommandLine c;
  accept_line(&o, &c, "--checkpoint-every 2 --keep-attention 1");
  accept_line(&o, &c, "--update layer --clip 0");
  accept_line(&o, &c, "--offload none");
  assert_int_equal(o.offload, 0);
  accept_line(&o, &c, "--offload attention,checkpoints --keep-attention 2");
  assert_int_equal(o.offload, OFFLOAD_CHECKPOINTS | OFFLOAD_ATTENTION);
  accept_line(&o, &c, "--model llama3-8b --plan --json --seq-len 1Mi");
  accept_line(&o, &c, "--model llama3-8b --eval-only --val v.bin");
  accept_line(&o, &c, "--model some/folder --train t.bin --rope-scaling yarn --rope-factor 4");
  accept_line(&o, &c, "--dtype bf16 --master fp32 --moments bf16");
  accept_line(&o, &c, "--steps 10 --warmup 10 --stop-after 10 --save-every 5 --out d");
  accept_line(&o, &c, "--dump-grads f");
}

/* What a printing function wrote, as a string; freed by the caller. */
typedef struct Capture {
  char *text;
  size_t bytes;
  FILE *stream;
} Capture;

static FILE *capture_begin(Capture *c) {
  c->stream = open_memstream(&c->text, &c->bytes);
  assert_non_null(c->stream);
  return c->stream;
}

static char *capture_end(Capture *c) {
  fclose(c->stream);
  return c->text;
}

static void help(void **state) {
  (void)state;
  Capture c;
  flags_help(capture_begin(&c), NULL);
  char *all = capture_end(&c);
  for (int i = 0; flags_at(i); i++) {
    char name[64];
    snprintf(name, sizeof name, "\n  --%s", flags_at(i)->name);
    assert_non_null(strstr(all, name));
    assert_non_null(strstr(all, flags_at(i)->help));

    flags_help(capture_begin(&c), flags_at(i)->name);
    char *one = capture_end(&c);
    assert_non_null(strstr(one, flags_at(i)->help));
    free(one);
  }
  for (const char *line = all; *line; line += strcspn(line, "\n") + 1)
    assert_true(strcspn(line, "\n") <= 120);
  free(all);

  Options o;
  CommandLine line;
  accept_line(&o, &line, "--help");
  assert_string_equal(o.help, "");
  accept_line(&o, &line, "--help lr");
  assert_string_equal(o.help, "lr");
  accept_line(&o, &line, "--help --lr");
  assert_string_equal(o.help, "lr");
  accept_line(&o, &line, "--help=lr");
  assert_string_equal(o.help, "lr");
  refuse_line("--help warmpu", "warmpu: there is no such flag; did you mean --warmup?", NULL);
  refuse_line("--help --mlp_chunk", "did you mean --mlp-chunk?", NULL);
}

static void printed_configuration(void **state) {
  (void)state;
  Options o;
  CommandLine c;
  Capture capture;
  accept_line(&o, &c, "--lr 0.1 --steps 1000000 --plan --keep-attention all");
  flags_print(capture_begin(&capture), &o);
  char *text = capture_end(&capture);
  assert_non_null(strstr(text, " --model demo"));
  assert_non_null(strstr(text, " --lr 0.1 "));
  assert_non_null(strstr(text, " --steps 1000000 "));
  assert_non_null(strstr(text, " --keep-attention all"));
  assert_non_null(strstr(text, " --mlp-chunk auto"));
  assert_non_null(strstr(text, " --plan"));
  assert_null(strstr(text, "--json"));
  assert_null(strstr(text, "--out"));
  for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
    assert_memory_equal(line, "# ", 2);
    assert_true(strcspn(line, "\n") <= 110);
  }
  free(text);
}

static void json(void **state) {
  (void)state;
  Options o;
  CommandLine c;
  Capture capture;
  accept_line(
      &o, &c,
      "--model a\"b\\c\t\xff\xc3\xa9 --train x --lr 0.1 --min-lr 1e-7 --keep-attention all --mlp-chunk 5 "
      "--plan --schedule wsd");
  flags_json(capture_begin(&capture), &o, 2);
  char *text = capture_end(&capture);
  cJSON *root = cJSON_ParseWithOpts(text, NULL, true);
  assert_non_null(root);
  int found = 0;
  for (int i = 0; flags_at(i); i++) {
    const char *name = flags_at(i)->name;
    static const char *const meta[] = {"config", "help", "man", "completion", "version"};
    bool configuration = true;
    for (size_t j = 0; j < sizeof meta / sizeof meta[0]; j++) configuration &= strcmp(name, meta[j]) != 0;
    assert_int_equal(cJSON_GetObjectItemCaseSensitive(root, name) != NULL, configuration);
    found += configuration;
  }
  assert_int_equal(cJSON_GetArraySize(root), found);
#define ITEM(name) cJSON_GetObjectItemCaseSensitive(root, name)
  assert_string_equal(ITEM("model")->valuestring, "a\"b\\c\t\xef\xbf\xbd\xc3\xa9"); /* \xff is not UTF-8 */
  assert_string_equal(ITEM("keep-attention")->valuestring, "all");
  assert_string_equal(ITEM("head-chunk")->valuestring, "auto");
  assert_string_equal(ITEM("schedule")->valuestring, "wsd");
  assert_true(ITEM("mlp-chunk")->valuedouble == 5);
  assert_true(ITEM("lr")->valuedouble == 0.1);
  assert_true(ITEM("min-lr")->valuedouble == 1e-7);
  assert_true(cJSON_IsTrue(ITEM("plan")) && cJSON_IsFalse(ITEM("json")));
  assert_true(cJSON_IsNull(ITEM("val")));
#undef ITEM
  cJSON_Delete(root);
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(table_is_sound), cmocka_unit_test(defaults),
      cmocka_unit_test(values),         cmocka_unit_test(choices),
      cmocka_unit_test(sizes),          cmocka_unit_test(numbers),
      cmocka_unit_test(bad_arguments),  cmocka_unit_test(flags_that_do_not_go_together),
      cmocka_unit_test(help),           cmocka_unit_test(printed_configuration),
      cmocka_unit_test(json),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
