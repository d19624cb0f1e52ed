"""A model that `brevity` made smaller: its architecture's class, with the shapes that `config.json` has under `brevity`."""
from torch import nn, tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, eager_attention_forward, rotate_half
PARTS = {"attn": ["self_attn", "input_layernorm"], "mlp": ["mlp", "post_attention_layernorm"]}


class BrevityConfig(LlamaConfig):
    model_type, validate_architecture = "brevity_llama", lambda self: None


class BrevityAttention(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, attention_mask=None, past_key_values=None, **kwargs):
        heads, shape, reads = self.heads, hidden_states.shape[:-1], self.heads["kv_of"]
        q, k = (linear(hidden_states).view(*shape, -1, heads["qk_dim"]) for linear in (self.q_proj, self.k_proj))
        q, k = (self.q_norm(q), self.k_norm(k)) if hasattr(self, "q_norm") else (q, k)
        v = self.v_proj(hidden_states).view(*shape, -1, heads["v_dim"])
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [batch, heads, tokens, width]
        if heads["rotated"]:  # each key head, and the query heads that read it, by the frequencies that it has left
            kept = heads.get("pairs") or [*range(k.shape[3] // 2)] * k.shape[1]
            kept = tensor(kept, device=k.device).view(k.shape[1], -1).repeat(1, 2)
            cos, sin = (x[..., kept].transpose(1, 2) for x in position_embeddings)
            q, k = q * cos[:, reads] + rotate_half(q) * sin[:, reads], k * cos + rotate_half(k) * sin
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        window = heads["reach"]["window"] if isinstance(heads["reach"], dict) else None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, weights = attend(self, q, k[:, reads], v[:, reads], attention_mask, scaling=heads["scale"],
                                dropout=self.attention_dropout * self.training, sliding_window=window, **kwargs)
        return self.o_proj(mixed.reshape(*shape, -1)), weights


class BrevityDecoderLayer(LlamaDecoderLayer):
    def forward(self, x, past_key_values=None, **kwargs):
        if self.self_attn is not None:
            x = self.attn_shortcut(x) + self.self_attn(self.input_layernorm(x), past_key_values=past_key_values, **kwargs)[0]
        elif past_key_values is not None:  # which counts tokens all the same
            past_key_values.update(*[x[:, None, :, :1]] * 2, self.layer_idx)
        return x if self.mlp is None else self.mlp_shortcut(x) + self.mlp(self.post_attention_layernorm(x))


class BrevityForCausalLM(LlamaForCausalLM):
    config_class, _no_split_modules = BrevityConfig, ["LlamaDecoderLayer", "BrevityDecoderLayer"]

    def __init__(self, config):
        super().__init__(config)
        for n, (layer, block) in enumerate(zip(self.model.layers, config.brevity.get("blocks", []))):
            layer.__class__, layer.self_attn.__class__, layer.layer_idx = BrevityDecoderLayer, BrevityAttention, n
            layer.attn_shortcut = layer.mlp_shortcut = nn.Identity()
            layer.self_attn.heads, layer.self_attn.num_key_value_groups = block.get("heads"), 1
            layer._modules.update({name: None for part in block.get("dropped", []) for name in PARTS[part]})
        if stream := config.brevity.get("stream"):  # which is as wide as this behind the last block
            self.model.norm = type(self.model.norm)(stream["last"], stream["last_eps"])
        for name, linear in config.brevity["linears"].items():
            *inner, last = zip(linear["widths"], linear["widths"][1:])
            thin = [nn.Linear(*shape, bias=False) for shape in inner] + [nn.Linear(*last, bias=linear.get("bias", False))]
            self.set_submodule(name, nn.Sequential(*thin) if inner else thin[0])
        self.post_init()
