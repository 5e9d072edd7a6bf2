#include "cli/man.h"

#include <ctype.h>
#include <string.h>

/* Prints text so that roff shows it as it is: a plain - would become a hyphen that cannot be pasted. */
static void put(FILE *out, const char *text) {
  if (*text == '.' || *text == '\'') fputs("\\&", out); /* else a request, at the start of a line */
  for (; *text; text++) {
    if (*text == '-')
      fputs("\\-", out);
    else if (*text == '\\')
      fputs("\\e", out);
    else
      fputc(*text, out);
  }
}

static void put_font(FILE *out, char font, const char *text) {
  fprintf(out, "\\f%c", font);
  put(out, text);
  fputs("\\fR", out);
}

static void put_flag(FILE *out, const FlagTable *t, const Flag *f) {
  fputs(".TP\n\\fB\\-\\-", out);
  put(out, f->name);
  fputs("\\fR", out);
  const char *value = flag_value_name(f);
  if (*value) {
    fputc(' ', out);
    put_font(out, f->value_name ? 'I' : 'R', value);
  }
  fprintf(out, "\n%c", toupper((unsigned char)f->help[0]));
  put(out, f->help + 1);
  fputs(".\n", out);
  if (f->type == FLAG_INT || f->type == FLAG_DOUBLE) {
    char allowed[256];
    flag_allowed(f, allowed, sizeof allowed);
    fputs("Takes ", out);
    put(out, allowed);
    fputs(".\n", out);
  }
  if (t->preset && strstr(value, "PRESET")) {
    fputs("Presets: ", out);
    for (int i = 0; t->preset(i); i++) {
      if (i) fputs(", ", out);
      put(out, t->preset(i));
    }
    fputs(".\n", out);
  }
  if (f->default_value[0]) {
    fputs("Default: ", out);
    put_font(out, 'B', f->default_value);
    fputs(".\n", out);
  }
}

static void put_options(FILE *out, const FlagTable *t) {
  fputs(".SH OPTIONS\n"
        "Whole numbers take K, M, G, T (powers of 1000) and Ki, Mi, Gi, Ti (powers of 1024).\n"
        "A flag is given at most once; \\fB\\-\\-flag=value\\fR is the same as \\fB\\-\\-flag value\\fR.\n",
        out);
  for (int g = 0; g < t->group_count; g++) {
    fprintf(out, ".SS %s\n", t->groups[g]);
    for (int i = 0; i < t->n; i++)
      if (t->flags[i].group == g) put_flag(out, t, &t->flags[i]);
  }
}

void man_print(FILE *out, const FlagTable *t, const ManTexts *texts, const char *version) {
  const char *name = flag_table_name(t);
  fprintf(out, ".\\\" printed by %s \\-\\-man\n.TH ", name);
  for (const char *c = name; *c; c++) fputc(toupper((unsigned char)*c), out);
  fprintf(out, " 1 \"\" \"%s %s\" \"User Commands\"\n.SH NAME\n%s \\- %s\n", name, version, name,
          texts->summary);
  fprintf(out, ".SH SYNOPSIS\n.B %s\n[\\fB\\-\\-\\fIflag\\fR [\\fIvalue\\fR]] ...\n.SH DESCRIPTION\n%s", name,
          texts->description);
  put_options(out, t);
  fputs(texts->sections, out);
}
