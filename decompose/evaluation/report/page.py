"""Render a report as one self-contained HTML file: figures, styles, scripts and chart library.

The charts are Vega-Lite's, whose libraries come out of the installed package ``vl-convert-python``. All
figures lie in the page as JSON; names become text by ``textContent`` and never markup.
"""

from __future__ import annotations

import json
from importlib.resources import files
from string import Template
from typing import Any

from decompose.evaluation.report.contents import Report
from decompose.utils.optional_dependencies import required

_EXPORT = "window.vegaEmbed = vegaEmbed;"


def render(report: Report) -> str:
    """Write a report as HTML.

    Args:
        report: what to show.

    Raises:
        DecomposeError: vl-convert-python is not installed.
    """
    folder = files("decompose.evaluation.report")
    template = Template((folder / "page.html").read_text(encoding="utf-8"))
    texts = {
        name: (folder / f"{name}.{kind}").read_text(encoding="utf-8")
        for name, kind in (("style", "css"), ("tables", "js"), ("charts", "js"))
    }
    return template.substitute(texts, library=_chart_library(), figures=embedded(report.to_dict()))


def embedded(record: Any) -> str:
    r"""Encode JSON for a ``<script>`` element, whatever its strings hold.

    >>> embedded({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    vl_convert = required("vl_convert", "vl-convert-python", "report")
    script: str = vl_convert.javascript_bundle(_EXPORT)
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
