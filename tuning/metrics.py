"""The numbers of one training step, by the names that every part of Tunesmith uses."""

# Every point has all of these; what was not measured at a step is null: between evaluations what begins with `valid_`,
# at step 0 (the untrained model) nearly everything else. `mfu` is model FLOPs utilisation, from 0 to 1
# (`tuning.estimates.utilization`). Preference training counts `reward_accuracy` in place of `mean_token_accuracy`.
METRICS = (
    "step",
    "total_steps",
    "epoch",
    "train_loss",
    "valid_loss",
    "train_mean_token_accuracy",
    "valid_mean_token_accuracy",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "supervised_tokens",
    "trained_tokens",
    "mfu",
    "memory_bytes",
    "eta_seconds",
    "time",
)
