"""The three bands: what they say is what the scene and the report hold; headings and titles do not meet."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from pretrain.data.batches import list_images
from pretrain.figures.cell_figure import draw_show, place, show_figure
from pretrain.figures.scene import CellReport, Scene, make_scene
from pretrain.objective import Negatives


@pytest.fixture
def scene(photos: Path, tiny: Callable) -> Callable[..., Scene]:
    return lambda pair=(0, 1), **changes: make_scene(list_images(photos), 0, 0, tiny(**changes), pair)


def made_up(scene: Scene, **changes: object) -> CellReport:
    """Cell 4: teacher cells 0, 1 are positives, 8 is left out, 1, 2 and 3 are negatives."""
    cells = scene.student.grid[0] * scene.student.grid[1]
    attention = torch.arange(cells).float().reshape(scene.student.grid)
    cosine = torch.tensor([-0.31, 0.62, 0.53, 0.44, 0, 0, 0, 0, 0.75])
    negatives = Negatives([1, 2, 3], 0.517, dropped=8)
    report = CellReport(4 % cells, "contextualized", cosine, [0, 1], negatives, attention / attention.sum())
    return dataclasses.replace(report, **changes)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_figure__says_what_the_report_holds(scene: Callable) -> None:
    made = scene()
    said = words(show_figure(made, made_up(made), "network of RUN after step 6"))
    assert "network of RUN after step 6" in said
    assert "3  Cell 1,1 of G1 (row, column from 0) among the cells of G2" in said
    for line in ("+  positive 0,1", "+  positive 0,0", "T  left out 2,2", "1  negative 0,1 (positive!)",
                 "2  negative 0,2", "3  negative 1,0"):
        assert line in said, line
    assert "cosine with F_neg (eq. 2): 0.517" in said
    assert "+\n-0.31" in said and "1\n0.62" in said and "T\n0.75" in said  # on the teacher view
    assert "-0.31" in said and said.count("0.62") == 2  # beside the bars: as a positive and as a negative


def test_figure__a_run_of_any_name_can_be_drawn(scene: Callable, tmp_path: Path) -> None:
    made, note = scene(), "network of $\\foo{$ after step 6"
    assert note in words(show_figure(made, made_up(made), note))
    draw_show(made, made_up(made), note, tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width == 1200


def test_figure__counts_the_cells_with_a_positive(scene: Callable) -> None:
    made = scene(t_pos=0.4, t_pos_unit="cell_diagonal")
    said = words(show_figure(made, made_up(made), ""))
    matched = int(made.positives.any(1).sum())
    expected = f"{matched} of 9 cells of the student view have positives (closer than T_pos = 0.4 cell diagonals)"
    assert any(line.startswith(expected) for line in said)
    local = int(made.positives_of(made.views[2]).any(1).sum())
    assert any(line.startswith("L1") and line.endswith(f": {local} of 4") for line in said)


def test_figure__attention_is_drawn_cell_by_cell(scene: Callable) -> None:
    made = scene()
    report = made_up(made)
    heat = [image for axes in show_figure(made, report, "").axes for image in axes.get_images()
            if np.shape(image.get_array()) == (3, 3)]
    assert len(heat) == 1
    np.testing.assert_allclose(heat[0].get_array(), report.attention.numpy() * 100)


@pytest.mark.parametrize("changes, expected", [
    ({"attention": None}, "no attention"),
    ({"positives": []}, "cosines (the cell has no positive)"),
    ({"negatives": Negatives([], float("nan"))}, "cosine with F_neg (eq. 2): nan"),
    ({"negatives": Negatives([], float("nan")), "positives": []}, "cosines (the cell has no positive)"),
    ({"negatives": None}, "blue outline: positive; this objective has no negatives"),
], ids=["no attention", "no positive", "no negative", "nothing", "no negatives"])
def test_figure__what_is_missing_is_said(scene: Callable, changes: dict, expected: str) -> None:
    made = scene()
    figure = show_figure(made, made_up(made, **changes), "")
    assert expected in words(figure)
    assert ("of its contextualized features" in words(figure)) == (expected.endswith("no negatives"))
    FigureCanvasAgg(figure).draw()


def test_figure__no_overlap_is_said(scene: Callable) -> None:
    made = scene(t_pos=1e-6)
    said = words(show_figure(made, made_up(made, positives=[]), ""))
    assert any(line.startswith("No overlap: no cell of G1 has a centre closer than") for line in said)


@pytest.mark.parametrize("views, pair", [
    ({"local_views": 0}, (0, 1)), ({"local_views": 6}, (3, 1)), ({"global_views": 3, "local_views": 9}, (2, 0)),
], ids=["two views", "2 + 6", "3 + 9"])
def test_figure__headings_and_titles_do_not_meet(scene: Callable, views: dict, pair: tuple[int, int]) -> None:
    made = scene(pair, t_pos_unit="cell_diagonal_fraction", **views)
    figure = show_figure(made, made_up(made), "random initial network (no --run given): similarities are those before "
                                              "any training")
    FigureCanvasAgg(figure).draw()
    headings = [text for part in figure.subfigs for text in part.texts if text.get_transform() == part.transSubfigure]
    titles = headings + [axes.title for axes in figure.axes] + [axes.xaxis.label for axes in figure.axes]
    boxes = [(text.get_text(), text.get_window_extent()) for text in titles if text.get_text()]
    assert len(boxes) > 10
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= -1 and box.x1 <= 1201, name
        assert not [other for other, there in boxes[:i] if box.overlaps(there)], name


def test_place__row_then_column(scene: Callable) -> None:
    assert [place(scene().student, cell) for cell in (0, 2, 3)] == ["0,0", "0,2", "1,0"]
