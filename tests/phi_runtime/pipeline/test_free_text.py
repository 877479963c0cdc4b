"""Free text, which has no question and no answer, goes through every stage."""

from __future__ import annotations

import json
from typing import Any

from phi_runtime.core.artifacts import read_manifest
from phi_runtime.pipeline.engine import run
from phi_runtime.pipeline.session import open_session
from phi_scaffold.show import run as show
from tests.conftest import Listener, MakeProject, edit_config


def test_joined_free_text_is_trained_merged_built_and_measured(make_project: MakeProject, capsys: Any) -> None:
    project = make_project(max_steps=4)
    rows = [{"text": f"sunny happy song {i} and something moved there"} for i in range(60)]
    (project.root / "datasets" / "texts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))

    def read_texts(config: dict[str, Any]) -> None:
        data = config["data_configs"][0]
        data["load_dataset_config"]["data_files"] = "../datasets/texts.jsonl"
        data["pre_process_data_config"] = {"strategy": "join", "max_seq_len": 100, "add_special_tokens": False}
        config["passes"]["finetune"].pop("completion_only_loss", None)

    edit_config(project, read_texts)
    listener = Listener()
    evaluation = run(project, listener).evaluation
    assert evaluation is not None
    assert [model["metrics"] for model in evaluation["models"]] == [{}, {}, {}, {}]
    base, adapter, merged, _ = (model["perplexity"] for model in evaluation["models"])
    assert adapter < base
    assert abs(merged - adapter) < 0.01 * adapter

    counts = next(m for m in listener.of("metric") if "sequences" in m)
    assert (counts["rows"], counts["validation_rows"]) == (48, 12)
    assert counts["tokens"] == 100 * (counts["sequences"] - 1) + counts["last_sequence_tokens"]
    assert counts["trained_tokens"] == counts["tokens"] - counts["sequences"]
    manifest = read_manifest(project.gen_model / "adapter")
    assert manifest is not None
    for name in ("rows", "sequences", "tokens", "trained_tokens", "last_sequence_tokens", "validation_rows"):
        assert manifest.facts[name] == counts[name]
    warnings = [w["message"] for w in listener.of("warning")]
    assert sum(w.startswith("48 of 48 rows end without a special token") for w in warnings) == 1

    show.comparisons(evaluation)
    assert "accuracy" not in capsys.readouterr().out
    for name in ("base", "adapter"):
        assert open_session(project, name).render("sunny") == "sunny"
