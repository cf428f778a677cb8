"""What is exported trains: two steps of TRL's trainers on a tiny model with random weights."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from made import paired
from synthpref import job, rounds
from synthpref.core.export import Exporter
from synthpref.core.types import Row
from synthpref.engine.rounds import Rounds
from synthpref.io import export

torch = pytest.importorskip("torch", reason="torch is not installed; see `make train-test`")
trl = pytest.importorskip("trl", reason="trl is not installed; see `make train-test`")
# What other packages warn of in their own training loops is not ours to mend.
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("default")]

STEPS = 2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}


def rows(count: int = 8) -> list[Row]:
    """Rows of one and of several turns, some with gaps where a column may have them."""
    system = {"role": "system", "content": "Be brief."}
    made = [paired(i) for i in range(count)]
    made[1] = replace(made[1], prompt=(system, *made[1].prompt))
    # The first record has a rationale and a score, a later one has not.
    bare = replace(made[2].pairs[0], rationale=None, p=None)
    made[2] = replace(
        made[2], pairs=(bare,), samples=tuple(replace(s, scores={}, model="") for s in made[2].samples)
    )
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a tiny language model and a tiny reward model, with their tokenizer."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen2ForSequenceClassification,
    )

    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        ["question answer to system user assistant"],
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=special, initial_alphabet=letters, show_progress=False
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|pad|>", model_max_length=256
    )
    tokenizer.chat_template = TEMPLATE
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = {"vocab_size": len(tokenizer), **SIZES, **tokens, "bos_token_id": None}
    made = {
        "policy": Qwen2ForCausalLM(Qwen2Config(**config)),
        "reward": Qwen2ForSequenceClassification(Qwen2Config(**config, num_labels=1)),
    }
    folder = tmp_path_factory.mktemp("models")
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in made}


def exported(exporter: Exporter, folder: Path, *, jsonl: bool = False) -> Any:
    """The exported rows as `datasets` loads them."""
    import datasets

    stats = export.write(rows(), exporter, folder / "set", jsonl=jsonl)
    kind = "json" if jsonl else "parquet"
    loaded = datasets.load_dataset(
        kind, data_files=str(stats.path), split="train", cache_dir=str(folder / "cache")
    )
    assert len(loaded) == stats.records
    return loaded


def trained(kind: str, model: str, data: Any, folder: Path, **options: Any) -> float:
    """Train, check that it trained on every row it was given, and return the loss."""
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(folder / "out"),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **options,
    )
    trainer = getattr(trl, f"{kind}Trainer")(model=model, args=config, train_dataset=data)
    assert len(trainer.train_dataset) == len(data)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    result = trainer.train()
    assert trainer.state.global_step == STEPS
    assert math.isfinite(result.training_loss)
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    return float(result.training_loss)


@pytest.mark.parametrize(
    "exporter",
    [
        export.TrlPreference(format="trl-preference"),
        export.TrlPreference(format="trl-preference", extras=("id", "scores", "p", "rationale", "licence")),
        export.TrlPreferenceStandard(format="trl-preference-standard"),
        export.TrlImplicit(format="trl-implicit"),
    ],
    ids=lambda e: f"{e.format}-{len(e.extras)}",
)
@pytest.mark.parametrize("jsonl", [False, True], ids=["parquet", "jsonl"])
def test_dpo(models: dict[str, str], tmp_path: Path, exporter: Exporter, jsonl: bool) -> None:
    trained("DPO", models["policy"], exported(exporter, tmp_path, jsonl=jsonl), tmp_path)


def test_kto(models: dict[str, str], tmp_path: Path) -> None:
    data = exported(export.TrlKto(format="trl-kto"), tmp_path)
    assert sum(data["label"]) == len(data) / 2
    trained("KTO", models["policy"], data, tmp_path)


@pytest.mark.parametrize("prompt", ["explicit", "implicit"])
def test_reward(models: dict[str, str], tmp_path: Path, prompt: str) -> None:
    losses = {}
    for margin in (True, False):
        folder = tmp_path / str(margin)
        exporter = export.TrlReward(format="trl-reward", prompt=prompt, margin=margin)
        data = exported(exporter, folder)
        assert ("margin" in data.column_names) is margin
        losses[margin] = trained("Reward", models["reward"], data, folder)
    # A margin of 6 on rewards near 0 costs about 6; without one the loss starts at ln 2.
    assert losses[True] > losses[False] + 2


def test_sft(models: dict[str, str], tmp_path: Path) -> None:
    trained("SFT", models["policy"], exported(export.Sft(format="sft"), tmp_path), tmp_path)


def test_rounds_with_the_hook_of_the_example(models: dict[str, str], tmp_path: Path) -> None:
    """Two rounds, of which the second is asked of what the first has trained."""
    root = Path(__file__).parents[1]
    settings = f"max_steps={STEPS} per_device_train_batch_size=2 learning_rate=0.01 use_cpu=true bf16=false"
    tree = {
        "name": "trained",
        "rounds": {
            "count": 2,
            "hook": f"{sys.executable} {root}/examples/rounds/train.py --base {models['policy']} "
            f"--former 1 --set {settings}",
        },
        "models": {
            "policy": {"backend": "local", "model": models["policy"], "device": "cpu", "max_tokens": 12}
        },
        "source": {"rows": [f"question {i}" for i in range(6)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 4, "temperature": 1.0}},
            {"verify": {"kind": "regex", "pattern": "[a-m]"}},
            {"pair.random": {"score": "verified", "truncated": "keep"}},
        ],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    asked = rounds.Asked(tmp_path / "recipe.yaml", [], tmp_path / "run")
    result = rounds.run(asked, Rounds.model_validate(tree["rounds"]), job.run, print)
    assert result
    assert not result.stopped
    second = yaml.safe_load((tmp_path / "run/round-2/recipe.yaml").read_text(encoding="utf-8"))
    assert second["models"]["policy"]["model"] == str(tmp_path / "run/round-1/model")
    texts = []
    for number in (1, 2):
        found = job.rows.read_rows(tmp_path / f"run/round-{number}/rows.parquet")
        texts.append({sample.text for row in found for sample in row.samples})
        assert (tmp_path / f"run/round-{number}/model/config.json").exists()
    assert not texts[0] & texts[1], "the trained model answers otherwise"
