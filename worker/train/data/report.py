"""What a person should hear about the rows before training starts, one event for each matter."""

from collections.abc import Sequence

from tunesmith.worker.train.data.rows import SHOWN_LINES, Rows, describe_left_out
from tunesmith.worker.train.recorder import Recorder


def tell_about_rows(rows: Rows, recorder: Recorder, *, max_sequence_length: int, held_out: Sequence[int] = ()) -> None:
    """Counts first, then whatever became of rows that their author may not expect. `held_out` are line numbers."""
    notes = rows.notes
    tokens, supervised = int(rows.lengths().sum()), int(rows.supervised_counts().sum())
    recorder.event(
        f"{len(rows)} rows, {tokens} tokens, {supervised} of them supervised.",
        rows=len(rows),
        tokens=tokens,
        supervised_tokens=supervised,
        longest_row_tokens=int(rows.lengths().max()),
    )
    if held_out:
        shown = ", ".join(map(str, held_out[:SHOWN_LINES])) + (", ..." if len(held_out) > SHOWN_LINES else "")
        text = f"{len(held_out)} more rows of the training file are held out and only measured on: lines {shown}."
        recorder.event(text, held_out_lines=list(held_out))
    if notes.truncated:
        text = f"{notes.truncated} rows were longer than {max_sequence_length} tokens and lost their end."
        recorder.event(text, level="warn", rows_truncated=notes.truncated, max_sequence_length=max_sequence_length)
    if notes.unsupervised:
        text = f"{notes.unsupervised} rows had nothing left to learn and were left out."
        recorder.event(text, level="warn", rows_dropped=notes.unsupervised)
    if notes.left_out:
        text = f"{describe_left_out(notes, rows=len(rows))} They are not trained on."
        fields = {name: count._asdict() for name, count in notes.left_out.items()}
        recorder.event(text, level="warn", left_out=fields)
    _tell_about_ends(rows, recorder)
    if notes.default_template:
        text = "The model has no chat template: conversations are written with a plain one, which the result carries."
        recorder.event(text, level="warn")


def _tell_about_ends(rows: Rows, recorder: Recorder) -> None:
    """Without a token that ends it a reply goes on until something cuts it off."""
    notes = rows.notes
    if notes.stops_added:
        recorder.event(
            f"{notes.stops_added} of {len(rows)} rows got a token that ends the reply, because neither their text nor "
            "the chat template has one there.",
            stops_added=notes.stops_added,
        )
    if notes.endless:
        recorder.event(
            f"{notes.endless} of {len(rows)} rows teach no end of the reply: neither the tokenizer nor the model's "
            "settings name a token for it. The tuned model will not stop by itself.",
            level="warn",
            rows_without_end=notes.endless,
        )
