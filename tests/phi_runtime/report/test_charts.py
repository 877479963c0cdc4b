"""The charts of the report: valid, inert and small SVG, with each value where it belongs."""

from __future__ import annotations

import math
import random
import re
from xml.etree import ElementTree

import pytest

from phi_runtime.core.units import percent
from phi_runtime.report.charts import (
    NARROW,
    WIDE,
    PointEstimate,
    bar_chart,
    both_widths,
    data_table,
    dot_chart,
    heat_map,
)
from phi_runtime.report.loss_chart import loss_chart
from phi_runtime.report.row_views import MAX_LABELS
from phi_runtime.report.scale import Scale, is_wide, linear_ticks, range_around, short, thinned
from phi_runtime.report.text import escaped, fitted, inert, width_em

NAN, INFINITY = float("nan"), float("inf")
HOSTILE = "</svg><script>alert(1)</script>\x1b[31m\u202e&'\"\ud800\x00"
LIMIT_BYTES = 50_000
SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg.encode())
    assert (root.tag, root.get("role"), [child.tag for child in root][:2]) == (
        f"{SVG}svg",
        "img",
        [f"{SVG}title", f"{SVG}desc"],
    )
    assert root[0].text is not None
    assert len(svg.encode()) <= LIMIT_BYTES
    assert not re.search(r"nan|inf\b|Infinity|style=| on\w+=|href", re.sub(r"<(title|desc|text)\b.*?</\1>", "", svg))
    return root


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [node for node in root.iter() if name in (node.get("class") or "").split()]


def texts(root: ElementTree.Element, name: str = "") -> list[str]:
    nodes = root.iter(f"{SVG}text") if not name else of_class(root, name)
    return [node.text or "" for node in nodes]


# -- dots with intervals ------------------------------------------------------------------------------------------------------

MODELS = [
    PointEstimate("majority label", 0.25, 0.181, 0.334, is_baseline=True),
    PointEstimate("adapter", 0.9917, 0.9543, 0.9985),
    PointEstimate("base", 0.0, 0.0, 0.031),
]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_each_model_has_a_dot_an_interval_and_its_numbers(width: int) -> None:
    root = parsed(dot_chart(MODELS, "Accuracy", baseline=MODELS[0], width=width))
    assert texts(root, "value") == ["25.0 % (18.1–33.4)", "99.2 % (95.4–99.9)", "0.0 % (0.0–3.1)"]
    assert texts(root, "name") == ["majority label", "adapter", "base"]
    assert (len(of_class(root, "dot")), len(of_class(root, "ring")), len(of_class(root, "interval"))) == (2, 1, 3)
    ticks = {node.text: float(node.get("x", 0)) for node in of_class(root, "tick")}
    (ring,) = of_class(root, "ring")
    zero, whole = ticks["0 %"], ticks["100 %"]
    assert float(ring.get("cx", 0)) == pytest.approx(zero + 0.25 * (whole - zero), abs=0.2)
    assert {line.get("d", "")[1:].split()[0] for line in of_class(root, "baseline")} == {ring.get("cx")}
    assert float(of_class(root, "dot")[1].get("cx", 0)) == pytest.approx(zero, abs=0.2)


def test_an_estimate_without_a_number_is_named_and_not_drawn() -> None:
    estimates = [
        PointEstimate("nan", NAN),
        PointEstimate("none", None, 0.1, 0.2),
        PointEstimate("half", 0.5, NAN, 0.6),
        PointEstimate("infinite", INFINITY, 0, 1),
    ]
    root = parsed(dot_chart(estimates, "Accuracy", baseline=PointEstimate("b", NAN)))
    assert texts(root, "value") == ["no value", "no value", "50.0 %", "no value"]
    assert (len(of_class(root, "dot")), len(of_class(root, "interval")), len(of_class(root, "baseline"))) == (1, 0, 0)


def test_differences_have_an_axis_with_both_signs() -> None:
    estimates = [PointEstimate("int4 − merged", -0.008, -0.051, 0.031)]
    root = parsed(dot_chart(estimates, "Difference", baseline=PointEstimate("none", 0.0), limits=None))
    assert texts(root, "value") == ["-0.8 % (-5.1–3.1)"]
    assert {"-4 %", "0 %", "2 %"} <= set(texts(root, "tick"))


# -- loss curves --------------------------------------------------------------------------------------------------------------


def test_a_loss_that_falls_far_has_a_logarithmic_axis() -> None:
    curve = [(step, 10 / step) for step in range(1, 101)]
    root = parsed(
        loss_chart(
            curve,
            "finetune",
            validation=[(50, 0.3), (100, 0.2)],
            learning_rate=[(1, 1e-4), (100, 0.0)],
            best_step=100,
        )
    )
    assert "Logarithmic axis" in (root[1].text or "")
    assert texts(root, "name") == [
        "training loss 0.1",
        "validation loss 0.2",
        "learning rate ≤ 1e-4",
        "best: step 100",
    ]
    heights = {node.text: float(node.get("y", 0)) for node in of_class(root, "end")}
    assert heights["0.1"] - heights["1"] == pytest.approx(heights["1"] - heights["10"], abs=0.2)
    points = of_class(root, "validated-point")[1:]  # the first is that of the legend
    assert ["best-point" in (point.get("class") or "") for point in points] == [False, True]
    assert points[1][0].text == "step 100: validation loss 0.2"
    steps = {node.text: float(node.get("x", 0)) for node in of_class(root, "middle")}
    assert float(points[0].get("d", "")[1:].split()[0]) == pytest.approx((steps["0"] + steps["100"]) / 2, abs=0.2)


def test_a_flat_loss_has_a_linear_axis_and_zero_losses_too() -> None:
    for curve in ([(1, 2.0), (2, 2.1)], [(1, 0.0), (2, 5.0)], [(1, -1.0), (2, 90.0)]):
        assert "Logarithmic" not in (parsed(loss_chart(curve, "finetune"))[1].text or "")


def test_values_that_are_not_finite_are_counted_and_the_last_of_a_step_counts() -> None:
    root = parsed(loss_chart([(1, 3.0), (2, NAN), (3, None), (4, INFINITY), (1, 2.0), (5, 1.5)], "finetune"))
    assert root[1].text == "Training loss: 2 at step 1, 1.5 at step 5. 3 values are not finite."
    assert of_class(root, "trained")[1].get("d", "").count("M") == 2


def test_ten_thousand_points_keep_their_peaks_and_a_small_image() -> None:
    generator = random.Random(0)
    curve: list[tuple[float, float | None]] = [(i, 2 + generator.random()) for i in range(10_000)]
    curve[7_777] = (7_777, 50.0)
    root = parsed(loss_chart(curve, "finetune", validation=curve, learning_rate=curve, best_step=7_777))
    assert of_class(root, "trained")[1].get("d", "").count("M") <= 600
    assert (7_777, 50.0) in thinned([(step, value or 0) for step, value in curve], 600)


# -- heat map -----------------------------------------------------------------------------------------------------------------


def test_a_confusion_matrix_shows_counts_and_outlines_what_is_right() -> None:
    root = parsed(heat_map([[30, 0, 0], [2, 27, 1]], ["fear", "joy"], ["fear", "joy", "no label"], "int4"))
    assert root[1].text == (
        "57 of 60 rows on the diagonal, which is right; joy answered as fear: 2; joy answered as no label: 1"
    )
    assert texts(root, "middle") == ["fear", "joy", "no label", "30", "2", "27", "1"]
    shades = {node.get("fill-opacity"): node.get("d", "").count("M") for node in of_class(root, "cell")}
    assert shades == {"0.00": 2, "0.06": 2, "0.50": 2}  # 0 rows; up to an eighth; seven eighths and more
    assert of_class(root, "diagonal")[0].get("d", "").count("M") == 2


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_many_long_labels_stay_a_small_image(width: int) -> None:
    names = [f"{i} {HOSTILE}" * 30 for i in range(MAX_LABELS)]
    counts = [[1000 * (i == j) + (i + j) % 90 for j in range(MAX_LABELS)] for i in range(MAX_LABELS)]
    root = parsed(heat_map(counts, names, names, "base", width=width))
    assert len(of_class(root, "diagonal")[0].get("d", "").split("M")) == 21


# -- bars ------------------------------------------------------------------------------------------------------------------


def test_bars_start_at_zero_and_are_as_long_as_their_values() -> None:
    root = parsed(bar_chart([("1–32", 400), ("33–64", 100), ("65–128", 0), ("129–256", NAN)], "Tokens of a row"))
    assert texts(root, "value") == ["400", "100", "0", "no value"]
    first, second = (float(bar.get("width", 0)) for bar in of_class(root, "bar"))
    assert first == pytest.approx(4 * second, abs=0.3)


def test_more_than_sixty_bars_are_counted() -> None:
    assert texts(parsed(bar_chart([(f"{i}", i) for i in range(100)], "many")), "tick") == ["and 40 more"]


# -- all ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(
    "draw",
    [
        lambda text, width: dot_chart([PointEstimate(text, 0.5, 0.4, 0.6)], text, width=width),
        lambda text, width: loss_chart([(1, 2.0)], text, width=width),
        lambda text, width: heat_map([[1]], [text], [text], text, width=width),
        lambda text, width: bar_chart([(text, 1.0)], text, width=width),
    ],
)
def test_text_of_data_is_inert(draw, width: int) -> None:  # type: ignore[no-untyped-def]
    for text in (HOSTILE, HOSTILE * 500, "e" + "\u0301" * 5000, "文" * 500, " "):
        svg = draw(text, width)
        parsed(svg)
        assert not re.search("<script|[\x00-\x08\x0b-\x1f\u202e\ud800]", svg)


@pytest.mark.parametrize("nothing", [[], [(1.0, NAN)], [(NAN, 1.0)]])
def test_no_data_says_so(nothing: list[tuple[float, float | None]]) -> None:
    empty = [
        dot_chart([], "t"),
        bar_chart([], "t"),
        heat_map([], [], [], "t"),
        heat_map([[0]], ["a"], ["a"], "t"),
        loss_chart(nothing, "t", validation=nothing),
    ]
    for svg in empty:
        assert texts(parsed(svg)) == ["no data"]


def test_a_chart_is_drawn_for_a_screen_and_for_a_phone() -> None:
    html = both_widths(lambda width: bar_chart([("a", 1.0)], "t", width=width))
    assert re.findall(r'<div class="(\w+)"><svg [^>]*width="(\d+)"', html) == [("wide", "600"), ("narrow", "340")]


def test_the_numbers_behind_a_chart_are_a_table() -> None:
    html = data_table("Loss <1>", ["step", "loss"], [(1, 2.5), ("</td>\u202e", None), (1000, NAN)])
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td( class=number)?>(.*?)</td></tr>', html)
    assert rows == [
        ("1", " class=number", "2.5"),
        ("&lt;/td&gt;\\u{202e}", "", "–"),
        ("1,000", " class=number", "–"),
    ]
    assert "<caption>Loss &lt;1&gt;</caption>" in html


# -- scales and text ----------------------------------------------------------------------------------------------------------


def test_ticks_are_round_values() -> None:
    assert linear_ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert linear_ticks(-0.053, 0.031, 4) == [-0.04, -0.02, 0, 0.02]
    assert linear_ticks(0, 3, 6, least_step=1) == [0, 1, 2, 3]
    assert linear_ticks(0, 12345, 5) == [0, 5000, 10000]
    assert Scale(0.006, 6, 0, 100, log=True).ticks(6) == pytest.approx([0.01, 0.03, 0.1, 0.3, 1, 3])
    assert Scale(1e-9, 1e9, 0, 100, log=True).ticks(6) == pytest.approx([1e-9, 1e-6, 1e-3, 1, 1e3, 1e6, 1e9])


def test_a_range_has_room_and_is_never_empty() -> None:
    assert range_around([]) == (0, 1)
    assert range_around([0.0]) == (-0.5, 0.5)
    assert range_around([0.0, 1.0]) == (0, 1.05)
    assert range_around([2.0, 3.0]) == (1.95, 3.05)
    assert Scale(1, 100, 0, 10, log=True).at(10) == pytest.approx(5)
    assert [Scale(0, 1, 0, 10).at(value) for value in (-5, 0.5, 7)] == [0, 5, 10]
    assert (is_wide([1, 25]), is_wide([1, 2]), is_wide([0, 25]), is_wide([])) == (True, False, False, False)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (5.5738, "5.57"), (0.015559, "0.0156"), (1234.5, "1,234"), (6.087e-6, "6.1e-6"), (1e-4, "1e-4")],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert short(value) == shown
    assert percent(0.99166) == "99.2 %"


def test_characters_that_act_are_shown() -> None:
    assert inert("a\x1b[1m\x7f\u202eb\n\tc\u200dd\u2066\x85") == "a␛[1m␡\\u{202e}b\n\tc\u200dd\\u{2066}\\u{85}"
    assert inert("e" + "\u0301" * 9) == "e" + "\u0301" * 4
    assert escaped("<a href=\"x\" title='y'>&") == "&lt;a href=&quot;x&quot; title=&#x27;y&#x27;&gt;&amp;"


def test_a_long_text_ends_with_an_ellipsis_and_has_the_room_that_it_is_given() -> None:
    assert fitted("short", 10) == "short"
    for text in ("a long label of a model", "とても長いモデルの名前", "W" * 50):
        shown = fitted(text, 6)
        assert shown.endswith("…")
        assert 4 < width_em(shown) <= 6.5
    assert math.isclose(width_em("e\u0301"), width_em("e"))
