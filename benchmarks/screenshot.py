"""
Takes the picture of an atlas or a report that the README and the docs show.

    python -m benchmarks.screenshot atlas.html docs/img/atlas.png --state '#/'
"""

import argparse
from pathlib import Path

from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.browser import browser

# an atlas unpacks what it shows; a report is there at once
IS_SHOWN = (
    "return !document.querySelector('[aria-busy]') && !!document.querySelector('h1')"
)


def take(page: Path, state: str, image: Path, width: int, height: int) -> None:
    """Writes what `page`, at the end of whose URL stands `state`, shows to `image`."""
    with browser() as driver:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1.5}
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", screen | {"mobile": False}
        )
        driver.get(page.resolve().as_uri() + state)
        WebDriverWait(driver, 20).until(lambda d: d.execute_script(IS_SHOWN))
        # charts are drawn in the next frames
        driver.execute_async_script("setTimeout(arguments[0], 1000)")
        driver.save_screenshot(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--state", default="", help="for instance '#/latent/3858'")
    parser.add_argument("--width", type=int, default=1180)
    parser.add_argument("--height", type=int, default=820)
    args = parser.parse_args()
    take(args.page, args.state, args.image, args.width, args.height)


if __name__ == "__main__":
    main()
