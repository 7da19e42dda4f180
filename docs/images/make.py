"""Write report.png, the picture in the README: the top of the HTML report of a check of a small model.

    python docs/images/make.py

It needs Chromium (``make chromium``) and the packages of ``make venv``.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

import torch
from playwright.sync_api import sync_playwright
from torch import nn

import zeta

PICTURE: Final = Path(__file__).parent / "report.png"
WIDTH: Final = 1100
HEIGHT: Final = 900
LARGEST: Final = 150 * 1024


def report() -> zeta.CheckReport:
    """The check of the README: a network with two layers of equal units."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    for layer in (model[2], model[4]):
        nn.init.constant_(layer.weight, 0.05)
        nn.init.zeros_(layer.bias)
    return zeta.check(model, (torch.randn(128, 16), torch.randint(10, (128,))))


def main() -> None:
    """Check, open the page without network, take a picture of its top."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium to take a picture with: make chromium installs Debian's")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        report().to_html(page)
        browser = playwright.chromium.launch(executable_path=chromium)
        context = browser.new_context(
            offline=True, viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce", color_scheme="light"
        )
        opened = context.new_page()
        opened.goto(page.as_uri(), wait_until="load")
        opened.wait_for_timeout(1000)  # until the plots are drawn
        picture = opened.screenshot()
        browser.close()
    if len(picture) > LARGEST:
        raise SystemExit(f"the picture has {len(picture):,} bytes; at most {LARGEST:,} are wanted")
    PICTURE.write_bytes(picture)


if __name__ == "__main__":
    main()
