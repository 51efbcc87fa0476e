"""The base at one commit: a branch of the hub may move while a run is stopped, the run may not."""

from __future__ import annotations

from ft.model.base_check import is_local
from ft.model.hub import CONFIG, require_on_hub
from ft.spec import RunSpec
from ft.train.claim import ClaimedRun


def with_pinned_base(claimed: ClaimedRun) -> RunSpec:
    """The claimed spec with its base's commit: the one that the run began with, or today's.

    Everything that is loaded from the base's repository is then of this commit.

    Raises:
        UserError: the base is neither on the hub nor in the local cache.
    """
    spec, model = claimed.spec, claimed.spec.model
    if is_local(model.base_model):
        return spec
    goes_on = not claimed.overwrites and claimed.directory.state == "unfinished"
    commit = claimed.directory.read_run().get("base_revision") if goes_on else None
    commit = commit or require_on_hub(
        model.base_model, CONFIG, role="base_model", revision=model.revision_of_model
    )
    pinned = model.model_copy(update={"revision_of_model": commit})
    return spec.model_copy(update={"model": pinned})
