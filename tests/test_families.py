"""The table of model families against names as people write them."""

from __future__ import annotations

import pytest

from synthpref.core.families import BASES, OWN, TUNED, families_of, family_of

KNOWN = {
    "gpt": "gpt-4o-2024-08-06 gpt-3.5-turbo gpt4 GPT-4 openai/gpt-oss-120b o1-mini openai/o3 o4-mini "
    "chatgpt-4o-latest text-davinci-003 azure/gpt-4-turbo gpt-5-mini gpt2-xl gpt-4.1 gpt_4 chat_gpt",
    "claude": "claude-3-5-sonnet-20241022 claude-v1 anthropic/claude-opus-4 claude-instant-1 claude2 "
    "bedrock/us.anthropic.claude-3-haiku-20240307-v1:0 anthropic.claude-v2",
    "gemini": "gemini-1.5-pro google/gemma-2-27b-it gemini/gemini-2.0-flash gemma3:27b palm-2 bard "
    "Skywork/Skywork-Reward-Gemma-2-27B-v0.2 models/gemini-pro HuggingFaceH4/zephyr-7b-gemma-v0.1 chat-bison-001",
    "llama": "meta-llama/Llama-3.1-8B-Instruct Meta-Llama-3-70B-Instruct-Turbo llama3.1:8b ollama/llama3 "
    "allenai/Llama-3.1-Tulu-3-8B tulu-2-dpo-70b lmsys/vicuna-13b-v1.5 timdettmers/guanaco-65b alpaca-7b koala-13b "
    "NousResearch/Hermes-3-Llama-3.1-8B RLHFlow/ArmoRM-Llama3-8B-v0.1 codellama/CodeLlama-34b-Instruct-hf "
    "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF WizardLM-13B-V1.2 ultralm-65b llama-2-70b-chat "
    "prometheus-13b-v1.0 BAAI/JudgeLM-7B-v1.0 GAIR/autoj-13b-llama Llama_2_7b stable-vicuna-13B meta/llama-guard-3 Platypus-2-70B",
    "qwen": "Qwen/Qwen3-8B qwen2.5-72b-instruct QwQ-32B-Preview Qwen1.5-110B-Chat opencompass/CompassJudger-1-7B-Instruct "
    "ZiyiYe/Con-J-Qwen2-7B AIDC-AI/Marco-o1 qwen-max-2025-01-25 Nexusflow/Athene-V2-Chat",
    "mistral": "mistralai/Mistral-7B-Instruct-v0.3 mixtral-8x7b-instruct ministral-8b-latest mistral-large-2411 "
    "HuggingFaceH4/zephyr-7b-beta NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO openchat_3.5 codestral-2501 "
    "berkeley-nest/Starling-LM-7B-alpha teknium/OpenHermes-2.5-Mistral-7B upstage/SOLAR-10.7B-Instruct-v1.0 "
    "prometheus-eval/prometheus-7b-v2.0 magistral-small mistral-nemo WizardLM-2-8x22B devstral mathstral-7b "
    "pixtral-12b voxtral-mini open-mistral-7b",
    "deepseek": "deepseek-ai/DeepSeek-V3 deepseek-chat deepseek-reasoner DeepSeek-R1 deepseek-coder-33b-instruct",
    "yi": "01-ai/Yi-34B-Chat yi-lightning NousResearch/Nous-Hermes-2-Yi-34B yi-1.5-9b",
    "phi": "microsoft/Phi-3-mini-4k-instruct phi-4 phi3:medium flowaicom/Flow-Judge-v0.1",
    "command": "command-r-plus CohereForAI/c4ai-command-r-v01 aya-expanse-32b command-a-03-2025",
    "glm": "THUDM/chatglm3-6b glm-4-9b-chat zai-org/GLM-4.5 glm4:9b",
    "internlm": "internlm/internlm2_5-20b-chat internlm2-7b-reward",
    "olmo": "allenai/OLMo-2-1124-13B-Instruct allenai/OLMoE-1B-7B-0924-Instruct olmo-7b",
    "nemotron": "nvidia/Nemotron-4-340B-Instruct nvidia/NVIDIA-Nemotron-Nano-9B-v2",
    "grok": "grok-2-1212 x-ai/grok-4",
    "kimi": "moonshotai/Kimi-K2-Instruct moonshot-v1-8k",
    "minimax": "MiniMax-Text-01 MiniMaxAI/MiniMax-M1-80k abab6.5-chat",
    "falcon": "tiiuae/falcon-40b-instruct Falcon3-10B-Instruct",
    "pythia": "oasst-sft-4-pythia-12b dolly-v2-12b EleutherAI/pythia-12b",
    "t5": "google/flan-t5-xxl fastchat-t5-3b",
    "granite": "ibm-granite/granite-3.1-8b-instruct",
    "hunyuan": "tencent/Hunyuan-A13B-Instruct",
    "nova": "amazon.nova-pro-v1:0 amazon/nova-lite",
    "deberta": "llm-blender/PairRM OpenAssistant/reward-model-deberta-v3-large-v2",
    "stablelm": "stabilityai/stablelm-zephyr-3b",
    "openllama": "openlm-research/open_llama_7b",
    "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "jamba": "ai21labs/AI21-Jamba-1.5-Mini",
    "ernie": "ernie-4.5-turbo",
    "doubao": "doubao-1.5-pro",
    "arctic": "Snowflake/snowflake-arctic-instruct",
    "mercury": "inception/mercury-coder-small",
    "baichuan": "baichuan-inc/Baichuan2-13B-Chat",
    "gpt-neo": "EleutherAI/gpt-j-6b EleutherAI/gpt-neox-20b GPT-NeoXT-Chat-Base-20B nomic-ai/gpt4all-j-gpt-j",
    "mpt": "mosaicml/mpt-30b-chat",
    "bloom": "bigscience/bloomz-7b1",
    "opt": "facebook/opt-1.3b",
    "starcoder": "HuggingFaceH4/starchat-beta bigcode/starcoder2-15b",
    "smollm": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
    "rwkv": "RWKV-4-Raven-14B",
    "dbrx": "databricks/dbrx-instruct",
    "minicpm": "openbmb/MiniCPM3-4B",
    "exaone": "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct",
    "xverse": "xverse/XVERSE-13B-Chat",
    "step": "step-2-16k",
    "reka": "reka-flash-21b",
    "luminous": "luminous-supreme",
}


UNKNOWN = (
    "simulated policy judge my-finetune ollama/foo llama.cpp/model vllm/model dolphin-2.9 sapphire-7b optimus-7b "
    "openai/my-model yield-model gpt4all-j commander-7b novelist marco-x model-o1 gpt prophet-3 "
    "Nous-Capybara command sphinx graphite stepwise runs/best-of-3 eryi-7b ollama"
)


@pytest.mark.parametrize(("name", "family"), [(n, f) for f, names in KNOWN.items() for n in names.split()])
def test_names_as_people_write_them(name: str, family: str) -> None:
    assert family_of(name) == family


@pytest.mark.parametrize("name", UNKNOWN.split())
def test_nothing_is_guessed(name: str) -> None:
    assert families_of(name) == ()


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", ("llama", "deepseek")),
        ("DeepSeek-R1-Distill-Qwen-32B", ("qwen", "deepseek")),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", ("qwen", "deepseek")),
        ("someone/Qwen3-14B-Claude-Distill", ("qwen", "claude")),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", ("llama", "nemotron")),
        ("vicuna-13b-gpt4-data", ("llama", "gpt")),
    ],
)
def test_a_distilled_model_has_its_base_and_its_teacher(name: str, families: tuple[str, ...]) -> None:
    assert families_of(name) == families
    assert family_of(name) == families[0]


def test_what_is_given_goes_before_the_table() -> None:
    extra = {"my-*": "qwen", "gpt-4o": "house"}
    assert family_of("My-Judge-7b", extra) == "qwen"
    assert family_of("GPT-4o", extra) == "house"
    assert family_of("gpt-4o-mini", extra) == "gpt"
    assert family_of("other", extra) is None


def test_every_family_of_the_table_is_tried() -> None:
    assert set(KNOWN) == {*BASES, *OWN}


def test_every_base_of_a_tuned_model_is_a_family() -> None:
    assert set(TUNED) <= set(BASES)


def test_unclear_names_do_not_take_long() -> None:
    assert families_of("-".join(["a" * 50] * 2000)) == ()
