"""The job in curator: one LLM that samples with n=4, one that judges; each goes over the whole dataset in turn."""

import argparse
import json
from pathlib import Path
from typing import Any

from bespokelabs import curator


class Sampler(curator.LLM):
    """Four answers from one request, which is what the whole completions object is kept for."""

    return_completions_object = True

    def prompt(self, input: dict[str, Any]) -> str:
        return str(input["instruction"])

    def parse(self, input: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
        texts = [choice["message"]["content"] for choice in response["choices"]]
        return {"instruction": input["instruction"], "generations": texts}


class Judge(curator.LLM):
    """One request for all answers of a row; the pair is the best and the worst of them."""

    def prompt(self, input: dict[str, Any]) -> str:
        return "\n".join([input["instruction"], *input["generations"]])

    def parse(self, input: dict[str, Any], response: str) -> dict[str, Any]:
        ranked = sorted(input["generations"], key=lambda text: json.loads(text)["score"])
        return {**input, "chosen": ranked[-1], "rejected": ranked[0], "score": json.loads(response)["score"]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    prompts = options.prompts.read_text(encoding="utf-8").splitlines()
    model: dict[str, Any] = {
        "model_name": "m",
        "backend": "openai",
        "backend_params": {
            "base_url": options.url,
            "api_key": "none",
            "max_concurrent_requests": options.slots,
            # As good as none: the endpoint has no limit, and without a number here curator keeps to 200 a minute.
            "max_requests_per_minute": 10**8,
            "max_tokens_per_minute": 10**12,
        },
    }
    sampler = Sampler(**model, generation_params={"n": 4})
    judge = Judge(**model)
    cache = str(options.folder / "cache")
    sampled = sampler([{"instruction": prompt} for prompt in prompts], working_dir=cache)
    judged = judge(sampled.dataset, working_dir=cache)
    judged.dataset.to_json(options.folder / "pairs.jsonl")


if __name__ == "__main__":
    main()
