"""Reports in a real browser: Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from decompose.evaluation.report.page import render
from tests.evaluation.report.cases import HOSTILE, layer_name, made_up_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytest.importorskip("vl_convert", reason="the report extra is not installed")
CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with its driver"),
    # Selenium's remote connection leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
NUM_LAYERS = 300


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    names = ("half.safetensors", HOSTILE)
    path.write_text(render(made_up_report(NUM_LAYERS, names)), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    browser.get_log("browser")
    browser.get(page.as_uri())
    # Vega draws in the microtasks that follow the load.
    browser.set_script_timeout(30)
    browser.execute_async_script(
        "const done = arguments[0]; const wait = () => document.querySelectorAll('.chart svg').length > 1"
        " ? done() : setTimeout(wait, 20); wait();"
    )
    yield browser
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.broken === undefined")


def names_shown(browser: Any) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#layer-table tbody th')].map(cell => cell.textContent)"
    )


def press(browser: Any, heading: str) -> None:
    browser.execute_script(
        "[...document.querySelectorAll('#layer-table thead button')]"
        ".find(button => button.textContent === arguments[0]).click()",
        heading,
    )


def test_it_opens_with_all_layers_and_hostile_names_as_text(opened: Any) -> None:
    assert names_shown(opened) == [layer_name(index) for index in range(NUM_LAYERS)]
    shown = opened.execute_script("return document.getElementById('models').innerText")
    assert "window.broken" in shown


def test_layers_sort_and_come_back_to_their_order(opened: Any) -> None:
    start = names_shown(opened)
    press(opened, "MACs")
    assert names_shown(opened) == start[::-1]
    press(opened, "MACs")
    assert names_shown(opened) == start
    press(opened, "Output error")
    assert names_shown(opened) == start
    press(opened, "Output error")
    assert names_shown(opened) == start[::-1]
    press(opened, "Output error")
    assert names_shown(opened) == start
    assert opened.execute_script("return document.querySelectorAll('[aria-sort=none]').length") == 6


def test_layers_are_filtered_by_name_and_method(opened: Any) -> None:
    opened.execute_script(
        "const field = document.getElementById('filter'); field.value = 'FEATURES.29';"
        "field.dispatchEvent(new Event('input'))"
    )
    assert names_shown(opened) == ["features.29", *(f"features.{n}" for n in range(290, 300))]
    opened.execute_script(
        "const choice = document.getElementById('method'); choice.value = 'dense';"
        "choice.dispatchEvent(new Event('change'))"
    )
    assert names_shown(opened) == ["features.29", *(f"features.{n}" for n in (290, 293, 296, 299))]
    assert opened.execute_script("return document.getElementById('count').textContent").startswith(
        "5 of"
    )


def test_the_keyboard_reaches_a_layer_and_its_explanation(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = opened.find_elements("css selector", "#layer-table tbody button")[3]
    opened.find_element("css selector", "#method").send_keys("")
    opened.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.SHIFT)
    tip = opened.find_element("id", "tip")
    assert "features.3" in tip.get_property("textContent")
    assert "Output error" in tip.get_property("textContent")
    button.send_keys(Keys.ENTER)
    assert opened.find_element("id", "spectrum-layer").get_property("value") == "features.3"
    button.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_a_spectrum_is_text_and_lines(opened: Any) -> None:
    text = opened.execute_script("return document.querySelector('#spectrum-chart svg').textContent")
    assert "energy kept" in text
    assert "network decoupling, PW+DW" in text
    rows = opened.execute_script(
        "return document.querySelectorAll('#spectrum-table tbody tr').length"
    )
    assert rows == 9 + 5


def test_three_hundred_layers_take_few_elements_and_no_overflow(opened: Any) -> None:
    for width in (360, 1200):
        opened.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        widths = (
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        whole, seen = opened.execute_script(widths)
        assert whole <= seen
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert opened.execute_script("return document.querySelectorAll('*').length") < 30 * NUM_LAYERS


@pytest.mark.parametrize(
    ("field", "event", "value"),
    [("filter", "input", "features.2"), ("method", "change", "dense"), (None, "", "")],
    ids=["filter by name", "filter by method", "sort"],
)
def test_three_hundred_layers_sort_and_filter_within_a_second(
    opened: Any, field: str | None, event: str, value: str
) -> None:
    # Two frames later everything is drawn.
    milliseconds = opened.execute_async_script(
        "const [field, event, value, done] = arguments, start = performance.now();"
        "const drawn = () => done(performance.now() - start);"
        "const element = document.getElementById(field);"
        "if (element) { element.value = value; element.dispatchEvent(new Event(event)); }"
        "else document.querySelectorAll('#layer-table thead button')[1].click();"
        "requestAnimationFrame(() => requestAnimationFrame(drawn))",
        *(field, event, value),
    )
    assert milliseconds < 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(opened: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    colours = opened.execute_script(
        "const style = getComputedStyle(document.documentElement);"
        "return ['--paper', '--ink', '--soft', '--accent', '--warm'].map(name => style.getPropertyValue(name))"
    )
    paper, *others = map(luminance, colours)
    for other in others:
        assert (max(paper, other) + 0.05) / (min(paper, other) + 0.05) >= 4.5


def luminance(colour: str) -> float:
    """The relative luminance of ``#rrggbb``, as WCAG 2 defines it."""
    parts = (int(colour.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
