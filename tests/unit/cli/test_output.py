"""What is printed, where, and in which words."""

import io
import json

import pytest

from tunesmith.cli import output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_interactive_and_a_pipe_is_not() -> None:
    assert output.is_interactive(Terminal(), environment={})
    assert not output.is_interactive(io.StringIO(), environment={})


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"CI": "1"}, {"TERM": "dumb"}])
def test_a_terminal_of_a_pipeline_is_not_interactive(environment: dict[str, str]) -> None:
    assert not output.is_interactive(Terminal(), environment=environment)


def test_no_color_is_obeyed() -> None:
    assert output.has_color(Terminal(), environment={})
    assert not output.has_color(Terminal(), environment={"NO_COLOR": "1"})


def test_data_goes_to_stdout_and_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.data("ftjob-1")
    output.note("progress")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("ftjob-1\n", "progress\n")


def test_what_others_wrote_cannot_move_the_cursor_or_rename_the_window(capsys: pytest.CaptureFixture[str]) -> None:
    output.data("\033]0;title\a\033[2J\033[1A\rsucceeded\x9b5n")
    output.note(f"\ttab {output._RED}red{output._RESET}\n")
    printed = capsys.readouterr()
    assert not {"\033", "\a", "\r", "\x9b"} & set(printed.out)
    assert printed.err == f"\ttab {output._RED}red{output._RESET}\n\n"


def test_json_is_json_with_its_own_letters(capsys: pytest.CaptureFixture[str]) -> None:
    output.as_json({"name": "Übung"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": "Übung"}
    assert "Übung" in printed


def test_a_table_fits_the_terminal_and_nothing_of_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, why = Terminal(), "4 bits do not fit into what is free on this card"
    output.table(("ID", "STATE", "WHY"), [("ftjob-1", "failed", why), ("ftjob-2", "queued", "-")], stream=terminal)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(line[17:].strip() for line in lines[1:4]) == why
    assert lines[4].split() == ["ftjob-2", "queued", "-"]


def test_a_jobs_id_gives_way_first_and_to_what_still_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    columns, rows = ("ID", "STATE"), [("ftjob-01a226f0b75075d3a5408c492b5f28ee", "failed")]
    for width, shown in (("60", rows[0][0]), ("40", "2b5f28ee")):
        monkeypatch.setenv("COLUMNS", width)
        terminal = Terminal()
        output.table(columns, rows, stream=terminal)
        assert terminal.getvalue().splitlines()[1].split()[0] == shown


def test_a_text_goes_on_beside_its_head_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    text = "LoRA fits and full fine-tuning does not"
    assert output.beside("  memory  ", text, stream=Terminal()) == (
        "  memory  LoRA fits and full\n          fine-tuning does not"
    )
    assert output.beside("  memory  ", text, stream=io.StringIO()) == f"  memory  {text}"


def test_sizes_stay_whole_where_hashes_can_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    output.table(("NAME", "SIZE", "SHA256"), [("adapter_model.safetensors", "69.0 kB", "a" * 64)], stream=terminal)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert "69.0 kB" in lines[1]


def test_a_table_is_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("ID", "NAME"), [("a", "x" * 300), ("longer", None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ID      NAME", "a       " + "x" * 300, "longer  -"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.24, "8.2 s"), (42, "42 s"), (460, "7m 40s"), (59.7, "1m 00s"), (18_600, "5h 10m"), (275_000, "3d 4h")],
)
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (161_000_000, "161.0 MB"), (2e12, "2.0 TB")])
def test_a_size_has_a_decimal_unit(count: float, text: str) -> None:
    assert output.size(count) == text
