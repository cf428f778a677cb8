"""Several rounds of one recipe: what each gets from those before it, what is never done twice, and what stands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from in_rounds import PROMPTS, Tree, hooked, noting, recipe
from synthpref import job, rounds
from synthpref.core.errors import JournalError, RecipeError, RunStopped
from synthpref.engine.rounds import Rounds
from synthpref.io import rows as row_files
from wire import serving

REPO = Path(__file__).parents[1]


class Run:
    """Starts of one run of rounds."""

    def __init__(self, folder: Path) -> None:
        self.path, self.folder = folder / "recipe.yaml", folder / "runs" / "tried"
        self.said: list[str] = []
        self.walked: list[str] = []
        self.asked = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, tree: Tree, *settings: str) -> job.Result | None:
        self.path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        self.said, self.walked, self.asked = [], [], 0
        wanted = job.load(self.path, settings).head.rounds
        assert wanted
        return rounds.run(rounds.Asked(self.path, settings, self.folder), wanted, self.walk, self.said.append)

    def done(self, tree: Tree, *settings: str) -> None:
        result = self(tree, *settings)
        assert result is not None
        assert result.stopped == ""

    def stopped(self, tree: Tree) -> job.Result:
        result = self(tree)
        assert result is not None
        assert result.stopped
        return result

    def walk(self, recipe: job.Recipe, at: Path) -> job.Result:
        self.walked.append(at.name)
        result = job.run(recipe, at)
        models = json.loads((at / "summary.json").read_text("utf-8"))["models"].values()
        self.asked += sum(model["requests"] for model in models)
        return result

    def file(self, number: int, name: str) -> Path:
        return self.folder / f"round-{number}" / name

    def skill(self, number: int) -> Any:
        return yaml.safe_load(self.file(number, "recipe.yaml").read_text("utf-8"))["models"]["policy"][
            "skill"
        ]

    def outcome(self) -> dict[str, bytes]:
        """What rows decide, of all rounds."""
        names = ("rows.parquet", "left.jsonl", "dataset/data/train.parquet")
        found = {f"{n}/{name}": self.file(n, name) for n in (1, 2, 3) for name in names}
        return {name: path.read_bytes() for name, path in found.items() if path.exists()}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


# ---- what a round gets from those before it


def test_each_round_is_a_run_of_its_own_with_what_the_hooks_before_it_have_set(run: Run) -> None:
    run.done(recipe(noting(run.path.parent)))
    assert run.walked == ["round-1", "round-2", "round-3"]
    assert [run.skill(number) for number in (2, 3)] == [1, 2]
    assert "skill" not in yaml.safe_load(run.file(1, "recipe.yaml").read_text("utf-8"))["models"]["policy"]
    assert hooked(run.path.parent) == [1, 2, 3]
    for number in (1, 2, 3):
        assert pq.read_table(run.file(number, "dataset/data/train.parquet")).num_rows > 0
        saved = yaml.safe_load(run.file(number, "recipe.yaml").read_text("utf-8"))
        assert saved["name"] == f"tried-round-{number}"
        assert "rounds" not in saved, "saved is an ordinary recipe, which runs this round again"
        loaded = job.load(run.file(number, "recipe.yaml"))
        assert loaded.head.rounds is None


def test_a_better_policy_is_seen_in_the_report(run: Run) -> None:
    run(
        recipe(
            'printf "models.policy.skill=$ROUND\\nmodels.policy.length=$((40 + 40 * ROUND))" > $SYNTHPREF_NEXT'
        )
    )
    means = []
    for number in (1, 2, 3):
        report = json.loads(run.file(number, "report.json").read_text("utf-8"))
        means.append(report["scores"]["helpful"]["values"]["mean"])
    assert means[0] + 1 < means[1] < means[2]
    text = rounds.report(run.folder)
    assert "| round 1 | round 2 | round 3 |" in text
    assert "of the 6 prompts that both have exported" in text
    assert "Responses get longer" in text


def test_what_is_set_holds_until_it_is_set_anew(run: Run) -> None:
    first = (
        'test "$ROUND" = 1 && printf "# a remark\\n\\nmodels.policy.skill=0.5\\nmodels.judge.noise=0.1\\n"'
    )
    second = 'test "$ROUND" = 2 && echo "models.policy.skill=0.25"'
    run(recipe(f"({first}; {second}; true) > $SYNTHPREF_NEXT", count=3), "models.policy.skill=-1")
    assert [run.skill(number) for number in (1, 2, 3)] == [-1, 0.5, 0.25]
    third = yaml.safe_load(run.file(3, "recipe.yaml").read_text("utf-8"))
    assert third["models"]["judge"]["noise"] == 0.1


def test_what_a_hook_finds_in_its_environment(run: Run) -> None:
    told = (
        'echo "${ROUND}|$SYNTHPREF_ROUND|$SYNTHPREF_ROUNDS|$PREVIOUS|$SYNTHPREF_RUN|$SYNTHPREF_DATASET|$PWD|'
        '${UNSET:-default}|`cat`"; ls $SYNTHPREF_DATASET/data'
    )
    run(recipe(told, count=2))
    log = run.file(2, "hook.log").read_text("utf-8").splitlines()
    at, base = run.folder.resolve(), run.path.parent.resolve()
    assert log[1:] == [f"2|2|2|{at}/round-1|{at}|{at}/round-2/dataset|{base}|default|", "train.parquet"]
    assert run.file(1, "hook.log").read_text("utf-8").splitlines()[1].split("|")[3] == ""


def test_round_and_previous_stand_anywhere_in_a_recipe(run: Run) -> None:
    tree = recipe(count=2, seed="${ROUND}", description="after ${PREVIOUS:-nothing}")
    tree["models"]["policy"]["model"] = "policy-${ROUND}"
    run(tree)
    for number, before in ((1, "nothing"), (2, f"{run.folder.resolve()}/round-1")):
        saved = yaml.safe_load(run.file(number, "recipe.yaml").read_text("utf-8"))
        assert (saved["seed"], saved["description"]) == (number, f"after {before}")
        assert saved["models"]["policy"]["model"] == f"policy-{number}"


def test_the_recipe_of_a_round_can_be_loaded_by_another_process(run: Run) -> None:
    tree = recipe('echo "models.policy.skill=2" > $SYNTHPREF_NEXT', count=2)
    tree["models"]["judge"]["noise"] = "0.${ROUND}"
    run(tree, "models.policy.length=50")
    second = rounds.Asked(run.path, ["models.policy.length=50"], run.folder).recipe(2)
    there = job.load(second.origin.path, second.origin.settings, second.origin.variables)
    assert there.models == second.models
    assert (second.models["judge"].identity()["noise"], there.models["policy"].identity()["skill"]) == (
        0.2,
        2,
    )


def test_a_source_that_the_round_before_writes(run: Run) -> None:
    prompts = run.path.parent / "first" / "dataset" / "next.jsonl"
    prompts.parent.mkdir(parents=True)
    prompts.write_text('{"prompt": "What is a pump?"}\n', encoding="utf-8")
    tree = recipe('echo \'{"prompt": "What is a dam?"}\' > $SYNTHPREF_DATASET/next.jsonl', count=2)
    tree["source"] = {"path": "${PREVIOUS:-first}/dataset/next.jsonl"}
    run.path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    asked = rounds.Asked(run.path, [], run.folder)
    assert [plan and plan.rows for _, _, plan in asked.plans(2)] == [1, None]
    run(tree)
    assert [row.prompt_text for row in row_files.read_rows(run.file(2, "rows.parquet"))] == ["What is a dam?"]
    assert [plan and plan.rows for _, _, plan in asked.plans(2)] == [1, 1]


def test_thirds_of_the_source(run: Run) -> None:
    tree = recipe()
    tree["source"] = {"rows": PROMPTS, "part": "${ROUND}/3"}
    run(tree)
    seen = [row.prompt_text for n in (1, 2, 3) for row in row_files.read_rows(run.file(n, "rows.parquet"))]
    assert sorted(seen) == sorted(PROMPTS)


def test_a_model_under_the_same_name_is_asked_anew(run: Run) -> None:
    with serving() as server:
        tree = recipe(count=2)
        for role in tree["models"]:
            tree["models"][role] = {"backend": "openai", "base_url": server.url, "model": role}
        run(tree)
        asked = [call.identity for call in server.calls]
        assert len(asked) == 2 * len(set(asked)), (
            "what a model answered in one round is no answer of the next"
        )
        run(tree)
        assert len(server.calls) == len(asked), "and nothing is asked again in its own"


# ---- what is never done twice


def test_what_is_done_is_not_done_again(run: Run) -> None:
    tree = recipe(noting(run.path.parent))
    run(tree)
    before = run.outcome()
    assert run(tree) is None
    assert (run.walked, hooked(run.path.parent), run.outcome()) == ([], [1, 2, 3], before)
    assert run.said == [f"round {number} of 3: done" for number in (1, 2, 3)]


def test_more_rounds_than_before_go_on_from_the_last(run: Run) -> None:
    tree = recipe(noting(run.path.parent), count=2)
    run(tree)
    tree["rounds"]["count"] = 3
    run.done(tree)
    assert (run.walked, hooked(run.path.parent), run.skill(3)) == (["round-3"], [1, 2, 3], 2)


def test_more_rounds_after_one_without_its_hook(run: Run) -> None:
    tree = recipe(noting(run.path.parent), count=1)
    tree["rounds"]["after_last"] = False
    run(tree)
    assert hooked(run.path.parent) == []
    tree["rounds"]["count"] = 2
    run(tree)
    assert (hooked(run.path.parent), run.skill(2)) == ([1], 1)


def test_fewer_rounds_leave_the_others_as_they_are(run: Run) -> None:
    tree = recipe(noting(run.path.parent))
    run(tree)
    before = run.outcome()
    tree["rounds"]["count"] = 2
    assert run(tree) is None
    assert "round 3: more than the recipe's 2" in run.said[0]
    assert (run.walked, run.outcome(), hooked(run.path.parent)) == ([], before, [1, 2, 3])


def test_the_last_round_without_a_hook_is_an_ordinary_run(run: Run) -> None:
    run(recipe(count=2))
    tree = recipe(count=2)
    tree["stages"][0]["sample.n"]["n"] = 5
    run.done(tree)
    assert run.walked == ["round-2"]
    assert run.asked == 6 + 6 * 1, "one response more to each prompt, and its judgement"
    assert "stages[0].sample.n.n: 4 -> 5" in run.said[0], "the first round stands"


def test_a_recipe_edited_between_rounds_changes_the_rounds_to_come(run: Run) -> None:
    tree = recipe(noting(run.path.parent, 'test "$ROUND" = 1'), count=3)
    stopped = run.stopped(tree)
    assert stopped.failed
    first = run.file(1, "rows.parquet").read_bytes()
    tree["stages"][0]["sample.n"]["n"] = 2
    tree["rounds"]["hook"] = noting(run.path.parent, "true")
    run.done(tree)
    assert "before the recipe was edited (stages[0].sample.n.n: 4 -> 2)" in run.said[0]
    assert run.file(1, "rows.parquet").read_bytes() == first
    samples = [len(r.samples) for n in (1, 2, 3) for r in row_files.read_rows(run.file(n, "rows.parquet"))]
    assert samples == [4] * 6 + [2] * 12, "the hook of round 2 had failed, so its rows are made anew"
    assert hooked(run.path.parent) == [1, 2, 2, 3]


def test_an_edit_that_leaves_no_place_for_what_a_hook_has_set_is_told_of_both(run: Run) -> None:
    run.done(recipe(noting(run.path.parent), count=2))
    tree = recipe(noting(run.path.parent), count=3)
    tree["models"]["writer"] = tree["models"].pop("policy")
    tree["stages"][0]["sample.n"]["model"] = "writer"
    with pytest.raises(RecipeError, match="no 'backend'") as error:
        run(tree)
    assert "hooks of rounds before round 3 have set models.policy.skill=1" in str(error.value)
    assert "take it out of round.json in the round's folder" in str(error.value)
    assert (
        "round 2 of 3: done, before the recipe was edited (it makes no recipe of this round any more)"
        in run.said[1]
    )
    for number in (1, 2):
        done = run.file(number, "round.json")
        done.write_text(json.dumps({"round": number, "settings": []}), encoding="utf-8")
    run.done(tree, "rounds.hook='true'")


def test_a_round_that_is_gone_is_asked_for(run: Run) -> None:
    import shutil

    tree = recipe(noting(run.path.parent))
    run(tree)
    kept = run.outcome()
    shutil.move(run.folder / "round-2", run.folder / "elsewhere")
    with pytest.raises(
        RecipeError, match=r"round-2: is not done, and round-3 follows it; put it back; or remove"
    ):
        run(tree)
    shutil.rmtree(run.folder / "round-3")
    run(tree)
    assert run.walked == ["round-2", "round-3"]
    assert run.outcome() == kept
    assert hooked(run.path.parent) == [1, 2, 3, 2, 3]


# ---- hooks that fail


def test_a_hook_that_fails_is_run_again_and_nothing_else_is(run: Run) -> None:
    fails = noting(run.path.parent, 'echo "no GPU"; exit 4')
    result = run.stopped(recipe(fails, count=2))
    assert result.failed
    assert "the hook of round 1 ended with exit code 4" in result.stopped
    assert run.said[-1].splitlines()[-1] == "no GPU"
    assert not run.file(2, "").exists()
    run.done(recipe(noting(run.path.parent), count=2))
    assert run.asked == 6 * (1 + 4), "the second round, and nothing of the first"
    assert hooked(run.path.parent) == [1, 1, 2]


def test_nothing_is_trained_on_nothing(run: Run) -> None:
    tree = recipe(noting(run.path.parent))
    tree["models"]["policy"]["empty"] = 1
    assert "dataset is empty, so its hook is not run" in run.stopped(tree).stopped
    del tree["models"]["policy"]["empty"]
    run.done(tree)
    assert hooked(run.path.parent) == [1, 2, 3]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "models.policy.skil=1",
            "models.policy.skil: backend simulated has no field 'skil'; did you mean 'skill'?",
        ),
        ("models.policy.skill", "no value; write --set path.to.field=value"),
        ("stages.9.n=1", "nothing called '9' there"),
        ("rounds.count=1", "cannot set rounds.count=1: rounds are those of the recipe"),
    ],
)
def test_what_a_hook_sets_is_checked_and_can_be_mended(run: Run, line: str, found: str) -> None:
    tree = recipe(noting(run.path.parent, f"echo {line} > $SYNTHPREF_NEXT"), count=1)
    result = run.stopped(tree)
    assert result.failed
    assert found in result.stopped
    assert f"mend {run.file(1, 'next.txt')}" in result.stopped
    assert run(tree) == result, "it is as wrong as before"
    run.file(1, "next.txt").write_text("models.policy.skill=1", encoding="utf-8")
    run.done(tree)
    assert hooked(run.path.parent) == [1], "the hook has ended well, and is not run again"


def test_what_a_hook_sets_that_is_no_text_can_be_mended(run: Run) -> None:
    tree = recipe(r'printf "models.policy.model=/caf\351\n" > $SYNTHPREF_NEXT', count=1)
    assert "has set is not UTF-8 at byte 24; mend" in run.stopped(tree).stopped
    run.file(1, "next.txt").write_text("models.policy.model=/café", encoding="utf-8")
    run.done(tree)


def test_a_setting_with_a_secret_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    role = {
        "backend": "openai",
        "model": "x",
        "base_url": "http://127.0.0.1:9",
        "api_key": "${OPENAI_API_KEY}",
    }
    tree = recipe('echo "models.spare.api_key=$OPENAI_API_KEY" > $SYNTHPREF_NEXT', count=2)
    tree["models"]["spare"] = role
    result = run.stopped(tree)
    assert result.failed
    assert "has set a secret" in result.stopped
    assert "sk-secret" not in result.stopped
    assert not run.file(1, "round.json").exists()


def test_what_a_hook_leaves_running_is_not_waited_for(run: Run) -> None:
    left = run.path.parent / "left"
    run.done(recipe(f'test "$ROUND" = 1 || exit 0; sleep 600 & echo $! > "{left}"', count=2))
    pid = int(left.read_text("utf-8"))
    subprocess.run(["kill", str(pid)], check=True)  # it was running still


# ---- limits


def test_what_a_failed_hook_leaves_running_is_not_taken_for_the_hook(run: Run) -> None:
    left = run.path.parent / "left"
    run.stopped(recipe(f'exec 3<&0; sleep 600 & echo $! > "{left}"; exit 1', count=1))
    run.done(recipe("true", count=1))
    subprocess.run(["kill", left.read_text("utf-8").strip()], check=True)


def test_a_budget_holds_over_all_rounds(run: Run) -> None:
    tree = recipe(count=3, limits={"max_tokens": 10**9})
    run(tree)
    spent = [
        sum(m["prompt_tokens"] + m["completion_tokens"] for m in json.loads(text)["models"].values())
        for text in (run.file(n, "summary.json").read_text("utf-8") for n in (1, 2, 3))
    ]
    other = Run(run.path.parent / "other")
    tree["limits"]["max_tokens"] = spent[0] + spent[1] // 2
    result = other.stopped(tree)
    assert not result.failed
    assert f"{tree['limits']['max_tokens']:,} tokens (limits.max_tokens) is spent" in result.stopped
    assert (other.walked, result.folder.name) == (["round-1", "round-2"], "round-2")
    other.stopped(tree)
    assert other.asked == 0
    tree["limits"]["max_tokens"] = 10**9
    other(tree)
    assert other.outcome() == run.outcome()


def test_money_holds_over_all_rounds_too(run: Run) -> None:
    tree = recipe(count=2, limits={"max_cost_usd": 1000})
    for role in tree["models"].values():
        role["price"] = {"input": 1000, "output": 1000}
    run(tree)
    first = json.loads(run.file(1, "summary.json").read_text("utf-8"))["models"].values()
    tree["limits"]["max_cost_usd"] = 1.3 * sum(model["cost_usd"] for model in first)
    other = Run(run.path.parent / "other")
    result = other.stopped(tree)
    assert "(limits.max_cost_usd) is spent" in result.stopped
    assert result.folder.name == "round-2"
    assert not other.file(2, "report.json").exists()


# ---- what a recipe says


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"count": 0}, "rounds.count: input should be greater than or equal to 1"),
        ({"hook": "true"}, "rounds.count: missing"),
        ({"count": 2, "hoook": "true"}, "rounds.hoook: unknown field"),
        ("three", "rounds: input should be a valid dictionary"),
        ({"count": 2, "hook": " "}, "rounds.hook: string should match"),
    ],
)
def test_rounds_that_make_no_sense(run: Run, given: Any, found: str) -> None:
    run.path.write_text(yaml.safe_dump(recipe() | {"rounds": given}), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        job.load(run.path)
    assert found in str(error.value)


def test_only_a_number_is_enough() -> None:
    from jsonschema import Draft202012Validator

    from synthpref.engine.registry import Registry
    from synthpref.engine.schema import recipe_schema

    assert Rounds.model_validate(3) == Rounds(count=3)
    valid = Draft202012Validator(recipe_schema(Registry())).is_valid
    assert all(valid(recipe() | {"rounds": given}) for given in (3, {"count": 3, "hook": "true"}))
    assert not any(valid(recipe() | {"rounds": given}) for given in (0, "3", {"hook": "true"}))


def test_a_mistake_that_only_a_later_round_makes_is_found_before_the_first(run: Run) -> None:
    tree = recipe(count=3)
    tree["models"]["policy"]["temperature"] = "${ROUND}"
    tree["models"]["policy"]["skill"] = "${ROUND}"
    run.path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    asked = rounds.Asked(run.path, [], run.folder)
    assert len(list(asked.plans(2))) == 2
    with pytest.raises(RecipeError, match=r"round 4: models\.policy\.skill: .* less than or equal to 3"):
        list(asked.plans(4))


def test_the_first_round_has_none_before_it(run: Run) -> None:
    tree = recipe(description="${PREVIOUS}")
    run.path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"no round comes before the first; write \$\{PREVIOUS:-default\}"):
        job.load(run.path)


# ---- folders


def test_a_folder_that_cannot_be_made(run: Run) -> None:
    run.folder.parent.touch()
    with pytest.raises(JournalError, match=r"cannot be made .*; name another with --out"):
        run(recipe())


def test_a_folder_with_a_run_without_rounds_is_not_taken_and_the_other_way_round(run: Run) -> None:
    tree = recipe()
    plain = {key: value for key, value in tree.items() if key != "rounds"}
    run.path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    job.run(job.load(run.path), run.folder)
    with pytest.raises(RecipeError, match="holds a run without rounds; name another with --out"):
        run(tree)
    other = Run(run.path.parent / "other")
    other(tree)
    other.path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    with pytest.raises(
        RecipeError, match=r"holds the rounds of a run; name one of them, such as .*round-3, or another"
    ):
        job.run(job.load(other.path), other.folder)


def test_two_do_not_run_the_same_rounds(run: Run) -> None:
    caught: list[str] = []

    def walk(recipe: job.Recipe, at: Path) -> job.Result:
        with pytest.raises(JournalError) as error:
            rounds.run(rounds.Asked(run.path, [], run.folder), Rounds(count=1), walk, lambda line: None)
        caught.append(str(error.value))
        return job.run(recipe, at)

    run.path.write_text(yaml.safe_dump(recipe(count=1)), encoding="utf-8")
    rounds.run(rounds.Asked(run.path, [], run.folder), Rounds(count=1), walk, lambda line: None)
    assert "is running there" in caught[0]


def test_a_report_takes_a_finished_round(run: Run) -> None:
    tree = recipe(limits={"max_tokens": 1})
    run.stopped(tree)
    with pytest.raises(RunStopped, match="not a finished run"):
        rounds.report(run.folder)


# ---- the command line


def cli(folder: Path, *args: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "synthpref.cli", *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout + done.stderr


def test_the_commands_know_rounds(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(noting(tmp_path))), encoding="utf-8")
    code, said = cli(tmp_path, "check", "recipe.yaml")
    assert code == 0, said
    assert "Rounds 1 to 3, each:" in said
    assert "All 3 rounds: 90 requests" in said
    code, said = cli(tmp_path, "run", "recipe.yaml", "--limit", "4")
    assert code == 0, said
    assert said.count("4 rows read = 4 exported") == 3
    assert "Next: synthpref report runs/tried" in said
    code, said = cli(tmp_path, "status", "runs/tried")
    assert said.count("done; later rounds have models.policy.skill=") == 3
    code, said = cli(tmp_path, "report", "runs/tried")
    assert code == 0, said
    assert "round 3" in said
    code, said = cli(tmp_path, "report", "runs/tried/round-2")
    assert code == 0, said
    assert "Report: tried-round-2" in said
    for command in (["show"], ["export"], ["push"]):
        code, said = cli(tmp_path, *command, "runs/tried", *(["a/b"] if command == ["push"] else []))
        assert code == 2, said
        assert "name one of them, such as runs/tried/round-3" in said
    code, said = cli(tmp_path, "export", "runs/tried/round-3", "--format", "trl-kto")
    assert code == 0, said
    code, said = cli(tmp_path, "preview", "recipe.yaml", "-n", "1")
    assert code == 0, said
    assert "1 rows came through" in said
    assert hooked(tmp_path) == [1, 2, 3], "a preview is of the first round, without its hook"


def test_a_recipe_elsewhere_has_its_hook_run_there(tmp_path: Path) -> None:
    there = tmp_path / "recipes"
    there.mkdir()
    (there / "recipe.yaml").write_text(yaml.safe_dump(recipe("pwd > where", count=1)), encoding="utf-8")
    code, said = cli(tmp_path, "run", "recipes/recipe.yaml")
    assert code == 0, said
    assert (there / "where").read_text("utf-8").strip() == str(there.resolve())
    assert (tmp_path / "runs/tried/round-1/round.json").exists()


# ---- shipped recipes


@pytest.mark.parametrize("path", sorted((REPO / "recipes/rounds").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipe_runs_all_its_rounds(path: Path, run: Run) -> None:
    tree = yaml.safe_load(path.read_text("utf-8"))
    assert "examples/rounds/train.py" in tree["rounds"]["hook"]
    for name in tree["models"]:
        tree["models"][name] = {"backend": "simulated", "model": name, "skill": -1}
    tree["rounds"]["hook"] = 'echo "models.policy.skill=$ROUND" > $SYNTHPREF_NEXT'
    if "path" in tree["source"]:
        tree["source"]["path"] = str(path.parent / tree["source"]["path"])
    run.done(tree)
    count = tree["rounds"]["count"]
    made = [list(row_files.read_rows(run.file(n, "rows.parquet"))) for n in range(1, count + 1)]
    assert all(row.pairs for rows in made for row in rows)
    assert [run.skill(n) for n in range(1, count + 1)] == [-1, *range(1, count)]
    if path.stem == "spin":
        for row in (row for rows in made for row in rows):
            (pair,) = row.pairs
            assert (row.samples[pair.chosen].model, row.samples[pair.rejected].model) == ("people", "policy")
        told = [[row.samples[row.pairs[0].rejected].text for row in rows] for rows in made]
        assert told[0] != told[1] != told[2], "each round's own policy is the one to lose"
    else:
        ids = [row.id for rows in made for row in rows]
        assert len(ids) == len(set(ids)), "no prompt is seen twice"
