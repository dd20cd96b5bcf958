"""Define the keys of one of several images of a sample: a picture, or a label map."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from gan_dist.config.section import Section


class DataField(Section):
    """One of several images of a sample."""

    member: str = "auto"
    """Ending of the image after the sample's key: b.png. auto: the only image there is, of a set of its own."""
    channels: Literal[0, 1, 3, 4] = 0
    """1 for grey, 3 for RGB, 4 for RGBA. 0: as data.channels."""
    scale: Annotated[int, Field(ge=1, le=16)] = 1
    """How many times smaller its sides are than data.resolution: 4 for the input of super-resolution by 4."""
    classes: Annotated[int, Field(ge=0, le=254)] = 0
    """Classes of a label map, whose stored pixels are numbers 0..classes-1 (a grey PNG, or one with a palette). A network sees
    a channel for each class. 0: it is an image."""
    palette: list[Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]] = Field(default=[])
    """Colours of the classes as #RRGGBB, in their order: what a grid shows, and what a label map stored in colours holds.
    Default: colours of our own, of maps that hold numbers."""
    unknown: Annotated[int, Field(ge=-1, le=65535)] = -1
    """Number, in a label map, of pixels that are of no class (255 in many data sets): all their channels are 0. With `palette`:
    in a PNG with a palette, where `palette` does not name the colour of that number. -1: none."""

    def label_problem(self) -> str:
        """Return what is wrong with the keys of a label map, or ""."""
        if not self.classes and (self.palette or self.unknown >= 0):
            return "palette and unknown are of label maps: set classes to the number of classes, or remove them"
        if self.palette and len(self.palette) != self.classes:
            return f"palette has {len(self.palette)} colours for {self.classes} classes; give one for each class"
        if self.classes and self.channels:
            return "channels has no effect on a label map, which has one for each class; remove it"
        if 0 <= self.unknown < self.classes:
            return f"unknown = {self.unknown} is a class as well; set classes: {self.unknown}, or another unknown"
        return ""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what earlier versions did not have, where it has no effect: old runs keep their fingerprints."""
        found: dict[str, Any] = dump(self)
        kept = [*(["scale"] if self.scale > 1 else []), *(["classes", "palette", "unknown"] if self.classes else [])]
        return {name: found[name] for name in ("member", "channels", *kept)}
