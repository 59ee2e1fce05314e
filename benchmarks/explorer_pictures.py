"""Pictures of the gradient explorer, as .github has them: python benchmarks/explorer_pictures.py

Needs playwright, Debian's Chromium, and Pillow, which comes with matplotlib. The pictures depend on the
machine's fonts.
"""

import argparse
import io
import tempfile
from pathlib import Path
from typing import NamedTuple

from numgpt.__main__ import main as numgpt

CHROMIUM = "/usr/bin/chromium"
GITHUB = Path(__file__).parents[1] / ".github"
LARGEST = 200_000  # bytes of a picture


class Picture(NamedTuple):
    """A file, the address of what it shows, the window's size and scheme, and the part that is on top."""

    name: str
    address: str
    size: tuple[int, int]
    scheme: str
    part: str = "body"


WEIGHT = "h.0.mlp.c_proj.weight"
PICTURES = [
    Picture("explorer-wide-light.png", "#op=h.0.attn.heads.probs&i=0,0,8,7&dir=fwd", (1920, 1080), "light"),
    Picture(
        "explorer-wide-dark.png",
        f"#op=h.0.mlp.c_proj&t={WEIGHT}&i=5,4&w=grad&dir=bwd&view=what_if",
        (1920, 1080),
        "dark",
    ),
    Picture("explorer-narrow-light.png", "#op=h.0.mlp.act&i=0,8,3&dir=fwd", (390, 844), "light"),
    Picture(
        "explorer-narrow-dark.png", "#op=lm_head&i=0,8,67&dir=bwd&view=tokens", (390, 844), "dark", ".detail"
    ),
]


def take(browser, page_file, picture, folder):
    """Write one picture, of 256 colours."""
    from PIL import Image

    width, height = picture.size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=picture.scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(page_file.as_uri() + picture.address)
    page.wait_for_selector("html.ready")
    page.evaluate("N.settled()")
    page.locator(picture.part).first.evaluate("part => part.scrollIntoView()")
    page.wait_for_timeout(300)
    taken = page.screenshot()
    context.close()
    image = Image.open(io.BytesIO(taken)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(folder / picture.name, optimize=True)
    size = (folder / picture.name).stat().st_size
    assert size < LARGEST, f"{picture.name} has {size:,} bytes, expected less than {LARGEST:,}"
    print(f"{picture.name}: {size:,} bytes")


def main():
    """Make a page of numgpt:tiny, and take all pictures of it."""
    parser = argparse.ArgumentParser(description="Take the pictures of the gradient explorer.")
    parser.add_argument("--out", type=Path, default=GITHUB, help="folder to write to (default: .github)")
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_file = Path(folder, "page.html")
        if numgpt(["explore", "--engine", "reference", "-o", str(page_file)]) != 0:
            raise SystemExit("there is no page to take pictures of")
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for picture in PICTURES:
            take(browser, page_file, picture, args.out)
        browser.close()


if __name__ == "__main__":
    main()
