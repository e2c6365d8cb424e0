"""Where our loss mask differs from that of a marked twin on purpose, and why."""

from benchmarks.templates.compare import Comparison

LINE_BREAK = "the line break behind the token that ends a turn: the model has stopped by then"
PROMPT = "what the prompt for a reply already holds: the model never writes it"
TOOL_RESPONSE = "a token by which the family's settings stop: the model writes it to call a tool"
AFTER_TOOL = "the end of a turn in which a tool had the last word: the model wrote nothing there"
FIRST_BYTES = "transformers' mask leaves out bytes of an emoji that several tokens share"

# (template begins with, stretch): why we do not train on it though the twin would.
_LESS = {
    ("deepseek", "<｜Assistant｜>"): PROMPT,
    ("deepseek", "<｜tool▁outputs▁end｜>"): PROMPT,
    ("gptoss", "<|start|>assistant"): PROMPT,
    ("muse_glimmer", "<|start|>assistant"): PROMPT,
    ("diffusion_gemma", "<turn|>\n"): AFTER_TOOL,
}
# The same for what we train on and the twin would not.
_MORE = {
    ("diffusion_gemma", "<|tool_response>"): TOOL_RESPONSE,
}


def explain(template: str, comparison: Comparison) -> set[str] | None:
    """The reasons for all differences of a comparison, none for an exact one; None when one of them has no reason."""
    reasons = set()
    for known, stretches in ((_LESS, comparison.less), (_MORE, comparison.more)):
        for stretch in stretches:
            reason = _reason(template, stretch, known)
            if reason is None:
                return None
            reasons.add(reason)
    return reasons


def _reason(template: str, stretch: str, known: dict[tuple[str, str], str]) -> str | None:
    if known is _LESS and not stretch.strip():
        return LINE_BREAK
    if known is _MORE and set(stretch) == {"\ufffd"}:
        return FIRST_BYTES
    return next((why for (begin, text), why in known.items() if template.startswith(begin) and stretch == text), None)
