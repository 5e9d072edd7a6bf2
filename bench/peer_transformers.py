#!/usr/bin/env python3
"""The same training steps with Hugging Face transformers, for bench/gpu_bench.sh: bf16 weights and AdamW,
gradient checkpointing, flash attention through torch's sdpa; and the same with the MLP and the LM head run as
mini-sequences that change no number (the MLP's checkpoint runs again in chunks, the logits exist for one chunk).

    bench/peer_transformers.py LAYERS T [T ...]

Prints one JSON object a line. Needs torch and transformers. --rehearse: tiny sizes on the CPU.
"""

import argparse
import json
import time

import torch
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

CHUNK = 8192  # rows of a mini-sequence


def llama3_8b(layers, rehearse):
    sizes = dict(hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8,
                 vocab_size=128256)
    if rehearse:
        sizes = dict(hidden_size=64, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2, vocab_size=300)
    return LlamaConfig(num_hidden_layers=layers, rope_theta=5e5, rms_norm_eps=1e-5, max_position_embeddings=1 << 20,
                       tie_word_embeddings=False, use_cache=False, attn_implementation="sdpa", **sizes)


def chunk_mlp(mlp):
    """Makes an MLP run in chunks of rows, each with a checkpoint of its own."""
    forward = mlp.forward

    def chunked(x):
        return torch.cat([checkpoint(forward, part, use_reentrant=False) for part in x.split(CHUNK, dim=1)], dim=1)

    mlp.forward = chunked


def loss_of_chunk(model, hidden, targets):
    logits = model.lm_head(hidden).float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def loss_of(model, tokens, targets, mini_sequences):
    if not mini_sequences:
        logits = model(input_ids=tokens).logits.float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    hidden = model.model(input_ids=tokens).last_hidden_state
    parts = zip(hidden.split(CHUNK, dim=1), targets.split(CHUNK, dim=1))
    return sum(checkpoint(loss_of_chunk, model, h, t, use_reentrant=False) for h, t in parts) / targets.numel()


def measure(layers, length, mini_sequences, device, rehearse):
    torch.manual_seed(1)
    on_gpu = device == "cuda"
    with torch.device(device):
        model = LlamaForCausalLM(llama3_8b(layers, rehearse)).bfloat16()
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if mini_sequences:
        for layer in model.model.layers:
            chunk_mlp(layer.mlp)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=on_gpu)
    tokens = torch.randint(model.config.vocab_size, (1, length + 1), device=device)
    best = float("inf")
    for _ in range(4):
        start = time.monotonic()
        loss_of(model, tokens[:, :-1], tokens[:, 1:], mini_sequences).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - start)
    return best, torch.cuda.max_memory_allocated() if on_gpu else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", type=int)
    parser.add_argument("lengths", type=int, nargs="+", metavar="T")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    args = parser.parse_args()
    device = "cpu" if args.rehearse else "cuda"
    for length in args.lengths:
        for mini_sequences in (False, True):
            row = {"bench": "peer", "name": "transformers, checkpointing" + (", mini-sequences" * mini_sequences),
                   "layers": args.layers, "T": length}
            try:
                seconds, peak = measure(args.layers, length, mini_sequences, device, args.rehearse)
                row.update(seconds=round(seconds, 4), tokens_per_s=round(length / seconds), peak_bytes=peak)
            except torch.OutOfMemoryError:
                row["error"] = "out of memory"
            print(json.dumps(row), flush=True)
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
