"""The job in NeMo Data Designer: four text columns, because a column is one answer, and a structured one that judges."""

import argparse
import json
from pathlib import Path
from typing import Any

import data_designer.config as dd
import pandas as pd
from data_designer.interface import DataDesigner
from pydantic import BaseModel

SAMPLES = [f"answer_{i}" for i in range(4)]


class Verdict(BaseModel):
    reasoning: str
    score: int


@dd.custom_column_generator(required_columns=SAMPLES, side_effect_columns=["rejected"])
def chosen(row: dict[str, Any]) -> dict[str, Any]:
    ranked = sorted((row[name] for name in SAMPLES), key=lambda text: json.loads(text)["score"])
    return {**row, "chosen": ranked[-1], "rejected": ranked[0]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    prompts = options.prompts.read_text(encoding="utf-8").splitlines()
    seeds = options.folder / "prompts.parquet"
    pd.DataFrame({"instruction": prompts}).to_parquet(seeds)

    parameters = dd.ChatCompletionInferenceParams(max_parallel_requests=options.slots)
    model = dd.ModelConfig(
        alias="m", model="m", provider="local", inference_parameters=parameters, skip_health_check=True
    )
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.LocalFileSeedSource(path=str(seeds)))
    for name in SAMPLES:
        builder.add_column(dd.LLMTextColumnConfig(name=name, prompt="{{ instruction }}", model_alias="m"))
    whole = "\n".join(["{{ instruction }}", *(f"{{{{ {name} }}}}" for name in SAMPLES)])
    builder.add_column(
        dd.LLMStructuredColumnConfig(name="verdict", prompt=whole, model_alias="m", output_format=Verdict)
    )
    builder.add_column(dd.CustomColumnConfig(name="chosen", generator_function=chosen))

    designer = DataDesigner(
        artifact_path=options.folder / "artifacts",
        model_providers=[dd.ModelProvider(name="local", endpoint=options.url, api_key="none")],
    )
    # No port is opened for metrics. The row groups are as they come: 1,000 rows, three at a time.
    designer.set_run_config(dd.RunConfig(otel_metrics_port=None))
    done = designer.create(
        builder, num_records=len(prompts), dataset_name="peers", resume=dd.ResumeMode.IF_POSSIBLE
    )
    done.load_dataset().to_json(options.folder / "pairs.jsonl", orient="records", lines=True)


if __name__ == "__main__":
    main()
