"""
Takes the picture of an atlas or a report that the README and the docs show, several states side by side.

    python -m benchmarks.screenshot atlas.html docs/img/atlas.png --state '#/' '#/latent/475'
"""

import argparse
from io import BytesIO
from pathlib import Path

from PIL import Image
from selenium.webdriver.support.wait import WebDriverWait

from benchmarks.browser import browser

# an atlas unpacks what it shows; a report is there at once
IS_SHOWN = (
    "return !document.querySelector('[aria-busy]') && !!document.querySelector('h1')"
)


GAP = 16  # pixels between two states
COLOURS = 128


def take(page: Path, states: list[str], width: int, height: int) -> list[Image.Image]:
    """What `page` shows at each URL that ends with one of `states`."""
    taken: list[Image.Image] = []
    with browser() as driver:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1.5}
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", screen | {"mobile": False}
        )
        for state in states:
            driver.get("about:blank")  # else a page that is there is not loaded again
            driver.get(page.resolve().as_uri() + state)
            WebDriverWait(driver, 20).until(lambda d: d.execute_script(IS_SHOWN))
            # charts are drawn in the next frames
            driver.execute_async_script("setTimeout(arguments[0], 1000)")
            taken.append(Image.open(BytesIO(driver.get_screenshot_as_png())))
    return taken


def side_by_side(pictures: list[Image.Image], width: int) -> Image.Image:
    """The pictures in one of `width` pixels, in few colours, since it is kept in the repository."""
    n_gaps = len(pictures) - 1
    size = sum(p.width for p in pictures) + n_gaps * GAP, pictures[0].height
    whole, left = Image.new("RGB", size, "slategrey"), 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + GAP
    height = round(size[1] * width / size[0])
    return whole.resize((width, height), Image.Resampling.LANCZOS).quantize(COLOURS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--state", nargs="+", default=[""], help="'#/latent/475'")
    parser.add_argument("--width", type=int, default=1180, help="of a state")
    parser.add_argument("--height", type=int, default=820)
    args = parser.parse_args()
    pictures = take(args.page, args.state, args.width, args.height)
    side_by_side(pictures, 1812).save(args.image, optimize=True)


if __name__ == "__main__":
    main()
