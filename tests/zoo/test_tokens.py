"""The tokenizer: CLIP's own class over our vocabulary, one token a word."""

from pathlib import Path

import pytest
import torch

from experiments.zoo.scenes import caption, combinations
from experiments.zoo.tokens import CONTEXT, END, START, caption_tokens, merges, vocabulary, words, write_tokenizer


def test_every_word_of_the_captions_is_one_token(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    assert type(tokenizer).__name__.startswith("CLIPTokenizer")
    for word in words():
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1, word
    assert len(tokenizer) == len(vocabulary())
    # open_clip pools at the highest id, and its embedding has a row for each
    assert vocabulary()[END] == len(vocabulary()) - 1 == max(vocabulary().values())


def test_tokenizing_and_decoding_a_caption_goes_round(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    for text in map(caption, combinations()):
        ids = tokenizer(text).input_ids
        assert len(ids) <= CONTEXT
        back = tokenizer.decode(ids, skip_special_tokens=True)
        assert back.replace(" - ", "-") == text
        assert tokenizer(back).input_ids == ids


def test_the_table_of_caption_tokens_is_the_tokenizers(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    captions = [caption(c) for c in combinations()]
    found = tokenizer(captions, padding="max_length", max_length=CONTEXT, return_tensors="pt").input_ids
    assert torch.equal(found, caption_tokens())


@pytest.mark.parametrize("text", ["", "a zebra on the left", "Crème brûlée 42!"])
def test_any_other_text_falls_apart_into_known_pieces(tmp_path: Path, text: str) -> None:
    ids = write_tokenizer(tmp_path)(text).input_ids
    assert ids[0] == vocabulary()[START]
    assert ids[-1] == vocabulary()[END]
    assert vocabulary()[END] not in ids[1:-1]  # which is also the unknown token


def test_merges_take_the_most_frequent_pair_first_and_end_in_whole_words() -> None:
    assert merges(["ab"]) == [("a", "b</w>")]
    # `an` stands four times and goes first; what is then left of `banana` is merged from the front
    assert merges(["banana", "bandan"])[0] == ("a", "n")
    assert merges(["aaaa"]) == [("a", "a"), ("a", "a</w>"), ("aa", "aa</w>")]
