/* What is generated from the flag table for other programs: the manual page and the shells' completion. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/completion.h"
#include "cli/flags.h"
#include "cli/man.h"
#include "io/file.h"

/* The texts as files, which the tests share. */
static char folder[] = "/tmp/train_llama_texts_XXXXXX";
#define PAGE "train_llama.1"
#define BASH "train_llama.bash"
#define ZSH  "_train_llama"

static char *path_of(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static FILE *create(const char *name) {
  FILE *f = fopen(path_of(name), "w");
  CHECK(f, "%s cannot be written", path_of(name));
  return f;
}

static int setup(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  FILE *f = create(PAGE);
  man_print(f, flags_table(), &train_llama_manual, "1.2.3");
  fclose(f);
  f = create(BASH);
  completion_print(f, flags_table(), "bash");
  fclose(f);
  f = create(ZSH);
  completion_print(f, flags_table(), "zsh");
  fclose(f);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  const char *const names[] = {PAGE, BASH, ZSH};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) remove(path_of(names[i]));
  return rmdir(folder);
}

/* Runs a shell command in the folder; returns its exit status and what it printed on both streams. */
static int shell(char *said, size_t size, const char *command) {
  char line[1024];
  snprintf(line, sizeof line, "cd %s && { %s; } 2>&1", folder, command);
  FILE *f = popen(line, "r");
  assert_non_null(f);
  said[fread(said, 1, size - 1, f)] = '\0';
  return pclose(f);
}

static bool is_there(const char *program) {
  char command[64], said[256];
  snprintf(command, sizeof command, "command -v %s", program);
  return shell(said, sizeof said, command) == 0;
}

static char said[1 << 17];

static void expect_quiet(const char *command) {
  int status = shell(said, sizeof said, command);
  if (status != 0 || said[0]) fail_msg("%s: status %d, it said: %s", command, status, said);
}

/* What bash would offer after these words, the last of which is being typed; one a line. */
static char *complete(const char *words) {
  char command[512];
  snprintf(command, sizeof command,
           "bash -c 'compopt() { echo \"options $*\"; }; . ./" BASH "; COMP_WORDS=(train_llama %s); "
           "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _train_llama; printf \"%%s\\n\" \"${COMPREPLY[@]}\"'",
           words);
  assert_int_equal(shell(said, sizeof said, command), 0);
  return said;
}

static void bash_completes(void **state) {
  (void)state;
  expect_quiet("bash -n " BASH);
  assert_string_equal(complete("--reco"), "--recompute\n");
  assert_string_equal(complete("--recompute \"\""), "none\nmlp\nlayer\nauto\n");
  assert_string_equal(complete("--plan --recompute l"), "layer\n");
  assert_string_equal(complete("--recompute ="), "none\nmlp\nlayer\nauto\n"); /* bash splits at = */
  assert_string_equal(complete("--recompute = m"), "mlp\n");
  assert_string_equal(complete("--mlp-chunk \"\""), "auto\n");
  assert_string_equal(complete("--keep-attention a"), "all\nauto\n");
  assert_string_equal(complete("--seed \"\""), "\n");
  assert_string_equal(complete("--help recomp"), "recompute\n");
  assert_string_equal(complete("--help --recomp"), "--recompute\n");
  assert_string_equal(complete("--model llama3-8"), "options -o plusdirs -o filenames\nllama3-8b\n");
  assert_string_equal(complete("--out x"), "options -o plusdirs -o filenames\n\n");
  assert_string_equal(complete("--train x"), "options -o default\n\n");
  assert_string_equal(complete("--config x"), "options -o default\n\n");
}

/* Every flag is offered, and every word of every choice after its flag. */
static void bash_knows_the_table(void **state) {
  (void)state;
  char *all = strdup(complete("\"\""));
  int flags = 0, lines = 0;
  for (const char *c = all; *c; c++) lines += *c == '\n';
  for (; flags_at(flags); flags++) {
    const Flag *f = flags_at(flags);
    char line[64];
    snprintf(line, sizeof line, "--%s\n", f->name);
    if (!strstr(all, line)) fail_msg("--%s is not offered", f->name);
    if (!f->choices) continue;
    snprintf(line, sizeof line, "--%s \"\"", f->name);
    const char *words = complete(line);
    for (const char *c = f->choices; *c; c++, words++)
      assert_true(*c == *words || (*c == '|' && *words == '\n'));
    assert_string_equal(words, "\n");
  }
  assert_int_equal(lines, flags);
  free(all);
}

static void zsh_knows_the_table(void **state) {
  (void)state;
  int status = shell(said, sizeof said, "cat " ZSH);
  assert_int_equal(status, 0);
  assert_memory_equal(said, "#compdef train_llama\n", 21);
  for (int i = 0; flags_at(i); i++) {
    const Flag *f = flags_at(i);
    char start[64];
    bool takes_value = f->type != FLAG_BOOL && f->type != FLAG_HELP;
    snprintf(start, sizeof start, "\n  '--%s%s[", f->name, takes_value ? "=" : "");
    if (!strstr(said, start)) fail_msg("--%s is missing", f->name);
  }
  assert_non_null(strstr(said, ":(none mlp layer auto)'"));
  assert_non_null(strstr(said, "AdamW'\\''s decay"));
  assert_non_null(strstr(said, "(default\\: none)"));
  if (is_there("zsh")) expect_quiet("zsh -n " ZSH);
}

static void page_has_the_table(void **state) {
  (void)state;
  assert_int_equal(shell(said, sizeof said, "cat " PAGE), 0);
  assert_non_null(strstr(said, ".TH TRAIN_LLAMA 1 \"\" \"train_llama 1.2.3\""));
  static const char *const sections[] = {
      "NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "CONFIGURATION FILE", "EXIT STATUS", "FILES", "EXAMPLES"};
  const char *at = said;
  for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
    char line[64];
    snprintf(line, sizeof line, "\n.SH %s\n", sections[i]);
    at = strstr(at, line);
    if (!at) fail_msg("section %s is missing or not in its place", sections[i]);
  }
  for (int i = 0; flags_at(i); i++) {
    char line[64] = "\n.TP\n\\fB\\-\\-";
    size_t n = strlen(line);
    for (const char *c = flags_at(i)->name; *c; c++) {
      if (*c == '-') line[n++] = '\\';
      line[n++] = *c;
    }
    line[n] = '\0';
    strcat(line, "\\fR");
    if (!strstr(said, line)) fail_msg("--%s is missing", flags_at(i)->name);
  }
}

/* As a reader sees it. */
static void groff_formats_the_page(void **state) {
  (void)state;
  if (!is_there("groff")) {
    print_message("groff is not here\n");
    skip();
  }
  expect_quiet("groff -man -Tutf8 -ww -z " PAGE);
  assert_int_equal(shell(said, sizeof said, "groff -man -Tascii -P-c -P-b -P-u " PAGE " | tr -s ' \\n' ' '"),
                   0);
  for (int i = 0; flags_at(i); i++) {
    const Flag *f = flags_at(i);
    char usage[128];
    const char *value = flags_value_name(f);
    snprintf(usage, sizeof usage, " --%s%s%s ", f->name, *value ? " " : "", value);
    if (!strstr(said, usage)) fail_msg("\"%s\" is missing in: %s", usage, said);
  }
  assert_non_null(strstr(said, "Default: 3e-4."));
  assert_non_null(strstr(said, " train \"my data/*.bin\" "));
  assert_non_null(strstr(said, " --train 'data/*.bin' "));
}

/* ./tokenize makes the same of its own table: what its page, and a word of a choice, is there. */
static void tokenize_has_its_own(void **state) {
  (void)state;
  const char *build = getenv("BUILD");
  char command[512], cwd[256];
  assert_non_null(getcwd(cwd, sizeof cwd));
  snprintf(command, sizeof command,
           "T=%s/%s/tokenize; $T --completion bash >tokenize.bash; $T --completion zsh >tokenize.zsh; "
           "$T --man >tokenize.1; bash -n tokenize.bash",
           cwd, build ? build : "build/cpu");
  expect_quiet(command);
  if (is_there("zsh")) expect_quiet("zsh -n tokenize.zsh");
  if (is_there("groff")) expect_quiet("groff -man -Tutf8 -ww -z tokenize.1");
  assert_int_equal(shell(said, sizeof said, "cat tokenize.1 tokenize.bash; rm tokenize.*"), 0);
  assert_non_null(strstr(said, ".TH TOKENIZE 1"));
  assert_non_null(strstr(said, "\n.TP\n\\fB\\-\\-shard\\-tokens\\fR"));
  assert_non_null(strstr(said, "  --on-invalid) words='stop skip replace' ;;\n"));
  assert_non_null(strstr(said, "  --out) options='-o plusdirs -o filenames' ;;\n"));
}

/* The README lists every flag in the row of its group, in the table's order. */
static void readme_has_the_table(void **state) {
  (void)state;
  Error e;
  char *readme = file_read_text("README.md", 1 << 20, NULL, &e);
  if (!readme) fail_msg("%s", e.text);
  for (int g = 0; g < GROUPS; g++) {
    char row[2048];
    size_t n = (size_t)snprintf(row, sizeof row, "\n| %s | `", flags_group_name((FlagGroup)g));
    for (int i = 0; flags_at(i); i++)
      if ((int)flags_at(i)->group == g)
        n += (size_t)snprintf(row + n, sizeof row - n, "--%s ", flags_at(i)->name);
    snprintf(row + n - 1, sizeof row - n, "` |\n");
    if (!strstr(readme, row)) fail_msg("README.md lacks the row: %s", row);
  }
  free(readme);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bash_completes),         cmocka_unit_test(bash_knows_the_table),
      cmocka_unit_test(zsh_knows_the_table),    cmocka_unit_test(page_has_the_table),
      cmocka_unit_test(groff_formats_the_page), cmocka_unit_test(readme_has_the_table),
      cmocka_unit_test(tokenize_has_its_own),
  };
  return cmocka_run_group_tests(tests, setup, teardown);
}
