#include "cli/completion.h"

#include <string.h>

/* What a flag's value may be beside words; its placeholder tells. */
typedef enum Place { PLACE_NONE, PLACE_FOLDER, PLACE_FILE } Place;

static Place place_of(const Flag *f) {
  const char *name = flag_value_name(f);
  if (f->type != FLAG_STRING || f->choices) return PLACE_NONE;
  return strstr(name, "DIR") ? PLACE_FOLDER : PLACE_FILE;
}

static bool takes_preset(const FlagTable *t, const Flag *f) {
  return t->preset && strstr(flag_value_name(f), "PRESET");
}

/* True when the flag allows some words that can be listed. */
static bool has_words(const FlagTable *t, const Flag *f) {
  return f->choices || f->words[0].name || takes_preset(t, f);
}

/* Prints them, separated by blanks. */
static void print_words(FILE *out, const FlagTable *t, const Flag *f) {
  for (const char *c = f->choices ? f->choices : ""; *c; c++) fputc(*c == '|' ? ' ' : *c, out);
  for (int i = 0; i < FLAG_WORDS && f->words[i].name; i++)
    fprintf(out, "%s%s", i ? " " : "", f->words[i].name);
  for (int i = 0; takes_preset(t, f) && t->preset(i); i++) fprintf(out, "%s%s", i ? " " : "", t->preset(i));
}

static bool takes_value(const Flag *f) {
  return f->type != FLAG_BOOL && f->type != FLAG_HELP;
}

/* The names of all flags, each after `before`. */
static void print_names(FILE *out, const FlagTable *t, const char *before) {
  for (int i = 0; i < t->n; i++) fprintf(out, "%s%s", before, t->flags[i].name);
}

static void print_bash(FILE *out, const FlagTable *t) {
  const char *name = flag_table_name(t);
  fprintf(out, "# bash completion for %s, printed by `%s --completion bash`\n_%s() {\n", name, name, name);
  fputs("  local cur=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]} words='' options=''\n"
        "  # --flag=value comes as three words\n"
        "  if [[ $cur == = ]]; then\n"
        "    cur=''\n"
        "  elif [[ $flag == = ]]; then\n"
        "    flag=${COMP_WORDS[COMP_CWORD - 2]}\n"
        "  fi\n"
        "  case $flag in\n",
        out);
  for (int i = 0; i < t->n; i++) {
    const Flag *f = &t->flags[i];
    static const char *const options[] = {"", " options='-o plusdirs -o filenames'", " options='-o default'"};
    if (!takes_value(f)) continue;
    fprintf(out, "  --%s)", f->name);
    if (has_words(t, f)) fputs(" words='", out);
    print_words(out, t, f);
    fprintf(out, "%s%s ;;\n", has_words(t, f) ? "'" : "", options[place_of(f)]);
  }
  fputs("  *)\n    words='", out);
  print_names(out, t, " --");
  fputs("'\n"
        "    if [[ $flag == --help && $cur != -* ]]; then words=${words//--/}; fi\n"
        "    ;;\n"
        "  esac\n"
        "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
        "  # shellcheck disable=SC2086 # options are words\n"
        "  if [[ $options ]]; then compopt $options; fi\n"
        "}\n",
        out);
  fprintf(out, "complete -F _%s %s\n", name, name);
}

/* Text inside single quotes and a [description] of _arguments. */
static void print_zsh_text(FILE *out, const char *text) {
  for (; *text; text++) {
    if (*text == '\'')
      fputs("'\\''", out);
    else
      fprintf(out, "%s%c", strchr("[]:\\", *text) ? "\\" : "", *text);
  }
}

static void print_zsh(FILE *out, const FlagTable *t) {
  const char *name = flag_table_name(t);
  fprintf(out, "#compdef %s\n# zsh completion for %s, printed by `%s --completion zsh`\n_arguments", name,
          name, name);
  for (int i = 0; i < t->n; i++) {
    const Flag *f = &t->flags[i];
    fprintf(out, " \\\n  '--%s%s[", f->name, takes_value(f) ? "=" : "");
    print_zsh_text(out, f->help);
    fputc(']', out);
    if (f->type == FLAG_HELP) {
      fputs("::flag:(", out);
      print_names(out, t, " ");
      fputs(" )", out);
    } else if (takes_value(f)) {
      static const char *const actions[] = {"", "_files -/", "_files"};
      fputs(f->type == FLAG_OPTIONAL ? "::value:" : ":value:", out);
      Place place = place_of(f);
      bool words = has_words(t, f);
      if (words && place) fputs("{ compadd ", out);
      if (words && !place) fputc('(', out);
      print_words(out, t, f);
      if (words && place) fprintf(out, "; %s }", actions[place]);
      if (words && !place) fputc(')', out);
      if (!words) fputs(place ? actions[place] : " ", out);
    }
    fputc('\'', out);
  }
  fputc('\n', out);
}

void completion_print(FILE *out, const FlagTable *t, const char *shell) {
  if (strcmp(shell, "zsh") == 0)
    print_zsh(out, t);
  else
    print_bash(out, t);
}
