from __future__ import annotations

import io

from PIL import Image

PAGE = """<!doctype html><meta charset="utf-8"><title>t</title>
<body style="margin:0;background:#00f"><p id="p">before</p>
<script>document.getElementById("p").textContent = "after";</script>
%s"""


def test_scripts_have_run_and_the_picture_shows_the_page(tmp_path, browse):
    (tmp_path / "page.html").write_text(PAGE % "")
    page = browse(tmp_path / "page.html")
    assert '<p id="p">after</p>' in page.html
    assert page.complaints == ()
    with Image.open(io.BytesIO(page.screenshot.read_bytes())) as picture:
        assert picture.size == (1200, 2000)
        assert picture.convert("RGB").getpixel((600, 1000)) == (0, 0, 255)


def test_a_script_that_fails_is_a_complaint(tmp_path, browse):
    (tmp_path / "page.html").write_text(PAGE % "<script>nothing.here()</script>")
    (complaint,) = browse(tmp_path / "page.html").complaints
    assert "nothing is not defined" in complaint
