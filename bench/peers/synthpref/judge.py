"""One request for all samples of a row; each sample's score is the one in its own text."""

import json
from collections.abc import Set

from synthpref import Ask, Role, Row, RowStage, Score


class Judge(RowStage):
    model: Role

    def gives(self) -> Set[str]:
        return {"score:s"}

    async def run(self, row: Row, ask: Ask) -> Row:
        texts = "\n".join([row.prompt_text, *(sample.text for sample in row.samples)])
        await ask([{"role": "user", "content": texts}], model=self.model)
        return row.scored("s", [Score(float(json.loads(sample.text)["score"])) for sample in row.samples])


STAGES = {"peers.judge": Judge}
