"""The job in distilabel: TextGeneration with four generations, a Task of one's own that judges them together."""

import argparse
import json
from pathlib import Path
from typing import Any

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import Task, TextGeneration


class Judge(Task):
    """One request for all generations of a row; the pair is the best and the worst of them."""

    @property
    def inputs(self) -> list[str]:
        return ["instruction", "generations"]

    @property
    def outputs(self) -> list[str]:
        return ["chosen", "rejected", "score"]

    def format_input(self, input: dict[str, Any]) -> list[dict[str, str]]:
        return [{"role": "user", "content": "\n".join([input["instruction"], *input["generations"]])}]

    def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> dict[str, Any]:
        if output is None or input is None:
            return {"chosen": None, "rejected": None, "score": None}
        ranked = sorted(input["generations"], key=lambda text: json.loads(text)["score"])
        return {"chosen": ranked[-1], "rejected": ranked[0], "score": json.loads(output)["score"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    prompts = options.prompts.read_text(encoding="utf-8").splitlines()
    # A step asks for one whole batch at once and waits for all of it, so a batch must not be narrower than the endpoint.
    batch = max(200, options.slots)
    llm = OpenAILLM(model="m", base_url=options.url, api_key="none")
    with Pipeline(name="peers", cache_dir=options.folder / "cache") as pipeline:
        load = LoadDataFromDicts(data=[{"instruction": prompt} for prompt in prompts], batch_size=batch)
        sample = TextGeneration(llm=llm, num_generations=4, group_generations=True, input_batch_size=batch)
        judge = Judge(llm=llm, input_mappings={"generations": "generation"}, input_batch_size=batch)
        load >> sample >> judge
    done = pipeline.run()
    done["default"]["train"].to_json(options.folder / "pairs.jsonl")


if __name__ == "__main__":
    main()
