"""A CLIP tokenizer for the captions of the scenes: byte-pair merges that make every word of theirs one token.

Only the vocabulary is ours. The files are what transformers' `CLIPTokenizer` reads, and any text can be encoded:
what is no word of the captions falls apart into bytes, as in CLIP.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from open_clip.tokenizer import bytes_to_unicode
from torch import Tensor
from transformers import CLIPTokenizer

from experiments.zoo.scenes import caption, combinations

CONTEXT = 16  # tokens; the longest caption has 14 with its two ends
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def words() -> tuple[str, ...]:
    """What the captions consist of, split as CLIP splits text: runs of letters, and the hyphen of t-shirt."""
    return tuple(sorted({word for c in combinations() for word in _split(caption(c))}))


def merges(wanted: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges (arXiv:1508.07909) learned until every wanted word is one symbol.

    The most frequent pair goes first, among equals the first in the alphabet.
    """
    spelt = [(*word[:-1], word[-1] + WORD_END) for word in wanted]
    learned: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in spelt for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        spelt = [_merged(word, best) for word in spelt]
    return learned


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Token to id, as CLIP orders them: bytes, bytes that end a word, what was merged, the two special tokens."""
    alphabet = sorted(bytes_to_unicode().values())
    ends = [letter + WORD_END for letter in alphabet]
    symbols = [*alphabet, *ends, *(first + second for first, second in merges(words())), START, END]
    return {symbol: i for i, symbol in enumerate(symbols)}


@lru_cache(maxsize=1)
def caption_tokens() -> Tensor:
    """int64 [K, CONTEXT]: what the tokenizer makes of every caption, in the order of `combinations()`."""
    rows = [[f"{word}{WORD_END}" for word in _split(caption(c))] for c in combinations()]
    padded = [[START, *row, *[END] * (CONTEXT - 1 - len(row))] for row in rows]
    return torch.tensor([[vocabulary()[token] for token in row] for row in padded])


def null_tokens() -> Tensor:
    """int64 [1, CONTEXT]: what the tokenizer makes of no text, the condition of classifier-free guidance."""
    return torch.tensor([[vocabulary()[START], *[vocabulary()[END]] * (CONTEXT - 1)]])


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the tokenizer's configuration, and return the tokenizer read from them.

    Padding is the end token, as in Stable Diffusion v1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary()) + "\n")
    learned = [f"{first} {second}" for first, second in merges(words())]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *learned]) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    return CLIPTokenizer.from_pretrained(folder)


def _split(text: str) -> list[str]:
    return re.findall(r"[a-z]+|-", text)


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    result: list[str] = []
    for symbol in word:
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return tuple(result)
