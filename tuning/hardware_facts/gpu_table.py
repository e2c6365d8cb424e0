"""What known GPUs hold and how fast they are, with the source of each line.

Rates are dense, without sparsity: bf16 with fp32 accumulation, fp16 where bf16 is missing. Data sheets are quoted from
memory; what is computed from cores and clock says so. GeForce cards run 16-bit products with fp32 accumulation at half
the rate of the workstation cards of the same chip, which is twice their fp32 rate. Of laptops the rate is that of the
highest power a maker may allow; most allow less.

`reached_tflops` is what large products run at: the data sheet's rate, but for cards whose power allows less the median
of what public measurements of square products of 4,096 and more give (docs/hardware.md names them).

`memory_gib` is what PyTorch sees and what-if questions offer, below the figure on the box: the driver keeps a part.
Where `seen`, it is among the least of the figures that out-of-memory messages of PyTorch in public repositories give
("GPU 0 has a total capacity of ..."), for the card or for one with the same size on the box; else the box's figure less
the share that its siblings lack.
"""

from typing import Literal, NamedTuple

Sheet = Literal[
    "GA102 whitepaper", "AD102 whitepaper", "GB202 whitepaper", "TU102 whitepaper", "V100 data sheet",
    "A100 data sheet", "H100 data sheet", "H200 data sheet", "B200 data sheet", "GH200 data sheet", "product page",
    "export variant, product page", "cores x clock",
]  # fmt: skip
PCIE_3, PCIE_4, PCIE_5 = 6.0, 12.0, 25.0  # GB/s through the host, in one direction, as collectives reach it


class KnownGpu(NamedTuple):
    """One line of a data sheet."""

    name: str
    memory_gib: float
    matmul_tflops: float
    reached_tflops: float
    bandwidth_gb_per_second: float
    compute_capability: tuple[int, int]
    link_gb_per_second: float  # to a neighbour in one direction: NVLink where there is one, else PCI Express
    box_gb: int = 0  # as it is sold
    seen: bool = False
    sheet: Sheet = "product page"
    most_in_a_machine: int = 8

    @property
    def nvlink(self) -> bool:
        """Whether neighbours are joined by NVLink."""
        return self.link_gb_per_second > 60


AMPERE, ADA, TURING, VOLTA, HOPPER = (8, 6), (8, 9), (7, 5), (7, 0), (9, 0)
GA100, BLACKWELL, CONSUMER_BLACKWELL = (8, 0), (10, 0), (12, 0)


def _card(  # noqa: PLR0917 - columns of a table
    name: str,
    box_gb: int,
    memory_gib: float,
    tflops: float,
    bandwidth: float,
    capability: tuple[int, int],
    *,
    sheet: Sheet,
    link: float = PCIE_4,
    seen: bool = False,
    most: int = 8,
    reached: float | None = None,
) -> KnownGpu:
    least = tflops if reached is None else reached
    return KnownGpu(name, memory_gib, tflops, least, bandwidth, capability, link, box_gb, seen, sheet, most)


_GEFORCE = (
    _card("RTX 2060", 6, 5.78, 25.8, 336, TURING, sheet="cores x clock", link=PCIE_3),
    _card("RTX 2070", 8, 7.78, 29.9, 448, TURING, sheet="cores x clock", link=PCIE_3),
    _card("RTX 2080", 8, 7.78, 40.3, 448, TURING, sheet="cores x clock", link=PCIE_3),
    _card("RTX 2080 Ti", 11, 10.75, 53.8, 616, TURING, sheet="TU102 whitepaper", link=PCIE_3),
    _card("Titan RTX", 24, 23.6, 130.5, 672, TURING, sheet="TU102 whitepaper", link=PCIE_3),
    _card("RTX 3060", 12, 11.6, 25.6, 360, AMPERE, sheet="GA102 whitepaper", seen=True),
    _card("RTX 3060 Ti", 8, 7.65, 32.4, 448, AMPERE, sheet="cores x clock"),
    _card("RTX 3070", 8, 7.65, 40.6, 448, AMPERE, sheet="GA102 whitepaper"),
    _card("RTX 3070 Ti", 8, 7.65, 43.5, 608, AMPERE, sheet="cores x clock"),
    _card("RTX 3080", 10, 9.77, 59.5, 760, AMPERE, sheet="GA102 whitepaper", seen=True),
    _card("RTX 3080 12GB", 12, 11.6, 61.3, 912, AMPERE, sheet="cores x clock"),
    _card("RTX 3080 Ti", 12, 11.6, 68.2, 912, AMPERE, sheet="cores x clock"),
    _card("RTX 3090", 24, 23.68, 71, 936, AMPERE, sheet="GA102 whitepaper", seen=True),
    _card("RTX 3090 Ti", 24, 23.68, 80, 1008, AMPERE, sheet="cores x clock"),
    _card("RTX 4060", 8, 7.62, 30.2, 272, ADA, sheet="cores x clock", seen=True),
    _card("RTX 4060 Ti 8GB", 8, 7.62, 44.1, 288, ADA, sheet="cores x clock"),
    _card("RTX 4060 Ti 16GB", 16, 15.6, 44.1, 288, ADA, sheet="cores x clock"),
    _card("RTX 4070", 12, 11.6, 58.3, 504, ADA, sheet="cores x clock"),
    _card("RTX 4070 Super", 12, 11.6, 71, 504, ADA, sheet="cores x clock"),
    _card("RTX 4070 Ti", 12, 11.6, 80.2, 504, ADA, sheet="cores x clock"),
    _card("RTX 4070 Ti Super", 16, 15.6, 88.2, 672, ADA, sheet="cores x clock"),
    _card("RTX 4080", 16, 15.7, 97.5, 717, ADA, sheet="AD102 whitepaper", seen=True),
    _card("RTX 4080 Super", 16, 15.6, 104.4, 736, ADA, sheet="cores x clock"),
    _card("RTX 4090", 24, 23.64, 165, 1008, ADA, sheet="AD102 whitepaper", seen=True),
    _card("RTX 5060", 8, 7.5, 38.4, 448, CONSUMER_BLACKWELL, sheet="cores x clock", link=PCIE_5),
    _card("RTX 5060 Ti 8GB", 8, 7.5, 47.4, 448, CONSUMER_BLACKWELL, sheet="cores x clock", link=PCIE_5),
    _card("RTX 5060 Ti 16GB", 16, 15.5, 47.4, 448, CONSUMER_BLACKWELL, sheet="cores x clock", link=PCIE_5),
    _card("RTX 5070", 12, 11.5, 61.7, 672, CONSUMER_BLACKWELL, sheet="GB202 whitepaper", link=PCIE_5),
    _card("RTX 5070 Ti", 16, 15.5, 87.9, 896, CONSUMER_BLACKWELL, sheet="GB202 whitepaper", link=PCIE_5),
    _card("RTX 5080", 16, 15.5, 112.6, 960, CONSUMER_BLACKWELL, sheet="GB202 whitepaper", link=PCIE_5),
    _card("RTX 5090", 32, 31.34, 209, 1792, CONSUMER_BLACKWELL, sheet="GB202 whitepaper", link=PCIE_5, seen=True),
)
_LAPTOPS = (
    _card("RTX 3060 Laptop", 6, 5.8, 26, 336, AMPERE, sheet="cores x clock", seen=True, most=1),
    _card("RTX 3070 Laptop", 8, 7.65, 33, 448, AMPERE, sheet="cores x clock", most=1),
    _card("RTX 3080 Laptop", 16, 15.6, 42, 448, AMPERE, sheet="cores x clock", most=1),
    _card("RTX 4050 Laptop", 6, 5.7, 24, 192, ADA, sheet="cores x clock", most=1),
    _card("RTX 4060 Laptop", 8, 7.62, 29, 256, ADA, sheet="cores x clock", most=1),
    _card("RTX 4070 Laptop", 8, 7.62, 40, 256, ADA, sheet="cores x clock", most=1),
    _card("RTX 4080 Laptop", 12, 11.6, 67, 432, ADA, sheet="cores x clock", most=1),
    _card("RTX 4090 Laptop", 16, 15.6, 79, 576, ADA, sheet="cores x clock", most=1),
    _card("RTX 5070 Laptop", 8, 7.5, 50, 384, CONSUMER_BLACKWELL, sheet="cores x clock", most=1),
    _card("RTX 5070 Ti Laptop", 12, 11.5, 62, 672, CONSUMER_BLACKWELL, sheet="cores x clock", most=1),
    _card("RTX 5080 Laptop", 16, 15.5, 83, 896, CONSUMER_BLACKWELL, sheet="cores x clock", most=1),
    _card("RTX 5090 Laptop", 24, 23.4, 91, 896, CONSUMER_BLACKWELL, sheet="cores x clock", most=1),
)
_WORKSTATION = (
    _card("Quadro RTX 6000", 24, 23.6, 130.5, 672, TURING, sheet="TU102 whitepaper", link=PCIE_3),
    _card("Quadro RTX 8000", 48, 47.4, 130.5, 672, TURING, sheet="TU102 whitepaper", link=PCIE_3),
    _card("RTX A2000", 12, 11.6, 32, 288, AMPERE, sheet="cores x clock"),
    _card("RTX A4000", 16, 15.61, 76.7, 448, AMPERE, sheet="cores x clock", seen=True),
    _card("RTX A4500", 20, 19.5, 94.6, 640, AMPERE, sheet="cores x clock"),
    _card("RTX A5000", 24, 23.6, 111.1, 768, AMPERE, sheet="cores x clock"),
    _card("RTX A5500", 24, 23.6, 136.4, 768, AMPERE, sheet="cores x clock"),
    _card("RTX A6000", 48, 47.4, 155, 768, AMPERE, sheet="GA102 whitepaper", seen=True, reached=123),
    _card("RTX 4000 Ada", 20, 19.5, 106.9, 360, ADA, sheet="cores x clock"),
    _card("RTX 4500 Ada", 24, 23.5, 158.5, 432, ADA, sheet="cores x clock"),
    _card("RTX 5000 Ada", 32, 31.5, 261, 576, ADA, sheet="cores x clock"),
    _card("RTX 6000 Ada", 48, 47.4, 364, 960, ADA, sheet="AD102 whitepaper", seen=True),
    _card("RTX PRO 6000", 96, 94.97, 503.8, 1792, CONSUMER_BLACKWELL, sheet="GB202 whitepaper", link=PCIE_5, seen=True),
)
_DATA_CENTRE = (
    _card("T4", 16, 14.56, 65, 320, TURING, sheet="TU102 whitepaper", link=PCIE_3, seen=True, reached=42),
    _card("V100 16GB", 16, 15.75, 125, 900, VOLTA, sheet="V100 data sheet", link=120, seen=True, most=16, reached=92),
    _card("V100 32GB", 32, 31.73, 125, 900, VOLTA, sheet="V100 data sheet", link=120, seen=True, most=16, reached=92),
    _card("V100 PCIe 16GB", 16, 15.75, 112, 900, VOLTA, sheet="V100 data sheet", link=PCIE_3, reached=84),
    _card("V100 PCIe 32GB", 32, 31.73, 112, 900, VOLTA, sheet="V100 data sheet", link=PCIE_3, reached=84),
    _card("A2", 16, 14.6, 18, 200, AMPERE, sheet="product page"),
    _card("A10", 24, 22.03, 125, 600, AMPERE, sheet="product page", seen=True, reached=55),
    _card("A10G", 24, 22.03, 70, 600, AMPERE, sheet="product page", seen=True),
    _card("A16", 16, 14.6, 18, 200, AMPERE, sheet="product page"),
    _card("A30", 24, 23.5, 165, 933, GA100, sheet="product page", seen=True),
    _card("A40", 48, 44.35, 150, 696, AMPERE, sheet="product page", reached=122),
    _card("A100 40GB", 40, 39.38, 312, 1555, GA100, sheet="A100 data sheet", link=250, seen=True, most=16),
    _card("A100 80GB", 80, 79.15, 312, 2039, GA100, sheet="A100 data sheet", link=250, seen=True, most=16),
    _card("A100 PCIe 40GB", 40, 39.38, 312, 1555, GA100, sheet="A100 data sheet"),
    _card("A100 PCIe 80GB", 80, 79.15, 312, 1935, GA100, sheet="A100 data sheet"),
    _card("A800 80GB", 80, 79.15, 312, 2039, GA100, sheet="export variant, product page", link=165),
    _card("L4", 24, 22.03, 121, 300, ADA, sheet="product page", seen=True, reached=57),
    _card("L20", 48, 44.4, 119.5, 864, ADA, sheet="export variant, product page"),
    _card("L40", 48, 44.4, 181, 864, ADA, sheet="product page", seen=True),
    _card("L40S", 48, 44.4, 362, 864, ADA, sheet="product page", seen=True),
    _card("H20", 96, 95.0, 148, 4000, HOPPER, sheet="export variant, product page", link=370, seen=True),
    _card("H100 PCIe", 80, 79.1, 756, 2000, HOPPER, sheet="H100 data sheet", link=PCIE_5),
    _card("H100 NVL", 94, 93.1, 835, 3938, HOPPER, sheet="H100 data sheet", link=PCIE_5),
    _card("H100", 80, 79.1, 989, 3350, HOPPER, sheet="H100 data sheet", link=370, seen=True),
    _card("H800", 80, 79.1, 989, 3350, HOPPER, sheet="export variant, product page", link=165),
    _card("H200", 141, 139.72, 989, 4800, HOPPER, sheet="H200 data sheet", link=370, seen=True),
    _card("H200 NVL", 141, 139.72, 835, 4800, HOPPER, sheet="H200 data sheet", link=PCIE_5),
    _card("GH200 96GB", 96, 94.5, 989, 4000, HOPPER, sheet="GH200 data sheet", link=370, seen=True, most=1),
    _card("GH200 144GB", 144, 140.0, 989, 4900, HOPPER, sheet="GH200 data sheet", link=370, most=1),
    _card("B200", 180, 178.35, 2250, 8000, BLACKWELL, sheet="B200 data sheet", link=740, seen=True),
    _card("GB200", 186, 184.0, 2500, 8000, BLACKWELL, sheet="B200 data sheet", link=740, most=4),
    _card("B300", 288, 267.0, 2250, 8000, (10, 3), sheet="product page", link=740),
)
KNOWN_GPUS: tuple[KnownGpu, ...] = (*_GEFORCE, *_LAPTOPS, *_WORKSTATION, *_DATA_CENTRE)
UNKNOWN_GPU = KnownGpu("unknown GPU", 0, 60, 60, 500, (8, 0), PCIE_4)
LEAST_GB_PER_TFLOP = 3.0  # of a card in no table, whose bandwidth nobody has measured: among the lowest of the table
