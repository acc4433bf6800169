"""Torch modules whose attention is written unlike that of most, as tiny as those of ``modules``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.modules import (
    HEADS,
    HIDDEN,
    IMAGE,
    LAYERS,
    VOCABULARY,
    ImageEncoder,
    TokenEncoder,
    Wrapper,
)

if TYPE_CHECKING:
    from torch import nn

_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class StatesDecoder(Wrapper):
    """Token numbers and a padding mask to hidden states, without a cache."""

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return ``[batch, length, hidden]``."""
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return found.last_hidden_state


class Translator(Wrapper):
    """Tokens of one sequence and the first of another to hidden states of the decoder."""

    def forward(self, input_ids: Any, decoder_input_ids: Any) -> Any:
        """Return ``[batch, length, hidden]``."""
        found = self.model(
            input_ids=input_ids, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return found.last_hidden_state


class WaveEncoder(Wrapper):
    """Samples of sound to hidden states."""

    def forward(self, input_values: Any) -> Any:
        """Return ``[batch, frames, hidden]``."""
        return self.model(input_values).last_hidden_state


def falcon(implementation: str) -> nn.Module:
    """Return a Falcon: one head of keys and values, which the products broadcast."""
    from transformers import FalconConfig, FalconModel

    config = FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        multi_query=True,
        attn_implementation=implementation,
        **_SPECIAL,
    )
    return StatesDecoder(FalconModel(config))


def bloom(implementation: str) -> nn.Module:
    """Return a BLOOM: distances are added to scores, which have merged heads on the way."""
    from transformers import BloomConfig, BloomModel

    config = BloomConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        attn_implementation=implementation,
        **_SPECIAL,
    )
    return StatesDecoder(BloomModel(config))


def codegen(implementation: str) -> nn.Module:
    """Return a CodeGen, which scales behind its mask."""
    from transformers import CodeGenConfig, CodeGenModel

    config = CodeGenConfig(
        vocab_size=VOCABULARY,
        n_embd=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=256,
        rotary_dim=8,
        attn_implementation=implementation,
        **_SPECIAL,
    )
    return StatesDecoder(CodeGenModel(config))


def xlnet(implementation: str) -> nn.Module:
    """Return an XLNet: products are Einsums, sequence first, and the mask is subtracted."""
    from transformers import XLNetConfig, XLNetModel

    config = XLNetConfig(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        n_layer=LAYERS,
        n_head=HEADS,
        d_inner=2 * HIDDEN,
        attn_implementation=implementation,
        **_SPECIAL,
    )
    return TokenEncoder(XLNetModel(config))


def modernbert(implementation: str) -> nn.Module:
    """Return a ModernBERT: rotary positions, and every other layer sees a window of 16 keys."""
    from transformers import ModernBertConfig, ModernBertModel

    config = ModernBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=256,
        global_attn_every_n_layers=2,
        local_attention=16,
        cls_token_id=1,
        sep_token_id=2,
        attn_implementation=implementation,
        **_SPECIAL,
    )
    return TokenEncoder(ModernBertModel(config))


def longformer(implementation: str) -> nn.Module:
    """Return a Longformer, whose scores are a band and no product of query and key."""
    from transformers import LongformerConfig, LongformerModel

    config = LongformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=256,
        attention_window=[16] * LAYERS,
        attn_implementation=implementation,
        **_SPECIAL,
    )
    return TokenEncoder(LongformerModel(config, add_pooling_layer=False))


def bart(implementation: str) -> nn.Module:
    """Return a BART encoder and decoder."""
    from transformers import BartConfig, BartModel

    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=2 * HIDDEN,
        decoder_ffn_dim=2 * HIDDEN,
        max_position_embeddings=256,
        attn_implementation=implementation,
        **_SPECIAL,
    )
    return Translator(BartModel(config))


def swin_v2(implementation: str) -> nn.Module:
    """Return a Swin v2: cosines for scores, with a learnt factor a head."""
    from transformers import Swinv2Config, Swinv2Model

    config = Swinv2Config(
        image_size=32,
        patch_size=2,
        embed_dim=HIDDEN // 2,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=4,
        attn_implementation=implementation,
    )
    return ImageEncoder(Swinv2Model(config, add_pooling_layer=False))


def hiera(implementation: str) -> nn.Module:
    """Return a Hiera: attention in windows, which have an axis of their own."""
    from transformers import HieraConfig, HieraModel

    config = HieraConfig(
        image_size=[IMAGE, IMAGE],
        embed_dim=HIDDEN // 4,
        num_heads=[1, 2, 4, 8],
        depths=[1, 1, 1, 1],
        attn_implementation=implementation,
    )
    return ImageEncoder(HieraModel(config, add_pooling_layer=False))


def wav2vec2(implementation: str) -> nn.Module:
    """Return a wav2vec 2.0 encoder, behind convolutions with group normalisation."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * HIDDEN,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        attn_implementation=implementation,
    )
    return WaveEncoder(Wav2Vec2Model(config))
