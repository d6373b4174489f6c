"""The dashboard as a file; test_evaluation_browser.py looks at it in a browser."""

import json
import re

import dashboard_page
import pytest

from data_pipeline import phantom
from evaluation import dashboard, run, summary


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return dashboard_page.write(tmp_path_factory.mktemp("dashboard"))


def test_the_page_forbids_itself_the_network_and_links_to_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    assert "{{" not in text


def test_every_metric_of_the_summary_has_a_title():
    assert set(dashboard.METRIC_TITLES) == set(summary.METRICS)


def test_its_rows_are_those_of_the_scores(page):
    data = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    content = json.loads(data.group(1))
    assert len(content["rows"]) == 20
    assert {r["dice"] for r in content["rows"] if r["model"] == "perfect"} == {1.0}
    assert len(content["pictures"]) == 10


def test_text_from_a_manifest_cannot_become_part_of_the_page(tmp_path):
    manifest = phantom.write_manifest(tmp_path / "data", count=2)
    evil = "<script>alert(1)</script>"
    manifest.write_text(manifest.read_text().replace(",normal,", f",{evil},"))
    flags = ["--data", str(manifest), "--split", "all", "--out", str(tmp_path / "out")]
    run.main(["threshold", *flags])
    text = (tmp_path / "out" / "dashboard.html").read_text(encoding="utf-8")
    assert evil not in text
    assert text.count("</script>") == 2
