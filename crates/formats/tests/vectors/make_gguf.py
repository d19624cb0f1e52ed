#!/usr/bin/env python3
"""Writes small GGUF files with the `gguf` package, and what other programs make of them.

    python3 make_gguf.py          (in this directory)

Made with gguf 0.19, transformers 5.23, tokenizers 0.23, sentencepiece 0.2.3, numpy 2.4.

* `vocabulary-*.gguf` have a vocabulary and no tensors. `vocabularies.json` has the ids that the programs the
  vocabularies come from give for some texts: sentencepiece, and the tokenizer classes of transformers.
* `llama.gguf` is a model of one block with random weights in several types. `llama.json` has, for each tensor under
  its name in a checkpoint, its shape, and the sum and the first values of what the package decodes it to.
"""
import io
import json
import random

import gguf
import numpy as np
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertTokenizer, GPT2Tokenizer, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import TikTokenConverter

WORDS = """the a small old green quiet river stone garden window letter ship evening morning found lost built opened
carried remembered under over behind without slowly never always three seven and but because it's they're don't
children's light lighter lightest unlit relighting""".split()
TEXTS = ["", " ", "the small garden", "  two  spaces ", "It's THEY'RE don'T", "a1 22 333 4444 55555", "tabs\tand\n\nlines\r\n x",
         "naïve café Ünlit", "日本語の文", "🙂🙃 ok", "e\u0301tude", "(quiet)... [river]! ~~ $5.00 <s>", "lightest,unlit;relighting",
         "\u00a0nbsp", "x   \n   y", " 12 2024\n\n\n  (quiet).", "the'S small$5.00]!...", "'s 've'D"]
rng = random.Random(5)
CORPUS = [" ".join(rng.choices(WORDS, k=9)).capitalize() + rng.choice([".", "!", "?", ", 12", " 2024"]) for _ in range(400)]


def write(name, tokenizer_model, tokens, types, scores=None, merges=None, pre=None, special={}, flags={}):
    writer = gguf.GGUFWriter(name, "llama")
    writer.add_tokenizer_model(tokenizer_model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges is not None:
        writer.add_token_merges(merges)
    for key, token in special.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
    for key, flag in flags.items():
        writer.add_bool(f"tokenizer.ggml.{key}", flag)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


expected = {}

# SentencePiece
file = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(CORPUS), model_writer=file, model_type="bpe", vocab_size=360, byte_fallback=True,
    normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=1.0,
    user_defined_symbols=["<tool>"], num_threads=1, minloglevel=2)
sp = sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())
kinds = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else
         4 if sp.id_to_piece(i) == "<tool>" else 1 for i in range(len(sp))]
write("vocabulary-spm.gguf", "llama", [sp.id_to_piece(i) for i in range(len(sp))], kinds,
      scores=[sp.get_score(i) for i in range(len(sp))], special={"bos": 1, "eos": 2, "unknown": 0})
# Control tokens in a text are text to sentencepiece and tokens to everything else.
texts = [text for text in TEXTS if "<s>" not in text] + ["a <tool> b"]
expected["spm"] = [[text, sp.encode(text, add_bos=True), sp.decode(sp.encode(text))] for text in texts]

# Byte-level BPE: one list of merges, cut in different ways
# Trained on uncut pieces, so that merges go across every place where some rule cuts.
PIECES = ["1", "22", "333", "4444", "55555", "'s", "'S", "'RE", "don'T", "it's", "\n\n", "\r\n", "  ", "   \n", " \t", "...", "]!", " (",
          "(quiet", ").", "~~", " ~", "$5", ".00", " 12", " 2024", "unlit;", "lightest,", "the", " the", " small", "garden"]
pieces = ["".join(rng.choices(PIECES, k=3)) for _ in range(600)]
trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=["<|end|>"], show_progress=False,
                              initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
trained = Tokenizer(models.BPE())
trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
trained.train_from_iterator(pieces, trainer)
model = json.loads(trained.to_str())["model"]
vocabulary, merges = model["vocab"], [tuple(m) for m in model["merges"]]
tokens = sorted(vocabulary, key=vocabulary.get)
kinds = [3 if token == "<|end|>" else 1 for token in tokens]


def tiktoken():
    """What transformers builds for the tokenizers of Llama 3."""
    converted = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    pattern = TikTokenConverter(vocab_file=None).pattern
    from tokenizers import Regex
    converted.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return converted


smollm = Tokenizer(models.BPE(vocabulary, merges))
smollm.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
qwen2 = Qwen2Tokenizer(vocab=vocabulary, merges=merges, unk_token=None, pad_token="<|end|>", eos_token="<|end|>")
gpt2 = GPT2Tokenizer(vocab=vocabulary, merges=merges, unk_token="<|end|>", bos_token="<|end|>", eos_token="<|end|>")
encoders = {
    "gpt-2": lambda text: gpt2.encode(text, add_special_tokens=False),
    "qwen2": lambda text: qwen2.encode(text, add_special_tokens=False),
    "llama-bpe": lambda text: tiktoken().encode(text).ids,
    "smollm": lambda text: smollm.encode(text).ids,
}
end = vocabulary["<|end|>"]
for pre, encode in encoders.items():
    write(f"vocabulary-{pre}.gguf", "gpt2", tokens, kinds, merges=[" ".join(m) for m in merges], pre=pre,
          special={"bos": end, "eos": end})
    starts = [end] if pre == "llama-bpe" else []
    expected[pre] = [[text, starts + encode(text), None] for text in TEXTS]

# WordPiece
pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + sorted(set("".join(WORDS)) | set("0123456789.,!?'[]()~$<>;"))
pieces += ["##" + c for c in sorted(set("".join(WORDS))) + list("0123456789")] + sorted(set(WORDS) - set(pieces))
pieces += ["##light", "##ing", "cafe", "naive", "日"]
bert = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, do_lower_case=True)
stored = [p[2:] if p.startswith("##") else p if p.startswith("[") and p.endswith("]") and len(p) > 1 else "\u2581" + p
          for p in pieces]
write("vocabulary-bert.gguf", "bert", stored, [3 if p in pieces[:5] else 1 for p in pieces],
      special={"unknown": 1, "cls": 2, "seperator": 3, "padding": 0, "mask": 4})
expected["bert"] = [[text, bert.encode(text), None] for text in TEXTS]

with open("vocabularies.json", "w", encoding="utf-8") as out:
    json.dump(expected, out, ensure_ascii=False, indent=0)
    out.write("\n")

# A model
random_numbers = np.random.default_rng(7)
writer = gguf.GGUFWriter("llama.gguf", "llama")
writer.add_name("tiny")
writer.add_block_count(1)
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_feed_forward_length(64)
writer.add_head_count(4)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
writer.add_rope_dimension_count(8)
writer.add_vocab_size(24)
writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
record = {}
F32, F16, BF16 = (getattr(gguf.GGMLQuantizationType, name) for name in ["F32", "F16", "BF16"])
Q8, Q4, Q5 = (getattr(gguf.GGMLQuantizationType, name) for name in ["Q8_0", "Q4_0", "Q5_1"])
layer = "model.layers.0."
for name, hf, shape, kind, heads in [
    ("token_embd.weight", "model.embed_tokens.weight", (24, 32), Q8, 0),
    ("blk.0.attn_norm.weight", layer + "input_layernorm.weight", (32,), F32, 0),
    ("blk.0.attn_q.weight", layer + "self_attn.q_proj.weight", (32, 32), Q4, 4),
    ("blk.0.attn_k.weight", layer + "self_attn.k_proj.weight", (16, 32), F16, 2),
    ("blk.0.attn_v.weight", layer + "self_attn.v_proj.weight", (16, 32), Q8, 0),
    ("blk.0.attn_output.weight", layer + "self_attn.o_proj.weight", (32, 32), BF16, 0),
    ("blk.0.ffn_norm.weight", layer + "post_attention_layernorm.weight", (32,), F32, 0),
    ("blk.0.ffn_gate.weight", layer + "mlp.gate_proj.weight", (64, 32), Q5, 0),
    ("blk.0.ffn_up.weight", layer + "mlp.up_proj.weight", (64, 32), Q4, 0),
    ("blk.0.ffn_down.weight", layer + "mlp.down_proj.weight", (32, 64), Q8, 0),
    ("output_norm.weight", "model.norm.weight", (32,), F32, 0),
]:
    values = random_numbers.standard_normal(shape, dtype=np.float32)
    stored = values
    if heads:  # llama.cpp rotates neighbours, checkpoints rotate halves
        stored = values.reshape(heads, 2, shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(shape)
    data = gguf.quants.quantize(stored, kind)
    writer.add_tensor(name, data, raw_dtype=kind)
    decoded = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(shape)
    if heads:
        decoded = decoded.reshape(heads, shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(shape)
    weights = np.arange(1, decoded.size + 1)
    record[hf] = {"shape": list(shape), "weighted_sum": float((decoded.ravel().astype(np.float64) * weights).sum()),
                  "first": [float(x) for x in decoded.ravel()[:4]]}
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
with open("llama.json", "w") as out:
    json.dump(record, out, indent=0)
    out.write("\n")
