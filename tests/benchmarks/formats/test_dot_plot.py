"""The figure: what is drawn for each row, the same bytes each time, nothing cut off with many and long names."""

import hashlib
import io
import itertools
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from benchmarks.formats import all_tables, dot_plot
from pretrain.common.errors import UserError
from tests.benchmarks.table_files import REPORTED, write_all

NAMES = ["CLoVE", "clove_half", "no_attention", "$a_b$ <i>", "Supervised",
         "normalized attention, no local views, 4 times the steps of the others",
         "random convolutions with learned scales", "Rand init (zero gamma)"]


def trials(make_result, method: str, values: list[float], label: str = "nuclei", **changes) -> list[dict]:
    key = hashlib.sha256(f"{method} {label}".encode()).hexdigest()
    own = {"dataset__label": label, "dataset__classes": ["cell"], "scale": "mini", "epochs": None, "stage__key": key,
           "dataset__val__annotations_sha256": hashlib.sha256(label.encode()).hexdigest()}
    return [make_result(method=method, values=[value] * 6, trial=number, seed=number, **own | changes)
            for number, value in enumerate(values)]


def tables(results: Path, **options):
    return all_tables.read_tables(results, REPORTED, **options).tables


@pytest.fixture
def nine_methods(make_result, tmp_path: Path) -> Path:
    """Nine methods on two datasets, five trials each; of one method two, which scatter much."""
    for label, base in (("nuclei", 10.0), ("bccd", 30.0)):
        write_all(tmp_path, *trials(make_result, "Rand init", [base + 2 * trial for trial in range(5)], label))
        for number, name in enumerate(NAMES):
            scatter = [0.4, -0.2, 0.7, 0.0, 0.1 * number]
            write_all(tmp_path, *trials(make_result, name, [
                base + 2 * trial + (1 + number / 3) * scatter[trial] + 6 - number for trial in range(5)], label))
        write_all(tmp_path, *trials(make_result, "two trials", [base, base + 9], label))
    return tmp_path


def test_dot_plot__draws_means_intervals_singles_lines_and_differences(make_result, tmp_path: Path) -> None:
    write_all(tmp_path, *trials(make_result, "CLoVE", [12.6, 17.4, 8.8]), *trials(make_result, "Supervised", [15.0]),
              *trials(make_result, "Rand init", [8.0, 9.2, 11.8]))
    [axes] = dot_plot.dot_plot(tables(tmp_path)).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["CLoVE", "Rand init", "Supervised"]
    assert axes.get_xlabel() == "AP bb (percent)"
    assert axes.get_title(loc="left").replace("\n", " ").startswith("Own data: nuclei, 1 class, 118287 training")
    [right] = axes.child_axes
    assert [text.get_text() for text in right.get_yticklabels()] == ["+3.3 [-10.9, +17.5] n=3", "", "+7.0 [-] n=1"]
    drawn = [(line.get_xdata(), line.get_ydata()) for line in axes.lines]
    assert drawn[0][0] == pytest.approx([38.8 / 3]) and list(drawn[0][1]) == [0]
    [interval] = [xs for xs, ys in drawn if list(ys) == [0, 0]]  # 12.933 ± 4.30265 * 4.3097 / sqrt(3)
    assert list(interval) == pytest.approx([12.9333 - 10.7060, 12.9333 + 10.7060], abs=1e-3)
    assert [12.6, 17.4, 8.8] in [list(xs) for xs, _ in drawn]
    verticals = [line.get_xdata()[0] for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[-1]
                 and list(line.get_ydata()) == [0, 1]]
    assert verticals == pytest.approx([29 / 3, 15.0])


def test_dot_plot__printed_rows_are_hollow_and_the_paper_has_a_panel_only_where_something_was_measured(
        make_result, tmp_path: Path) -> None:
    write_all(tmp_path, make_result(values=[40.5] * 6))
    [axes] = dot_plot.dot_plot(tables(tmp_path)).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[:2] == ["Supervised 100, paper", "Rand init, paper"] and names[-1] == "CLoVE 200"
    fills = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "o"]
    assert fills == ["none"] * 9 + [dot_plot.BLUE]
    assert axes.get_title(loc="left") == "Object detection and segmentation on COCO (R50-FPN)"


def test_write_figure__svg_and_png_of_the_same_bytes_each_time(nine_methods: Path, tmp_path: Path) -> None:
    written = dot_plot.write_figure(tables(nine_methods), tmp_path / "figures" / "ap.png")
    assert [path.name for path in written] == ["ap.svg", "ap.png"]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in dot_plot.write_figure(tables(nine_methods), written[0])] == first
    assert dot_plot.saved(dot_plot.dot_plot(tables(nine_methods)), "svg") == first[0] and b"<svg" in first[0]
    with Image.open(io.BytesIO(first[1])) as image:
        assert image.width == 1400
        ink = image.convert("L").point(lambda value: 255 * (value < 250))
        left, top, right, bottom = ink.getbbox()
    assert left > 2 and top > 2 and right < 1398 and bottom < image.height - 2  # nothing is cut off


def test_dot_plot__long_names_do_not_overlap(nine_methods: Path) -> None:
    figure = dot_plot.dot_plot(tables(nine_methods))
    FigureCanvasAgg(figure).draw()
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 10 and figure.axes[0].get_yticklabels()[0].get_text() == "$a_b$ <i>"
    assert all(one.y0 >= below.y1 for one, below in itertools.pairwise(labels))  # pixels, upwards


def test_dot_plot__a_wide_interval_ends_in_an_arrow_and_does_not_squeeze_the_others(nine_methods: Path) -> None:
    axes = dot_plot.dot_plot(tables(nine_methods)).axes[0]
    low, high = axes.get_xlim()  # two trials, 30 and 39: 34.5 ± 57.2; all values lie in 26 to 45
    assert high - low < 60
    assert {line.get_marker() for line in axes.lines} >= {"<", ">"}


def test_main__writes_the_figure_beside_the_tables(make_result, tmp_path: Path, capsys) -> None:
    figure = tmp_path / "figures" / "ap"
    with pytest.raises(UserError, match=r"--figure .*ap: expected a measured row, found none; measure something first"):
        all_tables.main(["--results", str(tmp_path), "--figure", str(figure)])
    write_all(tmp_path, *trials(make_result, "CLoVE", [12.6, 17.4]))
    assert all_tables.main(["--results", str(tmp_path), "--figure", str(figure)]) == 0
    assert capsys.readouterr().out.endswith(f"written: {figure}.svg, {figure}.png\n")
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(UserError, match=r"--figure .*taken.svg: expected the name of a file, found a folder"):
        all_tables.main(["--results", str(tmp_path), "--figure", str(tmp_path / "taken")])
