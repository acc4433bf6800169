"""Byte-level BPE: what tokens are, learned from the text itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from hocket.fl.core.errors import ConfigError
from hocket.runtime.files import atomic_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

END_OF_TEXT = "<|endoftext|>"
_BYTES = 256


class TextTokenizer:
    """Text to tokens and back; what it has never seen it spells in bytes.

    Args:
        tokenizer: Of the library, with a token for the end of a text.

    Raises:
        ConfigError: It has none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        end = tokenizer.token_to_id(END_OF_TEXT)
        if end is None:
            raise ConfigError(f"the tokenizer has no token {END_OF_TEXT!r}")
        self.end_of_text: int = end

    @property
    def vocabulary(self) -> int:
        """Tokens there are."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without one for its end."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens; an end of text is none of it."""
        return str(self._tokenizer.decode(list(tokens)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as the library's JSON."""
        with atomic_file(path) as file:
            file.write(self._tokenizer.to_str(pretty=True).encode())


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> TextTokenizer:
    """Return a tokenizer that has learned from texts.

    Args:
        texts: To learn from.
        vocabulary: Tokens at most; all bytes and the end of a text are among them.

    Raises:
        ConfigError: The vocabulary is too small for these.
    """
    if vocabulary <= _BYTES:
        raise ConfigError(f"vocabulary must be above {_BYTES}, got {vocabulary}")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(tokenizer)


def load_tokenizer(path: str | os.PathLike[str]) -> TextTokenizer:
    """Return the tokenizer of a file.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    try:
        return TextTokenizer(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except Exception as error:
        # The library raises Exception itself.
        raise ConfigError(f"{path}: is no tokenizer: {error}") from error
