"""A report is opened in a real browser, as wide as a phone, and its figures read."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from sae_lens_meta.comparison.figures import HEADLINE
from sae_lens_meta.comparison.result import Comparison
from sae_lens_meta.report import write_report
from sae_lens_meta.statistics.intervals import mean_interval
from tests.comparisons import compared, comparison

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PHONE = (390, 844)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="chromium and chromedriver are not installed",
    ),
]


@pytest.fixture(scope="module")
def made() -> Comparison:
    """Of 20,000 latents, with 1,000 candidates and two joint variants."""
    return comparison(
        [
            *(compared(f"solo_{i}", "solo", 6e-3 + i * 1e-5) for i in range(3)),
            compared("control", "solo_equal_l2", 5.9e-3, l2=0.11),
            compared("joint_0", "joint", 5.5e-3, l2=0.11, variant="joint 0.3"),
            compared("joint_1", "joint", 5.7e-3, l2=0.105, variant="joint 0.1"),
        ],
        n_candidates=1000,
    )


@pytest.fixture(scope="module")
def page(made: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The report, loaded without a network."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(made, path)
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    metrics = {"width": PHONE[0], "height": PHONE[1], "deviceScaleFactor": 2}
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": True}
    )
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.setBlockedURLs", {"urls": ["http://*", "https://*"]}
    )
    driver.get(path.as_uri())
    yield driver
    driver.quit()


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


def test_the_page_fits_a_phone_and_asks_for_nothing(page: Any) -> None:
    width = page.execute_script("return document.documentElement.scrollWidth")
    assert width <= PHONE[0]
    resources = "return performance.getEntriesByType('resource').length"
    assert page.execute_script(resources) == 0
    assert page.get_log("browser") == []
    plots = page.find_elements(By.CSS_SELECTOR, "figure svg")
    assert len(plots) == 6
    assert all(200 < plot.size["width"] <= PHONE[0] for plot in plots)
    size = page.execute_script(
        "return Math.min(...[...document.querySelectorAll('p, td')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert size >= 14


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
    search.clear()


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
