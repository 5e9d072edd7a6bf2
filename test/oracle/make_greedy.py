#!/usr/bin/env python3
"""Makes what transformers' greedy generation writes with tiny models: test/fixtures/greedy.json, ids after a prompt of
ids for every model of make_fixtures.py, and test/fixtures/greedy/, a model with a vocabulary for the tokenizer
test/fixtures/tokenizer/llama3.json and the text that it writes. README.md in this folder says how to run this.

    test/oracle/make_greedy.py
"""
import json
import shutil
import tempfile
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

FIXTURES = Path(__file__).resolve().parents[2] / "test" / "fixtures"
PROMPT, NEW, MARGIN = 9, 40, 1e-3  # tokens; and how far the largest logit leads at least, in logits
TEXTS = ["All human beings are born free", "人人生而自由, é👍", "a"]


def greedy(model, ids, new):
    """The ids that follow, and the smallest lead of a chosen logit over the next one."""
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False, output_logits=True,
                             return_dict_in_generate=True, pad_token_id=0)
    top = torch.stack(out.logits).squeeze(1).topk(2).values
    return out.sequences[0, len(ids):].tolist(), (top[:, 0] - top[:, 1]).min().item()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def of_fixture(folder):
    """A prompt whose continuation no rounding decides."""
    model = load(folder)
    V = model.config.vocab_size
    for seed in range(100):
        rng = torch.Generator().manual_seed(seed)
        prompt = torch.randint(3, V, (PROMPT,), generator=rng).tolist()
        new, margin = greedy(model, prompt, NEW)
        if margin > MARGIN and len(set(new)) > 5:
            return {"prompt": prompt, "new": new, "lead": round(margin, 5)}
    raise SystemExit(f"{folder}: no prompt with a clear continuation")


def make_text_model(folder):
    """Random weights, so that tokens follow each other as no text has them: halves of characters, too."""
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = FIXTURES / "tokenizer" / "llama3.json"
    V = tokenizers.Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, max_position_embeddings=256,
                         num_attention_heads=2, num_key_value_heads=1, bos_token_id=900, eos_token_id=901,
                         tie_word_embeddings=False)
    model = AutoModelForCausalLM.from_config(config)
    for p in model.parameters():
        p.data.normal_(1.0 if p.dim() == 1 else 0.0, 0.3 if p.dim() == 1 else 0.6)
    model.bfloat16().save_pretrained(folder)
    with tempfile.TemporaryDirectory() as temporary:  # the test puts tokenizer.json beside the model, as is done here
        for f in folder.iterdir():
            shutil.copy(f, temporary)
        shutil.copy(tokenizer, Path(temporary) / "tokenizer.json")
        encoder, model, cases = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer)), load(temporary), []
        for text in TEXTS:
            prompt = encoder(text)["input_ids"]
            new, margin = greedy(model, prompt, NEW)
            assert margin > 1e-4, f"{text}: the continuation is not clear: {margin}"
            decoded = encoder.decode(prompt + new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            cases.append({"prompt": text, "ids": prompt + new, "text": decoded, "lead": round(margin, 5)})
        # a token that is chosen early ends the text where generation_config.json says so
        end = cases[0]["ids"][-NEW + 10]
        model.generation_config.eos_token_id = [901, end]
        ids = cases[0]["ids"][:-NEW]
        new, _ = greedy(model, ids, NEW)
        assert new[-1] == end and len(new) < NEW
        decoded = encoder.decode(ids + new[:-1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cases[0].update(ends=[901, end], ended_text=decoded)
    return cases


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
                "tokenizers": tokenizers.__version__}
    names = sorted(f.parent.name for f in FIXTURES.glob("*/oracle.json"))
    record = {"versions": versions, "ids": {name: of_fixture(FIXTURES / name) for name in names},
              "texts": make_text_model(FIXTURES / "greedy")}
    (FIXTURES / "greedy.json").write_text(json.dumps(record, ensure_ascii=False).replace("}, ", "},\n") + "\n")
    for name in names:
        print(f"{name:20s} lead {record['ids'][name]['lead']}")
    for case in record["texts"]:
        print(repr(case["text"]))


if __name__ == "__main__":
    main()
