"""Write docs/headline.svg, the README's plot, from the stored baselines: ``python docs/headline.py``."""

from pathlib import Path

import geometry_bench as gb
from geometry_bench.resources import data_root

PICTURE = Path(__file__).with_name("headline.svg")

if __name__ == "__main__":
    gb.plot_headline(gb.load(data_root() / "baselines" / "measured")).save(PICTURE)
