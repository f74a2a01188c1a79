"""The page in a real browser: sorted, filtered, opened, on a telephone, without script; hostile text does nothing."""

import json
import re
import shutil
from typing import Any

import pytest
from conftest import ROOT
from pages import HOSTILE, sentence, write_data, write_run

from harness_ext.report import page
from harness_ext.results.tables import visible

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed"),
]
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900")
TITLE = "Prompt a big model, or fine-tune a small one?"


def start(script: bool = True) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 1 if script else 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def browser():
    driver = start()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    """A page of runs whose sentences are known, some of them hostile in all they name and say."""
    out = tmp_path_factory.mktemp("page")
    for number, samples in enumerate((0, 0, 16, 16, 64)):
        write_run(out, number, train_samples=samples, response=f"I say <b>{number}</b>")
    for seed in range(3):
        more: dict[str, Any] = {
            "experiment": "seeds",
            "seed": seed,
            "method": "lora",
            "recipe": "r",
            "adapter": f"a{seed}",
            "model": "seeded",
        }
        write_run(out, 10 + seed, train_samples=64, **more)
        (out / "adapters" / f"a{seed}").mkdir(parents=True)
        steps = [{"step": n, "train_loss": 1 / n, "held_out_loss": 2 / n} for n in range(1, 5)]
        (out / "adapters" / f"a{seed}" / "history.json").write_text(json.dumps({"history": steps}))
    for number, text in enumerate(HOSTILE, start=20):
        write_run(out, number, model=text, response=text, not_default={"system": text}, command=text, data=text)
    return page.write_report(out, str(write_data(out))).as_uri()


@pytest.fixture
def opened(browser, file):
    """The page, opened anew; afterwards the console must be empty and nothing but the page may have been asked for."""
    browser.get_log("performance")
    browser.get(file)
    yield browser
    assert browser.title == TITLE
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert set(asked) == {file}


def find(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def texts(driver, selector):
    """What is shown at each place, by one call."""
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).map((e) => e.innerText)",
        selector,
    )


def press(driver, selector, text=None):
    """Press what has this selector, the one with this text where it is given, and wait until what it opens is there."""
    found = driver.find_elements(By.CSS_SELECTOR, selector)
    one = next(each for each in found if text in (None, each.get_attribute("textContent")))
    driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", one)
    one.click()


def dialog(driver):
    WebDriverWait(driver, 5).until(lambda _: texts(driver, "#detail-body > *"))
    return find(driver, "#detail").text


def names(driver):
    return texts(driver, "#board [data-entry]")


def column(driver, title):
    place = texts(driver, "#board thead th").index(title) + 1
    return texts(driver, f"#board tbody td:nth-child({place})")


def test_board_is_sorted_by_mouse_and_by_keyboard(opened):
    before = names(opened)
    press(opened, "#board thead th", "Score %")
    scores = [float(each) for each in column(opened, "Score %")]
    assert scores == sorted(scores)
    assert names(opened) != before
    press(opened, "#board thead th", "Labels")
    find(opened, "#board thead th[aria-sort]").send_keys(Keys.ENTER)
    assert column(opened, "Labels")[:2] == ["64", "64"]
    assert find(opened, "#board thead th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_board_is_filtered_by_text_and_by_number_of_labels(opened):
    all_names = names(opened)
    find(opened, "#find").send_keys("SEEDED")
    assert [name for name in all_names if "seeded" in name] == names(opened)
    assert find(opened, "#found").text == f"1 of {len(all_names)}"
    find(opened, "#find").send_keys(Keys.CONTROL, "a", Keys.DELETE)
    Select(find(opened, "#labels")).select_by_visible_text("16")
    assert sorted(names(opened)) == ["model 2, 16 labels", "model 3, 16 labels"]


def test_run_opens_with_what_it_said_and_closes_by_escape(opened):
    press(opened, "#board [data-entry]", "model 0")
    assert "of 120 right" in dialog(opened)
    assert texts(opened, ".documents tbody tr")[0].startswith("0\t")
    assert len(texts(opened, ".documents tbody tr")) == 50
    press(opened, ".documents .more")
    assert len(texts(opened, ".documents tbody tr")) == 100
    Select(find(opened, ".documents select")).select_by_visible_text("not following")
    rows = texts(opened, ".documents tbody tr")
    assert len(rows) == 12
    assert all("I say <b>0</b>" in row and "word" in row for row in rows)
    find(opened, ".documents input").send_keys(sentence(70))
    assert len(texts(opened, ".documents tbody tr")) == 1
    press(opened, "#detail summary", "How it was made")
    assert "--pretrained=model-0" in find(opened, "#detail").text
    assert sentence(0) in find(opened, "#detail pre:last-child").text
    assert len(texts(opened, "#detail svg[aria-label]")) == 1  # reliability
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not find(opened, "#detail").is_displayed()


def test_counts_of_right_and_wrong_are_the_record_s(opened):
    press(opened, "#board [data-entry]", "model 1")
    dialog(opened)
    counted = {}
    for which in ("all", "right", "wrong label", "not following"):
        Select(find(opened, ".documents select")).select_by_visible_text(which)
        counted[which] = int(find(opened, ".documents [role=status]").text.split(" of ")[0])
    assert counted["all"] == 120 == counted["right"] + counted["wrong label"] + counted["not following"]
    assert f"{counted['right']} of 120 right" in find(opened, "#detail").text
    cells = [int(each) for each in texts(opened, "#detail .plots > div:first-child td.n")]
    assert cells[0] + cells[4] == counted["right"]
    assert cells[1] + cells[3] == counted["wrong label"]
    assert cells[2] + cells[5] == counted["not following"]


def test_seeds_of_an_entry_are_chosen_between_and_their_loss_is_drawn(opened):
    press(opened, "#board [data-entry]", "seeded + LoRA r, 64 labels")
    first = dialog(opened)
    assert texts(opened, "#detail .controls:first-child button") == ["seed 0", "seed 1", "seed 2"]
    assert len(texts(opened, "#detail svg[aria-label]")) == 2  # reliability, loss
    press(opened, "#detail [aria-pressed=false]", "seed 2")
    assert find(opened, "#detail [aria-pressed=true]").text == "seed 2"
    assert find(opened, "#detail").text != first


def test_pair_opens_the_documents_on_which_the_two_differ(opened):
    press(opened, "[data-pair]")
    said = dialog(opened)
    a, b = texts(opened, "#detail li button")
    assert ("tie:" in said) or ("better by" in said)
    rows = [row.split("\t") for row in texts(opened, ".documents tbody tr")]
    assert rows
    assert all(row[-1] != row[-2] for row in rows)
    press(opened, "#detail li button", b)
    assert find(opened, "#detail-title").text == b
    assert a != b


def test_hostile_text_is_shown_and_does_nothing(opened):
    for text in HOSTILE:
        (name,) = [each for each in names(opened) if visible(text)[:20] in each]
        press(opened, "#board [data-entry]", name)
        assert visible(text) in dialog(opened)
        assert visible(text) in find(opened, ".documents").text
        press(opened, "#close")
    assert (
        opened.execute_script(
            "return document.querySelectorAll('img, iframe, [onmouseover], [onerror], b:not(.apart)').length"
        )
        == 0
    )


def test_page_fits_a_telephone(opened):
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for opening in (None, "[data-entry]", "[data-pair]"):
            if opening:
                press(opened, opening)
                dialog(opened)
            for place in ("document.documentElement", "document.getElementById('detail')"):
                assert opened.execute_script(f"return {place}.scrollWidth") <= 360
            if opening:
                press(opened, "#close")
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_browser_that_cannot_unpack_says_so(opened):
    opened.execute_script("delete window.DecompressionStream")
    press(opened, "#board [data-entry]")
    assert "This cannot be shown" in dialog(opened)


def test_page_of_the_published_runs_is_small_asks_for_nothing_and_opens_quickly(browser, tmp_path):
    (tmp_path / "published").symlink_to(ROOT / "results" / "published")
    written = page.write_report(tmp_path)
    assert written.stat().st_size < 1.5e6
    plain = re.sub(r"<(script|style)>.*?</\1>", "", written.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(r"""(?:src|srcset|data|action)\s*=|href\s*=\s*(?!["']?#)|url\((?!#)""", plain)
    browser.get(written.as_uri())
    taken = browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < taken < 3000  # ms
    press(browser, "#board [data-entry]")
    assert "of 872 right" in dialog(browser)


def test_page_without_script_shows_tables_and_figures(file):
    driver = start(script=False)
    try:
        driver.get(file)
        assert "Without script" in find(driver, "noscript").text
        board = find(driver, "#board").text
        assert "seeded + LoRA r, 64 labels" in board
        assert not find(driver, "#find").is_displayed()
        assert not find(driver, "[data-entry]").is_enabled()
        assert driver.find_elements(By.CSS_SELECTOR, ".pairs td")
    finally:
        driver.quit()
