"""Published training speeds: seconds for 1,000 images (sec/kimg) at 1, 2, 4 and 8 GPUs.

StyleGAN3 and StyleGAN2: https://github.com/NVlabs/stylegan3/blob/main/docs/configs.md (its own code, V100 and A100).
StyleGAN2-ADA: https://github.com/NVlabs/stylegan2-ada-pytorch#expected-training-time (V100; the middle of each range).
"""

import dataclasses

from gan_dist.planning.model import Link, Links, Point

WEIGHTS = 47_000_000
"""Of both networks, about; at 188 MB links take 1 to 3 ms of these steps, so that nothing depends on it."""
LINKS = {"A100": Link(30e-6, 230e9), "V100": Link(30e-6, 120e9)}


@dataclasses.dataclass(frozen=True)
class Series:
    name: str
    card: str
    batches: tuple[int, ...]
    speeds: tuple[float, ...]
    """Seconds for 1,000 images."""

    def points(self) -> list[Point]:
        links = Links(LINKS[self.card], LINKS[self.card])
        made = []
        for batch, speed, gpus in zip(self.batches, self.speeds, (1, 2, 4, 8), strict=False):
            sent = 2 * (gpus - 1) / gpus * 4 * WEIGHTS
            made.append(Point(batch / gpus, speed * batch / 1000, links.seconds(2, sent, gpus)))
        return made


_32 = (32, 32, 32, 32)
SERIES = [
    Series("SG3-T 128", "A100", _32, (27.20, 13.74, 7.52, 4.40)),
    Series("SG3-T 256", "A100", _32, (49.81, 25.05, 13.26, 7.32)),
    Series("SG3-T 512", "A100", _32, (90.25, 45.42, 22.81, 12.29)),
    Series("SG3-T 1024", "A100", _32, (156.91, 79.16, 39.62, 20.01)),
    Series("SG3-R 128", "A100", _32, (34.23, 17.29, 9.53, 5.69)),
    Series("SG3-R 256", "A100", _32, (56.73, 28.60, 14.39, 8.03)),
    Series("SG3-T 128", "V100", _32, (73.68, 37.30, 20.66, 11.31)),
    Series("SG3-T 256", "V100", _32, (89.15, 45.45, 23.94, 13.04)),
    Series("SG2 128", "A100", (32, 64, 64), (6.79, 3.45, 2.23)),
    Series("SG2 256", "A100", (16, 32, 64, 64), (12.53, 6.36, 3.20, 2.38)),
    Series("SG2 128", "V100", (32, 64, 64), (12.51, 6.43, 3.82)),
    Series("SG2 256", "V100", (16, 32, 64, 64), (20.84, 10.93, 5.39, 3.89)),
    Series("SG2-ADA 128", "V100", (32, 64, 64, 64), (13.25, 6.65, 4.35, 4.40)),
    Series("SG2-ADA 256", "V100", (16, 32, 64, 64), (22.90, 11.50, 5.75, 4.95)),
]
"""The 14 series whose step depends on the number of GPUs."""

OTHERS = [
    Series("SG3-T 512", "V100", _32, (137.33, 69.65, 34.88, 18.47)),
    Series("SG3-T 1024", "V100", _32, (221.85, 113.44, 57.04, 28.71)),
    Series("SG3-R 128", "V100", _32, (58.44, 29.92, 15.49, 8.43)),
    Series("SG3-R 256", "V100", _32, (87.37, 44.12, 22.42, 11.88)),
    Series("SG3-R 512", "V100", _32, (158.91, 79.96, 40.86, 20.44)),
    Series("SG3-R 1024", "V100", _32, (263.44, 134.22, 67.33, 34.12)),
    Series("SG3-R 512", "A100", _32, (110.13, 55.18, 27.99, 14.04)),
    Series("SG3-R 1024", "A100", _32, (184.81, 92.58, 46.53, 23.42)),
    Series("SG2 512", "A100", (8, 16, 32, 64), (41.06, 20.83, 10.45, 5.24)),
    Series("SG2 1024", "A100", (4, 8, 16, 32), (90.39, 46.04, 23.15, 11.66)),
    Series("SG2 512", "V100", (8, 16, 32, 64), (71.59, 36.79, 18.12, 9.09)),
    Series("SG2 1024", "V100", (4, 8, 16, 32), (141.83, 73.13, 36.95, 18.47)),
    Series("SG2-ADA 512", "V100", (8, 16, 32, 64), (73.70, 38.85, 18.90, 9.60)),
    Series("SG2-ADA 1024", "V100", (4, 8, 16, 32), (157.95, 83.40, 40.45, 20.40)),
]
"""The rest of the tables. Those of SG2 and SG2-ADA have as many images on each GPU at 1, 2, 4 and 8."""
