"""Makes the golden files: what transformers computes for a tiny random model of each architecture.

    python tests/golden/make.py [NAME...]

Weights are not stored. They come from a generator that the files name, the same as in `../vectors/tiny_forward.json`:
`x = x * 6364136223846793005 + 1442695040888963407 mod 2^64` gives `u = (x >> 33) / 2^31`; one sample is
`n = u1 + u2 + u3 + u4 - 2` in double precision; a value is `0.25 n`, or `1 + 0.1 n` for gains of norms (but not for
Gemma's, which are stored minus one). Parameters are filled in the order of their names, row by row, starting from `seed`.

Each model is written as a directory, read back by `from_pretrained` in single precision, and run with eager attention. Of
encoders the last hidden states are kept. Each file names the version of transformers that it was made with.
"""

import json
import pathlib
import re
import sys
import tempfile
import zlib

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
GENERATOR = (
    "64-bit LCG: x = x*6364136223846793005 + 1442695040888963407 mod 2^64, output u = (x >> 33) / 2^31; one sample "
    "n = u1+u2+u3+u4-2 (computed in f64); value = 0.25*n, or 1 + 0.1*n for weights of norm layers; parameters filled "
    "in byte-wise sorted name order, row-major, starting state = seed"
)

SMALL = dict(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
GROUPED = SMALL | dict(num_key_value_heads=2)
DEFAULT = dict(rope_type="default", rope_theta=10000.0)

# Tokens that positions are not counted for are not among the inputs.
PADDED = SMALL | dict(max_position_embeddings=24, pad_token_id=1)
LOCAL = SMALL | dict(
    num_hidden_layers=4,
    local_attention=7,
    **{f"{name}_token_id": 0 for name in ["pad", "bos", "eos", "cls", "sep"]},
)

# name -> (configuration class, model class, settings, what to change in config.json and in the names of tensors, and what
# to change in the configuration that is kept: the words of another implementation, which transformers does not read)
CASES = {
    "llama": ("Llama", "CausalLM", GROUPED | dict(head_dim=12)),
    "llama-bias-tied": (
        "Llama",
        "CausalLM",
        GROUPED | dict(attention_bias=True, mlp_bias=True, tie_word_embeddings=True, rms_norm_eps=1e-3),
    ),
    "llama-scaled-llama3": (
        "Llama",
        "CausalLM",
        GROUPED
        | dict(
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=100.0,
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            )
        ),
    ),
    "llama-scaled-linear-old-keys": (
        "Llama",
        "CausalLM",
        GROUPED | dict(rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=2.5)),
        dict(rope_parameters=None, rope_theta=500.0, rope_scaling=dict(type="linear", factor=2.5)),
    ),
    "llama-scaled-yarn": (
        "Llama",
        "CausalLM",
        GROUPED
        | dict(
            head_dim=16,
            max_position_embeddings=64,
            rope_parameters=dict(
                rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=16, beta_fast=2.0
            ),
        ),
    ),
    "mistral": ("Mistral", "CausalLM", GROUPED | dict(sliding_window=5)),
    "mistral-no-window": ("Mistral", "CausalLM", GROUPED | dict(sliding_window=None)),
    "qwen2": ("Qwen2", "CausalLM", GROUPED | dict(tie_word_embeddings=True)),
    "qwen2-window": (
        "Qwen2",
        "CausalLM",
        GROUPED | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "qwen2-window-old-keys": (
        "Qwen2",
        "CausalLM",
        GROUPED | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=4, max_window_layers=2),
        dict(layer_types=None),
    ),
    "qwen3": ("Qwen3", "CausalLM", GROUPED | dict(head_dim=10)),
    "gemma2": (
        "Gemma2",
        "CausalLM",
        GROUPED
        | dict(
            num_hidden_layers=3,
            head_dim=8,
            query_pre_attn_scalar=12,
            sliding_window=5,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
    ),
    "gemma2-old-keys": (
        "Gemma2",
        "CausalLM",
        GROUPED | dict(num_hidden_layers=3, head_dim=8, query_pre_attn_scalar=8, sliding_window=4),
        dict(layer_types=None, rope_parameters=None, rope_theta=10000.0),
    ),
    "gemma3": (
        "Gemma3Text",
        "Gemma3ForCausalLM",
        GROUPED
        | dict(
            num_hidden_layers=3,
            head_dim=8,
            query_pre_attn_scalar=6,
            sliding_window=5,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=dict(
                sliding_attention=dict(rope_type="default", rope_theta=50.0),
                full_attention=dict(rope_type="linear", rope_theta=1000.0, factor=3.0),
            ),
        ),
    ),
    "gemma3-old-keys": (
        "Gemma3Text",
        "Gemma3ForCausalLM",
        GROUPED
        | dict(
            num_hidden_layers=3,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=4,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            rope_parameters=dict(
                sliding_attention=dict(rope_type="default", rope_theta=70.0),
                full_attention=dict(rope_type="linear", rope_theta=900.0, factor=2.0),
            ),
        ),
        dict(
            rope_parameters=None,
            layer_types=None,
            sliding_window_pattern=3,
            _sliding_window_pattern=None,
            rope_theta=900.0,
            rope_local_base_freq=70.0,
            rope_scaling=dict(rope_type="linear", factor=2.0),
        ),
    ),
    "phi3": (
        "Phi3",
        "CausalLM",
        GROUPED | dict(sliding_window=6, rope_parameters=DEFAULT | dict(partial_rotary_factor=0.5), pad_token_id=0),
    ),
    "phi3-long": (
        "Phi3",
        "CausalLM",
        GROUPED
        | dict(
            original_max_position_embeddings=8,
            max_position_embeddings=32,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=100.0,
                short_factor=[1.0, 1.1, 1.2, 1.3],
                long_factor=[1.0, 1.5, 3.0, 5.0],
            ),
            pad_token_id=0,
        ),
    ),
    "phi3-long-within-context": (
        "Phi3",
        "CausalLM",
        GROUPED
        | dict(
            original_max_position_embeddings=16,
            max_position_embeddings=64,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=100.0,
                short_factor=[1.0, 1.1, 1.2, 1.3],
                long_factor=[1.0, 1.5, 3.0, 5.0],
            ),
            pad_token_id=0,
        ),
    ),
    "smollm3": ("SmolLM3", "CausalLM", GROUPED | dict(num_hidden_layers=4, pad_token_id=0)),
    "smollm3-window": (
        "SmolLM3",
        "CausalLM",
        GROUPED
        | dict(
            num_hidden_layers=3,
            no_rope_layers=[1, 0, 1],
            use_sliding_window=True,
            sliding_window=4,
            attention_bias=True,
            tie_word_embeddings=False,
            pad_token_id=0,
        ),
        dict(layer_types=None),
    ),
    "olmo2": ("Olmo2", "CausalLM", GROUPED | dict(pad_token_id=0)),
    "gpt2": ("GPT2", "GPT2LMHeadModel", dict(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=24)),
    "gpt2-bare-names": (
        "GPT2",
        "GPT2LMHeadModel",
        dict(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=24, n_inner=40),
        {},
        ("transformer.", ""),
    ),
    "gpt_neo": (
        "GPTNeo",
        "CausalLM",
        dict(
            vocab_size=40,
            hidden_size=32,
            num_layers=3,
            attention_types=[[["global", "local"], 1], [["local"], 1]],
            num_heads=4,
            window_size=4,
            max_position_embeddings=24,
        ),
    ),
    "gpt_neo-old-keys": (
        "GPTNeo",
        "CausalLM",
        dict(
            vocab_size=40,
            hidden_size=32,
            num_layers=2,
            attention_types=[[["local", "global"], 1]],
            num_heads=4,
            window_size=5,
            max_position_embeddings=24,
        ),
        dict(attention_layers=None),
    ),
    "gpt_neox": ("GPTNeoX", "CausalLM", SMALL | dict(rope_parameters=DEFAULT | dict(partial_rotary_factor=0.5))),
    "gpt_neox-sequential-old-keys": (
        "GPTNeoX",
        "CausalLM",
        SMALL
        | dict(
            use_parallel_residual=False,
            hidden_act="gelu_fast",
            rope_parameters=dict(rope_type="default", rope_theta=400.0, partial_rotary_factor=0.25),
        ),
        dict(rope_parameters=None, rotary_pct=0.25, rotary_emb_base=400),
    ),
    "opt": (
        "OPT",
        "CausalLM",
        dict(
            vocab_size=40,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            word_embed_proj_dim=32,
        ),
    ),
    "opt-projected-norm-after": (
        "OPT",
        "CausalLM",
        dict(
            vocab_size=40,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            word_embed_proj_dim=24,
            do_layer_norm_before=False,
        ),
    ),
    "bert": ("Bert", "BertModel", SMALL | dict(max_position_embeddings=24)),
    "bert-masked-lm": ("Bert", "BertForMaskedLM", SMALL | dict(max_position_embeddings=24)),
    "roberta": ("Roberta", "RobertaModel", PADDED | dict(type_vocab_size=1)),
    "roberta-xlm": ("XLMRoberta", "XLMRobertaModel", PADDED | dict(type_vocab_size=1, layer_norm_eps=1e-5)),
    "roberta-camembert": ("Camembert", "CamembertModel", PADDED),
    "roberta-masked-lm": ("Roberta", "RobertaForMaskedLM", PADDED | dict(type_vocab_size=1)),
    "distilbert": (
        "DistilBert",
        "DistilBertModel",
        dict(vocab_size=40, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=24),
    ),
    "mpnet": ("MPNet", "MPNetModel", PADDED),
    "modernbert": ("ModernBert", "ModernBertModel", LOCAL),
    "modernbert-biases": (
        "ModernBert",
        "ModernBertForMaskedLM",
        LOCAL
        | dict(
            attention_bias=True,
            mlp_bias=True,
            norm_bias=True,
            layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        ),
    ),
    "modernbert-old-keys": (
        "ModernBert",
        "ModernBertModel",
        LOCAL,
        dict(
            layer_types=None,
            rope_parameters=None,
            global_rope_theta=900.0,
            local_rope_theta=70.0,
            local_attention=6,
            global_attn_every_n_layers=2,
        ),
    ),
    "nomic_bert": ("NomicBert", "NomicBertModel", SMALL | dict(max_position_embeddings=24)),
    "nomic_bert-old-keys": (
        "NomicBert",
        "NomicBertModel",
        SMALL | dict(max_position_embeddings=24),
        {},
        None,
        dict(
            hidden_size=None,
            num_hidden_layers=None,
            num_attention_heads=None,
            intermediate_size=None,
            max_position_embeddings=None,
            layer_norm_eps=None,
            hidden_act=None,
            head_dim=None,
            rope_parameters=None,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_inner=48,
            n_positions=24,
            layer_norm_epsilon=1e-12,
            activation_function="swiglu",
            prenorm=False,
            parallel_block=False,
            use_rms_norm=False,
            causal=False,
            qkv_proj_bias=False,
            mlp_fc1_bias=False,
            mlp_fc2_bias=False,
            rotary_emb_base=1000,
            rotary_emb_fraction=1.0,
            rotary_emb_interleaved=False,
            rotary_emb_scale_base=None,
            rotary_scaling_factor=None,
        ),
    ),
}


def stream(seed):
    """Samples of the generator, without end."""
    x = seed
    while True:
        total = 0.0
        for _ in range(4):
            x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
            total += (x >> 33) / 2**31
        yield total - 2.0


def is_gain_near_one(name, kind):
    is_norm = re.search(r"norm|ln_|_ln\b|LayerNorm", name) and name.endswith(".weight")
    return bool(is_norm) and not kind.startswith("Gemma")


def changed(config, change):
    """A configuration with other values; those that are none are taken out."""
    gone = {key for key, value in change.items() if value is None}
    return {key: value for key, value in (config | change).items() if key not in gone}


def make(name, kind, model_name, settings, change=None, rename=None, kept=None):
    if model_name == "CausalLM":
        model_name = f"{kind}ForCausalLM"
    config = getattr(transformers, f"{kind}Config")(**settings)
    model_class = getattr(transformers, model_name)
    number = zlib.crc32(name.encode()) % 1000
    seed = 1000 + number
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model_class(config).to(torch.float32).save_pretrained(folder)
        written = changed(json.loads((folder / "config.json").read_text()), change or {})
        (folder / "config.json").write_text(json.dumps(written))
        with safe_open(folder / "model.safetensors", "pt") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
        if rename:
            shapes = {key.replace(*rename): shape for key, shape in shapes.items()}
        samples, tensors, parameters = stream(seed), {}, []
        for key in sorted(shapes):
            norm = is_gain_near_one(key, kind)
            n = torch.tensor(
                [next(samples) for _ in range(int(torch.tensor(shapes[key]).prod()))], dtype=torch.float64
            )
            value = 1 + 0.1 * n if norm else 0.25 * n
            tensors[key] = value.to(torch.float32).reshape(shapes[key])
            parameters.append(dict(name=key, shape=shapes[key], norm=norm))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        model, info = model_class.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        is_encoder = not model.can_generate()
        ids = [(7 * i * i + 3 * i + number) % 40 for i in range(14)]
        if is_encoder and kind != "Bert":
            # Padding would not be counted.
            ids = [3 + id % 37 for id in ids]
        with torch.no_grad():
            encoder = model.eval().base_model if is_encoder else model.eval()
            output = encoder(torch.tensor([ids]))
    key, values = ("last_hidden_state", output.last_hidden_state) if is_encoder else ("logits", output.logits)
    values = values[0].to(torch.float32).contiguous()
    fixture = dict(name=name, config=changed(written, kept or {}), seed=seed, parameters=parameters, input_ids=ids)
    fixture[key] = dict(dtype="F32", shape=list(values.shape), data_hex=values.numpy().tobytes().hex())
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fixture.items())
    head = f'"producer": "transformers {transformers.__version__}",\n"generator": {json.dumps(GENERATOR)},\n'
    (HERE / f"{name}.json").write_text("{\n" + head + lines + "\n}\n")
    print(f"{name}: largest {values.abs().max():.3f}, spread {values.std():.3f}")


if __name__ == "__main__":
    for name, case in CASES.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            make(name, *case)
