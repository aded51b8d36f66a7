"""The page of a job: whole, small, safe, and readable in every light, width and on paper."""

from __future__ import annotations

import html.parser
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hubdist.delivery.routes import Route
from hubdist.errors import HubdistError
from hubdist.report.delivery import NodeReport, PinReport, Report
from hubdist.report.job import MAX_DELIVERIES, MAX_ERRORS, JobReport
from hubdist.report.page import render_page, write_page
from hubdist.report.page_curves import draw_curves
from hubdist.report.page_matrix import draw_matrix
from hubdist.report.page_rows import error_rows, node_rows, route_rows
from hubdist.report.plan import Status
from hubdist.report.record import read_record, write_record
from tests.support.chromium import Chromium, find_chromium
from tests.support.job_reports import FAILURES, HANDLE, delivery, job_report, name_of

SMALL = job_report(8, failures=FAILURES, models=2)
LARGE = job_report(512, failures=FAILURES * 3, models=2)
MAX_BYTES = 300_000


class Outline(html.parser.HTMLParser):
    """The tags of a page, checked for nesting, with the levels of its headings and its table headers."""

    VOID = frozenset({"meta", "link", "br", "input", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.headers: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "th":
            self.headers.append(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.mark.parametrize("job", [JobReport(), SMALL, LARGE], ids=["empty", "small", "large"])
def test_a_page_is_whole_and_its_headings_are_in_order(job: JobReport) -> None:
    outline = Outline(render_page(job))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(level <= before + 1 for before, level in zip(outline.headings, outline.headings[1:], strict=False))
    assert all(header.get("scope") in ("col", "row") for header in outline.headers)


def test_a_page_asks_for_nothing_and_runs_nothing() -> None:
    text = render_page(LARGE)
    assert not {"script", "iframe", "object", "img"} & Outline(text).tags
    assert not re.search(r"(src|href|url)\s*[=(]\s*['\"]?(https?:)?//", text)


def worst() -> JobReport:
    """As many different deliveries, errors and pins as a record may hold, with long words everywhere."""
    long = "w" * 2_000
    deliveries = [
        replace(
            delivery(at % 900, 900),
            name=f"{name_of(at)}{long}",
            handle=f"{HANDLE}/{at % 20}/{long}",
            reason=f"{at} {long}",
            sources=tuple((f"{name_of(other)}{long}", 1 << 20) for other in range(at, at + 64)),
            closed_ports=(long, f"{long}2"),
            error=HubdistError(f"{at} {long}", advice=f"{at} {long}", node=long) if at % 2 else None,
        )
        for at in range(MAX_DELIVERIES)
    ]
    errors = [HubdistError(f"e{at} {long}", handle=f"{at}{long}", advice=long) for at in range(MAX_ERRORS)]
    pins = [PinReport(f"{HANDLE}/{at}/{long}", f"sha256:{at:064x}", 1, 1, long, 1, 1.0) for at in range(1_000)]
    settings = {f"key{at}": long for at in range(40)}
    return JobReport(
        job="1",
        pins=tuple(pins),
        deliveries=tuple(deliveries),
        errors=tuple(errors),
        settings=settings,
        given=("key1",),
    )


@pytest.mark.parametrize("make", [lambda: LARGE, worst], ids=["large", "worst"])
def test_a_page_is_small_whatever_the_job_did(make: object) -> None:
    assert callable(make)
    job = read_record(write_record(make()), "here")
    assert len(render_page(job).encode()) < MAX_BYTES


def test_what_others_write_cannot_become_part_of_the_page() -> None:
    evil = "<script>alert(1)</script>\"'&"
    one = replace(
        delivery(1, 4), name=evil, handle=evil, reason=evil, sources=((evil, 5), (evil + "2", 5)), source=evil
    )
    error = HubdistError(evil, handle=evil, node=evil, advice=evil)
    job = JobReport(
        job=evil,
        session=evil,
        coordinator=evil,
        versions={evil: evil},
        settings={evil: evil},
        pins=(PinReport(evil, "sha256:" + 64 * "1", 1, 1, evil, 1, 1.0),),
        deliveries=(one, replace(one, error=error)),
        errors=(error,),
    )
    text = render_page(job)
    assert "script" not in Outline(text).tags
    assert "<script" not in text


def test_the_page_of_a_job_says_what_its_record_says() -> None:
    text = render_page(SMALL)
    for word in (
        SMALL.job,
        SMALL.session,
        "16 done, 3 failed",
        "tensorflow 2.21.0",
        "gs://my-bucket/models/translate-large",
    ):
        assert word in text
    for one in SMALL.deliveries:
        assert one.name in text
    assert "token=***" in text


def test_a_prefetch_and_a_status_have_pages_too(tmp_path: Path) -> None:
    report = Report(SMALL.pins, SMALL.deliveries, 6.0, SMALL.errors)
    path = write_page(report, tmp_path / "report.html")
    assert "Who sent to whom" in path.read_text(encoding="utf-8")
    assert "Coordinator" in render_page(Status("ray", name_of(0), "/store", SMALL.pins, SMALL.deliveries))


def test_errors_with_the_same_words_stand_once() -> None:
    rows = {row.kind: row for row in error_rows(SMALL)}
    assert (rows["StoreFullError"].count, rows["NodeLostError"].count) == (2, 1)
    assert rows["StoreFullError"].nodes.count("/") == 2
    assert rows["ModelNotFoundError"].advice.startswith("Is the version right?")


def test_routes_are_summed_up_with_their_reasons() -> None:
    rows = {row.route: row for row in route_rows(SMALL)}
    assert rows["driver"].nodes.startswith("7: ")
    assert rows["direct"].reason == "the node can list and read it"
    assert rows["failed"].received == ""
    waits = sorted(one.seconds for one in SMALL.deliveries if one.route is Route.DIRECT)
    assert (rows["direct"].median_s, rows["direct"].longest_s) == ((waits[3] + waits[4]) / 2, waits[-1])


def test_the_table_of_many_nodes_has_the_failed_and_the_slowest_ones_and_counts_the_rest() -> None:
    rows, more = node_rows(LARGE)
    assert [row.failed for row in rows[:9]] == [True] * 9
    assert not any(row.failed for row in rows[9:])
    assert rows[9].seconds == max(one.seconds for one in LARGE.deliveries if one.error is None)
    assert more.startswith(f"{len(LARGE.deliveries) - len(rows)} more deliveries")


def numbers(shape: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in shape.split())]


def test_a_curve_goes_through_what_had_arrived() -> None:
    steps = ((1.0, 25_000_000), (2.0, 100_000_000))
    drawn = draw_curves([replace(delivery(1, 4), timeline=steps)])
    (shape,) = re.findall(r'<polyline[^>]* points="([^"]*)"', drawn.svg)
    begin, first, last = numbers(shape)
    assert (first[0] - begin[0]) * 2 == pytest.approx(last[0] - begin[0], abs=0.5)
    assert (begin[1] - first[1]) * 4 == pytest.approx(begin[1] - last[1], abs=0.5)
    assert ">MB</text>" in drawn.svg
    assert "2.00 s at the last" in drawn.text


@pytest.mark.parametrize("size", [0, 1, 999, 10**3, 10**6, 10**9, 3 * 10**12])
@pytest.mark.parametrize("seconds", [0.0, 1e-4, 0.3, 7.0, 86_400.0])
def test_any_size_and_time_can_be_drawn(size: int, seconds: float) -> None:
    drawn = draw_curves([replace(delivery(1, 4), timeline=((seconds, size),))])
    assert "nan" not in drawn.svg
    assert 2 <= drawn.svg.count('text-anchor="middle"') <= 12


def test_bands_hold_all_nodes_between_them() -> None:
    several = [replace(delivery(at, 100), timeline=((float(at), 100_000_000),)) for at in range(1, 51)]
    drawn = draw_curves(several)
    widest, most = (numbers(shape) for shape in re.findall(r'<polygon[^>]* points="([^"]*)"', drawn.svg))
    half = len(widest) // 2
    above, below = widest[:half], widest[half:][::-1]
    assert all(high[1] <= low[1] for high, low in zip(above, below, strict=True))
    inner = zip(most[:half], most[half:][::-1], strict=True)
    assert all(
        a[1] <= c[1] and d[1] <= b[1] for (a, b), (c, d) in zip(zip(above, below, strict=True), inner, strict=True)
    )
    assert [name for _, name in drawn.legend][-1] == f"the last node, {several[-1].name}"


def test_a_matrix_counts_every_byte_once() -> None:
    for job in (SMALL, LARGE):
        drawn = draw_matrix(job.deliveries, job.coordinator)
        assert drawn is not None
        sent = sum(size for one in job.deliveries for _, size in one.sources)
        assert f"{sent / 1e9:.2f} GB in all" in drawn.text


def test_a_matrix_of_few_senders_has_numbers_and_one_of_many_shares_rows() -> None:
    few = [delivery(at, 3) for at in (1, 2)]
    drawn = draw_matrix(few, name_of(0))
    assert drawn is not None
    assert "all together" in drawn.svg
    many = draw_matrix(LARGE.deliveries, LARGE.coordinator)
    assert many is not None
    assert many.svg.count("<rect") <= 24 * 24
    assert draw_matrix([replace(few[0], sources=())], None) is None


# In a real browser

needs_browser = pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; `apt-get install chromium`")

CONTRAST = r"""
(() => {
  const parse = text => {
    const found = text.match(/[\d.]+/g).map(Number);
    return text.startsWith("color(") ? [...found.slice(0, 3).map(part => part * 255), found[3] ?? 1]
                                     : [...found.slice(0, 3), found[3] ?? 1];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const light = rgb => {
    const [r, g, b] = rgb.map(part => (part /= 255) <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || element.closest("title, style")) continue;
    const style = getComputedStyle(element);
    let ground = behind(element);
    const svg = element.closest("svg");
    if (svg && svg.querySelector("rect.cell")) {  // a number may stand on a cell; the darkest one counts
      const cells = [...svg.querySelectorAll("rect.cell")];
      const box = element.getBoundingClientRect();
      const under = cells.find(cell => {
        const at = cell.getBoundingClientRect();
        const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
        return at.left <= x && x <= at.right && at.top <= y && y <= at.bottom;
      });
      if (under) {
        const fill = getComputedStyle(under);
        ground = over([...parse(fill.fill).slice(0, 3), Number(fill.fillOpacity)], ground);
      }
    }
    const ink = over(parse(svg ? style.fill : style.color), ground);
    const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) poor.push([walk.currentNode.textContent.trim().slice(0, 40), contrast.toFixed(2)]);
  }
  return poor;
})()
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    numbered = job_report(5, failures=FAILURES)
    jobs = {"empty": JobReport(), "small": SMALL, "large": LARGE, "numbers": numbered}
    return {name: write_page(job, folder / f"{name}.html") for name, job in jobs.items()}


@needs_browser
@pytest.mark.parametrize("name", ["empty", "small", "large", "numbers"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page_without_a_complaint_and_with_contrast(
    browser: Chromium, pages: dict[str, Path], name: str, dark: bool
) -> None:
    browser.open(pages[name], dark=dark)
    assert browser.complaints == []
    assert browser.evaluate(CONTRAST) == []
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") != dark


@needs_browser
@pytest.mark.parametrize("name", ["empty", "small", "large"])
@pytest.mark.parametrize("width", [320, 390, 800, 1600])
def test_no_page_is_wider_than_the_window(browser: Chromium, pages: dict[str, Path], name: str, width: int) -> None:
    browser.open(pages[name], width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
def test_a_page_can_be_printed_and_nothing_is_cut_off(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["small"], media="print", width=794)
    assert browser.pdf().startswith(b"%PDF")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 794
    assert browser.evaluate("[...document.querySelectorAll('table')].every(each => each.scrollWidth <= 794)")


@needs_browser
def test_texts_of_pictures_stay_inside_of_them(browser: Chromium, pages: dict[str, Path]) -> None:
    for name in ("small", "large", "numbers"):
        browser.open(pages[name])
        outside = browser.evaluate(
            """[...document.querySelectorAll("svg text")].filter(text => {
                const [inner, outer] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
                return inner.left < outer.left - 1 || inner.right > outer.right + 1
                    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
            }).map(text => text.textContent)"""
        )
        assert outside == []


def test_a_node_report_without_a_route_is_a_failure() -> None:
    lost = NodeReport("id", "n", "h", "d", None, "it failed")
    (row,) = route_rows(JobReport(deliveries=(lost,)))
    assert row.route == "failed"
