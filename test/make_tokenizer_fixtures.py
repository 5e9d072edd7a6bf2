#!/usr/bin/env python3
"""Trains a small tokenizer of every kind that tokenizer/ reads, and records what Hugging Face's `tokenizers`
makes of difficult text with it: test/fixtures/tokenizer/KIND.json and KIND.expected.json, for test_tokenizer.
A KIND.json that is there is kept: training breaks ties by chance.

    python3 test/make_tokenizer_fixtures.py [FOLDER]     # needs `tokenizers`; the version is recorded

Texts hold no character newer than Unicode 14: what is a letter differs between versions of Unicode."""
import json
import pathlib
import random
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
PIECES = r"'(?:[sdmt]|ll|ve|re)|\p{N}{1,3}|[\p{L}\p{M}]++|\s++|[^\s\p{L}\p{M}\p{N}]"

# Article 1 of the Universal Declaration of Human Rights, or its first words.
ARTICLES = [
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    "and should act towards one another in a spirit of brotherhood.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de "
    "conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։",
    "የሰው፡ልጅ፡ሁሉ፡ሲወለድ፡ነጻና፡በክብርና፡በመብትም፡እኩልነት፡ያለው፡ነው።",
]

CODE = """def main(argv):\n\tfor i in range(1, 1000000):\n\t\tif i % 3 == 0: print(f"{i:>8} it's DON'T we'LL", end="\\r\\n")\n"""

TEXTS = ["", " ", "  ", "\n", "\n\n \n", " \t \r\n\r\n  x", "a", " a", "a ", "  a  b   c    "] + ARTICLES + [
    CODE,
    "I'm you're HE'S we'Ll they'D I'VE can't ſ'ſ 'ſ K'K",
    "1 12 123 1234 12345678 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥ १२३ 𝟘𝟙 〇一二",
    "e\u0301 é a\u0308\u0323 ạ̈ o\u0302\u0301 ộ \u1100\u1161\u11a8 각 \u212b \u2126 \ufb01 ñ n\u0303 q\u0307\u0323",
    "\u0628\u064e\u08d3\u0650 a\u1ac9\u0323\u0301 o\u0323\u1dfa\u0302 \u0995\u09fe\u09bc\u0301 \U00011935\U00011930 later marks",
    "\u0301leading mark, x\u0300\u0301\u0302\u0303\u0304 many, \u0344 \u0958 \u2adc \U0001d15e",
    "👍 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 ❤️ 1️⃣ ☃ 🧑🏿‍🚀 \u200d \ufe0f",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x85\x9f\xa0\xad tab\tvt\x0bff\x0cnul\x00end",
    "\u1680\u180e\u2000\u2009\u200b\u200c\u2028\u2029\u202f\u205f\u3000\ufeff spaces of all kinds \u00a0\u00a0x\u3000\u3000y",
    "\ue000 \uf8ff \U000f0000 \U0010fffd \ufffd \uffff \U0001ffff noncharacters",
    "ASCII!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ «» “” ‘’ … — – € £ ¥ § © ® ™ ∀∃∈∉∑√∞",
    "▁ ▁▁ a▁b ▁a ▁▁▁x <0x41> <0xE2><0x96> Ġ Ċ Ā",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
    "https://example.org/a/b/c?x=1&y=%20#frag user.name+tag@example.co.uk C:\\Users\\me\\file.txt",
    "ǅ ǈ ß ẞ İ ı ﬀ ŉ ა Ა ᏸ Ꮏ Ꙁ ⴀ 𐐀𐐨 𞤀 𒀀 𓀀 𝒜𝔅 ﷺ ꙮ",
    "<s>hello</s> <s> </s>  <unk> <|begin_of_text|>x<|end_of_text|>\n<|endoftext|> <|im_start|>user\nhi<|im_end|>",
    "<tool_call>{}</tool_call> <TOOL> wordTOOL TOOLword TOOL. éTOOL  TOOL\u0301 \u00a0left  right \t next right right",
    "<|im_start|><|im_start|> <|im_st<|im_start|>art|> <|im_end|><s><s></s>left left  left",
    "Ångström caf\u00e9 cafe\u0301 e\u0301clair \u00e9clair",
    "left", "  left", "right  ", "mid", "amida mid midmid é mid",
] + ["mixed " + a[:40] + "\n" + b[:40] for a, b in zip(ARTICLES, reversed(ARTICLES))]

# (unit, times): their ids are recorded as count and hash.
LONG = [("a", 5000), ("\u0301\u0323", 5000), ("ab", 20000), ("Donaudampfschiff", 3000), ("人人生而自由", 3000), (" ", 5000), ("\n ", 3000),
        ("👨‍👩‍👧", 1000), ("\u0301", 3000), ("no spaces", 5000), ("1", 10000), ("!?", 10000), ("<s>", 500)]

SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def fnv(ids):
    h = 0xCBF29CE484222325
    for i in ids:
        for b in i.to_bytes(4, "little"):
            h = ((h ^ b) * 0x100000001B3) % 2**64
    return f"{h:016x}"


def train(tokenizer, size, byte_level, specials=()):
    alphabet = ({"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()} if byte_level
                else {"limit_alphabet": 300})
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(specials), show_progress=False,
                                  min_frequency=1, **alphabet)
    corpus = (ARTICLES + [CODE]) * 2 + ARTICLES[:3] * 20 + [CODE] * 5
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def byte_level(size, pre, normalizer=None, **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    return train(t, size, True)


def split_byte_level(regex):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])


def llama3():
    t = byte_level(900, split_byte_level(LLAMA3), ignore_merges=True)
    t.add_special_tokens(SPECIALS[:2] + [f"<|reserved_special_token_{i}|>" for i in range(20)])
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[
            ("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))])])
    return t


def qwen2():
    t = byte_level(800, split_byte_level(QWEN2), normalizers.NFC())
    t.add_special_tokens(SPECIALS[2:])
    t.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def gpt2():
    t = byte_level(700, pre_tokenizers.ByteLevel(add_prefix_space=False))
    t.add_special_tokens(["<|endoftext|>"])
    t.post_processor = processors.ByteLevel(trim_offsets=True)
    return t


def added():
    """GPT-2 with a space before every text, NFC, and added tokens with every flag."""
    t = byte_level(600, pre_tokenizers.ByteLevel(add_prefix_space=True), normalizers.NFC())
    t.add_special_tokens([AddedToken("left", lstrip=True, special=True, normalized=False),
                          AddedToken("<s>", rstrip=True, lstrip=True, special=True, normalized=False)])
    t.add_tokens([AddedToken("right", rstrip=True, normalized=False),
                  AddedToken("TOOL", single_word=True, normalized=False),
                  AddedToken("mid", single_word=True, lstrip=True, normalized=True),
                  AddedToken("e\u0301clair", normalized=True), AddedToken("Ångström", normalized=False),
                  AddedToken("\n\n", normalized=False), AddedToken("é", normalized=False)])
    return t


def sentencepiece(size, byte_tokens=range(256), pre=None, unk=True, **model):
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in byte_tokens]
    t = Tokenizer(models.BPE(unk_token="<unk>" if unk else None, **model))
    t.pre_tokenizer = pre or pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    train(t, size, False, specials)
    # the trainer makes special tokens of the byte tokens, which they are not
    j = json.loads(t.to_str())
    j["added_tokens"] = [a for a in j["added_tokens"] if a["id"] < 3]
    return Tokenizer.from_str(json.dumps(j))


def fallback_decoder():
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                              decoders.Strip(" ", 1, 0)])


def llama2():
    t = sentencepiece(1000, byte_fallback=True, fuse_unk=True)
    t.pre_tokenizer = None
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = fallback_decoder()
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return t


def mistral():
    t = sentencepiece(900, byte_fallback=True, fuse_unk=True, ignore_merges=True)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    t.decoder = fallback_decoder()
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


def metaspace():
    """No bytes to fall back to: unknown characters, each on its own; words are cut at spaces."""
    t = sentencepiece(600, byte_tokens=(), fuse_unk=False)
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    return t


def unspaced():
    """Merges over spaces, so that a text is one word; unknown ones fused; bytes for some characters only."""
    t = sentencepiece(700, byte_tokens=list(range(0x80)) + [0xC3, 0xA9, 0xF0, 0x9F, 0x91, 0x8D],
                      pre=pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                      byte_fallback=True, fuse_unk=True)
    t.pre_tokenizer = None
    t.normalizer = normalizers.Replace(" ", "▁")
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return t


def pieces():
    """Matches that are dropped, a literal that is, possessive repetition, no decoder, unknown left out."""
    t = sentencepiece(500, byte_tokens=(), unk=False)
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "removed", invert=True),
        pre_tokenizers.Split("e", "removed"),
        pre_tokenizers.Metaspace(prepend_scheme="first", split=True)])
    t.decoder = None
    return t


KINDS = [llama3, qwen2, gpt2, added, llama2, mistral, metaspace, unspaced, pieces]


def text_of(text):
    """cJSON's strings end at NUL."""
    return {"hex": text.encode().hex()} if "\0" in text else {"text": text}


def cases(t):
    random.seed(1)
    out = []
    for text in TEXTS:
        ids = t.encode(text, add_special_tokens=False).ids
        case = {**text_of(text), "ids": ids}
        t.encode_special_tokens = True
        plain = t.encode(text, add_special_tokens=False).ids
        t.encode_special_tokens = False
        if plain != ids:
            case["plain"] = plain
        for key, skip in ("decoded", False), ("skipped", True):
            decoded = t.decode(ids, skip_special_tokens=skip)
            if decoded != text:
                case[key] = text_of(decoded)
        out.append(case)
    return out


def random_decodes(t):
    """Ids that no text has: halves of characters, byte tokens in any order."""
    generator = random.Random(2)
    ids = sorted(t.get_vocab().values())
    low = [i for i in ids if i < 300]
    out = []
    for n in [1, 1, 2, 2, 3, 3, 5, 8, 13, 40] * 3:
        chosen = [generator.choice(low if generator.random() < 0.6 else ids) for _ in range(n)]
        out.append({"ids": chosen, "decoded": text_of(t.decode(chosen, skip_special_tokens=False)),
                    "skipped": text_of(t.decode(chosen, skip_special_tokens=True))})
    return out


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "test/fixtures/tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        name = kind.__name__
        file = folder / f"{name}.json"
        if not file.exists():
            j = json.loads(kind().to_str())
            if name == "gpt2":  # the older way to write merges
                j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
            file.write_text(json.dumps(j, ensure_ascii=False, separators=(",", ":")))
        text = file.read_text()
        t = Tokenizer.from_str(text)
        long = [{"text": u, "times": n, "count": len(ids), "hash": fnv(ids)} for u, n in LONG
                for ids in [t.encode(u * n, add_special_tokens=False).ids]]
        expected = {"tokenizers": tokenizers.__version__, "vocab_size": max(t.get_vocab().values()) + 1,
                    "template": t.encode("a").ids, "cases": cases(t), "long": long, "decodes": random_decodes(t)}
        with open(folder / f"{name}.expected.json", "w") as f:
            f.write("{\n")
            for key, value in expected.items():
                if isinstance(value, list) and value and isinstance(value[0], dict):
                    lines = ",\n".join(json.dumps(v, ensure_ascii=False, separators=(",", ":")) for v in value)
                    f.write(f"{json.dumps(key)}: [\n{lines}\n],\n")
                else:
                    f.write(f"{json.dumps(key)}: {json.dumps(value)},\n")
            f.write('"end": true\n}\n')
        print(f"{name}: {t.get_vocab_size()} tokens, {len(text)} bytes")


if __name__ == "__main__":
    main()
