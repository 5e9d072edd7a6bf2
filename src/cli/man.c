#include "cli/man.h"

#include <ctype.h>
#include <string.h>

#include "cli/flags.h"
#include "llama/config.h" /* config_preset_name */

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

static void put_flag(FILE *out, const Flag *f) {
  fputs(".TP\n\\fB\\-\\-", out);
  put(out, f->name);
  fputs("\\fR", out);
  const char *value = flags_value_name(f);
  if (*value) {
    fputc(' ', out);
    put_font(out, f->value_name ? 'I' : 'R', value);
  }
  fprintf(out, "\n%c", toupper((unsigned char)f->help[0]));
  put(out, f->help + 1);
  fputs(".\n", out);
  if (f->type == FLAG_INT || f->type == FLAG_DOUBLE) {
    char allowed[256];
    flags_allowed(f, allowed, sizeof allowed);
    fputs("Takes ", out);
    put(out, allowed);
    fputs(".\n", out);
  }
  if (strstr(value, "PRESET")) {
    fputs("Presets: ", out);
    for (int i = 0; config_preset_name(i); i++) {
      if (i) fputs(", ", out);
      put(out, config_preset_name(i));
    }
    fputs(".\n", out);
  }
  if (f->default_value[0]) {
    fputs("Default: ", out);
    put_font(out, 'B', f->default_value);
    fputs(".\n", out);
  }
}

static void put_options(FILE *out) {
  fputs(".SH OPTIONS\n"
        "Whole numbers take K, M, G (powers of 1000) and Ki, Mi, Gi (powers of 1024).\n"
        "A flag is given at most once; \\fB\\-\\-flag=value\\fR is the same as \\fB\\-\\-flag value\\fR.\n",
        out);
  for (int g = 0; g < GROUPS; g++) {
    fprintf(out, ".SS %s\n", flags_group_name((FlagGroup)g));
    for (int i = 0; flags_at(i); i++)
      if ((int)flags_at(i)->group == g) put_flag(out, flags_at(i));
  }
}

void man_print(FILE *out, const char *version) {
  fprintf(out,
          ".\\\" printed by train_llama \\-\\-man\n"
          ".TH TRAIN_LLAMA 1 \"\" \"train_llama %s\" \"User Commands\"\n",
          version);
  fputs(
      ".SH NAME\n"
      "train_llama \\- trains Llama\\-style language models on very long sequences\n"
      ".SH SYNOPSIS\n"
      ".B train_llama\n"
      "[\\fB\\-\\-\\fIflag\\fR [\\fIvalue\\fR]] ...\n"
      ".SH DESCRIPTION\n"
      "Trains a model on token shards or text files, with the MLP and the vocabulary projection computed in\n"
      "mini\\-sequences (the Mini\\-Sequence Transformer), so that memory grows little with the sequence's "
      "length.\n"
      "Loss and gradients are those of the plain computation.\n"
      "Without flags it trains a small model on text that it generates.\n"
      "Models are read and written as Hugging Face folders: config.json and safetensors.\n",
      out);
  put_options(out);
  fputs(
      ".SH CONFIGURATION FILE\n"
      "The file of \\fB\\-\\-config\\fR has one flag a line, with or without its dashes:\n"
      ".PP\n"
      ".RS\n"
      ".nf\n"
      "# a comment\n"
      "seq\\-len 32Ki\n"
      "lr = 3e\\-4        # the = may be left out\n"
      "eval\\-only\n"
      "train \"my data/*.bin\"\n"
      ".fi\n"
      ".RE\n"
      ".PP\n"
      "A value is the rest of its line; double quotes keep blanks at its ends and what would begin a "
      "comment.\n"
      "Paths are relative to the folder where the program is started.\n"
      "A flag on the command line overrides the file's; one that takes no value cannot be taken back there.\n"
      ".SH EXIT STATUS\n"
      ".TP\n0\nDone.\n"
      ".TP\n1\nThe run failed: no memory, a full disk, a loss that is not finite.\n"
      ".TP\n2\nA flag or an input cannot be used. The message says what was found, what was expected and "
      "what to do;\n"
      "nothing was written.\n"
      ".SH FILES\n"
      "In the run folder of \\fB\\-\\-out\\fR:\n"
      ".TP\n.I run.json\nThe command, the value of every flag, and what the program chose by itself.\n"
      ".TP\n.I log.jsonl\nOne JSON object a step and an evaluation.\n"
      ".TP\n.I step\\-00001000/\nThe state after that step: the model as Hugging Face has it, and what\n.B "
      "\\-\\-resume\nneeds. Its file\n.I DONE\nis written last: a folder "
      "without it is "
      "not complete.\n"
      ".SH EXAMPLES\n"
      "A small model on text of one's own, byte by byte:\n"
      ".PP\n.RS\n.nf\ntrain_llama \\-\\-train my.txt \\-\\-out out/mine\n.fi\n.RE\n.PP\n"
      "A Hugging Face model on token shards, with a longer context:\n"
      ".PP\n.RS\n.nf\ntrain_llama \\-\\-model DIR \\-\\-train \\(aqdata/*.bin\\(aq \\-\\-seq\\-len 32Ki "
      "\\-\\-out "
      "out/long\n.fi\n.RE\n.PP\n"
      "What a run would take in memory:\n"
      ".PP\n.RS\n.nf\ntrain_llama \\-\\-model llama3\\-8b \\-\\-seq\\-len 64Ki \\-\\-dtype bf16 "
      "\\-\\-plan\n.fi\n.RE\n",
      out);
}
