"""Tiny models with random weights, made where they are used: `policy(folder)`, `reward(folder)`. They need torch and
transformers, know the letters and a few words, and say nothing sensible; their sizes are such that vLLM's CPU backend
runs them (heads of 32)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONTEXT = 512
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if think is defined and think %}<think>{% endif %}{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|pad|>", "<think>", "</think>"]
WORDS = (
    "user assistant system the sky is blue because light a question an answer score reasoning true false null"
)


def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=SPECIAL, initial_alphabet=letters, show_progress=False
    )
    raw.train_from_iterator([WORDS] * 8, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|pad|>", model_max_length=CONTEXT
    )
    made.chat_template = TEMPLATE
    return made


def _saved(model: Any, tokens: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return str(folder)


def _config(kind: Any, tokens: Any, layers: int = 2, width: int = 64, **more: Any) -> Any:
    return kind(
        vocab_size=(len(tokens) + 63) // 64 * 64,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
        # Wider than usual, so that the most likely token is so by far and no rounding decides.
        initializer_range=4 / width**0.5,
        **more,
    )


def policy(folder: Path, seed: int = 0, layers: int = 2, width: int = 64) -> str:
    """A Llama; its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokens = tokenizer()
    model = LlamaForCausalLM(_config(LlamaConfig, tokens, layers, width))
    model.generation_config.eos_token_id = tokens.eos_token_id
    model.generation_config.pad_token_id = tokens.pad_token_id
    return _saved(model, tokens, folder)


PAIR = (
    "{% for m in messages[:-2] %}{{ m['content'] }}\n{% endfor %}"
    "<|im_start|>{{ response_a }}<|im_end|>\n<|im_start|>{{ response_b }}<|im_end|>"
)
"""A template for a model that compares two answers."""


def reward(
    folder: Path, heads: int = 1, seed: int = 0, labels: tuple[str, ...] = (), template: str = TEMPLATE
) -> str:
    """A Qwen2 with as many heads that grade, called `labels` if these are given; its folder."""
    import torch
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    torch.manual_seed(seed)
    tokens = tokenizer()
    tokens.chat_template = template
    config = _config(Qwen2Config, tokens, num_labels=len(labels) or heads)
    if labels:
        config.id2label = dict(enumerate(labels))
    return _saved(Qwen2ForSequenceClassification(config), tokens, folder)


def adapter(base: str, folder: Path, seed: int = 1) -> str:
    """A LoRA adapter of rank 8 for a policy, in the form that peft saves; its folder."""
    import json

    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(2):
        for name, out in (("q_proj", 64), ("v_proj", 32)):
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{stem}.lora_A.weight"] = torch.randn(8, 64, generator=generator)
            weights[f"{stem}.lora_B.weight"] = torch.randn(out, 8, generator=generator)
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 8, "lora_alpha": 16, "bias": "none"}
    said |= {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", "modules_to_save": None}
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    return str(folder)


def merged(base: str, lora: str, folder: Path) -> str:
    """The policy with an adapter of `adapter` made part of its weights; its folder."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    weights = load_file(Path(lora) / "adapter_model.safetensors")
    for name, a in weights.items():
        if name.endswith("lora_A.weight"):
            own = model.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.", ""))
            # alpha over rank is 2.
            own.data += 2 * weights[name.replace("lora_A", "lora_B")] @ a
    return _saved(model, AutoTokenizer.from_pretrained(base), folder)
