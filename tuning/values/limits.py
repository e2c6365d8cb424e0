"""The most that a user may ask for. Plain numbers without an import, for the types of `tuning.job` and the command."""

MOST_EPOCHS = 50
MOST_ROWS_PER_STEP = 256
MOST_PATIENCE = 50  # evaluations
MOST_RANK = 512
LEAST_ROW_TOKENS, MOST_ROW_TOKENS = 16, 1_048_576
LARGEST_SEED = 2_147_483_647
MOST_PART_BYTES = 64 * 1024**2  # of an upload, as the API has it
