"""What `tunesmith plan --model ID` makes of the ids that people fine-tune, and whether the sizes are the published."""

from pathlib import Path

import pytest

from tunesmith.tuning.errors import InvalidRequest
from tunesmith.tuning.models.catalogue import find_model, find_shape
from tunesmith.tuning.models.packing import SEES_LATER_TOKENS
from tunesmith.tuning.models.refused_names import BRINGS_CODE, HAS_ENCODER

# Ids of the hub, each with the entry that it is planned as, or with the code of its refusal.
IDS = dict(line.split() for line in Path(__file__).with_name("everyday_ids.txt").read_text().splitlines())

# Parameters that the hub counts in the files of a repository, and how many of them are no part of what is planned.
PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": (2_208_985_600, 0),
    "Qwen/Qwen2-VL-7B-Instruct": (8_291_375_616, 0),
    "Qwen/Qwen2-VL-72B-Instruct": (73_405_560_320, 0),
    "Qwen/Qwen2.5-VL-3B-Instruct": (3_754_622_976, 0),
    "Qwen/Qwen2.5-VL-7B-Instruct": (8_292_166_656, 0),
    "Qwen/Qwen2.5-VL-32B-Instruct": (33_452_718_336, 0),
    "Qwen/Qwen2.5-VL-72B-Instruct": (73_410_777_344, 0),
    "Qwen/Qwen3-VL-2B-Instruct": (2_127_532_032, 0),
    "Qwen/Qwen3-VL-4B-Instruct": (4_437_815_808, 0),
    "Qwen/Qwen3-VL-8B-Instruct": (8_767_123_696, 0),
    "Qwen/Qwen3-VL-32B-Instruct": (33_357_390_064, 0),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": (31_070_754_032, 0),
    # What sees, which transformers leaves out of the causal model, and one more layer that guesses the token after next
    "Qwen/Qwen3.5-0.8B": (873_438_784, 100_592_896 + 20_452_864),
    "Qwen/Qwen3.5-2B": (2_274_069_824, 331_416_576 + 60_828_160),
    "Qwen/Qwen3.5-4B": (4_659_865_088, 333_514_240 + 120_599_552),
    "Qwen/Qwen3.5-9B": (9_653_104_368, 456_010_480 + 243_290_624),
    "Qwen/Qwen3.6-27B": (27_781_427_952, 460_730_096 + 424_699_392),
    "Qwen/Qwen3.6-35B-A3B": (35_951_822_704, 446_571_248 + 844_640_768),
    "Qwen/Qwen3-Coder-Next": (79_674_391_296, 0),
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": (480_154_875_392, 0),
    "meta-llama/Llama-3.2-11B-Vision-Instruct": (10_670_220_835, 895_028_755),
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": (108_641_793_536, 871_932_416),
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": (401_583_781_376, 871_932_416),
    "meta-llama/Llama-Guard-4-12B": (12_001_097_216, 871_932_416),
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": (24_011_361_280, 0),
    "mistralai/Ministral-3-3B-Instruct-2512": (3_849_090_048, 0),
    # Scales of matrices in 8 bits, two for each
    "mistralai/Ministral-3-8B-Instruct-2512": (8_918_026_716, 34 * 7 * 2),
    "mistralai/Ministral-3-14B-Instruct-2512": (13_945_032_240, 40 * 7 * 2),
    "mistralai/Devstral-Small-2-24B-Instruct-2512": (24_011_361_840, 40 * 7 * 2),
    # Keys and values of layers that use those of an earlier one, and one number for each layer
    "google/gemma-4-E2B-it": (5_123_178_051, 18_874_368 + 6_144 + 35),
    "google/gemma-4-E4B-it": (7_996_156_490, 55_050_240 + 5_376 + 42),
    "google/gemma-4-12B-it": (11_959_730_224, 48),
    "google/gemma-4-31B-it": (31_273_088_876, 60 + 2 * 1_152),
    "google/gemma-4-26B-A4B-it": (25_805_936_206, 30 + 2 * 1_152),
    "deepseek-ai/DeepSeek-V2": (235_741_434_880, 0),
    "deepseek-ai/DeepSeek-V2-Lite": (15_706_484_224, 0),
    # A number for each expert that balances them, no gradient reaches it
    "unsloth/DeepSeek-V3-bf16": (671_026_419_200, 58 * 256),
    "PrimeIntellect/INTELLECT-3": (106_852_251_264, 45 * 128),
    "zai-org/GLM-4.6": (356_785_898_816, 3_988_069_632 + 90 * 160),
    "MiniMaxAI/MiniMax-M2": (228_689_764_864, 62 * 256),
    "ibm-granite/granite-3.3-2b-instruct": (2_533_539_840, 0),
    "ibm-granite/granite-3.3-8b-instruct": (8_170_864_640, 0),
    "ibm-granite/granite-4.0-micro": (3_402_836_480, 0),
    "ibm-granite/granite-4.0-1b": (1_631_750_144, 0),
    "ibm-granite/granite-4.0-350m": (352_379_904, 0),
    "ibm-granite/granite-4.1-8b": (8_791_592_960, 0),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (31_577_937_344, 0),
    "NousResearch/Nous-Hermes-2-Mixtral-8x7B-DPO": (46_702_809_088, 0),
    "sarvamai/sarvam-1": (2_525_087_744, 0),
    "allenai/OLMoE-1B-7B-0924": (6_919_161_856, 0),
    "allenai/Olmo-3-1125-32B": (32_233_522_176, 0),
    "zai-org/glm-4-9b-chat-hf": (9_399_951_360, 0),
    "ByteDance-Seed/Seed-OSS-36B-Base": (36_151_104_512, 0),
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": (8_888_227_328, 0),
    "LiquidAI/LFM2-1.2B": (1_170_340_608, 0),
    "LiquidAI/LFM2-2.6B": (2_569_272_320, 0),
    "LiquidAI/LFM2-8B-A1B": (8_339_929_856, 0),
    "llava-hf/llava-1.5-7b-hf": (7_063_427_072, 0),
    "swiss-ai/Apertus-8B-2509": (8_053_338_176, 0),
    "sarvamai/sarvam-m": (23_572_403_200, 0),
}


def answer_to(hub_id: str) -> str:
    try:
        return find_model(hub_id).name
    except InvalidRequest as refusal:
        return str(refusal.code)


def test_nineteen_of_twenty_everyday_ids_that_are_not_refused_for_a_reason_get_a_plan() -> None:
    refused = {"model_not_trainable", "model_not_supported"}
    trainable = [hub_id for hub_id, answer in IDS.items() if answer not in refused]
    assert len(IDS) >= 650
    assert sum(IDS[hub_id] != "unknown_model" for hub_id in trainable) / len(trainable) > 0.95


def test_every_everyday_id_is_planned_as_what_it_is_or_refused_for_the_right_reason() -> None:
    assert {hub_id: answer_to(hub_id) for hub_id in IDS} == IDS


@pytest.mark.parametrize("hub_id", PUBLISHED)
def test_a_plan_goes_by_exactly_the_parameters_that_are_published(hub_id: str) -> None:
    shape, (published, not_planned) = find_shape(hub_id), PUBLISHED[hub_id]
    assert shape.parameters + shape.outside_parameters + not_planned == published


@pytest.mark.parametrize(
    ("hub_id", "problem"),
    [
        ("google-bert/bert-base-uncased", SEES_LATER_TOKENS),
        ("BAAI/bge-m3", SEES_LATER_TOKENS),
        ("google/flan-t5-xl", HAS_ENCODER),
        ("THUDM/chatglm3-6b", BRINGS_CODE),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", BRINGS_CODE),
    ],
)
def test_what_cannot_be_trained_here_is_refused_with_its_reason(hub_id: str, problem: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        find_model(hub_id)
    assert caught.value.message.endswith(problem)
    assert caught.value.code == "model_not_supported"


@pytest.mark.parametrize(
    ("hub_id", "words"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", ("text part is trained",)),
        ("unsloth/Qwen2.5-VL-7B-Instruct-bnb-4bit", ("4-bit weights", "text part is trained")),
        ("mistralai/Ministral-3-8B-Instruct-2512", ("8-bit floating-point", "text part is trained")),
        ("deepseek-ai/DeepSeek-V3", ("8-bit floating-point",)),
    ],
)
def test_a_plan_says_what_a_person_should_know_of_the_weights(hub_id: str, words: tuple[str, ...]) -> None:
    note = find_model(hub_id).note or ""
    assert all(word in note for word in words), note


def test_a_copy_in_16_bits_needs_no_word_on_the_weights_that_its_owner_publishes() -> None:
    assert find_model("unsloth/DeepSeek-V3-bf16").note is None
