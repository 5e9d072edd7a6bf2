/* Plans for cards that are not here: what they find fits, and nothing longer does. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "device/cards.h"
#include "llama/planner.h"

typedef struct Case {
  Config config;
  Device dev;
  Card card;
  PlanTarget target;
  RunShape shape;
} Case;

/* bf16, updated layer by layer, one sequence of 32Ki tokens, everything left open. */
static void case_open(Case *k, const char *model, const char *card, DType moments) {
  Error e;
  memset(k, 0, sizeof *k);
  assert_true(config_preset(&k->config, model));
  if (!card_find(&k->card, "plan-device", card, &e)) fail_msg("%s", e.text);
  card_device(&k->dev, &k->card, false);
  k->target = (PlanTarget){.config = &k->config,
                           .dev = &k->dev,
                           .device_bytes = k->card.bytes - CARD_OVERHEAD,
                           .flops = k->card.flops,
                           .memory = k->card.memory,
                           .link = k->card.link,
                           .threads = CARD_HOST_THREADS};
  k->shape = (RunShape){.A = 1,
                        .B = 1,
                        .T = 32768,
                        .dtype = DT_BF16,
                        .moments = moments,
                        .recompute = RECOMPUTE_AUTO,
                        .keep_attention = KEEP_AUTO,
                        .checkpoint_every = EVERY_AUTO,
                        .offload = OFFLOAD_AUTO,
                        .host_update = HOST_UPDATE_AUTO,
                        .update = UPDATE_LAYER,
                        .mlp_chunk = CHUNK_AUTO,
                        .head_chunk = CHUNK_AUTO,
                        .attn_groups = GROUPS_AUTO,
                        .training = true};
}

static void case_close(Case *k) {
  config_free(&k->config);
}

static int64_t bytes_of(const Case *k, const RunShape *shape, PlanSpace space) {
  Schedule *s = schedule_new(&k->config, shape, &k->dev);
  int64_t bytes = plan_bytes(s->plan, space);
  schedule_free(s);
  return bytes;
}

/* The lengths that the project promises for a card of 80e9 bytes, in thousands of tokens; docs/results.md has
 * all of them. */
static void promised_lengths(void **state) {
  (void)state;
  static const struct {
    const char *model;
    DType moments;
    bool every_layer;
    int64_t host, thousands;
  } rows[] = {
      {"llama3-8b", DT_BF16, true, 0, 95},
      {"llama3-8b", DT_BF16, false, 0, 235},
      {"llama3-8b", DT_U8, true, 0, 145},
      {"llama3-8b", DT_U8, false, 0, 360},
      {"llama2-7b", DT_BF16, true, 0, 115},
      {"mistral-7b", DT_BF16, true, 0, 110},
      {"qwen2-7b", DT_BF16, true, 0, 130},
      {"llama3.2-1b", DT_BF16, true, 0, 820},
      {"llama3-8b", DT_BF16, false, 512000000000, 1300},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Case k;
    PlannedRun best;
    case_open(&k, rows[i].model, "80G", rows[i].moments);
    if (rows[i].every_layer) k.shape.checkpoint_every = 1;
    k.target.host_bytes = rows[i].host;
    assert_true(planner_longest(&best, &k.target, &k.shape));
    if (best.shape.T < rows[i].thousands * 1000)
      fail_msg("%s, row %zu: %lld tokens", rows[i].model, i, (long long)best.shape.T);
    assert_true(best.device_bytes <= 79000000000);
    assert_int_equal(bytes_of(&k, &best.shape, SPACE_DEVICE), best.device_bytes);
    if (rows[i].host) assert_true(bytes_of(&k, &best.shape, SPACE_HOST) <= rows[i].host);
    case_close(&k);
  }
}

/* No step more fits with any of the flags, though bytes do not grow with every step: in the later rows, the
 * longest lies beyond lengths that do not fit. */
static void nothing_longer_fits(void **state) {
  (void)state;
  static const struct {
    const char *model, *card;
    DType moments;
    int64_t every;
  } rows[] = {{"llama3.2-1b", "rtx4070", DT_U8, EVERY_AUTO},
              {"llama3.2-1b", "12G", DT_BF16, 1},
              {"llama3.2-3b", "24G", DT_BF16, 1}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Case k;
    PlannedRun best, longer;
    case_open(&k, rows[i].model, rows[i].card, rows[i].moments);
    k.shape.checkpoint_every = rows[i].every;
    assert_true(planner_longest(&best, &k.target, &k.shape));
    assert_int_equal(best.shape.T % LENGTH_STEP, 0);
    for (int64_t steps = 1; steps <= 8; steps++) {
      k.shape.T = best.shape.T + steps * LENGTH_STEP;
      if (planner_fastest(&longer, &k.target, &k.shape))
        fail_msg("row %zu: %lld is not the longest, %lld fits", i, (long long)best.shape.T,
                 (long long)k.shape.T);
      assert_true(longer.device_bytes > k.target.device_bytes);
    }
    case_close(&k);
  }
}

/* With room to spare nothing is computed again; as it gets scarce, the chosen run gets slower, never larger
 * than what there is. */
static void less_memory_costs_time(void **state) {
  (void)state;
  Case k;
  PlannedRun best;
  case_open(&k, "llama3.2-1b", "h200", DT_BF16);
  assert_true(planner_fastest(&best, &k.target, &k.shape));
  assert_int_equal(best.shape.recompute, RECOMPUTE_NONE);
  assert_int_equal(best.shape.attn_groups, 1);
  double seconds = best.seconds;
  int64_t all = best.device_bytes;
  for (int64_t part = 9; part >= 2; part--) {
    k.target.device_bytes = all / 10 * part;
    if (!planner_fastest(&best, &k.target, &k.shape)) break;
    assert_true(best.device_bytes <= k.target.device_bytes);
    assert_true(best.seconds >= seconds * (1 - 1e-9));
    seconds = best.seconds;
  }
  assert_int_equal(best.shape.recompute, RECOMPUTE_LAYER);
  case_close(&k);
}

/* What the user gave stays. */
static void given_flags_stay(void **state) {
  (void)state;
  Case k;
  PlannedRun best;
  case_open(&k, "llama3.2-1b", "h200", DT_BF16);
  k.shape.recompute = RECOMPUTE_LAYER;
  k.shape.offload = 0;
  k.shape.checkpoint_every = 4;
  k.shape.keep_attention = 2;
  k.shape.attn_groups = 1;
  assert_true(planner_fastest(&best, &k.target, &k.shape));
  assert_int_equal(best.shape.recompute, RECOMPUTE_LAYER);
  assert_int_equal(best.shape.checkpoint_every, 4);
  assert_int_equal(best.shape.keep_attention, 2);
  assert_int_equal(best.shape.offload, 0);
  case_close(&k);
}

/* Where the machine's memory is the device's, both plans together have to fit, and nothing is moved from one
 * to the other. */
static void one_memory(void **state) {
  (void)state;
  Case k;
  PlannedRun best;
  case_open(&k, "llama3.2-1b", "h200", DT_BF16);
  k.target.one_memory = true;
  k.target.host_bytes = 1000000000000;
  PlannedRun defaults = planner_plan(&k.target, &k.shape);
  k.target.device_bytes = defaults.device_bytes + defaults.host_bytes;
  assert_int_equal(planner_missing(&k.target, &defaults), 0);
  k.target.device_bytes--;
  assert_int_equal(planner_missing(&k.target, &defaults), 1);
  assert_true(planner_fastest(&best, &k.target, &k.shape));
  assert_true(best.device_bytes + best.host_bytes <= k.target.device_bytes);
  assert_int_equal(best.shape.offload, 0);
  case_close(&k);
}

/* What is faster takes no more than its part of what the defaults leave; where they do not fit, there is
 * nothing to spare. */
static void a_part_is_for_speed(void **state) {
  (void)state;
  Case k;
  PlannedRun best, lean;
  case_open(&k, "llama3.2-1b", "h200", DT_BF16);
  k.target.one_memory = true;
  PlannedRun defaults = planner_plan(&k.target, &k.shape);
  RunShape none = k.shape;
  none.recompute = RECOMPUTE_NONE;
  PlannedRun fastest = planner_plan(&k.target, &none);
  int64_t least = defaults.device_bytes + defaults.host_bytes,
          most = fastest.device_bytes + fastest.host_bytes;
  k.target.part_for_speed = 2;
  for (int less = 0; less < 2; less++) {
    k.target.device_bytes = least + 2 * (most - least) - 2 * less;
    assert_true(planner_fastest(&best, &k.target, &k.shape));
    assert_int_equal(best.shape.recompute == RECOMPUTE_NONE, !less);
    assert_true(best.seconds < defaults.seconds);
    assert_true(best.device_bytes + best.host_bytes <= most - less);
  }
  k.target.device_bytes = least;
  assert_true(planner_fastest(&best, &k.target, &k.shape));
  assert_true(best.seconds <= defaults.seconds);
  for (int part = 0; part < 3; part += 2) { /* then every byte counts, whatever the part is */
    k.target.part_for_speed = part;
    k.target.device_bytes = least * 9 / 10;
    assert_true(planner_fastest(part ? &best : &lean, &k.target, &k.shape));
  }
  assert_int_equal(best.device_bytes, lean.device_bytes);
  case_close(&k);
}

/* Groups of heads: one where there is room, else as few as fit. */
static void as_few_groups_as_fit(void **state) {
  (void)state;
  static const int64_t groups[] = {1, 2, 4, 8};
  Case k;
  PlannedRun best;
  int64_t bytes[4];
  case_open(&k, "llama3-8b", "h100", DT_BF16);
  k.shape.T = 1 << 18;
  k.shape = schedule_defaults(&k.shape);
  for (int i = 0; i < 4; i++) {
    k.shape.attn_groups = groups[i];
    bytes[i] = bytes_of(&k, &k.shape, SPACE_DEVICE);
    assert_true(i == 0 || bytes[i] < bytes[i - 1]);
  }
  k.shape.attn_groups = GROUPS_AUTO;
  for (int i = 0; i < 4; i++)
    for (int less = 0; less < 2; less++) {
      k.target.device_bytes = bytes[i] - less;
      assert_int_equal(planner_fastest(&best, &k.target, &k.shape), i + less < 4);
      assert_int_equal(best.shape.attn_groups, groups[i + less < 4 ? i + less : 3]);
    }
  assert_int_equal(planner_missing(&k.target, &best), 1);
  case_close(&k);
}

/* Of the attention, as many layers keep it as there is room for, in quarters; and what is kept is only moved
 * where there is any. */
static void parts_of_the_attention_are_kept(void **state) {
  (void)state;
  Case k;
  PlannedRun best;
  case_open(&k, "llama3.2-1b", "h100", DT_BF16);
  k.shape.recompute = RECOMPUTE_LAYER;
  k.shape.checkpoint_every = k.shape.attn_groups = 1;
  k.shape.offload = 0;
  for (int64_t kept = 16; kept >= 0; kept -= 4) {
    RunShape exact = k.shape;
    exact.keep_attention = kept;
    k.target.device_bytes = bytes_of(&k, &exact, SPACE_DEVICE);
    assert_true(planner_fastest(&best, &k.target, &k.shape));
    assert_int_equal(best.shape.keep_attention, kept == 16 ? KEEP_ALL : kept);
  }
  k.shape.keep_attention = 0;
  k.shape.offload = OFFLOAD_AUTO;
  k.target.host_bytes = 1000000000000;
  k.target.device_bytes /= 4;
  planner_fastest(&best, &k.target, &k.shape);
  assert_true((best.shape.offload & OFFLOAD_CHECKPOINTS) && !(best.shape.offload & OFFLOAD_ATTENTION));
  case_close(&k);
}

/* Who updates from what is on the host: the CPU where it has threads enough for the number format. */
static void the_cpu_updates_where_it_is_faster(void **state) {
  (void)state;
  static const struct {
    DType moments;
    bool master;
    int threads;
    HostUpdate expected;
  } rows[] = {{DT_FP32, true, 16, HOST_UPDATE_CPU},
              {DT_FP32, true, 1, HOST_UPDATE_STREAM},
              {DT_BF16, false, 16, HOST_UPDATE_STREAM},
              {DT_BF16, false, 128, HOST_UPDATE_CPU},
              {DT_U8, false, 128, HOST_UPDATE_STREAM}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    Case k;
    PlannedRun best;
    case_open(&k, "llama3-8b", "h100", rows[i].moments);
    k.target.host_bytes = 1000000000000;
    k.target.threads = rows[i].threads;
    k.shape.update = UPDATE_STEP;
    k.shape.master = rows[i].master;
    k.shape.offload = OFFLOAD_CHECKPOINTS | OFFLOAD_OPTIMIZER | OFFLOAD_GRADIENTS;
    assert_true(planner_fastest(&best, &k.target, &k.shape));
    assert_int_equal(best.shape.host_update, rows[i].expected);
    k.shape.host_update = rows[i].expected == HOST_UPDATE_CPU ? HOST_UPDATE_STREAM : HOST_UPDATE_CPU;
    PlannedRun other;
    assert_true(planner_fastest(&other, &k.target, &k.shape));
    assert_int_equal(other.shape.host_update, k.shape.host_update);
    assert_true(other.seconds >= best.seconds);
    case_close(&k);
  }
}

/* Where the layers' weights are on the host as well, hardly any have to move for the CPU's update, and all of
 * them for the device's. */
static void weights_on_the_host_are_updated_there(void **state) {
  (void)state;
  Case k;
  case_open(&k, "llama3-8b", "h100", DT_FP32);
  k.shape = schedule_defaults(&k.shape);
  k.shape.update = UPDATE_STEP;
  k.shape.offload = OFFLOAD_OPTIMIZER | OFFLOAD_GRADIENTS;
  k.target.threads = 1000;
  double seconds[2][2]; /* weights on the device, on the host; streamed, by the CPU */
  for (int on_host = 0; on_host < 2; on_host++, k.shape.offload |= OFFLOAD_WEIGHTS)
    for (int by_cpu = 0; by_cpu < 2; by_cpu++) {
      k.shape.host_update = by_cpu ? HOST_UPDATE_CPU : HOST_UPDATE_STREAM;
      seconds[on_host][by_cpu] = planner_seconds(&k.target, &k.shape);
    }
  assert_true(seconds[1][0] > seconds[0][0]);
  assert_true(seconds[1][1] < seconds[0][1]);
  case_close(&k);
}

/* Beyond the length where all heads fit together, attention is kept on the host. */
static void groups_keep_their_attention_on_the_host(void **state) {
  (void)state;
  Case k;
  PlannedRun best, again;
  case_open(&k, "llama3-8b", "h100", DT_BF16);
  k.target.host_bytes = 512000000000;
  k.shape.T = 1000000;
  assert_true(planner_fastest(&best, &k.target, &k.shape));
  assert_true(best.shape.attn_groups > 1 && best.shape.keep_attention != 0);
  assert_true(best.shape.offload & OFFLOAD_ATTENTION);
  k.shape.keep_attention = 0;
  assert_true(planner_fastest(&again, &k.target, &k.shape));
  assert_true(best.seconds < 0.85 * again.seconds);
  case_close(&k);
}

static void flags_that_suit_the_model(void **state) {
  (void)state;
  Case k;
  case_open(&k, "llama3-8b", "h100", DT_BF16);
  assert_true(planner_allows(&k.config, &k.shape));
  static const int64_t wrong_groups[] = {3, 16, -1};
  for (int i = 0; i < 3; i++) {
    RunShape r = k.shape;
    r.attn_groups = wrong_groups[i];
    assert_false(planner_allows(&k.config, &r));
  }
  RunShape r = k.shape;
  r.recompute = RECOMPUTE_MLP;
  assert_true(planner_allows(&k.config, &r));
  r.keep_attention = KEEP_ALL;
  assert_false(planner_allows(&k.config, &r));
  r = k.shape;
  r.offload = OFFLOAD_ATTENTION;
  assert_false(planner_allows(&k.config, &r));
  case_close(&k);
}

/* The cost model's order: what is computed again costs, what moves too slowly costs, a window saves. */
static void costs_are_ordered(void **state) {
  (void)state;
  Case k;
  case_open(&k, "llama3-8b", "h100", DT_BF16);
  k.shape = schedule_defaults(&k.shape);
  RunShape none = k.shape, mlp = k.shape, layer = k.shape, kept = k.shape, segments = k.shape,
           moved = k.shape;
  none.recompute = RECOMPUTE_NONE;
  mlp.recompute = RECOMPUTE_MLP;
  kept.keep_attention = KEEP_ALL;
  segments.checkpoint_every = 4;
  moved.offload = OFFLOAD_OPTIMIZER;
  double t[] = {planner_seconds(&k.target, &none), planner_seconds(&k.target, &mlp),
                planner_seconds(&k.target, &kept), planner_seconds(&k.target, &layer),
                planner_seconds(&k.target, &segments)};
  for (int i = 0; i + 1 < 5; i++) assert_true(t[i] < t[i + 1]);
  assert_true(t[3] < planner_seconds(&k.target, &moved));
  RunShape grouped = k.shape, chunked = k.shape, head_chunked = k.shape, evaluated = k.shape;
  grouped.attn_groups = 2;
  chunked.mlp_chunk = head_chunked.head_chunk = 1024;
  evaluated.training = false;
  assert_true(t[3] < planner_seconds(&k.target, &grouped));
  assert_true(t[3] < planner_seconds(&k.target, &chunked));
  assert_true(t[3] < planner_seconds(&k.target, &head_chunked));
  assert_true(t[0] > 2.9 * planner_seconds(&k.target, &evaluated));
  /* 6 operations a parameter and token in the products, and 12 T C a token and layer, halved, in the
   * attention */
  double parameters = 8.03e9 - 128256.0 * 4096, tokens = 32768;
  double least = (6 * parameters * tokens + 6 * tokens * tokens * 4096 * 32) / k.target.flops;
  assert_true(t[0] > least / 0.76 && t[0] < least / 0.45);
  for (int64_t l = 0; l < k.config.L; l++) k.config.layers[l].window = 1024;
  assert_true(planner_seconds(&k.target, &layer) < 0.8 * t[3]);
  case_close(&k);
}

/* Where the same bits are wanted, the own backward is planned with, whose workspace is a number a row; the
 * forward is cuDNN's, but not of packed documents. */
static void the_same_bits_take_another_attention(void **state) {
  (void)state;
  Card card;
  Device plain, deterministic;
  Error e;
  const AttentionShape s = {.B = 1, .T = 65536, .NH = 32, .NKV = 8, .HS = 128, .scale = 1};
  if (!card_find(&card, "plan-device", "h100", &e)) fail_msg("%s", e.text);
  card_device(&plain, &card, false);
  card_device(&deterministic, &card, true);
  assert_true(attention_backward_workspace(&plain, DT_BF16, &s) > (size_t)2 << 30);
  assert_int_equal(attention_backward_workspace(&deterministic, DT_BF16, &s), 32 * 65536 * 4);
  assert_int_equal(attention_forward_workspace(&deterministic, DT_BF16, &s),
                   attention_forward_workspace(&plain, DT_BF16, &s));
  assert_true(attention_forward_workspace(&deterministic, DT_BF16, &s) > 0);
  AttentionShape packed = s;
  packed.packed = true;
  assert_int_equal(attention_backward_workspace(&deterministic, DT_BF16, &packed), 32 * 65536 * 4);
  assert_int_equal(attention_forward_workspace(&deterministic, DT_BF16, &packed), 0);
  assert_int_equal(attention_list_bytes(&deterministic, DT_BF16, &packed), 0);
}

/* Packed documents: on an A100 they are for the own attention, which asks for a number a query and head; on
 * an H100 for cuDNN, with a list of them in both memories. */
static void packed_runs(void **state) {
  (void)state;
  static const char *const cards[] = {"a100", "h100"};
  for (int i = 0; i < 2; i++) {
    Case k;
    case_open(&k, "llama3-8b", cards[i], DT_BF16);
    AttentionShape a = schedule_run_attention(&k.config, 0, &k.shape, 1);
    size_t rows = (size_t)(k.shape.T * k.config.NH) * 4,
           not_packed = attention_backward_workspace(&k.dev, DT_BF16, &a);
    assert_true(not_packed > rows);
    assert_int_equal(attention_list_bytes(&k.dev, DT_BF16, &a), 0);
    k.shape.pack = true;
    a = schedule_run_attention(&k.config, 0, &k.shape, 1);
    size_t forward = attention_forward_workspace(&k.dev, DT_BF16, &a);
    size_t backward = attention_backward_workspace(&k.dev, DT_BF16, &a);
    size_t list = attention_list_bytes(&k.dev, DT_BF16, &a);
    Schedule *s = schedule_new(&k.config, &k.shape, &k.dev);
    if (i == 0) {
      assert_int_equal(backward, rows);
      assert_int_equal(forward + list, 0);
      assert_int_equal(s->documents, NO_BUFFER);
      assert_int_equal(s->host_documents, NO_BUFFER);
    } else {
      assert_true(backward > not_packed && forward > 0);
      assert_int_equal(plan_buffer_bytes(s->plan, s->attention_workspace), backward);
      assert_int_equal(plan_buffer_bytes(s->plan, s->documents), list);
      assert_int_equal(plan_buffer_bytes(s->plan, s->host_documents), list);
      assert_int_equal(plan_buffer_space(s->plan, s->host_documents), SPACE_HOST);
    }
    schedule_free(s);
    case_close(&k);
  }
}

static void cards_by_name_and_size(void **state) {
  (void)state;
  Error e;
  Card card;
  assert_true(card_find(&card, "plan-device", "h100", &e));
  assert_true(card.bytes == 85000000000 && card.capability == 90);
  assert_true(card_find(&card, "plan-device", "80G", &e));
  assert_true(card.bytes == 80000000000);
  assert_true(card_find(&card, "plan-device", "24Gi", &e));
  assert_true(card.bytes == (int64_t)24 << 30);
  static const char *const wrong[] = {"h1000", "80", "80GB", "-3G", "0.5G", "", "nan", "1e30G"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    if (card_find(&card, "plan-device", wrong[i], &e)) fail_msg("%s was taken", wrong[i]);
    assert_int_equal(e.code, EXIT_USAGE);
    assert_non_null(strstr(e.text, "rtx4090"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(promised_lengths),
      cmocka_unit_test(nothing_longer_fits),
      cmocka_unit_test(less_memory_costs_time),
      cmocka_unit_test(given_flags_stay),
      cmocka_unit_test(costs_are_ordered),
      cmocka_unit_test(cards_by_name_and_size),
      cmocka_unit_test(packed_runs),
      cmocka_unit_test(one_memory),
      cmocka_unit_test(a_part_is_for_speed),
      cmocka_unit_test(as_few_groups_as_fit),
      cmocka_unit_test(parts_of_the_attention_are_kept),
      cmocka_unit_test(weights_on_the_host_are_updated_there),
      cmocka_unit_test(groups_keep_their_attention_on_the_host),
      cmocka_unit_test(flags_that_suit_the_model),
      cmocka_unit_test(the_cpu_updates_where_it_is_faster),
      cmocka_unit_test(the_same_bits_take_another_attention),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
