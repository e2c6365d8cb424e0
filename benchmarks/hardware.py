"""`python -m benchmarks.hardware [--page FILE]`: the table of known GPUs for docs/."""

import argparse
from pathlib import Path

from benchmarks.pages import page, paragraph, table
from tunesmith.tuning.hardware_facts.gpu_table import KNOWN_GPUS, KnownGpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hardware", description=__doc__)
    parser.add_argument("--page", type=Path, help="write the page of docs/ here")
    options = parser.parse_args()
    print(f"{len(KNOWN_GPUS)} GPUs, the visible memory of {sum(gpu.seen for gpu in KNOWN_GPUS)} seen")
    if options.page:
        options.page.write_text(hardware_page(), encoding="utf-8")


def hardware_page() -> str:
    """The whole page."""
    memory = ("name", "box, GB", "visible, GiB", "basis")
    header = (*memory, "TFLOP/s", "reached", "GB/s", "compute", "link, GB/s", "in one machine")
    return page(
        "Known GPUs",
        paragraph(
            f"""Written by `make hardware` from `tuning/hardware_facts/gpu_table.py`: {len(KNOWN_GPUS)} cards
            that the planner knows by name; any other is priced by what its worker measures, or
            cautiously. Nothing here was measured by this project."""
        ),
        paragraph(
            """"Visible" is what PyTorch sees and what `--on` offers: "seen" is among the least of the figures that
            out-of-memory messages in public repositories give for the card or one with the same box, "derived" the
            box's figure less the share that its siblings lack. Rates are dense, bf16 (fp16 before Ampere) with fp32
            accumulation, from the data sheets, quoted from memory; "cores x clock" is computed: GeForce twice,
            workstation cards four times the fp32 rate. Laptops count with the highest power that a maker may allow."""
        ),
        paragraph(
            """"Reached" is for cards whose power allows less than the data sheet says: the median of what public
            measurements of square products of 4,096 and more give (torch-performance-test-data 0785868 and
            its issues 52, 120 and 140; device-benchmarks 02b8262; a thread of NVIDIA's developer forum,
            by which a T4 falls to 24 in products without a pause). Plans count with at most 0.9 of it. Cards
            that nobody is known to have measured count with their data sheet."""
        ),
        paragraph(
            """A MIG slice computes as its number of sevenths of the whole (an A30's quarters) and has its memory's part
            of the bandwidth; slices are never joined. More GPUs than a machine holds are several machines, and a run
            stays within one."""
        ),
        table((*header, "source of the rates"), map(_row, KNOWN_GPUS)),
    )


def _row(gpu: KnownGpu) -> tuple[object, ...]:
    return (
        gpu.name,
        gpu.box_gb,
        f"{gpu.memory_gib:g}",
        "seen" if gpu.seen else "derived",
        f"{gpu.matmul_tflops:g}",
        f"{gpu.reached_tflops:g}" if gpu.reached_tflops < gpu.matmul_tflops else "",
        f"{gpu.bandwidth_gb_per_second:g}",
        ".".join(map(str, gpu.compute_capability)),
        f"{gpu.link_gb_per_second:g}",
        gpu.most_in_a_machine,
        gpu.sheet,
    )


if __name__ == "__main__":
    main()
