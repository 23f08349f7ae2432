"""The page: our style sheet and scripts, three.js once, and the content as data, in one file that needs nothing else.

What a model wrote is in the JSON alone, where `<` is escaped, and the scripts put it into text nodes. A content
security policy names the hashes of our scripts, so that nothing else could run, and forbids every request.
"""

import base64
import hashlib
import html
import importlib.resources
import json
from typing import Any

from igllm_jax.report.three_js import three_js

SCRIPTS = ("elements.js", "metrics.js", "plots.js", "curves.js", "view2d.js", "view3d.js", "gallery.js", "start.js")
STYLE = "page.css"
_THREE = '<script id="three">'


def html_page(content: dict[str, Any]) -> str:
    """The file. content: of `content.build_content`."""
    own = f'"use strict";\n(() => {{\n{"".join(map(_read, SCRIPTS))}}})();\n'
    three = three_js() if content["view"] == "3d" else None
    scripts = [own] if three is None else [three, own]
    policy = (
        "default-src 'none'; img-src data: blob:; "
        f"style-src {_hash(_read(STYLE))}; script-src {' '.join(map(_hash, scripts))}"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(content["title"])}</title>
<link rel="icon" href="data:,">
<style>{_read(STYLE)}</style>
</head>
<body>
<noscript>This page shows its content by scripts of its own; allow them to see it.</noscript>
<main id="page"></main>
<script type="application/json" id="content">{embedded_json(content)}</script>
{"" if three is None else f"{_THREE}{three}</script>"}
<script>{own}</script>
</body>
</html>
"""


def is_turning_view(page: str) -> bool:
    """Whether the page has its 3D view."""
    return _THREE in page


def embedded_json(content: Any) -> str:
    """JSON that may stand in a script element: ASCII, and no `<`, so that no text in it can end the element."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name: str) -> str:
    return importlib.resources.files("igllm_jax.report").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
