"""Say what became of a source that was packed."""

import dataclasses
from collections import Counter
from pathlib import PurePosixPath

from gan_dist import units
from gan_dist.data.pack.sources import NO_IMAGE

REPORT = "pack.json"
NEAR_DUPLICATES = "near_duplicates.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackReport:
    """What became of a source."""

    images: int = 0
    shards: int = 0
    bytes: int = 0
    kept: int = 0
    """Images whose bytes were kept as they were."""
    enlarged: int = 0
    resumed: int = 0
    """Shards that an earlier call had made."""
    classes: dict[str, int] = dataclasses.field(default_factory=dict)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """(name, reason)"""
    near_duplicates: int = 0
    """Images that show nearly what an earlier one shows; the file NEAR_DUPLICATES names them."""
    dropped: bool = False
    """Whether these were left out."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """What a person should know before training."""

    def lines(self) -> list[str]:
        """Return what was packed, in lines for a person."""
        lines = [
            f"{units.count(self.images, 'image')} in {units.count(self.shards, 'shard')}, {units.size(self.bytes)}; {self.kept:,} kept their bytes"
        ]
        if self.classes:
            first = list(self.classes.items())[:10]
            named = [name if name == str(number) else f"{number} = {name}" for name, number in first]
            lines.append(f"{len(self.classes)} classes: {', '.join(named)}{' ...' if len(self.classes) > 10 else ''}")
        if self.enlarged:
            lines.append(f"{self.enlarged:,} images were smaller than asked for, and enlarged")
        if self.skipped:
            lines.append(f"{len(self.skipped):,} files skipped ({REPORT} has all):")
            lines += [f"  {reason}" for reason in self._unknown_endings()]
            lines += [f"  {name}: {reason}" for name, reason in self.skipped[:10]]
        if self.near_duplicates:
            ending = "left out" if self.dropped else "among them; --drop-duplicates leaves them out"
            lines.append(
                f"{units.count(self.near_duplicates, 'near-duplicate')} {ending} ({NEAR_DUPLICATES} lists them)"
            )
        lines += [f"note: {note}" for note in self.notes]
        if self.resumed:
            lines.append(f"{units.count(self.resumed, 'shard')} of these from an earlier call")
        return [line.encode(errors="backslashreplace").decode() for line in lines]  # names may be no UTF-8

    def _unknown_endings(self) -> list[str]:
        names = [PurePosixPath(name) for name, reason in self.skipped if reason == NO_IMAGE]
        endings = Counter(name.suffix.lower().removeprefix(".") or "no ending" for name in names)
        counted = ", ".join(f"{ending} {count:,}" for ending, count in endings.most_common())
        return [f"{len(names):,} are {NO_IMAGE}: {counted}"] if names else []
