"""Training curves and joined cells: what is drawn is what was measured, and no label lies on another."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.text import Text
from PIL import Image

from pretrain import objectives
from pretrain.data.batches import list_images
from pretrain.figures.scene import Scene, make_scene
from pretrain.figures.training_figures import (
    COLOURS,
    CURVES,
    LOSS,
    cell_box,
    cell_middle,
    curves_figure,
    draw_curves,
    draw_source,
    draw_view,
    draw_views,
    join,
    read_metrics,
    shorten,
)

OWN = objectives.get("clove").curves
MAPS = ("backbone", "contextualized")
PANELS = {title: [key.replace("*", name) for key in keys for name in (MAPS if "*" in key else MAPS[:1])]
          for title, keys in (*OWN[:1], *LOSS, *OWN[1:], *CURVES)}
KEYS = [key for keys in PANELS.values() for key in keys]


def entries(steps: int) -> list[dict]:
    """Each key is its place in KEYS plus a share of the step."""
    return [{"step": step, **{key: i + step / steps for i, key in enumerate(KEYS)}} for step in range(1, steps + 1)]


def panels(figure: Figure) -> dict:
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def test_curves__every_key_in_the_panel_of_its_title() -> None:
    drawn = panels(curves_figure(entries(5), OWN))
    assert [title for title in drawn if title] == list(PANELS)
    for title, keys in PANELS.items():
        lines = drawn[title].lines
        assert [line.get_ydata()[-1] for line in lines] == [KEYS.index(key) + 1 for key in keys]
        assert lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
        looks = [(line.get_color(), line.get_linestyle()) for line in lines]
        assert len({colour for colour, _ in looks}) == len({style for _, style in looks}) == len(keys)
        assert (drawn[title].get_legend() is not None) == (len(keys) > 1)


def test_curves__long_runs_are_smoothed_without_a_shift() -> None:
    long = panels(curves_figure(entries(1000), OWN))["loss"].lines
    faint, smooth = long
    assert len(faint.get_xdata()) == 1000 and len(smooth.get_xdata()) == 981
    # On a straight line the running mean lies on the line, at the middle of its window.
    np.testing.assert_allclose(smooth.get_ydata(), KEYS.index("loss") + smooth.get_xdata() / 1000, atol=6e-4)


def test_curves__what_is_not_finite_or_missing_is_said() -> None:
    some = entries(4)
    some[1]["loss"] = None
    for entry in some:
        del entry["negative_is_positive"]
    drawn = panels(curves_figure(some, OWN))
    assert drawn["loss (1 not finite)"].lines[0].get_xdata().tolist() == [1, 3, 4]
    bare = drawn["share of the negatives that are positives"]
    assert not bare.lines and [text.get_text() for text in bare.texts] == ["not recorded"]


def test_curves__chance_and_an_axis_on_which_small_and_large_ranks_are_read() -> None:
    some = entries(8)
    for entry in some:
        entry |= {"retrieval_chance": 1 / 9, "effective_rank_backbone": 2.0 ** entry["step"]}
    drawn = panels(curves_figure(some))
    lines = drawn["retrieval (and k-NN): share found"].lines
    chance = [line for line in lines if line.get_label() == "retrieval by chance"]
    assert len(chance) == 1 and set(chance[0].get_ydata()) == {1 / 9}
    ranks = drawn["effective rank (1: collapse)"]
    assert ranks.get_yscale() == "log" and ranks.get_ylim()[0] == 1
    assert not any(panel.get_yscale() == "log" for panel in drawn.values() if panel is not ranks)


def test_curves__an_objective_without_panels_of_its_own() -> None:
    assert [title for title in panels(curves_figure(entries(3))) if title] == [title for title, _ in (*LOSS, *CURVES)]


def test_curves__no_legend_lies_on_a_curve_around_zero() -> None:
    title, keys = "cosine of positive pairs and of negatives", ("positive_cosine", "negative_cosine")
    some = [{"step": step, keys[0]: 0.02 * math.sin(step), keys[1]: 0.05 + 0.05 * math.cos(step)}
            for step in range(1, 25)]
    figure = curves_figure(some, OWN)
    FigureCanvasAgg(figure).draw()
    axes = panels(figure)[title]
    box = axes.get_legend().get_window_extent()
    for line in axes.lines:
        assert not any(box.contains(*axes.transData.transform(point)) for point in line.get_xydata())


@pytest.mark.parametrize("steps", [0, 1, 30])
def test_curves__titles_do_not_meet(steps: int) -> None:
    figure = curves_figure(entries(steps), OWN)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    titles = list(PANELS)
    boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_text() in titles]
    assert len(boxes) == 12
    assert all(box.x0 >= 0 and box.x1 <= 1200 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_curves__torn_last_line(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(entry) + "\n" for entry in entries(3)) + '{"step": 4, "lo')
    assert [entry["step"] for entry in read_metrics(metrics)] == [1, 2, 3]
    draw_curves(metrics, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width == 1200


@pytest.fixture
def scene(photos: Path, tiny: Callable) -> Callable[..., Scene]:
    return lambda pair=(0, 1), **changes: make_scene(list_images(photos), 0, 0, tiny(**changes), pair)


def joined(scene: Scene) -> tuple[int, Figure]:
    figure = Figure()
    axes = figure.subplots(1, 2)
    return join(figure, *axes, scene), figure


def test_join__one_line_for_each_positive_of_the_numbered_cells(scene: Callable) -> None:
    made = scene((2, 0), t_pos=0.5)  # a local view: 2 x 2 cells of 16 pixels
    count, figure = joined(made)
    matched = made.positives.any(1).nonzero().flatten()
    assert 0 < count == len(matched) <= 4
    lines = [one for one in figure.artists if isinstance(one, ConnectionPatch)]
    expected = {(cell_middle(made.student, a), cell_middle(made.teacher, b))
                for a, b in made.positives.nonzero().tolist()}
    assert {(line.xy1, line.xy2) for line in lines} == expected
    texts = [text.get_text() for text in figure.texts]
    assert texts[:count] == [str(i + 1) for i in range(count)]
    numbers = {cell: [] for cell in made.positives.any(0).nonzero().flatten().tolist()}
    for number, cell in enumerate(matched.tolist()):
        for other in made.positives[cell].nonzero().flatten().tolist():
            numbers[other].append(str(number + 1))
    assert sorted(texts[count:]) == sorted(map(" ".join, numbers.values()))


def test_join__many_positives_are_thinned_to_whole_cells(scene: Callable) -> None:
    made = scene(t_pos=50.0)  # everything matches everything: 9 x 9
    count, figure = joined(made)
    assert count == 3 and sum(isinstance(one, ConnectionPatch) for one in figure.artists) == 27


def test_join__no_overlap_is_said(scene: Callable) -> None:
    count, figure = joined(scene(t_pos=1e-6))
    assert count == 0 and not any(isinstance(one, ConnectionPatch) for one in figure.artists)
    assert "no overlap" in figure.axes[0].texts[0].get_text()


def test_cells__row_major_in_pixels(scene: Callable) -> None:
    view = scene().student  # 48 pixels, 3 x 3
    assert cell_box(view, 5) == (31.5, 15.5, 16, 16)  # pixel (i, j) covers i - 0.5 to i + 0.5
    assert cell_middle(view, 5) == (39.5, 23.5)


def test_source__a_box_and_a_label_for_each_view(scene: Callable) -> None:
    made, axes = scene(local_views=3), Figure().subplots()
    draw_source(axes, made)
    assert [text.get_text() for text in axes.texts] == ["G1", "G2", "L1", "L2", "L3"]
    assert len({text.get_position() for text in axes.texts}) == 5
    for patch, view in zip(axes.patches, made.views, strict=True):
        x0, y0, x1, y1 = view.pixels_of(made.image)
        assert patch.get_bbox().bounds == pytest.approx((x0, y0, x1 - x0, y1 - y0), abs=1e-4)
        assert (patch.get_linestyle() in ("-", "solid")) == view.is_global


def test_source__any_name_can_be_drawn(scene: Callable) -> None:
    made = dataclasses.replace(scene(), name="a$\\foo{$ caf\udce9.jpg")
    figure = Figure()
    draw_source(figure.subplots(), made)
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_title() == "a$\\foo{$ caf?.jpg"


def test_view__as_many_grid_lines_as_cells_less_one(scene: Callable) -> None:
    axes = Figure().subplots()
    draw_view(axes, scene().views[2], COLOURS[0])
    assert len(axes.lines) == 2 and "2 x 2" in axes.get_title()


def test_views__unreadable_photographs_are_left_out(tmp_path: Path, make_photos: Callable, tiny: Callable) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "01.png").write_bytes(b"")
    draw_views(list_images(folder), tiny(), tmp_path / "views.png")
    three = Image.open(tmp_path / "views.png")
    assert three.size == (1200, 1200) and np.asarray(three.convert("L")).std() > 20
    for name in list_images(folder):
        (folder / name).write_bytes(b"")
    draw_views(list_images(folder), tiny(), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_shorten__keeps_the_end() -> None:
    assert shorten("abc", 3) == "abc" and shorten("folder/name.jpg", 11) == "...name.jpg"


def test_colours__can_be_told_apart_in_grey() -> None:
    """The two of a pair of curves or views differ in brightness too."""
    first, second = ([int(colour[i:i + 2], 16) for i in (1, 3, 5)] for colour in COLOURS[:2])
    brightness = [np.dot(one, (0.299, 0.587, 0.114)) for one in (first, second)]
    assert abs(brightness[0] - brightness[1]) > 25
