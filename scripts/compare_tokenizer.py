#!/usr/bin/env python3
"""Compares ./tokenize with Hugging Face's `tokenizers` on a tokenizer.json of your own: the ids of every text.

    scripts/compare_tokenizer.py TOKENIZER.json|DIR [TEXT_FILE ...] [--tokenize ./tokenize]

Without text files it takes those of the tests (many scripts, emoji, marks, control characters, special tokens)
and every character that Unicode has. With them, each paragraph is a text. Needs `tokenizers` from PyPI. Ends
with status 1 when ids differ. Characters that one of the two libraries' Unicode does not know yet may be cut
differently; they are counted apart."""
import argparse
import array
import json
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT, ID = 0x40000000, 0x3FFFFFFF


def own_texts():
    sys.path.insert(0, str(ROOT / "test"))
    import make_tokenizer_fixtures
    texts = make_tokenizer_fixtures.TEXTS + [unit * min(times, 2000) for unit, times in make_tokenizer_fixtures.LONG]
    characters = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
    return texts + [f"a{c}b {c} 1{c}{c}\n" for c in characters]


def read_texts(paths):
    return [p for path in paths for p in pathlib.Path(path).read_text(errors="replace").split("\n\n")]


def ids_of_tokenize(program, tokenizer, texts):
    """The ids of each text, by its place; texts without ids are missing."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder, "texts.jsonl")
        with open(source, "w") as f:
            for i, text in enumerate(texts):
                f.write(json.dumps({"text": text}) + "\n")
        command = [program, "--tokenizer", tokenizer, "--input", source, "--out", folder + "/out", "--bos", "none",
                   "--eos", "none"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tokens = array.array("I")
        for shard in sorted(pathlib.Path(folder, "out").glob("train-*.bin")):
            tokens.frombytes(shard.read_bytes()[1024:])
    documents = []
    for t in tokens:
        if t & DOCUMENT:
            documents.append([])
        documents[-1].append(t & ID)
    return documents


def is_new(text):
    """Whether Python's Unicode, which is of its own version, does not know a character either."""
    return any(unicodedata.category(c) == "Cn" for c in text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--tokenize", default=str(ROOT / "tokenize"))
    args = parser.parse_args()
    path = pathlib.Path(args.tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = [t for t in (read_texts(args.texts) if args.texts else own_texts()) if "\0" not in t]
    expected = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    pairs = [(t, ids) for t, ids in zip(texts, expected) if ids]
    found = ids_of_tokenize(args.tokenize, str(path), [t for t, _ in pairs])
    if len(found) != len(pairs):
        sys.exit(f"{len(found)} texts have ids, expected {len(pairs)}")
    wrong = [(t, ids, f) for (t, ids), f in zip(pairs, found) if ids != f]
    new = [w for w in wrong if is_new(w[0])]
    old = [w for w in wrong if not is_new(w[0])]
    for text, ids, f in old[:10]:
        print(f"{text[:60]!r}\n  found    {f[:20]}\n  expected {ids[:20]}")
    print(f"{len(pairs)} texts, {sum(map(len, expected))} ids (tokenizers {tokenizers.__version__}): {len(old)} differ; "
          f"{len(new)} more differ with characters newer than Unicode {unicodedata.unidata_version}")
    sys.exit(1 if old else 0)


if __name__ == "__main__":
    main()
