"""Makes the pictures of the documentation, in docs/images/, from apps that run. Use it with: make pictures

It needs Chromium and a font with emoji (Debian: chromium, fonts-noto-color-emoji).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.samples import app
from harness.server import streamlit_run
from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "images"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
TAB = {"width": 700, "height": 660}
WIDE_TAB = {"width": 1200, "height": 660}
SCALE = 0.65
GAP = 14
BAR = 26
BACKGROUND = "#e4e8ef"
BAR_COLOUR = "#c9d0dc"
BUTTONS = ("#ed6a5e", "#f5bf4f", "#62c554")
POINTER = "#1c4fd6"
COLOURS = 128
ADDRESS = "localhost:8501"
FONT = ImageFont.load_default(12)
# How long a frame of the animation stands, in milliseconds.
SHORT, LONG = 350, 1200
IDLE_APP = '[data-testid="stApp"][data-test-script-state="notRunning"]'
# Without Streamlit's own bar, and without the room for it.
STYLE = "header {visibility: hidden} [data-testid=stMainBlockContainer] {padding: 1.5rem 2rem}"


class Tabs:
    """Two tabs beside each other, and the frames that were taken of them."""

    def __init__(self, left: Page, right: Page) -> None:
        self.pages = (left, right)
        self.frames: list[tuple[Image.Image, int]] = []

    def turn_to(self, url: str, element: str) -> None:
        """Open a page that shows an element."""
        for page in self.pages:
            page.goto(url)
            expect(page.locator(element).first).to_be_visible()
            expect(page.locator(IDLE_APP)).to_be_visible()
            page.add_style_tag(content=STYLE)

    def be_different_animals(self) -> None:
        """In the chats, where every visitor is one, by chance."""
        names: list[str] = []
        for page in self.pages:
            page.set_viewport_size(WIDE_TAB)  # then it shows the sidebar
            name = page.get_by_label("Your name in the chats")
            while name.input_value() in ["", *names]:
                page.reload()
                expect(page.locator(IDLE_APP)).to_be_visible()
            names.append(name.input_value())
            page.set_viewport_size(TAB)
            page.add_style_tag(content=STYLE)

    def take(self, milliseconds: int = SHORT, pointer: Locator | None = None) -> Image.Image:
        """Keep both tabs as they look, with a dot where somebody clicks."""
        width, height = int(TAB["width"] * SCALE), int(TAB["height"] * SCALE)
        frame = Image.new("RGB", (2 * width + 3 * GAP, BAR + height + 2 * GAP), BACKGROUND)
        draw = ImageDraw.Draw(frame)
        for number, page in enumerate(self.pages):
            left, top = GAP + number * (width + GAP), GAP + BAR
            draw.rounded_rectangle((left, GAP, left + width - 1, top + 8), radius=8, fill=BAR_COLOUR)
            for place, colour in enumerate(BUTTONS):
                x = left + 11 + 15 * place
                draw.ellipse((x, GAP + 8, x + 9, GAP + 17), fill=colour)
            draw.text((left + width / 2, GAP + BAR / 2), ADDRESS, fill="#4a5160", font=FONT, anchor="mm")
            picture = Image.open(io.BytesIO(page.screenshot(animations="disabled", caret="hide")))
            frame.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top))
            if pointer is not None and pointer.page == page:
                box = pointer.bounding_box()
                assert box is not None
                x = left + SCALE * (box["x"] + box["width"] / 2)
                y = top + SCALE * (box["y"] + box["height"] / 2)
                draw.ellipse((x - 7, y - 7, x + 7, y + 7), fill=POINTER, outline="white", width=2)
        self.frames.append((frame, milliseconds))
        return frame

    def save_animation(self, path: Path) -> None:
        images = [frame for frame, _ in self.frames]
        # One palette for all frames, so that what stands still does not flicker.
        sheet = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
        for number, image in enumerate(images):
            sheet.paste(image, (0, number * image.height))
        palette = sheet.quantize(COLOURS)
        first, *others = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        first.save(
            path, save_all=True, append_images=others, duration=[time for _, time in self.frames], loop=0, optimize=True
        )


def save(frame: Image.Image, name: str, share: float = 1) -> None:
    """Save the upper share of a frame."""
    part = frame.crop((0, 0, frame.width, int(frame.height * share)))
    part.quantize(256, dither=Image.Dither.NONE).save(TARGET / name, optimize=True)


def count(tabs: Tabs, button_name: str) -> None:
    left, right = tabs.pages
    for number, page in enumerate([left, right], start=1):
        button = page.get_by_role("button", name=button_name)
        tabs.take(pointer=button)
        button.click()
        page.mouse.move(0, 0)
        for each in tabs.pages:
            expect(each.get_by_test_id("stMetricValue")).to_have_text(str(number))
            expect(each.locator(IDLE_APP)).to_be_visible()
        tabs.take(LONG)


def slide(tabs: Tabs) -> None:
    """Everyone's slider, in steps of ten, from one tab and then from the other."""
    value = 50
    for page, key, step in zip(tabs.pages, ("PageUp", "PageDown"), (10, -10), strict=True):
        slider = page.get_by_role("slider")
        slider.focus()
        for _ in range(3):
            tabs.take()
            page.keyboard.press(key)
            value += step
            for each in tabs.pages:
                expect(each.get_by_role("slider")).to_have_attribute("aria-valuetext", str(value))
                expect(each.get_by_text(f"Everyone sees {value} %")).to_be_visible()
                expect(each.locator(IDLE_APP)).to_be_visible()
        tabs.take(LONG)
        slider.blur()


def talk(tabs: Tabs) -> None:
    for page, text in zip(tabs.pages, ("Is the report ready?", "In five minutes."), strict=True):
        box = page.get_by_placeholder("Say something")
        box.click()
        for word in text.split():
            page.keyboard.type(f"{word} ")
            tabs.take()
        page.keyboard.press("Enter")
        for each in tabs.pages:
            expect(each.get_by_test_id("stChatMessage").filter(has_text=text)).to_be_visible()
            expect(each.locator(IDLE_APP)).to_be_visible()
        page.evaluate("document.activeElement.blur()")
        tabs.take(LONG)


@contextmanager
def two_tabs(browser: Browser) -> Iterator[Tabs]:
    contexts = [browser.new_context(viewport=TAB, color_scheme="light") for _ in range(2)]
    yield Tabs(*(context.new_page() for context in contexts))
    for context in contexts:
        context.close()


def main() -> None:
    TARGET.mkdir(exist_ok=True)
    expect.set_options(timeout=30_000)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]) as browser,
    ):
        with streamlit_run(ROOT / "examples" / "app.py") as server, two_tabs(browser) as tabs:
            tabs.turn_to(server.url, "[data-testid=stMetricValue]")
            count(tabs, "+1")
            tabs.turn_to(f"{server.url}/slider", "[role=progressbar]")
            slide(tabs)
            tabs.turn_to(f"{server.url}/chat", "[data-testid=stChatInput]")
            tabs.be_different_animals()
            tabs.take()
            talk(tabs)
            save(tabs.frames[-1][0], "chat.png")
            tabs.save_animation(TARGET / "two-tabs.gif")
        with TemporaryDirectory() as folder:
            script = Path(folder) / "app.py"
            script.write_text(app("docs/quickstart.md"))
            with streamlit_run(script) as server, two_tabs(browser) as tabs:
                tabs.turn_to(server.url, "[data-testid=stMetricValue]")
                count(tabs, "Click")
                save(tabs.frames[-1][0], "quickstart.png", share=0.43)
    for path in sorted(TARGET.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
