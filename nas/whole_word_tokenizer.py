"""A small CLIP tokenizer that can be made offline: known words are one token, others fall apart into letters."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"


def vocabulary_and_merges(words: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair vocabulary and merges under which each word becomes exactly one token.

    The first two ids are start and end of text, then come the words, then letters, digits and pieces.
    Words are added in turn: what the merges so far leave apart is joined by new merges of the lowest rank.
    Earlier words always have an older merge to apply, so new ones never change how they are read.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        while len(pieces := _apply(word, merges)) > 1:
            merges.append((pieces[0], pieces[1]))
    symbols = [START, END, *(word + _END_OF_WORD for word in words)]
    letters = string.ascii_lowercase + string.digits + string.punctuation
    symbols += [*letters, *(letter + _END_OF_WORD for letter in letters)]
    symbols += [a + b for a, b in merges]
    vocabulary = {symbol: i for i, symbol in enumerate(dict.fromkeys(symbols))}
    return vocabulary, merges


def _apply(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one word (Sennrich et al. 2016): the lowest-ranked pair first."""
    rank = {pair: i for i, pair in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + _END_OF_WORD]
    while len(pieces) > 1:
        pairs = list(itertools.pairwise(pieces))
        best = min(pairs, key=lambda pair: rank.get(pair, len(rank)))
        if best not in rank:
            break
        i = pairs.index(best)
        pieces[i : i + 2] = [best[0] + best[1]]
    return pieces


def write_tokenizer(folder: Path, words: tuple[str, ...], max_length: int) -> int:
    """Write vocab.json, merges.txt and tokenizer_config.json of a CLIPTokenizer; returns the vocabulary's size."""
    vocabulary, merges = vocabulary_and_merges(words)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
        "do_lower_case": True,
        "add_prefix_space": False,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return len(vocabulary)
