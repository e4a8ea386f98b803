"""An atlas is walked through in a real browser, as wide as a phone and as a desk."""

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from sae_lens_meta.atlas.attached import read_comparison, read_explanations
from sae_lens_meta.atlas.contents import Contents
from sae_lens_meta.saved import SavedSAE
from tests.atlases import (
    D_SAE,
    MARKUP,
    Tokenizer,
    an_sae,
    its_contents,
    save_beside_its_kin,
    write,
)

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESK, PHONE = (1280, 900), (390, 844)
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
STATES = (
    "#/", "#/?sort=share&view=-0.5,0.5,-0.5,0.5", "#/latent/0?values=1", "#/latent/59",
    "#/meta/16", "#/search?q=paris", "#/search?q=nothing+like+it", "#/latent/9999", "#/x",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="chromium and chromedriver are not installed",
    ),
]


class Page:
    """An atlas in a browser that has no network, and what a visitor does with it."""

    def __init__(self, path: Path):
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability(
            "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
        )
        service = webdriver.ChromeService(str(DRIVER))
        self.driver: Any = webdriver.Chrome(options, service)
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.size(*DESK)
        self.path = path

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": width < 500}
        )

    def theme(self, name: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [feature]}
        )

    def open(self, state: str) -> str:
        """Loads the page anew at a state; its heading."""
        self.driver.get("about:blank")
        self.driver.get(self.path.as_uri() + state)
        return self.heading()

    def heading(self, other_than: str = "") -> str:
        """Of the state, once it is shown."""
        for _ in range(300):
            found = self.driver.execute_script(
                "const main = document.getElementById('content');"
                "return main.ariaBusy !== 'true' && main.getAttribute('aria-busy') === null"
                " && main.querySelector('h1') ? main.querySelector('h1').textContent : ''"
            )
            if found and found != other_than:
                return found
            time.sleep(0.05)
        raise AssertionError(f"Nothing is shown at {self.hash}.")

    def click(self, text: str) -> str:
        """A link by its text; the heading of where it leads."""
        before = self.heading()
        self.driver.find_element(By.LINK_TEXT, text).click()
        return self.heading(other_than=before)

    def back(self) -> str:
        before = self.heading()
        self.driver.back()
        return self.heading(other_than=before)

    def find(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def section(self, title: str) -> Any:
        return self.driver.find_element(By.XPATH, f'//section[h2[.="{title}"]]')

    def rows(self, title: str) -> list[list[str]]:
        """Cells of the body of the table in a section."""
        return [
            [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")]
            for row in self.section(title).find_elements(By.CSS_SELECTOR, "tbody tr")
        ]

    def search(self, words: str) -> str:
        before = self.heading()
        self.driver.find_element(By.TAG_NAME, "body").send_keys("/")
        field = self.driver.switch_to.active_element
        field.clear()
        field.send_keys(words, Keys.ENTER)
        return self.heading(other_than=before)

    @property
    def text(self) -> str:
        return self.driver.execute_script("return document.body.innerText")

    @property
    def hash(self) -> str:
        return self.driver.execute_script("return location.hash")

    def check_quiet(self) -> None:
        """Nothing in the console, and nothing asked of anybody but the file itself."""
        assert self.driver.get_log("browser") == []
        resources = "return performance.getEntriesByType('resource').length"
        assert self.driver.execute_script(resources) == 0
        asked = [
            url
            for entry in self.driver.get_log("performance")
            if "Network.requestWillBeSent" in entry["message"]
            for url in re.findall(r'"url":"([^"]*)"', entry["message"])
        ]
        assert {url.split(":")[0] for url in asked} <= {"file", "about"}

    def violations(self) -> list[str]:
        """What axe finds against WCAG 2.1 AA and good practice."""
        self.driver.execute_script(AXE.read_text(encoding="utf-8"))
        found = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1]; axe.run().then(done)"
        )
        return [
            f"{one['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for one in found["violations"]
            for node in one["nodes"]
        ]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    folder = tmp_path_factory.mktemp("kin")
    save_beside_its_kin(folder)
    joint = SavedSAE.read(folder / "joint")
    made = its_contents(an_sae(), Tokenizer())
    made.explained = read_explanations(folder, joint)
    made.matched = read_comparison(folder, joint, joint.load().W_dec)  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="module")
def page(
    contents: Contents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("atlas") / "atlas.html"
    write(contents, path, name=f"an SAE {MARKUP}")
    page = Page(path)
    yield page
    page.driver.quit()


@pytest.fixture(autouse=True)
def _as_at_first(page: Page) -> Iterator[None]:
    page.size(*DESK)
    page.theme("light")
    yield
    page.check_quiet()


def test_one_walks_from_a_word_to_a_latent_to_its_part_and_back(page: Page) -> None:
    assert page.open("") == f"What an SAE {MARKUP} is made of"
    assert page.search("einstein") == "Search for “einstein”"
    assert page.hash == "#/search?q=einstein"
    found = page.rows("Latents that fire on “Einstein”")
    assert [row[0].split()[1] for row in found[:2]] in (["1", "40"], ["40", "1"])
    assert page.click("Latent 1") == "Latent 1"
    assert page.click("Meta latent 16") == "Meta latent 16"
    assert page.click("Latent 6") == "Latent 6"
    assert page.hash == "#/latent/6"
    assert [page.back() for _ in range(4)] == [
        "Meta latent 16",
        "Latent 1",
        "Search for “einstein”",
        f"What an SAE {MARKUP} is made of",
    ]
    assert page.find("#search")[0].get_attribute("value") in ("", "einstein")


def test_a_latent_shows_its_parts_and_where_it_fires(
    page: Page, contents: Contents
) -> None:
    page.open("#/latent/1")
    found, observed = contents.decomposition, contents.observed
    assert observed is not None
    parts = page.rows("Parts")
    assert [row[0].split()[2] for row in parts[:2]] == ["1", "16"]
    shares = [float(row[1].split("\u202f")[0]) for row in parts]
    assert shares[:2] == pytest.approx([25.0, 8.3])
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares[-1] == pytest.approx(100 * float(found.unexplained[1]), abs=0.06)
    lists = page.find("ol.contexts")
    for shown, peaks in zip(lists, (observed.strongest[1], observed.sampled[1]), strict=False):  # fmt: skip
        lines = shown.find_elements(By.TAG_NAME, "li")
        assert len(lines) == len(peaks) > 0
        for line, peak in zip(lines, peaks, strict=True):
            text = line.find_element(By.CLASS_NAME, "context").get_attribute(
                "textContent"
            )
            assert text == Tokenizer().decode(peak.tokens).replace("\n", "↵")
            marks = line.find_elements(By.TAG_NAME, "mark")
            assert len(marks) == sum(value > 0 for value in peak.activations)
            (shown_peak,) = line.find_elements(By.CLASS_NAME, "peak")
            value = float(shown_peak.get_attribute("title"))
            assert value == pytest.approx(peak.activation, rel=5e-3)
    fired, n = observed.fired[1], observed.n_tokens
    assert f"Fires on {fired:,} of {n:,} tokens" in page.text
    page.driver.find_element(By.ID, "values").click()
    for _ in range(100):
        if page.find("rt"):
            break
        time.sleep(0.05)
    assert page.hash == "#/latent/1?values=1"
    assert float(page.find("li:first-child rt")[0].text) > 0
    assert page.driver.switch_to.active_element.get_attribute("id") == "values"
    assert page.click("Meta latent 1") == "Meta latent 1"
    assert page.hash == "#/meta/1?values=1", "what was chosen goes along"


def test_explanations_scores_and_matches_are_shown_where_there_are_some(
    page: Page,
) -> None:
    page.open("#/latent/0")
    judged = page.section("A judge's explanation").text
    assert "“fires on Paris”" in judged and "a judge" in judged
    assert ["fuzzing", "0.90", "0.5"] in page.rows("A judge's explanation")
    assert ["detection", "refused", "0.5"] in page.rows("A judge's explanation")
    assert re.search(r"Latent \d+ of solo, by cosine 0\.9", page.section("In solo").text)  # fmt: skip
    page.open("#/latent/1")
    assert "Latent 0 of solo may be split" in page.section("In solo").text
    assert page.search("on paris") == "Search for “on paris”"
    assert "Latent 0" in page.section("By explanation").text


def test_a_number_finds_a_latent_and_a_meta_latent(page: Page) -> None:
    page.open("#/search?q=12")
    assert re.findall(r"(?:Meta l|L)atent 12", page.section("By number").text) == [
        "Latent 12",
        "Meta latent 12",
    ]
    page.open("#/search?q=meta+12")
    assert "\nLatent 12" not in page.section("By number").text


def test_the_map_is_walked_with_arrows_and_opened_with_enter(page: Page) -> None:
    page.open("")
    page.find("#map canvas")
    drawn = page.driver.execute_script(
        "const c = document.querySelector('#map canvas'), x = c.getContext('2d');"
        "return new Set(x.getImageData(0, 0, c.width, c.height).data).size"
    )
    assert drawn > 10, "there is a picture"
    held = page.driver.find_element(By.ID, "map")
    seen = set()
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_LEFT):
        held.send_keys(key)
        said = page.find("#status")[0].get_attribute("textContent")
        seen.add(re.match(r"Meta latent \d+", said)[0])  # type: ignore[index]
    assert len(seen) >= 3
    held.send_keys(Keys.ENTER)
    assert page.heading(f"What an SAE {MARKUP} is made of") in said


def test_the_part_of_the_map_that_is_shown_is_in_the_address(page: Page) -> None:
    page.open("")
    before = page.hash
    page.driver.find_element(By.ID, "zoom-in").click()
    time.sleep(0.5)
    assert re.fullmatch(r"#/\?view=.*", page.hash.replace("%2C", ","))
    assert page.driver.find_element(By.ID, "zoom-all").is_enabled()
    page.driver.back()
    time.sleep(0.5)
    assert page.hash == before
    assert not page.driver.find_element(By.ID, "zoom-all").is_enabled()


def test_what_tokens_and_names_say_is_shown_and_never_run(page: Page) -> None:
    page.open("#/latent/2")
    assert MARKUP in page.section("Strongest contexts").text
    page.open("#/latent/3")
    assert "</script><b/id='injected'>" in page.section("Strongest contexts").text
    assert page.search(MARKUP) == f"Search for “{MARKUP}”"
    assert f"Latents that fire on “{MARKUP}”" in page.text
    assert page.find("#injected, main img, header img") == []
    assert page.driver.title != "run"
    page.open(f"#/search?q={MARKUP}")
    assert page.find("main img") == []


@pytest.mark.parametrize("state", STATES)
def test_a_state_fits_a_phone_and_its_colours_and_roles_are_right(
    page: Page, state: str
) -> None:
    page.size(*PHONE)
    page.open(state)
    width = "return document.documentElement.scrollWidth"
    assert page.driver.execute_script(width) <= PHONE[0]
    for theme in ("light", "dark"):
        page.theme(theme)
        time.sleep(0.3)
        page.heading()
        assert page.violations() == [], theme
    page.size(*DESK)
    assert page.driver.execute_script(width) <= DESK[0]


def test_the_checker_sees_what_is_wrong(page: Page) -> None:
    page.open("#/latent/0")
    page.driver.execute_script(
        "const p = document.createElement('p'); p.textContent = 'pale'; p.style.color = '#ccc';"
        "document.getElementById('content').append(p, document.createElement('img'))"
    )
    found = {violation.split(":")[0] for violation in page.violations()}
    assert {"color-contrast", "image-alt"} <= found


def test_the_keyboard_is_where_the_eye_is(page: Page) -> None:
    page.open("#/latent/1")
    page.click("2 →")
    assert page.driver.switch_to.active_element.text == "Latent 2"
    assert page.driver.title.startswith("Latent 2 – ")


def test_an_atlas_without_text_has_everything_but_contexts(
    page: Page, tmp_path: Path
) -> None:
    made = its_contents(an_sae(), Tokenizer(), with_text=False)
    path, shown = tmp_path / "atlas.html", page.path
    write(made, path)
    page.path = path
    try:
        assert page.open("#/latent/4") == "Latent 4"
        assert page.find("ol.contexts") == []
        assert len(page.rows("Parts")) == 4
        assert len(page.rows("Nearest decoder rows")) > 0
        assert page.violations() == []
        assert page.click("Meta latent 4") == "Meta latent 4"
        assert len(page.rows("Latents made of it")) == 4
        page.search("paris")
        assert "made without text" in page.text or "by label" in page.text
        page.check_quiet()
    finally:
        page.path = shown


def test_every_latent_and_meta_latent_opens(page: Page) -> None:
    page.open("")
    shown = page.heading()
    for state in [f"latent/{i}" for i in range(0, D_SAE, 7)] + ["meta/0", "meta/19"]:
        page.driver.execute_script("location.hash = arguments[0]", f"#/{state}")
        shown = page.heading(other_than=shown)
        assert shown.lower().endswith(" " + state.split("/")[1])
