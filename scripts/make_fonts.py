#!/usr/bin/env python3
"""Makes the window's two fonts from Inter (SIL Open Font License 1.1).

    make_fonts.py FOLDER_WITH_INTER_OTF

Keeps Latin, Greek and the signs the window uses, and lets digits be of one width, so that numbers line up in
columns. Needs fonttools. The files it writes are crates/dashboard/fonts/Inter-{Regular,SemiBold}.otf.
"""

import sys
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

SIGNS = "–—…‘’“”•·×÷±≤≥≠≈→←↑↓↗↘∞∑√∂−‰€°✓✗⌘⇧⌥"
KEPT = [*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x391, 0x3CA), *map(ord, SIGNS)]


def tabular(font: TTFont) -> dict[str, str]:
    """Glyphs and their alternates of the feature `tnum`."""
    gsub = font["GSUB"].table
    records = [record for record in gsub.FeatureList.FeatureRecord if record.FeatureTag == "tnum"]
    mapping = {}
    for index in records[0].Feature.LookupListIndex:
        for table in gsub.LookupList.Lookup[index].SubTable:
            mapping.update(getattr(table, "ExtSubTable", table).mapping)
    return mapping


def make(source: Path, target: Path) -> None:
    font = TTFont(source)
    # Digits (and signs beside them) of one width are alternates of the font; they take the place of the usual ones.
    wide = tabular(font)
    for table in font["cmap"].tables:
        table.cmap.update({code: wide[name] for code, name in table.cmap.items() if name in wide})
    options = subset.Options()
    options.layout_features = ["kern", "mark", "ccmp"]
    options.name_IDs = ["*"]
    options.hinting = False
    worker = subset.Subsetter(options)
    worker.populate(unicodes=KEPT)
    worker.subset(font)
    font.save(target)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    target = Path(__file__).parent.parent / "crates/dashboard/fonts"
    target.mkdir(exist_ok=True)
    for weight in ["Regular", "SemiBold"]:
        make(source / f"Inter-{weight}.otf", target / f"Inter-{weight}.otf")
