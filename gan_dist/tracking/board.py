"""Lay out W&B's page of a project: pictures first, then quality, collapse, players, speed, events."""

from typing import TYPE_CHECKING, Any

from gan_dist.errors import InputError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

NAME = "gan_dist"
X = "images"
# of a panel: its title, a pattern of the figures in it, whether its y axis is logarithmic. A score has any name that begins
# with its kind: kid_random, fid-clean. W&B's patterns know no "all but"
_MORE = r"([_.+-][^/]*)?"
QUALITY = (
    ("FID (lower is better)", rf"^score/fid{_MORE}(/limit)?$", True),
    ("Frechet distance by DINOv2 (lower is better)", rf"^score/fd{_MORE}(/limit)?$", True),
    ("KID (lower is better)", rf"^score/kid{_MORE}$", True),
    ("CMMD (lower is better)", rf"^score/cmmd{_MORE}$", True),
    (
        "Precision, recall, density, coverage (higher is better)",
        r"^score/.*/(precision|recall|density|coverage)$",
        False,
    ),
    ("Modes (higher is better)", r"^score/.*/(modes|covered|covered_by_5|good_percent)$", False),
    ("KL of the modes (lower is better)", r"^score/.*/(kl|kl_above_floor)$", False),
    ("Inception score (higher is better)", rf"^score/inception_score{_MORE}$", False),
    ("% that are no copies: authenticity (higher is better)", rf"^score/authenticity{_MORE}$", False),
    ("Distance to the nearest real image (about 1 is best)", rf"^score/neighbours{_MORE}$", False),
    ("PSNR against the target (higher is better)", rf"^score/psnr{_MORE}(/input)?$", False),
    ("SSIM against the target (higher is better)", rf"^score/ssim{_MORE}(/input)?$", False),
    (
        "Label maps read back: mIoU and accuracy (higher is better)",
        rf"^score/segmentation{_MORE}(/(real_)?(miou|accuracy))?$",
        False,
    ),
    ("LPIPS against the target (lower is better)", rf"^score/lpips{_MORE}(/input)?$", False),
    ("Pixels: a smoke signal (lower is better)", rf"^score/pixels{_MORE}$", True),
    ("Errors of scores", r"^score/.*/(error|deviation|subsets)$", True),
    ("How the scores were made", r"^score/.*/(samples|classifier_accuracy|segmenter_accuracy)$", False),
)
COLLAPSE = (
    ("Diversity over that of real images (no alarm: 0.45 to 1.4)", r"^collapse/diversity", False),
    ("Share of near duplicates (no alarm: below 0.1)", r"^collapse/duplicates", False),
    ("Share of the data's regions without a sample (no alarm: below 0.25)", r"^collapse/cells", False),
    ("Gap of D's logits, real less generated (no alarm: up to 12, hinge 4)", r"^score/gap$", False),
    ("The larger mean logit, without its sign", r"^score/level$", False),
    ("D's accuracy (0.5: a guess)", r"^score/accuracy$", False),
    ("Signs of D's logits (real near 1 for long: D remembers the data)", r"^score/sign_(real|fake|pair)$", False),
    ("log10 of D's gradient over G's (no alarm: -1.2 to 1.2)", r"^grad_norm/ratio$", False),
    ("What labels explain of the images (no alarm: above 1.6)", r"^data/labels$", False),
)
PLAYERS = (
    ("Losses: they move against each other", r"^loss/", False),
    ("Mean logits of D: positive means real", r"^score/(real|fake)$", False),
    ("Gradient norms", r"^grad_norm/[^r]", True),
    ("Penalties before their weight", r"^penalty/", True),
)
SPEED = (
    ("Images per second", r"^speed/images_per_second$", False),
    ("Share of the time: loader, saves", r"^speed/.*_share$", False),
    ("Seconds of an evaluation", r"^speed/evaluation_seconds$", False),
    ("Memory in GiB", r"^memory/", False),
)
EVENTS = (("Skipped updates in total", r"^skipped/", False),)
PICTURES = ("samples/grid", "samples/reals", "samples/live", "samples/classes", "samples/samples", "samples/single")
FIRST_SCORES = ("score/fid", "score/kid")
"""Whose best value is shown as a number: define_metric keeps the minimum in the summary."""


def workspace(entity: str, project: str, name: str = NAME) -> "Workspace":
    """Return the page of a project; nothing is sent anywhere. Raises InputError without the package wandb-workspaces."""
    ws, wr = _library()
    best = [
        wr.ScalarChart(title=f"Best {score.removeprefix('score/').upper()}", metric=score) for score in FIRST_SCORES
    ]
    pictures = [
        wr.MediaBrowser(
            title=key.removeprefix("samples/"), media_keys=[key], num_columns=8 if key.endswith("single") else 1
        )
        for key in PICTURES
    ]
    events = wr.WeavePanelSummaryTable(table_name="events")
    sections: list[Section] = [
        ws.Section(name="Pictures", panels=pictures, is_open=True),
        ws.Section(name="Quality", panels=[*_lines(wr, QUALITY), *best], is_open=True),
        ws.Section(name="Collapse", panels=_lines(wr, COLLAPSE), is_open=True),
        ws.Section(name="Players", panels=_lines(wr, PLAYERS), is_open=True),
        ws.Section(name="Speed", panels=_lines(wr, SPEED), is_open=False),
        ws.Section(name="Events", panels=[*_lines(wr, EVENTS), events], is_open=False),
    ]
    settings = ws.WorkspaceSettings(x_axis=X, group_by_prefix="first")
    page: Workspace = ws.Workspace(entity=entity, project=project, name=name, sections=sections, settings=settings)
    return page


def _lines(wr: Any, charts: tuple[tuple[str, str, bool], ...]) -> list[Any]:
    return [wr.LinePlot(title=title, x=X, metric_regex=pattern, log_y=log) for title, pattern, log in charts]


def create(entity: str, project: str, name: str = NAME) -> str:
    """Make the page on W&B's server and return its address. Raises InputError without a key, or where W&B refuses."""
    _library()
    import wandb

    wandb.setup(wandb.Settings(silent=True, mode="online"))
    if not wandb.login(prompt=False, verify=False):
        raise InputError("W&B has no key here: run `wandb login`, or set WANDB_API_KEY")
    try:
        entity = entity or str(wandb.Api().default_entity or "")
        if not entity:
            raise InputError("W&B names no default entity; give --entity, your user or team")
        made: Any = workspace(entity, project, name)
        made.save()
    except InputError:
        raise
    except Exception as error:  # of several libraries, none of which documents what it raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"W&B did not take the page: {reason[:300]}; check the network, --entity and PROJECT"
        ) from None
    return str(made.url)


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise InputError(
            "the package wandb-workspaces is needed: ./launch/setup.sh board, or pip install 'gan_dist[board]'"
        ) from None
    return ws, wr
