"""Costs, weighted sums and metrics of hooks.py, with the figures computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from phi_runtime.config.schema import Evaluation
from phi_runtime.core.errors import ConfigError, DataError, Location
from phi_runtime.data.hooks import MetricsHook, load_training_hooks
from phi_runtime.evaluation.class_results import field_results, label_results
from phi_runtime.evaluation.intervals import wilson
from phi_runtime.evaluation.own_metrics import Metric, OwnMetrics
from phi_runtime.evaluation.row_results import Measured, RowResult
from phi_runtime.evaluation.summary import summarize

REFERENCES = ["fear"] * 10 + ["joy"] * 10
ANSWERS = ["joy", "calm", *["fear"] * 8, "fear", *["joy"] * 9]  # fear→joy, fear→(no label), joy→fear


def computed(
    answers: list[str], references: list[str] = REFERENCES, hook: Any = None, **settings: Any
) -> dict[str, Metric]:
    own = OwnMetrics(
        Evaluation.model_validate({"task": "classification", **settings}),
        MetricsHook(hook, Location("hooks.py", 3)) if hook else None,
        Path("olive-config.json"),
    )
    return own.of(answers, references)


def test_a_confusion_has_its_cost_and_any_other_error_costs_1() -> None:
    cost = computed(ANSWERS, cost={"fear → joy": 5})["mean_cost"]
    assert cost.value == pytest.approx((5 + 1 + 1) / 20)
    assert cost.interval is not None
    assert 0 < cost.interval.low < 0.35 < cost.interval.high < 1.5
    assert computed(ANSWERS, cost={"joy->fear": 0})["mean_cost"].value == pytest.approx((1 + 1 + 0) / 20)


def test_without_an_error_the_cost_reaches_to_errors_at_the_highest_cost() -> None:
    cost = computed(REFERENCES, cost={"fear→joy": 5})["mean_cost"]
    assert (cost.value, cost.interval) == (0, pytest.approx((0, 5 * wilson(0, 20).high)))


def test_a_combination_is_the_weighted_sum_of_metrics() -> None:
    metrics = computed(ANSWERS, combined={"my_score": {"accuracy": 0.7, "macro_f1": 0.3}})
    # fear: 8 right, 9 written, 10 rows; joy: 9 right, 10 written, 10 rows
    macro_f1 = (16 / 19 + 18 / 20) / 2
    assert metrics["my_score"].value == pytest.approx(0.7 * 0.85 + 0.3 * macro_f1)
    interval = metrics["my_score"].interval
    assert interval is not None
    assert 0.6 < interval.low < 0.85 < interval.high <= 1


def test_the_interval_of_a_combination_of_one_metric_is_that_of_the_metric() -> None:
    metrics = computed(ANSWERS, cost={"fear→joy": 5}, combined={"same": {"macro_f1": 1}, "loss": {"mean_cost": -1}})
    assert metrics["same"].interval == metrics["macro_f1"].interval
    cost, loss = metrics["mean_cost"].interval, metrics["loss"].interval
    assert cost
    assert loss == pytest.approx((-cost.high, -cost.low), abs=0.06)


def test_results_by_label_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # type: ignore[import-untyped]

    found, labels = label_results(ANSWERS, REFERENCES), ["fear", "joy"]
    assert found["confusion"] == [[8, 1, 1], [1, 9, 0]]
    assert [row[:2] for row in found["confusion"]] == confusion_matrix(REFERENCES, ANSWERS, labels=labels).tolist()
    expected = precision_recall_fscore_support(REFERENCES, ANSWERS, labels=labels)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [found["labels"][label][name] for label in labels] == pytest.approx(values.tolist())
    assert found["labels"]["fear"]["recall_interval"] == wilson(8, 10)
    assert found["labels"]["fear"]["answers"] == 9


def test_results_by_field_are_counted_over_the_rows() -> None:
    references = ['{"name": "Ann", "lines": [{"qty": 2}, {"qty": 3}]}', '{"name": "Bo", "age": 30}', '{"name": "Cy"}']
    answers = ['{"name": "ann", "lines": [{"qty": 2}, {"qty": 4}, {"qty": 5}], "city": "Rome"}', "?", '{"name": "Di"}']
    found = field_results(answers, references)["fields"]
    assert list(found) == ["name", "lines[].qty", "age"]
    assert found["name"] == {
        "precision": 1 / 2,
        "precision_interval": wilson(1, 2),
        "recall": 1 / 3,
        "recall_interval": wilson(1, 3),
        "f1": 2 / 5,
        "support": 3,
        "answers": 2,
    }
    assert (found["lines[].qty"]["precision"], found["lines[].qty"]["recall"]) == (1 / 3, 1 / 2)
    assert found["lines[].qty"]["recall_interval"] is None
    assert (found["age"]["precision"], found["age"]["precision_interval"], found["age"]["recall"]) == (0, None, 0)
    assert field_results(references, references)["fields"]["age"]["f1"] == 1


def test_a_score_per_row_has_an_interval_and_one_of_all_rows_has_none() -> None:
    def metrics(predictions: list[str], _: list[str]) -> dict[str, Any]:
        import numpy as np

        short = np.array([len(text) <= 3 for text in predictions])
        return {"short": short, "share": short.mean(), "half": [0.5] * len(predictions)}

    found = computed(ANSWERS, hook=metrics)
    assert found["short"][:2] == (0.5, wilson(10, 20))
    assert found["share"][:2] == (0.5, None)
    assert found["half"][:2] == (0.5, None)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"accuracy": 0.5}, "`accuracy`"),
        ({"x": float("nan")}, "`x`: nan"),
        ({"x": [1.0] * 19 + [float("inf")]}, "`x`: inf"),
        ({"x": [1.0] * 3}, "metrics returned {'x'"),
        ({"x": "0.5 or so"}, "metrics returned {'x'"),
        ({"x": None}, "metrics returned {'x'"),
        ([0.5], "metrics returned [0.5]"),
    ],
)
def test_scores_that_are_no_finite_numbers_by_new_names_are_errors_at_the_function(returned: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        computed(ANSWERS, hook=lambda *_: returned)
    assert said in str(caught.value)
    assert caught.value.where == Location("hooks.py", 3)


def test_the_place_of_the_function_is_its_line(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text("import math\n\n\ndef metrics(predictions, references):\n    return {}\n")
    hook = load_training_hooks(tmp_path / "olive-config.json").metrics
    assert hook is not None
    assert hook.where == Location(str(tmp_path / "hooks.py"), 4)
    assert MetricsHook(lambda *_: {"x": [1, 2]}, hook.where).means(["", ""], ["", ""]) == {"x": 1.5}


def test_a_combination_of_a_metric_that_nothing_returns_is_an_error_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('{\n  "combined": {\n    "s": {"politness": 1}\n  }\n}\n')
    settings = Evaluation(task="classification", combined={"s": {"politness": 1}})
    hook = MetricsHook(lambda *_: {"politeness": 1.0}, Location("hooks.py", 3))
    with pytest.raises(ConfigError) as caught:
        OwnMetrics(settings, hook, tmp_path / "olive-config.json").check(REFERENCES)
    assert (caught.value.where.line, caught.value.where.column) == (3, 11)  # type: ignore[union-attr]
    assert caught.value.fix == "write `politeness`"


def test_a_label_that_no_row_has_is_an_error_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('{\n  "passes": {"tone": {"cost": {"fear→yoy": 5}}}\n}\n')
    settings = Evaluation.model_validate({"passes": {"tone": {"cost": {"fear→yoy": 5}}}}).of("tone")
    with pytest.raises(ConfigError) as caught:
        OwnMetrics(settings, None, tmp_path / "olive-config.json").check_labels({"fear", "joy"})
    assert (caught.value.where.line, caught.value.where.column) == (2, 32)  # type: ignore[union-attr]
    assert caught.value.fix == "write `fear→joy`"


def test_models_are_compared_by_the_projects_metrics_on_the_same_rows() -> None:
    rows = [
        RowResult(
            "r", i, "q", reference, {"adapter": Measured(reference, {}, 0.1, 1), "merged": Measured(answer, {}, 0.1, 1)}
        )
        for i, (answer, reference) in enumerate(zip(ANSWERS, REFERENCES, strict=True))
    ]
    summaries = summarize("classification", rows)
    settings = Evaluation(task="classification", cost={"fear→joy": 5})
    assert OwnMetrics(settings, None, Path("c.json")).add_to(summaries, rows) == ["mean_cost"]
    merged = summaries[1]
    assert merged["metrics"]["mean_cost"] == pytest.approx(0.35)
    assert merged["intervals"]["accuracy"] == merged["interval"]
    difference = merged["versus"]["metrics"]["mean_cost"]
    assert difference["difference"] == pytest.approx(0.35)
    assert difference["interval"] == pytest.approx(merged["intervals"]["mean_cost"])
