"""Put what the book ships, from packages already installed, where its renderers look for it.

Vega's JavaScript comes out of vl-convert, which carries the very versions that draw the static charts; the font comes
out of Matplotlib. ``make setup`` and `src.render` run this; it touches nothing that is already there.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

# Not a pre-render script of Quarto's: after one, Quarto reads the whole project a second time, all of .venv included.
GENERATED = Path(__file__).resolve().parent.parent / "assets" / "generated"


def prepare(folder: Path = GENERATED) -> Path:
    """Write ``vega.js`` and the ``fonts`` folder into a folder, unless they are there. Returns the folder."""
    script = folder / "vega.js"
    if not script.exists():
        import vl_convert

        folder.mkdir(parents=True, exist_ok=True)
        partial = script.with_suffix(".part")
        # The bundle declares its one-letter names at top level; a function keeps them out of the page's scope.
        partial.write_text(f"(() => {{\n{vl_convert.javascript_bundle()}\n}})();\n", encoding="utf-8")
        partial.replace(script)
    fonts = folder / "fonts"
    if not fonts.exists():
        import matplotlib

        fonts.mkdir(parents=True, exist_ok=True)
        for font in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuSans*.ttf")):
            shutil.copyfile(font, fonts / font.name)
    return folder


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m src.assets", description=__doc__).parse_args()
    print(prepare())
