#include "cli/config_file.h"

#include <string.h>

#include "cli/flags.h"
#include "io/file.h"

#define BLANKS " \t\r"
enum { MAX_BYTES = 1 << 20 }; /* of a file: far beyond use */

static bool is_blank(char c) {
  return c && strchr(BLANKS, c);
}

static char *skip_blanks(char *text) {
  return text + strspn(text, BLANKS);
}

/* Cuts a comment and the blanks before it off. */
static void cut_end(char *text) {
  size_t n = 0;
  while (text[n] && !(text[n] == '#' && (n == 0 || is_blank(text[n - 1])))) n++;
  text[n] = '\0';
  while (n > 0 && is_blank(text[n - 1])) text[--n] = '\0';
}

/* Cuts the text out of its quotes. */
static bool cut_quotes(char **text, Error *e) {
  char *end = strchr(*text + 1, '"');
  if (!end)
    return error_usage(e, "found %s, expected a closing quote at the end of the value. Add it.", *text);
  char *rest = skip_blanks(end + 1);
  cut_end(rest);
  if (*rest)
    return error_usage(
        e,
        "found %s after the closing quote, expected the end of the line. Remove it, or leave the "
        "quotes out.",
        rest);
  *end = '\0';
  ++*text;
  return true;
}

/* Cuts a line into the name of its flag, with or without dashes ("" = an empty line), and its value (NULL =
 * none). */
static bool cut_line(char *line, char **name, char **value, Error *e) {
  *name = line = skip_blanks(line);
  *value = NULL;
  if (*line == '#') *line = '\0';
  if (!*line) return true;
  char *end = line + strcspn(line, BLANKS "=");
  char *text = skip_blanks(end);
  bool equals = *text == '=';
  if (equals) text = skip_blanks(text + 1);
  if (end == line)
    return error_usage(e, "found \"%s\" where the name of a flag was expected: a line is `name value`.",
                       line);
  bool quoted = *text == '"';
  if (quoted && !cut_quotes(&text, e)) return false;
  if (!quoted) cut_end(text);
  *end = '\0';
  if (quoted || equals || *text) *value = text;
  return true;
}

/* `file` collects what the file alone says. */
static bool apply_line(Options *o, Options *file, char *line, Error *e) {
  char *found, *value;
  if (!cut_line(line, &found, &value, e)) return false;
  if (!*found) return true;
  const char *name = found + (strncmp(found, "--", 2) == 0 ? 2 : 0);
  const Flag *f = flags_find(name);
  if (!f) return flags_unknown(found, name + strspn(name, "-"), e);
  if (f->meta)
    return error_usage(e, "--%s: found it in a file, expected it on the command line only. Remove the line.",
                       name);
  if (flags_given(file, name))
    return error_usage(e, "--%s was given twice, the second time %s%s; leave one out.", name,
                       value ? "as " : "here", value ? value : "");
  if (!flags_set(file, f, value, GIVEN_IN_FILE, e)) return false;
  return flags_given(o, name) || flags_set(o, f, value, GIVEN_IN_FILE, e);
}

bool config_file_apply(Options *o, Error *e) {
  if (!o->config) return true;
  size_t bytes;
  o->config_text = file_read_text(o->config, MAX_BYTES, &bytes, e);
  if (!o->config_text) return error_prefix(e, "--config ");
  if (strlen(o->config_text) != bytes)
    return error_usage(
        e, "--config %s: found a zero byte, expected text.\nGive a file of lines `name value`.", o->config);
  Options file;
  flags_defaults(&file);
  char *next = o->config_text;
  for (int number = 1; next; number++) {
    char *line = next;
    next = strchr(line, '\n');
    if (next) *next++ = '\0';
    if (!apply_line(o, &file, line, e)) return error_prefix(e, "%s:%d: ", o->config, number);
  }
  return true;
}
