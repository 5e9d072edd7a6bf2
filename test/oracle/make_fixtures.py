#!/usr/bin/env python3
"""Makes test/fixtures: tiny random models of every supported family, and what Hugging Face transformers and
torch.optim.AdamW compute with them in float64. README.md in this folder says what is in a fixture and how to
run this.

    test/oracle/make_fixtures.py [--out DIR] [NAME ...]
"""

import argparse
import json
import math
import platform
import shutil
import sys
import zlib
from pathlib import Path

import numpy
import safetensors
import torch
import transformers
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from compare_with_transformers import (  # noqa: E402
    FLOOR, IGNORED, global_norm, load_model, loss_and_gradients, relative_error)

STEPS, A, B = 10, 2, 2  # optimizer steps, micro-batches of a step, sequences of a micro-batch
ADAMW = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 0.25}
MASKED = 0.15           # part of the targets that are not trained on
NOISE = 2e-6            # of an fp32 gradient, relative: what error_fp32 shows
WEIGHT_STD, NORM_STD = 0.2, 0.2  # large: attention far from uniform, norm weights far from 1

SMALL = dict(hidden_size=32, intermediate_size=36, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=61, max_position_embeddings=128)


def rope(kind, theta, **options):
    return {"rope_type": kind, "rope_theta": theta, **options}


LLAMA3_ROPE = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)

# One row a fixture: T, the config's options where they differ from SMALL (as transformers 5 names them), and what
# is stored how: dtype of the weights, shard size, v4 (keys of a config.json as transformers 4 wrote it), and seed
# (another draw of weights and tokens).
FIXTURES = {
    "llama2": dict(
        about="Llama 2: MHA, untied; config.json as the first Llama 2 had it, without rope_theta",
        family="llama", T=43, config=dict(num_key_value_heads=4, intermediate_size=40, rms_norm_eps=1e-5,
                                          rope_parameters=rope("default", 1e4)),
        v4=dict(pretraining_tp=1, rope_scaling=None)),
    "llama3": dict(
        about="Llama 3: GQA, large rope_theta, bf16 weights",
        family="llama", T=48, dtype="bfloat16",
        config=dict(vocab_size=89, intermediate_size=48, rms_norm_eps=1e-5,
                    rope_parameters=rope("default", 5e5))),
    "llama3.1": dict(
        about="Llama 3.1: rope llama3 with all three frequency bands in use, sharded with an index",
        family="llama", T=59, shard="24KB",
        config=dict(head_dim=16, num_key_value_heads=1, rms_norm_eps=1e-5,
                    rope_parameters=rope("llama3", 200.0, **LLAMA3_ROPE)),
        v4=dict(attention_bias=False, mlp_bias=False, pretraining_tp=1, rope_theta=200.0,
                rope_scaling=dict(rope_type="llama3", **LLAMA3_ROPE))),
    "llama3.2": dict(
        about="Llama 3.2: tied, head_dim 16 where hidden / heads is 8, rope llama3, bf16 weights",
        family="llama", T=50, seed=1, dtype="bfloat16",
        config=dict(head_dim=16, vocab_size=71, tie_word_embeddings=True, rms_norm_eps=1e-5,
                    rope_parameters=rope("llama3", 200.0, **dict(LLAMA3_ROPE, factor=32.0)))),
    "llama-linear": dict(
        about="rope linear, spelled type as old configs have it; fp16 weights",
        family="llama", T=45, dtype="float16",
        config=dict(hidden_size=40, head_dim=10, rms_norm_eps=1e-6,
                    rope_parameters=rope("linear", 1e4, factor=2.5)),
        v4=dict(attention_bias=False, pretraining_tp=1, rope_theta=10000.0,
                rope_scaling=dict(type="linear", factor=2.5))),
    "llama-yarn": dict(
        about="rope yarn with nothing but factor and original length given",
        family="llama", T=55,
        config=dict(head_dim=16, num_key_value_heads=1, max_position_embeddings=256,
                    rope_parameters=rope("yarn", 200.0, factor=4.0, original_max_position_embeddings=64))),
    "llama-yarn-explicit": dict(
        about="rope yarn with attention_factor, beta_fast, beta_slow and truncate false; widths that 8 does not divide",
        family="llama", T=41,
        config=dict(hidden_size=36, head_dim=12, num_key_value_heads=1, intermediate_size=33,
                    max_position_embeddings=384,
                    rope_parameters=rope("yarn", 500.0, factor=6.0, original_max_position_embeddings=64,
                                         attention_factor=1.25, beta_fast=5.0, beta_slow=0.3, truncate=False))),
    "llama-bias": dict(
        about="attention_bias and mlp_bias",
        family="llama", T=47,
        config=dict(attention_bias=True, mlp_bias=True, rope_parameters=rope("default", 1e3))),
    "mistral": dict(
        about="Mistral: sliding window of 13, MQA, a large norm epsilon",
        family="mistral", T=61,
        config=dict(num_key_value_heads=1, sliding_window=13, rms_norm_eps=1e-2,
                    rope_parameters=rope("default", 1e3)),
        v4=dict(rope_theta=1000.0, sliding_window=13)),
    "mistral-nemo": dict(
        about="Mistral without a window, head_dim 12 where hidden / heads is 8, fp16 weights in shards",
        family="mistral", T=40, dtype="float16", shard="16KB",
        config=dict(head_dim=12, num_key_value_heads=1, sliding_window=None, vocab_size=131, rms_norm_eps=1e-5,
                    rope_parameters=rope("default", 1e6))),
    "qwen2": dict(
        about="Qwen2: q/k/v bias, tied; sliding_window is given but switched off",
        family="qwen2", T=52, seed=1,
        config=dict(vocab_size=101, tie_word_embeddings=True, rope_parameters=rope("default", 1e4)),
        v4=dict(rope_theta=10000.0, sliding_window=9, use_sliding_window=False, max_window_layers=1)),
    "qwen2-window": dict(
        about="Qwen2 with a sliding window on the layers that layer_types names; three layers",
        family="qwen2", T=44,
        config=dict(num_hidden_layers=3, num_key_value_heads=1, intermediate_size=32,
                    use_sliding_window=True, sliding_window=11, max_window_layers=3,
                    layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                    rope_parameters=rope("default", 1e4))),
    "qwen2.5-yarn": dict(
        about="Qwen2.5: rope yarn with mscale, windows from max_window_layers on",
        family="qwen2", T=49,
        config=dict(num_key_value_heads=1, use_sliding_window=True, sliding_window=10, max_window_layers=1,
                    max_position_embeddings=512,
                    rope_parameters=rope("yarn", 300.0, factor=8.0, original_max_position_embeddings=64,
                                         mscale=0.9, mscale_all_dim=0.4)),
        v4=dict(rope_theta=300.0, sliding_window=10, use_sliding_window=True, max_window_layers=1,
                rope_scaling=dict(type="yarn", factor=8.0, original_max_position_embeddings=64,
                                  mscale=0.9, mscale_all_dim=0.4))),
    "qwen3": dict(
        about="Qwen3: q/k norm, head_dim 16 where hidden / heads is 8, tied",
        family="qwen3", T=46, seed=1,
        config=dict(head_dim=16, vocab_size=79, num_key_value_heads=1, tie_word_embeddings=True,
                    rope_parameters=rope("default", 1e6))),
}

# Keys of a config.json that transformers 4 and 5 spell the same.
COMMON_KEYS = ("architectures", "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size",
               "initializer_range", "intermediate_size", "max_position_embeddings", "model_type",
               "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps",
               "tie_word_embeddings", "use_cache", "vocab_size")


def generator(name, purpose):
    text = f"{name}{FIXTURES[name].get('seed', '')}/{purpose}"
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def random_weights(model, name):
    rng = generator(name, "weights")
    for parameter_name, p in model.named_parameters():
        is_norm = "norm" in parameter_name
        noise = torch.randn(p.shape, generator=rng)
        p.data = 1 + NORM_STD * noise if is_norm else WEIGHT_STD * noise


def write_model(folder, name, spec):
    """The model's folder, as save_pretrained writes it; config.json by hand where the row says v4."""
    options = dict(SMALL, **spec["config"])
    config = transformers.AutoConfig.for_model(spec["family"], **options)
    model = transformers.AutoModelForCausalLM.from_config(config)
    random_weights(model, name)
    dtype = spec.get("dtype", "float32")
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=spec.get("shard", "1GB"))
    if "v4" in spec:
        path = folder / "config.json"
        written = json.loads(path.read_text())
        v4 = {key: written[key] for key in COMMON_KEYS if key in written}
        if options.get("head_dim"):
            v4["head_dim"] = options["head_dim"]
        v4.update(spec["v4"], torch_dtype=dtype, transformers_version="4.45.0")
        path.write_text(json.dumps(v4, indent=2, sort_keys=True) + "\n")
        check_same_model(transformers.AutoConfig.from_pretrained(folder), config)


def check_same_model(read, meant):
    """The config that transformers reads from a file written by hand is the one that was meant."""
    for key in ("head_dim", "sliding_window", "layer_types", "attention_bias", "mlp_bias"):
        assert getattr(read, key, None) == getattr(meant, key, None), f"{key} of {read}"
    rope_read = {key: value for key, value in read.rope_parameters.items() if key != "type"}  # the old spelling
    assert rope_read == meant.rope_parameters, f"{rope_read} is not {meant.rope_parameters}"


def make_batches(name, V, T):
    """input_ids, labels [STEPS, A, B, T]. Labels are the next tokens, some masked; the second micro-batch of
    the second step has no valid target at all."""
    rng = generator(name, "batches")
    tokens = torch.randint(V, (STEPS, A, B, T + 1), generator=rng)
    input_ids, labels = tokens[..., :-1].contiguous(), tokens[..., 1:].clone()
    labels[torch.rand(labels.shape, generator=rng) < MASKED] = IGNORED
    labels[0, 1, 0, T // 3:] = IGNORED  # the micro-batches of a step differ in their number of targets
    labels[1, 1] = IGNORED
    return input_ids, labels


def decays(parameter):
    return parameter.dim() >= 2  # matrices and embeddings; not norms, not biases


def train(model, input_ids, labels, clip=True, decay=decays):
    """STEPS steps of AdamW. Returns (losses, global gradient norms before clipping)."""
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if decay(p)], "weight_decay": ADAMW["weight_decay"]},
              {"params": [p for p in parameters if not decay(p)], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=ADAMW["lr"], eps=ADAMW["eps"],
                                  betas=(ADAMW["beta1"], ADAMW["beta2"]))
    losses, norms = [], []
    for step in range(STEPS):
        losses.append(loss_and_gradients(model, list(zip(input_ids[step], labels[step]))))
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, ADAMW["clip"] if clip else math.inf).item())
        optimizer.step()
    return losses, norms


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(folder, dtype, input_ids, labels):
    """Everything that is compared, in one precision."""
    model = load_model(str(folder), dtype)
    with torch.no_grad():
        logits = model(input_ids=input_ids[0, 0], use_cache=False).logits
    loss_and_gradients(model, list(zip(input_ids[0], labels[0])))
    before = weights(model)
    grad = {name: p.grad.clone() for name, p in model.named_parameters()}
    losses, norms = train(model, input_ids, labels)
    return dict(logits=logits, grad=grad, before=before, weight=weights(model), loss=losses, grad_norm=norms)


def update_error(result, reference):
    """Error of the weights' change over all steps, per tensor, relative to the change."""
    return {name: relative_error(result["weight"][name].double() - reference["before"][name],
                                 reference["weight"][name] - reference["before"][name])
            for name in reference["weight"]}


def fp32_errors(result, reference):
    floor = FLOOR * global_norm(reference["grad"].values())
    pairs = {key: list(zip(result[key], reference[key])) for key in ("loss", "grad_norm")}
    return {
        "logits": relative_error(result["logits"], reference["logits"]),
        "loss": max(abs(x - y) / abs(y) for x, y in pairs["loss"]),
        "grad_norm": max(abs(x - y) / abs(y) for x, y in pairs["grad_norm"]),
        "grad": {name: relative_error(g, reference["grad"][name], floor) for name, g in result["grad"].items()},
        "update": update_error(result, reference),
    }


def check_gradient(folder, reference, input_ids, labels, name):
    """The directional derivative by central differences against the gradient: fails when any operation of the
    reference ran in less than float64, or when a gradient is wrong."""
    model = load_model(str(folder), torch.float64)
    rng, h, slope, loss = generator(name, "direction"), 1e-6, 0.0, {}
    direction = {n: torch.randn(p.shape, generator=rng, dtype=torch.float64) for n, p in model.named_parameters()}
    for n, d in direction.items():
        slope += (reference["grad"][n] * d).sum().item()
    for sign in (1, -1):
        for n, p in model.named_parameters():
            p.data = reference["before"][n] + sign * h * direction[n]
        loss[sign] = loss_and_gradients(model, list(zip(input_ids[0], labels[0])))
    error = abs((loss[1] - loss[-1]) / (2 * h) - slope) / global_norm(reference["grad"].values())
    assert error < 1e-7, f"{name}: the gradient differs from finite differences by {error:.1e}"


def sensitivity(folder, reference, input_ids, labels):
    """How far the update moves when the optimizer is slightly wrong: what a test of it must resolve."""
    def worst(**wrong):
        model = load_model(str(folder), torch.float64)
        train(model, input_ids, labels, **wrong)
        return max(update_error(dict(weight=weights(model)), reference).values())

    return {"no_clipping": worst(clip=False), "norms_and_biases_decay": worst(decay=lambda p: True)}


def update_noise(folder, reference, input_ids, labels, name, trials=8):
    """The largest error of an update when every gradient carries noise as large as fp32 makes it: AdamW turns
    the rounding of an element whose gradient is near zero into a step of full length. Exact zeros stay zero."""
    rng, worst = generator(name, "noise"), 0.0

    def disturbed(grad):
        noise = torch.randn(grad.shape, generator=rng, dtype=grad.dtype)
        return grad + (grad != 0) * noise * NOISE * grad.square().mean().sqrt()

    for _ in range(trials):
        model = load_model(str(folder), torch.float64)
        for p in model.parameters():
            p.register_hook(disturbed)
        train(model, input_ids, labels)
        worst = max(worst, *update_error(dict(weight=weights(model)), reference).values())
    assert worst < 2e-3, f"{name}: an update amplifies noise to {worst:.1e}: give it another seed"
    return worst


def describe(model, spec):
    """The model's shape in this project's letters, as the config reader should find it."""
    c = model.config
    kinds = getattr(c, "layer_types", None) or ["sliding_attention"] * c.num_hidden_layers
    window = getattr(c, "sliding_window", None) or 0
    names = [name for name, _ in model.named_parameters()]
    return {
        "family": spec["family"], "C": c.hidden_size, "L": c.num_hidden_layers, "NH": c.num_attention_heads,
        "NKV": c.num_key_value_heads, "HS": model.model.layers[0].self_attn.head_dim, "FF": c.intermediate_size,
        "V": c.vocab_size, "max_T": c.max_position_embeddings, "norm_eps": c.rms_norm_eps,
        "tied": c.tie_word_embeddings,
        "qkv_bias": any(n.endswith("q_proj.bias") for n in names),
        "o_bias": any(n.endswith("o_proj.bias") for n in names),
        "mlp_bias": any(n.endswith("up_proj.bias") for n in names),
        "qk_norm": any(n.endswith("q_norm.weight") for n in names),
        "windows": [window if kind == "sliding_attention" else 0 for kind in kinds],
        "attention_scale": model.model.rotary_emb.attention_scaling,
    }


def make_fixture(out, name, spec):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    write_model(folder, name, spec)
    V = dict(SMALL, **spec["config"])["vocab_size"]
    input_ids, labels = make_batches(name, V, spec["T"])

    reference = run(folder, torch.float64, input_ids, labels)
    errors = fp32_errors(run(folder, torch.float32, input_ids, labels), reference)
    check_gradient(folder, reference, input_ids, labels, name)
    assert min(reference["grad_norm"]) > 1.5 * ADAMW["clip"], f"{name}: clipping is not active: lower it"

    model = load_model(str(folder), torch.float64)
    tensors = {"input_ids": input_ids, "labels": labels, "logits": reference["logits"],
               "loss": torch.tensor(reference["loss"], dtype=torch.float64),
               "grad_norm": torch.tensor(reference["grad_norm"], dtype=torch.float64),
               "inv_freq": model.model.rotary_emb.inv_freq}
    for kind in ("grad", "weight"):
        tensors.update({f"{kind}.{n}": t for n, t in reference[kind].items()})
    save_file({n: t.float().contiguous() for n, t in tensors.items()}, folder / "oracle.safetensors",
              metadata={"format": "pt"})

    record = {
        "name": name, "about": spec["about"],
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0],
                     "transformers": transformers.__version__, "safetensors": safetensors.__version__,
                     "numpy": numpy.__version__},
        "reference": "float64 throughout from the stored weights, except for the rotary frequencies, which "
                     "transformers computes in fp32; results rounded to fp32",
        "weights_dtype": spec.get("dtype", "float32"), "config_of_transformers": 4 if "v4" in spec else 5,
        "steps": STEPS, "A": A, "B": B, "T": spec["T"], "adamw": ADAMW,
        "decays": [n for n, p in model.named_parameters() if decays(p)],
        "valid_targets": (labels != IGNORED).sum(dim=(1, 2, 3)).tolist(),
        "loss": reference["loss"], "grad_norm": reference["grad_norm"],
        "model": describe(model, spec),
        "sensitivity": sensitivity(folder, reference, input_ids, labels),
        "update_noise": update_noise(folder, reference, input_ids, labels, name),
        "error_fp32": errors,
    }
    (folder / "oracle.json").write_text(json.dumps(record, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:20s} {size / 1e3:4.0f} kB  loss {reference['loss'][0]:.3f} (ln V {math.log(V):.3f})  "
          f"norm {min(reference['grad_norm']):.2f}..{max(reference['grad_norm']):.2f}  fp32 errors: "
          f"logits {errors['logits']:.1e} grad {max(errors['grad'].values()):.1e} "
          f"update {max(errors['update'].values()):.1e}  noise {record['update_noise']:.1e}  "
          f"wrong optimizer {min(record['sensitivity'].values()):.1e}")
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "test" / "fixtures")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(FIXTURES)} (default: all)")
    args = parser.parse_args()
    for name in args.names:
        if name not in FIXTURES:
            parser.error(f"no fixture {name}; there are {', '.join(FIXTURES)}")
    torch.set_num_threads(1)  # sums in one order: the same files every time
    transformers.utils.logging.disable_progress_bar()
    total = sum(make_fixture(args.out, name, FIXTURES[name]) for name in args.names or FIXTURES)
    print(f"total {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
