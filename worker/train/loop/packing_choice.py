"""How rows go through the model of this run: packed where a trial shows that it changes nothing, else one by one."""

from tunesmith.tuning.models.packing import OwnAttention
from tunesmith.worker.train.models.dropouts import model_dropouts
from tunesmith.worker.train.models.model import Learner, load_config
from tunesmith.worker.train.models.model_trial import Trial, try_model
from tunesmith.worker.train.run import RunContext


def choose_packing(run: RunContext, learner: Learner) -> None:
    """Try packed rows on the model as it will train, and say what came of it.

    A plan without packing is kept to: its memory is counted for one row at a time. `learner` is not wrapped.

    Raises:
        JobFailure: `model_not_supported` for a model whose tokens see later ones.
    """
    _tell_about_dropouts(run)
    if _is_known_to_pack(run):
        return
    vocabulary = learner.causal_model.get_input_embeddings().num_embeddings
    learns = run.request.spec.evaluation is None
    trial = try_model(learner, device=run.device, vocabulary=vocabulary, together=run.plan.packing, learns=learns)
    _tell_about_idle(run, trial.idle)
    attention = _agreed(run, trial)
    if attention is None:
        return
    learner.attend_alone(attention)
    reason = trial.reason or "another process found that packing changes them"
    expected = f"which takes longer than the plan says: {reason}" if run.plan.packing else reason
    run.recorder.event(
        f"Rows go through this model one after another, {expected}. It attends by its own {attention} way.",
        level="warn" if run.plan.packing else "info",
        packing=False,
        attention=attention,
        reason=reason,
    )


def _is_known_to_pack(run: RunContext) -> bool:
    """By an equal run on this worker: the same base, adapter and kernels, so the same trial."""
    earlier = run.request.rehearsal
    if earlier is None or not earlier.packs or not run.plan.packing:
        return False
    run.recorder.event("No trial of the model: rows of an equal run on this worker went through it together.")
    return True


def _agreed(run: RunContext, trial: Trial) -> OwnAttention | None:
    """The same in all processes, which share rows out alike: None where every one of them may pack."""
    if not run.agree(not trial.packs):
        return None
    return "eager" if run.agree(trial.attention != "sdpa") else "sdpa"


def _tell_about_idle(run: RunContext, names: tuple[str, ...]) -> None:
    """Adapters on modules whose weights a model uses without calling them are passed by."""
    if names:
        run.recorder.event(
            f"{len(names)} of the tensors that were to learn get no gradient from any token, the first is {names[0]}: "
            "the model goes around the modules that they belong to.",
            level="warn",
            idle=len(names),
        )


def _tell_about_dropouts(run: RunContext) -> None:
    found = model_dropouts(load_config(run.model_folder))
    if found:
        listed = ", ".join(f"{name} {value:g}" for name, value in sorted(found.items()))
        run.recorder.event(f"The model's own dropout is off while it is tuned ({listed}); adapters have the plan's.")
