#!/usr/bin/env python3
"""Takes pictures of a report: on a desk and on a phone, in light and dark, and as it is printed.

    cargo test --release --workspace --test report        # writes target/tmp/sample-report.html
    python3 benches/screenshot.py target/tmp/sample-report.html OUT [--full]

Writes OUT/desk-light.png, desk-dark.png, phone-light.png, phone-dark.png (1280 and 390 pixels wide) and print.pdf, the pages in
pieces of 1600 pixels with `--full`, and says if the page is wider than the window, if its script fails, or if it loads anything.
Needs playwright (`pip install playwright`) and a headless Chromium: its own, or one given by `--chromium`.
"""
import argparse
import pathlib
import sys

from playwright.sync_api import sync_playwright

SIZES = {"desk": (1280, 900), "phone": (390, 844), "small": (360, 640)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("html", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--full", action="store_true", help="all of the page, in pieces")
    parser.add_argument("--piece", type=int, default=1600, help="height of a piece in pixels")
    parser.add_argument("--chromium", default=None, help="the browser to use")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    faults = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium)
        for name, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.on("pageerror", lambda error: faults.append(f"the script fails: {error}"))
                page.on("request", lambda request: request.url.startswith("file:") or faults.append(f"loads {request.url}"))
                page.goto(args.html.resolve().as_uri())
                wide = page.evaluate("document.documentElement.scrollWidth")
                if wide > width:
                    faults.append(f"{name}: the page is {wide} pixels wide, the window {width}")
                if name == "small":
                    continue
                page.screenshot(path=args.out / f"{name}-{scheme}.png")
                if args.full:
                    long = page.evaluate("document.documentElement.scrollHeight")
                    for n, top in enumerate(range(0, long, args.piece)):
                        clip = {"x": 0, "y": top, "width": width, "height": min(args.piece, long - top)}
                        page.screenshot(path=args.out / f"{name}-{scheme}-{n:02}.png", full_page=True, clip=clip)
                page.close()
        page = browser.new_page()
        page.goto(args.html.resolve().as_uri())
        page.pdf(path=args.out / "print.pdf", format="A4", print_background=True, prefer_css_page_size=True)
        browser.close()
    print("\n".join(dict.fromkeys(faults)) or "no faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
