"""Patterns and special tokens that tiktoken files leave to the program that reads them."""

from collections.abc import Callable, Iterable

NumberedSpecials = Callable[[int], dict[str, int]]
"""From the number of ranks to special token -> id."""

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = "|".join(
    [
        CONTRACTIONS,
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        SPACES,
    ]
)
"""GPT-4's pieces, also Llama 3's: numbers in threes."""
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
"""The same with single digits."""
QWEN3_5 = "|".join(
    [
        CONTRACTIONS,
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        SPACES,
    ]
)
"""Marks belong to words."""
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        SPACES,
    ]
)
"""GPT-4o's pieces, also Llama 4's: a capital letter begins a new one."""

CL100K_IDS = {
    "<|endoftext|>": 100257,
    "<|fim_prefix|>": 100258,
    "<|fim_middle|>": 100259,
    "<|fim_suffix|>": 100260,
    "<|endofprompt|>": 100276,
}


def after_the_ranks(tokens: Iterable[str]) -> NumberedSpecials:
    """Number special tokens from the first id that no rank has."""
    listed = list(tokens)
    return lambda num_ranks: {token: num_ranks + index for index, token in enumerate(listed)}


def cl100k_specials(_: int) -> dict[str, int]:
    """GPT-4's special tokens; their ids leave a gap."""
    return CL100K_IDS


def llama3_specials() -> list[str]:
    """256 tokens, most of them reserved."""
    named = [
        "begin_of_text",
        "end_of_text",
        "reserved_special_token_0",
        "reserved_special_token_1",
        "finetune_right_pad_id",
        "step_id",
        "start_header_id",
        "end_header_id",
        "eom_id",
        "eot_id",
        "python_tag",
        "image",
    ]
    return _bars([*named, *(f"reserved_special_token_{index}" for index in range(2, 246))])


def llama4_specials() -> list[str]:
    """2048 tokens: text, chat, vision, reasoning, then reserved ones."""
    chat, vision = "text_post_train_reserved_special_token", "vision_reserved_special_token"
    reasoning = "reasoning_reserved_special_token"
    names = [
        *["begin_of_text", "end_of_text", "fim_prefix", "fim_middle", "fim_suffix"],
        *["header_start", "header_end", "eom", "eot", "step"],
        *(f"{chat}_{index}" for index in range(6)),
        *["python_start", "python_end", "finetune_right_pad"],
        *(f"{chat}_{index}" for index in range(8, 69)),
        *("image_start", "image_end", f"{vision}_0", f"{vision}_1"),
        *("tile_x_separator", "tile_y_separator", *(f"{vision}_{i}" for i in range(2, 6))),
        *("image", f"{vision}_6", "patch"),
        *(f"{vision}_{index}" for index in range(7, 1048)),
        *(f"{reasoning}_{index}" for index in range(8)),
        *("reasoning_thinking_start", "reasoning_thinking_end"),
    ]
    return _bars([*names, *(f"reserved_special_token_{i}" for i in range(2048 - len(names)))])


def qwen_specials() -> list[str]:
    """208 tokens: the three of the chat format and 205 spare ones."""
    return _bars(["endoftext", "im_start", "im_end", *(f"extra_{index}" for index in range(205))])


def qwen3_5_specials() -> list[str]:
    """33 tokens."""
    media = _bars(
        [
            "endoftext",
            "im_start",
            "im_end",
            "object_ref_start",
            "object_ref_end",
            "box_start",
            "box_end",
            "quad_start",
            "quad_end",
            "vision_start",
            "vision_end",
            "vision_pad",
            "image_pad",
            "video_pad",
        ]
    )
    code = _bars(["fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"])
    speech = ["<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>"]
    return [
        *media,
        *("<tool_call>", "</tool_call>", *code, "<tool_response>", "</tool_response>"),
        *("<think>", "</think>", *_bars(["audio_start", "audio_end"]), *speech),
        *_bars(["audio_pad"]),
    ]


def _bars(names: Iterable[str]) -> list[str]:
    return [f"<|{name}|>" for name in names]
