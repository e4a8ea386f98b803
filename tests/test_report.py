"""A report is opened in a real browser, narrow and wide, light and dark, and its figures read."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from sae_lens_meta.comparison.figures import HEADLINE, L2, PHI
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.measures.histograms import Histogram
from sae_lens_meta.measures.pair_map import N_COLUMNS, N_ROWS, KeptPairs, PairMap
from sae_lens_meta.report import write_report
from sae_lens_meta.statistics.intervals import mean_interval
from tests.atlases import Tokenizer, an_sae, its_contents
from tests.atlases import write as write_atlas_page
from tests.comparisons import compared, comparison

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
MAPPED = (0, 5)  # SAEs that keep their pairs: the first solo and the first joint one
PHONE, WIDE = (390, 844), (1280, 900)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="chromium and chromedriver are not installed",
    ),
]


def pair_map(seed: int) -> PairMap:
    """Pairs at rates of 2^-2 to 2^-7, one in four cells kept."""
    random = np.random.default_rng(seed)
    counts = np.zeros((N_COLUMNS, N_ROWS), dtype=int)
    counts[4:14, 6:17] = random.integers(1, 5000, (10, 11))
    kept = KeptPairs([], [], [], [], [], [])
    for column, row in zip(*counts.nonzero(), strict=True):
        if (column + row) % 4 == 0:
            rate = 2 ** (-(column + 0.5) / 2)
            kept.cell.append(int(column * N_ROWS + row))
            kept.a.append(int(column))
            kept.b.append(int(1000 + row))
            kept.phi.append(float(10 ** ((row + 0.5) / 4 - 5)))
            kept.rate_a.append(rate)
            kept.rate_b.append(rate)
    corrected = [1e-3 * (c + 1) if row.any() else None for c, row in enumerate(counts)]
    return PairMap(counts.tolist(), corrected, kept)


@pytest.fixture(scope="module")
def made() -> Comparison:
    """Of 20,000 latents, with 1,000 candidates, two joint variants, and names with markup in them."""
    saes = [
        *(compared(f"solo_{i}", "solo", 6e-3 + i * 1e-5) for i in range(3)),
        *(
            compared(f"c_{i}", "solo_equal_l2", 5.9e-3 + i * 1e-5, l2=0.11)
            for i in (0, 1)
        ),
        compared("joint_0", "joint", 5.5e-3, l2=0.11, variant="joint 0.3"),
        compared("joint_1", "joint", 5.7e-3, l2=0.105, variant="joint 0.1"),
    ]
    for place in MAPPED:
        saes[place] = replace(saes[place], pair_map=pair_map(place))
    for place, sae in enumerate(saes):
        edges = np.linspace(-1, 1, 41)
        counts = 1e6 * np.exp(-(((edges[1:] + edges[:-1]) / 2) ** 2) * (20 + place))
        sae.phi = Histogram(edges.tolist(), counts.astype(int).tolist())
    found = comparison(saes, n_candidates=1000)
    found.warnings = ["<b id='injected'>Mind</b> this."]
    found.verdict = ["A sentence."]
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    driver.set_script_timeout(300)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.setBlockedURLs", {"urls": ["http://*", "https://*"]}
    )
    yield driver
    driver.quit()


def sized(browser: Any, size: tuple[int, int], scheme: str = "light") -> None:
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": size == PHONE}
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


@pytest.fixture(scope="module")
def report(made: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    contents = its_contents(an_sae(), Tokenizer(), with_text=False)
    for name, sae in (
        ("its atlas.html", made.saes[0].weights_sha256),
        ("b.html", "0" * 64),
    ):
        write_atlas_page(contents, path.parent / name, sha256=sae)
    write_report(made, path)
    return path


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, loaded without a network, on a phone."""
    sized(browser, PHONE)
    browser.get(report.as_uri())
    return browser


@pytest.fixture
def wide(page: Any) -> Any:
    sized(page, WIDE)
    page.refresh()
    return page


def texts(page: Any, selector: str) -> list[str]:
    """As they stand in the page, hidden or not."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent.trim())"
    return page.execute_script(script, selector)


def small(saved: Comparison, variant: str, label: str) -> list[str]:
    """The intervals that a cell must show."""
    figure, saes = HEADLINE[label], saved.variants()[variant]
    shown = []
    values = [figure.of(sae) for sae in saes]
    interval = mean_interval(values) or saes[0].intervals.get(label)
    if label in ("latents_compared", "latents_that_never_fire"):
        interval = None  # counts, of which changes in percent say nothing
    if interval:
        low, high = (format(v, figure.format) for v in (interval.low, interval.high))
        shown.append(f"{low} to {high}")
    difference = saved.difference(variant, "solo", label)
    if difference and difference.over_tokens:
        over = difference.over_tokens
        shown.append(f"tokens {over.low:+.1f} to {over.high:+.1f}")
    if difference and difference.over_seeds:
        over = difference.over_seeds
        shown.append(f"seeds {over.low:+.1f} to {over.high:+.1f}")
    return shown


def test_every_figure_on_the_page_is_that_of_the_json(
    page: Any, made: Comparison, tmp_path: Path
) -> None:
    saved = Comparison.load(made.save(tmp_path))
    cells = page.find_elements(By.CSS_SELECTOR, "#headline td[data-figure]")
    assert len(cells) == len(HEADLINE) * len(saved.variants())
    assert {len(small(saved, "joint 0.3", label)) for label in HEADLINE} == {0, 1, 3}
    for cell in cells:
        label, variant = (
            cell.get_attribute("data-figure"),
            cell.get_attribute("data-variant"),
        )
        saes = saved.variants()[variant]
        mean = sum(HEADLINE[label].of(sae) for sae in saes) / len(saes)
        assert cell.find_element(By.CLASS_NAME, "value").text == format(
            mean, HEADLINE[label].format
        )
        assert [s.text for s in cell.find_elements(By.TAG_NAME, "small")] == small(
            saved, variant, label
        )
        difference = saved.difference(variant, "solo", label)
        shown = cell.find_elements(By.CLASS_NAME, "difference")
        assert [s.text for s in shown] == (
            [f"{difference.percent:+.1f} %"]
            if difference and difference.percent is not None
            else []
        )


def test_every_figure_is_explained_where_it_stands(page: Any) -> None:
    for id_, figure in HEADLINE.items():
        row = page.find_element(By.ID, f"figure-{id_}")
        explanation = row.find_element(By.CSS_SELECTOR, "th p")
        assert not explanation.is_displayed()
        row.find_element(By.TAG_NAME, "summary").click()
        assert explanation.text == figure.explained
    assert len({figure.explained for figure in HEADLINE.values()}) > 15


@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_the_page_fits_the_screen_and_asks_for_nothing(page: Any, size: Any) -> None:
    sized(page, size)
    page.refresh()
    width = page.execute_script("return document.documentElement.scrollWidth")
    assert width <= size[0]
    resources = "return performance.getEntriesByType('resource').length"
    assert page.execute_script(resources) == 0
    assert page.get_log("browser") == []
    plots = page.find_elements(By.CSS_SELECTOR, "figure svg")
    assert len(plots) == 6 + 2 + 2
    assert all(200 < plot.size["width"] <= size[0] for plot in plots)
    smallest = page.execute_script(
        "return Math.min(...[...document.querySelectorAll('p, td')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 14
    # the verdict and the plot of all figures are what is seen first
    for selector in ("#verdict .plain", "#forest tbody .strip svg"):
        first = page.find_element(By.CSS_SELECTOR, selector)
        assert first.location["y"] + first.size["height"] < size[1]
    order = texts(page, "#verdict, .warnings, #forest caption, h2")
    assert order[2].startswith("Every figure") and order[3] == "Figures"


def test_a_verdict_and_a_warning_do_not_look_alike(page: Any) -> None:
    style = (
        "const s = getComputedStyle(document.querySelector(arguments[0]));"
        "return [s.backgroundColor, s.borderLeftColor, s.borderTopWidth]"
    )
    verdict, warning = (
        page.execute_script(style, s) for s in (".verdict", ".warnings")
    )
    assert all(a != b for a, b in zip(verdict, warning, strict=True))
    assert texts(page, "#verdict .plain") == [
        "Latents of 1 of 2 variants (joint 0.3) co-occur less than those of the solo SAEs; "
        "of the others it is not shown."
    ]
    assert texts(page, ".warnings li") == ["<b id='injected'>Mind</b> this."]


def test_the_plot_of_all_figures_has_each_sae_where_it_belongs(
    wide: Any, made: Comparison
) -> None:
    zero, ten = (
        wide.execute_script(
            "const t = [...document.querySelectorAll('#forest .axis')]"
            ".find(e => e.textContent.startsWith(arguments[0]));"
            "const r = t.getBoundingClientRect(); return r.x + r.width / 2",
            label,
        )
        for label in ("0 %", "+5")
    )
    (row,) = wide.execute_script(
        "return [...document.querySelectorAll('#forest tbody')]"
        ".filter(b => b.querySelector('a').hash === '#figure-normalised_l2')"
    )
    lanes = row.find_elements(By.TAG_NAME, "tr")
    assert len(lanes) == 3
    base = np.mean([L2.of(sae) for sae in made.variants()["solo"]])
    for lane, variant in zip(
        lanes, ["solo_equal_l2", "joint 0.3", "joint 0.1"], strict=True
    ):
        marks = lane.find_elements(By.CSS_SELECTOR, ".strip svg .mark")
        saes = made.variants()[variant]
        assert len(marks) == len(saes)
        for mark, sae in zip(marks, saes, strict=True):
            box = wide.execute_script(
                "const r = arguments[0].getBoundingClientRect(); return r.x + r.width / 2",
                mark,
            )
            percent = 100 * (L2.of(sae) / base - 1)
            assert (box - zero) / (ten - zero) * 5 == pytest.approx(percent, abs=0.3)
        said = lane.find_element(By.CSS_SELECTOR, ".strip svg").get_attribute(
            "aria-label"
        )
        difference = made.difference(variant, "solo", L2.id)
        assert difference and difference.percent is not None and said
        assert said.startswith(variant) and f"{difference.percent:+.1f} %" in said
    assert len({shape(lane) for lane in lanes}) == 3, "told by more than colour"
    shown = {a.split("#figure-")[1] for a in hrefs(wide, "#forest a")}
    counts = {id_ for id_, figure in HEADLINE.items() if figure.is_count}
    assert shown == HEADLINE.keys() - counts


def shape(lane: Any) -> str:
    return lane.find_element(By.CSS_SELECTOR, ".key path").get_attribute("d")


def hrefs(page: Any, selector: str) -> list[str]:
    return [
        a.get_attribute("href") for a in page.find_elements(By.CSS_SELECTOR, selector)
    ]


def test_controls_that_do_not_hold_are_marked_and_explained(
    wide: Any,
) -> None:
    (row,) = wide.execute_script(
        "return [...document.querySelectorAll('#forest tbody')]"
        f".filter(b => b.querySelector('a').hash === '#figure-{PHI.id}')"
    )
    cells = [
        [c.text for c in lane.find_elements(By.CSS_SELECTOR, "td.control")]
        for lane in row.find_elements(By.TAG_NAME, "tr")
    ]
    said = [
        [
            c.get_attribute("textContent").strip()
            for c in lane.find_elements(By.CSS_SELECTOR, "td.control")
        ]
        for lane in row.find_elements(By.TAG_NAME, "tr")
    ]
    # a control itself; one that holds everywhere; one whose L2 the control does not have
    assert [c[0] for c in cells[0]] == ["–"] * 3
    assert said[1] == ["✓holds"] * 3
    assert said[2][0] == "✓holds" and said[2][2] == "✓holds"
    assert (
        said[2][1] == "✗does not hold: the control's normalised L2 is 0.11, not 0.105"
    )
    wide.find_element(By.CSS_SELECTOR, "#reasons summary").click()
    assert (
        "corrected mean |phi|, joint 0.1 (-5.2\u00a0%), at equal L2: the control's normalised L2 is "
        "0.11, not 0.105." in texts(wide, "#reasons li")
    )


def test_ids_are_the_pages_only_ones_of_their_names(report: Path) -> None:
    html = report.read_text()
    counted = Counter(re.findall(r'\sid="([^"]+)"', html))
    assert len(counted) > 300 and max(counted.values()) == 1
    used = set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([\w.-]+)', html))
    assert used <= counted.keys()
    assert "rdf" not in html


def test_plots_have_words_and_data_and_dashes(page: Any, made: Comparison) -> None:
    figures = page.find_elements(By.CSS_SELECTOR, "figure:has(> [role=img] > svg)")
    assert len(figures) == 6
    for figure in figures:
        label = figure.find_element(By.CSS_SELECTOR, "[role=img]").get_attribute(
            "aria-label"
        )
        assert "joint 0.3: " in label or "joint 0.3 SAEs" in label
        rows = figure.find_elements(By.CSS_SELECTOR, "tbody tr")
        head = figure.find_elements(By.CSS_SELECTOR, "thead th[scope=col]")
        assert rows and len(head) > 2
        assert len(rows[0].find_elements(By.CSS_SELECTOR, "th, td")) == len(head)
    shares = [sae.phi.counts for sae in made.variants()["solo"]]
    data = figures[0].find_elements(By.CSS_SELECTOR, "tbody tr")
    shown = [
        float(row.find_element(By.TAG_NAME, "td").get_attribute("textContent"))
        for row in data
    ]
    wanted = np.mean([np.array(n) / sum(n) for n in shares], axis=0)
    assert shown == pytest.approx(wanted[wanted > 0], rel=1e-2)
    dashes = page.execute_script(
        "return [...arguments[0].querySelectorAll('path')]"
        ".filter(p => p.style.stroke.includes('--series')).map(p => p.style.strokeDasharray)",
        figures[0],
    )
    assert len(set(dashes)) > 2


def test_every_table_has_a_caption_and_scopes(page: Any) -> None:
    tables = page.find_elements(By.TAG_NAME, "table")
    assert len(tables) > 8
    for table in tables:
        assert table.find_elements(By.TAG_NAME, "caption")
        for head in table.find_elements(By.TAG_NAME, "th"):
            assert head.get_attribute("scope") in ("col", "row", "rowgroup")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, WIDE], ids=["phone", "wide"])
def test_contrast_and_roles_are_right(page: Any, size: Any, scheme: str) -> None:
    sized(page, size, scheme)
    page.refresh()
    background = page.execute_script(
        "return getComputedStyle(document.body).backgroundColor"
    )
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    page.execute_script(
        "document.querySelectorAll('details').forEach(d => d.open = true)"
    )
    page.execute_script(AXE.read_text())
    found = page.execute_async_script(
        "axe.run({resultTypes: ['violations']}).then(arguments[0])"
    )
    wrong = [
        (
            v["id"],
            v["impact"],
            v["nodes"][0]["html"][:200],
            v["nodes"][0]["failureSummary"],
        )
        for v in found["violations"]
    ]
    assert wrong == []
    assert len(found["passes"]) > 20


def listed(page: Any) -> list[list[str]]:
    rows = page.find_elements(By.CSS_SELECTOR, "#pairs-list tbody tr")
    return [
        [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")]
        for row in rows
    ]


def choose(page: Any, name: str, value: int) -> None:
    page.execute_script(
        "const s = document.getElementById('bound-' + arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change'))",
        name,
        str(value),
    )


def wanted_pairs(
    made: Comparison, columns: range, rows: range
) -> list[tuple[str, str]]:
    found = []
    for sae in made.saes:
        if sae.pair_map:
            kept = sae.pair_map.kept
            for cell, a, b in zip(kept.cell, kept.a, kept.b, strict=True):
                if cell // N_ROWS in columns and cell % N_ROWS in rows:
                    found.append((str(a), str(b)))
    return sorted(found)


def test_a_region_that_is_marked_lists_its_pairs(wide: Any, made: Comparison) -> None:
    assert listed(wide) == []
    (first, second) = wide.find_elements(By.CSS_SELECTOR, "svg.map")
    wide.execute_script("arguments[0].scrollIntoView({block: 'center'})", first)
    cells = first.find_elements(By.CSS_SELECTOR, "rect[fill-opacity]")
    assert len(cells) == 110
    # from the middle of one cell to that of another: columns 6 to 8, rows 10 to 13
    counts = np.array(made.saes[0].pair_map.counts)  # type: ignore[union-attr]
    order = [tuple(cell) for cell in np.argwhere(counts)]
    start, end = (cells[order.index(cell)] for cell in ((8, 10), (6, 13)))
    ActionChains(wide).move_to_element(start).click_and_hold().move_to_element(
        end
    ).release().perform()
    shown = listed(wide)
    wanted = wanted_pairs(made, range(6, 9), range(10, 14))
    assert len(wanted) >= 6
    assert sorted((row[1], row[2]) for row in shown) == wanted
    phis = [abs(float(row[3])) for row in shown]
    assert phis == sorted(phis, reverse=True)
    # and the region is counted, and marked in every picture
    for place, row in zip(MAPPED, texts(wide, "#region-counts tbody tr"), strict=True):
        counts = np.array(made.saes[place].pair_map.counts)  # type: ignore[union-attr]
        assert f"{counts[6:9, 10:14].sum():,}" in row
    regions = wide.find_elements(By.CSS_SELECTOR, ".region")
    assert [r.get_attribute("visibility") for r in regions] == ["visible"] * 4
    boxes = [r.get_attribute("x") for r in regions]
    assert len(set(boxes)) == 1, "one range of rates, whatever the picture"
    # moving in another picture moves it everywhere
    other = second.find_elements(By.CSS_SELECTOR, "rect[fill-opacity]")[0]
    ActionChains(wide).move_to_element(other).click().perform()
    assert sorted((r[1], r[2]) for r in listed(wide)) == wanted_pairs(
        made, range(4, 5), range(6, 7)
    )


def test_a_region_is_chosen_without_a_pointer_too(page: Any, made: Comparison) -> None:
    for name, value in (("c0", 5), ("c1", 7), ("r0", 8), ("r1", 16)):
        choose(page, name, value)
    wanted = wanted_pairs(made, range(5, 8), range(8, 17))
    assert sorted((r[1], r[2]) for r in listed(page)) == wanted and wanted
    said = page.find_element(By.ID, "region-said").text
    assert f"{len(wanted)} pairs kept" in said
    page.find_element(By.CSS_SELECTOR, "#bounds button").click()
    assert listed(page) == []
    assert page.find_element(By.ID, "region-said").text == "No region is marked."


def test_latents_link_into_an_atlas_where_there_is_one(page: Any, report: Path) -> None:
    for name, value in (("c0", 4), ("c1", 13), ("r0", 6), ("r1", 16)):
        choose(page, name, value)
    links = page.find_elements(By.CSS_SELECTOR, "#pairs-list a")
    rows = listed(page)
    of_solo = [row for row in rows if row[0] == "solo"]
    assert len(links) == 2 * len(of_solo) and len(rows) > len(of_solo)
    atlas = (report.parent / "its atlas.html").as_uri()
    assert {a.get_attribute("href") for a in links} == {
        f"{atlas}#/latent/{latent}" for row in of_solo for latent in row[1:3]
    }
    first = candidates(page)[0]
    first.find_element(By.TAG_NAME, "summary").click()
    page.implicitly_wait(2)
    assert hrefs(page, ".candidate a") == [f"{atlas}#/latent/0"]
    page.get(f"{atlas}#/latent/0")
    page.implicitly_wait(5)
    assert page.find_element(By.CSS_SELECTOR, "#content h1").text == "Latent 0"


def test_a_comparison_without_pairs_or_atlas_has_neither_section_nor_link(
    browser: Any, made: Comparison, tmp_path: Path
) -> None:
    saes = [replace(sae, pair_map=None) for sae in made.saes]
    write_report(replace(made, saes=saes), tmp_path / "report.html")
    sized(browser, PHONE)
    browser.get((tmp_path / "report.html").as_uri())
    assert browser.find_elements(By.ID, "pairs-title") == []
    first = candidates(browser)[0]
    first.find_element(By.TAG_NAME, "summary").click()
    browser.implicitly_wait(2)
    assert len(first.find_elements(By.CLASS_NAME, "latent")) == 3
    assert hrefs(browser, ".candidate a") == []
    assert browser.get_log("browser") == []


def candidates(page: Any) -> list[Any]:
    return page.find_elements(By.CLASS_NAME, "candidate")


def test_candidates_are_paged_searched_sorted_and_opened(page: Any) -> None:
    assert page.find_element(By.ID, "count").text == "25 of 1000"
    page.find_element(By.ID, "more").click()
    assert len(candidates(page)) == 50
    sort = (
        "const s = document.getElementById('sort'); s.value = arguments[0];"
        "s.dispatchEvent(new Event('change'))"
    )
    first = [shown.text for shown in candidates(page)[:2]]
    assert first[0].startswith("solo 0,") and first[1].startswith("solo 3,")
    assert first[0].endswith("between them 0.10; score 0.30")
    assert "40 have a split score above 0.2 in the joint one and 30 in a second" in (
        page.find_element(By.ID, "split_counts").text
    )
    page.execute_script(sort, "fired")
    assert candidates(page)[0].text.startswith("solo 999, 1099 tokens")
    search = page.find_element(By.ID, "search")
    search.send_keys("word42 word43")
    n_found = int(page.find_element(By.ID, "count").text.split()[-1])
    assert 0 < n_found < 100
    first = candidates(page)[0]
    assert first.find_elements(By.CLASS_NAME, "context") == []
    first.find_element(By.TAG_NAME, "summary").click()
    page.implicitly_wait(2)
    assert len(first.find_elements(By.CLASS_NAME, "latent")) == 3
    contexts = first.find_elements(By.CLASS_NAME, "context")
    assert len(contexts) == 15
    peak = contexts[0].find_element(By.CLASS_NAME, "peak").text
    assert peak.strip().startswith("word")


def test_tokens_are_shown_and_never_run(page: Any) -> None:
    assert page.find_elements(By.ID, "injected") == []
    page.execute_script(
        "document.getElementById('search').value = '</script>';"
        "document.getElementById('search').dispatchEvent(new Event('input'))"
    )
    first = candidates(page)[0]
    first.find_element(By.TAG_NAME, "summary").click()
    page.implicitly_wait(2)
    assert (
        "</script><b id='injected'>"
        in first.find_element(By.CLASS_NAME, "context").text
    )
    assert page.find_elements(By.ID, "injected") == []
