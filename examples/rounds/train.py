"""A hook for rounds: trains the policy on the round's pairs with TRL, and names it as the policy of the next round.

    rounds:
      count: 3
      hook: python train.py --base Qwen/Qwen3-4B

It may be killed and run again at any moment: the model appears under its name only when it is whole. In the first
round training starts from --base, later from the model of the round before. Needs: pip install trl
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True, help="the model that the first round starts from")
    parser.add_argument(
        "--roles", nargs="+", default=["policy"], help="who the trained model is in the recipe"
    )
    parser.add_argument("--former", type=int, default=0, help="train on so many former rounds' pairs as well")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="more for DPOConfig")
    asked = parser.parse_args()

    number, run = int(os.environ["SYNTHPREF_ROUND"]), Path(os.environ["SYNTHPREF_RUN"])
    whole = run / f"round-{number}" / "model"
    if not whole.exists():
        start = run / f"round-{number - 1}" / "model" if number > 1 else asked.base
        train(str(start), pairs(run, range(max(1, number - asked.former), number + 1)), whole, asked.set)
    settings = [f"models.{role}.model={whole}\n" for role in asked.roles]
    Path(os.environ["SYNTHPREF_NEXT"]).write_text("".join(settings), encoding="utf-8")


def pairs(run: Path, rounds: range) -> Any:
    """The datasets of these rounds, one after the other."""
    from datasets import load_dataset

    files = [str(run / f"round-{number}" / "dataset" / "data" / "train.parquet") for number in rounds]
    loaded = load_dataset("parquet", data_files=files, split="train")
    return loaded.select_columns(["prompt", "chosen", "rejected"])


def train(start: str, data: Any, whole: Path, settings: list[str]) -> None:
    import yaml
    from trl import DPOConfig, DPOTrainer

    part = whole.with_name("model.part")
    shutil.rmtree(part, ignore_errors=True)
    fields = {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in settings)}
    fields = {"beta": 0.1, "learning_rate": 5e-7, "num_train_epochs": 1, "report_to": "none"} | fields
    config = DPOConfig(output_dir=str(part), save_strategy="no", **fields)
    trainer = DPOTrainer(model=start, args=config, train_dataset=data)
    trainer.train()
    trainer.save_model(str(part))
    part.rename(whole)


if __name__ == "__main__":
    main()
