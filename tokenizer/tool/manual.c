#include "tokenizer/tool/manual.h"

const ManTexts tokenize_manual = {
    .summary = "turns text into token shards for train_llama",
    .description =
        "Encodes text files, their lines or paragraphs, or fields of JSONL files with a tokenizer.json of\n"
        "Hugging Face, and writes the tokens as shards, with the start of every document marked.\n"
        "Prompts are marked so that they are not trained on.\n"
        "It runs on all cores, in bounded memory; the shards are the same for any number of threads.\n"
        "The same command again goes on where the last one stopped.\n",
    .sections =
        ".SH EXIT STATUS\n"
        ".TP\n0\nDone.\n"
        ".TP\n1\nThe run failed: a full disk, for instance.\n"
        ".TP\n2\nA flag or an input cannot be used. The message says what was found, what was expected and "
        "what "
        "to do.\n"
        ".SH FILES\n"
        "In the folder of \\fB\\-\\-out\\fR:\n"
        ".TP\n.I train\\-000000.bin, val\\-000000.bin, ...\nThe shards. One that is being written ends in "
        ".bin.tmp.\n"
        ".TP\n.I tokenize.json\nHow far the run is.\n"
        ".SH EXAMPLES\n"
        "Books, a hundredth of them for validation:\n"
        ".PP\n.RS\n.nf\ntokenize \\-\\-tokenizer DIR \\-\\-input \\(aqbooks/*.txt\\(aq \\-\\-out data/books "
        "\\-\\-val\\-fraction 0.01\n.fi\n.RE\n.PP\n"
        "Questions and answers, of which only the answers are trained on:\n"
        ".PP\n.RS\n.nf\ntokenize \\-\\-tokenizer DIR \\-\\-input pairs.jsonl \\-\\-prompt\\-field question "
        "\\-\\-completion\\-field answer \\-\\-out data/pairs\n.fi\n.RE\n"
        ".SH SEE ALSO\n.BR train_llama (1)\n",
};
