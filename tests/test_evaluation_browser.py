"""The dashboard in a real browser: Debian's chromium, driven by Selenium.

Skipped where there is no browser; .ci/run installs one and sets REQUIRE_BROWSER, which makes
its absence a failure.
"""

import os
import shutil

import dashboard_page
import pytest
from selenium import webdriver

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return dashboard_page.write(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="module")
def browser(page):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        lacks = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        lacks("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_window_size(1280, 1000)
    browser.get(page.as_uri())
    yield browser
    browser.quit()


def column(browser, name):
    script = """
      const heads = [...document.querySelectorAll('#case-table th')];
      const at = heads.findIndex(h => h.dataset.name === arguments[0]);
      return [...document.querySelectorAll('#case-table tbody tr')].map(r => r.cells[at].innerText);
    """
    return browser.execute_script(script, name)


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_the_browser_finds_nothing_to_complain_about(browser):
    assert browser.get_log("browser") == []
    asked = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert [name for name in browser.execute_script(asked) if not name.startswith("data:")] == []


def test_a_click_on_a_heading_sorts_and_another_one_turns_the_order(browser):
    click(browser, "#case-table th[data-name=accuracy] button")
    rising = [float(v) for v in column(browser, "accuracy")]
    assert rising == sorted(rising)
    click(browser, "#case-table th[data-name=accuracy] button")
    falling = [float(v) for v in column(browser, "accuracy")]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] > falling[-1]
    how = "return document.querySelector('th[data-name=accuracy]').getAttribute('aria-sort')"
    assert browser.execute_script(how) == "descending"


def test_undefined_values_come_last_in_both_orders(browser):
    for _ in range(2):
        click(browser, "#case-table th[data-name=loss] button")
        assert column(browser, "loss")[-10:] == ["-"] * 10


def test_the_filter_keeps_rows_with_every_word(browser):
    field = browser.find_element("id", "filter")
    field.send_keys("perfect phantom-3")
    assert column(browser, "case_id") == ["phantom-3"]
    assert column(browser, "model") == ["perfect"]
    assert browser.find_element("id", "count").text == "1 of 20 rows"
    field.clear()
    field.send_keys(" ")
    assert len(column(browser, "case_id")) == 20


def test_the_divider_moves_where_one_models_outline_ends_and_the_others_begins(browser):
    move = """
      const slider = document.getElementById('divider');
      slider.value = arguments[0];
      slider.dispatchEvent(new Event('input'));
      const box = id => document.querySelector(`#clip-${id} rect`);
      return [box('left').width.baseVal.value, box('right').x.baseVal.value,
              document.querySelector('#stage svg').viewBox.baseVal.width];
    """
    for share in (0, 25, 100):
        left, right, width = browser.execute_script(move, share)
        assert left == right == pytest.approx(width * share / 100)
    drawn = "return [...document.querySelectorAll('#stage path.prediction')].map(p => p.outerHTML)"
    first, second = browser.execute_script(drawn)
    assert "clip-left" in first
    assert "clip-right" in second


def test_a_case_in_the_table_leads_to_its_picture(browser):
    script = """
      const links = [...document.querySelectorAll('#case-table td button')];
      links.find(b => b.textContent === 'phantom-7').click();
      return document.querySelector('#stage svg').getAttribute('aria-label');
    """
    assert browser.execute_script(script) == "phantom-7, lung"


def test_pictures_are_shown_and_not_broken(browser):
    script = """
      const image = document.querySelector('#stage image');
      const test = new Image();
      test.src = image.getAttribute('href');
      return test.decode().then(() => [test.naturalWidth, test.naturalHeight]);
    """
    assert browser.execute_script(script) == [320, 384]  # 80 x 96 pixels, at the same shape


def test_dark_and_light_change_the_page_and_its_figures(browser):
    look = """
      const style = s => getComputedStyle(document.querySelector(s));
      return [style('body').backgroundColor, style('figure .for-light').display !== 'none',
              style('figure .for-dark').display !== 'none'];
    """
    before = browser.execute_script(look)
    click(browser, "#theme")
    after = browser.execute_script(look)
    assert before[0] != after[0]
    assert before[1:] == after[:0:-1]
    click(browser, "#theme")


def test_print_is_light_and_has_no_buttons(browser):
    browser.execute_script("document.documentElement.dataset.theme = 'dark'")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    look = """
      const display = s => getComputedStyle(document.querySelector(s)).display;
      return [getComputedStyle(document.body).backgroundColor, display('#theme'),
              display('.controls'), display('figure .for-dark'), display('.tile')];
    """
    page, button, controls, dark, tile = browser.execute_script(look)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert page == "rgb(255, 255, 255)"
    assert (button, controls, dark) == ("none", "none", "none")
    assert tile != "none"


def test_what_is_folded_is_printed_unfolded(browser):
    script = """
      document.querySelectorAll('details').forEach(folded => { folded.open = false; });
      window.dispatchEvent(new Event('beforeprint'));
      return [...document.querySelectorAll('details')].every(folded => folded.open);
    """
    assert browser.execute_script(script)


def test_no_table_is_wider_than_a_sheet_of_paper(browser):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": False},  # A4 in CSS px
    )
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert width <= 720
