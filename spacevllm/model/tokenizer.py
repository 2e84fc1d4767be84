"""A small tokenizer of its own for a model that starts from random weights: Qwen2's manner, few words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spacevllm.data.instance import Instance
from spacevllm.model.processing import END_OF_TURN
from spacevllm.words.instructions import (
    ANSWER_WITH_OPTION,
    QUESTIONS_FOLLOW,
    TIME_INSTRUCTION,
    answer_text,
    choose_wording,
)

_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", END_OF_TURN]
# Qwen2's rule in short: words with their leading space, single digits, everything else
_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def prompt_texts(instances: Iterable[Instance]) -> Iterator[str]:
    """What a model of these instances reads and writes, for training a tiny tokenizer."""
    for instance in instances:
        before, after = choose_wording(instance.task).ask.split("{question}")
        yield from (before, instance.question, after, "user\n", "assistant\n", answer_text(instance))
        yield from (ANSWER_WITH_OPTION.format(letter=chr(65 + i), option=o) for i, o in enumerate(instance.options))
        yield TIME_INSTRUCTION.format(duration_s=instance.duration_s, count=8) + QUESTIONS_FOLLOW


def build_tiny_tokenizer(
    texts: Iterable[str], vocab_size: int = 512, special_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE in the manner of Qwen2's (digits one by one), trained on ``texts``; reads any text.

    Args:
        special_tokens: beside those that every prompt has.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*_SPECIAL_TOKENS, *special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TURN, pad_token="<|endoftext|>", clean_up_tokenization_spaces=False
    )
