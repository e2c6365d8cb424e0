"""The settings that a complete model is published with: its base's own, and the ends that it has learnt."""

from transformers import PreTrainedModel

from tunesmith.worker.train.models.dropouts import restore_dropout
from tunesmith.worker.train.models.model import load_config
from tunesmith.worker.train.run import RunContext


def publish_settings(model: PreTrainedModel, run: RunContext) -> None:
    """Undo what training changed, and let `generate` and servers stop where the model was taught to."""
    model.config.use_cache = True
    restore_dropout(model.config, load_config(run.model_folder))
    _stop_at_learnt_ends(model, run)


def _stop_at_learnt_ends(model: PreTrainedModel, run: RunContext) -> None:
    """A base model's settings often name only the end of a text, and not what its chat template ends a reply with."""
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return
    listed = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    known = [number for number in listed if number is not None]
    learnt = [run.tokenizer.convert_tokens_to_ids(end) for end in sorted(run.rows.notes.ends)]
    missing = [number for number in learnt if number not in known]
    if missing:
        settings.eos_token_id = [*known, *missing]
