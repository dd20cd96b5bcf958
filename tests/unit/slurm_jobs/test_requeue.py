"""Whether a run is started again is decided by what it wrote, and never for ever."""

import pytest

from gan_dist.slurm_jobs import requeue
from gan_dist.slurm_jobs.records import Start
from gan_dist.slurm_jobs.requeue import End

NOON = "2026-11-23T12:00:00+00:00"
LONG_AGO = "1970-01-01T00:00:00+00:00"
WRONG = ("rank 0 on node1: error: data.shards: no .tar file",)


def status(state: str, images: int = 0, time: str = NOON, **more: object) -> dict[str, object]:
    checkpoint = f"images-{images:09d}" if images else None
    return {"state": state, "images": images + 5, "checkpoint": checkpoint, "time": time, "reason": "why", **more}


def starts(*images: int, told: bool = False) -> list[Start]:
    return [Start("7", number, position, 1.0, told=told) for number, position in enumerate(images)]


def test_a_new_run_begins_and_a_finished_one_only_where_more_is_wanted() -> None:
    assert requeue.begin(None, [], 100, 320).action == "go"
    assert requeue.begin(status("stopped", 160), starts(0), 100, 320).action == "go"
    assert requeue.begin(status("finished", 320), [], 100, 320).action == "finished"
    assert requeue.begin(status("finished", 320), [], 100, 640).action == "go"


@pytest.mark.parametrize("state", ["stopped", "failed", "running"])
def test_what_was_stopped_killed_or_failed_is_started_again_while_it_advances(state: str) -> None:
    decision = requeue.after(status(state, 160), starts(0), 100, End(143))
    assert decision.action == "requeue"
    assert "at 160 images, 160 more than at the start" in decision.words


@pytest.mark.parametrize("reason", ["the file STOP", "run.deadline, which has passed"])
def test_what_would_stop_the_next_start_too_is_no_reason_for_one(reason: str) -> None:
    decision = requeue.after(status("stopped", 160, reason=reason), starts(0), 100, End(75))
    assert decision.action == "ended"
    assert requeue.after(status("stopped", 160, reason="the deadline"), starts(0), 100, End(75)).action == "requeue"


def test_a_decision_is_one_line_whatever_the_error() -> None:
    decision = requeue.after(status("failed", 160, reason="CUDA error: x\nTo debug, set y"), starts(0), 100, End(1))
    assert decision.words.startswith("failed (CUDA error: x) at 160 images")


def test_two_starts_without_a_new_image_are_enough() -> None:
    assert requeue.after(status("running", 160), starts(0, 160), 100, End(137)).action == "requeue"
    decision = requeue.after(status("running", 160), starts(0, 160, 160), 100, End(137))
    assert decision.action == "stop"
    assert "2 starts in a row brought no image beyond 160" in decision.words
    # where Slurm itself starts the job again (a lost node), the start finds it out
    assert requeue.begin(status("running", 160), starts(0, 160, 160), 100, 320).action == "stop"
    assert requeue.begin(status("running", 160), starts(0, 160), 100, 320).action == "go"


def test_a_start_that_was_told_to_end_before_it_trained_is_no_try() -> None:
    assert requeue.begin(None, starts(0, 0, 0, told=True), 100, 320).action == "go"
    assert requeue.begin(None, starts(0, 0, 0, told=True), 3, 320).action == "stop"  # but is counted as a start


def test_wrong_input_is_not_started_again() -> None:
    decision = requeue.after(status("failed", 0, code=2), starts(0), 100, End(2))
    assert (decision.action, decision.words) == ("stop", "wrong input: why")
    decision = requeue.after(None, starts(0), 100, End(2, reasons=WRONG))
    assert (decision.action, decision.words) == ("stop", "wrong input: training did not begin (code 2)")


def test_a_training_that_did_not_begin_for_no_known_reason_is_tried_twice() -> None:
    killed = ("rank 1 on node2: Traceback (most recent call last):",)
    for old in (None, status("stopped", 160, LONG_AGO), status("running", 160, job="6")):  # 6 is another job in the run
        stood = 160 if old else 0
        assert requeue.after(old, starts(stood), 100, End(137, reasons=killed)).action == "requeue"
        decision = requeue.after(old, starts(stood, stood), 100, End(137))
        assert decision.action == "stop"
        assert "training did not begin (code 137); 2 starts in a row" in decision.words
    instead = End(instead="the nodes could not be checked: node2: gave no answer")
    assert requeue.after(None, starts(0), 100, instead).words.startswith("the nodes could not be checked: node2")


def test_a_job_that_was_told_to_end_before_it_trained_is_requeued() -> None:
    for old in (None, status("stopped", 160, LONG_AGO)):
        assert requeue.after(old, starts(160, 160, 160), 100, End(138, told=True)).action == "requeue"
    torn = requeue.after({}, starts(0), 100, End(138, told=True))
    assert torn.action == "stop"
    # and what trained has to bring images also where it was told to end
    assert requeue.after(status("stopped", 160), starts(160, 160), 100, End(75, told=True)).action == "stop"


def test_a_finished_run_of_before_is_not_this_start_s() -> None:
    old = status("finished", 320, LONG_AGO)
    assert requeue.after(old, starts(320), 100, End(1)).action == "requeue"
    assert requeue.after(status("finished", 320), starts(160), 100, End()).action == "finished"


def row(**facts: str) -> str:
    usual = {"JobId": "7", "JobState": "RUNNING", "Reason": "None", "Restarts": "1", "PreemptTime": "None"}
    return " ".join(f"{name}={value}" for name, value in ({**usual, "EndTime": "2026-11-25T00:00:00"} | facts).items())


@pytest.mark.parametrize(
    ("facts", "done"),
    [
        (row(), ""),
        (row(JobState="COMPLETING"), "cancelled"),
        (row(JobState="CANCELLED"), "cancelled"),
        (row(JobState="COMPLETING", Reason="TimeLimit"), ""),
        (row(JobState="COMPLETING", PreemptTime="2026-11-24T00:00:00"), ""),
        (row(JobState="COMPLETING", Restarts="2", EndTime="Unknown"), "requeued"),
        (row(PreemptTime="2026-11-24T00:00:00", EndTime="Unknown"), ""),
        ("", ""),  # the controller does not answer
        # another task of the array was cancelled, or requeued
        (row(JobId="8", JobState="CANCELLED") + "\n" + row() + "\n" + row(JobId="9", Restarts="3"), ""),
    ],
)
def test_what_slurm_did_is_not_done_again(facts: str, done: str) -> None:
    assert requeue.by_slurm(requeue.facts_of(facts, "7"), Start("7", 1, 0, 1.0)) == done


def test_a_preemption_of_an_earlier_start_is_over() -> None:
    facts = requeue.facts_of(row(PreemptTime="2026-11-24T00:00:00"), "7")
    assert requeue.preempted(facts, Start("7", 1, 0, 1.0))
    assert not requeue.preempted(facts, Start("7", 1, 0, 4e9))
    assert not requeue.preempted({}, Start("7", 1, 0, 1.0))


@pytest.mark.parametrize(("done", "action"), [("", "requeue"), ("cancelled", "ended"), ("requeued", "requeued")])
def test_what_a_person_cancelled_ends_and_what_slurm_requeued_is_left_to_it(done: str, action: str) -> None:
    assert requeue.after(status("stopped", 160), starts(0), 100, End(143, True, done)).action == action  # type: ignore[arg-type]
    assert requeue.after(None, starts(0), 100, End(143, True, done)).action == action  # type: ignore[arg-type]


def test_a_person_who_makes_the_file_STOP_means_it() -> None:
    decision = requeue.after(status("stopped", 160, reason="the file STOP"), starts(0), 100, End(75))
    assert (decision.action, "the file STOP ended it at 160 images" in decision.words) == ("ended", True)


def test_a_missing_record_or_torn_status_stops_and_says_so() -> None:
    decision = requeue.after({}, starts(0), 100, End(1))
    assert (decision.action, "status.json is torn or missing (code 1)" in decision.words) == ("stop", True)
    decision = requeue.after(status("stopped", 160), [], 100, End(1))
    assert (decision.action, "slurm.jsonl is missing or torn" in decision.words) == ("stop", True)
    assert requeue.begin({}, [], 100, 320).action == "go"  # a person submits it again: from the newest whole checkpoint


def test_there_is_a_most_of_starts() -> None:
    assert requeue.after(status("stopped", 480), starts(0, 160, 320), 3, End(75)).action == "stop"
    assert requeue.after(None, starts(0, 0, 0), 3, End(75, told=True)).action == "stop"
    assert "GAN_DIST_MAX_RESTARTS" in requeue.begin(status("stopped", 480), starts(0, 160, 320), 3, 640).words
