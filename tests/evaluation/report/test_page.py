"""The page that a report is: complete in itself, and safe from the names in it."""

import json
import re
import sys

import pytest

from decompose.evaluation.report.page import embedded, render
from decompose.utils.errors import DecomposeError
from tests.evaluation.report.cases import HOSTILE, made_up_report

pytest.importorskip("vl_convert")


@pytest.fixture(scope="module")
def page() -> str:
    return render(made_up_report())


def test_figures_lie_in_the_page_as_json(page: str) -> None:
    (text,) = re.findall(r'id="figures">(.*?)</script>', page)
    assert json.loads(text) == json.loads(json.dumps(made_up_report().to_dict()))


def test_names_never_stand_as_markup(page: str) -> None:
    assert HOSTILE not in page
    assert page.count("<script") == page.count("</script>") == 4
    assert "<" not in embedded({HOSTILE: [HOSTILE]})


def test_nothing_is_fetched(page: str) -> None:
    assert "default-src 'none'" in page
    markup = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", markup)


def test_without_the_chart_library_one_line_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(DecomposeError, match=r"pip install .*\[report\]"):
        render(made_up_report())
