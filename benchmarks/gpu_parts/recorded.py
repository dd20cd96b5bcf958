"""Part 13: the engine's own recorded phases (training.graphs) and compiled terms (training.compile): bits and milliseconds."""

from typing import Any

from . import stand_in, steps
from .dcgan import NEEDS
from .measuring import NOT_CAPTURED, Bench

# precision, micro-batch, strategy, further keys, milliseconds of a captured step, gain over the same without graphs
GRAPHS: tuple[tuple[str, int, str, dict[str, Any], tuple[float, float], float], ...] = (
    ("bf16", 128, "ddp", {}, (1.4, 1.6), 2.5),
    ("bf16", 32, "ddp", {}, (2.4, 3.0), 4.0),
    ("fp32", 32, "exact", {}, (3.0, 7.0), 3.0),
    ("bf16", 128, "ddp", {"training__compile": "true"}, (0.8, 1.0), 4.0),
)


def recorded(bench: Bench) -> None:
    if lacking := stand_in.missing(*NEEDS):
        bench.line("the engine's graphs", f"not run: {lacking}")
        return
    from gan_dist.config.common import Training

    if "graphs" not in Training.model_fields:
        bench.line("the engine's graphs", "not run: this version has no key training.graphs")
        return
    for precision, micro, strategy, more, predicted, gain in bench.size(GRAPHS, GRAPHS[:1]):
        compiles = bool(more)
        way = "engine compiled+captured" if compiles else "engine captured"
        name = f"DCGAN-64 {precision} micro {micro}{', exact' if strategy == 'exact' else ''}"
        if bench.left() < bench.size(40 if compiles else 8, 1):
            bench.line(f"{name}, {way}", "not run: no time")
            continue
        try:
            _beside(bench, name, way, (precision, micro, strategy), more, predicted, gain)
        except Exception as error:  # the other rows may do
            bench.line(f"{name}, {way}", f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:160])


def _beside(
    bench: Bench,
    name: str,
    way: str,
    kind: tuple[str, int, str],
    more: dict[str, Any],
    predicted: tuple[float, float],
    gain: float,
) -> None:
    from .engines import EngineStep

    precision, micro, strategy = kind
    plain = EngineStep(bench, strategy, precision, micro)
    graphs = EngineStep(bench, strategy, precision, micro, training__graphs="auto", **more)
    found = bench.alternate({"eager": plain.step, "captured": graphs.step})
    ms, host = found["captured"].ms, found["captured"].host
    recorder = graphs.engine.shortcuts.graphs
    fell_back = NOT_CAPTURED if recorder is None else recorder.why_not and f"EAGER: {recorder.why_not}"
    text = f"{128e3 / ms:,.0f} images/s, host {host:.2f} ms; {fell_back}".rstrip("; ")
    bench.line(f"{name}, {way}", ms, "ms", predicted, note=text)
    bench.line(f"{name}, {way}: gain", found["eager"].ms / ms, "", gain, note=f"eager {found['eager'].ms:.2f} ms")
    if more:  # compiling changes rounding
        return
    r1 = {"penalties__r1__weight": 1, "penalties__r1__every": 2, "training__deterministic": "true"}
    digests = []
    for key in ("off", "auto"):
        step = EngineStep(bench, strategy, precision, micro, training__graphs=key, **r1)
        for _ in range(bench.size(16, 4)):
            step.step()
        bench.sync()
        digests.append(steps.digest([player.network for player in step.game.players]))
    same = "the same bits" if digests[0] == digests[1] else "DIFFERENT bits"
    bench.line(f"{name}, {way}: with R1", same, note=", ".join(digests))
