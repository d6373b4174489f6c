import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def test_every_test_that_the_tables_of_the_data_document_name_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "data.md").read_text("utf-8")))
    written = set()
    for path in (ROOT / "tests").glob("test_data_pipeline_*.py"):
        written |= set(re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE))
    assert len(named) > 70
    assert named - written == set()


def test_every_layout_that_index_knows_is_in_the_data_document():
    from data_pipeline import index

    text = (ROOT / "docs" / "data.md").read_text("utf-8")
    assert [layout.name for layout in index.LAYOUTS if layout.name not in text] == []
