/* Flags that are left open, in a run: what is chosen fits the memory there is and changes no number, stays
 * what it was when the run is resumed, and where nothing fits the refusal says what would. The device's
 * memory is what --device-memory says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <cjson/cJSON.h>

#include "test/program.h"

/* All rows are one chunk, whatever else is chosen: so all runs have the same bits, but for groups of heads.
 */
#define TINY                                                                                                 \
  "--steps 2 --warmup 1 --seq-len 128 --batch 4 --threads 1 --eval-every 0 --eval-batches 1 --temperature "  \
  "0 "

/* The fit of a plan with these flags. */
static cJSON *fit_of(const char *flags) {
  char arguments[1024];
  snprintf(arguments, sizeof arguments, TINY "--plan --json %s | head -2 > @/plan.json", flags);
  expect(0, "", arguments);
  Error e;
  char *text = file_read_text(path_of("plan.json"), 1 << 20, NULL, &e);
  if (!text) fail_msg("%s", e.text);
  const char *fit = strstr(text, "\"fit\": ");
  if (!fit) fail_msg("%s: no fit in %s", flags, text);
  cJSON *json = cJSON_ParseWithOpts(fit + 7, NULL, false);
  assert_non_null(json);
  free(text);
  return json;
}

static double number_of(const cJSON *json, const char *name) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
  if (!cJSON_IsNumber(item)) fail_msg("\"%s\" is no number", name);
  return item->valuedouble;
}

static bool is_true(const cJSON *json, const char *name) {
  return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, name));
}

static const char *chosen_of(const cJSON *fit, const char *flag) {
  const cJSON *automatic = cJSON_GetObjectItemCaseSensitive(fit, "automatic");
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(automatic, flag);
  return cJSON_IsString(item) ? item->valuestring : "";
}

static long long bytes_of(const char *flags) {
  cJSON *fit = fit_of(flags);
  long long bytes = (long long)number_of(fit, "device_bytes");
  cJSON_Delete(fit);
  return bytes;
}

/* The log's losses and norms of a run with these flags, one a line. */
static char *losses_of(const char *name, const char *flags) {
  char arguments[1024];
  snprintf(arguments, sizeof arguments, TINY "--out @/%s %s", name, flags);
  expect(0, "saved", arguments);
  snprintf(arguments, sizeof arguments, "sed 's/\"lr\".*//' %s/%s/log.jsonl", folder, name);
  assert_int_equal(shell(arguments), 0);
  assert_true(strlen(said) > 100);
  return strdup(said);
}

/* Each rung of the ladder: with the memory that it takes, to the byte, a run chooses it, or what is faster
 * and takes no more; the numbers are those of the run that has all the memory. */
static void every_rung_has_the_same_numbers(void **state) {
  (void)state;
  static const struct {
    const char *rung;            /* as flags */
    const char *open;            /* the flags of the run; the others are its choice */
    const char *flag, *expected; /* what tells the choice from others */
  } rungs[] = {
      {"--recompute none", "--offload none", "recompute", "none"},
      {"--recompute mlp", "--offload none", "recompute", "mlp"},
      {"--keep-attention all", "--offload none", "keep-attention", "all"},
      {"--keep-attention 2", "--offload none", "keep-attention", "2"},
      {"--keep-attention 0", "--offload none", "keep-attention", "1"}, /* takes no more */
      {"--keep-attention 0 --checkpoint-every 2", "--offload none", "checkpoint-every", "2"},
      {"--keep-attention 0 --offload optimizer", "", "offload", "checkpoints,attention,optimizer"},
      {"--keep-attention 0 --offload checkpoints,optimizer,gradients", "", "offload",
       "checkpoints,attention,optimizer,gradients,weights"},
      {"--keep-attention 0 --offload checkpoints,optimizer", "--offload checkpoints,optimizer",
       "checkpoint-every", "1"},
  };
  char *plain = losses_of("plain", "");
  for (size_t i = 0; i < sizeof rungs / sizeof *rungs; i++) {
    char flags[512], name[32];
    snprintf(flags, sizeof flags, "--attn-groups 1 --device-memory 1000G --recompute %s %s",
             strstr(rungs[i].rung, "--recompute") ? strchr(rungs[i].rung, ' ') : "layer",
             strstr(rungs[i].rung, "--recompute") ? "--offload none" : rungs[i].rung);
    long long bytes = bytes_of(flags);
    snprintf(flags, sizeof flags, "--attn-groups 1 --device-memory %lld %s", bytes, rungs[i].open);
    cJSON *fit = fit_of(flags);
    if (!is_true(fit, "fits") || number_of(fit, "device_bytes") > (double)bytes)
      fail_msg("%s: does not fit its own %lld bytes", rungs[i].rung, bytes);
    if (strcmp(chosen_of(fit, rungs[i].flag), rungs[i].expected) != 0)
      fail_msg("%s: chose %s", rungs[i].rung, cJSON_PrintUnformatted(fit));
    cJSON_Delete(fit);
    snprintf(name, sizeof name, "rung%zu", i);
    char *found = losses_of(name, flags);
    if (strcmp(found, plain) != 0) fail_msg("%s: other numbers:\n%s\nexpected\n%s", flags, found, plain);
    free(found);
  }
  free(plain);
}

/* From what is on the host, the CPU makes the weights that the device makes. */
static void the_cpu_updates_the_same(void **state) {
  (void)state;
#define HOSTED "--dtype bf16 --master fp32 --grad-accum 2 --offload optimizer,gradients,weights "
  char *streamed = losses_of("streamed", HOSTED "--offload-update stream");
  char *updated = losses_of("updated", HOSTED "--offload-update cpu");
  assert_string_equal(updated, streamed);
  free(updated);
  free(streamed);
  expect(
      0, "files agree",
      "--version; cmp @/streamed/step-00000002/model.safetensors @/updated/step-00000002/model.safetensors "
      "&& "
      "cmp @/streamed/step-00000002/optimizer.safetensors @/updated/step-00000002/optimizer.safetensors && "
      "echo files agree");
}

/* Groups of heads add in another order: the numbers are those of the run that is told to have them. */
static void groups_are_those_that_could_be_given(void **state) {
  (void)state;
#define FIXED "--recompute layer --keep-attention 0 --checkpoint-every 1 --offload none "
  char flags[256];
  snprintf(flags, sizeof flags, FIXED "--device-memory %lld",
           bytes_of(FIXED "--attn-groups 2 --device-memory 1000G"));
  char *chosen = losses_of("chosen", flags), *given = losses_of("given", FIXED "--attn-groups 2");
  expect(0, "{\"attn-groups\": \"2\", ", "--version; grep automatic @/chosen/run.json");
  assert_string_equal(chosen, given);
  free(chosen);
  free(given);
}

/* On the CPU, too, nothing is computed again where there is room to spare, and nothing is moved from memory
 * to memory. */
static void ample_memory_is_used_for_speed(void **state) {
  (void)state;
  cJSON *fit = fit_of("");
  assert_true(is_true(fit, "fits") && is_true(fit, "one_memory"));
  assert_string_equal(chosen_of(fit, "recompute"), "none");
  assert_string_equal(chosen_of(fit, "keep-attention"), "0");
  assert_string_equal(chosen_of(fit, "checkpoint-every"), "1");
  assert_string_equal(chosen_of(fit, "attn-groups"), "1");
  assert_string_equal(chosen_of(fit, "offload"), "none");
  assert_true(number_of(fit, "free_bytes") > number_of(fit, "device_bytes"));
  assert_true(number_of(fit, "missing_bytes") == 0);
  cJSON_Delete(fit);
  fit = fit_of("--recompute mlp --mlp-chunk 0");
  assert_string_equal(chosen_of(fit, "recompute"), ""); /* what was given is no choice */
  assert_string_equal(chosen_of(fit, "mlp-chunk"), "");
  assert_string_equal(chosen_of(fit, "head-chunk"), "512");
  cJSON_Delete(fit);
  fit = fit_of("--plan-device h100 --model llama3-8b --dtype bf16");
  assert_true(is_true(fit, "fits") == (number_of(fit, "missing_bytes") == 0));
  assert_true(number_of(fit, "free_bytes") == 85e9 && number_of(fit, "free_host_bytes") == 0);
  cJSON_Delete(fit);
}

/* A resumed run takes what the saved one chose, whatever memory there is now, as long as it fits. */
static void a_resumed_run_chooses_the_same(void **state) {
  (void)state;
  char chosen[256];
  expect(0, "# automatic: --recompute layer", TINY "--out @/resumed --device-memory 28M --stop-after 1");
  const char *line = strstr(said, "# automatic: ");
  snprintf(chosen, sizeof chosen, "%.*s", (int)strcspn(line, "\n"), line);
  expect(0, chosen, TINY "--out @/resumed --resume --device-memory 1000G --stop-after 1");
  expect(0, "# automatic: --recompute none", TINY "--device-memory 1000G --plan");
  expect(0, "chosen anew", TINY "--out @/resumed --resume --device-memory 24M");
  assert_null(strstr(said, chosen));
  Error e;
  char *text = file_read_text(path_of("resumed/step-00000001/trainer.json"), 1 << 20, NULL, &e);
  assert_non_null(strstr(text, "\"automatic\": {\"recompute\": \"layer\", \"keep-attention\": "));
  free(text);
}

/* What is recorded and cannot be is passed over. */
static void a_damaged_record_is_passed_over(void **state) {
  (void)state;
  char command[512];
  expect(0, "saved", TINY "--out @/damaged --stop-after 1");
  snprintf(command, sizeof command,
           "sed -i 's/\"attn-groups\": \"1\"/\"attn-groups\": \"3\"/; s/\"recompute\": "
           "\"none\"/\"recompute\": 7/' "
           "%s/damaged/step-00000001/trainer.json",
           folder);
  assert_int_equal(shell(command), 0);
  expect(0, "--attn-groups 1", TINY "--out @/damaged --resume");
}

/* What the refusal says would help does. */
static void the_refusal_helps(void **state) {
  (void)state;
#define NOTHING_MOVES                                                                                        \
  "--recompute layer --offload none --attn-groups 1 --keep-attention 0 --checkpoint-every 1 "
  static const char *const would[] = {"--update layer --clip 0", "--moments 8bit",
                                      "--moments 8bit --update layer --clip 0"};
  static const char *const accumulate[] = {"", "--grad-accum 2 ", ""};
  for (int i = 0; i < 3; i++) {
    char flags[512], arguments[1024];
    snprintf(flags, sizeof flags, NOTHING_MOVES "%s%s --device-memory 1000G", accumulate[i], would[i]);
    long long bytes = bytes_of(flags);
    snprintf(arguments, sizeof arguments, TINY NOTHING_MOVES "%s--out @/refused --device-memory %lld",
             accumulate[i], bytes);
    expect(EXIT_USAGE, " are missing.", arguments);
    assert_false(exists("refused"));
    snprintf(flags, sizeof flags, "With other numbers it would: %s ", would[i]);
    if (!strstr(said, flags)) fail_msg("expected \"%s\" in\n%s", flags, said);
    snprintf(arguments, sizeof arguments, TINY NOTHING_MOVES "%s%s --device-memory %lld", accumulate[i],
             would[i], bytes);
    expect(0, "step     2/2", arguments);
  }
  expect(EXIT_USAGE, "shorten --seq-len", TINY "--device-memory 1M");
  cJSON *fit = fit_of("--device-memory 1M");
  assert_false(is_true(fit, "fits"));
  assert_true(number_of(fit, "least_missing_bytes") > 1e6);
  assert_true(number_of(fit, "missing_bytes") > number_of(fit, "least_missing_bytes"));
  assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(fit, "other_numbers")));
  cJSON_Delete(fit);
  expect(0, "are missing at the leanest", TINY "--device-memory 1M --plan");
  expect(EXIT_USAGE, "are missing.", TINY "--device-memory 20M --host-memory 1M");
}

/* Weights that are on the host write the same text. */
static void text_of_weights_on_the_host(void **state) {
  (void)state;
  expect(0, "saved", TINY "--out @/writer --save-every 2");
#define WRITE "--model @/writer/step-00000002 --generate 'The tale' --max-new 40 --threads 1 2>/dev/null "
  expect(0, "The tale", WRITE);
  char *resident = strdup(said);
  expect(0, "The tale", WRITE "--offload weights");
  assert_string_equal(said, resident);
  free(resident);
  expect(0, "sample", TINY "--sample-every 1");
  resident = strdup(strstr(said, "---- sample"));
  *strstr(resident, "step ") = '\0'; /* the first sample: what follows has times in it */
  expect(0, "sample", TINY "--sample-every 1 --offload weights,optimizer");
  assert_non_null(strstr(said, resident));
  free(resident);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_rung_has_the_same_numbers),
      cmocka_unit_test(groups_are_those_that_could_be_given),
      cmocka_unit_test(the_cpu_updates_the_same),
      cmocka_unit_test(ample_memory_is_used_for_speed),
      cmocka_unit_test(a_resumed_run_chooses_the_same),
      cmocka_unit_test(a_damaged_record_is_passed_over),
      cmocka_unit_test(the_refusal_helps),
      cmocka_unit_test(text_of_weights_on_the_host),
  };
  return cmocka_run_group_tests(tests, program_setup, program_teardown);
}
