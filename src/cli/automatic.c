#include "cli/automatic.h"

#include <string.h>

#include <cjson/cJSON.h>

#include "cli/flags.h"
#include "cli/setup.h"   /* setup_shape */
#include "io/json_out.h" /* json_string */

enum { VALUE_TEXT = 128 };

static const char *const names[] = {"recompute", "keep-attention", "checkpoint-every", "attn-groups",
                                    "offload",   "offload-update", "mlp-chunk",        "head-chunk"};
enum { NAMES = sizeof names / sizeof *names };

/* The value of flag i, as one would type it. */
static const char *value(char text[VALUE_TEXT], const Options *o, int i) {
  flag_value_text(o, flags_find(names[i]), text, VALUE_TEXT);
  return text;
}

static bool is_open(const Options *o, int i) {
  char text[VALUE_TEXT];
  return strcmp(value(text, o, i), "auto") == 0;
}

static Options settled(const Options *o, const RunShape *shape) {
  Options s = *o;
  s.recompute = (int)shape->recompute;
  s.keep_attention = shape->keep_attention;
  s.checkpoint_every = shape->checkpoint_every;
  s.attn_groups = shape->attn_groups;
  s.offload = (int)shape->offload;
  s.offload_update = (int)shape->host_update;
  s.mlp_chunk = shape->mlp_chunk;
  s.head_chunk = shape->head_chunk;
  return s;
}

void automatic_print(FILE *f, const Options *o, const RunShape *shape) {
  Options chosen = settled(o, shape);
  char text[VALUE_TEXT];
  const char *separator = "";
  for (int i = 0; i < NAMES; i++)
    if (is_open(o, i)) {
      fprintf(f, "%s--%s %s", separator, names[i], value(text, &chosen, i));
      separator = " ";
    }
}

void automatic_json(FILE *f, const Options *o, const RunShape *shape) {
  Options chosen = settled(o, shape);
  char text[VALUE_TEXT];
  const char *separator = "";
  fputc('{', f);
  for (int i = 0; i < NAMES; i++)
    if (is_open(o, i)) {
      fprintf(f, "%s\"%s\": ", separator, names[i]);
      json_string(f, value(text, &chosen, i));
      separator = ", ";
    }
  fputc('}', f);
}

RunShape automatic_read(const Options *o, const char *json) {
  Options chosen = *o;
  cJSON *object = cJSON_Parse(json);
  for (int i = 0; i < NAMES; i++) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, names[i]);
    Error ignored;
    if (is_open(o, i) && cJSON_IsString(item))
      flags_set(&chosen, flags_find(names[i]), item->valuestring, GIVEN_NOT, &ignored);
  }
  RunShape shape = setup_shape(&chosen);
  cJSON_Delete(object);
  return shape;
}
