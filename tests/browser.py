"""Debian's Chromium for tests of pages, driven by playwright; skipped where either is absent."""

import contextlib
import resource
from pathlib import Path

import pytest

CHROMIUM = Path("/usr/bin/chromium")
LIMIT = "the address space of processes is limited, of which Chromium reserves a lot: ulimit -v unlimited"


@pytest.fixture(scope="module")
def browser():
    """A browser, one for all tests of a module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there, Debian's package chromium")
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip(LIMIT)
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield one
        one.close()


@contextlib.contextmanager
def opened(browser, file, address="", **options):
    """A tab with a file, without a network; fails where the page reports an error or asks for anything."""
    options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options
    context = browser.new_context(offline=True, **options)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(Path(file).as_uri() + address)
    try:
        yield page
        assert said == []
        assert {url.partition("#")[0] for url in asked} == {Path(file).as_uri()}
    finally:
        context.close()
