"""Take in weights that other systems trained: their names and shapes, mapped to ours, with equal outputs."""

from gan_dist.foreign.layout import Layout
from gan_dist.foreign.r3gan import R3gan
from gan_dist.foreign.stylegan2_ada import Stylegan2Ada

LAYOUTS: dict[str, Layout] = {"stylegan2-ada": Stylegan2Ada(), "r3gan": R3gan()}
"""What `gan-dist import --as` takes."""
