"""The page in a real browser: it fits its window, and hostile text in it does nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from test_components_evaluate_page import hostile_report

from components.evaluate.page import render_page

HARNESS = """<!DOCTYPE html><meta charset="utf-8"><body>%s<pre id="result"></pre><script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    return {
      title: page.title, width: root.clientWidth, needs: root.scrollWidth,
      scripts: page.scripts.length, drawings: page.querySelectorAll("svg").length,
      scrolls: [...page.querySelectorAll(".scroll")].some(e => e.scrollWidth > e.clientWidth),
      requests: frame.contentWindow.performance.getEntriesByType("resource").length};
  });
  document.getElementById("result").textContent =
    JSON.stringify({seen: seen, hacked: window.hacked ?? null});
});</script>"""

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def look_at(chromium: str, views: Sequence[tuple[int, str]], folder: Path) -> dict[str, Any]:
    """Returns what a browser sees of pages in windows of some widths."""
    frames = [
        f'<iframe style="border:0" width="{width}" height="900" srcdoc="{html.escape(text)}"></iframe>'
        for width, text in views
    ]
    harness = folder / "harness.html"
    harness.write_text(HARNESS % "".join(frames), encoding="utf-8")
    profile = folder / "profile"
    shown = subprocess.run(
        [chromium, *FLAGS, "--dump-dom", f"--user-data-dir={profile}", harness.as_uri()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=300,
        check=True,
    ).stdout.decode()
    shutil.rmtree(profile, ignore_errors=True)
    found = re.search(r'<pre id="result">(.*?)</pre>', shown, re.DOTALL)
    assert found, shown[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found.group(1)))
    return result


def check_in_a_browser(
    chromium: str, page: str, tmp_path: Path, *, title: str, drawings: int
) -> None:
    """Checks that a page fits windows of three widths, runs and asks for nothing."""
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert bare != page  # so that escaping is tested without the policy's help
    views = ((400, page), (1200, page), (320, page), (400, bare))
    result = look_at(chromium, views, tmp_path)
    assert result["hacked"] is None
    for seen, (width, _) in zip(result["seen"], views, strict=True):
        assert seen["title"] == title
        assert width - 20 <= seen["width"] <= width  # less a scroll bar
        assert seen["needs"] <= seen["width"], "the page is wider than its window"
        assert (seen["scripts"], seen["drawings"], seen["requests"]) == (0, drawings, 0)
        assert width < 400 or not seen["scrolls"]


def test_in_a_browser(chromium: str, tmp_path: Path) -> None:
    page, title = render_page(hostile_report()), "charloom: PASSED, test perplexity 207.40"
    check_in_a_browser(chromium, page, tmp_path, title=title, drawings=2)
